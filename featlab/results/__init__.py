"""What the functions of every room return: tables, and what they were made of.

Frozen dataclasses of DataFrames and arrays; they hold results and show themselves, and compute
nothing. `Results` is the whole of an analysis, which the report and the tables are made from.
"""

from featlab.results.analysis import HeadResults, Results
from featlab.results.images import Audit, Overview
from featlab.results.localisation import BoxHeadResults, ClassWeights, Context, Localisation
from featlab.results.networks import GradientResults, Transfer
from featlab.results.pictures import Comparison, NeuronCard

__all__ = [
    "Audit",
    "BoxHeadResults",
    "ClassWeights",
    "Comparison",
    "Context",
    "GradientResults",
    "HeadResults",
    "Localisation",
    "NeuronCard",
    "Overview",
    "Results",
    "Transfer",
]
