"""Which neurons detect which class, and does it replicate.

Choose on the train rows (`rank_neurons`), judge the chosen ones on rows never used for choosing
(`confirm_neurons`): the largest of many effects is too large on the images it was chosen on.
"""

from __future__ import annotations

from featlab.neurons._confirming import confirm_neurons, select_neurons
from featlab.neurons._frequency import softmax_top_k
from featlab.neurons._ranking import COLUMNS, rank_neurons

__all__ = ["COLUMNS", "confirm_neurons", "rank_neurons", "select_neurons", "softmax_top_k"]
