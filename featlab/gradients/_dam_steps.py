"""The steps of DAM, each a function of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from featlab.errors import FeatlabError
from featlab.gradients._network import BATCH_SIZE, HeadedNetwork

GREY = 127
"""What hidden pixels become: the grey around padded pictures, close to zero for most networks."""

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
        steps = [name for name, _ in self.morphology if name not in _MORPHOLOGY]
        if self.over_rgb not in ("mean", "max") or steps or not 0 <= self.percentile <= 100:
            raise FeatlabError(
                "over_rgb must be 'mean' or 'max', the morphology made of "
                f"{', '.join(_MORPHOLOGY)}, and the percentile in 0 … 100; got {self.over_rgb!r}, "
                f"{[name for name, _ in self.morphology]} and {self.percentile}."
            )
        if min(self.n_units, self.n_kept) < 1:
            raise FeatlabError(
                f"n_units and n_kept must be at least 1, got {self.n_units} and {self.n_kept}."
            )


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


def unit_scores(maps: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Activation times gradient of the class's logit, ``(b, h, w, c)``."""
    return maps * gradients


def top_units(scores: np.ndarray, k: int, *, one_per_filter: bool) -> np.ndarray:
    """Row, column and neuron of the `k` units of highest score, the highest first.

    Parameters
    ----------
    scores : ndarray of shape (h, w, c)
    k : int
    one_per_filter : bool
        At most one unit of each neuron: its best.

    Returns
    -------
    ndarray of shape (k, 3), int
        Fewer where there are fewer units, or neurons.
    """
    h, w, c = scores.shape
    if one_per_filter:
        flat = scores.reshape(h * w, c)
        cells = flat.argmax(axis=0)
        best = np.argsort(-flat[cells, np.arange(c)], kind="stable")[:k]
        rows, columns = np.divmod(cells[best], w)
        return np.stack([rows, columns, best], axis=1)
    best = np.argsort(-scores, axis=None, kind="stable")[:k]
    return np.stack(np.unravel_index(best, scores.shape), axis=1)


def one_colour(gradients: np.ndarray, how: str) -> np.ndarray:
    """Gradients ``(..., 3)`` → ``(...)``: their mean or maximum over RGB."""
    return gradients.max(axis=-1) if how == "max" else gradients.mean(axis=-1)


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
    shown = np.where(masks[..., None], picture, np.uint8(GREY))
    log = network.head.log_probabilities(network.pooled(shown, batch_size=batch_size))
    losses = -log[:, network.head.codes([label])[0]].astype(float)
    return np.where(masks.any(axis=(1, 2)), losses, np.inf)


def lowest(losses: np.ndarray, k: int) -> np.ndarray:
    """Which of the losses are among the `k` lowest and finite, ``(n,)`` bool."""
    kept = np.zeros(len(losses), dtype=bool)
    kept[np.argsort(losses, kind="stable")[:k]] = True
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
