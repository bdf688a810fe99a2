"""Checks of what the functions of this room are given, and folds to tune with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from featlab.arguments import stratified_rows
from featlab.boxheads._targets import BoxedImages
from featlab.errors import FeatlabError
from featlab.heads._inputs import check_sides, group_codes

_FEWEST_FIT_ROWS = 10
_MOST_IMAGES = 10_000  # reduced maps of 7 x 7 cells take 25 kB an image
_FOLDS, _FOLDS_OF_MANY, _MANY = 5, 3, 1500


def checked_split(split: ArrayLike, n: int) -> np.ndarray:
    """The split as an array of str, its length and words checked."""
    sides = np.asarray(split).astype(str)
    if sides.shape != (n,):
        raise FeatlabError(f"split must have one entry per image ({n}), got shape {sides.shape}.")
    check_sides(sides)
    return sides


def sampled(
    images: BoxedImages, sides: np.ndarray, labels: np.ndarray, random_state: int
) -> BoxedImages:
    """The images; of very many to fit on, or to score on, a random sample by class."""
    own = sides[images.rows] == "test"
    kept = [
        places[stratified_rows(labels[images.rows[places]], _MOST_IMAGES, random_state)]
        for places in (np.flatnonzero(~own), np.flatnonzero(own))
    ]
    return images.some(np.sort(np.concatenate(kept)))


def fit_and_test(sides: np.ndarray, images: BoxedImages) -> tuple[np.ndarray, np.ndarray]:
    """Places in `images` of what is fitted on and of what is scored."""
    own = sides[images.rows]
    fit, test = np.flatnonzero(own != "test"), np.flatnonzero(own == "test")
    if len(fit) < _FEWEST_FIT_ROWS:
        raise FeatlabError(
            f"box heads need at least {_FEWEST_FIT_ROWS} train and confirm images with a box, "
            f"got {len(fit)}."
        )
    if not len(test):
        raise FeatlabError("no 'test' image has a box; there is nothing to score on.")
    return fit, test


def folds_of(groups: np.ndarray, random_state: int) -> np.ndarray:
    """Fold of every image; whole groups in one, all in one where there is a single group."""
    codes, _ = group_codes(groups, len(groups))
    units, place, counts = np.unique(codes, return_inverse=True, return_counts=True)
    wanted = _FOLDS if len(groups) <= _MANY else _FOLDS_OF_MANY
    wanted = min(wanted, len(units))
    order = np.random.default_rng(random_state).permutation(len(units))
    order = order[np.argsort(-counts[order], kind="stable")]
    fold, load = np.empty(len(units), dtype=np.intp), np.zeros(wanted)
    for unit in order:
        fold[unit] = load.argmin()
        load[fold[unit]] += counts[unit]
    return fold[place]


def checked_heads(heads: Sequence[str], known: Sequence[str]) -> list[str]:
    """The heads asked for, each once; a FeatlabError for an unknown one."""
    names = [heads] if isinstance(heads, str) else list(dict.fromkeys(heads))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise FeatlabError(f"heads must be from {list(known)}, got {unknown[0]!r}.")
    return names
