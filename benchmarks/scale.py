"""The whole analysis and its page, from a store of very many made-up pictures.

    python benchmarks/scale.py [N_IMAGES] [N_NEURONS] [N_CLASSES] [--folder FOLDER]

Draws pictures with an object each, and writes a store of maps of 7 x 7 cells as a network might
see them, by the writer of the store itself; then runs all of `pipeline.analyse`, and writes the
page. For each stage: seconds, processor seconds, and the most memory that all processes together
held meanwhile, mapped pages of scratch files included, which the system drops when others need the
room. Five neurons a class are planted; the last lines say whether they were found.

With a folder the store stays there, and is used again; else all is removed in the end.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")

import numpy as np
import pandas as pd
from limits import say
from PIL import Image

from featlab import __version__, pipeline
from featlab.arguments import confirmed_detectors
from featlab.boxes.geometry import CORNERS
from featlab.images.pixels import colour_histogram, thumbnail
from featlab.pipeline import _analysis, scheduler
from featlab.store import MapStore
from featlab.store.format import Tables
from featlab.store.rows import finished_part
from featlab.store.writing import PartWriter, join_parts
from featlab.system.machine import give_back_large_blocks

SIDE, CELLS, LAYER = 96, 7, "last"
PLANTED, FACTORS, PART = 5, 4, 5000
COPIES = 100  # one picture in so many is the one before it, a little brighter
LIMIT = 4.0


def planted(code: int, n_neurons: int, n_classes: int) -> np.ndarray:
    """The neurons of a class."""
    return (np.arange(PLANTED) * n_classes + code) % n_neurons


def draw_cells(rng: np.random.Generator, n: int) -> np.ndarray:
    """Objects of two to five cells a side, ``(n, 4)``: left, top, right, bottom."""
    sides = rng.integers(2, 6, (n, 2))
    start = (rng.random((n, 2)) * (CELLS - sides + 1)).astype(int)
    return np.concatenate([start, start + sides], axis=1)


def draw_maps(
    rng: np.random.Generator, cells: np.ndarray, codes: np.ndarray, shared: np.ndarray, classes: int
) -> np.ndarray:
    """Maps ``(n, 7, 7, c)`` in which the neurons of a picture's class fire on its object."""
    n, c = len(codes), shared.shape[1]
    maps = rng.standard_normal((n, CELLS, CELLS, c), dtype=np.float32) - np.float32(0.5)
    maps += (rng.standard_normal((n, FACTORS), dtype=np.float32) @ shared)[:, None, None]
    strength = rng.random(n, dtype=np.float32) * 3
    for one, (left, top, right, bottom), code, add in zip(
        maps, cells, codes, strength, strict=True
    ):
        one[top:bottom, left:right, planted(code, c, classes)] += add
    return np.maximum(maps, 0, out=maps)


def draw_picture(rng: np.random.Generator, cell: np.ndarray, code: int) -> Image.Image:
    """A small picture of texture, with a lighter object."""
    pixels = rng.integers(0, 140, (SIDE, SIDE, 3), dtype=np.uint8)
    left, top, right, bottom = np.round(cell * SIDE / CELLS).astype(int)
    pixels[top:bottom, left:right] += np.array([100, 60 + 3 * (code % 16), 20], dtype=np.uint8)
    return Image.fromarray(pixels).resize((SIDE // 3, SIDE // 3)).resize((SIDE, SIDE))


def write_part(folder: Path, rows: range, n_neurons: int, n_classes: int) -> pd.DataFrame:
    """Write the pictures and the part of some rows; returns their lines of the image table."""
    shared = np.random.default_rng(0).normal(size=(FACTORS, n_neurons)).astype(np.float32) * 0.3
    rng = np.random.default_rng([1, rows.start])
    codes = np.arange(rows.start, rows.stop) % n_classes
    cells = draw_cells(rng, len(rows))
    twice = np.flatnonzero(np.arange(rows.start, rows.stop) % COPIES == COPIES - 1)
    codes[twice], cells[twice] = codes[twice - 1], cells[twice - 1]
    lines, before = [], None
    writer = PartWriter(folder / f"{rows.start:08d}.part", len(rows))
    for start in range(0, len(rows), PART // 10):
        some = slice(start, start + PART // 10)
        maps = draw_maps(rng, cells[some], codes[some], shared, n_classes)
        colours, small = [], []
        for k in range(start, start + len(maps)):
            copy = k in twice and before is not None
            picture = (
                before.point(lambda value: value + 8)
                if copy
                else draw_picture(rng, cells[k], int(codes[k]))
            )
            if copy:
                maps[k - start] = maps[k - start - 1] * np.float32(1.02)
            before, data = picture, io.BytesIO()
            picture.save(data, "jpeg", quality=85)
            path = Path(f"class_{codes[k]:03d}") / f"{rows.start + k:08d}.jpg"
            (folder / path.parent).mkdir(exist_ok=True)
            (folder / path).write_bytes(data.getvalue())
            lines.append(
                (str(path), f"class_{codes[k]:03d}", hashlib.sha256(data.getvalue()).hexdigest())
            )
            colours.append(colour_histogram(picture))
            small.append(thumbnail(picture).ravel())
        frames = np.tile([0.0, 0.0, 1.0, 1.0], (len(maps), 1))
        writer.append({LAYER: maps}, np.stack(colours), frames, {"thumbnails": np.stack(small)})
    writer.finish()
    table = pd.DataFrame(lines, columns=["path", "label", "sha256"])
    corners = pd.DataFrame(cells * (SIDE / CELLS), columns=CORNERS)
    return pd.concat([table, corners], axis=1)


def write_store(path: Path, n: int, n_neurons: int, n_classes: int) -> None:
    """Pictures, maps and tables of `n` images."""
    ranges = [range(start, min(start + PART, n)) for start in range(0, n, PART)]
    tables = [write_part(path.parent, rows, n_neurons, n_classes) for rows in ranges]
    table = pd.concat(tables, ignore_index=True)
    boxes = table[["label", *CORNERS]].assign(image=np.arange(n), kind="object")
    images = table[["path", "label", "sha256"]].assign(
        split="", group="", width=SIDE, height=SIDE, folder=str(path.parent.absolute())
    )
    about = {
        "layers": json.dumps([LAYER]), "backbone": "made up", "featlab_version": __version__,
        "dtype": "float16", "input_size": "96 x 96", "resize": "stretch", "precision": "float32",
        "image_set_digest": f"{n} {n_neurons} {n_classes}", "weights_sha256": "0" * 64,
    }  # fmt: skip
    skipped = pd.DataFrame(columns=["path", "reason"])
    parts = [path.parent / f"{rows.start:08d}.part" for rows in ranges]
    pieces = [finished_part(part) for part in parts]
    join_parts([one for one in pieces if one], path, Tables(images, boxes, skipped, about))
    for part in parts:
        part.unlink()


class Meter:
    """Seconds, processor seconds and the most memory of each title; asked ten times a second."""

    def __init__(self) -> None:
        self.rows: dict[str, list[float]] = {}
        self._open: list[str] = []
        self.most = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            now = sum(resident(pid) for pid in family())
            self.most = max(self.most, now)
            for title in [*self._open]:
                self.rows[title][2] = max(self.rows[title][2], now)
            time.sleep(0.1)

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Count what is done here."""
        row = self.rows.setdefault(title, [0.0, 0.0, 0.0])
        wall, processor = time.perf_counter(), processor_seconds()
        self._open.append(title)
        try:
            yield
        finally:
            self._open.remove(title)
            row[0] += time.perf_counter() - wall
            row[1] += processor_seconds() - processor
            row[2] = max(row[2], resident(os.getpid()))

    def timed(self, seconds: dict[str, float], title: str) -> contextmanager:
        """In the place of `scheduler.timed`."""
        with self.stage(title):
            yield from _original(seconds, title)

    def show(self) -> None:
        """The table, in the order of the stages."""
        print("| stage | seconds | processor | GB, most |\n|---|---|---|---|")
        for title, (wall, processor, most) in self.rows.items():
            print(f"| {title} | {wall:.1f} | {processor:.1f} | {most:.2f} |")


def _original(seconds: dict[str, float], title: str) -> Iterator[None]:
    with _timed(seconds, title):
        yield


_timed = scheduler.timed


def family() -> list[int]:
    """The process itself and all that it started."""
    found, parents = [os.getpid()], {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
            except OSError:
                continue
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def resident(pid: int) -> float:
    """Resident memory of a process, GB."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def processor_seconds() -> float:
    """Of all processes together."""
    ticks = 0
    for pid in family():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main(n: int, n_neurons: int, n_classes: int, folder: Path) -> None:
    """Make the store where there is none, analyse it, write the page."""
    meter = Meter()
    path = folder / "maps.h5"
    if not path.exists():
        with meter.stage("draw pictures and maps, write the store (not featlab)"):
            write_store(path, n, n_neurons, n_classes)
    give_back_large_blocks()  # as the command line does
    meter.most = 0.0
    scheduler.timed = _analysis.timed = contextmanager(meter.timed)
    start = time.perf_counter()
    with MapStore(path) as store:
        results = pipeline.analyse(store)
        pipeline.write_results(results, folder / "results")
    wall = time.perf_counter() - start
    print(f"{n:,} pictures, maps of {CELLS} x {CELLS} x {n_neurons}, {n_classes} classes\n")
    meter.show()
    print(f"| all | {wall:.1f} | | {meter.most:.2f} |\n")
    detectors = confirmed_detectors(results.neurons)
    pairs = set(zip(detectors["class"], detectors["neuron"], strict=True))
    truth = {
        (f"class_{code:03d}", neuron)
        for code in range(n_classes)
        for neuron in planted(code, n_neurons, n_classes).tolist()
    }
    right = len(pairs & truth)
    print(f"detectors: {right} of {len(truth)} planted found, {len(pairs) - right} others")
    best = results.localisation.best()
    print(f"boxes: {best['method']} {best['box_accuracy']:.3f} of {int(best['n']):,} images")
    say("most memory of all processes, GB", meter.most, "<=", LIMIT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n_images", nargs="?", type=int, default=100_000)
    parser.add_argument("n_neurons", nargs="?", type=int, default=256)
    parser.add_argument("n_classes", nargs="?", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="where the store is kept")
    given = parser.parse_args()
    made = nullcontext(given.folder) if given.folder else tempfile.TemporaryDirectory()
    with made as name:
        Path(name).mkdir(parents=True, exist_ok=True)
        main(given.n_images, given.n_neurons, given.n_classes, Path(name))
