"""The ground floor: every kind of argument is read in one way."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from featlab import FeatlabError
from featlab.arguments import (
    check_between,
    check_choice,
    check_choices,
    class_codes,
    confirmed_detectors,
    detector_row,
    finite_matrix,
    group_codes,
    group_names,
    has_groups,
    in_turn,
    neuron_ids,
    origin_of,
    row_numbers,
    selected_detectors,
    split_sides,
    true_boxes,
    with_unseen_limits,
)

# ---------------------------------------------------------------------------- rows


def test_what_is_confirmed_is_printed_with_the_interval_that_allows_for_it():
    table = pd.DataFrame(
        {
            "confirmed": [True, False],
            "auroc_confirmed_low": [0.8, 0.6],
            "auroc_confirmed_high": [0.9, 0.8],
            "auroc_adjusted_low": [0.7, np.nan],
            "auroc_adjusted_high": [0.95, np.nan],
        }
    )
    shown = with_unseen_limits(table)
    assert shown["auroc_confirmed_low"].tolist() == [0.7, 0.6]
    assert shown["auroc_confirmed_high"].tolist() == [0.95, 0.8]


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_a_mask_and_its_numbers_are_the_same_rows(mask):
    n = len(mask)
    numbers = np.flatnonzero(mask)
    for rows in (mask, np.array(mask), pd.Series(mask), pd.array(mask, dtype="boolean")):
        assert_array_equal(row_numbers(rows, n), numbers)
    assert_array_equal(row_numbers(numbers, n), numbers)
    assert row_numbers(numbers.tolist(), n).dtype == np.int64


def test_none_is_all_and_nothing_is_nothing():
    assert_array_equal(row_numbers(None, 3), [0, 1, 2])
    assert_array_equal(row_numbers(slice(1, None), 3), [1, 2])
    assert_array_equal(row_numbers(-1, 3), [2])
    for rows in ([], np.array([]), (), pd.Series([], dtype=float)):
        assert row_numbers(rows, 3).shape == (0,)
    assert row_numbers([], 3).dtype == np.int64


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([True, False], "mask must have 3 entries, got 2"),
        ([3], r"must lie in 0 … 2, got 3"),
        ([-4], r"must lie in 0 … 2, got -4"),
        ([0.5], "must be row numbers or a mask, got float64"),
        (["a"], "must be row numbers or a mask"),
        ([[0, 1]], "got shape"),
        (pd.array([True, None, False], dtype="boolean"), "missing values"),
    ],
)
def test_what_names_no_rows_is_refused(rows, words):
    with pytest.raises(FeatlabError, match=words):
        row_numbers(rows, 3)


# ---------------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "b"], ["a", "b"]),
        ([10, 2, 10], ["10", "2"]),
        ([True, False, True], ["False", "True"]),
        ([1.5, 0.5, 1.5], ["0.5", "1.5"]),
        (["b", 1, "b"], ["1", "b"]),
        (pd.array([3, 1, 3], dtype="Int64"), ["1", "3"]),
        (pd.Categorical(["b", "a", "b"]), ["a", "b"]),
    ],
)
def test_a_class_is_its_text_whatever_the_labels_are(labels, classes):
    codes, names = class_codes(labels)
    assert names.tolist() == classes
    assert names[codes].tolist() == [str(label) for label in np.asarray(labels, dtype=object)]


def test_missing_labels_and_too_few_classes_are_refused():
    for labels in (["a", None], [1.0, np.nan], pd.array([1, None], dtype="Int64")):
        with pytest.raises(FeatlabError, match="labels holds 1 missing label"):
            class_codes(labels, name="labels")
    with pytest.raises(FeatlabError, match="y must hold at least two classes, got \\['a'\\]"):
        class_codes(["a", "a"], least=2)
    with pytest.raises(FeatlabError, match=r"one entry per image \(3\), got \(2,\)"):
        class_codes(["a", "b"], 3)


# ---------------------------------------------------------------------------- groups and sides


def test_an_image_without_a_group_is_one_of_its_own():
    for blank in ("", None, np.nan, pd.NA):
        codes = group_codes(["b", blank, "a", "b", blank], 5)
        assert codes[0] == codes[3] and len(set(codes.tolist())) == 4
        assert sorted(set(codes.tolist())) == [0, 1, 2, 3]
        assert has_groups(codes)
    assert_array_equal(group_codes(None, 3), [0, 1, 2])
    assert not has_groups(group_codes(["a", "", "b"], 3))
    assert group_names(["b", None], 2).tolist() == ["b", ""]
    with pytest.raises(FeatlabError, match=r"groups must have one entry per image \(3\)"):
        group_codes(["a"], 3)


def test_a_split_has_three_sides():
    assert split_sides(pd.Series(["train", "test"]), 2).tolist() == ["train", "test"]
    with pytest.raises(FeatlabError, match="'train', 'confirm' or 'test', got 'val'"):
        split_sides(["train", "val"], 2)
    with pytest.raises(FeatlabError, match=r"one entry per image \(3\)"):
        split_sides(["train"], 3)


# ---------------------------------------------------------------------------- boxes


def box_table(*rows):
    columns = ["image", "label", "kind", "xmin", "ymin", "xmax", "ymax"]
    return pd.DataFrame(rows, columns=columns)


def test_the_truth_is_solid_of_one_kind_and_of_the_own_class():
    images = pd.DataFrame({"label": ["cat", "dog"]})
    boxes = box_table(
        (0, "cat", "body", 0, 0, 5, 5),
        (0, "dog", "body", 0, 0, 5, 5),  # the other class
        (1, "whiskers", "body", 0, 0, 5, 5),  # no class of the set
        (1, "", "body", 1, 1, 1, 9),  # without area
        (1, "dog", "head", 0, 0, 2, 2),
    )
    assert true_boxes(images, boxes, "body")["image"].tolist() == [0, 1]
    assert true_boxes(images, boxes, "head")["xmax"].tolist() == [2]
    with pytest.raises(FeatlabError, match="several kinds \\(body, head\\)"):
        true_boxes(images, boxes, None)
    with pytest.raises(FeatlabError, match="must be one of body, head, got 'tail'"):
        true_boxes(images, boxes, "tail")
    assert true_boxes(images, boxes.iloc[:0], None).empty


# ---------------------------------------------------------------------------- detectors


def neuron_table(*rows):
    columns = ["layer", "pooling", "class", "neuron", "auroc", "rank", "direction", "confirmed"]
    return pd.DataFrame(rows, columns=columns).assign(detector=True)


def test_the_best_detector_is_the_one_chosen_first():
    table = neuron_table(
        ("last", "mean", "cat", 7, 1.0, 2, "active", True),
        ("last", "mean", "cat", 9, 1.0, 1, "active", True),
        ("last", "max", "cat", 9, 0.9, 1, "active", True),  # the same neuron again
        ("last", "mean", "cat", 3, 0.0, 3, "silent", True),
        ("last", "mean", "cat", 5, 0.99, 3, "active", False),
        ("early", "mean", "cat", 9, 0.8, 1, "active", True),  # another neuron of that number
        ("last", "mean", "ant", 1, 0.7, 1, "active", True),
    )
    for order in (slice(None), slice(None, None, -1)):
        best = confirmed_detectors(table.iloc[order])
        assert best["class"].tolist() == ["ant", "cat", "cat", "cat"]
        assert best["neuron"].tolist() == [1, 9, 7, 9]
        assert best["layer"].tolist() == ["last", "last", "last", "early"]
    assert confirmed_detectors(table, layer="last", most=1)["neuron"].tolist() == [1, 9]
    assert confirmed_detectors(table, silent=True)["neuron"].tolist() == [1, 9, 7, 3, 9]
    assert in_turn(best, 2)["class"].tolist() == ["ant", "cat"]
    assert len(selected_detectors(table)) == 6
    assert detector_row(table, 9, "cat", layer="early")["auroc"] == 0.8
    with pytest.raises(FeatlabError, match="no neuron 1 of last for 'cat'"):
        detector_row(table, 1, "cat", layer="last")
    with pytest.raises(FeatlabError, match="no column .*confirmed; give the result of confirm"):
        confirmed_detectors(table.drop(columns="confirmed"))


# ---------------------------------------------------------------------------- matrices, choices


def test_a_feature_table_names_its_layer_and_pooling_in_its_columns():
    columns = pd.MultiIndex.from_product(
        [["last"], ["mean"], [4, 2]], names=["layer", "pooling", "neuron"]
    )
    X = pd.DataFrame(np.zeros((3, 2)), columns=columns)
    assert origin_of(X) == ("last", "mean")
    assert origin_of(X[[True, False, True]]) == ("last", "mean")
    assert neuron_ids(X).tolist() == [4, 2]
    assert origin_of(X.to_numpy()) == ("", "") and neuron_ids(X.to_numpy()).tolist() == [0, 1]
    both = pd.concat([X, X.rename(columns={"mean": "max"})], axis=1)
    with pytest.raises(FeatlabError, match="one layer and one pooling"):
        origin_of(both)


def test_matrices_are_finite_and_choices_are_named():
    with pytest.raises(FeatlabError, match="X holds 1 NaN"):
        finite_matrix([[1.0, np.nan]])
    with pytest.raises(FeatlabError, match=r"images, features\), got \(2,\)"):
        finite_matrix([1.0, 2.0])
    with pytest.raises(FeatlabError, match="must hold numbers"):
        finite_matrix([["a"]])
    with pytest.raises(FeatlabError, match="pooling must be one of mean, max, got 'min'"):
        check_choice("pooling", "min", ("mean", "max"))
    assert check_choices("methods", "sum", ("sum", "cam")) == ["sum"]
    with pytest.raises(FeatlabError, match="methods must be from sum, cam, got 'add'"):
        check_choices("methods", ["sum", "add"], ("sum", "cam"))
    with pytest.raises(FeatlabError, match="alpha must be from 0 to 1, got nan"):
        check_between("alpha", float("nan"), 0, 1)
