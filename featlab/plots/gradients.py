"""Figures of gradients: the steps of DAM, guided maps, and whether such maps mean anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featlab.plots._base import (
    BLUE,
    INK,
    MUTED,
    PREDICTED_BOX,
    TRUE_BOX,
    bare,
    class_colours,
    dress,
    legend,
    new_axes,
    plural,
    short_name,
)
from featlab.plots.localisation import method_strips
from featlab.plots.pictures import _check, _draw_boxes, _margin, _mark
from featlab.results.gradients import CamExamples, DamTrace

RULE_NAMES = {
    "plain": "gradient",
    "input": "gradient × input",
    "guided": "guided back-propagation",
}
GRADIENT_METHOD_NAMES = {
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "plain_gradient": "gradient",
    "guided_gradient": "guided gradient",
    "random": "random cells",
    "centre_gaussian": "centred Gaussian",
    "dam_original": "DAM, original",
    "dam_variant": "DAM, variant",
}
"""What figures call the methods that run the network."""
_SHOWN_UNITS = 10
_CLIP = 99.5  # percentile at which gradients are cut for drawing: few pixels are far above the rest
_UNIT = "#e69f00"


def dam_steps(trace: DamTrace, true_boxes: np.ndarray | None = None) -> Figure:
    """Every step of DAM for one picture, left to right and down.

    Top row: the picture with the chosen units' cells, the united mask, and the box (blue) beside
    the truth (white). Below, one column per unit, best first: its guided gradient, its mask, and
    what is left of the picture with the loss; united masks have a blue frame.

    Parameters
    ----------
    trace : DamTrace
    true_boxes : ndarray of shape (j, 4), optional
        Pixels of the network's input.
    """
    k = min(len(trace.units), _SHOWN_UNITS)
    height, width = trace.pixels.shape[:2]
    # Few units still leave room for three titles.
    figure = Figure(figsize=(max(1.12 * k + 0.9, 7.6), 6.9))
    halves = figure.add_gridspec(
        2, 1, height_ratios=(3.0, 3.4), hspace=0.14, left=0.085, right=0.995, top=0.95, bottom=0.04
    )
    upper = halves[0].subgridspec(1, 3, wspace=0.05)
    panels = [figure.add_subplot(upper[0, j]) for j in range(3)]
    for panel in panels:
        bare(panel)
    extent = (0, width, height, 0)
    panels[0].imshow(trace.pixels, extent=extent)
    rows, columns = trace.map_shape
    x = (trace.units[:, 1] + 0.5) * width / columns
    y = (trace.units[:, 0] + 0.5) * height / rows
    # Units of one cell fan out, so that each is seen.
    nth = pd.DataFrame({"x": x, "y": y}).groupby(["x", "y"]).cumcount().to_numpy()
    turn = nth * 2.4
    reach = np.sqrt(nth) * 0.13 * width / columns
    panels[0].scatter(
        x + reach * np.cos(turn), y + reach * np.sin(turn),
        s=26, c=_UNIT, edgecolors="white", linewidths=0.9,
    )  # fmt: skip
    panels[0].set_title(
        f"{plural(len(trace.units), 'unit')} for {short_name(trace.label, 18)}",
        fontsize=9, color=INK, pad=4,
    )  # fmt: skip
    panels[1].imshow(_only(trace.pixels, trace.union), extent=extent)
    panels[1].set_title(f"union of {plural(int(trace.kept.sum()), 'mask')}", fontsize=9, color=INK,
                        pad=4)  # fmt: skip
    panels[2].imshow(trace.pixels, extent=extent)
    scale = np.array([width, height] * 2)
    if true_boxes is not None:
        _draw_boxes(panels[2], true_boxes, TRUE_BOX)
    if trace.union.any():
        _draw_boxes(panels[2], trace.box_in_input * scale, PREDICTED_BOX)
    truth = "" if true_boxes is None else ", truth white"
    panels[2].set_title(f"enclosing box blue{truth}", fontsize=9, color=INK, pad=4)
    grid = halves[1].subgridspec(3, k, wspace=0.05, hspace=0.12)
    for j in range(k):
        row, column, neuron = trace.units[j]
        pictures = (
            _grey_gradient(trace.gradients[j]),
            trace.masks[j],
            _only(trace.pixels, trace.masks[j]),
        )
        for i, picture in enumerate(pictures):
            panel = bare(figure.add_subplot(grid[i, j]))
            panel.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=extent)
            if i == 0:
                title = f"neuron {neuron}\ncell {row}, {column}"
                panel.set_title(title, fontsize=8, color=INK, pad=3)
            if i == 2:
                loss = f"{trace.losses[j]:.3g}" if np.isfinite(trace.losses[j]) else "empty"
                panel.set_xlabel(loss, fontsize=8, labelpad=2, color=BLUE if trace.kept[j] else INK)
                if trace.kept[j]:
                    for spine in panel.spines.values():
                        spine.set(visible=True, edgecolor=BLUE, linewidth=2)
            if j == 0:
                name = ("guided\ngradient", "mask", "shown alone,\nits loss")[i]
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
            panel.imshow(picture if j == 0 else _coloured_gradient(maps[name][i]))
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


def randomisation_curves(
    table: pd.DataFrame, *, absolute: bool = True, ax: Axes | None = None
) -> Axes:
    """Rank correlation with the trained network's map, over the layers randomised from the top.

    Parameters
    ----------
    table : DataFrame
        From :func:`featlab.gradients.randomisation_check`.
    absolute : bool
        Of the absolute gradients, or of the signed ones.
    ax : Axes, optional

    Returns
    -------
    Axes
        Mean over the images; the band holds them all.
    """
    ax = new_axes(ax, 7.6, 3.8)
    column = "spearman_absolute" if absolute else "spearman"
    colours = class_colours(["plain", "guided", "input"])
    for rule, rows in table.groupby("rule", sort=False):
        over = rows.groupby("stage")[column]
        stages = np.arange(len(over))
        ax.fill_between(stages, over.min(), over.max(), color=colours[str(rule)], alpha=0.15, lw=0)
        ax.plot(stages, over.mean(), "o-", color=colours[str(rule)], ms=4, lw=1.6,
                label=RULE_NAMES.get(str(rule), str(rule)))  # fmt: skip
    named = table.drop_duplicates("stage").sort_values("stage")
    names = ["trained", *(short_name(name, 24) for name in named["down_to"].iloc[1:])]
    ax.set_xticks(range(len(names)), names, rotation=35, ha="right")
    ax.axhline(0, color=MUTED, lw=0.8)
    what = "absolute gradients" if absolute else "signed gradients"
    dress(
        ax,
        title=f"n = {plural(table['image'].nunique(), 'test image')}; {what}, mean and range",
        xlabel="weights shuffled from the head down to …",
        ylabel="Spearman correlation with trained",
        grid="y",
    )
    ax.set_ylim(min(-0.1, float(table[column].min()) - 0.03), 1.04)
    legend(ax, outside=True)
    return ax


def faithfulness_scores(table: pd.DataFrame) -> Figure:
    """Deletion, insertion and drops in confidence of every method, with their intervals.

    Parameters
    ----------
    table : DataFrame
        From :func:`featlab.gradients.faithfulness`.

    Returns
    -------
    Figure
        One panel per score; baselines are grey.
    """
    titles = {
        "deletion": "deletion\n(lower is better)",
        "insertion": "insertion\n(higher is better)",
        "average_drop": "average drop\n(lower is better)",
        "increase": "increase\n(higher is better)",
    }
    figure = Figure(figsize=(10.5, 0.32 * len(table) + 1.4), layout="constrained")
    panels = figure.subplots(1, len(titles), sharey=True)
    places = np.arange(len(table))[::-1]
    colours = np.where(table["baseline"], MUTED, BLUE)
    for panel, (score, title) in zip(panels, titles.items(), strict=True):
        panel.hlines(places, table[f"{score}_low"], table[f"{score}_high"], colors=colours, lw=1.8)
        panel.scatter(table[score], places, c=colours, s=26, zorder=3)
        dress(panel, title=title, xlabel=_UNITS[score], ylabel="", grid="x")
        panel.set_xlim(-0.02, 1.02)
        panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    panels[0].set_yticks(
        places, [GRADIENT_METHOD_NAMES.get(m, short_name(m)) for m in table["method"]]
    )
    figure.suptitle(
        f"n = {plural(int(table['n'].iloc[0]), 'test image')}; 95 % intervals over images",
        x=0.01, ha="left", fontsize=9, color=INK,
    )  # fmt: skip
    return figure


_UNITS = {
    "deletion": "area under probability",
    "insertion": "area under probability",
    "average_drop": "share of probability",
    "increase": "share of images",
}


def _only(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None], picture, np.uint8(127))


def _grey_gradient(gradient: np.ndarray) -> np.ndarray:
    """A gradient ``(H, W)`` from 0 to 1, its zero at 0.5 where it has both signs."""
    values = np.asarray(gradient, dtype=float)
    top = np.percentile(np.abs(values), _CLIP) or np.abs(values).max() or 1.0
    return np.clip(0.5 + values / (2 * top), 0, 1)


def _coloured_gradient(gradient: np.ndarray) -> np.ndarray:
    """A gradient ``(H, W, 3)`` as a picture, grey where it is zero."""
    return _grey_gradient(gradient)
