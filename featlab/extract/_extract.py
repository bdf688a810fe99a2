"""Image table + backbone → store: the pass as its user calls it."""

from __future__ import annotations

import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from featlab._errors import FeatlabError
from featlab._machine import usable_cores
from featlab.extract._batches import (
    BatchMaker,
    PictureReader,
    Turns,
    automatic_batch_size,
    in_order,
)
from featlab.extract._plan import (
    Plan,
    agree_on_plan,
    clear_finished,
    discarded_on_error,
    disk_errors,
    make_folder,
    part_path,
    sole_writer,
)
from featlab.extract._provenance import (
    annotations_digest,
    describe_pass,
    refuse_difference,
    refuse_other_output,
    store_key,
)
from featlab.extract._source import MapSource, Progress, running_of
from featlab.store import BOX_DTYPES, IMAGE_DTYPES, MapStore, PartWriter, join_parts, part_rows

logger = logging.getLogger(__name__)

# The store's chunks of pooled values are as long, so that joining copies them as they are.
_PART_ROWS = 256
# Batches that may be finished before the one that is written next.
_BATCHES_AHEAD = 2


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
        it; a picture vanished or changed; the disk is full.
    """
    path = Path(path)
    parts = _parts_of(path)
    found = find_store(images, backbone, path, boxes=boxes, root=root, resize=resize, dtype=dtype)
    if found is not None:
        return found
    images, boxes = _complete(images, boxes, root)
    _check_options(batch_size, resize, dtype)
    make_folder(parts)
    with sole_writer(parts):
        # Another process may have finished between the first look and the lock.
        found = find_store(images, backbone, path, boxes=boxes, resize=resize, dtype=dtype)
        if found is None:
            running = running_of(backbone)
            batch_size = batch_size or automatic_batch_size(running, backbone.input_size)
            key = store_key(images, backbone, resize, dtype) | {"engine": running.engine}
            plan = agree_on_plan(parts, Plan(key, len(images), batch_size, _PART_ROWS))
            provenance = describe_pass(key, backbone, plan.batch_size)
            provenance["annotations_digest"] = annotations_digest(images, boxes)
            reader = PictureReader(images, backbone.input_size, resize)
            work = BatchMaker(reader, backbone, dtype, Turns(running.streams))
            workers = max(usable_cores(), running.streams)
            with disk_errors(path, parts):
                _write_missing(plan, parts, work, workers, progress)
                files = [part_path(parts, part) for part in plan.part_ranges()]
                join_parts(files, path, images=images, boxes=boxes, provenance=provenance)
            found = MapStore(path)
        shutil.rmtree(parts, ignore_errors=True)
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
    images, boxes = _complete(images, boxes, root)
    store = MapStore(path)
    try:
        wanted = store_key(images, backbone, resize, dtype)
        refuse_difference(store.provenance, wanted, path)
        refuse_other_output(store.provenance, backbone, path)
    except FeatlabError:
        store.close()
        raise
    clear_finished(_parts_of(path))
    if annotations_digest(images, boxes) == store.provenance.get("annotations_digest"):
        return store
    logger.info("labels or boxes have changed: renewing the tables of %s around its maps", path)
    provenance = store.provenance | {"annotations_digest": annotations_digest(images, boxes)}
    store.close()
    with disk_errors(path, path.parent):
        join_parts([path], path, images=images, boxes=boxes, provenance=provenance)
    return MapStore(path)


def _parts_of(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def _write_missing(
    plan: Plan, parts: Path, work: BatchMaker, workers: int, progress: Progress | None
) -> None:
    """Write every part that is not there yet."""
    missing = [
        part for part in plan.part_ranges() if part_rows(part_path(parts, part)) != len(part)
    ]
    done = plan.n_images - sum(map(len, missing))
    if done:
        logger.info("going on with %d of %d images done", done, plan.n_images)
    tasks = [batch for part in missing for batch in plan.batches(part)]
    shown = iter(progress(tasks) if progress else tasks)
    with ThreadPoolExecutor(workers, "extract") as pool:
        batches = in_order(pool, work, enumerate(tasks), workers + _BATCHES_AHEAD)
        try:
            for part in missing:
                writer = PartWriter(part_path(parts, part), len(part), work.dtype)
                with discarded_on_error(writer):
                    for _ in plan.batches(part):
                        next(shown)
                        batch = next(batches)
                        writer.append(batch.maps, batch.colours, batch.frames)
                    writer.finish()
            next(shown, None)  # lets a progress bar close
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _complete(
    images: pd.DataFrame, boxes: pd.DataFrame | None, root: str | os.PathLike[str] | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Check the tables and note the folder."""
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
    return images, pd.DataFrame(columns=list(BOX_DTYPES)) if boxes is None else boxes


def _check_options(batch_size: int | None, resize: str, dtype: str) -> None:
    if batch_size is not None and batch_size < 1:
        raise FeatlabError(f"batch_size must be at least 1, got {batch_size}.")
    if resize not in ("stretch", "pad"):
        raise FeatlabError(f"resize must be 'stretch' or 'pad', got {resize!r}.")
    if dtype not in ("float16", "float32"):
        raise FeatlabError(f"dtype must be 'float16' or 'float32', got {dtype!r}.")
