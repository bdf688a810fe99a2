"""Tests of two classes for many columns at once: exact where few images decide; over groups.

`mannwhitney_p` compares images, `grouped_p` whole groups or images within groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr
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
from featlab.system.machine import pieces

FEWEST = 10
"""Images of a side from which on a normal distribution is near enough that of a rank sum."""

_FEW_IN_ALL = 50
_LARGEST_TABLE = 2000
_TERMS_AT_ONCE = 2**16


def mannwhitney_p(statistics: RankStatistics, *, alternative: str = "two-sided") -> Floats:
    """P-values of Mann and Whitney's U: exact where few images, or few distinct values, decide.

    With at least `FEWEST` images on both sides and no smallest (or largest) value that more than
    half of the images share, the normal approximation, corrected for ties and continuity; also
    where they share a value between others, if at least `FEWEST` images of either side are expected
    to have another one. Else, and without ties for
    up to 50 images in all (where the normal tail is too heavy), the distribution under
    exchange of the labels: how many images of the class share the smallest (or largest) value is
    hypergeometric; given that, the ranks of the others are those of a random draw. Their U is
    counted one by one, or normal where draw and remainder both hold `FEWEST`. Ties among the
    others are broken against the finding, so that p is then an upper bound.

    Parameters
    ----------
    statistics : RankStatistics
    alternative : {"two-sided", "greater", "less"}
        "two-sided" doubles the smaller of the other two.

    Returns
    -------
    ndarray of shape (k, c)
        In [0, 1]; NaN for a constant column. As `scipy.stats.mannwhitneyu` with
        ``method="asymptotic"``, or, without ties, ``method="exact"``.

    References
    ----------
    Mann & Whitney (1947). On a test of whether one of two random variables is stochastically larger
    than the other. Annals of Mathematical Statistics 18, 50-60 (the recursion of the counts).
    """
    greater, less = _mannwhitney_tails(statistics)
    return {"greater": greater, "less": less}.get(
        alternative, np.minimum(2 * np.minimum(greater, less), 1.0)
    )


def _mannwhitney_tails(statistics: RankStatistics) -> tuple[Floats, Floats]:
    """P of "greater" and of "less", (k, c); NaN for a constant column."""
    greater, less = (ndtr(-z) for z in normal_z(statistics))
    constant = np.isnan(greater)
    few = are_few(statistics)
    if len(few) == 2:  # one is the other's rest
        few[1] = False
    if few.any():
        greater[few], less[few] = _exact_tails(statistics, few)
        if len(few) == 2:
            greater[1, few[0]], less[1, few[0]] = less[0, few[0]], greater[0, few[0]]
    greater, less = (np.where(constant, np.nan, np.minimum(tail, 1.0)) for tail in (greater, less))
    return greater, less


def are_few(statistics: RankStatistics) -> NDArray[np.bool_]:
    """Whether the normal tail does not hold; (k, c)."""
    total, side = statistics.n + statistics.n_ref, np.minimum(statistics.n, statistics.n_ref)
    untied = (total <= _FEW_IN_ALL) & (statistics.tied == 0)
    sparse = np.abs(statistics.end_tie) > total / 2
    common = statistics.largest_tie
    rare = (common > total / 2) & (side * (total - common) < FEWEST * total)
    return (side < FEWEST) | sparse | rare | untied


def normal_z(statistics: RankStatistics) -> tuple[Floats, Floats]:
    """How far U lies above, and below, what is expected; (k, c), NaN for a constant column."""
    n, n_ref = statistics.n, statistics.n_ref
    total = n + n_ref
    excess = statistics.u - n * n_ref / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(n * n_ref / 12 * (total + 1 - statistics.ties / (total * (total - 1))))
        spread = np.where(spread > 0, spread, np.nan)
        return (excess - 0.5) / spread, (-excess - 0.5) / spread


def _exact_tails(statistics: RankStatistics, few: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """P of a U at least, and at most, as large as that of some (class, column); two (m,)."""
    fields_of = ("u", "tied", "end_tie", "n", "n_ref", "ties")
    u, tied, tie, n, n_ref, ties = (
        np.broadcast_to(getattr(statistics, name), few.shape)[few] for name in fields_of
    )
    total, is_low, t = n + n_ref, tie > 0, np.abs(tie)
    others = total - t
    # From above the largest value is the smallest.
    u = np.where(is_low, u, n * n_ref - u)
    constant = ties == t**3 - t + others**3 - others
    slack = np.where(constant, 0, tied / 2)
    at_least, at_most = np.zeros_like(u), np.zeros_like(u)
    tables = _Tables(others)
    factorials = gammaln(np.arange(total.max() + 1) + 1)

    def log_choose(of: Floats, k: Floats | int) -> Floats:
        a, b = of.astype(np.intp), np.asarray(k, dtype=np.intp)
        return factorials[a] - factorials[b] - factorials[a - b]

    ways = log_choose(total, n)
    least, most = np.maximum(n - t, 0).astype(np.intp), np.minimum(n, others).astype(np.intp)
    for part in _of_few_terms(most - least + 1):
        # One term for each number of the class's images that do not share the value, in order.
        terms = most[part] - least[part] + 1
        place = np.repeat(np.arange(part.start, part.stop), terms)
        begin = np.repeat(np.cumsum(terms) - terms, terms)
        k = least[place] + np.arange(len(place)) - begin
        f, left, drawn = others[place], t[place] - n[place] + k, n[place]
        chance = np.exp(log_choose(f, k) + log_choose(t[place], drawn - k) - ways[place])
        above = u[place] - left * (drawn + k) / 2  # less what the k win over those that are tied
        pairs, equal = k * (f - k), constant[place]
        for tail, bound in ((at_least, above), (at_most, pairs - above)):
            reached = tables.tail(k, f, bound - slack[place])
            share = chance * np.where(equal, bound <= pairs / 2, reached)
            tail[part] = np.bincount(place - part.start, share, part.stop - part.start)
    return np.where(is_low, at_least, at_most), np.where(is_low, at_most, at_least)


def _of_few_terms(terms: NDArray[np.intp]) -> Iterator[slice]:
    """Slices of columns with so many terms in all that they fit in the cache, or one column."""
    ends, start = np.cumsum(terms), 0
    while start < len(terms):
        before = ends[start] - terms[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + _TERMS_AT_ONCE, side="right")))
        yield slice(start, stop)
        start = stop


class _Tables:
    """Tails of U for k of f images without ties, of all k and f that some columns ask for."""

    def __init__(self, others: Floats) -> None:
        small = others[others <= _LARGEST_TABLE].astype(np.intp)
        self.sizes = np.unique(small)
        most = int(self.sizes.max(initial=0))
        deepest = max(FEWEST - 1, min(most, _FEW_IN_ALL) // 2)
        self.start = np.zeros((deepest + 1, most + 1), dtype=np.intp)
        reach = [most if m < FEWEST else min(most, _FEW_IN_ALL) for m in range(deepest + 1)]
        counts = [np.zeros(m * max(reach[m] - m, 0) + 1) for m in range(deepest + 1)]
        counts[0][:] = 1
        parts, length, wanted = [], 0, set(self.sizes.tolist())
        for f in range(1, most + 1):
            for m in range(min(deepest if f <= _FEW_IN_ALL else FEWEST - 1, f), 0, -1):
                # The largest of f is among the m, and wins over all f - m others, or is not.
                rest = f - m
                counts[m][rest : m * rest + 1] += counts[m - 1][: (m - 1) * rest + 1]
                if f in wanted and 2 * m <= f:
                    self.start[m, f] = length
                    tail = np.cumsum(counts[m][m * rest :: -1])[::-1]
                    parts.append(tail / tail[0])
                    length += len(tail)
        self.flat = np.concatenate([*parts, np.ones(1)])

    def tail(self, k: NDArray[np.intp], f: Floats, bound: Floats) -> Floats:
        """P(U >= bound) for k of f images; all of one shape."""
        m, pairs = np.minimum(k, f - k), k * (f - k)
        spread = np.sqrt(pairs * (f + 1) / 12)
        with np.errstate(divide="ignore", invalid="ignore"):
            p = ndtr((0.5 - bound + pairs / 2) / spread)
        listed = ((m < FEWEST) & (f <= _LARGEST_TABLE) | (f <= _FEW_IN_ALL)) & (m > 0)
        least = np.ceil(bound - 1e-9)
        inside = np.clip(least, 0, pairs)[listed].astype(np.intp)
        starts = self.start[m[listed].astype(np.intp), f[listed].astype(np.intp)]
        p[listed] = self.flat[starts + inside]
        p = np.where((m == 1) & ~listed, 1 - least / np.maximum(f, 1), p)
        return np.where(least <= 0, 1.0, np.where(least > pairs, 0.0, p))


# ------------------------------------------------------------------------ images in groups

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
    Images without a group are whole ones, and no sign of strata.
    """
    _, first, is_whole = whole_groups(codes, names)
    whole = _pairs(codes[first[is_whole]])
    within = sum(_pairs(codes[rows]) for rows in rows_of_groups(names) if names[rows[0]] != "")
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
        information = pairs / max(count.sum(), 1) / (_LIKENESS + (1 - _LIKENESS) / size)
        if information > best:
            best, m = information, int(size)
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
        return _mannwhitney_tails(compared[0])
    counted = np.logical_or.reduce([are_few(statistics) for statistics in compared])
    each = [_mannwhitney_tails(one) for one in compared] if counted.any() else []
    tails = []
    for way in range(2):
        z = np.mean([normal_z(statistics)[way] for statistics in compared], axis=0)
        p = ndtr(-z)
        if each:
            # A draw in which a neuron is constant shows nothing.
            of_draws = np.stack([both[way] for both in each])
            twice = 2 * np.nan_to_num(of_draws, nan=1.0).mean(axis=0)
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
        z = excess / np.sqrt(variance)  # 0 / 0 of a constant column
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
        permuted = permuted_within(strata, codes, _AT_ONCE, rng)
        for code, seen in enumerate(excess):
            sums = (permuted == code).astype(np.float64) @ scores
            reached[0, code] += (sums >= seen - 1e-9).sum(axis=0)
            reached[1, code] += (sums <= seen + 1e-9).sum(axis=0)
    reached /= 1 + _PERMUTATIONS
    return reached[0], reached[1]


def permuted_within(
    strata: Sequence[NDArray[np.intp]], codes: NDArray[Any], n: int, rng: np.random.Generator
) -> NDArray[Any]:
    """Codes that are permuted within the rows of each stratum, `n` times; (n, images)."""
    permuted = np.tile(codes, (n, 1))
    for rows in strata:
        permuted[:, rows] = rng.permuted(permuted[:, rows], axis=1)
    return permuted


def _commonest(values: NDArray) -> NDArray[np.intp]:
    """How many rows share the commonest value of each column."""
    start, end = tie_bounds(np.sort(values, axis=0).T)
    return (end - start).max(axis=1)
