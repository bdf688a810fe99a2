"""What a head needs: how many images, and which neurons."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import (
    check_choice,
    check_whole,
    finite_matrix,
    neuron_ids,
    said,
    whole_numbers,
)
from featlab.errors import FeatlabError
from featlab.heads.models import HEADS, fit_head, predictions
from featlab.heads.scores import share_interval
from featlab.heads.training import (
    C_GRID,
    Floats,
    Fold,
    Ints,
    Train,
    fit_logistic,
    fit_quietly,
    folds_of,
    images_of,
    linear_weights,
    log_losses,
    logistic,
    quick_fits,
    rotated,
    scaled,
    scaled_fold,
    sides_of,
)
from featlab.intervals import interval_name, mean_interval
from featlab.results.analysis import SmallestSet
from featlab.system.machine import double_rows, pieces

_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_MODES = ("ablate", "keep")
_NUMBERS = (*_SIZES, 2000, 5000)
_NEAREST = 10  # neurons of like variance that a random one is drawn from


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
        As in :func:`evaluate_heads`; tuned anew on every choice.
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
    Within a repeat, a larger choice holds the smaller ones. The interval is over test images (or
    their groups), for the mean of these choices of train images; ``accuracy_sd`` says how far the
    choices lie apart. Where all train images are chosen there is one repeat only, and its interval
    is that of :func:`evaluate_heads`.
    """
    images = images_of(X, y, groups, split=split)
    values = finite_matrix(X)
    check_choice("head", head, HEADS)
    check_whole("n_repeats", n_repeats, 1)
    sides = sides_of(split, images, random_state)
    train, test, clusters = sides.fitted, sides.test, sides.clusters
    largest = int(np.bincount(images.y[train]).max())
    asked = _sorted_sizes(sizes, _SIZES, largest)
    draw = {"n_boot": n_boot, "random_state": random_state}
    truth = images.classes[images.y[test]]
    rows = []
    # Images on their own are numbered after n: a seed chooses what it chose in earlier versions.
    units = images.groups if images.grouped else len(values) + images.groups
    for size in asked:
        n_choices = 1 if size >= largest else n_repeats
        right = np.empty((n_choices, len(test)), dtype=bool)
        for repeat in range(n_choices):
            rng = np.random.default_rng([random_state, repeat])
            some = train[_nested_choice(images.y[train], units[train], size, rng)]
            model, _ = fit_head(head, images.train(double_rows(values, some), some, random_state))
            right[repeat] = predictions(model, values, test) == truth
        rows.append(
            {
                "head": head, "size": size, "n_train": len(some), "n_repeats": n_choices,
                "n": len(test), **_mean_accuracy(right, clusters, **draw),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _nested_choice(codes: Ints, groups: Ints, size: int, rng: np.random.Generator) -> NDArray[Any]:
    """`size` random rows of every class, group by group; the same draws for every size."""
    ranks = rng.permutation(int(groups.max()) + 1)[groups]
    order = np.lexsort((rng.random(len(codes)), ranks))
    some = [order[codes[order] == code][:size] for code in np.unique(codes)]
    return np.sort(np.concatenate(some))


def _mean_accuracy(right: NDArray[np.bool_], clusters: Ints | None, **draw: Any) -> dict[str, Any]:
    """Mean accuracy of (repeats, test images), and its interval over the test images."""
    each = right.mean(axis=1)
    low, high = mean_interval(right.mean(axis=0), groups=clusters, **draw)
    return {
        "accuracy": float(each.mean()), "accuracy_low": low, "accuracy_high": high,
        "accuracy_sd": float(each.std(ddof=1)) if len(each) > 1 else np.nan,
        "interval": interval_name(clusters),
    }  # fmt: skip


def ablation_curve(
    X: pd.DataFrame | ArrayLike,
    y: ArrayLike,
    split: ArrayLike,
    order: Iterable[Hashable],
    *,
    mode: str | list[str] | tuple[str, ...] = "ablate",
    sizes: Sequence[int] | None = None,
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
    mode : {"ablate", "keep"}, or a list of them, for which the head is fitted once
    sizes : sequence of int, optional
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
    DataFrame, one row per mode, kind and k
        ``mode``; ``kind``, "detectors" (those of `order`) or "random"; ``k``; ``n`` (test images);
        ``accuracy``; ``low`` and ``high``: for the detectors a 95 % interval over test images
        (or over their groups), for the random sets the 2.5 and 97.5 % points of the
        `n_random` draws around their mean.

    Raises
    ------
    FeatlabError
        As :func:`evaluate_heads`; an unknown mode or neuron; sizes out of range; too few other
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
    images = images_of(X, y, groups, split=split)
    values = finite_matrix(X)
    modes: list[Any] = list(mode) if isinstance(mode, (list, tuple)) else [mode]
    for one in modes or [mode]:
        check_choice("mode", one, _MODES)
    check_whole("n_random", n_random, 1)
    columns = _columns_of_order(X, order)
    numbers = [0, *_numbers_of_neurons(sizes, len(columns))]
    sides = sides_of(split, images, random_state)
    test, truth = sides.test, images.y[sides.test]
    train = images.train(double_rows(values, sides.fitted), sides.fitted, random_state)
    with quick_fits(train.X.size):
        model, _ = fit_logistic(train)
    rng = np.random.default_rng(random_state)
    partners = _Partners(train.X.var(axis=0), columns[: numbers[-1]])
    orders = [columns, *(partners.draw(rng) for _ in range(n_random))]
    ablation = _Ablation(*linear_weights(model), mean=train.X.mean(axis=0))
    hits = np.empty((len(modes), len(numbers), len(orders), len(test)), dtype=bool)
    for piece in pieces(len(test), values.shape[1]):
        X_test = double_rows(values, test[piece])
        for place, k in enumerate(numbers):
            sets = [one[:k] for one in orders]
            for number, called in enumerate(ablation.predict(X_test, sets, modes)):
                hits[:, place, number, piece] = called == truth[piece]
    draw = {"n_boot": n_boot, "random_state": random_state}
    tables = [
        _ablated(one, numbers, of_mode, sides.clusters, draw)
        for one, of_mode in zip(modes, hits, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)


def _ablated(
    mode: str, numbers: Sequence[int], hits: NDArray[np.bool_], clusters: Ints | None, draw: Any
) -> pd.DataFrame:
    """Accuracies of one mode, from the hits ``(numbers, 1 + random sets, test images)``."""
    rows = []
    for k, (right, *others) in zip(numbers, hits, strict=True):
        low, high = share_interval(right, clusters, **draw)
        common = {"mode": mode, "k": k, "n": len(right)}
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
    sizes: Sequence[int] | None = None,
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
    sizes : sequence of int, optional
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
        As :func:`evaluate_heads`; an unknown neuron; sizes out of range; a class with a single
        image or group in train.

    Notes
    -----
    `order` was most likely made from all train rows; then the accuracies of ``curve`` are too high
    (they serve to compare numbers of neurons only), and those on test are not. C has the least
    log-loss over the same folds. More than 50,000 train images: as in :func:`evaluate_heads`.

    References
    ----------
    Breiman, Friedman, Olshen & Stone (1984). Classification and regression trees, section 3.4.3
    (the rule of one standard error).
    """
    images = images_of(X, y, groups, split=split)
    values = finite_matrix(X)
    columns = _columns_of_order(X, order)
    numbers = _numbers_of_neurons(sizes, len(columns))
    sides = sides_of(split, images, random_state)

    def first(k: int) -> Train:
        X_k = _some_columns(values, sides.fitted, columns[:k])
        return images.train(X_k, sides.fitted, random_state)

    folds = folds_of(first(1))
    if len(folds) < 2:
        raise FeatlabError("A class has too few images or groups in train to cross-validate.")
    with quick_fits(len(sides.fitted) * values.shape[1]):
        tried = {k: _validated(first(k), k, folds) for k in {*numbers, len(columns)}}
        curve = pd.DataFrame([tried[k] for k in numbers])
        best = curve.iloc[int(curve["accuracy"].to_numpy().argmax())]
        least = int(curve.loc[curve["accuracy"] >= best["accuracy"] - best["se"], "k"].min())
        right = {}
        for k in (least, len(columns)):
            train, model = first(k), scaled(logistic(tried[k]["C"]))
            fit_quietly(model, train.X, train.y)
            X_test = _some_columns(values, sides.test, columns[:k])
            right[k] = model.predict(X_test) == images.y[sides.test]
    low, high = share_interval(
        right[least], sides.clusters, n_boot=n_boot, random_state=random_state
    )
    return SmallestSet(
        neurons=neuron_ids(X)[columns[:least]].tolist(),
        curve=curve.assign(smallest=curve["k"] == least),
        accuracy=float(right[least].mean()),
        accuracy_low=low,
        accuracy_high=high,
        accuracy_all=float(right[len(columns)].mean()),
        n=len(sides.test),
    )


def _columns_of_order(X: Any, order: Iterable[Hashable]) -> Ints:
    """Column of every neuron in `order`, repeated ones once; ids are a feature table's."""
    ids = list(dict.fromkeys(order if isinstance(order, Iterable) else [order]))
    place = {name: column for column, name in enumerate(neuron_ids(X).tolist())}
    unknown = [name for name in ids if name not in place]
    if unknown:
        raise FeatlabError(f"order must name neurons of X, got {said(unknown[0])}.")
    if not ids:
        raise FeatlabError("order is empty; name at least one neuron, the best first.")
    return np.array([place[name] for name in ids], dtype=np.intp)


def _sorted_sizes(sizes: Sequence[int] | None, usual: Sequence[int], most: int) -> list[int]:
    """Those asked for; by default the usual ones below `most`, and that."""
    default = [*(size for size in usual if size < most), most]
    return sorted(set(default if sizes is None else whole_numbers("sizes", sizes)))


def _numbers_of_neurons(sizes: Sequence[int] | None, most: int) -> list[int]:
    numbers = _sorted_sizes(sizes, _NUMBERS, most)
    if numbers[-1] > most:
        raise FeatlabError(f"sizes must be at most the {most} neurons of order, got {sizes}.")
    return numbers


def _some_columns(values: NDArray[np.floating], rows: Ints, columns: Ints) -> Floats:
    """Some rows of some columns in double precision, read column by column."""
    return np.stack([values[rows, column].astype(np.float64) for column in columns], axis=1)


class _Ablation:
    """A linear head on features of which some neurons, or all others, are at their train mean."""

    def __init__(self, coef: Floats, intercept: Floats, *, mean: Floats) -> None:
        self._coef, self._mean = coef, mean
        self._base = mean @ coef.T + intercept

    def predict(self, X: Floats, sets: Iterable[Ints], modes: Sequence[str]) -> Iterator[Ints]:
        """Class codes ``(modes, rows)``, for each set of columns."""
        away = X - self._mean  # a neuron at its training mean adds nothing
        whole = away @ self._coef.T
        for columns in sets:
            known = away[:, columns] @ self._coef[:, columns].T
            sums = {"keep": self._base + known, "ablate": self._base + (whole - known)}
            yield np.stack([sums[mode].argmax(axis=1) for mode in modes])


class _Partners:
    """Draws, for every neuron of an order, another one of like variance."""

    def __init__(self, variance: Floats, columns: Ints) -> None:
        others = np.setdiff1d(np.flatnonzero(variance > 0), columns)
        if len(others) < len(columns):
            # The first k need k others that are alive.
            taken = np.arange(1, len(columns) + 1) + np.cumsum(variance[columns] > 0)
            most = int((taken <= np.count_nonzero(variance > 0)).sum())
            raise FeatlabError(
                f"sizes must be at most {most}, so that each neuron has another one to be compared "
                f"with that is not constant on train, got {len(columns)}."
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


def _validated(train: Train, k: int, folds: list[Fold]) -> dict[str, float]:
    """Cross-validated accuracy of the best C."""
    losses, hits = np.zeros(len(C_GRID)), np.empty((len(C_GRID), len(folds)))
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
