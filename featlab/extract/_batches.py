"""The work on one batch: read, decode, resize, forward, pool, compress."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError
from featlab.extract._source import MapSource, Running
from featlab.images import (
    colour_histogram,
    decode_scaled,
    jpeg_factor,
    picture_frame,
    resize_image,
)
from featlab.store import EncodedMaps, encode_maps
from featlab.system.machine import total_memory

if TYPE_CHECKING:
    from pandas.api.extensions import ExtensionArray

S = TypeVar("S")
T = TypeVar("T")

# The first convolutions are the widest: 64 channels at the input's own resolution (VGG16), in
# float32, and a layer holds its input, its output and room to work.
_BYTES_PER_PIXEL = 64 * 4 * 3
_MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class Batch:
    """What is kept of a batch.

    Attributes
    ----------
    maps : dict of str to EncodedMaps
        Of each layer.
    colours : ndarray of shape (b, 64)
        Colour histograms.
    frames : ndarray of shape (b, 4)
        Where the pictures lie in the input.
    """

    maps: dict[str, EncodedMaps]
    colours: np.ndarray
    frames: np.ndarray


@dataclass(frozen=True)
class PictureReader:
    """Reads, checks and resizes pictures of the image table."""

    images: pd.DataFrame
    size: tuple[int, int]
    resize: str

    def batch(self, rows: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels ``(b, H, W, 3)`` uint8, colours ``(b, 64)`` and frames ``(b, 4)``."""
        columns = (column[rows.start : rows.stop].tolist() for column in self._columns)
        read = (self._one(*entry) for entry in zip(*columns, strict=True))
        pixels, colours, frames = zip(*read, strict=True)
        return np.stack(pixels), np.stack(colours), np.array(frames, dtype=np.float64)

    @cached_property
    def _columns(self) -> list[ExtensionArray]:
        """What is needed of a picture; to cut rows out of the table takes much longer."""
        return [self.images[name].array for name in ("path", "sha256", "width", "height")]

    def _one(
        self, path: str, sha256: str, width: int, height: int
    ) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
        file = Path(self.images.attrs["root"], path)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise FeatlabError(f"{file} could not be read: {error.strerror}.") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise FeatlabError(f"{file} has changed since the folder was indexed; index it again.")
        factor = jpeg_factor(path, width, height, self.size, self.resize)
        try:
            picture = decode_scaled(data, factor)
        except FeatlabError as error:
            raise FeatlabError(f"{file}: {error}") from error
        frame = picture_frame(picture.width, picture.height, self.size, self.resize)
        resized = resize_image(picture.image, self.size, self.resize, box=picture.box)
        return resized, colour_histogram(picture.image), frame


class Turns:
    """Forward passes run in as many lanes as pay, in each in the order of the batches.

    With one lane a network meets the pictures in the same order each time.

    Parameters
    ----------
    streams : int
        Number of lanes.
    """

    def __init__(self, streams: int) -> None:
        self._streams = streams
        self._changed = Condition()
        self._finished: set[int] = set()
        self._all_below = 0

    def wait(self, number: int) -> None:
        """Wait until the batch before it in its lane has had its turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._had(number - self._streams))

    def finish(self, number: int) -> None:
        """A batch has had its turn, or will not take it."""
        with self._changed:
            # One that failed early must not let the next one pass those before it.
            self._changed.wait_for(lambda: self._had(number - self._streams))
            self._finished.add(number)
            while self._all_below in self._finished:
                self._finished.remove(self._all_below)
                self._all_below += 1
            self._changed.notify_all()

    def _had(self, number: int) -> bool:
        return number < self._all_below or number in self._finished


@dataclass(frozen=True)
class BatchMaker:
    """Does all of the work on a batch in the thread that calls it.

    While one thread is in its forward pass others read or compress, so every core has work
    without a thread more than there are cores.

    Attributes
    ----------
    reader : PictureReader
    backbone : MapSource
    dtype : {"float16", "float32"}
    turns : Turns
        Holds back the threads for which the network has no stream.
    """

    reader: PictureReader
    backbone: MapSource
    dtype: str
    turns: Turns

    def __call__(self, numbered: tuple[int, range]) -> Batch:
        """The batch of some rows of the image table; batches are numbered from 0, in order."""
        number, rows = numbered
        try:
            pixels, colours, frames = self.reader.batch(rows)
            self.turns.wait(number)
            maps = self.backbone.forward(pixels)
        finally:
            self.turns.finish(number)
        encoded = {layer: encode_maps(layer, values, self.dtype) for layer, values in maps.items()}
        return Batch(encoded, colours, frames)


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[S], T], tasks: Iterable[S], ahead: int
) -> Iterator[T]:
    """Results of `work` in the order of the tasks; never more than `ahead` are under way."""
    waiting = iter(tasks)
    running: deque[Future[T]] = deque(pool.submit(work, task) for task in islice(waiting, ahead))
    while running:
        result = running.popleft().result()
        running.extend(pool.submit(work, task) for task in islice(waiting, 1))
        yield result


def automatic_batch_size(running: Running, input_size: tuple[int, int]) -> int:
    """The engine's own batch size, halved until it fits into a quarter of the memory."""
    per_picture = _BYTES_PER_PIXEL * input_size[0] * input_size[1]
    room = _MEMORY_SHARE * total_memory() / running.streams / per_picture
    size = running.batch_size
    while size > max(room, 1):
        size //= 2
    return size
