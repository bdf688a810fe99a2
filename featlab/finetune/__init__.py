"""Thaw the top of the network and train it on the images; this room runs the network, on purpose.

`fit_finetuned` trains a head on a frozen backbone, or its last blocks too, as `TrainingOptions`
say. Its result is saved as a ``.keras`` file that `featlab.backbones.load_backbone` takes, so that
the fine-tuned network's maps go the same way as any other's. `compare_transfer` scores it beside
the heads on stored maps; `save_transfer` and `load_transfer` keep the tables of a study.
"""

from featlab.finetune._training import TrainingOptions
from featlab.finetune.fitting import fit_finetuned
from featlab.finetune.transfer import compare_transfer, load_transfer, save_transfer

__all__ = [
    "TrainingOptions",
    "compare_transfer",
    "fit_finetuned",
    "load_transfer",
    "save_transfer",
]
