"""Boxes that nobody drew: methods that learn from labels alone, beside the baselines.

    python benchmarks/student.py [NAME=STORE[:KIND] ...] [--seeds 0,1]

For each set and split: MaxBoxAccV2 on the test rows of every method that learns from labels or from
nothing, of the best baseline, and, as the bound of what these cells can draw, of the cells that
true boxes of train taught; the seconds that fitting the student takes. Then box accuracy with the
threshold of ``localise.methods.untuned`` beside that which confirm boxes choose. Where a
store has several layers they are fused. Without arguments two sets of built-in scenes are made,
which show that it runs.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pandas as pd
from scenes import given_stores

from featlab.features import feature_table
from featlab.heads import evaluate_heads
from featlab.localise import evaluate_localisation
from featlab.localise.fitting import fit_methods
from featlab.localise.methods import untuned
from featlab.pipeline.detectors import class_weights, find_detectors
from featlab.splits import make_split
from featlab.store import MapStore

FROM_LABELS = ("detectors", "cam_positive", "cell_head", "sum", "ddt", "fusion", "student")
BOUND = "cell_boxes"
V2 = "max_box_acc_v2"


def of_split(path: str, kind: str | None, seed: int) -> dict[str, float]:
    """The scores of one set under one split."""
    with MapStore(path) as store:
        labels, groups = store.images["label"], store.images["group"]
        split = make_split(store.images, random_state=seed)
        tables = {layer: feature_table(store, layer=layer) for layer in store.layers}
        known = {
            "neurons": find_detectors(
                list(tables.values()), labels, split, groups, random_state=seed
            ),
            "weights": {
                layer: class_weights(
                    evaluate_heads(X, labels, split, heads=("logistic",), groups=groups)
                )
                for layer, X in tables.items()
            },
            "layer": store.layers,
            "random_state": seed,
        }
        start = time.perf_counter()
        fit_methods(store, split == "train", "student", boxes=store.boxes, **known)
        seconds = time.perf_counter() - start
        scored = evaluate_localisation(
            store, split, methods=(*FROM_LABELS, BOUND), box_kind=kind, **known
        )
        method, threshold = untuned(store, scored.fitted)
    table = scored.table.set_index("method")
    row = {name: float(table[V2].get(name, np.nan)) for name in FROM_LABELS}
    row["baseline"] = float(table.loc[table["baseline"].astype(bool), V2].max())
    row[BOUND] = float(table[V2].get(BOUND, np.nan))
    curve = scored.curves.query("delta == 0.5 and method == @method").set_index("threshold")
    row["untuned"] = float(curve["accuracy"].iloc[np.abs(curve.index - threshold).argmin()])
    row["on_confirm"] = float(table.loc[method, "box_accuracy"])
    return row | {"n": int(table["n"].iloc[0]), "fit_s": seconds}


def main(arguments: list[str]) -> pd.DataFrame:
    """A row for each set: means over the splits, and their spread for the student."""
    seeds = [0]
    if "--seeds" in arguments:
        place = arguments.index("--seeds")
        seeds = [int(seed) for seed in arguments[place + 1].split(",")]
        arguments = arguments[:place] + arguments[place + 2 :]
    rows = []
    for name, path, kind in given_stores(arguments, 80, 120):
        splits = pd.DataFrame([of_split(path, kind, seed) for seed in seeds])
        sd = float(splits["student"].std(ddof=0))
        rows.append({"set": name, **splits.mean().to_dict(), "student_sd": sd})
        print(pd.DataFrame(rows[-1:]).to_string(index=False, float_format="{:.3f}".format))
        sys.stdout.flush()
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
