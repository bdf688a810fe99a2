"""The training: its phases, epoch after epoch with early stopping, and a checkpoint after each."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featlab.arguments import Progress, check_choice, check_whole, tracked
from featlab.backbones import Backbone
from featlab.errors import FeatlabError
from featlab.finetune.network import (
    CLASSES,
    DROPOUT,
    POOL,
    PictureReader,
    feature_batches,
    outputs_of,
    picture_batches,
    thaw,
)
from featlab.system.files import write_whole

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

HEAD, THAWED = "head", "thawed"
CURVE_COLUMNS = ["epoch", "phase", "loss", "accuracy", "val_loss", "val_accuracy"]
_FORMAT, _VERSION = "featlab-training", "1.0"
_LISTS = ("weights", "optimizer", "best")


@dataclass(frozen=True)
class TrainingOptions:
    """How a network with its head is trained.

    Attributes
    ----------
    picture_size : int, optional
        The saved model takes pictures of this side and up-samples them bilinearly to the network's
        input by a layer. The network's own input size by default.
    resize : {"stretch", "pad"}
        How pictures are brought to size, as in the pass.
    augment : bool, optional
        Whether pictures are flipped left to right and slightly turned, zoomed and changed in
        contrast while training (where blocks are thawed, only after that). By default where
        blocks are thawed.
    class_weight : {"balanced", None}
        Whether the classes count alike in the loss.
    validation : float
        Share of the train rows that decides when to stop and which epoch was best, stratified by
        class, groups and copies of a file together; above 0, at most 0.5.
    epochs, patience : int
        Most epochs of each phase; epochs without a lower validation loss before it stops.
    batch_size : int
    learning_rate, thawed_learning_rate : float
        Adam's, while the head learns alone, and after.
    dropout : float
        Before the dense layer, 0 to below 1.

    Raises
    ------
    FeatlabError
        An option out of range.
    """

    picture_size: int | None = None
    resize: str = "stretch"
    augment: bool | None = None
    class_weight: str | None = "balanced"
    validation: float = 0.2
    epochs: int = 30
    patience: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-3
    thawed_learning_rate: float = 1e-4
    dropout: float = 0.2

    def __post_init__(self) -> None:
        check_choice("class_weight", self.class_weight, (None, "balanced"))
        check_choice("resize", self.resize, ("stretch", "pad"))
        for name in ("epochs", "patience", "batch_size"):
            check_whole(name, getattr(self, name), 1)
        if not 0 <= self.dropout < 1:
            raise FeatlabError(f"dropout must be at least 0 and below 1, got {self.dropout!r}.")
        if not 0 < self.validation <= 0.5:
            raise FeatlabError(
                f"validation must be above 0 and at most 0.5, got {self.validation!r}."
            )
        if self.picture_size is not None:
            check_whole("picture_size", self.picture_size, 1)


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
        "format": _FORMAT,
        "version": _VERSION,
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
    text = np.array(json.dumps(about))
    write_whole(path, lambda part: np.savez(part, allow_pickle=False, about=text, **arrays))


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
            known = about.get("format") == _FORMAT and about.get("version") == _VERSION
            lists = {
                name: [file[f"{name}_{place}"] for place in range(about["counts"][name])]
                for name in (_LISTS if known else ())
            }
    except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile, EOFError) as error:
        raise FeatlabError(f"{path} is not a checkpoint, or it is damaged: {error}") from error
    if not known:
        raise FeatlabError(
            f"{path} has version {about.get('version')!r}, this featlab reads {_VERSION!r}; you "
            "may need to update."
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


@dataclass(frozen=True)
class Phase:
    """One stage of a training.

    Attributes
    ----------
    name : {"head", "thawed"}
    model : keras.Model
        What is fitted; it shares its layers with the model that is saved.
    learning_rate : float
    fitting : callable
        Epoch (from 0) → the batches to fit on, in that epoch's order.
    validation : tf.data.Dataset
    """

    name: str
    model: keras.Model
    learning_rate: float
    fitting: Callable[[int], tf.data.Dataset]
    validation: tf.data.Dataset


def run_phase(
    phase: Phase,
    state: State,
    *,
    options: TrainingOptions,
    random_state: int,
    checkpoint: Path | None,
    progress: Progress | None,
) -> None:
    """Train until the validation loss has not fallen for so many epochs; restore the best.

    `state` is where it starts, and is kept up to date and on the disk after every epoch.
    """
    model = _compiled(phase)
    restore(model, state.weights)
    if state.optimizer:
        for variable, value in zip(model.optimizer.variables, state.optimizer, strict=True):
            variable.assign(value)
    done = [row["val_loss"] for row in state.history if row["phase"] == phase.name]
    clock = time.perf_counter()
    for epoch in tracked(range(len(done), options.epochs), progress):
        if has_stopped(done, options.patience):
            break
        _reseed(model, [random_state, epoch])
        row = _one_epoch(phase, epoch)
        state.history.append({"epoch": len(state.history) + 1, "phase": phase.name, **row})
        done.append(row["val_loss"])
        state.weights = copies(model.trainable_weights)
        state.optimizer = copies(model.optimizer.variables)
        if best_epoch(done) == len(done) - 1:
            state.best = state.weights
        state.seconds += time.perf_counter() - clock
        clock = time.perf_counter()
        if checkpoint is not None:
            write_state(state, checkpoint)
    restore(model, state.best)


def restore(model: keras.Model, weights: list[np.ndarray]) -> None:
    """Give the trainable weights these values; nothing where there are none."""
    if weights:
        for variable, value in zip(model.trainable_weights, weights, strict=True):
            variable.assign(value)


def best_epoch(losses: list[float]) -> int:
    """Place of the first least validation loss; one that is not a number is never the least."""
    known = np.where(np.isnan(losses), np.inf, losses)
    return int(np.argmin(known))


def has_stopped(losses: list[float], patience: int) -> bool:
    """Whether the last `patience` epochs brought nothing better."""
    return len(losses) > 0 and len(losses) - 1 - best_epoch(losses) >= patience


def curves_of(state: State) -> pd.DataFrame:
    """The history as a tidy table."""
    return pd.DataFrame(state.history, columns=CURVE_COLUMNS)


def _compiled(phase: Phase) -> keras.Model:
    import keras

    optimizer = keras.optimizers.Adam(phase.learning_rate)
    # Weighted loss, so that rare classes count alike; the accuracy is of images as they are.
    phase.model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(), metrics=["accuracy"]
    )
    optimizer.build(phase.model.trainable_variables)
    return phase.model


def _one_epoch(phase: Phase, epoch: int) -> dict[str, float]:
    fitted = phase.model.fit(phase.fitting(epoch), verbose=0, shuffle=False).history
    held = phase.model.evaluate(phase.validation, verbose=0, return_dict=True)
    return {
        "loss": float(fitted["loss"][-1]),
        "accuracy": float(fitted["accuracy"][-1]),
        "val_loss": float(held["loss"]),
        "val_accuracy": float(held["accuracy"]),
    }


def copies(variables: Iterable[Any]) -> list[np.ndarray]:
    """Values of variables that later assignments leave alone."""
    return [np.array(variable.numpy()) for variable in variables]


def _reseed(model: keras.Model, seed: list[int]) -> None:
    """Every epoch has random numbers of its own, whether or not the training was interrupted."""
    for layer in model.layers:
        if getattr(layer, "layers", None):
            _reseed(layer, seed)
        for name in ("generator", "seed_generator"):
            generator = getattr(layer, name, None)
            if generator is not None:
                generator.state.assign(seed)


@dataclass(frozen=True)
class Data:
    """What both phases are made of."""

    read: PictureReader
    codes: Ints
    class_weights: Floats
    fit_rows: Ints
    held: Ints
    options: TrainingOptions
    blocks: int
    random_state: int
    model: keras.Model

    def weights(self, rows: Ints) -> Floats:
        return self.class_weights[self.codes[rows]]

    def order(self, phase: int, epoch: int) -> Ints:
        """Places of the rows to fit on, in the order of an epoch."""
        seed = [self.random_state, phase, epoch]
        return np.random.default_rng(seed).permutation(len(self.fit_rows))


def train_phase(
    place: int,
    make: Callable[[Data, bool], Phase],
    n_phases: int,
    data: Data,
    backbone: Backbone,
    state: State,
    checkpoint: Path | None,
    progress: Progress | None,
) -> None:
    """Run one phase, unless the state is past it."""
    if state.finished or state.phase > place:
        return
    start = time.perf_counter()
    thaw(data.model, backbone, 0 if make is head_phase else data.blocks)
    phase = make(data, n_phases > 1)
    state.seconds += time.perf_counter() - start
    run_phase(
        phase,
        state,
        options=data.options,
        random_state=data.random_state,
        checkpoint=checkpoint,
        progress=progress,
    )
    state.finished = place + 1 == n_phases
    if not state.finished:
        # The best head starts the next phase; the weights above it are the backbone's.
        thaw(data.model, backbone, data.blocks)
        state.phase, state.optimizer, state.best = place + 1, [], []
        state.weights = copies(data.model.trainable_weights)
    if checkpoint is not None:
        write_state(state, checkpoint)


def head_phase(data: Data, warm_up: bool) -> Phase:
    """The head alone; before thawing, and without augmentation, on features computed once."""
    if data.options.augment and not warm_up:
        return _picture_phase(data, HEAD, data.options.learning_rate, 0)
    import keras

    model = data.model
    pooled = keras.Model(model.inputs[0], model.get_layer(POOL).output)
    size = data.options.batch_size
    rows = np.concatenate([data.fit_rows, data.held])
    features = outputs_of(pooled, data.read, rows, size)
    n = len(data.fit_rows)
    y, weights = data.codes[rows], data.weights(rows)
    entry = keras.Input((features.shape[1],))
    x = entry
    for name in (DROPOUT, CLASSES):
        if name == CLASSES or data.options.dropout:
            x = model.get_layer(name)(x)

    def fitting(epoch: int) -> Any:
        order = data.order(0, epoch)
        return feature_batches(features[order], y[order], weights[order], size)

    return Phase(
        HEAD,
        keras.Model(entry, x),
        data.options.learning_rate,
        fitting,
        feature_batches(features[n:], y[n:], weights[n:], size),
    )


def thawed_phase(data: Data, _: bool) -> Phase:
    """The second phase, of every fine-tuning: the thawed blocks and the head, on pictures."""
    return _picture_phase(data, THAWED, data.options.thawed_learning_rate, 1)


def _picture_phase(data: Data, name: str, rate: float, number: int) -> Phase:
    import keras

    size = data.options.batch_size
    model = data.model
    if data.options.augment:
        entry = keras.Input(model.input_shape[1:])
        model = keras.Model(entry, model(_augmentation(data.random_state)(entry)))

    def batches(rows: Ints) -> Any:
        return picture_batches(data.read, rows, data.codes[rows], data.weights(rows), size)

    def fitting(epoch: int) -> Any:
        return batches(data.fit_rows[data.order(number, epoch)])

    return Phase(name, model, rate, fitting, batches(data.held))


def _augmentation(random_state: int) -> keras.Model:
    """Small changes that leave the class as it is; none of them is in the saved model."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            layers.RandomFlip("horizontal", seed=random_state),
            layers.RandomRotation(0.04, fill_mode="reflect", seed=random_state),
            layers.RandomZoom(0.1, fill_mode="reflect", seed=random_state),
            layers.RandomContrast(0.15, value_range=(0, 255), seed=random_state),
        ],
        name="augmentation",
    )
