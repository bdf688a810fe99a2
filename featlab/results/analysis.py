"""The whole of an analysis; who is in the picture: scores, predictions and models of heads."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featlab.arguments import check_choice, is_unlabelled
from featlab.results.images import Audit, Clusters, Overview, OwnClasses, SetMaps
from featlab.results.localisation import BoxHeadResults, Localisation
from featlab.results.networks import GradientResults, Transfer
from featlab.results.pictures import (
    Examples,
    Gallery,
    MethodExamples,
    NeuronCard,
    Portraits,
    Predictions,
    Samples,
)
from featlab.store import MapStore
from featlab.system.files import html_block, html_folded, html_table, html_text

BASELINE_HEADS = ("dummy", "colour_histogram")


@dataclass(frozen=True)
class HeadResults:
    """Scores, predictions and models of every head.

    Attributes
    ----------
    table : DataFrame, one row per head
        ``head``, ``n_train`` (images fitted on), ``n`` (test images), each metric, and but for
        the log-loss its ``_low`` and ``_high`` (95 %), ``interval`` (what they are over: "over
        images", "over k groups", or why there is none), and the ``parameters`` used, in words.
    predictions : DataFrame, one row per head and test image
        ``head``, ``row`` (of the image table), ``label``, ``predicted``, ``correct``,
        ``probability`` (of the predicted class) and one column ``p:<class>`` per class.
    models : mapping of str to Pipeline
        The fitted heads; steps ``scale`` and ``model``.
    classes : list of str
        Sorted; the order of the probabilities.
    clusters : ndarray of shape (n,), optional
        Group of every test image, codes from 0; None where no two test images share one.
    """

    table: pd.DataFrame
    predictions: pd.DataFrame
    models: Mapping[str, Any]
    classes: list[str]
    clusters: NDArray[np.intp] | None = None

    def __repr__(self) -> str:
        n = int(self.table["n"].max()) if self.models else 0
        return f"<HeadResults of {', '.join(self.models) or 'no head'} on {n} test images>"

    def _repr_html_(self) -> str:
        scores = ["accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "roc_auc"]
        columns = ["head", "n_train", "n", *scores, "log_loss", "parameters"]
        table = self.table.reindex(columns=columns)
        return html_block(
            f"HeadResults: {len(self.models)} heads, {len(self.classes)} classes",
            html_table(table.drop(columns="parameters")),
            html_folded("Parameters", html_table(table[["head", "parameters"]])),
        )

    @property
    def main(self) -> str:
        """The head whose verdicts a page shows: the logistic one where it was fitted."""
        fitted = [str(head) for head in self.table["head"] if head not in BASELINE_HEADS]
        return "logistic" if "logistic" in fitted or not fitted else fitted[0]

    def confusion(self, head: str) -> pd.DataFrame:
        """Counts of test images, true class (rows) by predicted class (columns)."""
        rows = self.of(head)
        counts = pd.crosstab(rows["label"], rows["predicted"])
        counts = counts.reindex(index=self.classes, columns=self.classes, fill_value=0)
        return counts.rename_axis(index="label", columns="predicted")

    def of(self, head: str) -> pd.DataFrame:
        """One head's predictions, one row per test image."""
        check_choice("head", head, self.models)
        return self.predictions[self.predictions["head"] == head]


@dataclass(frozen=True)
class SmallestSet:
    """The fewest neurons that do as well as the best number of them.

    Attributes
    ----------
    neurons : list
        Their ids, in the order given.
    curve : DataFrame, one row per number of neurons
        ``k``, ``accuracy`` (mean over folds of train) and its standard error ``se``, the ``C`` of
        the least log-loss, and ``smallest`` (bool): the number that was taken.
    accuracy, accuracy_low, accuracy_high : float
        On the test rows, with these neurons; 95 %.
    accuracy_all : float
        On the test rows, with all neurons of the order.
    n : int
        Test images.
    """

    neurons: list[Hashable]
    curve: pd.DataFrame
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    accuracy_all: float
    n: int


@dataclass(frozen=True)
class CrossValidation:
    """Scores and out-of-fold predictions of every head.

    Attributes
    ----------
    table : DataFrame, one row per head, repeat and fold
        ``head``, ``repeat``, ``fold`` (both from 0), ``n_train``, ``n`` (held-out images),
        ``accuracy``, ``balanced_accuracy``, ``roc_auc``, ``log_loss`` and the ``parameters``
        tuned in that fold, in words.
    summary : DataFrame, one row per head
        ``head``, ``n_scores`` (repeats x folds), and the mean of each metric with ``_sd`` over them
        and ``_low``, ``_high``: 95 % by t with the variance of Nadeau & Bengio, as the training
        sets overlap. Limits of shares are cut at 0 and 1; where every score is perfect, the
        lower limit is that of one perfect score of all images (``evaluate_heads``).
    predictions : DataFrame, one row per head, repeat and image
        ``head``, ``repeat``, ``fold``, ``row``, ``label``, ``predicted``, ``correct``,
        ``probability`` (of the predicted class) and one column ``p:<class>`` per class.
    classes : list of str
        Sorted; the order of the probabilities.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    predictions: pd.DataFrame
    classes: list[str]


@dataclass(frozen=True)
class BackboneComparison:
    """Heads on several networks' features of the same images.

    Attributes
    ----------
    table : DataFrame, one row per backbone and head
        ``backbone``, ``c`` (neurons), then the columns of ``HeadResults.table``. The baselines,
        ``dummy`` and ``colour_histogram``, see no network and are there once, as backbone "".
    pairs : DataFrame, one row per head and pair of backbones
        ``head``, ``a``, ``b``, the columns of ``compare_heads``, and ``p_adjusted``: Holm over
        all rows.
    results : mapping of str to HeadResults
        By backbone.
    """

    table: pd.DataFrame
    pairs: pd.DataFrame
    results: Mapping[str, HeadResults]


@dataclass(frozen=True)
class Calibration:
    """How often a head is right when it says that it is p sure.

    Attributes
    ----------
    table : DataFrame, one row per bin that holds images
        ``bin_low``, ``bin_high`` (low exclusive, high inclusive), ``n``, ``confidence`` (mean
        probability of the predicted class), ``accuracy`` with ``accuracy_low`` and
        ``accuracy_high`` (95 %). ``attrs`` repeats the numbers
        below for who reads the table alone.
    head : str
    n : int
        Test images.
    ece, ece_chance, ece_chance_high : float
        Expected calibration error, 0 to 1; its mean and 95 % point for a head that is as often
        right as it says.
    brier, brier_low, brier_high : float
        Brier score, 0 to 2; 95 %.
    """

    table: pd.DataFrame
    head: str
    n: int
    ece: float
    ece_chance: float
    ece_chance_high: float
    brier: float
    brier_low: float
    brier_high: float


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
        ``layer, pooling, neurons, selected, confirmed, median_confirmed, n, accuracy,
        accuracy_low, accuracy_high``, a row per layer and pooling.
    confirmation : DataFrame
        From ``neurons.confirmation``.
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
    confirmation: pd.DataFrame
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
    """The boxes themselves, what regression makes of them, and how many it takes.

    Attributes
    ----------
    statistics : DataFrame
        From ``boxheads.box_statistics``.
    heads : DataFrame or None
        ``BoxHeadResults.table``; None where too few images have a box.
    pairs : DataFrame
        From ``localise.compare_methods``, of the box accuracy.
    curve : DataFrame, optional
        From ``pipeline.sets.box_curve``; without rows where too few train images have a box.
    """

    statistics: pd.DataFrame
    heads: pd.DataFrame | None
    pairs: pd.DataFrame
    curve: pd.DataFrame | None = None


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
        The side of every row of the image table.
    heads : HeadResults
    neurons : DataFrame
        Neuron table, with the columns of the confirmation.
    selection : Selection
        How the detectors of `all_neurons` were selected and confirmed.
    softmax_top_k : DataFrame, optional
        ``layer, class, neuron, share, share_rest, difference``.
    localisation, box_regression : Localisation and BoxHeadResults, optional
        None where there are no boxes, or, for the latter, too few images with one.
    units, pointing, per_class : DataFrame, optional
        From ``localise.unit_localisation``, ``localise.detectors.neuron_pointing`` and
        ``heads.per_class``.
    boxed_test_images : int
        Test images with a true box; of very many only a sample was scored.
    seconds : mapping of str to float
        Stage → wall-clock seconds.
    box_kind, copies : str
        Kind of the boxes that were scored; "together" (copies are one group) or "split".
    command, random_state, backbone_description : the call, its seed, the network
    detector_examples, localisation_examples, failures, regression_failures, showcase : Examples
        The second from the best to the worst IoU, those after it (of a heat map, of box regression)
        the other way round; the last, of every class and one gone wrong, for the top of the page.
    all_neurons : DataFrame, optional
        The neuron table of every layer and pooling; `neurons` are its main rows.
    detector_details, head_details, box_details, audit, set_overview, samples : optional
        Of the classes of these names, as are gradients, transfer, gallery, portraits, ...
    cards : sequence of NeuronCard
    own, own_examples : OwnClasses and Examples, of networks with a classifier of their own
    predictions : Predictions, optional
        Of the test images, by the predictor that was made of these results.
    clusters, set_maps : of a set without labels, optional
    left_out : mapping of str to str
        What was not made → why.
    answers : mapping of str to str
        Four questions, each with its answer.
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
    copies: str = "together"
    command: str = ""
    random_state: int = 0
    backbone_description: str = ""
    samples: Samples | None = None
    detector_examples: Examples | None = None
    localisation_examples: Examples | None = None
    failures: Examples | None = None
    regression_failures: Examples | None = None
    showcase: Examples | None = None
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
    portraits: Portraits | None = None
    own: OwnClasses | None = None
    own_examples: Examples | None = None
    predictions: Predictions | None = None
    clusters: Clusters | None = None
    set_maps: SetMaps | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)

    @property
    def unlabelled(self) -> bool:
        """Whether no image has a label."""
        return is_unlabelled(self.store.images["label"])

    @property
    def every_neuron(self) -> pd.DataFrame:
        """The neuron table of every layer and pooling: the family that was corrected."""
        return self.neurons if self.all_neurons is None else self.all_neurons

    def __repr__(self) -> str:
        of = f"{len(self.store.images)} images, {len(self.store.classes)} classes"
        return f"<Results of {of}; write_report makes a page of them>"

    def _repr_html_(self) -> str:
        """The answers at the top of the page."""
        items = "".join(
            f"<li><strong>{html_text(question)}</strong> {html_text(answer, longest=None)}</li>"
            for question, answer in self.answers.items()
        )
        scores = ["head", "n", "accuracy", "accuracy_low", "accuracy_high"]
        heads = self.heads.table.reindex(columns=scores)
        return html_block(
            f"What the network knows of {len(self.store.images):,} images",
            f"<ol>{items}</ol>",
            html_folded("Heads", html_table(heads)) if len(heads) else "",
            "<p><code>report.write_report(results, path)</code> makes the page; "
            "<code>report.show(path)</code> shows it here.</p>",
        )
