"""Localisation scored: every method beside its baselines, thresholds chosen on other images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from featlab import boxes as bx
from featlab._errors import FeatlabError
from featlab.intervals import bootstrap_interval
from featlab.localise.methods import (
    ClassWeights,
    Progress,
    checked_split,
    method_heats,
    method_weights,
    picture_sizes,
)
from featlab.localise.regions import THRESHOLDS, heat_boxes

if TYPE_CHECKING:
    from featlab.store import MapStore

BASELINES = ("random_neuron", "centre_gaussian", "whole_image", "mean_box")
TABLE_COLUMNS = [
    "method",
    "baseline",
    "threshold",
    "n",
    *(
        f"{score}{end}"
        for score in ("box_accuracy", "mean_iou", "centre_in_box")
        for end in ("", "_low", "_high")
    ),
    "box_accuracy_oracle",
    "threshold_oracle",
]
IMAGE_COLUMNS = ["method", "row", "label", "iou", *bx.CORNERS, "centre_in_box", "hit"]
_GAUSSIAN_SHAPE = (224, 224)
_FEWEST_TUNING_ROWS = 10
_FIXED_THRESHOLD = 0.2


@dataclass(frozen=True)
class Localisation:
    """Scores of :func:`evaluate`.

    Attributes
    ----------
    table : DataFrame
        One row per method, baselines last: method, baseline, threshold (NaN where there is none),
        n (images scored), box_accuracy (MaxBoxAcc's measure at that threshold), mean_iou and
        centre_in_box, each with _low and _high (95 %, over images); box_accuracy_oracle and
        threshold_oracle, the best threshold *on the scored images* (what the literature prints).
        ``attrs`` says how it was made.
    per_image : DataFrame
        One row per method and scored image: method, row (of the image table), label, iou,
        xmin, ymin, xmax, ymax (predicted, pixels of the original), centre_in_box, hit.
    """

    table: pd.DataFrame
    per_image: pd.DataFrame


@dataclass(frozen=True)
class _Truth:
    """The rows scored, the rows thresholds are chosen on, and the boxes of both."""

    boxes: pd.DataFrame
    scored: np.ndarray
    tuning: np.ndarray
    tuned_on: str
    train: np.ndarray


def choose_threshold(
    ious: np.ndarray, thresholds: Sequence[float] | np.ndarray, delta: float = 0.5
) -> float:
    """The threshold with the highest box accuracy; among equals, with the highest mean IoU.

    Parameters
    ----------
    ious : array-like of shape (n, t)
        IoU of each image at each threshold; images without boxes are NaN and left out.
    thresholds : array-like of shape (t,)
    delta : float
        IoU from which a box counts.

    Returns
    -------
    float
        The lowest of those that are equal in both.

    Raises
    ------
    FeatlabError
        No image has a box, or the shapes disagree.
    """
    ious, thresholds = np.asarray(ious, dtype=float), np.asarray(thresholds, dtype=float)
    if ious.ndim != 2 or ious.shape[1:] != thresholds.shape:
        raise FeatlabError(
            f"ious must have one column per threshold ({len(thresholds)}), got {ious.shape}."
        )
    ious = ious[~np.isnan(ious).any(axis=1)]
    if not len(ious):
        raise FeatlabError("no image has a box to choose a threshold on; give images with boxes.")
    accuracy, mean = (ious >= delta).mean(axis=0), ious.mean(axis=0)
    return float(thresholds[np.lexsort((thresholds, -mean, -accuracy))[0]])


def evaluate(
    store: MapStore,
    split: Sequence[str] | np.ndarray | pd.Series,
    *,
    neurons: pd.DataFrame | None = None,
    weights: ClassWeights | None = None,
    box_kind: str | None = None,
    layer: str | None = None,
    top: int = 20,
    random_state: int = 0,
    progress: Progress | None = None,
) -> Localisation:
    """Where in the picture: boxes from heat maps, on the test rows, beside baselines.

    Methods: ``detectors`` (mean of the class's confirmed detectors, each divided by its scale),
    ``best_detector`` (the best one's own map), ``cam`` (the linear head), ``sum`` (all maps added).
    Baselines: ``random_neuron`` (a live neuron drawn for each class), ``centre_gaussian``,
    ``whole_image``, ``mean_box`` (of the train rows). Heat maps are those of the image's true
    class (GT-known). Each method has one threshold, chosen on the confirm rows.

    Parameters
    ----------
    store : MapStore
    split : array-like of str of shape (n,)
        "train", "confirm" or "test" for each image.
    neurons : DataFrame, optional
        Neuron table after ``confirm_neurons``; without it there are no detector methods.
    weights : dict of str to (c,) array, or (coef (k, c), classes), optional
        Weights of a linear head on raw mean-pooled features; without them there is no ``cam``.
    box_kind : str, optional
        Which kind of boxes is the truth; needed where the box table has several.
    layer : str, optional
        The last stored layer by default.
    top : int
        At most so many detectors per class, best first.
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
    truth = _truth(store, checked_split(split, len(store.images)), box_kind)
    sets = method_weights(
        store,
        train=truth.train,
        neurons=neurons,
        weights=weights,
        layer=layer,
        top=top,
        random_state=random_state,
    )
    attrs = _attrs(store, truth, sets, box_kind=box_kind, layer=layer, top=top)
    if not len(truth.scored):
        return _localisation([], [], attrs)
    rows = np.unique(np.concatenate([truth.scored, truth.tuning]))
    predictions = _fixed_predictions(store, rows, truth)
    heats = method_heats(store, rows, sets, layer=layer, progress=progress)
    frames, sizes = np.asarray(store.frames)[rows], picture_sizes(store)[rows]
    for method, heat in heats.items():
        predictions[method] = heat_boxes(heat, THRESHOLDS, frames=frames, sizes=sizes)
    table, images = [], []
    for method in _ordered(predictions):
        scores, per_image = _score(predictions[method], rows, truth, random_state)
        table.append({"method": method, "baseline": method in BASELINES, **scores})
        per_image["label"] = store.images["label"].to_numpy()[truth.scored]
        images.append(per_image.assign(method=method))
    return _localisation(table, images, attrs)


def select_boxes(store: MapStore, box_kind: str | None) -> pd.DataFrame:
    """The boxes of one kind, without those that name another class than their image's.

    Raises
    ------
    FeatlabError
        As for :func:`boxes_of_kind`.
    """
    table = boxes_of_kind(store.boxes, box_kind)
    own = store.images["label"].to_numpy()[table["image"].to_numpy(np.int64)]
    other = table["label"].isin(store.classes).to_numpy() & (table["label"].to_numpy() != own)
    return table[~other].reset_index(drop=True)


def boxes_of_kind(table: pd.DataFrame, box_kind: str | None) -> pd.DataFrame:
    """The rows of a box table that are of one kind.

    Raises
    ------
    FeatlabError
        There are several kinds and none was chosen, or the kind is unknown.
    """
    kinds = sorted(table["kind"].astype(str).unique())
    if box_kind is None and len(kinds) > 1:
        raise FeatlabError(
            f"the boxes are of several kinds ({', '.join(kinds)}); choose one with --box-kind "
            "(box_kind=)."
        )
    if box_kind is not None and kinds:
        if box_kind not in kinds:
            raise FeatlabError(
                f"box_kind must be one of {', '.join(kinds)}, got {box_kind!r}; see --box-kind."
            )
        table = table[table["kind"] == box_kind]
    return table


def _truth(store: MapStore, split: np.ndarray, box_kind: str | None) -> _Truth:
    table = select_boxes(store, box_kind)
    with_boxes = np.zeros(len(split), dtype=bool)
    with_boxes[table["image"].to_numpy(np.int64)] = True
    tuning, tuned_on = np.flatnonzero(with_boxes & (split == "confirm")), "confirm"
    if len(tuning) < _FEWEST_TUNING_ROWS:
        tuning, tuned_on = np.flatnonzero(with_boxes & (split != "test")), "train + confirm"
    if not len(tuning):
        tuned_on = f"fixed at {_FIXED_THRESHOLD}"
    scored = np.flatnonzero(with_boxes & (split == "test"))
    return _Truth(table, scored, tuning, tuned_on, split == "train")


def _fixed_predictions(store: MapStore, rows: np.ndarray, truth: _Truth) -> dict[str, np.ndarray]:
    """Boxes ``(k, t, 4)`` of the baselines that look at no map."""
    sizes = picture_sizes(store)
    unit = heat_boxes(
        bx.centre_heat(_GAUSSIAN_SHAPE)[None],
        THRESHOLDS,
        frames=np.array([[0.0, 0.0, 1.0, 1.0]]),
        sizes=np.ones((1, 2)),
    )
    predictions = {
        "centre_gaussian": bx.pixel_boxes(unit, sizes[rows, None]),
        "whole_image": bx.whole_image_boxes(sizes[rows])[:, None],
    }
    train = np.flatnonzero(truth.train)
    if truth.boxes["image"].isin(train).any():
        mean = bx.mean_box(truth.boxes, sizes, train)
        predictions["mean_box"] = bx.pixel_boxes(mean[None], sizes[rows])[:, None]
    return predictions


def _score(
    predicted: np.ndarray, rows: np.ndarray, truth: _Truth, random_state: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Scores of one method from its boxes ``(k, t, 4)`` of `rows`; `t` is 1 without threshold."""
    ious = bx.best_iou(predicted, rows, truth.boxes)
    test, tuning = np.searchsorted(rows, truth.scored), np.searchsorted(rows, truth.tuning)
    threshold, oracle, column, best = np.nan, np.nan, 0, 0
    if predicted.shape[1] > 1:
        threshold = _FIXED_THRESHOLD
        if len(tuning):
            threshold = choose_threshold(ious[tuning], THRESHOLDS)
        oracle = choose_threshold(ious[test], THRESHOLDS)
        column, best = np.searchsorted(THRESHOLDS, [threshold, oracle])
    boxes = predicted[test, column]
    centre = bx.centre_in_box(boxes, truth.scored, truth.boxes)
    iou = ious[test, column]
    scores = {"threshold": threshold, "n": len(test)}
    for name, values in (
        ("box_accuracy", (iou >= 0.5).astype(float)),
        ("mean_iou", iou),
        ("centre_in_box", centre),
    ):
        low, high = bootstrap_interval(values, random_state=random_state)
        scores |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
    scores |= {
        "box_accuracy_oracle": bx.box_accuracy(ious[test, best]),
        "threshold_oracle": oracle,
    }
    per_image = pd.DataFrame(boxes, columns=bx.CORNERS).assign(
        row=truth.scored, iou=iou, centre_in_box=centre.astype(bool), hit=iou >= 0.5
    )
    return scores, per_image


def _ordered(predictions: dict[str, np.ndarray]) -> list[str]:
    methods = [name for name in predictions if name not in BASELINES]
    return methods + [name for name in BASELINES if name in predictions]


def _attrs(
    store: MapStore,
    truth: _Truth,
    sets: dict[str, np.ndarray],
    *,
    box_kind: str | None,
    layer: str | None,
    top: int,
) -> dict[str, Any]:
    bare: list[str] = []
    if "detectors" in sets:
        bare = [
            str(name)
            for name, row in zip(store.classes, sets["best_detector"], strict=True)
            if not row.any()
        ]
    kinds = truth.boxes["kind"].unique()
    return {
        "class_asked_for": "the image's own (GT-known)",
        "box_kind": box_kind if box_kind is not None else "".join(kinds),
        "layer": layer or store.layers[-1],
        "top": top,
        "delta": 0.5,
        "n_thresholds": len(THRESHOLDS),
        "threshold_from": truth.tuned_on,
        "n_threshold_images": len(truth.tuning),
        "classes_without_detectors": bare,
    }


def _localisation(
    table: list[dict[str, Any]], images: list[pd.DataFrame], attrs: dict[str, Any]
) -> Localisation:
    methods = pd.DataFrame(table, columns=TABLE_COLUMNS)
    per_image = pd.concat(images, ignore_index=True) if images else pd.DataFrame()
    per_image = per_image.reindex(columns=IMAGE_COLUMNS)
    methods.attrs.update(attrs)
    per_image.attrs.update(attrs)
    return Localisation(methods, per_image)
