"""Detectors judged on images they were not chosen on, and the choice of the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab._errors import FeatlabError
from featlab.neurons._auroc import Floats, auroc_interval, mannwhitney_p, rank_statistics
from featlab.neurons._inputs import Block, Features, blocks_by_key, check_correction, encode
from featlab.neurons._ranking import adjust


def confirm_neurons(
    table: pd.DataFrame,
    X: Features,
    y: ArrayLike,
    *,
    alpha: float = 0.05,
    correction: str = "holm",
) -> pd.DataFrame:
    """Judge the detectors of a neuron table on images that were not used to choose them.

    The AUROC is measured anew and tested, one-sided (larger than 0.5), with the Mann-Whitney
    test, whichever test chose the neuron. A detector that is constant on these images has an AUROC
    of 0.5 and p = 1: it stays in the family and does not replicate.

    Parameters
    ----------
    table : DataFrame
        From `rank_neurons`.
    X, y
        As in `rank_neurons`, for other images of the same classes.
    alpha : float
        Bound of the corrected p-value, in (0, 1).
    correction : str
        A method of `statsmodels.stats.multitest.multipletests`, over the detectors only.

    Returns
    -------
    DataFrame
        `table` and the columns ``auroc_confirmed``, ``auroc_confirmed_low``,
        ``auroc_confirmed_high`` (95 %), ``p_confirmed`` (corrected) and ``replicated``
        (``p_confirmed`` <= `alpha`); NaN and False in rows that are not detectors. ``attrs`` gains
        ``confirm_correction``, ``confirm_alpha`` and ``n_confirm_tests``.

    Raises
    ------
    FeatlabError
        Labels, layers or neurons that differ from the table's, or bad values in `X`.
    """
    check_correction(correction, alpha)
    codes, classes = encode(y)
    known = sorted(set(table["class"]))
    if classes != known:
        raise FeatlabError(f"y must hold the table's classes {known}, got {classes}.")
    blocks = blocks_by_key(table, X, y)
    judged = pd.DataFrame(np.nan, index=table.index, columns=["auroc", "low", "high", "p"])
    for (layer, pooling), rows in table[table["detector"]].groupby(["layer", "pooling"]):
        block = blocks[str(layer), str(pooling)]
        judged.loc[rows.index] = _judged(block, rows, codes, classes)
    result = table.assign(
        auroc_confirmed=judged["auroc"],
        auroc_confirmed_low=judged["low"],
        auroc_confirmed_high=judged["high"],
        p_confirmed=adjust(judged["p"].to_numpy(), correction, alpha),
    )
    result["replicated"] = result["p_confirmed"] <= alpha
    result.attrs = {
        **table.attrs,
        "confirm_correction": correction,
        "confirm_alpha": float(alpha),
        "n_confirm_tests": int(judged["p"].notna().sum()),
    }
    return result


def select_neurons(
    table: pd.DataFrame, *, replicated: bool | None = None, top: int | None = None
) -> pd.DataFrame:
    """Detectors of a neuron table, the best of each class first.

    Parameters
    ----------
    table : DataFrame
        From `rank_neurons` or `confirm_neurons`.
    replicated : bool, optional
        Whether to keep only the replicated ones; default: if the table says which those are.
    top : int, optional
        At most so many per class, over all layers and poolings.

    Returns
    -------
    DataFrame
        Rows of `table`, sorted by class and by the AUROC they were chosen by (not the confirmed
        one, which stays an unbiased estimate because nothing is chosen by it), numbered anew.

    Raises
    ------
    FeatlabError
        `replicated` is asked for and the table is not confirmed; `top` is less than 1.
    """
    if top is not None and top < 1:
        raise FeatlabError(f"top must be at least 1, got {top}.")
    if replicated is None:
        replicated = "replicated" in table
    if replicated and "replicated" not in table:
        raise FeatlabError("The neuron table has no 'replicated' column; run confirm_neurons.")
    chosen = (
        table[table["detector"] & table["replicated"]] if replicated else table[table["detector"]]
    )
    chosen = chosen.sort_values(
        ["class", "auroc", "p", "layer", "pooling", "neuron"],
        ascending=[True, False, True, True, True, True],
    )
    if top is not None:
        chosen = chosen.groupby("class", sort=False).head(top)
    return chosen.reset_index(drop=True)


def _judged(
    block: Block, rows: pd.DataFrame, codes: NDArray[np.intp], classes: Sequence[Any]
) -> Floats:
    """AUROC, low, high and one-sided p of the rows' neurons for the rows' classes; (rows, 4)."""
    places = pd.Index(block.neurons).get_indexer(rows["neuron"])
    if (places < 0).any():
        raise FeatlabError(
            f"X has no neuron {rows['neuron'][places < 0].iloc[0]}, which the neuron table holds."
        )
    columns, place = np.unique(places, return_inverse=True)
    code = pd.Index(classes).get_indexer(rows["class"])
    ranks = rank_statistics(block.activations[:, columns], codes, len(classes))
    p = np.nan_to_num(mannwhitney_p(ranks, alternative="greater"), nan=1.0)
    measured = np.stack([ranks.auroc, *auroc_interval(ranks), p], axis=-1)
    return measured[code, place]
