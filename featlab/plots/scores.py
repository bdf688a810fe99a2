"""Figures of counts and scores: the data set, the heads, the confusion, the localisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from featlab.plots._base import (
    BLUE,
    CLASS_COLOURS,
    INK,
    MUTED,
    dress,
    legend,
    new_axes,
    plural,
    short_names,
    text_width,
)

_SIDES = ("train", "confirm", "test")
_BASELINE_HEADS = ("dummy", "colour_histogram")
_ANNOTATED_CLASSES = 12
_FLAT_NAME = 0.9  # inches that a name may take below one of two columns; 0.6 below one of more


def class_balance(
    images: pd.DataFrame, split: Sequence[str] | pd.Series, ax: Axes | None = None
) -> Axes:
    """Images per class, stacked by split.

    Parameters
    ----------
    images : DataFrame
        Image table; only ``label`` is read.
    split : sequence of str, length n
        "train", "confirm" or "test" per row.
    """
    counts = pd.crosstab(images["label"].to_numpy(), np.asarray(split, dtype=str))
    sides = [side for side in _SIDES if side in counts]
    ax = new_axes(ax, 7, 1.3 + (0.27 if len(counts) <= _ANNOTATED_CLASSES else 0.2) * len(counts))
    colours = dict(zip(_SIDES, CLASS_COLOURS, strict=False))
    y, left = np.arange(len(counts)), np.zeros(len(counts))
    for side in sides:
        width = counts[side].to_numpy(float)
        ax.barh(y, width, left=left, height=0.66, color=colours[side], label=side)
        left += width
    for place, total in enumerate(left):
        ax.annotate(
            f"{total:,.0f}", (total, place), (4, 0), textcoords="offset points",
            va="center", fontsize=8, color=MUTED,
        )  # fmt: skip
    ax.set_yticks(y, short_names(counts.index))
    ax.set_ylim(len(counts) - 0.4, -0.6)
    ax.set_xlim(0, max(left.max(initial=0), 1) * 1.1)
    kinds = "1 class" if len(counts) == 1 else f"{len(counts):,} classes"
    title = f"n = {plural(len(images), 'image')} in {kinds}"
    dress(ax, title=title, xlabel="images (count)", ylabel="class", grid="x")
    legend(ax, outside=True, title="split")
    return ax


def head_comparison(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy and interval of every head; the dummy and the colour histogram are baselines.

    Parameters
    ----------
    table : DataFrame
        ``head, n, accuracy, accuracy_low, accuracy_high``; one row per head.
    """
    names = [str(head).replace("_", " ") for head in table["head"]]
    baseline = table["head"].isin(_BASELINE_HEADS).to_numpy()
    ax = _dots(ax, table, "accuracy", names, baseline)
    return dress(
        ax,
        title=f"n = {_sizes(table)}",
        xlabel="accuracy on unseen test images (share, 0-1)",
        ylabel="head",
        grid="x",
    )


def localisation_scores(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Box accuracy and interval of every method; baselines are hollow.

    Parameters
    ----------
    table : DataFrame
        ``method, baseline, n, box_accuracy, box_accuracy_low, box_accuracy_high``.
    """
    ordered = table.sort_values("box_accuracy", ascending=False, kind="stable")
    names = [str(method).replace("_", " ") for method in ordered["method"]]
    ax = _dots(ax, ordered, "box_accuracy", names, ordered["baseline"].to_numpy(bool))
    return dress(
        ax,
        title=f"n = {_sizes(table)}",
        xlabel="box accuracy (share of test images with IoU ≥ 0.5, 0-1)",
        ylabel="method",
        grid="x",
    )


def confusion_matrix(confusion: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Counts of true against predicted classes, shaded by the share of the true class.

    Parameters
    ----------
    confusion : DataFrame of shape (k, k)
        True classes in rows, predicted classes in columns; counts. Cells carry their counts
        when there are at most 12 classes.
    """
    counts = confusion.to_numpy(float)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    k = len(confusion)
    is_small = k <= _ANNOTATED_CLASSES
    size = 8.5 if is_small else 7.5
    names = short_names(confusion.columns)
    widest = max(text_width(name, size) for name in names)
    upright = widest > (_FLAT_NAME if k <= 2 else 0.6) or not is_small
    # The cells keep their size; the names take their room beside and below them.
    side = (1.0 if k <= 2 else 0.62 if is_small else 0.2) * k
    ax = new_axes(
        ax, max(side + widest + 1.8, 4.2), max(side + (widest if upright else 0.2) + 0.8, 3.0)
    )
    sns.heatmap(
        share, vmin=0, vmax=1, cmap="Blues", square=True, rasterized=not is_small, ax=ax,
        annot=counts if is_small else None, fmt=".0f", annot_kws={"fontsize": 9},
        xticklabels=names, yticklabels=short_names(confusion.index),
        cbar_kws={"shrink": 0.8, "pad": 0.03},
    )  # fmt: skip
    ax.tick_params(axis="x", labelrotation=90 if upright else 0)
    ax.tick_params(axis="y", labelrotation=0)
    title = f"n = {plural(int(counts.sum()), 'test image')}"
    dress(ax, title=title, xlabel="predicted class", ylabel="true class")
    ax.tick_params(labelsize=size)
    bar: Any = ax.collections[0].colorbar
    bar.set_label("share of the true class", fontsize=8.5, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK, length=0)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return ax


def _dots(
    ax: Axes | None,
    table: pd.DataFrame,
    score: str,
    names: Sequence[str],
    baseline: np.ndarray,
) -> Axes:
    """A dot and an interval per row; hollow and grey where `baseline`."""
    names = short_names(names, 40)
    # Names take their room beside the axes, over which title and legend share a line.
    width = max((text_width(name, 8.5) for name in names), default=0.0)
    ax = new_axes(ax, max(5.8 + width, 7), 1.3 + 0.32 * len(table))
    y = np.arange(len(table))
    for mask, colour, fill, label in (
        (~baseline, BLUE, BLUE, "from the maps, 95 % interval"),
        (baseline, MUTED, "white", "baseline"),
    ):
        if not mask.any():
            continue
        ax.errorbar(
            table[score][mask], y[mask], xerr=_whiskers(table[mask], score), fmt="o",
            color=colour, markerfacecolor=fill, markersize=6.5, elinewidth=1.6, label=label,
        )  # fmt: skip
    for place, value in enumerate(table[score]):
        if np.isfinite(value):
            ax.annotate(
                f"{value:.2f}", (1.0, place), (6, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", va="center", fontsize=8.5, color=INK,
            )  # fmt: skip
    ax.set_yticks(y, names)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlim(0, 1.02)
    ax.legend(
        frameon=False, fontsize=8.5, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2,
        borderaxespad=0.2, handletextpad=0.3, columnspacing=1.2,
    )  # fmt: skip
    return ax


def _whiskers(table: pd.DataFrame, score: str) -> np.ndarray:
    centre = table[score].to_numpy(float)
    low, high = table[f"{score}_low"].to_numpy(float), table[f"{score}_high"].to_numpy(float)
    return np.clip(np.nan_to_num(np.vstack([centre - low, high - centre])), 0, None)


def _sizes(table: pd.DataFrame) -> str:
    low, high = int(table["n"].min()), int(table["n"].max())
    return plural(high, "test image") if low == high else f"{low:,} to {high:,} test images"
