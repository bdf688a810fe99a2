"""From a map to a vector: one row per image, one column per neuron.

A table too large for memory lies in a scratch file instead (`feature_table`), and everything after
it reads it in blocks; `take_rows` picks rows of such a table without loading it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.linalg import eigh
from scipy.special import softmax

from featlab.arguments import (
    check_choice,
    check_whole,
    feature_columns,
    finite_matrix,
    row_numbers,
)
from featlab.errors import FeatlabError
from featlab.results.images import Components
from featlab.store import MapStore
from featlab.system.machine import (
    double_rows,
    is_large,
    lines_at_once,
    matrix_rows,
    pieces,
    scratch_columns,
)

__all__ = ["feature_table", "take_rows"]


_MOST_TURNED = 10_000

POOLINGS = ("mean", "max", "softmax_mean", "softmax_max", "flat")
"""Ways from a map to a vector."""


def feature_table(
    store: MapStore, *, layer: str | None = None, pooling: str = "mean"
) -> pd.DataFrame:
    """One vector per image from the stored maps.

    Parameters
    ----------
    store : MapStore
        The stored maps of n images, each of shape (h, w, c).
    layer : str, optional
        A layer of the store; default its last.
    pooling : {"mean", "max", "softmax_mean", "softmax_max", "flat"}
        ``mean`` and ``max`` pool each neuron's map over its positions, as the store holds them;
        ``softmax_mean`` and ``softmax_max`` are the softmax of that vector over the neurons, so a
        row sums to 1; ``flat`` is the whole map, columns in C order of (h, w, c).

    Returns
    -------
    DataFrame of shape (n, c), or (n, h * w * c) for ``flat``
        float32; row i is row i of the image table. The columns have the levels ``layer``,
        ``pooling`` and ``neuron`` (0, 1, ...). More than 512 MB lie in a scratch file that is
        mapped into memory, column after column, and goes with the table (`take_rows` picks rows).

    Raises
    ------
    FeatlabError
        If `pooling` or `layer` is unknown, or there is no room for the scratch file.
    """
    check_choice("pooling", pooling, POOLINGS)
    name = store.layers[-1] if layer is None else layer
    check_choice("layer", name, store.layers)
    if pooling == "flat":
        values = _flat(store, name)
    elif is_large(len(store.images), store.map_shape(name)[2]):
        values = _pooled_columns(store, pooling, name)
    else:
        values = _activated(
            store.pooled(layer=name, pooling=pooling.removeprefix("softmax_")), pooling
        )
    columns = feature_columns(name, pooling, values.shape[1])
    return pd.DataFrame(values, columns=columns, copy=False)


def take_rows(X: pd.DataFrame, rows: Any) -> pd.DataFrame:
    """Some rows of a table of features, in a scratch file where they are too many for memory.

    Parameters
    ----------
    X : DataFrame of shape (n, c)
        From `feature_table`.
    rows : array_like
        Row numbers, or a mask of shape (n,).

    Returns
    -------
    DataFrame of shape (k, c)
        As ``X.iloc[rows]``.

    Raises
    ------
    FeatlabError
        The rows do not fit the table, or there is no room for the scratch file.
    """
    places = row_numbers(rows, X)
    if not is_large(len(places), X.shape[1]):
        return X.iloc[places]
    taken = matrix_rows(X.to_numpy(), places)
    return pd.DataFrame(taken, index=X.index[places], columns=X.columns, copy=False)


def _activated(pooled: NDArray[np.float32], pooling: str) -> NDArray[np.float32]:
    if pooling.startswith("softmax_"):
        return softmax(pooled.astype(np.float64), axis=1).astype(np.float32)
    return pooled


def _pooled_columns(store: MapStore, pooling: str, layer: str) -> NDArray[np.float32]:
    """Pooled activations in a scratch file, written once, many rows at a time."""
    n, c = len(store.images), store.map_shape(layer)[2]
    values, over_cells = scratch_columns(n, c), pooling.removeprefix("softmax_")
    parts = store.iter_pooled(layer=layer, pooling=over_cells, batch=lines_at_once(c))
    for rows, pooled in parts:
        values[rows[0] : rows[-1] + 1] = _activated(pooled, pooling)
    return values


def _flat(store: MapStore, layer: str) -> NDArray[np.float32]:
    n, cells = len(store.images), int(np.prod(store.map_shape(layer)))
    if not n:
        raise FeatlabError("The store holds no image; extract some maps first.")
    values = scratch_columns(n, cells) if is_large(n, cells) else np.empty((n, cells), np.float32)
    for rows, maps in store.iter_maps(layer=layer):
        values[rows[0] : rows[-1] + 1] = maps.reshape(len(maps), -1)
    return values


Floats = NDArray[np.float64]


def principal_components(
    X: pd.DataFrame | ArrayLike,
    k: int,
    *,
    standardised: bool = False,
    dtype: DTypeLike = np.float64,
    of: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray,
) -> Components:
    """Exact principal components, of many rows from one pass over blocks of them.

    The sums of products are added up in double precision around the mean of the first block, so
    that a large mean does not drown the variance. Of fewer rows than columns the products of the
    rows tell the same.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Finite; in memory or in a scratch file.
    k : int
        Components, at most c; those beyond the rank may be zeros.
    standardised : bool
        Whether columns are divided by their standard deviation; those that do not vary get no
        part in any component.
    dtype : data type
        In which rows are multiplied; single precision takes half the time, and is good to 1e-6 of
        the variance. Blocks are added up in double precision either way.
    of : callable, optional
        What the components are of: a function of some rows, such as their logarithms, which are
        then never there of all rows at once.

    Returns
    -------
    Components

    Raises
    ------
    FeatlabError
        Another shape, no image, NaN or infinite values, `k` out of range.

    References
    ----------
    Chan, Golub & LeVeque (1983). Algorithms for computing the sample variance. The American
    Statistician 37, 242-247 (shifted data).
    """
    values = finite_matrix(X)
    n, c = values.shape
    if not n:
        raise FeatlabError("X holds no image; there are no components of nothing.")
    check_whole("k", k, 1, c)
    mean, variance, products = _moments(values, np.dtype(dtype), of)
    scale = np.ones(c)
    if standardised:
        # What rounding leaves of a column that does not vary is no variance.
        varying = variance > 1e-20 * np.maximum(mean**2, np.finfo(float).tiny)
        scale = np.where(varying, np.sqrt(variance), np.inf)
    if products is None:
        axes, sizes = _axes_of_rows(((of(values) - mean) / scale).astype(dtype, copy=False), k)
    else:
        products /= np.outer(scale, scale)
        products = products.astype(dtype, copy=False)
        sizes, vectors = eigh(products, subset_by_index=(c - k, c - 1))
        axes, sizes = vectors.T[::-1], sizes[::-1]
    axes = axes * np.sign(axes[np.arange(k), np.abs(axes).argmax(axis=1)])[:, None]
    total = float((variance / scale**2).sum()) * n
    shares = np.maximum(sizes, 0) / total if total > 0 else np.zeros(k)
    return Components(mean, np.where(np.isfinite(scale), scale, 1.0), axes, shares)


def _moments(
    values: NDArray[Any], dtype: np.dtype[Any], of: Callable[[NDArray[Any]], NDArray[Any]]
) -> tuple[Floats, Floats, Floats | None]:
    """Mean, variance and sums of products ``(c, c)`` of columns; none where rows are fewer."""
    n, c = values.shape
    if n < c and not is_large(n, c):
        block = of(values).astype(np.float64)
        return block.mean(axis=0), block.var(axis=0), None
    shift, sums, products = np.zeros(c, dtype), np.zeros(c), np.zeros((c, c))
    for part in pieces(n, c):
        block = of(np.array(values[part], dtype=dtype, order="C"))
        if not part.start:
            shift = block.mean(axis=0)
        block -= shift
        sums += block.sum(axis=0, dtype=np.float64)
        products += block.T @ block
    products -= np.outer(sums, sums) / n
    return shift + sums / n, np.maximum(np.diag(products), 0) / n, products


def _axes_of_rows(centred: Floats, k: int) -> tuple[Floats, Floats]:
    """Components of fewer rows than columns, by the products of the rows; zeros beyond the rank."""
    n = len(centred)
    most = min(k, n)
    sizes, vectors = eigh(centred @ centred.T, subset_by_index=(n - most, n - 1))
    sizes, vectors = sizes[::-1], vectors[:, ::-1]
    solid = sizes > 1e-12 * max(float(sizes[0]), np.finfo(float).tiny)
    axes, of_all = np.zeros((k, centred.shape[1])), np.zeros(k)
    axes[:most][solid] = (vectors[:, solid] / np.sqrt(sizes[solid])).T @ centred
    of_all[:most] = np.where(solid, sizes, 0)
    return axes, of_all


def component_scores(
    components: Components, X: pd.DataFrame | ArrayLike, rows: Any = None
) -> Floats:
    """Scores of images on principal components, computed in blocks of rows.

    Parameters
    ----------
    components : Components
        From `principal_components`.
    X : DataFrame or array_like of shape (n, c)
        The columns that the components were made from.
    rows : array_like, optional
        Row numbers, or a mask, of the images; all by default.

    Returns
    -------
    ndarray of shape (m, k)

    Raises
    ------
    FeatlabError
        Values that are not finite, other columns than the components', rows that do not exist.
    """
    values = finite_matrix(X)
    if values.shape[1] != len(components.mean):
        raise FeatlabError(
            f"X must have the {len(components.mean)} columns that the components were made from, "
            f"got {values.shape[1]}."
        )
    places = None if rows is None else row_numbers(rows, X)
    n = len(values) if places is None else len(places)
    scores = np.empty((n, len(components.axes)))
    turn = components.axes.T / components.scale[:, None]
    for part in pieces(n, values.shape[1]):
        block = double_rows(values, part if places is None else places[part])
        scores[part] = (block - components.mean) @ turn
    return scores


def reduced_rows(
    values: NDArray[Any], k: int, of: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray
) -> tuple[Components, NDArray[np.float32]]:
    """At most `k` components of rows in memory, and all their scores, in single precision.

    Of very many rows the components are those of some, evenly spaced.

    Parameters
    ----------
    values : ndarray of shape (n, c), float32
    k : int
    of : callable, optional
        As in :func:`principal_components`.

    Returns
    -------
    components : Components
    scores : ndarray of shape (n, min(k, n, c)), float32
    """
    n, c = values.shape
    some = values[:: max(1, n // _MOST_TURNED)]
    components = principal_components(some, min(k, *some.shape), dtype=np.float32, of=of)
    turn = components.axes.T.astype(np.float32)
    offset = (components.mean @ components.axes.T).astype(np.float32)
    scores = np.empty((n, turn.shape[1]), np.float32)
    for part in pieces(n, c):
        scores[part] = of(values[part]) @ turn
        scores[part] -= offset
    return components, scores
