from __future__ import annotations

import logging
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_allclose
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from featlab import FeatlabError
from featlab.heads import evaluate_heads, linear_weights
from featlab.heads.scores import metrics_of, scores_of
from featlab.heads.training import C_GRID, Train, folds_of, rotated, stratified_folds, tuned_c
from featlab.intervals import share_interval
from featlab.results.analysis import HeadResults

METRICS = ["accuracy", "balanced_accuracy", "roc_auc", "log_loss"]


def problem(n=240, c=20, k=3, seed=0, sep=1.2):
    X, y = make_classification(
        n, c, n_informative=6, n_classes=k, class_sep=sep, random_state=seed, n_clusters_per_class=1
    )
    split = np.random.default_rng(seed).permutation(
        np.repeat(["train", "confirm", "test"], [n // 2, n // 5, n - n // 2 - n // 5])
    )
    return X, np.array([f"class {i}" for i in y]), split


@pytest.fixture(scope="module", params=[2, 3])
def solved(request):
    X, y, split = problem(k=request.param)
    colour = np.random.default_rng(0).dirichlet(np.ones(64), len(y))
    return X, y, split, evaluate_heads(X, y, split, colour=colour, n_boot=200)


class TestScores:
    def test_table(self, solved):
        _, _, split, results = solved
        table = results.table
        names = ["head", "n_train", "n"]
        names += [f"{m}{end}" for m in METRICS[:-1] for end in ("", "_low", "_high")]
        names += ["log_loss"]
        assert table.columns.tolist() == [*names, "interval", "parameters"]
        assert table["head"].tolist() == ["dummy", "logistic", "mlp", "colour_histogram"]
        assert (table["n"] == (split == "test").sum()).all()
        assert (table["n_train"] == (split == "train").sum()).all()
        for metric in METRICS[:-1]:
            assert (table[f"{metric}_low"] <= table[metric]).all()
            assert (table[metric] <= table[f"{metric}_high"]).all()

    def test_metrics_are_scikit_learns(self, solved):
        _, _, _, results = solved
        for _, row in results.table.iterrows():
            rows = results.predictions[results.predictions["head"] == row["head"]]
            p = rows[[f"p:{name}" for name in results.classes]].to_numpy()
            score = p[:, 1] if len(results.classes) == 2 else p
            auroc = roc_auc_score(rows["label"], score, multi_class="ovr")
            assert row["accuracy"] == rows["correct"].mean()
            assert row["roc_auc"] == pytest.approx(auroc)
            assert row["log_loss"] == pytest.approx(log_loss(rows["label"], p))
            assert row["balanced_accuracy"] == pytest.approx(
                balanced_accuracy_score(rows["label"], rows["predicted"])
            )
            expected = share_interval(rows["correct"].sum(), len(rows))
            assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx(expected)

    def test_predictions(self, solved):
        _, y, split, results = solved
        rows = results.predictions[results.predictions["head"] == "logistic"]
        assert rows["row"].tolist() == np.flatnonzero(split == "test").tolist()
        assert rows["label"].tolist() == y[split == "test"].tolist()
        p = rows[[f"p:{name}" for name in results.classes]].to_numpy()
        np.testing.assert_allclose(p.sum(axis=1), 1)
        np.testing.assert_array_equal(rows["probability"], p.max(axis=1))
        assert rows["predicted"].tolist() == [results.classes[i] for i in p.argmax(axis=1)]

    def test_models_predict_what_is_in_the_table(self, solved):
        X, _, split, results = solved
        rows = results.predictions[results.predictions["head"] == "logistic"]
        model = results.models["logistic"]
        assert isinstance(model, Pipeline)
        assert list(model.classes_) == results.classes
        assert model.predict(X[split == "test"]).tolist() == rows["predicted"].tolist()

    def test_confusion(self, solved):
        _, _, _, results = solved
        rows = results.predictions[results.predictions["head"] == "dummy"]
        counts = results.confusion("dummy")
        assert counts.index.tolist() == counts.columns.tolist() == results.classes
        assert counts.to_numpy().sum() == len(rows)
        assert np.trace(counts) == rows["correct"].sum()
        with pytest.raises(FeatlabError, match="head must be one of"):
            results.confusion("forest")

    def test_heads_beat_the_dummy_and_colour_noise_does_not(self, solved):
        table = solved[3].table.set_index("head")
        assert table.loc["logistic", "accuracy_low"] > table.loc["dummy", "accuracy_high"]
        assert table.loc["mlp", "accuracy_low"] > table.loc["dummy", "accuracy_high"]
        assert table.loc["colour_histogram", "roc_auc"] == pytest.approx(0.5, abs=0.15)

    def test_auroc_without_another_class_is_nan(self):
        assert np.isnan(metrics_of(np.zeros(3, dtype=int), np.full((3, 2), 0.5))["roc_auc"])

    def test_perfect_accuracy_is_not_certain(self):
        X, y, split = problem(k=2)
        X[:, 0] = np.where(y == "class 1", 50.0, -50.0)
        row = evaluate_heads(X, y, split, heads=["logistic"], n_boot=50).table.iloc[1]
        assert row["accuracy"] == row["accuracy_high"] == 1.0
        assert row["accuracy_low"] < 0.97


class TestHonesty:
    def test_shuffled_labels_are_at_chance(self):
        accuracies = []
        for seed in range(4):
            X, y, split = problem(n=200, c=10, k=2, seed=seed)
            y = np.random.default_rng(seed).permutation(y)
            table = evaluate_heads(X, y, split, n_boot=1).table
            accuracies.append(table.loc[table["head"] != "dummy", "accuracy"].mean())
        assert np.mean(accuracies) == pytest.approx(0.5, abs=0.1)

    def test_test_and_confirm_rows_do_not_touch_the_fit(self):
        X, y, split = problem()
        spoiled, labels = X.copy(), y.copy()
        rng = np.random.default_rng(1)
        spoiled[split != "train"] = rng.normal(size=(np.sum(split != "train"), X.shape[1])) * 100
        labels[split != "train"] = rng.permutation(labels[split != "train"])
        ours = evaluate_heads(X, y, split, n_boot=1)
        theirs = evaluate_heads(spoiled, labels, split, n_boot=1)
        for head in ("logistic", "mlp"):
            np.testing.assert_array_equal(
                ours.models[head].predict_proba(X), theirs.models[head].predict_proba(X)
            )

    @pytest.mark.parametrize("c", [8, 100])
    def test_tuned_c_is_grid_searchs(self, c):
        X, y, _ = problem(n=60, c=c, sep=0.6)
        codes = np.unique(y, return_inverse=True)[1]
        train = Train(X, codes, np.unique(y), np.arange(len(y)), False, 0)
        pipeline = Pipeline(
            [("scale", StandardScaler()), ("model", LogisticRegression(max_iter=1000))]
        )
        search = GridSearchCV(
            pipeline,
            {"model__C": C_GRID},
            cv=StratifiedKFold(5, shuffle=True, random_state=0),
            scoring="neg_log_loss",
        ).fit(X, codes)
        assert tuned_c(train, folds_of(train)) == search.best_params_["model__C"]

    def test_groups_stay_together_in_the_folds(self):
        rng = np.random.default_rng(0)
        groups = np.arange(60) // 4
        train = Train(rng.normal(size=(60, 3)), groups % 2, np.array(["a", "b"]), groups, True, 0)
        folds = folds_of(train)
        assert len(folds) == 5
        for fit, held in folds:
            assert not set(groups[fit]) & set(groups[held])

    def test_grouped_tuning_sees_through_copies(self):
        # Twenty noise images, ten near copies each: without groups a large C looks right.
        rng = np.random.default_rng(0)
        X = np.repeat(rng.normal(size=(20, 40)), 10, axis=0) + rng.normal(size=(200, 40)) * 0.01
        y = np.repeat(rng.permutation(np.repeat(["a", "b"], 10)), 10)
        X, y = np.vstack([X, X]), np.concatenate([y, y])
        split = np.repeat(["train", "test"], 200)
        groups = np.char.add("g", np.repeat(np.arange(40), 10).astype(str))

        def tuned(**kwargs):
            results = evaluate_heads(X, y, split, heads=["logistic"], n_boot=1, **kwargs)
            assert "folds" in results.table["parameters"].iloc[1]
            return results.models["logistic"][-1].C

        assert tuned() == 10.0
        assert tuned(groups=groups) <= 0.01


class TestSmallAndOdd:
    def test_five_images_a_class(self):
        X, y, _ = problem(n=15, k=3)
        y = np.repeat(["a", "b", "c"], 5)
        split = np.tile(["train", "train", "train", "confirm", "test"], 3)
        results = evaluate_heads(X, y, split, n_boot=100)
        assert isinstance(results, HeadResults)
        assert results.table["n"].eq(3).all()

    def test_labels_are_text_whatever_they_are(self):
        X, y, split = problem(n=360, c=12, k=3)
        numbers = np.unique(y, return_inverse=True)[1] * 5 + 5  # 5, 10, 15: as text 10 is first
        ours, theirs = (
            evaluate_heads(X, labels, split, heads=["logistic"], n_boot=5)
            for labels in (numbers, numbers.astype(str))
        )
        assert ours.classes == ["10", "15", "5"] == ours.models["logistic"].classes_.tolist()
        pd.testing.assert_frame_equal(ours.predictions, theirs.predictions)
        assert ours.table["accuracy"].iloc[1] > 0.7

    def test_many_classes_of_few_images_are_no_warning(self):
        # scikit-learn takes names for numbers where there are so many of them.
        y = np.array([f"class {k % 13}" for k in range(39)])
        X = np.random.default_rng(0).normal(size=(39, 5))
        split = np.repeat(["train", "confirm", "test"], [24, 2, 13])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            evaluate_heads(X, y, split, heads=["logistic"])
        assert not [one for one in said if "unique classes" in str(one.message)]

    def test_one_train_image_is_not_tuned(self):
        X, y, _ = problem(n=15, k=3)
        y = np.repeat(["a", "b", "c"], 5)
        split = np.tile(["train", "test", "test", "test", "test"], 3)
        table = evaluate_heads(X, y, split, n_boot=10, heads=["logistic"]).table
        assert table["parameters"].iloc[1].startswith("C=0.01 (a class has too few")

    def test_class_without_train_image(self):
        X, y, split = problem()
        split[y == "class 1"] = "test"
        with pytest.raises(FeatlabError, match="'class 1' has no image in train"):
            evaluate_heads(X, y, split)

    def test_class_without_test_image_is_left_out(self, caplog):
        X, y, split = problem()
        split[(y == "class 1") & (split == "test")] = "confirm"
        with caplog.at_level(logging.WARNING):
            results = evaluate_heads(X, y, split, heads=["logistic"], n_boot=20)
        assert "No test image of 'class 1'" in caplog.text
        rows = results.predictions[results.predictions["head"] == "logistic"]
        recalls = rows.groupby("label")["correct"].mean()
        assert results.table["balanced_accuracy"].iloc[1] == pytest.approx(recalls.mean())
        assert results.table["roc_auc"].notna().all()

    def test_no_warning_reaches_the_user(self):
        X, y, split = problem()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            evaluate_heads(X, y, split, groups=[""] * len(y), n_boot=5)

    def test_same_seed_same_result(self):
        X, y, split = problem(n=100)
        ours, again = (evaluate_heads(X, y, split, n_boot=20) for _ in range(2))
        pd.testing.assert_frame_equal(ours.table, again.table)
        pd.testing.assert_frame_equal(ours.predictions, again.predictions)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"heads": ["forest"]}, "heads must be from"),
            ({"n_boot": 0}, "n_boot must be at least 1"),
            ({"split": ["train"] * 240}, "no 'test' row"),
            ({"split": ["fit"] * 240}, "got 'fit'"),
            ({"split": ["train"]}, "X, y and split must have one row per image"),
            ({"colour": np.zeros((3, 64))}, "one row per image"),
            ({"groups": ["g"]}, "must have one row per image"),
            ({"y": ["a"] * 240}, "at least two classes"),
            ({"X": np.full((240, 2), np.nan)}, "X holds 480 NaN"),
            ({"colour": np.full((240, 64), np.inf)}, "colour holds 15360 NaN"),
        ],
    )
    def test_errors(self, change, words):
        X, y, split = problem()
        with pytest.raises(FeatlabError, match=words):
            evaluate_heads(**{"X": X, "y": y, "split": split, **change})


class TestLinearWeights:
    def test_they_are_the_decision_function(self, solved):
        X, _, _, results = solved
        model = results.models["logistic"]
        coef, intercept = linear_weights(model)
        assert coef.shape == (len(results.classes), X.shape[1])
        ours, theirs = X @ coef.T + intercept, model.decision_function(X)
        if len(results.classes) == 2:
            np.testing.assert_array_equal(coef[0], -coef[1])
            np.testing.assert_array_equal(intercept[0], -intercept[1])
            ours = ours[:, 1]
        np.testing.assert_allclose(ours, theirs, atol=1e-9)

    def test_only_of_linear_heads(self, solved):
        with pytest.raises(FeatlabError, match="needs a logistic head, got MLPClassifier"):
            linear_weights(solved[3].models["mlp"])


@pytest.mark.parametrize("sizes", [(40, 60), (5, 20, 30)])
def test_perfect_scores_are_not_certain(sizes):
    y = np.repeat(np.arange(len(sizes)), sizes)
    scores = scores_of(y, np.eye(len(sizes))[y])
    for name in ("accuracy", "balanced_accuracy", "roc_auc"):
        assert scores[name] == scores[f"{name}_high"] == 1
        assert 1 - 5 / min(sizes) < scores[f"{name}_low"] < 1 - 0.5 / sum(sizes), name
    # Classes of few images make the mean recall less certain than the share of right answers.
    assert scores["balanced_accuracy_low"] < scores["accuracy_low"]


@pytest.mark.parametrize(("copies", "is_qr"), [(0, False), (3, True)])
def test_rows_are_turned_into_few_columns_that_keep_their_products(copies, is_qr, monkeypatch):
    rng = np.random.default_rng(0)
    X, other = rng.normal(size=(30, 80)), rng.normal(size=(9, 80))
    X[30 - copies :] = X[:copies]
    X -= X.mean(axis=0)
    calls, qr = [], np.linalg.qr
    monkeypatch.setattr(np.linalg, "qr", lambda matrix: calls.append(1) or qr(matrix))
    own, held = rotated(X, other)
    assert bool(calls) == is_qr and own.shape[1] <= 30
    assert_allclose(own @ own.T, X @ X.T, atol=1e-10)
    assert_allclose(held @ own.T, other @ X.T, atol=1e-10)
    wide = rng.normal(size=(30, 30))
    assert rotated(wide, wide)[0] is wide


def test_folds_are_stratified_and_keep_groups_together():
    # Two classes whose groups differ in size: spread at random, folds hold 0 to 60 % of the rarer.
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(60), rng.integers(1, 9, 60))
    codes = (owner % 3 == 0).astype(int)
    for seed in range(5):
        folds = stratified_folds(codes, owner, 5, seed)
        assert sorted(np.concatenate([held for _, held in folds])) == list(range(len(codes)))
        for fit, held in folds:
            assert not set(owner[fit]) & set(owner[held])
            assert abs(codes[held].mean() - codes.mean()) < 0.05
            assert abs(len(held) / len(codes) - 0.2) < 0.03
    first, again, other = (stratified_folds(codes, owner, 5, seed)[0][1] for seed in (1, 1, 2))
    assert list(first) == list(again) != list(other)


def test_folds_are_those_of_scikit_learn_since_it_stratifies_them():
    if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8):
        pytest.skip(f"scikit-learn {sklearn.__version__} does not stratify shuffled groups")
    rng = np.random.default_rng(1)
    codes, groups = rng.integers(0, 3, 200), rng.integers(0, 40, 200)
    theirs = StratifiedGroupKFold(4, shuffle=True, random_state=7).split(codes, codes, groups)
    for own, other in zip(stratified_folds(codes, groups, 4, 7), theirs, strict=True):
        np.testing.assert_array_equal(own[0], other[0])
        np.testing.assert_array_equal(own[1], other[1])
