"""Several stores on one page: sentences, tables, figures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from featlab import plots
from featlab.errors import FeatlabError
from featlab.plots.style import short_names
from featlab.report import _compare_words as told
from featlab.report import _words as words
from featlab.report._compare_tables import tables
from featlab.report._drawing import Drawing, drawing
from featlab.report._tables import replace, write_table
from featlab.report._template import filled_in
from featlab.results.comparison import Comparison

_SCRIPTS = ("tables.js", "frame.js", "report.js")
MAX_SHOWN = 8  # entries in the figure of pictures


def write_comparison(comparison: Comparison, path: str | os.PathLike[str]) -> Path:
    """Write a comparison as one self-contained HTML page, and its tables beside it.

    Like the report, the page opens offline, asks for nothing and is complete without its script.
    Beside it lie ``compare`` (the entries), ``compare_heads``, ``compare_detectors``,
    ``compare_localisation`` and ``compare_pairs``, each as ``.csv`` and ``.parquet``.

    Parameters
    ----------
    comparison : Comparison
    path : path-like
        The HTML file; its folder is made if it is not there, an earlier file replaced.

    Returns
    -------
    Path

    Raises
    ------
    FeatlabError
        `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise FeatlabError(f"path must be a file, got the folder {path}; add compare.html to it.")
    answers = {
        "Which tells the classes apart best?": told.heads_answer(comparison),
        "Which has the most confirmed detectors?": told.detectors_answer(comparison),
        "Which localises best?": told.boxes_answer(comparison),
        "What does each cost?": told.cost_answer(comparison),
    }
    page = filled_in(
        "compare.html",
        _SCRIPTS,
        title=told.title(comparison),
        n_images=len(comparison.images),
        answers=answers,
        figures={
            "heads": _heads(comparison),
            "detectors": _detectors(comparison),
            "boxes": _boxes(comparison),
            "success": _success(comparison),
            "strips": _strips(comparison),
        },
        tables=tables(comparison),
        methods=told.methods(comparison),
        command=comparison.command,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, table in comparison_tables(comparison).items():
        for suffix in (".csv", ".parquet"):
            write_table(table, path.with_name(f"{name}{suffix}"))
    replace(path, lambda temporary: temporary.write_bytes(page.encode("utf-8", "replace")))
    return path


def comparison_tables(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """The full tables behind the page, by the names of their files."""
    pairs = {"heads": comparison.head_pairs, "boxes": comparison.box_pairs}
    found = [table.assign(of=name) for name, table in pairs.items() if len(table)]
    return {
        "compare": comparison.entries,
        "compare_heads": comparison.heads,
        "compare_detectors": comparison.detectors,
        "compare_localisation": comparison.localisation,
        "compare_pairs": pd.concat(found, ignore_index=True),
    }


def _heads(comparison: Comparison) -> Drawing:
    entries = comparison.entries
    listed = "; ".join(f"{r['name']} {words.scored(r, 'accuracy')}" for _, r in entries.iterrows())
    table = comparison.heads
    network = table["backbone"] != ""
    names = table["backbone"].where(network, table["head"].map(words.readable))
    shown = table.assign(name=names, baseline=~network).sort_values("baseline", kind="stable")
    return drawing(
        plots.score_intervals(shown, "accuracy"),
        f"Accuracy of the logistic head on each: {listed}.",
        "Accuracy of the logistic head on unseen test images, with 95 % intervals. Hollow: what "
        "one gets without a network.",
        file="compare_heads",
    )


def _detectors(comparison: Comparison) -> Drawing | None:
    if comparison.detectors.empty:
        return None
    names = comparison.entries["name"].tolist()
    return drawing(
        plots.detector_aurocs(comparison.detectors, names),
        "AUROC on unseen images of every detector, by entry.",
        "Every detector that was selected on train images, at the AUROC it has on the confirm "
        "images, which it was not selected on.",
        file="compare_detectors",
    )


def _boxes(comparison: Comparison) -> Drawing | None:
    if not comparison.best_boxes:
        return None
    entries, every = comparison.entries, comparison.localisation
    highest = entries.iloc[int(entries["baseline_box_accuracy"].argmax())]
    rival = every[every["entry"].eq(highest["name"]) & every["method"].eq(highest["baseline"])]
    rival = rival.assign(name=words.method(highest["baseline"]), baseline=True)
    ours = entries.assign(baseline=False, n=entries["n_boxes"])
    listed = "; ".join(
        f"{r['name']} {words.scored(r, 'box_accuracy')}" for _, r in entries.iterrows()
    )
    return drawing(
        plots.score_intervals(pd.concat([ours, rival], ignore_index=True), "box_accuracy"),
        f"Box accuracy on test images: {listed}.",
        "Share of test images whose box is found, each entry with the map method that was best on "
        "the confirm images, with 95 % intervals. Hollow: the best baseline.",
        file="compare_boxes",
    )


def _success(comparison: Comparison) -> Drawing | None:
    table = comparison.success
    if table.empty:
        return None
    # A title in brackets marks a baseline.
    titles = {
        name: f"(baseline: {words.method(str(name).removeprefix('baseline: '))})"
        if name not in set(comparison.entries["name"])
        else str(name)
        for name in table["method"].drop_duplicates()
    }
    return drawing(
        plots.success_curves(table, titles),
        "Share of test images whose box reaches an IoU, for every IoU from 0 to 1, by entry.",
        f"The same method, “{words.method(comparison.shared_method)}”, on every entry: share of "
        "test images whose box overlaps the truth by at least so much. It is the one that did best "
        "on the confirm images over all entries.",
        file="compare_success",
    )


def _strips(comparison: Comparison) -> Drawing | None:
    strips = comparison.strips
    if strips is None or not strips.pictures:
        return None
    names = list(strips.heats)[:MAX_SHOWN]
    shown: dict[str, Any] = dict(zip(names, short_names(names, 34), strict=True))
    rest = len(strips.heats) - len(names)
    return drawing(
        plots.method_strips(
            strips.pictures,
            {shown[name]: strips.heats[name] for name in names},
            labels=strips.labels,
            true_boxes=strips.true_boxes,
            predicted_boxes={shown[name]: strips.predicted_boxes[name] for name in names},
        ),
        "The same test images under the heat map and box of each entry.",
        "The same test images, drawn at random, under the heat map of "
        f"“{words.method(comparison.shared_method)}” in each entry. White: true boxes; blue: "
        "predicted, at the entry’s threshold; glow: the heat map, on its own scale."
        + (f" {rest} more entries are not shown." if rest else ""),
        "jpg",
        file="compare_pictures",
    )
