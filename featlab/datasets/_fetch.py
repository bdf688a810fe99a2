"""Downloads that go on where they broke off, and are checked before they bear their name.

A file is known by its size and MD5 sum. What a server says about it decides nothing: whatever came,
in however many pieces, the checksum tells whether it is the file.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from featlab.datasets._files import amount, one_line, part_of, put_in_place
from featlab.datasets._unpack import extract_archive
from featlab.errors import FeatlabError

_log = logging.getLogger(__name__)

Progress = Callable[[Iterable[Any]], Iterable[Any]]

_TIMEOUT = 30.0  # seconds without a byte
_WAITS = (1.0, 2.0, 4.0)  # seconds before each further try in a row that brings nothing new
_LONGEST_WAIT = 60.0  # seconds that a server may ask for
_BLOCK = 1 << 20
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_NO_SUCH_RANGE = 416


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
        found = _md5(path)
        if found != md5:
            raise FeatlabError(
                f"{path} has the MD5 sum {found}, the official file ({url}) has {md5}; delete "
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
    found = _md5(part)
    if found != md5:
        part.unlink()
        problem = f"{amount(size)} came with the MD5 sum {found}, it should be {md5}"
        raise FeatlabError(_failure(url, path, problem))
    put_in_place(part, path)
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
            for block in progress(blocks) if progress else blocks:
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
    if error.code == _NO_SUCH_RANGE and start:
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
