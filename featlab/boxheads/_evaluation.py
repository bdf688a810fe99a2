"""Box heads fitted on stored maps, scored on test images beside what needs no map."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from featlab import boxes as bx
from featlab.boxheads._boosting import boosting_head
from featlab.boxheads._cascade import cascade_head
from featlab.boxheads._inputs import (
    checked_heads,
    checked_split,
    fit_and_test,
    folds_of,
    sampled,
)
from featlab.boxheads._linear import (
    Components,
    FitData,
    Floats,
    ScoreHead,
    mlp_head,
    pls_head,
    ridge_head,
    ridge_out_of_fold,
)
from featlab.boxheads._maps import Maps, reduced_maps
from featlab.boxheads._scores import SCORES, Scorer
from featlab.boxheads._targets import POLICIES, TARGETS, BoxedImages, boxed_images
from featlab.heads._inputs import check_at_least, check_choice
from featlab.results.boxheads import BoxHeadResults

if TYPE_CHECKING:
    from featlab.store import MapStore

Progress = Callable[[Iterable[Any]], Iterable[Any]]

HEADS_DEFAULT = ("cascade", "ridge_pca", "pls", "mlp", "gradient_boosting")
"""Regression heads that are fitted unless told otherwise."""
HEADS = HEADS_DEFAULT
"""Every regression head, by name."""
_ON_RIDGE = ("cascade", "ridge_pca")
BASELINES = ("mean_box", "whole_image", "centre")
"""Boxes that look at no map: scored beside every head."""
TABLE_COLUMNS = [
    "head",
    "baseline",
    "n_fit",
    "n",
    *(f"{score}{end}" for score in SCORES for end in ("", "_low", "_high")),
    "interval",
    "parameters",
    "seconds",
]
IMAGE_COLUMNS = ["head", "row", "label", "iou", *bx.CORNERS, "centre_in_box", "hit"]

_SHARES = np.arange(0.2, 1.001, 0.05)


class _Head(Protocol):
    @property
    def parameters(self) -> str: ...

    def predict(self, maps: Maps, total: Maps) -> Floats: ...


def evaluate_box_heads(
    store: MapStore,
    split: ArrayLike,
    *,
    box_kind: str | None = None,
    heads: Sequence[str] = HEADS_DEFAULT,
    target: str = "centre_size",
    policy: str = "largest",
    layer: str | None = None,
    random_state: int = 0,
    n_boot: int = 1000,
    progress: Progress | None = None,
) -> BoxHeadResults:
    """Regress boxes from stored maps, and score them on images that were neither fitted nor tuned.

    Fitted, and tuned by cross-validation, on the *train and confirm* rows that have a box; scored
    once on the *test* rows that have one; of more than 10,000 of either, on about as many
    drawn by class. The network is never run.

    Parameters
    ----------
    store : MapStore
    split : array_like of shape (n,)
        ``train``, ``confirm`` or ``test`` per image.
    box_kind : str, optional
        Which boxes, where the store has several kinds.
    heads : sequence of str
        From :data:`HEADS`; see Notes. The baselines are always there.
    target : {"centre_size", "corners"}
        What the whole-map heads regress, in the frame of the network's input: centre and logarithms
        of the sides, or the corners. The corrections of ``cascade`` are always the former.
    policy : {"largest", "best_match"}
        With several boxes in an image. ``largest``: the largest is learned, and is the one that
        scores. ``best_match``: learned is the box that a cross-validated first ridge overlaps best
        (the largest where it overlaps none), and any box of the image scores.
    layer : str, optional
        The last stored layer by default.
    random_state : int
        Seed of folds, shifts, networks, trees and bootstrap.
    n_boot : int
        Bootstrap samples, at least 1; of whole groups where test images share groups.
    progress : callable, optional
        Wraps the iteration over the heads.

    Returns
    -------
    BoxHeadResults

    Raises
    ------
    FeatlabError
        No boxes, or several kinds and none chosen; fewer than 10 images to fit on, or none to score
        on; an unknown head, target, policy, layer or split.

    Notes
    -----
    Everything is fitted on maps reduced to 128 principal components of their channels (of cells of
    the fitted images) and on those maps mirrored left to right, with mirrored boxes; predictions
    are the mean over a map and its mirror image. What is tuned maximises the mean IoU over folds of
    the fitted images, whole groups together; with a single group nothing is tuned.

    ``ridge_pca``
        Ridge on principal components of the flattened maps.
    ``pls``
        Partial least squares on the flattened maps.
    ``mlp``
        A hidden layer of 128 on the leading components.
    ``gradient_boosting``
        Trees on statistics (centroid, spread, extent at five levels) of three heat maps: the sum
        of all maps, and two directions of the channels that tell inside from outside the boxes.
    ``cascade``
        ``ridge_pca``, then up to five corrections by a ridge on the maps sampled around the box,
        trained on boxes shifted at random; as in the box regression of detection networks.

    Baselines: ``mean_box`` (of the boxes learned from, in units of the picture), ``whole_image``,
    and ``centre``, the box in the middle of the picture whose share of its sides is best on the
    fitted images.

    References
    ----------
    Cai & Vasconcelos (2018). Cascade R-CNN: delving into high quality object detection. CVPR.
    """
    names = checked_heads(heads, HEADS)
    check_choice("target", target, TARGETS)
    check_choice("policy", policy, POLICIES)
    check_at_least("n_boot", n_boot, 1)
    layer = store.layer_name(layer)
    sides = checked_split(split, len(store))
    labels = store.images["label"].to_numpy()
    images = sampled(boxed_images(store, box_kind), sides, labels, random_state)
    fit, test = fit_and_test(sides, images)
    groups = store.images["group"].to_numpy(str)[images.rows]
    maps, total = reduced_maps(store, images.rows, sides[images.rows] != "test", layer=layer)
    data = FitData(
        maps=maps[fit],
        total=total[fit],
        boxes=images.targets[fit],
        folds=folds_of(groups[fit], random_state),
        target=target,
        random_state=random_state,
    )
    components = Components(data.maps, random_state)
    if policy == "best_match":
        matched = images.best_matching(ridge_out_of_fold(data, components), fit)
        data = replace(data, boxes=matched)

    def boxes_of(head: _Head) -> Floats:
        return images.to_pixels(head.predict(maps[test], total[test]), test)

    shown = names if progress is None else progress(names)
    predictions = _predictions(shown, data, components, boxes_of)
    learned = bx.frame_to_picture(data.boxes, images.frames[fit], images.sizes[fit])
    for name, boxes in _baselines(learned, images.sizes[fit], images.sizes[test]).items():
        predictions[name] = (boxes, "", 0.0)
    scorer = Scorer(
        images.rows[test],
        _truth(images, test, policy),
        groups=groups[test],
        n_boot=n_boot,
        random_state=random_state,
    )
    attrs = {
        "fitted_on": "train + confirm",
        "n_folds": data.n_folds,
        "box_kind": box_kind,
        "target": target,
        "policy": policy,
        "layer": layer,
        "map_shape": list(store.map_shape(layer)),
        "random_state": random_state,
        "n_boot": n_boot,
    }
    return _results(predictions, scorer, labels[images.rows[test]], len(fit), attrs)


def _predictions(
    names: Iterable[str],
    data: FitData,
    components: Components,
    boxes_of: Callable[[_Head], Floats],
) -> dict[str, tuple[Floats, str, float]]:
    """Boxes of the test images, parameters and seconds of each head."""
    spent = {"ridge": 0.0}

    @functools.cache
    def ridge() -> ScoreHead:
        """The ridge, which is the cascade's first box too; its time counts for both."""
        began = time.perf_counter()
        head = ridge_head(data, components)
        spent["ridge"] = time.perf_counter() - began
        return head

    predictions = {}
    for name in names:
        began, earlier = time.perf_counter(), spent["ridge"]
        head = fit_head(name, data, components, ridge)
        boxes = boxes_of(head)
        seconds = time.perf_counter() - began + (earlier if name in _ON_RIDGE else 0.0)
        predictions[name] = (boxes, head.parameters, seconds)
    return predictions


def fit_head(
    name: str, data: FitData, components: Components, ridge: Callable[[], ScoreHead]
) -> _Head:
    """Fit and tune one head of :data:`HEADS`; `ridge` gives the ridge on these components."""
    if name == "gradient_boosting":
        return boosting_head(data)
    if name == "cascade":
        return cascade_head(data, components, ridge())
    if name == "ridge_pca":
        return ridge()
    return {"pls": pls_head, "mlp": mlp_head}[name](data, components)


def _truth(images: BoxedImages, test: np.ndarray, policy: str) -> pd.DataFrame:
    if policy == "best_match":
        return images.boxes
    return pd.DataFrame(images.largest[test], columns=bx.CORNERS).assign(image=images.rows[test])


def _baselines(
    learned: np.ndarray, fit_sizes: np.ndarray, sizes: np.ndarray
) -> dict[str, np.ndarray]:
    unit = bx.unit_boxes(learned, fit_sizes)
    centred = 0.5 + np.outer(_SHARES / 2, [-1, -1, 1, 1])
    best = int(bx.iou(centred[:, None], unit[None]).mean(axis=1).argmax())
    return {
        "mean_box": bx.pixel_boxes(np.tile(unit.mean(axis=0), (len(sizes), 1)), sizes),
        "whole_image": bx.whole_image_boxes(sizes),
        "centre": bx.pixel_boxes(np.tile(centred[best], (len(sizes), 1)), sizes),
    }


def _results(
    predictions: dict[str, tuple[np.ndarray, str, float]],
    scorer: Scorer,
    labels: np.ndarray,
    n_fit: int,
    attrs: dict[str, Any],
) -> BoxHeadResults:
    rows, images = [], []
    for name, (boxes, parameters, seconds) in predictions.items():
        scores, per_image = scorer.score(boxes)
        rows.append(
            {
                "head": name,
                "baseline": name in BASELINES,
                "n_fit": n_fit,
                **scores,
                "interval": scorer.interval,
                "parameters": parameters,
                "seconds": seconds,
            }
        )
        images.append(per_image.assign(head=name, label=labels))
    table = pd.DataFrame(rows)[TABLE_COLUMNS]
    per_image = pd.concat(images, ignore_index=True)[IMAGE_COLUMNS]
    table.attrs.update(attrs)
    per_image.attrs.update(attrs)
    return BoxHeadResults(table, per_image)
