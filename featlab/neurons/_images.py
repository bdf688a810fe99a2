"""The images on which a neuron is most, or least, active."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError

if TYPE_CHECKING:
    from featlab.store import MapStore


def top_images(
    store: MapStore,
    neuron: int,
    k: int = 9,
    *,
    pooling: str = "mean",
    layer: str | None = None,
    rows: Sequence[int] | np.ndarray | None = None,
) -> pd.DataFrame:
    """The images on which a neuron's pooled activation is largest.

    Parameters
    ----------
    store : MapStore
    neuron : int
        Channel index.
    k : int
        How many.
    pooling : {"mean", "max"}
        Over the cells of its map.
    layer : str, optional
        The last stored layer by default.
    rows : sequence of int, optional
        Row numbers of the image table to choose among; all by default.

    Returns
    -------
    DataFrame
        row (of the image table), path, label, activation; the largest first, ties by row. With
        `k` larger than the number of images, all of them.

    Raises
    ------
    FeatlabError
        The neuron, the layer or the pooling does not exist.
    """
    return _extreme(store, neuron, k, pooling, layer, rows, largest=True)


def bottom_images(
    store: MapStore,
    neuron: int,
    k: int = 9,
    *,
    pooling: str = "mean",
    layer: str | None = None,
    rows: Sequence[int] | np.ndarray | None = None,
) -> pd.DataFrame:
    """The images on which a neuron's pooled activation is smallest; as `top_images`."""
    return _extreme(store, neuron, k, pooling, layer, rows, largest=False)


def _extreme(
    store: MapStore,
    neuron: int,
    k: int,
    pooling: str,
    layer: str | None,
    rows: Sequence[int] | np.ndarray | None,
    *,
    largest: bool,
) -> pd.DataFrame:
    c = store.map_shape(layer)[2]
    if not 0 <= neuron < c:
        raise FeatlabError(f"neuron must be from 0 to {c - 1}, got {neuron}.")
    parts = [pooled[:, neuron] for _, pooled in store.iter_pooled(layer=layer, pooling=pooling)]
    column = np.concatenate(parts)
    chosen = np.arange(len(column)) if rows is None else np.asarray(rows, dtype=np.int64)
    values = column[chosen]
    order = np.lexsort((chosen, -values if largest else values))[:k]
    table = store.images.iloc[chosen[order]][["path", "label"]].reset_index(drop=True)
    table.insert(0, "row", chosen[order])
    return table.assign(activation=values[order])
