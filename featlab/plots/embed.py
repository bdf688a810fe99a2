"""Figures of the set at a glance: the images on a plane, as points and as thumbnails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from featlab.errors import FeatlabError
from featlab.plots._base import (
    FAINT,
    INK,
    MAX_COLOURED,
    bare,
    class_colours,
    dress,
    new_axes,
    plural,
    short_names,
    text_width,
)

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LEGEND_ROWS = 20
_GAP = 0.06  # between thumbnails, as a share of a cell
_THUMBNAIL_SIDE = 128  # pixels
_MOST_VECTORS = 2000  # more points are drawn as pixels, in vector files too
_NUMBER_GAP = 0.035  # least distance of two class numbers, as a share of the plane
_PUSHES = 50


class _Embedded(Protocol):
    """What the figures read of a ``featlab.Embedding``."""

    @property
    def coordinates(self) -> pd.DataFrame: ...
    @property
    def explained_variance(self) -> np.ndarray: ...
    @property
    def perplexity(self) -> float: ...
    @property
    def trustworthiness(self) -> dict[str, float]: ...
    @property
    def n_neighbors(self) -> int: ...
    @property
    def thumbnails(self) -> pd.DataFrame: ...


def embedding_scatter(
    embedding: _Embedded,
    labels: Sequence[str] | pd.Series,
    *,
    ax: Axes | None = None,
    misclassified: Sequence[int] | np.ndarray | None = None,
    plane: str = "tsne",
) -> Axes:
    """The images as points on a plane, coloured and shaped by class.

    With more than eight classes colours repeat with another shape, and a number at the median of
    each class leads to its name in the legend.

    Parameters
    ----------
    embedding : featlab.Embedding
    labels : sequence of str, length n
    misclassified : sequence of int, optional
        Row numbers to ring.
    plane : {"tsne", "pca"}
    """
    columns = {"tsne": ["tsne_1", "tsne_2"], "pca": ["pc1", "pc2"]}
    if plane not in columns:
        raise FeatlabError(f"plane must be 'tsne' or 'pca', got {plane!r}.")
    points = embedding.coordinates[columns[plane]].to_numpy(float)
    names = _checked(labels, embedding)
    classes = sorted(set(names.tolist()))
    is_many = len(classes) > MAX_COLOURED
    styles = _styles(classes)
    shown = short_names(classes, 18 if is_many else 22)
    ax = new_axes(ax, 6.2 + _legend_width(shown, is_many), 5.6)
    handles = []
    size = float(np.clip(9000 / len(points), 7, 34))
    for number, (name, text) in enumerate(zip(classes, shown, strict=True), start=1):
        mine = names == name
        colour, marker = styles[name]
        ax.scatter(
            points[mine, 0], points[mine, 1], s=size, color=colour, marker=marker, alpha=0.75,
            linewidth=0, rasterized=len(points) > _MOST_VECTORS,
        )  # fmt: skip
        label = f"{number}  {text}" if is_many else f"{text} (n = {int(mine.sum()):,})"
        handles.append(_handle(label, marker=marker, color=colour, markersize=6))
    if misclassified is not None and len(misclassified):
        rows = embedding.coordinates.index.get_indexer(pd.Index(misclassified, dtype=np.intp))
        ax.scatter(
            points[rows, 0], points[rows, 1], s=size * 3.2, facecolors="none", edgecolors=INK,
            linewidths=1.1, zorder=4,
        )  # fmt: skip
        handles.append(
            _handle(
                f"misclassified ({len(rows):,})",
                marker="o",
                color=INK,
                markersize=9,
                markerfacecolor="none",
            )
        )
    if is_many:
        _numbers(ax, points, names, classes)
    ax.set_xticks([])
    ax.set_yticks([])
    _describe(ax, embedding, plane)
    ax.legend(
        handles=handles, frameon=False, fontsize=7.5 if is_many else 8.5, loc="upper left",
        bbox_to_anchor=(1.0, 1.0), ncols=_legend_columns(classes) if is_many else 1,
        title="class", title_fontsize=8.5, handletextpad=0.2, columnspacing=1.0, labelcolor=INK,
    )  # fmt: skip
    return ax


def embedding_thumbnails(
    embedding: _Embedded,
    pictures: Mapping[int, np.ndarray | None] | Sequence[np.ndarray | None],
    labels: Sequence[str] | pd.Series,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Thumbnails on the t-SNE plane, one per cell of a grid, framed in their class's colour.

    No thumbnail covers another: each stands in its cell, at most half a cell from its place on the
    plane; cells without an image stay empty. With more than eight classes a number in the corner,
    that of :func:`embedding_scatter`, tells the classes with one colour apart.

    Parameters
    ----------
    embedding : featlab.Embedding
        ``thumbnails`` names the rows that are shown, and where.
    pictures : mapping of int to ndarray of shape (height, width, 3), uint8, or None
        By row number, the rows of ``thumbnails`` at least; a sequence of all pictures will do.
        None where a picture could not be read.
    labels : sequence of str, length n
    """
    layout = embedding.thumbnails
    names = dict(zip(embedding.coordinates.index, _checked(labels, embedding), strict=True))
    classes = sorted(set(names.values()))
    numbers = {name: place for place, name in enumerate(classes, start=1)}
    styles, side = _styles(classes), float(layout.attrs["side"])
    is_many = len(classes) > MAX_COLOURED
    cells = np.ptp(layout[["x", "y"]].to_numpy(), axis=0) / side + 1
    inch = float(np.clip(9 / cells.max(), 0.6, 1.6))
    shown = short_names(classes, 18)
    beside = 0.9 + _legend_width(shown, is_many)
    ax = new_axes(ax, max(cells[0] * inch, 3.6) + beside, max(cells[1] * inch, 2.4) + 0.9)
    bare(ax)
    for row, x, y in layout.itertuples(index=False):
        name = names[int(row)]
        extent = _thumbnail(ax, pictures[int(row)], x, y, side * (1 - _GAP), styles[name][0])
        if is_many:
            ax.text(
                extent[0] + 0.05 * side, extent[3] - 0.05 * side, str(numbers[name]), fontsize=7,
                color="white", va="top", zorder=4,
                path_effects=[withStroke(linewidth=1.6, foreground=INK)],
            )  # fmt: skip
    low = layout[["x", "y"]].min() - 0.55 * side
    high = layout[["x", "y"]].max() + 0.55 * side
    ax.set_xlim(low["x"], high["x"])
    ax.set_ylim(low["y"], high["y"])
    ax.set_aspect("equal", anchor="W")  # what is spare stands on the legend's side
    _describe(ax, embedding, "tsne", shown=len(layout))
    handles = [
        _handle(
            f"{numbers[name]}  {text}" if is_many else text,
            marker="s",
            color=styles[name][0],
            markerfacecolor="none",
            markeredgewidth=2,
            markersize=7,
        )
        for name, text in zip(classes, shown, strict=True)
    ]
    ax.legend(
        handles=handles, frameon=False, fontsize=7.5 if is_many else 8.5, loc="upper left",
        bbox_to_anchor=(1.0, 1.0), ncols=_legend_columns(classes), title="class",
        title_fontsize=8.5, labelcolor=INK,
    )  # fmt: skip
    return ax


def _checked(labels: Sequence[str] | pd.Series, embedding: _Embedded) -> np.ndarray:
    """The labels of the images laid out, which may be some of those labelled."""
    names, rows = np.asarray(labels, dtype=str), embedding.coordinates.index.to_numpy()
    n, last = len(rows), int(rows.max())
    if len(names) != n if last < n else len(names) <= last:
        raise FeatlabError(f"labels has {len(names)} entries for {n} images; give one for each.")
    return names[rows]


def _styles(classes: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """Colour and marker of each class: eight colours, and as many shapes as that leaves to do."""
    colours = list(class_colours(classes[:MAX_COLOURED]).values())
    styles = {}
    for place, name in enumerate(classes):
        turn, colour = divmod(place, MAX_COLOURED)
        # Few classes get a shape each beside their colour, so that either tells them apart.
        shape = place if len(classes) <= MAX_COLOURED else turn
        styles[name] = (colours[colour], _MARKERS[shape % len(_MARKERS)])
    return styles


def _legend_columns(classes: Sequence[str]) -> int:
    return -(-len(classes) // _LEGEND_ROWS)


def _legend_width(shown: Sequence[str], is_many: bool) -> float:
    """Inches of a legend with these names: numbered where they are many, else with their n."""
    size, more = (7.5, "37  ") if is_many else (8.5, " (n = 9,999)")
    widest = max((text_width(name + more, size) for name in shown), default=0.0)
    return _legend_columns(shown) * (widest + 0.4)


def _handle(label: str, **style: Any) -> Line2D:
    return Line2D([], [], linestyle="none", label=label, **style)


def _numbers(ax: Axes, points: np.ndarray, names: np.ndarray, classes: Sequence[str]) -> None:
    """The number of each class near its median, no two on top of each other."""
    places = []
    for name in classes:
        mine = points[names == name]
        # The image nearest to the median: the median itself may fall between two clumps.
        places.append(mine[np.hypot(*(mine - np.median(mine, axis=0)).T).argmin()])
    span = np.maximum(np.ptp(points, axis=0), 1e-12)
    for number, (x, y) in enumerate(_apart(np.array(places) / span) * span, start=1):
        ax.text(
            x, y, str(number), fontsize=8.5, fontweight="bold", color=INK, ha="center",
            va="center", zorder=5, path_effects=[withStroke(linewidth=2.4, foreground="white")],
        )  # fmt: skip


def _apart(places: np.ndarray) -> np.ndarray:
    """Push places that are too near away from each other, in shares of the plane."""
    places = places + 1e-6 * np.arange(len(places))[:, None]  # equal places need a direction
    for _ in range(_PUSHES):
        gap = places[:, None] - places[None]
        distance = np.hypot(gap[..., 0], gap[..., 1])
        np.fill_diagonal(distance, np.inf)
        push = np.clip(_NUMBER_GAP - distance, 0, None) / 2 / np.maximum(distance, 1e-9)
        if not push.any():
            break
        places = places + (gap * push[..., None]).sum(axis=1)
    return places


def _describe(ax: Axes, embedding: _Embedded, plane: str, shown: int | None = None) -> None:
    n, trust = len(embedding.coordinates), embedding.trustworthiness[plane]
    title = f"n = {plural(n, 'image')}"
    if shown is not None and shown < n:
        title += f", {shown:,} shown"
    if plane == "tsne":
        title += f"; perplexity {embedding.perplexity:.3g}"
        labels = ["t-SNE 1 (no unit)", "t-SNE 2 (no unit)"]
    else:
        shares = np.append(embedding.explained_variance, 0.0)[:2]
        labels = [f"component {k} ({share:.0%} of variance)" for k, share in enumerate(shares, 1)]
    title += f"; trustworthiness {trust:.2f} over {plural(embedding.n_neighbors, 'neighbour')}"
    dress(ax, title=title, xlabel=labels[0], ylabel=labels[1])


def _thumbnail(
    ax: Axes, picture: np.ndarray | None, x: float, y: float, side: float, colour: Any
) -> tuple[float, float, float, float]:
    """Draw one picture in its cell with its aspect kept; returns left, right, bottom, top."""
    height, width = (3, 4) if picture is None else picture.shape[:2]
    # A very long picture keeps a visible width.
    long, wide = max(height, width), max(width, 0.2 * height)
    tall = max(height, 0.2 * width)
    half = (side / 2 * wide / long, side / 2 * tall / long)
    extent = (x - half[0], x + half[0], y - half[1], y + half[1])
    if picture is not None:
        step = max(1, max(height, width) // _THUMBNAIL_SIDE)
        ax.imshow(picture[::step, ::step], extent=extent, interpolation="antialiased", zorder=2)
    frame = Rectangle((extent[0], extent[2]), 2 * half[0], 2 * half[1], zorder=3)
    frame.set(edgecolor=colour, linewidth=2, facecolor=FAINT if picture is None else "none")
    ax.add_patch(frame)
    return extent
