"""Stored maps → heat maps → boxes, and how good they are; no network is touched.

:mod:`heat` combines neurons to heat maps, :mod:`regions` finds the box in a heat map,
:mod:`methods` says which neurons a method combines, :mod:`evaluation` scores methods beside
baselines, :mod:`pointing` scores single detectors.
"""

from __future__ import annotations

from featlab.localise.comparison import compare_methods
from featlab.localise.components import Regions, all_regions
from featlab.localise.context import Context
from featlab.localise.evaluation import (
    Localisation,
    boxes_of_kind,
    evaluate,
    select_boxes,
)
from featlab.localise.heat import (
    cam_heat,
    detector_heat,
    detector_scale,
    heat_on_picture,
    neuron_heat,
    normalise,
    upsample,
)
from featlab.localise.methods import (
    FittedMethods,
    example_heats,
    fit_methods,
    heats_for,
    method_heats,
)
from featlab.localise.pointing import neuron_pointing
from featlab.localise.regions import THRESHOLDS, HeatScores, heat_boxes, score_boxes, score_heats
from featlab.localise.registry import METHODS, HeatMethod, register
from featlab.localise.scoring import SCORES, choose_threshold
from featlab.localise.units import unit_localisation

__all__ = [
    "METHODS",
    "SCORES",
    "THRESHOLDS",
    "Context",
    "FittedMethods",
    "HeatMethod",
    "HeatScores",
    "Localisation",
    "Regions",
    "all_regions",
    "boxes_of_kind",
    "cam_heat",
    "choose_threshold",
    "compare_methods",
    "detector_heat",
    "detector_scale",
    "evaluate",
    "example_heats",
    "fit_methods",
    "heat_boxes",
    "heat_on_picture",
    "heats_for",
    "method_heats",
    "neuron_heat",
    "neuron_pointing",
    "normalise",
    "register",
    "score_boxes",
    "score_heats",
    "select_boxes",
    "unit_localisation",
    "upsample",
]
