"""Who is in the picture: scores, predictions and models of heads."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from featlab.arguments import check_choice
from featlab.system import html

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
    models: Mapping[str, Pipeline]
    classes: list[str]
    clusters: NDArray[np.intp] | None = None

    def __repr__(self) -> str:
        n = int(self.table["n"].max())
        return f"<HeadResults of {', '.join(self.models)} on {n} test images>"

    def _repr_html_(self) -> str:
        scores = ["accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "roc_auc"]
        columns = ["head", "n_train", "n", *scores, "log_loss"]
        return html.block(
            f"HeadResults: {len(self.models)} heads, {len(self.classes)} classes",
            html.table(self.table[columns]),
            html.folded("Parameters", html.table(self.table[["head", "parameters"]])),
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
        self._check(head)
        return self.predictions[self.predictions["head"] == head]

    def _check(self, head: str) -> None:
        check_choice("head", head, self.models)


@dataclass(frozen=True)
class SmallestSet:
    """The fewest neurons that do as well as the best number of them.

    Attributes
    ----------
    neurons : list
        Their ids, in the order given.
    curve : DataFrame, one row per number of neurons
        ``k``, ``accuracy`` (mean over folds of train) and its standard error ``se``, the ``C`` of
        the least log-loss, and ``chosen``.
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
        parts overlap. Limits of shares are cut at 0 and 1; where every score is perfect, the
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
