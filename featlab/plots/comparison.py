"""Figures of several stores side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from featlab.plots._base import BLUE, INK, MUTED, dress, new_axes, plural, short_names
from featlab.plots.scores import _dots


def entry_scores(table: pd.DataFrame, score: str, xlabel: str, ax: Axes | None = None) -> Axes:
    """A score of every entry with its interval; baselines are hollow.

    Parameters
    ----------
    table : DataFrame
        ``name``, ``n`` (test images), ``baseline``, and `score` with ``_low`` and ``_high``.
    score : str
    xlabel : str
        What the score is, with its unit.
    """
    ax = _dots(ax, table, score, table["name"].tolist(), table["baseline"].to_numpy(bool))
    title = f"n = {plural(int(table['n'].max()), 'test image')}"
    return dress(ax, title=title, xlabel=xlabel, ylabel="network and layer", grid="x")


def detector_aurocs(
    detectors: pd.DataFrame,
    entries: Sequence[str],
    ax: Axes | None = None,
    *,
    random_state: int = 0,
) -> Axes:
    """AUROC on unseen images of the detectors of every entry; a bar marks the median.

    Parameters
    ----------
    detectors : DataFrame
        Neuron table of the detectors selected, after the confirmation: ``layer`` (the entry),
        ``auroc_confirmed``, ``replicated``.
    entries : sequence of str
        In the order to draw, from the top; an entry without detectors keeps an empty row.
    random_state : int
        Seed of the dots' vertical places.
    """
    rng = np.random.default_rng(random_state)
    ax = new_axes(ax, 7.4, 1.3 + 0.5 * len(entries))
    kept = detectors["replicated"].eq(True)
    for confirmed, colour, size, label in (
        (False, MUTED, 7, "selected, not confirmed"),
        (True, BLUE, 11, "confirmed"),
    ):
        rows = detectors[kept.eq(confirmed) & detectors["layer"].isin(list(entries))]
        y = rows["layer"].map({name: place for place, name in enumerate(entries)}).to_numpy(float)
        ax.scatter(
            rows["auroc_confirmed"], y + rng.uniform(-0.3, 0.3, len(rows)), s=size, color=colour,
            alpha=0.45, linewidths=0, rasterized=True, label=label,
        )  # fmt: skip
    for place, name in enumerate(entries):
        found = detectors[detectors["layer"].eq(name) & kept]
        if len(found):
            median = float(found["auroc_confirmed"].median())
            ax.plot([median, median], [place - 0.38, place + 0.38], color=INK, linewidth=2)
        ax.annotate(
            f"{len(found):,}", (1.0, place), (8, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", fontsize=8.5, color=INK,
        )  # fmt: skip
    ax.set_yticks(range(len(entries)), short_names(entries, 40))
    ax.set_ylim(len(entries) - 0.5, -0.5)
    ax.set_xlim(right=1.005)
    dress(
        ax,
        title=f"n = {plural(len(detectors), 'detector')}; bar: median of the confirmed, right: "
        "how many",
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
