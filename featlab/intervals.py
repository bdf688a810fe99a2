"""95 % intervals that hold for any data: few images, few groups, scores at the border.

Every interval of a mean over images rests on one idea. The images (or whole groups) are weighted
by random shares, and one more that nobody has seen is among them, which lies at the lower end of
the range for the lower limit and at the upper end for the upper one. For a share of independent
images this is the exact interval of the binomial distribution, in closed form. Every interval of
an AUROC is a score interval. Where several are read together, Holm's correction is here, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv, stdtrit

from featlab.arguments import check_whole, effective_units, group_codes

Floats = NDArray[np.float64]

_BISECTIONS = 40  # halves [0, 1] to 1e-12
_PLACES = 200  # at which a distribution is averaged over
_BLOCK = 2_000_000  # weights drawn at once
_KEPT = 1_000_000  # weights of a call that others may have drawn: 8 MB


def mean_interval(
    values: np.ndarray,
    *,
    groups: Sequence[str] | np.ndarray | None = None,
    span: tuple[float, float] = (0.0, 1.0),
    n_boot: int = 2000,
    level: float = 0.95,
    random_state: int = 0,
) -> tuple[float, float]:
    """Interval of the mean of a bounded value over images.

    Parameters
    ----------
    values : array-like of shape (n,)
        One per image, within `span`; NaN is left out.
    groups : array-like of shape (n,), optional
        Images of one group are weighted together; a nameless image ("") is its own group.
    span : (float, float)
        The least and the largest value there can be.
    n_boot : int
        Number of random weightings.
    level : float
        Coverage.
    random_state : int
        Seed.

    Returns
    -------
    low, high : float
        NaN if nothing is left, if all images are of one group, or for a single value inside the
        span: then nothing is known of how values differ.

    Notes
    -----
    Shares of independent images have :func:`share_interval`, differences of two shares
    :func:`difference_interval`; all else :func:`draws_interval` of :func:`mean_draws`. The order of
    the images does not matter.
    """
    check_whole("n_boot", n_boot, 1)
    values = np.asarray(values, dtype=float).ravel()
    known = ~np.isnan(values)
    codes = None
    if groups is not None:
        codes = group_codes(np.asarray(groups)[known], int(known.sum()))
        codes = None if len(np.unique(codes)) == len(codes) else codes
    values = values[known]
    if codes is None and span == (0.0, 1.0) and np.isin(values, span).all():
        return share_interval(float(values.sum()), len(values), level=level)
    if codes is None and span == (-1.0, 1.0) and np.isin(values, (-1, 0, 1)).all():
        more, fewer = int((values > 0).sum()), int((values < 0).sum())
        return difference_interval(more, fewer, len(values), level=level)
    draws = mean_draws(values, codes, n_boot=n_boot, random_state=random_state)
    n = float(len(values)) if codes is None else effective_units(codes)
    return draws_interval(draws, n, span=span, level=level, random_state=random_state)


def share_interval(successes: float, n: float, *, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share of independent images.

    The limits are where the chance of a count as extreme, or more, is ``(1 - level) / 2``. It
    equals :func:`draws_interval` of infinitely many draws.

    Parameters
    ----------
    successes, n : float
        Effective numbers need not be whole.
    level : float
        Coverage.

    Returns
    -------
    low, high : float
        NaN for `n` = 0.

    References
    ----------
    Clopper & Pearson (1934). The use of confidence or fiducial limits illustrated in the case of
    the binomial. Biometrika 26, 404-413.
    """
    if n == 0:
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    return _share_low(successes, n, tail), 1 - _share_low(n - successes, n, tail)


def _share_low(k: float, n: float, tail: float) -> float:
    return float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0


def difference_interval(
    only_a: int, only_b: int, n: int, *, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the difference of two shares of the same independent images.

    It leaves out 0 where the exact McNemar test has ``p < 1 - level``, and only there: of random
    weights, with an unseen image that only b has right, those of `only_a` exceed the others with
    the binomial's chance. It equals :func:`draws_interval` of infinitely many draws.

    Parameters
    ----------
    only_a, only_b : int
        Images that only a, and only b, has right.
    n : int
        All images.
    level : float
        Coverage.

    Returns
    -------
    low, high : float
        Of a's share less b's, -1 to 1; NaN for fewer than two images.
    """
    if n < 2:
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    return _difference_low(only_a, only_b, n, tail), -_difference_low(only_b, only_a, n, tail)


def _difference_low(more: int, fewer: int, n: int, tail: float) -> float:
    # The share of images that tell a from b, and within it that of a, are independent.
    equal = n - more - fewer
    if not more:
        return -float(betaincinv(fewer + 1, equal, 1 - tail)) if equal else -1.0
    places = (np.arange(_PLACES) + 0.5) / _PLACES
    telling = betaincinv(more + fewer + 1, equal, places) if equal else np.ones(1)
    low, high = -1.0, 1.0
    for _ in range(_BISECTIONS):
        gap = (low + high) / 2
        within = np.clip((1 + gap / telling) / 2, 0, 1)
        too_low = betainc(more, fewer + 1, within).mean() < tail
        low, high = (gap, high) if too_low else (low, gap)
    return (low + high) / 2


def bootstrap_draws(
    statistic: Callable[[Floats], np.ndarray],
    n: int,
    *,
    groups: Sequence[str] | np.ndarray | None = None,
    n_boot: int = 1000,
    random_state: int = 0,
) -> np.ndarray:
    """A statistic under random weights of the images (the Bayesian bootstrap).

    Calls with the same `n`, `groups` and seed draw the same weights: the difference of two results
    is paired.

    Parameters
    ----------
    statistic : callable
        Takes weights of shape (b, n), positive and of mean 1, and returns an array (b, ...).
    n : int
        Number of images.
    groups : array-like of str of shape (n,), optional
        Images of one group have one weight; a nameless image ("") is its own group.
    n_boot : int
        Number of draws.
    random_state : int
        Seed.

    Returns
    -------
    ndarray of shape (n_boot, ...)

    References
    ----------
    Rubin (1981). The Bayesian bootstrap. Annals of Statistics 9, 130-134.
    """
    codes = np.arange(n) if groups is None else group_codes(groups, n)
    units = len(np.unique(codes))
    if n_boot * n <= _KEPT:
        return np.asarray(statistic(_few_weights(units, n_boot, random_state)[:, codes]))
    rng = np.random.default_rng(random_state)
    parts = [
        np.asarray(statistic(rng.exponential(size=(block, units))[:, codes]))
        for block in _blocks(n_boot, n)
    ]
    return np.concatenate(parts)


@functools.lru_cache(maxsize=4)
def _few_weights(units: int, n_boot: int, random_state: int) -> Floats:
    """Weights ``(n_boot, units)``: tables of many intervals ask for the same ones row by row."""
    return np.random.default_rng(random_state).exponential(size=(n_boot, units))


def _blocks(n_boot: int, width: int) -> Iterator[int]:
    """How many draws of so many weights each are made at once, until there are `n_boot`."""
    block = max(1, _BLOCK // max(width, 1))
    return (min(block, n_boot - start) for start in range(0, n_boot, block))


def mean_draws(
    values: Floats, codes: NDArray[np.intp] | None, *, n_boot: int, random_state: int
) -> Floats:
    """Means of values ``(n,)`` under random weights of the groups `codes`, or of the images;
    ``(n_boot,)``.
    """
    if codes is not None:
        sums = np.stack([np.bincount(codes, values), np.bincount(codes)], axis=1)
        weighted = bootstrap_draws(
            lambda weights: weights @ sums, len(sums), n_boot=n_boot, random_state=random_state
        )
    else:
        # The weights of equal images add up: a gamma variable, and the order does not matter.
        distinct, counts = np.unique(values, return_counts=True)
        sums = np.stack([distinct, np.ones(len(distinct))], axis=1)
        rng = np.random.default_rng(random_state)
        parts = [
            rng.standard_gamma(counts, size=(block, len(sums))) @ sums
            for block in _blocks(n_boot, len(sums))
        ]
        weighted = np.concatenate(parts)
    with np.errstate(invalid="ignore"):
        return weighted[:, 0] / weighted[:, 1]


def interval_name(codes: NDArray[np.intp] | None) -> str:
    """What an interval over images, or their groups, rests on; or why there is none."""
    k = 0 if codes is None else len(np.unique(codes))
    if codes is None or k == len(codes):
        return "over images"
    return f"over {k} groups" if k > 1 else "none: all images are of one group"


def draws_interval(
    draws: np.ndarray,
    n: float,
    *,
    span: tuple[float, float] = (0.0, 1.0),
    level: float = 0.95,
    random_state: int = 0,
) -> tuple[float, float]:
    """Interval of a bounded score from its :func:`bootstrap_draws`.

    Each draw is moved to the lower end of the span by the share of an unseen unit, see
    :func:`unseen_shares`, and the lower limit is a quantile of the result; so with the upper. An
    interval of the draws alone would miss what none of few units shows.

    Parameters
    ----------
    draws : array-like of shape (b,)
        NaN is left out.
    n : float
        Number of images, or :func:`featlab.arguments.effective_units`.
    span : (float, float)
        The least and the largest score there can be; of differences (-1, 1).
    level : float
        Coverage.
    random_state : int
        Seed.

    Returns
    -------
    low, high : float
        NaN if nothing is left, or a single unit was weighted.
    """
    draws = np.asarray(draws, dtype=float)
    draws = draws[~np.isnan(draws)]
    if not len(draws) or not n > 1 + 1e-9:
        return float("nan"), float("nan")
    share = unseen_shares(len(draws), n, random_state)
    low, high = (
        float(np.quantile((1 - share) * draws + share * end, tail))
        for end, tail in zip(span, ((1 - level) / 2, (1 + level) / 2), strict=True)
    )
    return low, high


def unseen_shares(n_draws: int, n: float, random_state: int = 0) -> Floats:
    """Random shares of one unseen unit among `n` others, (n_draws,).

    Of `n` exponential weights and one more, the last has a share of Beta(1, n).

    References
    ----------
    Gaffke (2005). Three test statistics for a nonparametric one-sided hypothesis on the mean of a
    nonnegative variable. Mathematical Methods of Statistics 14, 451-467.
    """
    places = (np.random.default_rng([random_state, n_draws]).permutation(n_draws) + 0.5) / n_draws
    return 1 - (1 - places) ** (1 / n)


def auroc_score_interval(
    auroc: Floats,
    n: Floats,
    n_ref: Floats,
    *,
    variances: tuple[Floats, Floats] | None = None,
    units: tuple[Floats | float, Floats | float] | None = None,
    level: float = 0.95,
) -> tuple[Floats, Floats]:
    """Score interval of an AUROC.

    The limits t solve ``|auroc - t| = q sqrt(f V(t))`` with Newcombe's variance,
    ``V(t) = t (1 - t) (1 + N (1 - t) / (2 - t) + N t / (1 + t)) / (n n_ref)``,
    ``N = (n + n_ref) / 2 - 1``. Where DeLong's variance is larger than V at the AUROC itself, f is
    their ratio, else 1; q is Student's, with Satterthwaite's degrees of freedom. So the interval is
    the wider of the two, stays in [0, 1], and has no jump where the last pair is put right.

    Parameters
    ----------
    auroc, n, n_ref : ndarrays of one shape
        Sizes are effective ones where images come in groups.
    variances : two ndarrays of that shape, optional
        The two parts of DeLong's variance, of the class and of the rest.
    units : two floats or ndarrays of that shape, optional
        Number of independent units in the class and the rest; `n` and `n_ref` by default.
    level : float
        Coverage.

    Returns
    -------
    low, high : ndarrays of that shape
        In [0, 1]; only 0 and 1 themselves reach the border. NaN where a size is.

    References
    ----------
    Newcombe (2006). Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic. Part 2: asymptotic methods and evaluation. Statistics in Medicine 25, 559-573
    (method 5). DeLong, DeLong & Clarke-Pearson (1988). Biometrics 44, 837-845. Brunner & Munzel
    (2000). The nonparametric Behrens-Fisher problem. Biometrical Journal 42, 17-25 (degrees of
    freedom).
    """
    auroc, n, n_ref = np.broadcast_arrays(*(np.asarray(a, dtype=float) for a in (auroc, n, n_ref)))
    factor, df = _spread(auroc, n, n_ref, variances, units)
    q = stdtrit(df, (1 + level) / 2)
    low = _auroc_low(auroc, n, n_ref, q**2 * factor)
    return low, 1 - _auroc_low(1 - auroc, n, n_ref, q**2 * factor)


def _auroc_low(auroc: Floats, n: Floats, n_ref: Floats, factor: Floats) -> Floats:
    low, high = np.zeros(auroc.shape), auroc + np.zeros(auroc.shape)
    for _ in range(_BISECTIONS):
        t = (low + high) / 2
        too_low = (auroc - t) ** 2 > factor * _newcombe_variance(t, n, n_ref)
        low, high = np.where(too_low, t, low), np.where(too_low, high, t)
    return np.where(np.isnan(factor + n + n_ref), np.nan, (low + high) / 2)


def _newcombe_variance(t: Floats, n: Floats, n_ref: Floats) -> Floats:
    half = ((1 - t) / (2 - t) + t / (1 + t)) / 2
    return t * (1 - t) * (half * (1 / n + 1 / n_ref) + (1 - 2 * half) / (n * n_ref))


def _spread(
    auroc: Floats,
    n: Floats,
    n_ref: Floats,
    variances: tuple[Floats, Floats] | None,
    units: tuple[Floats | float, Floats | float] | None,
) -> tuple[Floats, Floats]:
    """DeLong's variance in units of Newcombe's, at least 1; and the degrees of freedom."""
    model = _newcombe_variance(auroc, n, n_ref)
    parts = [model * n_ref / (n + n_ref), model * n / (n + n_ref)]
    factor = np.ones(auroc.shape)
    if variances is not None:
        estimated = [np.nan_to_num(part) for part in variances]
        ratio = np.divide(sum(estimated), model, out=np.ones(auroc.shape), where=model > 0)
        factor = np.maximum(1.0, ratio)
        parts = [np.maximum(a, b) for a, b in zip(parts, estimated, strict=True)]
    at_border = model <= 0
    parts = [np.where(at_border, size, part) for size, part in zip((n_ref, n), parts, strict=True)]
    free = [np.maximum(np.asarray(size, float) - 1, 1.0) for size in units or (n, n_ref)]
    return factor, sum(parts) ** 2 / (parts[0] ** 2 / free[0] + parts[1] ** 2 / free[1])


def holm(p: Floats) -> Floats:
    """Holm's adjusted p-values of those that are known; NaN stays NaN and counts for no test."""
    from statsmodels.stats.multitest import multipletests  # which a prediction need not wait for

    known = ~np.isnan(p)
    adjusted = np.full(len(p), np.nan)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return adjusted
