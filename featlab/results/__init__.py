"""What the functions of every room return: tables, and what they were made of.

Frozen dataclasses of DataFrames and arrays; they hold results and show themselves, and compute
nothing. `Results` is the whole of an analysis, which the report and the tables are made from.
"""

from featlab.results.analysis import Results
from featlab.results.audit import Audit
from featlab.results.boxheads import BoxHeadResults, JointHeadResults
from featlab.results.comparison import Comparison
from featlab.results.embed import Embedding, Overview, Separation
from featlab.results.gradients import DamTrace, GradientResults
from featlab.results.heads import (
    BackboneComparison,
    Calibration,
    CrossValidation,
    HeadResults,
    SmallestSet,
)
from featlab.results.localisation import (
    ClassWeights,
    Context,
    FittedMethods,
    HeatMethod,
    Localisation,
)
from featlab.results.pictures import NeuronCard
from featlab.results.transfer import Transfer

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
