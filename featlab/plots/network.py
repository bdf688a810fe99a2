"""What the network does to a picture: the shape of its output, gradients, the steps of DAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse, FancyArrowPatch, Polygon, Rectangle

from featlab.arguments import check_choice
from featlab.errors import FeatlabError
from featlab.plots.pictures import _FOOT, _GAP, _check, _draw_boxes, _margin, _mark
from featlab.plots.pictures import _grid as _tiles
from featlab.plots.style import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    PREDICTED_BOX,
    RULE_NAMES,
    TRUE_BOX,
    bare,
    grey_gradient,
    masked,
    new_axes,
    plural,
    scale_bar,
    short_name,
)
from featlab.results.networks import DamTrace

_WIDTH, _HEIGHT, _MIDDLE = 94.0, 36.0, 18.0  # of the canvas, in tenths of an inch
_SIDE = 14.0  # longest side of the picture and of a map
_SHEETS = 9  # maps drawn of the stack
_STEP = (0.85, 0.62)  # from one map of the stack to the one behind it
_CELL = "#d55e00"
_PAPER = "#f4f6f8"
_MOST_LINES = 40  # finer grids are drawn without lines
_MOST_UNITS, _UNIT = 10, "#e69f00"  # of DAM
_POOLED = {"mean": "mean over", "max": "highest of"}


def output_shape(
    shape: tuple[int, int, int],
    input_size: tuple[int, int],
    ax: Axes | None = None,
    *,
    pooling: str = "mean",
    n_classes: int | None = None,
) -> Axes:
    """What becomes of a picture: maps of cells, one number per neuron, one score per class.

    A drawing to explain the output's shape, not a chart: the grid has the true number of cells,
    what stands in them is made up.

    Parameters
    ----------
    shape : tuple of int
        ``(h, w, c)``: rows and columns of cells, and neurons.
    input_size : tuple of int
        ``(height, width)`` of the network's input in pixels.
    pooling : {"mean", "max"}
        How a map becomes one number.
    n_classes : int, optional
        Classes that the head tells apart.

    Raises
    ------
    FeatlabError
        A size below 1, or another `pooling`.
    """
    h, w, c = shape
    if min(*shape, *input_size) < 1:
        raise FeatlabError(f"shape and input_size must be 1 or more, got {shape}, {input_size}.")
    check_choice("pooling", pooling, _POOLED)
    ax = new_axes(ax, _WIDTH / 10, _HEIGHT / 10)
    ax.set_axis_off()
    ax.set_xlim(0, _WIDTH)
    ax.set_ylim(0, _HEIGHT)
    ax.set_aspect("equal")
    marked = (int(0.3 * h), int(0.45 * w))

    scene = _rectangle(9.0, input_size)
    sheet = _rectangle(43.5, (h, w), lower=1.5)
    _picture(ax, scene, (h, w), marked)
    _network(ax, 24.5)
    _stack(ax, sheet, shape, marked)
    _sight(ax, scene, sheet, (h, w), marked)
    _vector(ax, 70.5)
    _scores(ax, 84.5, n_classes)
    for start, end in ((17.2, 20.3), (28.7, 33.2), (58.8, 67.6), (73.4, 79.6)):
        _arrow(ax, start, end)

    for number, (x, heading, what) in enumerate(
        (
            (9.0, "picture", "what goes in"),
            (24.5, "frozen network", "what looks at it"),
            (46.5, "maps", "where something is seen"),
            (70.5, "pooled", "how much of it"),
            (86.5, "head", "which class"),
        ),
        start=1,
    ):
        ax.text(
            x, 34.6, f"{number}  {heading}", fontsize=10, fontweight="bold", color=INK,
            ha="center", va="center",
        )  # fmt: skip
        ax.text(x, 32.6, what, fontsize=8.5, color=MUTED, ha="center", va="center")
    cells = plural(h * w, "cell")
    _note(ax, 9.0, f"{input_size[0]:,} × {input_size[1]:,} pixels,\n3 colours each")
    _note(ax, 24.5, "learnt on other\npictures, runs once,\nnothing is trained")
    _note(
        ax, 46.5,
        f"{h:,} × {w:,} cells, each sees a patch of the picture\n"
        f"{plural(c, 'neuron')}: one map each"
        if h * w > 1
        else f"1 cell sees the whole picture: no “where”\n{plural(c, 'neuron')}: one number each",
    )  # fmt: skip
    _note(ax, 70.5, f"{plural(c, 'number')},\none per neuron")
    scores = "scores" if n_classes is None else plural(n_classes, "score")
    _note(ax, 86.5, f"{scores},\none per class")
    above = f"{_POOLED[pooling]}\n{cells}" if h * w > 1 else "nothing\nto pool"
    _on_arrow(ax, 63.2, above)
    _on_arrow(ax, 76.5, "trained")
    return ax


def _rectangle(
    x: float, size: Sequence[int], lower: float = 0.0
) -> tuple[float, float, float, float]:
    """Left, bottom, width, height of a panel around `x` with the aspect of ``(height, width)``."""
    scale = _SIDE / max(size)
    # A very long picture keeps a visible breadth.
    height, width = (max(side * scale, 0.12 * _SIDE) for side in size)
    return x - width / 2, _MIDDLE - lower - height / 2, width, height


def _picture(
    ax: Axes, place: tuple[float, float, float, float], cells: tuple[int, int], marked: Any
) -> None:
    left, bottom, width, height = place
    frame = Rectangle((left, bottom), width, height, facecolor="#dbe9f4", edgecolor=INK, zorder=2)
    frame.set_linewidth(1)
    ax.add_patch(frame)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * width, bottom + y * height

    fur, ground = "#8a7560", "#cfdcc0"
    shapes = [
        Rectangle(at(0, 0), width, 0.26 * height, facecolor=ground),
        Ellipse(at(0.52, 0.36), 0.46 * width, 0.44 * height, facecolor=fur),
        Circle(at(0.5, 0.64), 0.15 * min(width, height), facecolor=fur),
        Polygon([at(0.36, 0.68), at(0.37, 0.88), at(0.47, 0.75)], facecolor=fur),
        Polygon([at(0.53, 0.75), at(0.63, 0.88), at(0.64, 0.68)], facecolor=fur),
        Circle(at(0.45, 0.66), 0.017 * width, facecolor="white"),
        Circle(at(0.55, 0.66), 0.017 * width, facecolor="white"),
    ]
    for shape in shapes:
        shape.set(zorder=2.1, linewidth=0)
        ax.add_patch(shape)
        shape.set_clip_path(frame)
    _grid(ax, place, cells, 2.2)
    _cell(ax, place, cells, marked)


def _network(ax: Axes, x: float) -> None:
    tall, short, half = 8.5, 4.0, 4.0
    corners = [
        (x - half, _MIDDLE - tall), (x - half, _MIDDLE + tall),
        (x + half, _MIDDLE + short), (x + half, _MIDDLE - short),
    ]  # fmt: skip
    ax.add_patch(Polygon(corners, facecolor=_PAPER, edgecolor=INK, linewidth=1, zorder=4))
    for share in (0.25, 0.5, 0.75):
        at, reach = x - half + 2 * half * share, tall + (short - tall) * share
        ax.plot([at, at], [_MIDDLE - reach, _MIDDLE + reach], color=FAINT, linewidth=1, zorder=4.1)


def _stack(
    ax: Axes, place: tuple[float, float, float, float], shape: tuple[int, int, int], marked: Any
) -> None:
    left, bottom, width, height = place
    h, w, c = shape
    sheets = min(c, _SHEETS)
    for k in reversed(range(1, sheets)):
        corner = (left + k * _STEP[0], bottom + k * _STEP[1])
        ax.add_patch(
            Rectangle(
                corner, width, height, facecolor=_PAPER, edgecolor=MUTED, linewidth=0.7, zorder=3
            )
        )
    ax.imshow(
        _made_up(h, w), extent=(left, left + width, bottom, bottom + height), cmap="Blues",
        vmin=0, vmax=1.25, interpolation="nearest", aspect="equal", zorder=3.1,
    )  # fmt: skip
    frame = Rectangle((left, bottom), width, height, fill=False, edgecolor=INK, linewidth=1)
    frame.set_zorder(3.4)
    ax.add_patch(frame)
    _grid(ax, place, (h, w), 3.2)
    _cell(ax, place, (h, w), marked)
    # The depth, measured along the edge on which the sheets slide.
    start = np.array([left + width + 0.9, bottom - 0.4])
    end = start + (sheets - 1) * np.array(_STEP)
    ax.plot(*np.array([start, end]).T, color=INK, linewidth=0.9, zorder=5)
    for tip in (start, end):
        ax.plot([tip[0] - 0.35, tip[0] + 0.35], [tip[1] + 0.45, tip[1] - 0.45], color=INK, lw=0.9)
    x, y = (start + end) / 2
    ax.text(
        x + 0.9, y - 0.7, f"{c:,}", fontsize=9, color=INK, ha="left",
        va="top",
    )  # fmt: skip
    ax.text(left + width / 2, bottom - 0.8, f"{w:,}", fontsize=9, color=INK, ha="center", va="top")
    ax.text(
        left - 0.8, bottom + height / 2, f"{h:,}", fontsize=9, color=INK, ha="right", va="center"
    )


def _sight(
    ax: Axes,
    scene: tuple[float, float, float, float],
    sheet: tuple[float, float, float, float],
    cells: tuple[int, int],
    marked: tuple[int, int],
) -> None:
    """Lines from the patch of the picture to the cell that sees it."""
    patch, cell = _cell_place(scene, cells, marked), _cell_place(sheet, cells, marked)
    for share in (0, 1):
        ax.plot(
            [patch[0] + patch[2], cell[0]],
            [patch[1] + share * patch[3], cell[1] + share * cell[3]],
            color=_CELL, linewidth=0.9, linestyle=(0, (3, 2)), zorder=3.5,
        )  # fmt: skip


def _vector(ax: Axes, x: float) -> None:
    side, values = 1.9, (0.9, 0.25, 0.6, 0.1, None, 0.75, 0.35)
    top = _MIDDLE + len(values) * side / 2
    for k, value in enumerate(values):
        y = top - (k + 1) * side
        if value is None:
            ax.text(x, y + side / 2, "⋮", fontsize=11, color=INK, ha="center", va="center")
            continue
        fill = _blue(value)
        ax.add_patch(
            Rectangle((x - side / 2, y), side, side, facecolor=fill, edgecolor=INK, linewidth=0.8)
        )


def _scores(ax: Axes, x: float, n_classes: int | None) -> None:
    values = (0.9, 0.16, 0.3)[:n_classes]
    for k, value in enumerate(values):
        y = _MIDDLE + 3.4 * ((len(values) - 1) / 2 - k)
        ax.add_patch(Rectangle((x - 3, y - 0.95), 10, 1.9, facecolor=_PAPER, linewidth=0))
        colour = BLUE if k == 0 else MUTED
        ax.add_patch(Rectangle((x - 3, y - 0.95), 10 * value, 1.9, facecolor=colour, linewidth=0))


def _made_up(h: int, w: int) -> np.ndarray:
    """A map that glows where the picture shows the animal; values from 0 to 1."""
    y, x = (np.arange(h) + 0.5)[:, None] / h, (np.arange(w) + 0.5)[None, :] / w
    glow = np.exp(-(((x - 0.51) / 0.24) ** 2 + ((y - 0.5) / 0.3) ** 2))
    return 0.08 + 0.75 * glow + 0.12 * np.random.default_rng(3).random((h, w))


def _blue(share: float) -> tuple[float, ...]:
    white, blue = np.ones(3), np.array([1, 115, 178]) / 255
    return tuple(white + share * (blue - white))


def _grid(
    ax: Axes,
    place: tuple[float, float, float, float],
    cells: tuple[int, int],
    zorder: float,
) -> None:
    if max(cells) > _MOST_LINES:
        return
    left, bottom, width, height = place
    across = bottom + height * np.arange(1, cells[0]) / cells[0]
    down = left + width * np.arange(1, cells[1]) / cells[1]
    lines = [[(left, y), (left + width, y)] for y in across]
    lines += [[(x, bottom), (x, bottom + height)] for x in down]
    thin = min(0.7, 6 / max(cells))
    ax.add_collection(LineCollection(lines, colors="white", linewidths=thin, zorder=zorder))


def _cell_place(
    place: tuple[float, float, float, float], cells: tuple[int, int], marked: tuple[int, int]
) -> tuple[float, float, float, float]:
    left, bottom, width, height = place
    wide, tall = width / cells[1], height / cells[0]
    return left + marked[1] * wide, bottom + height - (marked[0] + 1) * tall, wide, tall


def _cell(
    ax: Axes,
    place: tuple[float, float, float, float],
    cells: tuple[int, int],
    marked: tuple[int, int],
) -> None:
    x, y, width, height = _cell_place(place, cells, marked)
    patch = Rectangle((x, y), width, height, fill=False, edgecolor=_CELL, linewidth=1.6, zorder=6)
    ax.add_patch(patch)


def _arrow(ax: Axes, start: float, end: float) -> None:
    ax.add_patch(
        FancyArrowPatch(
            (start, _MIDDLE), (end, _MIDDLE), arrowstyle="-|>", mutation_scale=11, color=INK,
            linewidth=1.1, shrinkA=0, shrinkB=0, zorder=5,
        )
    )  # fmt: skip


def _on_arrow(ax: Axes, x: float, text: str) -> None:
    ax.text(x, _MIDDLE + 1.0, text, fontsize=8.5, color=INK, ha="center", va="bottom")


def _note(ax: Axes, x: float, text: str) -> None:
    ax.text(x, 5.8, text, fontsize=8.5, color=INK, ha="center", va="top", linespacing=1.35)


def dam_steps(trace: DamTrace, true_boxes: np.ndarray | None = None) -> Figure:
    """Every step of DAM for one picture, left to right and down.

    Top row: the picture with the cells of the units, the united mask, and the box (blue) beside
    the truth (white). Below, one column per unit, best first: its guided gradient, its mask, and
    what is left of the picture with the loss; united masks have a blue frame.

    Parameters
    ----------
    trace : DamTrace
    true_boxes : ndarray of shape (j, 4), optional
        Pixels of the network's input.
    """
    k = min(len(trace.units), _MOST_UNITS)
    # Few units still leave room for three titles.
    figure = Figure(figsize=(max(1.12 * k + 0.9, 7.6), 6.9))
    halves = figure.add_gridspec(
        2, 1, height_ratios=(3.0, 3.4), hspace=0.14, left=0.085, right=0.995, top=0.95, bottom=0.04
    )
    upper = halves[0].subgridspec(1, 3, wspace=0.05)
    units, union, box = (bare(figure.add_subplot(upper[0, j])) for j in range(3))
    _draw_units(units, trace)
    _show(union, masked(trace.pixels, trace.union))
    _title(union, f"union of {plural(int(trace.kept.sum()), 'mask')}")
    _draw_box(box, trace, true_boxes)
    lower = halves[1].subgridspec(3, k, wspace=0.05, hspace=0.12)
    for j in range(k):
        panels = [bare(figure.add_subplot(lower[i, j])) for i in range(3)]
        _draw_unit(panels, trace, j)
        if j == 0:
            for panel, name in zip(
                panels, ("guided\ngradient", "mask", "shown alone,\nits loss"), strict=True
            ):
                panel.set_ylabel(name, fontsize=8, color=INK, rotation=0, ha="right", va="center")
    return figure


def gradient_maps(
    pictures: np.ndarray | Sequence[np.ndarray],
    maps: Mapping[str, np.ndarray] | Mapping[str, Sequence[np.ndarray]],
    *,
    labels: Sequence[str],
) -> Figure:
    """Pictures in rows; the picture, then its gradients by several rules, in columns.

    Parameters
    ----------
    pictures : sequence of k ndarrays of shape (H, W, 3), uint8
        The network's input.
    maps : mapping of str to sequence of k ndarrays of shape (H, W, 3)
        Rule → gradients with respect to the picture, of the class in `labels`. Grey is zero; each
        is drawn with its colours, on its own scale.
    labels : sequence of k str
    """
    names, left = ["picture", *maps], _margin(labels)
    _check(len(pictures), labels=labels)
    repeated = [picture for picture in pictures for _ in names]
    figure, panels = _tiles(
        repeated, len(names), side=1.7, title=0.02, left=left, top=0.24, foot=_FOOT
    )
    for place, panel in enumerate(panels):
        i, j = divmod(place, len(names))
        bare(panel).imshow(pictures[i] if j == 0 else grey_gradient(maps[names[j]][i]))
        if i == 0:
            panel.set_title(RULE_NAMES.get(names[j], names[j]), fontsize=9, color=INK, pad=4)
        if j == 0:
            _mark(panel, labels[i], None)
    bar = (left + 1.7 + _GAP, _FOOT - 0.15, 2.6)
    scale_bar(figure, bar, ("lowers the logit", "raises it"), middle="0", colours="gray")
    return figure


def _draw_units(ax: Axes, trace: DamTrace) -> None:
    """The picture with a dot in the cell of each unit."""
    _show(ax, trace.pixels)
    height, width = trace.pixels.shape[:2]
    rows, columns = trace.map_shape
    x = (trace.units[:, 1] + 0.5) * width / columns
    y = (trace.units[:, 0] + 0.5) * height / rows
    # Units of one cell fan out, so that each is seen.
    nth = pd.DataFrame({"x": x, "y": y}).groupby(["x", "y"]).cumcount().to_numpy()
    turn = nth * 2.4
    reach = np.sqrt(nth) * 0.13 * width / columns
    ax.scatter(
        x + reach * np.cos(turn), y + reach * np.sin(turn),
        s=26, c=_UNIT, edgecolors="white", linewidths=0.9,
    )  # fmt: skip
    _title(ax, f"{plural(len(trace.units), 'unit')} for {short_name(trace.label, 18)}")


def _draw_box(ax: Axes, trace: DamTrace, true_boxes: np.ndarray | None) -> None:
    """The picture with the box around the united masks, and the true boxes."""
    _show(ax, trace.pixels)
    height, width = trace.pixels.shape[:2]
    _draw_boxes(ax, true_boxes, TRUE_BOX)
    if trace.union.any():
        _draw_boxes(ax, trace.box_in_input * [width, height, width, height], PREDICTED_BOX)
    known = true_boxes is not None and len(true_boxes)
    _title(ax, "enclosing box blue" + (", truth white" if known else ""))


def _draw_unit(panels: Sequence[Axes], trace: DamTrace, j: int) -> None:
    """Guided gradient, mask, and what is left of the picture, of one unit."""
    row, column, neuron = trace.units[j]
    _show(panels[0], grey_gradient(trace.gradients[j]))
    _show(panels[1], trace.masks[j])
    _show(panels[2], masked(trace.pixels, trace.masks[j]))
    panels[0].set_title(f"neuron {neuron}\ncell {row}, {column}", fontsize=8, color=INK, pad=3)
    loss = f"{trace.losses[j]:.3g}" if np.isfinite(trace.losses[j]) else "empty"
    panels[2].set_xlabel(loss, fontsize=8, labelpad=2, color=BLUE if trace.kept[j] else INK)
    if trace.kept[j]:
        for spine in panels[2].spines.values():
            spine.set(visible=True, edgecolor=BLUE, linewidth=2)


def _show(ax: Axes, picture: np.ndarray) -> None:
    """A picture of the input's size; a map from 0 to 1 is grey."""
    height, width = picture.shape[:2]
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))


def _title(ax: Axes, text: str) -> None:
    ax.set_title(text, fontsize=9, color=INK, pad=4)
