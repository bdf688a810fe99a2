"""The fewest boxes: how many images must be boxed, as suggested or drawn at random.

From the boxes of finished stores: over many splits, `cell_boxes` learns from the first k train
images in the order of `featlab suggest`, and in a random one, and is scored on the test images
(V2). The boxes that are needed are those at which the mean over the splits reaches that of all
train images less 0.02, interpolated in the logarithm of k.

Without arguments a set of built-in scenes is made, which shows that it runs.

    python benchmarks/suggest.py kangaroos=runs/kangaroo/maps.h5 heads=runs/pets/maps.h5:head …
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from limits import say
from scenes import given_stores

from featlab.arguments import true_boxes
from featlab.embed import representatives
from featlab.features import feature_table
from featlab.pipeline.sets import box_curve
from featlab.splits import make_split
from featlab.store import MapStore

SIZES = (5, 10, 20, 40, 80)
LESS = 0.02
HALF = 0.5


def curves_of(path: str, kind: str | None, draws: int) -> pd.DataFrame:
    """V2 of every draw: a row for each order, split and number of boxes."""
    tables = []
    with MapStore(path) as store:
        X = feature_table(store)
        truth = true_boxes(store.images, store.boxes, kind)
        for seed in range(draws):
            split = make_split(store.images, random_state=seed)
            learnt = np.intersect1d(np.flatnonzero(split == "train"), truth["image"])
            orders = {
                "random": np.random.default_rng(seed).permutation(learnt),
                "suggested": representatives(X, len(learnt), rows=learnt)["row"].to_numpy(),
            }
            some = [size for size in SIZES if size < len(learnt)]
            for name, order in orders.items():
                # All there are is one choice in any order.
                sizes = [*some, len(learnt)] if name == "random" else some
                curve = box_curve(
                    store, split, sizes=sizes, orders=[order], box_kind=kind, n_boot=1
                )
                tables.append(curve.assign(order=name, seed=seed, all=len(learnt)))
    return pd.concat(tables, ignore_index=True)


def needed(mean: pd.Series, goal: float) -> float:
    """Boxes (index of `mean`, rising) from which V2 reaches the goal."""
    sizes, values = np.log(mean.index.to_numpy(float)), mean.to_numpy(float)
    place = int((values >= goal).argmax())
    if place == 0:
        return float(np.exp(sizes[0]))
    low, high = values[place - 1], values[place]
    share = (goal - low) / (high - low)
    return float(np.exp(sizes[place - 1] + share * (sizes[place] - sizes[place - 1])))


def summary(curves: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Mean V2 with its standard error by order (columns) and size; boxes as a share of random's."""
    size = curves["boxed"].where(curves["boxed"] < curves["all"], curves["all"].max())
    grouped = curves.groupby([size, "order"])["max_box_acc_v2"]
    table = grouped.agg(["mean", "sem"]).reset_index()
    table = table.pivot_table(index="boxed", columns="order", values=["mean", "sem"])
    mean = table["mean"].ffill(axis=1)  # random, suggested
    goal = float(mean.iloc[-1].mean()) - LESS
    boxes = {order: needed(mean[order], goal) for order in mean}
    print(table.to_string(float_format="{:.3f}".format))
    print(
        f"goal {goal:.3f}: {boxes['suggested']:.0f} boxes as suggested, "
        f"{boxes['random']:.0f} at random",
        flush=True,
    )
    return table, boxes["suggested"] / boxes["random"]


def main() -> None:
    """Print the curves of every set, and write them where `-o` says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", nargs="*", metavar="NAME=STORE[:KIND]")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path, help="CSV file for the V2 of every draw")
    given = parser.parse_args()
    tables = []
    for name, path, kind in given_stores(given.stores, 120):
        print(f"\n{name}")
        curves = curves_of(path, kind, given.draws)
        tables.append(curves.assign(set=name))
        _, share = summary(curves)
        say(f"{name}: boxes as suggested, as a share of those at random", share, "<=", HALF)
    if given.output is not None:
        pd.concat(tables).to_csv(given.output, index=False)


if __name__ == "__main__":
    main()
