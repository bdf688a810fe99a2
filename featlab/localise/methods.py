"""Which neurons each method combines, and the one pass over the maps that makes all heat maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from featlab._errors import FeatlabError
from featlab.localise.heat import detector_scale, detector_weights, weighted_heats
from featlab.localise.regions import heat_boxes

if TYPE_CHECKING:
    from featlab.store import MapStore

ClassWeights = Mapping[str, np.ndarray] | tuple[np.ndarray, Sequence[str]]
Progress = Callable[[Iterable[Any]], Iterable[Any]]
PARTS = ("train", "confirm", "test")


def heats_for(
    store: MapStore,
    rows: Sequence[int] | np.ndarray,
    method: str,
    *,
    split: Sequence[str] | np.ndarray | pd.Series,
    threshold: float,
    neurons: pd.DataFrame | None = None,
    weights: ClassWeights | None = None,
    layer: str | None = None,
    top: int = 20,
    random_state: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Heat maps and predicted boxes of a few images, for drawing.

    Parameters
    ----------
    store : MapStore
    rows : sequence of int
        Row numbers of the image table; only their maps are read.
    method : str
        A method of :func:`evaluate` that makes heat maps from neurons.
    split, neurons, weights, layer, top, random_state
        As given to :func:`evaluate`.
    threshold : float
        The method's threshold, from the table of :func:`evaluate`.

    Returns
    -------
    heats : ndarray of shape (k, h, w), float32
        For each image's own class, over the network's input, not normalised.
    boxes : ndarray of shape (k, 4)
        Pixels of the original pictures.

    Raises
    ------
    FeatlabError
        The method is unknown or lacks what it combines.
    """
    rows = np.asarray(rows, dtype=np.int64)
    sets = method_weights(
        store,
        train=checked_split(split, len(store.images)) == "train",
        neurons=neurons,
        weights=weights,
        layer=layer,
        top=top,
        random_state=random_state,
    )
    if method not in sets:
        raise FeatlabError(
            f"method must be one of {', '.join(sets)} (with the neurons and weights given), "
            f"got {method!r}."
        )
    heats = method_heats(store, rows, {method: sets[method]}, layer=layer)[method]
    frames = np.asarray(store.frames)[rows]
    boxes = heat_boxes(heats, [threshold], frames=frames, sizes=picture_sizes(store)[rows])
    return heats, boxes[:, 0]


def example_heats(
    store: MapStore,
    rows: Sequence[int] | np.ndarray,
    *,
    neurons: Sequence[int] | np.ndarray,
    layer: str | None = None,
) -> np.ndarray:
    """The own maps of some neurons on some images, for drawing.

    Parameters
    ----------
    store : MapStore
    rows : sequence of int
        Row numbers of the image table.
    neurons : sequence of int
        Channel indices.
    layer : str, optional
        The last stored layer by default.

    Returns
    -------
    ndarray of shape (k rows, m neurons, h, w), float32
    """
    maps = store.maps(np.asarray(rows, dtype=np.int64), layer)
    return np.moveaxis(maps[..., np.asarray(neurons, dtype=np.int64)], -1, 1)


def method_weights(
    store: MapStore,
    *,
    train: np.ndarray,
    neurons: pd.DataFrame | None,
    weights: ClassWeights | None,
    layer: str | None,
    top: int,
    random_state: int,
) -> dict[str, np.ndarray]:
    """The neurons' weights of every method that is a weighted sum of maps.

    Parameters
    ----------
    store : MapStore
    train : ndarray of shape (n,), bool
        Rows from which scales are taken.
    neurons, weights, layer, top, random_state
        As in :func:`evaluate`.

    Returns
    -------
    dict of str to ndarray of shape (classes, c), float32
        Rows in the order of ``store.classes``; zeros where a class has no detector.
    """
    classes = store.classes
    maxima = np.asarray(store.pooled("max", layer))
    if not train.any():
        raise FeatlabError("split has no 'train' rows, from which the neurons' scales are taken.")
    seen, n_neurons = maxima[train], maxima.shape[1]
    sets: dict[str, np.ndarray] = {}
    if neurons is not None:
        chosen = confirmed_detectors(neurons, layer=layer or store.layers[-1], top=top)
        scale = detector_scale(seen)
        per_class = [chosen.loc[chosen["class"] == name, "neuron"].to_numpy() for name in classes]
        sets["detectors"] = np.stack([detector_weights(ids, scale) for ids in per_class])
        sets["best_detector"] = np.stack([_one_hot(ids[:1], n_neurons) for ids in per_class])
    if weights is not None:
        sets["cam"] = _head_weights(weights, classes, n_neurons)
    sets["sum"] = np.ones((len(classes), n_neurons), dtype=np.float32)
    live = np.flatnonzero(np.ptp(seen, axis=0) > 0)
    rng = np.random.default_rng(random_state)
    drawn = [rng.permutation(live)[:1] for _ in classes]
    sets["random_neuron"] = np.stack([_one_hot(ids, n_neurons) for ids in drawn])
    return sets


def method_heats(
    store: MapStore,
    rows: np.ndarray,
    sets: Mapping[str, np.ndarray],
    *,
    layer: str | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Heat maps of every method in one pass over the maps, each image for its own class.

    Parameters
    ----------
    store : MapStore
    rows : ndarray of shape (k,)
        Row numbers, without repetition.
    sets : mapping of str to ndarray of shape (classes, c)
        From :func:`method_weights`.
    layer : str, optional
    progress : callable, optional
        Wraps the iterable of batches.

    Returns
    -------
    dict of str to ndarray of shape (k, h, w), float32
    """
    stacked = np.stack(list(sets.values()), axis=-1)
    codes = np.searchsorted(store.classes, store.images["label"].to_numpy(str)[rows])
    batches: Iterable[Any] = store.iter_maps(rows=rows, layer=layer)
    parts, start = [], 0
    for chunk, maps in progress(batches) if progress else batches:
        chosen = stacked[codes[start : start + len(chunk)]]
        parts.append(weighted_heats(maps, chosen))
        start += len(chunk)
    return dict(zip(sets, np.concatenate(parts, axis=1), strict=True))


def confirmed_detectors(
    neurons: pd.DataFrame, *, layer: str, top: int | None = None
) -> pd.DataFrame:
    """The replicated detectors of one layer, best first, each once per class.

    Best is the highest AUROC on the rows they were chosen on.

    Raises
    ------
    FeatlabError
        The table has no column ``replicated``, or `top` is less than 1.
    """
    if top is not None and top < 1:
        raise FeatlabError(f"top must be at least 1, got {top}.")
    missing = {"layer", "class", "neuron", "auroc", "detector", "direction", "replicated"}
    missing -= set(neurons)
    if missing:
        raise FeatlabError(
            f"the neuron table has no column {', '.join(sorted(missing))}; "
            "give the result of confirm_neurons."
        )
    kept = neurons["detector"].astype(bool) & neurons["replicated"].astype(bool)
    # Only an active neuron's map shows where its class is.
    kept &= neurons["direction"] == "active"
    chosen = neurons[kept & (neurons["layer"] == layer)]
    chosen = chosen.sort_values(["class", "auroc", "neuron"], ascending=[True, False, True])
    chosen = chosen.drop_duplicates(["class", "neuron"])
    if top is not None:
        chosen = chosen.groupby("class", sort=False).head(top)
    return chosen.reset_index(drop=True)


def checked_split(split: Sequence[str] | np.ndarray | pd.Series, n: int) -> np.ndarray:
    """The split as an array of str, its length and words checked."""
    parts = np.asarray(split).astype(str)
    unknown = sorted(set(parts.tolist()) - set(PARTS))
    if parts.shape != (n,) or unknown:
        found = f"the words {unknown}" if unknown else f"shape {parts.shape}"
        raise FeatlabError(
            f"split must have one of {', '.join(PARTS)} for each of the {n} images, got {found}."
        )
    return parts


def picture_sizes(store: MapStore) -> np.ndarray:
    """Width and height of every image, ``(n, 2)`` float, pixels."""
    return store.images[["width", "height"]].to_numpy(float)


def _one_hot(ids: np.ndarray, n: int) -> np.ndarray:
    row = np.zeros(n, dtype=np.float32)
    row[ids] = 1
    return row


def _head_weights(weights: ClassWeights, classes: Sequence[str], n_neurons: int) -> np.ndarray:
    if isinstance(weights, tuple):
        coef, names = weights
        weights = dict(zip(names, np.asarray(coef), strict=True))
    missing = [name for name in classes if name not in weights]
    if missing:
        raise FeatlabError(f"weights lack the classes {missing}; fit the head on all classes.")
    rows = [np.asarray(weights[name], dtype=np.float32) for name in classes]
    if any(row.shape != (n_neurons,) for row in rows):
        raise FeatlabError(
            f"weights must have {n_neurons} values per class, one for each neuron of the layer, "
            f"got shapes {[row.shape for row in rows]}; use a head on mean-pooled maps."
        )
    return np.stack(rows)
