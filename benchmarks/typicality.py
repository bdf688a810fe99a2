"""Does `typicality` tell pictures of another kind, and does it keep its promise?

The model of each set is shown its own test images and the pictures of every other set, and, where
it has three classes or more, those of a class that it was fitted without. Several scores of
novelty are compared by the AUROC of the others against the own, the mean over draws of the split.
The promise: of the own test images at most 0.05 have a p-value of 0.05 or less.

The score is chosen on pairs within the sets given first (one half, rounded up), by the mean AUROC;
the other pairs report. Sets whose names begin alike up to a ``_`` show the same kind of things
(``pets_breeds``, ``pets_cat_dog``); such pairs are printed and not counted.

Without arguments two sets of built-in scenes are made, which show that it runs.

    python benchmarks/typicality.py fruit=runs/fruit/maps.h5 pets_cat=runs/pets/maps.h5 …
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from limits import say
from scenes import given_stores
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featlab.predict._parts import Typicality, novelty_of, one_of_each, unit_rows
from featlab.splits import make_split
from featlab.store import MapStore

MOST = 300  # pictures of another set
LEVEL = 0.05
Score = Callable[[np.ndarray], np.ndarray]


def neighbours(X: np.ndarray, labels: np.ndarray) -> Score:
    """The predictor's own: 1 minus the cosine with the fifth nearest (Sun et al. 2022)."""
    return partial(novelty_of, unit_rows(X))


def mahalanobis(X: np.ndarray, labels: np.ndarray) -> Score:
    """Squared distance to the nearest class, one covariance, shrunk (Lee et al. 2018).

    Of rows of length 1.
    """
    X = unit_rows(X)
    names, codes = np.unique(labels, return_inverse=True)
    centres = np.stack([X[codes == k].mean(axis=0) for k in range(len(names))])
    precision = LedoitWolf(assume_centered=True).fit(X - centres[codes]).precision_

    def score(new: np.ndarray) -> np.ndarray:
        gaps = unit_rows(new)[:, None] - centres
        return ((gaps @ precision) * gaps).sum(axis=2).min(axis=1)

    return score


def residual(X: np.ndarray, labels: np.ndarray) -> Score:
    """What lies outside nine tenths of the train variance (as in ViM, Wang et al. 2022)."""
    X = unit_rows(X)
    middle = X.mean(axis=0)
    _, sizes, axes = np.linalg.svd(X - middle, full_matrices=False)
    share = np.cumsum(sizes**2) / (sizes**2).sum()
    kept = axes[: min(int(np.searchsorted(share, 0.9)) + 1, len(X) // 2)]

    def score(new: np.ndarray) -> np.ndarray:
        gaps = unit_rows(new) - middle
        return np.linalg.norm(gaps - gaps @ kept.T @ kept, axis=1)

    return score


def energy(X: np.ndarray, labels: np.ndarray) -> Score:
    """Minus the log of the summed exponentials of the head's scores (Liu et al. 2020)."""
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(X, labels)

    def score(new: np.ndarray) -> np.ndarray:
        scores = head.decision_function(new)
        scores = np.column_stack([-scores / 2, scores / 2]) if scores.ndim == 1 else scores
        return -logsumexp(scores, axis=1)

    return score


SCORES = {
    "neighbours": neighbours,
    "mahalanobis": mahalanobis,
    "residual": residual,
    "energy": energy,
}


def asked(
    images: pd.DataFrame, X: np.ndarray, others: dict[str, np.ndarray], seed: int
) -> list[dict[str, object]]:
    """A row a score and kind of pictures: AUROC against own test images, shares that stand out."""
    labels, groups = (images[name].to_numpy(str) for name in ("label", "group"))
    split = make_split(images, random_state=seed).to_numpy(str)
    names, rows = np.unique(labels), []
    for left_out in [None, *(names if len(names) > 2 else [])]:
        known = labels != left_out
        train, test = (np.flatnonzero(known & (split == side)) for side in ("train", "test"))
        confirm = one_of_each(np.flatnonzero(known & (split == "confirm")), groups, seed)
        foreign = others if left_out is None else {"a class left out": X[~known]}
        for name, fit in SCORES.items():
            novelty = fit(X[train], labels[train])
            usual, own = novelty(X[confirm]), novelty(X[test])
            for other, pictures in foreign.items():
                new = novelty(pictures)
                truth = np.repeat([0, 1], [len(own), len(new)])
                rows.append(
                    {
                        "pictures": other,
                        "score": name,
                        "auroc": roc_auc_score(truth, np.concatenate([own, new])),
                        "alarms": (p_values(usual, own) <= LEVEL).mean(),
                        "told": (p_values(usual, new) <= LEVEL).mean(),
                        "n_calibrated": len(confirm),
                    }
                )
    return rows


def p_values(usual: np.ndarray, new: np.ndarray) -> np.ndarray:
    """As the predictor makes them of novelties."""
    return Typicality(np.zeros((0, 0), np.float32), usual).of_novelty(new)


def main(arguments: list[str], draws: int) -> pd.DataFrame:
    """AUROC of each model (and pictures) by each score, the mean over draws."""
    features, tables = {}, {}
    for name, path, _ in given_stores(arguments, 80, 120):
        with MapStore(path) as store:
            features[name], tables[name] = store.pooled(), store.images
    rows = []
    for name, X in features.items():
        others = {
            other: own[:: -(-len(own) // MOST)] for other, own in features.items() if other != name
        }
        for seed in range(draws):
            rows += [{"model": name} | row for row in asked(tables[name], X, others, seed)]
    table = pd.DataFrame(rows)
    pairs = table.pivot_table(
        index=["model", "pictures"], columns="score", values="auroc", sort=False
    )[list(SCORES)]
    own = table[table["score"] == "neighbours"].groupby(["model", "pictures"], sort=False)
    summary = pairs.assign(**own[["told", "alarms", "n_calibrated"]].mean())
    print(summary.to_string(float_format="{:.3f}".format))
    first = list(features)[: -(-len(features) // 2)]
    kinds = [tuple(one.split("_")[0] for one in pair) for pair in pairs.index]
    other = np.array([a != b and not b.startswith("a class") for a, b in kinds])
    choice = other & [a in first and b in first for a, b in pairs.index]
    subsets = {"pairs to choose on": choice, "other pairs": other & ~choice}
    subsets["classes left out"] = pairs.index.get_level_values("pictures") == "a class left out"
    for words, some in subsets.items():
        if some.any():
            print(f"{words} ({some.sum()}): {pairs[some].mean().round(3).to_dict()}")
    say(
        f"typicality at most {LEVEL} of own test images, mean over sets",
        float(own["alarms"].mean().groupby("model").first().mean()),
        "<=",
        LEVEL + 0.02,
    )
    return summary


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", nargs="*", metavar="NAME=STORE")
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    main(given.stores, given.draws)
