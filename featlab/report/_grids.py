"""The tables on the page: cells as text, at most forty rows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from featlab.report import _words as words
from featlab.report._tables import tables_for
from featlab.results.analysis import Results

MAX_ROWS = 40
_FIRES = {
    "on the object": "yes",
    "not shown": "not shown",
    "beside the object": "no: a probable shortcut",
}
_FLAGGED = 5
_SIDES = ("train", "confirm", "test")
_PROVENANCE_FIRST = (
    "backbone",
    "weights",
    "input_size",
    "preprocessing",
    "resize",
    "layers",
    "output_stride",
    "dtype",
    "engine",
    "precision",
    "fingerprint",
)


@dataclass(frozen=True)
class Grid:
    """A table on the page; the first column heads its row, `text` columns are left-aligned."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    text: Sequence[int] = (0,)
    left_out: int = 0
    file: str = ""


def grids(results: Results) -> dict[str, Grid | None]:
    """Every table that these results allow; None for the others."""
    return {
        "classes": _classes(results),
        "boxes": _boxes(results),
        "skipped": _skipped(results),
        "essentials": _provenance(results, essentials=True),
        "heads": _heads(results.heads.table),
        "detectors": _detectors(results),
        "per_class": _per_class(results),
        "head_pairs": _head_pairs(results),
        "poolings": _poolings(results),
        "replication": _replication(results),
        "audit": _audit(results),
        "flagged": _flagged(results),
        "softmax_top_k": _softmax_top_k(results),
        "localisation": _localisation(results),
        "localisation_pairs": _localisation_pairs(results),
        "box_heads": _box_heads(results),
        "units": _units(results),
        "provenance": _provenance(results, essentials=False),
        "seconds": _seconds(results),
    }


def per_class_budget(n_classes: int) -> int:
    """Rows per class of a table that has a block for each class."""
    most = 10 if n_classes <= 4 else 3
    return max(1, min(most, MAX_ROWS // max(n_classes, 1)))


def grid(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    text: Sequence[int] = (0,),
    *,
    total: int | None = None,
    file: str = "",
) -> Grid | None:
    """The first rows as a table; None without rows. `total` counts rows already left out."""
    if not rows:
        return None
    total = len(rows) if total is None else total
    shown = rows[:MAX_ROWS]
    return Grid(caption, columns, shown, text, total - len(shown), file)


def _classes(results: Results) -> Grid | None:
    labels = results.store.images["label"].to_numpy(str)
    counts = pd.crosstab(labels, np.asarray(results.split, dtype=str))
    sides = [side for side in _SIDES if side in counts]
    rows = [
        [words.name(label), *(f"{row[side]:,}" for side in sides), f"{row.sum():,}"]
        for label, row in counts.iterrows()
    ]
    return grid("Images per class and split", ["Class", *sides, "All"], rows)


def _boxes(results: Results) -> Grid | None:
    boxes = results.store.boxes
    rows = [
        [
            words.name(kind) if kind else "(no kind)",
            f"{len(part):,}",
            f"{part['image'].nunique():,}",
        ]
        for kind, part in boxes.groupby("kind", sort=True)
    ]
    return grid("Ground-truth boxes", ["Kind", "Boxes", "Images with at least one"], rows)


def _skipped(results: Results) -> Grid | None:
    skipped = results.store.images.attrs.get("skipped", [])
    rows = [[words.name(item["path"]), words.name(item["reason"])] for item in skipped]
    return grid("Files that were skipped", ["File", "Reason"], rows, (0, 1))


def _heads(table: pd.DataFrame) -> Grid | None:
    rows = [
        [
            words.readable(row["head"]),
            words.scored(row, "accuracy"),
            words.scored(row, "balanced_accuracy"),
            words.scored(row, "roc_auc"),
            words.scored(row, "log_loss"),
            f"{int(row['n_train']):,}",
            f"{int(row['n']):,}",
        ]
        for _, row in table.iterrows()
    ]
    columns = ["Head", "Accuracy", "Balanced accuracy", "ROC AUC", "Log loss", "n train", "n test"]
    return grid("Heads on unseen test images, with 95 % intervals", columns, rows, file="heads")


def _per_class(results: Results) -> Grid | None:
    table = results.per_class
    if table is None or len(table) < 3:
        return None
    rows = [
        [
            words.name(row["class"]),
            f"{int(row['support']):,}",
            words.scored(row, "recall"),
            words.scored(row, "precision"),
            words.number(row["f1"]),
            Markup("{} ({})").format(words.name(row["confused_with"]), int(row["confused"]))
            if row["confused_with"]
            else "–",
        ]
        for _, row in table.iterrows()
    ]
    columns = ["Class", "n test", "Recall", "Precision", "F1", "Most often taken for"]
    caption = "The logistic head on each class, with 95 % intervals"
    return grid(caption, columns, rows, (0, 5), file="per_class")


def _head_pairs(results: Results) -> Grid | None:
    if results.head_details is None:
        return None
    rows = []
    for _, row in results.head_details.pairs.iterrows():
        better, other, sign = ("a", "b", 1) if row["difference"] >= 0 else ("b", "a", -1)
        ends = sorted(sign * row[f"difference_{end}"] for end in ("low", "high"))
        rows.append(
            [
                f"{words.readable(row[better])} less {words.readable(row[other])}",
                f"{words.signed(abs(row['difference']))} {words.interval(*ends)}",
                f"{int(row[f'only_{better}']):,} / {int(row[f'only_{other}']):,}",
                str(row["test"]),
                words.p_value(row["p_adjusted"]),
            ]
        )
    columns = ["Heads", "Difference in accuracy", "Only one right", "Test", "Adjusted p"]
    caption = "Heads against each other on the same test images (Holm over all pairs)"
    return grid(caption, columns, rows, (0, 3), file="head_pairs")


def _localisation_pairs(results: Results) -> Grid | None:
    if results.box_details is None:
        return None
    table = results.box_details.pairs.sort_values("difference", ascending=False)
    rows = [
        [
            words.method(row["method"]),
            words.number(row["value"]),
            f"{words.signed(row['difference'])} "
            f"{words.interval(row['difference_low'], row['difference_high'])}",
        ]
        for _, row in table.iterrows()
    ]
    if not rows:
        return None
    against = words.method(table["against"].iloc[0])
    return grid(
        f"Box accuracy less that of the best baseline, “{against}”, image by image",
        ["Method", "Box accuracy", "Difference, 95 % interval"],
        rows,
        file="localisation_pairs",
    )


def _units(results: Results) -> Grid | None:
    """Detector by detector, best first: does its own map allow localisation?"""
    units = results.units
    if units is None or units.empty:
        return None
    budget = per_class_budget(len(results.store.classes))
    shown = units.groupby("class", sort=True).head(budget)
    rows = [
        [
            f"neuron\u00a0{row['neuron']}",
            words.name(row["class"]),
            {"on the object": "yes", "beside the object": "no: beside it"}.get(
                row["verdict"], "not shown"
            ),
            words.scored(row, "auroc_inside"),
            words.number(row["iou"]),
            words.number(row["iou_chance"]),
            words.p_value(row["p_adjusted"]),
        ]
        for _, row in shown.iterrows()
    ]
    columns = ["Neuron", "Class", "Its map finds the object", "AUROC inside against outside"]
    return grid(
        "Does this neuron’s map allow localisation of the object?",
        [*columns, "IoU with the boxes", "with other images’ boxes", "Adjusted p"],
        rows,
        (0, 1, 2),
        total=len(units),
        file="units",
    )


def _box_heads(results: Results) -> Grid | None:
    if results.box_details is None or results.box_details.heads is None:
        return None
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
        for _, row in results.box_details.heads.iterrows()
    ]
    columns = ["Box head", "Mean IoU", "IoU ≥ 0.5", "IoU ≥ 0.7", "Centre in box", "n learnt from"]
    return grid(
        "Boxes by regression on test images, with 95 % intervals",
        [*columns, "n test", "Seconds"],
        rows,
        file="box_heads",
    )


def _poolings(results: Results) -> Grid | None:
    if results.detector_details is None or len(results.detector_details.poolings) < 2:
        return None
    rows = [
        [
            f"{row['layer']}, {row['pooling']}",
            f"{int(row['selected']):,}",
            f"{int(row['replicated']):,}",
            words.number(row["median_confirmed"]),
            words.scored(row, "accuracy"),
        ]
        for _, row in results.detector_details.poolings.iterrows()
    ]
    columns = ["Layer, pooling", "Detectors selected", "confirmed", "Median AUROC on unseen"]
    return grid(
        "Which layer and pooling tell the classes best (one corrected family)",
        [*columns, "Accuracy of the logistic head"],
        rows,
    )


def _replication(results: Results) -> Grid | None:
    if results.detector_details is None:
        return None
    table = results.detector_details.replication
    if results.store.classes and len(results.store.classes) == 2:
        # Of two classes one's active neurons are the other's silent ones.
        table = table[table["direction"].eq("active")] if len(table) else table
    rows = [
        [
            words.name(row["class"]),
            row["direction"],
            f"{int(row['selected']):,}",
            f"{int(row['replicated']):,}",
            f"{words.percent(row['rate'])} "
            f"({words.percent(row['rate_low'])} to {words.percent(row['rate_high'])})",
            f"{words.number(row['median_selected'])} → {words.number(row['median_confirmed'])}",
        ]
        for _, row in table.iterrows()
    ]
    columns = ["Class", "Direction", "Selected", "Confirmed", "Share", "Median AUROC"]
    return grid("Do the detectors hold on other images?", columns, rows, (0, 1))


def _audit(results: Results) -> Grid | None:
    if results.audit is None:
        return None
    rows = [
        [words.readable(row["check"]), row["verdict"], str(row["finding"])]
        for _, row in results.audit.summary.iterrows()
    ]
    return grid("Checks of the set", ["Check", "Verdict", "Finding"], rows, (0, 1, 2))


def _flagged(results: Results) -> Grid | None:
    """The images that a person should look at, a few of each kind."""
    if results.audit is None:
        return None
    found, rows = results.audit, []
    for _, row in found.duplicates.head(_FLAGGED).iterrows():
        side = ", on two sides of the split" if row["across"] else ""
        rows.append(
            [words.name(row["path_a"]), f"{row['kind']} duplicate of {row['path_b']}{side}"]
        )
    for _, row in found.label_errors.head(_FLAGGED).iterrows():
        rows.append([words.name(row["path"]), f"looks like {row['suggested']}, not {row['label']}"])
    for _, row in found.outliers.head(_FLAGGED).iterrows():
        rows.append([words.name(row["path"]), f"unlike the other images of {row['label']}"])
    return grid("Images to look at", ["Image", "Why"], rows, (0, 1), file="audit_images")


def _detectors(results: Results) -> Grid | None:
    detectors = tables_for(results)["detectors"]
    budget = per_class_budget(len(results.store.classes))
    shown = detectors.groupby("class", sort=True).head(budget)
    several = detectors[["layer", "pooling"]].drop_duplicates().shape[0] > 1
    pointed = "pointing" in detectors
    rows = []
    for _, row in shown.iterrows():
        where = f" ({row['layer']}, {row['pooling']})" if several else ""
        cells = [
            f"neuron\u00a0{row['neuron']}{where}",
            words.name(row["class"]),
            words.number(row["auroc"]),
            words.scored(row, "auroc_confirmed"),
            words.p_value(row["p_confirmed"]),
        ]
        if pointed:
            cells += [
                words.peak_in_box(row),
                words.percent(row["pointing_picture_centre"]),
                _FIRES.get(str(row.get("fires")), "–"),
            ]
        rows.append(cells)
    columns = ["Neuron", "Class", "AUROC when chosen", "AUROC on unseen", "Adjusted p on unseen"]
    if pointed:
        columns += ["Peak in a box", "Picture’s centre in a box", "Fires on the object?"]
    return grid(
        f"Confirmed detectors, at most {budget} per class, in the order of selection",
        columns,
        rows,
        (0, 1, len(columns) - 1) if pointed else (0, 1),
        total=len(detectors),
        file="detectors",
    )


def _softmax_top_k(results: Results) -> Grid | None:
    table = results.softmax_top_k
    if table is None or table.empty:
        return None
    budget = min(5, per_class_budget(len(results.store.classes)))
    detectors = set(map(tuple, _confirmed_pairs(results)))
    rows = []
    for _, row in table.groupby("class", sort=True).head(budget).iterrows():
        found = (str(row["class"]), int(row["neuron"])) in detectors
        cells = [
            f"neuron\u00a0{row['neuron']}",
            words.name(row["class"]),
            words.percent(row["share"]),
            words.percent(row["share_rest"]),
            f"{100 * row['difference']:+.0f}".replace("-", "−"),
            "yes" if found else "no",
        ]
        rows.append(cells)
    return grid(
        "Neurons most often among an image's largest (softmax top k)",
        ["Neuron", "Class", "Of the class", "Of the rest", "Difference (points)", "Detector?"],
        rows,
        (0, 1, 5),
    )


def _confirmed_pairs(results: Results) -> list[tuple[str, int]]:
    detectors = tables_for(results)["detectors"]
    return [(str(row["class"]), int(row["neuron"])) for _, row in detectors.iterrows()]


def _localisation(results: Results) -> Grid | None:
    table = words.scores(results)
    if table is None:
        return None
    table = table.sort_values(["baseline", "box_accuracy"], ascending=[True, False], kind="stable")
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
        for _, row in table.iterrows()
    ]
    columns = ["Method", "Learns from", "Box accuracy", "Mean IoU", "Centre in box", "Threshold"]
    return grid(
        "Localisation on test images, with 95 % intervals; thresholds fixed on other images",
        [*columns, "MaxBox-Acc*", "V2*"],
        rows,
        (0, 1),
        file="localisation",
    )


def _provenance(results: Results, *, essentials: bool) -> Grid | None:
    known = {
        key: shown_value(value)
        for key, value in results.store.provenance.items()
        if isinstance(value, (str, int, float))
    }
    first = [key for key in _PROVENANCE_FIRST if key in known]
    rest = [] if essentials else sorted(set(known) - set(first))
    rows = [[words.readable(key), known[key]] for key in first + rest]
    caption = "The network and its input" if essentials else "Provenance of the stored maps"
    return grid(caption, ["What", "Value"], rows, (0, 1))


def shown_value(value: Any) -> str:
    """A provenance value as text; a JSON list becomes a plain one."""
    text = str(value)
    if text.startswith("["):
        try:
            return ", ".join(map(str, json.loads(text)))
        except json.JSONDecodeError:
            return text
    return text


def _seconds(results: Results) -> Grid | None:
    rows = [[words.readable(k), words.number(v, 1)] for k, v in results.seconds.items()]
    return grid("Time taken", ["Stage", "Seconds"], rows)
