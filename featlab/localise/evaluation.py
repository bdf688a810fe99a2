"""Localisation scored: every method beside its baselines, thresholds chosen on other images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from featlab import boxes as bx
from featlab._errors import FeatlabError
from featlab.localise.methods import (
    ClassWeights,
    FittedMethods,
    Progress,
    checked_split,
    classes_without_detectors,
    fit_methods,
    method_heats,
    picture_sizes,
)
from featlab.localise.regions import GRID, THRESHOLDS, HeatScores, score_boxes, score_heats
from featlab.localise.scoring import (
    CURVE_COLUMNS,
    SCORES,
    SUCCESS_COLUMNS,
    MethodScores,
    curves,
    score_columns,
    score_draws,
    score_method,
    success,
)
from featlab.localise.truth import Truth, boxes_of_kind, find_truth, select_boxes

if TYPE_CHECKING:
    from featlab.store import MapStore

__all__ = ["Localisation", "boxes_of_kind", "evaluate", "select_boxes"]

BASELINES = ("random_neuron", "centre_gaussian", "whole_image", "mean_box")
TABLE_COLUMNS = [
    "method",
    "baseline",
    "supervision",
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
_N_BOOT = 1000


@dataclass(frozen=True)
class Localisation:
    """Scores of :func:`evaluate`.

    Attributes
    ----------
    table : DataFrame
        One row per method, baselines last: method, baseline, supervision, threshold (NaN where
        there is none), n (images scored). At that threshold, chosen on other images, for the box
        around the largest region: box_accuracy (GT-known Loc: IoU >= 0.5 with the best true box),
        mean_iou, centre_in_box, top1_loc (NaN without predicted classes).
        Oracles, which choose the threshold *on the scored images* (what the literature prints):
        max_box_acc (also box_accuracy_oracle, at threshold_oracle) and max_box_acc_v2 (any region,
        mean over IoU 0.3, 0.5, 0.7, each with its own threshold); box_acc_v2_at_val is the latter
        with the three thresholds chosen on other images. pointing (the peak lies in a true box) and
        heat_in_box (share of the heat) need no threshold, nor has pxap (average precision of the
        pixels against masks, if given). Scores have _low and _high (95 %, bootstrap over images,
        over whole groups where there are any; oracles choose anew in each resample, which shifts
        their intervals upwards a little). seconds_per_1000: heat maps (the pass over the maps in
        equal parts) and their match with the true boxes at all thresholds.
        ``attrs`` says how it was made.
    per_image : DataFrame
        One row per method and scored image: method, row (of the image table), label, iou,
        xmin, ymin, xmax, ymax (predicted, pixels of the original), centre_in_box, hit, iou_any
        (of any region, at its own threshold), top1, pointing, heat_in_box.
    fitted : FittedMethods
        What was learnt on the train rows, for heat maps of other images.
    curves : DataFrame
        method, delta, threshold, accuracy (largest region), accuracy_any (any region), on the
        scored images.
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


def evaluate(
    store: MapStore,
    split: Sequence[str] | np.ndarray | pd.Series,
    *,
    methods: Sequence[str] | None = None,
    neurons: pd.DataFrame | None = None,
    weights: ClassWeights | None = None,
    network: Any | None = None,
    predicted: Sequence[str] | np.ndarray | pd.Series | None = None,
    groups: Sequence[str] | np.ndarray | pd.Series | None = None,
    masks: Callable[[int], np.ndarray | None] | None = None,
    box_kind: str | None = None,
    layer: str | None = None,
    random_state: int = 0,
    progress: Progress | None = None,
) -> Localisation:
    """Where in the picture: boxes from heat maps, on the test rows, beside baselines.

    Methods: those of the registry (``METHODS``; :func:`register` adds more), some of which need
    `neurons`, `weights` or `network`. Those that learn from boxes of train images say so in the
    column ``supervision``.
    Baselines: ``random_neuron`` (a live neuron drawn for each class), ``centre_gaussian``,
    ``whole_image``, ``mean_box`` (of the train rows). Heat maps are those of the image's true
    class (GT-known). Each method has one threshold, chosen on the confirm rows.

    Parameters
    ----------
    store : MapStore
    split : array-like of str of shape (n,)
        "train", "confirm" or "test" for each image.
    methods : sequence of str, optional
        Names of the registry; by default all that have what they need.
    neurons : DataFrame, optional
        Neuron table after ``confirm_neurons``; without it there are no detector methods.
    weights : dict of str to (c,) array, or (coef (k, c), classes), optional
        Weights of a linear head on raw mean-pooled features; without them there is no ``cam``.
    network : Pipeline, optional
        A fitted scaling and scikit-learn MLP on mean-pooled features, for ``mlp_cam``.
    predicted : array-like of str of shape (n,), optional
        A head's class for each image, for Top-1 Loc; only that of scored images is looked at.
    groups : array-like of str of shape (n,), optional
        Images that are resampled together; by default the store's, "" is no group.
    masks : callable, optional
        For a row number the picture's mask (height, width), of any size: 1 on the object, 0 beside
        it, ``boxes.IGNORE`` where nobody knows; or None. Called for the scored images, for PxAP.
    box_kind : str, optional
        Which kind of boxes is the truth; needed where the box table has several.
    layer : str, optional
        The last stored layer by default.
    random_state : int
        Seed of the random neurons and of the intervals.
    progress : callable, optional
        Wraps the iterable of batches of maps.

    Returns
    -------
    Localisation
        Without rows where no test image has a box. A class without confirmed detectors has an
        empty box (IoU 0) from those methods; ``table.attrs["classes_without_detectors"]`` lists
        it. With fewer than 10 confirm rows with boxes the thresholds are chosen on train and
        confirm rows together (``table.attrs["threshold_from"]``); with none, they are 0.2.

    Raises
    ------
    FeatlabError
        `box_kind` is missing or unknown, or split, neurons or weights do not fit the store.

    Notes
    -----
    A box that bears the name of *another* class of the store is no truth for the image's class and
    is left out.
    """
    truth = find_truth(store, checked_split(split, len(store.images)), box_kind)
    fitted = fit_methods(
        store,
        methods,
        train=truth.train,
        truth=truth.boxes,
        neurons=neurons,
        weights=weights,
        network=network,
        layer=layer,
        random_state=random_state,
    )
    attrs = _attrs(store, truth, fitted, box_kind=box_kind, layer=layer)
    if not len(truth.scored):
        return _localisation([], [], attrs, fitted)
    rows = np.unique(np.concatenate([truth.scored, truth.tuning]))
    found, seconds = _matches(store, rows, truth, fitted, layer, masks, progress)
    right = None if predicted is None else _right_class(store, predicted)[truth.scored]
    scored = {
        name: score_method(
            found[name],
            scored=np.searchsorted(rows, truth.scored),
            tuning=np.searchsorted(rows, truth.tuning),
            centre_in_box=lambda boxes: bx.centre_in_box(boxes, truth.scored, truth.boxes),
            right_class=right,
        )
        for name in _ordered(found)
    }
    units = _units(store, groups)[truth.scored]
    attrs["n_groups"] = len(np.unique(units))
    draws = score_draws(
        scored,
        order=_order_by_truth(store, truth),
        groups=units if attrs["n_groups"] < len(units) else None,
        n_boot=_N_BOOT,
        random_state=random_state,
    )
    table, images = [], []
    for method, scores in scored.items():
        known = fitted.methods.get(method)
        table.append(
            {
                "method": method,
                "baseline": method in BASELINES,
                "supervision": known.supervision if known else "none",
                "box_accuracy_confirm": scores.tuned,
                **score_columns(scores, pd.DataFrame(draws[method]), attrs["n_groups"]),
                "seconds_per_1000": seconds[method] / len(rows) * 1000,
            }
        )
        images.append(_per_image(scores, store, truth).assign(method=method))
    return _localisation(table, images, attrs, fitted, scored, draws)


def _matches(
    store: MapStore,
    rows: np.ndarray,
    truth: Truth,
    fitted: FittedMethods,
    layer: str | None,
    masks: Callable[[int], np.ndarray | None] | None,
    progress: Progress | None,
) -> tuple[dict[str, HeatScores], dict[str, float]]:
    """How every method's heat maps match the true boxes of `rows`, and the seconds it took."""
    sizes, frames = picture_sizes(store), np.asarray(store.frames)[rows]
    own = truth.boxes[truth.boxes["image"].isin(rows)]
    true, owner = own[bx.CORNERS].to_numpy(float), np.searchsorted(rows, own["image"])
    scored = np.isin(rows, truth.scored)
    known = [masks(int(r)) if masks and s else None for r, s in zip(rows, scored, strict=True)]
    more: dict[str, Any] = {"sizes": sizes[rows], "masks": known}
    found: dict[str, HeatScores] = {}
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    heats = method_heats(store, rows, fitted, layer=layer, progress=progress)
    shared = (time.perf_counter() - start) / max(len(heats), 1)
    for method, heat in heats.items():
        start = time.perf_counter()
        found[method] = score_heats(heat, true, owner, frames=frames, **more)
        seconds[method] = time.perf_counter() - start + shared
    start = time.perf_counter()
    centre = np.broadcast_to(bx.centre_heat((GRID, GRID)), (len(rows), GRID, GRID))
    whole = np.tile([0.0, 0.0, 1.0, 1.0], (len(rows), 1))
    found["centre_gaussian"] = score_heats(centre, true, owner, frames=whole, **more)
    seconds["centre_gaussian"] = time.perf_counter() - start
    for method, boxes in _fixed_boxes(store, rows, truth).items():
        start = time.perf_counter()
        found[method] = score_boxes(boxes, true, owner, **more)
        seconds[method] = time.perf_counter() - start
    return found, seconds


def _fixed_boxes(store: MapStore, rows: np.ndarray, truth: Truth) -> dict[str, np.ndarray]:
    """Boxes ``(k, 4)`` of the baselines that have no threshold."""
    sizes, train = picture_sizes(store), np.flatnonzero(truth.train)
    boxes = {"whole_image": bx.whole_image_boxes(sizes[rows])}
    if truth.boxes["image"].isin(train).any():
        mean = bx.mean_box(truth.boxes, sizes, train)
        boxes["mean_box"] = bx.pixel_boxes(mean[None], sizes[rows])
    return boxes


def _per_image(scores: MethodScores, store: MapStore, truth: Truth) -> pd.DataFrame:
    hit, iou, centre, top1, pointing, heat = scores.per_image.T
    boxes = scores.found.boxes[:, scores.column]
    return pd.DataFrame(boxes, columns=bx.CORNERS).assign(
        row=truth.scored,
        label=store.images["label"].to_numpy()[truth.scored],
        iou=iou,
        centre_in_box=centre.astype(bool),
        hit=hit.astype(bool),
        iou_any=scores.found.iou_any[:, scores.columns_v2[bx.DELTAS.index(0.5)]],
        top1=top1,
        pointing=pointing,
        heat_in_box=heat,
    )


def _right_class(store: MapStore, predicted: Sequence[str] | np.ndarray | pd.Series) -> np.ndarray:
    labels = store.images["label"].to_numpy(str)
    names = np.asarray(predicted).astype(str)
    if names.shape != labels.shape:
        raise FeatlabError(
            f"predicted must have one class for each of the {len(labels)} images, "
            f"got shape {names.shape}."
        )
    return names == labels


def _units(store: MapStore, groups: Sequence[str] | np.ndarray | pd.Series | None) -> np.ndarray:
    """A name per image, shared by those that are resampled together."""
    n = len(store.images)
    if groups is None:
        groups = store.images["group"] if "group" in store.images else [""] * n
    names = np.asarray(groups).astype(str)
    if names.shape != (n,):
        raise FeatlabError(
            f"groups must have one entry for each of the {n} images, got shape {names.shape}."
        )
    alone = names == ""
    single = np.char.add("\0", np.arange(n).astype(str))
    return np.where(alone, single, names)


def _order_by_truth(store: MapStore, truth: Truth) -> np.ndarray:
    """An order of the scored images that depends on pictures and boxes, not on row numbers."""
    sums = truth.boxes.groupby("image")[bx.CORNERS].sum().loc[truth.scored]
    return np.lexsort([*sums.to_numpy().T, *picture_sizes(store)[truth.scored].T])


def _ordered(found: dict[str, HeatScores]) -> list[str]:
    methods = [name for name in found if name not in BASELINES]
    return methods + [name for name in BASELINES if name in found]


def _attrs(
    store: MapStore,
    truth: Truth,
    fitted: FittedMethods,
    *,
    box_kind: str | None,
    layer: str | None,
) -> dict[str, Any]:
    kinds = truth.boxes["kind"].unique()
    return {
        "class_asked_for": "the image's own (GT-known)",
        "box_kind": box_kind if box_kind is not None else "".join(kinds),
        "layer": layer or store.layers[-1],
        "delta": 0.5,
        "n_thresholds": len(THRESHOLDS),
        "threshold_from": truth.tuned_on,
        "n_boot": _N_BOOT,
        "n_threshold_images": len(truth.tuning),
        "classes_without_detectors": classes_without_detectors(fitted),
    }


def _localisation(
    table: list[dict[str, Any]],
    images: list[pd.DataFrame],
    attrs: dict[str, Any],
    fitted: FittedMethods,
    scores: dict[str, MethodScores] | None = None,
    draws: pd.DataFrame | None = None,
) -> Localisation:
    methods = pd.DataFrame(table, columns=TABLE_COLUMNS)
    per_image = pd.concat(images, ignore_index=True) if images else pd.DataFrame()
    per_image = per_image.reindex(columns=IMAGE_COLUMNS)
    methods.attrs.update(attrs)
    per_image.attrs.update(attrs)
    if scores is None or draws is None:
        return Localisation(methods, per_image, fitted)
    over = [
        pd.concat([part(one).assign(method=name) for name, one in scores.items()])
        .reindex(columns=columns)
        .reset_index(drop=True)
        for part, columns in ((curves, CURVE_COLUMNS), (success, SUCCESS_COLUMNS))
    ]
    return Localisation(methods, per_image, fitted, over[0], over[1], draws)
