"""Stored maps → heat maps → boxes, and how good they are; no network is touched.

:mod:`heat` combines neurons to heat maps, :mod:`regions` finds the box in a heat map,
:mod:`registry` says which neurons a method combines, :mod:`evaluation` scores methods beside
baselines, :mod:`refine` corrects boxes, :mod:`pointing` and :mod:`units` judge single detectors.
"""

from __future__ import annotations

from featlab.localise.comparison import compare_methods
from featlab.localise.components import Regions, all_regions
from featlab.localise.evaluation import evaluate
from featlab.localise.fitting import fit_methods
from featlab.localise.heat import (
    cam_heat,
    detector_heat,
    detector_scale,
    fuse_heats,
    heat_on_picture,
    neuron_heat,
    normalise,
    upsample,
)
from featlab.localise.methods import example_heats, heats_for, method_heats
from featlab.localise.pointing import neuron_pointing
from featlab.localise.refine import BoxCorrection, corrected_boxes, fit_correction
from featlab.localise.regions import THRESHOLDS, HeatScores, heat_boxes, score_boxes, score_heats
from featlab.localise.registry import METHODS, register
from featlab.localise.scoring import SCORES
from featlab.localise.thresholds import choose_threshold, stable_threshold
from featlab.localise.truth import boxes_of_kind, select_boxes
from featlab.localise.units import unit_localisation

__all__ = [
    "METHODS",
    "SCORES",
    "THRESHOLDS",
    "BoxCorrection",
    "HeatScores",
    "Regions",
    "all_regions",
    "boxes_of_kind",
    "cam_heat",
    "choose_threshold",
    "compare_methods",
    "corrected_boxes",
    "detector_heat",
    "detector_scale",
    "evaluate",
    "example_heats",
    "fit_correction",
    "fit_methods",
    "fuse_heats",
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
    "stable_threshold",
    "unit_localisation",
    "upsample",
]
