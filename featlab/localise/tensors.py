"""Heat maps and their boxes in a Keras graph: what `methods` and `regions` say, in other words.

A graph has no loop that runs until regions stop growing. A map that is interpolated bilinearly
needs none: every hot region holds a hot cell, hot cells side by side are of one region, and those
across a corner are where the saddle between them is hot. So the regions are those of a graph of few
cells. A hot pixel is of the region of that cell, of the four around it, which adds most to what it
is above the threshold: where two of them are of two regions, every pixel to which both add as much
is cold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from featlab.errors import FeatlabError
from featlab.localise import methods
from featlab.localise.heat import FLAT, scaling, stretching
from featlab.localise.methods import METHODS
from featlab.localise.regions import GRID
from featlab.results.localisation import Context, FittedMethods, Heat, HeatMethod

_FAR = 1e9  # a score so much lower counts for nothing
_MOST_CELLS = 28 * 28  # matrices of so many rows are multiplied for each picture


def heat_tensor(fitted: FittedMethods, maps: Mapping[str, Any], asked: Any) -> Any:
    """The heat maps of one fitted method (:func:`featlab.localise.heat.heat_maps`), in Keras.

    Parameters
    ----------
    fitted : FittedMethods
        With one method.
    maps : mapping of str to keras.KerasTensor of shape (b, h, w, c)
        Layer → its maps.
    asked : keras.KerasTensor of shape (b, k)
        1 at the class asked for, else 0.

    Returns
    -------
    keras.KerasTensor of shape (b, h, w)

    Raises
    ------
    FeatlabError
        The method is neither a weighted sum of the maps nor one of those written for Keras, too.
    """
    (method,) = fitted.methods.values()
    heats = [
        _method_tensor(method, context, _read_tensor(context, maps[layer]), asked)
        for layer, context in fitted.contexts.items()
    ]
    if method.join is None:
        return _fused_tensor(heats)
    return _JOINED[method.join]([_fused_tensor(part) for part in zip(*heats, strict=True)])


def _read_tensor(context: Context, maps: Any) -> Any:
    """As :func:`featlab.localise.heat.read`."""
    from keras import ops

    if context.centre is None:
        return maps
    above = maps - context.centre
    return ops.relu(ops.concatenate([above, -above], axis=-1))


def _method_tensor(method: HeatMethod, context: Context, maps: Any, asked: Any) -> Any:
    if method.heat in _TENSORS and (method.join is None or method.join in _JOINED):
        return _TENSORS[method.heat](context, maps, asked)
    weights = _linear_weights(method, context)
    if weights is None:
        known = ", ".join(name for name, one in METHODS.items() if one.heat in _TENSORS)
        raise FeatlabError(
            f"the heat maps of {method.name!r} cannot become a Keras model: they must be weighted "
            f"sums of the maps, or {known}; fit a predictor with another method."
        )
    return _weighted(maps, asked, weights)


def _linear_weights(method: HeatMethod, context: Context) -> np.ndarray | None:
    """Weights ``(c, k)`` of a method that only sums the maps up, read off maps of one neuron each.

    None where random maps show that it does something else.
    """
    c, k = len(context.scale), len(context.classes)

    def heats(maps: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return np.asarray(method.heat(maps, context.of(codes)), dtype=np.float32)

    alone = np.eye(c, dtype=np.float32)[:, None, None]
    columns = [heats(alone, np.full(c, code)) for code in range(k)]
    maps = np.random.default_rng(0).normal(size=(k, 2, 3, c)).astype(np.float32)
    expected = heats(maps, np.arange(k))
    if any(one.shape != (c, 1, 1) for one in columns) or expected.shape != (k, 2, 3):
        return None
    weights = np.stack([one[:, 0, 0] for one in columns], axis=1)
    own = np.einsum("nhwc,cn->nhw", maps, weights)
    same = np.allclose(own, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    return weights if same else None


def _weighted(maps: Any, asked: Any, weights: np.ndarray, offsets: Any = None) -> Any:
    """The weighted sum of the class asked for, ``(b, h, w)``; `weights` are ``(c, k)``."""
    return _of_asked(_sums(maps, weights, offsets), asked)


def _sums(maps: Any, weights: np.ndarray, offsets: Any = None) -> Any:
    from keras import layers

    dense = layers.Dense(weights.shape[1], use_bias=offsets is not None)
    sums = dense(maps)
    dense.set_weights([weights] if offsets is None else [weights, offsets])
    return sums


def _of_asked(sums: Any, asked: Any) -> Any:
    from keras import ops

    return ops.sum(sums * ops.expand_dims(asked, (1, 2)), axis=-1)


def _fusion_tensor(context: Context, maps: Any, asked: Any) -> Any:
    return _fused_with_tensor(context, maps, asked, *context.fitted["fusion"])


def _fused_with_tensor(
    context: Context, maps: Any, asked: Any, means: np.ndarray, directions: np.ndarray
) -> Any:
    from keras import ops

    heats = [
        _method_tensor(METHODS[name], context, maps, asked)
        for name in methods.fused_methods(context)
    ]
    heats.append(_along_tensor(maps, asked, means, directions))
    logs = [ops.log(_unit_tensor(ops, heat)[0] + methods.FAINT) for heat in heats]
    return ops.exp(sum(logs) / len(logs))


def _ddt_tensor(context: Context, maps: Any, asked: Any) -> Any:
    return _along_tensor(maps, asked, *context.fitted["ddt"])


def _along_tensor(maps: Any, asked: Any, means: np.ndarray, directions: np.ndarray) -> Any:
    from keras import ops

    offsets = -np.einsum("kc,kc->k", means, directions)
    return ops.relu(_weighted(maps, asked, directions.T, offsets))


def _cell_head_tensor(context: Context, maps: Any, asked: Any) -> Any:
    from keras import ops

    assert context.weights is not None and context.intercepts is not None
    weights, offsets = map(methods.less_others, (context.weights, context.intercepts))
    return ops.relu(_weighted(maps, asked, weights.T, offsets))


def _cell_boxes_tensor(context: Context, maps: Any, asked: Any) -> Any:
    nothing = np.zeros(len(context.scale)), -_FAR
    return _in_object_tensor(context, maps, *(context.fitted["cell_boxes"] or nothing))


def _student_tensor(context: Context, maps: Any, asked: Any) -> tuple[Any, Any]:
    from keras import ops

    if (fitted := context.fitted[methods.STUDENT]) is None:
        return (ops.zeros_like(maps[..., 0]),) * 2
    weights, offset, means, directions = fitted
    inside = _in_object_tensor(context, maps, weights, offset)
    return inside, _fused_with_tensor(context, maps, asked, means, directions)


def _whole_and_part_tensor(parts: Sequence[Any]) -> Any:
    from keras import ops

    inside, hot = (_unit_tensor(ops, part, FLAT)[0] for part in parts)
    return ops.minimum(inside / methods.SURE, 1.0) * (1 + hot) / 2


def _in_object_tensor(context: Context, maps: Any, weights: np.ndarray, offset: float) -> Any:
    from keras import ops

    compressed = ops.log1p(ops.relu(maps * scaling(context.scale)))
    return ops.sigmoid(_sums(compressed, weights[:, None], np.array([offset])))[..., 0]


_TENSORS: dict[Heat, Callable[[Context, Any, Any], Any]] = {
    methods._fusion: _fusion_tensor,
    methods._ddt: _ddt_tensor,
    methods._cell_head: _cell_head_tensor,
    methods._cell_boxes: _cell_boxes_tensor,
    methods._student: _student_tensor,
}
_JOINED: dict[Any, Callable[[Sequence[Any]], Any]] = {
    methods._whole_and_part: _whole_and_part_tensor
}


def _unit_tensor(ops: Any, heat: Any, least: float = 0.0) -> tuple[Any, Any]:
    """Heat maps scaled to [0, 1] by their own range; 1 where that is flat, else 0 ``(b, 1, 1)``."""
    low, high = (one(heat, axis=(1, 2), keepdims=True) for one in (ops.min, ops.max))
    size = high - low
    flat = ops.cast(size <= least * ops.maximum(ops.abs(low), ops.abs(high)), "float32")
    return (heat - low) * (1 - flat) / (size + flat), flat


def _fused_tensor(heats: Sequence[Any]) -> Any:
    """As :func:`featlab.localise.heat.fuse_heats`."""
    from keras import ops

    if len(heats) == 1:
        return heats[0]
    size = tuple(max(heat.shape[axis] for heat in heats) for axis in (1, 2))
    product, flats = 1.0, []
    for heat in heats:
        down, across = (stretching(n, m) for n, m in zip(heat.shape[1:], size, strict=True))
        unit, flat = _unit_tensor(ops, ops.matmul(ops.matmul(down, heat), across.T), FLAT)
        product = product * (unit + flat)
        flats.append(flat)
    seen = len(heats) - sum(flats)
    fused = ops.power(product, 1 / ops.maximum(seen, 1.0))
    return fused * ops.cast(seen > 0, "float32")


def box_tensor(heat: Any, threshold: float) -> Any:
    """The box around the largest hot region at one threshold, in Keras.

    Of pictures that fill the input, as :func:`featlab.localise.regions.heat_boxes` says. Regions
    that touch, or part, between two pixels may be told apart otherwise than by the pixels: so in 10
    of 12,000 heat maps of real pictures.

    Parameters
    ----------
    heat : keras.KerasTensor of shape (b, h, w)
    threshold : float
        In [0, 1).

    Returns
    -------
    keras.KerasTensor of shape (b, 4)
        Shares of the picture's sides; zeros where nothing is hot.

    Raises
    ------
    FeatlabError
        The heat map has more than 784 cells.
    """
    from keras import ops

    h, w = heat.shape[1:]
    if h * w > _MOST_CELLS:
        raise FeatlabError(
            f"boxes of a heat map of {h} x {w} cells cannot become a Keras model: it may have at "
            f"most {_MOST_CELLS}; fit a predictor on a later layer."
        )
    down, across = stretching(h, GRID), stretching(w, GRID)
    fine = ops.matmul(ops.matmul(down, heat), across.T)
    low, high = (one(fine, axis=(1, 2), keepdims=True) for one in (ops.min, ops.max))
    size = high - low
    flat = _as_float(size <= FLAT * ops.maximum(ops.abs(low), ops.abs(high)))
    # Levels of 8 bits above the threshold; a flat map has none.
    cut = float(np.floor(threshold * 255) + 1)
    pixels, cells = ((m - low) * (1 - flat) / (size + flat) * 255.0 - cut for m in (fine, heat))
    hot, joined = _as_float(pixels >= 0), _joined(cells)
    corners = [(one, other) for one in _nearest(down) for other in _nearest(across)]
    owned = _owned(cells, hot, corners)

    def of_regions(values: Any) -> Any:
        """Sums over the pixels of the region of each cell, ``(b, h w, 1)``."""
        sums = sum(
            ops.matmul(ops.matmul(_ones(one).T, values * own), _ones(other))
            for (one, other), own in zip(corners, owned, strict=True)
        )
        return ops.matmul(joined, ops.reshape(sums, (-1, h * w, 1)))

    some = _as_float(of_regions(hot) > 0)
    largest = _largest((of_regions(_twice_enclosed_by(hot)) + 1) * some) * some
    # Among equals the one whose first cell comes last.
    order = np.arange(h * w, 0, -1, dtype=np.float32)
    first = h * w + 1 - ops.max(joined * order, axis=2, keepdims=True)
    largest = ops.reshape(largest * _largest(first * largest), (-1, h, w))
    inside = sum(
        ops.matmul(ops.matmul(_ones(one), largest), _ones(other).T) * own
        for (one, other), own in zip(corners, owned, strict=True)
    )
    return _outline(inside) / GRID


def _as_float(condition: Any) -> Any:
    from keras import ops

    return ops.cast(condition, "float32")


def _ones(matrix: np.ndarray) -> np.ndarray:
    return (matrix > 0).astype(np.float32)


def _largest(values: Any) -> Any:
    from keras import ops

    return _as_float(values >= ops.max(values, axis=1, keepdims=True))


def _nearest(stretch: np.ndarray) -> list[np.ndarray]:
    """A matrix of interpolation as two, of the first and of the second cell of each pixel."""
    place = np.arange(stretch.shape[1])
    first = np.where(place == (stretch > 0).argmax(axis=1)[:, None], stretch, 0)
    return [first, stretch - first]


def _joined(cells: Any) -> Any:
    """1 where two hot cells are of one region, else 0, ``(b, h w, h w)``."""
    from keras import ops

    _, h, w = cells.shape
    n, hot = h * w, _as_float(cells >= 0)

    def links(here: Any, there: Any, also: Any, step: int, left: int = 0) -> Any:
        """Pairs of cells `step` apart: maps of both ends, without the last row or column."""
        pairs = here * there * also
        below, right = h - pairs.shape[1], w - pairs.shape[2] - left
        pairs = ops.reshape(ops.pad(pairs, ((0, 0), (0, below), (left, right))), (-1, n, 1))
        # Rows one longer than the matrix's put a column on its diagonal.
        diagonal = ops.reshape(ops.pad(pairs, ((0, 0), (0, 0), (0, n))), (-1, n * (n + 1)))
        return ops.reshape(ops.pad(diagonal, ((0, 0), (step, 0)))[:, : n * n], (-1, n, n))

    def corners(values: Any) -> tuple[Any, ...]:
        return (values[:, :-1, :-1], values[:, :-1, 1:], values[:, 1:, :-1], values[:, 1:, 1:])

    (a, b, c, d), (hot_a, hot_b, hot_c, hot_d) = corners(cells), corners(hot)
    # Of four cells a and d are joined where the saddle's height, (ad - bc) / (a + d - b - c), is.
    saddle = a * d - b * c
    one_way = [
        links(hot[:, :, :-1], hot[:, :, 1:], 1.0, 1),
        links(hot[:, :-1], hot[:, 1:], 1.0, w),
        links(hot_a, hot_d, _as_float(saddle >= 0), w + 1),
        links(hot_b, hot_c, _as_float(saddle <= 0), w - 1, left=1),
    ]
    joined = links(hot, hot, 1.0, 0) + sum(m + ops.transpose(m, (0, 2, 1)) for m in one_way)
    for _ in range(int(np.ceil(np.log2(max(n, 2))))):
        joined = ops.minimum(ops.matmul(joined, joined), 1.0)
    return joined


def _owned(cells: Any, hot: Any, corners: list[tuple[np.ndarray, np.ndarray]]) -> list[Any]:
    """For each of the four cells around the pixels, 1 where the pixel is hot and it adds most."""
    from keras import ops

    parts = [ops.matmul(ops.matmul(one, cells), other.T) for one, other in corners]
    most = ops.maximum(ops.maximum(*parts[:2]), ops.maximum(*parts[2:]))
    owned, free = [], hot
    for part in parts:
        owned.append(free * _as_float(part >= most))
        free = free - owned[-1]
    return owned


def _twice_enclosed_by(hot: Any) -> Any:
    """:func:`_twice_enclosed` at one threshold, at the pixel that it counts for."""
    from keras import ops

    first, second = hot[:, :-1, :-1], hot[:, :-1, 1:]
    twice = ops.relu(first + second + hot[:, 1:, :-1] + hot[:, 1:, 1:] - 2.0)
    own = ops.pad(twice * first, ((0, 0), (0, 1), (0, 1)))
    return own + ops.pad(twice * (1 - first), ((0, 0), (0, 1), (1, 0)))


def _outline(inside: Any) -> Any:
    """The box around the pixels that are 1; zeros where there is none."""
    from keras import ops

    grid = inside.shape[1]
    place = np.arange(grid, dtype=np.float32)
    profiles = [ops.max(inside, axis=axis) for axis in (1, 2)]
    first = [ops.min(grid - one * (grid - place), axis=1) for one in profiles]
    last = [ops.max(one * (place + 1), axis=1) for one in profiles]
    some = ops.max(profiles[0], axis=1, keepdims=True)
    return ops.stack([*first, *last], axis=1) * some
