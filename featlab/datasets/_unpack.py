"""Archives unpacked without trust in their members' names, kinds, sizes or number."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import tarfile
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from featlab.datasets._files import amount, one_line
from featlab.errors import FeatlabError

_MEND = "delete it and run the same again, or put the official file there."
_BAD_CHARACTERS = re.compile(r'[\x00-\x1f\x7f-\x9f\\:*?"<>|\ud800-\udfff]')
_LONGEST_NAME = 200
_HEADER = 512


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
        os.replace(scratch / folder, root / folder)
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
