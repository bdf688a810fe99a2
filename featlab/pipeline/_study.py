"""The images that the network is run on again, and proof that it is the store's own network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from featlab.arguments import true_boxes
from featlab.backbones import Backbone
from featlab.boxes.geometry import CORNERS, picture_to_frame
from featlab.errors import FeatlabError
from featlab.gradients.dam import DAM_PRESETS
from featlab.gradients.network import HeadedNetwork
from featlab.images.pixels import InputReader
from featlab.store import MapStore

_TUNING_SHARE = 2 / 3  # images that thresholds are chosen on, per image scored
_FLOAT16 = 1e-3  # of the largest activation: rounding of the stored maps, and another batch size

LabelledProgress = Callable[..., Any]
"""Takes an iterable and ``label=``, and returns the iterable wrapped."""


@dataclass(frozen=True)
class Sample:
    """The images that are looked at again, in the order of the store.

    Attributes
    ----------
    rows : ndarray of shape (k,)
        Rows of the image table: those scored and those that choose thresholds.
    scored : ndarray of int
        Places in `rows` of the test images.
    pixels : ndarray of shape (k, H, W, 3), uint8
        As the network takes them.
    labels : ndarray of shape (k,), str
    groups : ndarray of shape (k,), str
    frames, sizes : ndarray of shape (k, 4) and (k, 2)
        Where the pictures lie in the input, and their original sizes.
    truth : DataFrame
        Box table.
    n : int
        Images of the store.
    """

    rows: np.ndarray
    scored: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    frames: np.ndarray
    sizes: np.ndarray
    truth: pd.DataFrame
    n: int

    def some(self, k: int) -> np.ndarray:
        """Places of `k` scored images, the classes in turn."""
        labels = self.labels[self.scored]
        turns = pd.Series(labels).groupby(labels).cumcount().to_numpy()
        return self.scored[np.lexsort([labels, turns])[:k]]

    def true_boxes(self, place: int) -> np.ndarray:
        """True boxes ``(j, 4)`` of an image, in pixels of the network's input."""
        own = self.truth[self.truth["image"] == self.rows[place]]
        unit = picture_to_frame(
            own[CORNERS].to_numpy(float), self.frames[[place]], self.sizes[[place]]
        )
        height, width = self.pixels.shape[1:3]
        return unit * np.array([width, height] * 2)

    def all_rows(self, values: np.ndarray) -> np.ndarray:
        """Values of the sample's images ``(k, ...)`` among NaN for all others."""
        whole = np.full((self.n, *values.shape[1:]), np.nan)
        whole[self.rows] = values
        return whole


@dataclass(frozen=True)
class Study:
    """The network with its head, and the images that it is run on."""

    store: MapStore
    split: pd.Series
    sample: Sample
    network: HeadedNetwork
    box_kind: str | None
    random_state: int
    progress: LabelledProgress | None
    seconds: dict[str, float] = field(default_factory=dict)

    @cached_property
    def refusal(self) -> str:
        """Why guided back-propagation is not possible, "" where it is."""
        try:
            _ = self.network.guided
        except FeatlabError as error:
            return str(error)
        return ""

    @property
    def presets(self) -> tuple[str, ...]:
        """Of DAM, which needs guided back-propagation."""
        return () if self.refusal else tuple(DAM_PRESETS)

    @property
    def rules(self) -> tuple[str, ...]:
        """How gradients pass a rectifier."""
        return ("plain",) if self.refusal else ("plain", "guided")

    def labelled(self, label: str) -> partial[Any] | None:
        """The progress of one step."""
        return None if self.progress is None else partial(self.progress, label=label)


def draw_sample(
    store: MapStore,
    split: pd.Series,
    size: tuple[int, int],
    *,
    n_images: int,
    box_kind: str | None,
    random_state: int,
) -> Sample:
    """Test images with boxes, and two thirds as many confirm images, drawn at random.

    Raises
    ------
    FeatlabError
        No test image has a box, or a picture is missing or has changed.
    """
    truth = true_boxes(store.images, store.boxes, box_kind)
    rng = np.random.default_rng(random_state)
    boxed = np.zeros(len(split), dtype=bool)
    boxed[truth["image"].to_numpy(np.int64)] = True
    drawn = []
    for side, n in (("test", n_images), ("confirm", round(n_images * _TUNING_SHARE))):
        rows = np.flatnonzero(boxed & (split == side).to_numpy())
        drawn.append(rng.choice(rows, min(n, len(rows)), replace=False))
    if not len(drawn[0]):
        raise FeatlabError(f"no test image of {store.path} has a box, so no box can be scored.")
    rows = np.union1d(*drawn)
    table = store.images.iloc[rows]
    return Sample(
        rows=rows,
        scored=np.flatnonzero(np.isin(rows, drawn[0])),
        pixels=network_input(store, rows, size),
        labels=table["label"].to_numpy(str),
        groups=table["group"].to_numpy(str),
        frames=store.frames[rows],
        sizes=table[["width", "height"]].to_numpy(float),
        truth=truth,
        n=len(store),
    )


def check_backbone(store: MapStore, backbone: Backbone) -> None:
    """Refuse a backbone that is not the one the store was made with.

    Raises
    ------
    FeatlabError
        Names the first difference, and both values.
    """
    for key, value in backbone.identity().items():
        stored = store.provenance.get(key)
        if stored != value:
            raise FeatlabError(
                f"{store.path} was made with another network: its {key.replace('_', ' ')} is "
                f"{stored}, that of the one given {value}. Give the store's own (--backbone, "
                "--weights)."
            )


def network_input(store: MapStore, rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pictures of some rows as the store's network saw them, ``(k, H, W, 3)`` uint8.

    Raises
    ------
    FeatlabError
        A picture is missing, or is not the one that the store was made from.
    """
    # A store that says nothing of it was made from pictures decoded whole.
    scaled = "jpeg_scaling" in store.provenance
    read = InputReader(store.images, size, str(store.provenance["resize"]), scaled)
    return np.stack([read(int(row))[0] for row in rows])


def check_maps(
    store: MapStore, rows: np.ndarray, network: HeadedNetwork, pixels: np.ndarray
) -> None:
    """Refuse where the network does not give the stored maps, within their rounding.

    Raises
    ------
    FeatlabError
        Names the largest difference.
    """
    stored = store.maps(rows, layer=network.layer)
    off = np.abs(network.maps(pixels) - stored).max()
    if off > _FLOAT16 * np.abs(stored).max():
        raise FeatlabError(
            f"the network does not give the maps of {store.path}: they differ by up to {off:.3g} "
            f"where the largest is {np.abs(stored).max():.3g}. Extract the store again."
        )
