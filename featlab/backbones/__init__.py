"""Frozen networks: a name or a file → feature maps, with the network's *own* preprocessing."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from featlab.arguments import check_choice
from featlab.backbones._backbone import OWN_STRIDE, Backbone
from featlab.backbones._engines import ENGINES, PRECISIONS
from featlab.backbones._files import scaling_of_words
from featlab.backbones.networks import (
    HUB,
    available_backbones,
    built_in_name,
    find_source,
    is_model_file,
)
from featlab.errors import FeatlabError
from featlab.store.network import refuse_difference

__all__ = ["Backbone", "available_backbones", "load_backbone", "rebuild_backbone"]

logger = logging.getLogger(__name__)

_SMALLEST_INPUT = 32


def load_backbone(
    name_or_path: str | os.PathLike[str] = "efficientnet_lite0",
    *,
    weights: str | os.PathLike[str] | None = "imagenet",
    input_size: int | tuple[int, int] | None = None,
    layers: str | Sequence[str] | None = None,
    output_stride: int | None = None,
    preprocessing: str | None = None,
    engine: str = "auto",
    precision: str = "float32",
    classifier: bool = False,
    custom: str | Sequence[str] = (),
) -> Backbone:
    """A frozen network by name, or from a file.

    Parameters
    ----------
    name_or_path : str or path-like
        A built-in network (``efficientnet_lite0``, ``_lite1``, ``_lite2``; they need no download),
        any classification network of ``keras.applications``, a ``.keras`` (``.h5``) file (loaded in
        Keras's safe mode, so that it cannot run code), or ``hub:`` before the name or the folder of
        a preset of ``keras_hub`` (extra ``hub``). Of any other framework an ``.onnx`` file, which
        OpenVINO runs (extra ``fast``), forward only; its layers are the names of nodes and outputs.
    weights : {"imagenet", None} or path-like
        None is a seeded random initialisation. A path is a weights file without the classifier.
        Of no meaning for a ``.keras`` file, which has its own.
    input_size : int or (int, int), optional
        Side, or height and width, in pixels; what the network was trained at by default.
    layers : str or sequence of str, optional
        Layers whose maps are wanted; by default the last one with maps that everything goes through
        from the input to the output. Of a network inside the network by path
        (``mobilenetv2/out_relu``); of a transformer the tokens of a grid, with ``@1+14x14`` behind
        the name where their number does not tell it, and ``@cls`` for the first token alone.
    output_stride : {16}, optional
        Pixels of the input per cell of the last map: its last stage keeps its resolution and its
        kernels are dilated. The network's own by default.
    preprocessing : {"none", "unit", "tf", "torch", "caffe"} or str, optional
        For a file or a preset: what its pixels need ("none": it takes 0 … 255 itself; "unit":
        0 … 1, as after ``rescale=1 / 255``), or what is subtracted and divided by,
        ``mean:0.485,0.456,0.406;std:0.229,0.224,0.225`` of pixels 0 … 1 (of 0 … 255 where a number
        is above 1).
    engine : {"auto", "tensorflow", "openvino", "jax", "torch"}
        What runs the network. "auto": OpenVINO where it is installed, TensorFlow sees no graphics
        card and the converted network agrees with TensorFlow to 1e-4 of the largest activation;
        else TensorFlow. "jax" and "torch" where Keras runs on them (``KERAS_BACKEND``).
    precision : {"float32", "bfloat16"}
        "bfloat16" is faster on processors that have it and changes the maps by about 1 %; it needs
        OpenVINO.
    classifier : bool
        Of a network of ``keras.applications``: with its own classifier, which `weights` then hold.
        The built-in networks have theirs in any case, and a ``.keras`` file where it ends in a
        softmax (or in a dense layer whose classes ``<name>.classes.txt`` beside it names, one a
        line).
    custom : str or sequence of str
        Layers of your own in a ``.keras`` file, as ``module:Name``: the code is taken from that
        module, never from the file. Those that ``register_keras_serializable`` knows need no name.

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
    _check_request(engine, precision)
    size = _input_size(input_size)
    own = (custom,) if isinstance(custom, str) else tuple(custom)
    source = find_source(name, weights, size, preprocessing, classifier, own)
    if weights is None:
        logger.warning(
            "%s has RANDOM weights (weights=None): it has learned nothing, and its neurons mean "
            "nothing.",
            source.name,
        )
    wanted = (layers,) if isinstance(layers, str) else layers
    within = [one for one in wanted or () for other in wanted or () if one.startswith(f"{other}/")]
    if wanted is not None and (not wanted or len(set(wanted)) != len(wanted) or within):
        raise FeatlabError(
            f"layers must name different layers, none inside another, got {list(wanted)}."
        )
    recipe = partial(
        load_backbone,
        name,
        weights=weights,
        input_size=input_size,
        layers=layers,
        output_stride=output_stride,
        preprocessing=preprocessing,
        engine=engine,
        precision=precision,
        classifier=classifier,
        custom=own,
    )
    wanted = tuple(wanted) if wanted else None
    return Backbone(source, wanted, output_stride, engine, precision, classifier, recipe)


def rebuild_backbone(
    provenance: Mapping[str, Any],
    backbone: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    custom: str | Sequence[str] = (),
) -> Backbone:
    """The network that a store (or a predictor) was made with, from what it says of it.

    Parameters
    ----------
    provenance : mapping of str to object
        ``MapStore.provenance``.
    backbone, weights : str or path-like, optional
        Where they came from files, which have to be given.
    custom : str or sequence of str
        As for :func:`load_backbone`.

    Returns
    -------
    Backbone
        Of the same recipe; whether the weights are the same is for its ``identity`` to say.

    Raises
    ------
    FeatlabError
        The network or its weights came from a file, which is not given; a Keras file is given for
        a network that is none.
    """
    name, own = os.fspath(backbone or str(provenance["backbone"])), str(provenance["weights"])
    stride = str(provenance["output_stride"])
    shared: dict[str, Any] = {
        "layers": json.loads(provenance["layers"]),
        "output_stride": None if stride == OWN_STRIDE else int(stride),
        "precision": str(provenance.get("precision", "float32")),
    }
    height, width = (int(side) for side in str(provenance["input_size"]).split(" x "))
    if is_model_file(name):
        scaling = scaling_of_words(str(provenance["preprocessing"]))
        if scaling is None:  # that of a network which is no Keras file
            given = {"backbone": Path(name).stem, "preprocessing": "that of a Keras file"}
            way_out = "Leave the network out, or give the one named first."
            refuse_difference(provenance, given, "the store or model", way_out)
        size = (height, width)
        return load_backbone(name, preprocessing=scaling, input_size=size, custom=custom, **shared)
    if name.startswith(HUB):
        scaling, size = scaling_of_words(str(provenance["preprocessing"])), (height, width)
        return load_backbone(name, preprocessing=scaling, input_size=size, **shared)
    own_name = backbone is None
    if own_name and built_in_name(name) is None and name not in available_backbones():
        raise FeatlabError(
            f"the store's network {name!r} came from a file ({own}); give it with --backbone."
        )
    if weights is None and own not in ("ImageNet", "random"):
        raise FeatlabError(
            f"the store's network {name} has weights of its own ({own}); give them with --weights."
        )
    asked = weights or {"ImageNet": "imagenet", "random": "none"}[own]
    return load_backbone(
        name,
        weights=None if str(asked).lower() == "none" else asked,
        input_size=(height, width),
        classifier="classifier" in provenance,
        **shared,
    )


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


def _check_request(engine: str, precision: str) -> None:
    """Refuse what no network can have, before anything is loaded."""
    check_choice("engine", engine, ENGINES)
    check_choice("precision", precision, PRECISIONS)
    if precision != "float32" and engine not in ("auto", "openvino"):
        raise FeatlabError(
            f"precision={precision!r} needs engine='openvino', got engine={engine!r}."
        )
