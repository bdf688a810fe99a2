"""Figures of the data set: images per class, what the boxes look like, the images on a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from featlab.arguments import SIDES, check_choice
from featlab.errors import FeatlabError
from featlab.plots.style import (
    BLUE,
    CLASS_COLOURS,
    FAINT,
    INK,
    MAX_COLOURED,
    MUTED,
    bare,
    class_colours,
    dress,
    legend,
    new_axes,
    plural,
    short_names,
    text_width,
)
from featlab.results.images import Embedding

_FEW_CLASSES = 12  # bars are a little higher
_BINS = np.linspace(0, 1, 21).tolist()
_MOST_OUTLINES = 200
_MOST_COUNTED = 10
_MOST_ASPECTS = 3  # ticks on either side of the square
_PLANES = {"tsne": ["tsne_1", "tsne_2"], "pca": ["pc1", "pc2"]}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LEGEND_ROWS = 20
_GAP = 0.06  # between thumbnails, as a share of a cell
_THUMBNAIL_SIDE = 128  # pixels
_MOST_VECTORS = 2000  # more points are drawn as pixels, in vector files too
_NUMBER_GAP = 0.035  # least distance of two class numbers, as a share of the plane
_PUSHES = 50


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
    sides = [side for side in SIDES if side in counts]
    ax = new_axes(ax, 7, 1.3 + (0.27 if len(counts) <= _FEW_CLASSES else 0.2) * len(counts))
    colours = dict(zip(SIDES, CLASS_COLOURS, strict=False))
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


def box_statistics(statistics: pd.DataFrame, *, n_images: int | None = None) -> Figure:
    """Size, shape and place of the boxes: six panels.

    Parameters
    ----------
    statistics : DataFrame
        From :func:`featlab.boxheads.box_statistics`.
    n_images : int, optional
        Images of the set, those without a box included; by default only those with one.

    Returns
    -------
    Figure
        Area, sides, aspect, boxes per image, centres, and outlines with the mean box.
    """
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    axes = figure.subplots(2, 3)
    _area(axes[0, 0], statistics)
    _side_lengths(axes[0, 1], statistics)
    _aspect(axes[0, 2], statistics)
    _per_image(axes[1, 0], statistics, n_images)
    _centres(axes[1, 1], statistics)
    _outlines(axes[1, 2], statistics)
    return figure


def embedding_scatter(
    embedding: Embedding,
    labels: Sequence[str] | pd.Series,
    ax: Axes | None = None,
    *,
    misclassified: Sequence[int] | np.ndarray | None = None,
    plane: str = "tsne",
    what: str = "class",
) -> Axes:
    """The images as points on a plane, coloured and shaped by class.

    With more than eight classes colours repeat with another shape, and a number at the median of
    each class leads to its name in the legend.

    Parameters
    ----------
    embedding : Embedding
    labels : sequence of str, length n
    misclassified : sequence of int, optional
        Row numbers to ring.
    plane : {"tsne", "pca"}
    what : str
        What the colours are, over the legend.
    """
    check_choice("plane", plane, _PLANES)
    points = embedding.coordinates[_PLANES[plane]].to_numpy(float)
    names = _checked(labels, embedding)
    classes = sorted(set(names.tolist()))
    is_many = len(classes) > MAX_COLOURED
    styles = _styles(classes)
    short = short_names(classes, 18 if is_many else 22)
    ax = new_axes(ax, 6.2 + _legend_width(short, is_many), 5.6)
    handles = []
    size = float(np.clip(9000 / len(points), 7, 34))
    for number, (name, text) in enumerate(zip(classes, short, strict=True), start=1):
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
        title=what, title_fontsize=8.5, handletextpad=0.2, columnspacing=1.0, labelcolor=INK,
    )  # fmt: skip
    return ax


def embedding_thumbnails(
    embedding: Embedding,
    pictures: Mapping[int, np.ndarray | None] | Sequence[np.ndarray | None],
    labels: Sequence[str] | pd.Series,
    ax: Axes | None = None,
) -> Axes:
    """Thumbnails on the t-SNE plane, one per cell of a grid, framed in their class's colour.

    No thumbnail covers another: each stands in its cell, at most half a cell from its place on the
    plane; cells without an image stay empty. With more than eight classes a number in the corner,
    that of :func:`embedding_scatter`, tells the classes with one colour apart.

    Parameters
    ----------
    embedding : Embedding
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
    styles, side = _styles(classes), embedding.cell_side
    is_many = len(classes) > MAX_COLOURED
    cells = np.ptp(layout[["x", "y"]].to_numpy(), axis=0) / side + 1
    inch = float(np.clip(9 / cells.max(), 0.6, 1.6))
    short = short_names(classes, 18)
    beside = 0.9 + _legend_width(short, is_many)
    ax = new_axes(ax, max(cells[0] * inch, 3.6) + beside, max(cells[1] * inch, 2.4) + 0.9)
    # In an SVG each picture is an image of its own, else all are one that is mostly empty.
    cast(Figure, ax.figure).suppressComposite = True
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
    _describe(ax, embedding, "tsne", drawn=len(layout))
    handles = [
        _handle(
            f"{numbers[name]}  {text}" if is_many else text,
            marker="s",
            color=styles[name][0],
            markerfacecolor="none",
            markeredgewidth=2,
            markersize=7,
        )
        for name, text in zip(classes, short, strict=True)
    ]
    ax.legend(
        handles=handles, frameon=False, fontsize=7.5 if is_many else 8.5, loc="upper left",
        bbox_to_anchor=(1.0, 1.0), ncols=_legend_columns(classes), title="class",
        title_fontsize=8.5, labelcolor=INK,
    )  # fmt: skip
    return ax


def _area(ax: Axes, statistics: pd.DataFrame) -> None:
    ax.hist(statistics["area"], bins=_BINS, color=BLUE)
    title = f"n = {len(statistics):,} boxes" if len(statistics) != 1 else "n = 1 box"
    dress(ax, title=title, xlabel="area (share of the picture)", ylabel="boxes (count)", grid="y")


def _side_lengths(ax: Axes, statistics: pd.DataFrame) -> None:
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
    step = np.ceil(reach / _MOST_ASPECTS)
    ticks = step * np.arange(-(reach // step), reach // step + 1)
    ax.set_xticks(ticks, [f"{2**t:.0f}" if t >= 0 else f"1/{2**-t:.0f}" for t in ticks])
    dress(ax, title="aspect", xlabel="width / height (pixels)", ylabel="boxes (count)", grid="y")


def _per_image(ax: Axes, statistics: pd.DataFrame, n_images: int | None) -> None:
    counts = statistics.loc[statistics["largest"], "boxes_in_image"].to_numpy(int)
    values = np.bincount(np.minimum(counts, _MOST_COUNTED), minlength=2)
    values[0] = 0 if n_images is None else n_images - len(counts)
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
    some = statistics.iloc[:: max(1, -(-len(statistics) // _MOST_OUTLINES))]
    places = some[["x", "y", "width", "height"]].to_numpy(float)
    ax.add_collection(_rectangles(places, MUTED, 0.5, 0.25), autolim=False)
    if len(statistics):
        mean = statistics[["x", "y", "width", "height"]].mean().to_numpy(float)
        ax.add_collection(_rectangles(mean[None], BLUE, 2.2, 1.0), autolim=False)
    ax.set_xlim(0, 1)
    ax.set_ylim(1, 0)
    ax.set_aspect("equal")
    title = f"mean box (blue) over {plural(len(some), 'outline')}"
    dress(ax, title=title, xlabel="x (share of the width)", ylabel="y (share of the height)")


def _rectangles(places: np.ndarray, colour: str, line: float, alpha: float) -> PolyCollection:
    """Outlines ``(k, 4)``: centre, width, height."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    return PolyCollection(
        places[:, None, :2] + corners * places[:, None, 2:], facecolors="none", edgecolors=colour,
        linewidths=line, alpha=alpha, joinstyle="miter",
    )  # fmt: skip


def _checked(labels: Sequence[str] | pd.Series, embedding: Embedding) -> np.ndarray:
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


def _legend_width(names: Sequence[str], is_many: bool) -> float:
    """Inches of a legend with these names: numbered where they are many, else with their n."""
    size, more = (7.5, "37  ") if is_many else (8.5, " (n = 9,999)")
    widest = max((text_width(name + more, size) for name in names), default=0.0)
    return _legend_columns(names) * (widest + 0.4)


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


def _describe(ax: Axes, embedding: Embedding, plane: str, drawn: int | None = None) -> None:
    n, trust = len(embedding.coordinates), embedding.trustworthiness[plane]
    title = f"n = {plural(n, 'image')}"
    if drawn is not None and drawn < n:
        title += f", {drawn:,} shown"
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
