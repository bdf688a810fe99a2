"""Which rows to look at where all of them would be too many."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

LEAST_PER_CLASS = 50
"""Rows of a class that are kept however rare it is, where it has them."""


def stratified_rows(labels: ArrayLike, most: int, random_state: int = 0) -> NDArray[np.intp]:
    """All rows, or a random sample of about `most` with each class's own share.

    Parameters
    ----------
    labels : array_like of shape (n,)
    most : int
        Rows to keep. A class keeps 50 even where its share would be less, so there may be a few
        more.
    random_state : int
        Seed.

    Returns
    -------
    ndarray of int, shape (k,)
        Row numbers, rising.
    """
    codes, classes = pd.factorize(np.asarray(labels))
    n = len(codes)
    if n <= most:
        return np.arange(n)
    order = np.random.default_rng(random_state).permutation(n)
    # A stable sort of a random order: the first rows of each class are a random choice of them.
    order = order[np.argsort(codes[order], kind="stable")]
    sizes = np.bincount(codes, minlength=len(classes))
    wanted = np.maximum(np.round(sizes * (most / n)).astype(np.intp), LEAST_PER_CLASS)
    place = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[place < np.repeat(wanted, sizes)])
