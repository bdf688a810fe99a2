"""A pass: what is agreed on, what is missing; batches are read, run and packed into parts."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from featlab.arguments import Progress, tracked
from featlab.errors import PictureGoneError
from featlab.extract._parts import (
    TABLES,
    Plan,
    agree_on_plan,
    discarded_on_error,
    finished_parts,
    load_tables,
    part_path,
    save_tables,
    whole_part,
    without_pictures,
)
from featlab.extract._source import (
    MapSource,
    PassOptions,
    Running,
    Streams,
    describe_pass,
    logits_kept,
    own_head_of,
    provenance_of,
    refuse_other_maps,
    running_of,
    settle,
    store_key,
    warn_of_scaling,
)
from featlab.images.decode import ScaledPicture
from featlab.images.pixels import (
    InputReader,
    colour_histogram,
    picture_frame,
    resize_picture,
    thumbnail,
)
from featlab.store import MapStore, MemoryStore
from featlab.store.format import (
    BOX_DTYPES,
    THUMBNAILS,
    Tables,
)
from featlab.store.network import OwnHead, Ranges, largest
from featlab.store.rows import Piece
from featlab.store.writing import EncodedMaps, PartWriter, encode_maps
from featlab.system.machine import total_memory, usable_cores
from featlab.system.processes import in_order, one_blas_thread

logger = logging.getLogger(__name__)

# The store's chunks of pooled values are as long, so that joining copies them as they are.
_PART_ROWS = 256
# Batches that may be finished before the one that is written next, and parts that may be on their
# way to the disk, which other programs can keep busy for a second.
_BATCHES_AHEAD, _PARTS_BEHIND = 2, 2
# The first convolutions are the widest: 64 channels at the input's own resolution (VGG16), in
# float32, and a layer holds its input, its output and room to work.
_BYTES_PER_PIXEL = 64 * 4 * 3
_MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class Pass:
    """What every process of a pass must know.

    Attributes
    ----------
    parts : Path
        Folder of the parts.
    plan : Plan
    backbone : MapSource
    options : PassOptions
    """

    parts: Path
    plan: Plan
    backbone: MapSource
    options: PassOptions

    def part(self, rows: range) -> Piece | None:
        """The finished part of some rows; None where it is still to be written."""
        return whole_part(self.parts, self.plan, rows)

    def piece(self, rows: range) -> Piece:
        """What the part of some rows is once it is finished."""
        return Piece(part_path(self.parts, rows), 0, len(rows), self.plan.digest)

    def missing(self, shard: tuple[int, int] = (1, 1)) -> list[range]:
        """Rows of the parts that are not there yet, of one shard of several or of all."""
        return [rows for rows in self.plan.shard(*shard) if self.part(rows) is None]


def begin_pass(
    tables: Tables,
    backbone: MapSource,
    parts: Path,
    options: PassOptions,
    *,
    more: Mapping[str, str] | None = None,
) -> tuple[Pass, Tables]:
    """Agree with what lies in the folder of the parts on how the pass is cut up.

    Returns
    -------
    Pass
    Tables
        Those given, with the provenance of the pass; they are kept beside the parts.
    """
    running = running_of(backbone)
    images = tables.images
    key = store_key(images, backbone, options) | {"engine": running.engine} | dict(more or {})
    head = own_head_of(backbone, options)
    if head is not None:
        kept = logits_kept(head, options)
        key.setdefault("own_logits", f"the {kept} largest of {len(head.classes)}")
    automatic = automatic_batch_size(running, backbone.input_size)
    wanted = Plan(key, len(images), options.batch_size or automatic, _PART_ROWS)
    plan = agree_on_plan(parts, wanted)
    warn_of_scaling(images, backbone, options)
    settle(images, backbone)
    provenance = describe_pass(key, backbone, plan.batch_size)
    file = parts / TABLES
    if file.exists() and any(parts.glob("part-*.h5")):
        # Other machines, or library versions, may have begun.
        provenance = load_tables(file).provenance
        refuse_other_maps(provenance, backbone, parts)
    agreed = replace(tables, provenance=provenance | provenance_of(tables), own=head)
    save_tables(file, agreed)
    return Pass(parts, plan, backbone, options), agreed


def tell_done(n_images: int, missing: Sequence[range]) -> None:
    """Say how much an earlier run left."""
    done = n_images - sum(map(len, missing))
    if done:
        logger.info("going on with %d of %d images done", done, n_images)


def automatic_batch_size(running: Running, input_size: tuple[int, int]) -> int:
    """The engine's own batch size, halved until it fits into a quarter of the memory."""
    per_picture = _BYTES_PER_PIXEL * input_size[0] * input_size[1]
    room = _MEMORY_SHARE * total_memory() / running.streams / per_picture
    size = running.batch_size
    while size > max(room, 1):
        size //= 2
    return size


@dataclass(frozen=True)
class Batch:
    """What is kept of a batch.

    Attributes
    ----------
    maps : dict of str to EncodedMaps
        Of each layer.
    colours : ndarray of shape (b, 64)
        Colour histograms.
    frames : ndarray of shape (b, 4)
        Where the pictures lie in the input.
    more : dict of str to ndarray of shape (b, m)
        Thumbnails, and what the network's own head says.
    gone : dict of int to str
        Rows of the image table whose pictures could not be read, and why; theirs here are blank.
    """

    maps: dict[str, EncodedMaps]
    colours: np.ndarray
    frames: np.ndarray
    more: dict[str, np.ndarray]
    gone: dict[int, str]


def read_batch(
    read: InputReader, rows: Sequence[int], gone: dict[int, str] | None = None
) -> tuple[np.ndarray, ...]:
    """Pixels ``(b, H, W, 3)`` uint8, colours ``(b, 64)``, frames ``(b, 4)``, thumbnails uint8.

    Into `gone`, where it is given, goes what cannot be read, with the reason; a black pixel takes
    its place, so that all others meet the network as they would have.
    """
    pixels, colours, frames, small = [], [], [], []
    for row, record in zip(rows, read.records(rows), strict=True):
        try:
            resized, picture = read.read(record)
        except PictureGoneError as error:
            if gone is None:
                raise
            gone[row] = error.reason
            picture = ScaledPicture(Image.new("RGB", (1, 1)), (0.0, 0.0, 1.0, 1.0), 1, 1)
            resized = resize_picture(picture.image, read.size, read.mode)
        pixels.append(resized)
        colours.append(colour_histogram(picture.image))
        frames.append(picture_frame(picture.width, picture.height, read.size, read.mode))
        small.append(thumbnail(picture.image, picture.box).ravel())
    placed = np.array(frames, dtype=np.float64)
    return np.stack(pixels), np.stack(colours), placed, np.stack(small)


def without_lost(tables: Tables, path: Path) -> Tables:
    """The tables without what the store there has left out, where that still cannot be read."""
    with MapStore(path) as store:
        new = ~tables.images["sha256"].isin(store.images["sha256"])
        rows = np.flatnonzero(new & tables.images["path"].isin(store.skipped["path"]))
    gone: dict[int, str] = {}
    if len(rows):
        read_batch(InputReader(tables.images, (1, 1)), rows.tolist(), gone)
    return without_pictures(tables, gone) if gone else tables


@dataclass(frozen=True)
class BatchMaker:
    """Does all of the work on a batch in the thread that calls it.

    While one thread is in its forward pass others read or compress, so every core has work
    without a thread more than there are cores.

    Attributes
    ----------
    read : InputReader
    backbone : MapSource
    dtype : {"float16", "float32"}
    streams : Streams
        Holds back the threads for which the network has no stream.
    head : OwnHead, optional
        The network's own.
    most : int
        Logits of it that are kept.
    skip : bool
        Pictures that cannot be read are left blank.
    """

    read: InputReader
    backbone: MapSource
    dtype: str
    streams: Streams
    head: OwnHead | None = None
    most: int = 0
    skip: bool = False

    def __call__(self, numbered: tuple[int, range]) -> Batch:
        """The batch of some rows of the image table; batches are numbered from 0, in order."""
        number, rows = numbered
        gone: dict[int, str] = {}
        try:
            pixels, colours, frames, small = read_batch(
                self.read, rows, gone if self.skip else None
            )
            self.streams.wait(number)
            maps, logits = self._outputs(pixels)
        finally:
            self.streams.finish(number)
        encoded = {layer: encode_maps(layer, values, self.dtype) for layer, values in maps.items()}
        more = {THUMBNAILS: small}
        if self.head is not None:
            if logits is None:
                logits = self.head.logits(encoded[self.head.layer].mean)
            more |= largest(logits, self.most)
        return Batch(encoded, colours, frames, more, gone)

    def _outputs(self, pixels: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """The maps, and the logits where the maps' means do not give them."""
        if self.head is None or self.head.linear:
            return self.backbone.forward(pixels), None
        maps, logits = self.backbone.forward_own(pixels)  # type: ignore[attr-defined]
        return maps, logits


def written_parts(
    run: Pass,
    images: pd.DataFrame,
    wanted: Sequence[range],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Generator[Piece, None, None]:
    """Write parts of a pass, in this process; yields each when it is finished.

    While the caller is busy with one, or the disk, the next is already being computed.

    Parameters
    ----------
    run : Pass
    images : DataFrame
        Image table of the pass.
    wanted : sequence of range
        Rows of the parts.
    threads : int, optional
        One more than there are cores by default: now and then one waits for the interpreter.
    progress : callable, optional
        Wraps the list of batches.
    """
    running = running_of(run.backbone)
    threads = threads or max(usable_cores(), running.streams) + 1
    read = InputReader(images, run.backbone.input_size, run.options.resize)
    head = own_head_of(run.backbone, run.options)
    most = 0 if head is None else logits_kept(head, run.options)
    streams = Streams(running.streams)
    skip = run.options.on_error == "skip"
    work = BatchMaker(read, run.backbone, run.options.dtype, streams, head, most, skip)
    tasks = [batch for part in wanted for batch in run.plan.batches(part)]
    ticks, ranges = iter(tracked(tasks, progress)), Ranges()
    finishing: deque[tuple[range, Future[None]]] = deque()

    def finished(behind: int) -> Iterator[Piece]:
        """Parts that are on the disk; waits until no more than so many are not."""
        while len(finishing) > behind or (finishing and finishing[0][1].done()):
            rows, done = finishing.popleft()
            done.result()
            yield run.piece(rows)

    with (
        one_blas_thread(),
        ThreadPoolExecutor(1, "finish") as finisher,
        ThreadPoolExecutor(threads, "extract") as pool,
    ):
        batches = in_order(pool, work, enumerate(tasks), threads + _BATCHES_AHEAD)
        try:
            for part in wanted:
                path = part_path(run.parts, part)
                made_by, of = run.plan.digest, run.plan.n_images
                writer = PartWriter(path, len(part), run.options.dtype, made_by=made_by, of=of)
                gone: dict[int, str] = {}
                with discarded_on_error(writer):
                    for _ in run.plan.batches(part):
                        next(ticks)
                        batch = next(batches)
                        writer.append(batch.maps, batch.colours, batch.frames, batch.more)
                        ends = {
                            name: (m.lowest, m.highest, m.dtype) for name, m in batch.maps.items()
                        }
                        ranges.add(ends, len(batch.colours) - len(batch.gone))
                        gone |= {row - part.start: why for row, why in batch.gone.items()}
                    ranges.check()
                finishing.append((part, finisher.submit(_finish, writer, gone)))
                yield from finished(_PARTS_BEHIND)
            next(ticks, None)  # lets a progress bar close
            yield from finished(0)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _finish(writer: PartWriter, gone: Mapping[int, str]) -> None:
    with discarded_on_error(writer):
        writer.finish(gone)


def maps_at_once(images: pd.DataFrame, backbone: MapSource, options: PassOptions) -> MemoryStore:
    """Maps of a few pictures, all in one batch and in memory; the numbers are those of a store."""
    head = own_head_of(backbone, options)
    most = 0 if head is None else logits_kept(head, options)
    read = InputReader(images, backbone.input_size, options.resize)
    skip = options.on_error == "skip"
    work = BatchMaker(read, backbone, options.dtype, Streams(1), head, most, skip)
    batch = work((0, range(len(images))))
    arrays = {"frames": batch.frames, "colour_histogram": batch.colours, **batch.more}
    nothing = pd.DataFrame(columns=list(BOX_DTYPES))
    tables = Tables(images, nothing, pd.DataFrame(), backbone.identity(), head)
    for layer, one in batch.maps.items():
        arrays |= {f"maps/{layer}": one.maps.astype(one.dtype)}
        arrays |= {f"pooled/{layer}/mean": one.mean, f"pooled/{layer}/max": one.max}
    if batch.gone:
        tables = without_pictures(tables, batch.gone)
        arrays = {key: np.delete(rows, [*batch.gone], 0) for key, rows in arrays.items()}
    return MemoryStore(tables, arrays)


def run_pass(
    tables: Tables,
    backbone: MapSource,
    parts: Path,
    options: PassOptions,
    *,
    elsewhere: Callable[..., None] | None = None,
    progress: Progress | None = None,
    more: Mapping[str, str] | None = None,
) -> tuple[Generator[Piece, None, None], Tables]:
    """Write every part that is not there yet, here or by `elsewhere(run, missing, progress=…)`.

    Returns
    -------
    generator of Piece
        The parts in the order of their rows, each when it is there; to be closed by the caller.
    Tables
        Those given, with the provenance of the pass.
    """
    run, agreed = begin_pass(tables, backbone, parts, options, more=more)
    missing = run.missing()
    tell_done(len(tables.images), missing)
    if elsewhere is None:
        return _all_parts(run, agreed.images, missing, progress), agreed
    elsewhere(run, missing, progress=progress)
    return (part for part in finished_parts(parts, run.plan)), agreed


def _all_parts(
    run: Pass, images: pd.DataFrame, missing: Sequence[range], progress: Progress | None
) -> Generator[Piece, None, None]:
    unwritten = set(missing)
    with contextlib.closing(written_parts(run, images, missing, progress=progress)) as new:
        for rows in run.plan.part_ranges():
            yield next(new) if rows in unwritten else run.piece(rows)
        next(new, None)  # lets a progress bar close
