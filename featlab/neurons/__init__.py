"""Which neurons detect which class, and does it replicate.

Choose on the train rows (`rank_neurons`), judge the chosen ones on rows never used for choosing
(`confirm_neurons`): the largest of many effects is too large on the images it was chosen on.
"""

from __future__ import annotations

from featlab.neurons._anndata import to_anndata
from featlab.neurons._confirming import confirm_neurons, replication, select_neurons
from featlab.neurons._frequency import softmax_top_k
from featlab.neurons._images import bottom_images, top_images
from featlab.neurons._nulls import null_selection
from featlab.neurons._omnibus import compare_classes
from featlab.neurons._ranking import COLUMNS, rank_neurons
from featlab.neurons._redundancy import cluster_detectors

__all__ = [
    "COLUMNS",
    "bottom_images",
    "cluster_detectors",
    "compare_classes",
    "confirm_neurons",
    "null_selection",
    "rank_neurons",
    "replication",
    "select_neurons",
    "softmax_top_k",
    "to_anndata",
    "top_images",
]
