"""The pass on a cluster of processes: the same store, whatever becomes of the workers."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone

from featlab import FeatlabError, datasets, pipeline
from featlab.cli._pages import connect
from featlab.extract import PassOptions, _passing, append_maps, extract_maps
from featlab.images import index_images
from featlab.store import MapStore
from featlab.system import processes

distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")
pytestmark = pytest.mark.slow  # processes of a cluster, each with an import of its own

# Workers are processes of their own, which read a small part size from nowhere: pictures are many.
N_IMAGES = 1400


class Telling(FakeBackbone):
    """Notes every process that builds it, and takes its time."""

    def __init__(self, notes: Path, seconds: float = 0.0, deadly: bool = False) -> None:
        super().__init__(size=14)
        self.notes, self.seconds, self.deadly = notes, seconds, deadly

    def __reduce__(self):
        return Telling, (self.notes, self.seconds, self.deadly)

    def forward(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        (self.notes / str(os.getpid())).touch()
        time.sleep(self.seconds)
        if self.deadly and (self.notes / "client").read_text() != str(os.getpid()):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(pixels)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> pd.DataFrame:
    from PIL import Image

    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for k in range(N_IMAGES):
        folder = root / "ab"[k % 2]
        folder.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{k:05}.bmp")
    return index_images(root)[0]


@contextlib.contextmanager
def cluster_of_two() -> Iterator[distributed.Client]:
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    with cluster_of_two() as client:
        yield client


@pytest.fixture
def mortal_client() -> Iterator[distributed.Client]:
    """For a test that kills workers."""
    with cluster_of_two() as client:
        yield client


@pytest.fixture
def notes(tmp_path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "client").write_text(str(os.getpid()))
    return folder


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory) -> MapStore:
    notes = tmp_path_factory.mktemp("notes")
    path = tmp_path_factory.mktemp("whole") / "maps.h5"
    with extract_maps(images, Telling(notes), path, options=PassOptions(batch_size=8)) as store:
        yield store


def assert_same(store: MapStore, expected: MapStore) -> None:
    pd.testing.assert_frame_equal(store.images, expected.images)
    np.testing.assert_array_equal(store.maps(), expected.maps())
    np.testing.assert_array_equal(store.pooled(pooling="max"), expected.pooled(pooling="max"))
    np.testing.assert_array_equal(store.frames, expected.frames)
    np.testing.assert_array_equal(store.colour_histogram, expected.colour_histogram)
    left, right = store.provenance, expected.provenance
    assert {k: v for k, v in left.items() if not k.startswith("probe_")} == {
        k: v for k, v in right.items() if not k.startswith("probe_")
    }


@pytest.mark.parametrize("virtual", [False, True])
def test_a_cluster_writes_the_store_of_one_process(
    images, client, notes, expected, tmp_path, virtual
):
    seen: list[range] = []

    def progress(ranges):
        for one in ranges:
            yield one
            seen.append(one)

    path = tmp_path / "maps.h5"
    with extract_maps(
        images,
        Telling(notes),
        path,
        options=PassOptions(batch_size=8),
        client=client,
        virtual=virtual,
        progress=progress,
    ) as store:
        assert store.virtual == virtual
        assert_same(store, expected)
    workers = {str(one["pid"]) for one in client.run(lambda: {"pid": os.getpid()}).values()}
    done_by = {file.name for file in notes.iterdir()} - {"client", str(os.getpid())}
    assert done_by == workers
    assert sum(map(len, seen)) == N_IMAGES
    assert not client.run(
        lambda dask_worker: [name for name in dask_worker.plugins if "featlab" in name]
    ).popitem()[1]


def test_ranges_of_a_killed_worker_are_done_again(images, mortal_client, notes, expected, tmp_path):
    killed: list[int] = []

    def kill_one() -> None:
        while not killed:
            working = [int(f.name) for f in notes.iterdir() if f.name.isdigit()]
            working = [pid for pid in working if pid != os.getpid()]
            if working:
                time.sleep(0.5)
                os.kill(working[0], signal.SIGKILL)
                killed.append(working[0])
            time.sleep(0.01)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    slow = Telling(notes, seconds=0.05)
    path = tmp_path / "maps.h5"
    with extract_maps(
        images, slow, path, options=PassOptions(batch_size=8), client=mortal_client
    ) as store:
        assert_same(store, expected)
    assert killed
    assert not (tmp_path / "maps.h5.parts").exists()


def test_a_pass_goes_on_from_what_the_workers_left(images, client, notes, expected, tmp_path):
    path = tmp_path / "maps.h5"

    def interrupted(ranges):
        for k, one in enumerate(ranges):
            if k == 3:
                raise KeyboardInterrupt
            yield one

    with pytest.raises(KeyboardInterrupt):
        extract_maps(
            images,
            Telling(notes),
            path,
            options=PassOptions(batch_size=8),
            client=client,
            progress=interrupted,
        )
    kept = {f: f.stat().st_mtime_ns for f in tmp_path.glob("maps.h5.parts/part-*.h5")}
    assert kept
    alone = FakeBackbone(size=14)
    with extract_maps(images, alone, path, options=PassOptions(batch_size=8)) as store:
        assert_same(store, expected)
    assert alone.calls < N_IMAGES / 8


def test_a_worker_without_memory_is_told_in_a_sentence(
    images, mortal_client, notes, tmp_path, monkeypatch
):
    def unregister(name: str) -> None:
        # As when another worker dies while all are told that the pass is over.
        type(mortal_client).unregister_worker_plugin(mortal_client, name)
        raise distributed.comm.CommClosedError("Stream is closed")

    monkeypatch.setattr(mortal_client, "unregister_worker_plugin", unregister)
    mortal_client.run_on_scheduler(_allow_one_failure)
    with pytest.raises(FeatlabError, match="several workers died .* not enough memory"):
        extract_maps(
            images, Telling(notes, deadly=True), tmp_path / "maps.h5", client=mortal_client
        )


def _allow_one_failure(dask_scheduler) -> None:
    dask_scheduler.allowed_failures = 1


class Elsewhere(Telling):
    """On a worker it is another network than on the client."""

    def __reduce__(self):
        return _other, (self.notes,)


def _other(notes: Path) -> Telling:
    other = Telling(notes)
    other.gain = 2.0
    return other


def test_a_worker_with_another_network_is_refused(images, client, notes, tmp_path):
    with pytest.raises(FeatlabError, match="worker on .* was made with another weights sha256"):
        extract_maps(images, Elsewhere(notes), tmp_path / "maps.h5", client=client)
    assert not list(tmp_path.glob("maps.h5.parts/part-*.h5"))


def test_a_folder_that_workers_do_not_see_is_told(images, client, notes, tmp_path, monkeypatch):
    monkeypatch.setattr(_passing, "save_tables", lambda *_: None)
    with pytest.raises(FeatlabError, match="does not see .*tables.h5; the store must lie on"):
        extract_maps(images, Telling(notes), tmp_path / "maps.h5", client=client)


def test_a_changed_picture_is_named_by_the_worker(images, client, notes, tmp_path):
    changed = images.copy()
    changed.loc[700, "sha256"] = "0" * 64
    with pytest.raises(FeatlabError, match="00700|has changed since the folder was indexed"):
        extract_maps(changed, Telling(notes), tmp_path / "maps.h5", client=client)


def test_a_grown_set_on_a_cluster(images, client, notes, expected, tmp_path):
    old = images.iloc[:1100].reset_index(drop=True)
    extract_maps(
        old, Telling(notes), tmp_path / "old.h5", options=PassOptions(batch_size=8)
    ).close()
    with append_maps(
        images,
        Telling(notes),
        tmp_path / "old.h5",
        tmp_path / "new.h5",
        options=PassOptions(batch_size=8),
        client=client,
    ) as store:
        np.testing.assert_array_equal(store.maps(), expected.maps())


def test_no_scheduler_there():
    with pytest.raises(FeatlabError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        connect("tcp://127.0.0.1:9", seconds=0.5)
    with pytest.raises(FeatlabError, match="no Dask scheduler answers at nonsense"):
        connect("nonsense://x", seconds=0.5)


def test_a_real_network_travels_as_its_recipe():
    from featlab.backbones import load_backbone

    backbone = load_backbone("efficientnet_lite0", weights=None, input_size=64, engine="tensorflow")
    copy = pickle.loads(pickle.dumps(backbone))
    assert len(pickle.dumps(backbone)) < 2000
    assert copy.identity() == backbone.identity()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    for layer, maps in backbone.forward(pixels).items():
        assert maps.max() > 0
        np.testing.assert_allclose(maps, copy.forward(pixels)[layer], rtol=1e-4, atol=0)


# ----------------------------------------------------------------------------- after the pass


def _noted(notes: Path, k: int) -> int:
    (notes / str(os.getpid())).touch()
    time.sleep(0.2)
    return k


def _kill_one_of(notes: Path, killed: list[int]) -> None:
    """Kill the first worker that left a note."""
    while not killed:
        working = [int(one.name) for one in notes.iterdir() if one.name != str(os.getpid())]
        for pid in [pid for pid in working if pid][:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        time.sleep(0.01)


def test_calls_of_a_killed_worker_are_done_by_another(mortal_client, tmp_path):
    killed: list[int] = []
    threading.Thread(target=_kill_one_of, args=(tmp_path, killed), daemon=True).start()
    with pipeline.on_cluster(mortal_client):
        done = processes.done_on_cluster(partial(_noted, tmp_path, k) for k in range(12))
    assert done == list(range(12))
    assert killed and not processes.has_cluster()


def test_calls_that_kill_every_worker_end_in_a_sentence(mortal_client):
    mortal_client.run_on_scheduler(_allow_one_failure)
    with pipeline.on_cluster(mortal_client), pytest.raises(FeatlabError, match="several workers"):
        # By name: coverage puts a function that cannot be pickled in its place.
        processes.done_on_cluster([lambda: os._exit(1)])


def test_an_analysis_on_a_cluster_is_that_of_one_process(tmp_path, mortal_client, few_fits):
    """One of its workers is killed while it works."""
    pictures, boxes, _ = index_images(datasets.write_scenes(tmp_path / "scenes", 120))
    with extract_maps(pictures, FakeBackbone(), tmp_path / "maps.h5", boxes=boxes) as store:
        alone = pipeline.analyse(store)
        killed: list[int] = []
        pids = mortal_client.run(os.getpid)

        def kill_one() -> None:
            while not killed:
                tasks = mortal_client.processing()
                for pid in [pids[one] for one in pids if tasks.get(one)][:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                time.sleep(0.02)

        threading.Thread(target=kill_one, daemon=True).start()
        together = pipeline.analyse(store, client=mortal_client)
        assert killed
    pd.testing.assert_frame_equal(together.all_neurons, alone.all_neurons, check_exact=True)
    own, same = (one.localisation for one in (alone, together))
    timeless = own.table.columns.drop("seconds_per_1000")
    pd.testing.assert_frame_equal(same.table[timeless], own.table[timeless], check_exact=True)
    pd.testing.assert_frame_equal(same.per_image, own.per_image, check_exact=True)
    pd.testing.assert_frame_equal(same.draws, own.draws, check_exact=True)
    pd.testing.assert_frame_equal(together.heads.table, alone.heads.table, check_exact=True)
