"""From a finished store to everything a report tells; the network is never run here."""

from __future__ import annotations

from featlab.pipeline._analysis import (
    LOCALISERS,
    ablation_order,
    analyse,
    class_weights,
    find_detectors,
    predicted_classes,
    write_results,
)
from featlab.pipeline._card import neuron_card
from featlab.pipeline._examples import picture_loader

__all__ = [
    "LOCALISERS",
    "ablation_order",
    "analyse",
    "class_weights",
    "find_detectors",
    "neuron_card",
    "picture_loader",
    "predicted_classes",
    "write_results",
]
