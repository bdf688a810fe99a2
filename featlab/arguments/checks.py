"""The sentences for a wrong argument (its name, what is allowed, what was given), and progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import pandas as pd

from featlab.errors import FeatlabError


def check_choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Refuse a value that is not one of `allowed`."""
    known = list(allowed)
    if value not in known:
        words = ", ".join(map(str, known))
        raise FeatlabError(f"{name} must be one of {words}, got {value!r}.")


def check_choices(name: str, values: str | Iterable[Any], allowed: Iterable[Any]) -> list[Any]:
    """The values asked for, each once, all of them from `allowed`; a single word is one value."""
    asked = [values] if isinstance(values, str) else list(dict.fromkeys(values))
    known = list(allowed)
    unknown = [value for value in asked if value not in known]
    if unknown:
        words = ", ".join(map(str, known))
        raise FeatlabError(f"{name} must be from {words}, got {unknown[0]!r}.")
    return asked


def check_at_least(name: str, value: float, least: float) -> None:
    """Refuse a number below `least`, and NaN."""
    if not value >= least:
        raise FeatlabError(f"{name} must be at least {least:g}, got {value!r}.")


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside an interval, and NaN."""
    if not low <= value <= high:
        raise FeatlabError(f"{name} must be from {low:g} to {high:g}, got {value!r}.")


def check_same_length(lengths: Mapping[str, int]) -> None:
    """One row per image in everything; `lengths` maps the arguments' names to their rows."""
    if len(set(lengths.values())) > 1:
        *first, last = lengths
        names = f"{', '.join(first)} and {last}"
        raise FeatlabError(f"{names} must have one row per image, got {dict(lengths)}.")


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
