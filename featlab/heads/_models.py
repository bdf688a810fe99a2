"""The heads: how each is fitted, and what it tunes inside train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC

from featlab.errors import FeatlabError
from featlab.heads._estimators import CentroidClassifier
from featlab.heads._inputs import Floats, Ints
from featlab.heads._logistic import balanced_words, fit_logistic, fit_logistic_l1
from featlab.heads._training import (
    Fold,
    Train,
    brier_losses,
    fit_quietly,
    fold_words,
    folds_of,
    least_loss,
    log_losses,
    one_thread,
    scaled,
)

HEADS = ("logistic", "mlp", "logistic_l1", "linear_svm", "knn", "nearest_centroid")
"""Every head, by name."""
HEADS_DEFAULT = ("logistic", "mlp")
"""Heads that are fitted unless told otherwise."""
BASELINES = ("dummy", "colour_histogram")

_HIDDEN = 128
_EPOCHS = 40
_EARLY_STOPPING_ROWS = 400
_SVM_GRID = (1e-5, 1e-4, 1e-3, 1e-2)
_SVM_UNTUNED = 1e-3
_NEIGHBOURS = (1, 3, 5, 9, 15, 25)
# Variances per feature: those of standardised ones are near 1, but they are far from independent.
_TEMPERATURES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0)
_TEMPERATURE_UNTUNED = 0.1


def checked_heads(heads: Sequence[str]) -> list[str]:
    """Names of known heads, each once."""
    names = [heads] if isinstance(heads, str) else list(dict.fromkeys(heads))
    unknown = [name for name in names if name not in HEADS]
    if unknown:
        raise FeatlabError(f"heads must be from {list(HEADS)}, got {unknown[0]!r}.")
    return names


def _fit_mlp(train: Train) -> tuple[Pipeline, str]:
    # Early stopping holds out rows at random: not where there are groups, nor where rows are few.
    counts = np.bincount(train.y)
    stop = not train.grouped and len(train.y) >= _EARLY_STOPPING_ROWS and counts.min() >= 10
    network = MLPClassifier(
        (_HIDDEN,),
        alpha=1.0,
        batch_size=min(32, len(train.y)),
        early_stopping=stop,
        max_iter=_EPOCHS,
        random_state=train.random_state,
    )
    model = scaled(network)
    fit_quietly(model, train.X.astype(np.float32), train.labels)
    return model, (
        f"hidden={_HIDDEN}, alpha=1, {'early stopping, at most ' if stop else ''}{_EPOCHS} epochs"
    )


def _fit_linear_svm(train: Train) -> tuple[Pipeline, str]:
    def svm(C: float) -> LinearSVC:
        return LinearSVC(
            C=C, class_weight=train.class_weight, dual="auto", random_state=train.random_state
        )

    folds = folds_of(train)
    best = least_loss(train, folds, _SVM_GRID, svm, _errors, rotate=True) if folds else _SVM_UNTUNED
    whole = _is_partition(train, folds)
    rows = np.arange(len(train.y))
    calibrated = CalibratedClassifierCV(
        svm(best), method="sigmoid", cv=folds if whole else [(rows, rows)], ensemble=False
    )
    model = scaled(calibrated)
    fit_quietly(model, train.X, train.labels)
    how = "held-out folds" if whole else "train itself, so probabilities are too sure"
    words = f"C={best:g} ({fold_words(train, folds)}), calibrated on {how}"
    return model, words + balanced_words(train)


def _errors(model: LinearSVC, X: Floats, y: Ints) -> Floats:
    return (model.predict(X) != y).astype(np.float64)


def _is_partition(train: Train, folds: Sequence[Fold]) -> bool:
    """Whether every image is held out once, and every class is in every fold's training part."""
    held = np.sort(np.concatenate([held for _, held in folds])) if folds else np.array([])
    n_classes = len(np.unique(train.y))
    return len(held) == len(train.y) and all(
        len(np.unique(train.y[fit])) == n_classes for fit, _ in folds
    )


def _fit_knn(train: Train) -> tuple[Pipeline, str]:
    folds = folds_of(train)
    smallest = min((len(fit) for fit, _ in folds), default=len(train.y))
    grid = [k for k in _NEIGHBOURS if k <= smallest]
    best = int(least_loss(train, folds, grid, _neighbours, brier_losses)) if folds else 1
    model = scaled(_neighbours(best))
    fit_quietly(model, train.X, train.labels)
    return model, f"k={best} ({fold_words(train, folds)})"


def _neighbours(k: float) -> KNeighborsClassifier:
    return KNeighborsClassifier(int(k), algorithm="brute")


def _fit_nearest_centroid(train: Train) -> tuple[Pipeline, str]:
    folds = folds_of(train)
    width = train.X.shape[1]

    def centroids(share: float) -> CentroidClassifier:
        return CentroidClassifier(share * width)

    best = _TEMPERATURE_UNTUNED
    if folds:
        best = least_loss(train, folds, _TEMPERATURES, centroids, log_losses)
    model = scaled(centroids(best))
    fit_quietly(model, train.X, train.labels)
    return model, f"temperature={best:g} per neuron ({fold_words(train, folds)})"


def _fit_dummy(train: Train) -> tuple[Pipeline, str]:
    model = Pipeline([("scale", "passthrough"), ("model", DummyClassifier(strategy="prior"))])
    return model.fit(train.X, train.labels), "class frequencies of train"


def fit_head(name: str, train: Train) -> tuple[Pipeline, str]:
    """A fitted head, and its parameters in words."""
    with one_thread(train.X.size):
        return _FITTERS[name](train)


_FITTERS: Mapping[str, Callable[[Train], tuple[Pipeline, str]]] = {
    "dummy": _fit_dummy,
    "logistic": fit_logistic,
    "logistic_l1": fit_logistic_l1,
    "mlp": _fit_mlp,
    "linear_svm": _fit_linear_svm,
    "knn": _fit_knn,
    "nearest_centroid": _fit_nearest_centroid,
    "colour_histogram": fit_logistic,
}
