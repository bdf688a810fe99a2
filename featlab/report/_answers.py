"""The claims on the checks of the set, on detectors and on their maps: where the object is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from markupsafe import Markup

from featlab.arguments import confirmed_detectors, selected_detectors, with_unseen_limits
from featlab.report import _words as words
from featlab.report._words import Claim, claim, points, standing
from featlab.results.analysis import Results
from featlab.results.images import Audit
from featlab.results.localisation import BY_STUDENT, WITHOUT_BOXES, Localisation

_BY_DETECTORS = ("detectors", "best_detector", "signed_detectors", "contrast")
_VERDICTS = {
    "ahead": "Yes, better than the best baseline",
    "behind": "No, worse than the best baseline",
    "not shown": "Not shown to be better than the best baseline",
    "unknown": "Not compared with a baseline",
}

# Verdict → what stands in the strip: a sign that needs no colour, and a word.
_SIGNS = {"fail": "✕", "warn": "!", "pass": "✓", "not done": "–"}
_WORST_FIRST = tuple(_SIGNS)
_VERBS = (("fails", "fail"), ("warns", "warn"), ("passes", "pass"), ("not done", "not done"))


@dataclass(frozen=True)
class Check:
    """A check of the audit, as the strip shows it."""

    name: str
    verdict: str
    sign: str
    finding: str


def checks(audit: Audit) -> list[Check]:
    """The checks of the audit, the worst verdict first."""
    table = audit.summary[["check", "verdict", "finding"]].astype(str)
    every = [
        Check(words.readable(name), verdict, _SIGNS.get(verdict, "–"), finding)
        for name, verdict, finding in table.itertuples(index=False)
    ]
    return sorted(every, key=lambda check: _WORST_FIRST.index(check.verdict))


@claim("checks of the set")
def verdict(results: Results) -> str:
    """How many checks fail, warn and pass, in one sentence."""
    every = [] if results.audit is None else checks(results.audit)
    if not every:
        return ""
    counts = {word: sum(check.verdict == word for check in every) for word in _WORST_FIRST}
    said = [
        f"{count} {one if count == 1 else many}"
        for (one, many), count in zip(_VERBS, counts.values(), strict=True)
        if count
    ]
    return f"{words.plural(len(every), 'check')} of the set: {', '.join(said)}."


# ------------------------------------------------------------------------------ which neurons tell


@claim("detectors")
def detectors_answer(results: Results) -> Markup:
    """Which neurons detect the classes."""
    every = with_unseen_limits(results.neurons)
    confirmed = confirmed_detectors(every)
    total = every[["layer", "neuron"]].drop_duplicates().shape[0]
    if confirmed.empty:
        return _none_is_active(every)
    neurons = confirmed[["layer", "neuron"]].drop_duplicates().shape[0]
    leaders = [
        Markup("neuron {} for {} ({})").format(
            row["neuron"], words.name(row["class"]), words.scored(row, "auroc_confirmed")
        )
        for _, row in confirmed.drop_duplicates("class").nlargest(3, "auroc").iterrows()
    ]
    without = [c for c in results.store.classes if c not in set(confirmed["class"])]
    return Markup(
        "{} of {} active for a class, and confirmed as such on images that they were not chosen "
        "on{}. The first chosen, and {} AUROC there: {}{}."
    ).format(
        f"{neurons:,}",
        words.plural(total, "neuron is", "neurons are"),
        Markup("; none is for {}").format(words.listed(without)) if without else "",
        "their" if len(leaders) > 1 else "its",
        Markup(", ").join(leaders),
        _flattery(every, "active"),
    )


def _none_is_active(every: pd.DataFrame) -> Markup:
    """What is left to say where no active detector was confirmed."""
    silent = confirmed_detectors(every, silent=True)
    if len(silent):
        lead = silent.iloc[int((silent["auroc"] - 0.5).abs().argmax())]
        return Markup(
            "No neuron is shown to by being active; {} by being silent. The clearest when chosen, "
            "and its AUROC on other images: neuron {} for {} ({}){}."
        ).format(
            words.plural(len(silent.drop_duplicates(["layer", "neuron"])),
                         "neuron is confirmed to", "neurons are confirmed to"), lead["neuron"],
            words.name(lead["class"]), words.scored(lead, "auroc_confirmed"),
            _flattery(every, "silent"),
        )  # fmt: skip
    selected = selected_detectors(every, silent=True)
    if selected.empty:
        return Markup("No neuron is shown to: none was selected on the train images.")
    known, active = selected["auroc_confirmed"], selected["direction"].eq("active")
    faultless = int((selected["p_confirmed"].notna() & known.eq(active.astype(float))).sum())
    # Too few groups leave nothing to test by: that none held would say more than is known.
    outcome = "could be tested on other images"
    if faultless:
        outcome = (
            f"could be confirmed on other images, though {faultless:,} of them made no error "
            "there: too few images to be sure of any of so many"
        )
    elif selected["p_confirmed"].notna().any():
        outcome = "held on other images"
    pairs = words.plural(len(selected), "pair of class and neuron", "pairs of class and neuron")
    text = f"No neuron is shown to: of {pairs} selected on the train images, none {outcome}."
    return Markup(text)


def _flattery(every: pd.DataFrame, direction: str) -> str:
    """That AUROCs of confirmed detectors are flattered, beside what is not; none if all held."""
    selected = selected_detectors(every, silent=True)
    selected = selected[selected["direction"].eq(direction)]
    values = selected["auroc_confirmed"].dropna()
    if selected["confirmed"].eq(True).all():
        return ""
    return (
        f"; being confirmed flatters these, the median of all {len(values):,} selected is "
        f"{words.score(values.median())}"
    )


@claim("detector counts")
def counts(results: Results) -> str:
    """How many active detectors were selected, and how many of them held."""
    selected = selected_detectors(results.neurons)
    held = int(selected["confirmed"].eq(True).sum())
    return (
        f"{words.plural(len(selected), 'pair', 'pairs')} of class and active neuron selected, "
        f"{held:,} confirmed."
    )


@claim("what confirming flatters")
def flattered(results: Results) -> str:
    """That those which were confirmed are the better ones by luck, too."""
    selected = selected_detectors(results.neurons)
    held = selected["confirmed"].eq(True)
    every, kept = selected["auroc_confirmed"], selected.loc[held, "auroc_confirmed"]
    if held.all() or not kept.notna().any() or kept.median() <= every.median():
        return ""
    return (
        "On those images the median AUROC of the confirmed is "
        f"{words.score(kept.median())}, which being chosen by it flatters; of all selected it is "
        f"{words.score(every.median())}."
    )


@claim("shuffled labels")
def shuffled(results: Results) -> str:
    """What the procedure finds where there is nothing."""
    nulls = None if results.detector_details is None else results.detector_details.nulls
    if nulls is None or not len(nulls):
        return ""
    largest = int(nulls["confirmed"].max())
    most = f"at most {words.plural(largest, 'pair')}" if largest else "no pair"
    sets = words.plural(len(nulls), "set")
    return f"On {sets} of shuffled labels the same procedure confirmed {most} of class and neuron."


@claim("detector clusters")
def clustered(results: Results) -> str:
    """Which detectors say the same."""
    details = results.detector_details
    if details is None or details.clusters is None or len(details.clusters) < 2:
        return ""
    clusters = details.clusters
    n = int(clusters.groupby("class")["cluster"].nunique().sum())
    alike = (
        "rise and fall alike within classes (rank correlation over the confirm images of all "
        f"classes, each class's mean rank taken out, of {details.cluster_correlation:g} on average)"
    )
    if n == len(clusters):
        return f"No two of the {n:,} confirmed detectors {alike}."
    return (
        f"Put together where they {alike}, the {len(clusters):,} confirmed detectors form "
        f"{words.plural(n, 'cluster')}."
    )


@claim("omnibus")
def differing(results: Results) -> str:
    """How many neurons differ between any classes."""
    omnibus = None if results.detector_details is None else results.detector_details.omnibus
    if omnibus is None or not omnibus["p"].notna().any():
        return ""
    untested = int(omnibus["p"].isna().sum())
    more = f"; {untested:,} more could not be, too few images differing in them" if untested else ""
    return (
        f"Whichever the class, {int(omnibus['reject'].eq(True).sum()):,} of "
        f"{words.plural(int(omnibus['p'].notna().sum()), 'neuron')} tested "
        f"differ between the classes on the confirm images (Kruskal-Wallis, corrected{more})."
    )


@claim("detectors needed")
def needed(results: Results) -> str:
    """Whether the head needs its detectors."""
    ablation = None if results.detector_details is None else results.detector_details.ablation
    if ablation is None or ablation.empty:
        return ""
    last = ablation[ablation["mode"] == "ablate"]
    last = last[last["k"] == last["k"].max()].set_index("kind")
    accuracy: Any = last["accuracy"]
    return (
        f"Without {words.plural(int(last['k'].iloc[0]), 'detector')}, the best of each class, the "
        "logistic head gets "
        f"{words.percent(accuracy['detectors'])} of the test images right, without as many "
        f"random neurons of like variance {words.percent(accuracy['random'])}."
    )


@claim("fewest detectors")
def fewest(results: Results) -> str:
    """How few are within one standard error of the best, and what that costs on test images."""
    few = None if results.detector_details is None else results.detector_details.smallest
    if few is None or not math.isfinite(few.accuracy):
        return ""
    most, k = int(few.curve["k"].max()), len(few.neurons)
    scores = pd.Series({"a": few.accuracy, "a_low": few.accuracy_low, "a_high": few.accuracy_high})
    text = (
        f"A logistic regression on {words.plural(k, 'detector')}, the fewest within one standard "
        "error of the best number on folds of train, gets "
        f"{words.share(scores, 'a')} of {words.plural(few.n, 'test image')} right"
    )
    more = f"; on {most:,}, the most tried, {words.percent(few.accuracy_all)}"
    return f"{text}{more if k < most else ''}."


@claim("best pooling")
def best_pooling(results: Results) -> str:
    """Which layer and pooling tell the classes best, by what was confirmed."""
    if results.detector_details is None:
        return ""
    poolings = results.detector_details.poolings
    counts = poolings["confirmed"].astype(int)
    if counts.min() == counts.max():
        return ""
    most, fewest = (
        " and ".join(f"{r['pooling']} pooling of layer {r['layer']}" for _, r in rows.iterrows())
        for rows in (poolings[counts == counts.max()], poolings[counts == counts.min()])
    )
    return (
        f"Most detectors were confirmed with {most}: {counts.max():,}; fewest with {fewest}: "
        f"{counts.min():,}."
    )


@claim("what selecting flatters")
def loss(results: Results) -> str:
    """By how much the AUROC of the selected falls on images that they were not chosen on."""
    selected = selected_detectors(results.neurons)
    gaps = (selected["auroc"] - selected["auroc_confirmed"]).dropna()
    if gaps.empty:
        return ""
    loss = float(gaps.median())
    kind = "loss" if loss >= 0 else "gain"
    return f"Median {kind} of the {len(gaps):,} selected {words.score(abs(loss), 3)} AUROC."


# ----------------------------------------------------------------------------- where the object is


def scored(results: Results) -> Localisation | None:
    """The scores of the heat maps; None where no image could be scored."""
    scores = results.localisation
    return None if scores is None or scores.table.empty else scores


@claim("where the object is")
def maps_answer(results: Results) -> Claim:
    """Whether the detectors' maps find the object, and what else does."""
    scores = scored(results)
    if scores is None:
        return Claim("No test image has a box that the maps could be held against.", "Not measured")
    rows = scores.table[scores.table["method"].isin(_BY_DETECTORS)]
    own, rival = rows[rows["box_accuracy"].notna()], scores.best(baseline=True)
    standings = [standing(pair) for pair in _against(results, own, rival).values()]
    # All methods are one corrected family: any of them that is ahead answers the question.
    outcome = next(
        (word for word in ("ahead", "not shown", "behind") if word in standings), "unknown"
    )
    sentences = [_box_shares(scores, rival), _others(results, scores)]
    verdict = "No confirmed detector has a map to ask" if own.empty else _VERDICTS[outcome]
    return Claim(" ".join(filter(None, sentences)), verdict, outcome == "ahead")


@claim("how far from the baseline")
def maps_gaps(results: Results) -> str:
    """By how much the detectors' maps beat the best baseline, and how many fire on the object."""
    if (scores := scored(results)) is None:
        return ""
    own = scores.table[scores.table["method"].isin(_BY_DETECTORS)]
    pairs = _against(results, own[own["box_accuracy"].notna()], scores.best(baseline=True))
    gaps = "; ".join(
        f"“{words.method(method)}” lies at {points(pair)}" for method, pair in pairs.items()
    )
    first = f"Image by image {gaps} against the best baseline." if gaps else ""
    return " ".join(filter(None, [first, _firing(results)]))


def _box_shares(scores: Localisation, rival: pd.Series | None) -> str:
    """How often the detectors' maps find the box, and the best baseline."""
    rows: Any = scores.table.set_index("method")
    n = words.plural(int(scores.table["n"].max()), "test image")
    parts = [
        f"by {who} in {words.share(rows.loc[name], 'box_accuracy')}"
        for name, who in (
            ("detectors", "the detectors combined"),
            ("best_detector", "the best of each class alone"),
        )
        if name in rows.index and math.isfinite(rows.loc[name, "box_accuracy"])
    ]
    if rival is not None:
        share = words.share(rival, "box_accuracy")
        parts.append(f"by the best baseline, “{words.method(rival['method'])}”, in {share}")
    return f"Of {n} the box (IoU ≥ 0.5) is found {'; '.join(parts)}." if parts else ""


def _firing(results: Results) -> str:
    """How many of the confirmed detectors fire on the object, each by its own map."""
    units = results.units
    if units is None or units.empty:
        return ""
    graded = [words.fires(row) for _, row in units.iterrows()]
    clearly, weakly = graded.count("yes"), graded.count("weakly")
    return (
        f"Of {words.judged(results.neurons, units)} judged alone {clearly} fire on "
        f"{words.target(results.box_kind)} clearly, {weakly} weakly."
    )


def _others(results: Results, scores: Localisation) -> str:
    """What else finds the object: with and without boxes to learn from, and by regression."""
    ours = scores.table["method"].isin(_BY_DETECTORS)
    rest = replace(scores, table=scores.table[~ours])
    heads = None if results.box_details is None else results.box_details.heads
    regressed = heads is not None and not heads["baseline"].astype(bool).all()
    kinds = [(WITHOUT_BOXES, "without boxes to learn from"), (("boxes",), "taught with boxes")]
    parts = []
    for supervision, how in kinds[: 1 if regressed else 2]:
        row = rest.best(supervision=supervision)
        if row is not None:
            if math.isfinite(row.get("box_accuracy_confirm", math.nan)):
                how += ", the best on confirm images"
            share = words.share(row, "box_accuracy")
            parts.append(f"“{words.method(row['method'])}”, {how}, finds it in {share}")
    if heads is not None and regressed:
        # The first by the order in which they are asked for, not by these scores.
        row = heads[~heads["baseline"].astype(bool)].iloc[0]
        share = words.share(row, "box_accuracy")
        n = words.plural(int(row["n"]), "image")
        parts.append(
            f"regression taught with boxes, “{words.box_head(row['head'])}”, in {share} of {n}"
        )
    return f"Of the others {'; '.join(parts)}." if parts else ""


def _against(results: Results, own: pd.DataFrame, rival: pd.Series | None) -> dict[str, pd.Series]:
    """Each method − the baseline, on the same images; only those that were compared."""
    if results.box_details is None or rival is None:
        return {}
    pairs = results.box_details.pairs
    pairs = pairs[pairs["against"].eq(rival["method"])].set_index("method")
    return {name: pairs.loc[name] for name in own["method"] if name in pairs.index}


@claim("detectors' own maps")
def units_answer(results: Results) -> Markup:
    """Whether single detectors fire on the object: *does this neuron's map allow localisation?*"""
    units = results.units
    if units is None or units.empty:
        return Markup("")
    graded = pd.Series([words.fires(row) for _, row in units.iterrows()]).value_counts()
    others = graded.drop(["yes", "weakly"], errors="ignore")
    rest = [f"for {n} “{verdict}”" for verdict, n in others.items()]
    text = Markup(
        "Of {} judged on images of their class, {} fire on {} clearly (AUROC inside against "
        "outside of the boxes ≥ {}), {} weakly{}."
    ).format(
        words.judged(results.neurons, units),
        graded.get("yes", 0),
        words.target(results.box_kind),
        words.LEAST_INSIDE,
        graded.get("weakly", 0),
        "".join(f"; {one}" for one in rest),
    )
    return text + _unshown(units) + _peaks(results)


def _unshown(units: pd.DataFrame) -> str:
    """That what few images do not show may be there."""
    rest = units[units["verdict"].eq("not shown")]
    if rest.empty:
        return ""
    least, most = int(rest["n"].min()), int(rest["n"].max())
    on = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f" “Not shown” is no “no”: it was asked of {on} image{'' if most == 1 else 's'}."


def _peaks(results: Results) -> str:
    """How many peaks do better than pointing at the picture's own centre."""
    pointing = results.pointing
    if pointing is None or not pointing["pointing"].notna().any():
        return ""
    known = pointing[pointing["pointing"].notna()]
    more = int((known["pointing"] > known["picture_centre"]).sum())
    return (
        f" The peak of {more:,} of the {words.plural(len(known), 'detector')} asked for it lies in "
        "a box more often than the picture's own centre does."
    )


@claim("thresholds")
def thresholds(results: Results) -> str:
    """Where the thresholds of the heat maps come from."""
    scores = scored(results)
    if scores is None or scores.table["threshold"].isna().all():
        return ""
    count = scores.parameters.get("n_threshold_images", 0)
    if not count:
        return "thresholds fixed beforehand"
    images = f"{count:,} confirm {'image' if count == 1 else 'images'}"
    if (sides := str(scores.parameters.get("threshold_from", "other"))) == BY_STUDENT:
        return f"thresholds chosen on boxes that no person drew, but a map, on {images}"
    sides = sides.replace("+", "and")
    return f"thresholds chosen on {count:,} {sides} {'image' if count == 1 else 'images'}"
