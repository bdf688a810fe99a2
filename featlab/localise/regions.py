"""Heat map + threshold → box, for a stack of maps and all thresholds at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from featlab._errors import FeatlabError
from featlab.localise.heat import normalise, resample_frame

THRESHOLDS = np.arange(0, 100, 5) / 100
_CUTS = 20


def heat_boxes(
    heat: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    *,
    frames: np.ndarray,
    sizes: np.ndarray,
    grid: int = 224,
) -> np.ndarray:
    """The box around the largest hot region of each heat map, at each threshold.

    The picture's part of the map is up-sampled bilinearly to ``grid x grid``, scaled to [0, 1] by
    its own minimum and maximum, taken to 8 bits, and cut at ``> int(threshold * max)``. Of the
    connected regions (8 neighbours) the one with most pixels is enclosed; among equals the
    uppermost, then leftmost.

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

    References
    ----------
    Choe et al. (2020), Evaluating weakly supervised object localization methods right, CVPR. The
    reference code takes the region with the largest *outline* (holes included).
    """
    thresholds = np.asarray(thresholds, dtype=float)
    if not ((thresholds >= 0) & (thresholds < 1)).all():
        raise FeatlabError(f"thresholds must lie in [0, 1), got {thresholds.tolist()}.")
    frames, sizes = np.asarray(frames, dtype=float), np.asarray(sizes, dtype=float)
    scratch = _scratch(grid, grid)
    boxes = np.zeros((len(heat), len(thresholds), 4))
    for i in range(len(heat)):
        fine = normalise(resample_frame(heat[i], frames[i], (grid, grid)))
        pixels = (fine * np.float32(255)).astype(np.uint8)
        cuts = np.floor(thresholds * pixels.max()).astype(np.uint8)
        boxes[i] = largest_region_boxes(pixels, cuts, scratch=scratch)
    return boxes / grid * np.concatenate([sizes, sizes], axis=1)[:, None]


def largest_region_boxes(
    pixels: np.ndarray, cuts: np.ndarray, *, scratch: np.ndarray | None = None
) -> np.ndarray:
    """The box around the largest 8-connected region of ``pixels > cut``, for each cut.

    Regions are found on the runs of hot pixels along the rows, not on the pixels: there are a
    hundred times fewer, and the runs of many cuts form one sparse graph.

    Parameters
    ----------
    pixels : ndarray of shape (h, w), uint8
    cuts : ndarray of shape (t,), uint8
    scratch : ndarray, optional
        From :func:`_scratch`, to use again for many images.

    Returns
    -------
    ndarray of shape (t, 4)
        xmin, ymin, xmax, ymax in pixels, the last two exclusive; zeros where nothing is hot.
    """
    height, pitch = pixels.shape[0] + 1, pixels.shape[1] + 1
    scratch = _scratch(*pixels.shape) if scratch is None else scratch
    boxes = np.zeros((len(cuts), 4))
    for first in range(0, len(cuts), _CUTS):
        part = cuts[first : first + _CUTS]
        starts, stops = _runs(pixels, part, scratch)
        if not len(starts):
            continue
        region, picture = _regions(starts, stops, pitch), starts // (pitch * height)
        keep = region == _largest(region, picture, stops - starts, len(part))[picture]
        _enclose(starts[keep], stops[keep], height, pitch, boxes[first : first + _CUTS])
    return boxes


def _scratch(height: int, width: int) -> np.ndarray:
    # Fresh memory costs more than the comparisons that fill it, so it is allocated once.
    return np.zeros((2, _CUTS * (height + 1) * (width + 1) + 1), dtype=bool)


def _runs(
    pixels: np.ndarray, cuts: np.ndarray, scratch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Start and stop of each run of hot pixels, as positions in all binary pictures in a line.

    A cold column right of every row and a cold row below every picture keep neighbours in the
    line apart that are none in the picture.
    """
    (height, width), t = pixels.shape, len(cuts)
    cells = t * (height + 1) * (width + 1)
    line, changed = scratch[0, : cells + 1], scratch[1, :cells]
    hot = line[1:].reshape(t, height + 1, width + 1)[:, :height, :width]
    np.greater(pixels, cuts[:, None, None], out=hot)
    np.not_equal(line[1:], line[:-1], out=changed)
    positions = np.flatnonzero(changed)
    return positions[::2], positions[1::2]


def _regions(starts: np.ndarray, stops: np.ndarray, pitch: int) -> np.ndarray:
    """Number of the region of each run: runs of neighbouring rows join where they touch."""
    n = len(starts)
    first = np.searchsorted(stops, starts + pitch, side="left")
    counts = np.searchsorted(starts, stops + pitch, side="right") - first
    ends = np.concatenate([[0], np.cumsum(counts)])
    below = np.arange(ends[-1]) + np.repeat(first - ends[:-1], counts)
    touching = (np.ones(len(below)), below.astype(np.int32), ends.astype(np.int32))
    return connected_components(csr_matrix(touching, shape=(n, n)), directed=False)[1]


def _largest(region: np.ndarray, picture: np.ndarray, lengths: np.ndarray, t: int) -> np.ndarray:
    """Number of the region with most pixels in each picture, -1 where there is none."""
    area = np.bincount(region, weights=lengths)
    first_run = np.unique(region, return_index=True)[1]
    owner = picture[first_run]
    order = np.lexsort((-first_run, area, owner))
    largest = np.full(t, -1)
    largest[owner[order]] = order
    return largest


def _enclose(
    starts: np.ndarray, stops: np.ndarray, height: int, pitch: int, boxes: np.ndarray
) -> None:
    """Write the box around each picture's runs into its row of `boxes`."""
    row = starts // pitch
    picture, row = row // height, row % height
    first = np.flatnonzero(np.diff(picture, prepend=-1))
    last = np.append(first[1:], len(starts)) - 1
    boxes[picture[first]] = np.stack(
        [
            np.minimum.reduceat(starts % pitch, first),
            row[first],
            np.maximum.reduceat(stops % pitch, first),
            row[last] + 1,
        ],
        axis=1,
    )
