"""The state of a training between two epochs, in one file of plain arrays."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featlab.errors import FeatlabError

FORMAT, VERSION = "featlab-training", "1.0"
_LISTS = ("weights", "optimizer", "best")


@dataclass
class State:
    """All that a training needs to go on.

    Attributes
    ----------
    key : dict of str to str
        What the training is of; another one must not go on from it.
    phase : int
        Place of the phase that runs.
    finished : bool
        Whether all phases are done; then `best` are the result.
    weights, optimizer, best : lists of ndarray
        Trainable weights, the optimiser's variables, and the weights of the best epoch, of the
        phase that runs. Empty before its first epoch is done, but for `weights`, which then start
        it, where there was a phase before.
    history : list of dict
        One row per finished epoch, over all phases.
    seconds : float
        Spent so far.
    """

    key: dict[str, str]
    phase: int = 0
    finished: bool = False
    weights: list[np.ndarray] = field(default_factory=list)
    optimizer: list[np.ndarray] = field(default_factory=list)
    best: list[np.ndarray] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def write_state(state: State, path: Path) -> None:
    """Write the state, complete or not at all."""
    about = {
        "format": FORMAT,
        "version": VERSION,
        "key": state.key,
        "phase": state.phase,
        "finished": state.finished,
        "history": state.history,
        "seconds": state.seconds,
        "counts": {name: len(getattr(state, name)) for name in _LISTS},
    }
    arrays = {
        f"{name}_{place}": array
        for name in _LISTS
        for place, array in enumerate(getattr(state, name))
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            np.savez(file, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_state(path: Path, key: dict[str, str]) -> State:
    """The state there, or a fresh one where there is no file.

    Raises
    ------
    FeatlabError
        The file is damaged, of an unknown version, or of another training.
    """
    if not path.exists():
        return State(key)
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            known = about.get("format") == FORMAT and about.get("version") == VERSION
            lists = {
                name: [file[f"{name}_{place}"] for place in range(about["counts"][name])]
                for name in (_LISTS if known else ())
            }
    except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile, EOFError) as error:
        raise FeatlabError(f"{path} is not a checkpoint, or it is damaged: {error}") from error
    if not known:
        raise FeatlabError(
            f"{path} has version {about.get('version')!r}, this featlab reads {VERSION!r}; you may "
            "need to update."
        )
    for name, value in key.items():
        if about["key"].get(name) != value:
            raise FeatlabError(
                f"{path} is of a training with another {name.replace('_', ' ')}: "
                f"{about['key'].get(name)} there, {value} asked for. Give another folder, or "
                "remove the file."
            )
    return State(
        key=key,
        phase=about["phase"],
        finished=about["finished"],
        history=about["history"],
        seconds=about["seconds"],
        **lists,
    )
