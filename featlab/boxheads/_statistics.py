"""What the boxes of a store look like, before anything is fitted to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from featlab import boxes as bx
from featlab.boxheads._targets import boxes_of

if TYPE_CHECKING:
    from featlab.store import MapStore


def box_statistics(store: MapStore, box_kind: str | None = None) -> pd.DataFrame:
    """Size, shape and place of every box, in units of its picture.

    Parameters
    ----------
    store : MapStore
    box_kind : str, optional
        Which boxes, where the store has several kinds.

    Returns
    -------
    DataFrame, one row per box
        ``image`` (row of the image table), ``label`` (the image's), ``kind``; ``x, y`` (centre),
        ``width, height`` (shares of the picture's sides), ``area`` (share of the picture),
        ``aspect`` (width / height in pixels), ``on_border`` (within 1 % of a side of the picture's
        border), ``boxes_in_image``, ``largest`` (of its image; exactly one per image).
        ``attrs``: ``n_images``, ``n_images_with_boxes``, ``mean_box`` (corners, unit coordinates
        of the picture, over all boxes), ``n_left_out`` (empty boxes, and boxes of another class
        than their image's).

    Raises
    ------
    FeatlabError
        The kind is unknown, or there are several and none was chosen.
    """
    table = boxes_of(store, box_kind)
    of_kind = store.boxes if box_kind is None else store.boxes[store.boxes["kind"] == box_kind]
    rows = table["image"].to_numpy(np.int64)
    sizes = store.images[["width", "height"]].to_numpy(float)[rows]
    pixels = table[bx.CORNERS].to_numpy(float)
    unit = bx.unit_boxes(pixels, sizes) if len(table) else pixels
    sides, pixel_sides = unit[:, 2:] - unit[:, :2], pixels[:, 2:] - pixels[:, :2]
    stats = pd.DataFrame(
        {
            "image": rows,
            "label": store.images["label"].to_numpy()[rows],
            "kind": table["kind"].to_numpy(),
            "x": (unit[:, 0] + unit[:, 2]) / 2,
            "y": (unit[:, 1] + unit[:, 3]) / 2,
            "width": sides[:, 0],
            "height": sides[:, 1],
            "area": sides.prod(axis=1),
            "aspect": pixel_sides[:, 0] / pixel_sides[:, 1],
            "on_border": (unit[:, :2] <= 0.01).any(axis=1) | (unit[:, 2:] >= 0.99).any(axis=1),
        }
    )
    stats["boxes_in_image"] = stats.groupby("image")["image"].transform("size")
    order = pd.Series(pixel_sides.prod(axis=1)).sort_values(ascending=False, kind="stable").index
    stats["largest"] = ~stats.loc[order, "image"].duplicated()
    stats.attrs.update(
        n_images=len(store),
        n_images_with_boxes=int(stats["image"].nunique()),
        n_left_out=len(of_kind) - len(table),
        mean_box=unit.mean(axis=0).tolist() if len(unit) else None,
    )
    return stats
