"""Boxes where nobody drew one: what a rule that sees no boxes loses.

A set without boxes has nothing to choose a heat-map method and its threshold by. The rule here
takes the pair that is best on the *other* sets (mean box accuracy of their test images); the boxes
of the set itself only score. Beside it stand the pair that a predictor takes without boxes, and
what confirm images with boxes choose; the loss is against these.

Without arguments two sets of built-in scenes are made, which show that it runs.

    python benchmarks/untuned.py kangaroos=runs/kangaroo/maps.h5 heads=runs/pets/maps.h5:head …
"""

from __future__ import annotations

import sys

import pandas as pd
from scenes import given_stores

from featlab.features import feature_table
from featlab.heads import evaluate_heads
from featlab.localise import evaluate_localisation
from featlab.localise.methods import untuned
from featlab.pipeline.detectors import class_weights, find_detectors
from featlab.splits import make_split
from featlab.store import MapStore

METHODS = ("detectors", "cam", "cam_positive", "sum", "fusion", "student")
DELTA = 0.5
AIM = 0.03


def curves_of(path: str, kind: str | None) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, float]]:
    """Localisation table, box accuracy of each method at each threshold, the rule without boxes."""
    with MapStore(path) as store:
        labels, groups = store.images["label"], store.images["group"]
        split, X = make_split(store.images), feature_table(store)
        heads = evaluate_heads(X, labels, split, heads=("logistic",), groups=groups)
        localisation = evaluate_localisation(
            store,
            split,
            methods=METHODS,
            neurons=find_detectors(X, labels, split, groups),
            weights=class_weights(heads),
            box_kind=kind,
        )
        rule = untuned(store, localisation.fitted)
    curves = localisation.curves[localisation.curves["delta"] == DELTA]
    curves = curves.pivot_table(index="threshold", columns="method", values="accuracy")
    table = localisation.table.set_index("method")
    return table, curves[[name for name in METHODS if name in curves]], rule


def losses(
    tables: dict[str, pd.DataFrame],
    curves: dict[str, pd.DataFrame],
    rules: dict[str, tuple[str, float]],
) -> pd.DataFrame:
    """A row a set: box accuracy by each rule, and what the rules without boxes lose."""
    rows = []
    for name, own in curves.items():
        tuned = tables[name].loc[list(own)]
        best = tuned["box_accuracy_confirm"].astype(float).idxmax()
        others = [curve for other, curve in curves.items() if other != name]
        mean = sum(curve.reindex(columns=list(METHODS)) for curve in others) / len(others)
        method = mean[list(own)].max().idxmax()
        threshold = mean[method].idxmax()
        fixed = rules[name]
        rows.append(
            {
                "set": name,
                "n": int(tuned["n"].iloc[0]),
                "tuned_on_boxes": f"{best} {tuned['threshold'][best]:.2f}",
                "box_accuracy": float(tuned["box_accuracy"][best]),
                "best_elsewhere": f"{method} {threshold:.2f}",
                "loss": float(tuned["box_accuracy"][best] - own.loc[threshold, method]),
                "untuned": float(own.loc[fixed[1], fixed[0]]),
                "loss_untuned": float(tuned["box_accuracy"][best] - own.loc[fixed[1], fixed[0]]),
                "centre_gaussian": float(tables[name].loc["centre_gaussian", "box_accuracy"]),
            }
        )
    return pd.DataFrame(rows)


def main(arguments: list[str]) -> pd.DataFrame:
    """Losses of the sets that are given."""
    tables, curves, rules = {}, {}, {}
    for name, path, kind in given_stores(arguments, 80, 120):
        tables[name], curves[name], rules[name] = curves_of(path, kind)
        print(name, flush=True)
    table = losses(tables, curves, rules)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    within = (table[["loss", "loss_untuned"]] <= AIM).sum().to_dict()
    print(f"sets within {AIM}: {within} of {len(table)}; mean loss: ", end="")
    print(table[["loss", "loss_untuned"]].mean().round(3).to_dict())
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
