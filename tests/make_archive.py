"""Write the archived store and predictor of the present versions (run once per version)."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from conftest import FakeBackbone
from PIL import Image
from test_predict import fitted_set

from featlab.extract import extract_maps
from featlab.images import index_images
from featlab.predict._file import KIND
from featlab.store import MapStore
from featlab.store.format import ENCODING_VERSION
from featlab.store.network import OwnHead

ARCHIVES = Path(__file__).parent / "archives"


def write_store(target: Path) -> None:
    """Maps of six random pictures of a network with a classifier."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for label in ("cat", "dog"):
            (Path(folder) / label).mkdir()
            for i in range(3):
                pixels = rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(Path(folder) / label / f"{i}.png")
        images, _, _ = index_images(folder)
        boxes = pd.DataFrame([(0, "body", "cat", 1.0, 2.0, 30.0, 40.0)])
        boxes.columns = ["image", "kind", "label", "xmin", "ymin", "xmax", "ymax"]
        network = FakeBackbone()
        weights = rng.normal(size=(3, 10)).astype(np.float32), np.zeros(3, np.float32)
        network.own_head = OwnHead(("meow", "woof", "moo"), "last", *weights)
        extract_maps(images, network, target, boxes=boxes).close()


def write_predictor(target: Path, asked: Path) -> None:
    """What an analysis of drawn pictures fitted, on the network of the archived store `asked`."""
    with tempfile.TemporaryDirectory() as folder, MapStore(asked) as store:
        _, _, predictor = fitted_set(Path(folder))
        predictor = replace(predictor, provenance=dict(store.provenance))
        predictor.save(target)
        table = predictor.predict(store).drop(columns=["path", "width", "height"])
    sys.stdout.write(f"{table.iloc[:2].to_dict('list')}\n")


if __name__ == "__main__":
    maps = ARCHIVES / f"maps-v{ENCODING_VERSION}.h5"
    if not maps.exists():
        write_store(maps)
    predictor = ARCHIVES / f"predictor-v{KIND.version}.featlab"
    if not predictor.exists():
        write_predictor(predictor, maps)
