"""Made-up data with known truth: scenes in memory, activations with planted detectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd


@dataclass(frozen=True)
class Scenes:
    """A set of scenes in memory; entry *i* of every list is scene *i*.

    Attributes
    ----------
    images : list of ndarray of uint8, shape (h, w, 3)
    labels : list of str
    boxes : DataFrame
        The box table: image (the scene's number, from 0), kind ("object"), label, xmin, ymin,
        xmax, ymax (pixels, continuous).
    masks : list of ndarray of bool, shape (h, w)
    """

    images: list[npt.NDArray[np.uint8]]
    labels: list[str]
    boxes: pd.DataFrame
    masks: list[npt.NDArray[np.bool_]]


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
