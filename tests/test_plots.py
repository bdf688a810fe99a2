"""Figures: labelled, with n, legible for 2 and 37 classes, without global state."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fake_results import (
    HOSTILE,
    make_heads,
    make_localisation,
    make_neurons,
    make_picture,
    make_split,
    make_store,
)
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from featlab import plots
from featlab.errors import FeatlabError
from featlab.plots import style
from featlab.plots.curves import threshold_curves
from featlab.plots.neurons import _box
from featlab.plots.style import (
    encode,
    fitted_name,
    glowing,
    heat_colours,
    short_name,
    short_names,
    text_width,
)

MANY = HOSTILE + [f"breed_{i:02}" for i in range(30)]


@pytest.fixture(scope="module", params=[["kangaroo", "raccoon"], MANY], ids=["2", "37"])
def world(request):
    n = 80 if len(request.param) == 2 else 370
    store = make_store(request.param, n, 40, boxes=True)
    split = make_split(n, len(request.param))
    return store, split, make_neurons(store, split), make_heads(store, split)


def labelled(ax: Axes) -> bool:
    return bool(ax.get_xlabel() and ax.get_ylabel() and "n = " in ax.get_title(loc="left"))


def test_charts_return_labelled_axes_with_n(world):
    store, split, neurons, heads = world
    for ax in (
        plots.data.class_balance(store.images, split),
        plots.score_intervals(heads.table, "accuracy"),
        plots.confusion_matrix(heads.confusion("logistic")),
        plots.volcano(neurons),
        plots.neurons.selected_vs_confirmed(neurons),
        plots.score_intervals(make_localisation(store, split).table, "box_accuracy"),
    ):
        assert isinstance(ax, Axes)
        assert labelled(ax)
    assert plt.get_fignums() == []


def test_given_axes_are_drawn_on(world):
    _, _, neurons, heads = world
    ax = Figure().add_subplot()
    assert plots.volcano(neurons, ax) is ax
    ax = Figure().add_subplot()
    assert plots.score_intervals(heads.table, "accuracy", ax) is ax


def test_hostile_names_are_drawn_without_a_warning(world, recwarn):
    store, split, _, _ = world
    assert encode(plots.data.class_balance(store.images, split)).startswith(b"<?xml")
    assert not [w for w in recwarn if "Glyph" in str(w.message) or "math" in str(w.message)]


def test_the_same_drawing_gives_the_same_bytes(world):
    _, _, _, heads = world
    first, second = (encode(plots.score_intervals(heads.table, "accuracy")) for _ in range(2))
    assert first == second


def test_confusions_are_annotated_up_to_twelve_classes():
    def texts(k):
        names = [f"c{i}" for i in range(k)]
        table = pd.DataFrame(np.eye(k, dtype=int) * 7, index=names, columns=names)
        return [text.get_text() for text in plots.confusion_matrix(table).texts]

    assert texts(12).count("7") == 12
    assert texts(13) == []


def test_volcano_draws_p_of_zero_above_every_other_point():
    table = pd.DataFrame(
        {
            "class": "a",
            "auroc": [0.99, 0.9, 0.5, np.nan],
            "p_adjusted": [0.0, 1e-30, 1.0, np.nan],
            "detector": [True, True, False, False],
            "direction": "active",
        }
    )
    ax = plots.volcano(table)
    heights = np.concatenate([c.get_offsets()[:, 1] for c in ax.collections])
    assert np.isfinite(heights).all()
    assert heights.max() > 30
    assert sorted(heights)[:2] == [0, 30]
    assert "dead" in ax.get_title(loc="left")
    ticks = dict(zip([t.get_text() for t in ax.get_yticklabels()], ax.get_yticks(), strict=True))
    assert ticks.pop("p < 1e-300") == heights.max()
    assert max(ticks.values()) <= 30  # no number stands where the scale has ended


def test_volcano_draws_the_cut_offs():
    store = make_store(["a", "b"], 60, 10, boxes=False)
    table = make_neurons(store, make_split(60))
    lines = plots.volcano(table, alpha=0.05, min_auroc=0.7).lines
    assert any(np.allclose(line.get_ydata(), -np.log10(0.05)) for line in lines)
    assert any(np.allclose(line.get_xdata(), 0.7) for line in lines)


def test_baselines_are_hollow_and_named():
    store = make_store(["a", "b"], 60, 10, boxes=False)
    split = make_split(60)
    for ax in (
        plots.score_intervals(make_heads(store, split).table, "accuracy"),
        plots.score_intervals(make_localisation(store, split).table, "box_accuracy"),
    ):
        assert "baseline" in [text.get_text() for text in ax.get_legend().get_texts()]
        faces = {line.get_markerfacecolor() for line in ax.lines if line.get_marker() == "o"}
        assert "white" in faces and len(faces) == 2


def test_distributions_show_the_first_detectors_of_each_class(world):
    store, split, neurons, _ = world
    detectors = neurons[neurons["detector"]]
    rows = (split == "confirm").to_numpy()
    labels = store.images["label"].to_numpy(str)[rows]
    figure = plots.neurons.activation_distributions(
        store.activations[rows], labels, detectors, most=1
    )
    assert isinstance(figure, Figure)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    best = detectors.sort_values("rank").iloc[0]
    assert len(titles) == min(6, detectors["class"].nunique())
    assert any(title.startswith("neuron ") for title in titles)
    assert all("activation" in ax.get_xlabel() for ax in figure.axes)
    assert best["rank"] == detectors["rank"].min()


def test_distributions_without_detectors_say_so():
    empty = pd.DataFrame({"class": [], "neuron": [], "rank": [], "auroc": []})
    with pytest.raises(FeatlabError, match="no detectors"):
        plots.neurons.activation_distributions(np.zeros((3, 2)), ["a", "b", "a"], empty)


def test_picture_grids_survive_missing_pictures_and_boxes():
    pictures = [make_picture(0), None, make_picture(2)]
    heats = [np.random.default_rng(i).random((2, 7, 7)) for i in range(3)]
    boxes = [np.zeros((0, 4)), np.array([[1.0, 2, 3, 4]]), np.array([[40.0, 30, 80, 60]])]
    labels = ["a", "b", "c"]
    grids = [
        plots.sample_pictures(pictures, labels, boxes),
        plots.detector_maps(
            pictures, heats, ["x", "y"], labels=labels, predicted_labels=["a", "a", None]
        ),
        plots.localisation_examples(
            pictures, [h[:1] for h in heats], boxes, [None, None, boxes[2][0]], [0.0, 0.2, 0.9]
        ),
    ]
    for figure in grids:
        assert isinstance(figure, Figure)
        assert encode(figure, "png").startswith(b"\x89PNG")
    assert plt.get_fignums() == []


def test_scores_of_no_image_are_an_empty_figure():
    scores = ["box_accuracy", "box_accuracy_low", "box_accuracy_high"]
    empty = pd.DataFrame(columns=["method", "n", *scores, "baseline"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = plots.score_intervals(empty, "box_accuracy")
    assert ax.get_title(loc="left") == "n = 0 test images"


def test_right_and_wrong_are_marked():
    figure = plots.detector_maps(
        [make_picture(0)] * 2,
        [np.ones((1, 3, 3))] * 2,
        ["neuron 1"],
        labels=["cat", "cat"],
        predicted_labels=["cat", "dog"],
    )
    right, wrong = (figure.axes[i].get_ylabel() for i in (0, 2))
    assert right.startswith("✓")
    assert wrong.startswith("✗") and "dog" in wrong
    (unit,) = figure.texts  # which is wider than the one column
    assert unit.get_window_extent().x1 <= figure.bbox.x1


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(FeatlabError, match="captions has 1 entries for 2 pictures"):
        plots.sample_pictures([None, None], ["a"])
    with pytest.raises(FeatlabError, match="pictures is empty"):
        plots.sample_pictures([], [])


def test_methods_without_a_threshold_have_no_curve_and_no_legend():
    curve = pd.DataFrame({"method": "cam", "delta": 0.5, "threshold": [0.2, 0.4], "accuracy": 0.6})
    none = curve.assign(method="whole_image", threshold=np.nan)
    titles = {"cam": "CAM", "whole_image": "(the whole picture)", "gone": "not scored"}
    ax = threshold_curves(pd.concat([curve, none]), titles, {"cam": 0.4}, n=12)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["CAM"]
    assert ax.get_title(loc="left").startswith("n = 12 test images")


@pytest.mark.parametrize("name", ["WWWWWWWWWWWWWWWWWWWWWW", "a $b$ c", "i" * 40, "ü", "x" * 300])
def test_a_fitted_name_takes_no_more_room_than_it_may(name):
    figure = Figure()
    shown = fitted_name(name, 1.0, 9)
    width = figure.text(0, 0, shown, fontsize=9).get_window_extent().width / figure.dpi
    assert text_width(shown, 9) <= 1.0
    # On the screen letters are rounded to whole pixels.
    assert width == pytest.approx(text_width(shown, 9), rel=0.16, abs=0.03)
    if name == "ü":
        assert shown == "ü"


def test_a_name_that_was_shortened_before_stays_as_it_is():
    assert short_name(short_name("a $b$ c")) == short_name("a $b$ c")


def test_boxes_of_activations_are_the_quartiles():
    ax = Figure().add_subplot()
    _box(ax, np.array([0.0, 1, 2, 3, 4, 20]), 0)
    low, _, high = np.percentile([0, 1, 2, 3, 4, 20], [25, 50, 75])
    patch = ax.patches[0]
    assert (patch.get_x(), patch.get_x() + patch.get_width()) == pytest.approx((low, high))
    ends = np.concatenate([np.array(c.get_segments())[:, :, 0].ravel() for c in ax.collections])
    assert (ends.min(), ends.max()) == (0, 4)  # 20 lies outside the whiskers


def test_short_names_fit_and_stay_apart():
    shown = short_names([*HOSTILE, "n" * 299 + "m", "n" * 301], 20)
    assert max(map(len, shown)) <= 20 + len(r"\$\$\$\$ (9)")
    assert len(set(shown)) == len(shown)
    assert "class 5" in shown
    assert not any(name.startswith("_") for name in shown)


def test_signed_maps_have_two_colours_that_meet_in_the_dark():
    colours = heat_colours(signed=True)([0.0, 0.5, 1.0])[:, :3]
    assert colours[1].max() < 0.05
    levels = np.array([np.linspace(0, 0.45, 9), np.linspace(0.6, 1, 9)])
    below, above = heat_colours(signed=True)(levels)
    assert (below[:, 2] > below[:, 0]).all() and (above[3:, 0] > above[3:, 2]).all()
    script = (Path(style.__file__).parents[1] / "templates" / "portraits.js").read_text("utf-8")
    listed = re.findall(r"\[(\d+), (\d+), (\d+)\]", script)
    assert [to_hex(np.array(one, float) / 255) for one in listed] == list(style.COLD)
    picture = np.full((2, 3, 3), 100, np.uint8)
    heat = np.array([[-2.0, 0, 2], [-2, 0, 2]])
    below, nothing, above = glowing(picture, heat / 2, 2.0, signed=True)[0].astype(int)
    assert below[2] > below[0] + 30 and above[0] > above[2] + 30
    assert (nothing < 100).all() and (nothing < np.minimum(below, above).max()).all()
    # Of maps from 0 nothing is below.
    np.testing.assert_array_equal(glowing(picture, heat, 2.0)[0, 0], nothing)
    figure = plots.detector_maps(
        [picture], [heat[None] / 4], ["neuron 1"], labels=["a"], signed=True
    )
    words = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert words == ["−0.5", "mean", "0.5"]


def test_boxes_by_regression_have_a_line_and_a_stroke_of_their_own():
    picture, box = make_picture(0), np.array([5.0, 5, 30, 30])
    one = ([picture], [np.eye(7)], [box[None]], [box + 3], [0.7])
    figure = plots.localisation_examples(
        *one, labels=["a"], regressed_boxes=[box + 40], regressed_ious=[0.0]
    )
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["✓ a, IoU 0.70", "✗ by regression 0.00"]
    strokes = [patch.get_linestyle() for patch in figure.axes[0].patches]
    assert strokes[:2] == ["-", "-"] and strokes[2] != "-"
    plain = plots.localisation_examples(*one, labels=["a"])
    assert len(plain.axes[0].patches) == 2
