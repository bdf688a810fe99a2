"""The network in a file of the user's own: read, looked at, and made one graph of layers."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featlab.backbones.graphs import flat, graph_of, spatial_layers
from featlab.errors import FeatlabError

if TYPE_CHECKING:
    import keras

_LONGEST_CAUSE = 300


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
