"""JSON files: COCO, and those of tools to draw boxes with: LabelMe, VIA, Label Studio, CreateML."""

from __future__ import annotations

import math
import posixpath
import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

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
    quoted,
    size_of,
    stem_of,
    storable,
)

_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
_LABEL_KEYS = ("label", "class", "class_name", "name", "type", "category", "object")


def labelme(path: str, content: Any, _: Source) -> Entries | None:
    """LabelMe: a file for each picture; shapes of two corners, polygons, circles."""
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return None

    def read(place: str, item: Any) -> WrittenBox | None:
        points, shape = item["points"], item.get("shape_type", "polygon")
        if shape in ("point", "points", "line", "linestrip"):
            return None
        if shape == "circle":
            (x, y), edge = points[0], points[1]
            radius = math.dist((number(x), number(y)), (number(edge[0]), number(edge[1])))
            points = [(x - radius, y - radius), (x + radius, y + radius)]
        return WrittenBox(
            file=path,
            place=place,
            folder=picture_folder(path),
            name=posixpath.basename(forward(storable(str(content.get("imagePath") or "")))),
            stem=stem_of(path),
            label=storable(str(item["label"])),
            corners=around([one[0] for one in points], [one[1] for one in points]),
            size=size_of(content.get("imageWidth"), content.get("imageHeight")),
        )

    shapes = enumerate(content["shapes"])
    return each(path, ((f"shapes[{k}]", item) for k, item in shapes), read)


def via(path: str, content: Any, _: Source) -> Entries | None:
    """VIA: a project, or what it exports; regions are a list or, of old versions, numbered."""
    if not isinstance(content, dict):
        return None
    files = content.get("_via_img_metadata", content)
    of_files = files.values() if isinstance(files, dict) else []
    if not files or not all(isinstance(one, dict) and "regions" in one for one in of_files):
        return None
    pairs = []
    for key, one in files.items():
        regions = one["regions"]
        items = regions.values() if isinstance(regions, dict) else regions
        pairs += [(f"{key} regions[{k}]", (one, item)) for k, item in enumerate(items)]
    return each(
        path,
        pairs,
        lambda place, pair: via_box(path, place, str(pair[0].get("filename", "")), pair[1]),
    )


def via_box(path: str, place: str, name: str, region: Any) -> WrittenBox | None:
    """The box around a region of VIA; None where it has no area."""
    shape = region["shape_attributes"]
    kind = shape.get("name")
    if kind == "rect":
        left, top, width, height = corners(shape[key] for key in ("x", "y", "width", "height"))
        box = (left, top, left + width, top + height)
    elif kind in ("circle", "ellipse"):
        x, y = number(shape["cx"]), number(shape["cy"])
        across = number(shape.get("rx", shape.get("r")))
        down = number(shape.get("ry", shape.get("r")))
        box = (x - across, y - down, x + across, y + down)
    elif kind == "polygon":
        box = around(shape["all_points_x"], shape["all_points_y"])
    else:
        return None
    return WrittenBox(
        file=path,
        place=place,
        folder=picture_folder(path),
        name=forward(storable(name)),
        stem="",
        label=_attribute(region.get("region_attributes") or {}),
        corners=box,
    )


def _attribute(attributes: dict[str, Any]) -> str:
    """The class among the attributes of a region: by its usual names, or the only one."""
    named = {str(key).strip().lower(): value for key, value in attributes.items()}
    key = next((one for one in _LABEL_KEYS if one in named), None)
    if key is None and len(named) == 1:
        key = next(iter(named))
    value = named.get(key or "", "")
    if isinstance(value, dict):  # of boxes to tick
        value = next((one for one, ticked in value.items() if ticked), "")
    return storable(str(value).strip())


def label_studio(path: str, content: Any, _: Source) -> Entries | None:
    """Label Studio: tasks with results in per cent; what a model proposed is not taken."""
    tasks = content if isinstance(content, list) else []
    if not tasks or not all(isinstance(task, dict) and "data" in task for task in tasks):
        return None
    items = []
    for k, task in enumerate(tasks):
        name = _image_name(task["data"])
        for made in task.get("annotations") or task.get("completions") or []:
            if not made.get("was_cancelled"):
                results = enumerate(made.get("result") or [])
                items += [(f"[{k}] result[{j}]", (name, one)) for j, one in results]
    proposed = sum(bool(t.get("predictions")) and not t.get("annotations") for t in tasks)
    entries = each(path, items, lambda place, pair: _label_studio_box(path, place, *pair))
    if proposed:
        why = f"{proposed} of its tasks have predictions and no annotations: those are not read"
        entries.append(Problem(path, why, stops=False))
    return entries


def _label_studio_box(path: str, place: str, name: str, result: Any) -> WrittenBox | None:
    value = result.get("value") or {}
    kind = result.get("type")
    if kind not in ("rectanglelabels", "polygonlabels", "ellipselabels"):
        return None
    labels = value.get(kind) or [""]
    if kind == "polygonlabels":
        points = [(number(x) / 100, number(y) / 100) for x, y in value["points"]]
    else:
        sides = size_of(result.get("original_width"), result.get("original_height")) or (1.0, 1.0)
        points = _turned_points(kind, value, sides)
    has_suffix = bool(posixpath.splitext(name)[1])
    return WrittenBox(
        file=path,
        place=place,
        folder=picture_folder(path),
        name=name if has_suffix else "",
        stem="" if has_suffix else posixpath.basename(name),
        label=storable(str(labels[0])),
        corners=around([x for x, _ in points], [y for _, y in points]),
        units="shares",
    )


def _turned_points(
    kind: str, value: dict[str, Any], sides: tuple[float, float]
) -> list[tuple[float, float]]:
    """Corners as shares; a rectangle is turned about its upper left corner, in pixels."""
    x, y = number(value["x"]) / 100, number(value["y"]) / 100
    if kind == "ellipselabels":
        across, down = number(value["radiusX"]) / 100, number(value["radiusY"]) / 100
        return [(x - across, y - down), (x + across, y + down)]
    width, height = number(value["width"]) / 100, number(value["height"]) / 100
    angle = math.radians(number(value.get("rotation") or 0))
    cos, sin, ratio = math.cos(angle), math.sin(angle), sides[1] / sides[0]
    steps = [(a, b) for a in (0.0, width) for b in (0.0, height)]
    return [(x + a * cos - b * sin * ratio, y + a * sin / ratio + b * cos) for a, b in steps]


def _image_name(data: Any) -> str:
    """The picture of a task, of a link to the tool's own storage or an upload."""
    values = [value for value in data.values() if isinstance(value, str)] if data else []
    link = (data.get("image") if isinstance(data, dict) else None) or (values or [""])[0]
    parts = urlsplit(str(link))
    query = parse_qs(parts.query).get("d")
    path = query[0] if query else unquote(parts.path)
    if "/upload/" in path:
        path = _UPLOADED.sub("", posixpath.basename(path), count=1)
    return forward(storable(path)).lstrip("/")


def createml(path: str, content: Any, _: Source) -> Entries | None:
    """CreateML: pictures with centre, width and height in pixels."""
    tasks = content if isinstance(content, list) else []
    keys = ("image", "imagefilename")
    if not tasks or not all(
        isinstance(task, dict)
        and any(isinstance(task.get(key), str) for key in keys)
        and any(isinstance(task.get(key), list) for key in ("annotations", "annotation"))
        for task in tasks
    ):
        return None
    items = []
    for k, task in enumerate(tasks):
        name = next(task[key] for key in keys if isinstance(task.get(key), str))
        of_task = enumerate(task.get("annotations") or task.get("annotation") or [])
        items += [(f"[{k}] annotations[{j}]", (name, one)) for j, one in of_task]

    def read(place: str, pair: tuple[str, Any]) -> WrittenBox:
        name, item = pair
        if not isinstance(item.get("coordinates"), dict):
            raise FeatlabError("it has no coordinates")
        place_of = item["coordinates"]
        x, y, width, height = corners(place_of[key] for key in ("x", "y", "width", "height"))
        return WrittenBox(
            file=path,
            place=place,
            folder=picture_folder(path),
            name=forward(storable(name)),
            stem="",
            label=storable(str(item["label"])),
            corners=(x - width / 2, y - height / 2, x + width / 2, y + height / 2),
        )

    return each(path, items, read)


def coco(path: str, content: Any, _: Source) -> Entries | None:
    """Boxes; where there is none, those around polygons and masks. Crowds are of a kind."""
    if not isinstance(content, dict):
        return None
    listed = [content.get(key) for key in ("images", "annotations")]
    if not all(isinstance(items, list) for items in listed):
        return None
    if content["annotations"] and not any(map(_has_place, content["annotations"])):
        why = "its annotations have neither bbox nor segmentation, such as captions: no boxes there"
        return [Problem(path, why, stops=False)]
    images, categories = _by_id(content["images"]), _by_id(content.get("categories"))
    names = {key: str(one["name"]) for key, one in categories.items() if "name" in one}

    def read(place: str, item: Any) -> WrittenBox:
        number, of_class = str(item["image_id"]), item.get("category_id")
        if number not in images:
            given = quoted(item["image_id"])
            raise FeatlabError(f"it names image_id {given}, which is not in images")
        if names and of_class is not None and str(of_class) not in names:
            raise FeatlabError(f"it names category_id {quoted(of_class)}, not in categories")
        picture = images[number]
        name = forward(storable(str(_first_of(picture, "file_name", "coco_url", "path"))))
        has_suffix = bool(posixpath.splitext(name)[1])
        label = "" if of_class is None else names.get(str(of_class), str(of_class))
        return WrittenBox(
            file=path,
            place=place,
            folder=picture_folder(path),
            name=name if has_suffix else "",
            stem="" if has_suffix else posixpath.basename(name),
            label=storable(label),
            corners=_coco_box(item),
            kind="crowd" if item.get("iscrowd") else DEFAULT_KIND,
            size=size_of(picture.get("width"), picture.get("height")),
        )

    items = enumerate(content["annotations"])
    entries = each(path, ((f"annotations[{k}]", item) for k, item in items), read)
    if not names and any(isinstance(one, WrittenBox) and one.label for one in entries):
        why = "it names no categories: its boxes are labelled by their category_id"
        entries.append(Problem(path, why, stops=False))
    return entries


def _coco_box(item: dict[str, Any]) -> tuple[float, float, float, float]:
    if item.get("bbox") or not item.get("segmentation"):
        bounds = item.get("bbox")
        if not isinstance(bounds, list) or len(bounds) != 4:
            raise FeatlabError(f"bbox must be [x, y, width, height], got {quoted(bounds)}")
        left, top, width, height = corners(bounds)
        return left, top, left + width, top + height
    outline = item["segmentation"]
    if isinstance(outline, list):
        flat = [value for polygon in outline for value in polygon]
        return around(flat[::2], flat[1::2])
    return _box_of_mask(outline)


def _box_of_mask(mask: dict[str, Any]) -> tuple[float, float, float, float]:
    try:
        from pycocotools import mask as masks
    except ImportError as error:
        raise FeatlabError("its mask (RLE) needs pycocotools: pip install pycocotools") from error
    packed = mask if isinstance(mask["counts"], str) else masks.frPyObjects(mask, *mask["size"])
    left, top, width, height = masks.toBbox(packed).tolist()
    return left, top, left + width, top + height


def _has_place(item: Any) -> bool:
    return not isinstance(item, dict) or "bbox" in item or "segmentation" in item


def _first_of(picture: dict[str, Any], *keys: str) -> Any:
    """The first of some keys that there is."""
    known = [picture[key] for key in keys if picture.get(key)]
    if not known:
        raise FeatlabError(f"its picture has no {keys[0]}")
    return known[0]


def _by_id(items: Any) -> dict[str, dict[str, Any]]:
    """Items by their id, which tools write as numbers here and as text there."""
    given = items if isinstance(items, list) else []
    return {str(item["id"]): item for item in given if isinstance(item, dict) and _has_key(item)}


def _has_key(item: dict[str, Any]) -> bool:
    return isinstance(item.get("id"), (int, str))
