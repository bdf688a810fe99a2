"""Realised error rates and power of every test and correction, on activations of known truth.

    python benchmarks/calibration.py [REPEATS]

Every cell draws families of 200 neurons in correlated blocks; "noise" has no detector, "planted"
has 20, of an effect that a test of single images or groups of this number can just see. Per cell
and test, of single neurons: the share of null p-values at most 0.05 and 0.0005, over these; and
of families, by every correction at alpha = 0.05: FWER, the share of families of noise with any
call; FDR, the mean share of false calls among all calls; power, the mean share of planted
detectors called. An error rate above alpha by more than twice its simulation error is marked.
Where featlab gives no p it says "refuses".
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.stats import norm

from featlab.arguments import FeatureBlock
from featlab.errors import FeatlabError
from featlab.neurons import compare_classes
from featlab.neurons._corrections import adjust, max_t
from featlab.neurons._tests import TESTS, WEIGHTED_TESTS, weighted_statistics
from featlab.neurons.rank_statistics import moments, rank_statistics
from featlab.neurons.rank_tests import grouped_p

ALPHA, SMALL = 0.05, 0.0005
NEURONS, DETECTORS, BLOCK = 200, 20, 10
CORRELATION = 0.3
# Every method of statsmodels' multipletests, by its first name, and our own.
CORRECTIONS = (
    *("bonferroni", "sidak", "holm-sidak", "holm", "simes-hochberg", "hommel"),
    *("fdr_bh", "fdr_by", "fdr_tsbh", "fdr_tsbky", "fdr_gbs", "local_fdr"),
)
_FAMILIES_AT_ONCE = 50


@dataclass(frozen=True)
class Cell:
    """Sizes of the groups of the class and of the rest (1: an image by itself), and the values."""

    own: list[int]
    rest: list[int]
    shape: str = "normal"
    icc: float = 0.0
    sessions: int = 0
    """Groups that hold images of both classes, of these sizes each."""
    weighted: bool = False

    @property
    def codes(self) -> NDArray[np.intp]:
        """0 for images of the class, 1 for the others."""
        return np.repeat([0, 1] * max(self.sessions, 1), [sum(self.own), sum(self.rest)]
                         * max(self.sessions, 1))  # fmt: skip

    @property
    def unit(self) -> NDArray[np.intp]:
        """Group number of every image."""
        if self.sessions:
            return np.repeat(np.arange(self.sessions), sum(self.own) + sum(self.rest))
        return np.repeat(np.arange(len(self.own) + len(self.rest)), self.own + self.rest)

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """Names of the groups; None where every image is one by itself."""
        unit = self.unit
        return np.char.add("g", unit.astype(str)) if unit.max() + 1 < len(unit) else None

    def effect(self) -> float:
        """4.5 standard errors of the difference of the means of groups."""
        if self.sessions:
            sides = [np.ones(self.sessions * sum(side)) for side in (self.own, self.rest)]
        else:
            sides = [self.icc + (1 - self.icc) / np.array(s) for s in (self.own, self.rest)]
        return 4.5 * float(np.sqrt(sum(s.sum() / len(s) ** 2 for s in sides)))

    def draw(self, rng: Generator, families: int, detectors: int) -> NDArray[np.float32]:
        """Activations (n, families x NEURONS); the first `detectors` of a family know the class."""
        unit, c = self.unit, families * NEURONS
        own = np.sqrt(self.icc) * _blocks(rng, unit.max() + 1, c)[unit]
        values = own + np.sqrt(1 - self.icc) * _blocks(rng, len(unit), c)
        if detectors:
            planted = np.arange(c) % NEURONS < detectors
            values += self.effect() * np.outer(self.codes == 0, planted)
        return SHAPES[self.shape](values).astype(np.float32)


def _blocks(rng: Generator, n: int, c: int) -> NDArray[np.float64]:
    """Standard normal, in blocks of correlated columns."""
    common = np.repeat(rng.normal(size=(n, c // BLOCK)), BLOCK, axis=1)
    return np.sqrt(CORRELATION) * common + np.sqrt(1 - CORRELATION) * rng.normal(size=(n, c))


def fires(share: float) -> Callable[[NDArray], NDArray]:
    """Silent below a threshold that noise passes in this share of the images."""
    return lambda values: np.maximum(values - norm.isf(share), 0)


SHAPES: dict[str, Callable[[NDArray], NDArray]] = {
    "normal": lambda values: values,
    "2 %": fires(0.02),
    "10 %": fires(0.1),
    "50 %": fires(0.5),
    "whole numbers": np.round,
    "skewed": np.exp,
}
CELLS: dict[str, Cell] = {
    f"{n} + {n_ref}, {shape}": Cell([1] * n, [1] * n_ref, shape)
    for n, n_ref, shapes in (
        (3, 3, ["normal"]),
        (3, 97, ["normal", "10 %"]),
        (5, 95, ["normal", "2 %", "10 %", "50 %", "whole numbers"]),
        (10, 10, ["normal", "50 %", "whole numbers"]),
        (10, 190, ["normal", "2 %", "10 %", "50 %", "whole numbers", "skewed"]),
        (30, 30, ["normal", "10 %", "50 %", "whole numbers", "skewed"]),
        (100, 100, ["normal", "2 %", "10 %", "50 %"]),
    )
    for shape in shapes
} | {
    "3 images + 20 groups of 50": Cell([1] * 3, [50] * 20, icc=0.3),
    "6 images + 20 groups of 50": Cell([1] * 6, [50] * 20, icc=0.3),
    "6 images + 20 groups of 50, 10 %": Cell([1] * 6, [50] * 20, "10 %", icc=0.3),
    "5 groups of 50 + 100 images": Cell([50] * 5, [1] * 100, icc=0.3),
    "5 + 5 groups of 20": Cell([20] * 5, [20] * 5, icc=0.3),
    "10 + 10 groups of 20": Cell([20] * 10, [20] * 10, icc=0.3),
    "10 + 10 groups of 20, 10 %": Cell([20] * 10, [20] * 10, "10 %", icc=0.3),
    "15 groups of 5 to 40 + 15 of 2 to 30": Cell(
        list(range(5, 41, 5)) + [5] * 7, list(range(2, 31, 4)) + [3] * 7, icc=0.3
    ),
    "100 + 100 with 5 pairs a side": Cell([1] * 90 + [2] * 5, [1] * 90 + [2] * 5, icc=0.9),
    "8 sessions of 5 + 15": Cell([5], [15], icc=0.3, sessions=8),
    "8 sessions of 5 + 15, 10 %": Cell([5], [15], "10 %", icc=0.3, sessions=8),
    "10 + 190, weighted": Cell([1] * 10, [1] * 190, weighted=True),
    "30 + 30, weighted": Cell([1] * 30, [1] * 30, weighted=True),
    "30 + 30, weighted, 10 %": Cell([1] * 30, [1] * 30, "10 %", weighted=True),
    "100 + 100, weighted": Cell([1] * 100, [1] * 100, weighted=True),
}
FEW = [
    *("3 + 3, normal", "5 + 95, 2 %", "10 + 190, 10 %", "30 + 30, 50 %"),
    *("6 images + 20 groups of 50", "10 + 10 groups of 20", "8 sessions of 5 + 15, 10 %"),
]
"""Cells for the tests, which take seconds."""


def tests_of(cell: Cell) -> list[str]:
    return list(WEIGHTED_TESTS if cell.weighted else TESTS)


def p_values(cell: Cell, values: NDArray, rng: Generator) -> dict[str, NDArray[np.float64]]:
    """Test -> uncorrected two-sided p of every column, as `rank_neurons` gives it."""
    codes, groups, tests = cell.codes, cell.groups, tests_of(cell)
    if groups is not None:
        others = {
            test: grouped_p(values, codes, groups, test=lambda *s, own=test: TESTS[own](*s)[1])[0]
            for test in tests
            if test != "mannwhitneyu"
        }
        return {"mannwhitneyu": grouped_p(values, codes, groups)[0]} | others
    if cell.weighted:
        weights = rng.lognormal(sigma=0.7, size=len(codes))
        ranks, sides = weighted_statistics(values, codes, 2, weights)
    else:
        ranks, sides = rank_statistics(values, codes, 2), moments(values, codes, 2)
    return {test: TESTS[test](ranks, sides)[1][0] for test in tests}


def families(
    cell: Cell, detectors: int, n_repeats: int, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Test -> p-values (families, neurons)."""
    rng = np.random.default_rng([seed, detectors])
    parts: dict[str, list[NDArray]] = {test: [] for test in tests_of(cell)}
    for first in range(0, n_repeats, _FAMILIES_AT_ONCE):
        count = min(_FAMILIES_AT_ONCE, n_repeats - first)
        values = cell.draw(rng, count, detectors)
        for test, p in p_values(cell, values, rng).items():
            parts[test].append(p.reshape(count, NEURONS))
    return {test: np.concatenate(part) for test, part in parts.items()}


def sizes(noise: NDArray[np.float64], planted: NDArray[np.float64]) -> dict[str, float]:
    """Of single neurons: null p-values at most a bound over the bound, and power at 0.005."""
    known = noise[~np.isnan(noise)]
    row = {"refuses": float(np.isnan(noise).mean())}
    for alpha in (ALPHA, SMALL):
        # The neurons of a block go together, so the error is that of families.
        share = np.nanmean(np.where(np.isnan(noise), np.nan, noise <= alpha), axis=1)
        row[f"size {alpha}"] = float((known <= alpha).mean()) / alpha
        row[f"error {alpha}"] = float(np.std(share) / np.sqrt(len(share))) / alpha
    row["power"] = float((np.nan_to_num(planted[:, :DETECTORS], nan=1) <= 0.005).mean())
    return row


def rates(noise: list[NDArray[np.bool_]], planted: list[NDArray[np.bool_]]) -> dict[str, float]:
    """FWER of noise, and FDR and power of planted families, from what is called."""
    false = np.array([calls[DETECTORS:].sum() for calls in planted])
    true = np.array([calls[:DETECTORS].sum() for calls in planted])
    shares = false / np.maximum(false + true, 1)
    return {
        "FWER": float(np.mean([calls.any() for calls in noise])),
        "FWER error": float(np.sqrt(ALPHA * (1 - ALPHA) / len(noise))),
        "FDR": float(shares.mean()),
        "FDR error": float(shares.std() / np.sqrt(len(shares))),
        "power": float(true.mean()) / DETECTORS,
    }


def called(p: NDArray[np.float64], correction: str, sign: NDArray[np.float64]) -> NDArray[np.bool_]:
    """What a family calls; each neuron stands there for both classes, as in `rank_neurons`."""
    both = adjust(np.concatenate([p, p]), correction, ALPHA, sign=np.concatenate([sign, -sign]))
    return both[: len(p)] <= ALPHA


def by_max_t(cell: Cell, detectors: int, n_repeats: int) -> list[NDArray[np.bool_]]:
    rng, calls = np.random.default_rng([1, detectors]), []
    for _ in range(n_repeats):
        block = FeatureBlock(cell.draw(rng, 1, detectors), np.arange(NEURONS), "", "")
        calls.append(max_t([block], cell.codes, 2, groups=cell.groups)[0][:NEURONS] <= ALPHA)
    return calls


def above(row: dict[str, float]) -> str:
    """Which error rate lies above alpha by more than twice its simulation error."""
    return " ".join(
        rate for rate in ("FWER", "FDR") if row[rate] > ALPHA + 2 * row[f"{rate} error"]
    )


def run(name: str, n_repeats: int, corrections: tuple[str, ...] = CORRECTIONS) -> pd.DataFrame:
    """The table of one cell: a row for each test and correction."""
    gc.freeze()  # statsmodels collects garbage at every correction by Holm
    cell, rows = CELLS[name], []
    signs = np.random.default_rng(2).choice([-1.0, 1.0], NEURONS)
    kinds = [families(cell, d, n_repeats) for d in (0, DETECTORS)]
    for test in tests_of(cell):
        noise, planted = (kind[test] for kind in kinds)
        if np.isnan(noise).all():
            rows.append({"cell": name, "test": test, "correction": "refuses"})
            continue
        rows.append({"cell": name, "test": test, "correction": "none", **sizes(noise, planted)})
        for correction in corrections:
            try:
                noted, hits = ([called(p, correction, signs) for p in kind]
                               for kind in (noise, planted))  # fmt: skip
            except FeatlabError:
                continue
            row = rates(noted, hits)
            rows.append({"cell": name, "test": test, "correction": correction} | row)
            rows[-1]["above"] = above(row)
    if not cell.weighted:
        case = {"cell": name, "test": "mannwhitneyu", "correction": "max_t"}
        try:
            row = rates(*(by_max_t(cell, d, n_repeats) for d in (0, DETECTORS)))
            rows.append(case | row | {"above": above(row)})
        except FeatlabError:
            rows.append(case | {"above": ""})
    return pd.DataFrame(rows)


OMNIBUS: dict[str, list[list[int]]] = {
    "10, 30, 90 images": [[1] * 10, [1] * 30, [1] * 90],
    "5, 5, 5 images": [[1] * 5] * 3,
    "8 groups of 20 each": [[20] * 8] * 3,
    "5 groups of 20 each": [[20] * 5] * 3,
    "60 images of each, 5 pairs": [[1] * 50 + [2] * 5] * 3,
}


def omnibus(name: str, shape: str, test: str, n_families: int) -> dict[str, float]:
    """Size of `compare_classes` on null neurons, over alpha."""
    per_class = OMNIBUS[name]
    own = [size for sizes in per_class for size in sizes]
    cell = Cell(own, [], shape, icc=0.3 if max(own) > 2 else 0.9)
    values = cell.draw(np.random.default_rng(3), n_families, 0)
    classes = np.repeat(np.arange(len(per_class)), [sum(sizes) for sizes in per_class])
    p = compare_classes(values, classes.astype(str), test=test, groups=cell.groups)["p"]
    return {
        "refuses": float(p.isna().mean()),
        **{f"size {a}": float((p.dropna() <= a).mean() / a) for a in (ALPHA, SMALL)},
    }


def main(n_repeats: int) -> None:
    print(f"{n_repeats} families of {NEURONS} neurons a cell, alpha = {ALPHA}")
    tables = []
    for name in CELLS:
        tables.append(run(name, n_repeats))
        table = tables[-1]
        for _, row in table[table["correction"].isin(["none", "refuses"])].iterrows():
            print(single_line(row), flush=True)
        marked = table[table.get("above", pd.Series("", table.index)).fillna("").ne("")]
        for _, row in marked.iterrows():
            print("    above:", row["test"], row["correction"], row["above"],
                  f"{row['FWER']:.3f} {row['FDR']:.3f}", flush=True)  # fmt: skip
    table = pd.concat(tables, ignore_index=True)
    known = table[~table["correction"].isin(["none", "refuses"])]
    print("\nover all cells: the largest FWER and FDR, mean power, cells, and cells above")
    grouped = known.groupby(["test", "correction"], sort=False)
    worst = grouped.agg(FWER=("FWER", "max"), FDR=("FDR", "max"), power=("power", "mean"))
    worst["cells"] = grouped["FWER"].count()
    worst["above"] = grouped["above"].agg(lambda s: (s != "").sum())
    print(worst.to_string(float_format="{:.3f}".format))
    count = max(1, n_repeats // 4)
    print(
        f"\nall classes at once: size over alpha at 0.05 and 0.0005 ({count * NEURONS:,} neurons)"
    )
    for name in OMNIBUS:
        for shape in ("normal", "10 %", "50 %"):
            for test in ("kruskal", "welch_anova"):
                row = omnibus(name, shape, test, count)
                print(f"{name:30s} {shape:8s} {test:12s} " + (
                    "refuses" if row["refuses"] == 1 else
                    f"{row['size 0.05']:.2f}  {row['size 0.0005']:.2f} {refused(row)}"
                ).rstrip(), flush=True)  # fmt: skip


def single_line(row: pd.Series) -> str:
    start = f"{row['cell']:38s} {row['test']:18s}"
    if row["correction"] == "refuses":
        return f"{start} refuses"
    over = " ".join(
        f"{row[f'size {a}']:.2f}"
        + ("!" if row[f"size {a}"] > 1 + 2 * row[f"error {a}"] + 1e-9 else " ")
        for a in (ALPHA, SMALL)
    )
    return f"{start} {over} power {row['power']:.2f} {refused(row)}".rstrip()


def refused(row: Mapping[str, float] | pd.Series) -> str:
    """In how many neurons there is no p, where it is half a percent or more."""
    return f"({row['refuses']:.0%} refused)" if row["refuses"] >= 0.005 else ""


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
