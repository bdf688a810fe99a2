"""Made-up pooled activations in which the detectors are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from featlab.arguments import feature_columns
from featlab.errors import FeatlabError

_BLOCK = 20


@dataclass(frozen=True)
class Neurons:
    """Activations of :func:`make_neurons`.

    Attributes
    ----------
    X : DataFrame of shape (n_images, n_neurons)
        float32, not negative; a feature table, of the layer "made_up" and the pooling "mean".
    y : Series of str of shape (n_images,)
    truth : DataFrame
        One row per neuron: neuron, label (the class that it detects, "" for none), dead.
    """

    X: pd.DataFrame
    y: pd.Series
    truth: pd.DataFrame


def make_neurons(
    n_images: int = 200,
    n_neurons: int = 500,
    n_detectors: int = 20,
    *,
    classes: int = 2,
    effect: float = 1.0,
    correlation: float = 0.0,
    dead: float = 0.0,
    random_state: int = 0,
) -> Neurons:
    """Activations like those of a network's pooled maps, with planted detectors.

    A latent Gaussian value per image and neuron, correlated within blocks of 20 neurons, raised by
    `effect` standard deviations in the detector's class, then cut off below 0 as by a ReLU.

    Parameters
    ----------
    n_images, n_neurons : int
        The classes take turns over the images.
    n_detectors : int
        Neurons that detect a class; spread evenly over the blocks, the classes in turn.
    classes : int
        Number of classes, at least 2; they are called "class_0", "class_1", ...
    effect : float
        Shift of a detector's latent value in its class, in standard deviations.
    correlation : float
        Of the latent values of two neurons of a block, in [0, 1).
    dead : float
        Share of the neurons, in [0, 1), that are 0 everywhere; none of them a detector.
    random_state : int
        Seed.

    Returns
    -------
    Neurons

    Raises
    ------
    FeatlabError
        A number out of its range, or more detectors than living neurons.

    Examples
    --------
    >>> made = make_neurons(60, 100, 4, random_state=1)
    >>> made.X.shape, (made.truth["label"] != "").sum()
    ((60, 100), np.int64(4))
    """
    n_dead = round(dead * n_neurons)
    if not (0 <= dead < 1 and 0 <= correlation < 1 and classes >= 2 and n_images >= classes):
        raise FeatlabError(
            "make_neurons needs classes of at least 2, an image for each class, and dead and "
            f"correlation in [0, 1); got classes={classes}, n_images={n_images}, dead={dead}, "
            f"correlation={correlation}."
        )
    if not 0 <= n_detectors <= n_neurons - n_dead:
        raise FeatlabError(
            f"n_detectors must be from 0 to the {n_neurons - n_dead} living neurons, "
            f"got {n_detectors}."
        )
    rng = np.random.default_rng(random_state)
    codes = np.arange(n_images) % classes
    shared = rng.normal(size=(n_images, -(-n_neurons // _BLOCK)))
    latent = np.sqrt(1 - correlation) * rng.normal(size=(n_images, n_neurons))
    latent += np.sqrt(correlation) * shared[:, np.arange(n_neurons) // _BLOCK]
    silent = rng.permutation(n_neurons)[:n_dead]
    living = np.setdiff1d(np.arange(n_neurons), silent)
    places = np.linspace(0, len(living), n_detectors, endpoint=False).astype(int)
    detectors = living[places]
    detected = np.arange(n_detectors) % classes
    latent[:, detectors] += effect * (codes[:, None] == detected)
    latent[:, silent] = 0
    names = np.array([f"class_{k}" for k in range(classes)], dtype=object)
    label = np.full(n_neurons, "", dtype=object)
    label[detectors] = names[detected]
    truth = pd.DataFrame({"neuron": np.arange(n_neurons), "label": label})
    truth["dead"] = np.isin(truth["neuron"], silent)
    columns = feature_columns("made_up", "mean", n_neurons)
    X = pd.DataFrame(np.maximum(latent, 0).astype(np.float32), columns=columns)
    return Neurons(X, pd.Series(names[codes].astype(str), name="label"), truth)
