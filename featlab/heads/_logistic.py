"""Logistic heads, with their C tuned inside train."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from featlab.errors import FeatlabError
from featlab.heads._inputs import Floats
from featlab.heads._training import (
    Fold,
    Train,
    fit_quietly,
    fold_words,
    folds_of,
    held_weights,
    least_loss,
    log_losses,
    rotated,
    scaled,
    scaled_fold,
)

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_C_UNTUNED = 1e-2
_L1_GRID = (0.1, 0.5, 2.5, 10.0)
_L1_UNTUNED = 0.5
_L1_FOLDS = 3
_MAX_ITERATIONS = 1000


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


def fit_logistic_l1(train: Train) -> tuple[Pipeline, str]:
    """Standardised, L1, each class against the rest."""
    folds = folds_of(train, _L1_FOLDS)
    best = _L1_UNTUNED
    if folds:
        best = least_loss(train, folds, _L1_GRID, lambda C: _sparse(C, train), log_losses)
    model = scaled(_sparse(best, train))
    fit_quietly(model, train.X, train.labels)
    used = np.any([part.coef_[0] != 0 for part in model[-1].estimators_], axis=0)
    words = f"C={best:g} ({fold_words(train, folds)}), {used.sum()} of {len(used)} neurons used"
    return model, words + balanced_words(train)


def balanced_words(train: Train) -> str:
    """That the classes were weighed, if they were."""
    return "" if train.class_weight is None else ", balanced classes"


def logistic(C: float, **parameters: Any) -> LogisticRegression:
    """The L2 logistic regression of this room."""
    return LogisticRegression(C=C, max_iter=_MAX_ITERATIONS, **parameters)


def _sparse(C: float, train: Train) -> OneVsRestClassifier:
    # liblinear is some twenty times faster here than saga, which alone has a multinomial L1.
    model = LogisticRegression(
        C=C,
        solver="liblinear",
        max_iter=_MAX_ITERATIONS,
        class_weight=train.class_weight,
        random_state=train.random_state,
    )
    old = model.get_params().get("penalty") == "l2"  # scikit-learn < 1.8
    model.set_params(**({"penalty": "l1"} if old else {"l1_ratio": 1.0}))
    return OneVsRestClassifier(model)


def tuned_c(train: Train, folds: list[Fold]) -> float:
    """C of the least log-loss over the folds, each scaled by its own training part."""
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
