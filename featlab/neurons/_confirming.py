"""Detectors judged on images they were not chosen on, and the choice of the best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.errors import FeatlabError
from featlab.intervals import wilson_interval
from featlab.neurons._clusters import clustered_auroc, clustered_p, scheme_of, units_of
from featlab.neurons._corrections import MULTIPLETESTS, adjust, check_correction
from featlab.neurons._inputs import (
    Block,
    Features,
    blocks_by_key,
    check_choice,
    encode,
    group_names,
)
from featlab.neurons._rank_statistics import Floats, auroc_interval, rank_statistics
from featlab.neurons._ranking import REST
from featlab.neurons._tests import mannwhitney_p
from featlab.neurons._weighted import checked_weights, one_sided_p, weighted_statistics
from featlab.system.scratch import pieces

DIRECTIONS = ("active", "silent", "both")


def confirm_neurons(
    table: pd.DataFrame,
    X: Features,
    y: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    alpha: float = 0.05,
    correction: str = "holm",
) -> pd.DataFrame:
    """Judge the detectors of a neuron table on images that were not used to choose them.

    The AUROC is measured anew and tested, one-sided (in the direction of the selection), with the
    Mann-Whitney test, whichever test chose the neuron. A detector that is constant on these images
    has an AUROC of 0.5 and p = 1: it stays in the family and does not replicate.

    Parameters
    ----------
    table : DataFrame
        From `rank_neurons`.
    X, y
        As in `rank_neurons`, for other images of the same classes.
    weights : array_like of shape (n,), optional
        As in `rank_neurons`; then the test is Brunner and Munzel's of the weighted sides. Not
        together with groups.
    groups : array_like of shape (n,), optional
        Groups of images that are not independent; "" is no group. Then the interval is that of
        clustered data, and the test takes the group as its unit: Student's t on the groups' mean
        ranks where each group has one class, van Elteren's stratified test where groups hold
        several. With few groups little can be confirmed, and that is so.
    alpha : float
        Bound of the corrected p-value, in (0, 1).
    correction : str
        A method of `statsmodels.stats.multitest.multipletests`, over the detectors only. With two
        classes, "active for one" and "silent for the other" are one test and count once.

    Returns
    -------
    DataFrame
        `table` and the columns ``auroc_confirmed``, ``auroc_confirmed_low``,
        ``auroc_confirmed_high`` (95 %), ``p_confirmed`` (corrected), ``replicated``
        (``p_confirmed`` <= `alpha`) and ``shrinkage``: how much of the selected effect was lost,
        in AUROC towards 0.5 and beyond; NaN and False in rows that are not detectors. ``attrs``
        gains ``confirm_correction``, ``confirm_alpha``, ``confirm_unit`` and ``n_confirm_tests``.

    Raises
    ------
    FeatlabError
        Labels, layers or neurons that differ from the table's, bad values in `X`, or weights
        together with groups.
    """
    check_correction(correction, alpha, MULTIPLETESTS)
    codes, classes = encode(y)
    known = sorted(set(table["class"]) | set(table["reference"]) - {REST})
    if classes != known:
        raise FeatlabError(f"y must hold the table's classes {known}, got {classes}.")
    blocks = blocks_by_key(table, X, y)
    names = group_names(groups, len(codes))
    grouped = bool((names != "").any())
    counted = None if weights is None else checked_weights(weights, codes)
    if grouped and counted is not None:
        raise FeatlabError("give weights or groups, not both: a group is weighted as one already.")
    judged = pd.DataFrame(np.nan, index=table.index, columns=["auroc", "low", "high", "p"])
    compared = ["layer", "pooling", "reference"]
    for (layer, pooling, reference), rows in table[table["detector"]].groupby(compared):
        block = blocks[str(layer), str(pooling)]
        for part, use, inside, compared_classes in _contrasts(rows, reference, codes, classes):
            if grouped:
                found = _judged_by_groups(block, part, use, inside, compared_classes, names[use])
            else:
                used = None if counted is None else counted[use]
                found = _judged(block, part, use, inside, compared_classes, used)
            judged.loc[part.index] = found
    sign = np.where(table["direction"] == "silent", -1.0, 1.0)
    result = table.assign(
        auroc_confirmed=judged["auroc"],
        auroc_confirmed_low=judged["low"],
        auroc_confirmed_high=judged["high"],
    )
    tested = _first_of_mirrored(result, len(classes))
    p = judged["p"].to_numpy()
    adjusted = adjust(
        np.where(tested.to_numpy() == np.arange(len(p)), p, np.nan), correction, alpha
    )
    result["p_confirmed"] = adjusted[tested]
    result["replicated"] = result["p_confirmed"] <= alpha
    result["shrinkage"] = sign * (table["auroc"] - result["auroc_confirmed"])
    result.attrs = {
        **table.attrs,
        "confirm_correction": correction,
        "confirm_alpha": float(alpha),
        "confirm_unit": scheme_of(codes, names) if grouped else "images",
        "n_confirm_tests": int((~np.isnan(adjusted)).sum()),
    }
    return result


def replication(table: pd.DataFrame) -> pd.DataFrame:
    """How many of the selected neurons held on other images, and what their effects lost.

    Parameters
    ----------
    table : DataFrame
        From `confirm_neurons`.

    Returns
    -------
    DataFrame
        class, direction, selected, replicated, rate, rate_low, rate_high (Wilson, 95 %, over the
        neurons), median_selected, median_confirmed (AUROC) and median_shrinkage; one row per class
        and direction that has any.

    Raises
    ------
    FeatlabError
        The table is not confirmed.
    """
    _check_confirmed(table)
    rows = []
    for (name, direction), part in table[table["detector"]].groupby(["class", "direction"]):
        held = int(part["replicated"].sum())
        rows.append(
            {
                "class": name,
                "direction": direction,
                "selected": len(part),
                "replicated": held,
                "rate": held / len(part),
                **dict(
                    zip(("rate_low", "rate_high"), wilson_interval(held, len(part)), strict=True)
                ),
                "median_selected": part["auroc"].median(),
                "median_confirmed": part["auroc_confirmed"].median(),
                "median_shrinkage": part["shrinkage"].median(),
            }
        )
    return pd.DataFrame(rows)


def select_neurons(
    table: pd.DataFrame,
    *,
    replicated: bool | None = None,
    direction: str = "active",
    top: int | None = None,
) -> pd.DataFrame:
    """Detectors of a neuron table, the best of each class first.

    Parameters
    ----------
    table : DataFrame
        From `rank_neurons` or `confirm_neurons`.
    replicated : bool, optional
        Whether to keep only the replicated ones; default: if the table says which those are.
    direction : {"active", "silent", "both"}
        Which way the neurons tell the class.
    top : int, optional
        At most so many per class, over all layers and poolings.

    Returns
    -------
    DataFrame
        Rows of `table`, sorted by class and by the effect they were chosen by (not the confirmed
        one, which stays an unbiased estimate because nothing is chosen by it), numbered anew.

    Raises
    ------
    FeatlabError
        `replicated` is asked for and the table is not confirmed; `top` is less than 1.
    """
    if top is not None and top < 1:
        raise FeatlabError(f"top must be at least 1, got {top}.")
    check_choice("direction", direction, DIRECTIONS)
    if replicated is None:
        replicated = "replicated" in table
    chosen = table[table["detector"]]
    if replicated:
        _check_confirmed(table)
        chosen = chosen[chosen["replicated"]]
    if direction != "both":
        chosen = chosen[chosen["direction"] == direction]
    chosen = chosen.assign(size=chosen["effect"].abs()).sort_values(
        ["class", "size", "p", "layer", "pooling", "reference", "neuron"],
        ascending=[True, False, True, True, True, True, True],
    )
    if top is not None:
        chosen = chosen.groupby("class", sort=False).head(top)
    return chosen.drop(columns="size").reset_index(drop=True)


def _check_confirmed(table: pd.DataFrame) -> None:
    if "replicated" not in table:
        raise FeatlabError("The neuron table has no 'replicated' column; run confirm_neurons.")


def _first_of_mirrored(table: pd.DataFrame, n_classes: int) -> pd.Series:
    """For each row the number of the row that stands for its test.

    Of two classes, one's active neuron is the other's silent one: the same images, the same order.
    """
    place = pd.Series(np.arange(len(table)), index=table.index)
    if n_classes == 2:
        chosen = table[table["detector"]]
        keys = [chosen[name] for name in ("layer", "pooling", "neuron")]
        place[chosen.index] = place[chosen.index].groupby(keys).transform("min")
    return place


def _contrasts(
    rows: pd.DataFrame, reference: Any, codes: NDArray[np.intp], classes: Sequence[Any]
) -> Iterator[tuple[pd.DataFrame, slice | NDArray[np.bool_], NDArray[np.intp], Sequence[Any]]]:
    """Rows of the table, the images they compare, those images' codes and what the codes mean."""
    if reference == REST:
        yield rows, slice(None), codes, classes
        return
    for name, part in rows.groupby("class"):
        pair = [classes.index(name), [str(c) for c in classes].index(str(reference))]
        use = np.isin(codes, pair)
        yield part, use, (codes[use] == pair[1]).astype(np.intp), [name, reference]


def _judged(
    block: Block,
    rows: pd.DataFrame,
    use: slice | NDArray[np.bool_],
    codes: NDArray[np.intp],
    classes: Sequence[Any],
    weights: Floats | None,
) -> Floats:
    """AUROC, low, high and one-sided p of the rows' neurons for the rows' classes; (rows, 4)."""
    columns, place = np.unique(_places(block, rows), return_inverse=True)
    code = pd.Index(classes).get_indexer(rows["class"])
    parts = [
        _measured(block.activations[:, columns[part]][use], codes, len(classes), weights)
        for part in pieces(len(columns), len(block.activations))
    ]
    silent = (rows["direction"] == "silent").to_numpy()[:, None]
    measured, opposite = (np.concatenate(side, axis=1) for side in zip(*parts, strict=True))
    return np.where(silent, opposite[code, place], measured[code, place])


def _measured(
    values: NDArray[Any], codes: NDArray[np.intp], k: int, weights: Floats | None
) -> tuple[Floats, Floats]:
    """AUROC, low, high and p of being larger, (k, m, 4); the same with p of being smaller."""
    if weights is None:
        ranks = rank_statistics(values, codes, k)
        p, p_less = (
            np.nan_to_num(mannwhitney_p(ranks, alternative=side), nan=1.0)
            for side in ("greater", "less")
        )
    else:
        ranks, _ = weighted_statistics(values, codes, k, weights)
        p, p_less = one_sided_p(ranks)
    low, high = auroc_interval(ranks)
    larger, smaller = (np.stack([ranks.auroc, low, high, sided], axis=-1) for sided in (p, p_less))
    return larger, smaller


def _judged_by_groups(
    block: Block,
    rows: pd.DataFrame,
    use: slice | NDArray[np.bool_],
    codes: NDArray[np.intp],
    classes: Sequence[Any],
    names: NDArray[np.str_],
) -> Floats:
    """As `_judged`, with the group as the unit of evidence."""
    places, measured = _places(block, rows), np.empty((len(rows), 4))
    for code, name in enumerate(classes):
        for silent in (False, True):
            mine = (
                (rows["class"] == name) & ((rows["direction"] == "silent") == silent)
            ).to_numpy()
            if not mine.any():
                continue
            inside, unit = codes == code, units_of(names)
            scheme = scheme_of(inside.astype(np.intp), names)
            columns, found = places[mine], []
            for part in pieces(len(columns), len(block.activations)):
                values = block.activations[:, columns[part]][use].astype(np.float64)
                auroc, low, high = clustered_auroc(values, inside, unit)
                p = clustered_p(-values if silent else values, inside, names, scheme)
                found.append(np.stack([auroc, low, high, p], axis=-1))
            measured[mine] = np.concatenate(found)
    return measured


def _places(block: Block, rows: pd.DataFrame) -> NDArray[np.intp]:
    """Columns of the block that hold the rows' neurons."""
    places = pd.Index(block.neurons).get_indexer(rows["neuron"])
    if (places < 0).any():
        raise FeatlabError(
            f"X has no neuron {rows['neuron'][places < 0].iloc[0]}, which the neuron table holds."
        )
    return places
