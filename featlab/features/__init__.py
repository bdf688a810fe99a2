"""From a map to a vector: one row per image, one column per neuron.

A table too large for memory lies in a scratch file instead (`feature_table`), and everything after
it reads it in blocks; `take_rows` picks rows of such a table without loading it.
"""

from featlab.features._tables import feature_table, take_rows
from featlab.features.components import component_scores, principal_components

__all__ = ["component_scores", "feature_table", "principal_components", "take_rows"]
