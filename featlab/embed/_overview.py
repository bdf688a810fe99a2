"""All of the room for one set, as a report shows it."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from numpy.typing import ArrayLike

from featlab.embed._neighbours import class_separation, misclassified, nearest_neighbours
from featlab.embed._planes import Embedding, embed_images

_NEIGHBOURS = 10


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


def overview(
    X: pd.DataFrame | ArrayLike,
    labels: ArrayLike,
    predictions: pd.DataFrame | None = None,
    *,
    random_state: int = 0,
) -> Overview:
    """Embedding, separation, neighbours and misclassified images of a set.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features; at least five images.
    labels : array_like of shape (n,)
    predictions : DataFrame, optional
        ``row, label, predicted`` of one head.
    random_state : int
        Seed.

    Returns
    -------
    Overview
        With 10 neighbours of every image, or all others where there are fewer.
    """
    embedding = embed_images(X, random_state=random_state)
    n = len(embedding)
    k = min(_NEIGHBOURS, n - 1)
    return Overview(
        embedding=embedding,
        separation=class_separation(X, labels, k),
        neighbours=nearest_neighbours(X, range(n), k, labels=labels),
        misclassified=None if predictions is None else misclassified(X, labels, predictions, k),
    )
