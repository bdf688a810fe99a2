"""Comparisons of heads on a test set, over folds, and of backbones."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fake_store import FakeStore
from matplotlib.axes import Axes
from scipy import stats
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from test_heads import problem
from test_heads_details import results_of

from featlab import FeatlabError
from featlab.heads import (
    compare_backbones,
    compare_heads,
    cross_validate_heads,
    evaluate_heads,
)
from featlab.heads.comparison import corrected_resampled_t, paired, sign_flip_p
from featlab.plots.scores import backbones
from featlab.results.analysis import HeadResults


def two_heads(both, only_a, only_b, neither, clusters=None):
    """Two heads on images of one class, right as often as said."""
    right_a = np.repeat([1, 1, 0, 0], [both, only_a, only_b, neither])
    right_b = np.repeat([1, 0, 1, 0], [both, only_a, only_b, neither])
    label = np.repeat("x", len(right_a))
    p = {h: np.column_stack([r, 1 - r]) for h, r in (("a", right_a), ("b", right_b))}
    results = results_of(np.append(label, "y"), {h: np.vstack([v, [0, 1]]) for h, v in p.items()})
    if clusters is not None:
        results = HeadResults(
            results.table, results.predictions, results.models, results.classes, clusters
        )
    return results


class TestCompareHeads:
    @pytest.mark.parametrize(("only_a", "only_b"), [(7, 2), (0, 0), (0, 12), (40, 20)])
    def test_p_is_mcnemars(self, only_a, only_b):
        row = compare_heads(two_heads(30, only_a, only_b, 5), "a", "b", n_boot=200).iloc[0]
        expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1
        assert row["p"] == pytest.approx(expected)
        assert row["test"] == "McNemar, exact"
        assert (row["only_a"], row["only_b"], row["n"]) == (only_a, only_b, 36 + only_a + only_b)
        assert row["difference"] == pytest.approx(row["accuracy_a"] - row["accuracy_b"])
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]

    @pytest.mark.parametrize("only_b", [0, 1, 3, 8, 20, 60])
    def test_interval_leaves_out_0_where_p_is_below_005_and_only_there(self, only_b):
        for only_a in range(only_b, only_b + 30):
            p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1
            right = np.repeat([[1, 0], [0, 1], [1, 1]], [only_a, only_b, 30], axis=0).astype(bool)
            for one, other in (right.T, right.T[::-1]):
                row = paired(one, other, None, 2000, 0)
                apart = row["difference_low"] > 0 or row["difference_high"] < 0
                assert apart == (p < 0.05) == (row["p"] < 0.05), (only_a, only_b)

    def test_sign_flips_of_single_images_are_mcnemars_exact_test(self):
        sums = np.repeat([1, -1, 0], [9, 3, 20])
        assert sign_flip_p(sums) == pytest.approx(mcnemar([[0, 9], [3, 0]], exact=True).pvalue)

    def test_sign_flips_by_enumeration(self):
        sums = np.array([5, -2, 3, 0, 4, 1])
        totals = [
            abs(np.dot(signs, np.abs(sums))) for signs in itertools.product([-1, 1], repeat=6)
        ]
        assert sign_flip_p(sums) == pytest.approx(np.mean(np.array(totals) >= abs(sums.sum())))

    def test_one_group_is_no_evidence(self):
        # Twelve discordant images, all of one group: one observation, not twelve.
        clusters = np.append(np.repeat([0, 1], [30, 12]), 2)
        grouped = compare_heads(two_heads(30, 12, 0, 0, clusters), "a", "b", n_boot=500).iloc[0]
        single = compare_heads(two_heads(30, 12, 0, 0), "a", "b", n_boot=500).iloc[0]
        assert grouped["p"] == 1.0 and single["p"] < 0.001
        assert grouped["test"] == "sign flips of 3 groups"
        assert grouped["difference_low"] <= single["difference_low"]

    def test_all_pairs_with_holm(self):
        X, y, split = problem()
        results = evaluate_heads(X, y, split, heads=["logistic", "nearest_centroid"], n_boot=5)
        few = {"n_boot": 100}
        table = compare_heads(results, **few)
        assert table[["a", "b"]].to_numpy().tolist() == [
            ["dummy", "logistic"],
            ["dummy", "nearest_centroid"],
            ["logistic", "nearest_centroid"],
        ]
        expected = multipletests(table["p"], method="holm")[1]
        np.testing.assert_allclose(table["p_adjusted"], expected)
        one = compare_heads(results, "logistic", **few)
        assert one[["a", "b"]].to_numpy().tolist() == [
            ["logistic", "dummy"],
            ["logistic", "nearest_centroid"],
        ]
        last = compare_heads(results, b="logistic", **few)
        assert last["difference"].tolist() == (-one["difference"]).tolist()
        pair = compare_heads(results, "logistic", "nearest_centroid", **few)
        assert pair["p_adjusted"].tolist() == pair["p"].tolist() == [table["p"].iloc[-1]]

    def test_errors(self):
        results = two_heads(5, 1, 1, 1)
        with pytest.raises(FeatlabError, match="b must be one of"):
            compare_heads(results, "a", "c")
        with pytest.raises(FeatlabError, match="metric must be 'accuracy'"):
            compare_heads(results, metric="roc_auc")


class TestCorrectedT:
    def test_by_hand(self):
        a, b = np.array([0.8, 0.9, 0.7, 0.85]), np.array([0.7, 0.85, 0.72, 0.8])
        found = corrected_resampled_t(a, b, 80, 20)
        d = a - b
        t = d.mean() / np.sqrt((1 / 4 + 20 / 80) * d.var(ddof=1))
        assert found["t"] == pytest.approx(t)
        assert found["p"] == pytest.approx(2 * stats.t.sf(abs(t), 3))
        plain = stats.ttest_rel(a, b)
        assert found["p"] > plain.pvalue
        assert found["difference_low"] < plain.confidence_interval()[0]

    def test_equal_scores(self):
        assert corrected_resampled_t([0.5, 0.6], [0.5, 0.6], 8, 2)["p"] == 1.0
        assert np.isnan(corrected_resampled_t([0.5, 0.6], [0.4, 0.5], 8, 2)["p"])

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (([1, 2], [1], 8, 2), "equally long"),
            (([1], [1], 8, 2), "at least two"),
            (([1, np.nan], [1, 2], 8, 2), "must be finite"),
            (([1, 2], [1, 2], 0, 2), "must be above 0"),
        ],
    )
    def test_errors(self, args, words):
        with pytest.raises(FeatlabError, match=words):
            corrected_resampled_t(*args)


class TestCrossValidation:
    @pytest.fixture(scope="module")
    @staticmethod
    def done():
        X, y, _ = problem(n=150)
        groups = np.array([f"g{i // 3}" if i < 90 else "" for i in range(150)])
        rng = np.random.default_rng(0)
        heads = ["logistic", "nearest_centroid"]
        colour = rng.dirichlet(np.ones(64), 150)
        return (
            X,
            y,
            groups,
            cross_validate_heads(
                X, y, groups=groups, heads=heads, n_outer=3, n_repeats=2, colour=colour
            ),
        )

    def test_one_row_per_head_repeat_and_fold(self, done):
        table = done[3].table
        assert table["head"].drop_duplicates().tolist() == [
            "dummy", "logistic", "nearest_centroid", "colour_histogram",
        ]  # fmt: skip
        assert len(table) == 4 * 2 * 3
        assert (table["n"] + table["n_train"] == 150).all()
        assert table["parameters"].str.contains("grouped folds").sum() == 3 * 6

    def test_every_image_once_per_repeat(self, done):
        _, y, _, results = done
        for _, rows in results.predictions.groupby(["head", "repeat"]):
            assert rows["row"].tolist() == list(range(150))
            assert rows["label"].tolist() == y.tolist()
        merged = results.predictions.groupby(["head", "repeat", "fold"])["correct"].mean()
        table = results.table.set_index(["head", "repeat", "fold"])["accuracy"]
        pd.testing.assert_series_equal(merged.sort_index(), table.sort_index(), check_names=False)

    def test_groups_are_never_divided(self, done):
        _, _, groups, results = done
        rows = results.predictions.query("head == 'dummy'")
        named = rows[groups[rows["row"]] != ""]
        folds = named.groupby(["repeat", groups[named["row"]]])["fold"].nunique()
        assert (folds == 1).all()

    def test_repeats_differ(self, done):
        rows = done[3].predictions.query("head == 'dummy'")
        first, second = (rows.query("repeat == @r")["fold"].to_numpy() for r in (0, 1))
        assert (first != second).any()

    def test_pairs(self, done):
        results = done[3]
        table = compare_heads(results, metric="roc_auc")
        assert len(table) == 6
        row = table.query("a == 'logistic' and b == 'nearest_centroid'").iloc[0]
        scores = results.table.set_index("head")["roc_auc"]
        sizes = results.table[["n_train", "n"]].mean()
        expected = corrected_resampled_t(
            scores["logistic"], scores["nearest_centroid"], sizes["n_train"], sizes["n"]
        )
        assert row["p"] == pytest.approx(expected["p"])
        assert (table["p_adjusted"] >= table["p"]).all()

    def test_summary(self, done):
        summary = done[3].summary
        scores = done[3].table.query("head == 'logistic'")["accuracy"]
        row = summary.set_index("head").loc["logistic"]
        assert row["accuracy"] == pytest.approx(scores.mean())
        half = stats.t.ppf(0.975, 5) * scores.std() * np.sqrt(1 / 6 + 1 / 2)
        assert row["accuracy_high"] == pytest.approx(min(1, scores.mean() + half), abs=0.005)

    def test_perfect_scores_are_not_certain(self):
        X, y, _ = problem(n=60, k=2)
        X[:, 0] = np.where(y == "class 1", 50.0, -50.0)
        row = cross_validate_heads(X[:, :1], y, heads=["nearest_centroid"]).summary.iloc[1]
        for metric in ("accuracy", "balanced_accuracy", "roc_auc"):
            assert row[metric] == row[f"{metric}_high"] == 1
            assert row[f"{metric}_low"] < 0.97

    def test_shuffled_labels_are_at_chance(self):
        X, y, _ = problem(n=200, c=12, k=2)
        y = np.random.default_rng(3).permutation(y)
        heads = ["logistic", "knn", "nearest_centroid"]
        summary = cross_validate_heads(X, y, heads=heads, n_outer=3).summary
        assert summary["accuracy"].to_numpy() == pytest.approx(0.5, abs=0.12)

    def test_held_out_rows_do_not_touch_the_fit(self):
        X, y, _ = problem(n=90)
        ours = cross_validate_heads(X, y, heads=["logistic"], n_outer=3)
        held = ours.predictions.query("head == 'logistic' and fold == 0")["row"].to_numpy()
        spoiled = X.copy()
        spoiled[held[:-1]] = 1e3
        theirs = cross_validate_heads(spoiled, y, heads=["logistic"], n_outer=3)
        columns = [f"p:{name}" for name in ours.classes]
        last = [
            r.predictions.query(f"head == 'logistic' and row == {held[-1]}")[columns].to_numpy()
            for r in (ours, theirs)
        ]
        assert len(last[0]) == 1
        np.testing.assert_array_equal(*last)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"n_outer": 1}, "n_outer must be at least 2"),
            ({"n_repeats": 0}, "n_repeats must be at least 1"),
            ({"n_outer": 90}, "smallest class"),
            ({"y": ["a"]}, "must have one row per image"),
            ({"heads": ["tree"]}, "heads must be from"),
        ],
    )
    def test_errors(self, change, words):
        X, y, _ = problem(n=60)
        with pytest.raises(FeatlabError, match=words):
            cross_validate_heads(**{"X": X, "y": y, **change})


def store_of(X, images):
    """A store whose pooled activations are `X`."""
    values = np.asarray(X, dtype=np.float32)
    return FakeStore(images, array=values[:, None, None], layer="last", activations=values)


class TestBackbones:
    @pytest.fixture
    def stores(self):
        X, y, split = problem(n=200)
        images = pd.DataFrame(
            {
                "path": [f"{i:03}.jpg" for i in range(200)],
                "label": y,
                "split": split,
                "group": "",
                "sha256": [f"sha {i}" for i in range(200)],
            }
        )
        noise = np.random.default_rng(0).normal(size=(200, 5))
        return {"good": store_of(X, images), "noise": store_of(noise, images.copy())}

    def test_table_and_pairs(self, stores):
        found = compare_backbones(stores, heads=["logistic", "nearest_centroid"], n_boot=20)
        table = found.table
        assert table[["backbone", "head"]].to_numpy().tolist() == [
            ["", "dummy"], ["", "colour_histogram"],
            ["good", "logistic"], ["good", "nearest_centroid"],
            ["noise", "logistic"], ["noise", "nearest_centroid"],
        ]  # fmt: skip
        assert table["c"].tolist() == [0, 0, 20, 20, 5, 5]
        images = stores["good"].images
        alone = evaluate_heads(
            stores["good"].activations,
            images["label"],
            images["split"],
            heads=["logistic"],
            n_boot=20,
        )
        assert table["accuracy"].iloc[2] == alone.table["accuracy"].iloc[1]
        assert len(found.pairs) == 2
        assert (found.pairs["p_adjusted"] < 0.001).all()
        assert (found.pairs["difference_low"] > 0).all()
        assert isinstance(backbones(table), Axes)

    def test_rows_are_matched_by_path(self, stores):
        turned = np.random.default_rng(1).permutation(200)
        good = stores["good"]
        other = store_of(good.activations[turned], good.images.iloc[turned].reset_index(drop=True))
        found = compare_backbones({"a": good, "b": other}, heads=["logistic"], n_boot=5)
        assert found.pairs[["only_a", "only_b"]].to_numpy().tolist() == [[0, 0]]

    @pytest.mark.parametrize(
        ("column", "value", "words"),
        [
            ("path", "new.jpg", "'000.jpg' is only in 'good'"),
            ("sha256", "edited", "'000.jpg' has a different sha256 in 'noise'"),
            ("label", "class 9", "'000.jpg' has a different label in 'noise'"),
        ],
    )
    def test_other_images_are_refused(self, stores, column, value, words):
        stores["noise"].images.loc[0, column] = value
        with pytest.raises(FeatlabError, match=words):
            compare_backbones(stores)

    def test_a_split_is_needed(self, stores):
        stores["good"].images["split"] = ""
        with pytest.raises(FeatlabError, match="pass split="):
            compare_backbones(stores)
        with pytest.raises(FeatlabError, match="at least two stores"):
            compare_backbones({"good": SimpleNamespace()})
