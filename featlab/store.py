"""The HDF5 store of feature maps: written once, read many times.

The layout is described in ``docs/file-format.md``. A *part* (one finished range of rows, written
during the pass) has the same groups as a store, without the tables; :func:`join_parts` copies the
compressed chunks of parts, or of a finished store, into one new store without decoding them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import pandas as pd

from featlab._errors import FeatlabError

ENCODING_TYPE = "featlab-maps"
ENCODING_VERSION = "1.0"
_COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
_POOLED_CHUNK = 256
_FLOAT16_MAX = float(np.finfo(np.float16).max)

IMAGE_DTYPES = {
    "path": str,
    "label": str,
    "split": str,
    "group": str,
    "width": np.int64,
    "height": np.int64,
    "sha256": str,
}
BOX_DTYPES = {
    "image": np.int64,
    "kind": str,
    "label": str,
    "xmin": np.float64,
    "ymin": np.float64,
    "xmax": np.float64,
    "ymax": np.float64,
}
SKIPPED_DTYPES = {"path": str, "reason": str}


class MapStore:
    """A finished store of feature maps, open for reading.

    Row *i* of every array is row *i* of :attr:`images`.

    Parameters
    ----------
    path : path-like
        The HDF5 file.

    Raises
    ------
    FeatlabError
        The file is missing, damaged, not a featlab store or of an unknown version; the message
        names the file and the key.

    Examples
    --------
    >>> with MapStore("maps.h5") as store:      # doctest: +SKIP
    ...     X = store.pooled("mean")            # (n, c)
    ...     for rows, maps in store.iter_maps():
    ...         ...                             # (k, h, w, c)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = _open(self.path)
        try:
            self.images = _read_table(self._group("images"), IMAGE_DTYPES, self.path)
            self.boxes = _read_table(self._group("boxes"), BOX_DTYPES, self.path)
            skipped = _read_table(self._group("skipped"), SKIPPED_DTYPES, self.path)
            self.images.attrs["root"] = str(self._group("images").attrs.get("root", ""))
            self.images.attrs["skipped"] = skipped.to_dict("records")
            self.provenance: dict[str, Any] = {
                key: _plain(value) for key, value in self._group("provenance").attrs.items()
            }
            self.layers: list[str] = json.loads(self.provenance["layers"])
            self._check_shapes()
        except (KeyError, json.JSONDecodeError) as error:
            self.close()
            raise FeatlabError(f"{self.path} is damaged: {error}; extract it again.") from error
        except FeatlabError:
            self.close()
            raise

    def __enter__(self) -> MapStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        if not self._file:
            return f"<MapStore {self.path} (closed)>"
        shapes = ", ".join(
            f"{layer} {' x '.join(map(str, self.map_shape(layer)))}" for layer in self.layers
        )
        return f"<MapStore {self.path}: {len(self)} images, {shapes}>"

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._file.close()

    @property
    def classes(self) -> list[str]:
        """The labels, sorted."""
        return sorted(self.images["label"].unique())

    @property
    def frames(self) -> np.ndarray:
        """Where each picture lies in the network's input, ``(n, 4)`` left, top, right, bottom.

        In unit coordinates of the input: (0, 0, 1, 1) when the picture was stretched.
        """
        return np.asarray(self._dataset("frames")[()])

    @property
    def colour_histogram(self) -> np.ndarray:
        """4 x 4 x 4 joint RGB histogram of each picture, ``(n, 64)`` float32; rows sum to 1."""
        return np.asarray(self._dataset("colour_histogram")[()])

    def map_shape(self, layer: str | None = None) -> tuple[int, int, int]:
        """Height, width and number of neurons of a layer's maps."""
        _, h, w, c = self._maps(layer).shape
        return h, w, c

    def maps(self, rows: Any = None, layer: str | None = None) -> np.ndarray:
        """Feature maps of some images.

        Parameters
        ----------
        rows : int, slice, sequence of int or boolean mask, optional
            Row numbers of the image table; all by default.
        layer : str, optional
            The last stored layer by default.

        Returns
        -------
        ndarray of shape (k, h, w, c), float32
        """
        dataset = self._maps(layer)
        return _read_rows(dataset, self._rows(rows), self.path)

    def iter_maps(
        self, batch: int = 64, rows: Any = None, layer: str | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Feature maps in batches: pairs of row numbers ``(k,)`` and maps ``(k, h, w, c)``."""
        if batch < 1:
            raise FeatlabError(f"batch must be at least 1, got {batch}.")
        dataset, wanted = self._maps(layer), self._rows(rows)
        for start in range(0, len(wanted), batch):
            chunk = wanted[start : start + batch]
            yield chunk, _read_rows(dataset, chunk, self.path)

    def pooled(self, how: str = "mean", layer: str | None = None) -> np.ndarray:
        """Pooled activations, ``(n, c)`` float32, from the network's own float32 output.

        Parameters
        ----------
        how : {"mean", "max"}
            Over the cells of the map.
        layer : str, optional
            The last stored layer by default.
        """
        if how not in ("mean", "max"):
            raise FeatlabError(f"how must be 'mean' or 'max', got {how!r}.")
        dataset = self._dataset(f"pooled/{self.layer_name(layer)}/{how}")
        try:
            return np.asarray(dataset[()])
        except OSError as error:
            raise _damaged(self.path, dataset.name, error) from error

    def verify(self) -> None:
        """Read everything once and check it against itself.

        Every chunk is decompressed (which checks its checksum) and pooled again; the result must
        equal ``/pooled`` within the rounding of the stored number format.

        Raises
        ------
        FeatlabError
            Names the file and the key of the first thing that does not hold.
        """
        for layer in self.layers:
            pooled = {how: self.pooled(how, layer) for how in ("mean", "max")}
            for rows, maps in self.iter_maps(layer=layer):
                _check_pooling(self.path, layer, rows, maps, pooled)
        if not np.allclose(self.colour_histogram.sum(axis=1), 1, atol=1e-4):
            raise FeatlabError(f"{self.path}: /colour_histogram does not sum to 1; extract again.")

    def layer_name(self, layer: str | None = None) -> str:
        """Check a layer's name; None is the last stored layer."""
        if layer is None:
            return self.layers[-1]
        if layer not in self.layers:
            raise FeatlabError(
                f"layer must be one of {', '.join(self.layers)} in {self.path}, got {layer!r}."
            )
        return layer

    def _group(self, key: str) -> h5py.Group:
        item = self._file.get(key)
        if not isinstance(item, h5py.Group):
            raise FeatlabError(f"{self.path} is damaged: no group /{key}; extract it again.")
        return item

    def _dataset(self, key: str) -> h5py.Dataset:
        item = self._file.get(key)
        if not isinstance(item, h5py.Dataset):
            raise FeatlabError(f"{self.path} is damaged: no dataset /{key}; extract it again.")
        return item

    def _maps(self, layer: str | None) -> h5py.Dataset:
        return self._dataset(f"maps/{self.layer_name(layer)}")

    def _rows(self, rows: Any) -> np.ndarray:
        everything = np.arange(len(self))
        if rows is None:
            return everything
        try:
            return np.atleast_1d(everything[np.asarray(rows) if np.iterable(rows) else rows])
        except IndexError as error:
            raise FeatlabError(f"rows must lie in 0 … {len(self) - 1}: {error}.") from error

    def _check_shapes(self) -> None:
        keys = ["frames", "colour_histogram"]
        for layer in self.layers:
            keys += [f"maps/{layer}", f"pooled/{layer}/mean", f"pooled/{layer}/max"]
        for key in keys:
            rows = self._dataset(key).shape[0]
            if rows != len(self):
                raise FeatlabError(
                    f"{self.path} is damaged: /{key} has {rows} rows, the image table "
                    f"{len(self)}; extract it again."
                )


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
    """

    def __init__(self, path: Path, n_rows: int, dtype: str = "float16") -> None:
        self.path, self.n_rows, self.dtype = path, n_rows, np.dtype(dtype)
        self._temporary = path.with_name(path.name + ".tmp")
        self._file = h5py.File(self._temporary, "w", libver=("earliest", "v110"))
        self._filled = 0

    def append(
        self, maps: Mapping[str, np.ndarray], colour: np.ndarray, frames: np.ndarray
    ) -> None:
        """Add a batch: layer → ``(b, h, w, c)`` float32, ``(b, 64)`` colours, ``(b, 4)`` frames."""
        rows = slice(self._filled, self._filled + len(colour))
        for layer, values in maps.items():
            self._check_finite(layer, values)
            stored = self._maps(layer, values)
            # NumPy rounds: HDF5 1.14.6 halves what it should round up to a power of two.
            stored[rows] = values.astype(stored.dtype)
            flat = values.reshape(len(values), -1, values.shape[-1])
            self._plain(f"pooled/{layer}/mean", flat.mean(axis=1))[rows] = flat.mean(axis=1)
            self._plain(f"pooled/{layer}/max", flat.max(axis=1))[rows] = flat.max(axis=1)
        self._plain("colour_histogram", colour)[rows] = colour
        self._plain("frames", frames)[rows] = frames
        self._filled = rows.stop

    def finish(self) -> None:
        """Flush to the disk and give the part its final name."""
        if self._filled != self.n_rows:
            raise RuntimeError(f"part {self.path}: {self._filled} of {self.n_rows} rows written")
        self._file.close()
        replace_durably(self._temporary, self.path)

    def discard(self) -> None:
        """Remove the unfinished file."""
        # A full disk makes closing fail too; the file is thrown away all the same.
        with contextlib.suppress(OSError, RuntimeError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _check_finite(self, layer: str, values: np.ndarray) -> None:
        if not np.isfinite(values).all():
            raise FeatlabError(
                f"the network's output at layer {layer!r} has NaN or infinite values; "
                "check its weights and preprocessing."
            )

    def _maps(self, layer: str, values: np.ndarray) -> h5py.Dataset:
        key = f"maps/{layer}"
        dtype = self.dtype
        if key in self._file:
            dtype = self._file[key].dtype
        if dtype == np.float16 and np.abs(values).max(initial=0) > _FLOAT16_MAX:
            dtype = np.dtype(np.float32)
        if key in self._file and self._file[key].dtype != dtype:
            written = self._file[key][: self._filled].astype(dtype)
            del self._file[key]
            _create_maps(self._file, key, self.n_rows, values.shape[1:], dtype)
            self._file[key][: self._filled] = written
        elif key not in self._file:
            _create_maps(self._file, key, self.n_rows, values.shape[1:], dtype)
        return self._file[key]

    def _plain(self, key: str, values: np.ndarray) -> h5py.Dataset:
        return _create_plain(self._file, key, self.n_rows, values.shape[1], values.dtype)


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
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(h5py.File(part, "r")) for part in parts]
        target = stack.enter_context(h5py.File(temporary, "w", libver=("earliest", "v110")))
        for layer in sources[0]["maps"]:
            _join_maps(sources, target, f"maps/{layer}", len(images))
            for how in ("mean", "max"):
                _join_plain(sources, target, f"pooled/{layer}/{how}", len(images))
        for key in ("colour_histogram", "frames"):
            _join_plain(sources, target, key, len(images))
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
    replace_durably(temporary, path)


def part_rows(path: Path) -> int | None:
    """Number of rows of a finished part; None where the file cannot be read as one."""
    try:
        with h5py.File(path, "r") as file:
            return int(file["frames"].shape[0])
    except (OSError, KeyError, AttributeError):
        return None


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


def _open(path: Path) -> h5py.File:
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
    kind = _plain(file.attrs.get("encoding-type"))
    version = _plain(file.attrs.get("encoding-version"))
    if kind != ENCODING_TYPE:
        file.close()
        raise FeatlabError(
            f"{path} is an HDF5 file but not a featlab store: attribute encoding-type is "
            f"{kind!r}, not {ENCODING_TYPE!r}."
        )
    if str(version).partition(".")[0] != ENCODING_VERSION.partition(".")[0]:
        file.close()
        raise FeatlabError(
            f"{path} has encoding-version {version!r}; this featlab reads {ENCODING_VERSION}. "
            "You may need to update featlab."
        )
    return file


def _create_maps(
    file: h5py.File, key: str, n_rows: int, shape: tuple[int, ...], dtype: np.dtype
) -> h5py.Dataset:
    # One image per chunk: a picture's maps are one read, and joining is a copy of chunks.
    dataset = file.create_dataset(
        key, (n_rows, *shape), dtype=dtype, chunks=(1, *shape), track_times=False, **_COMPRESSION
    )
    dataset.attrs["axes"] = ["image", "y", "x", "neuron"]
    return dataset


def _create_plain(
    file: h5py.File, key: str, n_rows: int, width: int, dtype: np.dtype
) -> h5py.Dataset:
    if key in file:
        return file[key]
    chunks = (min(_POOLED_CHUNK, n_rows), width)
    return file.create_dataset(
        key, (n_rows, width), dtype=dtype, chunks=chunks, track_times=False, **_COMPRESSION
    )


def _join_maps(sources: Sequence[h5py.File], target: h5py.File, key: str, n_rows: int) -> None:
    dtype = np.result_type(*(source[key].dtype for source in sources))
    joined = _create_maps(target, key, n_rows, sources[0][key].shape[1:], dtype)
    origin = (0,) * (joined.ndim - 1)
    start = 0
    for source in sources:
        part = source[key]
        if part.dtype == dtype:
            for row in range(part.shape[0]):
                mask, chunk = part.id.read_direct_chunk((row, *origin))
                joined.id.write_direct_chunk((start + row, *origin), chunk, mask)
        else:
            for row in range(part.shape[0]):
                joined[start + row] = part[row].astype(dtype)
        start += part.shape[0]


def _join_plain(sources: Sequence[h5py.File], target: h5py.File, key: str, n_rows: int) -> None:
    first = sources[0][key]
    joined = _create_plain(target, key, n_rows, first.shape[1], first.dtype)
    start = 0
    for source in sources:
        stop = start + source[key].shape[0]
        joined[start:stop] = source[key][()]
        start = stop


def _write_table(group: h5py.Group, table: pd.DataFrame, dtypes: Mapping[str, type]) -> None:
    for column, dtype in dtypes.items():
        if dtype is str:
            values = np.array([str(value) for value in table[column]], dtype=object)
            group.create_dataset(
                column, data=values, dtype=h5py.string_dtype("utf-8"), track_times=False
            )
        else:
            group.create_dataset(column, data=table[column].to_numpy(dtype), track_times=False)


def _read_table(group: h5py.Group, dtypes: Mapping[str, type], path: Path) -> pd.DataFrame:
    columns = {}
    for column, dtype in dtypes.items():
        key = f"{group.name}/{column}"
        if column not in group:
            raise FeatlabError(f"{path} is damaged: no dataset {key}; extract it again.")
        try:
            columns[column] = group[column].asstr()[()] if dtype is str else group[column][()]
        except (OSError, TypeError, UnicodeDecodeError) as error:
            raise _damaged(path, key, error) from error
    if len({len(values) for values in columns.values()}) > 1:
        raise FeatlabError(
            f"{path} is damaged: the columns of {group.name} differ in length; extract it again."
        )
    return pd.DataFrame(columns)


def _read_rows(dataset: h5py.Dataset, rows: np.ndarray, path: Path) -> np.ndarray:
    unique, inverse = np.unique(rows, return_inverse=True)
    values = np.empty((len(unique), *dataset.shape[1:]), dtype=np.float32)
    # Runs of neighbouring rows are read as slices: HDF5's own point selection is slow.
    breaks = np.flatnonzero(np.diff(unique) != 1) + 1
    try:
        for positions in np.split(np.arange(len(unique)), breaks):
            if len(positions):
                source = np.s_[unique[positions[0]] : unique[positions[-1]] + 1]
                values[positions[0] : positions[-1] + 1] = dataset[source]
    except OSError as error:
        raise _damaged(path, dataset.name, error) from error
    return values if np.array_equal(unique, rows) else values[inverse]


def _check_pooling(
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
        wrong = (np.abs(values - pooled[how][rows]) > tolerance).any(axis=1)
        if wrong.any():
            raise FeatlabError(
                f"{path}: /pooled/{layer}/{how} does not agree with /maps/{layer} in row "
                f"{int(rows[wrong.argmax()])}; extract again."
            )


def _plain(value: Any) -> Any:
    """HDF5 attribute → plain Python."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.generic):
        return value.item()
    return value


def _damaged(path: Path, key: str, error: Exception) -> FeatlabError:
    return FeatlabError(f"{path} is damaged at {key}: {_first_line(error)}; extract it again.")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
