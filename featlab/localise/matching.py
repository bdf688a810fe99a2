"""Every method's heat maps or boxes, matched with the true boxes of the same images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import pandas as pd

from featlab import boxes as bx
from featlab.localise.checks import class_codes, picture_sizes
from featlab.localise.methods import Progress, method_heats
from featlab.localise.refine import SUFFIX, corrected_boxes, fit_correction
from featlab.localise.regions import GRID, HeatScores, score_boxes, score_heats
from featlab.localise.truth import Truth
from featlab.results.localisation import FittedMethods
from featlab.system.machine import usable_cores
from featlab.system.workers import workers

if TYPE_CHECKING:
    from featlab.store import MapStore


# Some 2 ms a map; a second or two is what processes take to start.
_FEW_MAPS = 2000


def match_methods(
    store: MapStore,
    rows: np.ndarray,
    truth: Truth,
    fitted: FittedMethods,
    *,
    codes: np.ndarray,
    given: Mapping[str, np.ndarray],
    masks: Sequence[np.ndarray | None],
    progress: Progress | None,
) -> tuple[dict[str, list[HeatScores]], dict[str, float]]:
    """How the methods, those given and the baselines match the boxes of `rows`; their seconds.

    A method has as many matches as draws: one, if it does not depend on chance. Several are made
    on half the grid, which saves two thirds of their time and moves a box by a pixel of 224.

    Parameters
    ----------
    store : MapStore
    rows : ndarray of shape (k,)
    truth : Truth
    fitted : FittedMethods
    codes : ndarray of shape (k,)
        Class asked for, as a place in ``store.classes``.
    given : mapping of str to ndarray
        Heat maps ``(n, h, w)`` or boxes ``(n, 4)`` of all images of the store.
    masks : sequence of ndarray or None, of length k
        Of the pictures.
    progress : callable, optional
    """
    true, owner = _of_rows(truth.boxes, rows)
    more: dict[str, Any] = {"sizes": picture_sizes(store)[rows], "masks": masks}
    frames = np.asarray(store.frames)[rows]
    seconds: dict[str, float] = {}
    found: dict[str, list[HeatScores]] = {}
    heats: dict[str, np.ndarray] = method_heats(
        store, rows, fitted, codes=codes, progress=progress, seconds=seconds
    )
    heats |= {name: values[rows] for name, values in given.items()}
    heats |= _fixed_boxes(store, rows, truth)
    tasks: list[tuple[str, Callable[[], HeatScores]]] = []
    for method, values in heats.items():
        if values.ndim == 2:
            tasks.append((method, partial(score_boxes, values, true, owner, **more)))
        elif values.ndim == 3:
            tasks.append((method, partial(score_heats, values, true, owner, frames=frames, **more)))
        else:
            coarse = partial(score_heats, frames=frames, grid=GRID // 2, **more)
            draws = np.moveaxis(values, 1, 0)
            tasks += [(method, partial(coarse, one, true, owner)) for one in draws]
    done = _all_done([task for _, task in tasks], n_maps=len(tasks) * len(rows))
    for (method, _), (scores, spent) in zip(tasks, done, strict=True):
        found.setdefault(method, []).append(scores)
        seconds[method] = seconds.get(method, 0.0) + spent
    start = time.perf_counter()
    # The Gaussian is centred in the picture, wherever that lies in the network's input.
    centre = np.broadcast_to(bx.centre_heat((GRID, GRID)), (len(rows), GRID, GRID))
    whole = np.tile([0.0, 0.0, 1.0, 1.0], (len(rows), 1))
    found["centre_gaussian"] = [score_heats(centre, true, owner, frames=whole, **more)]
    seconds["centre_gaussian"] = time.perf_counter() - start
    return found, seconds


def _all_done(
    tasks: Sequence[Callable[[], HeatScores]], n_maps: int
) -> list[tuple[HeatScores, float]]:
    """Every result and its seconds; in processes of their own where that pays for their start."""
    if usable_cores() < 2 or n_maps < _FEW_MAPS:
        return [_timed(task) for task in tasks]
    with workers():
        return list(joblib.Parallel()(joblib.delayed(_timed)(task) for task in tasks))


def _timed(task: Callable[[], HeatScores]) -> tuple[HeatScores, float]:
    start = time.perf_counter()
    return task(), time.perf_counter() - start


def match_refined(
    store: MapStore,
    rows: np.ndarray,
    truth: Truth,
    fitted: FittedMethods,
    found: Mapping[str, list[HeatScores]],
    names: Sequence[str],
    masks: Sequence[np.ndarray | None],
) -> tuple[dict[str, list[HeatScores]], dict[str, float]]:
    """The boxes of some methods, corrected by what train boxes teach, and the further seconds.

    Parameters
    ----------
    store, rows, truth, fitted
        As in :func:`match_methods`.
    found : dict of str to list of HeatScores
        Its result.
    names : sequence of str
        The methods.
    masks : sequence of ndarray or None
        Of the pictures of `rows`.
    """
    sizes = picture_sizes(store)
    train = np.intersect1d(np.flatnonzero(truth.train), truth.boxes["image"])
    if not len(train) or not names:
        return {}, {}
    some = FittedMethods({name: fitted.methods[name] for name in names}, fitted.contexts)
    heats = method_heats(store, train, some, codes=class_codes(store)[train])
    learnt, scored = _of_rows(truth.boxes, train), _of_rows(truth.boxes, rows)
    refined, seconds = {}, {}
    for name, heat in heats.items():
        match = score_heats(
            heat, *learnt, frames=np.asarray(store.frames)[train], sizes=sizes[train]
        )
        correction = fit_correction(match.boxes, match.iou, *learnt, sizes[train])
        start = time.perf_counter()
        boxes = corrected_boxes(correction, found[name][0].boxes, sizes[rows])
        refined[name + SUFFIX] = [score_boxes(boxes, *scored, sizes=sizes[rows], masks=masks)]
        seconds[name + SUFFIX] = time.perf_counter() - start
    return refined, seconds


def _of_rows(table: pd.DataFrame, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The true boxes of some images ``(m, 4)``, and the place of each one's image in `rows`."""
    own = table[table["image"].isin(rows)]
    return own[bx.CORNERS].to_numpy(float), np.searchsorted(rows, own["image"])


def _fixed_boxes(store: MapStore, rows: np.ndarray, truth: Truth) -> dict[str, np.ndarray]:
    """Boxes ``(k, 4)`` of the baselines that have no threshold."""
    sizes, train = picture_sizes(store), np.flatnonzero(truth.train)
    boxes = {"whole_image": bx.whole_image_boxes(sizes[rows])}
    if truth.boxes["image"].isin(train).any():
        mean = bx.mean_box(truth.boxes, sizes, train)
        boxes["mean_box"] = bx.pixel_boxes(mean[None], sizes[rows])
    return boxes
