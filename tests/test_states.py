"""Passes, shards, joins, appended stores and faults in any order: nothing is lost or wrong.

Hypothesis draws the orders and shortens one that fails. FEATLAB_STEPS sets how many steps are
taken; `make test-all` takes 1,000. 10,000 take six minutes of one core.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone, draw_pictures
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from power import quick_disk
from test_predict_pages import plain_predictor

from featlab import FeatlabError
from featlab.boxes.geometry import CORNERS
from featlab.extract import (
    PassOptions,
    _passing,
    append_maps,
    extract_maps,
    extract_shard,
    join_shards,
)
from featlab.images import index_images
from featlab.predict import _predictor, load_predictor
from featlab.store import MapStore

N, STEPS = 9, 60
OPTIONS = PassOptions(batch_size=1)
STORES = ["a.h5", "b.h5", "c.h5"]
NAMES = strategies.sampled_from(STORES)
ANSWERS = ["class", "probability", *CORNERS]
# Of overlapping sets, so that calls meet what others left.
SETS = strategies.sampled_from([(0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5, 6, 7, 8), (2, 3, 5, 7)])
SMALL = strategies.integers(0, 7)
LABELS = strategies.sampled_from(["as they are", "others"])
FAULTS = strategies.one_of(
    strategies.none(),
    strategies.none(),
    strategies.tuples(
        strategies.sampled_from(["forward", "replace", "fsync", "interrupt"]),
        SMALL,
    ),
)
# In the middle of a call: something else is done there.
MOMENTS = strategies.tuples(strategies.sampled_from(["forward", "replace", "fsync"]), SMALL)


@contextlib.contextmanager
def fault(
    what: tuple[str, int] | None, meanwhile: Callable[[], object] | None = None
) -> Iterator[FakeBackbone]:
    """A network, and a disk that fails at the k-th call, or a user who interrupts there.

    Or nothing fails, and there something else is done in the meantime.
    """
    kind, k = what or ("", 0)
    lost, full = (
        RuntimeError("the device is lost"),
        OSError(errno.ENOSPC, "No space left on device"),
    )
    left = [k]

    def at(real: Any, error: BaseException) -> Any:
        def call(*arguments: Any) -> Any:
            left[0] -= 1
            if kind and left[0] == -1 and meanwhile is None:
                raise error
            if kind and left[0] == -1:
                meanwhile()
            return real(*arguments)

        return call

    network = FakeBackbone()
    with pytest.MonkeyPatch.context() as patch:
        if kind == "forward":
            patch.setattr(network, "forward", at(network.forward, lost))
        elif kind:
            call = "replace" if kind == "replace" else "fsync"
            error = KeyboardInterrupt() if kind == "interrupt" else full
            patch.setattr(os, call, at(getattr(os, call), error))
        yield network


class Stores(RuleBasedStateMachine):
    """What lies in a folder, beside what ought to be in it: name → paths and labels."""

    images: pd.DataFrame
    whole: MapStore
    model: Path
    said: pd.DataFrame

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="featlab-states-"))
        self.stores: dict[str, tuple[list[str], list[str]]] = {}
        self.virtual: set[str] = set()
        self.foreign: set[str] = set()
        self.files: dict[str, list[Path]] = {}
        self.checked: dict[str, list[tuple[int, ...]]] = {}
        # Whose files, or parts, a store may refer to.
        self.needed: dict[str, set[str]] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def asked(self, rows: tuple[int, ...], labels: str) -> pd.DataFrame:
        images = self.images.iloc[list(rows)].reset_index(drop=True)
        if labels == "others":
            images = images.assign(label=["even" if row % 2 == 0 else "odd" for row in rows])
        return images

    def done(self, name: str, images: pd.DataFrame, call: Any) -> bool:
        """Whether the call came to its end; a store is what it was, or what was asked for."""
        try:
            store = call()
            if isinstance(store, MapStore):
                store.close()
            ended = True
        except (FeatlabError, OSError, RuntimeError, KeyboardInterrupt):
            store, ended = None, False
        if name in self.foreign or not (self.folder / name).exists():
            assert not isinstance(store, MapStore)
            return ended
        before, now = self.stores.get(name), self.note(name)
        wanted = images["path"].tolist(), images["label"].tolist()
        assert now == wanted or (not ended and now == before)
        return ended

    def note(self, name: str) -> tuple[list[str], list[str]]:
        """Note what a store holds, and whether it is one file."""
        with MapStore(self.folder / name) as store:
            now = store.images["path"].tolist(), store.images["label"].tolist()
            (self.virtual.add if store.virtual else self.virtual.discard)(name)
        if name not in self.virtual:
            self.needed.pop(name, None)
        self.stores[name] = now
        return now

    @rule(name=NAMES, rows=SETS, labels=LABELS, what=FAULTS, virtual=strategies.booleans())
    def extract(self, name, rows, labels, what, virtual):
        images, known = self.asked(rows, labels), self.stores.get(name)
        with fault(what) as network:
            path, options = self.folder / name, {"options": OPTIONS, "virtual": virtual}
            done = self.done(name, images, lambda: extract_maps(images, network, path, **options))
        if known is not None:
            assert network.calls == 0 or not done
            assert done or what is not None or known[0] != images["path"].tolist()

    @rule(name=NAMES, rows=SETS, other=NAMES, others=SETS, labels=LABELS, when=MOMENTS)
    def two_writers(self, name, rows, other, others, labels, when):
        """One begins while the other is in the middle of its work."""
        images, more = self.asked(rows, "as they are"), self.asked(others, labels)
        there = name in self.stores

        def second():
            path = self.folder / other
            call = partial(extract_maps, more, FakeBackbone(), path, options=OPTIONS)
            assert not self.done(other, more, call) or other != name or there

        with fault(when, second) as network:
            path, options = self.folder / name, {"options": OPTIONS, "virtual": True}
            self.done(name, images, lambda: extract_maps(images, network, path, **options))

    @precondition(lambda self: self.stores)
    @rule(data=strategies.data(), rows=SETS, what=FAULTS, joined=strategies.none() | MOMENTS)
    def append(self, data, rows, what, joined):
        """Another process may make one file of the old store in the meantime."""
        # Those that are virtual share their parts.
        old = data.draw(strategies.sampled_from(sorted(self.virtual or self.stores)))
        free = sorted({*STORES} - {*self.stores} - self.foreign)
        name = data.draw(strategies.sampled_from(free or sorted({*STORES} - {old})))
        images, known = self.asked(rows, "as they are"), self.stores[old]
        needs, before = {old, *self.needed.get(old, ())}, self.stores.get(name)
        one_file = partial(self.join_now, old) if joined else None
        with fault(joined or what, one_file) as network:
            paths = self.folder / old, self.folder / name
            call = partial(append_maps, images, network, *paths, options=OPTIONS)
            done = self.done(name, images, call)
        assert not done or network.calls <= len({*images["path"]} - {*known[0]})
        if name in self.stores and (before is None or name in self.virtual):
            self.needed.setdefault(name, set()).update(needs)

    @rule(name=NAMES, rows=SETS, share=strategies.integers(1, 2), what=FAULTS)
    def shard(self, name, rows, share, what):
        images = self.asked(rows, "as they are")
        path, shares = self.folder / name, {"shard": (share, 2), "options": OPTIONS}
        with fault(what) as network:
            self.done(name, images, lambda: extract_shard(images, network, path, **shares))

    @rule(data=strategies.data(), virtual=strategies.booleans(), what=FAULTS)
    def join(self, data, virtual, what):
        # Those that are there may be virtual, and parts of theirs another's.
        shared = sorted(self.virtual & {old for others in self.needed.values() for old in others})
        names = (shared, sorted(self.stores), STORES)
        name = data.draw(strategies.one_of(strategies.sampled_from(one) for one in names if one))
        with fault(what):
            self.join_now(name, virtual)

    def join_now(self, name: str, virtual: bool = False) -> None:
        """Join; what was a store holds the same as before."""
        before = self.stores.get(name)
        with contextlib.suppress(FeatlabError, OSError, KeyboardInterrupt):
            join_shards(self.folder / name, virtual=virtual).close()
        if (self.folder / name).exists() and name not in self.foreign:
            assert self.note(name) == before or before is None

    @precondition(lambda self: self.stores)
    @rule(data=strategies.data())
    def predict(self, data):
        """What a predictor that was written to a file says of a store."""
        name = data.draw(strategies.sampled_from(sorted(self.stores)))
        with MapStore(self.folder / name) as store:
            self.same_answers(load_predictor(self.model).predict(store), self.stores[name][0])

    @rule(rows=SETS, keep=strategies.booleans(), what=FAULTS)
    def ask(self, rows, keep, what):
        """What it says of pictures, in a folder with what earlier calls left."""
        images, folder = self.asked(rows, "as they are"), self.folder / "asked"
        options = {"coverage": 0.9, "on_error": "raise", "progress": None}
        with fault(what) as network:
            try:
                said = load_predictor(self.model).of_files(
                    images, self.whole.skipped, network, folder, keep, **options
                )
            except (FeatlabError, OSError, RuntimeError, KeyboardInterrupt):
                # Maps that are kept are of the pictures of an earlier call.
                assert what or keep
                shutil.rmtree(folder, ignore_errors=not folder.exists())
            else:
                self.same_answers(said, images["path"].tolist())

    def same_answers(self, said: pd.DataFrame, paths: list[str]) -> None:
        expected = self.said.set_index("path").loc[paths]
        pd.testing.assert_frame_equal(said.set_index("path")[ANSWERS], expected[ANSWERS])

    @precondition(lambda self: self.stores)
    @rule(data=strategies.data(), how=strategies.sampled_from(["flip", "cut"]), which=SMALL)
    def damage(self, data, how, which):
        """A byte of the maps, or the end of a file, is wrong for a while: `verify` says so."""
        name = data.draw(strategies.sampled_from(sorted(self.stores)))
        with MapStore(self.folder / name) as store:
            pieces, expected = store.pieces, store.maps().tobytes()
        piece = pieces[which % len(pieces)]
        with h5py.File(piece.file) as file:
            chunk = file["maps/last"].id.get_chunk_info_by_coord((piece.start, 0, 0, 0))
        content = piece.file.read_bytes()
        at = chunk.byte_offset + chunk.size * which // 8
        wrong = content[: len(content) * (which + 1) // 9]
        if how == "flip":
            wrong = content[:at] + bytes([content[at] ^ 1 << which]) + content[at + 1 :]
        piece.file.write_bytes(wrong)
        try:
            with MapStore(self.folder / name) as store:
                store.verify()
                assert store.maps().tobytes() == expected
            assert how == "flip"
        except FeatlabError as error:
            assert piece.file.name in str(error)
        finally:
            piece.file.write_bytes(content)

    @rule(name=NAMES, what=strategies.sampled_from(["put", "remove", "tear"]), which=SMALL)
    def disturb(self, name, what, which):
        path, parts = self.folder / name, self.folder / f"{name}.parts"
        if what == "put" and not path.exists():
            path.write_bytes(b"a thesis")
            self.foreign.add(name)
        needed = any(name in others for others in self.needed.values())
        if what == "remove" and not needed:
            path.unlink(missing_ok=True)
            shutil.rmtree(parts, ignore_errors=True)
            for known in (self.stores, self.needed):
                known.pop(name, None)
            for names in (self.foreign, self.virtual):
                names.discard(name)
        torn = sorted(parts.glob("part-*.h5"))
        if what == "tear" and torn and name not in self.stores and not needed:
            # As a machine that loses its power may leave it.
            part = torn[which % len(torn)]
            os.truncate(part, part.stat().st_size * which // 8)

    def state_of(self, files: list[Path]) -> list[tuple[int, ...]]:
        """Changes when one is written, or is no more."""
        found = [file.stat() for file in files if file.exists()]
        return [(one.st_ino, one.st_size, one.st_mtime_ns) for one in found]

    @invariant()
    def every_store_is_whole(self):
        for name in STORES:
            path = self.folder / name
            if name in self.foreign:
                assert path.read_bytes() == b"a thesis"
            assert path.exists() == (name in self.foreign or name in self.stores)
        place = {path: row for row, path in enumerate(self.whole.images["path"])}
        for name, (paths, labels) in self.stores.items():
            if name in self.checked and self.state_of(self.files[name]) == self.checked[name]:
                continue  # nobody touched it
            with MapStore(self.folder / name) as store:
                store.verify()
                assert store.images["path"].tolist() == paths
                assert store.images["label"].tolist() == labels
                rows = [place[path] for path in paths]
                order = np.argsort(rows)
                expected = self.whole.maps(np.sort(rows))
                np.testing.assert_array_equal(store.maps()[order], expected)
                self.files[name] = sorted({store.path, *(piece.file for piece in store.pieces)})
            self.checked[name] = self.state_of(self.files[name])
        assert not [*self.folder.glob("*.joining"), *self.folder.glob("*.parts/*.tmp")]


@pytest.mark.parametrize(
    "steps", [50, pytest.param(1000, marks=pytest.mark.slow)] if "FEATLAB_STEPS" not in os.environ
    else [int(os.environ["FEATLAB_STEPS"])]
)  # fmt: skip
def test_nothing_is_lost_or_wrong_in_any_order(tmp_path, monkeypatch, steps):
    monkeypatch.setattr(_passing, "_PART_ROWS", 2)
    monkeypatch.setattr(_predictor, "_FEW", 2)
    monkeypatch.setattr(_predictor, "PICTURES_AT_ONCE", 4)
    Stores.images = index_images(draw_pictures(tmp_path / "pictures", {"cat": 5, "dog": N - 5}))[0]
    path = tmp_path / "w.h5"
    with extract_maps(Stores.images, FakeBackbone(), path, options=OPTIONS) as whole, quick_disk():
        Stores.whole = whole
        Stores.model = plain_predictor(whole).save(tmp_path / "model.featlab")
        Stores.said = load_predictor(Stores.model).predict(whole)
        run_state_machine_as_test(
            Stores,
            settings=settings(
                max_examples=max(steps // STEPS, 1), stateful_step_count=STEPS, deadline=None,
                suppress_health_check=list(HealthCheck), derandomize=steps < 1000,
            ),
        )  # fmt: skip
