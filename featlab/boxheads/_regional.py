"""Heads that look at parts of the maps: corrections of a first box, and trees on heat maps.

A regression on the whole map must learn every position of the object anew. The maps sampled over
a grid that moves and scales with the box need not, and one image gives many examples, by shifting
its box at random: so the cascade corrects the box of a first ridge by a ridge that sees the maps
around it. Gradient boosting is given a few numbers that describe heat maps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from featlab.boxes import geometry as bx
from featlab.boxheads._inputs import (
    Floats,
    Maps,
    decode_boxes,
    each_row,
    encode_boxes,
    mirror_halves,
    mirror_maps,
    mirrored,
)
from featlab.boxheads._linear import (
    Components,
    FitData,
    Hidden,
    ScoreHead,
    Shift,
    both_ways,
    ridge_out_of_fold,
    ridge_weights,
)

if TYPE_CHECKING:
    from sklearn.ensemble import GradientBoostingRegressor

CORRECTION = ("even", "odd", "middle", "level")
"""Arrays of a cascade's correction."""
HIDDEN = ("hidden_weights", "hidden_level", "hidden_out")
"""Arrays of a hidden layer before the last one, whose constant is ``first_level``."""
CHANNELS, GRID = 64, 5
_CONTEXTS = (1.3, 2.2)
_PENALTIES = (0.3, 1.0, 3.0)  # of the mean variance of a feature
_STEPS = 5
_DEFAULT = (2.2, 3.0, 3)
_EXAMPLES = 4000  # shifted boxes to make; each image gets at least 2, at most 20
_STRETCH = 1.3  # shifts are errors of the first box, times up to this
FARTHEST = 0.5  # no shift or correction is larger: a few wild boxes would rule the squares
_LEVELS = (0.2, 0.35, 0.5, 0.65, 0.8)
_INSIDE_PENALTY = 0.03
_PER_TREE = 1000  # examples, at most half of all
_TREES = 120  # folds that chose 40, 80 or 160 gave no better boxes


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
class MirrorLinear:
    """A linear map of sampled maps that gives a mirrored picture the mirrored correction.

    Attributes
    ----------
    even, odd : ndarray of shape (e, 3) and (o, 1)
        Weights of the sums and of the differences of mirrored columns.
    middle, level : ndarray of shape (e,) and (3,)
        Means of the sums, and of what they tell.
    """

    even: Floats
    odd: Floats
    middle: Floats
    level: Floats

    def __call__(self, X: Floats) -> Floats:
        """Corrections ``(n, 4)``."""
        sums, differences = mirror_halves(X.reshape(len(X), GRID, GRID, -1))
        even = each_row(sums - self.middle, self.even) + self.level
        return np.hstack([each_row(differences, self.odd), even])


@dataclass(frozen=True)
class CascadeHead:
    """A first box, then corrections of it.

    `held` has a box ``(n, 4)`` of each image fitted on, by the same steps from folds that did not
    see it; None where there was a single fold.
    """

    first: ScoreHead
    correction: MirrorLinear
    context: float
    steps: int
    parameters: str
    held: Floats | None = None

    @property
    def target(self) -> str:
        """How the first box is regressed."""
        return self.first.target

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
    best = _choose(data, start, examples) if data.n_folds else (_DEFAULT, None)
    (context, penalty, steps), held = best
    words = f"{first.parameters}; context {context:g}, penalty {penalty:g}, {steps} corrections"
    (correction,) = examples[context].ridges([penalty])
    return CascadeHead(first, correction, context, steps, words, held)


def plain_arrays(head: object) -> dict[str, np.ndarray] | None:
    """The arrays of a fitted head; None where it is more than layers of weights."""
    first = head.first if isinstance(head, CascadeHead) else head
    if not isinstance(first, ScoreHead):
        return None
    arrays = {"first_mean": first.projection.mean, "first_axes": first.projection.axes}
    last = first.regression
    if isinstance(last, Hidden):
        arrays |= zip(HIDDEN, (last.weights, last.level, last.out), strict=True)
        arrays["first_level"] = last.end
    elif isinstance(last, Shift):
        arrays["first_level"] = last.level
    if isinstance(head, CascadeHead):
        arrays |= {part: getattr(head.correction, part) for part in CORRECTION}
    return arrays


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

    def ridges(self, penalties: Sequence[float]) -> list[MirrorLinear]:
        """The ridge for each penalty, which is in units of the mean variance of a feature."""
        middle, level = self.sums / self.count, self.values / self.count
        even = self.even - np.outer(self.sums, middle)
        cross = self.even_values - np.outer(self.sums, level)
        unit = float(np.trace(even) + np.trace(self.odd)) / (len(even) + len(self.odd)) or 1.0
        return [
            MirrorLinear(
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
        errors = np.clip(_difference(data.boxes, start), -FARTHEST, FARTHEST)
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

    def ridges(self, penalties: Sequence[float], without: int | None = None) -> list[MirrorLinear]:
        """The ridges on all folds but one, a penalty each."""
        kept = [sums for fold, sums in self._folds.items() if fold != without]
        return functools.reduce(_Sums.plus, kept).ridges(penalties)


def _sums(data: FitData, rows: np.ndarray, boxes: list[Floats], context: float) -> _Sums:
    maps, truth = data.maps[rows][..., :CHANNELS], data.boxes[rows]
    features = np.concatenate([sample_regions(maps, box[rows], GRID, context) for box in boxes])
    values = np.concatenate([_difference(box[rows], truth) for box in boxes])
    values = np.clip(values, -FARTHEST, FARTHEST)
    sums, differences = mirror_halves(features.reshape(len(features), GRID, GRID, -1))
    return _Sums(
        float(len(features)),
        sums.sum(axis=0, dtype=np.float64),
        values[:, 1:].sum(axis=0),
        (sums.T @ sums).astype(np.float64),
        sums.T.astype(np.float64) @ values[:, 1:],
        (differences.T @ differences).astype(np.float64),
        differences.T.astype(np.float64) @ values[:, :1],
    )


def _choose(
    data: FitData, start: Floats, examples: dict[float, _Examples]
) -> tuple[tuple[float, float, int], Floats]:
    """Context, penalty and steps of the highest mean IoU on held-out folds; the boxes there."""
    boxes: dict[tuple[float, float, int], Floats] = {}
    for context, of_folds in examples.items():
        for _, held in data.splits():
            models = of_folds.ridges(_PENALTIES, without=int(data.folds[held[0]]))
            maps = data.maps[held]
            for penalty, model in zip(_PENALTIES, models, strict=True):
                own = start[held]
                for step in range(_STEPS + 1):
                    boxes.setdefault((context, penalty, step), np.empty_like(start))[held] = own
                    if step < _STEPS:
                        own = _corrected(maps, own, model, context)
    best = max(boxes, key=lambda key: float(bx.iou(boxes[key], data.boxes).sum()))
    return best, boxes[best]


def _corrected(maps: Maps, boxes: Floats, model: MirrorLinear, context: float) -> Floats:
    # A mirrored picture would get the mirrored correction; there is nothing to average.
    region = sample_regions(maps[..., :CHANNELS], boxes, GRID, context)
    change = model(region.astype(np.float64))
    return _shifted(boxes, np.clip(change, -FARTHEST, FARTHEST))


def _difference(boxes: Floats, truth: Floats) -> Floats:
    """The way from `boxes` to `truth`: of the centre in sides of the box, of the log sides."""
    a, b = encode_boxes(boxes, "centre_size"), encode_boxes(truth, "centre_size")
    return np.hstack([(b[:, :2] - a[:, :2]) / np.exp(a[:, 2:]), b[:, 2:] - a[:, 2:]])


def _shifted(boxes: Floats, change: Floats) -> Floats:
    a = encode_boxes(boxes, "centre_size")
    moved = a[:, :2] + change[:, :2] * np.exp(a[:, 2:])
    return decode_boxes(np.hstack([moved, a[:, 2:] + change[:, 2:]]), "centre_size")


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
    models = _fit(np.concatenate([X, Xm]), np.concatenate([Y, Ym]), data.random_state)
    return BoostingHead(weights, models, data.target, f"{_TREES} trees, {X.shape[1]} statistics")


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
    numbers = []
    for power in (1, 3):
        mass = (heat**power).sum(axis=axis) + 1e-9
        mass /= mass.sum(axis=1, keepdims=True)
        place = (np.arange(mass.shape[1]) + 0.5) / mass.shape[1]
        centre = mass @ place
        numbers += [centre, np.sqrt(np.clip(mass @ place**2 - centre**2, 0, None))]
    return numbers


def _extents(profile: Floats) -> list[Floats]:
    """First and last place where a profile crosses each level, between cells by interpolation."""
    n = profile.shape[1]
    fine = np.linspace(0.5 / n, 1 - 0.5 / n, 8 * n)
    place = np.clip(fine * n - 0.5, 0, n - 1)
    weights = np.clip(1 - np.abs(place[:, None] - np.arange(n)), 0, None)
    dense = profile @ weights.T
    crossings = []
    for level in _LEVELS:
        above = dense >= level
        some = above.any(axis=1)
        crossings.append(np.where(some, fine[above.argmax(axis=1)], 0.5))
        crossings.append(np.where(some, fine[::-1][above[:, ::-1].argmax(axis=1)], 0.5))
    return crossings


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
    penalty = _INSIDE_PENALTY * float(np.trace(gram)) / len(gram) + 1e-12
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


def _fit(X: Floats, Y: Floats, random_state: int) -> list[GradientBoostingRegressor]:
    import sklearn
    from sklearn.ensemble import GradientBoostingRegressor

    share = min(0.5, _PER_TREE / len(X))
    # Checked for each tree, the parameters would cost a third of the time.
    with sklearn.config_context(skip_parameter_validation=True, assume_finite=True):
        return [
            GradientBoostingRegressor(
                learning_rate=0.08, n_estimators=_TREES, max_depth=3, min_samples_leaf=5,
                subsample=share, max_features=0.3, random_state=random_state,
            ).fit(X, column)
            for column in Y.T
        ]  # fmt: skip


def _predicted(models: list[GradientBoostingRegressor], X: Floats) -> Floats:
    return np.column_stack([model.predict(X) for model in models])
