"""The network in a file of the user's own: its graph of layers, its pixels, its classes."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featlab.arguments import check_choice
from featlab.backbones.graphs import flat, graph_of, spatial_layers
from featlab.errors import FeatlabError
from featlab.store.network import OwnHead

if TYPE_CHECKING:
    import keras

_LONGEST_CAUSE = 300
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
    _check_pictures(path, model, size)
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


def _check_pictures(path: Path, model: keras.Model, size: tuple[int, int] | None) -> None:
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


def cause_of(error: Exception) -> str:
    """Why Keras failed: the last line of what it says, which is where the first error stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    last = last.removeprefix("Exception encountered: ").partition(" Full object config:")[0]
    return last if len(last) <= _LONGEST_CAUSE else f"{last[:_LONGEST_CAUSE]} …"


def keras_version() -> str:
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


HUB = "hub:"
"""Before the name, or the folder, of a preset of ``keras_hub``."""


def load_preset(name: str, size: tuple[int, int] | None) -> keras.Model:
    """The image network of a preset of ``keras_hub``, as one graph of RGB pictures.

    Raises
    ------
    FeatlabError
        ``keras_hub`` is not installed, there is no such preset, or it takes no pictures.
    """
    models = _keras_hub().models
    preset = name.removeprefix(HUB)
    try:
        model = models.Backbone.from_preset(preset)
    except Exception as error:  # downloads and damaged folders fail in any way they like
        raise FeatlabError(
            f"the preset {preset} could not be loaded by keras_hub: {cause_of(error)}"
        ) from error
    # Of a network of pictures and text, the part for pictures.
    model = getattr(model, "vision_encoder", model)
    _check_pictures(Path(name), model, size)
    return flat(model, size)


def preset_scaling(name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """What the pixels 0 … 255 of a preset are multiplied by, and what is added; None if untold."""
    layers = _keras_hub().layers
    try:
        converter = layers.ImageConverter.from_preset(name.removeprefix(HUB))
    except Exception:  # the preset tells nothing of its pixels
        return None
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    both = (np.asarray(one, np.float32).reshape(-1) for one in (scale, offset))
    first, second = (np.broadcast_to(one, 3) for one in both)
    return first, second


def _keras_hub() -> Any:
    try:
        return importlib.import_module("keras_hub")
    except ImportError as error:
        raise FeatlabError(
            f"backbones {HUB}… need keras_hub: pip install 'featlab[hub]'."
        ) from error


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


_FAR_BETTER, _BY_CHANCE = 0.2, 0.01


def better_scaling(
    model: keras.Model, head: OwnHead, scaling: str, pixels: np.ndarray, labels: Sequence[str]
) -> str:
    """What says that a network knows its own classes far better under another scaling, if so.

    Far better is a fifth of the pictures, by a sign test (of those that one of the two alone knows)
    at 0.01: a network that was trained on other scaled pixels runs without an error.

    Parameters
    ----------
    model : keras.Model
        From scaled pixels to maps, and the logits where `head` is not linear.
    head : OwnHead
    scaling : str
        The one that is asked for.
    pixels : ndarray of shape (n, H, W, 3), uint8
    labels : sequence of n str
        Those that are no class of `head` are left out. Where none is one, of as many classes, the
        classes are the labels in alphabetical order, as Keras takes them from folders.

    Returns
    -------
    str
        A sentence; empty where nothing speaks against `scaling`.
    """
    from scipy.stats import binomtest

    classes, folders = list(head.classes), sorted(set(labels))
    if not set(classes) & set(folders) and len(classes) == len(folders):
        classes = folders
    rows = [row for row, label in enumerate(labels) if label in classes]
    if not rows:
        return ""
    pixels, codes = pixels[rows], np.array([classes.index(labels[row]) for row in rows])

    def right(scaling: str) -> np.ndarray:
        outputs = model.predict_on_batch(scale_pixels(pixels.astype(np.float32), scaling))
        last = outputs[-1] if isinstance(outputs, (list, tuple)) else outputs
        logits = head.logits(np.asarray(last).mean(axis=(1, 2))) if head.linear else last
        return np.asarray(logits).argmax(axis=1) == codes

    own = right(scaling)
    others = {name: right(name) for name in PREPROCESSING if name != scaling}
    best = max(others, key=lambda name: others[name].sum())
    gained, lost = (others[best] & ~own).sum(), (own & ~others[best]).sum()
    n, by = len(own), others[best].mean() - own.mean()
    if by < _FAR_BETTER or binomtest(int(gained), int(gained + lost)).pvalue > _BY_CHANCE:
        return ""
    return (
        f"with preprocessing={scaling!r} the model's own classifier is right on {own.sum()} of {n} "
        f"labelled pictures, with {best!r} on {others[best].sum()}: it was probably trained so. "
        f"Give preprocessing={best!r} (--preprocessing {best})."
    )


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
