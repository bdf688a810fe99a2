"""What a report is made of, and which pictures its examples need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
from markupsafe import escape

from featlab import _html
from featlab.plots import NeuronCard


class StoreLike(Protocol):
    """The part of a ``MapStore`` that a report reads."""

    images: pd.DataFrame
    boxes: pd.DataFrame
    layers: list[str]
    provenance: dict[str, Any]

    @property
    def classes(self) -> list[str]: ...

    def map_shape(self, layer: str | None = None) -> tuple[int, int, int]: ...

    def pooled(
        self, how: str = "mean", layer: str | None = None, rows: Any = None
    ) -> np.ndarray: ...


class HeadResultsLike(Protocol):
    """The part of ``heads.HeadResults`` that a report reads."""

    @property
    def table(self) -> pd.DataFrame: ...

    @property
    def predictions(self) -> pd.DataFrame: ...

    def confusion(self, head: str) -> pd.DataFrame: ...


class LocalisationLike(Protocol):
    """The part of ``localise.Localisation`` that a report reads."""

    @property
    def table(self) -> pd.DataFrame: ...

    @property
    def per_image(self) -> pd.DataFrame: ...

    @property
    def success(self) -> pd.DataFrame: ...

    @property
    def curves(self) -> pd.DataFrame: ...


class AuditLike(Protocol):
    """The part of ``audit.Audit`` that a report reads."""

    @property
    def summary(self) -> pd.DataFrame: ...

    @property
    def confounds(self) -> pd.DataFrame: ...

    @property
    def adjusted(self) -> pd.DataFrame: ...

    @property
    def duplicates(self) -> pd.DataFrame: ...

    @property
    def label_errors(self) -> pd.DataFrame: ...

    @property
    def outliers(self) -> pd.DataFrame: ...


@dataclass(frozen=True)
class Samples:
    """Pictures of the data set, with their ground truth.

    Attributes
    ----------
    pictures : list of ndarray of shape (height, width, 3), uint8, or None
        None where the picture could not be read.
    labels : list of str
    boxes : list of ndarray of shape (k, 4)
        ``xmin, ymin, xmax, ymax`` in pixels of `pictures` as they are here; k may be 0.
    """

    pictures: list[np.ndarray | None]
    labels: list[str]
    boxes: list[np.ndarray]


@dataclass(frozen=True)
class Examples:
    """Pictures with heat maps; entry *i* of every list belongs to one image.

    Attributes
    ----------
    rows : list of int
        Row numbers in the image table.
    pictures : list of ndarray of shape (height, width, 3), uint8, or None
        None where the picture could not be read.
    neurons : list of (class, neuron)
        What the m maps of each image are; for localisation examples one entry, (method, -1).
    heats : list of ndarray of shape (m, h, w)
        Coarse or at the picture's size. Each covers exactly its picture: padding of the network's
        input is already cut off.
    true_boxes : list of ndarray of shape (k, 4)
        ``xmin, ymin, xmax, ymax`` in pixels of `pictures` as they are here; k may be 0.
    labels : list of str
    predicted_boxes : list of ndarray of shape (4,) or None, optional
    predicted_labels : list of str or None, optional
    ious : list of float, optional
    """

    rows: list[int]
    pictures: list[np.ndarray | None]
    neurons: list[tuple[str, int]]
    heats: list[np.ndarray]
    true_boxes: list[np.ndarray]
    labels: list[str]
    predicted_boxes: list[np.ndarray | None] | None = None
    predicted_labels: list[str | None] | None = None
    ious: list[float] | None = None

    def first(self, n: int) -> Examples:
        """The first `n` images only."""
        optional = (self.predicted_boxes, self.predicted_labels, self.ious)
        boxes, labels, ious = (None if values is None else values[:n] for values in optional)
        return Examples(
            self.rows[:n], self.pictures[:n], self.neurons, self.heats[:n], self.true_boxes[:n],
            self.labels[:n], boxes, labels, ious,  # type: ignore[arg-type]
        )  # fmt: skip


@dataclass(frozen=True)
class Strips:
    """Pictures with the heat map and box of several methods; entry *i* belongs to one image.

    Attributes
    ----------
    pictures : list of ndarray of shape (height, width, 3), uint8, or None
    labels : list of str
    true_boxes : list of ndarray of shape (k, 4)
    heats, predicted_boxes : dict of str to list
        Method → heat maps ``(h, w)`` that cover the picture, and boxes ``(4,)``.
    """

    pictures: list[np.ndarray | None]
    labels: list[str]
    true_boxes: list[np.ndarray]
    heats: dict[str, list[np.ndarray]]
    predicted_boxes: dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Gallery:
    """Test pictures under coarse heat maps, for the reader to threshold.

    Attributes
    ----------
    rows : list of n int
        Row numbers in the image table.
    pictures : list of n ndarrays of shape (height, width, 3), uint8, or None
    labels : list of n str
    true_boxes : list of n ndarrays of shape (k, 4)
        ``xmin, ymin, xmax, ymax`` in pixels of `pictures` as they are here; k may be 0.
    frames : ndarray of shape (n, 4)
        Where each picture lies in its heat maps: left, top, right, bottom in units of the map.
    heats : dict of str to ndarray of shape (n, h, w)
        Method → maps over the network's input, not normalised; the best method first.
    thresholds : dict of str to float
        Method → its own threshold.
    neurons : list of m (class, neuron)
    neuron_heats : ndarray of shape (n, m, h, w)
        The maps of these detectors.
    neuron_threshold : float or None
        The threshold of single detectors.
    """

    rows: list[int]
    pictures: list[np.ndarray | None]
    labels: list[str]
    true_boxes: list[np.ndarray]
    frames: np.ndarray
    heats: dict[str, np.ndarray]
    thresholds: dict[str, float]
    neurons: list[tuple[str, int]]
    neuron_heats: np.ndarray
    neuron_threshold: float | None = None


@dataclass(frozen=True)
class Laboratory:
    """What is known of the detectors beyond their list.

    Attributes
    ----------
    poolings : DataFrame
        ``layer, pooling, neurons, selected, replicated, median_confirmed, n, accuracy,
        accuracy_low, accuracy_high``, a row per layer and pooling.
    replication : DataFrame
        From ``neurons.replication``.
    clusters : DataFrame or None
        From ``neurons.cluster_detectors``.
    nulls : DataFrame or None
        From ``neurons.null_selection``.
    ablation : DataFrame or None
        From ``heads.ablation_curve``, both modes.
    smallest : SmallestSet or None
        From ``heads.smallest_set``.
    omnibus : DataFrame or None
        From ``neurons.compare_classes``, where there are more than two classes.
    """

    poolings: pd.DataFrame
    replication: pd.DataFrame
    clusters: pd.DataFrame | None = None
    nulls: pd.DataFrame | None = None
    ablation: pd.DataFrame | None = None
    smallest: Any | None = None
    omnibus: pd.DataFrame | None = None


@dataclass(frozen=True)
class HeadDetails:
    """What is known of the main head beyond its score.

    Attributes
    ----------
    head : str
    pairs : DataFrame
        From ``heads.compare_all``: every two heads on the same test images.
    calibration : DataFrame
        From ``heads.calibration_table``.
    learning : DataFrame
        From ``heads.learning_curve``.
    """

    head: str
    pairs: pd.DataFrame
    calibration: pd.DataFrame
    learning: pd.DataFrame


@dataclass(frozen=True)
class BoxLaboratory:
    """The boxes themselves, and what regression from the stored maps makes of them.

    Attributes
    ----------
    statistics : DataFrame
        From ``boxheads.box_statistics``.
    heads : DataFrame or None
        ``BoxHeadResults.table``; None where too few images have a box.
    pairs : DataFrame
        From ``localise.compare_methods``, of the box accuracy.
    """

    statistics: pd.DataFrame
    heads: pd.DataFrame | None
    pairs: pd.DataFrame


@dataclass(frozen=True)
class Glance:
    """The set at a glance.

    Attributes
    ----------
    overview : embed.Overview
    pictures : mapping of int to ndarray of shape (height, width, 3), uint8, or None
        Row → picture, for the rows of ``overview.embedding.thumbnails``.
    """

    overview: Any
    pictures: Mapping[int, np.ndarray | None]


@dataclass(frozen=True)
class Results:
    """Everything a report tells.

    Attributes
    ----------
    store : MapStore
    split : Series of str
        "train", "confirm" or "test" per row of the image table.
    heads : HeadResults
    neurons : DataFrame
        Neuron table, with the columns of the confirmation.
    softmax_top_k : DataFrame, optional
        ``class, neuron, share, share_rest, difference``.
    localisation : Localisation, optional
        None where there are no boxes.
    units : DataFrame, optional
        From ``localise.unit_localisation``.
    pointing : DataFrame, optional
        ``class, neuron, n, pointing, pointing_low, pointing_high``.
    seconds : mapping of str to float
        Stage → wall-clock seconds.
    box_kind : str, optional
        Kind of the boxes that were scored.
    command : str
        How the analysis was run.
    random_state : int
        Its seed.
    backbone_description : str
    samples : Samples, optional
    detector_examples, localisation_examples : Examples, optional
        The latter ordered from the best to the worst IoU.
    failures : Examples, optional
        The worst boxes of the same method, the worst first.
    all_neurons : DataFrame, optional
        The neuron table of every layer and pooling; `neurons` are its main rows.
    laboratory : Laboratory, optional
    audit : Audit, optional
    per_class : DataFrame, optional
        From ``heads.per_class``.
    head_details : HeadDetails, optional
    box_laboratory : BoxLaboratory, optional
    glance : Glance, optional
    gradients : pipeline.GradientResults, optional
    transfer : finetune.Transfer, optional
    cards : sequence of NeuronCard
    card_neurons : sequence of (class, neuron)
        What each card is about.
    strips : Strips, optional
    gallery : Gallery, optional
    """

    store: StoreLike
    split: pd.Series
    heads: HeadResultsLike
    neurons: pd.DataFrame
    softmax_top_k: pd.DataFrame | None = None
    localisation: LocalisationLike | None = None
    pointing: pd.DataFrame | None = None
    units: pd.DataFrame | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    box_kind: str | None = None
    command: str = ""
    random_state: int = 0
    backbone_description: str = ""
    samples: Samples | None = None
    detector_examples: Examples | None = None
    localisation_examples: Examples | None = None
    failures: Examples | None = None
    all_neurons: pd.DataFrame | None = None
    laboratory: Laboratory | None = None
    audit: AuditLike | None = None
    per_class: pd.DataFrame | None = None
    head_details: HeadDetails | None = None
    box_laboratory: BoxLaboratory | None = None
    glance: Glance | None = None
    gradients: Any | None = None
    transfer: Any | None = None
    cards: Sequence[NeuronCard] = ()
    card_neurons: Sequence[tuple[str, int]] = ()
    strips: Strips | None = None
    gallery: Gallery | None = None

    def __repr__(self) -> str:
        return (
            f"<Results of {len(self.store.images)} images, {len(self.store.classes)} classes; "
            "write_report makes a page of them>"
        )

    def _repr_html_(self) -> str:
        """The answers at the top of the page."""
        from featlab.report import _words as words  # which speaks about Results
        from featlab.report._choices import main_head

        verdict, figures = words.localisation_answer(self)
        answers = (
            words.data_answer(self),
            words.output_answer(self, main_head(self.heads.table)),
            words.detectors_answer(self),
            f"{verdict}. {figures}",
        )
        told = "".join(f"<li>{escape(answer)}</li>" for answer in answers)
        return _html.block(
            "What the network knows",
            f"<ol>{told}</ol>",
            _html.folded("Heads", _html.table(self.heads.table[["head", "n", "accuracy"]])),
            "<p><code>report.write_report(results, path)</code> makes the page; "
            "<code>report.show(path)</code> shows it here.</p>",
        )
