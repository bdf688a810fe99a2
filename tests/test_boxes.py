"""Geometry and scores of boxes, against hand-made cases and other implementations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featlab import FeatlabError
from featlab.boxes import box_accuracy
from featlab.boxes import geometry as bx


def box_table(*rows: tuple[int, float, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["image", *bx.CORNERS])


# ----------------------------------------------------------------------------- IoU


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3),
        ((0, 0, 4, 5), (0, 0, 3, 5), 0.75),
        ((0, 0, 3, 3), (1, 1, 4, 4), 4 / 14),
        ((0, 0, 4, 4), (1, 2, 5, 5), 6 / 22),
        ((0, 0, 5, 4), (1, 0, 5, 5), 16 / 24),
        ((0, 0, 0.9, 0.9), (0, 0, 1.0, 0.81 / 0.9), 0.9),
        ((0, 0, 1, 1), (1, 0, 2, 1), 0.0),
        ((0, 0, 1, 1), (1, 1, 2, 2), 0.0),
        ((0, 0, 1, 1), (5, 5, 6, 6), 0.0),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0.0),
        ((0, 0, 10, 10), (5, 5, 5, 8), 0.0),
        ((3, 3, 1, 1), (0, 0, 4, 4), 0.0),
    ],
)
def test_iou_by_hand(a, b, expected):
    assert bx.iou(a, b) == pytest.approx(expected, abs=1e-12)
    assert bx.iou(b, a) == pytest.approx(expected, abs=1e-12)


def test_iou_on_unit_coordinates_has_no_plus_one():
    assert bx.iou((0, 0, 0.82, 1), (0, 0, 1, 1)) == pytest.approx(0.82)


def test_iou_matrix_equals_counting_cells():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 12, (20, 2, 2)), axis=1).reshape(20, 4).astype(float)
    masks = np.zeros((20, 12, 12), dtype=bool)
    for mask, (xmin, ymin, xmax, ymax) in zip(masks, corners.astype(int), strict=True):
        mask[ymin:ymax, xmin:xmax] = True
    expected = np.zeros((20, 20))
    for i in range(20):
        for j in range(20):
            union = (masks[i] | masks[j]).sum()
            expected[i, j] = (masks[i] & masks[j]).sum() / union if union else 0
    assert np.allclose(bx.iou_matrix(corners, corners), expected)


def test_iou_refuses_nan_and_wrong_columns():
    with pytest.raises(FeatlabError, match="NaN"):
        bx.iou([0, 0, np.nan, 1], [0, 0, 1, 1])
    with pytest.raises(FeatlabError, match="4 columns"):
        bx.iou([0, 0, 1], [0, 0, 1])


def test_iou_of_no_boxes_is_empty():
    assert bx.iou(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0,)
    assert bx.iou_matrix(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)


coordinate = st.floats(0, 1000, allow_nan=False, width=32)
corners = st.tuples(coordinate, coordinate, coordinate, coordinate)


@settings(max_examples=60, deadline=None)
@given(corners, corners, st.floats(0.125, 8, width=32))
def test_iou_is_symmetric_bounded_and_scale_free(a, b, scale):
    a, b = np.array(a), np.array(b)
    value = float(bx.iou(a, b))
    assert 0 <= value <= 1 + 1e-9
    assert value == float(bx.iou(b, a))
    assert value == pytest.approx(float(bx.iou(a * scale, b * scale)), abs=1e-6)


# ----------------------------------------------------------------------------- ground truth


def test_best_iou_takes_the_best_box_of_the_own_image():
    table = box_table((2, 0, 0, 2, 2), (0, 0, 0, 4, 4), (2, 0, 0, 4, 2), (0, 0, 0, 1, 1))
    predicted = np.array([[0, 0, 4, 2], [0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 2]], dtype=float)
    result = bx.best_iou(predicted, [2, 0, 1, 0], table)
    assert result[[0, 1, 3]] == pytest.approx([1.0, 1.0, 0.5])
    assert np.isnan(result[2])


def test_best_iou_of_several_thresholds_equals_one_at_a_time():
    rng = np.random.default_rng(1)
    predicted = np.sort(rng.random((6, 5, 2, 2)), axis=2).reshape(6, 5, 4)
    truth = np.sort(rng.random((9, 2, 2)), axis=1).reshape(9, 4)
    table = box_table(
        *((int(i), *box) for i, box in zip(rng.integers(0, 6, 9), truth, strict=True))
    )
    rows = rng.permutation(6)
    for function in (bx.best_iou, bx.centre_in_box):
        together = function(predicted, rows, table)
        for t in range(5):
            assert np.array_equal(together[:, t], function(predicted[:, t], rows, table), True)


def test_best_iou_without_any_box_is_nan():
    assert np.isnan(bx.best_iou(np.ones((3, 4)), [0, 1, 2], box_table())).all()


def test_centre_in_box():
    table = box_table((0, 0, 0, 2, 2), (0, 8, 8, 10, 10), (1, 0, 0, 5, 5))
    predicted = [[8, 8, 10, 10], [0, 0, 12, 12], [0, 0, 0, 0], [3, 3, 1, 1], [0, 0, 9, 9]]
    result = bx.centre_in_box(np.array(predicted, float), [0, 0, 1, 1, 7], table)
    assert result[:4].tolist() == [1, 0, 0, 0]  # An empty prediction has no centre.
    assert np.isnan(result[4])


# ----------------------------------------------------------------------------- coordinates


def test_letterbox_by_hand():
    # 200 x 100 pixels in a square: the picture fills the middle half.
    frames, sizes = np.array([[0, 0.25, 1, 0.75]]), np.array([[200, 100]])
    inside = bx.frame_to_picture(np.array([[0.5, 0.5, 1.0, 0.75]]), frames, sizes)
    assert inside == pytest.approx(np.array([[100, 50, 200, 100]]))
    outside = bx.frame_to_picture(np.array([[0.2, 0.0, 0.4, 0.2]]), frames, sizes)
    assert outside == pytest.approx(np.array([[40, 0, 80, 0]]))
    assert bx.iou(outside, [[0, 0, 200, 100]])[0] == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 2**31))
def test_coordinates_there_and_back(width, height, seed):
    rng = np.random.default_rng(seed)
    side = max(width, height)
    margin = (1 - np.array([width, height]) / side) / 2
    frames = np.array([[*margin, *(1 - margin)]])
    sizes = np.array([[width, height]])
    pixels = np.sort(rng.random((1, 2, 2)), axis=1).reshape(1, 4) * [[width, height] * 2]
    there = bx.picture_to_frame(pixels, frames, sizes)
    assert bx.frame_to_picture(there, frames, sizes) == pytest.approx(pixels, abs=1e-6)
    assert bx.pixel_boxes(bx.unit_boxes(pixels, sizes), sizes) == pytest.approx(pixels)


def test_bad_geometry_is_refused():
    with pytest.raises(FeatlabError, match="sizes must be positive"):
        bx.unit_boxes([[0, 0, 1, 1]], [[0, 10]])
    with pytest.raises(FeatlabError, match="frames must have a width"):
        bx.frame_to_picture([[0, 0, 1, 1]], [[0.5, 0, 0.5, 1]], [[10, 10]])


# ----------------------------------------------------------------------------- baselines


def test_whole_image_and_mean_box():
    sizes = np.array([[100, 50], [10, 10], [40, 20]])
    assert bx.whole_picture_boxes(sizes).tolist()[0] == [0, 0, 100, 50]
    table = box_table((0, 0, 0, 100, 50), (2, 20, 10, 40, 20), (1, 9, 9, 10, 10))
    assert bx.mean_box(table, sizes, [0, 2]) == pytest.approx([0.25, 0.25, 1.0, 1.0])
    with pytest.raises(FeatlabError, match="none of the given rows"):
        bx.mean_box(table, sizes, [])


def test_centre_heat_is_centred_and_symmetric():
    heat = bx.centre_heat((9, 15))
    assert heat.shape == (9, 15)
    assert np.unravel_index(heat.argmax(), heat.shape) == (4, 7)
    assert np.allclose(heat, heat[::-1, ::-1])


# ----------------------------------------------------------------------------- accuracy


def test_box_accuracy_leaves_nan_out():
    assert box_accuracy(np.array([0.5, 0.49, np.nan, 1.0])) == pytest.approx(2 / 3)
    assert box_accuracy(np.array([0.5, 0.49]), delta=0.3) == 1
    assert np.isnan(box_accuracy(np.array([np.nan])))
