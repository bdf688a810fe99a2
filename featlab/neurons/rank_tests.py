"""Tests on ranks: two classes, several classes, whole groups; exact where few images decide."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, fdtrc, gammaln, ndtr
from scipy.stats import rankdata

from featlab.arguments import (
    Features,
    check_choice,
    class_codes,
    feature_blocks,
    group_codes,
    has_groups,
)
from featlab.neurons._corrections import (
    LEAST_GROUPS,
    MULTIPLETESTS,
    WITHIN,
    adjust,
    check_correction,
    rows_of_groups,
)
from featlab.neurons.rank_statistics import Floats, RankStatistics, moments, rank_statistics

FEWEST = 10
"""Images of a side from which on a normal distribution is near enough that of a rank sum."""
OMNIBUS_TESTS = ("kruskal", "welch_anova")

_LARGEST_TABLE = 2000
_DRAWS = 20
_LEAST_OF_A_CLASS = 5


def mannwhitney_p(statistics: RankStatistics, *, alternative: str = "two-sided") -> Floats:
    """P-values of Mann and Whitney's U: exact where few images, or few distinct values, decide.

    With at least `FEWEST` images on both sides and no value that more than half of the images
    share, the normal approximation, corrected for ties and continuity. Else the distribution under
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
    n, n_ref = statistics.n, statistics.n_ref
    total = n + n_ref
    excess = statistics.u - n * n_ref / 2
    spread = np.sqrt(n * n_ref / 12 * (total + 1 - statistics.ties / (total * (total - 1))))
    with np.errstate(divide="ignore", invalid="ignore"):
        greater, less = ndtr((0.5 - excess) / spread), ndtr((0.5 + excess) / spread)
    few = (np.minimum(n, n_ref) < FEWEST) | (statistics.largest_tie > total / 2)
    if len(few) == 2:  # one is the other's rest
        few[1] = False
    if few.any():
        greater[few], less[few] = _exact_tails(statistics, few)
        if len(few) == 2:
            greater[1, few[0]], less[1, few[0]] = less[0, few[0]], greater[0, few[0]]
    p = {"two-sided": 2 * np.minimum(greater, less), "greater": greater, "less": less}[alternative]
    return np.where(spread > 0, np.minimum(p, 1.0), np.nan)


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
    for k in range(int(np.minimum(n, others).max()) + 1):
        some = (k <= np.minimum(n, others)) & (k >= n - t)
        f, left, drawn = others[some], t[some] - n[some] + k, n[some]
        chance = np.exp(log_choose(f, k) + log_choose(t[some], drawn - k) - ways[some])
        above = u[some] - left * (drawn + k) / 2  # less what the k win over those that are tied
        pairs, equal = k * (f - k), constant[some]
        for tail, bound in ((at_least, above), (at_most, pairs - above)):
            reached = tables.tail(k, f, bound - slack[some])
            tail[some] += chance * np.where(equal, bound <= pairs / 2, reached)
    return np.where(is_low, at_least, at_most), np.where(is_low, at_most, at_least)


class _Tables:
    """Tails of U for k of f images without ties, of all k and f that some columns ask for."""

    def __init__(self, others: Floats) -> None:
        small = others[others <= _LARGEST_TABLE].astype(np.intp)
        self.sizes = np.unique(small)
        self.start = np.zeros((FEWEST, int(self.sizes.max(initial=0)) + 1), dtype=np.intp)
        deepest = min(FEWEST - 1, int(self.sizes.max(initial=0)) // 2)
        counts = [np.ones(1)] + [np.zeros(0)] * deepest
        parts, length, wanted = [], 0, set(self.sizes.tolist())
        for f in range(1, int(self.sizes.max(initial=0)) + 1):
            for m in range(min(deepest, f), 0, -1):
                # The largest of f is among the m, and wins over all f - m others, or is not.
                grown = np.zeros(m * (f - m) + 1)
                grown[: len(counts[m])] = counts[m]
                grown[f - m :] += counts[m - 1]
                counts[m] = grown
                if f in wanted and 2 * m <= f:
                    self.start[m, f] = length
                    tail = np.cumsum(grown[::-1])[::-1]
                    parts.append(tail / tail[0])
                    length += len(tail)
        self.flat = np.concatenate([*parts, np.ones(1)])

    def tail(self, k: int, f: Floats, bound: Floats) -> Floats:
        """P(U >= bound) for k of f images."""
        m, pairs = np.minimum(k, f - k), k * (f - k)
        spread = np.sqrt(pairs * (f + 1) / 12)
        with np.errstate(divide="ignore", invalid="ignore"):
            p = ndtr((0.5 - bound + pairs / 2) / spread)
        listed = (m < FEWEST) & (f <= _LARGEST_TABLE) & (m > 0)
        least = np.ceil(bound - 1e-9)
        inside = np.clip(least, 0, pairs)[listed].astype(np.intp)
        starts = self.start[m[listed].astype(np.intp), f[listed].astype(np.intp)]
        p[listed] = self.flat[starts + inside]
        p = np.where((m == 1) & ~listed, 1 - least / np.maximum(f, 1), p)
        return np.where(least <= 0, 1.0, np.where(least > pairs, 0.0, p))


def clustered_p(
    values: NDArray, inside: NDArray[np.bool_], names: NDArray[np.str_], scheme: str
) -> Floats:
    """One-sided p (larger in the class) of every column, with the group as the unit.

    Whole groups: Mann and Whitney's test of the means of as many random images of each group as the
    smallest has, the group being one observation; twice the mean p of `_DRAWS` such draws, which is
    a valid p-value however the draws depend on each other [1]_. So groups that know nothing are
    exchangeable, even where their sizes go with the class. Images within groups: van Elteren's
    stratified Wilcoxon test [2]_, the group being the stratum.

    Parameters
    ----------
    values : ndarray of shape (n, c)
    inside : ndarray of shape (n,)
    names : ndarray of shape (n,)
        Groups; "" is an image by itself (whole groups) or one common stratum (within).
    scheme : str
        `WHOLE` or `WITHIN`.

    Returns
    -------
    ndarray of shape (c,)
        1 for a constant column; NaN where the class or the rest has fewer than `LEAST_GROUPS`
        groups.

    References
    ----------
    .. [1] Hoffman, Sen & Weinberg (2001). Within-cluster resampling. Biometrika 88, 1121-1134;
       Vovk & Wang (2020). Combining p-values via averaging. Biometrika 107, 791-808.
    .. [2] van Elteren (1960). On the combination of independent two-sample tests of Wilcoxon.
       Bulletin of the International Statistical Institute 37, 351-361.
    """
    if scheme == WITHIN:
        return np.nan_to_num(_strata_p(values, inside, names), nan=1.0)
    if few_groups(inside, names):
        return np.full(values.shape[1], np.nan)
    return np.nan_to_num(_whole_groups_p(values, inside, names), nan=1.0)


def few_groups(inside: NDArray[np.bool_], names: NDArray[np.str_]) -> bool:
    """Whether the class or the rest has fewer than `LEAST_GROUPS` groups."""
    unit = group_codes(names, len(names))
    return min(len(np.unique(unit[inside])), len(np.unique(unit[~inside]))) < LEAST_GROUPS


def _whole_groups_p(values: NDArray, inside: NDArray[np.bool_], names: NDArray[np.str_]) -> Floats:
    unit = group_codes(names, len(names))
    sizes, first = np.bincount(unit), np.unique(unit, return_index=True)[1]
    least, draws = int(sizes.min()), 1 if sizes.min() == sizes.max() else _DRAWS
    start, rng = np.cumsum(sizes) - sizes, np.random.default_rng(0)
    ranks, total = rankdata(values, axis=0), np.zeros(values.shape[1])
    for _ in range(draws):
        # The images of each group in a random order, of which the first are taken.
        order = np.lexsort((rng.random(len(unit)), unit))
        taken = order[(start[:, None] + np.arange(least)).ravel()]
        means = ranks[taken].reshape(len(sizes), least, -1).mean(axis=1)
        compared = rank_statistics(means, (~inside[first]).astype(np.intp), 2)
        total += np.nan_to_num(mannwhitney_p(compared, alternative="greater")[0], nan=1.0)
    return total / draws if draws == 1 else np.minimum(2 * total / draws, 1.0)


def _strata_p(values: NDArray, inside: NDArray[np.bool_], names: NDArray[np.str_]) -> Floats:
    excess, variance = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for rows in rows_of_groups(names):
        total, n = len(rows), int(inside[rows].sum())
        if n in (0, total):
            continue
        ranks = rankdata(values[rows], axis=0)
        weight = 1 / (total + 1)
        excess += weight * (ranks[inside[rows]].sum(axis=0) - n * (total + 1) / 2)
        spread = ((ranks - (total + 1) / 2) ** 2).sum(axis=0)
        variance += weight**2 * n * (total - n) / (total * (total - 1)) * spread
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, ndtr(-excess / np.sqrt(variance)), np.nan)


def compare_classes(
    X: Features,
    y: ArrayLike,
    *,
    test: str = "kruskal",
    groups: ArrayLike | None = None,
    correction: str = "fdr_bh",
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Whether each neuron's activations differ between any of the classes.

    Parameters
    ----------
    X, y
        As in `rank_neurons`.
    test : {"kruskal", "welch_anova"}
        Kruskal and Wallis's H on ranks, corrected for ties; or Welch's F, which allows the
        classes their own variances [1]_.
    groups : array_like of shape (n,), optional
        Where a group holds two images there is no p: these tests take images for independent.
    correction : str
        A method of `statsmodels.stats.multitest.multipletests`, over all rows.
    alpha : float
        Bound of the corrected p-value, in (0, 1].

    Returns
    -------
    DataFrame, one row per (layer, pooling, neuron)
        layer, pooling, neuron, n (images), classes (number), statistic, p, p_adjusted, effect
        (the share of the ranks', or values', variance that lies between the classes: epsilon
        squared for Kruskal-Wallis, eta squared for Welch), best_class (of the highest mean rank,
        or mean), reject. NaN for a dead neuron, and for Welch where a class has one image or two
        classes that do not vary; no p where fewer than five images of the smallest class are to be
        expected outside the commonest value. Welch's p is never less than Kruskal and Wallis's.
        ``attrs`` repeats the parameters and ``n_tests``.

    Raises
    ------
    FeatlabError
        As for `rank_neurons`.

    References
    ----------
    .. [1] Welch (1951). On the comparison of several mean values: an alternative approach.
       Biometrika 38, 330-336.
    """
    check_choice("test", test, OMNIBUS_TESTS)
    check_correction(correction, alpha, MULTIPLETESTS)
    codes, classes = class_codes(y, least=2)
    grouped = has_groups(group_codes(groups, len(codes)))
    k, parts = len(classes), []
    for block in feature_blocks(X, y):
        values = block.matrix
        compare = _kruskal if test == "kruskal" else _welch_anova
        statistic, p, effect, place = compare(values, codes, k)
        alive = values.min(axis=0) < values.max(axis=0)
        parts.append(
            pd.DataFrame(
                {
                    "layer": block.layer,
                    "pooling": block.pooling,
                    "neuron": block.neurons,
                    "n": len(values),
                    "classes": k,
                    "statistic": np.where(alive, statistic, np.nan),
                    "p": np.where(alive & ~grouped, p, np.nan),
                    "effect": np.where(alive, effect, np.nan),
                    "best_class": classes[place],
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    table.insert(7, "p_adjusted", adjust(table["p"].to_numpy(), correction, alpha))
    table["reject"] = table["p_adjusted"] <= alpha
    table = table.sort_values(["layer", "pooling", "p", "neuron"], ignore_index=True)
    table.attrs = {
        "test": test,
        "correction": correction,
        "alpha": float(alpha),
        "n_tests": int(table["p"].notna().sum()),
    }
    return table


def _kruskal(
    values: NDArray, codes: NDArray[np.intp], k: int
) -> tuple[Floats, Floats, Floats, NDArray[np.intp]]:
    ranks = rank_statistics(values, codes, k)
    n, total = ranks.n, len(values)
    # Chi-square needs some images of each class besides those that share one value.
    enough = n.min() * (1 - ranks.largest_tie[0] / total) >= _LEAST_OF_A_CLASS
    # A class's rank sum is its U and the ranks that it would have alone.
    excess = (ranks.u - n * ranks.n_ref / 2) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        correction = 1 - ranks.ties[0] / (total**3 - total)
        h = 12 / (total * (total + 1)) * (n * excess**2).sum(axis=0) / correction
    p = np.where(enough, chdtrc(k - 1, h), np.nan)
    return h, p, h / (total - 1), excess.argmax(axis=0)


def _welch_anova(
    values: NDArray, codes: NDArray[np.intp], k: int
) -> tuple[Floats, Floats, Floats, NDArray[np.intp]]:
    m, by_rank = moments(values, codes, k), _kruskal(values, codes, k)[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = m.n / m.sd**2
        total = weight.sum(axis=0)
        centre = (weight * m.mean).sum(axis=0) / total
        spread = ((1 - weight / total) ** 2 / (m.n - 1)).sum(axis=0)
        f = (weight * (m.mean - centre) ** 2).sum(axis=0) / (k - 1)
        f /= 1 + 2 * (k - 2) / (k**2 - 1) * spread
        df = (k**2 - 1) / (3 * spread)
        within = m.squares.sum(axis=0)
        between = (m.n * (m.mean - (m.n * m.mean).sum(axis=0) / len(values)) ** 2).sum(axis=0)
        # Where classes are few or skewed F's tail is too light; that of ranks is not.
        p = np.maximum(fdtrc(k - 1, df, f), by_rank)
        return f, p, between / (between + within), m.mean.argmax(axis=0)
