"""Fitted results → one file; pictures → classes, boxes, and how far each may be trusted.

`fit_predictor` gathers what an analysis fitted, on train, with thresholds from confirm, so that the
scores it was measured with stay true. `Predictor.save` and `load_predictor`: arrays and JSON.
New pictures take the same pass as the set, and then the same functions as its evaluation.
`suggest_boxes` says which pictures of the set to box next.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import (
    SIDES,
    check_choice,
    check_whole,
    confirmed_detectors,
    is_unlabelled,
    split_sides,
    stratified_rows,
    true_boxes,
)
from featlab.boxes.geometry import CORNERS, best_iou
from featlab.boxheads import KEPT_SCORES, refit_box_head, score_of
from featlab.embed import representatives
from featlab.errors import FeatlabError
from featlab.heads.saved import SavedHead
from featlab.intervals import mean_interval
from featlab.localise.heat import picture_sizes
from featlab.localise.methods import untuned
from featlab.predict._file import KIND, made, read_plain, try_out
from featlab.predict._file import MODEL as MODEL
from featlab.predict._file import export_format as export_format
from featlab.predict._file import write_model as write_model
from featlab.predict._formats import FORMATS as FORMATS
from featlab.predict._formats import PAGE as PAGE
from featlab.predict._formats import PICTURES as PICTURES
from featlab.predict._formats import check_before_the_pass as check_before_the_pass
from featlab.predict._formats import earlier_answers as earlier_answers
from featlab.predict._formats import write_boxes
from featlab.predict._pages import page_predictions as page_predictions
from featlab.predict._pages import prediction_lines as prediction_lines
from featlab.predict._pages import predictions_beside_truth as predictions_beside_truth
from featlab.predict._pages import write_pictures
from featlab.predict._parts import (
    ClassSets,
    ExpectedOverlap,
    Floats,
    HeatBoxes,
    beside_real,
    box_signs,
    fit_overlap,
    fit_typicality,
    one_of_each,
)
from featlab.predict._predictor import MAPS as MAPS
from featlab.predict._predictor import PARTS as PARTS
from featlab.predict._predictor import Predictor
from featlab.results import Results
from featlab.results.localisation import BoxHead, Localisation
from featlab.store import MapStore
from featlab.store.arrays import damage_errors

__all__ = [
    "Predictor",
    "fit_predictor",
    "load_predictor",
    "suggest_boxes",
    "write_boxes",
    "write_pictures",
]

_MOST_TEMPERED = 10_000  # train images that the temperature is fitted on
_MOST_BOXED = 2_000  # confirm images that the expected overlap is fitted on
_FEWEST_BOXED = 10


def load_predictor(path: str | os.PathLike[str]) -> Predictor:
    """Read what :meth:`Predictor.save` wrote.

    Parameters
    ----------
    path : path-like
        The file, or the folder of a run with its ``model.featlab``.

    Raises
    ------
    FeatlabError
        There is none, it is of an unknown version, or damaged.
    """
    _refuse_unlabelled_run(Path(path))
    facts, arrays, path = read_plain(path)
    with damage_errors(path, KIND):
        predictor = Predictor(**made(facts, arrays, path))
        try_out(predictor)
    return predictor


def _refuse_unlabelled_run(folder: Path) -> None:
    """A run of pictures without labels leaves no predictor, however often it is made."""
    if (folder / MODEL).exists() or not (folder / "maps.h5").is_file():
        return
    with MapStore(folder / "maps.h5") as store:
        if is_unlabelled(store.images["label"]):
            raise FeatlabError(
                f"there is no predictor in {folder}: a set without labels has none, as there are "
                "no classes to answer with; give the folder of a run of a set with labels."
            )


def fit_predictor(results: Results, *, refit: bool = False) -> Predictor:
    """What an analysis fitted, ready for other pictures.

    Nothing that was scored is fitted again: head, detectors, heat maps, thresholds and box head are
    those of `results`. Fitted here: the head's temperature, on held-out folds of train; the cut of
    the sets of classes, the typicality and the expected overlap of boxes, on confirm images.

    Parameters
    ----------
    results : Results
        From ``pipeline.analyse``; its store is read.
    refit : bool
        Fit the head, and the box head if there is one, again on all labelled images, those of
        confirm and test among them (:func:`refit_predictor`).

    Returns
    -------
    Predictor

    Raises
    ------
    FeatlabError
        There are no confirm images, or no heat-map method was fitted.

    Notes
    -----
    Where images have groups, one image of each confirm group, drawn at random, calibrates: sets and
    typicality then hold for pictures of new groups.
    """
    own = fitted(results)
    rows = _boxed(results, "test")
    answers = own.of_store(results.store, rows=rows) if len(rows) else pd.DataFrame()
    own = measured(own, results, answers)
    return refit_predictor(own, results) if refit else own


def refit_predictor(own: Predictor, results: Results) -> Predictor:
    """The same with head and box head fitted on all labelled images, for use.

    Everything else stays that of the model that was scored: detectors, heat maps and thresholds,
    the temperature, the conformal scores, the typicality, the expected IoU, and every score. None
    could be made anew: images that a model was fitted on are more probable to it than new ones, so
    that scores on them are not exchangeable with those of new pictures, and a cut or a p-value from
    them would promise too much. The promise of the sets is therefore that of the model that was
    scored; the refitted one, fitted on more images, is only expected to do as well. It says so.

    Parameters
    ----------
    own : Predictor
        Of :func:`fit_predictor`, from `results`.
    results : Results
    """
    from featlab.heads.saving import refitted_head  # with scikit-learn, which asking needs not

    if own.refitted:
        raise FeatlabError("the predictor is fitted on all images already; refit the scored one.")
    store, labels = results.store, results.store.images["label"].to_numpy(str)
    model = results.heads.models[results.heads.main]
    head = refitted_head(model, store.pooled(layer=own.layer), labels, own.measured["temperature"])
    box_head, regression = own.box_head, results.box_regression
    if box_head is not None and regression is not None:
        box_head = replace(refit_box_head(regression, box_head.name, store), network={})
    new = replace(own, head=head, box_head=box_head,
                  measured={**own.measured, "refitted_on": len(labels)})  # fmt: skip
    return replace(new, measured={**new.measured, "scores_of": new.refit_sentence})


def fitted(results: Results) -> Predictor:
    """The predictor whose head, thresholds and boxes are those that were scored.

    :func:`measured` adds how good it is, once it was asked of the test images.
    """
    from featlab.heads.saving import calibrated_head  # with scikit-learn, which asking needs not

    store, sides = results.store, results.split.to_numpy(str)
    name, seed = results.heads.main, results.random_state
    layer = store.layers[-1]
    if not (sides == "confirm").any():
        raise FeatlabError("a predictor needs 'confirm' images to be calibrated on, got none.")
    groups, labels = (store.images[c].to_numpy(str) for c in ("group", "label"))
    train = np.flatnonzero(sides == "train")
    tempered = train[stratified_rows(labels[train], _MOST_TEMPERED, seed)]
    head, temperature = calibrated_head(
        results.heads.models[name],
        store.pooled(tempered, layer=layer),
        labels[tempered],
        groups=groups[tempered],
        random_state=seed,
    )
    confirm, test = (
        one_of_each(np.flatnonzero(sides == side), groups, seed) for side in ("confirm", "test")
    )
    scores, _ = _scores(head, store, layer, confirm)
    tested, right = _scores(head, store, layer, test)
    if results.localisation is None:
        raise FeatlabError("a predictor needs fitted heat maps; analyse the store again.")
    heat = _heat(results.localisation, results.store)
    own = Predictor(
        provenance=dict(store.provenance),
        classes=store.classes,
        head=head,
        detectors=_detectors(results.neurons, layer),
        sets=ClassSets(scores, np.where(right, 0.0, tested)),
        typicality=fit_typicality(store, layer, train, confirm, seed),
        heat=heat,
        box_head=None,
        overlap=None,
        measured={},
    )
    box_head, overlap = _boxes(own, results)
    unit = "one image of each group" if (groups != "").any() else "images"
    known = {"temperature": temperature, "calibrated_on": f"confirm, {unit}",
             "n_calibrated": len(confirm), "random_state": seed}  # fmt: skip
    return replace(own, box_head=box_head, overlap=overlap, measured=known)


def _scores(
    head: SavedHead, store: MapStore, layer: str, rows: np.ndarray
) -> tuple[Floats, NDArray[np.bool_]]:
    """1 minus the probability of the true class; whether that is the most probable."""
    if not len(rows):
        return np.zeros(0), np.zeros(0, dtype=bool)
    probability = head.predict_proba(store.pooled(rows, layer=layer))
    codes = np.searchsorted(head.classes_.astype(str), store.images["label"].to_numpy(str)[rows])
    score = 1 - probability[np.arange(len(rows)), codes]
    return score, probability.argmax(axis=1) == codes


def _detectors(neurons: pd.DataFrame, layer: str) -> pd.DataFrame:
    rows = confirmed_detectors(neurons, layer=layer) if len(neurons) else neurons
    return pd.DataFrame(
        {
            "class": rows["class"].astype(str),
            "neuron": rows["neuron"].astype(np.int64),
            "threshold": (rows["mean"].astype(float) + rows["mean_ref"].astype(float)) / 2,
        }
    ).reset_index(drop=True)


def _heat(localisation: Localisation, store: MapStore) -> HeatBoxes:
    """The method that was best on confirm with its threshold; else a fixed choice."""
    table, fitted = localisation.table, localisation.fitted
    # Corrected and given boxes have no heat map that a threshold would turn into them.
    own = table["method"].isin(list(fitted.methods)) & ~table["baseline"].astype(bool)
    tuned = table[own & table["threshold"].notna() & table["box_accuracy_confirm"].notna()]
    if len(tuned):
        best = tuned.iloc[tuned["box_accuracy_confirm"].to_numpy(float).argmax()]
        method, threshold = str(best["method"]), float(best["threshold"])
    else:
        method, threshold = untuned(store, fitted)
    contexts = {
        layer: replace(context, fitted={method: context.fitted.get(method)})
        for layer, context in fitted.contexts.items()
    }
    alone = replace(fitted, methods={method: fitted.methods[method]}, contexts=contexts)
    return HeatBoxes(method, threshold, bool(len(tuned)), alone)


def _boxes(own: Predictor, results: Results) -> tuple[BoxHead | None, ExpectedOverlap | None]:
    """The best box head where it beats the heat map on confirm; the overlap to expect of the boxes.

    Box heads were fitted on confirm images too: of these their boxes count that came from folds
    without them.
    """
    store, seed = results.store, results.random_state
    truth = true_boxes(store.images, store.boxes, results.box_kind)
    rows = _boxed(results, "confirm")
    regression = results.box_regression
    held: dict[str, pd.DataFrame] = {}
    if regression is not None:
        held = {str(name): one for name, one in regression.held.groupby("head", sort=False)}
    for table in held.values():
        rows = np.intersect1d(rows, table["row"].to_numpy(np.int64))
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:_MOST_BOXED])
    if len(rows) < _FEWEST_BOXED:
        return None, None
    probability = own.head.predict_proba(store.pooled(rows, layer=own.layer))
    hot, sizes = own.heat.boxes(store, rows, probability.argmax(axis=1)), picture_sizes(store, rows)
    overlap = best_iou(hot[:, 0], rows, truth)
    of_heat = fit_overlap(box_signs(hot[:, 0], hot[:, 1:], sizes), overlap)
    tables = {name: table.set_index("row").loc[rows] for name, table in held.items()}
    right = {name: float((table["iou"] >= 0.5).mean()) for name, table in tables.items()}
    # The first in the order that was asked for among equals; the heat map only where it is better.
    best = max(right, key=lambda name: right[name], default=None)
    if regression is None or best is None or right[best] < (overlap >= 0.5).mean():
        return None, of_heat
    signs = box_signs(tables[best][CORNERS].to_numpy(float), hot, sizes)
    # The predictor knows the network, and looks after it once for all of its parts.
    head = replace(regression.fitted[best], network={})
    return head, fit_overlap(signs, tables[best]["iou"].to_numpy(float))


def _boxed(results: Results, side: str) -> np.ndarray:
    """Rows of a side that have a true box, rising."""
    truth = true_boxes(results.store.images, results.store.boxes, results.box_kind)
    rows = np.flatnonzero(results.split.to_numpy(str) == side)
    return np.intersect1d(rows, truth["image"].to_numpy(np.int64))


def measured(own: Predictor, results: Results, answers: pd.DataFrame) -> Predictor:
    """The same with its scores on test images: of the head, and of the boxes that it gives.

    A heat map is that of the class predicted, so its boxes are not those that the table of heat
    maps scores, where the class is known.

    Parameters
    ----------
    own : Predictor
        Of :func:`fitted`, from `results`.
    results : Results
    answers : DataFrame
        What it says of the test images with a box, if any, or of more; its index has their rows.
    """
    heads, store = results.heads.table.set_index("head"), results.store
    scores: dict[str, Any] = {"accuracy": score_of(heads.loc[results.heads.main], "accuracy")}
    if own.box_head is not None:
        scores |= own.box_head.measured
    rows = _boxed(results, "test")
    if len(rows):
        said = answers.loc[rows]
        truth = true_boxes(store.images, store.boxes, results.box_kind)
        overlap = best_iou(said[CORNERS].to_numpy(float), rows, truth)
        if own.box_head is None:
            groups = store.images["group"].to_numpy(str)[rows]
            scores |= _overlap_scores(overlap, groups, results.random_state)
        if own.overlap is not None:
            scores["box_score"] = beside_real(said["box_score"].to_numpy(float), overlap)
    return replace(own, measured={**scores, **own.measured})


def _overlap_scores(overlap: Floats, groups: np.ndarray, seed: int) -> dict[str, Any]:
    scores = {}
    for name, values in zip(KEPT_SCORES, (overlap, (overlap >= 0.5).astype(float)), strict=True):
        low, high = mean_interval(values, groups=groups, random_state=seed)
        scores[name] = {"value": float(values.mean()), "low": low, "high": high, "n": len(values)}
    return scores


def suggest_boxes(
    predictor: Predictor,
    store: MapStore,
    split: ArrayLike,
    most: int = 20,
    *,
    side: str = "train",
    box_kind: str | None = None,
    random_state: int = 0,
) -> pd.DataFrame:
    """Which images to box next, and the predictor's own boxes of them, to be corrected.

    Of train, from which boxes are learnt, those that stand for most others that have none like them
    (:func:`featlab.embed.representatives` of the pooled maps): typical ones first, then what is
    unlike all that is boxed. Of confirm and test, where boxes choose thresholds and measure, a
    random draw: chosen images would not measure what others would.

    Parameters
    ----------
    predictor : Predictor
    store : MapStore
        Of the set; its boxes are those drawn so far.
    split : array-like of str of shape (n,)
        "train", "confirm" or "test" for each image, as in the predictor's analysis.
    most : int
        Images to suggest, at least 1.
    side : {"train", "confirm", "test"}
        From which side of the split.
    box_kind : str, optional
        Which kind of boxes counts; needed where the box table has several.
    random_state : int
        Seed of the draw.

    Returns
    -------
    DataFrame, one row per image, the first to box first
        ``row`` (of the image table), ``path, width, height, class`` (its label), ``why`` (in
        words), ``score`` (what it adds to the mean likeness of the images to the boxed ones, 0 to
        1; NaN for a random draw), ``xmin, ymin, xmax, ymax`` (the box to correct, pixels; empty
        where nothing is hot), ``box_method`` and ``box_score`` (expected IoU; NaN where unknown).

    Raises
    ------
    FeatlabError
        An unknown side or kind of box; every image of the side has a box; a class that the
        predictor does not know.
    """
    check_choice("side", side, SIDES)
    check_whole("most", most, 1)
    truth = true_boxes(store.images, store.boxes, box_kind)
    sides = split_sides(split, len(store.images))
    rows = np.flatnonzero(sides == side)
    boxed = np.intersect1d(rows, truth["image"].to_numpy(np.int64))
    free = np.setdiff1d(rows, boxed)
    if not len(free):
        raise FeatlabError(f"every {side} image has a box already; there is none left to suggest.")
    if side == "train":
        X = store.pooled(layer=predictor.layer)
        table = representatives(X, most, rows=rows, given=boxed, random_state=random_state)
    else:
        drawn = np.random.default_rng(random_state).permutation(free)[:most]
        table = pd.DataFrame({"row": drawn, "gain": np.nan, "likeness": 0.0, "stands_for": 0})
    columns = zip(table["gain"], table["likeness"], table["stands_for"], strict=True)
    why = [_why(len(boxed) + k, *one) for k, one in enumerate(columns)]
    numbers = table["row"].to_numpy(np.int64)
    images = store.images.iloc[numbers].reset_index(drop=True)
    labels = images["label"].to_numpy(str)
    for label in sorted(set(labels)):
        check_choice("the class of an image", label, predictor.classes)
    boxes, signs = predictor.boxes(store, numbers, np.searchsorted(predictor.classes, labels))
    unknown = np.full(len(numbers), np.nan)
    return pd.DataFrame(
        {
            "row": numbers,
            **{
                name: store.images[name].to_numpy()[numbers] for name in ("path", "width", "height")
            },
            "class": labels,
            "why": why,
            "score": table["gain"].to_numpy(float),
            **dict(zip(CORNERS, boxes.T, strict=True)),
            "box_method": predictor.box_method,
            "box_score": unknown if predictor.overlap is None else predictor.overlap.of(signs),
        }
    )


def _why(before: int, gain: float, likeness: float, stands_for: int) -> str:
    """Why an image is suggested, `before` having a box or being suggested already."""
    if np.isnan(gain):
        return "are drawn at random, so that their boxes measure fairly"
    like = f"{stands_for} train image{'' if stands_for == 1 else 's'} without a box most like it"
    if not before:
        return f"the most typical; {like}"
    return f"{like}; cosine to the nearest before it {likeness:.2f}"
