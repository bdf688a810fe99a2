"""How a pass is cut into parts, the folder of the parts, and what of it is done."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from featlab.errors import FeatlabError
from featlab.extract._source import (
    MapSource,
    PassOptions,
    Running,
    describe_pass,
    refuse_other_output,
    running_of,
    store_key,
    told_by,
)
from featlab.store.format import Tables, load_tables, save_tables
from featlab.store.rows import Piece, finished_part
from featlab.store.writing import PartWriter
from featlab.system.files import held, write_durably
from featlab.system.machine import total_memory

logger = logging.getLogger(__name__)

PLAN = "plan.json"
_SHARE_LOCKS = "lock-*"
_SHARED = "shared"
# Machines that take a share of one pass agree on its plan one after the other.
_AGREEING_SECONDS = 60

TABLES = "tables.h5"
"""The image table, the box table and the provenance, beside the parts."""
# The store's chunks of pooled values are as long, so that joining copies them as they are.
_PART_ROWS = 256
# The first convolutions are the widest: 64 channels at the input's own resolution (VGG16), in
# float32, and a layer holds its input, its output and room to work.
_BYTES_PER_PIXEL = 64 * 4 * 3
_MEMORY_SHARE = 0.25


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


def make_folder(folder: Path) -> None:
    """Make the folder of the parts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
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
    """Note beside parts that another store refers to them, so that they are never cleared."""
    for folder in {piece.file.parent for piece in pieces if piece.file.match("*.parts/part-*.h5")}:
        (folder / _SHARED).touch()


def _needed(parts: Path, kept: Sequence[Piece]) -> set[Path]:
    own = {piece.file for piece in kept if piece.file.parent == parts}
    if not (parts / _SHARED).exists():
        return own
    return {*own, *parts.glob("part-*.h5"), parts / _SHARED}


@contextlib.contextmanager
def discarded_on_error(writer: PartWriter) -> Iterator[None]:
    """Leave no half-written part behind."""
    try:
        yield
    except BaseException:
        writer.discard()
        raise


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
    images, boxes = tables.images, tables.boxes
    key = store_key(images, backbone, options) | {"engine": running.engine} | dict(more or {})
    automatic = automatic_batch_size(running, backbone.input_size)
    wanted = Plan(key, len(images), options.batch_size or automatic, _PART_ROWS)
    plan = agree_on_plan(parts, wanted)
    provenance = describe_pass(key, backbone, plan.batch_size)
    file = parts / TABLES
    if file.exists() and any(parts.glob("part-*.h5")):
        # Other machines, or library versions, may have begun.
        provenance = load_tables(file).provenance
        refuse_other_output(provenance, backbone, parts)
    provenance |= told_by(images, boxes)
    agreed = Tables(images, boxes, provenance)
    save_tables(file, agreed)
    return Pass(parts, plan, backbone, options), agreed


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
    pieces = {rows: _part(parts, plan, rows) for rows in plan.part_ranges()}
    missing = [rows for rows, piece in pieces.items() if piece is None]
    if missing:
        raise FeatlabError(
            f"{len(missing)} of {len(pieces)} parts, {sum(map(len, missing))} images, are missing "
            f"in {parts}; the first is {part_path(parts, missing[0]).name}. Run the shards that "
            "are not finished, or `featlab extract` without --shard, which does what is left."
        )
    return [piece for piece in pieces.values() if piece is not None]


def _part(parts: Path, plan: Plan, rows: range) -> Piece | None:
    piece = finished_part(part_path(parts, rows), plan.digest)
    return piece if piece is not None and len(piece) == len(rows) else None


def automatic_batch_size(running: Running, input_size: tuple[int, int]) -> int:
    """The engine's own batch size, halved until it fits into a quarter of the memory."""
    per_picture = _BYTES_PER_PIXEL * input_size[0] * input_size[1]
    room = _MEMORY_SHARE * total_memory() / running.streams / per_picture
    size = running.batch_size
    while size > max(room, 1):
        size //= 2
    return size
