"""Mutated predictors: hostile JSON, arrays of wrong kinds, types and sizes, damaged bytes."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import h5py
import mutations
import numpy as np
import store_cases

from featlab import FeatlabError
from featlab.boxes.geometry import CORNERS
from featlab.predict import load_predictor
from featlab.store import MapStore

ARCHIVES = Path(__file__).parent.parent / "archives"
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**70, float("nan"), float("inf"), "", "x", "a" * 60_000, "\ud800",
    "../secret", "early", [], [1], [[]], ["a", "a"], [None], {}, {"a": 1}, {"words": {}},
    "__class__", "cascade", "cam", "sum",
)  # fmt: skip
ODD_TEXTS = (
    "", "[]", "null", "{", "{}", "[" * 30_000, '{"classes": ' * 3000, "NaN", "\x00", '"facts"',
    '{"classes": 1e999}',
)  # fmt: skip


@functools.cache
def whole() -> bytes:
    return (ARCHIVES / "predictor-v1.0.featlab").read_bytes()


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) below a value of JSON."""
    if not isinstance(value, (dict, list)):
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value))
    own = [(value, key) for key in keys]
    return own + [place for key in keys for place in places(value[key])]


def change_facts(file: h5py.File, rng: np.random.Generator) -> None:
    """Another value, or none, somewhere in the JSON; or a text that is something else."""
    text = file["facts"][()].tobytes().decode()
    if rng.random() < 0.15:
        text = store_cases.pick(ODD_TEXTS, rng)
    else:
        facts = json.loads(text)
        holder, key = store_cases.pick(places(facts), rng)
        if rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = store_cases.pick(ODD, rng)
        text = json.dumps(facts)
    del file["facts"]
    file["facts"] = np.frombuffer(text.encode(), np.uint8)


def use(path: Path) -> str:
    """Load it and ask it about the archived store; what it says must be an answer."""
    predictor = load_predictor(path)
    repr(predictor), predictor.layer, predictor.box_method
    with MapStore(ARCHIVES / "maps-v1.1.h5") as store:
        try:
            table = predictor.predict(store)
        except FeatlabError as error:
            # What the file says of its network is well-formed, and of another one.
            assert "asked for" in str(error) or "probe" in str(error), error
            return "skipped"
    assert len(table) == 6 and set(table["class"]) <= set(predictor.classes)
    assert table["probability"].between(0, 1).all() and table["typicality"].between(0, 1).all()
    assert np.isfinite(table[CORNERS].to_numpy(float)).all()
    assert "secret" not in str(table)
    return "right"


def change(file: h5py.File, rng: np.random.Generator, folder: Path) -> None:
    """Something of the JSON, or of the arrays."""
    if rng.random() < 0.6 and "facts" in file:
        change_facts(file, rng)
    else:
        store_cases.mutate(file, rng, folder)


def run(number: int, folder: Path) -> str:
    """Change one to three things of a good predictor, and ask it."""
    path = folder / "model.featlab"
    path.write_bytes(whole())
    store_cases.change_file(path, np.random.default_rng([11, number]), change)
    return use(path)


def run_bytes(number: int, folder: Path) -> str:
    """Damage the bytes of a good predictor, most often few of them, and ask it."""
    rng = np.random.default_rng([12, number])
    path = folder / "model.featlab"
    damage = mutations.flip if number % 3 else mutations.damage
    path.write_bytes(damage(whole(), rng))
    return use(path)
