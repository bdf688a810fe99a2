"""A backbone with a head of its own on top, as one flat Keras model, and the pictures it is fed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featlab.backbones import Backbone
from featlab.backbones.graphs import cloned
from featlab.errors import FeatlabError
from featlab.images.pixels import InputReader

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

INPUT, RESIZE, SCALE, POOL, DROPOUT, CLASSES = (
    "pictures", "resize_pictures", "scale_pixels", "pool_maps", "head_dropout", "head_classes",
)  # fmt: skip

# How the networks of keras.applications and EfficientNet-Lite name the layers of a block.
_BLOCK = re.compile(
    r"(?:^|[_>])(?P<block>"
    r"conv\d+_block\d+"  # ResNet, DenseNet: conv5_block3_out
    r"|stage_?\d+_[a-z]*block_?\d+"  # ConvNeXt, RegNet: stage_3_block_2_layer_scale
    r"|block_?\d+[a-z]?"  # EfficientNet: block7a_; EfficientNet-Lite; MobileNetV2: block_16_; VGG
    r"|(?:dw|pw)_\d+"  # MobileNet: conv_dw_13, conv_pw_13
    r"|expanded_conv_\d+"
    r")(?![0-9])",
    re.IGNORECASE,
)
_AFFINE_TOLERANCE = 1e-3
_DECODERS = 2  # batches decoded at once


def blocks_of(network: keras.Model) -> list[list[str]]:
    """The blocks of a network, first to last, each as the names of its layers with weights.

    A block is the layers whose names share a block's number: ``block15`` (EfficientNet-Lite, VGG,
    Xception), ``block7a`` (EfficientNet), ``block_16`` (MobileNetV2), ``conv_dw_13`` with
    ``conv_pw_13`` (MobileNet), ``conv5_block3`` (ResNet, DenseNet), ``stage_3_block_2`` (ConvNeXt,
    RegNet). A layer without such a number belongs to the block before it, so that the last
    convolution after the last block is thawed with it; those before the first block are a block of
    their own. In a network that has no such names every layer with weights is a block.

    Parameters
    ----------
    network : keras.Model
        Functional or sequential.

    Returns
    -------
    list of list of str
    """
    layers = [layer.name for layer in network.layers if layer.weights]
    keys = [_block_key(name) for name in layers]
    if not any(keys):
        return [[name] for name in layers]
    blocks: dict[str, list[str]] = {}
    current = ""
    for name, key in zip(layers, keys, strict=True):
        current = key or current
        blocks.setdefault(current, []).append(name)
    return list(blocks.values())


def _block_key(name: str) -> str:
    match = _BLOCK.search(name)
    # A depthwise convolution and the pointwise one after it are one block of MobileNet.
    return re.sub("^(dw|pw)", "", match["block"].lower()) if match else ""


def transfer_network(
    backbone: Backbone,
    n_classes: int,
    *,
    picture_size: tuple[int, int] | None,
    dropout: float,
    random_state: int,
) -> keras.Model:
    """From RGB pixels 0 … 255 to class probabilities; the backbone's weights are copied.

    The layers of :func:`map_network`, mean pooling, dropout, dense softmax.
    """
    import keras

    network = map_network(backbone, picture_size)
    x = keras.layers.GlobalAveragePooling2D(name=POOL)(network.output)
    if dropout:
        x = keras.layers.Dropout(dropout, seed=random_state, name=DROPOUT)(x)
    dense = keras.layers.Dense(
        n_classes,
        activation="softmax",
        kernel_initializer=keras.initializers.GlorotUniform(seed=random_state),
        name=CLASSES,
    )
    return keras.Model(network.inputs[0], dense(x), name=f"{network.name}_transfer")


def map_network(
    backbone: Backbone,
    picture_size: tuple[int, int] | None = None,
    *,
    layers: Sequence[str] | None = None,
) -> keras.Model:
    """A copy of a backbone that takes RGB pixels 0 … 255, also of small pictures.

    Bilinear up-sampling where `picture_size` is not the network's input size, the backbone's own
    preprocessing, then its layers under their own names, all in one flat graph of standard layers:
    saved as ``.keras``, it is taken by ``load_backbone`` in Keras's safe mode.

    Parameters
    ----------
    backbone : Backbone
    picture_size : (int, int), optional
        Height and width of the pictures; the backbone's input size by default.
    layers : sequence of str, optional
        Of the backbone's; the last by default.

    Returns
    -------
    keras.Model
        From ``(b, H, W, 3)`` to the layers' maps ``(b, h, w, c)``.

    Raises
    ------
    FeatlabError
        The network cannot be rebuilt, or its preprocessing is not affine.
    """
    import keras

    size = tuple(picture_size or backbone.input_size)
    pictures = keras.Input((*size, 3), name=INPUT)
    x = pictures
    if size != tuple(backbone.input_size):
        x = keras.layers.Resizing(*backbone.input_size, interpolation="bilinear", name=RESIZE)(x)
    for layer in scaling_layers(backbone.preprocess):
        x = layer(x)
    copy = _copied_onto(backbone, layers or backbone.layers[-1:], pictures, x)
    outputs = copy.outputs if layers else copy.outputs[0]
    return keras.Model(pictures, outputs, name=re.sub(r"\W", "_", backbone.name))


def _copied_onto(
    backbone: Backbone,
    layers: Sequence[str],
    pictures: keras.KerasTensor,
    scaled: keras.KerasTensor,
) -> keras.Model:
    """The backbone up to some of its maps, its layers copied onto `scaled` in one flat graph."""
    import keras

    network = backbone.network
    maps = dict(zip(backbone.layers, backbone.model.outputs, strict=True))
    source = keras.Model(network.inputs[0], [maps[layer] for layer in layers])

    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        def moved(value: Any) -> Any:
            return scaled if value is pictures else value

        args, kwargs = keras.tree.map_structure(moved, (args, kwargs))
        return layer(*args, **kwargs)

    copy = cloned(source, backbone.name, input_tensors=pictures, call_function=call)
    for layer in source.layers:
        if layer.weights:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def scaling_layers(preprocess: Callable[[Any], Any]) -> list[keras.Layer]:
    """Standard layers that scale pixels as a backbone's own preprocessing does.

    What it does is measured: black and the three pure colours give its matrix and its offsets, and
    random pixels prove that there is nothing else to it.

    Raises
    ------
    FeatlabError
        It is not an affine function of each pixel's colours.
    """
    import keras

    def scaled(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(
            preprocess(keras.ops.convert_to_tensor(pixels.astype(np.float32))), dtype=np.float64
        )

    corners = np.vstack([np.zeros(3), 255 * np.eye(3)]).reshape(1, 4, 1, 3)
    black, *colours = scaled(corners)[0, :, 0]
    matrix = (np.stack(colours) - black) / 255
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3))
    expected = pixels @ matrix + black
    if np.abs(scaled(pixels) - expected).max() > _AFFINE_TOLERANCE * np.abs(expected).max():
        raise FeatlabError(
            "the backbone's preprocessing is more than a scale and an offset of each channel, so "
            "it cannot become a layer of the saved model."
        )
    gains = np.diag(matrix)
    if np.array_equal(matrix, np.diag(gains)):
        if (gains == 1).all() and (black == 0).all():
            return []
        return [keras.layers.Rescaling(_plain(gains), _plain(black), name=SCALE)]
    # Channels are mixed (BGR order): a convolution of one pixel that is never trained.
    mix = keras.layers.Conv2D(3, 1, trainable=False, name=SCALE)
    mix.build((None, None, None, 3))
    mix.set_weights([matrix[np.newaxis, np.newaxis], black])
    return [mix]


def _plain(values: np.ndarray) -> float | list[float]:
    return float(values[0]) if len(set(values.tolist())) == 1 else values.tolist()


def thaw(model: keras.Model, backbone: Backbone, blocks: int) -> list[str]:
    """Let only the head and the last `blocks` blocks learn; returns the blocks' layers.

    Batch normalisation stays frozen, and with it in inference mode: its statistics are those of
    millions of pictures, a batch's are those of a few.

    Raises
    ------
    FeatlabError
        The network has fewer blocks.
    """
    known = blocks_of(backbone.model)
    if not 0 <= blocks <= len(known):
        raise FeatlabError(
            f"blocks must be from 0 to {len(known)}, those of {backbone.name}, got {blocks}."
        )
    for layer in model.layers:
        layer.trainable = False
    names = [name for block in known[len(known) - blocks :] for name in block]
    for name in [*names, CLASSES]:
        _unfreeze(model.get_layer(name))
    return names


def _unfreeze(layer: keras.Layer) -> None:
    """Let a layer learn, and those inside it, but for batch normalisation."""
    is_normalisation = "BatchNormalization" in type(layer).__name__
    layer.trainable = not is_normalisation
    for part in getattr(layer, "layers", []):
        _unfreeze(part)


def trainable_parameters(model: keras.Model) -> int:
    """Number of weights that training changes."""
    return int(sum(np.prod(weight.shape) for weight in model.trainable_weights))


class PictureReader:
    """Rows of an image table → pixels of the network's input, with the geometry of the pass."""

    def __init__(self, images: pd.DataFrame, size: tuple[int, int], resize: str) -> None:
        self.size = (int(size[0]), int(size[1]))
        self._read = InputReader(images, self.size, resize)
        self._error: BaseException | None = None

    def __call__(self, rows: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Pixels ``(b, H, W, 3)`` of some rows."""
        try:
            return np.stack([self._read(int(row))[0] for row in rows])
        except BaseException as error:
            self._error = error
            raise

    @contextmanager
    def own_errors(self) -> Iterator[None]:
        """Raise what went wrong in here, not what TensorFlow makes of it."""
        self._error = None
        try:
            yield
        except BaseException:
            if self._error is not None:
                raise self._error from None
            raise


def picture_batches(
    read: PictureReader, rows: Ints, y: Ints, weights: Floats, batch_size: int
) -> tf.data.Dataset:
    """Batches of pixels (float32, 0 … 255), class codes and weights, in the order of the rows.

    Pictures are decoded while the network works; at most a handful of batches are in memory.
    """
    import tensorflow as tf

    codes, loads = tf.constant(y, tf.int32), tf.constant(weights, tf.float32)

    def load(places: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        pixels = tf.numpy_function(lambda at: read(rows[at]), [places], tf.uint8)
        pixels.set_shape((None, *read.size, 3))
        return tf.cast(pixels, tf.float32), tf.gather(codes, places), tf.gather(loads, places)

    places = tf.data.Dataset.range(len(rows)).batch(batch_size)
    return places.map(load, num_parallel_calls=_DECODERS, deterministic=True).prefetch(2)


def feature_batches(
    features: NDArray[np.float32], y: Ints, weights: Floats, batch_size: int
) -> tf.data.Dataset:
    """Batches of features computed once, class codes and weights, in order."""
    import tensorflow as tf

    parts = (features, y.astype(np.int32), weights.astype(np.float32))
    return tf.data.Dataset.from_tensor_slices(parts).batch(batch_size)


def outputs_of(
    model: keras.Model, read: PictureReader, rows: Ints, batch_size: int
) -> NDArray[np.float32]:
    """A model's output for some rows, in inference mode, ``(len(rows), c)``."""
    forward = _compiled(model)
    parts = [
        forward(read(rows[start : start + batch_size])) for start in range(0, len(rows), batch_size)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, model.output_shape[-1]), np.float32)


def _compiled(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    import tensorflow as tf

    @tf.function(autograph=False, reduce_retracing=True)
    def forward(pixels: tf.Tensor) -> tf.Tensor:
        return model(tf.cast(pixels, tf.float32), training=False)

    return lambda pixels: np.asarray(forward(tf.constant(pixels)))
