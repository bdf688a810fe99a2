"""DAM: boxes without box labels, from guided gradients of the units that speak for the class.

References
----------
.. [1] Dwaraknath, Menghani and Mongia, "Fast unsupervised object localization", Stanford CS231n
   (2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from featlab.arguments import (
    Progress,
    check_between,
    check_choice,
    check_whole,
    text_labels,
    tracked,
)
from featlab.boxes.geometry import frame_to_picture
from featlab.errors import FeatlabError
from featlab.gradients._backward import before_ceiling, input_gradients, layer_gradients
from featlab.gradients.network import BATCH_SIZE, GREY, HeadedNetwork, checked_pixels
from featlab.results.networks import DamTrace

_REFERENCE_SIDE = 224
# Of 4 neighbours; one opening, since a repeated one changes nothing more.
_MORPHOLOGY = {
    "opening": lambda mask, times: ndimage.binary_opening(mask),
    "dilation": lambda mask, times: ndimage.binary_dilation(mask, iterations=times),
    # Nothing is eaten from the border: what lies beyond it is not known to be background.
    "erosion": lambda mask, times: ndimage.binary_erosion(mask, iterations=times, border_value=1),
}


@dataclass(frozen=True)
class DamParameters:
    """What the steps of DAM are told.

    Attributes
    ----------
    n_units : int
        Units whose gradients are taken.
    one_per_filter : bool
        Whether a neuron gives at most one of them.
    over_rgb : {"mean", "max"}
        How the gradients of the three colours become one.
    percentile : float
        Gradients above it are kept.
    of_positive : bool
        Whether the percentile is that of the positive values, or of all.
    morphology : tuple of (str, int)
        "opening", "dilation" or "erosion" and how often, for a side of 224 px. An opening that is
        repeated equals a single one; the other reading of the paper's four, as many erosions and
        then as many dilations, leaves nothing of the gradients of a single unit.
    n_kept : int
        Masks of lowest loss that are united.
    """

    n_units: int = 10
    one_per_filter: bool = True
    over_rgb: str = "mean"
    percentile: float = 80.0
    of_positive: bool = True
    morphology: tuple[tuple[str, int], ...] = (("opening", 4), ("dilation", 20), ("erosion", 15))
    n_kept: int = 5

    def __post_init__(self) -> None:
        check_choice("over_rgb", self.over_rgb, ("mean", "max"))
        for name, times in self.morphology:
            check_choice("a step of morphology", name, _MORPHOLOGY)
            check_whole("the repetitions of a step of morphology", times, 1)
        check_between("percentile", self.percentile, 0, 100)
        check_whole("n_units", self.n_units, 1)
        check_whole("n_kept", self.n_kept, 1)


DAM_PRESETS = {
    "original": DamParameters(),
    "variant": DamParameters(
        one_per_filter=False,
        over_rgb="max",
        percentile=20.0,
        of_positive=False,
        morphology=(("erosion", 1), ("dilation", 1)),
    ),
}
"""The paper's steps, and those of a later reading of it, by name."""
_VARIANT_LAYER = "block5_conv2"  # of VGG16, for which the variant was made


def dam_boxes(
    network: HeadedNetwork,
    pixels: np.ndarray,
    *,
    classes: Sequence[str] | np.ndarray | None = None,
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
    classes : sequence of b str, optional
        The class asked for in each picture; the one that the head predicts by default.
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
        Unknown parameters, class or layer, or the network has no rectifiers to guide.
    """
    pixels = checked_pixels(pixels, network.input_size)
    names = None if classes is None else text_labels(classes, len(pixels), name="classes")
    frames, sizes = _geometry(network, len(pixels), frames, sizes)
    boxes = [
        dam_trace(
            network,
            pixels[i],
            label=None if names is None else str(names[i]),
            parameters=parameters,
            layer=layer,
            frame=frames[i],
            size=sizes[i],
            batch_size=batch_size,
        ).box
        for i in tracked(range(len(pixels)), progress)
    ]
    return np.stack(boxes)


def dam_trace(
    network: HeadedNetwork,
    picture: np.ndarray,
    *,
    label: str | None = None,
    parameters: str | DamParameters = "original",
    layer: str | None = None,
    frame: np.ndarray | None = None,
    size: np.ndarray | None = None,
    batch_size: int = BATCH_SIZE,
) -> DamTrace:
    """:func:`dam_boxes` of one picture ``(H, W, 3)`` for one class, with every intermediate."""
    steps = dam_parameters(parameters)
    pixels = checked_pixels(np.asarray(picture)[None], network.input_size)
    frames, sizes = _geometry(
        network, 1, None if frame is None else [frame], None if size is None else [size]
    )
    asked = str(network.head.predict(network.pooled(pixels))[0]) if label is None else label
    maps, gradient = layer_gradients(network, pixels, [asked], layer=layer)
    scores = (maps * gradient)[0]  # of the class's logit
    units = top_units(scores, steps.n_units, one_per_filter=steps.one_per_filter)
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
        steps.over_rgb,
    )
    masks = np.stack([percentile_mask(one, steps) for one in gradients])
    losses = masked_losses(network, pixels[0], masks, asked, batch_size=batch_size)
    kept = lowest(losses, steps.n_kept)
    union = masks[kept].any(axis=0)
    corners = enclosing_box(union)
    return DamTrace(
        pixels=pixels[0],
        label=asked,
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
    original = np.tile([width, height], (n, 1)) if sizes is None else np.asarray(sizes, float)
    if whole.shape != (n, 4) or original.shape != (n, 2):
        raise FeatlabError(
            f"frames must have shape ({n}, 4) and sizes ({n}, 2), got {whole.shape} and "
            f"{original.shape}."
        )
    return whole, original


def dam_parameters(parameters: str | DamParameters) -> DamParameters:
    """The parameters of a preset's name, or those given."""
    if isinstance(parameters, DamParameters):
        return parameters
    if parameters not in DAM_PRESETS:
        raise FeatlabError(
            f"parameters must be one of {', '.join(DAM_PRESETS)} or DamParameters, got "
            f"{parameters!r}."
        )
    return DAM_PRESETS[parameters]


def preset_layer(network: HeadedNetwork, preset: str) -> str:
    """The layer whose units a preset asks: the last one, but where it was made for another."""
    names = [layer.name for layer in network.model.layers]
    return _VARIANT_LAYER if preset == "variant" and _VARIANT_LAYER in names else network.layer


def top_units(scores: np.ndarray, most: int, *, one_per_filter: bool) -> np.ndarray:
    """Row, column and neuron of the `most` units of highest score, the highest first.

    Parameters
    ----------
    scores : ndarray of shape (h, w, c)
    most : int
    one_per_filter : bool
        At most one unit of each neuron: its best.

    Returns
    -------
    ndarray of shape (most, 3), int
        Fewer where there are fewer units, or neurons.
    """
    h, w, c = scores.shape
    if one_per_filter:
        flat = scores.reshape(h * w, c)
        cells = flat.argmax(axis=0)
        best = np.argsort(-flat[cells, np.arange(c)], kind="stable")[:most]
        rows, columns = np.divmod(cells[best], w)
        return np.stack([rows, columns, best], axis=1)
    best = np.argsort(-scores, axis=None, kind="stable")[:most]
    return np.stack(np.unravel_index(best, scores.shape), axis=1)


def one_colour(gradients: np.ndarray, over_rgb: str) -> np.ndarray:
    """Gradients ``(..., 3)`` → ``(...)``: their mean or maximum over RGB."""
    return gradients.max(axis=-1) if over_rgb == "max" else gradients.mean(axis=-1)


def percentile_mask(gradient: np.ndarray, parameters: DamParameters) -> np.ndarray:
    """The pixels of high gradient, cleaned and filled by morphology.

    Parameters
    ----------
    gradient : ndarray of shape (H, W)
    parameters : DamParameters

    Returns
    -------
    ndarray of shape (H, W), bool
        Empty where a percentile of positive values is asked for and there are none.
    """
    values = gradient[gradient > 0] if parameters.of_positive else gradient.ravel()
    if not len(values):
        return np.zeros(gradient.shape, dtype=bool)
    mask = gradient > np.percentile(values, parameters.percentile)
    scale = np.mean(gradient.shape) / _REFERENCE_SIDE
    for name, times in parameters.morphology:
        mask = _MORPHOLOGY[name](mask, max(1, round(times * scale)))
    return mask


def masked_losses(
    network: HeadedNetwork,
    picture: np.ndarray,
    masks: np.ndarray,
    label: str,
    *,
    batch_size: int = BATCH_SIZE,
) -> np.ndarray:
    """Cross-entropy of a class when only a mask of the picture is shown, the rest grey.

    Parameters
    ----------
    network : HeadedNetwork
    picture : ndarray of shape (H, W, 3), uint8
    masks : ndarray of shape (k, H, W), bool
    label : str
    batch_size : int

    Returns
    -------
    ndarray of shape (k,)
        Infinite for an empty mask, which shows nothing.
    """
    masked = np.where(masks[..., None], picture, np.uint8(GREY))
    log = network.head.log_probabilities(network.pooled(masked, batch_size=batch_size))
    losses = -log[:, network.head.codes([label], 1)[0]].astype(float)
    return np.where(masks.any(axis=(1, 2)), losses, np.inf)


def lowest(losses: np.ndarray, most: int) -> np.ndarray:
    """Which of the losses are among the `most` lowest and finite, ``(n,)`` bool."""
    kept = np.zeros(len(losses), dtype=bool)
    kept[np.argsort(losses, kind="stable")[:most]] = True
    return kept & np.isfinite(losses)


def enclosing_box(mask: np.ndarray) -> np.ndarray:
    """The smallest box around a mask ``(H, W)``, unit coordinates; zeros where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros(4)
    height, width = mask.shape
    return np.array(
        [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]
    )
