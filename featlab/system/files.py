"""Files that appear whole, and on the disk, or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from featlab.errors import FeatlabError


def replace_durably(temporary: Path, path: Path) -> None:
    """Flush `temporary` to the disk, then give it its final name in one step."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    with contextlib.suppress(OSError):  # Windows cannot open a directory.
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_whole(path: Path, write: Callable[[Path], Any] | bytes | str) -> None:
    """Write a file under another name beside it, flush it, then give it its name in one step.

    Parameters
    ----------
    path : Path
        Its folder is made where it is missing.
    write : callable, bytes or str
        The content, or what fills the file whose path it is given (of the same suffix).

    Raises
    ------
    FeatlabError
        The system does not let the file be written; an earlier one of that name is still whole.
    """
    with system_errors(path):
        write_durably(path, write)


def write_durably(path: Path, write: Callable[[Path], Any] | bytes | str) -> None:
    """As :func:`write_whole`, for a caller that says itself what the system's refusal means."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: Keras and numpy look at it.
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}.part{path.suffix}")
    try:
        if isinstance(write, bytes):
            part.write_bytes(write)
        elif isinstance(write, str):
            part.write_text(write, "utf-8", newline="")
        else:
            write(part)
        replace_durably(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """What the system refuses while `path` is written, as a FeatlabError that names it."""
    try:
        yield
    except OSError as error:
        full = "No space left" in str(error)  # pyarrow's errors have no number
        reason = "no space left on the disk" if full else error.strerror or error
        raise FeatlabError(
            f"{path} could not be written: {reason}; make room or give another folder, and run "
            "the same again."
        ) from error
