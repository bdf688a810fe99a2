"""From a map to a vector: one row per image, one column per neuron.

A table too large for memory lies in a scratch file instead (`feature_table`), and everything after
it reads it in blocks; `take_rows` picks rows of such a table without loading it.
"""

from __future__ import annotations

from featlab.features._components import Components, principal_components
from featlab.features._tables import POOLINGS, feature_table, softmax
from featlab.system.scratch import take_rows

__all__ = [
    "POOLINGS",
    "Components",
    "feature_table",
    "principal_components",
    "softmax",
    "take_rows",
]
