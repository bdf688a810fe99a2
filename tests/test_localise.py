"""Heat maps, boxes from them, and the evaluation: exact cases and planted truth."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pandas as pd
import pytest
from fake_store import FakeStore
from listed_regions import NO_BOXES, listed
from PIL import Image
from scipy import ndimage

from featlab import FeatlabError, arguments, localise
from featlab.boxes import geometry as bx
from featlab.boxes import scores as box_scores
from featlab.intervals import share_interval
from featlab.localise import LocalisationOptions, evaluation, regions
from featlab.localise import detectors as judged
from featlab.localise import scores as scoring
from featlab.localise._components import all_regions
from featlab.localise.heat import (
    cam_heat,
    detector_heat,
    detector_scale,
    fuse_heats,
    normalise,
    picture_sizes,
    timed_heats,
    upsample,
)
from featlab.localise.methods import untuned
from featlab.localise.regions import HeatScores
from featlab.results.localisation import BASELINES, ClassWeights, Localisation

WHOLE = np.array([0.0, 0.0, 1.0, 1.0])
TARGET, DEAD, NOISE, SPARSE = 0, 1, 2, 3


# ----------------------------------------------------------------------------- heat maps


def naive_upsample(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    h, w = heat.shape
    result = np.zeros((height, width))
    for i, j in itertools.product(range(height), range(width)):
        y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
        x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
        y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
        top = heat[y0, x0] * (1 - (x - x0)) + heat[y0, x0 + 1] * (x - x0)
        bottom = heat[y0 + 1, x0] * (1 - (x - x0)) + heat[y0 + 1, x0 + 1] * (x - x0)
        result[i, j] = top * (1 - (y - y0)) + bottom * (y - y0)
    return result


def test_upsample_equals_a_loop_and_pillow():
    heat = np.random.default_rng(0).random((2, 7, 5)).astype(np.float32)
    result = upsample(heat, (28, 33))
    assert result.dtype == np.float32
    for one, expected in zip(result, heat, strict=True):
        assert np.allclose(one, naive_upsample(expected, 28, 33), atol=1e-5)
        pillow = Image.fromarray(expected).resize((33, 28), Image.Resampling.BILINEAR)
        assert np.allclose(one, np.asarray(pillow), atol=1e-5)


def test_upsample_keeps_constants_and_single_cells():
    assert np.allclose(upsample(np.full((1, 1), 3.0), 4), 3)
    assert np.allclose(upsample(np.full((2, 7, 7), 3.0), 224), 3)


def test_heat_on_picture_cuts_the_letterbox_off():
    # 8 x 8 cells over the input; the picture covers the middle half of the height.
    heat = np.zeros((8, 8), dtype=np.float32)
    heat[:2] = 9  # In the padding only.
    heat[3:5, 4:] = 1
    result = localise.heat_on_picture(heat, [0, 0.25, 1, 0.75], (80, 40))
    assert result.shape == (40, 80)
    assert result[20, 70] == pytest.approx(1)
    assert result[6:, :30].max() == pytest.approx(0)
    # On the picture's cells the picture's own up-sampling agrees away from the border.
    inner = upsample(heat[2:6], (40, 80))
    assert np.allclose(result[5:35], inner[5:35], atol=1e-5)


def test_normalise():
    heat = np.array([[[1.0, 3.0], [2.0, 5.0]], [[4.0, 4.0], [4.0, 4.0]]])
    result = normalise(heat)
    assert result[0].ravel().tolist() == [0, 0.5, 0.25, 1]
    assert not result[1].any()
    with pytest.raises(FeatlabError, match="NaN"):
        normalise(np.array([[np.nan, 1.0]]))


def test_a_flat_map_stays_flat_after_up_sampling():
    heat = np.full((1, 7, 7), 1234.567, dtype=np.float32)
    assert not normalise(upsample(heat, 224)).any()


def test_linear_heats_equal_their_formulas():
    rng = np.random.default_rng(0)
    maps = rng.random((4, 3, 3, 6)).astype(np.float32)
    weights = rng.normal(size=6)
    assert np.allclose(cam_heat(maps, weights), maps @ weights, atol=1e-5)
    scale = np.array([2, 1, 4, 0, 1, 1], dtype=np.float32)
    expected = (maps[..., 0] / 2 + maps[..., 2] / 4) / 2
    assert np.allclose(detector_heat(maps, [0, 2], scale), expected, atol=1e-6)
    assert not detector_heat(maps, [3], scale).any()  # Dead.


def test_detector_scale_is_the_percentile_or_the_maximum():
    maxima = np.zeros((100, 3))
    maxima[:, 0] = np.arange(100)
    maxima[0, 1] = 7  # Fires once.
    scale = detector_scale(maxima)
    assert scale.tolist() == pytest.approx([np.quantile(maxima[:, 0], 0.95), 7, 0])


# ----------------------------------------------------------------------------- regions


def enclosed_area(region: np.ndarray) -> float:
    """A square of four pixels counts 1, of three 1/2."""
    squares = np.lib.stride_tricks.sliding_window_view(region, (2, 2)).sum(axis=(2, 3))
    return (squares == 4).sum() + (squares == 3).sum() / 2


def reference_box(hot: np.ndarray) -> list[float]:
    labels, n = ndimage.label(hot, np.ones((3, 3)))
    if not n:
        return [0, 0, 0, 0]
    sizes = [enclosed_area(np.pad(labels == k, 1)) for k in range(1, n + 1)]
    biggest = max(range(n), key=lambda k: (sizes[k], k))
    rows, columns = ndimage.find_objects(labels)[biggest]
    return [columns.start, rows.start, columns.stop, rows.stop]


@pytest.mark.parametrize("density", [0, 0.05, 0.3, 0.41, 0.5, 0.7, 1])
def test_regions_equal_scipy_label(density):
    rng = np.random.default_rng(int(density * 100))
    for shape in [(1, 1), (1, 9), (9, 1), (13, 17), (32, 32)]:
        pixels = (rng.random(shape) < density).astype(np.uint8) * rng.integers(1, 256, shape)
        pixels = pixels.astype(np.uint8)
        cuts = np.array([0, 3, 90, 200, 254, *range(0, 250, 10)], dtype=np.uint8)
        result = all_regions(pixels, cuts).largest(NO_BOXES)[0]
        assert result.tolist() == [reference_box(pixels > cut) for cut in cuts]


@pytest.mark.parametrize("kind", ["smooth", "plateaus", "noise", "spirals"])
def test_every_region_equals_scipy_label(kind):
    rng = np.random.default_rng(4)
    for shape in [(1, 12), (12, 1), (2, 2), (23, 31), (40, 40)]:
        height = rng.random(shape).astype(np.float32)
        if kind in ("smooth", "plateaus"):
            height = upsample(rng.random((5, 6)), shape)
        if kind == "plateaus":
            height = np.round(height * 4) / 4
        if kind == "spirals":  # long ways up, none of them straight
            height = (np.arange(height.size).reshape(shape) % 7 / 7).astype(np.float32)
        pixels = (height * np.float32(255)).astype(np.uint8)
        cuts = np.unique(rng.integers(0, 255, 40)).astype(np.uint8)
        found = listed(all_regions(pixels, cuts, height=height))
        for k, cut in enumerate(cuts):
            labels, n = ndimage.label(pixels > cut, np.ones((3, 3)))
            places = ndimage.find_objects(labels)
            boxes = [[x.start, y.start, x.stop, y.stop] for y, x in places]
            own = found.cut == k
            assert found.boxes[own].tolist() == boxes  # label, too, goes by the first pixel
            assert found.area[own].tolist() == [(labels == i).sum() for i in range(1, n + 1)]
            enclosed = [enclosed_area(np.pad(labels == i, 1)) for i in range(1, n + 1)]
            assert found.enclosed[own].tolist() == enclosed


def test_touching_corners_are_one_region_and_the_picture_border_does_not_wrap():
    diagonal = np.eye(4, dtype=np.uint8)
    assert all_regions(diagonal, np.uint8([0])).largest(NO_BOXES)[0].tolist() == [[0, 0, 4, 4]]
    wrap = np.zeros((4, 4), dtype=np.uint8)
    wrap[0, 3] = wrap[1, 0] = wrap[2, 0] = 1
    assert all_regions(wrap, np.uint8([0])).largest(NO_BOXES)[0].tolist() == [[0, 1, 1, 3]]


def test_of_two_blobs_the_largest_is_enclosed():
    heat = np.zeros((1, 16, 16), dtype=np.float32)
    heat[0, 1:4, 1:4] = 1
    heat[0, 8:15, 9:14] = 0.8
    box = localise.heat_boxes(heat, [0.5], frames=WHOLE[None], sizes=[[160, 320]])[0, 0]
    assert box == pytest.approx([90, 160, 140, 300], abs=6)


@pytest.mark.parametrize("kind", ["noise", "smooth", "rectified"])
def test_a_few_thresholds_give_the_boxes_of_many(kind):
    rng = np.random.default_rng(2)
    heat = rng.normal(size=(40, 7, 9)).astype(np.float32)
    if kind != "noise":
        heat = ndimage.gaussian_filter(heat, (0, 1, 1))
    if kind == "rectified":
        heat = np.maximum(heat, 0)
    heat[7] = 3
    left, top = rng.uniform(0, 0.3, (2, 40))
    frames = np.stack([left, top, 1 - left, 1 - top], axis=1)
    frames[:32] = WHOLE  # One block of stretched pictures, one of padded ones.
    sizes = rng.integers(50, 900, (40, 2))
    many = localise.heat_boxes(heat, regions.THRESHOLDS, frames=frames, sizes=sizes)
    few = localise.heat_boxes(heat, [0.5, 0.0, 0.2, 0.99], frames=frames, sizes=sizes)
    np.testing.assert_array_equal(few, many[:, [50, 0, 20, 99]])
    assert (few[7] == 0).all()


def test_heat_boxes_equal_the_protocol_done_one_at_a_time():
    rng = np.random.default_rng(0)
    heat = rng.random((5, 7, 7)).astype(np.float32)
    thresholds = np.arange(0, 100, 7) / 100
    sizes = rng.integers(50, 400, (5, 2)).astype(float)
    result = localise.heat_boxes(heat, thresholds, frames=np.tile(WHOLE, (5, 1)), sizes=sizes)
    for i, (j, tau) in itertools.product(range(5), enumerate(thresholds)):
        fine = upsample(heat[i], 224)
        pixels = ((fine - fine.min()) / (fine.max() - fine.min()) * 255).astype(np.uint8)
        expected = np.array(reference_box(pixels > int(tau * pixels.max())))
        assert result[i, j] == pytest.approx(expected / 224 * np.tile(sizes[i], 2))


def test_flat_map_gives_the_empty_box_and_nan_an_error():
    heat = np.ones((1, 7, 7), dtype=np.float32)
    boxes = localise.heat_boxes(heat, [0.0, 0.5], frames=WHOLE[None], sizes=[[10, 10]])
    assert not boxes.any()
    heat[0, 0, 0] = np.nan
    with pytest.raises(FeatlabError, match="NaN"):
        localise.heat_boxes(heat, [0.5], frames=WHOLE[None], sizes=[[10, 10]])
    with pytest.raises(FeatlabError, match="thresholds must lie"):
        localise.heat_boxes(heat, [1.0], frames=WHOLE[None], sizes=[[10, 10]])


def test_letterboxed_heat_lands_on_the_right_pixels():
    # Picture 400 x 100 in the middle quarter of the input; hot: its right half.
    frame = np.array([0, 0.375, 1, 0.625])
    heat = np.zeros((1, 64, 64), dtype=np.float32)
    heat[0, 24:40, 32:] = 1
    heat[0, :20] = 50  # Hot padding is not part of the picture.
    box = localise.heat_boxes(heat, [0.5], frames=frame[None], sizes=[[400, 100]])[0, 0]
    assert box == pytest.approx([200, 0, 400, 100], abs=4)


# ----------------------------------------------------------------------------- evaluation


def planted_store(n: int = 60, seed: int = 0) -> FakeStore:
    """Neuron 0 (class a) and 4 (class b) fire exactly on the box; the others are noise or dead."""
    rng = np.random.default_rng(seed)
    labels = np.array(["a", "b"])[np.arange(n) % 2]
    low = rng.integers(0, 9, (n, 2))
    cells = np.concatenate([low, low + rng.integers(3, 6, (n, 2))], axis=1)
    sizes = rng.integers(100, 300, (n, 2))
    maps = np.zeros((n, 14, 14, 8), dtype=np.float32)
    maps[..., [2, 3, 5, 6, 7]] = rng.random((n, 14, 14, 5))
    for i, (xmin, ymin, xmax, ymax) in enumerate(cells):
        maps[i, ymin:ymax, xmin:xmax, TARGET if labels[i] == "a" else 4] = 5 + rng.random()
    boxes = pd.DataFrame(cells / 14 * np.tile(sizes, 2), columns=bx.CORNERS)
    boxes = boxes.assign(image=np.arange(n), kind="body", label=labels)
    images = pd.DataFrame({"label": labels, "width": sizes[:, 0], "height": sizes[:, 1]})
    images["group"] = ""
    return FakeStore(images, boxes, maps, np.tile(WHOLE, (n, 1)))


def neuron_table(*detectors: tuple[str, int, float]) -> pd.DataFrame:
    table = pd.DataFrame(list(detectors), columns=["class", "neuron", "auroc"])
    table = table.astype({"class": str, "neuron": int, "auroc": float})
    same = {"layer": "top", "pooling": "mean", "detector": True, "confirmed": True}
    return table.assign(**same, rank=np.arange(1, len(table) + 1), direction="active")


def head(coef: np.ndarray) -> ClassWeights:
    return ClassWeights(["a", "b"], coef, np.zeros(len(coef)))


def planted_split(n: int = 60) -> np.ndarray:
    return np.array(["train", "train", "confirm", "confirm", "test", "test"])[np.arange(n) % 6]


SECONDS = ["seconds_per_1000"]
FEW = ["detectors", "best_detector", "sum", "random_neuron"]
PLANTED = neuron_table(("a", TARGET, 0.99), ("b", 4, 0.98))


@pytest.fixture
def few_draws(monkeypatch):
    """Fewer random neurons; `result` has as many as there are."""
    monkeypatch.setattr("featlab.localise.fitting._DRAWS", 2)


@pytest.fixture(scope="module")
def planted() -> FakeStore:
    return planted_store()


@pytest.fixture(scope="module")
def result(planted: FakeStore) -> Localisation:
    weights = head(np.eye(8)[[TARGET, 4]])
    return localise.evaluate_localisation(
        planted, planted_split(), neurons=PLANTED, weights=weights
    )


def test_planted_detectors_find_the_box_and_baselines_do_not(result):
    table = result.table.set_index("method")
    for method in ("detectors", "best_detector", "cam"):
        assert table.loc[method, "box_accuracy"] > 0.95
        assert table.loc[method, "mean_iou"] > 0.8
        assert table.loc[method, "centre_in_box"] == 1
        assert table.loc[method, "centre_in_box_low"] < 0.95  # Not [1, 1].
    for method in BASELINES:
        assert table.loc[method, "box_accuracy"] < 0.5
    assert table["baseline"].tolist() == sorted(table["baseline"])
    assert set(table.index[table["baseline"]]) == set(BASELINES)
    assert (table["n"] == 20).all()


def test_finer_thresholds_hold_the_coarse_ones_and_are_said(planted):
    coarse, fine = (
        localise.evaluate_localisation(
            planted, planted_split(), methods=["detectors", "sum"], neurons=PLANTED,
            options=localise.LocalisationOptions(threshold_step=step),
        )
        for step in (0.01, 0.001)
    )  # fmt: skip
    assert fine.parameters["threshold_step"] == 0.001 and fine.parameters["n_thresholds"] == 1000
    on = ["method", "delta", "threshold"]
    both = coarse.curves.merge(fine.curves, on=on, suffixes=("", "_fine"))
    both = both[both["threshold"].notna()]
    assert len(both) > 300
    np.testing.assert_array_equal(both["accuracy"], both["accuracy_fine"])
    for oracle in ("max_box_acc", "max_box_acc_v2"):
        assert (fine.table[oracle] >= coarse.table[oracle] - 1e-12).all()
    with pytest.raises(FeatlabError, match=r"threshold_step must be one of .*got 0\.1"):
        localise.LocalisationOptions(threshold_step=0.1)


def test_table_columns_order_and_oracle(result):
    assert list(result.table) == evaluation.TABLE_COLUMNS
    assert list(result.per_image) == evaluation.IMAGE_COLUMNS
    assert (result.table["box_accuracy_oracle"] >= result.table["box_accuracy"]).all()
    assert (result.table["box_accuracy_low"] <= result.table["box_accuracy"]).all()
    fixed = result.table["method"].isin(["whole_image", "mean_box"])
    assert (result.table["threshold"].isna() == fixed).all()
    assert result.parameters["threshold_from"] == "confirm"
    assert "GT-known" in result.parameters["class_asked_for"]


def test_per_image_agrees_with_the_table_and_with_boxes(result, planted):
    for method, rows in result.per_image.groupby("method"):
        scores = result.table.set_index("method").loc[method]
        assert rows["hit"].mean() == pytest.approx(scores["box_accuracy"])
        if method == "random_neuron":  # Means of several draws: no box.
            assert rows[bx.CORNERS].isna().all(axis=None)
            continue
        ious = bx.best_iou(rows[bx.CORNERS].to_numpy(), rows["row"].to_numpy(), planted.boxes)
        assert rows["iou"].to_numpy() == pytest.approx(ious)
        assert (rows["label"].to_numpy() == planted.images["label"].to_numpy()[rows["row"]]).all()
        assert (planted_split()[rows["row"]] == "test").all()


def test_the_threshold_never_sees_the_test_boxes(result, planted):
    moved = planted.boxes.copy()
    test = planted_split()[moved["image"]] == "test"
    moved.loc[test, bx.CORNERS] = [0.0, 0.0, 5.0, 5.0]
    other = FakeStore(planted.images, moved, planted.array, planted.frames)
    again = localise.evaluate_localisation(other, planted_split(), methods=FEW, neurons=PLANTED)
    second = again.table.set_index("method")
    first = result.table.set_index("method").loc[second.index]
    assert first["threshold"].equals(second["threshold"])
    assert second.loc["detectors", "box_accuracy"] == 0


@pytest.mark.slow
def test_the_order_of_the_images_does_not_matter(planted):
    order = np.random.default_rng(3).permutation(60)
    boxes = planted.boxes.assign(image=np.argsort(order)[planted.boxes["image"]])
    images = planted.images.iloc[order].reset_index(drop=True)
    store = FakeStore(images, boxes, planted.array[order], planted.frames)
    split = planted_split()
    first = localise.evaluate_localisation(planted, split, methods=FEW, neurons=PLANTED).table
    again = localise.evaluate_localisation(store, split[order], methods=FEW, neurons=PLANTED).table
    pd.testing.assert_frame_equal(again.drop(columns=SECONDS), first.drop(columns=SECONDS))


@pytest.mark.slow
def test_the_maps_are_read_once_and_only_where_needed(planted):
    store = FakeStore(planted.images, planted.boxes, planted.array, planted.frames)
    localise.evaluate_localisation(store, planted_split(), methods=FEW, neurons=PLANTED)
    assert sorted(store.rows_read) == np.flatnonzero(planted_split() != "train").tolist()


def test_a_class_without_detectors_gets_the_empty_box(planted, few_draws):
    only_a = neuron_table(("a", TARGET, 0.99))
    found = localise.evaluate_localisation(planted, planted_split(), methods=FEW, neurons=only_a)
    assert found.parameters["classes_without_detectors"] == ["b"]
    rows = found.per_image.query("method == 'detectors'")
    assert not rows.loc[rows["label"] == "b", [*bx.CORNERS, "iou"]].to_numpy().any()
    assert rows.loc[rows["label"] == "a", "hit"].mean() > 0.9


def test_only_confirmed_detectors_count_and_the_best_comes_first(planted):
    table = neuron_table(("a", NOISE, 0.999), ("a", TARGET, 0.9), ("a", 5, 0.8), ("b", 4, 0.9))
    table.loc[0, "confirmed"] = False
    found = localise.evaluate_localisation(
        planted, planted_split(), methods=["best_detector"], neurons=table
    )
    assert found.table.set_index("method").loc["best_detector", "box_accuracy"] > 0.9


def test_random_neurons_are_alive_different_and_seeded(planted):
    def heats(seed):
        fitted = localise.fitting.fit_methods(
            planted,
            planted_split() == "train",
            "random_neuron",
            boxes=planted.boxes,
            random_state=seed,
        )
        return localise.heat_maps(planted, None, fitted)["random_neuron"]

    first, again, other = heats(0), heats(0), heats(5)
    assert first.shape == (60, 10, 14, 14)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (np.ptp(first, axis=(0, 2, 3)) > 0).all()
    assert all(len(np.unique(one.reshape(10, -1), axis=0)) > 2 for one in first)


def test_several_draws_are_scored_one_by_one_and_averaged(planted):
    """One draw finds every box and one finds none: half, in every image."""
    heats = planted_heats(planted)

    @localise.register("chance", "chance", supervision="boxes")
    def chance(maps, context):
        own = np.where(context.codes == 0, TARGET, 4)
        hot = maps[np.arange(len(maps)), :, :, own]
        return np.stack([np.zeros_like(hot), hot], axis=1)

    try:
        found = localise.evaluate_localisation(
            planted,
            planted_split(),
            methods=["chance"],
            options=LocalisationOptions(given={"alone": heats}),
        )
    finally:
        del localise.METHODS["chance"]
    table = found.table.set_index("method")
    for score in ("box_accuracy", "box_accuracy_confirm", "centre_in_box", "max_box_acc"):
        assert table.loc["chance", score] == table.loc["alone", score] / 2, score
    # The draws are matched on half the grid: a pixel's difference.
    for score in ("mean_iou", "max_box_acc_v2", "heat_in_box"):
        half = table.loc["alone", score] / 2
        assert table.loc["chance", score] == pytest.approx(half, abs=0.01)
    low, high = table.loc["chance", ["box_accuracy_low", "box_accuracy_high"]]
    assert 0.3 < low < 0.5 < high < 0.7
    assert table.loc["chance", "threshold"] <= table.loc["alone", "threshold"]
    images = found.per_image.query("method == 'chance'")
    assert (images["hit"] == 0.5).all()
    at_half = found.success.query("method == 'chance' and delta == 0.5")
    assert at_half["accuracy"].item() == 0.5


def test_no_boxes_gives_empty_tables(planted):
    store = FakeStore(planted.images, planted.boxes.iloc[:0], planted.array, planted.frames)
    found = localise.evaluate_localisation(store, planted_split(), methods=FEW, neurons=PLANTED)
    assert found.table.empty
    assert list(found.table) == evaluation.TABLE_COLUMNS
    assert found.per_image.empty
    assert list(found.per_image) == evaluation.IMAGE_COLUMNS
    assert not store.rows_read


def test_images_without_boxes_are_skipped_and_few_confirm_boxes_said(planted, few_draws):
    kept = (planted_split() != "confirm") | (np.arange(60) < 6)
    boxes = planted.boxes[kept[planted.boxes["image"]] & (planted.boxes["image"] != 4)]
    store = FakeStore(planted.images, boxes, planted.array, planted.frames)
    found = localise.evaluate_localisation(store, planted_split(), methods=FEW, neurons=PLANTED)
    assert found.parameters["threshold_from"] == "train + confirm"
    assert (found.table["n"] == 19).all()
    only_test = boxes[planted_split()[boxes["image"]] == "test"]
    store = FakeStore(planted.images, only_test, planted.array, planted.frames)
    found = localise.evaluate_localisation(store, planted_split(), methods=["sum"])
    assert found.parameters["threshold_from"] == "fixed at 0.2"
    assert "mean_box" not in set(found.table["method"])
    # A student draws them where no person did; how well others agree with it is no accuracy.
    found = localise.evaluate_localisation(store, planted_split(), methods=["sum", "student"])
    assert found.parameters["threshold_from"] == "student's boxes on confirm"
    assert found.parameters["n_threshold_images"] == (planted_split() == "confirm").sum()
    assert found.table["box_accuracy_confirm"].isna().all()
    assert (found.table["n"] == len(set(only_test["image"]))).all()
    heat = localise.heat_maps(store, planted_split() == "confirm", found.fitted)
    rows = planted_split() == "confirm"
    at = {"sizes": picture_sizes(store)[rows], "frames": np.asarray(store.frames)[rows]}
    made = regions.heat_boxes(heat["student"], [untuned(store, found.fitted)[1]], **at)[:, 0]
    scores = regions.score_heats(heat["sum"], made, np.arange(len(made)), **at)
    expected = regions.stable_threshold(scores.iou, regions.THRESHOLDS)
    assert found.table.set_index("method")["threshold"]["sum"] == expected


def test_box_kinds(planted):
    heads = planted.boxes.assign(kind="head")
    both = pd.concat([planted.boxes, heads], ignore_index=True)
    store = FakeStore(planted.images, both, planted.array, planted.frames)
    with pytest.raises(FeatlabError, match=r"body, head.*--box-kind"):
        localise.evaluate_localisation(store, planted_split(), methods=["sum"])
    with pytest.raises(FeatlabError, match="one of body, head, got 'tail'"):
        localise.evaluate_localisation(store, planted_split(), box_kind="tail")
    found = localise.evaluate_localisation(store, planted_split(), methods=["sum"], box_kind="head")
    assert found.parameters["box_kind"] == "head"
    assert found.table["n"].iloc[0] == 20


def test_a_box_of_another_class_is_no_truth(planted):
    whole = bx.whole_picture_boxes(planted.images[["width", "height"]].to_numpy())
    extra = planted.boxes.assign(**dict(zip(bx.CORNERS, whole.T, strict=True)))
    extra["label"] = np.where(extra["label"] == "a", "b", "a")
    both = pd.concat([planted.boxes, extra], ignore_index=True)
    store = FakeStore(planted.images, both, planted.array, planted.frames)
    table = localise.evaluate_localisation(store, planted_split(), methods=["sum"]).table.set_index(
        "method"
    )
    assert table.loc["whole_image", "box_accuracy"] == 0


def test_wrong_requests_are_explained(planted):
    split = planted_split()
    with pytest.raises(
        FeatlabError, match="split must be 'train', 'confirm' or 'test', got 'tset'"
    ):
        localise.evaluate_localisation(planted, np.where(split == "test", "tset", split))
    with pytest.raises(FeatlabError, match="images and split must have one row per image"):
        localise.evaluate_localisation(planted, split[:-1])
    with pytest.raises(FeatlabError, match="confirmed; give the result of confirm_neurons"):
        localise.evaluate_localisation(planted, split, neurons=PLANTED.drop(columns="confirmed"))
    with pytest.raises(FeatlabError, match="lack the classes"):
        localise.evaluate_localisation(
            planted, split, weights=ClassWeights(["a"], np.ones((1, 8)), np.zeros(1))
        )
    with pytest.raises(FeatlabError, match="8 values per class"):
        localise.evaluate_localisation(planted, split, weights=head(np.ones((2, 9))))


def test_choose_threshold():
    ious = np.array([[0.6, 0.9, 0.1], [0.4, 0.4, 0.6], [np.nan] * 3])
    assert localise.regions.choose_threshold(ious, [0.1, 0.2, 0.3]) == 0.2  # Tie → higher mean IoU.
    assert localise.regions.choose_threshold(ious, [0.1, 0.2, 0.3], delta=0.3) == 0.2
    assert localise.regions.choose_threshold(ious[:, [0, 0]], [0.1, 0.2]) == 0.1
    with pytest.raises(FeatlabError, match="no image has a box"):
        localise.regions.choose_threshold(ious[2:], [0.1, 0.2, 0.3])
    with pytest.raises(FeatlabError, match="one column per threshold"):
        localise.regions.choose_threshold(ious, [0.1])


def test_stable_threshold_is_not_lured_by_a_lucky_one():
    # Twenty images are right between 0.3 and 0.5; one more, by luck, at 0.8 alone.
    ious = np.zeros((40, 100))
    ious[:20, 30:51] = 0.7
    ious[:21, 80] = 0.7
    assert localise.regions.choose_threshold(ious, regions.THRESHOLDS) == 0.8
    assert regions.stable_threshold(ious, regions.THRESHOLDS) == pytest.approx(0.4)


def test_stable_threshold_equals_its_formula_done_by_hand():
    ious = np.random.default_rng(0).random((30, 50))
    thresholds = np.arange(50) / 50
    soft = (1 / (1 + np.exp(-(ious - 0.7) / 0.05))).mean(axis=0)
    padded = np.concatenate([np.full(16, soft[0]), soft, np.full(16, soft[-1])])
    kernel = np.exp(-(np.arange(-16, 17) ** 2) / (2 * 4**2))
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    expected = thresholds[smooth.argmax()]
    assert regions.stable_threshold(ious, thresholds, 0.7) == expected
    without = np.concatenate([ious, np.full((3, 50), np.nan)])
    assert regions.stable_threshold(without, thresholds, 0.7) == expected
    with pytest.raises(FeatlabError, match="no image has a box"):
        regions.stable_threshold(without[30:], thresholds)


# ----------------------------------------------------------------------------- the field's scores


def test_oracles_bound_what_was_chosen_elsewhere(result):
    table = result.table.set_index("method")
    assert table["max_box_acc"].equals(table["box_accuracy_oracle"])
    assert (table["box_acc_v2_at_val"] <= table["max_box_acc_v2"]).all()
    assert table.loc["detectors", "max_box_acc_v2"] > 0.95
    assert table.loc["detectors", "pointing"] == 1
    assert table.loc["detectors", "heat_in_box"] > 0.8
    assert table["top1_loc"].isna().all()
    for score in scoring.SCORES:
        known = table[table[score].notna()]
        assert (known[f"{score}_low"] <= known[f"{score}_high"]).all()
        assert known[[score, f"{score}_low", f"{score}_high"]].to_numpy().min(initial=0) >= 0
    assert (table["seconds_per_1000"] > 0).all()


def test_table_scores_are_those_of_boxes():
    rng = np.random.default_rng(0)
    found = HeatScores(
        boxes=np.zeros((30, 100, 4)),
        iou=rng.random((30, 100)),
        iou_any=rng.random((30, 100)),
        pointing=rng.random(30),
        heat_in_box=rng.random(30),
        histograms=rng.random((30, 2, 101)),
    )
    one = scoring.score_method(
        found,
        scored=np.arange(20),
        tuning=np.arange(20, 30),
        centre_in_box=lambda boxes: np.ones(len(boxes)),
    )
    weights = rng.integers(0, 3, (7, 20)).astype(float)
    iou, iou_any = found.iou[:20], found.iou_any[:20]
    expected = {
        "box_accuracy": box_scores.mean_score(iou[:, one.column] >= 0.5, weights),
        "mean_iou": box_scores.mean_score(iou[:, one.column], weights),
        "max_box_acc": box_scores.max_box_acc(iou, weights=weights),
        "max_box_acc_v2": box_scores.max_box_acc_v2(iou_any, weights=weights),
        "box_acc_v2_at_val": box_scores.box_acc_at(iou_any, one.columns_v2, weights=weights),
        "heat_in_box": box_scores.mean_score(found.heat_in_box[:20], weights),
        "pxap": box_scores.pxap(found.histograms[:20], weights),
    }
    got = dict(zip(scoring.SCORES, one.resampled(weights).T, strict=True))
    for name, values in expected.items():
        assert got[name] == pytest.approx(values), name
    assert np.isnan(got["top1_loc"]).all()
    chosen = [
        regions.stable_threshold(found.iou_any[20:], regions.THRESHOLDS, d)
        for d in box_scores.DELTAS
    ]
    assert regions.THRESHOLDS[one.columns_v2].tolist() == chosen


def test_curves_and_success_agree_with_the_table(result):
    table = result.table.set_index("method")
    half = result.curves.query("delta == 0.5")
    best = half.groupby("method")[["accuracy", "accuracy_any"]].max().drop("random_neuron")
    one = table.drop("random_neuron")  # Its best is the mean of its draws' best.
    assert best["accuracy"].to_dict() == pytest.approx(one["max_box_acc"].to_dict())
    per_delta = result.curves.groupby(["method", "delta"])["accuracy_any"].max()
    v2 = per_delta.groupby("method").mean().drop("random_neuron")
    assert v2.to_dict() == pytest.approx(one["max_box_acc_v2"].to_dict())
    at_half = result.success.query("delta == 0.5").set_index("method")
    assert at_half["accuracy"].to_dict() == pytest.approx(table["box_accuracy"].to_dict())
    assert (result.success["accuracy"] <= result.success["accuracy_oracle"]).all()


def test_top1_needs_the_right_class(planted):
    split, labels = planted_split(), planted.images["label"].to_numpy()
    wrong = np.where(np.arange(60) % 12 == 4, "nothing", labels)
    found = localise.evaluate_localisation(
        planted,
        split,
        methods=["detectors"],
        neurons=PLANTED,
        options=LocalisationOptions(predicted=wrong),
    )
    row = found.table.set_index("method").loc["detectors"]
    assert row["box_accuracy"] == 1
    assert row["top1_loc"] == (wrong == labels)[split == "test"].mean() < 1
    assert found.per_image.query("top1 == 0 and method == 'detectors'")["row"].isin([4, 16]).any()
    with pytest.raises(FeatlabError, match="split and predicted must have one row per image"):
        localise.evaluate_localisation(
            planted, split, methods=["sum"], options=LocalisationOptions(predicted=labels[:3])
        )


def test_masks_give_the_average_precision_of_pixels(planted):
    asked = []

    def masks(row):
        asked.append(row)
        box = planted.boxes.loc[row, bx.CORNERS].to_numpy(float)
        width, height = planted.images.loc[row, ["width", "height"]]
        unit = bx.unit_boxes(box[None], [[width, height]])
        return box_scores.box_masks(unit, [0], 1, (height, width))[0].astype(int)

    found = localise.evaluate_localisation(
        planted,
        planted_split(),
        methods=["best_detector"],
        neurons=PLANTED,
        options=LocalisationOptions(masks=masks),
    )
    assert sorted(asked) == np.flatnonzero(planted_split() == "test").tolist()
    scores = found.table.set_index("method")["pxap"]
    assert scores["best_detector"] > 0.95
    covered = np.mean([masks(row).mean() for row in asked[:20]])
    assert scores["whole_image"] == pytest.approx(covered, abs=0.01)
    assert (found.table["pxap_low"] < found.table["pxap_high"]).all()


def test_whole_groups_are_resampled(planted, result):
    groups = np.where(
        planted_split() == "test", np.char.add("g", (np.arange(60) // 20).astype(str)), ""
    )
    found = localise.evaluate_localisation(
        planted, planted_split(), methods=["sum"], options=LocalisationOptions(groups=groups)
    )
    assert found.parameters["n_groups"] == 3
    assert result.parameters["n_groups"] == 20
    few, many = (x.table.set_index("method").loc["sum"] for x in (found, result))
    assert few["mean_iou"] == many["mean_iou"]
    assert few["mean_iou_low"] != many["mean_iou_low"]
    with pytest.raises(FeatlabError, match="split and groups must have one row per image"):
        localise.evaluate_localisation(
            planted,
            planted_split(),
            methods=["sum"],
            options=LocalisationOptions(groups=groups[:5]),
        )


def test_methods_are_compared_on_the_same_images(result):
    compared = localise.compare_methods(result)
    assert not compared["score"].eq("top1_loc").any()
    table = result.table.set_index("method")
    for _, row in compared.iterrows():
        expected = table.loc[row["method"], row["score"]] - table.loc[row["against"], row["score"]]
        assert row["difference"] == pytest.approx(expected)
        assert table.loc[row["against"], "baseline"]
    ours = compared.query("method == 'detectors' and score == 'max_box_acc_v2'").iloc[0]
    assert ours["difference_low"] > 0
    # cam and the detectors have the same maps: the paired difference is nothing, as far as known.
    same = localise.compare_methods(result, against="cam", scores=["mean_iou"])
    twin = same.set_index("method").loc["best_detector"]
    assert abs(twin["difference"]) < 1e-9
    assert -0.2 < twin["difference_low"] < 0 < twin["difference_high"] < 0.2
    with pytest.raises(FeatlabError, match="against must be one of .*got 'nothing'"):
        localise.compare_methods(result, against="nothing")
    with pytest.raises(FeatlabError, match="scores must be from box_accuracy"):
        localise.compare_methods(result, scores=["beauty"])


# ----------------------------------------------------------------------------- given, rows, target


def planted_heats(store: FakeStore) -> np.ndarray:
    own = np.where(store.images["label"] == "a", TARGET, 4)
    return store.array[np.arange(len(own)), :, :, own]


def test_given_heats_and_boxes_are_scored_like_the_methods_own(planted):
    true = planted.boxes[bx.CORNERS].to_numpy()
    given = {"heats": planted_heats(planted), "boxes": true}
    found = localise.evaluate_localisation(
        planted,
        planted_split(),
        methods=["best_detector"],
        neurons=PLANTED,
        options=LocalisationOptions(given=given),
    )
    table = found.table.set_index("method")
    scores = [name for name in table if name not in ("supervision", "class_asked", *SECONDS)]
    # The detector's heat is the same map, divided by a constant.
    own, same = table.loc["best_detector", scores], table.loc["heats", scores]
    np.testing.assert_allclose(own.astype(float), same.astype(float))
    assert table.loc["boxes", "mean_iou"] == pytest.approx(1)
    assert np.isnan(table.loc["boxes", "threshold"])
    assert table.loc["heats", "supervision"] == table.loc["boxes", "supervision"] == "network"
    assert table.loc["heats", "class_asked"] == "as given"
    assert not table.loc["heats", "baseline"]
    assert "given methods the match alone" in found.parameters["seconds"]
    assert set(localise.compare_methods(found)["method"]) >= {"heats", "boxes"}
    assert list(found.table["method"])[:3] == ["best_detector", "heats", "boxes"]


def test_images_without_a_given_heat_are_left_out_for_every_method(planted):
    heats, split = planted_heats(planted).copy(), planted_split()
    test, confirm = (np.flatnonzero(split == part) for part in ("test", "confirm"))
    without = [*test[:3], *confirm[:2]]
    heats[without] = heats[split == "train"] = np.nan
    boxes = planted.boxes[bx.CORNERS].to_numpy().copy()
    boxes[test[3]] = np.nan
    found = localise.evaluate_localisation(
        planted,
        split,
        methods=["sum"],
        options=LocalisationOptions(given={"heats": heats, "boxes": boxes}),
    )
    assert (found.table["n"] == 16).all()
    assert found.parameters["n_without_given"] == 6
    assert found.parameters["n_threshold_images"] == 18
    for _, rows in found.per_image.groupby("method"):
        assert rows["row"].tolist() == test[4:].tolist()
    # The same as if only the others had been asked for.
    rest = np.setdiff1d(np.arange(60), [*without, test[3]])
    again = localise.evaluate_localisation(
        planted, split, methods=["sum"], options=LocalisationOptions(rows=rest)
    )
    assert again.parameters["n_without_given"] == 0
    left = found.table[~found.table["method"].isin(["heats", "boxes"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(left.drop(columns=SECONDS), again.table.drop(columns=SECONDS))


def test_only_the_rows_asked_for_are_tuned_on_and_scored(planted, few_draws):
    split = planted_split()
    mask = np.arange(60) % 12 < 6
    store = FakeStore(planted.images, planted.boxes, planted.array, planted.frames)
    found = localise.evaluate_localisation(
        store, split, methods=FEW, neurons=PLANTED, options=LocalisationOptions(rows=mask)
    )
    assert sorted(store.rows_read) == np.flatnonzero(mask & (split != "train")).tolist()
    numbers = localise.evaluate_localisation(
        planted,
        split,
        methods=FEW,
        neurons=PLANTED,
        options=LocalisationOptions(rows=np.flatnonzero(mask)[::-1]),
    )
    same = found.table.drop(columns=SECONDS)
    pd.testing.assert_frame_equal(same, numbers.table.drop(columns=SECONDS))
    assert (found.table["n"] == 10).all()
    assert localise.evaluate_localisation(
        planted, split, methods=["sum"], options=LocalisationOptions(rows=[])
    ).table.empty


def test_wrong_given_and_rows_are_explained(planted):
    def asked(**parameters):
        options = LocalisationOptions(**parameters)
        return localise.evaluate_localisation(
            planted, planted_split(), methods=["sum"], options=options
        )

    heats = planted_heats(planted)
    for name in ("cam", "mean_box", "random_neuron"):
        with pytest.raises(FeatlabError, match=f"name of a method of featlab, got '{name}'"):
            asked(given={name: heats})
    for wrong in (heats[:59], heats[0], heats[:, 0, :5], heats[:, :0], heats.astype(str)):
        with pytest.raises(FeatlabError, match=r"given\['x'\] must have a heat map \(n, h, w\)"):
            asked(given={"x": wrong})
    partly = heats.copy()
    partly[7, 0, 0] = np.nan
    with pytest.raises(FeatlabError, match="row 7 is partly NaN or infinite"):
        asked(given={"x": partly})
    partly[7] = np.inf
    with pytest.raises(FeatlabError, match="row 7 is partly"):
        asked(given={"x": partly})
    for rows in ([60], [0.5], np.ones(59, bool), [[1, 2]]):
        with pytest.raises(FeatlabError, match="^rows .*59|^rows must be row numbers or a mask"):
            asked(rows=rows)


def test_heat_maps_of_the_predicted_class(planted):
    split, labels = planted_split(), planted.images["label"].to_numpy(str)
    test = np.flatnonzero(split == "test")
    wrong = labels.copy()
    wrong[test[:4]] = np.where(labels[test[:4]] == "a", "b", "a")

    def asked(**parameters):
        return localise.evaluate_localisation(
            planted,
            split,
            methods=["best_detector"],
            neurons=PLANTED,
            options=LocalisationOptions(**parameters),
        )

    known, guessed = asked(predicted=wrong), asked(predicted=wrong, target="predicted")
    first, second = (x.table.set_index("method").loc["best_detector"] for x in (known, guessed))
    assert (first["box_accuracy"], second["box_accuracy"]) == (1, 0.8)
    # Where the class is right both boxes are the same one.
    assert first["top1_loc"] == second["top1_loc"] == 0.8
    assert (first["class_asked"], second["class_asked"]) == ("label", "predicted")
    assert guessed.parameters["target"] == "predicted"
    assert "predicted" in guessed.parameters["class_asked_for"]
    assert guessed.table.set_index("method").loc["whole_image", "class_asked"] == "none"
    with pytest.raises(FeatlabError, match="give predicted"):
        asked(target="predicted")
    with pytest.raises(FeatlabError, match="target must be one of label, predicted, got 'best'"):
        asked(target="best", predicted=wrong)
    with pytest.raises(FeatlabError, match=r"from the classes a, b .*got \['cow'\]"):
        asked(target="predicted", predicted=np.where(labels == "a", "cow", "b"))


def test_seconds_are_each_methods_own(planted):
    @localise.register("slow", "slow")
    def slow(maps, context):
        time.sleep(0.2)
        return maps.sum(axis=-1)

    try:
        fitted = localise.fitting.fit_methods(
            planted, planted_split() == "train", ["slow", "sum"], boxes=planted.boxes
        )
        _, seconds = timed_heats(planted, np.arange(40), fitted)
    finally:
        del localise.METHODS["slow"]
    assert seconds["slow"] >= 0.6  # Three batches of 16 rows.
    assert 0 < seconds["sum"] < 0.3


# ----------------------------------------------------------------------------- several layers


def test_fused_heats_are_the_geometric_mean_on_the_finest_grid():
    rng = np.random.default_rng(0)
    coarse, fine = rng.random((3, 4, 4)), rng.random((3, 8, 8))
    fused = fuse_heats([coarse, fine])
    expected = normalise(upsample(coarse, 8)) * normalise(fine)
    np.testing.assert_allclose(fused, np.sqrt(expected), atol=1e-6)
    assert fused.dtype == np.float32
    # Each layer counts by its own range: its units do not matter.
    np.testing.assert_allclose(fuse_heats([coarse * 100 - 7, fine]), fused, atol=1e-4)
    assert fuse_heats([coarse]) is coarse
    draws = fuse_heats([np.stack([coarse, coarse], 1), np.stack([fine, fine], 1)])
    assert np.array_equal(draws[:, 1], fused)


def test_a_flat_layer_says_nothing():
    heat = np.random.default_rng(0).random((2, 5, 5)).astype(np.float32)
    flat = np.full((2, 3, 3), 7.0)
    np.testing.assert_allclose(fuse_heats([heat, flat]), normalise(heat), atol=1e-6)
    assert not fuse_heats([flat, flat]).any()
    with pytest.raises(FeatlabError, match="NaN"):
        fuse_heats([heat, np.full((2, 5, 5), np.nan)])


@pytest.fixture(scope="module")
def two_layers(planted: FakeStore) -> FakeStore:
    """The top layer, and one of 7 x 7 with a neuron fewer."""
    coarse = planted.array.reshape(60, 7, 2, 7, 2, 8).mean(axis=(2, 4))[..., :7]
    return FakeStore(
        planted.images, planted.boxes, planted.array, planted.frames, others={"mid": coarse}
    )


@pytest.mark.slow
def test_heat_maps_of_several_layers_are_fused(two_layers):
    neurons = pd.concat([PLANTED, PLANTED.assign(layer="mid")], ignore_index=True)
    weights = {
        "mid": head(np.eye(7)[[TARGET, 4]]),
        "top": head(np.eye(8)[[TARGET, 4]]),
    }
    found = localise.evaluate_localisation(
        two_layers,
        planted_split(),
        methods=["detectors", "cam", "sum", "cell_boxes", "random_neuron"],
        neurons=neurons,
        weights=weights,
        layer=["mid", "top"],
    )
    assert found.parameters["layer"] == "mid, top"
    assert found.table.set_index("method").loc["detectors", "box_accuracy"] > 0.95
    rows = np.flatnonzero(planted_split() == "test")
    fused = localise.heat_maps(two_layers, rows, found.fitted)
    assert fused["random_neuron"].shape == (20, 10, 14, 14)
    own = np.where(two_layers.images["label"] == "a", TARGET, 4)[rows]
    each = [two_layers.maps(layer=x)[rows, :, :, own] for x in ("mid", "top")]
    np.testing.assert_allclose(fused["cam"], fuse_heats(each), atol=1e-5)
    threshold = found.table.set_index("method").loc["cam", "threshold"]
    boxes = boxes_at(two_layers, rows, fused["cam"], threshold)
    scored = found.per_image.query("method == 'cam'")[bx.CORNERS]
    assert boxes == pytest.approx(scored.to_numpy())


def test_one_layer_with_detectors_is_enough_and_each_needs_its_weights(two_layers):
    split = planted_split()
    found = localise.evaluate_localisation(
        two_layers, split, methods=["detectors"], neurons=PLANTED, layer=["mid", "top"]
    )
    assert found.parameters["classes_without_detectors"] == []
    assert found.table.set_index("method").loc["detectors", "box_accuracy"] > 0.95
    for wrong in (head(np.eye(8)[:2]), {"top": head(np.eye(8)[:2])}):
        with pytest.raises(FeatlabError, match="weights must be a dict .* got none for 'mid'"):
            localise.evaluate_localisation(two_layers, split, weights=wrong, layer=["mid", "top"])


# ----------------------------------------------------------------------------- neurons, drawing


def test_pointing_finds_the_planted_neuron_and_not_the_noise(planted):
    table = neuron_table(("a", TARGET, 0.99), ("a", NOISE, 0.9), ("a", DEAD, 0.8), ("b", 4, 0.9))
    rows = np.flatnonzero(planted_split() == "test")
    found = localise.detectors.neuron_pointing(planted, rows, table)
    assert list(found) == list(judged.POINTING_COLUMNS)
    assert found["neuron"].tolist() == [TARGET, NOISE, DEAD, 4]
    assert (found["n"] == 10).all()
    assert found["pointing"].tolist()[0] == 1
    assert found["pointing"].tolist()[3] == 1
    assert found["pointing"].tolist()[1] < 0.4
    assert found["pointing"].tolist()[2] == 0
    low, high = share_interval(10, 10)
    assert found.loc[0, ["pointing_low", "pointing_high"]].tolist() == [low, high]
    middle = planted.images[["width", "height"]].to_numpy() / 2
    for name, own in found.groupby("class"):
        of_class = rows[planted.images["label"].to_numpy()[rows] == name]
        boxes = planted.boxes.loc[of_class, bx.CORNERS].to_numpy()
        inside = (boxes[:, :2] <= middle[of_class]) & (middle[of_class] <= boxes[:, 2:])
        assert (own["picture_centre"] == inside.all(axis=1).mean()).all()
    mask = planted_split() == "test"
    pd.testing.assert_frame_equal(localise.detectors.neuron_pointing(planted, mask, table), found)


def test_pointing_counts_groups_and_not_their_images(planted):
    rows, table = np.flatnonzero(planted_split() == "test"), neuron_table(("a", NOISE, 0.9))
    widths = {}
    for n_groups in (60, 5, 1):
        groups = np.char.add("g", (np.arange(60) % n_groups).astype(str))
        images = planted.images.assign(group=groups)
        store = FakeStore(images, planted.boxes, planted.array, planted.frames)
        found = localise.detectors.neuron_pointing(store, rows, table).iloc[0]
        widths[n_groups] = found["pointing_high"] - found["pointing_low"]
    assert widths[5] > widths[60] and np.isnan(widths[1])


def test_pointing_equals_the_peak_mapped_to_pixels(planted):
    rows = np.flatnonzero(planted_split() == "test")
    frames = np.tile([0.1, 0.0, 0.9, 1.0], (60, 1))
    store = FakeStore(planted.images, planted.boxes, planted.array, frames)
    found = localise.detectors.neuron_pointing(store, rows, neuron_table(("a", NOISE, 0.9)))
    hits = []
    for row in rows[planted.images["label"].to_numpy()[rows] == "a"]:
        y, x = np.unravel_index(planted.array[row, ..., NOISE].argmax(), (14, 14))
        width, height = planted.images.loc[row, ["width", "height"]]
        px, py = ((x + 0.5) / 14 - 0.1) / 0.8 * width, (y + 0.5) / 14 * height
        box = planted.boxes.loc[row]
        hits.append(box.xmin <= px <= box.xmax and box.ymin <= py <= box.ymax)
    assert found["pointing"].item() == pytest.approx(np.mean(hits))


def test_pointing_without_detectors_or_boxes(planted):
    rows = np.flatnonzero(planted_split() == "test")
    assert localise.detectors.neuron_pointing(planted, rows, neuron_table()).empty
    store = FakeStore(planted.images, planted.boxes.iloc[:0], planted.array, planted.frames)
    found = localise.detectors.neuron_pointing(store, rows, PLANTED)
    assert (found["n"] == 0).all()
    assert found["pointing"].isna().all()


def boxes_at(store: FakeStore, rows: list[int], maps: np.ndarray, threshold: float) -> np.ndarray:
    sizes = store.images[["width", "height"]].to_numpy(float)[rows]
    return localise.heat_boxes(maps, [threshold], frames=store.frames[rows], sizes=sizes)[:, 0]


def test_heat_maps_are_those_that_were_scored(planted, result):
    threshold = result.table.set_index("method").loc["detectors", "threshold"]
    maps = localise.heat_maps(planted, [10, 4], result.fitted, methods="detectors")
    assert list(maps) == ["detectors"] and maps["detectors"].shape == (2, 14, 14)
    scored = result.per_image.query("method == 'detectors'").set_index("row")
    assert boxes_at(planted, [10, 4], maps["detectors"], threshold) == pytest.approx(
        scored.loc[[10, 4], bx.CORNERS].to_numpy()
    )
    mask = np.isin(np.arange(60), [4, 10])
    by_mask = localise.heat_maps(planted, mask, result.fitted, methods=["detectors"])
    assert np.array_equal(by_mask["detectors"], maps["detectors"][::-1])
    with pytest.raises(FeatlabError, match=r"methods must be from .*sum.*got 'nothing'"):
        localise.heat_maps(planted, [4], result.fitted, methods="nothing")
    with pytest.raises(FeatlabError, match="at least one image"):
        localise.heat_maps(planted, [], result.fitted)


# ----------------------------------------------------------------------------- arguments


def test_one_method_may_be_a_word_and_an_unknown_one_is_named(planted):
    found = localise.evaluate_localisation(planted, planted_split(), methods="sum")
    assert found.table["method"].tolist() == ["sum", *BASELINES[1:]]
    with pytest.raises(FeatlabError, match="methods must be from .*got 'summe'"):
        localise.evaluate_localisation(planted, planted_split(), methods="summe")


def test_a_class_without_train_images_is_refused_for_every_method(planted):
    split = np.where((planted.images["label"] == "b") & (planted_split() == "train"), "confirm",
                     planted_split())  # fmt: skip
    for method in ("sum", "ddt", "parts", "best_detector"):
        with pytest.raises(FeatlabError, match="Class 'b' has no image in train"):
            localise.evaluate_localisation(planted, split, methods=method, neurons=PLANTED)
    with pytest.raises(FeatlabError, match="split has no 'train' row"):
        localise.evaluate_localisation(planted, np.full(60, "test"), methods="sum")


def test_parts_of_a_network_with_few_neurons(planted):
    few = FakeStore(planted.images, planted.boxes, planted.array[..., [TARGET, 4]], planted.frames)
    found = localise.evaluate_localisation(few, planted_split(), methods="parts")
    assert found.table.set_index("method").loc["parts", "box_accuracy"] > 0.9


def test_the_best_detector_is_the_first_of_confirmed_detectors(planted):
    """Of equal effects the rank decides, not the channel's number."""
    table = neuron_table(("a", NOISE, 1.0), ("a", TARGET, 1.0), ("b", 4, 1.0)).assign(
        rank=[2, 1, 1]
    )
    for rows in ([0, 1, 2], [1, 0, 2]):
        fitted = localise.fitting.fit_methods(
            planted, planted_split() == "train", "best_detector", boxes=planted.boxes,
            neurons=table.iloc[rows],
        )  # fmt: skip
        heats = localise.heat_maps(planted, [0], fitted)["best_detector"]
        own = planted.array[0, ..., arguments.confirmed_detectors(table)["neuron"][0]]
        np.testing.assert_allclose(heats[0] / heats[0].max(), own / own.max(), atol=1e-6)


def test_true_boxes_without_area_are_none(planted):
    empty = planted.boxes.assign(xmax=planted.boxes["xmin"])
    boxes = pd.concat([planted.boxes, empty], ignore_index=True)
    store = FakeStore(planted.images, boxes, planted.array, planted.frames)
    one, other = (
        localise.evaluate_localisation(x, planted_split(), methods="sum").table
        for x in (planted, store)
    )
    pd.testing.assert_frame_equal(one.drop(columns=SECONDS), other.drop(columns=SECONDS))
