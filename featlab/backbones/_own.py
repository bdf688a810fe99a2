"""A network's own classifier: its classes, its logits, and whether it is linear in the maps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featlab.backbones.efficientnet_lite import LAST_MAP
from featlab.backbones.torch_weights import read_state_dict
from featlab.errors import FeatlabError
from featlab.store.own import OwnHead

if TYPE_CHECKING:
    import keras

_PASSED = ("Dropout", "Flatten", "Reshape")  # change neither the values nor their order


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 classes of ILSVRC 2012: a synset's first lemma, with its number where two share it.

    References
    ----------
    Russakovsky et al. (2015). ImageNet Large Scale Visual Recognition Challenge. IJCV 115, 211-252.
    """
    lines = Path(__file__).with_name("imagenet_classes.txt").read_text("utf-8").splitlines()
    synsets = [line.split("\t") for line in lines if not line.startswith("#")]
    names = [lemmas.split(", ")[0] for _, lemmas in synsets]
    return tuple(
        name if names.count(name) == 1 else f"{name} ({number})"
        for name, (number, _) in zip(names, synsets, strict=True)
    )


def class_names(k: int, file: Path | None = None) -> tuple[str, ...]:
    """Names of the k outputs of a classifier.

    Parameters
    ----------
    k : int
    file : Path, optional
        A name a line. Without it 1,000 outputs of a network of ImageNet are its classes.

    Raises
    ------
    FeatlabError
        The file has another number of names, or one twice.
    """
    if file is None:
        return imagenet_classes() if k == len(imagenet_classes()) else _numbered(k)
    if not file.is_file():
        return _numbered(k)
    names = tuple(line.strip() for line in file.read_text("utf-8").splitlines() if line.strip())
    if len(names) != k or len(set(names)) != k:
        raise FeatlabError(
            f"{file} must name the {k} classes of the network, each once, a line each; got "
            f"{len(names)} lines, {len(set(names))} different."
        )
    return names


def _numbered(k: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(k))


def lite_head(weights: Path) -> OwnHead | None:
    """The head of an EfficientNet-Lite, from its weights' file; None where it has none."""
    tensors = read_state_dict(weights)
    if "_fc.weight" not in tensors or "_fc.bias" not in tensors:
        return None
    coef = tensors["_fc.weight"].astype(np.float32)
    return OwnHead(class_names(len(coef)), LAST_MAP, coef, tensors["_fc.bias"].astype(np.float32))


def find_head(
    network: keras.Model, last_map: str, names: Path | None
) -> tuple[OwnHead, keras.KerasTensor] | None:
    """The classifier at the end of a Keras network, and its logits in the network's graph.

    It is one where a layer of two units or more ends in a softmax, or, if its classes are named
    (`names`, or a network of ImageNet), in nothing.

    Parameters
    ----------
    network : keras.Model
    last_map : str
        The last layer of maps that is stored.
    names : Path, optional
        As in :func:`class_names`.
    """
    if len(network.outputs) != 1 or len(network.outputs[0].shape) != 2:
        return None
    layer, softmax = _made_by(network.outputs[0]), False
    # What gives the logits is a dense layer, or a convolution of single cells.
    while _kind(layer) in ("Activation", "Softmax", *_PASSED) and not _kernel(layer):
        if _kind(layer) == "Softmax" or _activation(layer) == "softmax":
            softmax = True
        elif _kind(layer) == "Activation" and _activation(layer) != "linear":
            return None
        layer = _made_by(_input(layer))
    softmax = softmax or _activation(layer) == "softmax"
    known = names is None or names.is_file()
    if not _kernel(layer) or not (softmax or (known and _activation(layer) == "linear")):
        return None
    kernel, *bias = layer.get_weights()
    kernel = kernel.reshape(-1, kernel.shape[-1])
    k = kernel.shape[1]
    if k < 2:
        return None
    intercept = bias[0] if bias else np.zeros(k)
    below = _made_by(_input(layer))
    while _kind(below) in _PASSED and _kind(_made_by(_input(below))) != "InputLayer":
        below = _made_by(_input(below))
    linear = _kind(below) == "GlobalAveragePooling2D" and (_made_by(_input(below)).name == last_map)
    weights = (kernel.T.astype(np.float32), intercept.astype(np.float32)) if linear else ()
    return OwnHead(class_names(k, names), last_map, *weights), _logits(layer)


def _logits(layer: keras.Layer) -> keras.KerasTensor:
    """The layer's output before its activation, one row a picture."""
    import keras

    config = layer.get_config() | {"activation": "linear", "name": f"{layer.name}_logits"}
    bare = type(layer).from_config(config)
    logits = bare(_input(layer))
    bare.set_weights(layer.get_weights())
    return logits if len(logits.shape) == 2 else keras.layers.Flatten()(logits)


def _made_by(tensor: keras.KerasTensor) -> keras.Layer:
    return tensor._keras_history.operation


def _input(layer: keras.Layer) -> keras.KerasTensor:
    return layer._inbound_nodes[-1].input_tensors[0]


def _kind(layer: Any) -> str:
    return type(layer).__name__


def _kernel(layer: Any) -> bool:
    """Whether a layer is a dense one, or a convolution that sees a single cell."""
    shape: Sequence[Any] = getattr(getattr(layer, "output", None), "shape", ())
    cell = _kind(layer) == "Conv2D" and tuple(shape[1:3]) == (1, 1)
    return _kind(layer) == "Dense" or (cell and tuple(layer.kernel_size) == (1, 1))


def _activation(layer: Any) -> str:
    """Name of its activation; a layer that has none passes values on."""
    name = getattr(getattr(layer, "activation", None), "__name__", "linear")
    return re.sub(r"^log_softmax$", "softmax", name)
