"""Runs the network again, on purpose: guided back-propagation, DAM, the Grad-CAM family.

:func:`attach_head` puts the user's own logistic head onto a network's mean-pooled maps,
:func:`attach_own_head` takes the classifier that the network brings; then
:func:`input_gradients` gives gradients of a class, a neuron or a unit with respect to the picture,
:func:`cam_heats` heat maps, :func:`dam_boxes` boxes. :func:`guided` makes the copy of a network
that guided back-propagation needs. :func:`randomisation_check` and :func:`faithfulness` ask
whether such maps mean anything.
"""

from featlab.gradients._backward import cam_heats, input_gradients
from featlab.gradients._checks import faithfulness, randomisation_check
from featlab.gradients._guided import guided
from featlab.gradients.dam import DamParameters, dam_boxes, dam_trace
from featlab.gradients.network import attach_head, attach_own_head

__all__ = [
    "DamParameters",
    "attach_head",
    "attach_own_head",
    "cam_heats",
    "dam_boxes",
    "dam_trace",
    "faithfulness",
    "guided",
    "input_gradients",
    "randomisation_check",
]
