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
from featlab.report import _words as words
from featlab.report._elements import Answer, Figure, Options, Section, Table, rows_per_class, table
from featlab.results.analysis import Results
from featlab.results.localisation import Localisation
from featlab.results.pictures import Examples, MethodExamples

_NOT_BETTER = "Not shown to be better"
_BETTER = "Yes, clearly better than the best baseline"
_FEWEST_FAILURES = 9


def localisation(results: Results, options: Options) -> Section:
    """Do the maps show where the object is?"""
    scores, boxes, most = scored(results), results.box_details, options.most_examples
    regressed = None if boxes is None else boxes.heads
    figures: dict[str, Figure | list[Figure] | None] = {
        "method_examples": _method_examples(results.method_examples),
        "examples": _examples(results.localisation_examples, most),
        "failures": _failures(results.failures, most),
        "box_heads": None if regressed is None else _box_heads(regressed),
    }
    if scores is not None:
        figures |= {
            "scores": _scores(scores.table),
            "success": _success(scores),
            "thresholds": _thresholds(scores),
        }
    return Section(
        "localisation",
        "Localisation",
        "localisation.html",
        facts={
            "answer": answer(results),
            "units": _units_answer(results.units),
            "box_kind": results.box_kind,
            "measured": scores is not None,
            "has_gallery": results.gallery is not None,
        },
        tables={
            "scores": None if scores is None else _score_table(scores.table),
            "pairs": None if boxes is None else _pairs(boxes.pairs),
            "units": _units(results),
            "box_heads": None if regressed is None else _box_head_table(regressed),
        },
        figures=figures,
        files=_files(results),
    )


def _files(results: Results) -> dict[str, pd.DataFrame]:
    files, boxes = {}, results.box_details
    if results.localisation is not None:
        files["localisation"] = results.localisation.table
    if results.units is not None:
        files["units"] = results.units
    if boxes is not None:
        files["localisation_pairs"] = boxes.pairs
        if boxes.heads is not None:
            files["box_heads"] = boxes.heads
    return files


def scored(results: Results) -> Localisation | None:
    """The scores of the heat maps; None where no image could be scored."""
    scores = results.localisation
    return None if scores is None or scores.table.empty else scores


# ------------------------------------------------------------------------------------ the sentences


def answer(results: Results) -> Answer:
    """Do the maps localise: a verdict of a few words, and the figures behind it."""
    scores = scored(results)
    if scores is None:
        nothing = "Without boxes on test images nothing can be said."
        return Answer(nothing, "No boxes, so not measured")
    ours, rival = scores.best(supervision="image labels"), scores.best(baseline=True)
    if ours is None or rival is None:
        return Answer("There is no map method and baseline to compare.", _NOT_BETTER)
    text = (
        f"From image labels alone, “{words.method(ours['method'])}”, the best of the map methods "
        f"{_picked_on(scores.table)}, {_finds(ours)} of "
        f"{words.plural(int(ours['n']), 'test image')}; the best baseline, "
        f"“{words.method(rival['method'])}”, {_finds(rival)}."
    )
    taught = scores.best(supervision="boxes")
    if taught is not None:
        text += (
            " Where boxes of train images are there to learn from, "
            f"“{words.method(taught['method'])}” {_finds(taught)}."
        )
    clear, difference = _ahead(results, ours, rival)
    verdict = _BETTER if clear else f"{_NOT_BETTER} than the best baseline"
    return Answer(f"{text} {difference}".rstrip(), verdict, clear)


def _ahead(results: Results, ours: pd.Series, rival: pd.Series) -> tuple[bool, str]:
    """Whether one method is clearly ahead of another, and by how much: image by image if known."""
    boxes = results.box_details
    pairs = boxes.pairs if boxes is not None else pd.DataFrame(columns=["method", "against"])
    pair = pairs[pairs["method"].eq(ours["method"]) & pairs["against"].eq(rival["method"])]
    if pair.empty:
        if ours["box_accuracy_low"] > rival["box_accuracy_high"]:
            return True, ""
        if ours["box_accuracy"] > rival["box_accuracy"]:
            return False, "The intervals of labels alone and baseline overlap."
        return False, "Labels alone are not even ahead."
    row = pair.iloc[0]
    points = [100 * row[f"difference{end}"] for end in ("", "_low", "_high")]
    text = "Image by image, labels alone are {} percentage points ahead ({} to {}).".format(
        *(words.number(value, 0) for value in points)
    )
    return bool(row["difference_low"] > 0), text


def _finds(row: pd.Series) -> str:
    return f"finds the box (IoU ≥ 0.5) in {words.share(row, 'box_accuracy')}"


def _picked_on(scores: pd.DataFrame) -> str:
    known = scores.get("box_accuracy_confirm")
    if known is not None and known.notna().any():
        return "on the images that set the thresholds"
    return "on the test images themselves, which flatters it"


def _units_answer(units: pd.DataFrame | None) -> Markup:
    """Whether single detectors fire on the object: *does this neuron's map allow localisation?*"""
    if units is None or units.empty:
        return Markup("")
    counts = units["verdict"].value_counts()
    text = Markup(
        "Does a detector's own map allow localisation? Of {} judged on images they were not chosen "
        "on, {} fire on the object (cells inside the boxes are more active than cells outside, and "
        "they overlap the boxes more than other images' boxes), for {} this is not shown, and {} "
        "fire beside it"
    ).format(
        words.plural(len(units), "detector"),
        counts.get("on the object", 0),
        counts.get("not shown", 0),
        counts.get("beside the object", 0),
    )
    beside = units[units["verdict"] == "beside the object"].nsmallest(3, "auroc_inside")
    if beside.empty:
        return text + "."
    named = [
        Markup("neuron {} for {}").format(row["neuron"], words.name(row["class"]))
        for _, row in beside.iterrows()
    ]
    return text + Markup(": probable shortcuts, first of all {}.").format(Markup(", ").join(named))


# --------------------------------------------------------------------------------------- the tables


def _score_table(scores: pd.DataFrame) -> Table | None:
    order = scores.sort_values(["baseline", "box_accuracy"], ascending=[True, False], kind="stable")
    rows = [
        [
            words.method(row["method"]),
            "baseline" if row["baseline"] else str(row["supervision"]),
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
    return table(
        "Localisation on test images, with 95 % intervals; thresholds fixed on other images",
        [*columns, "MaxBox-Acc*", "V2*"],
        rows,
        (0, 1),
        file="localisation",
    )


def _pairs(pairs: pd.DataFrame) -> Table | None:
    rows = [
        [words.method(row["method"]), words.number(row["value"]), words.difference(row)]
        for _, row in pairs.sort_values("difference", ascending=False).iterrows()
    ]
    if not rows:
        return None
    against = words.method(pairs["against"].iloc[0])
    return table(
        f"Box accuracy less that of the best baseline, “{against}”, image by image",
        ["Method", "Box accuracy", "Difference, 95 % interval"],
        rows,
        file="localisation_pairs",
    )


def _units(results: Results) -> Table | None:
    """Detector by detector, best first: does its own map allow localisation?"""
    units = results.units
    if units is None or units.empty:
        return None
    verdicts = {"on the object": "yes", "beside the object": "no: beside it"}
    several = len(units["layer"].unique()) > 1
    most = rows_per_class(len(results.store.classes))
    rows = [
        [
            f"neuron\u00a0{row['neuron']}" + (f" ({row['layer']})" if several else ""),
            words.name(row["class"]),
            verdicts.get(row["verdict"], "not shown"),
            words.scored(row, "auroc_inside"),
            words.number(row["iou"]),
            words.number(row["iou_chance"]),
            words.p_value(row["p_adjusted"]),
        ]
        for _, row in units.groupby("class", sort=True).head(most).iterrows()
    ]
    columns = ["Neuron", "Class", "Its map finds the object", "AUROC inside against outside"]
    return table(
        "Does this neuron’s map allow localisation of the object?",
        [*columns, "IoU with the boxes", "with other images’ boxes", "Adjusted p"],
        rows,
        (0, 1, 2),
        total=len(units),
        file="units",
    )


def _box_head_table(scores: pd.DataFrame) -> Table | None:
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
        "Boxes by regression on test images, with 95 % intervals",
        [*columns, "n test", "Seconds"],
        rows,
        file="box_heads",
    )


# -------------------------------------------------------------------------------------- the figures


def _scores(scores: pd.DataFrame) -> Figure:
    listed = "; ".join(
        f"{words.method(r['method'])} {words.scored(r, 'box_accuracy')}"
        for _, r in scores.iterrows()
    )
    named = scores.assign(method=scores["method"].map(words.method))
    return Figure(
        partial(plots.score_intervals, named, "box_accuracy"),
        f"Box accuracy of each method on test images: {listed}.",
        "Share of test images whose box is found (IoU ≥ 0.5), the class being known, with 95 % "
        "intervals. Hollow: baselines.",
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
        "The same test images, from well to badly localised, seen by several methods. White: true "
        "boxes; blue: predicted, at the method's threshold; glow: the heat map, on its own scale.",
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
        f"{len(ious)} test images with true and predicted boxes",
        f"Best, median and worst boxes of “{method}”. White: true boxes; blue: predicted; glow: "
        "the heat map, each on its own scale.",
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
        f"The {len(ious)} test images with the worst boxes",
        f"Where “{words.method(worst.neurons[0][0])}” fails: its worst boxes. Look for what the "
        "heat map follows instead of the object.",
        "localisation_failures",
    )


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


def _box_heads(scores: pd.DataFrame) -> Figure:
    listed = "; ".join(
        f"{words.box_head(r['head'])} {words.scored(r, 'mean_iou')}" for _, r in scores.iterrows()
    )
    named = scores.assign(head=scores["head"].map(words.box_head))
    return Figure(
        partial(plots.score_intervals, named, "mean_iou"),
        f"Mean IoU of boxes by regression on test images: {listed}.",
        "Boxes by regression on the stored maps, learnt from train and confirm images with boxes, "
        "on test images, with 95 % intervals. Hollow: baselines.",
        "box_head_accuracy",
    )
