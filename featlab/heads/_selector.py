"""Choosing neurons as a scikit-learn transformer, so that it happens inside the fold."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from featlab.errors import FeatlabError
from featlab.neurons._rank_statistics import rank_statistics

logger = logging.getLogger(__name__)

_PER = ("class", "all")


class NeuronSelector(SelectorMixin, BaseEstimator):
    """Keep the neurons whose activations tell the classes apart best.

    The effect of a neuron for a class is ``|AUROC - 0.5|``, class against rest: 0 knows nothing,
    0.5 separates perfectly, whichever side is higher. In a ``Pipeline`` the choice is made on the
    training part of every fold; made beforehand, on all images, it would flatter the score.

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
        self.support_ = self._chosen(effects)
        return self

    def _chosen(self, effects: NDArray[np.float64]) -> NDArray[np.bool_]:
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
        if self.per not in _PER:
            raise FeatlabError(f"per must be one of {list(_PER)}, got {self.per!r}.")
        if not self.n_neurons >= 1:
            raise FeatlabError(f"n_neurons must be at least 1, got {self.n_neurons!r}.")
        if not 0 <= self.min_effect <= 0.5:
            raise FeatlabError(f"min_effect must be from 0 to 0.5, got {self.min_effect!r}.")

    def _get_support_mask(self) -> NDArray[np.bool_]:
        check_is_fitted(self)
        return self.support_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags
