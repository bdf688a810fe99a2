"""Grad-CAM family, DAM, randomisation and faithfulness: equalities and planted truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from featlab import FeatlabError, gradients
from featlab.boxes import geometry as bx
from featlab.gradients import DamParameters
from featlab.gradients._backward import layer_gradients
from featlab.gradients.dam import (
    DAM_PRESETS,
    enclosing_box,
    masked_losses,
    percentile_mask,
    top_units,
)
from featlab.localise.heat import cam_heat

keras = pytest.importorskip("keras")

SIZE = 56


def network(k: int = 3, size: int = 16, seed: int = 1):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 64, offset=-2)(inputs)
    x = keras.layers.Conv2D(6, 3, activation="relu", padding="same", name="first")(x)
    x = keras.layers.MaxPooling2D(4, name="pool")(x)
    x = keras.layers.Conv2D(5, 3, padding="same", name="second")(x)
    x = keras.layers.ReLU(6.0, name="last")(x)
    rng = np.random.default_rng(seed)
    classes = [f"class {i}" for i in range(k)]
    return gradients.attach_head(
        keras.Model(inputs, x), classes, rng.normal(size=(k, 5)), rng.normal(size=k)
    )


def noise(n: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3)).astype(np.uint8)


def sees_red(size: int = SIZE, cells: int = 7):
    """A network whose first class's evidence is red and second's blue, with its pictures."""
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128)(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", use_bias=False)(x)
    x = keras.layers.AveragePooling2D(size // cells, name="cells")(x)
    model = keras.Model(inputs, keras.layers.ReLU(name="last")(x))
    kernel = np.zeros((3, 3, 3, 4), np.float32)
    kernel[:, :, 0, :2], kernel[:, :, 2, 2:] = 1 / 9, 1 / 9
    model.set_weights([kernel])
    coef = np.array([[20.0, 15.0, -20.0, -15.0]])
    return gradients.attach_head(model, ["red", "blue"], np.vstack([coef, -coef]), np.zeros(2))


# The toy's gradients are flat, so the percentile cannot choose among them.
PLANTED = dataclasses.replace(
    DAM_PRESETS["original"], one_per_filter=False, percentile=0.0, n_units=24, n_kept=24
)


def patches(size: int = SIZE) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """Grey pictures with a red rectangle, and the rectangles."""
    rectangles = [(8, 8, 32, 40), (24, 16, 56, 40), (16, 32, 40, 56)]
    pixels = np.full((len(rectangles), size, size, 3), 127, np.uint8)
    for picture, (xmin, ymin, xmax, ymax) in zip(pixels, rectangles, strict=True):
        picture[ymin:ymax, xmin:xmax, 0] = 240
    return pixels, rectangles


def test_on_the_maps_of_a_linear_head_the_family_is_cam_up_to_scale():
    net, pixels = network(), noise(4)
    classes = ["class 0", "class 1", "class 2", "class 1"]
    heats = gradients.cam_heats(net, pixels, classes, batch_size=3)
    cam = cam_heat(net.maps(pixels), net.head.coef[net.head.codes(classes, len(pixels))])
    assert (cam < 0).any() and (cam > 0).any()
    cells = cam[0].size
    np.testing.assert_allclose(heats["hires_cam"], cam / cells, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(heats["grad_cam"], np.maximum(cam, 0) / cells, rtol=1e-4, atol=1e-7)
    positive = np.maximum(net.head.coef[net.head.codes(classes, len(pixels))], 0)
    np.testing.assert_allclose(
        heats["layer_cam"], cam_heat(net.maps(pixels), positive) / cells, rtol=1e-4, atol=1e-7
    )


def test_an_earlier_layer_follows_the_formulas_of_the_papers():
    net, pixels = network(), noise(2)
    maps, gradient = layer_gradients(net, pixels, ["class 2", "class 0"], layer="first")
    assert maps.shape == gradient.shape == (2, 16, 16, 6)
    heats = gradients.cam_heats(net, pixels, ["class 2", "class 0"], layer="first")
    for i in range(2):
        by_hand = {name: np.zeros((16, 16)) for name in heats}
        for c in range(6):
            a, g = maps[i, ..., c].astype(float), gradient[i, ..., c].astype(float)
            below = 2 * g**2 + a.sum() * g**3
            alpha = np.where(below != 0, g**2 / np.where(below != 0, below, 1), 0)
            by_hand["grad_cam"] += g.mean() * a
            by_hand["grad_cam_plus_plus"] += (alpha * np.maximum(g, 0)).sum() * a
            by_hand["hires_cam"] += g * a
            by_hand["layer_cam"] += np.maximum(g, 0) * a
        for name, heat in by_hand.items():
            expected = heat if name == "hires_cam" else np.maximum(heat, 0)
            scale = np.abs(expected).max()
            assert scale > 0
            np.testing.assert_allclose(heats[name][i] / scale, expected / scale, atol=2e-3)


def test_the_gradient_at_a_layer_is_that_of_the_logit():
    """Activation times gradient over an earlier layer sums to the input's, by the chain rule."""
    net, pixels = network(), noise(1)
    maps, gradient = layer_gradients(net, pixels, ["class 1"], layer="pool")
    kernel, bias = net.model.get_layer("second").get_weights()
    step = 1e-2
    at = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)

    def logit(values):
        x = keras.ops.conv(values, kernel, padding="same") + bias
        pooled = np.clip(np.asarray(x), 0, 6).mean(axis=(1, 2))
        return net.head.logits(pooled)[0, 1]

    up, down = maps.copy(), maps.copy()
    up[at] += step
    down[at] -= step
    np.testing.assert_allclose(gradient[at], (logit(up) - logit(down)) / (2 * step), rtol=0.02)


def test_layers_beyond_the_head_and_unknown_methods_are_told():
    net, pixels = network(), noise(1)
    with pytest.raises(FeatlabError, match="methods must be from grad_cam.*got 'cam'"):
        gradients.cam_heats(net, pixels, ["class 0"], methods=["cam"])
    with pytest.raises(FeatlabError, match="layers must name layers of"):
        gradients.cam_heats(net, pixels, ["class 0"], layer="nothing")
    with pytest.raises(FeatlabError, match="rules must be from plain, input, guided, got 'magic'"):
        gradients.randomisation_check(net, pixels, ["class 0"], rules=["plain", "magic"])
    with pytest.raises(FeatlabError, match="n_stages must be at least 1, got 0"):
        gradients.randomisation_check(net, pixels, ["class 0"], n_stages=0)
    with pytest.raises(FeatlabError, match="batch_size must be at least 1"):
        gradients.cam_heats(net, pixels, ["class 0"], batch_size=0)


def test_a_single_method_or_rule_may_be_named():
    net, pixels = network(), noise(1)
    assert list(gradients.cam_heats(net, pixels, ["class 0"], methods="grad_cam")) == ["grad_cam"]
    with pytest.raises(FeatlabError, match="methods must be from grad_cam.*got 'sum'"):
        gradients.cam_heats(net, pixels, ["class 0"], methods="sum")
    table = gradients.randomisation_check(net, pixels, ["class 0"], rules="plain", n_stages=1)
    assert set(table["rule"]) == {"plain"}


def test_top_units_by_brute_force():
    scores = np.random.default_rng(0).normal(size=(4, 5, 7))
    free = top_units(scores, 6, one_per_filter=False)
    assert scores[tuple(free.T)].tolist() == sorted(scores.ravel(), reverse=True)[:6]
    single = top_units(scores, 5, one_per_filter=True)
    assert len(set(single[:, 2])) == 5
    best = np.sort(scores.max(axis=(0, 1)))[::-1][:5]
    assert scores[tuple(single.T)].tolist() == best.tolist()
    assert len(top_units(scores, 10, one_per_filter=True)) == 7


def test_masks_cut_at_the_percentile_of_what_they_say():
    gradient = np.arange(-50, 50, dtype=float).reshape(10, 10)
    bare = dataclasses.replace(DAM_PRESETS["original"], morphology=())
    assert percentile_mask(gradient, bare).sum() == 10  # a fifth of 1 … 49
    of_all = dataclasses.replace(DAM_PRESETS["variant"], morphology=())
    assert percentile_mask(gradient, of_all).sum() == 80
    assert not percentile_mask(-np.abs(gradient), bare).any()


def test_morphology_grows_with_the_side_of_the_input():
    grown = {}
    for side in (112, 224, 448):
        gradient = np.zeros((side, side))
        gradient[side // 2 - 2 : side // 2 + 2, side // 2 - 2 : side // 2 + 2] = [1, 2, 3, 4]
        parameters = dataclasses.replace(DAM_PRESETS["original"], percentile=0.0)
        box = enclosing_box(percentile_mask(gradient, parameters)) * side
        grown[side] = box[2] - box[0]
    # Dilated by 20 and eroded by 15 pixels on either side, at 224; the opening rounds the corners.
    assert grown[224] == pytest.approx(3 + 10, abs=1)
    assert grown[448] == pytest.approx(3 + 20, abs=1)
    assert grown[112] == pytest.approx(3 + 4, abs=1)  # 10 and 8 times: 7.5 is rounded to even


def test_the_box_encloses_all_regions_in_unit_coordinates():
    mask = np.zeros((10, 20), bool)
    mask[2, 4] = mask[5, 15] = True
    assert enclosing_box(mask).tolist() == [4 / 20, 2 / 10, 16 / 20, 6 / 10]
    assert enclosing_box(np.zeros((3, 3), bool)).tolist() == [0, 0, 0, 0]


def test_masked_losses_are_the_cross_entropy_of_what_is_left():
    net = sees_red()
    pixels, rectangles = patches()
    masks = np.zeros((3, SIZE, SIZE), bool)
    xmin, ymin, xmax, ymax = rectangles[0]
    masks[0, ymin:ymax, xmin:xmax] = True
    masks[1, :4, :4] = True
    losses = masked_losses(net, pixels[0], masks, "red")
    assert losses[0] < 0.2 < losses[1] and losses[2] == np.inf
    assert losses[1] == pytest.approx(np.log(2), abs=1e-3), "grey says nothing of two classes"
    other = masked_losses(net, pixels[0], masks, "blue")
    np.testing.assert_allclose(np.exp(-losses[:2]) + np.exp(-other[:2]), 1, rtol=1e-5)


def test_dam_finds_the_planted_patch_and_keeps_every_intermediate():
    net = sees_red()
    pixels, rectangles = patches()
    parameters = dataclasses.replace(PLANTED, n_units=12, n_kept=5)
    for picture, rectangle in zip(pixels, rectangles, strict=True):
        trace = gradients.dam_trace(net, picture, parameters=parameters)
        assert trace.label == "red"
        assert trace.units.shape == (12, 3) and (trace.units[:, 2] < 2).all()
        assert (np.diff(trace.scores) <= 0).all()
        assert trace.gradients.shape == trace.masks.shape == (12, SIZE, SIZE)
        assert trace.kept.sum() == 5
        assert trace.losses[trace.kept].max() <= trace.losses[~trace.kept].min()
        assert (trace.union == trace.masks[trace.kept].any(axis=0)).all()
        centre = (trace.box[:2] + trace.box[2:]) / 2
        assert (np.array(rectangle[:2]) <= centre).all() and (centre <= rectangle[2:]).all()
    boxes = gradients.dam_boxes(net, pixels, parameters=PLANTED)
    assert bx.iou(boxes, np.array(rectangles)).min() > 0.7


def test_boxes_are_brought_to_the_original_pictures():
    net = sees_red()
    pixels, _ = patches()
    plain = gradients.dam_boxes(net, pixels, parameters=PLANTED)
    assert (plain[:, 2:] > plain[:, :2]).all()
    frames, sizes = np.tile([0, 0.125, 1, 0.875], (3, 1)), np.tile([400, 300], (3, 1))
    framed = gradients.dam_boxes(net, pixels, parameters=PLANTED, frames=frames, sizes=sizes)
    expected = bx.frame_to_picture(plain / SIZE, frames, sizes)
    np.testing.assert_allclose(framed, expected)
    with pytest.raises(FeatlabError, match=r"frames must have shape \(3, 4\)"):
        gradients.dam_boxes(net, pixels, frames=frames[:2])


def test_units_at_the_ceiling_still_answer():
    """The gradient of a saturated unit is zero; DAM asks before the rectifier."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 1, name="before", use_bias=False)(inputs)
    model = keras.Model(inputs, keras.layers.ReLU(6.0, name="last")(x))
    model.set_weights([np.ones((1, 1, 3, 2), np.float32)])
    coef = np.array([[1.0, 1.0], [-1.0, -1.0]])
    net = gradients.attach_head(model, ["a", "b"], coef, np.zeros(2))
    pixels = np.full((1, 8, 8, 3), 100, np.uint8)
    units = np.array([[3, 4, 0]])
    assert not gradients.input_gradients(net, pixels, units=units, rule="guided").any()
    trace = gradients.dam_trace(net, pixels[0])
    assert (trace.gradients.max(axis=(1, 2)) > 0).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"over_rgb": "sum"}, "over_rgb must be one of mean, max, got 'sum'"),
        ({"morphology": (("closing", 1),)}, "morphology must be one of opening, dilation, erosion"),
        ({"morphology": (("erosion", 0),)}, "step of morphology must be at least 1, got 0"),
        ({"percentile": float("nan")}, "percentile must be from 0 to 100, got nan"),
        ({"n_units": 0}, "n_units must be at least 1, got 0"),
        ({"n_kept": 0}, "n_kept must be at least 1, got 0"),
    ],
)
def test_wrong_parameters_of_dam_are_told(options, words):
    with pytest.raises(FeatlabError, match=words):
        DamParameters(**options)
    with pytest.raises(FeatlabError, match="one of original, variant or DamParameters"):
        gradients.dam_trace(sees_red(), patches()[0][0], parameters="paper")


def test_randomisation_changes_what_depends_on_weights_and_leaves_the_network():
    net, pixels = network(), noise(3)
    before = [array.copy() for array in net.model.get_weights()]
    rules = ("plain", "guided", "input")
    table = gradients.randomisation_check(
        net, pixels, ["class 0", "class 1", "class 2"], rules=rules, n_stages=4
    )
    for a, b in zip(before, net.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(table) == 3 * len(rules) * 4  # trained, head, two layers with weights
    first = table[table["stage"] == 0]
    np.testing.assert_allclose(first[["spearman", "spearman_absolute"]], 1)
    last = table[table["stage"] == 3]
    assert last["layers"].unique().tolist() == [2]
    assert last["down_to"].unique().tolist() == ["first"]
    assert last.groupby("rule")["spearman"].mean().abs().max() < 0.9
    again = gradients.randomisation_check(
        net, pixels, ["class 0", "class 1", "class 2"], rules=rules, n_stages=4
    )
    pd.testing.assert_frame_equal(table, again)


def test_the_rank_correlation_is_that_of_scipy():
    net, pixels = network(), noise(1)
    table = gradients.randomisation_check(net, pixels, ["class 0"], rules=["plain"], n_stages=1)
    plain = gradients.input_gradients(net, pixels, classes=["class 0"])[0]
    order = np.random.default_rng(0).permutation(5)
    # Stage 1 shuffles the head alone; the same with a shuffled head.
    head = net.head
    other = gradients.attach_head(net.model, head.classes, head.coef[:, order], head.intercept)
    shuffled = gradients.input_gradients(other, pixels, classes=["class 0"])[0]
    expected = stats.spearmanr(plain.mean(-1).ravel(), shuffled.mean(-1).ravel()).statistic
    shuffled_head = table.loc[table["stage"] == 1, "spearman"].item()
    assert shuffled_head == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_real_guided_maps_do_not_know_the_head_and_plain_ones_do(shared_data):
    """The finding of Adebayo et al. (2018), on photos and the built-in network."""
    from PIL import Image

    from featlab.backbones import load_backbone

    files = sorted((shared_data / "kangaroo_raccoon").glob("*/*.jpg"))[::90]
    pixels = np.stack([np.asarray(Image.open(f).convert("RGB").resize((224, 224))) for f in files])
    backbone = load_backbone("efficientnet_lite0")
    coef = np.random.default_rng(0).normal(size=(1, 1280))
    net = gradients.attach_head(backbone, ["a", "b"], np.vstack([-coef, coef]), np.zeros(2))
    assert net.guided.n_patched == 33
    table = gradients.randomisation_check(net, pixels, ["a"] * len(files), n_stages=1)
    head = table[table["stage"] == 1].groupby("rule")["spearman"].mean()
    assert head["guided"] > 0.9 and abs(head["plain"]) < 0.3


def test_faithfulness_knows_the_planted_evidence():
    net = sees_red()
    pixels, rectangles = patches()
    truth = np.zeros((3, SIZE, SIZE))
    for heat, (xmin, ymin, xmax, ymax) in zip(truth, rectangles, strict=True):
        heat[ymin:ymax, xmin:xmax] = 1
    table, curves = gradients.faithfulness(
        net, pixels, {"truth": truth, "opposite": 1 - truth}, n_steps=8
    )
    scores = table.set_index("method")
    assert scores.index.tolist() == ["truth", "opposite", "random", "centre_gaussian"]
    assert scores["baseline"].tolist() == [False, False, True, True]
    assert scores.loc["truth", "deletion"] < scores.loc["random", "deletion"]
    assert scores.loc["random", "deletion"] < scores.loc["opposite", "deletion"]
    assert scores.loc["truth", "insertion"] >= scores.loc["random", "insertion"]
    assert scores.loc["truth", "average_drop"] == pytest.approx(0, abs=1e-3)
    assert scores.loc["opposite", "average_drop"] > 0.4
    low, high = scores["deletion_low"], scores["deletion_high"]
    assert ((low <= scores["deletion"]) & (scores["deletion"] <= high)).all()
    path = curves[(curves["method"] == "truth") & (curves["curve"] == "deletion")]
    full = np.exp(net.head.log_probabilities(net.pooled(pixels)))[:, 0].mean()
    assert path["probability"].iloc[0] == pytest.approx(full, rel=1e-5)
    assert path["probability"].iloc[-1] == pytest.approx(0.5, abs=1e-3)  # grey
    areas = np.trapezoid(path["probability"], path["share"])
    assert scores.loc["truth", "deletion"] == pytest.approx(areas)


def test_wrong_heat_maps_are_told():
    net, (pixels, _) = sees_red(), patches()
    with pytest.raises(FeatlabError, match=r"heats\['x'\] must be finite and of shape \(3, h, w\)"):
        gradients.faithfulness(net, pixels, {"x": np.zeros((2, 7, 7))})
    with pytest.raises(FeatlabError, match="n_steps must be at least 1"):
        gradients.faithfulness(net, pixels, {}, n_steps=0)
    with pytest.raises(FeatlabError, match="named like a baseline, got 'random'"):
        gradients.faithfulness(net, pixels, {"random": np.zeros((3, 7, 7))})
    with pytest.raises(FeatlabError, match=r"groups must have one entry per image \(3\)"):
        gradients.faithfulness(net, pixels, {}, groups=["a", "b"])


def test_pictures_without_a_group_are_resampled_on_their_own():
    net, (pixels, _) = sees_red(), patches()
    bare, missing = (
        gradients.faithfulness(net, pixels, {}, n_steps=2, groups=groups)[0]
        for groups in (["", "", ""], [None, np.nan, ""])
    )
    pd.testing.assert_frame_equal(bare, missing)


def test_a_probability_of_zero_has_nothing_to_lose():
    net, (pixels, _) = sees_red(), patches()
    sure = gradients.attach_head(net.model, ["red", "blue"], 1e3 * net.head.coef, np.zeros(2))
    table, _ = gradients.faithfulness(sure, pixels, {}, ["blue"] * 3, n_steps=2)
    assert table["average_drop"].eq(0).all()
