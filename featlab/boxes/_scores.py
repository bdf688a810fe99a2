"""Scores of a set of images from the IoUs of their boxes, weighted so that they can be resampled.

Everywhere `weights` says how often each image counts: shape ``(n,)``, or ``(b, n)`` for `b`
resamples at once (:func:`featlab.intervals.bootstrap_draws`); the result then has shape ``(b,)``.
Images without boxes are NaN and left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featlab.errors import FeatlabError

DELTAS = (0.3, 0.5, 0.7)
"""IoU thresholds of MaxBoxAccV2."""


def box_accuracy(ious: np.ndarray, delta: float = 0.5) -> float:
    """Share of the images whose IoU is at least `delta`; NaN (no boxes) is left out.

    With boxes made for the true class this is GT-known Loc.

    Parameters
    ----------
    ious : array-like of shape (n,)
    delta : float
        In (0, 1].

    Returns
    -------
    float
        NaN if there is nothing to score.
    """
    return float(mean_score(_hits(np.asarray(ious, dtype=float), delta)))


def mean_score(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted mean of one value per image, NaN left out.

    Parameters
    ----------
    values : array-like of shape (n,) or (n, t)
    weights : array-like of shape (n,) or (b, n), optional

    Returns
    -------
    ndarray of shape (), (b,), (t,) or (b, t)
        NaN where no image counts.
    """
    values = np.asarray(values, dtype=float)
    n, rest = len(values), values.shape[1:]
    columns = values.reshape(n, -1) if n else values.reshape(0, *(rest or (1,)))
    weights = np.asarray(np.ones(n) if weights is None else weights, dtype=float)
    known = ~np.isnan(columns)
    total = np.repeat(weights.sum(axis=-1)[..., None], columns.shape[1], axis=-1)
    gaps = ~known.all(axis=0)
    if gaps.any():
        total[..., gaps] = weights @ known[:, gaps].astype(float)
    sums = weights @ np.where(known, columns, 0)
    means = np.divide(sums, total, out=np.full(total.shape, np.nan), where=total > 0)
    return means.reshape((*weights.shape[:-1], *rest))


def max_box_acc(
    ious: np.ndarray, delta: float = 0.5, weights: np.ndarray | None = None
) -> np.ndarray:
    """MaxBoxAcc: the share of images with IoU >= `delta`, at the one threshold best for all.

    An oracle: the threshold is chosen on the images it is scored on, in each resample anew.

    Parameters
    ----------
    ious : array-like of shape (n, t)
        For each threshold, IoU of the box around the *largest* region with the best true box.
    delta : float
        In (0, 1].
    weights : array-like of shape (n,) or (b, n), optional

    Returns
    -------
    ndarray of shape () or (b,)
        In [0, 1]; NaN where no image counts.

    References
    ----------
    Choe et al. (2020), Evaluating weakly supervised object localization methods right, CVPR.
    """
    return mean_score(_hits(_per_threshold(ious), delta), weights).max(axis=-1)


def max_box_acc_v2(
    ious: np.ndarray, deltas: Sequence[float] = DELTAS, weights: np.ndarray | None = None
) -> np.ndarray:
    """MaxBoxAccV2: the mean over `deltas` of :func:`max_box_acc`, each with its own threshold.

    Parameters
    ----------
    ious : array-like of shape (n, t)
        For each threshold, the best IoU of *any* region's box with any true box.
    deltas : sequence of float
    weights : array-like of shape (n,) or (b, n), optional

    Returns
    -------
    ndarray of shape () or (b,)

    References
    ----------
    Choe et al. (2020), Evaluation for weakly supervised object localization: protocol, metrics, and
    datasets, arXiv:2007.04178.
    """
    return np.mean([max_box_acc(ious, delta, weights) for delta in deltas], axis=0)


def box_acc_at(
    ious: np.ndarray,
    columns: Sequence[int],
    deltas: Sequence[float] = DELTAS,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """BoxAcc at fixed thresholds: the honest counterpart of :func:`max_box_acc_v2`.

    Parameters
    ----------
    ious : array-like of shape (n, t)
    columns : sequence of int
        For each delta the column of its threshold, chosen on *other* images.
    deltas : sequence of float
    weights : array-like of shape (n,) or (b, n), optional

    Returns
    -------
    ndarray of shape () or (b,)
        Mean over `deltas` of the share of images with IoU >= delta.
    """
    ious = _per_threshold(ious)
    chosen = zip(columns, deltas, strict=True)
    return np.mean([mean_score(_hits(ious[:, k], d), weights) for k, d in chosen], axis=0)


def top1_hits(
    ious: np.ndarray, predicted: Sequence[str], labels: Sequence[str], delta: float = 0.5
) -> np.ndarray:
    """Top-1 Loc of each image: its box counts *and* its class is right.

    Parameters
    ----------
    ious : array-like of shape (n,)
    predicted, labels : sequence of str of shape (n,)
        A head's class, and the true one.
    delta : float

    Returns
    -------
    ndarray of shape (n,)
        1 or 0; NaN for an image without boxes.

    Raises
    ------
    FeatlabError
        The lengths differ.

    Notes
    -----
    Of the box made for the *true* class. Where the class is right it is that of the predicted one
    too, and where it is wrong the image counts 0 whatever its box: so no second box is needed.
    """
    ious, right = np.asarray(ious, dtype=float), np.asarray(predicted) == np.asarray(labels)
    if right.shape != ious.shape:
        raise FeatlabError(
            f"predicted and labels must have one class for each of the {len(ious)} images, "
            f"got {len(predicted)} and {len(labels)}."
        )
    return _hits(ious, delta) * right


def success_curve(ious: np.ndarray, deltas: Sequence[float] | np.ndarray) -> np.ndarray:
    """Share of the images with IoU at least delta, for many deltas.

    Parameters
    ----------
    ious : array-like of shape (n,) or (n, t)
    deltas : array-like of shape (d,)

    Returns
    -------
    ndarray of shape (d,) or (d, t)
    """
    ious = np.asarray(ious, dtype=float)
    return np.stack([mean_score(_hits(ious, float(delta))) for delta in deltas])


def _hits(ious: np.ndarray, delta: float) -> np.ndarray:
    return np.where(np.isnan(ious), np.nan, ious >= delta)


def _per_threshold(ious: np.ndarray) -> np.ndarray:
    ious = np.asarray(ious, dtype=float)
    if ious.ndim != 2 or not ious.shape[1]:
        raise FeatlabError(
            f"ious must have a row per image and a column per threshold, got shape {ious.shape}."
        )
    return ious
