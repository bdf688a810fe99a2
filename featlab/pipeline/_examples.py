"""The pictures that a report shows, with the heat that the stored maps give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featlab import images, localise
from featlab.errors import FeatlabError
from featlab.pipeline._example_rows import (
    detector_rows,
    gallery_rows,
    localisation_rows,
    rows_by_iou,
    sample_rows,
)
from featlab.results.heads import HeadResults
from featlab.results.localisation import Localisation
from featlab.results.pictures import Examples, Gallery, MethodExamples, Samples
from featlab.store import MapStore
from featlab.system.machine import usable_cores

SAMPLES, EXAMPLES, FAILURES, SHOWN_DETECTORS, STRIPS = 12, 6, 9, 4, 5
GALLERY, GALLERY_DETECTORS = 24, 8
_THUMBNAILS, _THUMBNAIL_SIDE, _GALLERY_SIDE = 600, 160, 256
_THUMBNAIL_PIXELS = 200_000_000  # decoded in a few seconds
STRIP_METHODS = ("detectors", "cam_positive", "sum", "ddt", "cell_boxes")


def picture_loader(store: MapStore) -> Callable[[int], np.ndarray | None]:
    """A function from row number to the picture, None where it is not to be had any more."""
    root = Path(store.images.attrs["root"])

    def load(row: int) -> np.ndarray | None:
        try:
            return images.decode_image((root / store.images["path"].iloc[row]).read_bytes())
        except (OSError, FeatlabError):
            return None

    return load


def _truth(boxes: pd.DataFrame, row: int) -> np.ndarray:
    corners = boxes.loc[boxes["image"] == row, ["xmin", "ymin", "xmax", "ymax"]]
    return corners.to_numpy(float)


def thumbnails(
    store: MapStore, load: Callable[[int], Any], first: Sequence[int], random_state: int
) -> dict[int, np.ndarray | None]:
    """Row → small picture: those of `first`, then others at random while it takes seconds."""
    others = np.random.default_rng(random_state).permutation(len(store))
    rows = list(dict.fromkeys([*map(int, first), *others.tolist()]))
    sizes = store.images[["width", "height"]].to_numpy(np.int64).prod(axis=1)[rows]
    affordable = int((np.cumsum(sizes) <= _THUMBNAIL_PIXELS).sum())
    count = max(len(set(first)), min(affordable, _THUMBNAILS))
    with ThreadPoolExecutor(usable_cores()) as pool:
        small = pool.map(lambda row: _shrunk(load(row), _THUMBNAIL_SIDE), rows[:count])
        return dict(zip(rows[:count], small, strict=True))


def _size(picture: np.ndarray | None, otherwise: np.ndarray) -> np.ndarray:
    """Width and height of a picture."""
    return otherwise if picture is None else np.array(picture.shape[1::-1], dtype=float)


def _shrunk(picture: np.ndarray | None, side: int) -> np.ndarray | None:
    """The picture with at most `side` pixels on its longer side."""
    if picture is None or max(picture.shape[:2]) <= side:
        return picture
    height, width = (max(1, round(n * side / max(picture.shape[:2]))) for n in picture.shape[:2])
    return images.resize_image(picture, (height, width))


def samples(
    store: MapStore, load: Callable[[int], Any], boxes: pd.DataFrame, random_state: int
) -> Samples:
    """Pictures of the set, drawn at random, the classes in turn."""
    rows = sample_rows(store.images, SAMPLES, random_state)
    return Samples(
        pictures=[load(row) for row in rows],
        labels=[str(store.images["label"].iloc[row]) for row in rows],
        boxes=[_truth(boxes, row) for row in rows],
    )


def detector_examples(
    store: MapStore,
    load: Callable[[int], Any],
    boxes: pd.DataFrame,
    scores: HeadResults,
    chosen: pd.DataFrame,
    random_state: int,
) -> Examples | None:
    """Test images, right and wrong ones, under the maps of the leading detectors."""
    rows = detector_rows(scores, EXAMPLES, random_state)
    shown = _in_turn(chosen, SHOWN_DETECTORS)
    if shown.empty or not rows:
        return None
    logistic = scores.predictions[scores.predictions["head"] == "logistic"].set_index("row")
    return Examples(
        rows=rows,
        pictures=[load(row) for row in rows],
        neurons=[(str(c), int(k)) for c, k in zip(shown["class"], shown["neuron"], strict=True)],
        heats=_on_pictures(
            store, rows, localise.example_heats(store, rows, neurons=shown["neuron"].to_numpy())
        ),
        true_boxes=[_truth(boxes, row) for row in rows],
        labels=[str(store.images["label"].iloc[row]) for row in rows],
        predicted_labels=[str(logistic.loc[row, "predicted"]) for row in rows],
    )


def localisation_examples(
    store: MapStore,
    load: Callable[[int], Any],
    boxes: pd.DataFrame,
    where: Localisation,
    *,
    worst: bool = False,
) -> Examples | None:
    """The best, middling and worst boxes of the best method that learns from labels alone.

    Or the worst only, the very worst first.
    """
    best = where.best(supervision="image labels")
    if best is None:
        return None
    method = str(best["method"])
    rows = localisation_rows(where, method, EXAMPLES)
    if worst:
        rows = rows_by_iou(where, method)[: -FAILURES - 1 : -1]
    scored = where.per_image[where.per_image["method"] == method].set_index("row")
    heats, predicted = localise.heats_for(
        store, rows, method, where.fitted, threshold=float(best["threshold"])
    )
    return Examples(
        rows=rows,
        pictures=[load(row) for row in rows],
        neurons=[(method, -1)],
        heats=_on_pictures(store, rows, heats[:, np.newaxis]),
        true_boxes=[_truth(boxes, row) for row in rows],
        labels=[str(store.images["label"].iloc[row]) for row in rows],
        predicted_boxes=list(predicted),
        ious=scored.loc[rows, "iou"].tolist(),
    )


def strips(
    store: MapStore,
    load: Callable[[int], Any],
    boxes: pd.DataFrame,
    where: Localisation,
) -> MethodExamples | None:
    """A good, a middling and a bad image, seen by several methods."""
    best = where.best(supervision="image labels")
    if best is None:
        return None
    rows = localisation_rows(where, str(best["method"]), STRIPS)
    thresholds = where.table.set_index("method")["threshold"].to_dict()
    heats, predicted = {}, {}
    for method in (name for name in STRIP_METHODS if name in thresholds):
        found, corners = localise.heats_for(
            store, rows, method, where.fitted, threshold=thresholds[method]
        )
        heats[method] = [heat[0] for heat in _on_pictures(store, rows, found[:, np.newaxis])]
        predicted[method] = list(corners)
    return MethodExamples(
        pictures=[load(row) for row in rows],
        labels=[str(store.images["label"].iloc[row]) for row in rows],
        true_boxes=[_truth(boxes, row) for row in rows],
        heats=heats,
        predicted_boxes=predicted,
    )


def gallery(
    store: MapStore,
    load: Callable[[int], Any],
    boxes: pd.DataFrame,
    split: pd.Series,
    where: Localisation,
    detectors: pd.DataFrame,
    random_state: int,
) -> Gallery | None:
    """Test images with the coarse maps of all methods and of the leading detectors.

    Methods that had a threshold chosen come in the order of what they scored on the images that
    thresholds were chosen on. Detectors have the threshold that was chosen for the best one alone.
    """
    rows = gallery_rows(store.images, split, boxes["image"].tolist(), GALLERY, random_state)
    if not rows:
        return None
    # Refined and given boxes have no heat map that a threshold would turn into them.
    own = where.table["method"].isin(list(where.fitted.methods)) & where.table["threshold"].notna()
    tuned = where.table[own & ~where.table["baseline"].astype(bool)]
    tuned = tuned.sort_values("box_accuracy_confirm", ascending=False, kind="stable")
    thresholds = dict(zip(tuned["method"].astype(str), tuned["threshold"].tolist(), strict=True))
    shown = _in_turn(detectors, GALLERY_DETECTORS)
    pictures = [_shrunk(load(row), _GALLERY_SIDE) for row in rows]
    sizes = store.images[["width", "height"]].to_numpy(float)[rows]
    return Gallery(
        rows=rows,
        pictures=pictures,
        labels=[str(store.images["label"].iloc[row]) for row in rows],
        true_boxes=[
            _truth(boxes, row) * np.tile(_size(picture, size) / size, 2)
            for row, picture, size in zip(rows, pictures, sizes, strict=True)
        ],
        frames=np.asarray(store.frames)[rows],
        heats={
            method: localise.heats_for(store, rows, method, where.fitted, threshold=threshold)[0]
            for method, threshold in thresholds.items()
        },
        thresholds=thresholds,
        neurons=[(str(c), int(k)) for c, k in zip(shown["class"], shown["neuron"], strict=True)],
        neuron_heats=localise.example_heats(store, rows, neurons=shown["neuron"].to_numpy()),
        neuron_threshold=thresholds.get("best_detector"),
    )


def _in_turn(detectors: pd.DataFrame, n: int) -> pd.DataFrame:
    """The best of each class in turn, so that every class is seen before one is seen twice."""
    turns = detectors.assign(turn=detectors.groupby("class").cumcount())
    return turns.sort_values(["turn", "class"]).head(n)


def _on_pictures(store: MapStore, rows: list[int], heats: np.ndarray) -> list[np.ndarray]:
    """Heat maps ``(k, m, h, w)`` over the network's input, each brought onto its picture."""
    frames, sizes = store.frames, store.images[["width", "height"]].to_numpy()
    return [
        np.stack([localise.heat_on_picture(heat, frames[row], *sizes[row]) for heat in several])
        for row, several in zip(rows, heats, strict=True)
    ]
