"""Gradients of classes, neurons and units with respect to the picture, and to a layer's maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featlab.backbones import output_of
from featlab.errors import FeatlabError
from featlab.gradients._network import (
    BATCH_SIZE,
    HeadedNetwork,
    checked_pixels,
    in_batches,
)

RULES = ("plain", "input", "guided")
"""Ways to differentiate: the gradient, gradient times input, guided back-propagation."""


def input_gradients(
    network: HeadedNetwork,
    pixels: np.ndarray,
    *,
    classes: Sequence[str] | np.ndarray | None = None,
    neurons: Sequence[int] | np.ndarray | None = None,
    units: np.ndarray | None = None,
    layer: str | None = None,
    rule: str = "plain",
    batch_size: int = BATCH_SIZE,
) -> np.ndarray:
    """Gradients of a class's logit, a neuron or a unit with respect to the scaled pixels.

    Give exactly one of `classes`, `neurons` and `units`.

    Parameters
    ----------
    network : HeadedNetwork
    pixels : ndarray of shape (b, H, W, 3), uint8
    classes : sequence of b str, optional
        The head's logit of this class.
    neurons : sequence of b int, optional
        The mean over its map.
    units : array-like of shape (b, 3), int, optional
        Row, column and neuron of one cell.
    layer : str, optional
        Where neurons or units are; the head's layer by default.
    rule : {"plain", "input", "guided"}
        The gradient, the gradient times the scaled pixels, or guided back-propagation.
    batch_size : int
        Pictures in memory at once.

    Returns
    -------
    ndarray of shape (b, H, W, 3), float32
        With respect to the pixels *after* the network's own scaling.

    Raises
    ------
    FeatlabError
        An argument is out of range, or the rule does not fit the network (:func:`guided`).
    """
    if rule not in RULES:
        raise FeatlabError(f"rule must be one of {', '.join(RULES)}, got {rule!r}.")
    given = {"classes": classes, "neurons": neurons, "units": units}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise FeatlabError(
            f"give exactly one of classes, neurons and units, got {', '.join(named) or 'none'}."
        )
    pixels = checked_pixels(pixels, network.input_size)
    if len(given[named[0]]) != len(pixels):  # type: ignore[arg-type]
        raise FeatlabError(
            f"{named[0]} must have one entry per picture ({len(pixels)}), "
            f"got {len(given[named[0]])}."  # type: ignore[arg-type]
        )
    if units is not None:
        function = network.compiled("unit_gradient", rule, layer)
        target = _checked_units(np.asarray(units), network, layer)
    elif neurons is not None:
        function = network.compiled("pooled_gradient", rule, layer)
        target = _one_hot(np.asarray(neurons), layer_shape(network, layer)[2])
    else:
        if layer not in (None, network.layer):
            raise FeatlabError(f"classes are scored at {network.layer!r}; leave layer out.")
        function = network.compiled("pooled_gradient", rule, network.layer)
        target = network.head.coef[network.head.codes(classes)]  # type: ignore[arg-type]
    return in_batches(function, batch_size, pixels, target)


def layer_gradients(
    network: HeadedNetwork,
    pixels: np.ndarray,
    classes: Sequence[str] | np.ndarray,
    *,
    layer: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> tuple[np.ndarray, np.ndarray]:
    """Maps of a layer, and the gradient of a class's logit with respect to them.

    Parameters
    ----------
    network : HeadedNetwork
    pixels : ndarray of shape (b, H, W, 3), uint8
    classes : sequence of b str
    layer : str, optional
        Any layer of maps before the head; the head's by default.
    batch_size : int

    Returns
    -------
    maps, gradients : ndarray of shape (b, h, w, c), float32

    Raises
    ------
    FeatlabError
        The layer does not lead to the head.
    """
    function = network.compiled("layer_gradient", "plain", layer)
    weights = network.head.coef[network.head.codes(classes)]
    pixels = checked_pixels(pixels, network.input_size)
    return in_batches(function, batch_size, pixels, weights)


def layer_shape(network: HeadedNetwork, layer: str | None = None) -> tuple[int, int, int]:
    """Height, width and number of neurons of a layer's maps, by default the head's."""
    _, h, w, c = output_of(network.model, layer or network.layer).shape
    return h, w, c


def before_ceiling(network: HeadedNetwork, layer: str | None = None) -> str:
    """The layer that feeds a capped rectifier (ReLU6); any other layer itself.

    A unit at its ceiling has no gradient, and the strongest units are the first to reach it: asked
    for before the rectifier, they answer. Below the ceiling the gradient is the same.
    """
    import keras

    name = layer or network.layer
    found = network.model.get_layer(name)
    capped = isinstance(found, keras.layers.ReLU) and found.max_value is not None
    if isinstance(found, keras.layers.Activation):
        capped = found.activation is keras.activations.relu6
    return found.input._keras_history.operation.name if capped else name


def _checked_units(units: np.ndarray, network: HeadedNetwork, layer: str | None) -> np.ndarray:
    shape = layer_shape(network, layer)
    if units.ndim != 2 or units.shape[1] != 3 or ((units < 0) | (units >= shape)).any():
        raise FeatlabError(
            f"units must be rows of (row, column, neuron) within {shape}, got shape {units.shape} "
            f"up to {units.max(axis=0).tolist() if units.size else []}."
        )
    return units.astype(np.int32)


def _one_hot(neurons: np.ndarray, n: int) -> np.ndarray:
    if ((neurons < 0) | (neurons >= n)).any():
        raise FeatlabError(f"neurons must lie in 0 … {n - 1}, got up to {neurons.max()}.")
    return np.eye(n, dtype=np.float32)[neurons]
