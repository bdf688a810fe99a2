"""Figures made of the pictures themselves, with boxes and heat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from featlab.arguments import check_whole
from featlab.errors import FeatlabError
from featlab.plots.style import (
    BLUE,
    FAINT,
    GRADIENT_METHOD_NAMES,
    HEAT,
    INK,
    MUTED,
    ON_PICTURE,
    PREDICTED_BOX,
    RIGHT,
    TRUE_BOX,
    WRONG,
    bare,
    class_colours,
    dress,
    fitted_name,
    legend,
    short_name,
    short_names,
    text_width,
)
from featlab.results.networks import CamExamples
from featlab.results.pictures import NeuronCard

_MAX_SIDE = 256
_TILE = 1.45  # inches
_CAPTION_LINES = 3
_CARD_BINS = 24
_NAME = 1.2  # inches of a class name beside a row of pictures


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
    check_whole("columns", columns, 1)
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


def method_strips(
    pictures: Sequence[np.ndarray | None],
    heats: Mapping[str, Sequence[np.ndarray]],
    *,
    labels: Sequence[str],
    true_boxes: Sequence[np.ndarray],
    predicted_boxes: Mapping[str, Sequence[np.ndarray]],
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
    predicted_boxes : mapping of str to sequence of k arrays of shape (4,)
        Drawn blue.
    """
    k, m = len(pictures), len(predicted_boxes)
    _check(k, labels=labels, true_boxes=true_boxes)
    repeated = [picture for picture in pictures for _ in range(m + 1)]
    figure, flat = _grid(repeated, m + 1, side=1.25, title=0.02, left=_margin(labels), top=0.5)
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
            if picture is not None:
                _draw_boxes(panel, boxes[i], PREDICTED_BOX)
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


def neuron_card(card: NeuronCard) -> Figure:
    """The images that drive a neuron, those that do not, and how it is distributed.

    Parameters
    ----------
    card : NeuronCard
    """
    columns = max(len(card.best), len(card.worst), 1)
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    upper, lower = cast(Any, figure.subfigures(2, 1, height_ratios=(3.5, 2.4)))
    figure.suptitle(
        fitted_name(card.title, 8.7, 11, 120), fontsize=11, color=INK, x=0.01, ha="left"
    )
    panels = upper.subplots(2, columns, squeeze=False)
    # One scale for all pictures, so that a dark map means a silent neuron.
    top = max((float(heat.max(initial=0)) for heat in card.heats), default=0.0)
    rows = (("most active", card.best, 0), ("least active", card.worst, len(card.best)))
    for line, (name, table, first) in enumerate(rows):
        for column, panel in enumerate(panels[line]):
            if column >= len(table):
                panel.set_axis_off()
                continue
            picture = card.pictures[first + column]
            _picture(panel, picture)
            if picture is not None:
                _overlay(panel, picture, card.heats[first + column], top)
            entry = table.iloc[column]
            caption = f"{fitted_name(entry['label'], 1.2, 8)}, {entry['activation']:.2f}"
            panel.set_title(caption, fontsize=8, color=INK, pad=3)
        panels[line][0].set_ylabel(name, fontsize=8.5, color=MUTED, labelpad=6)
    histogram, text = lower.subplots(1, 2, width_ratios=(3, 2.5))
    _histogram(histogram, card)
    bare(text)
    facts = "\n".join(fitted_name(fact, 3.7, 8.5, 80) for fact in card.facts)
    text.text(0, 1, facts, fontsize=8.5, color=INK, va="top", linespacing=1.5)
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
        share, extent=(0, width, height, 0), cmap=HEAT, vmin=0, vmax=1,
        alpha=0.45 + 0.25 * share, interpolation="bilinear",
    )  # fmt: skip


def _draw_boxes(ax: Axes, boxes: np.ndarray | None, colour: str) -> None:
    if boxes is None:
        return
    for xmin, ymin, xmax, ymax in np.atleast_2d(np.asarray(boxes, dtype=float)).reshape(-1, 4):
        patch = Rectangle((xmin, ymin), xmax - xmin, ymax - ymin, fill=False)
        patch.set(edgecolor=colour, linewidth=1.6, gid=ON_PICTURE)
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


def _histogram(ax: Axes, card: NeuronCard) -> None:
    classes: Sequence[str] = sorted(set(card.labels.tolist()))
    colours = class_colours(classes)
    most = max(float(card.activations.max()), 1e-6)
    edges = np.linspace(float(card.activations.min()), most, _CARD_BINS + 1).tolist()
    several = len(set(colours.values())) > 1
    for name in classes if several else ():
        mine = card.activations[card.labels == name]
        ax.hist(
            mine, edges, histtype="step", linewidth=1.8, color=colours[name],
            label=f"{fitted_name(name, 1.3, 8.5)} ({len(mine):,})",
        )  # fmt: skip
    if several:
        legend(ax)
    else:
        ax.hist(card.activations, edges, color=BLUE, alpha=0.7)
    dress(
        ax,
        title=f"n = {len(card.activations):,} images",
        xlabel=card.unit,
        ylabel="images (count)",
        grid="y",
    )
