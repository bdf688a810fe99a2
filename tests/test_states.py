"""Passes, shards, joins, appended stores and faults in any order: nothing is lost or wrong.

Hypothesis draws the orders and shortens one that fails. FEATLAB_STEPS sets how many steps are
taken; `make test-all` takes 1,000.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

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

from featlab import FeatlabError
from featlab.extract import (
    PassOptions,
    _passing,
    append_maps,
    extract_maps,
    extract_shard,
    join_shards,
)
from featlab.images import index_images
from featlab.store import MapStore

N, STEPS = 9, 60
OPTIONS = PassOptions(batch_size=1)
NAMES = strategies.sampled_from(["a.h5", "b.h5", "c.h5"])
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


@contextlib.contextmanager
def fault(what: tuple[str, int] | None) -> Iterator[FakeBackbone]:
    """A network, and a disk that fails at the k-th call, or a user who interrupts there."""
    kind, k = what or ("", 0)
    if kind == "forward":
        yield FakeBackbone(fail_at=k, error=RuntimeError("the device is lost"))
        return
    call = "replace" if kind == "replace" else "fsync"
    real, left = getattr(os, call), [k]

    def fail(*arguments: Any) -> Any:
        left[0] -= 1
        if kind and left[0] == -1:
            full = OSError(errno.ENOSPC, "No space left on device")
            raise KeyboardInterrupt if kind == "interrupt" else full
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, fail)
        yield FakeBackbone()


class Stores(RuleBasedStateMachine):
    """What lies in a folder, beside what ought to be in it: name → paths and labels."""

    images: pd.DataFrame
    whole: MapStore

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="featlab-states-"))
        self.stores: dict[str, tuple[list[str], list[str]]] = {}
        self.foreign: set[str] = set()
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
        with MapStore(self.folder / name) as left:
            now = left.images["path"].tolist(), left.images["label"].tolist()
        wanted = images["path"].tolist(), images["label"].tolist()
        assert now == wanted or (not ended and now == self.stores.get(name))
        self.stores[name] = now
        return ended

    @rule(name=NAMES, rows=SETS, labels=LABELS, what=FAULTS, virtual=strategies.booleans())
    def extract(self, name, rows, labels, what, virtual):
        images, known = self.asked(rows, labels), self.stores.get(name)
        with fault(what) as network:
            path, options = self.folder / name, {"options": OPTIONS, "virtual": virtual}
            done = self.done(name, images, lambda: extract_maps(images, network, path, **options))
        if known is not None:
            assert network.calls == 0 or not done
            assert done or what is not None or known[0] != images["path"].tolist()

    @precondition(lambda self: self.stores)
    @rule(data=strategies.data(), rows=SETS, what=FAULTS)
    def append(self, data, rows, what):
        old = data.draw(strategies.sampled_from(sorted(self.stores)))
        name = data.draw(NAMES.filter(lambda name: name != old))
        images, known = self.asked(rows, "as they are"), self.stores[old]
        with fault(what) as network:
            paths = self.folder / old, self.folder / name
            call = partial(append_maps, images, network, *paths, options=OPTIONS)
            done = self.done(name, images, call)
        assert not done or network.calls <= len({*images["path"]} - {*known[0]})
        if name in self.stores:
            self.needed.setdefault(name, set()).add(old)

    @rule(name=NAMES, rows=SETS, share=strategies.integers(1, 2), what=FAULTS)
    def shard(self, name, rows, share, what):
        images = self.asked(rows, "as they are")
        path, shares = self.folder / name, {"shard": (share, 2), "options": OPTIONS}
        with fault(what) as network:
            self.done(name, images, lambda: extract_shard(images, network, path, **shares))

    @rule(data=strategies.data(), virtual=strategies.booleans(), what=FAULTS)
    def join(self, data, virtual, what):
        # Those that are there may be virtual, and parts of theirs another's.
        name = data.draw(NAMES | strategies.sampled_from(sorted(self.stores) or ["a.h5"]))
        path, there = self.folder / name, name in self.stores
        with fault(what), contextlib.suppress(FeatlabError, OSError, KeyboardInterrupt):
            join_shards(path, virtual=virtual).close()
        if path.exists() and not there and name not in self.foreign:
            with MapStore(path) as store:
                self.stores[name] = store.images["path"].tolist(), store.images["label"].tolist()

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
            self.foreign.discard(name)
        torn = sorted(parts.glob("part-*.h5"))
        if what == "tear" and torn and name not in self.stores and not needed:
            # As a machine that loses its power may leave it.
            part = torn[which % len(torn)]
            os.truncate(part, part.stat().st_size * which // 8)

    @invariant()
    def every_store_is_whole(self):
        for name in ("a.h5", "b.h5", "c.h5"):
            path = self.folder / name
            if name in self.foreign:
                assert path.read_bytes() == b"a thesis"
            assert path.exists() == (name in self.foreign or name in self.stores)
        place = {path: row for row, path in enumerate(self.whole.images["path"])}
        for name, (paths, labels) in self.stores.items():
            with MapStore(self.folder / name) as store:
                store.verify()
                assert store.images["path"].tolist() == paths
                assert store.images["label"].tolist() == labels
                rows = [place[path] for path in paths]
                order = np.argsort(rows)
                expected = self.whole.maps(np.sort(rows))
                np.testing.assert_array_equal(store.maps()[order], expected)
        assert not [*self.folder.glob("*.joining"), *self.folder.glob("*.parts/*.tmp")]


@pytest.mark.parametrize(
    "steps", [50, pytest.param(1000, marks=pytest.mark.slow)] if "FEATLAB_STEPS" not in os.environ
    else [int(os.environ["FEATLAB_STEPS"])]
)  # fmt: skip
def test_nothing_is_lost_or_wrong_in_any_order(tmp_path, monkeypatch, steps):
    monkeypatch.setattr(_passing, "_PART_ROWS", 2)
    Stores.images = index_images(draw_pictures(tmp_path / "pictures", {"cat": 5, "dog": N - 5}))[0]
    with extract_maps(Stores.images, FakeBackbone(), tmp_path / "w.h5", options=OPTIONS) as whole:
        Stores.whole = whole
        run_state_machine_as_test(
            Stores,
            settings=settings(
                max_examples=max(steps // STEPS, 1), stateful_step_count=STEPS, deadline=None,
                suppress_health_check=list(HealthCheck), derandomize=steps < 1000,
            ),
        )  # fmt: skip
