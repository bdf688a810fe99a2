"""Localisation scored: every method beside its baselines, thresholds chosen on other images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from featlab import boxes as bx
from featlab.errors import FeatlabError
from featlab.localise.checks import (
    Given,
    asked_codes,
    checked_given,
    checked_names,
    checked_split,
    chosen_rows,
    known_to_all,
    picture_sizes,
    resampling_units,
)
from featlab.localise.fitting import ClassWeights, classes_without_detectors, fit_methods
from featlab.localise.matching import match_methods, match_refined
from featlab.localise.methods import Progress
from featlab.localise.refine import SUFFIX
from featlab.localise.regions import THRESHOLDS
from featlab.localise.registry import METHODS
from featlab.localise.results import localisation
from featlab.localise.scoring import per_image, score_columns, score_draws, score_method
from featlab.localise.truth import Truth, find_truth
from featlab.results.localisation import BASELINES, FittedMethods, Localisation

if TYPE_CHECKING:
    from featlab.store import MapStore

_ASKED = {"label": "the image's own (GT-known)", "predicted": "the predicted one"}
_N_BOOT = 1000


def evaluate(
    store: MapStore,
    split: Sequence[str] | np.ndarray | pd.Series,
    *,
    methods: Sequence[str] | None = None,
    neurons: pd.DataFrame | None = None,
    weights: ClassWeights | Mapping[str, ClassWeights] | None = None,
    network: Any | None = None,
    refine: Sequence[str] = (),
    given: Given | None = None,
    predicted: Sequence[str] | np.ndarray | pd.Series | None = None,
    target: str = "label",
    rows: Sequence[int] | np.ndarray | None = None,
    groups: Sequence[str] | np.ndarray | pd.Series | None = None,
    masks: Callable[[int], np.ndarray | None] | None = None,
    box_kind: str | None = None,
    layer: str | Sequence[str] | None = None,
    random_state: int = 0,
    progress: Progress | None = None,
) -> Localisation:
    """Where in the picture: boxes from heat maps, on the test rows, beside baselines.

    Methods: those of the registry (``METHODS``; :func:`register` adds more), some of which need
    `neurons`, `weights` or `network`. Those that learn from boxes of train images say so in the
    column ``supervision``.
    Baselines: ``random_neuron`` (a live neuron drawn for each class; the mean of ten such draws),
    ``centre_gaussian``, ``whole_image``, ``mean_box`` (of the train rows). Each method has one
    threshold, chosen on the confirm rows (:func:`stable_threshold`).

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
    refine : sequence of str, optional
        Methods whose boxes are also corrected by a ridge regression on the boxes of the train rows
        (:func:`fit_correction`): further rows ``<method>_refined``, of supervision "boxes" and
        without a threshold to choose. Without boxes of train rows there are none.
    given : mapping of str to ndarray, optional
        Further methods, computed elsewhere: name → heat maps ``(n, h, w)`` over the network's input
        or boxes ``(n, 4)`` in pixels of the originals, for all images of the store. A row that was
        not computed is NaN throughout; such an image is left out for *every* method, so that all
        are scored on the same images (``table.attrs["n_without_given"]`` counts them).
    predicted : array-like of str of shape (n,), optional
        A head's class for each image, for Top-1 Loc and `target`.
    target : {"label", "predicted"}
        The class that heat maps are made for: the image's own (GT-known Loc), or the predicted one.
    rows : sequence of int, or mask of shape (n,), optional
        Only these images are scored, and tuned on; all train rows are learnt from. All by default.
    groups : array-like of str of shape (n,), optional
        Images that are resampled together; by default the store's, "" is no group.
    masks : callable, optional
        For a row number the picture's mask (height, width), of any size: 1 on the object, 0 beside
        it, ``boxes.IGNORE`` where nobody knows; or None. Called for the scored images, for PxAP.
    box_kind : str, optional
        Which kind of boxes is the truth; needed where the box table has several.
    layer : str or sequence of str, optional
        The last stored layer by default. Of several layers the heat maps of each method are fused
        (:func:`fuse_heats`); `neurons` then holds the detectors of all of them, and `weights` and
        `network` map each layer to its own.
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
        `box_kind` is missing or unknown; split, neurons, weights, given, predicted or rows do not
        fit the store; a given name is taken; `target` is another word; `refine` names a method
        that is not scored.

    Notes
    -----
    What is held grows with the scored and tuned-on images: for each of them and each method (a
    draw counts as one) some 6.5 KB, the boxes and overlaps at all thresholds, and 4 bytes a cell,
    the heat map; never the maps themselves. Of a very large set score a sample (`rows`).

    A box that bears the name of *another* class of the store is no truth for the image's class and
    is left out.
    """
    n = len(store.images)
    taken = {*METHODS, *BASELINES}
    given = checked_given(given, n, taken | {name + SUFFIX for name in taken})
    use, known = chosen_rows(rows, n), known_to_all(given, n)
    truth = find_truth(store, checked_split(split, n), box_kind, use=use, known=known)
    names = None if predicted is None else checked_names(store, predicted)
    asked = asked_codes(store, names, target)
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
    for name in refine:
        if name not in fitted.methods or name in BASELINES:
            allowed = ", ".join(known for known in fitted.methods if known not in BASELINES)
            raise FeatlabError(f"refine must be from {allowed} (those scored), got {name!r}.")
    attrs = _attrs(truth, fitted, box_kind)
    attrs["target"], attrs["class_asked_for"] = target, _ASKED[target]
    if not len(truth.scored):
        return localisation([], [], attrs, fitted)
    both = np.unique(np.concatenate([truth.scored, truth.tuning]))
    scored_ones = set(truth.scored.tolist())
    pictured = [masks(row) if masks and row in scored_ones else None for row in both.tolist()]
    found, seconds = match_methods(
        store,
        both,
        truth,
        fitted,
        codes=asked[both],
        given=given,
        masks=pictured,
        progress=progress,
    )
    corrected, further = match_refined(store, both, truth, fitted, found, refine, pictured)
    found |= corrected
    seconds |= {name: spent + seconds[_base(name)] for name, spent in further.items()}
    labels = store.images["label"].to_numpy(str)
    right = None if names is None else (names == labels)[truth.scored]
    scored = {
        name: [
            score_method(
                one,
                scored=np.searchsorted(both, truth.scored),
                tuning=np.searchsorted(both, truth.tuning),
                centre_in_box=lambda boxes: bx.centre_in_box(boxes, truth.scored, truth.boxes),
                right_class=right,
            )
            for one in found[name]
        ]
        for name in sorted(found, key=_place)
    }
    units = resampling_units(store, groups)[truth.scored]
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
        table.append(
            {
                "method": method,
                "baseline": method in BASELINES,
                **_origin(method, fitted, given, target),
                **score_columns(scores, pd.DataFrame(draws[method]), attrs["n_groups"]),
                "seconds_per_1000": seconds[method] / len(scores) / len(both) * 1000,
            }
        )
        images.append(
            per_image(scores).assign(method=method, row=truth.scored, label=labels[truth.scored])
        )
    return localisation(table, images, attrs, fitted, scored, draws)


def _origin(method: str, fitted: FittedMethods, given: Given, target: str) -> dict[str, str]:
    """What a method learnt from, and the class its heat maps are of."""
    if method in given:
        return {"supervision": "network", "class_asked": "as given"}
    if method not in fitted.methods and _base(method) in fitted.methods:
        return {"supervision": "boxes", "class_asked": target}
    if method in fitted.methods:
        return {"supervision": fitted.methods[method].supervision, "class_asked": target}
    return {"supervision": "none", "class_asked": "none"}


def _base(method: str) -> str:
    """The method whose boxes were refined, or the method itself."""
    return method.removesuffix(SUFFIX)


def _place(method: str) -> int:
    """Baselines come last, in their own order."""
    return BASELINES.index(method) if method in BASELINES else -1


def _order_by_truth(store: MapStore, truth: Truth) -> np.ndarray:
    """An order of the scored images that depends on pictures and boxes, not on row numbers."""
    sums = truth.boxes.groupby("image")[bx.CORNERS].sum().loc[truth.scored]
    return np.lexsort([*sums.to_numpy().T, *picture_sizes(store)[truth.scored].T])


def _attrs(truth: Truth, fitted: FittedMethods, box_kind: str | None) -> dict[str, Any]:
    kinds = truth.boxes["kind"].unique()
    return {
        "box_kind": box_kind if box_kind is not None else "".join(kinds),
        "layer": ", ".join(fitted.contexts),
        "delta": 0.5,
        "n_thresholds": len(THRESHOLDS),
        "threshold_from": truth.tuned_on,
        "n_boot": _N_BOOT,
        "n_threshold_images": len(truth.tuning),
        "n_without_given": truth.n_without_given,
        "seconds": "heat maps, an equal part of reading the maps, and the match with the boxes; "
        "of given methods the match alone",
        "classes_without_detectors": classes_without_detectors(fitted),
    }
