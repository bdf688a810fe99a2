"""The chosen methods fitted on the train rows, for each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError
from featlab.localise.checks import class_codes
from featlab.localise.context import train_cells, train_maxima
from featlab.localise.heat import detector_scale
from featlab.localise.registry import METHODS
from featlab.results.localisation import Context, FittedMethods, HeatMethod

if TYPE_CHECKING:
    from featlab.store import MapStore

ClassWeights = Mapping[str, np.ndarray] | tuple[np.ndarray, Sequence[str]]
RANDOM = "random_neuron"
_DRAWS = 10


def fit_methods(
    store: MapStore,
    names: Sequence[str] | None = None,
    *,
    train: np.ndarray,
    truth: pd.DataFrame,
    neurons: pd.DataFrame | None = None,
    weights: ClassWeights | Mapping[str, ClassWeights] | None = None,
    network: Any | None = None,
    layer: str | Sequence[str] | None = None,
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
        A name is unknown, or asked for without what it needs; `weights` or `network` lack a layer.
    """
    if not train.any():
        raise FeatlabError("split has no 'train' rows, from which the neurons' scales are taken.")
    known = {RANDOM: _RANDOM_NEURON, **METHODS}
    given = {"neurons": neurons, "weights": weights, "network": network}
    have = {name for name, value in given.items() if value is not None}
    chosen = {
        name: method
        for name, method in known.items()
        if (names is None and set(method.needs) <= have) or (names is not None and name in names)
    }
    for name in names or ():
        _check_available(name, known, have)
    per_layer: dict[str, tuple[Any, Any]]
    if layer is None or isinstance(layer, str):
        per_layer = {layer or store.layers[-1]: (weights, network)}
    else:
        per_layer = {
            one: (_of_layer("weights", weights, one), _of_layer("network", network, one))
            for one in layer
        }
    contexts = {}
    for one, (own_weights, own_network) in per_layer.items():
        maxima = train_maxima(store, train, one, random_state)
        scale = detector_scale(maxima)
        context = Context(
            classes=store.classes,
            codes=np.zeros(0, dtype=np.int64),
            scale=scale,
            neurons=None if neurons is None else _confirmed(neurons, one),
            weights=_head_weights(own_weights, store.classes, len(scale)),
            network=own_network,
            random_state=random_state,
            fitted={RANDOM: _drawn_neurons(maxima, len(store.classes), random_state)},
        )
        contexts[one] = _fitted(chosen, context, store, train, truth, one)
    return FittedMethods(chosen, contexts)


def _fitted(
    methods: Mapping[str, HeatMethod],
    context: Context,
    store: MapStore,
    train: np.ndarray,
    truth: pd.DataFrame,
    layer: str,
) -> Context:
    """The context with the results of the methods' own fits on cells of the train rows."""
    fits = {name: method.fit for name, method in methods.items() if method.fit is not None}
    if not fits:
        return context
    cells = train_cells(
        store,
        np.flatnonzero(train),
        class_codes(store),
        truth,
        layer=layer,
        random_state=context.random_state,
    )
    own = {name: fit(cells, context) for name, fit in fits.items()}
    return replace(context, fitted={**context.fitted, **own})


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
    """Classes for which no active detector was confirmed; empty where detectors play no part.

    Of several layers one with detectors is enough.
    """
    tables = [one.neurons for one in fitted.contexts.values() if one.neurons is not None]
    found = {name for t in tables for name in t.loc[t["direction"] == "active", "class"]}
    classes = next(iter(fitted.contexts.values())).classes
    return [name for name in classes if name not in found] if tables else []


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


def _random_heats(maps: np.ndarray, context: Context) -> np.ndarray:
    chosen = context.asked(context.fitted[RANDOM])[:, None, None, :]
    return np.moveaxis(np.take_along_axis(maps, chosen, axis=3), 3, 1)


_RANDOM_NEURON = HeatMethod(RANDOM, "a random neuron", _random_heats)


def _drawn_neurons(maxima: np.ndarray, n_classes: int, random_state: int) -> np.ndarray:
    """Live neurons ``(classes, draws)``, those of a class all different if there are enough."""
    live = np.flatnonzero(np.ptp(maxima, axis=0) > 0)
    if not len(live):
        return np.zeros((n_classes, _DRAWS), dtype=np.int64)
    rng, few = np.random.default_rng(random_state), len(live) < _DRAWS
    return np.stack([rng.choice(live, _DRAWS, replace=few) for _ in range(n_classes)])


def _of_layer(name: str, given: Any, layer: str) -> Any:
    """The part of `weights` or `network` that is about one of several layers."""
    if given is None:
        return None
    if not isinstance(given, Mapping) or layer not in given:
        raise FeatlabError(
            f"{name} must be a dict with an entry for each of the layers where several are given, "
            f"got none for {layer!r}."
        )
    return given[layer]


def _head_weights(
    weights: ClassWeights | None, classes: Sequence[str], n_neurons: int
) -> np.ndarray | None:
    if weights is None:
        return None
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
