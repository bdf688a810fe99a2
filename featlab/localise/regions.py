"""Heat map + threshold → boxes, their match with the true boxes, and one threshold for all maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.special import expit

from featlab.boxes.geometry import iou_matrix, largest_boxes, pixel_boxes, unit_boxes
from featlab.boxes.scores import IGNORE, box_masks, heat_in_mask, pixel_histograms
from featlab.errors import FeatlabError
from featlab.localise.heat import normalise, resample_frame
from featlab.system.processes import one_blas_thread

if TYPE_CHECKING:
    from featlab.localise._components import Regions

THRESHOLDS = np.arange(100) / 100
"""Thresholds at which heat maps are cut: 0, 0.01, ... 0.99."""
STEPS = (0.01, 0.001)
"""Steps of the thresholds on offer; the second is the protocol's."""
GRID = 224
_BINS = 101
# Up to so many thresholds are cheaper one by one than all at once.
_FEW_THRESHOLDS = 16
# Maps that are then up-sampled together: few enough to stay in the cache.
_BLOCK = 32
FIXED_THRESHOLD = 0.2
_SOFT, _SMOOTH = 0.05, 4
_NO_BOXES = np.zeros((0, 4))


@dataclass(frozen=True)
class HeatScores:
    """How heat maps match the true boxes of their images, at every threshold.

    Attributes
    ----------
    boxes : ndarray of shape (k, t, 4)
        Box around the largest region, pixels of the original picture.
    iou : ndarray of shape (k, t)
        IoU of that box with the best true box (MaxBoxAcc).
    iou_any : ndarray of shape (k, t)
        Best IoU of any region's box with any true box (MaxBoxAccV2).
    pointing : ndarray of shape (k,)
        The pointing game: 1, 0, or the share of the peak's pixels that lie in a true box.
    heat_in_box : ndarray of shape (k,)
        Share of the normalised heat in the true boxes.
    histograms : ndarray of shape (k, 2, 101)
        Of the heat on and beside the object's mask, for PxAP; zeros for images without mask.

    `iou`, `iou_any`, `pointing` and `heat_in_box` are NaN for images without boxes.
    """

    boxes: np.ndarray
    iou: np.ndarray
    iou_any: np.ndarray
    pointing: np.ndarray
    heat_in_box: np.ndarray
    histograms: np.ndarray


def heat_boxes(
    heat: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    *,
    frames: np.ndarray,
    sizes: np.ndarray,
    grid: int = GRID,
) -> np.ndarray:
    """The box around the largest hot region of each heat map, at each threshold.

    The picture's part of the map is up-sampled bilinearly to ``grid x grid``, scaled to [0, 1] by
    its own minimum and maximum, taken to 8 bits, and cut at ``> int(threshold * max)``. Of the
    connected regions (8 neighbours) the one that encloses most is boxed.

    Parameters
    ----------
    heat : ndarray of shape (n, h, w)
        Heat maps over the network's input.
    thresholds : array-like of shape (t,)
        In [0, 1).
    frames : array-like of shape (n, 4)
        Where the pictures lie in the input (``MapStore.frames``).
    sizes : array-like of shape (n, 2)
        Width and height of the original pictures, pixels.
    grid : int
        Side of the grid on which regions are found.

    Returns
    -------
    ndarray of shape (n, t, 4)
        Boxes in pixels of the original picture, xmax and ymax exclusive (last pixel + 1); zeros
        where nothing exceeds the threshold, as on a flat map.

    Raises
    ------
    FeatlabError
        A threshold lies outside [0, 1), or a heat map has NaN.

    Notes
    -----
    As in the reference code (``cv2.contourArea``) a region's size is the area of the polygon
    through the centres of its border pixels, so that a line has none, and among equals the last
    one counts (lowest, then rightmost first pixel). One difference: holes are not filled. On heat
    maps of real pictures the boxes were the same at every threshold; on maps of pure noise two or
    three in a thousand differ.

    References
    ----------
    Choe et al. (2020), Evaluating weakly supervised object localization methods right, CVPR.
    """
    if len(thresholds) <= _FEW_THRESHOLDS:
        boxes = _boxes_at(heat, _checked_thresholds(thresholds), frames, grid)
    else:
        boxes = np.zeros((len(heat), len(thresholds), 4))
        for i, (_, regions) in enumerate(_decompositions(heat, thresholds, frames, grid)):
            boxes[i] = regions.largest(_NO_BOXES)[0]
    return pixel_boxes(boxes / grid, np.asarray(sizes, dtype=float)[:, None])


def score_heats(
    heat: np.ndarray,
    truth: np.ndarray,
    owner: np.ndarray,
    *,
    frames: np.ndarray,
    sizes: np.ndarray,
    masks: Sequence[np.ndarray | None] | None = None,
    thresholds: Sequence[float] | np.ndarray = THRESHOLDS,
    grid: int = GRID,
) -> HeatScores:
    """Match the boxes of all regions, at all thresholds, with the true boxes.

    Parameters
    ----------
    heat : ndarray of shape (k, h, w)
        Heat maps over the network's input.
    truth : array-like of shape (m, 4)
        True boxes, pixels of the original pictures.
    owner : array-like of int of shape (m,)
        Which heat map, in ``range(k)``, each true box belongs to; several or none per map.
    masks : sequence of ndarray or None, of length k, optional
        For each picture 1 on the object, 0 beside it, ``boxes.IGNORE`` where nobody knows; of any
        size, taken to the grid by nearest neighbour.
    frames, sizes, thresholds, grid
        As for :func:`heat_boxes`.

    Returns
    -------
    HeatScores

    Raises
    ------
    FeatlabError
        As for :func:`heat_boxes`.
    """
    k, t = len(heat), len(thresholds)
    sizes = np.asarray(sizes, dtype=float)
    # Stretching both axes leaves the IoU as it is, so it is taken on the grid.
    own = [unit * grid for unit in _own_boxes(truth, owner, sizes)]
    boxes, iou, iou_any = np.zeros((k, t, 4)), np.full((k, t), np.nan), np.full((k, t), np.nan)
    pointing, inside = np.full(k, np.nan), np.full(k, np.nan)
    histograms = np.zeros((k, 2, _BINS))
    for i, (fine, regions) in enumerate(_decompositions(heat, thresholds, frames, grid)):
        boxes[i], *of_boxes = regions.largest(own[i])
        histograms[i] = _histogram(fine, masks, i)
        if i % _BLOCK == 0:
            masks_of_block = _masks([one / grid for one in own[i : i + _BLOCK]], grid)
        if len(own[i]):
            iou[i], iou_any[i] = of_boxes
            pointing[i], inside[i] = _on_object(fine, masks_of_block[i % _BLOCK])
    boxes = pixel_boxes(boxes / grid, sizes[:, None])
    return HeatScores(boxes, iou, iou_any, pointing, inside, histograms)


def score_boxes(
    boxes: np.ndarray,
    truth: np.ndarray,
    owner: np.ndarray,
    *,
    sizes: np.ndarray,
    masks: Sequence[np.ndarray | None] | None = None,
    grid: int = GRID,
) -> HeatScores:
    """The same scores for one given box per image, as if its inside were evenly hot.

    Parameters
    ----------
    boxes : array-like of shape (k, 4)
        Pixels of the original pictures.
    truth, owner, sizes, masks, grid
        As for :func:`score_heats`.

    Returns
    -------
    HeatScores
        With one "threshold". It points at its centre.
    """
    boxes, sizes = np.asarray(boxes, dtype=float), np.asarray(sizes, dtype=float)
    own = _own_boxes(truth, owner, sizes)
    filled = unit_boxes(boxes, sizes)
    iou, inside, pointing = (np.full(len(boxes), np.nan) for _ in range(3))
    histograms = np.zeros((len(boxes), 2, _BINS))
    for i, true in enumerate(own):
        heat = _masks([filled[i, None]], grid).astype(np.float32)
        histograms[i] = _histogram(heat[0], masks, i)
        if not len(true):
            continue
        iou[i] = iou_matrix(filled[i, None], true).max()
        centre = (filled[i, :2] + filled[i, 2:]) / 2
        pointing[i] = ((true[:, :2] <= centre) & (centre <= true[:, 2:])).all(axis=1).any()
        inside[i] = heat_in_mask(heat, _masks([true], grid))[0]
    one = iou[:, None]
    return HeatScores(boxes[:, None], one, one, pointing, inside, histograms)


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
    ious, thresholds = _ious_and_thresholds(ious, thresholds)
    accuracy, mean = (ious >= delta).mean(axis=0), ious.mean(axis=0)
    return float(thresholds[np.lexsort((thresholds, -mean, -accuracy))[0]])


def stable_threshold(
    ious: np.ndarray, thresholds: Sequence[float] | np.ndarray, delta: float = 0.5
) -> float:
    """The threshold to use on *other* images: :func:`choose_threshold` without its noise.

    The accuracy of a few images jumps from threshold to threshold, and its maximum is a lucky one.
    Here an image counts as ``1 / (1 + exp(-(IoU - delta) / 0.05))`` instead of 0 or 1, and the mean
    over the images is smoothed over the thresholds by a Gaussian of 4 steps (0.04, where they are
    finer than 0.01).

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
    ious, thresholds = _ious_and_thresholds(ious, thresholds)
    soft = expit((ious - delta) / _SOFT).mean(axis=0)
    width = _SMOOTH * max(1, len(thresholds) / len(THRESHOLDS))
    return float(thresholds[gaussian_filter1d(soft, width, mode="nearest").argmax()])


def thresholds_of(n: int) -> np.ndarray:
    """The `n` thresholds of a match, from 0 up to 1 in even steps."""
    return np.arange(n) / n


def _decompositions(
    heat: np.ndarray, thresholds: Sequence[float] | np.ndarray, frames: np.ndarray, grid: int
) -> Iterator[tuple[np.ndarray, Regions]]:
    """The up-sampled, normalised map and its regions at all thresholds, one image at a time."""
    from featlab.localise._components import all_regions

    thresholds = _checked_thresholds(thresholds)
    last: tuple[np.ndarray, np.ndarray] | None = None
    # Products this small only lose by threads, a hundredfold on a busy machine.
    with one_blas_thread():
        for one, frame in zip(heat, np.asarray(frames, dtype=float), strict=True):
            # One map for all pictures (the centred Gaussian) is taken apart once.
            if last is None or not (
                np.array_equal(one, last[0]) and np.array_equal(frame, last[1])
            ):
                fine = normalise(resample_frame(one, frame, (grid, grid)))
                pixels, cuts = _levels(fine, thresholds)
                regions = all_regions(pixels, cuts, height=fine)
            last = one, frame
            yield fine, regions


def _boxes_at(
    heat: np.ndarray, thresholds: np.ndarray, frames: np.ndarray, grid: int
) -> np.ndarray:
    """The box of the largest region of each map at few thresholds, ``(n, t, 4)``, on the grid."""
    frames = np.asarray(frames, dtype=float)
    boxes = np.zeros((len(heat), len(thresholds), 4))
    # Products this small only lose by threads.
    with one_blas_thread():
        for start in range(0, len(heat), _BLOCK):
            some = slice(start, start + _BLOCK)
            same = (frames[some] == frames[start]).all()
            fine = resample_frame(heat[some], frames[start] if same else frames[some], (grid, grid))
            hot = np.empty((len(fine), len(thresholds), grid, grid), dtype=bool)
            for one, target in zip(fine, hot, strict=True):
                pixels, cuts = _levels(normalise(one), thresholds)
                np.greater(pixels, cuts[:, None, None], out=target)
            boxes[some] = largest_boxes(hot.reshape(-1, grid, grid)).reshape(len(fine), -1, 4)
    return boxes


def _levels(fine: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A normalised map in 8 bits, and for each threshold the level that hot pixels exceed."""
    pixels = (fine * np.float32(255)).astype(np.uint8)
    return pixels, np.floor(thresholds * pixels.max()).astype(np.uint8)


def _checked_thresholds(thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    thresholds = np.asarray(thresholds, dtype=float)
    outside = thresholds[~((thresholds >= 0) & (thresholds < 1))]
    if len(outside):
        raise FeatlabError(f"thresholds must lie in [0, 1), got {outside[0]:g}.")
    return thresholds


def _own_boxes(truth: np.ndarray, owner: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """The true boxes of each image, in unit coordinates of the picture."""
    owner = np.asarray(owner, dtype=np.int64)
    unit = unit_boxes(np.asarray(truth, dtype=float).reshape(-1, 4), sizes[owner])
    order = np.argsort(owner, kind="stable")
    return np.split(unit[order], np.searchsorted(owner[order], np.arange(1, len(sizes))))


def _histogram(
    fine: np.ndarray, masks: Sequence[np.ndarray | None] | None, i: int
) -> np.ndarray | float:
    """Histograms ``(2, 101)`` of one map on and beside its mask; 0 without mask."""
    mask = None if masks is None else masks[i]
    if mask is None:
        return 0.0
    mask = np.asarray(mask)
    if mask.ndim != 2 or not np.isin(mask, (0, 1, IGNORE)).all():
        raise FeatlabError(f"a mask must be (height, width) of 0, 1 and {IGNORE} (ignore).")
    y, x = (
        ((np.arange(n) + 0.5) * side / n).astype(int)
        for n, side in zip(fine.shape, mask.shape, strict=True)
    )
    return pixel_histograms(fine[None], mask[y[:, None], x][None])[0]


def _masks(boxes: Sequence[np.ndarray], grid: int) -> np.ndarray:
    """The union of each picture's boxes, unit coordinates, ``(n, grid, grid)`` bool."""
    owner = np.repeat(np.arange(len(boxes)), [len(own) for own in boxes])
    return box_masks(np.concatenate(boxes), owner, len(boxes), (grid, grid))


def _on_object(fine: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """`pointing_hits` and `heat_in_mask` of one normalised map, without their checks.

    Such a map is 0 at its lowest and 1 at its highest pixels, or 0 everywhere.
    """
    from featlab.localise._components import heat_on

    peaks, hits, inside, total = heat_on(fine, mask)
    return (hits / peaks, inside / total) if peaks else (0.0, 0.0)


def _ious_and_thresholds(
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
