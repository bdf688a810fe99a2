"""One thumbnail laid on another: does it show the same picture, cropped, mirrored or brightened?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]

FIT_COLUMNS = ["row_a", "row_b", "similarity", "overlap", "mirrored"]

# Chosen on real sets and on copies made of them; benchmarks/copies.py measures what they give.
_DETAIL, _FINE = 4.0, 2.0  # pixels (σ): what is coarser does not count in the fit, the comparison
_LEVELS, _STEPS = (4, 2, 1), (10, 5, 4)  # thumbnails are shrunk by; steps of the fit there
_LEAST_COARSE = 0.5  # correlation of the smallest thumbnails; the rest is not looked at closely
_CELLS = 6  # along each side
_WORST = 0.15  # share of the cells that may agree less: a caption, a watermark
_LEAST_CELLS = 9  # with detail, inside both pictures: a quarter of all
_LEAST_DETAIL = 1.25  # grey levels of 255 (standard deviation): less is rounding
_SCALES = (0.6, 1.7)  # a copy shows at least 60 % of each side
_BLOCK = 512


def fitted(thumbnails: NDArray[np.uint8], pairs: Rows) -> pd.DataFrame:
    """The second thumbnail of each pair laid on the first; those that fit coarsely.

    Parameters
    ----------
    thumbnails : ndarray of uint8, shape (n, 48, 48)
    pairs : ndarray of shape (m, 2)

    Returns
    -------
    DataFrame of at most m rows
        ``row_a, row_b, similarity, overlap, mirrored``, see :func:`duplicates`; the similarity is
        NaN where too little can be compared.
    """
    starts = range(0, len(pairs), _BLOCK)
    parts = [_fitted_part(thumbnails, pairs[start : start + _BLOCK]) for start in starts]
    fits = [part for part in parts if len(part)]
    return pd.concat(fits, ignore_index=True) if fits else pd.DataFrame(columns=FIT_COLUMNS)


def _fitted_part(thumbnails: NDArray[np.uint8], pairs: Rows) -> pd.DataFrame:
    rows, place = np.unique(pairs, return_inverse=True)
    a, b = place.reshape(-1, 2).T
    small = thumbnails[rows]
    levels = [_detail(small, shrink, _DETAIL) for shrink in _LEVELS]
    moves, mirrored, coarse = _begun(levels[0], a, b)
    kept = np.flatnonzero(coarse >= _LEAST_COARSE)
    if not len(kept):
        return pd.DataFrame(columns=FIT_COLUMNS)
    a, b, moves, mirrored = a[kept], b[kept], moves[kept], mirrored[kept]
    for level, steps in zip(levels[1:], _STEPS[1:], strict=True):
        moves = _settled(level[a], _turned(level[b], mirrored), moves, steps)
    fine = _detail(small, 1, _FINE)
    similarity, overlap = _compared(fine[a], _turned(fine[b], mirrored), moves)
    return pd.DataFrame(
        {
            "row_a": pairs[kept, 0],
            "row_b": pairs[kept, 1],
            "similarity": similarity,
            "overlap": overlap,
            "mirrored": mirrored,
        }
    )


def _detail(thumbnails: NDArray[np.uint8], shrink: int, coarse: float) -> Floats:
    """Thumbnails ``(k, s, s)``, shrunk, in grey levels, without their blurred selves."""
    k, side = len(thumbnails), thumbnails.shape[1] // shrink
    cells = thumbnails.reshape(k, side, shrink, side, shrink).astype(np.float32)
    small = cells.mean(axis=(2, 4))
    return small - gaussian_filter(small, (0, coarse, coarse))


def _begun(
    level: Floats, a: Rows, b: Rows
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.float32]]:
    """The better of mirrored and not: transformations, whether mirrored, and correlations."""
    fixed, still = level[a], np.tile(np.eye(2, 3, dtype=np.float32), (len(a), 1, 1))
    tried = []
    for mirror in (False, True):
        moving = _turned(level[b], np.full(len(b), mirror))
        moves = _settled(fixed, moving, still, _STEPS[0])
        tried.append((moves, _correlation(fixed, moving, moves)))
    (plain, first), (turned, second) = tried
    mirrored = second > first
    moves = np.where(mirrored[:, None, None], turned, plain)
    return moves, mirrored, np.maximum(first, second)


def _turned(pictures: Floats, mirrored: NDArray[np.bool_]) -> Floats:
    return np.where(mirrored[:, None, None], pictures[:, :, ::-1], pictures)


def _grid(side: int) -> Floats:
    """Centres of the pixels, (2, side * side): x and y from -1 to 1."""
    centres = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / side) - 1
    return np.stack(np.meshgrid(centres, centres)).reshape(2, -1)


def _moved(pictures: Floats, moves: Floats) -> tuple[Floats, Floats]:
    """Pictures as seen through transformations, and 1 where they are: both (k, side * side)."""
    k, side, _ = pictures.shape
    x, y = ((moves[:, :, :2] @ _grid(side) + moves[:, :, 2:] + 1) * (side / 2) - 0.5).swapaxes(0, 1)
    inside = (x >= 0) & (x <= side - 1) & (y >= 0) & (y <= side - 1)
    x, y = np.clip(x, 0, side - 1.001), np.clip(y, 0, side - 1.001)
    left, top = x.astype(np.int32), y.astype(np.int32)
    x, y = x - left, y - top
    place = np.arange(k, dtype=np.int32)[:, None] * side**2 + top * side + left
    flat = pictures.reshape(-1)
    above = flat[place] * (1 - x) + flat[place + 1] * x
    below = flat[place + side] * (1 - x) + flat[place + side + 1] * x
    return above * (1 - y) + below * y, inside.astype(np.float32)


def _scaled(values: Floats, weights: Floats) -> Floats:
    """Values of weighted mean 0 and variance 1, 0 where they do not count."""
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    centred = (values - (values * weights).sum(axis=1, keepdims=True) / total) * weights
    spread = np.sqrt((centred**2).sum(axis=1, keepdims=True) / total)
    return centred / np.maximum(spread, np.float32(1e-6))


def _settled(fixed: Floats, moving: Floats, moves: Floats, steps: int) -> Floats:
    """Transformations after some steps towards the least squared difference of detail.

    Inverse compositional: the gradients are those of the fixed picture, and the inverse of each
    step is put before the transformation. Both pictures are scaled to one variance, so that a
    change of light does not count.
    """
    k, side, _ = fixed.shape
    flat = fixed.reshape(k, -1)
    down, across = (g.reshape(k, -1) * (side / 2) for g in np.gradient(fixed, axis=(1, 2)))
    x, y = _grid(side)
    slopes = np.stack([across * x, across * y, across, down * x, down * y, down], axis=1)
    for _ in range(steps):
        seen, inside = _moved(moving, moves)
        spread = np.sqrt((flat**2 * inside).sum(axis=1) / np.maximum(inside.sum(axis=1), 1))
        scale = np.maximum(spread, np.float32(1e-6))[:, None]
        error = _scaled(seen, inside) - _scaled(flat, inside)
        weighted = slopes / scale[:, :, None] * inside[:, None]
        normal = weighted @ weighted.swapaxes(1, 2)
        damping = 1e-3 * np.trace(normal, axis1=1, axis2=2)[:, None, None] / 6 + 1e-6
        toward = weighted @ error[:, :, None]
        step = np.linalg.solve(normal + damping * np.eye(6, dtype=np.float32), toward)
        moves = _composed(moves, np.clip(step, -0.3, 0.3).reshape(k, 2, 3))
    return moves


def _composed(moves: Floats, step: Floats) -> Floats:
    """The transformations after the inverse of a small one."""
    last = np.tile(np.array([[[0, 0, 1]]], np.float32), (len(moves), 1, 1))
    whole = np.concatenate([step + np.eye(2, 3, dtype=np.float32), last], axis=1)
    inverse = np.linalg.inv(whole)
    return (np.concatenate([moves, last], axis=1) @ inverse)[:, :2].astype(np.float32)


def _correlation(fixed: Floats, moving: Floats, moves: Floats) -> NDArray[np.float32]:
    """Of the whole of what both show; -1 where that is not plausible for a copy."""
    seen, inside = _moved(moving, moves)
    flat, total = fixed.reshape(len(fixed), -1), inside.sum(axis=1)
    correlation = (_scaled(flat, inside) * _scaled(seen, inside)).sum(axis=1) / np.maximum(total, 1)
    return np.where(_is_plausible(moves, inside), correlation, -1)


def _is_plausible(moves: Floats, inside: Floats) -> NDArray[np.bool_]:
    scales = np.linalg.svd(moves[:, :, :2], compute_uv=False)
    is_zoom = (scales.max(axis=1) <= _SCALES[1]) & (scales.min(axis=1) >= _SCALES[0])
    return is_zoom & (inside.mean(axis=1) >= _LEAST_CELLS / _CELLS**2)


def _compared(fixed: Floats, moving: Floats, moves: Floats) -> tuple[Floats, Floats]:
    """Correlation that 85 % of the cells reach, or NaN; and the share overlapped."""
    seen, inside = _moved(moving, moves)
    k, size = len(fixed), fixed.shape[1] // _CELLS
    a, b, weights = (
        part.reshape(k, _CELLS, size, _CELLS, size).swapaxes(2, 3).reshape(-1, size**2)
        for part in (fixed, seen, inside)
    )
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    a, b = ((p - (p * weights).sum(axis=1, keepdims=True) / total) * weights for p in (a, b))
    spread_a, spread_b = (np.sqrt((p**2).sum(axis=1) / total[:, 0]) for p in (a, b))
    correlation = (a * b).sum(axis=1) / total[:, 0] / np.maximum(spread_a * spread_b, 1e-6)
    counts = weights.mean(axis=1) > 0.6
    counts &= np.maximum(spread_a, spread_b) >= _LEAST_DETAIL
    enough = counts.reshape(k, -1).sum(axis=1) >= _LEAST_CELLS
    enough &= _is_plausible(moves, inside)
    # Cells that do not count come last.
    order = np.sort(np.where(counts, correlation, np.inf).reshape(k, -1), axis=1)
    place = (_WORST * counts.reshape(k, -1).sum(axis=1)).astype(np.intp)
    reached = np.take_along_axis(order, place[:, None].clip(max=_CELLS**2 - 1), axis=1)[:, 0]
    return np.where(enough, reached, np.nan), inside.mean(axis=1)
