"""A head on a frozen network, or on one whose last blocks learn too."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import (
    check_choice,
    check_classes_in_train,
    class_codes,
    split_sides,
    text_labels,
)
from featlab.errors import FeatlabError
from featlab.finetune._checkpoint import State, read_state
from featlab.finetune._network import thaw, trainable_parameters, transfer_network
from featlab.finetune._phases import Data, head_phase, thawed_phase, train_phase
from featlab.finetune._pictures import PictureReader, outputs_of
from featlab.finetune._rows import validation_part
from featlab.finetune._training import Progress, curves_of, restore

if TYPE_CHECKING:
    import keras

    from featlab.backbones import Backbone

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

_CHECKPOINT = "training.npz"


@dataclass(frozen=True)
class FineTuned:
    """A trained network with its head.

    Attributes
    ----------
    model : keras.Model
        From RGB pixels 0 … 255 to class probabilities, with the best epoch's weights.
    classes : list of str
        The order of the probabilities.
    curves : DataFrame
        ``epoch`` (from 1, over both phases), ``phase`` ("head", "thawed"), ``loss``, ``accuracy``
        (on the rows fitted, with dropout and augmentation), ``val_loss``, ``val_accuracy``.
    fit_rows, validation_rows : ndarrays of int
        The train rows that the weights were fitted on, and those that decided when to stop.
    blocks : int
        Thawed; 0 is a frozen network.
    thawed : list of str
        Their layers with weights; batch normalisation among them stays frozen.
    trainable_parameters : int
    seconds : float
        Of the training, interrupted sessions included: pictures read, features, all epochs.
    epochs_run : int
        In this session; 0 where a finished training was read from its checkpoint.
    parameters : dict of str to object
    """

    model: keras.Model
    classes: list[str]
    curves: pd.DataFrame
    fit_rows: Ints
    validation_rows: Ints
    blocks: int
    thawed: list[str]
    trainable_parameters: int
    seconds: float
    epochs_run: int
    parameters: dict[str, Any]

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the pictures that the model takes."""
        _, height, width, _ = self.model.input_shape
        return height, width

    def predict_proba(self, images: pd.DataFrame, rows: ArrayLike | None = None) -> Floats:
        """Class probabilities of pictures of an image table.

        Parameters
        ----------
        images : DataFrame
            Image table with ``attrs["root"]``.
        rows : array_like of int, optional
            Row numbers; all by default.

        Returns
        -------
        ndarray of shape (len(rows), k)
            Rows sum to 1.
        """
        wanted = np.arange(len(images)) if rows is None else np.asarray(rows, dtype=np.intp)
        read = PictureReader(images, self.input_size, self.parameters["resize"])
        found = outputs_of(self.model, read, wanted, self.parameters["batch_size"])
        values = found.astype(np.float64)
        return values / values.sum(axis=1, keepdims=True)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model as ``.keras``, complete or not at all.

        ``load_backbone(path)`` takes it, in Keras's safe mode, without `preprocessing`: the scaling
        of the pixels is a layer inside.
        """
        path = Path(path)
        if path.suffix != ".keras":
            raise FeatlabError(f"path must end in .keras, got {path}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.stem}.{os.getpid()}.part.keras")
        try:
            self.model.save(part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return path


def fit(
    images: pd.DataFrame,
    split: ArrayLike,
    backbone: Backbone,
    *,
    blocks: int = 0,
    picture_size: int | None = None,
    resize: str = "stretch",
    augment: bool | None = None,
    class_weight: str | None = "balanced",
    validation: float = 0.2,
    epochs: int = 30,
    patience: int = 5,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    thawed_learning_rate: float = 1e-4,
    dropout: float = 0.2,
    folder: str | os.PathLike[str] | None = None,
    random_state: int = 0,
    progress: Progress | None = None,
) -> FineTuned:
    """Train a head on a frozen network, and with `blocks` its last blocks too.

    The head is mean pooling, dropout and a dense softmax layer. It is trained first, on features
    that are computed once where there is no augmentation; then, with `blocks`, the last blocks are
    thawed and learn on with it at a small learning rate, batch normalisation in inference mode.
    Confirm and test rows are never looked at.

    Parameters
    ----------
    images : DataFrame
        Image table with ``attrs["root"]``.
    split : array_like of shape (n,)
        ``train``, ``confirm`` or ``test``.
    backbone : Backbone
        Its weights are copied; it is left as it was.
    blocks : int
        Blocks to thaw, from the end; see :func:`blocks_of` for what a block is.
    picture_size : int, optional
        The saved model takes pictures of this side and up-samples them bilinearly to the network's
        input by a layer. The network's own input size by default.
    resize : {"stretch", "pad"}
        How pictures are brought to size, as in the pass.
    augment : bool, optional
        Whether pictures are flipped left to right and slightly turned, zoomed and changed in
        contrast while training (where blocks are thawed, only after that). By default where
        `blocks` is not 0.
    class_weight : {"balanced", None}
        Whether the classes count alike in the loss.
    validation : float
        Share of the train rows that decides when to stop and which epoch was best, stratified by
        class, groups and copies of a file together.
    epochs, patience : int
        Most epochs of each phase; epochs without a lower validation loss before it stops.
    batch_size : int
    learning_rate, thawed_learning_rate : float
        Adam's, while the head learns alone, and after.
    dropout : float
        Before the dense layer, 0 to below 1.
    folder : path-like, optional
        For the checkpoint: an interrupted training goes on from its last finished epoch with the
        same result, a finished one is read.
    random_state : int
        Seed of weights, order, augmentation and validation part.
    progress : callable, optional
        Wraps the epochs of a phase.

    Returns
    -------
    FineTuned

    Raises
    ------
    FeatlabError
        An option out of range, too few train images, a picture that changed, a checkpoint of
        another training, a backbone that cannot be rebuilt.

    References
    ----------
    Yosinski, Clune, Bengio & Lipson (2014). How transferable are features in deep neural networks?
    NeurIPS 27 (thawing the last layers).
    """
    if augment is None:
        augment = blocks > 0
    _check(class_weight, epochs, patience, batch_size, dropout, picture_size, resize)
    codes, classes = class_codes(text_labels(images["label"], name="labels"), least=2)
    sides = split_sides(split, len(images))
    train = np.flatnonzero(sides == "train")
    check_classes_in_train(codes[train], classes)
    fit_rows, held = validation_part(images, codes, train, validation, random_state)
    model = transfer_network(
        backbone,
        len(classes),
        picture_size=None if picture_size is None else (picture_size, picture_size),
        dropout=dropout,
        random_state=random_state,
    )
    thawed = thaw(model, backbone, blocks)
    parameters = {
        "backbone": backbone.name,
        "blocks": blocks,
        "picture_size": picture_size,
        "resize": resize,
        "augment": augment,
        "class_weight": class_weight,
        "validation": validation,
        "epochs": epochs,
        "patience": patience,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "thawed_learning_rate": thawed_learning_rate,
        "dropout": dropout,
        "random_state": random_state,
    }
    checkpoint = None if folder is None else Path(folder) / _CHECKPOINT
    key = _key(backbone, images, sides, parameters)
    state = State(key) if checkpoint is None else read_state(checkpoint, key)
    before = len(state.history)
    read = PictureReader(images, model.input_shape[1:3], resize)
    data = Data(read, codes, fit_rows, held, parameters, model)
    makers = [head_phase] if blocks == 0 else [head_phase, thawed_phase]
    with read.own_errors():
        for place, make in enumerate(makers):
            train_phase(place, make, len(makers), data, backbone, state, checkpoint, progress)
    thaw(model, backbone, blocks)
    restore(model, state.best)
    return FineTuned(
        model=model,
        classes=[str(name) for name in classes],
        curves=curves_of(state),
        fit_rows=fit_rows,
        validation_rows=held,
        blocks=blocks,
        thawed=thawed,
        trainable_parameters=trainable_parameters(model),
        seconds=state.seconds,
        epochs_run=len(state.history) - before,
        parameters=parameters,
    )


def _check(
    class_weight: str | None,
    epochs: int,
    patience: int,
    batch_size: int,
    dropout: float,
    picture_size: int | None,
    resize: str,
) -> None:
    check_choice("class_weight", class_weight, (None, "balanced"))
    check_choice("resize", resize, ("stretch", "pad"))
    for name, value in (("epochs", epochs), ("patience", patience), ("batch_size", batch_size)):
        if value < 1:
            raise FeatlabError(f"{name} must be at least 1, got {value}.")
    if not 0 <= dropout < 1:
        raise FeatlabError(f"dropout must be at least 0 and below 1, got {dropout!r}.")
    if picture_size is not None and picture_size < 1:
        raise FeatlabError(f"picture_size must be at least 1 px, got {picture_size}.")


def _key(
    backbone: Backbone, images: pd.DataFrame, sides: NDArray[Any], parameters: dict[str, Any]
) -> dict[str, str]:
    """Everything that decides the result."""
    rows = images[["path", "sha256", "label", "group"]].assign(side=sides)
    digest = hashlib.sha256(rows.to_csv(index=False).encode("utf-8", "surrogatepass"))
    return {
        **backbone.identity(),
        "image_set_and_split": digest.hexdigest()[:32],
        **{name: json.dumps(value) for name, value in parameters.items() if name != "backbone"},
    }
