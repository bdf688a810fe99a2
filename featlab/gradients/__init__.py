"""Runs the network again, on purpose: guided back-propagation, DAM, the Grad-CAM family.

:func:`attach_head` puts the user's own logistic head onto a network's mean-pooled maps; then
:func:`input_gradients` gives gradients of a class, a neuron or a unit with respect to the picture,
:func:`cam_heats` heat maps, :func:`dam_boxes` boxes. :func:`guided` makes the copy of a network
that guided back-propagation needs. :func:`randomisation_check` and :func:`faithfulness` ask
whether such maps mean anything.
"""

from __future__ import annotations

from featlab.gradients._backward import RULES, input_gradients, layer_gradients
from featlab.gradients._cams import CAMS, cam_heats
from featlab.gradients._dam import dam_boxes, dam_trace
from featlab.gradients._dam_steps import (
    DAM_PRESETS,
    DamParameters,
    enclosing_box,
    masked_losses,
    percentile_mask,
    top_units,
    unit_scores,
)
from featlab.gradients._faithfulness import (
    FAITHFULNESS_BASELINES,
    FAITHFULNESS_SCORES,
    faithfulness,
)
from featlab.gradients._head import LinearHead
from featlab.gradients._network import HeadedNetwork, attach_head
from featlab.gradients._rectifiers import Guided, guided
from featlab.gradients._sanity import randomisation_check

__all__ = [
    "CAMS",
    "DAM_PRESETS",
    "FAITHFULNESS_BASELINES",
    "FAITHFULNESS_SCORES",
    "RULES",
    "DamParameters",
    "Guided",
    "HeadedNetwork",
    "LinearHead",
    "attach_head",
    "cam_heats",
    "dam_boxes",
    "dam_trace",
    "enclosing_box",
    "faithfulness",
    "guided",
    "input_gradients",
    "layer_gradients",
    "masked_losses",
    "percentile_mask",
    "randomisation_check",
    "top_units",
    "unit_scores",
]
