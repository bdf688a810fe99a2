"""Metrics of probabilities, with their 95 % intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featlab.arguments import check_whole, effective_units, has_groups
from featlab.intervals import (
    auroc_score_interval,
    interval_name,
    mean_interval,
)
from featlab.intervals import share_interval as count_interval
from featlab.neurons.rank_statistics import clustered_auroc
from featlab.results.analysis import Calibration, HeadResults
from featlab.system.machine import pieces

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

METRICS = ("accuracy", "balanced_accuracy", "roc_auc", "log_loss")
"""Scores of a head; each but the log-loss with a 95 % interval."""

_TINY = 1e-15  # a probability of 0 would make the log-loss infinite
_SIMULATIONS = 1000


def clusters_of(codes: Ints) -> Ints | None:
    """Codes 0 … k - 1 of some images' groups; None where no group holds two of them."""
    _, clusters = np.unique(codes, return_inverse=True)
    return clusters if has_groups(clusters) else None


def metrics_of(y: Ints, probability: Floats) -> dict[str, float]:
    """Every metric of probabilities (n, k) for class codes (n,); NaN where a class is missing."""
    present = np.unique(y)
    correct = probability.argmax(axis=1) == y
    return {
        "accuracy": float(correct.mean()),
        "balanced_accuracy": float(np.mean([correct[y == code].mean() for code in present])),
        "roc_auc": _mean_auroc(y, probability, None)[0],
        "log_loss": float(losses_of(y, probability).mean()),
    }


def scores_of(
    y: Ints,
    probability: Floats,
    clusters: Ints | None = None,
    *,
    n_boot: int = 1000,
    random_state: int = 0,
) -> dict[str, float]:
    """:func:`metrics_of`, each but the log-loss with its 95 % interval.

    Parameters
    ----------
    y : ndarray of shape (n,)
        Class codes.
    probability : ndarray of shape (n, k)
    clusters : ndarray of shape (n,), optional
        Codes of the groups.
    n_boot, random_state : int
        Random weightings, and their seed.

    Notes
    -----
    One unseen image can move a mean log-loss by any amount: it has no interval.
    """
    correct = probability.argmax(axis=1) == y
    draw = {"n_boot": n_boot, "random_state": random_state}
    intervals = {
        "accuracy": share_interval(correct, clusters, **draw),
        "balanced_accuracy": _balanced_interval(y, correct, clusters, **draw),
        "roc_auc": _mean_auroc(y, probability, clusters)[1:],
    }
    scores: dict[str, float] = {}
    for name, value in metrics_of(y, probability).items():
        scores[name] = value
        if name in intervals:
            scores[f"{name}_low"], scores[f"{name}_high"] = intervals[name]
    return scores


def share_interval(
    hits: NDArray[np.bool_], clusters: Ints | None = None, **draw: Any
) -> tuple[float, float]:
    """95 % interval of the share of hits, over images or over the groups `clusters`.

    Parameters
    ----------
    hits : ndarray of shape (n,)
    clusters : ndarray of shape (n,), optional
        Codes of the groups; need not be consecutive.
    **draw : int
        ``n_boot`` and ``random_state`` of :func:`featlab.intervals.mean_interval`.
    """
    return mean_interval(hits, groups=clusters, **draw)


def perfect_low(metric: str, sizes: Ints) -> float:
    """Lower limit of a perfect score of a share; `sizes` are the images of each class."""
    sizes = sizes[sizes > 0]
    n = sizes.astype(np.float64)
    if metric == "roc_auc":
        return float(auroc_score_interval(np.ones(len(n)), n, n.sum() - n)[0].mean())
    if metric == "accuracy":
        sizes = sizes.sum(keepdims=True)
    short = [1 - count_interval(int(size), int(size))[0] for size in sizes]
    return 1 - float(np.linalg.norm(short)) / len(short)


def _balanced_interval(
    y: Ints, correct: NDArray[np.bool_], clusters: Ints | None, **draw: Any
) -> tuple[float, float]:
    """95 % interval of the mean recall, from those of the classes; NaN where one has none.

    Independent limits add as their squares do; where groups hold several classes, which may then
    be wrong together, the limits themselves add. Many classes of few images are rarely wrong each,
    so the interval also holds that of one share, of as many images (or groups) as say as much.

    References
    ----------
    Zou & Donner (2008). Construction of confidence limits about effect measures: a general
    approach. Statistics in Medicine 27, 1693-1702.
    """
    classes, groups = [], 0
    for code in np.unique(y):
        inside = y == code
        own = np.arange(inside.sum()) if clusters is None else clusters[inside]
        codes = np.unique(own, return_inverse=True)[1]
        groups += int(codes.max()) + 1
        low, high = share_interval(correct[inside], own, **draw)
        recall = correct[inside].mean()
        classes.append([recall, recall - low, high - recall, effective_units(codes)])
    recall, *sides, units = np.array(classes).T
    apart = clusters is None or groups == len(np.unique(clusters))
    below, above = (np.linalg.norm(side) if apart else side.sum() for side in sides)
    mean, k = float(recall.mean()), len(recall)
    n = k**2 / float((1 / units).sum())
    low, high = count_interval(mean * n, n)
    return float(np.minimum(mean - below / k, low)), float(np.maximum(mean + above / k, high))


def _mean_auroc(y: Ints, probability: Floats, clusters: Ints | None) -> tuple[float, float, float]:
    """One-vs-rest AUROC averaged over the classes present, and its 95 % interval.

    The limits are the means of the classes' limits: classes share their images, and may well be
    wrong together.
    """
    n_classes = probability.shape[1]
    columns = [1] if n_classes == 2 else range(n_classes)
    aurocs = []
    for code in columns:
        inside = y == code
        if inside.any() and not inside.all():
            unit = np.arange(len(y)) if clusters is None else clusters
            area = clustered_auroc(probability[:, [code]], inside, unit)
            aurocs.append([area.auroc[0], *(float(limit[0]) for limit in area.limits())])
    if not aurocs:
        return float("nan"), float("nan"), float("nan")
    auroc, low, high = np.mean(aurocs, axis=0)
    return float(auroc), float(low), float(high)


def losses_of(y: Ints, probability: Floats) -> Floats:
    """Log-loss of every image."""
    return -np.log(np.clip(probability[np.arange(len(y)), y], _TINY, 1.0))


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
    Intervals are exact; where test images share groups, whole groups are weighted. F1 counts
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
        recalled, clusters = (called == name)[inside], _clusters_of(results, inside)
        recall_low, recall_high = share_interval(recalled, clusters)
        low, high = share_interval(inside[named], _clusters_of(results, named))
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
                "interval": interval_name(clusters),
            }
        )  # fmt: skip
    return pd.DataFrame(table)


def calibration(
    results: HeadResults, head: str, n_bins: int = 10, *, n_boot: int = 1000, random_state: int = 0
) -> Calibration:
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
    Calibration

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
    check_whole("n_bins", n_bins, 1)
    check_whole("n_boot", n_boot, 1)
    rows = results.of(head)
    sure, right = rows["probability"].to_numpy(float), rows["correct"].to_numpy(bool)
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, n_bins - 1)
    table = []
    for place in np.unique(bins):
        inside = bins == place
        low, high = share_interval(right[inside], _clusters_of(results, inside))
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
    low, high = mean_interval(
        losses,
        groups=results.clusters,
        span=(0.0, 2.0),
        n_boot=n_boot,
        random_state=random_state,
    )
    numbers: dict[str, Any] = {
        "head": head, "n": len(sure), "ece": float(_ece(sure, right[None, :], bins)[0]),
        "ece_chance": float(chance.mean()), "ece_chance_high": float(np.quantile(chance, 0.95)),
        "brier": float(losses.mean()), "brier_low": low, "brier_high": high,
    }  # fmt: skip
    curve.attrs.update(numbers)
    return Calibration(table=curve, **numbers)


def _clusters_of(results: HeadResults, rows: np.ndarray) -> np.ndarray | None:
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
