"""Boxes that nobody drew: methods that learn from labels alone, beside the baselines.

    python benchmarks/student.py [NAME=STORE[:KIND] ...] [--seeds 0,1]

For each set and split: MaxBoxAccV2 on the test rows of every method that learns from labels or from
nothing, of the best baseline, and, as the bound of what these cells can draw, of the cells that
true boxes of train taught; the seconds that fitting the student takes. ``own_threshold`` is what
the student's maps would find if each picture had its own best threshold, ``cells`` what boxes along
the borders of the finest layer's cells could. Then box accuracy with the threshold of
``localise.methods.untuned`` beside that which confirm boxes choose. Where a
store has several layers they are fused. Without arguments two sets of built-in scenes are made,
which show that it runs.
"""

from __future__ import annotations

import itertools
import sys
import time

import numpy as np
import pandas as pd
from scenes import given_stores

from featlab.arguments import true_boxes
from featlab.boxes.geometry import CORNERS, iou, picture_to_frame
from featlab.boxes.scores import max_box_acc_v2
from featlab.features import feature_table
from featlab.heads import evaluate_heads
from featlab.localise import evaluate_localisation
from featlab.localise.fitting import fit_methods
from featlab.localise.heat import heat_maps, picture_sizes
from featlab.localise.methods import untuned
from featlab.localise.regions import score_heats
from featlab.pipeline.detectors import class_weights, find_detectors
from featlab.results.localisation import Localisation
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
        row = bounds(store, split, scored, kind)
    table = scored.table.set_index("method")
    row |= {name: float(table[V2].get(name, np.nan)) for name in FROM_LABELS}
    row["baseline"] = float(table.loc[table["baseline"].astype(bool), V2].max())
    row[BOUND] = float(table[V2].get(BOUND, np.nan))
    curve = scored.curves.query("delta == 0.5 and method == @method").set_index("threshold")
    row["untuned"] = float(curve["accuracy"].iloc[np.abs(curve.index - threshold).argmin()])
    row["on_confirm"] = float(table.loc[method, "box_accuracy"])
    return row | {"n": int(table["n"].iloc[0]), "fit_s": seconds}


def bounds(store: MapStore, split: pd.Series, scored: Localisation, kind: str | None) -> dict:
    """V2 of the best threshold of each test picture, and of the best box along cells' borders."""
    boxes = true_boxes(store.images, store.boxes, kind)
    rows = np.intersect1d(np.flatnonzero(split == "test"), boxes["image"])
    boxes = boxes[boxes["image"].isin(rows)]
    owner = np.searchsorted(rows, boxes["image"])
    frames, sizes = np.asarray(store.frames)[rows], picture_sizes(store)[rows]
    heat = heat_maps(store, rows, scored.fitted, methods="student")["student"]
    corners = boxes[CORNERS].to_numpy(float)
    ious = score_heats(heat, corners, owner, frames=frames, sizes=sizes).iou_any.max(axis=1)
    cells = np.max([store.map_shape(layer)[:2] for layer in store.layers], axis=0)[[1, 0, 1, 0]]
    placed = picture_to_frame(corners, frames[owner], sizes[owner]) * cells
    sides = np.array(list(itertools.product((np.floor, np.ceil), repeat=4)))
    along = [np.stack([way(x) for way, x in zip(ways, placed.T, strict=True)], 1) for ways in sides]
    of_box = np.max([iou(one, placed) for one in along], axis=0)
    of_picture = pd.Series(of_box).groupby(owner).max().to_numpy()
    return {"own_threshold": max_box_acc_v2(ious[:, None]).item(),
            "cells": max_box_acc_v2(of_picture[:, None]).item()}  # fmt: skip


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
