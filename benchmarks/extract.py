"""Images per second of the pass, of its parts, and of the script one would write without featlab.

    python benchmarks/extract.py [N_IMAGES]

All figures come from one run on one machine; read them as ratios.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from featlab import backbones, datasets, extract, images

N = int(sys.argv[1]) if len(sys.argv) > 1 else 320
BATCH = 32


def rate(work) -> float:
    start = time.perf_counter()
    work()
    return N / (time.perf_counter() - start)


def forward_alone(backbone, pixels) -> None:
    for _ in range(N // BATCH):
        backbone.forward(pixels)


def decode_alone(table, backbone) -> None:
    read = extract._Reader(table, backbone.input_size, "stretch")
    tasks = [range(k, k + BATCH) for k in range(0, N, BATCH)]
    with extract.ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in extract._ahead(pool, read.batch, tasks):
            pass


def plain_script(folder, model, target) -> None:
    """Load a folder, predict each batch, save an array."""
    dataset = keras.utils.image_dataset_from_directory(
        folder, image_size=(224, 224), batch_size=BATCH, shuffle=False, verbose=0
    )
    maps = [model.predict((batch - 127) / 128, verbose=0) for batch, _ in dataset]
    np.save(target, np.concatenate(maps))


with tempfile.TemporaryDirectory() as name:
    work = Path(name)
    folder = datasets.write_scenes(work / "scenes", N)
    table, boxes = images.index_images(folder)
    backbone = backbones.load_backbone("efficientnet_lite0")
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3), dtype=np.uint8)
    backbone.forward(pixels)
    rates = {
        "decoding and resizing alone": rate(lambda: decode_alone(table, backbone)),
        "forward pass alone": rate(lambda: forward_alone(backbone, pixels)),
        "featlab, end to end": rate(
            lambda: extract.extract_maps(table, backbone, work / "maps.h5", boxes=boxes).close()
        ),
        "script: directory + predict + np.save": rate(
            lambda: plain_script(folder, backbone.model, work / "maps.npy")
        ),
    }
    sizes = {
        "featlab's store": (work / "maps.h5").stat().st_size / 1e6,
        "np.save": (work / "maps.npy").stat().st_size / 1e6,
    }

base = rates["script: directory + predict + np.save"]
print(f"{N} images, batch {BATCH}, efficientnet_lite0 at 224 px, {os.cpu_count()} cores")
for what, value in rates.items():
    print(f"{what:40s} {value:8.1f} images/s   {value / base:5.2f} x the script")
for what, size in sizes.items():
    print(f"{what:40s} {size:8.1f} MB")
