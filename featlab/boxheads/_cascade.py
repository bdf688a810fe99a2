"""A second look: the box of a first ridge, corrected by a ridge that sees the maps around it.

A regression on the whole map must learn every position of the object anew. The maps sampled over
a grid that moves and scales with the box need not, and one image gives many examples, by shifting
its box at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featlab import boxes as bx
from featlab.boxheads._linear import (
    Components,
    FitData,
    Floats,
    Regression,
    ScoreHead,
    ridge_out_of_fold,
    ridge_weights,
)
from featlab.boxheads._maps import Maps, mirror_maps, sample_regions
from featlab.boxheads._targets import decode_boxes, encode_boxes, mirrored

_CHANNELS, _GRID = 64, 5
_CONTEXTS = (1.3, 1.6, 2.2)
_PENALTIES = (0.3, 1.0, 3.0)  # of the mean variance of a feature
_STEPS = 5
_DEFAULT = (1.6, 3.0, 3)
_EXAMPLES = 4000  # shifted boxes to make; each image gets at least 2, at most 20
_STRETCH = 1.3  # shifts are errors of the first box, times up to this
_FARTHEST = 0.5  # no shift or correction is larger: a few wild boxes would rule the squares
_SIGN = np.array([-1.0, 1.0, 1.0, 1.0])  # a correction, mirrored


@dataclass(frozen=True)
class CascadeHead:
    """A first box, then corrections of it."""

    first: ScoreHead
    correction: Regression
    context: float
    steps: int
    parameters: str

    def predict(self, maps: Maps, total: Maps) -> Floats:
        """Boxes ``(m, 4)`` in unit coordinates of the input."""
        boxes = self.first.predict(maps, total)
        for _ in range(self.steps):
            boxes = _corrected(maps, boxes, self.correction, self.context)
        return boxes


def cascade_head(data: FitData, components: Components, first: ScoreHead) -> CascadeHead:
    """Fit the correction of a first box; context, penalty and number of steps from folds."""
    start = ridge_out_of_fold(data, components)
    grams = {context: _Grams(data, start, context) for context in _CONTEXTS}
    context, penalty, steps = _choose(data, start, grams) if data.n_folds else _DEFAULT
    words = f"{first.parameters}; context {context:g}, penalty {penalty:g}, {steps} corrections"
    (correction,) = grams[context].solve([penalty])
    return CascadeHead(first, correction, context, steps, words)


class _Grams:
    """Sums over the examples of each fold, from which any penalty is solved."""

    def __init__(self, data: FitData, start: Floats, context: float) -> None:
        rng = np.random.default_rng(data.random_state)
        errors = np.clip(_difference(data.boxes, start), -_FARTHEST, _FARTHEST)
        n = len(start)
        copies = int(np.clip(_EXAMPLES // n, 2, 20))
        boxes = [start]
        for _ in range(copies):
            shift = errors[rng.integers(n, size=n)] * rng.uniform(0, _STRETCH, size=(n, 1))
            boxes.append(_shifted(data.boxes, shift))
        self._parts = {
            int(fold): _sums(data, np.flatnonzero(data.folds == fold), boxes, context)
            for fold in np.unique(data.folds)
        }

    def solve(self, penalties: Sequence[float], without: int | None = None) -> list[Regression]:
        """The ridges on all folds but one, a penalty each."""
        parts = [part for fold, part in self._parts.items() if fold != without]
        count = sum(part[0] for part in parts)
        x, y, xx, xy = (np.asarray(sum(part[k] for part in parts)) for k in range(1, 5))
        middle, level = x / count, y / count
        gram = xx - count * np.outer(middle, middle)
        unit = float(np.trace(gram)) / len(gram) or 1.0
        cross = xy - count * np.outer(middle, level)
        return [
            _linear(ridge_weights(gram, cross, penalty * unit), middle, level)
            for penalty in penalties
        ]


def _linear(weights: Floats, middle: Floats, level: Floats) -> Regression:
    return lambda X: (X - middle) @ weights + level


def _sums(
    data: FitData, rows: np.ndarray, boxes: list[Floats], context: float
) -> tuple[float, Floats, Floats, Floats, Floats]:
    X, Y = [], []
    maps, truth = data.maps[rows][..., :_CHANNELS], data.boxes[rows]
    other = mirror_maps(maps)
    for box in boxes:
        box = box[rows]
        X += [sample_regions(maps, box, _GRID, context)]
        X += [sample_regions(other, mirrored(box), _GRID, context)]
        correction = np.clip(_difference(box, truth), -_FARTHEST, _FARTHEST)
        Y += [correction, correction * _SIGN]
    features, values = np.concatenate(X), np.concatenate(Y)
    gram = (features.T @ features).astype(np.float64)
    cross = features.T.astype(np.float64) @ values
    return (
        float(len(features)),
        features.sum(axis=0, dtype=np.float64),
        values.sum(axis=0),
        gram,
        cross,
    )


def _choose(data: FitData, start: Floats, grams: dict[float, _Grams]) -> tuple[float, float, int]:
    score: dict[tuple[float, float, int], float] = {}
    for context, sums in grams.items():
        for _, held in data.splits():
            models = sums.solve(_PENALTIES, without=int(data.folds[held[0]]))
            for penalty, model in zip(_PENALTIES, models, strict=True):
                boxes = start[held]
                for step in range(_STEPS + 1):
                    key = (context, penalty, step)
                    hits = float(bx.iou(boxes, data.boxes[held]).sum())
                    score[key] = score.get(key, 0.0) + hits
                    if step < _STEPS:
                        boxes = _corrected(data.maps[held], boxes, model, context)
    return max(score, key=lambda key: score[key])


def _corrected(maps: Maps, boxes: Floats, model: Regression, context: float) -> Floats:
    maps = maps[..., :_CHANNELS]
    region = sample_regions(maps, boxes, _GRID, context)
    turned = sample_regions(mirror_maps(maps), mirrored(boxes), _GRID, context)
    plain, other = model(region.astype(np.float64)), model(turned.astype(np.float64))
    return _shifted(boxes, np.clip((plain + other * _SIGN) / 2, -_FARTHEST, _FARTHEST))


def _difference(boxes: Floats, truth: Floats) -> Floats:
    """The way from `boxes` to `truth`: of the centre in sides of the box, of the log sides."""
    a, b = encode_boxes(boxes, "centre_size"), encode_boxes(truth, "centre_size")
    return np.hstack([(b[:, :2] - a[:, :2]) / np.exp(a[:, 2:]), b[:, 2:] - a[:, 2:]])


def _shifted(boxes: Floats, change: Floats) -> Floats:
    a = encode_boxes(boxes, "centre_size")
    moved = a[:, :2] + change[:, :2] * np.exp(a[:, 2:])
    return decode_boxes(np.hstack([moved, a[:, 2:] + change[:, 2:]]), "centre_size")
