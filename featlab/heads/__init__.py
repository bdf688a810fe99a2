"""Classifiers on the features, tuned inside train and scored once on test.

`evaluate_heads` on a split, `cross_validate_heads` where images are few. Then `compare_heads`,
`compare_all` and `compare_backbones`: is one better than another; `per_class` and
`calibration_table`: where is it wrong, and does it know; `learning_curve`: how many images does it
need; `ablation_curve` and `smallest_set`: which neurons. `NeuronSelector` chooses neurons inside a
fold. `save_head` writes arrays, `load_head` reads them: no pickles.
"""

from __future__ import annotations

from featlab.heads._backbones import BackboneComparison, compare_backbones
from featlab.heads._compare import compare_all, compare_heads, corrected_resampled_t
from featlab.heads._crossval import CrossValidation, cross_validate_heads
from featlab.heads._curves import learning_curve
from featlab.heads._details import calibration_table, per_class
from featlab.heads._estimators import CentroidClassifier
from featlab.heads._evaluation import classify, evaluate_heads
from featlab.heads._logistic import linear_weights
from featlab.heads._models import HEADS, HEADS_DEFAULT
from featlab.heads._needs import ablation_curve, smallest_set
from featlab.heads._saving import SavedHead, load_head, save_head
from featlab.heads._scores import METRICS
from featlab.heads._selector import NeuronSelector

__all__ = [
    "HEADS",
    "HEADS_DEFAULT",
    "METRICS",
    "BackboneComparison",
    "CentroidClassifier",
    "CrossValidation",
    "NeuronSelector",
    "SavedHead",
    "ablation_curve",
    "calibration_table",
    "classify",
    "compare_all",
    "compare_backbones",
    "compare_heads",
    "corrected_resampled_t",
    "cross_validate_heads",
    "evaluate_heads",
    "learning_curve",
    "linear_weights",
    "load_head",
    "per_class",
    "save_head",
    "smallest_set",
]
