"""What :func:`evaluate` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from featlab import _html
from featlab import boxes as bx
from featlab.localise.fitting import FittedMethods
from featlab.localise.scoring import (
    CURVE_COLUMNS,
    SCORES,
    SUCCESS_COLUMNS,
    MethodScores,
    curves,
    mean_table,
    success,
)

BASELINES = ("random_neuron", "centre_gaussian", "whole_image", "mean_box")
TABLE_COLUMNS = [
    "method",
    "baseline",
    "supervision",
    "class_asked",
    "box_accuracy_confirm",
    "threshold",
    "n",
    *(f"{score}{end}" for score in SCORES[:3] for end in ("", "_low", "_high")),
    "box_accuracy_oracle",
    "threshold_oracle",
    *(f"{score}{end}" for score in SCORES[3:] for end in ("", "_low", "_high")),
    "seconds_per_1000",
]
IMAGE_COLUMNS = [
    *("method", "row", "label", "iou", *bx.CORNERS, "centre_in_box", "hit"),
    *("iou_any", "top1", "pointing", "heat_in_box"),
]


@dataclass(frozen=True)
class Localisation:
    """Scores of :func:`evaluate`.

    Attributes
    ----------
    table : DataFrame
        One row per method, baselines last: method, baseline, supervision ("network" for methods
        that were given), class_asked ("label" or "predicted"; "as given"; "none" where there is no
        heat map of a class), threshold (NaN where there is none), n (images scored). At that
        threshold, chosen on other images, for the box around the largest region: box_accuracy
        (GT-known Loc: IoU >= 0.5 with the best true box), mean_iou, centre_in_box, top1_loc (NaN
        without predicted classes). Oracles, which choose the threshold *on the scored images*
        (what the literature prints): max_box_acc (also box_accuracy_oracle, at threshold_oracle)
        and max_box_acc_v2 (any region, mean over IoU 0.3, 0.5, 0.7, each with its own threshold);
        box_acc_v2_at_val is the latter with the three thresholds chosen on other images. pointing
        (the peak lies in a true box) and heat_in_box (share of the heat) need no threshold, nor
        has pxap (average precision of the pixels against masks, if given). Scores have _low and
        _high (95 %, bootstrap over images, over whole groups where there are any; oracles choose
        anew in each resample, which shifts their intervals upwards a little).
        seconds_per_1000: the method's heat maps, an equal part of reading the maps, and the match
        with the true boxes at all thresholds; fitting is left out, and for given methods only the
        match counts. ``random_neuron`` is the mean over several draws, its threshold too, and its
        intervals are over images and draws.
        ``attrs`` says how it was made.
    per_image : DataFrame
        One row per method and scored image: method, row (of the image table), label, iou,
        xmin, ymin, xmax, ymax (predicted, pixels of the original), centre_in_box, hit, iou_any
        (of any region, at its own threshold), top1, pointing, heat_in_box. Of ``random_neuron``
        the means over its draws, which have no box in common: the corners are NaN.
    fitted : FittedMethods
        What was learnt on the train rows, for heat maps of other images.
    curves : DataFrame
        method, delta, threshold, accuracy (largest region), accuracy_any (any region), on the
        scored images; of ``random_neuron`` the mean curve of its draws.
    success : DataFrame
        method, delta (0, 0.05, … 1), accuracy (at `threshold`), accuracy_oracle (at the threshold
        best for this delta); largest region.
    draws : DataFrame
        Every score (second level of the columns) of every method (first level) on the same
        resamples of the images; for ``compare_methods``.
    """

    table: pd.DataFrame
    per_image: pd.DataFrame
    fitted: FittedMethods
    curves: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CURVE_COLUMNS))
    success: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=SUCCESS_COLUMNS))
    draws: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __repr__(self) -> str:
        if self.table.empty:
            return "<Localisation without a scored image>"
        n = int(self.table["n"].max())
        return f"<Localisation by {', '.join(self.table['method'])} on {n} test images>"

    def _repr_html_(self) -> str:
        if self.table.empty:
            return _html.block("Localisation: no test image has a box")
        scores = ["box_accuracy", "box_accuracy_low", "box_accuracy_high", "mean_iou"]
        columns = ["method", "supervision", "threshold", *scores, "centre_in_box"]
        return _html.block(
            f"Localisation: {int(self.table['n'].max()):,} test images, boxes at IoU ≥ 0.5",
            _html.table(self.table[columns]),
            _html.folded("How it was made", _html.facts(self.table.attrs.items())),
        )


def localisation(
    table: list[dict[str, Any]],
    images: list[pd.DataFrame],
    attrs: Mapping[str, Any],
    fitted: FittedMethods,
    scores: Mapping[str, Sequence[MethodScores]] | None = None,
    draws: pd.DataFrame | None = None,
) -> Localisation:
    """The result from the rows of its tables; the parameters go into their ``attrs``."""
    methods = pd.DataFrame(table, columns=TABLE_COLUMNS)
    per_image = pd.concat(images, ignore_index=True) if images else pd.DataFrame()
    per_image = per_image.reindex(columns=IMAGE_COLUMNS)
    methods.attrs.update(attrs)
    per_image.attrs.update(attrs)
    if scores is None or draws is None:
        return Localisation(methods, per_image, fitted)
    over = [
        pd.concat([mean_table(part, one).assign(method=name) for name, one in scores.items()])
        .reindex(columns=columns)
        .reset_index(drop=True)
        for part, columns in ((curves, CURVE_COLUMNS), (success, SUCCESS_COLUMNS))
    ]
    return Localisation(methods, per_image, fitted, over[0], over[1], draws)
