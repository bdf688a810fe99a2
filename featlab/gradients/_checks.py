"""Do gradient maps mean anything? Randomised weights, and pixels taken away in the heat's order.

References
----------
.. [1] Petsiuk, Das and Saenko, "RISE: randomized input sampling for explanation of black-box
   models", BMVC 2018.
.. [2] Chattopadhay et al., "Grad-CAM++", WACV 2018 (average drop and increase in confidence).
.. [3] Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018.
.. [4] Sixt, Granz and Landgraf, "When explanations lie: why many modified BP attributions fail",
   ICML 2020.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from featlab.arguments import Progress, check_choices, check_whole, group_names, tracked
from featlab.boxes.geometry import centre_heat
from featlab.errors import FeatlabError
from featlab.gradients._backward import RULES
from featlab.gradients._guided import copy_network
from featlab.gradients.network import (
    BATCH_SIZE,
    GREY,
    HeadedNetwork,
    checked_pixels,
    in_batches,
)
from featlab.intervals import mean_interval

if TYPE_CHECKING:
    import keras

_SCORES = ("deletion", "insertion", "average_drop", "increase")
"""Columns of the faithfulness table, each with an interval."""
_BASELINES = ("random", "centre_gaussian")
"""Heat maps that know nothing of the picture, scored beside the methods."""
_BLUR = 10 / 224  # of the side: the standard deviation of the blur that insertion starts from
_RANDOM_CELLS = 7
_SANITY_COLUMNS = [
    *("image", "rule", "stage", "layers", "down_to", "spearman", "spearman_absolute"),
]


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
        Images that are weighted together.
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
        No step; heat maps of another number of images, with NaN, or named like a baseline; a class
        that the head does not have.
    """
    pixels = checked_pixels(pixels, network.input_size)
    check_whole("n_steps", n_steps, 1)
    _check_heats(heats, len(pixels))
    pooled = network.pooled(pixels, batch_size=batch_size)
    watched = network.head.predict(pooled) if classes is None else classes
    codes = network.head.codes(watched, len(pixels))
    units = None if groups is None else group_names(groups, len(pixels))
    rng = np.random.default_rng(random_state)
    every = dict(heats) | _baselines(len(pixels), network.input_size, rng)
    rows, curves = [], []
    for name in tracked(every, progress):
        scores, paths = _one_method(network, pixels, every[name], codes, n_steps, rng, batch_size)
        rows.append(
            {
                "method": name,
                "baseline": name in _BASELINES,
                "n": len(pixels),
                **_with_intervals(scores, units, random_state),
            }
        )
        share = np.linspace(0, 1, n_steps + 1)
        curves += [
            pd.DataFrame({"method": name, "curve": curve, "share": share, "probability": path})
            for curve, path in paths.items()
        ]
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True)


def _check_heats(heats: Mapping[str, np.ndarray], n: int) -> None:
    taken = [name for name in heats if name in _BASELINES]
    if taken:
        raise FeatlabError(f"heats must not be named like a baseline, got {taken[0]!r}; rename it.")
    for name, heat in heats.items():
        if np.ndim(heat) != 3 or len(heat) != n or not np.isfinite(heat).all():
            raise FeatlabError(
                f"heats[{name!r}] must be finite and of shape ({n}, h, w), got shape "
                f"{np.shape(heat)}."
            )


def _baselines(n: int, size: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "random": rng.random((n, _RANDOM_CELLS, _RANDOM_CELLS)),
        "centre_gaussian": np.broadcast_to(centre_heat(size), (n, *size)),
    }


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
        product = _multiplied(picture, one)
        values = probability(np.concatenate([grey, back, product[None]]), code)
        paths["deletion"].append(values[: len(cuts)])
        paths["insertion"].append(values[len(cuts) : -1])
        drops.append((values[0], values[-1]))
    before, after = np.array(drops).T
    scores = {
        **{name: np.trapezoid(path, dx=1 / n_steps, axis=1) for name, path in paths.items()},
        # No share can be lost of a probability that is too small for its precision.
        "average_drop": np.divide(
            np.maximum(before - after, 0), before, out=np.zeros_like(before), where=before > 0
        ),
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
    groups: np.ndarray | None,
    random_state: int,
) -> dict[str, float]:
    columns: dict[str, float] = {}
    for name in _SCORES:
        low, high = mean_interval(scores[name], groups=groups, random_state=random_state)
        columns |= {name: float(scores[name].mean()), f"{name}_low": low, f"{name}_high": high}
    return columns


def randomisation_check(
    network: HeadedNetwork,
    pixels: np.ndarray,
    classes: Sequence[str] | np.ndarray,
    *,
    rules: Sequence[str] = ("plain", "guided"),
    n_stages: int = 8,
    random_state: int = 0,
    batch_size: int = BATCH_SIZE,
) -> pd.DataFrame:
    """How much of a gradient map is left when layers are randomised, cumulatively from the top.

    First the head's weights are shuffled, then, in stages, those of all layers down to the first.
    Shuffling the values of each array keeps their distribution, and with it the size of the
    activations, and takes away what was learnt. A map that hardly changes does not show what the
    network has learnt.

    Parameters
    ----------
    network : HeadedNetwork
        Left as it is.
    pixels : ndarray of shape (b, H, W, 3), uint8
    classes : sequence of b str
        Whose logit is differentiated, before and after.
    rules : sequence of {"plain", "input", "guided"}
    n_stages : int
        Into how many stages of about equally many layers the network is cut.
    random_state : int
        Seed of the shuffles; the same for all rules.
    batch_size : int

    Returns
    -------
    DataFrame
        One row per image, rule and stage: image (0 … b - 1), rule, stage (0 is the trained network,
        1 the head alone), layers (of the network, randomised so far), down_to (the lowest of them),
        spearman (rank correlation over the pixels with the trained network's map, the gradient
        averaged over RGB), spearman_absolute (of the absolute gradients, summed over RGB); NaN
        where a gradient is zero everywhere.

    Raises
    ------
    FeatlabError
        An unknown rule or class, or fewer than one stage.
    """
    rules = check_choices("rules", rules, RULES)
    check_whole("n_stages", n_stages, 1)
    pixels = checked_pixels(pixels, network.input_size)
    coef = network.head.weights(classes, len(pixels))
    copy = _copy_of(network)
    first: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    rows = []
    stages = _stages(network, n_stages, random_state)
    for stage, (layers, down_to, weights, order) in enumerate(stages):
        copy.model.set_weights(weights)
        if "guided" in rules:
            copy.guided.model.set_weights(weights)
        for rule in rules:
            gradient = in_batches(
                copy.compiled("pooled_gradient", rule, copy.scored),
                batch_size,
                pixels,
                coef[:, order],
            )
            ranks = _ranks(gradient.mean(axis=-1)), _ranks(np.abs(gradient).sum(axis=-1))
            first.setdefault(rule, ranks)
            for image in range(len(pixels)):
                agreement = [
                    _correlation(now[image], then[image])
                    for now, then in zip(ranks, first[rule], strict=True)
                ]
                rows.append([image, rule, stage, layers, down_to, *agreement])
    return pd.DataFrame(rows, columns=_SANITY_COLUMNS)


def layers_with_weights(model: keras.Model) -> list[list[int]]:
    """Places in ``model.weights`` of each layer's arrays, the lowest layer first."""
    places: dict[str, list[int]] = {}
    for place, variable in enumerate(model.weights):
        places.setdefault(variable.path.rpartition("/")[0], []).append(place)
    return list(places.values())


def _copy_of(network: HeadedNetwork) -> HeadedNetwork:
    return HeadedNetwork(
        copy_network(network.model),
        network.head,
        network.preprocess,
        layer=network.layer,
        others=network.others,
        scored=network.scored,
    )


def _stages(
    network: HeadedNetwork, n_stages: int, random_state: int
) -> Iterator[tuple[int, str, list[np.ndarray], np.ndarray]]:
    """Layers randomised, the lowest one's name, all weights, and the order of the head's."""
    rng = np.random.default_rng(random_state)
    weights = network.model.get_weights()
    names = [variable.path.rpartition("/")[0] for variable in network.model.weights]
    layers = layers_with_weights(network.model)[::-1]
    coef = network.head.coef
    order = np.arange(len(network.head.classes) if coef is None else coef.shape[1])
    yield 0, "", weights, order
    if coef is None:  # the head is the network's last layer
        weights, layers = _shuffled(weights, layers[0], rng), layers[1:]
    else:
        order = rng.permutation(order)
    yield 0, "head", weights, order
    done = 0
    for some in np.array_split(np.arange(len(layers)), min(n_stages, len(layers))):
        places = [place for layer in some for place in layers[layer]]
        weights = _shuffled(weights, places, rng)
        done += len(some)
        yield done, names[layers[some[-1]][0]], weights, order


def _shuffled(
    weights: list[np.ndarray], places: list[int], rng: np.random.Generator
) -> list[np.ndarray]:
    """The arrays, some of them with their values in another order."""
    arrays = list(weights)
    for place in places:
        arrays[place] = rng.permutation(arrays[place].ravel()).reshape(arrays[place].shape)
    return arrays


def _ranks(maps: np.ndarray) -> np.ndarray:
    return stats.rankdata(maps.reshape(len(maps), -1), axis=1)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length > 0 else float("nan")
