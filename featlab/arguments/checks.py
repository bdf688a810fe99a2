"""The sentences for a wrong argument (its name, what is allowed, what was given), and progress."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError


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
