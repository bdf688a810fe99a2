"""The images on a plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Components:
    """The leading principal components of n rows.

    Attributes
    ----------
    mean, scale : ndarray of shape (c,)
        What is subtracted from each column, and what it is divided by.
    axes : ndarray of shape (k, c)
        Unit vectors, the first of the largest variance; the largest entry of each is positive.
    shares : ndarray of shape (k,)
        Of the whole variance, in [0, 1].
    """

    mean: Floats
    scale: Floats
    axes: Floats
    shares: Floats


@dataclass(frozen=True)
class Embedding:
    """The images on two planes.

    Attributes
    ----------
    coordinates : DataFrame of shape (m, 4)
        ``pc1, pc2`` (in units of the features) and ``tsne_1, tsne_2`` (without a unit); the index
        holds the row numbers of the images laid out, which are all where there are no more than
        10,000.
    explained_variance : ndarray of shape (k,)
        Share of the features' whole variance that each of the k components kept has.
    perplexity : float
        Of the t-SNE.
    trustworthiness : dict of str to float
        ``"tsne"`` and ``"pca"``: how far the neighbours on that plane are neighbours in the
        original space too; 1 is perfect, about 0.5 is chance.
    n_neighbors : int
        Neighbours that the trustworthiness looks at.
    thumbnails : DataFrame
        ``row, x, y``: images to show as thumbnails on the t-SNE plane, one per cell of a square
        grid, and the centres of their cells.
    cell_side : float
        Side of a cell of that grid, in units of the plane.
    parameters : dict of str to object
        What made the embedding.
    """

    coordinates: pd.DataFrame
    explained_variance: Floats
    perplexity: float
    trustworthiness: dict[str, float]
    n_neighbors: int
    thumbnails: pd.DataFrame
    cell_side: float
    parameters: dict[str, Any]

    def __len__(self) -> int:
        return len(self.coordinates)


@dataclass(frozen=True)
class Overview:
    """The set at a glance.

    Attributes
    ----------
    embedding : Embedding
    separation : DataFrame
        Of :func:`class_separation`.
    neighbours : DataFrame
        Of :func:`nearest_neighbours`, for every image.
    misclassified : DataFrame or None
        Of :func:`misclassified`; None where no predictions were given.
    """

    embedding: Embedding
    separation: pd.DataFrame
    neighbours: pd.DataFrame
    misclassified: pd.DataFrame | None
