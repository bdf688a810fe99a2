"""From a finished store to everything a report tells.

Only :func:`analyse_gradients` and :func:`transfer_study` run the network again. An analysis is a
list of stages; `scheduler` runs them, some beside the others.
"""

from __future__ import annotations

from featlab.pipeline._analysis import analyse, write_results
from featlab.pipeline._comparison import compare_stores
from featlab.pipeline._gradients import analyse_gradients
from featlab.pipeline.detectors import neuron_card
from featlab.pipeline.scheduler import on_cluster
from featlab.pipeline.stores import distinct_store
from featlab.pipeline.transfer import transfer_study

__all__ = [
    "analyse",
    "analyse_gradients",
    "compare_stores",
    "distinct_store",
    "neuron_card",
    "on_cluster",
    "transfer_study",
    "write_results",
]
