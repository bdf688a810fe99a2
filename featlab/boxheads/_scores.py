"""Scores of predicted boxes, each with a 95 % interval over images or whole groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from featlab import boxes as bx
from featlab.heads._inputs import clusters_of, group_codes
from featlab.intervals import bootstrap_interval

SCORES = ("mean_iou", "box_accuracy", "box_accuracy_70", "centre_in_box")


class Scorer:
    """Scores boxes of the same images again and again, with the same resamples."""

    def __init__(
        self,
        rows: np.ndarray,
        truth: pd.DataFrame,
        *,
        groups: np.ndarray | None,
        n_boot: int,
        random_state: int,
    ) -> None:
        self.rows, self.truth = rows, truth
        clusters = clusters_of(group_codes(groups, len(rows))[0])
        self._groups = None if clusters is None else groups
        self._draw = {"n_boot": n_boot, "random_state": random_state}
        self.interval = "bootstrap"
        if clusters is not None:
            self.interval += f" of {int(clusters.max()) + 1} groups"

    def score(self, predicted: np.ndarray) -> tuple[dict[str, Any], pd.DataFrame]:
        """Scores with intervals, and the same image by image.

        Parameters
        ----------
        predicted : ndarray of shape (n, 4)
            Pixels of the original pictures.
        """
        iou = bx.best_iou(predicted, self.rows, self.truth)
        centre = bx.centre_in_box(predicted, self.rows, self.truth)
        values = {
            "mean_iou": iou,
            "box_accuracy": (iou >= 0.5).astype(float),
            "box_accuracy_70": (iou >= 0.7).astype(float),
            "centre_in_box": centre,
        }
        scores: dict[str, Any] = {"n": len(iou)}
        for name, one in values.items():
            low, high = bootstrap_interval(one, groups=self._groups, **self._draw)
            scores |= {name: float(one.mean()), f"{name}_low": low, f"{name}_high": high}
        per_image = pd.DataFrame(predicted, columns=bx.CORNERS).assign(
            row=self.rows, iou=iou, centre_in_box=centre.astype(bool), hit=iou >= 0.5
        )
        return scores, per_image
