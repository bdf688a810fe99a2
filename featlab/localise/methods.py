"""Heat maps of fitted methods: of all in one pass over the maps, and of a few images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featlab.errors import FeatlabError
from featlab.localise.checks import class_codes, picture_sizes
from featlab.localise.heat import fuse_heats
from featlab.localise.regions import heat_boxes
from featlab.results.localisation import FittedMethods

if TYPE_CHECKING:
    from featlab.store import MapStore

Progress = Callable[[Iterable[Any]], Iterable[Any]]


def method_heats(
    store: MapStore,
    rows: np.ndarray,
    fitted: FittedMethods,
    *,
    codes: np.ndarray | None = None,
    progress: Progress | None = None,
    seconds: dict[str, float] | None = None,
) -> dict[str, np.ndarray]:
    """Heat maps of every method in one pass over the maps, several layers fused.

    Parameters
    ----------
    store : MapStore
    rows : ndarray of shape (k,)
        Row numbers, without repetition.
    fitted : FittedMethods
    codes : ndarray of shape (k,), optional
        Class asked for in each image, as a place in ``store.classes``; the image's own by default.
    progress : callable, optional
        Wraps the iterable of batches.
    seconds : dict of str to float, optional
        Filled with the time of each method: its own, and an equal part of that of reading the maps.

    Returns
    -------
    dict of str to ndarray of shape (k, h, w) or (k, draws, h, w), float32
    """
    codes = class_codes(store)[rows] if codes is None else np.asarray(codes)
    spent = dict.fromkeys(fitted.methods, 0.0)
    per_layer = [
        _layer_heats(store, rows, fitted, layer, codes, progress, spent)
        for layer in fitted.contexts
    ]
    heats = {}
    for name in fitted.methods:
        start = time.perf_counter()
        heats[name] = fuse_heats([of_layer[name] for of_layer in per_layer])
        spent[name] += time.perf_counter() - start
    if seconds is not None:
        seconds.update(spent)
    return heats


def _layer_heats(
    store: MapStore,
    rows: np.ndarray,
    fitted: FittedMethods,
    layer: str,
    codes: np.ndarray,
    progress: Progress | None,
    spent: dict[str, float],
) -> dict[str, np.ndarray]:
    """Heat maps from one layer; the seconds of each method are added to `spent`."""
    batches: Iterable[Any] = store.iter_maps(rows, layer=layer)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in fitted.methods}
    done, begun, before = 0, time.perf_counter(), sum(spent.values())
    for chunk, maps in progress(batches) if progress else batches:
        context = fitted.contexts[layer].of(codes[done : done + len(chunk)])
        for name, method in fitted.methods.items():
            start = time.perf_counter()
            parts[name].append(np.asarray(method.heat(maps, context), dtype=np.float32))
            spent[name] += time.perf_counter() - start
        done += len(chunk)
    reading = time.perf_counter() - begun - (sum(spent.values()) - before)
    for name in parts:
        spent[name] += reading / len(parts)
    return {name: np.concatenate(heats) for name, heats in parts.items()}


def heats_for(
    store: MapStore,
    rows: Sequence[int] | np.ndarray,
    method: str,
    fitted: FittedMethods,
    *,
    threshold: float,
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

    Returns
    -------
    heats : ndarray of shape (k, h, w), float32
        For each image's own class, over the network's input, not normalised; of a method with
        several draws the first.
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
    one = FittedMethods({method: fitted.methods[method]}, fitted.contexts)
    heats = method_heats(store, rows, one)[method]
    heats = heats[:, 0] if heats.ndim == 4 else heats
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
    maps = store.maps(rows, layer=layer)
    return np.moveaxis(maps[..., np.asarray(neurons, dtype=np.int64)], -1, 1)
