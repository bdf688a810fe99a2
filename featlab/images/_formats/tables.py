"""Boxes in CSV files: featlab's own, VIA's, those of Open Images, TFOD and their kin."""

from __future__ import annotations

import csv
import json
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
_NUMBER = re.compile(r"-?\d+(\.\d*)?")

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
            if columns := _without_header(header):
                lines = chain([line], file)
                header, reader = columns, csv.reader(lines, strict=True, delimiter=mark)
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


def _without_header(first: list[str]) -> list[str]:
    """The columns of a file whose first line is a picture already, by what it holds."""
    if len(first) == 6 and all(map(_NUMBER.fullmatch, first[1:5])):  # RetinaNet's boxes
        return ["image", "x1", "y1", "x2", "y2", "label"]
    is_list = 0 < len(first) <= 2 and is_picture_name(first[0])
    return ["path", "label"][: len(first)] if is_list else []


def _as_named(value: str) -> str:
    """A value without the blanks around it, and without the apostrophe of `write_table`."""
    value = value.strip()
    return value[1:] if _QUOTED_FORMULA.match(value) else value
