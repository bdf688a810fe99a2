"""One pass as any process takes its share of it: a whole one, a shard, a worker of a cluster."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from featlab.errors import FeatlabError
from featlab.extract._batches import (
    BatchMaker,
    PictureReader,
    Turns,
    automatic_batch_size,
    in_order,
)
from featlab.extract._plan import Plan, agree_on_plan, discarded_on_error, part_path
from featlab.extract._provenance import (
    annotations_digest,
    describe_pass,
    refuse_other_output,
    store_key,
)
from featlab.extract._source import MapSource, Progress, running_of
from featlab.store import PartWriter, Piece, Tables, finished_part, load_tables, save_tables
from featlab.system.machine import usable_cores

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

TABLES = "tables.h5"
"""The image table, the box table and the provenance, beside the parts."""
# The store's chunks of pooled values are as long, so that joining copies them as they are.
_PART_ROWS = 256
# Batches that may be finished before the one that is written next.
_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Pass:
    """What every process of a pass must know.

    Attributes
    ----------
    parts : Path
        Folder of the parts.
    plan : Plan
    backbone : MapSource
    resize, dtype : str
    """

    parts: Path
    plan: Plan
    backbone: MapSource
    resize: str
    dtype: str

    def part(self, rows: range) -> Piece | None:
        """The finished part of some rows; None where it is still to be written."""
        return _part(self.parts, self.plan, rows)

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
    *,
    batch_size: int | None,
    resize: str,
    dtype: str,
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
    images, boxes = tables.images, tables.boxes
    key = store_key(images, backbone, resize, dtype) | {"engine": running.engine} | dict(more or {})
    automatic = automatic_batch_size(running, backbone.input_size)
    wanted = Plan(key, len(images), batch_size or automatic, _PART_ROWS)
    plan = agree_on_plan(parts, wanted)
    provenance = describe_pass(key, backbone, plan.batch_size)
    file = parts / TABLES
    if file.exists() and any(parts.glob("part-*.h5")):
        # Other machines, or library versions, may have begun.
        provenance = load_tables(file).provenance
        refuse_other_output(provenance, backbone, parts)
    provenance["annotations_digest"] = annotations_digest(images, boxes)
    agreed = Tables(images, boxes, provenance)
    save_tables(file, agreed)
    return Pass(parts, plan, backbone, resize, dtype), agreed


def written_parts(
    run: Pass,
    images: pd.DataFrame,
    wanted: Sequence[range],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Generator[Piece, None, None]:
    """Write parts of a pass, in this process; yields each when it is finished.

    While the caller is busy with one, the next is already being computed.

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
    reader = PictureReader(images, run.backbone.input_size, run.resize)
    work = BatchMaker(reader, run.backbone, run.dtype, Turns(running.streams))
    tasks = [batch for part in wanted for batch in run.plan.batches(part)]
    shown = iter(progress(tasks) if progress else tasks)
    with ThreadPoolExecutor(threads, "extract") as pool:
        batches = in_order(pool, work, enumerate(tasks), threads + _BATCHES_AHEAD)
        try:
            for part in wanted:
                path = part_path(run.parts, part)
                writer = PartWriter(path, len(part), run.dtype, made_by=run.plan.digest)
                with discarded_on_error(writer):
                    for _ in run.plan.batches(part):
                        next(shown)
                        batch = next(batches)
                        writer.append(batch.maps, batch.colours, batch.frames)
                    writer.finish()
                yield run.piece(part)
            next(shown, None)  # lets a progress bar close
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def run_pass(
    tables: Tables,
    backbone: MapSource,
    parts: Path,
    *,
    batch_size: int | None,
    resize: str,
    dtype: str,
    client: Client | None = None,
    progress: Progress | None = None,
    more: Mapping[str, str] | None = None,
) -> tuple[Generator[Piece, None, None], Tables]:
    """Write every part that is not there yet.

    Returns
    -------
    generator of Piece
        The parts in the order of their rows, each when it is there; to be closed by the caller.
    Tables
        Those given, with the provenance of the pass.
    """
    run, agreed = begin_pass(
        tables, backbone, parts, batch_size=batch_size, resize=resize, dtype=dtype, more=more
    )
    missing = run.missing()
    tell_done(len(tables.images), missing)
    if client is None:
        return _all_parts(run, agreed.images, missing, progress), agreed
    from featlab.extract._cluster import write_parts_on

    write_parts_on(client, run, missing, progress=progress)
    return (part for part in finished_parts(parts, run.plan)), agreed


def _all_parts(
    run: Pass, images: pd.DataFrame, missing: Sequence[range], progress: Progress | None
) -> Generator[Piece, None, None]:
    unwritten = set(missing)
    with contextlib.closing(written_parts(run, images, missing, progress=progress)) as new:
        for rows in run.plan.part_ranges():
            yield next(new) if rows in unwritten else run.piece(rows)
        next(new, None)  # lets a progress bar close


def tell_done(n_images: int, missing: Sequence[range]) -> None:
    """Say how much an earlier run left."""
    done = n_images - sum(map(len, missing))
    if done:
        logger.info("going on with %d of %d images done", done, n_images)


def finished_parts(parts: Path, plan: Plan) -> list[Piece]:
    """All parts of a pass, in the order of their rows.

    Raises
    ------
    FeatlabError
        Some are missing.
    """
    found = {rows: _part(parts, plan, rows) for rows in plan.part_ranges()}
    missing = [rows for rows, part in found.items() if part is None]
    if missing:
        raise FeatlabError(
            f"{len(missing)} of {len(found)} parts, {sum(map(len, missing))} images, are missing "
            f"in {parts}; the first is {part_path(parts, missing[0]).name}. Run the shards that "
            "are not finished, or `featlab extract` without --shard, which does what is left."
        )
    return [part for part in found.values() if part is not None]


def _part(parts: Path, plan: Plan, rows: range) -> Piece | None:
    part = finished_part(part_path(parts, rows), plan.digest)
    return part if part is not None and len(part) == len(rows) else None
