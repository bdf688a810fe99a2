"""Box geometry and the localisation scores: arrays in, arrays out.

A box is ``xmin, ymin, xmax, ymax`` in continuous coordinates: its width is ``xmax - xmin``, without
the "+1" of pixel-counting code. Scores of a set of images take `weights`, so that they can be
resampled (:func:`featlab.intervals.bootstrap_draws`).

What is defined where: an image with several true boxes counts by the best of them; an image
without boxes is NaN and left out of every mean; an empty box (no width or height) has IoU 0 with
everything; boxes may touch or leave the picture's border, nothing is clipped.

:mod:`geometry` has the coordinates and the boxes of baselines, :mod:`scores` what sets of images
are scored by.
"""

from __future__ import annotations

from featlab.boxes.geometry import iou, iou_matrix
from featlab.boxes.scores import IGNORE, box_accuracy, max_box_acc, max_box_acc_v2, pxap

__all__ = [
    "IGNORE",
    "box_accuracy",
    "iou",
    "iou_matrix",
    "max_box_acc",
    "max_box_acc_v2",
    "pxap",
]
