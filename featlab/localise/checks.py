"""What :func:`evaluate` is given, checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError

if TYPE_CHECKING:
    from featlab.store import MapStore

PARTS = ("train", "confirm", "test")
Given = Mapping[str, np.ndarray]


def checked_given(given: Given | None, n: int, taken: Collection[str]) -> dict[str, np.ndarray]:
    """The given heat maps ``(n, h, w)`` and boxes ``(n, 4)``, their names and values checked.

    Raises
    ------
    FeatlabError
        A name is in `taken`, a shape is another, or a row is partly NaN or infinite.
    """
    checked = {}
    for name, values in (given or {}).items():
        if name in taken:
            raise FeatlabError(
                f"given must not use the name of a method of featlab, got {name!r}; "
                "give it another name."
            )
        array = np.asarray(values)
        shaped = (array.ndim == 3 or array.shape[1:] == (4,)) and array.size and len(array) == n
        if not shaped or array.dtype.kind not in "fiu":
            raise FeatlabError(
                f"given[{name!r}] must have a heat map (n, h, w) or a box (n, 4) for each of the "
                f"{n} images, got {array.dtype} of shape {array.shape}; give rows of NaN where "
                "none was computed."
            )
        partly = ~_all_finite(array) & ~np.isnan(array).reshape(n, -1).all(axis=1)
        if partly.any():
            raise FeatlabError(
                f"given[{name!r}] must be finite, or NaN throughout where nothing was computed, "
                f"but row {int(partly.argmax())} is partly NaN or infinite."
            )
        checked[name] = array
    return checked


def known_to_all(given: Given, n: int) -> np.ndarray:
    """Images ``(n,)`` bool for which every given method has a heat map or box."""
    return np.all([np.ones(n, dtype=bool), *map(_all_finite, given.values())], axis=0)


def chosen_rows(rows: Sequence[int] | np.ndarray | None, n: int) -> np.ndarray:
    """Row numbers, or a mask, as a mask ``(n,)`` bool; None is all.

    Raises
    ------
    FeatlabError
        A mask of another length, or a row that does not exist.
    """
    if rows is None:
        return np.ones(n, dtype=bool)
    rows = np.asarray(rows)
    if rows.dtype == bool and rows.shape == (n,):
        return rows
    numbers = rows.dtype.kind in "iu" or not rows.size
    if not numbers or rows.ndim != 1 or ((rows < 0) | (rows >= n)).any():
        raise FeatlabError(
            f"rows must be row numbers from 0 to {n - 1}, or a mask of {n} images, got "
            f"{rows.dtype} of shape {rows.shape}; they are rows of the image table."
        )
    return np.isin(np.arange(n), rows)


def checked_names(store: MapStore, predicted: Sequence[str] | np.ndarray | pd.Series) -> np.ndarray:
    """A head's class for each image, ``(n,)`` str."""
    names = np.asarray(predicted).astype(str)
    if names.shape != (len(store.images),):
        raise FeatlabError(
            f"predicted must have one class for each of the {len(store.images)} images, "
            f"got shape {names.shape}."
        )
    return names


def asked_codes(store: MapStore, predicted: np.ndarray | None, target: str) -> np.ndarray:
    """Place in ``store.classes`` of the class asked for in every image."""
    if target == "label":
        return class_codes(store)
    if target != "predicted":
        raise FeatlabError(f"target must be 'label' or 'predicted', got {target!r}.")
    if predicted is None:
        raise FeatlabError("target 'predicted' needs a class for each image; give predicted=.")
    unknown = sorted(set(predicted.tolist()) - set(store.classes))
    if unknown:
        raise FeatlabError(
            f"predicted must be from the classes {', '.join(store.classes)} where target is "
            f"'predicted', got {unknown}."
        )
    return np.searchsorted(store.classes, predicted)


def resampling_units(
    store: MapStore, groups: Sequence[str] | np.ndarray | pd.Series | None
) -> np.ndarray:
    """A name per image, shared by those that are resampled together."""
    n = len(store.images)
    if groups is None:
        groups = store.images["group"] if "group" in store.images else [""] * n
    names = np.asarray(groups).astype(str)
    if names.shape != (n,):
        raise FeatlabError(
            f"groups must have one entry for each of the {n} images, got shape {names.shape}."
        )
    alone = names == ""
    single = np.char.add("\0", np.arange(n).astype(str))
    return np.where(alone, single, names)


def checked_split(split: Sequence[str] | np.ndarray | pd.Series, n: int) -> np.ndarray:
    """The split as an array of str, its length and words checked."""
    parts = np.asarray(split).astype(str)
    unknown = sorted(set(parts.tolist()) - set(PARTS))
    if parts.shape != (n,) or unknown:
        found = f"the words {unknown}" if unknown else f"shape {parts.shape}"
        raise FeatlabError(
            f"split must have one of {', '.join(PARTS)} for each of the {n} images, got {found}."
        )
    return parts


def class_codes(store: MapStore) -> np.ndarray:
    """Place of every image's label in ``store.classes``."""
    return np.searchsorted(store.classes, store.images["label"].to_numpy(str))


def picture_sizes(store: MapStore) -> np.ndarray:
    """Width and height of every image, ``(n, 2)`` float, pixels."""
    return store.images[["width", "height"]].to_numpy(float)


def _all_finite(array: np.ndarray) -> np.ndarray:
    return np.isfinite(array).reshape(len(array), -1).all(axis=1)
