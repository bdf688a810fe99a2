"""Stores for benchmarks: of built-in scenes, and the network that a given one was made with.

Not a benchmark itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featlab import backbones, datasets, extract, images
from featlab.store import MapStore


def scene_store(work: Path, n: int) -> Path:
    """A finished store of `n` scenes with their boxes, EfficientNet-Lite0 at 224 px."""
    table, boxes, _ = images.index_images(datasets.write_scenes(work / "scenes", n))
    backbone = backbones.load_backbone("efficientnet_lite0")
    extract.extract_maps(table, backbone, work / "scenes.h5", boxes=boxes).close()
    return work / "scenes.h5"


def given_stores(arguments: list[str], *built_in: int) -> Iterator[tuple[str, str, str | None]]:
    """Name, path and kind of box of each ``NAME=STORE[:KIND]``; else of sets of so many scenes."""
    with tempfile.TemporaryDirectory() as work:
        for n in [] if arguments else built_in:
            yield f"scenes{n}", str(scene_store(Path(work, str(n)), n)), None
        for argument in arguments:
            name, _, place = argument.partition("=")
            path, _, kind = place.partition(":")
            yield name, path, kind or None


def network_of(store: MapStore, **options: Any) -> backbones.Backbone:
    """The network that a store was made with: its input size, its layers, its output stride.

    `options` go before what the store says.
    """
    made = store.provenance
    height, width = (int(side) for side in str(made["input_size"]).split(" x "))
    stride = str(made.get("output_stride", ""))
    own = {
        "input_size": (height, width),
        "layers": store.layers,
        "output_stride": int(stride) if stride.isdigit() else None,
    }
    return backbones.load_backbone(str(made["backbone"]), **(own | options))
