"""The rows of a store as they lie in files.

An image's maps are one chunk, packed and unpacked by all cores; runs of rows may lie in several
files: finished parts of a pass, or other stores.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
import pandas as pd
from h5py._objects import phil

from featlab.errors import FeatlabError
from featlab.store.format import (
    check_maps,
    check_numbers,
    find_dataset,
    holds,
    plain,
    read_errors,
    read_table,
    write_table,
)
from featlab.store.network import float16_bits
from featlab.system.machine import usable_cores

_COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
_POOLED_CHUNK = 256
MAP_AXES = ["image", "y", "x", "neuron"]
_OPEN_FILES = 16
_FILTERS = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE)
# For fewer chunks starting threads costs more than it saves; they take some at a time, since
# handing over each by itself would cost a tenth of the time.
_CHUNKS_FOR_THREADS, _CHUNKS_AT_A_TIME = 8, 4


def encode_chunk(values: np.ndarray, dtype: np.dtype) -> bytes:
    """What HDF5's own shuffle and deflate filters would read, in less time."""
    # NumPy rounds: HDF5 1.14.6 halves what it should round up to a power of two.
    if (values.dtype, dtype) == (np.float32, np.float16):
        numbers = float16_bits(values)
    else:
        numbers = values.astype(dtype, order="C").ravel().view(f"u{dtype.itemsize}")
    # Shifting is twice as fast as transposing bytes; the file is little-endian.
    octets = np.empty((dtype.itemsize, numbers.size), dtype=np.uint8)
    for plane in octets:
        np.copyto(plane, numbers, casting="unsafe")
        numbers >>= 8
    return _deflater()(octets.data)


@cache
def _deflater() -> Callable[[memoryview], bytes]:
    """The fastest writer of deflate streams that is installed (docs/speed.md)."""
    with contextlib.suppress(ImportError):
        from isal import isal_zlib

        return partial(isal_zlib.compress, level=1)

    def deflate(octets: memoryview) -> bytes:
        # Shuffled maps are runs of zeros: looking for runs only is faster and packs better.
        packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
        return packer.compress(octets) + packer.flush()

    return deflate


def read_chunks(dataset: h5py.Dataset, start: int, out: np.ndarray) -> bool:
    """Read rows into an array, if whole rows make up chunks that are shuffled and deflated.

    Parameters
    ----------
    dataset : Dataset of shape (n, ...)
    start : int
        First row.
    out : ndarray of shape (k, ...)
        Is filled with the rows from `start` on, in its own number format.

    Returns
    -------
    bool
        False where the rows lie otherwise, or a chunk is missing or damaged: then HDF5 must read
        them, which says what is wrong. `out` may have been filled in part.
    """
    if not _is_plain(dataset):
        return False
    shape, dtype = dataset.chunks, dataset.dtype
    begins = range(start - start % shape[0], start + len(out), shape[0])
    size, rest = int(np.prod(shape)), (0,) * (dataset.ndim - 1)

    def decode(chunks: Iterable[bytes], first: Iterable[int]) -> None:
        for chunk, begin in zip(chunks, first, strict=True):
            rows = slice(max(start - begin, 0), min(start + len(out) - begin, shape[0]))
            numbers = _decoded(chunk, size, dtype).reshape(shape)[rows]
            target = out[begin + rows.start - start : begin + rows.stop - start]
            if (dtype, target.dtype) == (np.float16, np.float32):
                # Looking them up takes half as long as NumPy's own conversion.
                np.take(_every_float16(), numbers.view(np.uint16), out=target, mode="clip")
            else:
                target[...] = numbers

    chunks = (_chunk(dataset, (begin, *rest)) for begin in begins)
    try:
        if len(begins) < _CHUNKS_FOR_THREADS:
            decode(chunks, begins)
        else:
            step = _CHUNKS_AT_A_TIME
            parts = [begins[k : k + step] for k in range(0, len(begins), step)]
            with ThreadPoolExecutor(usable_cores()) as pool:
                read = (list(islice(chunks, len(part))) for part in parts)
                for _ in pool.map(decode, read, parts):
                    pass
    except Exception:  # isal has an exception of its own, and HDF5 will find the words.
        return False
    return True


def read_raw_chunk(dataset: h5py.Dataset, offset: tuple[int, ...]) -> tuple[int, bytes]:
    """The filters left out, as a mask, and the bytes of the chunk at an offset."""
    # Before 3.16 h5py takes no lock here, and another thread that closes, or only forgets, an
    # object of HDF5 is then in the library at the same time: errors out of nowhere, or a crash.
    with phil:
        mask, chunk = dataset.id.read_direct_chunk(offset)
    return mask, bytes(chunk)


def write_raw_chunk(
    dataset: h5py.Dataset, offset: tuple[int, ...], chunk: bytes, mask: int = 0
) -> None:
    """Write the bytes of the chunk at an offset as they are."""
    with phil:  # as above
        dataset.id.write_direct_chunk(offset, chunk, mask)


def _is_plain(dataset: h5py.Dataset) -> bool:
    if (dataset.chunks or ())[1:] != dataset.shape[1:] or dataset.dtype.str not in ("<f2", "<f4"):
        return False
    settings = dataset.id.get_create_plist()
    filters = tuple(settings.get_filter(k)[0] for k in range(settings.get_nfilters()))
    return filters == _FILTERS


def _chunk(dataset: h5py.Dataset, offset: tuple[int, ...]) -> bytes:
    skipped, chunk = read_raw_chunk(dataset, offset)
    if skipped:
        raise ValueError("a filter was left out")
    return chunk


def _decoded(chunk: bytes, size: int, dtype: np.dtype) -> np.ndarray:
    """The numbers of a chunk; the stream's checksum is compared."""
    planes = np.frombuffer(_inflater()(chunk, bufsize=size * dtype.itemsize), np.uint8)
    whole = np.dtype(f"<u{dtype.itemsize}")
    highest, *others = planes.reshape(dtype.itemsize, size)[::-1]
    numbers = highest.astype(whole)
    for plane in others:
        numbers <<= 8
        numbers |= plane
    return numbers.view(dtype)


@cache
def _every_float16() -> np.ndarray:
    """Each float16, at the place of its bits, as float32."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


@cache
def _inflater() -> Callable[..., bytes]:
    with contextlib.suppress(ImportError):
        from isal import isal_zlib

        return isal_zlib.decompress
    return zlib.decompress


def create_maps(
    file: h5py.File, key: str, n_rows: int, shape: tuple[int, ...], dtype: np.dtype
) -> h5py.Dataset:
    """An empty dataset for the maps of a layer."""
    # One image per chunk: a picture's maps are one read, and joining is a copy of chunks.
    dataset = file.create_dataset(
        key, (n_rows, *shape), dtype=dtype, chunks=(1, *shape), track_times=False, **_COMPRESSION
    )
    dataset.attrs["axes"] = MAP_AXES
    return dataset


def create_plain(
    file: h5py.File, key: str, n_rows: int, width: int, dtype: np.dtype, of: int = 0
) -> h5py.Dataset:
    """An empty dataset for a few numbers an image; its chunks are those of a store of `of` rows."""
    shape, chunks = (n_rows, width), (min(_POOLED_CHUNK, max(n_rows, of)), width)
    most = (None, width) if chunks[0] > n_rows else None  # HDF5 asks for room of a whole chunk
    named = {"dtype": dtype, "chunks": chunks, "maxshape": most, "track_times": False}
    return file.create_dataset(key, shape, **named, **_COMPRESSION)


def write_plain_chunk(dataset: h5py.Dataset, start: int, values: np.ndarray) -> None:
    """Write the rows of one whole chunk; beyond the last row it is filled with zeros."""
    chunk = np.zeros(dataset.chunks, dataset.dtype)
    chunk[: len(values)] = values
    write_raw_chunk(dataset, (start, 0), encode_chunk(chunk, dataset.dtype))


PIECE_DTYPES = {"file": str, "start": np.int64, "stop": np.int64, "identity": str}
"""Columns of the table ``/parts`` of a virtual store and their types on disk."""
PIECES = "parts"


@dataclass(frozen=True)
class Piece:
    """A run of rows of a finished part, or of a store.

    Attributes
    ----------
    file : Path
    start, stop : int
        The first row, and the row after the last, as the file counts them.
    identity : str
        Digest of the pass of a part, or of the pictures of a store: another file of the same name
        is not taken for it.
    """

    file: Path
    start: int
    stop: int
    identity: str = ""

    def __len__(self) -> int:
        return self.stop - self.start


def finished_part(path: Path, made_by: str = "") -> Piece | None:
    """All rows of a finished part; None where there is none, or another pass wrote it."""
    try:
        with h5py.File(path, "r") as file:
            if identity_of(file) != made_by:
                return None
            return Piece(path, 0, int(file["frames"].shape[0]), made_by)
    except (OSError, KeyError, AttributeError):
        return None


def choose_rows(pieces: Sequence[Piece], rows: Sequence[int] | np.ndarray) -> list[Piece]:
    """Pieces that hold some of the rows, in the order given; neighbours become one piece."""
    first, wanted = first_rows(pieces), np.asarray(rows, dtype=np.int64)
    owner = np.searchsorted(first, wanted, side="right") - 1
    there = np.array([piece.start for piece in pieces])[owner] + wanted - first[owner]
    file, _ = pd.factorize(np.array([str(piece.file) for piece in pieces]))
    breaks = np.flatnonzero((np.diff(there) != 1) | (np.diff(file[owner]) != 0)) + 1
    return [
        replace(pieces[owner[run[0]]], start=int(there[run[0]]), stop=int(there[run[-1]]) + 1)
        for run in np.split(np.arange(len(wanted)), breaks)
        if len(run)
    ]


def write_pieces(target: h5py.File, folder: Path, pieces: Sequence[Piece]) -> None:
    """Note in a virtual store where its rows lie, relative to its folder."""
    names = {file: relative_name(file, folder) for file in {piece.file for piece in pieces}}
    table = pd.DataFrame(
        [(names[piece.file], piece.start, piece.stop, piece.identity) for piece in pieces],
        columns=list(PIECE_DTYPES),
    )
    write_table(target, PIECES, table, PIECE_DTYPES)


def relative_name(file: Path, folder: Path) -> str:
    """The file as seen from the store's folder, which it must lie in, or below.

    Raises
    ------
    FeatlabError
        It lies elsewhere.
    """
    try:
        return file.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        raise FeatlabError(
            f"{file} does not lie in {folder}, nor below it: a virtual store can refer only to "
            "files that can be moved together with it. Write the store beside it."
        ) from None


def read_pieces(file: h5py.File) -> list[Piece]:
    """Where the rows of an open store lie; its own rows where it is not virtual.

    Raises
    ------
    FeatlabError
        A file is missing, or lies outside the store's folder.
    """
    path = Path(file.filename)
    if not is_virtual(file):
        frames = find_dataset(file, "frames")
        with read_errors(path, "/frames"):
            check_numbers(frames, 2, "f")
            return [Piece(path, 0, int(frames.shape[0]), identity_of(file))]
    table = read_table(file, PIECES, PIECE_DTYPES)
    files = {name: _inside(path, name) for name in table["file"].unique()}
    missing = [str(one) for one in files.values() if not one.is_file()]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FeatlabError(
            f"{path} is a virtual store and needs {missing[0]}{others}, which is not there; move "
            "a virtual store together with the files that it refers to."
        )
    if ((table["start"] < 0) | (table["stop"] <= table["start"])).any():
        raise FeatlabError(f"{path} is damaged: /{PIECES} names rows that are none.")
    return [
        Piece(files[name], int(start), int(stop), str(identity))
        for name, start, stop, identity in table.itertuples(index=False)
    ]


def is_virtual(file: h5py.File) -> bool:
    """Whether an open store refers to rows in other files."""
    return holds(Path(file.filename), file, PIECES)


def _inside(path: Path, name: str) -> Path:
    """A store from elsewhere could name any file of this machine."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name or ":" in name:
        raise FeatlabError(f"{path} is refused: /{PIECES} names {name!r} outside of its folder.")
    return path.parent.joinpath(*parts)


def identity_of(file: h5py.File) -> str:
    """What tells a part or a store from another one at the same place."""
    if "pass" in file.attrs or not holds(Path(file.filename), file, "provenance"):
        return str(plain(file.attrs.get("pass", "")))
    return str(plain(file["provenance"].attrs.get("image_set_digest", "")))


def first_rows(pieces: Sequence[Piece]) -> np.ndarray:
    """First row of each piece in the store, and the number of all rows."""
    return np.concatenate([[0], np.cumsum([len(piece) for piece in pieces], dtype=np.int64)])


class Rows:
    """The rows of a store, wherever they lie.

    Few files are open at a time; HDF5's own virtual datasets keep every one open that was read.

    Parameters
    ----------
    own : h5py.File
        The store, open for reading.
    """

    def __init__(self, own: h5py.File) -> None:
        self._own, self._path = own, Path(own.filename)
        self.pieces = read_pieces(own)
        self.virtual = is_virtual(own)
        self._first = first_rows(self.pieces)
        self._open: OrderedDict[Path, h5py.File] = OrderedDict()

    def __len__(self) -> int:
        return int(self._first[-1])

    def close(self) -> None:
        """Close the files; of damaged ones even the closing may fail."""
        for file in self._open.values():
            with contextlib.suppress(RuntimeError):
                file.close()
        self._open.clear()

    def array(self, key: str) -> h5py.Dataset:
        """The dataset of all rows, to be asked for its shape and type."""
        if not self._own:
            raise FeatlabError("the store has been closed; open it again, or close it later.")
        return find_dataset(self._own, key, virtual=self.virtual)

    def read(self, key: str, rows: np.ndarray, dtype: np.dtype | type | None = None) -> np.ndarray:
        """Some rows of a dataset, in the order given."""
        whole = self.array(key)
        unique, inverse = np.unique(rows, return_inverse=True)
        owner = np.searchsorted(self._first, unique, side="right") - 1
        # Runs of neighbouring rows are read as slices: HDF5's own point selection is slow.
        breaks = np.flatnonzero((np.diff(unique) != 1) | (np.diff(owner) != 0)) + 1
        with read_errors(self._path, f"/{key}"):
            values = np.empty((len(unique), *whole.shape[1:]), dtype=dtype or whole.dtype)
            for positions in np.split(np.arange(len(unique)), breaks):
                if len(positions):
                    low, high = positions[0], positions[-1] + 1
                    piece = self.pieces[owner[low]]
                    start = piece.start + unique[low] - self._first[owner[low]]
                    source = self._dataset(piece, key, whole)
                    if not read_chunks(source, start, values[low:high]):
                        with read_errors(piece.file, f"/{key}"):
                            values[low:high] = source[start : start + high - low]
        return values if np.array_equal(unique, rows) else values[inverse]

    def _dataset(self, piece: Piece, key: str, whole: h5py.Dataset) -> h5py.Dataset:
        if not self.virtual:
            return whole
        dataset = find_dataset(self._opened(piece), key)
        with read_errors(piece.file, f"/{key}"):
            if whole.ndim == 4:
                check_maps(dataset)
            else:
                check_numbers(dataset, whole.ndim, whole.dtype.kind)
            if dataset.shape[1:] != whole.shape[1:] or dataset.shape[0] < piece.stop:
                raise ValueError(f"shape {dataset.shape} where {self._path} expects another")
        return dataset

    def _opened(self, piece: Piece) -> h5py.File:
        path = piece.file
        if path not in self._open:
            with read_errors(path, "/"):
                self._open[path] = h5py.File(path, "r")
                identity = identity_of(self._open[path])
            if identity != piece.identity:
                raise FeatlabError(
                    f"{self._path} is a virtual store of an earlier {path}, which has been made "
                    "anew from something else; extract again."
                )
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]


@dataclass(frozen=True)
class ArrayRows:
    """What :class:`Rows` is of a file, of arrays in memory."""

    arrays: Mapping[str, np.ndarray]

    def array(self, key: str) -> np.ndarray:
        """The array of all rows."""
        return self.arrays[key]

    def read(self, key: str, rows: np.ndarray, dtype: np.dtype | type | None = None) -> np.ndarray:
        """A copy of some rows, in the order given."""
        return self.arrays[key][rows].astype(dtype or self.arrays[key].dtype, copy=False)
