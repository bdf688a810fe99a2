"""Gradients with respect to the picture and to a layer's maps, and the Grad-CAM family of them.

References
----------
.. [1] Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
   localization", ICCV 2017.
.. [2] Chattopadhay et al., "Grad-CAM++: generalized gradient-based visual explanations for deep
   convolutional networks", WACV 2018.
.. [3] Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
   convolutional neural networks", arXiv 2011.08891 (2020).
.. [4] Jiang et al., "LayerCAM: exploring hierarchical class activation maps for localization", IEEE
   Transactions on Image Processing 30 (2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featlab.arguments import check_choice, check_choices, row_numbers, text_labels
from featlab.backbones.graphs import node_of, output_of
from featlab.errors import FeatlabError
from featlab.gradients.network import (
    BATCH_SIZE,
    HeadedNetwork,
    batches,
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
    channels: Sequence[int] | np.ndarray | None = None,
    units: np.ndarray | None = None,
    layer: str | None = None,
    rule: str = "plain",
    batch_size: int = BATCH_SIZE,
) -> np.ndarray:
    """Gradients of a class's logit, a neuron or a unit with respect to the scaled pixels.

    Give exactly one of `classes`, `channels` and `units`.

    Parameters
    ----------
    network : HeadedNetwork
    pixels : ndarray of shape (b, H, W, 3), uint8
    classes : sequence of b str, optional
        The head's logit of this class.
    channels : sequence of b int, optional
        Number of a neuron; the mean over its map.
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
    check_choice("rule", rule, RULES)
    given = {"classes": classes, "channels": channels, "units": units}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise FeatlabError(
            f"give exactly one of classes, channels and units, got {', '.join(named) or 'none'}."
        )
    pixels = checked_pixels(pixels, network.input_size)
    if classes is not None and layer not in (None, network.layer):
        raise FeatlabError(f"classes are scored at {network.layer!r}; leave layer out.")
    if classes is not None:
        target, layer = network.head.weights(classes, len(pixels)), network.scored
    elif channels is not None:
        count = layer_shape(network, layer)[2]
        numbers = row_numbers(channels, count, name="channels")
        target = np.eye(count, dtype=np.float32)[numbers]
    else:
        target = _checked_units(np.asarray(units), network, layer)
    if len(target) != len(pixels):
        raise FeatlabError(
            f"{named[0]} must have one entry per picture ({len(pixels)}), got {len(target)}."
        )
    what = "pooled_gradient" if units is None else "unit_gradient"
    return in_batches(network.compiled(what, rule, layer), batch_size, pixels, target)


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
        The layer does not lead to the head, or a class is not one of it.
    """
    function = network.compiled("layer_gradient", "plain", layer)
    pixels = checked_pixels(pixels, network.input_size)
    weights = network.head.weights(classes, len(pixels))
    return in_batches(function, batch_size, pixels, weights)


def grad_cam(maps: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Maps weighted by their mean gradients, the positive part [1]_; ``(b, h, w, c)`` twice."""
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    return np.maximum((weights * maps).sum(axis=-1), 0)


def grad_cam_plus_plus(maps: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Grad-CAM with cells weighted by higher derivatives of exp(logit) [2]_.

    The factor exp(logit) is one for a whole picture and is left out.
    """
    squared = gradients**2
    below = 2 * squared + maps.sum(axis=(1, 2), keepdims=True) * gradients * squared
    share = np.divide(squared, below, out=np.zeros_like(squared), where=below != 0)
    weights = (share * np.maximum(gradients, 0)).sum(axis=(1, 2), keepdims=True)
    return np.maximum((weights * maps).sum(axis=-1), 0)


def hires_cam(maps: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Gradient times activation, summed over the neurons, with its sign [3]_."""
    return (gradients * maps).sum(axis=-1)


def layer_cam(maps: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Positive gradient times activation, summed over the neurons, the positive part [4]_."""
    return np.maximum((np.maximum(gradients, 0) * maps).sum(axis=-1), 0)


CAMS = {
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "hires_cam": hires_cam,
    "layer_cam": layer_cam,
}
"""Methods of the Grad-CAM family, by name."""


def cam_heats(
    network: HeadedNetwork,
    pixels: np.ndarray,
    classes: Sequence[str] | np.ndarray,
    *,
    methods: Sequence[str] = tuple(CAMS),
    layer: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> dict[str, np.ndarray]:
    """Heat maps of the Grad-CAM family for the head's class logit.

    Parameters
    ----------
    network : HeadedNetwork
    pixels : ndarray of shape (b, H, W, 3), uint8
    classes : sequence of b str
        The class asked for in each picture.
    methods : sequence of str
        From "grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam".
    layer : str, optional
        Any layer of maps before the head; the head's by default, where Grad-CAM is the positive
        part of CAM divided by the number of cells, and HiResCAM is CAM divided by it.
    batch_size : int

    Returns
    -------
    dict of str to ndarray of shape (b, h, w), float32
        Over the network's input, not normalised.

    Raises
    ------
    FeatlabError
        An unknown method, class or layer.
    """
    wanted = check_choices("methods", methods, CAMS)
    pixels = checked_pixels(pixels, network.input_size)
    names = text_labels(classes, len(pixels), name="classes")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for some in batches(len(pixels), batch_size):
        # Only the heat is kept of a batch: early layers have maps of many megabytes.
        maps, gradients = layer_gradients(
            network, pixels[some], names[some], layer=layer, batch_size=batch_size
        )
        for name in wanted:
            parts[name].append(CAMS[name](maps, gradients))
    return {name: np.concatenate(heats) for name, heats in parts.items()}


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
    call = node_of(output_of(network.model, name))
    rectifier = call.operation
    capped = isinstance(rectifier, keras.layers.ReLU) and rectifier.max_value is not None
    if isinstance(rectifier, keras.layers.Activation):
        capped = rectifier.activation is keras.activations.relu6
    return node_of(call.input_tensors[0]).operation.name if capped else name


def _checked_units(units: np.ndarray, network: HeadedNetwork, layer: str | None) -> np.ndarray:
    shape = layer_shape(network, layer)
    fit = units.dtype.kind in "iu" and units.ndim == 2 and units.shape[1] == 3
    if not fit or ((units < 0) | (units >= shape)).any():
        raise FeatlabError(
            f"units must be rows of (row, column, neuron) within {shape}, whole numbers, got "
            f"{units.dtype} of shape {units.shape} up to "
            f"{units.max(axis=0).tolist() if units.size else []}."
        )
    return units.astype(np.int32)
