"""The whole of an analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from featlab.results.heads import Calibration, HeadResults, SmallestSet
from featlab.results.images import Audit, Overview
from featlab.results.localisation import BoxHeadResults, Localisation
from featlab.results.networks import GradientResults, Transfer
from featlab.results.pictures import Examples, Gallery, MethodExamples, NeuronCard, Samples
from featlab.store import MapStore
from featlab.system import html


@dataclass(frozen=True)
class Selection:
    """How the detectors of a neuron table were selected and confirmed.

    The defaults are those of ``neurons.rank_neurons`` and ``neurons.confirm_neurons``.

    Attributes
    ----------
    test, correction : str
        Of the selection.
    alpha : float
        Largest corrected p of a detector.
    min_auroc : float
        Smallest AUROC of an active detector; of a silent one, 1 minus the largest.
    n_tests : int
        Size of the corrected family: all rows of the table that have a p.
    confirm_correction : str
        Of the confirmation.
    confirm_alpha : float
        Largest corrected p of a confirmed detector.
    n_confirm_tests : int
        Size of its family.
    unit : str
        Unit of evidence of the confirmation: "images", "whole groups", "images within groups", or
        "too few groups" where nothing was tested.
    """

    test: str = "mannwhitneyu"
    correction: str = "fdr_bh"
    alpha: float = 0.05
    min_auroc: float = 0.7
    n_tests: int = 0
    confirm_correction: str = "holm"
    confirm_alpha: float = 0.05
    n_confirm_tests: int = 0
    unit: str = "images"


@dataclass(frozen=True)
class DetectorDetails:
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
    cluster_correlation : float
        Mean correlation at which clusters still merge.
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
    smallest: SmallestSet | None = None
    omnibus: pd.DataFrame | None = None
    cluster_correlation: float = 0.7


@dataclass(frozen=True)
class HeadDetails:
    """What is known of the main head beyond its score.

    Attributes
    ----------
    head : str
    pairs : DataFrame
        From ``heads.compare_heads``: every two heads on the same test images.
    calibration : Calibration
        From ``heads.calibration``.
    learning : DataFrame
        From ``heads.learning_curve``.
    """

    head: str
    pairs: pd.DataFrame
    calibration: Calibration
    learning: pd.DataFrame


@dataclass(frozen=True)
class BoxDetails:
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
class SetOverview:
    """The set at a glance.

    Attributes
    ----------
    overview : Overview
    pictures : mapping of int to ndarray of shape (height, width, 3), uint8, or None
        Row → picture, for the rows of ``overview.embedding.thumbnails``.
    """

    overview: Overview
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
    selection : Selection
        How the detectors of `all_neurons` were selected and confirmed.
    softmax_top_k : DataFrame, optional
        ``layer, class, neuron, share, share_rest, difference``.
    localisation : Localisation, optional
        None where there are no boxes.
    units : DataFrame, optional
        From ``localise.unit_localisation``.
    pointing : DataFrame, optional
        ``layer, class, neuron, n, pointing, pointing_low, pointing_high, picture_centre``.
    boxed_test_images : int
        Test images with a true box; of very many only a sample was scored.
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
    detector_details : DetectorDetails, optional
    audit : Audit, optional
    per_class : DataFrame, optional
        From ``heads.per_class``.
    head_details : HeadDetails, optional
    box_details : BoxDetails, optional
    box_regression : BoxHeadResults, optional
        None where too few images have a box.
    set_overview : SetOverview, optional
    gradients : GradientResults, optional
    transfer : Transfer, optional
    cards : sequence of NeuronCard
    method_examples : MethodExamples, optional
    gallery : Gallery, optional
    answers : mapping of str to str
        The four questions, each with its answer.
    """

    store: MapStore
    split: pd.Series
    heads: HeadResults
    neurons: pd.DataFrame
    selection: Selection = field(default_factory=Selection)
    softmax_top_k: pd.DataFrame | None = None
    localisation: Localisation | None = None
    pointing: pd.DataFrame | None = None
    units: pd.DataFrame | None = None
    boxed_test_images: int = 0
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
    detector_details: DetectorDetails | None = None
    audit: Audit | None = None
    per_class: pd.DataFrame | None = None
    head_details: HeadDetails | None = None
    box_details: BoxDetails | None = None
    box_regression: BoxHeadResults | None = None
    set_overview: SetOverview | None = None
    gradients: GradientResults | None = None
    transfer: Transfer | None = None
    cards: Sequence[NeuronCard] = ()
    method_examples: MethodExamples | None = None
    gallery: Gallery | None = None
    answers: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"<Results of {len(self.store.images)} images, {len(self.store.classes)} classes; "
            "write_report makes a page of them>"
        )

    def _repr_html_(self) -> str:
        """The answers at the top of the page."""
        items = "".join(
            f"<li><strong>{html.text(question)}</strong> {html.text(answer, longest=None)}</li>"
            for question, answer in self.answers.items()
        )
        columns = ["head", "n", "accuracy", "accuracy_low", "accuracy_high"]
        return html.block(
            f"What the network knows of {len(self.store.images):,} images",
            f"<ol>{items}</ol>",
            html.folded("Heads", html.table(self.heads.table[columns])),
            "<p><code>report.write_report(results, path)</code> makes the page; "
            "<code>report.show(path)</code> shows it here.</p>",
        )
