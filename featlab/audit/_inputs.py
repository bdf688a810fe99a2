"""Checks of what the functions of this room take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import neuron_ids
from featlab.errors import FeatlabError
from featlab.system.scratch import count_bad


def codes_of(
    labels: ArrayLike, n: int, other: str, *, least: int = 2
) -> tuple[NDArray[np.intp], list[Any]]:
    """Class code of every image, and the sorted classes; one label per row of `other`."""
    names = np.asarray(labels)
    if names.shape != (n,):
        raise FeatlabError(
            f"labels must have one entry per row of {other} ({n}), got {len(names)}."
        )
    codes, classes = pd.factorize(names, sort=True)
    if (codes < 0).any():
        raise FeatlabError(
            f"labels holds {int((codes < 0).sum())} missing labels; label every image."
        )
    if len(classes) < least:
        raise FeatlabError(f"labels must hold at least two classes, got {list(classes)}.")
    return codes, list(classes)


def matrix_of(X: pd.DataFrame | ArrayLike) -> tuple[NDArray[np.floating], NDArray[Any]]:
    """Finite features (n, c), in their own precision and not copied, and their columns' ids."""
    values = np.asarray(X)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if values.ndim != 2:
        raise FeatlabError(f"X must be of shape (images, neurons), got {values.shape}.")
    n_bad = count_bad(values)
    if n_bad:
        raise FeatlabError(f"X holds {n_bad} NaN or infinite values; it must be finite.")
    return values, neuron_ids(X)
