"""Figures of one number against another: learning, calibration, success, epochs, layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from featlab.plots.style import (
    BLUE,
    INK,
    MAX_COLOURED,
    MUTED,
    ORANGE,
    RULE_NAMES,
    class_colours,
    dress,
    legend,
    new_axes,
    plural,
    short_name,
    short_names,
    whiskers,
)
from featlab.results.analysis import Calibration


def calibration(measured: Calibration, ax: Axes | None = None) -> Axes:
    """Reliability: how often the head is right against how sure it is.

    Points are sized by the images of their bin; the dashed diagonal is perfect calibration.

    Parameters
    ----------
    measured : Calibration
        Of ``heads.calibration``.
    """
    table = measured.table
    ax = new_axes(ax, 7, 4.2)
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="perfect\ncalibration")
    x = table["confidence"].to_numpy(float)
    ax.errorbar(
        x, table["accuracy"], yerr=whiskers(table, "accuracy"), fmt="o", color=BLUE,
        elinewidth=1.4, markersize=4,
        label="test images of\na bin, 95 %\ninterval; larger:\nmore images",
    )  # fmt: skip
    n = table["n"].to_numpy(float)
    sizes = 18 + 130 * n / max(n.max(initial=1), 1)
    ax.scatter(x, table["accuracy"], s=sizes, color=BLUE, zorder=3)
    ax.set_xlim(0, 1.02)
    ax.set_ylim(-0.02, 1.04)
    title = f"n = {plural(int(n.sum()), 'test image')}"
    title += f"; Brier score {measured.brier:.3f}\ncalibration error "
    title += f"{measured.ece:.3f} (by chance up to {measured.ece_chance_high:.3f})"
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


def box_curve(table: pd.DataFrame, ax: Axes | None = None, *, best: float | None = None) -> Axes:
    """V2 against train images with a box, with its interval as a band.

    Parameters
    ----------
    table : DataFrame
        ``pipeline.sets.box_curve``: ``boxed, n, max_box_acc_v2, max_box_acc_v2_low,
        max_box_acc_v2_high``.
    best : float, optional
        V2 of the best method that learns from no box, drawn as a line.
    """
    ax = new_axes(ax, 7, 3.8)
    rows = table.sort_values("boxed")
    _band(ax, rows, "boxed", ("max_box_acc_v2_low", "max_box_acc_v2_high"), BLUE)
    ax.plot(
        rows["boxed"], rows["max_box_acc_v2"], marker="o", markersize=4.5, color=BLUE,
        label="cells learnt\nfrom boxes",
    )  # fmt: skip
    if best is not None:
        ax.axhline(best, color=ORANGE, linestyle="--", label="the best without\na box")
    _whole_number_log(ax, rows["boxed"])
    ax.set_ylim(0, 1.02)
    dress(
        ax,
        title=f"n = {plural(int(rows['n'].max()), 'test image')}; the band is a 95 % interval",
        xlabel="train images with a box (count, logarithmic)",
        ylabel="V2 on unseen test images (share, 0-1)",
        grid="both",
    )
    legend(ax, outside=True)
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
        ("random", ORANGE, "random neurons of\nlike variance,\n95 % of draws"),
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


def transfer_curves(curves: pd.DataFrame) -> Figure:
    """Loss and accuracy by epoch, a row per training; the dashed line is where blocks are thawed.

    Parameters
    ----------
    curves : DataFrame
        ``Transfer.curves``, or ``FineTuned.curves`` of one training: ``epoch, phase,
        loss, accuracy, val_loss, val_accuracy`` and perhaps ``name``.
    """
    if "name" not in curves:
        curves = curves.assign(name="")
    names = curves["name"].drop_duplicates().tolist()
    figure = Figure(figsize=(9, 2.7 * len(names) + 0.3), layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False)
    for row, name, text in zip(panels, names, short_names(names, 40), strict=True):
        training = curves[curves["name"] == name].sort_values("epoch")
        for ax, what, unit in zip(
            row, ("loss", "accuracy"), ("nats, logarithmic", "share, 0-1"), strict=True
        ):
            _curve(ax, training, what)
            prefix = f"{text.strip()}: " if name else ""
            dress(
                ax,
                title=f"{prefix}{plural(len(training), 'epoch')}",
                xlabel="epoch",
                ylabel=f"{'cross-entropy' if what == 'loss' else what} ({unit})",
                grid="y",
            )
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(row[0])
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
    for name, style in _method_styles(titles).items():
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
    thresholds: Mapping[str, float],
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
    thresholds : mapping of str to float
        The threshold of each method; a dot marks it.
    n : int, optional
        Test images, for the title.

    Notes
    -----
    Methods without a threshold have no curve and are left out.
    """
    ax = new_axes(ax, 7.4, 3.8)
    half = table[np.isclose(table["delta"].to_numpy(float), 0.5)]
    for name, style in _method_styles(titles).items():
        rows = half[half["method"] == name].dropna(subset=["threshold", "accuracy"])
        rows = rows.sort_values("threshold")
        if rows.empty:
            continue
        ax.plot(rows["threshold"], rows["accuracy"], **style)
        at = rows[np.isclose(rows["threshold"], thresholds.get(name, np.nan))]
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


def randomisation_curves(
    table: pd.DataFrame, ax: Axes | None = None, *, absolute: bool = True
) -> Axes:
    """Rank correlation with the trained network's map, over the layers randomised from the top.

    Parameters
    ----------
    table : DataFrame
        From :func:`featlab.gradients.randomisation_check`.
    absolute : bool
        Of the absolute gradients, or of the signed ones.

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


def _band(ax: Axes, rows: pd.DataFrame, x: str, ends: tuple[str, str], colour: object) -> None:
    low, high = (rows[end].to_numpy(float) for end in ends)
    ax.fill_between(rows[x].to_numpy(float), low, high, color=colour, alpha=0.18, linewidth=0)  # type: ignore[arg-type]


def _whole_number_log(ax: Axes, sizes: pd.Series) -> None:
    ax.set_xscale("log")
    _whole_numbers(ax, sizes)


def _whole_numbers(ax: Axes, values: pd.Series) -> None:
    """Ticks at the values themselves, but for those that would touch the one before."""
    ticks: list[int] = []
    for value in sorted({int(value) for value in values}):
        if not ticks or value <= 1 or value / max(ticks[-1], 1) > 1.35:
            ticks.append(value)
    ax.set_xticks(ticks)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", which="minor", length=0, colors=INK)


def _curve(ax: Axes, training: pd.DataFrame, what: str) -> None:
    epochs = training["epoch"].to_numpy(float)
    ax.plot(epochs, training[what], color=BLUE, linewidth=1.6, label="images fitted")
    ax.plot(
        epochs, training[f"val_{what}"], color=ORANGE, linewidth=1.6, linestyle=(0, (5, 1.5)),
        label="validation images",
    )  # fmt: skip
    thawed = training.loc[training["phase"] == "thawed", "epoch"]
    if len(thawed) and len(thawed) < len(training):
        ax.axvline(float(thawed.iloc[0]) - 0.5, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
    final = training[training["phase"] == training["phase"].iloc[-1]]
    best = final.loc[final["val_loss"].idxmin()]
    ax.plot(
        [best["epoch"]], [best[f"val_{what}"]], marker="o", markersize=6, color=INK,
        linestyle="none", label="epoch kept",
    )  # fmt: skip
    if what == "loss":
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.tick_params(axis="y", which="minor", length=0)
    else:
        ax.set_ylim(0, 1.03)


def _method_styles(titles: Mapping[str, str]) -> dict[str, dict[str, Any]]:
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
