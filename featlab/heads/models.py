"""The heads: how each is fitted, what it tunes inside train, and what it predicts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.feature_selection import SelectorMixin
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from featlab.arguments import check_between, check_choice, check_whole, finite_matrix
from featlab.errors import FeatlabError
from featlab.heads.training import (
    MAX_ITERATIONS,
    Floats,
    Fold,
    Ints,
    Train,
    balanced_words,
    brier_losses,
    fit_logistic,
    fit_quietly,
    fold_words,
    folds_of,
    least_loss,
    log_losses,
    quick_fits,
    scaled,
)
from featlab.neurons.rank_statistics import rank_statistics
from featlab.results.analysis import HeadResults
from featlab.system.machine import double_rows, pieces

logger = logging.getLogger(__name__)

HEADS = ("logistic", "mlp", "logistic_l1", "linear_svm", "knn", "nearest_centroid")
"""Every head, by name."""
HEADS_DEFAULT = ("logistic", "mlp")
"""Heads that are fitted unless told otherwise."""

_HIDDEN = 128
_EPOCHS = 40
_EARLY_STOPPING_ROWS = 400
_L1_GRID = (0.1, 0.5, 2.5, 10.0)
_L1_UNTUNED = 0.5
_L1_FOLDS = 3
_SVM_GRID = (1e-5, 1e-4, 1e-3, 1e-2)
_SVM_UNTUNED = 1e-3
_NEIGHBOURS = (1, 3, 5, 9, 15, 25)
# Variances per feature: those of standardised ones are near 1, but they are far from independent.
_TEMPERATURES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0)
_TEMPERATURE_UNTUNED = 0.1
_PER = ("class", "all")


def _fit_mlp(train: Train) -> tuple[Pipeline, str]:
    # Early stopping holds out rows at random: not where there are groups, nor where rows are few.
    counts = np.bincount(train.y)
    stop = not train.grouped and len(train.y) >= _EARLY_STOPPING_ROWS and counts.min() >= 10
    mlp = MLPClassifier(
        (_HIDDEN,),
        alpha=1.0,
        batch_size=min(32, len(train.y)),
        early_stopping=stop,
        max_iter=_EPOCHS,
        random_state=train.random_state,
    )
    model = scaled(mlp)
    fit_quietly(model, train.X.astype(np.float32), train.labels)
    return model, (
        f"hidden={_HIDDEN}, alpha=1, {'early stopping, at most ' if stop else ''}{_EPOCHS} epochs"
    )


def _fit_logistic_l1(train: Train) -> tuple[Pipeline, str]:
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


def _sparse(C: float, train: Train) -> OneVsRestClassifier:
    # liblinear is some twenty times faster here than saga, which alone has a multinomial L1.
    model = LogisticRegression(
        C=C,
        solver="liblinear",
        max_iter=MAX_ITERATIONS,
        class_weight=train.class_weight,
        random_state=train.random_state,
    )
    old = model.get_params().get("penalty") == "l2"  # scikit-learn < 1.8
    model.set_params(**({"penalty": "l1"} if old else {"l1_ratio": 1.0}))
    return OneVsRestClassifier(model)


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
    """Whether every image is held out once, and every class is in every fold's training set."""
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
    with quick_fits(train.X.size):
        return _FITTERS[name](train)


_FITTERS: Mapping[str, Callable[[Train], tuple[Pipeline, str]]] = {
    "dummy": _fit_dummy,
    "logistic": fit_logistic,
    "logistic_l1": _fit_logistic_l1,
    "mlp": _fit_mlp,
    "linear_svm": _fit_linear_svm,
    "knn": _fit_knn,
    "nearest_centroid": _fit_nearest_centroid,
    "colour_histogram": fit_logistic,
}


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


def predict_classes(
    results: HeadResults, X: pd.DataFrame | ArrayLike, head: str = "logistic"
) -> NDArray[Any]:
    """The class that a fitted head gives to each row of features ``(m, c)``, in blocks of rows.

    Raises
    ------
    FeatlabError
        No such head, or features that are not finite.
    """
    check_choice("head", head, results.models)
    values = finite_matrix(X)
    return predictions(results.models[head], values, np.arange(len(values)))


def prediction_rows(
    head: str, rows: Ints, y: Ints, probability: Floats, classes: NDArray[Any], **extra: Any
) -> pd.DataFrame:
    """One row per scored image; `extra` columns stand after the head."""
    best = probability.argmax(axis=1)
    return pd.DataFrame(
        {
            "head": head,
            **extra,
            "row": rows,
            "label": classes[y],
            "predicted": classes[best],
            "correct": best == y,
            "probability": probability.max(axis=1),
            **{f"p:{name}": column for name, column in zip(classes, probability.T, strict=True)},
        }
    )


class CentroidClassifier(ClassifierMixin, BaseEstimator):
    """Nearest class mean, with probabilities.

    The probabilities are the softmax of ``-d**2 / (2 * temperature)``, d being the Euclidean
    distance to the class means: Bayes' rule for round Gaussians of that variance and classes
    of equal frequency. In c standardised features squared distances are of the order of c, so
    a `temperature` of that order keeps the probabilities from being all 0 or 1.

    Parameters
    ----------
    temperature : float
        Above 0; the predicted class does not depend on it.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
    centroids_ : ndarray of shape (k, c)

    References
    ----------
    Snell, Swersky & Zemel (2017). Prototypical networks for few-shot learning. NeurIPS 30.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def fit(self, X: ArrayLike, y: ArrayLike) -> CentroidClassifier:
        """Take the mean of every class.

        Parameters
        ----------
        X : array_like of shape (n, c)
        y : array_like of shape (n,)

        Returns
        -------
        CentroidClassifier
            Itself.
        """
        values, labels = validate_data(self, X, y)
        check_classification_targets(labels)
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature!r}.")
        self.classes_, codes = np.unique(labels, return_inverse=True)
        members = [values[codes == k] for k in range(len(self.classes_))]
        self.centroids_ = np.stack([part.mean(axis=0) for part in members])
        return self

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Probability of every class, of shape (n, k); rows sum to 1."""
        return softmax(self._scores(X), axis=1)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The class of the nearest mean, of shape (n,)."""
        best = self._scores(X).argmax(axis=1)
        return self.classes_[best]

    def linear(self) -> tuple[Floats, Floats]:
        """Weights (k, c) and intercepts (k,) whose softmax the probabilities are."""
        check_is_fitted(self)
        coef = self.centroids_ / self.temperature
        return coef, -(self.centroids_**2).sum(axis=1) / (2 * self.temperature)

    def _scores(self, X: ArrayLike) -> Floats:
        """``-d**2 / (2 * temperature)`` but for a constant per image."""
        coef, intercept = self.linear()
        values: Floats = validate_data(self, X, reset=False)
        return values @ coef.T + intercept


class NeuronSelector(SelectorMixin, BaseEstimator):
    """Keep the neurons whose activations tell the classes apart best.

    The effect of a neuron for a class is ``|AUROC - 0.5|``, class against rest: 0 knows nothing,
    0.5 separates perfectly, whichever side is higher. In a ``Pipeline`` the choice is made on the
    training set of every fold; made beforehand, on all images, it would flatter the score.

    Parameters
    ----------
    n_neurons : int
        How many to keep, at least 1; all if X has fewer.
    per : {"class", "all"}
        ``class``: the best `n_neurons` of every class, together; neurons may be best for several.
        ``all``: the best `n_neurons` by their largest effect over the classes.
    min_effect : float
        Least effect, in [0, 0.5], of a neuron that is kept. Where none has it, the one best
        neuron is kept and the log warns.

    Attributes
    ----------
    auroc_ : ndarray of shape (k, c)
        AUROC of every class and neuron on the images of ``fit``, in [0, 1].
    scores_ : ndarray of shape (c,)
        Largest effect over the classes, in [0, 0.5].
    classes_ : ndarray of shape (k,)
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (c,)
        Only if X has column names that are strings.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> X, y = make_classification(random_state=0)
    >>> head = make_pipeline(NeuronSelector(n_neurons=5), LogisticRegression())
    >>> bool(cross_val_score(head, X, y).mean() > 0.8)
    True

    References
    ----------
    Ambroise & McLachlan (2002). Selection bias in gene extraction on the basis of microarray
    gene-expression data. PNAS 99, 6562-6566.
    """

    def __init__(self, n_neurons: int = 20, *, per: str = "class", min_effect: float = 0.0) -> None:
        self.n_neurons = n_neurons
        self.per = per
        self.min_effect = min_effect

    def fit(self, X: ArrayLike, y: ArrayLike) -> NeuronSelector:
        """Rank the neurons on these images.

        Parameters
        ----------
        X : array_like of shape (n, c)
            Activations; finite.
        y : array_like of shape (n,)
            Labels of at least two classes.

        Returns
        -------
        NeuronSelector
            Itself.

        Raises
        ------
        FeatlabError
            An unknown `per`, an `n_neurons` or `min_effect` out of range, a single class.
        """
        values, labels = validate_data(self, X, y)
        check_classification_targets(labels)
        self._check_parameters()
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise FeatlabError(f"y must hold at least two classes, got {len(self.classes_)} class.")
        self.auroc_ = rank_statistics(values, codes, len(self.classes_)).auroc
        effects = np.abs(self.auroc_ - 0.5)
        self.scores_ = effects.max(axis=0)
        self.support_ = self._support(effects)
        return self

    def _support(self, effects: NDArray[np.float64]) -> NDArray[np.bool_]:
        ranked = effects if self.per == "class" else self.scores_[None, :]
        best = np.argsort(-ranked, axis=1, kind="stable")[:, : self.n_neurons]
        kept = np.zeros(effects.shape[1], dtype=bool)
        for row, columns in zip(ranked, best, strict=True):
            kept[columns[row[columns] >= self.min_effect]] = True
        if not kept.any():
            logger.warning(
                "No neuron has an effect of %g; the best one, of %.3f, is kept.",
                self.min_effect,
                self.scores_.max(),
            )
            kept[self.scores_.argmax()] = True
        return kept

    def _check_parameters(self) -> None:
        check_choice("per", self.per, _PER)
        check_whole("n_neurons", self.n_neurons, 1)
        check_between("min_effect", self.min_effect, 0, 0.5)

    def _get_support_mask(self) -> NDArray[np.bool_]:
        check_is_fitted(self)
        return self.support_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags
