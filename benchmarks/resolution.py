"""What finer maps buy, and what they cost.

    python benchmarks/resolution.py [STORE.h5 ...] [--box-kind KIND]

For each finished store (one of built-in scenes without any): seconds of the pass per picture (the
fastest of a few batches of 8, measured here), MB on disk per 1,000 pictures, and how well boxes are
found on the test rows, with thresholds from the confirm rows. A store of several layers has a block
for each layer, and one for all of them fused; time and disk are those of the whole store. Seconds
come from one run on one machine; read them as ratios.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pandas as pd
from scenes import network_of, scene_store

from featlab import features, heads, localise, pipeline, splits
from featlab.arguments import origin_of
from featlab.store import MapStore

METHODS = ["detectors", "cam", "sum", "ddt", "cell_boxes"]
REFINED = ["ddt", "cell_boxes"]
COLUMNS = {
    "max_box_acc_v2": "V2",
    "max_box_acc": "MaxBoxAcc",
    "box_accuracy": "@val",
    "mean_iou": "mean IoU",
}
BATCH, REPEATS = 8, 5


def seconds_of_pass(store: MapStore) -> float:
    """The forward pass alone, per picture; the fastest of a few batches."""
    backbone = network_of(store, weights=None)  # Random weights cost the same time.
    shape = (BATCH, *backbone.input_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    backbone.forward(pixels)
    spent = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        backbone.forward(pixels)
        spent.append(time.perf_counter() - start)
    return min(spent) / BATCH


def blocks(store: MapStore, box_kind: str | None) -> list[pd.DataFrame]:
    """The scores of every layer alone and, where there are several, of all fused."""
    labels, groups = store.images["label"], store.images["group"]
    split = splits.make_split(store.images, random_state=0)
    tables = [features.feature_table(store, layer=layer) for layer in store.layers]
    neurons = pipeline.detectors.find_detectors(tables, labels, split, groups, random_state=0)
    weights = {}
    for X in tables:
        scores = heads.evaluate_heads(X, labels, split, groups=groups, heads=["logistic"])
        weights[origin_of(X)[0]] = pipeline.detectors.class_weights(scores)
    layers = [[layer] for layer in store.layers]
    layers += [store.layers] if len(store.layers) > 1 else []
    scored = []
    for some in layers:
        start = time.perf_counter()
        result = localise.evaluate_localisation(
            store,
            split,
            methods=METHODS,
            neurons=neurons,
            weights=weights,  # Of one layer in a list, too, they are taken by the layer's name.
            box_kind=box_kind,
            layer=some,
            options=localise.LocalisationOptions(refine=REFINED),
        )
        table = result.table[~result.table["baseline"]]
        maps = " + ".join("{} x {} x {}".format(*store.map_shape(layer)) for layer in some)
        print(f"  {', '.join(some)}: {time.perf_counter() - start:.0f} s", flush=True)
        scored.append(table.assign(maps=maps))
    return scored


def main(stores: list[Path], box_kind: str | None) -> None:
    rows = []
    for path in stores:
        with MapStore(path) as store:
            cost = {
                "input": str(store.provenance["input_size"]).split(" x ")[0],
                "s/image": seconds_of_pass(store),
                "MB/1000": path.stat().st_size / len(store) / 1000,
            }
            print(f"{path}: {len(store)} images, {cost['s/image']:.3f} s an image", flush=True)
            rows += [part.assign(**cost) for part in blocks(store, box_kind)]
    table = pd.concat(rows).rename(columns=COLUMNS)
    columns = ["input", "maps", "s/image", "MB/1000", "method", "n", *COLUMNS.values()]
    print(f"\ntest rows, {box_kind or 'all'} boxes")
    print(table[columns].round(3).to_string(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", nargs="*", type=Path)
    parser.add_argument("--box-kind")
    parser.add_argument("--images", type=int, default=240, help="scenes, where there is no store")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        main(given.stores or [scene_store(Path(work), given.images)], given.box_kind)
