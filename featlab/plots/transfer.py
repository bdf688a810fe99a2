"""Figures of fine-tuning: learning curves, accuracies, what became of the neurons, small images."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from featlab.plots._base import BLUE, INK, MUTED, dress, legend, new_axes, plural, short_names
from featlab.plots.scores import _sizes, _whiskers

_ORANGE, _GREEN, _PURPLE = "#de8f05", "#029e73", "#cc78bc"
_HEADS = ("logistic", "mlp")
_STATES = {
    (False, False): ("replicated neither time", MUTED, "."),
    (True, False): ("replicated before only", _ORANGE, "v"),
    (False, True): ("replicated after only", _GREEN, "^"),
    (True, True): ("replicated both times", _PURPLE, "o"),
}


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
        part = curves[curves["name"] == name].sort_values("epoch")
        for ax, what, unit in zip(
            row, ("loss", "accuracy"), ("nats, logarithmic", "share, 0-1"), strict=True
        ):
            _curve(ax, part, what)
            prefix = f"{text.strip()}: " if name else ""
            dress(
                ax,
                title=f"{prefix}{plural(len(part), 'epoch')}",
                xlabel="epoch",
                ylabel=f"{'cross-entropy' if what == 'loss' else what} ({unit})",
                grid="y",
            )
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(row[0])
    return figure


def transfer_comparison(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy and interval of trained networks and of heads on stored maps, with what they cost.

    Parameters
    ----------
    table : DataFrame
        ``Transfer.comparison``: ``name, n, accuracy, accuracy_low, accuracy_high, seconds,
        trainable_parameters``.
    """
    on_maps = table["name"].isin(_HEADS).to_numpy()
    ax = new_axes(ax, 9, 1.3 + 0.36 * len(table))
    places = np.arange(len(table))
    for mask, colour, label in (
        (~on_maps, _ORANGE, "trained through the network"),
        (on_maps, BLUE, "on stored maps"),
    ):
        if mask.any():
            _interval_dots(ax, table[mask], places[mask], colour, label)
    for place, (seconds, weights) in enumerate(
        zip(table["seconds"], table["trainable_parameters"], strict=True)
    ):
        _beside(ax, place, f"{seconds:,.0f} s, {weights:,} weights")
    _rows(ax, table["name"].str.replace("_", " ").tolist())
    ax.legend(
        frameon=False, fontsize=8.5, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2,
        borderaxespad=0.2, handletextpad=0.3, columnspacing=1.2, labelcolor=INK,
    )  # fmt: skip
    return dress(
        ax,
        title=f"n = {_sizes(table)}; 95 % intervals",
        xlabel="accuracy on unseen test images (share, 0-1)",
        ylabel="",
        grid="x",
    )


def small_images(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy and interval of a head on maps of small and of original pictures.

    Parameters
    ----------
    table : DataFrame
        ``pipeline.small_images_table``: ``pictures, network, cells, n, accuracy, accuracy_low,
        accuracy_high``.
    """
    ax = new_axes(ax, 8, 1.3 + 0.36 * len(table))
    original = (table["pictures"] == "original").to_numpy()
    places = np.arange(len(table))
    for mask, colour in ((~original, BLUE), (original, MUTED)):
        _interval_dots(ax, table[mask], places[mask], colour)
    for place, (accuracy, cells) in enumerate(zip(table["accuracy"], table["cells"], strict=True)):
        _beside(ax, place, f"{accuracy:.2f}, {cells} cells")
    _rows(ax, (table["pictures"] + ", " + table["network"]).tolist())
    return dress(
        ax,
        title=f"n = {_sizes(table)}; 95 % intervals",
        xlabel="accuracy on unseen test images (share, 0-1)",
        ylabel="",
        grid="x",
    )


def detector_changes(
    neurons: pd.DataFrame, ax: Axes | None = None, *, label: str | None = None
) -> Axes:
    """AUROC of every neuron on confirm images, before and after fine-tuning.

    Parameters
    ----------
    neurons : DataFrame
        ``Transfer.neurons``: ``class, neuron, auroc_before, auroc_after,
        replicated_before, replicated_after``.
    label : str, optional
        The class shown; by default all of them, of two classes the first, since the other is its
        mirror image.
    """
    classes = sorted(neurons["class"].astype(str).unique())
    shown = label if label is not None else classes[0] if len(classes) == 2 else None
    rows = neurons if shown is None else neurons[neurons["class"].astype(str) == shown]
    alive = rows.dropna(subset=["auroc_before", "auroc_after"])
    ax = new_axes(ax, 8, 5.2)
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    held = list(zip(alive["replicated_before"], alive["replicated_after"], strict=True))
    for order, (state, (text, colour, marker)) in enumerate(_STATES.items(), start=2):
        mine = np.array([bool(a) == state[0] and bool(b) == state[1] for a, b in held], dtype=bool)
        if mine.any():
            ax.scatter(
                alive["auroc_before"][mine], alive["auroc_after"][mine], s=16, color=colour,
                marker=marker, alpha=0.6, linewidth=0, zorder=order, rasterized=True,
                label=f"{text} ({int(mine.sum()):,})",
            )  # fmt: skip
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_box_aspect(1)
    about = "all classes" if shown is None else f"class {short_names([shown])[0].strip()}"
    dress(
        ax,
        title=f"n = {plural(len(alive), 'neuron')}, {about}",
        xlabel="AUROC before, frozen network (confirm images)",
        ylabel="AUROC after fine-tuning (confirm images)",
        grid="both",
    )
    legend(ax, outside=True)
    return ax


def _curve(ax: Axes, part: pd.DataFrame, what: str) -> None:
    epochs = part["epoch"].to_numpy(float)
    ax.plot(epochs, part[what], color=BLUE, linewidth=1.6, label="images fitted")
    ax.plot(
        epochs, part[f"val_{what}"], color=_ORANGE, linewidth=1.6, linestyle=(0, (5, 1.5)),
        label="validation images",
    )  # fmt: skip
    thawed = part.loc[part["phase"] == "thawed", "epoch"]
    if len(thawed) and len(thawed) < len(part):
        ax.axvline(float(thawed.iloc[0]) - 0.5, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
    final = part[part["phase"] == part["phase"].iloc[-1]]
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


def _interval_dots(
    ax: Axes, rows: pd.DataFrame, places: np.ndarray, colour: str, label: str | None = None
) -> None:
    ax.errorbar(
        rows["accuracy"], places, xerr=_whiskers(rows, "accuracy"), fmt="o", color=colour,
        markersize=6.5, elinewidth=1.6, label=label,
    )  # fmt: skip


def _beside(ax: Axes, place: int, text: str) -> None:
    ax.annotate(
        text, (1.0, place), (6, 0), xycoords=("axes fraction", "data"),
        textcoords="offset points", va="center", fontsize=8.5, color=INK,
    )  # fmt: skip


def _rows(ax: Axes, names: list[str]) -> None:
    ax.set_yticks(range(len(names)), short_names(names, 48))
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(0, 1.02)
