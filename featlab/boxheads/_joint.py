"""Class and box learned together by a Keras head on stored maps; Keras is imported on use."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from featlab.arguments import (
    check_between,
    check_choice,
    check_same_rows,
    check_whole,
    class_codes,
    group_names,
    split_sides,
)
from featlab.backbones import Backbone
from featlab.boxes import geometry as bx
from featlab.boxheads._inputs import box_loss, mirror_maps, mirrored, tidy
from featlab.errors import FeatlabError
from featlab.intervals import mean_interval
from featlab.results.localisation import JointHeadResults
from featlab.store import MapStore
from featlab.system.files import write_whole

ARCHITECTURES = ("flatten", "spatial")
LOSSES = ("mse", "smooth_l1", "giou")

_BATCH_SIZE = 32
_PIXELS = 224.0
_WHOLE = np.array([[0.0, 0.0, 1.0, 1.0]])
_CHANNELS, _LOOKS, _HIDDEN = 128, 16, 128
_DROPOUT = 0.3
# Centre and sides times this are corners; a product is saved with a network, a function is not.
_CENTRE_TO_CORNERS = np.array(
    [[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]], np.float32
)
# Corners times this, and the shift, are those of the mirrored picture.
_MIRROR = np.array([[0, 0, -1, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], np.float32)
_MIRROR_SHIFT = np.array([1, 0, 1, 0], np.float32)


@dataclass(frozen=True)
class _Recipe:
    """How a joint head is trained.

    Attributes
    ----------
    head, loss : str
    epochs, batch_size : int
    learning_rate : float
        Adam's at the start.
    box_scale : float
        The box is learned in units of 1 / `box_scale` of the input's side.
    mirror : bool
        Show every image mirrored in half of the epochs, at random.
    random_state : int
    """

    head: str
    loss: str
    epochs: int
    batch_size: int
    learning_rate: float
    box_scale: float
    mirror: bool
    random_state: int

    @property
    def rates(self) -> np.ndarray:
        """Learning rate of every epoch; ``spatial``: half a cosine, down to a tenth of it."""
        if self.head == "flatten" or self.epochs == 1:
            return np.full(self.epochs, self.learning_rate)
        turn = np.pi * np.arange(self.epochs) / (self.epochs - 1)
        return self.learning_rate * (0.1 + 0.45 * (1 + np.cos(turn)))


def fit_joint_head(
    maps: MapStore | np.ndarray,
    y: ArrayLike,
    boxes: ArrayLike,
    split: ArrayLike,
    *,
    head: str = "flatten",
    loss: str | None = None,
    epochs: int | None = None,
    learning_rate: float = 1e-3,
    layer: str | None = None,
    random_state: int = 0,
) -> JointHeadResults:
    """Train class and box together on stored maps; the backbone is never run.

    Trained on the *train and confirm* rows, scored on the *test* rows. Images without a box (NaN)
    are left out.

    Parameters
    ----------
    maps : MapStore or ndarray of shape (n, h, w, c)
    y : array_like of shape (n,)
        Class of every image.
    boxes : array_like of shape (n, 4)
        Corners in unit coordinates of the network's input
        (:func:`featlab.boxes.geometry.picture_to_frame`); NaN where an image has none.
    split : array_like of shape (n,)
        ``train``, ``confirm`` or ``test``.
    head : {"flatten", "spatial"}
        ``flatten``: Flatten → Dense softmax and Flatten → Dense(4, linear), as published; it learns
        pixels of an input of 224 (in units of the input Adam does not converge on a few hundred
        unscaled maps).
        ``spatial``: 1 x 1 and 3 x 3 convolutions, then soft looks that keep their positions; every
        image is shown mirrored in half of the epochs, at random.
    loss : {"mse", "smooth_l1", "giou"}, optional
        Of the box; by default "mse" for ``flatten``, "smooth_l1" for ``spatial``. "giou"
        has a share of smooth L1 in it; alone it can stay at boxes as large as the picture.
    epochs : int, optional
        By default 7 (as published) for ``flatten``, 60 for ``spatial``.
    learning_rate : float
        Adam's at the start; it falls to a tenth over the epochs of ``spatial``.
    layer : str, optional
        Of the store; its last by default.
    random_state : int
        Seed. It is given to Keras, which seeds Python and NumPy globally too.

    Returns
    -------
    JointHeadResults

    Raises
    ------
    FeatlabError
        Shapes that do not match, an unknown word, nothing to train or to score on, a class that is
        scored but never trained on.
    """
    recipe = _recipe(head, loss, epochs, learning_rate, random_state)
    images = maps if isinstance(maps, np.ndarray) else maps.images
    check_same_rows(maps=images, y=y, boxes=boxes, split=split)
    codes, classes = class_codes(y)
    truth = np.asarray(boxes, dtype=float)
    if truth.shape != (len(codes), 4):
        raise FeatlabError(
            f"boxes must have 4 columns (xmin, ymin, xmax, ymax), got shape {truth.shape}."
        )
    sides = split_sides(split, len(codes))
    known = np.isfinite(truth).all(axis=1)
    fit, test = np.flatnonzero(known & (sides != "test")), np.flatnonzero(known & (sides == "test"))
    _check_sides(codes, classes, fit, test)
    X, X_test = _rows(maps, fit, layer), _rows(maps, test, layer)

    import keras

    keras.utils.set_random_seed(random_state)
    unit = 1.0
    if head == "spatial":  # flatten takes the maps as they are, as published
        unit = float(np.sqrt(np.mean(X**2))) or 1.0
        X, X_test = X / unit, X_test / unit
    network = _build(X.shape[1:], len(classes), recipe)
    history = _train(network, X, codes[fit], truth[fit], recipe)
    probability, raw = _predict(network, X_test, recipe)
    predictions = _predictions(test, codes[test], classes, probability, raw, truth[test])
    parameters = asdict(recipe) | {"weights": int(network.count_params())}
    groups = maps.images.get("group") if isinstance(maps, MapStore) else None
    names = group_names(groups, len(codes))[test]
    scored = _scored(predictions, history, len(fit), parameters, names)
    known_layer, weights = None, ""
    if isinstance(maps, MapStore):
        known_layer = layer or maps.layers[-1]
        weights = str(maps.provenance.get("weights_sha256", ""))
    model = _whole_head(network, unit, recipe)
    return replace(scored, model=model, classes=[str(one) for one in classes],
                   layer=known_layer, weights_sha256=weights)  # fmt: skip


def save_joint_model(
    joint: JointHeadResults, backbone: Backbone, path: str | os.PathLike[str]
) -> Path:
    """Write backbone and joint head as one ``.keras`` file, complete or not at all.

    The model takes RGB pixels 0 … 255 of the backbone's input size, ``(b, H, W, 3)``; their scaling
    is a layer inside. It gives ``label``, class probabilities ``(b, k)`` in the order of
    `joint.classes`, and ``box``, corners ``(b, 4)`` in unit coordinates of the input, as the
    network says them (the columns ``raw_xmin`` … ``raw_ymax``). ``keras.models.load_model(path)``
    opens it without featlab, in Keras's safe mode; ``load_backbone(path)`` takes its maps.

    Parameters
    ----------
    joint : JointHeadResults
        Of :func:`fit_joint_head`.
    backbone : Backbone
        The network whose maps it was fitted on.
    path : path-like
        Ends in ``.keras``.

    Returns
    -------
    Path

    Raises
    ------
    FeatlabError
        Another suffix; maps of another layer or shape than the head was fitted on; a preprocessing
        that cannot become a layer.
    """
    import keras

    from featlab.finetune.network import map_network  # with scikit-learn, which asking needs not

    path = Path(path)
    if path.suffix != ".keras":
        raise FeatlabError(f"path must end in .keras, got {path}.")
    wanted, own = joint.model.input_shape[1:], backbone.model.outputs[-1].shape[1:]
    layer = backbone.layers[-1]
    if tuple(own) != tuple(wanted) or joint.layer not in (None, layer):
        raise FeatlabError(
            f"the joint head was fitted on maps {tuple(wanted)} of layer {joint.layer or '?'}, "
            f"{backbone.name} gives {tuple(own)} of layer {layer}. Give the backbone of the store."
        )
    if joint.weights_sha256 not in ("", backbone.weights_sha256):
        raise FeatlabError(
            f"the joint head was fitted on maps of weights {joint.weights_sha256}, "
            f"{backbone.name} has {backbone.weights_sha256}. Give the backbone of the store."
        )
    network = map_network(backbone)
    whole = keras.Model(network.inputs[0], joint.model(network.output), name=f"{network.name}_box")
    write_whole(path, whole.save)
    return path


def _recipe(
    head: str, loss: str | None, epochs: int | None, learning_rate: float, random_state: int
) -> _Recipe:
    """What was asked for; the rest as suits the head."""
    check_choice("head", head, ARCHITECTURES)
    spatial = head == "spatial"
    loss = ("smooth_l1" if spatial else "mse") if loss is None else loss
    epochs = (60 if spatial else 7) if epochs is None else epochs
    check_choice("loss", loss, LOSSES)
    check_whole("epochs", epochs, 1)
    check_between("learning_rate", learning_rate, 0, np.inf, without=[0, np.inf])
    return _Recipe(
        head, loss, epochs, _BATCH_SIZE, learning_rate,
        box_scale=1.0 if spatial else _PIXELS, mirror=spatial, random_state=random_state,
    )  # fmt: skip


def _check_sides(codes: np.ndarray, classes: np.ndarray, fit: np.ndarray, test: np.ndarray) -> None:
    """Something to train and to score on, and no class that only the test rows have."""
    if not len(fit) or not len(test):
        raise FeatlabError(
            f"the joint head needs images with boxes to train and to score on, got {len(fit)} "
            f"train and confirm and {len(test)} test rows."
        )
    unseen = np.setdiff1d(codes[test], codes[fit])
    if len(unseen):
        raise FeatlabError(
            f"class {classes[unseen[0]]!r} has no image with a box in train or confirm; no head "
            "can learn it: leave the class out, or make another split."
        )


def _rows(maps: MapStore | np.ndarray, rows: np.ndarray, layer: str | None) -> np.ndarray:
    if not isinstance(maps, np.ndarray):
        return maps.maps(rows, layer=layer)
    if maps.ndim != 4 or layer is not None or not np.isfinite(maps[rows]).all():
        raise FeatlabError(
            f"maps as an array must be finite and of shape (n, h, w, c), without layer=; got shape "
            f"{maps.shape}, layer {layer!r}."
        )
    return maps[rows].astype(np.float32)


def _train(
    network: Any, X: np.ndarray, codes: np.ndarray, boxes: np.ndarray, recipe: _Recipe
) -> pd.DataFrame:
    rng, scale = np.random.default_rng(recipe.random_state), recipe.box_scale
    boxes = boxes * scale
    rows = []
    for epoch, rate in enumerate(recipe.rates):
        began = time.perf_counter()
        network.optimizer.learning_rate.assign(float(rate))
        order, sums = rng.permutation(len(X)), np.zeros(3)
        flipped = rng.random(len(X)) < (0.5 if recipe.mirror else 0.0)
        for start in range(0, len(X), recipe.batch_size):
            part = order[start : start + recipe.batch_size]
            maps, box, turn = X[part], boxes[part], flipped[part]
            if turn.any():
                maps[turn] = mirror_maps(maps[turn])
                box[turn] = mirrored(box[turn] / scale) * scale
            target = {"label": codes[part], "box": box.astype(np.float32)}
            network.reset_metrics()  # else Keras mixes the batches so far into its answer
            logs = network.train_on_batch(maps, target, return_dict=True)
            values = [float(logs[name]) for name in ("loss", "label_loss", "box_loss")]
            sums += len(part) * np.array(values)
        rows.append([epoch, time.perf_counter() - began, *sums / len(X)])
    return pd.DataFrame(rows, columns=["epoch", "seconds", "loss", "label_loss", "box_loss"])


def _predict(network: Any, X: np.ndarray, recipe: _Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities, boxes in unit coordinates; means over mirror images where trained so."""
    probability, boxes = _outputs(network, X, recipe)
    if recipe.mirror:
        other, turned = _outputs(network, mirror_maps(X), recipe)
        probability, boxes = (probability + other) / 2, (boxes + mirrored(turned)) / 2
    return probability, boxes


def _outputs(network: Any, X: np.ndarray, recipe: _Recipe) -> tuple[np.ndarray, np.ndarray]:
    outputs = network.predict(X, batch_size=recipe.batch_size, verbose=0)
    return np.asarray(outputs["label"]), np.asarray(outputs["box"], float) / recipe.box_scale


def _whole_head(network: Any, unit: float, recipe: _Recipe) -> Any:
    """The head as it is asked: maps of the store → probabilities, corners in unit coordinates."""
    import keras
    from keras import layers, ops

    network = keras.Model(network.input, network.output)  # without the losses, which stay behind
    maps = keras.Input(network.input_shape[1:])
    scaled = layers.Rescaling(1 / unit)(maps)
    out = network(scaled)
    label, box = out["label"], layers.Rescaling(1 / recipe.box_scale)(out["box"])
    if recipe.mirror:
        other = network(ops.flip(scaled, axis=2))
        turned = layers.Rescaling(1 / recipe.box_scale)(other["box"])
        label = (label + other["label"]) / 2
        box = (box + ops.matmul(turned, _MIRROR) + _MIRROR_SHIFT) / 2
    return keras.Model(maps, {"label": label, "box": box}, name="joint_head")


def _predictions(
    rows: np.ndarray,
    codes: np.ndarray,
    classes: np.ndarray,
    probability: np.ndarray,
    raw: np.ndarray,
    truth: np.ndarray,
) -> pd.DataFrame:
    boxes, best = tidy(raw, _WHOLE), probability.argmax(axis=1)
    table = pd.DataFrame(
        {
            "row": rows,
            "label": classes[codes],
            "predicted": classes[best],
            "correct": best == codes,
            "iou": bx.iou(boxes, truth),
        }
    )
    table[bx.CORNERS] = boxes
    table[[f"raw_{name}" for name in bx.CORNERS]] = raw
    return table


def _scored(
    predictions: pd.DataFrame,
    history: pd.DataFrame,
    n_train: int,
    parameters: dict[str, Any],
    groups: np.ndarray,
) -> JointHeadResults:
    correct, iou = predictions["correct"].to_numpy(bool), predictions["iou"].to_numpy(float)
    accuracy_low, accuracy_high = mean_interval(correct, groups=groups)
    iou_low, iou_high = mean_interval(iou, groups=groups)
    seconds = history["seconds"].to_numpy(float)
    return JointHeadResults(
        accuracy=float(correct.mean()),
        accuracy_low=accuracy_low,
        accuracy_high=accuracy_high,
        mean_iou=float(iou.mean()),
        mean_iou_low=iou_low,
        mean_iou_high=iou_high,
        n_train=n_train,
        n=len(predictions),
        seconds_per_epoch=float(seconds[1:].mean() if len(seconds) > 1 else seconds[0]),
        history=history,
        predictions=predictions,
        parameters=parameters,
    )


def _build(shape: tuple[int, ...], n_classes: int, recipe: _Recipe) -> Any:
    """A compiled network: maps → class probabilities and four corners, in the recipe's units."""
    import keras

    maps, scale, flat = keras.Input(shape), recipe.box_scale, recipe.head == "flatten"
    outputs = _flatten(maps, n_classes) if flat else _spatial(maps, n_classes, scale)
    network = keras.Model(maps, dict(zip(("label", "box"), outputs, strict=True)))
    network.compile(
        optimizer=keras.optimizers.Adam(recipe.learning_rate),
        loss={"label": "sparse_categorical_crossentropy", "box": box_loss(recipe.loss, scale)},
        loss_weights={"label": 1.0, "box": 1.0 if flat else 10.0},
    )
    return network


def _flatten(maps: Any, n_classes: int) -> tuple[Any, Any]:
    """As published: everything flattened, one dense layer each."""
    from keras import layers

    flat = layers.Flatten()(maps)
    return layers.Dense(n_classes, activation="softmax")(flat), layers.Dense(4)(flat)


def _spatial(maps: Any, n_classes: int, scale: float) -> tuple[Any, Any]:
    """Fewer channels, two small convolutions, and looks that keep where they look.

    Each look is a softmax over the cells; it passes on its mean position, its spread, and the mean
    features there. The box is centre and sides, by sigmoids, so that corners are in order.
    """
    import keras
    from keras import layers, ops

    h, w, _ = maps.shape[1:]
    x = layers.Conv2D(_CHANNELS, 1)(layers.SpatialDropout2D(_DROPOUT)(maps))
    x = layers.Activation("relu")(layers.LayerNormalization()(x))
    for _ in range(2):
        y = layers.Conv2D(_CHANNELS, 3, padding="same", activation="relu")(x)
        x = layers.LayerNormalization()(layers.Add()([x, y]))
    looks = layers.Reshape((h * w, _LOOKS))(layers.Conv2D(_LOOKS, 1)(x))
    looks = layers.Softmax(axis=1)(looks)
    place = _places(h, w)
    seen = layers.Dot(axes=(1, 1))([looks, layers.Reshape((h * w, _CHANNELS))(x)])
    where = ops.matmul(ops.transpose(looks, (0, 2, 1)), place)
    joined = layers.Concatenate()([layers.Flatten()(where), layers.Flatten()(seen)])
    hidden = layers.Dense(_HIDDEN, activation="relu")(layers.Dropout(_DROPOUT)(joined))
    hidden = layers.Concatenate()([hidden, layers.Flatten()(where)])
    raw = layers.Dense(4, activation="sigmoid")(hidden)
    box = ops.matmul(raw, _CENTRE_TO_CORNERS * np.float32(scale))
    pooled = layers.Dropout(_DROPOUT)(layers.GlobalAveragePooling2D()(maps))
    label = keras.layers.Dense(n_classes, activation="softmax")(pooled)
    return label, box


def _places(h: int, w: int) -> np.ndarray:
    """Position of every cell and its square, ``(h * w, 4)``."""
    y, x = np.meshgrid((np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w, indexing="ij")
    return np.stack([x, y, x**2, y**2], axis=-1).reshape(-1, 4).astype(np.float32)
