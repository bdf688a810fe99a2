"""A power cut at any moment: what is left is finished, can be gone on with, or is not there.

`tests/power.py` says what a disk may hold. FEATLAB_CUTS sets how many disks of each call are
looked at; `make test-all` looks at all of them, some thousand.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import FakeBackbone, draw_pictures
from fake_results import make_results
from power import cuts, quick_disk, recorded
from test_predict_pages import plain_predictor

from featlab import FeatlabError, backbones, report
from featlab.cli import app
from featlab.datasets import _fetch
from featlab.extract import (
    PassOptions,
    _passing,
    append_maps,
    extract_maps,
    extract_shard,
    join_shards,
)
from featlab.images import index_images
from featlab.predict import PARTS, _predictor
from featlab.results.networks import Transfer
from featlab.store import MapStore

pytestmark = pytest.mark.skipif(not hasattr(os, "sync"), reason="this system has no such calls")

FEW, MANY = 3, 150
OPTIONS = PassOptions(batch_size=1)
ENTIRE = ("labels", "pictures")
"""Folders that appear as a whole: YOLO's labels, what an archive holds."""


def cut_counts() -> list[Any]:
    if "FEATLAB_CUTS" in os.environ:
        return [int(os.environ["FEATLAB_CUTS"])]
    return [FEW, pytest.param(MANY, marks=pytest.mark.slow)]


@dataclass(frozen=True)
class Call:
    """What is done to a folder.

    Attributes
    ----------
    before : callable
        Takes the folder; what is in it is on the disk.
    call : callable
        Takes the folder; is recorded, and called again after the power cut.
    look : callable
        Takes the folder; returns what a reader finds under each final name, None where there is
        nothing. Fails where what is there is not whole.
    """

    before: Callable[[Path], Any]
    call: Callable[[Path], Any]
    look: Callable[[Path], dict[str, Any]]


def stores(folder: Path) -> dict[str, Any]:
    """Every store, verified and read."""
    return {
        name: _read(folder / "out" / name) if (folder / "out" / name).exists() else None
        for name in ("a.h5", "b.h5")
    }


def _read(path: Path) -> tuple[Any, ...]:
    with MapStore(path) as store:
        store.verify()
        arrays = store.maps(), store.pooled(), store.frames, store.colour_histogram
        tables = store.images, store.boxes, store.skipped
        told = json.dumps(store.provenance, sort_keys=True, default=repr)
        return (
            store.virtual, told, *(table.to_csv() for table in tables),
            *(array.tobytes() for array in arrays),
        )  # fmt: skip


def written(folder: Path) -> dict[str, Any]:
    """Files under final names; a folder that is placed as a whole is one thing."""
    found: dict[str, Any] = {}
    for path in (folder / "out").rglob("[!.]*"):
        *parts, name = path.relative_to(folder / "out").parts
        if any(part in ENTIRE or part[0] == "." or part == PARTS for part in parts):
            continue
        if path.is_file():
            found["/".join([*parts, name])] = path.read_bytes()
        elif name in ENTIRE:
            inside = (file for file in path.rglob("*") if file.is_file())
            found[name] = {file.relative_to(path): file.read_bytes() for file in inside}
    return found


def transfer(folder: Path) -> dict[str, Any]:
    """The tables of a comparison, which belong together."""
    try:
        tables = Transfer.load(folder / "out").tables()
    except FeatlabError as error:
        assert "no finished results" in str(error)
        return {"tables": None}
    return {"tables": {name: table.to_csv() for name, table in tables.items()}}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("power") / "pictures"
    return draw_pictures(folder, {"cat": 4, "dog": 3})


@pytest.fixture(scope="module")
def images(pictures) -> pd.DataFrame:
    return index_images(pictures)[0]


def nothing(folder: Path) -> None:
    """A folder that is empty."""


def of_stores(images: pd.DataFrame) -> dict[str, Call]:
    few = images.iloc[:5].reset_index(drop=True)

    def extract(folder: Path, of: pd.DataFrame = few, virtual: bool = False) -> None:
        path = folder / "out" / "a.h5"
        extract_maps(of, FakeBackbone(), path, options=OPTIONS, virtual=virtual).close()

    def begin(folder: Path) -> None:
        broken = FakeBackbone(fail_at=3, error=RuntimeError("the device is lost"))
        with pytest.raises(RuntimeError):
            extract_maps(few, broken, folder / "out" / "a.h5", options=OPTIONS)

    def join(folder: Path) -> None:
        join_shards(folder / "out" / "a.h5").close()

    def append(folder: Path) -> None:
        paths = folder / "out" / "a.h5", folder / "out" / "b.h5"
        append_maps(images, FakeBackbone(), *paths, options=OPTIONS).close()
        join(folder)  # clears the old store's parts, but those that the new one needs

    def share(folder: Path) -> None:
        for k in (1, 2):
            extract_shard(few, FakeBackbone(), folder / "out" / "a.h5", (k, 2), options=OPTIONS)
        join(folder)

    virtual, relabel = partial(extract, virtual=True), partial(extract, of=few.assign(label="x"))
    return {
        "extract": Call(nothing, extract, stores),
        "go on": Call(begin, extract, stores),
        "virtual": Call(nothing, virtual, stores),
        "relabel": Call(extract, relabel, stores),
        "append": Call(virtual, append, stores),
        "shards": Call(nothing, share, stores),
        "join": Call(virtual, join, stores),
    }


def of_predictors(pictures: Path, root: Path) -> dict[str, Call]:
    with extract_maps(index_images(pictures)[0], FakeBackbone(), root / "maps.h5") as store:
        model = plain_predictor(store)
    other = replace(model, heat=replace(model.heat, threshold=0.3))
    models = [model.save(root / "model.featlab"), other.save(root / "other.featlab")]

    def predict(folder: Path, number: int) -> None:
        out = ["-o", str(folder / "out"), "--formats", "yolo"]
        app(["predict", str(models[number]), str(pictures), *out], standalone_mode=False)

    def save(folder: Path, number: int) -> None:
        (model, other)[number].save(folder / "out" / "model.featlab")

    first, second = (partial(predict, number=number) for number in (0, 1))
    return {
        "predict": Call(nothing, first, written),
        "predict again": Call(first, second, written),
        "predictor": Call(partial(save, number=0), partial(save, number=1), written),
    }


def of_tables(pictures: Path, root: Path) -> dict[str, Call]:
    archive = Path(shutil.make_archive(str(root / "set"), "gztar", pictures.parent, "pictures"))
    results = [make_results(n=n, c=8, boxes=False, pictures=False) for n in (40, 60)]

    def write(folder: Path, number: int) -> None:
        report.write_report(results[number], folder / "out" / "report.html", most_examples=0)
        report.page.write_summary(results[number], folder / "out" / "summary.json")

    def save(folder: Path, number: int) -> None:
        table = pd.DataFrame({"name": ["frozen", "thawed"], "seconds": number})
        Transfer(table, table, table).save(folder / "out")

    def unpack(folder: Path) -> None:
        if not (folder / "out" / "pictures").is_dir():
            _fetch.extract_archive(archive, folder / "out", "pictures")

    return {
        "report": Call(partial(write, number=0), partial(write, number=1), written),
        "transfer": Call(partial(save, number=0), partial(save, number=1), transfer),
        "unpack": Call(nothing, unpack, written),
    }


@pytest.fixture(scope="module")
def calls(pictures, images, tmp_path_factory) -> Iterator[dict[str, Call]]:
    with pytest.MonkeyPatch.context() as patch, quick_disk():
        patch.setattr(_passing, "_PART_ROWS", 2)
        patch.setattr(_passing, "automatic_batch_size", lambda *_: 1)
        patch.setattr(_predictor, "_FEW", 2)
        patch.setattr(_predictor, "PICTURES_AT_ONCE", 4)
        patch.setattr(backbones, "rebuild_backbone", lambda *_: FakeBackbone())
        patch.setattr(report.page, "_render", lambda results, *_: f"{len(results.store)} pictures")
        root = tmp_path_factory.mktemp("calls")
        yield of_stores(images) | of_predictors(pictures, root) | of_tables(pictures, root)


def check(call: Call, folder: Path, most: int, lost: str = "") -> int:
    """Lay out what power cuts may leave, look at it, and call again; the number of disks."""
    whole = folder / "whole"
    whole.mkdir(parents=True)
    call.before(whole)
    before = call.look(whole)
    with recorded(whole) as events:
        call.call(whole)
    after = call.look(whole)
    begun = [event.kind for event in events].index("sync")
    kept = [event for k, event in enumerate(events) if k <= begun or event.kind != lost]
    found = cuts(kept, draws=3)
    ended = [cut for cut in found if cut.step == len(kept) - 1]
    chosen = random.Random(0).sample(found, min(most, len(found)))
    chosen += [cut for cut in ended if cut not in chosen][: 1 if most < MANY else None]
    for number, cut in enumerate(chosen):
        place = folder / str(number)
        place.mkdir()
        cut.lay(place)
        told = f"{cut.how} after event {cut.step} of {len(kept)}: {sorted(cut.files)}"
        now = call.look(place)
        for name in now:
            assert now[name] is None or now[name] in (before.get(name), after.get(name)), told
        assert now == after or cut not in ended, told  # what was made stays when the call is over
        call.call(place)
        assert call.look(place) == after, told
        shutil.rmtree(place)
    return len(chosen)


STORES = ("extract", "go on", "virtual", "relabel", "append", "shards", "join")
NAMES = (*STORES, "predict", "predict again", "predictor", "report", "transfer", "unpack")


@pytest.mark.parametrize("most", cut_counts())
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wrong_after_a_power_cut(calls, tmp_path, name, most):
    sys.stdout.write(f"{name}: {check(calls[name], tmp_path, most)} disks\n")


@pytest.mark.parametrize(
    ("name", "lost"), [("relabel", "flush"), ("relabel", "flush names"), ("unpack", "sync")]
)
def test_a_flush_that_is_missing_is_noticed(calls, tmp_path, name, lost):
    with pytest.raises((AssertionError, FeatlabError)):
        check(calls[name], tmp_path, MANY, lost)
