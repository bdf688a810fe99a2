"""The further heads, neurons chosen in the fold, saved heads."""

from __future__ import annotations

import io
import logging
import os
import pickle
import shutil
import sys
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_heads import problem

from featlab import FeatlabError, plots
from featlab.features import feature_table
from featlab.heads import (
    NeuronSelector,
    calibration,
    evaluate_heads,
    linear_weights,
    load_head,
    save_head,
)
from featlab.heads.models import _NEIGHBOURS, HEADS, HEADS_DEFAULT, CentroidClassifier
from featlab.heads.saving import calibrated_head
from featlab.store import MapStore

ARCHIVES = Path(__file__).parent / "archives"
NEW = ("logistic_l1", "linear_svm", "knn", "nearest_centroid")


@pytest.fixture(scope="module", params=[2, 3])
def solved(request):
    X, y, split = problem(k=request.param, sep=1.5)
    return X, y, split, evaluate_heads(X, y, split, heads=HEADS, n_boot=20)


@parametrize_with_checks([CentroidClassifier(), NeuronSelector(), NeuronSelector(3, per="all")])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


class TestHeads:
    def test_all_are_reachable_and_beat_the_dummy(self, solved):
        table = solved[3].table.set_index("head")
        assert table.index.tolist() == ["dummy", *HEADS]
        assert HEADS_DEFAULT == ("logistic", "mlp")
        for head in HEADS:
            assert table.loc[head, "accuracy_low"] > table.loc["dummy", "accuracy_high"], head
            assert table.loc[head, "log_loss"] < table.loc["dummy", "log_loss"] or head == "knn"
        assert table["parameters"].nunique() == len(table)

    def test_probabilities(self, solved):
        X, _, split, results = solved
        for head in HEADS:
            model = results.models[head]
            p = model.predict_proba(X[split == "test"])
            np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
            assert model.classes_.tolist() == results.classes
            rows = results.of(head)[[f"p:{name}" for name in results.classes]]
            np.testing.assert_array_equal(rows, p)

    def test_sparse_head_drops_noise(self):
        X, y, split = problem(n=400, k=2, c=8, sep=2.0)
        X = np.hstack([X, np.random.default_rng(0).normal(size=(400, 60))])
        results = evaluate_heads(X, y, split, heads=["logistic_l1"], n_boot=1)
        coef, intercept = linear_weights(results.models["logistic_l1"])
        used = (coef != 0).any(axis=0)
        assert used[:8].any() and used[8:].mean() < 0.5
        assert f"{used.sum()} of 68 neurons" in results.table["parameters"].iloc[1]
        decision = results.models["logistic_l1"].decision_function(X)
        np.testing.assert_allclose((X @ coef.T + intercept)[:, 1], decision, atol=1e-9)

    def test_neighbours_are_those_of_a_search(self):
        X, y, split = problem(n=200, sep=0.8)
        results = evaluate_heads(X, y, split, heads=["knn"], n_boot=1)
        pipeline = Pipeline([("scale", StandardScaler()), ("model", KNeighborsClassifier())])
        classes = np.array(results.classes)

        def brier(model, X, y):
            return -((model.predict_proba(X) - (y[:, None] == classes)) ** 2).sum(axis=1).mean()

        search = GridSearchCV(
            pipeline,
            {"model__n_neighbors": _NEIGHBOURS},
            cv=StratifiedKFold(5, shuffle=True, random_state=0),
            scoring=brier,
        ).fit(X[split == "train"], y[split == "train"])
        chosen = results.models["knn"][-1].n_neighbors
        assert chosen == search.best_params_["model__n_neighbors"]

    def test_svm_probabilities_are_calibrated_in_folds(self, solved):
        svm = solved[3].models["linear_svm"][-1]
        assert isinstance(svm, CalibratedClassifierCV)
        assert len(svm.cv) == 5 and len(svm.calibrated_classifiers_) == 1
        parameters = solved[3].table.set_index("head").loc["linear_svm", "parameters"]
        assert parameters.endswith("calibrated on held-out folds")

    def test_centroids_are_scikit_learns(self, solved):
        X, y, split, results = solved
        train, test = split == "train", split == "test"
        scale = StandardScaler().fit(X[train])
        theirs = NearestCentroid().fit(scale.transform(X[train]), y[train])
        ours = results.models["nearest_centroid"]
        assert ours.predict(X[test]).tolist() == theirs.predict(scale.transform(X[test])).tolist()

    def test_balanced_classes(self):
        rng = np.random.default_rng(0)
        y = np.repeat(["rare", "common"], [40, 360])
        X = rng.normal(size=(400, 4)) + (y == "rare")[:, None] * 0.7
        split = rng.permutation(np.repeat(["train", "test"], 200))
        heads = ["logistic", "logistic_l1", "linear_svm"]
        tables = [
            evaluate_heads(X, y, split, heads=heads, n_boot=1, class_weight=w).table
            for w in (None, "balanced")
        ]
        plain, balanced = (t.set_index("head")["balanced_accuracy"] for t in tables)
        assert balanced["logistic"] > plain["logistic"] + 0.1
        assert balanced["logistic_l1"] > plain["logistic_l1"] + 0.1
        words = tables[1].set_index("head")["parameters"]
        assert words[heads].str.contains("balanced classes").all()
        with pytest.raises(FeatlabError, match="class_weight must be one of"):
            evaluate_heads(X, y, split, class_weight="even")

    def test_balanced_logistic_is_scikit_learns(self):
        X, y, split = problem(n=120)
        results = evaluate_heads(X, y, split, heads=["logistic"], n_boot=1, class_weight="balanced")
        ours, train = results.models["logistic"], split == "train"
        theirs = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=ours[-1].C, class_weight="balanced", max_iter=1000),
        ).fit(X[train], y[train])
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-9)

    def test_one_train_image_a_class(self):
        X, _, _ = problem(n=15, k=3)
        y = np.repeat(["a", "b", "c"], 5)
        split = np.tile(["train", "test", "test", "test", "test"], 3)
        table = evaluate_heads(X, y, split, n_boot=10, heads=HEADS).table.set_index("head")
        assert table.loc["knn", "parameters"].startswith("k=1 (a class has too few")
        assert "calibrated on train itself" in table.loc["linear_svm", "parameters"]
        assert table["log_loss"].notna().all()

    def test_test_rows_do_not_touch_the_fit(self):
        X, y, split = problem(n=120)
        spoiled = X.copy()
        spoiled[split != "train"] *= 1e3
        ours, theirs = (evaluate_heads(Z, y, split, heads=NEW, n_boot=1) for Z in (X, spoiled))
        for head in NEW:
            p, q = (r.models[head].predict_proba(X) for r in (ours, theirs))
            np.testing.assert_array_equal(p, q)

    def test_no_warning_reaches_the_user(self):
        X, y, split = problem(n=120)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            evaluate_heads(X, y, split, heads=NEW, n_boot=5, groups=np.arange(120) // 3)


class TestNeuronSelector:
    def planted(self, n=120, c=50, seed=0):
        rng = np.random.default_rng(seed)
        y = rng.permutation(np.repeat(["a", "b", "c"], n // 3))
        X = rng.normal(size=(n, c))
        for k, name in enumerate("abc"):
            X[y == name, 10 * k] += 3 * (-1) ** k  # neuron 10 is low for its class
        return X, y

    def test_planted_neurons_are_found(self):
        X, y = self.planted()
        for selector in (NeuronSelector(1), NeuronSelector(3, per="all")):
            assert selector.fit(X, y).get_support(indices=True).tolist() == [0, 10, 20]
            assert selector.transform(X).shape == (120, 3)
        named = pd.DataFrame(X, columns=[f"n{i}" for i in range(50)])
        names = NeuronSelector(1).fit(named, y).get_feature_names_out()
        assert names.tolist() == ["n0", "n10", "n20"]

    def test_auroc_is_scikit_learns(self):
        X, y = self.planted()
        selector = NeuronSelector().fit(X, y)
        for k, name in enumerate(selector.classes_):
            expected = [roc_auc_score(y == name, column) for column in X.T]
            np.testing.assert_allclose(selector.auroc_[k], expected)
        np.testing.assert_allclose(selector.scores_, np.abs(selector.auroc_ - 0.5).max(axis=0))

    def test_an_effect_can_be_asked_for(self, caplog):
        X, y = self.planted()
        chosen = NeuronSelector(50, min_effect=0.3).fit(X, y).get_support(indices=True)
        assert chosen.tolist() == [0, 10, 20]
        with caplog.at_level(logging.WARNING):
            assert NeuronSelector(min_effect=0.5).fit(X, y).get_support().sum() == 1
        assert "No neuron has an effect of 0.5" in caplog.text

    def test_selection_inside_the_fold_is_honest(self):
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(60, 2000)), np.tile([0, 1], 30)
        head = make_pipeline(NeuronSelector(10), LogisticRegression())
        inside = cross_val_score(clone(head), X, y).mean()
        before = cross_val_score(
            LogisticRegression(), NeuronSelector(10).fit_transform(X, y), y
        ).mean()
        assert inside < 0.65 and before > 0.8

    def test_it_is_a_scikit_learn_citizen(self):
        X, y = self.planted()
        selector = NeuronSelector(5, per="all", min_effect=0.1)
        assert clone(selector).get_params() == {"n_neurons": 5, "per": "all", "min_effect": 0.1}
        search = GridSearchCV(
            Pipeline([("select", NeuronSelector()), ("model", LogisticRegression())]),
            {"select__n_neurons": [1, 5]},
            cv=3,
        ).fit(X, y)
        assert search.best_score_ > 0.9
        again = pickle.loads(pickle.dumps(search.best_estimator_))
        assert (again.predict(X) == search.predict(X)).all()

    @pytest.mark.parametrize(
        ("parameters", "words"),
        [
            ({"per": "layer"}, "per must be one of"),
            ({"n_neurons": 0}, "n_neurons must be at least 1"),
            ({"min_effect": 0.7}, "min_effect must be from 0 to 0.5"),
        ],
    )
    def test_errors(self, parameters, words):
        X, y = self.planted()
        with pytest.raises(FeatlabError, match=words):
            NeuronSelector(**parameters).fit(X, y)
        with pytest.raises(FeatlabError, match="at least two classes"):
            NeuronSelector().fit(X, ["a"] * 120)


class TestSaving:
    @pytest.mark.parametrize("classes", [2, 3])
    def test_a_head_that_is_always_right_is_not_entirely_sure(self, classes):
        """Held out all right, n images let one expect n / (n + 1) of others right, and no more."""
        rng = np.random.default_rng(0)
        y = np.arange(120) % classes
        X = 6 * np.eye(classes)[y] + rng.normal(size=(120, classes))
        for strength in (0.01, 1, 100):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength)).fit(X, y)
            head, temperature = calibrated_head(model, X, y)
            sure = head.predict_proba(X).max(axis=1)
            assert (head.predict_proba(X).argmax(axis=1) == y).mean() > 0.99
            assert 0.98 < sure.mean() < 0.997, (strength, temperature)

    @pytest.mark.parametrize("head", [h for h in HEADS if h != "knn"])
    def test_a_saved_head_predicts_the_same(self, solved, tmp_path, head):
        X, _, split, results = solved
        model = results.models[head]
        path = save_head(model, tmp_path / head)
        assert path.name == f"{head}.npz"
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
        again = load_head(path)
        assert again.classes_.tolist() == results.classes
        np.testing.assert_allclose(again.predict_proba(X), model.predict_proba(X), atol=1e-6)
        rows = split == "test"
        assert again.predict(X[rows]).tolist() == model.predict(X[rows]).tolist()

    def test_it_is_flushed_to_the_disk(self, solved, tmp_path, monkeypatch):
        flushed, real = [], os.fsync
        monkeypatch.setattr(os, "fsync", lambda handle: (flushed.append(handle), real(handle))[1])
        path = save_head(solved[3].models["logistic"], tmp_path / "new" / "head")
        assert flushed and [file.name for file in path.parent.iterdir()] == ["head.npz"]

    def test_there_is_no_pickle_in_it(self, solved, tmp_path):
        path = save_head(solved[3].models["mlp"], tmp_path / "mlp.npz")
        with np.load(path, allow_pickle=False) as file:
            assert str(file["format"]) == "featlab-head" and str(file["version"]) == "1.1"
            assert all(file[name].dtype != object for name in file.files)

    @pytest.mark.parametrize("head", ["knn", "dummy"])
    def test_others_are_refused(self, solved, tmp_path, head):
        with pytest.raises(FeatlabError, match="cannot be saved as plain arrays"):
            save_head(solved[3].models[head], tmp_path / "head")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "last",
        [
            OneVsRestClassifier(DecisionTreeClassifier(max_depth=2)),
            CalibratedClassifierCV(LinearSVC(), method="isotonic", ensemble=False),
            CalibratedClassifierCV(LinearSVC(), ensemble=True, cv=3),
            CalibratedClassifierCV(LogisticRegression(), ensemble=False),
        ],
        ids=["trees", "isotonic", "several", "of_another"],
    )
    def test_what_is_not_linear_within_is_refused(self, solved, tmp_path, last):
        X, y, _, _ = solved
        with pytest.raises(FeatlabError, match=f"A head of {type(last).__name__} cannot be saved"):
            save_head(make_pipeline(StandardScaler(), last).fit(X, y), tmp_path / "head")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("before", [[], [MinMaxScaler()], [StandardScaler()] * 2])
    def test_a_head_without_its_one_scaler_is_refused(self, solved, tmp_path, before):
        X, y, _, _ = solved
        model = make_pipeline(*before, LogisticRegression()).fit(X, y)
        with pytest.raises(FeatlabError, match="a StandardScaler and then a linear head .* can"):
            save_head(model, tmp_path / "head")

    def test_classes_that_are_dates_are_refused(self, tmp_path):
        days = np.array(["2026-01-01", "2026-01-02"] * 10, "datetime64[D]")
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(np.eye(20), days)
        with pytest.raises(FeatlabError, match="must be text or numbers to be saved, got .*2026"):
            save_head(model, tmp_path / "head")

    def test_a_class_of_one_image_cannot_be_held_out(self):
        X = np.random.default_rng(0).normal(size=(9, 3))
        y = np.array(["a"] * 8 + ["b"])
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
        head, temperature = calibrated_head(model, X, y)
        assert temperature == 1
        np.testing.assert_allclose(head.predict_proba(X), model.predict_proba(X))

    def test_what_is_no_head_is_refused(self, solved, tmp_path):
        path = tmp_path / "head.npz"
        with pytest.raises(FeatlabError, match="No head at"):
            load_head(path)
        path.write_bytes(b"no zip at all")
        with pytest.raises(FeatlabError, match="is not a saved head"):
            load_head(path)
        np.savez(path, x=np.arange(3))
        with pytest.raises(FeatlabError, match="does not say 'featlab-head'"):
            load_head(path)
        np.savez(path, x=np.array([print], dtype=object))
        with pytest.raises(FeatlabError, match="is not a saved head"):
            load_head(path)

    def test_an_array_that_claims_more_than_memory_is_refused(self, tmp_path):
        path, header = tmp_path / "head.npz", io.BytesIO()
        claim = {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
        np.lib.format.write_array_header_1_0(header, claim)
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("mean.npy", header.getvalue())
        with pytest.raises(FeatlabError, match="is not a saved head"):
            load_head(path)

    def test_other_versions_and_damage_are_refused(self, solved, tmp_path):
        path = save_head(solved[3].models["logistic"], tmp_path / "head.npz")
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **{**arrays, "version": "2.0"})
        with pytest.raises(FeatlabError, match="you may need to update"):
            load_head(path)
        np.savez(path, **{**arrays, "coef_0": arrays["coef_0"][:-1]})
        with pytest.raises(FeatlabError, match="is damaged"):
            load_head(path)
        del arrays["mean"]
        np.savez(path, **arrays)
        with pytest.raises(FeatlabError, match="is damaged"):
            load_head(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(FeatlabError, match="is not a saved head"):
            load_head(path)

    def test_other_features_are_refused(self, solved, tmp_path):
        again = load_head(save_head(solved[3].models["logistic"], tmp_path / "head"))
        with pytest.raises(FeatlabError, match="X must have the head's 20 features, got 3"):
            again.predict(np.zeros((2, 3)))

    def test_it_knows_its_network_and_refuses_another(self, tmp_path):
        """Heads of `featlab heads -o`: the same network answers, another or a changed one not."""
        shutil.copy(ARCHIVES / "maps-v1.1.h5", tmp_path / "maps.h5")
        with MapStore(tmp_path / "maps.h5") as store:
            table = feature_table(store, pooling="max")
            split = ["train"] * 3 + ["test"] + ["train"] + ["test"]
            fitted = evaluate_heads(table, store.images["label"], split, heads=["nearest_centroid"])
            model = fitted.models["nearest_centroid"]
            head = load_head(save_head(model, tmp_path / "own", store=store, pooling="max"))
            wanted = model.predict_proba(table)[4:5]
            np.testing.assert_allclose(head.predict_store(store, [4]), wanted, atol=1e-6)
            few = clone(model).fit(table.iloc[:, :6], store.images["label"])
            with pytest.raises(FeatlabError, match="the head has 6 features, layer 'last' .* 10"):
                save_head(few, tmp_path / "few", store=store)
            with pytest.raises(FeatlabError, match="does not say which network's"):
                load_head(save_head(model, tmp_path / "bare")).predict_store(store)
        sha = store.provenance["weights_sha256"]
        for change, words in (
            ({"weights_sha256": "deadbeef"}, f"weights sha256: deadbeef there, {sha} asked for"),
            ({"input_size": "9 x 9"}, "input size: 9 x 9 there"),
            ({"version_keras": "0", "probe_last": np.full(10, 9.0)}, "another output on the probe"),
        ):
            with h5py.File(tmp_path / "maps.h5", "r+") as file:
                before = {name: file["provenance"].attrs[name] for name in change}
                file["provenance"].attrs.update(change)
            with (
                MapStore(tmp_path / "maps.h5") as store,
                pytest.raises(FeatlabError, match=words),
            ):
                head.predict_store(store)
            with h5py.File(tmp_path / "maps.h5", "r+") as file:
                file["provenance"].attrs.update(before)

    def test_a_head_of_the_first_version_says_the_same_for_ever(self):
        head = load_head(ARCHIVES / "head-v1.0.npz")
        assert head.classes_.tolist() == ["cat", "dog", "emu"]
        told = [
            [0.2736132417808053, 0.15466044198794576, 0.5717263162312489],
            [0.2999388448928093, 0.6091892124315991, 0.09087194267559158],
        ]
        np.testing.assert_allclose(head.predict_proba([[0, 0, 0], [1, 2, -1]]), told, rtol=1e-12)

    def test_reading_needs_no_scikit_learn_model(self, solved, tmp_path):
        again = load_head(save_head(solved[3].models["linear_svm"], tmp_path / "head"))
        assert not any("sklearn" in type(v).__module__ for v in vars(again).values())
        assert sys.getsizeof(again.classes_) > 0


def test_calibration_plot(solved):
    results = solved[3]
    ax = plots.calibration(calibration(results, "logistic"))
    assert isinstance(ax, Axes) and ax.get_xlabel() and "n = " in ax.get_title(loc="left")
    assert "Brier score" in ax.get_title(loc="left")
    p = results.of("logistic")[[f"p:{name}" for name in results.classes]]
    assert log_loss(results.of("logistic")["label"], p) < 1
