"""What a box head learns: one box per image, as numbers in the frame of the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from featlab import boxes as bx
from featlab.errors import FeatlabError

if TYPE_CHECKING:
    from featlab.store import MapStore

TARGETS = ("centre_size", "corners")
"""What a head regresses: centre with log size, or corners; shares of the input."""
POLICIES = ("largest", "best_match")
"""Which box is the truth where an image has several."""

_LEAST_SIDE = 0.01  # of the picture's side: no predicted box is thinner
_SMALLEST_LOG = -6.0


@dataclass(frozen=True)
class BoxedImages:
    """The images of a store that have a box of the kind asked for.

    Attributes
    ----------
    rows : ndarray of shape (n,)
        Row numbers of the image table, rising.
    boxes : DataFrame
        All boxes of these images.
    sizes : ndarray of shape (n, 2)
        Width and height of the pictures, pixels.
    frames : ndarray of shape (n, 4)
        Where the pictures lie in the network's input.
    largest : ndarray of shape (n, 4)
        The largest box of each image, pixels of the original.
    """

    rows: np.ndarray
    boxes: pd.DataFrame
    sizes: np.ndarray
    frames: np.ndarray
    largest: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """The largest boxes in unit coordinates of the network's input."""
        return bx.picture_to_frame(self.largest, self.frames, self.sizes)

    def some(self, places: np.ndarray) -> BoxedImages:
        """These images alone."""
        rows = self.rows[places]
        return BoxedImages(
            rows,
            self.boxes[self.boxes["image"].isin(rows)].reset_index(drop=True),
            self.sizes[places],
            self.frames[places],
            self.largest[places],
        )

    def to_pixels(self, boxes: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Boxes of the images `which`, unit coordinates of the input → pixels, never empty."""
        return bx.frame_to_picture(
            tidy(boxes, self.frames[which]), self.frames[which], self.sizes[which]
        )

    def best_matching(self, boxes: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Of each image its box that overlaps `boxes` best, else its largest; in the frame."""
        predicted, chosen = self.to_pixels(boxes, which), self.largest[which].copy()
        best = np.zeros(len(which))
        place = {int(self.rows[i]): k for k, i in enumerate(which)}
        table = self.boxes[self.boxes["image"].isin(list(place))]
        owner = np.array([place[int(image)] for image in table["image"]], dtype=np.intp)
        truth = table[bx.CORNERS].to_numpy(float)
        for k, box, value in zip(owner, truth, bx.iou(predicted[owner], truth), strict=True):
            if value > best[k]:
                best[k], chosen[k] = value, box
        return bx.picture_to_frame(chosen, self.frames[which], self.sizes[which])


def boxed_images(store: MapStore, box_kind: str | None) -> BoxedImages:
    """The images with boxes, and the largest box of each.

    Boxes that are empty, or that name another class of the store than their image's, are left out.

    Raises
    ------
    FeatlabError
        No box at all, several kinds and none chosen, or an unknown kind.
    """
    table = boxes_of(store, box_kind)
    if table.empty:
        raise FeatlabError("the store has no boxes to learn from; extract with an annotated set.")
    area = (table["xmax"] - table["xmin"]) * (table["ymax"] - table["ymin"])
    order = area.sort_values(ascending=False, kind="stable").index
    largest = table.loc[order].drop_duplicates("image").sort_values("image")
    rows = largest["image"].to_numpy(np.int64)
    return BoxedImages(
        rows=rows,
        boxes=table,
        sizes=store.images[["width", "height"]].to_numpy(float)[rows],
        frames=np.asarray(store.frames, dtype=float)[rows],
        largest=largest[bx.CORNERS].to_numpy(float),
    )


def boxes_of(store: MapStore, box_kind: str | None) -> pd.DataFrame:
    """The store's solid boxes of one kind and of their image's own class."""
    table = store.boxes
    kinds = sorted(table["kind"].astype(str).unique())
    if box_kind is None and len(kinds) > 1:
        raise FeatlabError(
            f"the boxes are of several kinds ({', '.join(kinds)}); choose one with box_kind=."
        )
    if box_kind is not None and box_kind not in kinds:
        raise FeatlabError(f"box_kind must be one of {', '.join(kinds)}, got {box_kind!r}.")
    if box_kind is not None:
        table = table[table["kind"] == box_kind]
    labels = store.images["label"].to_numpy()
    own = labels[table["image"].to_numpy(np.int64)]
    foreign = table["label"].isin(set(labels)).to_numpy() & (table["label"].to_numpy() != own)
    solid = ((table["xmax"] > table["xmin"]) & (table["ymax"] > table["ymin"])).to_numpy()
    return table[~foreign & solid].reset_index(drop=True)


def encode_boxes(boxes: np.ndarray, target: str) -> np.ndarray:
    """Corners → what is regressed: the corners, or the centre and the logarithms of the sides."""
    if target == "corners":
        return np.asarray(boxes, dtype=float)
    low, high = boxes[:, :2], boxes[:, 2:]
    return np.hstack([(low + high) / 2, np.log(np.maximum(high - low, 1e-6))])


def decode_boxes(values: np.ndarray, target: str) -> np.ndarray:
    """The inverse of :func:`encode_boxes`; the corners are in order and inside [0, 1]."""
    values = np.asarray(values, dtype=float)
    if target == "centre_size":
        half = np.exp(np.clip(values[:, 2:], _SMALLEST_LOG, 0)) / 2
        values = np.hstack([values[:, :2] - half, values[:, :2] + half])
    return tidy(values, np.array([[0.0, 0.0, 1.0, 1.0]]))


def tidy(boxes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Boxes with ``xmin < xmax`` and ``ymin < ymax``, cut at the frame of the picture."""
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    first, last = frames[:, :2], frames[:, 2:]
    low, high = np.clip(low, first, last), np.clip(high, first, last)
    least = _LEAST_SIDE * (last - first)
    centre = np.clip((low + high) / 2, first + least / 2, last - least / 2)
    thin = high - low < least
    return np.hstack(
        [np.where(thin, centre - least / 2, low), np.where(thin, centre + least / 2, high)]
    )


def mirrored(boxes: np.ndarray) -> np.ndarray:
    """Boxes of the pictures mirrored left to right, in unit coordinates of the input."""
    return np.column_stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]])
