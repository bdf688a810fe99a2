"""What is told of a set without labels, too: own classes, clusters, heat maps, the audit.

And of one with boxes: how many of them it takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit

from featlab import localise
from featlab.arguments import (
    Progress,
    check_whole,
    effective_units,
    group_codes,
    row_numbers,
    split_sides,
    stratified_rows,
    true_boxes,
    whole_numbers,
)
from featlab.audit.sets import audit_unlabelled
from featlab.boxes.geometry import CORNERS
from featlab.boxes.scores import max_box_acc_v2
from featlab.embed.planes import FEWEST_CLUSTERED, cluster_images, embed_images
from featlab.errors import FeatlabError
from featlab.intervals import bootstrap_draws, draws_interval
from featlab.localise.fitting import fit_methods, train_cells
from featlab.localise.heat import fuse_heats, label_codes, normalise, picture_sizes, read
from featlab.localise.methods import METHODS, compressed, scored_cells
from featlab.localise.regions import FIXED_THRESHOLD, GRID, score_heats
from featlab.neurons import rank_neurons
from featlab.own import own_boxes, own_heats, own_pictures, own_set, own_votes
from featlab.pipeline.detectors import selection_of
from featlab.pipeline.pictures import Load, boxes_at, heats_on_pictures, true_corners
from featlab.results.analysis import HeadResults
from featlab.results.images import Audit, Clusters, OwnClasses, SetMaps
from featlab.results.localisation import Context
from featlab.results.pictures import Examples
from featlab.store import MapStore

VOTES = ("votes_for", "vote", "vote_agreement", "vote_agreement_low", "vote_agreement_high")
"""Columns of the neuron table."""
BLIND = ("sum", "eigen_cam", "ddt")
"""Heat-map methods that need no labels."""
_NEURON_COLUMNS = (
    *("layer", "pooling", "class", "neuron", "reference", "direction"),
    *("auroc", "effect", "rank", "p", "p_adjusted", "auroc_confirmed"),
)
_NO_DETECTORS = ("detector", "confirmed")
_TYPICAL, _TELLING = 5, 10  # images and neurons told of each cluster
_SIZES = (5, 20, 80, 320, 1280)
_FEWEST_BOXED = 10  # train images with a box that a curve is made of
_MOST_ON_CURVE = 100  # test images that it is scored on
_MOST_TAUGHT = 20_000  # train images with a box that teach it
_MOST_LOCALISED = 5000  # images with boxes that thresholds are chosen on, and that are scored
_LEARNER = "cell_boxes"
_CURVE_COLUMNS = (
    *("method", "boxed", "n_repeats", "n"),
    *(f"max_box_acc_v2{end}" for end in ("", "_low", "_high", "_sd")),
)
_N_PICTURES = 6  # pictures under the map of their own class


def heads_and_neurons(made: Mapping[str, Any]) -> dict[str, Any]:
    """How the detectors were selected; of a set without labels, that there is no head or neuron."""
    if "all_neurons" in made:
        return {"selection": selection_of(made["all_neurons"])}
    heads = HeadResults(pd.DataFrame({"head": []}), pd.DataFrame(columns=["head", "row"]), {}, [])
    neurons = pd.DataFrame(columns=[*_NEURON_COLUMNS, *_NO_DETECTORS])
    return {"heads": heads, "neurons": neurons.astype(dict.fromkeys(_NO_DETECTORS, bool))}


def own_classes(store: MapStore) -> OwnClasses | None:
    """What the network itself calls the pictures; None where it has no classifier."""
    head = store.own_head
    if head is None:
        return None
    boxes = own_boxes(store) if head.linear else None
    return OwnClasses(len(head.classes), own_pictures(store), own_set(store), boxes)


def with_votes(store: MapStore, neurons: pd.DataFrame, random_state: int) -> pd.DataFrame:
    """The neuron table with the network's own class that each neuron votes for.

    Of the layer and the pooling that the network's head stands on; empty for the other rows.
    """
    head = store.own_head
    if head is None or not head.linear:
        return neurons
    votes = own_votes(store, random_state=random_state).set_index("neuron")
    here = (neurons["layer"] == head.layer) & (neurons["pooling"] == "mean")
    columns = {name: neurons["neuron"].map(votes[name]).where(here) for name in VOTES}
    columns["votes_for"] = columns["votes_for"].fillna("")
    return neurons.assign(**columns)


def own_examples(
    store: MapStore, load: Load, own: OwnClasses | None, random_state: int
) -> Examples | None:
    """Pictures under the class activation map of what the network calls them, with the box."""
    if own is None or own.boxes is None:
        return None
    drawn = np.random.default_rng(random_state).permutation(len(store))[:_N_PICTURES]
    rows = [int(row) for row in np.sort(drawn)]
    first = own.pictures[own.pictures["rank"] == 1].set_index("row")
    boxes = own.boxes.set_index("row").loc[rows, CORNERS]
    heats = heats_on_pictures(store, rows, own_heats(store, rows))
    return Examples(
        rows=rows,
        pictures=[load(row) for row in rows],
        neurons=[("class activation map", -1)],
        heats=[np.maximum(heat, 0)[np.newaxis] for heat in heats],
        true_boxes=[np.zeros((0, 4))] * len(rows),
        labels=[str(first.loc[row, "own_class"]) for row in rows],
        predicted_boxes=list(boxes.to_numpy(float)),
    )


def audit_without_labels(
    store: MapStore, pairs: pd.DataFrame, unlabelled: bool, box_kind: str | None
) -> Audit:
    """Copies, pictures, captions and outliers of a set without labels."""
    assert unlabelled
    return audit_unlabelled(store, pairs, box_kind=box_kind)


def without_clusters(made: Mapping[str, Any], n: int) -> dict[str, str]:
    """Why :func:`clusters` of `n` images made none; empty where it made some, or was not run."""
    if made.get("clusters", made) is not None:
        return {}
    few = f"fewer than {FEWEST_CLUSTERED} images are not clustered, got {n}"
    return {"clusters": few if n < FEWEST_CLUSTERED else "the images are too alike"}


def clusters(
    store: MapStore, X: pd.DataFrame, load: Load, unlabelled: bool, random_state: int
) -> Clusters | None:
    """The set at a glance: clusters, their typical images, the neurons that tell them.

    None of fewer than 20 images, or where they are all alike.
    """
    assert unlabelled
    if len(X) < FEWEST_CLUSTERED:
        return None
    try:
        codes, distance, choice = cluster_images(X, random_state=random_state)
    except FeatlabError:  # all alike
        return None
    width = len(str(codes.max() + 1))
    names = np.array([f"cluster {code + 1:0{width}d}" for code in codes], dtype=object)
    images = pd.DataFrame(
        {"row": np.arange(len(X)), "path": store.images["path"], "cluster": names,
         "distance": distance}
    )  # fmt: skip
    near = images.sort_values(["cluster", "distance", "row"]).groupby("cluster", sort=True)
    typical = near.head(_TYPICAL)
    table = pd.DataFrame(
        {
            "n": near.size(),
            "share": near.size() / len(images),
            "typical": typical.groupby("cluster")["path"].agg("|".join),
        }
    )
    return Clusters(
        table=table.rename_axis("cluster").reset_index(),
        images=images,
        choice=choice,
        neurons=_telling(X, pd.Series(names, index=X.index)),
        embedding=embed_images(X, random_state=random_state),
        pictures={int(row): load(int(row)) for row in typical["row"]},
    )


def _telling(X: pd.DataFrame, names: pd.Series) -> pd.DataFrame:
    """The neurons that tell each cluster from the rest; no p: the clusters are made of them."""
    ranked = rank_neurons(X, names)
    first = ranked[ranked["auroc"] > 0.5].sort_values(
        ["class", "auroc", "neuron"], ascending=[True, False, True]
    )
    first = first.groupby("class", sort=True).head(_TELLING).rename(columns={"class": "cluster"})
    kept = ["cluster", "layer", "neuron", "auroc", "mean", "mean_ref"]
    table = first[kept].reset_index(drop=True)
    table.attrs = {}
    return table


def set_maps(
    store: MapStore,
    split: pd.Series,
    load: Load,
    truth: pd.DataFrame,
    unlabelled: bool,
    box_kind: str | None,
    random_state: int,
    progress: Progress | None,
) -> SetMaps:
    """Heat maps and a box of every image by each method that needs no labels.

    Where there are boxes, thresholds are chosen on the confirm images and the boxes scored on the
    test images; else the threshold is the fixed one.
    """
    assert unlabelled
    scored = localise.evaluate_localisation(
        store, split, methods=BLIND, box_kind=box_kind, random_state=random_state,
        options=localise.LocalisationOptions(progress=progress),
    )  # fmt: skip
    table = scored.table.copy()
    if len(table):
        table.loc[~table["baseline"].astype(bool), "supervision"] = "none"
        table["class_asked"] = "none"
    known = dict(zip(table.get("method", []), table.get("threshold", []), strict=True))
    thresholds = {name: _threshold(known.get(name)) for name in BLIND}
    rows = np.arange(len(store))
    parts = []
    for some in np.array_split(rows, max(1, len(rows) // 512)):
        heats = localise.heat_maps(store, some, scored.fitted)
        for name in BLIND:
            corners = boxes_at(store, some.tolist(), heats[name], thresholds[name])
            part = pd.DataFrame({"row": some, "path": store.images["path"].to_numpy()[some],
                                 "method": name, "threshold": thresholds[name]})  # fmt: skip
            parts.append(part.assign(**dict(zip(CORNERS, corners.T, strict=True))))
    boxes = pd.concat(parts, ignore_index=True).sort_values(["row", "method"], kind="stable")
    drawn = np.sort(np.random.default_rng(random_state).permutation(rows)[:_N_PICTURES]).tolist()
    heats = localise.heat_maps(store, drawn, scored.fitted)
    first = boxes[boxes["method"] == BLIND[-1]].set_index("row")
    by_method = [heats_on_pictures(store, drawn, normalise(heats[n])) for n in BLIND]
    examples = Examples(
        rows=drawn,
        pictures=[load(row) for row in drawn],
        neurons=[(name, -1) for name in BLIND],
        heats=[np.stack(maps) for maps in zip(*by_method, strict=True)],
        true_boxes=true_corners(truth, drawn),
        labels=[str(store.images["path"].iloc[row]) for row in drawn],
        predicted_boxes=list(first.loc[drawn, CORNERS].to_numpy(float)),
    )
    return SetMaps(boxes.reset_index(drop=True), table, examples)


def _threshold(known: float | None) -> float:
    return FIXED_THRESHOLD if known is None or not np.isfinite(known) else float(known)


def localised_rows(
    labels: pd.Series, split: pd.Series, truth: pd.DataFrame, random_state: int
) -> np.ndarray:
    """All images but what a random sample of confirm and of test images with boxes leaves out.

    The boxes of an image at every threshold and by every method take 125 kB.
    """
    kept = np.ones(len(split), dtype=bool)
    boxed = np.isin(np.arange(len(split)), truth["image"])
    for side in ("confirm", "test"):
        rows = np.flatnonzero(boxed & (split == side))
        sample = stratified_rows(labels.iloc[rows], _MOST_LOCALISED, random_state)
        kept[np.delete(rows, sample)] = False
    return kept


def box_curve(
    store: MapStore,
    split: ArrayLike,
    *,
    sizes: Sequence[int] | None = None,
    n_repeats: int = 3,
    orders: Sequence[ArrayLike] | None = None,
    layer: str | Sequence[str] | None = None,
    box_kind: str | None = None,
    rows: Any = None,
    n_boot: int = 1000,
    random_state: int = 0,
) -> pd.DataFrame:
    """How many boxes does it take: V2 of ``cell_boxes`` on test rows against boxed train images.

    Parameters
    ----------
    store : MapStore
    split : array-like of str of shape (n,)
        "train", "confirm" or "test" for each image.
    sizes : sequence of int, optional
        Train images with a box; by default 5, 20, 80, 320 and 1,280 below all there are,
        and all. Of more than 20,000 a random 20,000, in the classes' shares, stand for all.
    n_repeats : int
        Random orders in which they are boxed, at least 1; of all there is one.
    orders : sequence of array-like of int, optional
        Orders (row numbers) in the place of random ones, each of all train rows with a box.
    layer : str or sequence of str, optional
        All by default; of several the heat maps are fused.
    box_kind : str, optional
        Which kind of boxes is the truth; needed where the box table has several.
    rows : sequence of int, or mask of shape (n,), optional
        Of the test rows only these are scored; all by default.
    n_boot, random_state : int
        Resamples and seed.

    Returns
    -------
    DataFrame, one row per size
        ``method``, ``boxed`` (train images with a box), ``n_repeats``, ``n`` (test images, of more
        than 100 a random 100), ``max_box_acc_v2`` (mean over the repeats) with ``_low`` and
        ``_high`` (95 %) and ``_sd`` (over the repeats; NaN for one). No row with fewer than 10
        boxed train images, or without a boxed test image.

    Raises
    ------
    FeatlabError
        `split`, `box_kind` or `layer` do not fit the store; sizes that are not whole numbers from 1
        to the train images with a box; an order that is not one of these.

    Notes
    -----
    Within a repeat a larger choice holds the smaller ones. The interval is over test images (or
    their groups), for the mean of these choices. V2 takes the best threshold of the scored images
    (an oracle, for every size alike); regions are found on half the grid. Each neuron's scale, for
    which no box is needed, rests on all train rows, as in the method itself.
    """
    truth = true_boxes(store.images, store.boxes, box_kind)
    sides = split_sides(split, len(store.images))
    boxed = np.isin(np.arange(len(sides)), truth["image"])
    learnt, test = (np.flatnonzero(boxed & (sides == side)) for side in ("train", "test"))
    learnt = learnt[stratified_rows(label_codes(store)[learnt], _MOST_TAUGHT, random_state)]
    rng = np.random.default_rng(random_state)
    test = np.intersect1d(test, row_numbers(rows, store.images))
    test = np.sort(rng.permutation(test)[:_MOST_ON_CURVE])
    check_whole("n_repeats", n_repeats, 1)
    asked = _curve_sizes(sizes, len(learnt))
    if len(learnt) < _FEWEST_BOXED or not len(test):
        return pd.DataFrame(columns=list(_CURVE_COLUMNS))
    if orders is None:
        orders = [rng.permutation(learnt) for _ in range(n_repeats)]
    choices = [
        order[:size]
        for size in asked
        for order in _orders_of(orders, learnt)[: None if size < len(learnt) else 1]
    ]
    fitted = fit_methods(
        store,
        np.flatnonzero(sides == "train"),
        "sum",
        boxes=truth,
        layer=store.layers if layer is None else layer,
        random_state=random_state,
    )
    heats = [_heats_of(store, *one, truth, choices, test) for one in fitted.contexts.items()]
    own = truth[truth["image"].isin(test)]
    overlaps = [
        score_heats(
            heat,
            own[CORNERS].to_numpy(float),
            np.searchsorted(test, own["image"]),
            frames=np.asarray(store.frames)[test],
            sizes=picture_sizes(store, test),
            grid=GRID // 2,
        ).iou_any
        for heat in fuse_heats(heats)
    ]
    groups = store.images["group"].to_numpy(str)[test]
    table = []
    for size in asked:
        several = [one for one, some in zip(overlaps, choices, strict=True) if len(some) == size]
        table.append(
            {
                **{"method": _LEARNER, "boxed": size, "n_repeats": len(several), "n": len(test)},
                **_mean_v2(several, groups, n_boot, random_state),
            }
        )
    return pd.DataFrame(table, columns=list(_CURVE_COLUMNS))


def _curve_sizes(sizes: Sequence[int] | None, most: int) -> list[int]:
    """Those asked for; by default the usual ones below `most`, and that."""
    if sizes is None:
        return [*(size for size in _SIZES if size < most), most]
    asked = sorted(set(whole_numbers("sizes", sizes)))
    if asked[-1] > most:
        raise FeatlabError(
            f"sizes must be at most the {most} train images with a box, got {asked[-1]}."
        )
    return asked


def _orders_of(orders: Sequence[ArrayLike], learnt: np.ndarray) -> list[np.ndarray]:
    """Orders of the train rows with a box, checked."""
    checked = [np.asarray(order) for order in orders]
    for order in checked:
        if not np.array_equal(np.sort(order), learnt):
            raise FeatlabError(
                f"each of orders must hold the {len(learnt)} train rows with a box once, got "
                f"{len(order)} numbers."
            )
    return checked


def _heats_of(
    store: MapStore,
    layer: str,
    context: Context,
    truth: pd.DataFrame,
    choices: Sequence[np.ndarray],
    rows: np.ndarray,
) -> np.ndarray:
    """Heat maps ``(choices, k, h, w)`` of some rows, taught by the boxes of each choice of rows.

    The maps are read once, and each choice's weights are a column of one product.
    """
    fit = METHODS[_LEARNER].fit
    assert fit is not None
    learnt = np.unique(np.concatenate(choices))
    drawn = train_cells(store, learnt, label_codes(store), truth, context, layer=layer)
    # Their activations are large, and have said what they can.
    drawn = replace(scored_cells(drawn, context.scale), values=np.empty((0, 0)))
    weights, offsets = [], []
    for some in choices:
        model = fit(replace(drawn, boxed=np.isin(drawn.images, some)), context)
        one, offset = (np.zeros(len(context.scale)), 0.0) if model is None else model
        weights.append(one)
        offsets.append(offset)
    scores = [
        compressed(read(maps, context.centre), context.scale)
        @ np.stack(weights, axis=1).astype(np.float32)
        for _, maps in store.iter_maps(rows=rows, layer=layer)
    ]
    return np.moveaxis(expit(np.concatenate(scores) + np.array(offsets, dtype=np.float32)), 3, 0)


def _mean_v2(
    overlaps: Sequence[np.ndarray], groups: np.ndarray, n_boot: int, random_state: int
) -> dict[str, float]:
    """V2 of several fits, its mean's interval over images or groups, its spread over the fits."""
    each = [float(max_box_acc_v2(one)) for one in overlaps]
    codes = group_codes(groups, len(groups))
    draws = bootstrap_draws(
        lambda weights: np.mean([max_box_acc_v2(one, weights=weights) for one in overlaps], axis=0),
        len(groups),
        groups=groups,
        n_boot=n_boot,
        random_state=random_state,
    )
    low, high = draws_interval(draws, effective_units(codes), random_state=random_state)
    spread = float(np.std(each, ddof=1)) if len(each) > 1 else float("nan")
    names = (f"max_box_acc_v2{end}" for end in ("", "_low", "_high", "_sd"))
    return dict(zip(names, (float(np.mean(each)), low, high, spread), strict=True))
