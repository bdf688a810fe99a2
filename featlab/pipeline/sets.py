"""What is told of a set whether or not its pictures have labels: the network's own classes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from featlab.own import own_boxes, own_heats, own_pictures, own_set, own_votes
from featlab.pipeline.pictures import Load, heats_on_pictures
from featlab.results.images import OwnClasses
from featlab.results.pictures import Examples
from featlab.store import MapStore

VOTES = ("votes_for", "vote", "vote_agreement", "vote_agreement_low", "vote_agreement_high")
"""Columns of the neuron table."""
_SHOWN = 6  # pictures under the map of their own class


def own_classes(store: MapStore) -> OwnClasses | None:
    """What the network itself calls the pictures; None where it has no classifier."""
    head = store.own_head
    if head is None:
        return None
    boxes = own_boxes(store) if head.linear else None
    return OwnClasses(len(head.classes), own_pictures(store), own_set(store), boxes)


def with_votes(store: MapStore, neurons: pd.DataFrame, random_state: int) -> pd.DataFrame:
    """The neuron table with the network's own class that each neuron votes for.

    Of the layer and the pooling that the network's head stands on; empty for the other rows.
    """
    head = store.own_head
    if head is None or not head.linear:
        return neurons
    votes = own_votes(store, random_state=random_state).set_index("neuron")
    here = (neurons["layer"] == head.layer) & (neurons["pooling"] == "mean")
    told = {name: neurons["neuron"].map(votes[name]).where(here) for name in VOTES}
    told["votes_for"] = told["votes_for"].fillna("")
    table = neurons.assign(**told)
    table.attrs = dict(neurons.attrs)
    return table


def own_examples(
    store: MapStore, load: Load, own: OwnClasses | None, random_state: int
) -> Examples | None:
    """Pictures under the class activation map of what the network calls them, with the box."""
    if own is None or own.boxes is None:
        return None
    drawn = np.random.default_rng(random_state).permutation(len(store))[:_SHOWN]
    rows = [int(row) for row in np.sort(drawn)]
    first = own.pictures[own.pictures["rank"] == 1].set_index("row")
    boxes = own.boxes.set_index("row").loc[rows, ["xmin", "ymin", "xmax", "ymax"]]
    heats = heats_on_pictures(store, rows, own_heats(store, rows))
    return Examples(
        rows=rows,
        pictures=[load(row) for row in rows],
        neurons=[("class activation map", -1)],
        heats=[np.maximum(heat, 0)[np.newaxis] for heat in heats],
        true_boxes=[np.zeros((0, 4))] * len(rows),
        labels=[str(first.loc[row, "own_class"]) for row in rows],
        predicted_boxes=list(boxes.to_numpy(float)),
    )
