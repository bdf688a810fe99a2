"""The HDF5 store of feature maps: written once, read many times.

The layout is described in ``docs/file-format.md``. A *part* (one finished range of rows, written
during the pass) has the same groups as a store, without the tables; :func:`join_parts` copies the
compressed chunks of parts, or of a finished store, into one new store without decoding them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import pandas as pd

from featlab import _html
from featlab._errors import FeatlabError

ENCODING_TYPE = "featlab-maps"
"""Root attribute ``encoding-type`` of every store."""
ENCODING_VERSION = "1.0"
"""Root attribute ``encoding-version`` of the stores that are written."""
_COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
_POOLED_CHUNK = 256
_LONGEST = 160
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
            self.images = self._table("images", IMAGE_DTYPES)
            self.boxes = self._table("boxes", BOX_DTYPES)
            skipped = self._table("skipped", SKIPPED_DTYPES)
            with _read_errors(self.path, "/images"):
                self.images.attrs["root"] = str(self._group("images").attrs.get("root", ""))
            self.images.attrs["skipped"] = skipped.to_dict("records")
            with _read_errors(self.path, "/provenance"):
                self.provenance: dict[str, Any] = {
                    _plain(key): _plain(value)
                    for key, value in self._group("provenance").attrs.items()
                }
                self.layers = _layer_names(self.provenance["layers"])
            self._check_layout()
        except BaseException:
            # Of a damaged file even the closing may fail.
            with contextlib.suppress(RuntimeError):
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

    def _repr_html_(self) -> str:
        if not self._file:
            return _html.block(repr(self))
        shapes = [
            (f"layer {layer}", "{} × {} cells, {:,} neurons".format(*self.map_shape(layer)))
            for layer in self.layers
        ]
        known = {k: v for k, v in sorted(self.provenance.items()) if not k.startswith("probe_")}
        return _html.block(
            f"MapStore: {len(self):,} images",
            _html.facts(
                [
                    ("file", self.path),
                    ("backbone", self.provenance.get("backbone", "")),
                    *shapes,
                    ("classes", _html.counts(self.images["label"])),
                    ("boxes", _html.counts(self.boxes["kind"].replace("", "(no kind)"))),
                    ("skipped files", len(self.images.attrs["skipped"])),
                ]
            ),
            _html.folded("Provenance", _html.facts(known.items())),
        )

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
        return self._everything("frames")

    @property
    def colour_histogram(self) -> np.ndarray:
        """4 x 4 x 4 joint RGB histogram of each picture, ``(n, 64)`` float32; rows sum to 1."""
        return self._everything("colour_histogram")

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
        pooled = self._everything(f"pooled/{self.layer_name(layer)}/{how}")
        return pooled.astype(np.float32, copy=False)

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
        left, top, right, bottom = self.frames.T
        if (
            not ((left >= 0) & (left < right) & (right <= 1)).all()
            or not ((top >= 0) & (top < bottom) & (bottom <= 1)).all()
        ):
            raise FeatlabError(f"{self.path}: /frames leaves the network's input; extract again.")

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
        return self._item(key, h5py.Group, "group")

    def _dataset(self, key: str) -> h5py.Dataset:
        return self._item(key, h5py.Dataset, "dataset")

    def _item(self, key: str, kind: Any, name: str) -> Any:
        with _read_errors(self.path, f"/{key}"):
            item = self._file.get(key)
            if not isinstance(item, kind):
                raise FeatlabError(f"{self.path} is damaged: no {name} /{key}; extract it again.")
            # A store from elsewhere could name any file of this machine.
            if item.file.filename != self._file.filename or (
                isinstance(item, h5py.Dataset) and item.external
            ):
                raise FeatlabError(f"{self.path} is refused: /{key} lies in another file.")
            return item

    def _table(self, key: str, dtypes: Mapping[str, type]) -> pd.DataFrame:
        columns = {}
        for column, dtype in dtypes.items():
            place = f"{key}/{column}"
            dataset = self._dataset(place)
            with _read_errors(self.path, f"/{place}"):
                _check_numbers(dataset, 1, "" if dtype is str else np.dtype(dtype).kind)
                columns[column] = dataset.asstr()[()] if dtype is str else dataset[()]
        if len({len(values) for values in columns.values()}) > 1:
            raise FeatlabError(
                f"{self.path} is damaged: the columns of /{key} differ in length; extract it again."
            )
        return pd.DataFrame(columns)

    def _everything(self, key: str) -> np.ndarray:
        dataset = self._dataset(key)
        with _read_errors(self.path, f"/{key}"):
            return np.asarray(dataset[()])

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

    def _check_layout(self) -> None:
        """That every array has the rows, the numbers and the bytes that the format says."""
        widths = {"frames": 4, "colour_histogram": 64}
        for layer in self.layers:
            maps = self._dataset(f"maps/{layer}")
            with _read_errors(self.path, f"/maps/{layer}"):
                _check_maps(maps)
                self._check_rows(f"maps/{layer}", maps)
                widths |= {f"pooled/{layer}/{how}": maps.shape[3] for how in ("mean", "max")}
        for key, width in widths.items():
            dataset = self._dataset(key)
            with _read_errors(self.path, f"/{key}"):
                _check_numbers(dataset, 2, "f")
                self._check_rows(key, dataset)
                if dataset.shape[1] != width:
                    raise ValueError(f"{dataset.shape[1]} columns where {width} are expected")
        if not self.boxes["image"].between(0, len(self) - 1).all():
            raise FeatlabError(
                f"{self.path} is damaged: /boxes/image names rows that are not there; "
                "extract it again."
            )
        if not np.isfinite(self.boxes[["xmin", "ymin", "xmax", "ymax"]].to_numpy()).all():
            raise FeatlabError(
                f"{self.path} is damaged: /boxes has corners that are no numbers; extract it again."
            )

    def _check_rows(self, key: str, dataset: h5py.Dataset) -> None:
        if dataset.shape[0] != len(self) or not len(self):
            raise FeatlabError(
                f"{self.path} is damaged: /{key} has {dataset.shape[0]} rows, the image table "
                f"{len(self)}; extract it again."
            )


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
    """

    maps: np.ndarray
    mean: np.ndarray
    max: np.ndarray
    dtype: np.dtype
    chunks: tuple[bytes, ...]


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
    chunks = tuple(_encode_chunk(image, stored) for image in values)
    return EncodedMaps(values, flat.mean(axis=1), highest, stored, chunks)


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
        self.path, self.n_rows, self.dtype = path, n_rows, dtype
        self._temporary = path.with_name(path.name + ".tmp")
        self._file = h5py.File(self._temporary, "w", libver=("earliest", "v110"))
        self._filled = 0
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
            with _write_errors():
                self._write_maps(f"maps/{layer}", batch)
            self._plain.setdefault(f"pooled/{layer}/mean", []).append(batch.mean)
            self._plain.setdefault(f"pooled/{layer}/max", []).append(batch.max)
        self._plain.setdefault("colour_histogram", []).append(colour)
        self._plain.setdefault("frames", []).append(frames)
        self._filled += len(colour)

    def finish(self) -> None:
        """Flush to the disk and give the part its final name."""
        if self._filled != self.n_rows:
            raise RuntimeError(f"part {self.path}: {self._filled} of {self.n_rows} rows written")
        with _write_errors():
            for key, batches in self._plain.items():
                values = np.concatenate(batches)
                dataset = _create_plain(self._file, key, self.n_rows, values.shape[1], values.dtype)
                for start in range(0, self.n_rows, dataset.chunks[0]):
                    _write_plain_chunk(dataset, start, values[start : start + dataset.chunks[0]])
            self._file.close()
        replace_durably(self._temporary, self.path)

    def discard(self) -> None:
        """Remove the unfinished file."""
        # A full disk makes closing fail too; the file is thrown away all the same.
        with contextlib.suppress(OSError, RuntimeError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write_maps(self, key: str, batch: EncodedMaps) -> None:
        shape = batch.maps.shape[1:]
        if key not in self._file:
            _create_maps(self._file, key, self.n_rows, shape, batch.dtype)
        elif self._file[key].dtype == np.float16 and batch.dtype == np.float32:
            written = self._file[key][: self._filled].astype(np.float32)
            del self._file[key]
            _create_maps(self._file, key, self.n_rows, shape, batch.dtype)
            self._file[key][: self._filled] = written
        stored = self._file[key]
        chunks = batch.chunks
        if stored.dtype != batch.dtype:
            chunks = tuple(_encode_chunk(image, stored.dtype) for image in batch.maps)
        for row, chunk in enumerate(chunks, start=self._filled):
            stored.id.write_direct_chunk((row, 0, 0, 0), chunk)


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
        with _write_errors():
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
    try:
        with _read_errors(path, "/"):
            kind = _plain(file.attrs.get("encoding-type"))
            version = _plain(file.attrs.get("encoding-version"))
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


def _encode_chunk(values: np.ndarray, dtype: np.dtype) -> bytes:
    """What HDF5's own shuffle and deflate filters would read, in less time."""
    # NumPy rounds: HDF5 1.14.6 halves what it should round up to a power of two.
    octets = values.astype(dtype, order="C").view(np.uint8).reshape(-1, dtype.itemsize)
    return _deflater()(np.ascontiguousarray(octets.T).data)


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
    chunks = (min(_POOLED_CHUNK, n_rows), width)
    return file.create_dataset(
        key, (n_rows, width), dtype=dtype, chunks=chunks, track_times=False, **_COMPRESSION
    )


def _write_plain_chunk(dataset: h5py.Dataset, start: int, values: np.ndarray) -> None:
    """Write the rows of one whole chunk; beyond the last row it is filled with zeros."""
    chunk = np.zeros(dataset.chunks, dataset.dtype)
    chunk[: len(values)] = values
    dataset.id.write_direct_chunk((start, 0), _encode_chunk(chunk, dataset.dtype))


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
        _create_maps(target, key, n_rows, part.shape[1:], dtype)
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
        _create_plain(target, key, n_rows, part.shape[1], part.dtype)
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


def _layer_names(text: Any) -> list[str]:
    names = json.loads(text)
    if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
        raise ValueError(f"layers must be a list of names, got {_shown(names)}")
    if len(set(names)) < len(names) or any({"", "."} & {*one.split("/")} for one in names):
        raise ValueError(f"layers must be different names, got {_shown(names)}")
    return names


def _check_maps(maps: h5py.Dataset) -> None:
    if maps.ndim != 4 or maps.dtype not in (np.float16, np.float32) or 0 in maps.shape[1:]:
        raise ValueError(f"{maps.dtype} {maps.shape} are no maps (n, h, w, c)")
    if maps.is_virtual:
        return
    if maps.chunks != (1, *maps.shape[1:]):
        raise ValueError(f"chunks {maps.chunks} do not hold one image each")
    if len(maps):
        first = maps.id.get_chunk_info_by_coord((0,) * 4)
        _check_room(int(np.prod(maps.shape[1:], dtype=object)) * maps.dtype.itemsize, first.size)


def _check_numbers(dataset: h5py.Dataset, ndim: int, kind: str) -> None:
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


def _read_rows(dataset: h5py.Dataset, rows: np.ndarray, path: Path) -> np.ndarray:
    unique, inverse = np.unique(rows, return_inverse=True)
    # Runs of neighbouring rows are read as slices: HDF5's own point selection is slow.
    breaks = np.flatnonzero(np.diff(unique) != 1) + 1
    with _read_errors(path, dataset.name):
        values = np.empty((len(unique), *dataset.shape[1:]), dtype=np.float32)
        for positions in np.split(np.arange(len(unique)), breaks):
            if len(positions):
                source = np.s_[unique[positions[0]] : unique[positions[-1]] + 1]
                values[positions[0] : positions[-1] + 1] = dataset[source]
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
        # Written so that NaN, which is never stored, is wrong too.
        wrong = ~(np.abs(values - pooled[how][rows]) <= tolerance).all(axis=1)
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


@contextlib.contextmanager
def _read_errors(path: Path, key: str) -> Iterator[None]:
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
