"""The regions of a heat map one by one, as other libraries list them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from featlab.localise._components import Regions

NO_BOXES = np.zeros((0, 4))


class Listed(NamedTuple):
    """By cut, then by first pixel: the cut's place, the box, pixels, and what a region encloses."""

    cut: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    enclosed: np.ndarray


def listed(regions: Regions) -> Listed:
    of_cut = regions.statistics[:, regions.level]
    region, cut = np.nonzero(of_cut[..., 4])
    rows = of_cut[region, cut]
    order = np.lexsort((rows[:, 1], cut))
    xmin, first, xmax, ymax, area, twice = rows[order].T
    boxes = np.column_stack([xmin, first // regions.columns, xmax, ymax])
    return Listed(cut[order], boxes, area, twice / 2)
