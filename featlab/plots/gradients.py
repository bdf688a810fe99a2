"""Figures of gradients: the steps of DAM, gradients of pictures, maps of the Grad-CAM family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featlab.plots.pictures import _check, _draw_boxes, _margin, _mark, method_strips
from featlab.plots.style import (
    BLUE,
    GRADIENT_METHOD_NAMES,
    INK,
    PREDICTED_BOX,
    RULE_NAMES,
    TRUE_BOX,
    bare,
    plural,
    short_name,
)
from featlab.results.networks import CamExamples, DamTrace

_MOST_UNITS = 10
_CLIP = 99.5  # percentile at which gradients are cut for drawing: few pixels are far above the rest
_UNIT = "#e69f00"


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
    _show(union, _only(trace.pixels, trace.union))
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
    k, m = len(pictures), len(maps) + 1
    _check(k, labels=labels)
    left = _margin(labels)
    figure = Figure(figsize=(1.75 * m + left, 1.75 * k + 0.3))
    grid = figure.add_gridspec(
        k, m, left=left / (1.75 * m + left), right=0.995, bottom=0.01,
        top=1 - 0.28 / (1.75 * k + 0.3), wspace=0.04, hspace=0.04,
    )  # fmt: skip
    for i, picture in enumerate(pictures):
        for j, name in enumerate(["", *maps]):
            panel = bare(figure.add_subplot(grid[i, j]))
            panel.imshow(picture if j == 0 else _grey_gradient(maps[name][i]))
            if i == 0:
                title = RULE_NAMES.get(name, name) if j else "picture"
                panel.set_title(title, fontsize=9, color=INK, pad=4)
            if j == 0:
                _mark(panel, labels[i], None)
    return figure


def cam_strips(cams: CamExamples) -> Figure:
    """Pictures in rows; the heat map and box of each method of the Grad-CAM family in columns.

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
    _title(ax, "enclosing box blue" + ("" if true_boxes is None else ", truth white"))


def _draw_unit(panels: Sequence[Axes], trace: DamTrace, j: int) -> None:
    """Guided gradient, mask, and what is left of the picture, of one unit."""
    row, column, neuron = trace.units[j]
    _show(panels[0], _grey_gradient(trace.gradients[j]))
    _show(panels[1], trace.masks[j])
    _show(panels[2], _only(trace.pixels, trace.masks[j]))
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


def _only(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None], picture, np.uint8(127))


def _grey_gradient(gradient: np.ndarray) -> np.ndarray:
    """A gradient ``(H, W)`` or ``(H, W, 3)`` from 0 to 1, its zero at 0.5: grey."""
    values = np.asarray(gradient, dtype=float)
    top = np.percentile(np.abs(values), _CLIP) or np.abs(values).max() or 1.0
    return np.clip(0.5 + values / (2 * top), 0, 1)
