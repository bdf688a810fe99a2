"""The store: what is written is what is read, and damage has a name."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone
from PIL import Image

from featlab import FeatlabError
from featlab.extract import extract_maps
from featlab.images import index_images
from featlab.images.pixels import thumbnail
from featlab.store import MapStore
from featlab.store.rows import read_chunks
from featlab.store.writing import PartWriter, join_parts

ARCHIVE = Path(__file__).parent / "archives" / "maps-v1.0.h5"


@pytest.fixture
def store_path(picture_folder, tmp_path) -> Path:
    images, boxes, _ = index_images(picture_folder({"cat": 5, "dog": 4}))
    boxes = pd.DataFrame(
        {
            "image": [0, 0, 8],
            "kind": ["body", "head", "body"],
            "label": ["cat", "cat", "dog"],
            "xmin": [1.5, 2, 3],
            "ymin": [1, 2, 3.25],
            "xmax": [20, 21, 22],
            "ymax": [20, 21, 22],
        }
    )
    path = tmp_path / "maps.h5"
    extract_maps(images, FakeBackbone(layers=("early", "last")), path, boxes=boxes).close()
    return path


def test_a_link_that_leads_to_itself_is_damage(store_path):
    """HDF5 cannot even say whether there is anything below it, such as `images/levels`."""
    with h5py.File(store_path) as file:
        keys = [*file, "images/path", "own_head", "own", "parts"]
    for key in keys:
        copy = shutil.copy(store_path, store_path.with_name("copy.h5"))
        with h5py.File(copy, "r+") as file:
            if key in file:
                del file[key]
            file[key] = h5py.SoftLink(f"/{key}")
        with pytest.raises(FeatlabError, match=f"{copy} is damaged.*extract it again"):
            MapStore(copy)


def test_tables_and_provenance_come_back(store_path):
    with MapStore(store_path) as store:
        assert len(store) == 9
        assert store.classes == ["cat", "dog"]
        assert store.layers == ["early", "last"]
        assert list(store.images["label"]) == ["cat"] * 5 + ["dog"] * 4
        assert store.boxes.loc[2].to_dict() == {
            "image": 8, "kind": "body", "label": "dog",
            "xmin": 3.0, "ymin": 3.25, "xmax": 22.0, "ymax": 22.0,
        }  # fmt: skip
        assert store.provenance["backbone"] == "fake"
        assert len(store.provenance["image_set_digest"]) == 32
        assert store.map_shape("early") == (7, 7, 10)
        np.testing.assert_allclose(store.colour_histogram.sum(axis=1), 1, atol=1e-5)
        store.verify()


def test_thumbnails_are_the_pictures_and_travel_with_the_rows(store_path):
    with MapStore(store_path) as store:
        first = Image.open(Path(store.images["folder"].iloc[0], store.images["path"][0])).convert(
            "RGB"
        )
        np.testing.assert_array_equal(store.thumbnails[0], thumbnail(first))
        assert store.thumbnails.shape == (9, 48, 48) and store.thumbnails.dtype == np.uint8
        virtual = store_path.with_name("virtual.h5")
        join_parts(store.pieces, virtual, store.tables, virtual=True)
        with MapStore(virtual) as again:
            np.testing.assert_array_equal(again.thumbnails, store.thumbnails)


def test_pooled_is_the_networks_own_float32_and_agrees_with_the_maps(store_path):
    with MapStore(store_path) as store:
        maps = store.maps()
        assert maps.dtype == np.float32
        for how, reduced in (("mean", maps.mean(axis=(1, 2))), ("max", maps.max(axis=(1, 2)))):
            pooled = store.pooled(pooling=how)
            assert pooled.dtype == np.float32
            np.testing.assert_allclose(pooled, reduced, atol=2e-3)
            assert not np.array_equal(pooled, pooled.astype(np.float16))


@pytest.mark.parametrize(
    "rows",
    [[3], [7, 2, 2, 5], slice(2, 6), 4, np.arange(9) % 2 == 0, [-1], np.array([], dtype=int)],
)
def test_rows_are_taken_as_numpy_would(store_path, rows):
    with MapStore(store_path) as store:
        everything = store.maps()
        expected = np.atleast_1d(np.arange(9)[rows])
        np.testing.assert_array_equal(store.maps(rows), everything[expected])
        seen = [(list(numbers), maps) for numbers, maps in store.iter_maps(rows, batch=2)]
        assert [n for numbers, _ in seen for n in numbers] == list(expected)
        for numbers, maps in seen:
            np.testing.assert_array_equal(maps, everything[numbers])


@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize(
    "rows",
    [slice(2, 7, 2), np.zeros(9, bool), [8, 1, 1, 0], np.arange(9) % 3 == 0, list(range(9))[::-1]],
)
@pytest.mark.parametrize(
    "block", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4096))]
)
def test_some_rows_of_pooled(store_path, monkeypatch, how, rows, block):
    monkeypatch.setattr("featlab.store._reading._BLOCK", block)
    with MapStore(store_path) as store:
        expected = store.pooled(layer="early", pooling=how)[rows]
        found = store.pooled(rows, layer="early", pooling=how)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


def test_plain_h5py_reads_it_with_its_axes_and_one_image_per_chunk(store_path):
    with h5py.File(store_path) as file:
        assert file.attrs["encoding-type"] == "featlab-maps"
        assert file.attrs["encoding-version"] == "1.1"
        maps = file["maps/last"]
        assert maps.dtype == np.float16
        assert maps.chunks == (1, 7, 7, 10)
        assert list(maps.attrs["axes"].astype(str)) == ["image", "y", "x", "neuron"]
        assert (maps.compression, maps.compression_opts) == ("gzip", 1)
        assert file["images/path"].asstr()[0] == "cat/000.png"


def test_an_archived_store_of_version_1_0_still_opens():
    with MapStore(ARCHIVE) as store:
        store.verify()
        assert store.layers == ["last"]
        assert list(store.images["label"]) == ["cat"] * 3 + ["dog"] * 3
        assert store.pooled().shape == (6, 10)
        # Random pixels 0 … 255: their mean is a half of the range.
        assert store.pooled()[:, 0] == pytest.approx(0.5, abs=0.01)
        assert list(store.boxes["kind"]) == ["body"]


def test_unknown_layer_pooling_row_and_batch_say_what_is_allowed(store_path):
    with MapStore(store_path) as store:
        with pytest.raises(FeatlabError, match="layer must be one of early, last.*got 'first'"):
            store.maps(layer="first")
        with pytest.raises(FeatlabError, match="pooling must be one of mean, max, got 'median'"):
            store.pooled(pooling="median")
        for read in (store.maps, store.iter_maps, store.pooled, store.iter_pooled):
            with pytest.raises(FeatlabError, match="rows must lie in 0 … 8, got 9"):
                read([9])
            with pytest.raises(FeatlabError, match="rows as a mask must have 9 entries, got 3"):
                read([True, False, True])
            with pytest.raises(FeatlabError, match="rows must be row numbers or a mask"):
                read([0.5])
        for iterate in (store.iter_maps, store.iter_pooled):
            with pytest.raises(FeatlabError, match="batch must be at least 1, got 0"):
                iterate(batch=0)


def test_no_rows_give_empty_arrays_of_the_right_shape(store_path):
    with MapStore(store_path) as store:
        for none in ([], np.zeros(len(store), bool), slice(3, 3), ()):
            assert store.maps(none).shape == (0, *store.map_shape())
            assert store.pooled(none, pooling="max").shape == (0, store.map_shape()[2])
            assert [*store.iter_maps(none), *store.iter_pooled(none)] == []


def test_the_store_is_read_only(store_path):
    with MapStore(store_path) as store, pytest.raises((OSError, ValueError)):
        store._file["maps/last"][0] = 0


def test_another_process_finds_it_from_any_folder(store_path, monkeypatch):
    monkeypatch.chdir(store_path.parent)
    with MapStore(store_path.name) as store:
        monkeypatch.chdir("/")
        with pickle.loads(pickle.dumps(store)) as again:
            np.testing.assert_array_equal(again.maps(), store.maps())


def test_a_folder_is_its_only_store(store_path, tmp_path):
    (tmp_path / "report.html").write_text("a page")
    with MapStore(tmp_path) as store, MapStore(store_path) as own:
        assert store.path == tmp_path / "maps.h5" and store.images.equals(own.images)
        assert pickle.loads(pickle.dumps(store)).path == store.path.absolute()
    shutil.copy(store_path, tmp_path / "other.h5")
    with pytest.raises(FeatlabError, match=r"holds several stores \(maps.h5, other.h5\); give one"):
        MapStore(tmp_path)
    (tmp_path / "below").mkdir()
    with pytest.raises(FeatlabError, match="is a folder without a store; give the store's file"):
        MapStore(tmp_path / "below")


def test_what_is_not_a_store_is_refused_by_name(tmp_path, store_path):
    with pytest.raises(FeatlabError, match="there is no store .*nowhere.h5"):
        MapStore(tmp_path / "nowhere.h5")
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    with pytest.raises(FeatlabError, match="text.h5 is not a featlab store"):
        MapStore(text)
    other = tmp_path / "other.h5"
    h5py.File(other, "w").close()
    with pytest.raises(FeatlabError, match="encoding-type is None"):
        MapStore(other)
    newer = shutil.copy(store_path, tmp_path / "newer.h5")
    with h5py.File(newer, "r+") as file:
        file.attrs["encoding-version"] = "2.0"
    with pytest.raises(FeatlabError, match=r"newer.h5 has encoding-version '2.0'.*update"):
        MapStore(newer)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_store_is_refused(store_path, tmp_path, share):
    data = store_path.read_bytes()
    short = tmp_path / "short.h5"
    short.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(FeatlabError, match="short.h5"):
        MapStore(short).verify()


@pytest.mark.parametrize(
    "key", ["images", "images/sha256", "maps/last", "pooled/early/max", "frames", "provenance"]
)
def test_a_missing_part_is_named(store_path, key):
    with h5py.File(store_path, "r+") as file:
        del file[key]
    with pytest.raises(FeatlabError, match=f"maps.h5 is damaged.*{key}"):
        MapStore(store_path)


@pytest.mark.parametrize("key", ["thumbnails", "own/codes", "own/logits", "own/totals"])
def test_verify_reads_all_that_a_store_may_have(store_path, key):
    with h5py.File(store_path, "r+") as file:
        one = np.zeros((9, 1), np.float32)
        file.create_dataset("own_head/classes", data=["a", "b"], dtype=h5py.string_dtype())
        for name in ("own/codes", "own/logits", "own/totals"):
            values = one.astype(np.int32) if name == "own/codes" else one
            file.create_dataset(name, data=values, chunks=(9, 1), compression="gzip")
    with MapStore(store_path) as store:
        assert store.own_head is not None
        store.verify()
    with h5py.File(store_path, "r+") as file:
        file[key].id.write_direct_chunk((0, 0), b"no deflate stream" * 9)
    with MapStore(store_path) as store, pytest.raises(FeatlabError, match=f"damaged at /{key}"):
        store.verify()


@pytest.mark.parametrize(
    "column", ["images/path", "images/label", "images/split", "images/group", "boxes/kind"]
)
def test_verify_finds_a_changed_text(store_path, column):
    with h5py.File(store_path, "r+") as file:
        words = file[column].asstr()[()]
        words[1] = chr(ord(words[1][0]) ^ 1) + words[1][1:] if words[1] else "a"
        file[column][()] = words
    with (
        MapStore(store_path) as store,
        pytest.raises(FeatlabError, match="do not agree with .*digest"),
    ):
        store.verify()


def test_verify_finds_a_changed_number_and_a_damaged_chunk(store_path, tmp_path):
    changed = shutil.copy(store_path, tmp_path / "changed.h5")
    with h5py.File(changed, "r+") as file:
        row = file["pooled/last/mean"][3]
        row[1] += 0.5
        file["pooled/last/mean"][3] = row
    with MapStore(changed) as store, pytest.raises(FeatlabError, match="/pooled/last/mean.*row 3"):
        store.verify()
    with h5py.File(store_path) as file:
        chunk = file["maps/last"].id.get_chunk_info(4)
    with open(store_path, "rb+") as file:
        file.seek(chunk.byte_offset + chunk.size // 2)
        file.write(b"\xff\x00\xff\x00")
    with MapStore(store_path) as store, pytest.raises(FeatlabError, match="damaged at /maps/last"):
        store.verify()


def test_every_number_is_rounded_to_the_nearest_half(tmp_path):
    # Just below powers of two the mantissa carries, which the HDF5 library's own conversion loses.
    below = np.nextafter(2.0 ** np.arange(-14, 15), 0, dtype=np.float32)
    rng = np.random.default_rng(0)
    values = np.concatenate([below, -below, rng.normal(0, 3, 4096 - 2 * len(below))])
    maps = values.astype(np.float32).reshape(1, 8, 8, 64)
    assert_rounded_as_numpy_does(tmp_path, maps)
    # Every float16, what lies halfway between two, and the neighbours of both.
    halves = np.sort(np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32))
    halves = halves[np.isfinite(halves)]
    marks = np.concatenate([halves, (halves[1:] + halves[:-1]) / 2, np.float32([-0.0])])
    around = [np.nextafter(marks, np.float32(end)) for end in (-65504, 65504)]
    values = np.concatenate([marks, *around])
    maps = np.resize(values, (1, -(-len(values) // 64), 1, 64))
    assert_rounded_as_numpy_does(tmp_path, maps[:, :, :, :32])  # not contiguous, either
    assert_rounded_as_numpy_does(tmp_path, maps)


def assert_rounded_as_numpy_does(tmp_path, maps):
    part = tmp_path / "part.h5"
    writer = PartWriter(part, 1)
    writer.append({"layer": maps}, np.full((1, 64), 1 / 64), np.array([[0.0, 0.0, 1.0, 1.0]]))
    writer.finish()
    with h5py.File(part) as file:
        stored = file["maps/layer"][:]
    assert stored.dtype == np.float16
    bits = maps.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(stored.view(np.uint16), bits)


def test_a_layer_that_overflows_half_precision_becomes_float32(tmp_path):
    writer = PartWriter(tmp_path / "part.h5", 3)
    small = np.full((2, 2, 2, 1), 3.25, np.float32)
    colours, frames = np.zeros((2, 64), np.float32), np.zeros((2, 4))
    writer.append({"a": small, "b": small}, colours, frames)
    writer.append({"a": small[:1] * 1e5, "b": small[:1]}, colours[:1], frames[:1])
    writer.finish()
    with h5py.File(tmp_path / "part.h5") as file:
        assert file["maps/a"].dtype == np.float32
        assert file["maps/b"].dtype == np.float16
        np.testing.assert_array_equal(file["maps/a"][:, 0, 0, 0], np.float32([3.25, 3.25, 3.25e5]))


def test_nothing_is_written_before_the_first_batch(tmp_path):
    # An interrupt between the writer and the `try` of its user left a file behind.
    PartWriter(tmp_path / "part.h5", 1)
    assert not list(tmp_path.iterdir())


def test_a_network_that_gives_nan_is_refused(tmp_path):
    writer = PartWriter(tmp_path / "part.h5", 1)
    with pytest.raises(FeatlabError, match="layer 'a' has NaN or infinite"):
        writer.append(
            {"a": np.full((1, 2, 2, 1), np.nan, np.float32)}, np.zeros((1, 64)), np.zeros((1, 4))
        )
    writer.discard()
    assert list(tmp_path.iterdir()) == []


PACKED = {"chunks": (1, 3, 4, 5), "compression": "gzip", "shuffle": True}


@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
@pytest.mark.parametrize("n", [1, 30])
def test_chunks_read_without_hdf5_are_what_hdf5_reads(tmp_path, dtype, n):
    values = np.random.default_rng(0).normal(size=(n, 3, 4, 5)).astype(dtype)
    values[0, 0] = [[-0.0, 6e-8, -6e-8, 65504, -65504]] * 4  # the ends of half precision
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("maps", data=values, **PACKED)
        found = np.full((n, 3, 4, 5), np.nan, np.float32)
        assert read_chunks(dataset, 0, found)
        assert found.tobytes() == values.astype(np.float32).tobytes()
        assert read_chunks(dataset, n - 1, found[:1])
        assert found[0].tobytes() == values[-1].astype(np.float32).tobytes()


@pytest.mark.parametrize("rows", [2, 7, 64])
def test_rows_of_chunks_that_hold_several_are_what_hdf5_reads(tmp_path, rows):
    values = np.random.default_rng(0).normal(size=(65, 5)).astype("<f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        packed = PACKED | {"chunks": (rows, 5), "maxshape": (None, 5)}
        dataset = file.create_dataset("pooled", data=values, **packed)
        for start, stop in [(0, 65), (0, 1), (64, 65), (5, 20), (rows, 2 * rows), (3, rows + 1)]:
            found = np.full_like(values[start:stop], np.nan)
            assert read_chunks(dataset, start, found)
            assert found.tobytes() == values[start:stop].tobytes()


@pytest.mark.parametrize(
    "options",
    [
        PACKED | {"chunks": (1, 3, 4, 4)},
        PACKED | {"shuffle": False},
        PACKED | {"compression": None},
        PACKED | {"fletcher32": True},
        PACKED | {"dtype": "<f8"},
        PACKED | {"dtype": ">f4"},
    ],
)
def test_what_is_stored_otherwise_is_left_to_hdf5(tmp_path, options):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("maps", data=np.ones((4, 3, 4, 5)), **options)
        assert not read_chunks(dataset, 0, np.empty((4, 3, 4, 5), np.float32))


@pytest.mark.parametrize("n", [4, 30])
@pytest.mark.parametrize("damage", ["changed", "cut", "other size", "unfiltered", "missing"])
def test_a_chunk_that_is_not_whole_is_left_to_hdf5(tmp_path, damage, n):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("maps", (n, 3, 4, 5), "<f4", **PACKED)
        values = np.random.default_rng(0).random(dataset.shape)
        dataset[:2], dataset[3:] = values[:2], values[3:]
        if damage != "missing":
            _, chunk = dataset.id.read_direct_chunk((1, 0, 0, 0))
            bad = {
                "changed": chunk[:-1] + bytes([chunk[-1] ^ 1]),
                "cut": chunk[:-4],
                "other size": zlib.compress(bytes(236)),
                "unfiltered": chunk,
            }[damage]
            dataset.id.write_direct_chunk((2, 0, 0, 0), bad, 3 if damage == "unfiltered" else 0)
        assert not read_chunks(dataset, 0, np.empty(dataset.shape, np.float32))


BESIDE_OTHERS = """
import sys, threading
import h5py, numpy as np
from featlab.store.rows import read_raw_chunk, write_raw_chunk

folder, done = sys.argv[1], threading.Event()

def others(name):
    while not done.is_set():
        with h5py.File(f"{folder}/{name}.h5", "w") as file:
            file.create_dataset("x", (20, 8), chunks=(1, 8), dtype="f4")[...] = 1
            file.attrs["a"] = "b"

threads = [threading.Thread(target=others, args=(name,)) for name in "ab"]
for thread in threads:
    thread.start()
try:
    for _ in range(8):
        with h5py.File(f"{folder}/own.h5", "w") as file:
            x = file.create_dataset("x", (300, 8), chunks=(1, 8), dtype="f4")
            for row in range(300):
                write_raw_chunk(x, (row, 0), np.full(8, row, "f4").tobytes())
            found = [np.frombuffer(read_raw_chunk(x, (row, 0))[1], "f4") for row in range(300)]
            assert np.array_equal(found, x[:])
finally:
    done.set()
    for thread in threads:
        thread.join()
print("whole")
"""


def test_other_threads_in_hdf5_leave_chunks_alone(tmp_path):
    # In a process of its own: without the lock it dies as often as it raises.
    command = [sys.executable, "-c", BESIDE_OTHERS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "whole", done.stderr


def test_a_store_that_is_being_written_is_in_use(tmp_path, picture_folder):
    path = tmp_path / "maps.h5"
    images, _, _ = index_images(picture_folder({"a": 2, "b": 2}))
    extract_maps(images, FakeBackbone(), path).close()
    code = f"""
import sys
from featlab.store import MapStore
try:
    MapStore({str(path)!r})
except ValueError as error:
    sys.stdout.write(str(error))
"""
    with h5py.File(path, "r+"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "is in use: another process has it open for writing" in done.stdout


def test_the_last_part_has_the_chunks_of_its_store(tmp_path):
    writer = PartWriter(tmp_path / "part.h5", 3, of=300)
    frames = np.arange(12.0).reshape(3, 4)
    writer.append({"layer": np.ones((3, 2, 2, 5), np.float32)}, np.full((3, 64), 1 / 64), frames)
    writer.finish()
    with h5py.File(tmp_path / "part.h5") as file:
        assert file["frames"].chunks == (256, 4) and file["pooled/layer/mean"].chunks == (256, 5)
        assert np.array_equal(file["frames"][()], frames)
