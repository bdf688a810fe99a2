"""One page on one neuron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featlab.plots._base import BLUE, INK, MUTED, bare, class_colours, dress, fitted_name, legend
from featlab.plots.pictures import _overlay, _picture
from featlab.results.pictures import NeuronCard

_BINS = 24


def neuron_card(card: NeuronCard) -> Figure:
    """The images that drive a neuron, those that do not, and how it is distributed.

    Parameters
    ----------
    card : NeuronCard
    """
    columns = max(len(card.best), len(card.worst), 1)
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    upper, lower = cast(Any, figure.subfigures(2, 1, height_ratios=(3.5, 2.4)))
    figure.suptitle(
        fitted_name(card.title, 8.7, 11, 120), fontsize=11, color=INK, x=0.01, ha="left"
    )
    panels = upper.subplots(2, columns, squeeze=False)
    # One scale for all pictures, so that a dark map means a silent neuron.
    top = max((float(heat.max(initial=0)) for heat in card.heats), default=0.0)
    rows = (("most active", card.best, 0), ("least active", card.worst, len(card.best)))
    for line, (name, table, first) in enumerate(rows):
        for column, panel in enumerate(panels[line]):
            if column >= len(table):
                panel.set_axis_off()
                continue
            picture = card.pictures[first + column]
            _picture(panel, picture)
            if picture is not None:
                _overlay(panel, picture, card.heats[first + column], top)
            entry = table.iloc[column]
            caption = f"{fitted_name(entry['label'], 1.2, 8)}, {entry['activation']:.2f}"
            panel.set_title(caption, fontsize=8, color=INK, pad=3)
        panels[line][0].set_ylabel(name, fontsize=8.5, color=MUTED, labelpad=6)
    histogram, text = lower.subplots(1, 2, width_ratios=(3, 2.5))
    _histogram(histogram, card)
    bare(text)
    facts = "\n".join(fitted_name(fact, 3.7, 8.5, 80) for fact in card.facts)
    text.text(0, 1, facts, fontsize=8.5, color=INK, va="top", linespacing=1.5)
    return figure


def _histogram(ax: Axes, card: NeuronCard) -> None:
    classes: Sequence[str] = sorted(set(card.labels.tolist()))
    colours = class_colours(classes)
    most = max(float(card.activations.max()), 1e-6)
    edges = np.linspace(float(card.activations.min()), most, _BINS + 1).tolist()
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
