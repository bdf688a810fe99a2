"""One pass split over machines that share nothing but storage, and joined afterwards."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd

from featlab.errors import FeatlabError
from featlab.extract._extract import check_options, complete_tables, find_store
from featlab.extract._growing import APPENDED
from featlab.extract._passing import TABLES, begin_pass, finished_parts, tell_done, written_parts
from featlab.extract._plan import (
    agreed_plan,
    clear_parts,
    disk_errors,
    make_folder,
    one_of_several,
    parts_of,
    sole_writer,
)
from featlab.extract._source import MapSource, Progress
from featlab.store import MapStore, join_parts, load_tables


def extract_shard(
    images: pd.DataFrame,
    backbone: MapSource,
    path: str | os.PathLike[str],
    shard: tuple[int, int],
    *,
    boxes: pd.DataFrame | None = None,
    root: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    resize: str = "stretch",
    dtype: str = "float16",
    progress: Progress | None = None,
) -> int | None:
    """Run the network over one of several shares of the images.

    The shares may run at the same time, on machines that see the same folder; when all are done,
    :func:`join_shards` makes the store of :func:`extract_maps`. An interrupted share goes on from
    its finished parts.

    Parameters
    ----------
    images, backbone, path, boxes, root, batch_size, resize, dtype, progress
        As in :func:`extract_maps`; the same for every share.
    shard : (int, int)
        Number of this share, from 1, and of how many.

    Returns
    -------
    int or None
        Number of images of this share, which is made of whole parts of 256 images; None where the
        store is finished already.

    Raises
    ------
    FeatlabError
        As in :func:`extract_maps`; another share was begun with another network or engine.
    """
    number, of = shard
    if not 1 <= number <= of:
        raise FeatlabError(f"shard must be (k, n) with 1 <= k <= n, got {shard}.")
    path = Path(path)
    parts = parts_of(path)
    found = find_store(images, backbone, path, boxes=boxes, root=root, resize=resize, dtype=dtype)
    if found is not None:
        found.close()
        return None
    tables = complete_tables(images, boxes, root)
    check_options(batch_size, resize, dtype)
    make_folder(parts)
    with disk_errors(path, parts), one_of_several(parts, shard) as agreeing:
        run, tables = begin_pass(
            tables, backbone, parts, batch_size=batch_size, resize=resize, dtype=dtype
        )
        agreeing.close()
        missing = run.missing(shard)
        mine = sum(map(len, run.plan.shard(number, of)))
        tell_done(mine, missing)
        for _ in written_parts(run, tables.images, missing, progress=progress):
            pass
    return mine


def join_shards(path: str | os.PathLike[str], *, virtual: bool = False) -> MapStore:
    """Join the parts that the shards of a pass have written to the finished store.

    A finished virtual store becomes one file, unless `virtual`.

    Parameters
    ----------
    path : path-like
        The store that was given to every shard.
    virtual : bool
        Refer to the parts instead of copying them, as in :func:`extract_maps`.

    Returns
    -------
    MapStore
        Open for reading.

    Raises
    ------
    FeatlabError
        Parts are missing, or are being written.
    """
    path = Path(path)
    parts = parts_of(path)
    if path.exists():
        return _as_one_file(path, parts, virtual)
    plan = agreed_plan(parts)
    if APPENDED in plan.key:
        raise FeatlabError(
            f"{parts} holds the parts of `featlab extract --append`; run that again, it joins them."
        )
    with sole_writer(parts), disk_errors(path, parts):
        tables = load_tables(parts / TABLES)
        pieces = finished_parts(parts, plan)
        join_parts(pieces, path, tables, virtual=virtual)
        found = MapStore(path)
        clear_parts(parts, found.pieces)
    return found


def _as_one_file(path: Path, parts: Path, virtual: bool) -> MapStore:
    found = MapStore(path)
    if not found.virtual or virtual:
        return found
    found.close()
    make_folder(parts)
    with sole_writer(parts), disk_errors(path, parts):
        # Another process may have joined it, or renewed its tables, before the lock was held.
        with MapStore(path) as found:
            is_virtual, pieces, tables = found.virtual, found.pieces, replace(found.tables)
        if is_virtual:
            join_parts(pieces, path, tables)
            clear_parts(parts, [])
    return MapStore(path)
