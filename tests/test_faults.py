"""Disks that fill up, files that vanish, signals, clocks, memory: a promised message and state.

The command line runs in children forked from one warm process (this file, run as a script), some
of them in a mount namespace of their own with a small or a read-only file system.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone, draw_pictures
from forked import ForkServer, serve

from featlab import FeatlabError
from featlab.extract import PassOptions, extract_maps
from featlab.images import index_images
from featlab.store import MapStore

N_IMAGES = 40
COUNTS = {"cat": N_IMAGES // 2, "dog": N_IMAGES // 2}
KEPT = "The finished parts are kept in"
GO_ON = "run the same command again to go on"

# ------------------------------------------------------------- what the forked children do


def work_cli(arguments: list[str], **faults: Any) -> None:
    """The command line with the fake network, and what is to go wrong."""
    from featlab import cli
    from featlab.extract import _passing

    assert _passing._PART_ROWS
    _passing._PART_ROWS = 4

    class Network(FakeBackbone):
        def forward(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
            time.sleep(faults.get("seconds", 0))
            while self.calls >= 8 and Path(faults.get("held_by", "")).is_file():
                time.sleep(0.01)
            if self.calls == faults.get("memory_error_at"):
                raise MemoryError
            return super().forward(pixels)

    def load(*_: Any, **__: Any) -> Network:
        # The pictures are indexed by now, and not yet read again.
        for path in faults.get("vanish", ()):
            os.remove(path)
        for path in faults.get("forbid", ()):
            os.chmod(path, 0)
        for path in faults.get("change", ()):
            with open(path, "ab") as file:
                file.write(b"\0")
        return Network()

    cli._pass.load_network = load
    if faults.get("clock_runs_backwards"):
        ticks = itertools.count()
        time.time = lambda: 2e9 - 60.0 * next(ticks)
    if faults.get("user"):
        os.setegid(faults["user"])
        os.seteuid(faults["user"])
    sys.argv = ["featlab", *arguments]
    cli.main()


def work_in_small_room(mount: str, size: int, first: list[str], then: list[str], log: str) -> None:
    """A command on a file system of `size` bytes, and again when there is room."""
    file_system(mount, size)
    code = own_process(work_cli, first)
    left = sorted(str(path.relative_to(mount)) for path in Path(mount).rglob("*"))
    file_system(mount, 64 << 20, remount=True)
    again = own_process(work_cli, then)
    shutil.copytree(mount, log)
    sys.stdout.write(f"\ncodes {code} {again}\nleft {' '.join(left)}\n")


def work_read_only(mount: str, first: list[str], then: list[str]) -> None:
    """A command in a folder that can be written to, and another one when it no longer can."""
    file_system(mount, 64 << 20)
    code = own_process(work_cli, first) if first else 0
    file_system(mount, 64 << 20, remount=True, read_only=True)
    sys.stdout.write("\n--- read-only\n")
    sys.stdout.flush()
    sys.stdout.write(f"\ncodes {code} {own_process(work_cli, then)}\n")


def work_tables_in_small_room(mount: str, size: int) -> None:
    """Tables again and again on a file system that is too small for them."""
    from fake_results import make_results

    from featlab import report

    file_system(mount, size)
    try:
        report.page.write_tables(make_results(n=120, c=24), mount)
    except FeatlabError as error:
        sys.stdout.write(f"{error}\n")
    for path in sorted(Path(mount).iterdir()):
        if path.suffix == ".parquet":
            pd.read_parquet(path)
        elif path.suffix == ".csv":
            pd.read_csv(path)
        sys.stdout.write(f"left {path.name}\n")


def own_process(work: Any, *arguments: Any) -> int:
    child = os.fork()
    if not child:
        code: Any = 1
        try:
            work(*arguments)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def file_system(place: str, size: int, *, remount: bool = False, read_only: bool = False) -> None:
    """A tmpfs at `place` that only this process and its children see."""
    libc = ctypes.CDLL(None, use_errno=True)
    private, recursive, remounting, reading = 1 << 18, 1 << 14, 32, 1

    def call(name: str, *arguments: Any) -> None:
        if getattr(libc, name)(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)

    if not remount:
        call("unshare", 0x00020000)
        call("mount", b"none", b"/", None, private | recursive, None)
    flags = (remounting if remount else 0) | (reading if read_only else 0)
    call("mount", b"tmpfs", place.encode(), b"tmpfs", flags, f"size={size}".encode())


def may_mount() -> bool:
    child = os.fork()
    if not child:
        try:
            with tempfile.TemporaryDirectory() as place:
                file_system(place, 1 << 16)
                # Unmounted with the namespace, when this process ends.
                os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


needs_mount = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not may_mount(),
    reason="mounting a small file system needs Linux and root",
)

# ------------------------------------------------------------------------------- fixtures


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    started = ForkServer(__file__)
    yield started
    started.close()


@pytest.fixture
def folder(picture_folder) -> Path:
    return picture_folder(COUNTS)


def extracting(folder: Path, path: Path) -> list[str]:
    return ["extract", str(folder), "-o", str(path), "--batch-size", "2"]


def parts_of(path: Path) -> list[str]:
    return sorted(file.name for file in Path(f"{path}.parts").glob("part-*.h5"))


def bits(path: Path) -> dict[str, bytes]:
    """Every number of a store."""
    found = {}
    with MapStore(path) as store:
        store.verify()
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: repr(item[()].tolist()).encode()})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return found


@pytest.fixture(scope="module")
def undisturbed_store(server, tmp_path_factory) -> Path:
    """The store of pictures like those of `folder`."""
    base = tmp_path_factory.mktemp("undisturbed")
    assert server.run("cli", arguments=extracting(draw_pictures(base, COUNTS), base / "m.h5")) == 0
    return base / "m.h5"


@pytest.fixture(scope="module")
def undisturbed(undisturbed_store) -> dict[str, bytes]:
    return bits(undisturbed_store)


def ended(server: ForkServer, log: Path, command: list[str], **faults: Any) -> tuple[int, str]:
    """Exit status of a command, and what it printed."""
    return server.run("cli", log, arguments=command, **faults), told(log)


def told(log: Path) -> str:
    """What was printed; never a traceback."""
    text = log.read_text("utf-8", "replace")
    assert "Traceback" not in text, text
    return text


# ------------------------------------------------------------------------------- the disk


@needs_mount
@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_full_disk_at_any_size(server, folder, tmp_path, undisturbed, undisturbed_store, few):
    """From too small for the first part to nearly enough: the parts, the join, the end."""
    whole = undisturbed_store.stat().st_size
    room = tmp_path / "room"
    room.mkdir()
    command = extracting(folder, room / "maps.h5")
    nearly = tmp_path / "nearly.h5"
    assert server.run("cli", arguments=extracting(folder, nearly), memory_error_at=19) == 1
    sizes = [Path(f"{nearly}.parts", name).stat().st_size for name in parts_of(nearly)]
    beside = [Path(f"{nearly}.parts", name).stat().st_size for name in ("plan.json", "tables.h5")]
    parts = N_IMAGES // 4 * max(sizes) + sum(beside)
    full_with_all_parts = 0
    rooms = (0, 0.3 * parts, 0.8 * parts, parts + 0.5 * whole)
    for number, size in enumerate(rooms[1::2] if few else rooms):
        log, kept = tmp_path / f"log{number}", tmp_path / f"kept{number}"
        size = int(size + 8192) // 4096 * 4096
        task = {"mount": str(room), "size": size, "first": command, "then": command}
        assert server.run("in_small_room", log, log=str(kept), **task) == 0, log.read_text()
        text = told(log)
        code, again = re.search(r"codes (\S+) (\S+)", text).groups()
        assert again == "0", text
        assert bits(kept / "maps.h5") == undisturbed
        assert [path.name for path in kept.iterdir()] == ["maps.h5"]
        if code == "0":
            continue
        assert code == "1"
        assert re.search("no space left on the disk|No space left on device", text), text
        left = re.search("(?m)^left (.*)", text)[1].split()
        assert "maps.h5" not in left and not [name for name in left if name.endswith(".tmp")]
        n_parts = len([name for name in left if "/part-" in name])
        assert not n_parts or KEPT in text
        full_with_all_parts += n_parts == N_IMAGES // 4
        assert (
            not n_parts
            or f"going on with {4 * n_parts} of {N_IMAGES}" in text
            or (n_parts == N_IMAGES // 4)
        )
    assert full_with_all_parts  # the join, too, met a full disk


@pytest.mark.parametrize("call", [pytest.param("fsync", marks=pytest.mark.slow), "replace"])
def test_every_flush_and_rename_may_fail(folder, tmp_path, monkeypatch, call):
    """The k-th one fails, for every k there is: always the message, never a half file."""
    monkeypatch.setattr("featlab.extract._passing._PART_ROWS", 16)
    images, _, _ = index_images(folder)
    whole, path = tmp_path / "whole.h5", tmp_path / "maps.h5"
    extract_maps(images, FakeBackbone(), whole, options=PassOptions(batch_size=8)).close()
    real = getattr(os, call)
    for k in itertools.count():
        calls = itertools.count()

        def fail(*arguments: Any, k: int = k, calls: Iterator[int] = calls) -> Any:
            if next(calls) == k:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments)

        monkeypatch.setattr(os, call, fail)
        try:
            extract_maps(images, FakeBackbone(), path, options=PassOptions(batch_size=8)).close()
        except FeatlabError as error:
            assert re.search(f"maps.h5 failed: no space left on the disk.*{KEPT}", str(error))
            # The last flush is that of the folder: the file has its name by then, and is whole.
            assert not path.exists() or bits(path) == bits(whole)
        except OSError as error:
            # The plan of the pass is the first thing written; nothing is there to be kept.
            assert call == "replace" and k == 0 and error.errno == errno.ENOSPC
        else:
            if next(calls) <= k:
                break
        monkeypatch.setattr(os, call, real)
        assert not list(tmp_path.glob("maps.h5.parts/part-*.tmp"))
        extract_maps(images, FakeBackbone(), path, options=PassOptions(batch_size=8)).close()
        assert bits(path) == bits(whole)
        path.unlink()
    assert k >= 3


@needs_mount
@pytest.mark.slow
def test_tables_of_a_report_on_a_full_disk(server, tmp_path):
    room, log = tmp_path / "room", tmp_path / "log"
    room.mkdir()
    assert server.run("tables_in_small_room", log, mount=str(room), size=32 << 10) == 0
    text = told(log)
    words = r"/room/([\w.]+) could not be written: no space left on the disk; make room or give"
    assert re.search(words, text), text
    name = re.search(words, text)[1]
    left = re.findall("(?m)^left (.*)", text)
    assert left and name not in left and not [one for one in left if one.startswith(".")]


@needs_mount
@pytest.mark.slow
def test_a_read_only_folder(server, folder, tmp_path):
    room, log = tmp_path / "room", tmp_path / "log"
    room.mkdir()
    command = extracting(folder, room / "maps.h5")
    assert server.run("read_only", log, mount=str(room), first=[], then=command) == 0
    text = told(log)
    assert "maps.h5.parts could not be made: Read-only file system" in text
    assert "codes 0 1" in text
    # A finished store is read there as anywhere.
    log = tmp_path / "again"
    assert server.run("read_only", log, mount=str(room), first=command, then=command) == 0
    text = told(log)
    assert "codes 0 0" in text and "finished already: no forward pass" in text


@needs_mount
@pytest.mark.slow
def test_a_report_into_a_read_only_folder(server, folder, tmp_path):
    room, log = tmp_path / "room", tmp_path / "report"
    room.mkdir()
    command = extracting(folder, room / "maps.h5")
    report = ["report", str(room / "maps.h5"), "-o", str(room / "out")]
    assert server.run("read_only", log, mount=str(room), first=command, then=report) == 0
    text = told(log)
    assert "codes 0 1" in text
    assert re.search(r"featlab: .*room/out.* is read-only", text), text


# --------------------------------------------------------------------------- the pictures


@pytest.mark.slow
def test_a_picture_that_may_not_be_read(server, folder, tmp_path):
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        copy = Path(shutil.copytree(folder, Path(place) / "pictures"))
        copy.chmod(0o755)
        secret = copy / "cat" / "003.png"
        os.chmod(secret, 0)
        out = Path(place) / "out"
        out.mkdir()
        os.chmod(out, 0o777)
        user = {} if os.geteuid() else {"user": 65534}
        command = extracting(copy, out / "maps.h5")
        code, text = ended(server, tmp_path / "log", command, **user)
        assert code == 1
        assert "cat/003.png: it cannot be read: Permission denied" in text
        assert "--on-error skip" in text
        assert not list(out.iterdir())
        # Closed between index and pass.
        os.chmod(secret, 0o644)
        if user:
            os.chown(secret, 65534, 65534)
        forbid = [str(secret)]
        code, text = ended(server, tmp_path / "later", command, forbid=forbid, **user)
        assert code == 1
        assert "cat/003.png could not be read: Permission denied" in text


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("vanish", r"dog/011.png could not be read: No such file or directory"),
        ("change", r"dog/011.png has changed since the folder was indexed; index it again"),
    ],
)
@pytest.mark.slow
def test_a_picture_that_vanishes_or_changes_before_it_is_read(
    server, folder, tmp_path, undisturbed, fault, words
):
    path, picture = tmp_path / "maps.h5", folder / "dog" / "011.png"
    whole = picture.read_bytes()
    command = extracting(folder, path)
    faults = {fault: [str(picture)]}
    code, text = ended(server, tmp_path / "log", command, **faults)
    assert code == 1
    assert re.search(words, text)
    assert not path.exists()
    assert parts_of(path), "the parts before it are kept"
    picture.write_bytes(whole)
    code, text = ended(server, tmp_path / "again", command)
    assert code == 0
    assert "going on with" in text
    assert bits(path) == undisturbed


# -------------------------------------------------------------------------------- the clock


@pytest.mark.slow
def test_clocks_that_jump(server, folder, tmp_path, undisturbed):
    path = tmp_path / "maps.h5"
    command = extracting(folder, path)
    assert server.run("cli", arguments=command, memory_error_at=12) == 1
    old, new = parts_of(path)[:2]
    os.utime(Path(f"{path}.parts", old), (0, 0))
    os.utime(Path(f"{path}.parts", new), (4e9, 4e9))
    for picture in folder.rglob("*.png"):
        os.utime(picture, (4e9, 4e9))
    log = tmp_path / "log"
    assert server.run("cli", log, arguments=command, clock_runs_backwards=True) == 0
    assert "going on with" in told(log)
    assert bits(path) == undisturbed
    with h5py.File(path, "r+") as file:
        file.attrs["created_utc"] = "1901-01-01T00:00:00+00:00"
    os.utime(path, (0, 0))
    code, text = ended(server, tmp_path / "log2", command)
    assert code == 0
    assert "finished already: no forward pass" in text


# ---------------------------------------------------------------- several processes, signals


def wait_for(condition: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_second_process_is_refused_and_the_first_goes_on(
    server, folder, tmp_path, undisturbed, monkeypatch, capsys
):
    from featlab import cli

    monkeypatch.setattr(cli._pass, "load_network", lambda *a, **k: FakeBackbone())
    path = tmp_path / "maps.h5"
    command = extracting(folder, path)
    monkeypatch.setattr(sys, "argv", ["featlab", *command])
    hold = tmp_path / "hold"
    hold.touch()
    server.start("cli", arguments=command, held_by=str(hold))
    try:
        wait_for(lambda: parts_of(path))
        with pytest.raises(SystemExit) as end:
            cli.main()
    finally:
        hold.unlink()
    text = capsys.readouterr().err
    assert server.wait() == 0
    assert end.value.code == 1 and "Traceback" not in text
    assert re.search(r"another process is writing maps.h5 in .*; wait for it, or give", text)
    assert bits(path) == undisturbed
    lock = filelock.FileLock(tmp_path / "free")
    lock.acquire(timeout=0)
    lock.release()


@pytest.mark.parametrize(
    ("name", "status"),
    [("SIGINT", 130), ("SIGTERM", 143)],
)
@pytest.mark.slow
def test_a_signal_keeps_the_finished_parts(server, folder, tmp_path, undisturbed, name, status):
    path, log = tmp_path / "maps.h5", tmp_path / "log"
    command = extracting(folder, path)
    child = server.start("cli", log, arguments=command, seconds=0.1)
    wait_for(lambda: len(parts_of(path)) >= 2)
    os.kill(child, getattr(signal, name))
    code = server.wait()
    text = told(log)
    kept = parts_of(path)
    assert not path.exists() and len(kept) >= 2
    assert not list(tmp_path.glob("maps.h5.parts/part-*.tmp"))
    assert GO_ON in text
    again, text = ended(server, tmp_path / "again", command)
    assert again == 0
    assert f"going on with {4 * len(kept)} of {N_IMAGES} images done" in text
    assert bits(path) == undisturbed
    assert code == status


def test_two_processes_that_renew_the_tables(folder, tmp_path):
    """One renews while the other's half-written file is there: refused with a message, or done."""
    path = tmp_path / "maps.h5"
    images, _, _ = index_images(folder)
    extract_maps(images, FakeBackbone(), path).close()
    with h5py.File(tmp_path / "maps.h5.joining", "w"):
        try:
            extract_maps(images.assign(label="x"), FakeBackbone(), path).close()
        except FeatlabError as error:
            assert "maps.h5 failed" in str(error)
    with MapStore(path) as store:
        store.verify()
    with extract_maps(images.assign(label="x"), FakeBackbone(), path) as store:
        assert store.classes == ["x"]


# ------------------------------------------------------------------------------ the memory


@pytest.mark.slow
def test_no_memory_for_the_network(server, folder, tmp_path):
    path = tmp_path / "maps.h5"
    log = tmp_path / "log"
    assert server.run("cli", log, arguments=extracting(folder, path), memory_error_at=12) == 1
    assert parts_of(path)
    assert "not enough memory" in told(log)


@pytest.mark.slow
def test_the_pass_goes_on_when_there_is_memory_again(server, folder, tmp_path, undisturbed):
    path = tmp_path / "maps.h5"
    command = extracting(folder, path)
    assert server.run("cli", arguments=command, memory_error_at=12) == 1
    assert parts_of(path) and not path.exists()
    assert not list(tmp_path.glob("maps.h5.parts/part-*.tmp"))
    code, text = ended(server, tmp_path / "log", command)
    assert code == 0
    assert "going on with" in text
    assert bits(path) == undisturbed


def test_no_memory_for_a_picture(folder, tmp_path, monkeypatch):
    from PIL import PngImagePlugin

    def load(image: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    words = r"cat/000.png: there is not enough memory to decode its \d+ x \d+ pixels"
    with pytest.raises(FeatlabError, match=words):
        index_images(folder)


if __name__ == "__main__":
    import featlab.cli
    import featlab.pipeline
    import featlab.report  # noqa: F401 - warm

    with tempfile.TemporaryDirectory() as warm:
        from PIL import Image
        from tqdm import tqdm

        # Its thread could hold a lock while the process forks; the child would wait for ever.
        tqdm.monitor_interval = 0
        for grey, label in enumerate("ab"):
            Path(warm, label).mkdir()
            Image.new("RGB", (60, 60), (90 * grey,) * 3).save(Path(warm, label, "1.png"))
        # Here, not in a child: what it imports is there for all of them.
        tqdm(extract_maps(index_images(warm)[0], FakeBackbone(), Path(warm, "m.h5")), disable=True)
    serve(
        {
            "cli": work_cli,
            "in_small_room": work_in_small_room,
            "read_only": work_read_only,
            "tables_in_small_room": work_tables_in_small_room,
        }
    )
