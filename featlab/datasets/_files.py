"""Folders with one writer, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import filelock

from featlab.errors import FeatlabError

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Make the folder and hold its lock; waits for another process that fills it.

    Raises
    ------
    FeatlabError
        The disk refuses to be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            _log.info("waiting for another process that fills %s", folder)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        raise FeatlabError(
            f"{folder} cannot be filled ({error.strerror or error}); make room or give another "
            "folder, and run the same again: it goes on with what is there."
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole, and on the disk, or not at all."""
    part = part_of(path)
    part.write_bytes(content)
    put_in_place(part, path)


def put_in_place(part: Path, path: Path) -> None:
    """Give a finished file its name, once it is on the disk."""
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def part_of(path: Path) -> Path:
    """Where a file is while it is not whole."""
    return path.with_name(path.name + ".part")


def amount(n: int) -> str:
    """A number of bytes as text."""
    return f"{n / 1e6:,.1f} MB" if n >= 100_000 else f"{n:,} bytes"


def one_line(error: Exception) -> str:
    """An exception's name and message without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
