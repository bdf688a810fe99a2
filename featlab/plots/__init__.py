"""Every figure; computes nothing.

Each function takes finished results and draws them: on the axes it is given, else on a new figure
that belongs to no global state, so it works without a display and in any thread. Functions that
draw one chart return its ``Axes`` and take `ax` after their data, functions that draw a grid return
its ``Figure``; none shows or saves. Colours are safe for colour-blind eyes, which a test measures.

Figures that only the page and the command line draw stay in their modules: `scores`, `curves`,
`pictures`, `neurons`, `data`, `network`; `style` has names that fit and the bytes of
an image file.
"""

from featlab.plots.curves import calibration, learning_curve, transfer_curves
from featlab.plots.data import embedding_scatter, embedding_thumbnails
from featlab.plots.network import dam_steps
from featlab.plots.neurons import detector_changes, neuron_card, volcano
from featlab.plots.pictures import (
    detector_maps,
    localisation_examples,
    sample_pictures,
)
from featlab.plots.scores import confusion_matrix, detector_aurocs, score_intervals

__all__ = [
    "calibration",
    "confusion_matrix",
    "dam_steps",
    "detector_aurocs",
    "detector_changes",
    "detector_maps",
    "embedding_scatter",
    "embedding_thumbnails",
    "learning_curve",
    "localisation_examples",
    "neuron_card",
    "sample_pictures",
    "score_intervals",
    "transfer_curves",
    "volcano",
]
