"""Groups, datasets and tables of an open file, checked as they are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from featlab.errors import FeatlabError
from featlab.store._checking import check_numbers, plain, read_errors
from featlab.store._schema import BOX_DTYPES, IMAGE_DTYPES, SKIPPED_DTYPES
from featlab.store._writing import write_whole


@dataclass(frozen=True)
class Tables:
    """What a store holds beside its arrays.

    Attributes
    ----------
    images : DataFrame
        Image table, with ``attrs["root"]`` and ``attrs["skipped"]``.
    boxes : DataFrame
        Box table.
    provenance : dict of str to object
        What made the maps.
    """

    images: pd.DataFrame
    boxes: pd.DataFrame
    provenance: dict[str, Any]


def write_tables(file: h5py.File, tables: Tables) -> None:
    """Add the tables and the provenance to a file."""
    images = tables.images
    write_table(file, "images", images, IMAGE_DTYPES)
    write_table(file, "boxes", tables.boxes, BOX_DTYPES)
    skipped = pd.DataFrame(images.attrs.get("skipped", []), columns=list(SKIPPED_DTYPES))
    write_table(file, "skipped", skipped, SKIPPED_DTYPES)
    file["images"].attrs["root"] = str(images.attrs.get("root", ""))
    file.create_group("provenance").attrs.update(tables.provenance)


def read_tables(file: h5py.File) -> Tables:
    """The tables and the provenance of an open file."""
    path = Path(file.filename)
    images = read_table(file, "images", IMAGE_DTYPES)
    boxes = read_table(file, "boxes", BOX_DTYPES)
    skipped = read_table(file, "skipped", SKIPPED_DTYPES)
    with read_errors(path, "/images"):
        images.attrs["root"] = str(find_group(file, "images").attrs.get("root", ""))
    images.attrs["skipped"] = skipped.to_dict("records")
    with read_errors(path, "/provenance"):
        attributes = find_group(file, "provenance").attrs
        provenance = {plain(key): plain(value) for key, value in attributes.items()}
    return Tables(images, boxes, provenance)


def save_tables(path: Path, tables: Tables) -> None:
    """Keep tables in a file of their own, whole or not at all."""
    # Made in memory: on a full disk HDF5 cannot even close a file.
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        write_tables(file, tables)
        file.flush()
        image = file.id.get_file_image()
    write_whole(path, image)


def load_tables(path: Path) -> Tables:
    """Tables that :func:`save_tables` kept."""
    with read_errors(path, "/"):
        file = h5py.File(path, "r")
    with file:
        return read_tables(file)


def write_table(file: h5py.File, key: str, table: pd.DataFrame, dtypes: Mapping[str, type]) -> None:
    """Add a group with a dataset for each column."""
    group = file.create_group(key)
    for column, dtype in dtypes.items():
        if dtype is str:
            values = np.array([str(value) for value in table[column]], dtype=object)
            group.create_dataset(
                column, data=values, dtype=h5py.string_dtype("utf-8"), track_times=False
            )
        else:
            group.create_dataset(column, data=table[column].to_numpy(dtype), track_times=False)


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


def find_group(file: h5py.File, key: str) -> h5py.Group:
    """A group of this very file."""
    return _find(file, key, h5py.Group, "group")


def find_dataset(file: h5py.File, key: str, *, virtual: bool = False) -> h5py.Dataset:
    """A dataset whose numbers lie in this very file.

    With `virtual` it may be a virtual one, to be asked for its shape and type only.
    """
    return _find(file, key, h5py.Dataset, "dataset", virtual=virtual)


def _find(file: h5py.File, key: str, kind: Any, name: str, *, virtual: bool = False) -> Any:
    path = Path(file.filename)
    with read_errors(path, f"/{key}"):
        item = file.get(key)
        if not isinstance(item, kind):
            raise FeatlabError(f"{path} is damaged: no {name} /{key}; extract it again.")
        # A store from elsewhere could name any file of this machine.
        outside = item.file.filename != file.filename
        if isinstance(item, h5py.Dataset):
            outside = outside or bool(item.external) or (item.is_virtual and not virtual)
        if outside:
            raise FeatlabError(f"{path} is refused: /{key} lies in another file.")
        return item
