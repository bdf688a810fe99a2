"""Figures made of the pictures themselves, with boxes and heat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from featlab.arguments import check_whole
from featlab.errors import FeatlabError
from featlab.plots.style import (
    FAINT,
    GRADIENT_METHOD_NAMES,
    INK,
    MUTED,
    ON_PICTURE,
    PREDICTED_BOX,
    REGRESSED_BOX,
    RIGHT,
    TRUE_BOX,
    WRONG,
    bare,
    fitted_name,
    heat_colours,
    heat_share,
    scale_bar,
    short_name,
    short_names,
    text_width,
)
from featlab.results.networks import CamExamples

_MAX_SIDE = 256
_UNIT_SIZE = 7.5
_TILE = 1.45  # inches
_CAPTION_LINES = 3
_NAME = 1.2  # inches of a class name beside a row of pictures
_GAP, _FOOT = 0.08, 0.34  # inches between pictures, and below them for a colour bar
_LINES = {False: "-", True: (0, (4, 1.5))}


def sample_pictures(
    pictures: Sequence[np.ndarray | None],
    captions: Sequence[str],
    boxes: Sequence[np.ndarray] | None = None,
    *,
    columns: int = 6,
) -> Figure:
    """A grid of pictures, each with its label or what else is to be said of it, and its boxes.

    Parameters
    ----------
    pictures : sequence of ndarray of shape (height, width, 3), uint8, or None
        None where a picture could not be read.
    captions : sequence of str
        Up to three lines each.
    boxes : sequence of ndarray of shape (k, 4), optional
        ``xmin, ymin, xmax, ymax`` in pixels of each picture.
    """
    _check(len(pictures), captions=captions, boxes=boxes)
    check_whole("columns", columns, 1)
    lines = [str(caption).splitlines()[:_CAPTION_LINES] for caption in captions]
    title = 0.12 + 0.14 * max(1, *map(len, lines))
    figure, panels = _grid(pictures, min(columns, len(pictures)), side=_TILE, title=title)
    for i, (panel, picture) in enumerate(zip(panels, pictures, strict=True)):
        _picture(panel, picture)
        text = "\n".join(fitted_name(line, _TILE - 0.15, 8.5) for line in lines[i])
        panel.set_title(text, fontsize=8.5, color=INK, pad=4)
        if boxes is not None and picture is not None:
            _draw_boxes(panel, boxes[i], TRUE_BOX)
    return figure


def detector_maps(
    pictures: Sequence[np.ndarray | None],
    heats: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    labels: Sequence[str],
    predicted_labels: Sequence[str | None] | None = None,
    true_boxes: Sequence[np.ndarray] | None = None,
    predicted_boxes: Sequence[np.ndarray | None] | None = None,
    signed: bool = False,
    unit: str = "activation of a cell (network units)",
) -> Figure:
    """Pictures in rows; the picture and the map of every detector in columns, over its scale.

    Parameters
    ----------
    pictures : sequence of k ndarrays of shape (height, width, 3), uint8, or None
    heats : sequence of k ndarrays of shape (m, h, w)
        Coarse or fine; each covers its whole picture. A detector's maps share one scale over all
        rows, from 0 to its highest value shown, so a map that stays dark means a silent detector.
        Of signed values it reaches as far below 0.
    captions : sequence of m str
        Over the columns.
    labels, predicted_labels : sequence of k str
        True and predicted classes; a row is marked right or wrong where a prediction is given.
    true_boxes, predicted_boxes : sequence of k arrays ``(j, 4)`` and ``(4,)``, optional
        Pixels of the pictures.
    signed : bool
        Whether the maps have values below 0, as tokens have around their mean.
    unit : str
        What the maps are.
    """
    k = len(pictures)
    _check(k, heats=heats, labels=labels, predicted_labels=predicted_labels)
    _check(k, true_boxes=true_boxes, predicted_boxes=predicted_boxes)
    m = len(captions)
    repeated = [picture for picture in pictures for _ in range(m + 1)]
    figure, flat = _grid(
        repeated, m + 1, side=1.4, title=0.02, left=_margin(labels, predicted_labels), top=0.42,
        foot=_FOOT + 0.16,
    )  # fmt: skip
    panels = np.reshape(np.array(flat, dtype=object), (k, m + 1))
    tops = [_top([heat[j] for heat in heats], signed) for j in range(m)]
    for i, picture in enumerate(pictures):
        predicted = predicted_labels[i] if predicted_labels is not None else None
        for j, panel in enumerate(panels[i]):
            _picture(panel, picture)
            if picture is None:
                continue
            if j > 0:
                _overlay(panel, picture, heats[i][j - 1], tops[j - 1], signed)
            if true_boxes is not None:
                _draw_boxes(panel, true_boxes[i], TRUE_BOX)
            if predicted_boxes is not None:
                _draw_boxes(panel, predicted_boxes[i], PREDICTED_BOX)
        _mark(panels[i][0], labels[i], predicted)
    for panel, caption in zip(panels[0][1:], captions, strict=True):
        lines = [fitted_name(line, 1.28, 8.5) for line in caption.splitlines()]
        panel.set_title("\n".join(lines), fontsize=8.5, color=INK, pad=5)
    _scales(figure, panels[0][1:], tops, signed, unit)
    return figure


def localisation_examples(
    pictures: Sequence[np.ndarray | None],
    heats: Sequence[np.ndarray],
    true_boxes: Sequence[np.ndarray],
    predicted_boxes: Sequence[np.ndarray | None],
    ious: Sequence[float],
    *,
    labels: Sequence[str] | None = None,
    columns: int = 3,
    regressed_boxes: Sequence[np.ndarray | None] | None = None,
    regressed_ious: Sequence[float] | None = None,
) -> Figure:
    """Pictures under their heat maps, true boxes in white, predicted boxes in blue.

    Boxes by regression are green and dashed, and have their own line above the picture.

    Parameters
    ----------
    pictures : sequence of ndarray of shape (height, width, 3), uint8, or None
    heats : sequence of ndarray of shape (h, w) or (1, h, w)
        Each covers its whole picture and has its own scale.
    true_boxes, predicted_boxes : sequence of arrays ``(j, 4)`` and ``(4,)`` or None
        Pixels of the pictures.
    ious : sequence of float
        Intersection over union with the best true box; right from 0.5.
    regressed_boxes, regressed_ious : sequence of arrays ``(4,)`` or None, and of float, optional
        The same of boxes that look at no heat map.
    """
    _check(len(pictures), heats=heats, true_boxes=true_boxes, predicted_boxes=predicted_boxes)
    _check(len(pictures), ious=ious, labels=labels)
    _check(len(pictures), regressed_boxes=regressed_boxes, regressed_ious=regressed_ious)
    check_whole("columns", columns, 1)
    columns = min(columns, len(pictures))
    beside = any(box is not None for box in regressed_boxes or [])
    figure, panels = _grid(pictures, columns, side=2.4, title=0.44 if beside else 0.28, foot=_FOOT)
    _own_scale(figure)
    for i, picture in enumerate(pictures):
        _picture(panels[i], picture)
        name = f"{fitted_name(labels[i], 1.2, 9)}, " if labels is not None else ""
        _verdict(panels[i], f"{name}IoU", ious[i], 0.18 if beside else 0.05)
        if beside and regressed_ious is not None:
            _verdict(panels[i], "by regression", regressed_ious[i], 0.03)
        if picture is None:
            continue
        heat = np.asarray(heats[i], dtype=float)
        heat = heat[0] if heat.ndim == 3 else heat
        _overlay(panels[i], picture, heat - heat.min(), float(np.ptp(heat)))
        _draw_boxes(panels[i], true_boxes[i], TRUE_BOX)
        _draw_boxes(panels[i], predicted_boxes[i], PREDICTED_BOX)
        if regressed_boxes is not None:
            _draw_boxes(panels[i], regressed_boxes[i], REGRESSED_BOX, dashed=True)
    return figure


def _verdict(ax: Axes, what: str, iou: float, above: float) -> None:
    """A line over a picture, so many inches above it: how well a box fits."""
    hit = iou >= 0.5
    ax.annotate(
        f"{'✓' if hit else '✗'} {what} {iou:.2f}", (0.5, 1), (0, 72 * above),
        xycoords="axes fraction", textcoords="offset points", ha="center", va="bottom",
        fontsize=9, color=RIGHT if hit else WRONG, annotation_clip=False,
    )  # fmt: skip


def method_strips(
    pictures: Sequence[np.ndarray | None],
    heats: Mapping[str, Sequence[np.ndarray]],
    *,
    labels: Sequence[str],
    true_boxes: Sequence[np.ndarray],
    predicted_boxes: Mapping[str, Sequence[np.ndarray | None]],
) -> Figure:
    """Pictures in rows; the picture, then each method's heat map and box, in columns.

    Parameters
    ----------
    pictures : sequence of k ndarrays of shape (height, width, 3), uint8, or None
    heats : mapping of str to sequence of k ndarrays of shape (h, w)
        Title of the method → its maps; each covers its picture and has its own scale. A method that
        gives boxes alone has none.
    labels : sequence of k str
    true_boxes : sequence of k arrays of shape (j, 4)
        Pixels of the pictures; drawn white.
    predicted_boxes : mapping of str to sequence of k arrays of shape (4,), or None
        Drawn blue, those of a method without heat map green and dashed.
    """
    k, m = len(pictures), len(predicted_boxes)
    _check(k, labels=labels, true_boxes=true_boxes)
    repeated = [picture for picture in pictures for _ in range(m + 1)]
    figure, flat = _grid(
        repeated, m + 1, side=1.25, title=0.02, left=_margin(labels), top=0.5, foot=_FOOT
    )
    _own_scale(figure, _margin(labels) + 1.25 + _GAP)
    panels = np.reshape(np.array(flat, dtype=object), (k, m + 1))
    for i, picture in enumerate(pictures):
        for panel in panels[i]:
            _picture(panel, picture)
            if picture is not None:
                _draw_boxes(panel, true_boxes[i], TRUE_BOX)
        for panel, (name, boxes) in zip(panels[i][1:], predicted_boxes.items(), strict=True):
            if picture is not None and name in heats:
                heat = np.asarray(heats[name][i], dtype=float)
                _overlay(panel, picture, heat - heat.min(), float(np.ptp(heat)))
            if picture is not None and name in heats:
                _draw_boxes(panel, boxes[i], PREDICTED_BOX)
            elif picture is not None:
                _draw_boxes(panel, boxes[i], REGRESSED_BOX, dashed=True)
        _mark(panels[i][0], labels[i], None)
    for panel, name in zip(panels[0][1:], predicted_boxes, strict=True):
        panel.set_title("\n".join(_folded(name)), fontsize=8.5, color=INK, pad=4)
    return figure


def cam_strips(cams: CamExamples) -> Figure:
    """Pictures in rows; DAM's boxes, and heat map and box of the Grad-CAM family in columns.

    Parameters
    ----------
    cams : CamExamples
        ``pictures``, ``labels``, ``true_boxes``, ``heats`` and ``boxes`` of
        ``GradientResults.cams``.
    """
    names = GRADIENT_METHOD_NAMES
    return method_strips(
        list(cams.pictures),
        {names[name]: list(heats) for name, heats in cams.heats.items()},
        labels=cams.labels,
        true_boxes=cams.true_boxes,
        predicted_boxes={names[name]: list(boxes) for name, boxes in cams.boxes.items()},
    )


def _grid(
    pictures: Sequence[np.ndarray | None],
    columns: int,
    *,
    side: float,
    title: float,
    left: float = 0.0,
    top: float = 0.0,
    foot: float = 0.04,
) -> tuple[Figure, list[Axes]]:
    """Panels `side` inches wide, each row as high as its highest picture, with `title` above.

    Placed by hand: an automatic layout measures every picture, which takes seconds.
    """
    gap = _GAP
    shapes = [0.75 if p is None else min(p.shape[0] / p.shape[1], 1.3) for p in pictures]
    heights = [
        side * max(shapes[start : start + columns]) for start in range(0, len(shapes), columns)
    ]
    width = left + columns * side + (columns - 1) * gap
    height = top + sum(heights) + len(heights) * (title + gap) + foot
    figure, panels = Figure(figsize=(width, height)), []
    for i in range(len(pictures)):
        row, column = divmod(i, columns)
        down = top + sum(heights[: row + 1]) + (row + 1) * title + row * gap
        place = (left + column * (side + gap), height - down, side, heights[row])
        inside = (place[0] / width, place[1] / height, place[2] / width, place[3] / height)
        panels.append(figure.add_axes(inside, anchor="S"))
    return figure, panels


def _picture(ax: Axes, picture: np.ndarray | None) -> None:
    bare(ax)
    if picture is None:
        ax.set_facecolor(FAINT)
        ax.text(
            0.5, 0.5, "picture\nnot readable", ha="center", va="center", fontsize=8, color=MUTED,
            transform=ax.transAxes,
        )  # fmt: skip
        ax.set_box_aspect(0.75)
        return
    height, width = picture.shape[:2]
    step = max(1, max(height, width) // _MAX_SIDE)
    ax.imshow(picture[::step, ::step], extent=(0, width, height, 0), interpolation="antialiased")


def _overlay(
    ax: Axes, picture: np.ndarray, heat: np.ndarray, top: float, signed: bool = False
) -> None:
    height, width = picture.shape[:2]
    share = heat_share(heat, top, signed)
    # The picture dims where there is no heat, so that the glow reads on light pictures too.
    ax.imshow(
        share, extent=(0, width, height, 0), cmap=heat_colours(signed), vmin=-1 if signed else 0,
        vmax=1, alpha=0.45 + 0.25 * abs(share), interpolation="bilinear",
    )  # fmt: skip


def _top(heats: Sequence[np.ndarray], signed: bool) -> float:
    """Where the scale of some heat maps ends."""
    values = [abs(heat) if signed else heat for heat in map(np.asarray, heats)]
    return max((float(np.max(value, initial=0)) for value in values), default=0.0)


def _scales(
    figure: Figure, panels: Sequence[Axes], tops: Sequence[float], signed: bool, unit: str
) -> None:
    """A colour bar under each column, and what they measure."""
    width, _ = figure.get_size_inches()
    for panel, top in zip(panels, tops, strict=True):
        place = panel.get_position(original=True)
        low, middle = (f"−{top:.2g}", "mean") if signed else ("0", "")
        scale_bar(
            figure, (place.x0 * width, _FOOT, place.width * width), (low, f"{top:.2g}"),
            middle=middle, colours=heat_colours(signed),
        )  # fmt: skip
    height, start = figure.get_size_inches()[1], panels[0].get_position(original=True).x0 * width
    left = min(start, width - text_width(unit, _UNIT_SIZE) - 0.05)  # under one column it is wide
    figure.text(left / width, 0.05 / height, unit, fontsize=_UNIT_SIZE, color=INK, va="bottom")


def _own_scale(figure: Figure, left: float = 0.0) -> None:
    """The colour bar of maps that each have a scale of their own."""
    scale_bar(figure, (left, _FOOT - 0.15, 2.4), ("lowest of its map", "highest of its map"))


def _standing_scale(figure: Any, panels: np.ndarray, top: float, signed: bool) -> None:
    """The colour bar to the right of some panels of an automatic layout."""
    low, colours = -top if signed else 0.0, heat_colours(signed)
    values = ScalarMappable(Normalize(low, top if top > 0 else 1.0), colours)
    bar = figure.colorbar(values, ax=panels, aspect=30, pad=0.01)
    # Pixels, which keep their colours on a dark page as the heat maps do.
    bar.solids.remove()
    bar.ax.imshow(
        np.linspace(1, 0, 256)[:, None], cmap=colours, aspect="auto",
        extent=(*bar.ax.get_xlim(), *bar.ax.get_ylim()),
    )  # fmt: skip
    bar.set_label("activation of a cell (network units)", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK, length=0)
    bar.outline.set_visible(False)


def _draw_boxes(ax: Axes, boxes: np.ndarray | None, colour: str, *, dashed: bool = False) -> None:
    if boxes is None:
        return
    for xmin, ymin, xmax, ymax in np.atleast_2d(np.asarray(boxes, dtype=float)).reshape(-1, 4):
        patch = Rectangle((xmin, ymin), xmax - xmin, ymax - ymin, fill=False)
        patch.set(edgecolor=colour, linewidth=1.6, gid=ON_PICTURE, linestyle=_LINES[dashed])
        patch.set_path_effects([withStroke(linewidth=2.8, foreground="#00000099")])
        ax.add_patch(patch)


def _mark(ax: Axes, label: str, predicted: str | None) -> None:
    if predicted is None:
        text, colour = _beside([label])[0], INK
    elif predicted == label:
        text, colour = f"✓ {_beside([label])[0]}", RIGHT
    else:
        true, other = _beside([label, predicted])
        text, colour = f"✗ {true}\ntaken for\n{other}", WRONG
    ax.set_ylabel(text, fontsize=8.5, color=colour, labelpad=6, rotation=0, ha="right", va="center")


def _beside(names: Sequence[str]) -> list[str]:
    """Class names that fit beside a row of pictures, told apart."""
    for width in range(18, 5, -1):
        short = short_names(names, width)
        if max(text_width(name, 8.5) for name in short) <= _NAME:
            break
    return short


def _margin(labels: Sequence[str], predicted: Sequence[str | None] | None = None) -> float:
    """Inches that the names beside the rows need."""
    others: Sequence[str | None] = [None] * len(labels) if predicted is None else predicted
    pairs = [[a] if b in (None, a) else [a, str(b)] for a, b in zip(labels, others, strict=True)]
    lines = [name for pair in pairs for name in _beside(pair)]
    if any(len(pair) > 1 for pair in pairs):
        lines.append("taken for")
    widest = max(text_width(line, 8.5) for line in lines)
    return widest + (0.4 if predicted is not None else 0.25)


def _check(n: int, **columns: Sequence[object] | None) -> None:
    if n == 0:
        raise FeatlabError("pictures is empty; give at least one picture.")
    for name, values in columns.items():
        if values is not None and len(values) != n:
            raise FeatlabError(
                f"{name} has {len(values)} entries for {n} pictures; give one for each picture."
            )


def _folded(name: str) -> list[str]:
    """A title on two lines at most."""
    words, lines = short_name(name, 34).split(), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > 15 and len(lines) < 2:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
