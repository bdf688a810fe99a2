"""The sentences for a wrong argument: its name, what is allowed, what was given; matrices."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.errors import FeatlabError
from featlab.system.machine import count_bad


def check_choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Refuse a value that is not one of `allowed`."""
    known = list(allowed)
    if not _is_among(value, known):
        words = ", ".join(map(str, known))
        raise FeatlabError(f"{name} must be one of {words}, got {said(value)}.")


def check_choices(name: str, values: str | Iterable[Any], allowed: Iterable[Any]) -> list[Any]:
    """The values asked for, each once, all of them from `allowed`; a single word is one value."""
    several = isinstance(values, Iterable) and not isinstance(values, str)
    asked, known = list(values) if several else [values], list(allowed)
    unknown = [value for value in asked if not _is_among(value, known)]
    if unknown:
        words = ", ".join(map(str, known))
        raise FeatlabError(f"{name} must be from {words}, got {said(unknown[0])}.")
    return list(dict.fromkeys(asked))


def _is_among(value: Any, known: list[Any]) -> bool:
    # An array answers == with an array; whatever has no hash is no name.
    return isinstance(value, Hashable) and value in known


def check_whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Refuse what is not a whole number, or lies outside of `least` … `most`; True is no number."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise FeatlabError(f"{name} must be a whole number, got {said(value)}.")
    if most is None and value < least:
        raise FeatlabError(f"{name} must be at least {least}, got {value}.")
    if most is not None and not least <= value <= most:
        raise FeatlabError(f"{name} must be from {least} to {most}, got {value}.")


def whole_numbers(name: str, values: int | Iterable[int], least: int = 1) -> list[int]:
    """The whole numbers asked for, none below `least`; a single one is a list of one.

    Raises
    ------
    FeatlabError
        There is none, or one of them is something else.
    """
    asked = list(values) if isinstance(values, Iterable) else [values]
    if not asked:
        raise FeatlabError(f"{name} is empty; give at least one whole number from {least} up.")
    for value in asked:
        check_whole(f"each of {name}", value, least)
    return [int(value) for value in asked]


def check_between(
    name: str, value: Any, low: float, high: float, *, without: Sequence[float] = ()
) -> None:
    """Refuse what is no number (True, NaN), and a number outside an interval.

    `without` names the limits that are themselves not allowed.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise FeatlabError(f"{name} must be a number, got {said(value)}.")
    if not low <= value <= high or value in without:
        words = f"from {low:g} to {high:g}"
        if without:
            least = f"{'above' if low in without else 'at least'} {low:g}"
            words = f"{least} and {'below' if high in without else 'at most'} {high:g}"
        raise FeatlabError(f"{name} must be {words}, got {said(value)}.")


def check_same_rows(**arguments: Any) -> None:
    """One row per image in everything, and where pandas names the rows, the same names.

    An array or a list has no index and is taken by position. Two tables or series with different
    indexes are not taken by position: they may hold other images, or the same in another order.

    Parameters
    ----------
    **arguments
        The arguments by their names, None where one was not given; the others are held against
        the first.

    Raises
    ------
    FeatlabError
        Different lengths, or different indexes.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    lengths = {name: _length(name, value) for name, value in given.items()}
    if len(set(lengths.values())) > 1:
        *first, last = lengths
        names = f"{', '.join(first)} and {last}"
        raise FeatlabError(f"{names} must have one row per image, got {lengths}.")
    indexed = {
        name: value.index
        for name, value in given.items()
        if isinstance(value, (pd.DataFrame, pd.Series))
    }
    for name in list(indexed)[1:]:
        first_name = next(iter(indexed))
        if not indexed[name].equals(indexed[first_name]):
            raise FeatlabError(
                f"{first_name} and {name} are indexed differently; take both from the same rows, "
                f"or give {name} as an array if its order is that of {first_name}."
            )


def _length(name: str, value: Any) -> int:
    # A word has a length, too, and is the name of a column at best.
    if isinstance(value, str) or not hasattr(value, "__len__") or getattr(value, "ndim", 1) == 0:
        raise FeatlabError(f"{name} must have one row per image, got {said(value)}.")
    return len(value)


def said(value: Any) -> str:
    """A value as a message shows it: a number of numpy as the number that it is."""
    return repr(value.item() if isinstance(value, np.generic) else value)


_MOST_DIGITS = 9


def score_text(value: float, digits: int = 2) -> str:
    """A score as it is printed; one that is neither 0 nor 1 does not read so.

    It gets up to four digits, and then says on which side of them it lies.

    Examples
    --------
    >>> score_text(0.998), score_text(0.99996), score_text(1.0), score_text(0.97)
    ('0.998', '> 0.9999', '1.00', '0.97')
    """
    size, sign = abs(value), "-" if value < 0 else ""
    exact = round(size, _MOST_DIGITS) in (0, 1)  # a mean of ones may lie 1e-16 below
    while not exact and round(size, digits) in (0, 1):
        if digits >= 4:
            larger = (round(size, digits) == 1) != bool(sign)
            end = round(size, digits) - 10**-digits
            return f"{'>' if larger else '<'} {sign}{abs(end):.{digits}f}"
        digits += 1
    return f"{value:.{digits}f}"


def check_columns(name: str, table: pd.DataFrame, columns: Iterable[str], remedy: str) -> None:
    """Refuse a table that lacks columns; `remedy` says where a right one comes from."""
    missing = [column for column in columns if column not in table]
    if missing:
        raise FeatlabError(f"{name} has no column {', '.join(missing)}; {remedy}.")


T = TypeVar("T")

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""Anything that wraps an iterable and yields the same, ``tqdm`` for instance."""


def tracked(items: Iterable[T], progress: Progress | None) -> Iterable[T]:
    """The same items, told to `progress` where there is one."""
    return progress(items) if progress else items


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


_SIGNED = 0.25  # share of the means' absolute sum that lies below 0


def is_signed(means: NDArray[np.floating]) -> bool:
    """Whether neurons rest at no 0, by their mean activations.

    They do where negative means weigh at least a quarter of all: tokens have about a half,
    rectified maps nothing, smooth rectifiers a little.
    """
    below = -np.minimum(means, 0).sum(dtype=float)
    return bool(below > 0 and below >= _SIGNED * np.abs(means).sum(dtype=float))


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
