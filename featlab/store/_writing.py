"""Parts of a store: finished ranges of rows, each complete or not there at all."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import h5py
import numpy as np

from featlab.store._chunks import write_raw_chunk
from featlab.store._encoding import EncodedMaps, encode_chunk, encode_maps

_COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
_POOLED_CHUNK = 256
MAP_AXES = ["image", "y", "x", "neuron"]


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
    """

    def __init__(
        self, path: Path, n_rows: int, dtype: str = "float16", *, made_by: str = ""
    ) -> None:
        self.path, self.n_rows, self.dtype, self.made_by = path, n_rows, dtype, made_by
        # A worker that was given up for lost may still be writing the same part.
        self._temporary = path.with_name(f"{path.name}.{uuid4().hex[:8]}.tmp")
        try:
            self._file = h5py.File(self._temporary, "w", libver=("earliest", "v110"))
        except OSError:
            # On a full disk there may be a file all the same.
            self._temporary.unlink(missing_ok=True)
            raise
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
    ) -> None:
        """Add a batch: layer → ``(b, h, w, c)`` float32, ``(b, 64)`` colours, ``(b, 4)`` frames.

        Maps may be encoded already, in the part's own number format.
        """
        for layer, given in maps.items():
            batch = (
                given if isinstance(given, EncodedMaps) else encode_maps(layer, given, self.dtype)
            )
            with write_errors():
                self._write_maps(layer, batch)
            self._plain.setdefault(f"pooled/{layer}/mean", []).append(batch.mean)
            self._plain.setdefault(f"pooled/{layer}/max", []).append(batch.max)
        self._plain.setdefault("colour_histogram", []).append(colour)
        self._plain.setdefault("frames", []).append(frames)
        self._filled += len(colour)

    def finish(self) -> None:
        """Flush to the disk and give the part its final name."""
        if self._filled != self.n_rows:
            raise RuntimeError(f"part {self.path}: {self._filled} of {self.n_rows} rows written")
        with write_errors():
            for key, batches in self._plain.items():
                values = np.concatenate(batches)
                dataset = create_plain(self._file, key, self.n_rows, values.shape[1], values.dtype)
                for start in range(0, self.n_rows, dataset.chunks[0]):
                    write_plain_chunk(dataset, start, values[start : start + dataset.chunks[0]])
            self._file.attrs["pass"] = self.made_by
            self._file.close()
        replace_durably(self._temporary, self.path)

    def discard(self) -> None:
        """Remove the unfinished file."""
        # A full disk makes closing fail too; the file is thrown away all the same.
        with contextlib.suppress(OSError, RuntimeError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write_maps(self, layer: str, batch: EncodedMaps) -> None:
        stored = self._maps.get(layer)
        if stored is None:
            stored = self._create(layer, batch)
        dtype = stored.dtype
        if dtype == np.float16 and batch.dtype == np.float32:
            written = stored[: self._filled].astype(np.float32)
            del self._file[stored.name]
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


def replace_durably(temporary: Path, path: Path) -> None:
    """Flush `temporary` to the disk, then give it its final name in one step."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    with contextlib.suppress(OSError):  # Windows cannot open a directory.
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file that is there as a whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(content)
        replace_durably(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def write_errors() -> Iterator[None]:
    """Tell a disk that refuses as an OSError: h5py raises RuntimeError when it closes a file."""
    try:
        yield
    except RuntimeError as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def create_maps(
    file: h5py.File, key: str, n_rows: int, shape: tuple[int, ...], dtype: np.dtype
) -> h5py.Dataset:
    # One image per chunk: a picture's maps are one read, and joining is a copy of chunks.
    dataset = file.create_dataset(
        key, (n_rows, *shape), dtype=dtype, chunks=(1, *shape), track_times=False, **_COMPRESSION
    )
    dataset.attrs["axes"] = MAP_AXES
    return dataset


def create_plain(
    file: h5py.File, key: str, n_rows: int, width: int, dtype: np.dtype
) -> h5py.Dataset:
    chunks = (min(_POOLED_CHUNK, n_rows), width)
    return file.create_dataset(
        key, (n_rows, width), dtype=dtype, chunks=chunks, track_times=False, **_COMPRESSION
    )


def write_plain_chunk(dataset: h5py.Dataset, start: int, values: np.ndarray) -> None:
    """Write the rows of one whole chunk; beyond the last row it is filled with zeros."""
    chunk = np.zeros(dataset.chunks, dataset.dtype)
    chunk[: len(values)] = values
    write_raw_chunk(dataset, (start, 0), encode_chunk(chunk, dataset.dtype))
