"""From a map to a vector: one row per image, one column per neuron."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.errors import FeatlabError
from featlab.system.scratch import is_large, lines_at_once, scratch_columns

if TYPE_CHECKING:
    from featlab.store import MapStore

POOLINGS = ("mean", "max", "softmax_mean", "softmax_max", "flat")
"""Ways from a map to a vector."""


def feature_table(store: MapStore, how: str = "mean", *, layer: str | None = None) -> pd.DataFrame:
    """One vector per image from the stored maps.

    Parameters
    ----------
    store : MapStore
        The stored maps of n images, each of shape (h, w, c).
    how : {"mean", "max", "softmax_mean", "softmax_max", "flat"}
        ``mean`` and ``max`` pool each neuron's map over its positions, as the store holds them;
        ``softmax_mean`` and ``softmax_max`` are the softmax of that vector over the neurons, so a
        row sums to 1; ``flat`` is the whole map, columns in C order of (h, w, c).
    layer : str, optional
        A layer of the store; default its last.

    Returns
    -------
    DataFrame of shape (n, c), or (n, h * w * c) for ``flat``
        float32; row i is row i of the image table, columns are the neuron ids 0, 1, ...
        ``attrs`` holds ``layer`` and ``pooling``. More than 512 MB lie in a scratch file that is
        mapped into memory, column after column, and goes with the table (`take_rows` picks rows).

    Raises
    ------
    FeatlabError
        If `how` or `layer` is unknown, or there is no room for the scratch file.
    """
    if how not in POOLINGS:
        raise FeatlabError(f"how must be one of {list(POOLINGS)}, got {how!r}.")
    name = store.layers[-1] if layer is None else layer
    if name not in store.layers:
        raise FeatlabError(f"layer must be one of the store's {list(store.layers)}, got {name!r}.")
    if how == "flat":
        values = _flat(store, name)
    elif is_large(len(store.images), store.map_shape(name)[2]):
        values = _pooled_columns(store, how, name)
    else:
        values = _activated(store.pooled(layer=name, pooling=how.removeprefix("softmax_")), how)
    table = pd.DataFrame(values, copy=False)
    table.attrs.update(layer=name, pooling=how)
    return table


def softmax(X: ArrayLike) -> NDArray[np.float64]:
    """Softmax of every row, stable for any finite input.

    Parameters
    ----------
    X : array_like of shape (n, c)

    Returns
    -------
    ndarray of shape (n, c)
        Values in [0, 1]; every row sums to 1.
    """
    values = np.asarray(X, dtype=np.float64)
    # The largest exponent becomes 0, so nothing overflows.
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _activated(pooled: NDArray[np.float32], how: str) -> NDArray[np.float32]:
    if how.startswith("softmax_"):
        return softmax(pooled).astype(np.float32)
    return pooled


def _pooled_columns(store: MapStore, how: str, layer: str) -> NDArray[np.float32]:
    """Pooled activations in a scratch file, written once, many rows at a time."""
    n, c = len(store.images), store.map_shape(layer)[2]
    values = scratch_columns(n, c)
    plain = how.removeprefix("softmax_")
    for rows, pooled in store.iter_pooled(layer=layer, pooling=plain, batch=lines_at_once(c)):
        values[rows[0] : rows[-1] + 1] = _activated(pooled, how)
    return values


def _flat(store: MapStore, layer: str) -> NDArray[np.float32]:
    n, cells = len(store.images), int(np.prod(store.map_shape(layer)))
    if not n:
        raise FeatlabError("The store holds no image; extract some maps first.")
    values = scratch_columns(n, cells) if is_large(n, cells) else np.empty((n, cells), np.float32)
    for rows, maps in store.iter_maps(layer=layer):
        values[rows[0] : rows[-1] + 1] = maps.reshape(len(maps), -1)
    return values
