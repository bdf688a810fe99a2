"""`featlab predict`, whatever it is given: one sentence, nothing half-written, nothing lost."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone, draw_pictures
from PIL import Image
from test_predict_pages import plain_predictor
from typer.testing import CliRunner

from featlab import FeatlabError, boxheads, extract, images, predict
from featlab.boxes.geometry import CORNERS
from featlab.cli import app
from featlab.predict._parts import Ticks
from featlab.results.localisation import BoxHead
from featlab.store.network import network_facts


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    table, _ = images.index_pictures(draw_pictures(root / "pictures", {"a": 2}))
    with extract.extract_maps(table, FakeBackbone(), root / "maps.h5") as store:
        return plain_predictor(store).save(root / "model.featlab")


@pytest.mark.parametrize(
    ("n", "told"), [(6, "cannot be told, as only 6 images calibrate"), (30, "1")]
)
def test_nothing_is_counted_as_unusual_where_nothing_can_be(model, n, told):
    own = predict.load_predictor(model)
    own = dataclasses.replace(
        own, typicality=dataclasses.replace(own.typicality, novelty=np.zeros(n))
    )
    columns = {"class": own.classes[0], "typicality": [1 / (n + 1), 0.9]}
    lines = predict.prediction_lines(own, pd.DataFrame(columns), 0.9)
    assert not {"{", "'"} & {*lines[0]}, lines[0]
    said = "unlike the train set (typicality at most 0.05): "
    (line,) = (line.removeprefix(said) for line in lines if line.startswith(said))
    assert line.startswith(told)


@pytest.fixture
def ask(model, monkeypatch):
    """Run the command on pictures; its networks count their passes in ``ask.networks``."""

    def network(*_):
        networks.append(FakeBackbone())
        return networks[-1]

    def run(*asked, out):
        done = CliRunner().invoke(app, ["predict", str(model), *map(str, asked), "-o", str(out)])
        if done.exception is not None:
            raise done.exception
        run.output = done.output
        return pd.read_parquet(out / "predictions.parquet")

    networks: list[FakeBackbone] = []
    monkeypatch.setattr("featlab.backbones.rebuild_backbone", network)
    run.networks = networks
    return run


def some_pictures(folder, names):
    """Small pictures, no two alike."""
    for k, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (30 + k, 20), (5 * k, 90, 9))
        picture.paste((250, 250, 250), (9, 5, 20, 15))
        picture.save(file)
    return folder


@pytest.mark.parametrize(
    ("asks", "words"),
    [
        (["--coverage", "1.5"], "--coverage must be above 0 and at most 1, got 1.5"),
        (["--coverage", "0"], "--coverage must be above 0"),
        (["--coverage", "nan"], "--coverage must be above 0"),
        (["--formats", "coco,nope"], "--formats must be one of csv, coco, .*, got 'nope'"),
        (["--on-error", "perhaps"], "--on-error must be one of raise, skip, got 'perhaps'"),
        (["{root}/nowhere.jpg"], "there is nothing at .*nowhere.jpg"),
        (["{root}/*.gif"], r"there is nothing at .*\*.gif"),
        (["{root}/empty"], "there is no picture in|no picture"),
        (["{root}/list.csv"], "needs the columns path"),
        (["{root}/broken", "--on-error", "raise"], "1 file or box in .* cannot be used"),
        (["{root}/broken"], "no picture is left: 1 file or box"),
    ],
)
def test_what_is_refused_leaves_nothing(ask, tmp_path, asks, words):
    root = some_pictures(tmp_path / "pictures", ["a.jpg"])
    (root / "empty").mkdir()
    (root / "broken").mkdir()
    (root / "broken" / "b.jpg").write_bytes(b"no picture")
    (root / "list.csv").write_text("label\ncat\n")
    asked = [one.format(root=root) for one in asks]
    pictures = [] if asked[0].startswith(str(root)) else [root / "a.jpg"]
    before = sorted(root.rglob("*"))
    with pytest.raises(FeatlabError, match=words):
        ask(*pictures, *asked, out=tmp_path / "out")
    assert not (tmp_path / "out").exists() and sorted(root.rglob("*")) == before
    assert not sum(network.calls for network in ask.networks)


def test_a_refitted_model_is_told_beside_its_scores(ask, model, tmp_path, capsys):
    root = some_pictures(tmp_path / "pictures", ["a.jpg"])
    scored = predict.load_predictor(model)
    for n in (0, 1):
        new = dataclasses.replace(scored, measured={"refitted_on": 1234 * n} if n else {})
        path = new.save(tmp_path / "model.featlab")
        done = CliRunner().invoke(app, ["predict", str(path), str(root), "-o", str(tmp_path / "o")])
        assert done.exception is None
        told = "the model was fitted again on all 1,234 labelled images: scores, and how often"
        assert (told in done.output) == bool(n) and "sets of classes: 0.9 asked" in done.output


@pytest.mark.parametrize("coverage", ["0.999", "0.9999999", "1e-06"])
def test_the_coverage_that_was_asked_for_is_told_as_it_is(ask, tmp_path, coverage):
    root = some_pictures(tmp_path / "pictures", ["a.jpg"])
    ask(root, "--coverage", coverage, out=tmp_path / "out")
    assert f"sets of classes: {coverage} asked for, " in ask.output


def test_a_folder_that_cannot_hold_the_answers_is_refused_first(ask, tmp_path, monkeypatch):
    root = some_pictures(tmp_path / "pictures", ["a.jpg"])
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        with pytest.raises(FeatlabError, match="-o must be a folder, got .*: .*file is a file"):
            ask(root, out=out)
    assert file.read_text() == "mine" and not ask.networks
    monkeypatch.setattr("featlab.cli._options.os.access", lambda *_: False)
    with pytest.raises(FeatlabError, match="-o must be a folder to write into, got .*read-only"):
        ask(root, out=tmp_path / "new")
    assert not (tmp_path / "new").exists() and not ask.networks


def test_pictures_that_were_drawn_are_never_asked(ask, tmp_path):
    root = some_pictures(tmp_path / "pictures", ["a.jpg", "b/c.jpg"])
    for out in (root, root / "out", root / "b"):
        with pytest.raises(FeatlabError, match="whose pictures are asked for; give -o another"):
            ask(root, out=out)
    os.symlink(root, tmp_path / "link")
    with pytest.raises(FeatlabError, match="whose pictures are asked for"):
        ask(tmp_path / "link", out=root / "out")
    pattern, out = f"{root}/**/*.jpg", root / "out"
    assert len(ask(pattern, "--pictures", "boxes", out=out)) == 2
    kept = (out / "predictions.csv").read_bytes()
    for again in (pattern, out / "pictures", out / "pictures" / "a.jpg"):
        with pytest.raises(FeatlabError, match="lies in .*out, where the answers go"):
            ask(again, "--pictures", "boxes", out=out)
    assert (out / "predictions.csv").read_bytes() == kept


def test_damaged_pictures_are_named_and_the_others_answered(ask, tmp_path, caplog):
    root = some_pictures(tmp_path / "pictures", ["a.jpg", "b.jpg"])
    (root / "b.jpg").write_bytes((root / "b.jpg").read_bytes()[:200])
    (root / "c.png").write_bytes(b"")
    shutil.copy(root / "a.jpg", os.fsencode(root) + b"/d\xff.jpg")
    assert ask(root, out=tmp_path / "out")["path"].tolist() == ["a.jpg"]
    assert all(name in caplog.text for name in ("b.jpg: ", "c.png: ", "\\udcff.jpg: its name"))


def test_every_file_that_was_left_out_is_in_a_table(ask, tmp_path, caplog, capsys):
    """The log names the first, however many there are."""
    root, out = some_pictures(tmp_path / "pictures", ["a.jpg"]), tmp_path / "out"
    broken = [f"{k:02}.jpg" for k in range(25)]
    for name in broken:
        (root / name).write_bytes(b"no picture")
    ask(root, out=out)
    assert "19.jpg" in caplog.text and "24.jpg" not in caplog.text and "and 5 more" in caplog.text
    table = pd.read_csv(out / "skipped.csv")
    assert table["path"].tolist() == broken and table["reason"].str.len().min() > 5
    assert pd.read_parquet(out / "skipped.parquet").equals(table)
    assert f"left out, or not read: 25 lines with the reason in {out}/skipped.csv" in ask.output
    ask(root / "a.jpg", out=out)
    assert pd.read_csv(out / "skipped.csv").empty and "left out" not in ask.output


def by_hand(network):
    """A box head that gives every picture the same box."""
    arrays = {
        "channel_mean": np.zeros(10, np.float32),
        "channel_axes": np.eye(10, 2, dtype=np.float32),
        "first_mean": np.zeros(98, np.float32),
        "first_axes": np.zeros((98, 4)),
        "first_level": np.array([0.1, 0.2, 0.6, 0.7]),
    }
    score = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 9}
    return BoxHead("pls", "last", "corners", 1.0, 0, arrays, network, {"mean_iou": score})


def test_a_box_head_given_by_hand(ask, model, tmp_path):
    root, out = some_pictures(tmp_path / "pictures", ["a.jpg", "b.jpg"]), tmp_path / "out"
    network = network_facts(predict.load_predictor(model).provenance)
    path = boxheads.save_box_head(by_hand(network), tmp_path / "pls.boxhead")
    before = ask(root, out=out)
    table = ask(root, "--box-head", path, out=out)
    # The mean over picture and mirror image: from a quarter to three of the width of 31.
    np.testing.assert_allclose(table.loc[1, CORNERS].tolist(), [7.75, 4, 23.25, 14])
    assert (table["box_method"] == "pls").all() and table["class"].equals(before["class"])
    words = "boxes by pls, given by hand: mean IoU 0.700 [0.600, 0.800] on 9 test images"
    assert words in ask.output
    for other, told in [
        (by_hand(network | {"resize": "pad"}), "another resize: pad there, stretch asked for"),
        (by_hand({}), "'pls' does not say which network's maps it takes"),
    ]:
        boxheads.save_box_head(other, path)
        with pytest.raises(FeatlabError, match=told):
            ask(root, "--box-head", path, out=tmp_path / "new")
    with pytest.raises(FeatlabError, match="no box head: attribute encoding-type is 'featlab-pred"):
        ask(root, "--box-head", model, out=tmp_path / "new")
    with pytest.raises(FeatlabError, match="there is no box head .*; make it with `featlab boxhea"):
        ask(root, "--box-head", tmp_path / "nothing", out=tmp_path / "new")
    with pytest.raises(FeatlabError, match="is a folder; give one of the box heads in it: pls.box"):
        ask(root, "--box-head", tmp_path, out=tmp_path / "new")
    (tmp_path / "x.npz").write_bytes(b"PK, and more")
    with pytest.raises(FeatlabError, match="x.npz is damaged, or no box head: it is no HDF5 file"):
        ask(root, "--box-head", tmp_path / "x.npz", out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_a_picture_of_a_pixel_and_one_of_a_line(ask, tmp_path, size):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(pixels).save(tmp_path / "pictures" / "x.png")
    asks = ["--pictures", "heat", "--page", "--formats", "csv,coco,voc,yolo,label-studio,cvat"]
    table = ask(tmp_path / "pictures", *asks, out=tmp_path / "out")
    left, top, right, bottom = table.loc[0, CORNERS]
    assert 0 <= left <= right <= size[0] and 0 <= top <= bottom <= size[1]
    with Image.open(tmp_path / "out" / "pictures" / "x.png.jpg") as drawn:
        assert drawn.size == tuple(min(side, 1280) for side in size)


HOSTILE = [
    *("=cmd().jpg", "+1.jpg", "-x.jpg", "@s.jpg", '"q" \'s.jpg', "new\nline.jpg", "tab\t.jpg"),
    *("<script>alert(1)<\\script>.jpg", "a&b;c,d.jpg", "%s{}.jpg", "=a()/=b.jpg", "é/ü.png"),
]


def test_hostile_names_stay_what_they_are(ask, tmp_path):
    root = some_pictures(tmp_path / "pictures", HOSTILE)
    asks = ["--pictures", "boxes", "--page", "--formats", "coco,voc,yolo,cvat,csv,label-studio"]
    out = tmp_path / "out"
    assert sorted(ask(root, *asks, out=out)["path"]) == sorted(HOSTILE)
    for name in ("predictions.csv", "csv/boxes.csv"):
        with open(out / name, newline="", encoding="utf-8") as file:
            told = [next(iter(row.values())) for row in csv.DictReader(file)]
        assert not [path for path in told if path[0] in "=+-@\t\n"]
        plain = [path.removeprefix("./").removeprefix("'") for path in told]
        assert sorted(plain) == sorted(HOSTILE)
    assert "<script>alert(1)" not in (out / "predictions.html").read_text("utf-8")
    assert len([one for one in (out / "pictures").rglob("[!.]*") if one.is_file()]) == len(HOSTILE)


def test_every_picture_is_asked_once_and_equal_names_stay_two(ask, tmp_path):
    root = some_pictures(tmp_path / "pictures", ["a/x.jpg", "b/x.jpg", "b/x.png"])
    os.symlink("..", root / "a" / "up")
    os.symlink("self", root / "self")
    os.symlink("nowhere.jpg", root / "b" / "dead.jpg")
    given = [root, root / "b", root, root / "a" / "x.jpg", f"{root}/*/*.*"]
    table = ask(*given, "--pictures", "boxes", out=tmp_path / "out")
    assert table["path"].tolist() == ["a/x.jpg", "b/x.jpg", "b/x.png"]
    assert pd.read_csv(tmp_path / "out" / "skipped.csv")["path"].tolist() == ["b/dead.jpg"]
    with pytest.raises(FeatlabError, match="no picture is left: .*\n.*dead.jpg: it cannot be read"):
        ask(root / "b" / "dead.jpg", out=tmp_path / "none")
    drawn = sorted((tmp_path / "out" / "pictures").rglob("*.jpg"))
    sizes = [Image.open(file).size for file in drawn]
    assert sizes == [(30, 20), (31, 20), (32, 20)]


def test_labels_of_a_list_do_not_matter(ask, tmp_path):
    root = some_pictures(tmp_path / "pictures", ["x.jpg", "y.jpg", "z.jpg"])
    (root / "some.csv").write_text("path,label\nx.jpg,cat\ny.jpg,\n")
    assert ask(root / "some.csv", out=tmp_path / "out")["path"].tolist() == ["x.jpg", "y.jpg"]


def test_kept_maps_make_a_second_pass_needless_and_are_never_lost(ask, tmp_path):
    root = some_pictures(tmp_path / "pictures", ["x.jpg", "y.jpg"])
    out, maps = tmp_path / "out", tmp_path / "out" / predict.MAPS
    first = ask(root, "--keep-maps", out=out)
    kept = maps.read_bytes()
    again = ask(root, "--keep-maps", "--page", "--coverage", "0.5", out=out)
    assert again[CORNERS].equals(first[CORNERS])
    assert [network.calls for network in ask.networks] == [1, 0]
    ask(root, "--pictures", "heat", out=out)
    assert maps.read_bytes() == kept
    with pytest.raises(FeatlabError, match="The pictures are not the same. Give another path"):
        ask(root / "x.jpg", "--keep-maps", out=out)
    assert maps.read_bytes() == kept
    pd.testing.assert_frame_equal(pd.read_parquet(out / "predictions.parquet"), first)


def test_a_class_list_that_changed_leaves_no_old_answers(model, tmp_path):
    """Answers of an interrupted call are those of its predictor, not of the next one."""
    names = [f"{k:02}.jpg" for k in range(20)]
    root, out = some_pictures(tmp_path / "pictures", names), tmp_path / "out"
    own = predict.load_predictor(model)
    own.predict(root, backbone=FakeBackbone(), folder=out)
    renamed = dataclasses.replace(own, classes=["cat", "cow"])
    table = renamed.predict(root, backbone=FakeBackbone(), folder=out)
    assert set(table["class"]) <= {"cat", "cow"}


def test_one_bar_over_all_pictures_begins_where_an_earlier_call_stopped():
    told = []

    def progress(left):
        told.append(list(left))
        return iter(told[-1])

    ticks = Ticks(4, 10, progress)
    for block, batches in ((range(4), [range(1), range(1, 2)]), (range(2), [range(2)])):
        assert list(ticks.of(block)(batches)) == batches
    assert told == [[4, 5, 6, 7, 8, 9]]
    assert next(ticks._ticks, None) is None  # all are told of, and the bar is closed
    assert Ticks(0, 1, None).of(range(1)) is None


def test_what_a_format_cannot_hold_is_said_before_the_pass(ask, tmp_path):
    folder, out = some_pictures(tmp_path / "pictures", ["a.jpg", "a.png"]), tmp_path / "out"
    with pytest.raises(FeatlabError, match=r"'a.jpg' and 'a.png' would share the file 'a.txt'"):
        ask(folder, "--formats", "coco,yolo", out=out)
    for made, options in (("pictures", ["--pictures", "boxes"]), ("voc/Annotations", [])):
        theirs = some_pictures(out / made, ["mine.jpg"]) / "mine.jpg"
        with pytest.raises(FeatlabError, match=r"was not written by featlab in one piece"):
            ask(folder / "a.jpg", *options, "--formats", "voc" if not options else "", out=out)
        assert theirs.is_file()
        shutil.rmtree(out)
    assert not sum(network.calls for network in ask.networks)


def test_drawn_pictures_are_not_asked_though_a_link_leads_to_them(ask, tmp_path):
    folder, out = some_pictures(tmp_path / "pictures", ["a.jpg"]), tmp_path / "out"
    (folder / "up").symlink_to(tmp_path)
    ask(folder, "--pictures", "boxes", out=out)
    asked = pd.read_csv(out / "predictions.csv")["path"].tolist()
    ask(folder, out=out)
    assert pd.read_csv(out / "predictions.csv")["path"].tolist() == asked
    (out / "pictures" / ".featlab").unlink()
    (out / ".featlab-results").unlink()
    with pytest.raises(FeatlabError, match="which is asked for, lies in .*out"):
        ask(folder, out=out)


def test_what_an_earlier_call_left_is_said(ask, tmp_path):
    folder, out = some_pictures(tmp_path / "pictures", ["a.jpg", "b.jpg"]), tmp_path / "out"
    ask(folder / "a.jpg", "--page", "--formats", "coco,csv", out=out)
    assert "left as an earlier" not in ask.output
    ask(folder / "b.jpg", "--formats", "csv", out=out)
    assert "left as an earlier call wrote it: predictions.html, coco\n" in ask.output


@pytest.mark.parametrize(("n", "more"), [(3, []), (18, []), (3, ["--keep-maps"])])
def test_a_picture_that_is_gone_when_its_turn_comes_is_named(ask, tmp_path, monkeypatch, n, more):
    names, out = [f"{k:02}.png" for k in range(n)], tmp_path / "out"
    root = some_pictures(tmp_path / "pictures", names)
    whole = ask(root, out=tmp_path / "whole")

    def network(*_):
        (root / names[1]).unlink()
        return FakeBackbone()

    monkeypatch.setattr("featlab.backbones.rebuild_backbone", network)
    table = ask(root, *more, out=out)
    assert table.equals(whole.drop(1).reset_index(drop=True))
    assert pd.read_csv(out / "skipped.csv")["path"].tolist() == [names[1]]
    assert "left out, or not read: 1 line" in ask.output


def test_new_pictures_are_read_with_the_grey_levels_of_the_set(tmp_path):
    """12 bits in 16: by the number format alone they would be nearly black."""
    for k in range(4):
        grey = np.random.default_rng(k).integers(0, 4081, (20, 30)).astype(np.uint16)
        (tmp_path / "set").mkdir(exist_ok=True)
        Image.fromarray(grey).save(tmp_path / "set" / f"{k}.png")
    table = images.index_images(tmp_path / "set", intensity="set").images
    with extract.extract_maps(table, FakeBackbone(), tmp_path / "maps.h5") as store:
        own = predict.load_predictor(plain_predictor(store).save(tmp_path / "model.featlab"))
        expected = own.predict(store)["probability"].to_numpy()
    made = own.predict(tmp_path / "set", backbone=FakeBackbone())["probability"].to_numpy()
    np.testing.assert_array_equal(made, expected)
    del own.provenance["intensity"]
    dark = own.predict(tmp_path / "set", backbone=FakeBackbone())["probability"].to_numpy()
    assert np.abs(dark - expected).min() > 0.01
