"""The tests of two samples: statistics and p-values of many columns at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import sklearn
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, gammaln, kolmogorov, stdtr
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from featlab.errors import FeatlabError
from featlab.neurons.rank_statistics import (
    Floats,
    Moments,
    RankStatistics,
    auroc_interval,
    tie_bounds,
)
from featlab.neurons.rank_tests import FEWEST, mannwhitney_p

WEIGHTED_TESTS = ("brunner_munzel", "welch")

_WEIGHTED_AT_ONCE = 400_000
_COLUMNS = (
    *("auroc", "variance_class", "variance_rest", "precision", "distance", "median"),
    *("median_ref", "mean", "mean_ref", "squares", "squares_ref", "pts", "pts_ref"),
    *("ties", "largest_tie"),
)
_PER_BIN = 10
_STRENGTHS = np.logspace(-2, 1, 7)
_FOLDS = 5
# scikit-learn 1.8 renamed the choice of the penalty.
_RENAMED = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8)
_PENALTY: dict[str, Any] = {"l1_ratio": 1.0} if _RENAMED else {"penalty": "l1"}


def _mannwhitney(ranks: RankStatistics, _: Moments) -> tuple[Floats, Floats]:
    return ranks.u, mannwhitney_p(ranks)


def _welch(ranks: RankStatistics, m: Moments) -> tuple[Floats, Floats]:
    """Welch's t; where neither side varies, p is that of a perfect separation by permutation.

    Never less than Mann and Whitney's p, which holds however few or sparse the images are: where a
    side is small, or values are skewed, the tails of t are too light by orders of magnitude.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        part, part_ref = m.sd**2 / m.n, m.sd_ref**2 / m.n_ref
        t = (m.mean - m.mean_ref) / np.sqrt(part + part_ref)
        df = (part + part_ref) ** 2 / (part**2 / (m.n - 1) + part_ref**2 / (m.n_ref - 1))
    return t, _not_below_ranks(_student_p(t, df, part + part_ref, m.n, m.n_ref), ranks)


def _brunner_munzel(ranks: RankStatistics, _: Moments) -> tuple[Floats, Floats]:
    """Brunner and Munzel's t, which is the AUROC's excess in units of DeLong's standard error.

    As for Welch's, p is never less than Mann and Whitney's.
    """
    a, b = ranks.variance_class, ranks.variance_rest
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (ranks.auroc - 0.5) / np.sqrt(a + b)
        df = (a + b) ** 2 / (a**2 / (ranks.n - 1) + b**2 / (ranks.n_ref - 1))
    return t, _not_below_ranks(_student_p(t, df, a + b, ranks.n, ranks.n_ref), ranks)


def _not_below_ranks(p: Floats, ranks: RankStatistics) -> Floats:
    """P, or Mann and Whitney's where that is larger, weighted where the images are."""
    if np.isnan(ranks.end_tie).all():
        return np.maximum(p, 2 * stdtr(ranks.n + ranks.n_ref - 2, -np.abs(_weighted_z(ranks))))
    return np.maximum(p, mannwhitney_p(ranks))


def _weighted_z(ranks: RankStatistics) -> Floats:
    """The weighted AUROC's excess over its standard error under exchange of the labels.

    To the first order the excess is the sum of the images' midranks over N, each by its share of
    its side, so its variance is that of the midranks times the sum of squared shares, 1 / n +
    1 / n_ref (Hájek's projection). NaN where of a side fewer than `FEWEST` images, by their
    effective number, are to be expected that do not share the commonest value of most.
    """
    spread = (1 - ranks.ties) / 12
    tied = np.where(ranks.largest_tie > 0.5, ranks.largest_tie, 0)
    enough = np.minimum(ranks.n, ranks.n_ref) * (1 - tied) >= FEWEST - 1e-9
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (ranks.auroc - 0.5) / np.sqrt(spread * (1 / ranks.n + 1 / ranks.n_ref))
    return np.where(enough & (spread > 0), z, np.nan)


def _kolmogorov_smirnov(ranks: RankStatistics, _: Moments) -> tuple[Floats, Floats]:
    """Exact where a side has fewer than `FEWEST` images (ties make p larger), else asymptotic."""
    p = kolmogorov(np.sqrt(ranks.n * ranks.n_ref / (ranks.n + ranks.n_ref)) * ranks.distance)
    for row, (n, n_ref) in enumerate(zip(ranks.n[:, 0], ranks.n_ref[:, 0], strict=True)):
        if min(n, n_ref) < FEWEST:
            p[row] = _paths_beyond(ranks.distance[row], int(min(n, n_ref)), int(max(n, n_ref)))
    return ranks.distance, np.clip(p, 0, 1)


def _paths_beyond(distance: Floats, n: int, n_ref: int) -> Floats:
    """Chance that n and n_ref labels in random order reach a distance anywhere.

    Hodges (1958). The significance probability of the Smirnov two-sample test. Arkiv för Matematik
    3, 469-486.
    """
    reached, place = np.unique(np.round(distance, 12), return_inverse=True)
    drawn = np.arange(n + 1)
    within, beyond = np.zeros((len(reached), n + 1)), np.zeros(len(reached))
    within[:, 0] = 1
    for step in range(n + n_ref):
        of_class = np.clip((n - drawn) / (n + n_ref - step), 0, 1)
        moved = within * (1 - of_class)
        moved[:, 1:] += (within * of_class)[:, :-1]
        gap = np.abs(drawn / n - (step + 1 - drawn) / n_ref)
        out = gap >= reached[:, None] - 1e-9
        beyond += np.where(out, moved, 0).sum(axis=1)
        within = np.where(out, 0, moved)
    return beyond[place.ravel()]


def _mutual_information(ranks: RankStatistics, _: Moments) -> tuple[Floats, Floats]:
    """Likelihood-ratio (G) test of independence of class and binned value.

    With Williams's correction, without which it calls too often when a bin holds a few images:
    Williams (1976), Biometrika 63, 33-37. NaN where the smaller side has fewer than `_PER_BIN`
    images for each bin.
    """
    total = ranks.n + ranks.n_ref
    df = np.maximum(ranks.bins - 1, 1)
    classes = total / ranks.n + total / ranks.n_ref
    factor = 1 + (classes - 1) * (ranks.bin_shares - 1) / (6 * total * df)
    p = chdtrc(df, 2 * total * ranks.information / factor)
    enough = np.minimum(ranks.n, ranks.n_ref) >= _PER_BIN * ranks.bins
    return ranks.information, np.where(enough, p, np.nan)


TESTS: Mapping[str, Callable[[RankStatistics, Moments], tuple[Floats, Floats]]] = {
    "mannwhitneyu": _mannwhitney,
    "welch": _welch,
    "brunner_munzel": _brunner_munzel,
    "kolmogorov_smirnov": _kolmogorov_smirnov,
    "mutual_information": _mutual_information,
}


def _student_p(t: Floats, df: Floats, variance: Floats, n: Floats, n_ref: Floats) -> Floats:
    """Two-sided p of t; for an infinite t the share of relabellings that separate as well."""
    with np.errstate(invalid="ignore"):
        p = 2 * stdtr(df, -np.abs(t))
    separations = np.exp(gammaln(n + 1) + gammaln(n_ref + 1) - gammaln(n + n_ref + 1))
    return np.where(variance > 0, p, np.where(np.isinf(t), np.minimum(2 * separations, 1), np.nan))


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
    that of the functions without weights. Mutual information is not defined here (NaN); ``ties``
    and ``largest_tie`` are parts of the third power of the number of images, and of that number.

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
    width = max(1, _WEIGHTED_AT_ONCE // len(values))
    by_name = {name: np.empty((n_classes, values.shape[1])) for name in _COLUMNS}
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
                by_name[name][code, columns] = array
    unknown = np.full_like(by_name["ties"][:1], np.nan)
    ranks = RankStatistics(
        u=by_name["auroc"] * n * n_ref,
        variance_class=by_name["variance_class"],
        variance_rest=by_name["variance_rest"],
        average_precision=by_name["precision"],
        distance=by_name["distance"],
        median=by_name["median"],
        median_ref=by_name["median_ref"],
        information=np.full_like(by_name["auroc"], np.nan),
        bins=unknown,
        bin_shares=unknown,
        ties=by_name["ties"][:1],
        largest_tie=by_name["largest_tie"][:1],
        end_tie=unknown,
        tied=np.full_like(by_name["auroc"], np.nan),
        n=n,
        n_ref=n_ref,
    )
    sums = by_name["squares"] * (n - 1), by_name["squares_ref"] * (n_ref - 1)
    sizes = Moments(
        by_name["mean"],
        by_name["mean_ref"],
        *sums,
        by_name["pts"],
        by_name["pts_ref"],
        n,
        n_ref,
    )
    return ranks, sizes


def one_sided_p(ranks: RankStatistics) -> tuple[Floats, Floats]:
    """P of "larger" and of "smaller in the class"; 1 for few images.

    Brunner and Munzel's, never below that of the exchange of labels.
    """
    a, b = ranks.variance_class, ranks.variance_rest
    z, freedom = _weighted_z(ranks), ranks.n + ranks.n_ref - 2
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (ranks.auroc - 0.5) / np.sqrt(a + b)
        df = (a + b) ** 2 / (a**2 / (ranks.n - 1) + b**2 / (ranks.n_ref - 1))
    greater, less = (
        np.where(a + b > 0, np.maximum(stdtr(df, way * t), stdtr(freedom, way * z)), np.nan)
        for way in (-1, 1)
    )
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
    size = (end - start).astype(np.float64)
    return {
        "auroc": auroc,
        "variance_class": _variance_of_mean(below, ours, auroc),
        "variance_rest": _variance_of_mean(placed, theirs, 1 - auroc),
        "precision": precision,
        "distance": np.abs(_mass(ours, end) - _mass(theirs, end)).max(axis=1),
        "median": _weighted_median(ordered, ours),
        "median_ref": _weighted_median(ordered, theirs),
        "mean": mean,
        "mean_ref": mean_ref,
        "ties": (size**2 - 1).sum(axis=1) / size.shape[1] ** 3,
        "largest_tie": size.max(axis=1) / size.shape[1],
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
    with np.errstate(invalid="ignore"):
        return spread / left  # 0 / 0 of one image, whose share is 1


def _weighted_median(ordered: Floats, shares: Floats) -> Floats:
    """Where half of a side lies on each side; the mean of two values where that is between them."""
    counted = np.cumsum(shares, axis=1)
    tolerance = 1e-12
    middle = [(counted > 0.5 + shift).argmax(axis=1)[:, None] for shift in (-tolerance, tolerance)]
    middles = [np.take_along_axis(ordered, at, 1)[:, 0] for at in middle]
    return np.mean(middles, axis=0)


def l1_coefficients(
    values: NDArray, codes: NDArray[np.intp], n_classes: int, random_state: int
) -> Floats:
    """Coefficients of an L1-penalised logistic regression of each class against the others.

    Activations are standardised (inside the fold while the strength of the penalty is chosen by
    log-loss over stratified folds; without folds, where a class has one image, it is C = 0.1).

    Returns
    -------
    ndarray of shape (n_classes, c)
        The first `n_classes` codes' coefficients.
    """
    X = values.astype(np.float64)
    rows: list[Floats] = []
    for code in range(n_classes):
        y = codes == code
        if n_classes == 2 and code == 1:
            rows.append(-rows[0])
            continue
        strength = _tuned(X, y, random_state)
        scaled = StandardScaler().fit_transform(X)
        rows.append(_fit(scaled, y, strength, random_state).coef_[0])
    return np.stack(rows)


def _fit(X: Floats, y: NDArray[np.bool_], strength: float, seed: int) -> LogisticRegression:
    model = LogisticRegression(
        C=strength, **_PENALTY, solver="liblinear", max_iter=1000, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, y)


def _tuned(X: Floats, y: NDArray[np.bool_], seed: int) -> float:
    n_folds = min(_FOLDS, int(y.sum()), int((~y).sum()))
    if n_folds < 2:
        return 0.1
    losses = np.zeros(len(_STRENGTHS))
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    for fit, held in folds.split(X, y):
        scale = StandardScaler().fit(X[fit])
        X_fit, X_held = scale.transform(X[fit]), scale.transform(X[held])
        for place, strength in enumerate(_STRENGTHS):
            p = _fit(X_fit, y[fit], strength, seed).predict_proba(X_held)[:, 1]
            p = np.clip(p, 1e-15, 1 - 1e-15)
            losses[place] -= np.log(np.where(y[held], p, 1 - p)).sum()
    return float(_STRENGTHS[losses.argmin()])


_TINY_MEAN = 1e-9  # scanpy's, so that a fold change over silence is finite


def measures(
    ranks: RankStatistics, sizes: Moments, statistic: Floats, p: Floats
) -> dict[str, Floats]:
    """Statistic, p and effects; not defined for a dead neuron."""
    low, high = auroc_interval(ranks)
    n, n_ref = sizes.n, sizes.n_ref
    total = n + n_ref
    difference = sizes.mean - sizes.mean_ref
    within = sizes.squares + sizes.squares_ref
    between = n * n_ref / total * difference**2
    df = np.maximum(total - 2, 1)
    # Hedges's exact factor, by logarithms of the gamma function.
    factor = np.exp(gammaln(df / 2) - gammaln((df - 1) / 2)) / np.sqrt(df / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        g = np.where(within > 0, difference / np.sqrt(within / df) * factor, np.nan)
        r = np.sign(difference) * np.sqrt(between / (within + between))
    return {
        "statistic": statistic,
        "p": p,
        "auroc": ranks.auroc,
        "auroc_low": low,
        "auroc_high": high,
        "hedges_g": np.where(total > 3, g, np.nan),
        "point_biserial": r,
        "average_precision": ranks.average_precision,
    }


def descriptions(ranks: RankStatistics, sizes: Moments) -> dict[str, Floats]:
    """What is known of dead neurons too."""
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.log2((sizes.mean + _TINY_MEAN) / (sizes.mean_ref + _TINY_MEAN))
    return {
        "mean": sizes.mean,
        "mean_ref": sizes.mean_ref,
        "pts": sizes.pts,
        "pts_ref": sizes.pts_ref,
        "median": ranks.median,
        "median_ref": ranks.median_ref,
        "sd": sizes.sd,
        "sd_ref": sizes.sd_ref,
        "log_fold_change": np.where((sizes.mean < 0) | (sizes.mean_ref < 0), np.nan, change),
    }
