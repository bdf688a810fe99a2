"""Learning and ablation curves, and the smallest set of neurons."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from test_heads import problem

from featlab import FeatlabError, plots
from featlab.heads import (
    _curves,
    ablation_curve,
    evaluate_heads,
    learning_curve,
    smallest_set,
)
from featlab.heads._curves import _nested_choice, _Partners

NEW = ("logistic_l1", "linear_svm", "knn", "nearest_centroid")


@pytest.mark.parametrize("curve", [learning_curve, ablation_curve, smallest_set])
def test_a_class_without_train_images_is_refused(curve):
    X, y, split = problem(n=90)
    split[y == "class 1"] = "test"
    order = {} if curve is learning_curve else {"order": [0, 1]}
    with pytest.raises(FeatlabError, match="'class 1' has no image in train"):
        curve(X, y, split, **order)


class TestLearningCurve:
    @pytest.mark.slow
    def test_accuracy_grows(self):
        X, y, split = problem(n=600, sep=1.0)
        table = learning_curve(X, y, split, n_repeats=4, head="nearest_centroid", n_boot=100)
        most = pd.Series(y[split == "train"]).value_counts().max()
        assert table["size"].tolist() == [1, 2, 5, 10, 20, 50, 100, most]
        assert table["n_train"].iloc[:6].tolist() == [3, 6, 15, 30, 60, 150]
        assert table["accuracy"].iloc[-1] > table["accuracy"].iloc[0] + 0.1
        assert (table["accuracy_low"] <= table["accuracy"]).all()
        assert (table["accuracy"] <= table["accuracy_high"]).all()
        assert table["accuracy_sd"].iloc[0] > table["accuracy_sd"].iloc[-2]
        assert isinstance(plots.learning_curve(table), Axes)

    def test_all_images_give_the_ordinary_score(self):
        X, y, split = problem(n=150)
        row = learning_curve(X, y, split, sizes=[1000]).iloc[0]
        expected = evaluate_heads(X, y, split, heads=["logistic"], n_boot=1).table.iloc[1]
        for column in ("accuracy", "accuracy_low", "accuracy_high", "n_train", "n"):
            assert row[column] == expected[column]
        assert (row["n_repeats"], row["interval"]) == (1, "over images")

    def test_choices_are_nested_and_by_group(self):
        codes = np.repeat([0, 1], 30)
        groups = np.arange(60) // 6
        small, large = (
            _nested_choice(codes, groups, size, np.random.default_rng(0)) for size in (6, 12)
        )
        assert set(small) < set(large)
        assert np.unique(groups[small]).tolist() != np.unique(groups[large]).tolist()
        assert [len(np.unique(groups[c])) for c in (small, large)] == [2, 4]
        assert np.bincount(codes[large]).tolist() == [12, 12]

    def test_groups_widen_the_interval(self):
        X, y, split = problem(n=300)
        groups = np.array([f"{s}{i // 30}" for i, s in enumerate(split)])
        args = {"sizes": [10], "head": "nearest_centroid", "n_repeats": 3}
        bare, grouped = (
            learning_curve(X, y, split, groups=g, **args).iloc[0] for g in (None, groups)
        )
        assert bare["interval"] == "over images"
        assert grouped["interval"] == "over 10 groups"

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"sizes": [0]}, "each of sizes must be"),
            ({"sizes": [1.5]}, "each of sizes must be"),
            ({"head": "tree"}, "head must be one of"),
            ({"n_repeats": 0}, "n_repeats must be at least 1"),
        ],
    )
    def test_errors(self, change, words):
        X, y, split = problem(n=60)
        with pytest.raises(FeatlabError, match=words):
            learning_curve(X, y, split, **change)


class TestAblation:
    @pytest.fixture(scope="class")
    @staticmethod
    def planted():
        """Four neurons know the classes, sixty do not."""
        rng = np.random.default_rng(0)
        y = rng.permutation(np.repeat(["a", "b"], 150))
        X = rng.normal(size=(300, 64)) + 5
        X[:, :4] += 1.5 * (y == "b")[:, None]
        split = rng.permutation(np.repeat(["train", "test"], 150))
        ids = [f"n{i}" for i in range(64)]
        return pd.DataFrame(X, columns=ids), y, split

    def test_the_planted_neurons_are_needed(self, planted):
        X, y, split = planted
        order = ["n0", "n1", "n0", "n2", "n3"]
        table = ablation_curve(X, y, split, order, n_random=10)
        assert table.columns.tolist() == ["mode", "kind", "k", "n", "accuracy", "low", "high"]
        ours, random = (table[table["kind"] == kind] for kind in ("detectors", "random"))
        assert ours["k"].tolist() == random["k"].tolist() == [0, 1, 2, 4]
        assert ours["accuracy"].iloc[0] == random["accuracy"].iloc[0] > 0.85
        assert ours["accuracy"].iloc[-1] < 0.65 and random["accuracy"].iloc[-1] > 0.85
        assert (table["low"] <= table["accuracy"]).all()
        assert (table["accuracy"] <= table["high"]).all()
        assert isinstance(plots.curves.ablation(table), Axes)

    def test_they_are_enough(self, planted):
        X, y, split = planted
        table = ablation_curve(X, y, split, ["n0", "n1", "n2", "n3"], mode="keep", n_random=10)
        last = table[table["k"] == 4].set_index("kind")["accuracy"]
        assert last["detectors"] > 0.85 and last["random"] < 0.65
        assert isinstance(plots.curves.ablation(table), Axes)

    def test_it_is_the_head_with_neurons_at_their_mean(self, planted):
        X, y, split = planted
        train, test = split == "train", split == "test"
        model = evaluate_heads(X, y, split, heads=["logistic"], n_boot=1).models["logistic"]
        for mode in ("ablate", "keep"):
            changed = X.to_numpy()[test].copy()
            columns = [5, 0] if mode == "ablate" else np.setdiff1d(np.arange(64), [5, 0])
            changed[:, columns] = X.to_numpy()[train][:, columns].mean(axis=0)
            expected = (model.predict(changed) == y[test]).mean()
            table = ablation_curve(X, y, split, ["n5", "n0"], mode=mode, n_random=1)
            assert table.query("kind == 'detectors' and k == 2")["accuracy"].item() == expected

    def test_both_modes_at_once_are_the_same_of_one_fit(self, planted, monkeypatch):
        X, y, split = planted
        order, fits = ["n5", "n0"], []
        each = [ablation_curve(X, y, split, order, mode=mode) for mode in ("ablate", "keep")]
        fit = _curves.fit_logistic
        monkeypatch.setattr(_curves, "fit_logistic", lambda *a: fits.append(1) or fit(*a))
        both = ablation_curve(X, y, split, order, mode=["ablate", "keep"])
        pd.testing.assert_frame_equal(both, pd.concat(each, ignore_index=True))
        assert len(fits) == 1

    def test_partners_are_of_like_variance(self):
        variance = np.append(np.geomspace(1e-3, 1e3, 400), 0.0)
        columns = np.array([10, 200, 390])
        draws = [_Partners(variance, columns).draw(np.random.default_rng(i)) for i in range(30)]
        for drawn in draws:
            assert len(set(drawn)) == 3 and not set(drawn) & {*columns, 400}
            assert (np.abs(np.log(variance[drawn] / variance[columns])) < 0.5).all()
        assert len({tuple(drawn) for drawn in draws}) > 20

    @given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 12))
    def test_as_many_partners_as_an_error_allows_can_be_had(self, alive, size):
        variance, columns = np.array(alive, float), np.arange(min(size, len(alive)))
        try:
            _Partners(variance, columns)
        except FeatlabError as error:
            most = int(re.search(r"at most (\d+)", str(error))[1])
            assert most < len(columns)
            _Partners(variance, columns[:most])
            with pytest.raises(FeatlabError):
                _Partners(variance, columns[: most + 1])

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"mode": "drop"}, "mode must be one of"),
            ({"order": ["n99"]}, "order must name neurons of X, got 'n99'"),
            ({"order": []}, "order is empty"),
            ({"sizes": [2]}, "sizes must be at most the 1 neurons"),
            ({"n_random": 0}, "n_random must be at least 1"),
            ({"order": [f"n{i}" for i in range(60)]}, "sizes must be at most 32, so"),
        ],
    )
    def test_errors(self, planted, change, words):
        X, y, split = planted
        with pytest.raises(FeatlabError, match=words):
            ablation_curve(**{"X": X, "y": y, "split": split, "order": ["n0"], **change})

    def test_smallest_set(self, planted):
        X, y, split = planted
        order = [f"n{i}" for i in range(64)]
        found = smallest_set(X, y, split, order, sizes=[1, 2, 4, 16, 64])
        assert found.neurons == order[: len(found.neurons)] and 2 <= len(found.neurons) <= 4
        curve = found.curve.set_index("k")
        best = curve["accuracy"].idxmax()
        bar = curve.loc[best, "accuracy"] - curve.loc[best, "se"]
        assert curve.index[curve["smallest"]].tolist() == [curve.index[curve["accuracy"] >= bar][0]]
        assert found.accuracy_low < found.accuracy < found.accuracy_high
        assert found.accuracy > 0.8 and found.n == 150

    def test_test_rows_do_not_choose_it(self, planted):
        X, y, split = planted
        spoiled = X.mask(pd.Series(split == "test"), 1e3)
        ours, theirs = (smallest_set(Z, y, split, ["n0", "n1", "n9"]) for Z in (X, spoiled))
        assert ours.neurons == theirs.neurons
        pd.testing.assert_frame_equal(ours.curve, theirs.curve)
