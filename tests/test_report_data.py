"""What the page's script reads: exact within its rounding, harmless, and within its budget."""

from __future__ import annotations

import base64
import dataclasses
import io
import json

import numpy as np
import pandas as pd
import pytest
from fake_results import HOSTILE, make_picture, make_results
from PIL import Image

from featlab.report._interactive import (
    Pictures,
    embeddable,
    embedding,
    explorer,
    explorer_rows,
    interactive,
    size_budget,
)
from featlab.results.localisation import BoxHeadResults
from featlab.results.pictures import Gallery, Portraits


def numbers(text):
    return np.frombuffer(base64.b64decode(text), "<u2")


def make_gallery(labels, pictures):
    rng, n = np.random.default_rng(0), len(pictures)
    return Gallery(
        rows=list(range(n)),
        pictures=pictures,
        labels=[labels[i % len(labels)] for i in range(n)],
        true_boxes=[np.array([[30.0, 9.0, 60.0, 45.0]])] * n,
        frames=np.tile([0.0, 0.0, 1.0, 1.0], (n, 1)),
        heats={"cam": rng.normal(size=(n, 7, 7)), "sum": np.ones((n, 14, 14))},
        thresholds={"cam": 0.31, "sum": np.nan},
        neurons=[(labels[0], 5)],
        neuron_heats=rng.random((n, 1, 7, 7)),
    )


@pytest.fixture(scope="module")
def results():
    made = make_results(c=64)
    gallery = make_gallery(made.store.classes, [make_picture(i) for i in range(5)] + [None])
    return dataclasses.replace(made, gallery=gallery)


@pytest.mark.parametrize("name", [*HOSTILE, "</script><script>", "<!--", "\u2028\u2029", "\ud800"])
def test_no_name_can_leave_its_element(name):
    text = str(embeddable({name: [name]}))
    assert text.isascii() and not set(text) & set("<>&")
    assert json.loads(text) == {name: [name]}


def test_neurons_are_packed_to_the_digit(results):
    slot = explorer(results, 10_000)
    rows = explorer_rows(results.neurons)
    columns = {name: numbers(text) for name, text in slot["columns"].items()}
    assert len(rows) == results.neurons["auroc"].notna().sum() == len(columns["neuron"])
    np.testing.assert_array_equal(columns["neuron"], rows["neuron"])
    classes = np.array(slot["classes"])[columns["class"]]
    np.testing.assert_array_equal(classes, rows["class"])
    for name in ("auroc", "auroc_low", "auroc_high", "pts"):
        np.testing.assert_allclose(columns[name] / 10_000, rows[name], atol=5.1e-5)
    p = 10 ** -(columns["p_adjusted"] / slot["p_scale"])
    np.testing.assert_allclose(p, rows["p_adjusted"], rtol=0.006)
    # Columns of the confirmation end with the last selected row.
    chosen = rows[rows["detector"]]
    assert len(columns["auroc_confirmed"]) == len(chosen) > 0
    np.testing.assert_allclose(
        columns["auroc_confirmed"] / 10_000, chosen["auroc_confirmed"], atol=5.1e-5
    )
    np.testing.assert_array_equal(columns["flags"] & 2 > 0, rows["detector"])
    np.testing.assert_array_equal(columns["flags"] & 4 > 0, rows["detector"] & rows["confirmed"])


@pytest.mark.parametrize(("p", "code"), [(0.0, 65534), (1.0, 0), (1e-300, 60_000), (np.nan, 65535)])
def test_p_values_that_hardly_fit(results, p, code):
    table = results.neurons.head(1).assign(p_adjusted=p, auroc=0.9)
    slot = explorer(dataclasses.replace(results, neurons=table), 9)
    assert numbers(slot["columns"]["p_adjusted"]).tolist() == [code]


def test_what_matters_most_is_kept_and_the_rest_is_said(results):
    slot = explorer(results, 20)
    kept = numbers(slot["columns"]["neuron"])
    live = results.neurons[results.neurons["auroc"].notna()]
    confirmed = live[live["detector"] & live["confirmed"]]
    best = confirmed.assign(size=(confirmed["auroc"] - 0.5).abs()).nlargest(20, "size")
    assert sorted(kept) == sorted(best["neuron"])
    assert slot["held"].startswith(f"20 of {len(live)} pairs of class and neuron, detectors and")
    assert explorer(results, len(live))["held"].startswith(f"all {len(live)} pairs")
    assert explorer(results, 0) is None


def test_the_gallery_keeps_maps_boxes_and_thresholds(results):
    data = json.loads(interactive(results, 1_000_000))
    gallery, given = data["gallery"], results.gallery
    assert len(gallery["images"]) == len(data["pictures"]) == 5  # One was not readable.
    image = gallery["images"][2]
    assert image["boxes"] == [[0.25, 0.1, 0.5, 0.5]] and image["label"] == given.labels[2]
    picture = Image.open(io.BytesIO(base64.b64decode(data["pictures"][image["picture"]])))
    assert picture.size == (120, 90)
    difference = np.asarray(picture, float) - make_picture(2)
    assert np.abs(difference).mean() < 12
    names = [heat.get("name") or heat["neuron"] for heat in gallery["heats"]]
    assert names == ["class activation map (CAM)", "sum of all maps", [given.labels[0], 5]]
    assert [heat["threshold"] for heat in gallery["heats"]] == [0.31, None, None]
    cam = numbers(gallery["heats"][0]["values"]).reshape(5, 7, 7)
    heat = given.heats["cam"][:5]
    low = heat.min(axis=(1, 2), keepdims=True)
    extent = np.ptp(heat, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(cam / 65535, (heat - low) / extent, atol=1e-5)
    assert not numbers(gallery["heats"][1]["values"]).any()  # A flat map.


def test_the_embedding_slot_is_scaled_and_named(results):
    points = np.array([[-3.0, 2.0], [1.0, 2.5], [-1.0, 4.0]])
    slot = embedding(
        points,
        ["b", "a", "b"],
        misclassified=[2],
        thumbnails={1: 7},
        names=["x.jpg", "y.jpg", "z.jpg"],
    )
    assert (slot["x"], slot["y"]) == ([0, 10_000, 5000], [0, 1250, 5000])  # One scale for both.
    assert (slot["classes"], slot["label"]) == (["a", "b"], [1, 0, 1])
    assert (slot["misclassified"], slot["thumbnail"]) == ([2], [-1, 7, -1])
    assert slot["name"] == ["x.jpg", "y.jpg", "z.jpg"]
    bare = embedding(points, ["b", "a", "b"], names=["n" * 100] * 3, most=200)
    assert "name" not in bare and "thumbnail" not in bare
    assert embedding(points, ["b", "a", "b"], most=10) is None


def test_pictures_shrink_before_they_are_left_out():
    rng = np.random.default_rng(1)
    noise = [(i, rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)) for i in range(6)]
    steps, sides = ((256, 80), (64, 50)), {}
    for most in (10_000_000, 60_000, 2_500):
        pictures = Pictures()
        places = pictures.add([*noise, (9, None)], most, steps)
        assert sum(map(len, pictures.encoded)) <= most and 9 not in places
        first = Image.open(io.BytesIO(base64.b64decode(pictures.encoded[0])))
        sides[most] = max(first.size), len(places)
    assert sides[10_000_000] == (256, 6) and sides[60_000] == (64, 6)
    assert sides[2_500][0] == 64 and 0 < sides[2_500][1] < 6
    again = pictures.add(noise[:1], 0, steps)
    assert again == {0: 0}  # Already there: it costs nothing.


def test_the_data_never_exceeds_its_budget():
    rng, names = np.random.default_rng(0), [f"breed_{i:02}" for i in range(37)]
    made = make_results(names, n=74, c=4, pictures=False)
    n = 37 * 2048
    table = pd.DataFrame(
        {
            "class": np.repeat(names, 2048), "neuron": np.tile(np.arange(2048), 37),
            "auroc": rng.random(n), "direction": "active", "detector": rng.random(n) < 0.5,
            "confirmed": True, "p_adjusted": rng.random(n), "p_confirmed": rng.random(n),
            "pts": 0.5, "pts_ref": 0.1,
        }
    )  # fmt: skip
    for name in ("auroc_low", "auroc_high", "auroc_confirmed"):
        table[name] = 0.5
    table["auroc_confirmed_low"] = table["auroc_confirmed_high"] = 0.5
    table["auroc_adjusted_low"] = table["auroc_adjusted_high"] = 0.5
    noise = [rng.integers(0, 256, (300, 400, 3), dtype=np.uint8) for _ in range(24)]
    big = dataclasses.replace(made, neurons=table, gallery=make_gallery(names, noise))
    lengths = []
    for free in (-5, 0, 30_000, 300_000, 2_000_000, 8_000_000):
        text = interactive(big, free)
        assert len(text) <= max(free, 80)
        lengths.append(len(text))
    assert lengths == sorted(lengths)
    assert f"all {n:,} pairs" in text
    spent = size_budget(300_000)
    assert sum(dataclasses.astuple(spent)) < 300_000


# ------------------------------------------------------------------------- boxes by regression


def test_the_gallery_has_the_boxes_of_the_head_that_was_best_on_images_held_out(results):
    rows = results.gallery.rows
    boxes = pd.DataFrame({"row": rows, "xmin": 10.0, "ymin": 5.0, "xmax": 60.0, "ymax": 40.0})
    boxes = boxes.assign(head="cascade", iou=0.5)
    boxes = pd.concat([boxes[boxes["row"] != 1], boxes.assign(head="pls", xmin=0.0)])
    held = pd.DataFrame({"head": ["pls", "cascade"], "row": [0, 0], "iou": [0.3, 0.6]})
    heads = pd.DataFrame({"head": ["pls", "cascade"], "n": [6, 6]})
    made = dataclasses.replace(results, box_regression=BoxHeadResults(heads, boxes, {}, held=held))
    sizes = made.store.images[["width", "height"]].to_numpy(float)
    for row, image in enumerate(json.loads(interactive(made, 10**7))["gallery"]["images"]):
        expected = [10, 5, 60, 40] / np.tile(sizes[row], 2)
        assert image["regressed"] == (None if row == 1 else pytest.approx(expected, abs=1e-5))
    without = json.loads(interactive(results, 10**7))["gallery"]["images"]
    assert all(image["regressed"] is None for image in without)


def test_maps_of_signed_neurons_are_kept_around_their_centre(results):
    cells = np.linspace(-2, 1, 2 * 6 * 9).reshape(1, 2, 6, 3, 3).astype(np.float32)
    rows = np.arange(12).reshape(1, 2, 6)
    pictures = {int(row): make_picture(0) for row in rows.ravel()}
    frames = np.tile([0.0, 0, 1, 1], (len(results.store), 1))
    shown = Portraits(
        [(results.store.classes[0], 3)], rows, np.ones((1, 2, 6)), cells, pictures, frames, 12, 12,
        signed=True,
    )  # fmt: skip
    data = json.loads(interactive(dataclasses.replace(results, portraits=shown), 10**7))
    known = data["neurons"]["portraits"]
    levels = np.frombuffer(base64.b64decode(known["cells"]), np.uint8).astype(float)
    np.testing.assert_allclose((levels - 128) / 127 * 2, cells.ravel(), atol=0.02)
    assert known["peaks"] == [2.0] and known["signed"]
