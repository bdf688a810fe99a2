"""Metrics of probabilities, each with a 95 % interval, from weighted images."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featlab.heads._inputs import Floats, Ints
from featlab.intervals import auroc_score_interval, wilson_interval
from featlab.system.scratch import pieces

logger = logging.getLogger(__name__)

Counts = NDArray[np.uint8]

METRICS = ("accuracy", "balanced_accuracy", "roc_auc", "log_loss")
"""Scores of a head, each with a 95 % interval."""

_TINY = 1e-15  # a probability of 0 would make the log-loss infinite
_FEW_GROUPS = 5
_IN_CACHE = 1_000_000  # weights that are looked at together


def bootstrap_weights(
    n: int, n_boot: int, random_state: int, clusters: Ints | None = None
) -> Counts:
    """How often each image is in each resample; row 0 is the sample itself.

    With `clusters`, codes 0 … k - 1 of shape (n,), whole clusters are drawn.

    Returns
    -------
    ndarray of uint8, shape (n_boot + 1, n)
        Small numbers in bytes: of 300,000 images they are 300 MB. Average with
        :func:`weighted_means`.

    References
    ----------
    Field & Welsh (2007). Bootstrapping clustered data. Journal of the Royal Statistical Society B
    69, 369-390.
    """
    rng = np.random.default_rng(random_state)
    units = n if clusters is None else int(clusters.max()) + 1
    weights = np.ones((n_boot + 1, n), dtype=np.uint8)
    for part in pieces(n_boot, units):
        shares = np.full(units, 1 / units)
        drawn = rng.multinomial(units, shares, size=part.stop - part.start)
        if clusters is not None:
            drawn = drawn[:, clusters]
        weights[1 + part.start : 1 + part.stop] = drawn
    return weights


def weighted_means(weights: Counts, values: NDArray[Any]) -> Floats:
    """Means of images' values, ``(n,)`` or ``(n, m)``, for every row of weights."""
    sums = _weighted_sums(weights, values)
    return sums / weights.sum(axis=1).reshape(-1, *[1] * (values.ndim - 1))


def _weighted_sums(weights: Counts, values: NDArray[Any]) -> Floats:
    """``weights @ values``, with few rows of weights in double precision at once."""
    parts = [weights[part].astype(np.float64) @ values for part in pieces(*weights.shape)]
    return np.concatenate(parts)


def interval_name(hits: NDArray[np.bool_], clusters: Ints | None) -> str:
    """What :func:`share_interval` is, in words."""
    if clusters is None or not len(hits):
        return "wilson"
    kind = "wilson" if hits.all() or not hits.any() else "cluster bootstrap"
    return f"{kind} ({len(np.unique(clusters))} groups)"


def warn_of_few_groups(clusters: Ints | None) -> None:
    """Tell the log when there are too few groups for their resampling to mean much."""
    if clusters is not None and clusters.max() + 1 < _FEW_GROUPS:
        logger.warning(
            "The test images come from %d groups only: resampling so few is unreliable, and the "
            "intervals are likely too narrow.",
            int(clusters.max()) + 1,
        )


def scores_of(
    y: Ints, probability: Floats, weights: Counts, clusters: Ints | None = None
) -> dict[str, float]:
    """Every metric with its interval; `weights` are :func:`bootstrap_weights`."""
    correct = probability.argmax(axis=1) == y
    low, high = share_interval(correct, clusters, weights)
    scores = {"accuracy": float(correct.mean()), "accuracy_low": low, "accuracy_high": high}
    resampled = {
        "balanced_accuracy": _balanced_accuracy(y, correct, probability.shape[1], weights),
        "roc_auc": _roc_auc(y, probability, weights),
        "log_loss": weighted_means(weights, losses_of(y, probability)),
    }
    for name, values in resampled.items():
        low, high = percentiles(values[1:])
        # Resampling a perfect score can only repeat it; there the interval is a closed form's.
        if name != "log_loss" and values[0] == low == high == 1.0:
            low = perfect_low(name, _class_sizes(y, clusters))
        scores |= {name: float(values[0]), f"{name}_low": low, f"{name}_high": high}
    return scores


def share_interval(
    hits: NDArray[np.bool_],
    clusters: Ints | None = None,
    weights: Counts | None = None,
    *,
    n_boot: int = 1000,
    random_state: int = 0,
) -> tuple[float, float]:
    """95 % interval of the share of hits: Wilson's, or the cluster bootstrap's.

    Few clusters of like shares would give a spuriously narrow bootstrap, so it is widened to
    Wilson's where that reaches further. Where all clustered images hit, or all miss, resampling can
    only repeat that; then it is Wilson's interval of as many images as there are clusters.

    Parameters
    ----------
    hits : ndarray of shape (n,)
    clusters : ndarray of shape (n,), optional
        Codes of the groups; need not be consecutive.
    weights : ndarray of shape (n_boot + 1, n), optional
        :func:`bootstrap_weights`; drawn here if not given.

    Returns
    -------
    low, high : float
        In [0, 1]; NaN without images.
    """
    n = len(hits)
    if clusters is None or not n:
        return wilson_interval(int(hits.sum()), n)
    _, clusters = np.unique(clusters, return_inverse=True)
    k = int(clusters.max()) + 1
    if hits.all() or not hits.any():
        return wilson_interval(k * int(hits[0]), k)
    if weights is None:
        weights = bootstrap_weights(n, n_boot, random_state, clusters)
    means = weighted_means(weights, hits)[1:]
    return hull(percentiles(means), wilson_interval(int(hits.sum()), n))


def hull(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The least interval that holds both."""
    return min(one[0], other[0]), max(one[1], other[1])


def percentiles(values: Floats) -> tuple[float, float]:
    """The 2.5 and the 97.5 % point without NaN; NaN where nothing is left."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def perfect_low(metric: str, sizes: Ints) -> float:
    """Lower limit of a perfect score of a share; `sizes` are the images of each class."""
    if metric == "balanced_accuracy":
        return _perfect_recall_low(sizes)
    if metric == "roc_auc":
        return _perfect_auroc_low(sizes)
    return wilson_interval(int(sizes.sum()), int(sizes.sum()))[0]


def _class_sizes(y: Ints, clusters: Ints | None) -> Ints:
    """Images of each class, or groups where there are any."""
    if clusters is None:
        return np.bincount(y)
    return np.bincount(np.unique(np.column_stack([y, clusters]), axis=0)[:, 0])


def _perfect_recall_low(sizes: Ints) -> float:
    """Lower limit of the mean recall when every image is right, from independent Wilson limits.

    References
    ----------
    Zou & Donner (2008). Construction of confidence limits about effect measures: a general
    approach. Statistics in Medicine 27, 1693-1702.
    """
    short = [1 - wilson_interval(n, n)[0] for n in sizes[sizes > 0]]
    return 1 - float(np.linalg.norm(short)) / len(short)


def _perfect_auroc_low(sizes: Ints) -> float:
    """Lower limit of the macro AUROC when every one is 1: the mean of the classes' limits.

    The classes share their images, so their limits may well fall together.
    """
    n = sizes[sizes > 0].astype(np.float64)
    low, _ = auroc_score_interval(np.ones(len(n)), n, n.sum() - n)
    return float(low.mean())


def _balanced_accuracy(
    y: Ints, correct: NDArray[np.bool_], n_classes: int, weights: Counts
) -> Floats:
    """Mean recall over the classes present, per row of weights."""
    member = (y[:, None] == np.arange(n_classes)).astype(np.float64)
    with np.errstate(invalid="ignore"):
        hits = _weighted_sums(weights, member * correct[:, None])
        recall = hits / _weighted_sums(weights, member)
    return _mean_of_known(recall)


def _roc_auc(y: Ints, probability: Floats, weights: Counts) -> Floats:
    """One-vs-rest AUROC, averaged over the classes present, per row of weights."""
    n_classes = probability.shape[1]
    columns = range(1, 2) if n_classes == 2 else range(n_classes)
    aurocs = [_weighted_auroc(y == code, probability[:, code], weights) for code in columns]
    return _mean_of_known(np.column_stack(aurocs))


def _weighted_auroc(positive: NDArray[np.bool_], score: Floats, weights: Counts) -> Floats:
    """AUROC with image weights, ties counting half; NaN where one side has no weight."""
    order = np.argsort(score)
    ordered, member = score[order], positive[order]
    first = np.searchsorted(ordered, ordered[member], "left")
    last = np.searchsorted(ordered, ordered[member], "right")
    found, step = [], max(1, _IN_CACHE // len(order))
    for start in range(0, len(weights), step):
        mass = weights[start : start + step, order]
        # Weight of the rest below each place: halfway between below its ties and with them.
        below = np.zeros((len(mass), len(order) + 1), dtype=np.int64)
        np.cumsum(mass * ~member, axis=1, out=below[:, 1:])
        own = mass[:, member].astype(np.float64)
        wins = np.einsum("ij,ij->i", own, (below[:, first] + below[:, last]) / 2)
        with np.errstate(invalid="ignore"):
            found.append(wins / (own.sum(axis=1) * below[:, -1]))
    return np.concatenate(found)


def _mean_of_known(values: Floats) -> Floats:
    """Mean of each row without its NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)


def losses_of(y: Ints, probability: Floats) -> Floats:
    """Log-loss of every image."""
    return -np.log(np.clip(probability[np.arange(len(y)), y], _TINY, 1.0))
