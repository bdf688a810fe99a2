"""What the functions of every room return: tables, and what they were made of.

Frozen dataclasses of DataFrames and arrays; they hold results and show themselves, and compute
nothing. `Results` is the whole of an analysis, which the report and the tables are made from.
"""

from featlab.results.analysis import Results
from featlab.results.comparison import Comparison
from featlab.results.heads import (
    BackboneComparison,
    Calibration,
    CrossValidation,
    HeadResults,
    SmallestSet,
)
from featlab.results.images import Audit, Embedding, Overview, Separation
from featlab.results.localisation import (
    BoxHeadResults,
    ClassWeights,
    Context,
    FittedMethods,
    HeatMethod,
    JointHeadResults,
    Localisation,
)
from featlab.results.networks import DamTrace, GradientResults, Transfer
from featlab.results.pictures import NeuronCard

__all__ = [
    "Audit",
    "BackboneComparison",
    "BoxHeadResults",
    "Calibration",
    "ClassWeights",
    "Comparison",
    "Context",
    "CrossValidation",
    "DamTrace",
    "Embedding",
    "FittedMethods",
    "GradientResults",
    "HeadResults",
    "HeatMethod",
    "JointHeadResults",
    "Localisation",
    "NeuronCard",
    "Overview",
    "Results",
    "Separation",
    "SmallestSet",
    "Transfer",
]
