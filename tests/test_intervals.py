from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, multinomial, t

from featlab.arguments import effective_units
from featlab.intervals import (
    auroc_score_interval,
    bootstrap_draws,
    difference_interval,
    draws_interval,
    holm,
    interval_name,
    mean_draws,
    mean_interval,
    share_interval,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import interval_coverage


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (3, 10), (71, 100)])
def test_share_is_the_exact_interval(k, n):
    found = share_interval(k, n)
    exact = binomtest(k, n).proportion_ci(method="exact")
    assert found == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert np.isnan(share_interval(0, 0)).all()


@pytest.mark.parametrize("n", [1, 2, 5, 10, 30, 100, 200, 1000])
def test_share_covers_everywhere(n):
    # Mid-P held 0.916 at 0.985 of 200, Wilson's 0.83.
    ends = np.array([share_interval(k, n) for k in range(n + 1)])
    p = np.append(np.linspace(0.0005, 0.9995, 1999), 0.985)
    chance = binom.pmf(np.arange(n + 1)[:, None], n, p)
    covered = (chance * ((ends[:, :1] <= p) & (p <= ends[:, 1:]))).sum(axis=0)
    assert covered.min() >= 0.95 - 1e-9


def test_random_weights_give_the_closed_form():
    values = np.repeat([0.0, 1.0], [6, 24])
    found = mean_interval(values + 1, span=(1.0, 2.0), n_boot=20_000)
    assert found == pytest.approx(np.add(share_interval(24, 30), 1), abs=0.005)


@pytest.mark.parametrize(
    ("only_a", "only_b", "n"),
    [(0, 0, 40), (7, 0, 40), (0, 7, 40), (0, 7, 7), (11, 3, 14), (12, 4, 60)],
)
def test_random_weights_give_the_closed_form_of_differences(only_a, only_b, n):
    gaps = np.repeat([1.0, -1.0, 0.0], [only_a, only_b, n - only_a - only_b])
    drawn = draws_interval(
        mean_draws(gaps, None, n_boot=1_000_000, random_state=0), n, span=(-1.0, 1.0)
    )
    assert difference_interval(only_a, only_b, n) == pytest.approx(drawn, abs=0.004)
    assert mean_interval(gaps, span=(-1.0, 1.0)) == difference_interval(only_a, only_b, n)
    assert np.isnan(difference_interval(1, 0, 1)).all()


def test_differences_are_covered_everywhere():
    # Exactly counted, over all pairs of counts.
    n = 20
    counts = [(a, b) for a in range(n + 1) for b in range(n + 1 - a)]
    ends = np.array([difference_interval(a, b, n) for a, b in counts])
    for only_a in (0.0, 0.01, 0.05, 0.1, 0.3, 0.6):
        for only_b in (0.0, 0.02, 0.1, 0.3):
            chance = multinomial.pmf(
                [(a, b, n - a - b) for a, b in counts], n, [only_a, only_b, 1 - only_a - only_b]
            )
            truth = only_a - only_b
            inside = (ends[:, 0] - 1e-9 <= truth) & (truth <= ends[:, 1] + 1e-9)
            assert chance[inside].sum() >= 0.95, (only_a, only_b)


def test_a_pair_of_copies_changes_little():
    # One rule for images and groups: 200 images of which two are one do not jump to another.
    right = np.append(np.ones(196), np.zeros(4))
    groups = np.append(np.arange(199), 0).astype(str)
    alone, paired = mean_interval(right), mean_interval(right, groups=groups, n_boot=20_000)
    assert paired == pytest.approx(alone, abs=0.004)


def test_mean_agrees_with_the_normal_interval_where_there_are_many():
    values = np.random.default_rng(0).random(400)
    low, high = mean_interval(values, n_boot=50_000)
    half = 1.96 * values.std() / np.sqrt(400)
    # Wider by the one unseen image, which may hold all of its share.
    assert 0 < values.mean() - half - low < 1 / 400
    assert 0 < high - values.mean() - half < 1 / 400


def test_mean_is_seeded_and_ignores_order_and_nan():
    values = np.random.default_rng(0).random(50)
    expected = mean_interval(values)
    shuffled = np.append(np.random.default_rng(1).permutation(values), np.nan)
    assert mean_interval(shuffled) == expected
    assert mean_interval(values, random_state=1) != expected


def test_nothing_known_gives_no_interval():
    assert np.isnan(mean_interval(np.array([]))).all()
    assert np.isnan(mean_interval(np.array([]), span=(0.0, 5.0))).all()
    assert np.isnan(mean_interval(np.array([0.4]))).all()
    assert np.isnan(mean_interval(np.ones(9), groups=["a"] * 9)).all()
    assert np.isnan(draws_interval(np.full(9, 0.5), 1.0)).all()
    assert interval_name(np.zeros(9, dtype=np.intp)) == "none: all images are of one group"
    assert interval_name(np.arange(9) // 3) == "over 3 groups"
    for codes in (None, np.arange(9), np.arange(0)):
        assert interval_name(codes) == "over images"


def test_one_wrong_image_of_five_groups_changes_little():
    # A cluster bootstrap went from [0.57, 1] to [0.95, 1]: narrower for worse.
    groups = np.repeat(list("abcde"), 20)
    right, wrong = np.ones(100), np.append(np.ones(99), 0)
    best, less = mean_interval(right, groups=groups), mean_interval(wrong, groups=groups)
    assert best == pytest.approx(share_interval(5, 5), abs=0.002)
    assert best[0] - 0.02 < less[0] < best[0]
    assert 0.99 < less[1] < best[1] == 1


def test_the_same_seed_pairs_differences():
    rng = np.random.default_rng(0)
    a = rng.random(200)
    b = a - 0.1
    first, second = (
        bootstrap_draws(lambda w, v=v: w @ v / w.sum(axis=1), 200, n_boot=20) for v in (a, b)
    )
    assert first - second == pytest.approx(np.full(20, 0.1))


def test_groups_are_drawn_whole_and_widen_the_interval():
    values = np.repeat(np.random.default_rng(0).random(12), 20)
    groups = np.repeat([f"g{i}" for i in range(12)], 20)
    bootstrap_draws(
        lambda w: (
            np.testing.assert_array_equal(np.ptp(w.reshape(-1, 12, 20), axis=2), 0) or w[:, 0]
        ),
        240,
        groups=groups,
        n_boot=9,
    )
    alone, together = mean_interval(values), mean_interval(values, groups=groups)
    assert together[1] - together[0] > 3 * (alone[1] - alone[0])
    nameless = mean_interval(values, groups=[""] * 240)
    assert nameless == pytest.approx(alone, abs=0.01)
    sure = mean_interval(np.ones(240), groups=groups)
    assert sure == pytest.approx(share_interval(12, 12), abs=1e-3)


def test_draws_interval_of_nothing_and_of_certainty():
    assert np.isnan(draws_interval(np.full(9, np.nan), 5)).all()
    assert draws_interval(np.zeros(2000), 5) == pytest.approx(share_interval(0, 5), abs=1e-3)
    assert np.isnan(draws_interval(np.full(9, 0.3), 1)).all()


@pytest.mark.parametrize("most", [1, 70])
def test_how_many_draws_are_made_at_once_changes_nothing(most, monkeypatch):
    values, codes = np.random.default_rng(0).random(40), np.arange(40) // 3

    def draws():
        return (
            bootstrap_draws(lambda w: w @ values, 40, n_boot=9),
            mean_draws(values, None, n_boot=9, random_state=0),
            mean_draws(values, codes, n_boot=9, random_state=0),
        )

    expected = draws()
    monkeypatch.setattr("featlab.intervals._KEPT", 0)
    monkeypatch.setattr("featlab.intervals._BLOCK", most)
    np.testing.assert_allclose(draws(), expected, rtol=1e-12)
    names = np.array(list("abcdefghijklmn"))[codes]
    by_image = bootstrap_draws(lambda w: w @ values / w.sum(axis=1), 40, groups=names, n_boot=9)
    np.testing.assert_allclose(expected[2], by_image, rtol=1e-12)
    assert bootstrap_draws(lambda w: w.sum(axis=1), 0, n_boot=3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("level", [0.95, 0.6])
@pytest.mark.parametrize("auroc", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("given", [{}, {"variances": (0.02, 0.001)}, {"units": (6.0, 1.0)}])
def test_limits_of_an_auroc_solve_newcombes_equation(given, auroc, level):
    sizes = n, n_ref = np.array([20.0, 35.0])
    extra = (n + n_ref) / 2 - 1

    def variance(at):
        spread = at * (1 - at) * (1 + extra * (1 - at) / (2 - at) + extra * at / (1 + at))
        return spread / (n * n_ref)

    # DeLong's where it is larger; Satterthwaite's degrees of freedom of the larger parts.
    own, delong = variance(auroc) * sizes[::-1] / sizes.sum(), np.array(given.get("variances", 0))
    parts = np.maximum(own, delong) if auroc < 1 else sizes[::-1]
    factor = max(1, delong.sum() / variance(auroc)) if auroc < 1 else 1
    free = np.maximum(np.array(given.get("units", sizes)) - 1, 1)
    z = t.ppf((1 + level) / 2, parts.sum() ** 2 / (parts**2 / free).sum())

    def excess(at):
        return abs(auroc - at) - z * np.sqrt(factor * variance(at))

    arrays = {name: tuple(np.array([one]) for one in pair) for name, pair in given.items()}
    low, high = auroc_score_interval(
        np.array([auroc]), np.array([n]), np.array([n_ref]), level=level, **arrays
    )
    assert low[0] == pytest.approx(brentq(excess, 1e-9, auroc - 1e-9), abs=1e-9)
    above = brentq(excess, auroc + 1e-9, 1 - 1e-9) if auroc < 1 else 1
    assert high[0] == pytest.approx(above, abs=1e-9)


def test_effective_units():
    assert effective_units(np.arange(20) // 4) == pytest.approx(5)
    assert effective_units(np.zeros(20, dtype=np.intp)) == 1
    assert 1 < effective_units(np.repeat([0, 1, 2], [100, 1, 1])) < 1.05


LONG = ("AUROC of heads", "balanced accuracy, 10 + 90", "AUROC 0.75 of the confirmed (holm), 15")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.startswith(LONG) else name
        for name in interval_coverage.SHORT
    ],
)
def test_coverage(name):
    found = interval_coverage.measured(interval_coverage.CELLS[name], n_repeats=400, seed=0)
    # Nominal 0.95, wanted 0.93; two standard errors of 400 repeats are 0.025.
    assert found["covered"] >= 0.93 - 0.025, found


@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-300, 0.5, math.nan]))))
def test_holm_is_that_of_its_definition_and_unknown_values_count_for_no_test(p):
    adjusted = holm(np.array(p, dtype=float))
    known = sorted((value, place) for place, value in enumerate(p) if not math.isnan(value))
    largest, expected = 0.0, np.full(len(p), np.nan)
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        expected[place] = largest
    np.testing.assert_allclose(adjusted, expected, rtol=1e-12)
