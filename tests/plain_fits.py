"""Thumbnails laid on one another by NumPy, a step of all pairs at a time: what loops must equal."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from featlab.audit import _alignment as alignment


def plain_fits(thumbnails, pairs):
    """Similarity, overlap and whether mirrored of every pair; NaN where it is not looked at."""
    a, b = pairs.T
    level, still = detail(thumbnails, alignment._LEVELS[0], alignment._DETAIL), np.eye(2, 3)
    still = np.tile(still.astype(np.float32), (len(a), 1, 1))
    tried = []
    for mirror in (False, True):
        moving = turned(level[b], np.full(len(b), mirror))
        moves = settled(level[a], moving, still, alignment._STEPS[0])
        seen, inside = moved(moving, moves)
        tried.append((moves, alignment._correlation(level[a], seen, inside, moves)))
    (plain, first), (other, second) = tried
    mirrored = second > first
    moves = np.where(mirrored[:, None, None], other, plain)
    for shrink, steps in zip(alignment._LEVELS[1:], alignment._STEPS[1:], strict=True):
        level = detail(thumbnails, shrink, alignment._DETAIL)
        moves = settled(level[a], turned(level[b], mirrored), moves, steps)
    fine = detail(thumbnails, 1, alignment._FINE)
    seen, inside = moved(turned(fine[b], mirrored), moves)
    similarity, overlap = alignment._compared(fine[a], seen, inside, moves)
    looked_at = np.maximum(first, second) >= alignment._LEAST_COARSE
    return np.where(looked_at, similarity, np.nan), overlap, mirrored, looked_at


def detail(thumbnails, shrink, coarse):
    k, side = len(thumbnails), thumbnails.shape[1] // shrink
    cells = thumbnails.reshape(k, side, shrink, side, shrink).astype(np.float32)
    small = cells.mean(axis=(2, 4))
    return small - gaussian_filter(small, (0, coarse, coarse))


def turned(pictures, mirrored):
    return np.where(mirrored[:, None, None], pictures[:, :, ::-1], pictures)


def grid(side):
    centres = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / side) - 1
    return np.stack(np.meshgrid(centres, centres)).reshape(2, -1)


def moved(pictures, moves):
    k, side, _ = pictures.shape
    x, y = ((moves[:, :, :2] @ grid(side) + moves[:, :, 2:] + 1) * (side / 2) - 0.5).swapaxes(0, 1)
    inside = (x >= 0) & (x <= side - 1) & (y >= 0) & (y <= side - 1)
    x, y = np.clip(x, 0, side - 1.001), np.clip(y, 0, side - 1.001)
    left, top = x.astype(np.int32), y.astype(np.int32)
    x, y = x - left, y - top
    place = np.arange(k, dtype=np.int32)[:, None] * side**2 + top * side + left
    flat = pictures.reshape(-1)
    above = flat[place] * (1 - x) + flat[place + 1] * x
    below = flat[place + side] * (1 - x) + flat[place + side + 1] * x
    return above * (1 - y) + below * y, inside.astype(np.float32)


def settled(fixed, moving, moves, steps):
    k, side, _ = fixed.shape
    flat = fixed.reshape(k, -1)
    down, across = (g.reshape(k, -1) * (side / 2) for g in np.gradient(fixed, axis=(1, 2)))
    x, y = grid(side)
    slopes = np.stack([across * x, across * y, across, down * x, down * y, down], axis=1)
    for _ in range(steps):
        seen, inside = moved(moving, moves)
        spread = np.sqrt((flat**2 * inside).sum(axis=1) / np.maximum(inside.sum(axis=1), 1))
        scale = np.maximum(spread, np.float32(1e-6))[:, None]
        error = alignment._scaled(seen, inside) - alignment._scaled(flat, inside)
        weighted = slopes / scale[:, :, None] * inside[:, None]
        normal = weighted @ weighted.swapaxes(1, 2)
        damping = 1e-3 * np.trace(normal, axis1=1, axis2=2)[:, None, None] / 6 + 1e-6
        toward = weighted @ error[:, :, None]
        step = np.linalg.solve(normal + damping * np.eye(6, dtype=np.float32), toward)
        moves = composed(moves, np.clip(step, -0.3, 0.3).reshape(k, 2, 3))
    return moves


def composed(moves, step):
    last = np.tile(np.array([[[0, 0, 1]]], np.float32), (len(moves), 1, 1))
    whole = np.concatenate([step + np.eye(2, 3, dtype=np.float32), last], axis=1)
    return (np.concatenate([moves, last], axis=1) @ np.linalg.inv(whole))[:, :2].astype(np.float32)
