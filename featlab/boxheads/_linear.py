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
    mirrored,
)
from featlab.errors import FeatlabError

Regression = Callable[[Floats], Floats]

_MOST_COMPONENTS = 600
_GRAM_ROWS = 4000  # above this many rows the decomposition is a randomised one
_COMPONENTS = (50, 100, 200, 400, 600)
_PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of the mean squared norm of an image
_PLS = (5, 10, 15, 20, 30, 40)
_USED_UP = 1e-9  # a covariance with the boxes this much smaller is rounding
_POWER_STEPS, _STEADY = 200, 1e-6
_MLP = ((50, 0.1), (50, 3.0), (200, 0.1), (200, 3.0))
_MLP_DEFAULT, _MLP_SEEDS = (50, 3.0), 3


def mirror_maps(maps: np.ndarray) -> np.ndarray:
    """Maps ``(n, h, w, ...)`` mirrored left to right."""
    return maps[:, :, ::-1]


def sample_regions(maps: Maps, boxes: np.ndarray, grid: int, context: float) -> Maps:
    """Bilinear samples of each map on a grid over its box, enlarged.

    Parameters
    ----------
    maps : ndarray of shape (n, h, w, k)
    boxes : ndarray of shape (n, 4)
        Unit coordinates of the input.
    grid : int
        Cells per side of the grid.
    context : float
        The grid covers the box times this, about its centre; edges are repeated outside.

    Returns
    -------
    ndarray of shape (n, grid * grid * k), float32

    References
    ----------
    He et al. (2017), Mask R-CNN, ICCV (RoIAlign).
    """
    n, h, w, k = maps.shape
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * context / 2
    place = (np.arange(grid) + 0.5) / grid * 2 - 1
    down = _weights(centre[:, 1:] + half[:, 1:] * place, h)
    across = _weights(centre[:, :1] + half[:, :1] * place, w)
    rows = np.matmul(down, maps.reshape(n, h, w * k)).reshape(n, grid, w, k)
    return np.matmul(across[:, None], rows).reshape(n, -1)


def _weights(position: np.ndarray, cells: int) -> Maps:
    place = np.clip(position * cells - 0.5, 0, cells - 1)
    return np.clip(1 - np.abs(place[..., None] - np.arange(cells)), 0, None).astype(np.float32)


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
    """

    def __init__(self, maps: Maps, random_state: int) -> None:
        # In place: these are the largest arrays of all box heads.
        both = np.empty((2, *maps.shape), dtype=maps.dtype)
        both[0], both[1] = maps, mirror_maps(maps)
        flat = both.reshape(2 * len(maps), -1)
        self._mean = flat.mean(axis=0)
        flat -= self._mean
        if not flat.any():
            raise FeatlabError("the maps of all images fitted on are equal; no head can learn.")
        count = min(_MOST_COMPONENTS, len(flat) - 1, flat.shape[1])
        if len(flat) <= _GRAM_ROWS:
            values, vectors = np.linalg.eigh((flat @ flat.T).astype(np.float64))
            values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
            solid = values > 1e-7 * values[0]
            values, vectors = values[solid], vectors[:, solid]
            scales = np.sqrt(values)
            self._axes = (flat.T @ (vectors / scales).astype(np.float32)).astype(np.float32)
        else:
            from sklearn.utils.extmath import randomized_svd

            vectors, scales, axes = randomized_svd(flat, count, random_state=random_state)
            self._axes = axes.T
        self.scores: Floats = np.asarray(vectors * scales, dtype=np.float64)
        self.unit = float((self.scores**2).sum() / len(self.scores)) or 1.0

    def along(self, directions: Floats) -> Projection:
        """The projection on directions ``(r, m)`` in the space of the scores."""
        return Projection(self._mean, self._axes[:, : len(directions)] @ directions)

    def leading(self, count: int) -> Projection:
        """The projection that gives other images their first scores."""
        return Projection(self._mean, self._axes[:, :count])


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
    penalised = gram + penalty * np.eye(len(gram))
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
    """Where X tells most of Y, ``(r,)``; by power iteration from the first coordinate that is left.

    The iteration (and its end) is that of NIPALS.
    """
    column = int((np.abs(covariance).max(axis=0) > 0).argmax())
    direction = covariance[:, column] / np.linalg.norm(covariance[:, column])
    for _ in range(_POWER_STEPS):
        earlier, direction = direction, covariance @ (direction @ covariance)
        direction /= np.linalg.norm(direction)
        if ((direction - earlier) ** 2).sum() < _STEADY:
            break
    return direction


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
