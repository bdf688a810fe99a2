"""A head that was saved: plain arrays, nothing that runs when it is read; no scikit-learn."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax

from featlab.arguments import finite_matrix
from featlab.errors import FeatlabError
from featlab.store import MapStore
from featlab.store.network import refuse_other_network

Floats = NDArray[np.float64]

FORMAT = "featlab-head"
VERSION = "1.1"
NETWORK = "network:"
"""Before the name of what is known of the network."""
_OLDER = ("1.0",)  # without the network
_OTHER = "Give a store of the network that the head was fitted on."

_ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "logistic": expit,
    "identity": lambda x: x,
}
_KERAS = {"relu": "relu", "tanh": "tanh", "logistic": "sigmoid", "identity": "linear"}
_OUTPUTS = ("softmax", "sigmoid", "one_vs_rest")

_UNREADABLE = (
    *(MemoryError, OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError),
    *(TypeError, NotImplementedError, zlib.error, KeyError, OverflowError),
)


@dataclass(frozen=True)
class SavedHead:
    """A head of plain arrays that predicts like the one that was saved.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        The order of the probabilities.
    mean, scale : ndarrays of shape (c,)
        Features are standardised with them.
    layers : tuple of (ndarray of shape (in, out), ndarray of shape (out,))
        Weights and intercepts; a linear head has one layer.
    activation : {"relu", "tanh", "logistic", "identity"}
        Between the layers.
    output : {"softmax", "sigmoid", "one_vs_rest"}
        From the last layer to probabilities: over all classes, of the second of two classes, or
        sigmoids of every class divided by their sum.
    layer, pooling : str
        Of the features that it was fitted on; "" where that is not known.
    network : mapping of str to object
        Which network and pass made them; empty where that is not known.
    """

    classes_: NDArray[Any]
    mean: Floats
    scale: Floats
    layers: tuple[tuple[Floats, Floats], ...]
    activation: str
    output: str
    layer: str = ""
    pooling: str = ""
    network: Mapping[str, Any] = field(default_factory=dict)

    def linear(self) -> tuple[Floats, Floats]:
        """Weights and intercepts for raw features, as :func:`featlab.heads.linear_weights`.

        Returns
        -------
        coef : ndarray of shape (k, c)
            One row per class; with two classes row 0 is minus row 1.
        intercept : ndarray of shape (k,)

        Raises
        ------
        FeatlabError
            The head has a hidden layer.
        """
        if len(self.layers) > 1:
            raise FeatlabError("the head has a hidden layer; give one that is linear.")
        weights, level = self.layers[0]
        coef = weights.T / self.scale
        intercept = level - coef @ self.mean
        if len(coef) == 1:
            return np.vstack([-coef, coef]), np.concatenate([-intercept, intercept])
        return coef, intercept

    def predict_store(self, store: MapStore, rows: Any = None) -> Floats:
        """Probability of every class, of images of a store of the same network.

        Parameters
        ----------
        store : MapStore
        rows : int, slice, sequence of int or boolean mask, optional
            Row numbers of the image table; all by default.

        Returns
        -------
        ndarray of shape (n, k)

        Raises
        ------
        FeatlabError
            The store is of another network or pass, named with both values, or the head's file
            does not say which it belongs to.
        """
        if not self.network:
            raise FeatlabError(
                f"the head does not say which network's maps it was fitted on, and {store.path} "
                "may be of another; write it again with `featlab heads -o`."
            )
        refuse_other_network(self.network, store.provenance, store.path, _OTHER)
        return self.predict_proba(store.pooled(rows, layer=self.layer, pooling=self.pooling))

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Probability of every class.

        Parameters
        ----------
        X : array_like of shape (n, c)
            Raw features, as the head was fitted on.

        Returns
        -------
        ndarray of shape (n, k)
            In [0, 1]; rows sum to 1.

        Raises
        ------
        FeatlabError
            If X is not finite, or has another number of features.
        """
        values = finite_matrix(X)
        if values.shape[1] != len(self.mean):
            raise FeatlabError(
                f"X must have the head's {len(self.mean)} features, got {values.shape[1]}."
            )
        # In single precision the last layer's sums drown in rounding.
        values = (values.astype(np.float64) - self.mean) / self.scale
        for place, (weights, intercepts) in enumerate(self.layers):
            values = values @ weights + intercepts
            if place + 1 < len(self.layers):
                values = _ACTIVATIONS[self.activation](values)
        return _probabilities(values, self.output)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of every row, of shape (n,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def load_head(path: str | os.PathLike[str]) -> SavedHead:
    """Read what :func:`save_head` wrote.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    SavedHead

    Raises
    ------
    FeatlabError
        No such file, another kind of file, an unknown version, missing or misshapen arrays.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise FeatlabError(f"No head at {path}.") from None
    # A header may claim more numbers than any memory holds.
    except _UNREADABLE as error:
        raise FeatlabError(f"{path} is not a saved head: {error}") from error
    if str(arrays.get("format")) != FORMAT:
        raise FeatlabError(f"{path} is not a saved head: it does not say '{FORMAT}'.")
    if str(arrays.get("version")) not in (VERSION, *_OLDER):
        raise FeatlabError(
            f"{path} has version {str(arrays.get('version'))!r}, this featlab reads {VERSION!r}; "
            "you may need to update."
        )
    try:
        head = SavedHead(
            classes_=arrays["classes"],
            mean=arrays["mean"],
            scale=arrays["scale"],
            layers=tuple(
                (arrays[f"coef_{place}"], arrays[f"intercept_{place}"])
                for place in range(int(arrays["n_layers"]))
            ),
            activation=str(arrays["activation"]),
            output=str(arrays["output"]),
            layer=str(arrays.get("layer", "")),
            pooling=str(arrays.get("pooling", "")),
            network={
                name.removeprefix(NETWORK): _plain_value(value)
                for name, value in arrays.items()
                if name.startswith(NETWORK)
            },
        )
        check_shapes(head)
    except (KeyError, ValueError) as error:
        raise FeatlabError(f"{path} is damaged: {error}") from error
    return head


def _plain_value(value: NDArray[Any]) -> Any:
    return value if value.ndim else value.item()


def _probabilities(values: Floats, output: str) -> Floats:
    if output == "softmax":
        return softmax(values, axis=1)
    share = expit(values)
    if output == "sigmoid":
        return np.hstack([1 - share, share])
    total = share.sum(axis=1, keepdims=True)
    # Where every class is refused, none is preferred: so does scikit-learn.
    return np.where(total > 0, share / np.where(total > 0, total, 1), 1 / share.shape[1])


def probability_tensor(head: SavedHead, X: Any) -> Any:
    """:meth:`SavedHead.predict_proba` in a Keras graph, in single precision.

    Parameters
    ----------
    head : SavedHead
    X : keras.KerasTensor of shape (b, c)
        Raw features.

    Returns
    -------
    keras.KerasTensor of shape (b, k)
    """
    from keras import layers, ops

    values = X
    for place, (weights, intercepts) in enumerate(head.layers):
        if place == 0:  # standardised here, in double precision
            weights = weights / head.scale[:, None]
            intercepts = intercepts - head.mean @ weights
        last = place + 1 == len(head.layers)
        dense = layers.Dense(len(intercepts), "linear" if last else _KERAS[head.activation])
        values = dense(values)
        dense.set_weights([weights, intercepts])
    if head.output == "softmax":
        return layers.Softmax()(values)
    share = ops.sigmoid(values)
    if head.output == "sigmoid":
        return ops.concatenate([1 - share, share], axis=1)
    total = ops.sum(share, axis=1, keepdims=True)
    return ops.where(total > 0, share / ops.where(total > 0, total, 1.0), 1 / len(head.classes_))


def check_shapes(head: SavedHead) -> None:
    """ValueError where the arrays of a head do not fit together."""
    if head.activation not in _ACTIVATIONS or head.output not in _OUTPUTS:
        raise ValueError(f"unknown activation {head.activation!r} or output {head.output!r}")
    width = len(head.mean)
    shapes = [head.scale.shape == head.mean.shape == (width,), (head.scale > 0).all()]
    for weights, intercepts in head.layers:
        shapes.append(weights.shape == (width, len(intercepts)))
        width = len(intercepts)
    outputs = 1 if head.output == "sigmoid" else len(head.classes_)
    if not all(shapes) or width != outputs or not head.layers:
        raise ValueError("its arrays do not fit together")
