"""The short form of benchmarks/calibration.py: no error rate lies above what was promised."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import calibration

QUICK = ("bonferroni", "fdr_bh", "fdr_tsbh")
QUICK_OMNIBUS = "10, 30, 90 images"
REFUSED = [
    ("3 images + 20 groups of 50", "mannwhitneyu"),
    ("10 + 190, normal", "mutual_information"),
    ("8 sessions of 5 + 15", "welch"),
    ("10 + 190, weighted", "brunner_munzel"),
]
POWER = {
    "10 + 190, normal": 0.4,
    "30 + 30, normal": 0.4,
    "100 + 100, 10 %": 0.2,
    "10 + 10 groups of 20": 0.2,
    "100 + 100 with 5 pairs a side": 0.4,
    "8 sessions of 5 + 15": 0.4,
}
"""Least power of the Mann-Whitney test with Bonferroni's correction; an effect of 4.5 errors."""


@pytest.mark.parametrize(
    "name",
    [
        *calibration.FEW[:3],
        *(pytest.param(name, marks=pytest.mark.slow) for name in calibration.FEW[3:]),
    ],
)
def test_no_error_rate_is_above_alpha(name):
    table = calibration.run(name, 25, QUICK)
    rates = table[table["correction"].isin([*QUICK, "max_t"])]
    assert rates["above"].eq("").all(), rates[rates["above"].ne("")]


@pytest.mark.slow
@pytest.mark.parametrize("name", calibration.CELLS)
def test_no_error_rate_is_above_alpha_in_any_cell(name):
    table = calibration.run(name, 100)
    rates = table[~table["correction"].isin(["none", "refuses"])]
    assert rates.empty or rates["above"].eq("").all(), rates[rates["above"].ne("")]


@pytest.mark.parametrize(("name", "test"), REFUSED)
def test_what_cannot_be_tested_has_no_p(name, test):
    table = calibration.run(name, 2, ())
    assert table.set_index("test").loc[[test], "correction"].tolist()[0] == "refuses"


@pytest.mark.parametrize("test", ["kruskal", "welch_anova"])
@pytest.mark.parametrize(
    "name",
    [
        QUICK_OMNIBUS,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in calibration.OMNIBUS
            if name != QUICK_OMNIBUS
        ),
    ],
)
def test_all_classes_at_once_are_called_as_often_as_said(name, test):
    for shape in ("normal", "50 %"):
        found = calibration.omnibus(name, shape, test, 5)
        assert shape != "normal" or found["refuses"] == 0
        for alpha in (calibration.ALPHA, calibration.SMALL):
            error = ((1 - alpha) / alpha / (5 * calibration.NEURONS)) ** 0.5
            assert found["refuses"] > 0.9 or found[f"size {alpha}"] <= 1 + 2 * error


@pytest.mark.parametrize("name", POWER)
def test_a_planted_effect_is_found(name):
    table = calibration.run(name, 10, ("bonferroni",)).set_index(["test", "correction"])
    assert table.loc[("mannwhitneyu", "bonferroni"), "power"] >= POWER[name]
