"""Mutated boxes.csv, Pascal VOC, COCO and index CSV files beside three good pictures."""

from __future__ import annotations

import copy
import csv
import functools
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mutations
import numpy as np
from PIL import Image

from featlab.images import index_images

ODD_TEXTS = (
    "", " ", "nan", "inf", "-inf", "1e400", "-0", "0x10", "1_000", "١٢", "1,5", "9" * 5000, "a\0b",
    "../../etc/passwd", "/etc/passwd", "C:\\x", "con", "a" * 70_000, "\ud800", "=1+1", '"', "'",
    "\n",    "🦝", "é", "e\u0301", "<x>", "&lt;", "%s", "{}", "None", "true", "-5", "1e308",
    "1e-320",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, [], {}, [[]], {"id": 1}, -1, 0, 1.5, 1e308, float("nan"), float("inf"), 10**400,
    [1, 2, 3], [1, 2, 3, 4, 5], ["1", "2", "3", "4"], [None] * 4, *ODD_TEXTS,
)  # fmt: skip

CSV = (
    "image,label,kind,width,height,xmin,ymin,xmax,ymax\n"
    "cat/a.png,cat,head,20,10,1,1,5.5,6\ncat/b.png,cat,body,20,10,2,2,18,9\n"
    "dog/c.png,dog,head,20,10,0,0,20,10\n"
)
INDEX = (
    "path,label,split,group\ncat/a.png,cat,train,g1\ncat/b.png,cat,val,\ndog/c.png,dog,test,g2\n"
)
VOC = (
    "<annotation><folder>cat</folder><filename>a.png</filename><size><width>20</width>"
    "<height>10</height><depth>3</depth></size><object><name>cat</name><bndbox><xmin>1</xmin>"
    "<ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object><object><name>cat</name><bndbox>"
    "<xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object></annotation>"
)
COCO = {
    "images": [
        {"id": 1, "file_name": "cat/a.png", "width": 20, "height": 10},
        {"id": 2, "file_name": "dog/c.png", "width": 20, "height": 10},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 5], "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [0, 0, 20, 10], "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}
_REGION = {
    "shape_attributes": {"name": "polygon", "all_points_x": [1, 9, 4], "all_points_y": [1, 2, 8]},
    "region_attributes": {"class": {"cat": True}},
}
_VALUE = {"x": 10, "y": 10, "width": 50, "height": 50, "rotation": 3, "rectanglelabels": ["cat"]}
_SIDES = {"original_width": 20, "original_height": 10}
# CVAT, YOLO and its names, LabelMe, VIA, Label Studio, CreateML, TFOD, Open Images, VIA's CSV.
MORE = (
    '<annotations><image name="cat/a.png" width="20" height="10"><box label="cat" xtl="1" ytl="1" '
    'xbr="9" ybr="8" rotation="5"/><polygon label="cat" points="1,1;5,6;2,8"/></image>'
    "</annotations>",
    "0 0.5 0.5 0.4 0.4\n1 0.1 0.1 0.9 0.1 0.9 0.9\n",
    "names:\n  0: cat\n  1: dog\nkpt_shape: [2, 3]\n",
    json.dumps({"imagePath": "a.png", "imageWidth": 20, "imageHeight": 10, "shapes": [
        {"label": "cat", "points": [[1, 1], [9, 8]], "shape_type": "rectangle"},
        {"label": "cat", "points": [[5, 5], [6, 6]], "shape_type": "circle"}]}),
    json.dumps({"_via_img_metadata": {"a.png1": {"filename": "a.png", "regions": [_REGION]}}}),
    json.dumps([{"data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": [
        {"result": [{"type": "rectanglelabels", "value": _VALUE, **_SIDES}]}]}]),
    json.dumps([{"image": "a.png", "annotations": [
        {"label": "cat", "coordinates": {"x": 5, "y": 5, "width": 4, "height": 4}}]}]),
    "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,20,10,cat,1,1,9,8\n",
    "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\na,/m/1,0.1,0.9,0.1,0.9,0\n",
    'filename,region_shape_attributes,region_attributes\na.png,"{""name"":""rect"",""x"":1,'
    '""y"":1,""width"":5,""height"":5}","{""class"":""cat""}"\n',
)  # fmt: skip
NAMES = (
    "boxes.csv", "index.csv", "cat/a.xml", "annotations.json", "cvat.xml", "cat/a.txt",
    "data.yaml", "cat/a.json", "via.json", "studio.json", "create.json", "tfod.csv", "open.csv",
    "via.csv",
)  # fmt: skip


@functools.cache
def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, "PNG")
    return buffer.getvalue()


def pick(values: tuple[Any, ...], rng: np.random.Generator) -> Any:
    return values[rng.integers(len(values))]


def mutated_csv(text: str, rng: np.random.Generator) -> bytes:
    rows = list(csv.reader(io.StringIO(text)))
    for _ in range(rng.integers(1, 4)):
        row = rows[rng.integers(len(rows))]
        choice = rng.integers(6)
        if choice < 3 and row:
            row[rng.integers(len(row))] = pick(ODD_TEXTS, rng)
        elif choice == 3:
            row.append(pick(ODD_TEXTS, rng))
        elif choice == 4:
            del row[rng.integers(len(row) + 1) :]
        else:
            rows.append(list(row))
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    encoding = pick(("utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig", "latin-1"), rng)
    return buffer.getvalue().encode(encoding, "replace")


def mutated_xml(rng: np.random.Generator) -> bytes:
    choice = rng.integers(8)
    if choice == 0:
        return bomb(rng)
    if choice == 1:
        depth = int(rng.choice([100, 10_000, 300_000]))
        return b"<annotation>" + b"<a>" * depth + b"</a>" * depth + b"</annotation>"
    root = ElementTree.fromstring(VOC)
    for _ in range(rng.integers(1, 5)):
        items = list(root.iter())
        item = items[rng.integers(len(items))]
        what = rng.integers(4)
        if what == 0:
            item.text = pick(ODD_TEXTS, rng)
        elif what == 1:
            item.tag = pick(("object", "bndbox", "xmin", "name", "size", "x"), rng)
        elif what == 2 and len(item):
            item.remove(item[rng.integers(len(item))])
        else:
            item.append(copy.deepcopy(items[rng.integers(len(items))]))
    return ElementTree.tostring(root, "utf-8").replace(b"\0", b"") or b"<a/>"


def bomb(rng: np.random.Generator) -> bytes:
    """Entities that would expand to gigabytes, or to other files."""
    laughs = "".join(
        f'<!ENTITY a{k} "{f"&a{k - 1};" * 10 if k else "ha" * 1000}">' for k in range(9)
    )
    entities = pick(
        (
            laughs,
            '<!ENTITY a8 SYSTEM "file:///etc/passwd">',
            '<!ENTITY % x SYSTEM "http://localhost/x"> %x;',
            f'<!ENTITY a8 "{"x" * 100_000}">',
        ),
        rng,
    )
    body = VOC.replace("<name>cat", "<name>" + "&a8;" * int(rng.choice([1, 100])))
    text = f'<?xml version="1.0"?><!DOCTYPE annotation [{entities}]>{body}'
    return text.encode(pick(("utf-8", "utf-16"), rng))


def mutated_json(plain: Any, rng: np.random.Generator) -> bytes:
    choice = rng.integers(8)
    if choice == 0:
        depth = int(rng.choice([500, 5_000, 300_000]))
        opening, closing = pick((("[", "]"), ('{"images":', "}")), rng)
        return (opening * depth + "1" + closing * depth).encode()
    tree = copy.deepcopy(plain)
    for _ in range(rng.integers(1, 5)):
        places = list(nodes(tree))
        if not places:
            break
        holder, key = places[rng.integers(len(places))]
        what = rng.integers(4)
        if what < 2:
            holder[key] = pick(ODD_VALUES, rng)
        elif what == 2:
            del holder[key]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
    return json.dumps(tree).encode()


def nodes(tree: Any) -> Any:
    """Every place in the tree, as what holds it and its key there."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree))
    for key in list(keys):
        yield tree, key
        if isinstance(tree[key], (dict, list)):
            yield from nodes(tree[key])


def run(number: int, folder: Path) -> str:
    """Index the folder; on_error takes turns."""
    rng = np.random.default_rng([8, number])
    for path in ("cat/a.png", "cat/b.png", "dog/c.png"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(picture())
    kind = number % len(NAMES)
    name = NAMES[kind]
    plain = (CSV, INDEX, VOC, json.dumps(COCO), *MORE)[kind]
    if rng.random() < 0.35:
        data = mutations.damage(plain.encode(), rng)
    elif name == "cat/a.xml":
        data = mutated_xml(rng)
    elif name.endswith(".json"):
        data = mutated_json(json.loads(plain), rng)
    elif name.endswith(".csv"):
        data = mutated_csv(plain, rng)
    else:
        data = mutations.damage(plain.encode(), rng)
    (folder / name).write_bytes(data)
    if name == "data.yaml":
        (folder / "cat" / "a.txt").write_text(MORE[1])
    source = folder / name if kind == 1 else folder
    images, boxes, skipped = index_images(
        source, on_error=("raise", "skip")[number // len(NAMES) % 2]
    )
    assert set(images["path"]) <= {"cat/a.png", "cat/b.png", "dog/c.png"}
    for table in (images, boxes, skipped):
        for column in {"reason", "path", "label", "split", "group", "kind"} & set(table):
            for text in table[column]:
                assert isinstance(text, str)
                text.encode("utf-8")
                assert "\0" not in text
    corners = boxes[["xmin", "ymin", "xmax", "ymax"]].to_numpy()
    assert np.isfinite(corners).all()
    assert (corners >= 0).all() and (corners <= [20, 10, 20, 10]).all()
    assert (corners[:, :2] < corners[:, 2:]).all()
    assert boxes["image"].between(0, len(images) - 1).all()
    return "skipped" if len(skipped) else "right"
