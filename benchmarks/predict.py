"""`featlab predict`: one picture from a cold shell, one more in the same process, and many.

    python benchmarks/predict.py [FOLDER] [--pictures 2048] [--rounds 3]
    python benchmarks/predict.py --memory [N ...]

A predictor is made from built-in scenes; without a folder it is asked of others of them. Limits, on
two quiet cores: 2.5 s from a cold shell, 30 ms warm, and 0.9 of the rate of the pass over the same
pictures. The cold call is taken from the second on, when the converted network is kept; beside it
stands the import of numpy, pandas and h5py, whose ratio a busy machine moves less, and beside the
warm call the network alone. Rates alternate in one process; the best of the rounds counts.

--memory prints the peak memory of calls over 500, 2,000 and 8,000 pictures, each a copy of one of
64 scenes, and of calls that draw every picture and write the page.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from limits import say

IMPORTS = "import numpy, pandas, h5py"
CALLS = 12  # of each cold and warm one; the fastest counts


def child_seconds(arguments: list[str], bytecode: Path) -> tuple[float, float]:
    """Seconds by the clock and of the processor of a fresh Python, whose modules are compiled."""
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(bytecode)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-P", *arguments], check=True, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cold(model: Path, picture: Path, work: Path) -> None:
    """One picture from a shell."""
    asked: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    for _ in range(max(CALLS // 2, 3)):
        command = ["-m", "featlab", "predict", str(model), str(picture), "-o", str(work / "cold")]
        asked.append(child_seconds(command, work / "bytecode"))
        bare.append(child_seconds(["-c", IMPORTS], work / "bytecode"))
    # The first two compile modules, and keep the converted network.
    wall, processor = (min(column) for column in zip(*asked[2:], strict=True))
    base = min(seconds for _, seconds in bare[2:])
    print(f"cold: {processor:.2f} s of processor, {processor / base:.2f} times `{IMPORTS}`")
    say("one picture from a cold shell, s", wall, "<=", 2.5)


def warm(predictor, network, picture: Path) -> None:
    """One more picture, in memory, beside the network alone."""
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("RGB"))
    alone = np.zeros((1, *network.input_size, 3), np.uint8)
    seconds: dict[str, list[float]] = {"predict": [], "network": []}
    for _ in range(CALLS):
        for name, call in (
            ("predict", lambda: predictor.predict(pixels)),
            ("network", lambda: network.forward(alone)),
        ):
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    best = {name: 1000 * min(runs) for name, runs in seconds.items()}
    print(f"warm: {best['predict'] / best['network']:.1f} times the network alone")
    say("one more picture, ms", best["predict"], "<=", 30)


def many(predictor, network, folder: Path, n: int, rounds: int) -> None:
    """Rate over files, beside `featlab extract`: the same files, indexed and passed."""
    from featlab import extract, images

    table = images.index_pictures(folder, on_error="skip")[0][:n]
    files = [folder / path for path in table["path"]]
    network.probe()
    rates: dict[str, list[float]] = {"index and pass": [], "pass": [], "predict": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as work:
            times = [time.perf_counter()]
            images.index_pictures(files)
            times.append(time.perf_counter())
            extract.extract_maps(table, network, Path(work, "maps.h5")).close()
            times.append(time.perf_counter())
            predictor.predict(files, backbone=network, folder=Path(work))
            times.append(time.perf_counter())
        taken = times[2] - times[0], times[2] - times[1], times[3] - times[2]
        for rate, seconds in zip(rates.values(), taken, strict=True):
            rate.append(len(files) / seconds)
    best = {name: max(rate) for name, rate in rates.items()}
    print("many, pictures/s:", ", ".join(f"{name} {rate:.1f}" for name, rate in best.items()))
    print(f"many: {best['predict'] / best['pass']:.3f} of the pass without the index")
    share = best["predict"] / best["index and pass"]
    say("predict, share of the rate of index and pass", share, ">=", 0.9)


def made(work: Path) -> Path:
    """A predictor of scenes."""
    from featlab import backbones, datasets, extract, images, pipeline, predict

    table, boxes, _ = images.index_images(datasets.write_scenes(work / "train", 80))
    network = backbones.load_backbone()
    with extract.extract_maps(table, network, work / "train.h5", boxes=boxes) as store:
        return predict.fit_predictor(pipeline.analyse(store)).save(work / "model.featlab")


def memory(counts: list[int], model: Path | None) -> None:
    """Peak memory of the command over so many pictures, plain and with all that is drawn."""
    from featlab import datasets

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = model or made(work)
        scenes = sorted(datasets.write_scenes(work / "scenes", 64).rglob("*.jpg"))
        drawn = ["--page", "--pictures", "boxes"]
        for what, options in (("predict", []), ("predict, drawn and page", drawn)):
            peaks = []
            for n in counts:
                folder = work / f"{n}"
                folder.mkdir(exist_ok=True)
                for k in range(n):
                    file = folder / f"{k:06d}.jpg"
                    # A byte behind the end of a JPEG makes it another file.
                    file.write_bytes(scenes[k % len(scenes)].read_bytes() + k.to_bytes(4, "big"))
                out = work / "out"
                done = subprocess.run(
                    [sys.executable, __file__, "--peak", model, folder, "-o", out, *options],
                    check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                )  # fmt: skip
                peaks.append(float(done.stdout.splitlines()[-1]))
                print(f"{what}, {n:5d} pictures: peak {peaks[-1]:.0f} MB", flush=True)
                shutil.rmtree(folder)
                shutil.rmtree(out)
            sizes = " / ".join(f"{n:,}" for n in (counts[-1], counts[0]))
            say(f"peak memory of {what}, {sizes} pictures", peaks[-1] / peaks[0], "<=", 1.25)


def peak(arguments: list[str]) -> None:
    """Run the command in this process and print the peak of its memory."""
    from featlab.cli import app

    app(["predict", *arguments], standalone_mode=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main(folder: Path | None, n: int, rounds: int, model: Path | None) -> None:
    from featlab import backbones, datasets, predict

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = model or made(work)
        if folder is None:
            folder = datasets.write_scenes(work / "others", n, random_state=1)
        predictor = predict.load_predictor(model)
        network = backbones.rebuild_backbone(predictor.provenance)
        picture = next(
            path for path in sorted(folder.rglob("*")) if path.suffix in (".jpg", ".png")
        )
        cold(model, picture, work)
        warm(predictor, network, picture)
        many(predictor, network, folder, n, rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        peak(sys.argv[2:])
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--pictures", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a predictor that is there")
    parser.add_argument("--memory", nargs="*", type=int, metavar="N")
    given = parser.parse_args()
    if given.memory is not None:
        memory(given.memory or [500, 2000, 8000], given.model)
    else:
        main(given.folder, given.pictures, given.rounds, given.model)
