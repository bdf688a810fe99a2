"""Fitted heads as plain arrays, in a file or ready to be asked."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from featlab.arguments import finite_matrix
from featlab.errors import FeatlabError
from featlab.heads.models import CentroidClassifier
from featlab.heads.saved import FORMAT, NETWORK, VERSION, Floats, SavedHead
from featlab.heads.training import fit_quietly, folds_of, images_of, quick_fits
from featlab.store import MapStore
from featlab.store.network import network_facts
from featlab.system.files import write_whole
from featlab.system.machine import double_rows

_LEAST = 1e-300  # a probability of 0 has no logarithm
_LOG_TEMPERATURES = (-2.0, 2.0)

_Layers = list[tuple[Floats, Floats]]


def save_head(
    model: Pipeline,
    path: str | os.PathLike[str],
    *,
    store: MapStore | None = None,
    layer: str | None = None,
    pooling: str = "mean",
) -> Path:
    """Write a fitted head as plain arrays (``.npz``); complete or not at all.

    Parameters
    ----------
    model : Pipeline
        From ``HeadResults.models``: any but ``knn`` and ``dummy``.
    path : path-like
        The file; ``.npz`` is appended if it has no such ending.
    store : MapStore, optional
        Whose features it was fitted on: the file then tells the network, and refuses others.
    layer : str, optional
        Of these features; the store's last by default.
    pooling : {"mean", "max"}
        Of these features.

    Returns
    -------
    Path

    Raises
    ------
    FeatlabError
        A head that cannot be written as layers of weights, classes that are neither text nor
        numbers, or features that are not the store's.
    """
    head = plain_head(model)
    if store is not None:
        head = _belonging(head, store, layer, pooling)
    path = Path(path)
    if path.suffix != ".npz":
        path = path.with_name(path.name + ".npz")
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "version": np.array(VERSION),
        "classes": head.classes_,
        "mean": head.mean,
        "scale": head.scale,
        "n_layers": np.array(len(head.layers)),
        "activation": np.array(head.activation),
        "output": np.array(head.output),
        "layer": np.array(head.layer),
        "pooling": np.array(head.pooling),
    }
    arrays |= {f"{NETWORK}{name}": np.asarray(value) for name, value in head.network.items()}
    for place, (weights, intercepts) in enumerate(head.layers):
        arrays |= {f"coef_{place}": weights, f"intercept_{place}": intercepts}
    write_whole(path, lambda part: np.savez(part, allow_pickle=False, **arrays))
    return path


def _belonging(head: SavedHead, store: MapStore, layer: str | None, pooling: str) -> SavedHead:
    """The head with the network of a store, whose features it must fit."""
    layer = store.layers[-1] if layer is None else layer
    width = store.pooled([0], layer=layer, pooling=pooling).shape[1]
    if width != len(head.mean):
        raise FeatlabError(
            f"the head has {len(head.mean)} features, layer {layer!r} of {store.path} {width}; "
            "give the store and the layer that it was fitted on."
        )
    return replace(head, layer=layer, pooling=pooling, network=network_facts(store.provenance))


def plain_head(model: Any) -> SavedHead:
    """The arrays of a fitted head of this room."""
    scale, last = (model[0], model[-1]) if isinstance(model, Pipeline) else (None, model)
    known = _layers_of(last)
    if known is None or not isinstance(scale, StandardScaler) or len(model) != 2:
        raise FeatlabError(
            f"A head of {type(last).__name__} cannot be saved as plain arrays; "
            "a StandardScaler and then a linear head or the multilayer perceptron can."
        )
    layers, activation, output = known
    return SavedHead(
        classes_=_plain_classes(last.classes_),
        mean=scale.mean_.astype(np.float64),
        scale=scale.scale_.astype(np.float64),
        layers=tuple((w.astype(np.float64), b.astype(np.float64)) for w, b in layers),
        activation=activation,
        output=output,
    )


def calibrated_head(
    model: Pipeline,
    X: ArrayLike,
    y: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    random_state: int = 0,
) -> tuple[SavedHead, float]:
    """A fitted head whose probabilities are as sure as they are right, by its own train images.

    One temperature divides the scores before the softmax: that of the least log-loss on held-out
    folds of the train images, in each of which the head is fitted anew with the same settings. It
    changes no prediction. As if one held-out image more were wrong, each counts as one of the other
    classes by 1 / (n + 1): where all are right, the least log-loss would otherwise be that of a
    head that is entirely sure of whatever it says.

    Parameters
    ----------
    model : Pipeline
        From ``HeadResults.models``: a logistic head.
    X, y : array-like of shape (n, c) and (n,)
        Features and labels of the train images that `model` was fitted on, or of some of them.
    groups : array-like of shape (n,), optional
        Whole groups are held out together.
    random_state : int
        Seed of the folds.

    Returns
    -------
    head : SavedHead
    temperature : float
        1 where a class has too few images to be held out.

    Raises
    ------
    FeatlabError
        The head cannot be saved, or X and y do not fit together.

    References
    ----------
    Guo et al. (2017). On calibration of modern neural networks. ICML.
    Platt (1999). Probabilistic outputs for support vector machines. Advances in Large Margin
    Classifiers, 61-74 (targets that are neither 0 nor 1).
    """
    images = images_of(X, y, groups)
    values = double_rows(finite_matrix(X), np.arange(len(images.y)))
    train = images.train(values, np.arange(len(images.y)), random_state)
    scores, codes = [], []
    for fit, held in folds_of(train):
        own = clone(model)
        with quick_fits(values.size):
            fit_quietly(own, values[fit], train.labels[fit])
        if len(own.classes_) == len(images.classes):
            scores.append(np.log(np.maximum(own.predict_proba(values[held]), _LEAST)))
            codes.append(train.y[held])
    head = plain_head(model)
    if not scores:
        return head, 1.0
    score, code = np.concatenate(scores), np.concatenate(codes)

    targets = np.full(score.shape, 1 / ((len(code) + 1) * (score.shape[1] - 1)))
    targets[np.arange(len(code)), code] = len(code) / (len(code) + 1)

    def loss(log_temperature: float) -> float:
        return -float((targets * log_softmax(score / np.exp(log_temperature), axis=1)).sum())

    temperature = float(np.exp(minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded").x))
    return _tempered(head, temperature), temperature


def refitted_head(model: Pipeline, X: ArrayLike, y: ArrayLike, temperature: float) -> SavedHead:
    """A head with the settings of a fitted one, fitted anew; with that one's temperature.

    Parameters
    ----------
    model : Pipeline
        From ``HeadResults.models``: a logistic head.
    X, y : array-like of shape (n, c) and (n,)
        Features and labels of all images.
    temperature : float
        Of :func:`calibrated_head`.

    Raises
    ------
    FeatlabError
        The head cannot be saved, or X and y do not fit together.
    """
    images = images_of(X, y, None)
    values = double_rows(finite_matrix(X), np.arange(len(images.y)))
    own = clone(model)
    with quick_fits(values.size):
        fit_quietly(own, values, np.asarray(y))
    return _tempered(plain_head(own), temperature)


def _tempered(head: SavedHead, temperature: float) -> SavedHead:
    weights, intercepts = head.layers[-1]
    last = (weights / temperature, intercepts / temperature)
    return replace(head, layers=(*head.layers[:-1], last))


def _layers_of(model: Any) -> tuple[_Layers, str, str] | None:
    """Layers, activation and output; None for what is not made of layers."""
    if isinstance(model, LogisticRegression):
        output = "sigmoid" if len(model.classes_) == 2 else "softmax"
        return [(model.coef_.T, model.intercept_)], "identity", output
    if isinstance(model, CentroidClassifier):
        coef, intercept = model.linear()
        return [(coef.T, intercept)], "identity", "softmax"
    if isinstance(model, OneVsRestClassifier):
        return _one_vs_rest(model)
    if isinstance(model, CalibratedClassifierCV):
        return _calibrated(model)
    if isinstance(model, MLPClassifier):
        output = "softmax" if model.out_activation_ == "softmax" else "sigmoid"
        return list(zip(model.coefs_, model.intercepts_, strict=True)), model.activation, output
    return None


def _one_vs_rest(model: OneVsRestClassifier) -> tuple[_Layers, str, str] | None:
    parts = model.estimators_
    if not all(isinstance(part, LogisticRegression) for part in parts):
        return None
    coef = np.vstack([part.coef_ for part in parts])
    intercept = np.concatenate([part.intercept_ for part in parts])
    return [(coef.T, intercept)], "identity", "sigmoid" if len(parts) == 1 else "one_vs_rest"


def _calibrated(model: CalibratedClassifierCV) -> tuple[_Layers, str, str] | None:
    """Platt's sigmoid 1 / (1 + exp(a f + b)) of a linear f is a linear head again."""
    if len(model.calibrated_classifiers_) != 1 or model.method != "sigmoid":
        return None
    (one,) = model.calibrated_classifiers_
    if not isinstance(one.estimator, LinearSVC):
        return None
    slope = np.array([-part.a_ for part in one.calibrators])
    offset = np.array([-part.b_ for part in one.calibrators])
    coef = one.estimator.coef_ * slope[:, None]
    intercept = one.estimator.intercept_ * slope + offset
    output = "sigmoid" if len(model.classes_) == 2 else "one_vs_rest"
    return [(coef.T, intercept)], "identity", output


def _plain_classes(classes: NDArray[Any]) -> NDArray[Any]:
    if classes.dtype.kind in "iufbU":
        return classes
    if all(isinstance(name, str) for name in classes):
        return classes.astype(str)
    raise FeatlabError(f"Classes must be text or numbers to be saved, got {classes.tolist()}.")
