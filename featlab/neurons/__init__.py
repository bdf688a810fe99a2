"""Which neurons detect which class, and does it replicate.

Choose on the train rows (`rank_neurons`), judge the chosen ones on rows never used for choosing
(`confirm_neurons`): the largest of many effects is too large on the images it was chosen on. What
other rooms compute with ranks is in `rank_statistics`.
"""

from featlab.neurons._confirming import confirm_neurons, null_selection
from featlab.neurons._detectors import (
    cluster_detectors,
    ranked_images,
    replication,
    select_neurons,
    softmax_top_k,
    to_anndata,
)
from featlab.neurons._omnibus import compare_classes
from featlab.neurons._ranking import rank_neurons

__all__ = [
    "cluster_detectors",
    "compare_classes",
    "confirm_neurons",
    "null_selection",
    "rank_neurons",
    "ranked_images",
    "replication",
    "select_neurons",
    "softmax_top_k",
    "to_anndata",
]
