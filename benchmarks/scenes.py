"""Built-in scenes for benchmarks that are given no pictures or store of their own.

Not a benchmark itself.
"""

from __future__ import annotations

from pathlib import Path

from featlab import backbones, datasets, extract, images


def scene_store(work: Path, n: int) -> Path:
    """A finished store of `n` scenes with their boxes, EfficientNet-Lite0 at 224 px."""
    table, boxes = images.index_images(datasets.write_scenes(work / "scenes", n))
    backbone = backbones.load_backbone("efficientnet_lite0")
    extract.extract_maps(table, backbone, work / "scenes.h5", boxes=boxes).close()
    return work / "scenes.h5"
