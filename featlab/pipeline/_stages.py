"""What several stages rest on: feature tables, their detectors, a linear head on each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from featlab import features, heads, neurons
from featlab.arguments import origin_of
from featlab.results.heads import HeadResults
from featlab.store import MapStore

POOLINGS = ("mean", "max")


def feature_tables(store: MapStore) -> list[pd.DataFrame]:
    """The pooled activations of every layer, the last stored one last."""
    return [
        features.feature_table(store, layer=layer, pooling=pooling)
        for layer in store.layers
        for pooling in POOLINGS
    ]


def find_detectors(
    X: pd.DataFrame | Sequence[pd.DataFrame],
    labels: pd.Series,
    split: pd.Series,
    groups: pd.Series,
    **parameters: Any,
) -> pd.DataFrame:
    """The neuron table: ranked on the train rows, confirmed on the confirm rows.

    `parameters` are those of `neurons.rank_neurons`. Where images have groups, the ranking (unless
    by "max_t") only screens, since it takes every image for independent evidence; the confirmation
    takes the group as its unit.
    """
    tables = [X] if isinstance(X, pd.DataFrame) else list(X)
    train, confirm = split == "train", split == "confirm"
    ranked = neurons.rank_neurons(
        [features.take_rows(x, train) for x in tables],
        labels[train],
        groups=groups[train],
        **parameters,
    )
    return neurons.confirm_neurons(
        ranked,
        [features.take_rows(x, confirm) for x in tables],
        labels[confirm],
        groups=groups[confirm],
    )


def main_rows(table: pd.DataFrame, X: pd.DataFrame) -> pd.DataFrame:
    """The rows of a neuron table that are about one feature table; p-values stay the family's."""
    layer, pooling = origin_of(X)
    rows = table[table["layer"].eq(layer) & table["pooling"].eq(pooling)].reset_index(drop=True)
    rows.attrs.update(table.attrs)
    return rows


def logistic_heads(
    tables: Sequence[pd.DataFrame],
    labels: pd.Series,
    split: pd.Series,
    groups: pd.Series,
    main: HeadResults,
    random_state: int,
) -> list[HeadResults]:
    """A logistic head on each feature table; that on the main one is there already."""
    return [
        main
        if X is main_table(tables)
        else heads.evaluate_heads(
            X, labels, split, groups=groups, heads=["logistic"], random_state=random_state
        )
        for X in tables
    ]


def main_table(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """That on which heads and detectors rest: the last layer, mean-pooled."""
    return tables[-len(POOLINGS)]


def weights_of_layers(
    tables: Sequence[pd.DataFrame], logistic: Sequence[HeadResults]
) -> dict[str, dict[str, np.ndarray]]:
    """Layer → the weights of the logistic head on its mean-pooled maps."""
    return {
        layer: class_weights(one)
        for (layer, pooling), one in zip(map(origin_of, tables), logistic, strict=True)
        if pooling == POOLINGS[0]
    }


def class_weights(scores: HeadResults) -> dict[str, np.ndarray]:
    """Class → the logistic head's weights of the neurons, for class activation maps."""
    coefficients, _ = heads.linear_weights(scores.models["logistic"])
    return dict(zip(scores.classes, coefficients, strict=True))


def predicted_classes(scores: HeadResults, X: pd.DataFrame) -> np.ndarray:
    """The logistic head's class of every image; it saw those of train."""
    return heads.classify(scores, X).astype(str)
