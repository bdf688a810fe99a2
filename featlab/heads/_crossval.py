"""Nested cross-validation: every image is scored by a head that never saw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from featlab.errors import FeatlabError
from featlab.heads._evaluation import features_of, prediction_rows, sampled_words
from featlab.heads._folds import stratified_folds
from featlab.heads._inputs import (
    Floats,
    Ints,
    check_at_least,
    check_choice,
    check_lengths,
    check_two,
    encode,
    fitted_rows,
    group_codes,
)
from featlab.heads._models import HEADS_DEFAULT, checked_heads, fit_head
from featlab.heads._scores import METRICS, perfect_low, scores_of
from featlab.heads._training import Train, probabilities
from featlab.system.scratch import double_rows


@dataclass(frozen=True)
class CrossValidation:
    """Scores and out-of-fold predictions of every head.

    Attributes
    ----------
    table : DataFrame, one row per head, repeat and fold
        ``head``, ``repeat``, ``fold`` (both from 0), ``n_train``, ``n`` (held-out images),
        ``accuracy``, ``balanced_accuracy``, ``roc_auc``, ``log_loss`` and the ``parameters``
        tuned in that fold, in words.
    predictions : DataFrame, one row per head, repeat and image
        ``head``, ``repeat``, ``fold``, ``row``, ``label``, ``predicted``, ``correct``,
        ``probability`` (of the predicted class) and one column ``p:<class>`` per class.
    classes : list of str
        Sorted; the order of the probabilities.
    class_sizes : list of int
        Images of each class, or groups where there are any.
    """

    table: pd.DataFrame
    predictions: pd.DataFrame
    classes: list[str]
    class_sizes: list[int]

    def summary(self) -> pd.DataFrame:
        """Mean of every metric over repeats and folds, with a corrected interval.

        Returns
        -------
        DataFrame, one row per head
            ``head``, ``n_scores`` (repeats x folds), and each metric with ``_sd`` over them and
            ``_low``, ``_high``: 95 % by t with the variance of Nadeau & Bengio, as the training
            parts overlap. Limits of shares are cut at 0 and 1; where every score is perfect, the
            lower limit is that of one perfect score of all images (:func:`evaluate_heads`).
        """
        rows = []
        for head, scores in self.table.groupby("head", sort=False):
            row: dict[str, Any] = {"head": head, "n_scores": len(scores)}
            test_share = float((scores["n"] / scores["n_train"]).mean())
            for metric in METRICS:
                mean, sd, half = _corrected_mean(scores[metric].to_numpy(float), test_share)
                top = np.inf if metric == "log_loss" else 1.0
                low, high = max(mean - half, 0.0), min(mean + half, top)
                if metric != "log_loss" and mean == 1 and half == 0:
                    low = perfect_low(metric, np.array(self.class_sizes))
                row |= {metric: mean, f"{metric}_sd": sd}
                row |= {f"{metric}_low": low, f"{metric}_high": high}
            rows.append(row)
        return pd.DataFrame(rows)


def cross_validate_heads(
    X: pd.DataFrame | ArrayLike,
    y: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    heads: Sequence[str] = HEADS_DEFAULT,
    n_outer: int = 5,
    n_repeats: int = 1,
    colour: ArrayLike | None = None,
    class_weight: str | None = None,
    random_state: int = 0,
) -> CrossValidation:
    """Score heads by nested, stratified and, with groups, grouped cross-validation.

    A head is scaled, tuned and fitted on the outer training part alone, then scored on the part
    held out. For small sets, where one test split leaves wide intervals.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features; finite.
    y : array_like of shape (n,)
        Labels.
    groups : array_like of shape (n,), optional
        Images of one non-empty group are never on two sides, outside or inside; ``""`` is no group.
    heads : sequence of str
        From :data:`HEADS`; ``dummy`` is always there, ``colour_histogram`` with `colour`.
    n_outer : int
        Outer folds, at least 2.
    n_repeats : int
        Divisions into folds, each with its own seed; at least 1.
    colour : array_like of shape (n, 64), optional
        Colour histograms.
    class_weight : {"balanced"}, optional
        As in :func:`evaluate_heads`.
    random_state : int
        Seed.

    Returns
    -------
    CrossValidation

    Raises
    ------
    FeatlabError
        Shapes that do not match, features that are not finite, fewer than two classes, a class of
        fewer images (or groups) than outer folds, an unknown head.

    Notes
    -----
    Do not choose neurons on all images first: that choice has seen the held-out ones.
    :class:`NeuronSelector` in a Pipeline chooses inside the fold.

    References
    ----------
    Varma & Simon (2006). Bias in error estimation when using cross-validation for model selection.
    BMC Bioinformatics 7, 91.
    """
    names = checked_heads(heads)
    check_at_least("n_outer", n_outer, 2)
    check_at_least("n_repeats", n_repeats, 1)
    check_choice("class_weight", class_weight, (None, "balanced"))
    features = features_of(names, X, colour)
    codes, classes = encode(y)
    lengths = {name: len(matrix) for name, matrix in features.items()}
    check_lengths(lengths | {"y": len(codes)}, "Features and y")
    check_two(classes)
    every_group, grouped = group_codes(groups, len(codes))
    class_sizes = _class_sizes(codes, every_group)
    _check_enough(class_sizes, classes, grouped, n_outer)
    rows, predictions = [], []
    for repeat in range(n_repeats):
        seed = random_state + repeat
        outer = stratified_folds(codes, every_group if grouped else None, n_outer, seed)
        for fold, (train, test) in enumerate(outer):
            place = {"repeat": repeat, "fold": fold}
            for name, matrix in features.items():
                fitted = fitted_rows(codes, train, seed)
                part = Train(
                    double_rows(matrix, fitted), codes[fitted], classes, every_group[fitted],
                    grouped, seed, class_weight,
                )  # fmt: skip
                probability, parameters = _fitted(name, part, matrix, test)
                parameters += sampled_words(len(fitted), len(train))
                scores = scores_of(codes[test], probability, np.ones((1, len(test)), np.uint8))
                rows.append(
                    {
                        "head": name, **place, "n_train": len(fitted), "n": len(test),
                        **{metric: scores[metric] for metric in METRICS}, "parameters": parameters,
                    }
                )  # fmt: skip
                predictions.append(
                    prediction_rows(name, test, codes[test], probability, classes, **place)
                )
    order = pd.Categorical([row["head"] for row in rows], list(features), ordered=True)
    table = pd.DataFrame(rows).iloc[np.argsort(order.codes, kind="stable")]
    keys = ["head", "repeat", "row"]
    every = pd.concat(predictions, ignore_index=True).sort_values(
        keys, key=lambda key: key.map(list(features).index) if key.name == "head" else key
    )
    return CrossValidation(
        table.reset_index(drop=True),
        every.reset_index(drop=True),
        classes.tolist(),
        class_sizes.tolist(),
    )


def _fitted(name: str, part: Train, matrix: NDArray[np.floating], test: Ints) -> tuple[Floats, str]:
    """Probabilities of every class, 0 for one that this training part lacks."""
    model, parameters = fit_head(name, part)
    probability = np.zeros((len(test), len(part.classes)))
    seen = np.searchsorted(part.classes, model.classes_)
    probability[:, seen] = probabilities(model, matrix, test)
    return probability, parameters


def _class_sizes(codes: Ints, groups: Ints) -> Ints:
    return np.bincount(np.unique(np.column_stack([codes, groups]), axis=0)[:, 0])


def _check_enough(sizes: Ints, classes: NDArray[Any], grouped: bool, n_outer: int) -> None:
    least = int(sizes.argmin())
    if sizes[least] < n_outer:
        raise FeatlabError(
            f"n_outer must be at most the {'groups' if grouped else 'images'} of the smallest "
            f"class ({str(classes[least])!r}: {sizes[least]}), got {n_outer}."
        )


def _corrected_mean(scores: Floats, test_share: float) -> tuple[float, float, float]:
    """Mean, standard deviation and half of the 95 % interval; of the known scores."""
    known = scores[~np.isnan(scores)]
    j = len(known)
    if j < 2:
        return (float(known.mean()) if j else np.nan), np.nan, np.nan
    sd = float(known.std(ddof=1))
    half = stats.t.ppf(0.975, j - 1) * sd * np.sqrt(1 / j + test_share)
    return float(known.mean()), sd, float(half)
