"""Per-class scores, calibration, and intervals of grouped images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, precision_recall_fscore_support
from sklearn.metrics import confusion_matrix as sklearn_confusion
from test_heads import problem

from featlab import FeatlabError
from featlab.heads import calibration, evaluate_heads, per_class
from featlab.heads.scores import METRICS, share_interval
from featlab.intervals import share_interval as count_interval
from featlab.results.analysis import HeadResults


def results_of(label, probabilities, *, clusters=None):
    """HeadResults with given probabilities per head."""
    classes = sorted(set(label))
    rows = []
    for head, p in probabilities.items():
        p = np.asarray(p, dtype=float)
        predicted = np.array(classes)[p.argmax(axis=1)]
        rows.append(
            pd.DataFrame(
                {
                    "head": head,
                    "row": np.arange(len(p)),
                    "label": label,
                    "predicted": predicted,
                    "correct": predicted == label,
                    "probability": p.max(axis=1),
                    **{f"p:{name}": column for name, column in zip(classes, p.T, strict=True)},
                }
            )
        )
    models = dict.fromkeys(probabilities)
    return HeadResults(pd.DataFrame(), pd.concat(rows), models, classes, clusters)


class TestDetails:
    def test_per_class_is_scikit_learns(self):
        X, y, split = problem(k=4, sep=0.5)
        results = evaluate_heads(X, y, split, heads=["logistic"], n_boot=1)
        table, rows = per_class(results, "logistic"), results.of("logistic")
        precision, recall, f1, support = precision_recall_fscore_support(
            rows["label"], rows["predicted"], labels=results.classes
        )
        np.testing.assert_allclose(table["precision"], precision)
        np.testing.assert_allclose(table["recall"], recall)
        np.testing.assert_allclose(table["f1"], f1)
        np.testing.assert_array_equal(table["support"], support)
        wrong = sklearn_confusion(rows["label"], rows["predicted"])
        np.fill_diagonal(wrong, 0)
        assert table["confused"].tolist() == wrong.max(axis=1).tolist()
        assert table["confused_with"].iloc[0] == results.classes[wrong[0].argmax()]
        hits = (table["recall"] * support).round()
        low, high = zip(*map(count_interval, hits, support), strict=True)
        np.testing.assert_allclose(table["recall_low"], low)
        np.testing.assert_allclose(table["recall_high"], high, atol=1e-12)

    def test_what_never_occurs_is_nan(self):
        results = results_of(np.array(["a", "b", "b"]), {"h": [[1, 0], [1, 0], [1, 0]]})
        table = per_class(results, "h").set_index("class")
        assert np.isnan(table.loc["b", "precision"]) and table.loc["b", "recall"] == 0
        assert table.loc["b", ["confused_with", "confused"]].tolist() == ["a", 2]
        assert table.loc["a", ["confused_with", "confused"]].tolist() == ["", 0]

    def test_groups_widen_the_recall(self):
        label = np.array(["a"] * 40 + ["b"] * 40)
        p = np.repeat([[1, 0], [0, 1], [0, 1]], [30, 10, 40], axis=0)
        groups = np.arange(80) // 10
        single = per_class(results_of(label, {"h": p}), "h").iloc[0]
        grouped = per_class(results_of(label, {"h": p}, clusters=groups), "h").iloc[0]
        assert grouped["recall_low"] < single["recall_low"]
        assert grouped["interval"] == "over 4 groups"

    def test_calibration_of_true_probabilities(self):
        rng = np.random.default_rng(0)
        p = rng.random(4000)
        label = np.where(rng.random(4000) < p, "b", "a")
        results = results_of(label, {"h": np.column_stack([1 - p, p])})
        found = calibration(results, "h")
        table = found.table
        assert table["n"].sum() == 4000 and table["bin_low"].min() == 0.5
        assert table["confidence"].between(table["accuracy_low"], table["accuracy_high"]).all()
        assert found.ece < found.ece_chance_high < 0.05
        brier = 2 * brier_score_loss(label == "b", p)
        assert found.brier == pytest.approx(brier)
        assert found.brier_low < brier < found.brier_high

    def test_calibration_error_by_hand(self):
        p = np.array([0.95, 0.95, 0.65, 0.65])
        results = results_of(np.array(["b", "a", "b", "a"]), {"h": np.column_stack([1 - p, p])})
        found = calibration(results, "h")
        table = found.table
        assert table["accuracy"].tolist() == [0.5, 0.5]
        assert found.ece == pytest.approx((0.45 + 0.15) / 2)

    def test_overconfidence_is_found(self):
        rng = np.random.default_rng(0)
        right = rng.random(400) < 0.7
        p = np.where(right, 0.99, 0.01)
        p = np.where(np.repeat([True, False], 200), p, 1 - p)
        results = results_of(np.repeat(["a", "b"], 200), {"h": np.column_stack([p, 1 - p])})
        found = calibration(results, "h")
        assert found.ece == pytest.approx(0.99 - right.mean())
        assert found.ece > 5 * found.ece_chance_high

    def test_one_bin_at_least(self):
        with pytest.raises(FeatlabError, match="n_bins must be at least 1"):
            calibration(results_of(np.array(["a", "b"]), {"h": np.eye(2)}), "h", 0)


class TestGroupedIntervals:
    def grouped_problem(self, size=8, n_groups=30, seed=0):
        # Every group is right or wrong as a whole: its images are copies of one.
        rng = np.random.default_rng(seed)
        X = np.repeat(rng.normal(size=(n_groups, 3)), size, axis=0)
        codes = (X[:, 0] + np.repeat(rng.normal(size=n_groups), size) > 0).astype(int)
        groups = np.repeat([f"g{i}" for i in range(n_groups)], size)
        split = np.repeat(np.where(np.arange(n_groups) % 2, "train", "test"), size)
        return X, np.array(["a", "b"])[codes], split, groups

    def test_copies_do_not_narrow_the_interval(self):
        X, y, split, groups = self.grouped_problem()
        args = {"heads": ["logistic"], "n_boot": 400}
        many = evaluate_heads(X, y, split, groups=groups, **args)
        one = evaluate_heads(X[::8], y[::8], split[::8], **args)
        bare = evaluate_heads(X, y, split, **args)
        widths = [
            r.table["accuracy_high"].iloc[1] - r.table["accuracy_low"].iloc[1]
            for r in (many, one, bare)
        ]
        assert widths[0] == pytest.approx(widths[1], rel=0.25)
        assert widths[2] < 0.6 * widths[0]
        assert many.table["interval"].iloc[1] == "over 15 groups"
        assert bare.table["interval"].tolist() == ["over images"] * 2
        for metric in ("balanced_accuracy", "roc_auc"):
            spread = many.table[f"{metric}_high"] - many.table[f"{metric}_low"]
            plain = bare.table[f"{metric}_high"] - bare.table[f"{metric}_low"]
            assert spread.iloc[1] > 1.5 * plain.iloc[1]

    def test_groups_of_one_are_images(self):
        X, y, split = problem(n=90)
        groups = [f"g{i}" for i in range(90)]
        results = evaluate_heads(X, y, split, groups=groups, heads=["logistic"], n_boot=20)
        assert results.clusters is None
        assert results.table["interval"].eq("over images").all()

    def test_one_group_has_no_interval_and_says_why(self):
        X, y, split, groups = self.grouped_problem(n_groups=8)
        groups = np.where(split == "test", "one", groups)
        table = evaluate_heads(X, y, split, groups=groups, heads=["logistic"], n_boot=20).table
        ends = [f"{m}{end}" for m in METRICS[:-1] for end in ("_low", "_high")]
        assert table[ends].isna().all(axis=None)
        assert table["interval"].eq("none: all images are of one group").all()

    def test_perfect_groups_count_as_groups(self):
        hits = np.ones(40, dtype=bool)
        found = share_interval(hits, np.arange(40) // 10)
        assert found == pytest.approx(count_interval(4, 4), abs=0.001)
