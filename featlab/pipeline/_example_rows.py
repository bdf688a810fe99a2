"""Which images are shown as examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from featlab.results.heads import HeadResults
from featlab.results.localisation import Localisation


def sample_rows(images: pd.DataFrame, most: int = 12, random_state: int = 0) -> list[int]:
    """Rows of the image table to show as samples: at random, the classes in turn."""
    return _in_turn(images["label"].to_numpy(str), np.arange(len(images)), most, random_state)


def gallery_rows(
    images: pd.DataFrame,
    split: pd.Series,
    boxed: Sequence[int],
    most: int = 24,
    random_state: int = 0,
) -> list[int]:
    """Test rows to show in the gallery: at random, the classes in turn; with a box if any has one.

    Parameters
    ----------
    images : DataFrame
        Image table.
    split : Series of str
    boxed : sequence of int
        Rows with a true box.
    most : int
    random_state : int
        Seed of the choice.
    """
    test = np.flatnonzero(np.asarray(split, dtype=str) == "test")
    known = test[np.isin(test, np.asarray(boxed, dtype=int))]
    rows = known if len(known) else test
    return _in_turn(images["label"].to_numpy(str)[rows], rows, most, random_state)


def detector_rows(heads: HeadResults, most: int = 6, random_state: int = 0) -> list[int]:
    """Test rows to show detectors on: half of them images that the main head gets wrong.

    Fewer of those where there are fewer; right ones come first, and the classes take turns.
    """
    scored = heads.of(heads.main)
    rows, labels = scored["row"].to_numpy(int), scored["label"].to_numpy(str)
    correct = scored["correct"].to_numpy(bool)
    n_wrong = min(most // 2, int((~correct).sum()))
    right = _in_turn(labels[correct], rows[correct], most - n_wrong, random_state)
    return right + _in_turn(labels[~correct], rows[~correct], n_wrong, random_state)


def localisation_rows(localisation: Localisation, method: str, most: int = 6) -> list[int]:
    """Rows to show: a third each of the best, the median and the worst IoU, in that order."""
    rows = rows_by_iou(localisation, method)
    if len(rows) <= most:
        return rows
    third, middle = min(max(1, most // 3), most // 2), len(rows) // 2
    centre = range(middle - third // 2, middle - third // 2 + most - 2 * third)
    return rows[:third] + [rows[i] for i in centre] + rows[len(rows) - third :]


def rows_by_iou(localisation: Localisation, method: str) -> list[int]:
    """Scored rows of the image table, from a method's best box to its worst."""
    scored = localisation.per_image
    scored = scored[(scored["method"] == method) & scored["iou"].notna()]
    scored = scored.sort_values(["iou", "row"], ascending=[False, True])
    return [int(row) for row in scored["row"]]


def _in_turn(labels: np.ndarray, rows: np.ndarray, most: int, random_state: int) -> list[int]:
    order = np.random.default_rng(random_state).permutation(len(rows))
    table = pd.DataFrame({"label": labels[order], "row": rows[order]})
    table["turn"] = table.groupby("label").cumcount()
    first = table.sort_values(["turn", "label"], kind="stable")["row"].head(most)
    return [int(row) for row in first]
