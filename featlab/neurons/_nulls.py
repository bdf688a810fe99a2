"""The whole procedure on labels that mean nothing: what it finds then is false."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from featlab.features import take_rows
from featlab.neurons._confirming import confirm_neurons
from featlab.neurons._corrections import permuted_codes
from featlab.neurons._inputs import Features, encode, group_names
from featlab.neurons._ranking import rank_neurons


def null_selection(
    X: Features,
    y: ArrayLike,
    split: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_repeats: int = 20,
    random_state: int = 0,
    **parameters: Any,
) -> pd.DataFrame:
    """Select and confirm on shuffled labels, over and over.

    The labels are shuffled on each side of the split by itself (whole groups, or within groups, as
    in "max_t"), so that selection and confirmation both run on labels that have nothing to do with
    the pictures, and every class keeps its number of images, or groups, on both.

    Parameters
    ----------
    X, y
        As in `rank_neurons`, for all images.
    split : array_like of shape (n,)
        "train", "confirm" or "test"; selection uses train, confirmation confirm.
    groups : array_like of shape (n,), optional
        Images of one non-empty group are not exchangeable.
    n_repeats : int
        Number of shuffles.
    random_state : int
        Seed.
    **parameters
        Of `rank_neurons`, as in the real run.

    Returns
    -------
    DataFrame
        One row per shuffle: repeat, rejected (rows of the table with a corrected p of at most
        alpha), selected, replicated, best_selected and best_confirmed (the largest distance of an
        AUROC from 0.5 among all neurons on train, and that neuron's on confirm).

    Raises
    ------
    FeatlabError
        As for `rank_neurons`.
    """
    codes, classes = encode(y)
    sides = np.asarray(split).astype(str)
    tables = list(X) if isinstance(X, (list, tuple)) else [X]
    frames = [t if isinstance(t, pd.DataFrame) else pd.DataFrame(np.asarray(t)) for t in tables]
    train, confirm = np.flatnonzero(sides == "train"), np.flatnonzero(sides == "confirm")
    names = group_names(groups, len(codes))
    shuffles = np.tile(codes, (n_repeats, 1))
    for place, side in enumerate((train, confirm)):
        seed = random_state * 2 + place
        shuffles[:, side], _ = permuted_codes(codes[side], names[side], n_repeats, seed)
    sides_of = [[take_rows(frame, part) for frame in frames] for part in (train, confirm)]
    rows = []
    for repeat, shuffled in enumerate(shuffles):
        labels = np.asarray(classes, dtype=object)[shuffled]
        table = rank_neurons(sides_of[0], labels[train], groups=names[train], **parameters)
        table = confirm_neurons(table, sides_of[1], labels[confirm], groups=names[confirm])
        # The best neuron of all, whether or not it was selected, shows the regression to chance.
        place = int(np.nanargmax(table["effect"].abs()))
        strongest = table.assign(detector=np.arange(len(table)) == place)
        best = confirm_neurons(strongest, sides_of[1], labels[confirm]).iloc[place]
        sign = np.sign(best["auroc"] - 0.5)
        rows.append(
            {
                "repeat": repeat,
                "rejected": int(table["reject"].sum()),
                "selected": int(table["detector"].sum()),
                "replicated": int(table["replicated"].sum()),
                "best_selected": sign * (best["auroc"] - 0.5),
                "best_confirmed": sign * (best["auroc_confirmed"] - 0.5),
            }
        )
    return pd.DataFrame(rows)
