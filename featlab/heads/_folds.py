"""Folds for choosing and for judging: stratified by class, groups kept together."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from featlab.heads._inputs import Ints

Fold = tuple[Ints, Ints]


def stratified_folds(
    codes: Ints, groups: ArrayLike | None, n_folds: int, random_state: int
) -> list[Fold]:
    """Rows to fit on and rows held out, for each fold that can be used.

    Parameters
    ----------
    codes : ndarray of shape (n,)
        Class codes.
    groups : array-like of shape (n,), optional
        Rows of the same group are held out together.
    n_folds : int
    random_state : int
        Seed of the shuffle.

    Returns
    -------
    list of (ndarray, ndarray)
        Fewer than `n_folds` where a fold is empty, or leaves a single class to fit on.
    """
    if groups is None:
        kind = StratifiedKFold(n_folds, shuffle=True, random_state=random_state)
        divided = kind.split(codes, codes)
    else:
        # Not shuffle=True: before 1.8 scikit-learn shuffled the groups' counts but not the groups,
        # so that classes were spread at random.
        divided = StratifiedGroupKFold(n_folds).split(codes, codes, _shuffled(groups, random_state))
    return [(fit, held) for fit, held in divided if len(held) and len(np.unique(codes[fit])) > 1]


def _shuffled(groups: ArrayLike, random_state: int) -> NDArray[np.intp]:
    """Codes of the groups in a random order, the one in which scikit-learn 1.8 takes them."""
    names, codes = np.unique(groups, return_inverse=True)
    order = np.arange(len(names))
    np.random.RandomState(random_state).shuffle(order)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place[codes]
