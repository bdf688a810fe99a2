"""The figures of boxes and localisation: drawn and described."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from featlab import plots
from featlab.plots.curves import threshold_curves
from featlab.report import _words as words
from featlab.report._drawing import Drawing, drawing
from featlab.results.analysis import Results
from featlab.results.localisation import Localisation
from featlab.results.pictures import Examples


def figures(results: Results, max_examples: int) -> dict[str, Drawing | None]:
    """The figures; None where these results do not allow one."""
    return {
        "box_eda": _box_eda(results),
        "localisation": _localisation(results),
        "success": _success(results),
        "thresholds": _thresholds(results),
        "strips": _strips(results),
        "localised": _localised(results.localisation_examples, max_examples),
        "failures": _failures(results.failures, max_examples),
        "box_heads": _box_heads(results),
    }


def _box_eda(results: Results) -> Drawing | None:
    boxes = results.box_details
    if boxes is None or boxes.statistics.empty:
        return None
    mean = float(boxes.statistics["area"].median())
    return drawing(
        plots.box_statistics(boxes.statistics, n_images=len(results.store.images)),
        f"Size, shape and place of {len(boxes.statistics)} boxes; half cover less than "
        f"{words.percent(mean)} of their picture.",
        "The ground-truth boxes: size, shape, number and place, in units of the picture.",
        file="true_boxes",
    )


def _box_heads(results: Results) -> Drawing | None:
    boxes = results.box_details
    if boxes is None or boxes.heads is None:
        return None
    told = "; ".join(
        f"{words.box_head(r['head'])} {words.scored(r, 'mean_iou')}"
        for _, r in boxes.heads.iterrows()
    )
    return drawing(
        plots.score_intervals(
            boxes.heads.assign(head=boxes.heads["head"].map(words.box_head)), "mean_iou"
        ),
        f"Mean IoU of boxes by regression on test images: {told}.",
        "Boxes by regression on the stored maps, learnt from train and confirm images with boxes, "
        "on test images, with 95 % intervals. Hollow: baselines.",
        file="box_head_accuracy",
    )


def _localisation(results: Results) -> Drawing | None:
    table = words.scores(results)
    if table is None:
        return None
    told = "; ".join(
        f"{words.method(r['method'])} {words.scored(r, 'box_accuracy')}"
        for _, r in table.iterrows()
    )
    return drawing(
        plots.score_intervals(
            table.assign(method=table["method"].map(words.method)), "box_accuracy"
        ),
        f"Box accuracy of each method on test images: {told}.",
        "Share of test images whose box is found (IoU ≥ 0.5), the class being known, with 95 % "
        "intervals. Hollow: baselines.",
        file="localisation_accuracy",
    )


def _success(results: Results) -> Drawing | None:
    if words.scores(results) is None or results.localisation is None:
        return None
    table = results.localisation.success
    if table.empty:
        return None
    return drawing(
        plots.success_curves(
            table,
            _curve_titles(results.localisation),
            n=int(results.localisation.table["n"].max()),
        ),
        "Share of test images whose box reaches an IoU, for every IoU from 0 to 1.",
        "How strict may one be? Share of test images whose box overlaps the truth by at least so "
        "much; dashed: the best baseline.",
        file="localisation_by_iou",
    )


def _thresholds(results: Results) -> Drawing | None:
    if words.scores(results) is None or results.localisation is None:
        return None
    table = results.localisation.table
    if results.localisation.curves.empty:
        return None
    chosen = dict(zip(table["method"].astype(str), table["threshold"], strict=True))
    return drawing(
        threshold_curves(
            results.localisation.curves,
            _curve_titles(results.localisation),
            chosen,
            n=int(table["n"].max()),
        ),
        "Share of test images whose box is found, for every threshold from 0 to 0.99.",
        "How much hangs on the threshold? The best point of a curve is what the literature prints "
        "(MaxBoxAcc); the dot is what one gets without looking at the test images.",
        file="localisation_by_threshold",
    )


def _curve_titles(localisation: Localisation) -> dict[str, str]:
    """The five best methods and the best baseline, which stands in brackets."""
    table = localisation.table
    ours = table[~table["baseline"].astype(bool)].nlargest(5, "box_accuracy")["method"]
    titles = {str(name): words.method(name) for name in ours}
    rival = localisation.best(baseline=True)
    if rival is not None:
        titles[str(rival["method"])] = f"({words.method(rival['method'])})"
    return titles


def _strips(results: Results) -> Drawing | None:
    strips = results.strips
    if strips is None or not strips.pictures or not strips.heats:
        return None
    titles = {method: words.method(method) for method in strips.heats}
    return drawing(
        plots.method_strips(
            strips.pictures,
            {titles[method]: heats for method, heats in strips.heats.items()},
            labels=strips.labels,
            true_boxes=strips.true_boxes,
            predicted_boxes={titles[m]: boxes for m, boxes in strips.predicted_boxes.items()},
        ),
        "The same test images seen by several methods, with true and predicted boxes.",
        "The same test images, from well to badly localised, seen by several methods. White: true "
        "boxes; blue: predicted, at the method's threshold; glow: the heat map, on its own scale.",
        "jpg",
        file="localisation_method_maps",
    )


def _localised(examples: Examples | None, n: int) -> Drawing | None:
    if examples is None or not examples.pictures or n < 1:
        return None
    shown = examples.first(n) if len(examples.pictures) <= n else _spread(examples, n)
    method = words.method(shown.neurons[0][0]) if shown.neurons else "the best map method"
    ious = shown.ious if shown.ious is not None else [math.nan] * len(shown.pictures)
    boxes = shown.predicted_boxes if shown.predicted_boxes is not None else [None] * len(ious)
    figure = plots.localisation_examples(
        shown.pictures, shown.heats, shown.true_boxes, boxes, ious, labels=shown.labels
    )
    return drawing(
        figure,
        f"{len(ious)} test images with true and predicted boxes; IoU "
        f"{', '.join(words.number(value) for value in ious)}.",
        f"Best, median and worst boxes of “{method}”. White: true boxes; blue: predicted; glow: "
        "the heat map, each on its own scale.",
        "jpg",
        file="localisation_examples",
    )


def _failures(examples: Examples | None, n: int) -> Drawing | None:
    if examples is None or not examples.pictures or n < 1 or examples.ious is None:
        return None
    shown = examples.first(max(n, 9))
    assert shown.ious is not None
    method = words.method(shown.neurons[0][0])
    boxes = shown.predicted_boxes if shown.predicted_boxes is not None else [None] * len(shown.ious)
    return drawing(
        plots.localisation_examples(
            shown.pictures, shown.heats, shown.true_boxes, boxes, shown.ious, labels=shown.labels
        ),
        f"The {len(shown.ious)} test images with the worst boxes; IoU "
        f"{', '.join(words.number(value) for value in shown.ious)}.",
        f"Where “{method}” fails: its worst boxes. Look for what the heat map follows instead of "
        "the object.",
        "jpg",
        file="localisation_failures",
    )


def _spread(examples: Examples, n: int) -> Examples:
    """`n` of the examples, evenly from the best to the worst."""
    picks = np.unique(np.linspace(0, len(examples.pictures) - 1, n).round().astype(int))

    def some(values: Any) -> Any:
        return None if values is None else [values[i] for i in picks]

    return Examples(
        some(examples.rows), some(examples.pictures), examples.neurons, some(examples.heats),
        some(examples.true_boxes), some(examples.labels), some(examples.predicted_boxes),
        some(examples.predicted_labels), some(examples.ious),
    )  # fmt: skip
