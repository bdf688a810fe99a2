"""What another engine or precision changes in the results: AUROC, detectors, boxes.

    python benchmarks/precision.py [FOLDER] [--box-kind KIND]

Extracts the folder (built-in scenes without one) with TensorFlow in float32, OpenVINO in float32
and in bfloat16 (EfficientNet-Lite0 at 224 px) and sets the other two beside the first: the largest
difference of a neuron's AUROC on the train rows, the share of detectors that both have (Jaccard
index), and the mean IoU of the two boxes that each method gives a test image, with its own mean IoU
with the truth.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pandas as pd

from featlab import (
    backbones,
    boxes,
    datasets,
    extract,
    features,
    heads,
    images,
    localise,
    pipeline,
    splits,
)
from featlab.store import MapStore

WAYS = {
    "tensorflow float32": ("tensorflow", "float32"),
    "openvino float32": ("openvino", "float32"),
    "openvino bfloat16": ("openvino", "bfloat16"),
}
METHODS = ("detectors", "cam", "sum")
CORNERS = ["xmin", "ymin", "xmax", "ymax"]


def results(store: MapStore, kind: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The neuron table, and the box of each method on each test image."""
    labels, groups = store.images["label"], store.images["group"]
    split = splits.make_split(store.images, random_state=0)
    X = features.feature_table(store)
    neurons = pipeline.detectors.find_detectors(X, labels, split, groups, random_state=0)
    scores = heads.evaluate_heads(X, labels, split, groups=groups, heads=["logistic"])
    where = localise.evaluate_localisation(
        store,
        split,
        methods=METHODS,
        neurons=neurons,
        weights=pipeline.detectors.class_weights(scores),
        box_kind=kind,
    )
    return neurons, where.per_image[where.per_image["method"].isin(METHODS)]


def differences(
    first: tuple[pd.DataFrame, pd.DataFrame], other: tuple[pd.DataFrame, pd.DataFrame]
) -> dict[str, float]:
    key = ["class", "neuron"]
    both = first[0].merge(other[0], on=key, suffixes=("", "_other"))
    known = both["detector"].eq(True) | both["detector_other"].eq(True)
    shared = both["detector"].eq(True) & both["detector_other"].eq(True)
    numbers = {
        "largest AUROC difference": (both["auroc"] - both["auroc_other"]).abs().max(),
        "detectors": both["detector_other"].eq(True).sum(),
        "detectors that agree": shared.sum() / max(known.sum(), 1),
    }
    pairs = first[1].merge(other[1], on=["method", "row"], suffixes=("", "_other"))
    same = boxes.iou(
        pairs[CORNERS].to_numpy(float), pairs[[f"{x}_other" for x in CORNERS]].to_numpy(float)
    )
    for method, group in pairs.assign(same=same).groupby("method", sort=False):
        numbers[f"{method}: IoU of the two boxes"] = group["same"].mean()
        numbers[f"{method}: mean IoU with the truth"] = group["iou_other"].mean()
    return numbers


def main(folder: Path, kind: str | None) -> None:
    table, truth, _ = images.index_images(folder)
    tables = {}
    with tempfile.TemporaryDirectory() as work:
        for number, (name, (engine, precision)) in enumerate(WAYS.items()):
            backbone = backbones.load_backbone(
                "efficientnet_lite0", engine=engine, precision=precision
            )
            path = Path(work, f"{number}.h5")
            with extract.extract_maps(table, backbone, path, boxes=truth) as store:
                tables[name] = results(store, kind)
    first = tables["tensorflow float32"]
    rows = {name: differences(first, other) for name, other in tables.items()}
    print(f"{folder.name}, {len(table)} images, beside tensorflow float32")
    print(pd.DataFrame(rows).to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--box-kind")
    parser.add_argument("--images", type=int, default=240, help="scenes, where there is no folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scenes:
        folder = given.folder or datasets.write_scenes(Path(scenes, "scenes"), given.images)
        main(folder, given.box_kind)
