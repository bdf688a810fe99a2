"""The pictures that a report shows, with the heat that the stored maps give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from featlab import images, localise, predict
from featlab.arguments import confirmed_detectors, in_turn, true_boxes
from featlab.errors import FeatlabError
from featlab.images.pixels import levels_of, resize_picture
from featlab.results.analysis import HeadResults, Results
from featlab.results.localisation import WITHOUT_BOXES, BoxHeadResults, Localisation
from featlab.results.pictures import (
    LEAST_IOU,
    Examples,
    Gallery,
    MethodExamples,
    Portraits,
    Samples,
)
from featlab.splits import (
    detector_rows,
    gallery_rows,
    localisation_rows,
    rows_by_iou,
    rows_in_turn,
    sample_rows,
)
from featlab.store import MapStore
from featlab.system.machine import usable_cores

METHODS = ("detectors", "cam_positive", "ddt", "student", "cell_boxes")
"""Those that a few images are seen by, beside each other."""
_SAMPLES, _EXAMPLES, _FAILURES, _STRIPS, _GALLERY = 12, 6, 9, 5, 24  # images of each
_EXAMPLE_DETECTORS, _GALLERY_DETECTORS = 4, 8
_SHOWCASE = 6  # classes
_THUMBNAILS, _THUMBNAIL_SIDE, _GALLERY_SIDE, _STRONGEST = 600, 160, 256, 6
_THUMBNAIL_PIXELS = 200_000_000  # decoded in a few seconds
_CORNERS = ["xmin", "ymin", "xmax", "ymax"]

Load = Callable[[int], "np.ndarray | None"]


def picture_loader(store: MapStore) -> Load:
    """A function from row number to the picture, None where it is not to be had any more."""
    root, levels = store.root, levels_of(store.images)

    def load(row: int) -> np.ndarray | None:
        try:
            data = (root / store.images["path"].iloc[row]).read_bytes()
            return images.decode_picture(data, levels.iloc[row])
        except (OSError, FeatlabError):
            return None

    return load


def loaders(store: MapStore) -> dict[str, Load]:
    """Whole pictures, and small ones, which several figures hold and each is made once."""
    load = picture_loader(store)
    return {"load": load, "small": cache(lambda row: _shrunk(load(row), _THUMBNAIL_SIDE))}


def true_corners(truth: pd.DataFrame, rows: Sequence[int]) -> list[np.ndarray]:
    """The true boxes ``(k, 4)`` of each of some images, in pixels of the picture."""
    return [truth.loc[truth["image"] == row, _CORNERS].to_numpy(float) for row in rows]


def labels_of(store: MapStore, rows: Sequence[int]) -> list[str]:
    """The classes of some images."""
    return [str(store.images["label"].iloc[row]) for row in rows]


def channel_maps(
    store: MapStore,
    rows: Sequence[int],
    channels: Sequence[int] | np.ndarray,
    layer: str | None = None,
    centre: np.ndarray | None = None,
) -> np.ndarray:
    """The own maps of some neurons on some images, ``(k, m, h, w)``; less their centre, if any."""
    channels = np.asarray(channels, dtype=np.int64)
    maps = store.maps(rows, layer=layer)[..., channels]
    if centre is not None:
        maps = maps - centre[channels]
    return np.moveaxis(maps, -1, 1)


def centre_of(localisation: Localisation | None, store: MapStore) -> np.ndarray | None:
    """Where the neurons of the last layer rest, if it is signed: what its maps are drawn around."""
    known = None if localisation is None else localisation.fitted.contexts.get(store.layer_name())
    return None if known is None else known.centre


def boxes_at(
    store: MapStore, rows: Sequence[int], heats: np.ndarray, threshold: float
) -> np.ndarray:
    """The box of each heat map at one threshold, ``(k, 4)`` in pixels of the pictures."""
    sizes = store.images[["width", "height"]].to_numpy(float)[rows]
    frames = np.asarray(store.frames)[rows]
    return localise.heat_boxes(heats, [threshold], frames=frames, sizes=sizes)[:, 0]


def heats_on_pictures(store: MapStore, rows: Sequence[int], heats: np.ndarray) -> list[np.ndarray]:
    """Heat maps ``(k, h, w)`` over the network's input, each brought onto its picture."""
    frames, sizes = store.frames, store.images[["width", "height"]].to_numpy()
    return [
        localise.heat_on_picture(heat, frames[row], sizes[row])
        for row, heat in zip(rows, heats, strict=True)
    ]


def thumbnails(
    store: MapStore, small: Load, first: Sequence[int], random_state: int
) -> dict[int, np.ndarray | None]:
    """Row → small picture: those of `first`, then others at random while it takes seconds."""
    others = np.random.default_rng(random_state).permutation(len(store))
    rows = list(dict.fromkeys([*map(int, first), *others.tolist()]))
    sizes = store.images[["width", "height"]].to_numpy(np.int64).prod(axis=1)[rows]
    affordable = int((np.cumsum(sizes) <= _THUMBNAIL_PIXELS).sum())
    count = max(len(set(first)), min(affordable, _THUMBNAILS))
    with ThreadPoolExecutor(usable_cores()) as pool:
        return dict(zip(rows[:count], pool.map(small, rows[:count]), strict=True))


def _size(picture: np.ndarray | None, otherwise: np.ndarray) -> np.ndarray:
    """Width and height of a picture."""
    return otherwise if picture is None else np.array(picture.shape[1::-1], dtype=float)


def _shrunk(picture: np.ndarray | None, side: int) -> np.ndarray | None:
    """The picture with at most `side` pixels on its longer side."""
    if picture is None or max(picture.shape[:2]) <= side:
        return picture
    height, width = (max(1, round(n * side / max(picture.shape[:2]))) for n in picture.shape[:2])
    return resize_picture(picture, (height, width))


def samples(store: MapStore, load: Load, truth: pd.DataFrame, random_state: int) -> Samples:
    """Pictures of the set, drawn at random, the classes in turn."""
    rows = sample_rows(store.images, _SAMPLES, random_state)
    return Samples(
        pictures=[load(row) for row in rows],
        labels=labels_of(store, rows),
        boxes=true_corners(truth, rows),
    )


def detector_examples(
    store: MapStore,
    load: Load,
    truth: pd.DataFrame,
    heads: HeadResults,
    detectors: pd.DataFrame,
    localisation: Localisation,
    random_state: int,
) -> Examples | None:
    """Test images, right and wrong ones, under the last layer's maps of the leading detectors."""
    rows = detector_rows(heads, _EXAMPLES, random_state)
    leaders = in_turn(detectors, _EXAMPLE_DETECTORS)
    if leaders.empty or not rows:
        return None
    predicted = heads.of("logistic").set_index("row")["predicted"]
    centre = centre_of(localisation, store)
    maps = channel_maps(store, rows, leaders["neuron"].to_numpy(), centre=centre)
    on_pictures = [heats_on_pictures(store, rows, maps[:, k]) for k in range(len(leaders))]
    return Examples(
        rows=rows,
        pictures=[load(row) for row in rows],
        neurons=_named(leaders),
        heats=[np.stack(heats) for heats in zip(*on_pictures, strict=True)],
        true_boxes=true_corners(truth, rows),
        labels=labels_of(store, rows),
        predicted_labels=[str(predicted[row]) for row in rows],
        signed=centre is not None,
    )


def localisation_examples(
    store: MapStore, load: Load, truth: pd.DataFrame, localisation: Localisation
) -> Examples | None:
    """The best, middling and worst boxes of the best method that learns from no boxes."""
    if (best := localisation.best(supervision=WITHOUT_BOXES)) is None:
        return None
    rows = localisation_rows(localisation, str(best["method"]), _EXAMPLES)
    return _boxes_of(best, rows, store, load, truth, localisation)


def failures(
    store: MapStore, load: Load, truth: pd.DataFrame, localisation: Localisation
) -> Examples | None:
    """The worst boxes of the same method, the very worst first."""
    if (best := localisation.best(supervision=WITHOUT_BOXES)) is None:
        return None
    rows = rows_by_iou(localisation, str(best["method"]))[: -_FAILURES - 1 : -1]
    return _boxes_of(best, rows, store, load, truth, localisation)


def regression_failures(
    store: MapStore,
    load: Load,
    truth: pd.DataFrame,
    localisation: Localisation,
    box_regression: BoxHeadResults | None,
) -> Examples | None:
    """The worst boxes of box regression, the very worst first, over the same method's maps."""
    best = localisation.best(supervision=WITHOUT_BOXES)
    if best is None or box_regression is None:
        return None
    own = box_regression.boxes_of(box_regression.leader).sort_values("iou", kind="stable")
    scored = localisation.per_image.loc[localisation.per_image["method"] == best["method"], "row"]
    rows = own.index[own.index.isin(scored)][:_FAILURES].tolist()
    return _boxes_of(best, rows, store, load, truth, localisation)


def _boxes_of(
    best: pd.Series,
    rows: list[int],
    store: MapStore,
    load: Load,
    truth: pd.DataFrame,
    localisation: Localisation,
) -> Examples:
    method = str(best["method"])
    scored = localisation.per_image[localisation.per_image["method"] == method].set_index("row")
    heats = localise.heat_maps(store, rows, localisation.fitted, methods=method)[method]
    predicted = boxes_at(store, rows, heats, float(best["threshold"]))
    return Examples(
        rows=rows,
        pictures=[load(row) for row in rows],
        neurons=[(method, -1)],
        heats=[heat[np.newaxis] for heat in heats_on_pictures(store, rows, heats)],
        true_boxes=true_corners(truth, rows),
        labels=labels_of(store, rows),
        predicted_boxes=list(predicted),
        ious=scored.loc[rows, "iou"].tolist(),
    )


def method_examples(
    store: MapStore, load: Load, truth: pd.DataFrame, localisation: Localisation
) -> MethodExamples | None:
    """A good, a middling and a bad image, seen by several methods."""
    best = localisation.best(supervision=WITHOUT_BOXES)
    if best is None:
        return None
    rows = localisation_rows(localisation, str(best["method"]), _STRIPS)
    thresholds = localisation.table.set_index("method")["threshold"].to_dict()
    # The one that the pictures are ordered by is among the columns.
    known = [name for name in dict.fromkeys((*METHODS, str(best["method"]))) if name in thresholds]
    maps = localise.heat_maps(store, rows, localisation.fitted, methods=known)
    heats, predicted = {}, {}
    for method in known:
        heats[method] = heats_on_pictures(store, rows, maps[method])
        predicted[method] = list(boxes_at(store, rows, maps[method], thresholds[method]))
    return MethodExamples(
        rows=rows,
        pictures=[load(row) for row in rows],
        labels=labels_of(store, rows),
        true_boxes=true_corners(truth, rows),
        heats=heats,
        predicted_boxes=predicted,
    )


def gallery(
    store: MapStore,
    load: Load,
    truth: pd.DataFrame,
    split: pd.Series,
    localisation: Localisation,
    detectors: pd.DataFrame,
    random_state: int,
) -> Gallery | None:
    """Test images with the coarse maps of all methods and of the leading detectors.

    Methods that had a threshold chosen come in the order of what they scored on the images that
    thresholds were chosen on. Detectors have the threshold that was chosen for the best one alone.
    """
    rows = gallery_rows(store.images, split, truth["image"].tolist(), _GALLERY, random_state)
    if not rows:
        return None
    table, fitted = localisation.table, localisation.fitted
    # Refined and given boxes have no heat map that a threshold would turn into them.
    own = table["method"].isin(list(fitted.methods)) & table["threshold"].notna()
    tuned = table[own & ~table["baseline"].astype(bool)]
    tuned = tuned.sort_values("box_accuracy_confirm", ascending=False, kind="stable")
    thresholds = dict(zip(tuned["method"].astype(str), tuned["threshold"].tolist(), strict=True))
    heats = localise.heat_maps(store, rows, fitted, methods=thresholds)
    leaders, centre = in_turn(detectors, _GALLERY_DETECTORS), centre_of(localisation, store)
    own_maps = channel_maps(store, rows, leaders["neuron"].to_numpy(), centre=centre)
    pictures = [_shrunk(load(row), _GALLERY_SIDE) for row in rows]
    sizes = store.images[["width", "height"]].to_numpy(float)[rows]
    return Gallery(
        rows=rows,
        pictures=pictures,
        labels=labels_of(store, rows),
        true_boxes=[
            corners * np.tile(_size(picture, size) / size, 2)
            for corners, picture, size in zip(
                true_corners(truth, rows), pictures, sizes, strict=True
            )
        ],
        frames=np.asarray(store.frames)[rows],
        heats={method: heats[method] for method in thresholds},
        thresholds=thresholds,
        neurons=_named(leaders),
        neuron_heats=own_maps if centre is None else np.maximum(own_maps, 0),
        neuron_threshold=thresholds.get("best_detector"),
    )


def portraits(
    store: MapStore,
    small: Load,
    split: pd.Series,
    detectors: pd.DataFrame,
    localisation: Localisation,
    random_state: int,
) -> Portraits | None:
    """The strongest images of every confirmed detector, none that it was chosen on."""
    unseen = np.flatnonzero((split != "train").to_numpy())
    drawn = np.random.default_rng(random_state).permutation(unseen)
    sizes = store.images[["width", "height"]].to_numpy(np.int64).prod(axis=1)[drawn]
    affordable = max(_THUMBNAILS // 10, int((np.cumsum(sizes) <= _THUMBNAIL_PIXELS).sum()))
    candidates = np.sort(drawn[: min(affordable, _THUMBNAILS)])
    if detectors.empty or not len(candidates):
        return None
    pooled, labels = store.pooled(candidates), store.images["label"].to_numpy(str)[candidates]
    h, w, _ = store.map_shape()
    rows = np.full((len(detectors), 2, _STRONGEST), -1)
    activations = np.zeros(rows.shape, dtype=np.float32)
    named = _named(detectors)
    for m, (label, neuron) in enumerate(named):
        for k, some in enumerate((np.arange(len(labels)), np.flatnonzero(labels != label))):
            best = some[np.argsort(-pooled[some, neuron], kind="stable")[:_STRONGEST]]
            rows[m, k, : len(best)] = candidates[best]
            activations[m, k, : len(best)] = pooled[best, neuron]
    cells = np.zeros((*rows.shape, h, w), dtype=np.float32)
    neurons = np.broadcast_to(np.array([n for _, n in named])[:, None, None], rows.shape)
    wanted = np.unique(rows[rows >= 0])
    for some, maps in store.iter_maps(wanted):
        here = np.isin(rows, some)
        cells[here] = maps[np.searchsorted(some, rows[here]), :, :, neurons[here]]
    if (centre := centre_of(localisation, store)) is not None:
        cells -= np.where(rows >= 0, centre[neurons], 0)[..., None, None]
    with ThreadPoolExecutor(usable_cores()) as pool:
        pictures = dict(zip(wanted.tolist(), pool.map(small, wanted.tolist()), strict=True))
    seen = (np.asarray(store.frames), len(candidates), len(unseen))
    return Portraits(named, rows, activations, cells, pictures, *seen, signed=centre is not None)


def _named(detectors: pd.DataFrame) -> list[tuple[str, int]]:
    return [
        (str(label), int(neuron))
        for label, neuron in zip(detectors["class"], detectors["neuron"], strict=True)
    ]


def with_showcase(results: Results) -> Results:
    """The same results with test pictures for the top of the page.

    One of each class (of the first classes, where there are many), drawn at random, then one that
    went wrong: with a wrong class or else, where none has, with a box that misses. Each has the
    maps of the best detectors of the classes of all of them.
    """
    if results.unlabelled:
        return results
    store, known = results.store, _verdicts(results)
    labels, rows = known["label"].to_numpy(str), known.index.to_numpy(int)
    drawn = rows_in_turn(labels, rows, min(_SHOWCASE, len(set(labels))), results.random_state)
    rest = known.drop(index=drawn)
    wrong, missed = rest["predicted"].ne(rest["label"]), rest["iou"].lt(LEAST_IOU)
    others = rest.index[wrong if wrong.any() else missed].to_numpy(int)
    if len(others):
        drawn.append(int(np.random.default_rng(results.random_state).choice(others)))
    leaders = confirmed_detectors(results.neurons).drop_duplicates("class")
    leaders = leaders[leaders["class"].isin(known.loc[drawn, "label"])]
    load, truth = picture_loader(store), true_boxes(store.images, store.boxes, results.box_kind)
    pictures = [_shrunk(load(row), _GALLERY_SIDE) for row in drawn]
    whole = store.images[["width", "height"]].to_numpy(float)[drawn]
    sizes = [_size(picture, size) for picture, size in zip(pictures, whole, strict=True)]
    scales = [np.tile(size / full, 2) for size, full in zip(sizes, whole, strict=True)]
    boxes = known.loc[drawn, _CORNERS].to_numpy(float) * scales
    centre = centre_of(results.localisation, store)
    heats = channel_maps(store, drawn, leaders["neuron"].to_numpy(), centre=centre)
    examples = Examples(
        rows=drawn,
        pictures=pictures,
        neurons=_named(leaders),
        heats=[
            np.array([localise.heat_on_picture(heat, store.frames[row], size) for heat in maps])
            for row, maps, size in zip(drawn, heats, np.asarray(sizes, dtype=int), strict=True)
        ],
        true_boxes=[a * b for a, b in zip(true_corners(truth, drawn), scales, strict=True)],
        labels=labels_of(store, drawn),
        predicted_boxes=[box if (box[2:] > box[:2]).all() else None for box in boxes],
        predicted_labels=[str(name) for name in known.loc[drawn, "predicted"]],
        ious=known.loc[drawn, "iou"].tolist(),
        signed=centre is not None,
    )
    return replace(results, showcase=examples)


def _verdicts(results: Results) -> pd.DataFrame:
    """Label, predicted class, box and IoU by row of every test image: of the predictor, or head."""
    if results.predictions is None:
        head = results.heads.of(results.heads.main).set_index("row")
        return head.assign(iou=np.nan, **dict.fromkeys(_CORNERS, np.nan))
    table = results.predictions.table.rename(columns={"class": "predicted"})
    return table.set_index(np.flatnonzero(results.split.to_numpy(str) == "test"))


def with_predictions(results: Results) -> Results:
    """The same results with their predictor, and what it says of the set's own images.

    Where none can be made of them, `left_out` says why.
    """
    try:
        predictor = predict.fitted(results)
    except FeatlabError as error:
        return replace(results, left_out={**results.left_out, "predictor": str(error)})
    every = predictor.predict(results.store)
    predictor = predict.measured(predictor, results, every)
    tested = predict.predictions_beside_truth(predictor, results, every)
    known = {"label": results.store.images["label"].to_numpy(), "split": results.split.to_numpy()}
    tested = replace(tested, every=every.assign(**known), predictor=predictor)
    return replace(results, predictions=tested)


def with_refit(results: Results) -> Results:
    """The same results, their predictor fitted again on all labelled images.

    What they say of the set's own images stays that of the model before, which had not seen them.
    """
    known = results.predictions
    if known is None:
        return results
    predictor = predict.refit_predictor(known.predictor, results)
    known = replace(known, predictor=predictor, refitted=predictor.refitted)
    return replace(results, predictions=known)
