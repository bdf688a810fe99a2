"""Stored maps with fewer channels, their principal components, and what is regressed on them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from featlab.boxes import geometry as bx
from featlab.boxheads._inputs import (
    BATCH,
    FEW_COLUMNS,
    Floats,
    Maps,
    decode_boxes,
    each_row,
    encode_boxes,
    mirror_halves,
    mirror_maps,
    mirrored,
    of_halves,
)
from featlab.errors import FeatlabError

Regression = Callable[[Floats], Floats]

_MOST_COMPONENTS = 600
_GRAM_ROWS = 2000  # above this many images the decomposition is a randomised one
_LEAST_SCALE = 3e-4  # of the largest singular value: what is smaller is rounding
_COMPONENTS = (50, 100, 200, 400, 600)
_PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of the mean squared norm of an image
_PLS = (5, 10, 15, 20, 30, 40)
_USED_UP = 1e-9  # a covariance with the boxes this much smaller is rounding
_MLP = ((50, 0.1), (50, 3.0), (200, 0.1), (200, 3.0))
_MLP_DEFAULT, _MLP_SEEDS = (50, 3.0), 3


@dataclass(frozen=True)
class FitData:
    """The images a head is fitted on.

    Attributes
    ----------
    maps : ndarray of shape (n, h, w, k), float32
        Reduced maps.
    total : ndarray of shape (n, h, w), float32
        Sum of all maps.
    boxes : ndarray of shape (n, 4)
        The box to learn, unit coordinates of the input.
    folds : ndarray of shape (n,), int
        Fold of each image, whole groups in one; all equal where there is nothing to tune with.
    target : str
        How boxes are regressed.
    random_state : int
    """

    maps: Maps
    total: Maps
    boxes: Floats
    folds: NDArray[np.intp]
    target: str
    random_state: int

    def splits(self) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Rows learned from and rows held out, fold by fold; none with a single fold."""
        for fold in np.unique(self.folds)[: self.n_folds]:
            yield np.flatnonzero(self.folds != fold), np.flatnonzero(self.folds == fold)

    @property
    def n_folds(self) -> int:
        """0 where there is nothing to tune with."""
        count = len(np.unique(self.folds))
        return count if count > 1 else 0


class Components:
    """Principal components of flattened maps and their mirror images.

    The decomposition knows no box. Scores of the images fitted on: :attr:`scores`, the pictures
    first, then their mirror images.

    Over a set that holds every mirror image too, sums and differences of mirrored columns are
    uncorrelated: the components are those of the sums and those of the differences.
    """

    def __init__(self, maps: Maps, random_state: int) -> None:
        self._shape = maps.shape[1:]
        sums, differences = mirror_halves(maps)  # with the maps the largest arrays of all box heads
        middle = sums.mean(axis=0, keepdims=True)
        sums -= middle
        if not (sums.any() or differences.any()):
            raise FeatlabError("the maps of all images fitted on are equal; no head can learn.")
        self._mean = of_halves(middle, np.zeros_like(differences[:1]), self._shape)[0]
        even, odd = (_decomposed(half, random_state) for half in (sums, differences))
        scales = np.concatenate([even[0], odd[0]])
        order = np.argsort(-scales, kind="stable")[:_MOST_COMPONENTS]
        self._order = order[scales[order] > _LEAST_SCALE * scales[order[0]]]
        self._even, self._odd = even[2], odd[2]
        own = np.hstack([even[1], odd[1]])[:, self._order].astype(np.float64)
        other = np.where(self._order < len(even[0]), own, -own)
        self.scores: Floats = np.concatenate([own, other])
        self.unit = float((self.scores**2).sum() / len(self.scores)) or 1.0

    def along(self, directions: Floats) -> Projection:
        """The projection on directions ``(r, m)`` in the space of the leading scores."""
        n_even, n_odd = self._even.shape[1], self._odd.shape[1]
        weights = np.zeros((n_even + n_odd, directions.shape[1]))
        weights[self._order[: len(directions)]] = directions
        sums, differences = self._even @ weights[:n_even], self._odd @ weights[n_even:]
        return Projection(self._mean, of_halves(sums.T, differences.T, self._shape).T)

    def leading(self, count: int) -> Projection:
        """The projection that gives other images their first scores."""
        return self.along(np.eye(count))


def _decomposed(half: Maps, random_state: int) -> tuple[Floats, np.ndarray, np.ndarray]:
    """Singular values, largest first, scores and axes of sums or of differences ``(n, p)``."""
    count = min(_MOST_COMPONENTS, *half.shape)
    if not half.any():  # maps of one column, or each its own mirror image
        return np.zeros(0), half[:, :0], half.T[:, :0]
    if len(half) > _GRAM_ROWS:
        from sklearn.utils.extmath import randomized_svd

        vectors, scales, axes = randomized_svd(half, count, n_iter=2, random_state=random_state)
        return scales, vectors * scales, axes.T
    values, vectors = np.linalg.eigh((half @ half.T).astype(np.float64))
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    solid = values > _LEAST_SCALE**2 * values[0]
    scales, vectors = np.sqrt(values[solid]), vectors[:, solid]
    return scales, vectors * scales, half.T @ (vectors / scales).astype(np.float32)


@dataclass(frozen=True)
class Projection:
    """Flattened maps on some directions.

    Attributes
    ----------
    mean : ndarray of shape (p,), float32
    axes : ndarray of shape (p, r)
    """

    mean: Maps
    axes: np.ndarray

    def __call__(self, maps: Maps) -> Floats:
        """Scores ``(n, r)`` of reduced maps ``(n, h, w, k)``."""
        # Flattened some at a time: those of ten thousand images are as large as the maps.
        step = max(1, len(maps)) if self.axes.shape[1] > FEW_COLUMNS else BATCH
        blocks = (maps[start : start + step] for start in range(0, max(1, len(maps)), step))
        scores = [each_row(_flat(some) - self.mean, self.axes) for some in blocks]
        return np.concatenate(scores).astype(np.float64)


@dataclass(frozen=True)
class ScoreHead:
    """A regression on the components, averaged over picture and mirror image.

    `held` has a box ``(n, 4)`` of each image fitted on, from folds that did not see it; None where
    there was a single fold.
    """

    projection: Projection
    regression: Regression
    target: str
    parameters: str
    held: Floats | None = None

    def predict(self, maps: Maps, total: Maps) -> Floats:
        """Boxes ``(m, 4)`` in unit coordinates of the input."""
        plain, other = (self.projection(m) for m in (maps, mirror_maps(maps)))
        return both_ways(self.regression(plain), self.regression(other), self.target)


@dataclass(frozen=True)
class Shift:
    """Adds a constant ``(4,)``: what is left of a ridge whose weights are in the projection."""

    level: Floats

    def __call__(self, X: Floats) -> Floats:
        return X + self.level


@dataclass(frozen=True)
class Hidden:
    """A layer of rectified units, then a linear one.

    Attributes
    ----------
    weights, level : ndarray of shape (r, u) and (u,)
        Of the units, on the leading `r` scores.
    out, end : ndarray of shape (u, 4) and (4,)
    """

    weights: Floats
    level: Floats
    out: Floats
    end: Floats

    def __call__(self, X: Floats) -> Floats:
        units = np.maximum(X[:, : len(self.weights)] @ self.weights + self.level, 0)
        return units @ self.out + self.end


def both_ways(plain: Floats, other: Floats, target: str) -> Floats:
    """Mean of the boxes regressed from pictures and, mirrored back, from mirror images."""
    return (decode_boxes(plain, target) + mirrored(decode_boxes(other, target))) / 2


def ridge_head(data: FitData, components: Components) -> ScoreHead:
    """Ridge on the leading components; their number and the penalty from folds."""
    size = components.scores.shape[1]
    settings = [
        (count, penalty)
        for count in sorted({min(c, size) for c in _COMPONENTS})
        for penalty in _PENALTIES
    ]

    def fit(X: Floats, Y: Floats) -> list[Regression]:
        return _ridges(X, Y, settings, components.unit)

    best, held = _choose(data, components, fit, len(settings), settings.index((size, 0.1)))
    count, penalty = settings[best]
    weights, middle, level = _ridge(
        components.scores, doubled(data), count, penalty * components.unit
    )
    words = f"{count} components, penalty {penalty:g}"
    return _linear_head(components, weights, middle, level, data.target, words, held)


def pls_head(data: FitData, components: Components) -> ScoreHead:
    """Partial least squares; on all components it is that on the flattened maps."""
    size = components.scores.shape[1]
    counts = sorted({min(c, size) for c in _PLS})

    def fit(X: Floats, Y: Floats) -> list[Regression]:
        weights, middle, level = _pls(X, Y, counts)
        return [_linear(one, middle, level) for one in weights]

    best, held = _choose(data, components, fit, len(counts), min(2, len(counts) - 1))
    weights, middle, level = _pls(components.scores, doubled(data), counts)
    words = f"{counts[best]} components"
    return _linear_head(components, weights[best], middle, level, data.target, words, held)


def _linear_head(
    components: Components,
    weights: Floats,
    middle: Floats,
    level: Floats,
    target: str,
    words: str,
    held: Floats | None,
) -> ScoreHead:
    """A linear regression ``(X - middle) @ weights + level`` on the scores."""
    # In one projection the weights are four columns instead of hundreds.
    shift = Shift(level - middle[: len(weights)] @ weights)
    return ScoreHead(components.along(weights), shift, target, words, held)


def mlp_head(data: FitData, components: Components) -> ScoreHead:
    """One hidden layer of 128 on the leading components; the mean of three starts."""

    def fit(X: Floats, Y: Floats) -> list[Regression]:
        return [_mlp(X, Y, *setting, [data.random_state]) for setting in _MLP]

    best, _ = _choose(data, components, fit, len(_MLP), _MLP.index(_MLP_DEFAULT), most_folds=2)
    seeds = [data.random_state + k for k in range(_MLP_SEEDS)]
    regression = _mlp(components.scores, doubled(data), *_MLP[best], seeds)
    words = f"{_MLP[best][0]} components, penalty {_MLP[best][1]:g}, {_MLP_SEEDS} starts"
    return ScoreHead(components.leading(len(regression.weights)), regression, data.target, words)


def ridge_out_of_fold(data: FitData, components: Components) -> Floats:
    """Boxes of the images fitted on, each from a ridge that did not see it."""
    settings = [(components.scores.shape[1], 0.1)]
    n, Y = len(data.boxes), doubled(data)
    boxes = np.tile(data.boxes.mean(axis=0), (n, 1))
    for learn, held in data.splits():
        rows = np.concatenate([learn, learn + n])
        (model,) = _ridges(components.scores[rows], Y[rows], settings, components.unit)
        plain, other = (model(components.scores[held + shift]) for shift in (0, n))
        boxes[held] = both_ways(plain, other, data.target)
    return boxes


def doubled(data: FitData) -> Floats:
    """What is regressed, for the pictures and then for their mirror images."""
    return encode_boxes(np.concatenate([data.boxes, mirrored(data.boxes)]), data.target)


def _choose(
    data: FitData,
    components: Components,
    fit: Callable[[Floats, Floats], list[Regression]],
    n_settings: int,
    default: int,
    most_folds: int = 10,
) -> tuple[int, Floats | None]:
    """The setting of the highest mean IoU on held-out folds, the first among equals; its boxes."""
    if not data.n_folds:
        return default, None
    n, Y, total = len(data.boxes), doubled(data), np.zeros(n_settings)
    boxes = np.full((n_settings, n, 4), np.nan)
    for k, (learn, held) in enumerate(data.splits()):
        if k == most_folds:
            break
        rows = np.concatenate([learn, learn + n])
        for setting, model in enumerate(fit(components.scores[rows], Y[rows])):
            plain, other = (model(components.scores[held + shift]) for shift in (0, n))
            boxes[setting, held] = both_ways(plain, other, data.target)
            total[setting] += bx.iou(boxes[setting, held], data.boxes[held]).sum()
    best = int(total.argmax())
    return best, boxes[best]


def _ridges(
    X: Floats, Y: Floats, settings: Sequence[tuple[int, float]], unit: float
) -> list[Regression]:
    middle, level = X.mean(axis=0), Y.mean(axis=0)
    X, Y = X - middle, Y - level
    gram, cross = X.T @ X, X.T @ Y
    return [
        _linear(ridge_weights(gram[:count, :count], cross[:count], penalty * unit), middle, level)
        for count, penalty in settings
    ]


def _ridge(X: Floats, Y: Floats, count: int, penalty: float) -> tuple[Floats, Floats, Floats]:
    """Weights of the first `count` columns, and the means of X and of Y."""
    middle, level = X.mean(axis=0), Y.mean(axis=0)
    some = (X - middle)[:, :count]
    return ridge_weights(some.T @ some, some.T @ (Y - level), penalty), middle, level


def ridge_weights(gram: Floats, cross: Floats, penalty: float) -> Floats:
    """Solve ``(gram + penalty I) weights = cross``; by Cholesky, a penalty being above 0."""
    # Half the time of scipy.linalg.solve, which also estimates the condition number.
    penalised = gram.copy()
    penalised.flat[:: len(gram) + 1] += penalty
    factor = scipy.linalg.cho_factor(penalised, overwrite_a=True, check_finite=False)
    return np.asarray(scipy.linalg.cho_solve(factor, cross, check_finite=False))


def _pls(X: Floats, Y: Floats, counts: Sequence[int]) -> tuple[list[Floats], Floats, Floats]:
    """Partial least squares with each of several numbers of components, from one fit.

    The weights of each, and the means of X and of Y.

    That of ``PLSRegression(scale=False)``, whose directions are found from X and Y themselves; the
    covariance has four columns, and it alone needs to be deflated.

    References
    ----------
    Dayal & MacGregor (1997). Improved PLS algorithms. Journal of Chemometrics 11, 73-85.
    """
    middle, level = X.mean(axis=0), Y.mean(axis=0)
    X, covariance = X - middle, (X - middle).T @ (Y - level)
    most, spread = min(counts[-1], len(X) - 1), float(np.linalg.norm(covariance))
    rotations, x_loadings = np.zeros((2, X.shape[1], most))
    y_loadings = np.zeros((Y.shape[1], most))
    for k in range(most):
        if np.linalg.norm(covariance) <= _USED_UP * spread:
            break
        direction = _direction(covariance)
        rotation = direction - rotations[:, :k] @ (x_loadings[:, :k].T @ direction)
        scores = X @ rotation
        squares = float(scores @ scores)
        rotations[:, k], x_loadings[:, k] = rotation, X.T @ scores / squares
        y_loadings[:, k] = rotation @ covariance / squares
        covariance = covariance - squares * np.outer(x_loadings[:, k], y_loadings[:, k])
    return [rotations[:, :c] @ y_loadings[:, :c].T for c in counts], middle, level


def _direction(covariance: Floats) -> Floats:
    """Where X tells most of Y, ``(r,)``: the first left singular vector.

    NIPALS iterates to it from the first column of Y, which mirror images keep from all others.
    """
    _, vectors = np.linalg.eigh(covariance.T @ covariance)
    direction = covariance @ vectors[:, -1]
    return np.asarray(direction / np.linalg.norm(direction))


def _linear(weights: Floats, middle: Floats, level: Floats) -> Regression:
    count = len(weights)
    return lambda X: (X[:, :count] - middle[:count]) @ weights + level


def _mlp(X: Floats, Y: Floats, count: int, penalty: float, seeds: Sequence[int]) -> Hidden:
    """The mean of networks from several starts: one whose hidden layer has the units of all."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    count = min(count, X.shape[1])
    scale = float(X[:, 0].std()) or 1.0
    level, spread = Y.mean(axis=0), np.maximum(Y.std(axis=0), 1e-6)
    models = []
    for seed in seeds:
        model = MLPRegressor(
            hidden_layer_sizes=(128,), alpha=penalty, max_iter=100, random_state=seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            models.append(model.fit(X[:, :count] / scale, (Y - level) / spread))
    first, last = zip(*(model.coefs_ for model in models), strict=True)
    before, after = zip(*(model.intercepts_ for model in models), strict=True)
    return Hidden(
        np.hstack(first) / scale,
        np.concatenate(before),
        np.vstack(last) / len(models) * spread,
        np.mean(after, axis=0) * spread + level,
    )


def _flat(maps: Maps) -> Maps:
    return np.ascontiguousarray(maps).reshape(len(maps), -1)
