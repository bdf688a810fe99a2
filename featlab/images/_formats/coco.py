"""COCO: JSON files (instances, keypoints) of images, annotations and categories."""

from __future__ import annotations

from typing import Any

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
    picture_folder,
    quoted,
    size_of,
    storable,
)


def instances(path: str, content: Any, _: Source) -> Entries | None:
    """Boxes; where there is none, those around polygons and masks. Crowds are of a kind."""
    if not isinstance(content, dict):
        return None
    listed = [content.get(key) for key in ("images", "annotations")]
    if not all(isinstance(items, list) for items in listed):
        return None
    images = _by_id(content["images"])
    categories = content.get("categories")
    names = _by_id(categories) if isinstance(categories, list) else None

    def read(place: str, item: Any) -> WrittenBox:
        if item["image_id"] not in images:
            given = quoted(item["image_id"])
            raise FeatlabError(f"it names image_id {given}, which is not in images")
        if names is not None and item["category_id"] not in names:
            given = quoted(item["category_id"])
            raise FeatlabError(f"it names category_id {given}, not in categories")
        picture = images[item["image_id"]]
        label = item["category_id"] if names is None else names[item["category_id"]]["name"]
        return WrittenBox(
            file=path,
            place=place,
            folder=picture_folder(path),
            name=forward(storable(str(picture["file_name"]))),
            stem="",
            label=storable(str(label)),
            corners=_box(item),
            kind="crowd" if item.get("iscrowd") else DEFAULT_KIND,
            size=size_of(picture.get("width"), picture.get("height")),
        )

    items = enumerate(content["annotations"])
    entries = each(path, ((f"annotations[{k}]", item) for k, item in items), read)
    if names is None and entries:
        why = "it has no categories: its boxes are labelled by their category_id"
        entries.append(Problem(path, why, stops=False))
    return entries


def _box(item: dict[str, Any]) -> tuple[float, float, float, float]:
    if "bbox" in item or not item.get("segmentation"):
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


def _by_id(items: list[Any]) -> dict[Any, Any]:
    return {item["id"]: item for item in items if isinstance(item, dict) and _is_key(item)}


def _is_key(item: dict[str, Any]) -> bool:
    return isinstance(item.get("id"), (int, str))
