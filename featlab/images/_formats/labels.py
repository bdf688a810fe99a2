"""Pascal VOC and YOLO, a file for each picture; CVAT, one for all of them."""

from __future__ import annotations

import math
import posixpath
import re
from typing import Any
from xml.etree.ElementTree import Element

from featlab.errors import FeatlabError
from featlab.images._annotations import (
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

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_LINE = re.compile(r"\s*\d+(\s+[-+.\deE]+){4,}\s*")
_NAME_LISTS = ("classes.txt", "obj.names", "_darknet.labels")
_YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


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
