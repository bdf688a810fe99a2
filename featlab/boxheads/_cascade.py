"""A second look: the box of a first ridge, corrected by a ridge that sees the maps around it.

A regression on the whole map must learn every position of the object anew. The maps sampled over
a grid that moves and scales with the box need not, and one image gives many examples, by shifting
its box at random.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields

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
from featlab.boxheads._maps import Maps, sample_regions
from featlab.boxheads._targets import decode_boxes, encode_boxes

_CHANNELS, _GRID = 64, 5
_CONTEXTS = (1.3, 1.6, 2.2)
_PENALTIES = (0.3, 1.0, 3.0)  # of the mean variance of a feature
_STEPS = 5
_DEFAULT = (1.6, 3.0, 3)
_EXAMPLES = 4000  # shifted boxes to make; each image gets at least 2, at most 20
_STRETCH = 1.3  # shifts are errors of the first box, times up to this
_FARTHEST = 0.5  # no shift or correction is larger: a few wild boxes would rule the squares


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
    examples = {context: _Examples(data, start, context) for context in _CONTEXTS}
    context, penalty, steps = _choose(data, start, examples) if data.n_folds else _DEFAULT
    words = f"{first.parameters}; context {context:g}, penalty {penalty:g}, {steps} corrections"
    (correction,) = examples[context].ridges([penalty])
    return CascadeHead(first, correction, context, steps, words)


@dataclass(frozen=True)
class _Sums:
    """Sums over examples, each standing for itself and its mirror image.

    Sampled maps are written as sums and differences of mirrored columns. Over a set that holds
    every mirror image too the two are uncorrelated, as are the sums with a shift in x and the
    differences with all else: two small ridges are the large one.

    Attributes
    ----------
    count : float
    sums, values : ndarray
        Of the sums of columns ``(e,)``, and of what they tell, the correction but for x ``(3,)``.
    even, even_values : ndarray of shape (e, e) and (e, 3)
        Inner products of the sums, with themselves and with what they tell.
    odd, odd_values : ndarray of shape (o, o) and (o, 1)
        The same of the differences, which tell the shift in x.
    """

    count: float
    sums: Floats
    values: Floats
    even: Floats
    even_values: Floats
    odd: Floats
    odd_values: Floats

    def plus(self, other: _Sums) -> _Sums:
        """The sums over both sets of examples."""
        return _Sums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def ridges(self, penalties: Sequence[float]) -> list[Regression]:
        """The ridge for each penalty, which is in units of the mean variance of a feature."""
        middle, level = self.sums / self.count, self.values / self.count
        even = self.even - np.outer(self.sums, middle)
        cross = self.even_values - np.outer(self.sums, level)
        unit = float(np.trace(even) + np.trace(self.odd)) / (len(even) + len(self.odd)) or 1.0
        return [
            _linear(
                ridge_weights(even, cross, penalty * unit),
                ridge_weights(self.odd, self.odd_values, penalty * unit),
                middle,
                level,
            )
            for penalty in penalties
        ]


class _Examples:
    """Shifted boxes of each fold's images, summed up so that any penalty is solved."""

    def __init__(self, data: FitData, start: Floats, context: float) -> None:
        rng = np.random.default_rng(data.random_state)
        errors = np.clip(_difference(data.boxes, start), -_FARTHEST, _FARTHEST)
        n = len(start)
        copies = int(np.clip(_EXAMPLES // n, 2, 20))
        boxes = [start]
        for _ in range(copies):
            shift = errors[rng.integers(n, size=n)] * rng.uniform(0, _STRETCH, size=(n, 1))
            boxes.append(_shifted(data.boxes, shift))
        self._folds = {
            int(fold): _sums(data, np.flatnonzero(data.folds == fold), boxes, context)
            for fold in np.unique(data.folds)
        }

    def ridges(self, penalties: Sequence[float], without: int | None = None) -> list[Regression]:
        """The ridges on all folds but one, a penalty each."""
        kept = [sums for fold, sums in self._folds.items() if fold != without]
        return functools.reduce(_Sums.plus, kept).ridges(penalties)


def _linear(even: Floats, odd: Floats, middle: Floats, level: Floats) -> Regression:
    def predict(X: Floats) -> Floats:
        sums, differences = _mirror_halves(X)
        return np.hstack([differences @ odd, (sums - middle) @ even + level])

    return predict


def _sums(data: FitData, rows: np.ndarray, boxes: list[Floats], context: float) -> _Sums:
    maps, truth = data.maps[rows][..., :_CHANNELS], data.boxes[rows]
    features = np.concatenate([sample_regions(maps, box[rows], _GRID, context) for box in boxes])
    values = np.concatenate([_difference(box[rows], truth) for box in boxes])
    values = np.clip(values, -_FARTHEST, _FARTHEST)
    sums, differences = _mirror_halves(features)
    return _Sums(
        float(len(features)),
        sums.sum(axis=0, dtype=np.float64),
        values[:, 1:].sum(axis=0),
        (sums.T @ sums).astype(np.float64),
        sums.T.astype(np.float64) @ values[:, 1:],
        (differences.T @ differences).astype(np.float64),
        differences.T.astype(np.float64) @ values[:, :1],
    )


def _mirror_halves(regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sampled maps as sums and differences of columns and their mirror images.

    Parameters
    ----------
    regions : ndarray of shape (n, grid * grid * k)

    Returns
    -------
    sums : ndarray of shape (n, grid * ceil(grid / 2) * k)
        They stay when the picture is mirrored.
    differences : ndarray of shape (n, grid * floor(grid / 2) * k)
        They change their sign. The two are a rotation of `regions`.
    """
    n, half = len(regions), _GRID // 2
    columns = regions.reshape(n, _GRID, _GRID, -1)
    left, right = columns[:, :, :half], columns[:, :, : -half - 1 : -1]
    root = np.sqrt(0.5).astype(regions.dtype)
    sums = np.concatenate([(left + right) * root, columns[:, :, half:-half]], axis=2)
    return sums.reshape(n, -1), ((left - right) * root).reshape(n, -1)


def _choose(
    data: FitData, start: Floats, examples: dict[float, _Examples]
) -> tuple[float, float, int]:
    score: dict[tuple[float, float, int], float] = {}
    for context, of_folds in examples.items():
        for _, held in data.splits():
            models = of_folds.ridges(_PENALTIES, without=int(data.folds[held[0]]))
            maps, truth = data.maps[held], data.boxes[held]
            for penalty, model in zip(_PENALTIES, models, strict=True):
                boxes = start[held]
                for step in range(_STEPS + 1):
                    key = (context, penalty, step)
                    score[key] = score.get(key, 0.0) + float(bx.iou(boxes, truth).sum())
                    if step < _STEPS:
                        boxes = _corrected(maps, boxes, model, context)
    return max(score, key=lambda key: score[key])


def _corrected(maps: Maps, boxes: Floats, model: Regression, context: float) -> Floats:
    # A mirrored picture would get the mirrored correction; there is nothing to average.
    region = sample_regions(maps[..., :_CHANNELS], boxes, _GRID, context)
    change = model(region.astype(np.float64))
    return _shifted(boxes, np.clip(change, -_FARTHEST, _FARTHEST))


def _difference(boxes: Floats, truth: Floats) -> Floats:
    """The way from `boxes` to `truth`: of the centre in sides of the box, of the log sides."""
    a, b = encode_boxes(boxes, "centre_size"), encode_boxes(truth, "centre_size")
    return np.hstack([(b[:, :2] - a[:, :2]) / np.exp(a[:, 2:]), b[:, 2:] - a[:, 2:]])


def _shifted(boxes: Floats, change: Floats) -> Floats:
    a = encode_boxes(boxes, "centre_size")
    moved = a[:, :2] + change[:, :2] * np.exp(a[:, 2:])
    return decode_boxes(np.hstack([moved, a[:, 2:] + change[:, 2:]]), "centre_size")
