"""The largest connected region of many pictures at once, from the runs of hot pixels in their rows.

For one threshold, or a few: :mod:`components` finds the regions of a hundred in the time of some
ten. Both give the same boxes.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from featlab.localise.heat import normalise, resample_frame

# Maps that are up-sampled together: few enough to stay in the cache.
_BLOCK = 32


def boxes_at(heat: np.ndarray, thresholds: np.ndarray, frames: np.ndarray, grid: int) -> np.ndarray:
    """The box of the largest region of each heat map, each threshold for itself.

    Parameters
    ----------
    heat : ndarray of shape (n, h, w)
        Heat maps over the network's input.
    thresholds : ndarray of shape (t,)
        In [0, 1).
    frames : array-like of shape (n, 4)
        Where the pictures lie in the input.
    grid : int
        Side of the grid on which regions are found.

    Returns
    -------
    ndarray of shape (n, t, 4)
        On the grid, xmax and ymax exclusive; zeros where nothing exceeds the threshold.
    """
    frames = np.asarray(frames, dtype=float)
    boxes = np.zeros((len(heat), len(thresholds), 4))
    # Products this small only lose by threads.
    with threadpool_limits(1, user_api="blas"):
        for start in range(0, len(heat), _BLOCK):
            some = slice(start, start + _BLOCK)
            same = (frames[some] == frames[start]).all()
            fine = resample_frame(heat[some], frames[start] if same else frames[some], (grid, grid))
            hot = np.empty((len(fine), len(thresholds), grid, grid), dtype=bool)
            for one, target in zip(fine, hot, strict=True):
                pixels, cuts = levels(normalise(one), thresholds)
                np.greater(pixels, cuts[:, None, None], out=target)
            boxes[some] = largest_boxes(hot.reshape(-1, grid, grid)).reshape(len(fine), -1, 4)
    return boxes


def levels(fine: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A normalised map in 8 bits, and for each threshold the level that hot pixels exceed."""
    pixels = (fine * np.float32(255)).astype(np.uint8)
    return pixels, np.floor(thresholds * pixels.max()).astype(np.uint8)


def largest_boxes(hot: np.ndarray) -> np.ndarray:
    """The box around the largest 8-connected region of each picture.

    Largest is that which encloses most, measured as in :class:`components.Regions`; among equals
    the one whose first pixel comes last.

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
    chosen = order[np.flatnonzero(np.diff(picture[order], append=n))]
    # Only the runs of the chosen regions, those of one region together.
    is_chosen = np.zeros(n_regions, dtype=bool)
    is_chosen[chosen] = True
    runs = np.flatnonzero(is_chosen[region])
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
