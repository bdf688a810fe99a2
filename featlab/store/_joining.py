"""Parts, or finished stores, into one new store, without decoding what is compressed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from itertools import count
from pathlib import Path

import h5py
import numpy as np

from featlab.store._checking import layer_names
from featlab.store._items import Tables, write_tables
from featlab.store._pieces import Piece, relative_name, write_pieces
from featlab.store._schema import ENCODING_TYPE, ENCODING_VERSION
from featlab.store._writing import (
    MAP_AXES,
    create_maps,
    create_plain,
    replace_durably,
    write_errors,
    write_plain_chunk,
)


def join_parts(
    pieces: Sequence[Piece], path: Path, tables: Tables, *, virtual: bool = False
) -> None:
    """Join runs of rows of parts, or of finished stores, to one finished store.

    Compressed chunks are copied as they are. A layer that is float32 in some part only is float32
    in the store. The file appears under its final name when it is complete and on the disk.

    Parameters
    ----------
    pieces : sequence of Piece
        Together they hold the rows of the image table, in order.
    path : Path
        The store to write; replaced if it exists.
    tables : Tables
        What else it holds.
    virtual : bool
        Refer to the rows where they lie, by HDF5's virtual datasets, instead of copying them. The
        files must lie in the folder of the store, or below it.

    Raises
    ------
    FeatlabError
        A virtual store would refer to a file outside its folder.
    """
    temporary = path.with_name(path.name + ".joining")
    if not virtual:
        _check_free(pieces, path)
    try:
        with write_errors():
            _write_joined(pieces, temporary, path.parent, tables, virtual)
        replace_durably(temporary, path)
    except BaseException:
        # What is half written is worth nothing, and takes the room of what is to come.
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _write_joined(
    pieces: Sequence[Piece], path: Path, folder: Path, tables: Tables, virtual: bool
) -> None:
    n_rows, layers = len(tables.images), layer_names(tables.provenance["layers"])
    if sum(map(len, pieces)) != n_rows:
        raise ValueError(f"{sum(map(len, pieces))} rows of maps for {n_rows} images")
    dtypes = _layer_dtypes(pieces, layers)
    with h5py.File(path, "w", libver=("earliest", "v110")) as target:
        if virtual:
            _refer(pieces, target, folder, n_rows, dtypes)
        else:
            _copy(pieces, target, n_rows, dtypes)
        write_tables(target, tables)
        target.attrs["encoding-type"] = ENCODING_TYPE
        target.attrs["encoding-version"] = ENCODING_VERSION
        target.attrs["created_utc"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        target.attrs["featlab_version"] = str(tables.provenance.get("featlab_version", ""))


def _copy(
    pieces: Sequence[Piece], target: h5py.File, n_rows: int, dtypes: dict[str, np.dtype]
) -> None:
    start = 0
    # One part is open at a time: there may be thousands of them.
    for piece in pieces:
        with h5py.File(piece.file, "r") as source:
            for layer, dtype in dtypes.items():
                _copy_maps(source, target, f"maps/{layer}", piece, start, n_rows, dtype)
            for key in _plain_keys(dtypes):
                _copy_plain(source, target, key, piece, start, n_rows)
        start += len(piece)


def _refer(
    pieces: Sequence[Piece],
    target: h5py.File,
    folder: Path,
    n_rows: int,
    dtypes: dict[str, np.dtype],
) -> None:
    """Virtual datasets over the pieces, and the table of where they lie."""
    names = {file: relative_name(file, folder) for file in {piece.file for piece in pieces}}
    types = {f"maps/{layer}": dtype for layer, dtype in dtypes.items()}
    with h5py.File(pieces[0].file, "r") as first:
        types |= {key: first[key].dtype for key in _plain_keys(dtypes)}
        shapes = {key: first[key].shape[1:] for key in types}
    for key, dtype in types.items():
        layout, start = h5py.VirtualLayout((n_rows, *shapes[key]), dtype), 0
        for piece in pieces:
            shape = (piece.stop, *shapes[key])
            source = h5py.VirtualSource(names[piece.file], key, shape=shape, dtype=dtype)
            layout[start : start + len(piece)] = source[piece.start : piece.stop]
            start += len(piece)
        # Rows of a file that is missing read as NaN, not as silent zeros.
        dataset = target.create_virtual_dataset(key, layout, fillvalue=np.nan)
        if key.startswith("maps/"):
            dataset.attrs["axes"] = MAP_AXES
    write_pieces(target, folder, pieces)


def _plain_keys(layers: Iterable[str]) -> list[str]:
    """Datasets of few numbers an image."""
    pooled = [f"pooled/{layer}/{how}" for layer in layers for how in ("mean", "max")]
    return [*pooled, "colour_histogram", "frames"]


def _check_free(pieces: Sequence[Piece], path: Path) -> None:
    """Refuse before the disk is full: HDF5 cannot even close a file that it cannot flush."""
    needed = sum(file.stat().st_size for file in {piece.file for piece in pieces})
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _layer_dtypes(pieces: Sequence[Piece], layers: list[str]) -> dict[str, np.dtype]:
    """Number format of each layer: the widest of the parts."""
    dtypes = dict.fromkeys(layers, np.dtype(np.float16))
    for file in {piece.file for piece in pieces}:
        with h5py.File(file, "r") as source:
            for layer in layers:
                dtypes[layer] = np.result_type(source[f"maps/{layer}"].dtype, dtypes[layer])
    return dtypes


def _copy_maps(
    source: h5py.File,
    target: h5py.File,
    key: str,
    piece: Piece,
    start: int,
    n_rows: int,
    dtype: np.dtype,
) -> None:
    part = source[key]
    if key not in target:
        create_maps(target, key, n_rows, part.shape[1:], dtype)
    joined = target[key]
    origin = (0,) * (joined.ndim - 1)
    for row, goal in zip(range(piece.start, piece.stop), count(start)):
        if part.dtype == dtype:
            mask, chunk = part.id.read_direct_chunk((row, *origin))
            joined.id.write_direct_chunk((goal, *origin), chunk, mask)
        else:
            joined[goal] = part[row].astype(dtype)


def _copy_plain(
    source: h5py.File, target: h5py.File, key: str, piece: Piece, start: int, n_rows: int
) -> None:
    part = source[key]
    if key not in target:
        create_plain(target, key, n_rows, part.shape[1], part.dtype)
    joined = target[key]
    step, stop = joined.chunks[0], start + len(piece)
    whole = (piece.start, piece.stop) == (0, part.shape[0])
    if start % step or (stop % step and stop != n_rows):
        joined[start:stop] = part[piece.start : piece.stop]
    elif whole and part.chunks == joined.chunks:
        for row in range(0, part.shape[0], step):
            mask, chunk = part.id.read_direct_chunk((row, 0))
            joined.id.write_direct_chunk((start + row, 0), chunk, mask)
    else:
        for row in range(piece.start, piece.stop, step):
            values = part[row : min(row + step, piece.stop)]
            write_plain_chunk(joined, start + row - piece.start, values)
