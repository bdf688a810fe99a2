"""A head on a frozen network, or on one whose last blocks learn too."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import (
    Progress,
    check_classes_in_train,
    check_same_rows,
    class_codes,
    row_numbers,
    split_sides,
)
from featlab.backbones import Backbone
from featlab.errors import FeatlabError
from featlab.finetune._training import (
    Data,
    State,
    TrainingOptions,
    curves_of,
    head_phase,
    read_state,
    restore,
    thawed_phase,
    train_phase,
)
from featlab.finetune.network import (
    PictureReader,
    outputs_of,
    thaw,
    trainable_parameters,
    transfer_network,
)
from featlab.heads.training import stratified_folds
from featlab.system.files import write_whole

if TYPE_CHECKING:
    import keras

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
            Image table.
        rows : array_like of int, or boolean mask, optional
            All by default.

        Returns
        -------
        ndarray of shape (len(rows), k)
            Rows sum to 1.
        """
        numbers = row_numbers(rows, images)
        read = PictureReader(images, self.input_size, self.parameters["resize"])
        outputs = outputs_of(self.model, read, numbers, self.parameters["batch_size"])
        values = outputs.astype(np.float64)
        return values / values.sum(axis=1, keepdims=True)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model as ``.keras``, complete or not at all.

        ``load_backbone(path)`` takes it, in Keras's safe mode, without `preprocessing`: the scaling
        of the pixels is a layer inside.
        """
        path = Path(path)
        if path.suffix != ".keras":
            raise FeatlabError(f"path must end in .keras, got {path}.")
        write_whole(path, self.model.save)
        return path


def fit_finetuned(
    images: pd.DataFrame,
    split: ArrayLike,
    backbone: Backbone,
    *,
    blocks: int = 0,
    options: TrainingOptions | None = None,
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
        Image table.
    split : array_like of shape (n,)
        ``train``, ``confirm`` or ``test``.
    backbone : Backbone
        Its weights are copied; it is left as it was.
    blocks : int
        Blocks to thaw, from the end: layers whose names share a block's number.
    options : TrainingOptions, optional
        Sizes, epochs, learning rates, augmentation, weights of the classes.
    folder : path-like, optional
        For the checkpoint: an interrupted training goes on from its last finished epoch with the
        same result, a finished one is read.
    random_state : int
        Seed of weights, order, augmentation and validation rows.
    progress : callable, optional
        Wraps the epochs of a phase.

    Returns
    -------
    FineTuned

    Raises
    ------
    FeatlabError
        Too few train images, a class without any, a picture that changed, a checkpoint of another
        training, a backbone that cannot be rebuilt.

    References
    ----------
    Yosinski, Clune, Bengio & Lipson (2014). How transferable are features in deep neural networks?
    NeurIPS 27 (thawing the last layers).
    """
    options = options or TrainingOptions()
    if options.augment is None:
        options = replace(options, augment=blocks > 0)
    codes, classes = class_codes(images["label"], name="label", least=2)
    check_same_rows(images=images, split=split)
    sides = split_sides(split, len(images))
    train = np.flatnonzero(sides == "train")
    check_classes_in_train(codes[train], classes)
    fit_rows, held = validation_rows(images, codes, train, options.validation, random_state)
    size = options.picture_size
    model = transfer_network(
        backbone,
        len(classes),
        picture_size=None if size is None else (size, size),
        dropout=options.dropout,
        random_state=random_state,
    )
    thawed = thaw(model, backbone, blocks)
    parameters = {
        "backbone": backbone.name,
        "blocks": blocks,
        **asdict(options),
        "random_state": random_state,
    }
    checkpoint = None if folder is None else Path(folder) / _CHECKPOINT
    key = _key(backbone, images, sides, parameters)
    state = State(key) if checkpoint is None else read_state(checkpoint, key)
    before = len(state.history)
    read = PictureReader(images, model.input_shape[1:3], options.resize)
    weights = class_weights(codes[fit_rows], len(classes), options.class_weight)
    data = Data(read, codes, weights, fit_rows, held, options, blocks, random_state, model)
    makers = [head_phase] if blocks == 0 else [head_phase, thawed_phase]
    with read.own_errors():
        for place, make in enumerate(makers):
            train_phase(place, make, len(makers), data, backbone, state, checkpoint, progress)
    thaw(model, backbone, blocks)
    restore(model, state.best)
    return FineTuned(
        model=model,
        classes=classes.tolist(),
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


def validation_rows(
    images: pd.DataFrame, codes: Ints, train: Ints, share: float, random_state: int
) -> tuple[Ints, Ints]:
    """Divide the train rows, stratified by class; a group or the copies of a file stay together.

    Parameters
    ----------
    images : DataFrame
        Image table.
    codes : ndarray of shape (n,)
        Class code of every image.
    train : ndarray of int
        The train rows.
    share : float
        Of the train rows that are put aside, above 0, at most 0.5.
    random_state : int
        Seed.

    Returns
    -------
    fit, validation : ndarrays of int
        Row numbers; every class is in `fit`.

    Raises
    ------
    FeatlabError
        Too few images or groups in train to put some aside.
    """
    y, units = codes[train], _units(images.iloc[train])
    per_class = [len(np.unique(units[y == code])) for code in np.unique(y)]
    n_folds = min(round(1 / share), max(per_class))
    if n_folds > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class with fewer units than folds
            divided = stratified_folds(y, units, n_folds, random_state)
        for fit, held in divided:
            if len(np.unique(y[fit])) == len(per_class):
                return train[fit], train[held]
    raise FeatlabError(
        f"train has too few images or groups ({len(train)} images, {len(np.unique(units))} "
        "independent units) to put some aside that decide when to stop: add images."
    )


def _units(images: pd.DataFrame) -> NDArray[np.str_]:
    """What must not be divided: the group, else the file's digest, which its copies share."""
    group, digest = images["group"].to_numpy(str), images["sha256"].to_numpy(str)
    return np.where(group != "", np.char.add("group ", group), np.char.add("file ", digest))


def class_weights(codes: Ints, n_classes: int, kind: str | None) -> Floats:
    """Weight of an image of each class: 1, or "balanced": n / (classes x images of the class)."""
    if kind is None:
        return np.ones(n_classes)
    counts = np.bincount(codes, minlength=n_classes)
    return len(codes) / (n_classes * counts)
