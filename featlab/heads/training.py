"""What a head is fitted on, the folds inside it, and the logistic head that is tuned over them."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from featlab.arguments import (
    check_classes_in_train,
    check_same_rows,
    class_codes,
    group_codes,
    has_groups,
    split_sides,
    stratified_rows,
)
from featlab.errors import FeatlabError
from featlab.heads.scores import clusters_of, losses_of
from featlab.system.processes import one_blas_thread

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Fold = tuple[Ints, Ints]

MOST_ROWS = 50_000
"""Train images that a head is fitted on; of more, a random choice in the classes' shares."""
C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_C_UNTUNED = 1e-2
MAX_ITERATIONS = 1000
_FOLDS = 5
_MANY_VALUES = 20_000_000
_LEAST_APART = 1e-4  # of a row from those before it, of the largest such distance


@dataclass(frozen=True)
class Images:
    """What is known of each image but its features; every image without a group is its own.

    Attributes
    ----------
    y : ndarray of shape (n,)
        Class codes.
    classes : ndarray of shape (k,)
        Names of the classes.
    groups : ndarray of shape (n,)
        Codes from 0.
    grouped : bool
        Whether any group holds two images.
    """

    y: Ints
    classes: NDArray[Any]
    groups: Ints
    grouped: bool

    def train(
        self, X: Floats, rows: Ints, random_state: int, class_weight: str | None = None
    ) -> Train:
        """What a head is fitted on: some rows, and their features."""
        return Train(
            X, self.y[rows], self.classes, self.groups[rows], self.grouped, random_state,
            class_weight,
        )  # fmt: skip


def images_of(X: Any, y: ArrayLike, groups: ArrayLike | None, **others: Any) -> Images:
    """Labels and groups of the images of `X`, checked; at least two classes.

    `others` is what else has one entry per image, by its name. The classes are in the order of
    their text, numbers too: in that order scikit-learn has them.
    """
    check_same_rows(X=X, y=y, groups=groups, **others)
    codes, classes = class_codes(y, len(X), least=2)
    units = group_codes(groups, len(X))
    return Images(codes, classes, units, has_groups(units))


@dataclass(frozen=True)
class Sides:
    """Rows of a split.

    Attributes
    ----------
    train, test : ndarrays of int
        All rows of these sides.
    fitted : ndarray of int
        The train rows that heads are fitted on.
    clusters : ndarray of shape (len(test),), optional
        Group of every test row, codes from 0; None where no two of them share one.
    """

    train: Ints
    test: Ints
    fitted: Ints
    clusters: Ints | None


def sides_of(split: ArrayLike, images: Images, random_state: int) -> Sides:
    """The rows of a split, checked: something to score on, and every class in train.

    Classes without a test image, and test images of few groups, are told in the log.
    """
    sides = split_sides(split, len(images.y))
    train, test = np.flatnonzero(sides == "train"), np.flatnonzero(sides == "test")
    if not len(test):
        raise FeatlabError("split has no 'test' row; there is nothing to score on.")
    check_classes_in_train(images.y[train], images.classes)
    unscored = np.setdiff1d(np.arange(len(images.classes)), images.y[test])
    if len(unscored):
        logger.warning(
            "No test image of %s: left out of balanced_accuracy and roc_auc.",
            ", ".join(repr(name) for name in images.classes[unscored]),
        )
    clusters = clusters_of(images.groups[test])
    return Sides(train, test, fitted_rows(images.y, train, random_state), clusters)


def fitted_rows(codes: Ints, train: Ints, random_state: int) -> Ints:
    """The train rows that a head is fitted on: all, or a random choice of :data:`MOST_ROWS`."""
    return train[stratified_rows(codes[train], MOST_ROWS, random_state)]


def stratified_folds(
    codes: Ints, groups: ArrayLike | None, n_folds: int, random_state: int
) -> list[Fold]:
    """Rows to fit on and rows held out, for each fold that can be used.

    Parameters
    ----------
    codes : ndarray of shape (n,)
        Class codes.
    groups : array-like of shape (n,), optional
        Rows of the same group are held out together.
    n_folds : int
    random_state : int
        Seed of the shuffle.

    Returns
    -------
    list of (ndarray, ndarray)
        Fewer than `n_folds` where a fold is empty, or leaves a single class to fit on.
    """
    if groups is None:
        kind = StratifiedKFold(n_folds, shuffle=True, random_state=random_state)
        divided = kind.split(codes, codes)
    else:
        divided = _grouped_folds(codes, _shuffled(groups, random_state), n_folds)
    return [(fit, held) for fit, held in divided if len(held) and len(np.unique(codes[fit])) > 1]


def _grouped_folds(codes: Ints, groups: NDArray[np.intp], n_folds: int) -> list[Fold]:
    """The folds of scikit-learn's ``StratifiedGroupKFold``, all of them weighed at once.

    Groups that differ most in their classes come first; each goes where the classes are then most
    evenly spread, among equals to the smallest fold.
    """
    _, classes = np.unique(codes, return_inverse=True)
    names, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), int(classes.max()) + 1))
    np.add.at(counts, (group, classes), 1)
    shares = counts.sum(axis=0)
    held, fold = np.zeros((n_folds, counts.shape[1])), np.zeros(len(names), dtype=np.intp)
    own = np.eye(n_folds)[:, :, None]
    for one in np.argsort(-np.std(counts, axis=1), kind="stable"):
        spread = (((held + own * counts[one]) / shares).std(axis=1)).mean(axis=1).tolist()
        best, size = 0, held.sum(axis=1).tolist()
        for place in range(1, n_folds):
            close = abs(spread[place] - spread[best]) <= 1e-8 + 1e-5 * abs(spread[best])
            if spread[place] < spread[best] or (close and size[place] < size[best]):
                best = place
        held[best] += counts[one]
        fold[one] = best
    places = [np.flatnonzero(fold[group] == k) for k in range(n_folds)]
    return [(np.setdiff1d(np.arange(len(codes)), one), one) for one in places]


def _shuffled(groups: ArrayLike, random_state: int) -> NDArray[np.intp]:
    """Codes of the groups in a random order, the one in which scikit-learn 1.8 takes them."""
    names, codes = np.unique(groups, return_inverse=True)
    order = np.arange(len(names))
    np.random.RandomState(random_state).shuffle(order)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place[codes]


@dataclass(frozen=True)
class Train:
    """What a head is fitted on; groups are codes, every image without a group has its own.

    Attributes
    ----------
    X : ndarray of shape (n, c)
    y : ndarray of shape (n,)
        Class codes.
    classes : ndarray of shape (k,)
        Names of the classes.
    groups : ndarray of shape (n,)
    grouped : bool
        Whether any image has a group.
    random_state : int
    class_weight : {"balanced"}, optional
        Classes count alike, however many images they have.
    """

    X: Floats
    y: Ints
    classes: NDArray[Any]
    groups: Ints
    grouped: bool
    random_state: int
    class_weight: str | None = None

    @property
    def labels(self) -> NDArray[Any]:
        """Names of the classes, row by row."""
        return self.classes[self.y]


def folds_of(train: Train, most: int = _FOLDS) -> list[Fold]:
    """Folds of train, each class in at least two of them; none if a class cannot be divided."""
    pairs = np.unique(np.column_stack([train.y, train.groups]), axis=0)
    counts = np.bincount(pairs[:, 0])
    n_folds = min(most, int(counts[counts > 0].min()))
    if n_folds < 2:
        return []
    groups = train.groups if train.grouped else None
    return stratified_folds(train.y, groups, n_folds, train.random_state)


def fold_words(train: Train, folds: Sequence[Fold]) -> str:
    """How something was tuned."""
    if not folds:
        return "a class has too few images or groups in train to tune"
    return f"{len(folds)} {'grouped ' if train.grouped else ''}folds"


def fit_quietly(model: Any, X: NDArray[Any], y: NDArray[Any]) -> None:
    """Fit; a solver that did not converge is told in the log."""
    with warnings.catch_warnings():
        # Not converged; more than half as many classes as images.
        warnings.simplefilter("ignore", UserWarning)
        model.fit(X, y)
    last = model[-1] if isinstance(model, Pipeline) else model
    # A multilayer perceptron is trained for a fixed number of epochs on purpose.
    if isinstance(last, LogisticRegression) and np.max(last.n_iter_) >= last.max_iter:
        logger.warning("Logistic regression stopped after %d iterations.", last.max_iter)


@contextlib.contextmanager
def quick_fits(size: int) -> Iterator[None]:
    """Around fits to so many values that are known to be finite.

    Linear algebra is done in one thread where they are few: waking the others takes longer. What
    scikit-learn checks anew at each call takes a quarter of a small fit.
    """
    with (
        one_blas_thread() if size < _MANY_VALUES else contextlib.nullcontext(),
        sklearn.config_context(assume_finite=True, skip_parameter_validation=True),
    ):
        yield


def scaled(model: Any) -> Pipeline:
    """`model` on standardised features; steps ``scale`` and ``model``."""
    return Pipeline([("scale", StandardScaler()), ("model", model)])


def scaled_fold(train: Train, fold: Fold) -> tuple[Floats, Floats]:
    """Both sets of a fold, standardised by its training set."""
    fit, held = fold
    scale = StandardScaler().fit(train.X[fit])
    return scale.transform(train.X[fit]), scale.transform(train.X[held])


def rotated(X: Floats, other: Floats) -> tuple[Floats, Floats]:
    """Both in the span of `X`'s rows, where the L2 solution lies: the same fit in fewer columns.

    The columns of `X` have mean 0: its last row is minus the sum of the others. Any basis will do;
    that by the rows' products takes half the time of QR, where no two rows are nearly alike.
    """
    if X.shape[1] <= len(X):
        return X, other
    with contextlib.suppress(np.linalg.LinAlgError):
        own: Any = np.linalg.cholesky(X[:-1] @ X[:-1].T)
        if own.diagonal().min() > _LEAST_APART * own.diagonal().max():
            held = solve_triangular(own, X[:-1] @ other.T, lower=True, check_finite=False)
            return np.append(own, -own.sum(axis=0, keepdims=True), axis=0), held.T
    basis, own = np.linalg.qr(X.T)
    return own.T, other @ basis


def least_loss(
    train: Train,
    folds: Sequence[Fold],
    grid: Sequence[float],
    model_of: Callable[[float], Any],
    loss: Callable[[Any, Floats, Ints], Floats],
    *,
    rotate: bool = False,
) -> float:
    """The grid's value of the least mean loss on the held-out sets; the first of equal ones.

    `rotate` where the model only knows inner products (:func:`rotated`).
    """
    losses = np.zeros(len(grid))
    for fold in folds:
        X_fit, X_held = scaled_fold(train, fold)
        if rotate:
            X_fit, X_held = rotated(X_fit, X_held)
        weights = held_weights(train, fold)
        for place, value in enumerate(grid):
            model = model_of(value)
            fit_quietly(model, X_fit, train.y[fold[0]])
            losses[place] += weights @ loss(model, X_held, train.y[fold[1]])
    return grid[int(losses.argmin())]


def held_weights(train: Train, fold: Fold) -> Floats:
    """Weight of every held image: 1, or the classes weigh alike where heads are balanced."""
    y = train.y[fold[1]]
    if train.class_weight is None:
        return np.ones(len(y))
    return len(train.y) / np.bincount(train.y)[y]


def log_losses(model: Any, X: Floats, y: Ints) -> Floats:
    """Log-losses; a class that the training set of a grouped fold lacks has probability 0."""
    return losses_of(y, aligned(model, X, int(y.max()) + 1))


def brier_losses(model: Any, X: Floats, y: Ints) -> Floats:
    """Squared distances, 0 to 2, between the probabilities and the truth."""
    probability = aligned(model, X, int(y.max()) + 1)
    probability[np.arange(len(y)), y] -= 1
    return (probability**2).sum(axis=1)


def aligned(model: Any, X: Floats, n_classes: int) -> Floats:
    """Probabilities in columns of class codes, for a model fitted on codes, perhaps not on all."""
    seen = model.classes_
    probability = np.zeros((len(X), max(int(seen.max()) + 1, n_classes)))
    probability[:, seen] = model.predict_proba(X)
    return probability


def linear_weights(model: Pipeline) -> tuple[Floats, Floats]:
    """Weights of a logistic head for raw, unscaled features.

    Parameters
    ----------
    model : Pipeline
        ``HeadResults.models["logistic"]``, or ``"logistic_l1"``.

    Returns
    -------
    coef : ndarray of shape (k, c)
        One row per class, in the order of the classes; with two classes row 0 is minus row 1.
    intercept : ndarray of shape (k,)
        ``X @ coef.T + intercept`` is the model's ``decision_function`` (row 1 with two classes).

    Raises
    ------
    FeatlabError
        If the model is not linear.
    """
    linear, scale = model[-1], model[0]
    parts = linear.estimators_ if isinstance(linear, OneVsRestClassifier) else [linear]
    if not isinstance(scale, StandardScaler) or not all(
        isinstance(part, LogisticRegression) for part in parts
    ):
        raise FeatlabError(
            f"linear_weights needs a logistic head, got {type(linear).__name__}; "
            "pass results.models['logistic']."
        )
    coef = np.vstack([part.coef_ for part in parts]) / scale.scale_
    intercept = np.concatenate([part.intercept_ for part in parts]) - coef @ scale.mean_
    if len(coef) == 1:
        return np.vstack([-coef, coef]), np.concatenate([-intercept, intercept])
    return coef, intercept


def fit_logistic(train: Train) -> tuple[Pipeline, str]:
    """Standardised, L2."""
    folds = folds_of(train)
    best = tuned_c(train, folds) if folds else _C_UNTUNED
    model = scaled(logistic(best, class_weight=train.class_weight))
    fit_quietly(model, train.X, train.labels)
    return model, f"C={best:g} ({fold_words(train, folds)})" + balanced_words(train)


def balanced_words(train: Train) -> str:
    """That the classes were weighed, if they were."""
    return "" if train.class_weight is None else ", balanced classes"


def logistic(C: float, **parameters: Any) -> LogisticRegression:
    """The L2 logistic regression of this room."""
    return LogisticRegression(C=C, max_iter=MAX_ITERATIONS, **parameters)


def tuned_c(train: Train, folds: list[Fold]) -> float:
    """C of the least log-loss over the folds, each scaled by its own training set."""
    losses = np.zeros(len(C_GRID))
    for fold in folds:
        X_fit, X_held = rotated(*scaled_fold(train, fold))
        weights = held_weights(train, fold)
        # Each fit starts where the one with the next smaller C ended.
        model = logistic(C_GRID[0], warm_start=True, class_weight=train.class_weight)
        for place, C in enumerate(C_GRID):
            fit_quietly(model.set_params(C=C), X_fit, train.y[fold[0]])
            losses[place] += weights @ log_losses(model, X_held, train.y[fold[1]])
    return C_GRID[int(losses.argmin())]
