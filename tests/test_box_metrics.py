"""Localisation metrics against hand-made cases, brute force and the reference evaluator's rules."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from listed_regions import NO_BOXES, listed
from scipy import ndimage

from featlab import FeatlabError
from featlab.boxes import geometry as bx
from featlab.boxes import scores
from featlab.intervals import bootstrap_draws, draws_interval
from featlab.localise._components import all_regions
from featlab.localise.heat import normalise, upsample
from featlab.localise.regions import THRESHOLDS, score_boxes, score_heats
from featlab.system.machine import compiled

EIGHT = np.ones((3, 3))
WHOLE = np.array([0.0, 0.0, 1.0, 1.0])


def random_truth(n: int, rng: np.random.Generator, sizes: np.ndarray) -> pd.DataFrame:
    """None to three boxes per image, some of them on the border."""
    owner = np.repeat(np.arange(n), rng.integers(0, 4, n))
    corners = np.sort(rng.random((len(owner), 2, 2)), axis=1).reshape(-1, 4)
    corners = np.where(rng.random(corners.shape) < 0.2, corners.round(), corners)
    boxes = pd.DataFrame(corners * np.tile(sizes, 2)[owner], columns=bx.CORNERS)
    return boxes.assign(image=owner)


def scores_of(heat: np.ndarray, truth: pd.DataFrame, sizes: np.ndarray, **more):
    return score_heats(
        heat,
        truth[bx.CORNERS].to_numpy(),
        truth["image"].to_numpy(),
        frames=np.tile(WHOLE, (len(heat), 1)),
        sizes=sizes,
        **more,
    )


# ----------------------------------------------------------------------------- regions


@pytest.mark.parametrize("density", [0, 0.05, 0.3, 0.41, 0.5, 0.7, 1])
def test_all_regions_equal_scipy_label(density):
    rng = np.random.default_rng(int(density * 100))
    for shape in [(1, 1), (1, 9), (9, 1), (2, 2), (13, 17), (32, 32)]:
        pixels = (rng.random(shape) < density) * rng.integers(1, 256, shape)
        pixels = pixels.astype(np.uint8)
        cuts = np.array([0, 3, 90, 200, 254, 90, *range(0, 250, 10)], dtype=np.uint8)
        found = listed(all_regions(pixels, cuts))
        expected = []
        for k, cut in enumerate(cuts):
            labels, _ = ndimage.label(pixels > cut, EIGHT)
            sizes = np.bincount(labels.ravel())[1:]
            for (y, x), area in zip(ndimage.find_objects(labels), sizes, strict=True):
                expected.append([k, x.start, y.start, x.stop, y.stop, area])
        got = np.column_stack([found.cut, found.boxes, found.area])
        assert got.tolist() == expected


def test_plateaus_and_rounding_do_not_matter():
    rng = np.random.default_rng(0)
    heat = normalise(upsample(np.maximum(rng.normal(size=(9, 7)), 0), 96))
    pixels = (heat * np.float32(255)).astype(np.uint8)
    cuts = np.arange(0, 255, 5, dtype=np.uint8)
    plain = listed(all_regions(pixels, cuts))
    for one, other in zip(plain, listed(all_regions(pixels, cuts, height=heat)), strict=True):
        assert np.array_equal(one, other)


def test_where_no_folder_can_be_written_regions_are_compiled_anew(monkeypatch):
    def njit(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr("numba.njit", njit)
    assert compiled(len) is len


def published(heat: list[list[float]]) -> list[list[float]]:
    """Boxes as the reference evaluator's own tests print them: clipped to the last pixel."""
    pixels = (np.array(heat) * 255).astype(np.uint8)
    cuts = np.array([int(tau * pixels.max()) for tau in np.arange(0, 1, 0.2)], dtype=np.uint8)
    height, width = pixels.shape
    limits = [width - 1, height - 1, width - 1, height - 1]
    return np.minimum(all_regions(pixels, cuts).largest(NO_BOXES)[0], limits).tolist()


def test_the_reference_evaluators_cases():
    one_blob = [[0, 0, 0, 0, 0], [0, 0.4, 0.4, 0.4, 0.6], [0, 0.4, 1, 0.8, 0.6]]
    one_blob.append([0, 0.4, 0.4, 0.4, 0.6])
    assert published(one_blob) == [
        [1, 1, 4, 3], [1, 1, 4, 3], [2, 1, 4, 3], [2, 2, 4, 3], [2, 2, 3, 3],
    ]  # fmt: skip
    blobs = [[0.4, 0, 0.2, 0.2, 0.2], [0.4, 0.4, 0, 0.4, 0], [0, 0, 0, 0.4, 0]]
    blobs.append([1, 0.6, 0.8, 0.2, 0.2])
    assert published(blobs) == [
        [0, 0, 4, 3], [0, 0, 2, 2], [0, 3, 3, 3], [2, 3, 3, 3], [0, 3, 1, 3],
    ]  # fmt: skip
    assert published([[0.0] * 3] * 3) == [[0, 0, 0, 0]] * 5


def test_regions_equal_opencv_contours():
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    rng = np.random.default_rng(0)
    heats = ndimage.gaussian_filter(rng.random((6, 14, 14)), (0, 1, 1)).astype(np.float32)
    for heat in heats:
        pixels = (normalise(upsample(heat, 224)) * 255).astype(np.uint8)
        cuts = np.floor(THRESHOLDS * pixels.max()).astype(np.uint8)
        regions = all_regions(pixels, cuts)
        found, largest = listed(regions), regions.largest(NO_BOXES)[0]
        for k, cut in enumerate(cuts):
            hot = (pixels > cut).astype(np.uint8)
            contours = cv2.findContours(hot, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
            rectangles = [cv2.boundingRect(contour) for contour in contours]
            boxes = sorted([x, y, x + w, y + h] for x, y, w, h in rectangles)
            assert sorted(found.boxes[found.cut == k].tolist()) == boxes
            x, y, w, h = cv2.boundingRect(max(contours, key=cv2.contourArea))
            assert largest[k].tolist() == [x, y, x + w, y + h]


# ----------------------------------------------------------------------------- MaxBoxAcc


def brute_force(heat, truth, sizes, thresholds, grid):
    """The protocol one image and one threshold at a time, every box by counting labels."""
    largest = np.full((len(heat), len(thresholds)), np.nan)
    best = largest.copy()
    for i, own in truth.groupby("image"):
        fine = upsample(heat[i], grid)
        fine = (fine - fine.min()) / (fine.max() - fine.min())
        pixels = (fine * np.float32(255)).astype(np.uint8)
        true = own[bx.CORNERS].to_numpy() / np.tile(sizes[i], 2) * grid
        for k, tau in enumerate(thresholds):
            labels, n = ndimage.label(pixels > int(tau * pixels.max()), EIGHT)
            parts = ndimage.find_objects(labels)
            ious = [
                max(float(bx.iou([x.start, y.start, x.stop, y.stop], box)) for box in true)
                for y, x in parts
            ]
            sizes_of = []
            for label in range(1, n + 1):
                windows = np.lib.stride_tricks.sliding_window_view(labels == label, (2, 2))
                sizes_of.append(np.clip(windows.sum(axis=(2, 3)) - 2, 0, 2).sum())
            best[i, k] = max(ious, default=0)
            largest[i, k] = ious[n - 1 - int(np.argmax(sizes_of[::-1]))] if n else 0
    return largest, best


def test_scores_equal_brute_force():
    rng = np.random.default_rng(3)
    heat = rng.random((12, 6, 5)).astype(np.float32)
    sizes = rng.integers(40, 300, (12, 2)).astype(float)
    truth = random_truth(12, rng, sizes)
    thresholds = np.arange(0, 100, 9) / 100
    found = scores_of(heat, truth, sizes, thresholds=thresholds, grid=56)
    largest, best = brute_force(heat, truth, sizes, thresholds, 56)
    assert found.iou == pytest.approx(largest, nan_ok=True)
    assert found.iou_any == pytest.approx(best, nan_ok=True)
    assert np.isnan(found.iou).all(axis=1).sum() == 12 - truth["image"].nunique() > 0
    known = ~np.isnan(largest[:, 0])
    per_delta = [(largest[known] >= delta).mean(axis=0).max() for delta in scores.DELTAS]
    assert scores.max_box_acc(found.iou) == pytest.approx(per_delta[1])
    any_delta = [(best[known] >= delta).mean(axis=0).max() for delta in scores.DELTAS]
    assert scores.max_box_acc_v2(found.iou_any) == pytest.approx(np.mean(any_delta))
    assert bx.best_iou(found.boxes, np.arange(12), truth) == pytest.approx(largest, nan_ok=True)
    assert (found.iou_any[known] >= found.iou[known]).all()


def test_max_box_acc_has_one_threshold_for_all_images():
    ious = np.array([[0.6, 0.2], [0.2, 0.6], [0.2, 0.71], [np.nan, np.nan]])
    assert scores.max_box_acc(ious) == pytest.approx(2 / 3)  # Each its own would give 1.
    assert scores.max_box_acc(ious, delta=0.7) == pytest.approx(1 / 3)
    assert scores.max_box_acc_v2(ious) == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)
    assert scores.box_acc_at(ious, [0, 0, 1]) == pytest.approx((1 / 3 + 1 / 3 + 1 / 3) / 3)
    assert np.isnan(scores.max_box_acc(ious[3:]))
    with pytest.raises(FeatlabError, match="a column per threshold"):
        scores.max_box_acc(ious[:, 0])


def test_two_blobs_the_largest_misses_and_any_hits():
    heat = np.zeros((1, 16, 16), dtype=np.float32)
    heat[0, 1:4, 1:4] = 1
    heat[0, 8:15, 8:15] = 0.9
    truth = pd.DataFrame([[0, 1.0, 1.0, 4.0, 4.0]], columns=["image", *bx.CORNERS])
    found = scores_of(heat, truth, np.array([[16.0, 16.0]]), thresholds=[0.5, 0.95])
    assert found.iou[0, 0] == 0
    assert found.iou_any[0, 0] > 0.7
    assert found.iou[0, 1] == found.iou_any[0, 1] > 0.3  # Only the small one is left.
    assert found.pointing.tolist() == [1]


def test_flat_maps_and_nan():
    truth = pd.DataFrame([[0, 1.0, 1.0, 4.0, 4.0]], columns=["image", *bx.CORNERS])
    flat = np.ones((1, 7, 7), dtype=np.float32)
    found = scores_of(flat, truth, np.array([[8.0, 8.0]]))
    assert not found.boxes.any()
    assert not found.iou.any()
    assert not found.iou_any.any()
    assert found.pointing.tolist() == found.heat_in_box.tolist() == [0]
    flat[0, 0, 0] = np.nan
    with pytest.raises(FeatlabError, match="NaN"):
        scores_of(flat, truth, np.array([[8.0, 8.0]]))


def test_border_boxes_are_whole_and_degenerate_ones_count_nothing():
    heat = np.zeros((2, 8, 8), dtype=np.float32)
    heat[:, :4, :] = 1
    truth = pd.DataFrame(
        [[0, 0.0, 0.0, 80.0, 40.0], [1, 5.0, 5.0, 5.0, 9.0]], columns=["image", *bx.CORNERS]
    )
    found = scores_of(heat, truth, np.full((2, 2), 80.0), thresholds=[0.5])
    assert found.iou[0, 0] == pytest.approx(1, abs=0.02)
    assert found.iou[1, 0] == found.iou_any[1, 0] == 0


def test_heat_in_boxes_is_that_of_brute_force():
    """Boxes of many pictures are taken to the grid together; the loops say what numpy says."""
    rng = np.random.default_rng(4)
    heat, sizes = rng.random((70, 7, 7), dtype=np.float32), np.full((70, 2), 90.0)
    heat[9] = 0
    truth = random_truth(70, rng, sizes)
    found = scores_of(heat, truth, sizes, thresholds=[0.5], grid=28)
    for i, own in truth.groupby("image"):
        mask = scores.box_masks(
            own[bx.CORNERS].to_numpy() / 90, np.zeros(len(own), int), 1, (28,) * 2
        )
        fine = normalise(upsample(heat[i], 28))[None]
        assert found.heat_in_box[i] == pytest.approx(scores.heat_in_mask(fine, mask)[0], abs=1e-6)
        assert found.pointing[i] == pytest.approx(scores.pointing_hits(fine, mask)[0])


def test_given_boxes_are_scored_like_even_heat():
    sizes = np.array([[100.0, 50.0]] * 3)
    truth = pd.DataFrame(
        [[0, 0.0, 0.0, 50.0, 50.0], [1, 0.0, 0.0, 25.0, 25.0], [1, 75.0, 25.0, 100.0, 50.0]],
        columns=["image", *bx.CORNERS],
    )
    boxes = bx.whole_picture_boxes(sizes)
    found = score_boxes(boxes, truth[bx.CORNERS], truth["image"], sizes=sizes)
    assert found.iou[:2, 0].tolist() == found.iou_any[:2, 0].tolist() == [0.5, 0.125]
    assert found.heat_in_box[:2] == pytest.approx([0.5, 0.25])
    assert found.pointing[:2].tolist() == [1, 0]  # The middle is on the edge of the first box.
    for values in (found.iou, found.pointing, found.heat_in_box):
        assert np.isnan(values[2]).all()


def test_success_curve_falls_from_one():
    ious = np.random.default_rng(0).random((50, 3))
    curve = scores.success_curve(ious, [0, 0.5, 1])
    assert curve.shape == (3, 3)
    assert (curve[0] == 1).all()
    assert curve[1] == pytest.approx((ious >= 0.5).mean(axis=0))
    assert not curve[2].any()


# ----------------------------------------------------------------------------- pixels


def brute_force_pxap(heat, masks, thresholds):
    on, beside = heat[masks == 1], heat[masks == 0]
    area, before = 0.0, 0.0
    for tau in [1.0, *thresholds[::-1]]:
        true, false = (on >= tau).sum(), (beside >= tau).sum()
        if true + false:
            area += true / (true + false) * (true / len(on) - before)
            before = true / len(on)
    return area


def test_pxap_equals_brute_force_and_leaves_ignored_pixels_out():
    rng = np.random.default_rng(0)
    heat = rng.random((5, 20, 30))
    heat[0, 0, :3] = 0, 0.5, 1
    masks = rng.choice([0, 1, scores.IGNORE], heat.shape)
    thresholds = np.arange(100) / 100
    histograms = scores.pixel_histograms(heat, masks)
    assert histograms.shape == (5, 2, 101)
    assert histograms.sum() == (masks != scores.IGNORE).sum()
    expected = brute_force_pxap(heat, masks, thresholds)
    assert scores.pxap(histograms) == pytest.approx(expected)
    heat[masks == scores.IGNORE] = rng.random((masks == scores.IGNORE).sum())
    assert scores.pxap(scores.pixel_histograms(heat, masks)) == pytest.approx(expected)
    weights = np.array([[1.0] * 5, [2, 0, 0, 3, 0]])
    again = np.concatenate([heat[[0, 0, 3, 3, 3]]]), np.concatenate([masks[[0, 0, 3, 3, 3]]])
    assert scores.pxap(histograms, weights)[1] == pytest.approx(
        scores.pxap(scores.pixel_histograms(*again))
    )


def test_masks_are_taken_to_the_grid():
    heat = np.zeros((2, 8, 8), dtype=np.float32)
    heat[:, :, 4:] = 1
    mask = np.zeros((4, 6), dtype=int)
    mask[:, 3:] = 1
    mask[:, 2:4] = scores.IGNORE
    truth = pd.DataFrame([[0, 1.0, 1.0, 4.0, 4.0]], columns=["image", *bx.CORNERS])
    found = scores_of(heat, truth, np.array([[6.0, 4.0]] * 2), masks=[mask, None])
    assert found.histograms[0].sum(axis=1) == pytest.approx([224 * 224 / 3] * 2, rel=0.02)
    assert not found.histograms[1].any()
    assert scores.pxap(found.histograms) == 1
    boxes = score_boxes(
        [[3.0, 0.0, 6.0, 4.0]] * 2,
        truth[bx.CORNERS],
        truth["image"],
        sizes=[[6.0, 4.0]] * 2,
        masks=[mask, None],
    )
    assert scores.pxap(boxes.histograms) == 1
    with pytest.raises(FeatlabError, match="of 0, 1 and 255"):
        scores_of(heat, truth, np.array([[6.0, 4.0]] * 2), masks=[mask + 2, None])


def test_pxap_of_perfect_constant_and_empty():
    masks = np.zeros((1, 10, 10), dtype=int)
    masks[0, :3] = 1
    masks[0, 3] = scores.IGNORE
    perfect = (masks == 1).astype(float)
    assert scores.pxap(scores.pixel_histograms(perfect, masks)) == 1
    for value in (0.0, 0.5, 1.0):
        constant = np.full(masks.shape, value)
        assert scores.pxap(scores.pixel_histograms(constant, masks)) == pytest.approx(30 / 90)
    assert np.isnan(scores.pxap(scores.pixel_histograms(perfect, np.zeros_like(masks))))
    for bad in (np.nan, -0.1, 1.1):
        with pytest.raises(FeatlabError, match=r"in \[0, 1\] without NaN"):
            scores.pixel_histograms(np.full(masks.shape, bad), masks)
    for other in (perfect[0], perfect[:, 1:]):
        with pytest.raises(FeatlabError, match="one shape"):
            scores.pixel_histograms(other, masks)
    for thresholds in ([0.5, 0.2], [0, 0.2, 0.2], [0, 1], [], [[0]]):
        with pytest.raises(FeatlabError, match="increase from 0"):
            scores.pixel_histograms(perfect, masks, thresholds)


def test_pointing_and_heat_share():
    heat = np.zeros((3, 4, 4))
    heat[0, 1, 1] = 1
    heat[1, 0, 0] = heat[1, 3, 3] = 1
    masks = np.zeros((3, 4, 4), dtype=bool)
    masks[:, :2, :2] = True
    assert scores.pointing_hits(heat, masks).tolist() == [1, 0.5, 0]
    assert scores.heat_in_mask(heat, masks).tolist() == [1, 0.5, 0]
    ignored = masks.astype(int)
    ignored[1, 3, 3] = scores.IGNORE
    assert scores.heat_in_mask(heat, ignored)[1] == 1


def test_box_masks_hold_cell_centres():
    boxes = [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.26, 0.26, 0.3, 0.3]]
    masks = scores.box_masks(boxes, [0, 0, 2], 3, (4, 4))
    assert masks[0].sum() == 8
    assert not masks[1].any()
    assert not masks[2].any()


# ----------------------------------------------------------------------------- intervals


def test_bootstrap_of_an_oracle_equals_resampling_by_hand():
    rng = np.random.default_rng(0)
    ious = rng.random((30, 5))
    chosen: list[np.ndarray] = []

    def statistic(weights):
        chosen.extend(weights)
        return scores.max_box_acc_v2(ious, weights=weights)

    draws = bootstrap_draws(statistic, 30, n_boot=50)
    for weights, value in zip(chosen, draws, strict=True):
        shares = weights / weights.sum()
        levels = [[shares @ (ious[:, t] >= delta) for t in range(5)] for delta in scores.DELTAS]
        assert value == pytest.approx(np.max(levels, axis=1).mean())
    low, high = draws_interval(draws, 30)
    assert low < scores.max_box_acc_v2(ious) <= high


# ----------------------------------------------------------------------------- legacy


@pytest.fixture(scope="module")
def legacy():
    path = Path(__file__).resolve().parents[1] / "analysis" / "legacy_boxes.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plus_one_is_the_reference_evaluators_iou(legacy):
    assert legacy.legacy_iou_plus_one([1, 2, 5, 6], [3, 1, 4, 5]) == pytest.approx(8 / 27)
    # The same pixels in continuous coordinates: the last pixel's far edge.
    assert bx.iou([1, 2, 6, 7], [3, 1, 5, 6]) == pytest.approx(8 / 27)
    assert legacy.legacy_iou_plus_one([0, 0, 0, 0], [0, 0, 0, 0]) == 1
    assert bx.iou([0, 0, 0, 0], [0, 0, 0, 0]) == 0
    with pytest.raises(FeatlabError, match=r"in pixels .* boxes.iou"):
        legacy.legacy_iou_plus_one([0, 0, 0.82, 1], [0, 0, 1, 1])
    with pytest.raises(FeatlabError, match="xmin <= xmax"):
        legacy.legacy_iou_plus_one([5, 5, 1, 1], [0, 0, 9, 9])


def test_batch_iou_forgets_misses_and_weighs_by_size(legacy):
    true = np.array([[0, 0, 10, 10], [0, 0, 1, 1], [50, 50, 60, 60]])
    predicted = np.array([[0, 0, 10, 8], [0.5, 0, 1, 1], [0, 0, 10, 10]])
    assert bx.iou(true, predicted).mean() == pytest.approx((0.8 + 0.5 + 0) / 3)
    assert legacy.legacy_batch_iou(true, predicted) == pytest.approx(80.5 / 101)
    assert np.isnan(legacy.legacy_batch_iou(true[2:], predicted[2:]))


def test_corners_read_as_width_flatter(legacy):
    a, b = [[100, 100, 120, 120]], [[121, 100, 141, 120]]
    assert bx.iou(a, b)[0] == 0
    wrong = legacy.legacy_corners_as_width(a)
    assert wrong.tolist() == [[100, 100, 220, 220]]
    expected = float(bx.iou(wrong, legacy.legacy_corners_as_width(b))[0])
    assert legacy.legacy_batch_iou(a, b, corners_as_width=True) == pytest.approx(expected)
    assert expected > 0.6


@pytest.mark.parametrize("smooth", [0, 0.7, 2])
def test_the_largest_region_from_runs_is_that_of_all_regions(smooth):
    rng = np.random.default_rng(5)
    for shape in [(1, 1), (1, 9), (9, 1), (2, 2), (8, 13), (40, 40)] * 4:
        pixels = rng.random((12, *shape))
        pixels = ndimage.gaussian_filter(pixels, (0, smooth, smooth)) if smooth else pixels
        pixels = (255 * (pixels - pixels.min()) / (np.ptp(pixels) or 1)).astype(np.uint8)
        cut = np.quantile(pixels, rng.uniform(0, 1)).astype(np.uint8)
        expected = [all_regions(one, np.array([cut])).largest(NO_BOXES)[0][0] for one in pixels]
        np.testing.assert_array_equal(bx.largest_boxes(pixels > cut), expected)


def test_the_largest_region_where_all_or_nothing_is_hot():
    hot = np.zeros((3, 5, 7), bool)
    hot[1] = True
    np.testing.assert_array_equal(bx.largest_boxes(hot), [[0] * 4, [0, 0, 7, 5], [0] * 4])
    np.testing.assert_array_equal(bx.largest_boxes(hot[:1]), [[0] * 4])
