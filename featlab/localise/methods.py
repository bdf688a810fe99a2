"""Fitting the chosen methods on the train rows, and the one pass over the maps for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from featlab._errors import FeatlabError
from featlab.localise.context import Context, train_cells, train_scale
from featlab.localise.regions import heat_boxes
from featlab.localise.registry import METHODS, HeatMethod

if TYPE_CHECKING:
    from featlab.store import MapStore

ClassWeights = Mapping[str, np.ndarray] | tuple[np.ndarray, Sequence[str]]
Progress = Callable[[Iterable[Any]], Iterable[Any]]
PARTS = ("train", "confirm", "test")
RANDOM = "random_neuron"


@dataclass(frozen=True)
class FittedMethods:
    """Heat-map methods ready to be applied.

    Attributes
    ----------
    methods : dict of str to HeatMethod
    context : Context
        Without images yet.
    """

    methods: dict[str, HeatMethod]
    context: Context


def fit_methods(
    store: MapStore,
    names: Sequence[str] | None = None,
    *,
    train: np.ndarray,
    truth: pd.DataFrame,
    neurons: pd.DataFrame | None = None,
    weights: ClassWeights | None = None,
    network: Any | None = None,
    layer: str | None = None,
    random_state: int = 0,
) -> FittedMethods:
    """Learn on the train rows what the methods need.

    Parameters
    ----------
    store : MapStore
    names : sequence of str, optional
        Methods of the registry, and ``random_neuron``; all that have what they need by default.
    train : ndarray of shape (n,), bool
        Rows that may be learnt from.
    truth : DataFrame
        Box table; only boxes of train rows are used, and only by methods that say so.
    neurons, weights, network, layer, random_state
        As in :func:`evaluate`.

    Returns
    -------
    FittedMethods

    Raises
    ------
    FeatlabError
        A name is unknown, or asked for without what it needs.
    """
    if not train.any():
        raise FeatlabError("split has no 'train' rows, from which the neurons' scales are taken.")
    classes, layer = store.classes, layer or store.layers[-1]
    known = {RANDOM: _random_neuron(store, train, layer, random_state), **METHODS}
    given = {"neurons": neurons, "weights": weights, "network": network}
    have = {name for name, value in given.items() if value is not None}
    chosen = {
        name: method
        for name, method in known.items()
        if (names is None and set(method.needs) <= have) or (names is not None and name in names)
    }
    for name in names or ():
        _check_available(name, known, have)
    scale = train_scale(store, train, layer)
    context = Context(
        classes=classes,
        codes=np.zeros(0, dtype=np.int64),
        scale=scale,
        neurons=None if neurons is None else _confirmed(neurons, layer),
        weights=None if weights is None else _head_weights(weights, classes, len(scale)),
        network=network,
        random_state=random_state,
    )
    fits = {name: method.fit for name, method in chosen.items() if method.fit is not None}
    if fits:
        cells = train_cells(
            store,
            np.flatnonzero(train),
            class_codes(store),
            truth,
            layer=layer,
            random_state=random_state,
        )
        fitted = {name: fit(cells, context) for name, fit in fits.items()}
        context = replace(context, fitted=fitted)
    return FittedMethods(chosen, context)


def method_heats(
    store: MapStore,
    rows: np.ndarray,
    fitted: FittedMethods,
    *,
    layer: str | None = None,
    codes: np.ndarray | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Heat maps of every method in one pass over the maps.

    Parameters
    ----------
    store : MapStore
    rows : ndarray of shape (k,)
        Row numbers, without repetition.
    fitted : FittedMethods
    layer : str, optional
    codes : ndarray of shape (k,), optional
        Class asked for in each image, as a place in ``store.classes``; the image's own by default.
    progress : callable, optional
        Wraps the iterable of batches.

    Returns
    -------
    dict of str to ndarray of shape (k, h, w), float32
    """
    codes = class_codes(store)[rows] if codes is None else np.asarray(codes)
    batches: Iterable[Any] = store.iter_maps(rows=rows, layer=layer)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in fitted.methods}
    start = 0
    for chunk, maps in progress(batches) if progress else batches:
        context = fitted.context.of(codes[start : start + len(chunk)])
        for name, method in fitted.methods.items():
            parts[name].append(np.asarray(method.heat(maps, context), dtype=np.float32))
        start += len(chunk)
    return {name: np.concatenate(heats) for name, heats in parts.items()}


def heats_for(
    store: MapStore,
    rows: Sequence[int] | np.ndarray,
    method: str,
    fitted: FittedMethods,
    *,
    threshold: float,
    layer: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Heat maps and predicted boxes of a few images, for drawing.

    Parameters
    ----------
    store : MapStore
    rows : sequence of int
        Row numbers of the image table; only their maps are read.
    method : str
        One of `fitted`.
    fitted : FittedMethods
        ``Localisation.fitted`` of :func:`evaluate`.
    threshold : float
        The method's threshold, from the table of :func:`evaluate`.
    layer : str, optional

    Returns
    -------
    heats : ndarray of shape (k, h, w), float32
        For each image's own class, over the network's input, not normalised.
    boxes : ndarray of shape (k, 4)
        Pixels of the original pictures.

    Raises
    ------
    FeatlabError
        The method is not among those fitted.
    """
    rows = np.asarray(rows, dtype=np.int64)
    if method not in fitted.methods:
        raise FeatlabError(
            f"method must be one of {', '.join(fitted.methods)} (those fitted), got {method!r}."
        )
    one = FittedMethods({method: fitted.methods[method]}, fitted.context)
    heats = method_heats(store, rows, one, layer=layer)[method]
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


def confirmed_detectors(
    neurons: pd.DataFrame, *, layer: str, top: int | None = None
) -> pd.DataFrame:
    """The replicated, active detectors of one layer, best first, each once per class.

    Best is the highest AUROC on the rows they were chosen on. Only an active neuron's map shows
    where its class is.

    Raises
    ------
    FeatlabError
        The table has no column ``replicated``, or `top` is less than 1.
    """
    if top is not None and top < 1:
        raise FeatlabError(f"top must be at least 1, got {top}.")
    chosen = _confirmed(neurons, layer)
    chosen = chosen[chosen["direction"] == "active"]
    if top is not None:
        chosen = chosen.groupby("class", sort=False).head(top)
    return chosen.reset_index(drop=True)


def classes_without_detectors(fitted: FittedMethods) -> list[str]:
    """Classes for which no active detector was confirmed; empty where detectors play no part."""
    if fitted.context.neurons is None:
        return []
    active = fitted.context.neurons
    found = set(active.loc[active["direction"] == "active", "class"])
    return [name for name in fitted.context.classes if name not in found]


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


def class_codes(store: MapStore) -> np.ndarray:
    """Place of every image's label in ``store.classes``."""
    return np.searchsorted(store.classes, store.images["label"].to_numpy(str))


def picture_sizes(store: MapStore) -> np.ndarray:
    """Width and height of every image, ``(n, 2)`` float, pixels."""
    return store.images[["width", "height"]].to_numpy(float)


def _confirmed(neurons: pd.DataFrame, layer: str) -> pd.DataFrame:
    """Replicated detectors of both directions of one layer, the largest effect first."""
    missing = {"layer", "class", "neuron", "auroc", "detector", "direction", "replicated"}
    missing -= set(neurons)
    if missing:
        raise FeatlabError(
            f"the neuron table has no column {', '.join(sorted(missing))}; "
            "give the result of confirm_neurons."
        )
    kept = neurons["detector"].astype(bool) & neurons["replicated"].astype(bool)
    chosen = neurons[kept & (neurons["layer"] == layer)]
    chosen = chosen.assign(size=(chosen["auroc"] - 0.5).abs())
    chosen = chosen.sort_values(["class", "size", "neuron"], ascending=[True, False, True])
    chosen = chosen.drop_duplicates(["class", "neuron"])
    return chosen.drop(columns="size").reset_index(drop=True)


def _check_available(name: str, known: Mapping[str, HeatMethod], have: set[str]) -> None:
    if name not in known:
        raise FeatlabError(f"methods must be from {', '.join(known)}, got {name!r}.")
    lacking = set(known[name].needs) - have
    if lacking:
        raise FeatlabError(f"method {name!r} needs {', '.join(sorted(lacking))}; give it.")


def _random_neuron(store: MapStore, train: np.ndarray, layer: str, random_state: int) -> HeatMethod:
    """A live neuron drawn for each class: what any single map gets."""
    maxima = np.asarray(store.pooled("max", layer))[train]
    live = np.flatnonzero(np.ptp(maxima, axis=0) > 0)
    rng = np.random.default_rng(random_state)
    drawn = np.array([rng.choice(live) if len(live) else 0 for _ in store.classes])

    def heat(maps: np.ndarray, context: Context) -> np.ndarray:
        return maps[np.arange(len(maps)), :, :, drawn[context.codes]]

    return HeatMethod(RANDOM, "a random neuron", heat)


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
