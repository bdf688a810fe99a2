"""A predictor as one plain Keras model: each part against its own, and the whole in each format."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED, FakeBackbone, draw_pictures
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter
from test_predict_pages import plain_predictor
from typer.testing import CliRunner

from featlab import FeatlabError, boxheads, extract, images, localise, pipeline, predict
from featlab.backbones import load_backbone
from featlab.boxes.geometry import unit_boxes
from featlab.boxheads import head_tensor
from featlab.cli import app
from featlab.heads.saved import SavedHead, probability_tensor
from featlab.images.pixels import InputReader
from featlab.localise.heat import fuse_heats, heat_maps, read
from featlab.localise.methods import METHODS
from featlab.localise.tensors import box_tensor, heat_tensor
from featlab.predict._file import keras_model, write_model
from featlab.results.localisation import BoxHead, Context, FittedMethods

N, C, K = 12, 9, 3
CLASSES = ["a", "b", "c"]


def of_graph(make, *arrays):
    """What a part of a Keras graph makes of arrays."""
    import keras

    inputs = [keras.Input(one.shape[1:]) for one in arrays]
    # Every input is used: Keras before 3.13 refuses one that is not.
    model = keras.Model(inputs, [make(*inputs), *map(keras.layers.Identity(), inputs)])
    return np.asarray(model([one.astype(np.float32) for one in arrays])[0])


@pytest.mark.parametrize("hidden", [(), (5,)])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("output", ["softmax", "sigmoid", "one_vs_rest"])
def test_a_head_gives_its_probabilities(hidden, activation, output):
    rng = np.random.default_rng(0)
    widths = [C, *hidden, 1 if output == "sigmoid" else K]
    layers = tuple(
        (rng.normal(size=pair), rng.normal(size=pair[1])) for pair in itertools.pairwise(widths)
    )
    classes = np.array(CLASSES[: 2 if output == "sigmoid" else K])
    head = SavedHead(classes, np.full(C, 3.0), np.full(C, 2.0), layers, activation, output)
    X = rng.normal(3, 4, (N, C)).astype(np.float32)
    own = of_graph(partial(probability_tensor, head), X)
    assert np.ptp(own) > 0.1
    assert_allclose(own, head.predict_proba(X), atol=1e-5)


def context(c=C):
    """What every method knows of a layer, of random numbers."""
    rng = np.random.default_rng(1)
    neurons = pd.DataFrame(
        {
            "class": np.repeat(CLASSES, 4),
            "neuron": np.arange(12) % c,
            "direction": ["active", "silent", "active", "active"] * K,
        }
    )
    directions, means = rng.normal(size=(K, c)), rng.normal(size=(K, c))
    return Context(
        classes=CLASSES,
        codes=np.zeros(0, int),
        scale=np.r_[0, rng.uniform(0.5, 2, c - 1)].astype(np.float32),
        neurons=neurons,
        weights=rng.normal(size=(K, c)),
        intercepts=rng.normal(size=K),
        fitted={
            "ddt": (means, directions),
            "fusion": (means, directions),
            "student": (rng.normal(size=c).astype(np.float32), -0.2, means, directions),
            "cell_boxes": (rng.normal(size=c).astype(np.float32), 0.3),
            "parts": (rng.uniform(size=(4, c)).astype(np.float32), np.arange(K)),
        },
    )


KNOWN = [
    *("detectors", "best_detector", "signed_detectors", "contrast", "cam", "cam_positive"),
    *("cell_head", "sum", "fusion", "ddt", "cell_boxes", "student"),
]


@pytest.mark.parametrize("name", KNOWN)
def test_a_heat_map_is_that_of_its_method(name):
    maps = np.random.default_rng(2).gamma(1, 2, (N, 5, 4, C)).astype(np.float32)
    codes, known = np.arange(N) % K, context()
    expected = METHODS[name].heat(maps, known.of(codes))
    if (join := METHODS[name].join) is not None:
        expected = join(expected)
    fitted = FittedMethods({name: METHODS[name]}, {"last": known})

    def heat(one, asked):
        return heat_tensor(fitted, {"last": one}, asked)

    own = of_graph(heat, maps, np.eye(K)[codes])
    assert np.ptp(expected) > 0
    assert_allclose(own, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_signed_layer_is_read_in_halves_as_by_the_methods():
    rng = np.random.default_rng(3)
    maps, centre = rng.normal(size=(N, 5, 4, C)), rng.normal(size=C).astype(np.float32)
    known = dataclasses.replace(context(2 * C), centre=centre)
    maps, codes = maps.astype(np.float32), np.arange(N) % K
    expected = METHODS["fusion"].heat(read(maps, known.centre), known.of(codes))
    fitted = FittedMethods({"fusion": METHODS["fusion"]}, {"last": known})

    def heat(one, asked):
        return heat_tensor(fitted, {"last": one}, asked)

    own = of_graph(heat, maps, np.eye(K)[codes])
    assert np.ptp(expected) > 0
    assert_allclose(own, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", [name for name in METHODS if name not in (*KNOWN, "mlp_cam")])
def test_a_heat_map_that_is_no_sum_is_refused(name):
    fitted = FittedMethods({name: METHODS[name]}, {"last": context()})
    told = f"heat maps of '{name}' cannot become a Keras model: .* or .*cell_head.*fusion"
    with pytest.raises(FeatlabError, match=told):
        heat_tensor(fitted, {"last": None}, None)


def test_a_method_of_the_users_that_is_a_sum_is_taken():
    try:
        localise.register("third", "the third neuron")(lambda maps, _: 2 * maps[..., 2])
        maps = np.random.default_rng(3).normal(size=(N, 4, 4, C))
        fitted = FittedMethods({"third": METHODS["third"]}, {"last": context()})
        own = of_graph(
            lambda one, asked: heat_tensor(fitted, {"last": one}, asked), maps, np.eye(K)[[0] * N]
        )
    finally:
        del METHODS["third"]
    assert_allclose(own, 2 * maps[..., 2], rtol=1e-6)


def test_heat_maps_of_several_layers_are_fused():
    rng = np.random.default_rng(4)
    fine, coarse = rng.gamma(1, 2, (N, 8, 8, C)), rng.gamma(1, 2, (N, 4, 4, C))
    coarse[0], fine[1], coarse[1] = 0.7, 0, 0  # flat in one layer, and in both
    fitted = FittedMethods({"sum": METHODS["sum"]}, {"fine": context(), "coarse": context()})

    def heat(one, other, asked):
        return heat_tensor(fitted, {"fine": one, "coarse": other}, asked)

    own = of_graph(heat, fine, coarse, np.eye(K)[[0] * N])
    expected = fuse_heats([fine.sum(axis=-1), coarse.sum(axis=-1)])
    assert_allclose(own, expected, atol=1e-5)
    assert not expected[1].any() and expected[0].any()


@pytest.mark.parametrize(("shape", "threshold"), [((7, 7), 0.5), ((7, 7), 0.7), ((10, 6), 0.5)])
def test_a_box_of_a_heat_map_is_that_of_its_largest_region(shape, threshold):
    n, rng = 60, np.random.default_rng(5)
    heat = gaussian_filter(rng.normal(size=(n, *shape)), (0, 0.8, 0.8)).astype(np.float32)
    heat[0], heat[1], heat[2:4] = 0, 5, 0
    heat[2, 1, 1] = heat[2, 4, 4] = 1  # of two equal ones the last
    heat[3, 2, 2] = heat[3, 3, 3] = 1  # across a corner
    sizes = np.full((n, 2), 300)
    frames = np.tile([0.0, 0, 1, 1], (n, 1))
    expected = localise.heat_boxes(heat, [threshold], frames=frames, sizes=sizes)[:, 0]
    own = of_graph(partial(box_tensor, threshold=threshold), heat)
    different = np.abs(own - unit_boxes(expected, sizes)).max(axis=1) > 1e-6
    # A bridge as thin as a pixel may be there for one of the two alone.
    assert different.sum() <= 1 and not different[:4].any()
    assert not own[:2].any() and own[2:].any(axis=1).all()
    assert len(np.unique(own, axis=0)) > n / 3


def test_too_many_cells_are_refused():
    import keras

    with pytest.raises(FeatlabError, match="heat map of 56 x 56 cells .* at most 784; fit"):
        box_tensor(keras.Input((56, 56)), 0.2)


def box_head(shape, target, steps):
    """A head of random weights whose boxes differ from picture to picture."""
    rng = np.random.default_rng(6)
    (h, w, c), few = shape, 4
    cells = h * w * few
    centred = target == "centre_size"
    arrays = {
        "channel_mean": rng.normal(size=c).astype(np.float32),
        "channel_axes": np.linalg.qr(rng.normal(size=(c, few)))[0].astype(np.float32),
        "first_mean": rng.normal(size=cells).astype(np.float32),
        "first_axes": rng.normal(0, 0.4 / np.sqrt(cells), (cells, 4)),
        "first_level": np.array([0.5, 0.5, -1, -1] if centred else [0.3, 0.2, 0.7, 0.8]),
    }
    if steps:
        arrays |= {
            "even": rng.normal(0, 0.02, (5 * 3 * few, 3)),
            "odd": rng.normal(0, 0.02, (5 * 2 * few, 1)),
            "middle": rng.normal(size=5 * 3 * few),
            "level": rng.normal(0, 0.02, 3),
        }
    return BoxHead("planted", "last", target, 1.3, steps, arrays)


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("target", ["centre_size", "corners"])
def test_a_box_head_gives_its_boxes(target, hidden, steps):
    head = box_head((5, 4, C), target, steps)
    if hidden:
        rng = np.random.default_rng(8)
        head.arrays["first_axes"] = rng.normal(0, 0.2, (5 * 4 * 4, 6))
        head.arrays["hidden_weights"] = rng.normal(size=(5, 7))
        head.arrays["hidden_level"] = rng.normal(size=7)
        head.arrays["hidden_out"] = rng.normal(0, 0.05, (7, 4))
    maps = np.random.default_rng(7).normal(0, 2, (N, 5, 4, C)).astype(np.float32)
    store = MapsOnly(maps)
    expected = boxheads.predict_boxes(head, store)
    own = of_graph(partial(head_tensor, head), maps)
    assert np.ptp(expected, axis=0).min() > 0.02 and len(np.unique(expected[:, 0])) > N // 2
    assert_allclose(own, expected, atol=1e-5)


class MapsOnly:
    """As much of a store as a box head asks for; pictures of one pixel."""

    path, provenance = Path("maps.h5"), {}

    def __init__(self, maps):
        self._maps, n = maps, len(maps)
        self.images = pd.DataFrame({"path": map(str, range(n)), "width": 1, "height": 1})
        self.frames = np.tile([0.0, 0, 1, 1], (n, 1))

    def map_shape(self, layer):
        return self._maps.shape[1:]

    def iter_maps(self, rows, layer, batch):
        yield rows, self._maps[rows]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small network, pictures, and a predictor of two classes on it."""
    import keras
    from keras import layers

    root = tmp_path_factory.mktemp("small")
    keras.utils.set_random_seed(0)
    pixels = keras.Input((56, 56, 3))
    x = layers.Conv2D(6, 5, strides=4, padding="same", activation="relu", name="early")(pixels)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="last")(x)
    keras.Model(pixels, x).save(root / "small.keras")
    backbone = load_backbone(root / "small.keras", preprocessing="tf", engine="tensorflow")
    table, _, _ = images.index_images(draw_pictures(root / "pictures", {"a": 5, "b": 4}))
    store = extract.extract_maps(table, backbone, root / "maps.h5")
    X, own = store.pooled(), plain_predictor(store)
    # Around the pictures' own means, so that both classes occur.
    head = dataclasses.replace(own.head, mean=X.mean(axis=0), scale=X.std(axis=0) + 1e-6)
    return backbone, table, store, dataclasses.replace(own, head=head)


def pixels_of(table, backbone, resize="stretch"):
    read = InputReader(table, backbone.input_size, resize)
    return np.stack([read(row)[0] for row in range(len(table))]).astype(np.float32)


def assert_same(outputs, predictor, store, table):
    """The three answers of a model, against those of the predictor."""
    rows = np.arange(len(store))
    probability = predictor.head.predict_proba(store.pooled(layer=predictor.layer))
    codes = probability.argmax(axis=1)
    (heat,) = heat_maps(store, rows, predictor.heat.fitted, codes=codes).values()
    boxes, _ = predictor.boxes(store, rows, codes)
    boxes = unit_boxes(boxes, table[["width", "height"]].to_numpy(float))
    assert_allclose(outputs["probability"], probability, atol=1e-4)
    assert_allclose(outputs["heat"], heat, rtol=0, atol=1e-4 * np.abs(heat).max())
    assert_allclose(outputs["box"], boxes, atol=1e-4)
    assert len(set(codes.tolist())) > 1 and np.ptp(boxes, axis=0).max() > 0.05


def with_head(predictor, store):
    head = box_head(store.map_shape(), "centre_size", 2)
    head.arrays["first_mean"][:] = 0
    return dataclasses.replace(predictor, box_head=head)


@pytest.mark.slow
@pytest.mark.parametrize("of_head", [False, True])
def test_a_model_gives_the_predictors_answers(small, of_head):
    backbone, table, store, predictor = small
    predictor = with_head(predictor, store) if of_head else predictor
    model = predictor.to_keras(backbone)
    assert_same(model.predict(pixels_of(table, backbone), verbose=0), predictor, store, table)


@pytest.mark.slow
def test_what_no_model_can_say_is_refused(small):
    backbone, _, _, predictor = small
    with pytest.raises(FeatlabError, match="as load_backbone gives it, got FakeBackbone"):
        keras_model(predictor, FakeBackbone())
    padded = dataclasses.replace(predictor, provenance=predictor.provenance | {"resize": "pad"})
    with pytest.raises(FeatlabError, match="resize='stretch'.*, got .* resized by 'pad'"):
        padded.to_keras(backbone)


def exported(model, file, classes=("a", "b")):
    """The file of a model; skips where its exporter is missing."""
    if file.suffix == ".onnx":
        pytest.importorskip("tf2onnx")
        pytest.importorskip("onnxruntime")
    write_model(model, file, list(classes))
    named = file if file.suffix != ".keras" else file.with_suffix("")
    assert Path(f"{named}.classes.txt").read_text("utf-8").split("\n")[:-1] == list(classes)
    return file


def answers_of(file, pixels):
    """What the program of each format makes of a file."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file)
        names = [one.name for one in session.get_outputs()]
        return dict(zip(names, session.run(None, {"pictures": pixels}), strict=True))
    import tensorflow as tf

    if file.suffix == ".tflite":
        runner = tf.lite.Interpreter(str(file)).get_signature_runner("serving_default")
        one_by_one = [runner(pictures=one[None]) for one in pixels]
        return {key: np.concatenate([o[key] for o in one_by_one]) for key in one_by_one[0]}
    loaded = tf.saved_model.load(file)
    return {key: one.numpy() for key, one in loaded.serve(pixels).items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("of_head", [False, True])
@pytest.mark.parametrize("name", ["model", "model.onnx", "model.tflite"])
def test_every_format_gives_the_same(small, name, of_head, tmp_path):
    backbone, table, store, predictor = small
    predictor = with_head(predictor, store) if of_head else predictor
    file = exported(predictor.to_keras(backbone), tmp_path / name)
    assert_same(answers_of(file, pixels_of(table, backbone)), predictor, store, table)


@pytest.mark.slow
@pytest.mark.parametrize("of_head", [False, True])
def test_keras_opens_the_file_alone(small, of_head, tmp_path):
    backbone, table, store, predictor = small
    predictor = with_head(predictor, store) if of_head else predictor
    exported(predictor.to_keras(backbone), tmp_path / "model.keras")
    np.save(tmp_path / "pixels.npy", pixels_of(table, backbone))
    alone = (
        "import sys, numpy as np, keras\n"
        "model = keras.models.load_model('model.keras')\n"
        "out = model.predict(np.load('pixels.npy'), verbose=0)\n"
        "assert not any(name.startswith('featlab') for name in sys.modules)\n"
        "np.savez('out.npz', **out)\n"
    )
    subprocess.run([sys.executable, "-c", alone], cwd=tmp_path, check=True, capture_output=True)
    with np.load(tmp_path / "out.npz") as outputs:
        assert_same(outputs, predictor, store, table)


@pytest.mark.slow
def test_the_command_writes_the_model_and_its_classes(small, tmp_path):
    backbone, table, store, predictor = small
    levels = predictor.provenance | {"intensity": "integer 0 4080"}
    model = dataclasses.replace(predictor, provenance=levels).save(tmp_path / "model.featlab")
    network = Path(table["folder"][0]).parent / "small.keras"
    asked = ["export", str(model), "--backbone", str(network)]
    done = CliRunner().invoke(app, [*asked, "-o", str(tmp_path / "out.keras")])
    assert done.exception is None and "box: xmin, ymin, xmax, ymax" in done.output
    assert "values 0 to 4080 of more than 8 bits become 0 to 255" in done.output
    assert (tmp_path / "out.classes.txt").read_text("utf-8") == "bright & <b>\ndark\n"
    import keras

    outputs = keras.models.load_model(tmp_path / "out.keras").predict(
        pixels_of(table, backbone), verbose=0
    )
    assert_same(outputs, predictor, store, table)
    done = CliRunner().invoke(app, [*asked, "-o", str(tmp_path / "out.pb")])
    assert "must end in .keras, .onnx, .tflite or" in str(done.exception)
    done = CliRunner().invoke(app, [*asked, "-o", str(tmp_path)])  # the model's own folder
    assert "was not written by featlab in one piece" in str(done.exception)
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        *("model.featlab", "out.classes.txt", "out.keras")
    ]


def test_a_missing_exporter_is_named(small, tmp_path, monkeypatch):
    class Model:
        def export(self, *_, **__):
            raise ImportError("This requires the tf2onnx module.")

    with pytest.raises(FeatlabError, match=r"tf2onnx module.*pip install 'featlab\[export\]'"):
        write_model(Model(), tmp_path / "model.onnx", ["a"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_real_network_gives_the_same_in_every_format(tmp_path):
    """Fruits on the built-in network, with boxes and without."""
    folder = SHARED / "data" / "fruit3"
    if not folder.is_dir():
        pytest.skip("the fruits are not here")
    table, boxes, _ = images.index_images(folder)
    backbone = load_backbone("efficientnet_lite0", engine="tensorflow")
    with extract.extract_maps(table, backbone, tmp_path / "maps.h5", boxes=boxes) as store:
        with_boxes = predict.fit_predictor(pipeline.analyse(store))
        few = store.images.iloc[::6].reset_index(drop=True)
        some = store.in_memory(np.arange(0, len(store), 6), store.layers)
        pixels = pixels_of(few, backbone)
        for own in (with_boxes, dataclasses.replace(with_boxes, box_head=None)):
            model = own.to_keras(backbone)
            assert_same(model.predict(pixels, verbose=0), own, some, few)
            for name in ("model", "model.tflite", "model.onnx"):
                file = exported(model, tmp_path / name, own.classes)
                assert_same(answers_of(file, pixels), own, some, few)
