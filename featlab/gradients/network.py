"""A network with a head, the user's or its own, and its gradients, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax

from featlab.arguments import check_whole, text_labels
from featlab.backbones import Backbone
from featlab.backbones.graphs import output_of
from featlab.errors import FeatlabError
from featlab.gradients._guided import Guided, guided, keras_model
from featlab.store import MapStore

if TYPE_CHECKING:
    import keras

BATCH_SIZE = 16
GREY = 127
"""What hidden pixels become: the grey around padded pictures, close to zero for most networks."""

Compiled = Callable[..., Any]

_LISTED = 20  # classes that an error names
_FLOAT16 = 1e-3  # of the largest activation: rounding of the stored maps, and another batch size


@dataclass(frozen=True)
class LinearHead:
    """Logits of classes from mean-pooled maps: a logistic head, or the network's own.

    Attributes
    ----------
    classes : tuple of str
    coef : ndarray of shape (k, c), float32, or None
        For raw mean-pooled maps; None where those are the logits themselves.
    intercept : ndarray of shape (k,), float32
    own : bool
        Whether it is the network's own, a softmax. A logistic head of two classes, from
        :func:`featlab.heads.linear_weights`, has one logit: row 0 is minus row 1.

    Raises
    ------
    FeatlabError
        The shapes do not fit, a class stands twice, or a logistic head of two classes has rows that
        are not each other's negative.
    """

    classes: tuple[str, ...]
    coef: np.ndarray | None
    intercept: np.ndarray
    own: bool = False

    def __post_init__(self) -> None:
        k, shape = len(self.classes), (0, 0) if self.coef is None else np.shape(self.coef)
        fits = self.coef is None or (len(shape) == 2 and shape[0] == k)
        if k < 2 or not fits or np.shape(self.intercept) != (k,):
            raise FeatlabError(
                f"a head needs at least two classes, weights (classes, neurons) and intercepts "
                f"(classes,); got {k} classes, weights {shape} and intercepts "
                f"{np.shape(self.intercept)}."
            )
        if len(set(self.classes)) < k:
            raise FeatlabError(f"a head needs each class once, got {', '.join(self.classes)}.")
        if self._logistic_pair and not np.allclose(self.coef[0], -self.coef[1]):  # type: ignore[index]
            raise FeatlabError(
                "the two rows of a two-class head must be each other's negative; take them from "
                "heads.linear_weights."
            )

    @property
    def _logistic_pair(self) -> bool:
        return len(self.classes) == 2 and not self.own

    def codes(self, classes: Sequence[str] | np.ndarray, n: int) -> np.ndarray:
        """Place of the class of each of `n` pictures, ``(n,)`` int.

        Raises
        ------
        FeatlabError
            Another number of names, or one that is not one of the head's classes.
        """
        names = text_labels(classes, n, name="classes")
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            raise FeatlabError(f"classes must be from {self.listed}, got {unknown[0]!r}.")
        place = {name: code for code, name in enumerate(self.classes)}
        return np.array([place[name] for name in names], dtype=np.int64)

    @property
    def listed(self) -> str:
        """The first of its classes, in words."""
        more = f" … ({len(self.classes):,} classes)" if self.classes[_LISTED:] else ""
        return ", ".join(self.classes[:_LISTED]) + more

    def weights(self, classes: Sequence[str] | np.ndarray, n: int) -> np.ndarray:
        """What each mean-pooled map counts for the class of each of `n` pictures, ``(n, c)``.

        Raises
        ------
        FeatlabError
            As for :meth:`codes`.
        """
        codes = self.codes(classes, n)
        if self.coef is not None:
            return self.coef[codes]
        one = np.zeros((n, len(self.classes)), dtype=np.float32)
        one[np.arange(n), codes] = 1
        return one

    def logits(self, pooled: np.ndarray) -> np.ndarray:
        """Logits ``(n, k)`` of mean-pooled maps ``(n, c)``."""
        return (pooled if self.coef is None else pooled @ self.coef.T) + self.intercept

    def predict(self, pooled: np.ndarray) -> np.ndarray:
        """The class of the largest logit, ``(n,)`` str."""
        return np.array(self.classes)[self.logits(pooled).argmax(axis=1)]

    def log_probabilities(self, pooled: np.ndarray) -> np.ndarray:
        """Logarithms of the classes' probabilities, ``(n, k)``."""
        logits = self.logits(pooled)
        if self._logistic_pair:
            logits = logits / 2  # a logistic regression of two classes has one logit, not two
        return np.asarray(log_softmax(logits, axis=1))


class HeadedNetwork:
    """A frozen network, the head on its mean-pooled maps, and compiled gradients of both.

    Made by :func:`attach_head` and :func:`attach_own_head`.

    Attributes
    ----------
    head : LinearHead
    input_size : (int, int)
        Height and width in pixels.
    layer : str
        The maps that are asked, by default: those that the head stands on, or the last before it.
    scored : str
        The layer whose means the head takes.
    """

    def __init__(
        self,
        model: keras.Model,
        head: LinearHead,
        preprocess: Callable[[Any], Any],
        *,
        layer: str,
        others: str,
        scored: str | None = None,
    ) -> None:
        self.model, self.head, self.preprocess = model, head, preprocess
        self.layer, self.others, self.scored = layer, others, scored or layer
        _, height, width, _ = model.inputs[0].shape
        self.input_size: tuple[int, int] = (height, width)
        self._compiled: dict[tuple[str, ...], Compiled] = {}

    def __repr__(self) -> str:
        classes = ", ".join(self.head.classes[:6]) + (", …" if self.head.classes[6:] else "")
        return f"<HeadedNetwork {self.model.name}, {self.layer} → {classes}>"

    @cached_property
    def guided(self) -> Guided:
        """The copy for guided back-propagation, made when it is first needed."""
        return guided(self.model, others=self.others)

    def maps(
        self, pixels: np.ndarray, *, layer: str | None = None, batch_size: int = BATCH_SIZE
    ) -> np.ndarray:
        """Maps of a layer, by default the head's, ``(b, h, w, c)`` float32."""
        forward = self.compiled("maps", "plain", layer)
        return in_batches(forward, batch_size, checked_pixels(pixels, self.input_size))

    def pooled(self, pixels: np.ndarray, *, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """What the head is given: mean-pooled maps ``(b, c)``."""
        forward = self.compiled("pooled", "plain", self.scored)
        return in_batches(forward, batch_size, checked_pixels(pixels, self.input_size))

    def compiled(self, what: str, rule: str, layer: str | None) -> Compiled:
        """A compiled function of one fixed signature; each is traced once."""
        key = (what, rule, layer or self.layer)
        if key not in self._compiled:
            self._compiled[key] = _compile(self, *key)
        return self._compiled[key]

    def outputs(self, rule: str, *layers: str) -> keras.Model:
        """Keras model from scaled pixels to the maps of some layers."""
        import keras

        model = self.guided.model if rule == "guided" else self.model
        return keras.Model(model.inputs[0], [output_of(model, layer) for layer in layers])


def attach_head(
    network: Backbone | keras.Model,
    classes: Sequence[str],
    coef: np.ndarray,
    intercept: np.ndarray,
    *,
    others: str = "refuse",
) -> HeadedNetwork:
    """Put a logistic head of the user's own classes onto a network's mean-pooled maps.

    Parameters
    ----------
    network : Backbone or keras.Model
        Of a backbone the head stands on the last of its layers, as in the store; of a Keras model,
        which takes pixels 0 … 255, on its output.
    classes : sequence of k str
    coef : array-like of shape (k, c)
        Weights for raw mean-pooled maps, from :func:`featlab.heads.linear_weights`.
    intercept : array-like of shape (k,)
    others : {"refuse", "keep"}
        As for :func:`guided`, when guided gradients are first asked for.

    Returns
    -------
    HeadedNetwork

    Raises
    ------
    FeatlabError
        The head does not have one weight per neuron of the layer, or the network does not end in
        maps.
    """
    import keras

    if isinstance(classes, str):
        raise FeatlabError(
            f"classes must be a list of names, one per row of coef, got {classes!r}."
        )
    weights = np.asarray(coef, dtype=np.float32)
    head = LinearHead(
        tuple(str(name) for name in classes), weights, np.asarray(intercept, dtype=np.float32)
    )
    model = keras_model(network)
    model = keras.Model(model.inputs, model.outputs, name=model.name)
    shape = model.outputs[-1].shape
    if len(shape) != 4 or shape[-1] != weights.shape[1]:
        raise FeatlabError(
            f"a head on mean-pooled maps needs one weight per neuron: the network ends in shape "
            f"{tuple(shape)}, the head has {weights.shape[1]} weights per class."
        )
    preprocess: Callable[[Any], Any] = _as_they_are
    if isinstance(network, keras.Model):
        layer = model.outputs[-1]._keras_history.operation.name
    else:
        layer, preprocess = network.layers[-1], network.preprocess
    return HeadedNetwork(model, head, preprocess, layer=layer, others=others)


def attach_own_head(backbone: Backbone, *, others: str = "refuse") -> HeadedNetwork:
    """The network with the classifier that it brings: gradients of its own classes' logits.

    Parameters
    ----------
    backbone : Backbone
        A built-in network, one of ``keras.applications`` loaded with ``classifier=True``, or a
        ``.keras`` file that ends in a softmax. Its maps are asked at the layer that its head stands
        on, or the last one where more than a mean lies between.
    others : {"refuse", "keep"}
        As for :func:`guided`, when guided gradients are first asked for.

    Returns
    -------
    HeadedNetwork

    Raises
    ------
    FeatlabError
        The network brings no classifier.
    """
    import keras

    own = backbone.own_head
    if own is None:
        raise FeatlabError(
            f"{backbone.name} brings no classifier of its own, so it has no classes to be asked "
            "for: take a built-in network, one of keras.applications with classifier=True "
            "(--classifier), or a .keras file that ends in a softmax."
        )
    model, scored = backbone.model, own.layer
    intercept = own.intercept
    if intercept is None:
        # The logits themselves, as maps of a single cell.
        scored, k = "own_logits", len(own.classes)
        *maps, logits = backbone.run_model.outputs
        logits = keras.layers.Reshape((1, 1, k), name=scored)(logits)
        model, intercept = keras.Model(model.inputs, [*maps, logits]), np.zeros(k, np.float32)
    return HeadedNetwork(
        keras.Model(model.inputs, model.outputs, name=backbone.model.name),
        LinearHead(own.classes, own.coef, intercept, own=True),
        backbone.preprocess,
        layer=own.layer,
        others=others,
        scored=scored,
    )


def check_backbone(store: MapStore, backbone: Backbone) -> None:
    """Refuse a backbone that is not the one the store was made with.

    Raises
    ------
    FeatlabError
        Names the first difference, and both values.
    """
    for key, value in backbone.identity().items():
        stored = store.provenance.get(key)
        if stored != value:
            raise FeatlabError(
                f"{store.path} was made with another network: its {key.replace('_', ' ')} is "
                f"{stored}, that of the one given {value}. Give the store's own (--backbone, "
                "--weights)."
            )


def check_maps(
    store: MapStore, rows: np.ndarray, network: HeadedNetwork, pixels: np.ndarray
) -> None:
    """Refuse where the network does not give the stored maps, within their rounding.

    Raises
    ------
    FeatlabError
        Names the largest difference.
    """
    stored = store.maps(rows, layer=network.layer)
    off = np.abs(network.maps(pixels) - stored).max()
    if off > _FLOAT16 * np.abs(stored).max():
        raise FeatlabError(
            f"the network does not give the maps of {store.path}: they differ by up to {off:.3g} "
            f"where the largest is {np.abs(stored).max():.3g}. Extract the store again."
        )


def batches(n: int, batch_size: int) -> Iterator[slice]:
    """Slices of at most `batch_size` of `n` rows."""
    check_whole("batch_size", batch_size, 1)
    for start in range(0, n, batch_size):
        yield slice(start, start + batch_size)


def in_batches(function: Compiled, batch_size: int, *arrays: np.ndarray) -> Any:
    """A function of equally long arrays, a batch at a time; its outputs joined."""
    parts = [
        function(*(array[some] for array in arrays)) for some in batches(len(arrays[0]), batch_size)
    ]
    if isinstance(parts[0], (tuple, list)):
        return tuple(
            np.concatenate([np.asarray(p) for p in some]) for some in zip(*parts, strict=True)
        )
    return np.concatenate([np.asarray(part) for part in parts])


def checked_pixels(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pictures of the network's input size, uint8; a FeatlabError otherwise."""
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (*size, 3) or not len(pixels):
        raise FeatlabError(
            f"pixels must be uint8 of shape (b, {size[0]}, {size[1]}, 3) with at least one "
            f"picture, got {pixels.dtype} of shape {pixels.shape}."
        )
    return pixels


def _compile(network: HeadedNetwork, what: str, rule: str, layer: str) -> Compiled:
    import tensorflow as tf

    layers = [layer, network.scored] if what == "layer_gradient" else [layer]
    model, preprocess = network.outputs(rule, *layers), network.preprocess
    pictures = tf.TensorSpec((None, *network.input_size, 3), tf.uint8)
    numbers, cells = tf.TensorSpec((None, None), tf.float32), tf.TensorSpec((None, 3), tf.int32)

    def scaled(pixels: Any) -> Any:
        return preprocess(tf.cast(pixels, tf.float32))

    def run(x: Any) -> list[Any]:
        outputs = model(x, training=False)
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    def input_gradient(pixels: Any, score: Callable[[Any], Any]) -> Any:
        x = scaled(pixels)
        with tf.GradientTape() as tape:
            tape.watch(x)
            scores = score(run(x)[0])
        gradient = tape.gradient(scores, x)
        return gradient * x if rule == "input" else gradient

    def maps(pixels: Any) -> Any:
        return run(scaled(pixels))[0]

    def pooled(pixels: Any) -> Any:
        return tf.reduce_mean(maps(pixels), axis=(1, 2))

    def pooled_gradient(pixels: Any, weights: Any) -> Any:
        return input_gradient(
            pixels, lambda a: tf.reduce_sum(tf.reduce_mean(a, axis=(1, 2)) * weights, axis=1)
        )

    def unit_gradient(pixels: Any, units: Any) -> Any:
        return input_gradient(pixels, lambda a: tf.gather_nd(a, units, batch_dims=1))

    def layer_gradient(pixels: Any, weights: Any) -> Any:
        x = scaled(pixels)
        with tf.GradientTape() as tape:
            tape.watch(x)
            own, last = run(x)
            scores = tf.reduce_sum(tf.reduce_mean(last, axis=(1, 2)) * weights, axis=1)
        gradient = tape.gradient(scores, own)
        if gradient is None:
            raise FeatlabError(
                f"layer {layer!r} does not lead to the head's layer {network.scored!r}; name one "
                "before it."
            )
        return own, gradient

    functions: dict[str, tuple[Compiled, list[Any]]] = {
        "maps": (maps, [pictures]),
        "pooled": (pooled, [pictures]),
        "pooled_gradient": (pooled_gradient, [pictures, numbers]),
        "unit_gradient": (unit_gradient, [pictures, cells]),
        "layer_gradient": (layer_gradient, [pictures, numbers]),
    }
    function, signature = functions[what]
    return tf.function(function, input_signature=signature, autograph=False)


def _as_they_are(pixels: Any) -> Any:
    return pixels
