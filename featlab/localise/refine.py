"""A box from a heat map, corrected by what boxes of train images taught.

The box around the hot region is systematically off: it ends where the heat falls, not where the
object does. A ridge regression from the box, and from how it moves with the threshold, to the true
box mends a part of that, without the picture and without the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from featlab import boxes as bx
from featlab.errors import FeatlabError
from featlab.localise.regions import THRESHOLDS
from featlab.localise.thresholds import choose_threshold

SUFFIX = "_refined"
_STEPS = np.array([-20, -10, 10, 20])  # Further thresholds, in hundredths.
_SMALLEST = 0.02  # A side shorter than this share of the picture's counts as so long.
_FROM_IOU = 0.3
_FEWEST_PAIRS = 20
_ALPHAS = np.logspace(-1, 4, 11)
_MOST = 1.5  # Largest change of a logarithmic side.


@dataclass(frozen=True)
class BoxCorrection:
    """What :func:`fit_correction` learnt.

    Attributes
    ----------
    threshold : float
        Where the boxes that are corrected come from.
    model : Pipeline or None
        From features of the box to its correction; None leaves boxes as they are.
    """

    threshold: float
    model: Pipeline | None


def fit_correction(
    boxes: np.ndarray, iou: np.ndarray, truth: np.ndarray, owner: np.ndarray, sizes: np.ndarray
) -> BoxCorrection:
    """Learn the correction of a method's boxes on images with true boxes: the train rows.

    Parameters
    ----------
    boxes : ndarray of shape (k, 100, 4)
        Box around the largest region at each of ``THRESHOLDS``, pixels (``HeatScores.boxes``).
    iou : ndarray of shape (k, 100)
        Its IoU with the best true box (``HeatScores.iou``).
    truth : array-like of shape (m, 4)
        True boxes, pixels.
    owner : array-like of int of shape (m,)
        Which image each true box belongs to.
    sizes : array-like of shape (k, 2)
        Width and height of the pictures, pixels.

    Returns
    -------
    BoxCorrection
        At the threshold of the highest box accuracy. The target is the true box that overlaps
        most, as shift of the centre in units of the box's sides and logarithmic ratio of the sides
        [1]_; images where it overlaps by less than 0.3 are not learnt from (another object was
        found), and from fewer than 20 nothing is learnt.

    Raises
    ------
    FeatlabError
        No image has a box, or there are not 100 thresholds.

    References
    ----------
    .. [1] Girshick et al. (2014), Rich feature hierarchies for accurate object detection and
       semantic segmentation, CVPR, appendix C.
    """
    _check(boxes)
    threshold = choose_threshold(iou, THRESHOLDS)
    column = int(np.searchsorted(THRESHOLDS, threshold))
    sizes = np.asarray(sizes, dtype=float)
    own = bx.unit_boxes(boxes[:, column], sizes)
    target, overlap = _best_true_boxes(own, truth, owner, sizes)
    use = overlap >= _FROM_IOU
    if use.sum() < _FEWEST_PAIRS:
        return BoxCorrection(threshold, None)
    model = make_pipeline(StandardScaler(), RidgeCV(_ALPHAS))
    model.fit(_features(boxes, sizes, column)[use], _relative(target, own)[use])
    return BoxCorrection(threshold, model)


def corrected_boxes(correction: BoxCorrection, boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The boxes of other images, corrected.

    Parameters
    ----------
    correction : BoxCorrection
    boxes : ndarray of shape (k, 100, 4)
        As for :func:`fit_correction`.
    sizes : array-like of shape (k, 2)

    Returns
    -------
    ndarray of shape (k, 4)
        Pixels, inside the picture; an empty box stays empty.

    Raises
    ------
    FeatlabError
        There are not 100 thresholds.
    """
    _check(boxes)
    column = int(np.searchsorted(THRESHOLDS, correction.threshold))
    if correction.model is None:
        return boxes[:, column]
    sizes = np.asarray(sizes, dtype=float)
    own = bx.unit_boxes(boxes[:, column], sizes)
    shift = correction.model.predict(_features(boxes, sizes, column))
    centre, sides = _centre_and_sides(own)
    centre = centre + shift[:, :2] * sides
    half = sides * np.exp(np.clip(shift[:, 2:], -_MOST, _MOST)) / 2
    moved = np.clip(np.concatenate([centre - half, centre + half], axis=1), 0, 1)
    empty = np.any(own[:, 2:] <= own[:, :2], axis=1, keepdims=True)
    return bx.pixel_boxes(np.where(empty, 0, moved), sizes)


def _features(boxes: np.ndarray, sizes: np.ndarray, column: int) -> np.ndarray:
    """Place and size of each box ``(k, 6)``, and its boxes at other thresholds ``(k, 16)``."""
    unit = bx.unit_boxes(boxes, sizes[:, None])
    own = unit[:, column]
    others = np.clip(column + _STEPS, 0, len(THRESHOLDS) - 1)
    around = [_relative(unit[:, k], own) for k in others]
    return np.concatenate([own, np.log(_centre_and_sides(own)[1]), *around], axis=1)


def _relative(boxes: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Shift of the centre in sides of the reference, and logarithmic ratio of the sides."""
    (centre, sides), (origin, unit) = _centre_and_sides(boxes), _centre_and_sides(reference)
    return np.concatenate([(centre - origin) / unit, np.log(sides / unit)], axis=1)


def _centre_and_sides(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], _SMALLEST)
    return (boxes[:, :2] + boxes[:, 2:]) / 2, sides


def _best_true_boxes(
    own: np.ndarray, truth: np.ndarray, owner: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each box the true box of its image that overlaps most, in unit coordinates; its IoU."""
    owner = np.asarray(owner, dtype=np.int64)
    unit = bx.unit_boxes(np.asarray(truth, dtype=float), sizes[owner])
    overlap = bx.iou(own[owner], unit)
    best, target = np.full(len(own), -1.0), np.zeros_like(own)
    for i in np.argsort(overlap, kind="stable"):
        best[owner[i]], target[owner[i]] = overlap[i], unit[i]
    return target, best


def _check(boxes: np.ndarray) -> None:
    if boxes.ndim != 3 or boxes.shape[1:] != (len(THRESHOLDS), 4):
        raise FeatlabError(
            f"boxes must be (k, {len(THRESHOLDS)}, 4), one for each threshold, "
            f"got shape {boxes.shape}."
        )
