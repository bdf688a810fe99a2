"""Real networks with real weights; everything else about backbones without building one."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featlab import FeatlabError
from featlab.backbones import available_backbones, load_backbone

# Breeds among the ImageNet classes.
BREEDS = {
    "Persian": 283,
    "beagle": 162,
    "boxer": 242,
    "chihuahua": 151,
    "english_setter": 212,
    "german_shorthaired": 210,
    "great_pyrenees": 257,
    "newfoundland": 256,
    "pomeranian": 259,
    "pug": 254,
}


def pictures(folder: Path, labels: list[str], n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    pixels, codes = [], []
    for code, label in enumerate(labels):
        for file in sorted((folder / label).glob("*.jpg"))[:n]:
            with Image.open(file) as picture:
                resized = picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
            pixels.append(np.asarray(resized))
            codes.append(code)
    return np.stack(pixels), np.array(codes)


def held_out_accuracy(X: np.ndarray, y: np.ndarray) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train = np.arange(len(y)) % 2 == 0
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    return model.fit(X[train], y[train]).score(X[~train], y[~train])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("resnet51",), "one of efficientnet_lite0.*got 'resnet51'. Near: .*ResNet50"),
        (("nowhere.keras",), "there is no file nowhere.keras"),
    ],
)
def test_unknown_networks_are_named_with_what_is_near(arguments, words):
    with pytest.raises(FeatlabError, match=words):
        load_backbone(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_size": 8}, "input_size must be one or two sides of at least 32 px, got 8"),
        ({"output_stride": 8}, "output_stride must be 16 or left out, got 8"),
        ({"weights": "nowhere.pth"}, "there is no file nowhere.pth"),
        ({"preprocessing": "tf"}, "preprocessing is for .keras files"),
        ({"layers": []}, "layers must name different layers"),
        ({"layers": ["a", "a"]}, "layers must name different layers"),
    ],
)
def test_options_out_of_range_are_told_before_anything_is_loaded(options, words):
    with pytest.raises(FeatlabError, match=words):
        load_backbone("efficientnet_lite0", **options)


def test_the_digest_of_built_in_weights_is_in_their_files_name():
    identity = load_backbone("EfficientNet_Lite0").identity()  # test_package: without TensorFlow
    assert identity["weights_sha256"][:8] == "57934424"


def test_every_option_that_changes_the_maps_changes_the_identity(shared_weights):
    weights = shared_weights / "mobilenet_v2_1_0_224_notop.weights.h5"
    variants = [
        {},
        {"input_size": 256},
        {"input_size": (224, 256)},
        {"layers": "block10_add"},
        {"output_stride": 16},
        {"weights": weights},
    ]
    identities = [str(load_backbone("efficientnet_lite0", **v).identity()) for v in variants]
    assert len(set(identities)) == len(variants)


@pytest.mark.parametrize(
    ("name", "size", "n"),
    [
        ("efficientnet_lite0", 224, 3),
        pytest.param("efficientnet_lite0", 224, 6, marks=pytest.mark.slow),
        pytest.param("efficientnet_lite1", 240, 6, marks=pytest.mark.slow),
        pytest.param("efficientnet_lite2", 260, 6, marks=pytest.mark.slow),
    ],
)
def test_lite_networks_classify_known_photos_right(shared_data, name, size, n):
    from featlab.backbones import efficientnet_lite

    try:
        weights = efficientnet_lite.weights_path(name)
    except FeatlabError as error:
        pytest.skip(str(error))
    labels = list(BREEDS)
    pixels, codes = pictures(shared_data / "pets_breeds", labels, n, size)
    model = efficientnet_lite.build(name, (size, size), weights, include_top=True)
    logits = np.asarray(model((pixels.astype(np.float32) - 127) / 128, training=False))
    expected = np.array([BREEDS[label] for label in labels])[codes]
    # Some of these copies are squashed to a square; the paper's top-1 is 0.75 on its own photos.
    assert (logits.argmax(axis=1) == expected).mean() >= 0.7
    assert (np.argsort(-logits, axis=1)[:, :5] == expected[:, None]).any(axis=1).mean() >= 0.9


@pytest.mark.parametrize(
    ("size", "stride", "shape"),
    [
        pytest.param(224, 16, (14, 14), marks=pytest.mark.slow),
        ((160, 96), None, (5, 3)),
        pytest.param(256, None, (8, 8), marks=pytest.mark.slow),
        pytest.param(100, None, (4, 4), marks=pytest.mark.slow),
    ],
)
def test_lite0_maps_have_the_right_shape_for_several_sizes(size, stride, shape):
    backbone = load_backbone("efficientnet_lite0", input_size=size, output_stride=stride)
    height, width = backbone.input_size
    maps = backbone.forward(np.zeros((2, height, width, 3), np.uint8))
    assert maps["head_relu"].shape == (2, *shape, 1280)
    assert maps["head_relu"].dtype == np.float32
    if stride == 16:
        assert "14 × 14 cells of 16 px, 1280 neurons" in str(backbone.describe())


@pytest.mark.slow
def test_dilated_maps_keep_the_cells_of_the_plain_ones(shared_data):
    pixels, _ = pictures(shared_data / "pets_breeds", ["pug"], 2, 224)
    plain = load_backbone("efficientnet_lite0").forward(pixels)["head_relu"]
    dilated = load_backbone("efficientnet_lite0", output_stride=16).forward(pixels)["head_relu"]
    # "same" padding of the stride-2 kernel samples at odd positions; the border sees other padding.
    inner, fine = plain[:, 2:-2, 2:-2], dilated[:, 1::2, 1::2][:, 2:-2, 2:-2]
    assert np.corrcoef(inner.ravel(), fine.ravel())[0, 1] > 0.9


def test_several_layers_come_from_one_pass_and_a_wrong_one_is_told():
    backbone = load_backbone("efficientnet_lite0", layers=["block10_add", "head_relu"])
    maps = backbone.forward(np.zeros((1, 224, 224, 3), np.uint8))
    assert list(maps) == ["block10_add", "head_relu"]
    assert maps["block10_add"].shape == (1, 14, 14, 112)
    with pytest.raises(FeatlabError, match="layers must name layers .* got 'top'.*head_relu"):
        _ = load_backbone("efficientnet_lite0", layers="top").model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "neurons", "accuracy"),
    [
        ("MobileNet", "mobilenet_1_0_224_notop.weights.h5", 1024, 0.97),
        ("MobileNetV2", "mobilenet_v2_1_0_224_notop.weights.h5", 1280, 0.95),
        ("vgg16", "vgg16_notop.weights.h5", 512, 0.85),
    ],
)
def test_networks_of_keras_know_real_pictures_with_their_own_preprocessing(
    shared_data, shared_weights, name, file, neurons, accuracy
):
    n = 40 if name == "vgg16" else 80
    pixels, codes = pictures(shared_data / "kangaroo_raccoon", ["kangaroo", "raccoon"], n, 224)
    backbone = load_backbone(name, weights=shared_weights / file)
    maps = backbone.forward(pixels)[backbone.layers[0]]
    assert maps.shape == (2 * n, 7, 7, neurons)
    assert held_out_accuracy(maps.mean(axis=(1, 2)), codes) >= accuracy
    assert backbone.preprocessing.startswith("keras.applications.")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "VGG16", "ResNet50V2", "DenseNet121"])
def test_output_stride_16_of_keras_networks(name, caplog):
    backbone = load_backbone(name, weights=None, output_stride=16, input_size=96)
    assert "RANDOM weights" in caplog.text
    maps = backbone.forward(np.zeros((1, 96, 96, 3), np.uint8))
    assert maps[backbone.layers[0]].shape[1:3] == (6, 6)


@pytest.mark.slow
def test_output_stride_that_an_architecture_does_not_allow():
    backbone = load_backbone("InceptionV3", weights=None, output_stride=16, input_size=160)
    with pytest.raises(FeatlabError, match="output_stride=16 is not possible for inception_v3"):
        _ = backbone.model


def test_a_keras_file_of_the_users_own(tmp_path):
    import keras

    inputs = keras.Input((64, 64, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, padding="same", activation="relu", name="maps")(inputs)
    x = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    path = tmp_path / "mine.keras"
    keras.Model(inputs, x).save(path)
    backbone = load_backbone(path, preprocessing="tf")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    maps = backbone.forward(pixels)["maps"]
    layer = keras.models.load_model(path).get_layer("maps")
    expected = np.asarray(layer(pixels.astype(np.float32) / 127.5 - 1))
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert backbone.input_size == (64, 64)
    with pytest.raises(FeatlabError, match="takes 64 × 64 px; input_size=.* not possible"):
        _ = load_backbone(path, input_size=96).model
    with pytest.raises(FeatlabError, match="preprocessing must be one of none, tf"):
        load_backbone(path, preprocessing="odd")


def test_a_keras_file_that_would_run_code_is_refused(tmp_path):
    import keras

    path = tmp_path / "lambda.keras"
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Lambda(lambda x: x * 2)(inputs)
    keras.Model(inputs, outputs).save(path)
    with pytest.raises(FeatlabError, match=r"lambda.keras could not be loaded"):
        _ = load_backbone(path).model
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"not a zip")
    with pytest.raises(FeatlabError, match=r"broken.keras could not be loaded"):
        _ = load_backbone(broken).model


@pytest.mark.slow
def test_random_weights_are_the_same_each_time_and_probe_tells_networks_apart():
    first = load_backbone("MobileNet", weights=None, input_size=64)
    second = load_backbone("MobileNet", weights=None, input_size=64)
    assert first.weights_sha256 == second.weights_sha256
    np.testing.assert_array_equal(
        first.probe()["conv_pw_13_relu"], second.probe()["conv_pw_13_relu"]
    )


def test_random_weights_do_not_depend_on_who_else_draws_random_numbers():
    def weights() -> str:
        return load_backbone("efficientnet_lite0", weights=None, input_size=64).weights_sha256

    done, alone = threading.Event(), weights()

    def draw() -> None:
        while not done.wait(0.01):
            random.random()

    other = threading.Thread(target=draw)
    other.start()
    try:
        assert weights() == alone
    finally:
        done.set()
        other.join()


def test_every_classification_network_of_keras_is_known():
    names = available_backbones()
    assert names[:3] == ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
    assert {"ResNet50", "MobileNetV2", "EfficientNetV2S", "ConvNeXtTiny", "VGG19"} <= set(names)


def test_a_network_inside_a_network_gives_its_maps(tmp_path):
    import keras

    base = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(5, 3, strides=4, activation="relu"),
        ],
        name="base",
    )
    layers = [base, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    whole = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    whole.save(tmp_path / "nested.keras")
    backbone = load_backbone(tmp_path / "nested.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    found = backbone.forward(pixels)
    assert list(found) == ["base"]
    np.testing.assert_allclose(found["base"], np.asarray(base(pixels.astype("float32"))), atol=1e-3)
    with pytest.raises(FeatlabError, match="layers must name layers of .* got 'nothing'"):
        _ = load_backbone(tmp_path / "nested.keras", layers="nothing").model


@pytest.mark.slow
def test_the_smallest_input_leaves_one_cell():
    maps = load_backbone("efficientnet_lite0", weights=None, input_size=32).forward(
        np.zeros((1, 32, 32, 3), np.uint8)
    )
    assert maps["head_relu"].shape == (1, 1, 1, 1280)
