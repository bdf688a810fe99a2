"""The statistics of a comparison in which images count differently."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr

from featlab.errors import FeatlabError
from featlab.neurons._rank_statistics import Floats, RankStatistics, tie_bounds
from featlab.neurons._tests import Moments

WEIGHTED_TESTS = ("brunner_munzel", "welch")

_ELEMENTS_AT_ONCE = 400_000
_COLUMNS = (
    *("auroc", "variance_class", "variance_rest", "precision", "distance", "median"),
    *("median_ref", "mean", "mean_ref", "squares", "squares_ref", "pts", "pts_ref"),
)


def checked_weights(weights: ArrayLike, codes: NDArray[np.intp]) -> Floats:
    """One positive, finite weight per image."""
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != codes.shape:
        raise FeatlabError(
            f"weights must have one entry per image {codes.shape}, got {values.shape}."
        )
    if not (np.isfinite(values) & (values > 0)).all():
        raise FeatlabError(
            "weights must be positive and finite; leave an image of weight 0 out of X and y."
        )
    return values


def weighted_statistics(
    values: NDArray, codes: NDArray[np.intp], n_classes: int, weights: Floats
) -> tuple[RankStatistics, Moments]:
    """What `rank_statistics` and `moments` give, with images that count differently.

    Each side of a comparison becomes a weighted distribution; ``n`` and ``n_ref`` are Kish's
    effective numbers of images, (sum of w)^2 / sum of w^2, and with equal weights every value is
    that of the functions without weights. Mutual information and ties are not defined here (NaN).

    Parameters
    ----------
    values : ndarray of shape (n, c)
    codes : ndarray of shape (n,)
    n_classes : int
    weights : ndarray of shape (n,)
        Positive.

    References
    ----------
    Kish (1965). Survey Sampling, section 8.2.
    """
    width = max(1, _ELEMENTS_AT_ONCE // len(values))
    found = {name: np.empty((n_classes, values.shape[1])) for name in _COLUMNS}
    n, n_ref = np.empty((n_classes, 1)), np.empty((n_classes, 1))
    for code in range(n_classes):
        inside = codes == code
        p, q = weights * inside / weights[inside].sum(), weights * ~inside / weights[~inside].sum()
        n[code], n_ref[code] = 1 / (p**2).sum(), 1 / (q**2).sum()
        share = weights[inside].sum() / weights.sum()
        for first in range(0, values.shape[1], width):
            columns = slice(first, first + width)
            block = np.ascontiguousarray(values[:, columns].T, dtype=np.float64)
            for name, array in _side_by_side(block, p, q, share).items():
                found[name][code, columns] = array
    unknown = np.full((1, values.shape[1]), np.nan)
    ranks = RankStatistics(
        u=found["auroc"] * n * n_ref,
        variance_class=found["variance_class"],
        variance_rest=found["variance_rest"],
        average_precision=found["precision"],
        distance=found["distance"],
        median=found["median"],
        median_ref=found["median_ref"],
        information=np.full_like(found["auroc"], np.nan),
        bins=unknown,
        bin_shares=unknown,
        ties=unknown,
        n=n,
        n_ref=n_ref,
    )
    sums = found["squares"] * (n - 1), found["squares_ref"] * (n_ref - 1)
    sizes = Moments(
        found["mean"], found["mean_ref"], *sums, found["pts"], found["pts_ref"], n, n_ref
    )
    return ranks, sizes


def one_sided_p(ranks: RankStatistics) -> tuple[Floats, Floats]:
    """P of "larger" and of "smaller in the class", Brunner and Munzel's; 1 where nothing varies."""
    a, b = ranks.variance_class, ranks.variance_rest
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (ranks.auroc - 0.5) / np.sqrt(a + b)
        df = (a + b) ** 2 / (a**2 / (ranks.n - 1) + b**2 / (ranks.n_ref - 1))
        greater, less = (np.where(a + b > 0, stdtr(df, way * t), np.nan) for way in (-1, 1))
    return np.nan_to_num(greater, nan=1.0), np.nan_to_num(less, nan=1.0)


def _side_by_side(block: Floats, p: Floats, q: Floats, share: float) -> dict[str, Floats]:
    """Statistics of columns ``(c, n)``; `p` and `q` are the shares of the images of each side."""
    order = np.argsort(block, axis=1)
    ordered = np.take_along_axis(block, order, axis=1)
    start, end = tie_bounds(ordered)
    ours, theirs = p[order], q[order]
    placed, below = _placements(ours, start, end), _placements(theirs, start, end)
    auroc = (ours * below).sum(axis=1)
    # Of all that is at least as large: the class's part. Both sides in units of the whole set.
    above, above_ref = (1 - _mass(side, start) for side in (ours, theirs))
    part = share * above
    precision = (ours * part / (part + (1 - share) * above_ref)).sum(axis=1)
    mean, mean_ref = block @ p, block @ q
    return {
        "auroc": auroc,
        "variance_class": _variance_of_mean(below, ours, auroc),
        "variance_rest": _variance_of_mean(placed, theirs, 1 - auroc),
        "precision": precision,
        "distance": np.abs(_mass(ours, end) - _mass(theirs, end)).max(axis=1),
        "median": _median(ordered, ours),
        "median_ref": _median(ordered, theirs),
        "mean": mean,
        "mean_ref": mean_ref,
        "squares": ((block - mean[:, None]) ** 2 @ p) / (1 - (p**2).sum()),
        "squares_ref": ((block - mean_ref[:, None]) ** 2 @ q) / (1 - (q**2).sum()),
        "pts": (block > 0) @ p,
        "pts_ref": (block > 0) @ q,
    }


def _mass(shares: Floats, position: NDArray[np.intp]) -> Floats:
    """Share of a side that lies before each position of its sorted rows."""
    before = np.zeros((len(shares), shares.shape[1] + 1))
    np.cumsum(shares, axis=1, out=before[:, 1:])
    return np.take_along_axis(before, position, axis=1)


def _placements(shares: Floats, start: NDArray[np.intp], end: NDArray[np.intp]) -> Floats:
    """Share of a side that lies below each value, ties counting half."""
    return (_mass(shares, start) + _mass(shares, end)) / 2


def _variance_of_mean(placements: Floats, shares: Floats, mean: Floats) -> Floats:
    """Variance of the weighted mean of one side's placements; NaN for one image."""
    spread = ((shares * (placements - mean[:, None])) ** 2).sum(axis=1)
    left = 1 - (shares[0] ** 2).sum()
    # Rounding of sums of shares must not pass for variance where all placements are equal.
    spread[spread < 1e-28] = 0
    return spread / left if left > 1e-12 else np.full(len(shares), np.nan)


def _median(ordered: Floats, shares: Floats) -> Floats:
    """Where half of a side lies on each side; the mean of two values where that is between them."""
    counted = np.cumsum(shares, axis=1)
    tolerance = 1e-12
    middle = [(counted > 0.5 + shift).argmax(axis=1)[:, None] for shift in (-tolerance, tolerance)]
    found = [np.take_along_axis(ordered, at, 1)[:, 0] for at in middle]
    return np.mean(found, axis=0)
