"""How often a neuron is among the strongest of an image: frequency, not selectivity."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from featlab.errors import FeatlabError
from featlab.neurons._inputs import blocks_of, encode
from featlab.system.scratch import pieces


def softmax_top_k(X: pd.DataFrame | ArrayLike, y: ArrayLike, *, k: int = 3) -> pd.DataFrame:
    """How often each neuron is among an image's k largest softmax values, per class.

    Frequency is not selectivity: a neuron that fires everywhere leads every class's list. So the
    share in the rest and the difference stand beside the share.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Pooled activations, or their softmax: its order within an image is the same. Of equal
        values the lower column counts as the larger.
    y : array_like of shape (n,)
        Labels.
    k : int
        From 1 to c.

    Returns
    -------
    DataFrame, one row per class and neuron that is in the top k of an image of the class
        ``class``, ``neuron``, ``count`` (images), ``share`` of the class's images,
        ``share_rest`` of the others, ``difference``; by class, then the largest count first.

    Raises
    ------
    FeatlabError
        As `rank_neurons`, or `k` out of range.
    """
    block = blocks_of(X, y, "", "")[0]
    codes, classes = encode(y)
    n, c = block.activations.shape
    if not 1 <= k <= c:
        raise FeatlabError(f"k must be from 1 to {c}, the number of neurons, got {k}.")
    counts = np.zeros((len(classes), c), dtype=np.int64)
    for rows in pieces(n, c):
        top = np.argsort(-block.activations[rows], axis=1, kind="stable")[:, :k]
        np.add.at(counts, (codes[rows, None], top), 1)
    sizes = np.bincount(codes, minlength=len(classes))[:, None]
    share = counts / sizes
    with np.errstate(invalid="ignore"):
        share_rest = (counts.sum(axis=0) - counts) / (n - sizes)
    table = pd.DataFrame(
        {
            "class": np.repeat(classes, c),
            "neuron": np.tile(block.neurons, len(classes)),
            "count": counts.ravel(),
            "share": share.ravel(),
            "share_rest": share_rest.ravel(),
            "difference": (share - share_rest).ravel(),
        }
    )
    table = table[table["count"] > 0]
    order = ["class", "count", "neuron"]
    return table.sort_values(order, ascending=[True, False, True], ignore_index=True)
