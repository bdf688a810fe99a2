"""Wrong measures that published figures rest on; only to reproduce those figures. No script.

None of them is a score of this package, and none should be printed without the right one beside it.
"""

from __future__ import annotations

import numpy as np

from featlab.boxes.geometry import box_areas, checked_boxes
from featlab.errors import FeatlabError


def legacy_corners_as_width(boxes: np.ndarray) -> np.ndarray:
    """Boxes as a reader gets them who takes corners for (x, y, width, height).

    Only to reproduce published claims: the wrong boxes start where the right ones do and are wider
    by ``xmin`` and higher by ``ymin``, so that nearly any two overlap.

    Parameters
    ----------
    boxes : array-like of shape (..., 4)
        xmin, ymin, xmax, ymax.

    Returns
    -------
    ndarray of shape (..., 4)
        xmin, ymin, xmin + xmax, ymin + ymax.
    """
    boxes = checked_boxes(boxes)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def legacy_batch_iou(a: np.ndarray, b: np.ndarray, *, corners_as_width: bool = False) -> float:
    """Sum of the intersections over sum of the unions of a batch; disjoint pairs are left out.

    Only to reproduce published claims. It weighs large boxes more, and a prediction that misses its
    box altogether costs nothing; the right measure is the mean of :func:`iou`.

    Parameters
    ----------
    a, b : array-like of shape (n, 4)
        Paired boxes of one batch.
    corners_as_width : bool
        Read both by :func:`legacy_corners_as_width` first, as the pet-heads notebook does.

    Returns
    -------
    float
        In [0, 1]; NaN if no pair overlaps.

    Examples
    --------
    >>> legacy_batch_iou([[0, 0, 2, 2], [0, 0, 1, 1]], [[0, 0, 2, 2], [5, 5, 6, 6]])
    1.0
    """
    a, b = checked_boxes(a), checked_boxes(b)
    if corners_as_width:
        a, b = legacy_corners_as_width(a), legacy_corners_as_width(b)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    union = box_areas(a) + box_areas(b) - shared
    counted = shared > 0
    total = union[counted].sum()
    return float(shared[counted].sum() / total) if total > 0 else float("nan")


def legacy_iou_plus_one(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes whose corners are the first and the *last pixel*, hence the "+1".

    Only to reproduce published claims, among them those of ``clovaai/wsolevaluation``. Never for
    coordinates scaled to [0, 1], where the added pixel is as large as the picture.

    Parameters
    ----------
    a, b : array-like of shape (..., 4)
        Boxes in pixels; the leading axes broadcast.

    Returns
    -------
    ndarray of shape (...)
        In [0, 1].

    Raises
    ------
    FeatlabError
        The coordinates of `a` or of `b` all lie in [0, 1] and are not all 0; or an inverted box.

    Examples
    --------
    >>> float(legacy_iou_plus_one([1, 2, 5, 6], [3, 1, 4, 5])) == 8 / 27
    True
    """
    a, b = checked_boxes(a), checked_boxes(b)
    for boxes in (a, b):
        if boxes.any() and boxes.min() >= 0 and boxes.max() <= 1:
            raise FeatlabError(
                "boxes must be in pixels for the '+1' form, got coordinates in [0, 1]; "
                "use boxes.iou."
            )
        if (boxes[..., 2:] < boxes[..., :2]).any():
            raise FeatlabError("boxes must have xmin <= xmax and ymin <= ymax for the '+1' form.")
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    shared = np.clip(high - low + 1, 0, None).prod(axis=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2] + 1).prod(axis=-1) for boxes in (a, b)]
    return shared / (areas[0] + areas[1] - shared)
