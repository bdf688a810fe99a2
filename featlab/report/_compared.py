"""The sections of a comparison on classes, detectors and localisation."""

from __future__ import annotations

import math
from functools import partial

import pandas as pd
from markupsafe import Markup

from featlab import plots
from featlab.plots.style import short_name, short_names
from featlab.report import _words as words
from featlab.report._elements import Figure, Section, Table, table
from featlab.report._words import COMPARISON_CLAIMS, Claim, claim, points, standing
from featlab.results.pictures import Comparison

_LISTED = 3  # names in a sentence
_MOST_STRIPS = 8  # entries in the figure of pictures


def classes(comparison: Comparison) -> Section:
    """Which tells the classes apart."""
    return Section(
        "classes",
        "Which tells the classes apart",
        "compare_classes.html",
        tables={
            "heads": _head_scores(comparison.entries),
            "pairs": _pairs(comparison.head_pairs),
        },
        figures={"heads": _accuracies(comparison)},
        files={"compare_heads": comparison.heads},
        link="Classes",
    )


@claim("compared heads", COMPARISON_CLAIMS)
def heads_answer(comparison: Comparison) -> Claim:
    """Which tells the classes best: a verdict, whether it is a clear one, and the figures."""
    best = _entry(comparison, comparison.best_head)
    verdict, clear = _verdict(comparison.head_pairs)
    tied = comparison.entries[["accuracy_confirm", "log_loss_confirm"]]
    alone = (tied == best[tied.columns].astype(float)).all(axis=1).sum() == 1
    text = Markup(
        "The logistic head on “{}” does {} on the confirm images (accuracy, then log loss). Of "
        "{} it gets {} right. {}"
    ).format(
        words.name(best["name"]),
        "best" if alone else "as well as any",
        words.plural(int(best["n"]), "test image"),
        words.share(best, "accuracy"),
        _against(comparison.head_pairs),
    )
    return Claim(text, verdict, clear)


def _head_scores(entries: pd.DataFrame) -> Table | None:
    rows = [
        [
            words.name(row["name"]),
            words.scored(row, "accuracy"),
            words.number(row["accuracy_confirm"], 3),
            words.number(row["log_loss_confirm"], 3),
        ]
        for _, row in entries.iterrows()
    ]
    columns = ["Name", "Accuracy on test, 95 % interval", "Accuracy on confirm"]
    return table(
        f"The logistic head on each (n = {entries['n'].max():,} test images); the best is chosen "
        "on confirm",
        [*columns, "Log loss on confirm"],
        rows,
        file="compare",
    )


def _accuracies(comparison: Comparison) -> Figure:
    entries = comparison.entries
    heads = comparison.heads
    network = heads["backbone"] != ""
    names = heads["backbone"].where(network, heads["head"].map(words.readable))
    named = heads.assign(name=names, baseline=~network).sort_values("baseline", kind="stable")
    return Figure(
        partial(plots.score_intervals, named, "accuracy"),
        str(_heads_listed(comparison)),
        f"Accuracy of the logistic head on unseen test images"
        f"{words.with_intervals(entries, 'accuracy')}. Hollow: what one gets without a network.",
        "compare_heads",
    )


def detectors(comparison: Comparison) -> Section:
    """What detectors each has."""
    return Section(
        "detectors",
        "Detectors",
        "compare_detectors.html",
        tables={"detectors": _detector_counts(comparison.entries)},
        figures={"detectors": _aurocs(comparison)},
        files={"compare_detectors": comparison.detectors},
    )


@claim("every compared head", COMPARISON_CLAIMS)
def _heads_listed(comparison: Comparison) -> str:
    listed = "; ".join(
        f"{r['name']} {words.scored(r, 'accuracy')}" for _, r in comparison.entries.iterrows()
    )
    return f"Accuracy of the logistic head on each: {listed}."


@claim("compared detectors", COMPARISON_CLAIMS)
def detectors_answer(comparison: Comparison) -> Claim:
    """Which has more confirmed detectors."""
    table = comparison.entries.sort_values("confirmed", ascending=False, kind="stable")
    first = table.iloc[0]
    if not first["confirmed"]:
        return Claim("No detector was confirmed in any of them.", "None has any")
    counts = [
        Markup("“{}” {} (of {})").format(
            words.name(row["name"]),
            f"{int(row['confirmed']):,}",
            words.plural(int(row["neurons"]), "neuron"),
        )
        for _, row in table.head(_LISTED).iterrows()
    ]
    rest = f", {len(table) - len(counts)} more in the table" if len(table) > len(counts) else ""
    text = Markup(
        "Confirmed on unseen images, counted as pairs of neuron and class: {}{}. A count is no "
        "test: neurons of different networks do not correspond, and more neurons can be more "
        "detectors."
    ).format(Markup(", ").join(counts), rest)
    most = table.loc[table["confirmed"].eq(first["confirmed"]), "name"]
    return Claim(text, Markup("“{}”, by count").format(words.listed(most)))


def _detector_counts(entries: pd.DataFrame) -> Table | None:
    rows = [
        [
            words.name(row["name"]),
            Markup("neuron\u00a0{} for {}").format(
                int(row["best_neuron"]), words.name(row["best_class"])
            )
            if row["confirmed"]
            else "–",
            words.scored(row, "auroc_confirmed"),
            f"{row['selected']:,}",
            f"{row['confirmed']:,}",
        ]
        for _, row in entries.iterrows()
    ]
    columns = ["Name", "Leading detector", "Its AUROC on unseen, 95 % interval"]
    return table(
        "Detectors: pairs of neuron and class; in the lead the highest AUROC at selection of those "
        "confirmed, which flatters its AUROC on unseen (the interval allows for it)",
        [*columns, "Selected", "Confirmed"],
        rows,
        (0, 1),
        file="compare_detectors",
    )


def _aurocs(comparison: Comparison) -> Figure | None:
    if comparison.detectors.empty:
        return None
    names = comparison.entries["name"].tolist()
    return Figure(
        partial(plots.detector_aurocs, comparison.detectors, names),
        "AUROC on unseen images of every detector, by entry.",
        "Every detector that was selected on train images, at the AUROC it has on the confirm "
        "images, which it was not selected on; bar: the median of them all, since that of the "
        "confirmed alone would be flattered.",
        "compare_detectors",
    )


def localisation(comparison: Comparison) -> Section:
    """Which shows where the object is."""
    pairs = {"heads": comparison.head_pairs, "boxes": comparison.box_pairs}
    every = [rows.assign(of=name) for name, rows in pairs.items() if len(rows)]
    files = {
        "compare_localisation": comparison.localisation,
        "compare_pairs": pd.concat(every, ignore_index=True),
    }
    measured = bool(comparison.best_boxes)
    return Section(
        "localisation",
        "Localisation",
        "compare_localisation.html",
        facts={"measured": measured},
        tables={
            "boxes": _box_scores(comparison.entries) if measured else None,
            "pairs": _pairs(comparison.box_pairs),
        },
        figures={
            "boxes": _box_accuracies(comparison) if measured else None,
            "success": _success(comparison),
            "method_examples": _method_examples(comparison),
        },
        files=files,
    )


@claim("compared boxes", COMPARISON_CLAIMS)
def boxes_answer(comparison: Comparison) -> Claim:
    """Which localises better."""
    if not comparison.best_boxes:
        nothing = "It takes boxes on confirm images, to choose by, and on test images, to score."
        return Claim(nothing, "Not measured")
    best = _entry(comparison, comparison.best_boxes)
    verdict, clear = _verdict(comparison.box_pairs)
    tied = comparison.entries["box_accuracy_confirm"].eq(best["box_accuracy_confirm"]).sum()
    text = Markup(
        "Each with its own best map method that learns from no boxes, chosen on the confirm "
        "images, where “{}” with “{}” does {}. On {} it finds the box (IoU ≥ 0.5) in {}; the best "
        "baseline without a network, “{}”, in {}. {}"
    ).format(
        words.name(best["name"]),
        words.method(best["method"]),
        "best" if tied == 1 else "as well as any",
        words.plural(int(best["n_boxes"]), "test image"),
        words.share(best, "box_accuracy"),
        words.method(best["baseline"]),
        words.percent(best["baseline_box_accuracy"]),
        _against(comparison.box_pairs),
    )
    return Claim(text, verdict, clear)


def _box_scores(entries: pd.DataFrame) -> Table | None:
    rows = [
        [
            words.name(row["name"]),
            words.method(row["method"]),
            words.scored(row, "box_accuracy"),
            words.number(row["box_accuracy_confirm"]),
            words.scored(row, "mean_iou"),
            words.number(row["baseline_box_accuracy"]),
            words.number(row["seconds_per_1000"], 1),
        ]
        for _, row in entries.iterrows()
    ]
    columns = ["Name", "Its best map method", "Box accuracy on test", "on confirm", "Mean IoU"]
    return table(
        f"Boxes of maps that learn from no boxes{words.with_intervals(entries, 'box_accuracy')} "
        f"(n = {entries['n_boxes'].max():,})",
        [*columns, "Best baseline without a network", "Seconds for 1,000"],
        rows,
        (0, 1),
        file="compare_localisation",
    )


def _box_accuracies(comparison: Comparison) -> Figure:
    entries, every = comparison.entries, comparison.localisation
    highest = entries.iloc[int(entries["baseline_box_accuracy"].argmax())]
    rival = every[every["entry"].eq(highest["name"]) & every["method"].eq(highest["baseline"])]
    rival = rival.assign(name=words.method(highest["baseline"]), baseline=True)
    ours = entries.assign(baseline=False, n=entries["n_boxes"])
    return Figure(
        partial(plots.score_intervals, pd.concat([ours, rival], ignore_index=True), "box_accuracy"),
        str(_boxes_listed(comparison)),
        "Share of test images whose box is found, each entry with the map method that was best on "
        f"the confirm images{words.with_intervals(entries, 'box_accuracy')}. Hollow: the best "
        "baseline without a network.",
        "compare_boxes",
    )


@claim("every compared box accuracy", COMPARISON_CLAIMS)
def _boxes_listed(comparison: Comparison) -> str:
    if not comparison.best_boxes:
        return ""
    listed = "; ".join(
        f"{r['name']} {words.scored(r, 'box_accuracy')}" for _, r in comparison.entries.iterrows()
    )
    return f"Box accuracy on test images: {listed}."


def _success(comparison: Comparison) -> Figure | None:
    curves = comparison.success
    if curves.empty:
        return None
    # A title in brackets marks a baseline.
    titles = {
        name: f"(baseline: {words.method(str(name).removeprefix('baseline: '))})"
        if name not in set(comparison.entries["name"])
        else str(name)
        for name in curves["method"].drop_duplicates()
    }
    return Figure(
        partial(plots.curves.success_curves, curves, titles),
        "Share of test images whose box reaches an IoU, for every IoU from 0 to 1, by entry.",
        f"The same method, “{words.method(comparison.shared_method)}”, on every entry: share of "
        "test images whose box overlaps the truth by at least so much. It is the one that did best "
        "on the confirm images over all entries.",
        "compare_success",
    )


def _method_examples(comparison: Comparison) -> Figure | None:
    method_examples = comparison.method_examples
    if method_examples is None or not method_examples.pictures:
        return None
    names = list(method_examples.heats)[:_MOST_STRIPS]
    short = dict(zip(names, short_names(names, 34), strict=True))
    rest = len(method_examples.heats) - len(names)
    return Figure(
        partial(
            plots.pictures.method_strips,
            method_examples.pictures,
            {short[name]: method_examples.heats[name] for name in names},
            labels=method_examples.labels,
            true_boxes=method_examples.true_boxes,
            predicted_boxes={short[name]: method_examples.predicted_boxes[name] for name in names},
        ),
        "The same test images under the heat map and box of each entry.",
        "The same test images, drawn at random, under the heat map of "
        f"“{words.method(comparison.shared_method)}” in each entry. White: true boxes; blue: "
        "predicted, at the entry’s threshold; glow: the heat map, on its own scale."
        + (f" {rest} more entries are not shown." if rest else ""),
        "compare_pictures",
        pictures=True,
    )


def _entry(comparison: Comparison, name: str) -> pd.Series:
    return comparison.entries[comparison.entries["name"] == name].iloc[0]


def _verdict(pairs: pd.DataFrame) -> tuple[Markup, bool]:
    """Against how many of the others the leader's lead is shown."""
    leader = words.name(pairs["a"].iloc[0])
    outcomes = pd.Series([standing(pair) for _, pair in pairs.iterrows()], index=pairs.index)
    ahead, behind = pairs[outcomes.eq("ahead")], pairs[outcomes.eq("behind")]
    if len(behind):
        return Markup("“{}” on confirm, but “{}” is ahead on test").format(
            leader, words.name(behind["b"].iloc[0])
        ), False
    if len(ahead) == len(pairs):
        return Markup("“{}”, clearly").format(leader), True
    if len(ahead):
        rest = pairs.loc[pairs.index.difference(ahead.index), "b"]
        return Markup("“{}”, though not shown to be better than {}").format(
            leader, words.listed(rest) if len(rest) < _LISTED else f"{len(rest)} of the others"
        ), False
    return Markup("No difference is shown"), False


def _against(pairs: pd.DataFrame) -> Markup:
    """Over how many of the others the lead is sure, and how large it is over the nearest."""
    nearest = pairs.iloc[int(pairs["difference"].argmin())]
    surely = sum(standing(pair) == "ahead" for _, pair in pairs.iterrows())
    count = ""
    if len(pairs) > 1:
        count = f"it is surely ahead of {surely or 'none'} of the {len(pairs)} others; "
    return Markup("Image by image {}its lead over {}“{}” is {}.").format(
        count, "the nearest, " if count else "", words.name(nearest["b"]), points(nearest, 1)
    )


def _pairs(pairs: pd.DataFrame) -> Table | None:
    if pairs.empty:
        return None
    what, hit, iou = "accuracy", "right", "iou_difference" in pairs
    if iou:
        what, hit = "box accuracy", "finds it"
    rows = []
    for _, row in pairs.iterrows():
        cells = [words.name(row["b"]), _points(row, "difference")]
        if iou:
            ends = words.interval(row["iou_difference_low"], row["iou_difference_high"])
            cells.append(f"{words.signed(row['iou_difference'])} {ends}")
        cells += [
            f"{int(row['only_a']):,} / {int(row['only_b']):,}",
            str(row["test"]),
            words.p_value(row["p_adjusted"]),
        ]
        rows.append(cells)
    columns = ["Against", f"Lead in {what} (points)", *["in mean IoU"] * iou]
    return table(
        f"“{short_name(pairs['a'].iloc[0], 60)}” and the others on the same test images "
        f"(Holm over {words.plural(len(pairs), 'comparison')})",
        [*columns, f"Only one {hit}", "Test", "Adjusted p"],
        rows,
        file="compare_pairs",
    )


def _points(row: pd.Series, score: str) -> str:
    """A difference of shares in percentage points, with its interval."""
    value, low, high = (100 * row[f"{score}{end}"] for end in ("", "_low", "_high"))
    text = f"{words.signed(value, 1)}"
    if math.isfinite(low):
        text += f" [{words.signed(low, 1)},\N{NO-BREAK SPACE}{words.signed(high, 1)}]"
    return text
