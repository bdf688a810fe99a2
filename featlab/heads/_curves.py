"""How many images a head needs: its accuracy against the images it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.heads._inputs import (
    Ints,
    check_at_least,
    check_choice,
    checked_sizes,
    clusters_of,
    group_codes,
    train_and_test,
)
from featlab.heads._models import HEADS, fit_head
from featlab.heads._scores import (
    Counts,
    bootstrap_weights,
    interval_name,
    percentiles,
    share_interval,
    warn_of_few_groups,
    weighted_means,
)
from featlab.heads._training import Train, predictions
from featlab.system.scratch import double_rows

_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def learning_curve(
    X: pd.DataFrame | ArrayLike,
    y: ArrayLike,
    split: ArrayLike,
    *,
    sizes: Sequence[int] | None = None,
    n_repeats: int = 5,
    head: str = "logistic",
    groups: ArrayLike | None = None,
    n_boot: int = 1000,
    random_state: int = 0,
) -> pd.DataFrame:
    """Accuracy on the test rows against the number of train images per class.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features; finite.
    y, split : array_like of shape (n,)
        Labels; ``train``, ``confirm`` or ``test``.
    sizes : sequence of int, optional
        Images per class; a class that has fewer gives all it has. Default 1, 2, 5, 10, 20, 50, …
        below the size of the largest class in train, and that size.
    n_repeats : int
        Random choices of train images per size, at least 1.
    head : str
        From :data:`HEADS`; tuned anew on every choice.
    groups : array_like of shape (n,), optional
        Images of one non-empty group are added together, one group after another (the last one
        in part), and are resampled together.
    n_boot, random_state : int
        Resamples and seed.

    Returns
    -------
    DataFrame, one row per size
        ``head``, ``size`` (images per class), ``n_train`` (images in all), ``n_repeats``, ``n``
        (test images), ``accuracy`` (mean over the repeats) with ``accuracy_low`` and
        ``accuracy_high`` (95 %), ``accuracy_sd`` (over the repeats; NaN for one), ``interval``.

    Raises
    ------
    FeatlabError
        As :func:`evaluate_heads`; sizes that are not whole numbers from 1 up.

    Notes
    -----
    Of more than 50,000 train images a random 50,000 stand for all, as in :func:`evaluate_heads`.
    Within a repeat, a larger choice holds the smaller ones. The interval resamples the repeats and
    the test images (or their groups) together, so it covers which images were trained on and which
    were tested on. Where all train images are chosen there is one repeat only, and its interval is
    that of :func:`evaluate_heads`.
    """
    values, codes, classes, train, test = train_and_test(X, y, split, random_state)
    check_choice("head", head, HEADS)
    check_at_least("n_repeats", n_repeats, 1)
    every_group, grouped = group_codes(groups, len(codes))
    clusters = clusters_of(every_group[test])
    warn_of_few_groups(clusters)
    largest = int(np.bincount(codes[train]).max())
    wanted = checked_sizes("sizes", sizes, [*(k for k in _SIZES if k < largest), largest])
    weights = bootstrap_weights(len(test), n_boot, random_state, clusters)
    rows = []
    for size in wanted:
        n_choices = 1 if size >= largest else n_repeats
        right = np.empty((n_choices, len(test)), dtype=bool)
        for repeat in range(n_choices):
            rng = np.random.default_rng([random_state, repeat])
            chosen = train[_nested_choice(codes[train], every_group[train], size, rng)]
            part = Train(
                double_rows(values, chosen), codes[chosen], classes, every_group[chosen], grouped,
                random_state,
            )  # fmt: skip
            model, _ = fit_head(head, part)
            right[repeat] = predictions(model, values, test) == classes[codes[test]]
        rows.append(
            {
                "head": head, "size": size, "n_train": len(chosen), "n_repeats": n_choices,
                "n": len(test), **_mean_accuracy(right, weights, clusters, random_state),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _nested_choice(codes: Ints, groups: Ints, size: int, rng: np.random.Generator) -> NDArray[Any]:
    """`size` random rows of every class, group by group; the same draws for every size."""
    ranks = rng.permutation(int(groups.max()) + 1)[groups]
    order = np.lexsort((rng.random(len(codes)), ranks))
    chosen = [order[codes[order] == code][:size] for code in np.unique(codes)]
    return np.sort(np.concatenate(chosen))


def _mean_accuracy(
    right: NDArray[np.bool_], weights: Counts, clusters: Ints | None, random_state: int
) -> dict[str, Any]:
    """Mean accuracy of (repeats, test images), and its interval from resampling both."""
    n_repeats = len(right)
    if n_repeats == 1 or right.all():
        low, high = share_interval(right[0], clusters, weights)
        name, sd = interval_name(right[0], clusters), 0.0 if n_repeats > 1 else np.nan
    else:
        rng = np.random.default_rng(random_state)
        shares = np.full(n_repeats, 1 / n_repeats)
        drawn = rng.multinomial(n_repeats, shares, size=len(weights) - 1) / n_repeats
        each = weighted_means(weights, right.T)[1:]
        low, high = percentiles((each * drawn).sum(axis=1))
        name, sd = "bootstrap of repeats and images", float(right.mean(axis=1).std(ddof=1))
        if clusters is not None:
            name = f"bootstrap of repeats and {int(clusters.max()) + 1} groups"
    return {
        "accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high,
        "accuracy_sd": sd, "interval": name,
    }  # fmt: skip
