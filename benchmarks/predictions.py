"""Do a predictor's answers equal the evaluation's, and do its sets of classes keep their promise?

Of each store: the predictions for the test images, from the picture files through the pass, against
classes and boxes of the evaluation (n, and how many differ); and the share of test images whose
class is in its set, at 0.9 and 0.8, the mean over splits, each with its own head.

Without arguments a set of built-in scenes is made, which shows that it runs.

    python benchmarks/predictions.py fruit=runs/fruit/maps.h5 pets=runs/pets/maps.h5:head …
"""

from __future__ import annotations

import argparse

import numpy as np
from limits import say
from scenes import given_stores

from featlab import pipeline
from featlab.boxes.geometry import CORNERS
from featlab.features import feature_table
from featlab.heads import evaluate_heads
from featlab.heads.saving import calibrated_head
from featlab.predict._parts import ClassSets, one_of_each
from featlab.splits import make_split
from featlab.store import MapStore

COVERAGES = (0.9, 0.8)


def differences(store: MapStore, kind: str | None) -> tuple[int, int, int, int]:
    """Test images, other classes; images with the right class and a true box, other boxes."""
    results = pipeline.analyse(store, box_kind=kind)
    predictor = results.predictions.predictor
    test = np.flatnonzero(results.split.to_numpy(str) == "test")
    files = [store.root / path for path in store.images["path"].iloc[test]]
    asked = predictor.predict(files).set_index(test)
    of_head = results.heads.of(results.heads.main).set_index("row").loc[test]
    classes = int((asked["class"] != of_head["predicted"]).sum())
    if predictor.box_head is None:
        scored = results.localisation.per_image
        scored = scored[scored["method"] == predictor.heat.method].set_index("row")
    else:
        scored = results.box_regression.per_image
        scored = scored[scored["head"] == predictor.box_method].set_index("row")
    rows = scored.index[(asked.loc[scored.index, "class"] == of_head.loc[scored.index, "label"])]
    gaps = (asked.loc[rows, CORNERS] - scored.loc[rows, CORNERS]).abs().max(axis=1)
    print(f"  boxes by {predictor.box_method}: largest difference {gaps.max():.2g} pixels")
    return len(test), classes, len(rows), int((gaps > 0).sum())


def realised(store: MapStore, draws: int) -> dict[float, tuple[float, float]]:
    """Coverage → its mean over splits and the standard deviation; NaN where it cannot be had."""
    labels, groups = (store.images[name].to_numpy(str) for name in ("label", "group"))
    X, shares = feature_table(store), {coverage: [] for coverage in COVERAGES}
    values = X.to_numpy()
    for seed in range(draws):
        split = make_split(store.images, random_state=seed)
        heads = evaluate_heads(
            X, labels, split, heads=("logistic",), groups=groups, random_state=seed, n_boot=20
        )
        sides = split.to_numpy(str)
        train = np.flatnonzero(sides == "train")
        head, _ = calibrated_head(
            heads.models["logistic"],
            values[train],
            labels[train],
            groups=groups[train],
            random_state=seed,
        )
        confirm, test = (
            one_of_each(np.flatnonzero(sides == side), groups, seed) for side in ("confirm", "test")
        )
        codes = np.searchsorted(head.classes_.astype(str), labels)
        of_confirm, of_test = (head.predict_proba(values[rows]) for rows in (confirm, test))
        own = ClassSets(1 - of_confirm[np.arange(len(confirm)), codes[confirm]], np.zeros(0))
        for coverage, kept in shares.items():
            inside = own.members(of_test, coverage)[np.arange(len(test)), codes[test]]
            kept.append(inside.mean())
    return {coverage: (np.mean(kept), np.std(kept)) for coverage, kept in shares.items()}


def main(arguments: list[str], draws: int, equality: bool) -> None:
    """Print both for the sets that are given."""
    least, different = 1.0, 0
    for name, path, kind in given_stores(arguments, 80):
        with MapStore(path) as store:
            if equality:
                n, classes, m, boxes = differences(store, kind)
                different += classes + boxes
                print(f"{name}: {n} classes, {classes} differ; {m} boxes, {boxes} differ")
            for coverage, (mean, spread) in realised(store, draws).items():
                least = min(least, mean / coverage)
                print(
                    f"{name}: {coverage} promised, {mean:.3f} ± {spread:.3f} kept ({draws} splits)",
                    flush=True,
                )
    if equality:
        say("predictions that differ from the evaluation's", different, "<=", 0)
    say("share of test images in their set / promised, least of all sets", least, ">=", 0.97)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", nargs="*", metavar="NAME=STORE[:KIND]")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--no-equality", dest="equality", action="store_false")
    given = parser.parse_args()
    main(given.stores, given.draws, given.equality)
