"""Every figure; computes nothing.

Each function takes finished results and draws them: on the axes it is given, else on a new figure
that belongs to no global state, so it works without a display and in any thread. Functions that
draw one chart return its ``Axes`` and take `ax` after their data, functions that draw a grid return
its ``Figure``; none shows or saves. Colours are safe for colour-blind eyes, which a test measures.

Figures that only the page and the command line draw stay in their modules: `scores`, `curves`,
`pictures`, `neurons`, `data`, `gradients`, `network`; `style` has names that fit and the bytes of
an image file.
"""

from featlab.plots.curves import (
    ablation,
    calibration,
    learning_curve,
    success_curves,
    transfer_curves,
)
from featlab.plots.data import (
    box_statistics,
    class_balance,
    embedding_scatter,
    embedding_thumbnails,
)
from featlab.plots.gradients import dam_steps, gradient_maps
from featlab.plots.neurons import (
    activation_distributions,
    detector_aurocs,
    detector_changes,
    selected_vs_confirmed,
    volcano,
)
from featlab.plots.pictures import (
    detector_maps,
    localisation_examples,
    method_strips,
    neuron_card,
    sample_images,
)
from featlab.plots.scores import confounds, confusion_matrix, score_intervals
from featlab.plots.style import save_figure

__all__ = [
    "ablation",
    "activation_distributions",
    "box_statistics",
    "calibration",
    "class_balance",
    "confounds",
    "confusion_matrix",
    "dam_steps",
    "detector_aurocs",
    "detector_changes",
    "detector_maps",
    "embedding_scatter",
    "embedding_thumbnails",
    "gradient_maps",
    "learning_curve",
    "localisation_examples",
    "method_strips",
    "neuron_card",
    "sample_images",
    "save_figure",
    "score_intervals",
    "selected_vs_confirmed",
    "success_curves",
    "transfer_curves",
    "volcano",
]
