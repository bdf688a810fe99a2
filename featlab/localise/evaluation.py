"""Localisation scored: every method beside its baselines, thresholds chosen on other images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from featlab.arguments import (
    Progress,
    check_choice,
    check_choices,
    check_same_rows,
    effective_units,
    group_codes,
    group_names,
    split_sides,
    text_labels,
)
from featlab.boxes.geometry import CORNERS, centre_in_box
from featlab.errors import FeatlabError
from featlab.localise.fitting import classes_without_detectors, fit_methods
from featlab.localise.heat import label_codes, picture_sizes
from featlab.localise.matching import (
    SUFFIX,
    Truth,
    boxed_where_nobody_did,
    find_truth,
    match_methods,
)
from featlab.localise.methods import METHODS
from featlab.localise.regions import STEPS, HeatScores, thresholds_of
from featlab.localise.scores import (
    SCORES,
    MethodScores,
    curve_tables,
    per_image,
    score_columns,
    score_draws,
    score_method,
)
from featlab.results.localisation import (
    BASELINES,
    BY_STUDENT,
    ClassWeights,
    FittedMethods,
    Localisation,
)
from featlab.store import MapStore

TABLE_COLUMNS = [
    "method",
    "baseline",
    "supervision",
    "class_asked",
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
    *("method", "row", "label", "iou", *CORNERS, "centre_in_box", "hit"),
    *("iou_any", "top1", "pointing", "heat_in_box"),
]
_ASKED = {"label": "the image's own (GT-known)", "predicted": "the predicted one"}
_SECONDS = (
    "heat maps, an equal part of reading the maps, and the match with the boxes; "
    "of given methods the match alone"
)
_N_BOOT = 1000


@dataclass(frozen=True)
class LocalisationOptions:
    """What is scored, and how, beyond the methods themselves.

    Attributes
    ----------
    rows : sequence of int, or mask of shape (n,), optional
        Only these images are scored, and tuned on; all train rows are learnt from. All by default.
    refine : str or sequence of str
        Methods whose boxes are also corrected by a ridge regression on the boxes of the train rows:
        further rows ``<method>_refined``, of supervision "boxes" and without a threshold to choose.
        Without boxes of train rows there are none.
    given : mapping of str to ndarray
        Further methods, computed elsewhere: name → heat maps ``(n, h, w)`` over the network's input
        or boxes ``(n, 4)`` in pixels of the originals, for all images of the store. A row that was
        not computed is NaN throughout; such an image is left out for *every* method, so that all
        are scored on the same images (``parameters["n_without_given"]`` counts them).
    predicted : array-like of shape (n,), optional
        A head's class for each image, for Top-1 Loc and `target`.
    target : {"label", "predicted"}
        The class that heat maps are made for: the image's own (GT-known Loc), or the predicted one.
    groups : array-like of shape (n,), optional
        Images that are resampled together; by default the store's, "" is no group.
    masks : callable, optional
        For a row number the picture's mask (height, width), of any size: 1 on the object, 0 beside
        it, ``boxes.IGNORE`` where nobody knows; or None. Called for the scored images, for PxAP.
    threshold_step : {0.01, 0.001}
        Step of the thresholds. The published protocol takes 0.001, which finds a little more where
        maps have sharp peaks, and costs ten times the memory (1.2 MB an image and method).
    progress : callable, optional
        Wraps the iterable of batches of maps.

    Raises
    ------
    FeatlabError
        Another step.
    """

    rows: Any = None
    refine: str | Iterable[str] = ()
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    predicted: ArrayLike | None = None
    target: str = "label"
    groups: ArrayLike | None = None
    masks: Callable[[int], np.ndarray | None] | None = None
    threshold_step: float = STEPS[0]
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.threshold_step not in STEPS:
            raise FeatlabError(f"threshold_step must be one of {STEPS}, got {self.threshold_step}.")


_DEFAULT = LocalisationOptions()


def evaluate_localisation(
    store: MapStore,
    split: ArrayLike,
    *,
    methods: str | Iterable[str] | None = None,
    neurons: pd.DataFrame | None = None,
    weights: ClassWeights | Mapping[str, ClassWeights] | None = None,
    mlp: Any | None = None,
    layer: str | Sequence[str] | None = None,
    box_kind: str | None = None,
    options: LocalisationOptions = _DEFAULT,
    random_state: int = 0,
) -> Localisation:
    """Where in the picture: boxes from heat maps, on the test rows, beside baselines.

    Methods: those of the registry (``METHODS``; :func:`register` adds more), some of which need
    `neurons`, `weights` or `mlp`. Those that learn from boxes of train images say so in the column
    ``supervision``.
    Baselines: ``random_neuron`` (a live neuron drawn for each class; the mean of ten such draws),
    ``centre_gaussian``, ``whole_image``, ``mean_box`` (of the train rows). Each method has one
    threshold, chosen on the confirm rows (``regions.stable_threshold``).

    Parameters
    ----------
    store : MapStore
    split : array-like of str of shape (n,)
        "train", "confirm" or "test" for each image.
    methods : str or sequence of str, optional
        Names of the registry; by default all that have what they need.
    neurons : DataFrame, optional
        Neuron table after ``confirm_neurons``; without it there are no detector methods.
    weights : ClassWeights, optional
        A linear head on raw mean-pooled features; without it there is no ``cam``.
    mlp : Pipeline, optional
        A fitted scaling and scikit-learn MLP on mean-pooled features, for ``mlp_cam``.
    layer : str or sequence of str, optional
        The last stored layer by default. Of several layers the heat maps of each method are fused
        (``heat.fuse_heats``); `neurons` then holds the detectors of all of them, and `weights` and
        `mlp` map each layer to its own.
    box_kind : str, optional
        Which kind of boxes is the truth; needed where the box table has several.
    options : LocalisationOptions, optional
        What is scored: which rows, corrected and given boxes, the class asked for, groups, masks.
    random_state : int
        Seed of the random neurons and of the intervals.

    Returns
    -------
    Localisation
        Without rows where no test image has a box. A method that has nothing to say of any class
        (no confirmed detector at all; no train boxes) has no row, and ``parameters["left_out"]``
        says why. Where only some classes have confirmed detectors, the others have an empty box
        (IoU 0) from those methods; ``parameters["classes_without_detectors"]`` lists them. With
        fewer than 10 confirm rows with boxes the thresholds are chosen on train and confirm rows
        together (``parameters["threshold_from"]``); with none, on boxes that
        ``student`` draws on the confirm rows; where it is not asked for, they are 0.2.

    Raises
    ------
    FeatlabError
        `box_kind` is missing or unknown; split, neurons, weights or an option do not fit the
        store; a class has no train image; a given name is taken; `refine` names a method that is
        not scored.

    Notes
    -----
    What is held grows with the scored and tuned-on images: for each of them and each method (a
    draw counts as one) some 6.5 KB, the boxes and overlaps at all thresholds, and 4 bytes a cell,
    the heat map; never the maps themselves. Of a very large set score a sample (`options.rows`).

    A box that bears the name of *another* class of the store is no truth for the image's class and
    is left out, and so is one without area.
    """
    n = len(store.images)
    given = _checked_given(options.given, n)
    known = np.all([np.ones(n, dtype=bool), *map(_all_finite, given.values())], axis=0)
    check_same_rows(
        images=store.images, split=split, predicted=options.predicted, groups=options.groups
    )
    sides = split_sides(split, n)
    if "train" not in sides:
        raise FeatlabError("split has no 'train' row, from which the methods learn.")
    truth = find_truth(store, sides, box_kind, rows=options.rows, known=known)
    predicted = options.predicted
    predicted = None if predicted is None else text_labels(predicted, n, name="predicted")
    codes = _asked_codes(store, predicted, options.target)
    groups = _groups(store, options.groups)[truth.scored]
    fitted = fit_methods(
        store,
        truth.train,
        methods,
        boxes=truth.boxes,
        neurons=neurons,
        weights=weights,
        mlp=mlp,
        layer=layer,
        random_state=random_state,
    )
    truth = boxed_where_nobody_did(store, truth, fitted, codes)
    refined = _refined(options.refine, fitted)
    parameters = _parameters(truth, fitted, box_kind, options, groups)
    if not len(truth.scored):
        return _localisation([], [], parameters, fitted)
    labels = store.images["label"].to_numpy(str)[truth.scored]
    right = None if predicted is None else predicted[truth.scored] == labels
    made, seconds = match_methods(
        store,
        truth,
        fitted,
        codes=codes,
        given=given,
        refine=refined,
        masks=options.masks,
        progress=options.progress,
        score=_scoring(truth, right),
        thresholds=thresholds_of(parameters["n_thresholds"]),
    )
    scores = {name: made[name] for name in sorted(made, key=_place)}
    draws = score_draws(
        scores,
        order=_order_by_truth(store, truth),
        groups=groups if parameters["n_groups"] < len(groups) else None,
        n_boot=_N_BOOT,
        random_state=random_state,
    )
    table, images = [], []
    for method, several in scores.items():
        origin = _origin(method, fitted, given, options.target)
        columns = score_columns(several, pd.DataFrame(draws[method]), parameters["n_effective"])
        spent = seconds[method] / len(several) / len(truth.rows) * 1000
        table.append({"method": method, **origin, **columns, "seconds_per_1000": spent})
        images.append(per_image(several).assign(method=method, row=truth.scored, label=labels))
    return _localisation(table, images, parameters, fitted, scores, draws)


def _refined(refine: str | Iterable[str], fitted: FittedMethods) -> list[str]:
    """The methods whose boxes are to be corrected, less those that have nothing to say."""
    scored = [name for name in fitted.methods if name not in BASELINES]
    asked = check_choices("refine", refine, [*scored, *fitted.left_out])
    return [name for name in asked if name in scored]


def _localisation(
    table: list[dict[str, Any]],
    images: list[pd.DataFrame],
    parameters: dict[str, Any],
    fitted: FittedMethods,
    scores: Mapping[str, Sequence[MethodScores]] | None = None,
    draws: pd.DataFrame | None = None,
) -> Localisation:
    """The result from the rows of its tables, whose ``attrs`` repeat the parameters."""
    methods = pd.DataFrame(table, columns=TABLE_COLUMNS)
    if parameters["threshold_from"] == BY_STUDENT:  # how well it agrees is no accuracy
        methods["box_accuracy_confirm"] = np.nan
    of_images = pd.concat(images, ignore_index=True) if images else pd.DataFrame()
    of_images = of_images.reindex(columns=IMAGE_COLUMNS)
    methods.attrs.update(parameters)
    of_images.attrs.update(parameters)
    if scores is None or draws is None:
        return Localisation(methods, of_images, fitted, parameters=parameters)
    return Localisation(methods, of_images, fitted, *curve_tables(scores), draws, parameters)


def _scoring(truth: Truth, right_class: np.ndarray | None) -> Callable[[HeatScores], MethodScores]:
    """What scores a match, wherever it is made: it takes along the boxes of the scored images."""
    own = truth.boxes.loc[truth.boxes["image"].isin(truth.scored), ["image", *CORNERS]]
    return partial(
        score_method,
        scored=np.searchsorted(truth.rows, truth.scored),
        tuning=np.searchsorted(truth.rows, truth.tuning),
        centre_in_box=partial(centre_in_box, rows=truth.scored, box_table=own),
        right_class=right_class,
    )


def _asked_codes(store: MapStore, predicted: np.ndarray | None, target: str) -> np.ndarray:
    """Place in ``store.classes`` of the class asked for in every image."""
    check_choice("target", target, _ASKED)
    if target == "label":
        return label_codes(store)
    if predicted is None:
        raise FeatlabError("target 'predicted' needs a class for each image; give predicted.")
    unknown = sorted(set(predicted.tolist()) - set(store.classes))
    if unknown:
        raise FeatlabError(
            f"predicted must be from the classes {', '.join(store.classes)} where target is "
            f"'predicted', got {unknown}."
        )
    return np.searchsorted(store.classes, predicted.astype(str))


def _groups(store: MapStore, groups: ArrayLike | None) -> np.ndarray:
    """The group of every image, by default the store's; "" for none."""
    if groups is None and "group" in store.images:
        groups = store.images["group"]
    return group_names(groups, len(store.images))


def _checked_given(given: Mapping[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    """The given heat maps ``(n, h, w)`` and boxes ``(n, 4)``, their names and values checked.

    Raises
    ------
    FeatlabError
        A name is one of a method of featlab, a shape is another, or a row is partly NaN or
        infinite.
    """
    taken, checked = {*METHODS, *BASELINES}, {}
    for name, values in given.items():
        if name.removesuffix(SUFFIX) in taken:
            raise FeatlabError(
                f"given must not use the name of a method of featlab, got {name!r}; "
                "give it another name."
            )
        array = np.asarray(values)
        shaped = (array.ndim == 3 or array.shape[1:] == (4,)) and array.size and len(array) == n
        if not shaped or array.dtype.kind not in "fiu":
            raise FeatlabError(
                f"given[{name!r}] must have a heat map (n, h, w) or a box (n, 4) for each of the "
                f"{n} images, got {array.dtype} of shape {array.shape}; give rows of NaN where "
                "none was computed."
            )
        partly = ~_all_finite(array) & ~np.isnan(array).reshape(n, -1).all(axis=1)
        if partly.any():
            raise FeatlabError(
                f"given[{name!r}] must be finite, or NaN throughout where nothing was computed, "
                f"but row {int(partly.argmax())} is partly NaN or infinite."
            )
        checked[name] = array
    return checked


def _all_finite(array: np.ndarray) -> np.ndarray:
    return np.isfinite(array).reshape(len(array), -1).all(axis=1)


def _origin(
    method: str, fitted: FittedMethods, given: Mapping[str, np.ndarray], target: str
) -> dict[str, Any]:
    """Whether it is a baseline, what it learnt from, and the class its heat maps are of."""
    origin = {"baseline": method in BASELINES, "supervision": "none", "class_asked": "none"}
    if method in given:
        return origin | {"supervision": "network", "class_asked": "as given"}
    if method in fitted.methods:
        learnt_from = fitted.methods[method].supervision
        return origin | {"supervision": learnt_from, "class_asked": target}
    if method.removesuffix(SUFFIX) in fitted.methods:
        return origin | {"supervision": "boxes", "class_asked": target}
    return origin


def _place(method: str) -> int:
    """Baselines come last, in their own order."""
    return BASELINES.index(method) if method in BASELINES else -1


def _order_by_truth(store: MapStore, truth: Truth) -> np.ndarray:
    """An order of the scored images that depends on pictures and boxes, not on row numbers."""
    sums = truth.boxes.groupby("image")[CORNERS].sum().loc[truth.scored]
    return np.lexsort([*sums.to_numpy().T, *picture_sizes(store, truth.scored).T])


def _parameters(
    truth: Truth,
    fitted: FittedMethods,
    box_kind: str | None,
    options: LocalisationOptions,
    groups: np.ndarray,
) -> dict[str, Any]:
    kinds, codes = truth.boxes["kind"].unique(), group_codes(groups, len(groups))
    return {
        "box_kind": box_kind if box_kind is not None else "".join(kinds),
        "layer": ", ".join(fitted.contexts),
        "delta": 0.5,
        "n_thresholds": round(1 / options.threshold_step),
        "threshold_step": options.threshold_step,
        "threshold_from": truth.tuned_on,
        "n_boot": _N_BOOT,
        "n_threshold_images": len(truth.tuning),
        "n_without_given": truth.n_without_given,
        "seconds": _SECONDS,
        "classes_without_detectors": classes_without_detectors(fitted),
        "left_out": fitted.left_out,
        "target": options.target,
        "class_asked_for": _ASKED[options.target],
        "n_groups": int(codes.max(initial=-1)) + 1,
        "n_effective": effective_units(codes),
    }
