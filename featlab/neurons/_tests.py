"""The two-sample tests: statistics and p-values of many columns at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, gammaln, ndtr, stdtr
from scipy.stats import kstwo

from featlab.neurons._rank_statistics import Floats, RankStatistics

_ELEMENTS_AT_ONCE = 4_000_000  # copies in double precision: 32 MB


@dataclass(frozen=True)
class Moments:
    """Means and sums of squares of c columns in k classes and their rests; arrays (k, c).

    Attributes
    ----------
    mean, mean_ref : ndarray
    squares, squares_ref : ndarray
        Sum of squared deviations from the mean.
    pts, pts_ref : ndarray
        Share of the images in which the neuron fires (> 0), in [0, 1].
    n, n_ref : ndarray of shape (k, 1)
    """

    mean: Floats
    mean_ref: Floats
    squares: Floats
    squares_ref: Floats
    pts: Floats
    pts_ref: Floats
    n: Floats
    n_ref: Floats

    @property
    def sd(self) -> Floats:
        """Standard deviation in the class (divided by n - 1); NaN for one image."""
        return _sd(self.squares, self.n)

    @property
    def sd_ref(self) -> Floats:
        """Standard deviation in the rest."""
        return _sd(self.squares_ref, self.n_ref)


def moments(values: NDArray, codes: NDArray[np.intp], n_classes: int) -> Moments:
    """Moments of every column in each class and in its rest.

    The squares of a class are summed around its own mean, and those of the rest put together from
    the other classes', so that equal values give exactly zero.
    """
    n = np.bincount(codes, minlength=n_classes).astype(np.float64)[:, None]
    mean, squares, fires = (np.empty((n_classes, values.shape[1])) for _ in range(3))
    members = [np.flatnonzero(codes == code) for code in range(n_classes)]
    width = max(1, _ELEMENTS_AT_ONCE // len(values))
    for first in range(0, values.shape[1], width):
        columns = slice(first, first + width)
        block = values[:, columns].astype(np.float64)
        for code, rows in enumerate(members):
            part = block[rows]
            mean[code, columns] = part.mean(axis=0)
            squares[code, columns] = ((part - mean[code, columns]) ** 2).sum(axis=0)
            fires[code, columns] = (part > 0).sum(axis=0)
    other = 1 - np.eye(n_classes)
    n_ref = other @ n
    mean_ref = other @ (n * mean) / n_ref
    squares_ref = np.stack(
        [other[code] @ (squares + n * (mean - mean_ref[code]) ** 2) for code in range(n_classes)]
    )
    return Moments(mean, mean_ref, squares, squares_ref, fires / n, other @ fires / n_ref, n, n_ref)


def mannwhitney_p(statistics: RankStatistics, *, alternative: str = "two-sided") -> Floats:
    """P-values of the normal approximation, corrected for ties and continuity.

    Parameters
    ----------
    statistics : RankStatistics
    alternative : {"two-sided", "greater", "less"}

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
    side = {"two-sided": np.abs(excess), "greater": excess, "less": -excess}[alternative]
    with np.errstate(divide="ignore", invalid="ignore"):
        p = ndtr((0.5 - side) / spread)
    if alternative == "two-sided":
        p = np.minimum(2 * p, 1.0)
    return np.where(spread > 0, p, np.nan)


def _mannwhitney(ranks: RankStatistics, _: Moments) -> tuple[Floats, Floats]:
    return ranks.u, mannwhitney_p(ranks)


def _welch(_: RankStatistics, m: Moments) -> tuple[Floats, Floats]:
    """Welch's t; where neither side varies, p is that of a perfect separation by permutation."""
    with np.errstate(divide="ignore", invalid="ignore"):
        part, part_ref = m.sd**2 / m.n, m.sd_ref**2 / m.n_ref
        t = (m.mean - m.mean_ref) / np.sqrt(part + part_ref)
        df = (part + part_ref) ** 2 / (part**2 / (m.n - 1) + part_ref**2 / (m.n_ref - 1))
    return t, _student_p(t, df, part + part_ref, m.n, m.n_ref)


def _brunner_munzel(ranks: RankStatistics, _: Moments) -> tuple[Floats, Floats]:
    """Brunner and Munzel's t, which is the AUROC's excess in units of DeLong's standard error."""
    a, b = ranks.variance_class, ranks.variance_rest
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (ranks.auroc - 0.5) / np.sqrt(a + b)
        df = (a + b) ** 2 / (a**2 / (ranks.n - 1) + b**2 / (ranks.n_ref - 1))
    return t, _student_p(t, df, a + b, ranks.n, ranks.n_ref)


def _kolmogorov_smirnov(ranks: RankStatistics, _: Moments) -> tuple[Floats, Floats]:
    size = np.broadcast_to(ranks.n * ranks.n_ref / (ranks.n + ranks.n_ref), ranks.distance.shape)
    # The distance takes few values, and the distribution is slow to compute.
    pairs, place = np.unique(
        np.stack([ranks.distance.ravel(), np.round(size).ravel()]), axis=1, return_inverse=True
    )
    p = kstwo.sf(pairs[0], np.maximum(pairs[1], 1))
    return ranks.distance, np.clip(p, 0, 1)[place.ravel()].reshape(ranks.distance.shape)


def _mutual_information(ranks: RankStatistics, _: Moments) -> tuple[Floats, Floats]:
    """Likelihood-ratio (G) test of independence of class and binned value.

    With Williams's correction, without which it calls too often when a bin holds a few images:
    Williams (1976), Biometrika 63, 33-37.
    """
    total = ranks.n + ranks.n_ref
    df = np.maximum(ranks.bins - 1, 1)
    classes = total / ranks.n + total / ranks.n_ref
    factor = 1 + (classes - 1) * (ranks.bin_shares - 1) / (6 * total * df)
    return ranks.information, chdtrc(df, 2 * total * ranks.information / factor)


TESTS: Mapping[str, Callable[[RankStatistics, Moments], tuple[Floats, Floats]]] = {
    "mannwhitneyu": _mannwhitney,
    "welch": _welch,
    "brunner_munzel": _brunner_munzel,
    "kolmogorov_smirnov": _kolmogorov_smirnov,
    "mutual_information": _mutual_information,
}


def _sd(squares: Floats, n: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n > 1, np.sqrt(squares / (n - 1)), np.nan)


def _student_p(t: Floats, df: Floats, variance: Floats, n: Floats, n_ref: Floats) -> Floats:
    """Two-sided p of t; for an infinite t the share of relabellings that separate as well."""
    with np.errstate(invalid="ignore"):
        p = 2 * stdtr(df, -np.abs(t))
    separations = np.exp(gammaln(n + 1) + gammaln(n_ref + 1) - gammaln(n + n_ref + 1))
    return np.where(variance > 0, p, np.where(np.isinf(t), np.minimum(2 * separations, 1), np.nan))
