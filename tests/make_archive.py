"""Write the archived store of the present format version (run once per version)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from conftest import FakeBackbone
from PIL import Image

from featlab.extract import extract_maps
from featlab.images import index_images
from featlab.store.format import ENCODING_VERSION
from featlab.store.network import OwnHead

if __name__ == "__main__":
    target = Path(__file__).parent / "archives" / f"maps-v{ENCODING_VERSION}.h5"
    target.parent.mkdir(exist_ok=True)
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
