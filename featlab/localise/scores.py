"""From the matches of boxes and heat maps to the scores of methods, resampled and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from featlab.arguments import check_choice, check_choices
from featlab.boxes.geometry import CORNERS
from featlab.boxes.scores import DELTAS, mean_score, pxap, success_curve
from featlab.intervals import bootstrap_draws, draws_interval
from featlab.localise.regions import (
    FIXED_THRESHOLD,
    HeatScores,
    choose_threshold,
    stable_threshold,
    thresholds_of,
)
from featlab.results.localisation import CURVES, SUCCESS, Localisation

# Each is a column of the table, with _low and _high.
SCORES = (
    "box_accuracy",
    "mean_iou",
    "centre_in_box",
    "max_box_acc",
    "max_box_acc_v2",
    "box_acc_v2_at_val",
    "top1_loc",
    "pointing",
    "heat_in_box",
    "pxap",
)
"""Scores of a method; each is a column of the table, with ``_low`` and ``_high``."""
SUCCESS_DELTAS = np.arange(21) / 20
COMPARISON_COLUMNS = [
    *("score", "method", "against", "n", "value", "value_against"),
    *("difference", "difference_low", "difference_high"),
]


@dataclass(frozen=True)
class MethodScores:
    """One method on the scored images, its thresholds chosen.

    Attributes
    ----------
    match : HeatScores
        Of the scored images only, the boxes at `threshold` only, ``(n, 1, 4)``.
    per_image : ndarray of shape (n, 6)
        Per image: hit, IoU, centre in box, Top-1 hit, pointing, heat in box.
    threshold, threshold_oracle : float
        Of the largest region at IoU 0.5, chosen on the tuning and on the scored images; NaN for
        methods without threshold.
    column : int
        Of `threshold`.
    columns_v2 : list of int
        For each of ``boxes.scores.DELTAS`` the column of the threshold chosen for all regions.
    tuned : float
        Box accuracy on the images that the threshold was chosen on; NaN without such images.
    """

    match: HeatScores
    per_image: np.ndarray
    threshold: float
    threshold_oracle: float
    column: int
    columns_v2: list[int]
    tuned: float

    def _columns(self, order: np.ndarray) -> np.ndarray:
        """All that is averaged over images, side by side: one matrix product for a resample."""
        parts = [self.per_image[order], self.match.iou[order] >= 0.5]
        any_region = self.match.iou_any[order]
        parts += [any_region >= delta for delta in DELTAS]
        return np.concatenate(parts, axis=1, dtype=float)

    def resampled(self, weights: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
        """:data:`SCORES` for weights ``(n,)`` or ``(b, n)``; oracles choose anew each time.

        The weights are those of the images in the given order.
        """
        order = np.arange(len(self.per_image)) if order is None else order
        means = mean_score(self._columns(order), weights)
        hit, iou, centre, top1, pointing, heat = np.moveaxis(means[..., :6], -1, 0)
        # As boxes.max_box_acc, max_box_acc_v2 and box_acc_at.
        per_delta = means[..., 6:].reshape(*means.shape[:-1], 1 + len(DELTAS), -1)
        best = per_delta.max(axis=-1)
        fixed = per_delta[..., 1 + np.arange(len(DELTAS)), self.columns_v2]
        pixels = np.full(best.shape[:-1], np.nan)
        if self.match.histograms.any():
            pixels = pxap(self.match.histograms[order], weights)
        oracle, oracle_v2 = best[..., 0], best[..., 1:].mean(axis=-1)
        scores = [hit, iou, centre, oracle, oracle_v2, fixed.mean(axis=-1)]
        return np.stack([*scores, top1, pointing, heat, pixels], axis=-1)


def score_method(
    match: HeatScores,
    *,
    scored: np.ndarray,
    tuning: np.ndarray,
    centre_in_box: Callable[[np.ndarray], np.ndarray],
    right_class: np.ndarray | None = None,
) -> MethodScores:
    """Choose the thresholds on some images and score the others.

    Parameters
    ----------
    match : HeatScores
    scored, tuning : ndarray of int
        Places in `match`.
    centre_in_box : callable
        Of the boxes ``(n, 4)`` of the scored images.
    right_class : ndarray of shape (n,), bool, optional
        Whether a head gives the scored images their class; without it Top-1 Loc is NaN.

    Returns
    -------
    MethodScores
    """
    n_thresholds = match.iou.shape[1]
    column, columns_v2 = 0, [0] * len(DELTAS)
    threshold = oracle = float("nan")
    own = HeatScores(**{name: values[scored] for name, values in vars(match).items()})
    if n_thresholds > 1:
        column = _column_of(match.iou[tuning], 0.5)
        columns_v2 = [_column_of(match.iou_any[tuning], delta) for delta in DELTAS]
        threshold = float(thresholds_of(n_thresholds)[column])
        oracle = choose_threshold(own.iou, thresholds_of(n_thresholds))
    own = replace(own, boxes=own.boxes[:, [column]])
    iou, boxes = own.iou[:, column], own.boxes[:, 0]
    hit = (iou >= 0.5).astype(float)
    top1 = np.full(len(iou), np.nan) if right_class is None else hit * right_class
    values = [hit, iou, centre_in_box(boxes), top1, own.pointing, own.heat_in_box]
    tuned = float((match.iou[tuning, column] >= 0.5).mean()) if len(tuning) else float("nan")
    return MethodScores(own, np.stack(values, axis=1), threshold, oracle, column, columns_v2, tuned)


def score_draws(
    methods: Mapping[str, Sequence[MethodScores]],
    *,
    order: np.ndarray,
    groups: np.ndarray | None = None,
    n_boot: int = 1000,
    random_state: int = 0,
) -> pd.DataFrame:
    """Every score of every method under the same random weights of the images.

    Parameters
    ----------
    methods : mapping of str to sequence of MethodScores
        All of the same `n` images. Of a method with several draws the scores are averaged.
    order : ndarray of shape (n,)
        The order in which images are weighted; it makes the result independent of the rows'.
    groups : ndarray of str of shape (n,), optional
        Images of one group are weighted alike.
    n_boot, random_state
        As for :func:`featlab.intervals.bootstrap_draws`.

    Returns
    -------
    DataFrame of shape (n_boot, methods x scores)
        Columns (method, score).
    """

    def statistic(weights: np.ndarray) -> np.ndarray:
        parts = [
            np.mean([one.resampled(weights, order) for one in several], axis=0)
            for several in methods.values()
        ]
        return np.concatenate(parts, axis=1)

    draws = bootstrap_draws(
        statistic,
        len(order),
        groups=None if groups is None else groups[order],
        n_boot=n_boot,
        random_state=random_state,
    )
    columns = pd.MultiIndex.from_product([methods, SCORES], names=["method", "score"])
    return pd.DataFrame(draws, columns=columns)


def score_columns(
    scores: Sequence[MethodScores], resampled: pd.DataFrame, n_units: float
) -> dict[str, float | int]:
    """One method's columns of the table: means over its draws, intervals from the resamples."""
    n = len(scores[0].per_image)
    point = np.mean([one.resampled(np.ones(n)) for one in scores], axis=0)
    columns: dict[str, float | int] = {
        "box_accuracy_confirm": float(np.mean([one.tuned for one in scores])),
        "threshold": float(np.mean([one.threshold for one in scores])),
        "n": n,
        "box_accuracy_oracle": float(point[SCORES.index("max_box_acc")]),
        "threshold_oracle": float(np.mean([one.threshold_oracle for one in scores])),
    }
    for name, value in zip(SCORES, point, strict=True):
        low, high = draws_interval(resampled[name].to_numpy(), n_units)
        columns |= {name: float(value), f"{name}_low": low, f"{name}_high": high}
    return columns


def curve_tables(
    methods: Mapping[str, Sequence[MethodScores]],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curves over thresholds and over the IoU asked for, of all methods; draws are averaged."""
    both = []
    for part, columns in ((_curves, CURVES), (_success, SUCCESS)):
        tables = [_mean_table(part, scores).assign(method=name) for name, scores in methods.items()]
        both.append(pd.concat(tables).reindex(columns=list(columns)).reset_index(drop=True))
    return both[0], both[1]


def compare_methods(
    localisation: Localisation,
    *,
    against: str | None = None,
    scores: str | Iterable[str] = SCORES,
) -> pd.DataFrame:
    """Paired differences between methods: both with the same weights of the images in every draw.

    Parameters
    ----------
    localisation : Localisation
    against : str, optional
        The method the others are compared with; by default, for each score, the baseline that is
        best at it.
    scores : str or sequence of str
        From ``SCORES``.

    Returns
    -------
    DataFrame
        One row per score and method: score, method, against, n, value, value_against, difference,
        difference_low, difference_high (95 %, for each comparison by itself). Scores that are NaN
        (Top-1 Loc without predicted classes) are left out.

    Raises
    ------
    FeatlabError
        `against` or a score is unknown.
    """
    table = localisation.table.set_index("method")
    if against is not None:
        check_choice("against", against, table.index)
    rows = []
    for score in check_choices("scores", scores, SCORES):
        values = table[score].dropna().astype(float)
        rivals = values[table.loc[values.index, "baseline"].astype(bool)]
        rival = str(rivals.idxmax()) if against is None and len(rivals) else str(against)
        if rival not in values:
            continue
        for method in values.index.drop([rival]):
            low, high = draws_interval(
                localisation.draws[method, score].to_numpy()
                - localisation.draws[rival, score].to_numpy(),
                localisation.parameters["n_effective"],
                span=(-1.0, 1.0),
            )
            rows.append(
                {
                    "score": score,
                    "method": method,
                    "against": rival,
                    "n": int(table.loc[method, "n"]),
                    "value": values[method],
                    "value_against": values[rival],
                    "difference": values[method] - values[rival],
                    "difference_low": low,
                    "difference_high": high,
                }
            )
    return pd.DataFrame(rows, columns=COMPARISON_COLUMNS)


def _mean_table(
    part: Callable[[MethodScores], pd.DataFrame], scores: Sequence[MethodScores]
) -> pd.DataFrame:
    """:func:`_curves` or :func:`_success`, averaged over a method's draws."""
    tables = [part(one) for one in scores]
    mean = np.mean([table.to_numpy(float) for table in tables], axis=0)
    return pd.DataFrame(mean, columns=tables[0].columns)


def _curves(scores: MethodScores) -> pd.DataFrame:
    """Accuracy over thresholds, of the largest and of any region, for each of ``DELTAS``."""
    n_thresholds = scores.match.iou.shape[1]
    parts = [
        pd.DataFrame(
            {
                "delta": delta,
                "threshold": thresholds_of(n_thresholds) if n_thresholds > 1 else [float("nan")],
                "accuracy": success_curve(scores.match.iou, [delta])[0],
                "accuracy_any": success_curve(scores.match.iou_any, [delta])[0],
            }
        )
        for delta in DELTAS
    ]
    return pd.concat(parts, ignore_index=True)


def _success(scores: MethodScores) -> pd.DataFrame:
    """Accuracy over the IoU asked for, at the chosen threshold and at the best for each."""
    all_thresholds = success_curve(scores.match.iou, SUCCESS_DELTAS)
    return pd.DataFrame(
        {
            "delta": SUCCESS_DELTAS,
            "accuracy": all_thresholds[:, scores.column],
            "accuracy_oracle": all_thresholds.max(axis=1),
        }
    )


def per_image(scores: Sequence[MethodScores]) -> pd.DataFrame:
    """What each image got; means over the draws, where there are several, and then no box."""
    columns = ["hit", "iou", "centre_in_box", "top1", "pointing", "heat_in_box"]
    table = pd.DataFrame(np.mean([one.per_image for one in scores], axis=0), columns=columns)
    half = DELTAS.index(0.5)
    table["iou_any"] = np.mean([s.match.iou_any[:, s.columns_v2[half]] for s in scores], axis=0)
    table[CORNERS] = np.nan
    if len(scores) == 1:
        table[CORNERS] = scores[0].match.boxes[:, 0]
    return table


def _column_of(ious: np.ndarray, delta: float) -> int:
    thresholds = thresholds_of(ious.shape[1])
    threshold = stable_threshold(ious, thresholds, delta) if len(ious) else FIXED_THRESHOLD
    return int(np.searchsorted(thresholds, threshold))
