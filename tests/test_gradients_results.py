"""From a store and its network to tables, files and figures, on a small network of one's own."""

from __future__ import annotations

import dataclasses
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
from conftest import no_drawing
from fake_results import make_results
from PIL import Image
from typer.testing import CliRunner

from featlab import FeatlabError, predict, report
from featlab.backbones import load_backbone, rebuild_backbone
from featlab.boxes import iou as pairwise
from featlab.boxes.geometry import CORNERS
from featlab.cli import app
from featlab.cli._rerun import gradient_figures
from featlab.extract import PassOptions, extract_maps
from featlab.images import index_images
from featlab.localise.regions import FIXED_THRESHOLD
from featlab.own import own_boxes, own_pictures
from featlab.pipeline import analyse, analyse_gradients
from featlab.pipeline.stores import checked_target, draw_sample, named_rows
from featlab.plots.style import encode
from featlab.results import GradientResults, Transfer
from featlab.splits import make_split
from featlab.store import MapStore

keras = pytest.importorskip("keras")

SIZE, N = 48, 30


def network(path, activation: str = "relu"):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 128, offset=-1)(inputs)
    x = keras.layers.Conv2D(8, 3, activation=activation, padding="same", name="first")(x)
    x = keras.layers.MaxPooling2D(4, name="pool")(x)
    x = keras.layers.Conv2D(12, 3, padding="same", name="second")(x)
    keras.Model(inputs, keras.layers.ReLU(6.0, name="last")(x)).save(path)
    return load_backbone(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of grey pictures, wider than high, with a red or a blue rectangle; its network."""
    folder = tmp_path_factory.mktemp("gradients")
    rng = np.random.default_rng(0)
    corners = {}
    for label, channel in (("red", 0), ("blue", 2)):
        (folder / "pictures" / label).mkdir(parents=True)
        for i in range(N):
            xmin, ymin = rng.integers(0, 40), rng.integers(0, 20)
            xmax, ymax = xmin + rng.integers(25, 40), ymin + rng.integers(20, 30)
            pixels = rng.integers(110, 140, (60, 90, 3)).astype(np.uint8)
            pixels[ymin:ymax, xmin:xmax, channel] = 250
            Image.fromarray(pixels).save(folder / "pictures" / label / f"{i:02d}.png")
            corners[f"{label}/{i:02d}.png"] = (xmin, ymin, min(xmax, 90), min(ymax, 60))
    images, _, _ = index_images(folder / "pictures")
    truth = pd.DataFrame([corners[path] for path in images["path"]], columns=CORNERS)
    truth = truth.assign(image=range(len(images)), kind="patch", label=images["label"])
    backbone = network(folder / "mine.keras")
    store = extract_maps(
        images, backbone, folder / "maps.h5", boxes=truth, options=PassOptions(resize="pad")
    )
    return store, backbone, folder


@pytest.fixture(scope="module")
def results(made):
    store, backbone, _ = made
    return analyse_gradients(store, backbone, n_images=8)


def test_all_methods_are_scored_on_the_same_images(results):
    table = results.localisation.set_index("method")
    assert {"dam_original", "dam_variant", "grad_cam", "layer_cam", "cam", "mean_box"} <= {
        *table.index
    }
    assert (table["n"] == 8).all()
    whole = table.loc["whole_image", "centre_in_box"]
    assert (table["picture_centre_in_box"] == whole).all()
    # HiResCAM of a linear head on the last maps is CAM: the same boxes, the same scores.
    scores = ["threshold", "box_accuracy", "mean_iou", "centre_in_box", "max_box_acc_v2"]
    for score in scores:
        assert table.loc["hires_cam", score] == pytest.approx(table.loc["cam", score], abs=0.02)
    assert table.loc[["dam_original", "dam_variant"], "box_accuracy_confirm"].isna().all()
    assert (table["seconds_per_image"] > 0).all()


def test_what_the_facts_say(results):
    facts = results.facts
    assert facts["n_patched"] == 2 and facts["guided_refused"] == ""
    assert (facts["n_scored"], facts["n_tuning"]) == (8, 5)
    assert facts["dam_layers"] == {"original": "last", "variant": "last"}
    assert facts["head_accuracy"] > 0.8
    assert set(results.faithfulness["method"]) >= {"grad_cam", "detectors", "guided_gradient"}
    assert results.sanity["rule"].unique().tolist() == ["plain", "guided"]


def test_a_picture_is_seen_where_the_store_says_it_lies(results):
    example = results.dam[0]
    assert example.trace.pixels.shape == (SIZE, SIZE, 3)
    # The pictures are padded above and below: 48 x 32 pixels of the input.
    assert (example.trace.pixels[:8] == 127).all() and (example.trace.pixels[-8:] == 127).all()
    (xmin, ymin, xmax, ymax), *_ = example.true_boxes
    channel = 0 if example.label == "red" else 2
    inside = example.trace.pixels[round(ymin) + 1 : round(ymax) - 1, round(xmin) + 1 : round(xmax)]
    assert inside[..., channel].mean() > 200


def test_every_image_that_was_scored_has_its_boxes_in_a_table(made, results):
    store, _, _ = made
    table, scored = results.boxes, results.localisation.set_index("method")
    assert len(table) == 8 * 6 and table["scored"].all()
    assert table["path"].equals(store.images["path"].iloc[table["row"]].reset_index(drop=True))
    corners = store.boxes.set_index("image")[CORNERS]
    for name, rows in table.groupby("method"):
        # The table's boxes are those that were scored.
        iou = pairwise(rows[CORNERS].to_numpy(float), corners.loc[rows["row"]].to_numpy(float))
        assert iou.mean() == pytest.approx(scored.loc[name, "mean_iou"], abs=1e-6), name
        if name.startswith("dam_"):
            assert rows["threshold"].isna().all()
        else:
            labels = store.images["label"].iloc[rows["row"]].tolist()
            assert rows["class_asked"].tolist() == labels
            assert (rows["threshold"] == scored.loc[name, "threshold"]).all()


def test_pictures_are_named_by_path_pattern_or_file(made, tmp_path):
    store, _, folder = made
    first = store.images["path"].iloc[0]
    assert named_rows(store, first).tolist() == [0]
    assert named_rows(store, str(folder / "pictures" / first)).tolist() == [0]
    reds = np.flatnonzero(store.images["label"] == "red")
    assert named_rows(store, ["red/*", first]).tolist() == sorted({0, *reds.tolist()})
    words = rf"no picture 'green/\*'; .* such as '{first}', or .* Of others make a store .*--keep"
    with pytest.raises(FeatlabError, match=words):
        named_rows(store, ["red/*", "green/*"])
    with pytest.raises(FeatlabError, match="name at least one picture"):
        named_rows(store, [])


@pytest.fixture(scope="module")
def own(made, tmp_path_factory):
    """The pictures in one folder, without labels and boxes; a classifier that knows three greys."""
    store, _, folder = made
    place = tmp_path_factory.mktemp("own")
    maps = keras.models.load_model(folder / "mine.keras")
    top = keras.layers.Dense(6, "relu")(keras.layers.Flatten()(maps.output))
    classifier = keras.Model(maps.input, keras.layers.Dense(3, "softmax")(top))
    classifier.save(place / "own.keras")
    backbone = load_backbone(place / "own.keras", layers="last")
    (place / "pictures").mkdir()
    for row, path in enumerate(store.images["path"][:12]):
        whole = folder / "pictures" / path
        (place / "pictures" / f"{row:02d}.png").write_bytes(whole.read_bytes())
    images = index_images(place / "pictures")[0]
    unlabelled = extract_maps(images, backbone, place / "maps.h5")
    return unlabelled, backbone, place


@pytest.mark.slow
def test_own_classes_are_asked_for_without_labels_and_boxes(own):
    """The head is not linear in the maps: CAM is refused, and gradients are the way out."""
    store, backbone, place = own
    with pytest.raises(FeatlabError, match="featlab gradients --target own"):
        own_boxes(store)
    asked = own_pictures(store, most=1)
    found = analyse_gradients(store, backbone, pictures=["03.png", "1?.png"], random_state=1)
    assert found.facts["target"] == "own" and found.facts["n_scored"] == 0
    assert found.facts["n_pictures"] == 3 and found.localisation.empty
    for _, rows in found.boxes.groupby("method"):
        assert rows["row"].tolist() == [3, 10, 11]
        assert rows["class_asked"].tolist() == asked["own_class"].iloc[[3, 10, 11]].tolist()
        np.testing.assert_allclose(
            rows["probability"], asked["own_probability"].iloc[[3, 10, 11]], rtol=1e-3
        )
        inside = rows[CORNERS].to_numpy(float)
        assert (inside >= 0).all() and (inside <= [90, 60, 90, 60]).all()
    cams = found.boxes[found.boxes["method"].eq("grad_cam")]
    assert (cams["threshold"] == FIXED_THRESHOLD).all() and not cams["scored"].any()
    assert len(found.cams.pictures) == 3 and set(found.cams.boxes) > set(found.cams.heats)
    found.save(place / "saved")
    back = GradientResults.load(place / "saved")
    pd.testing.assert_frame_equal(back.boxes, found.boxes)
    assert back.facts == found.facts


def test_without_boxes_pictures_are_drawn_or_named_and_nothing_is_scored(own):
    store, _, _ = own
    split = make_split(store.images, random_state=0)
    draw = partial(draw_sample, store, split, (SIZE, SIZE), box_kind=None, random_state=0)
    sample = draw(n_images=2, pictures=None)
    assert not len(sample.scored) and not len(sample.tuning) and not sample.named
    assert sample.pictures.tolist() == sample.boxed.tolist() == sample.judged.tolist() == [0, 1]
    assert (split.iloc[sample.rows] == "test").all()
    sample = draw(n_images=2, pictures="0[1-3].png")
    assert sample.rows.tolist() == [1, 2, 3] and sample.named and not len(sample.scored)
    assert sample.examples(1).tolist() == [0, 1, 2]


def test_named_pictures_are_shown_beside_those_scored_and_never_tune(made):
    store, _, _ = made
    split = make_split(store.images, random_state=0)
    train = np.flatnonzero(split == "train")[:2]
    named = store.images["path"].iloc[train].tolist()
    draw = partial(draw_sample, store, split, (SIZE, SIZE), n_images=4, box_kind=None)
    alone, both = (draw(pictures=given, random_state=0) for given in (None, named))
    np.testing.assert_array_equal(both.rows[both.scored], alone.rows[alone.scored])
    np.testing.assert_array_equal(both.rows[both.tuning], alone.rows[alone.tuning])
    np.testing.assert_array_equal(both.rows[both.pictures], train)
    assert set(both.rows[both.boxed]) == {*train, *both.rows[both.scored]}


@pytest.mark.slow
def test_labels_without_boxes_give_boxes_of_the_user_s_classes_unscored(made):
    store, backbone, _ = made
    bare = MapStore(store.path)
    bare.boxes = store.boxes.iloc[:0]
    found = analyse_gradients(bare, backbone, n_images=3, copies="split")
    assert found.facts["target"] == "label" and found.facts["n_scored"] == 0
    assert found.localisation.empty and not found.boxes["scored"].any()
    heats = found.boxes[found.boxes["method"].eq("grad_cam")]
    assert heats["class_asked"].tolist() == store.images["label"].iloc[heats["row"]].tolist()
    assert found.boxes.groupby("method").size().eq(3).all()


@pytest.mark.slow
def test_a_model_of_another_set_lends_its_classes(made, own, monkeypatch):
    """Asked are the classes that the model predicts, with its probabilities."""
    labelled, backbone, _ = made
    monkeypatch.setattr("featlab.pipeline._analysis._REPEATS", 1)
    predictor = predict.fit_predictor(analyse(labelled))
    pictures = index_images(own[2] / "pictures")[0]
    with extract_maps(
        pictures, backbone, own[2] / "mine.h5", options=PassOptions(resize="pad")
    ) as store:
        result = analyse_gradients(store, backbone, model=predictor, n_images=3)
        table = predictor.predict(store)
        for wrong in ({"target": "own"}, {"target": "label"}):
            with pytest.raises(FeatlabError, match="a model lends its classes to pictures without"):
                analyse_gradients(store, backbone, model=predictor, **wrong)
    with pytest.raises(FeatlabError, match="leave it out for a set with labels"):
        analyse_gradients(labelled, backbone, model=predictor)
    with pytest.raises(FeatlabError, match="another .* Give the model of a set that the same netw"):
        analyse_gradients(own[0], own[1], model=predictor)
    assert result.facts["target"] == "model" and result.facts["n_scored"] == 0
    assert set(result.boxes["method"]) >= {"dam_original", "grad_cam"}
    for _, rows in result.boxes.groupby("method"):
        said = table.iloc[rows["row"]]
        assert rows["class_asked"].tolist() == said["class"].tolist()
        np.testing.assert_allclose(rows["probability"], said["probability"], rtol=1e-3)


def test_a_target_that_the_set_or_the_network_has_not_is_refused(made, own):
    store, backbone, _ = own
    with pytest.raises(FeatlabError, match=r"have no labels, .* take target 'own' .*\(--model\)"):
        analyse_gradients(store, backbone, target="label")
    with pytest.raises(FeatlabError, match="target must be one of label, own, got 'mine'"):
        analyse_gradients(store, backbone, target="mine")
    labelled, bare, _ = made
    with pytest.raises(FeatlabError, match="brings no classifier of its own"):
        analyse_gradients(labelled, bare, target="own", copies="split")
    with pytest.raises(FeatlabError, match=r"no labels and mine brings no classifier.*\(--model\)"):
        checked_target(store, bare, None, None)


@pytest.mark.slow
def test_own_classes_of_a_network_of_keras(made, tmp_path):
    """Random weights; dense layers lie between the maps and the classes."""
    store, _, _ = made
    backbone = load_backbone("VGG16", weights=None, classifier=True, input_size=64)
    images = store.images.assign(split="")
    with extract_maps(images, backbone, tmp_path / "maps.h5", boxes=store.boxes) as of_it:
        found = analyse_gradients(of_it, backbone, target="own", n_images=3)
    assert found.facts["n_classes"] == 1000 and found.facts["n_scored"] == 3
    table = found.localisation.set_index("method")
    assert {"dam_original", "grad_cam", "sum", "centre_gaussian"} <= set(table.index)
    assert (table.loc[["dam_original", "grad_cam"], "class_asked"] == "own").all()
    assert table.loc["sum", "supervision"] == "none" and "cam" not in table.index


def test_results_come_back_from_disk(results, tmp_path):
    written = results.save(tmp_path)
    assert all(path.is_file() for path in written) and len(written) == 11
    back = GradientResults.load(tmp_path)
    for name in ("localisation", "boxes", "sanity", "faithfulness", "faithfulness_curves"):
        pd.testing.assert_frame_equal(getattr(back, name), getattr(results, name))
    assert back.facts == results.facts
    for old, new in zip(results.dam, back.dam, strict=True):
        for field in dataclasses.fields(old.trace):
            a, b = getattr(old.trace, field.name), getattr(new.trace, field.name)
            if field.name == "gradients":
                a, b = a / np.abs(a).max(), b.astype(np.float32)
                np.testing.assert_allclose(a, b, atol=1e-3)
            elif isinstance(a, np.ndarray):
                np.testing.assert_array_equal(a, b)
            else:
                assert a == b


@pytest.mark.slow
def test_results_are_drawn_from_disk_without_the_network(results, tmp_path):
    results.save(tmp_path)
    drawn = gradient_figures(GradientResults.load(tmp_path))
    assert len(drawn) == 8
    for name, figure in drawn.items():
        assert len(encode(figure, "png")) > 5_000, name


def test_half_written_results_are_told(tmp_path):
    with pytest.raises(FeatlabError, match="no finished results of `featlab gradients`"):
        GradientResults.load(tmp_path)


def test_another_network_is_refused_with_both_values(made, tmp_path):
    store, _, _ = made
    keras.utils.set_random_seed(5)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(12, 3, activation="relu", padding="same", name="last")(inputs)
    keras.Model(inputs, x).save(tmp_path / "mine.keras")
    other = load_backbone(tmp_path / "mine.keras")
    with pytest.raises(FeatlabError, match="another network: its weights sha256 is .*, that of"):
        analyse_gradients(store, other)


def test_a_changed_or_missing_picture_is_told(made, tmp_path):
    store, backbone, _ = made
    moved = MapStore(store.path)
    moved.images["folder"] = str(tmp_path)
    with pytest.raises(FeatlabError, match="could not be read"):
        analyse_gradients(moved, backbone, n_images=2)
    for path in moved.images["path"]:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"another")
    with pytest.raises(FeatlabError, match="has changed since the folder was indexed"):
        analyse_gradients(moved, backbone, n_images=2)


def test_the_network_is_rebuilt_from_what_the_store_says():
    provenance = {
        "backbone": "efficientnet_lite0",
        "weights": "ImageNet",
        "input_size": "160 x 192",
        "layers": '["block10_add", "head_relu"]',
        "output_stride": "16",
        "preprocessing": "pixels scaled to (x − 127) / 128",
    }
    backbone = rebuild_backbone(provenance)
    identity = backbone.identity()
    for key in ("backbone", "input_size", "layers", "output_stride", "preprocessing"):
        assert identity[key] == provenance[key]
    with pytest.raises(FeatlabError, match=r"came from a file \(mine.keras\); give it with"):
        rebuild_backbone(provenance | {"backbone": "mine", "weights": "mine.keras"})
    with pytest.raises(FeatlabError, match=r"weights of its own \(mine.h5\); give them with"):
        rebuild_backbone(provenance | {"weights": "mine.h5"})
    words = f"another backbone: {provenance['backbone']} there, m asked for"
    with pytest.raises(FeatlabError, match=words):
        rebuild_backbone(provenance, "m.keras")


@pytest.mark.slow
def test_the_command_writes_what_a_network_that_cannot_be_guided_still_gives(made, tmp_path):
    store, _, _ = made
    backbone = network(tmp_path / "smooth.keras", "gelu")
    images, path = store.images.assign(split=""), tmp_path / "maps.h5"
    images["folder"] = store.images["folder"].iloc[0]
    extract_maps(images, backbone, path, boxes=store.boxes).close()
    call = ["gradients", str(path), "-o", str(tmp_path / "out"), "--images", "4"]
    refused = CliRunner().invoke(app, call)
    assert isinstance(refused.exception, FeatlabError)
    assert "give it with --backbone" in str(refused.exception)
    done = CliRunner().invoke(app, [*call, "--backbone", str(tmp_path / "smooth.keras")])
    assert done.exit_code == 0, done.output
    assert "no guided back-propagation and no DAM" in done.output and "first (gelu)" in done.output
    assert "layer_cam" in done.output and "dam_original" not in done.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"gradients_localisation.csv", "gradient_examples.npz", "gradient_maps.png"} <= names
    assert {"randomisation.png", "faithfulness.png", "grad_cam_family.png"} <= names
    assert GradientResults.load(tmp_path / "out").dam == []


def test_the_command_keeps_and_tells_what_the_network_said(made, results, tmp_path, monkeypatch):
    """The network's own part is that of the tests above."""
    monkeypatch.setattr("featlab.pipeline.analyse_gradients", lambda *_, **__: results)
    monkeypatch.setattr("featlab.cli._rerun.gradient_figures", lambda _: {})
    call = ["gradients", str(made[2] / "maps.h5"), "-o", str(tmp_path), "--backbone"]
    done = CliRunner().invoke(app, [*call, str(made[2] / "mine.keras")])
    assert done.exit_code == 0, done.output
    assert f"{results.facts['n_patched']} rectifiers guided in" in done.output
    for method in [*results.localisation["method"], *results.faithfulness["method"]]:
        assert re.search(rf"^{method} +\d", done.output, re.MULTILINE), method
    for stage in results.sanity["stage"]:
        assert re.search(rf"^{stage} +\(?\w", done.output, re.MULTILINE), stage
    saved = GradientResults.load(tmp_path)
    assert saved.facts.pop("command") and saved.facts == results.facts


def made_up_transfer() -> Transfer:
    names = ["logistic", "mlp", "frozen", "thawed"]
    comparison = pd.DataFrame({"name": names, "trained_on": ["stored maps"] * 2 + ["network"] * 2})
    comparison = comparison.assign(
        n=24, accuracy=0.9, accuracy_low=0.8, accuracy_high=0.97, interval="over images",
        difference=[np.nan, 0, 0, 0.05], difference_low=[np.nan, -0.1, -0.1, 0.01],
        difference_high=[np.nan, 0.1, 0.1, 0.09], p=[np.nan, 1, 1, 0.04], test="McNemar, exact",
        seconds=[1.0, 2.0, 3.0, 40.0], trainable_parameters=[10, 20, 30, 4000],
    )  # fmt: skip
    curves = pd.DataFrame({"name": np.repeat(["frozen", "thawed"], 3), "epoch": [1, 2, 3] * 2})
    curves = curves.assign(
        phase=["head", "head", "head", "head", "thawed", "thawed"], loss=0.5, accuracy=0.8,
        val_loss=0.6, val_accuracy=0.7,
    )  # fmt: skip
    neurons = pd.DataFrame({"class": ["blue", "red"] * 6, "neuron": np.repeat(np.arange(6), 2)})
    detectors = pd.DataFrame({"class": ["blue", "red"]})
    for when in ("before", "after"):
        neurons = neurons.assign(**{f"auroc_{when}": 0.7})
        for what in ("selected", "confirmed"):
            neurons[f"{what}_{when}"] = True
            detectors[f"{what}_{when}"] = 3
        detectors[f"median_{when}"] = detectors[f"spread_{when}"] = 0.8
    detectors = detectors.assign(confirmed_both=2, neurons=12, spearman=0.97)
    small = pd.DataFrame({"pictures": ["32 px copies", "original"], "network": "at 48 px"}).assign(
        picture_size=[32, np.nan], input_size=48, layer="last", cells="12 × 12", neurons=12, n=24,
        accuracy=[0.7, 0.9], accuracy_low=[0.6, 0.8], accuracy_high=[0.8, 0.97],
        difference=[-0.2, np.nan], difference_low=[-0.3, np.nan], difference_high=[-0.1, np.nan],
        p=[0.02, np.nan],
    )  # fmt: skip
    return Transfer(comparison, curves, pd.DataFrame(), detectors, neurons, small, {})


@pytest.mark.parametrize("made_up", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_page_shows_what_runs_of_the_network_made_earlier(
    made, results, tmp_path, few_fits, monkeypatch, made_up
):
    """The analysis itself, which is that of `run` in test_cli, is made up in the quick case."""
    if made_up:
        analysis = make_results(n=60, c=8, boxes=False, pictures=False, detectors=False)
        monkeypatch.setattr(
            "featlab.pipeline.analyse",
            lambda store, gradients=None, transfer=None, **_: dataclasses.replace(
                analysis, gradients=gradients, transfer=transfer
            ),
        )
    store = str(made[2] / "maps.h5")
    results.save(tmp_path)
    made_up_transfer().save(tmp_path)
    with no_drawing(but=" " if made_up else "grad|dam|faithfulness|transfer"):
        done = CliRunner().invoke(app, ["report", store, "-o", str(tmp_path)])
    assert done.exit_code == 0, done.exception
    page = (tmp_path / "report.html").read_text("utf-8")
    sections = {"gradients", "transfer", *(() if made_up else ("set_overview",))}
    assert sections <= set(re.findall(r'<section[^>]* id="(\w+)"', page))
    # What only the two runs know: each of their figures, tables and differences is there.
    for fact in (
        *("rectifiers of a copy", "Model-randomisation", "DAM, preset “original”", "faithful"),
        *("option 2: last blocks thawed", "+0.050 [0.010,", "3 → 3", "up-sampling"),
    ):
        assert fact in page
    # The tables that the page points to lie beside it.
    for name in set(re.findall(r'href="([\w]+\.(?:csv|parquet))"', page)):
        assert (tmp_path / name).is_file(), name


def test_the_page_does_without_gradients_small_pictures_and_compared_detectors(
    tmp_path, blank_figures
):
    bare = dataclasses.replace(made_up_transfer(), detectors=None, neurons=None, small_images=None)
    bare.save(tmp_path)
    analysis = make_results(boxes=False, detectors=False, pictures=False)
    analysis = dataclasses.replace(analysis, transfer=Transfer.load(tmp_path))
    page = report.write_report(analysis, tmp_path / "report.html").read_text("utf-8")
    assert 'id="transfer"' in page and 'id="gradients"' not in page
    assert "3 → 3" not in page
