"""Figures of localisation methods: strips of heat maps, and success against strictness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featlab.plots._base import (
    INK,
    MAX_COLOURED,
    MUTED,
    PREDICTED_BOX,
    TRUE_BOX,
    class_colours,
    dress,
    legend,
    new_axes,
    plural,
    short_name,
)
from featlab.plots.pictures import _check, _draw_boxes, _grid, _margin, _mark, _overlay, _picture


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
    figure, flat = _grid(repeated, m + 1, side=1.25, title=0.02, left=_margin(labels), top=0.5)
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
        panel.set_title("\n".join(_folded(name)), fontsize=8.5, color=INK, pad=4)
    return figure


def success_curves(
    table: pd.DataFrame,
    titles: Mapping[str, str],
    ax: Axes | None = None,
    *,
    n: int | None = None,
) -> Axes:
    """Share of test images whose box reaches an IoU, against that IoU.

    Parameters
    ----------
    table : DataFrame
        ``Localisation.success``: method, delta, accuracy.
    titles : mapping of str to str
        Method → legend; only these are drawn, baselines (of a title in brackets) dashed.
    n : int, optional
        Test images, for the title.
    """
    ax = new_axes(ax, 7.4, 3.8)
    for name, style in _styles(titles).items():
        rows = table[table["method"] == name].sort_values("delta")
        if len(rows):
            ax.plot(rows["delta"], rows["accuracy"], **style)
    ax.axvline(0.5, color="#b6bec8", linewidth=1)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    dress(
        ax,
        title=f"{_sample(n)}one threshold per method, chosen on other images",
        xlabel="IoU that is asked for (0-1)",
        ylabel="share of test images (0-1)",
        grid="both",
    )
    legend(ax, outside=True)
    return ax


def threshold_curves(
    table: pd.DataFrame,
    titles: Mapping[str, str],
    chosen: Mapping[str, float],
    ax: Axes | None = None,
    *,
    n: int | None = None,
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
    n : int, optional
        Test images, for the title.

    Notes
    -----
    Methods without a threshold have no curve and are left out.
    """
    ax = new_axes(ax, 7.4, 3.8)
    half = table[np.isclose(table["delta"].to_numpy(float), 0.5)]
    for name, style in _styles(titles).items():
        rows = half[half["method"] == name].dropna(subset=["threshold", "accuracy"])
        rows = rows.sort_values("threshold")
        if rows.empty:
            continue
        ax.plot(rows["threshold"], rows["accuracy"], **style)
        at = rows[np.isclose(rows["threshold"], chosen.get(name, np.nan))]
        ax.plot(at["threshold"], at["accuracy"], "o", markersize=7, color=style["color"])
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    dress(
        ax,
        title=f"{_sample(n)}dots: the thresholds, chosen on other images",
        xlabel="threshold (share of the heat map's range, 0-1)",
        ylabel="test images with IoU ≥ 0.5 (share, 0-1)",
        grid="both",
    )
    legend(ax, outside=True)
    return ax


def _styles(titles: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Method → how its line is drawn and called; baselines are grey and dashed."""
    plain = {name for name, title in titles.items() if title.startswith("(")}
    colours = class_colours([name for name in titles if name not in plain][:MAX_COLOURED])
    styles: dict[str, dict[str, Any]] = {}
    for name, title in titles.items():
        colour, line = (MUTED, "--") if name in plain else (colours.get(name, MUTED), "-")
        text = title[1:-1] if name in plain else title
        styles[name] = {
            "color": colour, "linestyle": line, "linewidth": 1.6, "label": short_name(text, 34)
        }  # fmt: skip
    return styles


def _sample(n: int | None) -> str:
    return "" if n is None else f"n = {plural(n, 'test image')}; "


def _folded(name: str) -> list[str]:
    """A title on two lines at most."""
    words, lines = short_name(name, 34).split(), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > 15 and len(lines) < 2:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
