"""Made-up neurons, nulls, redundancy, images of a neuron, AnnData."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from fake_store import FakeStore
from scipy import stats

from featlab import FeatlabError
from featlab.datasets import make_neurons
from featlab.extract import extract_maps
from featlab.features import feature_table
from featlab.images import index_images
from featlab.neurons import (
    cluster_detectors,
    confirm_neurons,
    null_selection,
    rank_neurons,
    ranked_images,
    select_neurons,
    to_anndata,
)
from featlab.neurons.rank_statistics import auroc_interval, clustered_auroc, rank_statistics
from featlab.neurons.rank_tests import WHOLE, WITHIN, grouped_p, scheme_of


def test_the_classes_take_turns_among_equal_images():
    # A silent neuron is 0 in most images: four of one class would look like a finding.
    labels = np.repeat(["a", "b", "c"], [10, 5, 5])
    images = pd.DataFrame({"path": labels, "label": labels})
    store = FakeStore(images, array=np.zeros((20, 2, 2, 3), dtype=np.float32))
    for lowest in (True, False):
        shown = ranked_images(store, 1, most=6, lowest=lowest)
        assert shown["row"].tolist() == [0, 10, 15, 1, 11, 16]


class TestMadeUpNeurons:
    def test_truth_is_what_was_planted(self):
        made = make_neurons(400, 200, 12, classes=3, effect=2.0, dead=0.1, random_state=1)
        assert made.X.shape == (400, 200)
        assert (made.X.to_numpy() >= 0).all()
        assert made.truth["dead"].sum() == 20
        assert (made.X.loc[:, made.truth["dead"].to_numpy()] == 0).all(axis=None)
        planted = made.truth[made.truth["label"] != ""]
        assert not planted["dead"].any()
        assert planted["label"].value_counts().tolist() == [4, 4, 4]
        for _, row in planted.iterrows():
            means = made.X.iloc[:, row["neuron"]].groupby(made.y).mean()
            assert means.idxmax() == row["label"]

    def test_neurons_of_a_block_correlate(self):
        made = make_neurons(2000, 40, 0, correlation=0.5, random_state=0)
        r = np.corrcoef(made.X.to_numpy().T)
        within, across = r[:20, :20][np.triu_indices(20, 1)], r[:20, 20:]
        # The rectifier weakens a latent correlation of 0.5 to about 0.43.
        assert within.mean() == pytest.approx(0.43, abs=0.03)
        assert abs(across.mean()) < 0.02

    def test_seeded(self):
        a, b = make_neurons(random_state=5), make_neurons(random_state=5)
        pd.testing.assert_frame_equal(a.X, b.X)
        assert not a.X.equals(make_neurons(random_state=6).X)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [({"classes": 1}, "at least 2"), ({"n_detectors": 999}, "n_detectors must be from 0 to")],
    )
    def test_errors(self, arguments, words):
        with pytest.raises(FeatlabError, match=words):
            make_neurons(**arguments)


@pytest.fixture
def store(picture_folder, fake_backbone, tmp_path):
    images, _, _ = index_images(picture_folder({"cat": 9, "dog": 8}))
    with extract_maps(images, fake_backbone, tmp_path / "maps.h5") as opened:
        yield opened


@pytest.mark.slow
def test_error_rates_hold_on_many_families(monkeypatch):
    monkeypatch.setattr("featlab.neurons._corrections.PERMUTATIONS", 200)
    """60 families of noise and of planted neurons; the bounds lie 3 simulation errors off."""
    false_families, false_shares, power = 0, [], []
    for seed in range(60):
        noise = make_neurons(60, 120, 0, correlation=0.3, random_state=seed)
        table = rank_neurons(noise.X, noise.y, correction="max_t")
        false_families += bool(table["reject"].any())
        made = make_neurons(60, 120, 12, effect=1.5, correlation=0.3, random_state=seed)
        table = rank_neurons(made.X, made.y)
        called = set(table.loc[table["reject"], "neuron"])
        real = set(made.truth.loc[made.truth["label"] != "", "neuron"])
        false_shares.append(len(called - real) / max(len(called), 1))
        power.append(len(called & real) / len(real))
    assert false_families / 60 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    assert false_families >= 1  # a test that never calls anything would pass the line above
    assert np.mean(false_shares) <= 0.05 + 3 * np.std(false_shares) / np.sqrt(60)
    assert np.mean(power) > 0.9


def test_shuffled_labels_find_nothing_that_holds():
    made = make_neurons(120, 300, 30, effect=2.0, random_state=0)
    split = np.array(["train", "train", "confirm", "test"])[np.arange(120) // 2 % 4]
    null = null_selection(made.X, made.y, split, n_repeats=10, min_auroc=0.6)
    assert len(null) == 10
    assert null["confirmed"].sum() <= 1
    # The best of 300 neurons looks good where it was chosen, and is chance elsewhere.
    assert null["best_selected"].mean() > 0.15
    assert abs(null["best_confirmed"].mean()) < 0.08
    train = split == "train"
    real = rank_neurons(made.X[train], made.y[train], min_auroc=0.6)
    assert real["detector"].sum() > 40


def test_clusters_are_the_planted_ones():
    rng = np.random.default_rng(0)
    y = np.repeat(["cat", "dog"], 100)
    causes = rng.normal(size=(200, 3))
    X = np.repeat(causes, 4, axis=1) + 0.3 * rng.normal(size=(200, 12))
    X[y == "dog"] += 2
    X = pd.DataFrame(X)
    chosen = select_neurons(rank_neurons(X, y)).query("`class` == 'dog'")
    found = cluster_detectors(chosen, X, y)
    assert len(found) == 12
    # Twelve neurons, three causes: each cluster is one cause's four neurons.
    assert found.groupby(found["neuron"] // 4)["cluster"].nunique().tolist() == [1, 1, 1]
    assert found["cluster"].nunique() == 3
    assert (found["cluster_size"] == 4).all()
    assert found["representative"].sum() == 3
    assert (found["relative"] // 4 == found["neuron"] // 4).all()
    assert (found["relative_correlation"] > 0.7).all()


def test_a_class_mean_alone_makes_no_cluster():
    rng = np.random.default_rng(0)
    y = np.repeat(["cat", "dog"], 100)
    X = pd.DataFrame(rng.normal(size=(200, 5)))
    X[y == "dog"] += 4  # correlation over all images: about 0.8
    chosen = select_neurons(rank_neurons(X, y)).query("`class` == 'dog'")
    assert cluster_detectors(chosen, X, y)["cluster"].nunique() == 5
    with pytest.raises(FeatlabError, match="no detector to cluster"):
        cluster_detectors(chosen.iloc[:0], X, y)


def test_top_and_bottom_images(store):
    pooled = store.pooled(pooling="max")
    top = ranked_images(store, 3, most=5, pooling="max")
    assert top["activation"].tolist() == sorted(pooled[:, 3], reverse=True)[:5]
    assert (pooled[top["row"], 3] == top["activation"]).all()
    assert top["path"].tolist() == store.images["path"].iloc[top["row"]].tolist()
    bottom = ranked_images(store, 3, most=5, pooling="max", lowest=True)
    assert bottom["activation"].tolist() == sorted(pooled[:, 3])[:5]
    among = ranked_images(store, 3, [4, 1], most=99)
    assert sorted(among["row"]) == [1, 4]
    with pytest.raises(FeatlabError, match="neuron must be from 0 to"):
        ranked_images(store, 9999)


def test_images_to_rank_may_be_a_mask(store):
    mask = np.zeros(len(store.images), dtype=bool)
    mask[[4, 1]] = True
    expected = ranked_images(store, 3, [1, 4])
    pd.testing.assert_frame_equal(ranked_images(store, 3, mask), expected)


@pytest.mark.parametrize(
    ("side", "words"),
    [("train", "'class_2' has no image in train"), ("confirm", "must hold the table's classes")],
)
def test_shuffled_labels_need_every_class_on_both_sides(side, words):
    made = make_neurons(60, 20, 4, classes=3)
    split = np.where(np.arange(60) // 3 % 2, "train", "confirm")
    split[(made.y == "class_2") & (split == side)] = "test"
    with pytest.raises(FeatlabError, match=words):
        null_selection(made.X, made.y, split, n_repeats=1)


class TestAnnData:
    @pytest.fixture
    def confirmed(self, store):
        X = feature_table(store)
        y = store.images["label"]
        return confirm_neurons(rank_neurons(X, y, min_auroc=0.5), X, y)

    def test_without_the_package_the_error_says_what_to_install(self, store, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "anndata", None)
        with pytest.raises(FeatlabError, match=r"featlab\[anndata\]"):
            to_anndata(store)

    def test_scanpy_draws_it(self, store, confirmed, tmp_path):
        pytest.importorskip("anndata", reason="anndata is not installed (extra: anndata)")
        scanpy = pytest.importorskip("scanpy", reason="scanpy is not installed (extra: dev)")
        data = to_anndata(store, confirmed)
        assert data.shape == store.pooled().shape
        np.testing.assert_array_equal(data.X, store.pooled())
        np.testing.assert_array_equal(data.layers["max"], store.pooled(pooling="max"))
        label = store.classes[0]
        best = confirmed[(confirmed["class"] == label) & (confirmed["rank"] == 1)].iloc[0]
        ranking = scanpy.get.rank_genes_groups_df(data, label)
        assert ranking.loc[0, "names"] == f"neuron_{best['neuron']}"
        assert ranking.loc[0, "pvals_adj"] == pytest.approx(best["p_adjusted"])
        assert ranking.loc[0, "logfoldchanges"] == pytest.approx(best["log_fold_change"], rel=1e-5)
        scanpy.pl.rank_genes_groups(data, n_genes=3, show=False)
        scanpy.pl.dotplot(data, list(data.var_names[:4]), groupby="label", show=False)
        scanpy.pl.rank_genes_groups_dotplot(data, n_genes=2, show=False)
        data.write_h5ad(tmp_path / "x.h5ad")
        again = __import__("anndata").read_h5ad(tmp_path / "x.h5ad")
        assert again.uns["provenance"]["backbone"] == store.provenance["backbone"]


def test_attrs_can_be_exported(monkeypatch):
    monkeypatch.setattr("featlab.neurons._corrections.PERMUTATIONS", 20)
    made = make_neurons(40, 30, 3)
    attrs = rank_neurons(made.X, made.y, correction="max_t").attrs
    assert json.loads(json.dumps(attrs)) == attrs
    assert attrs["permuted"] == "images"


def one_sided(values, inside, names, scheme):
    """P of "larger in the class" of every column."""
    codes = (~inside).astype(np.intp)
    return grouped_p(values, codes, names, scheme=scheme, alternative="greater")[0]


class TestGroups:
    """Images of one group are not independent evidence."""

    def test_single_images_are_no_groups(self):
        rng = np.random.default_rng(0)
        values, inside = rng.normal(size=(60, 4)).round(1), rng.random(60) < 0.4
        found = clustered_auroc(values, inside, np.arange(60))
        ranks = rank_statistics(values, (~inside).astype(np.intp), 2)
        np.testing.assert_allclose(found.auroc, ranks.auroc[0])
        np.testing.assert_allclose(sum(found.variances), ranks.variance[0])
        for ours, theirs in zip(found.limits(), auroc_interval(ranks), strict=True):
            np.testing.assert_allclose(ours, theirs[0])

    def test_copies_of_an_image_in_its_group_add_nothing(self):
        rng = np.random.default_rng(1)
        values, inside = rng.normal(size=(30, 3)), np.arange(30) < 12
        once = clustered_auroc(values, inside, np.arange(30))
        thrice = clustered_auroc(
            np.repeat(values, 3, axis=0), np.repeat(inside, 3), np.repeat(np.arange(30), 3)
        )
        np.testing.assert_allclose(once.auroc, thrice.auroc)
        np.testing.assert_allclose(once.limits(), thrice.limits())

    def test_one_group_on_a_side_has_no_interval(self):
        values, inside = np.random.default_rng(0).normal(size=(12, 2)), np.arange(12) < 4
        unit = np.where(inside, 0, np.arange(12))
        assert np.isnan(clustered_auroc(values, inside, unit).limits()).all()

    def test_whole_groups_are_compared_by_their_mean_ranks(self):
        rng = np.random.default_rng(3)
        values, names = rng.normal(size=(80, 3)), np.repeat(list("abcdefgh"), 10)
        inside = np.isin(names, list("abc"))
        assert np.isnan(one_sided(values, inside, names, WHOLE)).all()  # three groups
        values, names = rng.normal(size=(120, 3)), np.repeat(list("abcdefghijkl"), 10)
        inside = np.isin(names, list("abcde"))
        ranks = pd.DataFrame(stats.rankdata(values, axis=0)).groupby(names).mean().to_numpy()
        expected = stats.mannwhitneyu(ranks[:5], ranks[5:], alternative="greater", method="exact")
        np.testing.assert_allclose(one_sided(values, inside, names, WHOLE), expected.pvalue)
        assert scheme_of(inside.astype(int), names) == WHOLE

    @pytest.mark.parametrize(
        "sizes",
        [
            pytest.param(([1] * 5, [50] * 20), marks=pytest.mark.slow, id="singles"),
            pytest.param(([20] * 5, [20] * 5), id="5 + 5"),
            pytest.param(([20] * 10, [20] * 10), marks=pytest.mark.slow, id="10 + 10"),
            pytest.param(([2] * 10, [40] * 10), id="sizes go with the class"),
        ],
    )
    @pytest.mark.parametrize("firing", [0.1, pytest.param(1.0, marks=pytest.mark.slow)])
    @pytest.mark.slow
    def test_groups_that_know_nothing_are_called_as_often_as_said(self, sizes, firing):
        rng, c = np.random.default_rng(11), 8000
        per_group = np.concatenate(sizes)
        unit = np.repeat(np.arange(len(per_group)), per_group)
        values = 0.55 * rng.normal(size=(len(per_group), c))[unit]
        values += 0.84 * rng.normal(size=(len(unit), c))
        values = np.maximum(values - stats.norm.isf(firing), 0) if firing < 1 else values
        names, inside = np.char.add("g", unit.astype(str)), unit < len(sizes[0])
        for way in (1, -1):
            p = one_sided(way * values, inside, names, WHOLE)
            for alpha in (0.05, 0.005, 0.0005):
                error = np.sqrt(alpha * (1 - alpha) / c)
                assert (p <= alpha).mean() <= alpha + 2 * error

    def test_three_single_images_leave_the_family_and_say_why(self):
        rng = np.random.default_rng(12)
        names = np.array(["", "", "", *np.repeat([f"g{i}" for i in range(20)], 50)])
        y = np.where(names == "", "few", "many")
        X = rng.normal(size=(1003, 4)) + 3 * np.outer(y == "few", [1, 0, 0, 0])
        table = confirm_neurons(rank_neurons(X, y), X, y, groups=names)
        judged = table[table["detector"]]
        assert len(judged) and judged["p_confirmed"].isna().all()
        assert not judged["confirmed"].any() and set(judged["unit"]) == {"too few groups"}
        assert table.attrs["n_confirm_tests"] == 0

    @pytest.mark.slow
    def test_shuffled_groups_show_a_test_that_goes_wrong_with_their_sizes(self, monkeypatch):
        """A t-test that pools the variance of six images with that of means of 20."""

        def pooled(values, outside, names, **_):
            inside = outside == 0
            units = np.unique(names[~inside])
            means = np.stack([values[names == name].mean(axis=0) for name in units])
            return stats.ttest_ind(values[inside], means).pvalue[None]

        rng = np.random.default_rng(13)
        names = np.array([*[""] * 6, *np.repeat([f"g{i}" for i in range(20)], 20)] * 2)
        y, split = np.where(names == "", "few", "many"), np.repeat(["train", "confirm"], 406)
        X = rng.normal(size=(812, 200))
        options = {"groups": names, "n_repeats": 3, "alpha": 1.0}
        sound = null_selection(X, y, split, **options)
        assert sound["confirmed"].sum() == 0
        monkeypatch.setattr("featlab.neurons._confirming.grouped_p", pooled)
        assert null_selection(X, y, split, **options)["confirmed"].sum() > 0

    def test_a_few_pairs_among_single_images_cost_hardly_any_power(self):
        rng = np.random.default_rng(14)
        y, names = np.repeat(["a", "b"], 100), np.full(200, "", dtype=object)
        for pair in range(5):
            names[[2 * pair, 2 * pair + 1]] = f"copy {pair}"
        X = rng.normal(size=(200, 400)) + 0.5 * (y == "a")[:, None]
        X[1:10:2] = X[0:10:2]
        alone, paired = (rank_neurons(X, y, groups=g)["p"] for g in (None, names))
        power, with_groups = ((p < 0.001).mean() for p in (alone, paired))
        assert 0.4 < power < 0.8
        assert with_groups > power - 0.05
        # One pair under two labels is left out, and takes nothing else along.
        names[100] = names[0]
        assert scheme_of((y == "b").astype(int), names.astype(str)) == WHOLE
        assert (rank_neurons(X, y, groups=names)["p"] < 0.001).mean() > power - 0.05

    def test_the_ranking_counts_groups_and_chooses_by_images(self):
        rng, unit = np.random.default_rng(15), np.repeat(np.arange(20), 20)
        X = rng.normal(size=(20, 1000))[unit] + 0.5 * rng.normal(size=(400, 1000))
        y = np.where(unit < 8, "a", "b")
        for test in ("mannwhitneyu", "welch", "brunner_munzel"):
            table = rank_neurons(X, y, groups=unit, test=test)
            p = table.loc[table["class"] == "a", "p"]
            assert (p <= 0.05).mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1000)
            chosen = table["detector"]
            alone = rank_neurons(X, y, test=test)["detector"]
            assert chosen.sum() == alone.sum() > 100
            assert table["auroc_low"].notna().eq(chosen).all()
            assert not table["reject"].any()
        few = rank_neurons(X, np.where(unit < 4, "a", "b"), groups=unit)
        assert few["p"].isna().all() and few["detector"].any()

    def test_few_images_within_groups_have_the_p_of_all_exchanges(self):
        X = np.arange(5.0)[:, None] * [1, -1]
        p = one_sided(X, np.arange(5) >= 3, np.full(5, "g"), WITHIN)  # 2 above 3: 1 of 10
        np.testing.assert_allclose(p, [0.1, 1.0], atol=0.01)

    def test_one_stratum_is_wilcoxons_test(self):
        rng = np.random.default_rng(4)
        values, inside = rng.normal(size=(50, 3)).round(1), rng.random(50) < 0.5
        expected = stats.mannwhitneyu(
            values[inside], values[~inside], alternative="greater", method="asymptotic",
            use_continuity=False,
        ).pvalue  # fmt: skip
        found = one_sided(values, inside, np.full(50, "one"), WITHIN)
        np.testing.assert_allclose(found, expected)

    def test_strata_take_out_the_group(self):
        rng = np.random.default_rng(5)
        names, inside = np.repeat(list("abcdef"), 20), np.tile([True, False], 60)
        values = 5 * rng.normal(size=6)[np.repeat(np.arange(6), 20)] + rng.normal(size=120) + inside
        p = one_sided(values[:, None], inside, names, WITHIN)
        plain = stats.mannwhitneyu(values[inside], values[~inside], alternative="greater").pvalue
        assert p[0] < 1e-4 < plain

    def test_of_strata_with_one_active_image_each_all_are_permuted(self):
        # Six of six times it is one of the three of the class: 1/2 to the sixth, and z = 2.45.
        names, inside = np.repeat(list("abcdef"), 6), np.tile([True, False], 18)
        values = np.zeros((36, 1))
        values[::6] = np.arange(1, 7)[:, None]
        assert one_sided(values, inside, names, WITHIN)[0] == pytest.approx(1 / 64, rel=0.2)
        assert stats.norm.sf(3 / np.sqrt(1.5)) < 0.5 / 64

    @pytest.mark.parametrize(
        "groups_have_one_class", [True, pytest.param(False, marks=pytest.mark.slow)]
    )
    def test_what_only_groups_differ_in_is_not_confirmed(self, groups_have_one_class):
        rng = np.random.default_rng(6)
        false, blind = 0, 0
        for _ in range(24):
            breeds = np.repeat(np.arange(12), 20)
            X = rng.normal(size=(12, 10))[breeds] + rng.normal(size=(240, 10))
            labels = breeds % 2 == 0 if groups_have_one_class else np.arange(240) % 2 == 0
            y = np.where(labels, "cat", "dog")
            table = rank_neurons(X, y, min_auroc=0.5, correction="fdr_bh", alpha=0.5)
            fresh = rng.normal(size=(12, 10))[breeds] + rng.normal(size=(240, 10))
            false += confirm_neurons(table, fresh, y, groups=breeds)["confirmed"].any()
            blind += confirm_neurons(table, fresh, y)["confirmed"].any()
        assert false <= 4  # 5 % of 24 are 1.2; more than 4 has a chance of 0.6 %
        if groups_have_one_class:
            assert blind > 12

    def test_what_holds_over_groups_is_confirmed(self):
        rng = np.random.default_rng(7)
        breeds = np.repeat(np.arange(12), 20)
        y = np.where(breeds < 6, "cat", "dog")
        X, fresh = (rng.normal(size=(240, 5)) for _ in range(2))
        X[y == "cat", 0] += 3
        fresh[y == "cat", 0] += 3
        table = confirm_neurons(rank_neurons(X, y), fresh, y, groups=breeds)
        found = table.query("neuron == 0 and `class` == 'cat'").iloc[0]
        assert found["confirmed"]
        assert found["auroc_confirmed_low"] > 0.9
        assert table.attrs["confirm_unit"] == WHOLE
