"""Figures of the neuron table: which neurons detect which class, and does it hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from featlab.arguments import blocks_of_neurons, check_between, check_whole, text_labels
from featlab.errors import FeatlabError
from featlab.plots.pictures import _overlay, _picture, _standing_scale, _top
from featlab.plots.style import (
    BLUE,
    FAINT,
    INK,
    MAX_COLOURED,
    MUTED,
    ORANGE,
    RIGHT,
    bare,
    class_colours,
    dress,
    fitted_name,
    legend,
    new_axes,
    plural,
    short_names,
)
from featlab.results.pictures import NeuronCard

_CARD_BINS = 24
_CLOUD = "#b9c1cb"
_LEAST_P = 1e-300
_STATES = {
    (False, False): ("confirmed neither time", MUTED, "."),
    (True, False): ("confirmed before only", ORANGE, "v"),
    (False, True): ("confirmed after only", RIGHT, "^"),
    (True, True): ("confirmed both times", "#cc78bc", "o"),
}


def volcano(
    neurons: pd.DataFrame,
    ax: Axes | None = None,
    *,
    alpha: float | None = None,
    min_auroc: float | None = None,
) -> Axes:
    """Effect against evidence, one point per class and neuron.

    Parameters
    ----------
    neurons : DataFrame
        Neuron table; ``class, auroc, p_adjusted, detector, direction`` are read. Rows with NaN
        (dead neurons) are left out and counted in the title.
    alpha, min_auroc : float, optional
        Cut-offs to draw as lines.

    Notes
    -----
    An adjusted p-value below 1e-300, which no number holds well, is drawn as a triangle on a level
    of its own, above all others.
    """
    for name, value in (("alpha", alpha), ("min_auroc", min_auroc)):
        if value is not None:
            check_between(name, value, 0, 1)
    live = neurons[neurons["auroc"].notna() & neurons["p_adjusted"].notna()]
    ax = new_axes(ax, 7, 4.6)
    height, at_top = _evidence(live["p_adjusted"].to_numpy(float))
    detector = live["detector"].eq(True).to_numpy(bool)
    active = detector & live["direction"].eq("active").to_numpy(bool)
    effect, label = live["auroc"].to_numpy(float), live["class"].to_numpy(str)
    for mask, shade, text in (
        (~detector, _CLOUD, "not a detector"),
        (detector & ~active, MUTED, "silent for its class"),
    ):
        if mask.any():
            ax.scatter(
                effect[mask], height[mask], s=7, color=shade, linewidth=0, rasterized=True,
                label=f"{text} ({int(mask.sum()):,})",
            )  # fmt: skip
    classes = sorted(set(neurons["class"].astype(str)))
    for name, mask, colour in _groups(classes, label, active):
        below = mask & ~at_top
        for marker, points in (("o", below), ("^", mask & at_top)):
            first = below.any() if marker == "o" else not below.any()
            ax.scatter(
                effect[points], height[points], s=16 if marker == "^" else 11, color=colour,
                marker=marker, linewidth=0, alpha=0.85, rasterized=True,
                label=f"{name} ({int(mask.sum()):,})" if first else None,
            )  # fmt: skip
    _cutoff_lines(ax, alpha, min_auroc)
    ax.set_xlim(-0.02, 1.02)
    if at_top.any():
        _mark_top(ax, float(height[at_top][0]), float(height[~at_top].max(initial=0)))
    dead = len(neurons) - len(live)
    title = f"n = {len(live):,} pairs of class and neuron" + (
        f"; {plural(dead, 'pair')} of dead neurons left out" if dead else ""
    )
    dress(
        ax,
        title=title,
        xlabel="AUROC of the neuron for the class (0.5 = tells nothing)",
        ylabel="−log10 of the adjusted p",
        grid="both",
    )
    legend(ax, outside=True, title="selected for")
    return ax


def selected_vs_confirmed(
    neurons: pd.DataFrame, ax: Axes | None = None, *, most: int = 200
) -> Axes:
    """AUROC where a detector was chosen against AUROC on images never used to choose it.

    Parameters
    ----------
    neurons : DataFrame
        Neuron table after confirmation. Only rows with ``detector`` are drawn.
    most : int
        With more detectors the first by ``rank`` of every class are drawn, and the title says so.
    """
    check_whole("most", most, 1)
    detectors = neurons[neurons["detector"].eq(True) & neurons["auroc_confirmed"].notna()]
    classes = sorted(set(neurons["class"].astype(str)))
    drawn = detectors
    if len(detectors) > most:
        per_class = max(1, most // max(len(classes), 1))
        drawn = detectors.sort_values("rank").groupby("class", sort=False).head(per_class)
    ax = new_axes(ax, 6.4, 4.6)
    ax.axline((0.5, 0.5), slope=1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    label = drawn["class"].to_numpy(str)
    x, y = drawn["auroc"].to_numpy(float), drawn["auroc_confirmed"].to_numpy(float)
    for name, mask, colour in _groups(classes, label, np.ones(len(drawn), bool)):
        low = drawn["auroc_confirmed_low"].to_numpy(float)[mask]
        high = drawn["auroc_confirmed_high"].to_numpy(float)[mask]
        ax.vlines(x[mask], low, high, color=colour, linewidth=0.7, alpha=0.25)
        ax.scatter(x[mask], y[mask], s=14, color=colour, linewidth=0, alpha=0.85, label=name)
    if len(drawn):
        edge = 0.01
        ax.set_xlim(min(x.min(), 0.99) - edge, 1 + edge)
        ax.set_ylim(min(np.nanmin(drawn["auroc_confirmed_low"]), y.min(), 0.5) - edge, 1 + edge)
        legend(ax, outside=True, title="detector of")
    title = f"n = {len(detectors):,} selected"
    if len(drawn) < len(detectors):
        title += f", the first {len(drawn):,} by rank drawn"
    return dress(
        ax,
        title=title,
        xlabel="AUROC on the images it was chosen on (train)",
        ylabel="AUROC on unseen images (confirm)",
        grid="both",
    )


def activation_distributions(
    X: pd.DataFrame | np.ndarray,
    y: Sequence[str] | pd.Series,
    neurons: pd.DataFrame,
    *,
    most: int = 2,
    most_classes: int = 6,
    random_state: int = 0,
) -> Figure:
    """Pooled activation of the first detectors of each class, by class.

    Parameters
    ----------
    X : DataFrame or ndarray of shape (n, c)
        Pooled activations of the rows to show (unseen ones); the layer and pooling of `neurons`.
    y : sequence of str, length n
    neurons : DataFrame
        Detectors; the first `most` rows by ``rank`` of every class are drawn.
    most : int
    most_classes : int
        More classes than this are left out: those whose first detector has the lowest AUROC.
        With more than eight classes the other classes share one box.
    random_state : int
        Seed of the sample of points drawn over the boxes.
    """
    check_whole("most", most, 1)
    check_whole("most_classes", most_classes, 1)
    ranked = neurons.sort_values("rank", kind="stable")
    leaders = ranked.groupby("class", sort=False).head(1).nlargest(most_classes, "auroc")
    classes = sorted(leaders["class"].astype(str))
    if not classes:
        raise FeatlabError("neurons has no detectors; activation_distributions needs at least one.")
    blocks, labels = blocks_of_neurons(ranked, X, y), text_labels(y).astype(str)
    figure = Figure(
        figsize=(3.8 * most + 0.4, _panel_height(labels) * len(classes)), layout="constrained"
    )
    panels = figure.subplots(len(classes), most, squeeze=False)
    for row, name in enumerate(classes):
        picks = ranked[ranked["class"].astype(str) == name].head(most)
        for column, panel in enumerate(panels[row]):
            if column >= len(picks):
                panel.set_axis_off()
                continue
            pick = picks.iloc[column]
            block = blocks[pick["layer"], pick["pooling"]]
            values = block.matrix[:, block.places([pick["neuron"]])[0]].astype(float)
            _distribution(panel, values, labels, name, pick, random_state)
    return figure


def detector_changes(
    neurons: pd.DataFrame, ax: Axes | None = None, *, label: str | None = None
) -> Axes:
    """AUROC of every neuron on confirm images, before and after fine-tuning.

    Parameters
    ----------
    neurons : DataFrame
        ``Transfer.neurons``: ``class, neuron, auroc_before, auroc_after,
        confirmed_before, confirmed_after``.
    label : str, optional
        The class shown; by default all of them, of two classes the first, since the other is its
        mirror image.
    """
    classes = sorted(neurons["class"].astype(str).unique())
    if label is None and len(classes) == 2:
        label = classes[0]
    rows = neurons if label is None else neurons[neurons["class"].astype(str) == label]
    alive = rows.dropna(subset=["auroc_before", "auroc_after"])
    ax = new_axes(ax, 8, 5.2)
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    confirmed = list(zip(alive["confirmed_before"], alive["confirmed_after"], strict=True))
    for order, (state, (text, colour, marker)) in enumerate(_STATES.items(), start=2):
        mine = np.array([(bool(a), bool(b)) == state for a, b in confirmed], dtype=bool)
        if mine.any():
            ax.scatter(
                alive["auroc_before"][mine], alive["auroc_after"][mine], s=16, color=colour,
                marker=marker, alpha=0.6, linewidth=0, zorder=order, rasterized=True,
                label=f"{text} ({int(mine.sum()):,})",
            )  # fmt: skip
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_box_aspect(1)
    about = "all classes" if label is None else f"class {short_names([label])[0].strip()}"
    dress(
        ax,
        title=f"n = {plural(len(alive), 'neuron')}, {about}",
        xlabel="AUROC before, frozen network (confirm images)",
        ylabel="AUROC after fine-tuning (confirm images)",
        grid="both",
    )
    legend(ax, outside=True)
    return ax


def neuron_card(card: NeuronCard) -> Figure:
    """The images that drive a neuron, those that do not, and how it is distributed.

    Parameters
    ----------
    card : NeuronCard
    """
    columns = max(len(card.best), len(card.worst), 1)
    tall = max(2.4, 0.18 * len(card.facts) + 0.3)
    figure = Figure(figsize=(9, 4 + tall), layout="constrained")
    upper, lower = cast(Any, figure.subfigures(2, 1, height_ratios=(3.5, tall)))
    figure.suptitle(
        fitted_name(card.title, 8.7, 11, 120), fontsize=11, color=INK, x=0.01, ha="left"
    )
    panels = upper.subplots(2, columns, squeeze=False)
    # One scale for all pictures, so that a dark map means a silent neuron.
    top = _top(card.heats, card.signed)
    rows = (("most active", card.best, 0), ("least active", card.worst, len(card.best)))
    for line, (name, table, first) in enumerate(rows):
        for column, panel in enumerate(panels[line]):
            if column >= len(table):
                panel.set_axis_off()
                continue
            picture = card.pictures[first + column]
            _picture(panel, picture)
            if picture is not None:
                _overlay(panel, picture, card.heats[first + column], top, card.signed)
            entry = table.iloc[column]
            caption = f"{fitted_name(entry['label'], 1.2, 8)}, {entry['activation']:.2f}"
            panel.set_title(caption, fontsize=8, color=INK, pad=3)
        panels[line][0].set_ylabel(name, fontsize=8.5, color=MUTED, labelpad=6)
    _standing_scale(upper, panels, top, card.signed)
    histogram, text = lower.subplots(1, 2, width_ratios=(3, 2.5))
    _histogram(histogram, card)
    bare(text)
    facts = "\n".join(fitted_name(fact, 3.7, 8.5, 80) for fact in card.facts)
    text.text(0, 1, facts, fontsize=8.5, color=INK, va="top", linespacing=1.5)
    return figure


def _panel_height(labels: np.ndarray) -> float:
    boxes = len(np.unique(labels))
    return 1.15 + 0.3 * (boxes if boxes <= MAX_COLOURED else 2)


def _distribution(
    ax: Axes, values: np.ndarray, labels: np.ndarray, name: str, pick: pd.Series, random_state: int
) -> None:
    classes = sorted(set(labels.tolist()))
    names = short_names(classes, 16)
    groups = [labels == other for other in classes]
    target = classes.index(name) if name in classes else -1
    if len(classes) > MAX_COLOURED:
        groups, names, target = [labels == name, labels != name], [names[target], "all others"], 0
    rng = np.random.default_rng(random_state)
    for place, mask in enumerate(groups):
        colour = BLUE if place == target else MUTED
        points = values[mask]
        if len(points) == 0:
            continue
        some = points if len(points) <= 150 else rng.choice(points, 150, replace=False)
        jitter = place + rng.uniform(-0.22, 0.22, len(some))
        ax.scatter(some, jitter, s=6, color=colour, alpha=0.55, linewidth=0, rasterized=True)
        _box(ax, points, place)
    ax.set_yticks(
        range(len(groups)),
        [f"{text}\nn = {int(mask.sum()):,}" for text, mask in zip(names, groups, strict=True)],
    )
    ax.set_ylim(len(groups) - 0.45, -0.55)
    pooling = str(pick.get("pooling", "pooled"))
    dress(
        ax,
        title=f"neuron {int(pick['neuron'])}, for {fitted_name(name, 1.5, 9)}",
        xlabel=f"{pooling} activation (network units)",
        ylabel="",
        grid="x",
    )
    ax.title.set_fontsize(9)
    ax.tick_params(labelsize=8)


def _box(ax: Axes, values: np.ndarray, place: float) -> None:
    """Quartiles, and whiskers to the furthest image within 1.5 times their distance."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    near = values[np.abs(values - np.clip(values, low, high)) <= 1.5 * (high - low)]
    line: dict[str, Any] = {"colors": INK, "linewidth": 0.9}
    ax.hlines([place] * 2, [near.min(), high], [low, near.max()], **line)
    ax.vlines([near.min(), near.max()], place - 0.15, place + 0.15, **line)
    ax.add_patch(
        Rectangle((low, place - 0.3), high - low, 0.6, fill=False, edgecolor=INK, linewidth=0.9)
    )
    ax.vlines(middle, place - 0.3, place + 0.3, **(line | {"linewidth": 1.6}))


def _evidence(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """−log10 p, and which p are below 1e-300; those lie on one level above all others."""
    least = p < _LEAST_P
    height = np.zeros(len(p))
    height[~least] = -np.log10(p[~least])
    height[least] = 1.15 * max(height.max(initial=0), 2.0)
    return height, least


def _mark_top(ax: Axes, level: float, highest: float) -> None:
    """Name the level of the least p on the axis, whose numbers end below it."""
    ticks = [tick for tick in MaxNLocator(6).tick_values(0, highest) if 0 <= tick <= highest]
    names = [f"{tick:g}" for tick in ticks]
    ax.set_yticks([*ticks, level], [*names, f"p < {_LEAST_P:g}"])
    ax.set_ylim(top=1.04 * level)
    ax.axhline((level + highest) / 2, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))


def _groups(
    classes: Sequence[str], label: np.ndarray, drawn: np.ndarray
) -> list[tuple[str, np.ndarray, str]]:
    """Legend entries: one per class, or one for all where colours could not be told apart."""
    colours = class_colours(classes)
    if len(classes) > MAX_COLOURED:
        return [(f"any of {len(classes)} classes", drawn, colours[classes[0]])]
    names = short_names(classes)
    masks = [drawn & (label == name) for name in classes]
    return [
        (short, mask, colours[name])
        for name, short, mask in zip(classes, names, masks, strict=True)
        if mask.any()
    ]


def _cutoff_lines(ax: Axes, alpha: float | None, min_auroc: float | None) -> None:
    style: dict[str, Any] = {"color": MUTED, "linewidth": 1, "linestyle": (0, (4, 3))}
    cuts = []
    if alpha is not None:
        ax.axhline(-np.log10(float(alpha)), **style)
        cuts.append(f"p {float(alpha):g}")
    if min_auroc is not None:
        ax.axvline(float(min_auroc), **style)
        cuts.append(f"AUROC {float(min_auroc):g}")
    if cuts:
        ax.plot([], [], label=f"cut-off: {', '.join(cuts)}", **style)
    ax.axvline(0.5, color=FAINT, linewidth=1)


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
