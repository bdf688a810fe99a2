"""Folders as people have them: what is read, what is refused, and what is said of the rest."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone
from PIL import Image

from featlab import FeatlabError
from featlab.arguments import boxes_of_kind
from featlab.cli._options import tell_boxes
from featlab.extract import extract_maps
from featlab.images import PictureTable, decode_picture, index_images, index_pictures
from featlab.images._annotations import split_of
from featlab.images.pixels import InputReader, intensity_of
from featlab.store import MapStore

SIDE = 40
CLASSES = ("apple", "banana")
CORNERS = ["xmin", "ymin", "xmax", "ymax"]


def draw(path: Path, seed: int, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)


def draw_set(root: Path, place: str = "{label}/{name}.png", n: int = 6) -> dict[str, str]:
    """Pictures of two classes; name → path. `place` may name the side: every third is tested."""
    paths = {}
    for k in range(n):
        label, name = CLASSES[k % 2], f"{CLASSES[k % 2]}_{k}"
        side = ("test", "train", "train")[k // 2 % 3]
        paths[name] = place.format(label=label, name=name, side=side)
        draw(root / paths[name], k)
    return paths


def box_of(name: str) -> list[int]:
    """The box of a picture: known from its number."""
    k = int(name.rpartition("_")[2])
    return [k, 2 * k, k + 10, 2 * k + 12]


def check_boxes(images: pd.DataFrame, boxes: pd.DataFrame, n: int = 6) -> None:
    """Each picture has its one box, with its class."""
    assert boxes["image"].tolist() == [*range(n)]
    names = [Path(path).stem for path in images["path"]]
    np.testing.assert_allclose(boxes[CORNERS], [box_of(name) for name in names], atol=1e-3)
    assert boxes["label"].tolist() == [name.rpartition("_")[0] for name in names]


# ---------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("Training", "train"), ("training_set", "train"), ("trainset", "train"),
        ("train2017", "train"), ("01-train", "train"), ("TRAIN_IMAGES", "train"),
        ("Testing", "test"), ("test_set", "test"), ("testdata", "test"), ("hold_out", "test"),
        ("evaluation", "test"), ("valid", "val"), ("Validation-Set", "val"), ("dev", "val"),
        ("trains", ""), ("latest", ""), ("test_tubes", ""), ("train_test", ""), ("cat", ""),
    ],
)  # fmt: skip
def test_a_side_by_its_name(name, side):
    assert split_of(name) == side


@pytest.mark.parametrize(
    ("train", "test", "other"),
    [
        ("Training", "Test", "test"),
        ("training_set", "test_set", "test"),
        ("train", "dev", "test"),
        ("train", "validation", "val"),
        ("data/Train", "data/Val", "val"),
    ],
)
def test_split_folders_of_many_names(tmp_path, train, test, other):
    for k in range(6):
        draw(tmp_path / (test if k < 2 else train) / CLASSES[k % 2] / f"{k}.png", k)
    images, _, _ = index_images(tmp_path)
    assert set(images["label"]) == set(CLASSES)
    is_train = images["path"].str.startswith(train + "/")
    assert images["split"].tolist() == np.where(is_train, "train", other).tolist()


def test_splits_below_the_classes(tmp_path):
    draw_set(tmp_path, "{label}/{side}/{name}.png")
    images, _, _ = index_images(tmp_path)
    assert (images["label"] == images["path"].str.split("/").str[0]).all()
    assert (images["split"] == images["path"].str.split("/").str[1]).all()


def test_top_folders_that_hold_the_same_folders_are_a_question(tmp_path):
    for k, place in enumerate(("a/cat", "a/dog", "b/cat", "b/dog")):
        draw(tmp_path / place / f"{k}.png", k)
    with pytest.raises(
        FeatlabError, match=r"a, b .* hold the same folders \(cat, dog\).*label-from"
    ):
        index_images(tmp_path)
    images, _, _ = index_images(tmp_path, label_from="^[^/]+/([^/]+)")
    assert images["label"].tolist() == ["cat", "dog", "cat", "dog"]
    images, _, _ = index_images(tmp_path, label_from="^([^/]+)")
    assert images["label"].tolist() == ["a", "a", "b", "b"]


def test_the_only_folder_is_no_class(tmp_path, caplog):
    draw_set(tmp_path, "fruit/{label}/{name}.png")
    with caplog.at_level("INFO"):
        assert set(index_images(tmp_path)[0]["label"]) == set(CLASSES)
    assert "fruit is the only folder" in caplog.text


@pytest.mark.parametrize(
    ("images_in", "beside"),
    [
        ("JPEGImages", ("SegmentationClass", "SegmentationObject")),
        ("images", ("masks",)),
        ("train/images", ("train/labels",)),
    ],
)
def test_masks_beside_the_pictures_are_no_class(tmp_path, images_in, beside):
    for k in range(4):
        draw(tmp_path / images_in / f"{k}.jpg", k)
        for folder in beside:
            draw(tmp_path / folder / f"{k}.png", k)
    images, _, skipped = index_images(tmp_path)
    assert images["path"].str.startswith(images_in).all() and len(images) == 4
    assert images["label"].eq("").all() and len(skipped) == 1
    assert f"{4 * len(beside)} pictures in" in skipped["reason"][0]


def test_masks_named_after_a_picture_beside_them_are_none_of_the_set(tmp_path):
    paths = draw_set(tmp_path)
    for k, path in enumerate(paths.values()):
        draw(tmp_path / path.replace(".png", "_mask.png"), k + 9)
    draw(tmp_path / "apple" / "death_mask.png", 30)
    images, _, skipped = index_images(tmp_path)
    assert images["path"].tolist() == sorted([*paths.values(), "apple/death_mask.png"])
    assert skipped["reason"].str.startswith("6 pictures named as the mask").tolist() == [True]


def test_masks_of_a_devkit(tmp_path):
    """However deep it lies; and its folder is no class where the boxes name some."""
    paths = draw_set(tmp_path, "VOCdevkit/VOC2007/JPEGImages/{name}.png")
    (tmp_path / "VOCdevkit/VOC2007/Annotations").mkdir()
    for name, path in paths.items():
        draw(tmp_path / path.replace("JPEGImages", "SegmentationClass"), 9)
        (tmp_path / f"VOCdevkit/VOC2007/Annotations/{name}.xml").write_text(voc(name))
    images, boxes, skipped = index_images(tmp_path)
    check_boxes(images, boxes)
    assert (images["label"] == boxes["label"]).all()
    assert skipped["path"].tolist() == ["SegmentationClass", "VOCdevkit"]
    assert skipped["reason"][1].startswith("read as no class: the classes are those of the boxes")


@pytest.mark.parametrize("top", ["{side}/{side}", "seg_{side}/seg_{side}"])
def test_folders_that_repeat_the_one_around_them(tmp_path, top):
    draw_set(tmp_path, top + "/{label}/{name}.png")
    images, _, _ = index_images(tmp_path)
    assert set(images["label"]) == set(CLASSES) and set(images["split"]) == {"train", "test"}


@pytest.mark.parametrize("extra", ["a/cat/x.png", "b/dog/x.png"])
def test_folders_that_several_classes_share_are_told(tmp_path, extra):
    """Not all the same, so no question; and said all the same."""
    for k, place in enumerate(("a/cat/0.png", "b/cat/1.png", extra)):
        draw(tmp_path / place, k)
    images, _, skipped = index_images(tmp_path)
    assert set(images["label"]) == {"a", "b"}
    assert skipped["path"].tolist() == ["a, b"]
    assert "and cat in several of them as no class" in skipped["reason"][0]
    assert index_images(tmp_path, label_from="^[^/]+/([^/]+)")[2].empty


def test_boxes_answer_what_folders_are(tmp_path):
    paths = draw_set(tmp_path, "{label}/{side}way/{name}.png", n=12)
    with pytest.raises(FeatlabError, match="hold the same folders"):
        index_images(tmp_path)
    rows = [[path, name.rpartition("_")[0], *box_of(name)] for name, path in paths.items()]
    put_boxes(tmp_path, [row[:1] + row[2:] for row in rows], "image,xmin,ymin,xmax,ymax")
    with pytest.raises(FeatlabError, match="hold the same folders"):
        index_images(tmp_path)  # Boxes without labels have those of the folders: no answer.
    put_boxes(tmp_path, rows)
    assert set(index_images(tmp_path)[0]["label"]) == set(CLASSES)


def test_no_box_is_called_as_a_folder(tmp_path):
    paths = draw_set(tmp_path, "set_{side}_a/{name}.png")
    rows = [[path, name.rpartition("_")[0], *box_of(name)] for name, path in paths.items()]
    put_boxes(tmp_path, rows)
    images, _, skipped = index_images(tmp_path)
    assert set(images["label"]) == {"set_test_a", "set_train_a"}
    assert skipped["reason"].str.contains("no box is called so .but apple, banana").tolist() == [
        True
    ]
    images, boxes, _ = index_images(tmp_path, label_from_boxes="only")
    assert (images["label"][boxes["image"]].to_numpy() == boxes["label"]).all()


def test_an_accented_letter_of_one_character_or_two_is_one_class(tmp_path):
    for k, name in enumerate(("caf\u00e9", "cafe\u0301", "tea")):
        draw(tmp_path / name / f"{k}.png", k)
    put_boxes(tmp_path, [["cafe\u0301/1.png", "cafe\u0301", 1, 1, 9, 9]])
    images, boxes, _ = index_images(tmp_path)
    assert set(images["label"]) == {"caf\u00e9", "tea"} and boxes["label"].tolist() == ["caf\u00e9"]


def test_avif_is_read(tmp_path):
    features = pytest.importorskip("PIL.features")
    if not features.check("avif"):
        pytest.skip("this Pillow does not write AVIF")
    # Noise has colours of its own in each pixel, which usual subsampling would average.
    draw(tmp_path / "a" / "0.avif", 0, quality=100, subsampling="4:4:4")
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    assert index_images(tmp_path)[0][["width", "height"]].to_numpy().tolist() == [[SIDE, SIDE]]
    decoded = decode_picture((tmp_path / "a" / "0.avif").read_bytes())
    assert np.corrcoef(decoded.ravel(), pixels.ravel())[0, 1] > 0.99


def test_a_stray_picture_does_not_make_a_class_of_images(tmp_path):
    draw_set(tmp_path, "images/{name}.png")
    draw(tmp_path / "cover.png", 9)
    images, _, _ = index_images(tmp_path)
    assert len(images) == 7 and images["label"].eq("").all()


def test_split_and_label_from_the_path(tmp_path):
    draw_set(tmp_path, "{name}_{side}.png")
    pattern = {"split_from": "(train|test).png", "label_from": "^[a-z]+"}
    images, _, _ = index_images(tmp_path, **pattern)
    assert images["split"].tolist() == images["path"].str.extract("(train|test)")[0].tolist()
    assert set(images["label"]) == set(CLASSES)
    with pytest.raises(
        FeatlabError, match="finds '0' in 'apple_0_test.png'; it must find the name"
    ):
        index_images(tmp_path, split_from="[0-9]")
    with pytest.raises(FeatlabError, match="label_from 'x' finds no label in"):
        index_images(tmp_path, label_from="x")


# --------------------------------------------------------------------------------------- formats


def put_yolo(root: Path, paths: dict[str, str], names: str = "names: [apple, banana]") -> None:
    (root / "data.yaml").write_text(f"train: images/train\nval: images/test\n{names}\n")
    for name, path in paths.items():
        a, b, c, d = box_of(name)
        shares = [(a + c) / 2 / SIDE, (b + d) / 2 / SIDE, (c - a) / SIDE, (d - b) / SIDE]
        file = (root / path.replace("images", "labels")).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        number = CLASSES.index(name.rpartition("_")[0])
        file.write_text(" ".join(map(str, [number, *shares])) + "\n")


@pytest.mark.parametrize(
    "place", ["images/{side}/{name}.png", "{side}/images/{name}.png", "images/{name}.png"]
)
@pytest.mark.parametrize("names", ["names: [apple, banana]", "names:\n  0: apple\n  1: banana"])
def test_yolo(tmp_path, place, names):
    paths = draw_set(tmp_path, place)
    put_yolo(tmp_path, paths, names)
    images, boxes, skipped = index_images(tmp_path)
    check_boxes(images, boxes)
    assert (images["label"] == boxes["label"]).all() and skipped.empty
    assert set(images["split"]) == ({"train", "test"} if "side" in place else {""})


def test_yolo_beside_the_pictures_polygons_and_no_names(tmp_path):
    paths = draw_set(tmp_path)
    for name, path in paths.items():
        a, b, c, d = (value / SIDE for value in box_of(name))
        (tmp_path / path).with_suffix(".txt").write_text(f"0 {a} {b} {c} {b} {c} {d} {a} {d}")
    _, boxes, skipped = index_images(tmp_path)
    np.testing.assert_allclose(boxes[CORNERS], [box_of(n) for n in sorted(paths)], atol=1e-3)
    assert set(boxes["label"]) == {"0"} and "numbers and no names" in skipped["reason"][0]


def voc(name: str) -> str:
    bounds = "".join(f"<{k}>{v}</{k}>" for k, v in zip(CORNERS, box_of(name), strict=True))
    label = name.rpartition("_")[0]
    item = f"<object><name>{label}</name><bndbox>{bounds}</bndbox></object>"
    return f"<annotation><filename>{name}.png</filename>{item}</annotation>"


@pytest.mark.parametrize("folder", ["annots", "labels", "xml", "whatever", "apple_is_no_class"])
def test_voc_in_a_folder_of_any_name(tmp_path, folder):
    paths = draw_set(tmp_path)
    (tmp_path / folder).mkdir()
    for name in paths:
        (tmp_path / folder / f"{name}.xml").write_text(voc(name))
    check_boxes(*index_images(tmp_path)[:2])


def json_of(tool: str, paths: dict[str, str]) -> object:
    """What a tool writes into one file for all pictures."""
    made = []
    for name, path in paths.items():
        a, b, c, d = box_of(name)
        label, file = name.rpartition("_")[0], Path(path).name
        if tool == "createml":
            centre = {"x": (a + c) / 2, "y": (b + d) / 2, "width": c - a, "height": d - b}
            made.append({"image": file, "annotations": [{"label": label, "coordinates": centre}]})
        elif tool == "label studio":
            share = 100 / SIDE
            value = {"x": a * share, "y": b * share, "width": (c - a) * share, "rotation": 0}
            value |= {"height": (d - b) * share, "rectanglelabels": [label]}
            size = {"original_width": SIDE, "original_height": SIDE}
            result = [{"type": "rectanglelabels", "value": value, **size}]
            link = f"/data/upload/3/0a1b2c3d-{file}"
            cancelled = {"was_cancelled": True, "result": [{**result[0], "value": {}}]}
            task = {"data": {"image": link}, "annotations": [cancelled, {"result": result}]}
            made.append(task)
        else:
            shape = {"name": "rect", "x": a, "y": b, "width": c - a, "height": d - b}
            if tool == "via polygons":
                outline = {"all_points_x": [a, c, c], "all_points_y": [b, b, d]}
                shape = {"name": "polygon", **outline}
            region = {"shape_attributes": shape, "region_attributes": {"class": label}}
            made.append({"filename": file, "size": 1, "regions": [region]})
    if tool.startswith("via"):
        files = {f"{one['filename']}1": one for one in made}
        return files if tool == "via export" else {"_via_img_metadata": files}
    return made


@pytest.mark.parametrize(
    "tool", ["createml", "label studio", "via project", "via export", "via polygons"]
)
@pytest.mark.parametrize("place", ["{label}/{name}.png", "{name}.png"])
def test_json_of_tools(tmp_path, tool, place):
    """With class folders, and without: then the boxes label the pictures."""
    paths = draw_set(tmp_path, place)
    (tmp_path / "export.json").write_text(json.dumps(json_of(tool, paths)))
    images, boxes, _ = index_images(tmp_path)
    check_boxes(images, boxes)
    assert (images["label"] == boxes["label"]).all()


def test_labelme(tmp_path):
    paths = draw_set(tmp_path)
    for name, path in paths.items():
        a, b, c, d = box_of(name)
        shape = {"label": name.rpartition("_")[0], "points": [[a, b], [c, d]]}
        shapes = [shape | {"shape_type": "rectangle"}, shape | {"shape_type": "line"}]
        content = {"imagePath": f"..\\{Path(path).name}", "shapes": shapes, "imageData": None}
        (tmp_path / path).with_suffix(".json").write_text(json.dumps(content))
    check_boxes(*index_images(tmp_path)[:2])


def test_cvat(tmp_path):
    paths = draw_set(tmp_path)
    items = []
    for name, path in paths.items():
        a, b, c, d = box_of(name)
        label = name.rpartition("_")[0]
        shape = f'<box label="{label}" xtl="{a}" ytl="{b}" xbr="{c}" ybr="{d}"/>'
        if name.endswith(("0", "3")):
            shape = f'<polygon label="{label}" points="{a},{b};{c},{d};{a},{d}"/>'
        tag = f'<image name="{path}" width="{SIDE}" height="{SIDE}">'
        items.append(f"{tag}{shape}<tag label='x'/></image>")
    (tmp_path / "x.xml").write_text(f"<annotations>{''.join(items)}</annotations>")
    check_boxes(*index_images(tmp_path)[:2])


def test_the_sides_of_a_project_of_cvat(tmp_path):
    """Its pictures bear the name of their side beside their own."""
    items = []
    for k, side in enumerate(("Train", "Test")):
        draw(tmp_path / "images" / side / "1.png", k)
        box = f'<box label="a" xtl="{k}" ytl="1" xbr="9" ybr="9"/>'
        items.append(f'<image name="1.png" subset="{side}">{box}</image>')
    (tmp_path / "annotations.xml").write_text(f"<annotations>{''.join(items)}</annotations>")
    images, boxes, _ = index_images(tmp_path)
    assert images["split"].tolist() == ["test", "train"]
    assert boxes["image"].tolist() == [0, 1] and boxes["xmin"].tolist() == [1, 0]


def test_outlines_of_labelme_in_xml(tmp_path):
    draw_set(tmp_path, "{name}.png", n=2)
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((3, 4), (9, 5), (6, 12)))
    outline = f"<object><name>a</name><polygon><username/>{points}</polygon></object>"
    (tmp_path / "apple_0.xml").write_text(f"<annotation>{outline}</annotation>")
    assert index_images(tmp_path)[1][CORNERS].to_numpy().tolist() == [[3, 4, 9, 12]]


def test_what_boxes_are_read_from_is_said(tmp_path, caplog):
    put_yolo(tmp_path, draw_set(tmp_path, "images/{name}.png"))
    with caplog.at_level("INFO"):
        index_images(tmp_path)
    assert "boxes: 6 files of YOLO, such as labels/apple_0.txt" in caplog.text


def test_a_side_without_boxes_is_said(tmp_path, caplog):
    paths = draw_set(tmp_path, "{side}/{label}/{name}.png")
    train = [path for path in paths.values() if path.startswith("train")]
    put_boxes(tmp_path, [[path, path.split("/")[1], 1, 1, 9, 9] for path in train])
    images, boxes, _ = index_images(tmp_path)
    tell_boxes(images, boxes)
    assert "class: apple 2 of 3, banana 2 of 3; of each side: test 0 of 2, train 4 of 4" in (
        caplog.text
    )


def test_a_turned_box_of_cvat_and_label_studio_is_the_box_around_it(tmp_path):
    draw_set(tmp_path, "{name}.png")
    turned = '<box label="a" xtl="10" ytl="18" xbr="30" ybr="22" rotation="90"/>'
    (tmp_path / "x.xml").write_text(
        f'<annotations><image name="apple_0.png">{turned}</image></annotations>'
    )
    boxes = index_images(tmp_path)[1]
    np.testing.assert_allclose(boxes[CORNERS], [[18, 10, 22, 30]])
    (tmp_path / "x.xml").unlink()
    value = {"x": 50, "y": 25, "width": 50, "height": 10, "rotation": 90}
    result = {"type": "rectanglelabels", "value": value | {"rectanglelabels": ["a"]}}
    task = {"data": {"image": "apple_0.png"}, "annotations": [{"result": [result]}]}
    (tmp_path / "x.json").write_text(json.dumps([task]))
    # About its upper left corner, clockwise.
    np.testing.assert_allclose(index_images(tmp_path)[1][CORNERS], [[16, 10, 20, 30]])


def of_via(**shape):
    tick = {"type": {"b": False, "a": True}}
    regions = [{"shape_attributes": shape, "region_attributes": tick}]
    regions.append({"shape_attributes": {"name": "point", "cx": 1, "cy": 1}})
    return {"apple_0.png1": {"filename": "apple_0.png", "regions": regions}}


def of_label_studio(kind, **value):
    result = [{"type": kind, "value": value | {kind: ["a"]}}]
    result.append({"type": "choices", "value": {"choices": ["a"]}})
    return [{"data": {"image": "apple_0.png"}, "annotations": [{"result": result}]}]


def of_labelme(kind, *points):
    shapes = [{"label": "a", "points": points, "shape_type": kind}]
    shapes.append({"label": "a", "points": [[1, 1]], "shape_type": "point"})
    return {"imagePath": "apple_0.png", "shapes": shapes}


@pytest.mark.parametrize(
    ("content", "box"),
    [
        (of_labelme("circle", [10, 12], [13, 16]), [5, 7, 15, 17]),
        (of_labelme("polygon", [10, 12], [13, 16], [11, 20]), [10, 12, 13, 20]),
        (of_via(name="circle", cx=10, cy=12, r=5), [5, 7, 15, 17]),
        (of_via(name="ellipse", cx=10, cy=12, rx=4, ry=6), [6, 6, 14, 18]),
        (of_label_studio("ellipselabels", x=25, y=30, radiusX=10, radiusY=20), [6, 4, 14, 20]),
        (of_label_studio("polygonlabels", points=[[25, 30], [50, 35], [40, 60]]), [10, 12, 20, 24]),
    ],
)
def test_the_box_around_a_shape_and_none_of_a_point(tmp_path, content, box):
    draw_set(tmp_path, "{name}.png", n=2)
    (tmp_path / "apple_0.json").write_text(json.dumps(content))
    boxes = index_images(tmp_path)[1]
    np.testing.assert_allclose(boxes[CORNERS], [box])
    assert boxes["label"].tolist() == ["a"]


def test_what_a_model_proposes_to_label_studio_is_no_truth(tmp_path, caplog):
    draw_set(tmp_path, "{label}/{name}.png", n=2)
    [task] = of_label_studio("rectanglelabels", x=25, y=30, width=10, height=20)
    proposed = {"data": task["data"], "predictions": task["annotations"]}
    (tmp_path / "x.json").write_text(json.dumps([proposed]))
    assert index_images(tmp_path)[1].empty
    assert "1 of its tasks have predictions and no annotations" in caplog.text


TABLES = {
    "tfod": "filename,width,height,class,xmin,ymin,xmax,ymax",
    "x1": "image_path,x1,y1,x2,y2,label",
    "no header": "image_path,x1,y1,x2,y2,label",
    "open images": "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf",
    "via csv": "#filename,region_shape_attributes,region_attributes",
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_boxes(tmp_path, kind):
    paths = draw_set(tmp_path)
    rows = []
    for name in paths:
        a, b, c, d = box_of(name)
        label = name.rpartition("_")[0]
        shape = {"name": "rect", "x": a, "y": b, "width": c - a, "height": d - b}
        row = [f"/home/me/set/{name}.png", a, b, c, d, label]
        rows.append({
            "no header": row,
            "tfod": [f"{name}.png", SIDE, SIDE, label, a, b, c, d],
            "x1": row,
            "open images": [name, "x", f"/m/{label}", 1, a / SIDE, c / SIDE, b / SIDE, d / SIDE, 0],
            "via csv": [f"{name}.png", json.dumps(shape), json.dumps({"name": label})],
        }[kind])  # fmt: skip
    table = pd.DataFrame(rows, columns=TABLES[kind].split(","))
    table.to_csv(tmp_path / "export.csv", index=False, header=kind != "no header")
    (tmp_path / "class-descriptions-boxable.csv").write_text("/m/apple,apple\n/m/banana,banana\n")
    check_boxes(*index_images(tmp_path)[:2])


def coco(paths: dict[str, str], prefix: str = "") -> dict:
    images, annotations = [], []
    for k, (name, path) in enumerate(paths.items()):
        a, b, c, d = box_of(name)
        images.append({"id": k, "file_name": prefix + path, "width": SIDE, "height": SIDE})
        box = {"bbox": [a, b, c - a, d - b], "category_id": 1 + k % 2}
        annotations.append({"id": k, "image_id": k, **box})
    categories = [{"id": 1, "name": "apple"}, {"id": 2, "name": "banana"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.mark.parametrize("outline", ["polygon", "counts", "packed"])
def test_coco_without_bbox(tmp_path, outline):
    paths = draw_set(tmp_path)
    content = coco(paths)
    for one in content["annotations"]:
        x, y, w, h = one.pop("bbox")
        one["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if outline != "polygon":
            masks = pytest.importorskip("pycocotools.mask", reason="no pycocotools")
            packed = masks.frPyObjects(one["segmentation"], SIDE, SIDE)[0]
            one["segmentation"] = {"size": [SIDE, SIDE], "counts": packed["counts"].decode()}
            if outline == "counts":
                flat = masks.decode(packed).T.ravel()
                ends = np.flatnonzero(np.diff(np.r_[0, flat.astype(int)]))
                counts = np.diff(np.r_[0, ends, flat.size])
                one["segmentation"]["counts"] = counts.tolist()
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    check_boxes(*index_images(tmp_path)[:2])


def test_coco_without_categories_is_read_with_a_word(tmp_path):
    paths = draw_set(tmp_path)
    content = coco(paths)
    del content["categories"]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    _, boxes, skipped = index_images(tmp_path)
    assert set(boxes["label"]) == {"1", "2"}
    assert "no categories" in skipped["reason"][0]


@pytest.mark.parametrize("prefix", ["/home/me/fruit/", "C:\\fruit\\", "images/"])
@pytest.mark.parametrize("place", ["{label}/{name}.png", "{name}.png"])
def test_paths_of_another_computer(tmp_path, prefix, place):
    paths = draw_set(tmp_path, place)
    (tmp_path / "annotations.json").write_text(json.dumps(coco(paths, prefix)))
    check_boxes(*index_images(tmp_path)[:2])


def test_what_is_not_read_is_said_in_a_line(tmp_path, caplog):
    paths = draw_set(tmp_path)
    (tmp_path / "annots").mkdir()
    for name in paths:
        (tmp_path / "annots" / f"{name}.xml").write_text("<alto><x/></alto>")
    _, boxes, skipped = index_images(tmp_path)
    assert boxes.empty and skipped["path"].tolist() == ["annots/*.xml"]
    assert skipped["reason"][0].startswith("6 .xml files in annots were not read: they are of none")
    assert caplog.text.count("were not read") == 1
    for name, path in paths.items():
        (tmp_path / path).with_suffix(".xml").write_text(voc(name))
    (tmp_path / "more.json").write_text(json.dumps(coco(paths)))
    _, boxes, skipped = index_images(tmp_path)
    assert len(boxes) == 6
    assert skipped["path"].tolist() == ["*.json", "annots/*.xml"]
    (tmp_path / "annotations.json").write_text(json.dumps(coco(paths)))
    reasons = dict(index_images(tmp_path)[2].to_numpy())
    assert "taken from files of Pascal VOC" in reasons["*.json"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "filename,class\napple_0.png,apple\n"),
        ("train.txt", "images/apple_0.png\n"),
        ("project-min.json", '[{"id": 1, "image": "/data/upload/1/ab-apple_0.png", "label": []}]'),
    ],
)
def test_what_speaks_of_the_pictures_and_is_not_read_is_told(tmp_path, name, text):
    """Whatever it is called; notes are not told, nor anything beside a list that was given."""
    draw_set(tmp_path, "{name}.png")
    (tmp_path / "notes.txt").write_text("apples and bananas")
    (tmp_path / name).write_text(text)
    suffix = Path(name).suffix
    _, _, skipped = index_images(tmp_path)
    assert skipped["path"].tolist() == [f"*{suffix}"]
    assert skipped["reason"][0].startswith(f"1 {suffix} file in the folder itself was not read")
    assert ("given in place of the folder" in skipped["reason"][0]) == (suffix != ".json")
    (tmp_path / "given.txt").write_text("apple_0.png\nbanana_1.png")
    assert index_images(tmp_path / "given.txt")[2].empty


def _each(change):
    def of(content):
        for one in content["annotations"]:
            change(one)

    return of


@pytest.mark.parametrize(
    ("change", "labels", "said"),
    [
        (lambda c: [one.update(id=str(one["id"])) for one in c["images"]], CLASSES, ""),
        (lambda c: [one.update(id=str(one["id"])) for one in c["categories"]], CLASSES, ""),
        (lambda c: c.update(categories=[]), "12", "names no categories"),
        (lambda c: [one.pop("name") for one in c["categories"]], "12", "names no categories"),
        (_each(lambda one: one.pop("category_id")), CLASSES, ""),  # those of their folders
        (_each(lambda one: one.update(bbox=None, segmentation=[[1, 1, 9, 9]])), CLASSES, ""),
        (_each(lambda one: one.pop("bbox")), "", "neither bbox nor segmentation"),
        (
            lambda c: [
                one.update(coco_url="http://x/" + one.pop("file_name")) for one in c["images"]
            ],
            CLASSES,
            "",
        ),
        (
            lambda c: [one.update(file_name=Path(one["file_name"]).stem) for one in c["images"]],
            CLASSES,
            "",
        ),
    ],
)
def test_coco_as_tools_write_it(tmp_path, change, labels, said):
    content = coco(draw_set(tmp_path))
    change(content)
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    _, boxes, skipped = index_images(tmp_path)
    assert set(boxes["label"]) == set(labels) and len(boxes) == (6 if labels else 0)
    assert said in " ".join(skipped["reason"]) and (said or skipped.empty)


@pytest.mark.parametrize(
    ("pictures", "file"),
    [
        ("{}/{}.png", "annotations/instances_{}.json"),
        ("{}2017/{}.png", "annotations/instances_{}2017.json"),
        ("images/{}/{}.png", "{}.json"),
    ],
)
def test_equal_names_on_two_sides_are_told_apart_by_the_name_of_their_file(
    tmp_path, pictures, file
):
    for k, side in enumerate(("train", "val")):
        paths = {f"{CLASSES[n % 2]}_{n + k}": f"{n}.png" for n in range(2)}
        for n in range(2):
            draw(tmp_path / pictures.format(side, n), 2 * k + n)
        place = tmp_path / file.format(side)
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(coco(paths)))
    images, boxes, _ = index_images(tmp_path)
    assert images["split"].tolist() == ["train", "train", "val", "val"]
    assert boxes["image"].tolist() == [0, 1, 2, 3]
    assert boxes["xmin"].tolist() == [0, 1, 1, 2]


def test_names_that_differ_by_capital_letters_only(tmp_path):
    paths = draw_set(tmp_path)
    rows = [[path, name.rpartition("_")[0].upper(), *box_of(name)] for name, path in paths.items()]
    put_boxes(tmp_path, rows)
    images, boxes, skipped = index_images(tmp_path)
    assert (images["label"][boxes["image"]].to_numpy() == boxes["label"]).all()
    assert skipped.to_numpy().tolist() == [
        ["apple, banana", "the class of boxes that are called APPLE, BANANA"]
    ]
    draw(tmp_path / "Apple" / "9.png", 9)
    images, boxes, skipped = index_images(tmp_path)
    assert "Apple" in set(images["label"]) and "APPLE" in set(boxes["label"])
    assert skipped["path"].tolist()[0] == "Apple, apple"
    assert "differ by capital letters only" in skipped["reason"][0]


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz"])
def test_an_archive_is_to_be_unpacked(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(FeatlabError, match="is an archive: unpack it, and give the folder"):
        index_images(tmp_path / name)
    with pytest.raises(FeatlabError, match=f"but {name}, an archive: unpack it"):
        index_images(tmp_path)


def test_names_of_classes_in_a_yaml_file_of_any_name(tmp_path):
    put_yolo(tmp_path, draw_set(tmp_path, "images/{name}.png"))
    (tmp_path / "data.yaml").rename(tmp_path / "fruit.yaml")
    check_boxes(*index_images(tmp_path)[:2])


# ------------------------------------------------------------------------------- boxes and labels


def put_boxes(
    root: Path, rows: list[list], header: str = "image,label,xmin,ymin,xmax,ymax"
) -> None:
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    (root / "boxes.csv").write_text("\n".join(lines))


def test_shares_are_refused_or_read_as_told(tmp_path):
    paths = draw_set(tmp_path)
    rows = [
        [path, name.rpartition("_")[0], *(value / SIDE for value in box_of(name))]
        for name, path in paths.items()
    ]
    put_boxes(tmp_path, rows)
    with pytest.raises(FeatlabError, match=r"every box \(6\) in .*boxes.csv lie between 0 and 1"):
        index_images(tmp_path)
    check_boxes(*index_images(tmp_path, box_units="shares")[:2])
    assert index_images(tmp_path, box_units="pixels")[1]["xmax"].max() <= 1
    with pytest.raises(FeatlabError, match="box_units must be one of pixels, shares"):
        index_images(tmp_path, box_units="percent")


def test_boxes_of_pictures_that_are_not_here_are_one_line(tmp_path, caplog):
    paths = draw_set(tmp_path)
    rows = [[path, name.rpartition("_")[0], *box_of(name)] for name, path in paths.items()]
    put_boxes(tmp_path, rows + [[f"orange/{k}.jpg", "orange", 1, 1, 5, 5] for k in range(30)])
    images, boxes, skipped = index_images(tmp_path)
    check_boxes(images, boxes)
    assert skipped.to_numpy().tolist() == [
        ["boxes.csv", "30 boxes of 30 pictures that are not here, such as 'orange/0.jpg', left out"]
    ]
    assert len(caplog.records) == 1


def test_boxes_csv_without_labels_have_those_of_their_pictures(tmp_path):
    paths = draw_set(tmp_path)
    rows = [[path, *box_of(name)] for name, path in paths.items()]
    put_boxes(tmp_path, rows, "image,xmin,ymin,xmax,ymax")
    check_boxes(*index_images(tmp_path)[:2])


def test_boxes_that_reach_out_by_a_little_are_cut_and_counted(tmp_path):
    paths = draw_set(tmp_path)
    far = 0.05 * SIDE
    put_boxes(tmp_path, [[path, "apple", -far, 0, SIDE + far, 9] for path in paths.values()])
    _, boxes, skipped = index_images(tmp_path)
    assert boxes[CORNERS].drop_duplicates().to_numpy().tolist() == [[0, 0, SIDE, 9]]
    assert skipped["reason"].tolist() == [
        "6 boxes reach out of the picture, by at most 2 pixels; cut at its border"
    ]


@pytest.mark.parametrize("sideways", ["raw", "shown", "absent"])
@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_boxes_of_pictures_upside_down(tmp_path, orientation, sideways):
    """As those of pictures on their side; where there are none, as shown, with a word."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    draw(tmp_path / "a" / "0.jpg", 0, exif=exif)
    exif[0x0112] = 6
    if sideways != "absent":
        path = tmp_path / "b" / "1.jpg"
        path.parent.mkdir()
        Image.new("RGB", (SIDE, SIDE // 2)).save(path, exif=exif)
    size = {"raw": (SIDE, SIDE // 2), "shown": (SIDE // 2, SIDE)}.get(sideways)
    rows = [["a/0.jpg", "a", SIDE, SIDE, 1, 2, 11, 22]]
    rows += [["b/1.jpg", "b", *size, 1, 2, 3, 4]] if size else []
    put_boxes(tmp_path, rows, "image,label,width,height,xmin,ymin,xmax,ymax")
    _, boxes, skipped = index_images(tmp_path)
    turned = {2: [29, 2, 39, 22], 3: [29, 18, 39, 38], 4: [1, 18, 11, 38]}[orientation]
    assert boxes[CORNERS].iloc[0].tolist() == (turned if sideways == "raw" else [1, 2, 11, 22])
    word = "before that, as those" if sideways == "raw" else "as shown, for nothing tells"
    assert word in skipped["reason"][0]


def test_pictures_are_labelled_by_their_boxes(tmp_path, caplog):
    paths = draw_set(tmp_path, "{name}.png")
    rows = [[path, name.rpartition("_")[0], *box_of(name)] for name, path in paths.items()]
    put_boxes(tmp_path, rows[:-1])
    images, boxes, skipped = index_images(tmp_path)
    assert images["path"].tolist() == sorted([*paths.values()][:-1])
    assert boxes["image"].tolist() == [*range(5)]
    assert "1 picture has no box that says the class" in skipped["reason"].iloc[-1]
    put_boxes(tmp_path, [*rows, [rows[0][0], "banana", 0, 0, 30, 30]])
    images, _, _ = index_images(tmp_path)
    assert images["label"].eq("").all() and "--label-from-boxes largest" in caplog.text
    images, _, _ = index_images(tmp_path, label_from_boxes="largest")
    assert images.set_index("path")["label"]["apple_0.png"] == "banana" and len(images) == 6
    images, _, _ = index_images(tmp_path, label_from_boxes="only")
    assert "apple_0.png" not in set(images["path"]) and len(images) == 5


# ---------------------------------------------------------------------------------- which pictures


def test_some_classes(tmp_path):
    for k in range(9):
        draw(tmp_path / "abc"[k % 3] / f"{k}.png", k)
    put_boxes(tmp_path, [[f"{'abc'[k % 3]}/{k}.png", "abc"[k % 3], 1, 1, 9, 9] for k in range(9)])
    images, boxes, skipped = index_images(tmp_path, classes=["a", "c"])
    assert set(images["label"]) == {"a", "c"} == set(boxes["label"]) and len(boxes) == 6
    assert len(skipped) == 1 and "3 boxes of 3 pictures that are not here" in skipped["reason"][0]
    with pytest.raises(FeatlabError, match="classes must be some of a, b, c, got x"):
        index_images(tmp_path, classes=["x"])


def test_lists_of_pictures(tmp_path):
    paths = draw_set(tmp_path)
    some = sorted(paths.values())[:4]
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "rel.txt").write_text("\n".join(f"../{path}" for path in some))
    (lists / "abs.txt").write_text("\n".join(str(tmp_path / path) for path in some))
    (tmp_path / "names.csv").write_text(
        "filename,class\n" + "\n".join(f"{path},{path.split('/')[0]}" for path in some)
    )
    table = pd.DataFrame({"path": some, "label": "x", "folder": str(tmp_path)})
    for name in ("rel.txt", "abs.txt"):
        assert index_pictures(lists / name)[0]["path"].tolist() == some
    for source in (lists / "rel.txt", lists / "abs.txt", tmp_path / "names.csv", table):
        images, _, _ = index_images(source)
        assert images["path"].tolist() == some and set(images["folder"]) == {str(tmp_path)}
        assert set(images["label"]) == ({"x"} if source is table else set(CLASSES))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("semicolons.csv", "\ufefffilename;class\r\n{0};apple\r\n{1};banana\r\n"),
        ("tabs.tsv", "path\tlabel\n{0}\tapple\n{1}\tbanana\n"),
        ("names.csv", "Foto,Art\n{0},apple\n{1},banana\n"),
        ("whole.csv", "path,label\n{root}/{0},apple\n{root}/{1},banana\n"),
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, caplog, name, text):
    paths = sorted(draw_set(tmp_path, "pictures/{name}.png", n=2).values())
    (tmp_path / name).write_text(text.format(*paths, root=tmp_path))
    with caplog.at_level("INFO"):
        images, _, _ = index_images(tmp_path / name)
    assert images["path"].tolist() == paths and images["label"].tolist() == [*CLASSES]
    assert ("column art of names.csv, where foto is the picture" in caplog.text) == (
        name == "names.csv"
    )


LISTS = {
    "names.csv": ("id,breed\n{0},apple\n{1},banana\n", "stem"),
    "moved.csv": ("photo,kind\n/home/me/{0}.png,apple\n/home/me/{1}.png,banana\n", "stem"),
    "bare.csv": ("{0},apple\n{1},banana\n", "path"),
    "one.csv": ("{0}\n{1}\n", "path"),
    "words.txt": ("{0} apple\n{1} banana\n", "path"),
    "stems.txt": ("{0}\n{1}\n", "stem"),
    "splits/stems.lst": ("{0}  apple\n{1}  banana\n", "stem"),
    "annotations/labels.csv": ("filename,class\n{0}.png,apple\n{1}.png,banana\n", "stem"),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_with_names_as_people_write_them(tmp_path, name):
    """Without a suffix, of another computer, without a header, from a folder of lists."""
    text, how = LISTS[name]
    paths = draw_set(tmp_path, "pictures/{name}.png", n=3)
    written = [one if how == "stem" else paths[one] for one in ("apple_0", "banana_1")]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text.format(*written))
    read = index_images(tmp_path / name)
    assert [Path(path).name for path in read.images["path"]] == ["apple_0.png", "banana_1.png"]
    labelled = "apple" in text
    assert read.images["label"].tolist() == ([*CLASSES] if labelled else ["", ""])
    assert ("files of the same name in" in read.reading.get("pictures", "")) == (how == "stem")
    if labelled:
        assert index_pictures(tmp_path / name)[0]["path"].str.endswith(".png").all()


def test_a_name_of_a_list_that_two_pictures_have_or_none_is_an_error(tmp_path):
    draw_set(tmp_path, "{label}/{name}.png", n=2)
    draw(tmp_path / "banana" / "apple_0.png", 5)
    (tmp_path / "list.csv").write_text("id,label\napple_0,a\nbanana_1,b\n")
    with pytest.raises(FeatlabError, match="apple_0: it cannot be read: No such file"):
        index_images(tmp_path / "list.csv")


def test_columns_of_a_table_as_told_or_by_usual_names(tmp_path):
    draw_set(tmp_path, "{name}.png", n=2)
    rows = [["apple_0.png", "x.png", "red", "one"], ["banana_1.png", "y.png", "yellow", "two"]]
    table = pd.DataFrame(rows, columns=["Photo", "Thumb", "Colour", "Day"])
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(FeatlabError, match="needs the columns path"):
        index_images(tmp_path / "t.csv")
    told = {"path": "Photo", "label": "Colour", "group": "Day"}
    read = index_images(PictureTable(tmp_path / "t.csv", told))
    assert read.images["label"].tolist() == ["red", "yellow"]
    assert read.images["group"].tolist() == ["one", "two"]
    assert read.reading["labels"] == "column colour of t.csv, where photo is the picture"
    with pytest.raises(FeatlabError, match=r"no column size; its columns are photo, thumb"):
        index_images(PictureTable(tmp_path / "t.csv", told | {"label": "size"}))
    with pytest.raises(FeatlabError, match="columns must be one of path, label, split, group"):
        PictureTable(tmp_path / "t.csv", {"class": "Colour"})
    usual = table[["Photo", "Colour"]].set_axis(["FileName", "Class"], axis=1)
    read = index_images(usual.assign(folder=str(tmp_path)))
    assert read.images["label"].tolist() == ["red", "yellow"]
    assert read.reading["labels"] == "column class of the table"


def test_how_a_set_was_read_is_kept(tmp_path):
    draw_set(tmp_path, "Training/{label}/{name}.png")
    draw_set(tmp_path, "dev/{label}/{name}_2.png")
    read = index_images(tmp_path)
    assert read.reading == {
        "labels": "the folders apple, banana",
        "split": "the folders Training (train), dev (test)",
    }
    extract_maps(read.images, FakeBackbone(), tmp_path / "m.h5", about=read.about).close()
    with MapStore(tmp_path / "m.h5") as store:
        assert json.loads(store.provenance["reading"]) == read.reading


def test_a_table_of_boxes_as_the_list(tmp_path):
    paths = draw_set(tmp_path, "{name}.png")
    rows = [[path, name.rpartition("_")[0], *box_of(name)] for name, path in paths.items()]
    table = pd.DataFrame([*rows, rows[0]], columns=["filename", "class", *CORNERS])
    table.iloc[-1, 2] += 1
    table.to_csv(tmp_path / "boxes_of_mine.csv", index=False)
    images, boxes, _ = index_images(tmp_path / "boxes_of_mine.csv")
    assert len(images) == 6 and len(boxes) == 7
    assert (images["label"][boxes["image"]].to_numpy() == boxes["label"]).all()


def test_a_table_of_boxes_as_the_list_in_a_folder_beside_the_pictures(tmp_path):
    """As TFOD's sets have it: data/train_labels.csv, images/1.jpg."""
    paths = draw_set(tmp_path, "images/{name}.png")
    rows = [[f"{name}.png", name.rpartition("_")[0], *box_of(name)] for name in paths]
    (tmp_path / "data").mkdir()
    table = pd.DataFrame(rows, columns=["filename", "class", *CORNERS])
    table.to_csv(tmp_path / "data" / "labels.csv", index=False)
    read_so = index_images(tmp_path / "data" / "labels.csv")
    check_boxes(read_so.images, read_so.boxes)
    assert read_so.reading["boxes"] == "data/labels.csv, a file of table of boxes"
    table["class"] = "fruit"
    table.to_csv(tmp_path / "data" / "labels.csv", index=False)
    read_so = index_images(tmp_path / "data" / "labels.csv")
    assert "all boxes are of one class, fruit" in read_so.reading["labels"]


@pytest.mark.parametrize("mark", ["maps.h5", ".featlab", ".featlab-results"])
def test_what_featlab_has_written_among_the_pictures_is_no_class(tmp_path, mark):
    draw_set(tmp_path)
    draw(tmp_path / "results" / "figures" / "plane.png", 1)
    (tmp_path / "results" / mark).write_text("")
    images, _, skipped = index_images(tmp_path)
    assert len(images) == 6 and set(images["label"]) == set(CLASSES)
    assert skipped["path"].tolist() == ["results"] and "featlab" in skipped["reason"][0]
    rows = "image,xmin,ymin,xmax,ymax\n" + "apple_0.png,1,1,9,9\n"
    (tmp_path / "results" / "statistics.csv").write_text(rows)
    assert index_images(tmp_path)[1].empty


# -------------------------------------------------------------------------------------- grey levels


def draw_grey(root: Path, change, suffix: str = ".tiff", n: int = 6) -> dict[str, np.ndarray]:
    """Grey pictures of 8 bits, written as `change` makes them; path → the 8 bits."""
    grey = {}
    for k in range(n):
        path = f"{CLASSES[k % 2]}/{k}{suffix}"
        pixels = np.random.default_rng(k).integers(0, 240, (SIDE, SIDE)).astype(np.uint8)
        pixels[0, 0] = 255 if k == 0 else 0
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(change(pixels)).save(root / path)
        grey[path] = pixels
    return grey


def read(images: pd.DataFrame) -> dict[str, np.ndarray]:
    """What the network is given, in grey."""
    reader = InputReader(images, (SIDE, SIDE))
    return {path: reader(row)[0][..., 0] for row, path in enumerate(images["path"])}


@pytest.mark.parametrize("suffix", [".tiff", ".png"])
def test_twelve_bits_in_sixteen(tmp_path, suffix, caplog):
    grey = draw_grey(tmp_path, lambda p: p.astype(np.uint16) * 16, suffix)
    read_so = index_images(tmp_path)
    assert "levels" not in read_so.images and len(caplog.records) == 1
    told = (
        "the 16-bit pictures use 1/16 of their range .*4080 of 65535.*16 of 256 .*--intensity set"
    )
    assert re.search(told, caplog.text) and re.search(told, read_so.reading["grey levels"])
    assert max(np.ptp(one) for one in read(read_so.images).values()) <= 16
    scaled = index_images(tmp_path, intensity="set")
    images = scaled.images
    words = "values 0 to 4080 of more than 8 bits become 0 to 255"
    assert set(images["levels"]) == {"integer 0 4080"} and scaled.reading["grey levels"] == words
    for path, pixels in read(images).items():
        np.testing.assert_array_equal(pixels, grey[path])
    for path, pixels in read(index_images(tmp_path, intensity="file")[0]).items():
        assert (pixels.min(), pixels.max()) == (0, 255) and path in grey


def test_values_up_to_127_in_sixteen_bits(tmp_path):
    grey = draw_grey(tmp_path, lambda p: (p // 2).astype(np.uint16))
    with pytest.raises(
        FeatlabError, match="every picture is constant.*up to 127 of 65535: --intens"
    ):
        index_images(tmp_path)
    images, _, _ = index_images(tmp_path, intensity="set")
    for path, pixels in read(images).items():
        np.testing.assert_array_equal(pixels, grey[path] // 2 * 2)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_black_pictures_are_told(tmp_path, suffix):
    draw_grey(tmp_path, np.zeros_like, suffix)
    with pytest.raises(FeatlabError, match="every picture is constant: all pixels of all 6 pictur"):
        index_images(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_dark_pictures_of_eight_bits(tmp_path, suffix, caplog):
    grey = draw_grey(tmp_path, lambda p: p // 16, suffix)
    index_images(tmp_path)
    assert "the 8-bit pictures use 1/16 of their range" in caplog.text
    images, _, _ = index_images(tmp_path, intensity="set")
    # A JPEG swings above what was drawn.
    assert set(images["levels"]) == {f"byte 0 {15.9375 if suffix == '.png' else 31.875}"}
    if suffix == ".png":
        for path, pixels in read(images).items():
            np.testing.assert_array_equal(pixels, grey[path] // 16 * 16)


def test_floats_of_any_range_have_one_scale(tmp_path, caplog):
    draw_grey(tmp_path, lambda p: p.astype(np.float32) * 8 - 1024)
    index_images(tmp_path)
    assert "6 pictures of floating-point numbers are stretched" in caplog.text
    assert set(index_images(tmp_path, intensity="set")[0]["levels"]) == {"float -1024 1016"}


def test_whole_numbers_below_zero_are_stretched_and_no_sixteen_bits(tmp_path, caplog):
    draw_grey(tmp_path, lambda p: p.astype(np.int32) - 100)
    index_images(tmp_path)
    words = "6 pictures of whole numbers outside 0 to 65535 are stretched from their own"
    assert words in caplog.text and "16-bit" not in caplog.text
    assert set(index_images(tmp_path, intensity="set")[0]["levels"]) == {"integer -100 155"}


def test_files_of_many_scales_of_their_own_give_new_pictures_theirs(tmp_path):
    least = iter(range(8))
    draw_grey(tmp_path, lambda p: p.astype(np.uint16) * 16 + next(least), n=8)
    own = index_images(tmp_path, intensity="file")
    words = "values from the smallest to the largest value of each file become 0 to 255"
    assert own.reading["grey levels"] == words and own.images["levels"].nunique() == 8
    new, _ = index_pictures(tmp_path, intensity=intensity_of(own.images))
    assert new["levels"].tolist() == own.images["levels"].tolist()


def test_usual_pictures_are_told_nothing(tmp_path, caplog):
    draw_grey(tmp_path, lambda p: p.astype(np.uint16) * 257)
    draw_set(tmp_path)
    index_images(tmp_path)
    assert not caplog.records


def test_the_scale_is_part_of_what_a_store_is(tmp_path):
    draw_grey(tmp_path / "set", lambda p: p.astype(np.uint16) * 16)
    plain, _, _ = index_images(tmp_path / "set")
    scaled, _, _ = index_images(tmp_path / "set", intensity="set")
    path = tmp_path / "maps.h5"
    extract_maps(scaled, FakeBackbone(), path).close()
    with MapStore(path) as store:
        assert store.provenance["intensity"] == "integer 0 4080" == intensity_of(store.images)
        first = store.maps([0])
        new, _ = index_pictures(tmp_path / "set", intensity=store.provenance["intensity"])
    assert new["levels"].tolist() == scaled["levels"].tolist()
    backbone = FakeBackbone()
    extract_maps(scaled, backbone, path).close()
    assert backbone.calls == 0
    with pytest.raises(FeatlabError, match="made with another image set digest"):
        extract_maps(plain, FakeBackbone(), path)
    other = tmp_path / "other.h5"
    extract_maps(plain, FakeBackbone(), other).close()
    with pytest.raises(FeatlabError, match="another intensity: None there, integer 0 4080 asked"):
        extract_maps(scaled, FakeBackbone(), other)
    with MapStore(other) as store:
        assert "levels" not in store.images and np.abs(store.maps([0]) - first).max() > 0.1


def test_a_file_of_other_numbers_is_decoded_with_its_own_levels(tmp_path):
    draw_grey(tmp_path, lambda p: p.astype(np.uint16) * 16)
    data = (tmp_path / "apple" / "0.tiff").read_bytes()
    assert decode_picture(data, "integer 0 2040").max() == 255
    assert decode_picture(data, "integer 0 8160").max() == 128


def test_crowds_are_no_truth_unless_asked_for(tmp_path):
    content = coco(draw_set(tmp_path, "{name}.png"))
    crowds = [one | {"iscrowd": 1, "category_id": 2} for one in content["annotations"]]
    content["annotations"] += crowds
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    images, boxes, _ = index_images(tmp_path)
    assert set(images["label"]) == set(CLASSES) and len(boxes) == 12
    for kind, name in ((None, "object"), ("object", "object"), ("crowd", "crowd")):
        assert boxes_of_kind(boxes, kind)["kind"].tolist() == [name] * 6
    with pytest.raises(FeatlabError, match="box_kind is 'head', but the images have no box"):
        boxes_of_kind(boxes.iloc[:0], "head")
