"""What made the maps of a store, and whether that is what is asked for now."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError
from featlab.extract._source import MapSource, precision_of
from featlab.images import JPEG_MARGIN, jpeg_factor
from featlab.store import BOX_DTYPES
from featlab.version import __version__

# Two libraries' rounding, as a share of the largest value; bfloat16 keeps 8 bits.
_PROBE_TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
_ANOTHER_PATH = "Give another path, or remove the file."
_WAY_OUT = {
    "image_set_digest": "The pictures are not the same. Give another path, with --append (in "
    "Python: append_maps) to run only those that are new."
}
_DECIDING = ("tensorflow", "keras")
_VERSIONS = (*_DECIDING, "openvino", "numpy", "h5py", "Pillow")


def store_key(images: pd.DataFrame, backbone: MapSource, resize: str, dtype: str) -> dict[str, str]:
    """Everything that must agree before a store is taken for what would be written now.

    The engine is not part of it: in float32 all engines agree to 1e-4 of the largest activation.
    `jpeg_scaling` is there only where a picture is large enough to be scaled while it is decoded.
    """
    scaling = {"jpeg_scaling": f"to {JPEG_MARGIN} times the input"}
    return {
        **backbone.identity(),
        **(scaling if _some_is_scaled(images, backbone.input_size, resize) else {}),
        "precision": precision_of(backbone),
        "resize": resize,
        "dtype": dtype,
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


def _digest(table: pd.DataFrame) -> str:
    lines = table.to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def refuse_difference(found: Mapping[str, Any], wanted: Mapping[str, str], path: Path) -> None:
    """Raise an error that names the first key that differs, and both values."""
    for name, value in wanted.items():
        if found.get(name) != value:
            raise FeatlabError(
                f"{path} was made with another {name.replace('_', ' ')}: {found.get(name)} there, "
                f"{value} asked for. {_WAY_OUT.get(name, _ANOTHER_PATH)}"
            )


def refuse_other_output(found: Mapping[str, Any], backbone: MapSource, path: Path) -> None:
    """Under other library versions, the output on the probe picture must be the stored one."""
    if all(found.get(f"version_{name}") == version_of(name) for name in _DECIDING):
        return
    tolerance = _PROBE_TOLERANCE[precision_of(backbone)]
    for layer, values in backbone.probe().items():
        stored = np.asarray(found.get(f"probe_{layer}", np.nan))
        scale = np.abs(values).max(initial=0)
        if stored.shape != values.shape or not np.allclose(
            stored, values, rtol=0, atol=tolerance * scale
        ):
            raise FeatlabError(
                f"{path} was made with other library versions, under which layer {layer!r} gives "
                "another output on the probe picture. Give another path, or remove the file."
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
