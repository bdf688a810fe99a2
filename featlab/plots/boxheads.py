"""Figures of boxes: what they look like, and how well they are regressed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from featlab.plots._base import BLUE, INK, MUTED, dress, plural
from featlab.plots.scores import _dots, _sizes

_BINS = np.linspace(0, 1, 21).tolist()
_MOST_OUTLINES = 200
_MOST_COUNTED = 10
_MOST_TICKS = 3  # on either side of the square


def box_eda(statistics: pd.DataFrame, *, n_images: int | None = None) -> Figure:
    """Size, shape and place of the boxes: six panels.

    Parameters
    ----------
    statistics : DataFrame
        From :func:`featlab.boxheads.box_statistics`.
    n_images : int, optional
        Images of the set, with boxes or without; those with boxes by default.

    Returns
    -------
    Figure
        Area, sides, aspect, boxes per image, centres, and outlines with the mean box.
    """
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    axes = figure.subplots(2, 3)
    _area(axes[0, 0], statistics)
    _sides(axes[0, 1], statistics)
    _aspect(axes[0, 2], statistics)
    _per_image(axes[1, 0], statistics, n_images)
    _centres(axes[1, 1], statistics)
    _outlines(axes[1, 2], statistics)
    return figure


def box_heads(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Mean IoU and interval of every box head; baselines are hollow.

    Parameters
    ----------
    table : DataFrame
        ``head, baseline, n, mean_iou, mean_iou_low, mean_iou_high``; one row per head, as in
        ``BoxHeadResults.table``.
    """
    ordered = table.sort_values("mean_iou", ascending=False, kind="stable")
    names = [str(head).replace("_", " ") for head in ordered["head"]]
    ax = _dots(ax, ordered, "mean_iou", names, ordered["baseline"].to_numpy(bool))
    return dress(
        ax,
        title=f"n = {_sizes(table)}",
        xlabel="mean IoU of the predicted with the true box (0-1)",
        ylabel="head",
        grid="x",
    )


def _area(ax: Axes, statistics: pd.DataFrame) -> None:
    ax.hist(statistics["area"], bins=_BINS, color=BLUE)
    title = f"n = {len(statistics):,} boxes" if len(statistics) != 1 else "n = 1 box"
    dress(ax, title=title, xlabel="area (share of the picture)", ylabel="boxes (count)", grid="y")


def _sides(ax: Axes, statistics: pd.DataFrame) -> None:
    for side, colour in (("width", BLUE), ("height", MUTED)):
        ax.hist(
            statistics[side], bins=_BINS, histtype="step", color=colour, linewidth=1.6, label=side
        )
    ax.legend(frameon=False, fontsize=8.5)
    dress(ax, title="sides", xlabel="share of the picture's side", ylabel="boxes (count)", grid="y")


def _aspect(ax: Axes, statistics: pd.DataFrame) -> None:
    logs = np.log2(statistics["aspect"].to_numpy(float))
    reach = max(1.0, float(np.ceil(np.abs(logs).max(initial=0))))
    ax.hist(logs, bins=np.linspace(-reach, reach, 25).tolist(), color=BLUE)
    step = np.ceil(reach / _MOST_TICKS)
    ticks = step * np.arange(-(reach // step), reach // step + 1)
    ax.set_xticks(ticks, [f"{2**t:.0f}" if t >= 0 else f"1/{2**-t:.0f}" for t in ticks])
    dress(
        ax, title="aspect", xlabel="width / height (pixels)", ylabel="boxes (count)", grid="y"
    )  # fmt: skip


def _per_image(ax: Axes, statistics: pd.DataFrame, n_images: int | None) -> None:
    counts = statistics.loc[statistics["largest"], "boxes_in_image"].to_numpy(int)
    without = 0 if n_images is None else n_images - len(counts)
    values = np.bincount(np.minimum(counts, _MOST_COUNTED), minlength=2)
    values[0] = max(without, 0)
    ax.bar(np.arange(len(values)), values, color=BLUE, width=0.75)
    names = [str(k) for k in range(len(values))]
    if len(values) > _MOST_COUNTED:
        names[-1] = f"{_MOST_COUNTED}+"
    ax.set_xticks(range(len(values)), names)
    title = f"n = {plural(int(values.sum()), 'image')}"
    dress(ax, title=title, xlabel="boxes in the image", ylabel="images (count)", grid="y")


def _centres(ax: Axes, statistics: pd.DataFrame) -> None:
    counts, _, _ = np.histogram2d(statistics["y"], statistics["x"], bins=[_BINS, _BINS])
    image = ax.imshow(counts, cmap="Blues", extent=(0, 1, 1, 0))
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, pad=0.03)
    bar.set_label("boxes (count)", fontsize=8.5, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK, length=0)
    bar.outline.set_visible(False)  # type: ignore[operator]
    dress(ax, title="centres", xlabel="x (share of the width)", ylabel="y (share of the height)")


def _outlines(ax: Axes, statistics: pd.DataFrame) -> None:
    shown = statistics.iloc[:: max(1, -(-len(statistics) // _MOST_OUTLINES))]
    for x, y, width, height in shown[["x", "y", "width", "height"]].to_numpy(float):
        ax.add_patch(_outline(x, y, width, height, MUTED, 0.5, 0.25))
    if len(statistics):
        x, y, width, height = statistics[["x", "y", "width", "height"]].mean().to_numpy(float)
        ax.add_patch(_outline(x, y, width, height, BLUE, 2.2, 1.0))
    ax.set_xlim(0, 1)
    ax.set_ylim(1, 0)
    ax.set_aspect("equal")
    title = f"mean box (blue) over {plural(len(shown), 'outline')}"
    dress(ax, title=title, xlabel="x (share of the width)", ylabel="y (share of the height)")


def _outline(
    x: float, y: float, width: float, height: float, colour: str, line: float, alpha: float
) -> Rectangle:
    return Rectangle(
        (x - width / 2, y - height / 2), width, height, fill=False, edgecolor=colour,
        linewidth=line, alpha=alpha,
    )  # fmt: skip
