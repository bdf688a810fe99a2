"""How long work tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""Anything that wraps an iterable and yields the same, ``tqdm`` for instance."""


def tracked(items: Iterable[T], progress: Progress | None) -> Iterable[T]:
    """The same items, told to `progress` where there is one."""
    return progress(items) if progress else items
