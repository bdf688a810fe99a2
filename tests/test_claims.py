"""Every sentence of a page is a claim, and every claim is held against the tables.

Results are drawn at random (`random_results`); of each claim that is made, a check of its own reads
the figures out of the words and recomputes them from the tables, by rules that stand here.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import random_results
from fake_results import make_results
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from scipy.stats import binomtest

from featlab import report
from featlab.arguments import score_text
from featlab.cli._options import tell
from featlab.localise.methods import METHODS
from featlab.neurons import _ranking
from featlab.pipeline.detectors import box_pairs
from featlab.report import _comparison, page  # noqa: F401 - they make the claims
from featlab.report import _words as words
from featlab.report._elements import Options
from featlab.report._localisation import localisation
from featlab.report._neurons import detectors
from featlab.report._words import CLAIMS, COMPARISON_CLAIMS, PREDICTION_CLAIMS, Claim
from featlab.report.overview import commands
from featlab.results.analysis import DetectorDetails, SmallestSet
from featlab.results.localisation import FittedMethods, Localisation
from featlab.results.networks import Transfer
from featlab.results.pictures import UNTUNED_ELSEWHERE, Samples

DRAWS, LONG = 25, 200
NUMBERS = 300
BASELINES = ("dummy", "colour_histogram")
BY_DETECTORS = ("detectors", "best_detector", "signed_detectors", "contrast")
CHECKS: dict[str, Callable[[str, Any, Claim], None]] = {}


def check(*names: str) -> Callable[[Any], Any]:
    def keep(function: Any) -> Any:
        CHECKS.update(dict.fromkeys(names, function))
        return function

    return keep


def plain(text: object) -> str:
    """As a reader sees it: names without their mark-up, characters as they are."""
    shown = re.sub("</?bdi[^>]*>", "", str(text))
    shown = Markup(shown).unescape() if isinstance(text, Markup) else shown
    return shown.replace("\N{NO-BREAK SPACE}", " ")


def same(shown: str, value: float, scale: float = 100) -> bool:
    """Whether a number as printed is that value, within half of its last digit."""
    text = shown.replace("−", "-").replace(",", "").replace("+", "").replace("%", "").strip()
    if text == "–":
        return not math.isfinite(value)
    if text.startswith("<"):
        return 0 < scale * value < float(text[1:])
    if text.startswith(">"):
        return float(text[1:]) < scale * value < scale
    digits = len(text.partition(".")[2])
    exact = scale * value
    if scale == 100 and digits == 0 and text in ("0", "100") and "%" in shown:
        return exact == float(text)
    return abs(float(text) - exact) <= 0.5 * 10**-digits + 1e-9


def count(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return int(found[1].replace(",", ""))


def percentages(text: str) -> list[str]:
    return re.findall(r"(?:[<>] )?[\d.]+ %", text)


# ------------------------------------------------------------------------------------------ the set


@check("lead")
def _(text, r, _claim):
    assert count(text, r"^([\d,]+) image") == len(r.store.images)
    assert ("pretrained" in text) == (r.store.provenance["weights"] != "random")
    assert "on 1 March 2026" in text


@check("pictures at the top")
def _(text, r, _claim):
    every = r.showcase
    n, classes = len(set(every.labels)), len(r.store.classes)
    assert ("one of each class" in text) == (n == classes)
    if n < classes:
        told = (count(text, r"each of ([\d,]+) of"), count(text, r"of ([\d,]+) classes"))
        assert told == (n, classes)
    wrong, again = every.predicted_labels[-1] != every.labels[-1], len(every.labels) > n
    assert ("gets a wrong class" in text) == (again and wrong)
    assert ("a box that misses" in text) == (again and not wrong)
    assert ("hite: true" in text) == any(len(boxes) for boxes in every.true_boxes)
    told = any(box is not None for box in every.predicted_boxes)
    assert ("lue: pred" in text) == told
    if told and r.predictions is not None:
        assert f"lue: predicted by {words.box_source(r.predictions.box_method)}" in text
    assert ("low: the map" in text) == bool(every.neurons)


@check("checks of the set")
def _(text, r, _claim):
    verdicts = r.audit.summary["verdict"].tolist()
    for verb, verdict in (("fail", "fail"), ("warn", "warn"), ("pass", "pass")):
        n = verdicts.count(verdict)
        assert (count(text, rf"(\d+) {verb}") if n else 0) == n
    assert count(text, r"^(\d+) check") == len(verdicts)


def boxed_images(r):
    """Images with a box of the kind that is scored and of no other class than theirs."""
    boxes, labels = r.store.boxes, r.store.images["label"].to_numpy()
    boxes = boxes[boxes["kind"] == r.box_kind] if r.box_kind else boxes
    own, classes = labels[boxes["image"]], set(labels)
    right = [
        name == mine or name not in classes for name, mine in zip(boxes["label"], own, strict=True)
    ]
    return set(boxes["image"][right])


@check("data")
def _(text, r, _claim):
    assert count(text, r"^([\d,]+) image") == len(r.split)
    assert count(text, r"of (\d+) class") == r.store.images["label"].nunique()
    for use, side in (("learn from", "train"), ("confirm", "confirm"), ("score on", "test")):
        assert count(text, rf"([\d,]+) to {use}") == (r.split == side).sum()
    boxed = len(boxed_images(r))
    assert (count(text, r"([\d,]+) with") if boxed else 0) == boxed
    several = len(set(r.store.boxes["kind"])) > 1
    assert (f"boxes of kind “{r.box_kind}”" in text) == (several and bool(boxed))


@check("picture sizes")
def _(text, r, _claim):
    images = r.store.images
    one = images["width"].nunique() == images["height"].nunique() == 1
    assert text.startswith("All") == one
    if not one:
        assert count(text, r"width ([\d,]+)") == images["width"].min()
        assert count(text, r"height [\d,]+ to ([\d,]+)") == images["height"].max()


@check("no boxes")
def _(text, r, _claim):
    assert r.store.boxes.empty


@check("classes without boxes")
def _(text, r, _claim):
    boxed = set(r.store.images["label"].to_numpy()[sorted(boxed_images(r))])
    without = sorted(set(r.store.images["label"]) - boxed)
    assert without and boxed and without[0] in text and not any(f"“{b}”" in text for b in boxed)


@check("box sizes")
def _(text, r, _claim):
    area = sorted(r.box_details.statistics["area"])
    assert count(text, r"of (\d+) box") == len(area)
    assert same(percentages(text)[0], (area[len(area) // 2] + area[(len(area) - 1) // 2]) / 2)
    several = len(set(r.store.boxes["kind"])) > 1
    assert (f" of kind “{r.box_kind}”" in text) == (several and bool(r.box_kind))


@check("samples")
def _(text, r, _claim):
    assert ("white" in text) == (sum(map(len, r.samples.boxes)) > 0)
    told = (count(text, r"^([\d,]+) of"), count(text, r"of ([\d,]+) picture"))
    assert told == (len(r.samples.pictures), len(r.store.images))
    several = len(set(r.store.boxes["kind"])) > 1
    assert (f"boxes of kind “{r.box_kind}”" in text) == ("white" in text and several)


@check("passes")
def _(text, r, _claim):
    assert ("“Gradients”" in text) == (r.gradients is not None)
    assert ("“Transfer”" in text) == (r.transfer is not None)
    assert ("Everything below" in text) == (r.gradients is None and r.transfer is None)


@check("neighbours")
def _(text, r, _claim):
    own, chance = percentages(text)
    apart = r.set_overview.overview.separation
    table = apart.table
    assert same(own, apart.neighbour_agreement)
    assert same(chance, np.average(table["chance"], weights=table["n"]))


@check("misplaced")
def _(text, r, _claim):
    wrong = r.set_overview.overview.misclassified
    deeper = sum(a > b for a, b in zip(wrong["share_predicted"], wrong["share_true"], strict=True))
    assert len(wrong) > 0
    if len(wrong) == 1:
        assert text.startswith("The test image") and (" no deeper" in text) == (deeper == 0)
        return
    assert count(text, r"^(\d+) of") == deeper and count(text, r"of (\d+) test") == len(wrong)


@check("plane")
def _(text, r, _claim):
    overview = r.set_overview.overview
    n, every = len(overview.embedding), overview.embedding.parameters["n"]
    assert text.startswith("Every") == (n == every)
    ringed = overview.misclassified is not None and len(overview.misclassified) > 0
    assert ("Ringed" in text) == ringed


# ---------------------------------------------------------------------------------------- the heads


def right(r, head):
    return r.heads.predictions.query("head == @head").set_index("row")["correct"]


@check("heads")
def _(text, r, _claim):
    main = "logistic" if "logistic" in r.heads.models else r.heads.main
    hits = right(r, main)
    if main in r.heads.models and len(hits) and main not in BASELINES:
        assert same(percentages(text)[0], hits.mean())
        assert count(text, r"([\d,]+) unseen image") == len(hits) == (r.split == "test").sum()


@check("unseen test images")
def _(text, r, _claim):
    rows = set(r.heads.predictions["row"])
    assert rows and not rows & set(np.flatnonzero(r.split != "test"))


def sure(pairs, row):
    """An independent reading of a paired difference: a sign test by hand, Holm not needed."""
    return binomtest(int(row[0]), int(row[0] + row[1])).pvalue if sum(row) else 1.0


@check("head against baselines")
def _(text, r, _claim):
    ours = right(r, r.heads.main)
    for part in text.split("; "):
        name = "dummy" if "dummy" in part else "colour_histogram"
        theirs = right(r, name)
        gap = re.search(r"([+−]?\d+) percentage points", part)[1]
        assert same(gap, ours.mean() - theirs.mean())
        only = (int((ours & ~theirs).sum()), int((theirs & ~ours).sum()))
        if "not shown" not in part:  # then it must be sure without any correction, too
            if r.heads.clusters is None:
                assert sure(None, only) < 0.06
            else:
                assert nonzero_groups(r.heads.clusters, ours.astype(int) - theirs) >= 6


def nonzero_groups(clusters, gaps):
    """With fewer than six groups that differ no sign can be sure at 5 %: 2 / 2**5 = 0.06."""
    return np.count_nonzero(np.bincount(clusters, weights=gaps))


@check("every head", "every method", "every box head")
def _(text, r, claim):
    table = {
        "every head": lambda: (r.heads.table, "head", "accuracy", words.readable),
        "every method": lambda: (r.localisation.table, "method", "box_accuracy", words.method),
        "every box head": lambda: (r.box_details.heads, "head", "mean_iou", words.box_head),
    }[claim.name]()
    rows, key, score, named = table
    parts = text.partition(": ")[2].removesuffix(".").split("; ")
    if claim.name == "every box head":
        own = r.localisation.table.set_index("method") if r.localisation is not None else None
        for part, (_, row) in zip(parts, rows.iterrows(), strict=True):
            same_n = (
                own is not None
                and row["head"] in own.index
                and (own.loc[row["head"], "n"] == row["n"])
            )
            value = own.loc[row["head"], score] if row["baseline"] and same_n else row[score]
            assert same(part.removeprefix(named(row["head"])).split()[0], value, 1)
        return
    for part, (_, row) in zip(parts, rows.iterrows(), strict=True):
        assert part.startswith(named(row[key]))
        assert same(part.removeprefix(named(row[key])).split()[0], row[score], 1)


@check("box regression in pictures")
def _(text, r, _claim):
    held, table = r.box_regression.held, r.box_regression.table
    means = {head: held.loc[held["head"] == head, "iou"].mean() for head in table["head"]}
    best = max(means, key=means.get) if len(held) else table["head"].iloc[0]
    assert f"({best.replace('_', ' ')})" in text and text.startswith("Green")


@check("head intervals")
def _(text, r, _claim):
    assert ("95 %" in text) == bool(np.isfinite(r.heads.table["accuracy_low"]).any())
    assert ("Hollow" in text) == bool(set(BASELINES) & set(r.heads.table["head"]))


@check("confusions")
def _(text, r, _claim):
    hits = right(r, r.heads.main)
    assert count(text, r": (\d+) of") == hits.sum() and count(text, r"of (\d+) test") == len(hits)


@check("learning curve")
def _(text, r, _claim):
    curve = r.head_details.learning
    assert count(text, r"on ([\d,]+) to") == min(curve["size"])
    assert count(text, r"to ([\d,]+) train") == max(curve["size"])
    assert count(text, r"drawn (?:at most )?(\d+) time") == max(curve["n_repeats"])
    assert ("at most" in text) == (len(set(curve["n_repeats"])) > 1)
    per_class = curve["n_train"] / r.store.images["label"].nunique()
    assert ("a smaller class" in text) == any(per_class < curve["size"])


# ------------------------------------------------------------------------------------ the detectors


def detectors_of(r, direction, held=True):
    rows = r.neurons[r.neurons["detector"] & r.neurons["direction"].eq(direction)]
    return rows[rows["confirmed"]] if held else rows


@check("detectors")
def _(text, r, _claim):
    active, silent = (detectors_of(r, way) for way in ("active", "silent"))
    every = r.neurons[["layer", "neuron"]].drop_duplicates()
    leaders = re.findall(
        r"neuron (\d+) for [^(]+\((\S+) \[([^,]+), ([^]]+)\]\)", text.replace("\xa0", " ")
    )
    for neuron, shown, low, high in leaders:
        # Picked because it was confirmed: the interval that allows for it.
        rows = r.neurons[r.neurons["confirmed"] & r.neurons["neuron"].eq(int(neuron))]
        assert any(
            same(shown, row["auroc_confirmed"], 1) and same(low, row["auroc_adjusted_low"], 1)
            and same(high, row["auroc_adjusted_high"], 1) for _, row in rows.iterrows()
        )  # fmt: skip
    kind = active if len(active) else silent
    if len(kind):
        every_one = detectors_of(r, "active" if len(active) else "silent", held=False)
        assert ("flatters" in text) == (len(every_one) > every_one["confirmed"].sum())
    if "flatters" in text:
        assert count(text, r"all ([\d,]+) selected") == len(every_one)
        middle = np.median(every_one["auroc_confirmed"])
        assert same(re.search(r"selected is (\S+)\.$", text)[1], middle, 1)
    if len(active):
        assert count(text, r"^([\d,]+) of") == len(active[["layer", "neuron"]].drop_duplicates())
        assert count(text, r"of ([\d,]+) neuron") == len(every)
        without = text.partition("; none is for ")[2].partition(". The first chosen")[0]
        missing = set(r.store.classes) - set(active["class"])
        assert bool(without) == bool(missing)
        assert all(name not in without.split(" and ")[0].split(", ") for name in active["class"])
        # They lead where they were chosen; where they were confirmed, others may.
        first = active.groupby("class")["auroc"].max().nlargest(3)
        named = active["neuron"].isin([int(one) for one in re.findall(r"neuron\s(\d+) for", text)])
        assert set(first) <= set(active.loc[named, "auroc"]) and "The first chosen" in text
    elif len(silent):
        n = len(silent[["layer", "neuron"]].drop_duplicates())
        assert "being active" in text and count(text, r"; ([\d,]+) neuron") == n
    else:
        chosen = r.neurons["detector"].sum()
        assert ("none was selected" in text) == (chosen == 0)
        assert "is confirmed" not in text and (not chosen or f"of {chosen} pair" in text)
        picked = r.neurons[r.neurons["detector"]]
        unknown = picked["p_confirmed"].isna().all()
        assert not chosen or ("could be tested" in text) == unknown
        best = picked["auroc_confirmed"] == np.where(picked["direction"] == "silent", 0, 1)
        faultless = (best & picked["p_confirmed"].notna()).sum()
        assert ("made no error" in text) == bool(faultless)
        assert not faultless or count(text, r"though ([\d,]+) of them") == faultless


@check("own classes")
def _(text, r, _claim):
    first = r.own.pictures[r.own.pictures["rank"] == 1]
    assert count(text, r"of ([\d,]+) picture") == len(first)
    assert count(text, r"Of its ([\d,]+) classes") == r.own.n_classes
    counts = first["own_class"].value_counts()
    shown = [text.index(f"{name} ") for name in counts.index if f"{name} " in text]
    assert len(shown) == min(3, len(counts))
    assert same(percentages(text)[0], counts.iloc[0] / len(first))


@check("own classes of each class")
def _(text, r, _claim):
    first = r.own.pictures[r.own.pictures["rank"] == 1]
    told = re.findall(r"(class \d+) is called (.+?) in", text)
    assert len(told) == min(6, first["label"].nunique())
    rest = first["label"].nunique() - len(told)
    assert (count(text, r"for ([\d,]+) class") if rest else 0) == rest
    for label, name in told:
        counts = first.loc[first["label"] == label, "own_class"].value_counts()
        assert counts[name] == counts.max()


@check("clusters")
def _(text, r, _claim):
    if r.clusters is None:
        assert count(text, r"fewer than (\d+) images") > count(text, r"got (\d+)") == len(r.store)
        return
    sizes = r.clusters.images["cluster"].value_counts().tolist()
    assert count(text, r"^(\d+) cluster") == len(sizes)
    told = re.search(r": ([\d, ]+) images", text)[1]
    assert [int(n) for n in told.split(",")] == sorted(sizes, reverse=True)
    choice = r.clusters.choice.set_index("clusters")["silhouette"]
    assert same(re.search(r"silhouette, ([\d.−]+) of", text)[1], choice.max(), 1)


@check("maps without labels")
def _(text, r, _claim):
    boxes = r.set_maps.boxes
    assert count(text, r"box of ([\d,]+) picture") == boxes["row"].nunique()
    dark = (boxes["xmax"] == 0).sum()
    assert ("dark" in text) == bool(dark)
    assert not dark or (count(text, r"\(([\d,]+) map"), f"of {len(boxes):,})" in text) == (dark, 1)
    table = r.set_maps.table
    assert ("nothing is scored" in text) == table.empty
    several = len(set(r.store.boxes["kind"])) > 1 and bool(r.box_kind) and len(table) > 0
    assert (f"a true box of kind “{r.box_kind}” the one" in text) == several
    if len(table):
        own = table[~table["baseline"]]
        best = own["box_accuracy_confirm"].max()
        rows = own[own["box_accuracy_confirm"] == best]
        assert any(same(percentages(text)[0], value) for value in rows["box_accuracy"])
        base = table[table["baseline"]].sort_values("box_accuracy_confirm").iloc[-1]
        assert same(percentages(text.partition("best baseline")[2])[0], base["box_accuracy"])


@check("own votes")
def _(text, r, _claim):
    told = re.findall(r"neuron (\d+) votes for (.+?) \((.+?): rank correlation ([^ )]+)", text)
    assert 1 <= len(told) <= 3
    active = detectors_of(r, "active")
    for neuron, name, agree, number in told:
        rows = active[(active["neuron"] == int(neuron)) & active["votes_for"].str.startswith(name)]
        words_of = {
            "and the pictures agree": rows["vote_agreement_low"] > 0,
            "but the pictures disagree": rows["vote_agreement_high"] < 0,
            "which the pictures do not show": ~(rows["vote_agreement_low"] > 0)
            & ~(rows["vote_agreement_high"] < 0),
        }
        rows = rows[words_of[agree]]
        assert any(same(number, value, 1) for value in rows["vote_agreement"])


@check("detector counts")
def _(text, r, _claim):
    assert count(text, r"^([\d,]+) pair") == len(detectors_of(r, "active", held=False))
    assert count(text, r"([\d,]+) confirmed") == len(detectors_of(r, "active"))


@check("without p")
def _(text, r, _claim):
    every = r.neurons if r.all_neurons is None else r.all_neurons
    without = every[~np.isfinite(every["p"])]
    assert count(text, r"^([\d,]+) of") == len(without) > 0
    assert count(text, r"of ([\d,]+) pair") == len(every)
    # Beside counts of one layer and pooling alone, which the volcano's are.
    families = set(zip(every["layer"], every["pooling"], strict=True))
    assert ("(of all layers and poolings)" in text) == (len(families) > 1)
    told = text.partition("no p: ")[2].partition(". ")[0].removesuffix(".").split("; ")
    assert sum(int(part.split()[0].replace(",", "")) for part in told) == len(without)
    key = {
        "same in every image": "constant", "too few images": "too few images",
        "fewer than five groups": "too few groups", "gives none": "the test has no p",
    }  # fmt: skip
    for part in told:
        reason = next(reason for words_, reason in key.items() if words_ in part)
        assert int(part.split()[0].replace(",", "")) == (without["reason"] == reason).sum()
    none = text.partition(". Of ")[2]
    bare = [name for name, rows in every.groupby("class") if not np.isfinite(rows["p"]).any()]
    assert bool(none) == bool(bare)
    assert all(name in none for name in bare[:5])
    assert not any(name in none for name in set(every["class"]) - set(bare))


@check("untested")
def _(text, r, _claim):
    rows = detectors_of(r, "active", held=False)
    assert count(text, r"selected ([\d,]+) could") == np.isnan(rows["p_confirmed"]).sum() > 0
    assert (rows.loc[rows["p_confirmed"].isna(), "unit"] == "too few groups").all()


@check("explored")
def _(text, r, _claim):
    assert set(re.findall(r"layer (\w+)", text)) == set(r.neurons["layer"])


@check("shuffled labels")
def _(text, r, _claim):
    nulls = r.detector_details.nulls["confirmed"]
    assert count(text, r"On (\d+) set") == len(nulls)
    assert ("no pair" in text) == (max(nulls) == 0)
    assert "no pair" in text or count(text, r"at most (\d+)") == max(nulls)


@check("detector clusters")
def _(text, r, _claim):
    clusters = r.detector_details.clusters
    n = len(set(zip(clusters["class"], clusters["cluster"], strict=True)))
    assert text.startswith("No two") == (n == len(clusters))
    # Not within the detectors' own class alone; test_agreement counts on which images.
    assert "over the confirm images of all classes" in text
    assert text.startswith("No two") or count(text, r"form (\d+) cluster") == n


@check("omnibus")
def _(text, r, _claim):
    table = r.detector_details.omnibus
    assert count(text, r"([\d,]+) of") == table["reject"].sum()
    assert count(text, r"of ([\d,]+) neuron") == np.isfinite(table["p"]).sum() > 0
    untested = len(table) - np.isfinite(table["p"]).sum()
    assert (count(text, r"; ([\d,]+) more could not") if untested else 0) == untested


@check("detectors needed")
def _(text, r, _claim):
    rows = r.detector_details.ablation.set_index("kind")
    ours, random = percentages(text)
    assert same(ours, rows.loc["detectors", "accuracy"])
    assert same(random, rows.loc["random", "accuracy"])
    assert count(text, r"Without (\d+) detector") == rows["k"].max()


@check("fewest detectors")
def _(text, r, _claim):
    few = r.detector_details.smallest
    shown = percentages(text)
    assert same(shown[0], few.accuracy)
    assert count(text, r"on (\d+) detector") == len(few.neurons)
    # Two scores side by side, and no word of their being as good as each other.
    assert "as well" not in text
    more = len(few.neurons) < max(few.curve["k"])
    assert ("the most tried" in text) == more
    if more:
        assert same(shown[-1], few.accuracy_all)
        assert count(text, r"on (\d+), the most tried") == max(few.curve["k"])


@check("best pooling")
def _(text, r, _claim):
    counts = r.detector_details.poolings.set_index(["layer", "pooling"])["confirmed"]
    most, fewest = text.split("; fewest")
    for part, number in ((most, counts.max()), (fewest, counts.min())):
        named = {(layer, pool) for pool, layer in re.findall(r"(\w+) pooling of layer (\w+)", part)}
        assert named == set(counts.index[counts == number])
        assert count(part, r": (\d+)") == number
    assert counts.max() > counts.min()


@check("volcano")
def _(text, r, _claim):
    assert count(text, r"of ([\d,]+) pair") == len(r.neurons)
    assert count(text, r"([\d,]+) are selected") == len(detectors_of(r, "active", held=False))
    assert count(text, r"and ([\d,]+) as silent") == len(detectors_of(r, "silent", held=False))


@check("what selecting flatters")
def _(text, r, _claim):
    rows = detectors_of(r, "active", held=False)
    gaps = [a - b for a, b in zip(rows["auroc"], rows["auroc_confirmed"], strict=True) if b == b]
    middle = float(np.median(gaps))
    assert same(re.search(r"([\d.]+) AUROC", text)[1], abs(middle), 1)
    assert ("loss" in text) == (middle >= 0) and count(text, r"the (\d+) sel") == len(gaps)


@check("what confirming flatters")
def _(text, r, _claim):
    kept, every = (detectors_of(r, "active", held)["auroc_confirmed"] for held in (True, False))
    first, second = re.findall(r"is (\d\.\d+)", text)
    assert len(kept) < len(every) and np.median(kept) > np.median(every)
    assert same(first, np.median(kept), 1) and same(second, np.median(every), 1)


@check("cards of unseen images")
def _(text, r, _claim):
    rows = {row for card in r.cards for row in [*card.best["row"], *card.worst["row"]]}
    assert rows and not rows & set(np.flatnonzero(r.split == "train"))


# ----------------------------------------------------------------------------- where the object is


@check("where the object is")
def _(text, r, claim):
    scores = r.localisation
    if scores is None or scores.table.empty:
        assert "No test image has a box" in text and not claim.clear
        assert claim.verdict == "Not measured"
        return
    hits = scores.per_image.pivot_table(index="row", columns="method", values="hit")
    rival = baseline_of(hits)
    for name, pattern in (
        ("detectors", r"detectors combined in ((?:[<>] )?[\d.]+ %)"),
        ("best_detector", r"each class alone in ((?:[<>] )?[\d.]+ %)"),
    ):
        assert (name in hits) == bool(re.search(pattern, text))
        if name in hits:
            assert same(re.search(pattern, text)[1], hits[name].mean())
    own = [name for name in ("detectors", "best_detector") if name in hits]
    if not own:
        assert "No confirmed detector" in claim.verdict
    pairs = r.box_details.pairs if r.box_details is not None else pd.DataFrame()
    pairs = pairs[pairs["against"].eq(rival)].set_index("method") if len(pairs) else pairs
    compared = [name for name in hits if name in BY_DETECTORS and name in pairs.index]
    # "Yes" where the table below has one of them surely ahead, whichever was picked elsewhere.
    better = pairs[(pairs["p_adjusted"] < 0.05) & (pairs["difference"] > 0)] if compared else pairs
    ahead = [name for name in compared if name in better.index]
    assert claim.clear == bool(ahead) == claim.verdict.startswith("Yes")
    for name in ahead:
        groups = r.store.images["group"].to_numpy(str)[hits.index]
        gaps = hits[name] - hits[rival]
        assert gaps.mean() > 0
        if len(set(groups)) == len(groups) or set(groups) == {""}:
            only = (int((gaps > 0).sum()), int((gaps < 0).sum()))
            assert sure(None, only) < 0.06 and sum(only) >= 5
        else:
            units = [f"{i}" if group == "" else group for i, group in enumerate(groups)]
            sums = gaps.groupby(units).sum()
            assert (sums != 0).sum() >= 6
    if "worse" in claim.verdict:
        assert all(pairs.loc[name, "difference"] < 0 for name in compared)
    heads = None if r.box_details is None else r.box_details.heads
    fitted = heads[~heads["baseline"].astype(bool)] if heads is not None else ()
    kinds = {"without boxes": ("cam", "sum"), "“cells learnt": ("cell_boxes",)}
    for how, names in kinds.items():
        asked = how == "without boxes" or not len(fitted)
        assert (how in text) == (bool(set(names) & set(hits)) and asked)
    tuned = scores.table.loc[~scores.table["baseline"].astype(bool), "box_accuracy_confirm"]
    assert ("the best on confirm images" in text) <= bool(tuned.notna().any())
    assert ("regression" in text) == bool(len(fitted))
    if len(fitted):
        shown = percentages(text.partition("regression")[2])[0]
        assert same(shown, fitted["box_accuracy"].iloc[0])
        assert count(text, r"of ([\d,]+) images?\.$") == fitted["n"].iloc[0]


@check("how far from the baseline")
def _(text, r, _claim):
    hits = r.localisation.per_image.pivot_table(index="row", columns="method", values="hit")
    rival = baseline_of(hits)
    pairs = r.box_details.pairs if r.box_details is not None else pd.DataFrame()
    pairs = pairs[pairs["against"].eq(rival)].set_index("method") if len(pairs) else pairs
    compared = {name for name in hits if name in BY_DETECTORS and name in pairs.index}
    told = {name: re.search(rf"“{words.method(name)}” lies at ([+−]?\d+) per", text)
            for name in BY_DETECTORS}  # fmt: skip
    assert {name for name, one in told.items() if one} == compared
    for name in compared:
        assert same(told[name][1], (hits[name] - hits[rival]).mean())
    if r.box_kind and "judged alone" in text:
        assert f"what the “{r.box_kind}” boxes mark" in text and "on the object" not in text


def baseline_of(hits):
    rivals = [name for name in ("random_neuron", "centre_gaussian", "mean_box") if name in hits]
    return max(rivals, key=lambda name: hits[name].mean()) if rivals else None


@check("detectors' own maps")
def _(text, r, _claim):
    units = r.units
    on = units["verdict"].eq("on the object")
    assert count(text, r"Of ([\d,]+) (?:confirmed|leading)") == len(units)
    every = r.neurons["confirmed"].eq(True) & r.neurons["direction"].eq("active")
    assert ("leading of" in text) == (len(units) < every.sum())
    if "leading of" in text:
        assert count(text, r"leading of ([\d,]+) confirmed") == every.sum()
    clear = on & (units["auroc_inside"].map("{:.2f}".format).astype(float) >= 0.7)
    assert count(text, r", (\d+) fire on .* clearly") == clear.sum()
    assert ("fire on the object" in text) == (not r.box_kind)
    unsure = units.loc[~on & units["verdict"].eq("not shown"), "n"]
    assert ("is no “no”" in text) == (len(unsure) > 0)
    if len(unsure):
        told = re.search(r"asked of ([\d,]+)(?: to ([\d,]+))? image", text)
        assert int(told[1]) == unsure.min() and int(told[2] or told[1]) == unsure.max()
    assert count(text, r", (\d+) weakly") == (on & ~clear).sum()
    assert "shortcut" not in text
    for verdict in ("not shown", "beside the boxes", "beside the head boxes, on the body boxes"):
        n = units["verdict"].eq(verdict).sum()
        assert (f"{verdict}”" in text) == (n > 0)
    if "The peak of" in text:
        rows = r.pointing[r.pointing["pointing"].notna()]
        better = (rows["pointing"] > rows["picture_centre"]).sum()
        assert count(text, r"peak of (\d+) of") == better
        assert count(text, r"of the (\d+) detectors? asked") == len(rows)


@check("box kind")
def _(text, r, _claim):
    assert f"“{r.box_kind}”" in text


@check("thresholds")
def _(text, r, _claim):
    known = r.localisation.parameters
    n = known["n_threshold_images"]
    assert ("beforehand" in text) == (n == 0)
    assert n == 0 or f"on {n} train and confirm image" in text


@check("box heads")
def _(text, r, _claim):
    heads = r.box_details.heads
    assert count(text, r"from ([\d,]+) train or confirm") == heads["n_fit"].iloc[0]
    assert count(text, r"on ([\d,]+) test image") == heads["n"].iloc[0]
    assert ("95 %" in text) == bool(np.isfinite(heads["mean_iou_low"]).any())


@check("boxes drawn")
def _(text, r, _claim):
    curve = r.box_details.curve
    assert count(text, r"of ([\d,]+) to") == curve["boxed"].min()
    assert count(text, r"to ([\d,]+) train") == curve["boxed"].max()
    assert count(text, r"at most (\d+) time") == curve["n_repeats"].max()
    assert count(text, r"V2 on ([\d,]+) test image") == curve["n"].max()
    values = re.search(r"images? from (\S+)(?: \[.*?\])? to (\S+?)(?: \[.*?\])?\.(?: The|$)", text)
    ends = curve.sort_values("boxed")["max_box_acc_v2"].iloc[[0, -1]]
    assert all(same(shown, value, 1) for shown, value in zip(values.groups(), ends, strict=True))
    table = r.localisation.table
    boxless = ~(table["supervision"].eq("boxes") | table["method"].eq("mean_box"))
    others = table.loc[boxless, "max_box_acc_v2"].astype(float)
    same_images = curve["n"].max() == table["n"].max()  # else it is of a sample of them
    others = others if same_images else others * np.nan
    assert ("learns from no box" in text) == bool(others.notna().any())
    sizes = sorted(curve["boxed"])
    value = curve.set_index("boxed")["max_box_acc_v2"]
    passed = pd.Series([n for n in sizes if (value[value.index >= n] > others.max()).all()])
    assert ("is not passed" in text) == bool(others.notna().any() and passed.empty)
    if len(passed):
        assert count(text, r"passed at ([\d,]+) boxed") == passed.min()
        shown = re.search(r"boxed train images \((\S+?)[ )]", text)[1]
        assert same(shown, value[passed.min()], 1) and "no test was made" in text


# ------------------------------------------------------------------------------ the network again


@check("guided")
def _(text, r, _claim):
    assert ("need rectifiers" in text) == bool(r.gradients.facts["guided_refused"])


@check("classes asked")
def _(text, r, _claim):
    facts = r.gradients.facts
    assert ("network’s own" in text) == (facts["target"] == "own")
    assert ("of a model that learnt from another set" in text) == (facts["target"] == "model")
    assert count(text, r"of ([\d,]+) picture") == sum(facts["asked"].values())
    told = {name: int(n) for name, n in re.findall(r"(class \d) (\d+)", text)}
    assert told.items() <= facts["asked"].items()
    rest = re.search(r"and so on for (\d+) class(?:es)? more", text)
    assert (int(rest[1]) if rest else 0) == max(len(facts["asked"]) - 3, 0)
    left = [n for name, n in facts["asked"].items() if name not in told]
    assert min(told.values()) >= max(left, default=0)


@check("gradients without boxes")
def _(text, r, _claim):
    assert r.gradients.facts["n_scored"] == 0 and "no box is scored" in text
    assert count(text, r"those of ([\d,]+) picture") == r.gradients.facts["n_pictures"]


@check("through the network")
def _(text, r, _claim):
    rows = r.gradients.localisation.set_index("method")
    for part in text.split("; "):
        name = next((n for n in rows.index if f"“{words.method(n)}”" in part), None)
        assert name is not None and "box" in text
        assert same(percentages(part)[0], rows.loc[name, "box_accuracy"])
        if "own centre" in part:
            assert same(percentages(part)[2], rows.loc[name, "picture_centre_in_box"])


@check("model randomisation")
def _(text, r, _claim):
    sanity = r.gradients.sanity
    for part in text.split(";"):
        rule = "guided" if "guided" in part else "plain"
        rows = sanity[sanity["rule"] == rule]
        first, last = re.findall(r"(−?\d\.\d+) with", part)
        at = rows.groupby("stage")["spearman_absolute"].mean()
        assert same(first, at[1], 1) and same(last, at[at.index.max()], 1)
        assert float(first.replace("−", "-")) not in (0, 1) or at[1] in (0, 1)
    assert "absolute" in text  # as the figure


@check("thawed against frozen")
def _(text, r, _claim):
    rows = r.transfer.comparison.set_index("name")
    tuned, frozen = percentages(text)[:2]
    assert same(tuned, rows.loc["thawed", "accuracy"])
    assert same(frozen, rows.loc["logistic", "accuracy"])
    p, gap = rows.loc["thawed", "p"], rows.loc["thawed", "difference"]
    assert ("first is better" in text) == (p < 0.05 and gap > 0)
    assert ("not shown" in text) == (p >= 0.05)


# ------------------------------------------------------------------------------------- the methods


@check("network used", "software", "gradients described", "plane described", "heads fitted")
def _(text, r, claim):
    if claim.name == "network used":
        h, w, c = r.store.map_shape()
        assert f"{h} × {w} cells of {c}" in text
        assert ("imagenet]" in text) == (r.store.provenance["weights"] == "imagenet")
    if claim.name == "software":
        assert r.store.provenance["version_keras"] in text
    if claim.name == "gradients described":
        refused = bool(r.gradients.facts["guided_refused"])
        assert ("DAM" in text) == (not refused)
    if claim.name == "plane described":
        n, every = (
            len(r.set_overview.overview.embedding),
            r.set_overview.overview.embedding.parameters["n"],
        )
        assert ("random" in text) == (n < every)
    if claim.name == "heads fitted":
        tuned = any("fold" in given for given in r.heads.table["parameters"])
        assert ("cross-validation" in text) == tuned


@check("not trained further")
def _(text, r, _claim):
    assert ("was not trained further" in text) == (r.transfer is None)


@check("split")
def _(text, r, _claim):
    for side in ("train", "confirm", "test"):
        assert count(text, rf"([\d,]+) {side}") == (r.split == side).sum()
    groups = r.store.images["group"]
    torn = {
        group for group in set(groups) - {""} if len(set(r.split.to_numpy()[groups == group])) > 1
    }
    named = bool(set(groups) - {""})
    assert ("whole groups on one side" in text) == (named and not torn)
    assert not torn or count(text, r"; (\d+) of") == len(torn)


@check("copies")
def _(text, r, _claim):
    pairs = 0 if r.audit is None else len(r.audit.duplicates)
    assert ("7 images left out as copies" in text) == ("indexed" in r.store.provenance)
    assert ("The copies of a picture" in text) == (pairs > 0)
    if pairs:
        assert count(text, r"\((\d+) pair") == pairs
        torn = int(r.audit.duplicates["across"].sum())
        assert ("none on two sides" in text) == (not torn)
        assert not torn or count(text, r"([\d,]+) on two sides") == torn
        assert ("a group of their own" in text) == (r.copies == "together")


@check("fitted on")
def _(text, r, _claim):
    heads = r.box_details is not None and r.box_details.heads is not None
    assert "Everything" not in text
    assert ("box heads were fitted on train and confirm" in text) == heads


@check("intervals of heads")
def _(text, r, _claim):
    kind = r.heads.table["interval"].iloc[0]
    assert ("whole groups" in text) == ("3 groups" in kind) and kind
    assert ("no intervals" in text) == kind.startswith("none")


@check("paired tests")
def _(text, r, _claim):
    tests = set()
    for details in (r.head_details, r.box_details):
        if details is not None and "test" in details.pairs:
            tests |= set(details.pairs["test"]) - {""}
    assert ("McNemar" in text) == any("McNemar" in test for test in tests)
    assert ("sign flips" in text) == any("sign flips" in test for test in tests)


@check("selection")
def _(text, r, _claim):
    assert count(text, r"family of ([\d,]+)") == r.selection.n_tests
    assert count(text, r"; ([\d,]+) pair") == np.isnan(r.neurons["p"]).sum()


@check("confirmation")
def _(text, r, _claim):
    few = r.selection.unit == "too few groups"
    assert ("Nothing was confirmed" in text) == few
    if few:
        return
    assert count(text, r"over ([\d,]+) test") == r.selection.n_confirm_tests
    assert ("not independent" in text) == (r.selection.unit != "images")
    # Only intervals that allow for it are said to.
    assert ("having been picked" in text) == r.neurons["auroc_adjusted_low"].notna().any()


@check("heat maps")
def _(text, r, _claim):
    methods = set(r.localisation.table["method"])
    assert ("class activation maps" in text) == ("cam" in methods)
    assert ("principal component" in text) == ("ddt" in methods)
    n = max(r.localisation.table["n"])
    assert ("of a random" in text) == (r.boxed_test_images > n)
    step = r.localisation.parameters["threshold_step"]
    assert f"in steps of {step:g}" in text
    assert ("0.001, the protocol's" in text) == (step == 0.001)


@check("intervals of boxes")
def _(text, r, _claim):
    n, units = max(r.localisation.table["n"]), r.localisation.parameters["n_groups"]
    assert ("over images" in text) == (n == units)
    assert n == units or count(text, r"over (\d+) group") == units


@check("classes without detectors")
def _(text, r, _claim):
    bare = r.localisation.parameters["classes_without_detectors"]
    assert count(text, r"For (\d+) class") == len(bare) > 0


@check("methods left out")
def _(text, r, _claim):
    assert text == "No heat maps of CAM of the MLP: it is not fitted."


# ---------------------------------------------------------------------------------- the comparison


@check("compared heads", "compared boxes")
def _(text, r, claim):
    heads = claim.name == "compared heads"
    if not heads and not r.best_boxes:
        assert "It takes boxes" in text and claim.verdict == "Not measured"
        return
    pairs = r.head_pairs if heads else r.box_pairs
    by, best = ("accuracy_confirm", r.best_head) if heads else (
        "box_accuracy_confirm", r.best_boxes)  # fmt: skip
    row = r.entries.set_index("name").loc[best]
    columns = [by, "log_loss_confirm"] if heads else [by]
    equals = (r.entries[columns] == row[columns].astype(float)).all(axis=1).sum()
    assert ("as well as any" in text) == (equals > 1)
    assert same(percentages(text)[0], row["accuracy" if heads else "box_accuracy"])
    shown = zip(pairs["p_adjusted"], pairs["difference"], strict=True)
    sure_of = [p < 0.05 and gap > 0 for p, gap in shown]
    assert claim.clear == all(sure_of)
    worse = ((pairs["p_adjusted"] < 0.05) & (pairs["difference"] < 0)).any()
    assert ("is ahead on test" in claim.verdict) == worse
    assert ("No difference" in claim.verdict) == (not any(sure_of) and not worse)
    gap = re.search(r"is ([+−]?[\d.]+) percentage points", text)[1]
    assert same(gap, pairs["difference"].min())


@check("every compared head", "every compared box accuracy")
def _(text, r, claim):
    score = "accuracy" if claim.name == "every compared head" else "box_accuracy"
    for (_, row), part in zip(
        r.entries.iterrows(), text.partition(": ")[2].removesuffix(".").split("; "), strict=True
    ):
        assert same(part.removeprefix(row["name"]).split()[0], row[score], 1)


@check("compared detectors")
def _(text, r, claim):
    most = r.entries["confirmed"].max()
    assert ("No detector" in text) == (most == 0)
    if most:
        leaders = r.entries.loc[r.entries["confirmed"] == most, "name"]
        assert all(name in plain(claim.verdict) for name in leaders[:5])
        assert text.count("(of ") == min(3, len(r.entries))


@check("compared lead", "compared images")
def _(text, r, _claim):
    assert count(text, r"same ([\d,]+) image") == len(r.images)
    assert "networks" not in text or count(text, r"in ([\d,]+) ways") == len(r.entries)
    if "learn from" in text:
        assert count(text, r"([\d,]+) to score on") == (r.split == "test").sum()


@check("closest pair")
def _(text, r, _claim):
    pairs = r.likeness.dropna(subset="cka")
    assert ("Too few images" in text) == (len(pairs) == 0)
    if len(pairs):
        best = pairs.sort_values("cka").iloc[-1]
        assert ("No two" in text) == (best["cka"] <= best["cka_shuffled"])
        if "No two" not in text:
            number = r"(−?\d\.\d+)"
            said = re.search(rf"CKA {number} on (\d+) image.* below {number}", text)
            assert same(said[1], best["cka"], 1) and same(said[3], best["cka_shuffled"], 1)
            assert int(said[2]) == best["n"]


@check("compared cost")
def _(text, r, _claim):
    per_image = 1000 * r.entries["megabytes"] / len(r.images)
    least, most = re.findall(r"([\d,]+) kB", text)
    assert same(least, per_image.min(), 1) and same(most, per_image.max(), 1)
    assert ("Heat maps" in text) == bool(np.isfinite(r.entries["seconds_per_1000"]).any())


# -------------------------------------------------------------------------------- the predictions


def outcomes(table):
    """Of each picture, whether its class is wrong, and whether its box is too far off."""
    return [
        (row["class"] != row["label"], row["iou"] == row["iou"] and row["iou"] < 0.5)
        for _, row in table.iterrows()
    ]


@check("predictions")
def _(text, r, _claim):
    table = r.predictions.table
    right = [not wrong for wrong, _ in outcomes(table)]
    assert count(text, r"^([\d,]+) of") == sum(right)
    assert count(text, r"of ([\d,]+) test image") == len(table)
    known = [value for value in table["iou"] if value == value]
    assert ("true one" in text) == bool(known)
    if known:
        assert count(text, r"for ([\d,]+) of the") == sum(value >= 0.5 for value in known)
        assert count(text, r"of the ([\d,]+) with a true box") == len(known)


@check("pictures of predictions")
def _(text, r, _claim):
    every = outcomes(r.predictions.table)
    known = list(zip(every, [value == value for value in r.predictions.table["iou"]], strict=True))
    unknown = "with their own class" + (" and no true box" if any(b for _, b in known) else "")
    kinds = {
        "with a wrong class": [wrong for wrong, _ in every],
        "with a wrong box alone": [far and not wrong for wrong, far in every],
        "with neither": [not far and not wrong and boxed for (wrong, far), boxed in known],
        unknown: [not row[0] and not boxed for row, boxed in known],
    }
    for words_, some in kinds.items():
        assert (words_ in text) == any(some)
        if any(some):
            shown, total = re.search(rf"([\d,]+) of ([\d,]+) {words_}", text).groups()
            assert int(total) == sum(some)
            assert int(shown) == sum(some[row] for row in r.predictions.pictures)


@check("refitted predictor")
def _(text, r, _claim):
    assert count(text, r"on all ([\d,]+) labelled image") == r.predictions.refitted > 0
    assert "page is of the model before that" in text


@check("asked of a refitted predictor")
def _(text, r, _claim):
    assert count(text, r"on all ([\d,]+) labelled image") == r.refitted > 0
    assert "its scores, and how often the sets hold the right class, are those of" in text


@check("boxes that no box tuned")
def _(text, r, _claim):
    assert r.untuned
    known = "iou" in r.table and any(value == value for value in r.table["iou"])
    assert text.startswith("The boxes are not scored here.") != known
    for what, n, *shares in UNTUNED_ELSEWHERE:
        printed = re.search(rf"{what} (\d+) % of {n} \((\d+) %, (\d+) %\)", text)
        assert [int(one) for one in printed.groups()] == [round(100 * x) for x in shares]


@check("box score says nothing")
def _(text, r, _claim):
    assert not r.informative and "not informative" in text


@check("nothing can be unusual")
def _(text, r, _claim):
    n = count(text, r"Only (\d+) images? ")
    assert n == r.calibrated_on < 19 and "no picture can be called unusual" in text
    assert same(re.search(r"fall below ([\d.]+):", text)[1], 1 / (n + 1), 1)


@check("asked lead")
def _(text, r, _claim):
    assert count(text, r"^([\d,]+) picture") == len(r.table)
    assert count(text, r"knows (\d+) class") == len(r.classes)


@check("asked sure")
def _(text, r, _claim):
    assert count(text, r"For ([\d,]+) of them") == sum("|" in one for one in r.table["set"])
    if r.calibrated_on < 19:
        assert "unlike" not in text
    else:
        assert count(text, r"; ([\d,]+) (?:is|are) unlike") == sum(r.table["typicality"] <= 0.05)
    assert same(re.search(r"probability ([\d.]+)\)", text)[1], r.coverage, 1)


@check("asked left out")
def _(text, r, _claim):
    assert count(text, r"^([\d,]+) picture") == len(r.table) - len(r.pictures) > 0
    assert count(text, r"of ([\d,]+) (?:is|are) not shown") == len(r.table)


# --------------------------------------------------------------------------------------- the tests


def hold(claims, results):
    """Every claim that is made of these results, against its check; the names of the claims."""
    made = {name: one for name, one in ((n, make(results)) for n, make in claims.items()) if one}
    for name, one in made.items():
        text = plain(one.text)
        assert one.name == name and text.strip() and "  " not in text
        # A name's mark-up in plain text would be escaped, and read as it is written.
        assert isinstance(one.text, Markup) or "<bdi" not in one.text, text
        assert not re.search(r"\bnan\b|\binf\b|None[^ ]", text + plain(one.verdict)), text
        CHECKS[name](text, results, one)
    return set(made)


quick = settings(
    max_examples=DRAWS, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


def test_every_claim_has_its_check():
    assert set(CHECKS) == set(CLAIMS) | set(COMPARISON_CLAIMS) | set(PREDICTION_CLAIMS)


@pytest.mark.parametrize("draws", [DRAWS, pytest.param(LONG, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("claims", "drawn"),
    [
        (CLAIMS, random_results.results()),
        (COMPARISON_CLAIMS, random_results.comparisons()),
        (PREDICTION_CLAIMS, random_results.predictions()),
    ],
    ids=["report", "comparison", "predictions"],
)
def test_what_a_page_claims_is_true_of_its_tables(claims, drawn, draws, monkeypatch):
    monkeypatch.setattr("featlab.pipeline.detectors._RESAMPLES", 20)
    seen = set()

    @settings(quick, max_examples=draws)
    @given(drawn)
    def held(results):
        seen.update(hold(claims, results))

    held()
    assert seen == set(claims)  # a check that is never called proves nothing


# ------------------------------------------------------------------------- what was false before


def located(hits, rivals):
    """Two methods on the same images: which of them each finds."""
    parts = {"detectors": hits, "centre_gaussian": rivals}
    n = len(hits)
    table = pd.DataFrame({"method": list(parts), "n": n, "baseline": [False, True]})
    table["box_accuracy"] = [np.mean(found) for found in parts.values()]
    per_image = [
        pd.DataFrame({"method": name, "row": np.arange(n), "hit": np.asarray(found, float)})
        for name, found in parts.items()
    ]
    draws = pd.DataFrame({(name, "box_accuracy"): [0.0, 1.0] for name in parts})
    return Localisation(
        table, pd.concat(per_image, ignore_index=True), FittedMethods({}, {}), draws=draws,
        parameters={"n_groups": n, "n_effective": float(n)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("hits", "rivals", "groups", "shown"),
    [
        ([1], [0], None, "not shown"),  # one image
        ([1] * 107, [0] * 4 + [1] * 103, None, "not shown"),  # 4 : 0 of 107
        ([1] * 107, [0] * 12 + [1] * 95, None, "ahead"),
        ([1] * 50, [0] * 50, 5, "not shown"),  # five groups, however sure each image is
        ([1] * 50, [0] * 50, 10, "ahead"),
        ([0] * 20, [1] * 20, None, "behind"),
    ],
)
def test_boxes_are_compared_by_the_rule_of_the_heads(hits, rivals, groups, shown):
    names = [f"g{i % groups}" if groups else "" for i in range(len(hits))]
    pairs = box_pairs(located(hits, rivals), np.array(names), 0)
    assert words.standing(pairs.iloc[0]) == shown


def test_intervals_that_overlap_say_nothing_of_a_pair():
    pair = {"difference": 0.1, "difference_low": 0.04, "difference_high": 0.16, "p_adjusted": 3e-5}
    assert words.standing(pair) == "ahead"
    assert words.standing(pair | {"p_adjusted": math.nan}) == "unknown"
    assert words.points(pair).replace("\N{NO-BREAK SPACE}", " ") == (
        "+10 percentage points (4 to 16, adjusted p 3 × 10⁻⁵)"
    )
    for gap, shown in ((-0.01, "−1 percentage point"), (0.0, "0 percentage points")):
        assert words.points({"difference": gap, "difference_low": math.nan,
                             "difference_high": math.nan}) == shown  # fmt: skip


@pytest.fixture(scope="module")
def made():
    return make_results(n=60, c=8, pictures=False)


def test_a_silent_detector_is_one(made):
    table = made.neurons.assign(direction="silent", detector=True, confirmed=True)
    text = str(CLAIMS["detectors"](dataclasses.replace(made, neurons=table)))
    assert "8 neurons are confirmed to by being silent" in text and "0 " not in text[:40]
    table = table.assign(detector=False, confirmed=False)
    text = str(CLAIMS["detectors"](dataclasses.replace(made, neurons=table)))
    assert text == "No neuron is shown to: none was selected on the train images."


def test_a_pair_without_p_has_its_reason_on_the_page(made):
    table = made.neurons.assign(p=0.5, reason="", pooling="mean")
    results = dataclasses.replace(made, neurons=table)
    assert CLAIMS["without p"](results) is None
    name = str(table["class"].iloc[0])
    bare = table["class"].eq(name)
    few = table.assign(p=table["p"].mask(bare), reason=np.where(bare, "too few groups", ""))
    text = plain(CLAIMS["without p"](dataclasses.replace(made, neurons=few)))
    assert f"{bare.sum()} with fewer than five groups on a side" in text
    assert text.endswith(f"Of {name} no pair has one.")
    # Of every layer and pooling, as the number of tests beside it.
    both = dataclasses.replace(results, all_neurons=pd.concat([table, few]))
    assert f"{bare.sum()} of {2 * len(table)} pairs" in plain(CLAIMS["without p"](both))
    assert f"{bare.sum()} pairs without a p left out" in str(CLAIMS["selection"](both))
    assert report.summary(both)["without_p"] == {"too few groups": int(bare.sum())}


def test_every_reason_of_a_missing_p_has_its_words(made):
    reasons = [getattr(_ranking, name) for name in
               ("DEAD", "LITTLE", "FEW_IMAGES", "NO_P", "NOT_WITHIN", "FEW")]  # fmt: skip
    table = made.neurons.head(len(reasons)).assign(p=np.nan, reason=reasons)
    text = plain(CLAIMS["without p"](dataclasses.replace(made, neurons=table)))
    assert text.count(";") == len(reasons) - 1


def test_the_confirmed_stand_beside_all_selected(made):
    table = made.neurons.assign(detector=True, direction="active", confirmed=False)
    table["auroc_confirmed"] = np.linspace(0.5, 0.9, len(table))
    table.loc[table.index[-1], ["confirmed", "p_confirmed"]] = [True, 0.01]
    results = dataclasses.replace(made, neurons=table)
    text = plain(CLAIMS["detectors"](results))
    assert f"flatters these, the median of all {len(table)} selected is 0.70" in text
    assert "flatters" in text
    best = report.summary(results)["detectors"][str(table["class"].iloc[-1])]
    assert best["n"] == 1 and best["auroc_unseen_of_selected"] < best["auroc_confirmed"]
    every = dataclasses.replace(results, neurons=table.assign(confirmed=True))
    assert "flatters" not in str(CLAIMS["detectors"](every))


def test_groups_that_are_torn_apart_are_said_to_be(made):
    made.store.images["group"] = ["a", "b"] * 30
    assert "; 2 of 2 groups lie on two sides" in str(CLAIMS["split"](made))
    made.store.images["group"] = made.split.to_numpy()
    assert ", whole groups on one side" in str(CLAIMS["split"](made))
    made.store.images["group"] = ""
    assert "group" not in str(CLAIMS["split"](made))


def test_what_was_fitted_on_confirm_is_said(made):
    assert "box heads were fitted on train and confirm" in str(CLAIMS["fitted on"](made))
    assert "box heads" not in str(CLAIMS["fitted on"](dataclasses.replace(made, box_details=None)))


def test_few_detectors_are_not_said_to_do_as_well_as_all(made):
    few = SmallestSet([1, 2, 3, 4, 5], pd.DataFrame({"k": range(1, 40)}), 0.73, 0.6, 0.83, 0.92, 60)
    details = DetectorDetails(pd.DataFrame(), pd.DataFrame(), smallest=few)
    results = dataclasses.replace(made, detector_details=details)
    text = plain(CLAIMS["fewest detectors"](results))
    assert (
        "on 5 detectors" in text and "gets 73 %" in text and "on 39, the most tried, 92 %" in text
    )
    assert "as well" not in text


@pytest.mark.parametrize(("held", "words_"), [([0, 0], "no pair"), ([0, 2], "at most 2 pairs")])
def test_shuffled_labels_confirm_pairs_and_not_neurons(made, held, words_):
    nulls = pd.DataFrame({"confirmed": held})  # of two classes each neuron is two pairs
    details = DetectorDetails(pd.DataFrame(), pd.DataFrame(), nulls=nulls)
    text = plain(CLAIMS["shuffled labels"](dataclasses.replace(made, detector_details=details)))
    assert f"confirmed {words_} of class and neuron" in text


def test_the_question_of_the_detectors_maps_is_answered_by_detectors(made):
    claim = CLAIMS["where the object is"](made)
    text = plain(claim)
    assert text.index("detectors combined") < text.index("Of the others")
    scores = made.localisation
    rest = scores.table[~scores.table["method"].isin(["detectors", "best_detector"])]
    without = dataclasses.replace(scores, table=rest)
    claim = CLAIMS["where the object is"](dataclasses.replace(made, localisation=without))
    assert claim.verdict == "No confirmed detector has a map to ask" and not claim.clear


def test_a_detector_that_is_surely_ahead_is_not_called_not_shown(made):
    rows, pairs = made.localisation.table, made.box_details.pairs
    rival = made.localisation.best(baseline=True)["method"]
    # The other one was better where thresholds were chosen, and is not ahead on test.
    other = rows[rows["method"].eq("detectors")].assign(method="best_detector")
    rows = pd.concat([rows, other], ignore_index=True)
    rows["box_accuracy_confirm"] = np.where(rows["method"].eq("best_detector"), 0.9, 0.1)
    pairs = pairs[pairs["against"].eq(rival) & pairs["method"].eq("detectors")]
    pairs = pd.concat([pairs, pairs.assign(method="best_detector")], ignore_index=True)
    pairs = pairs.assign(difference=0.2, p_adjusted=0.5)
    for p, clear in ((2e-4, True), (0.5, False)):
        pairs.loc[pairs["method"].eq("detectors"), "p_adjusted"] = p
        results = dataclasses.replace(
            made, localisation=dataclasses.replace(made.localisation, table=rows),
            box_details=dataclasses.replace(made.box_details, pairs=pairs),
        )  # fmt: skip
        claim = CLAIMS["where the object is"](results)
        assert claim.clear == claim.verdict.startswith("Yes") == clear
        gaps = str(CLAIMS["how far from the baseline"](results))
        assert "“detectors combined” lies at +20" in gaps
        assert "“best detector alone” lies at +20" in gaps


def test_equal_counts_have_no_best_pooling(made):
    rows = pd.DataFrame({"layer": "top", "pooling": ["mean", "max"], "confirmed": 5})
    details = DetectorDetails(poolings=rows, confirmation=pd.DataFrame())
    results = dataclasses.replace(made, detector_details=details)
    assert CLAIMS["best pooling"](results) is None


@pytest.mark.parametrize(
    ("inside", "grade"),
    [(0.58, "weakly"), (0.69, "weakly"), (0.6949, "weakly"), (0.6996, "yes"), (0.95, "yes")],
)
def test_a_map_that_hardly_prefers_the_object_is_said_to_be_weak(inside, grade):
    row = pd.Series({"verdict": "on the object", "auroc_inside": inside})
    assert words.fires(row) == grade


def test_a_baseline_has_one_score_on_the_page(made):
    boxes = made.box_details
    heads = boxes.heads.assign(n=int(made.localisation.table["n"].iloc[0]))
    results = dataclasses.replace(made, box_details=dataclasses.replace(boxes, heads=heads))
    tables = localisation(results, Options()).tables
    cells = {row[0]: row[3] for row in tables["scores"].rows}
    regressed = {row[0]: row[1] for row in tables["box_heads"].rows}
    assert regressed["the mean training box"] == cells["the mean training box"]


def test_every_command_that_made_the_page_is_named_once(made):
    store = made.store
    store.provenance["command"] = "featlab extract a"
    seen = SimpleNamespace(facts={"command": "featlab gradients b"})
    trained = Transfer(*[pd.DataFrame()] * 3, about={"command": "featlab finetune c"})
    results = dataclasses.replace(made, gradients=seen, transfer=trained, command="featlab report")
    assert commands(results) == [
        "featlab extract a", "featlab gradients b", "featlab finetune c", "featlab report",
    ]  # fmt: skip
    store.provenance["command"] = "featlab report"
    assert commands(dataclasses.replace(made, command="featlab report")) == ["featlab report"]


def test_the_command_line_tells_what_it_does_not_know(made, capsys, tmp_path):
    heads = made.heads.table.assign(accuracy_low=np.nan, accuracy_high=np.nan)
    scores = made.localisation.table.assign(mean_iou=np.nan)
    results = dataclasses.replace(
        made,
        heads=dataclasses.replace(made.heads, table=heads),
        localisation=dataclasses.replace(made.localisation, table=scores),
    )
    tell(report.summary(results), tmp_path)
    told = capsys.readouterr().out
    assert "accuracy 0.930 [–, –] on" in told and "mean IoU –" in told and "nan" not in told


def test_the_command_line_says_why_there_is_no_p_and_what_confirming_flatters(
    made, capsys, tmp_path
):
    summary = report.summary(made)
    for one in summary["detectors"].values():
        one["n_selected"] = one["n"] + 1
    tell(summary | {"without_p": {"constant": 3, "too few groups": 1}}, tmp_path)
    told = capsys.readouterr().out
    assert "pairs of class and neuron without a p: 3 constant, 1 too few groups" in told
    assert told.count("which being confirmed flatters (median of all selected there") == sum(
        one["n"] > 0 for one in summary["detectors"].values()
    )
    assert "more class" not in told
    (one, *_) = summary["detectors"].values()
    tell(summary | {"detectors": {f"class {k}": one for k in range(13)}}, tmp_path)
    told = capsys.readouterr().out
    assert "detectors of class 9:" in told and "… and of 3 more classes" in told
    tell(summary | {"without_p": {}}, tmp_path)
    assert "without a p" not in capsys.readouterr().out


def test_the_command_line_says_that_there_are_no_labels(made, capsys, tmp_path):
    summary = report.summary(made)
    tell(summary | {"n_images": 1200, "classes": []}, tmp_path)
    assert capsys.readouterr().out.startswith("1,200 images without labels; ")
    tell(summary | {"n_images": 1, "classes": ["cat"]}, tmp_path)
    assert capsys.readouterr().out.startswith("1 image of 1 class; ")
    tell(summary | {"own_classes": {"banana": {"images": 78}, "fig": {"images": 3}}}, tmp_path)
    assert "itself calls pictures most often: banana (78), fig (3)\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "value", [0.9951, 0.998, 0.99951, 0.999996, 1e-7, 0.004, 0.0004, 0.5, 0.0, 1.0]
)
def test_a_score_claims_all_or_nothing_only_where_it_is(value):
    for one in (value, -value):
        for text in (score_text(one), words.score(one).replace("−", "-"), score_text(one, 3)):
            side, shown = text[0], float(text.lstrip("<> "))
            assert (shown in (0, 1, -1)) == (one in (0, 1, -1)), text
            assert len(text) <= 9
            if side in "<>":
                assert (shown < one) == (side == ">") and abs(shown - one) <= 1e-4
            else:
                assert abs(shown - one) <= 0.5 * 10 ** -len(text.partition(".")[2]) + 1e-12


def test_what_a_map_learns_from_is_said():
    row = pd.Series({"baseline": False, "supervision": "network", "class_asked": "as given"})
    assert words.learns_from(row) == "image labels, through the network"
    row["class_asked"] = "own"  # the network's own head learnt elsewhere
    assert words.learns_from(row) == "nothing of this set, through the network"
    row["supervision"] = METHODS["sum"].supervision  # it asks for no class
    assert words.learns_from(row) == "nothing"


def test_boxes_of_one_kind_of_several_are_named(made):
    store, boxes = made.store, made.store.boxes
    assert "of kind" not in str(CLAIMS["box sizes"](made))
    both = pd.concat([boxes, boxes.assign(kind="head")], ignore_index=True)
    several = SimpleNamespace(boxes=both, images=store.images)
    results = dataclasses.replace(made, store=several, box_kind="head")
    assert "of kind “head”" in str(CLAIMS["box sizes"](results))
    results = dataclasses.replace(results, samples=Samples([None], ["a"], [np.ones((1, 4))]))
    assert "white: ground-truth boxes of kind “head”" in str(CLAIMS["samples"](results))


def test_a_model_is_never_said_to_be_entirely_sure(made):
    for value in (1.0, 1 - 1e-16, 1 - 1e-12):
        assert plain(words.probability(value)) == "> 99.9 %"
        assert plain(words.probability(1 - value)) == "< 0.1 %"
    assert plain(words.probability(0.655)) == "66 %"


def test_a_table_of_detectors_that_were_all_confirmed_is_not_called_flattered(
    made, capsys, tmp_path
):
    held = made.neurons["detector"].eq(True)
    for confirmed in (True, False):
        first = held.to_numpy().argmax()
        table = made.neurons.assign(confirmed=made.neurons["confirmed"].mask(held, True))
        table.loc[table.index[first], ["confirmed", "direction"]] = [confirmed, "active"]
        results = dataclasses.replace(made, neurons=table)
        shown = detectors(results, Options()).tables["detectors"]
        assert ("flatters" in shown.caption) == (not confirmed)
        tell(report.summary(results), tmp_path)
        assert ("flatters" in capsys.readouterr().out) == (not confirmed)


# ------------------------------------------------------------------------------------- the numbers


@settings(max_examples=NUMBERS, deadline=None, derandomize=True)
@given(st.floats(0, 1))
def test_a_percentage_claims_all_or_nothing_only_where_it_is(value):
    text = words.percent(value).replace("\N{NO-BREAK SPACE}", " ")
    assert same(text, value)
    assert (text == "100 %") == (value == 1) and (text == "0 %") == (value == 0)
    assert text not in ("100.0 %", "0.0 %")


@settings(max_examples=NUMBERS, deadline=None, derandomize=True)
@given(st.floats(-1e6, 1e6), st.integers(0, 4))
def test_a_signed_number_has_one_sign_and_none_at_zero(value, digits):
    text = words.signed(value, digits)
    exact = Fraction(text.replace("−", "-").replace(",", "").replace("+", ""))
    assert abs(exact - Fraction(value)) <= Fraction(1, 2 * 10**digits) + Fraction(1, 10**8)
    assert sum(text.count(sign) for sign in "+−-") == (exact != 0)
    assert words.number(value, digits).lstrip("−") == text.lstrip("+−")


@settings(max_examples=NUMBERS, deadline=None, derandomize=True)
@given(st.floats(0, 1), st.floats(0, 1) | st.just(math.nan), st.floats(0, 1))
def test_a_share_prints_both_ends_of_an_interval_or_none(value, low, high):
    text = words.share({"a": value, "a_low": low, "a_high": high}, "a")
    assert ("to" in text) == math.isfinite(low) and "–" not in text


@settings(max_examples=NUMBERS, deadline=None, derandomize=True)
@given(st.floats(0, 1))
def test_a_p_value_keeps_its_order(p):
    text = words.p_value(p)
    if p >= 1e-300:
        base, _, power = text.partition(" × 10")
        digits = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
        read = float(base) * 10.0 ** int(power.translate(digits) or 0)
        assert read == pytest.approx(p, abs=6e-4 if not power else 0, rel=0.51 if power else 0)
    else:
        assert text == "< 10⁻³⁰⁰"
