"""The methods asked for, fitted on the train rows: scales, detectors, head weights, cells."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from featlab.arguments import (
    check_choices,
    check_classes_in_train,
    confirmed_detectors,
    is_signed,
    row_numbers,
    stratified_rows,
)
from featlab.boxes.geometry import CORNERS, picture_to_frame
from featlab.boxes.scores import box_masks
from featlab.errors import FeatlabError
from featlab.localise.heat import detector_scale, heat_maps, label_codes, picture_sizes, read
from featlab.localise.methods import COMPONENTS, METHODS, scored_cells
from featlab.results.localisation import Cells, ClassWeights, Context, FittedMethods, HeatMethod
from featlab.store import MapStore

logger = logging.getLogger(__name__)

RANDOM = "random_neuron"
_DRAWS = 10
_MOST_CELLS = 40_000
_MOST_PER_IMAGE = 100
_MOST_SCALED = 50_000
_RANKED_AT_ONCE = 512
_MOST_LEARNT = 20_000  # images whose cells are drawn, and as many that have boxes


def fit_methods(
    store: MapStore,
    rows: Any,
    methods: str | Iterable[str] | None = None,
    *,
    boxes: pd.DataFrame,
    neurons: pd.DataFrame | None = None,
    weights: ClassWeights | Mapping[str, ClassWeights] | None = None,
    mlp: Any | None = None,
    layer: str | Sequence[str] | None = None,
    random_state: int = 0,
) -> FittedMethods:
    """Learn on the train rows what the methods need.

    Parameters
    ----------
    store : MapStore
    rows : sequence of int, or mask of shape (n,)
        What may be learnt from: the train rows.
    methods : str or sequence of str, optional
        Of the registry, and ``random_neuron``; all that have what they need by default.
    boxes : DataFrame
        True boxes; only those of `rows` are used, and only by methods that say so.
    neurons, weights, mlp, layer
        As in :func:`evaluate_localisation`.
    random_state : int
        Seed of the random neurons and of the methods' own fits.

    Returns
    -------
    FittedMethods
        Without the methods that have nothing to say: those of detectors where no active one was
        confirmed, those of boxes where no cell lies in one, or every cell. ``left_out`` has them,
        and the log.

    Raises
    ------
    FeatlabError
        A method is unknown, or asked for without what it needs; none of those asked for has
        anything to say; no row, or a class without train image; `neurons`, `weights` or `mlp` lack
        a layer.
    """
    train = np.unique(row_numbers(rows, store.images))
    if not len(train):
        raise FeatlabError("rows must name at least one image to learn from, got none.")
    check_classes_in_train(label_codes(store)[train], np.array(store.classes, dtype=object))
    known = {RANDOM: _RANDOM_NEURON, **METHODS}
    have = {"neurons": neurons, "weights": weights, "mlp": mlp, COMPONENTS: True}
    wanted = _available(known, methods, {name for name, one in have.items() if one is not None})
    layers = [store.layer_name()] if layer is None else check_choices("layer", layer, store.layers)
    if not layers:
        raise FeatlabError("layer is empty; name at least one, or leave it out for the last.")
    learnt = _rows_of_cells(store, train, boxes, random_state)
    detectors = None
    if neurons is not None:
        detectors = confirmed_detectors(neurons, layer=layers, silent=True)
    contexts = {}
    for one in layers:
        centre = signed_centre(store, train, one, random_state)
        maxima = train_maxima(store, train, one, random_state, centre)
        n_neurons = maxima.shape[1] if centre is None else len(centre)
        head = _of_layer("weights", weights, one, len(layers))
        coef, intercepts = _head_weights(head, store.classes, n_neurons)
        contexts[one] = Context(
            classes=store.classes,
            codes=np.zeros(0, dtype=np.int64),
            scale=detector_scale(maxima),
            centre=centre,
            neurons=_of_halves(detectors, one, centre),
            weights=coef if coef is None or centre is None else np.hstack([coef, -coef]),
            intercepts=intercepts if coef is None or centre is None else intercepts + coef @ centre,
            mlp=_of_layer("mlp", mlp, one, len(layers)),
            random_state=random_state,
            fitted={RANDOM: _drawn_neurons(maxima, len(store.classes), random_state)},
        )
    return _with_something_to_say(wanted, _fitted(wanted, contexts, store, learnt, boxes))


def _rows_of_cells(
    store: MapStore, train: np.ndarray, boxes: pd.DataFrame, random_state: int
) -> np.ndarray:
    """The train rows whose maps are read: all; of very many a sample, and one with boxes."""
    codes, boxed = label_codes(store), np.intersect1d(train, boxes["image"])
    kept = [
        rows[stratified_rows(codes[rows], _MOST_LEARNT, random_state)] for rows in (train, boxed)
    ]
    return np.union1d(*kept)


def _with_something_to_say(
    wanted: Mapping[str, HeatMethod], contexts: dict[str, Context]
) -> FittedMethods:
    """The methods less those that learnt nothing in any layer; why is said in the log."""
    silent = len(_classes_of_detectors(contexts)) == 0
    left_out = {}
    for name, method in wanted.items():
        if silent and "neurons" in method.needs:
            left_out[name] = "no active detector was confirmed"
        elif method.fit and all(one.fitted[name] is None for one in contexts.values()):
            left_out[name] = f"there was nothing to learn from ({method.supervision})"
    kept = {name: method for name, method in wanted.items() if name not in left_out}
    if left_out and not kept:
        words = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise FeatlabError(f"no method has anything to say ({words}); ask for others.")
    for name, why in left_out.items():
        logger.warning("Heat maps of %s are left out: %s.", name, why)
    return FittedMethods(kept, contexts, left_out)


def _classes_of_detectors(contexts: Mapping[str, Context]) -> set[str]:
    """Classes that have an active detector in any layer."""
    tables = [one.neurons for one in contexts.values() if one.neurons is not None]
    return {name for t in tables for name in t.loc[t["direction"] == "active", "class"]}


def classes_without_detectors(fitted: FittedMethods) -> list[str]:
    """Classes for which no active detector was confirmed; empty where no method asks for one.

    Of several layers one with detectors is enough.
    """
    if not any("neurons" in method.needs for method in fitted.methods.values()):
        return []
    known = _classes_of_detectors(fitted.contexts)
    classes = next(iter(fitted.contexts.values())).classes
    return [name for name in classes if name not in known]


def _of_halves(
    detectors: pd.DataFrame | None, layer: str, centre: np.ndarray | None
) -> pd.DataFrame | None:
    """The detectors of a layer; of a signed one each is silent by its other half, and so on."""
    if detectors is None:
        return None
    own = detectors[detectors["layer"] == layer]
    if centre is None:
        return own
    turned = own["direction"].map({"active": "silent", "silent": "active"})
    other = own.assign(direction=turned, neuron=own["neuron"].astype(np.int64) + len(centre))
    return pd.concat([own, other]).sort_index(kind="stable").reset_index(drop=True)


def signed_centre(
    store: MapStore, rows: np.ndarray, layer: str | None, random_state: int
) -> np.ndarray | None:
    """The neurons' means on the (train) rows where a layer is signed; None where it is not."""
    means = store.pooled(_sample(rows, random_state), layer=layer)
    return means.mean(axis=0) if is_signed(means) else None


def train_maxima(
    store: MapStore,
    rows: np.ndarray,
    layer: str | None,
    random_state: int,
    centre: np.ndarray | None = None,
) -> np.ndarray:
    """Max-pooled activations of the (train) rows, of very many a random sample.

    Of a signed layer those of its halves.
    """
    rows = _sample(rows, random_state)
    if centre is None:
        return store.pooled(rows, layer=layer, pooling="max")
    maps = store.iter_maps(rows=rows, layer=layer)
    return np.concatenate([read(one, centre).max(axis=(1, 2)) for _, one in maps])


def _sample(rows: np.ndarray, random_state: int) -> np.ndarray:
    if len(rows) <= _MOST_SCALED:
        return rows
    return np.sort(np.random.default_rng(random_state).choice(rows, _MOST_SCALED, replace=False))


def train_cells(
    store: MapStore,
    rows: np.ndarray,
    codes: np.ndarray,
    boxes: pd.DataFrame,
    context: Context,
    *,
    layer: str | None,
) -> Cells:
    """Draw cells of the given (train) rows in one pass over their maps.

    Parameters
    ----------
    store : MapStore
    rows : ndarray of shape (k,)
        Row numbers, sorted.
    codes : ndarray of shape (n,)
        Class of every image of the store.
    boxes : DataFrame
        True boxes; those of other images are ignored.
    context : Context
        Of the layer: how its activations are read, and the seed.
    layer : str, optional
    """
    rng = np.random.default_rng(context.random_state)
    share = min(_MOST_PER_IMAGE, max(1, _MOST_CELLS // max(len(rows), 1)))
    parts: list[tuple[np.ndarray, ...]] = []
    values, filled = np.empty((0, 0)), 0
    for chunk, maps in store.iter_maps(rows=rows, layer=layer):
        n, h, w, c = maps.shape
        take = min(share, h * w)
        if not filled:  # all at once: in parts, and then put together, they are there twice
            values = np.empty((len(rows) * take, c), maps.dtype)
        inside = cells_in_boxes(store, chunk, (h, w), boxes)
        place = np.argsort(rng.random((n, h * w)), axis=1)[:, :take].ravel()
        image = np.repeat(np.arange(n), take)
        own = values[filled : filled + len(place)]
        # No place is beyond.
        np.take(maps.reshape(-1, c), image * h * w + place, axis=0, out=own, mode="clip")
        filled += len(place)
        parts.append((np.asarray(chunk)[image], place, inside[image, place]))
    images, place, hit = (np.concatenate(part) for part in zip(*parts, strict=True))
    boxed = np.isin(images, boxes["image"].to_numpy(np.int64))
    unranked = np.full(len(images), np.nan, dtype=np.float32)
    values = read(values, context.centre)
    return Cells(values, codes[images], images, place, hit, boxed, unranked)


def ranked_cells(cells: Cells, heat: np.ndarray, frames: np.ndarray) -> Cells:
    """The cells with their ranks in the heat maps of their images.

    Parameters
    ----------
    cells : Cells
    heat : ndarray of shape (k, h, w)
        Of the images that cells were drawn of, in the order of their rows, a value for each cell.
    frames : ndarray of shape (k, 4)
        Where these pictures lie in the network's input: padding has no rank.
    """
    ranks = []
    for start in range(0, len(heat), _RANKED_AT_ONCE):
        hot = heat[start : start + _RANKED_AT_ONCE]
        own = np.arange(len(hot))
        visible = box_masks(frames[start + own], own, len(own), hot.shape[1:])
        ranks.append(ranks_in_picture(np.where(visible, hot, np.nan)).reshape(len(hot), -1))
    image = np.unique(cells.images, return_inverse=True)[1]
    return replace(cells, rank=np.concatenate(ranks)[image, cells.place])


def ranks_in_picture(heat: np.ndarray) -> np.ndarray:
    """Share of its picture's cells that each is hotter than, half of itself included.

    Among all cells, not those that are drawn: of very many pictures two each are.

    Parameters
    ----------
    heat : ndarray of shape (n, h, w)
        NaN where it does not count.

    Returns
    -------
    ndarray of shape (n, h, w), float32
        Between 0 and 1, NaN where `heat` is; equal ones share the mean of their ranks.
    """
    from scipy.stats import rankdata  # which a prediction need not wait for

    flat = heat.reshape(len(heat), -1)
    ranks = rankdata(flat, axis=1, nan_policy="omit")
    count = np.maximum(np.isfinite(flat).sum(axis=1, keepdims=True), 1)
    return ((ranks - 0.5) / count).astype(np.float32).reshape(heat.shape)


def cells_in_boxes(
    store: MapStore, rows: Sequence[int] | np.ndarray, shape: tuple[int, int], boxes: pd.DataFrame
) -> np.ndarray:
    """Whether the centre of each cell lies in a box of its image, ``(k, h * w)`` bool."""
    rows = np.asarray(rows, dtype=np.int64)
    image = boxes["image"].to_numpy(np.int64)
    # Asked of a batch at a time: what looks at all boxes must be quick.
    first, last = rows.min(initial=len(store.images)), rows.max(initial=-1)
    near = np.flatnonzero((image >= first) & (image <= last))
    own = near[np.isin(image[near], rows)]
    image = image[own]
    corners = picture_to_frame(
        np.stack([boxes[corner].to_numpy(float)[own] for corner in CORNERS], axis=1),
        np.asarray(store.frames)[image],
        picture_sizes(store, image),
    )
    masks = box_masks(corners, np.searchsorted(rows, image), len(rows), shape)
    return masks.reshape(len(rows), -1)


def _available(
    known: Mapping[str, HeatMethod], methods: str | Iterable[str] | None, have: set[str]
) -> dict[str, HeatMethod]:
    """The methods asked for, in the order of the registry; all that can be had by default."""
    if methods is None:
        return {name: method for name, method in known.items() if set(method.needs) <= have}
    asked = check_choices("methods", methods, known)
    for name in asked:
        lacking = set(known[name].needs) - have
        if lacking:
            raise FeatlabError(f"method {name!r} needs {', '.join(sorted(lacking))}; give it.")
    return {name: method for name, method in known.items() if name in asked}


def _fitted(
    methods: Mapping[str, HeatMethod],
    contexts: dict[str, Context],
    store: MapStore,
    train: np.ndarray,
    boxes: pd.DataFrame,
) -> dict[str, Context]:
    """The contexts with the results of the methods' own fits on cells of the train rows.

    Methods that learn from another come last. They learn on the layer of most cells alone: it has
    the finest outlines, and others blur them.
    """
    alone = {one.teacher or name: METHODS[one.teacher] if one.teacher else one
             for name, one in methods.items()}  # fmt: skip
    fits = {name: method.fit for name, method in alone.items() if method.fit is not None}
    if not fits:
        return contexts
    n_cells = {layer: int(np.prod(store.map_shape(layer)[:2])) for layer in contexts}
    finest = max(contexts, key=lambda layer: n_cells[layer])
    # The finest last: its cells are then at hand for those that are taught.
    for layer in [*(one for one in contexts if one != finest), finest]:
        context = contexts[layer]
        cells = train_cells(store, train, label_codes(store), boxes, context, layer=layer)
        asked = methods if layer == finest else alone
        if any(COMPONENTS in method.needs for method in asked.values()):
            cells = scored_cells(cells, context.scale)
        made = {fit: fit(cells, context) for fit in dict.fromkeys(fits.values())}  # some share one
        own = {name: made[fit] for name, fit in fits.items()}
        contexts[layer] = replace(context, fitted={**context.fitted, **own})
    for name, method in methods.items():
        if method.teacher is not None:
            contexts = _taught(name, method, contexts, store, cells, finest)
    return contexts


def _taught(
    name: str,
    method: HeatMethod,
    contexts: Mapping[str, Context],
    store: MapStore,
    cells: Cells,
    finest: str,
) -> dict[str, Context]:
    """The contexts with what a method learns from another's heat maps of the train rows."""
    assert method.fit is not None and method.teacher is not None
    teacher = FittedMethods({method.teacher: METHODS[method.teacher]}, dict(contexts))
    rows = np.unique(cells.images)
    heat = heat_maps(store, rows, teacher)[method.teacher]
    ranked = ranked_cells(cells, heat, np.asarray(store.frames)[rows])
    learnt = method.fit(ranked, contexts[finest])
    none: dict[str, Any] = {
        part: one[:0] for part, one in vars(cells).items() if isinstance(one, np.ndarray)
    }
    no_cells = replace(cells, **none)
    taught = {}
    for layer, one in contexts.items():
        alone = layer == finest or learnt is None
        fitted = learnt if alone else method.fit(no_cells, one)
        taught[layer] = replace(one, fitted={**one.fitted, name: fitted})
    return taught


def _random_heats(maps: np.ndarray, context: Context) -> np.ndarray:
    channels = context.asked(context.fitted[RANDOM])[:, None, None, :]
    return np.moveaxis(np.take_along_axis(maps, channels, axis=3), 3, 1)


_RANDOM_NEURON = HeatMethod(RANDOM, "a random neuron", _random_heats)


def _drawn_neurons(maxima: np.ndarray, n_classes: int, random_state: int) -> np.ndarray:
    """Live neurons ``(classes, draws)``, those of a class all different if there are enough."""
    live = np.flatnonzero(np.ptp(maxima, axis=0) > 0)
    if not len(live):
        return np.zeros((n_classes, _DRAWS), dtype=np.int64)
    rng, few = np.random.default_rng(random_state), len(live) < _DRAWS
    return np.stack([rng.choice(live, _DRAWS, replace=few) for _ in range(n_classes)])


def _of_layer(name: str, given: Any, layer: str, n_layers: int) -> Any:
    """What `given` (`weights` or `mlp`) says of one layer: all of it, or its entry in a dict."""
    if given is None or (n_layers == 1 and not isinstance(given, Mapping)):
        return given
    if not isinstance(given, Mapping) or layer not in given:
        raise FeatlabError(
            f"{name} must be a dict with an entry for each layer where several are given, "
            f"got none for {layer!r}."
        )
    return given[layer]


def _head_weights(
    head: ClassWeights | None, classes: Sequence[str], n_neurons: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Weights ``(classes, c)`` and intercepts ``(classes,)`` in the order of the classes."""
    if head is None:
        return None, None
    places = {name: place for place, name in enumerate(head.classes)}
    missing = [name for name in classes if name not in places]
    if missing:
        raise FeatlabError(f"weights lack the classes {missing}; fit the head on all classes.")
    coef, intercept = np.asarray(head.coef), np.asarray(head.intercept)
    if coef.shape != (len(places), n_neurons) or intercept.shape != (len(places),):
        raise FeatlabError(
            f"weights must have {n_neurons} values per class, one for each neuron of the layer, "
            f"and an intercept per class, got shapes {coef.shape} and {intercept.shape}; use a "
            "head on mean-pooled maps."
        )
    order = [places[name] for name in classes]
    return coef[order].astype(np.float32), intercept[order].astype(np.float32)
