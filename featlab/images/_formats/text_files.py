"""Boxes as text: in XML (Pascal VOC, CVAT), in lines (YOLO), and in tables.

Tables are CSV files: featlab's own, VIA's, those of Open Images, TFOD and their kin.
"""

from __future__ import annotations

import csv
import json
import math
import posixpath
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from featlab.errors import FeatlabError
from featlab.images._annotations import (
    DEFAULT_KIND,
    Entries,
    Problem,
    Source,
    WrittenBox,
    around,
    corners,
    each,
    forward,
    number,
    picture_folder,
    size_of,
    stem_of,
    storable,
)
from featlab.images._formats.json_files import via_box
from featlab.images.decode import cut, first_line, is_picture_name, is_storable

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_LINE = re.compile(r"\s*\d+(\s+[-+.\deE]+){4,}\s*")
_NAME_LISTS = ("classes.txt", "obj.names", "_darknet.labels")
_YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
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


# ----------------------------------------------------------------------------------- XML, and lines


def voc(path: str, root: Element, _: Source) -> Entries | None:
    """``annotation`` of ``object`` with ``name`` and ``bndbox``, coordinates as written.

    The tool LabelMe of old wrote outlines in their place (``polygon`` of ``pt``).
    """
    if root.tag != "annotation":
        return None

    def read(place: str, item: Element) -> WrittenBox:
        bounds, outline = item.find("bndbox"), item.findall("polygon/pt")
        if bounds is None and not outline:
            raise FeatlabError("it has no bndbox")
        return WrittenBox(
            file=path,
            place=place,
            folder=picture_folder(path),
            name=posixpath.basename(forward(root.findtext("filename", "").strip())),
            stem=stem_of(path),
            label=item.findtext("name", "").strip(),
            corners=around(*([pt.findtext(axis) for pt in outline] for axis in "xy"))
            if bounds is None
            else corners(bounds.findtext(name, "") for name in _CORNERS),
            size=size_of(root.findtext("size/width"), root.findtext("size/height")),
        )

    items = enumerate(root.findall("object"), start=1)
    return each(path, ((f"object {k}", item) for k, item in items), read)


def cvat(path: str, root: Element, _: Source) -> Entries | None:
    """CVAT for images 1.1: ``image`` of ``box`` and ``polygon``; what is no area is left out."""
    if root.tag != "annotations":
        return None
    if root.find("track") is not None and root.find("image") is None:
        why = "it is a video of CVAT; export it as CVAT for images"
        return [Problem(path, why, stops=False)]

    def read(place: str, pair: tuple[Element, Element]) -> WrittenBox | None:
        image, item = pair
        points = _points(item)
        if not points:
            return None
        return WrittenBox(
            file=path,
            place=place,
            folder=picture_folder(path),
            name=posixpath.join(image.get("subset", ""), forward(image.get("name", ""))),
            stem="",
            label=item.get("label", "").strip(),
            corners=around(*zip(*points, strict=True)),
            size=size_of(image.get("width"), image.get("height")),
        )

    pairs = [(image, item) for image in root.findall("image") for item in image]
    return each(path, ((f"item {k}", pair) for k, pair in enumerate(pairs, start=1)), read)


def _points(item: Element) -> list[tuple[float, float]]:
    """What the box of a shape must hold: its corners, turned as the shape is."""
    if item.tag == "polygon":
        pairs = [pair.split(",") for pair in item.get("points", "").split(";")]
        return [(number(x), number(y)) for x, y in pairs]
    if item.tag == "ellipse":
        x, y, across, down = (number(item.get(name)) for name in ("cx", "cy", "rx", "ry"))
        return [(x - across, y - down), (x + across, y + down)]
    if item.tag != "box":
        return []
    left, top, right, bottom = (number(item.get(name)) for name in ("xtl", "ytl", "xbr", "ybr"))
    angle = math.radians(number(item.get("rotation") or 0))
    x, y = (left + right) / 2, (top + bottom) / 2
    if not angle:
        return [(left, top), (right, bottom)]
    turned = [(a - x, b - y) for a in (left, right) for b in (top, bottom)]
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in turned]


def yolo(path: str, text: str, source: Source) -> Entries | None:
    """Class number, centre x, y, width, height as shares; of a polygon the box around it."""
    lines = [(k, line) for k, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines or not all(_LINE.fullmatch(line) for _, line in lines):
        return None
    folder = posixpath.dirname(path)
    names, has_keypoints, wrong = source.once(("yolo", folder), lambda: _names(path, source))

    def read(place: str, line: str) -> WrittenBox:
        numbers = [number(value) for value in line.split()]
        return WrittenBox(
            file=path,
            place=place,
            folder=picture_folder(path),
            name="",
            stem=stem_of(path),
            label=names.get(int(numbers[0]), str(int(numbers[0]))),
            corners=_box(numbers[1:], has_keypoints),
            units="shares",
        )

    entries = each(path, ((f"line {k}", line) for k, line in lines), read)
    return entries + source.once(("yolo problem", wrong), lambda: [wrong]) if wrong else entries


def _box(values: list[float], has_keypoints: bool) -> tuple[float, float, float, float]:
    # Four, five with a confidence; a polygon has at least three points.
    if len(values) >= 6 and not has_keypoints:
        n = len(values) // 2 * 2
        return around(values[:n:2], values[1:n:2])
    x, y, width, height = values[:4]
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _names(path: str, source: Source) -> tuple[dict[int, str], bool, Problem | None]:
    """The classes' names, whether lines end with key points, and what is wrong with their file."""
    for name in (*_YAMLS, *_NAME_LISTS, *_other_yamls(source)):
        data = source.beside(path, name)
        if data is None:
            continue
        try:
            if name in _NAME_LISTS:
                return _numbered(data.decode("utf-8", "replace").split("\n")), False, None
            content = _yaml(data)
            return _numbered(content.get("names")), "kpt_shape" in content, None
        except FeatlabError as error:
            return {}, False, Problem(name, str(error))
    return {}, False, None


def _other_yamls(source: Source) -> list[str]:
    """The names of the only YAML file of the set, which may be called as the set is."""
    others = [path for path in source.files if path.lower().endswith((".yaml", ".yml"))]
    return [posixpath.basename(others[0])] if len(others) == 1 else []


def _yaml(data: bytes) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FeatlabError("it is not valid YAML") from error
    return content if isinstance(content, dict) else {}


def _numbered(names: Any) -> dict[int, str]:
    pairs = names.items() if isinstance(names, dict) else enumerate(names or [])
    try:
        # Of anything but plain names the text could be endless: YAML lets lists hold lists.
        plain = {int(key): name for key, name in pairs if isinstance(name, (str, int, float))}
        return {key: storable(str(name).strip()) for key, name in plain.items()}
    except (TypeError, ValueError) as error:
        if isinstance(error, FeatlabError):
            raise
        raise FeatlabError("its names are neither a list nor numbered") from error


def yolo_unnamed(path: str) -> Problem:
    """What is said of class numbers that no file names."""
    why = "its classes have numbers and no names: put data.yaml or classes.txt beside labels"
    return Problem(path, why, stops=False)


# ------------------------------------------------------------------------------------------- tables


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


def via_table(path: str, rows: Rows, _: Source) -> Entries | None:
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
