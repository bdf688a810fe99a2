"""Boxes as they are written down: ``boxes.csv``, Pascal VOC XML or COCO JSON; and files' names.

A format is a function from a folder and its pictures to the boxes that its files hold, none where
it has no files there. A new one is one more function, named in `READERS`.
"""

from __future__ import annotations

import csv
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from featlab.errors import FeatlabError
from featlab.images.decode import cut, first_line, is_storable, os_reason, printable
from featlab.system.files import parse_xml

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DEFAULT_KIND = "object"
_ANNOTATIONS = "annotations"
_QUOTED_FORMULA = re.compile(r"'+[=+@\-＝＋－＠\t\r\n]")  # as `system.files.write_table` has it


@dataclass(frozen=True)
class Problem:
    """A file or a box that cannot be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class WrittenBox:
    """A box as an annotation file has it, not yet matched with a picture.

    Attributes
    ----------
    where : str
        File and line or key, for messages.
    folder : str
        The folder, relative to the root, in which the picture is looked for first.
    name : str
        The picture's name as written; may have folders.
    stem : str
        The annotation file's own name without suffix, where it stands for one picture, else "".
    kind, label : str
    corners : tuple of float
        xmin, ymin, xmax, ymax as written.
    size : tuple of float, optional
        Width and height of the picture the box was drawn in.
    is_path : bool
        `name` says where the picture lies, not only what it is called.
    """

    where: str
    folder: str
    name: str
    stem: str
    kind: str
    label: str
    corners: tuple[float, float, float, float]
    size: tuple[float, float] | None
    is_path: bool = False


_Entries = list[WrittenBox | Problem]


def read_annotations(root: Path, pictures: list[str]) -> tuple[list[WrittenBox], list[Problem]]:
    """Read the boxes of the first format that has any: boxes.csv, VOC, COCO.

    Parameters
    ----------
    root : Path
    pictures : list of str
        Relative paths; annotations are looked for beside them and above them.

    Returns
    -------
    boxes : list of WrittenBox
    problems : list of Problem
        Files and entries that cannot be read as boxes.
    """
    boxes, problems = [], []
    for read in READERS:
        entries = read(root, pictures)
        boxes = [entry for entry in entries if isinstance(entry, WrittenBox)]
        problems += [entry for entry in entries if isinstance(entry, Problem)]
        if boxes:
            break
    return boxes, problems


def _file_entries(
    root: Path, paths: Iterable[str], parse: Callable[[str, bytes], _Entries]
) -> _Entries:
    """What `parse` finds in each file; a file that it cannot read is a problem."""
    entries: _Entries = []
    for path in paths:
        try:
            entries += parse(path, (root / path).read_bytes())
        except OSError as error:
            entries.append(Problem(path, os_reason(error)))
        except FeatlabError as error:
            entries.append(Problem(path, str(error)))
    return entries


def _read_csv(root: Path, _: list[str]) -> _Entries:
    """``boxes.csv`` in the root; a line names its picture by the path from there."""
    entries: _Entries = []
    if not (root / "boxes.csv").is_file():
        return entries
    for line, row in _read_rows(root / "boxes.csv", ("image", "label", *_CORNERS)):
        where = f"boxes.csv line {line}"
        try:
            entries.append(
                WrittenBox(
                    where=where,
                    folder="",
                    name=_forward(row["image"]),
                    stem="",
                    kind=row.get("kind") or _DEFAULT_KIND,
                    label=row["label"],
                    corners=_corners(row[name] for name in _CORNERS),
                    size=_size(row.get("width"), row.get("height")),
                    is_path=True,
                )
            )
        except FeatlabError as error:
            entries.append(Problem(where, str(error)))
    return entries


def _read_voc(root: Path, pictures: list[str]) -> _Entries:
    """Pascal VOC: an XML file for each picture."""
    return _file_entries(root, annotation_files(root, pictures, ".xml"), _voc_entries)


def _voc_entries(path: str, data: bytes) -> _Entries:
    root = parse_xml(data)
    if root.tag != "annotation":
        return []
    entries: _Entries = []
    for number, item in enumerate(root.findall("object"), start=1):
        where = f"{path} object {number}"
        try:
            entries.append(_voc_box(path, where, root, item))
        except FeatlabError as error:
            entries.append(Problem(where, str(error)))
    return entries


def _voc_box(path: str, where: str, root: Element, item: Element) -> WrittenBox:
    bounds = item.find("bndbox")
    if bounds is None:
        raise FeatlabError("it has no bndbox")
    name = posixpath.basename(_forward(root.findtext("filename", "").strip()))
    return WrittenBox(
        where=where,
        folder=_picture_folder(path),
        name=name,
        stem=posixpath.splitext(posixpath.basename(path))[0],
        kind=_DEFAULT_KIND,
        label=item.findtext("name", "").strip(),
        corners=_corners(bounds.findtext(name, "") for name in _CORNERS),
        size=_size(root.findtext("size/width"), root.findtext("size/height")),
    )


def _read_coco(root: Path, pictures: list[str]) -> _Entries:
    """COCO: JSON files (instances, keypoints), which repeat the same boxes; each is taken once."""
    entries = _file_entries(root, annotation_files(root, pictures, ".json"), _coco_entries)
    first: dict[object, WrittenBox | Problem] = {}
    for entry in entries:
        same = replace(entry, where="") if isinstance(entry, WrittenBox) else object()
        first.setdefault(same, entry)
    return list(first.values())


def _coco_entries(path: str, data: bytes) -> _Entries:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FeatlabError(f"it is not valid JSON ({first_line(error)})") from error
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in keys):
        return []
    images, categories = _by_id(content["images"]), _by_id(content["categories"])
    entries: _Entries = []
    for position, item in enumerate(content["annotations"]):
        where = f"{path} annotations[{position}]"
        try:
            entries.append(_coco_box(path, where, item, images, categories))
        except FeatlabError as error:
            entries.append(Problem(where, str(error)))
        except (AttributeError, KeyError, TypeError) as error:
            entries.append(
                Problem(where, f"it is not a COCO box ({type(error).__name__} {cut(str(error))})")
            )
    return entries


def _coco_box(
    path: str, where: str, item: Any, images: dict[Any, Any], categories: dict[Any, Any]
) -> WrittenBox:
    if item["image_id"] not in images:
        raise FeatlabError(f"it names image_id {_quoted(item['image_id'])}, which is not in images")
    if item["category_id"] not in categories:
        raise FeatlabError(
            f"it names category_id {_quoted(item['category_id'])}, not in categories"
        )
    picture = images[item["image_id"]]
    bounds = item["bbox"]
    if not isinstance(bounds, list) or len(bounds) != 4:
        raise FeatlabError(f"bbox must be [x, y, width, height], got {_quoted(bounds)}")
    left, top, width, height = _corners(bounds)
    return WrittenBox(
        where=where,
        folder=_picture_folder(path),
        name=_forward(_storable(str(picture["file_name"]))),
        stem="",
        kind="crowd" if item.get("iscrowd") else _DEFAULT_KIND,
        label=_storable(str(categories[item["category_id"]]["name"])),
        corners=(left, top, left + width, top + height),
        size=_size(picture.get("width"), picture.get("height")),
    )


READERS = (_read_csv, _read_voc, _read_coco)
"""The formats, in the order in which they are tried."""


def _by_id(items: list[Any]) -> dict[Any, Any]:
    return {item["id"]: item for item in items if isinstance(item, dict) and _is_key(item)}


def _is_key(item: dict[str, Any]) -> bool:
    return isinstance(item.get("id"), (int, str))


def _corners(values: Iterable[Any]) -> tuple[float, float, float, float]:
    first, second, third, fourth = (_number(value) for value in values)
    return first, second, third, fourth


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise FeatlabError(f"{_quoted(value)} is not a number") from error


def _quoted(value: Any) -> str:
    try:
        return printable(cut(repr(value)))
    except ValueError:  # Python does not write out whole numbers of thousands of digits.
        return "a very large number"


def _storable(text: str) -> str:
    if not is_storable(text):
        raise FeatlabError(f"{_quoted(text)} holds characters that cannot be stored")
    return text


def _size(width: Any, height: Any) -> tuple[float, float] | None:
    """Width and height; None where they are absent or 0, which some tools write for unknown."""
    if any(value is None or value == "" for value in (width, height)):
        return None
    size = (_number(width), _number(height))
    return None if 0 in size else size


def _picture_folder(path: str) -> str:
    """Where the pictures of an annotation file should lie: its folder without ``annotations``."""
    parts = posixpath.dirname(path).split("/")
    return "/".join(part for part in parts if part.lower() != "annotations")


def _forward(path: str) -> str:
    return posixpath.normpath(path.replace("\\", "/")) if path else ""


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
    files: set[str] = set()
    for folder in picture_folders(pictures):
        for name in _names_in(root / folder):
            path = posixpath.join(folder, name)
            if name.lower() == _ANNOTATIONS and os.path.isdir(root / path):
                files.update(walk_files(root, path, []))
            else:
                files.add(path)
    return sorted(path for path in files if _is_visible_file(root, path, suffix))


def picture_folders(pictures: list[str]) -> set[str]:
    """The folders that hold pictures, and all folders above them; the root is ``""``."""
    folders = {""}
    for path in pictures:
        folder = posixpath.dirname(path)
        while folder not in folders:
            folders.add(folder)
            folder = posixpath.dirname(folder)
    return folders


def _read_rows(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
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
                    yield reader.line_num, dict(zip(header, map(_as_named, padded), strict=True))
    except (OSError, UnicodeError, csv.Error) as error:
        raise FeatlabError(
            f"{path} cannot be read as CSV in UTF-8: {first_line(error)}."
        ) from error


def read_listed(path: Path) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Pictures that a CSV file lists: line, path below its folder, and the row of the file.

    Raises
    ------
    FeatlabError
        As :func:`_read_rows`; a path is absolute or leads out of the folder.
    """
    for line, row in _read_rows(path, ("path",)):
        picture = relative_path(row["path"])
        if picture is None:
            raise FeatlabError(
                f"{path} line {line}: path must be relative to the CSV file's folder and lie in "
                f"it, got {cut(repr(row['path']))}."
            )
        yield line, picture, row


def _as_named(value: str) -> str:
    """A value without the blanks around it, and without the apostrophe of `write_table`."""
    value = value.strip()
    return value[1:] if _QUOTED_FORMULA.match(value) else value


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


def relative_path(text: str) -> str | None:
    """A path as written by any system → relative with forward slashes; None if it leads outside."""
    text = text.replace("\\", "/")
    if not text or text.startswith("/") or "\0" in text or re.match(r"[A-Za-z]:", text):
        return None
    path = posixpath.normpath(text)
    return None if path == "." or path.split("/")[0] == ".." else path
