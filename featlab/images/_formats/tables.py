"""Boxes in CSV files: featlab's own, VIA's, those of Open Images, TFOD and their kin."""

from __future__ import annotations

import csv
import json
import os
import posixpath
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from featlab.errors import FeatlabError
from featlab.images._annotations import (
    DEFAULT_KIND,
    Entries,
    Source,
    WrittenBox,
    corners,
    each,
    forward,
    number,
    picture_folder,
    size_of,
    stem_of,
)
from featlab.images._formats.json_files import via_box
from featlab.images.decode import cut, first_line, is_picture_name, is_storable

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
PICTURE_COLUMNS = (
    "path", "image", "filename", "file_name", "file", "image_path", "filepath", "img", "image_name",
    "imageid", "image_id", "id",
)  # fmt: skip
"""What people call the column of the pictures."""
LABEL_COLUMNS = (
    "label", "class", "class_name", "category", "labelname", "label_name", "target", "name",
)  # fmt: skip
"""What people call the column of the classes."""
_FOUR = (_CORNERS, ("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"),
         ("x_min", "y_min", "x_max", "y_max"))  # fmt: skip

_QUOTED_FORMULA = re.compile(r"'+[=+@\-＝＋－＠\t\r\n]")  # as `system.files.write_table` has it
# What the lines hold of a file of boxes whose first line names no columns (RetinaNet's).
_HEADLESS = ["image", "x1", "y1", "x2", "y2", "label"]
_NUMBER = re.compile(r"-?\d+(\.\d*)?")
_SIZES = ("width", "height", "size", "sha256", "md5", "url")

Rows = list[tuple[int, dict[str, str]]]


def is_own(path: str) -> bool:
    """Whether the file is featlab's own ``boxes.csv`` in the root."""
    return path == "boxes.csv"


def needed(path: str) -> tuple[tuple[str, ...], ...]:
    """The columns without which a file is refused."""
    return tuple((name,) for name in ("image", *_CORNERS)) if is_own(path) else ()


def own(path: str, rows: Rows, _: Source) -> Entries | None:
    """``boxes.csv``; a line names its picture by the path from there; ``label`` may be absent."""
    return _entries(path, rows, "image", "label", _CORNERS) if is_own(path) else None


def corners_of(path: str, rows: Rows, _: Source) -> Entries | None:
    """TFOD's CSV and others alike: a picture, a class and four corners, by whatever names."""
    header = list(rows[0][1]) if rows else []
    image, label = first_of(header, PICTURE_COLUMNS), first_of(header, LABEL_COLUMNS)
    four = next((names for names in _FOUR if set(names) <= set(header)), None)
    return None if not image or four is None else _entries(path, rows, image, label, four)


def open_images(path: str, rows: Rows, source: Source) -> Entries | None:
    """Open Images: ``ImageID, LabelName, XMin, XMax, YMin, YMax`` as shares of the picture."""
    if not rows or not {"imageid", "labelname", *_CORNERS} <= set(rows[0][1]):
        return None
    names = source.once(("classes", path), lambda: _class_descriptions(path, source))

    def read(place: str, row: dict[str, str]) -> WrittenBox:
        return WrittenBox(
            file=path,
            place=place,
            folder=picture_folder(path),
            name="",
            stem=stem_of(forward(row["imageid"])),
            label=names.get(row["labelname"], row["labelname"]),
            corners=corners(row[name] for name in _CORNERS),
            kind="crowd" if row.get("isgroupof") == "1" else DEFAULT_KIND,
            units="shares",
        )

    return each(path, ((f"line {line}", row) for line, row in rows), read)


def _class_descriptions(path: str, source: Source) -> dict[str, str]:
    """Names of classes such as /m/014j1m, where the set has their list."""
    for name in ("class-descriptions-boxable.csv", "class-descriptions.csv"):
        data = source.beside(path, name)
        if data is not None:
            pairs = (line.partition(",") for line in data.decode("utf-8", "replace").splitlines())
            return {key.strip(): label.strip() for key, _, label in pairs}
    return {}


def via(path: str, rows: Rows, _: Source) -> Entries | None:
    """VIA's CSV: a shape and its attributes as JSON in a line."""
    if not rows or "region_shape_attributes" not in rows[0][1]:
        return None

    def read(place: str, row: dict[str, str]) -> WrittenBox | None:
        parts = {key: _object(row, f"region_{key}") for key in ("shape_attributes", "attributes")}
        name = row.get("filename") or row.get("#filename") or ""
        region = {**parts, "region_attributes": parts["attributes"]}
        return via_box(path, place, name, region)

    return each(path, ((f"line {line}", row) for line, row in rows), read)


def _object(row: dict[str, str], column: str) -> dict[str, Any]:
    try:
        content = json.loads(row.get(column) or "{}")
    except (ValueError, RecursionError) as error:
        raise FeatlabError(f"{column} is not valid JSON") from error
    return content if isinstance(content, dict) else {}


def _columns(path: Path, row: dict[str, str]) -> dict[str, str]:
    """The columns of picture, label, split and group: by usual names, else by the first line."""
    header = list(row)
    columns: dict[str, str] = {key: key for key in ("split", "group") if key in row}
    column = first_of(header, PICTURE_COLUMNS)
    if not column:
        holding = [name for name in header if is_picture_name(row[name])]
        if len(holding) != 1 or any(map(is_picture_name, header)):
            raise FeatlabError(
                f"{path} needs the columns path, separated by commas, semicolons or tabs, and "
                f"perhaps label; its first line has {cut(', '.join(header))}."
            )
        column = holding[0]
    label = "label" if "label" in row else first_of(header, LABEL_COLUMNS)
    rest = [name for name in header if name not in (column, *columns.values())]
    label = label or (rest[0] if len(rest) == 1 and rest[0] not in _SIZES else "")
    return columns | {"path": column} | ({"label": label} if label else {})


def _from_here(path: Path, text: str) -> str:
    """A whole path below the file's folder, from there; any other as it is."""
    if not os.path.isabs(text):
        return text
    inside = os.path.relpath(os.path.normpath(text), path.parent)
    return text if inside.startswith(os.pardir) else inside


def first_of(header: list[str], names: tuple[str, ...]) -> str:
    """The first of some names that the header has, or ""."""
    return next((name for name in names if name in header), "")


def _entries(path: str, rows: Rows, image: str, label: str, four: tuple[str, ...]) -> Entries:
    """A box a line; lines of pictures without a box have no corners."""

    def read(place: str, row: dict[str, str]) -> WrittenBox | None:
        if not is_own(path) and not any(row[name] for name in four):
            return None
        name = forward(row[image])
        has_suffix = bool(posixpath.splitext(name)[1])
        return WrittenBox(
            file=path,
            place=place,
            folder=picture_folder(path),
            name=name if has_suffix else "",
            stem="" if has_suffix else posixpath.basename(name),
            label=row.get(label, ""),
            corners=corners(number(row[name]) for name in four),
            kind=row.get("kind") or DEFAULT_KIND,
            size=size_of(row.get("width"), row.get("height")),
        )

    return each(path, ((f"line {line}", row) for line, row in rows), read)


def read_rows(
    path: Path, required: tuple[tuple[str, ...], ...]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with the numbers of their lines; values are stripped, missing ones ``""``.

    Raises
    ------
    FeatlabError
        If the file cannot be read as CSV in UTF-8, or lacks a required column.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            line = file.readline()
            file.seek(0)
            # Spreadsheets write semicolons where the comma is the decimal mark.
            mark = max(",;\t", key=line.count)
            reader = csv.reader(file, strict=True, delimiter=mark)
            first = next(reader, [])
            header = [name.strip().lower() for name in first]
            if len(header) == len(_HEADLESS) and all(map(_NUMBER.fullmatch, header[1:5])):
                lines = chain([mark.join(first)], file)
                header, reader = _HEADLESS, csv.reader(lines, strict=True, delimiter=mark)
            if not all(set(names) & set(header) for names in required):
                wanted = ", ".join(names[0] for names in required)
                raise FeatlabError(
                    f"{path} needs the columns {wanted}, separated by commas, semicolons or tabs; "
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


def _as_named(value: str) -> str:
    """A value without the blanks around it, and without the apostrophe of `write_table`."""
    value = value.strip()
    return value[1:] if _QUOTED_FORMULA.match(value) else value


def relative_path(text: str) -> str | None:
    """A path as written by any system → relative with forward slashes; None if it leads outside."""
    text = text.replace("\\", "/")
    if not text or text.startswith("/") or "\0" in text or re.match(r"[A-Za-z]:", text):
        return None
    path = posixpath.normpath(text)
    return None if path == "." or path.split("/")[0] == ".." else path


def read_listed(path: Path) -> tuple[dict[str, str], list[tuple[int, str, dict[str, str]]]]:
    """Pictures that a table lists: its columns; and line, path below its folder, and row.

    Columns are found by the names that people give them; a row has them as ``path``, ``label``,
    ``split`` and ``group``, too.

    Raises
    ------
    FeatlabError
        It cannot be read; no column holds pictures; a path is absolute or leads out of the folder.
    """
    listed: list[tuple[int, str, dict[str, str]]] = []
    columns: dict[str, str] = {}
    rows = list(read_rows(path, ())) or list(read_rows(path, (PICTURE_COLUMNS,)))
    for line, row in rows:
        columns = columns or _columns(path, row)
        written = row[columns["path"]]
        picture = relative_path(_from_here(path, written))
        if picture is None:
            raise FeatlabError(
                f"{path} line {line}: path must be relative to the CSV file's folder and lie in "
                f"it, or be a whole path there, got {cut(repr(written))}."
            )
        listed.append((line, picture, row | {key: row[name] for key, name in columns.items()}))
    return columns, listed
