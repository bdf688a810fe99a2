"""Guided back-propagation and gradients, by hand, by finite differences, on small networks."""

from __future__ import annotations

import numpy as np
import pytest

from featlab import FeatlabError, gradients
from featlab.backbones import load_backbone
from featlab.gradients._backward import RULES, layer_gradients

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

# Three layers on a picture of one pixel x = (1, 2, 3), worked out by hand:
#   z1 = (3, -1, 3, 5)          → ReLU  → u = (3, 0, 3, 5)
#   z2 = (2*3 + 0 - 3, 3 + 5, -3 + 5) = (3, 8, 2) → ReLU6 → v = (3, 6, 2)
#   y  = v1 + v2 - v3
# Plain:  dy/dv = (1, 1, -1); v2 is at its ceiling; dy/du = (2 + 1, *, -1, -1), u2 is silent;
#         dy/dx = (3, 3 - 1, -1 - 1) = (3, 2, -2).
# Guided: of dy/dv only v1 passes (v2 saturated, v3 negative); dy/du = (2, 1, -1, 0): only u1 passes
#         (u2 is silent, u3 negative); dy/dx = (2, 2, 0).
X = np.array([[[[1.0, 2.0, 3.0]]]], np.float32)
W1 = np.array([[1, 1, 0, 0], [1, -1, 0, 1], [0, 0, 1, 1]], np.float32)
W2 = np.array([[2, 1, -1], [1, 0, 0], [-1, 0, 0], [0, 1, 1]], np.float32)
W3 = np.array([[1], [1], [-1]], np.float32)
PLAIN, GUIDED = [3.0, 2.0, -2.0], [2.0, 2.0, 0.0]


def conv(filters: int, activation: str | None = None, name: str | None = None):
    return keras.layers.Conv2D(filters, 1, use_bias=False, activation=activation, name=name)


def as_layers(x):
    x = keras.layers.ReLU()(conv(4)(x))
    return keras.layers.ReLU(max_value=6)(conv(3)(x))


def as_arguments(x):
    return conv(3, "relu6")(conv(4, "relu")(x))


def as_activations(x):
    x = keras.layers.Activation("relu")(conv(4)(x))
    return keras.layers.Activation("relu6")(conv(3)(x))


def as_operations(x):
    return keras.ops.relu6(conv(3)(keras.ops.relu(conv(4)(x))))


def as_functions(x):
    x = keras.activations.relu(conv(4)(x))
    return keras.activations.relu(conv(3)(x), max_value=6)


def as_layer_arguments(x):
    x = keras.layers.Conv2D(4, 1, use_bias=False, activation=keras.layers.ReLU())(x)
    return keras.layers.Conv2D(3, 1, use_bias=False, activation=keras.layers.ReLU(6.0))(x)


def as_dense(x):
    x = keras.layers.Dense(4, activation="relu", use_bias=False)(x)
    return keras.layers.Dense(3, activation="relu6", use_bias=False)(x)


def as_nested_twice(x):
    shape = x.shape[1:]
    inner = keras.Input(shape)
    innermost = keras.Model(inner, conv(4, "relu")(inner), name="innermost")
    outer = keras.Input(shape)
    middle = keras.Model(outer, innermost(outer), name="middle")
    return keras.layers.ReLU(6.0)(conv(3)(middle(x)))


def as_wrapped(x):
    x = keras.layers.Reshape((1, 1, 1, 3))(x)
    x = keras.layers.TimeDistributed(conv(4, "relu"))(x)
    x = keras.layers.TimeDistributed(conv(3, "relu6"))(x)
    return keras.layers.Reshape((1, 1, 3))(x)


BUILDERS = [
    *(as_layers, as_arguments, as_activations, as_operations, as_functions),
    *(as_layer_arguments, as_dense, as_nested_twice, as_wrapped),
]


def by_hand(build):
    inputs = keras.Input((1, 1, 3))
    model = keras.Model(inputs, conv(1, name="last")(build(inputs)))
    model.set_weights(
        [w.reshape(v.shape) for w, v in zip((W1, W2, W3), model.weights, strict=True)]
    )
    return model


def gradient(model, x=X):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, training=False)
    return tape.gradient(y, x).numpy().ravel().tolist(), y.numpy()


@pytest.mark.parametrize("build", BUILDERS, ids=lambda f: f.__name__)
def test_every_kind_of_rectifier_follows_the_rule_worked_out_by_hand(build):
    model = by_hand(build)
    copy = gradients.guided(model)
    assert copy.n_patched == 2
    plain, y = gradient(model)
    assert plain == PLAIN
    assert y.item() == 7
    guided, same = gradient(copy.model)
    assert guided == GUIDED
    assert same.item() == 7
    assert gradient(model)[0] == PLAIN, "the original is untouched"


def test_a_nested_sequential_and_a_shared_rectifier():
    inner = keras.Sequential([keras.Input((1, 1, 3)), conv(4), keras.layers.ReLU()])
    model = keras.Sequential([keras.Input((1, 1, 3)), inner, conv(3, "relu6"), conv(1)])
    model.set_weights([w.reshape(1, 1, *w.shape) for w in (W1, W2, W3)])
    copy = gradients.guided(model)
    assert copy.n_patched == 2
    assert gradient(copy.model)[0] == GUIDED
    # One layer called twice is one rectifier, guided both times.
    inputs, shared = keras.Input((1, 1, 3)), keras.layers.ReLU(6.0)
    twice = keras.Model(inputs, conv(1)(shared(conv(3)(shared(conv(4)(inputs))))))
    twice.set_weights([w.reshape(1, 1, *w.shape) for w in (W1, W2, W3)])
    copy = gradients.guided(twice)
    assert copy.n_patched == 1
    assert gradient(copy.model)[0] == GUIDED


def test_the_threshold_and_the_ceiling_bound_where_gradient_passes():
    inputs = keras.Input((1, 1, 4))
    model = keras.Model(inputs, keras.layers.ReLU(max_value=4, threshold=1)(inputs))
    x = np.array([[[[0.5, 1.5, 3.5, 4.5]]]], np.float32)
    copy = gradients.guided(model)
    assert copy.model(x).numpy().ravel().tolist() == [0, 1.5, 3.5, 4]
    assert gradient(copy.model, x)[0] == [0, 1, 1, 0]
    assert gradient(model, x)[0] == [0, 1, 1, 0]


class Hidden(keras.layers.Layer):
    def call(self, x):
        return tf.nn.relu(x)


@pytest.mark.parametrize(
    ("activation", "words"),
    [
        ("swish", r"has .* \(silu\). Take a network of rectifiers, or others='keep'"),
        ("gelu", r"\(gelu\)"),
        ("leaky_relu", r"\(leaky_relu\)"),
        (keras.layers.PReLU(), r"\(PReLU\)"),
        (keras.layers.ReLU(negative_slope=0.1), "ReLU with a negative slope"),
    ],
)
def test_what_is_no_rectifier_is_refused_by_name_or_kept(activation, words):
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(2, 1, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1, activation=activation)(x))
    with pytest.raises(FeatlabError, match=words):
        gradients.guided(model)
    kept = gradients.guided(model, others="keep") if isinstance(activation, str) else None
    if kept:
        assert kept.n_patched == 1 and len(kept.kept) == 1


def test_a_network_without_rectifiers_or_with_hidden_ones_is_refused():
    inputs = keras.Input((4, 4, 3))
    smooth = keras.Model(inputs, keras.layers.Conv2D(2, 1, activation="tanh")(inputs))
    with pytest.raises(FeatlabError, match="has no rectifier"):
        gradients.guided(smooth)
    x = keras.layers.Conv2D(2, 1, activation="relu")(inputs)
    with pytest.raises(FeatlabError, match="inside the code of a layer"):
        gradients.guided(keras.Model(inputs, Hidden()(x)))
    with pytest.raises(FeatlabError, match="others must be one of refuse, keep, got 'skip'"):
        gradients.guided(smooth, others="skip")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n_patched"),
    [("efficientnet_lite0", 33), ("VGG16", 13), ("MobileNetV2", 35), ("ResNet50", 49)],
)
def test_known_networks_are_patched_whole_and_left_as_they_are(name, n_patched):
    backbone = load_backbone(name, weights=None, input_size=64)
    before = [array.copy() for array in backbone.network.get_weights()[:4]]
    copy = gradients.guided(backbone)
    assert copy.n_patched == n_patched
    for a, b in zip(backbone.model.get_weights(), copy.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(before, backbone.network.get_weights(), strict=False):
        np.testing.assert_array_equal(a, b)
    x = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    y, same = (np.asarray(m([x], training=False)) for m in (backbone.model, copy.model))
    np.testing.assert_allclose(same, y, rtol=1e-4, atol=1e-5 * np.abs(y).max() + 1e-30)


@pytest.mark.slow
def test_swish_networks_of_keras_are_refused():
    backbone = load_backbone("EfficientNetB0", weights=None, input_size=32)
    with pytest.raises(FeatlabError, match=r"stem_activation \(silu\).* and \d+ more"):
        gradients.guided(backbone)


def small_network(activation: str = "relu", size: int = 12):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 64, offset=-2)(inputs)
    x = keras.layers.Conv2D(6, 3, activation=activation, padding="same", name="first")(x)
    x = keras.layers.AveragePooling2D(2, name="pool")(x)
    x = keras.layers.Conv2D(5, 3, activation=activation, padding="same", name="last")(x)
    return keras.Model(inputs, x)


def headed(model, k: int = 3):
    rng = np.random.default_rng(2)
    c = model.outputs[-1].shape[-1]
    coef, intercept = rng.normal(size=(k, c)), rng.normal(size=k)
    if k == 2:
        coef, intercept = np.stack([-coef[0], coef[0]]), np.array([-intercept[0], intercept[0]])
    return gradients.attach_head(model, [f"class {i}" for i in range(k)], coef, intercept)


def pictures(n: int, size: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 246, (n, size, size, 3)).astype(np.uint8)


def test_plain_gradients_agree_with_finite_differences():
    network, pixels = headed(small_network("tanh")), pictures(2)
    head = network.head
    scores = {
        "classes": lambda p: head.logits(network.pooled(p))[[0, 1], [2, 0]],
        "channels": lambda p: network.pooled(p)[[0, 1], [4, 1]],
        "units": lambda p: network.maps(p)[[0, 1], [2, 5], [3, 0], [1, 4]],
    }
    targets = {
        "classes": ["class 2", "class 0"],
        "channels": [4, 1],
        "units": [[2, 3, 1], [5, 0, 4]],
    }
    for target, value in targets.items():
        analytic = gradients.input_gradients(network, pixels, **{target: value})
        # The pixels of the largest gradient: differences of float32 outputs lose the small ones.
        for at in np.argsort(-np.abs(analytic).reshape(2, -1), axis=1)[:, :5].T:
            place = np.unravel_index(at, analytic.shape[1:])
            up, down = pixels.copy(), pixels.copy()
            up[(np.arange(2), *place)] += 2
            down[(np.arange(2), *place)] -= 2
            numeric = (scores[target](up) - scores[target](down)) / 4
            np.testing.assert_allclose(analytic[(np.arange(2), *place)], numeric, rtol=0.01)


def test_a_neuron_is_the_mean_of_its_units_and_a_class_the_weighted_sum_of_neurons():
    network, pixels = headed(small_network()), pictures(1)
    h, w, c = 6, 6, 5
    units = np.array([[i, j, 3] for i in range(h) for j in range(w)])
    alone = gradients.input_gradients(network, np.repeat(pixels, h * w, 0), units=units)
    neuron = gradients.input_gradients(network, pixels, channels=[3])
    np.testing.assert_allclose(alone.mean(0), neuron[0], rtol=1e-4, atol=1e-7)
    neurons = gradients.input_gradients(network, np.repeat(pixels, c, 0), channels=np.arange(c))
    of_class = gradients.input_gradients(network, pixels, classes=["class 1"])
    weighted = np.tensordot(network.head.coef[1], neurons, 1)
    np.testing.assert_allclose(weighted, of_class[0], rtol=1e-4, atol=1e-7)


def test_gradient_times_input_sums_to_the_output_of_a_network_without_offsets():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", use_bias=False)(inputs)
    network = headed(keras.Model(inputs, keras.layers.Conv2D(3, 3, use_bias=False)(x)))
    pixels = pictures(3, 8)
    times = gradients.input_gradients(network, pixels, classes=["class 0"] * 3, rule="input")
    logits = network.head.logits(network.pooled(pixels))[:, 0] - network.head.intercept[0]
    np.testing.assert_allclose(times.sum(axis=(1, 2, 3)), logits, rtol=1e-3)


def test_batches_do_not_matter_and_nothing_is_traced_twice():
    network, pixels = headed(small_network()), pictures(7)
    classes = ["class 1"] * 7
    for rule in ("plain", "guided"):
        whole = gradients.input_gradients(network, pixels, classes=classes, rule=rule)
        parts = gradients.input_gradients(network, pixels, classes=classes, rule=rule, batch_size=2)
        np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-7)
        compiled = network.compiled("pooled_gradient", rule, None)
        assert compiled.experimental_get_tracing_count() == 1
    assert (gradients.input_gradients(network, pixels, classes=classes) != whole).any()


def test_the_head_gives_the_probabilities_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from featlab import heads

    rng = np.random.default_rng(0)
    network = small_network()
    for k in (2, 4):
        X, y = rng.normal(2, 3, (60, 5)), np.array(list("abcd"))[np.arange(60) % k]
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
        head = gradients.attach_head(network, model.classes_, *heads.linear_weights(model)).head
        expected = model.predict_log_proba(X)
        np.testing.assert_allclose(head.log_probabilities(X), expected, rtol=1e-4, atol=1e-4)
        assert head.predict(X).tolist() == model.predict(X).tolist()


def test_a_keras_file_of_the_user_goes_all_the_way(tmp_path):
    inner = small_network()
    outer = keras.Sequential(
        [keras.Input((12, 12, 3)), inner, keras.layers.Conv2D(4, 1, name="top"),
         keras.layers.ReLU(6.0, name="out"), keras.layers.GlobalAveragePooling2D()]
    )  # fmt: skip
    outer.save(tmp_path / "mine.keras")
    backbone = load_backbone(tmp_path / "mine.keras")
    coef = np.random.default_rng(0).normal(size=(3, 4))
    network = gradients.attach_head(backbone, list("abc"), coef, np.zeros(3))
    assert network.layer == "out"
    assert network.guided.n_patched == 3
    pixels = pictures(2)
    np.testing.assert_allclose(
        network.maps(pixels), backbone.forward(pixels)["out"], rtol=1e-5, atol=1e-6
    )
    guided = gradients.input_gradients(network, pixels, classes=["a", "c"], rule="guided")
    assert guided.shape == pixels.shape and np.isfinite(guided).all()


def test_a_nested_network_may_be_the_layer_that_the_head_stands_on():
    inner = small_network()
    model = keras.Sequential([keras.Input((12, 12, 3)), inner])
    nested, flat, pixels = headed(model), headed(inner), pictures(2)
    assert nested.layer == inner.name
    assert nested.guided.n_patched == 2
    for rule in RULES:
        nested_gradient, expected = (
            gradients.input_gradients(net, pixels, units=[[1, 2, 3], [0, 0, 1]], rule=rule)
            for net in (nested, flat)
        )
        np.testing.assert_allclose(nested_gradient, expected, rtol=1e-4, atol=1e-7)
    assert gradients.cam_heats(nested, pixels, ["class 0"] * 2)["grad_cam"].shape == (2, 6, 6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["class 9"]}, "classes must be from class 0, class 1, class 2"),
        ({"channels": [5]}, "channels must lie in 0 … 4, got 5"),
        ({"units": [[0, 6, 0]]}, r"units must be rows of \(row, column, neuron\) within"),
        ({"units": [[0, 0, 0]], "layer": "nothing"}, "layers must name layers of .*got 'nothing'"),
        ({"channels": [0], "classes": ["class 0"]}, "exactly one of classes, channels and units"),
        ({}, "got none"),
        ({"classes": ["class 0"], "rule": "magic"}, "rule must be one of plain, input, guided"),
        ({"classes": ["class 0"] * 2}, r"classes must have one entry per image \(1\), got \(2,\)"),
        ({"classes": "class 0"}, r"classes must have one entry per image \(1\), got \(\)"),
        ({"classes": ["class 0"], "layer": "first"}, "classes are scored at 'last'"),
        ({"channels": [0, 1]}, r"channels must have one entry per picture \(1\), got 2"),
        ({"channels": [0.5]}, "channels must be row numbers or a mask, got float64"),
        ({"units": [[0, 0.5, 0]]}, "units must be rows .* whole numbers, got float64"),
        ({"classes": ["class 0"], "batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_wrong_requests_are_told_in_one_sentence(options, words):
    network = headed(small_network())
    with pytest.raises(FeatlabError, match=words):
        gradients.input_gradients(network, pictures(1), **options)


def test_wrong_heads_and_pictures_are_told():
    model = small_network()
    with pytest.raises(FeatlabError, match="classes must be a list of names, .*, got 'ab'"):
        gradients.attach_head(model, "ab", np.zeros((2, 5)), np.zeros(2))
    with pytest.raises(FeatlabError, match="a head needs each class once, got a, b, a"):
        gradients.attach_head(model, ["a", "b", "a"], np.zeros((3, 5)), np.zeros(3))
    with pytest.raises(FeatlabError, match="the head has 4 weights per class"):
        gradients.attach_head(model, ["a", "b"], np.zeros((2, 4)), np.zeros(2))
    with pytest.raises(FeatlabError, match="each other's negative"):
        gradients.attach_head(model, ["a", "b"], np.ones((2, 5)), np.zeros(2))
    with pytest.raises(FeatlabError, match="at least two classes"):
        gradients.attach_head(model, ["a"], np.ones((1, 5)), np.zeros(1))
    with pytest.raises(FeatlabError, match=r"pixels must be uint8 of shape \(b, 12, 12, 3\)"):
        gradients.input_gradients(headed(model), pictures(1, 10), channels=[0])


@pytest.mark.parametrize("given", [["class 1"], ["class 1"] * 3, "class 1"])
def test_one_class_is_not_stretched_over_all_pictures(given):
    network, pixels = headed(small_network()), pictures(2)
    for ask in (
        lambda: layer_gradients(network, pixels, given),
        lambda: gradients.cam_heats(network, pixels, given),
        lambda: gradients.randomisation_check(network, pixels, given, n_stages=1),
        lambda: gradients.faithfulness(network, pixels, {}, given, n_steps=1),
    ):
        with pytest.raises(FeatlabError, match=r"classes must have one entry per image \(2\)"):
            ask()


def test_channels_may_be_a_mask_and_classes_numbers():
    network, pixels = headed(small_network()), pictures(1)
    mask = np.arange(5) == 3
    np.testing.assert_array_equal(
        gradients.input_gradients(network, pixels, channels=mask),
        gradients.input_gradients(network, pixels, channels=[3]),
    )
    rng = np.random.default_rng(0)
    numbered = gradients.attach_head(
        small_network(), [0, 1, 2], rng.normal(size=(3, 5)), np.zeros(3)
    )
    np.testing.assert_array_equal(
        gradients.input_gradients(numbered, pixels, classes=[2]),
        gradients.input_gradients(numbered, pixels, classes=["2"]),
    )


def own_network(ending: str, k: int = 3):
    """A classifier on the small network: linear in the pooled maps, or not."""
    maps = small_network("relu")
    top = keras.layers.GlobalAveragePooling2D()(maps.output)
    if ending == "deep":
        top = keras.layers.Dense(7, "relu")(keras.layers.Flatten()(maps.output))
    return keras.Model(maps.input, keras.layers.Dense(k, "softmax")(top))


@pytest.mark.parametrize(
    ("ending", "k"),
    [("deep", 3), *(pytest.param("linear", k, marks=pytest.mark.slow) for k in (2, 3))],
)
def test_the_network_s_own_logits_are_differentiated(tmp_path, ending, k):
    """Probabilities are those of Keras; the gradient is that of the logit by its own tape."""
    import tensorflow as tf

    whole = own_network(ending, k)
    whole.save(tmp_path / "mine.keras")
    backbone = load_backbone(tmp_path / "mine.keras", engine="tensorflow", layers="last")
    network, pixels = gradients.attach_own_head(backbone), pictures(3)
    assert (network.layer, network.head.own) == ("last", True)
    said = np.exp(network.head.log_probabilities(network.pooled(pixels)))
    np.testing.assert_allclose(said, whole.predict(pixels * 1.0, verbose=0), rtol=1e-4)
    asked = np.array(network.head.classes)[[1, 0, 1]]
    x = tf.constant(pixels, tf.float32)
    dense = whole.layers[-1]
    below = keras.Model(whole.input, [whole.get_layer("last").output, dense.input])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        maps, top = below(x)
        # The class's logit: the dense layer without its softmax.
        logits = tf.gather(top @ dense.kernel + dense.bias, [1, 0, 1], batch_dims=1)
    expected = tape.gradient(logits, x).numpy()
    scale = np.abs(expected).max()
    got = gradients.input_gradients(network, pixels, classes=asked)
    np.testing.assert_allclose(got, expected, atol=1e-4 * scale)
    weights = tape.gradient(logits, maps).numpy()
    heat = gradients.cam_heats(network, pixels, asked, methods=["hires_cam"])["hires_cam"]
    expected = (weights * maps.numpy()).sum(-1)
    np.testing.assert_allclose(heat, expected, atol=1e-4 * np.abs(expected).max())


def test_a_network_without_a_classifier_cannot_be_asked_for_its_own_classes(tmp_path):
    small_network().save(tmp_path / "maps.keras")
    with pytest.raises(FeatlabError, match="maps brings no classifier of its own"):
        gradients.attach_own_head(load_backbone(tmp_path / "maps.keras"))


def test_a_head_within_the_network_is_shuffled_first_and_the_network_left(tmp_path):
    own_network("deep").save(tmp_path / "mine.keras")
    network = gradients.attach_own_head(load_backbone(tmp_path / "mine.keras", layers="last"))
    before = network.model.get_weights()
    asked = [network.head.classes[2]] * 2
    table = gradients.randomisation_check(network, pictures(2), asked, rules=["plain"], n_stages=3)
    for a, b in zip(before, network.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # Three layers below the head: another dense one and the two convolutions.
    layers = table.drop_duplicates("stage")["layers"].tolist()
    assert layers == [0, 0, 1, 2, 3] and table["down_to"].iloc[2] == "head"
    assert (table.loc[table["stage"] == 1, "spearman"] < 0.999).all()


def test_dam_asks_for_the_class_that_is_named():
    network, pixels = headed(small_network()), pictures(2)
    names = ["class 2", "class 0"]
    steps = gradients.DamParameters(morphology=(("dilation", 1),))
    boxes = gradients.dam_boxes(network, pixels, classes=names, parameters=steps)
    for picture, name, box in zip(pixels, names, boxes, strict=True):
        trace = gradients.dam_trace(network, picture, label=name, parameters=steps)
        assert trace.label == name
        np.testing.assert_array_equal(trace.box, box)
        maps = network.maps(picture[None])[0]
        rows = tuple(trace.units.T)
        weight = network.head.coef[network.head.codes([name], 1)[0]]
        expected = (maps * weight / maps[..., 0].size)[rows]
        np.testing.assert_allclose(trace.scores, expected, rtol=1e-4)
    with pytest.raises(FeatlabError, match="classes must be from class 0, class 1, class 2"):
        gradients.dam_boxes(network, pixels, classes=["class 9"] * 2)
