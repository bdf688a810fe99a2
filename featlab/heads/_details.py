"""A closer look at one head: class by class, and whether its probabilities mean what they say."""

from __future__ import annotations

import numpy as np
import pandas as pd

from featlab.heads._inputs import Floats, check_at_least
from featlab.heads._scores import (
    bootstrap_weights,
    interval_name,
    percentiles,
    share_interval,
    weighted_means,
)
from featlab.results.heads import HeadResults
from featlab.system.scratch import pieces

_SIMULATIONS = 1000


def per_class(results: HeadResults, head: str) -> pd.DataFrame:
    """Precision, recall and the commonest confusion of every class.

    Parameters
    ----------
    results : HeadResults
    head : str

    Returns
    -------
    DataFrame, one row per class
        ``class``; ``support`` (test images) and ``predicted`` (images that were called it);
        ``precision`` and ``recall`` with ``_low`` and ``_high`` (95 %), ``f1``, all in [0, 1];
        ``confused_with``, the wrong class that its images are called most often ("" if none; the
        first of equal ones), and ``confused``, how many; ``interval``, what the recall's is.
        Precision is NaN where nothing was called the class, recall where it has no test image,
        f1 where it has neither.

    Raises
    ------
    FeatlabError
        A head that is not in the results.

    Notes
    -----
    Intervals are Wilson's; where test images share groups, whole groups are resampled. F1 counts
    2 TP / (2 TP + FP + FN).
    """
    rows = results.of(head)
    truth, called = rows["label"].to_numpy(), rows["predicted"].to_numpy()
    counts = results.confusion(head)
    table = []
    for name in results.classes:
        inside, named = truth == name, called == name
        hits = int((inside & named).sum())
        support, predicted = int(inside.sum()), int(named.sum())
        confusions = counts.loc[name].drop(name)
        worst = confusions.idxmax() if confusions.sum() else ""
        recalled, clusters = (called == name)[inside], _part(results, inside)
        recall_low, recall_high = share_interval(recalled, clusters)
        low, high = share_interval(inside[named], _part(results, named))
        table.append(
            {
                "class": name, "support": support, "predicted": predicted,
                "precision": hits / predicted if predicted else np.nan,
                "precision_low": low, "precision_high": high,
                "recall": hits / support if support else np.nan,
                "recall_low": recall_low, "recall_high": recall_high,
                "f1": 2 * hits / (support + predicted) if support + predicted else np.nan,
                "confused_with": worst,
                "confused": int(confusions.to_numpy().max(initial=0)),
                "interval": interval_name(recalled, clusters),
            }
        )  # fmt: skip
    return pd.DataFrame(table)


def calibration_table(
    results: HeadResults, head: str, n_bins: int = 10, *, n_boot: int = 1000, random_state: int = 0
) -> pd.DataFrame:
    """How often a head is right when it says that it is p sure: the reliability curve.

    Parameters
    ----------
    results : HeadResults
    head : str
    n_bins : int
        Equally wide bins of the predicted class's probability, at least 1.
    n_boot, random_state : int
        Resamples (and simulations, see Notes) and their seed.

    Returns
    -------
    DataFrame, one row per bin that holds images
        ``bin_low``, ``bin_high`` (low exclusive, high inclusive), ``n``, ``confidence`` (mean
        probability of the predicted class), ``accuracy`` with ``accuracy_low`` and
        ``accuracy_high`` (95 %, Wilson or whole groups resampled). ``attrs`` holds ``head``, ``n``,
        ``ece`` (expected calibration error, 0 to 1), ``ece_chance``, ``ece_chance_high``,
        ``brier`` (0 to 2), ``brier_low`` and ``brier_high`` (95 %, resampled).

    Raises
    ------
    FeatlabError
        A head that is not in the results, or fewer than one bin.

    Notes
    -----
    The ECE is the mean distance of accuracy and confidence over the bins, weighted by n. It is
    above 0 even for perfect probabilities, the more so the fewer the images: ``ece_chance`` is the
    mean and ``ece_chance_high`` the 95 % point of the ECE of simulated test sets (independent
    images) whose right answers come exactly as often as the head says. An ECE below the latter is
    no evidence of miscalibration. The Brier score is the squared distance between all
    probabilities and the truth, summed over the classes.

    References
    ----------
    Guo, Pleiss, Sun & Weinberger (2017). On calibration of modern neural networks. ICML.
    Broecker & Smith (2007). Increasing the reliability of reliability diagrams. Weather and
    Forecasting 22, 651-661. Brier (1950). Monthly Weather Review 78, 1-3.
    """
    check_at_least("n_bins", n_bins, 1)
    rows = results.of(head)
    sure, right = rows["probability"].to_numpy(float), rows["correct"].to_numpy(bool)
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, n_bins - 1)
    table = []
    for place in np.unique(bins):
        inside = bins == place
        low, high = share_interval(right[inside], _part(results, inside))
        table.append(
            {
                "bin_low": edges[place], "bin_high": edges[place + 1], "n": int(inside.sum()),
                "confidence": float(sure[inside].mean()),
                "accuracy": float(right[inside].mean()), "accuracy_low": low, "accuracy_high": high,
            }
        )  # fmt: skip
    curve = pd.DataFrame(table)
    rng = np.random.default_rng(random_state)
    chance = np.concatenate(
        [
            _ece(sure, rng.random((part.stop - part.start, len(sure))) < sure, bins)
            for part in pieces(_SIMULATIONS, len(sure))
        ]
    )
    losses = _brier(results, rows)
    weights = bootstrap_weights(len(sure), n_boot, random_state, results.clusters)
    low, high = percentiles(weighted_means(weights, losses)[1:])
    curve.attrs = {
        "head": head, "n": len(sure), "ece": float(_ece(sure, right[None, :], bins)[0]),
        "ece_chance": float(chance.mean()), "ece_chance_high": float(np.quantile(chance, 0.95)),
        "brier": float(losses.mean()), "brier_low": low, "brier_high": high,
    }  # fmt: skip
    return curve


def _part(results: HeadResults, rows: np.ndarray) -> np.ndarray | None:
    return None if results.clusters is None else results.clusters[rows]


def _ece(sure: Floats, right: np.ndarray, bins: np.ndarray) -> Floats:
    """Expected calibration error of every row of `right`, of shape (m, n)."""
    member = bins[:, None] == np.unique(bins)
    gaps = (right.astype(np.float64) - sure) @ member.astype(np.float64)
    return np.abs(gaps).sum(axis=1) / len(sure)


def _brier(results: HeadResults, rows: pd.DataFrame) -> Floats:
    probability = rows[[f"p:{name}" for name in results.classes]].to_numpy(float)
    truth = rows["label"].to_numpy()[:, None] == np.array(results.classes, dtype=object)
    return ((probability - truth) ** 2).sum(axis=1)
