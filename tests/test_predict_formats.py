"""Boxes in other tools' formats: read back by their own definitions, by pycocotools, by featlab."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from featlab import FeatlabError, images, predict
from featlab.boxes.geometry import CORNERS
from featlab.predict import FORMATS, write_boxes
from featlab.predict._formats import BoxSet, boxed_pictures

HOSTILE = [
    'he said "a & b" <c>.png',
    "it's.jpg",
    "=cmd|' -C calc'!A0.png",
    "-a.png",
    "two\nlines.png",
    "return\r.png",
    "naïve 🦝 שלום.png",
    "a+b %20 & c#d?e.png",
    "deep/er/x.png",
    "other/x.png",
]
LABELS = ["=1+1", 'a "b" & <c>', "two\nlines", "🦝", "\u2028 \x85 \x7f yes: no #", "null"]


def table_of(rows):
    """``(path, width, height, label, corners)`` → what `predict` gives."""
    columns = ["path", "width", "height", "class"]
    table = pd.DataFrame([row[:4] for row in rows], columns=columns)
    table[CORNERS] = np.array([row[4] for row in rows], dtype=float).reshape(-1, 4)
    return table.assign(probability=0.75)


@st.composite
def boxed(draw):
    """Pictures of one pixel to 10,000, with boxes of a pixel and more anywhere in them."""
    rows = []
    for k in range(draw(st.integers(1, 4))):
        size = [draw(st.sampled_from([1, 2, 3, 97, 4000, 10_000])) for _ in range(2)]
        for _ in range(draw(st.integers(1, 3))):
            low, high = [], []
            for side in size:
                extent = draw(st.floats(1, side))
                low.append(draw(st.floats(0, 1)) * (side - extent))
                high.append(min(low[-1] + extent, side))
            rows.append((f"folder {k % 2}/{k}.jpg", *size, draw(st.sampled_from("ab")),
                         (*low, *high)))  # fmt: skip
    return table_of(rows)


# ------------------------------------------- each format, read by its own definition: (path, label,
#                                             xmin, ymin, xmax, ymax) with edges counted from 0


def read_csv(folder):
    with open(folder / "boxes.csv", encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    corners = [[float(row[name]) for name in CORNERS] for row in rows]
    return [(os.path.normpath(row["image"]), row["label"], *box)
            for row, box in zip(rows, corners, strict=True)]  # fmt: skip


def read_coco(folder):
    told = json.loads((folder / "instances.json").read_text("utf-8"))
    paths = {one["id"]: one["file_name"] for one in told["images"]}
    names = {one["id"]: one["name"] for one in told["categories"]}
    assert json.loads((folder / "results.json").read_text("utf-8")) == [
        {key: one[key] for key in ("image_id", "category_id", "bbox", "score")}
        for one in told["annotations"]
    ]
    rows = []
    for one in told["annotations"]:
        x, y, width, height = one["bbox"]
        assert one["area"] == width * height
        rows.append((paths[one["image_id"]], names[one["category_id"]], x, y, x + width,
                     y + height))  # fmt: skip
    return rows


def read_voc(folder):
    rows = []
    for file in sorted((folder / "Annotations").rglob("*.xml")):
        root = ElementTree.parse(file).getroot()
        path = os.path.normpath(os.path.join(root.findtext("folder"), root.findtext("filename")))
        size = [int(root.findtext(f"size/{side}")) for side in ("width", "height")]
        for item in root.findall("object"):
            first = [int(item.findtext(f"bndbox/{name}")) for name in ("xmin", "ymin")]
            last = [int(item.findtext(f"bndbox/{name}")) for name in ("xmax", "ymax")]
            for low, high, side in zip(first, last, size, strict=True):
                assert 1 <= low <= high <= side
            rows.append((path, item.findtext("name"), first[0] - 1, first[1] - 1, *last))
    return rows


def read_yolo(folder):
    import yaml

    told = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))
    rows = []
    for file in sorted((folder / "labels").rglob("*.txt")):
        for line in file.read_text("utf-8").splitlines():
            number, *numbers = line.split()
            x, y, width, height = map(float, numbers)
            assert all(0 <= value <= 1 for value in (x, y, width, height))
            rows.append((file.relative_to(folder / "labels").with_suffix("").as_posix(),
                         told["names"][int(number)], x - width / 2, y - height / 2,
                         x + width / 2, y + height / 2))  # fmt: skip
    return rows


def read_label_studio(folder):
    interface = ElementTree.parse(folder / "labels.xml").getroot()
    named = [one.get("value") for one in interface.iter("Label")]
    rows = []
    for task in json.loads((folder / "tasks.json").read_text("utf-8")):
        (path,) = parse_qs(urlsplit(task["data"]["image"]).query)["d"]
        for said in task["predictions"]:
            assert said["model_version"] == "m" and 0 <= said["score"] <= 1
            assert len({one["id"] for one in said["result"]}) == len(said["result"])
            for one in said["result"]:
                assert one["from_name"] == interface.find("RectangleLabels").get("name")
                assert one["to_name"] == interface.find("Image").get("name")
                value, (label,) = one["value"], one["value"]["rectanglelabels"]
                assert label in named
                wide, high = one["original_width"] / 100, one["original_height"] / 100
                rows.append((path, label, value["x"] * wide, value["y"] * high,
                             (value["x"] + value["width"]) * wide,
                             (value["y"] + value["height"]) * high))  # fmt: skip
    return rows


def read_cvat(folder):
    root = ElementTree.parse(folder / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    named = [one.text for one in root.iterfind("meta/task/labels/label/name")]
    assert len(root.findall("image")) == int(root.findtext("meta/task/size"))
    rows = []
    for image in root.findall("image"):
        for box in image.findall("box"):
            assert box.get("label") in named and box.get("source") == "auto"
            corners = [float(box.get(name)) for name in ("xtl", "ytl", "xbr", "ybr")]
            rows.append((image.get("name"), box.get("label"), *corners))
    return rows


READ = {
    "csv": (read_csv, 1e-9),
    "coco": (read_coco, 1e-3),
    "voc": (read_voc, 0.5),  # whole pixels
    "yolo": (read_yolo, 1e-3),
    "label-studio": (read_label_studio, 1e-6),
    "cvat": (read_cvat, 0.00501),
}


def same_boxes(name, rows, table):
    """Whether these are the table's boxes, to the format's own step."""
    expected = table[table["xmax"] > table["xmin"]].sort_values("path", kind="stable")
    rows = sorted(rows, key=lambda row: row[0])
    assert len(rows) == len(expected)
    shown = np.array([row[2:] for row in rows], dtype=float).reshape(-1, 4)
    paths = expected["path"].tolist()
    if name == "yolo":
        paths = [path.rpartition(".")[0] for path in paths]
        shown *= np.tile(expected[["width", "height"]].to_numpy(float), 2)
    assert [row[0] for row in rows] == paths
    assert [row[1] for row in rows] == expected["class"].tolist()
    np.testing.assert_allclose(shown, expected[CORNERS], rtol=0, atol=READ[name][1] + 1e-9)


def test_every_format_has_its_reader():
    assert set(READ) == set(FORMATS)


@pytest.mark.parametrize("name", [name for name in READ if name != "csv"])
def test_boxes_of_any_size_come_back(name, tmp_path_factory):
    from featlab.predict._formats import _written

    folder = tmp_path_factory.mktemp("out")

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(boxed())
    def holds(table):
        files = FORMATS[name](BoxSet(boxed_pictures(table), ["a", "b"], "m"))
        for file, content in files.items():
            _written(folder / file, content)
        same_boxes(name, READ[name][0](folder), table)

    with pytest.MonkeyPatch.context() as patch:
        for call in ("sync", "fsync"):  # hundreds of them in a test
            patch.setattr(os, call, lambda *_: None)
        holds()


@pytest.mark.parametrize("name", READ)
def test_hostile_names_come_back_as_they_were(name, tmp_path):
    labels = [LABELS[k % len(LABELS)] for k in range(len(HOSTILE))]
    rows = [(path, 40, 30, label, (1, 2, 30, 20))
            for path, label in zip(HOSTILE, labels, strict=True)]  # fmt: skip
    table = table_of(rows)
    write_boxes(table, tmp_path, name, model="m")
    read = READ[name][0](tmp_path / name)
    if name == "csv":  # text that a spreadsheet would run has an apostrophe in front
        read = [(path, label.replace("'=", "="), *box) for path, label, *box in read]
    same_boxes(name, read, table)


@pytest.mark.parametrize("name", READ)
def test_a_picture_without_a_box_is_listed_without_one(name, tmp_path):
    table = table_of([
        ("a/x.png", 40, 30, "b", [np.nan] * 4),
        ("b/x.png", 40, 30, "b", (-3, 2, 45, 30)),  # clipped
        ("c/x.png", 40, 30, "b", (50, 2, 60, 30)),  # outside: none
    ])  # fmt: skip
    write_boxes(table, tmp_path, [name], classes=["a", "b"], model="m")
    rows = READ[name][0](tmp_path / name)
    same_boxes(name, rows, table.iloc[1:2].assign(xmin=0.0, xmax=40.0))
    if name == "coco":
        told = json.loads((tmp_path / "coco" / "instances.json").read_text())
        assert [one["id"] for one in told["images"]] == [1, 2, 3]
        assert [one["name"] for one in told["categories"]] == ["a", "b"]
    if name == "voc":  # looked at, nothing there
        assert (tmp_path / "voc" / "Annotations" / "a" / "x.xml").exists()
    if name == "label-studio":
        tasks = json.loads((tmp_path / name / "tasks.json").read_text())
        assert [len(task["predictions"]) for task in tasks] == [0, 1, 0]


@pytest.mark.parametrize("name", READ)
def test_no_picture_is_no_box(name, tmp_path):
    write_boxes(table_of([]), tmp_path, name, model="m")
    assert READ[name][0](tmp_path / name) == []


def test_same_names_in_two_folders_stay_two_and_in_one_folder_are_refused(tmp_path):
    table = table_of([
        ("a/x.png", 40, 30, "a", (0, 0, 4, 4)), ("b/x.png", 40, 30, "b", (8, 8, 16, 16)),
    ])  # fmt: skip
    write_boxes(table, tmp_path, ["voc", "yolo"], model="m")
    for name in ("voc", "yolo"):
        same_boxes(name, READ[name][0](tmp_path / name), table)
    clash = pd.concat([table, table_of([("b/x.jpg", 40, 30, "b", (0, 0, 1, 1))])])
    with pytest.raises(FeatlabError, match=r"'b/x.png' and 'b/x.jpg' would share .* rename one"):
        write_boxes(clash, tmp_path / "new", ["coco", "voc"])
    assert not (tmp_path / "new").exists()  # coco neither
    write_boxes(clash, tmp_path / "new", ["coco", "cvat", "label-studio", "csv"])


def test_what_cannot_be_written_is_one_sentence_and_nothing_is_written(tmp_path):
    for row, names, words in (
        (("a\x01.png", 4, 4, "a", (0, 0, 1, 1)), "cvat", "holds a character that XML cannot"),
        (("../a.png", 4, 4, "a", (0, 0, 1, 1)), "yolo", "must lie in the folder"),
        (("/a.png", 4, 4, "a", (0, 0, 1, 1)), "voc", "must lie in the folder"),
        (
            ("a.png", 4, 4, "a", (0, 0, 1, 1)),
            ["coco", "tfrecord"],
            "formats must be one of csv, coco",
        ),
    ):
        with pytest.raises(FeatlabError, match=words):
            write_boxes(table_of([row]), tmp_path / "out", names)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", READ)
def test_a_box_of_no_class_that_is_named_is_refused_and_names_may_be_numbers(name, tmp_path):
    table = table_of([("a.png", 4, 4, "1", (0, 0, 1, 1)), ("b.png", 4, 4, "2", [np.nan] * 4)])
    with pytest.raises(FeatlabError, match="class must be one of 0, 2, got '1'"):
        write_boxes(table, tmp_path, name, classes=["0", "2"], model="m")
    assert not any(tmp_path.iterdir())
    write_boxes(table, tmp_path, name, classes=[0, 1], model="m")
    same_boxes(name, READ[name][0](tmp_path / name), table.iloc[:1])


def test_a_later_call_replaces_an_earlier_one_whole_or_not_at_all(tmp_path, monkeypatch):
    first = table_of([("a.png", 4, 4, "a", (0, 0, 1, 1)), ("b.png", 4, 4, "a", (0, 0, 1, 1))])
    write_boxes(first, tmp_path, "yolo")
    beside = tmp_path / "yolo" / "images"
    beside.mkdir()  # the user's
    write_text = Path.write_text

    def full(self, *given, **options):
        if self.name == "b.txt":
            raise OSError(28, "No space left on device")
        return write_text(self, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(FeatlabError, match="no space left"):
            write_boxes(first.assign(**{"class": "b"}), tmp_path, "yolo")
    assert sorted(p.name for p in (tmp_path / "yolo").rglob("*.txt")) == ["a.txt", "b.txt"]
    write_boxes(first.iloc[:1], tmp_path, "yolo")
    left = sorted(path.name for path in (tmp_path / "yolo").rglob("[!.]*"))
    assert left == ["a.txt", "data.yaml", "images", "labels"]


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """Pictures of every EXIF orientation, in folders of two classes, and a box in each."""
    root = tmp_path_factory.mktemp("turned")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = root / "ab"[orientation % 2] / f"{orientation} é.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file, exif=exif)
    shown, _ = images.index_pictures(root)
    assert set(zip(shown["width"], shown["height"], strict=True)) == {(60, 40), (40, 60)}
    boxes = np.column_stack([[3.0] * 8, [5.0] * 8, shown["width"] - 4.0, shown["height"] - 7.0])
    rows = zip(shown["path"], shown["width"], shown["height"], shown["path"].str[0], boxes,
               strict=True)  # fmt: skip
    return root, table_of([*rows])


@pytest.mark.parametrize(
    ("name", "file", "place", "shift"),
    [
        ("csv", "boxes.csv", "boxes.csv", 0),
        ("coco", "instances.json", "annotations/instances.json", 0),
        # Read as it is written; counted from 1, the first pixel is one farther.
        ("voc", "Annotations", "Annotations", 1),
        ("cvat", "annotations.xml", "boxes.xml", 0),
    ],
)
def test_featlabs_own_readers_find_the_boxes_of_turned_pictures(
    turned, tmp_path, name, file, place, shift
):
    root, table = turned
    write_boxes(table, tmp_path, name)
    (root / place).parent.mkdir(exist_ok=True)
    (tmp_path / name / file).rename(root / place)
    try:
        indexed, boxes, _ = images.index_images(root)
    finally:
        (root / place).rename(tmp_path / name / file)
    assert indexed["path"].tolist() == table["path"].tolist()
    assert boxes["image"].tolist() == [*range(8)] and boxes["label"].tolist() == [*"aaaabbbb"]
    moved = table[CORNERS] + np.array([shift, shift, 0, 0])
    np.testing.assert_allclose(boxes[CORNERS], moved, atol=1e-9)


@pytest.mark.parametrize("name", ["csv", "coco", "voc", "yolo", "label-studio", "cvat"])
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_what_is_written_is_read_back(tmp_path, name, data):
    """Every format, with pictures of any size and boxes of any place; to what its numbers keep."""
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    sides = data.draw(st.lists(st.tuples(st.integers(8, 90), st.integers(8, 90)), min_size=1,
                               max_size=4))  # fmt: skip
    rows = []
    for k, (width, height) in enumerate(sides):
        path = f"{'ab'[k % 2]}/{k}.png"
        (root / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (width, height), "red").save(root / path)
        for _ in range(data.draw(st.integers(1, 3))):
            x, y = (data.draw(st.floats(0, side - 4)) for side in (width, height))
            w, h = data.draw(st.floats(2, width - x)), data.draw(st.floats(2, height - y))
            rows.append((path, width, height, "ab"[k % 2], (x, y, x + w, y + h)))
    table = table_of(sorted(rows, key=lambda row: row[0]))
    write_boxes(table, root / "made", name)
    for file in (root / "made" / name).iterdir():
        file.rename(root / file.name)
    if name == "coco":
        (root / "results.json").unlink()
    if name == "label-studio":  # what is proposed there is read once a person has taken it over
        tasks = json.loads((root / "tasks.json").read_text())
        taken = [task | {"annotations": task["predictions"]} for task in tasks]
        (root / "tasks.json").write_text(json.dumps(taken))
    indexed, boxes, _ = images.index_images(root)
    assert indexed["path"].iloc[boxes["image"]].tolist() == table["path"].tolist()
    assert boxes["label"].tolist() == table["class"].tolist()
    finest = {"voc": 1.6, "cvat": 0.006}.get(name, 1e-3)
    np.testing.assert_allclose(boxes[CORNERS], table[CORNERS], atol=finest)


def test_names_like_formulas_are_read_back_by_featlab(tmp_path, picture_folder):
    root = picture_folder({"=1+1": 1, "b": 1})
    (root / "b" / "000.png").rename(root / "b" / "-x.png")
    shown, _ = images.index_pictures(root)
    table = table_of([(path, 40, 30, path.split("/")[0], (1, 1, 9, 9)) for path in shown["path"]])
    table[["width", "height"]] = shown[["width", "height"]]
    write_boxes(table, tmp_path, "csv")
    text = (tmp_path / "csv" / "boxes.csv").read_text()
    assert not any(line.startswith(("=", "-")) for line in text.replace(",", "\n").splitlines())
    (tmp_path / "csv" / "boxes.csv").rename(root / "boxes.csv")
    _, boxes, _ = images.index_images(root)
    assert boxes["label"].tolist() == ["=1+1", "b"]


def test_pycocotools_reads_the_set_and_scores_the_results(turned, tmp_path):
    coco = pytest.importorskip(
        "pycocotools.coco", reason="pycocotools is not installed: pip install -e '.[test]'"
    )
    from pycocotools.cocoeval import COCOeval

    write_boxes(turned[1], tmp_path, "coco")
    truth = coco.COCO(str(tmp_path / "coco" / "instances.json"))
    found = truth.loadRes(str(tmp_path / "coco" / "results.json"))
    assert [one["name"] for one in truth.loadCats(truth.getCatIds())] == ["a", "b"]
    for picture, box, row in zip(
        truth.loadImgs(truth.getImgIds()), found.loadAnns(found.getAnnIds()),
        turned[1].itertuples(index=False), strict=True,
    ):  # fmt: skip
        assert (picture["file_name"], picture["width"]) == (row.path, row.width)
        x, y, width, height = box["bbox"]
        assert (x, y, x + width, y + height) == (row.xmin, row.ymin, row.xmax, row.ymax)
        assert box["image_id"] == picture["id"] and box["score"] == 0.75
    scores = COCOeval(truth, found, "bbox")
    for step in (scores.evaluate, scores.accumulate, scores.summarize):
        step()
    assert scores.stats[0] == pytest.approx(1)  # of the boxes against themselves


def test_a_sets_own_boxes_are_written_by_the_same_function(tmp_path):
    table = table_of([("a.png", 40, 30, "b", (0, 0, 4, 4)), ("a.png", 40, 30, "a", (5, 5, 9, 9))])
    write_boxes(table, tmp_path, ["coco", "cvat"], model="m")
    for name in ("coco", "cvat"):
        same_boxes(name, READ[name][0](tmp_path / name), table)
    assert predict.write_boxes is write_boxes
