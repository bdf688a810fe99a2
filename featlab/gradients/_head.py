"""The user's own classes on top of the network: a linear head on mean-pooled maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featlab.errors import FeatlabError


@dataclass(frozen=True)
class LinearHead:
    """A logistic head as arrays, from :func:`featlab.heads.linear_weights`.

    Attributes
    ----------
    classes : tuple of str
    coef : ndarray of shape (k, c), float32
        For raw mean-pooled maps; with two classes row 0 is minus row 1.
    intercept : ndarray of shape (k,), float32

    Raises
    ------
    FeatlabError
        The shapes do not fit, or two classes have rows that are not each other's negative.
    """

    classes: tuple[str, ...]
    coef: np.ndarray
    intercept: np.ndarray

    def __post_init__(self) -> None:
        k = len(self.classes)
        if (
            k < 2
            or np.ndim(self.coef) != 2
            or len(self.coef) != k
            or np.shape(self.intercept) != (k,)
        ):
            raise FeatlabError(
                f"a head needs at least two classes, weights (classes, neurons) and intercepts "
                f"(classes,); got {k} classes, weights {np.shape(self.coef)} and intercepts "
                f"{np.shape(self.intercept)}."
            )
        if k == 2 and not np.allclose(self.coef[0], -self.coef[1]):
            raise FeatlabError(
                "the two rows of a two-class head must be each other's negative; take them from "
                "heads.linear_weights."
            )

    def codes(self, classes: Sequence[str] | np.ndarray) -> np.ndarray:
        """Place of each class name, ``(n,)`` int.

        Raises
        ------
        FeatlabError
            A name is not one of the head's classes.
        """
        places = {name: place for place, name in enumerate(self.classes)}
        try:
            return np.array([places[str(name)] for name in classes], dtype=np.int64)
        except KeyError as error:
            raise FeatlabError(
                f"classes must be from {', '.join(self.classes)}, got {error}."
            ) from None

    def logits(self, pooled: np.ndarray) -> np.ndarray:
        """Logits ``(n, k)`` of mean-pooled maps ``(n, c)``."""
        return pooled @ self.coef.T + self.intercept

    def predict(self, pooled: np.ndarray) -> np.ndarray:
        """The class of the largest logit, ``(n,)`` str."""
        return np.array(self.classes)[self.logits(pooled).argmax(axis=1)]

    def log_probabilities(self, pooled: np.ndarray) -> np.ndarray:
        """Logarithms of the classes' probabilities, ``(n, k)``."""
        logits = self.logits(pooled)
        if len(self.classes) == 2:
            logits = logits / 2  # a logistic regression of two classes has one logit, not two
        logits = logits - logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
