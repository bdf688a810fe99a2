"""What the pass needs of a network, and how it may be run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Progress = Callable[[Iterable[Any]], Iterable[Any]]

_USUAL_BATCH = 32


class MapSource(Protocol):
    """What the pass needs of a network; :class:`featlab.backbones.Backbone` is one.

    It may have two attributes more: `precision` ("float32" without it) and `engine`
    (:class:`featlab.backbones.Engine`), whose `streams` say how many threads may call
    :meth:`forward` at the same time (one without it).
    """

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""

    @property
    def weights(self) -> str:
        """Where the weights come from, in words."""

    def identity(self) -> dict[str, str]:
        """Everything that decides the maps; without a forward pass."""

    def probe(self) -> dict[str, np.ndarray]:
        """Layer → mean-pooled output ``(c,)`` on a fixed picture."""

    def forward(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Layer → maps ``(b, h, w, c)`` float32 of pictures ``(b, H, W, 3)`` uint8."""

    def describe(self) -> Any:
        """Anything whose ``str()`` describes the network."""


@dataclass(frozen=True)
class Running:
    """How a network is run.

    Attributes
    ----------
    engine : str
        Name of what runs it.
    streams : int
        Forward passes at the same time.
    batch_size : int
        Pictures per forward pass beyond which nothing is gained.
    """

    engine: str
    streams: int
    batch_size: int


def precision_of(source: MapSource) -> str:
    """Number format that the network computes in; loads nothing."""
    return str(getattr(source, "precision", "float32"))


def running_of(source: MapSource) -> Running:
    """How a network is run; builds it where that is not done yet."""
    engine = getattr(source, "engine", None)
    if engine is None:
        return Running("the network's own", 1, _USUAL_BATCH)
    return Running(engine.name, engine.streams, engine.batch_size)
