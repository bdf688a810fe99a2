"""A network's own head and what it says of each picture, as a store keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from scipy.special import logsumexp

CODES, LOGITS, TOTALS = "own/codes", "own/logits", "own/totals"
PER_IMAGE = (CODES, LOGITS, TOTALS)
"""Datasets with a row an image: places of the largest logits, those logits, log-sum-exp of all."""
HEAD = "own_head"
"""Group of the classes and, where the head is linear, its weights."""
MOST = 10
"""Logits kept of each picture, unless all are asked for."""


@dataclass(frozen=True)
class OwnHead:
    """The classes that a network was trained to tell, and how it tells them.

    Attributes
    ----------
    classes : tuple of k str
        Each once, in the order of the network's outputs.
    layer : str
        The maps that the head stands on.
    coef : ndarray of shape (k, c), float32, or None
        Weights of the mean-pooled maps; None where the head is not linear in them.
    intercept : ndarray of shape (k,), float32, or None
    """

    classes: tuple[str, ...]
    layer: str
    coef: np.ndarray | None = None
    intercept: np.ndarray | None = None

    @property
    def linear(self) -> bool:
        """Whether a linear layer follows the mean-pooled maps."""
        return self.coef is not None

    def logits(self, pooled: np.ndarray) -> np.ndarray:
        """Logits ``(n, k)`` of mean-pooled maps ``(n, c)`` by a linear head."""
        assert self.coef is not None
        return np.asarray(pooled @ self.coef.T + self.intercept, dtype=np.float32)


def largest(logits: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """What is kept of logits ``(n, k)``: dataset → ``(n, most)``, the largest first; the total."""
    order = np.argsort(-logits, axis=1, kind="stable")[:, :most]
    return {
        CODES: order.astype(np.int32),
        LOGITS: np.take_along_axis(logits, order, axis=1).astype(np.float32),
        TOTALS: logsumexp(logits.astype(np.float64), axis=1, keepdims=True).astype(np.float32),
    }


def write_head(file: h5py.File, head: OwnHead) -> None:
    """Add the group of the head."""
    group = file.create_group(HEAD)
    group.attrs["layer"] = head.layer
    names = np.array(head.classes, dtype=object)
    text = h5py.string_dtype("utf-8")
    group.create_dataset("classes", data=names, dtype=text, track_times=False)
    for name in ("coef", "intercept"):
        if (values := getattr(head, name)) is not None:
            group.create_dataset(name, data=values, track_times=False)


def checked_head(classes: Any, layer: Any, arrays: dict[str, np.ndarray]) -> OwnHead:
    """The head as a file tells it; ValueError where its parts do not fit."""
    head = OwnHead(tuple(str(name) for name in classes), str(layer), **arrays)
    k = len(head.classes)
    if k < 2 or len(set(head.classes)) < k:
        raise ValueError("a head needs two classes or more, each once")
    if (head.coef is None) != (head.intercept is None):
        raise ValueError("weights without intercepts, or the other way round")
    if head.coef is not None and head.intercept is not None:
        if head.coef.ndim != 2 or len(head.coef) != k or head.intercept.shape != (k,):
            raise ValueError(f"{k} classes, weights {head.coef.shape}")
        if not (np.isfinite(head.coef).all() and np.isfinite(head.intercept).all()):
            raise ValueError("weights that are not finite")
    return head
