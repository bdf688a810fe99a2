"""What the functions of every room return: tables, and what they were made of.

Frozen dataclasses of DataFrames and arrays; they hold results and show themselves, and compute
nothing. `Results` is the whole of an analysis, which the report and the tables are made from. What
only functions make has no door of its own.
"""

from featlab.results.analysis import Results
from featlab.results.localisation import ClassWeights, Context
from featlab.results.networks import GradientResults, Transfer

__all__ = [
    "ClassWeights",
    "Context",
    "GradientResults",
    "Results",
    "Transfer",
]
