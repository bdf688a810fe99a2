"""What is read off the graph of a Keras network and changed in a copy: maps, classifier, stride."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featlab.errors import FeatlabError
from featlab.store.network import OwnHead

if TYPE_CHECKING:
    import keras

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D")
_POOLINGS = ("MaxPooling2D", "AveragePooling2D")
_PASSED = ("Dropout", "Flatten", "Reshape")  # change neither the values nor their order


def spatial_layers(model: keras.Model) -> dict[str, tuple[int, int, int]]:
    """Layers whose output is a map, in order: name → (height, width, neurons).

    Maps of a single cell are left out, unless the network has no other.
    """
    shapes = {}
    for layer in model.layers:
        shape = _shape(layer)
        if type(layer).__name__ != "InputLayer" and len(shape) == 4 and None not in shape[1:]:
            shapes[layer.name] = (shape[1], shape[2], shape[3])
    wide = {name: shape for name, shape in shapes.items() if shape[0] * shape[1] > 1}
    return wide or shapes


def output_of(model: keras.Model, layer: str) -> Any:
    """The output tensor of a layer of maps within the network's graph.

    Raises
    ------
    FeatlabError
        No such layer, one that is called several times, or one that gives no maps.
    """
    # Not layer.output: of a nested model that is a tensor of its own graph. A Sequential keeps its
    # graph in a model of its own.
    graph = getattr(model, "_functional", None) or model
    nodes = [node for some in graph._nodes_by_depth.values() for node in some]
    calls = [node for node in nodes if node.operation.name == layer and not node.is_input]
    if len(calls) != 1:
        last = ", ".join(list(spatial_layers(model))[-8:])
        raise FeatlabError(
            f"layers must name layers of {model.name} that are called once, got {layer!r}. The "
            f"last ones with maps: {last}."
        )
    output = calls[0].output_tensors[0]
    if len(output.shape) != 4:
        raise FeatlabError(f"layer {layer!r} of {model.name} gives no maps (b, h, w, c).")
    return output


def remove_last_stride(model: keras.Model, output_stride: int) -> keras.Model:
    """A copy whose last stage keeps its resolution: stride removed, later kernels dilated by 2.

    The weights are those of `model`; every second cell of the new maps equals a cell of the old
    ones, but for the border.

    Raises
    ------
    FeatlabError
        The architecture does not allow it.

    References
    ----------
    .. [1] Yu, Koltun and Funkhouser, "Dilated Residual Networks", CVPR 2017.
    """
    height = model.input_shape[1]
    maps = spatial_layers(model)
    coarse, fine = list(maps.values())[-1][0], -(-height // output_stride)
    if coarse == fine:
        return model
    if coarse != -(-height // (2 * output_stride)):
        raise _not_possible(model, output_stride, f"its last map has {coarse} rows of cells")
    config = model.get_config()
    if any("layers" in entry["config"] for entry in config["layers"]):
        raise _not_possible(model, output_stride, "it contains a nested network")
    changes = _changes(model, coarse, output_stride)
    for entry in config["layers"]:
        entry["config"].update(changes.get(entry["config"]["name"], {}))
        entry.pop("build_config", None)
    try:
        changed = type(model).from_config(config)
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise _not_possible(model, output_stride, f"rebuilding it failed: {reason}") from error
    if list(spatial_layers(changed).values())[-1][0] != fine:
        raise _not_possible(model, output_stride, "the shapes of its last stage do not fit")
    changed.set_weights(model.get_weights())
    return changed


def _changes(model: keras.Model, coarse: int, output_stride: int) -> dict[str, dict[str, Any]]:
    """Layer → what changes in its configuration."""
    changes: dict[str, dict[str, Any]] = {}
    for layer in model.layers:
        kind, shape = type(layer).__name__, _shape(layer)
        if kind not in _CONVOLUTIONS + _POOLINGS or len(shape) != 4 or shape[1] != coarse:
            continue
        if max(layer.strides) > 1:
            changes[layer.name] = {"strides": (1, 1), "padding": "same"}
        elif kind in _POOLINGS:
            raise _not_possible(model, output_stride, f"pooling {layer.name} cannot be dilated")
        elif max(layer.kernel_size) > 1:
            changes[layer.name] = {"dilation_rate": (2, 2), "padding": "same"}
        else:
            continue
        # Explicit padding was made for the old stride; "same" takes its place.
        source = layer.input._keras_history.operation
        if type(source).__name__ == "ZeroPadding2D":
            changes[source.name] = {"padding": (0, 0)}
    return changes


def _shape(layer: keras.Layer) -> tuple[Any, ...]:
    try:
        output = layer.output
    except (AttributeError, ValueError):  # never called, or called more than once
        return ()
    return tuple(output.shape) if hasattr(output, "shape") else ()


def _not_possible(model: keras.Model, output_stride: int, reason: str) -> FeatlabError:
    return FeatlabError(
        f"output_stride={output_stride} is not possible for {model.name}: {reason}. Leave it out, "
        "or ask for an earlier layer or a larger input_size."
    )


def cloned(model: keras.Model, name: str, **how: Any) -> keras.Model:
    """A copy of a network, layer by layer, with new weights.

    Parameters
    ----------
    model : keras.Model
        Functional or Sequential.
    name : str
        What an error calls it.
    **how
        Of ``keras.models.clone_model``.

    Raises
    ------
    FeatlabError
        A part of the network is a model of the user's own class, or its layers cannot be rebuilt.
    """
    import keras

    try:
        return keras.models.clone_model(model, **how)
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FeatlabError(
            f"{name} cannot be copied layer by layer: {reason}. Give a functional or Sequential "
            "Keras model."
        ) from error


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
