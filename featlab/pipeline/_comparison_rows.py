"""One row of a comparison: what an entry is, and how it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from featlab.pipeline._comparison_entries import Entry
from featlab.results.heads import HeadResults
from featlab.results.localisation import Localisation


def entry_row(
    entry: Entry,
    X: pd.DataFrame,
    labels: pd.Series,
    split: pd.Series,
    scores: HeadResults,
    selected: pd.DataFrame,
    found: Localisation | None,
    method: str | None,
) -> dict[str, Any]:
    """Most of the columns of ``Comparison.entries``; those without a value are left out.

    `selected` are the detectors of this entry, `method` its own map method.
    """
    return {
        **_facts(entry),
        **_head(scores, X, labels, split),
        **_detectors(selected),
        **_boxes(found, method),
    }


def _facts(entry: Entry) -> dict[str, Any]:
    store, known = entry.store, entry.store.provenance
    height, width, neurons = store.map_shape(entry.layer)
    active = 0
    lowest, highest = np.float32(np.inf), np.float32(-np.inf)
    for _, top in store.iter_pooled(layer=entry.layer, pooling="max"):
        active += int(np.count_nonzero(top > 0))
    for _, mean in store.iter_pooled(layer=entry.layer):
        lowest = np.minimum(lowest, mean.min(axis=0))
        highest = np.maximum(highest, mean.max(axis=0))
    return {
        "name": entry.name,
        "store": str(store.path),
        "backbone": str(known.get("backbone", "")),
        "weights": str(known.get("weights", "")),
        "input_size": str(known.get("input_size", "")),
        "layer": entry.layer,
        "map_height": height,
        "map_width": width,
        "neurons": neurons,
        "dead": int(np.count_nonzero(lowest == highest)),
        "active_share": active / (len(store) * neurons),
        "megabytes": store.path.stat().st_size / 1e6,
    }


def _head(
    scores: HeadResults, X: pd.DataFrame, labels: pd.Series, split: pd.Series
) -> dict[str, Any]:
    confirm = (split == "confirm").to_numpy()
    probability = scores.models["logistic"].predict_proba(X.to_numpy()[confirm])
    truth = np.searchsorted(scores.classes, labels[confirm].to_numpy(str))
    given = np.clip(probability[np.arange(len(truth)), truth], 1e-15, 1)
    row = scores.table[scores.table["head"] == "logistic"].iloc[0]
    return {
        **row[["n", "accuracy", "accuracy_low", "accuracy_high"]],
        "accuracy_confirm": float((probability.argmax(axis=1) == truth).mean()),
        "log_loss_confirm": float(-np.log(given).mean()),
    }


def _detectors(selected: pd.DataFrame) -> dict[str, Any]:
    kept = selected[selected["replicated"].eq(True)]
    found: dict[str, Any] = {"selected": len(selected), "confirmed": len(kept)}
    if len(kept):
        # Best at selection: the best of the confirmed values would be flattered by the choice.
        best = kept.iloc[int(kept["auroc"].argmax())]
        ends = ["auroc_confirmed", "auroc_confirmed_low", "auroc_confirmed_high"]
        found |= {
            "best_class": str(best["class"]),
            "best_neuron": int(best["neuron"]),
            **best[ends],
        }
    return found


def _boxes(found: Localisation | None, method: str | None) -> dict[str, Any]:
    if found is None:
        return {"n_boxes": 0}
    row = found.table[found.table["method"] == method].iloc[0]
    baseline = found.best(baseline=True)
    assert baseline is not None  # evaluate always scores them.
    scores = [
        f"{score}{end}" for score in ("box_accuracy", "mean_iou") for end in ("", "_low", "_high")
    ]
    return {
        "n_boxes": int(row["n"]),
        "method": method,
        **row[["box_accuracy_confirm", *scores, "seconds_per_1000"]],
        "baseline": str(baseline["method"]),
        "baseline_box_accuracy": float(baseline["box_accuracy"]),
    }
