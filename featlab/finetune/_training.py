"""Epoch after epoch, with early stopping, and a checkpoint after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from featlab.finetune._checkpoint import State, write_state

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Progress = Callable[[Iterable[Any]], Iterable[Any]]

HEAD, THAWED = "head", "thawed"
CURVE_COLUMNS = ["epoch", "phase", "loss", "accuracy", "val_loss", "val_accuracy"]


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
    epochs: int,
    patience: int,
    random_state: int,
    checkpoint: Path | None,
    progress: Progress | None,
) -> None:
    """Train until the validation loss has not fallen for `patience` epochs; restore the best.

    `state` is where it starts, and is kept up to date and on the disk after every epoch.
    """
    model = _compiled(phase)
    restore(model, state.weights)
    if state.optimizer:
        for variable, value in zip(model.optimizer.variables, state.optimizer, strict=True):
            variable.assign(value)
    done = [row["val_loss"] for row in state.history if row["phase"] == phase.name]
    ahead: Iterable[int] = range(len(done), epochs)
    clock = time.perf_counter()
    for epoch in progress(ahead) if progress else ahead:
        if has_stopped(done, patience):
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
