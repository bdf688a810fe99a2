"""What a person looks at: drawn pictures, the page of predictions, the gallery of a report."""

from __future__ import annotations

import dataclasses
import io
import re

import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone, draw_pictures
from fake_results import HOSTILE, make_results
from PIL import Image
from test_predict_formats import READ, same_boxes
from test_report import text_of
from typer.testing import CliRunner

from featlab import FeatlabError, extract, images, predict, report
from featlab.boxes.geometry import CORNERS
from featlab.cli import app
from featlab.heads.saved import SavedHead
from featlab.localise.methods import METHODS
from featlab.predict import Predictor, _pages, page_predictions, predictions_beside_truth
from featlab.predict._parts import ClassSets, HeatBoxes, Typicality
from featlab.report._interactive import PAGE_BYTES
from featlab.results.localisation import Context, FittedMethods
from featlab.results.pictures import Predictions

BLUE = np.array([0x56, 0xB4, 0xE9])


def plain_predictor(store):
    """Two classes told by a made-up head; boxes from the sum of the maps."""
    channels = store.map_shape()[-1]
    classes = ["bright & <b>", "dark"]
    head = SavedHead(
        np.array(classes), np.zeros(channels), np.ones(channels),
        ((np.linspace(-1, 1, 2 * channels).reshape(channels, 2), np.zeros(2)),),
        "identity", "softmax",
    )  # fmt: skip
    context = Context(classes=classes, codes=np.zeros(0, int), scale=np.ones(channels))
    fitted = FittedMethods({"sum": METHODS["sum"]}, {"last": context})
    return Predictor(
        provenance=dict(store.provenance),
        classes=classes,
        head=head,
        detectors=pd.DataFrame({"class": [], "neuron": [], "threshold": []}),
        sets=ClassSets(np.full(19, 0.5), np.zeros(3)),
        typicality=Typicality(np.eye(channels, dtype=np.float32), np.linspace(0, 1, 39)),
        heat=HeatBoxes("sum", 0.5, False, fitted),
        box_head=None,
        overlap=None,
        measured={},
    )


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A store of pictures in two folders, and a predictor of two classes that knows it."""
    root = tmp_path_factory.mktemp("asked")
    folder = draw_pictures(root / "pictures", {"a b": 5, "é": 4})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 30), "white").save(folder / "é" / "turned.jpg", exif=exif)
    table, _ = images.index_pictures(folder)
    store = extract.extract_maps(table, FakeBackbone(), root / "maps.h5")
    predictor = plain_predictor(store)
    return folder, store, predictor, predictor.predict(store)


def blue_frame(pixels):
    """First and last column and row of the pixels that are about blue."""
    is_blue = (np.abs(pixels.astype(int) - BLUE) < 60).all(axis=2)
    rows, columns = np.flatnonzero(is_blue.any(axis=1)), np.flatnonzero(is_blue.any(axis=0))
    return columns[0], rows[0], columns[-1], rows[-1]


@pytest.mark.parametrize("box", [(10, 60, 90, 140), (0, 50, 200, 150), (50.4, 60.4, 61, 71)])
def test_the_box_is_drawn_on_its_pixels(box):
    drawn = _pages.marked(Image.new("RGB", (200, 150)), np.array(box, dtype=float), "text")
    first, last = np.round(box[:2]), np.maximum(np.round(box[2:]) - 1, np.round(box[:2]))
    assert blue_frame(np.asarray(drawn)) == (*first, *last)


def test_a_picture_without_a_box_and_one_of_a_pixel_have_their_line():
    nothing = np.full(4, np.nan)
    drawn = np.asarray(_pages.marked(Image.new("RGB", (200, 150), "grey"), nothing, "99 % a\nb"))
    assert (drawn == 255).any() and not (np.abs(drawn.astype(int) - BLUE) < 60).all(axis=2).any()
    assert _pages.marked(Image.new("RGB", (1, 1)), np.array([0, 0, 1, 1.0]), "n" * 999).size == (
        1,
        1,
    )


def test_each_picture_is_drawn_as_it_is_shown_and_none_twice(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(_pages, "_BLOCK", 3)  # in memory; the others are not read yet
    _, store, predictor, table = asked
    out = predict.write_pictures(predictor, store, table, tmp_path / "pictures")
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.jpg"))
    assert names == sorted(re.sub("png$", "png.jpg", path) for path in table["path"])
    turned = Image.open(out / "é" / "turned.jpg")
    assert turned.size == (30, 60) and not turned.getexif()
    hot = predict.write_pictures(predictor, store, table, tmp_path / "hot", heat=True)
    before, under = (np.asarray(Image.open(one / "é" / "turned.jpg")) for one in (out, hot))
    assert before.shape == under.shape and np.abs(before.astype(int) - under).mean() > 20


def test_a_drawn_picture_says_that_it_is_unusual(asked, tmp_path, monkeypatch):
    _, store, predictor, table = asked
    lines = []
    real = _pages.marked
    monkeypatch.setattr(_pages, "marked", lambda *a: lines.append(a[2]) or real(*a))
    table = table.assign(typicality=np.where(np.arange(10) < 4, 0.05, 0.051))
    predict.write_pictures(predictor, store, table, tmp_path / "drawn")
    assert [line.endswith(", unusual") for line in lines] == [True] * 4 + [False] * 6


def test_names_of_drawn_pictures_never_meet():
    taken = {"x.png", "x.png.jpg", "x.jpg", "y.JPG"}
    assert len({_pages._file(path, taken) for path in taken}) == 4
    assert _pages._file("y.JPG", taken) == "y.JPG" and _pages._file("z", taken) == "z.jpg"


def test_pictures_of_a_killed_call_do_not_appear(asked, tmp_path, monkeypatch):
    _, store, predictor, table = asked
    predict.write_pictures(predictor, store, table.iloc[:0], tmp_path / "pictures")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(FeatlabError, match="no space left"):
        predict.write_pictures(predictor, store, table, tmp_path / "pictures")
    assert [path.name for path in tmp_path.rglob("[!.]*")] == ["pictures"]


def test_the_page_shows_every_picture_with_its_box_class_and_marks(asked, tmp_path):
    _, store, predictor, table = asked
    shown = page_predictions(predictor, store, table)
    assert set(shown.pictures) == set(range(10))
    page = report.write_predictions(shown, tmp_path / "p.html").read_text("utf-8")
    cards = re.findall(r"<li data-class.*?</li>", page, flags=re.DOTALL)
    assert len(cards) == 10
    for card, (_, row) in zip(cards, table.iterrows(), strict=True):
        of_box = r'class="own" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"'
        box = row[CORNERS].to_numpy(float)
        if box[2] > box[0]:  # else the map is flat
            x, y, width, height = map(float, re.search(of_box, card).groups())
            np.testing.assert_allclose((x, y, x + width, y + height), box, atol=0.11)
        assert ('class="own"' in card) == (box[2] > box[0])
        assert f'viewBox="0 0 {row["width"]} {row["height"]}"' in card
        assert f">{row['path']}<" in card and 'class="true"' not in card
        assert ("data-unsure" in card) == ("|" in row["set"])
        assert ("data-unusual" in card) == (row["typicality"] <= 0.05)
        assert re.search(rf'alt="{re.escape(row["path"].split("/")[1])}: predicted class ', card)
    assert "<b>" not in text_of(page).replace("&lt;b&gt;", "")


def test_where_too_few_images_calibrate_typicality_no_picture_is_called_unusual(asked, tmp_path):
    _, store, predictor, table = asked
    table = table.assign(typicality=np.where(np.arange(len(table)) < 3, 0.05, 0.9))
    for n in (18, 19):
        calibrated = dataclasses.replace(predictor.typicality, novelty=np.zeros(n))
        some = dataclasses.replace(predictor, typicality=calibrated)
        known = page_predictions(some, store, table)
        page = report.write_predictions(known, tmp_path / "p.html").read_text("utf-8")
        told = text_of(page)
        assert ("Only 18 images (one of each group) calibrate the typicality" in told) == (n == 18)
        assert ("3 are unlike the train images" in told) == (n == 19)
        assert ('id="predictions-unusual"' in page) == ("“Unusual”" in told) == (n == 19)


def many_predictions(n, names=("a", "b")):
    """A table of n pictures with noisy pictures of 256 x 192 pixels, some of them alike."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(5):
        picture, file = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)), io.BytesIO()
        picture.resize((256, 192)).save(file, "JPEG", quality=85)
        files.append(file.getvalue())
    table = pd.DataFrame({"path": [f"folder/of many/{names[k % len(names)][:80]} {k}.jpg"
                                   for k in range(n)]})  # fmt: skip
    table = table.assign(width=256, height=192, probability=0.9, set="a", typicality=0.5,
                         xmin=1.0, ymin=2.0, xmax=100.0, ymax=90.0)  # fmt: skip
    table["class"] = [names[k % len(names)] for k in range(n)]
    return Predictions(table, list(names), "sum", 0.9, {k: files[k % 5] for k in range(n)}, {},
                       99)  # fmt: skip


@pytest.mark.slow
def test_two_thousand_pictures_keep_within_the_budget(tmp_path):
    path = report.write_predictions(many_predictions(2000), tmp_path / "p.html")
    assert PAGE_BYTES / 2 < path.stat().st_size <= PAGE_BYTES
    page = path.read_text("utf-8")
    assert page.count("<li data-class") == 2000 and "not shown" not in page


def test_what_does_not_fit_is_left_out_and_said(monkeypatch, tmp_path):
    known = many_predictions(60)
    with monkeypatch.context() as patch:
        patch.setattr("featlab.report.page.PAGE_BYTES", 150_000)
        page = report.write_predictions(known, tmp_path / "p.html").read_text("utf-8")
    shown = page.count("<li data-class")
    assert 0 < shown < 60 and len(page.encode()) <= 150_000
    assert f"{60 - shown} pictures of 60 are not shown" in page


def test_of_very_many_pictures_those_that_want_an_eye_come_first(asked, monkeypatch):
    _, store, predictor, table = asked
    monkeypatch.setattr(_pages, "MOST_PICTURES", 5)
    marked = table.assign(set="dark", typicality=0.5)
    marked.loc[7, "set"], marked.loc[8, "typicality"] = "bright|dark", 0.01
    rows = list(page_predictions(predictor, store, marked).pictures)
    assert len(rows) == 5 and {7, 8} < set(rows)


def test_pictures_that_are_gone_are_left_out(asked, tmp_path):
    folder, store, predictor, table = asked
    path = folder / table["path"][3]
    path.rename(tmp_path / "away.png")
    try:
        shown = page_predictions(predictor, store, table)
        page = report.write_predictions(shown, tmp_path / "p.html").read_text("utf-8")
    finally:
        (tmp_path / "away.png").rename(path)
    assert set(shown.pictures) == set(range(10)) - {3}
    assert "1 picture of 10 is not shown" in page


def test_hostile_names_are_text_and_nothing_is_asked_for(tmp_path):
    known = many_predictions(2 * len(HOSTILE), HOSTILE)
    page = report.write_predictions(known, tmp_path / "p.html").read_text("utf-8")
    shown = text_of(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown and "שלום עולם" in shown
    assert not re.search(r"<script|https?://|@import|url\(|<link|<iframe", shown)
    assert not re.search(r"\son[a-z]+=", shown) and "n" * 201 not in shown
    assert all(re.search(r'alt="[^"]{20,}"', tag) for tag in re.findall(r"<img[^>]*>", page))


def test_the_command_draws_writes_the_page_and_the_formats(asked, tmp_path, monkeypatch):
    folder, _, predictor, table = asked
    accuracy = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40}
    known = dataclasses.replace(predictor, measured={"accuracy": accuracy})
    known.save(tmp_path / "model.featlab")
    monkeypatch.setattr("featlab.backbones.rebuild_backbone", lambda *_: FakeBackbone())
    out = tmp_path / "out"
    call = ["predict", str(tmp_path / "model.featlab"), str(folder), "-o", str(out)]
    wrong = CliRunner().invoke(app, [*call, "--formats", "coco,tfrecord"])
    assert isinstance(wrong.exception, FeatlabError) and not out.exists()
    assert "--formats must be one of csv, coco" in str(wrong.exception)
    asks = ["--formats", "coco, yolo", "--pictures", "boxes", "--page"]
    done = CliRunner().invoke(app, [*call, *asks], catch_exceptions=False)
    assert "classes: accuracy 0.900 [0.800, 0.950] on 40 test images" in done.output
    assert "not scored here" in done.output
    for name in ("coco", "yolo"):
        same_boxes(name, READ[name][0](out / name), table)
    assert len(list((out / "pictures").rglob("*.jpg"))) == 10
    assert (out / "predictions.html").stat().st_size > 10_000
    assert not (out / predict.MAPS).exists()


# ------------------------------------------------------------------------ the gallery of the report


def test_right_and_wrong_test_pictures_stand_beside_the_truth(asked):
    _, store, predictor, table = asked
    results = make_results(boxes=False, detectors=False, pictures=False)
    split = pd.Series(["test"] * 8 + ["train"] * 2)
    boxes = pd.DataFrame({"image": [0, 1, 2], "kind": "whole", "label": "dark"})
    boxes[CORNERS] = table.loc[[0, 1, 2], CORNERS]
    boxes.loc[1, CORNERS] = 0.0, 0.0, 1.0, 1.0  # far from the predicted one
    labels = table["class"].tolist()
    labels[3] = next(name for name in predictor.classes if name != labels[3])
    boxes["label"] = labels[:3]

    results = dataclasses.replace(results, store=Labelled(store, labels, boxes), split=split)
    tested = predictions_beside_truth(predictor, results, table)
    assert len(tested.table) == 8 and set(tested.pictures) == set(range(8))
    assert tested.table["iou"].round(6).tolist()[:1] == [1.0] and tested.table["iou"][1] < 0.5
    assert tested.table["iou"].isna().tolist() == [False] * 3 + [True] * 5
    np.testing.assert_array_equal(tested.true_boxes[1], [[0, 0, 1, 1]])


def test_a_set_without_boxes_is_told_of_none(tmp_path, blank_figures):
    results = make_results(detectors=False)
    for iou in (0.8, np.nan):
        table = results.predictions.table.assign(iou=iou)
        known = dataclasses.replace(results.predictions, table=table)
        made = dataclasses.replace(results, predictions=known)
        told = text_of(report.write_report(made, tmp_path / "p.html").read_text("utf-8"))
        for words in ("wrong class or box", "IoU of 0.5 or more.", "with neither"):
            assert (words in told) == np.isfinite(iou)


class Labelled:
    """A store whose images have labels and boxes after all."""

    def __init__(self, store, labels, boxes):
        self.images = store.images.assign(label=labels, group="")
        self.boxes, self.frames, self.root = boxes, store.frames, store.root
        self.classes = sorted(set(labels))
