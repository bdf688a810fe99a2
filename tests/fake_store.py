"""The one fake of a store: the reading side of a `MapStore`, over arrays in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from featlab import FeatlabError
from featlab.arguments import check_choice, row_numbers

CORNERS = ["xmin", "ymin", "xmax", "ymax"]


@dataclass
class FakeStore:
    """Images, boxes and maps as a store gives them.

    `array` has the maps ``(n, h, w, c)`` of the last layer, called `layer`; `others` those of
    earlier ones. Where `activations` ``(n, c)`` are given, these are the pooled values.
    `rows_read` remembers the rows whose maps were asked for in batches.
    """

    images: pd.DataFrame
    boxes: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["image", "kind", "label", *CORNERS])
    )
    array: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1, 1), np.float32))
    frames: np.ndarray | None = None
    layer: str = "top"
    others: dict[str, np.ndarray] = field(default_factory=dict)
    activations: np.ndarray | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    rows_read: list[int] = field(default_factory=list)
    own_head: Any = None
    skipped: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["path", "reason"]))
    own: pd.DataFrame | None = None
    path: Path = Path("fake.h5")
    created: str = "2026-03-01T12:00:00+00:00"

    def __post_init__(self) -> None:
        if self.frames is None:
            self.frames = np.tile([0.0, 0.0, 1.0, 1.0], (len(self), 1))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def layers(self) -> list[str]:
        return [*self.others, self.layer]

    @property
    def classes(self) -> list[str]:
        return sorted(self.images["label"].unique())

    @property
    def tables(self) -> SimpleNamespace:
        return SimpleNamespace(images=self.images if self.own is None else self.own)

    @property
    def thumbnails(self) -> None:
        return None

    def regrouped(self, groups: Any) -> FakeStore:
        return replace(self, images=self.images.assign(group=groups), own=self.tables.images)

    @property
    def colour_histogram(self) -> np.ndarray:
        return np.full((len(self), 64), 1 / 64)

    def layer_name(self, layer: str | None = None) -> str:
        if layer not in (None, *self.layers):
            raise FeatlabError(f"layer must be one of {', '.join(self.layers)}, got {layer!r}.")
        return layer or self.layer

    def map_shape(self, layer: str | None = None) -> tuple[int, ...]:
        return self._of(layer).shape[1:]

    def maps(self, rows: Any = None, *, layer: str | None = None) -> np.ndarray:
        return self._of(layer)[row_numbers(rows, self.images)]

    def iter_maps(
        self, rows: Any = None, *, layer: str | None = None, batch: int = 16
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for some in self._batches(rows, batch):
            self.rows_read += some.tolist()
            yield some, self._of(layer)[some]

    def pooled(
        self, rows: Any = None, *, layer: str | None = None, pooling: str = "mean"
    ) -> np.ndarray:
        check_choice("pooling", pooling, ("mean", "max"))
        asked = row_numbers(rows, self.images)
        if self.activations is not None:
            return self.activations[asked]
        return getattr(self._of(layer)[asked], pooling)(axis=(1, 2))

    def iter_pooled(
        self, rows: Any = None, *, layer: str | None = None, pooling: str = "mean", batch: int = 3
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for some in self._batches(rows, batch):
            yield some, self.pooled(some, layer=layer, pooling=pooling)

    def _of(self, layer: str | None) -> np.ndarray:
        return self.others.get(self.layer_name(layer), self.array)

    def _batches(self, rows: Any, batch: int) -> Iterator[np.ndarray]:
        asked = row_numbers(rows, self.images)
        return (asked[start : start + batch] for start in range(0, len(asked), batch))
