from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, binom

from featlab.arguments import effective_units
from featlab.intervals import (
    draws_interval,
    interval_name,
    mean_interval,
    share_interval,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import coverage


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (3, 10), (71, 100)])
def test_share_is_the_mid_p_interval(k, n):
    low, high = share_interval(k, n)
    mid = lambda p, above: above + binom.pmf(k, n, p) / 2  # noqa: E731
    if k:
        assert mid(low, binom.sf(k, n, low)) == pytest.approx(0.025)
    if k < n:
        assert mid(high, binom.cdf(k - 1, n, high)) == pytest.approx(0.025)
    # Within Clopper and Pearson's, which counts the whole of the chance of k.
    assert low >= (beta.ppf(0.025, k, n - k + 1) if k else 0)
    assert high <= (beta.ppf(0.975, k + 1, n - k) if k < n else 1)
    assert np.isnan(share_interval(0, 0)).all()


@pytest.mark.parametrize("n", [1, 5, 10, 30, 100])
def test_share_covers_everywhere(n):
    ends = np.array([share_interval(k, n) for k in range(n + 1)])
    p = np.linspace(0.002, 0.998, 499)
    chance = binom.pmf(np.arange(n + 1)[:, None], n, p)
    covered = (chance * ((ends[:, :1] <= p) & (p <= ends[:, 1:]))).sum(axis=0)
    assert covered.min() > 0.92  # Wilson's falls to 0.83
    assert np.mean(covered < 0.93) < 0.08


def test_random_weights_give_the_closed_form():
    values = np.repeat([0.0, 1.0], [6, 24])
    found = mean_interval(values + 1, span=(1.0, 2.0), n_boot=20_000)
    assert found == pytest.approx(np.add(share_interval(24, 30), 1), abs=0.005)


def test_mean_agrees_with_the_normal_interval_where_there_are_many():
    values = np.random.default_rng(0).random(400)
    low, high = mean_interval(values, n_boot=50_000)
    half = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.001)
    assert high == pytest.approx(values.mean() + half, abs=0.001)


def test_mean_is_seeded_and_ignores_order_and_nan():
    values = np.random.default_rng(0).random(50)
    expected = mean_interval(values)
    shuffled = np.append(np.random.default_rng(1).permutation(values), np.nan)
    assert mean_interval(shuffled) == expected
    assert mean_interval(values, random_state=1) != expected


def test_nothing_known_gives_no_interval():
    assert np.isnan(mean_interval(np.array([]))).all()
    assert np.isnan(mean_interval(np.array([0.4]))).all()
    assert np.isnan(mean_interval(np.ones(9), groups=["a"] * 9)).all()
    assert np.isnan(draws_interval(np.full(9, 0.5), 1.0)).all()
    assert interval_name(np.zeros(9, dtype=np.intp)) == "none: all images are of one group"
    assert interval_name(np.arange(9) // 3) == "over 3 groups"
    assert interval_name(None) == interval_name(np.arange(9)) == "over images"


def test_one_wrong_image_of_five_groups_changes_little():
    # A cluster bootstrap went from [0.57, 1] to [0.95, 1]: narrower for worse.
    groups = np.repeat(list("abcde"), 20)
    right, wrong = np.ones(100), np.append(np.ones(99), 0)
    best, less = mean_interval(right, groups=groups), mean_interval(wrong, groups=groups)
    assert best == pytest.approx(share_interval(5, 5), abs=0.001)
    assert best[0] - 0.02 < less[0] < best[0]
    assert 0.99 < less[1] < best[1] == 1


def test_effective_units():
    assert effective_units(np.arange(20) // 4) == pytest.approx(5)
    assert effective_units(np.zeros(20, dtype=np.intp)) == 1
    assert 1 < effective_units(np.repeat([0, 1, 2], [100, 1, 1])) < 1.05


@pytest.mark.parametrize("name", coverage.SHORT)
def test_coverage(name):
    found = coverage.measured(coverage.CELLS[name], n_repeats=400, seed=0)
    # Nominal 0.95, wanted 0.93; two standard errors of 400 repeats are 0.025.
    assert found["covered"] >= 0.93 - 0.025, found
