"""Rank statistics of many columns at once: AUROC, its variance and intervals, Mann-Whitney's p."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from featlab.intervals import auroc_score_interval

Floats = NDArray[np.float64]

_Z95 = float(ndtri(0.975))
_ELEMENTS_AT_ONCE = 400_000  # the temporaries of so many values stay in the processor's cache


@dataclass(frozen=True)
class RankStatistics:
    """One-vs-rest rank statistics of c columns for k classes.

    Attributes
    ----------
    u : ndarray of shape (k, c)
        Mann-Whitney's U of the class: pairs (class, rest) that the class wins, ties count half.
    variance : ndarray of shape (k, c)
        DeLong's variance of the AUROC; NaN for a class, or a rest, of one image.
    ties : ndarray of shape (c,)
        Sum of t^3 - t over the groups of t equal values.
    n, n_ref : ndarrays of shape (k, 1)
        Images in the class and in the rest.
    """

    u: Floats
    variance: Floats
    ties: Floats
    n: Floats
    n_ref: Floats

    @property
    def auroc(self) -> Floats:
        """Probability that an image of the class exceeds one of the rest; (k, c), in [0, 1]."""
        return self.u / (self.n * self.n_ref)


def rank_statistics(values: NDArray, codes: NDArray[np.intp], n_classes: int) -> RankStatistics:
    """Rank every column once and compare each class with the rest.

    Parameters
    ----------
    values : ndarray of shape (n, c)
        Finite.
    codes : ndarray of shape (n,)
        Class codes from 0 to `n_classes` - 1; each at least once.
    n_classes : int

    References
    ----------
    DeLong, DeLong & Clarke-Pearson (1988). Comparing the areas under two or more correlated
    receiver operating characteristic curves. Biometrics 44, 837-845. The placements are differences
    of midranks: Sun & Xu (2014), IEEE Signal Processing Letters 21, 1389-1393.
    """
    width = max(1, _ELEMENTS_AT_ONCE // len(values))
    parts = [
        _rank_part(values[:, first : first + width], codes, n_classes)
        for first in range(0, values.shape[1], width)
    ]
    u, variance, ties = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))
    n = np.bincount(codes, minlength=n_classes).astype(np.float64)[:, None]
    return RankStatistics(u, variance, ties, n, len(values) - n)


def _rank_part(
    values: NDArray, codes: NDArray[np.intp], n_classes: int
) -> tuple[Floats, Floats, Floats]:
    columns = np.ascontiguousarray(values.T)
    order = np.argsort(columns, axis=1)
    start, end = _tie_bounds(np.take_along_axis(columns, order, axis=1))
    members = codes[order]
    below = (
        start + end
    ) / 2  # images that lie lower, ties counting half: the midrank less one half
    u = np.empty((n_classes, len(columns)))
    variance = np.empty_like(u)
    for code in range(n_classes):
        inside = members == code
        below_inside = _count_below(inside, start, end)
        wins = below - below_inside
        n_inside = int(inside[0].sum())
        n_outside = len(values) - n_inside
        u[code] = np.einsum("ij,ij->i", wins, inside)
        variance[code] = _variance(wins, inside, n_inside) / (n_inside * n_outside**2)
        variance[code] += _variance(below_inside, ~inside, n_outside) / (n_outside * n_inside**2)
    size = (end - start).astype(np.float64)
    return u, variance, (size**2 - 1).sum(axis=1)


def _tie_bounds(ordered: NDArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First position of each value's group of equals in its sorted row, and the one after it."""
    n = ordered.shape[1]
    change = ordered[:, 1:] != ordered[:, :-1]
    start = np.zeros(ordered.shape, dtype=np.intp)
    start[:, 1:] = np.where(change, np.arange(1, n), 0)
    end = np.full(ordered.shape, n, dtype=np.intp)
    end[:, :-1] = np.where(change, np.arange(1, n), n)
    end = np.minimum.accumulate(end[:, ::-1], axis=1)[:, ::-1]
    return np.maximum.accumulate(start, axis=1), end


def _count_below(
    inside: NDArray[np.bool_], start: NDArray[np.intp], end: NDArray[np.intp]
) -> Floats:
    """How many of the marked images lie below each position, ties counting half."""
    counts = np.zeros((len(inside), inside.shape[1] + 1), dtype=np.int64)
    np.cumsum(inside, axis=1, out=counts[:, 1:])
    return (np.take_along_axis(counts, start, 1) + np.take_along_axis(counts, end, 1)) / 2


def _variance(values: Floats, mask: NDArray[np.bool_], size: int) -> Floats:
    """Variance along the rows over the marked places; NaN for one place.

    In two passes, because equal values must give exactly zero.
    """
    if size < 2:
        return np.full(len(values), np.nan)
    mean = np.einsum("ij,ij->i", values, mask) / size
    off = (values - mean[:, None]) * mask
    return np.einsum("ij,ij->i", off, off) / (size - 1)


def mannwhitney_p(statistics: RankStatistics, *, alternative: str) -> Floats:
    """P-values of the normal approximation, corrected for ties and continuity.

    Parameters
    ----------
    statistics : RankStatistics
    alternative : {"two-sided", "greater"}

    Returns
    -------
    ndarray of shape (k, c)
        In [0, 1]; NaN for a constant column. As `scipy.stats.mannwhitneyu` with
        ``method="asymptotic"``.
    """
    n, n_ref = statistics.n, statistics.n_ref
    total = n + n_ref
    excess = statistics.u - n * n_ref / 2
    spread = np.sqrt(n * n_ref / 12 * (total + 1 - statistics.ties / (total * (total - 1))))
    two_sided = alternative == "two-sided"
    with np.errstate(divide="ignore", invalid="ignore"):
        z = ((np.abs(excess) if two_sided else excess) - 0.5) / spread
    p = np.minimum(2 * ndtr(-z), 1.0) if two_sided else ndtr(-z)
    return np.where(spread > 0, p, np.nan)


def auroc_interval(statistics: RankStatistics) -> tuple[Floats, Floats]:
    """95 % interval of the AUROC, within [0, 1].

    DeLong's; the score interval where its variance is zero or undefined, so that perfect separation
    of finitely many images is not reported as certain.

    Returns
    -------
    low, high : ndarrays of shape (k, c)
    """
    auroc = statistics.auroc
    margin = _Z95 * np.sqrt(statistics.variance)
    low, high = np.clip(auroc - margin, 0, 1), np.clip(auroc + margin, 0, 1)
    n, n_ref = (np.broadcast_to(size, auroc.shape) for size in (statistics.n, statistics.n_ref))
    bare = ~(statistics.variance > 0)
    low[bare], high[bare] = auroc_score_interval(auroc[bare], n[bare], n_ref[bare])
    return low, high
