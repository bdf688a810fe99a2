"""How a pass is cut up, and the folder of its parts."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from featlab._errors import FeatlabError
from featlab.store import PartWriter

logger = logging.getLogger(__name__)


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

    def part_ranges(self) -> list[range]:
        """Rows of each part."""
        return _cut(range(self.n_images), self.part_rows)

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
    file = parts / "plan.json"
    # Without a finished part there is nothing to go on with, and nothing to lose.
    if file.exists() and any(parts.glob("part-*.h5")):
        earlier = json.loads(file.read_text("utf-8"))
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
    temporary = parts / "plan.json.tmp"
    temporary.write_text(json.dumps(asdict(plan), indent=1), "utf-8")
    os.replace(temporary, file)
    return plan


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
    """Hold the lock of a target; the system frees it when the process dies."""
    lock = filelock.FileLock(parts / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise FeatlabError(
            f"another process is writing {parts.name.removesuffix('.parts')} in {parts.parent}; "
            "wait for it, or give another path."
        ) from None
    try:
        yield
    finally:
        lock.release()


def clear_finished(parts: Path) -> None:
    """Remove the parts of a store that is finished, which a kill at the very end leaves behind."""
    if parts.is_dir():
        with contextlib.suppress(FeatlabError), sole_writer(parts):
            shutil.rmtree(parts, ignore_errors=True)


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
