"""One thumbnail laid on another: does it show the same picture, cropped, mirrored or brightened?

Numba compiles the loops when this is imported for the first time, and keeps them: only what has
pairs to lay on each other imports it.
"""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from featlab.system.machine import compiled

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
_BLOCK = 2048

_compiled = functools.partial(compiled, fast=True)


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
    moves, mirrored, coarse = _begun(_detail(small, _LEVELS[0], _DETAIL), a, b)
    kept = np.flatnonzero(coarse >= _LEAST_COARSE)
    if not len(kept):
        return pd.DataFrame(columns=FIT_COLUMNS)
    a, b, moves, mirrored = a[kept], b[kept], moves[kept], mirrored[kept]
    for shrink, steps in zip(_LEVELS[1:], _STEPS[1:], strict=True):
        moves, _, _ = _settled(_detail(small, shrink, _DETAIL), a, b, mirrored, moves, steps)
    fine = _detail(small, 1, _FINE)
    moves, seen, inside = _settled(fine, a, b, mirrored, moves, 0)
    similarity, overlap = _compared(fine[a], seen, inside, moves)
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
    small = thumbnails[:, ::shrink, ::shrink].astype(np.float32)
    for place in range(1, shrink**2):
        small += thumbnails[:, place // shrink :: shrink, place % shrink :: shrink]
    small /= np.float32(shrink**2)
    blur = _blur(small.shape[1], coarse)
    return (small - blur @ small @ blur.T).astype(np.float32, copy=False)


@functools.cache
def _blur(side: int, sigma: float) -> Floats:
    """Means by a Gaussian along one axis, as a matrix."""
    return gaussian_filter1d(np.eye(side), sigma, axis=0).astype(np.float32)


def _begun(level: Floats, a: Rows, b: Rows) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """The better of mirrored and not: transformations, whether mirrored, and correlations."""
    still, tried = np.tile(np.eye(2, 3, dtype=np.float32), (len(a), 1, 1)), []
    for mirror in (False, True):
        moves, seen, inside = _settled(level, a, b, np.full(len(a), mirror), still, _STEPS[0])
        tried.append((moves, _correlation(level[a], seen, inside, moves)))
    (plain, first), (turned, second) = tried
    mirrored = second > first
    moves = np.where(mirrored[:, None, None], turned, plain)
    return moves, mirrored, np.maximum(first, second)


def _settled(
    level: Floats, a: Rows, b: Rows, mirrored: NDArray[np.bool_], moves: Floats, steps: int
) -> tuple[Floats, Floats, Floats]:
    """Transformations after some steps towards the least squared difference of detail.

    Inverse compositional: the gradients are those of the fixed picture, and the inverse of each
    step is put before the transformation. Both pictures are scaled to one variance, so that a
    change of light does not count.

    Also the second pictures as seen through them, and 1 where they are: both (k, side * side).
    """
    side = level.shape[1]
    gradients = np.gradient(level, axis=(1, 2)) if steps else [np.zeros_like(level)] * 2
    down, across = (gradient * np.float32(side / 2) for gradient in gradients)
    shape = len(level), side**2
    moves = moves.reshape(-1, 6).copy()
    seen, inside = np.empty((2, len(a), side**2), np.float32)
    _lay(
        level.reshape(shape), across.reshape(shape), down.reshape(shape),
        a, b, mirrored, moves, steps, seen, inside,
    )  # fmt: skip
    return moves.reshape(-1, 2, 3), seen, inside


@_compiled
def _lay(
    level: Floats,
    across: Floats,
    down: Floats,
    a: Rows,
    b: Rows,
    mirrored: NDArray[np.bool_],
    moves: Floats,
    steps: int,
    seen: Floats,
    inside: Floats,
) -> None:
    """Moves, and what is seen through them, in place."""
    size = level.shape[1]
    side = int(np.sqrt(size))
    centres = ((np.arange(side) + 0.5) * 2 / side - 1).astype(np.float32)
    x, y = np.empty(size, np.float32), np.empty(size, np.float32)
    for row in range(side):
        x[row * side : (row + 1) * side] = centres
        y[row * side : (row + 1) * side] = centres[row]
    moving, place = np.empty(size, np.float32), np.empty(size, np.int32)
    parts = np.empty((2, size), np.float32)
    system = np.empty((6, 7))
    for pair in range(len(a)):
        fixed, other = level[a[pair]], level[b[pair]]
        for row in range(0, size, side):
            for column in range(side):
                from_right = side - 1 - column
                moving[row + column] = other[row + (from_right if mirrored[pair] else column)]
        for _ in range(steps):
            _see(moving, side, x, y, moves[pair], seen[pair], inside[pair], place, parts)
            _add_up(fixed, seen[pair], inside[pair], across[a[pair]], down[a[pair]], x, y, system)
            _solve(system)
            _compose(moves[pair], system[:, 6])
        _see(moving, side, x, y, moves[pair], seen[pair], inside[pair], place, parts)


@_compiled
def _see(
    moving: Floats,
    side: int,
    x: Floats,
    y: Floats,
    move: Floats,
    seen: Floats,
    inside: Floats,
    place: NDArray[np.int32],
    parts: Floats,
) -> None:
    """A picture as seen through a transformation, and 1 where it is; the last two are scratch."""
    half, last, most = np.float32(side / 2), np.float32(side - 1), np.float32(side - 1.001)
    nothing, one, centre = np.float32(0), np.float32(1), np.float32(0.5)
    xx, xy, x0, yx, yy, y0 = move[0], move[1], move[2], move[3], move[4], move[5]
    across, down, wide = parts[0], parts[1], np.int32(side)
    for i in range(len(x)):
        u = (xx * x[i] + xy * y[i] + x0 + one) * half - centre
        v = (yx * x[i] + yy * y[i] + y0 + one) * half - centre
        is_in = (u >= nothing) & (u <= last) & (v >= nothing) & (v <= last)
        inside[i] = one if is_in else nothing
        u, v = min(max(u, nothing), most), min(max(v, nothing), most)
        left, top = np.int32(u), np.int32(v)
        across[i], down[i] = u - np.float32(left), v - np.float32(top)
        place[i] = top * wide + left
    # By itself, so that the loop above is one for wide registers; unsigned places are not negative.
    for i in range(len(x)):
        here, right, below = np.uint64(place[i]), np.uint64(1), np.uint64(side)
        a, b = moving[here], moving[here + right]
        c, d = moving[here + below], moving[here + below + right]
        a, c = a + (b - a) * across[i], c + (d - c) * across[i]
        seen[i] = a + (c - a) * down[i]


@_compiled
def _add_up(
    fixed: Floats,
    seen: Floats,
    inside: Floats,
    across: Floats,
    down: Floats,
    x: Floats,
    y: Floats,
    system: NDArray[np.float64],
) -> None:
    """The normal equations of a step, and what they equal in column 6."""
    no = np.float32(0)
    total, mean, other, square = no, no, no, no
    for i in range(len(x)):
        total += inside[i]
        mean += fixed[i] * inside[i]
        other += seen[i] * inside[i]
        square += fixed[i] * fixed[i] * inside[i]
    total = max(total, np.float32(1))
    mean, other = mean / total, other / total
    spread, others = no, no
    for i in range(len(x)):
        difference = (fixed[i] - mean) * inside[i]
        spread += difference * difference
        difference = (seen[i] - other) * inside[i]
        others += difference * difference
    tiny = np.float32(1e-6)
    spread, others = max(np.sqrt(spread / total), tiny), max(np.sqrt(others / total), tiny)
    scale = max(np.sqrt(square / total), tiny)
    a0, ax, ay, axx, axy, ayy = no, no, no, no, no, no
    b0, bx, by, bxx, bxy, byy = no, no, no, no, no, no
    d0, dx, dy, dxx, dxy, dyy = no, no, no, no, no, no
    e0, ex, ey, f0, fx, fy = no, no, no, no, no, no
    for i in range(len(x)):
        p, q = across[i] * inside[i], down[i] * inside[i]
        error = (seen[i] - other) / others - (fixed[i] - mean) / spread
        e, f = p * error, q * error
        e0, ex, ey = e0 + e, ex + e * x[i], ey + e * y[i]
        f0, fx, fy = f0 + f, fx + f * x[i], fy + f * y[i]
        a, b, d = p * p, p * q, q * q
        a0, ax, ay = a0 + a, ax + a * x[i], ay + a * y[i]
        b0, bx, by = b0 + b, bx + b * x[i], by + b * y[i]
        d0, dx, dy = d0 + d, dx + d * x[i], dy + d * y[i]
        axx, axy, ayy = axx + a * x[i] * x[i], axy + a * x[i] * y[i], ayy + a * y[i] * y[i]
        bxx, bxy, byy = bxx + b * x[i] * x[i], bxy + b * x[i] * y[i], byy + b * y[i] * y[i]
        dxx, dxy, dyy = dxx + d * x[i] * x[i], dxy + d * x[i] * y[i], dyy + d * y[i] * y[i]
    system[0] = (axx, axy, ax, bxx, bxy, bx, ex)
    system[1] = (axy, ayy, ay, bxy, byy, by, ey)
    system[2] = (ax, ay, a0, bx, by, b0, e0)
    system[3] = (bxx, bxy, bx, dxx, dxy, dx, fx)
    system[4] = (bxy, byy, by, dxy, dyy, dy, fy)
    system[5] = (bx, by, b0, dx, dy, d0, f0)
    system[:, :6] /= scale * scale
    system[:, 6] /= scale


@_compiled
def _solve(system: NDArray[np.float64]) -> None:
    """Damped, then solved: the step is left in column 6."""
    trace = 0.0
    for i in range(6):
        trace += system[i, i]
    for i in range(6):
        system[i, i] += 1e-3 * trace / 6 + 1e-6
    for i in range(6):  # positive definite: no row need change its place
        for row in range(6):
            if row != i:
                factor = system[row, i] / system[i, i]
                for column in range(i, 7):
                    system[row, column] -= factor * system[i, column]
    for i in range(6):
        system[i, 6] = min(max(system[i, 6] / system[i, i], -0.3), 0.3)


@_compiled
def _compose(move: Floats, step: NDArray[np.float64]) -> None:
    """The transformation after the inverse of a small one, in place."""
    a, b, c, d = 1 + step[0], step[1], step[3], 1 + step[4]
    size = a * d - b * c
    a, b, c, d = d / size, -b / size, -c / size, a / size
    x, y = -(a * step[2] + b * step[5]), -(c * step[2] + d * step[5])
    for row in (0, 3):
        first, second = move[row], move[row + 1]
        move[row] = first * a + second * c
        move[row + 1] = first * b + second * d
        move[row + 2] += first * x + second * y


def _scaled(values: Floats, weights: Floats) -> Floats:
    """Values of weighted mean 0 and variance 1, 0 where they do not count."""
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    centred = (values - (values * weights).sum(axis=1, keepdims=True) / total) * weights
    spread = np.sqrt((centred**2).sum(axis=1, keepdims=True) / total)
    return centred / np.maximum(spread, np.float32(1e-6))


def _correlation(fixed: Floats, seen: Floats, inside: Floats, moves: Floats) -> Floats:
    """Of the whole of what both show; -1 where that is not plausible for a copy."""
    flat, total = fixed.reshape(len(fixed), -1), inside.sum(axis=1)
    correlation = (_scaled(flat, inside) * _scaled(seen, inside)).sum(axis=1) / np.maximum(total, 1)
    return np.where(_is_plausible(moves, inside), correlation, -1)


def _is_plausible(moves: Floats, inside: Floats) -> NDArray[np.bool_]:
    scales = np.linalg.svd(moves[:, :, :2], compute_uv=False)
    is_zoom = (scales.max(axis=1) <= _SCALES[1]) & (scales.min(axis=1) >= _SCALES[0])
    return is_zoom & (inside.mean(axis=1) >= _LEAST_CELLS / _CELLS**2)


def _compared(fixed: Floats, seen: Floats, inside: Floats, moves: Floats) -> tuple[Floats, Floats]:
    """Correlation that 85 % of the cells reach, or NaN; and the share overlapped."""
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
