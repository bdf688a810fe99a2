"""Which boxes are the truth, and which images are scored, tuned on and learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError
from featlab.localise.thresholds import FIXED_THRESHOLD

if TYPE_CHECKING:
    from featlab.store import MapStore

_FEWEST_TUNING_ROWS = 10


@dataclass(frozen=True)
class Truth:
    """The rows scored, the rows thresholds are chosen on, and the boxes of all.

    `n_without_given` counts the confirm and test images that a given method does not know.
    """

    boxes: pd.DataFrame
    scored: np.ndarray
    tuning: np.ndarray
    tuned_on: str
    train: np.ndarray
    n_without_given: int


def select_boxes(store: MapStore, box_kind: str | None) -> pd.DataFrame:
    """The boxes of one kind, without those that name another class than their image's.

    Raises
    ------
    FeatlabError
        As for :func:`boxes_of_kind`.
    """
    table = boxes_of_kind(store.boxes, box_kind)
    own = store.images["label"].to_numpy()[table["image"].to_numpy(np.int64)]
    other = table["label"].isin(store.classes).to_numpy() & (table["label"].to_numpy() != own)
    return table[~other].reset_index(drop=True)


def boxes_of_kind(table: pd.DataFrame, box_kind: str | None) -> pd.DataFrame:
    """The rows of a box table that are of one kind.

    Raises
    ------
    FeatlabError
        There are several kinds and none was chosen, or the kind is unknown.
    """
    kinds = sorted(table["kind"].astype(str).unique())
    if box_kind is None and len(kinds) > 1:
        raise FeatlabError(
            f"the boxes are of several kinds ({', '.join(kinds)}); choose one with --box-kind "
            "(box_kind=)."
        )
    if box_kind is not None and kinds:
        if box_kind not in kinds:
            raise FeatlabError(
                f"box_kind must be one of {', '.join(kinds)}, got {box_kind!r}; see --box-kind."
            )
        table = table[table["kind"] == box_kind]
    return table


def find_truth(
    store: MapStore,
    split: np.ndarray,
    box_kind: str | None,
    *,
    use: np.ndarray,
    known: np.ndarray,
) -> Truth:
    """The images with boxes, by their part of the split; thresholds need ten of them.

    Only images in `use` and `known` ``(n,)`` bool, which every given method knows, are scored and
    tuned on; all of train is learnt from.

    Raises
    ------
    FeatlabError
        As for :func:`boxes_of_kind`.
    """
    table = select_boxes(store, box_kind)
    with_boxes = np.zeros(len(split), dtype=bool)
    with_boxes[table["image"].to_numpy(np.int64)] = True
    with_boxes &= use
    unknown = int((with_boxes & ~known & (split != "train")).sum())
    with_boxes &= known
    tuning, tuned_on = np.flatnonzero(with_boxes & (split == "confirm")), "confirm"
    if len(tuning) < _FEWEST_TUNING_ROWS:
        tuning, tuned_on = np.flatnonzero(with_boxes & (split != "test")), "train + confirm"
    if not len(tuning):
        tuned_on = f"fixed at {FIXED_THRESHOLD}"
    scored = np.flatnonzero(with_boxes & (split == "test"))
    return Truth(table, scored, tuning, tuned_on, split == "train", unknown)
