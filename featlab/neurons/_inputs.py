"""What the neuron functions take: feature tables, labels, and checks of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import neuron_ids, origin_of
from featlab.errors import FeatlabError
from featlab.system.scratch import count_bad

Features = pd.DataFrame | ArrayLike | Sequence[pd.DataFrame]


@dataclass(frozen=True)
class Block:
    """One feature table: the activations (n, c), the neuron ids (c,) and where they come from."""

    activations: NDArray[Any]
    neurons: NDArray[Any]
    layer: str
    pooling: str

    def column(self, neuron: Any) -> NDArray[Any]:
        """The activations of one neuron, by its id."""
        place = np.flatnonzero(self.neurons == neuron)
        if not len(place):
            raise FeatlabError(f"X has no neuron {neuron}, which the neuron table holds.")
        return self.activations[:, place[0]]


def blocks_of(X: Features, y: ArrayLike, layer: str, pooling: str) -> list[Block]:
    """The feature tables in `X`, checked; names given here go before their own."""
    tables = list(X) if isinstance(X, (list, tuple)) and _all_frames(X) else [X]
    blocks = [_block(table, y, layer, pooling) for table in tables]
    keys = [(block.layer, block.pooling) for block in blocks]
    if len(set(keys)) < len(keys):
        raise FeatlabError(
            f"Each feature table needs its own layer and pooling in its columns, got {keys}; "
            "make them with feature_table."
        )
    return blocks


def _all_frames(tables: Sequence[Any]) -> bool:
    return len(tables) > 0 and all(isinstance(table, pd.DataFrame) for table in tables)


def _block(X: Any, y: ArrayLike, layer: str, pooling: str) -> Block:
    values = np.asarray(X)
    if values.ndim != 2:
        raise FeatlabError(f"X must be of shape (images, neurons), got {values.shape}.")
    if len(values) != len(np.asarray(y)):
        raise FeatlabError(f"X has {len(values)} rows and y has {len(np.asarray(y))} labels.")
    if isinstance(X, pd.DataFrame) and isinstance(y, pd.Series) and not X.index.equals(y.index):
        raise FeatlabError("X and y are indexed differently; take both from the same rows.")
    n_bad = count_bad(values)
    if n_bad:
        raise FeatlabError(f"X holds {n_bad} NaN or infinite values; activations must be finite.")
    named = origin_of(X)
    return Block(values, neuron_ids(X), layer or named[0], pooling or named[1])


def blocks_by_key(table: pd.DataFrame, X: Features, y: ArrayLike) -> dict[tuple[str, str], Block]:
    """Blocks under the table's (layer, pooling); a nameless single one is the table's only one."""
    keys = list(dict.fromkeys(zip(table["layer"], table["pooling"], strict=True)))
    blocks = {(block.layer, block.pooling): block for block in blocks_of(X, y, "", "")}
    if len(keys) == 1 and list(blocks) == [("", "")]:
        return {keys[0]: blocks["", ""]}
    absent = [key for key in keys if key not in blocks]
    if absent:
        raise FeatlabError(
            f"The neuron table has layer and pooling {absent[0]}, X has {list(blocks)}."
        )
    return blocks


def group_names(groups: ArrayLike | None, n: int) -> NDArray[np.str_]:
    """The group of every image, ``""`` for none."""
    if groups is None:
        return np.full(n, "", dtype=np.str_)
    names = np.asarray(groups).astype(str)
    if names.shape != (n,):
        raise FeatlabError(f"groups must have one entry per image ({n}), got {names.shape}.")
    return names


def encode(y: ArrayLike) -> tuple[NDArray[np.intp], list[Any]]:
    """Class code of every label, and the sorted classes; at least two."""
    codes, classes = pd.factorize(np.asarray(y), sort=True)
    if (codes < 0).any():
        raise FeatlabError(f"y holds {int((codes < 0).sum())} missing labels; label every image.")
    if len(classes) < 2:
        raise FeatlabError(f"y must hold at least two classes, got {classes.tolist()}.")
    return codes, classes.tolist()


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not one of those allowed."""
    if value not in allowed:
        raise FeatlabError(f"{name} must be one of {list(allowed)}, got {value!r}.")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside an interval."""
    if not low <= value <= high:
        raise FeatlabError(f"{name} must be from {low:g} to {high:g}, got {value!r}.")
