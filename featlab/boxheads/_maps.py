"""Stored maps with fewer channels: principal components of the cells of the images fitted on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from featlab.store import MapStore

Maps = NDArray[np.float32]

CHANNELS = 128
_CELLS = 30_000  # of the images fitted on, evenly spaced, for the components
_BATCH = 64


def reduced_maps(
    store: MapStore, rows: np.ndarray, fit: np.ndarray, *, layer: str | None = None
) -> tuple[Maps, Maps]:
    """Maps of `rows` in the leading principal components of their channels.

    The components are those of cells of the images `fit` alone; maps are read in batches, so the
    whole layer is never in memory.

    Parameters
    ----------
    store : MapStore
    rows : ndarray of shape (n,)
        Row numbers of the image table.
    fit : boolean ndarray of shape (n,)
        Which of them the components are fitted on.
    layer : str, optional
        The last stored layer by default.

    Returns
    -------
    maps : ndarray of shape (n, h, w, k), float32
        ``k`` is 128, or the number of neurons where that is smaller.
    total : ndarray of shape (n, h, w), float32
        Sum over all neurons, an unsupervised heat map.
    """
    h, w, c = store.map_shape(layer)
    step = max(1, int(fit.sum()) * h * w // _CELLS)
    # A step that shares a factor with the grid would always hit the same cells.
    while step > 1 and np.gcd(step, h * w) > 1:
        step += 1
    batches = store.iter_maps(rows[fit], layer=layer, batch=_BATCH)
    sample = np.concatenate([maps.reshape(-1, c)[::step] for _, maps in batches])
    mean = sample.mean(axis=0)
    sample -= mean
    _, vectors = np.linalg.eigh((sample.T @ sample).astype(np.float64))
    k = min(CHANNELS, c)
    axes = vectors[:, ::-1][:, :k]
    axes = (axes * np.where(axes.sum(axis=0) < 0, -1.0, 1.0)).astype(np.float32)
    reduced = np.empty((len(rows), h, w, k), dtype=np.float32)
    total = np.empty((len(rows), h, w), dtype=np.float32)
    done = 0
    for _, maps in store.iter_maps(rows, layer=layer, batch=_BATCH):
        part = slice(done, done + len(maps))
        flat = maps.reshape(-1, c)
        reduced[part] = ((flat - mean) @ axes).reshape(len(maps), h, w, k)
        total[part] = maps.sum(axis=-1)
        done = part.stop
    return reduced, total


def mirror_maps(maps: np.ndarray) -> np.ndarray:
    """Maps ``(n, h, w, ...)`` mirrored left to right."""
    return maps[:, :, ::-1]


def sample_regions(maps: Maps, boxes: np.ndarray, grid: int, context: float) -> Maps:
    """Bilinear samples of each map on a grid over its box, enlarged.

    Parameters
    ----------
    maps : ndarray of shape (n, h, w, k)
    boxes : ndarray of shape (n, 4)
        Unit coordinates of the input.
    grid : int
        Cells per side of the grid.
    context : float
        The grid covers the box times this, about its centre; edges are repeated outside.

    Returns
    -------
    ndarray of shape (n, grid * grid * k), float32

    References
    ----------
    He et al. (2017), Mask R-CNN, ICCV (RoIAlign).
    """
    n, h, w, k = maps.shape
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * context / 2
    place = (np.arange(grid) + 0.5) / grid * 2 - 1
    down = _weights(centre[:, 1:] + half[:, 1:] * place, h)
    across = _weights(centre[:, :1] + half[:, :1] * place, w)
    rows = np.matmul(down, maps.reshape(n, h, w * k)).reshape(n, grid, w, k)
    return np.matmul(across[:, None], rows).reshape(n, -1)


def _weights(position: np.ndarray, cells: int) -> Maps:
    place = np.clip(position * cells - 0.5, 0, cells - 1)
    return np.clip(1 - np.abs(place[..., None] - np.arange(cells)), 0, None).astype(np.float32)
