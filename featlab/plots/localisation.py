"""Figures of localisation methods: strips of heat maps, and success against strictness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featlab.plots._base import (
    INK,
    MUTED,
    PREDICTED_BOX,
    TRUE_BOX,
    class_colours,
    dress,
    legend,
    new_axes,
    short_name,
)
from featlab.plots.pictures import _check, _draw_boxes, _grid, _mark, _overlay, _picture

_COLOURED = 6


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
        Title of the method → its maps; each covers its picture and has its own scale.
    labels : sequence of k str
    true_boxes : sequence of k arrays of shape (j, 4)
        Pixels of the pictures; drawn white.
    predicted_boxes : mapping of str to sequence of k arrays of shape (4,)
        Drawn blue.
    """
    k, m = len(pictures), len(heats)
    _check(k, labels=labels, true_boxes=true_boxes)
    repeated = [picture for picture in pictures for _ in range(m + 1)]
    figure, flat = _grid(repeated, m + 1, side=1.25, title=0.02, left=1.05, top=0.5)
    panels = np.reshape(np.array(flat, dtype=object), (k, m + 1))
    for i, picture in enumerate(pictures):
        for panel in panels[i]:
            _picture(panel, picture)
            if picture is not None:
                _draw_boxes(panel, true_boxes[i], TRUE_BOX)
        for panel, (name, maps) in zip(panels[i][1:], heats.items(), strict=True):
            if picture is not None:
                heat = np.asarray(maps[i], dtype=float)
                _overlay(panel, picture, heat - heat.min(), float(np.ptp(heat)))
                _draw_boxes(panel, predicted_boxes[name][i], PREDICTED_BOX)
        _mark(panels[i][0], labels[i], None)
    for panel, name in zip(panels[0][1:], heats, strict=True):
        panel.set_title("\n".join(_folded(name)), fontsize=8, color=INK, pad=4)
    return figure


def success_curves(table: pd.DataFrame, titles: Mapping[str, str], ax: Axes | None = None) -> Axes:
    """Share of test images whose box reaches an IoU, against that IoU.

    Parameters
    ----------
    table : DataFrame
        ``Localisation.success``: method, delta, accuracy.
    titles : mapping of str to str
        Method → legend; only these are drawn, baselines (of a title in brackets) dashed.
    """
    ax = new_axes(ax, 6.4, 3.8)
    colours = class_colours(list(titles)[:_COLOURED])
    for name, title in titles.items():
        rows = table[table["method"] == name].sort_values("delta")
        plain = title.startswith("(")
        ax.plot(
            rows["delta"], rows["accuracy"], label=title[1:-1] if plain else title, linewidth=1.6,
            color=MUTED if plain else colours.get(name, MUTED), linestyle="--" if plain else "-",
        )  # fmt: skip
    ax.axvline(0.5, color="#b6bec8", linewidth=1)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    dress(
        ax,
        title="one threshold per method, chosen on other images",
        xlabel="IoU that is asked for",
        ylabel="share of test images",
        grid="both",
    )
    legend(ax, outside=True)
    return ax


def threshold_curves(
    table: pd.DataFrame,
    titles: Mapping[str, str],
    chosen: Mapping[str, float],
    ax: Axes | None = None,
) -> Axes:
    """Share of test images whose box is found (IoU at least 0.5), against the threshold.

    Parameters
    ----------
    table : DataFrame
        ``Localisation.curves``: method, delta, threshold, accuracy.
    titles : mapping of str to str
        Method → legend; only these are drawn, baselines (of a title in brackets) dashed.
    chosen : mapping of str to float
        The threshold of each method; a dot marks it.
    """
    ax = new_axes(ax, 6.4, 3.8)
    colours = class_colours(list(titles)[:_COLOURED])
    half = table[np.isclose(table["delta"], 0.5)]
    for name, title in titles.items():
        rows = half[half["method"] == name].sort_values("threshold")
        plain = title.startswith("(")
        colour = MUTED if plain else colours.get(name, MUTED)
        ax.plot(
            rows["threshold"], rows["accuracy"], label=title[1:-1] if plain else title,
            linewidth=1.6, color=colour, linestyle="--" if plain else "-",
        )  # fmt: skip
        at = rows[np.isclose(rows["threshold"], chosen.get(name, np.nan))]
        ax.plot(at["threshold"], at["accuracy"], "o", markersize=7, color=colour)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    dress(
        ax,
        title="dots: the thresholds, chosen on other images",
        xlabel="threshold (share of the heat map's range)",
        ylabel="share of test images with IoU ≥ 0.5",
        grid="both",
    )
    legend(ax, outside=True)
    return ax


def _folded(name: str) -> list[str]:
    """A title on two lines at most."""
    words, lines = short_name(name, 34).split(), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > 15 and len(lines) < 2:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
