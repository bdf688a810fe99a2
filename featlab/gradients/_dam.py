"""DAM: boxes without box labels, from guided gradients of the units that speak for the class.

References
----------
.. [1] Dwaraknath, Menghani and Mongia, "Fast unsupervised object localization", Stanford CS231n
   (2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from featlab.boxes import frame_to_picture
from featlab.errors import FeatlabError
from featlab.gradients._backward import before_ceiling, input_gradients, layer_gradients
from featlab.gradients._dam_steps import (
    DamParameters,
    dam_parameters,
    enclosing_box,
    lowest,
    masked_losses,
    one_colour,
    percentile_mask,
    top_units,
    unit_scores,
)
from featlab.gradients._network import BATCH_SIZE, HeadedNetwork, checked_pixels
from featlab.results.gradients import DamTrace

Progress = Callable[[Iterable[Any]], Iterable[Any]]


def dam_boxes(
    network: HeadedNetwork,
    pixels: np.ndarray,
    *,
    parameters: str | DamParameters = "original",
    layer: str | None = None,
    frames: np.ndarray | None = None,
    sizes: np.ndarray | None = None,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> np.ndarray:
    """One box per picture, found without any box label.

    Parameters
    ----------
    network : HeadedNetwork
    pixels : ndarray of shape (b, H, W, 3), uint8
        Pictures as the network takes them.
    parameters : {"original", "variant"} or DamParameters
        The paper's steps (Dwaraknath, Menghani and Mongia 2016), or those of a later reading of it:
        the best units of any neuron, the maximum over RGB, a percentile of all pixels that keeps
        most of the picture. Both score by logits.
    layer : str, optional
        Where the units are; the head's layer by default. The variant was made for the layer
        ``block5_conv2`` of VGG16.
    frames : array-like of shape (b, 4), optional
        Where each picture lies in the input (``MapStore.frames``); all of it by default.
    sizes : array-like of shape (b, 2), optional
        Width and height of the original pictures in pixels; those of the input by default.
    batch_size : int
        Pictures in memory at once.
    progress : callable, optional
        Wraps the iterable of pictures.

    Returns
    -------
    ndarray of shape (b, 4)
        Pixels of the original pictures; zeros where no mask survived.

    Raises
    ------
    FeatlabError
        Unknown parameters or layer, or the network has no rectifiers to guide.
    """
    pixels = checked_pixels(pixels, network.input_size)
    frames, sizes = _geometry(network, len(pixels), frames, sizes)
    places: Iterable[Any] = range(len(pixels))
    boxes = [
        dam_trace(
            network,
            pixels[i],
            parameters=parameters,
            layer=layer,
            frame=frames[i],
            size=sizes[i],
            batch_size=batch_size,
        ).box
        for i in (progress(places) if progress else places)
    ]
    return np.stack(boxes)


def dam_trace(
    network: HeadedNetwork,
    picture: np.ndarray,
    *,
    parameters: str | DamParameters = "original",
    layer: str | None = None,
    frame: np.ndarray | None = None,
    size: np.ndarray | None = None,
    batch_size: int = BATCH_SIZE,
) -> DamTrace:
    """:func:`dam_boxes` of one picture ``(H, W, 3)``, with every intermediate."""
    chosen = dam_parameters(parameters)
    pixels = checked_pixels(np.asarray(picture)[None], network.input_size)
    frames, sizes = _geometry(
        network, 1, None if frame is None else [frame], None if size is None else [size]
    )
    label = network.head.predict(network.pooled(pixels))
    scores = unit_scores(*layer_gradients(network, pixels, label, layer=layer))[0]
    units = top_units(scores, chosen.n_units, one_per_filter=chosen.one_per_filter)
    # Every unit has its own copy of the picture, so that all go back in one pass.
    copies = np.repeat(pixels, len(units), axis=0)
    gradients = one_colour(
        input_gradients(
            network,
            copies,
            units=units,
            layer=before_ceiling(network, layer),
            rule="guided",
            batch_size=batch_size,
        ),
        chosen.over_rgb,
    )
    masks = np.stack([percentile_mask(one, chosen) for one in gradients])
    losses = masked_losses(network, pixels[0], masks, str(label[0]), batch_size=batch_size)
    kept = lowest(losses, chosen.n_kept)
    union = masks[kept].any(axis=0)
    corners = enclosing_box(union)
    return DamTrace(
        pixels=pixels[0],
        label=str(label[0]),
        map_shape=scores.shape[:2],
        units=units,
        scores=scores[tuple(units.T)],
        gradients=gradients,
        masks=masks,
        losses=losses,
        kept=kept,
        union=union,
        box_in_input=corners,
        box=frame_to_picture(corners[None], frames, sizes)[0],
    )


def _geometry(
    network: HeadedNetwork, n: int, frames: Any, sizes: Any
) -> tuple[np.ndarray, np.ndarray]:
    height, width = network.input_size
    whole = np.tile([0.0, 0.0, 1.0, 1.0], (n, 1)) if frames is None else np.asarray(frames, float)
    shown = np.tile([width, height], (n, 1)) if sizes is None else np.asarray(sizes, float)
    if whole.shape != (n, 4) or shown.shape != (n, 2):
        raise FeatlabError(
            f"frames must have shape ({n}, 4) and sizes ({n}, 2), got {whole.shape} and "
            f"{shown.shape}."
        )
    return whole, shown
