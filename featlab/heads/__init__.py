"""Classifiers on the features, tuned inside train and scored once on test.

`evaluate_heads` on a split, `cross_validate_heads` where images are few. Then `compare_heads` and
`compare_backbones`: is one better than another; `per_class` and `calibration`: where is it
wrong, and does it know; `learning_curve`: how many images does it need; `ablation_curve` and
`smallest_set`: which neurons. `NeuronSelector` chooses neurons inside a fold. `save_head` writes
arrays, `load_head` reads them: no pickles.
"""

from featlab.heads._curves import ablation_curve, learning_curve, smallest_set
from featlab.heads._evaluation import cross_validate_heads, evaluate_heads
from featlab.heads.comparison import compare_backbones, compare_heads
from featlab.heads.models import NeuronSelector
from featlab.heads.saving import load_head, save_head
from featlab.heads.scores import calibration, per_class
from featlab.heads.training import linear_weights

__all__ = [
    "NeuronSelector",
    "ablation_curve",
    "calibration",
    "compare_backbones",
    "compare_heads",
    "cross_validate_heads",
    "evaluate_heads",
    "learning_curve",
    "linear_weights",
    "load_head",
    "per_class",
    "save_head",
    "smallest_set",
]
