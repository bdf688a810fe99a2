"""Which head, detectors, method and pictures a report shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from featlab.results.heads import HeadResults
from featlab.results.localisation import Localisation

BASELINE_HEADS = ("dummy", "colour_histogram")


def main_head(table: pd.DataFrame) -> str:
    """The head whose verdicts the page shows: the logistic one where it was fitted."""
    fitted = [str(head) for head in table["head"] if head not in BASELINE_HEADS]
    return "logistic" if "logistic" in fitted or not fitted else fitted[0]


def selected_detectors(neurons: pd.DataFrame) -> pd.DataFrame:
    """Detectors that are active for their class; the silent ones stand in the full table only."""
    # `== True` on purpose: NaN (not a detector) is neither an error nor True.
    return neurons[neurons["detector"].eq(True) & neurons["direction"].eq("active")]


def confirmed_detectors(neurons: pd.DataFrame) -> pd.DataFrame:
    """Detectors that held on unseen images, by class and the rank they were selected with.

    The order is the selection's, not the confirmation's: picking the best of the confirmed values
    would flatter them again.
    """
    chosen = selected_detectors(neurons)
    kept = chosen[chosen["replicated"].eq(True)]
    return kept.sort_values(["class", "rank"], kind="stable").reset_index(drop=True)


def best_method(
    table: pd.DataFrame, *, baseline: bool, supervision: str | None = None
) -> pd.Series | None:
    """The best row among the baselines or the map methods (of one kind of supervision).

    Best on the images that thresholds were chosen on, where that is known: picking the best on the
    scored images would flatter it.
    """
    rows = table[table["baseline"].astype(bool).eq(baseline) & table["box_accuracy"].notna()]
    if supervision is not None:
        rows = rows[rows["supervision"] == supervision]
    if rows.empty:
        return None
    tuned = rows.get("box_accuracy_confirm", pd.Series(np.nan, index=rows.index))
    # A baseline is a bar to pass, so the highest one on the scored images counts.
    by = rows["box_accuracy"] if baseline or tuned.isna().all() else tuned
    return rows.iloc[by.to_numpy(float).argmax()]


def choose_sample_rows(images: pd.DataFrame, n: int = 12, random_state: int = 0) -> list[int]:
    """Rows of the image table to show as samples: at random, the classes in turn."""
    return _in_turn(images["label"].to_numpy(str), np.arange(len(images)), n, random_state)


def choose_gallery_rows(
    images: pd.DataFrame, split: pd.Series, boxed: Sequence[int], n: int = 24, random_state: int = 0
) -> list[int]:
    """Test rows to show in the gallery: at random, the classes in turn; with a box if any has one.

    Parameters
    ----------
    images : DataFrame
        Image table.
    split : Series of str
    boxed : sequence of int
        Rows with a true box.
    n : int
    random_state : int
        Seed of the choice.
    """
    test = np.flatnonzero(np.asarray(split, dtype=str) == "test")
    known = test[np.isin(test, np.asarray(boxed, dtype=int))]
    rows = known if len(known) else test
    return _in_turn(images["label"].to_numpy(str)[rows], rows, n, random_state)


def choose_detector_rows(
    heads: HeadResults, n: int = 6, random_state: int = 0, *, head: str | None = None
) -> list[int]:
    """Test rows to show detectors on: half of them images that the head gets wrong, if there are.

    Parameters
    ----------
    heads : HeadResults
    n : int
        Number of rows.
    random_state : int
        Seed of the choice.
    head : str, optional
        By default the logistic one.

    Returns
    -------
    list of int
        Row numbers in the image table, right ones first; the classes take turns.
    """
    predictions = heads.predictions
    scored = predictions[predictions["head"] == (head or main_head(heads.table))]
    rows, labels = scored["row"].to_numpy(int), scored["label"].to_numpy(str)
    correct = scored["correct"].to_numpy(bool)
    n_wrong = min(n // 2, int((~correct).sum()))
    right = _in_turn(labels[correct], rows[correct], n - n_wrong, random_state)
    return right + _in_turn(labels[~correct], rows[~correct], n_wrong, random_state)


def choose_localisation_rows(
    localisation: Localisation, n: int = 6, method: str | None = None
) -> list[int]:
    """Rows to show: a third each of the best, the median and the worst IoU, in that order.

    Parameters
    ----------
    localisation : Localisation
    n : int
    method : str, optional
        By default the map method of the highest box accuracy.
    """
    if method is None:
        best = best_method(localisation.table, baseline=False)
        if best is None:
            return []
        method = str(best["method"])
    rows = rows_by_iou(localisation, method)
    if len(rows) <= n:
        return rows
    third, middle = max(1, n // 3), len(rows) // 2
    centre = range(middle - third // 2, middle - third // 2 + n - 2 * third)
    return rows[:third] + [rows[i] for i in centre] + rows[-third:]


def rows_by_iou(localisation: Localisation, method: str) -> list[int]:
    """Scored rows of the image table, from a method's best box to its worst."""
    scored = localisation.per_image
    scored = scored[(scored["method"] == method) & scored["iou"].notna()]
    scored = scored.sort_values(["iou", "row"], ascending=[False, True])
    return [int(row) for row in scored["row"]]


def _in_turn(labels: np.ndarray, rows: np.ndarray, n: int, random_state: int) -> list[int]:
    order = np.random.default_rng(random_state).permutation(len(rows))
    table = pd.DataFrame({"label": labels[order], "row": rows[order]})
    table["turn"] = table.groupby("label").cumcount()
    chosen = table.sort_values(["turn", "label"], kind="stable")["row"].head(n)
    return [int(row) for row in chosen]
