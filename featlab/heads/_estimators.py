"""Estimators that scikit-learn lacks, or has only since a version above our lower bound."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from featlab.heads._inputs import Floats


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
