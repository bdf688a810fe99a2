"""Which neurons a head needs: taking them away, leaving only them, the fewest that do."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import neuron_ids
from featlab.errors import FeatlabError
from featlab.heads._inputs import (
    Floats,
    Ints,
    check_at_least,
    check_choice,
    checked_sizes,
    clusters_of,
    columns_of,
    group_codes,
    train_and_test,
)
from featlab.heads._logistic import C_GRID, fit_logistic, linear_weights, logistic
from featlab.heads._scores import bootstrap_weights, share_interval, warn_of_few_groups
from featlab.heads._training import (
    Train,
    fit_quietly,
    folds_of,
    log_losses,
    one_thread,
    rotated,
    scaled_fold,
)
from featlab.results.heads import SmallestSet
from featlab.system.scratch import double_rows, pieces

_MODES = ("ablate", "keep")
_KS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_NEAREST = 10  # neurons of like variance that a random one is drawn from


def ablation_curve(
    X: pd.DataFrame | ArrayLike,
    y: ArrayLike,
    split: ArrayLike,
    order: Iterable[Hashable],
    *,
    mode: str = "ablate",
    ks: Sequence[int] | None = None,
    n_random: int = 20,
    groups: ArrayLike | None = None,
    n_boot: int = 1000,
    random_state: int = 0,
) -> pd.DataFrame:
    """Does the head need these neurons: its accuracy without them, or with nothing else.

    The logistic head is fitted once, on train. On the test rows the first k neurons of `order` are
    then set to their mean over train (``ablate``), or all the others are (``keep``). Beside it
    stands the same with random neurons of like variance.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features; finite.
    y, split : array_like of shape (n,)
        Labels; ``train``, ``confirm`` or ``test``.
    order : iterable
        Neuron ids (column names of a DataFrame, else column numbers), best first; repeated ones
        count once. For instance ``ranked.query("detector").sort_values("rank")["neuron"]``.
    mode : {"ablate", "keep"}
    ks : sequence of int, optional
        Numbers of neurons, from 1 to the length of `order`; default 1, 2, 5, 10, … and the length.
        0 is always there.
    n_random : int
        Random sets of neurons, at least 1.
    groups : array_like of shape (n,), optional
        Stay together in the folds that tune C, and are resampled together.
    n_boot, random_state : int
        Resamples of groups, where there are any; seed.

    Returns
    -------
    DataFrame, one row per kind and k
        ``mode``; ``kind``, "detectors" (those of `order`) or "random"; ``k``; ``n`` (test images);
        ``accuracy``; ``low`` and ``high``: for the detectors a 95 % interval over test images
        (Wilson, or whole groups resampled), for the random sets the 2.5 and 97.5 % points of the
        `n_random` draws around their mean.

    Raises
    ------
    FeatlabError
        As :func:`evaluate_heads`; an unknown mode or neuron; ks out of range; too few other
        neurons to draw as many random ones.

    Notes
    -----
    Of more than 50,000 train images a random 50,000 stand for all, as in :func:`evaluate_heads`.
    A neuron's partner is drawn from the 10 neurons outside `order` nearest to it in variance over
    train (logarithm) that are not taken yet. Neurons that are constant on train are no partners.
    The head is not fitted anew: neurons whose loss costs nothing may be replaceable, not idle, and
    with few neurons kept its intercept, tuned to all of them, may give every image to one class
    (:func:`smallest_set` fits anew).
    """
    values, codes, classes, train, test = train_and_test(X, y, split, random_state)
    check_choice("mode", mode, _MODES)
    check_at_least("n_random", n_random, 1)
    columns = columns_of(X, order)
    numbers = [0, *checked_sizes("ks", ks, _default_ks(len(columns)))]
    if numbers[-1] > len(columns):
        raise FeatlabError(f"ks must be at most the {len(columns)} neurons of order, got {ks}.")
    every_group, grouped = group_codes(groups, len(codes))
    clusters = clusters_of(every_group[test])
    warn_of_few_groups(clusters)
    part = Train(
        double_rows(values, train), codes[train], classes, every_group[train], grouped, random_state
    )
    with one_thread(part.X.size):
        model, _ = fit_logistic(part)
    coef, intercept = linear_weights(model)
    mean = part.X.mean(axis=0)
    base = mean @ coef.T + intercept
    rng = np.random.default_rng(random_state)
    partners = _Partners(part.X.var(axis=0), columns[: numbers[-1]])
    draws = [partners.draw(rng) for _ in range(n_random)]
    sets = [[some[:k] for some in (columns, *draws)] for k in numbers]
    hits = np.empty((len(numbers), 1 + n_random, len(test)), dtype=bool)
    for piece in pieces(len(test), values.shape[1]):
        away = double_rows(values, test[piece]) - mean  # a neuron at its training mean adds nothing
        for place, alike in enumerate(sets):
            for draw, some in enumerate(alike):
                called = _called(away, coef, base, some, mode)
                hits[place, draw, piece] = called == codes[test[piece]]
    weights = bootstrap_weights(len(test), n_boot, random_state, clusters)
    rows = []
    for k, (right, *others) in zip(numbers, hits, strict=True):
        low, high = share_interval(right, clusters, weights)
        common = {"mode": mode, "k": k, "n": len(test)}
        rows.append(
            {**common, "kind": "detectors", "accuracy": right.mean(), "low": low, "high": high}
        )
        scores = [other.mean() for other in others]
        low, high = np.quantile(scores, [0.025, 0.975])
        rows.append(
            {**common, "kind": "random", "accuracy": np.mean(scores), "low": low, "high": high}
        )
    table = pd.DataFrame(rows).sort_values(["kind", "k"], kind="stable", ignore_index=True)
    return table[["mode", "kind", "k", "n", "accuracy", "low", "high"]]


def smallest_set(
    X: pd.DataFrame | ArrayLike,
    y: ArrayLike,
    split: ArrayLike,
    order: Iterable[Hashable],
    *,
    ks: Sequence[int] | None = None,
    groups: ArrayLike | None = None,
    n_boot: int = 1000,
    random_state: int = 0,
) -> SmallestSet:
    """The fewest neurons, taken in `order`, that classify as well as the best number of them.

    A logistic regression on the first k neurons is cross-validated on the train rows for every k;
    the smallest k within one standard error of the best mean accuracy is taken, fitted on train and
    scored on test.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features; finite.
    y, split : array_like of shape (n,)
        Labels; ``train``, ``confirm`` or ``test``.
    order : iterable
        Neuron ids (column names of a DataFrame, else column numbers), best first; repeated ones
        count once.
    ks : sequence of int, optional
        Numbers of neurons to try; default 1, 2, 5, 10, … and the length of `order`.
    groups : array_like of shape (n,), optional
        Stay together in the folds, and are resampled together.
    n_boot, random_state : int
        Resamples of groups, where there are any; seed.

    Returns
    -------
    SmallestSet

    Raises
    ------
    FeatlabError
        As :func:`evaluate_heads`; an unknown neuron; ks out of range; a class with a single image
        or group in train.

    Notes
    -----
    `order` was most likely made from the train rows, all of them; then the accuracies of ``curve``
    are too high (they serve to compare numbers of neurons only), and those on test are not.
    C is the one of the least log-loss over the same folds. Of more than 50,000 train images a
    random 50,000 stand for all, as in :func:`evaluate_heads`.

    References
    ----------
    Breiman, Friedman, Olshen & Stone (1984). Classification and regression trees, section 3.4.3
    (the rule of one standard error).
    """
    values, codes, classes, train, test = train_and_test(X, y, split, random_state)
    columns = columns_of(X, order)
    numbers = checked_sizes("ks", ks, _default_ks(len(columns)))
    if numbers[-1] > len(columns):
        raise FeatlabError(f"ks must be at most the {len(columns)} neurons of order, got {ks}.")
    every_group, grouped = group_codes(groups, len(codes))
    clusters = clusters_of(every_group[test])
    warn_of_few_groups(clusters)

    def part(k: int) -> Train:
        X_k = _columns_of(values, train, columns[:k])
        return Train(X_k, codes[train], classes, every_group[train], grouped, random_state)

    with one_thread(len(train) * values.shape[1]):
        curve = pd.DataFrame([_validated(part(k), k) for k in numbers])
        best = curve.iloc[int(curve["accuracy"].to_numpy().argmax())]
        enough = curve["accuracy"] >= best["accuracy"] - best["se"]
        chosen = int(curve.loc[enough, "k"].min())
        right = {
            k: _test_hits(part(k), _columns_of(values, test, columns[:k]), codes[test])
            for k in (chosen, len(columns))
        }
    weights = bootstrap_weights(len(test), n_boot, random_state, clusters)
    low, high = share_interval(right[chosen], clusters, weights)
    names = neuron_ids(X).tolist()
    return SmallestSet(
        neurons=[names[column] for column in columns[:chosen]],
        curve=curve.assign(chosen=curve["k"] == chosen),
        accuracy=float(right[chosen].mean()),
        accuracy_low=low,
        accuracy_high=high,
        accuracy_all=float(right[len(columns)].mean()),
        n=len(test),
    )


def _columns_of(values: NDArray[np.floating], rows: Ints, columns: Ints) -> Floats:
    """Some rows of some columns in double precision, read column by column."""
    return np.stack([values[rows, column].astype(np.float64) for column in columns], axis=1)


def _default_ks(most: int) -> list[int]:
    return [*(k for k in _KS if k < most), most]


def _called(away: Floats, coef: Floats, base: Floats, columns: Ints, mode: str) -> Ints:
    """Predicted class codes with `columns` at their mean, or all others."""
    known = away[:, columns] @ coef[:, columns].T
    scores = base + (known if mode == "keep" else away @ coef.T - known)
    return scores.argmax(axis=1)


class _Partners:
    """Draws, for every neuron of an order, another one of like variance."""

    def __init__(self, variance: Floats, columns: Ints) -> None:
        others = np.setdiff1d(np.flatnonzero(variance > 0), columns)
        if len(others) < len(columns):
            raise FeatlabError(
                f"ks must be at most {len(others)}, as many neurons as there are outside order and "
                f"not constant on train, got {len(columns)}."
            )
        sizes = np.log(np.maximum(variance, np.finfo(float).tiny))
        gaps = np.abs(sizes[columns][:, None] - sizes[others])
        self._nearest: NDArray[np.intp] = others[np.argsort(gaps, axis=1, kind="stable")]

    def draw(self, rng: np.random.Generator) -> Ints:
        """A partner of every neuron, each once."""
        taken: dict[int, None] = {}  # a set that keeps its order
        for row in self._nearest:
            near = row[: len(taken) + _NEAREST].tolist()
            free = [column for column in near if column not in taken]
            taken[int(rng.choice(free[:_NEAREST]))] = None
        return np.array(list(taken), dtype=np.intp)


def _validated(train: Train, k: int) -> dict[str, float]:
    """Cross-validated accuracy of the best C."""
    folds = folds_of(train)
    if len(folds) < 2:
        raise FeatlabError("A class has too few images or groups in train to cross-validate.")
    losses = np.zeros(len(C_GRID))
    hits = np.empty((len(C_GRID), len(folds)))
    for column, fold in enumerate(folds):
        X_fit, X_held = rotated(*scaled_fold(train, fold))
        model = logistic(C_GRID[0], warm_start=True)
        for place, C in enumerate(C_GRID):
            fit_quietly(model.set_params(C=C), X_fit, train.y[fold[0]])
            losses[place] += log_losses(model, X_held, train.y[fold[1]]).sum()
            hits[place, column] = (model.predict(X_held) == train.y[fold[1]]).mean()
    best = int(losses.argmin())
    return {
        "k": k,
        "accuracy": float(hits[best].mean()),
        "se": float(hits[best].std(ddof=1) / np.sqrt(len(folds))),
        "C": C_GRID[best],
    }


def _test_hits(train: Train, X: Floats, y: Ints) -> NDArray[np.bool_]:
    model, _ = fit_logistic(train)
    return model.predict(X) == train.classes[y]
