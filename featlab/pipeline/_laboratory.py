"""The detectors put to the test: do they replicate, are they needed, are they redundant."""

from __future__ import annotations

import numpy as np
import pandas as pd

from featlab import features, heads, neurons
from featlab.arguments import origin_of
from featlab.pipeline._stages import main_rows, main_table
from featlab.results.analysis import DetectorDetails
from featlab.results.heads import HeadResults
from featlab.store import MapStore

_SHUFFLES = 5
_ABLATED = 50  # detectors per class that the ablation takes out, best first


def detector_laboratory(
    store: MapStore,
    split: pd.Series,
    tables: list[pd.DataFrame],
    all_neurons: pd.DataFrame,
    logistic: list[HeadResults],
    random_state: int,
) -> DetectorDetails:
    """Which layer and pooling, does it replicate, is it needed, is it redundant."""
    labels, groups = store.images["label"], store.images["group"]
    X = main_table(tables)
    table = main_rows(all_neurons, X)
    detectors = neurons.select_neurons(table)
    confirm = split == "confirm"
    judging = features.take_rows(X, confirm)
    order = ablation_order(detectors, features.take_rows(X, split == "train"))
    needed, smallest = None, None
    if order:
        parts = [
            heads.ablation_curve(
                X, labels, split, order, mode=mode, groups=groups, random_state=random_state
            )
            for mode in ("ablate", "keep")
        ]
        needed = pd.concat(parts, ignore_index=True)
        smallest = heads.smallest_set(
            X, labels, split, order, groups=groups, random_state=random_state
        )
    return DetectorDetails(
        poolings=_poolings(tables, all_neurons, logistic),
        replication=neurons.replication(table),
        clusters=neurons.cluster_detectors(detectors, judging, labels[confirm])
        if len(detectors)
        else None,
        nulls=neurons.null_selection(
            X, labels, split, groups=groups, n_repeats=_SHUFFLES, random_state=random_state
        ),
        ablation=needed,
        smallest=smallest,
        omnibus=neurons.compare_classes(judging, labels[confirm])
        if len(store.classes) > 2
        else None,
    )


def ablation_order(detectors: pd.DataFrame, X: pd.DataFrame) -> list[int]:
    """The best of each class first, then the second best; at most half of the living neurons.

    The other half is what they are compared with. `detectors` are best first.
    """
    turns = detectors.assign(turn=detectors.groupby("class").cumcount())
    turns = turns[turns["turn"] < _ABLATED]
    order = list(dict.fromkeys(turns.sort_values(["turn", "class"])["neuron"].tolist()))
    return order[: int((np.ptp(X.to_numpy(), axis=0) > 0).sum()) // 2]


def _poolings(
    tables: list[pd.DataFrame], all_neurons: pd.DataFrame, logistic: list[HeadResults]
) -> pd.DataFrame:
    """Detectors and head accuracy of every layer and pooling."""
    rows = []
    for X, head in zip(tables, logistic, strict=True):
        found = main_rows(all_neurons, X)
        active = found[found["detector"] & (found["direction"] == "active")]
        scored = ["n", "accuracy", "accuracy_low", "accuracy_high"]
        rows.append(
            {
                **dict(zip(("layer", "pooling"), origin_of(X), strict=True)),
                "neurons": X.shape[1],
                "selected": len(active),
                "replicated": int(active["replicated"].sum()),
                "median_confirmed": active["auroc_confirmed"].median(),
                **head.table.set_index("head").loc["logistic", scored],
            }
        )
    return pd.DataFrame(rows)
