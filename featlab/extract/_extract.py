"""Image table + backbone → store: the pass as its user calls it."""

from __future__ import annotations

import logging
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from featlab.errors import FeatlabError
from featlab.extract._passing import run_pass
from featlab.extract._plan import (
    clear_finished,
    clear_parts,
    disk_errors,
    make_folder,
    parts_of,
    sole_writer,
)
from featlab.extract._provenance import (
    annotations_digest,
    refuse_difference,
    refuse_other_output,
    store_key,
)
from featlab.extract._source import MapSource, Progress
from featlab.store import BOX_DTYPES, IMAGE_DTYPES, MapStore, Tables, join_parts

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)


def extract_maps(
    images: pd.DataFrame,
    backbone: MapSource,
    path: str | os.PathLike[str],
    *,
    boxes: pd.DataFrame | None = None,
    root: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    resize: str = "stretch",
    dtype: str = "float16",
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
    root : path-like, optional
        Folder that the paths are relative to; ``images.attrs["root"]`` by default.
    batch_size : int, optional
        Pictures per forward pass. By default what is fastest for the engine (8 on a processor, 32
        on a graphics card), or less where that would need more than a quarter of the memory.
    resize : {"stretch", "pad"}
        Stretch a picture onto the input, or keep its aspect and pad with grey.
    dtype : {"float16", "float32"}
        Number format of the maps; a layer that overflows float16 becomes float32 by itself.
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
    found = find_store(images, backbone, path, boxes=boxes, root=root, resize=resize, dtype=dtype)
    if found is not None:
        return found
    tables = complete_tables(images, boxes, root)
    check_options(batch_size, resize, dtype)
    make_folder(parts_of(path))
    with sole_writer(parts_of(path)):
        # Another process may have finished between the first look and the lock.
        if path.exists():
            found = _renewed(_accepted(tables, backbone, path, resize, dtype), tables)
        else:
            with disk_errors(path, parts_of(path)):
                pieces, tables = run_pass(
                    tables,
                    backbone,
                    parts_of(path),
                    batch_size=batch_size,
                    resize=resize,
                    dtype=dtype,
                    client=client,
                    progress=progress,
                )
                # What is finished is joined while the network runs on.
                with closing(pieces):
                    join_parts(pieces, path, tables, virtual=virtual)
            found = MapStore(path)
        clear_parts(parts_of(path), found.pieces)
    return found


def find_store(
    images: pd.DataFrame,
    backbone: MapSource,
    path: str | os.PathLike[str],
    *,
    boxes: pd.DataFrame | None = None,
    root: str | os.PathLike[str] | None = None,
    resize: str = "stretch",
    dtype: str = "float16",
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
    path = Path(path)
    if not path.exists():
        return None
    tables = complete_tables(images, boxes, root)
    store = _accepted(tables, backbone, path, resize, dtype)
    clear_finished(parts_of(path), store.pieces)
    if _is_current(store, tables):
        return store
    store.close()
    make_folder(parts_of(path))
    with sole_writer(parts_of(path)):
        # Another process may have renewed it between the first look and the lock.
        store = _renewed(_accepted(tables, backbone, path, resize, dtype), tables)
        clear_parts(parts_of(path), store.pieces)
    return store


def _accepted(tables: Tables, backbone: MapSource, path: Path, resize: str, dtype: str) -> MapStore:
    """The store that is there, if its maps are those that are asked for."""
    store = MapStore(path)
    try:
        wanted = store_key(tables.images, backbone, resize, dtype)
        refuse_difference(store.provenance, wanted, path)
        refuse_other_output(store.provenance, backbone, path)
    except FeatlabError:
        store.close()
        raise
    return store


def _is_current(store: MapStore, tables: Tables) -> bool:
    """Whether its labels, groups and boxes are those given."""
    digest = annotations_digest(tables.images, tables.boxes)
    return bool(digest == store.provenance.get("annotations_digest"))


def _renewed(store: MapStore, tables: Tables) -> MapStore:
    """The store with the labels, groups and boxes given, around the same maps."""
    if _is_current(store, tables):
        return store
    logger.info(
        "labels or boxes have changed: renewing the tables of %s around its maps", store.path
    )
    digest = annotations_digest(tables.images, tables.boxes)
    renewed = replace(tables, provenance=store.provenance | {"annotations_digest": digest})
    pieces, virtual = store.pieces, store.virtual
    store.close()
    with disk_errors(store.path, store.path.parent):
        join_parts(pieces, store.path, renewed, virtual=virtual)
    return MapStore(store.path)


def complete_tables(
    images: pd.DataFrame, boxes: pd.DataFrame | None, root: str | os.PathLike[str] | None
) -> Tables:
    """Check the tables and note the folder; there is no provenance yet."""
    absent = [column for column in IMAGE_DTYPES if column not in images]
    if absent or images.empty:
        raise FeatlabError(
            "images must be an image table of featlab.images.index_images with at least one row; "
            f"missing columns: {', '.join(absent) or 'none'}, rows: {len(images)}."
        )
    root = root if root is not None else images.attrs.get("root")
    if root is None:
        raise FeatlabError("root is needed: the image table does not say where its pictures lie.")
    attrs = images.attrs | {"root": str(Path(root).resolve())}
    images = images.reset_index(drop=True)
    images.attrs = attrs
    return Tables(images, pd.DataFrame(columns=list(BOX_DTYPES)) if boxes is None else boxes, {})


def check_options(batch_size: int | None, resize: str, dtype: str) -> None:
    """Refuse what no pass can do."""
    if batch_size is not None and batch_size < 1:
        raise FeatlabError(f"batch_size must be at least 1, got {batch_size}.")
    if resize not in ("stretch", "pad"):
        raise FeatlabError(f"resize must be 'stretch' or 'pad', got {resize!r}.")
    if dtype not in ("float16", "float32"):
        raise FeatlabError(f"dtype must be 'float16' or 'float32', got {dtype!r}.")
