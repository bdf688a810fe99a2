"""From a store to everything a report tells, on pictures that a made-up network can tell apart."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from contextlib import nullcontext
from itertools import combinations

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from conftest import DRAWN, FakeBackbone, no_drawing
from PIL import Image

from featlab import FeatlabError, localise, neurons, plots, report
from featlab.arguments import confirmed_detectors, true_boxes
from featlab.boxes.geometry import CORNERS
from featlab.boxes.scores import max_box_acc_v2
from featlab.extract import extract_maps
from featlab.images import index_images
from featlab.localise.fitting import fit_methods
from featlab.localise.heat import picture_sizes
from featlab.localise.regions import score_heats
from featlab.pipeline import analyse, neuron_card, write_results
from featlab.pipeline._analysis import STAGES
from featlab.pipeline.detectors import ablation_order
from featlab.pipeline.scheduler import Stage, run_stages
from featlab.pipeline.sets import box_curve
from featlab.report import _methods, _words
from featlab.results import Results


def write_pictures(folder, n=40, classes=("red", "green")):
    rng = np.random.default_rng(0)
    rows = []
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(60, 140, (56, 56, 3), dtype=np.uint8)
            x, y = rng.integers(0, 28, 2)
            pixels[y : y + 28, x : x + 28, k] = rng.integers(150, 255)
            Image.fromarray(pixels).save(folder / name / f"{i:02d}.png")
            rows.append([f"{name}/{i:02d}.png", name, "object", 56, 56, x, y, x + 28, y + 28])
    columns = ["image", "label", "kind", "width", "height", "xmin", "ymin", "xmax", "ymax"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "boxes.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    base = tmp_path_factory.mktemp("pipeline")
    images, boxes, _ = index_images(write_pictures(base / "pictures"))
    backbone = FakeBackbone(layers=("low", "high"))
    with extract_maps(images, backbone, base / "maps.h5", boxes=boxes) as opened:
        yield opened


@pytest.fixture(scope="module")
def results(store):
    return analyse(store, random_state=0)


def test_every_layer_and_pooling_is_one_family(results):
    table = results.all_neurons
    assert set(zip(table["layer"], table["pooling"], strict=True)) == {
        (layer, pooling) for layer in ("low", "high") for pooling in ("mean", "max")
    }
    selection = results.selection
    assert selection.n_tests == table.attrs["n_tests"] and selection.unit == "images"
    assert selection.n_confirm_tests == table.attrs["n_confirm_tests"]
    assert table.attrs["n_tests"] == table["p"].notna().sum() > results.neurons["p"].notna().sum()
    assert set(results.neurons["layer"]) == {"high"}
    assert set(results.neurons["pooling"]) == {"mean"}
    poolings = results.detector_details.poolings
    assert len(poolings) == 4
    assert poolings["accuracy"].between(0.9, 1).all()


def test_planted_colour_is_found_confirmed_and_located(results):
    confirmed = neurons.select_neurons(results.neurons)
    # Channels 0 and 1 of the made-up network are the mean red and green of a cell.
    assert {("red", 0), ("green", 1)} <= set(
        zip(confirmed["class"], confirmed["neuron"], strict=True)
    )
    found = results.localisation.table.set_index("method")
    assert found.loc["best_detector", "box_accuracy"] > found.loc["mean_box", "box_accuracy"]
    assert results.detector_details.nulls["confirmed"].max() <= 1
    assert results.audit.summary.set_index("check").loc["colour alone", "verdict"] != "pass"
    assert results.audit.verdict in ("warn", "fail")


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    """The folder of the results, the paths told, and the seconds known before."""
    folder, before = tmp_path_factory.mktemp("written"), dict(results.seconds)
    with no_drawing(but=DRAWN):
        return folder, write_results(results, folder), before


@pytest.mark.slow
def test_every_figure_of_real_results_is_drawn(results, tmp_path):
    page = write_results(results, tmp_path)[0].read_text("utf-8")
    assert page.count("data:image/") > 20


def test_the_page_tells_all_of_it_and_the_tables_lie_beside_it(results, written):
    folder = written[0]
    page = (folder / "report.html").read_text("utf-8")
    for words in (
        "Is it fit for the question?",
        "Checks of the set",
        "Do the detectors hold on other images?",
        "Does the head need them?",
        "Other layers and poolings",
        "sets of shuffled labels",
        "active for red",
    ):
        assert words in page, words
    assert "&lt;bdi" not in page and "&lt;b" not in page
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", page))
    for name in ("audit", "audit_images", "confounds", "heads", "neurons", "detectors"):
        assert (folder / f"{name}.csv").exists(), name
    again = pd.read_parquet(folder / "neurons.parquet")
    assert again.attrs["correction"] == "fdr_bh"
    pd.testing.assert_frame_equal(again, results.all_neurons, check_dtype=False)


def test_a_card_shows_the_extremes_of_its_neuron(store, results):
    card = neuron_card(store, 0, results.all_neurons, label="red", most=3)
    pooled = store.pooled()[:, 0]
    assert card.best["activation"].tolist() == sorted(pooled, reverse=True)[:3]
    assert card.worst["activation"].tolist() == sorted(pooled)[:3]
    assert len(card.pictures) == len(card.heats) == 6
    assert card.title == "Neuron 0 of high, active for red"
    assert isinstance(plots.neuron_card(card), matplotlib.figure.Figure)
    held = results.all_neurons["confirmed"].eq(True) & results.all_neurons["neuron"].eq(0)
    assert any("(which flatters it)" in fact for fact in card.facts) == held.any()
    bare = results.all_neurons.assign(p_adjusted=np.nan, reason="too few groups")
    card = neuron_card(store, 0, bare, label="red", most=1)
    assert card.facts[1] == "no p: too few groups"
    # A share that is not all of them does not read as all; of the images that the table is of.
    some = results.all_neurons.assign(pts=0.998)
    facts = neuron_card(store, 0, some, label="red", most=1).facts
    assert any(fact.startswith("fired when chosen in 0.998 of the class") for fact in facts)
    unseen = neuron_card(store, 0, results.all_neurons, rows=[3, 4, 5], most=2)
    assert set(unseen.best["row"]) <= {3, 4, 5}
    with pytest.raises(FeatlabError, match="no living neuron 9"):
        neuron_card(store, 9, results.all_neurons)  # channel 9 is dead


@pytest.mark.slow
def test_groups_are_the_unit_of_confirmation(tmp_path, few_fits, blank_figures):
    folder = write_pictures(tmp_path / "pictures")
    images, boxes, _ = index_images(folder)
    images["group"] = images["label"] + (images.groupby("label").cumcount() // 2).astype(str)
    with extract_maps(images, FakeBackbone(), tmp_path / "maps.h5", boxes=boxes) as store:
        found = analyse(store)
        write_results(found, tmp_path)
    assert found.neurons.attrs["confirm_unit"] == found.selection.unit == "whole groups"
    assert "Images of one group are not independent" in (tmp_path / "report.html").read_text(
        "utf-8"
    )


def test_the_gallery_has_the_boxes_that_were_scored(results, store):
    gallery, scored = results.gallery, results.localisation
    assert set(gallery.rows) <= set(np.flatnonzero(results.split == "test"))
    labels = store.images["label"].iloc[gallery.rows]
    assert labels.tolist() == gallery.labels
    assert set(labels.value_counts()) == {len(labels) // 2}
    assert set(gallery.thresholds) == set(gallery.heats) <= set(scored.fitted.methods)
    assert "random_neuron" not in gallery.heats
    sizes = store.images[["width", "height"]].to_numpy()[gallery.rows]
    for method, threshold in gallery.thresholds.items():
        boxes = localise.heat_boxes(
            gallery.heats[method], [threshold], frames=gallery.frames, sizes=sizes
        )[:, 0]
        told = scored.per_image.query("method == @method").set_index("row").loc[gallery.rows]
        np.testing.assert_allclose(boxes, told[["xmin", "ymin", "xmax", "ymax"]])
    row = gallery.rows[0]
    truth = store.boxes.loc[store.boxes["image"] == row, ["xmin", "ymin", "xmax", "ymax"]]
    np.testing.assert_allclose(gallery.true_boxes[0], truth)
    maps = store.maps(np.asarray(gallery.rows))
    for k, (_, neuron) in enumerate(gallery.neurons):
        np.testing.assert_array_equal(gallery.neuron_heats[:, k], maps[..., neuron])
    assert [
        f"Neuron {card.neuron} of {card.layer}, active for {card.label}" for card in results.cards
    ] == [card.title for card in results.cards]


@pytest.mark.slow
def test_of_very_many_boxes_a_sample_is_scored_and_the_page_says_so(store, monkeypatch, few_fits):
    monkeypatch.setattr("featlab.pipeline.sets._MOST_LOCALISED", 10)
    monkeypatch.setattr("featlab.arguments.tables.LEAST_PER_CLASS", 2)
    results = analyse(store, random_state=0)
    table = results.localisation.table
    assert set(table["n"]) == {10}
    assert results.localisation.parameters["n_threshold_images"] == 10
    assert results.boxed_test_images == (results.split == "test").sum()
    said = " ".join(_methods.described(results)[0])
    assert f"Heat maps of a random 10 of the {results.boxed_test_images} test images with" in said


def test_rows_of_a_card_may_be_a_mask(store, results):
    mask = np.zeros(len(store), dtype=bool)
    mask[[3, 4, 5, 50]] = True
    cards = [
        neuron_card(store, 0, results.all_neurons, rows=rows, most=2)
        for rows in ([3, 4, 5, 50], mask, pd.Series(mask))
    ]
    assert set(cards[0].best["row"]) | set(cards[0].worst["row"]) == {3, 4, 5, 50}
    for card in cards[1:]:
        pd.testing.assert_frame_equal(card.best, cards[0].best)
        pd.testing.assert_frame_equal(card.worst, cards[0].worst)
        np.testing.assert_array_equal(card.activations, cards[0].activations)
    with pytest.raises(FeatlabError, match="rows .* 80 entries"):
        neuron_card(store, 0, results.all_neurons, rows=mask[:5])


def test_a_card_is_of_the_layer_that_was_asked_for(store, results):
    cards = {
        layer: neuron_card(store, 0, results.all_neurons, label="red", layer=layer)
        for layer in store.layers
    }
    for layer, card in cards.items():
        assert (card.layer, card.neuron, card.label) == (layer, 0, "red")
        np.testing.assert_array_equal(card.activations, store.pooled(layer=layer)[:, 0])
    assert cards["low"].activations.max() < cards["high"].activations.max()


def test_the_lead_detector_is_the_same_one_everywhere(results):
    """Several neurons tell these classes apart without a mistake: their AUROCs tie at 1."""
    tied = results.neurons.query("auroc == 1 and direction == 'active'")
    assert tied.groupby("class").size().max() > 1
    shown = report.summary(results)["detectors"]
    context = results.localisation.fitted.contexts["high"]
    for label in ("red", "green"):
        lead = confirmed_detectors(results.neurons).query("`class` == @label").iloc[0]["neuron"]
        own = context.neurons[context.neurons["class"] == label]
        assert own[own["direction"] == "active"]["neuron"].iloc[0] == lead
        assert shown[label]["best_neuron"] == lead
        assert [card.neuron for card in results.cards if card.label == label] == [lead]
        for pictures in (results.gallery, results.detector_examples):
            assert next(k for name, k in pictures.neurons if name == label) == lead


def test_ablation_takes_the_best_of_each_class_first(results):
    detectors = confirmed_detectors(results.neurons)
    X = pd.DataFrame(np.random.default_rng(0).random((9, 10)))
    order = ablation_order(detectors, X)
    first = detectors.drop_duplicates("class")["neuron"].tolist()
    assert order[: len(set(first))] == list(dict.fromkeys(first))
    assert len(order) <= 5  # of ten living neurons


def test_results_are_not_written_into_after_they_were_made(results, written):
    folder, (page, summary), before = written
    assert (page, summary) == (folder / "report.html", folder / "summary.json")
    assert dict(results.seconds) == before and "report" not in before
    told = json.loads(summary.read_text("utf-8"))["seconds"]
    assert told.pop("report") > 0 and told == before


def test_seconds_of_earlier_stages_are_told_and_left_alone(store, monkeypatch):
    monkeypatch.setattr("featlab.pipeline._analysis.STAGES", ())
    earlier = {"extract": 3.0}
    seconds = analyse(store, seconds=earlier).seconds
    assert seconds.keys() == {"extract", "copies"}
    assert seconds["extract"] == 3.0
    assert earlier == {"extract": 3.0}


def test_every_stage_has_what_it_needs():
    known = {"store", "labels", "groups", "truth", "split", "pairs", "box_kind", "random_state"}
    known |= {"progress", "load", "small", "box_heads"}
    for one, other in combinations(STAGES, 2):  # of one name, only one can be made
        if one.name == other.name:
            assert ("unlabelled" in one.needs) != ("unlabelled" in other.needs)
    known.add("unlabelled")
    for stage in STAGES:
        assert set(stage.needs) <= known, stage.name
        known.add(stage.name)
    others = {"index", "extract", "copies", "report"}
    assert {stage.title for stage in STAGES} | others == set(_words.STAGES)
    made = {field.name for field in dataclasses.fields(Results)}
    assert {"heads", "neurons", "localisation", "audit", "cards", "set_overview"} <= made & known


def double():
    """A function that travels by value: another process need not import this file."""

    def twice(x):
        return 2 * x

    return twice


def total(doubled, x, most=3):
    return min(doubled + x, most)


@pytest.mark.parametrize("cores", [1, 2])
def test_stages_take_what_was_given_and_what_stages_before_them_made(cores, monkeypatch):
    monkeypatch.setattr("featlab.system.processes.usable_cores", lambda: cores)
    stages = [Stage("doubled", double(), "one", beside=True), Stage("total", total, "two")]
    made, seconds = run_stages(stages, {"x": 1})
    assert made == {"doubled": 2, "total": 3}
    assert set(seconds) == {"one", "two"}


def test_of_stages_of_one_name_the_one_that_can_be_made_is_and_nothing_was_left_out():
    one, other = Stage("n", lambda x: x + 1, "one"), Stage("n", lambda y: y, "other")
    for stages in ([one, other], [other, one]):
        absent = {"y": "there is no y"}
        made, _ = run_stages([*stages, Stage("twice", lambda n: 2 * n, "twice")], {"x": 1}, absent)
        assert made == {"n": 2, "twice": 4} and absent == {"y": "there is no y"}


@pytest.mark.slow
def test_who_waits_for_another_process_makes_what_has_not_begun_there(monkeypatch):
    monkeypatch.setattr("featlab.system.processes.usable_cores", lambda: 2)

    def stages():
        def long(x):
            time.sleep(3)
            return os.getpid()

        def short(x):
            return os.getpid()

        return long, short

    long, short = stages()
    made, seconds = run_stages(
        [
            Stage("long", long, "long", beside=True),
            Stage("begun", lambda x: time.sleep(0.3), "here"),
            Stage("short", short, "short", beside=True),
        ],
        {"x": 1},
    )
    assert made["long"] != os.getpid() == made["short"]
    assert seconds["short"] < seconds["long"]


def test_the_stage_taken_over_is_the_first_that_has_not_begun(monkeypatch):
    made = []

    class Elsewhere:
        """The first has begun, and is there once another one was made here."""

        def __init__(self, call):
            self.call, self.begun = call, not made and not known
            known.append(self)

        @property
        def is_ready(self):
            return not self.begun or bool(made)

        def take_over(self):
            return not self.begun

        def __call__(self):
            made.append(self.call())
            return made[-1]

    known: list[Elsewhere] = []
    monkeypatch.setattr(
        "featlab.pipeline.scheduler.beside", lambda _, call: nullcontext(Elsewhere(call))
    )
    stages = [Stage(name, lambda x, name=name: name, "t", beside=True) for name in "abc"]
    run_stages([*stages, Stage("d", lambda a: a, "t")], {"x": 1})
    assert made[:2] == ["b", "a"]


def test_a_table_too_large_to_be_sent_is_worked_on_here(monkeypatch):
    monkeypatch.setattr("featlab.pipeline.scheduler.beside", None)
    monkeypatch.setattr("featlab.pipeline.scheduler._MOST_SENT", 3)
    calls = []

    def rows(X):
        calls.append(len(X))
        return len(X)

    made, _ = run_stages(
        [Stage("n", rows, "rows", beside=True)], {"X": pd.DataFrame({"a": [1] * 4})}
    )
    assert made == {"n": 4} and calls == [4]


def test_the_curve_of_boxes_is_that_of_fits_on_the_first_of_each_order(store, results):
    """Each point by the method itself, told the boxes of the first k images alone."""
    truth = true_boxes(store.images, store.boxes, None)
    train, test = (np.flatnonzero(results.split == side) for side in ("train", "test"))
    orders = [np.random.default_rng(k).permutation(train) for k in range(2)]
    curve = box_curve(store, results.split, sizes=[6, len(train)], orders=orders)
    assert curve["boxed"].tolist() == [6, len(train)] and curve["n_repeats"].tolist() == [2, 1]
    assert (curve["n"] == len(test)).all() and curve["max_box_acc_v2_sd"].isna().tolist()[1]

    def v2(some):
        own = truth[truth["image"].isin(some)]
        fitted = fit_methods(store, train, "cell_boxes", boxes=own, layer=store.layers)
        scored = truth[truth["image"].isin(test)]
        match = score_heats(
            localise.heat_maps(store, test, fitted)["cell_boxes"],
            scored[CORNERS].to_numpy(float),
            np.searchsorted(test, scored["image"]),
            frames=np.asarray(store.frames)[test],
            sizes=picture_sizes(store)[test],
            grid=112,
        )
        return float(max_box_acc_v2(match.iou_any))

    few, every = curve["max_box_acc_v2"]
    np.testing.assert_allclose(few, np.mean([v2(order[:6]) for order in orders]), atol=1e-6)
    np.testing.assert_allclose(every, v2(train), atol=1e-6)
    assert (curve["max_box_acc_v2_low"] <= curve["max_box_acc_v2"]).all()
    assert (curve["max_box_acc_v2"] <= curve["max_box_acc_v2_high"]).all()


def test_the_page_has_the_curve_of_boxes_and_without_boxes_there_is_none(store, results):
    curve = results.box_details.curve
    assert curve["boxed"].iloc[-1] == (results.split == "train").sum()
    assert "How many boxes does it take?" in str(report._heads._boxes_drawn(results))
    lean = dataclasses.replace(results.box_details, curve=curve[:0])
    assert not report._heads._boxes_drawn(dataclasses.replace(results, box_details=lean))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": [0]}, "sizes must be at least 1"),
        ({"sizes": [1000]}, "at most the 40 train images with a box, got 1000"),
        ({"orders": [[1, 2]]}, "the 40 train rows with a box once, got 2"),
        ({"n_repeats": 0}, "n_repeats"),
    ],
)
def test_a_curve_of_boxes_that_cannot_be_is_refused(store, results, options, words):
    with pytest.raises(FeatlabError, match=words):
        box_curve(store, results.split, **options)
