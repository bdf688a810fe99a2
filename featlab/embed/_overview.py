"""All of the room for one set, as a report shows it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import stratified_rows
from featlab.embed._neighbours import (
    checked_labels,
    class_separation,
    misclassified,
    nearest_neighbours,
)
from featlab.embed._planes import MOST_IMAGES, checked_features, lay_out
from featlab.results.embed import Overview

_NEIGHBOURS = 10


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
        With 10 neighbours of every image, or all others where there are fewer. Of more than 10,000
        images a random 10,000 are looked at, each class in its share but at least 50; row numbers
        stay those of `X`, and the components those of all images.
    """
    values = checked_features(X)
    names = checked_labels(labels, len(values))
    rows = stratified_rows(names, MOST_IMAGES, random_state)
    embedding = lay_out(values, rows, random_state=random_state)
    k = min(_NEIGHBOURS, len(rows) - 1)
    part, names = (values, names) if len(rows) == len(values) else (values[rows], names[rows])
    wrong = None
    if predictions is not None:
        known = predictions[predictions["row"].isin(rows)]
        known = known.assign(row=np.searchsorted(rows, known["row"]))
        wrong = _of_rows(misclassified(part, names, known, k), rows)
    return Overview(
        embedding=embedding,
        separation=class_separation(part, names, k),
        neighbours=_of_rows(nearest_neighbours(part, range(len(part)), k, labels=names), rows),
        misclassified=wrong,
    )


def _of_rows(table: pd.DataFrame, rows: NDArray[np.intp]) -> pd.DataFrame:
    """With places among the chosen rows turned back into row numbers."""
    places = [name for name in ("row", "neighbour", "nearest") if name in table]
    return table.assign(**{name: rows[table[name].to_numpy(np.intp)] for name in places})
