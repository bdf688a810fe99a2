"""Metrics of probabilities, each with a 95 % interval, from weighted images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featlab.intervals import auroc_score_interval, wilson_interval

Floats = NDArray[np.float64]

METRICS = ("accuracy", "balanced_accuracy", "roc_auc", "log_loss")

_TINY = 1e-15  # a probability of 0 would make the log-loss infinite


def bootstrap_weights(n: int, n_boot: int, random_state: int) -> Floats:
    """How often each image is in each resample; row 0 is the sample itself."""
    rng = np.random.default_rng(random_state)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=n_boot)
    return np.vstack([np.ones(n), drawn])


def scores_of(y: NDArray[np.intp], probability: Floats, weights: Floats) -> dict[str, float]:
    """Every metric with its interval."""
    correct = probability.argmax(axis=1) == y
    low, high = wilson_interval(correct.sum(), len(y))
    scores = {
        "accuracy": float(correct.mean()),
        "accuracy_low": float(low),
        "accuracy_high": float(high),
    }
    # Resampling a perfect score can only repeat it; there the interval is a closed form's.
    closed_form = {"balanced_accuracy": _perfect_recall_low, "roc_auc": _perfect_auroc_low}
    resampled = {
        "balanced_accuracy": _balanced_accuracy(y, correct, probability.shape[1], weights),
        "roc_auc": _roc_auc(y, probability, weights),
        "log_loss": weights @ losses_of(y, probability) / len(y),
    }
    for name, values in resampled.items():
        known = values[1:][~np.isnan(values[1:])]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
        if name in closed_form and values[0] == low == high == 1.0:
            low = closed_form[name](np.bincount(y))
        scores |= {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
    return scores


def _perfect_recall_low(sizes: NDArray[np.intp]) -> float:
    """Lower limit of the mean recall when every image is right, from independent Wilson limits.

    References
    ----------
    Zou & Donner (2008). Construction of confidence limits about effect measures: a general
    approach. Statistics in Medicine 27, 1693-1702.
    """
    short = [1 - wilson_interval(n, n)[0] for n in sizes[sizes > 0]]
    return 1 - float(np.linalg.norm(short)) / len(short)


def _perfect_auroc_low(sizes: NDArray[np.intp]) -> float:
    """Lower limit of the macro AUROC when every one is 1: the mean of the classes' limits.

    The classes share their images, so their limits may well fall together.
    """
    n = sizes[sizes > 0].astype(np.float64)
    low, _ = auroc_score_interval(np.ones(len(n)), n, n.sum() - n)
    return float(low.mean())


def _balanced_accuracy(
    y: NDArray[np.intp], correct: NDArray[np.bool_], n_classes: int, weights: Floats
) -> Floats:
    """Mean recall over the classes present, per row of weights."""
    member = (y[:, None] == np.arange(n_classes)).astype(np.float64)
    with np.errstate(invalid="ignore"):
        recall = (weights @ (member * correct[:, None])) / (weights @ member)
    return _mean_of_known(recall)


def _roc_auc(y: NDArray[np.intp], probability: Floats, weights: Floats) -> Floats:
    """One-vs-rest AUROC, averaged over the classes present, per row of weights."""
    n_classes = probability.shape[1]
    columns = range(1, 2) if n_classes == 2 else range(n_classes)
    aurocs = [_weighted_auroc(y == code, probability[:, code], weights) for code in columns]
    return _mean_of_known(np.column_stack(aurocs))


def _weighted_auroc(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
    """AUROC with image weights, ties counting half; NaN where one side has no weight."""
    order = np.argsort(score)
    _, first = np.unique(score[order], return_index=True)
    mass = weights[:, order]
    above = np.add.reduceat(mass * positive[order], first, axis=1)
    below = np.add.reduceat(mass * ~positive[order], first, axis=1)
    wins = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return wins / (above.sum(axis=1) * below.sum(axis=1))


def _mean_of_known(values: Floats) -> Floats:
    """Mean of each row without its NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)


def losses_of(y: NDArray[np.intp], probability: Floats) -> Floats:
    """Log-loss of every image."""
    return -np.log(np.clip(probability[np.arange(len(y)), y], _TINY, 1.0))
