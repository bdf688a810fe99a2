"""Stored maps → heat maps → boxes, and how good they are; no network is touched.

:mod:`methods` says what each heat map is made of, :mod:`fitting` what is learnt for it on train
images, :mod:`heat` combines neurons to heat maps, :mod:`regions` finds the box in a heat map,
:mod:`matching` compares boxes with the true ones and corrects them, :mod:`scores` and
:mod:`evaluation` score methods beside baselines, :mod:`detectors` judges single neurons.
"""

from __future__ import annotations

from featlab.localise.detectors import neuron_pointing, unit_localisation
from featlab.localise.evaluation import LocalisationOptions, evaluate_localisation
from featlab.localise.fitting import fit_methods
from featlab.localise.heat import heat_maps, heat_on_picture
from featlab.localise.methods import METHODS, register
from featlab.localise.regions import choose_threshold, heat_boxes
from featlab.localise.scores import compare_methods

__all__ = [
    "METHODS",
    "LocalisationOptions",
    "choose_threshold",
    "compare_methods",
    "evaluate_localisation",
    "fit_methods",
    "heat_boxes",
    "heat_maps",
    "heat_on_picture",
    "neuron_pointing",
    "register",
    "unit_localisation",
]
