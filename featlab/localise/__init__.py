"""Stored maps → heat maps → boxes, and how good they are; no network is touched.

:mod:`heat` combines neurons to heat maps, :mod:`regions` finds the box in a heat map,
:mod:`methods` says which neurons a method combines, :mod:`evaluation` scores methods beside
baselines, :mod:`pointing` scores single detectors.
"""

from __future__ import annotations

from featlab.localise.evaluation import (
    Localisation,
    boxes_of_kind,
    choose_threshold,
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
from featlab.localise.methods import example_heats, heats_for
from featlab.localise.pointing import neuron_pointing
from featlab.localise.regions import THRESHOLDS, heat_boxes

__all__ = [
    "THRESHOLDS",
    "Localisation",
    "boxes_of_kind",
    "cam_heat",
    "choose_threshold",
    "detector_heat",
    "detector_scale",
    "evaluate",
    "example_heats",
    "heat_boxes",
    "heat_on_picture",
    "heats_for",
    "neuron_heat",
    "neuron_pointing",
    "normalise",
    "select_boxes",
    "upsample",
]
