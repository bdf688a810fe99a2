"""What a file must hold to be read as a store, and words for what is wrong with it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featlab.errors import FeatlabError
from featlab.store._schema import ENCODING_TYPE, ENCODING_VERSION

_LONGEST = 160


def open_store(path: Path) -> h5py.File:
    if not path.exists():
        raise FeatlabError(f"there is no store {path}; make it with `featlab extract`.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        raise FeatlabError(
            f"{path} is not a featlab store, or it is truncated: {_first_line(error)}."
        ) from error
    try:
        with read_errors(path, "/"):
            kind = plain(file.attrs.get("encoding-type"))
            version = plain(file.attrs.get("encoding-version"))
            if not isinstance(kind, str) or kind != ENCODING_TYPE:
                raise FeatlabError(
                    f"{path} is an HDF5 file but not a featlab store: attribute encoding-type is "
                    f"{_shown(kind)}, not {ENCODING_TYPE!r}."
                )
            if str(version).partition(".")[0] != ENCODING_VERSION.partition(".")[0]:
                raise FeatlabError(
                    f"{path} has encoding-version {_shown(version)}; this featlab reads "
                    f"{ENCODING_VERSION}. You may need to update featlab."
                )
    except FeatlabError:
        with contextlib.suppress(RuntimeError):
            file.close()
        raise
    return file


def layer_names(text: Any) -> list[str]:
    names = json.loads(text)
    if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
        raise ValueError(f"layers must be a list of names, got {_shown(names)}")
    if len(set(names)) < len(names) or any({"", "."} & {*one.split("/")} for one in names):
        raise ValueError(f"layers must be different names, got {_shown(names)}")
    return names


def check_maps(maps: h5py.Dataset) -> None:
    if maps.ndim != 4 or maps.dtype not in (np.float16, np.float32) or 0 in maps.shape[1:]:
        raise ValueError(f"{maps.dtype} {maps.shape} are no maps (n, h, w, c)")
    if maps.is_virtual:
        return
    if maps.chunks != (1, *maps.shape[1:]):
        raise ValueError(f"chunks {maps.chunks} do not hold one image each")
    if len(maps):
        first = maps.id.get_chunk_info_by_coord((0,) * 4)
        _check_room(int(np.prod(maps.shape[1:], dtype=object)) * maps.dtype.itemsize, first.size)


def check_numbers(dataset: h5py.Dataset, ndim: int, kind: str) -> None:
    """Dimensions and kind ("" is text) of an array that is read whole; and that it is all there."""
    if dataset.shape is None or dataset.ndim != ndim:
        raise ValueError(f"shape {dataset.shape} where {ndim} dimensions are expected")
    if kind and dataset.dtype.kind != kind:
        raise ValueError(f"numbers of type {dataset.dtype}")
    if not dataset.is_virtual:
        n_bytes = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
        _check_room(n_bytes, dataset.id.get_storage_size())


def _check_room(n_bytes: int, stored: int) -> None:
    """Refuse to take memory for what the file cannot hold: deflate packs 1032 to 1 at best."""
    if n_bytes > 1032 * stored + 64:
        raise ValueError(f"{n_bytes} bytes announced, {stored} there")


def check_pooling(
    path: Path,
    layer: str,
    rows: np.ndarray,
    maps: np.ndarray,
    pooled: Mapping[str, np.ndarray],
) -> None:
    flat = maps.reshape(len(maps), -1, maps.shape[-1])
    # Half precision keeps 11 bits: each value is off by at most 2**-11 of itself.
    tolerance = 1e-3 * np.abs(flat).max(axis=1) + 1e-6
    for how, values in (("mean", flat.mean(axis=1)), ("max", flat.max(axis=1))):
        # Written so that NaN, which is never stored, is wrong too.
        wrong = ~(np.abs(values - pooled[how]) <= tolerance).all(axis=1)
        if wrong.any():
            raise FeatlabError(
                f"{path}: /pooled/{layer}/{how} does not agree with /maps/{layer} in row "
                f"{int(rows[wrong.argmax()])}; extract again."
            )


def plain(value: Any) -> Any:
    """HDF5 attribute → plain Python."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.generic):
        return value.item()
    return value


@contextlib.contextmanager
def read_errors(path: Path, key: str) -> Iterator[None]:
    """Name the place: HDF5 and h5py tell of damage by nearly every built-in exception."""
    try:
        yield
    except FeatlabError:
        raise
    except MemoryError as error:
        raise FeatlabError(f"there is not enough memory to read {key} of {path}.") from error
    except Exception as error:
        reason = _first_line(error)[:_LONGEST]
        raise FeatlabError(f"{path} is damaged at {key}: {reason}; extract it again.") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
