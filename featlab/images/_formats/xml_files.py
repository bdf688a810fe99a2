"""Pascal VOC: an XML file for each picture; CVAT: one for all of them."""

from __future__ import annotations

import math
import posixpath
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
)

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def voc(path: str, root: Element, _: Source) -> Entries | None:
    """``annotation`` of ``object`` with ``name`` and ``bndbox``, coordinates as written."""
    if root.tag != "annotation":
        return None

    def read(place: str, item: Element) -> WrittenBox:
        bounds = item.find("bndbox")
        if bounds is None:
            raise FeatlabError("it has no bndbox")
        return WrittenBox(
            file=path,
            place=place,
            folder=picture_folder(path),
            name=posixpath.basename(forward(root.findtext("filename", "").strip())),
            stem=stem_of(path),
            label=item.findtext("name", "").strip(),
            corners=corners(bounds.findtext(name, "") for name in _CORNERS),
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
            name=forward(image.get("name", "")),
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
