"""Detectors that say the same: clusters by correlation."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from featlab.arguments import stratified_rows
from featlab.errors import FeatlabError
from featlab.neurons._inputs import Features, blocks_by_key, check_range

_MOST_IMAGES = 20_000  # the error of a correlation is then 0.007


def cluster_detectors(
    table: pd.DataFrame, X: Features, y: ArrayLike, *, correlation: float = 0.7
) -> pd.DataFrame:
    """Group the detectors of each class that say the same about its images.

    The correlation is Spearman's over all rows of `X` (a random 20,000 where there are more) after
    each class's mean rank is taken out: two detectors of a class agree on its mean by definition,
    and what counts is whether they also agree from image to image. Clusters are cut from an average
    linkage of 1 - correlation.

    Parameters
    ----------
    table : DataFrame
        Rows of a neuron table, e.g. from `select_neurons`, best first.
    X, y
        As in `rank_neurons`.
    correlation : float
        Mean correlation at which clusters still merge, in [0, 1].

    Returns
    -------
    DataFrame
        The rows of `table` with ``cluster`` (from 0, by the best member, within the class),
        ``cluster_size``, ``representative`` (the first of its cluster in `table`) and ``relative``
        (the most correlated other detector of the class, -1 where there is none) with
        ``relative_correlation``.

    Raises
    ------
    FeatlabError
        `table` is empty or does not fit `X`.
    """
    check_range("correlation", correlation, 0.0, 1.0)
    if table.empty:
        raise FeatlabError("there is no detector to cluster; select some first.")
    labels = np.asarray(y)
    blocks = blocks_by_key(table, X, labels)
    use = stratified_rows(labels, _MOST_IMAGES)
    parts = []
    for _, rows in table.groupby("class", sort=False):
        columns = [
            blocks[layer, pooling].column(neuron)
            for layer, pooling, neuron in zip(
                rows["layer"], rows["pooling"], rows["neuron"], strict=True
            )
        ]
        values = np.column_stack([column[use] for column in columns])
        similar = _correlation(values, labels[use])
        parts.append(_clustered(rows, similar, correlation))
    clusters = pd.concat(parts).sort_index()
    clusters.attrs["correlation"] = correlation
    return clusters


def _correlation(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    ranks = pd.DataFrame(values).rank()
    within = (ranks - ranks.groupby(labels).transform("mean")).to_numpy()
    length = np.sqrt((within**2).sum(axis=0))
    unit = np.divide(within, length, out=np.zeros_like(within), where=length > 0)
    return unit.T @ unit


def _clustered(rows: pd.DataFrame, similar: np.ndarray, correlation: float) -> pd.DataFrame:
    k = len(rows)
    cluster = np.zeros(k, dtype=int)
    relative, closest = np.full(k, -1), np.full(k, np.nan)
    if k > 1:
        apart = np.clip(1 - similar, 0, 2)
        np.fill_diagonal(apart, 0)
        tree = linkage(squareform(apart, checks=False), method="average")
        cluster = fcluster(tree, 1 - correlation, criterion="distance")
        others = similar - 3 * np.eye(k)
        relative, closest = rows["neuron"].to_numpy()[others.argmax(axis=1)], others.max(axis=1)
    number = pd.factorize(cluster)[0]
    return rows.assign(
        cluster=number,
        cluster_size=np.bincount(number)[number],
        representative=~pd.Series(number).duplicated().to_numpy(),
        relative=relative,
        relative_correlation=closest,
    )
