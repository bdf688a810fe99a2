"""The network's own classes: what a store keeps of them, and what is asked of it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone
from scipy.special import softmax
from scipy.stats import spearmanr

from featlab import FeatlabError, own
from featlab.backbones import load_backbone
from featlab.backbones._files import imagenet_classes
from featlab.extract import PassOptions, append_maps, extract_maps, extract_shard, join_shards
from featlab.images import index_images
from featlab.store import MapStore
from featlab.store.network import CODES, OwnHead, largest

K, C = 14, 10
CLASSES = tuple(f"own {k}" for k in range(K))


class Classifier(FakeBackbone):
    """The fake network with a head: linear on its pooled maps, or the square of that."""

    def __init__(self, linear: bool = True, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        rng = np.random.default_rng(5)
        self.coef = rng.normal(0, 3, (K, C)).astype(np.float32)
        weights = (self.coef, rng.normal(0, 1, K).astype(np.float32)) if linear else ()
        self.own_head = OwnHead(CLASSES, self.layers[-1], *weights)

    def forward_own(self, pixels: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        maps = self.forward(pixels)
        return maps, (maps[self.layers[-1]].mean(axis=(1, 2)) @ self.coef.T) ** 2


@pytest.fixture
def table(picture_folder) -> pd.DataFrame:
    return index_images(picture_folder({"cat": 7, "dog": 6}))[0]


def test_of_equal_logits_the_first_are_kept_and_nan_comes_last():
    logits = np.random.default_rng(0).integers(0, 9, (50, 40)).astype(np.float32)
    logits[::3, ::2] = np.nan
    whole = np.argsort(-logits, axis=1, kind="stable")
    for most in (1, 10, 40):
        assert np.array_equal(largest(logits, most)[CODES], whole[:, :most])


@pytest.mark.parametrize("key", ["own_head/coef", "own_head/intercept", "images/width"])
def test_a_number_that_changed_on_the_disk_is_noticed(table, tmp_path, key):
    path = tmp_path / "maps.h5"
    extract_maps(table, Classifier(), path).close()
    with h5py.File(path) as file:
        chunk = file[key].id.get_chunk_info(0)
    changed = bytearray(path.read_bytes())
    changed[chunk.byte_offset] ^= 1
    path.write_bytes(changed)
    with pytest.raises(FeatlabError, match=key.split("/")[0]), MapStore(path) as store:
        store.verify()


def test_a_store_that_was_closed_says_so(table, tmp_path):
    store = extract_maps(table, Classifier(), tmp_path / "maps.h5")
    store.close()
    asked = (store.maps, store.pooled, store.verify, store.own_kept, lambda: store.thumbnails)
    for ask in asked:
        with pytest.raises(FeatlabError, match="has been closed; open it again"):
            ask()
    assert store.own_head is not None and store.created


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("kept", ["top", "all"])
def test_what_is_kept_is_the_largest_of_what_the_head_says(table, tmp_path, linear, kept):
    network = Classifier(linear, layers=("early", "last"))
    options = PassOptions(batch_size=4, own_logits=kept)
    with extract_maps(table, network, tmp_path / "maps.h5", options=options) as store:
        pooled = store.pooled()
        expected = (
            pooled @ network.coef.T + network.own_head.intercept
            if linear
            else (pooled @ network.coef.T) ** 2
        )
        codes, logits, totals = store.own_kept()
        assert store.own_head.classes == CLASSES and store.own_head.linear == linear
        assert logits.shape == (13, K if kept == "all" else 10)
        np.testing.assert_array_equal(codes[:, 0], expected.argmax(axis=1))
        ordered = np.take_along_axis(expected, codes, 1)
        np.testing.assert_allclose(logits, ordered, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            np.exp(logits - totals), np.take_along_axis(softmax(expected, 1), codes, 1), rtol=1e-4
        )
        if linear or kept == "all":
            some = [8, 2, 2]
            np.testing.assert_allclose(
                own.own_logits(store, some), expected[some], rtol=1e-4, atol=1e-5
            )
        else:
            with pytest.raises(FeatlabError, match=r"only the 10 largest .*\(--own-logits all\)"):
                own.own_logits(store)
        store.verify()


def test_cam_is_the_weights_combination_and_its_mean_is_the_logit(table, tmp_path):
    network = Classifier()
    with extract_maps(table, network, tmp_path / "maps.h5") as store:
        heats = own.own_heats(store, [3, 0, 12], "own 4")
        np.testing.assert_allclose(heats, store.maps([3, 0, 12]) @ network.coef[4], rtol=1e-4)
        logit = own.own_logits(store, [3, 0, 12])[:, 4]
        mean = heats.mean(axis=(1, 2)) + network.own_head.intercept[4]
        np.testing.assert_allclose(mean, logit, atol=5e-3)  # the maps are float16
        first = own.own_pictures(store, most=1)
        np.testing.assert_array_equal(
            own.own_heats(store, [5]), own.own_heats(store, [5], first["own_class"][5])
        )
        boxes = own.own_boxes(store, [5, 1], ["own 2", "own 3"])
        assert boxes["own_class"].tolist() == ["own 2", "own 3"]
        assert (boxes["xmax"] <= store.images["width"][[5, 1]].to_numpy()).all()
        assert (boxes["xmin"] < boxes["xmax"]).all() and (boxes["ymin"] < boxes["ymax"]).all()


def test_pictures_and_set_are_told_by_probability_and_count(table, tmp_path):
    with extract_maps(table, Classifier(), tmp_path / "maps.h5") as store:
        probability = softmax(own.own_logits(store), axis=1)
        pictures = own.own_pictures(store, most=3)
        assert pictures["row"].tolist() == np.repeat(range(13), 3).tolist()
        second = pictures[pictures["rank"] == 2]
        expected = np.sort(probability, axis=1)[:, -2]
        np.testing.assert_allclose(second["own_probability"], expected, rtol=1e-4)
        first = np.array(CLASSES)[probability.argmax(axis=1)]
        called = own.own_set(store)
        assert called.loc[called["label"] == "", "images"].sum() == 13
        counts = pd.crosstab(table["label"], first)
        for label, name, n, images in zip(
            called["label"], called["own_class"], called["n"], called["images"], strict=True
        ):
            if label:
                assert images == counts.loc[label, name] and n == (table["label"] == label).sum()
        assert (called["share_low"] <= called["share"]).all()


def test_votes_are_the_centred_weights_and_pictures_agree_by_rank(table, tmp_path):
    network = Classifier()
    with extract_maps(table, network, tmp_path / "maps.h5") as store:
        votes, pooled = own.own_votes(store), store.pooled()
        logits = own.own_logits(store)
    assert len(votes) == C
    for j, row in votes.iterrows():
        weights = network.coef[:, j] - network.coef[:, j].mean()
        assert row["votes_for"].split("|") == [CLASSES[k] for k in np.argsort(-weights)[:3]]
        assert row["vote"] == pytest.approx(weights.max())
        k = int(weights.argmax())
        if np.ptp(pooled[:, j]) == 0:
            assert np.isnan(row["vote_agreement"])
            continue
        expected = spearmanr(pooled[:, j], logits[:, k] - pooled[:, j] * network.coef[k, j])[0]
        assert row["vote_agreement"] == pytest.approx(expected, abs=1e-6)
        assert row["vote_agreement_low"] <= expected + 1e-6
        assert row["vote_agreement_high"] >= expected - 1e-6


def test_a_network_without_weights_of_maps_says_that_gradients_are_needed(table, tmp_path):
    with extract_maps(table, Classifier(linear=False), tmp_path / "maps.h5") as store:
        for ask in (own.own_votes, lambda s: own.own_heats(s, [0]), own.own_boxes):
            with pytest.raises(FeatlabError, match="gradients through the network"):
                ask(store)
        with pytest.raises(FeatlabError, match="one for each of the 2 rows"):
            own.own_boxes(store, [0, 1], ["own 1"])
        with pytest.raises(FeatlabError, match="network's own 14, such as 'own 0', got 'cat'"):
            own.own_boxes(store, [0, 1], "cat")


def test_a_network_or_a_store_without_classes_says_so(table, tmp_path):
    with extract_maps(table, FakeBackbone(), tmp_path / "maps.h5") as store:
        assert store.own_head is None
        with pytest.raises(FeatlabError, match="no classes of the network's own"):
            own.own_pictures(store)
    with pytest.raises(FeatlabError, match="own_logits must be 'top' for a network without"):
        extract_maps(
            table, FakeBackbone(), tmp_path / "all.h5", options=PassOptions(own_logits="all")
        )
    with pytest.raises(FeatlabError, match="own_logits must be one of top, all"):
        PassOptions(own_logits="some")


def test_own_logits_travel_with_the_rows(table, tmp_path):
    """Through shards, a renewed table, a virtual store of old and new pictures, and one file."""
    network = Classifier()
    whole = extract_maps(table, network, tmp_path / "whole.h5")
    expected = whole.own_kept()
    for k in (1, 2):
        extract_shard(table, network, tmp_path / "maps.h5", (k, 2))
    shards = join_shards(tmp_path / "maps.h5")
    relabelled = table.assign(label="pet")
    shards.close()
    renewed = extract_maps(relabelled, network, tmp_path / "maps.h5")
    half = table.iloc[::2].reset_index(drop=True)
    extract_maps(half, network, tmp_path / "half.h5").close()
    grown = append_maps(table, network, tmp_path / "half.h5", tmp_path / "grown.h5")
    for store in (renewed, grown):
        assert store.own_head.classes == CLASSES
        for ours, theirs in zip(store.own_kept(), expected, strict=True):
            # To the last digits of float32 at the size of the largest, as batches differ.
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    grown.close()
    with join_shards(tmp_path / "grown.h5") as one:
        np.testing.assert_array_equal(one.own_kept()[0], expected[0])


def test_a_store_that_grew_from_one_without_logits_has_none(table, tmp_path):
    """Zeros for the older rows would be taken for what the network said."""
    half = table.iloc[::2].reset_index(drop=True)
    extract_maps(half, FakeBackbone(), tmp_path / "half.h5").close()
    grown = append_maps(table, Classifier(), tmp_path / "half.h5", tmp_path / "grown.h5")
    assert grown.own_head is None
    grown.close()
    with join_shards(tmp_path / "grown.h5") as one:
        assert one.own_head is None and one.thumbnails is not None


def test_a_finished_store_is_found_again_and_asked_for_more_is_refused(table, tmp_path):
    extract_maps(table, Classifier(), tmp_path / "maps.h5").close()
    network = Classifier()
    extract_maps(table, network, tmp_path / "maps.h5").close()
    assert network.calls == 0
    with pytest.raises(FeatlabError, match="another own logits: the 10 largest of 14 there"):
        extract_maps(table, network, tmp_path / "maps.h5", options=PassOptions(own_logits="all"))


def test_the_archived_store_of_this_version_has_its_head():
    with MapStore(Path(__file__).parent / "archives" / "maps-v1.1.h5") as store:
        assert store.own_head.classes == ("meow", "woof", "moo")
        assert own.own_pictures(store, most=1)["own_class"].isin(store.own_head.classes).all()
    with MapStore(Path(__file__).parent / "archives" / "maps-v1.0.h5") as store:
        assert store.own_head is None


def test_the_thousand_classes_of_imagenet_are_each_named_once():
    names = imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    assert (names[954], names[104], names[0]) == ("banana", "wallaby", "tench")
    assert [name for name in names if name.startswith("crane")] == [
        "crane (n02012849)",
        "crane (n03126707)",
    ]


def _saved(tmp_path: Path, ending: str) -> Path:
    """A small network with one of several endings."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    picture = keras.Input((32, 32, 3))
    maps = layers.Conv2D(6, 3, strides=4, activation="relu", name="maps")(picture)
    pooled = layers.GlobalAveragePooling2D()(maps)
    cell = layers.GlobalAveragePooling2D(keepdims=True)(maps)
    outputs = {
        "dense": lambda: layers.Dense(3, "softmax")(layers.Dropout(0.5)(pooled)),
        "cells": lambda: layers.Softmax()(layers.Reshape((3,))(layers.Conv2D(3, 1)(cell))),
        "deep": lambda: layers.Dense(3, "softmax")(layers.Dense(5, "relu")(layers.Flatten()(maps))),
        "named": lambda: layers.Dense(3)(pooled),
        "bare": lambda: layers.Dense(3)(pooled),
        "sigmoid": lambda: layers.Dense(3, "sigmoid")(pooled),
        "single": lambda: layers.Dense(1, "sigmoid")(pooled),
        "maps": lambda: maps,
    }[ending]()
    path = tmp_path / f"{ending}.keras"
    keras.Model(picture, outputs).save(path)
    return path


@pytest.mark.parametrize(
    ("ending", "found", "linear"),
    [
        ("dense", True, True),
        ("cells", True, True),
        ("deep", True, False),
        ("named", True, True),
        ("bare", False, False),
        ("sigmoid", False, False),
        ("single", False, False),
        ("maps", False, False),
    ],
)
def test_a_keras_file_brings_its_classifier(tmp_path, ending, found, linear):
    import keras

    path = _saved(tmp_path, ending)
    if ending == "named":
        path.with_suffix(".classes.txt").write_text("cat\ndog\nhen\n", "utf-8")
    backbone = load_backbone(path, engine="tensorflow")
    assert (backbone.own_head is not None) == found
    if not found:
        return
    head = backbone.own_head
    assert head.linear == linear and head.layer == "maps"
    named = ("cat", "dog", "hen") if ending == "named" else ("class 0", "class 1", "class 2")
    assert head.classes == named
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    maps, logits = backbone.forward_own(pixels)
    if linear:
        assert logits is None
        logits = head.logits(maps["maps"].mean(axis=(1, 2)))
    said = keras.models.load_model(path).predict(pixels.astype(np.float32), verbose=0)
    ours = logits if ending == "named" else softmax(logits, axis=1)
    np.testing.assert_allclose(ours, said, rtol=1e-3, atol=1e-6)


def test_names_that_do_not_fit_the_classifier_are_refused(tmp_path):
    path = _saved(tmp_path, "dense")
    path.with_suffix(".classes.txt").write_text("cat\ndog\n", "utf-8")
    with pytest.raises(FeatlabError, match="must name the 3 classes .* got 2 lines"):
        _ = load_backbone(path).own_head
    with pytest.raises(FeatlabError, match="classifier is for keras.applications"):
        load_backbone("efficientnet_lite0", classifier=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNet", "VGG16", "ResNet50", "EfficientNetB0"])
def test_networks_of_keras_with_their_classifier(name):
    """Random weights: the logits are the whole network's output."""
    import keras

    backbone = load_backbone(name, weights=None, classifier=True, input_size=64)
    head = backbone.own_head
    assert head.classes == imagenet_classes() and head.linear == (name != "VGG16")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    maps, logits = backbone.forward_own(pixels)
    if head.linear:
        logits = head.logits(maps[head.layer].mean(axis=(1, 2)))
    scaled = backbone.preprocess(pixels.astype(np.float32))
    said = keras.ops.convert_to_numpy(backbone.network(scaled, training=False))
    np.testing.assert_allclose(logits, said, rtol=1e-3, atol=1e-5 + 1e-4 * np.abs(said).max())


@pytest.mark.slow
def test_own_logits_of_a_real_network_are_what_keras_gives(shared_data, tmp_path):
    """Three fruits: what the store has is what the whole network says when Keras runs it."""
    from featlab.backbones import efficientnet_lite
    from featlab.images.pixels import InputReader

    for path in sorted((shared_data / "fruit3").rglob("*.jpg"))[::6]:
        link = tmp_path / "set" / path.relative_to(shared_data / "fruit3")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    table = index_images(tmp_path / "set", on_error="skip")[0]
    backbone = load_backbone("efficientnet_lite0")
    weights = efficientnet_lite.weights_path("efficientnet_lite0")
    network = efficientnet_lite.build("efficientnet_lite0", (224, 224), weights, include_top=True)
    read = InputReader(table, (224, 224), "stretch")
    pixels = np.stack([read(row)[0] for row in range(len(table))])
    said = network.predict((pixels.astype(np.float32) - 127) / 128, verbose=0)
    with extract_maps(table, backbone, tmp_path / "maps.h5") as store:
        scale = np.abs(said).max()
        np.testing.assert_allclose(own.own_logits(store), said, rtol=0, atol=1e-4 * scale)
        codes, logits, _ = store.own_kept()
        np.testing.assert_allclose(
            logits, np.take_along_axis(said, codes, 1), rtol=0, atol=1e-4 * scale
        )
        called = own.own_pictures(store, most=1)
    bananas = called[called["label"] == "banana"]
    assert (bananas["own_class"] == "banana").mean() > 0.7
