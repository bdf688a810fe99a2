"""Runs of rows that lie in several files, read as one array."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
import pandas as pd

from featlab.errors import FeatlabError
from featlab.store._checking import check_maps, check_numbers, plain, read_errors
from featlab.store._chunks import read_chunks
from featlab.store._items import find_dataset, read_table, write_table

PIECE_DTYPES = {"file": str, "start": np.int64, "stop": np.int64, "identity": str}
"""Columns of the table ``/parts`` of a virtual store and their types on disk."""
PIECES = "parts"
_OPEN_FILES = 16


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
            if _identity(file) != made_by:
                return None
            return Piece(path, 0, int(file["frames"].shape[0]), made_by)
    except (OSError, KeyError, AttributeError):
        return None


def choose_rows(pieces: Sequence[Piece], rows: Sequence[int] | np.ndarray) -> list[Piece]:
    """Pieces that hold some of the rows, in the order given; neighbours become one piece."""
    first, wanted = _first_rows(pieces), np.asarray(rows, dtype=np.int64)
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
    if not _is_virtual(file):
        frames = find_dataset(file, "frames")
        with read_errors(path, "/frames"):
            check_numbers(frames, 2, "f")
            return [Piece(path, 0, int(frames.shape[0]), _identity(file))]
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


def _is_virtual(file: h5py.File) -> bool:
    with read_errors(Path(file.filename), "/"):
        return PIECES in file


def _inside(path: Path, name: str) -> Path:
    """A store from elsewhere could name any file of this machine."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name or ":" in name:
        raise FeatlabError(f"{path} is refused: /{PIECES} names {name!r} outside of its folder.")
    return path.parent.joinpath(*parts)


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
        self.virtual = _is_virtual(own)
        self._first = _first_rows(self.pieces)
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
                found = _identity(self._open[path])
            if found != piece.identity:
                raise FeatlabError(
                    f"{self._path} is a virtual store of an earlier {path}, which has been made "
                    "anew from something else; extract again."
                )
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]


def _identity(file: h5py.File) -> str:
    """What tells a part or a store from another one at the same place."""
    if "pass" in file.attrs or "provenance" not in file:
        return str(plain(file.attrs.get("pass", "")))
    return str(plain(file["provenance"].attrs.get("image_set_digest", "")))


def _first_rows(pieces: Sequence[Piece]) -> np.ndarray:
    """First row of each piece in the store, and the number of all rows."""
    return np.concatenate([[0], np.cumsum([len(piece) for piece in pieces], dtype=np.int64)])
