"""Do the 95 % intervals hold the truth 95 times in 100?

Every cell draws data of a known truth again and again, asks featlab for the interval, and counts.

    python benchmarks/interval_coverage.py [repeats] [words of the cells]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy.stats import norm

from featlab.arguments import feature_columns
from featlab.audit._confounds import adjusted_effects
from featlab.boxes.scores import max_box_acc, pxap
from featlab.heads import cross_validate_heads
from featlab.heads.scores import scores_of
from featlab.intervals import bootstrap_draws, draws_interval, mean_interval
from featlab.neurons import confirm_neurons
from featlab.neurons.rank_statistics import auroc_interval, clustered_auroc, rank_statistics

# From a generator and a number of repeats: lows, highs and the truth.
Cell = Callable[[Generator, int], tuple[Any, Any, Any]]

NOMINAL, WANTED = 0.95, 0.93
CELLS: dict[str, Cell] = {}


def measured(cell: Cell, *, n_repeats: int, seed: int = 0) -> dict[str, float]:
    """Share of the repeats whose interval holds the truth, and the mean width.

    A repeat without an interval (NaN) counts in neither; ``known`` is the share that has one.
    """
    low, high, truth = (np.asarray(x, float) for x in cell(np.random.default_rng(seed), n_repeats))
    known = ~np.isnan(low)
    covered = ((low - 1e-9 <= truth) & (truth <= high + 1e-9))[known]
    share = float(covered.mean()) if known.any() else float("nan")
    return {
        "nominal": NOMINAL,
        "covered": share,
        "error": float(np.sqrt(NOMINAL * (1 - NOMINAL) / max(known.sum(), 1))),
        "width": float((high - low)[known].mean()) if known.any() else float("nan"),
        "known": float(known.mean()),
    }


def each(
    draw: Callable[[Generator], tuple[float, float]], truth: float | Callable[[], float]
) -> Cell:
    """A cell from one interval at a time; a truth that takes work is a function, called then."""

    def cell(rng: Generator, n_repeats: int) -> tuple[Any, Any, Any]:
        low, high = np.array([draw(rng) for _ in range(n_repeats)]).T
        return low, high, truth() if callable(truth) else truth

    return cell


# ------------------------------------------------------------------------------------- AUROC


def auroc(n: int, n_ref: int, truth: float, *, sd: float = 1.0, digits: int | None = None) -> Cell:
    shift = norm.ppf(truth) * np.sqrt(1 + sd**2)

    def known() -> float:
        if digits is None:
            return truth
        # Rounding ties pairs; the truth is that of many rounded images.
        rng = np.random.default_rng(0)
        grid = (np.round(rng.normal(m, s, 200_000), digits) for m, s in ((shift, sd), (0, 1)))
        pair = rank_statistics(np.concatenate([*grid])[:, None], np.repeat([1, 0], 200_000), 2)
        return float(pair.auroc[1, 0])

    def cell(rng: Generator, n_repeats: int) -> tuple[Any, Any, Any]:
        inside = np.arange(n + n_ref) < n
        values = rng.normal(size=(n + n_ref, n_repeats))
        values[:n] = shift + sd * values[:n]
        values = values if digits is None else values.round(digits)
        low, high = auroc_interval(rank_statistics(values, inside.astype(np.intp), 2))
        return low[1], high[1], known()

    return cell


def sparse(n: int, n_ref: int, fires: float, fires_ref: float) -> Cell:
    """A neuron that is 0 in most images."""

    def cell(rng: Generator, n_repeats: int) -> tuple[Any, Any, Any]:
        inside = np.arange(n + n_ref) < n
        chance = np.where(inside, fires, fires_ref)[:, None]
        values = (rng.random((n + n_ref, n_repeats)) < chance) * rng.exponential(
            size=(n + n_ref, n_repeats)
        )
        low, high = auroc_interval(rank_statistics(values, inside.astype(np.intp), 2))
        return low[1], high[1], 0.5 + (fires - fires_ref) / 2

    return cell


def clustered(sizes: list[int], sizes_ref: list[int], truth: float, icc: float) -> Cell:
    unit = np.repeat(np.arange(len(sizes) + len(sizes_ref)), [*sizes, *sizes_ref])
    inside = unit < len(sizes)

    def cell(rng: Generator, n_repeats: int) -> tuple[Any, Any, Any]:
        shared = np.sqrt(icc) * rng.normal(size=(unit.max() + 1, n_repeats))[unit]
        values = shared + np.sqrt(1 - icc) * rng.normal(size=shared.shape)
        values[inside] += norm.ppf(truth) * np.sqrt(2)
        return *clustered_auroc(values, inside, unit).limits(), truth

    return cell


def confirmed(n: int, n_ref: int, truth: float, correction: str = "holm") -> Cell:
    """Of the confirmed only; 50 independent neurons a family."""

    def cell(rng: Generator, n_repeats: int) -> tuple[Any, Any, Any]:
        y, neurons = np.repeat(["a", "b"], [n, n_ref]), 50
        table = pd.DataFrame({"layer": "features", "pooling": "mean", "reference": "",
                              "neuron": np.arange(neurons), "direction": "active",
                              "auroc": 0.9})  # fmt: skip
        both = [table.assign(**{"class": c, "detector": c == "a"}) for c in "ab"]
        table, parts = pd.concat(both), []
        for _ in range(max(2, n_repeats // 10)):
            X = rng.normal(size=(n + n_ref, neurons))
            X[:n] += norm.ppf(truth) * np.sqrt(2)
            judged = confirm_neurons(table, X, y, correction=correction)
            parts.append(judged[judged["confirmed"]])
        held = pd.concat(parts)
        return held["auroc_adjusted_low"], held["auroc_adjusted_high"], truth

    return cell


for size in ((5, 5), (15, 15), (20, 20), (100, 100), (10, 190), (5, 95)):
    for value in (0.5, 0.8, 0.95, 0.99):
        CELLS[f"AUROC {value}, {size[0]} + {size[1]}"] = auroc(*size, value)
for size in ((20, 20), (10, 190)):
    CELLS[f"AUROC 0.9, {size[0]} + {size[1]}, whole numbers"] = auroc(*size, 0.9, digits=0)
    CELLS[f"AUROC 0.9, {size[0]} + {size[1]}, class spread 2"] = auroc(*size, 0.9, sd=2.0)
    CELLS[f"AUROC 0.64, {size[0]} + {size[1]}, fires in 30 : 2 %"] = sparse(*size, 0.3, 0.02)
for k in (3, 5, 10, 20):
    for value in (0.8, 0.95):
        CELLS[f"AUROC {value}, {k} + {k} groups of 20, ICC 0.3"] = clustered(
            [20] * k, [20] * k, value, 0.3
        )
CELLS["AUROC 0.95, 5 + 5 groups of 20, ICC 0.8"] = clustered([20] * 5, [20] * 5, 0.95, 0.8)
for value in (0.8, 0.95):
    CELLS[f"AUROC {value}, 5 groups of 40 + 5 of 4, ICC 0.3"] = clustered(
        [40] * 5, [4] * 5, value, 0.3
    )
    CELLS[f"AUROC {value}, 3 groups of 50 + 20 of 3, ICC 0.3"] = clustered(
        [50] * 3, [3] * 20, value, 0.3
    )
    CELLS[f"AUROC {value}, 5 groups of 40 + 30 images, ICC 0.3"] = clustered(
        [40] * 5, [1] * 30, value, 0.3
    )
for value in (0.65, 0.75, 0.9):
    CELLS[f"AUROC {value} of the confirmed (holm), 15 + 15"] = confirmed(15, 15, value)
CELLS["AUROC 0.75 of the confirmed (fdr_bh), 15 + 15"] = confirmed(15, 15, 0.75, "fdr_bh")


# --------------------------------------------------------------------------- means over images


def share(n: int, truth: float) -> Cell:
    return each(lambda rng: mean_interval(rng.random(n) < truth), truth)


def grouped_share(sizes: list[int], truth: float, icc: float = 0.3) -> Cell:
    """Beta-binomial: accuracy, box accuracy, recall, pointing."""
    a, b = truth * (1 - icc) / icc, (1 - truth) * (1 - icc) / icc
    groups = np.repeat(np.arange(len(sizes)), sizes).astype(str)
    return each(
        lambda rng: mean_interval(
            rng.random(len(groups)) < np.repeat(rng.beta(a, b, len(sizes)), sizes), groups=groups
        ),
        truth,
    )


def mean_iou(n: int, missed: float, a: float = 6.0, b: float = 2.5) -> Cell:
    """IoU of which a share is 0 and the rest a beta variable."""
    return each(
        lambda rng: mean_interval(rng.beta(a, b, n) * (rng.random(n) >= missed)),
        (1 - missed) * a / (a + b),
    )


def brier(n: int) -> Cell:
    """0.02 nine times in ten, else 1.2."""
    return each(
        lambda rng: mean_interval(np.where(rng.random(n) < 0.9, 0.02, 1.2), span=(0, 2)), 0.138
    )


def difference(n: int, only_a: float, only_b: float) -> Cell:
    chances = [only_a, only_b, 1 - only_a - only_b]
    return each(
        lambda rng: mean_interval(rng.choice([1, -1, 0], n, p=chances), span=(-1, 1)),
        only_a - only_b,
    )


def grouped_difference(k: int, size: int) -> Cell:
    """A group's images agree: one head is better in a share of them that varies by group."""
    groups = np.repeat(np.arange(k), size).astype(str)

    def draw(rng: Generator) -> tuple[float, float]:
        a, b = (np.repeat(rng.beta(p * 2, (1 - p) * 2, k), size) for p in (0.8, 0.7))
        gaps = (rng.random(k * size) < a).astype(int) - (rng.random(k * size) < b)
        return mean_interval(gaps, groups=groups, span=(-1, 1))

    return each(draw, 0.1)


for n in (5, 10, 20, 50, 100):
    for value in (0.5, 0.8, 0.95):
        CELLS[f"accuracy {value}, {n} images"] = share(n, value)
for k in (2, 3, 5, 10, 20):
    for value in (0.8, 0.95):
        CELLS[f"accuracy {value}, {k} groups of 20, ICC 0.3"] = grouped_share([20] * k, value)
CELLS["accuracy 0.8, groups of 100, 50, 20, 10, 5, 1"] = grouped_share([100, 50, 20, 10, 5, 1], 0.8)
CELLS["accuracy 0.8, 1 group of 20"] = grouped_share([20], 0.8)
for n in (5, 10, 20, 50):
    for missed in (0.0, 0.05, 0.1, 0.3):
        CELLS[f"mean IoU, {n} images, {100 * missed:.0f} % missed"] = mean_iou(n, missed)
    CELLS[f"mean IoU, {n} images, 10 % missed, else 0.93"] = mean_iou(n, 0.1, 20, 1.5)
for n in (10, 50):
    CELLS[f"Brier score, {n} images"] = brier(n)
for n, one, other in ((20, 0.2, 0.1), (100, 0.05, 0.0), (100, 0.15, 0.05), (100, 0.02, 0.02)):
    CELLS[f"difference of accuracies {one} - {other}, {n} images"] = difference(n, one, other)
for k in (5, 10):
    CELLS[f"difference of accuracies 0.8 - 0.7, {k} groups of 10"] = grouped_difference(k, 10)


# ----------------------------------------------------------------- scores that are no simple mean


def head(sizes: list[int], shift: float, score: str) -> Cell:
    """Gaussian classes, a quadratic one in each direction of its own; scores of the true rule."""
    y = np.repeat(np.arange(len(sizes)), sizes)

    def probabilities(rng: Generator, codes: np.ndarray) -> np.ndarray:
        logits = rng.normal(size=(len(codes), len(sizes)))
        logits[np.arange(len(codes)), codes] += shift
        chance = np.exp(logits * max(shift, 1))
        return chance / chance.sum(axis=1, keepdims=True)

    def truth() -> float:
        many = np.repeat(np.arange(len(sizes)), 20_000)
        return scores_of(many, probabilities(np.random.default_rng(0), many), n_boot=2)[score]

    def draw(rng: Generator) -> tuple[float, float]:
        scores = scores_of(y, probabilities(rng, y))
        return scores[f"{score}_low"], scores[f"{score}_high"]

    return each(draw, truth)


def oracle(n: int) -> Cell:
    """MaxBoxAcc: the threshold is chosen on the scored images, in every draw."""

    def ious(rng: Generator, m: int) -> np.ndarray:
        peak = rng.beta(4, 3, (m, 1))
        return np.clip(peak - np.abs(np.linspace(-0.3, 0.3, 9) - rng.normal(0, 0.1, (m, 1))), 0, 1)

    def truth() -> float:
        return float(max_box_acc(ious(np.random.default_rng(0), 200_000)))

    def draw(rng: Generator) -> tuple[float, float]:
        values = ious(rng, n)
        return draws_interval(bootstrap_draws(lambda w: max_box_acc(values, weights=w), n), n)

    return each(draw, truth)


def pixels(n: int) -> Cell:
    """PxAP of images whose heat tells the object well, badly, or not at all."""

    def histograms(rng: Generator, m: int) -> np.ndarray:
        sharp, size = rng.gamma(2, 1.5, m), rng.integers(100, 500, m)
        on = rng.beta(1 + sharp[:, None], 1, (m, 60))
        beside = rng.beta(1, 1 + sharp[:, None], (m, 120))
        bins = np.linspace(0, 1, 21)
        count = lambda x: np.array([np.histogram(row, bins)[0] for row in x])  # noqa: E731
        return np.stack([count(on), count(beside)], axis=1) * size[:, None, None] / 300

    def truth() -> float:
        return float(pxap(histograms(np.random.default_rng(0), 20_000)))

    def draw(rng: Generator) -> tuple[float, float]:
        counts = histograms(rng, n)
        return draws_interval(bootstrap_draws(lambda w: pxap(counts, weights=w), n), n)

    return each(draw, truth)


for shift in (1.0, 2.0, 3.0):
    for score, words in (("balanced_accuracy", "balanced accuracy"), ("roc_auc", "AUROC of heads")):
        for sizes in ([10, 90], [20, 20, 20], [3] * 8):
            some = " + ".join(map(str, sizes)) if len(sizes) < 5 else "8 classes of 3"
            CELLS[f"{words}, {some} images, shift {shift:g}"] = head(sizes, shift, score)
for n in (10, 30, 100):
    CELLS[f"MaxBoxAcc (oracle), {n} images"] = oracle(n)
    CELLS[f"PxAP, {n} images"] = pixels(n)


# ------------------------------------------------------------- what several fits or draws give


def cross_validated(n: int, shift: float) -> Cell:
    """Five folds of the nearest centroid; the truth is that of a fit on four fifths."""
    y = np.arange(n) % 2

    def data(rng: Generator, codes: np.ndarray) -> np.ndarray:
        return rng.normal(size=(len(codes), 10)) + shift * (codes[:, None] == 1) / np.sqrt(10)

    def known() -> float:
        rng, share = np.random.default_rng(0), []
        many = np.arange(20_000) % 2
        for _ in range(100):
            part = np.arange(n * 4 // 5) % 2
            fit, X = data(rng, part), data(rng, many)
            centres = np.stack([fit[part == code].mean(axis=0) for code in (0, 1)])
            nearest = ((X[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
            share.append((nearest == many).mean())
        return float(np.mean(share))

    def draw(rng: Generator) -> tuple[float, float]:
        seed = int(rng.integers(2**31))
        given = cross_validate_heads(
            data(rng, y), y.astype(str), heads="nearest_centroid", random_state=seed
        )
        row = given.summary.set_index("head").loc["nearest_centroid"]
        return row["accuracy_low"], row["accuracy_high"]

    return each(draw, known)


def adjusted(n: int, own: float, groups: int = 0) -> Cell:
    """A neuron that sees brightness, which goes with the class, and the class itself by `own`."""
    y = np.arange(n) % 2
    names = None if not groups else np.array([f"g{i % (2 * groups)}" for i in range(n)])
    detectors = pd.DataFrame(
        {"layer": ["top"], "pooling": "mean", "class": "1", "neuron": 0}
    )  # fmt: skip

    def draw(rng: Generator) -> tuple[float, float]:
        units = 2 * groups or n
        shared = rng.normal(size=units)[np.arange(n) % units]
        light = rng.normal(size=n) + y
        values = light + own * y + np.sqrt(0.7) * rng.normal(size=n) + np.sqrt(0.3) * shared
        X = pd.DataFrame({("top", "mean", 0): values})
        X.columns = feature_columns("top", "mean", 1)
        table = adjusted_effects(
            X, y.astype(str), pd.DataFrame({"brightness": light}), detectors, groups=names
        )
        return tuple(table.loc[0, ["auroc_adjusted_low", "auroc_adjusted_high"]])

    return each(draw, float(norm.cdf(own / np.sqrt(2))))


def several(n: int, draws: int, mean: float, spread: float = 0.5) -> Cell:
    """Each image is right in some of the draws: random neurons, choices of train images."""
    a, b = mean * spread, (1 - mean) * spread
    return each(
        lambda rng: mean_interval(rng.binomial(draws, rng.beta(a, b, n)) / draws), mean
    )  # fmt: skip


def drop(n: int) -> Cell:
    """Average drop of a class's probability: none in half of the images, else a beta variable."""
    return each(lambda rng: mean_interval(rng.beta(0.6, 1.2, n) * (rng.random(n) < 0.5)), 0.5 / 3)


for n, shift in ((40, 1.0), (40, 2.0), (100, 2.0), (100, 3.0)):
    CELLS[f"accuracy of five folds, {n} images, shift {shift:g}"] = cross_validated(n, shift)
for n, own in ((40, 0.0), (40, 1.5), (100, 0.0), (100, 1.5)):
    CELLS[f"AUROC at like brightness, {n} images, shift {own:g}"] = adjusted(n, own)
CELLS["AUROC at like brightness, 10 + 10 groups of 5, shift 1.5"] = adjusted(100, 1.5, groups=10)
for n in (10, 30, 100):
    CELLS[f"box accuracy of ten random neurons, {n} images"] = several(n, 10, 0.1)
    CELLS[f"accuracy of five choices of train images, {n} images"] = several(n, 5, 0.9)
for n in (8, 24):
    CELLS[f"average drop, {n} images"] = drop(n)
for value in (0.9655, 0.985):
    CELLS[f"accuracy {value}, 200 images"] = share(200, value)
CELLS["accuracy 0.985, 198 images and a pair of copies"] = grouped_share([1] * 198 + [2], 0.985)
CELLS["difference of accuracies 0.015 - 0.0, 200 images"] = difference(200, 0.015, 0.0)
for value in (0.8, 0.95, 0.99):
    CELLS[f"AUROC {value}, 10 + 190, class spread 4"] = auroc(10, 190, value, sd=4.0)
CELLS["accuracy 0.9, 100 images with 3 pairs of copies"] = grouped_share([1] * 94 + [2] * 3, 0.9)

SHORT = [
    "AUROC 0.95, 20 + 20",
    "AUROC 0.95, 100 + 100",
    "AUROC 0.8, 10 + 190",
    "AUROC 0.95, 10 + 190",
    "AUROC 0.99, 10 + 190",
    "AUROC 0.95, 5 + 5 groups of 20, ICC 0.3",
    "AUROC 0.8, 3 groups of 50 + 20 of 3, ICC 0.3",
    "AUROC 0.75 of the confirmed (holm), 15 + 15",
    "accuracy 0.8, 3 groups of 20, ICC 0.3",
    "accuracy 0.8, 5 groups of 20, ICC 0.3",
    "accuracy 0.8, 10 groups of 20, ICC 0.3",
    "mean IoU, 5 images, 5 % missed",
    "mean IoU, 10 images, 5 % missed",
    "mean IoU, 20 images, 5 % missed",
    "balanced accuracy, 10 + 90 images, shift 2",
    "AUROC of heads, 10 + 90 images, shift 2",
]
"""Cells for the tests, which take seconds: those where a bootstrap or DeLong's interval is weak."""


def main(n_repeats: int, words: str = "") -> pd.DataFrame:
    rows = []
    for name, cell in ((name, cell) for name, cell in CELLS.items() if words in name):
        rows.append({"interval": name, **measured(cell, n_repeats=n_repeats)})
        row = rows[-1]
        mark = "  BELOW" if row["covered"] < WANTED else ""
        known = "" if row["known"] == 1 else f"  ({100 * row['known']:.0f} % have one)"
        print(
            f"{name:58s} {row['nominal']:.2f}  {row['covered']:.3f} ± {row['error']:.3f}"
            f"  {row['width']:.3f}{known}{mark}",
            flush=True,
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print(f"{repeats} repeats; nominal, found ± standard error, mean width")
    main(repeats, *sys.argv[2:3])
