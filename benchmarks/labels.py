"""Are wrong labels told from classes that overlap? The line of the audit on sets of a known truth.

    python benchmarks/labels.py [seeds]            # Gaussian classes
    python benchmarks/labels.py [seeds] STORE …    # labels of real sets, some turned into others

Wanted: correct labels pass, however the classes overlap; a share of 5 or 10 % fails where the
classes can be told.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

from featlab.audit._labels import Agreement, contradicted, labels_line
from featlab.features import feature_table
from featlab.results.images import Finding
from featlab.store import MapStore

WRONG = (0.0, 0.05, 0.1, 0.2)


def flipped(codes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The labels with a share of them turned into those of another class."""
    rng, k = np.random.default_rng([seed, 1]), int(codes.max()) + 1
    rows = rng.permutation(len(codes))[: round(share * len(codes))]
    labels = codes.copy()
    labels[rows] = (labels[rows] + rng.integers(1, k, len(rows))) % k
    return labels


def gaussian(n: int, k: int, gap: float, wrong: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes in forty dimensions, whose centres lie about `gap` times 3.2 apart."""
    rng, codes = np.random.default_rng(seed), np.arange(n) % k
    centres = gap * rng.normal(size=(k, 40)) * np.sqrt(10 / 80)
    return centres[codes] + rng.normal(size=(n, 40)), flipped(codes, wrong, seed)


def judged(X: np.ndarray, labels: np.ndarray) -> tuple[Agreement, Finding]:
    """How labels and predictions agree, and the line of the audit, from one fit."""
    errors, agreement = contradicted(X, labels.astype(str), None, 0)
    return agreement, labels_line(errors, len(X), agreement)


def _row(name: str, sets: list[tuple[np.ndarray, np.ndarray]]) -> None:
    every, findings = zip(*(judged(X, labels) for X, labels in sets), strict=True)
    verdicts = [finding.verdict for finding in findings]
    shares = ", ".join(f"{100 * one.wrong:.0f}" for one in every)
    print(
        f"{name:40s} accuracy {np.mean([one.accuracy for one in every]):.2f}, told wrong {shares} "
        f"%: {', '.join(f'{word} {verdicts.count(word)}' for word in ('pass', 'warn', 'fail'))}",
        flush=True,
    )


def main(seeds: int, stores: list[str]) -> None:
    for path in stores:
        with MapStore(path) as store:
            X, codes = feature_table(store).to_numpy(), pd.factorize(store.images["label"])[0]
        for wrong in WRONG:
            sets = [(X, flipped(codes, wrong, seed)) for seed in range(seeds)]
            _row(f"{path}, {wrong:.0%} wrong", sets)
    for n, k in ((200, 2), (300, 3), (600, 6)) if not stores else ():
        for gap in (0.5, 1.0, 1.5, 2.0, 3.0):
            for wrong in WRONG:
                sets = [gaussian(n, k, gap, wrong, seed) for seed in range(seeds)]
                _row(f"{n} images of {k}, gap {gap}, {wrong:.0%} wrong", sets)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:])
