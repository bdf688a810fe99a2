"""Boxes corrected by what train boxes teach: planted errors are undone, and nothing leaks."""

from __future__ import annotations

import weakref

import numpy as np
import pandas as pd
import pytest

from featlab import FeatlabError, localise
from featlab.arguments import stratified_rows
from featlab.boxes import geometry as bx
from featlab.localise import LocalisationOptions, evaluation, fitting, matching
from featlab.localise.matching import corrected_boxes, fit_correction
from featlab.localise.regions import THRESHOLDS
from featlab.localise.scores import score_method
from featlab.results.localisation import BoxCorrection, Localisation

T = len(THRESHOLDS)


def planted_boxes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True boxes, found ones (the upper half, a tenth too wide) at all thresholds, and sizes."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(100, 400, (n, 2)).astype(float)
    low, side = rng.uniform(0.05, 0.4, (n, 2)), rng.uniform(0.2, 0.5, (n, 2))
    truth = np.concatenate([low, low + side], axis=1)
    found = truth.copy()
    found[:, 3] -= side[:, 1] / 2
    found[:, 0] -= side[:, 0] * 0.05
    found[:, 2] += side[:, 0] * 0.05
    # The box shrinks towards its centre as the threshold rises.
    centre = np.tile((found[:, :2] + found[:, 2:]) / 2, 2)[:, None]
    shrink = 1 - np.abs(np.arange(T) - 30)[None, :, None] / 400
    several = centre + (found[:, None] - centre) * shrink
    scale = np.tile(sizes, 2)
    return truth * scale, several * scale[:, None], sizes


def overlaps(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return bx.iou(boxes, truth[:, None])


@pytest.fixture(scope="module")
def correction() -> BoxCorrection:
    truth, boxes, sizes = planted_boxes(80, seed=0)
    return fit_correction(boxes, overlaps(boxes, truth), truth, np.arange(80), sizes)


def test_a_planted_error_is_undone_on_other_images(correction):
    truth, boxes, sizes = planted_boxes(50, seed=1)
    column = int(np.searchsorted(THRESHOLDS, correction.threshold))
    before = bx.iou(boxes[:, column], truth)
    after = bx.iou(corrected_boxes(correction, boxes, sizes), truth)
    assert before.max() < 0.6
    assert after.min() > 0.9


def test_units_of_the_pictures_do_not_matter(correction):
    _, boxes, sizes = planted_boxes(20, seed=2)
    once = corrected_boxes(correction, boxes, sizes)
    assert corrected_boxes(correction, boxes * 3, sizes * 3) == pytest.approx(once * 3)


def test_right_boxes_stay_as_they_are():
    truth, _, sizes = planted_boxes(60, seed=0)
    right = np.repeat(truth[:, None], T, axis=1)
    learnt = fit_correction(right, np.ones((60, T)), truth, np.arange(60), sizes)
    assert corrected_boxes(learnt, right, sizes) == pytest.approx(truth, abs=1e-6)


def test_empty_boxes_stay_empty_and_others_inside_the_picture(correction):
    _, boxes, sizes = planted_boxes(30, seed=3)
    boxes[0] = 0
    boxes[1] = [0, 0, *sizes[1]]
    result = corrected_boxes(correction, boxes, sizes)
    assert not result[0].any()
    assert (result >= 0).all()
    assert (result[:, 2:] <= sizes + 1e-9).all()
    assert (result[1:, 2:] > result[1:, :2]).all()


def test_with_several_objects_the_one_that_was_found_is_the_target():
    truth, boxes, sizes = planted_boxes(60, seed=0)
    # A large second object far away in every picture, listed first or last.
    other = np.concatenate([sizes * 0.93, sizes], axis=1)
    both = np.concatenate([other[:30], truth, other[30:]])
    owner = np.concatenate([np.arange(30), np.arange(60), np.arange(30, 60)])
    iou = overlaps(boxes, truth)
    alone = fit_correction(boxes, iou, truth, np.arange(60), sizes)
    among = fit_correction(boxes, iou, both, owner, sizes)
    assert corrected_boxes(among, boxes, sizes) == pytest.approx(
        corrected_boxes(alone, boxes, sizes)
    )


def test_from_few_or_missed_objects_nothing_is_learnt():
    truth, boxes, sizes = planted_boxes(60, seed=0)
    iou = overlaps(boxes, truth)
    few = fit_correction(boxes[:19], iou[:19], truth[:19], np.arange(19), sizes[:19])
    assert few.model is None
    column = int(np.searchsorted(THRESHOLDS, few.threshold))
    assert np.array_equal(corrected_boxes(few, boxes, sizes), boxes[:, column])
    missed = boxes.copy()
    missed[15:] = [0, 0, 3, 3]
    assert fit_correction(missed, iou, truth, np.arange(60), sizes).model is None


def test_wrong_shapes_are_explained(correction):
    truth, boxes, sizes = planted_boxes(30, seed=0)
    for wrong in (boxes[:, :5], boxes[:, 0]):
        with pytest.raises(FeatlabError, match=r"boxes must be \(k, 100, 4\)"):
            corrected_boxes(correction, wrong, sizes)
        with pytest.raises(FeatlabError, match=r"boxes must be \(k, 100, 4\)"):
            fit_correction(wrong, np.ones((30, T)), truth, np.arange(30), sizes)


# ----------------------------------------------------------------------------- in the evaluation


class HalfSeen:
    """A store whose one neuron fires on the upper half of every object."""

    def __init__(self, n: int = 120, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.layers, self.classes = ["top"], ["a", "b"]
        labels = np.array(["a", "b"])[np.arange(n) % 2]
        low, side = rng.integers(0, 9, (n, 2)), rng.integers(2, 4, (n, 2)) * 2
        cells = np.concatenate([low, np.minimum(low + side, 16)], axis=1)
        self.array = rng.random((n, 16, 16, 2)).astype(np.float32) * 0.1
        for i, (xmin, ymin, xmax, ymax) in enumerate(cells):
            self.array[i, ymin : (ymin + ymax) // 2, xmin:xmax, 0] += 5
        self.images = pd.DataFrame({"label": labels, "width": 160, "height": 80})
        corners = cells * np.array([10.0, 5.0, 10.0, 5.0])
        self.boxes = pd.DataFrame(corners, columns=bx.CORNERS)
        self.boxes = self.boxes.assign(image=np.arange(n), kind="object", label=labels)
        self.frames = np.tile([0.0, 0.0, 1.0, 1.0], (n, 1))
        self.split = np.array(["train", "train", "confirm", "test"])[np.arange(n) // 2 % 4]

    def layer_name(self, layer=None):
        return layer or self.layers[-1]

    def map_shape(self, layer=None):
        return self.array.shape[1:]

    def pooled(self, rows=None, *, layer=None, pooling="mean"):
        return getattr(self.array[slice(None) if rows is None else rows], pooling)(axis=(1, 2))

    def iter_maps(self, rows, *, layer=None, batch=16):
        for start in range(0, len(rows), batch):
            yield rows[start : start + batch], self.array[rows[start : start + batch]]


def test_of_very_many_images_a_sample_gives_the_scales(monkeypatch):
    store = HalfSeen()
    train = np.flatnonzero(store.split == "train")
    every = fitting.train_maxima(store, train, None, 0)
    np.testing.assert_array_equal(every, store.pooled(pooling="max")[train])
    monkeypatch.setattr(fitting, "_MOST_SCALED", 20)
    some = fitting.train_maxima(store, train, None, 0)
    assert some.shape == (20, 2) and not np.isin(some[:, 0], every[:, 0], invert=True).any()
    np.testing.assert_array_equal(some, fitting.train_maxima(store, train, None, 0))


def test_of_very_many_images_a_sample_teaches_the_correction(monkeypatch, store):
    monkeypatch.setattr(stratified_rows.__module__ + ".LEAST_PER_CLASS", 1)
    monkeypatch.setattr(matching, "_MOST_CORRECTED", 30)
    learnt = []

    def fit(boxes, *others):
        learnt.append(len(boxes))
        return fit_correction(boxes, *others)

    monkeypatch.setattr(matching, "fit_correction", fit)
    some = localise.evaluate_localisation(
        store, store.split, methods=["sum"], options=LocalisationOptions(refine=["sum"])
    )
    assert learnt == [30]
    assert some.table.set_index("method").loc["sum_refined", "mean_iou"] > 0.75


def test_the_matches_of_all_methods_are_never_held_at_once(monkeypatch, store):
    """They take 5 kB an image and method: of a large set more than the machine has."""
    made = []

    def score(match, **how):
        held = [old for old in made if old() is not None and old() is not match]
        assert len(held) <= 1, "matches of methods that are scored already"
        made.append(weakref.ref(match))
        return score_method(match, **how)

    monkeypatch.setattr(evaluation, "score_method", score)
    methods = ["sum", "ddt", "random_neuron"]
    scored = localise.evaluate_localisation(
        store, store.split, methods=methods, options=LocalisationOptions(refine=["sum"])
    )
    assert len(made) == 2 + 10 + 3 + 1  # ten draws, three baselines without chance, one corrected
    assert not any(one() for one in made)
    assert scored.per_image["xmin"].notna().sum() == 6 * int(scored.table["n"].iloc[0])


@pytest.fixture(scope="module")
def store() -> HalfSeen:
    return HalfSeen()


@pytest.fixture(scope="module")
def found(store: HalfSeen) -> Localisation:
    return localise.evaluate_localisation(
        store, store.split, methods=["sum"], options=LocalisationOptions(refine=["sum"])
    )


def test_refined_boxes_are_a_row_of_their_own(found):
    table = found.table.set_index("method")
    plain, refined = table.loc["sum"], table.loc["sum_refined"]
    assert plain["mean_iou"] < 0.6
    assert refined["mean_iou"] > 0.75
    assert refined["supervision"] == "boxes"
    assert plain["supervision"] == "none"
    assert refined["class_asked"] == "label"
    assert np.isnan(refined["threshold"])
    assert refined["seconds_per_1000"] > plain["seconds_per_1000"]
    assert not refined["baseline"]
    assert list(found.table["method"])[:2] == ["sum", "sum_refined"]
    compared = localise.compare_methods(found, against="sum", scores=["mean_iou"])
    assert compared.set_index("method").loc["sum_refined", "difference_low"] > 0


def test_the_correction_never_sees_confirm_or_test_boxes(store, found):
    other = HalfSeen()
    unseen = other.split[other.boxes["image"]] != "train"
    other.boxes.loc[unseen, bx.CORNERS] = [0.0, 0.0, 7.0, 7.0]
    again = localise.evaluate_localisation(
        other, other.split, methods=["sum"], options=LocalisationOptions(refine=["sum"])
    )
    boxes, same = (
        x.per_image.query("method == 'sum_refined'")[bx.CORNERS].to_numpy() for x in (found, again)
    )
    assert np.array_equal(boxes, same)


def test_what_cannot_be_refined_is_explained(store):
    for name in ("cam", "random_neuron", "whole_image", "magic"):
        with pytest.raises(FeatlabError, match=f"refine must be from sum, got '{name}'"):
            localise.evaluate_localisation(
                store,
                store.split,
                methods=["sum", "random_neuron"],
                options=LocalisationOptions(refine=[name]),
            )
    with pytest.raises(FeatlabError, match="name of a method of featlab, got 'sum_refined'"):
        localise.evaluate_localisation(
            store,
            store.split,
            methods=["sum"],
            options=LocalisationOptions(given={"sum_refined": np.zeros((120, 4))}),
        )
    few = HalfSeen()
    few.boxes = few.boxes[few.split[few.boxes["image"]] != "train"]
    table = localise.evaluate_localisation(
        few, few.split, methods=["sum"], options=LocalisationOptions(refine=["sum"])
    ).table
    assert "sum_refined" not in set(table["method"])
