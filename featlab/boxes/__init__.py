"""Box geometry and the localisation scores: arrays in, arrays out.

A box is ``xmin, ymin, xmax, ymax`` in continuous coordinates: its width is ``xmax - xmin``, without
the "+1" of pixel-counting code. Scores of a set of images take `weights`, so that they can be
resampled (:func:`featlab.intervals.bootstrap_draws`).

What is defined where: an image with several true boxes counts by the best of them; an image
without boxes is NaN and left out of every mean; an empty box (no width or height) has IoU 0 with
everything; boxes may touch or leave the picture's border, nothing is clipped.

``legacy_*`` are wrong measures, kept to reproduce published figures.
"""

from __future__ import annotations

from featlab.boxes._geometry import (
    CORNERS,
    best_iou,
    centre_heat,
    centre_in_box,
    frame_to_picture,
    iou,
    iou_matrix,
    mean_box,
    picture_to_frame,
    pixel_boxes,
    unit_boxes,
    whole_image_boxes,
)
from featlab.boxes._legacy import (
    legacy_batch_iou,
    legacy_corners_as_width,
    legacy_iou_plus_one,
)
from featlab.boxes._pixels import (
    IGNORE,
    box_masks,
    heat_in_mask,
    pixel_histograms,
    pointing_hits,
    pxap,
)
from featlab.boxes._scores import (
    DELTAS,
    box_acc_at,
    box_accuracy,
    max_box_acc,
    max_box_acc_v2,
    mean_score,
    success_curve,
    top1_hits,
)

__all__ = [
    "CORNERS",
    "DELTAS",
    "IGNORE",
    "best_iou",
    "box_acc_at",
    "box_accuracy",
    "box_masks",
    "centre_heat",
    "centre_in_box",
    "frame_to_picture",
    "heat_in_mask",
    "iou",
    "iou_matrix",
    "legacy_batch_iou",
    "legacy_corners_as_width",
    "legacy_iou_plus_one",
    "max_box_acc",
    "max_box_acc_v2",
    "mean_box",
    "mean_score",
    "picture_to_frame",
    "pixel_boxes",
    "pixel_histograms",
    "pointing_hits",
    "pxap",
    "success_curve",
    "top1_hits",
    "unit_boxes",
    "whole_image_boxes",
]
