"""Thaw the top of the network and train it on the images; this room runs the network, on purpose.

`fit_finetuned` trains a head on a frozen backbone, or its last blocks too, as `TrainingOptions`
say. Its result is saved as a ``.keras`` file that `featlab.backbones.load_backbone` takes, so that
the fine-tuned network's maps go the same way as any other's. `featlab.pipeline.transfer_study`
sets it beside the heads on stored maps.
"""

from featlab.finetune._training import TrainingOptions
from featlab.finetune.fitting import fit_finetuned

__all__ = ["TrainingOptions", "fit_finetuned"]
