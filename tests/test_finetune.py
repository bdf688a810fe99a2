"""Training on top of a frozen network: what learns, what stays, and what it is compared with."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from featlab import FeatlabError, cli, extract, features, finetune, heads, images, neurons, plots
from featlab.arguments import feature_columns
from featlab.backbones import load_backbone
from featlab.finetune._training import TrainingOptions, best_epoch, has_stopped
from featlab.finetune.fitting import class_weights, validation_rows
from featlab.finetune.network import blocks_of, map_network, scaling_layers, transfer_network
from featlab.images.pixels import resize_picture
from featlab.pipeline import transfer_study
from featlab.pipeline.detectors import find_detectors
from featlab.pipeline.transfer import compare_transfer, detector_changes, small_images_table
from featlab.plots.scores import small_images, transfer_comparison
from featlab.plots.style import encode
from featlab.results import Transfer
from featlab.store import MapStore

COUNTS = {"a": 26, "b": 38}
SIDES = ("train", "train", "confirm", "test")
QUICK = {"epochs": 3, "batch_size": 8, "random_state": 5}


def fit(pictures, split, backbone, *, blocks=0, folder=None, random_state=0, progress=None, **how):
    """`fit_finetuned` with the options one by one."""
    return finetune.fit_finetuned(
        pictures, split, backbone, blocks=blocks, options=TrainingOptions(**how), folder=folder,
        random_state=random_state, progress=progress,
    )  # fmt: skip


def write_network(path: Path, side: int) -> Path:
    """A network of three blocks with batch normalisation; the same random weights each time."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    x = entry = keras.Input((side, side, 3))
    x = layers.Rescaling(1 / 64, offset=-1.0)(x)
    for k, filters in enumerate((6, 8, 10), start=1):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", name=f"block{k}_conv")(x)
        x = layers.BatchNormalization(name=f"block{k}_bn")(x)
        x = layers.ReLU(6.0, name=f"block{k}_relu")(x)
    x = layers.Conv2D(12, 1, activation="relu", name="top_conv")(x)
    keras.Model(entry, x).save(path)
    return path


@pytest.fixture(scope="module")
def small_network(tmp_path_factory) -> Path:
    return write_network(tmp_path_factory.mktemp("network") / "small.keras", 32)


@pytest.fixture(scope="module")
def backbone(small_network):
    return load_backbone(small_network)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> pd.DataFrame:
    """Image table of two classes that differ in colour, and a little in texture."""
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for shift, (label, count) in enumerate(COUNTS.items()):
        (root / label).mkdir()
        for i in range(count):
            pixels = rng.integers(0, 200, (40, 36 + i % 5, 3))
            pixels[..., shift] += 55
            Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{i:03d}.png")
    return images.index_images(root)[0]


@pytest.fixture(scope="module")
def split(pictures) -> pd.Series:
    return pd.Series([SIDES[i % 4] for i in range(len(pictures))], name="split")


def weights_of(model) -> dict[str, list[np.ndarray]]:
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def changed(before: dict, after: dict) -> set[str]:
    return {
        name
        for name, values in after.items()
        if not all(np.array_equal(a, b) for a, b in zip(before[name], values, strict=True))
    }


# ---- the network -----------------------------------------------------------------------------


def test_the_copy_gives_the_maps_of_the_backbone(backbone):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    copy = map_network(backbone)
    expected = backbone.forward(pixels)[backbone.layers[-1]]
    assert_allclose(copy.predict(pixels.astype(np.float32), verbose=0), expected, atol=1e-5)
    copy.get_layer("block3_conv").set_weights(
        [0 * w for w in copy.get_layer("block3_conv").get_weights()]
    )
    assert_allclose(backbone.forward(pixels)[backbone.layers[-1]], expected)


@pytest.mark.parametrize("mode", ["none", "tf", "torch", "caffe"])
def test_preprocessing_becomes_standard_layers(mode):
    import keras
    from keras.applications.imagenet_utils import preprocess_input

    def preprocess(pixels):
        return pixels if mode == "none" else preprocess_input(pixels, mode=mode)

    pixels = np.random.default_rng(1).uniform(0, 255, (2, 5, 4, 3)).astype(np.float32)
    x = entry = keras.Input((5, 4, 3))
    for layer in scaling_layers(preprocess):
        assert type(layer) in (keras.layers.Rescaling, keras.layers.Conv2D)
        x = layer(x)
    found = keras.Model(entry, x).predict(pixels, verbose=0)
    assert_allclose(found, np.asarray(preprocess(keras.ops.array(pixels))), rtol=1e-5, atol=1e-4)


def test_preprocessing_that_is_no_layer_is_refused():
    with pytest.raises(FeatlabError, match="more than a scale and an offset"):
        scaling_layers(lambda pixels: pixels**2)


@pytest.mark.parametrize(
    ("name", "n_blocks", "last"),
    [
        ("efficientnet_lite0", 17, {"block15_project_conv", "head_conv"}),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (
                ("MobileNetV2", 17, {"block_16_project", "Conv_1"}),
                ("MobileNet", 14, {"conv_dw_13", "conv_pw_13"}),
            )
        ),
        ("VGG16", 5, {"block5_conv1", "block5_conv3"}),
    ],
)
def test_blocks_are_those_of_the_architecture(name, n_blocks, last):
    found = blocks_of(load_backbone(name, weights=None, input_size=64).model)
    assert len(found) == n_blocks
    assert last <= set(found[-1])
    layers = [layer for block in found for layer in block]
    assert len(layers) == len(set(layers))


def test_layers_without_block_names_are_a_block_each(backbone):
    import keras
    from keras import layers

    plain = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(2, 3, name="x"), layers.ReLU(), layers.Dense(2)]
    )
    assert [block[0] for block in blocks_of(plain)] == ["x", plain.layers[-1].name]
    assert blocks_of(backbone.model) == [
        ["block1_conv", "block1_bn"],
        ["block2_conv", "block2_bn"],
        ["block3_conv", "block3_bn", "top_conv"],
    ]


# ---- rows --------------------------------------------------------------------------------------


def test_the_validation_part_is_stratified_and_keeps_groups_and_copies_together():
    n = 120
    rng = np.random.default_rng(0)
    codes = (np.arange(n) % 3 == 0).astype(int)
    table = pd.DataFrame(
        {
            "group": [f"g{i // 4}" if i < 60 else "" for i in range(n)],
            "sha256": [f"h{i // 2}" for i in range(n)],
        }
    )
    train = np.sort(rng.choice(n, 90, replace=False))
    fit, held = validation_rows(table, codes, train, 0.2, 0)
    assert set(fit) | set(held) == set(train) and not set(fit) & set(held)
    assert abs(len(held) / 90 - 0.2) < 0.07
    assert abs(codes[held].mean() - codes[train].mean()) < 0.12
    for column in ("group", "sha256"):
        sides = {name for name in table.loc[fit, column] if name}
        shared = sides & {name for name in table.loc[held, column] if name}
        assert not shared, column
    again = validation_rows(table, codes, train, 0.2, 0)
    assert_array_equal(again[1], held)


def test_too_few_rows_for_a_validation_part_are_refused():
    table = pd.DataFrame({"group": ["x", "x", "y", "y"], "sha256": list("abcd")})
    with pytest.raises(FeatlabError, match="too few images or groups.*4 images, 2 independent"):
        validation_rows(table, np.array([0, 0, 1, 1]), np.arange(4), 0.2, 0)
    with pytest.raises(FeatlabError, match=r"at most 0.5, got 0.7"):
        TrainingOptions(validation=0.7)


def test_class_weights_make_classes_count_alike():
    from sklearn.utils.class_weight import compute_class_weight

    codes = np.repeat([0, 1, 2], [5, 20, 7])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=codes)
    assert_allclose(class_weights(codes, 3, "balanced"), expected)
    assert_allclose(class_weights(codes, 3, None), 1)


def test_stopping_waits_for_patience_and_keeps_the_first_best():
    losses = [0.9, 0.5, 0.7, 0.5, float("nan")]
    assert best_epoch(losses) == 1
    assert has_stopped(losses, 3) and not has_stopped(losses, 4)
    assert not has_stopped([], 1)


# ---- training ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen(pictures, split, backbone):
    return fit(pictures, split, backbone, **QUICK)


@pytest.fixture(scope="module")
def thawed(pictures, split, backbone):
    return fit(pictures, split, backbone, blocks=1, **QUICK)


def test_a_frozen_network_stays_as_it_was_and_its_head_is_trained_on_its_features(
    frozen, pictures, backbone, split
):
    untrained = transfer_network(backbone, 2, picture_size=None, dropout=0.2, random_state=5)
    assert changed(weights_of(untrained), weights_of(frozen.model)) == {"head_classes"}
    assert frozen.trainable_parameters == 12 * 2 + 2
    assert frozen.thawed == [] and frozen.parameters["augment"] is False
    assert set(frozen.curves["phase"]) == {"head"}
    # The curve's last validation loss, computed by hand from the backbone's own maps.
    best = frozen.curves.loc[frozen.curves["val_loss"].idxmin()]
    rows = frozen.validation_rows
    pixels = np.stack(
        [
            resize_picture(
                images.decode_picture(
                    Path(pictures["folder"].iloc[0], pictures["path"][r]).read_bytes()
                ),
                (32, 32),
            )
            for r in rows
        ]
    )
    pooled = backbone.forward(pixels)[backbone.layers[-1]].mean(axis=(1, 2))
    kernel, bias = frozen.model.get_layer("head_classes").get_weights()
    probability = softmax(pooled @ kernel + bias, axis=1)
    codes = (pictures["label"] == "b").to_numpy().astype(int)
    weights = class_weights(codes[frozen.fit_rows], 2, "balanced")[codes[rows]]
    loss = -(weights * np.log(probability[np.arange(len(rows)), codes[rows]])).mean()
    assert best["val_loss"] == pytest.approx(loss, rel=1e-4)
    assert_allclose(frozen.predict_proba(pictures, rows), probability, atol=1e-5)


def test_only_train_rows_are_looked_at(pictures, split, backbone, frozen):
    used = np.concatenate([frozen.fit_rows, frozen.validation_rows])
    assert set(split[used]) == {"train"}
    assert len(used) == (split == "train").sum()
    elsewhere = pictures.copy()
    unseen = split != "train"
    elsewhere.loc[unseen, "path"] = "no such file"
    again = fit(elsewhere, split, backbone, **QUICK)
    pd.testing.assert_frame_equal(again.curves, frozen.curves)


def test_thawing_changes_the_last_block_but_for_its_batch_normalisation(thawed, backbone):
    untrained = transfer_network(backbone, 2, picture_size=None, dropout=0.2, random_state=5)
    learned = changed(weights_of(untrained), weights_of(thawed.model))
    assert learned == {"block3_conv", "top_conv", "head_classes"}
    assert thawed.thawed == ["block3_conv", "block3_bn", "top_conv"]
    expected = (8 * 9 * 10 + 10) + (10 * 12 + 12) + (12 * 2 + 2)
    assert thawed.trainable_parameters == expected
    assert thawed.curves["phase"].tolist() == ["head"] * 3 + ["thawed"] * 3
    assert thawed.curves["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert thawed.parameters["augment"] is True
    assert np.isfinite(thawed.curves.drop(columns="phase").to_numpy()).all()


def test_the_kept_weights_are_those_of_the_best_epoch(thawed, pictures):
    """Evaluated anew, the validation loss is the least of the curve's second phase."""
    rows = thawed.validation_rows
    codes = (pictures["label"] == "b").to_numpy().astype(int)
    probability = thawed.predict_proba(pictures, rows)
    weights = class_weights(codes[thawed.fit_rows], 2, "balanced")[codes[rows]]
    loss = -(weights * np.log(probability[np.arange(len(rows)), codes[rows]])).mean()
    curve = thawed.curves[thawed.curves["phase"] == "thawed"]
    assert loss == pytest.approx(curve["val_loss"].min(), rel=1e-3)


@pytest.mark.slow
def test_it_learns_what_can_be_learned(pictures, split, backbone):
    found = fit(
        pictures, split, backbone, blocks=2, epochs=12, batch_size=8, dropout=0.0,
        learning_rate=0.01, thawed_learning_rate=0.003, augment=False, random_state=0,
    )  # fmt: skip
    test = np.flatnonzero(split == "test")
    codes = (pictures["label"] == "b").to_numpy().astype(int)
    assert (found.predict_proba(pictures, test).argmax(axis=1) == codes[test]).mean() > 0.85
    assert found.curves["loss"].iloc[-1] < 0.7 * found.curves["loss"].iloc[0]


@pytest.mark.slow
def test_it_stops_when_the_validation_loss_rises(pictures, split, backbone):
    options = {"learning_rate": 3.0, "patience": 1, "epochs": 40, "batch_size": 8}
    found = fit(pictures, split, backbone, **options)
    assert 2 <= len(found.curves) < 40
    assert found.curves["val_loss"].idxmin() == len(found.curves) - 2


def test_options_out_of_range_are_refused(pictures, split, backbone):
    for options, words in (
        ({"blocks": 4}, "from 0 to 3.*got 4"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"class_weight": "odd"}, "class_weight must be one of"),
        ({"picture_size": 0}, "picture_size must be at least 1"),
    ):
        with pytest.raises(FeatlabError, match=words):
            fit(pictures, split, backbone, **options)
    with pytest.raises(FeatlabError, match="images and split must have one row per image"):
        fit(pictures, ["train"] * 3, backbone)


def test_a_class_without_train_images_is_refused_before_anything_is_read(split, backbone, pictures):
    nowhere = split.where(pictures["label"] == "a", "test")
    with pytest.raises(FeatlabError, match="Class 'b' has no image in train"):
        fit(pictures, nowhere, backbone)


def test_rows_may_be_a_mask(frozen, pictures, split):
    mask = (split == "test").to_numpy()
    expected = frozen.predict_proba(pictures, np.flatnonzero(mask))
    assert_array_equal(frozen.predict_proba(pictures, mask), expected)


def test_what_is_written_is_flushed_to_the_disk(frozen, tmp_path, monkeypatch):
    flushed = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (flushed.append(handle), real(handle))[1])
    path = frozen.save(tmp_path / "new" / "frozen.keras")
    assert flushed and [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_picture_that_has_changed_is_named(pictures, split, backbone):
    table = pictures.copy()
    table.loc[(split == "train").to_numpy().argmax(), "sha256"] = "other"
    with pytest.raises(FeatlabError, match="000.png has changed since"):
        fit(table, split, backbone, augment=True, **QUICK)  # read inside TensorFlow


# ---- interruption ------------------------------------------------------------------------------

_SCRIPT = """
import sys
import pandas as pd
from featlab import finetune, images
from featlab.backbones import load_backbone
table = images.index_images(sys.argv[1])[0]
split = pd.Series([("train", "train", "confirm", "test")[i % 4] for i in range(len(table))])
finetune.fit_finetuned(
    table, split, load_backbone(sys.argv[2]), blocks=1, folder=sys.argv[3], random_state=5,
    options=finetune.TrainingOptions(epochs=400, patience=400, batch_size=8),
)
"""


@pytest.mark.slow
def test_a_broken_off_training_goes_on_and_ends_where_an_unbroken_one_does(
    pictures, split, backbone, thawed, tmp_path
):
    options = {"blocks": 1, "folder": tmp_path / "checkpoints", **QUICK}

    def break_off(after):
        def progress(epochs):
            for epoch in epochs:
                if steps.pop(0):
                    raise KeyboardInterrupt
                yield epoch

        steps = [False] * after + [True] * 10
        return progress

    for done in (2, 3):  # in the first phase, then in the second
        with pytest.raises(KeyboardInterrupt):
            fit(pictures, split, backbone, progress=break_off(done), **options)
    last = fit(pictures, split, backbone, **options)
    assert last.epochs_run == 6 - 2 - 3
    pd.testing.assert_frame_equal(last.curves, thawed.curves, rtol=1e-4)
    test = np.flatnonzero(split == "test")
    expected = thawed.predict_proba(pictures, test)
    assert_allclose(last.predict_proba(pictures, test), expected, atol=1e-4)
    finished = fit(pictures, split, backbone, **options)
    assert finished.epochs_run == 0
    assert_allclose(finished.predict_proba(pictures, test), expected, atol=1e-4)
    with pytest.raises(FeatlabError, match="another learning rate: 0.001 there, 0.1 asked for"):
        fit(pictures, split, backbone, learning_rate=0.1, **options)


@pytest.mark.slow
def test_a_process_killed_outright_leaves_a_whole_checkpoint(
    pictures, small_network, split, tmp_path
):
    folder = tmp_path / "checkpoints"
    arguments = [sys.executable, "-c", _SCRIPT, pictures["folder"].iloc[0], small_network, folder]
    running = subprocess.Popen([str(a) for a in arguments], stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 120
        while not (folder / "training.npz").exists() and time.monotonic() < limit:
            assert running.poll() is None, "the training ended by itself"
            time.sleep(0.05)
    finally:
        running.kill()
        running.wait()
    epochs = []

    def count(ahead):
        epochs.append(len(ahead))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            pictures, split, load_backbone(small_network), blocks=1, folder=folder,
            epochs=400, patience=400, batch_size=8, random_state=5, progress=count,
        )  # fmt: skip
    assert 0 < epochs[0] < 400
    (folder / "training.npz").write_bytes(b"PK damaged")
    with pytest.raises(FeatlabError, match="training.npz is not a checkpoint"):
        fit(
            pictures, split, load_backbone(small_network), blocks=1, folder=folder, epochs=400,
            patience=400, batch_size=8, random_state=5,
        )  # fmt: skip


# ---- back to the laboratory ----------------------------------------------------------------------


@pytest.mark.slow
def test_the_saved_network_goes_through_the_same_laboratory(
    thawed, frozen, pictures, split, backbone, tmp_path
):
    path = thawed.save(tmp_path / "thawed.keras")
    tuned = load_backbone(path)
    assert tuned.layers == ("top_conv",)
    after = extract.extract_maps(
        pictures, tuned, tmp_path / "after.h5", options=extract.PassOptions(dtype="float32")
    )
    before = extract.extract_maps(
        pictures, backbone, tmp_path / "before.h5", options=extract.PassOptions(dtype="float32")
    )
    kernel, bias = thawed.model.get_layer("head_classes").get_weights()
    probability = softmax(after.pooled() @ kernel + bias, axis=1)
    assert_allclose(thawed.predict_proba(pictures), probability, atol=1e-5)

    fits = {"frozen": frozen, "thawed": thawed}
    found = transfer_study(before, split, fits, after)
    table = found.comparison.set_index("name")
    assert table.index.tolist() == ["logistic", "mlp", "frozen", "thawed"]
    test = np.flatnonzero(split == "test")
    codes = (pictures["label"] == "b").to_numpy().astype(int)
    for name, fitted in fits.items():
        right = fitted.predict_proba(pictures, test).argmax(axis=1) == codes[test]
        assert table.loc[name, "accuracy"] == pytest.approx(right.mean())
        assert table.loc[name, "n"] == len(test)
    difference = table.loc["thawed", "accuracy"] - table.loc["logistic", "accuracy"]
    assert table.loc["thawed", "difference"] == pytest.approx(difference)
    assert np.isnan(table.loc["logistic", "difference"])
    X = features.feature_table(before)
    alone = heads.evaluate_heads(X, pictures["label"], split, heads=["logistic"]).table
    assert table.loc["logistic", "accuracy"] == alone.set_index("head").loc["logistic", "accuracy"]
    assert table.loc["logistic", "trainable_parameters"] == 12 + 1
    assert table.loc["mlp", "trainable_parameters"] == 12 * 128 + 128 + 128 + 1

    expected = find_detectors(X, pictures["label"], split, pictures["group"])
    active = expected[expected["direction"] == "active"]
    counts = found.detectors.set_index("class")
    for name in ("a", "b"):
        mine = active[active["class"] == name]
        assert counts.loc[name, "selected_before"] == mine["detector"].sum()
        assert counts.loc[name, "confirmed_before"] == mine["confirmed"].sum()
    saved = Transfer.load(found.save(tmp_path / "study").parent)
    for name, one in found.tables().items():
        pd.testing.assert_frame_equal(saved.tables()[name], one, check_dtype=False)
    assert saved.about == found.about
    assert saved.about["fits"]["thawed"]["thawed"] == thawed.thawed
    for drawing in (
        plots.transfer_curves(saved.curves),
        transfer_comparison(saved.comparison),
        plots.detector_changes(saved.neurons),
    ):
        assert len(encode(drawing, "png")) > 5000
    (tmp_path / "study" / "transfer_curves.parquet").unlink()
    with pytest.raises(FeatlabError, match="transfer_curves.parquet is missing or damaged"):
        Transfer.load(tmp_path / "study")
    with pytest.raises(FeatlabError, match="no finished results in"):
        Transfer.load(tmp_path)
    wrong = split.replace({"confirm": "test", "test": "confirm"})
    scores = heads.evaluate_heads(X, pictures["label"], wrong, heads=["logistic"])
    with pytest.raises(FeatlabError, match="same images, classes and split"):
        compare_transfer(fits, pictures, split, scores, {"logistic": 0.1})


def test_detector_changes_count_what_was_planted():
    rng = np.random.default_rng(0)
    y = np.repeat(["x", "y"], 60)
    side = np.tile(["train", "confirm"], 60)
    base = rng.exponential(size=(120, 8))
    before, after = base.copy(), base.copy()
    before[y == "x", :2] += 3  # 0 and 1 tell x before, 1 and 2 after; 7 dies
    after[y == "x", 1:3] += 3
    after[:, 7] = 0
    tables, unseen = [], []
    for values in (before, after):
        X = pd.DataFrame(values, columns=feature_columns("l", "mean", 8))
        none = pd.Series([""] * 120)
        tables.append(find_detectors(X, pd.Series(y), pd.Series(side), none))
        unseen.append(neurons.rank_neurons(X[side == "confirm"], y[side == "confirm"]))
    classes, per_neuron = detector_changes(*tables, *unseen)
    x = classes.set_index("class").loc["x"]
    assert x[["confirmed_before", "confirmed_after", "confirmed_both"]].tolist() == [2, 2, 1]
    assert x["neurons"] == 7
    mine = per_neuron[per_neuron["class"] == "x"].set_index("neuron")
    assert mine.loc[0, "auroc_before"] > 0.9 > mine.loc[0, "auroc_after"]
    assert np.isnan(mine.loc[7, "auroc_after"])
    from scipy.stats import spearmanr

    alive = mine.dropna()
    expected = spearmanr(alive["auroc_before"], alive["auroc_after"]).statistic
    assert x["spearman"] == pytest.approx(expected)
    # The median of all that were selected: of those that were confirmed it would be flattered.
    none = tables[0].assign(confirmed=False)
    few, _ = detector_changes(none, none, unseen[0], unseen[0])
    assert few.set_index("class").loc["x", "median_before"] == pytest.approx(
        mine.loc[mine["selected_before"], "auroc_before"].median()
    )
    same, _ = detector_changes(tables[0], tables[0], unseen[0], unseen[0])
    assert same["spearman"].tolist() == [1, 1]
    both = pd.concat([tables[0], tables[0].assign(layer="other")])
    with pytest.raises(FeatlabError, match="of one layer and one pooling"):
        detector_changes(both, both, unseen[0], unseen[1])
    half = tables[1][tables[1]["neuron"] < 4]
    with pytest.raises(FeatlabError, match="16 and 8 rows"):
        detector_changes(tables[0], half, unseen[0], unseen[1])


# ---- small pictures ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_layer_up_samples_small_pictures_as_reading_does(pictures, split, backbone, tmp_path):
    found = fit(pictures, split, backbone, picture_size=12, **QUICK)
    assert found.input_size == (12, 12)
    loaded = load_backbone(found.save(tmp_path / "small.keras"))
    assert loaded.input_size == (12, 12)
    tiny = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3)).astype(np.uint8)
    grown = np.stack([resize_picture(picture, (32, 32)) for picture in tiny])
    layer = backbone.layers[-1]
    one, other = loaded.forward(tiny)["top_conv"], backbone.forward(grown)[layer]
    assert one.shape == other.shape
    # Reading rounds the up-sampled pixels to whole numbers, the layer does not.
    assert np.abs(one - other).max() < 0.02 * np.abs(other).max()


@pytest.mark.slow
def test_the_table_of_small_pictures_scores_every_way_on_the_same_rows(
    pictures, split, tmp_path, monkeypatch
):
    def load(name, weights=None, input_size=64):
        if Path(name).suffix == ".keras":
            return load_backbone(name)
        return load_backbone(write_network(tmp_path / f"{name}_{input_size}.keras", input_size))

    monkeypatch.setattr("featlab.pipeline.transfer.load_backbone", load)
    table = small_images_table(pictures, split, "net", folder=tmp_path / "small")
    assert table["cells"].tolist() == ["4 × 4", "8 × 8", "8 × 8", "8 × 8"]
    assert table["accuracy"].iloc[1] == pytest.approx(table["accuracy"].iloc[2], abs=0.07)
    assert table["input_size"].tolist() == [32, 64, 64, 64]
    assert (table["n"] == (split == "test").sum()).all()
    assert np.isnan(table["difference"].iloc[3])
    assert_allclose(
        table["difference"][:3], table["accuracy"][:3] - table["accuracy"][3], atol=1e-12
    )
    with MapStore(tmp_path / "small" / "small_0.h5") as store:
        assert set(store.images["width"]) == {32}
        assert store.images["label"].tolist() == pictures["label"].tolist()
    assert len(encode(small_images(table), "png")) > 5000


@pytest.mark.slow
def test_the_command_trains_once_and_compares(pictures, small_network, tmp_path, capsys):
    arguments = [pictures["folder"].iloc[0], "-o", tmp_path / "out", "--backbone", small_network]
    arguments += ["--blocks", 1, "--epochs", 2, "--training-batch-size", 16]

    def run() -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["featlab", "finetune", *map(str, arguments)])
            with pytest.raises(SystemExit) as end:
                cli.main()
        assert not end.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    printed = run()
    assert "detectors before and after" in printed
    assert {"difference", "difference_low", "difference_high"} <= set(printed.split())
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names >= {
        "maps.h5", "maps_thawed.h5", "frozen.keras", "thawed.keras", "transfer.json",
        "transfer_comparison.csv", "transfer_comparison.parquet", "transfer_curves.png",
        "transfer_comparison.png", "transfer_detectors.png",
    }  # fmt: skip
    stamp = (tmp_path / "out" / "thawed.keras").stat().st_mtime_ns
    first = Transfer.load(tmp_path / "out")
    run()
    assert (tmp_path / "out" / "thawed.keras").stat().st_mtime_ns == stamp
    again = Transfer.load(tmp_path / "out")
    pd.testing.assert_frame_equal(again.curves, first.curves)
    pd.testing.assert_frame_equal(again.neurons, first.neurons)
