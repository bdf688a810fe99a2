"""A frozen network that turns pixels into feature maps."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featlab._errors import FeatlabError
from featlab.backbones import _catalogue, efficientnet_lite
from featlab.backbones._surgery import output_of, remove_last_stride, spatial_layers

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

_WEIGHT_SEED = 0
_SMALLEST_INPUT = 32


@dataclass(frozen=True)
class Description:
    """What a reader wants to know of a backbone.

    Attributes
    ----------
    name, weights, preprocessing : str
    input_size : (int, int)
        Height and width in pixels.
    outputs : dict of str to str
        Layer → "7 x 7 cells of 32 px, 1280 neurons".
    parameters : int
        Number of weights up to the last layer given.
    """

    name: str
    weights: str
    input_size: tuple[int, int]
    outputs: dict[str, str]
    parameters: int
    preprocessing: str

    def __str__(self) -> str:
        height, width = self.input_size
        outputs = "; ".join(f"layer {layer}: {text}" for layer, text in self.outputs.items())
        return (
            f"{self.name} ({self.weights} weights, {self.parameters:,} parameters). Input: "
            f"{height} × {width} px RGB, {self.preprocessing}. Output: {outputs}."
        )


@dataclass(frozen=True)
class _Source:
    """How a network comes about; nothing of it is loaded yet."""

    name: str
    weights: str
    weights_file: Path | None
    preprocessing: str
    build: Callable[[tuple[int, int] | None], keras.Model]
    preprocess: Callable[[Any], Any]
    input_size: tuple[int, int] | None
    last_layer: str | None


class Backbone:
    """A frozen network with its own preprocessing; made by :func:`load_backbone`.

    The Keras model is built when it is first needed, so that a finished store is recognised
    without loading it.
    """

    def __init__(
        self, source: _Source, layers: tuple[str, ...] | None, output_stride: int | None
    ) -> None:
        self._source, self._requested_layers = source, layers
        self.name, self.weights = source.name, source.weights
        self.preprocessing, self.output_stride = source.preprocessing, output_stride

    @property
    def preprocess(self) -> Callable[[Any], Any]:
        """From pixels 0 to 255, as floats, to what the network takes."""
        return self._source.preprocess

    def __repr__(self) -> str:
        return f"<Backbone {self.name}, {self.weights} weights>"

    @cached_property
    def network(self) -> keras.Model:
        """The whole Keras network, from scaled pixels to its last output."""
        network = self._source.build(self._source.input_size)
        network.trainable = False
        if self.output_stride is not None:
            network = remove_last_stride(network, self.output_stride)
        return network

    @cached_property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        if self._source.input_size is not None:
            return self._source.input_size
        _, height, width, _ = self.network.input_shape
        return height, width

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose maps :meth:`forward` gives."""
        if self._requested_layers is not None:
            return self._requested_layers
        if self._source.last_layer is not None:
            return (self._source.last_layer,)
        return (list(spatial_layers(self.network))[-1],)

    @cached_property
    def model(self) -> keras.Model:
        """Keras model from scaled pixels ``(b, H, W, 3)`` to the list of the layers' maps."""
        import keras

        outputs = [output_of(self.network, layer) for layer in self.layers]
        return keras.Model(self.network.inputs, outputs, name=f"{self.name}_maps")

    @cached_property
    def weights_sha256(self) -> str:
        """Digest of the weights' file, or of the arrays where there is no one file."""
        if self._source.weights_file is not None:
            return hashlib.sha256(self._source.weights_file.read_bytes()).hexdigest()
        digest = hashlib.sha256()
        for array in self.network.get_weights():
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def identity(self) -> dict[str, str]:
        """Everything that decides the maps, as strings; makes no forward pass."""
        height, width = self.input_size
        return {
            "backbone": self.name,
            "weights_sha256": self.weights_sha256,
            "input_size": f"{height} x {width}",
            "layers": json.dumps(self.layers),
            "output_stride": str(self.output_stride or "network's own"),
            "preprocessing": self.preprocessing,
        }

    def forward(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Maps of a batch of pictures.

        Parameters
        ----------
        pixels : ndarray of shape (b, H, W, 3), uint8
            RGB pictures of the backbone's input size; the backbone scales them itself.

        Returns
        -------
        dict of str to ndarray of shape (b, h, w, c), float32
        """
        maps = self._compiled(pixels)
        return {layer: np.asarray(values) for layer, values in zip(self.layers, maps, strict=True)}

    def probe(self) -> dict[str, np.ndarray]:
        """Mean-pooled output on a fixed picture: layer → ``(c,)``; tells networks apart."""
        maps = self.forward(_probe_picture(self.input_size)[np.newaxis])
        return {layer: values[0].mean(axis=(0, 1)) for layer, values in maps.items()}

    def describe(self) -> Description:
        """Input, output shape in words, number of parameters and preprocessing."""
        height, width = self.input_size
        outputs = {}
        for layer, tensor in zip(self.layers, self.model.outputs, strict=True):
            _, h, w, c = tensor.shape
            cell = f"{height / h:.4g}" + ("" if height * w == width * h else f" × {width / w:.4g}")
            outputs[layer] = f"{h} × {w} cells of {cell} px, {c} neurons"
        return Description(
            name=self.name,
            weights=self.weights,
            input_size=self.input_size,
            outputs=outputs,
            parameters=self.model.count_params(),
            preprocessing=self.preprocessing,
        )

    @cached_property
    def _compiled(self) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
        # model.predict sets up a data pipeline at each call; a compiled function is up to three
        # times as fast for small networks (benchmarks/extract.py).
        import tensorflow as tf

        model, preprocess = self.model, self.preprocess
        signature = [tf.TensorSpec((None, *self.input_size, 3), tf.uint8)]

        @tf.function(input_signature=signature, autograph=False)
        def compiled(pixels: tf.Tensor) -> list[tf.Tensor]:
            outputs = model(preprocess(tf.cast(pixels, tf.float32)), training=False)
            return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

        return compiled


def load_backbone(
    name_or_path: str | os.PathLike[str] = "efficientnet_lite0",
    *,
    weights: str | os.PathLike[str] | None = "imagenet",
    input_size: int | tuple[int, int] | None = None,
    layers: str | Sequence[str] | None = None,
    output_stride: int | None = None,
    preprocessing: str | None = None,
) -> Backbone:
    """A frozen network by name, or from a file.

    Parameters
    ----------
    name_or_path : str or path-like
        A built-in network (``efficientnet_lite0``, ``_lite1``, ``_lite2``; they need no download),
        any classification network of ``keras.applications``, or a ``.keras`` file (loaded in
        Keras's safe mode, so that it cannot run code).
    weights : {"imagenet", None} or path-like
        None is a seeded random initialisation. A path is a weights file without the classifier.
        Of no meaning for a ``.keras`` file, which has its own.
    input_size : int or (int, int), optional
        Side, or height and width, in pixels; what the network was trained at by default.
    layers : str or sequence of str, optional
        Layers whose maps are wanted; the last feature map by default.
    output_stride : {16}, optional
        Pixels of the input per cell of the last map: its last stage keeps its resolution and its
        kernels are dilated. The network's own by default.
    preprocessing : {"none", "tf", "torch", "caffe"}, optional
        For a ``.keras`` file only: what its pixels need ("none": it takes 0 … 255 itself).

    Returns
    -------
    Backbone

    Raises
    ------
    FeatlabError
        Unknown name, unreadable file, or an option that the network does not allow.

    Examples
    --------
    >>> backbone = load_backbone("efficientnet_lite0")     # doctest: +SKIP
    >>> print(backbone.describe())                         # doctest: +SKIP
    """
    name = os.fspath(name_or_path)
    if output_stride not in (None, 16):
        raise FeatlabError(f"output_stride must be 16 or left out, got {output_stride!r}.")
    size = _input_size(input_size)
    if _catalogue.is_model_file(name):
        source = _model_file(Path(name), weights, size, preprocessing)
    elif preprocessing is not None:
        raise FeatlabError(f"preprocessing is for .keras files; {name} has its own. Leave it out.")
    else:
        size = size or (_catalogue.default_input_size(name),) * 2
        built_in = _catalogue.built_in_name(name)
        make = _built_in if built_in else _application
        source = make(built_in or name, weights, size)
    if weights is None:
        logger.warning(
            "%s has RANDOM weights (weights=None): it has learned nothing, and its neurons mean "
            "nothing.",
            source.name,
        )
    wanted = (layers,) if isinstance(layers, str) else layers
    if wanted is not None and (not wanted or len(set(wanted)) != len(wanted)):
        raise FeatlabError(f"layers must name different layers, got {list(wanted)}.")
    return Backbone(source, tuple(wanted) if wanted else None, output_stride)


def _built_in(name: str, weights: str | os.PathLike[str] | None, size: tuple[int, int]) -> _Source:
    file = None
    if weights == "imagenet":
        file = efficientnet_lite.weights_path(name)
    elif weights is not None:
        file = _existing(weights)

    def build(size: tuple[int, int] | None) -> keras.Model:
        assert size is not None
        return _seeded(partial(efficientnet_lite.build, name, size, file), weights)

    return _Source(
        name=name,
        weights=_weights_label(weights),
        weights_file=file,
        preprocessing="pixels scaled to (x − 127) / 128",
        build=build,
        preprocess=lambda pixels: (pixels - 127.0) / 128.0,
        input_size=size,
        last_layer=efficientnet_lite.LAST_MAP,
    )


def _application(
    name: str, weights: str | os.PathLike[str] | None, size: tuple[int, int]
) -> _Source:
    entry = _catalogue.find_application(name)
    file = None if weights in (None, "imagenet") else _existing(weights)

    def build(size: tuple[int, int] | None) -> keras.Model:
        assert size is not None
        options = {"include_top": False, "input_shape": (*size, 3)}
        try:
            return _seeded(partial(entry.build, weights=file or weights, **options), weights)
        except (ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FeatlabError(
                f"{entry.name} with weights {weights!s} at {size[0]} × {size[1]} px could not be "
                f"made: {reason}"
            ) from error
        except Exception as error:
            # Keras reports a failed download as a bare Exception.
            if type(error) is not Exception:
                raise
            raise FeatlabError(
                f"the ImageNet weights of {entry.name} could not be downloaded: {error}. Give a "
                f"local file as weights, or use {_catalogue.BUILT_IN[0]}, which needs no network."
            ) from error

    return _Source(
        name=entry.name,
        weights=_weights_label(weights),
        weights_file=file,
        preprocessing=f"keras.applications.{entry.module}.preprocess_input",
        build=build,
        preprocess=entry.preprocess,
        input_size=size,
        last_layer=None,
    )


def _model_file(
    path: Path,
    weights: str | os.PathLike[str] | None,
    size: tuple[int, int] | None,
    preprocessing: str | None,
) -> _Source:
    if weights != "imagenet":
        raise FeatlabError(f"{path} has its own weights; leave weights out.")
    scaling = preprocessing or "none"
    if scaling not in _catalogue.PREPROCESSING:
        allowed = ", ".join(_catalogue.PREPROCESSING)
        raise FeatlabError(f"preprocessing must be one of {allowed}, got {preprocessing!r}.")
    _existing(path)

    def build(size: tuple[int, int] | None) -> keras.Model:
        return _load_keras_file(path, size)

    return _Source(
        name=path.stem,
        weights=path.name,
        weights_file=path,
        preprocessing=f"{scaling}: {_catalogue.describe_scaling(scaling)}",
        build=build,
        preprocess=partial(_catalogue.scale_pixels, preprocessing=scaling),
        input_size=size,
        last_layer=None,
    )


def _load_keras_file(path: Path, size: tuple[int, int] | None) -> keras.Model:
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        # Whatever a hostile or damaged file raises, the user needs the file's name.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FeatlabError(f"{path} could not be loaded as a Keras model: {reason}") from error
    shape = model.input_shape
    if isinstance(shape, list) or len(shape) != 4 or shape[-1] != 3:
        raise FeatlabError(f"{path} must take RGB pictures (b, H, W, 3), but takes {shape}.")
    if None in shape[1:3]:
        raise FeatlabError(
            f"{path} leaves its input size open; save it with a fixed one, such as "
            "keras.Input((224, 224, 3))."
        )
    if size is not None and size != tuple(shape[1:3]):
        raise FeatlabError(
            f"{path} takes {shape[1]} × {shape[2]} px; input_size={size} is not possible for it."
        )
    if not spatial_layers(model):
        raise FeatlabError(f"{path} has no layer that gives maps (b, h, w, c).")
    return model


def _seeded(
    build: Callable[[], keras.Model], weights: str | os.PathLike[str] | None
) -> keras.Model:
    """Build; random weights are the same each time, so that a pass over them can be resumed."""
    if weights is None:
        import keras

        keras.utils.set_random_seed(_WEIGHT_SEED)
    return build()


def _existing(path: str | os.PathLike[str]) -> Path:
    file = Path(path)
    if not file.is_file():
        raise FeatlabError(f"there is no file {file}; give 'imagenet', None or a local file.")
    return file


def _weights_label(weights: str | os.PathLike[str] | None) -> str:
    if weights is None:
        return "random"
    return "ImageNet" if weights == "imagenet" else Path(weights).name


def _input_size(input_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if input_size is None:
        return None
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) != 2 or min(size) < _SMALLEST_INPUT:
        raise FeatlabError(
            f"input_size must be one or two sides of at least {_SMALLEST_INPUT} px, "
            f"got {input_size}."
        )
    return int(size[0]), int(size[1])


def _probe_picture(size: tuple[int, int]) -> np.ndarray:
    """A fixed picture with waves of several frequencies in each channel, uint8 ``(H, W, 3)``."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float64)
    waves = [np.sin(x / (3 + 4 * k)) * np.cos(y / (5 + 3 * k)) for k in range(3)]
    return np.stack([np.round(127.5 + 127.5 * wave) for wave in waves], axis=-1).astype(np.uint8)
