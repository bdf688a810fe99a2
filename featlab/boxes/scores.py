"""Scores of a set of images: from the IoUs of their boxes, from their heat maps and masks.

Everywhere `weights` says how often each image counts: shape ``(n,)``, or ``(b, n)`` for `b`
resamples at once (:func:`featlab.intervals.bootstrap_draws`); the result then has shape ``(b,)``.
Images without boxes are NaN and left out.

Masks are 1 on the object, 0 beside it and :data:`IGNORE` where nobody knows. Heat maps are
min-max normalised, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featlab.boxes.geometry import checked_boxes
from featlab.errors import FeatlabError

IGNORE = 255
"""Value of a mask where it is not known whether the object is there; not scored."""
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
    pairs = zip(columns, deltas, strict=True)
    return np.mean([mean_score(_hits(ious[:, k], d), weights) for k, d in pairs], axis=0)


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


def box_masks(boxes: np.ndarray, owner: np.ndarray, n: int, shape: tuple[int, int]) -> np.ndarray:
    """Which cells of a grid over the picture have their centre in a box.

    Parameters
    ----------
    boxes : array-like of shape (m, 4)
        Unit coordinates of the picture.
    owner : array-like of int of shape (m,)
        The image of each box, in ``range(n)``; an image may own several, or none.
    n : int
        Number of images.
    shape : (int, int)
        Height and width of the grid.

    Returns
    -------
    ndarray of shape (n, height, width), bool
        The union of each image's boxes. A box too small to hold a centre leaves none.
    """
    boxes = checked_boxes(boxes)
    masks = np.zeros((n, *shape), dtype=bool)
    y, x = ((np.arange(side) + 0.5) / side for side in shape)
    down = (boxes[:, 1, None] <= y) & (y <= boxes[:, 3, None])
    across = (boxes[:, 0, None] <= x) & (x <= boxes[:, 2, None])
    for i, rows, columns in zip(np.asarray(owner), down, across, strict=True):
        masks[i] |= rows[:, None] & columns
    return masks


def heat_in_mask(heat: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Share of each heat map that lies on the object.

    Parameters
    ----------
    heat : array-like of shape (n, h, w)
        In [0, 1].
    masks : array-like of shape (n, h, w)
        Bool, or 0, 1 and `IGNORE`; ignored pixels are left out.

    Returns
    -------
    ndarray of shape (n,)
        In [0, 1]; 0 for a map that is 0 everywhere. What evenly spread heat would get is the
        mask's share of the picture.

    Raises
    ------
    FeatlabError
        The heat is NaN or outside [0, 1], or the shapes differ.
    """
    heat, masks = _checked_heat(heat, masks)
    counted = np.where(masks == IGNORE, 0, heat)
    total = counted.sum(axis=(1, 2))
    inside = np.where(masks == 1, heat, 0).sum(axis=(1, 2))
    return inside / np.where(total > 0, total, 1)


def pointing_hits(heat: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The pointing game: whether each heat map's maximum lies on the object.

    Parameters
    ----------
    heat, masks
        As for :func:`heat_in_mask`.

    Returns
    -------
    ndarray of shape (n,)
        1 or 0. Pixels that share the maximum share the point; a flat map has no peak and misses.
        A peak on an ignored pixel misses.

    Raises
    ------
    FeatlabError
        As for :func:`heat_in_mask`.

    References
    ----------
    Zhang et al. (2018), Top-down neural attention by excitation backprop, IJCV 126 (without their
    tolerance of 15 pixels).
    """
    heat, masks = _checked_heat(heat, masks)
    peak = heat == heat.max(axis=(1, 2), keepdims=True)
    share = (peak & (masks == 1)).sum(axis=(1, 2)) / peak.sum(axis=(1, 2))
    return np.where(peak.all(axis=(1, 2)), 0.0, share)


def pixel_histograms(
    heat: np.ndarray, masks: np.ndarray, thresholds: np.ndarray | None = None
) -> np.ndarray:
    """Histograms of the heat on the object and beside it, for :func:`pxap`.

    Parameters
    ----------
    heat, masks
        As for :func:`heat_in_mask`.
    thresholds : array-like of shape (t,), optional
        Increasing from 0, below 1; 0, 0.01, … 0.99 by default.

    Returns
    -------
    ndarray of shape (n, 2, t + 1)
        Pixels on the object, and beside it, in the bins [threshold, next threshold), the last but
        one up to 1, the last of heat 1 alone. Ignored pixels are nowhere.

    Raises
    ------
    FeatlabError
        As for :func:`heat_in_mask`, or the thresholds do not increase from 0 to below 1.
    """
    heat, masks = _checked_heat(heat, masks)
    edges = np.arange(100) / 100 if thresholds is None else np.asarray(thresholds, dtype=float)
    if edges.ndim != 1 or not len(edges) or edges[0] != 0 or edges[-1] >= 1:
        raise FeatlabError("thresholds must increase from 0 and stay below 1.")
    if (np.diff(edges) <= 0).any():
        raise FeatlabError("thresholds must increase from 0 and stay below 1.")
    edges = np.append(edges, 1.0)
    n, k = len(heat), len(edges)
    which = np.searchsorted(edges, heat.reshape(n, -1), side="right") - 1
    flat = masks.reshape(n, -1)
    code = (np.arange(n)[:, None] * 2 + (flat == 0)) * k + which
    counts = np.bincount(code[flat != IGNORE], minlength=n * 2 * k)
    return counts.reshape(n, 2, k).astype(float)


def pxap(histograms: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """PxAP: average precision of the pixels of all images pooled.

    ``sum_k precision_k (recall_k - recall_{k-1})`` from the highest bin down.

    Parameters
    ----------
    histograms : ndarray of shape (n, 2, k)
        From :func:`pixel_histograms`.
    weights : array-like of shape (n,) or (b, n), optional
        How often each image counts.

    Returns
    -------
    ndarray of shape () or (b,)
        In [0, 1]; NaN where there is no object at all.

    References
    ----------
    Choe et al. (2020), Evaluating weakly supervised object localization methods right, CVPR.
    """
    histograms = np.asarray(histograms, dtype=float)
    n = len(histograms)
    weights = np.ones(n) if weights is None else np.asarray(weights, dtype=float)
    pooled = (weights @ histograms.reshape(n, -1)).reshape(*weights.shape[:-1], 2, -1)
    on, beside = np.cumsum(pooled[..., 0, ::-1], axis=-1), np.cumsum(pooled[..., 1, ::-1], axis=-1)
    hot = on + beside
    precision = on / np.where(hot > 0, hot, 1)
    total = on[..., -1]
    gained = np.diff(on, axis=-1, prepend=0) / np.where(total > 0, total, 1)[..., None]
    return np.where(total > 0, (precision * gained).sum(axis=-1), np.nan)


def _checked_heat(heat: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    heat, masks = np.asarray(heat), np.asarray(masks)
    if heat.ndim != 3 or heat.shape != masks.shape:
        raise FeatlabError(
            f"heat and masks must have one shape (n, h, w), got {heat.shape} and {masks.shape}."
        )
    if heat.size and not (heat.min() >= 0 and heat.max() <= 1):
        raise FeatlabError("heat must lie in [0, 1] without NaN; normalise it first.")
    return heat, masks


def _hits(ious: np.ndarray, delta: float) -> np.ndarray:
    return np.where(np.isnan(ious), np.nan, ious >= delta)


def _per_threshold(ious: np.ndarray) -> np.ndarray:
    ious = np.asarray(ious, dtype=float)
    if ious.ndim != 2 or not ious.shape[1]:
        raise FeatlabError(
            f"ious must have a row per image and a column per threshold, got shape {ious.shape}."
        )
    return ious
