"""The heads: how each is fitted, and how C is tuned inside train."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from featlab._errors import FeatlabError
from featlab.heads._scores import Floats, losses_of

logger = logging.getLogger(__name__)

_C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_C_UNTUNED = 1e-2
_FOLDS = 5
_MAX_ITERATIONS = 1000
_HIDDEN = 128
_EPOCHS = 40
_EARLY_STOPPING_ROWS = 400

_Fold = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True)
class Train:
    """What a head is fitted on; groups are codes, every image without a group has its own."""

    X: Floats
    y: NDArray[np.intp]
    classes: NDArray[Any]
    groups: NDArray[np.intp]
    grouped: bool
    random_state: int

    @property
    def labels(self) -> NDArray[Any]:
        """Names of the classes, row by row."""
        return self.classes[self.y]


def linear_weights(model: Pipeline) -> tuple[Floats, Floats]:
    """Weights of a logistic head for raw, unscaled features.

    Parameters
    ----------
    model : Pipeline
        ``HeadResults.models["logistic"]``.

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
    if not isinstance(linear, LogisticRegression) or not isinstance(scale, StandardScaler):
        raise FeatlabError(
            f"linear_weights needs a logistic head, got {type(linear).__name__}; "
            "pass results.models['logistic']."
        )
    coef = linear.coef_ / scale.scale_
    intercept = linear.intercept_ - coef @ scale.mean_
    if len(coef) == 1:
        return np.vstack([-coef, coef]), np.concatenate([-intercept, intercept])
    return coef, intercept


def _fit_logistic(train: Train) -> tuple[Pipeline, str]:
    folds = _folds(train)
    best = _tuned_c(train, folds) if folds else _C_UNTUNED
    model = Pipeline([("scale", StandardScaler()), ("model", _logistic(best))])
    _fit_quietly(model, train.X, train.labels)
    if not folds:
        return model, f"C={best:g} (a class has too few images or groups in train to tune)"
    return model, f"C={best:g} ({len(folds)} {'grouped ' if train.grouped else ''}folds)"


def _logistic(C: float, **parameters: Any) -> LogisticRegression:
    return LogisticRegression(C=C, max_iter=_MAX_ITERATIONS, **parameters)


def _tuned_c(train: Train, folds: list[_Fold]) -> float:
    """C of the least log-loss over the folds, each scaled by its own training part."""
    losses = np.zeros(len(_C_GRID))
    for fit, held in folds:
        scale = StandardScaler().fit(train.X[fit])
        X_fit, X_held = _rotated(scale.transform(train.X[fit]), scale.transform(train.X[held]))
        # Each fit starts where the one with the next smaller C ended.
        model = _logistic(_C_GRID[0], warm_start=True)
        for place, C in enumerate(_C_GRID):
            _fit_quietly(model.set_params(C=C), X_fit, train.y[fit])
            losses[place] += _held_losses(model, X_held, train.y[held]).sum()
    return _C_GRID[int(losses.argmin())]


def _rotated(X: Floats, other: Floats) -> tuple[Floats, Floats]:
    """Both in the span of `X`'s rows, where the L2 solution lies: the same fit in fewer columns."""
    if X.shape[1] <= len(X):
        return X, other
    left, size, right = np.linalg.svd(X, full_matrices=False)
    return left * size, other @ right.T


def _fit_mlp(train: Train) -> tuple[Pipeline, str]:
    # Early stopping holds out rows at random: not where there are groups, nor where rows are few.
    smallest = int(np.bincount(train.y).min())
    stop = not train.grouped and len(train.y) >= _EARLY_STOPPING_ROWS and smallest >= 10
    network = MLPClassifier(
        (_HIDDEN,),
        alpha=1.0,
        batch_size=min(32, len(train.y)),
        early_stopping=stop,
        max_iter=_EPOCHS,
        random_state=train.random_state,
    )
    model = Pipeline([("scale", StandardScaler()), ("model", network)])
    _fit_quietly(model, train.X.astype(np.float32), train.labels)
    return model, (
        f"hidden={_HIDDEN}, alpha=1, {'early stopping, at most ' if stop else ''}{_EPOCHS} epochs"
    )


def _fit_dummy(train: Train) -> tuple[Pipeline, str]:
    model = Pipeline([("scale", "passthrough"), ("model", DummyClassifier(strategy="prior"))])
    return model.fit(train.X, train.labels), "class frequencies of train"


FITTERS: Mapping[str, Callable[[Train], tuple[Pipeline, str]]] = {
    "dummy": _fit_dummy,
    "logistic": _fit_logistic,
    "mlp": _fit_mlp,
    "colour_histogram": _fit_logistic,
}


def _fit_quietly(model: Any, X: NDArray[Any], y: NDArray[Any]) -> None:
    """Fit; a solver that did not converge is told in the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    last = model[-1] if isinstance(model, Pipeline) else model
    # A multilayer perceptron is trained for a fixed number of epochs on purpose.
    if isinstance(last, LogisticRegression) and np.max(last.n_iter_) >= last.max_iter:
        logger.warning("Logistic regression stopped after %d iterations.", last.max_iter)


def _folds(train: Train) -> list[_Fold]:
    """Folds of train, each class in at least two of them; none if a class cannot be divided."""
    pairs = np.unique(np.column_stack([train.y, train.groups]), axis=0)
    n_folds = min(_FOLDS, int(np.bincount(pairs[:, 0]).min()))
    if n_folds < 2:
        return []
    kind = StratifiedGroupKFold if train.grouped else StratifiedKFold
    folds = kind(n_folds, shuffle=True, random_state=train.random_state)
    groups = train.groups if train.grouped else None
    divided = [(fit, held) for fit, held in folds.split(train.X, train.y, groups) if len(held)]
    return [fold for fold in divided if len(np.unique(train.y[fold[0]])) > 1]


def _held_losses(model: LogisticRegression, X: Floats, y: NDArray[np.intp]) -> Floats:
    """Log-losses; a class that the training part of a grouped fold lacks has probability 0."""
    seen = model.classes_
    probability = np.zeros((len(y), max(int(seen.max()), int(y.max())) + 1))
    probability[:, seen] = model.predict_proba(X)
    return losses_of(y, probability)
