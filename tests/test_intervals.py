from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from featlab.intervals import bootstrap_interval, wilson_interval


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (3, 10), (71, 100)])
def test_wilson_equals_statsmodels(k, n):
    expected = proportion_confint(k, n, method="wilson")
    assert wilson_interval(k, n) == pytest.approx(expected, abs=1e-12)


def test_bootstrap_agrees_with_the_normal_interval():
    values = np.random.default_rng(0).random(400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.003)
    assert high == pytest.approx(values.mean() + half, abs=0.003)


def test_bootstrap_is_seeded_and_ignores_order_and_nan():
    values = np.random.default_rng(0).random(50)
    expected = bootstrap_interval(values)
    shuffled = np.append(np.random.default_rng(1).permutation(values), np.nan)
    assert bootstrap_interval(shuffled) == expected
    assert bootstrap_interval(values, random_state=1) != expected


def test_bootstrap_at_the_border_is_never_a_point():
    low, high = bootstrap_interval(np.ones(20))
    assert low < 0.9
    assert high == 1
    low, high = bootstrap_interval(np.zeros(20))
    assert low == 0
    assert high > 0.1
    assert np.isnan(bootstrap_interval(np.array([]))).all()
    assert np.isnan(bootstrap_interval(np.array([0.4]))).all()
