"""Which train rows the weights are fitted on, and which decide when to stop."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featlab.errors import FeatlabError

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


def validation_part(
    images: pd.DataFrame, codes: Ints, train: Ints, share: float, random_state: int
) -> tuple[Ints, Ints]:
    """Divide the train rows, stratified by class; a group or the copies of a file stay together.

    Parameters
    ----------
    images : DataFrame
        Image table.
    codes : ndarray of shape (n,)
        Class code of every image.
    train : ndarray of int
        The train rows.
    share : float
        Of the train rows that are put aside, above 0, at most 0.5.
    random_state : int
        Seed.

    Returns
    -------
    fit, validation : ndarrays of int
        Row numbers; every class is in `fit`.

    Raises
    ------
    FeatlabError
        A share out of range, or too few images or groups in train to put some aside.
    """
    from featlab.heads.training import stratified_folds

    if not 0 < share <= 0.5:
        raise FeatlabError(f"validation must be above 0 and at most 0.5, got {share!r}.")
    y, units = codes[train], _units(images.iloc[train])
    per_class = [len(np.unique(units[y == code])) for code in np.unique(y)]
    n_folds = min(round(1 / share), max(per_class))
    if n_folds > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class with fewer units than folds
            divided = stratified_folds(y, units, n_folds, random_state)
        for fit, held in divided:
            if len(np.unique(y[fit])) == len(per_class):
                return train[fit], train[held]
    raise FeatlabError(
        f"train has too few images or groups ({len(train)} images, {len(np.unique(units))} "
        "independent units) to put some aside that decide when to stop: add images."
    )


def _units(images: pd.DataFrame) -> NDArray[np.str_]:
    """What must not be divided: the group, else the file's digest, which its copies share."""
    group, digest = images["group"].to_numpy(str), images["sha256"].to_numpy(str)
    return np.where(group != "", np.char.add("group ", group), np.char.add("file ", digest))


def class_weights(codes: Ints, n_classes: int, kind: str | None) -> Floats:
    """Weight of an image of each class: 1, or "balanced": n / (classes x images of the class)."""
    if kind is None:
        return np.ones(n_classes)
    counts = np.bincount(codes, minlength=n_classes)
    return len(codes) / (n_classes * counts)
