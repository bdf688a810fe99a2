"""The section "Localisation": boxes from heat maps, neuron by neuron, and by regression."""

from __future__ import annotations

import math
from functools import partial

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
from featlab.report._interactive import regressed_boxes
from featlab.report._words import claim
from featlab.results.analysis import Results
from featlab.results.localisation import WITHOUT_BOXES, Localisation
from featlab.results.pictures import Examples, MethodExamples

_FEWEST_FAILURES = 9


def localisation(results: Results, options: Options) -> Section:
    """Do the maps show where the object is?"""
    scores, boxes = scored(results), results.box_details
    regressed = None if boxes is None else boxes.heads
    figures: dict[str, Figure | list[Figure] | None] = {
        "method_examples": _method_examples(results, results.method_examples),
        "pictured": _pictured(results, options.most_examples),
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
            "regression": regression_legend(results),
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
    scores, boxes = results.localisation, results.box_details
    every = {
        "localisation": None if scores is None else scores.table,
        "units": results.units,
        "localisation_pairs": None if boxes is None else boxes.pairs,
        "box_curve": None if boxes is None or boxes.curve is None or boxes.curve.empty
        else boxes.curve,
        "box_heads": None if boxes is None else boxes.heads,
    }  # fmt: skip
    return {name: one for name, one in every.items() if one is not None}


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
    known = math.isfinite(row.get("pointing", math.nan))
    return f"{words.percent(row['pointing'])} of {int(row['pointing_n'])}" if known else "–"


def _head_scores(results: Results) -> pd.DataFrame:
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
    scores = _head_scores(results)
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


@claim("box regression in pictures")
def regression_legend(results: Results) -> str:
    """Which head's boxes are drawn beside those of heat maps."""
    known = results.box_regression
    how = "learnt from boxes and without a heat map of its own"
    return "" if known is None else f"Green, dashed: {words.regression(known.leader)}, {how}."


def _method_examples(results: Results, examples: MethodExamples | None) -> Figure | None:
    if examples is None or not examples.pictures or not examples.heats:
        return None
    titles = {method: words.method(method) for method in examples.heats}
    boxes: dict[str, list[np.ndarray | None]] = {
        titles[m]: list(boxes) for m, boxes in examples.predicted_boxes.items()
    }
    known, scores = results.box_regression, results.localisation
    best = None if scores is None else scores.best(supervision=WITHOUT_BOXES)
    order = "" if best is None else f", the best boxes of “{words.method(best['method'])}” first"
    if known is not None and examples.rows:
        boxes[words.regression(known.leader)], _ = regressed_boxes(results, examples.rows)
    return Figure(
        partial(
            plots.pictures.method_strips,
            examples.pictures,
            {titles[method]: heats for method, heats in examples.heats.items()},
            labels=examples.labels,
            true_boxes=examples.true_boxes,
            predicted_boxes=boxes,
        ),
        "The same test images seen by several methods, with true and predicted boxes.",
        f"{_of_all(results, len(examples.pictures))} seen by several methods{order}. "
        "White: true boxes; blue: predicted by the column’s method, at its "
        f"threshold; glow: its heat map, on its own scale. {regression_legend(results) or ''}",
        "localisation_method_maps",
        pictures=True,
    )


def _of_all(results: Results, n: int) -> str:
    """`5 of 72 test images`."""
    scores = scored(results)
    images = words.plural(n if scores is None else int(scores.table["n"].max()), "test image")
    return f"{n:,} of {images}"


_PICTURED = {
    "localisation_examples": (
        "{} with true and predicted boxes",
        "{n}, from the best to the worst box of “{method}”{range}.",
    ),
    "failures": (
        "{} with the worst boxes of a heat map",
        "{n}: the worst boxes of “{method}”{range}, the very worst first. Look for what the heat "
        "map follows instead of the object.",
    ),
    "regression_failures": (
        "{} with the worst boxes of box regression",
        "{n}: the worst boxes of box regression{regressed}, the very worst first, over the heat "
        "map of “{method}”.",
    ),
}
"""Pictures under a heat map → their alternative text, and their caption."""


def _pictured(results: Results, most: int) -> list[Figure]:
    """The pictures under the map of a method, from good to bad and the worst."""
    figures = []
    for name, (alt, caption) in _PICTURED.items():
        examples = getattr(results, name)
        if examples is None or not examples.pictures or most < 1:
            continue
        n = len(examples.pictures)
        places = np.arange(min(n, max(most, _FEWEST_FAILURES)))
        if name == "localisation_examples":
            places = np.unique(np.linspace(0, n - 1, min(most, n)).round().astype(int))
        file = f"localisation_{name.removeprefix('localisation_')}"
        figures.append(_boxes_on_pictures(results, examples.some(places), alt, caption, file))
    return figures


def _range_of(ious: list[float]) -> str:
    """`, IoU 0.01 to 0.92`; nothing where none is known."""
    known = sorted(value for value in ious if math.isfinite(value))
    ends = dict.fromkeys(words.number(value) for value in known[:1] + known[-1:])
    return f", IoU {' to '.join(ends)}" if known else ""


def _boxes_on_pictures(
    results: Results, examples: Examples, alt: str, caption: str, file: str
) -> Figure:
    """Pictures under the map of a method."""
    n, predicted = len(examples.pictures), examples.predicted_boxes
    ious = [math.nan] * n if examples.ious is None else examples.ious
    method = words.method(examples.neurons[0][0])
    boxes, others = regressed_boxes(results, examples.rows)
    ranges = {"range": _range_of(ious), "regressed": _range_of(others)}
    pictured = others if "{regressed}" in caption else ious
    caption = caption.format(n=_of_all(results, n), method=method, **ranges)
    return Figure(
        partial(
            plots.localisation_examples,
            examples.pictures,
            examples.heats,
            examples.true_boxes,
            predicted if predicted is not None else [None] * n,
            ious,
            labels=examples.labels,
            regressed_boxes=boxes,
            regressed_ious=others,
        ),
        f"{alt.format(words.plural(n, 'test image'))}; IoU "
        f"{', '.join(words.number(value) for value in pictured)}.",
        f"{caption} White: true boxes; blue: predicted by “{method}”; glow: its heat map, each on "
        f"its own scale. {regression_legend(results) or ''}",
        file,
        pictures=True,
    )


@claim("every box head")
def _box_heads_listed(results: Results) -> str:
    if results.box_details is None or results.box_details.heads is None:
        return ""
    every = "; ".join(
        f"{words.box_head(r['head'])} {words.scored(r, 'mean_iou')}"
        for _, r in _head_scores(results).iterrows()
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
    scores = _head_scores(results)
    named = scores.assign(head=scores["head"].map(words.box_head))
    return Figure(
        partial(plots.score_intervals, named, "mean_iou"),
        str(_box_heads_listed(results)),
        str(_box_heads_fitted(results)),
        "box_head_accuracy",
    )
