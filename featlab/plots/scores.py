"""Figures of scores with their intervals, a dot a row; and of confusions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featlab.arguments import check_choice, check_whole, score_text
from featlab.errors import FeatlabError
from featlab.plots.style import (
    BLUE,
    GRADIENT_METHOD_NAMES,
    INK,
    MAX_COLOURED,
    MUTED,
    ORANGE,
    class_colours,
    dress,
    legend,
    new_axes,
    plural,
    readable,
    sample_size,
    short_name,
    short_names,
    text_width,
    whiskers,
)
from featlab.results.analysis import BASELINE_HEADS

_STORED_MAPS_HEADS = ("logistic", "mlp")
_SCORES = {
    "accuracy": "accuracy on unseen test images (share, 0-1)",
    "box_accuracy": "box accuracy (share of test images with IoU ≥ 0.5, 0-1)",
    "mean_iou": "mean IoU of the predicted with the true box (0-1)",
}
_ROWS = {"name": "network and layer", "head": "head", "method": "method"}
_FAITHFULNESS = {
    "deletion": ("deletion\n(lower is better)", "area under probability"),
    "insertion": ("insertion\n(higher is better)", "area under probability"),
    "average_drop": ("average drop\n(lower is better)", "share of probability"),
    "increase": ("increase\n(higher is better)", "share of images"),
}
_ANNOTATED_CLASSES = 12
_FLAT_NAME = 0.9  # inches that a name may take below one of two columns; 0.6 below one of more


def score_intervals(
    table: pd.DataFrame, score: str, ax: Axes | None = None, *, xlabel: str = ""
) -> Axes:
    """A score and its interval of every head, method or store, the best on top.

    Parameters
    ----------
    table : DataFrame
        ``head``, ``method`` or ``name``; ``n`` (test images); `score` with ``_low`` and ``_high``;
        perhaps ``baseline``, without which the dummy and the colour histogram are baselines. These
        are hollow.
    score : str
    xlabel : str
        What the score is, with its unit; by default known for ``accuracy``, ``box_accuracy`` and
        ``mean_iou``, else the score's name.
    """
    kind = next((column for column in _ROWS if column in table), None)
    if kind is None:
        raise FeatlabError(f"table must have one of the columns {', '.join(_ROWS)}.")
    check_choice("score", score, [name for name in table if f"{name}_low" in table])
    best_first = table.sort_values(score, ascending=False, kind="stable")
    if "baseline" in best_first:
        baseline = best_first["baseline"].to_numpy(bool)
    else:
        baseline = best_first[kind].isin(BASELINE_HEADS).to_numpy()
    groups = [
        (~baseline, BLUE, BLUE, "from the maps, 95 % interval"),
        (baseline, MUTED, "white", "baseline"),
    ]
    notes = [score_text(value) if np.isfinite(value) else "" for value in best_first[score]]
    names = best_first[kind] if kind == "name" else readable(best_first[kind])
    ax = _dots(ax, best_first, score, names.tolist(), groups, notes)
    return dress(
        ax,
        title=f"n = {sample_size(table)}",
        xlabel=xlabel or _SCORES.get(score, score),
        ylabel=_ROWS[kind],
        grid="x",
    )


def transfer_comparison(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy and interval of trained networks and of heads on stored maps, with what they cost.

    Parameters
    ----------
    table : DataFrame
        ``Transfer.comparison``: ``name, n, accuracy, accuracy_low, accuracy_high, seconds,
        trainable_parameters``.
    """
    on_maps = table["name"].isin(_STORED_MAPS_HEADS).to_numpy()
    groups = [
        (~on_maps, ORANGE, ORANGE, "trained through the network"),
        (on_maps, BLUE, BLUE, "on stored maps"),
    ]
    costs = zip(table["seconds"], table["trainable_parameters"], strict=True)
    notes = [f"{seconds:,.0f} s, {weights:,} weights" for seconds, weights in costs]
    return _accuracies(ax, table, readable(table["name"]).tolist(), groups, notes)


def small_images(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy and interval of a head on maps of small and of original pictures.

    Parameters
    ----------
    table : DataFrame
        Of ``pipeline.transfer.small_images_table``: ``pictures, network, cells, n, accuracy,
        accuracy_low, accuracy_high``.
    """
    original = (table["pictures"] == "original").to_numpy()
    groups = [
        (~original, BLUE, BLUE, "small pictures"),
        (original, MUTED, MUTED, "original pictures"),
    ]
    pairs = zip(table["accuracy"], table["cells"], strict=True)
    notes = [f"{score_text(accuracy)}, {cells} cells" for accuracy, cells in pairs]
    names = (table["pictures"] + ", " + table["network"]).tolist()
    return _accuracies(ax, table, names, groups, notes)


def backbones(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy and interval of every network and head; baselines are hollow.

    Parameters
    ----------
    table : DataFrame
        ``BackboneComparison.table``: ``backbone, head, n, accuracy, accuracy_low,
        accuracy_high``. Networks are sorted by their best head.
    """
    baseline = table["head"].isin(BASELINE_HEADS)
    networks = table[~baseline].groupby("backbone")["accuracy"].max()
    order = networks.sort_values(ascending=False, kind="stable").index.tolist()
    heads = table.loc[~baseline, "head"].drop_duplicates().tolist()
    colours = class_colours(heads)
    rows = len(order) + int(baseline.sum())
    names = short_names([*order, *readable(table.loc[baseline, "head"])], 40)
    ax = new_axes(ax, 6 + max(text_width(name, 8.5) for name in names), 1.4 + 0.45 * rows)
    step = 0.5 / max(len(heads), 1)
    for place, head in enumerate(heads):
        of_head = table[table["head"] == head].set_index("backbone").reindex(order)
        y = np.arange(len(order)) + (place - (len(heads) - 1) / 2) * step
        ax.errorbar(
            of_head["accuracy"], y, xerr=whiskers(of_head, "accuracy"), fmt="o", markersize=6,
            color=colours[head], elinewidth=1.5, label=short_name(str(head).replace("_", " ")),
        )  # fmt: skip
    simple = table[baseline]
    if len(simple):
        ax.errorbar(
            simple["accuracy"], len(order) + np.arange(len(simple)),
            xerr=whiskers(simple, "accuracy"), fmt="o", markersize=6, color=MUTED,
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
    figure = Figure(figsize=(10.5, 0.32 * len(table) + 1.4), layout="constrained")
    panels = figure.subplots(1, len(_FAITHFULNESS), sharey=True)
    places = np.arange(len(table))[::-1]
    colours = np.where(table["baseline"], MUTED, BLUE)
    for panel, (score, (title, unit)) in zip(panels, _FAITHFULNESS.items(), strict=True):
        panel.hlines(places, table[f"{score}_low"], table[f"{score}_high"], colors=colours, lw=1.8)
        panel.scatter(table[score], places, c=colours, s=26, zorder=3)
        dress(panel, title=title, xlabel=unit, ylabel="", grid="x")
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


def confounds(table: pd.DataFrame, ax: Axes | None = None, *, most: int = 12) -> Axes:
    """AUROC and interval of the strongest picture statistics, a dot per class.

    With more than eight classes, only the class that each statistic tells best, named beside it.

    Parameters
    ----------
    table : DataFrame
        ``class, statistic, n, n_ref, auroc, auroc_low, auroc_high``, the strongest first.
    most : int
        Statistics drawn, at most.
    """
    check_whole("most", most, 1)
    known = table[table["auroc"].notna()]
    statistics = known["statistic"].drop_duplicates().head(most).tolist()
    classes = sorted(known["class"].astype(str).unique())
    names = [str(name).replace("_", " ") for name in statistics]
    is_many = len(classes) > MAX_COLOURED
    rows = known[known["statistic"].isin(statistics)]
    if is_many:
        rows = rows.drop_duplicates("statistic")
        best = rows.set_index("statistic")["class"]
        pairs = zip(names, statistics, strict=True)
        names = [f"{name}: {short_name(best[key], 16)}" for name, key in pairs]
    height = 0.3 if is_many else 0.18 + 0.075 * len(classes)
    ax = new_axes(ax, 7, 1.4 + height * max(len(statistics), 1))
    colours = class_colours(classes)
    places = {name: place for place, name in enumerate(statistics)}
    ax.axvline(0.5, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    labels = dict(zip(classes, short_names(classes), strict=True))
    step = 0.72 / max(len(classes), 1)
    for k, name in enumerate(classes):
        of_class = rows[rows["class"].astype(str) == name]
        shift = 0.0 if is_many else (k - (len(classes) - 1) / 2) * step
        ax.errorbar(
            of_class["auroc"], [places[s] + shift for s in of_class["statistic"]],
            xerr=whiskers(of_class, "auroc"), fmt="o", color=colours[name], markersize=4.5,
            elinewidth=1.3, label=labels[name],
        )  # fmt: skip
    ax.set_yticks(range(len(statistics)), short_names(names, 40))
    ax.set_ylim(max(len(statistics), 1) - 0.5, -0.5)
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


def detector_aurocs(
    neurons: pd.DataFrame,
    entries: Sequence[str],
    ax: Axes | None = None,
    *,
    random_state: int = 0,
) -> Axes:
    """AUROC on unseen images of the detectors of every entry; a bar marks the median of all.

    Of those alone that were confirmed by it the median would be flattered.

    Parameters
    ----------
    neurons : DataFrame
        Neuron table of the detectors selected, after the confirmation: ``layer`` (the entry),
        ``auroc_confirmed``, ``confirmed``.
    entries : sequence of str
        In the order to draw, from the top; an entry without detectors keeps an empty row.
    random_state : int
        Seed of the dots' vertical places.
    """
    rng = np.random.default_rng(random_state)
    ax = new_axes(ax, 7.4, 1.3 + 0.5 * len(entries))
    confirmed = neurons["confirmed"].eq(True)
    for held, colour, size, label in (
        (False, MUTED, 7, "selected, not confirmed"),
        (True, BLUE, 11, "confirmed"),
    ):
        rows = neurons[confirmed.eq(held) & neurons["layer"].isin(list(entries))]
        y = rows["layer"].map({name: place for place, name in enumerate(entries)}).to_numpy(float)
        ax.scatter(
            rows["auroc_confirmed"], y + rng.uniform(-0.3, 0.3, len(rows)), s=size, color=colour,
            alpha=0.45, linewidths=0, rasterized=True, label=label,
        )  # fmt: skip
    for place, name in enumerate(entries):
        mine = neurons["layer"].eq(name)
        median = float(neurons.loc[mine, "auroc_confirmed"].median())
        if np.isfinite(median):
            ax.plot([median, median], [place - 0.38, place + 0.38], color=INK, linewidth=2)
        ax.annotate(
            f"{int((mine & confirmed).sum()):,}", (1.0, place), (8, 0),
            xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", fontsize=8.5, color=INK,
        )  # fmt: skip
    ax.set_yticks(range(len(entries)), short_names(entries, 40))
    ax.set_ylim(len(entries) - 0.5, -0.5)
    ax.set_xlim(right=1.005)
    dress(
        ax,
        title=f"n = {len(neurons):,} selected; bar: median of all; right: how many are confirmed",
        xlabel="AUROC on the confirm images (0.5 tells nothing)",
        ylabel="network and layer",
        grid="x",
    )
    ax.legend(
        frameon=False,
        fontsize=8.5,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=4.5,
        markerscale=2.5,
    )
    return ax


def confusion_matrix(confusion: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Counts of true against predicted classes, shaded by the share of the true class.

    Parameters
    ----------
    confusion : DataFrame of shape (k, k)
        True classes in rows, predicted classes in columns; counts. Cells carry their counts
        when there are at most 12 classes.
    """
    counts = confusion.to_numpy(float)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    k = len(confusion)
    is_small = k <= _ANNOTATED_CLASSES
    size = 8.5 if is_small else 7.5
    names = short_names(confusion.columns)
    widest = max(text_width(name, size) for name in names)
    upright = widest > (_FLAT_NAME if k <= 2 else 0.6) or not is_small
    # The cells keep their size; the names take their room beside and below them.
    side = (1.0 if k <= 2 else 0.62 if is_small else 0.2) * k
    ax = new_axes(
        ax, max(side + widest + 1.8, 4.2), max(side + (widest if upright else 0.2) + 0.8, 3.0)
    )
    import seaborn as sns  # imports half a second of figures that are not drawn here

    sns.heatmap(
        share, vmin=0, vmax=1, cmap="Blues", square=True, rasterized=not is_small, ax=ax,
        annot=counts if is_small else None, fmt=".0f", annot_kws={"fontsize": 9},
        xticklabels=names, yticklabels=short_names(confusion.index),
        cbar_kws={"shrink": 0.8, "pad": 0.03},
    )  # fmt: skip
    ax.tick_params(axis="x", labelrotation=90 if upright else 0)
    ax.tick_params(axis="y", labelrotation=0)
    title = f"n = {plural(int(counts.sum()), 'test image')}"
    dress(ax, title=title, xlabel="predicted class", ylabel="true class")
    ax.tick_params(labelsize=size)
    bar: Any = ax.collections[0].colorbar
    bar.set_label("share of the true class", fontsize=8.5, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK, length=0)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return ax


def _accuracies(
    ax: Axes | None,
    table: pd.DataFrame,
    names: Sequence[str],
    groups: Sequence[tuple[np.ndarray, str, str, str]],
    notes: Sequence[str],
) -> Axes:
    return dress(
        _dots(ax, table, "accuracy", names, groups, notes),
        title=f"n = {sample_size(table)}; 95 % intervals",
        xlabel=_SCORES["accuracy"],
        ylabel="",
        grid="x",
    )


def _dots(
    ax: Axes | None,
    table: pd.DataFrame,
    score: str,
    names: Sequence[str],
    groups: Sequence[tuple[np.ndarray, str, str, str]],
    notes: Sequence[str],
) -> Axes:
    """A dot, an interval and a note per row; of each group its rows, colour, filling and legend."""
    names = short_names(names, 48)
    # Names and notes take their room beside the axes, over which title and legend share a line.
    beside = sum(max((text_width(t, 8.5) for t in texts), default=0) for texts in (names, notes))
    above = 2.7 + sum(text_width(label, 8.5) + 0.45 for rows, *_, label in groups if rows.any())
    ax = new_axes(ax, max(max(above, 5.5) + beside, 7), 1.3 + 0.32 * len(table))
    y = np.arange(len(table))
    for rows, colour, fill, label in groups:
        if not rows.any():
            continue
        ax.errorbar(
            table[score][rows], y[rows], xerr=whiskers(table[rows], score), fmt="o",
            color=colour, markerfacecolor=fill, markersize=6.5, elinewidth=1.6, label=label,
        )  # fmt: skip
    for place, note in enumerate(notes):
        ax.annotate(
            note, (1.0, place), (6, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", fontsize=8.5, color=INK,
        )  # fmt: skip
    ax.set_yticks(y, names)
    ax.set_ylim(max(len(table), 1) - 0.5, -0.5)
    ax.set_xlim(0, 1.02)
    if len(table):
        ax.legend(
            frameon=False, fontsize=8.5, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2,
            borderaxespad=0.2, handletextpad=0.3, columnspacing=1.2, labelcolor=INK,
        )  # fmt: skip
    return ax
