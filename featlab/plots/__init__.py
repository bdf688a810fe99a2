"""Every figure; computes nothing.

Each function takes finished results and draws them: on the axes it is given, else on a new figure
that belongs to no global state, so it works without a display and in any thread. Functions that
draw one chart return its ``Axes``, functions that draw a grid its ``Figure``; none shows or saves.
Colours are safe for colour-blind eyes, which a test measures.
"""

from __future__ import annotations

from featlab.plots._base import encode, short_name, short_names
from featlab.plots.audit import confounds, flagged_images
from featlab.plots.boxheads import box_eda, box_heads
from featlab.plots.card import neuron_card
from featlab.plots.comparison import detector_aurocs, entry_scores
from featlab.plots.embed import embedding_scatter, embedding_thumbnails
from featlab.plots.gradients import (
    GRADIENT_METHOD_NAMES,
    cam_strips,
    dam_steps,
    faithfulness_scores,
    gradient_maps,
    randomisation_curves,
)
from featlab.plots.heads import ablation, backbones, calibration, learning_curve
from featlab.plots.localisation import method_strips, success_curves, threshold_curves
from featlab.plots.network import output_shape
from featlab.plots.neurons import activation_distributions, selected_vs_confirmed, volcano
from featlab.plots.pictures import detector_maps, localisation_examples, sample_images
from featlab.plots.scores import (
    class_balance,
    confusion_matrix,
    head_comparison,
    localisation_scores,
)
from featlab.plots.transfer import (
    detector_changes,
    small_images,
    transfer_comparison,
    transfer_curves,
)

__all__ = [
    "GRADIENT_METHOD_NAMES",
    "ablation",
    "activation_distributions",
    "backbones",
    "box_eda",
    "box_heads",
    "calibration",
    "cam_strips",
    "class_balance",
    "confounds",
    "confusion_matrix",
    "dam_steps",
    "detector_aurocs",
    "detector_changes",
    "detector_maps",
    "embedding_scatter",
    "embedding_thumbnails",
    "encode",
    "entry_scores",
    "faithfulness_scores",
    "flagged_images",
    "gradient_maps",
    "head_comparison",
    "learning_curve",
    "localisation_examples",
    "localisation_scores",
    "method_strips",
    "neuron_card",
    "output_shape",
    "randomisation_curves",
    "sample_images",
    "selected_vs_confirmed",
    "short_name",
    "short_names",
    "small_images",
    "success_curves",
    "threshold_curves",
    "transfer_comparison",
    "transfer_curves",
    "volcano",
]
