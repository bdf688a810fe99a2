"""What a disk may hold after a power cut, made from a record of what a call did to a folder.

POSIX promises little: data are on the disk after `fsync` of the file, and names (made, changed,
taken away) after `fsync` of their folder. Until then each may be there or not, in any order, and
of the data any page may be old, new or zeros. As ALICE (Pillai et al. 2014) and SQLite's tests do,
every prefix of the record is replayed with what was not flushed dropped, torn or reordered.

The record is made in this process: the calls of `os` that flush or rename are wrapped, and around
each the folder is read, so that what libraries in C wrote since the last one is known, too.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any

import pytest

PAGE = 4096
FLUSHES = ("fsync", "fdatasync", "sync")
CALLS = (*FLUSHES, "replace", "rename", "unlink", "remove", "mkdir", "rmdir")


@dataclass(frozen=True)
class Event:
    """A change of a name (`link`, `unlink`, `rename`), of data (`write`), or a flush.

    There are `flush` of a file's data, `flush names` of a folder, and `sync` of everything.

    Files and folders are known by numbers that no other has; 0 is the folder itself.
    """

    kind: str
    node: int = 0
    folder: int = 0
    name: str = ""
    data: bytes | None = None
    to: str = ""


@dataclass
class _Seen:
    """The folder as it was last read: names of each folder, content of each file."""

    names: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    data: dict[int, bytes] = field(default_factory=dict)


class Recorder:
    """Reads a folder again and again, and notes what has changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[Event] = []
        self._numbers = {root.stat().st_ino: 0}
        self._last, self._seen = 0, _Seen()
        self.one_at_a_time = RLock()  # tables are written by several threads
        self.look()
        self.events.append(Event("sync"))  # what was there before

    def look(self) -> None:
        """Note what has changed since the last look."""
        now = _Seen()
        self._read(self.root, 0, now)
        gone = {(f, n): node for f, names in self._seen.names.items() for n, node in names.items()}
        came = {(f, n): node for f, names in now.names.items() for n, node in names.items()}
        for place in [place for place in gone if came.get(place) == gone[place]]:
            del gone[place], came[place]
        old = {node: place for place, node in gone.items()}
        for (folder, name), node in came.items():
            if node in old and old[node][0] == folder:
                before = old[node][1]
                del gone[folder, before]
                self.events.append(Event("rename", node, folder, before, to=name))
                gone.pop((folder, name), None)  # what had the name
            else:
                data = None if node in now.names else b""
                self.events.append(Event("link", node, folder, name, data))
        for (folder, name), node in gone.items():
            if (folder, name) not in came:
                self.events.append(Event("unlink", node, folder, name))
        for node, data in now.data.items():
            if data != self._seen.data.get(node, b""):
                self.events.append(Event("write", node, data=data))
        self._seen = now
        there = {0, *now.names, *now.data}
        self._numbers = {inode: node for inode, node in self._numbers.items() if node in there}

    def flushed(self, file: int | None = None) -> None:
        """Note the flush of a file or folder, by its descriptor, or of all."""
        if file is None:
            self.events.append(Event("sync"))
        elif (node := self._numbers.get(os.fstat(file).st_ino)) is not None:
            self.events.append(Event("flush names" if node in self._seen.names else "flush", node))

    def _read(self, folder: Path, number: int, seen: _Seen) -> None:
        names = seen.names[number] = {}
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            inode = entry.inode()
            if inode not in self._numbers:
                self._last += 1
                self._numbers[inode] = self._last
            node = names[entry.name] = self._numbers[inode]
            if entry.is_dir():
                self._read(Path(entry.path), node, seen)
            else:
                seen.data[node] = Path(entry.path).read_bytes()


@contextmanager
def recorded(root: Path) -> Iterator[list[Event]]:
    """What is done to a folder inside the block; the list is full at its end."""
    recorder = Recorder(root)
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, _watched(recorder, name, getattr(os, name)))
        yield recorder.events
    recorder.look()


def _watched(recorder: Recorder, name: str, real: Any) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        with recorder.one_at_a_time:
            recorder.look()
            if name in FLUSHES:
                recorder.flushed(*arguments)
                return None
            done = real(*arguments, **options)
            recorder.look()
            return done

    return call


@contextmanager
def quick_disk() -> Iterator[None]:
    """Nothing is flushed: this machine keeps its power."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FLUSHES:
            patch.setattr(os, name, lambda *_: None)
        yield


class Disk:
    """What is surely on the disk, and what may be, after some events."""

    def __init__(self) -> None:
        self.names: dict[int, dict[str, int]] = {0: {}}
        self.pending: list[Event] = []
        self.flushed: dict[int, bytes] = {}
        self.written: dict[int, bytes] = {}

    def take(self, event: Event) -> None:
        """One event more."""
        if event.kind == "write":
            self.written[event.node] = event.data or b""
        elif event.kind == "sync":
            self.flushed |= self.written
            self._flush_names(self.pending)
        elif event.kind == "flush":
            self.flushed[event.node] = self.written[event.node]
        elif event.kind == "flush names":
            self._flush_names([one for one in self.pending if one.folder == event.node])
        else:
            if event.kind == "link" and event.data is not None:
                self.written.setdefault(event.node, b"")
            self.pending.append(event)

    def _flush_names(self, events: list[Event]) -> None:
        for event in events:
            _apply(self.names, event)
        self.pending = [one for one in self.pending if one not in events]

    def after(self, how: str, seed: int) -> dict[str, bytes | None]:
        """Path → content (None for a folder) after a cut; `how` says what became of the rest.

        ``dropped``: nothing of it; ``kept``: all; ``bare``: the names without the data; ``torn``:
        the names, and data up to half a page; ``zeros``: the names, and zeros for data;
        ``first``: one of the names alone, with its data or without; ``reordered``: any of all that.
        """
        chance = random.Random(f"{how} {seed}")
        names = {folder: dict(inside) for folder, inside in self.names.items()}
        late = {"dropped": [], "first": [chance.choice(self.pending)] if self.pending else []}.get(
            how, self.pending
        )
        for event in late:
            if how != "reordered" or chance.random() < 0.5:
                _apply(names, event)
        found: dict[str, bytes | None] = {}
        self._walk(names, 0, "", how, chance, found)
        return found

    def _walk(self, names, folder, prefix, how, chance, found) -> None:
        for name, node in sorted(names.get(folder, {}).items()):
            path = prefix + name
            if node in self.written:
                old, new = self.flushed.get(node, b""), self.written[node]
                found[path] = new if old == new else _data(old, new, how, chance)
            else:
                found[path] = None
                self._walk(names, node, f"{path}/", how, chance, found)


def _apply(names: dict[int, dict[str, int]], event: Event) -> None:
    inside = names.setdefault(event.folder, {})
    if event.kind in ("unlink", "rename") and inside.get(event.name) == event.node:
        del inside[event.name]
    if event.kind != "unlink":
        inside[event.to or event.name] = event.node


def _data(old: bytes, new: bytes, how: str, chance: random.Random) -> bytes:
    """What of a file's data that nobody flushed may be there."""
    if how == "kept":
        return new
    if how in ("dropped", "bare"):
        return old
    if how == "torn":
        return new[: PAGE * chance.randrange(len(new) // PAGE + 1) + PAGE // 2]
    if how == "zeros":
        return old + bytes(max(len(new) - len(old), 0))
    size = chance.choice([len(old), len(new)])
    pages = []
    for start in range(0, size, PAGE):
        page = slice(start, min(start + PAGE, size))
        given = chance.choice([old, new, b""])[page]
        pages.append(given + bytes(page.stop - start - len(given)))
    return b"".join(pages)


@dataclass(frozen=True)
class Cut:
    """What was on the disk after a power cut.

    Attributes
    ----------
    step : int
        Number of events before it.
    how : str
        As in :meth:`Disk.after`.
    files : dict of str to bytes or None
    """

    step: int
    how: str
    files: dict[str, bytes | None]

    def lay(self, folder: Path) -> None:
        """Write it into an empty folder."""
        for name, content in self.files.items():
            if content is None:
                (folder / name).mkdir()
            else:
                (folder / name).write_bytes(content)


HOW = ("dropped", "kept", "bare", "torn", "zeros", "first", "reordered")


def cuts(events: list[Event], draws: int = 1) -> list[Cut]:
    """Every disk that is like no other, after every prefix; the last is that of the whole call.

    Parameters
    ----------
    events : list of Event
    draws : int
        How often ``torn``, ``first`` and ``reordered`` are drawn after each prefix.
    """
    disk, found = Disk(), {}
    begun = [event.kind for event in events].index("sync")
    for step, event in enumerate(events):
        disk.take(event)
        if step < begun:
            continue
        for how in HOW:
            for draw in range(draws if how in ("torn", "first", "reordered") else 1):
                files = disk.after(how, 1000 * step + draw)
                found[tuple(sorted(files.items(), key=lambda file: file[0]))] = Cut(
                    step, how, files
                )
    return list(found.values())
