"""Fit on train, score on test, with what was predicted for every image."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline

from featlab._errors import FeatlabError
from featlab.heads._models import FITTERS, Train
from featlab.heads._scores import Floats, bootstrap_weights, scores_of

logger = logging.getLogger(__name__)

HEADS = ("logistic", "mlp")


@dataclass(frozen=True)
class HeadResults:
    """Scores, predictions and models of every head.

    Attributes
    ----------
    table : DataFrame, one row per head
        ``head``, ``n_train``, ``n`` (test images), each metric with its ``_low`` and ``_high``
        (95 %), and the ``parameters`` used, in words.
    predictions : DataFrame, one row per head and test image
        ``head``, ``row`` (of the image table), ``label``, ``predicted``, ``correct``,
        ``probability`` (of the predicted class) and one column ``p:<class>`` per class.
    models : mapping of str to Pipeline
        The fitted heads; steps ``scale`` and ``model``.
    classes : list of str
        Sorted; the order of the probabilities.
    """

    table: pd.DataFrame
    predictions: pd.DataFrame
    models: Mapping[str, Pipeline]
    classes: list[str]

    def confusion(self, head: str) -> pd.DataFrame:
        """Counts of test images, true class (rows) by predicted class (columns)."""
        if head not in self.models:
            raise FeatlabError(f"head must be one of {list(self.models)}, got {head!r}.")
        rows = self.predictions[self.predictions["head"] == head]
        counts = pd.crosstab(rows["label"], rows["predicted"])
        counts = counts.reindex(index=self.classes, columns=self.classes, fill_value=0)
        return counts.rename_axis(index="label", columns="predicted")


def evaluate_heads(
    X: pd.DataFrame | ArrayLike,
    y: ArrayLike,
    split: ArrayLike,
    *,
    colour: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    heads: Sequence[str] = HEADS,
    random_state: int = 0,
    n_boot: int = 1000,
) -> HeadResults:
    """Fit classifiers on the train rows and score them on the test rows.

    Besides the `heads` there is always ``dummy``, which knows only how frequent the classes are,
    and with `colour` a ``colour_histogram``: what a logistic regression reaches without a network.
    The confirm rows are not used.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features; finite.
    y : array_like of shape (n,)
        Labels.
    split : array_like of shape (n,)
        ``train``, ``confirm`` or ``test``.
    colour : array_like of shape (n, 64), optional
        Colour histograms.
    groups : array_like of shape (n,), optional
        Images of one non-empty group stay together in the folds that tune C; ``""`` is no group.
    heads : sequence of {"logistic", "mlp"}
        ``logistic``: standardised, L2; C minimises the log-loss over folds of train (scaled inside
        the fold). Where a class has a single image or group in train there is nothing to tune
        with, and C is 0.01. ``mlp``: standardised, one hidden layer of 128.
    random_state : int
        Seed of the folds, the network and the bootstrap.
    n_boot : int
        Bootstrap samples of the test images, at least 1.

    Returns
    -------
    HeadResults

    Raises
    ------
    FeatlabError
        Shapes that do not match, NaN or infinite features, an unknown head or split, no test
        rows, fewer than two classes, a class without train images.

    Notes
    -----
    The interval of the accuracy is Wilson's, which stays honest at 1.0, where a bootstrap gives
    [1, 1]. The others are percentile intervals over resampled test images; the lower limit of a
    perfect balanced accuracy or AUROC comes from Wilson's and Newcombe's intervals instead.
    ``balanced_accuracy`` (mean recall) and ``roc_auc`` (one-vs-rest, macro) are means over the
    classes that have test images (for ``roc_auc`` also others to compare with); a class without
    is left out and logged. The same rule holds within each resample.

    References
    ----------
    Wilson (1927). Journal of the American Statistical Association 22, 209-212.
    """
    names = _checked_heads(heads)
    if n_boot < 1:
        raise FeatlabError(f"n_boot must be at least 1, got {n_boot}.")
    features = {name: _matrix(X, "X") for name in ("dummy", *names)}
    if colour is not None:
        features["colour_histogram"] = _matrix(colour, "colour")
    codes, classes = pd.factorize(np.asarray(y), sort=True)
    sides = np.asarray(split)
    _check_rows(features, codes, sides)
    train, test = np.flatnonzero(sides == "train"), np.flatnonzero(sides == "test")
    _check_classes(classes, codes[train], codes[test])
    group_codes, grouped = _group_codes(groups, len(codes))
    weights = bootstrap_weights(len(test), n_boot, random_state)
    rows, predictions, models = [], [], {}
    for name, matrix in features.items():
        part = Train(
            matrix[train], codes[train], classes, group_codes[train], grouped, random_state
        )
        model, parameters = FITTERS[name](part)
        probability = model.predict_proba(matrix[test])
        models[name] = model
        scores = scores_of(codes[test], probability, weights)
        counts = {"head": name, "n_train": len(train), "n": len(test)}
        rows.append({**counts, **scores, "parameters": parameters})
        predictions.append(_predictions(name, test, codes[test], probability, classes))
    return HeadResults(
        table=pd.DataFrame(rows),
        predictions=pd.concat(predictions, ignore_index=True),
        models=models,
        classes=classes.tolist(),
    )


def _predictions(
    head: str,
    rows: NDArray[np.intp],
    y: NDArray[np.intp],
    probability: Floats,
    classes: NDArray[Any],
) -> pd.DataFrame:
    best = probability.argmax(axis=1)
    return pd.DataFrame(
        {
            "head": head,
            "row": rows,
            "label": classes[y],
            "predicted": classes[best],
            "correct": best == y,
            "probability": probability.max(axis=1),
            **{f"p:{name}": column for name, column in zip(classes, probability.T, strict=True)},
        }
    )


def _checked_heads(heads: Sequence[str]) -> list[str]:
    names = [heads] if isinstance(heads, str) else list(dict.fromkeys(heads))
    unknown = [name for name in names if name not in HEADS]
    if unknown:
        raise FeatlabError(f"heads must be from {list(HEADS)}, got {unknown[0]!r}.")
    return names


def _matrix(X: Any, name: str) -> Floats:
    # Double precision: in single, the solver's last steps drown in rounding.
    values = np.asarray(X, dtype=np.float64)
    if values.ndim != 2:
        raise FeatlabError(f"{name} must be of shape (images, features), got {values.shape}.")
    n_bad = int((~np.isfinite(values)).sum())
    if n_bad:
        raise FeatlabError(f"{name} holds {n_bad} NaN or infinite values; it must be finite.")
    return values


def _check_rows(
    features: Mapping[str, Floats], codes: NDArray[np.intp], sides: NDArray[Any]
) -> None:
    lengths = {name: len(matrix) for name, matrix in features.items()}
    lengths |= {"y": len(codes), "split": len(sides)}
    if len(set(lengths.values())) > 1:
        raise FeatlabError(f"Features, y and split must have one row per image, got {lengths}.")
    unknown = sorted(set(map(str, sides)) - {"train", "confirm", "test"})
    if unknown:
        raise FeatlabError(f"split must be 'train', 'confirm' or 'test', got {unknown[0]!r}.")
    if (codes < 0).any():
        raise FeatlabError(f"y holds {int((codes < 0).sum())} missing labels; label every image.")


def _check_classes(classes: NDArray[Any], train: NDArray[np.intp], test: NDArray[np.intp]) -> None:
    if len(classes) < 2:
        raise FeatlabError(f"y must hold at least two classes, got {classes.tolist()}.")
    if not len(test):
        raise FeatlabError("split has no 'test' row; there is nothing to score on.")
    untrained = np.setdiff1d(np.arange(len(classes)), train)
    if len(untrained):
        raise FeatlabError(
            f"Class {str(classes[untrained[0]])!r} has no image in train; no head can learn it: "
            "leave the class out, or make another split."
        )
    unscored = np.setdiff1d(np.arange(len(classes)), test)
    if len(unscored):
        logger.warning(
            "No test image of %s: left out of balanced_accuracy and roc_auc.",
            ", ".join(repr(str(name)) for name in classes[unscored]),
        )


def _group_codes(groups: ArrayLike | None, n: int) -> tuple[NDArray[np.intp], bool]:
    """Group code of every image, and whether there is any group at all."""
    if groups is None:
        return np.arange(n), False
    names = np.asarray(groups).astype(str)
    if len(names) != n:
        raise FeatlabError(f"groups must have one entry per image ({n}), got {len(names)}.")
    _, codes = np.unique(names, return_inverse=True)
    codes[names == ""] = n + np.flatnonzero(names == "")
    return codes, bool((names != "").any())
