"""Parts, or a finished store, into one new store, without decoding what is compressed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from featlab.store._schema import (
    BOX_DTYPES,
    ENCODING_TYPE,
    ENCODING_VERSION,
    IMAGE_DTYPES,
    SKIPPED_DTYPES,
)
from featlab.store._writing import create_maps, create_plain, replace_durably, write_errors


def join_parts(
    parts: Sequence[Path],
    path: Path,
    *,
    images: pd.DataFrame,
    boxes: pd.DataFrame,
    provenance: Mapping[str, Any],
) -> None:
    """Join parts, in row order, to one finished store.

    Compressed chunks are copied as they are. A layer that is float32 in some part only is float32
    in the store. The file appears under its final name when it is complete and on the disk.

    Parameters
    ----------
    parts : sequence of Path
        Finished parts; together they hold the rows of `images`, in order.
    path : Path
        The store to write; replaced if it exists.
    images, boxes : DataFrame
        Image table (with ``attrs["root"]`` and ``attrs["skipped"]``) and box table.
    provenance : mapping
        What made the maps; strings, numbers and small arrays.
    """
    temporary = path.with_name(path.name + ".joining")
    _check_free(sum(part.stat().st_size for part in parts), path)
    try:
        with write_errors():
            _write_joined(parts, temporary, images, boxes, provenance)
        replace_durably(temporary, path)
    except BaseException:
        # What is half written is worth nothing, and takes the room of what is to come.
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def part_rows(path: Path) -> int | None:
    """Number of rows of a finished part; None where the file cannot be read as one."""
    try:
        with h5py.File(path, "r") as file:
            return int(file["frames"].shape[0])
    except (OSError, KeyError, AttributeError):
        return None


def _write_joined(
    parts: Sequence[Path],
    path: Path,
    images: pd.DataFrame,
    boxes: pd.DataFrame,
    provenance: Mapping[str, Any],
) -> None:
    dtypes = _layer_dtypes(parts)
    with h5py.File(path, "w", libver=("earliest", "v110")) as target:
        start = 0
        # One part is open at a time: there may be thousands of them.
        for part in parts:
            with h5py.File(part, "r") as source:
                for layer, dtype in dtypes.items():
                    _copy_maps(source, target, f"maps/{layer}", start, len(images), dtype)
                    for how in ("mean", "max"):
                        _copy_plain(source, target, f"pooled/{layer}/{how}", start, len(images))
                for key in ("colour_histogram", "frames"):
                    _copy_plain(source, target, key, start, len(images))
                start += source["frames"].shape[0]
        _write_table(target.create_group("images"), images, IMAGE_DTYPES)
        _write_table(target.create_group("boxes"), boxes, BOX_DTYPES)
        skipped = pd.DataFrame(images.attrs.get("skipped", []), columns=list(SKIPPED_DTYPES))
        _write_table(target.create_group("skipped"), skipped, SKIPPED_DTYPES)
        target["images"].attrs["root"] = str(images.attrs.get("root", ""))
        target.create_group("provenance").attrs.update(provenance)
        target.attrs["encoding-type"] = ENCODING_TYPE
        target.attrs["encoding-version"] = ENCODING_VERSION
        target.attrs["created_utc"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        target.attrs["featlab_version"] = str(provenance.get("featlab_version", ""))


def _check_free(needed: int, path: Path) -> None:
    """Refuse before the disk is full: HDF5 cannot even close a file that it cannot flush."""
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _layer_dtypes(parts: Sequence[Path]) -> dict[str, np.dtype]:
    """Number format of each layer: the widest of the parts."""
    dtypes: dict[str, np.dtype] = {}
    for part in parts:
        with h5py.File(part, "r") as source:
            for layer, maps in source["maps"].items():
                dtypes[layer] = np.result_type(maps.dtype, dtypes.get(layer, maps.dtype))
    return dtypes


def _copy_maps(
    source: h5py.File, target: h5py.File, key: str, start: int, n_rows: int, dtype: np.dtype
) -> None:
    part = source[key]
    if key not in target:
        create_maps(target, key, n_rows, part.shape[1:], dtype)
    joined = target[key]
    origin = (0,) * (joined.ndim - 1)
    for row in range(part.shape[0]):
        if part.dtype == dtype:
            mask, chunk = part.id.read_direct_chunk((row, *origin))
            joined.id.write_direct_chunk((start + row, *origin), chunk, mask)
        else:
            joined[start + row] = part[row].astype(dtype)


def _copy_plain(source: h5py.File, target: h5py.File, key: str, start: int, n_rows: int) -> None:
    part = source[key]
    if key not in target:
        create_plain(target, key, n_rows, part.shape[1], part.dtype)
    joined = target[key]
    if part.chunks == joined.chunks and start % joined.chunks[0] == 0:
        for row in range(0, part.shape[0], joined.chunks[0]):
            mask, chunk = part.id.read_direct_chunk((row, 0))
            joined.id.write_direct_chunk((start + row, 0), chunk, mask)
    else:
        joined[start : start + part.shape[0]] = part[()]


def _write_table(group: h5py.Group, table: pd.DataFrame, dtypes: Mapping[str, type]) -> None:
    for column, dtype in dtypes.items():
        if dtype is str:
            values = np.array([str(value) for value in table[column]], dtype=object)
            group.create_dataset(
                column, data=values, dtype=h5py.string_dtype("utf-8"), track_times=False
            )
        else:
            group.create_dataset(column, data=table[column].to_numpy(dtype), track_times=False)
