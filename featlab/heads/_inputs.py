"""What the functions of this room take: features, labels, splits, groups, and checks of all."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import neuron_ids, stratified_rows
from featlab.errors import FeatlabError
from featlab.system.scratch import count_bad

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

MOST_ROWS = 50_000
"""Train images that a head is fitted on; of more, a random choice in the classes' shares."""
_SIDES = ("train", "confirm", "test")


def matrix_of(X: Any, name: str) -> Floats:
    """`X` as a finite (images, features) matrix of double precision."""
    # In single precision, the solver's last steps drown in rounding.
    return np.asarray(checked_matrix(X, name), dtype=np.float64)


def checked_matrix(X: Any, name: str) -> NDArray[np.floating]:
    """`X` as a finite (images, features) matrix, in its own precision and not copied."""
    values = np.asarray(X)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise FeatlabError(f"{name} must be of shape (images, features), got {values.shape}.")
    n_bad = count_bad(values)
    if n_bad:
        raise FeatlabError(f"{name} holds {n_bad} NaN or infinite values; it must be finite.")
    return values


def encode(y: ArrayLike) -> tuple[Ints, NDArray[Any]]:
    """Class code of every label, and the sorted classes."""
    codes, classes = pd.factorize(np.asarray(y), sort=True)
    if (codes < 0).any():
        raise FeatlabError(f"y holds {int((codes < 0).sum())} missing labels; label every image.")
    return codes, classes


def check_lengths(lengths: Mapping[str, int], names: str) -> None:
    """One row per image in everything."""
    if len(set(lengths.values())) > 1:
        raise FeatlabError(f"{names} must have one row per image, got {dict(lengths)}.")


def check_sides(sides: NDArray[Any]) -> None:
    """Nothing but train, confirm and test."""
    unknown = sorted(set(map(str, sides)) - set(_SIDES))
    if unknown:
        raise FeatlabError(f"split must be 'train', 'confirm' or 'test', got {unknown[0]!r}.")


def check_two(classes: NDArray[Any]) -> None:
    """At least two classes."""
    if len(classes) < 2:
        raise FeatlabError(f"y must hold at least two classes, got {classes.tolist()}.")


def check_classes(classes: NDArray[Any], train: Ints, test: Ints) -> None:
    """At least two classes, all of them in train; those missing in test are logged."""
    check_two(classes)
    if not len(test):
        raise FeatlabError("split has no 'test' row; there is nothing to score on.")
    untrained = np.setdiff1d(np.arange(len(classes)), train)
    if len(untrained):
        raise FeatlabError(
            f"Class {str(classes[untrained[0]])!r} has no image in train; no head can learn it: "
            "leave the class out, or make another split."
        )
    unscored = np.setdiff1d(np.arange(len(classes)), test)
    if len(unscored):
        logger.warning(
            "No test image of %s: left out of balanced_accuracy and roc_auc.",
            ", ".join(repr(str(name)) for name in classes[unscored]),
        )


def train_and_test(
    X: Any, y: ArrayLike, split: ArrayLike, random_state: int
) -> tuple[NDArray[np.floating], Ints, NDArray[Any], Ints, Ints]:
    """Checked features, class codes, classes, the rows to fit on and the test rows."""
    values = checked_matrix(X, "X")
    codes, classes = encode(y)
    sides = np.asarray(split)
    check_lengths({"X": len(values), "y": len(codes), "split": len(sides)}, "X, y and split")
    check_sides(sides)
    train, test = np.flatnonzero(sides == "train"), np.flatnonzero(sides == "test")
    check_classes(classes, codes[train], codes[test])
    return values, codes, classes, fitted_rows(codes, train, random_state), test


def fitted_rows(codes: Ints, train: Ints, random_state: int) -> Ints:
    """The train rows that a head is fitted on: all, or a random choice of :data:`MOST_ROWS`."""
    return train[stratified_rows(codes[train], MOST_ROWS, random_state)]


def group_codes(groups: ArrayLike | None, n: int) -> tuple[Ints, bool]:
    """Group code of every image, and whether there is any group; a nameless one is its own."""
    if groups is None:
        return np.arange(n), False
    names = np.asarray(groups).astype(str)
    if len(names) != n:
        raise FeatlabError(f"groups must have one entry per image ({n}), got {len(names)}.")
    _, codes = np.unique(names, return_inverse=True)
    codes[names == ""] = n + np.flatnonzero(names == "")
    return codes, bool((names != "").any())


def clusters_of(codes: Ints) -> Ints | None:
    """Codes 0 … k - 1 of the groups; None where no group holds two images."""
    _, clusters = np.unique(codes, return_inverse=True)
    return clusters if len(clusters) and clusters.max() + 1 < len(clusters) else None


def columns_of(X: Any, order: Iterable[Hashable]) -> Ints:
    """Column of every neuron in `order`, repeated ones once; ids are a feature table's."""
    wanted = list(dict.fromkeys(order))
    place = {name: column for column, name in enumerate(neuron_ids(X).tolist())}
    unknown = [name for name in wanted if name not in place]
    if unknown:
        raise FeatlabError(f"order must name neurons of X, got {unknown[0]!r}.")
    if not wanted:
        raise FeatlabError("order is empty; name at least one neuron, the best first.")
    return np.array([place[name] for name in wanted], dtype=np.intp)


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """`value` is one of `allowed`."""
    if value not in allowed:
        raise FeatlabError(f"{name} must be one of {list(allowed)}, got {value!r}.")


def check_at_least(name: str, value: float, least: float) -> None:
    """`value` is not below `least`."""
    if not value >= least:
        raise FeatlabError(f"{name} must be at least {least:g}, got {value!r}.")


def checked_sizes(name: str, sizes: Sequence[int] | None, default: Iterable[int]) -> list[int]:
    """Sorted distinct whole numbers from 1 up."""
    given = list(default) if sizes is None else list(sizes)
    whole = sorted({int(size) for size in given})
    if not whole or whole[0] < 1 or any(size != int(size) for size in given):
        raise FeatlabError(f"{name} must be whole numbers from 1 up, got {given}.")
    return whole
