"""Public sets: fetched from a server that misbehaves, unpacked from archives that do, and used."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone
from PIL import Image

from featlab import FeatlabError, boxes, cli, datasets, extract, images, localise, splits
from featlab.datasets import _fetch, _sets
from featlab.datasets._fetch import Archive, extract_archive, fetch_file
from featlab.store import MapStore

CORNERS = ["xmin", "ymin", "xmax", "ymax"]
BREEDS = {"Abyssinian": "1", "Bengal": "1", "beagle": "2"}
N_TRAIN, N_TEST = 8, 5

# ------------------------------------------------------------------------------------ archives


def tar_gz(members: dict[str, bytes | None] | list[tarfile.TarInfo]) -> bytes:
    """An archive of files (bytes) and folders (None), or of bare headers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        if isinstance(members, list):
            for info in members:
                tar.addfile(info, io.BytesIO(bytes(info.size)))
        else:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content or b"")
                info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
                tar.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


def encoded(array: np.ndarray, suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, suffix)
    return buffer.getvalue()


def head_xml(name: str, width: int, height: int, box: list[int]) -> bytes:
    corners = "".join(f"<{c}>{v}</{c}>" for c, v in zip(CORNERS, box, strict=True))
    return (
        f"<annotation><folder>OXIIIT</folder><filename>{name}.jpg</filename>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        f"<object><name>cat</name><pose>Frontal</pose><bndbox>{corners}</bndbox></object>"
        "</annotation>"
    ).encode()


def pet_archives() -> tuple[dict[str, bytes], dict[str, list[int]], dict[str, np.ndarray]]:
    """images.tar.gz and annotations.tar.gz as the official ones are laid out; boxes and trimaps."""
    rng = np.random.default_rng(0)
    pictures: dict[str, bytes | None] = {"images": None}
    notes: dict[str, bytes | None] = {"annotations/README": b"About"}
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    bodies, trimaps = {}, {}
    for code, (breed, species) in enumerate(BREEDS.items(), start=1):
        for i in range(1, N_TRAIN + N_TEST + 1):
            name = f"{breed}_{i}"
            height, width = (int(side) for side in rng.integers(60, 90, 2))
            pixels = rng.integers(0, 256, (height, width, 3)) // code
            pictures[f"images/{name}.jpg"] = encoded(pixels.astype(np.uint8), "JPEG")
            trimap = np.full((height, width), 2, np.uint8)
            top, left = (int(side) for side in rng.integers(5, 20, 2))
            trimap[top : top + 30, left : left + 35] = 3
            trimap[top + 2 : top + 28, left + 2 : left + 33] = 1
            notes[f"annotations/trimaps/{name}.png"] = encoded(trimap, "PNG")
            notes[f"annotations/trimaps/._{name}.png"] = b"\0\5\26\7 of macOS"
            bodies[name], trimaps[name] = [left, top, left + 35, top + 30], trimap
            part = "trainval" if i <= N_TRAIN else "test"
            lists[part].append(f"{name} {code} {species} {code}")
            if part == "trainval" and i > 1:  # A few of the official ones lack their XML.
                head = [left + 1, top + 1, left + 12, top + 11]
                notes[f"annotations/xmls/{name}.xml"] = head_xml(name, width, height, head)
    pictures["images/Abyssinian_100.mat"] = b"not a picture"
    pictures["images/unlisted_1.jpg"] = pictures["images/beagle_1.jpg"]
    header = ["#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids"]
    everything = [*header, *lists["trainval"], *lists["test"]]
    for part, lines in (*lists.items(), ("list", everything)):
        notes[f"annotations/{part}.txt"] = ("\n".join(lines) + "\n").encode()
    files = {"/pets/images.tar.gz": tar_gz(pictures), "/pets/annotations.tar.gz": tar_gz(notes)}
    return files, bodies, trimaps


def described(name: str, data: bytes, folder: str) -> Archive:
    return Archive(name, hashlib.md5(data).hexdigest(), len(data), folder)


# -------------------------------------------------------------------------------------- server

Answer = Callable[["Handler", bytes], None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        data = self.server.files.get(self.path)
        answer = self.server.answers.pop(0) if self.server.answers else serve
        if data is None and answer is serve:
            answer = status(404)
        answer(self, data or b"")

    def log_message(self, *arguments: object) -> None:
        pass

    def reply(self, code: int, body: bytes, **headers: str) -> None:
        headers = {"Content_Length": str(len(body)), **headers}
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def start(self) -> int:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(asked[1]) if asked else 0


class Server(ThreadingHTTPServer):
    """Answers with the next of `answers`, then as a server should; remembers what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *arguments: object) -> None:
        pass


def serve(handler: Handler, data: bytes, *, send: int | None = None, piece: int = 0) -> None:
    """As a server should; or only the first `send` bytes, or labelled as another piece."""
    start = handler.start()
    if start and start >= len(data):
        handler.reply(416, b"", Content_Range=f"bytes */{len(data)}")
        return
    rest = data[start:]
    headers = {"Content_Length": str(len(rest))}
    if start:
        headers["Content_Range"] = f"bytes {start + piece}-{len(data) - 1}/{len(data)}"
    handler.reply(206 if start else 200, rest[:send], **headers)


def cut(n: int) -> Answer:
    return partial(serve, send=n)


def whole(handler: Handler, data: bytes, *, send: int | None = None) -> None:
    """Ranges are not known here."""
    handler.reply(200, data[:send], Content_Length=str(len(data)))


def status(code: int, **headers: str) -> Answer:
    return lambda handler, data: handler.reply(code, b"an error page", **headers)


def leads_to(url: str) -> Answer:
    return lambda handler, data: handler.reply(302, b"", Location=url)


def announces(length: int | None, content: bytes | None = None) -> Answer:
    def answer(handler: Handler, data: bytes) -> None:
        body = data if content is None else content
        handler.send_response(200)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def stalls(n: int) -> Answer:
    def answer(handler: Handler, data: bytes) -> None:
        cut(n)(handler, data)
        handler.wfile.flush()
        time.sleep(1.0)

    return answer


def speaks_nonsense(handler: Handler, data: bytes) -> None:
    handler.wfile.write(b"what?\r\n\r\n")


def hangs_up(handler: Handler, data: bytes) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture(autouse=True)
def _without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(_fetch, "_WAITS", (0.0, 0.0, 0.0))
    with Server() as found:
        threading.Thread(target=partial(found.serve_forever, 0.02), daemon=True).start()
        yield found
        found.shutdown()


CONTENT = np.random.default_rng(1).bytes(3_300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def fetch(server: Server, tmp_path: Path) -> Callable[..., Path]:
    server.files["/file.bin"] = CONTENT
    (tmp_path / "cache").mkdir()
    return partial(
        fetch_file, f"{server.url}/file.bin", tmp_path / "cache" / "file.bin", MD5, len(CONTENT)
    )


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# ------------------------------------------------------------------------------------ download


def test_a_file_comes_whole_and_is_asked_for_once(server, fetch):
    shown = []

    def progress(blocks):
        for block in blocks:
            yield block
            shown.append(block)

    path = fetch(progress)
    assert path.read_bytes() == CONTENT
    assert names_in(path.parent) == ["file.bin"]
    assert [b.start for b in shown[1:]] == [b.stop for b in shown[:-1]]
    assert (shown[0].start, shown[-1].stop) == (0, len(CONTENT))
    assert fetch() == path
    assert server.requests == [("/file.bin", None)]


def test_a_download_goes_on_where_it_broke_off(server, fetch):
    server.answers = [cut(1_200_000), cut(10), stalls(50_000), hangs_up]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fetch, "_TIMEOUT", 0.3)
        assert fetch().read_bytes() == CONTENT
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, *(f"bytes={n}-" for n in (1_200_000, 1_200_010, 1_250_010, 1_250_010))]


def test_a_later_call_goes_on_too_and_shows_it(server, fetch, tmp_path):
    server.answers = [cut(1_000_000), *[status(503)] * 4]
    with pytest.raises(FeatlabError, match=r"answered 503 .*goes on after 1\.0 MB.* put it at .*"):
        fetch()
    assert names_in(tmp_path / "cache") == ["file.bin.part"]
    shown = []
    assert fetch(lambda blocks: shown.extend(blocks) or blocks).read_bytes() == CONTENT
    assert shown[0].start == 1_000_000 and shown[-1].stop == len(CONTENT)
    assert server.requests[-1] == ("/file.bin", "bytes=1000000-")


def test_a_part_that_is_whole_already_needs_no_request(server, fetch, tmp_path):
    (tmp_path / "cache" / "file.bin.part").write_bytes(CONTENT)
    assert fetch().read_bytes() == CONTENT
    assert server.requests == []


def test_a_server_without_ranges_starts_over(server, fetch):
    server.answers = [partial(whole, send=2_000_000), whole]
    assert fetch().read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_server_without_ranges_that_always_breaks_off_is_given_up(server, fetch):
    server.answers = [partial(whole, send=2_000_000)] * 50
    with pytest.raises(FeatlabError, match=r"broke off after 2\.0 MB of 3\.3 MB"):
        fetch()
    assert len(server.requests) == 1 + 4
    server.answers = [partial(whole, send=n) for n in (900_000, 800_000) * 25]
    with pytest.raises(FeatlabError, match="broke off after"):
        fetch()
    assert len(server.requests) == 5 + 4  # What came once is no news when it comes again.


@pytest.mark.parametrize("left", [b"older file" * 1000, CONTENT + b"more"])
def test_pieces_of_two_files_are_never_joined(server, fetch, tmp_path, left, caplog):
    # The first piece was taken before the file changed; only the checksum can tell.
    (tmp_path / "cache" / "file.bin.part").write_bytes(left)
    assert fetch().read_bytes() == CONTENT
    asked = [asked for _, asked in server.requests]
    if left.startswith(b"older"):
        assert "do not fit together" in caplog.text
        assert asked == ["bytes=10000-", None]
    else:
        assert asked == []


def test_a_file_that_became_shorter_is_taken_anew(server, fetch, tmp_path):
    (tmp_path / "cache" / "file.bin.part").write_bytes(b"x" * 900)
    server.answers = [lambda handler, data: serve(handler, data[:500])]
    assert fetch().read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == ["bytes=900-", None]


def test_another_piece_than_asked_for_is_not_used(server, fetch):
    server.answers = [cut(1000), partial(serve, piece=7)]
    assert fetch().read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=1000-", None]


def test_garbage_of_the_right_size_is_refused_and_not_kept(server, fetch, tmp_path):
    server.files["/file.bin"] = garbage = bytes(len(CONTENT))
    with pytest.raises(FeatlabError) as caught:
        fetch()
    message = str(caught.value)
    assert f"{server.url}/file.bin" in message  # what was asked for
    assert hashlib.md5(garbage).hexdigest() in message and MD5 in message  # what came
    assert str(tmp_path / "cache" / "file.bin") in message  # where to put it by hand
    assert "\n" not in message
    assert names_in(tmp_path / "cache") == []
    assert len(server.requests) == 1


def test_garbage_in_pieces_is_taken_twice_at_most(server, fetch, tmp_path):
    server.files["/file.bin"] = bytes(len(CONTENT))
    server.answers = [cut(1_000_000), serve] * 50
    with pytest.raises(FeatlabError, match=r"3\.3 MB came with the MD5 sum"):
        fetch()
    assert [asked for _, asked in server.requests] == [None, "bytes=1000000-"] * 2
    assert names_in(tmp_path / "cache") == []


def test_a_log_in_page_is_told_for_what_it_is(server, fetch, tmp_path):
    page = b"<html>Please log in</html>"
    server.answers = [announces(len(page), page)]
    with pytest.raises(FeatlabError, match=r"file has 26 bytes \(text/html\), .* have 3\.3 MB"):
        fetch()
    assert names_in(tmp_path / "cache") == []


@pytest.mark.parametrize("length", [len(CONTENT) + 5000, 10**15, None])
def test_the_checksum_decides_whatever_length_is_announced(server, fetch, length):
    server.answers = [announces(length)]
    assert fetch().read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_length_that_is_too_small_is_an_error(server, fetch, tmp_path):
    server.answers = [announces(1000)] * 9
    with pytest.raises(FeatlabError, match="file has 1,000 bytes"):
        fetch()
    assert names_in(tmp_path / "cache") == []


def test_more_bytes_than_the_file_has_are_not_taken(server, fetch):
    server.files["/file.bin"] = CONTENT + b"and more" * 100_000
    assert fetch().read_bytes() == CONTENT


@pytest.mark.parametrize(("code", "n_requests"), [(404, 1), (403, 1), (500, 4), (503, 4)])
def test_status_codes(server, fetch, code, n_requests):
    server.answers = [status(code, Retry_After="0")] * 9
    with pytest.raises(FeatlabError, match=f"the server answered {code} "):
        fetch()
    assert len(server.requests) == n_requests


def test_a_busy_server_is_given_the_time_it_asks_for(server, fetch, monkeypatch):
    slept = []
    monkeypatch.setattr(_fetch.time, "sleep", slept.append)
    server.answers = [status(503, Retry_After="7"), status(429, Retry_After="86400"), status(500)]
    assert fetch().read_bytes() == CONTENT
    assert slept == [7.0, 60.0, 0.0]


@pytest.mark.parametrize("answer", [speaks_nonsense, hangs_up])
def test_answers_that_are_none(server, fetch, answer):
    server.answers = [answer]
    assert fetch().read_bytes() == CONTENT
    server.answers = [answer] * 9
    (fetch.args[1]).unlink()
    with pytest.raises(FeatlabError, match="there was no proper answer"):
        fetch()


def test_a_server_that_says_nothing_is_given_up(server, fetch, monkeypatch):
    monkeypatch.setattr(_fetch, "_TIMEOUT", 0.1)
    server.answers = [lambda handler, data: time.sleep(0.5)] * 9
    with pytest.raises(FeatlabError, match="timed out"):
        fetch()


def test_redirects_are_followed_with_the_range(server, fetch):
    server.files["/elsewhere"] = CONTENT
    server.answers = [cut(1000), leads_to(f"{server.url}/elsewhere")]
    assert fetch().read_bytes() == CONTENT
    assert server.requests[1:] == [("/file.bin", "bytes=1000-"), ("/elsewhere", "bytes=1000-")]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_elsewhere_are_refused(server, fetch, target):
    server.answers = [leads_to(target)]
    with pytest.raises(FeatlabError, match="could not be downloaded"):
        fetch()
    assert len(server.requests) == 1


def test_redirects_never_lead_from_https_to_http():
    handler = _fetch._SafeRedirects()
    request = _fetch.urllib.request.Request("https://example.org/a")
    with pytest.raises(_fetch._Trouble, match="refused"):
        handler.redirect_request(request, None, 302, "", {}, "http://example.org/b")
    assert handler.redirect_request(request, None, 302, "", {}, "https://example.org/b")


def test_a_loop_of_redirects_ends(server, fetch):
    server.answers = [leads_to(f"{server.url}/file.bin")] * 30
    with pytest.raises(FeatlabError, match="the server answered 302"):
        fetch()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/x", "example.org/x", ""])
def test_only_http_is_asked(tmp_path, url):
    with pytest.raises(FeatlabError, match="base_url must begin with http"):
        fetch_file(url, tmp_path / "file", MD5, 10)


def test_without_a_network_there_is_no_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(_fetch.time, "sleep", lambda s: pytest.fail("it waits"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/file.bin"
        with pytest.raises(FeatlabError, match=r"there is no connection .*refused"):
            fetch_file(url, tmp_path / "file.bin", MD5, len(CONTENT))
    with pytest.raises(FeatlabError, match="there is no connection"):
        fetch_file("http://nowhere.invalid/f", tmp_path / "file.bin", MD5, len(CONTENT))


def test_a_file_put_there_by_hand_is_checked_and_never_deleted(server, fetch, tmp_path):
    own = tmp_path / "cache" / "file.bin"
    own.write_bytes(b"mine")
    with pytest.raises(FeatlabError, match=r"has the MD5 sum .*; delete it, or put the right file"):
        fetch()
    assert own.read_bytes() == b"mine"
    own.write_bytes(CONTENT)
    assert fetch() == own
    assert server.requests == []


def test_an_interrupted_call_keeps_what_came(server, fetch, tmp_path):
    def stop_at_the_third(blocks):
        for i, block in enumerate(blocks):
            if i == 2:
                raise KeyboardInterrupt
            yield block

    with pytest.raises(KeyboardInterrupt):
        fetch(stop_at_the_third)
    assert (tmp_path / "cache" / "file.bin.part").read_bytes() == CONTENT[: 2 << 20]
    assert fetch().read_bytes() == CONTENT
    assert server.requests[-1] == ("/file.bin", f"bytes={2 << 20}-")


# -------------------------------------------------------------------------------------- unpack


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., Path]:
    def run(data: bytes, **limits: int) -> Path:
        root = tmp_path / "deep" / "root"
        root.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a.tar.gz").write_bytes(data)
        return extract_archive(tmp_path / "a.tar.gz", root, "set", **limits)

    return run


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_an_honest_archive_is_unpacked(unpack, tmp_path):
    members = {"./set": None, "set/a/b.txt": b"b", "other/c": b"c", "set/._a": b"m", "set/e": b""}
    assert unpack(tar_gz(members)).joinpath("a/b.txt").read_bytes() == b"b"
    assert everything_in(tmp_path / "deep" / "root") == ["set", "set/a", "set/a/b.txt", "set/e"]


def hostile(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> list[tarfile.TarInfo]:
    good, bad = tarfile.TarInfo("set/good.txt"), tarfile.TarInfo(name)
    bad.type, bad.linkname = kind, link
    return [good, bad]


@pytest.mark.parametrize(
    "members",
    [
        hostile("../evil"),
        hostile("set/../../evil"),
        hostile("set/.."),
        hostile("/evil"),
        hostile("//evil"),
        hostile("set\\..\\..\\evil"),
        hostile("C:/evil"),
        hostile("set/a:stream"),
        hostile("set/bell\a"),
        hostile("set/line\nbreak"),
        hostile("set/dot."),
        hostile("set/blank "),
        hostile("set/" + "x" * 300),
        hostile("set/link", tarfile.SYMTYPE, "/etc/passwd"),
        hostile("set/link", tarfile.SYMTYPE, "good.txt"),
        hostile("set/link", tarfile.LNKTYPE, "set/good.txt"),
        hostile("set/pipe", tarfile.FIFOTYPE),
        hostile("set/device", tarfile.CHRTYPE),
        hostile("set/disk", tarfile.BLKTYPE),
        hostile("set/good.txt"),
        hostile("./set//good.txt"),
        hostile("SET/Good.TXT"),
        hostile("set/good.txt/below"),
        hostile("set/good.txt", tarfile.DIRTYPE),
        [*hostile("set/folder/a"), tarfile.TarInfo("set/folder")],
        [*hostile("set/\u00e9"), tarfile.TarInfo("set/e\u0301")],
        [tarfile.TarInfo("another/file")],
        [],
    ],
    ids=lambda members: repr(members[-1].name[:30]) if members else "empty",
)
def test_a_bad_archive_leaves_nothing_behind(unpack, tmp_path, members):
    with pytest.raises(FeatlabError, match=r"a\.tar\.gz cannot be unpacked: .*delete it and run"):
        unpack(tar_gz(members))
    assert everything_in(tmp_path) == ["a.tar.gz", "deep", "deep/root"]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"most_members": 3}, "more than 3 members"),
        ({"most_member_bytes": 99}, r"'set/2' has more than 99 bytes"),
        ({"most_bytes": 249}, "more than 249 bytes"),
    ],
)
def test_limits(unpack, tmp_path, limits, reason):
    data = tar_gz({"set/0": b"", "set/1": b"1" * 50, "set/2": b"2" * 100, "other": b"3" * 100})
    with pytest.raises(FeatlabError, match=reason):
        unpack(data, **limits)
    assert everything_in(tmp_path / "deep") == ["root"]
    assert unpack(data, most_members=4, most_member_bytes=100, most_bytes=250).is_dir()


def test_a_bomb_is_refused_by_what_it_says_it_holds(unpack, tmp_path):
    bomb = tarfile.TarInfo("set/zeros")
    bomb.size = 300 << 20
    header = bomb.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(FeatlabError, match=r"'set/zeros' has more than 268\.4 MB"):
        unpack(gzip.compress(header + bytes(4096)))
    assert everything_in(tmp_path / "deep") == ["root"]


def test_damaged_archives_never_pass_and_leave_nothing_behind(unpack, tmp_path):
    rng = np.random.default_rng(0)
    members = {f"set/{i}/file_{i}.txt": rng.bytes(700) for i in range(12)}
    plain = gzip.decompress(tar_gz(members))
    n_refused = 0
    for trial in range(150):
        damaged = bytearray(plain)
        at = 512 * int(rng.integers(0, 12 * 3)) + int(rng.integers(0, 512))
        damaged[at : at + 4] = rng.bytes(4)
        data = gzip.compress(bytes(damaged), 1)
        if trial % 3 == 1:
            data = gzip.compress(plain, 1)[: int(rng.integers(0, 9000))]
        if trial % 3 == 2:
            data = rng.bytes(400)
        try:
            found = unpack(data)
        except FeatlabError as error:
            n_refused += 1
            assert "a.tar.gz" in str(error)
            assert everything_in(tmp_path / "deep") == ["root"]
            continue
        # A changed byte of content is the checksum's business; every member must be there.
        assert len([path for path in found.rglob("*") if path.is_file()]) == 12
        for path in sorted(found.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        found.rmdir()
    assert 100 < n_refused < 150


def test_damaged_compression_is_told_in_words(unpack, tmp_path):
    whole = tar_gz({f"set/{i}.txt": b"the same words again and again " * 200 for i in range(5)})
    reasons = set()
    for at in range(12, len(whole) - 8, 3):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        try:
            unpack(bytes(damaged)).rename(tmp_path / f"passed_{at}")
        except FeatlabError as error:
            reasons.add(re.search(r"is damaged \((\w+)|cannot be unpacked", str(error))[1])
            assert everything_in(tmp_path / "deep") == ["root"]
    assert {"error", "ReadError"} <= reasons  # zlib's and tarfile's


def test_what_an_unpacking_left_when_it_was_killed_is_cleared(unpack, tmp_path):
    left = tmp_path / "deep" / "root" / ".set.unpacking" / "set" / "old.txt"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    found = unpack(tar_gz({"set/new.txt": b"new"}))
    assert names_in(found) == ["new.txt"]
    assert names_in(found.parent) == ["set"]


# ------------------------------------------------------------------------------ Oxford-IIIT Pet


@pytest.fixture
def pets(server: Server, monkeypatch: pytest.MonkeyPatch) -> tuple[dict, dict]:
    server.files, bodies, trimaps = pet_archives()
    archives = tuple(
        described(name, server.files[f"/pets/{name}"], folder)
        for name, folder in (("images.tar.gz", "images"), ("annotations.tar.gz", "annotations"))
    )
    monkeypatch.setattr(_sets, "_PET_ARCHIVES", archives)
    return bodies, trimaps


def fetch_pets(server: Server, cache: Path, **options: object) -> Path:
    return datasets.fetch_oxford_pets(cache, base_url=f"{server.url}/pets/", **options)


def test_pets_are_indexed_with_official_splits_and_both_kinds_of_boxes(server, pets, tmp_path):
    bodies, _ = pets
    index = fetch_pets(server, tmp_path)
    table, found, skipped = images.index_images(index)
    assert skipped.empty
    assert set(table["label"]) == set(BREEDS)
    assert table["path"].str.match(r"images/[A-Za-z]+_\d+\.jpg").all()
    number = table["path"].str.extract(r"_(\d+)")[0].astype(int)
    assert (table["split"] == np.where(number <= N_TRAIN, "train", "test")).all()
    assert len(table) == len(BREEDS) * (N_TRAIN + N_TEST)

    names = [Path(path).stem for path in table["path"]]
    body = found[found["kind"] == "body"].set_index("image")[CORNERS]
    assert {
        names[i]: list(row) for i, row in zip(body.index, body.to_numpy(), strict=True)
    } == bodies
    heads = found[found["kind"] == "head"]
    has_xml = (number > 1) & (number <= N_TRAIN)
    assert heads["image"].tolist() == np.flatnonzero(has_xml).tolist()
    expected = [[bodies[names[i]][0] + 1, bodies[names[i]][1] + 1] for i in heads["image"]]
    assert heads[["xmin", "ymin"]].to_numpy().tolist() == expected
    assert (found["label"] == table["label"].to_numpy()[found["image"]]).all()
    split = splits.make_split(table)
    assert (split[table["split"] == "test"] == "test").all()
    assert set(split) == {"train", "confirm", "test"}


def test_species_are_another_table_of_the_same_folder(server, pets, tmp_path):
    breed, species = fetch_pets(server, tmp_path), fetch_pets(server, tmp_path, label="species")
    assert len(server.requests) == 2
    one, two = pd.read_csv(breed), pd.read_csv(species)
    pd.testing.assert_frame_equal(one.drop(columns="label"), two.drop(columns="label"))
    assert dict(zip(one["label"], two["label"], strict=True)) == {
        "Abyssinian": "cat", "Bengal": "cat", "beagle": "dog",
    }  # fmt: skip
    with pytest.raises(FeatlabError, match="label must be one of breed, species, got 'colour'"):
        fetch_pets(server, tmp_path, label="colour")


def test_a_second_call_asks_for_nothing_and_changes_nothing(server, pets, tmp_path):
    index = fetch_pets(server, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in index.parent.rglob("*") if path.is_file()}
    assert index.parent == tmp_path / "oxford-pets"
    assert set(names_in(index.parent)) - {".lock"} == {
        "annotations", "annotations.tar.gz", "boxes.csv", "breed.csv", "images", "images.tar.gz",
        "species.csv",
    }  # fmt: skip
    server.requests.clear()
    assert fetch_pets(server, tmp_path) == index
    for archive in index.parent.glob("*.tar.gz"):
        archive.unlink()
        del before[archive]
    assert fetch_pets(server, tmp_path) == index
    after = {path: path.stat().st_mtime_ns for path in index.parent.rglob("*") if path.is_file()}
    assert after == before
    assert server.requests == []


def test_a_missing_folder_or_table_is_made_again_from_the_archives(server, pets, tmp_path):
    index = fetch_pets(server, tmp_path)
    content = (index.parent / "boxes.csv").read_bytes()
    server.requests.clear()
    (index.parent / "boxes.csv").unlink()
    (index.parent / "images").rename(tmp_path / "moved")
    fetch_pets(server, tmp_path)
    assert (index.parent / "boxes.csv").read_bytes() == content
    assert names_in(index.parent / "images") == names_in(tmp_path / "moved")
    assert server.requests == []


def test_archives_put_there_by_hand_need_no_server(server, pets, tmp_path):
    (tmp_path / "oxford-pets").mkdir()
    for path, data in server.files.items():
        (tmp_path / "oxford-pets" / Path(path).name).write_bytes(data)
    index = datasets.fetch_oxford_pets(tmp_path, base_url="http://nowhere.invalid")
    assert len(pd.read_csv(index)) == len(BREEDS) * (N_TRAIN + N_TEST)


def test_masks_of_pets_follow_the_rows_of_the_store(server, pets, tmp_path):
    _, trimaps = pets
    index = fetch_pets(server, tmp_path)
    (index.parent / "images" / "Bengal_3.jpg").write_bytes(b"broken")  # shifts all later rows
    (index.parent / "annotations" / "trimaps" / "Bengal_5.png").unlink()
    table, _, _ = images.index_images(index, on_error="skip")
    mask = datasets.pet_masks(index, table)
    for row, path in enumerate(table["path"]):
        name = Path(path).stem
        if name == "Bengal_5":
            assert mask(row) is None
            continue
        found = mask(row)
        assert found.dtype == np.uint8
        assert ((found == 1) == (trimaps[name] == 1)).all()
        assert ((found == 0) == (trimaps[name] == 2)).all()
        assert ((found == boxes.IGNORE) == (trimaps[name] == 3)).all()
    turned = table.assign(width=table["height"], height=table["width"])
    assert datasets.pet_masks(index.parent, turned)(0) is None
    with pytest.raises(FeatlabError, match="there is no folder .*trimaps"):
        datasets.pet_masks(tmp_path, table)


@pytest.mark.slow
def test_pets_go_through_the_network_and_are_localised_with_masks(server, pets, tmp_path):
    table, found, _ = images.index_images(fetch_pets(server, tmp_path))
    with extract.extract_maps(table, FakeBackbone(), tmp_path / "m.h5", boxes=found) as store:
        masks = datasets.pet_masks(tmp_path / "oxford-pets", store.images)
        where = localise.evaluate_localisation(
            store,
            splits.make_split(store.images),
            box_kind="body",
            options=localise.LocalisationOptions(masks=masks),
        ).table.set_index("method")
    assert (where["n"] == len(BREEDS) * N_TEST).all()
    assert where["pxap"].notna().all()
    assert where.loc["whole_image", "pxap"] < where.loc["centre_gaussian", "pxap"] < 1


def test_real_pets_give_back_their_boxes(server, shared_data, tmp_path, monkeypatch):
    truth = pd.read_csv(shared_data / "pets_cat_dog" / "boxes.csv")
    chosen = truth["image"].drop_duplicates()[::12]
    truth = truth[truth["image"].isin(chosen)]
    pictures, notes, lines = {}, {}, []
    for image in chosen:
        name = Path(image).stem
        pictures[f"images/{name}.jpg"] = (shared_data / "pets_cat_dog" / image).read_bytes()
        mask = (shared_data / "pets_cat_dog_masks" / image).with_suffix(".png")
        notes[f"annotations/trimaps/{name}.png"] = mask.read_bytes()
        lines.append(f"{name} 1 {1 if image.startswith('cat') else 2} 1")
    for row in truth[truth["kind"] == "head"].itertuples():
        name = Path(row.image).stem
        head = [row.xmin, row.ymin, row.xmax, row.ymax]
        notes[f"annotations/xmls/{name}.xml"] = head_xml(name, row.width, row.height, head)
    notes["annotations/trainval.txt"] = "\n".join(lines[::2]).encode()
    notes["annotations/test.txt"] = "\n".join(lines[1::2]).encode()
    files = {"images.tar.gz": tar_gz(pictures), "annotations.tar.gz": tar_gz(notes)}
    server.files = {f"/{name}": data for name, data in files.items()}
    archives = [described(name, data, name.split(".")[0]) for name, data in files.items()]
    monkeypatch.setattr(_sets, "_PET_ARCHIVES", archives)
    index = datasets.fetch_oxford_pets(tmp_path, label="species", base_url=server.url)
    table, found, _ = images.index_images(index)
    assert dict(table["label"].value_counts()) == dict(chosen.str.partition("/")[0].value_counts())
    found["stem"] = [Path(path).stem for path in table["path"].to_numpy()[found["image"]]]
    truth = truth.assign(stem=[Path(image).stem for image in truth["image"]])
    both = found.merge(truth, on=["stem", "kind"], suffixes=("", "_true"), validate="1:1")
    assert len(both) == len(truth) == len(found)
    gap = np.abs(both[CORNERS].to_numpy() - both[[f"{c}_true" for c in CORNERS]].to_numpy())
    # Those of the bodies were drawn at full size, these at a short side of 256 pixels.
    assert gap[both["kind"] == "head"].max() < 0.01
    assert gap[both["kind"] == "body"].max() <= 1.5
    assert 0 < both["kind"].eq("head").sum() < both["kind"].eq("body").sum()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations/test.txt": None}, r"test\.txt cannot be read"),
        ({"annotations/test.txt": b"a_1 1"}, r"test\.txt line 1 must have 4 values, got 'a_1 1'"),
        ({"annotations/test.txt": b"Abyssinian_1 1 1 1"}, "'Abyssinian_1' is listed twice"),
        ({"annotations/test.txt": b"beagle_99 3 2 1"}, r"lacks 1 of 25 pictures, .*beagle_99"),
        ({"annotations/test.txt": b"beagle 3 2 1"}, "'beagle' is listed twice, or has no breed"),
        ({"annotations/test.txt": b"beagle_9 3 9 1"}, "or has no breed or species"),
        ({"annotations/test.txt": b"\xff\xfe"}, r"test\.txt cannot be read"),
        ({"annotations/xmls/beagle_2.xml": b"<annotation>"}, r"beagle_2\.xml cannot be read"),
        ({"annotations/xmls/beagle_2.xml": head_xml("b", 9, 9, ["?"] * 4)}, "cannot be read"),
        ({"annotations/trimaps/beagle_2.png": b"no PNG"}, r"beagle_2\.png cannot be read"),
    ],
)
def test_an_archive_without_what_it_should_hold(
    server, pets, tmp_path, monkeypatch, change, message
):
    with tarfile.open(fileobj=io.BytesIO(server.files["/pets/annotations.tar.gz"])) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}
    changed = {k: v for k, v in {**members, **change}.items() if v is not None}
    server.files["/pets/annotations.tar.gz"] = data = tar_gz(changed)
    archives = (_sets._PET_ARCHIVES[0], described("annotations.tar.gz", data, "annotations"))
    monkeypatch.setattr(_sets, "_PET_ARCHIVES", archives)
    with pytest.raises(FeatlabError, match=message) as caught:
        fetch_pets(server, tmp_path)
    assert "run the same again" in str(caught.value)
    assert not (tmp_path / "oxford-pets" / "breed.csv").exists()


def test_heads_without_size_or_corners(tmp_path):
    file = tmp_path / "a.xml"
    file.write_text("<annotation><object><name>cat</name></object></annotation>")
    assert list(_sets._heads(file)) == []
    file.write_bytes(head_xml("a", 0, 0, [1, 2, 3, 4]))
    assert list(_sets._heads(file)) == [(("", ""), (1.0, 2.0, 3.0, 4.0))]


def test_breeds_can_be_kept_apart(server, pets, tmp_path):
    index = fetch_pets(server, tmp_path, label="species")
    table, _, _ = images.index_images(index, group_from=r"images/(.+)_\d+")
    assert set(table["group"]) == set(BREEDS)


def test_two_callers_fetch_once(server, pets, tmp_path):
    slow = threading.Event()

    def slowly(handler: Handler, data: bytes) -> None:
        slow.set()
        time.sleep(0.3)
        serve(handler, data)

    server.answers = [slowly]
    found: list[Path] = []
    callers = [
        threading.Thread(target=lambda: found.append(fetch_pets(server, tmp_path)))
        for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    assert slow.wait(5)
    for caller in callers:
        caller.join()
    assert found == [tmp_path / "oxford-pets" / "breed.csv"] * 3
    assert [path for path, _ in server.requests] == [
        "/pets/images.tar.gz",
        "/pets/annotations.tar.gz",
    ]


@pytest.mark.slow
def test_a_killed_process_frees_the_lock_and_the_next_goes_on(server, pets, tmp_path):
    code = (
        "import sys\nfrom featlab import datasets\nfrom featlab.datasets import _fetch, _sets\n"
        f"_sets._PET_ARCHIVES = {tuple(_sets._PET_ARCHIVES)!r}\n"
        f"datasets.fetch_oxford_pets({str(tmp_path)!r}, base_url={server.url + '/pets'!r})"
    ).replace("Archive(", "_fetch.Archive(")
    size = _sets._PET_ARCHIVES[0].size
    asked = threading.Event()

    def half_then_nothing(handler: Handler, data: bytes) -> None:
        cut(size // 2)(handler, data)
        handler.wfile.flush()
        asked.set()
        time.sleep(2)

    server.answers = [half_then_nothing]
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        assert asked.wait(30)
        part = tmp_path / "oxford-pets" / "images.tar.gz.part"
        for _ in range(200):
            if part.exists() and part.stat().st_size >= size // 2 - 8192:
                break
            time.sleep(0.01)
        process.kill()
    kept = part.stat().st_size
    assert 0 < kept <= size // 2
    assert fetch_pets(server, tmp_path).is_file()
    assert server.requests[1] == ("/pets/images.tar.gz", f"bytes={kept}-")


def test_a_cache_that_cannot_be_written(server, pets, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        FeatlabError, match=r"oxford-pets cannot be filled \(.*\); make room or give"
    ):
        fetch_pets(server, tmp_path / "file")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("featlab.datasets._fetch.shutil.copyfileobj", full)
    with pytest.raises(FeatlabError, match="No space left on device"):
        fetch_pets(server, tmp_path)
    assert not (tmp_path / "oxford-pets" / "images").exists()
    assert not list((tmp_path / "oxford-pets").glob("*unpacking*"))


# -------------------------------------------------------------------------------- CUB-200-2011


def birds(**changes: bytes) -> bytes:
    rng = np.random.default_rng(0)
    top = "CUB_200_2011"
    classes = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    members: dict[str, bytes | None] = {"attributes.txt": b"1 has_bill", f"{top}": None}
    rows: dict[str, list[str]] = {name: [] for name in ("images", "labels", "split", "boxes")}
    for number in range(1, 9):
        label = classes[number % 2]
        path = f"{label}/{label[4:]}_{number:04d}_{number * 37}.jpg"
        pixels = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
        members[f"{top}/images/{path}"] = encoded(pixels, "JPEG")
        rows["images"].append(f"{number} {path}")
        rows["labels"].append(f"{number} {number % 2 + 1}")
        rows["split"].append(f"{number} {int(number < 6)}")
        rows["boxes"].append(f"{number} {number}.0 2.5 20.0 {30 if number > 1 else 60}.0")
    names = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")
    for name, lines in zip(names, rows.values(), strict=True):
        members[f"{top}/{name}"] = "\n".join(lines).encode()
    members[f"{top}/classes.txt"] = "\n".join(
        f"{code} {label}" for code, label in enumerate(classes, start=1)
    ).encode()
    return tar_gz(members | {f"{top}/{name}.txt": text for name, text in changes.items()})


def fetch_birds(server: Server, cache: Path, data: bytes) -> Path:
    server.files["/files/CUB_200_2011.tgz"] = data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            _sets, "_BIRD_ARCHIVES", (described("CUB_200_2011.tgz", data, "CUB_200_2011"),)
        )
        return datasets.fetch_cub_200_2011(cache, base_url=f"{server.url}/files")


def test_birds_are_indexed_with_official_splits_and_boxes(server, tmp_path):
    index = fetch_birds(server, tmp_path, birds())
    table, found, _ = images.index_images(index)
    assert index == tmp_path / "cub-200-2011" / "species.csv"
    number = table["path"].str.extract(r"_(\d{4})_")[0].astype(int)
    assert (table["split"] == np.where(number < 6, "train", "test")).all()
    expected = np.where(number % 2 == 0, "Black_footed_Albatross", "Laysan_Albatross")
    assert (table["label"] == expected).all()
    assert (table["label"].to_numpy()[found["image"]] == found["label"]).all()
    assert found["image"].tolist() == list(range(8))
    assert set(found["kind"]) == {"object"}
    bottom = np.where(number > 1, 32.5, 40.0)  # The first box sticks out of its picture.
    truth = np.stack([number, np.full(8, 2.5), number + 20.0, bottom], axis=1)
    assert found[CORNERS].to_numpy() == pytest.approx(truth)
    server.requests.clear()
    assert fetch_birds(server, tmp_path, birds()) == index
    assert server.requests == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bounding_boxes": b"99 1 1 2 2"}, "do not fit together at '99'"),
        ({"classes": b"1 001.A"}, "do not fit together at '2'"),
        ({"train_test_split": b"1 1"}, "do not fit together at '2'"),
        ({"bounding_boxes": b"1 1 1 2 wide"}, r"bounding_boxes\.txt, picture 1: .*'wide'"),
        ({"images": b"1 001.A/none.jpg"}, r"none\.jpg cannot be read"),
        ({"images": b"1 a b"}, r"images\.txt line 1 must have 2 values"),
    ],
)
def test_birds_whose_lists_do_not_fit(server, tmp_path, changes, message):
    with pytest.raises(FeatlabError, match=message):
        fetch_birds(server, tmp_path, birds(**changes))
    assert not (tmp_path / "cub-200-2011" / "species.csv").exists()


# --------------------------------------------------------------------------------- command line


def featlab(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["featlab", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return int(end.value.code or 0)


def test_demo_on_the_pets(server, pets, tmp_path, monkeypatch, capsys):
    analysed = []

    def write_page(store: MapStore, output: Path, box_kind: str, *_: object, **__: bool) -> None:
        found = store.boxes[store.boxes["kind"] == box_kind]
        analysed.append((len(store.images), list(store.classes), box_kind, len(found)))

    monkeypatch.setattr(cli._pass, "load_network", lambda *a, **k: FakeBackbone())
    monkeypatch.setattr(cli._pass, "write_page", write_page)
    official = partial(datasets.fetch_oxford_pets, base_url=f"{server.url}/pets")
    monkeypatch.setattr(datasets, "fetch_oxford_pets", official)
    out, data = tmp_path / "out", tmp_path / "data"
    assert featlab("demo", "--dataset", "oxford-pets", "--data", data, "-o", out) == 0
    assert (out / "maps.h5").is_file()
    assert (data / "oxford-pets" / "breed.csv").is_file()
    assert capsys.readouterr().err.count("download: 100%") == 2
    server.requests.clear()
    (data / "oxford-pets" / "images" / "beagle_3.jpg").write_bytes(b"broken")
    again = tmp_path / "again"
    assert featlab("demo", "--dataset", "oxford-pets-species", "--data", data, "-o", again) == 0
    assert server.requests == []
    assert analysed == [(39, sorted(BREEDS), "body", 39), (38, ["cat", "dog"], "body", 38)]


def test_demo_without_a_network_is_one_line(tmp_path, capfd):
    for dataset, function in [
        ("oxford-pets", "fetch_oxford_pets"),
        ("oxford-pets-species", "fetch_oxford_pets"),
        ("cub-200-2011", "fetch_cub_200_2011"),
    ]:
        offline = partial(getattr(datasets, function), base_url="https://nowhere.invalid")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(datasets, function, offline)
            assert featlab("demo", "--dataset", dataset, "--data", tmp_path, "-o", tmp_path) == 1
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("featlab: ") and "there is no connection" in line
        assert "https://nowhere.invalid" in line and str(tmp_path) in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "imagenet"), "--dataset must be scenes, oxford-pets, .* got 'imagenet'"),
        (("--dataset", "oxford-pets", "-n", "50"), "-n is the number of built-in scenes"),
    ],
)
def test_demo_with_wrong_options(tmp_path, capsys, arguments, message):
    assert featlab("demo", *arguments, "-o", tmp_path / "o", "--data", tmp_path / "d") == 1
    assert re.search(message, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []
