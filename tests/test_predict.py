"""A predictor: the evaluation's answers for the same pictures, files that are refused, sets."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone, draw_pictures
from PIL import Image
from scipy.stats import binom
from sklearn.base import clone
from typer.testing import CliRunner

from featlab import FeatlabError, boxheads, embed, extract, images, pipeline, predict, report
from featlab.backbones import load_backbone
from featlab.boxes.geometry import CORNERS
from featlab.cli import app
from featlab.cli._options import tell
from featlab.localise.methods import untuned
from featlab.predict import Predictor
from featlab.predict._parts import ClassSets, Typicality, fit_overlap, one_of_each
from featlab.store import MapStore

ARCHIVES = Path(__file__).parent / "archives"


def analysed(root, folder, backbone, boxes=None):
    table, read, _ = images.index_images(root)
    store = extract.extract_maps(
        table, backbone, folder / "maps.h5", boxes=read if boxes is None else boxes
    )
    return pipeline.analyse(store)


def fitted_set(root):
    """Pictures of two brightnesses whose bright part is the box, and what an analysis fits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featlab.pipeline._analysis.BOX_HEADS", ("cascade",))
        patch.setattr("featlab.pipeline._analysis._REPEATS", 1)
        patch.setattr("featlab.localise.fitting._DRAWS", 2)
        folder = draw_pictures(root / "pictures", {"bright": 40, "dark": 40})
        table, _, _ = images.index_images(folder)
        boxes = pd.DataFrame({"image": np.arange(80), "kind": "body", "label": table["label"]})
        boxes = boxes.assign(xmin=5.0, ymin=5.0, xmax=table["width"] - 9.0, ymax=30.0)
        results = analysed(folder, root, FakeBackbone(), boxes)
    return folder, results, predict.fit_predictor(results)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return fitted_set(tmp_path_factory.mktemp("set"))


def test_an_analysis_asks_each_image_once_and_its_predictor_is_the_same(made, monkeypatch):
    _, results, own = made
    asked, real = [], Predictor._of_maps

    def counted(self, store, coverage):
        asked.extend(store.images["path"])
        return real(self, store, coverage)

    monkeypatch.setattr(Predictor, "_of_maps", counted)
    with_them = pipeline.pictures.with_predictions(results).predictions
    assert sorted(asked) == sorted(results.store.images["path"])
    told = with_them.predictor.measured
    assert set(told) == set(own.measured) and {"accuracy", "mean_iou", "box_score"} <= set(told)
    assert told["box_score"] == pytest.approx(own.measured["box_score"], abs=1e-6)
    tested = with_them.table.dropna(subset="iou")
    score = told["box_score"]
    assert score["realised"] == pytest.approx(tested["iou"].mean()) and score["n"] == len(tested)


def test_the_files_get_what_the_store_got_and_the_saved_one_says_the_same(made, tmp_path):
    folder, results, predictor = made
    own = predictor.predict(results.store)
    network = FakeBackbone()
    path = predictor.save(tmp_path / "model.featlab")
    loaded = predict.load_predictor(tmp_path)
    from_files = loaded.predict(folder, backbone=network, folder=tmp_path / "out")
    pd.testing.assert_frame_equal(from_files, own, check_exact=True)
    calls = network.calls
    again = loaded.predict(folder, backbone=network, folder=tmp_path / "out")
    assert network.calls == calls and again.equals(own)
    assert loaded.measured == predictor.measured
    of_head = results.heads.of("logistic").set_index("row")
    assert own.loc[of_head.index, "class"].tolist() == of_head["predicted"].tolist()
    assert path.stat().st_size < 1 << 20


@pytest.mark.slow
def test_a_set_without_boxes_gets_boxes_that_nobody_scored(tmp_path):
    folder = draw_pictures(tmp_path / "pictures", {"bright": 30, "dark": 30})
    results = analysed(folder, tmp_path, FakeBackbone())
    predict.fit_predictor(results).save(tmp_path / "model.featlab")
    predictor = predict.load_predictor(tmp_path)
    usual = untuned(results.store, results.localisation.fitted)
    assert not predictor.heat.tuned
    assert (predictor.box_method, predictor.heat.threshold) == usual
    assert predictor.overlap is None and "mean_iou" not in predictor.measured
    table = predictor.predict(folder, backbone=FakeBackbone())
    assert table["box_score"].isna().all() and len(table) == 60
    left, top, right, bottom = table[CORNERS].to_numpy().T
    assert (left >= 0).all() and (top >= 0).all()
    assert (right <= table["width"]).all() and (bottom <= table["height"]).all()
    assert (right > left).any() and (bottom > top).any()


def test_boxes_are_those_of_the_evaluation(made):
    _, results, predictor = made
    assert predictor.box_head is not None
    per_image = results.box_regression.per_image
    scored = per_image[per_image["head"] == "cascade"].set_index("row")
    predicted = predictor.predict(results.store).loc[scored.index]
    # Sums of other numbers of rows differ in the last digits.
    np.testing.assert_allclose(predicted[CORNERS], scored[CORNERS], atol=1e-9)


def test_the_summary_has_the_scores_of_the_boxes_that_predict_gives(made, capsys):
    results = made[1]
    kept = report.summary(results)
    row = results.box_regression.table.set_index("head").loc["cascade"]
    for name in ("mean_iou", "box_accuracy"):
        shown = [row[name], row[f"{name}_low"], row[f"{name}_high"], row["n"]]
        own = kept["predicted_boxes"][name]
        assert [own[part] for part in ("value", "low", "high", "n")] == pytest.approx(shown)
    tell(kept, Path("out"))
    iou = kept["predicted_boxes"]["mean_iou"]
    of = f"mean IoU {iou['value']:.3f} [{iou['low']:.3f}, {iou['high']:.3f}], {iou['n']} unseen"
    line = next(one for one in capsys.readouterr().out.splitlines() if "by cascade" in one)
    assert line.startswith("  boxes of `featlab predict`, by cascade: ") and of in line


def test_a_refitted_one_says_whose_its_scores_are(made, tmp_path):
    """Head and box head of all images; whatever was calibrated or scored is the scored one's."""
    _, results, scored = made
    every = scored.predict(results.store)
    beside = predict.predictions_beside_truth(scored, results, every)
    analysed = replace(results, predictions=replace(beside, predictor=scored))
    told = pipeline.pictures.with_refit(analysed).predictions
    new = told.predictor
    assert told.refitted == new.refitted == 80 and told.table.equals(beside.table)
    X, labels = results.store.pooled(), results.store.images["label"].to_numpy(str)
    every = clone(results.heads.models["logistic"]).fit(X.astype(float), labels)
    (weights, intercepts), heat = new.head.layers[-1], scored.measured["temperature"]
    np.testing.assert_allclose(weights.T * heat, every[-1].coef_, rtol=1e-6)
    np.testing.assert_allclose(intercepts * heat, every[-1].intercept_, rtol=1e-6)
    np.testing.assert_allclose(new.head.mean, X.astype(float).mean(axis=0), rtol=1e-6)
    assert not np.allclose(weights, scored.head.layers[-1][0])
    # The box head's components are those of all boxed images.
    ours, theirs = new.box_head.arrays["channel_mean"], scored.box_head.arrays["channel_mean"]
    np.testing.assert_allclose(ours, results.store.maps().mean(axis=(0, 1, 2)), rtol=1e-4)
    assert not np.allclose(ours, theirs, rtol=1e-4)
    for part in ("sets", "typicality", "heat", "overlap", "detectors", "classes"):
        assert getattr(new, part) is getattr(scored, part)
    assert new.box_head.measured == scored.box_head.measured
    assert {name: new.measured[name] for name in scored.measured} == scored.measured
    sentence = "fitted again on all 80 labelled images: scores, and how often the sets hold"
    assert sentence in new.measured["scores_of"] and "scores_of" not in scored.measured
    loaded = predict.load_predictor(new.save(tmp_path / "model.featlab"))
    assert sentence in repr(loaded) and sentence not in repr(scored)
    assert loaded.predict(results.store).equals(new.predict(results.store))
    assert loaded.predict(results.store)["class"].tolist() == labels.tolist()
    assert "its scores, and how often" in asked_page(loaded, results, tmp_path)
    assert "its scores, and how often" not in asked_page(scored, results, tmp_path)
    with pytest.raises(FeatlabError, match="fitted on all images already"):
        predict.refit_predictor(loaded, results)


def test_report_refits_the_file_and_nothing_that_was_scored(made, tmp_path, monkeypatch):
    """`featlab report --refit`: on all images, from the analysis of a store, as `run --refit`."""
    _, results, _ = made
    pages = []
    monkeypatch.setattr("featlab.pipeline.analyse", lambda store, **_: results)
    monkeypatch.setattr("featlab.report.write_report", lambda *page: pages.append(page[0]))
    store, weights = str(results.store.path.parent), []
    for n, more in ((0, []), (80, ["--refit"])):
        done = CliRunner().invoke(app, ["report", store, "-o", str(tmp_path), *more])
        assert done.exception is None, done.output
        predictor = predict.load_predictor(tmp_path)
        assert predictor.refitted == pages[-1].predictions.refitted == n
        weights.append(predictor.head.layers[0][0])
    before, after = (page.predictions.table for page in pages)
    assert after.equals(before) and pages[1].heads.table.equals(pages[0].heads.table)
    X, labels = results.store.pooled(), results.store.images["label"].to_numpy(str)
    every = clone(results.heads.models["logistic"]).fit(X.astype(float), labels)
    heat = predictor.measured["temperature"]
    np.testing.assert_allclose(weights[1].T * heat, every[-1].coef_, rtol=1e-6)
    assert not np.allclose(weights[1], weights[0])


def asked_page(predictor, results, folder):
    """The page of `featlab predict`."""
    table = predictor.predict(results.store)
    shown = predict.page_predictions(predictor, results.store, table)
    return report.write_predictions(shown, folder / "asked.html").read_text()


def test_box_heads_are_files_that_know_their_network(made, tmp_path):
    """Each that is linear steps gives the boxes it was scored with, read again from its file."""
    _, results, _ = made
    store, regression = results.store, results.box_regression
    for name, head in regression.fitted.items():
        path = boxheads.save_box_head(head, tmp_path / f"{name}.boxhead")
        again = boxheads.load_box_head(path)
        scored = regression.per_image[regression.per_image["head"] == name].set_index("row")
        boxes = boxheads.predict_boxes(again, store, scored.index)
        np.testing.assert_allclose(boxes, scored[CORNERS], atol=1e-4)
        assert again.measured == head.measured and again.measured["mean_iou"]["n"] == len(scored)
    assert set(regression.fitted) == {"cascade"}
    other = replace(again, network={**again.network, "weights_sha256": "deadbeef"})
    sha = store.provenance["weights_sha256"]
    with pytest.raises(FeatlabError, match=f"weights sha256: {sha} there, deadbeef asked for"):
        boxheads.predict_boxes(other, store)
    with h5py.File(path, "r+") as file:
        del file["arrays/first_axes"]
    with pytest.raises(FeatlabError, match="no box head: it has no 'first_axes'"):
        boxheads.load_box_head(path)
    with h5py.File(path, "r+") as file:
        file["arrays/first_axes"] = h5py.ExternalLink("/elsewhere", "x")
    with pytest.raises(FeatlabError, match="no box head: .*; make it again with `featlab boxheads"):
        boxheads.load_box_head(path)
    with pytest.raises(FeatlabError, match="no box head: attribute encoding-type"):
        boxheads.load_box_head(made[2].save(tmp_path / "model.featlab"))


def test_boxes_of_a_head_given_by_hand(made, tmp_path):
    """Its boxes and its own scores; what was calibrated on other boxes is no longer said."""
    _, results, own = made
    store = results.store
    regression = boxheads.evaluate_box_heads(store, results.split, heads=["pls"], n_boot=50)
    path = boxheads.save_box_head(regression.fitted["pls"], tmp_path / "pls.boxhead")
    head = boxheads.load_box_head(path)
    new = own.with_box_head(head)
    table, before = new.predict(store), own.predict(store)
    scored = regression.per_image[regression.per_image["head"] == "pls"].set_index("row")
    np.testing.assert_allclose(table.loc[scored.index, CORNERS], scored[CORNERS], atol=1e-9)
    changed = [*CORNERS, "box_method", "box_score"]
    assert table.drop(columns=changed).equals(before.drop(columns=changed))
    assert (table["box_method"] == "pls").all() and table["box_score"].isna().all()
    row = regression.table.set_index("head").loc["pls"]
    assert new.measured["mean_iou"]["value"] == row["mean_iou"]
    kept = ("accuracy", "n_calibrated", "temperature")
    assert all(new.measured[name] == own.measured[name] for name in kept)
    assert "box_score" not in new.measured and "box_score" in own.measured
    lines = "\n".join(predict.prediction_lines(new, table, 0.9))
    assert f"boxes by pls, given by hand: mean IoU {row['mean_iou']:.3f}" in lines
    assert "box_score is empty" in lines and "expected" not in lines
    saved = predict.load_predictor(new.save(tmp_path / "model.featlab"))
    assert saved.given and not own.given and saved.predict(store).equals(table)
    other = replace(head, network={**head.network, "input_size": "9 x 9"})
    known = store.provenance["input_size"]
    words = f"'pls' was made with another input size: 9 x 9 there, {known} asked for. Give one of"
    with pytest.raises(FeatlabError, match=words):
        own.with_box_head(other)
    with pytest.raises(FeatlabError, match="'cascade' does not say which network's maps"):
        new.with_box_head(own.box_head)


def test_heat_map_boxes_are_those_of_the_evaluation_exactly(made):
    _, results, predictor = made
    own = replace(predictor, box_head=None)
    per_image = results.localisation.per_image
    scored = per_image[per_image["method"] == own.heat.method].set_index("row")
    predicted = own.predict(results.store).loc[scored.index]
    right = predicted["class"] == scored["label"]
    assert right.sum() > 10
    assert (predicted.loc[right, CORNERS] == scored.loc[right, CORNERS]).to_numpy().all()


@pytest.mark.parametrize("coverage", [0.3, 0.5, 0.9])
def test_the_promise_is_counted_on_the_sets_that_are_given(made, coverage):
    _, results, predictor = made
    sets = predictor.predict(results.store, coverage=coverage)["set"].str.split("|")
    test = np.flatnonzero(results.split == "test")
    labels = results.store.images["label"]
    held = [labels[row] in sets[row] for row in test]
    told = predictor.sets.realised(coverage)
    assert told["n"] == len(test) and told["coverage"] == pytest.approx(np.mean(held))


def test_a_run_keeps_its_own_predictions(made, tmp_path):
    folder, _, predictor = made
    model = predictor.save(tmp_path / predict.MODEL)
    done = CliRunner().invoke(app, ["predict", str(model), str(folder), "-o", str(tmp_path)])
    assert isinstance(done.exception, FeatlabError) and "holds a run" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == [predict.MODEL]


def test_another_network_is_refused_and_both_values_are_named(made, tmp_path):
    folder, _, predictor = made
    with pytest.raises(FeatlabError, match=r"weights sha256: gain 1.0 there, gain 2.0 asked for"):
        predictor.predict(folder, backbone=FakeBackbone(gain=2.0), folder=tmp_path)


def retyped(file, key, dtype, shape):
    del file[key]
    file.create_dataset(key, shape, dtype, chunks=tuple(min(side, 64) for side in shape))


def facts(file, text):
    del file["facts"]
    file["facts"] = np.frombuffer(text.encode(), np.uint8)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: f.attrs.update({"encoding-version": "9.0"}), "encoding-version '9.0'"),
        (lambda f: f.attrs.update({"encoding-type": "featlab-maps"}), "no predictor"),
        (lambda f: f.pop("arrays/head_mean"), "head_mean"),
        (lambda f: f.pop("facts"), "facts"),
        (lambda f: f["arrays/sets_scores"].__setitem__(0, np.nan), "not finite"),
        (lambda f: retyped(f, "arrays/head_mean", h5py.string_dtype(), (3,)), "holds no numbers"),
        (lambda f: retyped(f, "arrays/head_mean", "f8", (2**40,)), "bytes announced"),
        (lambda f: retyped(f, "arrays/head_scale", "f8", (1, 1)), "damaged, or no predictor"),
        (lambda f: facts(f, "[" * 30_000), "damaged, or no predictor"),
        (lambda f: facts(f, "[]"), "no JSON object"),
        (lambda f: facts(f, "{}"), "it has no 'classes'"),
    ],
)
def test_an_unknown_or_damaged_file_is_one_sentence(made, tmp_path, damage, words):
    path = made[2].save(tmp_path / "model.featlab")
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(FeatlabError, match=words):
        predict.load_predictor(path)


def test_a_truncated_file_and_none_at_all_are_refused(made, tmp_path):
    path = made[2].save(tmp_path / "model.featlab")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FeatlabError, match="is damaged, or no predictor"):
        predict.load_predictor(path)
    with pytest.raises(FeatlabError, match="there is no predictor"):
        predict.load_predictor(tmp_path / "nowhere.featlab")


def test_an_archived_predictor_of_version_1_0_gives_its_own_numbers():
    """Asked about an archived store (make_archive.py); the numbers are stored here."""
    predictor = predict.load_predictor(ARCHIVES / "predictor-v1.0.featlab")
    between = predictor.head.mean * [[1.0], [0.97]]
    told = [[0.9351607747433052, 0.06483922525669479], [0.24633329765394607, 0.7536667023460539]]
    np.testing.assert_allclose(predictor.head.predict_proba(between), told, rtol=1e-9)
    with MapStore(ARCHIVES / "maps-v1.1.h5") as store:
        table = predictor.predict(store, coverage=0.5)[:2]
        heat = replace(predictor, box_head=None).predict(store)[:2]
    assert table["class"].tolist() == table["set"].tolist() == ["bright", "bright"]
    np.testing.assert_allclose(table["typicality"], [13 / 17, 15 / 17], rtol=1e-12)
    corners = [
        [8.240017063220652, 4.677403468969585, 62.18281044750656, 26.183677643303756],
        [8.460964283749831, 4.690061317324217, 62.065539561570276, 26.206044924958157],
    ]
    np.testing.assert_allclose(table[CORNERS], corners, rtol=1e-5)  # maps are single precision
    around = [[0, 1905 / 56, 70, 60], [35.625, 645 / 28, 70, 2025 / 56]]
    np.testing.assert_allclose(heat[CORNERS], around, rtol=1e-12)
    assert set(table["box_method"]) == {"cascade"} and set(heat["box_method"]) == {"detectors"}
    np.testing.assert_allclose(table["box_score"], 0.7401045950793359, rtol=1e-9)
    assert table["detectors"].tolist() == ["0 1 2 3 4"] * 2
    assert predictor.sets.realised(0.9)["n"] == 24


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("heat", "method", "phlogiston"), "'phlogiston', which is not registered here"),
        (("heat", "contexts", [{}]), "it has no 'fitted'"),
        (("box_head", "layer", "nowhere"), "the network has no layer 'nowhere'"),
    ],
)
def test_json_that_lies_is_refused_by_name_of_the_file(tmp_path, change, words):
    path = tmp_path / "model.featlab"
    path.write_bytes((ARCHIVES / "predictor-v1.0.featlab").read_bytes())
    with h5py.File(path, "r+") as file:
        told = json.loads(file["facts"][()].tobytes())
        told[change[0]][change[1]] = change[2]
        facts(file, json.dumps(told))
    with pytest.raises(FeatlabError, match=words) as error:
        predict.load_predictor(path)
    assert str(path) in str(error.value)


def test_nothing_in_the_file_can_run(made, tmp_path):
    path = made[2].save(tmp_path / "model.featlab")
    with h5py.File(path) as file:
        assert file.attrs["encoding-type"] == "featlab-predictor"
        assert json.loads(file["facts"][()].tobytes())["classes"] == ["bright", "dark"]
        assert all(one.dtype.kind in "fiu" for one in file["arrays"].values())


def test_sets_of_classes_cover_as_they_promise():
    """Over draws of calibration and new pictures: between 0.9 and 0.9 + 1 / (n + 1)."""
    rng = np.random.default_rng(0)
    n, draws = 19, 4000
    scores = rng.random((draws, n + 1))
    kept = sum(one[-1] <= ClassSets(one[:-1], one[:0]).cut(0.9) for one in scores)
    low, high = binom.interval(0.999, draws, 0.9)
    assert low <= kept <= high  # (n + 1) 0.9 is whole: exactly 0.9
    assert ClassSets(scores[0, :8], scores[0, :0]).cut(0.9) == np.inf  # too few to promise less
    inside = ClassSets(np.full(19, 0.1), scores[0]).members(
        np.array([[0.5, 0.5], [0.95, 0.05]]), 0.9
    )
    assert inside.tolist() == [[True, False], [True, False]]


def test_typicality_is_a_p_value():
    usual = Typicality(np.eye(3, dtype=np.float32), np.array([0.1, 0.2, 0.3]))
    far, near = usual.p_values(np.array([[-1.0, -1, -1], [1, 1, 1]]))
    assert far == 1 / 4 and near == 1 / 4
    groups = np.array(["a", "a", "b", "", ""])
    drawn = one_of_each(np.arange(5), groups, 0)
    assert len(drawn) == 4 and len({*drawn} & {0, 1}) == 1


def test_pictures_from_anywhere(tmp_path, picture_folder):
    root = picture_folder({"a": 2, "b": 1})
    (root / "deep" / "er").mkdir(parents=True)
    (root / "a" / "000.png").rename(root / "deep" / "er" / "x.png")
    (root / "broken.jpg").write_bytes(b"no picture")
    table, skipped = images.index_pictures(root, on_error="skip")
    assert table["path"].tolist() == ["a/001.png", "b/000.png", "deep/er/x.png"]
    assert skipped["path"].tolist() == ["broken.jpg"]
    some, _ = images.index_pictures([root / "b" / "000.png", str(root / "**" / "x.png")])
    assert some["path"].tolist() == ["b/000.png", "deep/er/x.png"]
    (root / "list.csv").write_text("path\nb/000.png\n")
    assert images.index_pictures(root / "list.csv")[0]["path"].tolist() == ["b/000.png"]
    for wrong, words in (
        ("nowhere", "nothing at"),
        ([], "must hold at least one path, got none"),
        (tmp_path / "pictures" / "b" / "*.gif", "noth"),
    ):
        with pytest.raises(FeatlabError, match=words):
            images.index_pictures(wrong)


@pytest.mark.slow
def test_a_real_network_gives_the_evaluations_classes_and_boxes(shared_data, tmp_path, few_fits):
    """Pictures of three fruits from their files, through the pass, by a saved predictor."""
    rows = pd.read_csv(shared_data / "fruit3" / "boxes.csv")["image"].unique()
    for name in sorted(rows)[::4]:
        link = tmp_path / "set" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(shared_data / "fruit3" / name)
    boxes = (shared_data / "fruit3" / "boxes.csv").read_text()
    (tmp_path / "set" / "boxes.csv").write_text(boxes)
    table, read, _ = images.index_images(tmp_path / "set", on_error="skip")
    network = load_backbone("efficientnet_lite0", input_size=128)
    store = extract.extract_maps(table, network, tmp_path / "maps.h5", boxes=read)
    results = pipeline.analyse(store)
    predict.fit_predictor(results).save(tmp_path / "model.featlab")
    test = results.split.to_numpy() == "test"
    files = [tmp_path / "set" / path for path in table["path"][test]]
    predictor = predict.load_predictor(tmp_path / "model.featlab")
    predicted = predictor.predict(files, backbone=network)
    of_head = results.heads.of("logistic")
    assert predicted["class"].tolist() == of_head["predicted"].tolist()
    one = predictor.predict(files[0], backbone=network)  # by itself, not in a batch
    assert one["class"][0] == predicted["class"][0]
    np.testing.assert_allclose(one[CORNERS], predicted.loc[[0], CORNERS], atol=0.01)
    own = predictor.predict(store)[test].reset_index(drop=True)
    # Products of other numbers of rows differ in their last digits on some processors.
    np.testing.assert_allclose(predicted[CORNERS], own[CORNERS], rtol=1e-6)
    if predictor.box_head is None:
        per_image = results.localisation.per_image
        scored = per_image[per_image["method"] == predictor.heat.method].reset_index()
        right = (predicted["class"] == scored["label"]).to_numpy()
        of_evaluation = scored.loc[right, CORNERS]
        np.testing.assert_allclose(predicted.loc[right, CORNERS], of_evaluation, rtol=1e-6)


def test_pictures_in_memory_get_what_their_files_get(made, tmp_path):
    folder, _, predictor = made
    ask = partial(predictor.predict, backbone=FakeBackbone())
    files = sorted(folder.rglob("*.png"))[:5]
    on_disk = ask(files, folder=tmp_path, keep_maps=True)
    pd.testing.assert_frame_equal(ask(files), on_disk, check_exact=True)
    wanted = on_disk.drop(columns="path")
    opened = [Image.open(file) for file in files]
    same = [picture for picture in opened if picture.size == opened[0].size]
    for given in (
        opened,
        [np.asarray(picture) for picture in opened],
        [file.read_bytes() for file in files],
        (picture for picture in opened),
    ):
        table = ask(given)
        assert len(table) == 5
        pd.testing.assert_frame_equal(table.drop(columns="path"), wanted)
    stacked = np.stack([np.asarray(picture) for picture in same])
    assert len(ask(stacked)) == len(same) and len(ask(stacked[0])) == len(ask(opened[0])) == 1
    for wrong, words in (
        (stacked.astype(float), "must be uint8"),
        ([opened[0], str(files[0])], "got str among them"),
        (iter([]), "at least one picture"),
        (7, "got int"),
    ):
        with pytest.raises(FeatlabError, match=words):
            ask(wrong)


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        ([], "pictures must hold at least one path, got none"),
        (np.zeros((2, 5)), r"\(n, h, w, 3\), got float64 of shape \(2, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"must have pixels, got shape \(0, 4, 3\)"),
        (Image.new("RGB", (0, 3)), "must have pixels, got an image of Pillow without any"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_shape(made, pictures, words):
    with pytest.raises(FeatlabError, match=words):
        made[2].predict(pictures, backbone=FakeBackbone())


def test_blocks_of_pictures_give_one_table_and_go_on_where_they_stopped(
    made, tmp_path, monkeypatch
):
    folder, results, predictor = made
    monkeypatch.setattr("featlab.predict._predictor.PICTURES_AT_ONCE", 32)
    largest = []
    real = Predictor.of_store

    def measured(self, store, coverage):
        largest.append(len([*(tmp_path / "out" / "predictions.parts").glob("*.h5")]))
        return real(self, store, coverage)

    monkeypatch.setattr(Predictor, "of_store", measured)
    own = real(predictor, results.store, 0.9)
    network = FakeBackbone(fail_at=2, error=KeyboardInterrupt())
    ask = partial(predictor.predict, folder, folder=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        ask(backbone=network)
    again = FakeBackbone()
    answer = ask(backbone=again)
    # Products of fewer pictures differ in their last digits on some processors.
    pd.testing.assert_frame_equal(answer, own)
    once = again.calls
    assert 0 < once < 3 and set(largest) == {1}
    assert not [*(tmp_path / "out").rglob("*.h5")]
    assert ask(backbone=again).equals(answer) and again.calls == once
    assert ask(backbone=again, coverage=0.5).shape == own.shape and again.calls > once


@pytest.mark.slow
def test_a_signed_layer_is_saved_with_its_centre(tmp_path):
    class Signed(FakeBackbone):
        def _maps(self, pixels):
            maps = super()._maps(pixels)
            return {name: one * np.resize([1, -1], one.shape[-1]) for name, one in maps.items()}

    folder = draw_pictures(tmp_path / "pictures", {"bright": 40, "dark": 40})
    results = analysed(folder, tmp_path, Signed())
    predictor = predict.fit_predictor(results)
    centre = predictor.heat.fitted.contexts["last"].centre
    assert centre is not None
    # What is drawn of its neurons lies around it.
    drawn, top = results.portraits, results.showcase
    assert drawn.signed and top.signed and results.detector_examples.signed
    (_, neuron), row = drawn.neurons[0], drawn.rows[0, 0, 0]
    own = results.store.maps([row])[0, :, :, neuron] - centre[neuron]
    np.testing.assert_allclose(drawn.cells[0, 0, 0], own, atol=1e-5)
    assert min(heat.min() for heat in top.heats) < 0
    assert (results.gallery.neuron_heats >= 0).all()
    loaded = predict.load_predictor(predictor.save(tmp_path / "model.featlab"))
    assert loaded.predict(results.store).equals(predictor.predict(results.store))


def test_typicality_keeps_its_promise():
    """Over draws of calibration and new novelties: at most 0.05 fall to 0.05, and about as many."""
    rng = np.random.default_rng(0)
    novelty = rng.exponential(size=(4000, 40))
    p = [Typicality(np.zeros((0, 0), np.float32), one[1:]).of_novelty(one[:1]) for one in novelty]
    low, high = binom.interval(0.999, len(p), 0.05)
    assert low <= (np.concatenate(p) <= 0.05).sum() <= high  # 40 × 0.05 is whole: exactly 0.05


def test_the_expected_overlap_is_a_line_or_the_mean():
    rng = np.random.default_rng(0)
    signs = rng.random((80, 2))
    overlap = 0.2 + 0.5 * signs[:, 0]
    told = fit_overlap(signs, overlap)
    assert told.informative and np.abs(told.of(signs) - overlap).max() < 0.05
    noise = rng.random(80)
    nothing = fit_overlap(signs, noise)
    assert not nothing.informative and (nothing.of(signs) == noise.mean()).all()
    assert told.of(np.array([[9.0, 0.0], [-9.0, 0.0]])).tolist() == [1, 0]


def test_the_promise_holds_for_new_groups_where_one_image_of_each_calibrates():
    """Images of a group are alike: taking them all for independent breaks the promise."""
    rng = np.random.default_rng(0)
    kept, naive = [], []
    for draw in range(600):
        sizes = rng.permutation([1] * 15 + [40] * 4)
        groups = np.repeat(np.arange(19), sizes).astype(str)
        level = rng.normal(size=20)  # the last is the new group
        scores = np.repeat(level[:19], sizes) + 0.01 * rng.normal(size=len(groups))
        drawn = one_of_each(np.arange(len(groups)), groups, draw)
        new = level[19] + 0.01 * rng.normal()
        kept.append(new <= ClassSets(scores[drawn], scores[:0]).cut(0.9))
        naive.append(new <= ClassSets(scores, scores[:0]).cut(0.9))
    low, high = binom.interval(0.999, len(kept), 0.9)
    assert low <= sum(kept) <= high
    assert sum(naive) < low


# ------------------------------------------------------------------------- which pictures to box


@pytest.fixture(scope="module")
def half_boxed(made, tmp_path_factory):
    """The folder of a run whose first images of each class alone have a box; its split."""
    folder, results, predictor = made
    run = tmp_path_factory.mktemp("run")
    boxes = results.store.boxes
    few = boxes[boxes["image"] % 40 < 10]
    table, _, _ = images.index_images(folder)
    extract.extract_maps(table, FakeBackbone(), run / "maps.h5", boxes=few).close()
    predictor.save(run / "model.featlab")
    return run, results.split.to_numpy(str), set(few["image"])


def test_train_images_without_a_box_are_suggested_with_the_predictors_own(half_boxed, made):
    run, sides, boxed = half_boxed
    predictor = made[2]
    with MapStore(run / "maps.h5") as store:
        table = predict.suggest_boxes(predictor, store, sides, 6)
        assert len(table) == 6 and table["row"].is_unique
        assert not set(table["row"]) & boxed and set(sides[table["row"]]) == {"train"}
        rows = table["row"].to_numpy()
        codes = np.searchsorted(predictor.classes, table["class"])
        np.testing.assert_array_equal(table[CORNERS], predictor.boxes(store, rows, codes)[0])
        assert table["class"].tolist() == store.images["label"].iloc[rows].tolist()
        X, train = store.pooled(layer=predictor.layer), np.flatnonzero(sides == "train")
        given = np.intersect1d(train, list(boxed))
        order = embed.representatives(X, 6, rows=train, given=given)
        assert rows.tolist() == order["row"].tolist()
        # Those that are suggested first do not depend on how many are asked for.
        fewer = predict.suggest_boxes(predictor, store, sides, 2)
        assert fewer["row"].tolist() == rows[:2].tolist()


@pytest.mark.parametrize("side", ["confirm", "test"])
def test_images_that_measure_are_drawn_at_random_and_only_when_asked_for(half_boxed, made, side):
    run, sides, boxed = half_boxed
    with MapStore(run / "maps.h5") as store:
        draws = [
            set(predict.suggest_boxes(made[2], store, sides, 4, side=side, random_state=k)["row"])
            for k in range(12)
        ]
    free = set(np.flatnonzero(sides == side)) - boxed
    assert all(len(draw) == 4 and draw <= free for draw in draws)
    # Every image is drawn now and then, typical or not.
    assert len(set.union(*draws)) >= 0.8 * len(free)


def test_nothing_is_suggested_where_all_have_a_box(made):
    _, results, predictor = made
    with pytest.raises(FeatlabError, match="every train image has a box already"):
        predict.suggest_boxes(predictor, results.store, results.split)
    with pytest.raises(FeatlabError, match="side must be one of"):
        predict.suggest_boxes(predictor, results.store, results.split, side="all")


def test_the_command_lists_them_and_leaves_boxes_to_correct(half_boxed, made):
    run, sides, boxed = half_boxed
    asked = ["suggest", str(run), "-n", "5", "--formats", "csv,voc", "--pictures"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    folder = run / "suggested"
    table = pd.read_csv(folder / "suggested.csv")
    assert all(path in done.output for path in table["path"])
    assert set(sides[table["row"]]) == {"train"} and not set(table["row"]) & boxed
    assert all(Path(file).is_file() for file in table["file"])
    found = pd.read_csv(folder / "csv" / "boxes.csv")
    solid = table.dropna(subset=CORNERS)
    solid = solid[(solid["xmax"] > solid["xmin"]) & (solid["ymax"] > solid["ymin"])]
    assert found["image"].tolist() == solid["path"].tolist()
    assert len(list((folder / "voc" / "Annotations").rglob("*.xml"))) == 5
    assert len(list((folder / "pictures").rglob("*.jpg"))) == 5
    refused = CliRunner().invoke(app, ["suggest", str(run), "--formats", "odd"])
    assert "formats" in str(refused.exception)
