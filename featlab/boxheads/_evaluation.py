"""Box heads fitted on stored maps, scored on test images beside what needs no map."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from featlab.arguments import (
    Progress,
    check_choice,
    check_choices,
    check_same_rows,
    check_whole,
    group_codes,
    group_names,
    split_sides,
    tracked,
)
from featlab.boxes import geometry as bx
from featlab.boxheads._inputs import (
    KEPT_SCORES,
    POLICIES,
    TARGETS,
    BoxedImages,
    Floats,
    Maps,
    Reduction,
    boxed_images,
    fit_and_test,
    fit_reduction,
    folds_of,
    reduced_maps,
    sampled,
    score_of,
)
from featlab.boxheads._linear import (
    Components,
    FitData,
    ScoreHead,
    mlp_head,
    pls_head,
    ridge_head,
    ridge_out_of_fold,
)
from featlab.boxheads._regional import boosting_head, cascade_head, plain_arrays
from featlab.intervals import interval_name, mean_interval
from featlab.results.localisation import BoxHead, BoxHeadResults
from featlab.store import MapStore
from featlab.store.network import network_facts

HEADS = ("cascade", "ridge_pca", "pls", "mlp", "gradient_boosting")
"""Every regression head, by name."""
BASELINES = ("mean_box", "whole_image", "centre")
"""Boxes that look at no map: scored beside every head."""
SCORES = ("mean_iou", "box_accuracy", "box_accuracy_70", "centre_in_box")
TABLE_COLUMNS = [
    *("head", "baseline", "n_fit", "n"),
    *(f"{score}{end}" for score in SCORES for end in ("", "_low", "_high")),
    *("interval", "parameters", "seconds"),
]
IMAGE_COLUMNS = ["head", "row", "label", "iou", *bx.CORNERS, "centre_in_box", "hit"]
_HELD_COLUMNS = ["head", "row", *bx.CORNERS, "iou"]

_ON_RIDGE = ("cascade", "ridge_pca")
_SHARES = np.arange(0.2, 1.001, 0.05)


class _Head(Protocol):
    @property
    def parameters(self) -> str: ...

    def predict(self, maps: Maps, total: Maps) -> Floats: ...


Predicted = dict[str, tuple[Floats, str, float]]  # head → boxes in pixels, parameters, seconds


def evaluate_box_heads(
    store: MapStore,
    split: ArrayLike,
    *,
    box_kind: str | None = None,
    heads: Sequence[str] = HEADS,
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
    drawn by class. The network is never run. An image with several true boxes counts by the best
    of them, as everywhere.

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
        Which box is learned where an image has several: the largest, or the one that a
        cross-validated first ridge overlaps best (the largest where it overlaps none).
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
        120 trees on statistics (centroid, spread, extent at five levels) of three heat maps: the
        sum of all maps, and two directions of the channels that tell inside from outside the boxes.
    ``cascade``
        ``ridge_pca``, then up to five corrections by a ridge on the maps sampled around the box,
        trained on boxes shifted at random; as in the box regression of detection networks.

    Baselines, the first two those of ``evaluate_localisation``: ``mean_box`` (of all true boxes of
    the train rows, in units of the picture; left out where there are none), ``whole_image``, and
    ``centre``, the box in the middle of the picture whose share of its sides is best on the boxes
    learned from.

    References
    ----------
    Cai & Vasconcelos (2018). Cascade R-CNN: delving into high quality object detection. CVPR.
    """
    names = check_choices("heads", heads, HEADS)
    check_choice("target", target, TARGETS)
    check_choice("policy", policy, POLICIES)
    check_whole("n_boot", n_boot, 1)
    layer = store.layer_name(layer)
    check_same_rows(images=store.images, split=split)
    sides = split_sides(split, len(store))
    labels = store.images["label"].to_numpy()
    every = boxed_images(store, box_kind)
    images = sampled(every, sides, labels, random_state)
    fit, test = fit_and_test(sides, images)
    groups = group_names(store.images["group"], len(store))[images.rows]
    reduction = fit_reduction(store, images.rows[fit], layer=layer)
    maps, total = reduced_maps(store, images.rows, reduction, layer=layer)
    data = FitData(
        maps=maps[fit],
        total=total[fit],
        boxes=images.targets[fit],
        folds=folds_of(groups[fit], random_state),
        target=target,
        random_state=random_state,
    )
    data, components = _learned(data, images, fit, policy)

    def boxes_of(head: _Head) -> Floats:
        return images.to_pixels(head.predict(maps[test], total[test]), test)

    predicted, fitted = _predicted(tracked(names, progress), data, components, boxes_of)
    sizes = images.sizes[test]
    predicted |= _without_maps(_mean_box(every, sides), _centre_box(images, fit, data.boxes), sizes)
    scorer = Scorer(
        images.rows[test], images.boxes, groups=groups[test], n_boot=n_boot,
        random_state=random_state,
    )  # fmt: skip
    facts = {
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
    results = _results(predicted, scorer, labels[images.rows[test]], len(fit), facts)
    scores = results.table.set_index("head")
    plain, tables = {}, [pd.DataFrame(columns=_HELD_COLUMNS)]
    for name, head in fitted.items():
        own = _plain_head(name, head, reduction, store, layer)
        if own is not None:
            measured = {score: score_of(scores.loc[name], score) for score in KEPT_SCORES}
            plain[name] = replace(own, measured=measured)
            tables.append(_held_out(images, fit, getattr(head, "held", None)).assign(head=name))
    held = pd.concat([one for one in tables if len(one)] or tables, ignore_index=True)
    return replace(results, fitted=plain, held=held[_HELD_COLUMNS])


def refit_box_head(results: BoxHeadResults, name: str, store: MapStore) -> BoxHead:
    """A head of earlier results, tuned and fitted anew on all images with a box.

    Parameters
    ----------
    results : BoxHeadResults
        Say how: kind of box, target, policy, layer, seed.
    name : str
        Of ``results.fitted``.
    store : MapStore
        That they were made of; of more than 10,000 images with a box about as many drawn by class.

    Returns
    -------
    BoxHead
        Its ``measured`` is that of the head that was scored.
    """
    asked, layer = results.facts, results.facts["layer"]
    seed, every = asked["random_state"], boxed_images(store, asked["box_kind"])
    labels = store.images["label"].to_numpy()
    images = sampled(every, np.full(len(store), "train"), labels, seed)
    groups = group_names(store.images["group"], len(store))[images.rows]
    reduction = fit_reduction(store, images.rows, layer=layer)
    maps, total = reduced_maps(store, images.rows, reduction, layer=layer)
    data = FitData(maps, total, images.targets, folds_of(groups, seed), asked["target"], seed)
    data, components = _learned(data, images, np.arange(len(images.rows)), asked["policy"])
    fitted = _fit_head(name, data, components, lambda: ridge_head(data, components))
    head = _plain_head(name, fitted, reduction, store, layer)
    assert head is not None, name  # that of the results was plain
    return replace(head, measured=results.fitted[name].measured)


def _learned(
    data: FitData, images: BoxedImages, fit: np.ndarray, policy: str
) -> tuple[FitData, Components]:
    """The same with the boxes that the policy learns, and the components of its maps."""
    components = Components(data.maps, data.random_state)
    if policy == "best_match":
        matching = images.best_matching(ridge_out_of_fold(data, components), fit)
        data = replace(data, boxes=matching)
    return data, components


def _predicted(
    names: Iterable[str],
    data: FitData,
    components: Components,
    boxes_of: Callable[[_Head], Floats],
) -> tuple[Predicted, dict[str, _Head]]:
    """Boxes of the test images, parameters and seconds of each head; and the heads."""
    spent = {"ridge": 0.0}

    @functools.cache
    def ridge() -> ScoreHead:
        """The ridge, which is the cascade's first box too; its time counts for both."""
        began = time.perf_counter()
        head = ridge_head(data, components)
        spent["ridge"] = time.perf_counter() - began
        return head

    predicted, heads = {}, {}
    for name in names:
        began, earlier = time.perf_counter(), spent["ridge"]
        head = heads[name] = _fit_head(name, data, components, ridge)
        boxes = boxes_of(head)
        seconds = time.perf_counter() - began + (earlier if name in _ON_RIDGE else 0.0)
        predicted[name] = (boxes, head.parameters, seconds)
    return predicted, heads


def _plain_head(
    name: str, head: Any, reduction: Reduction, store: MapStore, layer: str
) -> BoxHead | None:
    """A fitted head as its file has it; None of trees, which are objects of a library."""
    arrays = plain_arrays(head)
    if arrays is None:
        return None
    arrays |= {"channel_mean": reduction.mean, "channel_axes": reduction.axes}
    return BoxHead(
        name=name,
        layer=layer,
        target=head.target,
        context=getattr(head, "context", 1.0),
        steps=getattr(head, "steps", 0),
        # As they are read again: sums over another order in memory end in other digits.
        arrays={part: np.ascontiguousarray(values) for part, values in arrays.items()},
        network=network_facts(store.provenance),
    )


def _held_out(images: BoxedImages, fit: np.ndarray, boxes: Floats | None) -> pd.DataFrame:
    """The boxes that the images fitted on got from folds without them, and their IoU."""
    some, boxes = (fit[:0], np.zeros((0, 4))) if boxes is None else (fit, boxes)
    pixels, rows = images.to_pixels(boxes, some), images.rows[some]
    table = pd.DataFrame(pixels, columns=bx.CORNERS)
    return table.assign(row=rows, iou=bx.best_iou(pixels, rows, images.boxes))


def _fit_head(
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


def _mean_box(images: BoxedImages, sides: np.ndarray) -> Floats | None:
    """Of all true boxes of the train rows, in units of the picture; None where there are none."""
    train = images.rows[sides[images.rows] == "train"]
    if not len(train):
        return None
    sizes = np.ones((len(sides), 2))
    sizes[images.rows] = images.sizes
    return bx.mean_box(images.boxes, sizes, train)


def _centre_box(images: BoxedImages, fit: np.ndarray, learned: Floats) -> Floats:
    """The centred box that fits the boxes learned from best, in units of the picture."""
    sizes = images.sizes[fit]
    unit = bx.unit_boxes(bx.frame_to_picture(learned, images.frames[fit], sizes), sizes)
    centred = 0.5 + np.outer(_SHARES / 2, [-1, -1, 1, 1])
    return centred[int(bx.iou(centred[:, None], unit[None]).mean(axis=1).argmax())]


def _without_maps(mean: Floats | None, centre: Floats, sizes: np.ndarray) -> Predicted:
    """The baselines' boxes for pictures of these sizes."""
    boxes = {"whole_image": bx.whole_picture_boxes(sizes), "centre": bx.pixel_boxes(centre, sizes)}
    if mean is not None:
        boxes = {"mean_box": bx.pixel_boxes(mean, sizes), **boxes}
    return {name: (baseline, "", 0.0) for name, baseline in boxes.items()}


def _results(
    predicted: Predicted,
    scorer: Scorer,
    labels: np.ndarray,
    n_fit: int,
    facts: dict[str, Any],
) -> BoxHeadResults:
    rows, images = [], []
    for name, (boxes, parameters, seconds) in predicted.items():
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
    table.attrs.update(facts)
    per_image.attrs.update(facts)
    return BoxHeadResults(table, per_image, facts)


class Scorer:
    """Scores boxes of the same images again and again, with the same resamples."""

    def __init__(
        self,
        rows: np.ndarray,
        truth: pd.DataFrame,
        *,
        groups: np.ndarray,
        n_boot: int,
        random_state: int,
    ) -> None:
        self.rows, self.truth = rows, truth
        codes = group_codes(groups, len(rows))
        self._draw: dict[str, Any] = {
            "groups": groups,
            "n_boot": n_boot,
            "random_state": random_state,
        }
        self.interval = interval_name(codes)

    def score(self, predicted: np.ndarray) -> tuple[dict[str, Any], pd.DataFrame]:
        """Scores with 95 % intervals over images or whole groups, and the same image by image.

        Parameters
        ----------
        predicted : ndarray of shape (n, 4)
            Pixels of the original pictures.
        """
        iou = bx.best_iou(predicted, self.rows, self.truth)
        centre = bx.centre_in_box(predicted, self.rows, self.truth)
        values = {
            "mean_iou": iou,
            "box_accuracy": (iou >= 0.5).astype(float),
            "box_accuracy_70": (iou >= 0.7).astype(float),
            "centre_in_box": centre,
        }
        scores: dict[str, Any] = {"n": len(iou)}
        for name, one in values.items():
            low, high = mean_interval(one, **self._draw)
            scores |= {name: float(one.mean()), f"{name}_low": low, f"{name}_high": high}
        per_image = pd.DataFrame(predicted, columns=bx.CORNERS).assign(
            row=self.rows, iou=iou, centre_in_box=centre.astype(bool), hit=iou >= 0.5
        )
        return scores, per_image
