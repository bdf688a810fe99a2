"""The network in a file of the user's own: its graph of layers, its pixels, its classes."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featlab.arguments import check_choice
from featlab.backbones._engines import OPENVINO_BATCH, Engine, compiled_engine, openvino_core
from featlab.backbones.graphs import cause_of, flat, graph_of, spatial_layers, token_cells
from featlab.errors import FeatlabError
from featlab.system.files import end_apart

if TYPE_CHECKING:
    import keras

_SCALINGS = {
    "none": "pixels 0 … 255 as they are; the network scales them itself",
    "unit": "pixels scaled to 0 … 1",
    "tf": "pixels scaled to −1 … 1",
    "torch": "pixels scaled to 0 … 1, then the ImageNet mean and deviation of each channel",
    "caffe": "channels reversed to BGR, the ImageNet mean of each subtracted",
}
PREPROCESSING = tuple(_SCALINGS)
_NUMBERS = r"(-?[\d.]+(?:e-?\d+)?(?:,-?[\d.]+(?:e-?\d+)?){0,2})"
_MEAN_STD = re.compile(f"mean:{_NUMBERS};std:{_NUMBERS}")


def load_keras_file(path: Path, size: tuple[int, int] | None, custom: Sequence[str]) -> keras.Model:
    """The network in a ``.keras`` or ``.h5`` file as one graph of RGB pictures.

    Parameters
    ----------
    path : Path
    size : (int, int), optional
        Height and width, where the network leaves them open.
    custom : sequence of str
        Layers of the user's own, as ``module:Name``.

    Raises
    ------
    FeatlabError
        It cannot be read or run; the message has Keras's cause, and the way out.
    """
    import keras

    own = {name.partition(":")[2]: _imported(name) for name in custom}
    try:
        model = keras.models.load_model(path, own, compile=False, safe_mode=True)
    except Exception as error:
        # Whatever a hostile or damaged file raises, the user needs the file's name.
        reason = cause_of(error)
        unknown = re.search(r"(?:Could not locate \w+|Unknown \w+:?) '?(\w+)'?", reason)
        way_out = f"Keras {keras_version()} reads it here; save it again with that."
        if unknown:
            name = unknown[1]
            reason = f"it holds {name}, which Keras does not know"
            way_out = f"Name where its code is: custom='module:{name}' (--custom module:{name})."
        raise FeatlabError(
            f"{path} could not be loaded as a Keras model: {reason.rstrip('.')}. {way_out}"
        ) from error
    check_pictures(path, model, size)
    try:
        model = flat(model, size)
    except (ValueError, TypeError) as error:
        raise FeatlabError(
            f"{path} cannot be run{f' at {size[0]} × {size[1]} px' if size else ''}: "
            f"{cause_of(error)}"
        ) from error
    if not spatial_layers(model):
        raise FeatlabError(f"{path} has no layer that gives maps (b, h, w, c).")
    return model


def check_pictures(path: Path, model: keras.Model, size: tuple[int, int] | None) -> None:
    """Refuse what is no network of one RGB or grey picture of a known size."""
    graph = graph_of(model)
    if graph is None and type(model).__name__ == "Sequential":
        raise FeatlabError(
            f"{path} was saved before it had seen a picture, so there are no weights in it: give "
            "it a keras.Input first, train it, and save it again."
        )
    if graph is None:
        raise FeatlabError(
            f"{path} is a model of the class {type(model).__name__}, which tells nothing of its "
            "layers: save a functional model, keras.Model(inputs, outputs), of the same layers."
        )
    inputs = {one._keras_history.operation.name: tuple(one.shape) for one in graph.inputs}
    if len(inputs) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in inputs.items())
        raise FeatlabError(
            f"{path} must take pictures alone, but takes {len(inputs)} inputs ({listed}): save the "
            "part of it between the pictures and the last maps, keras.Model(pictures, maps)."
        )
    (shape,) = inputs.values()
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise FeatlabError(
            f"{path} takes pictures with the channels first, {shape}; most processors cannot run "
            "it: build it with data_format='channels_last', set_weights of the old one, and save."
        )
    if len(shape) != 4 or shape[-1] not in (1, 3):
        raise FeatlabError(
            f"{path} must take RGB or grey pictures (b, H, W, 3 or 1), but takes {shape}."
        )
    if None in shape[1:3] and size is None:
        raise FeatlabError(
            f"{path} leaves its input size open: give one with input_size (--input-size), such as "
            "224, that of the pictures it was trained on."
        )
    if size is not None and any(
        own not in (None, one) for own, one in zip(shape[1:3], size, strict=True)
    ):
        raise FeatlabError(
            f"{path} takes {shape[1]} × {shape[2]} px; input_size={size} is not possible for it."
        )


def keras_version() -> str:
    """The version of the Keras that is installed; it is looked up without loading Keras."""
    from importlib.metadata import version

    return version("keras")


def _imported(name: str) -> Any:
    """What ``module:Name`` names, in the working directory (as for ``python``) or elsewhere."""
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise FeatlabError(
            f"custom must name layers as module:Name, with a module that Python finds here, got "
            f"{name!r}: {error}."
        ) from error
    finally:
        sys.path.remove(here)


def checked_preprocessing(preprocessing: str) -> str:
    """One of :data:`PREPROCESSING`, or means and deviations, without blanks.

    Raises
    ------
    FeatlabError
        It is neither.
    """
    given = preprocessing.replace(" ", "")
    if given.startswith("mean:"):
        _mean_and_std(given)
    else:
        check_choice("preprocessing", given, (*PREPROCESSING, "mean:0.5,0.5,0.5;std:0.2,0.2,0.2"))
    return given


def _mean_and_std(preprocessing: str) -> np.ndarray:
    """Mean and deviation of each channel in pixels 0 … 255, ``(2, 3)``; the numbers are of 0 … 1.

    Where one is above 1, all are of 0 … 255.
    """
    match = _MEAN_STD.fullmatch(preprocessing)
    rows = [[float(one) for one in some.split(",")] for some in match.groups()] if match else []
    if {len(row) for row in rows} - {1, 3} or not rows or min(rows[1]) <= 0:
        raise FeatlabError(
            "preprocessing must be like 'mean:0.485,0.456,0.406;std:0.229,0.224,0.225', one number "
            f"or three each and no deviation of 0, got {preprocessing!r}."
        )
    values = np.array([np.broadcast_to(row, 3) for row in rows])
    return values if values.max() > 1 else 255 * values


def scale_pixels(pixels: Any, preprocessing: str) -> Any:
    """Float pixels 0 … 255 as :func:`checked_preprocessing` says."""
    from keras.applications import imagenet_utils

    if preprocessing == "none":
        return pixels
    if preprocessing == "unit":
        return pixels / 255.0
    if preprocessing.startswith("mean:"):
        mean, std = _mean_and_std(preprocessing).astype(np.float32)
        return (pixels - mean) / std
    return imagenet_utils.preprocess_input(pixels, mode=preprocessing)


def preprocessing_in_words(preprocessing: str) -> str:
    """What a scaling does, after its name; :func:`scaling_of_words` finds the name in it."""
    if preprocessing in _SCALINGS:
        return f"{preprocessing}: {_SCALINGS[preprocessing]}"
    mean, std = (", ".join(f"{x:.4g}" for x in row) for row in _mean_and_std(preprocessing))
    return f"{preprocessing}: mean {mean} subtracted from pixels 0 … 255, divided by {std}"


def scaling_of_words(words: str) -> str | None:
    """The scaling that :func:`preprocessing_in_words` tells of; None in words of another kind."""
    name = words.partition(": ")[0]
    return name if name in PREPROCESSING or name.startswith("mean:") else None


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


# Mean and deviation of pixels 0 … 255.
_LINEAR = {
    "none": ((0, 0, 0), (1, 1, 1)),
    "unit": ((0, 0, 0), (255, 255, 255)),
    "tf": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "torch": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": ((103.939, 116.779, 123.68), (1, 1, 1)),  # of blue, green and red
}
_PARSED = """import sys
from featlab.backbones._engines import openvino_core
openvino_core("float32").read_model(sys.argv[1])"""


class OnnxNetwork:
    """An ONNX file that takes RGB pictures, as OpenVINO reads it.

    Attributes
    ----------
    size : (int, int)
        Height and width of the input.
    layers : dict of str to (int, int, int)
        What can be maps, in order, by the name of the node: height, width, neurons.
    last : str
        The last of them that everything goes through.

    Raises
    ------
    FeatlabError
        It cannot be read or run, or takes no pictures of a known size.
    """

    def __init__(self, path: Path, size: tuple[int, int] | None, scaling: str) -> None:
        self.path, self.scaling, self._core = path, scaling, openvino_core("float32")
        # What a hostile file does to a parser happens in a process of its own.
        if failure := end_apart([sys.executable, "-c", _PARSED, str(path)]):
            reason = cause_of(Exception(failure))
            raise FeatlabError(f"{path} could not be read as an ONNX model: {reason}")
        self._model = self._core.read_model(path)
        shapes = [
            [side.get_length() if side.is_static else 0 for side in one.partial_shape]
            for one in self._model.inputs
        ]
        axes = [k for k in (1, 3) if len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][k] == 3]
        if not axes:
            raise FeatlabError(f"{path} must take RGB pictures alone, but takes {shapes}.")
        self._first = axes[0] == 1
        own = shapes[0][2:] if self._first else shapes[0][1:3]
        if size is None and not all(own):
            raise FeatlabError(f"{path} leaves its input size open: give one with input_size.")
        self.size = size or (own[0], own[1])
        full = [3, *self.size] if self._first else [*self.size, 3]
        try:
            self._model.reshape([OPENVINO_BATCH, *full])
        except RuntimeError as error:
            raise FeatlabError(
                f"{path} cannot take {OPENVINO_BATCH} pictures of {self.size[0]} × {self.size[1]} "
                "px at once: export it with open axes for batch, height and width."
            ) from error
        self.layers, self.last = self._maps()

    def _maps(self) -> tuple[dict[str, tuple[int, int, int]], str]:
        nodes = self._model.get_ordered_ops()
        place = {node.get_friendly_name(): k for k, node in enumerate(nodes)}
        layers, waypoints, reached, learned = {}, [], 0, False
        for k, node in enumerate(nodes):
            if node.get_type_name() in ("Constant", "Result"):
                continue
            learned = learned or node.get_type_name() in ("Convolution", "MatMul")
            maps = self._shape(node.output(0)) if node.get_type_name() != "Parameter" else None
            if maps is not None and maps[0] * maps[1] > 1:
                name = node.get_friendly_name().strip("/")
                layers[name] = maps
                waypoints += [name] if learned and reached <= k else []
            takers = [one.get_node() for out in node.outputs() for one in out.get_target_inputs()]
            ends = [place[t.get_friendly_name()] for t in takers if t.get_type_name() != "ShapeOf"]
            reached = max([reached, *ends])
        if not layers:
            raise FeatlabError(f"{self.path} has no node that gives maps, or a grid of tokens.")
        return layers, (waypoints or list(layers))[-1]

    def _shape(self, output: Any, grid: str = "") -> tuple[int, int, int] | None:
        """Height, width and neurons of what a node gives, where it can be maps."""
        if output.partial_shape.is_dynamic or not output.element_type.is_real():
            return None
        shape = list(output.shape)
        if len(shape) == 3 and shape[0] == OPENVINO_BATCH:
            cells = token_cells(shape, self.size, grid)
            return cells and (cells[1], cells[2], shape[2])
        if len(shape) != 4 or shape[0] != OPENVINO_BATCH or grid:
            return None
        _, *own = shape
        return (own[1], own[2], own[0]) if self._channels_first(own) else (own[0], own[1], own[2])

    def _channels_first(self, own: Sequence[int]) -> bool:
        """Whether maps are (c, h, w): as the input is, unless only the other has its aspect."""
        as_first, as_last = (
            round(self.size[0] / h) == round(self.size[1] / w) for h, w in (own[1:], own[:2])
        )
        return self._first if as_first == as_last else as_first

    def engine(self, names: Sequence[str], wanted: str, precision: str, probe: Any) -> Engine:
        """What runs the pass: pixels ``(b, H, W, 3)`` uint8 to the maps of some layers."""
        import openvino
        from openvino.preprocess import PrePostProcessor

        if wanted not in ("auto", "openvino"):
            raise FeatlabError(f"engine must be openvino for {self.path}, got {wanted!r}.")
        model, ports, shapes = self._model.clone(), [], []
        nodes = {node.get_friendly_name().strip("/"): node for node in model.get_ops()}
        for name in names:
            path, _, grid = name.partition("@")
            shape = self._shape(nodes[path].output(0), grid) if path in nodes else None
            if shape is None:
                last = ", ".join(list(self.layers)[-8:])
                raise FeatlabError(
                    f"layers must name nodes of {self.path} that give maps, or tokens of a known "
                    f"grid (norm@1+14x14), got {name!r}. The last ones with maps: {last}."
                )
            ports.append(nodes[path].output(0))
            shapes.append(shape)
        whole = PrePostProcessor(openvino.Model(ports, model.get_parameters(), "maps"))
        taken = whole.input()
        taken.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
        taken.model().set_layout(openvino.Layout("NCHW" if self._first else "NHWC"))
        mean, std = _LINEAR.get(self.scaling) or _mean_and_std(self.scaling).tolist()
        steps = taken.preprocess().convert_element_type(openvino.Type.f32)
        steps = steps.reverse_channels() if self.scaling == "caffe" else steps
        steps.mean(list(map(float, mean))).scale(list(map(float, std)))
        network = whole.build()
        pixels = np.repeat(probe, OPENVINO_BATCH, axis=0)
        reference = self._core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        expected = [values[:1] for values in reference(pixels).values()]
        engine = compiled_engine(openvino_core(precision), network, precision, probe, expected)

        def run(pixels: np.ndarray) -> list[np.ndarray]:
            outputs = engine.run(pixels)
            return [self._arranged(*one) for one in zip(outputs, names, shapes, strict=True)]

        constants = [one for one in model.get_ops() if one.get_type_name() == "Constant"]
        weights = sum(int(np.prod(one.shape)) for one in constants if len(one.shape) > 0)
        return replace(engine, run=run, shapes=tuple(shapes), parameters=weights)

    def _arranged(self, values: np.ndarray, name: str, shape: tuple[int, int, int]) -> np.ndarray:
        if values.ndim == 4:
            first = self._channels_first(values.shape[1:])
            return np.ascontiguousarray(np.moveaxis(values, 1, 3)) if first else values
        cells = token_cells(values.shape, self.size, name.partition("@")[2])
        assert cells is not None
        return values[:, cells[0] : cells[0] + shape[0] * shape[1]].reshape(-1, *shape)

    def digest(self) -> str:
        """Of the file and all its weights, those in files beside it too."""
        digest = hashlib.sha256(self.path.read_bytes())
        for node in self._model.get_ordered_ops():
            if node.get_type_name() == "Constant":
                digest.update(np.ascontiguousarray(node.get_data()).tobytes())
        return digest.hexdigest()
