"""Stored maps → heat maps → boxes, and how good they are; no network is touched.

:mod:`methods` says what each heat map is made of, :mod:`fitting` what is learnt for it on train
images, :mod:`heat` combines neurons to heat maps, :mod:`regions` finds the box in a heat map,
:mod:`matching` compares boxes with the true ones and corrects them, :mod:`scores` and
:mod:`evaluation` score methods beside baselines, :mod:`detectors` judges single neurons.
"""

from __future__ import annotations

from featlab.localise.detectors import unit_localisation
from featlab.localise.evaluation import LocalisationOptions, evaluate_localisation
from featlab.localise.heat import heat_maps, heat_on_picture
from featlab.localise.methods import METHODS, register
from featlab.localise.regions import heat_boxes
from featlab.localise.scores import compare_methods

__all__ = [
    "METHODS",
    "LocalisationOptions",
    "compare_methods",
    "evaluate_localisation",
    "heat_boxes",
    "heat_maps",
    "heat_on_picture",
    "register",
    "unit_localisation",
]
