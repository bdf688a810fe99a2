"""kill -9 at random moments: no half file under a final name, and the next run gives the same.

Work is done in children forked from one warm server process (this file, run as a script), so that
a kill falls into the work and not into the imports. FEATLAB_KILLS sets the number of kills of each
test; `make test-all` runs 100 of each.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone
from forked import ForkServer, serve
from test_predict_pages import plain_predictor

from featlab.extract import extract_maps
from featlab.images import index_images
from featlab.store import MapStore
from featlab.store.format import Tables
from featlab.store.rows import finished_part
from featlab.store.writing import PartWriter, join_parts

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

FEW, MANY = 2, 100


def kill_counts() -> list[Any]:
    if "FEATLAB_KILLS" in os.environ:
        return [int(os.environ["FEATLAB_KILLS"])]
    return [FEW, slow(MANY)]


def pictures(n_kills: int) -> dict[str, int]:
    return {"cat": 9, "dog": 8} if n_kills < MANY else {"cat": 33, "dog": 27}


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


# ------------------------------------------------------------------------------- the work


class SlowBackbone(FakeBackbone):
    def forward(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        time.sleep(0.003)
        return super().forward(pixels)


def work_extract(folder: str, path: str, slow: bool = True) -> None:
    from featlab.extract import PassOptions, _passing, extract_maps

    assert _passing._PART_ROWS
    _passing._PART_ROWS = 4  # many small parts
    images, boxes, _ = index_images(folder)
    network = SlowBackbone() if slow else FakeBackbone()
    extract_maps(images, network, path, boxes=boxes, options=PassOptions(batch_size=1)).close()


def work_predict(model: str, folder: str, path: str, slow: bool = True) -> None:
    """The command itself: blocks of 12 pictures, each of 3 parts."""
    from featlab import backbones
    from featlab.cli import app
    from featlab.extract import _passing
    from featlab.predict import _predictor

    assert _passing._PART_ROWS and _predictor.PICTURES_AT_ONCE
    _passing._PART_ROWS, _predictor.PICTURES_AT_ONCE = 4, 12
    _passing.automatic_batch_size = lambda *_: 1
    backbones.rebuild_backbone = lambda *_: SlowBackbone() if slow else FakeBackbone()
    app(["predict", model, folder, "-o", path, "--formats", "yolo"], standalone_mode=False)


def work_relabel(folder: str, path: str, label: str) -> None:
    """Other labels: the tables of a finished store are renewed around its maps."""
    from featlab.extract import PassOptions, extract_maps

    images, boxes, _ = index_images(folder)
    extract_maps(
        images.assign(label=label),
        FakeBackbone(),
        path,
        boxes=boxes,
        options=PassOptions(batch_size=1),
    )


def work_join(parts: str, path: str, virtual: bool = False) -> None:
    files = sorted(Path(parts).glob("part-*.h5"))
    images = pd.DataFrame({"path": [f"a/{row:05}.png" for row in range(N_ROWS)]}).assign(
        label="a", split="", group="", width=8, height=8, sha256="0" * 64
    )
    images["folder"] = "/pictures"
    boxes = pd.DataFrame(columns=["image", "kind", "label", "xmin", "ymin", "xmax", "ymax"])
    provenance = {"layers": '["top"]', "backbone": "fake"}
    skipped = pd.DataFrame(columns=["path", "reason"])
    tables = Tables(images, boxes, skipped, provenance)
    join_parts([*map(finished_part, files)], Path(path), tables, virtual=virtual)


@cache
def made_up(seed: int) -> Any:
    from fake_results import make_results

    return make_results(n=160 + 20 * seed, c=24)


def work_report(path: str, seed: int) -> None:
    from featlab import report

    results, folder = made_up(seed), Path(path)
    report.write_report(results, folder / "report.html", most_examples=0)
    report.page.write_summary(results, folder / "summary.json")


def work_tables(path: str, seed: int) -> None:
    from featlab import report

    report.page.write_tables(made_up(seed), path)
    report.page.write_summary(made_up(seed), Path(path) / "summary.json")


def keep_pages(path: str) -> None:
    """Draw each page once: kills are to fall into the writing, not into seconds of drawing."""
    from featlab.report import page

    pages: dict[int, str] = {}
    draw = page._render

    def kept(results: Any, *arguments: Any) -> str:
        if id(results) not in pages:
            pages[id(results)] = draw(results, *arguments)
        return pages[id(results)]

    page._render = kept
    for seed in (1, 2):
        work_report(path, seed)
    page.drawn_beside = lambda sections: contextlib.nullcontext(lambda: sections)


N_ROWS, N_PARTS = 600, 30


def kill_randomly(server: ForkServer, seconds: float, work: str, **task: Any) -> bool:
    """Kill the work after some time; whether it had ended before."""
    child = server.start(work, **task)
    time.sleep(seconds)
    # A child that has ended is only gone once the server has waited for it.
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    end = server.wait()
    assert end in (0, -signal.SIGKILL)
    return end == 0


def finish(server: ForkServer, work: str, **task: Any) -> float:
    """Do the work undisturbed; the seconds it took."""
    start = time.perf_counter()
    assert server.run(work, **task) == 0
    return time.perf_counter() - start


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    started = ForkServer(__file__)
    yield started
    started.close()


@pytest.fixture(scope="module")
def report_server(tmp_path_factory) -> Iterator[ForkServer]:
    started = ForkServer(__file__, "report", str(tmp_path_factory.mktemp("warm")))
    yield started
    started.close()


# ------------------------------------------------------------------------------- helpers


def contents(path: Path) -> dict[str, Any]:
    """Every dataset and every attribute, but the time it was written."""
    found: dict[str, Any] = {}

    def note(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = (item.dtype.str, item.shape, item[()].tolist())
        for key, value in item.attrs.items():
            found[f"{name}@{key}"] = np.asarray(value).tolist()

    with h5py.File(path) as file:
        file.visititems(note)
    return found


def verified(path: Path) -> dict[str, Any]:
    with MapStore(path) as store:
        store.verify()
    return contents(path)


def files_of(folder: Path, deep: bool = False) -> dict[str, bytes]:
    """Files under final names: temporary ones, or their folders, begin with a dot."""
    names = sorted(file.relative_to(folder) for file in folder.glob("**/*" if deep else "*"))
    return {
        name.as_posix(): (folder / name).read_bytes()
        for name in names
        if (folder / name).is_file() and not any(part[0] == "." for part in name.parts)
    }


def tell(test: str, n_kills: int, n_ended: int, states: dict[str, int]) -> None:
    sys.stdout.write(f"{test}: {n_kills} kills, {n_ended} after the end; left: {states}\n")


# ------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize("n_kills", kill_counts())
def test_extract(server, picture_folder, tmp_path, n_kills):
    folder = picture_folder(pictures(n_kills))
    whole, path = tmp_path / "whole.h5", tmp_path / "out" / "maps.h5"
    seconds = finish(server, "extract", folder=str(folder), path=str(whole))
    expected = verified(whole)
    rng = np.random.default_rng(n_kills)
    ended, states = 0, {"nothing": 0, "parts": 0, "store": 0}
    for kill in range(n_kills):
        task = {"folder": str(folder), "path": str(path)}
        ended += kill_randomly(server, rng.uniform(0, 1.1 * seconds), "extract", **task)
        parts = list(path.parent.glob("maps.h5.parts/part-*.h5"))
        for part in parts:
            with h5py.File(part) as file:
                assert file["frames"].shape[0] == file["maps/last"].shape[0]
        if path.exists():
            assert verified(path) == expected
        states["store" if path.exists() else "parts" if parts else "nothing"] += 1
        # Every other time the pass that goes on is killed too.
        if kill % 2 or path.exists():
            finish(server, "extract", slow=False, **task)
            assert verified(path) == expected
            assert [file.name for file in path.parent.iterdir()] == ["maps.h5"]
            shutil.rmtree(path.parent)
    tell("extract", n_kills, ended, states)
    assert n_kills < MANY or ended < 0.8 * n_kills


@pytest.mark.parametrize("n_kills", kill_counts())
def test_predict(server, picture_folder, tmp_path, n_kills):
    """The same answers in the end, no picture twice; no file under its name is ever half."""
    half = 10 if n_kills < MANY else 40
    folder = picture_folder({"cat": half, "dog": half})
    images, _, _ = index_images(folder)
    with extract_maps(images, FakeBackbone(), tmp_path / "maps.h5") as store:
        model = plain_predictor(store).save(tmp_path / "model.featlab")
    task = {"model": str(model), "folder": str(folder)}
    seconds = finish(server, "predict", path=str(tmp_path / "whole"), **task)
    expected = files_of(tmp_path / "whole", deep=True)
    assert pd.read_csv(tmp_path / "whole" / "predictions.csv")["path"].is_unique
    assert {"predictions.csv", "predictions.parquet", "yolo/data.yaml"} < set(expected)
    out, rng = tmp_path / "out", np.random.default_rng(n_kills)
    task["path"] = str(out)
    ended, states = 0, {"nothing": 0, "parts": 0, "answers": 0}
    for kill in range(n_kills):
        ended += kill_randomly(server, rng.uniform(0, 1.1 * seconds), "predict", **task)
        parts = out / "predictions.parts"
        for block in (name for name in files_of(parts) if name.endswith(".parquet")):
            assert len(pd.read_parquet(parts / block)) in (12, 2 * half % 12)
        left = {n: c for n, c in files_of(out, deep=True).items() if "predictions.parts" not in n}
        assert left.items() <= expected.items()
        states["answers" if left else "parts" if parts.exists() else "nothing"] += 1
        # Every other time the call that goes on is killed too.
        if kill % 2 or left:
            finish(server, "predict", slow=False, **task)
            assert files_of(out, deep=True) == expected and not parts.exists()
            shutil.rmtree(out)
    tell("predict", n_kills, ended, states)
    assert n_kills < MANY or ended < 0.8 * n_kills


def test_parts_of_a_finished_store_are_cleared(server, picture_folder, tmp_path):
    """As a kill after the store has its name, and before the parts are removed, leaves them."""
    folder, path = picture_folder({"cat": 5, "dog": 5}), tmp_path / "out" / "maps.h5"
    task = {"folder": str(folder), "path": str(path), "slow": False}
    finish(server, "extract", **task)
    parts = path.with_name("maps.h5.parts")
    parts.mkdir()
    shutil.copy(path, parts / "part-000000000-000000004.h5")
    finish(server, "extract", **task)
    assert [file.name for file in path.parent.iterdir()] == ["maps.h5"]


@pytest.mark.parametrize("virtual", [False, slow(True)])
@pytest.mark.parametrize("n_kills", kill_counts())
def test_join(server, tmp_path, n_kills, virtual):
    rng = np.random.default_rng(n_kills)
    step = N_ROWS // N_PARTS
    for start in range(0, N_ROWS, step):
        part = tmp_path / "parts" / f"part-{start:09}.h5"
        part.parent.mkdir(exist_ok=True)
        writer = PartWriter(part, step)
        maps = rng.gamma(1, 1, (step, 3, 3, 8)).astype(np.float32)
        colours = np.full((step, 64), 1 / 64, np.float32)
        writer.append({"top": maps}, colours, np.tile([0.0, 0, 1, 1], (step, 1)))
        writer.finish()
    whole, path = tmp_path / "whole.h5", tmp_path / "maps.h5"
    task: dict[str, Any] = {"parts": str(tmp_path / "parts"), "virtual": virtual}
    seconds = finish(server, "join", path=str(whole), **task)
    task["path"] = str(path)
    expected = verified(whole)
    ended, states = 0, {"nothing": 0, "store": 0}
    for _ in range(n_kills):
        ended += kill_randomly(server, rng.uniform(0, 1.1 * seconds), "join", **task)
        states["store" if path.exists() else "nothing"] += 1
        if path.exists():
            assert verified(path) == expected
        finish(server, "join", **task)
        assert verified(path) == expected
        path.unlink()
    tell("virtual join" if virtual else "join", n_kills, ended, states)
    assert n_kills < MANY or ended < 0.8 * n_kills


@pytest.mark.parametrize("n_kills", kill_counts())
def test_renewing_the_tables_of_a_store(server, picture_folder, tmp_path, n_kills):
    folder, path = picture_folder(pictures(n_kills)), tmp_path / "maps.h5"
    task = {"folder": str(folder), "path": str(path)}
    finish(server, "extract", slow=False, **task)
    seconds = finish(server, "relabel", label="one", **task)
    expected = {"one": verified(path)}
    finish(server, "relabel", label="two", **task)
    expected["two"] = verified(path)
    assert expected["one"] != expected["two"]
    rng = np.random.default_rng(n_kills)
    ended, states, old = 0, {"old": 0, "new": 0}, "two"
    for _ in range(n_kills):
        new = {"one": "two", "two": "one"}[old]
        ended += kill_randomly(server, rng.uniform(0, 1.1 * seconds), "relabel", label=new, **task)
        found = verified(path)
        assert found in (expected[old], expected[new])
        states["new" if found == expected[new] else "old"] += 1
        finish(server, "relabel", label=new, **task)
        assert verified(path) == expected[new]
        old = new
    tell("renewing", n_kills, ended, states)
    assert n_kills < MANY or ended < 0.8 * n_kills


@pytest.mark.parametrize("n_kills", kill_counts())
@pytest.mark.parametrize("work", [slow("tables"), slow("report")])
def test_report_and_tables(report_server, tmp_path, work, n_kills):
    seconds, expected = 0.0, {}
    for seed in (1, 2):
        path = tmp_path / f"whole{seed}"
        seconds = finish(report_server, work, path=str(path), seed=seed)
        expected[seed] = files_of(path)
    assert expected[1].keys() == expected[2].keys()
    assert expected[1]["summary.json"] != expected[2]["summary.json"]
    rng = np.random.default_rng(n_kills)
    ended, states, folder, old = 0, {"absent": 0, "old": 0, "new": 0, "mixed": 0}, tmp_path / "o", 0
    for kill in range(n_kills):
        new = 1 + kill % 2
        ended += kill_randomly(
            report_server, rng.uniform(0, 1.1 * seconds), work, path=str(folder), seed=new
        )
        found = files_of(folder)
        before = expected.get(old, {})
        for name, content in found.items():
            assert content in (before.get(name), expected[new][name]), name
        is_old, is_new = found == before, found == expected[new]
        states["new" if is_new else "absent" if not found else "old" if is_old else "mixed"] += 1
        finish(report_server, work, path=str(folder), seed=new)
        assert files_of(folder) == expected[new]
        old = new
        if kill % 4 == 3:
            shutil.rmtree(folder)
            old = 0
    tell(work, n_kills, ended, states)
    assert n_kills < MANY or ended < 0.8 * n_kills


if __name__ == "__main__":
    # Warm: the children are to begin at once.
    if sys.argv[1:2] == ["report"]:
        keep_pages(sys.argv[2])
    else:
        import featlab.cli
        import featlab.predict  # noqa: F401
    serve(
        {
            "extract": work_extract,
            "predict": work_predict,
            "relabel": work_relabel,
            "join": work_join,
            "report": work_report,
            "tables": work_tables,
        }
    )
