"""Seconds of `featlab run` on a finished store: statistics, heads, localisation and the report.

    python benchmarks/warm_run.py [FOLDER] [--images 600] [--box-kind KIND]
    python benchmarks/warm_run.py --cold [FOLDER] [--images 60] [--box-kind KIND]

Runs the whole pipeline once, which makes the store, and once more, which is timed; with --cold into
another folder, so that its pass is timed, too, over the network that the first one kept. Limits by
the clock on two cores, of 1,280 neurons: 30 s for 600 images, and cold 12 s for 60. Without a
folder, on built-in scenes.
The first run also compiles the libraries' modules, as installing them usually does: where they are
not kept, as with PYTHONDONTWRITEBYTECODE, every start takes seconds more.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from limits import say


def run(folder: Path, output: Path, options: list[str], bytecode: Path) -> tuple[float, float]:
    """Seconds by the clock and of the processor; compiled modules are kept in a folder."""
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(bytecode)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-P", "-m", "featlab", "run", str(folder), "-o", str(output), *options],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, processor


def main(folder: Path | None, n: int, box_kind: str | None, cold: bool) -> None:
    from featlab import datasets

    options = ["--box-kind", box_kind] if box_kind else []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = folder or datasets.write_scenes(work / "scenes", n)
        output = work / "results"
        run(folder, output, options, work / "bytecode")
        output = work / "again" if cold else output
        wall, processor = run(folder, output, options, work / "bytecode")
        summary = json.loads((output / "summary.json").read_text("utf-8"))
    for stage, seconds in summary.get("seconds", {}).items():
        print(f"{stage:24s} {seconds:6.1f} s")
    print(f"{'processor, all':24s} {processor:6.1f} s")
    if cold:
        say("cold featlab run, s", wall, "<=", 12)
    else:
        say("warm featlab run, s", wall, "<=", 30)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, help="scenes, where there is no folder")
    parser.add_argument("--box-kind")
    parser.add_argument("--cold", action="store_true")
    given = parser.parse_args()
    images = given.images or (60 if given.cold else 600)
    main(given.folder, images, given.box_kind, given.cold)
