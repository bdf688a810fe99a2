"""Fit on train, score on test, with what was predicted for every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.heads._inputs import (
    Floats,
    Ints,
    check_at_least,
    check_choice,
    check_classes,
    check_lengths,
    check_sides,
    checked_matrix,
    clusters_of,
    encode,
    fitted_rows,
    group_codes,
)
from featlab.heads._models import HEADS_DEFAULT, checked_heads, fit_head
from featlab.heads._scores import bootstrap_weights, interval_name, scores_of, warn_of_few_groups
from featlab.heads._training import Train, predictions, probabilities
from featlab.results.heads import HeadResults
from featlab.system.scratch import double_rows


def classify(
    results: HeadResults, X: pd.DataFrame | ArrayLike, head: str = "logistic"
) -> NDArray[Any]:
    """The class that a fitted head gives to each row of features ``(m, c)``, in blocks of rows.

    Raises
    ------
    FeatlabError
        No such head, or features that are not finite.
    """
    check_choice("head", head, list(results.models))
    values = checked_matrix(X, "X")
    return predictions(results.models[head], values, np.arange(len(values)))


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
        From :data:`HEADS`; see Notes.
    class_weight : {"balanced"}, optional
        Whether the classes count alike, however many images they have: in ``logistic``,
        ``logistic_l1`` and ``linear_svm``, and in ``colour_histogram``. The others take no weights.
    random_state : int
        Seed of the folds, the network and the bootstrap.
    n_boot : int
        Bootstrap samples of the test images, at least 1.

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

    The interval of the accuracy is Wilson's, which stays honest at 1.0, where a bootstrap gives
    [1, 1]. The others are percentile intervals over resampled test images; the lower limit of a
    perfect balanced accuracy or AUROC comes from Wilson's and Newcombe's intervals instead.
    Where test images share groups they are not independent: then whole groups are resampled, for
    the accuracy too (its interval is never narrower than Wilson's), and perfect scores count groups
    instead of images. With fewer than five groups the log warns that this is unreliable.
    ``balanced_accuracy`` (mean recall) and ``roc_auc`` (one-vs-rest, macro) are means over the
    classes that have test images (for ``roc_auc`` also others to compare with); a class without
    is left out and logged. The same rule holds within each resample.

    References
    ----------
    Wilson (1927). Journal of the American Statistical Association 22, 209-212.
    Platt (1999). Probabilistic outputs for support vector machines. Advances in Large Margin
    Classifiers, 61-74.
    Field & Welsh (2007). Bootstrapping clustered data. Journal of the Royal Statistical Society B
    69, 369-390.
    """
    names = checked_heads(heads)
    check_at_least("n_boot", n_boot, 1)
    check_choice("class_weight", class_weight, (None, "balanced"))
    features = features_of(names, X, colour)
    codes, classes = encode(y)
    sides = np.asarray(split)
    lengths = {name: len(matrix) for name, matrix in features.items()}
    check_lengths(lengths | {"y": len(codes), "split": len(sides)}, "Features, y and split")
    check_sides(sides)
    train, test = np.flatnonzero(sides == "train"), np.flatnonzero(sides == "test")
    check_classes(classes, codes[train], codes[test])
    every_group, grouped = group_codes(groups, len(codes))
    clusters = clusters_of(every_group[test])
    warn_of_few_groups(clusters)
    weights = bootstrap_weights(len(test), n_boot, random_state, clusters)
    fitted = fitted_rows(codes, train, random_state)
    rows, predicted, models = [], [], {}
    for name, matrix in features.items():
        part = Train(
            double_rows(matrix, fitted), codes[fitted], classes, every_group[fitted], grouped,
            random_state, class_weight,
        )  # fmt: skip
        models[name], parameters = fit_head(name, part)
        probability = probabilities(models[name], matrix, test)
        correct = probability.argmax(axis=1) == codes[test]
        rows.append(
            {
                "head": name,
                "n_train": len(fitted),
                "n": len(test),
                **scores_of(codes[test], probability, weights, clusters),
                "interval": interval_name(correct, clusters),
                "parameters": parameters + sampled_words(len(fitted), len(train)),
            }
        )
        predicted.append(prediction_rows(name, test, codes[test], probability, classes))
    return HeadResults(
        table=pd.DataFrame(rows),
        predictions=pd.concat(predicted, ignore_index=True),
        models=models,
        classes=classes.tolist(),
        clusters=clusters,
    )


def features_of(names: Sequence[str], X: Any, colour: Any) -> dict[str, NDArray[np.floating]]:
    """What each head is fitted on, the baselines included."""
    values = checked_matrix(X, "X")
    features = dict.fromkeys(("dummy", *names), values)
    if colour is not None:
        features["colour_histogram"] = checked_matrix(colour, "colour")
    return features


def sampled_words(fitted: int, train: int) -> str:
    """That a head was not fitted on all train images, if so."""
    return "" if fitted == train else f", on a random {fitted:,} of {train:,} train images"


def prediction_rows(
    head: str, rows: Ints, y: Ints, probability: Floats, classes: NDArray[Any], **extra: Any
) -> pd.DataFrame:
    """One row per scored image; `extra` columns stand after the head."""
    best = probability.argmax(axis=1)
    return pd.DataFrame(
        {
            "head": head,
            **extra,
            "row": rows,
            "label": classes[y],
            "predicted": classes[best],
            "correct": best == y,
            "probability": probability.max(axis=1),
            **{f"p:{name}": column for name, column in zip(classes, probability.T, strict=True)},
        }
    )
