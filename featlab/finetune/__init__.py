"""Thaw the top of the network and train it on the images; this room runs the network, on purpose.

`fit` trains a head on a frozen backbone, or its last blocks too, and its result is saved as a
``.keras`` file that `featlab.backbones.load_backbone` takes, so that the fine-tuned network's maps
go through the same laboratory. `compare_transfer` scores it beside the heads on stored maps;
`detector_changes` says what became of the neurons.
"""

from __future__ import annotations

from featlab.finetune._changes import detector_changes
from featlab.finetune._fitting import FineTuned, fit
from featlab.finetune._network import blocks_of, map_network
from featlab.finetune._saving import load_transfer, save_transfer
from featlab.finetune._scores import compare_transfer

__all__ = [
    "FineTuned",
    "blocks_of",
    "compare_transfer",
    "detector_changes",
    "fit",
    "load_transfer",
    "map_network",
    "save_transfer",
]
