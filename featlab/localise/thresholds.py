"""One threshold for all heat maps of a method: the best on given images, and for other images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.special import expit

from featlab.errors import FeatlabError

FIXED_THRESHOLD = 0.2
_SOFT, _SMOOTH = 0.05, 4


def choose_threshold(
    ious: np.ndarray, thresholds: Sequence[float] | np.ndarray, delta: float = 0.5
) -> float:
    """The threshold with the highest box accuracy; among equals, with the highest mean IoU.

    Parameters
    ----------
    ious : array-like of shape (n, t)
        IoU of each image at each threshold; images without boxes are NaN and left out.
    thresholds : array-like of shape (t,)
    delta : float
        IoU from which a box counts.

    Returns
    -------
    float
        The lowest of those that are equal in both.

    Raises
    ------
    FeatlabError
        No image has a box, or the shapes disagree.
    """
    ious, thresholds = _checked(ious, thresholds)
    accuracy, mean = (ious >= delta).mean(axis=0), ious.mean(axis=0)
    return float(thresholds[np.lexsort((thresholds, -mean, -accuracy))[0]])


def stable_threshold(
    ious: np.ndarray, thresholds: Sequence[float] | np.ndarray, delta: float = 0.5
) -> float:
    """The threshold to use on *other* images: :func:`choose_threshold` without its noise.

    The accuracy of a few images jumps from threshold to threshold, and its maximum is a lucky one.
    Here an image counts as ``1 / (1 + exp(-(IoU - delta) / 0.05))`` instead of 0 or 1, and the mean
    over the images is smoothed over the thresholds by a Gaussian of 4 steps.

    Parameters
    ----------
    ious : array-like of shape (n, t)
        As for :func:`choose_threshold`.
    thresholds : array-like of shape (t,)
        Evenly spaced.
    delta : float

    Returns
    -------
    float
        The lowest of those that are equal.

    Raises
    ------
    FeatlabError
        As for :func:`choose_threshold`.
    """
    ious, thresholds = _checked(ious, thresholds)
    soft = expit((ious - delta) / _SOFT).mean(axis=0)
    return float(thresholds[gaussian_filter1d(soft, _SMOOTH, mode="nearest").argmax()])


def _checked(
    ious: np.ndarray, thresholds: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The IoUs of the images with boxes, and the thresholds."""
    ious, thresholds = np.asarray(ious, dtype=float), np.asarray(thresholds, dtype=float)
    if ious.ndim != 2 or ious.shape[1:] != thresholds.shape:
        raise FeatlabError(
            f"ious must have one column per threshold ({len(thresholds)}), got {ious.shape}."
        )
    ious = ious[~np.isnan(ious).any(axis=1)]
    if not len(ious):
        raise FeatlabError("no image has a box to choose a threshold on; give images with boxes.")
    return ious, thresholds
