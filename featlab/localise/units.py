"""Does a neuron fire on the object or beside it?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from statsmodels.stats.multitest import multipletests

from featlab.errors import FeatlabError
from featlab.intervals import bootstrap_interval
from featlab.localise.context import cells_in_boxes
from featlab.localise.fitting import confirmed_detectors
from featlab.localise.methods import Progress
from featlab.localise.truth import select_boxes

if TYPE_CHECKING:
    from featlab.store import MapStore

COLUMNS = [
    "class", "neuron", "n", "auroc_inside", "auroc_inside_low", "auroc_inside_high",
    "iou", "iou_chance", "p", "p_adjusted", "verdict",
]  # fmt: skip

_MOST_OF_A_CLASS = 2000
_NEURONS_AT_ONCE = 10


def unit_localisation(
    store: MapStore,
    neurons: pd.DataFrame,
    rows: Sequence[int] | np.ndarray,
    *,
    box_kind: str | None = None,
    layer: str | None = None,
    top: int | None = 50,
    quantile: float = 0.95,
    n_permutations: int = 1000,
    alpha: float = 0.05,
    random_state: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Where each detector fires, measured against the boxes of its class.

    Parameters
    ----------
    store : MapStore
    neurons : DataFrame
        Neuron table after ``confirm_neurons``; its replicated active detectors are judged.
    rows : sequence of int
        Images they were not chosen on; those without boxes are left out. Of a class with more than
        2,000 as many are drawn at random: a permutation pairs each with each.
    box_kind, layer, progress
        As in :func:`evaluate`.
    top : int, optional
        At most so many detectors per class, best first.
    quantile : float
        A cell is active where the neuron reaches this quantile of its own activations over all
        cells of these images (and more than its minimum), in (0, 1). NetDissect takes 0.995 on
        maps of 112 x 112; on coarse maps that leaves less than a cell an image.
    n_permutations : int
        Permutations of the boxes over the images.
    alpha : float
        Bound of the corrected p-value and 1 - coverage of the verdict's interval.
    random_state : int
        Seed of the permutations and of the bootstrap.

    Returns
    -------
    DataFrame, one row per class and detector
        class, neuron; n (images of the class with boxes inside and cells outside);
        ``auroc_inside``: chance that a cell inside the boxes is more active than one outside, mean
        over these images, with a 95 % bootstrap interval; ``iou``: of active cells and cells in
        boxes, over all images of the class [1]_; ``iou_chance``: its mean when each image gets the
        boxes of another; ``p``: share of permutations that reach it; ``p_adjusted`` (Benjamini and
        Hochberg over the table); ``verdict``: "on the object", "beside the object" (the interval of
        auroc_inside lies below 0.5: a probable shortcut) or "not shown".

    Raises
    ------
    FeatlabError
        As for :func:`evaluate`; `quantile` outside (0, 1).

    References
    ----------
    .. [1] Bau et al. (2017), Network dissection, CVPR.
    """
    if not 0 < quantile < 1:
        raise FeatlabError(f"quantile must lie between 0 and 1, got {quantile!r}.")
    layer = layer or store.layers[-1]
    detectors = confirmed_detectors(neurons, layer=layer, top=top)
    truth = select_boxes(store, box_kind)
    rows = np.intersect1d(np.asarray(rows, dtype=np.int64), truth["image"].to_numpy(np.int64))
    rng = np.random.default_rng(random_state)
    rows = _sampled(rows, store.images["label"].to_numpy(str), rng)
    if detectors.empty or not len(rows):
        return pd.DataFrame(columns=COLUMNS)
    ids = np.unique(detectors["neuron"].to_numpy(np.int64))
    maps, inside = _cells(store, rows, ids, truth, layer, progress)
    labels = store.images["label"].to_numpy(str)[rows]
    cells = maps.reshape(-1, len(ids))
    # A neuron may saturate at its ceiling, or be silent in most cells.
    active = (maps >= np.quantile(cells, quantile, axis=0)) & (maps > cells.min(axis=0))
    auroc = _auroc_inside(maps, inside)
    found = []
    for name, group in detectors.groupby("class", sort=False):
        own = labels == str(name)
        columns = np.searchsorted(ids, group["neuron"].to_numpy(np.int64))
        iou, chance, p = _iou(active[own][..., columns], inside[own], n_permutations, rng)
        for place, neuron in enumerate(group["neuron"]):
            values = auroc[own, columns[place]]
            values = values[~np.isnan(values)]
            low, high = bootstrap_interval(values, random_state=random_state)
            mean = float(values.mean()) if len(values) else np.nan
            judged = [name, int(neuron), len(values), mean, low, high]
            found.append([*judged, iou[place], chance[place], p[place], np.nan, ""])
    table = pd.DataFrame(found, columns=COLUMNS)
    known = table["p"].notna()
    if known.any():
        table.loc[known, "p_adjusted"] = multipletests(table.loc[known, "p"], method="fdr_bh")[1]
    on = (table["auroc_inside_low"] > 0.5) & (table["p_adjusted"] <= alpha)
    table["verdict"] = np.where(
        on,
        "on the object",
        np.where(table["auroc_inside_high"] < 0.5, "beside the object", "not shown"),
    )
    table.attrs.update(layer=layer, quantile=quantile, n_permutations=n_permutations, alpha=alpha)
    return table


def _sampled(rows: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The rows, of no class more than can be permuted; sorted."""
    kept = []
    for name in np.unique(labels[rows]):
        own = rows[labels[rows] == name]
        crowded = len(own) > _MOST_OF_A_CLASS
        kept.append(rng.choice(own, _MOST_OF_A_CLASS, replace=False) if crowded else own)
    return np.sort(np.concatenate([*kept, rows[:0]]))


def _cells(
    store: MapStore,
    rows: np.ndarray,
    ids: np.ndarray,
    truth: pd.DataFrame,
    layer: str,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Activations ``(k, cells, m)`` of some neurons, and the cells in boxes ``(k, cells)``."""
    parts, inside = [], []
    batches = store.iter_maps(rows, layer=layer)
    for chunk, maps in progress(batches) if progress else batches:
        k, h, w, _ = maps.shape
        parts.append(maps[..., ids].reshape(k, h * w, len(ids)))
        inside.append(cells_in_boxes(store, chunk, (h, w), truth))
    return np.concatenate(parts), np.concatenate(inside)


def _auroc_inside(maps: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """AUROC of inside against outside for every image and neuron; NaN where one is missing."""
    ranks = rankdata(maps, axis=1)
    n = inside.sum(axis=1)[:, None].astype(float)
    n_out = inside.shape[1] - n
    total = np.einsum("kim,ki->km", ranks, inside)
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc = (total - n * (n + 1) / 2) / (n * n_out)
    return np.where((n > 0) & (n_out > 0), auroc, np.nan)


def _iou(
    active: np.ndarray, inside: np.ndarray, n_permutations: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intersection over union of active and inside cells, its mean by chance, and p."""
    k, _, m = active.shape
    if k < 2:
        return np.full(m, np.nan), np.full(m, np.nan), np.full(m, np.nan)
    own, boxes = np.arange(k), inside.astype(np.float32)
    together = active.sum(axis=(0, 1)) + inside.sum()
    permuted = [rng.permutation(k) for _ in range(n_permutations)]
    hits, shuffled = np.zeros(m), np.zeros((n_permutations, m))
    for first in range(0, m, _NEURONS_AT_ONCE):
        some = slice(first, first + _NEURONS_AT_ONCE)
        # What image i's activity and image j's boxes have in common; a permutation picks (i, j).
        on = active[..., some].astype(np.float32)
        common = np.einsum("icm,jc->ijm", on, boxes, optimize=True)
        hits[some] = common[own, own].sum(axis=0)
        shuffled[:, some] = [common[own, other].sum(axis=0) for other in permuted]
    iou = hits / np.maximum(together - hits, 1)
    null = shuffled / np.maximum(together - shuffled, 1)
    p = (1 + (null >= iou - 1e-9).sum(axis=0)) / (1 + n_permutations)
    return iou, null.mean(axis=0), p
