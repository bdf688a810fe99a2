"""Neurons that a sparse linear model keeps: selection without a p-value."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from featlab.neurons._rank_statistics import Floats

_STRENGTHS = np.logspace(-2, 1, 7)
_FOLDS = 5
# scikit-learn 1.8 renamed the choice of the penalty.
_RENAMED = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8)
_PENALTY: dict[str, Any] = {"l1_ratio": 1.0} if _RENAMED else {"penalty": "l1"}


def l1_coefficients(
    values: NDArray, codes: NDArray[np.intp], n_classes: int, random_state: int
) -> Floats:
    """Coefficients of an L1-penalised logistic regression of each class against the others.

    Activations are standardised (inside the fold while the strength of the penalty is chosen by
    log-loss over stratified folds; without folds, where a class has one image, it is C = 0.1).

    Returns
    -------
    ndarray of shape (n_classes, c)
        The first `n_classes` codes' coefficients.
    """
    X = values.astype(np.float64)
    rows: list[Floats] = []
    for code in range(n_classes):
        y = codes == code
        if n_classes == 2 and code == 1:
            rows.append(-rows[0])
            continue
        strength = _tuned(X, y, random_state)
        scaled = StandardScaler().fit_transform(X)
        rows.append(_fit(scaled, y, strength, random_state).coef_[0])
    return np.stack(rows)


def _fit(X: Floats, y: NDArray[np.bool_], strength: float, seed: int) -> LogisticRegression:
    model = LogisticRegression(
        C=strength, **_PENALTY, solver="liblinear", max_iter=1000, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, y)


def _tuned(X: Floats, y: NDArray[np.bool_], seed: int) -> float:
    n_folds = min(_FOLDS, int(y.sum()), int((~y).sum()))
    if n_folds < 2:
        return 0.1
    losses = np.zeros(len(_STRENGTHS))
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    for fit, held in folds.split(X, y):
        scale = StandardScaler().fit(X[fit])
        X_fit, X_held = scale.transform(X[fit]), scale.transform(X[held])
        for place, strength in enumerate(_STRENGTHS):
            p = _fit(X_fit, y[fit], strength, seed).predict_proba(X_held)[:, 1]
            p = np.clip(p, 1e-15, 1 - 1e-15)
            losses[place] -= np.log(np.where(y[held], p, 1 - p)).sum()
    return float(_STRENGTHS[losses.argmin()])
