"""Trained networks and classical heads on the same test rows, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.pipeline import Pipeline

from featlab.arguments import class_codes, text_labels
from featlab.errors import FeatlabError
from featlab.finetune._fitting import FineTuned
from featlab.heads import compare_heads
from featlab.heads.models import prediction_rows
from featlab.heads.scores import bootstrap_weights, interval_name, scores_of
from featlab.results.heads import HeadResults

SCORES = ["n", "accuracy", "accuracy_low", "accuracy_high", "interval", "balanced_accuracy"]
SCORES += ["roc_auc", "log_loss"]
DIFFERENCES = ["difference", "difference_low", "difference_high", "p", "test"]


def compare_transfer(
    fits: Mapping[str, FineTuned],
    images: pd.DataFrame,
    split: ArrayLike,
    scores: HeadResults,
    seconds: Mapping[str, float],
    *,
    reference: str = "logistic",
    n_boot: int = 1000,
    random_state: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score trained networks on the test rows, beside the heads on stored maps.

    Parameters
    ----------
    fits : mapping of str to FineTuned
        By the name that the table gives them; all trained with `split`.
    images : DataFrame
        Image table with ``attrs["root"]``.
    split : array_like of shape (n,)
    scores : featlab.HeadResults
        The heads, evaluated with the same images, split and groups.
    seconds : mapping of str to float
        Head → seconds that fitting it took.
    reference : str
        The head that all are compared with.
    n_boot, random_state : int
        Resamples of the test images (of whole groups, where the heads' are), and their seed.

    Returns
    -------
    table : DataFrame
        ``name``, ``trained_on``, ``n``, ``accuracy`` with ``_low`` and ``_high`` (95 %) and
        ``interval`` (its kind), ``balanced_accuracy``, ``roc_auc``, ``log_loss``; ``difference``
        in accuracy from the reference with ``_low``, ``_high``, ``p`` and ``test``, paired (NaN
        for the reference); ``seconds`` and ``trainable_parameters``. Metrics and tests are those of
        :func:`featlab.heads.evaluate_heads` and :func:`featlab.heads.compare_heads`.
    predictions : DataFrame
        Of all of them, as ``HeadResults.predictions``.

    Raises
    ------
    FeatlabError
        Heads that were scored on other rows or classes, or without the reference.
    """
    codes, classes = class_codes(text_labels(images["label"], name="labels"))
    test = np.flatnonzero(np.asarray(split) == "test")
    known = scores.of(reference)["row"].to_numpy()
    if scores.classes != [str(name) for name in classes] or not np.array_equal(known, test):
        raise FeatlabError("scores must be of the same images, classes and split as the fits.")
    weights = bootstrap_weights(len(test), n_boot, random_state, scores.clusters)
    rows, predictions = [scores.table], [scores.predictions]
    for name, fitted in fits.items():
        probability = fitted.predict_proba(images, test)
        correct = probability.argmax(axis=1) == codes[test]
        found = {
            "head": name,
            **scores_of(codes[test], probability, weights, scores.clusters),
            "n": len(test),
            "interval": interval_name(correct, scores.clusters),
        }
        rows.append(pd.DataFrame([found]))
        predictions.append(prediction_rows(name, test, codes[test], probability, classes))
    joined = HeadResults(
        table=pd.concat(rows, ignore_index=True),
        predictions=pd.concat(predictions, ignore_index=True),
        models={**scores.models, **fits},
        classes=scores.classes,
        clusters=scores.clusters,
    )
    shown = [*(head for head in scores.models if head in seconds), *fits]
    table = pd.DataFrame(
        [_row(joined, name, reference, seconds, n_boot, random_state) for name in shown]
    )
    return table, joined.predictions[joined.predictions["head"].isin(shown)].reset_index(drop=True)


def _row(
    joined: HeadResults,
    name: str,
    reference: str,
    seconds: Mapping[str, float],
    n_boot: int,
    random_state: int,
) -> dict[str, Any]:
    model: Any = joined.models[name]
    scored = dict(zip(SCORES, joined.table.set_index("head").loc[name, SCORES], strict=True))
    compared: dict[str, Any] = dict.fromkeys(DIFFERENCES[:-1], float("nan")) | {"test": ""}
    if name != reference:
        found = compare_heads(joined, name, reference, n_boot=n_boot, random_state=random_state)
        compared = dict(zip(DIFFERENCES, found.iloc[0][DIFFERENCES], strict=True))
    is_network = isinstance(model, FineTuned)
    return {
        "name": name,
        "trained_on": _trained_on(model) if is_network else "stored maps, mean-pooled",
        **scored,
        **compared,
        "seconds": float(model.seconds if is_network else seconds[name]),
        "trainable_parameters": model.trainable_parameters if is_network else _parameters(model),
    }


def _trained_on(fitted: FineTuned) -> str:
    if fitted.parameters["augment"]:
        return "pictures, augmented"
    return "pictures" if fitted.blocks else "features computed once"


def _parameters(model: Pipeline) -> int:
    """Fitted weights of a classical head."""
    last = model[-1]
    found: list[Any] = []
    for name in ("coef_", "intercept_", "coefs_", "intercepts_"):
        value = getattr(last, name, [])
        found += value if isinstance(value, list) else [value]
    return int(sum(np.size(array) for array in found))
