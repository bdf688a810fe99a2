"""Images per second of the pass, beside the scripts one would write without featlab.

    python benchmarks/extract.py [FOLDER ...] [--rounds 3] [--limit N]
    python benchmarks/extract.py --memory [N N]

EfficientNet-Lite0 at 224 px over the pictures of the folders; without a folder, over built-in
scenes. Every variant has a process of its own, which loads and warms up its network once and
waits; then the variants take turns, so that whatever else the machine does falls on all of them.
A row is the best of the rounds, with the median and the least: whatever else the machine does only
slows them, and `predict(dataset)` runs at half its speed in some rounds and not in others. Rows
with a limit are ratios of the best; read the rates themselves as ratios too.

--memory prints the peak memory of a pass over 1,000 and over 10,000 small pictures.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from limits import say

from featlab import backbones, datasets, extract, images
from featlab.extract._passing import read_batch
from featlab.images.pixels import InputReader
from featlab.system.machine import usable_cores
from featlab.system.processes import in_order

SIDE, SCRIPT_BATCH, BATCH, SCENES = 224, 32, 8, 320
ENGINES = {
    "tensorflow": ("tensorflow", "float32"),
    "openvino f32": ("openvino", "float32"),
    "openvino bf16": ("openvino", "bfloat16"),
}
SCRIPTS = ("script, predict per batch", "script, predict(dataset)")
VARIANTS = (
    *SCRIPTS,
    "decode alone",
    *(f"forward alone, {engine}" for engine in ENGINES),
    *(f"featlab, {engine}" for engine in ENGINES),
)
LIMITS = (
    ("featlab, openvino f32", SCRIPTS[0], 3.0),
    ("featlab, openvino f32", SCRIPTS[1], 1.7),
    ("featlab, openvino bf16", SCRIPTS[1], 2.7),
    ("featlab, tensorflow", SCRIPTS[1], 1.1),
)


def load(name: str) -> backbones.Backbone:
    engine, precision = ENGINES[name.partition(", ")[2]]
    backbone = backbones.load_backbone("efficientnet_lite0", engine=engine, precision=precision)
    backbone.probe()
    backbone.settle()  # as before a long pass
    return backbone


def make_script(name: str, folder: Path, work: Path) -> Callable[[], object]:
    """Load a folder, run the network, save an array."""
    import keras

    model = backbones.load_backbone("efficientnet_lite0", engine="tensorflow").model
    pictures = keras.utils.image_dataset_from_directory(
        folder, image_size=(SIDE, SIDE), batch_size=SCRIPT_BATCH, shuffle=False, verbose=0
    )
    model.predict(np.zeros((SCRIPT_BATCH, SIDE, SIDE, 3)), verbose=0)
    if name == SCRIPTS[1]:
        scaled = pictures.map(lambda pixels, _: (pixels - 127) / 128)
        return lambda: np.save(work / "maps.npy", model.predict(scaled, verbose=0))

    def per_batch() -> None:
        maps = [model.predict((pixels - 127) / 128, verbose=0) for pixels, _ in pictures]
        np.save(work / "maps.npy", np.concatenate(maps))

    return per_batch


def make_work(name: str, folder: Path, work: Path) -> Callable[[], object]:
    """What a variant does once in each round."""
    if name in SCRIPTS:
        return make_script(name, folder, work)
    table = images.index_images(folder)[0]
    tasks = [range(k, min(k + BATCH, len(table))) for k in range(0, len(table), BATCH)]
    if name.startswith("featlab"):
        backbone = load(name)

        def whole() -> None:
            (work / "maps.h5").unlink(missing_ok=True)
            extract.extract_maps(table, backbone, work / "maps.h5").close()

        return whole
    read = InputReader(table, (SIDE, SIDE))
    if name.startswith("forward"):
        forward = load(name).forward
        pixels = read_batch(read, tasks[0])[0]
        step: Callable[[range], object] = lambda rows: forward(pixels[: len(rows)])  # noqa: E731
    else:
        step = partial(read_batch, read)

    def alone() -> None:
        cores = usable_cores()
        with ThreadPoolExecutor(cores) as pool:
            for _ in in_order(pool, step, tasks, cores + 2):
                pass

    return alone


def serve(name: str, folder: Path) -> None:
    """Do a variant's work for each line of standard input; print wall and processor seconds."""
    with tempfile.TemporaryDirectory() as work:
        run = make_work(name, folder, Path(work))
        print("ready", flush=True)
        for _ in sys.stdin:
            wall, processor = time.perf_counter(), time.process_time()
            run()
            print(time.perf_counter() - wall, time.process_time() - processor, flush=True)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def ask(child: subprocess.Popen[str]) -> list[float]:
    assert child.stdin and child.stdout
    child.stdin.write("\n")
    child.stdin.flush()
    return [float(value) for value in child.stdout.readline().split()]


def gather(folders: list[Path], limit: int | None, work: Path) -> Path:
    """One folder of class folders with links to the pictures of all."""
    if not folders:
        return datasets.write_scenes(work / "scenes", limit or SCENES)
    target = work / "pictures"
    tables = [images.index_images(folder)[0] for folder in folders]
    files = [Path(table["folder"].iloc[0], path) for table in tables for path in table["path"]]
    for number, file in enumerate(files[:limit]):
        link = target / file.parent.name / f"{number:05d}{file.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
    return target


def compare(folders: list[Path], rounds: int, limit: int | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = gather(folders, limit, Path(name))
        n = len(images.index_images(folder)[0])
        children = {variant: start("--serve", variant, str(folder)) for variant in VARIANTS}
        for child in children.values():
            assert child.stdout and child.stdout.readline() == "ready\n"
        seconds: dict[str, list[list[float]]] = {variant: [] for variant in VARIANTS}
        for _ in range(rounds):
            for variant, child in children.items():
                seconds[variant].append(ask(child))
        for child in children.values():
            child.communicate()
    wall = {v: [n / pair[0] for pair in seconds[v]] for v in VARIANTS}
    rate = {v: max(wall[v]) for v in VARIANTS}
    cost = {v: min(pair[1] for pair in seconds[v]) / n for v in VARIANTS}
    print(f"{n} images, efficientnet_lite0 at {SIDE} px, {usable_cores()} cores, {rounds} rounds")
    print(f"{'':34s} images/s (median, least)    processor ms/image")
    for v in VARIANTS:
        spread = f"({statistics.median(wall[v]):.0f}, {min(wall[v]):.0f})"
        print(f"{v:34s} {rate[v]:8.1f} {spread:18s} {1000 * cost[v]:8.2f}")
    print(f"\n{'ratio':62s} {'by clock':>8s} {'by processor':>13s}")
    ratios = []
    for v, base, least in LIMITS:
        ratios.append((f"{v} / {base}", rate[v] / rate[base], cost[base] / cost[v], least))
    for engine in ENGINES:
        v, forward = f"featlab, {engine}", f"forward alone, {engine}"
        possible = 1 / (1 / rate[forward] + 1 / rate["decode alone"])
        spent = cost[forward] + cost["decode alone"]
        label = f"{v} / what forward and decode allow"
        ratios.append((label, rate[v] / possible, spent / cost[v], 0.9))
    for label, by_clock, by_processor, _ in ratios:
        print(f"{label:62s} {by_clock:8.2f} {by_processor:13.2f}")
    for label, by_clock, _, least in ratios:
        say(f"{label}, by clock", by_clock, ">=", least)


def peak_memory(n: int) -> None:
    """Print the peak memory of a pass over `n` pictures of 64 px; maps of 7 x 7 x 256."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = work / "noise" / "all"
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        from PIL import Image

        for k in range(n):
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{k:06d}.png", compress_level=0)
        table, _, _ = images.index_images(folder.parent)
        backbone = small_network(work / "small.keras")
        extract.extract_maps(table, backbone, work / "maps.h5").close()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def small_network(path: Path) -> backbones.Backbone:
    """Maps of 7 x 7 x 256 from one convolution."""
    import keras

    inputs = keras.Input((SIDE, SIDE, 3))
    maps = keras.layers.Conv2D(256, 32, strides=32, activation="relu", name="maps")(inputs)
    keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(maps)).save(path)
    return backbones.load_backbone(path, preprocessing="tf")


def compare_memory(counts: list[int]) -> None:
    peaks = []
    for n in counts:
        done = subprocess.run(
            [sys.executable, __file__, "--peak", str(n)],
            check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        peaks.append(float(done.stdout))
        print(f"{n:6d} images: peak {peaks[-1]:.0f} MB")
    label = " / ".join(f"{n:,}" for n in reversed(counts))
    say(f"peak memory of the pass, {label} images", peaks[1] / peaks[0], "<=", 1.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="take the first pictures only")
    parser.add_argument("--memory", nargs="*", type=int, metavar="N")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.folders[0])
    elif given.peak:
        peak_memory(given.peak)
    elif given.memory is not None:
        compare_memory(given.memory or [1000, 10_000])
    else:
        compare(given.folders, given.rounds, given.limit)
