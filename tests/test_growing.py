"""A pass in shards, a store that refers to its parts, a set that grows: always the same maps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone
from PIL import Image

from featlab import FeatlabError, cli
from featlab.extract import (
    PassOptions,
    _parts,
    _passing,
    append_maps,
    extract_maps,
    extract_shard,
    join_shards,
)
from featlab.extract.stores import find_store
from featlab.images import index_images
from featlab.store import MapStore, writing
from featlab.store.rows import Piece, choose_rows
from featlab.store.writing import join_parts

LAYERS = ("first", "last")
BOX = pd.DataFrame(
    [(3, "body", "cat", 1.0, 2.0, 30.0, 40.0)],
    columns=["image", "kind", "label", "xmin", "ymin", "xmax", "ymax"],
)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(_passing, "_PART_ROWS", 8)


@pytest.fixture
def images(picture_folder) -> pd.DataFrame:
    return index_images(picture_folder({"cat": 30, "dog": 25}))[0]


@pytest.fixture
def whole(images, tmp_path) -> Path:
    path = tmp_path / "whole" / "maps.h5"
    path.parent.mkdir()
    extract_maps(
        images, FakeBackbone(layers=LAYERS), path, boxes=BOX, options=PassOptions(batch_size=4)
    ).close()
    return path


def add_pictures(folder: Path, n: int, seed: int) -> None:
    """Pictures whose names lie between those that are there."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        pixels = rng.integers(0, 256, (50, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{3 * i:03d}-{seed}.png")


def everything(store: MapStore) -> dict[str, np.ndarray]:
    found = {"colours": store.colour_histogram, "frames": store.frames}
    for layer in store.layers:
        found[f"{layer} maps"] = store.maps(layer=layer)
        for how in ("mean", "max"):
            found[f"{layer} {how}"] = store.pooled(layer=layer, pooling=how)
    return found


def assert_equal_stores(a: MapStore, b: MapStore) -> None:
    pd.testing.assert_frame_equal(a.images, b.images)
    pd.testing.assert_frame_equal(a.boxes, b.boxes)
    assert json.dumps(a.provenance, default=repr) == json.dumps(b.provenance, default=repr)
    left, right = everything(a), everything(b)
    assert left.keys() == right.keys()
    for key, values in left.items():
        np.testing.assert_array_equal(values, right[key], key)


# ---------------------------------------------------------------------------- virtual


def test_a_virtual_store_reads_as_the_joined_one(images, whole, tmp_path):
    path = tmp_path / "maps.h5"
    backbone = FakeBackbone(layers=LAYERS)
    options = {"boxes": BOX, "options": PassOptions(batch_size=4)}
    with (
        extract_maps(images, backbone, path, virtual=True, **options) as store,
        MapStore(whole) as expected,
    ):
        assert store.virtual
        assert not expected.virtual
        assert_equal_stores(store, expected)
        store.verify()
        rows = [54, 3, 3, 17, 16, 15, 0]
        np.testing.assert_array_equal(store.maps(rows), expected.maps(rows))
        for (a, x), (b, y) in zip(
            store.iter_pooled(batch=10), expected.iter_pooled(batch=10), strict=True
        ):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(x, y)
    assert path.stat().st_size < whole.stat().st_size / 2
    kept = sorted(file.name for file in (tmp_path / "maps.h5.parts").iterdir())
    assert len(kept) == 7
    assert all(name.startswith("part-") for name in kept)
    again = FakeBackbone(layers=LAYERS)
    extract_maps(images, again, path, boxes=BOX).close()
    assert again.calls == 0
    assert len(list((tmp_path / "maps.h5.parts").iterdir())) == 7


def test_plain_h5py_reads_a_virtual_store_from_anywhere(images, whole, tmp_path, monkeypatch):
    extract_maps(images, FakeBackbone(layers=LAYERS), tmp_path / "maps.h5", virtual=True).close()
    monkeypatch.chdir("/")
    with h5py.File(tmp_path / "maps.h5") as file, h5py.File(whole) as expected:
        for key in ("maps/last", "pooled/first/max", "frames", "colour_histogram"):
            assert file[key].is_virtual
            assert file[key].dtype == expected[key].dtype
            np.testing.assert_array_equal(file[key][()], expected[key][()])
        assert list(file["maps/last"].attrs["axes"]) == ["image", "y", "x", "neuron"]


@pytest.mark.slow
def test_few_files_are_open_at_a_time(images, tmp_path, monkeypatch):
    monkeypatch.setattr(_passing, "_PART_ROWS", 1)
    with extract_maps(images, FakeBackbone(), tmp_path / "maps.h5", virtual=True) as store:
        before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
        store.maps()
        if before:
            assert len(os.listdir("/proc/self/fd")) < before + 20


def test_new_labels_of_a_virtual_store_move_no_maps(images, tmp_path):
    path = tmp_path / "maps.h5"
    extract_maps(images, FakeBackbone(), path, virtual=True).close()
    parts = {file: file.stat().st_mtime_ns for file in tmp_path.glob("maps.h5.parts/*")}
    backbone = FakeBackbone()
    with extract_maps(images.assign(label="bird"), backbone, path) as store:
        assert store.virtual
        assert store.classes == ["bird"]
        store.verify()
    assert backbone.calls == 0
    assert parts == {file: file.stat().st_mtime_ns for file in tmp_path.glob("maps.h5.parts/*")}


def test_a_virtual_store_becomes_one_file(images, whole, tmp_path):
    path = tmp_path / "maps.h5"
    backbone = FakeBackbone(layers=LAYERS)
    extract_maps(
        images, backbone, path, boxes=BOX, options=PassOptions(batch_size=4), virtual=True
    ).close()
    with join_shards(path) as store, MapStore(whole) as expected:
        assert not store.virtual
        assert_equal_stores(store, expected)
    assert not (tmp_path / "maps.h5.parts").exists()


def test_a_virtual_store_that_another_process_writes_is_not_joined(images, tmp_path):
    path = tmp_path / "maps.h5"
    extract_maps(images, FakeBackbone(), path, virtual=True).close()
    with (
        filelock.FileLock(tmp_path / "maps.h5.parts" / "lock"),
        pytest.raises(FeatlabError, match="another process is writing maps.h5"),
    ):
        join_shards(path)
    with MapStore(path) as store:
        assert store.virtual
        store.verify()
    with join_shards(path) as store:
        assert not store.virtual


def test_a_layer_that_is_float32_in_one_part_only(picture_folder, tmp_path):
    images = index_images(picture_folder({"cat": 30}))[0]

    class Bright(FakeBackbone):
        def forward(self, pixels):
            maps = super().forward(pixels)
            return {k: v * (1e6 if self.calls == 3 else 1) for k, v in maps.items()}

    with (
        extract_maps(
            images, Bright(), tmp_path / "a.h5", options=PassOptions(batch_size=8), virtual=True
        ) as a,
        extract_maps(images, Bright(), tmp_path / "b.h5", options=PassOptions(batch_size=8)) as b,
    ):
        assert a.maps().max() > 1e5
        np.testing.assert_array_equal(a.maps(), b.maps())
        a.verify()


@pytest.mark.parametrize("plenty", [True, False])
def test_parts_are_joined_as_they_come_where_there_is_room(
    images, whole, tmp_path, monkeypatch, plenty
):
    """Where there may be none for both, the parts come first: the pass is not stopped half-way."""
    backbone, options = (
        FakeBackbone(layers=LAYERS),
        {"boxes": BOX, "options": PassOptions(batch_size=4)},
    )
    with extract_maps(images, backbone, tmp_path / "v.h5", virtual=True, **options) as virtual:
        pieces, tables = virtual.pieces, virtual.tables
    joining, sizes = tmp_path / "maps.h5.joining", []
    room = sum(piece.file.stat().st_size for piece in pieces)
    monkeypatch.setattr(writing, "_free", lambda path: room * (3 if plenty else 1))

    def coming():
        for piece in pieces:
            sizes.append(joining.stat().st_size)
            yield piece

    join_parts(coming(), tmp_path / "maps.h5", tables)
    assert (np.diff(sizes) > 0).all() if plenty else len(set(sizes)) == 1
    with MapStore(tmp_path / "maps.h5") as store, MapStore(whole) as expected:
        assert_equal_stores(store, expected)


def test_without_room_for_the_store_the_parts_are_finished(images, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_free", lambda path: 1000)
    with pytest.raises(FeatlabError, match="no space left on the disk. The finished parts are"):
        extract_maps(
            images, FakeBackbone(), tmp_path / "maps.h5", options=PassOptions(batch_size=4)
        )
    assert [path.name for path in tmp_path.glob("maps.h5*")] == ["maps.h5.parts"]
    monkeypatch.undo()
    monkeypatch.setattr(_passing, "_PART_ROWS", 8)
    again = FakeBackbone()
    extract_maps(images, again, tmp_path / "maps.h5", options=PassOptions(batch_size=4)).close()
    assert again.calls == 0


def test_a_missing_part_is_named(images, tmp_path):
    extract_maps(images, FakeBackbone(), tmp_path / "maps.h5", virtual=True).close()
    part = sorted(tmp_path.glob("maps.h5.parts/*"))[2]
    part.unlink()
    with pytest.raises(FeatlabError, match=f"is a virtual store and needs .*{part.name}, which"):
        MapStore(tmp_path / "maps.h5")


def test_another_part_in_the_place_of_one_is_refused(images, tmp_path):
    extract_maps(images, FakeBackbone(), tmp_path / "maps.h5", virtual=True).close()
    parts = sorted(tmp_path.glob("maps.h5.parts/*"))
    shutil.copy(parts[-1], parts[0])  # has one row less
    with pytest.raises(FeatlabError, match=f"{parts[0].name} is damaged"):
        MapStore(tmp_path / "maps.h5")


@pytest.mark.parametrize(
    "name", ["../secret.h5", "/etc/secret.h5", "a/../../secret.h5", "C:\\s.h5"]
)
def test_a_store_cannot_name_a_file_outside_its_folder(images, tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    extract_maps(images, FakeBackbone(), folder / "maps.h5", virtual=True).close()
    shutil.copy(next(folder.glob("maps.h5.parts/*")), tmp_path / "up.h5")
    with h5py.File(folder / "maps.h5", "r+") as file:
        file["parts/file"][0] = name
    with pytest.raises(FeatlabError, match="outside of its folder"):
        MapStore(folder / "maps.h5")


def test_a_part_cannot_refer_to_another_file(images, tmp_path):
    extract_maps(images, FakeBackbone(), tmp_path / "maps.h5", virtual=True).close()
    part = sorted(tmp_path.glob("maps.h5.parts/*"))[0]
    part.rename(tmp_path / "elsewhere.h5")
    with h5py.File(part, "w") as file, h5py.File(tmp_path / "elsewhere.h5") as source:
        file.attrs["pass"] = source.attrs["pass"]
        for key in ("maps/last", "pooled/last/mean", "pooled/last/max", "frames"):
            layout = h5py.VirtualLayout(source[key].shape, source[key].dtype)
            layout[:] = h5py.VirtualSource(source[key])
            file.create_virtual_dataset(key, layout)
    with pytest.raises(FeatlabError, match="/frames lies in another file"):
        MapStore(tmp_path / "maps.h5")


def test_a_virtual_dataset_without_the_table_of_parts_is_refused(images, tmp_path):
    extract_maps(images, FakeBackbone(), tmp_path / "maps.h5", virtual=True).close()
    with h5py.File(tmp_path / "maps.h5", "r+") as file:
        del file["parts"]
    with pytest.raises(FeatlabError, match="lies in another file"):
        MapStore(tmp_path / "maps.h5")


# ---------------------------------------------------------------------------- shards


@pytest.mark.parametrize("virtual", [False, True])
def test_shards_in_any_order_give_the_whole_store(images, whole, tmp_path, virtual):
    path = tmp_path / "maps.h5"
    done = [
        extract_shard(
            images,
            FakeBackbone(layers=LAYERS),
            path,
            (k, 3),
            boxes=BOX,
            options=PassOptions(batch_size=4),
        )
        for k in (3, 1, 2)
    ]
    assert sum(done) == len(images)
    with join_shards(path, virtual=virtual) as store, MapStore(whole) as expected:
        assert store.virtual == virtual
        assert_equal_stores(store, expected)
    assert (tmp_path / "maps.h5.parts").exists() == virtual
    assert extract_shard(images, FakeBackbone(layers=LAYERS), path, (1, 3), boxes=BOX) is None


def test_there_may_be_more_shards_than_parts(images, tmp_path):
    done = [extract_shard(images, FakeBackbone(), tmp_path / "m.h5", (k, 9)) for k in range(1, 10)]
    assert done == [8, 8, 8, 8, 8, 8, 7, 0, 0]
    join_shards(tmp_path / "m.h5").close()


def test_a_missing_shard_is_told_and_the_whole_command_does_what_is_left(images, tmp_path):
    path = tmp_path / "maps.h5"
    extract_shard(images, FakeBackbone(), path, (1, 2), options=PassOptions(batch_size=4))
    with pytest.raises(FeatlabError, match="3 of 7 parts, 24 images, are missing"):
        join_shards(path)
    rest = FakeBackbone()
    with extract_maps(images, rest, path, options=PassOptions(batch_size=4)) as store:
        store.verify()
    assert rest.calls == 6


def test_a_shard_of_another_network_is_refused_before_it_runs(images, tmp_path):
    path = tmp_path / "maps.h5"
    extract_shard(images, FakeBackbone(), path, (1, 2))
    other = FakeBackbone(gain=2)
    with pytest.raises(FeatlabError, match="interrupted pass with another weights sha256"):
        extract_shard(images, other, path, (2, 2))
    assert other.calls == 0


def test_a_part_of_another_pass_is_not_taken_for_ours(images, tmp_path):
    for name, gain in (("a", 1), ("b", 2)):
        for k in (1, 2):
            extract_shard(images, FakeBackbone(gain=gain), tmp_path / name, (k, 2))
    part = "part-000000000-000000008.h5"
    shutil.copy(tmp_path / "b.parts" / part, tmp_path / "a.parts" / part)
    with pytest.raises(FeatlabError, match=f"1 of 7 parts, 8 images, .* the first is {part}"):
        join_shards(tmp_path / "a")


def test_one_shard_twice_and_a_whole_pass_beside_one_are_refused(images, tmp_path):
    path = tmp_path / "maps.h5"
    errors = []

    class Nosy(FakeBackbone):
        def forward(self, pixels):
            if not self.calls:
                for attempt in (
                    lambda: extract_shard(images, FakeBackbone(), path, (1, 2)),
                    lambda: extract_maps(images, FakeBackbone(), path),
                ):
                    with pytest.raises(FeatlabError) as error:
                        attempt()
                    errors.append(str(error.value))
            return super().forward(pixels)

    extract_shard(images, Nosy(), path, (1, 2))
    assert len(errors) == 2
    assert all("another process is writing maps.h5" in error for error in errors)


@pytest.mark.slow
def test_two_shards_at_the_same_time(images, whole, tmp_path):
    path, code = (
        tmp_path / "maps.h5",
        (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from conftest import FakeBackbone\n"
            "from featlab.extract import PassOptions, _passing, extract_shard\n"
            "from featlab.images import index_images\n"
            "_passing._PART_ROWS = 8\n"
            "images = index_images(sys.argv[2])[0]\n"
            "extract_shard(images, FakeBackbone(layers=('first', 'last')), sys.argv[3],\n"
            "              (int(sys.argv[4]), 2), options=PassOptions(batch_size=4))\n"
        ),
    )
    here, folder = str(Path(__file__).parent), images["folder"].iloc[0]
    with subprocess.Popen([sys.executable, "-c", code, here, folder, str(path), "1"]) as other:
        backbone, options = FakeBackbone(layers=LAYERS), PassOptions(batch_size=4)
        extract_shard(images, backbone, path, (2, 2), options=options)
        assert other.wait(120) == 0
    with join_shards(path) as store, MapStore(whole) as expected:
        for key, values in everything(store).items():
            np.testing.assert_array_equal(values, everything(expected)[key])


@pytest.mark.parametrize("shard", [(0, 3), (4, 3), (1, 0)])
def test_a_shard_that_is_none(images, tmp_path, shard):
    with pytest.raises(FeatlabError, match="1 <= k <= n"):
        extract_shard(images, FakeBackbone(), tmp_path / "maps.h5", shard)


def test_nothing_to_join(tmp_path):
    with pytest.raises(FeatlabError, match="holds no pass that could be joined"):
        join_shards(tmp_path / "maps.h5")


# ---------------------------------------------------------------------------- append


def test_a_grown_set_runs_only_what_is_new(images, tmp_path):
    extract_maps(
        images, FakeBackbone(), tmp_path / "old.h5", options=PassOptions(batch_size=1)
    ).close()
    root = Path(images["folder"].iloc[0])
    old_bytes = (tmp_path / "old.h5").read_bytes()
    add_pictures(root / "cat", 6, seed=9)  # among the old ones, by name
    add_pictures(root / "ant", 5, seed=10)  # before all of them
    (root / "dog").joinpath(sorted(os.listdir(root / "dog"))[3]).unlink()
    moved = sorted((root / "dog").iterdir())[0]
    moved.rename(root / "dog" / f"zz{moved.suffix}")
    grown = index_images(root)[0]
    backbone = FakeBackbone()
    with (
        append_maps(grown, backbone, tmp_path / "old.h5", tmp_path / "new.h5") as store,
        extract_maps(
            grown, FakeBackbone(), tmp_path / "fresh.h5", options=PassOptions(batch_size=1)
        ) as expected,
    ):
        assert len(store) == 55 + 11 - 1
        pd.testing.assert_frame_equal(store.images, expected.images)
        for key, values in everything(store).items():
            np.testing.assert_array_equal(values, everything(expected)[key], key)
        store.verify()
        assert store.provenance["image_set_digest"] == expected.provenance["image_set_digest"]
    assert backbone.calls == 2  # 11 pictures in parts of 8
    assert (tmp_path / "old.h5").read_bytes() == old_bytes
    assert (tmp_path / "new.h5").stat().st_size < (tmp_path / "old.h5").stat().st_size / 2
    again = FakeBackbone()
    with extract_maps(grown, again, tmp_path / "new.h5") as store:
        assert len(store) == 65
    assert again.calls == 0


def test_new_labels_are_written_by_one_process_at_a_time(images, tmp_path):
    path = tmp_path / "maps.h5"
    extract_maps(images, FakeBackbone(), path).close()
    parts = _parts.parts_of(path)
    parts.mkdir()
    with _parts.sole_writer(parts), pytest.raises(FeatlabError, match="another process is writ"):
        find_store(images.assign(label="bird"), FakeBackbone(), path)
    with find_store(images.assign(label="bird"), FakeBackbone(), path) as store:
        assert store.classes == ["bird"]
    assert not parts.exists()


def test_large_jpegs_may_join_a_set_of_small_pictures(images, tmp_path):
    extract_maps(
        images, FakeBackbone(), tmp_path / "old.h5", options=PassOptions(batch_size=1)
    ).close()
    root = Path(images["folder"].iloc[0])
    pixels = np.random.default_rng(0).integers(0, 256, (700, 800, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(root / "cat" / "large.jpg")
    grown = index_images(root)[0]
    with (
        append_maps(grown, FakeBackbone(), tmp_path / "old.h5", tmp_path / "new.h5") as store,
        extract_maps(
            grown, FakeBackbone(), tmp_path / "fresh.h5", options=PassOptions(batch_size=1)
        ) as expected,
    ):
        np.testing.assert_array_equal(store.maps(), expected.maps())
    extract_maps(grown, FakeBackbone(), tmp_path / "new.h5").close()


def test_a_store_that_has_grown_grows_again_and_becomes_one_file(images, tmp_path):
    root = Path(images["folder"].iloc[0])
    extract_maps(
        images, FakeBackbone(), tmp_path / "0.h5", options=PassOptions(batch_size=1)
    ).close()
    for k in (1, 2):
        add_pictures(root / "cat", 9, seed=20 + k)
        grown = index_images(root)[0]
        append_maps(grown, FakeBackbone(), tmp_path / f"{k - 1}.h5", tmp_path / f"{k}.h5").close()
    with MapStore(tmp_path / "2.h5") as store:
        files = {piece.file.parent.name for piece in store.pieces}
        assert files == {tmp_path.name, "1.h5.parts", "2.h5.parts"}
        expected = everything(store)
    with join_shards(tmp_path / "2.h5") as store:
        assert not store.virtual
        assert len(store) == 73
        store.verify()
        for key, values in everything(store).items():
            np.testing.assert_array_equal(values, expected[key])


@pytest.mark.slow
def test_parts_that_another_store_refers_to_are_never_cleared(images, tmp_path):
    root, paths = Path(images["folder"].iloc[0]), [tmp_path / f"{k}.h5" for k in range(3)]
    extract_maps(images, FakeBackbone(), paths[0], options=PassOptions(batch_size=1)).close()
    tables = []
    for k in (1, 2):
        add_pictures(root / "cat", 9, seed=20 + k)
        tables.append(index_images(root)[0])
        append_maps(
            tables[-1], FakeBackbone(), paths[k - 1], paths[k], options=PassOptions(batch_size=1)
        ).close()
    with MapStore(paths[2]) as store:
        expected = everything(store)
    join_shards(paths[1]).close()  # one file now, but its parts are those of the next store too
    extract_maps(tables[0], FakeBackbone(), paths[1]).close()
    with MapStore(paths[2]) as store:
        for key, values in everything(store).items():
            np.testing.assert_array_equal(values, expected[key])


def test_an_old_store_that_was_made_anew_is_not_taken_for_the_old_one(images, tmp_path):
    extract_maps(images.iloc[:30], FakeBackbone(), tmp_path / "old.h5").close()
    append_maps(images, FakeBackbone(), tmp_path / "old.h5", tmp_path / "new.h5").close()
    (tmp_path / "old.h5").unlink()
    extract_maps(images.iloc[10:40], FakeBackbone(), tmp_path / "old.h5").close()
    with pytest.raises(FeatlabError, match="of an earlier .*old.h5, which has been made anew"):
        MapStore(tmp_path / "new.h5").maps()


def test_a_set_that_has_only_shrunk_runs_nothing(images, tmp_path):
    extract_maps(images, FakeBackbone(), tmp_path / "old.h5").close()
    backbone = FakeBackbone()
    fewer = images.iloc[10:40]
    with append_maps(fewer, backbone, tmp_path / "old.h5", tmp_path / "new.h5") as store:
        assert len(store) == 30
        with MapStore(tmp_path / "old.h5") as old:
            np.testing.assert_array_equal(store.maps(), old.maps(range(10, 40)))
    assert backbone.calls == 0
    assert not (tmp_path / "new.h5.parts").exists()


def test_the_old_store_may_become_one_file_while_the_new_one_is_made(images, tmp_path):
    """Its parts stay: the new store refers to them."""
    old, new = tmp_path / "old.h5", tmp_path / "new.h5"
    few = images.iloc[:20].reset_index(drop=True)
    options = PassOptions(batch_size=4)
    extract_maps(few, FakeBackbone(), old, options=options, virtual=True).close()
    network = FakeBackbone()
    run = network.forward

    def meanwhile(pixels):
        if network.calls == 0:
            join_shards(old).close()
        return run(pixels)

    network.forward = meanwhile
    with append_maps(images, network, old, new, options=options) as store, MapStore(old) as one:
        store.verify()
        assert not one.virtual and len(store) == len(images)
        np.testing.assert_array_equal(store.maps(range(20)), one.maps())


def test_what_cannot_be_appended_to_is_refused_before_the_pass(images, tmp_path):
    extract_maps(images, FakeBackbone(), tmp_path / "old.h5").close()
    other = FakeBackbone(gain=2)
    with pytest.raises(FeatlabError, match=r"old.h5 was made with another weights sha256"):
        append_maps(images.iloc[:9], other, tmp_path / "old.h5", tmp_path / "new.h5")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(FeatlabError, match="does not lie in .*elsewhere, nor below"):
        append_maps(images.iloc[:9], FakeBackbone(), tmp_path / "old.h5", elsewhere / "new.h5")
    with pytest.raises(FeatlabError, match="give another path"):
        append_maps(images, FakeBackbone(), tmp_path / "old.h5", tmp_path / "old.h5")
    assert other.calls == 0


def test_an_interrupted_append_goes_on_and_is_not_joined_by_hand(images, tmp_path):
    extract_maps(images.iloc[:20], FakeBackbone(), tmp_path / "old.h5").close()
    broken = FakeBackbone(fail_at=5, error=RuntimeError("power cut"))
    arguments = (tmp_path / "old.h5", tmp_path / "new.h5")
    with pytest.raises(RuntimeError):
        append_maps(images, broken, *arguments, options=PassOptions(batch_size=4))
    with pytest.raises(FeatlabError, match="--append"):
        join_shards(tmp_path / "new.h5")
    rest = FakeBackbone()
    append_maps(images, rest, *arguments, options=PassOptions(batch_size=4)).close()
    assert 0 < rest.calls < 9


def test_rows_are_chosen_as_runs():
    pieces = [Piece(Path("a"), 0, 4), Piece(Path("b"), 10, 13), Piece(Path("a"), 4, 6)]
    chosen = choose_rows(pieces, [1, 2, 3, 7, 8, 4, 6, 0])
    assert chosen == [
        Piece(Path("a"), 1, 6),
        Piece(Path("b"), 10, 11),
        Piece(Path("b"), 12, 13),
        Piece(Path("a"), 0, 1),
    ]
    assert choose_rows(pieces, []) == []


# ------------------------------------------------------------------------ command line


def featlab(*arguments: object) -> int:
    """Run the command line in this process; returns the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["featlab", *map(str, arguments)])
        patch.setattr(cli._pass, "load_network", lambda *_, **__: FakeBackbone(layers=LAYERS))
        with pytest.raises(SystemExit) as end:
            cli.main()
    return int(end.value.code or 0)


@pytest.mark.slow
def test_shards_and_join_from_a_shell(images, whole, tmp_path, capsys):
    path = tmp_path / "maps.h5"
    for k in (1, 2):
        assert featlab("extract", images["folder"].iloc[0], "-o", path, "--shard", f"{k}/2") == 0
        assert f"shard {k} of 2: " in capsys.readouterr().out
    assert featlab("join", path, "--virtual") == 0
    assert featlab("info", path) == 0
    assert "virtual: its maps lie in 7 other files" in capsys.readouterr().out
    assert featlab("join", path) == 0
    assert featlab("verify", path) == 0
    assert featlab("extract", images["folder"].iloc[0], "-o", path, "--shard", "1/2") == 0
    assert f"{path} is finished already" in capsys.readouterr().out
    with MapStore(path) as store, MapStore(whole) as expected:
        for key, values in everything(store).items():
            np.testing.assert_array_equal(values, everything(expected)[key])


def test_append_from_a_shell(images, tmp_path, capsys):
    root = Path(images["folder"].iloc[0])
    old, new = tmp_path / "old.h5", tmp_path / "new.h5"
    assert featlab("extract", root, "-o", old) == 0
    add_pictures(root / "cat", 4, seed=1)
    assert featlab("extract", root, "-o", old) == 1
    assert "--append" in capsys.readouterr().err
    assert featlab("extract", root, "-o", new, "--append", old) == 0
    assert "59 images" in capsys.readouterr().out
    assert featlab("verify", new) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shard", "0/3"], "--shard must be k/n"),
        (["--shard", "three"], "--shard must be k/n"),
        (["--shard", "1/2", "--virtual"], "--shard goes without"),
        (["--scheduler", "nonsense://x"], "no Dask scheduler answers at nonsense"),
        (["--append", "absent.h5"], "there is no store absent.h5"),
    ],
)
def test_what_cannot_be_is_one_line(images, tmp_path, capsys, options, words):
    assert featlab("extract", images["folder"].iloc[0], "-o", tmp_path / "maps.h5", *options) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def spoil(images: pd.DataFrame) -> list[str]:
    """One picture is deleted, one is another, one is no picture; their paths."""
    files = [Path(images["folder"][0], images["path"][row]) for row in (5, 9, 40)]
    files[0].unlink()
    files[1].write_bytes(files[2].read_bytes())
    files[2].write_bytes(b"no picture")
    return images["path"][[5, 9, 40]].tolist()


@pytest.mark.parametrize(
    "way",
    [
        "joined",
        "appended",
        *(
            pytest.param(way, marks=pytest.mark.slow)
            for way in ("virtual", "shards", "interrupted")
        ),
    ],
)
def test_what_cannot_be_read_in_the_pass_is_left_out_and_named(images, whole, tmp_path, way):
    """All other rows are those of the whole set to the bit; and the store is known again."""
    boxes = pd.concat([BOX.assign(image=row) for row in (3, 5, 40, 54)], ignore_index=True)
    path, options = tmp_path / "whole" / "m.h5", PassOptions(batch_size=4, on_error="skip")
    made = {"boxes": boxes, "options": options}

    def network(**more):
        return FakeBackbone(layers=LAYERS, **more)

    if way == "appended":
        some = images.iloc[:4].reset_index(drop=True)
        extract_maps(some, network(), tmp_path / "whole" / "old.h5", options=options).close()
    lost = spoil(images)
    with pytest.raises(FeatlabError, match=f"{lost[0]} could not be read"):
        extract_maps(images, network(), tmp_path / "raised.h5")
    if way == "shards":
        for k in (1, 2):
            extract_shard(images, network(), path, (k, 2), **made)
        join_shards(path).close()
    elif way == "appended":
        append_maps(images, network(), tmp_path / "whole" / "old.h5", path, **made).close()
    else:
        if way == "interrupted":
            with pytest.raises(KeyboardInterrupt):
                extract_maps(images, network(fail_at=7, error=KeyboardInterrupt()), path, **made)
            assert list((tmp_path / "whole" / "m.h5.parts").glob("part-*"))
        extract_maps(images, network(), path, virtual=way == "virtual", **made).close()
    kept = np.delete(np.arange(55), [5, 9, 40])
    with MapStore(path) as store, MapStore(whole) as every:
        assert store.virtual == (way in ("virtual", "appended"))
        assert store.images["path"].tolist() == images["path"][kept].tolist()
        assert store.boxes["image"].tolist() == [3, 51]
        assert store.skipped["path"].tolist() == lost
        words = ("could not be read: No such", "has changed since", "has changed since")
        for reason, word in zip(store.skipped["reason"], words, strict=True):
            assert reason.startswith(f"in the pass it {word}")
        full = everything(every)
        for name, values in everything(store).items():
            assert values.tobytes() == full[name][kept].tobytes(), name
    backbone = network()
    extract_maps(images, backbone, path, **made).close()
    assert backbone.calls == 0
    with pytest.raises(FeatlabError, match="another image set digest"):
        extract_maps(images, backbone, path, boxes=boxes)


def test_no_picture_is_left_in_the_pass(images, tmp_path):
    some = images.iloc[:2]
    for path in some["path"]:
        Path(some["folder"][0], path).unlink()
    with pytest.raises(FeatlabError, match=r"no picture is left:\n  cat/000.png: in the pass it"):
        extract_maps(some, FakeBackbone(), tmp_path / "m.h5", options=PassOptions(on_error="skip"))
