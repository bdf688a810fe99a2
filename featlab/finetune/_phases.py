"""The phases of a training: the head alone, then with the thawed blocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featlab.finetune._checkpoint import State, write_state
from featlab.finetune._network import CLASSES, DROPOUT, POOL, thaw
from featlab.finetune._pictures import PictureReader, feature_batches, outputs_of, picture_batches
from featlab.finetune._rows import class_weights
from featlab.finetune._training import HEAD, THAWED, Phase, Progress, copies, run_phase

if TYPE_CHECKING:
    import keras

    from featlab.backbones import Backbone

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Data:
    """What both phases are made of."""

    read: PictureReader
    codes: Ints
    fit_rows: Ints
    held: Ints
    parameters: dict[str, Any]
    model: keras.Model

    def weights(self, rows: Ints) -> Floats:
        per_class = class_weights(
            self.codes[self.fit_rows], self.model.output_shape[-1], self.parameters["class_weight"]
        )
        return per_class[self.codes[rows]]

    def order(self, phase: int, epoch: int) -> Ints:
        """Places of the rows to fit on, in the order of an epoch."""
        seed = [self.parameters["random_state"], phase, epoch]
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
    chosen, start = data.parameters, time.perf_counter()
    thaw(data.model, backbone, 0 if make is head_phase else chosen["blocks"])
    phase = make(data, n_phases > 1)
    state.seconds += time.perf_counter() - start
    run_phase(
        phase,
        state,
        epochs=chosen["epochs"],
        patience=chosen["patience"],
        random_state=chosen["random_state"],
        checkpoint=checkpoint,
        progress=progress,
    )
    state.finished = place + 1 == n_phases
    if not state.finished:
        # The best head starts the next phase; the weights above it are the backbone's.
        thaw(data.model, backbone, chosen["blocks"])
        state.phase, state.optimizer, state.best = place + 1, [], []
        state.weights = copies(data.model.trainable_weights)
    if checkpoint is not None:
        write_state(state, checkpoint)


def head_phase(data: Data, warm_up: bool) -> Phase:
    """The head alone; before thawing, and without augmentation, on features computed once."""
    if data.parameters["augment"] and not warm_up:
        return _picture_phase(data, HEAD, "learning_rate", 0)
    import keras

    model = data.model
    pooled = keras.Model(model.inputs[0], model.get_layer(POOL).output)
    size = data.parameters["batch_size"]
    rows = np.concatenate([data.fit_rows, data.held])
    features = outputs_of(pooled, data.read, rows, size)
    n = len(data.fit_rows)
    y, weights = data.codes[rows], data.weights(rows)
    entry = keras.Input((features.shape[1],))
    x = entry
    for name in (DROPOUT, CLASSES):
        if name == CLASSES or data.parameters["dropout"]:
            x = model.get_layer(name)(x)

    def fitting(epoch: int) -> Any:
        order = data.order(0, epoch)
        return feature_batches(features[order], y[order], weights[order], size)

    return Phase(
        HEAD,
        keras.Model(entry, x),
        data.parameters["learning_rate"],
        fitting,
        feature_batches(features[n:], y[n:], weights[n:], size),
    )


def thawed_phase(data: Data, _: bool) -> Phase:
    return _picture_phase(data, THAWED, "thawed_learning_rate", 1)


def _picture_phase(data: Data, name: str, rate: str, number: int) -> Phase:
    import keras

    size = data.parameters["batch_size"]
    model = data.model
    if data.parameters["augment"]:
        entry = keras.Input(model.input_shape[1:])
        model = keras.Model(entry, model(_augmentation(data.parameters["random_state"])(entry)))

    def batches(rows: Ints) -> Any:
        return picture_batches(data.read, rows, data.codes[rows], data.weights(rows), size)

    def fitting(epoch: int) -> Any:
        return batches(data.fit_rows[data.order(number, epoch)])

    return Phase(name, model, data.parameters[rate], fitting, batches(data.held))


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
