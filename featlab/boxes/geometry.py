"""Box geometry: overlap, coordinates, baselines.

A box is ``xmin, ymin, xmax, ymax`` in continuous coordinates: its width is ``xmax - xmin``, without
the "+1" of pixel-counting code. Three systems of coordinates occur: pixels of the original picture,
unit coordinates of the picture, and unit coordinates of the network's square input, in which the
picture may be letterboxed; a *frame* says where in the input the picture lies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from featlab.arguments import row_numbers
from featlab.errors import FeatlabError

CORNERS = ["xmin", "ymin", "xmax", "ymax"]
"""Columns of a box, in order: pixels of the original picture, continuous."""
_CENTRE_SIGMA = 0.25


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of paired boxes.

    Parameters
    ----------
    a, b : array-like of shape (..., 4)
        Boxes in the same coordinates; the leading axes broadcast.

    Returns
    -------
    ndarray of shape (...)
        In [0, 1]; 0 where either box is empty (no width or no height).

    Raises
    ------
    FeatlabError
        A coordinate is NaN or infinite.

    Examples
    --------
    >>> float(iou([0, 0, 2, 2], [1, 0, 3, 2]))
    0.3333333333333333
    """
    a, b = checked_boxes(a), checked_boxes(b)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., 2:], b[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    area_a, area_b = box_areas(a), box_areas(b)
    solid = (area_a > 0) & (area_b > 0)
    union = np.where(solid, area_a + area_b - shared, 1)
    return np.where(solid, shared / union, 0.0)


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of `a` with every box of `b`.

    Parameters
    ----------
    a : array-like of shape (n, 4)
    b : array-like of shape (m, 4)

    Returns
    -------
    ndarray of shape (n, m)
        See :func:`iou`.
    """
    return iou(checked_boxes(a)[:, None], checked_boxes(b)[None])


def best_iou(
    predicted: np.ndarray, rows: Sequence[int] | np.ndarray, box_table: pd.DataFrame
) -> np.ndarray:
    """IoU of each predicted box with the best ground-truth box of its image.

    Parameters
    ----------
    predicted : array-like of shape (k, 4) or (k, t, 4)
        Boxes in pixels of the original picture; `t` per image, e.g. one for each threshold.
    rows : array-like of shape (k,)
        Row number in the image table of each prediction.
    box_table : DataFrame
        Columns image, xmin, ymin, xmax, ymax.

    Returns
    -------
    ndarray of shape (k,) or (k, t)
        NaN for an image without boxes.
    """
    predicted = checked_boxes(predicted)
    pair, truth, has_box = _truth_pairs(rows, box_table)
    truth = truth.reshape(len(pair), *(1,) * (predicted.ndim - 2), 4)
    return _best_of_pairs(iou(predicted[pair], truth), pair, has_box)


def centre_in_box(
    predicted: np.ndarray, rows: Sequence[int] | np.ndarray, box_table: pd.DataFrame
) -> np.ndarray:
    """Whether the centre of each predicted box lies in a ground-truth box of its image.

    Parameters
    ----------
    predicted, rows, box_table
        As in :func:`best_iou`.

    Returns
    -------
    ndarray of shape (k,) or (k, t)
        1, or 0 (an empty prediction has no centre: 0); NaN for an image without boxes.
    """
    predicted = checked_boxes(predicted)
    pair, truth, has_box = _truth_pairs(rows, box_table)
    truth = truth.reshape(len(pair), *(1,) * (predicted.ndim - 2), 4)
    boxes = predicted[pair]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    inside = ((truth[..., :2] <= centre) & (centre <= truth[..., 2:])).all(axis=-1)
    inside &= box_areas(boxes) > 0
    return _best_of_pairs(inside.astype(float), pair, has_box)


def unit_boxes(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Pixels of the original picture → unit coordinates of the picture.

    Parameters
    ----------
    boxes : array-like of shape (n, 4)
    sizes : array-like of shape (n, 2)
        Width and height of each picture, pixels.

    Returns
    -------
    ndarray of shape (n, 4)
    """
    return checked_boxes(boxes) / _corner_sizes(sizes)


def pixel_boxes(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Unit coordinates of the picture → pixels; the inverse of :func:`unit_boxes`."""
    return checked_boxes(boxes) * _corner_sizes(sizes)


def frame_to_picture(boxes: np.ndarray, frames: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Unit coordinates of the network's input → pixels of the original picture.

    Parameters
    ----------
    boxes : array-like of shape (n, 4)
        Boxes in unit coordinates of the square input.
    frames : array-like of shape (n, 4)
        Left, top, right, bottom of the picture in the input (``MapStore.frames``).
    sizes : array-like of shape (n, 2)
        Width and height of the original pictures, pixels.

    Returns
    -------
    ndarray of shape (n, 4)
        Clipped to the picture; a box that lies in the padding becomes empty.
    """
    frames = checked_boxes(frames)
    origin, extent = _frame_parts(frames)
    inside = np.clip((checked_boxes(boxes) - origin) / extent, 0, 1)
    return inside * _corner_sizes(sizes)


def picture_to_frame(boxes: np.ndarray, frames: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Pixels of the original picture → unit coordinates of the network's input.

    Parameters
    ----------
    boxes, frames, sizes
        As in :func:`frame_to_picture`, whose inverse this is.

    Returns
    -------
    ndarray of shape (n, 4)
    """
    origin, extent = _frame_parts(checked_boxes(frames))
    return unit_boxes(boxes, sizes) * extent + origin


def whole_picture_boxes(sizes: np.ndarray) -> np.ndarray:
    """The baseline that predicts the whole picture.

    Parameters
    ----------
    sizes : array-like of shape (n, 2)
        Width and height, pixels.

    Returns
    -------
    ndarray of shape (n, 4)
    """
    corners = _corner_sizes(sizes)
    return corners * np.array([0.0, 0.0, 1.0, 1.0])


def mean_box(
    box_table: pd.DataFrame, sizes: np.ndarray, rows: Sequence[int] | np.ndarray | None
) -> np.ndarray:
    """The mean of all boxes of the given images, in unit coordinates of the picture.

    Parameters
    ----------
    box_table : DataFrame
        Columns image, xmin, ymin, xmax, ymax.
    sizes : array-like of shape (n, 2)
        Width and height of *every* image of the image table.
    rows : sequence of int, or mask of shape (n,)
        Images whose boxes are averaged; the training rows, for an honest baseline.

    Returns
    -------
    ndarray of shape (4,)

    Raises
    ------
    FeatlabError
        None of these images has a box.
    """
    sizes = np.asarray(sizes, dtype=float)
    own = box_table[box_table["image"].isin(row_numbers(rows, len(sizes)))]
    if own.empty:
        raise FeatlabError("none of the given rows has a box; give rows with boxes to average.")
    return unit_boxes(own[CORNERS].to_numpy(float), sizes[own["image"].to_numpy()]).mean(axis=0)


def centre_heat(shape: tuple[int, int]) -> np.ndarray:
    """The centred Gaussian, a heat map that has seen nothing.

    Its standard deviation is a quarter of the side, along each axis. The value hardly matters:
    the threshold picks the size of the box, and from 0.05 to 0.95 it runs from nearly the whole
    picture to a sixth of its side.

    Parameters
    ----------
    shape : tuple of int
        Height and width.

    Returns
    -------
    ndarray of shape (height, width), float32

    References
    ----------
    Choe et al. (2020), Evaluating weakly supervised object localization methods right, CVPR
    (the "center baseline").
    """
    rows, columns = (
        np.exp(-0.5 * (((np.arange(n) + 0.5) / n - 0.5) / _CENTRE_SIGMA) ** 2) for n in shape
    )
    return np.outer(rows, columns).astype(np.float32)


def checked_boxes(boxes: np.ndarray) -> np.ndarray:
    """Boxes as floats; a FeatlabError unless they are finite and have 4 columns."""
    boxes = np.asarray(boxes, dtype=float)
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise FeatlabError(
            f"boxes must have 4 columns (xmin, ymin, xmax, ymax), got shape {boxes.shape}."
        )
    if not np.isfinite(boxes).all():
        raise FeatlabError("boxes must be finite, got NaN or infinity; drop those rows first.")
    return boxes


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Width times height; 0 for an empty or inverted box."""
    return np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(axis=-1)


def _corner_sizes(sizes: np.ndarray) -> np.ndarray:
    sizes = np.asarray(sizes, dtype=float)
    if sizes.ndim == 0 or sizes.shape[-1] != 2 or not (sizes > 0).all():
        raise FeatlabError("sizes must be positive pairs of width and height, in pixels.")
    return np.concatenate([sizes, sizes], axis=-1)


def _frame_parts(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    extent = frames[..., 2:] - frames[..., :2]
    if not (extent > 0).all():
        raise FeatlabError("frames must have a width and a height (left, top, right, bottom).")
    return np.concatenate([frames[..., :2]] * 2, axis=-1), np.concatenate([extent] * 2, axis=-1)


def _truth_pairs(
    rows: Sequence[int] | np.ndarray, box_table: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every (prediction, ground-truth box of its image), ordered by prediction.

    Returns the prediction's position ``(p,)``, the box ``(p, 4)``, and which predictions have
    any ``(k,)``.
    """
    rows = np.asarray(rows, dtype=np.int64)
    images = box_table["image"].to_numpy(np.int64)
    order = np.argsort(images, kind="stable")
    first = np.searchsorted(images[order], rows, side="left")
    counts = np.searchsorted(images[order], rows, side="right") - first
    pair = np.repeat(np.arange(len(rows)), counts)
    nth = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
    own = order[np.repeat(first, counts) + nth]
    return pair, checked_boxes(box_table[CORNERS].to_numpy(float)[own]), counts > 0


def _best_of_pairs(scores: np.ndarray, pair: np.ndarray, has_box: np.ndarray) -> np.ndarray:
    best = np.full((len(has_box), *scores.shape[1:]), np.nan)
    if len(pair):
        starts = np.flatnonzero(np.diff(pair, prepend=-1))
        best[has_box] = np.maximum.reduceat(scores, starts, axis=0)
    return best


def largest_boxes(hot: np.ndarray) -> np.ndarray:
    """The box around the largest 8-connected region of each picture.

    Largest is that which encloses most, measured as in :func:`featlab.localise.heat_boxes`; among
    equals the one whose first pixel comes last.

    Parameters
    ----------
    hot : ndarray of shape (n, h, w), bool

    Returns
    -------
    ndarray of shape (n, 4)
        xmin, ymin, xmax, ymax in pixels, the last two exclusive; zeros where nothing is hot.

    Notes
    -----
    Two runs [a, b) and [c, d) of neighbouring rows that share L > 0 columns enclose L - 1 squares
    of four pixels, and half a square at each end at which one of them reaches further.
    """
    n, height, width = hot.shape
    boxes = np.zeros((n, 4))
    # A cold column and row behind each picture: no run goes on into the next row or picture.
    padded = np.zeros((n, height + 1, width + 1), dtype=bool)
    padded[:, :height, :width] = hot
    flat = padded.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        changes = np.concatenate([[0], changes])
    starts, ends = changes[::2], changes[1::2]
    if not len(starts):
        return boxes
    upper, lower = _touching(starts, ends, width + 1)
    links = coo_array((np.ones(len(upper), bool), (upper, lower)), shape=(len(starts),) * 2)
    n_regions, region = connected_components(links, directed=False)
    a, b = starts[upper], ends[upper]
    c, d = starts[lower] - (width + 1), ends[lower] - (width + 1)
    shared = np.minimum(b, d) - np.maximum(a, c)
    twice = np.where(shared > 0, 2 * (shared - 1) + (a != c) + (b != d), 0)
    enclosed = np.bincount(region[upper], weights=twice, minlength=n_regions)
    line, xmin = np.divmod(starts, width + 1)
    xmax = xmin + ends - starts
    first = np.full(n_regions, len(starts))
    np.minimum.at(first, region, np.arange(len(starts)))
    picture = line[first] // (height + 1)
    order = np.lexsort((first, enclosed, picture))
    largest = np.zeros(n_regions, dtype=bool)
    largest[order[np.flatnonzero(np.diff(picture[order], append=n))]] = True
    # Only the runs of these regions, those of one region together.
    runs = np.flatnonzero(largest[region])
    runs = runs[np.argsort(region[runs], kind="stable")]
    begin = np.flatnonzero(np.diff(region[runs], prepend=-1))
    row = line[runs] % (height + 1)
    boxes[picture[region[runs[begin]]]] = np.stack(
        [
            np.minimum.reduceat(xmin[runs], begin),
            np.minimum.reduceat(row, begin),
            np.maximum.reduceat(xmax[runs], begin),
            np.maximum.reduceat(row, begin) + 1,
        ],
        axis=1,
    )
    return boxes


def _touching(starts: np.ndarray, ends: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of runs of neighbouring rows that touch, if only by a corner."""
    first = np.searchsorted(ends, starts + stride, side="left")
    last = np.searchsorted(starts, ends + stride, side="right")
    count = last - first
    upper = np.repeat(np.arange(len(starts)), count)
    before = np.cumsum(count) - count
    return upper, np.arange(len(upper)) - before[upper] + first[upper]
