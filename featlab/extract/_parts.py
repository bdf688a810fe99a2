"""How a pass is cut into parts, their folder, and how what could be read of them is joined."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from featlab.errors import FeatlabError
from featlab.extract._source import pictures_key, provenance_of
from featlab.store.format import (
    Tables,
    read_errors,
    read_gone,
    read_tables,
    write_tables,
)
from featlab.store.rows import Piece, choose_rows, finished_part, first_rows
from featlab.store.writing import PartWriter, join_parts
from featlab.system.files import held, make_durably, system_errors, write_durably

logger = logging.getLogger(__name__)

PLAN = "plan.json"
_SHARE_LOCKS = "lock-*"
_SHARED = "shared"
# Machines that take a share of one pass agree on its plan one after the other.
_AGREEING_SECONDS = 60

TABLES = "tables.h5"
"""The image table, the box table and the provenance, beside the parts."""
_MOST_NAMED = 20


@dataclass(frozen=True)
class Plan:
    """How a pass is cut up; kept beside the parts so that a resumed pass is cut the same way.

    Attributes
    ----------
    key : dict of str to str
        What made the parts: that of the store, and the engine, whose last bits are its own.
    n_images, batch_size : int
    part_rows : int
        Rows of each part but the last.
    """

    key: dict[str, str]
    n_images: int
    batch_size: int
    part_rows: int

    @property
    def digest(self) -> str:
        """What a part must carry to be one of this pass."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]

    def part_ranges(self) -> list[range]:
        """Rows of each part."""
        return _cut(range(self.n_images), self.part_rows)

    def shard(self, number: int, of: int) -> list[range]:
        """Rows of the parts of one share of several, numbered from 1."""
        return self.part_ranges()[number - 1 :: of]

    def batches(self, part: range) -> list[range]:
        """Rows of each forward pass within a part."""
        return _cut(part, self.batch_size)


def _cut(rows: range, step: int) -> list[range]:
    return [
        range(start, min(start + step, rows.stop)) for start in range(rows.start, rows.stop, step)
    ]


def agree_on_plan(parts: Path, plan: Plan) -> Plan:
    """The plan of an earlier, interrupted pass if there is one; its parts are kept.

    Raises
    ------
    FeatlabError
        The parts there are of another pass; the message names what differs, and both values.
    """
    file = parts / PLAN
    earlier = json.loads(file.read_text("utf-8")) if file.exists() else None
    # Another machine may have begun its share; parts of another pass are not taken for ours.
    begun = any(parts.glob("part-*.h5")) or any(parts.glob(_SHARE_LOCKS))
    if earlier is not None and begun:
        for name, value in plan.key.items():
            if earlier["key"].get(name) != value:
                raise FeatlabError(
                    f"{parts} holds parts of an interrupted pass with another "
                    f"{name.replace('_', ' ')}: {earlier['key'].get(name)} there, {value} asked "
                    "for. Go on with that one, give another path, or remove the folder."
                )
        if earlier["batch_size"] != plan.batch_size:
            logger.info("keeping the interrupted pass's batch size %d", earlier["batch_size"])
        return Plan(**earlier)
    write_durably(file, json.dumps(asdict(plan), indent=1))
    return plan


def agreed_plan(parts: Path) -> Plan:
    """The plan of a pass that has begun.

    Raises
    ------
    FeatlabError
        There is none.
    """
    try:
        return Plan(**json.loads((parts / PLAN).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise FeatlabError(
            f"{parts} holds no pass that could be joined: {PLAN} is missing or damaged there; "
            "run `featlab extract` first."
        ) from error


def parts_of(path: Path) -> Path:
    """Folder of the parts of a store."""
    return path.with_name(path.name + ".parts")


def part_path(parts: Path, part: range) -> Path:
    """Where a finished part lies."""
    return parts / f"part-{part.start:09d}-{part.stop:09d}.h5"


def finished_parts(parts: Path, plan: Plan) -> list[Piece]:
    """All parts of a pass, in the order of their rows.

    Raises
    ------
    FeatlabError
        Some are missing.
    """
    pieces = {rows: whole_part(parts, plan, rows) for rows in plan.part_ranges()}
    missing = [rows for rows, piece in pieces.items() if piece is None]
    if missing:
        raise FeatlabError(
            f"{len(missing)} of {len(pieces)} parts, {sum(map(len, missing))} images, are missing "
            f"in {parts}; the first is {part_path(parts, missing[0]).name}. Run the shards that "
            "are not finished, or `featlab extract` without --shard, which does what is left."
        )
    return [piece for piece in pieces.values() if piece is not None]


def whole_part(parts: Path, plan: Plan, rows: range) -> Piece | None:
    """The finished part of some rows; None where it is still to be written."""
    piece = finished_part(part_path(parts, rows), plan.digest)
    return piece if piece is not None and len(piece) == len(rows) else None


def make_folder(folder: Path) -> None:
    """Make the folder of the parts."""
    try:
        make_durably(folder)
    except OSError as error:
        raise FeatlabError(f"{folder} could not be made: {error.strerror}.") from error


@contextlib.contextmanager
def sole_writer(parts: Path) -> Iterator[None]:
    """Hold the lock of a target, where nobody writes a share of it either."""
    with _held(parts, "lock"):
        for share in parts.glob(_SHARE_LOCKS):
            with _held(parts, share.name):
                pass
        yield


@contextlib.contextmanager
def one_of_several(parts: Path, shard: tuple[int, int]) -> Iterator[contextlib.ExitStack]:
    """Hold the lock of a share of a target, and until the stack given is closed all of it."""
    with contextlib.ExitStack() as agreeing:
        agreeing.enter_context(_held(parts, "lock", wait=_AGREEING_SECONDS))
        with _held(parts, f"lock-{shard[0]}-of-{shard[1]}"):
            yield agreeing


def _held(parts: Path, name: str, wait: float = 0) -> contextlib.AbstractContextManager[None]:
    def busy() -> None:
        raise FeatlabError(
            f"another process is writing {parts.name.removesuffix('.parts')} in {parts.parent}; "
            "wait for it, or give another path."
        ) from None

    return held(parts / name, busy, wait=wait)


def clear_finished(parts: Path, kept: Sequence[Piece]) -> None:
    """Clear the folder of a finished store, which a kill at the very end leaves as it was."""
    needed = _needed(parts, kept)
    if parts.is_dir() and (not needed or {*parts.iterdir()} != needed):
        with contextlib.suppress(FeatlabError), sole_writer(parts):
            clear_parts(parts, kept)


def clear_parts(parts: Path, kept: Sequence[Piece]) -> None:
    """Remove everything in the folder of the parts but those that a virtual store needs."""
    needed = _needed(parts, kept)
    if not needed:
        shutil.rmtree(parts, ignore_errors=True)
        return
    for file in {*parts.iterdir()} - needed:
        with contextlib.suppress(OSError):
            file.unlink()


def share_parts(pieces: Sequence[Piece]) -> None:
    """Note beside parts that another store refers to them, so that they are never cleared.

    Raises
    ------
    FeatlabError
        Their own store is being written, or has just become one file.
    """
    shared = [piece.file for piece in pieces if piece.file.match("*.parts/part-*.h5")]
    for folder in {file.parent for file in shared}:
        if (folder / _SHARED).exists():
            continue
        with system_errors(folder), sole_writer(folder):
            for file in shared:
                if file.parent == folder and not file.exists():
                    raise FeatlabError(
                        f"{file} is gone: its store has just become one file; run the same again."
                    )
            write_durably(folder / _SHARED, b"")


def _needed(parts: Path, kept: Sequence[Piece]) -> set[Path]:
    own = {piece.file for piece in kept if piece.file.parent == parts}
    if not (parts / _SHARED).exists():
        return own
    return {*own, *parts.glob("part-*.h5"), parts / _SHARED}


@contextlib.contextmanager
def disk_errors(path: Path, parts: Path) -> Iterator[None]:
    """Say what a failed write means, and what is left."""
    try:
        yield
    except OSError as error:
        reason = "no space left on the disk" if "No space left" in str(error) else str(error)
        raise FeatlabError(
            f"writing {path} failed: {reason}. The finished parts are kept in {parts}; make room "
            "and run the same again to go on."
        ) from error


@contextlib.contextmanager
def discarded_on_error(writer: PartWriter) -> Iterator[None]:
    """Leave no half-written part behind."""
    try:
        yield
    except BaseException:
        writer.discard()
        raise


class _BlankError(Exception):
    """Rows are blank; those before them are not joined as they are."""


def join_read(
    pieces: Iterable[Piece], path: Path, tables: Tables, *, virtual: bool = False
) -> None:
    """Join the rows whose pictures could be read; the others are named in table `skipped`.

    Nearly always these are all, and are joined as they come.

    Raises
    ------
    FeatlabError
        No picture is left.
    """
    coming = iter(pieces)
    done: list[Piece] = []
    try:
        join_parts(_whole(coming, done), path, tables, virtual=virtual)
        return
    except _BlankError:
        done += coming
    gone: dict[int, str] = {}
    for start, piece in zip(first_rows(done).tolist(), done, strict=False):
        gone |= {start + row: why for row, why in _blank(piece).items()}
    join_parts(
        choose_rows(done, np.delete(np.arange(len(tables.images)), [*gone])),
        path,
        without_pictures(tables, gone),
        virtual=virtual,
    )


def _whole(pieces: Iterator[Piece], done: list[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        done.append(piece)
        if _blank(piece):
            raise _BlankError
        yield piece


def _blank(piece: Piece) -> dict[int, str]:
    """Blank rows of a piece, counted from its first."""
    inside = range(piece.start, piece.stop)
    return {k - piece.start: why for k, why in read_gone(piece.file).items() if k in inside}


def without_pictures(tables: Tables, gone: Mapping[int, str]) -> Tables:
    """The tables of the other pictures; those that are gone are named, in the log too."""
    rows = np.delete(np.arange(len(tables.images)), [*gone])
    paths = tables.images["path"].iloc[[*gone]].tolist()
    reasons = [f"in the pass it {why}" for why in gone.values()]
    lines = [f"\n  {path}: {why}" for path, why in zip(paths, reasons, strict=True)]
    more = [f"\n  and {len(lines) - _MOST_NAMED} more"] if len(lines) > _MOST_NAMED else []
    text = "".join([*lines[:_MOST_NAMED], *more])
    if not len(rows):
        raise FeatlabError(f"no picture is left:{text}")
    noun = "1 picture" if len(lines) == 1 else f"{len(lines):,} pictures"
    logger.warning("left out in the pass, %s:%s", noun, text)
    named = pd.DataFrame({"path": paths, "reason": reasons})
    skipped = pd.concat([tables.skipped, named], ignore_index=True).astype(str)
    left = replace(tables.of_rows(rows), skipped=skipped)
    key = pictures_key(left.images)
    return replace(left, provenance=provenance_of(left) | key)


def save_tables(path: Path, tables: Tables) -> None:
    """Keep tables in a file of their own, whole or not at all."""
    # Made in memory: on a full disk HDF5 cannot even close a file.
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        write_tables(file, tables)
        file.flush()
        image = file.id.get_file_image()
    write_durably(path, image)


def load_tables(path: Path) -> Tables:
    """Tables that :func:`save_tables` kept."""
    with read_errors(path, "/"):
        file = h5py.File(path, "r")
    with file:
        return read_tables(file)
