"""Copies of a Keras network, down to nested models, with the original left as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from featlab.errors import FeatlabError

if TYPE_CHECKING:
    import keras


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
        if isinstance(operation, keras.Model):
            raise ValueError(f"{operation.name!r} is a model of its own class")
        copy = type(operation).from_config(operation.get_config())
        change(copy)
        return copy

    try:
        copy = keras.models.clone_model(model, clone_function=copied, recursive=True)
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FeatlabError(
            f"{model.name} cannot be copied layer by layer: {reason}. Its gradients need a "
            "functional or Sequential Keras model."
        ) from error
    copy.set_weights(model.get_weights())
    copy.trainable = False
    return copy


def parts_of(operation: Any) -> list[Any]:
    """An operation, and the layers inside it where it is a wrapper or a composite layer."""
    flatten = getattr(operation, "_flatten_layers", None)
    return [operation] if flatten is None else list(flatten())
