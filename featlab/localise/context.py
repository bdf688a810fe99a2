"""What a heat-map method may know: the class asked for, and what was learnt on the train rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from featlab import boxes as bx

if TYPE_CHECKING:
    from featlab.store import MapStore

_MOST_CELLS = 40_000
_MOST_PER_IMAGE = 100
_MOST_SCALED = 50_000


@dataclass(frozen=True)
class Cells:
    """Cells of train images, drawn at random, on which methods are fitted.

    Attributes
    ----------
    values : ndarray of shape (m, c), float32
        Activations of all neurons in a cell.
    codes : ndarray of shape (m,)
        Class of the cell's image.
    images : ndarray of shape (m,)
        Row of the image table.
    inside : ndarray of shape (m,), bool
        Whether the cell's centre lies in a box of its image; False where there are no boxes.
    boxed : ndarray of shape (m,), bool
        Whether the cell's image has a box at all.
    """

    values: np.ndarray
    codes: np.ndarray
    images: np.ndarray
    inside: np.ndarray
    boxed: np.ndarray


def scaled(maps: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Maps divided by each neuron's scale; neurons that never fire are 0."""
    return maps * np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)


def train_maxima(
    store: MapStore, train: np.ndarray, layer: str | None, random_state: int
) -> np.ndarray:
    """Max-pooled activations of the train rows, of very many a random sample."""
    rows = np.flatnonzero(train)
    if len(rows) > _MOST_SCALED:
        drawn = np.random.default_rng(random_state).choice(rows, _MOST_SCALED, replace=False)
        rows = np.sort(drawn)
    return store.pooled(rows, layer=layer, pooling="max")


def train_cells(
    store: MapStore,
    rows: np.ndarray,
    codes: np.ndarray,
    truth: pd.DataFrame,
    *,
    layer: str | None,
    random_state: int,
) -> Cells:
    """Draw cells of the given (train) rows in one pass over their maps.

    Parameters
    ----------
    store : MapStore
    rows : ndarray of shape (k,)
        Row numbers, sorted.
    codes : ndarray of shape (n,)
        Class of every image of the store.
    truth : DataFrame
        Box table; rows of other images are ignored.
    layer : str, optional
    random_state : int
    """
    rng = np.random.default_rng(random_state)
    share = min(_MOST_PER_IMAGE, max(1, _MOST_CELLS // max(len(rows), 1)))
    parts: list[tuple[np.ndarray, ...]] = []
    for chunk, maps in store.iter_maps(rows, layer=layer):
        n, h, w, c = maps.shape
        inside = cells_in_boxes(store, chunk, (h, w), truth)
        take = min(share, h * w)
        drawn = np.argsort(rng.random((n, h * w)), axis=1)[:, :take]
        image = np.repeat(np.arange(n), take)
        values = maps.reshape(n, h * w, c)[image, drawn.ravel()]
        parts.append((values, inside[image, drawn.ravel()], np.asarray(chunk)[image]))
    values, inside_all, images = (np.concatenate([part[k] for part in parts]) for k in range(3))
    boxed = np.isin(images, truth["image"].to_numpy(np.int64))
    return Cells(values, codes[images], images, inside_all, boxed)


def cells_in_boxes(
    store: MapStore, rows: Sequence[int] | np.ndarray, shape: tuple[int, int], table: pd.DataFrame
) -> np.ndarray:
    """Whether the centre of each cell lies in a box of its image, ``(k, h * w)`` bool."""
    rows = np.asarray(rows, dtype=np.int64)
    truth = table[table["image"].isin(rows)]
    image = truth["image"].to_numpy(np.int64)
    sizes = store.images[["width", "height"]].to_numpy(float)
    corners = bx.picture_to_frame(
        truth[bx.CORNERS].to_numpy(float), np.asarray(store.frames)[image], sizes[image]
    )[:, None]
    y, x = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    centre = np.stack([(x + 0.5) / shape[1], (y + 0.5) / shape[0]], axis=-1)
    inside = ((corners[..., :2] <= centre) & (centre <= corners[..., 2:])).all(axis=-1)
    cells = np.zeros((len(rows), len(centre)), dtype=bool)
    np.logical_or.at(cells, np.searchsorted(rows, image), inside)
    return cells
