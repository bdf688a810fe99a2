"""Confidence intervals that stay honest where resampling or a variance of zero would not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from statsmodels.stats.proportion import proportion_confint

from featlab.arguments import group_codes

Floats = NDArray[np.float64]

_Z95 = float(ndtri(0.975))
_BISECTIONS = 60
_BOOTSTRAP_BLOCK = 2_000_000  # values drawn at once


def bootstrap_interval(
    values: np.ndarray,
    *,
    groups: Sequence[str] | np.ndarray | None = None,
    n_boot: int = 2000,
    level: float = 0.95,
    random_state: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over images.

    Where all values are 0, or all are 1, resampling can only repeat them and the interval would
    be a point; the Wilson interval is given instead (with groups, that of as many images as there
    are groups). Without groups the order of the values does not matter.

    Parameters
    ----------
    values : array-like of shape (n,)
        One per image, in [0, 1]; NaN is left out.
    groups : array-like of str of shape (n,), optional
        Images of one group are drawn together; a nameless image ("") is its own group.
    n_boot : int
        Number of resamples.
    level : float
        Coverage.
    random_state : int
        Seed.

    Returns
    -------
    low, high : float
        NaN if nothing is left, or a single value other than 0 or 1.
    """
    values = np.asarray(values, dtype=float).ravel()
    known = ~np.isnan(values)
    if groups is not None:
        values, groups = values[known], np.asarray(groups)[known]
        draws = bootstrap_draws(
            lambda w: w @ values / w.sum(axis=1),
            len(values),
            groups=groups,
            n_boot=n_boot,
            random_state=random_state,
        )
        return draws_interval(
            draws, int(group_codes(groups, len(values)).max(initial=-1)) + 1, level=level
        )
    values = np.sort(values[known])
    n = len(values)
    if n and values[0] == values[-1] and values[0] in (0, 1):
        return wilson_interval(values.sum(), n, level=level)
    if n < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(random_state)
    block = max(1, _BOOTSTRAP_BLOCK // n)
    means = [
        values[rng.integers(n, size=(min(block, n_boot - start), n))].mean(axis=1)
        for start in range(0, n_boot, block)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_draws(
    statistic: Callable[[Floats], np.ndarray],
    n: int,
    *,
    groups: Sequence[str] | np.ndarray | None = None,
    n_boot: int = 1000,
    random_state: int = 0,
) -> np.ndarray:
    """A statistic on resamples of the images, drawn with replacement.

    Calls with the same `n`, `groups` and seed draw the same images: the difference of two results
    is the paired bootstrap of the difference.

    Parameters
    ----------
    statistic : callable
        Takes weights of shape (b, n), how often each image is in each of `b` resamples, and
        returns an array of shape (b, ...).
    n : int
        Number of images.
    groups : array-like of str of shape (n,), optional
        Whole groups are drawn, as many as there are; a nameless image ("") is its own group.
    n_boot : int
        Number of resamples.
    random_state : int
        Seed.

    Returns
    -------
    ndarray of shape (n_boot, ...)

    References
    ----------
    Field & Welsh (2007). Bootstrapping clustered data. Journal of the Royal Statistical Society B
    69, 369-390.
    """
    codes = np.arange(n) if groups is None else group_codes(groups, n)
    units = int(codes.max()) + 1 if n else 0
    rng = np.random.default_rng(random_state)
    block = max(1, _BOOTSTRAP_BLOCK // max(n, 1))
    parts = []
    for start in range(0, n_boot, block):
        b = min(block, n_boot - start)
        drawn = rng.integers(units, size=(b, units)) if n else np.zeros((b, 0), dtype=np.int64)
        counts = np.bincount((drawn + np.arange(b)[:, None] * units).ravel(), minlength=b * units)
        parts.append(np.asarray(statistic(counts.reshape(b, units)[:, codes].astype(float))))
    return np.concatenate(parts)


def draws_interval(draws: np.ndarray, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of :func:`bootstrap_draws` of a score in [0, 1].

    Parameters
    ----------
    draws : array-like of shape (b,)
        NaN is left out.
    n : int
        Number of images, or of groups, that were resampled: where all draws are 0 or all are 1,
        the Wilson interval of so many images is given.
    level : float
        Coverage.

    Returns
    -------
    low, high : float
        NaN if nothing is left, or a single image was resampled.
    """
    draws = np.asarray(draws, dtype=float)
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return float("nan"), float("nan")
    if draws.min() == draws.max() and draws[0] in (0, 1):
        return wilson_interval(draws[0] * n, n, level=level)
    if n < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(successes: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion.

    Parameters
    ----------
    successes : float
    n : int
    level : float
        Coverage.

    Returns
    -------
    low, high : float
        NaN for `n` = 0.

    References
    ----------
    Wilson (1927), Probable inference, the law of succession, and statistical inference, JASA 22.
    """
    if n == 0:
        return float("nan"), float("nan")
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    # Rounding may leave a proportion of 0 or 1 a hair outside.
    return float(max(0.0, low)), float(min(1.0, high))


def auroc_score_interval(auroc: Floats, n: Floats, n_ref: Floats) -> tuple[Floats, Floats]:
    """95 % score interval of an AUROC from its value and the two sample sizes.

    The limits t solve ``|auroc - t| = z sqrt(V(t))`` with the variance of exponential scores,
    ``V(t) = t (1 - t) (1 + N (1 - t) / (2 - t) + N t / (1 + t)) / (n n_ref)``,
    ``N = (n + n_ref) / 2 - 1``.

    Parameters
    ----------
    auroc, n, n_ref : ndarrays of one shape

    Returns
    -------
    low, high : ndarrays of that shape
        Both limits lie in [0, 1], and only 0 and 1 themselves reach the border.

    References
    ----------
    Newcombe (2006). Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic. Part 2: asymptotic methods and evaluation. Statistics in Medicine 25, 559-573
    (method 5).
    """
    return _score_low(auroc, n, n_ref), 1 - _score_low(1 - auroc, n, n_ref)


def _score_low(auroc: Floats, n: Floats, n_ref: Floats) -> Floats:
    low, high = np.zeros_like(auroc), auroc.copy()
    pairs, extra = n * n_ref, (n + n_ref) / 2 - 1
    for _ in range(_BISECTIONS):
        t = (low + high) / 2
        spread = t * (1 - t) / pairs * (1 + extra * ((1 - t) / (2 - t) + t / (1 + t)))
        too_low = auroc - t > _Z95 * np.sqrt(spread)
        low, high = np.where(too_low, t, low), np.where(too_low, high, t)
    return (low + high) / 2
