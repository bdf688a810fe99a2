"""Stored maps → heat maps: linear combinations of neurons, normalised, up-sampled and fused."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from featlab.arguments import Progress, check_choices, row_numbers, tracked
from featlab.errors import FeatlabError
from featlab.results.localisation import FittedMethods
from featlab.store import MapStore

# float16 maps keep about 3 decimal digits; a smaller range than this is rounding, not signal.
FLAT = 1e-5


def heat_maps(
    store: MapStore,
    rows: Any,
    fitted: FittedMethods,
    *,
    methods: str | Iterable[str] | None = None,
    codes: ArrayLike | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Heat maps of fitted methods in one pass over the maps, several layers fused.

    Parameters
    ----------
    store : MapStore
    rows : sequence of int, or mask of shape (n,)
        Rows of the image table, without repetition; only their maps are read.
    fitted : FittedMethods
        ``Localisation.fitted``.
    methods : str or sequence of str, optional
        Of those fitted; all by default.
    codes : ndarray of shape (k,), optional
        Class asked for in each image, as a place among the classes that the methods were fitted
        on (``store.classes`` of that store); by default the image's label. With `codes` the images
        need no labels.
    progress : callable, optional
        Wraps the iterable of batches.

    Returns
    -------
    dict of str to ndarray of shape (k, h, w), float32
        Over the network's input, not normalised; of a method that depends on chance
        ``(k, draws, h, w)``.

    Raises
    ------
    FeatlabError
        A method is not among those fitted, or was left out; a row does not exist, or there is
        none; `codes` are not one for each row, or no place among the classes; without `codes` an
        image has a label that is none of these.
    """
    names = _methods_of(fitted, methods)
    some = replace(fitted, methods={name: fitted.methods[name] for name in names})
    numbers = row_numbers(rows, store.images)
    if not len(numbers):
        raise FeatlabError("rows must name at least one image, got none.")
    asked = None if codes is None else _class_places(codes, len(numbers), _classes_of(fitted))
    return timed_heats(store, numbers, some, asked, progress)[0]


def _methods_of(fitted: FittedMethods, methods: str | Iterable[str] | None) -> list[str]:
    """Names of fitted methods; one that was left out is refused with the reason."""
    if methods is None:
        return list(fitted.methods)
    names = check_choices("methods", methods, [*fitted.methods, *fitted.left_out])
    for name in names:
        if name in fitted.left_out:
            raise FeatlabError(f"method {name!r} has no heat maps: {fitted.left_out[name]}.")
    return names


def _classes_of(fitted: FittedMethods) -> list[str]:
    """The classes of the set that the methods were fitted on; all layers have the same."""
    return next(iter(fitted.contexts.values())).classes


def _class_places(codes: ArrayLike, n: int, classes: Sequence[str]) -> np.ndarray:
    """A class per image, as its place among the classes, checked."""
    places = np.asarray(codes)
    if places.shape != (n,) or places.dtype.kind not in "iu":
        raise FeatlabError(
            f"codes must be a whole number for each of the {n} rows, got {places.dtype} values of "
            f"shape {places.shape}."
        )
    outside = places[(places < 0) | (places >= len(classes))]
    if len(outside):
        raise FeatlabError(
            f"codes must be from 0 to {len(classes) - 1}, places among the classes fitted on, "
            f"{', '.join(classes)}; got {outside[0]}."
        )
    return places


def timed_heats(
    store: MapStore,
    rows: np.ndarray,
    fitted: FittedMethods,
    codes: np.ndarray | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """:func:`heat_maps`, and the seconds of each method: its own, and its share of reading."""
    codes = label_codes(store, _classes_of(fitted), rows) if codes is None else codes
    seconds = dict.fromkeys(fitted.methods, 0.0)
    per_layer = [
        _layer_heats(store, rows, fitted, layer, codes, progress, seconds)
        for layer in fitted.contexts
    ]
    heats = {}
    for name, method in fitted.methods.items():
        start = time.perf_counter()
        heats[name] = fuse_heats([of_layer[name] for of_layer in per_layer])
        if method.join is not None:
            heats[name] = method.join(heats[name])
        seconds[name] += time.perf_counter() - start
    return heats, seconds


def _layer_heats(
    store: MapStore,
    rows: np.ndarray,
    fitted: FittedMethods,
    layer: str,
    codes: np.ndarray,
    progress: Progress | None,
    seconds: dict[str, float],
) -> dict[str, np.ndarray]:
    """Heat maps from one layer; the time of each method is added to `seconds`."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in fitted.methods}
    done, begun, before = 0, time.perf_counter(), sum(seconds.values())
    for chunk, stored in tracked(store.iter_maps(rows=rows, layer=layer), progress):
        context = fitted.contexts[layer].of(codes[done : done + len(chunk)])
        maps = read(stored, context.centre)
        for name, method in fitted.methods.items():
            start = time.perf_counter()
            parts[name].append(np.asarray(method.heat(maps, context), dtype=np.float32))
            seconds[name] += time.perf_counter() - start
        done += len(chunk)
    reading = time.perf_counter() - begun - (sum(seconds.values()) - before)
    for name in parts:
        seconds[name] += reading / len(parts)
    return {name: np.concatenate(heats) for name, heats in parts.items()}


def read(stored: np.ndarray, centre: np.ndarray | None) -> np.ndarray:
    """Activations as methods see them: of a signed layer two for each neuron, never negative.

    How far it is above its mean, in `centre`, and how far below.
    """
    if centre is None:
        return stored
    return np.concatenate([stored - centre, centre - stored], axis=-1).clip(0)


def unread(maps: np.ndarray, centre: np.ndarray | None) -> np.ndarray:
    """The activations of which :func:`read` gave `maps`."""
    return maps if centre is None else np.subtract(*np.split(maps, 2, axis=-1)) + centre


def label_codes(
    store: MapStore, classes: Sequence[str] | None = None, rows: np.ndarray | slice = slice(None)
) -> np.ndarray:
    """Place of the labels of images among `classes`, by default ``store.classes``.

    Raises
    ------
    FeatlabError
        A label is none of the classes, such as "" in a set without labels.
    """
    labels = store.images["label"].to_numpy(str)[rows]
    classes = store.classes if classes is None else list(classes)
    if unknown := sorted(set(labels.tolist()) - set(classes)):
        raise FeatlabError(
            f"the store has images of the label {unknown[0]!r}, which is none of the classes "
            f"fitted on, {', '.join(classes)}; give codes, the class to ask for in each image."
        )
    return np.searchsorted(classes, labels)


def picture_sizes(store: MapStore, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Width and height of some images, by default of all, ``(n, 2)`` float, pixels."""
    return np.stack([store.images[side].to_numpy(float)[rows] for side in ("width", "height")], 1)


def detector_scale(maxima: np.ndarray) -> np.ndarray:
    """What a neuron's map is divided by before several neurons are averaged.

    Each neuron's own 95th percentile of image maxima; where that is not positive (a neuron that
    fires in less than 5 % of the images), its largest maximum.

    Parameters
    ----------
    maxima : ndarray of shape (n, c)
        Max-pooled activations of the *train* rows.

    Returns
    -------
    ndarray of shape (c,), float32
        0 for a neuron that never fires.
    """
    scale = np.quantile(maxima, 0.95, axis=0)
    scale = np.where(scale > 0, scale, maxima.max(axis=0))
    return np.clip(scale, 0, None).astype(np.float32)


def scaled(maps: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Maps divided by each neuron's scale; neurons that never fire are 0."""
    return maps * scaling(scale)


def scaling(scale: np.ndarray) -> np.ndarray:
    """What :func:`scaled` multiplies each neuron by, ``(c,)``."""
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)


def detector_weights(channels: Sequence[int] | np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The weights with which :func:`detector_heat` is a :func:`cam_heat`.

    Parameters
    ----------
    channels : sequence of int
        None gives all zeros.
    scale : ndarray of shape (c,)
        From :func:`detector_scale`.

    Returns
    -------
    ndarray of shape (c,), float32
    """
    weights = np.zeros(len(scale), dtype=np.float32)
    alive = np.asarray(channels, dtype=np.int64)
    alive = alive[scale[alive] > 0]
    weights[alive] = 1 / (scale[alive] * max(1, len(channels)))
    return weights


def detector_heat(
    maps: np.ndarray, channels: Sequence[int] | np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """Mean over some neurons of their maps, each divided by its scale.

    Parameters
    ----------
    maps : ndarray of shape (n, h, w, c)
    channels : sequence of int
    scale : ndarray of shape (c,)
        From :func:`detector_scale`; a neuron of scale 0 adds nothing.

    Returns
    -------
    ndarray of shape (n, h, w), float32
    """
    return cam_heat(maps, detector_weights(channels, scale))


def cam_heat(maps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sum of the maps: the class activation map of a linear head on mean-pooled maps.

    Parameters
    ----------
    maps : ndarray of shape (n, h, w, c)
    weights : ndarray of shape (c,) or (n, c)
        The head's weights for the class asked for, on raw (unscaled) features; one set for all
        images, or one for each.

    Returns
    -------
    ndarray of shape (n, h, w), float32

    References
    ----------
    Zhou et al. (2016), Learning deep features for discriminative localization, CVPR.
    """
    n, _, _, c = maps.shape
    weights = np.broadcast_to(np.asarray(weights, dtype=np.float32), (n, c))
    return weighted_heats(maps, weights[..., None])[0]


def weighted_heats(maps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Several weighted sums of the same maps at once.

    Parameters
    ----------
    maps : ndarray of shape (n, h, w, c)
    weights : ndarray of shape (n, c, m)
        For each image, `m` sets of weights.

    Returns
    -------
    ndarray of shape (m, n, h, w), float32
    """
    n, h, w, c = maps.shape
    flat = np.asarray(maps, dtype=np.float32).reshape(n, h * w, c)
    return np.moveaxis(flat @ weights.astype(np.float32), -1, 0).reshape(-1, n, h, w)


def normalise(heat: np.ndarray) -> np.ndarray:
    """Scale each heat map to [0, 1] by its own minimum and maximum.

    Parameters
    ----------
    heat : ndarray of shape (..., h, w)

    Returns
    -------
    ndarray of shape (..., h, w), float32
        A flat map (range below 1e-5 of its largest magnitude) becomes zeros.

    Raises
    ------
    FeatlabError
        A value is NaN or infinite.
    """
    heat = np.asarray(heat, dtype=np.float32)
    low = heat.min(axis=(-2, -1), keepdims=True)
    high = heat.max(axis=(-2, -1), keepdims=True)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise FeatlabError("a heat map has NaN or infinite values; check the maps and weights.")
    extent = high - low
    flat = extent <= FLAT * np.maximum(np.abs(low), np.abs(high))
    scaled = heat - low
    scaled /= np.where(flat, np.float32(1), extent)
    if flat.any():
        np.copyto(scaled, 0, where=flat)
    return scaled


def fuse_heats(heats: Sequence[np.ndarray]) -> np.ndarray:
    """Heat maps of several layers as one: their geometric mean on the finest grid.

    Each map is up-sampled (bilinearly) to the largest height and width and scaled to [0, 1] by its
    own range. What is hot in the result is hot in every layer: a fine early layer gives the
    outline, a late one says which of the things in the picture is meant. A flat map says nothing
    and is left out.

    Parameters
    ----------
    heats : sequence of ndarray of shape (..., h, w)
        One for each layer, of the same leading axes; `h` and `w` may differ. One alone is returned
        as it is.

    Returns
    -------
    ndarray of shape (..., h, w), float32

    Raises
    ------
    FeatlabError
        A value is NaN or infinite.
    """
    if len(heats) == 1:
        return heats[0]
    size = max(heat.shape[-2] for heat in heats), max(heat.shape[-1] for heat in heats)
    fine = np.stack([normalise(upsample(heat, size)) for heat in heats])
    flat = fine.max(axis=(-2, -1), keepdims=True) == 0
    layers = np.maximum((~flat).sum(axis=0), 1)
    product = np.where(flat, np.float32(1), fine).prod(axis=0) ** (1 / layers).astype(np.float32)
    return np.where(flat.all(axis=0), np.float32(0), product)


def upsample(heat: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation to a larger grid: half-pixel centres, edges repeated.

    Parameters
    ----------
    heat : ndarray of shape (..., h, w)
    size : int or (int, int)
        Height and width of the result.

    Returns
    -------
    ndarray of shape (..., height, width), float32
    """
    height, width = (size, size) if isinstance(size, int) else size
    return resample_frame(heat, np.array([0.0, 0.0, 1.0, 1.0]), (height, width))


def resample_frame(heat: np.ndarray, frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear samples of the part of each heat map that the picture covers.

    Parameters
    ----------
    heat : ndarray of shape (..., h, w)
        Over the network's input.
    frames : ndarray of shape (4,) or (..., 4)
        Left, top, right, bottom of the picture in unit coordinates of the input.
    size : (int, int)
        Height and width of the result.

    Returns
    -------
    ndarray of shape (..., height, width), float32
    """
    heat = np.asarray(heat, dtype=np.float32)
    left, top, right, bottom = np.moveaxis(np.asarray(frames, dtype=float), -1, 0)
    # One frame is that of thousands of pictures.
    sampled = _interpolation if np.ndim(left) else _same_interpolation
    across = sampled(size[1], heat.shape[-1], left, right)
    return sampled(size[0], heat.shape[-2], top, bottom) @ heat @ np.swapaxes(across, -1, -2)


def stretching(n_in: int, n_out: int) -> np.ndarray:
    """The matrix ``(n_out, n_in)`` by which :func:`upsample` stretches one axis."""
    return _interpolation(n_out, n_in, np.zeros(()), np.ones(()))


def heat_on_picture(heat: np.ndarray, frame: ArrayLike, size: ArrayLike) -> np.ndarray:
    """A heat map on the original picture, the letterbox cut off.

    Parameters
    ----------
    heat : ndarray of shape (h, w)
        Over the network's input.
    frame : array-like of shape (4,)
        The picture's row of ``MapStore.frames``.
    size : array-like of shape (2,)
        Width and height of the original picture in pixels.

    Returns
    -------
    ndarray of shape (height, width), float32
    """
    width, height = np.asarray(size).tolist()
    return resample_frame(heat, np.asarray(frame, dtype=float), (height, width))


def _interpolation(n_out: int, n_in: int, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Matrix ``(..., n_out, n_in)`` that samples [start, stop] of the unit interval linearly."""
    start, stop = np.asarray(start)[..., None], np.asarray(stop)[..., None]
    position = (start + (np.arange(n_out) + 0.5) / n_out * (stop - start)) * n_in - 0.5
    position = np.clip(position, 0, n_in - 1)
    distance = np.abs(position[..., None] - np.arange(n_in))
    return np.clip(1 - distance, 0, None).astype(np.float32)


@lru_cache(maxsize=16)
def _same_interpolation(n_out: int, n_in: int, start: float, stop: float) -> np.ndarray:
    matrix = _interpolation(n_out, n_in, *map(np.asarray, (start, stop)))
    matrix.flags.writeable = False
    return matrix
