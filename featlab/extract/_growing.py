"""A set that has grown: a new store that shares the maps of the old one."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError
from featlab.extract._extract import check_options, complete_tables, find_store
from featlab.extract._passing import run_pass
from featlab.extract._plan import (
    clear_parts,
    disk_errors,
    make_folder,
    parts_of,
    share_parts,
    sole_writer,
)
from featlab.extract._provenance import (
    annotations_digest,
    refuse_difference,
    refuse_other_output,
    store_key,
)
from featlab.extract._source import MapSource, Progress
from featlab.store import MapStore, Piece, Tables, choose_rows, join_parts, relative_name

if TYPE_CHECKING:
    from distributed import Client

APPENDED = "appended_to"
"""Key of the plan of a pass over what another store lacks."""


def append_maps(
    images: pd.DataFrame,
    backbone: MapSource,
    old: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    boxes: pd.DataFrame | None = None,
    root: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    resize: str = "stretch",
    dtype: str = "float16",
    client: Client | None = None,
    progress: Progress | None = None,
) -> MapStore:
    """Run the network over the pictures that a finished store has not seen.

    Pictures are known by their content: renamed ones are not run again, and those that are gone
    are left out. The new store has the rows of `images` in their order. It is virtual: it shares
    the maps of the old one, which must stay where it is; :func:`join_shards` makes one file of it.

    Parameters
    ----------
    images, backbone, boxes, root, batch_size, resize, dtype, client, progress
        As in :func:`extract_maps`; `images` is the whole set as it is now.
    old : path-like
        The finished store, of the same network. It must lie in the folder of `path`, or below it.
    path : path-like
        The store to write.

    Returns
    -------
    MapStore
        Open for reading.

    Raises
    ------
    FeatlabError
        As in :func:`extract_maps`; the old store is of another network, or lies elsewhere.
    """
    old, path = Path(old), Path(path)
    if old.resolve() == path.resolve():
        raise FeatlabError(f"a new store is made beside {old}; give another path for it.")
    found = find_store(images, backbone, path, boxes=boxes, root=root, resize=resize, dtype=dtype)
    if found is not None:
        return found
    tables = complete_tables(images, boxes, root)
    check_options(batch_size, resize, dtype)
    wanted = store_key(tables.images, backbone, resize, dtype)
    old_pieces, provenance, row_of = _read_old(old, backbone, resize, dtype, path.parent)
    rows = tables.images["sha256"].map(row_of).fillna(-1).to_numpy(np.int64)
    pieces, fresh = old_pieces, np.flatnonzero(rows < 0)
    make_folder(parts_of(path))
    with sole_writer(parts_of(path)), disk_errors(path, parts_of(path)):
        if len(fresh):
            rows[fresh] = sum(map(len, pieces)) + np.arange(len(fresh))
            new, known = run_pass(
                _only(tables, fresh),
                backbone,
                parts_of(path),
                batch_size=batch_size,
                resize=resize,
                dtype=dtype,
                client=client,
                progress=progress,
                more={APPENDED: old.name},
            )
            with closing(new):
                pieces = [*pieces, *new]
            provenance |= known.provenance
        provenance |= wanted
        provenance["annotations_digest"] = annotations_digest(tables.images, tables.boxes)
        grown = replace(tables, provenance=provenance)
        share_parts(old_pieces)
        join_parts(choose_rows(pieces, rows), path, grown, virtual=True)
        found = MapStore(path)
        clear_parts(parts_of(path), found.pieces)
    return found


def _read_old(
    old: Path, backbone: MapSource, resize: str, dtype: str, folder: Path
) -> tuple[list[Piece], dict[str, object], dict[str, int]]:
    """Where its rows lie, its provenance, and the row of every picture that it has seen."""
    with MapStore(old) as store:
        # It must be what would be written now, of its own pictures.
        wanted = store_key(store.images, backbone, resize, dtype)
        refuse_difference(store.provenance, wanted, old)
        refuse_other_output(store.provenance, backbone, old)
        for file in {piece.file for piece in store.pieces}:
            relative_name(file, folder)
        rows = {sha: row for row, sha in enumerate(store.images["sha256"])}
        return store.pieces, dict(store.provenance), rows


def _only(tables: Tables, rows: np.ndarray) -> Tables:
    """The tables of some images; their boxes play no part in the pass."""
    images = tables.images.iloc[rows].reset_index(drop=True)
    images.attrs = dict(tables.images.attrs)
    return Tables(images, tables.boxes.iloc[:0], {})
