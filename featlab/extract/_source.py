"""What a pass needs of a network and its tables, and what decides the maps: the key of a store."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from threading import Condition
from typing import Any, Protocol

import numpy as np
import pandas as pd

from featlab.arguments import check_choice, check_whole
from featlab.errors import FeatlabError
from featlab.images.pixels import JPEG_MARGIN, InputReader, intensity_of, jpeg_factor
from featlab.store.format import (
    BOX_DTYPES,
    IMAGE_DTYPES,
    SKIPPED_DTYPES,
    Tables,
    annotations_digest,
    as_stored,
    pictures_digest,
)
from featlab.store.network import ANOTHER_PATH, DECIDING, MOST, OwnHead, refuse_other_output
from featlab.system import __version__

_USUAL_BATCH = 32


class MapSource(Protocol):
    """What the pass needs of a network; :class:`featlab.backbones.Backbone` is one.

    It may have two attributes more: `precision` ("float32" without it) and `engine`, with a
    `name`, a `batch_size`, and the `streams`: how many threads may call :meth:`forward` at the
    same time (one without it). Before a long pass its `settle` is called, if it has one: it may
    choose how it runs, and tell so in the engine's `details`. A network with a head of its own has
    `own_head`, an :class:`~featlab.store.network.OwnHead`, and, where that is not linear in the
    pooled maps, `forward_own`: from pixels to the maps and the head's logits.
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
class PassOptions:
    """How a pass runs the network over the images; the same for every way of making a store.

    Attributes
    ----------
    batch_size : int, optional
        Pictures per forward pass. By default what is fastest for the engine (8 on a processor, 32
        on a graphics card), or less where that would need more than a quarter of the memory.
    resize : {"stretch", "pad"}
        Stretch a picture onto the input, or keep its aspect and pad with grey.
    dtype : {"float16", "float32"}
        Number format of the maps; a layer that overflows float16 becomes float32 by itself.
    own_logits : {"top", "all"}
        Of the network's own classes, where it has a head: the 10 largest logits of each picture,
        or all.
    on_error : {"raise", "skip"}
        What to do about a picture that is gone, another or damaged when the pass comes to it: stop,
        or leave it out and name it in `skipped`.

    Raises
    ------
    FeatlabError
        What no pass can do.
    """

    batch_size: int | None = None
    resize: str = "stretch"
    dtype: str = "float16"
    own_logits: str = "top"
    on_error: str = "raise"

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_whole("batch_size", self.batch_size, 1)
        check_choice("resize", self.resize, ("stretch", "pad"))
        check_choice("dtype", self.dtype, ("float16", "float32"))
        check_choice("own_logits", self.own_logits, ("top", "all"))
        check_choice("on_error", self.on_error, ("raise", "skip"))


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


_VERSIONS = (*DECIDING, "openvino", "numpy", "h5py", "Pillow")


def store_key(images: pd.DataFrame, backbone: MapSource, options: PassOptions) -> dict[str, str]:
    """Everything that must agree before a store is taken for what would be written now.

    The engine is not part of it: in float32 all engines agree to 1e-4 of the largest activation.
    `jpeg_scaling` is there only where a picture is large enough to be scaled while it is decoded,
    `own_logits` only where all are asked for, `intensity` only where the set has levels of its own.
    """
    scaling = {"jpeg_scaling": f"to {JPEG_MARGIN} times the input"}
    return {
        **backbone.identity(),
        **({"own_logits": "all"} if options.own_logits == "all" else {}),
        **(scaling if _some_is_scaled(images, backbone.input_size, options.resize) else {}),
        "precision": precision_of(backbone),
        "resize": options.resize,
        "dtype": options.dtype,
        **pictures_key(images),
    }


def pictures_key(images: pd.DataFrame) -> dict[str, str]:
    """What of the key of a store is of its pictures alone."""
    levels = {"intensity": intensity_of(images)} if "levels" in images else {}
    return {**levels, "image_set_digest": pictures_digest(images)}


def _some_is_scaled(images: pd.DataFrame, size: tuple[int, int], resize: str) -> bool:
    """Whether a picture is large enough that the pass scales it while it is decoded."""
    least = 2 * JPEG_MARGIN
    large = images[(images["width"] >= least * size[1]) | (images["height"] >= least * size[0])]
    return any(
        jpeg_factor(path, width, height, size, resize) > 1
        for path, width, height in zip(large["path"], large["width"], large["height"], strict=True)
    )


def complete_tables(
    images: pd.DataFrame,
    boxes: pd.DataFrame | None,
    skipped: pd.DataFrame | None,
    about: Mapping[str, str] | None,
) -> Tables:
    """Check the tables; of the provenance there is only what the caller tells."""
    absent = [column for column in (*IMAGE_DTYPES, "folder") if column not in images]
    if absent or images.empty:
        raise FeatlabError(
            "images must be an image table of featlab.images.index_images with at least one row; "
            f"missing columns: {', '.join(absent) or 'none'}, rows: {len(images)}."
        )
    folders = images["folder"].unique()
    if len(folders) > 1:
        raise FeatlabError(
            f"images must lie in one folder, got {folders[0]} and {folders[1]}; make the paths "
            "relative to one that holds both."
        )
    boxes = pd.DataFrame(columns=list(BOX_DTYPES)) if boxes is None else boxes
    images = images.reset_index(drop=True).assign(folder=str(Path(folders[0]).resolve()))
    # As a file gives them back, so that their digests are those of what is stored.
    return Tables(
        as_stored(images, IMAGE_DTYPES),
        as_stored(boxes, BOX_DTYPES),
        pd.DataFrame(columns=list(SKIPPED_DTYPES)) if skipped is None else skipped,
        dict(about or {}),
    )


def provenance_of(tables: Tables) -> dict[str, str]:
    """What new tables tell of themselves: their digest, and what their provenance holds already."""
    return {**tables.provenance, "annotations_digest": annotations_digest(tables)}


def refuse_other_maps(
    provenance: Mapping[str, Any], backbone: MapSource, who: Any, way_out: str = ANOTHER_PATH
) -> None:
    """Under other library versions, the output on the probe picture must be the stored one."""
    if any(provenance.get(f"version_{name}") != version_of(name) for name in DECIDING):
        refuse_other_output(provenance, backbone.probe(), who, way_out)


def own_head_of(source: MapSource, options: PassOptions) -> OwnHead | None:
    """The network's own head; None where it has none.

    Raises
    ------
    FeatlabError
        All of its logits are asked for, and it has none.
    """
    head: OwnHead | None = getattr(source, "own_head", None)
    if head is None and options.own_logits == "all":
        raise FeatlabError(
            "own_logits must be 'top' for a network without a classifier of its own, got 'all'; of "
            "keras.applications ask for it with classifier=True (--classifier)."
        )
    return head


_LONG_PASS = 1000
_MOST_ASKED = 48


def settle(images: pd.DataFrame, source: MapSource) -> None:
    """Before a long pass: let a network that can choose how it runs do so."""
    choose = getattr(source, "settle", None)
    if choose is not None and len(images) >= _LONG_PASS:
        choose()


def warn_of_scaling(images: pd.DataFrame, source: MapSource, options: PassOptions) -> None:
    """Let a network with a head of its own look at a few labelled pictures before the pass."""
    ask = getattr(source, "warn_of_scaling", None)
    labelled = images[images["label"] != ""]
    if ask is None or getattr(source, "own_head", None) is None or labelled.empty:
        return
    some = labelled.iloc[np.unique(np.linspace(0, len(labelled) - 1, _MOST_ASKED).astype(int))]
    read = InputReader(some.reset_index(drop=True), source.input_size, options.resize)
    ask(lambda: np.stack([read(row)[0] for row in range(len(some))]), some["label"].tolist())


def logits_kept(head: OwnHead, options: PassOptions) -> int:
    """Logits of each picture that are kept."""
    return len(head.classes) if options.own_logits == "all" else min(MOST, len(head.classes))


def describe_pass(key: Mapping[str, str], backbone: MapSource, batch_size: int) -> dict[str, Any]:
    """The provenance of a store; makes one forward pass, over the probe picture."""
    probe, details = backbone.probe(), getattr(getattr(backbone, "engine", None), "details", "")
    digest = hashlib.sha256()
    for layer in sorted(probe):
        digest.update(np.round(probe[layer].astype(np.float64), 3).tobytes())
    return {
        **key,
        "weights": backbone.weights,
        "description": str(backbone.describe()),
        "fingerprint": digest.hexdigest()[:16],
        **{f"probe_{layer}": values.astype(np.float32) for layer, values in probe.items()},
        **{f"version_{name}": version_of(name) for name in _VERSIONS},
        "version_python": platform.python_version(),
        "featlab_version": __version__,
        "batch_size": batch_size,
        **({"engine_details": details} if details else {}),
    }


def version_of(package: str) -> str:
    """Version of an installed package, or the words "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


class Streams:
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
