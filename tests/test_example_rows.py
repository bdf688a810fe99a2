"""Which images are shown: by the seed, the classes in turn, from good to bad."""

from __future__ import annotations

import numpy as np
import pytest
from fake_results import make_results

from featlab import splits as choose


@pytest.fixture(scope="module")
def results():
    return make_results(c=16, pictures=False)


def test_detectors_are_shown_on_right_and_on_wrong_images(results):
    rows = choose.detector_rows(results.heads, 6, 4)
    assert rows == choose.detector_rows(results.heads, 6, 4)
    scored = results.heads.predictions.query("head == 'logistic'").set_index("row")["correct"]
    wrong = min(3, int((~scored).sum()))
    assert list(scored[rows]) == [True] * (6 - wrong) + [False] * wrong


def test_samples_take_the_classes_in_turn(results):
    rows = choose.sample_rows(results.store.images, 8)
    assert results.store.images["label"].iloc[rows].value_counts().tolist() == [4, 4]


def test_gallery_rows_are_test_images_with_boxes_the_classes_in_turn(results):
    images, split = results.store.images, results.split
    test = np.flatnonzero(split == "test")
    rows = choose.gallery_rows(images, split, test[:20], 8, 3)
    assert set(rows) <= set(test[:20])
    assert images["label"].iloc[rows].value_counts().tolist() == [4, 4]
    assert rows == choose.gallery_rows(images, split, test[:20], 8, 3)
    # Without boxes any test image will do.
    assert set(choose.gallery_rows(images, split, [], 999)) == set(test)


def test_localisation_rows_run_from_best_to_worst(results):
    rows = choose.localisation_rows(results.localisation, "detectors", 6)
    scored = results.localisation.per_image.query("method == 'detectors'")
    ious = scored.set_index("row")["iou"]
    assert list(ious[rows]) == sorted(ious[rows], reverse=True)
    assert (ious[rows[0]], ious[rows[-1]]) == (ious.max(), ious.min())
    assert np.searchsorted(np.sort(ious), ious[rows[2]]) / len(ious) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("most", range(8))
def test_no_more_localisation_rows_than_asked_for(results, most):
    rows = choose.localisation_rows(results.localisation, "detectors", most)
    every = choose.rows_by_iou(results.localisation, "detectors")
    assert len(rows) == len(set(rows)) == most
    assert rows == sorted(rows, key=every.index)
    if most > 1:
        assert (rows[0], rows[-1]) == (every[0], every[-1])
    if most > 2:
        assert every[len(every) // 2] in rows


def test_as_many_as_the_page_has_places_for(results):
    images, split = results.store.images, results.split
    assert len(choose.sample_rows(images)) == 12
    assert len(choose.gallery_rows(images, split, [])) == 24
    assert len(choose.detector_rows(results.heads)) == 6
    assert len(choose.localisation_rows(results.localisation, "detectors")) == 6
