"""Parts, or finished stores, into one new store, without decoding what is compressed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from itertools import chain, count
from pathlib import Path

import h5py
import numpy as np

from featlab.store._checking import layer_names
from featlab.store._chunks import read_raw_chunk, write_raw_chunk
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
    pieces: Iterable[Piece], path: Path, tables: Tables, *, virtual: bool = False
) -> None:
    """Join runs of rows of parts, or of finished stores, to one finished store.

    Compressed chunks are copied as they are. A layer that is float32 in some part only is float32
    in the store. The file appears under its final name when it is complete and on the disk.

    Parameters
    ----------
    pieces : iterable of Piece
        Together they hold the rows of the image table, in order. Each is copied as it comes, while
        the others may still be in the making.
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
        pieces = _while_free(pieces, path, len(tables.images))
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
    pieces: Iterable[Piece], path: Path, folder: Path, tables: Tables, virtual: bool
) -> None:
    n_rows, layers = len(tables.images), layer_names(tables.provenance["layers"])
    narrow = dict.fromkeys(layers, np.dtype(np.float16))
    pieces = list(pieces) if virtual else _copy(pieces, path, n_rows, narrow)
    if sum(map(len, pieces)) != n_rows:
        raise ValueError(f"{sum(map(len, pieces))} rows of maps for {n_rows} images")
    with _opened(path, "w" if virtual else "r+") as target:
        if virtual:
            _refer(pieces, target, folder, n_rows, narrow)
        write_tables(target, tables)
        target.attrs["encoding-type"] = ENCODING_TYPE
        target.attrs["encoding-version"] = ENCODING_VERSION
        target.attrs["created_utc"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        target.attrs["featlab_version"] = str(tables.provenance.get("featlab_version", ""))


def _opened(path: Path, mode: str) -> h5py.File:
    return h5py.File(path, mode, libver=("earliest", "v110"))


def _copy(
    pieces: Iterable[Piece], path: Path, n_rows: int, dtypes: dict[str, np.dtype]
) -> list[Piece]:
    """Copy the rows of pieces into a new file; returns the pieces."""
    coming = iter(pieces)
    copied: list[Piece] = []
    with _opened(path, "w") as target:
        for start, piece in _with_rows(coming):
            copied.append(piece)
            # One part is open at a time: there may be thousands of them.
            with h5py.File(piece.file, "r") as source:
                wider = _wider(dtypes, source)
                if wider != dtypes:
                    break
                for layer, dtype in dtypes.items():
                    _copy_maps(source, target, f"maps/{layer}", piece, start, n_rows, dtype)
                for key in _plain_keys(dtypes):
                    _copy_plain(source, target, key, piece, start, n_rows)
        else:
            return copied
    # The rows before it must have the same format, in a file without a hole.
    return _copy(chain(copied, coming), path, n_rows, wider)


def _with_rows(pieces: Iterable[Piece]) -> Iterator[tuple[int, Piece]]:
    """Each piece with its first row in the store."""
    start = 0
    for piece in pieces:
        yield start, piece
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
    for file in names:
        with h5py.File(file, "r") as source:
            dtypes = _wider(dtypes, source)
    types = {f"maps/{layer}": dtype for layer, dtype in dtypes.items()}
    with h5py.File(pieces[0].file, "r") as first:
        types |= {key: first[key].dtype for key in _plain_keys(dtypes)}
        shapes = {key: first[key].shape[1:] for key in types}
    for key, dtype in types.items():
        layout = h5py.VirtualLayout((n_rows, *shapes[key]), dtype)
        for start, piece in _with_rows(pieces):
            shape = (piece.stop, *shapes[key])
            source = h5py.VirtualSource(names[piece.file], key, shape=shape, dtype=dtype)
            layout[start : start + len(piece)] = source[piece.start : piece.stop]
        # Rows of a file that is missing read as NaN, not as silent zeros.
        dataset = target.create_virtual_dataset(key, layout, fillvalue=np.nan)
        if key.startswith("maps/"):
            dataset.attrs["axes"] = MAP_AXES
    write_pieces(target, folder, pieces)


def _plain_keys(layers: Iterable[str]) -> list[str]:
    """Datasets of few numbers an image."""
    pooled = [f"pooled/{layer}/{how}" for layer in layers for how in ("mean", "max")]
    return [*pooled, "colour_histogram", "frames"]


def _while_free(pieces: Iterable[Piece], path: Path, n_rows: int) -> Iterator[Piece]:
    """The pieces; where the disk may not hold them and what is joined of them, all at the end.

    Refuses before the disk is full: HDF5 cannot even close a file that it cannot flush.
    """
    if isinstance(pieces, Sequence):
        _check_free(pieces, path)
        yield from pieces
        return
    coming, to_come = iter(pieces), n_rows
    for piece in coming:
        to_come -= len(piece)
        a_row = piece.file.stat().st_size / len(piece)
        if _free(path) < a_row * (len(piece) + 2 * to_come):
            rest = [piece, *coming]
            _check_free(rest, path)
            yield from rest
        else:
            yield piece


def _check_free(pieces: Sequence[Piece], path: Path) -> None:
    if _free(path) < sum(file.stat().st_size for file in {piece.file for piece in pieces}):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _free(path: Path) -> int:
    return shutil.disk_usage(path.parent).free


def _wider(dtypes: dict[str, np.dtype], source: h5py.File) -> dict[str, np.dtype]:
    """Number format of each layer: the wider of the one given and the file's."""
    return {
        layer: np.result_type(source[f"maps/{layer}"].dtype, dtype)
        for layer, dtype in dtypes.items()
    }


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
            mask, chunk = read_raw_chunk(part, (row, *origin))
            write_raw_chunk(joined, (goal, *origin), chunk, mask)
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
            mask, chunk = read_raw_chunk(part, (row, 0))
            write_raw_chunk(joined, (start + row, 0), chunk, mask)
    else:
        for row in range(piece.start, piece.stop, step):
            values = part[row : min(row + step, piece.stop)]
            write_plain_chunk(joined, start + row - piece.start, values)
