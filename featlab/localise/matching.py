"""Every method's heat maps or boxes, matched with the true boxes of the same images, and corrected.

The box around the hot region is systematically off: it ends where the heat falls, not where the
object does. A ridge regression from the box, and from how it moves with the threshold, to the true
box mends a part of that, without the picture and without the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featlab.arguments import Progress, row_numbers, stratified_rows, true_boxes
from featlab.boxes.geometry import (
    CORNERS,
    centre_heat,
    iou,
    mean_box,
    pixel_boxes,
    unit_boxes,
    whole_picture_boxes,
)
from featlab.errors import FeatlabError
from featlab.localise.heat import heat_maps, picture_sizes, timed_heats
from featlab.localise.methods import STUDENT, untuned
from featlab.localise.regions import (
    FIXED_THRESHOLD,
    GRID,
    THRESHOLDS,
    HeatScores,
    choose_threshold,
    heat_boxes,
    score_boxes,
    score_heats,
)
from featlab.results.localisation import BY_STUDENT, BoxCorrection, FittedMethods
from featlab.store import MapStore
from featlab.system.machine import usable_cores
from featlab.system.processes import done_on_cluster, has_cluster, one_blas_thread

SUFFIX = "_refined"
_STEPS = np.array([-20, -10, 10, 20])  # Further thresholds, in hundredths.
_SMALLEST = 0.02  # A side shorter than this share of the picture's counts as so long.
_FROM_IOU = 0.3
_FEWEST_PAIRS = 20
_ALPHAS = np.logspace(-1, 4, 11)
_MOST = 1.5  # Largest change of a logarithmic side.
_FEWEST_TUNING_ROWS = 10
_MOST_CORRECTED = 10_000  # train images that a correction is learnt on
S = TypeVar("S")


@dataclass(frozen=True)
class Truth:
    """The true boxes, and which images are scored, tuned on and learnt from.

    Attributes
    ----------
    boxes : DataFrame
        True boxes of all images.
    scored, tuning, train : ndarray of int
        Rows that are scored, that thresholds are chosen on, that methods learn from; rising.
    tuned_on : str
        What `tuning` is, in words.
    n_without_given : int
        Confirm and test images that a given method does not know.
    spare : ndarray of int
        Confirm rows without a box that thresholds could be chosen on, had they one.
    """

    boxes: pd.DataFrame
    scored: np.ndarray
    tuning: np.ndarray
    train: np.ndarray
    tuned_on: str
    n_without_given: int
    spare: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """The rows whose heat maps are needed: those scored and those tuned on."""
        return np.union1d(self.scored, self.tuning)


def find_truth(
    store: MapStore, sides: np.ndarray, box_kind: str | None, *, rows: Any, known: np.ndarray
) -> Truth:
    """The images with boxes, by their side of the split; thresholds need ten of them.

    Only `rows` that are `known` ``(n,)`` bool, which every given method knows, are scored and
    tuned on; all of train is learnt from.

    Raises
    ------
    FeatlabError
        As for :func:`featlab.arguments.true_boxes`; a row does not exist.
    """
    n = len(sides)
    table = true_boxes(store.images, store.boxes, box_kind)
    use = np.isin(np.arange(n), table["image"].to_numpy(np.int64))
    asked = np.isin(np.arange(n), row_numbers(rows, store.images))
    spare = np.flatnonzero(asked & known & ~use & (sides == "confirm"))
    use &= asked
    unknown = int((use & ~known & (sides != "train")).sum())
    use &= known
    tuning, tuned_on = np.flatnonzero(use & (sides == "confirm")), "confirm"
    if len(tuning) < _FEWEST_TUNING_ROWS:
        tuning, tuned_on = np.flatnonzero(use & (sides != "test")), "train + confirm"
    if not len(tuning):
        tuned_on = f"fixed at {FIXED_THRESHOLD}"
    return Truth(
        boxes=table,
        scored=np.flatnonzero(use & (sides == "test")),
        tuning=tuning,
        train=np.flatnonzero(sides == "train"),
        tuned_on=tuned_on,
        n_without_given=unknown,
        spare=spare,
    )


def boxed_where_nobody_did(
    store: MapStore, truth: Truth, fitted: FittedMethods, codes: np.ndarray
) -> Truth:
    """The truth, and where it has no box to choose thresholds by, those of the student.

    Methods are not scored there, and learn nothing from these boxes. Without a student all stays as
    it is.

    References
    ----------
    Murtaza et al. (2024), arXiv 2404.10034: thresholds by boxes that a method made.
    """
    rows = truth.spare
    if len(truth.tuning) or not len(truth.scored) or not len(rows) or STUDENT not in fitted.methods:
        return truth
    heat = heat_maps(store, rows, fitted, methods=STUDENT, codes=codes[rows])[STUDENT]
    frames, sizes = np.asarray(store.frames)[rows], picture_sizes(store, rows)
    corners = heat_boxes(heat, [untuned(store, fitted)[1]], frames=frames, sizes=sizes)[:, 0]
    made = pd.DataFrame(corners, columns=CORNERS).assign(image=rows)
    table = pd.concat([truth.boxes, made], ignore_index=True)
    words = table.columns.difference([*CORNERS, "image"])
    table[words] = table[words].fillna("")
    return replace(truth, boxes=table, tuning=rows, tuned_on=BY_STUDENT)


def match_methods(
    store: MapStore,
    truth: Truth,
    fitted: FittedMethods,
    *,
    codes: np.ndarray,
    given: Mapping[str, np.ndarray],
    refine: Sequence[str],
    masks: Callable[[int], np.ndarray | None] | None,
    progress: Progress | None,
    score: Callable[[HeatScores], S],
    thresholds: np.ndarray = THRESHOLDS,
) -> tuple[dict[str, list[S]], dict[str, float]]:
    """What all methods and baselines score by the boxes of ``truth.rows``; their seconds.

    A method has as many scores as draws: one, if it does not depend on chance. Several are made
    on half the grid, which saves two thirds of their time and moves a box by a pixel of 224.

    Parameters
    ----------
    store : MapStore
    truth : Truth
    fitted : FittedMethods
    codes : ndarray of shape (n,)
        Class asked for in every image, as a place in ``store.classes``.
    given : mapping of str to ndarray
        Heat maps ``(n, h, w)`` or boxes ``(n, 4)`` of all images of the store.
    refine : sequence of str
        Methods whose boxes are corrected, too.
    masks : callable, optional
        The mask of a picture, from its row.
    progress : callable, optional
    score : callable
        From one match to what is kept of it: the matches of all methods would not fit in memory.
    thresholds : ndarray of shape (t,)
        At which heat maps are cut; a multiple of the hundred of ``THRESHOLDS``.
    """
    rows = truth.rows
    true, owner = _of_rows(truth.boxes, rows)
    scored = set(truth.scored.tolist())
    more: dict[str, Any] = {
        "sizes": picture_sizes(store, rows),
        "masks": [masks(row) if masks and row in scored else None for row in rows.tolist()],
    }
    frames = np.asarray(store.frames)[rows]
    match_heats = partial(score_heats, thresholds=thresholds, **more)
    heats, seconds = timed_heats(store, rows, fitted, codes[rows], progress)
    heats |= {name: values[rows] for name, values in given.items()}
    heats |= _fixed_boxes(store, rows, truth)
    tasks: list[tuple[str, Callable[[], HeatScores]]] = []
    for method, values in heats.items():
        if values.ndim == 2:
            tasks.append((method, partial(score_boxes, values, true, owner, **more)))
        elif values.ndim == 3:
            tasks.append((method, partial(match_heats, values, true, owner, frames=frames)))
        else:
            coarse = partial(match_heats, frames=frames, grid=GRID // 2)
            draws = np.moveaxis(values, 1, 0)
            tasks += [(method, partial(coarse, one, true, owner)) for one in draws]
    # The Gaussian is centred in the picture, wherever that lies in the network's input.
    centre = np.broadcast_to(centre_heat((GRID, GRID)), (len(rows), GRID, GRID))
    whole = np.tile([0.0, 0.0, 1.0, 1.0], (len(rows), 1))
    centred = partial(match_heats, centre, true, owner, frames=whole)
    calls = [partial(_matched, match, score, method in refine) for method, match in tasks]
    done = _all_done(calls)
    matched: dict[str, list[_Matched[S]]] = {}
    for (method, _), one in zip(tasks, done, strict=True):
        matched.setdefault(method, []).append(one)
        seconds[method] = seconds.get(method, 0.0) + one.seconds
    matched["centre_gaussian"] = [_matched(centred, score)]
    seconds["centre_gaussian"] = matched["centre_gaussian"][0].seconds
    boxes = {name: matched[name][0].boxes for name in refine}
    for name, match in _refined(store, truth, fitted, boxes, more).items():
        matched[name + SUFFIX] = [_matched(match, score)]
        seconds[name + SUFFIX] = seconds[name] + matched[name + SUFFIX][0].seconds
    return {name: [one.score for one in several] for name, several in matched.items()}, seconds


@dataclass(frozen=True)
class _Matched(Generic[S]):
    """What is kept of a match, the seconds it took, and its boxes where they are corrected."""

    score: S
    boxes: np.ndarray
    seconds: float


def _matched(
    match: Callable[[], HeatScores], score: Callable[[HeatScores], S], keep_boxes: bool = False
) -> _Matched[S]:
    start = time.thread_time()  # by the clock others would count, too
    made = match()
    spent = time.thread_time() - start
    hundredths = slice(None, None, max(1, made.boxes.shape[1] // len(THRESHOLDS)))
    return _Matched(score(made), made.boxes[:, hundredths] if keep_boxes else made.boxes[:0], spent)


def _all_done(calls: Sequence[Callable[[], _Matched[S]]]) -> list[_Matched[S]]:
    """Every result, made in threads (most of the work is in compiled loops) or on a cluster."""
    if has_cluster():
        return done_on_cluster(calls)
    # Each would restore the number of BLAS threads that it has met; now they all meet one.
    with one_blas_thread(), ThreadPoolExecutor(usable_cores()) as threads:
        return list(threads.map(lambda call: call(), calls))


def _refined(
    store: MapStore,
    truth: Truth,
    fitted: FittedMethods,
    boxes: Mapping[str, np.ndarray],
    more: Mapping[str, Any],
) -> dict[str, Callable[[], HeatScores]]:
    """Matches of the boxes of some methods, corrected by what train boxes teach."""
    sizes, rows = picture_sizes(store), truth.rows
    train = np.intersect1d(truth.train, truth.boxes["image"])
    if not len(train) or not boxes:
        return {}
    train = train[stratified_rows(store.images["label"].iloc[train], _MOST_CORRECTED)]
    some = replace(fitted, methods={name: fitted.methods[name] for name in boxes})
    heats, _ = timed_heats(store, train, some)
    learnt, scored = _of_rows(truth.boxes, train), _of_rows(truth.boxes, rows)
    refined: dict[str, Callable[[], HeatScores]] = {}
    for name, heat in heats.items():
        own = score_heats(heat, *learnt, frames=np.asarray(store.frames)[train], sizes=sizes[train])
        correction = fit_correction(own.boxes, own.iou, *learnt, sizes[train])
        refined[name] = partial(_corrected, correction, boxes[name], sizes[rows], *scored, more)
    return refined


def _corrected(
    correction: BoxCorrection,
    boxes: np.ndarray,
    sizes: np.ndarray,
    truth: np.ndarray,
    owner: np.ndarray,
    more: Mapping[str, Any],
) -> HeatScores:
    return score_boxes(corrected_boxes(correction, boxes, sizes), truth, owner, **more)


def _of_rows(table: pd.DataFrame, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The true boxes of some images ``(m, 4)``, and the place of each one's image in `rows`."""
    own = table[table["image"].isin(rows)]
    return own[CORNERS].to_numpy(float), np.searchsorted(rows, own["image"])


def _fixed_boxes(store: MapStore, rows: np.ndarray, truth: Truth) -> dict[str, np.ndarray]:
    """Boxes ``(k, 4)`` of the baselines that have no threshold."""
    sizes = picture_sizes(store)
    boxes = {"whole_image": whole_picture_boxes(sizes[rows])}
    if truth.boxes["image"].isin(truth.train).any():
        mean = mean_box(truth.boxes, sizes, truth.train)
        boxes["mean_box"] = pixel_boxes(mean[None], sizes[rows])
    return boxes


def fit_correction(
    boxes: np.ndarray, ious: np.ndarray, truth: np.ndarray, owner: np.ndarray, sizes: np.ndarray
) -> BoxCorrection:
    """Learn the correction of a method's boxes on images with true boxes: the train rows.

    Parameters
    ----------
    boxes : ndarray of shape (k, 100, 4)
        Box around the largest region at each of ``THRESHOLDS``, pixels (``HeatScores.boxes``).
    ious : ndarray of shape (k, 100)
        Its IoU with the best true box (``HeatScores.iou``).
    truth : array-like of shape (m, 4)
        True boxes, pixels.
    owner : array-like of int of shape (m,)
        Which image each true box belongs to.
    sizes : array-like of shape (k, 2)
        Width and height of the pictures, pixels.

    Returns
    -------
    BoxCorrection
        At the threshold of the highest box accuracy. The target is the true box that overlaps
        most, as shift of the centre in units of the box's sides and logarithmic ratio of the sides
        [1]_; images where it overlaps by less than 0.3 are not learnt from (another object was
        found), and from fewer than 20 nothing is learnt.

    Raises
    ------
    FeatlabError
        No image has a box, or there are not 100 thresholds.

    References
    ----------
    .. [1] Girshick et al. (2014), Rich feature hierarchies for accurate object detection and
       semantic segmentation, CVPR, appendix C.
    """
    _check_boxes(boxes)
    threshold = choose_threshold(ious, THRESHOLDS)
    column = int(np.searchsorted(THRESHOLDS, threshold))
    sizes = np.asarray(sizes, dtype=float)
    own = unit_boxes(boxes[:, column], sizes)
    target, overlap = _best_true_boxes(own, truth, owner, sizes)
    use = overlap >= _FROM_IOU
    if use.sum() < _FEWEST_PAIRS:
        return BoxCorrection(threshold, None)
    model = make_pipeline(StandardScaler(), RidgeCV(_ALPHAS))
    model.fit(_features(boxes, sizes, column)[use], _relative(target, own)[use])
    return BoxCorrection(threshold, model)


def corrected_boxes(correction: BoxCorrection, boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The boxes of other images, corrected.

    Parameters
    ----------
    correction : BoxCorrection
    boxes : ndarray of shape (k, 100, 4)
        As for :func:`fit_correction`.
    sizes : array-like of shape (k, 2)

    Returns
    -------
    ndarray of shape (k, 4)
        Pixels, inside the picture; an empty box stays empty.

    Raises
    ------
    FeatlabError
        There are not 100 thresholds.
    """
    _check_boxes(boxes)
    column = int(np.searchsorted(THRESHOLDS, correction.threshold))
    if correction.model is None:
        return boxes[:, column]
    sizes = np.asarray(sizes, dtype=float)
    own = unit_boxes(boxes[:, column], sizes)
    shift = correction.model.predict(_features(boxes, sizes, column))
    centre, sides = _centre_and_sides(own)
    centre = centre + shift[:, :2] * sides
    half = sides * np.exp(np.clip(shift[:, 2:], -_MOST, _MOST)) / 2
    moved = np.clip(np.concatenate([centre - half, centre + half], axis=1), 0, 1)
    empty = np.any(own[:, 2:] <= own[:, :2], axis=1, keepdims=True)
    return pixel_boxes(np.where(empty, 0, moved), sizes)


def _features(boxes: np.ndarray, sizes: np.ndarray, column: int) -> np.ndarray:
    """Place and size of each box ``(k, 6)``, and its boxes at other thresholds ``(k, 16)``."""
    unit = unit_boxes(boxes, sizes[:, None])
    own = unit[:, column]
    others = np.clip(column + _STEPS, 0, len(THRESHOLDS) - 1)
    around = [_relative(unit[:, k], own) for k in others]
    return np.concatenate([own, np.log(_centre_and_sides(own)[1]), *around], axis=1)


def _relative(boxes: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Shift of the centre in sides of the reference, and logarithmic ratio of the sides."""
    (centre, sides), (origin, unit) = _centre_and_sides(boxes), _centre_and_sides(reference)
    return np.concatenate([(centre - origin) / unit, np.log(sides / unit)], axis=1)


def _centre_and_sides(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], _SMALLEST)
    return (boxes[:, :2] + boxes[:, 2:]) / 2, sides


def _best_true_boxes(
    own: np.ndarray, truth: np.ndarray, owner: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each box the true box of its image that overlaps most, in unit coordinates; its IoU."""
    owner = np.asarray(owner, dtype=np.int64)
    unit = unit_boxes(np.asarray(truth, dtype=float), sizes[owner])
    overlap = iou(own[owner], unit)
    best, target = np.full(len(own), -1.0), np.zeros_like(own)
    for i in np.argsort(overlap, kind="stable"):
        best[owner[i]], target[owner[i]] = overlap[i], unit[i]
    return target, best


def _check_boxes(boxes: np.ndarray) -> None:
    if boxes.ndim != 3 or boxes.shape[1:] != (len(THRESHOLDS), 4):
        raise FeatlabError(
            f"boxes must be (k, {len(THRESHOLDS)}, 4), one for each threshold, "
            f"got shape {boxes.shape}."
        )
