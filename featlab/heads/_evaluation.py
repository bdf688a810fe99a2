"""Heads scored on a test split, or by nested cross-validation, with what they say of each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from featlab.arguments import (
    check_choice,
    check_choices,
    check_whole,
    finite_matrix,
)
from featlab.errors import FeatlabError
from featlab.heads.models import (
    HEADS,
    HEADS_DEFAULT,
    fit_head,
    prediction_rows,
    probabilities,
)
from featlab.heads.scores import (
    METRICS,
    metrics_of,
    perfect_low,
    scores_of,
)
from featlab.heads.training import (
    Floats,
    Images,
    Ints,
    Train,
    fitted_rows,
    images_of,
    sides_of,
    stratified_folds,
)
from featlab.intervals import interval_name
from featlab.results.analysis import CrossValidation, HeadResults
from featlab.system.machine import double_rows

_CLASS_WEIGHTS = (None, "balanced")


def evaluate_heads(
    X: pd.DataFrame | ArrayLike,
    y: ArrayLike,
    split: ArrayLike,
    *,
    colour: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    heads: Sequence[str] = HEADS_DEFAULT,
    class_weight: str | None = None,
    random_state: int = 0,
    n_boot: int = 1000,
) -> HeadResults:
    """Fit classifiers on the train rows and score them on the test rows.

    Besides the `heads` there is always ``dummy``, which knows only how frequent the classes are,
    and with `colour` a ``colour_histogram``: what a logistic regression reaches without a network.
    The confirm rows are not used.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features; finite.
    y : array_like of shape (n,)
        Labels.
    split : array_like of shape (n,)
        ``train``, ``confirm`` or ``test``.
    colour : array_like of shape (n, 64), optional
        Colour histograms.
    groups : array_like of shape (n,), optional
        Images of one non-empty group stay together in the folds that tune a head, and in the
        resamples of the test images; ``""`` is no group.
    heads : sequence of str
        From ``logistic``, ``mlp``, ``logistic_l1``, ``linear_svm``, ``knn``, ``nearest_centroid``;
        see Notes.
    class_weight : {"balanced"}, optional
        Whether the classes count alike, however many images they have: in ``logistic``,
        ``logistic_l1`` and ``linear_svm``, and in ``colour_histogram``. The others take no weights.
    random_state : int
        Seed of the folds, the perceptron and the bootstrap.
    n_boot : int
        Random weightings of the test images for the intervals, at least 1.

    Returns
    -------
    HeadResults

    Raises
    ------
    FeatlabError
        Shapes that do not match, NaN or infinite features, an unknown head, split or class weight,
        no test rows, fewer than two classes, a class without train images.

    Notes
    -----
    Where train has more than 50,000 images, heads are fitted on a random 50,000 of them, each class
    in its share but at least 50; ``n_train`` and ``parameters`` say so. All test images are scored.

    All heads see features standardised on train, and tune over folds of train that are scaled
    inside the fold. Where a class has a single image or group in train there is nothing to tune
    with; then a fixed value is used, and ``parameters`` says so.

    ``logistic``
        Multinomial, L2; C minimises the log-loss.
    ``logistic_l1``
        One class against the rest, L1: uses few neurons. C minimises the log-loss.
    ``mlp``
        One hidden layer of 128; nothing is tuned.
    ``linear_svm``
        C maximises the accuracy; probabilities by Platt's sigmoid on held-out folds.
    ``knn``
        The number of neighbours minimises the Brier score. Its probabilities are shares of few
        neighbours, so 0 occurs and its log-loss is large.
    ``nearest_centroid``
        Softmax of squared distances; their temperature minimises the log-loss.

    Intervals of shares are :func:`featlab.intervals.mean_interval`, over the test images or, where
    these share groups, over whole groups; the mean recall's is made of those of the classes, and
    is NaN where the images of a class are one group. The AUROC's is a score interval (the mean of
    the classes' limits). The log-loss has none: one unseen image can move it by any amount.
    ``balanced_accuracy`` (mean recall) and ``roc_auc`` (one-vs-rest, macro) are means over the
    classes that have test images (for ``roc_auc`` also others to compare with); a class without
    is left out and logged.

    References
    ----------
    Platt (1999). Probabilistic outputs for support vector machines. Advances in Large Margin
    Classifiers, 61-74.
    """
    check_whole("n_boot", n_boot, 1)
    check_choice("class_weight", class_weight, _CLASS_WEIGHTS)
    images = images_of(X, y, groups, split=split, colour=colour)
    features = _features_of(heads, X, colour)
    sides = sides_of(split, images, random_state)
    test, truth = sides.test, images.y[sides.test]
    rows, predicted, models = [], [], {}
    for name, matrix in features.items():
        X_fit = double_rows(matrix, sides.fitted)
        train = images.train(X_fit, sides.fitted, random_state, class_weight)
        models[name], parameters = fit_head(name, train)
        probability = probabilities(models[name], matrix, test)
        rows.append(
            {
                "head": name,
                "n_train": len(sides.fitted),
                "n": len(test),
                **scores_of(
                    truth, probability, sides.clusters, n_boot=n_boot, random_state=random_state
                ),
                "interval": interval_name(sides.clusters),
                "parameters": parameters + _sampled_words(len(sides.fitted), len(sides.train)),
            }
        )
        predicted.append(prediction_rows(name, test, truth, probability, images.classes))
    return HeadResults(
        table=pd.DataFrame(rows),
        predictions=pd.concat(predicted, ignore_index=True),
        models=models,
        classes=images.classes.tolist(),
        clusters=sides.clusters,
    )


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

    A head is scaled, tuned and fitted on the outer training set alone, then scored on the set
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
        As in :func:`evaluate_heads`; ``dummy`` is always there, ``colour_histogram`` with `colour`.
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
    check_whole("n_outer", n_outer, 2)
    check_whole("n_repeats", n_repeats, 1)
    check_choice("class_weight", class_weight, _CLASS_WEIGHTS)
    images = images_of(X, y, groups, colour=colour)
    features = _features_of(heads, X, colour)
    class_sizes = _class_sizes(images)
    _check_enough(class_sizes, images, n_outer)
    rows, predictions = [], []
    for repeat in range(n_repeats):
        seed = random_state + repeat
        units = images.groups if images.grouped else None
        outer = stratified_folds(images.y, units, n_outer, seed)
        for fold, (train, test) in enumerate(outer):
            place = {"repeat": repeat, "fold": fold}
            fitted = fitted_rows(images.y, train, seed)
            for name, matrix in features.items():
                known = images.train(double_rows(matrix, fitted), fitted, seed, class_weight)
                probability, parameters = _fitted(name, known, matrix, test)
                row, predicted = _scored(name, images, test, probability, place)
                parameters += _sampled_words(len(fitted), len(train))
                rows.append({**row, "n_train": len(fitted), "parameters": parameters})
                predictions.append(predicted)
    keys = ["head", "repeat", "row"]
    every = _by_head(pd.concat(predictions, ignore_index=True), list(features), keys)
    table = _by_head(pd.DataFrame(rows), list(features), ["head"])
    columns = ["head", "repeat", "fold", "n_train", "n", *METRICS, "parameters"]
    table = table[columns]
    return CrossValidation(
        table=table,
        summary=_summary(table, class_sizes),
        predictions=every,
        classes=images.classes.tolist(),
    )


def _features_of(heads: str | Sequence[str], X: Any, colour: Any) -> dict[str, NDArray[Any]]:
    """What each head is fitted on, the baselines included."""
    names = check_choices("heads", heads, HEADS)
    values = finite_matrix(X)
    features = dict.fromkeys(("dummy", *names), values)
    if colour is not None:
        features["colour_histogram"] = finite_matrix(colour, "colour")
    return features


def _sampled_words(fitted: int, train: int) -> str:
    """That a head was not fitted on all train images, if so."""
    return "" if fitted == train else f", on a random {fitted:,} of {train:,} train images"


def _scored(
    name: str, images: Images, test: Ints, probability: Floats, place: dict[str, int]
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Scores of one fold, and what was predicted for each of its images."""
    truth = images.y[test]
    row = {"head": name, **place, "n": len(test), **metrics_of(truth, probability)}
    return row, prediction_rows(name, test, truth, probability, images.classes, **place)


def _by_head(table: pd.DataFrame, heads: list[str], keys: list[str]) -> pd.DataFrame:
    """Sorted by head, in the order of `heads`, and the other keys; else as it was."""
    return table.sort_values(
        keys,
        kind="stable",
        key=lambda key: key.map(heads.index) if key.name == "head" else key,
        ignore_index=True,
    )


def _summary(table: pd.DataFrame, class_sizes: Ints) -> pd.DataFrame:
    """Mean of every metric over repeats and folds, with a corrected interval."""
    rows = []
    for head, scores in table.groupby("head", sort=False):
        row: dict[str, Any] = {"head": head, "n_scores": len(scores)}
        test_share = float((scores["n"] / scores["n_train"]).mean())
        for metric in METRICS:
            mean, sd, half = _corrected_mean(scores[metric].to_numpy(float), test_share)
            row |= {metric: mean, f"{metric}_sd": sd}
            if metric == "log_loss":
                continue
            low, high = max(mean - half, 0.0), min(mean + half, 1.0)
            if half == 0:  # equal scores say nothing of their spread; perfect ones have a bound
                low, high = (perfect_low(metric, class_sizes), 1.0) if mean == 1 else [np.nan] * 2
            row |= {f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def _fitted(
    name: str, train: Train, matrix: NDArray[np.floating], test: Ints
) -> tuple[Floats, str]:
    """Probabilities of every class, 0 for one that this training set lacks."""
    model, parameters = fit_head(name, train)
    probability = np.zeros((len(test), len(train.classes)))
    seen = np.searchsorted(train.classes, model.classes_)
    probability[:, seen] = probabilities(model, matrix, test)
    return probability, parameters


def _class_sizes(images: Images) -> Ints:
    """Images of each class, or groups where there are any."""
    pairs = np.unique(np.column_stack([images.y, images.groups]), axis=0)
    return np.bincount(pairs[:, 0])


def _check_enough(sizes: Ints, images: Images, n_outer: int) -> None:
    least = int(sizes.argmin())
    if sizes[least] < n_outer:
        raise FeatlabError(
            f"n_outer must be at most the {'groups' if images.grouped else 'images'} of the "
            f"smallest class ({images.classes[least]!r}: {sizes[least]}), got {n_outer}."
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
