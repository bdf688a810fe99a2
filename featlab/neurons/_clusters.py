"""Comparing a class with the rest where images of one group are not independent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit
from scipy.stats import rankdata

from featlab.intervals import auroc_score_interval
from featlab.neurons._rank_statistics import Floats

WHOLE, WITHIN = "whole groups", "images within groups"


def units_of(names: NDArray[np.str_]) -> NDArray[np.intp]:
    """A number per independent unit: a group, or an image without one."""
    unit = np.unique(names, return_inverse=True)[1]
    free = names == ""
    unit[free] = unit.max(initial=0) + 1 + np.arange(free.sum())
    return np.unique(unit, return_inverse=True)[1]


def scheme_of(codes: NDArray[np.intp], names: NDArray[np.str_]) -> str:
    """What may be exchanged: whole groups where each has one class, else images within groups."""
    unit = units_of(names)
    first = np.unique(unit, return_index=True)[1]
    return WHOLE if (codes[first][unit] == codes).all() else WITHIN


def rows_of_groups(names: NDArray[np.str_]) -> list[NDArray[np.intp]]:
    """The rows of every group, groups in the order of their names."""
    order = np.argsort(names, kind="stable")
    _, first = np.unique(names[order], return_index=True)
    return np.split(order, first[1:])


def clustered_auroc(
    values: NDArray, inside: NDArray[np.bool_], unit: NDArray[np.intp]
) -> tuple[Floats, Floats, Floats]:
    """AUROC of every column and its 95 % interval when images come in clusters.

    Parameters
    ----------
    values : ndarray of shape (n, c)
    inside : ndarray of shape (n,)
        Whether an image is of the class.
    unit : ndarray of shape (n,)
        Cluster number of every image.

    Returns
    -------
    auroc, low, high : ndarrays of shape (c,)
        The limits are Student's, with the clusters of both sides less two as degrees of freedom: a
        variance from a few clusters is itself uncertain. Where the class or the rest
        lies in one cluster, or nothing varies, the interval is the score interval of as many
        images as there are clusters.

    References
    ----------
    Obuchowski (1997). Nonparametric analysis of clustered ROC curve data. Biometrics 53, 567-578.
    """
    n, n_ref = int(inside.sum()), int((~inside).sum())
    below = rankdata(values, axis=0)
    won = (below[inside] - rankdata(values[inside], axis=0)) / n_ref
    lost = 1 - (below[~inside] - rankdata(values[~inside], axis=0)) / n
    auroc = won.mean(axis=0)
    k = int(unit.max()) + 1
    class_sums, rest_sums = np.zeros((k, values.shape[1])), np.zeros((k, values.shape[1]))
    np.add.at(class_sums, unit[inside], won - auroc)
    np.add.at(rest_sums, unit[~inside], lost - auroc)
    in_class, in_rest = len(np.unique(unit[inside])), len(np.unique(unit[~inside]))
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (
            np.float64(in_class) / (in_class - 1) * (class_sums**2).sum(axis=0) / n**2
            + np.float64(in_rest) / (in_rest - 1) * (rest_sums**2).sum(axis=0) / n_ref**2
            + 2 * np.float64(k) / (k - 1) * (class_sums * rest_sums).sum(axis=0) / (n * n_ref)
        )
        margin = stdtrit(max(in_class + in_rest - 2, 1), 0.975) * np.sqrt(variance)
    low, high = np.clip(auroc - margin, 0, 1), np.clip(auroc + margin, 0, 1)
    bare = ~(np.isfinite(variance) & (variance > 0))
    low[bare], high[bare] = auroc_score_interval(
        auroc[bare], np.full(bare.sum(), float(in_class)), np.full(bare.sum(), float(in_rest))
    )
    return auroc, low, high


def clustered_p(
    values: NDArray, inside: NDArray[np.bool_], names: NDArray[np.str_], scheme: str
) -> Floats:
    """One-sided p (larger in the class) of every column, with the group as the unit.

    Whole groups: Student's t on the groups' mean ranks, the group being one observation. Images
    within groups: van Elteren's stratified Wilcoxon test, the group being the stratum.

    Parameters
    ----------
    values : ndarray of shape (n, c)
    inside : ndarray of shape (n,)
    names : ndarray of shape (n,)
        Groups; "" is an image by itself (whole groups) or one common stratum (within).
    scheme : str
        `WHOLE` or `WITHIN`.

    Returns
    -------
    ndarray of shape (c,)
        1 where nothing can be said: a constant column, too few groups.

    References
    ----------
    van Elteren (1960). On the combination of independent two-sample tests of Wilcoxon. Bulletin of
    the International Statistical Institute 37, 351-361.
    """
    p = _means_p(values, inside, names) if scheme == WHOLE else _strata_p(values, inside, names)
    return np.nan_to_num(p, nan=1.0)


def _means_p(values: NDArray, inside: NDArray[np.bool_], names: NDArray[np.str_]) -> Floats:
    unit = units_of(names)
    size = np.bincount(unit)[:, None]
    sums = np.zeros((len(size), values.shape[1]))
    np.add.at(sums, unit, rankdata(values, axis=0))
    means = sums / size
    member = inside[np.unique(unit, return_index=True)[1]]
    a, b = means[member], means[~member]
    df = len(means) - 2
    if df < 1:
        return np.full(values.shape[1], np.nan)
    squares = ((a - a.mean(axis=0)) ** 2).sum(axis=0) + ((b - b.mean(axis=0)) ** 2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(squares / df * (1 / len(a) + 1 / len(b)))
        t = (a.mean(axis=0) - b.mean(axis=0)) / error
    return np.where(error > 0, stdtr(df, -t), np.nan)


def _strata_p(values: NDArray, inside: NDArray[np.bool_], names: NDArray[np.str_]) -> Floats:
    excess, variance = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for rows in rows_of_groups(names):
        total, n = len(rows), int(inside[rows].sum())
        if n in (0, total):
            continue
        ranks = rankdata(values[rows], axis=0)
        weight = 1 / (total + 1)
        excess += weight * (ranks[inside[rows]].sum(axis=0) - n * (total + 1) / 2)
        spread = ((ranks - (total + 1) / 2) ** 2).sum(axis=0)
        variance += weight**2 * n * (total - n) / (total * (total - 1)) * spread
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, ndtr(-excess / np.sqrt(variance)), np.nan)
