"""A frozen network that turns pixels into feature maps."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featlab.backbones._engines import (
    Engine,
    check_request,
    kept_engine,
    kept_path,
    make_engine,
)
from featlab.backbones._files import HUB, better_scaling, class_names, scaling_of_words
from featlab.backbones.graphs import (
    find_head,
    last_map,
    output_of,
    remove_last_stride,
)
from featlab.backbones.networks import (
    BUILT_IN,
    Source,
    available_backbones,
    built_in_name,
    find_source,
    is_model_file,
)
from featlab.errors import FeatlabError
from featlab.results.networks import Description
from featlab.store.network import OwnHead, refuse_difference

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

_SMALLEST_INPUT = 32
_OWN_STRIDE = "network's own"


class Backbone:
    """A frozen network with its own preprocessing; made by :func:`load_backbone`.

    The Keras model is built when it is first needed, so that a finished store is recognised
    without loading it. Pickling keeps the recipe, not the weights: another process builds it anew.
    """

    def __init__(
        self,
        source: Source,
        layers: tuple[str, ...] | None,
        output_stride: int | None,
        engine: str,
        precision: str,
        classifier: bool,
        recipe: Callable[[], Backbone],
    ) -> None:
        self._recipe, self._classifier = recipe, classifier
        self._source, self._requested_layers, self._requested_engine = source, layers, engine
        self.name, self.weights = source.name, source.weights
        self.preprocessing, self.output_stride = source.preprocessing, output_stride
        self.precision = precision

    @property
    def preprocess(self) -> Callable[[Any], Any]:
        """From pixels 0 to 255, as floats, to what the network takes."""
        return self._source.preprocess

    def __reduce__(self) -> tuple[Callable[[], Backbone], tuple[()]]:
        return self._recipe, ()

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
        return (last_map(self.network),)

    @cached_property
    def model(self) -> keras.Model:
        """Keras model from scaled pixels ``(b, H, W, 3)`` to the list of the layers' maps."""
        import keras

        outputs = [output_of(self.network, layer) for layer in self.layers]
        for layer, maps in zip(self.layers, outputs, strict=True):
            if maps.shape[1] * maps.shape[2] == 1 and not layer.endswith("@cls"):
                logger.warning(
                    "layer %s of %s gives maps of one cell, which tell nothing of places: take a "
                    "larger input_size, or an earlier layer.",
                    layer,
                    self.name,
                )
        return keras.Model(self.network.inputs, outputs, name=f"{self.network.name}_maps")

    @cached_property
    def own_head(self) -> OwnHead | None:
        """The network's own classifier, where it has one that was asked for."""
        if self._source.head is not None:
            head = self._source.head()
            return head if head is not None and head.layer in self.layers else None
        return None if self._classified is None else self._classified[0]

    @cached_property
    def _classified(self) -> tuple[OwnHead, keras.KerasTensor] | None:
        names = self._source.class_names
        asked = self._classifier or names is not None
        if not asked:
            return None
        named = names is None or names.is_file()
        return find_head(self.network, self.layers[-1], partial(class_names, file=names), named)

    @cached_property
    def run_model(self) -> keras.Model:
        """As `model`; last the own logits ``(b, k)`` where the maps' means do not give them."""
        import keras

        if self.own_head is None or self.own_head.linear or self._classified is None:
            return self.model
        return keras.Model(self.network.inputs, [*self.model.outputs, self._classified[1]])

    def warn_of_scaling(self, pixels: np.ndarray, labels: Sequence[str]) -> None:
        """Warn where a file's own classifier knows labelled pictures better in another scaling."""
        scaling, head = scaling_of_words(self.preprocessing), self.own_head
        if scaling is not None and head is not None:
            doubt = better_scaling(self.run_model, head, scaling, pixels, labels)
            if doubt:
                logger.warning("%s: %s", self.name, doubt)

    @cached_property
    def engine(self) -> Engine:
        """What runs :meth:`forward`; found when it is first asked for.

        The network is built for it, unless an earlier process kept it converted.
        """
        probe = _probe_picture(self.input_size)[np.newaxis]
        wanted, path = self._requested_engine, self._kept_path
        kept = None if path is None else kept_engine(wanted, self.precision, path, probe)
        if kept is not None:
            return kept
        return make_engine(
            wanted, self.precision, self.run_model, self.preprocess, probe, kept=path
        )

    @property
    def _kept_path(self) -> Path | None:
        """Where it is kept converted; None where only the network itself tells what it is."""
        known = self.name in BUILT_IN and self._source.weights_file is not None
        return kept_path(self.identity()) if known else None

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
        """Everything about the network that decides the maps, as strings; no forward pass."""
        height, width = self.input_size
        return {
            "backbone": self.name,
            "weights_sha256": self.weights_sha256,
            "input_size": f"{height} x {width}",
            "layers": json.dumps(self.layers),
            "output_stride": str(self.output_stride or _OWN_STRIDE),
            "preprocessing": self.preprocessing,
            **({"classifier": "its own"} if self._classifier else {}),
        }

    def forward(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Maps of a batch of pictures; several threads may call it once :attr:`engine` is there.

        Parameters
        ----------
        pixels : ndarray of shape (b, H, W, 3), uint8
            RGB pictures of the backbone's input size; the backbone scales them itself.

        Returns
        -------
        dict of str to ndarray of shape (b, h, w, c), float32
        """
        return self.forward_own(pixels)[0]

    def forward_own(self, pixels: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """:meth:`forward`, and the logits ``(b, k)`` of an own head that is not linear."""
        outputs = list(self.engine.run(pixels))
        logits = outputs.pop() if len(outputs) > len(self.layers) else None
        return dict(zip(self.layers, outputs, strict=True)), logits

    def probe(self) -> dict[str, np.ndarray]:
        """Mean-pooled output on a fixed picture: layer → ``(c,)``; tells networks apart."""
        return dict(self._probed)

    @cached_property
    def _probed(self) -> dict[str, np.ndarray]:
        maps = self.forward(_probe_picture(self.input_size)[np.newaxis])
        return {layer: values[0].mean(axis=(0, 1)) for layer, values in maps.items()}

    def describe(self) -> Description:
        """Input, output shape in words, number of parameters and preprocessing."""
        height, width = self.input_size
        engine: Engine | None = self.__dict__.get("engine")
        if engine is not None and engine.shapes:  # one that was kept knows, without the network
            shapes, parameters = engine.shapes, engine.parameters
        else:
            shapes = tuple(one.shape[1:] for one in self.model.outputs)
            parameters = self.model.count_params()
        outputs = {}
        for layer, (h, w, c) in zip(self.layers, shapes, strict=True):
            cell = f"{height / h:.4g}" + ("" if height * w == width * h else f" × {width / w:.4g}")
            outputs[layer] = f"{h} × {w} cells of {cell} px, {c} neurons"
        return Description(
            name=self.name,
            weights=self.weights,
            input_size=self.input_size,
            outputs=outputs,
            parameters=parameters,
            preprocessing=self.preprocessing,
        )


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
        a preset of ``keras_hub`` (extra ``hub``).
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
    check_request(engine, precision)
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
        "output_stride": None if stride == _OWN_STRIDE else int(stride),
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


def _probe_picture(size: tuple[int, int]) -> np.ndarray:
    """A fixed picture with waves of several frequencies in each channel, uint8 ``(H, W, 3)``."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float64)
    waves = [np.sin(x / (3 + 4 * k)) * np.cos(y / (5 + 3 * k)) for k in range(3)]
    return np.stack([np.round(127.5 + 127.5 * wave) for wave in waves], axis=-1).astype(np.uint8)
