"""Pictures for training: decoded as the pass decodes them, a few batches in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featlab.errors import FeatlabError
from featlab.images import decode_scaled, jpeg_factor, resize_image

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

_DECODERS = 2  # batches decoded at once


class PictureReader:
    """Rows of an image table → pixels of the network's input, with the geometry of the pass.

    Parameters
    ----------
    images : DataFrame
        Image table with ``attrs["root"]``.
    size : (int, int)
        Height and width.
    resize : {"stretch", "pad"}
    """

    def __init__(self, images: pd.DataFrame, size: tuple[int, int], resize: str) -> None:
        if "root" not in images.attrs:
            raise FeatlabError("the image table does not say where its pictures lie (attrs root).")
        self.size = (int(size[0]), int(size[1]))
        self._root, self._resize = Path(images.attrs["root"]), resize
        self._paths = images["path"].to_numpy(str)
        self._digests = images["sha256"].to_numpy(str)
        self._sides = images[["width", "height"]].to_numpy()
        self._error: BaseException | None = None

    def __call__(self, rows: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Pixels ``(b, H, W, 3)`` of some rows."""
        try:
            return np.stack([self._one(int(row)) for row in rows])
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

    def _one(self, row: int) -> NDArray[np.uint8]:
        file = self._root / self._paths[row]
        try:
            data = file.read_bytes()
        except OSError as error:
            raise FeatlabError(f"{file} could not be read: {error.strerror}.") from error
        if hashlib.sha256(data).hexdigest() != self._digests[row]:
            raise FeatlabError(f"{file} has changed since the folder was indexed; index it again.")
        width, height = self._sides[row]
        factor = jpeg_factor(self._paths[row], width, height, self.size, self._resize)
        picture = decode_scaled(data, factor)
        return resize_image(picture.image, self.size, self._resize, box=picture.box)


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
