"""Parts are written, a batch at a time; then joined to one store without decoding them."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import chain, count
from pathlib import Path
from uuid import uuid4

import h5py
import numpy as np

from featlab.errors import FeatlabError
from featlab.store.format import (
    ENCODING_TYPE,
    ENCODING_VERSION,
    POOLINGS,
    THUMBNAILS,
    Tables,
    layer_names,
    write_gone,
    write_tables,
)
from featlab.store.network import PER_IMAGE
from featlab.store.rows import (
    MAP_AXES,
    Piece,
    create_maps,
    create_plain,
    encode_chunk,
    read_raw_chunk,
    relative_name,
    write_pieces,
    write_plain_chunk,
    write_raw_chunk,
)
from featlab.system.files import replace_durably

_FLOAT16_MAX = float(np.finfo(np.float16).max)

MAY_BE_ABSENT = (THUMBNAILS, *PER_IMAGE)
"""Datasets of few numbers an image that not every part has."""


@dataclass(frozen=True)
class EncodedMaps:
    """Maps of a batch as they are stored; made by :func:`encode_maps`.

    Attributes
    ----------
    maps : ndarray of shape (b, h, w, c), float32
        The network's own output.
    mean, max : ndarray of shape (b, c), float32
        Pooled over the cells.
    dtype : dtype
        Number format of the chunks.
    chunks : tuple of bytes
        One for each image: shuffled and deflated.
    lowest, highest : float
        Of all values.
    """

    maps: np.ndarray
    mean: np.ndarray
    max: np.ndarray
    dtype: np.dtype
    chunks: tuple[bytes, ...]
    lowest: float
    highest: float


def encode_maps(layer: str, values: np.ndarray, dtype: str = "float16") -> EncodedMaps:
    """Pool and compress the maps of a batch; threads may do so at the same time.

    Parameters
    ----------
    layer : str
        Its name, for the error.
    values : ndarray of shape (b, h, w, c), float32
    dtype : {"float16", "float32"}
        Number format of the stored maps; float32 where a value overflows float16.

    Raises
    ------
    FeatlabError
        There are NaN or infinite values.
    """
    flat = values.reshape(len(values), -1, values.shape[-1])
    highest, lowest = flat.max(axis=1), flat.min(axis=(1, 2))  # NaN wherever there is one
    if not (np.isfinite(highest).all() and np.isfinite(lowest).all()):
        raise FeatlabError(
            f"the network's output at layer {layer!r} has NaN or infinite values; "
            "check its weights and preprocessing."
        )
    largest = max(highest.max(initial=0), -lowest.min(initial=0))
    stored = np.dtype(np.float32 if largest > _FLOAT16_MAX else dtype)
    # One image after the other stays in the core's cache.
    chunks = tuple(encode_chunk(image, stored) for image in values)
    ends = float(lowest.min(initial=np.inf)), float(highest.max(initial=-np.inf))
    return EncodedMaps(values, flat.mean(axis=1), highest, stored, chunks, *ends)


class PartWriter:
    """Writes the rows of one part, a batch at a time, all or nothing.

    Parameters
    ----------
    path : Path
        Final name of the part; until :meth:`finish` it has the suffix ``.tmp``.
    n_rows : int
        Number of rows the part will have.
    dtype : {"float16", "float32"}
        Number format of the maps. A layer in which a value overflows float16 becomes float32.
    made_by : str
        Digest of the pass, kept in the part.
    of : int
        Rows of the store, whose chunks of pooled values are those of the part: they are joined as
        they are.
    """

    def __init__(
        self, path: Path, n_rows: int, dtype: str = "float16", *, made_by: str = "", of: int = 0
    ) -> None:
        self._of = of
        self.path, self.n_rows, self.dtype, self.made_by = path, n_rows, dtype, made_by
        # A worker that was given up for lost may still be writing the same part.
        self._temporary = path.with_name(f"{path.name}.{uuid4().hex[:8]}.tmp")
        # Made by the first batch: an interrupt before the caller's `try` would leave it behind.
        self._file: h5py.File | None = None
        self._filled = 0
        # Finding a dataset by its name costs as much as writing a chunk to it.
        self._maps: dict[str, h5py.Dataset] = {}
        # Small beside the maps: they are kept until the end, for whole chunks.
        self._plain: dict[str, list[np.ndarray]] = {}

    def append(
        self,
        maps: Mapping[str, np.ndarray | EncodedMaps],
        colour: np.ndarray,
        frames: np.ndarray,
        more: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Add a batch: layer → ``(b, h, w, c)`` float32, ``(b, 64)`` colours, ``(b, 4)`` frames.

        More datasets, ``(b, m)`` each, are thumbnails and what the network's own head says.

        Maps may be encoded already, in the part's own number format.
        """
        if self._file is None:
            self._file = h5py.File(self._temporary, "w", libver=("earliest", "v110"))
        for layer, given in maps.items():
            batch = (
                given if isinstance(given, EncodedMaps) else encode_maps(layer, given, self.dtype)
            )
            with _write_errors():
                self._write_maps(layer, batch)
            self._plain.setdefault(f"pooled/{layer}/mean", []).append(batch.mean)
            self._plain.setdefault(f"pooled/{layer}/max", []).append(batch.max)
        self._plain.setdefault("colour_histogram", []).append(colour)
        self._plain.setdefault("frames", []).append(frames)
        for key, values in (more or {}).items():
            self._plain.setdefault(key, []).append(values)
        self._filled += len(colour)

    def finish(self, gone: Mapping[int, str] | None = None) -> None:
        """Flush to the disk and give the part its final name; `gone` says which rows are blank."""
        if self._file is None or self._filled != self.n_rows:
            raise RuntimeError(f"part {self.path}: {self._filled} of {self.n_rows} rows written")
        with _write_errors():
            for key, batches in self._plain.items():
                values = np.concatenate(batches)
                shape = self.n_rows, values.shape[1]
                dataset = create_plain(self._file, key, *shape, values.dtype, self._of)
                for start in range(0, self.n_rows, dataset.chunks[0]):
                    write_plain_chunk(dataset, start, values[start : start + dataset.chunks[0]])
            write_gone(self._file, gone or {})
            self._file.attrs["pass"] = self.made_by
            self._file.close()
        replace_durably(self._temporary, self.path)

    def discard(self) -> None:
        """Remove the unfinished file."""
        # A full disk makes closing fail too; the file is thrown away all the same.
        with contextlib.suppress(OSError, RuntimeError):
            if self._file is not None:
                self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write_maps(self, layer: str, batch: EncodedMaps) -> None:
        stored = self._maps.get(layer)
        if stored is None:
            stored = self._create(layer, batch)
        dtype = stored.dtype
        if dtype == np.float16 and batch.dtype == np.float32:
            written = stored[: self._filled].astype(np.float32)
            del stored.file[stored.name]
            stored, dtype = self._create(layer, batch), batch.dtype
            stored[: self._filled] = written
        chunks = batch.chunks
        if dtype != batch.dtype:
            chunks = tuple(encode_chunk(image, dtype) for image in batch.maps)
        for row, chunk in enumerate(chunks, start=self._filled):
            write_raw_chunk(stored, (row, 0, 0, 0), chunk)

    def _create(self, layer: str, batch: EncodedMaps) -> h5py.Dataset:
        shape = batch.maps.shape[1:]
        created = create_maps(self._file, f"maps/{layer}", self.n_rows, shape, batch.dtype)
        self._maps[layer] = created
        return created


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
        with _write_errors():
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
    absent: set[str] = set()
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
                for key in _plain_keys(dtypes, source):
                    _copy_plain(source, target, key, piece, start, n_rows)
                absent |= {key for key in MAY_BE_ABSENT if key not in source}
        else:
            # What only some of the pieces have would be zeros for the others' rows.
            for key in absent & {key for key in MAY_BE_ABSENT if key in target}:
                del target[key]
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
    plain = {*_plain_keys(dtypes), *MAY_BE_ABSENT}
    for file in names:
        with h5py.File(file, "r") as source:
            dtypes = _wider(dtypes, source)
            plain &= {*_plain_keys(dtypes, source)}
    types = {f"maps/{layer}": dtype for layer, dtype in dtypes.items()}
    with h5py.File(pieces[0].file, "r") as first:
        types |= {key: first[key].dtype for key in sorted(plain)}
        shapes = {key: first[key].shape[1:] for key in types}
    for key, dtype in types.items():
        layout = h5py.VirtualLayout((n_rows, *shapes[key]), dtype)
        for start, piece in _with_rows(pieces):
            shape = (piece.stop, *shapes[key])
            source = h5py.VirtualSource(names[piece.file], key, shape=shape, dtype=dtype)
            layout[start : start + len(piece)] = source[piece.start : piece.stop]
        # Rows of a file that is missing read as NaN, not as silent zeros.
        blank = np.nan if dtype.kind == "f" else 0
        dataset = target.create_virtual_dataset(key, layout, fillvalue=blank)
        if key.startswith("maps/"):
            dataset.attrs["axes"] = MAP_AXES
    write_pieces(target, folder, pieces)


def _plain_keys(layers: Iterable[str], source: h5py.File | None = None) -> list[str]:
    """Datasets of few numbers an image; thumbnails and own logits where a file has them."""
    pooled = [f"pooled/{layer}/{pooling}" for layer in layers for pooling in POOLINGS]
    more = [] if source is None else [key for key in MAY_BE_ABSENT if key in source]
    return [*pooled, "colour_histogram", "frames", *more]


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


@contextlib.contextmanager
def _write_errors() -> Iterator[None]:
    """Tell a disk that refuses as an OSError: h5py raises RuntimeError when it closes a file."""
    try:
        yield
    except RuntimeError as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
