"""Image table + backbone → store: the pass as its user calls it, whole, grown or in shards."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from featlab.arguments import Progress
from featlab.errors import FeatlabError
from featlab.extract._parts import (
    TABLES,
    agreed_plan,
    clear_finished,
    clear_parts,
    disk_errors,
    finished_parts,
    join_read,
    load_tables,
    make_folder,
    one_of_several,
    parts_of,
    share_parts,
    sole_writer,
)
from featlab.extract._passing import (
    begin_pass,
    run_pass,
    tell_done,
    without_lost,
    written_parts,
)
from featlab.extract._source import (
    MapSource,
    PassOptions,
    complete_tables,
    provenance_of,
    refuse_other_maps,
    store_key,
)
from featlab.store import MapStore
from featlab.store.format import Tables, annotations_digest
from featlab.store.network import refuse_difference
from featlab.store.rows import Piece, choose_rows, relative_name
from featlab.store.writing import join_parts

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

APPENDED = "appended_to"
"""Key of the plan of a pass over what another store lacks."""
_USUAL = PassOptions()


def extract_maps(
    images: pd.DataFrame,
    backbone: MapSource,
    path: str | os.PathLike[str],
    *,
    boxes: pd.DataFrame | None = None,
    skipped: pd.DataFrame | None = None,
    about: Mapping[str, str] | None = None,
    options: PassOptions = _USUAL,
    virtual: bool = False,
    client: Client | None = None,
    progress: Progress | None = None,
) -> MapStore:
    """Run the network over the images once and keep its feature maps in one HDF5 file.

    A finished store that came from the same pictures and the same network is returned as it is,
    whichever engine wrote it; if only labels, groups or boxes have changed, its tables are renewed
    around the same maps. An interrupted pass goes on from its finished parts, with the same engine
    and batch size, and gives the same file.

    Parameters
    ----------
    images : DataFrame
        Image table of :func:`featlab.images.index_images`.
    backbone : Backbone
        Or anything with the methods of :class:`MapSource`.
    path : path-like
        The store to write; parts lie in ``<path>.parts`` while the pass runs.
    boxes : DataFrame, optional
        Box table.
    skipped : DataFrame, optional
        What was left out when the images were indexed, for the report.
    about : mapping of str to str, optional
        What else the store's provenance is to tell, such as the command.
    options : PassOptions, optional
        Batch size, resizing and number format.
    virtual : bool
        Leave the maps in the parts, and refer to them by HDF5's virtual datasets, instead of
        joining them to one file: for stores that are larger than what can be copied.
    client : distributed.Client, optional
        A Dask cluster (extra ``cluster``) whose workers write the parts; `path` and the pictures
        must lie on storage that all of them share.
    progress : callable, optional
        Wraps the list of batches, as ``tqdm`` does.

    Returns
    -------
    MapStore
        Open for reading.

    Raises
    ------
    FeatlabError
        The store at `path` is of another network or other pictures; another process is writing
        it; a picture vanished or changed; the disk is full; a worker failed.
    """
    path = Path(path)
    tables = complete_tables(images, boxes, skipped, about)
    store = _finished(tables, backbone, path, options)
    if store is not None:
        return store
    make_folder(parts_of(path))
    with sole_writer(parts_of(path)):
        # Another process may have finished between the first look and the lock.
        if path.exists():
            store = _renewed(_accepted(tables, backbone, path, options), tables)
        else:
            with disk_errors(path, parts_of(path)):
                pieces, tables = run_pass(
                    tables,
                    backbone,
                    parts_of(path),
                    options,
                    elsewhere=_elsewhere(client),
                    progress=progress,
                )
                # What is finished is joined while the network runs on.
                with closing(pieces):
                    join_read(pieces, path, tables, virtual=virtual)
            store = MapStore(path)
        clear_parts(parts_of(path), store.pieces)
    return store


def append_maps(
    images: pd.DataFrame,
    backbone: MapSource,
    old: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    boxes: pd.DataFrame | None = None,
    skipped: pd.DataFrame | None = None,
    about: Mapping[str, str] | None = None,
    options: PassOptions = _USUAL,
    client: Client | None = None,
    progress: Progress | None = None,
) -> MapStore:
    """Run the network over the pictures that a finished store has not seen.

    Pictures are known by their content: renamed ones are not run again, and those that are gone
    are left out. The new store has the rows of `images` in their order. It is virtual: it shares
    the maps of the old one, which must stay where it is; :func:`join_shards` makes one file of it.

    Parameters
    ----------
    images, backbone, boxes, skipped, about, options, client, progress
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
    tables = complete_tables(images, boxes, skipped, about)
    store = _finished(tables, backbone, path, options)
    if store is not None:
        return store
    wanted = store_key(tables.images, backbone, options)
    old_pieces, known, row_of = _read_old(old, backbone, options, path.parent)
    provenance, own = known.provenance, known.own
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
                options,
                elsewhere=_elsewhere(client),
                progress=progress,
                more={APPENDED: old.name},
            )
            with closing(new):
                pieces = [*pieces, *new]
            provenance, own = provenance | known.provenance, known.own
        provenance |= wanted | provenance_of(tables)
        grown = replace(tables, provenance=provenance, own=own)
        join_read(choose_rows(pieces, rows), path, grown, virtual=True)
        store = MapStore(path)
        clear_parts(parts_of(path), store.pieces)
    return store


def extract_shard(
    images: pd.DataFrame,
    backbone: MapSource,
    path: str | os.PathLike[str],
    shard: tuple[int, int],
    *,
    boxes: pd.DataFrame | None = None,
    skipped: pd.DataFrame | None = None,
    about: Mapping[str, str] | None = None,
    options: PassOptions = _USUAL,
    progress: Progress | None = None,
) -> int | None:
    """Run the network over one of several shares of the images.

    The shares may run at the same time, on machines that see the same folder; when all are done,
    :func:`join_shards` makes the store of :func:`extract_maps`. An interrupted share goes on from
    its finished parts.

    Parameters
    ----------
    images, backbone, path, boxes, skipped, about, options, progress
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
    tables = complete_tables(images, boxes, skipped, about)
    store = _finished(tables, backbone, path, options)
    if store is not None:
        store.close()
        return None
    make_folder(parts)
    with disk_errors(path, parts), one_of_several(parts, shard) as agreeing:
        run, tables = begin_pass(tables, backbone, parts, options)
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
        join_read(pieces, path, tables, virtual=virtual)
        store = MapStore(path)
        clear_parts(parts, store.pieces)
    return store


def find_store(
    images: pd.DataFrame,
    backbone: MapSource,
    path: str | os.PathLike[str],
    *,
    boxes: pd.DataFrame | None = None,
    skipped: pd.DataFrame | None = None,
    about: Mapping[str, str] | None = None,
    options: PassOptions = _USUAL,
) -> MapStore | None:
    """The finished store at `path`, if it holds just what :func:`extract_maps` would write.

    Makes no forward pass over the images, and does not ask which engine wrote them. If the
    installed TensorFlow or Keras differ from those that wrote the store, the network's output on
    one fixed picture decides.

    Returns
    -------
    MapStore or None
        None where there is no file.

    Raises
    ------
    FeatlabError
        The store there came from something else; the message names what, and both values.
    """
    return _finished(complete_tables(images, boxes, skipped, about), backbone, Path(path), options)


def _finished(
    tables: Tables, backbone: MapSource, path: Path, options: PassOptions
) -> MapStore | None:
    if not path.exists():
        return None
    if options.on_error == "skip":
        tables = without_lost(tables, path)
    store = _accepted(tables, backbone, path, options)
    clear_finished(parts_of(path), store.pieces)
    if _is_current(store, tables):
        return store
    store.close()
    make_folder(parts_of(path))
    with sole_writer(parts_of(path)):
        # Another process may have renewed it between the first look and the lock.
        store = _renewed(_accepted(tables, backbone, path, options), tables)
        clear_parts(parts_of(path), store.pieces)
    return store


def _elsewhere(client: Client | None) -> Callable[..., None] | None:
    """What writes the parts on a cluster, where there is one: Dask is an extra."""
    if client is None:
        return None
    from featlab.extract._cluster import write_parts_on

    return partial(write_parts_on, client)


def _accepted(tables: Tables, backbone: MapSource, path: Path, options: PassOptions) -> MapStore:
    """The store that is there, if its maps are those that are asked for."""
    store = MapStore(path)
    try:
        wanted = store_key(tables.images, backbone, options)
        refuse_difference(store.provenance, wanted, path)
        refuse_other_maps(store.provenance, backbone, path)
    except FeatlabError:
        store.close()
        raise
    return store


def _is_current(store: MapStore, tables: Tables) -> bool:
    """Whether its labels, groups and boxes are those given."""
    return annotations_digest(tables) == store.provenance.get("annotations_digest")


def _renewed(store: MapStore, tables: Tables) -> MapStore:
    """The store with the labels, groups and boxes given, around the same maps."""
    if _is_current(store, tables):
        return store
    logger.info(
        "labels or boxes have changed: renewing the tables of %s around its maps", store.path
    )
    provenance = store.provenance | provenance_of(tables)
    renewed = replace(tables, provenance=provenance, own=store.tables.own)
    pieces, virtual = store.pieces, store.virtual
    store.close()
    with disk_errors(store.path, store.path.parent):
        join_parts(pieces, store.path, renewed, virtual=virtual)
    return MapStore(store.path)


def _read_old(
    old: Path, backbone: MapSource, options: PassOptions, folder: Path
) -> tuple[list[Piece], Tables, dict[str, int]]:
    """Where its rows lie and will stay, its tables, and the row of every picture it has seen."""
    with MapStore(old) as store:
        # It must be what would be written now, of its own pictures.
        wanted = store_key(store.images, backbone, options)
        if store.provenance.get("own_logits") == "all":  # the rows of one store are alike
            wanted.setdefault("own_logits", "the largest")
        refuse_difference(store.provenance, wanted, old)
        refuse_other_maps(store.provenance, backbone, old)
        for file in {piece.file for piece in store.pieces}:
            relative_name(file, folder)
        rows = {sha: row for row, sha in enumerate(store.images["sha256"])}
        share_parts(store.pieces)
        return store.pieces, replace(store.tables, provenance=dict(store.provenance)), rows


def _only(tables: Tables, rows: np.ndarray) -> Tables:
    """The tables of some images; their boxes play no part in the pass."""
    return replace(tables.of_rows(rows), boxes=tables.boxes.iloc[:0])


def _as_one_file(path: Path, parts: Path, virtual: bool) -> MapStore:
    store = MapStore(path)
    if not store.virtual or virtual:
        return store
    store.close()
    make_folder(parts)
    with sole_writer(parts), disk_errors(path, parts):
        # Another process may have joined it, or renewed its tables, before the lock was held.
        with MapStore(path) as store:
            is_virtual, pieces, tables = store.virtual, store.pieces, replace(store.tables)
        if is_virtual:
            join_parts(pieces, path, tables)
            clear_parts(parts, [])
    return MapStore(path)
