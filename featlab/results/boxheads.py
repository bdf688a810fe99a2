"""Boxes by regression on stored maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from featlab.system import html


@dataclass(frozen=True)
class BoxHeadResults:
    """Scores of :func:`featlab.boxheads.evaluate_box_heads`.

    Attributes
    ----------
    table : DataFrame, one row per head, baselines last
        ``head``, ``baseline``, ``n_fit`` (images fitted on), ``n`` (images scored); ``mean_iou``
        (with the best true box of the image), ``box_accuracy`` (IoU >= 0.5), ``box_accuracy_70``
        and ``centre_in_box``, each with ``_low`` and ``_high`` (95 %); ``interval`` (what was
        resampled), ``parameters`` (what was tuned, in words), ``seconds`` (fitting and predicting,
        without reading the maps).
    per_image : DataFrame, one row per head and scored image
        ``head``, ``row`` (of the image table), ``label``, ``iou``, ``xmin, ymin, xmax, ymax``
        (predicted, pixels of the original), ``centre_in_box``, ``hit`` (IoU >= 0.5).
    facts : dict
        How it was made: ``fitted_on``, ``n_folds`` (0 where nothing could be tuned), ``box_kind``,
        ``target``, ``policy``, ``layer``, ``map_shape``, ``random_state``, ``n_boot``. The tables'
        ``attrs`` repeat it.
    """

    table: pd.DataFrame
    per_image: pd.DataFrame
    facts: dict[str, Any]

    def __repr__(self) -> str:
        n = int(self.table["n"].max())
        return f"<BoxHeadResults of {', '.join(self.table['head'])} on {n} test images>"

    def _repr_html_(self) -> str:
        scores = ["mean_iou", "mean_iou_low", "mean_iou_high", "box_accuracy", "centre_in_box"]
        return html.block(
            f"BoxHeadResults: {int(self.table['n'].max()):,} test images",
            html.table(self.table[["head", "n_fit", *scores, "seconds"]]),
            html.folded("Parameters", html.table(self.table[["head", "parameters"]])),
            html.folded("How it was made", html.facts(self.facts.items())),
        )


@dataclass(frozen=True)
class JointHeadResults:
    """What a joint class + box head reached on test images; it holds no model.

    Attributes
    ----------
    accuracy, accuracy_low, accuracy_high : float
        Share of test images with the right class; 95 % (Wilson).
    mean_iou, mean_iou_low, mean_iou_high : float
        Of predicted and true box, in the frame of the network's input; 95 % (bootstrap).
    n_train, n : int
        Images trained on (train and confirm), and scored.
    seconds_per_epoch : float
        Mean over the epochs, the first (which compiles) left out where there are more.
    history : DataFrame, one row per epoch
        ``epoch, seconds, loss, label_loss, box_loss``.
    predictions : DataFrame, one row per test image
        ``row, label, predicted, correct, iou, xmin, ymin, xmax, ymax`` (unit coordinates of the
        input, in order and inside it), ``raw_xmin`` … ``raw_ymax`` (as the network gave them).
    parameters : dict
        What it was trained with.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    mean_iou: float
    mean_iou_low: float
    mean_iou_high: float
    n_train: int
    n: int
    seconds_per_epoch: float
    history: pd.DataFrame
    predictions: pd.DataFrame
    parameters: dict[str, Any]
