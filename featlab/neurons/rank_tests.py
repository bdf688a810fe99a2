"""Mann and Whitney's test of many columns at once; exact where few images decide."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr

from featlab.neurons.rank_statistics import Floats, RankStatistics

FEWEST = 10
"""Images of a side from which on a normal distribution is near enough that of a rank sum."""

_LARGEST_TABLE = 2000


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
    greater, less = (ndtr(-z) for z in normal_z(statistics))
    constant = np.isnan(greater)
    few = are_few(statistics)
    if len(few) == 2:  # one is the other's rest
        few[1] = False
    if few.any():
        greater[few], less[few] = _exact_tails(statistics, few)
        if len(few) == 2:
            greater[1, few[0]], less[1, few[0]] = less[0, few[0]], greater[0, few[0]]
    p = {"two-sided": 2 * np.minimum(greater, less), "greater": greater, "less": less}[alternative]
    return np.where(constant, np.nan, np.minimum(p, 1.0))


def are_few(statistics: RankStatistics) -> NDArray[np.bool_]:
    """Whether the normal tail does not hold; (k, c)."""
    n, n_ref = statistics.n, statistics.n_ref
    return (np.minimum(n, n_ref) < FEWEST) | (statistics.largest_tie > (n + n_ref) / 2)


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
