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
class Separation:
    """How far the classes lie apart in the original space.

    Attributes
    ----------
    table : DataFrame, one row per class
        ``class``, ``n``; ``silhouette``: mean over the images of (b - a) / max(a, b), -1 to 1, a
        being the mean cosine distance to the own class and b to the nearest other (0 for a class
        of one image); ``neighbour_agreement``: mean share of the k nearest that are of the class;
        ``chance``: what that share would be if neighbours were drawn at random. ``attrs`` repeats
        the numbers below for who reads the table alone.
    silhouette, neighbour_agreement : float
        Means over all images.
    k : int
        Neighbours of each image.
    n : int
        Images.
    """

    table: pd.DataFrame
    silhouette: float
    neighbour_agreement: float
    k: int
    n: int


@dataclass(frozen=True)
class Overview:
    """The set at a glance.

    Attributes
    ----------
    embedding : Embedding
    separation : Separation
        Of ``class_separation``.
    neighbours : DataFrame
        Of ``nearest_neighbours``, for every image.
    misclassified : DataFrame or None
        Of ``misclassified``; None where no predictions were given.
    """

    embedding: Embedding
    separation: Separation
    neighbours: pd.DataFrame
    misclassified: pd.DataFrame | None
