from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, ttest_ind
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from featlab import FeatlabError
from featlab.arguments import feature_columns
from featlab.neurons import (
    confirm_neurons,
    rank_neurons,
    select_neurons,
    softmax_top_k,
)
from featlab.neurons._ranking import COLUMNS
from featlab.neurons.rank_statistics import auroc_interval, rank_statistics

CONTRACT = (
    "layer pooling class neuron n n_ref mean mean_ref pts pts_ref statistic p p_adjusted auroc "
    "auroc_low auroc_high effect rank reject detector"
)


def relu_data(seed=0, n=60, c=12, labels="abc"):
    rng = np.random.default_rng(seed)
    y = np.array([labels[i % len(labels)] for i in range(n)])
    X = np.maximum(rng.normal(size=(n, c)), 0).astype(np.float32)
    X[:, 1] = X[:, 1].round()  # ties everywhere
    return X, y


def planted(seed, n=120, c=60, shifted=(3, 7), shift=1.5):
    rng = np.random.default_rng(seed)
    y = np.repeat(["cat", "dog"], n // 2)
    X = rng.normal(size=(n, c))
    X[np.ix_(y == "dog", shifted)] += shift
    return X, y


def of_class(table, name):
    return table[table["class"] == name].set_index("neuron").sort_index()


def naive_delong(inside, outside):
    wins = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
    variance = wins.mean(axis=1).var(ddof=1) / len(inside)
    variance += wins.mean(axis=0).var(ddof=1) / len(outside)
    return wins.mean(), variance


class TestAgainstOtherImplementations:
    def test_mann_whitney_is_scipys(self):
        X, y = relu_data()
        table = rank_neurons(X, y)
        for name in "abc":
            rows = of_class(table, name)
            inside, outside = X[y == name].astype(float), X[y != name].astype(float)
            theirs = mannwhitneyu(inside, outside, axis=0, method="asymptotic")
            np.testing.assert_array_equal(rows["statistic"], theirs.statistic)
            # Where more than half of the images share a value the p is exact, or an upper bound.
            many = (X == 0).mean(axis=0) <= 0.5
            assert many.sum() > 2
            np.testing.assert_allclose(rows["p"][many], theirs.pvalue[many], rtol=1e-9)

    def test_mann_whitney_in_the_extreme_tail(self):
        X = np.arange(1000.0)[:, None]
        y = np.repeat(["a", "b"], 500)
        p = rank_neurons(X, y)["p"].iloc[0]
        theirs = mannwhitneyu(X[:500, 0], X[500:, 0], method="asymptotic").pvalue
        assert 0 < p < 1e-100
        assert p == pytest.approx(theirs, rel=1e-9)

    def test_welch_is_scipys(self):
        X, y = relu_data()
        table = rank_neurons(X, y, test="welch")
        for name in "abc":
            rows = of_class(table, name)
            theirs = ttest_ind(
                X[y == name].astype(float), X[y != name].astype(float), equal_var=False
            )
            np.testing.assert_allclose(rows["statistic"], theirs.statistic, rtol=1e-9)
            ranked = of_class(rank_neurons(X, y), name)["p"]
            assert (theirs.pvalue > ranked).any()
            np.testing.assert_allclose(rows["p"], np.maximum(theirs.pvalue, ranked), rtol=1e-9)

    def test_auroc_is_scikit_learns(self):
        X, y = relu_data()
        table = rank_neurons(X, y)
        for name in "abc":
            expected = [roc_auc_score(y == name, column) for column in X.T]
            np.testing.assert_allclose(of_class(table, name)["auroc"], expected, rtol=1e-12)

    def test_delong_is_the_naive_one(self):
        X, y = relu_data(n=45)
        codes = np.unique(y, return_inverse=True)[1]
        ranks = rank_statistics(X, codes, 3)
        for code in range(3):
            for column in range(X.shape[1]):
                x = X[:, column].astype(float)
                auroc, variance = naive_delong(x[codes == code], x[codes != code])
                assert ranks.auroc[code, column] == pytest.approx(auroc, rel=1e-12)
                assert ranks.variance[code, column] == pytest.approx(variance, rel=1e-9)

    def test_interval_has_no_jump_at_the_border(self):
        values = np.stack([np.arange(40.0)] * 2, axis=1)
        values[[19, 20], 1] = values[[20, 19], 1]  # one pair of 400 is wrong
        low, high = auroc_interval(rank_statistics(values, np.repeat([0, 1], 20), 2))
        assert low[1, 0] > low[1, 1] > low[1, 0] - 0.02
        assert high[1, 0] == 1 > high[1, 1]

    @pytest.mark.parametrize("method", ["fdr_bh", "holm", "bonferroni", "fdr_by"])
    def test_correction_is_statsmodels_over_all_rows(self, method):
        X, y = relu_data()
        table = rank_neurons(X, y, correction=method)
        expected = multipletests(table["p"], method=method)[1]
        np.testing.assert_allclose(table["p_adjusted"], expected)
        assert (table["reject"] == (expected <= 0.05)).all()


class TestTable:
    def test_columns_are_the_contracts(self):
        X, y = relu_data()
        table = rank_neurons(X, y)
        assert table.columns.tolist() == COLUMNS
        assert COLUMNS[:20] == CONTRACT.split()
        assert len(table) == 3 * X.shape[1]

    def test_means_and_firing_shares(self):
        X, y = relu_data()
        rows = of_class(rank_neurons(X, y), "b")
        inside, outside = X[y == "b"].astype(float), X[y != "b"].astype(float)
        np.testing.assert_allclose(rows["mean"], inside.mean(axis=0))
        np.testing.assert_allclose(rows["mean_ref"], outside.mean(axis=0))
        np.testing.assert_allclose(rows["pts"], (inside > 0).mean(axis=0))
        np.testing.assert_allclose(rows["pts_ref"], (outside > 0).mean(axis=0))
        assert (rows["n"] == 20).all()
        assert (rows["n_ref"] == 40).all()

    def test_a_row_without_p_says_why(self):
        X, y = relu_data()
        X[:, 2] = 1.0
        few = np.array([f"g{i % 3}{label}" for i, label in enumerate(y)])
        within = np.array([f"g{i % 10}" for i in range(len(y))])
        for options, why in (
            ({}, {""}),
            ({"test": "l1_logistic"}, {"the test has no p"}),
            ({"test": "mutual_information"}, {"too few images"}),
            ({"groups": few}, {"too few groups"}),
            (
                {"groups": within, "test": "welch"},
                {"the test cannot take groups of several classes"},
            ),
        ):
            table = rank_neurons(X, y, **options)
            assert (table["p"].isna() == table["reason"].ne("")).all(), options
            assert set(table.loc[table["neuron"] == 2, "reason"]) == {"constant"}
            assert set(table.loc[table["neuron"] != 2, "reason"]) == why, options

    def test_rank_and_order(self):
        X, y = relu_data(c=30)
        X[:, 5] = X[:, 4]  # equal in everything but the id
        X[:, 9] = 1.0  # dead
        table = rank_neurons(X, y)
        for _, rows in table.groupby("class"):
            assert rows["rank"].tolist() == list(range(1, 31))
            assert rows["neuron"].iloc[-1] == 9
            assert rows["auroc"].iloc[:-1].is_monotonic_decreasing
            places = rows["neuron"].tolist()
            assert places.index(5) == places.index(4) + 1
        assert table["class"].is_monotonic_increasing

    def test_attrs_are_json(self):
        X, y = relu_data()
        frame = pd.DataFrame(X, columns=feature_columns("top", "max", X.shape[1]))
        table = rank_neurons(frame, y, alpha=0.01)
        assert json.loads(json.dumps(table.attrs)) == {
            "test": "mannwhitneyu",
            "correction": "fdr_bh",
            "alpha": 0.01,
            "min_auroc": 0.7,
            "n_tests": 36,
            "reference": "the rest",
            "weighted": False,
        }
        assert set(table["layer"]) == {"top"}
        assert set(table["pooling"]) == {"max"}

    def test_several_tables_are_one_family(self):
        frames = []
        for seed, pooling in enumerate(["mean", "max"]):
            X, y = relu_data(seed)
            frames.append(pd.DataFrame(X, columns=feature_columns("top", pooling, X.shape[1])))
        both, alone = rank_neurons(frames, y), rank_neurons(frames[0], y)
        assert both.attrs["n_tests"] == 2 * alone.attrs["n_tests"]
        np.testing.assert_allclose(both["p_adjusted"], multipletests(both["p"], method="fdr_bh")[1])
        first = both[both["pooling"] == "mean"].reset_index(drop=True)
        pd.testing.assert_frame_equal(
            first[["neuron", "p", "rank"]], alone[["neuron", "p", "rank"]]
        )

    def test_dead_neurons_leave_the_family(self):
        X, y = relu_data()
        with_dead = np.column_stack([X, np.zeros(len(X)), np.full(len(X), 3.0)])
        table, alone = rank_neurons(with_dead, y), rank_neurons(X, y)
        dead = table[table["neuron"] >= X.shape[1]]
        names = ["statistic", "p", "p_adjusted", "auroc", "auroc_low", "auroc_high", "effect"]
        assert dead[names].isna().all(axis=None)
        assert not dead["reject"].any()
        assert not dead["detector"].any()
        np.testing.assert_allclose(dead["mean"], np.where(dead["neuron"] == X.shape[1], 0, 3))
        living = table.drop(dead.index).reset_index(drop=True)
        pd.testing.assert_frame_equal(living, alone)
        assert table.attrs == alone.attrs

    def test_all_dead(self):
        table = rank_neurons(np.ones((6, 3)), list("aabbcc"))
        assert table["p_adjusted"].isna().all()
        assert not table["detector"].any()
        assert table.attrs["n_tests"] == 0

    @pytest.mark.parametrize("sizes", [(2, 2), (1, 5), (2, 40)])
    def test_perfect_separation_of_few_is_not_certain(self, sizes):
        y = np.repeat(["a", "b"], sizes)
        rows = of_class(rank_neurons(np.arange(sum(sizes))[:, None], y), "b")
        assert rows["auroc"].iloc[0] == 1.0 == rows["auroc_high"].iloc[0]
        assert rows["auroc_low"].iloc[0] < 0.95

    def test_welch_with_one_image_is_nan(self):
        table = rank_neurons(np.arange(6.0)[:, None], list("abbbbb"), test="welch")
        assert table["p"].isna().all()
        assert table["auroc"].notna().all()

    def test_a_silent_neuron_is_a_detector_too_and_says_so(self):
        X, y = planted(0)
        table = rank_neurons(-X, y)
        silent = of_class(table, "dog").loc[3]
        assert silent["auroc"] < 0.3
        assert silent["detector"]
        assert silent["direction"] == "silent"
        assert of_class(table, "cat").loc[3, "direction"] == "active"
        assert select_neurons(table)["class"].unique().tolist() == ["cat"]
        assert select_neurons(table, direction="silent")["class"].unique().tolist() == ["dog"]
        both = select_neurons(table, direction="both")
        assert len(both) == table["detector"].sum()


def test_neurons_of_a_signed_layer_do_not_fire():
    rng = np.random.default_rng(0)
    y, tokens = np.repeat(["a", "b"], 20), rng.normal(rng.normal(size=30), 0.3, (40, 30))
    assert rank_neurons(tokens, y)[["pts", "pts_ref"]].isna().all(axis=None)
    for rectified in (np.maximum(tokens, 0), tokens / (1 + np.exp(-5 * tokens))):
        assert rank_neurons(rectified, y)[["pts", "pts_ref"]].notna().all(axis=None)


class TestInvariances:
    def test_two_classes_mirror(self):
        X, y = relu_data(labels="ab")
        table = rank_neurons(X, y)
        a, b = of_class(table, "a"), of_class(table, "b")
        np.testing.assert_allclose(a["auroc"], 1 - b["auroc"])
        np.testing.assert_allclose(a["auroc_low"], 1 - b["auroc_high"])
        np.testing.assert_allclose(a["p"], b["p"], rtol=1e-12)
        np.testing.assert_allclose(a["effect"], -b["effect"], atol=1e-15)

    @settings(max_examples=15, deadline=None)
    @given(
        st.lists(st.integers(0, 5), min_size=6, max_size=30),
        st.randoms(use_true_random=False),
    )
    def test_monotone_and_row_order(self, values, random):
        x = np.array(values, dtype=float)
        y = np.array(["a", "b", *random.choices("ab", k=len(x) - 2)])
        ours = rank_neurons(np.column_stack([x, np.exp(x), 3 * x - 7]), y)
        assert ours.groupby("class")[["auroc", "auroc_low", "p"]].nunique().max(axis=None) <= 1
        order = random.sample(range(len(x)), len(x))
        shuffled = rank_neurons(np.column_stack([x, np.exp(x), 3 * x - 7])[order], y[order])
        exact = ["class", "neuron", "auroc", "auroc_low", "auroc_high", "p", "detector"]
        pd.testing.assert_frame_equal(ours[exact], shuffled[exact], rtol=1e-12)
        if len(set(values)) > 1:
            assert ours["auroc_low"].between(0, 1).all()
            assert ours["auroc_high"].between(0, 1).all()
            assert (ours["auroc_low"] < ours["auroc_high"]).all()
            assert (ours["auroc_low"] <= ours["auroc"]).all()
            assert (ours["auroc"] <= ours["auroc_high"]).all()


class TestTruth:
    def test_planted_detectors_are_found_and_confirmed(self):
        found, confirmed = 0, 0
        for seed in range(10):
            X, y = planted(seed)
            fresh, y_fresh = planted(seed + 1000)
            table = confirm_neurons(rank_neurons(X, y), fresh, y_fresh)
            dogs = of_class(table, "dog")
            found += dogs.loc[[3, 7], "detector"].sum()
            confirmed += dogs.loc[[3, 7], "confirmed"].sum()
            assert dogs["detector"].sum() <= 4
        assert found == 20
        assert confirmed == 20

    def test_noise_gives_hardly_a_family_with_a_rejection(self):
        families = 0
        for seed in range(60):
            X, y = planted(seed, n=60, c=40, shift=0.0)
            families += rank_neurons(X, y)["reject"].any()
        assert families <= 9  # expected 3 at most; 10 or more has p < 0.001

    def test_selection_inflates_and_confirmation_does_not(self):
        chosen, confirmed = [], []
        for seed in range(10):
            X, y = planted(seed, n=80, c=300, shift=0.0)
            fresh, y_fresh = planted(seed + 1000, n=80, c=300, shift=0.0)
            table = rank_neurons(X, y, alpha=1.0, min_auroc=0.6)
            table = confirm_neurons(table, fresh, y_fresh)
            best = select_neurons(table, confirmed=False, most=10)
            chosen.append(best["effect"].mean())
            confirmed.append(2 * best["auroc_confirmed"].mean() - 1)
        assert np.mean(chosen) > 0.25
        assert abs(np.mean(confirmed)) < 0.03

    def test_noise_is_not_confirmed(self):
        false = 0
        for seed in range(40):
            X, y = planted(seed, n=60, c=40, shift=0.0)
            fresh, y_fresh = planted(seed + 1000, n=60, c=40, shift=0.0)
            table = rank_neurons(X, y, alpha=1.0, min_auroc=0.6)
            false += confirm_neurons(table, fresh, y_fresh)["confirmed"].any()
        assert false <= 7  # expected 2 at most; 8 or more has p < 0.001


class TestConfirm:
    def test_values_are_scipys_on_the_new_rows(self):
        X, y = planted(1)
        fresh, y_fresh = planted(2)
        table = confirm_neurons(rank_neurons(X, y), fresh, y_fresh)
        rows = table[table["detector"]]
        raw = [
            mannwhitneyu(
                fresh[y_fresh == row["class"], row["neuron"]],
                fresh[y_fresh != row["class"], row["neuron"]],
                alternative="greater" if row["direction"] == "active" else "less",
                method="asymptotic",
            )
            for _, row in rows.iterrows()
        ]
        np.testing.assert_allclose(rows["auroc_confirmed"], [r.statistic / 3600 for r in raw])
        # Active for the one class and silent for the other is one test, not two.
        assert sorted(rows["direction"]) == ["active"] * 2 + ["silent"] * 2
        one = rows.drop_duplicates("neuron").index
        by_neuron = pd.Series([r.pvalue for r in raw], index=rows.index)[one]
        holm = pd.Series(multipletests(by_neuron, method="holm")[1], index=rows["neuron"][one])
        np.testing.assert_allclose(rows["p_confirmed"], rows["neuron"].map(holm), rtol=1e-9)
        sign = np.where(rows["direction"] == "active", 1, -1)
        np.testing.assert_allclose(
            rows["shrinkage"], sign * (rows["auroc"] - rows["auroc_confirmed"])
        )
        assert (rows["auroc_confirmed_low"] < rows["auroc_confirmed"]).all()
        assert (rows["auroc_confirmed"] < rows["auroc_confirmed_high"]).all()
        others = table[~table["detector"]]
        assert others.filter(like="_confirmed").isna().all(axis=None)
        assert not others["confirmed"].any()
        assert table["confirmed"].dtype == bool
        assert table.attrs["n_confirm_tests"] == len(one)
        json.dumps(table.attrs)

    def test_no_detectors(self):
        X, y = planted(0, c=3, shifted=(), shift=0)
        table = confirm_neurons(rank_neurons(X, y, alpha=1e-9), X, y)
        assert not table["confirmed"].any()
        assert table["p_confirmed"].isna().all()
        assert len(select_neurons(table)) == 0

    def test_a_detector_that_falls_silent_is_not_confirmed(self):
        X, y = planted(0)
        fresh, y_fresh = planted(5)
        fresh[:, 3] = 0.0
        table = confirm_neurons(rank_neurons(X, y), fresh, y_fresh)
        silent = of_class(table, "dog").loc[3]
        assert silent["detector"]
        assert not silent["confirmed"]
        assert silent["auroc_confirmed"] == 0.5
        assert silent["p_confirmed"] == 1.0

    def test_layers_meet_by_name(self):
        tables, fresh = [], []
        for seed, pooling in enumerate(["mean", "max"]):
            for collection, offset in ((tables, 0), (fresh, 100)):
                X, y = planted(seed + offset)
                columns = feature_columns("top", pooling, X.shape[1])
                collection.append(pd.DataFrame(X, columns=columns))
        table = rank_neurons(tables, y)
        ours = confirm_neurons(table, fresh[::-1], y)
        pd.testing.assert_frame_equal(ours, confirm_neurons(table, fresh, y))
        with pytest.raises(FeatlabError, match="layer and pooling"):
            confirm_neurons(table, fresh[:1], y)

    def test_labels_must_be_the_tables(self):
        X, y = planted(0)
        with pytest.raises(FeatlabError, match="table's classes"):
            confirm_neurons(rank_neurons(X, y), X, np.where(y == "cat", "cow", y))

    def test_missing_neuron(self):
        X, y = planted(0)
        with pytest.raises(FeatlabError, match="no neuron"):
            confirm_neurons(rank_neurons(X, y), X[:, :2], y)


class TestSelect:
    def test_best_first_at_most_top(self):
        X, y = planted(0, shifted=(3, 7, 9))
        table = rank_neurons(X, y)
        best = select_neurons(table, most=2)
        dogs = best[best["class"] == "dog"]
        assert len(dogs) == 2
        assert dogs["auroc"].is_monotonic_decreasing
        assert dogs["auroc"].iloc[0] == of_class(table, "dog")["auroc"].max()

    def test_a_neuron_of_several_poolings_stands_once_among_the_best(self):
        X, y = planted(0, shifted=(3, 7, 9))
        labelled = [pd.DataFrame(X, columns=feature_columns("late", p, 60)) for p in ("a", "b")]
        table = rank_neurons(labelled, y)
        assert (select_neurons(table)["neuron"] == 3).sum() == 2
        best = select_neurons(table, most=3)
        assert sorted(best["neuron"]) == [3, 7, 9] and set(best["pooling"]) == {"a"}

    def test_confirmed_by_default_where_known(self):
        X, y = planted(0)
        fresh, y_fresh = planted(5)
        fresh[:, 3] = 0.0
        table = confirm_neurons(rank_neurons(X, y), fresh, y_fresh)
        assert 3 not in set(select_neurons(table)["neuron"])
        assert 3 in set(select_neurons(table, confirmed=False)["neuron"])

    def test_errors(self):
        X, y = planted(0)
        table = rank_neurons(X, y)
        with pytest.raises(FeatlabError, match="run confirm_neurons"):
            select_neurons(table, confirmed=True)
        with pytest.raises(FeatlabError, match="most must be at least 1"):
            select_neurons(table, most=0)


class TestSoftmaxTopK:
    def test_frequency_is_not_selectivity(self):
        rng = np.random.default_rng(0)
        y = np.repeat(["cheetah", "tiger"], 50)
        X = rng.random((100, 20))
        X[:, 4] += 5  # leads everywhere
        X[y == "tiger", 6] += 3  # tells them apart
        table = softmax_top_k(X, y, k=2)
        tiger = table[table["class"] == "tiger"].set_index("neuron")
        assert tiger.loc[4, "share"] == tiger.loc[4, "share_rest"] == 1.0
        assert tiger.loc[4, "difference"] == 0.0
        assert tiger.loc[6, "share"] == 1.0
        assert tiger.loc[6, "difference"] > 0.8
        assert table.groupby("class")["count"].sum().tolist() == [100, 100]
        assert table.groupby("class")["count"].apply(lambda c: c.is_monotonic_decreasing).all()

    def test_softmaxed_input_gives_the_same(self):
        X, y = relu_data()
        powers = np.exp(X.astype(float))
        softmaxed = powers / powers.sum(axis=1, keepdims=True)
        pd.testing.assert_frame_equal(softmax_top_k(X, y), softmax_top_k(softmaxed, y))

    def test_k_out_of_range(self):
        X, y = relu_data()
        with pytest.raises(FeatlabError, match="k must be from 1 to 12"):
            softmax_top_k(X, y, k=13)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"test": "anova"}, "test must be one of"),
        ({"correction": "none"}, "correction must be one of"),
        ({"alpha": 2.0}, "alpha must be above 0 and at most 1"),
        ({"min_auroc": 0.3}, "min_auroc must be from 0.5 to 1"),
        ({"reference": "z"}, "reference must be from"),
        ({"correction": "max_t", "test": "welch"}, "it goes with test 'mannwhitneyu'"),
        ({"correction": "max_t", "reference": ["a", "b"]}, "it goes with test"),
        ({"correction": "local_fdr"}, "needs at least 100 tests"),
    ],
)
def test_parameters_out_of_range(arguments, words):
    X, y = relu_data()
    with pytest.raises(FeatlabError, match=words):
        rank_neurons(X, y, **arguments)


def test_bad_data():
    X, y = relu_data()
    bad = X.copy()
    bad[0, :3] = np.nan, np.inf, -np.inf
    with pytest.raises(FeatlabError, match="X holds 3 NaN or infinite"):
        rank_neurons(bad, y)
    with pytest.raises(FeatlabError, match="'X': 60, 'y': 59"):
        rank_neurons(X, y[1:])
    with pytest.raises(FeatlabError, match="at least two classes"):
        rank_neurons(X, ["a"] * len(X))
    with pytest.raises(FeatlabError, match="1 missing label"):
        rank_neurons(X, [None, *y[1:]])
    with pytest.raises(FeatlabError, match="indexed differently"):
        rank_neurons(pd.DataFrame(X), pd.Series(y).iloc[::-1])
    with pytest.raises(FeatlabError, match="its own layer and pooling"):
        rank_neurons([pd.DataFrame(X), pd.DataFrame(X)], y)


class TestNamesOfClasses:
    """No class name means anything but the class: not "rest", not "pairs"."""

    @pytest.mark.parametrize("names", [("cat", "dog", "rest"), ("cat", "pairs", "the rest")])
    def test_a_class_may_be_called_anything(self, names):
        rng = np.random.default_rng(0)
        codes = np.tile([0, 1, 2], 40)
        X = rng.normal(size=(120, 3))
        X[:, 0] += np.array([2.0, 3.0, 0.0])[codes]  # the first tells itself from the last alone
        plain, odd = np.array(["a", "b", "c"])[codes], np.array(names)[codes]
        for reference in (None, ["a", "b", "c"], "c"):
            table = rank_neurons(X, plain, reference=reference, min_auroc=0.6)
            expected = confirm_neurons(table, X, plain)
            to = dict(zip("abc", names, strict=True)) | {"": ""}
            given = reference and [to[name] for name in reference]
            table = rank_neurons(X, odd, reference=given, min_auroc=0.6)
            found = confirm_neurons(table, X, odd)
            for frame in (expected, found):
                frame.attrs = {}
            renamed = expected.assign(
                **{name: expected[name].map(to) for name in ("class", "reference")}
            )
            pd.testing.assert_frame_equal(found, renamed)
        first = found[(found["class"] == names[0]) & (found["neuron"] == 0)].iloc[0]
        auroc = roc_auc_score(odd[codes != 1] == names[0], X[codes != 1, 0])
        assert first["auroc_confirmed"] == pytest.approx(auroc)

    @pytest.mark.parametrize("reference", [None, "0", ["0", "1", "2"]])
    @pytest.mark.parametrize("kind", [int, "Int64", "category", object])
    def test_labels_that_are_numbers(self, kind, reference):
        X, _ = planted(0)
        codes = np.arange(len(X)) % 3
        y = pd.Series(codes).astype(kind)
        found = confirm_neurons(rank_neurons(X, y, reference=reference), X, y)
        text = codes.astype(str)
        expected = confirm_neurons(rank_neurons(X, text, reference=reference), X, text)
        pd.testing.assert_frame_equal(found, expected)

    def test_labels_that_are_true_or_false_and_numbers_of_one_set(self):
        X, y = planted(0)
        truth = y == y[0]
        found = confirm_neurons(rank_neurons(X, truth, reference="False"), X, truth)
        assert set(found["class"]) == {"True"}
        mixed = pd.Series(truth.astype(float), dtype=object).replace({0.0: "none"})
        assert set(rank_neurons(X, mixed)["class"]) == {"none", "1.0"}

    def test_tables_of_several_types_of_numbers(self):
        X, y = planted(0)
        frame = pd.DataFrame(X)
        mixed = frame.astype({0: "Float64", 1: "float32"}).assign(flag=frame[2] > 0)
        plain = mixed.astype(float)
        found = confirm_neurons(rank_neurons(mixed, y), mixed, y)
        pd.testing.assert_frame_equal(found, confirm_neurons(rank_neurons(plain, y), plain, y))

    def test_a_class_without_a_name_is_refused(self):
        X, y = planted(0)
        with pytest.raises(FeatlabError, match="holds 60 missing labels"):
            rank_neurons(X, np.where(y == y[0], "", "other"))


class TestRowsOfTheTable:
    def test_a_row_given_twice_is_refused(self):
        X, y = planted(0)
        table = rank_neurons(X, y)
        with pytest.raises(FeatlabError, match=r"holds 1 rows twice .*neuron"):
            confirm_neurons(pd.concat([table, table.iloc[:1]]), X, y)

    def test_numbers_of_rows_that_repeat_change_nothing(self):
        X, y = planted(0)
        table = rank_neurons(X, y)
        found = confirm_neurons(table.set_axis(np.zeros(len(table), int)), X, y)
        expected = confirm_neurons(table, X, y)
        pd.testing.assert_frame_equal(found.reset_index(drop=True), expected)
        assert (found.index == 0).all()

    def test_the_unit_of_evidence_stands_in_the_row(self):
        X, y = planted(0)
        table = rank_neurons(X, y)
        whole = np.char.add(y.astype(str), (np.arange(len(y)) // 4 % 5).astype(str))
        assert set(confirm_neurons(table, X, y)["unit"]) == {"images"}
        assert set(confirm_neurons(table, X, y, groups=whole)["unit"]) == {"whole groups"}
