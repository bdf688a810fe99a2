"""What the pass needs of a network and takes as options; what it keeps of both in the store."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from featlab.arguments import check_choice, check_whole
from featlab.errors import FeatlabError
from featlab.images.pixels import JPEG_MARGIN, jpeg_factor
from featlab.store.format import BOX_DTYPES
from featlab.version import __version__

_USUAL_BATCH = 32


class MapSource(Protocol):
    """What the pass needs of a network; :class:`featlab.backbones.Backbone` is one.

    It may have two attributes more: `precision` ("float32" without it) and `engine`, with a
    `name`, a `batch_size`, and the `streams`: how many threads may call :meth:`forward` at the
    same time (one without it).
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

    Raises
    ------
    FeatlabError
        What no pass can do.
    """

    batch_size: int | None = None
    resize: str = "stretch"
    dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_whole("batch_size", self.batch_size, 1)
        check_choice("resize", self.resize, ("stretch", "pad"))
        check_choice("dtype", self.dtype, ("float16", "float32"))


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


# Two libraries' rounding, as a share of the largest value; bfloat16 keeps 8 bits.
_PROBE_TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
_ANOTHER_PATH = "Give another path, or remove the file."
_WAY_OUT = {
    "image_set_digest": "The pictures are not the same. Give another path, with --append (in "
    "Python: append_maps) to run only those that are new."
}
_DECIDING = ("tensorflow", "keras")
_VERSIONS = (*_DECIDING, "openvino", "numpy", "h5py", "Pillow")


def store_key(images: pd.DataFrame, backbone: MapSource, options: PassOptions) -> dict[str, str]:
    """Everything that must agree before a store is taken for what would be written now.

    The engine is not part of it: in float32 all engines agree to 1e-4 of the largest activation.
    `jpeg_scaling` is there only where a picture is large enough to be scaled while it is decoded.
    """
    scaling = {"jpeg_scaling": f"to {JPEG_MARGIN} times the input"}
    return {
        **backbone.identity(),
        **(scaling if _some_is_scaled(images, backbone.input_size, options.resize) else {}),
        "precision": precision_of(backbone),
        "resize": options.resize,
        "dtype": options.dtype,
        "image_set_digest": _digest(images[["path", "sha256"]]),
    }


def _some_is_scaled(images: pd.DataFrame, size: tuple[int, int], resize: str) -> bool:
    """Whether a picture is large enough that the pass scales it while it is decoded."""
    least = 2 * JPEG_MARGIN
    large = images[(images["width"] >= least * size[1]) | (images["height"] >= least * size[0])]
    return any(
        jpeg_factor(path, width, height, size, resize) > 1
        for path, width, height in zip(large["path"], large["width"], large["height"], strict=True)
    )


def annotations_digest(images: pd.DataFrame, boxes: pd.DataFrame) -> str:
    """Changes when labels, splits, groups or boxes do."""
    return _digest(images[["label", "split", "group"]]) + _digest(boxes[list(BOX_DTYPES)])


def told_by(images: pd.DataFrame, boxes: pd.DataFrame) -> dict[str, str]:
    """What the tables tell of themselves: their digest, how they were read, for what command."""
    known = {"command": images.attrs.get("command"), "indexed": images.attrs.get("indexed")}
    told = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in known.items()
        if value
    }
    return told | {"annotations_digest": annotations_digest(images, boxes)}


def _digest(table: pd.DataFrame) -> str:
    lines = table.to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def refuse_difference(
    stored: Mapping[str, Any], wanted: Mapping[str, str], path: Path, way_out: str = _ANOTHER_PATH
) -> None:
    """Raise an error that names the first key that differs, both values, and the way out."""
    for name, value in wanted.items():
        if stored.get(name) != value:
            raise FeatlabError(
                f"{path} was made with another {name.replace('_', ' ')}: {stored.get(name)} there, "
                f"{value} asked for. {_WAY_OUT.get(name, way_out)}"
            )


def refuse_other_output(
    provenance: Mapping[str, Any], backbone: MapSource, path: Path, way_out: str = _ANOTHER_PATH
) -> None:
    """Under other library versions, the output on the probe picture must be the stored one."""
    if all(provenance.get(f"version_{name}") == version_of(name) for name in _DECIDING):
        return
    tolerance = _PROBE_TOLERANCE[precision_of(backbone)]
    for layer, values in backbone.probe().items():
        stored = np.asarray(provenance.get(f"probe_{layer}", np.nan))
        scale = np.abs(values).max(initial=0)
        if stored.shape != values.shape or not np.allclose(
            stored, values, rtol=0, atol=tolerance * scale
        ):
            raise FeatlabError(
                f"{path} was made with other library versions, under which layer {layer!r} gives "
                f"another output on the probe picture. {way_out}"
            )


def describe_pass(key: Mapping[str, str], backbone: MapSource, batch_size: int) -> dict[str, Any]:
    """The provenance of a store; makes one forward pass, over the probe picture."""
    probe = backbone.probe()
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
    }


def version_of(package: str) -> str:
    """Version of an installed package, or the words "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
