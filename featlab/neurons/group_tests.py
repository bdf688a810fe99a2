"""Tests of two classes where images come in groups, and with which groups they can be made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import rankdata

from featlab.arguments import group_codes
from featlab.neurons.rank_statistics import (
    Floats,
    Moments,
    RankStatistics,
    moments,
    rank_statistics,
    tie_bounds,
)
from featlab.neurons.rank_tests import FEWEST, are_few, mannwhitney_p, normal_z
from featlab.system.machine import pieces

WHOLE, WITHIN, FEW = "whole groups", "images within groups", "too few groups"
LEAST_GROUPS = 5
"""Groups of the class, and of the rest, below which no p is given."""

Draw = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Rows ``(units, m)`` and the units' class codes."""
PairTest = Callable[[RankStatistics, Moments], Floats]

_DRAWS = 10
_LIKENESS = 0.3
_NEARLY_ALL = 0.8
_PERMUTATIONS, _AT_ONCE = 10_000, 500


def scheme_of(codes: NDArray[np.intp], names: NDArray[np.str_]) -> str:
    """What may be exchanged: whole groups, or images within groups; what tells more.

    Where each group has one class that is whole groups. Where a few hold several (a copy under
    another name) they are left out; where many do (a session of all classes) the groups are strata.
    """
    _, first, is_whole = whole_groups(codes, names)
    whole = _pairs(codes[first[is_whole]])
    within = sum(_pairs(codes[rows]) for rows in rows_of_groups(names))
    return WHOLE if whole >= within else WITHIN


def whole_groups(
    codes: NDArray[np.intp], names: NDArray[np.str_]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Group number of every row, the first row of every group, and whether it has one class."""
    unit = group_codes(names, len(names))
    first = np.unique(unit, return_index=True)[1]
    return unit, first, np.bincount(unit, codes != codes[first][unit]) == 0


def _pairs(codes: NDArray[np.intp]) -> float:
    """Pairs of different classes for each image: a measure of what a comparison tells."""
    count = np.bincount(codes)
    return float((count * (count.sum() - count)).sum()) / max(len(codes), 1)


def rows_of_groups(names: NDArray[np.str_]) -> list[NDArray[np.intp]]:
    """The rows of every group, groups in the order of their names."""
    order = np.argsort(names, kind="stable")
    _, first = np.unique(names[order], return_index=True)
    return np.split(order, first[1:])


def grouped_p(
    values: NDArray,
    codes: NDArray[np.intp],
    names: NDArray[np.str_],
    *,
    scheme: str | None = None,
    alternative: str = "two-sided",
    test: PairTest | None = None,
) -> Floats:
    """P of every class against the rest, and column, with the group as the unit.

    Whole groups: Mann and Whitney's test of the groups' mean ranks in a draw of `group_draws`.
    Several draws are put together by their mean z, whose variance is at most one (so p is, if
    anything, too large) [1]_; where a draw's p is counted one by one, by twice the mean p, which
    holds however the draws depend on each other [2]_.
    Images within groups: van Elteren's stratified Wilcoxon test [3]_, the group being the stratum;
    by permutation where fewer than `FEWEST` images that are not tied with most are to be expected
    on a side.

    Parameters
    ----------
    values : ndarray of shape (n, c)
    codes : ndarray of shape (n,)
        Class codes 0 to k - 1, each of them there.
    names : ndarray of shape (n,)
        Groups; "" is an image by itself (whole groups) or one common stratum (within).
    scheme : {`WHOLE`, `WITHIN`}, optional
        That of :func:`scheme_of` by default.
    alternative : {"two-sided", "greater", "less"}
    test : callable, optional
        P (two-sided) of another test, of the rank statistics and moments of whole groups' means;
        several draws are put together by twice their mean p.

    Returns
    -------
    ndarray of shape (k, c)
        NaN for a constant column, and where a class or the rest has fewer than `LEAST_GROUPS` whole
        groups.

    References
    ----------
    .. [1] Hoffman, Sen & Weinberg (2001). Within-cluster resampling. Biometrika 88, 1121-1134;
       Datta & Satten (2005). Rank-sum tests for clustered data. JASA 100, 908-915.
    .. [2] Vovk & Wang (2020). Combining p-values via averaging. Biometrika 107, 791-808.
    .. [3] van Elteren (1960). On the combination of independent two-sample tests of Wilcoxon.
       Bulletin of the International Statistical Institute 37, 351-361.
    """
    whole = (scheme_of(codes, names) if scheme is None else scheme) == WHOLE
    k, c = int(codes.max()) + 1, values.shape[1]
    draws = group_draws(codes, names) if whole else []
    if not draws and (whole or test is not None):
        return np.full((k, c), np.nan)
    parts = []
    for part in pieces(c, len(values)):
        if test is not None:
            parts.append(_mean_p(values[:, part], draws, k, test))
            continue
        some = values[:, part]
        tails = _whole_groups_tails(some, draws, k) if whole else _strata_tails(some, codes, names)
        two_sided = 2 * np.minimum(*tails)
        parts.append({"two-sided": two_sided, "greater": tails[0], "less": tails[1]}[alternative])
    p = np.minimum(np.concatenate(parts, axis=1), 1.0)
    if whole:
        p[~enough_groups(np.bincount(draws[0][1], minlength=k))] = np.nan
    return p


def _mean_p(values: NDArray, draws: list[Draw], k: int, test: PairTest) -> Floats:
    """Twice the mean p over the draws, or the p of a single one; (k, c)."""
    each = []
    for rows, of_unit in draws:
        means = values[rows].mean(axis=1)
        each.append(test(rank_statistics(means, of_unit, k), moments(means, of_unit, k)))
    return each[0] if len(each) == 1 else 2 * np.mean(each, axis=0)


def group_draws(codes: NDArray[np.intp], names: NDArray[np.str_]) -> list[Draw]:
    """As many random images of each whole group, again and again.

    Groups that know nothing of their class are then exchangeable, even where their sizes go with
    it. The number of images is the one that tells most, by the groups' sizes and classes alone: the
    more, the surer each mean and the fewer groups that have them; for an intraclass correlation of
    `_LIKENESS`. Smaller groups and those of several classes are left out. The draws go through
    every group in turn, so that a few of them use all images; where one holds nearly all, as among
    single images with a few copies, it is the only one.

    Returns
    -------
    list of (rows, codes)
        Rows ``(units, m)`` and the units' class codes, at most `_DRAWS` times; empty where no class
        and its rest have `LEAST_GROUPS` each.
    """
    unit, first, pure = whole_groups(codes, names)
    sizes, of_unit, k = np.bincount(unit), codes[first], int(codes.max()) + 1
    best, m = 0.0, 0
    for size in np.unique(sizes[pure]):
        count = np.bincount(of_unit[pure & (sizes >= size)], minlength=k)
        pairs = np.where(enough_groups(count), count * (count.sum() - count), 0).sum()
        told = pairs / max(count.sum(), 1) / (_LIKENESS + (1 - _LIKENESS) / size)
        if told > best:
            best, m = told, int(size)
    if not m:
        return []
    kept = np.flatnonzero(pure & (sizes >= m))
    rng, start = np.random.default_rng(0), np.cumsum(sizes) - sizes
    order = np.lexsort((rng.random(len(unit)), unit))
    n_draws = min(int(np.ceil(sizes[kept].max() / m)), _DRAWS)
    if len(kept) * m >= _NEARLY_ALL * sizes[kept].sum():
        n_draws = 1
    places = [(draw * m + np.arange(m)) % sizes[kept, None] for draw in range(n_draws)]
    return [(order[start[kept, None] + place], of_unit[kept]) for place in places]


def enough_groups(count: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether each class and its rest have so many groups that they are compared."""
    return np.minimum(count, count.sum() - count) >= LEAST_GROUPS


def tested_scheme(codes: NDArray[np.intp], names: NDArray[np.str_]) -> str:
    """That of :func:`scheme_of`, or `FEW` where there are too few groups for a p."""
    scheme = scheme_of(codes, names)
    return FEW if scheme == WHOLE and not group_draws(codes, names) else scheme


def _whole_groups_tails(values: NDArray, draws: list[Draw], k: int) -> tuple[Floats, Floats]:
    """P of "greater" and of "less", (k, c)."""
    # Of single images the mean rank is in the order of the values.
    ranks = values if draws[0][0].shape[1] == 1 else rankdata(values, axis=0)
    compared = [rank_statistics(ranks[rows].mean(axis=1), of_unit, k) for rows, of_unit in draws]
    if len(draws) == 1:
        greater, less = (mannwhitney_p(compared[0], alternative=a) for a in ("greater", "less"))
        return greater, less
    counted = np.logical_or.reduce([are_few(statistics) for statistics in compared])
    tails = []
    for way in ("greater", "less"):
        z = np.mean([normal_z(statistics)[way == "less"] for statistics in compared], axis=0)
        p = ndtr(-z)
        if counted.any():
            each = [mannwhitney_p(statistics, alternative=way) for statistics in compared]
            # A draw in which a neuron is constant shows nothing.
            twice = 2 * np.nan_to_num(np.stack(each), nan=1.0).mean(axis=0)
            p = np.where(counted, np.minimum(twice, 1.0), p)
        tails.append(np.where(np.ptp(values, axis=0) > 0, p, np.nan))
    return tails[0], tails[1]


def _strata_tails(
    values: NDArray, codes: NDArray[np.intp], names: NDArray[np.str_]
) -> tuple[Floats, Floats]:
    """P of "greater" and of "less" of van Elteren's test, (k, c)."""
    k, c = int(codes.max()) + 1, values.shape[1]
    members = (codes == np.arange(k)[:, None]).astype(np.float64)
    strata = [rows for rows in rows_of_groups(names) if len(set(codes[rows].tolist())) > 1]
    scores, variance, expected = np.zeros((len(values), c)), np.zeros((k, c)), np.zeros((k, c))
    for rows in strata:
        ranks = rankdata(values[rows], axis=0) - (len(rows) + 1) / 2
        scores[rows] = ranks / (len(rows) + 1)
        n, total = members[:, rows].sum(axis=1)[:, None], len(rows)
        variance += n * (total - n) / (total * (total - 1)) * (scores[rows] ** 2).sum(axis=0)
        expected += np.minimum(n, total - n) * (1 - _commonest(values[rows]) / total)
    excess = members @ scores
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(variance > 0, excess / np.sqrt(variance), np.nan)
    tails = ndtr(-z), ndtr(z)
    few = ((expected < FEWEST) & (variance > 0)).any(axis=0)
    if few.any():
        permuted = _permuted_tails(scores[:, few], excess[:, few], codes, strata)
        for tail, p in zip(tails, permuted, strict=True):
            tail[:, few] = np.where(np.isnan(z[:, few]), np.nan, p)
    return tails


def _permuted_tails(
    scores: Floats, excess: Floats, codes: NDArray[np.intp], strata: list[NDArray[np.intp]]
) -> tuple[Floats, Floats]:
    """Shares of `_PERMUTATIONS` permutations within strata that reach the excess, (k, c)."""
    rng, reached = np.random.default_rng(0), np.ones((2, *excess.shape))
    for _ in range(0, _PERMUTATIONS, _AT_ONCE):
        permuted = np.tile(codes, (_AT_ONCE, 1))
        for rows in strata:
            permuted[:, rows] = rng.permuted(permuted[:, rows], axis=1)
        for code, seen in enumerate(excess):
            sums = (permuted == code).astype(np.float64) @ scores
            reached[0, code] += (sums >= seen - 1e-9).sum(axis=0)
            reached[1, code] += (sums <= seen + 1e-9).sum(axis=0)
    reached /= 1 + _PERMUTATIONS
    return reached[0], reached[1]


def _commonest(values: NDArray) -> NDArray[np.intp]:
    """How many rows share the commonest value of each column."""
    start, end = tie_bounds(np.sort(values, axis=0).T)
    return (end - start).max(axis=1)
