"""Single detectors: does a neuron fire on the object or beside it, and where is its peak?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata, wilcoxon
from statsmodels.stats.multitest import multipletests

from featlab.arguments import (
    check_between,
    check_whole,
    confirmed_detectors,
    group_codes,
    group_names,
    has_groups,
    row_numbers,
    true_boxes,
)
from featlab.boxes.geometry import centre_in_box, whole_picture_boxes
from featlab.intervals import holm, mean_interval
from featlab.localise.fitting import cells_in_boxes
from featlab.localise.heat import picture_sizes
from featlab.store import MapStore
from featlab.system.machine import is_large, scratch

UNIT_COLUMNS = [
    "layer", "class", "neuron", "n", "auroc_inside", "auroc_inside_low", "auroc_inside_high",
    "p_inside", "iou", "iou_chance", "p", "p_adjusted", "verdict",
]  # fmt: skip
POINTING_COLUMNS = [
    "layer", "class", "neuron", "n", "pointing", "pointing_low", "pointing_high", "picture_centre",
]  # fmt: skip
_MOST_OF_A_CLASS = 2000
_NEURONS_AT_ONCE = 10


def unit_localisation(
    store: MapStore,
    rows: Any,
    neurons: pd.DataFrame,
    *,
    box_kind: str | None = None,
    layer: str | None = None,
    most: int | None = 50,
    quantile: float = 0.95,
    n_permutations: int = 1000,
    alpha: float = 0.05,
    random_state: int = 0,
) -> pd.DataFrame:
    """Where each detector fires, measured against the boxes of its class.

    Parameters
    ----------
    store : MapStore
    rows : sequence of int, or mask of shape (n,)
        Images they were not chosen on; those without boxes are left out. Of a class with more than
        2,000 as many are drawn at random: a permutation pairs each with each.
    neurons : DataFrame
        Neuron table after ``confirm_neurons``; its confirmed active detectors are judged.
    box_kind, layer
        As in :func:`evaluate_localisation`.
    most : int, optional
        At most so many detectors per class, best first.
    quantile : float
        A cell is active where the neuron reaches this quantile of its own activations over all
        cells of these images (and more than its minimum), in (0, 1). NetDissect takes 0.995 on
        maps of 112 x 112; on coarse maps that leaves less than a cell an image.
    n_permutations : int
        Permutations of the boxes over the images, at least 1.
    alpha : float
        Bound of the corrected p-value, and 1 - coverage of the interval of ``auroc_inside``.
    random_state : int
        Seed of the permutations and of the bootstrap.

    Returns
    -------
    DataFrame, one row per class and detector
        layer, class, neuron; n (images of the class with boxes inside and cells outside);
        ``auroc_inside``: chance that a cell inside the boxes is more active than one outside, mean
        over these images, with an interval (95 % by default; over whole groups where the store has
        any); ``p_inside``: that it is 0.5, by Wilcoxon's signed-rank test [2]_ of the images (of
        the groups' means, where there are groups), two-sided, with Holm's correction over the
        table; ``iou``: of active cells and cells in boxes, over all images of the class [1]_;
        ``iou_chance``: its mean when each image gets the boxes of another; ``p``: share of
        permutations that reach it, of one image of each group; ``p_adjusted`` (Benjamini and
        Hochberg over the table); ``verdict``: "on the object" (p_inside and p_adjusted <= `alpha`,
        and more active inside), "beside the <kind> boxes" (p_inside <= `alpha`, and less active
        inside), and ", on the <other kind> boxes" where the same test, corrected over these
        neurons and kinds, shows that boxes of another kind in the store hold the activity; else
        "not shown". Boxes may mark a part: what lies beside them need not be background.

    Raises
    ------
    FeatlabError
        As for :func:`evaluate_localisation`; `quantile` or `alpha` outside (0, 1).

    References
    ----------
    .. [1] Bau et al. (2017), Network dissection, CVPR.
    .. [2] Wilcoxon (1945), Individual comparisons by ranking methods, Biometrics Bulletin 1, 80-83.
    """
    check_between("quantile", quantile, 0, 1, without=[0, 1])
    check_between("alpha", alpha, 0, 1, without=[0, 1])
    check_whole("n_permutations", n_permutations, 1)
    layer = store.layer_name(layer)
    detectors = confirmed_detectors(neurons, layer=layer, most=most)
    truth, rows = _boxed(store, rows, box_kind)
    labels = store.images["label"].to_numpy(str)
    groups = _groups(store)
    rng = np.random.default_rng(random_state)
    rows = _sampled(rows, labels, rng)
    if detectors.empty or not len(rows):
        return pd.DataFrame(columns=UNIT_COLUMNS)
    channels = np.unique(detectors["neuron"].to_numpy(np.int64))
    maps, inside = _cells(store, rows, channels, truth, layer)
    floor = np.array([np.quantile(one, quantile) for one in maps])
    least = np.array([one.min() for one in maps])
    judged = []
    for name, group in detectors.groupby("class", sort=False):
        own = labels[rows] == str(name)
        columns = np.searchsorted(channels, group["neuron"].to_numpy(np.int64))
        # Of one class at a time: those of all may be larger than memory.
        cells, boxed = np.stack([maps[column][own] for column in columns]), inside[own]
        auroc = _auroc_inside(cells, boxed)
        # A neuron may saturate at its ceiling, or be silent in most cells.
        fires = cells >= floor[columns, None, None]
        fires &= cells > least[columns, None, None]
        iou, chance, p = _iou(fires, boxed, n_permutations, rng)
        unit = group_codes(groups[rows][own], int(own.sum()))
        if has_groups(unit):  # their images are not exchangeable one by one
            alone = np.unique(unit, return_index=True)[1]
            p = _iou(fires[:, alone], boxed[alone], n_permutations, rng)[2]
        for place, neuron in enumerate(group["neuron"]):
            values = auroc[place]
            limits = mean_interval(
                values, groups=groups[rows][own], level=1 - alpha, random_state=random_state
            )
            known = ~np.isnan(values)
            mean = float(values[known].mean()) if known.any() else np.nan
            facts = [layer, name, int(neuron), int(known.sum()), mean, *limits]
            overlap = [iou[place], chance[place], p[place]]
            judged.append([*facts, _signed_rank_p(values, unit), *overlap, np.nan, ""])
    table = _with_verdicts(pd.DataFrame(judged, columns=UNIT_COLUMNS), alpha, truth)
    beside = np.flatnonzero(table["verdict"].str.startswith("beside"))
    if len(beside):
        columns = np.searchsorted(channels, table["neuron"].to_numpy(np.int64)[beside])
        of_class = table["class"].to_numpy(str)[beside, None] == labels[rows]
        units = group_codes(groups[rows], len(rows))
        seen = [maps[column] for column in columns]
        held = _other_kinds(store, rows, layer, seen, of_class, units, truth, alpha)
        table.loc[beside, "verdict"] += held
    table.attrs.update(layer=layer, quantile=quantile, n_permutations=n_permutations, alpha=alpha)
    return table


def neuron_pointing(
    store: MapStore,
    rows: Any,
    neurons: pd.DataFrame,
    *,
    box_kind: str | None = None,
    layer: str | None = None,
    most: int | None = None,
) -> pd.DataFrame:
    """How often the peak of a detector's map lies in a box of its class.

    The peak is the centre of the cell with the map's maximum; cells that share the maximum share
    the point. A flat map has no peak and misses.

    Parameters
    ----------
    store : MapStore
    rows : sequence of int, or mask of shape (n,)
        Unseen images, i.e. the test rows; those without boxes are left out.
    neurons : DataFrame
        Neuron table after ``confirm_neurons``; its confirmed detectors of the layer are scored.
    box_kind, layer
        As in :func:`evaluate_localisation`.
    most : int, optional
        At most so many detectors per class, best first; all by default.

    Returns
    -------
    DataFrame
        layer, class, neuron, n (images of the class with boxes), pointing (share), pointing_low,
        pointing_high (95 %; over whole groups where the store has any), picture_centre (share of
        the same images whose own centre lies in a box: what pointing at the middle would get); the
        best detector of each class first.

    Raises
    ------
    FeatlabError
        As for :func:`evaluate_localisation`.

    References
    ----------
    Zhang et al. (2018), Top-down neural attention by excitation backprop, IJCV 126.
    """
    layer = store.layer_name(layer)
    detectors = confirmed_detectors(neurons, layer=layer, most=most)
    truth, rows = _boxed(store, rows, box_kind)
    channels = np.unique(detectors["neuron"].to_numpy(np.int64))
    hits = _hits(store, rows, channels, truth, layer)
    labels, groups = store.images["label"].to_numpy(str)[rows], _groups(store)[rows]
    middle = centre_in_box(whole_picture_boxes(picture_sizes(store, rows)), rows, truth)
    columns = np.searchsorted(channels, detectors["neuron"].to_numpy(np.int64))
    scored = []
    for name, neuron, column in zip(detectors["class"], detectors["neuron"], columns, strict=True):
        of_class = labels == str(name)
        own, n = hits[of_class, column], int(of_class.sum())
        limits = mean_interval(own, groups=groups[of_class])
        share, centre = (float(x.mean()) if n else np.nan for x in (own, middle[of_class]))
        scored.append([layer, name, neuron, n, share, *limits, centre])
    table = pd.DataFrame(scored, columns=POINTING_COLUMNS)
    table.attrs["layer"] = layer
    return table


def _groups(store: MapStore) -> np.ndarray:
    return group_names(store.images.get("group"), len(store.images))


def _boxed(store: MapStore, rows: Any, box_kind: str | None) -> tuple[pd.DataFrame, np.ndarray]:
    """The true boxes, and those of the rows that have one; rising."""
    truth = true_boxes(store.images, store.boxes, box_kind)
    numbers = row_numbers(rows, store.images)
    return truth, np.intersect1d(numbers, truth["image"].to_numpy(np.int64))


def _with_verdicts(table: pd.DataFrame, alpha: float, truth: pd.DataFrame) -> pd.DataFrame:
    """The table with p-values corrected over all of it, and what follows for boxes of a kind."""
    table["p_adjusted"] = _false_discoveries(table["p"].to_numpy(float))
    table["p_inside"] = holm(table["p_inside"].to_numpy(float))
    significant = table["p_inside"] <= alpha
    on = significant & (table["auroc_inside"] > 0.5) & (table["p_adjusted"] <= alpha)
    beside = significant & (table["auroc_inside"] < 0.5)
    kind = "".join(f"{name} " for name in truth["kind"].astype(str).unique() if name)
    verdicts = np.where(beside, f"beside the {kind}boxes", "not shown")
    return table.assign(verdict=np.where(on, "on the object", verdicts))


def _other_kinds(
    store: MapStore,
    rows: np.ndarray,
    layer: str,
    maps: Sequence[np.ndarray],
    of_class: np.ndarray,
    units: np.ndarray,
    truth: pd.DataFrame,
    alpha: float,
) -> list[str]:
    """Which other kinds of box hold the activity of some neurons, in words.

    `maps` are ``(k, cells)`` each, `of_class` ``(m, k)``: which of the images belong to a neuron.
    """
    kinds = sorted(set(store.boxes["kind"].astype(str)) - set(truth["kind"].astype(str)))
    p, mean = (np.full((len(kinds), len(maps)), np.nan) for _ in range(2))
    for place, kind in enumerate(kinds):
        boxes = true_boxes(store.images, store.boxes, kind)
        inside = cells_in_boxes(store, rows, store.map_shape(layer)[:2], boxes)
        for neuron, mine in enumerate(of_class):
            own = _auroc_inside(maps[neuron][mine][None], inside[mine])[0]
            p[place, neuron] = _signed_rank_p(own, units[mine])
            mean[place, neuron] = own[~np.isnan(own)].mean() if (~np.isnan(own)).any() else np.nan
    holds = (holm(p.ravel()).reshape(p.shape) <= alpha) & (mean > 0.5)
    return ["".join(f", on the {kinds[k]} boxes" for k in np.flatnonzero(one)) for one in holds.T]


def _false_discoveries(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's rates over the p-values that are known."""
    known, corrected = ~np.isnan(p), np.full(len(p), np.nan)
    if known.any():
        corrected[known] = multipletests(p[known], method="fdr_bh")[1]
    return corrected


def _signed_rank_p(auroc: np.ndarray, unit: np.ndarray) -> float:
    """Two-sided p of "0.5" from the units' means; NaN for fewer than two, or where all are 0.5."""
    excess = (pd.Series(auroc) - 0.5).groupby(unit).mean().dropna()
    if len(excess) < 2 or not (excess != 0).any():
        return float("nan")
    return float(wilcoxon(excess).pvalue)


def _hits(
    store: MapStore, rows: np.ndarray, channels: np.ndarray, truth: pd.DataFrame, layer: str
) -> np.ndarray:
    """Share of each map's peak that lies in a box, ``(k, m)``."""
    hits = [np.zeros((0, len(channels)))]
    for chunk, maps in store.iter_maps(rows=rows, layer=layer) if len(channels) else ():
        k, h, w, _ = maps.shape
        values = maps[..., channels].reshape(k, h * w, len(channels))
        peak = values == values.max(axis=1, keepdims=True)
        inside = cells_in_boxes(store, chunk, (h, w), truth)
        share = (peak & inside[..., None]).sum(axis=1) / peak.sum(axis=1)
        hits.append(np.where(peak.all(axis=1), 0.0, share))
    return np.concatenate(hits)


def _sampled(rows: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The rows, of no class more than can be permuted; sorted."""
    kept = []
    for name in np.unique(labels[rows]):
        own = rows[labels[rows] == name]
        crowded = len(own) > _MOST_OF_A_CLASS
        kept.append(rng.choice(own, _MOST_OF_A_CLASS, replace=False) if crowded else own)
    return np.sort(np.concatenate([*kept, rows[:0]]))


def _cells(
    store: MapStore, rows: np.ndarray, channels: np.ndarray, truth: pd.DataFrame, layer: str
) -> tuple[np.ndarray, np.ndarray]:
    """Activations ``(m, k, cells)`` of some neurons, and the cells in boxes ``(k, cells)``.

    Where they are many, in a scratch file, neuron after neuron.
    """
    h, w, _ = store.map_shape(layer)
    shape, inside, done = (len(channels), len(rows), h * w), [], 0
    large = is_large(len(rows) * h * w, len(channels))
    cells = scratch(shape) if large else np.empty(shape, np.float32)
    for chunk, maps in store.iter_maps(rows=rows, layer=layer):
        some = maps[..., channels].reshape(len(chunk), h * w, len(channels))
        cells[:, done : done + len(chunk)] = np.moveaxis(some, 2, 0)
        inside.append(cells_in_boxes(store, chunk, (h, w), truth))
        done += len(chunk)
    return cells, np.concatenate(inside)


def _auroc_inside(maps: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """AUROC of inside against outside for every neuron and image; NaN where one is missing."""
    n = inside.sum(axis=1).astype(float)
    n_out = inside.shape[1] - n
    total = np.stack([(rankdata(one, axis=1) * inside).sum(axis=1) for one in maps])
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc = (total - n * (n + 1) / 2) / (n * n_out)
    return np.where((n > 0) & (n_out > 0), auroc, np.nan)


def _iou(
    active: np.ndarray, inside: np.ndarray, n_permutations: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intersection over union of active and inside cells, its mean by chance, and p."""
    m, k, _ = active.shape
    if k < 2:
        return np.full(m, np.nan), np.full(m, np.nan), np.full(m, np.nan)
    own, boxes = np.arange(k), inside.astype(np.float32)
    together = active.sum(axis=(1, 2)) + inside.sum()
    permuted = [rng.permutation(k) for _ in range(n_permutations)]
    hits, shuffled = np.zeros(m), np.zeros((n_permutations, m))
    for first in range(0, m, _NEURONS_AT_ONCE):
        some = slice(first, first + _NEURONS_AT_ONCE)
        # What image i's activity and image j's boxes have in common; a permutation picks (i, j).
        common = active[some].astype(np.float32) @ boxes.T
        hits[some] = common[:, own, own].sum(axis=1)
        shuffled[:, some] = [common[:, own, other].sum(axis=1) for other in permuted]
    iou = hits / np.maximum(together - hits, 1)
    null = shuffled / np.maximum(together - shuffled, 1)
    p = (1 + (null >= iou - 1e-9).sum(axis=0)) / (1 + n_permutations)
    return iou, null.mean(axis=0), p
