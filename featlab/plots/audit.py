"""Figures of the audit: what tells the classes apart besides the object, and flagged images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featlab.plots._base import (
    INK,
    MAX_COLOURED,
    MUTED,
    class_colours,
    dress,
    fitted_name,
    legend,
    new_axes,
    plural,
    short_name,
    short_names,
)
from featlab.plots.pictures import _TILE, _check, _grid, _picture

_LINES = 3


def confounds(table: pd.DataFrame, top: int = 12, ax: Axes | None = None) -> Axes:
    """AUROC and interval of the strongest picture statistics, a dot per class.

    With more than eight classes, only the class that each statistic tells best, named beside it.

    Parameters
    ----------
    table : DataFrame
        ``class, statistic, n, n_ref, auroc, auroc_low, auroc_high``, the strongest first.
    top : int
        Statistics shown.
    """
    known = table[table["auroc"].notna()]
    shown = known["statistic"].drop_duplicates().head(top).tolist()
    classes = sorted(known["class"].astype(str).unique())
    names = [str(name).replace("_", " ") for name in shown]
    is_many = len(classes) > MAX_COLOURED
    rows = known[known["statistic"].isin(shown)]
    if is_many:
        rows = rows.drop_duplicates("statistic")
        best = rows.set_index("statistic")["class"]
        pairs = zip(names, shown, strict=True)
        names = [f"{name}: {short_name(best[key], 16)}" for name, key in pairs]
    height = 0.3 if is_many else 0.18 + 0.075 * len(classes)
    ax = new_axes(ax, 7, 1.4 + height * max(len(shown), 1))
    colours = class_colours(classes)
    places = {name: place for place, name in enumerate(shown)}
    ax.axvline(0.5, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    labels = dict(zip(classes, short_names(classes), strict=True))
    step = 0.72 / max(len(classes), 1)
    for k, name in enumerate(classes):
        part = rows[rows["class"].astype(str) == name]
        shift = 0.0 if is_many else (k - (len(classes) - 1) / 2) * step
        ax.errorbar(
            part["auroc"], [places[s] + shift for s in part["statistic"]], xerr=_whiskers(part),
            fmt="o", color=colours[name], markersize=4.5, elinewidth=1.3, label=labels[name],
        )  # fmt: skip
    ax.set_yticks(range(len(shown)), short_names(names, 40))
    ax.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    n = int((known["n"] + known["n_ref"]).max()) if len(known) else 0
    dress(
        ax,
        title=f"n = {plural(n, 'image')}",
        xlabel="AUROC of the class against the rest (0.5: tells nothing), 95 % interval",
        ylabel="picture statistic: class it tells best" if is_many else "picture statistic",
        grid="x",
    )
    if not is_many and classes:
        legend(ax, outside=True, title="class")
    return ax


def flagged_images(
    pictures: Sequence[np.ndarray | None], captions: Sequence[str], *, columns: int = 6
) -> Figure:
    """A grid of pictures, each with what is to be said of it, up to three lines.

    Parameters
    ----------
    pictures : sequence of ndarray of shape (height, width, 3), uint8, or None
        None where a picture could not be read.
    captions : sequence of str
    """
    _check(len(pictures), captions=captions)
    lines = [str(caption).splitlines()[:_LINES] or [""] for caption in captions]
    deepest = max(len(part) for part in lines)
    figure, panels = _grid(
        pictures, min(columns, len(pictures)), side=_TILE, title=0.12 + 0.14 * deepest
    )
    for panel, picture, part in zip(panels, pictures, lines, strict=True):
        _picture(panel, picture)
        text = "\n".join(fitted_name(line, _TILE - 0.1, 7.5, 40) for line in part)
        panel.set_title(text, fontsize=7.5, color=INK, pad=3)
    return figure


def _whiskers(table: pd.DataFrame) -> np.ndarray:
    auroc = table["auroc"].to_numpy(float)
    low, high = table["auroc_low"].to_numpy(float), table["auroc_high"].to_numpy(float)
    return np.clip(np.nan_to_num(np.vstack([auroc - low, high - auroc])), 0, None)
