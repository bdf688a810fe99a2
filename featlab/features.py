"""From a map to a vector: one row per image, one column per neuron."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab._errors import FeatlabError

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
        ``attrs`` holds ``layer`` and ``pooling``.

    Raises
    ------
    FeatlabError
        If `how` or `layer` is unknown.
    """
    if how not in POOLINGS:
        raise FeatlabError(f"how must be one of {list(POOLINGS)}, got {how!r}.")
    name = store.layers[-1] if layer is None else layer
    if name not in store.layers:
        raise FeatlabError(f"layer must be one of the store's {list(store.layers)}, got {name!r}.")
    values: NDArray[Any]
    if how == "flat":
        values = _flat(store, name)
    else:
        values = store.pooled(how.removeprefix("softmax_"), layer=name)
    if how.startswith("softmax_"):
        values = softmax(values)
    table = pd.DataFrame(values.astype(np.float32, copy=False))
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


def _flat(store: MapStore, layer: str) -> NDArray[np.float32]:
    table: NDArray[np.float32] | None = None
    for rows, maps in store.iter_maps(layer=layer):
        if table is None:
            table = np.empty((len(store.images), maps[0].size), dtype=np.float32)
        table[rows] = maps.reshape(len(maps), -1)
    if table is None:
        raise FeatlabError("The store holds no image; extract some maps first.")
    return table
