"""The tables of a comparison's page."""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from featlab.plots.style import short_name
from featlab.report import _compare_words as told
from featlab.report import _words as words
from featlab.report._grids import Grid, grid
from featlab.results.comparison import Comparison


def tables(comparison: Comparison) -> dict[str, Grid | None]:
    """Every table of the page; None for those without rows."""
    entries = comparison.entries
    return {
        "entries": _entries(entries, len(comparison.images)),
        "heads": _head_scores(entries),
        "head_pairs": _pairs(comparison.head_pairs),
        "detectors": _detector_counts(entries),
        "boxes": _box_scores(entries) if comparison.best_boxes else None,
        "box_pairs": _pairs(comparison.box_pairs),
        "files": grid(
            "The stores",
            ["Name", "Weights", "File"],
            [
                [words.name(row["name"]), words.name(row["weights"]), words.name(row["store"])]
                for _, row in entries.iterrows()
            ],
            (0, 1, 2),
        ),
    }


def _entries(entries: pd.DataFrame, n_images: int) -> Grid | None:
    rows = [
        [
            words.name(row["name"]),
            Markup("{}: {}").format(words.name(row["backbone"]), words.name(row["layer"])),
            str(row["input_size"]).replace("x", "×"),
            f"{row['map_height']} × {row['map_width']}",
            f"{row['neurons']:,}",
            f"{row['dead']:,}",
            words.percent(row["active_share"]),
            told.megabytes(row["megabytes"]),
        ]
        for _, row in entries.iterrows()
    ]
    columns = ["Name", "Network: layer", "Input (px)", "Map (cells)", "Neurons", "Dead"]
    return grid(
        f"What was compared, on {words.plural(n_images, 'image')}",
        [*columns, "Active in an image", "Store"],
        rows,
        (0, 1),
        file="compare",
    )


def _head_scores(entries: pd.DataFrame) -> Grid | None:
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
    return grid(
        f"The logistic head on each (n = {entries['n'].max():,} test images); the best is chosen "
        "on confirm",
        [*columns, "Log loss on confirm"],
        rows,
        file="compare",
    )


def _detector_counts(entries: pd.DataFrame) -> Grid | None:
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
    return grid(
        "Detectors: pairs of neuron and class; in the lead the highest AUROC at selection",
        [*columns, "Selected", "Confirmed"],
        rows,
        (0, 1),
        file="compare_detectors",
    )


def _box_scores(entries: pd.DataFrame) -> Grid | None:
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
    return grid(
        f"Boxes from image labels alone, with 95 % intervals (n = {entries['n_boxes'].max():,})",
        [*columns, "Best baseline", "Seconds for 1,000"],
        rows,
        (0, 1),
        file="compare_localisation",
    )


def _pairs(pairs: pd.DataFrame) -> Grid | None:
    if pairs.empty:
        return None
    what, found, iou = "accuracy", "right", "iou_difference" in pairs
    if iou:
        what, found = "box accuracy", "finds it"
    rows = []
    for _, row in pairs.iterrows():
        cells = [words.name(row["b"]), told.points(row, "difference")]
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
    return grid(
        f"“{short_name(pairs['a'].iloc[0], 60)}” and the others on the same test images "
        f"(Holm over {words.plural(len(pairs), 'comparison')})",
        [*columns, f"Only one {found}", "Test", "Adjusted p"],
        rows,
        file="compare_pairs",
    )
