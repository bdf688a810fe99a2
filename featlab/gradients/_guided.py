"""Guided back-propagation: a copy of a network in which rectifiers let only evidence back.

References
----------
.. [1] Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for simplicity: the all
   convolutional net", ICLR workshop 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featlab.arguments import check_choice
from featlab.backbones import Backbone
from featlab.backbones.graphs import cloned, graph_of
from featlab.errors import FeatlabError

if TYPE_CHECKING:
    import keras

# Activations that stand where a rectifier could, but are none: the rule is not defined for them.
# Gates and outputs (sigmoid, tanh, softmax) are no such thing and keep their own gradient.
_UNRULED = {
    *("celu", "elu", "gelu", "glu", "hardsilu", "leakyrelu", "mish", "prelu", "selu", "silu"),
    *("softplus", "sparseplus", "squareplus", "swish", "threshold"),
}
_RAW_RECTIFIERS = ("Relu", "Relu6", "LeakyRelu", "Elu", "Selu")


@dataclass(frozen=True)
class Guided:
    """A network whose rectifiers follow the rule of guided back-propagation.

    Attributes
    ----------
    model : keras.Model
        A copy: the same outputs, the same weights (in variables of its own), other gradients.
    patched : tuple of str
        Names of the layers and graph nodes that were changed.
    kept : tuple of str
        Names of activations that are no rectifiers and keep their own gradient (``others="keep"``).
    """

    model: keras.Model
    patched: tuple[str, ...]
    kept: tuple[str, ...] = ()

    @property
    def n_patched(self) -> int:
        """Number of rectifiers that were changed."""
        return len(self.patched)


def guided(network: Backbone | keras.Model, *, others: str = "refuse") -> Guided:
    """A copy of a network for guided back-propagation; the original is left as it is.

    At every rectifier of the copy the gradient passes only where both the forward input and the
    incoming gradient are positive; with a `max_value`, only where the input is below that too.
    Rectifiers are found as layers, as ``activation`` arguments, as ``keras.ops`` nodes of the graph
    and inside nested models and wrappers.

    Parameters
    ----------
    network : Backbone or keras.Model
        Of a backbone, the part up to its layers' maps.
    others : {"refuse", "keep"}
        What happens where an activation such as swish, GELU or a leaky rectifier stands in a
        rectifier's place: the network is refused, or they keep their own gradient. Sigmoid, tanh
        and softmax, which gate or end a network, always keep it.

    Returns
    -------
    Guided

    Raises
    ------
    FeatlabError
        No rectifier was found; other activations were found and `others` is "refuse"; a rectifier
        is hidden in a layer of the user's own class; the network cannot be copied.

    Examples
    --------
    >>> guided(load_backbone("efficientnet_lite0")).n_patched     # doctest: +SKIP
    33
    """
    check_choice("others", others, ("refuse", "keep"))
    original = keras_model(network)
    patched: list[str] = []
    unruled: list[str] = []

    def change(operation: Any) -> None:
        for part in parts_of(operation):
            patched.extend([part.name] * _patch(part))
            unruled.extend([f"{part.name} ({name})" for name in _unruled(part)])

    copy = copy_network(original, change)
    if unruled and others == "refuse":
        names = ", ".join(unruled[:6]) + (f" and {len(unruled) - 6} more" if unruled[6:] else "")
        raise FeatlabError(
            f"guided back-propagation is defined for rectifiers (ReLU), but {original.name} has "
            f"{names}. Take a network of rectifiers, or others='keep' to leave those their own "
            "gradient."
        )
    if not patched:
        raise FeatlabError(
            f"{original.name} has no rectifier (ReLU), so there is nothing to guide; its plain "
            "gradients need no copy."
        )
    _refuse_hidden(copy, allowed=others == "keep")
    return Guided(copy, tuple(patched), tuple(unruled))


def keras_model(network: Backbone | keras.Model) -> keras.Model:
    """The Keras model of a backbone (up to its layers' maps), or the model itself."""
    import keras

    return network if isinstance(network, keras.Model) else network.model


def guided_relu(max_value: float | None = None, threshold: float = 0.0) -> Callable[[Any], Any]:
    """A rectifier with the guided gradient: TensorFlow tensor → tensor."""
    import tensorflow as tf

    @tf.custom_gradient
    def rectify(x: Any) -> tuple[Any, Callable[[Any], Any]]:
        linear = x > threshold
        # Not tf.nn.relu: what is left of it in the graph was not patched.
        output = tf.where(linear, x, tf.zeros_like(x))
        if max_value is not None:
            linear &= x < max_value
            output = tf.minimum(output, tf.cast(max_value, x.dtype))

        def gradient(incoming: Any) -> Any:
            return tf.where(linear & (incoming > 0), incoming, tf.zeros_like(incoming))

        return output, gradient

    return rectify


def _patch(part: Any) -> int:
    """Change the rectifiers that a layer or graph node itself applies; how many there were."""
    kind = type(part).__name__
    if kind in ("ReLU", "Relu", "Relu6"):
        if getattr(part, "negative_slope", None):
            return 0
        ceiling = 6.0 if kind == "Relu6" else getattr(part, "max_value", None)
        threshold = getattr(part, "threshold", None)
        rule = guided_relu(ceiling, threshold or 0.0)
        part.call = lambda inputs: rule(inputs)
        return 1
    known = _rectifying_functions()
    own = [name for name, value in vars(part).items() if _is_in(value, known)]
    for name in own:
        setattr(part, name, guided_relu(known[getattr(part, name)]))
    return len(own)


def _rectifying_functions() -> dict[Any, float | None]:
    import keras
    import tensorflow as tf

    plain = (keras.activations.relu, keras.ops.relu, tf.nn.relu)
    capped = (keras.activations.relu6, keras.ops.relu6, tf.nn.relu6)
    return dict.fromkeys(plain) | dict.fromkeys(capped, 6.0)


def _is_in(value: Any, known: dict[Any, float | None]) -> bool:
    return callable(value) and getattr(value, "__hash__", None) is not None and value in known


def _unruled(part: Any) -> list[str]:
    """Names of activations of a layer that stand in a rectifier's place without being one."""
    kind = type(part).__name__
    if kind == "ReLU" and getattr(part, "negative_slope", None):
        return ["ReLU with a negative slope"]
    if _bare(kind) in _UNRULED:
        return [kind]
    names = [getattr(value, "__name__", "") for value in vars(part).values() if callable(value)]
    return [name for name in names if _bare(name) in _UNRULED]


def _bare(name: str) -> str:
    return name.lower().replace("_", "")


def _refuse_hidden(copy: keras.Model, *, allowed: bool) -> None:
    """Refuse a rectifier that a layer applies in its own code, where it cannot be patched."""
    import tensorflow as tf

    specs = [tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype) for tensor in copy.inputs]
    traced = tf.function(lambda *x: copy(list(x) if len(x) > 1 else x[0], training=False))
    graph = traced.get_concrete_function(*specs).graph
    raw = [
        operation.name
        for operation in graph.get_operations()
        if operation.type in (_RAW_RECTIFIERS[:2] if allowed else _RAW_RECTIFIERS)
    ]
    if raw:
        raise FeatlabError(
            f"{copy.name} applies a rectifier inside the code of a layer, where it cannot be "
            f"changed: {', '.join(raw[:4])}. Use keras.layers.ReLU or activation='relu' there."
        )


def copy_network(
    model: keras.Model, change: Callable[[Any], None] = lambda operation: None
) -> keras.Model:
    """A copy with the same weights; every copied operation is handed to `change`.

    Parameters
    ----------
    model : keras.Model
        Functional or Sequential; nested models are copied too, shared layers once.
    change : callable
        Takes a copied layer, or a ``keras.ops`` node of the graph, before its first call.

    Returns
    -------
    keras.Model

    Raises
    ------
    FeatlabError
        A part of the network is a model of the user's own class, which cannot be copied layer by
        layer.
    """
    import keras

    def copied(operation: Any) -> Any:
        if graph_of(operation) is not None:
            # Keras before 3.13 goes one model deep only, and hands over what lies deeper.
            return cloned(operation, operation.name, clone_function=copied, recursive=True)
        if isinstance(operation, keras.Model):
            raise ValueError(f"{operation.name!r} is a model of its own class")
        copy = type(operation).from_config(operation.get_config())
        change(copy)
        return copy

    copy = cloned(model, model.name, clone_function=copied, recursive=True)
    copy.set_weights(model.get_weights())
    copy.trainable = False
    return copy


def parts_of(operation: Any) -> list[Any]:
    """An operation, and the layers inside it where it is a wrapper or a composite layer."""
    flatten = getattr(operation, "_flatten_layers", None)
    return [operation] if flatten is None else list(flatten())
