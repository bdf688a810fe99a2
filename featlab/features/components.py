"""Principal components of a matrix that is read in blocks of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh

from featlab.arguments import row_numbers
from featlab.results.embed import Components
from featlab.system.scratch import double_rows, pieces

Floats = NDArray[np.float64]


def principal_components(
    X: pd.DataFrame | ArrayLike, k: int, *, standardised: bool = False
) -> Components:
    """Exact principal components from one pass over blocks of rows.

    The sums of products are added up in double precision around the mean of the first block, so
    that a large mean does not drown the variance.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Finite; in memory or in a scratch file.
    k : int
        Components, at most c.
    standardised : bool
        Whether columns are divided by their standard deviation; those that do not vary get no
        part in any component.

    Returns
    -------
    Components

    References
    ----------
    Chan, Golub & LeVeque (1983). Algorithms for computing the sample variance. The American
    Statistician 37, 242-247 (shifted data).
    """
    values = np.asarray(X)
    n, c = values.shape
    shift = np.zeros(c)
    sums, products = np.zeros(c), np.zeros((c, c))
    for part in pieces(n, c):
        block = double_rows(values, part)
        if not part.start:
            shift = block.mean(axis=0)
        block -= shift
        sums += block.sum(axis=0)
        products += block.T @ block
    covariance = products - np.outer(sums, sums) / n
    variance = np.maximum(np.diag(covariance), 0) / n
    scale = np.ones(c)
    if standardised:
        # What rounding leaves of a column that does not vary is no variance.
        varying = variance > 1e-20 * np.maximum(shift**2, np.finfo(float).tiny)
        scale[varying] = np.sqrt(variance[varying])
        covariance[~varying], covariance[:, ~varying] = 0, 0
        covariance /= np.outer(scale, scale)
    sizes, vectors = eigh(covariance, subset_by_index=(c - k, c - 1))
    axes = vectors.T[::-1]
    axes = axes * np.sign(axes[np.arange(k), np.abs(axes).argmax(axis=1)])[:, None]
    total = float(np.trace(covariance))
    shares = np.maximum(sizes[::-1], 0) / total if total > 0 else np.zeros(k)
    return Components(shift + sums / n, scale, axes, shares)


def component_scores(
    components: Components, X: pd.DataFrame | ArrayLike, rows: Any = None
) -> Floats:
    """Scores of images on principal components, computed in blocks of rows.

    Parameters
    ----------
    components : Components
        From `principal_components`.
    X : DataFrame or array_like of shape (n, c)
        The columns that the components were made from.
    rows : array_like, optional
        Row numbers, or a mask, of the images; all by default.

    Returns
    -------
    ndarray of shape (m, k)
    """
    values = np.asarray(X)
    places = None if rows is None else row_numbers(rows, len(values))
    n = len(values) if places is None else len(places)
    scores = np.empty((n, len(components.axes)))
    turn = components.axes.T / components.scale[:, None]
    for part in pieces(n, values.shape[1]):
        block = double_rows(values, part if places is None else places[part])
        scores[part] = (block - components.mean) @ turn
    return scores
