"""Features of images as a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.errors import FeatlabError
from featlab.system.scratch import count_bad


def finite_matrix(X: Any, name: str = "X") -> NDArray[np.floating]:
    """`X` as a finite (images, features) matrix, in its own precision and not copied.

    Raises
    ------
    FeatlabError
        Another shape, no feature, NaN or infinite values.
    """
    values = np.asarray(X)
    if values.dtype not in (np.float32, np.float64):
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError):
            raise FeatlabError(f"{name} must hold numbers, got {values.dtype}.") from None
    if values.ndim != 2 or not values.shape[1]:
        raise FeatlabError(f"{name} must be of shape (images, features), got {values.shape}.")
    n_bad = count_bad(values)
    if n_bad:
        raise FeatlabError(f"{name} holds {n_bad} NaN or infinite values; it must be finite.")
    return values


LEVELS = ("layer", "pooling", "neuron")
"""Names of the levels of a feature table's columns."""


def feature_columns(layer: str, pooling: str, neurons: int | ArrayLike) -> pd.MultiIndex:
    """Columns of a feature table: the layer, the pooling and each neuron's id.

    Parameters
    ----------
    layer, pooling : str
        The same for all columns.
    neurons : int or array_like of shape (c,)
        How many there are, called 0, 1, …; or their ids.
    """
    ids = np.arange(neurons) if isinstance(neurons, int) else np.asarray(neurons)
    return pd.MultiIndex.from_product([[layer], [pooling], ids], names=LEVELS)


def neuron_ids(X: Any) -> NDArray[Any]:
    """The neurons that the columns of `X` are: their ids in a DataFrame, else their numbers."""
    if not isinstance(X, pd.DataFrame):
        return np.arange(np.asarray(X).shape[1])
    if isinstance(X.columns, pd.MultiIndex):
        return X.columns.get_level_values("neuron").to_numpy()
    return X.columns.to_numpy()


def origin_of(X: Any) -> tuple[str, str]:
    """Layer and pooling of a feature table, which its columns name; two ``""`` for other tables.

    Raises
    ------
    FeatlabError
        The columns are of several layers or poolings.
    """
    if not isinstance(X, pd.DataFrame) or not isinstance(X.columns, pd.MultiIndex):
        return "", ""
    names = X.columns.droplevel("neuron").unique()
    if len(names) != 1:
        raise FeatlabError(
            f"X must be of one layer and one pooling, got {names.tolist()}; give a list of tables."
        )
    layer, pooling = names[0]
    return str(layer), str(pooling)
