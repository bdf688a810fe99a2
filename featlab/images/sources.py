"""Which pictures there are: a folder of class folders, or a CSV file."""

from __future__ import annotations

import csv
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from featlab.errors import FeatlabError
from featlab.images.decode import cut, first_line, is_picture_name

LAYOUT = (
    "expected <folder>/<class>/*.jpg, or <folder>/train|val|test/<class>/*.jpg, or a CSV file with "
    "the columns path, label"
)
SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "confirm": "confirm",
    "test": "test",
}
_FOLDER_SPLITS = set(SPLIT_NAMES) - {"confirm"}
_ANNOTATIONS = "annotations"


@dataclass(frozen=True)
class Problem:
    """A file or a box that cannot be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Candidate:
    """A picture to index; its path is relative to the root, with forward slashes."""

    path: str
    label: str
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class Listing:
    """The pictures of a source, sorted by path, before any of them is opened."""

    root: Path
    candidates: list[Candidate]
    problems: list[Problem]
    is_selection: bool


def list_source(source: str | os.PathLike[str]) -> Listing:
    """List the pictures of a folder or of a CSV file; none of them is opened."""
    path = Path(os.path.abspath(source))
    if path.is_dir():
        return _list_folder(path)
    if not path.exists():
        raise FeatlabError(f"there is no folder or CSV file {path}; {LAYOUT}.")
    if path.suffix.lower() != ".csv":
        raise FeatlabError(f"{path} is neither a folder nor a CSV file; {LAYOUT}.")
    return Listing(path.parent, _read_csv(path), [], is_selection=True)


def walk_files(root: Path, start: str, problems: list[Problem]) -> Iterator[str]:
    """Files below ``root/start``, as paths relative to `root`; hidden ones are left out.

    Links are followed, except to a folder that the walk is already inside of.
    """
    stack = [(start, frozenset[str]())]
    while stack:
        folder, above = stack.pop()
        real = os.path.realpath(root / folder)
        if real in above:
            continue
        try:
            names = sorted(os.listdir(root / folder))
        except OSError as error:
            problems.append(Problem(printable(folder) or ".", os_reason(error)))
            continue
        for name in names:
            path = posixpath.join(folder, name)
            if name.startswith("."):
                continue
            if not os.path.isdir(root / path):
                yield path
            elif name.lower() != _ANNOTATIONS:
                stack.append((path, above | {real}))


def annotation_files(root: Path, pictures: list[str], suffix: str) -> list[str]:
    """Files with a suffix beside the pictures, in the folders above them, and in ``annotations``.

    Returned as paths relative to `root`, sorted.
    """
    found: set[str] = set()
    for folder in picture_folders(pictures):
        for name in _names_in(root / folder):
            path = posixpath.join(folder, name)
            if name.lower() == _ANNOTATIONS and os.path.isdir(root / path):
                found.update(walk_files(root, path, []))
            else:
                found.add(path)
    return sorted(path for path in found if _is_visible_file(root, path, suffix))


def picture_folders(pictures: list[str]) -> set[str]:
    """The folders that hold pictures, and all folders above them; the root is ``""``."""
    folders = {""}
    for path in pictures:
        folder = posixpath.dirname(path)
        while folder not in folders:
            folders.add(folder)
            folder = posixpath.dirname(folder)
    return folders


def read_rows(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with the numbers of their lines; values are stripped, missing ones ``""``.

    Raises
    ------
    FeatlabError
        If the file cannot be read as CSV in UTF-8, or lacks a required column.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            missing = [name for name in required if name not in header]
            if missing:
                raise FeatlabError(
                    f"{path} needs the columns {', '.join(required)}, separated by commas; "
                    f"its first line has {cut(', '.join(header)) or 'none'}."
                )
            for values in reader:
                if len(values) > len(header):
                    raise FeatlabError(
                        f"{path} line {reader.line_num} has {len(values)} values for "
                        f"{len(header)} columns; quote values that hold a comma."
                    )
                if not all(map(is_storable, values)):
                    raise FeatlabError(
                        f"{path} line {reader.line_num} holds a NUL character; remove it."
                    )
                if any(values):
                    padded = values + [""] * (len(header) - len(values))
                    yield reader.line_num, dict(zip(header, map(str.strip, padded), strict=True))
    except (OSError, UnicodeError, csv.Error) as error:
        raise FeatlabError(
            f"{path} cannot be read as CSV in UTF-8: {first_line(error)}."
        ) from error


def printable(path: str) -> str:
    """The path itself if it is valid UTF-8, otherwise with its odd bytes written out."""
    return path.encode("utf-8", "backslashreplace").decode()


def is_storable(text: str) -> bool:
    """Whether a store can keep the text: no NUL, and no half of a surrogate pair."""
    return "\0" not in text and printable(text) == text


def os_reason(error: OSError) -> str:
    """Why the system did not let a file be read, for a list of problems."""
    return f"it cannot be read: {error.strerror or first_line(error)}"


def _list_folder(root: Path) -> Listing:
    problems: list[Problem] = []
    paths = [path for path in walk_files(root, "", problems) if is_picture_name(path)]
    tops = {path.partition("/")[0] for path in paths if "/" in path}
    depth = 2 if _has_split_level(root, tops) else 1
    candidates = []
    for path in sorted(paths):
        parts = path.split("/")
        if len(parts) <= depth:
            problems.append(Problem(printable(path), "it lies in no class folder"))
        elif printable(path) != path:
            problems.append(Problem(printable(path), "its name is not valid UTF-8"))
        else:
            split = SPLIT_NAMES[parts[0].lower()] if depth == 2 else ""
            candidates.append(Candidate(path, parts[depth - 1], split))
    if not candidates:
        raise FeatlabError(_nothing_found(root, problems))
    return Listing(root, candidates, problems, is_selection=False)


def _nothing_found(root: Path, problems: list[Problem]) -> str:
    if not problems:
        return f"there is no picture in {root}; {LAYOUT}."
    first = problems[0]
    return f"no picture in {root} can be used ({first.path}: {first.reason}); {LAYOUT}."


def _has_split_level(root: Path, tops: set[str]) -> bool:
    splits = {name for name in tops if name.lower() in _FOLDER_SPLITS}
    others = tops - splits
    if len(splits) > 1 and others:
        raise FeatlabError(
            f"{root} has split folders ({', '.join(sorted(splits))}) beside others with pictures "
            f"({', '.join(sorted(others))}); put every class into the split folders, or rename "
            "those that are classes."
        )
    return bool(splits) and not others


def _read_csv(path: Path) -> list[Candidate]:
    candidates: dict[str, Candidate] = {}
    for line, row in read_rows(path, ("path", "label")):
        picture = _relative(row["path"])
        if picture is None:
            raise FeatlabError(
                f"{path} line {line}: path must be relative to the CSV file's folder and lie in "
                f"it, got {cut(repr(row['path']))}."
            )
        if picture in candidates:
            raise FeatlabError(
                f"{path} line {line}: {cut(picture)} is listed twice; keep one line."
            )
        if not row["label"]:
            raise FeatlabError(f"{path} line {line}: label is empty; give every picture one.")
        split = row.get("split", "").lower()
        if split and split not in SPLIT_NAMES:
            raise FeatlabError(
                f"{path} line {line}: split must be one of {', '.join(SPLIT_NAMES)} or empty, "
                f"got {cut(repr(row['split']))}."
            )
        candidates[picture] = Candidate(
            picture, row["label"], SPLIT_NAMES.get(split, ""), row.get("group", "")
        )
    if not candidates:
        raise FeatlabError(f"{path} lists no pictures; {LAYOUT}.")
    return [candidates[picture] for picture in sorted(candidates)]


def _relative(text: str) -> str | None:
    """A path as written by any system → relative with forward slashes; None if it leads outside."""
    text = text.replace("\\", "/")
    if not text or text.startswith("/") or "\0" in text or re.match(r"[A-Za-z]:", text):
        return None
    path = posixpath.normpath(text)
    return None if path == "." or path.split("/")[0] == ".." else path


def _names_in(folder: Path) -> list[str]:
    # A folder that cannot be read holds only pictures that are reported as bad already.
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_visible_file(root: Path, path: str, suffix: str) -> bool:
    name = posixpath.basename(path)
    is_wanted = name.lower().endswith(suffix) and not name.startswith(".")
    return is_wanted and os.path.isfile(root / path)
