"""A transfer study: networks beside heads on the same images, and their neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.pipeline import Pipeline

from featlab.arguments import check_same_rows, class_codes, split_sides
from featlab.errors import FeatlabError
from featlab.finetune.fitting import FineTuned
from featlab.heads import compare_heads
from featlab.heads.models import prediction_rows
from featlab.heads.scores import scores_of
from featlab.intervals import interval_name
from featlab.results.analysis import HeadResults

_SCORES = ["n", "accuracy", "accuracy_low", "accuracy_high", "interval", "balanced_accuracy"]
_SCORES += ["roc_auc", "log_loss"]
_DIFFERENCES = ["difference", "difference_low", "difference_high", "p", "test"]
_KEY = ["class", "neuron"]


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
        Image table.
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
    codes, classes = class_codes(images["label"], name="label")
    check_same_rows(images=images, split=split)
    test = np.flatnonzero(split_sides(split, len(images)) == "test")
    known = scores.of(reference)["row"].to_numpy()
    if scores.classes != classes.tolist() or not np.array_equal(known, test):
        raise FeatlabError("scores must be of the same images, classes and split as the fits.")
    rows, predictions = [scores.table], [scores.predictions]
    for name, fitted in fits.items():
        probability = fitted.predict_proba(images, test)
        row = {
            "head": name,
            **scores_of(
                codes[test],
                probability,
                scores.clusters,
                n_boot=n_boot,
                random_state=random_state,
            ),
            "n": len(test),
            "interval": interval_name(scores.clusters),
        }
        rows.append(pd.DataFrame([row]))
        predictions.append(prediction_rows(name, test, codes[test], probability, classes))
    joined = HeadResults(
        table=pd.concat(rows, ignore_index=True),
        predictions=pd.concat(predictions, ignore_index=True),
        models={**scores.models, **fits},
        classes=scores.classes,
        clusters=scores.clusters,
    )
    names = [*(head for head in scores.models if head in seconds), *fits]
    table = pd.DataFrame(
        [_row(joined, name, reference, seconds, n_boot, random_state) for name in names]
    )
    return table, joined.predictions[joined.predictions["head"].isin(names)].reset_index(drop=True)


def _row(
    joined: HeadResults,
    name: str,
    reference: str,
    seconds: Mapping[str, float],
    n_boot: int,
    random_state: int,
) -> dict[str, Any]:
    model: Any = joined.models[name]
    scored = dict(zip(_SCORES, joined.table.set_index("head").loc[name, _SCORES], strict=True))
    compared: dict[str, Any] = dict.fromkeys(_DIFFERENCES[:-1], float("nan")) | {"test": ""}
    if name != reference:
        pair = compare_heads(joined, name, reference, n_boot=n_boot, random_state=random_state)
        compared = dict(zip(_DIFFERENCES, pair.iloc[0][_DIFFERENCES], strict=True))
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
    arrays: list[Any] = []
    for name in ("coef_", "intercept_", "coefs_", "intercepts_"):
        value = getattr(last, name, [])
        arrays += value if isinstance(value, list) else [value]
    return int(sum(np.size(array) for array in arrays))


def detector_changes(
    before: pd.DataFrame,
    after: pd.DataFrame,
    unseen_before: pd.DataFrame,
    unseen_after: pd.DataFrame,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Detectors of a layer before and after fine-tuning, by class and by neuron.

    Neuron k after is neuron k before with other weights, so they are compared one by one.

    Parameters
    ----------
    before, after : DataFrame
        Neuron tables of one layer and pooling, chosen on train rows and confirmed on confirm rows.
    unseen_before, unseen_after : DataFrame
        ``class, neuron, auroc`` of all neurons, measured on the confirm rows.

    Returns
    -------
    classes : DataFrame, one row per class
        ``class``; ``selected_before, selected_after, replicated_before, replicated_after,
        replicated_both``: numbers of detectors active for the class; ``neurons``: those alive both
        times; ``median_before, median_after``: of the AUROC of those that were replicated then;
        ``spread_before, spread_after``: mean of abs(AUROC - 0.5) over all neurons alive both times;
        ``spearman``: rank correlation of their AUROC before and after.
    neurons : DataFrame, one row per class and neuron
        ``class, neuron, auroc_before, auroc_after`` (on confirm rows; NaN for a dead neuron),
        ``selected_before, selected_after, replicated_before, replicated_after``.

    Raises
    ------
    FeatlabError
        Tables of other classes or other numbers of neurons.

    Notes
    -----
    The fine-tuned network has learned from the train rows' labels, so what is selected there is
    selected with a bias that the frozen network has not; the confirm rows are new to both, and only
    what was measured on them is compared.
    """
    tables = []
    for table, unseen, when in (
        (before, unseen_before, "before"), (after, unseen_after, "after"),
    ):  # fmt: skip
        if table.duplicated(_KEY).any() or unseen.duplicated(_KEY).any():
            raise FeatlabError(
                f"the neuron tables {when} must be of one layer and one pooling, but a class and "
                "neuron are there twice; choose the rows of one layer."
            )
        active = table["direction"] == "active"
        marked = table[_KEY].assign(
            **{
                f"selected_{when}": table["detector"] & active,
                f"replicated_{when}": table["replicated"] & active,
            }
        )
        measured = unseen[[*_KEY, "auroc"]].rename(columns={"auroc": f"auroc_{when}"})
        tables.append(marked.merge(measured, on=_KEY, validate="one_to_one"))
    neurons = tables[0].merge(tables[1], on=_KEY, validate="one_to_one")
    if not len(tables[0]) == len(tables[1]) == len(neurons) == len(before) == len(after):
        raise FeatlabError(
            "the neuron tables before and after must be of one layer each, with the same classes "
            f"and neurons, got {len(before)} and {len(after)} rows of which {len(neurons)} match."
        )
    order = [*_KEY, "auroc_before", "auroc_after", "selected_before", "selected_after"]
    neurons = neurons[[*order, "replicated_before", "replicated_after"]]
    parts = neurons.groupby("class", sort=True)
    return pd.DataFrame([_counts(str(name), part) for name, part in parts]), neurons


def _counts(name: str, part: pd.DataFrame) -> dict[str, object]:
    alive = part.dropna(subset=["auroc_before", "auroc_after"])
    measured = alive[["auroc_before", "auroc_after"]]
    counts = ["selected_before", "selected_after", "replicated_before", "replicated_after"]
    before, after = (measured[name].to_numpy(float) for name in measured)
    varies = len(alive) > 1 and np.ptp(before) > 0 and np.ptp(after) > 0
    return {
        "class": name,
        **{column: int(part[column].sum()) for column in counts},
        "replicated_both": int((part["replicated_before"] & part["replicated_after"]).sum()),
        "neurons": len(alive),
        "median_before": part.loc[part["replicated_before"], "auroc_before"].median(),
        "median_after": part.loc[part["replicated_after"], "auroc_after"].median(),
        "spread_before": float(np.abs(before - 0.5).mean()) if len(alive) else np.nan,
        "spread_after": float(np.abs(after - 0.5).mean()) if len(alive) else np.nan,
        "spearman": float(stats.spearmanr(before, after).statistic) if varies else np.nan,
    }
