"""The results as a small dictionary that fits in JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from featlab.arguments import confirmed_detectors
from featlab.results.analysis import Results


def summary(results: Results) -> dict[str, Any]:
    """The figures that matter, without the tables.

    Parameters
    ----------
    results : Results

    Returns
    -------
    dict
        ``n_images, classes, backbone, map_shape`` (height, width, neurons of the last layer),
        ``heads`` (head → accuracy, low, high, n), ``detectors`` (class → n, best_neuron,
        auroc_selected, auroc_confirmed), ``localisation`` (method → box_accuracy, mean_iou, n),
        ``seconds`` (stage → s). None stands for what is not there or not a number.
    """
    store = results.store
    values = {
        "n_images": len(store.images),
        "classes": [str(name) for name in store.classes],
        "backbone": store.provenance.get("backbone"),
        "map_shape": list(store.map_shape()),
        "heads": {str(row["head"]): _head(row) for _, row in results.heads.table.iterrows()},
        "detectors": _detectors(results),
        "localisation": _localisation(results),
        "seconds": dict(results.seconds),
    }
    return plain(values)


def plain(value: Any) -> Any:
    """Any value as what JSON knows; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return None if value is None or value is pd.NA else str(value)


def _head(row: pd.Series) -> dict[str, Any]:
    return {
        "accuracy": row["accuracy"],
        "low": row["accuracy_low"],
        "high": row["accuracy_high"],
        "n": int(row["n"]),
    }


def _detectors(results: Results) -> dict[str, Any]:
    detectors = confirmed_detectors(results.neurons)
    found: dict[str, Any] = {}
    for name in results.store.classes:
        rows = detectors[detectors["class"].astype(str) == str(name)]
        best = rows.iloc[0] if len(rows) else None
        found[str(name)] = {
            "n": len(rows),
            "best_neuron": None if best is None else int(best["neuron"]),
            "auroc_selected": None if best is None else best["auroc"],
            "auroc_confirmed": None if best is None else best["auroc_confirmed"],
        }
    return found


def _localisation(results: Results) -> dict[str, Any]:
    if results.localisation is None:
        return {}
    return {
        str(row["method"]): {
            "box_accuracy": row["box_accuracy"],
            "mean_iou": row["mean_iou"],
            "n": int(row["n"]),
        }
        for _, row in results.localisation.table.iterrows()
    }
