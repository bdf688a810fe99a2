"""Every heat-map method, by name; adding one takes a function and a decorator.

::

    from featlab.localise import register

    @register("cubed", "all maps, cubed")
    def cubed(maps, context):
        return (maps**3).sum(axis=-1)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy.linalg import eigh
from scipy.special import expit

from featlab.arguments import check_choice
from featlab.features import reduced_rows
from featlab.localise.heat import cam_heat, detector_weights, normalise, scaled, unread
from featlab.results.localisation import Cells, Context, Fit, FittedMethods, Heat, HeatMethod
from featlab.store import MapStore

MOST_DETECTORS = 150
_PARTS, _UPDATES = 8, 30
_REDUCED, _COMPONENTS, _CELLS_OF_COMPONENT = 512, 256, 16
_CELLS_PER_CLASS, _POWER_STEPS = 5_000, 12
_WEAKEST_EDGE, _FLAT_CELL = 1e-5, 1e-5
_FEW_LIKE = 0.4  # share of the cells from which a seed grows
FAINT = 0.02  # what is cold for one method only is not out of the geometric mean
_HOT, _COLD = 0.2, 0.5  # shares of the cells of a picture that teach a student
STUDENT, COMPONENTS = "student", "components"
_FINE_CELLS = 100
SURE = 0.5  # share of the surest cell from which a cell is the object's

METHODS: dict[str, HeatMethod] = {}
"""Every heat-map method, by name; :func:`register` adds to it."""


def register(
    name: str,
    title: str,
    *,
    fit: Fit | None = None,
    needs: Sequence[str] = (),
    supervision: str = "image labels",
    teacher: str | None = None,
    join: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Callable[[Heat], Heat]:
    """Add a method to the registry.

    Parameters
    ----------
    name : str
        What tables call it; an earlier method of the name is replaced.
    title : str
        What figures call it.
    fit : callable, optional
        Learns from cells of the train rows.
    needs : sequence of str
        What the method cannot do without: "neurons", "weights", "mlp", "components".
    supervision : {"image labels", "boxes", "none"}
        What it learns from.
    teacher : str, optional
        The method whose heat maps of the train rows, all layers fused, `fit` learns from
        (``Cells.rank``).
    join : callable, optional
        Makes one heat map ``(n, h, w)`` of the several ``(n, parts, h, w)`` that `heat` gave, after
        those of all layers were fused.

    Returns
    -------
    callable
        A decorator for the function ``(maps, context) -> heat``.

    Raises
    ------
    FeatlabError
        Another kind of supervision.
    """
    check_choice("supervision", supervision, ("image labels", "boxes", "none"))

    def keep(heat: Heat) -> Heat:
        METHODS[name] = HeatMethod(name, title, heat, fit, tuple(needs), supervision, teacher, join)
        return heat

    return keep


def _detectors(context: Context, direction: str, most: int) -> np.ndarray:
    """Weights ``(classes, c)`` of the mean of a class's best detectors; 0 where it has none."""
    assert context.neurons is not None
    detectors = context.neurons[context.neurons["direction"] == direction]
    channels = [
        detectors.loc[detectors["class"] == name, "neuron"].to_numpy()[:most]
        for name in context.classes
    ]
    return np.stack([detector_weights(some, context.scale) for some in channels])


@register("detectors", "detectors combined", needs=["neurons"])
def _mean_of_detectors(maps: np.ndarray, context: Context) -> np.ndarray:
    return cam_heat(maps, context.asked(_detectors(context, "active", MOST_DETECTORS)))


@register("best_detector", "best detector alone", needs=["neurons"])
def _best_detector(maps: np.ndarray, context: Context) -> np.ndarray:
    return cam_heat(maps, context.asked(_detectors(context, "active", 1)))


@register("signed_detectors", "active minus silent detectors", needs=["neurons"])
def _signed_detectors(maps: np.ndarray, context: Context) -> np.ndarray:
    active, silent = (_detectors(context, way, MOST_DETECTORS) for way in ("active", "silent"))
    return cam_heat(maps, context.asked(active - silent))


@register("contrast", "detectors of the class minus those of others", needs=["neurons"])
def _contrast(maps: np.ndarray, context: Context) -> np.ndarray:
    own = _detectors(context, "active", MOST_DETECTORS)
    return cam_heat(maps, context.asked(less_others(own)))


def less_others(of_classes: np.ndarray) -> np.ndarray:
    """What each class has ``(classes, ...)``, less the mean of what the other classes have."""
    others = (of_classes.sum(axis=0) - of_classes) / max(len(of_classes) - 1, 1)
    return of_classes - others


@register("cam", "class activation map (CAM)", needs=["weights"])
def _cam(maps: np.ndarray, context: Context) -> np.ndarray:
    return cam_heat(maps, context.asked(_weights(context)))


@register("cam_positive", "CAM, positive weights only", needs=["weights"])
def _cam_positive(maps: np.ndarray, context: Context) -> np.ndarray:
    return cam_heat(maps, context.asked(np.maximum(_weights(context), 0)))


@register("cell_head", "the head applied at every cell", needs=["weights"])
def _cell_head(maps: np.ndarray, context: Context) -> np.ndarray:
    """Score of the class at each cell, less the mean score of the others, where it is positive.

    With two classes these are the log odds. Those against the sum of many classes are positive in
    few cells; a probability would be 1 in most, as a head made for means sees peaks.
    """
    assert context.intercepts is not None
    offsets = context.asked(less_others(context.intercepts))
    heat = cam_heat(maps, context.asked(less_others(_weights(context))))
    return np.maximum(heat + offsets[:, None, None], 0)


# scikit-learn's name → the function, and its derivative from its value.
_ACTIVATIONS: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = {
    "identity": (lambda z: z, np.ones_like),
    "relu": (lambda z: np.maximum(z, 0), lambda a: a > 0),
    "tanh": (np.tanh, lambda a: 1 - a**2),
    "logistic": (expit, lambda a: a * (1 - a)),
}


@register("mlp_cam", "CAM of the MLP, by its gradient", needs=["mlp"])
def _mlp_cam(maps: np.ndarray, context: Context) -> np.ndarray:
    """Maps weighted by the gradient of the class's output at the image's own mean activations."""
    assert context.mlp is not None
    scale, mlp = context.mlp[0], context.mlp[-1]
    function, derivative = _ACTIVATIONS[mlp.activation]
    maps = unread(maps, context.centre)
    active = (maps.mean(axis=(1, 2)) - scale.mean_) / scale.scale_
    slopes = []
    for weights, bias in zip(mlp.coefs_[:-1], mlp.intercepts_[:-1], strict=True):
        active = function(active @ weights + bias)
        slopes.append(derivative(active))
    last = mlp.coefs_[-1]
    outputs = np.column_stack([-last, last]) if last.shape[1] == 1 else last
    gradient = outputs.T[context.codes]
    for weights, slope in zip(mlp.coefs_[-2::-1], slopes[::-1], strict=True):
        gradient = (gradient * slope) @ weights.T
    return cam_heat(maps, gradient / scale.scale_)


@register("sum", "sum of all maps", supervision="none")
def _sum(maps: np.ndarray, _: Context) -> np.ndarray:
    """Selective convolutional descriptor aggregation: Wei et al. (2017), IEEE TIP 26."""
    return maps.sum(axis=-1)


@register("eigen_cam", "first component of each picture", supervision="none")
def _eigen_cam(maps: np.ndarray, context: Context) -> np.ndarray:
    """The first left singular vector of cells × neurons: Muhammad & Yeasin (2020), IJCNN."""
    n, h, w, c = maps.shape
    flat = maps.reshape(n, h * w, c).astype(np.float32)
    # Power iteration from the cells' sums; a full decomposition costs a hundred times more.
    first = flat.sum(axis=2)
    for _ in range(_POWER_STEPS):
        first = np.einsum("nkc,nc->nk", flat, np.einsum("nkc,nk->nc", flat, first))
        first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
    sign = np.where(np.einsum("nk,nkc->n", first, flat) < 0, -1, 1)
    return (first * sign[:, None]).reshape(n, h, w)


@register("normalised_cut", "normalised cut of each picture's cells", supervision="none")
def _normalised_cut(maps: np.ndarray, context: Context) -> np.ndarray:
    """The second eigenvector of the cells' likeness, high where it is farthest from 0.

    Shi & Malik (2000), IEEE TPAMI 22; Wang et al. (2022), TokenCut, CVPR, who cut the likeness at
    0.2, and take that of whole tokens: of maps that are never negative all would be alike.
    """
    heats = np.zeros(maps.shape[:3], dtype=np.float32)
    for heat, like in zip(heats, _likeness(maps, context), strict=True):
        if (cells := len(like)) < 2 or not like.any():
            continue
        edges = np.maximum(like, 0) + _WEAKEST_EDGE
        root = 1 / np.sqrt(edges.sum(axis=1))
        second = eigh(root[:, None] * edges * root, subset_by_index=[cells - 2, cells - 2])[1]
        cut = (second[:, 0] * root).reshape(heat.shape)
        heat[:] = cut * np.sign(cut.flat[np.abs(cut).argmax()])
    return heats


@register("seed_expansion", "cells like the least connected one", supervision="none")
def _seed_expansion(maps: np.ndarray, context: Context) -> np.ndarray:
    """Likeness to the seed, the cell like fewest others, and to those of few that are like it.

    Siméoni et al. (2021), LOST, BMVC.
    """
    n, h, w, _ = maps.shape
    heats = np.zeros((n, h, w), dtype=np.float32)
    for heat, like in zip(heats, _likeness(maps, context), strict=True):
        order = np.argsort((like > 0).sum(axis=1), kind="stable")
        few = order[: max(1, int(_FEW_LIKE * len(order)))]
        seeds = few[like[order[0], few] >= 0]
        heat[:] = like[seeds].sum(axis=0).reshape(h, w)
    return heats


def _likeness(maps: np.ndarray, context: Context) -> Iterator[np.ndarray]:
    """Cosines between the cells of each picture, less its mean cell, ``(cells, cells)``."""
    stored = unread(maps, context.centre)
    for cells in stored.reshape(len(stored), -1, stored.shape[-1]):
        own = cells - cells.mean(axis=0)
        length = np.linalg.norm(own, axis=1, keepdims=True)
        own[(length <= _FLAT_CELL * np.abs(cells).max())[:, 0]] = 0
        own /= np.maximum(length, np.finfo(own.dtype).tiny)
        yield own @ own.T


def _fit_ddt(cells: Cells, context: Context) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.decomposition import PCA

    means, directions = [], []
    for code in range(len(context.classes)):
        own = cells.values[cells.codes == code][:_CELLS_PER_CLASS].astype(np.float64)
        with np.errstate(invalid="ignore"):  # cells that are all alike explain 0 of 0
            model = PCA(1, svd_solver="randomized", random_state=context.random_state).fit(own)
        direction = model.components_[0]
        # The sign of a component means nothing; an object is where neurons fire.
        towards = np.cov(own @ direction, own.sum(axis=1))[0, 1]
        means.append(model.mean_)
        directions.append(direction * (-1 if towards < 0 else 1))
    return np.stack(means), np.stack(directions)


@register("ddt", "first component of the class", fit=_fit_ddt)
def _ddt(maps: np.ndarray, context: Context) -> np.ndarray:
    """Deep descriptor transforming: Wei et al. (2019), Pattern Recognition 88."""
    return _along(maps, context, *context.fitted["ddt"])


def _along(
    maps: np.ndarray, context: Context, means: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    means, directions = context.asked(means), context.asked(directions)
    offset = np.einsum("nc,nc->n", means, directions)
    return np.maximum(cam_heat(maps, directions) - offset[:, None, None], 0)


def _fit_parts(cells: Cells, context: Context) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.decomposition import MiniBatchNMF

    values = np.maximum(scaled(cells.values, context.scale), 0)
    n_parts = min(_PARTS, *values.shape)
    model = MiniBatchNMF(n_parts, random_state=context.random_state, init="nndsvda", max_iter=60)
    shares = model.fit_transform(values)
    k = len(context.classes)
    # The part of a class is the one that tells it best: the largest gap of the mean shares.
    means = np.stack([shares[cells.codes == code].mean(axis=0) for code in range(k)])
    rest = (means.sum(axis=0) - means) / max(k - 1, 1)
    return model.components_.astype(np.float32), (means - rest).argmax(axis=1)


@register("parts", "part shared over the set (NMF)", fit=_fit_parts)
def _parts(maps: np.ndarray, context: Context) -> np.ndarray:
    """Collins, Achanta & Süsstrunk (2018), Deep feature factorization, ECCV."""
    components, part = context.fitted["parts"]
    n, h, w, c = maps.shape
    seen = np.maximum(scaled(maps, context.scale), 0).reshape(-1, c) @ components.T
    # Shares of fixed parts by Lee and Seung's updates; only the small Gram matrix takes part.
    gram = components @ components.T
    shares = np.full_like(seen, seen.mean() / max(float(gram.mean()), 1e-12))
    for _ in range(_UPDATES):
        shares *= seen / np.maximum(shares @ gram, 1e-12)
    shares = shares.reshape(n, h, w, -1)
    return np.take_along_axis(shares, part[context.codes][:, None, None, None], axis=3)[..., 0]


@register("fusion", "detectors, head and first component, fused", fit=_fit_ddt)
def _fusion(maps: np.ndarray, context: Context) -> np.ndarray:
    """Geometric mean of `detectors` and `cell_head`, as far as known, and `ddt`.

    Each by its own range in the picture: hot is what all call hot.
    """
    return _fused_with(maps, context, *context.fitted["fusion"])


def _fused_with(
    maps: np.ndarray, context: Context, means: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    several = [METHODS[name].heat(maps, context) for name in fused_methods(context)]
    several.append(_along(maps, context, means, directions))
    return np.exp(np.mean([np.log(_unit(one) + FAINT) for one in several], axis=0))


def fused_methods(context: Context) -> list[str]:
    """What `fusion` takes the mean of, beside the class's first component."""
    known = {"detectors": context.neurons, "cell_head": context.weights}
    return [name for name, one in known.items() if one is not None]


def scored_cells(cells: Cells, scale: np.ndarray) -> Cells:
    """The cells with their scores on principal components of them all.

    Whatever learns from some of them, by boxes or by another method, takes rows of the scores.
    """
    components, scores = reduced_rows(cells.values, _REDUCED, lambda x: compressed(x, scale))
    return replace(cells, components=components, scores=scores)


def _fit_cells(cells: Cells, context: Context) -> tuple[np.ndarray, float] | None:
    return _cell_model(cells, cells.boxed, cells.inside)


def _cell_model(cells: Cells, use: np.ndarray, hot: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Weights ``(c,)`` and offset of a logistic regression on the cells in `use`; None of one kind.

    Of few cells it sees few components: what they leave over differs from picture to picture.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(hot := hot[use])) < 2:
        return None
    assert cells.components is not None
    k = min(_COMPONENTS, max(1, len(hot) // _CELLS_OF_COMPONENT))
    own, scores = reduced_rows(cells.scores[use], k)
    norm = StandardScaler(copy=False).fit(scores)
    model = LogisticRegression(C=1e-3, max_iter=300).fit(norm.transform(scores), hot)
    of_own = model.coef_[0] / norm.scale_
    of_all = of_own @ own.axes
    weights = of_all @ cells.components.axes
    offset = model.intercept_[0] - of_own @ norm.mean_ - of_all @ own.mean
    return weights.astype(np.float32), float(offset - weights @ cells.components.mean)


def _in_object(
    maps: np.ndarray, context: Context, weights: np.ndarray, offset: float
) -> np.ndarray:
    """Probability of each cell by what :func:`_cell_model` learnt."""
    return expit(compressed(maps, context.scale) @ weights + offset)


@register(
    "cell_boxes",
    "cells learnt from train boxes",
    fit=_fit_cells,
    needs=[COMPONENTS],
    supervision="boxes",
)
def _cell_boxes(maps: np.ndarray, context: Context) -> np.ndarray:
    """Probability that a cell lies in a box, by a logistic regression on cells of train images."""
    fitted = context.fitted["cell_boxes"]
    if fitted is None:
        return np.zeros(maps.shape[:3], dtype=np.float32)
    return _in_object(maps, context, *fitted)


def _fit_student(cells: Cells, context: Context) -> tuple[np.ndarray | float, ...] | None:
    """Cells that its teacher calls hot, against cold ones; what lies between teaches nothing.

    Of a layer without cells every cell is as likely to be the object's.
    """
    if not len(cells.rank):
        return np.zeros(len(context.scale), dtype=np.float32), 0.0, *context.fitted["fusion"]
    hot, cold = cells.rank > 1 - _HOT, cells.rank < _COLD
    model = _cell_model(cells, hot | cold, hot)
    return None if model is None else (*model, *context.fitted["fusion"])


def _whole_and_part(heats: np.ndarray) -> np.ndarray:
    """Below half of its largest value the object as a whole; above it what tells its class."""
    inside, hot = (normalise(heats[:, part]) for part in (0, 1))
    return np.minimum(inside / SURE, 1) * (1 + hot) / 2


@register(
    STUDENT,
    "cells that the fused map taught",
    fit=_fit_student,
    needs=[COMPONENTS],
    teacher="fusion",
    join=_whole_and_part,
)
def _student(maps: np.ndarray, context: Context) -> np.ndarray:
    """The probability of a cell by what `fusion` taught, and `fusion` itself, ``(n, 2, h, w)``."""
    if (fitted := context.fitted[STUDENT]) is None:
        return np.zeros((len(maps), 2, *maps.shape[1:3]), dtype=np.float32)
    weights, offset, means, directions = fitted
    hot = _fused_with(maps, context, means, directions)
    return np.stack([_in_object(maps, context, weights, offset), hot], axis=1)


def untuned(store: MapStore, fitted: FittedMethods) -> tuple[str, float]:
    """Method and threshold where nobody drew boxes to choose them by.

    From sets with boxes (``benchmarks/untuned.py``): few large cells blur the outline.
    """
    if STUDENT not in fitted.methods:
        return "fusion", 0.25  # maps of one cell teach nobody
    shapes = [store.map_shape(layer) for layer in fitted.contexts]
    return STUDENT, 0.45 if max(h * w for h, w, _ in shapes) >= _FINE_CELLS else 0.3


def compressed(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """What ``cell_boxes`` sees of activations ``(..., c)``: log(1 + value / scale)."""
    seen = scaled(values, scale)
    np.maximum(seen, 0, out=seen)
    return np.log1p(seen, out=seen)


def _unit(heat: np.ndarray) -> np.ndarray:
    low = heat.min(axis=(1, 2), keepdims=True)
    size = heat.max(axis=(1, 2), keepdims=True) - low
    return np.divide(heat - low, size, out=np.zeros_like(heat), where=size > 0)


def _weights(context: Context) -> np.ndarray:
    assert context.weights is not None
    return context.weights
