"""Detectors judged on images they were not chosen on, and the same on labels that mean nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import (
    FeatureBlock,
    Features,
    blocks_of_neurons,
    check_classes_in_train,
    check_columns,
    check_whole,
    class_codes,
    feature_blocks,
    group_codes,
    group_names,
    has_groups,
    said,
    split_sides,
)
from featlab.errors import FeatlabError
from featlab.features import take_rows
from featlab.intervals import auroc_score_interval
from featlab.neurons._corrections import (
    MULTIPLETESTS,
    adjust,
    check_correction,
    permuted_codes,
)
from featlab.neurons._ranking import REST, rank_neurons
from featlab.neurons._tests import checked_weights, one_sided_p, weighted_statistics
from featlab.neurons.rank_statistics import (
    Floats,
    auroc_interval,
    clustered_auroc,
    rank_statistics,
)
from featlab.neurons.rank_tests import (
    FEW,
    WHOLE,
    grouped_p,
    mannwhitney_p,
    scheme_of,
    tested_scheme,
)
from featlab.results.analysis import Selection
from featlab.system.machine import pieces

_KEY = ["layer", "pooling", "class", "reference", "neuron"]
_MEASURED = 10  # AUROC, low, high, p; what auroc_score_interval needs: sizes, variances, units


def confirm_neurons(
    neurons: pd.DataFrame,
    X: Features,
    y: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    alpha: float = Selection.confirm_alpha,
    correction: str = Selection.confirm_correction,
) -> pd.DataFrame:
    """Judge the detectors of a neuron table on images that were not used to choose them.

    The AUROC is measured anew and tested, one-sided (in the direction of the selection), with the
    Mann-Whitney test, whichever test chose the neuron. A detector that is constant on these images
    has an AUROC of 0.5 and p = 1: it stays in the family and is not confirmed.

    Parameters
    ----------
    neurons : DataFrame
        From `rank_neurons`.
    X, y
        As in `rank_neurons`, for other images of the same classes.
    weights : array_like of shape (n,), optional
        As in `rank_neurons`; then the test is Brunner and Munzel's of the weighted sides. Not
        together with groups.
    groups : array_like of shape (n,), optional
        Groups of images that are not independent; "" is no group. Then the interval is that of
        clustered data, and the test takes the group as its unit: Mann and Whitney's on as many
        images of each group where groups have one class each, van Elteren's stratified test where
        they hold several. Where class or rest has fewer than five groups there is no p, and the row
        leaves the family.
    alpha : float
        Bound of the corrected p-value, in (0, 1].
    correction : str
        A method of `statsmodels.stats.multitest.multipletests`, over the detectors only. With two
        classes, "active for one" and "silent for the other" are one test and count once.

    Returns
    -------
    DataFrame
        `neurons` and the columns ``auroc_confirmed``, ``auroc_confirmed_low``,
        ``auroc_confirmed_high`` (95 %), ``p_confirmed`` (corrected), ``confirmed``
        (``p_confirmed`` <= `alpha`), ``auroc_adjusted_low`` and ``auroc_adjusted_high`` (see
        Notes; NaN where not confirmed) and ``shrinkage``: how much of the selected effect was
        lost, in AUROC towards 0.5 and beyond; NaN and False in rows that are not detectors.
        ``unit`` is the unit of evidence, of every row: "images", "whole groups", "images within
        groups" or, where there is no p, "too few groups". ``attrs`` repeats the parameters.

    Notes
    -----
    ``auroc_confirmed`` is an unbiased estimate, and its interval holds 95 times in 100, over all
    detectors of the table. Of the confirmed ones it is flattered: they were picked because it was
    large. ``auroc_adjusted_low`` and ``_high`` allow for that: of r confirmed among m tested,
    intervals of level 1 - 0.05 r / m miss at most 5 % of the r on average.

    References
    ----------
    Benjamini & Yekutieli (2005). False discovery rate-adjusted multiple confidence intervals for
    selected parameters. Journal of the American Statistical Association 100, 71-81.

    Raises
    ------
    FeatlabError
        Labels, layers or neurons that differ from the table's, a row that is there twice, bad
        values in `X`, or weights together with groups.
    """
    check_correction(correction, alpha, MULTIPLETESTS)
    codes, classes = class_codes(y, least=2)
    rows = _rows_to_judge(neurons, classes)
    blocks = blocks_of_neurons(rows, X, y, weights=weights, groups=groups)
    names = group_names(groups, len(codes))
    counted = None if weights is None else checked_weights(weights, codes)
    grouped = has_groups(group_codes(names, len(names)))
    if grouped and counted is not None:
        raise FeatlabError("give weights or groups, not both: a group is weighted as one already.")
    judged = np.full((len(rows), _MEASURED), np.nan)
    unit = _units(rows, codes, classes, names) if grouped else np.full(len(rows), "images")
    compared = ["layer", "pooling", "reference"]
    for (layer, pooling, reference), part in rows[rows["detector"]].groupby(compared):
        block = blocks[str(layer), str(pooling)]
        for some, use, inside, pair in _contrasts(part, str(reference), codes, classes):
            if grouped:
                schemes = unit[some.index]
                judged[some.index] = _judged_by_groups(
                    block, some, use, inside, pair, names[use], schemes
                )
            else:
                used = None if counted is None else counted[use]
                judged[some.index] = _judged(block, some, use, inside, pair, used)
    auroc, low, high, p = judged.T[:4]
    # Rows that are one test count once in the family, and share its p.
    first = _first_of_mirrored(rows, len(classes))
    family = np.where(first == np.arange(len(p)), p, np.nan)
    corrected = adjust(family, correction, alpha)[first]
    sign = np.where(rows["direction"] == "silent", -1.0, 1.0)
    result = neurons.assign(
        auroc_confirmed=auroc,
        auroc_confirmed_low=low,
        auroc_confirmed_high=high,
        p_confirmed=corrected,
        confirmed=corrected <= alpha,
        **_of_confirmed(judged, corrected, family, alpha),
        shrinkage=sign * (rows["auroc"].to_numpy() - auroc),
        unit=unit,
    )
    result.attrs = {
        **neurons.attrs,
        "confirm_correction": correction,
        "confirm_alpha": float(alpha),
        "confirm_unit": scheme_of(codes, names) if grouped else "images",
        "n_confirm_tests": int((~np.isnan(family)).sum()),
    }
    return result


def _rows_to_judge(table: pd.DataFrame, classes: NDArray[np.object_]) -> pd.DataFrame:
    """The rows of a neuron table numbered anew, each of them there once, of these classes."""
    check_columns(
        "the neuron table", table, [*_KEY, "detector", "direction", "auroc"],
        "give the result of rank_neurons",
    )  # fmt: skip
    rows = table.reset_index(drop=True)
    if rows.empty:
        raise FeatlabError("the neuron table has no rows; give all that rank_neurons returned.")
    repeated = rows[rows.duplicated(_KEY)]
    if len(repeated):
        first = ", ".join(f"{name} {said(repeated[name].iloc[0])}" for name in _KEY)
        raise FeatlabError(
            f"the neuron table holds {len(repeated)} rows twice ({first}); give each once, so that "
            "no test counts twice."
        )
    known = sorted({*rows["class"], *rows["reference"]} - {REST})
    if sorted(classes) != known:
        raise FeatlabError(f"y must hold the table's classes {known}, got {sorted(classes)}.")
    return rows


def _first_of_mirrored(rows: pd.DataFrame, n_classes: int) -> NDArray[np.intp]:
    """For each row the number of the row that stands for its test.

    Of two classes, one's active neuron is the other's silent one: the same images, the same order.
    """
    place = pd.Series(np.arange(len(rows)))
    if n_classes == 2:
        detectors = rows[rows["detector"]]
        keys = [detectors[name] for name in ("layer", "pooling", "neuron")]
        place[detectors.index] = place[detectors.index].groupby(keys).transform("min")
    return place.to_numpy(np.intp)


def _contrasts(
    rows: pd.DataFrame, reference: str, codes: NDArray[np.intp], classes: NDArray[np.object_]
) -> Iterator[tuple[pd.DataFrame, slice | NDArray[np.bool_], NDArray[np.intp], list[str]]]:
    """Rows of the table, the images they compare, those images' codes and what the codes mean."""
    names = classes.tolist()
    if reference == REST:
        yield rows, slice(None), codes, names
        return
    for name, part in rows.groupby("class"):
        pair = [names.index(name), names.index(reference)]
        use = np.isin(codes, pair)
        yield part, use, (codes[use] == pair[1]).astype(np.intp), [str(name), reference]


def _judged(
    block: FeatureBlock,
    rows: pd.DataFrame,
    use: slice | NDArray[np.bool_],
    codes: NDArray[np.intp],
    classes: list[str],
    weights: Floats | None,
) -> Floats:
    """AUROC, low, high, one-sided p and more of the rows' neurons; (rows, `_MEASURED`)."""
    columns, place = np.unique(block.places(rows["neuron"]), return_inverse=True)
    code = pd.Index(classes).get_indexer(pd.Index(rows["class"]))
    parts = [
        _measured(block.matrix[:, columns[part]][use], codes, len(classes), weights)
        for part in pieces(len(columns), len(block.matrix))
    ]
    silent = (rows["direction"] == "silent").to_numpy()[:, None]
    measured, opposite = (np.concatenate(side, axis=1) for side in zip(*parts, strict=True))
    return np.where(silent, opposite[code, place], measured[code, place])


def _measured(
    values: NDArray[Any], codes: NDArray[np.intp], k: int, weights: Floats | None
) -> tuple[Floats, Floats]:
    """What `_MEASURED` names with p of being larger, (k, m, 10); and with p of being smaller."""
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
    sizes = [np.broadcast_to(size, ranks.auroc.shape) for size in (ranks.n, ranks.n_ref)]
    more = [*sizes, ranks.variance_class, ranks.variance_rest, *sizes]
    larger, smaller = (
        np.stack([ranks.auroc, low, high, sided, *more], axis=-1) for sided in (p, p_less)
    )
    return larger, smaller


def _units(
    rows: pd.DataFrame, codes: NDArray[np.intp], classes: NDArray[np.object_], names: NDArray
) -> NDArray[np.object_]:
    """The unit of evidence of every row of the table, where images come in groups."""
    unit = np.full(len(rows), "", dtype=object)
    for reference, part in rows.groupby("reference"):
        for some, use, inside, pair in _contrasts(part, str(reference), codes, classes):
            known = {
                name: tested_scheme((inside != code).astype(np.intp), names[use])
                for code, name in enumerate(pair)
            }
            unit[some.index] = some["class"].map(known)
    return unit


def _judged_by_groups(
    block: FeatureBlock,
    rows: pd.DataFrame,
    use: slice | NDArray[np.bool_],
    codes: NDArray[np.intp],
    classes: list[str],
    names: NDArray[np.str_],
    schemes: NDArray[np.object_],
) -> Floats:
    """As `_judged`, with the group as the unit of evidence; `schemes` is that of every row."""
    places, unit = block.places(rows["neuron"]), group_codes(names, len(names))
    measured = np.empty((len(rows), _MEASURED))
    for (name, direction), part in rows.reset_index(drop=True).groupby(["class", "direction"]):
        mine, inside = part.index.to_numpy(), codes == classes.index(str(name))
        columns, scheme, parts = places[mine], schemes[mine[0]], []
        for some in pieces(len(columns), len(block.matrix)):
            values = block.matrix[:, columns[some]][use].astype(np.float64)
            areas = clustered_auroc(values, inside, unit)
            p = np.full(values.shape[1], np.nan)
            if scheme != FEW:
                way = "less" if direction == "silent" else "greater"
                outside = (~inside).astype(np.intp)
                p = grouped_p(values, outside, names, scheme=scheme, alternative=way)[0]
                p = np.nan_to_num(p, nan=1.0)
            units = [np.full(len(p), size) for size in areas.units]
            more = [areas.n, areas.n_ref, *areas.variances, *units]
            parts.append(np.stack([areas.auroc, *areas.limits(), p, *more], axis=-1))
        measured[mine] = np.concatenate(parts)
    return measured


def _of_confirmed(judged: Floats, p: Floats, family: Floats, alpha: float) -> dict[str, Floats]:
    """Intervals of the confirmed rows that allow for having been picked: two columns."""
    held = p <= alpha
    ends = np.full((2, len(p)), np.nan)
    if held.any():
        tested = ~np.isnan(family)
        miss = 0.05 * (held & tested).sum() / tested.sum()
        rows = judged[held]
        ends[:, held] = auroc_score_interval(
            rows[:, 0],
            *rows[:, 4:6].T,
            variances=(rows[:, 6], rows[:, 7]),
            units=(rows[:, 8], rows[:, 9]),
            level=1 - miss,
        )
    return {"auroc_adjusted_low": ends[0], "auroc_adjusted_high": ends[1]}


def null_selection(
    X: Features,
    y: ArrayLike,
    split: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_repeats: int = 20,
    random_state: int = 0,
    **parameters: Any,
) -> pd.DataFrame:
    """Select and confirm on shuffled labels, over and over.

    The labels are shuffled on each side of the split by itself (within groups, as in "max_t"), so
    that selection and confirmation both run on labels that have nothing to do with the pictures,
    and every class keeps its number of images on both. Where groups have one class each, a group
    keeps its label and its size, and takes its images from another, a random one. To swap labels
    would let the sizes go along, and hide a test that goes wrong where sizes go with the class.

    Parameters
    ----------
    X, y
        As in `rank_neurons`, for all images.
    split : array_like of shape (n,)
        "train", "confirm" or "test"; selection uses train, confirmation confirm.
    groups : array_like of shape (n,), optional
        Images of one non-empty group are not exchangeable.
    n_repeats : int
        Number of shuffles.
    random_state : int
        Seed.
    **parameters
        Of `rank_neurons`, as in the real run.

    Returns
    -------
    DataFrame
        One row per shuffle: repeat, rejected (rows of the table with a corrected p of at most
        alpha), selected, confirmed, best_selected and best_confirmed (the largest distance of an
        AUROC from 0.5 among all neurons on train, and that neuron's on confirm).

    Raises
    ------
    FeatlabError
        As for `rank_neurons`.
    """
    check_whole("n_repeats", n_repeats, 1)
    feature_blocks(X, y, split=split, groups=groups)
    codes, classes = class_codes(y, least=2)
    sides = split_sides(split, len(codes))
    tables = list(X) if isinstance(X, (list, tuple)) else [X]
    frames = [t if isinstance(t, pd.DataFrame) else pd.DataFrame(np.asarray(t)) for t in tables]
    train, confirm = np.flatnonzero(sides == "train"), np.flatnonzero(sides == "confirm")
    check_classes_in_train(codes[train], classes)
    names = group_names(groups, len(codes))
    shuffles = np.tile(codes, (n_repeats, 1))
    sources = np.tile(np.arange(len(codes)), (n_repeats, 1))
    for place, side in enumerate((train, confirm)):
        seed = random_state * 2 + place
        grouped = bool((names[side] != "").any())
        if grouped and scheme_of(codes[side], names[side]) == WHOLE:
            rng = np.random.default_rng(seed)
            sources[:, side] = [side[_other_contents(names[side], rng)] for _ in range(n_repeats)]
        else:
            shuffles[:, side] = permuted_codes(codes[side], names[side], n_repeats, seed)
    rows = []
    for repeat, shuffled in enumerate(shuffles):
        labels = classes[shuffled]
        sides_of = [
            [take_rows(frame, sources[repeat, part]) for frame in frames]
            for part in (train, confirm)
        ]
        table = rank_neurons(sides_of[0], labels[train], groups=names[train], **parameters)
        table = confirm_neurons(table, sides_of[1], labels[confirm], groups=names[confirm])
        # The best neuron of all, whether or not it was selected, shows the regression to chance.
        place = int(np.nanargmax(table["effect"].abs()))
        strongest = table.assign(detector=np.arange(len(table)) == place)
        best = confirm_neurons(strongest, sides_of[1], labels[confirm]).iloc[place]
        sign = np.sign(best["auroc"] - 0.5)
        rows.append(
            {
                "repeat": repeat,
                "rejected": int(table["reject"].sum()),
                "selected": int(table["detector"].sum()),
                "confirmed": int(table["confirmed"].sum()),
                "best_selected": sign * (best["auroc"] - 0.5),
                "best_confirmed": sign * (best["auroc_confirmed"] - 0.5),
            }
        )
    return pd.DataFrame(rows)


def _other_contents(names: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.intp]:
    """For every row the row whose image it takes: every group's from a random one, each used once.

    A small group takes a few images of a large one, a large one those of a small one repeatedly.
    """
    unit = group_codes(names, len(names))
    rows = [np.flatnonzero(unit == group) for group in range(int(unit.max()) + 1)]
    source = np.empty(len(unit), dtype=np.intp)
    for own, other in zip(rows, rng.permutation(len(rows)), strict=True):
        source[own] = np.resize(rng.permutation(rows[other]), len(own))
    return source
