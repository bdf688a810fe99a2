"""The set at a glance: planes, neighbours, and where the misclassified images lie."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import pairwise_distances, silhouette_samples

from featlab import FeatlabError, cli, embed, extract, images, plots
from featlab.embed import planes
from featlab.embed._neighbours import class_separation, misclassified
from featlab.embed.planes import embed_images
from featlab.plots.style import encode
from featlab.system import machine


def clusters(counts, width=40, gap=4.0, seed=0):
    """Non-negative features of well separated classes, and their labels."""
    rng = np.random.default_rng(seed)
    centres = rng.exponential(gap, (len(counts), width))
    sizes = zip(centres, counts, strict=True)
    X = np.concatenate([centre + rng.exponential(0.3, (n, width)) for centre, n in sizes])
    return X, np.repeat([f"class {k}" for k in range(len(counts))], counts)


# ---- planes ----------------------------------------------------------------------------------


def test_components_are_those_of_the_centred_features():
    X, _ = clusters([30, 40])
    found = embed_images(X)
    centred = X - X.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    assert_allclose(
        np.abs(found.coordinates[["pc1", "pc2"]]), np.abs(left[:, :2] * size[:2]), atol=1e-9
    )
    assert_allclose(found.explained_variance, (size**2 / (size**2).sum())[:40], atol=1e-12)
    assert found.parameters["components"] == 40
    assert not found.parameters["standardised"]


def test_separated_classes_stay_apart_on_the_plane_and_noise_is_not_trusted():
    X, y = clusters([40, 40, 40])
    found = embed_images(X)
    plane = found.coordinates[["tsne_1", "tsne_2"]].to_numpy()
    distance = pairwise_distances(plane)
    np.fill_diagonal(distance, np.inf)
    assert (y[distance.argmin(axis=1)] == y).all()
    noise = embed_images(np.random.default_rng(0).normal(size=(120, 200)))
    assert found.trustworthiness["tsne"] > 0.8 > noise.trustworthiness["pca"]
    assert found.trustworthiness["tsne"] > found.trustworthiness["pca"]


@pytest.mark.slow
def test_few_steps_at_a_high_rate_lead_as_far_as_many_of_scikit_learn():
    X, _ = clusters([150] * 6, gap=0.3)
    scores = planes._principal_components(X, np.arange(len(X)))[0]
    slow = TSNE(init="pca", learning_rate="auto", random_state=0).fit_transform(scores)
    kept = [
        trustworthiness(X, plane, n_neighbors=10) for plane in (planes._tsne(scores, 30, 0), slow)
    ]
    assert kept[0] > kept[1] - 0.002


def test_trustworthiness_is_that_of_its_definition():
    X, _ = clusters([9, 12], seed=3)
    found = embed_images(X)
    k, n = found.n_neighbors, len(X)
    assert k == 10
    original, plane = pairwise_distances(X), pairwise_distances(found.coordinates[["pc1", "pc2"]])
    np.fill_diagonal(original, -1)
    np.fill_diagonal(plane, -1)
    rank = original.argsort(axis=1).argsort(axis=1)  # 0 is the image itself
    near = plane.argsort(axis=1)[:, 1 : k + 1]
    excess = np.clip(np.take_along_axis(rank, near, axis=1) - k, 0, None).sum()
    expected = 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * excess
    assert found.trustworthiness["pca"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("n", "perplexity", "neighbours"), [(5, 4 / 3, 2), (7, 2, 3), (49, 16, 10), (100, 30, 10)]
)
def test_small_sets_get_a_perplexity_that_they_can_bear(n, perplexity, neighbours):
    found = embed_images(np.random.default_rng(n).exponential(size=(n, 60)))
    assert found.perplexity == pytest.approx(perplexity)
    assert found.n_neighbors == neighbours
    assert np.isfinite(found.coordinates.to_numpy()).all()
    assert list(found.coordinates) == ["pc1", "pc2", "tsne_1", "tsne_2"]
    assert len(found.explained_variance) == min(50, n - 1)


def test_constant_features_and_duplicates_do_no_harm():
    X, _ = clusters([20, 20])
    wider = np.hstack([X, np.full((40, 3), 7.0)])
    assert_allclose(
        embed_images(wider).coordinates[["pc1", "pc2"]],
        embed_images(X).coordinates[["pc1", "pc2"]],
        atol=1e-9,
    )
    copies = embed_images(np.repeat(X[:4], 10, axis=0)).coordinates.to_numpy()
    assert np.isfinite(copies).all()
    one_feature = embed_images(np.arange(8.0)[:, None])
    assert (one_feature.coordinates["pc2"] == 0).all()
    assert_allclose(one_feature.explained_variance, [1.0])


def test_the_same_seed_gives_the_same_planes():
    X, _ = clusters([15, 15])
    first, second = (embed_images(X, random_state=3) for _ in range(2))
    pd.testing.assert_frame_equal(first.coordinates, second.coordinates)
    pd.testing.assert_frame_equal(first.thumbnails, second.thumbnails)


@pytest.mark.parametrize(
    ("X", "options", "words"),
    [
        (np.ones((4, 3)), {}, "at least 5 images to embed, got 4"),
        (np.ones((9, 3)), {}, "9 images of X are all alike"),
        (np.full((9, 3), np.nan), {}, "27 NaN or infinite"),
        (np.ones(9), {}, r"shape \(images, features\), got \(9,\)"),
        (np.eye(9), {"perplexity": 9}, "at least 1 and below 9, got 9"),
    ],
)
def test_what_cannot_be_embedded_is_refused(X, options, words):
    with pytest.raises(FeatlabError, match=words):
        embed_images(X, **options)


def test_thumbnails_stand_in_cells_of_their_own_near_their_image():
    X, _ = clusters([60, 50, 40])
    found = embed_images(X)
    layout, side = found.thumbnails, found.cell_side
    assert layout["row"].is_unique
    centres = layout[["x", "y"]].to_numpy()
    gap = np.abs(centres[:, None] - centres[None]).max(axis=2)
    np.fill_diagonal(gap, np.inf)
    assert gap.min() >= side * (1 - 1e-9)
    own = found.coordinates.loc[layout["row"], ["tsne_1", "tsne_2"]].to_numpy()
    assert np.abs(own - centres).max() <= side / 2 * (1 + 1e-9)
    # Every image lies in a cell that shows a picture.
    plane = found.coordinates[["tsne_1", "tsne_2"]].to_numpy()
    nearest = np.abs(plane[:, None] - centres[None]).max(axis=2).min(axis=1)
    assert nearest.max() <= side / 2 * (1 + 1e-9)


# ---- neighbours --------------------------------------------------------------------------------


def test_neighbours_are_those_of_the_cosine():
    X = np.random.default_rng(1).exponential(size=(700, 12))  # more than one block of rows
    found = embed.nearest_neighbours(X, np.arange(700), 4)
    distance = pairwise_distances(X, metric="cosine")
    np.fill_diagonal(distance, np.inf)
    order = distance.argsort(axis=1)[:, :4]
    assert_array_equal(found["neighbour"].to_numpy().reshape(700, 4), order)
    assert_allclose(
        found["distance"].to_numpy().reshape(700, 4),
        np.take_along_axis(distance, order, axis=1),
        atol=1e-10,
    )


@pytest.mark.parametrize("copies", [1, 3, 40])
def test_neighbours_are_the_same_by_parts_and_among_copies(monkeypatch, copies):
    some = np.random.default_rng(2).exponential(size=(1200 // copies, 12))
    X = np.tile(some, (copies, 1))
    distance = np.round(np.clip(pairwise_distances(X, metric="cosine"), 0, 2), 12)
    np.fill_diagonal(distance, np.inf)
    order = distance.argsort(axis=1, kind="stable")[:, :30]
    monkeypatch.setattr(machine, "BLOCK", 512 * 500)  # three parts of the others
    found = embed.nearest_neighbours(X, None, 30)
    assert_array_equal(found["neighbour"].to_numpy().reshape(-1, 30), order)
    assert_allclose(
        found["distance"].to_numpy().reshape(-1, 30),
        np.take_along_axis(distance, order, axis=1),
        atol=2e-12,
    )


def test_copies_scales_zeros_and_ties():
    X = np.array([[1.0, 0], [2, 0], [0, 1], [0, 3], [0, 0]])
    found = embed.nearest_neighbours(X, [0, 2, 4], 4, y=list("aabbb"))
    assert found["neighbour"].tolist() == [1, 2, 3, 4, 3, 0, 1, 4, 0, 1, 2, 3]
    assert found["distance"].tolist() == [0, 1, 1, 1] * 2 + [1] * 4
    assert found["same_label"].tolist()[:5] == [True, False, False, False, True]
    assert found["rank"].tolist() == [1, 2, 3, 4] * 3
    assert len(embed.nearest_neighbours(X, 0, 1)) == 1
    mask = np.array([True, False, True, False, True])
    pd.testing.assert_frame_equal(embed.nearest_neighbours(X, mask, 4, y=list("aabbb")), found)


@pytest.mark.parametrize(
    ("rows", "k", "labels", "words"),
    [
        ([5], 1, None, "0 … 4, got 5"),
        ([-6], 1, None, "0 … 4, got -6"),
        ([True], 1, None, "as a mask must have 5 entries, got 1"),
        ([0.5], 1, None, "row numbers or a mask, got float64"),
        ([0], 5, None, "from 1 to 4.*got 5"),
        ([0], 0, None, "from 1 to 4"),
        ([0], 1, ["a"], "X and y must have one row per image"),
    ],
)
def test_neighbours_refuse_what_is_out_of_range(rows, k, labels, words):
    with pytest.raises(FeatlabError, match=words):
        embed.nearest_neighbours(np.eye(5), rows, k, y=labels)


def test_a_wrong_label_is_found_deep_in_the_other_class():
    X, y = clusters([30, 30, 30])
    labels = y.copy()
    labels[3] = "class 2"  # a picture of class 0
    predictions = pd.DataFrame(
        {
            "row": [3, 4, 40, 70],
            "label": labels[[3, 4, 40, 70]],
            "predicted": ["class 0", "class 0", "class 2", "class 2"],
        }
    )
    found = misclassified(X, labels, predictions, 5)
    assert found["row"].tolist() == [3, 40]
    assert found.loc[0, ["share_true", "share_predicted"]].tolist() == [0, 1]
    assert found.loc[1, ["share_true", "share_predicted"]].tolist() == [1, 0]
    assert found.loc[0, "nearest_label"] == "class 0"
    near = embed.nearest_neighbours(X, [4, 70], 5, y=labels)
    assert found.attrs["share_true_correct"] == pytest.approx(near["same_label"].mean())
    assert found.attrs["n"] == 4
    right = predictions.assign(predicted=predictions["label"])
    assert misclassified(X, labels, right, 5).empty


def test_separation_numbers_are_those_of_their_definitions():
    X, y = clusters([12, 20, 8], gap=0.3)
    X[0] = 0
    found = class_separation(X, y, 6)
    near = embed.nearest_neighbours(X, np.arange(40), 6, y=y)
    length = np.linalg.norm(X, axis=1, keepdims=True)
    distance = 1 - (X / np.maximum(length, 1e-300)) @ (X / np.maximum(length, 1e-300)).T
    np.fill_diagonal(distance, 0)
    silhouette = silhouette_samples(np.clip(distance, 0, None), y, metric="precomputed")
    for name, row in found.table.set_index("class").iterrows():
        mine = y == name
        assert row["n"] == mine.sum()
        assert row["silhouette"] == pytest.approx(silhouette[mine].mean(), abs=1e-9)
        agreement = near.loc[near["label"] == name, "same_label"].mean()
        assert row["neighbour_agreement"] == pytest.approx(agreement)
        assert row["chance"] == pytest.approx((mine.sum() - 1) / 39)
    assert found.silhouette == pytest.approx(silhouette.mean(), abs=1e-9)


def test_shuffled_labels_agree_as_often_as_chance():
    X, y = clusters([60, 100])
    shuffled = np.random.default_rng(0).permutation(y)
    found = class_separation(X, shuffled)
    assert_allclose(found.table["neighbour_agreement"], found.table["chance"], atol=0.06)
    assert abs(found.silhouette) < 0.02
    assert class_separation(X, y).neighbour_agreement == 1
    alone = class_separation(X[:6], list("abcdef"), 2).table
    assert (alone["silhouette"] == 0).all() and (alone["neighbour_agreement"] == 0).all()
    with pytest.raises(FeatlabError, match="at least two classes"):
        class_separation(X, ["a"] * 160)


def test_the_overview_seeks_neighbours_once_and_says_the_same():
    X, y = clusters([40, 60], gap=0.3)
    wrong = pd.DataFrame({"row": [70, 3, 9], "label": y[[70, 3, 9]], "predicted": "class 1"})
    found = embed.overview(X, y, wrong)
    pd.testing.assert_frame_equal(found.misclassified, misclassified(X, y, wrong))
    pd.testing.assert_frame_equal(found.separation.table, class_separation(X, y).table)
    pd.testing.assert_frame_equal(found.neighbours, embed.nearest_neighbours(X, None, 10, y=y))
    for name, trust in found.embedding.trustworthiness.items():
        plane = found.embedding.coordinates.filter(like=name if name == "tsne" else "pc").to_numpy()
        assert trust == pytest.approx(trustworthiness(X, plane, n_neighbors=10), abs=1e-12)


def test_the_overview_puts_it_together_for_a_tiny_set():
    X, y = clusters([3, 3])
    found = embed.overview(X, y)
    assert len(found.neighbours) == 6 * 5
    assert found.separation.k == 5
    assert found.misclassified is None


@pytest.mark.slow
def test_the_command_leaves_tables_and_figures(tmp_path, picture_folder, fake_backbone, capsys):
    table, _, _ = images.index_images(picture_folder({"a": 12, "b": 9}))
    extract.extract_maps(table, fake_backbone, tmp_path / "maps.h5").close()
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["featlab", "embed", str(tmp_path / "maps.h5"), "-o", str(tmp_path / "out")]
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code, capsys.readouterr().err
    assert "trustworthiness over 10 neighbours: t-SNE" in capsys.readouterr().out
    plane = pd.read_parquet(tmp_path / "out" / "embedding.parquet")
    assert plane["path"].tolist() == table["path"].tolist()
    assert {"split", "pc1", "tsne_2"} <= set(plane)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names >= {"plane_tsne.png", "plane_pca.png", "thumbnails.png", "misclassified.csv"}


# ---- figures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_every_class_has_a_look_of_its_own(n_classes):
    X, y = clusters([6] * n_classes)
    found = embed_images(X)
    ax = plots.embedding_scatter(found, y, misclassified=[0, 7])
    looks = [(h.get_color(), h.get_marker()) for h in ax.get_legend().legend_handles]
    assert len(set(looks)) == n_classes + 1
    assert f"n = {6 * n_classes} images" in ax.get_title("left")
    assert "trustworthiness" in ax.get_title("left")
    ring = ax.collections[-1]
    assert_allclose(
        ring.get_offsets(), found.coordinates.loc[[0, 7], ["tsne_1", "tsne_2"]], atol=1e-6
    )
    assert "of variance" in plots.embedding_scatter(found, y, plane="pca").get_xlabel()
    numbers = [text for text in ax.texts if text.get_text().isdigit()]
    assert len(numbers) == (40 if n_classes == 40 else 0)
    with pytest.raises(FeatlabError, match="plane must be one of tsne, pca, got 'umap'"):
        plots.embedding_scatter(found, y, plane="umap")
    with pytest.raises(FeatlabError, match="labels has 1 entries"):
        plots.embedding_scatter(found, ["a"])


def test_drawn_thumbnails_do_not_overlap():
    X, y = clusters([20, 25, 15])
    found = embed_images(X)
    rng = np.random.default_rng(0)
    shapes = rng.integers(20, 90, (60, 2))
    pictures = [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in shapes]
    pictures[int(found.thumbnails["row"].iloc[0])] = None
    ax = plots.embedding_thumbnails(found, pictures, y)
    frames = np.array([patch.get_bbox().extents for patch in ax.patches])
    assert len(frames) == len(found.thumbnails)
    for k, (left, low, right, high) in enumerate(frames):
        others = np.delete(frames, k, axis=0)
        apart = (
            (others[:, 0] >= right)
            | (others[:, 2] <= left)
            | (others[:, 1] >= high)
            | (others[:, 3] <= low)
        )
        assert apart.all()
    chosen = found.thumbnails["row"]
    only_shown = {int(row): pictures[row] for row in chosen}
    again = plots.embedding_thumbnails(found, only_shown, y)
    assert encode(ax, "png") == encode(again, "png")


# ---- representatives ---------------------------------------------------------------------------


def likeness_of(X):
    unit = X - X.mean(axis=0)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    return np.maximum(unit @ unit.T, 0)


def test_representatives_are_those_of_a_slow_greedy_search():
    X = np.random.default_rng(3).normal(size=(60, 5))
    like, given = likeness_of(X), [7, 30]
    chosen = list(given)
    for _, step in embed.representatives(X, 6, given=given).iterrows():
        before = like[:, chosen].max(axis=1)
        gains = [np.maximum(before, like[:, j]).mean() - before.mean() for j in range(60)]
        assert step["row"] == np.argmax([-1 if j in chosen else g for j, g in enumerate(gains)])
        assert_allclose(step["gain"], max(gains), atol=1e-6)
        assert_allclose(step["likeness"], before[int(step["row"])], atol=1e-6)
        chosen.append(int(step["row"]))
    # Those without a box fall to the one that they are most like.
    owner = np.array(chosen)[like[:, chosen].argmax(axis=1)]
    free = np.setdiff1d(np.arange(60), given)
    table = embed.representatives(X, 6, given=given)
    assert table["stands_for"].tolist() == [(owner[free] == row).sum() for row in table["row"]]


def test_each_of_three_clusters_is_stood_for_before_any_twice():
    rng = np.random.default_rng(0)
    X = np.repeat(10 * np.eye(3), [30, 20, 10], axis=0) + rng.normal(scale=0.5, size=(60, 3))
    cluster = np.repeat([0, 1, 2], [30, 20, 10])
    table = embed.representatives(X, 3)
    assert sorted(cluster[table["row"]]) == [0, 1, 2]
    assert sorted(table["stands_for"]) == [10, 20, 30]
    assert (np.diff(table["gain"]) <= 0).all()
    # A cluster that has one already comes last; rows that are not asked for are not chosen.
    again = embed.representatives(X, 2, given=[0])
    assert sorted(cluster[again["row"]]) == [1, 2]
    assert (cluster[embed.representatives(X, 4, rows=cluster > 0)["row"]] > 0).all()


def test_of_very_many_images_some_stand_for_all(monkeypatch):
    X = np.random.default_rng(0).normal(size=(90, 4))
    monkeypatch.setattr("featlab.embed._neighbours._MOST_CANDIDATES", 20)
    table = embed.representatives(X, 50, given=np.arange(30))
    assert len(table) == 20 and (table["row"] >= 30).all() and table["row"].is_unique


def test_without_an_image_left_nothing_can_be_chosen():
    with pytest.raises(FeatlabError, match="no image left to choose"):
        embed.representatives(np.eye(4), 1, given=range(4))


# ---- likeness --------------------------------------------------------------------------------


def unbiased_hsic(X, Y):
    """Song et al. 2012, formula 5, as it is written."""
    n = len(X)
    K, L = X @ X.T, Y @ Y.T
    np.fill_diagonal(K, 0)
    np.fill_diagonal(L, 0)
    whole = np.trace(K @ L) + K.sum() * L.sum() / ((n - 1) * (n - 2))
    return (whole - 2 / (n - 2) * (K @ L).sum()) / (n * (n - 3))


def test_likeness_is_the_published_formulas():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(2, 1, (40, 60)), rng.exponential(1, (40, 9))
    Y[:, 0] += 2 * X[:, 0]
    row = embed.likeness({"x": pd.DataFrame(X), "y": pd.DataFrame(Y)}, n_shuffles=20).iloc[0]
    size = np.sqrt(unbiased_hsic(X, X) * unbiased_hsic(Y, Y))
    assert row["cka"] == pytest.approx(unbiased_hsic(X, Y) / size, rel=1e-9)
    assert row["rsa"] == pytest.approx(
        spearmanr(pdist(X, "correlation"), pdist(Y, "correlation")).statistic, rel=1e-9
    )


def test_likeness_of_the_turned_is_whole_and_that_of_noise_nothing():
    """Wide layers of few images look alike to CKA as it is mostly computed: 0.9 here."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(100, 600))
    turned = 3 * X @ np.linalg.qr(rng.normal(size=(600, 600)))[0] + 5
    tables = {"x": X, "turned": turned, "noise": rng.normal(size=(100, 700))}
    pairs = embed.likeness({name: pd.DataFrame(x) for name, x in tables.items()}, n_shuffles=50)
    assert pairs[["a", "b"]].to_numpy().tolist() == [
        ["x", "turned"], ["x", "noise"], ["turned", "noise"],
    ]  # fmt: skip
    assert pairs.loc[0, "cka"] == pytest.approx(1) and pairs.loc[0, "cka_p"] == 1 / 51
    assert pairs.loc[1:, "cka"].abs().max() < 0.05


def test_shuffles_of_likeness_keep_their_size_where_images_come_in_groups():
    """Pictures of one group lie together in every network, which is no likeness of networks."""
    rng, p = np.random.default_rng(2), []
    groups = np.repeat([f"g{k}" for k in range(15)], 4)
    for seed in range(60):
        X, Y = (np.repeat(rng.normal(size=(15, 5)), 4, axis=0) for _ in range(2))
        tables = {"x": pd.DataFrame(X), "y": pd.DataFrame(Y + 0.01 * rng.normal(size=Y.shape))}
        row = embed.likeness(tables, groups=groups, n_shuffles=19, random_state=seed).iloc[0]
        assert row["n"] == 15
        p.append(row["cka_p"])
    assert np.mean(np.array(p) <= 0.05) < 0.15


def test_likeness_refuses_other_rows_and_is_silent_on_few():
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(9, 4)))
    assert embed.likeness({"a": X, "b": X})[["cka", "rsa_p"]].isna().all(axis=None)
    with pytest.raises(FeatlabError, match=r"tables\['b'\]"):
        embed.likeness({"a": X, "b": X[:5]})
