"""Features of images as a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments.checks import check_same_rows
from featlab.errors import FeatlabError
from featlab.system.machine import count_bad


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


Features = pd.DataFrame | ArrayLike | Sequence[pd.DataFrame]
"""A feature table, or several of the same images."""


@dataclass(frozen=True)
class FeatureBlock:
    """One feature table: its matrix (n, c), the neurons' ids (c,), and where they come from."""

    matrix: NDArray[np.floating]
    neurons: NDArray[Any]
    layer: str
    pooling: str

    def places(self, channels: ArrayLike) -> NDArray[np.intp]:
        """The columns that hold neurons, by their ids."""
        asked = np.asarray(channels)
        places = pd.Index(self.neurons).get_indexer(asked)
        if (places < 0).any():
            where = f" of {self.layer}" if self.layer else ""
            raise FeatlabError(
                f"X has no neuron {asked[places < 0][0]}{where}, which the neuron table holds."
            )
        return places


def feature_blocks(X: Features, y: ArrayLike, **others: Any) -> list[FeatureBlock]:
    """The feature tables in `X`, checked, with a row per label in `y`.

    Parameters
    ----------
    X, y
        Features and labels.
    **others
        What else has one entry per image, by its name: a split, groups, weights.

    Raises
    ------
    FeatlabError
        As for :func:`finite_matrix`; rows that do not match (:func:`check_same_rows`); two tables
        of one layer and pooling.
    """
    several = isinstance(X, (list, tuple)) and len(X) and isinstance(X[0], pd.DataFrame)
    blocks = []
    for table in X if several else [X]:  # type: ignore[union-attr]
        values = finite_matrix(table)
        check_same_rows(X=table, y=y, **others)
        blocks.append(FeatureBlock(values, neuron_ids(table), *origin_of(table)))
    origins = [(block.layer, block.pooling) for block in blocks]
    if len(set(origins)) < len(origins):
        raise FeatlabError(
            f"each table in X needs its own layer and pooling, got {origins}; make them with "
            "feature_table."
        )
    return blocks


def blocks_of_neurons(
    neurons: pd.DataFrame, X: Features, y: ArrayLike, **others: Any
) -> dict[tuple[str, str], FeatureBlock]:
    """The blocks of `X` by the (layer, pooling) of a neuron table.

    A single table that names neither is the table's only one.

    Raises
    ------
    FeatlabError
        As for :func:`feature_blocks`, or `X` lacks a layer or pooling.
    """
    origins = list(dict.fromkeys(zip(neurons["layer"], neurons["pooling"], strict=True)))
    blocks = {(block.layer, block.pooling): block for block in feature_blocks(X, y, **others)}
    if len(origins) == 1 and list(blocks) == [("", "")]:
        return {origins[0]: blocks["", ""]}
    absent = [origin for origin in origins if origin not in blocks]
    if absent:
        raise FeatlabError(
            f"the neuron table has layer and pooling {absent[0]}, X has {list(blocks)}; give the "
            "feature tables that the neurons were ranked on."
        )
    return blocks
