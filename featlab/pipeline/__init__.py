"""From a finished store to everything a report tells.

Only :func:`analyse_gradients` and :func:`transfer_study` run the network again.
"""

from __future__ import annotations

from featlab.pipeline._analysis import LOCALISERS, analyse, write_results
from featlab.pipeline._card import neuron_card
from featlab.pipeline._comparison import compare
from featlab.pipeline._examples import picture_loader
from featlab.pipeline._gradient_results import load_gradients, save_gradients
from featlab.pipeline._gradients import analyse_gradients
from featlab.pipeline._laboratory import ablation_order
from featlab.pipeline._stages import class_weights, find_detectors, predicted_classes
from featlab.pipeline._transfer import small_images_table, transfer_study

__all__ = [
    "LOCALISERS",
    "ablation_order",
    "analyse",
    "analyse_gradients",
    "class_weights",
    "compare",
    "find_detectors",
    "load_gradients",
    "neuron_card",
    "picture_loader",
    "predicted_classes",
    "save_gradients",
    "small_images_table",
    "transfer_study",
    "write_results",
]
