"""Images per second of the pass beside thingsvision, on the same network and pictures.

    python -m venv tv && tv/bin/pip install thingsvision
    python benchmarks/thingsvision.py --python tv/bin/python [FOLDER] [--rounds 3] [--limit 128]

thingsvision lives in an environment of its own: it asks for numpy < 2 and an older TensorFlow.
MobileNetV2 and ResNet50 at 224 px with random weights, all maps of the last stage; thingsvision in
batches of 32, as a .npy file, with as many reading processes (0, 1 or 2) as are fastest; featlab
as a store, with its default engine. Each has a process of its own and they take turns. Without
--python it says so and ends.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

NETWORKS = {"mobilenet_v2": ("MobileNetV2", "features"), "resnet50": ("ResNet50", "layer4")}
SIDE, BATCH, SCENES = 224, 32, 128
READERS = (0, 1, 2)


def theirs(network: str, folder: Path, work: Path) -> Callable[[], object]:
    """Runs in thingsvision's environment; nothing of featlab is there."""
    import numpy as np
    import thingsvision
    import torch
    from thingsvision.utils.data import ImageDataset

    extractor = thingsvision.get_extractor(
        model_name=network, source="torchvision", device="cpu", pretrained=False
    )
    dataset = ImageDataset(
        root=str(folder),
        out_path=str(work),
        backend="pt",
        transforms=extractor.get_transformations(resize_dim=SIDE, crop_dim=SIDE),
    )

    def once(readers: int) -> None:
        batches = torch.utils.data.DataLoader(dataset, BATCH, num_workers=readers)
        maps = extractor.extract_features(
            batches, NETWORKS[network][1], flatten_acts=False, output_type="ndarray"
        )
        np.save(work / "maps.npy", maps)

    once(0)
    seconds = {}
    for readers in READERS:
        start = time.perf_counter()
        once(readers)
        seconds[readers] = time.perf_counter() - start
    fastest = min(seconds, key=lambda readers: seconds[readers])
    return lambda: once(fastest)


def ours(network: str, folder: Path, work: Path) -> Callable[[], object]:
    from featlab import backbones, extract, images

    table, _, _ = images.index_images(folder)
    backbone = backbones.load_backbone(NETWORKS[network][0], weights=None, input_size=SIDE)
    backbone.probe()

    def once() -> None:
        (work / "maps.h5").unlink(missing_ok=True)
        extract.extract_maps(table, backbone, work / "maps.h5").close()

    once()
    return once


def serve(who: str, network: str, folder: Path) -> None:
    """Do the work for each line of standard input; print wall and processor seconds."""
    answers, sys.stdout = sys.stdout, sys.stderr  # thingsvision prints of its own
    with tempfile.TemporaryDirectory() as work:
        once = (theirs if who == "thingsvision" else ours)(network, folder, Path(work))
        print("ready", file=answers, flush=True)
        for _ in sys.stdin:
            wall, before = time.perf_counter(), os.times()
            once()
            after = os.times()
            processor = sum(after[:4]) - sum(before[:4])  # of reading processes too
            print(time.perf_counter() - wall, processor, file=answers, flush=True)


def start(python: str, *arguments: str) -> subprocess.Popen[str]:
    # -P: this file has the name of the library.
    child = subprocess.Popen(
        [python, "-P", __file__, "--serve", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout
    if child.stdout.readline() != "ready\n":
        raise SystemExit(f"{arguments[0]} did not start; run {child.args} to see why.")
    return child


def compare(python: str, folder: Path, rounds: int) -> None:
    from limits import say

    n = sum(1 for file in folder.rglob("*") if file.suffix == ".jpg")
    for network in NETWORKS:
        children = {
            "thingsvision": start(python, "thingsvision", network, str(folder)),
            "featlab": start(sys.executable, "featlab", network, str(folder)),
        }
        seconds: dict[str, list[list[float]]] = {who: [] for who in children}
        for _ in range(rounds):
            for who, child in children.items():
                assert child.stdin and child.stdout
                print(file=child.stdin, flush=True)
                seconds[who].append([float(value) for value in child.stdout.readline().split()])
        for child in children.values():
            child.communicate()
        rate = {who: n / statistics.median(s[0] for s in runs) for who, runs in seconds.items()}
        cost = {who: statistics.median(s[1] for s in runs) / n for who, runs in seconds.items()}
        for who in children:
            text = f"{rate[who]:7.1f} images/s, {1000 * cost[who]:6.2f} ms of processor an image"
            print(f"{network:13s} {who:13s} {text}")
        ratio = rate["featlab"] / rate["thingsvision"]
        by_processor = cost["thingsvision"] / cost["featlab"]
        print(f"{network}: {by_processor:.2f} times by processor")
        say(f"featlab / thingsvision, {network}", ratio, ">=", 1.5)


def main(python: str | None, folder: Path | None, rounds: int, limit: int) -> None:
    if python is None:
        print("thingsvision is left out: name the Python of its environment with --python.")
        return
    from featlab import datasets, images

    with tempfile.TemporaryDirectory() as work:
        if folder is None:
            compare(python, datasets.write_scenes(Path(work, "scenes"), limit), rounds)
            return
        table, _, _ = images.index_images(folder)
        for number, path in enumerate(table["path"][:limit]):
            link = Path(work, "pictures", Path(path).parent.name, f"{number:05d}.jpg")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(table["folder"].iloc[0], path))
        compare(python, Path(work, "pictures"), rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--python", help="of the environment that holds thingsvision")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=SCENES, help="take the first pictures only")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve[0], given.serve[1], Path(given.serve[2]))
    else:
        main(given.python, given.folder and Path(given.folder), given.rounds, given.limit)
