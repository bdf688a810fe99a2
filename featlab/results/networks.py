"""A network, and what running it again adds to the stored maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Description:
    """What a reader wants to know of a backbone.

    Attributes
    ----------
    name, weights, preprocessing : str
    input_size : (int, int)
        Height and width in pixels.
    outputs : dict of str to str
        Layer → "7 x 7 cells of 32 px, 1280 neurons".
    parameters : int
        Number of weights up to the last layer given.
    """

    name: str
    weights: str
    input_size: tuple[int, int]
    outputs: dict[str, str]
    parameters: int
    preprocessing: str

    def __str__(self) -> str:
        height, width = self.input_size
        outputs = "; ".join(f"layer {layer}: {text}" for layer, text in self.outputs.items())
        return (
            f"{self.name} ({self.weights} weights, {self.parameters:,} parameters). Input: "
            f"{height} × {width} px RGB, {self.preprocessing}. Output: {outputs}."
        )


@dataclass(frozen=True)
class DamTrace:
    """Every intermediate of DAM for one picture.

    Attributes
    ----------
    pixels : ndarray of shape (H, W, 3), uint8
        The network's input.
    label : str
        The class whose evidence was sought: the one that the head predicts.
    map_shape : (int, int)
        Rows and columns of the layer's cells.
    units : ndarray of shape (k, 3), int
        Row, column and neuron, the highest score first.
    scores : ndarray of shape (k,)
        Activation times gradient of the class's logit.
    gradients : ndarray of shape (k, H, W)
        Guided gradient of each unit, one value per pixel.
    masks : ndarray of shape (k, H, W), bool
    losses : ndarray of shape (k,)
        Cross-entropy of the class when only the mask is shown; infinite where it is empty.
    kept : ndarray of shape (k,), bool
        The masks that were united.
    union : ndarray of shape (H, W), bool
    box_in_input : ndarray of shape (4,)
        In unit coordinates of the input; zeros where the union is empty.
    box : ndarray of shape (4,)
        Pixels of the original picture.
    """

    pixels: np.ndarray
    label: str
    map_shape: tuple[int, int]
    units: np.ndarray
    scores: np.ndarray
    gradients: np.ndarray
    masks: np.ndarray
    losses: np.ndarray
    kept: np.ndarray
    union: np.ndarray
    box_in_input: np.ndarray
    box: np.ndarray


@dataclass(frozen=True)
class DamExample:
    """Every step of DAM for one test image.

    Attributes
    ----------
    preset, label : str
        The parameters' name, and the image's own class.
    trace : DamTrace
    true_boxes : ndarray of shape (j, 4)
        Pixels of the network's input.
    """

    preset: str
    label: str
    trace: DamTrace
    true_boxes: np.ndarray


@dataclass(frozen=True)
class GradientExamples:
    """Gradients of the own class's logit for a few test images.

    Attributes
    ----------
    pictures : ndarray of shape (k, H, W, 3), uint8
        The network's input.
    labels : list of k str
    maps : dict of str to ndarray of shape (k, H, W, 3)
        "plain", "input" and, where the network has rectifiers, "guided".
    """

    pictures: np.ndarray
    labels: list[str]
    maps: dict[str, np.ndarray]


@dataclass(frozen=True)
class CamExamples:
    """Heat maps of the Grad-CAM family for a few test images.

    Attributes
    ----------
    pictures : ndarray of shape (k, H, W, 3), uint8
    labels : list of k str
    true_boxes : list of k ndarrays of shape (j, 4)
        Pixels of the network's input.
    heats : dict of str to ndarray of shape (k, h, w)
    boxes : dict of str to ndarray of shape (k, 4)
        At the method's threshold, pixels of the network's input.
    """

    pictures: np.ndarray
    labels: list[str]
    true_boxes: list[np.ndarray]
    heats: dict[str, np.ndarray]
    boxes: dict[str, np.ndarray]


@dataclass(frozen=True)
class GradientResults:
    """What the network itself adds to the stored maps.

    Attributes
    ----------
    localisation : DataFrame
        The table of :func:`featlab.localise.evaluate_localisation` for DAM, the Grad-CAM family,
        methods of the stored maps and baselines on the same images, with seconds_per_image (heat
        map or box, and its match with the true boxes; for stored maps without the pass that made
        them) and picture_centre_in_box (how often the picture's own centre lies in a box).
    sanity : DataFrame
        From :func:`featlab.gradients.randomisation_check`.
    faithfulness, faithfulness_curves : DataFrame
        From :func:`featlab.gradients.faithfulness`.
    dam : list of DamExample
        Empty where the network cannot be guided.
    examples : GradientExamples
    cams : CamExamples
    facts : dict
        Network, head, numbers and seconds; plain values.
    """

    localisation: pd.DataFrame
    sanity: pd.DataFrame
    faithfulness: pd.DataFrame
    faithfulness_curves: pd.DataFrame
    dam: list[DamExample]
    examples: GradientExamples
    cams: CamExamples
    facts: dict[str, Any]


_TABLES = ("comparison", "curves", "predictions", "detectors", "neurons", "small_images")


@dataclass(frozen=True)
class Transfer:
    """What a transfer study found; no network is needed to show it.

    Attributes
    ----------
    comparison, predictions : DataFrame
        Of :func:`compare_transfer`.
    curves : DataFrame
        ``name`` and the columns of ``FineTuned.curves``.
    detectors, neurons : DataFrame or None
        Of :func:`detector_changes`, by class and by neuron.
    small_images : DataFrame or None
        Accuracy from small copies of the pictures (``pipeline.small_images_table``).
    about : dict of str to object
        Backbone, parameters, versions; what JSON can hold.
    """

    comparison: pd.DataFrame
    curves: pd.DataFrame
    predictions: pd.DataFrame
    detectors: pd.DataFrame | None = None
    neurons: pd.DataFrame | None = None
    small_images: pd.DataFrame | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Those that there are, by name."""
        found = {name: getattr(self, name) for name in _TABLES}
        return {name: table for name, table in found.items() if table is not None}
