"""Grad-CAM and its relatives, all from one backward pass.

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

from featlab.errors import FeatlabError
from featlab.gradients._backward import layer_gradients
from featlab.gradients._network import BATCH_SIZE, HeadedNetwork, checked_pixels


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
    unknown = [name for name in methods if name not in CAMS]
    if unknown:
        raise FeatlabError(f"methods must be from {', '.join(CAMS)}, got {unknown[0]!r}.")
    pixels, names = checked_pixels(pixels, network.input_size), np.asarray(classes)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for start in range(0, len(pixels), batch_size):
        some = slice(start, start + batch_size)
        # Only the heat is kept of a batch: early layers have maps of many megabytes.
        maps, gradients = layer_gradients(
            network, pixels[some], names[some], layer=layer, batch_size=batch_size
        )
        for name in methods:
            parts[name].append(CAMS[name](maps, gradients))
    return {name: np.concatenate(heats) for name, heats in parts.items()}
