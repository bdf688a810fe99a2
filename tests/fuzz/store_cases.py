"""Mutated stores: HDF5 objects of wrong kinds, types, shapes and sizes; and damaged bytes."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import mutations
import numpy as np
import pandas as pd
from conftest import FakeBackbone
from PIL import Image

from featlab.extract import extract_maps
from featlab.images import index_images
from featlab.store import MapStore

Change = Callable[[h5py.File, np.random.Generator, Path], None]
N = 9
ODD_ATTRIBUTES: tuple[Any, ...] = (
    0, -1, 1.5, float("nan"), "", "x", "a" * 60_000, b"\xff\xfe", True, np.zeros(3),
    np.ones((2, 2)),
    np.array(["a", "b"], h5py.string_dtype()), h5py.Empty("f"), h5py.Empty(h5py.string_dtype()),
    "[]", "[1]", '["nowhere"]', '[["last"]]', '{"last": 1}', "null", '["last", "last"]', '"last"',
    '["../images"]', '["../images/path"]', '["last/../early"]', "[" * 30_000, '["\\ud800"]', "1.0",
    "2.0", "1", 1, np.float32(1.0), "featlab-maps", '["early", "last"]', '["last", 3]', '[""]',
    '["/"]', '["."]',
)  # fmt: skip


@functools.cache
def whole() -> bytes:
    """A small store with two layers and boxes."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for row in range(N):
            path = Path(folder, "pictures", "cat" if row < 5 else "dog", f"{row}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)).save(path)
        images, _, _ = index_images(Path(folder, "pictures"))
        rows = np.arange(N)
        boxes = pd.DataFrame({"image": rows, "kind": "body", "label": images["label"]}).assign(
            xmin=1.0, ymin=2.0, xmax=20.0, ymax=30.0
        )
        path = Path(folder, "maps.h5")
        extract_maps(images, FakeBackbone(layers=("early", "last")), path, boxes=boxes).close()
        return path.read_bytes()


def pick(values: Any, rng: np.random.Generator) -> Any:
    return values[rng.integers(len(values))]


def keys_of(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visit(found.append)
    return found


def mutate(file: h5py.File, rng: np.random.Generator, folder: Path) -> None:
    keys = keys_of(file)
    if not keys:
        return
    key = pick(keys, rng)
    choice = rng.integers(12)
    if choice == 0:
        del file[key]
    elif choice in (1, 2):
        place = pick(["/", "images", "provenance", "provenance", key], rng)
        if place not in file:
            return
        holder = file[place]
        names = [*holder.attrs, "layers", "encoding-version", "encoding-type", "root"]
        holder.attrs[pick(names, rng)] = pick(ODD_ATTRIBUTES, rng)
    elif choice == 3:
        holder = file[pick(["/", "provenance", "images"], rng)] if len(file) > 8 else file
        if len(holder.attrs):
            del holder.attrs[pick(list(holder.attrs), rng)]
    elif choice == 4:
        other = pick(keys, rng)
        del file[key]
        if other in file:
            file[key] = file[other]
    elif choice == 5:
        link = (
            h5py.SoftLink(pick(["/nowhere", "/", "/images", f"/{key}"], rng)),
            h5py.ExternalLink(str(folder / "other.h5"), "/secret"),
            h5py.ExternalLink("nowhere.h5", "/x"),
        )
        del file[key]
        file[key] = pick(link, rng)
    elif isinstance(file[key], h5py.Dataset):
        replace_dataset(file, key, rng, folder)
    else:
        del file[key]
        if rng.random() < 0.5:
            file[key] = np.zeros(N)
        else:
            file.create_group(key)


def replace_dataset(file: h5py.File, key: str, rng: np.random.Generator, folder: Path) -> None:
    old = file[key]
    values, shape, dtype = old[()], old.shape, old.dtype
    del file[key]
    choice = rng.integers(9)
    if choice == 0:  # another type
        new = pick(["i1", "u8", "f2", "f4", "f8", "c8", "S3", "O", "V4", "bool"], rng)
        if new == "O":
            file.create_dataset(key, shape, h5py.string_dtype("utf-8"))
        elif rng.random() < 0.5 and np.dtype(new).kind in "iuf" and values.dtype.kind in "iuf":
            file[key] = values.astype(new)
        else:
            file.create_dataset(key, shape, new)
    elif choice == 1:  # another shape
        new = pick([(), (0,), (1,), (N - 1, *shape[1:]), (N + 1, *shape[1:]), (*shape, 2), (N, 4),
                    (0, *shape[1:]), (N, 0), (N, 7, 7, 0), (N, 1), (N, 64), shape[:1]],
                   rng)  # fmt: skip
        file.create_dataset(key, new, dtype, data=None if values.dtype == object else np.ones(new))
    elif choice in (2, 3):  # far more than the file holds
        tail = shape[1:] or (1,)
        new = pick([(2**40,), (2**33, *tail), (N, *tail[:-1], 2**33), (N, 2**20, 2**20, 10),
                    (N, 30_000, 30_000, 1)], rng)  # fmt: skip
        chunks = tuple(min(side, 1 << 10) for side in new)
        while np.prod([float(c) for c in chunks]) * 8 > 2**31:
            chunks = tuple(max(1, c // 4) for c in chunks)
        file.create_dataset(key, new, dtype, chunks=chunks)
    elif choice == 4:  # nothing there at all
        file[key] = h5py.Empty(dtype if dtype.kind != "O" else "f")
    elif choice == 5:  # numbers that are none, or too large, or rows that are not there
        if values.dtype.kind == "f":
            values = values.astype("f8")
            flat = values.reshape(-1)
            flat[rng.integers(flat.size)] = pick([np.nan, np.inf, -np.inf, 1e300, -1e300], rng)
        elif values.dtype.kind in "iu":
            wrong = np.array(pick([-1, -(2**62), 2**62, N], rng), "i8").astype(values.dtype)
            values.reshape(-1)[rng.integers(values.size)] = wrong
        file[key] = values
    elif choice == 6:  # bytes that are no text
        file[key] = np.array([b"\xff\xfe"] * N, "S4")
    elif choice == 7:  # other files' bytes
        (folder / "secret").write_bytes(b"secret" * 10_000)
        size = int(np.prod(shape)) * (dtype.itemsize if dtype.kind != "O" else 8)
        kind = "S8" if dtype.kind == "O" else dtype
        file.create_dataset(key, shape, kind, external=[(str(folder / "secret"), 0, max(size, 1))])
    else:
        layout = h5py.VirtualLayout(shape or (1,), "f4")
        layout[...] = h5py.VirtualSource(str(folder / "nowhere.h5"), "x", shape or (1,))
        file.create_virtual_dataset(key, layout)


def use(path: Path) -> str:
    """Read everything as featlab does; what is read must fit together."""
    with MapStore(path) as store:
        n = len(store)
        repr(store), store.classes
        json.dumps({key: str(value) for key, value in store.provenance.items()})
        for table in (store.images, store.boxes, store.skipped):
            str(table)
        assert all(isinstance(label, str) for label in store.images["label"])
        assert store.boxes["image"].between(0, n - 1).all()
        assert np.isfinite(store.boxes[["xmin", "ymin", "xmax", "ymax"]].to_numpy()).all()
        assert store.frames.shape == (n, 4)
        assert store.colour_histogram.shape == (n, 64)
        for layer in store.layers:
            h, w, c = store.map_shape(layer)
            for how in ("mean", "max"):
                pooled = store.pooled(layer=layer, pooling=how)
                assert pooled.dtype == np.float32 and pooled.shape == (n, c)
            for rows, maps in store.iter_maps(layer=layer, batch=4):
                assert maps.shape == (len(rows), h, w, c) and maps.dtype == np.float32
            assert "secret" not in str(maps)
        store.verify()
        assert "secret" not in str(store.images)
    return "right"


def change_file(path: Path, rng: np.random.Generator, change: Change) -> None:
    """Change one to three things of a file that links may lead out of, to a secret."""
    with h5py.File(path.parent / "other.h5", "w") as other:
        other["secret"] = np.array(["secret"] * N, dtype=h5py.string_dtype())
    with h5py.File(path, "r+") as file:
        for _ in range(rng.integers(1, 4)):
            try:
                change(file, rng, path.parent)
            except (ValueError, TypeError, OSError, KeyError, RuntimeError, MemoryError):
                continue  # h5py refuses to write it, or to read what is there already


def run(number: int, folder: Path) -> str:
    """Change one to three objects of a good store, and read it."""
    path = folder / "maps.h5"
    path.write_bytes(whole())
    change_file(path, np.random.default_rng([9, number]), mutate)
    return use(path)


def run_bytes(number: int, folder: Path) -> str:
    """Damage the bytes of a good store, most often few of them, and read it."""
    rng = np.random.default_rng([10, number])
    path = folder / "maps.h5"
    damage = mutations.flip if number % 3 else mutations.damage
    path.write_bytes(damage(whole(), rng))
    return use(path)
