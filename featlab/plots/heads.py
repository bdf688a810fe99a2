"""Figures of the heads: calibration, learning and ablation curves, several networks."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from featlab.plots._base import (
    BLUE,
    INK,
    MUTED,
    class_colours,
    dress,
    legend,
    new_axes,
    plural,
    short_name,
    short_names,
    text_width,
)
from featlab.plots.scores import _BASELINE_HEADS, _whiskers

_ORANGE = "#de8f05"


def calibration(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Reliability: how often the head is right against how sure it is.

    Points are sized by the images of their bin; the dashed diagonal is perfect calibration.

    Parameters
    ----------
    table : DataFrame
        ``heads.calibration_table``: ``confidence, accuracy, accuracy_low, accuracy_high, n``; the
        expected calibration error and the Brier score are taken from its ``attrs``.
    """
    ax = new_axes(ax, 7, 4.2)
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="perfect\ncalibration")
    x = table["confidence"].to_numpy(float)
    ax.errorbar(
        x, table["accuracy"], yerr=_whiskers(table, "accuracy"), fmt="o", color=BLUE,
        elinewidth=1.4, markersize=4,
        label="test images of\na bin, 95 %\ninterval; larger:\nmore images",
    )  # fmt: skip
    n = table["n"].to_numpy(float)
    sizes = 18 + 130 * n / max(n.max(initial=1), 1)
    ax.scatter(x, table["accuracy"], s=sizes, color=BLUE, zorder=3)
    ax.set_xlim(0, 1.02)
    ax.set_ylim(-0.02, 1.04)
    title = f"n = {plural(int(n.sum()), 'test image')}"
    if "ece" in table.attrs:
        title += f"; Brier score {table.attrs['brier']:.3f}\ncalibration error "
        title += f"{table.attrs['ece']:.3f} (by chance up to {table.attrs['ece_chance_high']:.3f})"
    dress(
        ax,
        title=title,
        xlabel="mean probability of the predicted class (0-1)",
        ylabel="accuracy (share, 0-1)",
        grid="both",
    )
    legend(ax, outside=True)
    return ax


def learning_curve(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy against train images per class, with its interval as a band.

    Parameters
    ----------
    table : DataFrame
        ``heads.learning_curve``, of one head or several: ``head, size, n, accuracy, accuracy_low,
        accuracy_high``.
    """
    ax = new_axes(ax, 7, 3.8)
    heads = table["head"].drop_duplicates().tolist()
    colours = class_colours(heads)
    for head in heads:
        rows = table[table["head"] == head].sort_values("size")
        _band(ax, rows, "size", ("accuracy_low", "accuracy_high"), colours[head])
        ax.plot(
            rows["size"], rows["accuracy"], marker="o", markersize=4.5, color=colours[head],
            label=short_name(str(head).replace("_", " ")),
        )  # fmt: skip
    _whole_number_log(ax, table["size"])
    ax.set_ylim(0, 1.02)
    dress(
        ax,
        title=f"n = {plural(int(table['n'].max()), 'test image')}; bands are 95 % intervals",
        xlabel="train images per class (count, logarithmic)",
        ylabel="accuracy on unseen test images (share, 0-1)",
        grid="both",
    )
    legend(ax, outside=True, title="head")
    return ax


def ablation(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy without the first k neurons, or with them alone, beside random neurons.

    Parameters
    ----------
    table : DataFrame
        ``heads.ablation_curve``, of one mode: ``mode, kind, k, n, accuracy, low, high``.
    """
    ax = new_axes(ax, 7.4, 3.8)
    keep = bool((table["mode"] == "keep").all())
    for kind, colour, label in (
        ("detectors", BLUE, "these neurons,\n95 % interval"),
        ("random", _ORANGE, "random neurons of\nlike variance,\n95 % of draws"),
    ):
        rows = table[table["kind"] == kind].sort_values("k")
        _band(ax, rows, "k", ("low", "high"), colour)
        ax.plot(rows["k"], rows["accuracy"], marker="o", markersize=4, color=colour, label=label)
    ax.set_xscale("symlog", linthresh=1, linscale=0.4)
    _whole_numbers(ax, table["k"])
    ax.set_xlim(left=-0.1)
    ax.set_ylim(0, 1.02)
    dress(
        ax,
        title=f"n = {plural(int(table['n'].max()), 'test image')}",
        xlabel=f"neurons {'kept, all others ' if keep else ''}set to their mean over train "
        "(count, logarithmic)",
        ylabel="accuracy on unseen test images (share, 0-1)",
        grid="both",
    )
    legend(ax, outside=True)
    return ax


def backbones(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy and interval of every network and head; baselines are hollow.

    Parameters
    ----------
    table : DataFrame
        ``heads.BackboneComparison.table``: ``backbone, head, n, accuracy, accuracy_low,
        accuracy_high``. Networks are sorted by their best head.
    """
    baseline = table["head"].isin(_BASELINE_HEADS)
    networks = table[~baseline].groupby("backbone")["accuracy"].max()
    order = networks.sort_values(ascending=False, kind="stable").index.tolist()
    heads = table.loc[~baseline, "head"].drop_duplicates().tolist()
    colours = class_colours(heads)
    rows = len(order) + int(baseline.sum())
    names = short_names([*order, *table.loc[baseline, "head"].str.replace("_", " ")], 40)
    ax = new_axes(ax, 6 + max(text_width(name, 8.5) for name in names), 1.4 + 0.45 * rows)
    step = 0.5 / max(len(heads), 1)
    for place, head in enumerate(heads):
        part = table[table["head"] == head].set_index("backbone").reindex(order)
        y = np.arange(len(order)) + (place - (len(heads) - 1) / 2) * step
        ax.errorbar(
            part["accuracy"], y, xerr=_whiskers(part, "accuracy"), fmt="o", markersize=6,
            color=colours[head], elinewidth=1.5, label=short_name(str(head).replace("_", " ")),
        )  # fmt: skip
    simple = table[baseline]
    if len(simple):
        ax.errorbar(
            simple["accuracy"], len(order) + np.arange(len(simple)),
            xerr=_whiskers(simple, "accuracy"), fmt="o", markersize=6, color=MUTED,
            markerfacecolor="white", elinewidth=1.5, label="baseline",
        )  # fmt: skip
    ax.set_yticks(np.arange(rows), names)
    ax.set_ylim(rows - 0.5, -0.5)
    ax.set_xlim(0, 1.02)
    dress(
        ax,
        title=f"n = {plural(int(table['n'].max()), 'test image')}; 95 % intervals",
        xlabel="accuracy on unseen test images (share, 0-1)",
        ylabel="network",
        grid="x",
    )
    legend(ax, outside=True, title="head")
    return ax


def _band(ax: Axes, rows: pd.DataFrame, x: str, ends: tuple[str, str], colour: object) -> None:
    low, high = (rows[end].to_numpy(float) for end in ends)
    ax.fill_between(rows[x].to_numpy(float), low, high, color=colour, alpha=0.18, linewidth=0)  # type: ignore[arg-type]


def _whole_number_log(ax: Axes, sizes: pd.Series) -> None:
    ax.set_xscale("log")
    _whole_numbers(ax, sizes)


def _whole_numbers(ax: Axes, values: pd.Series) -> None:
    """Ticks at the values themselves, but for those that would touch the one before."""
    shown: list[int] = []
    for value in sorted({int(value) for value in values}):
        if not shown or value <= 1 or value / max(shown[-1], 1) > 1.35:
            shown.append(value)
    ax.set_xticks(shown)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", which="minor", length=0, colors=INK)
