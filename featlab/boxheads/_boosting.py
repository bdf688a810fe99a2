"""Gradient boosting on a few numbers that describe heat maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sklearn
from sklearn.ensemble import GradientBoostingRegressor

from featlab import boxes as bx
from featlab.boxheads._linear import FitData, Floats, both_ways
from featlab.boxheads._maps import Maps, mirror_maps
from featlab.boxheads._targets import encode_boxes, mirrored

_LEVELS = (0.2, 0.35, 0.5, 0.65, 0.8)
_PENALTY = 0.03
_TREES = (40, 80, 160)
_MOST_FOLDS = 3


@dataclass(frozen=True)
class BoostingHead:
    """Trees on the statistics of the heat maps, one model per coordinate."""

    weights: Floats
    models: list[GradientBoostingRegressor]
    target: str
    parameters: str

    def predict(self, maps: Maps, total: Maps) -> Floats:
        """Boxes ``(m, 4)`` in unit coordinates of the input."""
        heats = _heats(maps, total, self.weights)
        plain, other = (_predicted(self.models, heat_statistics(h)) for h in (heats, _flip(heats)))
        return both_ways(plain, other, self.target)


def boosting_head(data: FitData) -> BoostingHead:
    """Fit the trees; the images' own heat maps come from folds that did not see their boxes."""
    weights = _inside_weights(data, np.arange(len(data.boxes)))
    heats = _heats(data.maps, data.total, weights)
    for learn, held in data.splits():
        own = _inside_weights(data, learn)
        heats[:, held] = _heats(data.maps[held], data.total[held], own)
    X, Xm = heat_statistics(heats), heat_statistics(_flip(heats))
    Y, Ym = (encode_boxes(b, data.target) for b in (data.boxes, mirrored(data.boxes)))
    total = np.zeros(len(_TREES))
    for learn, held in list(data.splits())[:_MOST_FOLDS]:
        models = _fit(X[learn], Xm[learn], Y[learn], Ym[learn], _TREES[-1], data.random_state)
        plain, other = _staged(models, X[held]), _staged(models, Xm[held])
        for k, trees in enumerate(_TREES):
            boxes = both_ways(plain[trees - 1], other[trees - 1], data.target)
            total[k] += bx.iou(boxes, data.boxes[held]).sum()
    trees = _TREES[int(total.argmax())] if total.any() else _TREES[1]
    models = _fit(X, Xm, Y, Ym, trees, data.random_state)
    return BoostingHead(weights, models, data.target, f"{trees} trees, {X.shape[1]} statistics")


def heat_statistics(heats: Floats) -> Floats:
    """Where each heat map is and how far it reaches.

    Parameters
    ----------
    heats : ndarray of shape (m, n, h, w)
        `m` heat maps of each image.

    Returns
    -------
    ndarray of shape (n, m * 28)
        Of each heat map, along x and then along y, in [0, 1]: the centroid and the spread of the
        map scaled to [0, 1] and of its cube, and first and last crossing of five levels by the
        map's largest value in each column (row).
    """
    low, high = heats.min(axis=(2, 3), keepdims=True), heats.max(axis=(2, 3), keepdims=True)
    unit = (heats - low) / np.where(high > low, high - low, 1.0)
    columns = []
    for heat in unit:
        for axis in (1, 2):
            columns += _centroids(heat, axis) + _extents(heat.max(axis=axis))
    return np.column_stack(columns)


def _centroids(heat: Floats, axis: int) -> list[Floats]:
    found = []
    for power in (1, 3):
        mass = (heat**power).sum(axis=axis) + 1e-9
        mass /= mass.sum(axis=1, keepdims=True)
        place = (np.arange(mass.shape[1]) + 0.5) / mass.shape[1]
        centre = mass @ place
        found += [centre, np.sqrt(np.clip(mass @ place**2 - centre**2, 0, None))]
    return found


def _extents(profile: Floats) -> list[Floats]:
    """First and last place where a profile crosses each level, between cells by interpolation."""
    n = profile.shape[1]
    fine = np.linspace(0.5 / n, 1 - 0.5 / n, 8 * n)
    place = np.clip(fine * n - 0.5, 0, n - 1)
    weights = np.clip(1 - np.abs(place[:, None] - np.arange(n)), 0, None)
    dense = profile @ weights.T
    found = []
    for level in _LEVELS:
        above = dense >= level
        some = above.any(axis=1)
        found.append(np.where(some, fine[above.argmax(axis=1)], 0.5))
        found.append(np.where(some, fine[::-1][above[:, ::-1].argmax(axis=1)], 0.5))
    return found


def _inside_weights(data: FitData, rows: np.ndarray) -> Floats:
    """Two directions of the channels that tell cells inside the box from those outside.

    The difference of the two means, and a ridge on how much of the cell the box covers.
    """
    maps, cover = data.maps[rows], _coverage(data.boxes[rows], data.maps.shape[1:3])
    cells = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
    inside = cover.reshape(-1)
    middle = cells.mean(axis=0)
    cells -= middle
    difference = cells.T @ (inside / max(inside.sum(), 1e-9) - 1 / len(inside))
    gram = cells.T @ cells
    penalty = _PENALTY * float(np.trace(gram)) / len(gram) + 1e-12
    ridge = np.linalg.solve(gram + penalty * np.eye(len(gram)), cells.T @ inside)
    return np.stack([difference, ridge])


def _heats(maps: Maps, total: Maps, weights: Floats) -> Floats:
    supervised = np.moveaxis(maps.astype(np.float64) @ weights.T, -1, 0)
    return np.concatenate([total[None].astype(np.float64), supervised])


def _flip(heats: Floats) -> Floats:
    return np.stack([mirror_maps(heat) for heat in heats])


def _coverage(boxes: Floats, shape: tuple[int, ...]) -> Floats:
    """Share of each cell that the box covers, ``(n, h, w)``."""
    parts = []
    for n, low, high in ((shape[0], 1, 3), (shape[1], 0, 2)):
        edge = np.arange(n) / n
        last = np.minimum(boxes[:, high, None], edge + 1 / n)
        first = np.maximum(boxes[:, low, None], edge)
        parts.append(np.clip(last - first, 0, None) * n)
    return parts[0][:, :, None] * parts[1][:, None, :]


def _fit(
    X: Floats, Xm: Floats, Y: Floats, Ym: Floats, trees: int, random_state: int
) -> list[GradientBoostingRegressor]:
    features, values = np.concatenate([X, Xm]), np.concatenate([Y, Ym])
    # Checked for each tree, the parameters would cost a third of the time.
    with sklearn.config_context(skip_parameter_validation=True, assume_finite=True):
        return [
            GradientBoostingRegressor(
                learning_rate=0.08, n_estimators=trees, max_depth=3, min_samples_leaf=5,
                subsample=0.5, max_features=0.3, random_state=random_state,
            ).fit(features, column)
            for column in values.T
        ]  # fmt: skip


def _predicted(models: list[GradientBoostingRegressor], X: Floats) -> Floats:
    return np.column_stack([model.predict(X) for model in models])


def _staged(models: list[GradientBoostingRegressor], X: Floats) -> Floats:
    """Predictions after each tree, ``(trees, n, 4)``."""
    return np.stack([list(model.staged_predict(X)) for model in models], axis=-1)
