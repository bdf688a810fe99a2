"""The Keras networks of the joint class + box head, and their losses; imported on use."""

from __future__ import annotations

from typing import Any

import numpy as np

ARCHITECTURES = ("flatten", "spatial")
LOSSES = ("mse", "smooth_l1", "giou")

_CHANNELS, _LOOKS, _HIDDEN = 128, 16, 128
_DROPOUT = 0.3
_PULL = 10.0
_BEND = 0.05  # where smooth L1 turns from a parabola into a line, shares of the input's side


def build(
    head: str, shape: tuple[int, int, int], n_classes: int, loss: str, scale: float, rate: float
) -> Any:
    """A compiled network: maps → class probabilities and four corners, in units of `scale`."""
    import keras

    maps = keras.Input(shape)
    outputs = _flatten(maps, n_classes) if head == "flatten" else _spatial(maps, n_classes, scale)
    model = keras.Model(maps, dict(zip(("label", "box"), outputs, strict=True)))
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss={"label": "sparse_categorical_crossentropy", "box": _loss(loss, scale)},
        loss_weights={"label": 1.0, "box": 1.0 if head == "flatten" else 10.0},
    )
    return model


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
    where = layers.Lambda(lambda a: ops.einsum("bpl,pd->bld", a, place), output_shape=(_LOOKS, 4))(
        looks
    )
    joined = layers.Concatenate()([layers.Flatten()(where), layers.Flatten()(seen)])
    hidden = layers.Dense(_HIDDEN, activation="relu")(layers.Dropout(_DROPOUT)(joined))
    hidden = layers.Concatenate()([hidden, layers.Flatten()(where)])
    raw = layers.Dense(4, activation="sigmoid")(hidden)
    box = layers.Lambda(lambda b: _corners(b) * scale, output_shape=(4,))(raw)
    pooled = layers.Dropout(_DROPOUT)(layers.GlobalAveragePooling2D()(maps))
    label = keras.layers.Dense(n_classes, activation="softmax")(pooled)
    return label, box


def _places(h: int, w: int) -> np.ndarray:
    """Position of every cell and its square, ``(h * w, 4)``."""
    y, x = np.meshgrid((np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w, indexing="ij")
    return np.stack([x, y, x**2, y**2], axis=-1).reshape(-1, 4).astype(np.float32)


def _corners(box: Any) -> Any:
    from keras import ops

    centre, half = box[:, :2], box[:, 2:] / 2
    return ops.concatenate([centre - half, centre + half], axis=1)


def _loss(loss: str, scale: float) -> Any:
    from keras import ops

    if loss == "mse":
        return "mse"

    def smooth_l1(truth: Any, box: Any) -> Any:
        error = ops.abs(truth - box) / scale
        bent = ops.where(error < _BEND, error**2 / (2 * _BEND), error - _BEND / 2)
        return ops.mean(bent, axis=-1)

    def giou(truth: Any, box: Any) -> Any:
        # Smooth L1 moves boxes where GIoU is flat: disjoint, without area, or the whole input.
        return 1 - _giou(truth, box, scale) + _PULL * smooth_l1(truth, box)

    return {"smooth_l1": smooth_l1, "giou": giou}[loss]


def _giou(truth: Any, box: Any, scale: float) -> Any:
    """Generalised IoU (Rezatofighi et al. 2019, CVPR)."""
    from keras import ops

    a, b = truth / scale, box / scale
    area_a, area_b = (ops.prod(ops.maximum(c[:, 2:] - c[:, :2], 0.0), axis=1) for c in (a, b))
    low, high = ops.maximum(a[:, :2], b[:, :2]), ops.minimum(a[:, 2:], b[:, 2:])
    shared = ops.prod(ops.maximum(high - low, 0.0), axis=1)
    union = area_a + area_b - shared
    outer = ops.maximum(a[:, 2:], b[:, 2:]) - ops.minimum(a[:, :2], b[:, :2])
    hull = ops.prod(ops.maximum(outer, 0.0), axis=1)
    return shared / (union + 1e-7) - (hull - union) / (hull + 1e-7)
