"""Does the network need what a heat map shows? Deletion, insertion, and drops in confidence.

References
----------
.. [1] Petsiuk, Das and Saenko, "RISE: randomized input sampling for explanation of black-box
   models", BMVC 2018.
.. [2] Chattopadhay et al., "Grad-CAM++", WACV 2018 (average drop and increase in confidence).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from featlab.boxes.geometry import centre_heat
from featlab.errors import FeatlabError
from featlab.gradients._dam_steps import GREY
from featlab.gradients._network import BATCH_SIZE, HeadedNetwork, checked_pixels
from featlab.intervals import bootstrap_interval

Progress = Callable[[Iterable[Any]], Iterable[Any]]

FAITHFULNESS_SCORES = ("deletion", "insertion", "average_drop", "increase")
"""Columns of the faithfulness table, each with an interval."""
FAITHFULNESS_BASELINES = ("random", "centre_gaussian")
"""Heat maps that know nothing of the picture, scored beside the methods."""
_BLUR = 10 / 224  # of the side: the standard deviation of the blur that insertion starts from
_RANDOM_CELLS = 7


def faithfulness(
    network: HeadedNetwork,
    pixels: np.ndarray,
    heats: Mapping[str, np.ndarray],
    classes: Sequence[str] | np.ndarray | None = None,
    *,
    n_steps: int = 16,
    groups: Sequence[str] | np.ndarray | None = None,
    random_state: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How the class's probability answers when pixels go, or come, in the order of the heat.

    Parameters
    ----------
    network : HeadedNetwork
    pixels : ndarray of shape (b, H, W, 3), uint8
    heats : mapping of str to ndarray of shape (b, h, w)
        Method → heat maps over the network's input, of any resolution.
    classes : sequence of b str, optional
        Whose probability is watched; the one that the head predicts by default.
    n_steps : int
        Steps of each curve; every step changes the same number of pixels.
    groups : array-like of b str, optional
        Images that are resampled together.
    random_state : int
        Seed of the random maps, of ties, and of the intervals.
    batch_size : int
    progress : callable, optional
        Wraps the iterable of methods.

    Returns
    -------
    table : DataFrame
        One row per method, the baselines "random" (7 × 7 random cells, as coarse as most heat maps)
        and "centre_gaussian" last: method, baseline, n, and with _low and _high (95 %, bootstrap
        over images) deletion (area under the curve of probability while the hottest pixels turn
        grey; lower is better), insertion (while they return to a blurred picture; higher is
        better), average_drop (share of the probability lost when the picture is multiplied by its
        heat; lower is better) and increase (share of images whose probability grows by that).
    curves : DataFrame
        method, curve ("deletion", "insertion"), share (of the pixels), probability (mean).

    Raises
    ------
    FeatlabError
        No step, or heat maps of another number of images, or with NaN.
    """
    pixels = checked_pixels(pixels, network.input_size)
    if n_steps < 1:
        raise FeatlabError(f"n_steps must be at least 1, got {n_steps}.")
    for name, heat in heats.items():
        if np.ndim(heat) != 3 or len(heat) != len(pixels) or not np.isfinite(heat).all():
            raise FeatlabError(
                f"heats[{name!r}] must be finite and of shape ({len(pixels)}, h, w), got shape "
                f"{np.shape(heat)}."
            )
    pooled = network.pooled(pixels, batch_size=batch_size)
    watched = network.head.predict(pooled) if classes is None else np.asarray(classes)
    codes = network.head.codes(watched)
    rng = np.random.default_rng(random_state)
    named = dict(heats) | {
        "random": rng.random((len(pixels), _RANDOM_CELLS, _RANDOM_CELLS)),
        "centre_gaussian": np.broadcast_to(
            centre_heat(network.input_size), (len(pixels), *network.input_size)
        ),
    }
    rows, curves = [], []
    for name in progress(named) if progress else named:
        scores, paths = _one_method(network, pixels, named[name], codes, n_steps, rng, batch_size)
        rows.append(
            {
                "method": name,
                "baseline": name in FAITHFULNESS_BASELINES and name not in heats,
                "n": len(pixels),
                **_with_intervals(scores, groups, random_state),
            }
        )
        share = np.linspace(0, 1, n_steps + 1)
        curves += [
            pd.DataFrame({"method": name, "curve": curve, "share": share, "probability": path})
            for curve, path in paths.items()
        ]
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True)


def pixel_order(heat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rank of every pixel, 0 the hottest, equal ones in random order; ``(H, W)`` int."""
    order = np.lexsort([rng.random(heat.size), -heat.ravel()])
    ranks = np.empty(heat.size, dtype=np.int64)
    ranks[order] = np.arange(heat.size)
    return ranks.reshape(heat.shape)


def resized(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Heat maps ``(b, h, w)`` brought to the input by bilinear interpolation, ``(b, H, W)``."""
    import tensorflow as tf

    return np.asarray(tf.image.resize(np.asarray(heat, np.float32)[..., None], size))[..., 0]


def _one_method(
    network: HeadedNetwork,
    pixels: np.ndarray,
    heat: np.ndarray,
    codes: np.ndarray,
    n_steps: int,
    rng: np.random.Generator,
    batch_size: int,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores per image, and the mean curves."""
    fine = resized(heat, network.input_size)
    paths: dict[str, list[np.ndarray]] = {"deletion": [], "insertion": []}
    drops = []

    def probability(pictures: np.ndarray, code: int) -> np.ndarray:
        pooled = network.pooled(pictures, batch_size=batch_size)
        return np.exp(network.head.log_probabilities(pooled)[:, code])

    cuts = np.linspace(0, fine[0].size, n_steps + 1)
    for picture, one, code in zip(pixels, fine, codes, strict=True):
        hot = pixel_order(one, rng) < cuts[:, None, None]
        grey = np.where(hot[..., None], np.uint8(GREY), picture)
        back = np.where(hot[..., None], picture, _blurred(picture))
        shown = _multiplied(picture, one)
        values = probability(np.concatenate([grey, back, shown[None]]), code)
        paths["deletion"].append(values[: len(cuts)])
        paths["insertion"].append(values[len(cuts) : -1])
        drops.append((values[0], values[-1]))
    before, after = np.array(drops).T
    scores = {
        **{name: np.trapezoid(path, dx=1 / n_steps, axis=1) for name, path in paths.items()},
        "average_drop": np.maximum(before - after, 0) / before,
        "increase": (after > before).astype(float),
    }
    return scores, {name: np.mean(path, axis=0) for name, path in paths.items()}


def _blurred(picture: np.ndarray) -> np.ndarray:
    sigma = _BLUR * np.mean(picture.shape[:2])
    return ndimage.gaussian_filter(picture, (sigma, sigma, 0))


def _multiplied(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The picture where the heat is 1, grey where it is 0, a mixture between."""
    extent = np.ptp(heat)
    share = ((heat - heat.min()) / extent if extent > 0 else np.zeros_like(heat))[..., None]
    return np.rint(share * picture + (1 - share) * GREY).astype(np.uint8)


def _with_intervals(
    scores: Mapping[str, np.ndarray],
    groups: Sequence[str] | np.ndarray | None,
    random_state: int,
) -> dict[str, float]:
    columns: dict[str, float] = {}
    for name in FAITHFULNESS_SCORES:
        low, high = bootstrap_interval(scores[name], groups=groups, random_state=random_state)
        columns |= {name: float(scores[name].mean()), f"{name}_low": low, f"{name}_high": high}
    return columns
