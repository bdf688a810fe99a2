"""Figures made of the pictures themselves, with boxes and heat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from featlab.errors import FeatlabError
from featlab.plots._base import (
    FAINT,
    INK,
    MUTED,
    PREDICTED_BOX,
    RIGHT,
    TRUE_BOX,
    WRONG,
    bare,
    fitted_name,
    short_names,
    text_width,
)

_HEAT = "inferno"
_MAX_SIDE = 256
_TILE = 1.45  # inches
_NAME = 1.2  # inches of a class name beside a row of pictures


def sample_images(
    pictures: Sequence[np.ndarray | None],
    labels: Sequence[str],
    boxes: Sequence[np.ndarray] | None = None,
    *,
    columns: int = 6,
) -> Figure:
    """A grid of pictures with their labels and ground-truth boxes.

    Parameters
    ----------
    pictures : sequence of ndarray of shape (height, width, 3), uint8, or None
        None where a picture could not be read.
    labels : sequence of str
    boxes : sequence of ndarray of shape (k, 4), optional
        ``xmin, ymin, xmax, ymax`` in pixels of each picture.
    """
    _check(len(pictures), labels=labels, boxes=boxes)
    columns = min(columns, len(pictures))
    figure, panels = _grid(pictures, columns, side=_TILE, title=0.26)
    for i, picture in enumerate(pictures):
        _picture(panels[i], picture)
        panels[i].set_title(
            fitted_name(labels[i], _TILE - 0.15, 8.5), fontsize=8.5, color=INK, pad=4
        )
        if boxes is not None and picture is not None:
            _draw_boxes(panels[i], boxes[i], TRUE_BOX)
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
) -> Figure:
    """Pictures in rows; the picture and the map of every detector in columns.

    Parameters
    ----------
    pictures : sequence of k ndarrays of shape (height, width, 3), uint8, or None
    heats : sequence of k ndarrays of shape (m, h, w)
        Coarse or fine; each covers its whole picture. A detector's maps share one scale over all
        rows, from 0 to its highest value shown, so a map that stays dark means a silent detector.
    captions : sequence of m str
        Over the columns.
    labels, predicted_labels : sequence of k str
        True and predicted classes; a row is marked right or wrong where a prediction is given.
    true_boxes, predicted_boxes : sequence of k arrays ``(j, 4)`` and ``(4,)``, optional
        Pixels of the pictures.
    """
    k = len(pictures)
    _check(k, heats=heats, labels=labels, predicted_labels=predicted_labels)
    _check(k, true_boxes=true_boxes, predicted_boxes=predicted_boxes)
    m = len(captions)
    repeated = [picture for picture in pictures for _ in range(m + 1)]
    figure, flat = _grid(
        repeated, m + 1, side=1.4, title=0.02, left=_margin(labels, predicted_labels), top=0.42
    )
    panels = np.reshape(np.array(flat, dtype=object), (k, m + 1))
    tops = [max(float(np.max(heat[j], initial=0)) for heat in heats) for j in range(m)]
    for i, picture in enumerate(pictures):
        predicted = predicted_labels[i] if predicted_labels is not None else None
        for j, panel in enumerate(panels[i]):
            _picture(panel, picture)
            if picture is None:
                continue
            if j > 0:
                _overlay(panel, picture, heats[i][j - 1], tops[j - 1])
            if true_boxes is not None:
                _draw_boxes(panel, true_boxes[i], TRUE_BOX)
            if predicted_boxes is not None:
                _draw_boxes(panel, predicted_boxes[i], PREDICTED_BOX)
        _mark(panels[i][0], labels[i], predicted)
    for panel, caption in zip(panels[0][1:], captions, strict=True):
        lines = [fitted_name(line, 1.28, 8.5) for line in caption.splitlines()]
        panel.set_title("\n".join(lines), fontsize=8.5, color=INK, pad=5)
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
) -> Figure:
    """Pictures under their heat maps, true boxes in white, predicted boxes in blue.

    Parameters
    ----------
    pictures : sequence of ndarray of shape (height, width, 3), uint8, or None
    heats : sequence of ndarray of shape (h, w) or (1, h, w)
        Each covers its whole picture and has its own scale.
    true_boxes, predicted_boxes : sequence of arrays ``(j, 4)`` and ``(4,)`` or None
        Pixels of the pictures.
    ious : sequence of float
        Intersection over union with the best true box; right from 0.5.
    """
    _check(len(pictures), heats=heats, true_boxes=true_boxes, predicted_boxes=predicted_boxes)
    _check(len(pictures), ious=ious, labels=labels)
    columns = min(columns, len(pictures))
    figure, panels = _grid(pictures, columns, side=2.4, title=0.28)
    for i, picture in enumerate(pictures):
        _picture(panels[i], picture)
        hit = float(ious[i]) >= 0.5
        name = f"{fitted_name(labels[i], 1.2, 9)}, " if labels is not None else ""
        panels[i].set_title(
            f"{'✓' if hit else '✗'} {name}IoU {ious[i]:.2f}",
            fontsize=9, color=RIGHT if hit else WRONG, pad=4,
        )  # fmt: skip
        if picture is None:
            continue
        heat = np.asarray(heats[i], dtype=float)
        heat = heat[0] if heat.ndim == 3 else heat
        _overlay(panels[i], picture, heat - heat.min(), float(np.ptp(heat)))
        _draw_boxes(panels[i], true_boxes[i], TRUE_BOX)
        _draw_boxes(panels[i], predicted_boxes[i], PREDICTED_BOX)
    return figure


def _grid(
    pictures: Sequence[np.ndarray | None],
    columns: int,
    *,
    side: float,
    title: float,
    left: float = 0.0,
    top: float = 0.0,
) -> tuple[Figure, list[Axes]]:
    """Panels `side` inches wide, each row as high as its highest picture, with `title` above.

    Placed by hand: an automatic layout measures every picture, which takes seconds.
    """
    gap, foot = 0.08, 0.04
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


def _overlay(ax: Axes, picture: np.ndarray, heat: np.ndarray, top: float) -> None:
    height, width = picture.shape[:2]
    share = np.clip(np.asarray(heat, dtype=float) / top, 0, 1) if top > 0 else np.zeros(heat.shape)
    # The picture dims where there is no heat, so that the glow reads on light pictures too.
    ax.imshow(
        share, extent=(0, width, height, 0), cmap=_HEAT, vmin=0, vmax=1,
        alpha=0.45 + 0.25 * share, interpolation="bilinear",
    )  # fmt: skip


def _draw_boxes(ax: Axes, boxes: np.ndarray | None, colour: str) -> None:
    if boxes is None:
        return
    for xmin, ymin, xmax, ymax in np.atleast_2d(np.asarray(boxes, dtype=float)).reshape(-1, 4):
        patch = Rectangle((xmin, ymin), xmax - xmin, ymax - ymin, fill=False)
        patch.set(edgecolor=colour, linewidth=1.6)
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
        shown = short_names(names, width)
        if max(text_width(name, 8.5) for name in shown) <= _NAME:
            break
    return shown


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
