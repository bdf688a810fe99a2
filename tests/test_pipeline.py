"""From a store to everything a report tells, on pictures that a made-up network can tell apart."""

from __future__ import annotations

import re

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone
from PIL import Image

from featlab import FeatlabError, localise, neurons, plots
from featlab.extract import extract_maps
from featlab.images import index_images
from featlab.pipeline import analyse, neuron_card, write_results
from featlab.report import _methods


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
    images, boxes = index_images(write_pictures(base / "pictures"))
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
    assert results.detector_details.nulls["replicated"].max() <= 1
    assert results.audit.summary.set_index("check").loc["colour alone", "verdict"] != "pass"
    assert results.audit.verdict in ("warn", "fail")


def test_the_page_tells_all_of_it_and_the_tables_lie_beside_it(results, tmp_path):
    write_results(results, tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
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
        assert (tmp_path / f"{name}.csv").exists(), name
    again = pd.read_parquet(tmp_path / "neurons.parquet")
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
    unseen = neuron_card(store, 0, results.all_neurons, rows=[3, 4, 5], most=2)
    assert set(unseen.best["row"]) <= {3, 4, 5}
    with pytest.raises(FeatlabError, match="no living neuron 9"):
        neuron_card(store, 9, results.all_neurons)  # channel 9 is dead


def test_groups_are_the_unit_of_confirmation(tmp_path):
    folder = write_pictures(tmp_path / "pictures")
    images, boxes = index_images(folder, group_from=r"^(.*?)\d\.png$")  # ten photos a group
    with extract_maps(images, FakeBackbone(), tmp_path / "maps.h5", boxes=boxes) as store:
        found = analyse(store)
        write_results(found, tmp_path)
    assert found.neurons.attrs["confirm_unit"] == "whole groups"
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


def test_of_very_many_boxes_a_sample_is_scored_and_the_page_says_so(store, monkeypatch):
    monkeypatch.setattr("featlab.pipeline._analysis._MOST_LOCALISED", 10)
    monkeypatch.setattr("featlab.arguments.images.LEAST_PER_CLASS", 2)
    results = analyse(store, random_state=0)
    table = results.localisation.table
    assert set(table["n"]) == {10}
    assert table.attrs["n_threshold_images"] == 10
    assert results.boxed_test_images == (results.split == "test").sum()
    said = " ".join(_methods.methods(results)[0])
    assert f"Heat maps of a random 10 of the {results.boxed_test_images} test images with" in said
