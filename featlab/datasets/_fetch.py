"""Downloads that go on where they broke off, checked before they bear their name, and unpacked.

``pooch`` fetches and checks whole files. This promises more: what came of 1.15 GB is not fetched
again, after a broken connection or in a later call; a checksum, not the server, says whether the
pieces are the file; and archives are unpacked without trust in their members.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import logging
import os
import re
import shutil
import tarfile
import time
import unicodedata
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from featlab.arguments import Progress, tracked
from featlab.errors import FeatlabError
from featlab.system.files import held, place_durably, replace_durably

_log = logging.getLogger(__name__)

_TIMEOUT = 30.0  # seconds without a byte
_WAITS = (1.0, 2.0, 4.0)  # seconds before each further try in a row that brings nothing new
_LONGEST_WAIT = 60.0  # seconds that a server may ask for
_BLOCK = 1 << 20
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_MEND = "delete it and run the same again, or put the official file there."
_BAD_CHARACTERS = re.compile(r'[\x00-\x1f\x7f-\x9f\\:*?"<>|\ud800-\udfff]')
_LONGEST_NAME = 200
_HEADER = 512


@dataclass(frozen=True)
class Archive:
    """An official ``.tar.gz`` file.

    Attributes
    ----------
    name : str
        Its name on the server and in the cache folder.
    md5 : str
        Hexadecimal MD5 sum.
    size : int
        Bytes.
    folder : str
        The top folder in it; nothing else is unpacked.
    """

    name: str
    md5: str
    size: int
    folder: str


class _Trouble(Exception):
    """A request did not bring all it should; `passing`: another try may."""

    def __init__(self, came: str, *, passing: bool, wait: float = 0.0) -> None:
        super().__init__(came)
        self.passing, self.wait = passing, wait


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow to http and https alone, and never from https back to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("https", req.type):
            raise _Trouble(f"it leads to {newurl}, which is refused", passing=False)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_archives(
    root: Path, archives: Sequence[Archive], base_url: str, progress: Progress | None = None
) -> None:
    """Bring the folders of some archives into `root`; those that are there stay as they are.

    Parameters
    ----------
    root : Path
        An archive that lies here is used, and asked for nowhere.
    archives : sequence of Archive
    base_url : str
        Where the archives lie; http or https.
    progress : callable, optional
        Wraps the list of byte ranges of each download.

    Raises
    ------
    FeatlabError
        An archive could not be had, or cannot be unpacked safely.
    """
    for archive in archives:
        if not (root / archive.folder).is_dir():
            url = f"{base_url.rstrip('/')}/{archive.name}"
            path = fetch_file(url, root / archive.name, archive.md5, archive.size, progress)
            _log.info("unpacking %s", path)
            extract_archive(path, root, archive.folder)


def fetch_file(url: str, path: Path, md5: str, size: int, progress: Progress | None = None) -> Path:
    """Download a file, or go on with what an earlier call left in ``<path>.part``.

    Parameters
    ----------
    url : str
    path : Path
        A file that lies here already is checked and used.
    md5 : str
    size : int
        Bytes.
    progress : callable, optional
        Wraps the list of byte ranges that are still to come.

    Returns
    -------
    Path
        `path`; what has this name is whole and has the right checksum.

    Raises
    ------
    FeatlabError
        What lies or came here is another file, or it could not be had. What came is kept where the
        next call can go on with it.
    """
    if path.exists():
        own = _md5(path)
        if own != md5:
            raise FeatlabError(
                f"{path} has the MD5 sum {own}, the official file ({url}) has {md5}; delete "
                "it, or put the right file there, and run the same again."
            )
        return path
    if urlsplit(url).scheme not in ("http", "https"):
        raise FeatlabError(f"base_url must begin with http:// or https://, got {url!r}.")
    part = part_of(path)
    in_pieces = _receive_all(url, path, size, progress)
    if in_pieces and _md5(part) != md5:
        # The file may have changed on the server after its first piece was taken.
        _log.warning("the pieces of %s do not fit together; starting anew", path.name)
        part.unlink()
        _receive_all(url, path, size, progress)
    received = _md5(part)
    if received != md5:
        part.unlink()
        problem = f"{amount(size)} came with the MD5 sum {received}, it should be {md5}"
        raise FeatlabError(_failure(url, path, problem))
    replace_durably(part, path)
    return path


def _receive_all(url: str, path: Path, size: int, progress: Progress | None) -> bool:
    """Try until the part has its size; tells whether it came in several pieces."""
    part = part_of(path)
    if _size(part) > size:
        os.truncate(part, size)
    start = furthest = _size(part)
    failures = 0
    while _size(part) < size:
        try:
            start = _receive(url, part, size, progress)
        except _Trouble as trouble:
            failures = 0 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures > len(_WAITS) or not trouble.passing:
                raise FeatlabError(_failure(url, path, str(trouble))) from None
            _log.info("%s: %s; trying again", path.name, trouble)
            time.sleep(max(trouble.wait, _WAITS[max(failures - 1, 0)]))
    return start > 0


def _receive(url: str, part: Path, size: int, progress: Progress | None) -> int:
    """Ask once for the bytes that are missing and append them; the byte that it began with."""
    start = _size(part)
    with _opened(url, part, start) as response:
        if response.status != http.client.PARTIAL_CONTENT:
            start = 0  # The server sends the whole file, whatever it was asked for.
        received = start
        _log.info("downloading %s: %s still to come", url, amount(size - start))
        blocks = [range(at, min(at + _BLOCK, size)) for at in range(start, size, _BLOCK)]
        with open(part, "ab" if start else "wb") as file:
            for block in tracked(blocks, progress):
                for data in _pieces(response, len(block)):
                    received += file.write(data)
                if received < block.stop:
                    break
    if received == size:
        return start
    if response.headers.get("Content-Length") == str(received) and not start:
        part.unlink()
        kind = response.headers.get_content_type()
        raise _Trouble(
            f"the server's file has {amount(received)} ({kind}), it should have {amount(size)}",
            passing=False,
        )
    raise _Trouble(f"it broke off after {amount(received)} of {amount(size)}", passing=True)


def _opened(url: str, part: Path, start: int) -> http.client.HTTPResponse:
    """The answer to the request for all bytes from `start` on."""
    headers = {"User-Agent": "featlab", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.build_opener(_SafeRedirects).open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        raise _refused(error, part, start) from None
    except urllib.error.URLError as error:
        # Where nothing came yet there is no network, and no sense in waiting for it.
        raise _Trouble(f"there is no connection ({error.reason})", passing=start > 0) from None
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise _Trouble(f"there was no proper answer ({one_line(error)})", passing=True) from None
    if response.status == http.client.PARTIAL_CONTENT:
        first = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if not first or int(first[1]) != start:
            response.close()
            part.unlink(missing_ok=True)
            raise _Trouble("another piece came than was asked for", passing=True)
    return response


def _refused(error: urllib.error.HTTPError, part: Path, start: int) -> _Trouble:
    error.close()
    if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
        part.unlink()  # The server's file ends before this point: it is another one.
        return _Trouble("the server does not have the rest of it", passing=True)
    after = error.headers.get("Retry-After", "")
    return _Trouble(
        f"the server answered {error.code} ({' '.join(error.reason.split())})",
        passing=error.code in _PASSING,
        wait=min(float(after), _LONGEST_WAIT) if after.isdecimal() else 0.0,
    )


def _pieces(response: http.client.HTTPResponse, n: int) -> Iterator[bytes]:
    """At most `n` bytes as they come, so that none is lost when the connection breaks."""
    while n > 0:
        try:
            data = response.read1(n)
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise _Trouble(f"the connection broke ({one_line(error)})", passing=True) from None
        if not data:
            return
        n -= len(data)
        yield data


def _failure(url: str, path: Path, problem: str) -> str:
    kept = _size(part_of(path))
    again = f"run the same again (it goes on after {amount(kept)})" if kept else "try again"
    return (
        f"{path.name} could not be downloaded from {url}: {problem}. Check the network and "
        f"{again}, or get the file elsewhere, put it at {path} and run the same again."
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def extract_archive(
    archive: Path,
    root: Path,
    folder: str,
    *,
    most_members: int = 100_000,
    most_member_bytes: int = 256 << 20,
    most_bytes: int = 4 << 30,
) -> Path:
    """Unpack one top folder of a ``.tar.gz`` file into `root`: all of it, or nothing.

    Only files and folders are made; owners, permissions and times in the archive are not taken
    over, and macOS's ``._`` companions are left out.

    Parameters
    ----------
    archive : Path
    root : Path
    folder : str
        The top folder; must not be in `root` yet.
    most_members, most_member_bytes, most_bytes : int
        Limits on the number of members, the size of one, and their sum.

    Returns
    -------
    Path
        ``root / folder``

    Raises
    ------
    FeatlabError
        The archive is damaged, lacks the folder, passes a limit, or has a member that is a link or
        a device, comes twice, or has a name that leads outside or that not every system can keep.
    """
    scratch = root / f".{folder}.unpacking"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        with tarfile.open(archive, "r:gz") as tar:
            for member, path in _checked(tar, most_members, most_member_bytes, most_bytes):
                if path[0] == folder and not path[-1].startswith("._"):
                    _unpack(tar, member, scratch, path)
        if not (scratch / folder).is_dir():
            raise FeatlabError(f"it has no folder {folder!r}")
        place_durably(scratch / folder, root / folder)
    except FeatlabError as error:
        raise FeatlabError(f"{archive} cannot be unpacked: {error}; {_MEND}") from None
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise FeatlabError(f"{archive} is damaged ({one_line(error)}); {_MEND}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return root / folder


def _checked(
    tar: tarfile.TarFile, most_members: int, most_member_bytes: int, most_bytes: int
) -> Iterator[tuple[tarfile.TarInfo, list[str]]]:
    """The members with their paths, each only after it passed every check."""
    files: set[str] = set()
    folders: set[str] = set()
    total = 0
    for number, member in enumerate(tar, start=1):
        total += member.size
        if number > most_members:
            raise FeatlabError(f"it has more than {most_members:,} members")
        if not 0 <= member.size <= most_member_bytes:
            raise FeatlabError(f"{member.name!r} has more than {amount(most_member_bytes)}")
        if total > most_bytes:
            raise FeatlabError(f"it holds more than {amount(most_bytes)}")
        if not (member.isreg() or member.isdir()):
            raise FeatlabError(f"{member.name!r} is neither a file nor a folder")
        path = _safe_path(member.name)
        # Case and accents count as equal, since some file systems do not tell them apart.
        keys = [_key(path[:depth]) for depth in range(1, len(path) + 1)]
        if path and member.isreg():
            if keys[-1] in files or keys[-1] in folders:
                raise FeatlabError(f"{member.name!r} comes twice")
            files.add(keys.pop())
        if not files.isdisjoint(keys):
            raise FeatlabError(f"{member.name!r} is a file and a folder")
        folders.update(keys)
        if path:
            yield member, path
    # A damaged header in the middle ends the loop like the archive's end, which is all zeros.
    if tar.fileobj is not None:
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(_HEADER).strip(b"\0"):
            raise tarfile.ReadError("a header is broken")


def _safe_path(name: str) -> list[str]:
    """The parts of a member's name; those of ``./a/b`` are a and b."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if (
        name.startswith("/")
        or ".." in parts
        or any(_BAD_CHARACTERS.search(part) or part[-1] in " ." for part in parts)
        or any(len(part.encode()) > _LONGEST_NAME for part in parts)
    ):
        raise FeatlabError(f"{name[:_LONGEST_NAME]!r} is no name that it may have")
    return parts


def _key(path: Sequence[str]) -> str:
    return unicodedata.normalize("NFC", "/".join(path)).casefold()


def _unpack(
    tar: tarfile.TarFile, member: tarfile.TarInfo, scratch: Path, path: Sequence[str]
) -> None:
    if hasattr(tarfile, "data_filter"):  # The first releases of Python 3.10 and 3.11 lack it.
        tarfile.data_filter(member, str(scratch))
    target = scratch.joinpath(*path)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # It is a file.
    with source, open(target, "xb") as file:
        shutil.copyfileobj(source, file)


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
        waiting = partial(_log.info, "waiting for another process that fills %s", folder)
        with held(folder / ".lock", waiting):
            yield
    except OSError as error:
        raise FeatlabError(
            f"{folder} cannot be filled ({error.strerror or error}); make room or give another "
            "folder, and run the same again: it goes on with what is there."
        ) from error


def part_of(path: Path) -> Path:
    """Where a file is while it is not whole."""
    return path.with_name(path.name + ".part")


def amount(n: int) -> str:
    """A number of bytes as text."""
    return f"{n / 1e6:,.1f} MB" if n >= 100_000 else f"{n:,} bytes"


def one_line(error: Exception) -> str:
    """An exception's name and message without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
