"""Do gradient maps depend on what the network has learnt? The cascading randomisation check.

References
----------
.. [1] Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018.
.. [2] Sixt, Granz and Landgraf, "When explanations lie: why many modified BP attributions fail",
   ICML 2020.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from featlab.errors import FeatlabError
from featlab.gradients._backward import RULES
from featlab.gradients._copying import copy_network
from featlab.gradients._network import BATCH_SIZE, HeadedNetwork, checked_pixels, in_batches

if TYPE_CHECKING:
    import keras

SANITY_COLUMNS = [
    *("image", "rule", "stage", "layers", "down_to", "spearman", "spearman_absolute"),
]


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
    unknown = [rule for rule in rules if rule not in RULES]
    if unknown or n_stages < 1:
        raise FeatlabError(
            f"rules must be from {', '.join(RULES)} and n_stages at least 1, got {list(rules)} and "
            f"{n_stages}."
        )
    pixels = checked_pixels(pixels, network.input_size)
    coef = network.head.coef[network.head.codes(classes)]
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
                copy.compiled("pooled_gradient", rule, None), batch_size, pixels, coef[:, order]
            )
            ranks = _ranks(gradient.mean(axis=-1)), _ranks(np.abs(gradient).sum(axis=-1))
            first.setdefault(rule, ranks)
            for image in range(len(pixels)):
                agreement = [
                    _correlation(now[image], then[image])
                    for now, then in zip(ranks, first[rule], strict=True)
                ]
                rows.append([image, rule, stage, layers, down_to, *agreement])
    return pd.DataFrame(rows, columns=SANITY_COLUMNS)


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
    )


def _stages(
    network: HeadedNetwork, n_stages: int, random_state: int
) -> Iterator[tuple[int, str, list[np.ndarray], np.ndarray]]:
    """Layers randomised, the lowest one's name, all weights, and the order of the head's."""
    rng = np.random.default_rng(random_state)
    weights = network.model.get_weights()
    names = [variable.path.rpartition("/")[0] for variable in network.model.weights]
    own_order = np.arange(network.head.coef.shape[1])
    yield 0, "", weights, own_order
    order = rng.permutation(own_order)
    yield 0, "head", weights, order
    layers = layers_with_weights(network.model)[::-1]
    done = 0
    for some in np.array_split(np.arange(len(layers)), min(n_stages, len(layers))):
        weights = list(weights)
        for place in (place for layer in some for place in layers[layer]):
            shuffled = rng.permutation(weights[place].ravel())
            weights[place] = shuffled.reshape(weights[place].shape)
        done += len(some)
        yield done, names[layers[some[-1]][0]], weights, order


def _ranks(maps: np.ndarray) -> np.ndarray:
    return stats.rankdata(maps.reshape(len(maps), -1), axis=1)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length > 0 else float("nan")
