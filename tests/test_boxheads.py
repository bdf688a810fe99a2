"""Box heads: planted truth, nothing to learn, geometry, policies, and the joint head."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
from fake_store import FakeStore
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

from featlab import FeatlabError, boxheads, extract, images, localise, plots
from featlab.backbones import load_backbone
from featlab.boxes import geometry as bx
from featlab.boxheads import _inputs, _linear, _regional
from featlab.boxheads._evaluation import BASELINES, HEADS
from featlab.boxheads._inputs import POLICIES, TARGETS
from featlab.boxheads._joint import ARCHITECTURES
from featlab.images.pixels import InputReader
from featlab.plots.style import encode

LINEAR = ("ridge_pca", "pls")


def scene_store(
    n=120, side=7, channels=12, *, pad=False, seed=0, spare=0, distractors=False, groups=False
):
    """Maps in which some channels cover the box, in others there is noise."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(80, 200, size=(n, 2))
    centre, half = rng.uniform(0.35, 0.65, (n, 2)), rng.uniform(0.12, 0.3, (n, 2))
    unit = np.hstack([centre - half, centre + half])
    boxes = bx.pixel_boxes(unit, sizes)
    frames = np.tile([0.0, 0.0, 1.0, 1.0], (n, 1))
    if pad:
        extent = sizes / sizes.max(axis=1, keepdims=True)
        frames = np.hstack([(1 - extent) / 2, (1 + extent) / 2])
    target = bx.picture_to_frame(boxes, frames, sizes)
    cover = coverage(target, side)
    values = rng.normal(0, 0.05, (n, side, side, channels)).astype(np.float32)
    values[..., : channels // 2] += cover[..., None] * rng.uniform(0.5, 1.5, channels // 2)
    images = pd.DataFrame(
        {
            "path": [f"cat/Long_Hair_{k}.jpg" for k in range(n)],
            "label": np.where(np.arange(n) % 2, "dog", "cat"),
            "split": "",
            "group": [f"g{k // 3}" for k in range(n)] if groups else "",
            "width": sizes[:, 0],
            "height": sizes[:, 1],
            "sha256": [f"{k:064x}" for k in range(n)],
        }
    )
    table = pd.DataFrame(boxes, columns=bx.CORNERS).assign(
        image=np.arange(n), kind="object", label=images["label"]
    )
    table = table[table["image"] >= spare]
    if distractors:  # A small box in a corner of every image.
        corner = pd.DataFrame(bx.pixel_boxes(np.tile([0, 0, 0.1, 0.1], (n, 1)), sizes))
        corner.columns = bx.CORNERS
        corner = corner.assign(image=np.arange(n), kind="object", label=images["label"])
        table = pd.concat([corner, table], ignore_index=True)
    return FakeStore(images, table.reset_index(drop=True), values, frames, layer="last")


def coverage(boxes, side):
    edge = np.arange(side) / side
    x = np.clip(np.minimum(boxes[:, 2:3], edge + 1 / side) - np.maximum(boxes[:, :1], edge), 0, 1)
    y = np.clip(np.minimum(boxes[:, 3:], edge + 1 / side) - np.maximum(boxes[:, 1:2], edge), 0, 1)
    return (y[:, :, None] * x[:, None, :] * side**2).astype(np.float32)


def sides_of(n, group=1):
    return np.array(["train", "train", "confirm", "test"])[np.arange(n) // group % 4]


def evaluate(store, **options):
    options = {"n_boot": 100, "heads": LINEAR} | options
    return boxheads.evaluate_box_heads(store, sides_of(len(store), 3), **options)


def iou_of(results):
    return results.table.set_index("head")["mean_iou"]


# ----------------------------------------------------------------------------- planted truth


@pytest.fixture(scope="module")
def all_heads():
    store = scene_store()
    return store, evaluate(store, heads=HEADS)


def test_every_head_finds_the_planted_boxes(all_heads):
    _, results = all_heads
    iou = iou_of(results)
    assert list(iou.index) == [*HEADS, *BASELINES]
    assert iou["cascade"] > 0.8 and iou["ridge_pca"] > 0.75 and iou["pls"] > 0.75
    assert iou["mlp"] > 0.6 and iou["gradient_boosting"] > 0.65
    assert iou[list(HEADS)].min() > iou[list(BASELINES)].max() + 0.05


def test_several_networks_of_a_hidden_layer_are_one():
    """Their mean, as scikit-learn's own regressors predict it."""
    rng = np.random.default_rng(0)
    X, other = rng.normal(size=(60, 9)) * 7, rng.normal(size=(30, 9)) * 7
    Y = np.tanh(X[:, :4]) / 9 + 0.5
    ours = _linear._mlp(X, Y, 5, 0.1, [3, 4])
    level, spread, scale = Y.mean(axis=0), Y.std(axis=0), X[:, 0].std()
    theirs = [
        MLPRegressor(hidden_layer_sizes=(128,), alpha=0.1, max_iter=100, random_state=seed).fit(
            X[:, :5] / scale, (Y - level) / spread
        )
        for seed in (3, 4)
    ]
    expected = np.mean([one.predict(other[:, :5] / scale) for one in theirs], axis=0)
    assert_allclose(ours(other), expected * spread + level, atol=1e-10)


def test_every_head_but_trees_is_a_file_that_gives_its_boxes(all_heads, tmp_path):
    store, results = all_heads
    assert set(results.fitted) == set(HEADS) - {"gradient_boosting"}
    for name, head in results.fitted.items():
        path = boxheads.save_box_head(head, tmp_path / f"{name}.boxhead")
        scored = results.per_image[results.per_image["head"] == name].set_index("row")
        boxes = boxheads.predict_boxes(boxheads.load_box_head(path), store, scored.index)
        assert_allclose(boxes, scored[bx.CORNERS], atol=1e-9)
    with h5py.File(tmp_path / "mlp.boxhead", "r+") as file:
        del file["arrays/hidden_out"]
    with pytest.raises(FeatlabError, match="damaged, or no box head"):
        boxheads.load_box_head(tmp_path / "mlp.boxhead")


def test_the_table_and_the_images_agree(all_heads):
    store, results = all_heads
    table, per_image = results.table, results.per_image
    test = np.flatnonzero(sides_of(len(store), 3) == "test")
    assert (table["n"] == len(test)).all() and (table["n_fit"] == len(store) - len(test)).all()
    for head, rows in per_image.groupby("head"):
        row = table.set_index("head").loc[head]
        assert rows["row"].tolist() == test.tolist()
        assert rows["iou"].mean() == pytest.approx(row["mean_iou"])
        assert rows["hit"].mean() == pytest.approx(row["box_accuracy"])
        assert (rows["iou"] >= 0.7).mean() == pytest.approx(row["box_accuracy_70"])
        assert rows["centre_in_box"].mean() == pytest.approx(row["centre_in_box"])
        for score in ("mean_iou", "box_accuracy", "box_accuracy_70", "centre_in_box"):
            assert row[f"{score}_low"] <= row[score] + 1e-12
            assert row[score] <= row[f"{score}_high"] + 1e-12
        assert np.allclose(
            bx.best_iou(rows[bx.CORNERS].to_numpy(), rows["row"], store.boxes), rows["iou"]
        )
    sizes = store.images[["width", "height"]].to_numpy(float)[per_image["row"]]
    boxes = per_image[bx.CORNERS].to_numpy()
    assert (boxes[:, :2] < boxes[:, 2:]).all() and (boxes >= 0).all()
    assert (boxes[:, 2:] <= sizes + 1e-9).all()
    assert results.facts["fitted_on"] == "train + confirm" and results.facts["policy"] == "largest"


def test_boxes_that_the_maps_do_not_show_are_not_found():
    store = scene_store()
    store.array = store.array[np.random.default_rng(1).permutation(len(store))]
    iou = iou_of(evaluate(store, heads=("ridge_pca", "pls", "cascade")))
    assert iou[["ridge_pca", "pls", "cascade"]].max() < iou["mean_box"] + 0.03


def test_test_rows_do_not_influence_what_is_fitted():
    store, other = scene_store(), scene_store()
    test = np.flatnonzero(sides_of(len(store), 3) == "test")
    one, rest = test[0], test[1:]
    other.array[rest] = np.random.default_rng(3).normal(size=other.array[rest].shape)
    moved = other.boxes["image"].isin(rest)
    other.boxes.loc[moved, bx.CORNERS] = [1.0, 2.0, 5.0, 9.0]
    a, b = (
        evaluate(s, heads=("cascade",)).per_image.set_index(["head", "row"]) for s in (store, other)
    )
    assert np.allclose(
        a.loc[("cascade", one), bx.CORNERS].to_numpy(float),
        b.loc[("cascade", one), bx.CORNERS].to_numpy(float),
    )


@pytest.mark.slow
def test_the_same_seed_gives_the_same_result():
    store = scene_store(48)
    results = [evaluate(store, heads=("cascade", "mlp")) for _ in range(2)]
    pd.testing.assert_frame_equal(results[0].per_image, results[1].per_image)
    tables = [result.table.drop(columns="seconds") for result in results]
    pd.testing.assert_frame_equal(tables[0], tables[1])


# ----------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pad", [False, True])
def test_stretched_and_padded_pictures(target, pad):
    results = evaluate(scene_store(pad=pad), heads=("ridge_pca", "cascade"), target=target)
    assert iou_of(results)["cascade"] > 0.75
    assert iou_of(results)["ridge_pca"] > 0.7


def test_encoding_is_undone_and_tidied():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.5, (50, 2))
    boxes = np.hstack([low, low + rng.uniform(0.05, 0.5, (50, 2))])
    for target in TARGETS:
        again = _inputs.decode_boxes(_inputs.encode_boxes(boxes, target), target)
        assert np.allclose(again, boxes)
    assert np.allclose(_inputs.mirrored(_inputs.mirrored(boxes)), boxes)
    frame = np.array([[0.0, 0.25, 1.0, 0.75]])
    wild = np.array([[0.9, 0.7, 0.1, 0.3], [-3, -3, -2, -2], [0.5, 0.9, 0.6, 0.95], [1, 1, 1, 1]])
    tidy = _inputs.tidy(wild, np.repeat(frame, 4, axis=0))
    assert tidy[0].tolist() == pytest.approx([0.1, 0.3, 0.9, 0.7])
    assert (tidy[:, :2] < tidy[:, 2:]).all()
    assert (tidy >= frame[:, [0, 1, 0, 1]] - 1e-12).all()
    assert (tidy <= frame[:, [2, 3, 2, 3]] + 1e-12).all()


def test_regions_are_sampled_bilinearly():
    side = 9
    y, x = np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2, indexing="ij")
    maps = np.stack([x, y], axis=-1)[None].astype(np.float32)
    region = _regional.sample_regions(maps, np.array([[0.2, 0.3, 0.6, 0.9]]), 4, 1.0).reshape(
        4, 4, 2
    )
    assert np.allclose(region[0, :, 0], 0.2 + 0.4 * (np.arange(4) + 0.5) / 4, atol=1e-6)
    assert np.allclose(region[:, 0, 1], 0.3 + 0.6 * (np.arange(4) + 0.5) / 4, atol=1e-6)


def test_reduced_maps_keep_a_narrow_map_whole():
    store = scene_store(20)
    reduction = _inputs.fit_reduction(store, np.arange(12))
    maps, total = _inputs.reduced_maps(store, np.arange(20), reduction)
    cells = store.array.reshape(-1, 12)
    distance = np.linalg.norm(cells[0] - cells[9])
    reduced = maps.reshape(-1, 12)
    assert np.linalg.norm(reduced[0] - reduced[9]) == pytest.approx(distance, rel=1e-4)
    assert np.allclose(total, store.array.sum(axis=-1), atol=1e-4)


@pytest.mark.parametrize("width", [1, 3, 4])
def test_components_are_those_of_the_flattened_maps_and_their_mirror_images(width):
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(9, 3, width, 5)).astype(np.float32)
    flat, other = (one.reshape(9, -1).astype(float) for one in (maps, maps[:, :, ::-1]))
    both = np.concatenate([flat, other]) - np.concatenate([flat, other]).mean(axis=0)
    components = _linear.Components(maps, 0)
    wanted = np.linalg.svd(both, compute_uv=False)
    rank = int((wanted > 1e-3 * wanted[0]).sum())
    assert_allclose(np.linalg.norm(components.scores, axis=0), wanted[:rank], rtol=1e-4)
    assert_allclose(components.scores @ components.scores.T, both @ both.T, atol=1e-3)
    for places, one in ((slice(9), maps), (slice(9, None), maps[:, :, ::-1])):
        assert_allclose(components.leading(4)(one), components.scores[places, :4], atol=1e-4)


def test_pls_looks_where_the_maps_tell_most_even_of_what_mirrors_keep_apart():
    """Iterating from its first column would never leave it."""
    covariance = np.zeros((6, 4))
    covariance[:2, 0], covariance[2:, 1:] = 1, np.random.default_rng(0).normal(size=(4, 3)) * 5
    first = np.linalg.svd(covariance)[0][:, 0]
    assert abs(first @ _linear._direction(covariance)) == pytest.approx(1)


def test_pls_on_the_components_is_pls_on_the_flattened_maps():
    from sklearn.cross_decomposition import PLSRegression

    rng = np.random.default_rng(0)
    maps = rng.normal(size=(30, 3, 3, 4)).astype(np.float32)
    components = _linear.Components(maps, 0)
    Y = rng.normal(size=(60, 4))
    (weights,), middle, level = _linear._pls(components.scores, Y, [3])
    predicted = (components.scores - middle)[:, : len(weights)] @ weights + level
    flat = np.concatenate([maps, maps[:, :, ::-1]]).reshape(60, -1).astype(float)
    exact = PLSRegression(3, scale=False, tol=1e-12, max_iter=20_000)
    assert np.allclose(predicted, exact.fit(flat, Y).predict(flat), atol=1e-5)


def test_a_box_is_the_same_to_the_last_digit_whatever_images_stand_beside_it():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(300, 7, 7, 64)).astype(np.float32)
    wide = maps[0].size
    projection = _linear.Projection(maps.mean(axis=0).ravel(), rng.normal(size=(wide, 4)) / wide)
    first = _linear.ScoreHead(projection, _linear.Shift(np.full(4, -0.5)), "centre_size", "")
    sides = 5 * 3 * 64, 5 * 2 * 64  # sums and differences of five columns of cells
    even, odd = (
        rng.normal(size=(side, count)) / side for side, count in zip(sides, (3, 1), strict=True)
    )
    correction = _regional.MirrorLinear(even, odd, rng.normal(size=sides[0]), np.zeros(3))
    for head in (first, _regional.CascadeHead(first, correction, 1.6, 2, "")):
        boxes = head.predict(maps, None)
        for some in (slice(0, 1), slice(5, 6), slice(0, 27), slice(3, 131), slice(200, 261)):
            for threads in (1, 2):
                with threadpool_limits(threads, user_api="blas"):
                    np.testing.assert_array_equal(head.predict(maps[some], None), boxes[some])


def test_many_images_are_decomposed_by_a_randomised_method(monkeypatch):
    exact = iou_of(evaluate(scene_store(), heads=("ridge_pca",)))
    monkeypatch.setattr(_linear, "_GRAM_ROWS", 10)
    assert iou_of(evaluate(scene_store(), heads=("ridge_pca",)))["ridge_pca"] == pytest.approx(
        exact["ridge_pca"], abs=0.02
    )


# ----------------------------------------------------------------------------- several boxes, none


def test_the_largest_box_is_learned_whatever_the_order():
    iou = iou_of(evaluate(scene_store(distractors=True)))
    assert iou["ridge_pca"] > 0.75


def test_an_image_counts_by_the_best_of_its_boxes_whichever_was_learned():
    store = scene_store(distractors=True)
    for policy in POLICIES:
        results = evaluate(store, policy=policy)
        table = results.per_image
        best = bx.best_iou(table[bx.CORNERS].to_numpy(), table["row"], store.boxes)
        assert np.allclose(best, table["iou"])
        assert iou_of(results)["ridge_pca"] > 0.75
    # Another box of half the images that is three quarters of the picture.
    wide = store.boxes[store.boxes["image"] % 2 == 0].drop_duplicates("image")
    wide = wide.assign(
        xmin=0.0,
        ymin=0.0,
        xmax=store.images["width"].to_numpy()[wide["image"]],
        ymax=0.75 * store.images["height"].to_numpy()[wide["image"]],
    )
    store.boxes = pd.concat([store.boxes, wide], ignore_index=True)
    whole = evaluate(store).per_image.query("head == 'whole_image' and row % 2 == 0")
    assert np.allclose(whole["iou"], 0.75)


def test_the_tables_of_heads_and_heat_maps_agree_on_the_baselines():
    """Several boxes an image, boxes of another class and empty ones: one truth, one mean box."""
    store = scene_store(distractors=True, groups=True)
    foreign = store.boxes.drop_duplicates("image", keep="last").iloc[::3]
    foreign = foreign.assign(
        label=np.where(foreign["label"] == "cat", "dog", "cat"), xmin=0.0, ymin=0.0
    )
    empty = foreign.assign(label=store.images["label"].to_numpy()[foreign["image"]], xmax=0.0)
    store.boxes = pd.concat([store.boxes, foreign, empty], ignore_index=True)
    sides = sides_of(len(store), 3)
    regression = evaluate(store, heads=(), n_boot=1000).table.set_index("head")
    heat_maps = localise.evaluate_localisation(store, sides, methods=["sum"]).table.set_index(
        "method"
    )
    scores = ["n", "mean_iou", "mean_iou_low", "mean_iou_high", "box_accuracy", "centre_in_box"]
    for baseline in ("mean_box", "whole_image"):
        pd.testing.assert_series_equal(
            regression.loc[baseline, scores].astype(float),
            heat_maps.loc[baseline, scores].astype(float),
            check_names=False,
        )
    assert (regression["n"] == (sides == "test").sum()).all()
    # Without a box of a train image there is no mean box in either.
    store.boxes = store.boxes[np.isin(sides[store.boxes["image"]], ["confirm", "test"])]
    assert "mean_box" not in set(evaluate(store, heads=()).table["head"])
    methods = localise.evaluate_localisation(store, sides, methods=["sum"]).table["method"]
    assert "mean_box" not in set(methods)


def test_images_without_boxes_are_neither_fitted_nor_scored():
    store = scene_store(spare=30)
    results = evaluate(store)
    assert results.per_image["row"].min() >= 30
    sides = sides_of(120, 3)[30:]
    assert results.table["n"].iloc[0] == (sides == "test").sum()
    assert results.table["n_fit"].iloc[0] == (sides != "test").sum()


def test_groups_stay_together_in_folds_and_resamples():
    store = scene_store(groups=True)
    table = evaluate(store).table
    assert table["interval"].eq("over 10 groups").all()
    assert (evaluate(scene_store()).table["interval"] == "over images").all()
    groups = store.images["group"].to_numpy(str)
    folds = pd.DataFrame({"group": groups, "fold": _inputs.folds_of(groups, 0)})
    assert folds.groupby("group")["fold"].nunique().max() == 1
    assert folds["fold"].nunique() == 5


def test_an_image_without_a_group_is_on_its_own_however_that_is_said():
    store, missing = scene_store(60), scene_store(60)
    missing.images["group"] = [None, np.nan, ""] * 20
    tables = [evaluate(one, heads=("ridge_pca",)).table for one in (store, missing)]
    pd.testing.assert_frame_equal(*(table.drop(columns="seconds") for table in tables))


def test_a_single_head_may_be_named_and_none_leaves_the_baselines():
    store = scene_store(48)
    assert list(evaluate(store, heads="pls").table["head"]) == ["pls", *BASELINES]
    assert list(evaluate(store, heads=["pls", "pls"]).table["head"]) == ["pls", *BASELINES]
    assert list(evaluate(store, heads=()).table["head"]) == list(BASELINES)


def test_a_single_group_leaves_nothing_to_tune_with():
    store = scene_store(80)
    store.images["group"] = np.where(sides_of(80, 3) == "test", "", "one")
    results = evaluate(store, heads=HEADS)
    assert results.facts["n_folds"] == 0
    assert iou_of(results)["ridge_pca"] > iou_of(results)["mean_box"] + 0.05


@pytest.mark.parametrize("policy", ["largest", "best_match"])
def test_of_very_many_images_a_sample_is_fitted_and_scored(monkeypatch, policy):
    store = scene_store(120, distractors=True)
    assert set(evaluate(store, policy=policy).table["n_fit"]) == {90}
    monkeypatch.setattr(_inputs, "_MOST_IMAGES", 24)
    monkeypatch.setattr("featlab.arguments.tables.LEAST_PER_CLASS", 1)
    results = evaluate(store, policy=policy)
    assert set(results.table["n_fit"]) == set(results.table["n"]) == {24}
    rows = results.per_image["row"].unique()
    assert len(rows) == 24 and (sides_of(120, 3)[rows] == "test").all()
    pd.testing.assert_frame_equal(results.per_image, evaluate(store, policy=policy).per_image)


# ----------------------------------------------------------------------------- errors


def test_errors_say_what_was_wrong():
    store, sides = scene_store(40), sides_of(40, 3)
    for options, words in (
        ({"heads": ("ridge", "pls")}, "heads must be from cascade, .*, got 'ridge'"),
        ({"target": "edges"}, "target must be one of"),
        ({"policy": "any"}, "policy must be one of"),
        ({"n_boot": 0}, "n_boot must be at least 1"),
        ({"layer": "first"}, "layer must be one of"),
        ({"box_kind": "head"}, "box_kind must be one of object, got 'head'"),
    ):
        with pytest.raises(FeatlabError, match=words):
            boxheads.evaluate_box_heads(store, sides, **options)
    with pytest.raises(FeatlabError, match="must have one row per image"):
        boxheads.evaluate_box_heads(store, sides[:-1])
    with pytest.raises(FeatlabError, match="'train', 'confirm' or 'test', got 'val'"):
        boxheads.evaluate_box_heads(store, np.where(sides == "test", "val", sides))
    with pytest.raises(FeatlabError, match="no 'test' image has a box"):
        boxheads.evaluate_box_heads(store, np.full(40, "train"))
    with pytest.raises(FeatlabError, match="at least 10 train and confirm images"):
        boxheads.evaluate_box_heads(store, np.where(np.arange(40) < 9, "train", "test"))
    flat = scene_store(40)
    flat.array[:] = 1
    with pytest.raises(FeatlabError, match="all images fitted on are equal"):
        boxheads.evaluate_box_heads(flat, sides)
    several = scene_store(40)
    several.boxes.loc[::2, "kind"] = "head"
    with pytest.raises(FeatlabError, match="several kinds"):
        boxheads.evaluate_box_heads(several, sides)
    several.boxes = several.boxes.iloc[:0]
    with pytest.raises(FeatlabError, match="no boxes"):
        boxheads.evaluate_box_heads(several, sides)


# ----------------------------------------------------------------------------- statistics, plots


def test_box_statistics_are_exact():
    store = scene_store(3)
    store.images[["width", "height"]] = [[100, 50], [200, 100], [80, 80]]
    store.boxes = pd.DataFrame(
        [
            [0, "object", "cat", 10, 10, 30, 40],
            [0, "object", "cat", 0, 0, 100, 50],
            [1, "object", "cat", 0, 0, 20, 20],
            [2, "object", "cat", 20, 20, 20, 40],
            [2, "object", "cat", 20, 20, 40, 60],
        ],
        columns=["image", "kind", "label", *bx.CORNERS],
    )
    stats = boxheads.box_statistics(store)
    assert stats["image"].tolist() == [0, 0, 2]  # Another class's box, and an empty one, are out.
    first = stats.iloc[0]
    assert [first[k] for k in ("x", "y", "width", "height", "area")] == pytest.approx(
        [0.2, 0.5, 0.2, 0.6, 0.12]
    )
    assert first["aspect"] == pytest.approx(2 / 3)
    assert stats["on_border"].tolist() == [False, True, False]
    assert stats["boxes_in_image"].tolist() == [2, 2, 1]
    assert stats["largest"].tolist() == [False, True, True]
    assert stats.attrs["n_left_out"] == 2 and stats.attrs["n_images"] == 3


def test_plots_draw_results_and_nothing_else(all_heads):
    store, results = all_heads
    stats = boxheads.box_statistics(store)
    figure = plots.data.box_statistics(stats, n_images=130)
    assert isinstance(figure, Figure) and len(figure.axes) == 7
    assert figure.axes[0].get_title(loc="left") == "n = 120 boxes"
    assert figure.axes[3].get_title(loc="left") == "n = 130 images"
    assert figure.axes[3].patches[0].get_height() == 10  # without a box
    axes = plots.score_intervals(results.table, "mean_iou")
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert set(names) == {name.replace("_", " ") for name in results.table["head"]}
    assert len(encode(axes, "png")) > 1000 and len(encode(figure, "png")) > 1000


# ----------------------------------------------------------------------------- joint head


def test_joint_head_refuses_what_does_not_fit():
    maps, labels = np.zeros((6, 2, 2, 3), np.float32), ["a", "b"] * 3
    boxes, sides = np.tile([0.1, 0.1, 0.5, 0.5], (6, 1)), ["train"] * 4 + ["test"] * 2
    for options, words in (
        ({"head": "deep"}, "head must be one of"),
        ({"loss": "l2"}, "loss must be one of"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ):
        with pytest.raises(FeatlabError, match=words):
            boxheads.fit_joint_head(maps, labels, boxes, sides, **options)
    with pytest.raises(FeatlabError, match="one row per image"):
        boxheads.fit_joint_head(maps, labels, boxes[:5], sides)
    with pytest.raises(FeatlabError, match="got 4 train and confirm and 0 test"):
        boxheads.fit_joint_head(maps, labels, np.vstack([boxes[:4], boxes[:2] * np.nan]), sides)
    with pytest.raises(FeatlabError, match="boxes must have 4 columns"):
        boxheads.fit_joint_head(maps, labels, boxes[:, :3], sides)
    with pytest.raises(FeatlabError, match="maps as an array must be finite"):
        boxheads.fit_joint_head(maps * np.nan, labels, boxes, sides)
    with pytest.raises(FeatlabError, match="'train', 'confirm' or 'test', got 'val'"):
        boxheads.fit_joint_head(maps, labels, boxes, [*sides[:5], "val"])


def test_a_class_that_the_joint_head_never_saw_is_refused():
    maps = np.random.default_rng(0).random((6, 2, 2, 3)).astype(np.float32)
    boxes, sides = np.tile([0.1, 0.1, 0.5, 0.5], (6, 1)), ["train"] * 4 + ["test"] * 2
    with pytest.raises(FeatlabError, match="class 'c' has no image with a box in train or confirm"):
        boxheads.fit_joint_head(maps, ["a", "b", "a", "b", "a", "c"], boxes, sides)
    boxes[[1, 3]] = np.nan  # the only boxes of class 1 that could be learned
    with pytest.raises(FeatlabError, match="class '1' has no image with a box"):
        boxheads.fit_joint_head(maps, [0, 1] * 3, boxes, sides)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 224.0])
def test_the_loss_giou_is_that_of_its_formula(scale):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.8, (2, 300, 2))
    a, b = np.concatenate([low, low + rng.uniform(0.01, 0.5, low.shape)], axis=2)
    a[:3], b[:3] = [0, 0, 0.2, 0.2], [[0, 0, 0.2, 0.2], [0.2, 0, 0.4, 0.2], [0.6, 0.8, 1, 1]]
    own = bx.iou(a, b)
    assert (own == 0).sum() > 50 and (own > 0).sum() > 50
    hull = np.prod(np.maximum(a[:, 2:], b[:, 2:]) - np.minimum(a[:, :2], b[:, :2]), axis=1)
    areas = [np.prod(one[:, 2:] - one[:, :2], axis=1) for one in (a, b)]
    union = sum(areas) / (1 + own)  # the shared part is counted twice
    giou = own - (hull - union) / hull
    assert_allclose(giou[:3], [1, 0, 0.12 - 1], atol=1e-9)
    gap = np.abs(a - b)
    smooth = np.where(gap < 0.05, 10 * gap**2, gap - 0.025).mean(axis=1)
    for loss, wanted in (("smooth_l1", smooth), ("giou", 1 - giou + 10 * smooth)):
        given = (np.asarray(one * scale, np.float32) for one in (a, b))
        assert_allclose(np.asarray(_inputs.box_loss(loss, scale)(*given)), wanted, atol=1e-4)


@pytest.mark.slow
def test_joint_heads_learn_class_and_box():
    store = scene_store(160)
    # The class is a channel that covers the picture.
    store.array[..., -1] += (store.images["label"] == "dog").to_numpy()[:, None, None]
    truth = bx.picture_to_frame(
        store.boxes[bx.CORNERS].to_numpy(),
        store.frames,
        store.images[["width", "height"]].to_numpy(),
    )
    sides = sides_of(160, 3)
    arguments = (store, store.images["label"], truth, sides)
    spatial = boxheads.fit_joint_head(*arguments, head="spatial", learning_rate=2e-3)
    assert spatial.accuracy > 0.9 and spatial.mean_iou > 0.6
    assert spatial.n == (sides == "test").sum() and len(spatial.history) == 60
    assert (spatial.predictions["iou"].between(0, 1)).all()
    a, b = (boxheads.fit_joint_head(*arguments, epochs=1) for _ in range(2))
    assert np.allclose(a.predictions["iou"], b.predictions["iou"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("head", ARCHITECTURES)
def test_a_joint_model_is_one_file_that_keras_opens_alone(head, tmp_path, picture_folder):
    backbone = load_backbone("efficientnet_lite0", input_size=64)
    table, _, _ = images.index_images(picture_folder({"a": 10, "b": 10}))
    rng = np.random.default_rng(0)
    low = rng.uniform(0.0, 0.4, (20, 2))
    truth = np.hstack([low, low + rng.uniform(0.2, 0.6, (20, 2))])
    sides = np.array(["train", "train", "confirm", "test", "test"] * 4)
    with extract.extract_maps(table, backbone, tmp_path / "maps.h5") as store:
        joint = boxheads.fit_joint_head(store, table["label"], truth, sides, head=head, epochs=2)
        maps = store.maps(joint.predictions["row"].to_numpy())
    outputs = joint.model.predict(maps, verbose=0)
    raw = joint.predictions[[f"raw_{name}" for name in bx.CORNERS]].to_numpy()
    assert np.ptp(raw, axis=0).max() > 1e-3  # else a constant would pass below
    assert_allclose(outputs["box"], raw, atol=1e-5)
    read = InputReader(table, backbone.input_size, "stretch")
    pixels = np.stack([read(int(row))[0] for row in joint.predictions["row"]])

    file = boxheads.save_joint_model(joint, backbone, tmp_path / "joint.keras")
    np.save(tmp_path / "pixels.npy", pixels.astype(np.float32))
    alone = (
        "import sys, numpy as np, keras\n"
        "model = keras.models.load_model('joint.keras')\n"
        "out = model.predict(np.load('pixels.npy'), verbose=0)\n"
        "assert not any(name.startswith('featlab') for name in sys.modules)\n"
        "np.savez('out.npz', **out)\n"
    )
    subprocess.run([sys.executable, "-c", alone], cwd=tmp_path, check=True, capture_output=True)
    (direct,) = backbone.forward(pixels).values()  # the store has them in half precision
    exact = joint.model.predict(direct, verbose=0)
    with np.load(tmp_path / "out.npz") as said:
        assert_allclose(said["label"], exact["label"], atol=1e-4)
        assert_allclose(said["box"], exact["box"], atol=1e-4)
        assert_allclose(said["label"], outputs["label"], atol=1e-3)
        named = np.array(joint.classes)[said["label"].argmax(axis=1)]
    assert list(named) == list(joint.predictions["predicted"])

    own = load_backbone(file, engine="tensorflow")
    (stored,) = own.forward(pixels).values()
    assert_allclose(stored, direct, atol=1e-4 * np.abs(direct).max())
    other = load_backbone("efficientnet_lite0", input_size=96)
    with pytest.raises(FeatlabError, match="Give the backbone of the store"):
        boxheads.save_joint_model(joint, other, tmp_path / "other.keras")
    elsewhere = dataclasses.replace(joint, weights_sha256="0" * 64)
    with pytest.raises(FeatlabError, match="maps of weights 0000"):
        boxheads.save_joint_model(elsewhere, backbone, tmp_path / "other.keras")
    with pytest.raises(FeatlabError, match="must end in .keras"):
        boxheads.save_joint_model(joint, backbone, tmp_path / "joint.h5")
    assert not (tmp_path / "other.keras").exists()
