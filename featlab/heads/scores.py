"""Metrics of probabilities, each with a 95 % interval, from weighted images."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featlab.arguments import check_whole, has_groups
from featlab.intervals import auroc_score_interval, wilson_interval
from featlab.results.heads import Calibration, HeadResults
from featlab.system.machine import pieces

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Counts = NDArray[np.uint8]

METRICS = ("accuracy", "balanced_accuracy", "roc_auc", "log_loss")
"""Scores of a head, each with a 95 % interval."""

_TINY = 1e-15  # a probability of 0 would make the log-loss infinite
_FEW_GROUPS = 5
_SIMULATIONS = 1000
_IN_CACHE = 1_000_000  # weights that are looked at together


def bootstrap_weights(
    n: int, n_boot: int, random_state: int, clusters: Ints | None = None
) -> Counts:
    """How often each image is in each resample; row 0 is the sample itself.

    With `clusters`, codes 0 … k - 1 of shape (n,), whole clusters are drawn.

    Returns
    -------
    ndarray of uint8, shape (n_boot + 1, n)
        Small numbers in bytes: of 300,000 images they are 300 MB. Average with
        :func:`weighted_means`.

    References
    ----------
    Field & Welsh (2007). Bootstrapping clustered data. Journal of the Royal Statistical Society B
    69, 369-390.
    """
    check_whole("n_boot", n_boot, 1)
    rng = np.random.default_rng(random_state)
    units = n if clusters is None else int(clusters.max()) + 1
    weights = np.ones((n_boot + 1, n), dtype=np.uint8)
    for part in pieces(n_boot, units):
        shares = np.full(units, 1 / units)
        drawn = rng.multinomial(units, shares, size=part.stop - part.start)
        if clusters is not None:
            drawn = drawn[:, clusters]
        weights[1 + part.start : 1 + part.stop] = drawn
    return weights


def weighted_means(weights: Counts, values: NDArray[Any]) -> Floats:
    """Means of images' values, ``(n,)`` or ``(n, m)``, for every row of weights."""
    sums = _weighted_sums(weights, values)
    return sums / weights.sum(axis=1).reshape(-1, *[1] * (values.ndim - 1))


def _weighted_sums(weights: Counts, values: NDArray[Any]) -> Floats:
    """``weights @ values``, with few rows of weights in double precision at once."""
    parts = [weights[part].astype(np.float64) @ values for part in pieces(*weights.shape)]
    return np.concatenate(parts)


def clusters_of(codes: Ints) -> Ints | None:
    """Codes 0 … k - 1 of some images' groups; None where no group holds two of them."""
    _, clusters = np.unique(codes, return_inverse=True)
    return clusters if has_groups(clusters) else None


def interval_name(hits: NDArray[np.bool_], clusters: Ints | None) -> str:
    """What :func:`share_interval` is, in words."""
    if clusters is None or not len(hits):
        return "wilson"
    kind = "wilson" if hits.all() or not hits.any() else "cluster bootstrap"
    return f"{kind} ({len(np.unique(clusters))} groups)"


def warn_of_few_groups(clusters: Ints | None) -> None:
    """Tell the log when there are too few groups for their resampling to mean much."""
    if clusters is not None and clusters.max() + 1 < _FEW_GROUPS:
        logger.warning(
            "The test images come from %d groups only: resampling so few is unreliable, and the "
            "intervals are likely too narrow.",
            int(clusters.max()) + 1,
        )


def scores_of(
    y: Ints, probability: Floats, weights: Counts, clusters: Ints | None = None
) -> dict[str, float]:
    """Every metric with its interval; `weights` are :func:`bootstrap_weights`."""
    correct = probability.argmax(axis=1) == y
    low, high = share_interval(correct, clusters, weights)
    scores = {"accuracy": float(correct.mean()), "accuracy_low": low, "accuracy_high": high}
    resampled = {
        "balanced_accuracy": _balanced_accuracy(y, correct, probability.shape[1], weights),
        "roc_auc": _roc_auc(y, probability, weights),
        "log_loss": weighted_means(weights, losses_of(y, probability)),
    }
    for name, values in resampled.items():
        low, high = percentiles(values[1:])
        # Resampling a perfect score can only repeat it; there the interval is a closed form's.
        if name != "log_loss" and values[0] == low == high == 1.0:
            low = perfect_low(name, _class_sizes(y, clusters))
        scores |= {name: float(values[0]), f"{name}_low": low, f"{name}_high": high}
    return scores


def share_interval(
    hits: NDArray[np.bool_],
    clusters: Ints | None = None,
    weights: Counts | None = None,
    *,
    n_boot: int = 1000,
    random_state: int = 0,
) -> tuple[float, float]:
    """95 % interval of the share of hits: Wilson's, or the cluster bootstrap's.

    Few clusters of like shares would give a spuriously narrow bootstrap, so it is widened to
    Wilson's where that reaches further. Where all clustered images hit, or all miss, resampling can
    only repeat that; then it is Wilson's interval of as many images as there are clusters.

    Parameters
    ----------
    hits : ndarray of shape (n,)
    clusters : ndarray of shape (n,), optional
        Codes of the groups; need not be consecutive.
    weights : ndarray of shape (n_boot + 1, n), optional
        :func:`bootstrap_weights`; drawn here if not given.

    Returns
    -------
    low, high : float
        In [0, 1]; NaN without images.
    """
    n = len(hits)
    if clusters is None or not n:
        return wilson_interval(int(hits.sum()), n)
    _, clusters = np.unique(clusters, return_inverse=True)
    k = int(clusters.max()) + 1
    if hits.all() or not hits.any():
        return wilson_interval(k * int(hits[0]), k)
    if weights is None:
        weights = bootstrap_weights(n, n_boot, random_state, clusters)
    means = weighted_means(weights, hits)[1:]
    return hull(percentiles(means), wilson_interval(int(hits.sum()), n))


def hull(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The least interval that holds both."""
    return min(one[0], other[0]), max(one[1], other[1])


def percentiles(values: Floats) -> tuple[float, float]:
    """The 2.5 and the 97.5 % point without NaN; NaN where nothing is left."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def perfect_low(metric: str, sizes: Ints) -> float:
    """Lower limit of a perfect score of a share; `sizes` are the images of each class."""
    if metric == "balanced_accuracy":
        return _perfect_recall_low(sizes)
    if metric == "roc_auc":
        return _perfect_auroc_low(sizes)
    return wilson_interval(int(sizes.sum()), int(sizes.sum()))[0]


def _class_sizes(y: Ints, clusters: Ints | None) -> Ints:
    """Images of each class, or groups where there are any."""
    if clusters is None:
        return np.bincount(y)
    return np.bincount(np.unique(np.column_stack([y, clusters]), axis=0)[:, 0])


def _perfect_recall_low(sizes: Ints) -> float:
    """Lower limit of the mean recall when every image is right, from independent Wilson limits.

    References
    ----------
    Zou & Donner (2008). Construction of confidence limits about effect measures: a general
    approach. Statistics in Medicine 27, 1693-1702.
    """
    short = [1 - wilson_interval(n, n)[0] for n in sizes[sizes > 0]]
    return 1 - float(np.linalg.norm(short)) / len(short)


def _perfect_auroc_low(sizes: Ints) -> float:
    """Lower limit of the macro AUROC when every one is 1: the mean of the classes' limits.

    The classes share their images, so their limits may well fall together.
    """
    n = sizes[sizes > 0].astype(np.float64)
    low, _ = auroc_score_interval(np.ones(len(n)), n, n.sum() - n)
    return float(low.mean())


def _balanced_accuracy(
    y: Ints, correct: NDArray[np.bool_], n_classes: int, weights: Counts
) -> Floats:
    """Mean recall over the classes present, per row of weights."""
    member = (y[:, None] == np.arange(n_classes)).astype(np.float64)
    with np.errstate(invalid="ignore"):
        hits = _weighted_sums(weights, member * correct[:, None])
        recall = hits / _weighted_sums(weights, member)
    return _mean_of_known(recall)


def _roc_auc(y: Ints, probability: Floats, weights: Counts) -> Floats:
    """One-vs-rest AUROC, averaged over the classes present, per row of weights."""
    n_classes = probability.shape[1]
    columns = range(1, 2) if n_classes == 2 else range(n_classes)
    aurocs = [_weighted_auroc(y == code, probability[:, code], weights) for code in columns]
    return _mean_of_known(np.column_stack(aurocs))


def _weighted_auroc(positive: NDArray[np.bool_], score: Floats, weights: Counts) -> Floats:
    """AUROC with image weights, ties counting half; NaN where one side has no weight."""
    order = np.argsort(score)
    ordered, member = score[order], positive[order]
    first = np.searchsorted(ordered, ordered[member], "left")
    last = np.searchsorted(ordered, ordered[member], "right")
    aurocs, step = [], max(1, _IN_CACHE // len(order))
    for start in range(0, len(weights), step):
        mass = weights[start : start + step, order]
        # Weight of the rest below each place: halfway between below its ties and with them.
        below = np.zeros((len(mass), len(order) + 1), dtype=np.int64)
        np.cumsum(mass * ~member, axis=1, out=below[:, 1:])
        own = mass[:, member].astype(np.float64)
        wins = np.einsum("ij,ij->i", own, (below[:, first] + below[:, last]) / 2)
        with np.errstate(invalid="ignore"):
            aurocs.append(wins / (own.sum(axis=1) * below[:, -1]))
    return np.concatenate(aurocs)


def _mean_of_known(values: Floats) -> Floats:
    """Mean of each row without its NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)


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
    numbers: dict[str, Any] = {
        "head": head, "n": len(sure), "ece": float(_ece(sure, right[None, :], bins)[0]),
        "ece_chance": float(chance.mean()), "ece_chance_high": float(np.quantile(chance, 0.95)),
        "brier": float(losses.mean()), "brier_low": low, "brier_high": high,
    }  # fmt: skip
    curve.attrs.update(numbers)
    return Calibration(table=curve, **numbers)


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
