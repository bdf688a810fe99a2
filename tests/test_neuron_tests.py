"""The tests, effects and corrections of the neuron table, against other implementations."""

from __future__ import annotations

import warnings
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import comb
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, mutual_info_score
from statsmodels.stats.multitest import local_fdr, multipletests
from statsmodels.stats.oneway import anova_oneway

from featlab import FeatlabError
from featlab.arguments import feature_columns
from featlab.neurons import compare_classes, confirm_neurons, confirmation, rank_neurons
from featlab.neurons._corrections import adjust, permuted_codes
from featlab.neurons._tests import one_sided_p, weighted_statistics
from featlab.neurons.rank_statistics import rank_statistics
from featlab.neurons.rank_tests import mannwhitney_p


def relu(seed=0, n=90, c=10, labels="abc"):
    """A quarter of the values are zero; column 1 has more ties, 3 a larger spread in a class."""
    rng = np.random.default_rng(seed)
    y = np.array([labels[i % len(labels)] for i in range(n)])
    X = np.maximum(rng.normal(size=(n, c)), -0.6) + 0.6
    X[:, 1] = X[:, 1].round(1)
    X[y == "a", 2] += 0.8
    X[y == "b", 3] *= 3
    return X.astype(np.float32), y


def sides(X, y, row):
    against = y != row["class"] if not row["reference"] else y == row["reference"]
    x = X[:, row["neuron"]].astype(np.float64)
    return x[y == row["class"]], x[against]


OTHERS = {
    "mannwhitneyu": lambda a, b: stats.mannwhitneyu(a, b, method="asymptotic"),
    "welch": lambda a, b: stats.ttest_ind(a, b, equal_var=False),
    "brunner_munzel": lambda a, b: stats.brunnermunzel(b, a),
    "kolmogorov_smirnov": lambda a, b: stats.ks_2samp(a, b, method="asymp"),
}


@pytest.mark.parametrize("reference", [None, ["a", "b", "c"], "b"])
@pytest.mark.parametrize("test", OTHERS)
def test_statistic_and_p_are_scipys(test, reference):
    X, y = relu()
    table = rank_neurons(X, y, test=test, reference=reference)
    expected = [OTHERS[test](*sides(X, y, row)) for _, row in table.iterrows()]
    np.testing.assert_allclose(table["statistic"], [e.statistic for e in expected], rtol=1e-9)
    p = np.array([e.pvalue for e in expected])
    if test in ("welch", "brunner_munzel"):  # never below the ranks' own
        ranked = rank_neurons(X, y, reference=reference).set_index(KEY)["p"]
        p = np.maximum(p, ranked[pd.MultiIndex.from_frame(table[KEY])])
    elif test == "kolmogorov_smirnov":  # theirs rounds the number of images
        n = table["n"] * table["n_ref"] / (table["n"] + table["n_ref"])
        p = stats.kstwobign.sf(np.sqrt(n) * table["statistic"])
    np.testing.assert_allclose(table["p"], p, rtol=1e-9)


KEY = ["class", "reference", "neuron"]


def test_references_are_the_ones_asked_for():
    X, y = relu()
    X = X[:, :2]
    assert set(rank_neurons(X, y, reference="b")["class"]) == {"a", "c"}
    pairs = rank_neurons(X, y, reference=["a", "b", "c"])
    assert len(pairs) == 2 * 6
    assert set(zip(pairs["class"], pairs["reference"], strict=True)) == {
        (a, b) for a in "abc" for b in "abc" if a != b
    }
    assert (pairs["n"] == 30).all()
    assert (pairs["n_ref"] == 30).all()
    # The rank counts within one comparison.
    assert (pairs.groupby(["class", "reference"])["rank"].max() == 2).all()


@pytest.mark.parametrize("reference", [None, ["a", "b", "c"]])
def test_effects_are_those_of_other_implementations(reference):
    X, y = relu()
    for _, row in rank_neurons(X, y, reference=reference).iterrows():
        a, b = sides(X, y, row)
        both, member = np.concatenate([a, b]), np.repeat([1, 0], [len(a), len(b)])
        df = len(both) - 2
        pooled = np.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / df)
        # Hedges's own approximation of his factor; the exact one differs in the fifth digit.
        g = (a.mean() - b.mean()) / pooled * (1 - 3 / (4 * df - 1))
        assert row["hedges_g"] == pytest.approx(g, rel=1e-4)
        assert row["point_biserial"] == pytest.approx(stats.pointbiserialr(member, both)[0])
        assert row["average_precision"] == pytest.approx(average_precision_score(member, both))
        assert row["effect"] == pytest.approx(
            (np.sign(a[:, None] - b).sum()) / (len(a) * len(b)), abs=1e-12
        )
        assert row["median"] == np.median(a)
        assert row["median_ref"] == np.median(b)
        assert row["sd"] == pytest.approx(a.std(ddof=1))
        assert row["sd_ref"] == pytest.approx(b.std(ddof=1))
        assert row["log_fold_change"] == pytest.approx(np.log2(a.mean() / b.mean()), abs=1e-6)


def test_a_neuron_that_is_dead_in_one_class_has_a_finite_fold_change():
    X, y = relu(n=60)
    X[y == y[0]] = 0
    change = rank_neurons(X, y).set_index("class")["log_fold_change"]
    assert np.isfinite(change).all()
    assert change[y[0]].max() < -10


def test_mutual_information_is_that_of_its_bins():
    X, y = relu(n=300)
    table = rank_neurons(X, y, test="mutual_information")
    for _, row in table.iterrows():
        x, member = X[:, row["neuron"]], y == row["class"]
        # Equal numbers of images per bin; a tie belongs to the bin that it starts in.
        upper = np.sort(x)[np.arange(1, 8) * len(x) // 8 - 1]
        bins = np.searchsorted(np.unique(upper), x, side="left")
        assert row["statistic"] == pytest.approx(mutual_info_score(member, bins), abs=1e-12)
        counts = pd.crosstab(member, bins).to_numpy()
        g = stats.chi2_contingency(counts, correction=False, lambda_="log-likelihood")
        total, (r, c) = counts.sum(), counts.shape
        williams = 1 + (total * (1 / counts.sum(axis=1)).sum() - 1) * (
            total * (1 / counts.sum(axis=0)).sum() - 1
        ) / (6 * total * (r - 1) * (c - 1))
        assert row["p"] == pytest.approx(stats.chi2.sf(g.statistic / williams, g.dof), rel=1e-9)


def test_l1_logistic_finds_the_planted_neuron_and_has_no_p():
    rng = np.random.default_rng(0)
    y = np.repeat(["cat", "dog"], 60)
    X = rng.normal(size=(120, 30))
    X[y == "dog", 4] += 2
    table = rank_neurons(X, y, test="l1_logistic")
    assert table["p"].isna().all()
    assert table["p_adjusted"].isna().all()
    strongest = table[table["class"] == "dog"].nlargest(1, "statistic").iloc[0]
    assert strongest["neuron"] == 4
    assert table.loc[table["detector"], "neuron"].unique().tolist() == [4]
    assert (table["reject"] == (table["statistic"].abs() > 0)).all()
    cat, dog = (table[table["class"] == name].sort_values("neuron") for name in ("cat", "dog"))
    np.testing.assert_allclose(cat["statistic"], -dog["statistic"].to_numpy())
    strong = LogisticRegression().fit(X, y).coef_[0, 4]
    assert strongest["statistic"] > 0
    assert strong > 0


@pytest.mark.parametrize("test", ["welch", "brunner_munzel"])
def test_separation_without_spread_has_the_p_of_its_permutations(test):
    X = np.array([[0.0], [0.0], [0.0], [1.0], [1.0]])
    table = rank_neurons(X, list("aaabb"), test=test)
    np.testing.assert_allclose(table["p"], 2 / comb(5, 2))


@pytest.mark.parametrize("test", [*OTHERS, "mutual_information"])
def test_two_images_a_class_and_constant_columns_are_defined(test):
    X = np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 2.0], [2.0, 1.0, 2.0], [3.0, 1.0, 5.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = rank_neurons(X, list("aabb"), test=test)
    dead = table[table["neuron"] == 1]
    assert dead[["statistic", "p", "p_adjusted", "auroc", "hedges_g"]].isna().all(axis=None)
    assert not dead["detector"].any()
    alive = table[table["neuron"] != 1]
    # Two images do not fill eight bins.
    assert alive["p"].isna().all() if test == "mutual_information" else (alive["p"] > 0.3).all()
    assert alive["auroc_low"].lt(alive["auroc_high"]).all()


# ------------------------------------------------------------------------------- all classes


def test_kruskal_is_scipys():
    X, y = relu()
    X = X.astype(np.float64)  # scipy computes in the type it is given
    table = compare_classes(X, y).set_index("neuron").sort_index()
    expected = [stats.kruskal(*(X[y == k, j] for k in "abc")) for j in range(X.shape[1])]
    np.testing.assert_allclose(table["statistic"], [e.statistic for e in expected], rtol=1e-9)
    np.testing.assert_allclose(table["p"], [e.pvalue for e in expected], rtol=1e-9)
    assert table.loc[2, "best_class"] == "a"
    assert table.loc[2, "reject"]


def test_welch_anova_is_statsmodels():
    X, y = relu()
    table = compare_classes(X, y, test="welch_anova").set_index("neuron").sort_index()
    for j in range(X.shape[1]):
        groups = [X[y == k, j].astype(float) for k in "abc"]
        expected = anova_oneway(groups, use_var="unequal", welch_correction=True)
        assert table.loc[j, "statistic"] == pytest.approx(expected.statistic)
        ranked = stats.kruskal(*groups).pvalue
        assert table.loc[j, "p"] == pytest.approx(max(expected.pvalue, ranked))


def test_the_omnibus_of_two_classes_is_welchs_t():
    X, y = relu(labels="ab")
    anova = compare_classes(X, y, test="welch_anova").set_index("neuron")["statistic"]
    t = rank_neurons(X, y, test="welch").query("`class` == 'a'").set_index("neuron")["statistic"]
    np.testing.assert_allclose(anova.sort_index(), t.sort_index() ** 2, rtol=1e-9)


@pytest.mark.parametrize("test", ["kruskal", "welch_anova"])
def test_the_effect_over_all_classes_is_the_share_of_variance_between_them(test):
    X, y = relu()
    values = pd.DataFrame(stats.rankdata(X, axis=0) if test == "kruskal" else X.astype(float))
    means = values.groupby(y).transform("mean")
    expected = ((means - values.mean()) ** 2).sum() / ((values - values.mean()) ** 2).sum()
    found = compare_classes(X, y, test=test).set_index("neuron").sort_index()
    np.testing.assert_allclose(found["effect"], expected, rtol=1e-9)
    best = values.groupby(y).mean().idxmax()
    assert found["best_class"].tolist() == best.tolist()


# ------------------------------------------------------------------------------- corrections


def test_max_t_is_the_naive_permutation_test(monkeypatch):
    monkeypatch.setattr("featlab.neurons._corrections.PERMUTATIONS", 200)
    X, y = relu(n=24, c=30)  # more neurons than images
    table = rank_neurons(X, y, correction="max_t", random_state=3)
    codes = pd.factorize(y, sort=True)[0]
    shuffles = permuted_codes(codes, None, 200, 3)
    assert table.attrs["permuted"] == "images"
    ranks = stats.rankdata(X, axis=0)

    def z(labels):
        values = []
        for k in range(3):
            inside = labels == k
            n, n_ref = inside.sum(), (~inside).sum()
            variance = n * n_ref / len(y) * ranks.var(axis=0, ddof=1)
            values.append(
                np.abs(ranks[inside].sum(axis=0) - n * ranks.mean(axis=0)) / variance**0.5
            )
        return np.stack(values)

    largest = np.array([z(labels).max() for labels in shuffles])
    observed = z(codes)
    for _, row in table.iterrows():
        score = observed["abc".index(row["class"]), row["neuron"]]
        assert row["p_adjusted"] == (1 + (largest >= score - 1e-4).sum()) / 201


def test_max_t_with_two_classes_and_a_dead_neuron(monkeypatch):
    monkeypatch.setattr("featlab.neurons._corrections.PERMUTATIONS", 99)
    X, y = relu(labels="ab")
    X[:, 5] = 2
    X[y == "a", 2] += 2
    table = rank_neurons(X, y, correction="max_t")
    assert table[table["neuron"] == 5]["p_adjusted"].isna().all()
    assert (table[table["neuron"] == 2]["p_adjusted"] == 0.01).all()
    p = table.pivot_table(index="neuron", columns="class", values="p_adjusted")
    assert (p["a"] == p["b"]).all()


def test_permutations_respect_groups():
    codes = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    within = permuted_codes(codes, ["x"] * 4 + ["y"] * 4, 200, 0)
    assert len(np.unique(within, axis=0)) > 5
    assert (within[:, :4].sum(axis=1) == 1).all()
    assert (within[:, 4:].sum(axis=1) == 3).all()
    with pytest.raises(FeatlabError, match="groups must have one entry per image"):
        permuted_codes(codes, ["x"], 10, 0)


def test_whole_groups_are_the_unit_of_evidence(monkeypatch):
    monkeypatch.setattr("featlab.neurons._corrections.PERMUTATIONS", 200)
    """A neuron that knows the breed says little of the species when there are few breeds."""
    rng = np.random.default_rng(0)
    breeds = np.repeat(np.arange(12), 30)
    y = np.where(breeds < 6, "cat", "dog")
    X = rng.normal(size=(360, 40)) + rng.normal(size=(12, 40))[breeds]
    alone = rank_neurons(X, y, correction="max_t")
    grouped = rank_neurons(X, y, correction="max_t", groups=breeds)
    assert alone["reject"].mean() > 0.3
    assert grouped["reject"].mean() < 0.05
    assert grouped.attrs["permuted"] == "whole groups"
    with pytest.raises(FeatlabError, match="max_t permutes whole groups and needs 5"):
        rank_neurons(X, np.where(breeds < 4, "cat", "dog"), correction="max_t", groups=breeds)


@pytest.mark.slow
def test_max_t_does_not_let_the_sizes_of_groups_go_along(monkeypatch):
    """Five groups of 50 against 100 images: labels on single images would vary much less."""
    monkeypatch.setattr("featlab.neurons._corrections.PERMUTATIONS", 200)
    rng, called_in = np.random.default_rng(1), 0
    unit = np.r_[np.repeat(np.arange(5), 50), np.arange(5, 105)]
    for _ in range(20):
        X = 0.7 * rng.normal(size=(105, 20))[unit] + 0.7 * rng.normal(size=(350, 20))
        table = rank_neurons(X, np.where(unit < 5, "a", "b"), correction="max_t", groups=unit)
        called_in += table["reject"].any()
    assert called_in <= 3


def test_local_fdr_wants_p_values_of_many_values():
    X = (np.random.default_rng(2).random((100, 300)) < 0.02) * 1.0
    with pytest.raises(FeatlabError, match="of these are the same"):
        rank_neurons(X, np.repeat(["a", "b"], 50), correction="local_fdr")


@pytest.mark.slow
def test_local_fdr_calls_nothing_in_a_family_that_looks_like_noise():
    """A fitted density has tails by chance; 200 families of noise."""
    rng, called_in = np.random.default_rng(0), 0
    for _ in range(200):
        z = rng.normal(size=200)
        called_in += (adjust(2 * stats.norm.sf(np.abs(z)), "local_fdr", 0.05, sign=z) <= 0.05).any()
    assert called_in <= 10 + 2 * np.sqrt(10 * 0.95)


def test_local_fdr_is_high_for_noise_and_low_for_planted():
    rng = np.random.default_rng(1)
    y = np.repeat(["cat", "dog"], 100)
    X = rng.normal(size=(200, 600))
    X[y == "dog", :60] += 1
    table = rank_neurons(X, y, correction="local_fdr")
    planted = table["neuron"] < 60
    assert table.loc[planted, "p_adjusted"].median() < 0.01
    assert table.loc[~planted, "p_adjusted"].median() > 0.7
    # Among those called, the average of the local rates estimates the share of false ones.
    called = table[table["p_adjusted"] <= 0.2]
    assert (called["neuron"] >= 60).mean() < 0.1


def test_local_fdr_falls_with_the_effect_on_either_side():
    rng = np.random.default_rng(1)  # where the fitted density rises again, on both sides
    z = np.r_[rng.normal(size=300), rng.normal(-0.8, 0.1, 150), -rng.uniform(3, 5, 12)]
    z = np.r_[z, rng.uniform(3, 5, 12)]
    p = 2 * stats.norm.sf(np.abs(z))
    fitted = np.clip(local_fdr(z, nbins=len(z) // 10), 0, 1)
    smaller = (np.sign(z) == np.sign(z)[:, None]) & (np.abs(z) <= np.abs(z)[:, None])
    lowest = np.where(smaller, fitted, 1).min(axis=1)
    assert (lowest < fitted - 0.001).any()
    expected = np.maximum(lowest, multipletests(p, method="fdr_bh")[1].min())
    np.testing.assert_allclose(adjust(p, "local_fdr", 0.05, sign=z), expected, rtol=1e-6)


def test_several_layers_enter_one_max_t_family(monkeypatch):
    monkeypatch.setattr("featlab.neurons._corrections.PERMUTATIONS", 200)
    X, y = relu(n=60, c=4)
    first = pd.DataFrame(X, columns=feature_columns("low", "mean", 4))
    second = pd.DataFrame(X[:, ::-1].copy(), columns=feature_columns("high", "mean", 4))
    both = rank_neurons([first, second], y, correction="max_t")
    one = rank_neurons(first, y, correction="max_t")
    key = ["class", "neuron"]
    p_both = both[both["layer"] == "low"].set_index(key)["p_adjusted"].sort_index()
    p_one = one.set_index(key)["p_adjusted"].sort_index()
    # The same columns twice add nothing to the maximum.
    assert (p_both == p_one).all()


# ------------------------------------------------------------------------------- invariances


def test_how_much_is_done_at_once_changes_nothing(monkeypatch):
    monkeypatch.setattr("featlab.neurons._corrections.PERMUTATIONS", 20)
    X, y = relu(n=30)
    weights = np.arange(1.0, 31.0)

    def tables():
        yield rank_neurons(X, y, correction="max_t")
        yield rank_neurons(X, y, test="welch", weights=weights)

    expected = list(tables())
    for name in ("_corrections._ELEMENTS_AT_ONCE", "_tests._WEIGHTED_AT_ONCE"):
        monkeypatch.setattr(f"featlab.neurons.{name}", 1)
    monkeypatch.setattr("featlab.neurons.rank_tests._TERMS_AT_ONCE", 1)
    for table, other in zip(tables(), expected, strict=True):
        pd.testing.assert_frame_equal(table, other, rtol=1e-9)


def test_adding_a_constant_column_changes_no_other_row():
    X, y = relu()
    wider = np.column_stack([X, np.full(len(X), 7, np.float32)])
    a, b = rank_neurons(X, y), rank_neurons(wider, y)
    b = b[b["neuron"] < X.shape[1]].reset_index(drop=True)
    pd.testing.assert_frame_equal(a, b, check_like=True)


def test_confirmation_counts_and_shrinks():
    rng = np.random.default_rng(0)
    y = np.repeat(["cat", "dog"], 60)
    X = rng.normal(size=(240, 80))
    X[np.tile(y, 2) == "dog", :3] += 1.5
    table = rank_neurons(X[:120], y, min_auroc=0.6)
    confirmed = confirm_neurons(table, X[120:], y)
    found = confirmation(confirmed).set_index(["class", "direction"])
    dogs = found.loc[("dog", "active")]
    assert (
        dogs["selected"]
        == confirmed.query("`class` == 'dog' and direction == 'active'")["detector"].sum()
    )
    assert dogs["confirmed"] >= 3
    assert 0 <= dogs["rate"] <= 1
    # Neurons share their images: an interval over neurons would not hold the truth.
    assert not found.columns.str.contains("low|high").any()
    with pytest.raises(FeatlabError, match="run confirm_neurons"):
        confirmation(table)


# ------------------------------------------------------------------------------- R


@pytest.fixture(scope="module")
def from_r():
    folder = Path(__file__).parent / "reference"
    activations = pd.read_csv(folder / "activations.csv")
    return (
        activations.drop(columns="label").to_numpy(),
        activations["label"].to_numpy(),
        pd.read_csv(folder / "neurons.csv"),
    )


def sparse(X):
    """Columns of which one value holds more than half: their p is exact, where R's is normal."""
    return np.array([np.unique(x, return_counts=True)[1].max() > len(x) / 2 for x in X.T])


def test_r_says_the_same_of_two_samples(from_r):
    X, y, expected = from_r
    cats = rank_neurons(X, np.where(y == "cat", "cat", "other")).query("`class` == 'cat'")
    cats = cats.sort_values("neuron")
    np.testing.assert_allclose(cats["statistic"], expected["u"])
    few = sparse(X)
    assert few.tolist() == [False, True, False, True, False]
    np.testing.assert_allclose(cats["p"][~few], expected["p"][~few], rtol=1e-9)
    np.testing.assert_allclose(cats["auroc"], expected["auroc"], rtol=1e-9)
    # pROC's limits are 1.96 of DeLong's standard errors apart from the AUROC.
    ranks = rank_statistics(X, np.where(y == "cat", 0, 1), 2)
    margin = (expected["auroc_high"] - expected["auroc_low"]) / 2
    np.testing.assert_allclose(1.959963984540054 * np.sqrt(ranks.variance[0]), margin, rtol=1e-9)
    np.testing.assert_allclose(cats["effect"], expected["cliffs_delta"], atol=1e-12)
    np.testing.assert_allclose(cats["hedges_g"], expected["hedges_g"], rtol=1e-9)
    welch = rank_neurons(X, np.where(y == "cat", "cat", "other"), test="welch")
    welch = welch.query("`class` == 'cat'").sort_values("neuron")
    np.testing.assert_allclose(welch["statistic"], expected["t"], rtol=1e-9)
    larger = np.maximum(expected["p_welch"].to_numpy(), cats["p"].to_numpy())
    np.testing.assert_allclose(welch["p"], larger, rtol=1e-9)


def test_r_says_the_same_of_three_classes(from_r):
    X, y, expected = from_r
    kruskal = compare_classes(X, y).sort_values("neuron")
    np.testing.assert_allclose(kruskal["statistic"], expected["h"], rtol=1e-9)
    np.testing.assert_allclose(kruskal["p"], expected["p_kruskal"], rtol=1e-9)
    welch = compare_classes(X, y, test="welch_anova").sort_values("neuron")
    np.testing.assert_allclose(welch["statistic"], expected["f"], rtol=1e-9)
    larger = expected[["p_welch_anova", "p_kruskal"]].max(axis=1)
    np.testing.assert_allclose(welch["p"], larger, rtol=1e-9)


def test_r_corrects_and_tests_one_sided_the_same(from_r):
    X, y, expected = from_r
    p = expected["p"].to_numpy()
    np.testing.assert_allclose(adjust(p, "fdr_bh", 0.05), expected["p_bh"], rtol=1e-9)
    np.testing.assert_allclose(adjust(p, "holm", 0.05), expected["p_holm"], rtol=1e-9)
    ranks = rank_statistics(X, (y != "cat").astype(np.intp), 2)
    greater = mannwhitney_p(ranks, alternative="greater")[0]
    np.testing.assert_allclose(greater[~sparse(X)], expected["p_greater"][~sparse(X)], rtol=1e-9)


@pytest.mark.parametrize("test", ["brunner_munzel", "welch"])
@pytest.mark.parametrize("reference", [None, ["a", "b", "c"], "b"])
def test_equal_weights_change_nothing(test, reference):
    X, y = relu(5, n=80)
    plain = rank_neurons(X, y, test=test, reference=reference)
    equal = rank_neurons(X, y, test=test, reference=reference, weights=np.full(80, 2.5))
    key = ["class", "reference", "neuron"]
    # The p-values of whole images are held to those of their ranks, too.
    unlike = ["rank", "p", "p_adjusted", "reject", "detector"]
    pd.testing.assert_frame_equal(
        plain.sort_values(key, ignore_index=True).drop(columns=unlike),
        equal.sort_values(key, ignore_index=True).drop(columns=unlike),
        check_exact=False,
        atol=1e-9,
    )


def test_whole_weights_are_repeated_images_in_every_effect():
    X, y = relu(4, n=60)
    weights = np.random.default_rng(4).integers(1, 4, 60)
    repeated = rank_neurons(np.repeat(X, weights, axis=0), np.repeat(y, weights), test="welch")
    weighted = rank_neurons(X, y, test="welch", weights=weights)
    key = ["class", "neuron"]
    same = ["mean", "mean_ref", "median", "median_ref", "pts", "pts_ref", "auroc"]
    same += ["effect", "average_precision", "log_fold_change"]
    np.testing.assert_allclose(
        weighted.sort_values(key)[same], repeated.sort_values(key)[same], atol=1e-9
    )
    # But not in the evidence: the images are as many as they were.
    assert (weighted["n"] + weighted["n_ref"] == 60).all()
    assert weighted["p"].min() > repeated["p"].min()


@pytest.mark.parametrize("test", ["brunner_munzel", "welch"])
def test_weighted_p_of_noise_is_even(test):
    rng = np.random.default_rng(5)
    y = np.repeat(["a", "b"], [60, 90])
    weights = rng.choice([1.0, 4.0], 150)
    p = rank_neurons(rng.normal(size=(150, 4000)), y, test=test, weights=weights)
    p = p.loc[p["class"] == "a", "p"]
    # Welch's is the larger of two p-values, and so below 5 in 100.
    assert 0.03 < (p < 0.05).mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 4000)
    confirmed = one_sided_p(
        weighted_statistics(rng.normal(size=(150, 4000)), (y == "b") * 1, 2, weights)[0]
    )
    for side in confirmed:
        assert 0.04 < (side[0] < 0.05).mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 4000)


def test_weighted_p_holds_in_the_tail_and_where_few_images_count():
    """By t with DeLong's variance alone, one in a thousand was six."""
    rng, y = np.random.default_rng(11), np.repeat(["a", "b"], 30)
    weights = rng.lognormal(sigma=0.7, size=60)
    X = rng.normal(size=(60, 20_000))
    for test in ("brunner_munzel", "welch"):
        p = rank_neurons(X, y, test=test, weights=weights, min_auroc=0.5)["p"][:20_000]
        for alpha in (0.05, 0.001):
            share, most = called(p, alpha)
            assert share <= most, (test, alpha, share)
    few = np.where(np.arange(60) < 5, 20.0, 0.01)
    assert rank_neurons(X[:, :9], y, test="welch", weights=few)["p"].isna().all()
    silent = (rng.random((60, 9)) < 0.1) * 1.0
    assert rank_neurons(silent, y, test="brunner_munzel", weights=weights)["p"].isna().all()


@pytest.mark.parametrize(("n", "known"), [(10, True), (9, False)])
def test_weighted_p_needs_ten_images_of_a_side(n, known):
    X, y = np.random.default_rng(0).normal(size=(n + 20, 4)), np.repeat(["a", "b"], [n, 20])
    for test in ("welch", "brunner_munzel"):
        p = rank_neurons(X, y, test=test, weights=np.full(n + 20, 0.3))["p"]
        assert p.notna().all() if known else p.isna().all()


def test_weights_choose_and_confirm_what_the_small_breed_shows():
    # Nine in ten cats are of a breed that does not fire; the tenth does.
    rng = np.random.default_rng(6)
    breed = np.repeat(["big", "small", "dog"], [180, 20, 200])
    y = np.where(breed == "dog", "dog", "cat")
    X = pd.DataFrame(rng.normal(size=(400, 3)) + np.outer(breed == "small", [3, 0, 0]))
    weights = 1 / pd.Series(breed).map(pd.Series(breed).value_counts()).to_numpy()
    find = partial(rank_neurons, X, y, test="brunner_munzel", min_auroc=0.7)
    assert not find()["detector"].any()
    table = find(weights=weights)
    assert table.loc[table["detector"], ["class", "neuron"]].to_numpy().tolist() == [
        ["cat", 0],
        ["dog", 0],
    ]
    again = confirm_neurons(table, X.iloc[::-1], y[::-1], weights=weights[::-1])
    np.testing.assert_allclose(
        again["auroc_confirmed"].dropna(), table.loc[table["detector"], "auroc"], atol=1e-12
    )
    assert again.loc[again["detector"], "confirmed"].all()


def test_weights_that_mean_nothing_are_refused():
    X, y = relu(7, n=30, c=4, labels="ab")
    find = partial(rank_neurons, X, y, test="welch")
    with pytest.raises(FeatlabError, match="X, y and weights must have one row per image"):
        find(weights=np.ones(29))
    with pytest.raises(FeatlabError, match="positive and finite"):
        find(weights=np.zeros(30))
    with pytest.raises(FeatlabError, match="weights go with the tests"):
        rank_neurons(X, y, weights=np.ones(30))
    with pytest.raises(FeatlabError, match="weights or groups, not both"):
        confirm_neurons(find(), X, y, weights=np.ones(30), groups=np.repeat(["a", "b", "c"], 10))


# ------------------------------------------------------------------- few images, sparse neurons


def exchanged(x, n):
    """P of a rank sum of the first n at least, and at most, as large; every choice of n tried."""
    ranks = stats.rankdata(x)
    sums = np.array([ranks[list(chosen)].sum() for chosen in combinations(range(len(x)), n)])
    seen = ranks[:n].sum()
    return (sums >= seen - 1e-9).mean(), (sums <= seen + 1e-9).mean()


@pytest.mark.parametrize("kind", ["no ties", "silent below", "ceiling", "two values"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_images_have_the_p_of_all_exchanges(kind, n):
    values = np.random.default_rng(n).normal(size=(14, 6))
    make = {
        "no ties": lambda x: x,
        "silent below": lambda x: np.maximum(x, 0),
        "ceiling": lambda x: np.minimum(x, 0),
        "two values": lambda x: (x > 0.4) * 1.0,
    }[kind]
    X, codes = make(values), np.repeat([0, 1], [n, 14 - n])
    ranks = rank_statistics(X, codes, 2)
    expected = np.array([exchanged(x, n) for x in X.T]).T
    for side, way, other in ((0, "greater", "less"), (1, "less", "greater")):
        p, mirrored = mannwhitney_p(ranks, alternative=way), mannwhitney_p(ranks, alternative=other)
        np.testing.assert_allclose(p[0], expected[side], rtol=1e-9)
        np.testing.assert_allclose(mirrored[1], expected[side], rtol=1e-9)


def test_ties_among_the_others_are_broken_against_the_finding():
    """Of few images, most of them silent: p is that of values a little lower, or higher."""
    rng, inside = np.random.default_rng(3), np.arange(12) < 4
    X = rng.integers(1, 4, (12, 30)) * (rng.random((12, 30)) < 0.5)
    firing = np.sort(X, axis=0)[-5:]  # two values and more, that tie
    X = X[:, ((X == 0).sum(axis=0) > 6) & (np.ptp(np.where(firing, firing, 3), axis=0) > 0)]
    ranks = rank_statistics(X.astype(float), (~inside).astype(np.intp), 2)
    assert (ranks.tied[0] > 0).sum() > 5
    apart = (X + 1e-3 * np.arange(12)[:, None]) * (X > 0)
    for side, (way, shift) in enumerate((("greater", -0.1), ("less", 0.1))):
        moved = np.where((X > 0) & inside[:, None], apart + shift, apart)
        expected = [exchanged(x, 4)[side] for x in moved.T]
        found = mannwhitney_p(ranks, alternative=way)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("k", [2, 3])
def test_equal_values_are_counted(k):
    """At the end that more images share, and the pairs of class and rest at other values."""
    rng = np.random.default_rng(k)
    X = rng.integers(0, rng.integers(2, 9, 200), (12, 200)).astype(float)
    codes = np.arange(12) % k
    found = rank_statistics(X, codes, k)
    for column, x in enumerate(X.T):
        values, counts = np.unique(x, return_counts=True)
        is_low = counts[0] >= counts[-1]
        assert found.end_tie[0, column] == (counts[0] if is_low else -counts[-1])
        assert found.largest_tie[0, column] == counts.max()
        assert found.ties[0, column] == (counts**3 - counts).sum()
        for code in range(k):
            inside = np.array([(x[codes == code] == v).sum() for v in values])
            pairs = inside * (counts - inside)
            assert found.tied[code, column] == pairs.sum() - pairs[0 if is_low else -1]


@pytest.mark.parametrize("n", [2, 3, 9])
def test_few_of_many_images_have_scipys_exact_p(n):
    X = np.random.default_rng(n).normal(size=(120, 20))
    ranks = rank_statistics(X, np.repeat([0, 1], [n, 120 - n]), 2)
    expected = stats.mannwhitneyu(X[:n], X[n:], method="exact").pvalue
    np.testing.assert_allclose(mannwhitney_p(ranks)[0], expected, rtol=1e-9)


@pytest.mark.parametrize("below", [30, 1])
def test_a_common_value_between_others_keeps_the_p_of_the_ranks(below):
    """As of heights, where most pictures of one class are 256 px and many are larger or smaller."""
    rng = np.random.default_rng(below)
    x = np.r_[rng.normal(size=90), np.zeros(110)]
    x[:90] = np.where(np.arange(90) < below, -1, 1) * np.abs(x[:90])
    first = np.argsort(rng.normal(size=200) + np.sign(x))[:100]
    y = np.where(np.isin(np.arange(200), first), "a", "b")
    expected = stats.mannwhitneyu(x[y == "a"], x[y == "b"], method="asymptotic").pvalue
    assert expected < 1e-4
    assert rank_neurons(x[:, None], y)["p"].tolist() == pytest.approx([expected] * 2, rel=1e-9)


def test_kolmogorov_and_smirnov_of_few_images_is_scipys_exact_one():
    X = np.random.default_rng(0).normal(size=(45, 12))
    table = rank_neurons(X, np.repeat(["a", "b"], [5, 40]), test="kolmogorov_smirnov")
    for _, row in table[table["class"] == "a"].iterrows():
        x = X[:, row["neuron"]]
        expected = stats.ks_2samp(x[:5], x[5:], method="exact").pvalue
        assert row["p"] == pytest.approx(expected, rel=1e-9)


def called(p, alpha):
    """The share of p at most alpha, and two standard errors of it above alpha."""
    return (p <= alpha).mean(), alpha + 2 * np.sqrt(alpha * (1 - alpha) / len(p))


@pytest.mark.parametrize("test", ["mannwhitneyu", *sorted(OTHERS.keys() - {"mannwhitneyu"})])
@pytest.mark.parametrize(
    "sizes", [(5, 95), *(pytest.param(one, marks=pytest.mark.slow) for one in ((3, 3), (10, 190)))]
)
@pytest.mark.parametrize(
    "firing", [0.1, *(pytest.param(one, marks=pytest.mark.slow) for one in (0.02, 0.5, 1.0))]
)
def test_noise_is_called_as_often_as_said(test, sizes, firing):
    rng, c = np.random.default_rng(8), 20_000
    X = np.where(rng.random((sum(sizes), c)) < firing, rng.exponential(size=(sum(sizes), c)), 0)
    p = rank_neurons(X, np.repeat(["a", "b"], sizes), test=test, min_auroc=0.5)
    p = p.loc[p["class"] == "a", "p"].dropna()
    for alpha in (0.05, 0.005, 0.0005):
        share, most = called(p, alpha)
        assert share <= most, (alpha, share)


def test_a_family_of_sparse_noise_is_seldom_called():
    rng, called_in = np.random.default_rng(9), 0
    for _ in range(40):
        X = (rng.random((100, 1000)) < 0.02) * rng.exponential(size=(100, 1000))
        called_in += rank_neurons(X, np.repeat(["a", "b"], [5, 95]))["reject"].any()
    assert called_in <= 4  # each family was called


def test_all_classes_are_compared_by_groups_and_not_by_their_images():
    rng, unit = np.random.default_rng(10), np.repeat(np.arange(24), 20)
    X = 0.55 * rng.normal(size=(24, 2000))[unit] + 0.84 * rng.normal(size=(480, 2000))
    y = np.array(list("abc"))[unit // 8]
    table = compare_classes(X, y, groups=unit)
    for alpha in (0.05, 0.005):
        share, most = called(table["p"], alpha)
        assert share <= most
    # Of one image each, by scipy.
    alone = compare_classes(X, y, groups=np.arange(480)).set_index("neuron")["p"]
    expected = stats.kruskal(*(X[y == k][:, :20] for k in "abc")).pvalue
    np.testing.assert_allclose(alone[range(20)], expected)


def test_all_classes_with_few_groups_or_sessions_of_several_have_no_p():
    X, y = relu()
    sessions = compare_classes(X, y, groups=np.repeat(np.arange(10), 9))
    assert sessions["p"].isna().all() and sessions.attrs["n_tests"] == 0
    few = compare_classes(X, y, groups=np.where(y == "a", np.arange(90) % 4, np.arange(90)))
    assert few["p"].isna().all() and not few["reject"].any()


@pytest.mark.parametrize("test", ["kruskal", "welch_anova"])
@pytest.mark.parametrize("pairs", [[(0, 1)], [(199, 200)], [(0, 1), (199, 200), (450, 451)]])
def test_all_classes_have_p_where_single_images_hold_a_few_copies(test, pairs):
    """Within a class or across two: the images without a copy decide."""
    y, groups = np.repeat(list("abc"), 200), np.full(600, "", dtype=object)
    for number, pair in enumerate(pairs):
        groups[list(pair)] = f"copies {number}"
    X = np.random.default_rng(0).normal(size=(600, 4))
    X[y == "b", 0] += 1
    table = compare_classes(X, y, test=test, groups=groups)
    assert table["p"].notna().all()
    assert table.loc[table["reject"], "neuron"].tolist() == [0]
