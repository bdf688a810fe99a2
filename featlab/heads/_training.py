"""What every head is fitted on, and the folds inside it."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from featlab.heads._folds import Fold, stratified_folds
from featlab.heads._inputs import Floats, Ints
from featlab.heads._scores import losses_of
from featlab.system.scratch import double_rows, pieces

logger = logging.getLogger(__name__)

_FOLDS = 5
_MANY_VALUES = 20_000_000


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
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    last = model[-1] if isinstance(model, Pipeline) else model
    # A multilayer perceptron is trained for a fixed number of epochs on purpose.
    if isinstance(last, LogisticRegression) and np.max(last.n_iter_) >= last.max_iter:
        logger.warning("Logistic regression stopped after %d iterations.", last.max_iter)


@contextlib.contextmanager
def one_thread(size: int) -> Iterator[None]:
    """Linear algebra in one thread for few values: waking the others takes longer."""
    limit = 1 if size < _MANY_VALUES else None
    with threadpool_limits(limit, user_api="blas"):
        yield


def probabilities(model: Any, values: NDArray[np.floating], rows: Ints) -> Floats:
    """Probabilities of some rows of a matrix that need not lie in memory, in blocks."""
    parts = [
        model.predict_proba(double_rows(values, rows[part]))
        for part in pieces(len(rows), values.shape[1])
    ]
    return np.concatenate(parts)


def predictions(model: Any, values: NDArray[np.floating], rows: Ints) -> NDArray[Any]:
    """Predicted classes of some rows of a matrix that need not lie in memory, in blocks."""
    parts = [
        model.predict(double_rows(values, rows[part]))
        for part in pieces(len(rows), values.shape[1])
    ]
    return np.concatenate(parts)


def scaled(model: Any) -> Pipeline:
    """`model` on standardised features; steps ``scale`` and ``model``."""
    return Pipeline([("scale", StandardScaler()), ("model", model)])


def scaled_fold(train: Train, fold: Fold) -> tuple[Floats, Floats]:
    """Both parts of a fold, standardised by its training part."""
    fit, held = fold
    scale = StandardScaler().fit(train.X[fit])
    return scale.transform(train.X[fit]), scale.transform(train.X[held])


def rotated(X: Floats, other: Floats) -> tuple[Floats, Floats]:
    """Both in the span of `X`'s rows, where the L2 solution lies: the same fit in fewer columns."""
    if X.shape[1] <= len(X):
        return X, other
    left, size, right = np.linalg.svd(X, full_matrices=False)
    return left * size, other @ right.T


def least_loss(
    train: Train,
    folds: Sequence[Fold],
    grid: Sequence[float],
    model_of: Callable[[float], Any],
    loss: Callable[[Any, Floats, Ints], Floats],
    *,
    rotate: bool = False,
) -> float:
    """The grid's value of the least mean loss on the held parts; the first of equal ones.

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
    """Log-losses; a class that the training part of a grouped fold lacks has probability 0."""
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
