"""The pass: once, resumable, exact, and honest about what it reuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import h5py
import numpy as np
import pandas as pd
import pytest
import threadpoolctl
from conftest import FakeBackbone
from PIL import Image

from featlab import FeatlabError
from featlab.extract import PassOptions, _passing, _source, extract_maps
from featlab.extract._source import Running
from featlab.extract.stores import find_store
from featlab.images import index_images, pixels
from featlab.store import MapStore, writing
from featlab.store.writing import PartWriter
from featlab.system import processes


@pytest.fixture
def images(picture_folder) -> pd.DataFrame:
    return index_images(picture_folder({"cat": 30, "dog": 25}))[0]


def contents(path: Path) -> dict[str, np.ndarray]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def assert_same_store(a: Path, b: Path) -> None:
    left, right = contents(a), contents(b)
    assert left.keys() == right.keys()
    for key, values in left.items():
        assert values.tobytes() == right[key].tobytes() or key.startswith("images/"), key
        np.testing.assert_array_equal(values, right[key])


def test_maps_are_those_of_the_network_on_each_picture_alone(images, tmp_path, fake_backbone):
    store = extract_maps(
        images, fake_backbone, tmp_path / "maps.h5", options=PassOptions(batch_size=4)
    )
    for row in (0, 17, 54):
        file = Path(images["folder"].iloc[0], images["path"][row])
        with Image.open(file) as picture:
            pixels = picture.convert("RGB").resize((56, 56), Image.Resampling.BILINEAR)
        expected = fake_backbone.forward(np.asarray(pixels)[np.newaxis])["last"]
        np.testing.assert_allclose(store.maps(row), expected, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(store.pooled()[row], expected[0].mean(axis=(0, 1)), rtol=1e-6)
    store.close()


def test_a_second_call_makes_no_forward_pass(images, tmp_path):
    first, second = FakeBackbone(), FakeBackbone()
    extract_maps(images, first, tmp_path / "maps.h5").close()
    before = (tmp_path / "maps.h5").read_bytes()
    extract_maps(images, second, tmp_path / "maps.h5").close()
    assert first.calls == 2
    assert (second.calls, second.probes) == (0, 0)
    assert (tmp_path / "maps.h5").read_bytes() == before
    assert not (tmp_path / "maps.h5.parts").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backbone": FakeBackbone(gain=2)}, "another weights sha256: gain 1.0 there, gain 2"),
        ({"backbone": FakeBackbone(size=112)}, "another input size: 56 x 56 there, 112 x 112"),
        ({"backbone": FakeBackbone(layers=("a",))}, "another layers"),
        ({"options": PassOptions(resize="pad")}, "another resize: stretch there, pad asked for"),
        ({"options": PassOptions(dtype="float32")}, "another dtype"),
    ],
)
def test_another_network_or_geometry_is_refused_with_both_values(images, tmp_path, change, words):
    extract_maps(images, FakeBackbone(), tmp_path / "maps.h5").close()
    arguments = {"backbone": FakeBackbone()} | change
    with pytest.raises(FeatlabError, match=f"maps.h5 was made with {words}"):
        extract_maps(images, arguments.pop("backbone"), tmp_path / "maps.h5", **arguments)


def test_other_pictures_are_refused(images, tmp_path):
    extract_maps(images, FakeBackbone(), tmp_path / "maps.h5").close()
    with pytest.raises(FeatlabError, match="another image set digest"):
        extract_maps(images.iloc[1:], FakeBackbone(), tmp_path / "maps.h5")


def test_new_labels_and_boxes_renew_the_tables_without_a_forward_pass(images, tmp_path):
    path = tmp_path / "maps.h5"
    extract_maps(images, FakeBackbone(), path).close()
    before = contents(path)
    relabelled = images.assign(label="bird")
    boxes = pd.DataFrame([(0, "", "bird", 1.0, 2.0, 3.0, 4.0)])
    boxes.columns = ["image", "kind", "label", "xmin", "ymin", "xmax", "ymax"]
    backbone = FakeBackbone()
    with extract_maps(relabelled, backbone, path, boxes=boxes) as store:
        assert store.classes == ["bird"]
        assert len(store.boxes) == 1
    assert backbone.calls == 0
    after = contents(path)
    for key in before:
        if key.startswith(("maps", "pooled")):
            np.testing.assert_array_equal(before[key], after[key])
    extract_maps(relabelled, backbone, path, boxes=boxes).close()
    assert backbone.calls == 0


KEY_OF_SMALL_PICTURES = {
    *FakeBackbone().identity(),
    *("precision", "resize", "dtype", "image_set_digest"),
}


def folder_with_one_large(root: Path, suffix: str) -> pd.DataFrame:
    """Three pictures of 64 px, and one of 401 x 300 of two halves, turned by its EXIF tag."""
    pixels = np.zeros((401, 300, 3), np.uint8)
    pixels[:200, :, 0] = 255
    pixels[:, 90:190, 1] = 200
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for k in range(2):
            side = slice(None, 64 + k)
            Image.fromarray(pixels[100:300][side, side]).save(root / name / f"{k}.jpg")
    Image.fromarray(pixels).save(root / "a" / f"large{suffix}", quality=95, exif=exif)
    return index_images(root)[0]


def test_a_large_jpeg_is_scaled_while_it_is_decoded_and_the_store_says_so(tmp_path, monkeypatch):
    table = folder_with_one_large(tmp_path / "pictures", ".jpg")
    # Every pixel is counted, so that only the scaling can differ.
    monkeypatch.setattr("featlab.images.pixels._COUNTED", 1 << 20)
    calls = []
    real = pixels.decode_scaled
    monkeypatch.setattr(
        pixels,
        "decode_scaled",
        lambda *given: calls.append(given[1]) or real(*given),
    )
    with extract_maps(
        table, FakeBackbone(size=49), tmp_path / "m.h5", options=PassOptions(resize="pad")
    ) as scaled:
        assert sorted(calls) == [1, 1, 1, 1, 2]
        assert scaled.provenance["jpeg_scaling"] == "to 3 times the input"
        assert scaled.images["width"].max() == 401
        found, colours, frames = scaled.maps(4)[0], scaled.colour_histogram, scaled.frames
    with monkeypatch.context() as patch:
        patch.setattr(pixels, "jpeg_factor", lambda *_: 1)
        patch.setattr(_source, "jpeg_factor", lambda *_: 1)
        with extract_maps(
            table, FakeBackbone(size=49), tmp_path / "w.h5", options=PassOptions(resize="pad")
        ) as whole:
            assert whole.provenance.keys() == scaled.provenance.keys() - {"jpeg_scaling"}
            np.testing.assert_array_equal(frames, whole.frames)
            np.testing.assert_allclose(found, whole.maps(4)[0], atol=0.02)
            np.testing.assert_allclose(colours[:2], whole.colour_histogram[:2])
            assert np.abs(colours - whole.colour_histogram).sum(axis=1).max() < 0.02
    with pytest.raises(FeatlabError, match="another jpeg scaling: None there, to 3 times the inp"):
        find_store(
            table, FakeBackbone(size=49), tmp_path / "w.h5", options=PassOptions(resize="pad")
        )


def test_the_key_of_sets_without_a_large_jpeg_is_what_it_always_was(images, tmp_path):
    large = folder_with_one_large(tmp_path / "pictures", ".png")
    for table in (images, large, large.iloc[:2]):
        key = _source.store_key(table, FakeBackbone(size=49), PassOptions())
        assert key.keys() == KEY_OF_SMALL_PICTURES
    jpegs = folder_with_one_large(tmp_path / "jpegs", ".jpg")
    padded = PassOptions(resize="pad")
    assert "jpeg_scaling" in _source.store_key(jpegs, FakeBackbone(size=49), padded)
    # Less than twice the margin for this input.
    assert "jpeg_scaling" not in _source.store_key(jpegs, FakeBackbone(), PassOptions())


def test_other_library_versions_ask_the_probe_picture(images, tmp_path, monkeypatch):
    extract_maps(images, FakeBackbone(), tmp_path / "maps.h5").close()
    monkeypatch.setattr(_source, "version_of", lambda name: "99.0")
    same = FakeBackbone()
    find_store(images, same, tmp_path / "maps.h5").close()
    assert (same.calls, same.probes) == (0, 1)
    other = FakeBackbone()
    other._maps = lambda pixels: {"last": np.ones((len(pixels), 7, 7, 10), np.float32)}
    with pytest.raises(FeatlabError, match="other library versions.*'last'"):
        find_store(images, other, tmp_path / "maps.h5")


def test_an_interrupted_pass_goes_on_from_its_parts(images, tmp_path, monkeypatch):
    monkeypatch.setattr(_passing, "_PART_ROWS", 8)
    extract_maps(
        images, FakeBackbone(), tmp_path / "whole.h5", options=PassOptions(batch_size=4)
    ).close()
    path = tmp_path / "maps.h5"
    broken = FakeBackbone(fail_at=7, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        extract_maps(images, broken, path, options=PassOptions(batch_size=4))
    assert not path.exists()
    left = sorted(file.name for file in (tmp_path / "maps.h5.parts").glob("part-*.h5"))
    assert left == [f"part-{k:09d}-{k + 8:09d}.h5" for k in (0, 8, 16)]
    assert not list((tmp_path / "maps.h5.parts").glob("*.h5.tmp"))
    again = FakeBackbone()
    seen: list[range] = []
    # The interrupted pass's batch size wins: the same batches give the same bits.
    extract_maps(
        images,
        again,
        path,
        options=PassOptions(batch_size=16),
        progress=lambda tasks: seen.extend(tasks) or tasks,
    ).close()
    assert again.calls == 14 - 6
    assert [task.start for task in seen] == list(range(24, 55, 4))
    assert_same_store(path, tmp_path / "whole.h5")


def test_parts_of_another_pass_are_refused(images, tmp_path, monkeypatch):
    monkeypatch.setattr(_passing, "_PART_ROWS", 8)
    broken = FakeBackbone(fail_at=4, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        extract_maps(images, broken, tmp_path / "maps.h5", options=PassOptions(batch_size=4))
    with pytest.raises(FeatlabError, match=r"maps.h5.parts holds parts .* another weights sha256"):
        extract_maps(images, FakeBackbone(gain=3), tmp_path / "maps.h5")


def test_a_pass_that_finished_nothing_refuses_nothing(images, tmp_path):
    broken = FakeBackbone(fail_at=1, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        extract_maps(images, broken, tmp_path / "maps.h5")
    extract_maps(
        images, FakeBackbone(gain=3), tmp_path / "maps.h5", options=PassOptions(batch_size=16)
    ).close()
    extract_maps(
        images, FakeBackbone(gain=3), tmp_path / "whole.h5", options=PassOptions(batch_size=16)
    ).close()
    assert_same_store(tmp_path / "maps.h5", tmp_path / "whole.h5")


def test_a_half_written_part_is_written_again(images, tmp_path, monkeypatch):
    monkeypatch.setattr(_passing, "_PART_ROWS", 8)
    broken = FakeBackbone(fail_at=6, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        extract_maps(images, broken, tmp_path / "maps.h5", options=PassOptions(batch_size=4))
    part = tmp_path / "maps.h5.parts" / "part-000000000-000000008.h5"
    part.write_bytes(part.read_bytes()[:1000])
    backbone = FakeBackbone()
    with extract_maps(
        images, backbone, tmp_path / "maps.h5", options=PassOptions(batch_size=4)
    ) as store:
        store.verify()
    assert backbone.calls == 14 - 4


_CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
from conftest import FakeBackbone
from featlab.extract import PassOptions, _passing, extract_maps
from featlab.extract._source import Running
from featlab.images import index_images
class Slow(FakeBackbone):
    def forward(self, pixels):
        time.sleep(0.02)
        return super().forward(pixels)
_passing._PART_ROWS = 4
images, _, _ = index_images({folder!r})
print("started", flush=True)
extract_maps(images, Slow(), {path!r}, options=PassOptions(batch_size=2)).close()
"""


@pytest.mark.slow  # test_kill.py has the quick one
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX systems")
def test_killed_at_any_moment_the_next_run_gives_the_same_bits(picture_folder, tmp_path):
    folder = picture_folder({"cat": 30, "dog": 25})
    images, _, _ = index_images(folder)
    path, whole = tmp_path / "maps.h5", tmp_path / "whole.h5"
    extract_maps(images, FakeBackbone(), whole, options=PassOptions(batch_size=2)).close()
    code = _CHILD.format(tests=str(Path(__file__).parent), folder=str(folder), path=str(path))
    rng = np.random.default_rng(0)
    kills = 0
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"started\n"
        time.sleep(rng.uniform(0.05, 0.4))
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
        child.stdout.close()
    assert kills
    extract_maps(images, FakeBackbone(), path, options=PassOptions(batch_size=2)).close()
    with h5py.File(path) as left, h5py.File(whole) as right:
        for key in ("maps/last", "pooled/last/mean", "pooled/last/max"):
            assert left[key][()].tobytes() == right[key][()].tobytes()


def test_two_writers_cannot_meet(images, tmp_path):
    (tmp_path / "maps.h5.parts").mkdir()
    with (
        filelock.FileLock(tmp_path / "maps.h5.parts" / "lock"),
        pytest.raises(FeatlabError, match="another process is writing maps.h5"),
    ):
        extract_maps(images, FakeBackbone(), tmp_path / "maps.h5")


def test_a_full_disk_keeps_the_finished_parts(images, tmp_path, monkeypatch):
    monkeypatch.setattr(_passing, "_PART_ROWS", 8)
    append = PartWriter.append

    def full(self, *values):
        if self.path.name.startswith("part-000000016"):
            raise OSError(28, "No space left on device")
        append(self, *values)

    monkeypatch.setattr(PartWriter, "append", full)
    with pytest.raises(FeatlabError, match="no space left on the disk.*finished parts are kept"):
        extract_maps(
            images, FakeBackbone(), tmp_path / "maps.h5", options=PassOptions(batch_size=4)
        )
    assert len(list((tmp_path / "maps.h5.parts").glob("part-*.h5"))) == 2
    monkeypatch.undo()
    extract_maps(
        images, FakeBackbone(), tmp_path / "maps.h5", options=PassOptions(batch_size=4)
    ).close()


def test_a_picture_that_vanished_or_changed_is_named(images, tmp_path):
    file = Path(images["folder"].iloc[0], images["path"][40])
    data = file.read_bytes()
    file.write_bytes(data + b"\0")
    with pytest.raises(FeatlabError, match="dog/010.png has changed since"):
        extract_maps(images, FakeBackbone(), tmp_path / "maps.h5")
    file.unlink()
    with pytest.raises(FeatlabError, match="dog/010.png could not be read: No such file"):
        extract_maps(images, FakeBackbone(), tmp_path / "maps.h5")


class Scaled(FakeBackbone):
    """The fake network's maps, times a number, plus another."""

    def __init__(self, scale: float, level: float) -> None:
        super().__init__()
        self.scale, self.level = scale, level

    def _maps(self, pixels):
        maps = super()._maps(pixels)
        return {layer: np.float32(self.scale * v + self.level) for layer, v in maps.items()}


@pytest.mark.parametrize(
    ("scale", "level", "words", "float32_helps"),
    [
        (0, 0, "'last' is 0 in every cell of all .* pictures; check its weights", False),
        (0, 2.5, "'last' is 2.5 in every cell", False),
        (1e-10, 0, "between 0 and .*e-11, which float16 does not tell apart", True),
        (1e-3, 4096, "between 4096.* and 4096.*, which float16 does not tell apart", True),
    ],
)
def test_maps_that_tell_nothing_are_refused(images, tmp_path, scale, level, words, float32_helps):
    with pytest.raises(FeatlabError, match=words):
        extract_maps(images, Scaled(scale, level), tmp_path / "maps.h5")
    assert not (tmp_path / "maps.h5").exists()
    wide = PassOptions(dtype="float32")
    if not float32_helps:
        with pytest.raises(FeatlabError, match=words):
            extract_maps(images, Scaled(scale, level), tmp_path / "wide.h5", options=wide)
        return
    with extract_maps(images, Scaled(scale, level), tmp_path / "wide.h5", options=wide) as store:
        assert np.ptp(store.maps()) > 0


def test_one_black_picture_is_no_fault_of_the_network(images, tmp_path):
    with extract_maps(images.iloc[:1], Scaled(0, 0), tmp_path / "maps.h5") as store:
        assert not store.maps().any()


def test_padding_keeps_the_aspect_and_notes_the_frame(images, tmp_path):
    with extract_maps(
        images, FakeBackbone(), tmp_path / "m.h5", options=PassOptions(resize="pad")
    ) as store:
        frames = store.frames
        sizes = store.images[["width", "height"]].to_numpy()
    extent = (frames[:, 2:] - frames[:, :2]) * 56
    np.testing.assert_allclose(extent.max(axis=1), 56)
    np.testing.assert_allclose(extent[:, 0] / extent[:, 1], sizes[:, 0] / sizes[:, 1], rtol=0.05)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"resize": "crop"}, "resize must be one of stretch, pad, got 'crop'"),
        ({"dtype": "int8"}, "dtype must be one of float16, float32, got 'int8'"),
    ],
)
def test_options_out_of_range(images, tmp_path, options, words):
    with pytest.raises(FeatlabError, match=words):
        PassOptions(**options)
    with pytest.raises(FeatlabError, match="at least one row"):
        extract_maps(images.iloc[:0], FakeBackbone(), tmp_path / "maps.h5")


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """The batches in flight are bounded: decoding never runs far ahead of the network."""
    started: list[int] = []
    tasks = [range(k, k + 1) for k in range(50)]
    with ThreadPoolExecutor(2) as pool:
        results = processes.in_order(pool, lambda task: started.append(task.start), tasks, 3)
        next(results)
        time.sleep(0.2)
        assert len(started) <= 4
        assert len(list(results)) == 49


def test_the_store_opens_where_it_was_written(images, tmp_path):
    with extract_maps(images, FakeBackbone(), tmp_path / "maps.h5") as store:
        assert isinstance(store, MapStore)
        assert store.images["folder"].iloc[0] == images["folder"].iloc[0]


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_forward_passes_begin_in_order_and_no_more_at_once_than_pay(streams):
    turns, lock = _source.Streams(streams), threading.Lock()
    begun: list[int] = []
    running, most = 0, 0

    def work(number: int) -> None:
        nonlocal running, most
        time.sleep(0.001 * (number * 7 % 5))
        try:
            if number == 20:
                raise FeatlabError("this picture is damaged")
            turns.wait(number)
            with lock:
                begun.append(number)
                running += 1
                most = max(most, running)
            time.sleep(0.002)
            with lock:
                running -= 1
        finally:
            turns.finish(number)

    with ThreadPoolExecutor(6) as pool:
        found = [pool.submit(work, number) for number in range(60)]
    assert [number for number, one in enumerate(found) if one.exception()] == [20]
    assert most == streams
    assert sorted(begun) == [number for number in range(60) if number != 20]
    for lane in range(streams):
        own = [number for number in begun if number % streams == lane]
        assert own == sorted(own)


def test_the_batch_size_follows_the_memory(monkeypatch):
    running = Running("tensorflow", streams=2, batch_size=32)
    monkeypatch.setattr(_passing, "total_memory", lambda: 64 * 2**30)
    assert _passing.automatic_batch_size(running, (224, 224)) == 32
    monkeypatch.setattr(_passing, "total_memory", lambda: 4 * 2**30)
    few = _passing.automatic_batch_size(running, (224, 224))
    assert 8 <= few < 32
    assert _passing.automatic_batch_size(running, (448, 448)) == few // 4
    monkeypatch.setattr(_passing, "total_memory", lambda: 2**20)
    assert _passing.automatic_batch_size(running, (224, 224)) == 1


class _Counting(FakeBackbone):
    """Notes how many threads BLAS may use while the network runs."""

    def forward(self, pixels):
        found = threadpoolctl.threadpool_info()
        self.blas = {pool["num_threads"] for pool in found if pool["user_api"] == "blas"}
        return super().forward(pixels)


def test_no_thread_of_blas_waits_beside_the_network(images, tmp_path):
    # Such a thread waits in a loop: the pass took 6.9 ms a picture where it takes 4.0 now.
    backbone = _Counting()
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        extract_maps(images, backbone, tmp_path / "maps.h5").close()
        after = threadpoolctl.threadpool_info()
    assert backbone.blas == {1}
    assert {pool["num_threads"] for pool in after if pool["user_api"] == "blas"} == {2}


def test_the_network_runs_on_while_a_part_goes_to_the_disk(picture_folder, tmp_path, monkeypatch):
    table, to_come, all_run = (
        index_images(picture_folder({"cat": 12}))[0],
        [*range(12)],
        threading.Event(),
    )
    flush = writing.replace_durably

    class Counting(FakeBackbone):
        def forward(self, pixels):
            del to_come[-len(pixels) :]
            if not to_come:
                all_run.set()
            return super().forward(pixels)

    def slow(temporary, path):
        if path.name.startswith("part-000000000"):
            assert all_run.wait(5), "the disk is waited for"
        flush(temporary, path)

    monkeypatch.setattr(_passing, "_PART_ROWS", 4)
    monkeypatch.setattr(_passing, "usable_cores", lambda: 1)
    monkeypatch.setattr(writing, "replace_durably", slow)
    options = PassOptions(batch_size=1)
    with extract_maps(table, Counting(), tmp_path / "maps.h5", options=options) as store:
        assert len(store) == 12
