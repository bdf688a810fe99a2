"""What a store holds: its names, versions and columns, its tables, and what is wrong with a file.

docs/file-format.md says it in full.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from featlab.errors import FeatlabError
from featlab.store.network import HEAD, OwnHead, checked_head, write_head, write_numbers

ENCODING_TYPE = "featlab-maps"
"""Root attribute ``encoding-type`` of every store."""
ENCODING_VERSION = "1.1"
"""Root attribute ``encoding-version`` of the stores that are written."""
THUMBNAILS = "thumbnails"
"""Dataset that a store made of late has."""
POOLINGS = ("mean", "max")
"""How the maps are pooled over their cells."""

IMAGE_DTYPES = {
    "path": str,
    "label": str,
    "split": str,
    "group": str,
    "width": np.int64,
    "height": np.int64,
    "sha256": str,
}
"""Columns of the image table and their types on disk."""
LEVELS = {"levels": str}
"""A column that is there only where grey levels are not as the number formats have them."""
BOX_DTYPES = {
    "image": np.int64,
    "kind": str,
    "label": str,
    "xmin": np.float64,
    "ymin": np.float64,
    "xmax": np.float64,
    "ymax": np.float64,
}
"""Columns of the box table and their types on disk."""
SKIPPED_DTYPES = {"path": str, "reason": str}
GONE, GONE_DTYPES = "gone", {"row": np.int64, "reason": str}
"""Of a part: its rows that are blank, since their pictures could not be read."""

_LONGEST = 160


def store_file(path: str | os.PathLike[str]) -> Path:
    """The file itself; of a folder, such as that of a run, the one store in it.

    Raises
    ------
    FeatlabError
        The folder holds no store, or several.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    inside = sorted(path.glob("*.h5"))
    if not inside:
        raise FeatlabError(
            f"{path} is a folder without a store; give the store's file, such as "
            f"{path / 'maps.h5'}, or the folder of a run."
        )
    if len(inside) > 1:
        names = ", ".join(file.name for file in inside)
        raise FeatlabError(f"{path} holds several stores ({names}); give one of them.")
    return inside[0]


def open_store(path: Path) -> h5py.File:
    """The file, if it is a store of a version that is read here."""
    if not path.exists():
        raise FeatlabError(f"there is no store {path}; make it with `featlab extract`.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        if isinstance(error, BlockingIOError) or "unable to lock file" in str(error):
            raise FeatlabError(
                f"{path} is in use: another process has it open for writing; wait for it."
            ) from error
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
                    f"{_quoted(kind)}, not {ENCODING_TYPE!r}."
                )
            if str(version).partition(".")[0] != ENCODING_VERSION.partition(".")[0]:
                raise FeatlabError(
                    f"{path} has encoding-version {_quoted(version)}; this featlab reads "
                    f"{ENCODING_VERSION}. You may need to update featlab."
                )
    except FeatlabError:
        with contextlib.suppress(RuntimeError):
            file.close()
        raise
    return file


def layer_names(text: Any) -> list[str]:
    """The layers that the provenance names, in JSON."""
    names = json.loads(text)
    if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
        raise ValueError(f"layers must be a list of names, got {_quoted(names)}")
    if len(set(names)) < len(names) or any({"", "."} & {*one.split("/")} for one in names):
        raise ValueError(f"layers must be different names, got {_quoted(names)}")
    return names


def check_maps(maps: h5py.Dataset) -> None:
    """Shape, type and chunks of a layer's maps; and that the file can hold them."""
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


def check_rows(path: Path, key: str, dataset: h5py.Dataset, n: int) -> None:
    """That an array has one row for each of the n images."""
    if dataset.shape[0] != n or not n:
        raise FeatlabError(
            f"{path} is damaged: /{key} has {dataset.shape[0]} rows, the image table {n}; "
            "extract it again."
        )


def check_boxes(path: Path, boxes: pd.DataFrame, n: int) -> None:
    """That every box is of one of the n images, and has corners that are numbers."""
    if not boxes["image"].between(0, n - 1).all():
        raise FeatlabError(
            f"{path} is damaged: /boxes/image names rows that are not there; extract it again."
        )
    if not np.isfinite(boxes[["xmin", "ymin", "xmax", "ymax"]].to_numpy()).all():
        raise FeatlabError(
            f"{path} is damaged: /boxes has corners that are no numbers; extract it again."
        )


def annotations_digest(tables: Tables) -> str:
    """Changes when labels, splits, groups or boxes do."""
    images, boxes = tables.images[["label", "split", "group"]], tables.boxes[list(BOX_DTYPES)]
    return _digest(images) + _digest(boxes)


def pictures_digest(images: pd.DataFrame) -> str:
    """Changes when paths or contents of the pictures do, or levels of their own."""
    return _digest(images[["path", "sha256", *({"levels"} & set(images))]])


def _digest(table: pd.DataFrame) -> str:
    lines = table.to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def check_tables(path: Path, tables: Tables) -> None:
    """That the tables are those that were written: HDF5 keeps no checksum of texts."""
    pictures, annotations = pictures_digest(tables.images), annotations_digest(tables)
    for key, digest in {"image_set_digest": pictures, "annotations_digest": annotations}.items():
        if tables.provenance.get(key, digest) != digest:
            raise FeatlabError(f"{path}: its tables do not agree with {key}; extract it again.")


def check_pooling(
    path: Path, layer: str, rows: np.ndarray, maps: np.ndarray, pooled: Mapping[str, np.ndarray]
) -> None:
    """That the maps of some rows, pooled again, give what is stored pooled."""
    flat = maps.reshape(len(maps), -1, maps.shape[-1])
    # Half precision keeps 11 bits: each value is off by at most 2**-11 of itself.
    tolerance = 1e-3 * np.abs(flat).max(axis=1) + 1e-6
    for pooling, values in (("mean", flat.mean(axis=1)), ("max", flat.max(axis=1))):
        # Written so that NaN, which is never stored, is wrong too.
        wrong = ~(np.abs(values - pooled[pooling]) <= tolerance).all(axis=1)
        if wrong.any():
            raise FeatlabError(
                f"{path}: /pooled/{layer}/{pooling} does not agree with /maps/{layer} in row "
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


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@dataclass(frozen=True)
class Tables:
    """What a store holds beside its arrays.

    Attributes
    ----------
    images : DataFrame
        Image table; its column ``folder`` is the same for all images.
    boxes : DataFrame
        Box table.
    skipped : DataFrame
        ``path`` and ``reason`` of the files and boxes that were left out.
    provenance : dict of str to object
        What made the maps.
    own : OwnHead, optional
        The network's own head, where it has one.
    """

    images: pd.DataFrame
    boxes: pd.DataFrame
    skipped: pd.DataFrame
    provenance: dict[str, Any]
    own: OwnHead | None = None

    def of_rows(self, rows: np.ndarray) -> Tables:
        """The tables of some images, in ascending order, with their boxes."""
        images = self.images.iloc[rows].reset_index(drop=True)
        boxes = self.boxes[self.boxes["image"].isin(rows)].reset_index(drop=True)
        renumbered = np.searchsorted(rows, boxes["image"].to_numpy(np.int64))
        return replace(self, images=images, boxes=boxes.assign(image=renumbered))


def write_tables(file: h5py.File, tables: Tables) -> None:
    """Add the tables and the provenance to a file."""
    images = tables.images
    levels = LEVELS if set(LEVELS) <= set(images) else {}
    write_table(file, "images", images, IMAGE_DTYPES | levels)
    write_table(file, "boxes", tables.boxes, BOX_DTYPES)
    write_table(file, "skipped", tables.skipped, SKIPPED_DTYPES)
    file["images"].attrs["root"] = str(images["folder"].iloc[0])
    file.create_group("provenance").attrs.update(tables.provenance)
    if tables.own is not None:
        write_head(file, tables.own)


def read_tables(file: h5py.File) -> Tables:
    """The tables and the provenance of an open file."""
    path = Path(file.filename)
    levels = LEVELS if holds(path, file, "images/levels") else {}
    images = read_table(file, "images", IMAGE_DTYPES | levels)
    boxes = read_table(file, "boxes", BOX_DTYPES)
    skipped = read_table(file, "skipped", SKIPPED_DTYPES)
    with read_errors(path, "/images"):
        images["folder"] = str(find_group(file, "images").attrs.get("root", ""))
    with read_errors(path, "/provenance"):
        attributes = find_group(file, "provenance").attrs
        provenance = {plain(key): plain(value) for key, value in attributes.items()}
    return Tables(images, boxes, skipped, provenance, _read_head(file))


def _read_head(file: h5py.File) -> OwnHead | None:
    """The network's own head; None where the store has none."""
    path = Path(file.filename)
    if not holds(path, file, HEAD):
        return None
    names = find_dataset(file, f"{HEAD}/classes")
    with read_errors(path, f"/{HEAD}"):
        check_numbers(names, 1, "")
        group, arrays = find_group(file, HEAD), {}
        for name, ndim in (("coef", 2), ("intercept", 1)):
            if name in group:
                dataset = find_dataset(file, f"{HEAD}/{name}")
                check_numbers(dataset, ndim, "f")
                arrays[name] = dataset[()]
        return checked_head(names.asstr()[()], plain(group.attrs.get("layer")), arrays)


def write_gone(file: h5py.File, gone: Mapping[int, str]) -> None:
    """Note in a part the rows whose pictures could not be read, and why."""
    if gone:
        table = pd.DataFrame({"row": [*gone], "reason": [*gone.values()]})
        write_table(file, GONE, table, GONE_DTYPES)


def read_gone(path: Path) -> dict[int, str]:
    """Rows of a part whose pictures could not be read, and why; of a store there are none."""
    with read_errors(path, f"/{GONE}"), h5py.File(path, "r") as file:
        if GONE not in file:
            return {}
        table = read_table(file, GONE, GONE_DTYPES)
        return dict(zip(table["row"].tolist(), table["reason"], strict=True))


def write_table(file: h5py.File, key: str, table: pd.DataFrame, dtypes: Mapping[str, type]) -> None:
    """Add a group with a dataset for each column."""
    group, texts = file.create_group(key), h5py.string_dtype("utf-8")
    stored = as_stored(table, dtypes)
    for column, dtype in dtypes.items():
        if dtype is str:
            words = stored[column].to_numpy(object)
            group.create_dataset(column, data=words, dtype=texts, track_times=False)
        else:
            write_numbers(group, column, stored[column].to_numpy())


def as_stored(table: pd.DataFrame, dtypes: Mapping[str, type]) -> pd.DataFrame:
    """The table with the values of these columns that a file gives back."""
    columns = ((column, table[column], dtype) for column, dtype in dtypes.items())
    return table.assign(
        **{key: one.map(str) if dtype is str else one.astype(dtype) for key, one, dtype in columns}
    )


def read_table(file: h5py.File, key: str, dtypes: Mapping[str, type]) -> pd.DataFrame:
    """The table of a group."""
    path = Path(file.filename)
    columns = {}
    for column, dtype in dtypes.items():
        place = f"{key}/{column}"
        dataset = find_dataset(file, place)
        with read_errors(path, f"/{place}"):
            check_numbers(dataset, 1, "" if dtype is str else np.dtype(dtype).kind)
            columns[column] = dataset.asstr()[()] if dtype is str else dataset[()]
    if len({len(values) for values in columns.values()}) > 1:
        raise FeatlabError(
            f"{path} is damaged: the columns of /{key} differ in length; extract it again."
        )
    return pd.DataFrame(columns)


def holds(path: Path, file: h5py.File | Mapping[str, Any], *keys: str) -> bool:
    """Whether a store has these parts; of a link that goes in circles h5py cannot say."""
    with read_errors(path, f"/{keys[0]}"):
        return all(key in file for key in keys)


def find_group(file: h5py.File, key: str) -> h5py.Group:
    """A group of this very file."""
    return _find(file, key, h5py.Group, "group")


def find_dataset(file: h5py.File, key: str, *, virtual: bool = False) -> h5py.Dataset:
    """A dataset whose numbers lie in this very file.

    With `virtual` it may be a virtual one, to be asked for its shape and type only.
    """
    return _find(file, key, h5py.Dataset, "dataset", virtual=virtual)


def _find(file: h5py.File, key: str, kind: Any, name: str, *, virtual: bool = False) -> Any:
    with read_errors(Path(file.filename), f"/{key}"):
        return item_inside(file, key, kind, name, virtual=virtual)


def item_inside(file: h5py.File, key: str, kind: Any, name: str, *, virtual: bool = False) -> Any:
    """A part of any kind of file that lies in this very file.

    Raises
    ------
    ValueError
        There is none.
    FeatlabError
        It lies in another file.
    """
    item = file.get(key)
    if not isinstance(item, kind):
        raise ValueError(f"no {name} /{key}")
    # A file from elsewhere could name any file of this machine.
    outside = item.file.filename != file.filename
    if isinstance(item, h5py.Dataset):
        outside = outside or bool(item.external) or (item.is_virtual and not virtual)
    if outside:
        raise FeatlabError(f"{file.filename} is refused: /{key} lies in another file.")
    return item
