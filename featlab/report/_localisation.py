"""The section "Localisation": boxes from heat maps, neuron by neuron, and by regression."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from featlab import plots
from featlab.plots.curves import threshold_curves
from featlab.report import _answers as answers
from featlab.report import _words as words
from featlab.report._answers import scored
from featlab.report._elements import Figure, Options, Section, Table, rows_per_class, table
from featlab.report._heads import box_curve
from featlab.report._words import claim
from featlab.results.analysis import Results
from featlab.results.localisation import Localisation
from featlab.results.pictures import Examples, MethodExamples

_FEWEST_FAILURES = 9


def localisation(results: Results, options: Options) -> Section:
    """Do the maps show where the object is?"""
    scores, boxes, most = scored(results), results.box_details, options.most_examples
    regressed = None if boxes is None else boxes.heads
    figures: dict[str, Figure | list[Figure] | None] = {
        "method_examples": _method_examples(results.method_examples),
        "examples": _examples(results.localisation_examples, most),
        "failures": _failures(results.failures, most),
        "box_heads": None if regressed is None else _box_heads(results),
        "box_curve": box_curve(results),
    }
    if scores is not None:
        figures |= {
            "scores": _scores(results, scores.table),
            "success": _success(scores),
            "thresholds": _thresholds(scores),
        }
    return Section(
        "localisation",
        "Localisation",
        "localisation.html",
        facts={
            "answer": answers.maps_answer(results),
            "units": answers.units_answer(results),
            "gaps": answers.maps_gaps(results),
            "box_kind": kind_answer(results),
            "measured": scores is not None,
            "has_gallery": results.gallery is not None,
        },
        tables={
            "scores": None if scores is None else _score_table(results, scores.table),
            "pairs": None if boxes is None else _pairs(boxes.pairs),
            "units": _units(results),
            "box_heads": None if regressed is None else _box_head_table(results),
        },
        figures=figures,
        files=_files(results),
    )


@claim("box kind")
def kind_answer(results: Results) -> Markup:
    """Which boxes are the truth."""
    if scored(results) is None or not results.box_kind:
        return Markup("")
    return Markup("Scored against boxes of kind “{}”.").format(words.name(results.box_kind))


def _files(results: Results) -> dict[str, pd.DataFrame]:
    files, boxes = {}, results.box_details
    if results.localisation is not None:
        files["localisation"] = results.localisation.table
    if results.units is not None:
        files["units"] = results.units
    if boxes is not None:
        files["localisation_pairs"] = boxes.pairs
        if boxes.curve is not None and len(boxes.curve):
            files["box_curve"] = boxes.curve
        if boxes.heads is not None:
            files["box_heads"] = boxes.heads
    return files


# --------------------------------------------------------------------------------------- the tables


def _score_table(results: Results, scores: pd.DataFrame) -> Table | None:
    order = scores.sort_values(["baseline", "box_accuracy"], ascending=[True, False], kind="stable")
    rows = [
        [
            words.method(row["method"]),
            words.learns_from(row),
            words.scored(row, "box_accuracy"),
            words.scored(row, "mean_iou"),
            words.scored(row, "centre_in_box"),
            words.number(row["threshold"]),
            words.number(row["box_accuracy_oracle"]),
            words.number(row.get("max_box_acc_v2", math.nan)),
        ]
        for _, row in order.iterrows()
    ]
    columns = ["Method", "Learns from", "Box accuracy", "Mean IoU", "Centre in box", "Threshold"]
    thresholds = answers.thresholds(results)
    return table(
        f"Localisation on test images{words.with_intervals(scores, 'box_accuracy')}"
        f"{f'; {thresholds}' if thresholds else ''}",
        [*columns, "MaxBox-Acc*", "V2*"],
        rows,
        (0, 1),
        file="localisation",
    )


def _pairs(pairs: pd.DataFrame) -> Table | None:
    rows = [
        [
            words.method(row["method"]),
            words.number(row["value"]),
            words.difference(row),
            words.counts(row.get("only_method"), row.get("only_against")),
            str(row.get("test") or "–"),
            words.p_value(row.get("p_adjusted")),
        ]
        for _, row in pairs.sort_values("difference", ascending=False).iterrows()
    ]
    if not rows:
        return None
    against = words.method(pairs["against"].iloc[0])
    return table(
        f"Box accuracy minus that of the best baseline, “{against}”, image by image",
        ["Method", "Box accuracy", "Difference", "Only one finds it", "Test", "Adjusted p"],
        rows,
        (0, 4),
        file="localisation_pairs",
    )


def _units(results: Results) -> Table | None:
    """Detector by detector, best first: does its own map allow localisation?"""
    units, pointing = results.units, results.pointing
    if units is None or units.empty:
        return None
    if pointing is not None:
        peaks = pointing.rename(columns={"n": "pointing_n"})
        units = units.merge(peaks, on=["layer", "class", "neuron"], how="left")
    several = len(units["layer"].unique()) > 1
    most = rows_per_class(len(results.store.classes))
    rows = [
        [
            f"neuron\u00a0{row['neuron']}" + (f" ({row['layer']})" if several else ""),
            words.name(row["class"]),
            words.fires(row),
            words.scored(row, "auroc_inside"),
            words.p_value(row["p_inside"]),
            words.number(row["iou"]),
            words.number(row["iou_chance"]),
            words.p_value(row["p_adjusted"]),
            _peak_in_box(row),
            words.percent(row.get("picture_centre")),
        ]
        for _, row in units.groupby("class", sort=True).head(most).iterrows()
    ]
    columns = ["Neuron", "Class", "Its map finds the object"]
    inside = ["AUROC inside against outside", "Adjusted p of that"]
    overlap = ["IoU with the boxes", "with other images’ boxes", "Adjusted p of the two"]
    pointed = ["Peak in a box", "Picture’s centre"]
    return table(
        "Does this neuron’s map allow localisation of the object?",
        [*columns, *inside, *overlap, *pointed],
        rows,
        (0, 1, 2),
        total=len(units),
        file="units",
    )


def _peak_in_box(row: pd.Series) -> str:
    """How often the peak of a detector's map falls inside a box, and of how many images."""
    if not math.isfinite(row.get("pointing", math.nan)):
        return "–"
    return f"{words.percent(row['pointing'])} of {int(row['pointing_n'])}"


def _regressed(results: Results) -> pd.DataFrame:
    """Scores of the box heads; of a baseline that heat maps are compared with, too, as there."""
    assert results.box_details is not None and results.box_details.heads is not None
    heads, scores = results.box_details.heads.copy(), scored(results)
    if scores is None:
        return heads
    known = scores.table.set_index("method")
    columns = [
        f"{score}{end}"
        for score in ("mean_iou", "box_accuracy", "centre_in_box")
        for end in ("", "_low", "_high")
    ]
    for place, row in heads.iterrows():
        name = row["head"]
        if row["baseline"] and name in known.index and known.loc[name, "n"] == row["n"]:
            heads.loc[place, columns] = known.loc[name, columns]
    return heads


def _box_head_table(results: Results) -> Table | None:
    scores = _regressed(results)
    rows = [
        [
            words.box_head(row["head"]),
            words.scored(row, "mean_iou"),
            words.scored(row, "box_accuracy"),
            words.scored(row, "box_accuracy_70"),
            words.scored(row, "centre_in_box"),
            f"{int(row['n_fit']):,}",
            f"{int(row['n']):,}",
            words.number(row["seconds"], 1),
        ]
        for _, row in scores.iterrows()
    ]
    columns = ["Box head", "Mean IoU", "IoU ≥ 0.5", "IoU ≥ 0.7", "Centre in box", "n learnt from"]
    return table(
        f"Boxes by regression on test images{words.with_intervals(scores, 'mean_iou')}",
        [*columns, "n test", "Seconds"],
        rows,
        file="box_heads",
    )


# -------------------------------------------------------------------------------------- the figures


@claim("every method")
def _listed(results: Results) -> str:
    scores = scored(results)
    if scores is None:
        return ""
    every = "; ".join(
        f"{words.method(r['method'])} {words.scored(r, 'box_accuracy')}"
        for _, r in scores.table.iterrows()
    )
    return f"Box accuracy of each method on test images: {every}."


def _scores(results: Results, scores: pd.DataFrame) -> Figure:
    named = scores.assign(method=scores["method"].map(words.method))
    return Figure(
        partial(plots.score_intervals, named, "box_accuracy"),
        str(_listed(results)),
        "Share of test images whose box is found (IoU ≥ 0.5), the class being known"
        f"{words.with_intervals(scores, 'box_accuracy')}. Hollow: baselines.",
        "localisation_accuracy",
    )


def _success(scores: Localisation) -> Figure | None:
    if scores.success.empty:
        return None
    n = int(scores.table["n"].max())
    return Figure(
        partial(plots.curves.success_curves, scores.success, _curve_titles(scores), n=n),
        "Share of test images whose box reaches an IoU, for every IoU from 0 to 1.",
        "How strict may one be? Share of test images whose box overlaps the truth by at least so "
        "much; dashed: the best baseline.",
        "localisation_by_iou",
    )


def _thresholds(scores: Localisation) -> Figure | None:
    if scores.curves.empty:
        return None
    names, own = scores.table["method"].astype(str), scores.table["threshold"]
    return Figure(
        partial(
            threshold_curves,
            scores.curves,
            _curve_titles(scores),
            dict(zip(names, own, strict=True)),
            n=int(scores.table["n"].max()),
        ),
        "Share of test images whose box is found, for every threshold from 0 to 0.99.",
        "How much hangs on the threshold? The best point of a curve is what the literature prints "
        "(MaxBoxAcc); the dot is what one gets without looking at the test images.",
        "localisation_by_threshold",
    )


def _curve_titles(scores: Localisation) -> dict[str, str]:
    """The five best methods and the best baseline, which stands in brackets."""
    ours = scores.table[~scores.table["baseline"].astype(bool)].nlargest(5, "box_accuracy")
    titles = {str(name): words.method(name) for name in ours["method"]}
    rival = scores.best(baseline=True)
    if rival is not None:
        titles[str(rival["method"])] = f"({words.method(rival['method'])})"
    return titles


def _method_examples(method_examples: MethodExamples | None) -> Figure | None:
    if method_examples is None or not method_examples.pictures or not method_examples.heats:
        return None
    titles = {method: words.method(method) for method in method_examples.heats}
    return Figure(
        partial(
            plots.pictures.method_strips,
            method_examples.pictures,
            {titles[method]: heats for method, heats in method_examples.heats.items()},
            labels=method_examples.labels,
            true_boxes=method_examples.true_boxes,
            predicted_boxes={
                titles[m]: boxes for m, boxes in method_examples.predicted_boxes.items()
            },
        ),
        "The same test images seen by several methods, with true and predicted boxes.",
        "The same test images seen by several methods. White: true boxes; blue: predicted, at the "
        "method's threshold; glow: the heat map, on its own scale.",
        "localisation_method_maps",
        pictures=True,
    )


def _examples(examples: Examples | None, most: int) -> Figure | None:
    if examples is None or not examples.pictures or most < 1:
        return None
    some = _spread(examples, most)
    method = words.method(some.neurons[0][0]) if some.neurons else "the best map method"
    ious = some.ious if some.ious is not None else [math.nan] * len(some.pictures)
    return _boxes_on_pictures(
        some,
        ious,
        f"{words.plural(len(ious), 'test image')} with true and predicted boxes",
        f"Boxes of “{method}”{_range_of(ious)}. White: true boxes; blue: predicted; glow: the heat "
        "map, each on its own scale.",
        "localisation_examples",
    )


def _failures(examples: Examples | None, most: int) -> Figure | None:
    if examples is None or not examples.pictures or most < 1 or examples.ious is None:
        return None
    worst = examples.first(max(most, _FEWEST_FAILURES))
    ious = worst.ious or []
    return _boxes_on_pictures(
        worst,
        ious,
        f"{words.plural(len(ious), 'test image')} with the worst boxes",
        f"The worst boxes of “{words.method(worst.neurons[0][0])}”{_range_of(ious)}. Look for what "
        "the heat map follows instead of the object.",
        "localisation_failures",
    )


def _range_of(ious: list[float]) -> str:
    """`, IoU 0.01 to 0.92`; nothing where none is known."""
    known = [value for value in ious if math.isfinite(value)]
    if not known:
        return ""
    low, high = words.number(min(known)), words.number(max(known))
    return f", IoU {low} to {high}" if low != high else f", IoU {low}"


def _boxes_on_pictures(
    examples: Examples, ious: list[float], alt: str, caption: str, file: str
) -> Figure:
    predicted = examples.predicted_boxes
    return Figure(
        partial(
            plots.localisation_examples,
            examples.pictures,
            examples.heats,
            examples.true_boxes,
            predicted if predicted is not None else [None] * len(ious),
            ious,
            labels=examples.labels,
        ),
        f"{alt}; IoU {', '.join(words.number(value) for value in ious)}.",
        caption,
        file,
        pictures=True,
    )


def _spread(examples: Examples, most: int) -> Examples:
    """At most so many of the examples, evenly from the best to the worst."""
    n = len(examples.pictures)
    if n <= most:
        return examples
    picks = np.unique(np.linspace(0, n - 1, most).round().astype(int))

    def some(values: Any) -> Any:
        return None if values is None else [values[i] for i in picks]

    return Examples(
        some(examples.rows), some(examples.pictures), examples.neurons, some(examples.heats),
        some(examples.true_boxes), some(examples.labels), some(examples.predicted_boxes),
        some(examples.predicted_labels), some(examples.ious),
    )  # fmt: skip


@claim("every box head")
def _box_heads_listed(results: Results) -> str:
    if results.box_details is None or results.box_details.heads is None:
        return ""
    every = "; ".join(
        f"{words.box_head(r['head'])} {words.scored(r, 'mean_iou')}"
        for _, r in _regressed(results).iterrows()
    )
    return f"Mean IoU of boxes by regression on test images: {every}."


@claim("box heads")
def _box_heads_fitted(results: Results) -> str:
    heads = None if results.box_details is None else results.box_details.heads
    if heads is None or heads.empty:
        return ""
    return (
        "Boxes by regression on the stored maps, learnt from "
        f"{words.plural(int(heads['n_fit'].max()), 'train or confirm image')} with boxes, on "
        f"{words.plural(int(heads['n'].max()), 'test image')}"
        f"{words.with_intervals(heads, 'mean_iou')}. Hollow: baselines."
    )


def _box_heads(results: Results) -> Figure:
    scores = _regressed(results)
    named = scores.assign(head=scores["head"].map(words.box_head))
    return Figure(
        partial(plots.score_intervals, named, "mean_iou"),
        str(_box_heads_listed(results)),
        str(_box_heads_fitted(results)),
        "box_head_accuracy",
    )
