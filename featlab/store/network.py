"""What a store knows of its network, its own head and what that says; numbers as they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from scipy.special import logsumexp

from featlab.errors import FeatlabError

IDENTITY = (
    *("backbone", "weights_sha256", "input_size", "layers", "output_stride", "preprocessing"),
    *("precision", "resize", "dtype"),
)
"""What must be the same of the network and the pass for the maps to be the same."""
DECIDING = ("tensorflow", "keras")
"""Libraries under whose other versions the same network may give other maps."""
PROBE = "probe_"
"""Before a layer's name: its output on the probe picture."""
# Two libraries' rounding, as a share of the largest value; bfloat16 keeps 8 bits.
_FINE, _COARSE = 1e-3, 3e-2
ANOTHER_PATH = "Give another path, or remove the file."
"""What to do where a file is of another network or another set."""
_WAY_OUT = {
    "image_set_digest": "The pictures are not the same. Give another path, or remove the file; of "
    "a store of `featlab extract`, `--append` (in Python: append_maps) runs only those that are "
    "new."
}

_FLOAT16_SMALLEST = float(np.finfo(np.float16).smallest_normal)  # below it digits are lost

CODES, LOGITS, TOTALS = "own/codes", "own/logits", "own/totals"
PER_IMAGE = (CODES, LOGITS, TOTALS)
"""Datasets with a row an image: places of the largest logits, those logits, log-sum-exp of all."""
HEAD = "own_head"
"""Group of the classes and, where the head is linear, its weights."""
MOST = 10
"""Logits kept of each picture, unless all are asked for."""


@dataclass(frozen=True)
class OwnHead:
    """The classes that a network was trained to tell, and how it tells them.

    Attributes
    ----------
    classes : tuple of k str
        Each once, in the order of the network's outputs.
    layer : str
        The maps that the head stands on.
    coef : ndarray of shape (k, c), float32, or None
        Weights of the mean-pooled maps; None where the head is not linear in them.
    intercept : ndarray of shape (k,), float32, or None
    """

    classes: tuple[str, ...]
    layer: str
    coef: np.ndarray | None = None
    intercept: np.ndarray | None = None

    @property
    def linear(self) -> bool:
        """Whether a linear layer follows the mean-pooled maps."""
        return self.coef is not None

    def logits(self, pooled: np.ndarray) -> np.ndarray:
        """Logits ``(n, k)`` of mean-pooled maps ``(n, c)`` by a linear head."""
        assert self.coef is not None
        return np.asarray(pooled @ self.coef.T + self.intercept, dtype=np.float32)


def refuse_difference(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], who: Any, way_out: str = ANOTHER_PATH
) -> None:
    """Raise an error that names the first key that differs, both values, and the way out."""
    for name, value in wanted.items():
        if stored.get(name) != value:
            raise FeatlabError(
                f"{who} was made with another {name.replace('_', ' ')}: {stored.get(name)} there, "
                f"{value} asked for. {_WAY_OUT.get(name, way_out)}"
            )


def refuse_other_output(
    provenance: Mapping[str, Any],
    probe: Mapping[str, np.ndarray],
    who: Any,
    way_out: str = ANOTHER_PATH,
) -> None:
    """The output on the probe picture must be the stored one, to the libraries' own rounding."""
    tolerance = _COARSE if provenance.get("precision") == "bfloat16" else _FINE
    for layer, values in probe.items():
        stored = np.asarray(provenance.get(f"{PROBE}{layer}", np.nan))
        scale = np.abs(values).max(initial=0)
        if stored.shape != values.shape or not np.allclose(
            stored, values, rtol=0, atol=tolerance * scale
        ):
            raise FeatlabError(
                f"{who} was made with other library versions, under which layer {layer!r} gives "
                f"another output on the probe picture. {way_out}"
            )


class Ranges:
    """Smallest and largest value of each layer over a pass; refuses maps that hold but one."""

    def __init__(self) -> None:
        self._pictures = 0
        self._ends: dict[str, tuple[float, float, np.dtype]] = {}

    def add(self, ends: Mapping[str, tuple[float, float, np.dtype]], pictures: int) -> None:
        """Take in a batch: layer → smallest, largest value and the type it is stored in."""
        for layer, (lowest, highest, dtype) in ends.items():
            low, high, before = self._ends.get(layer, (lowest, highest, dtype))
            wider = np.result_type(before, dtype)
            self._ends[layer] = (min(low, lowest), max(high, highest), wider)
        self._pictures += pictures

    def check(self) -> None:
        """Refuse what tells no picture from another.

        Raises
        ------
        FeatlabError
            A layer gave the same value in every cell of two pictures or more, or values that
            float16 does not tell apart, or holds with few digits.
        """
        for layer, (low, high, dtype) in self._ends.items():
            where = f"the network's output at layer {layer!r}"
            if low == high and self._pictures > 1:
                raise FeatlabError(
                    f"{where} is {low:g} in every cell of all {self._pictures} pictures; check its "
                    "weights and preprocessing, or take another layer."
                )
            same = np.float16(low) == np.float16(high)
            small = max(abs(low), abs(high)) < _FLOAT16_SMALLEST
            if dtype == np.float16 and low < high and (same or small):
                raise FeatlabError(
                    f"{where} lies between {low:.7g} and {high:.7g}, which float16 does not tell "
                    "apart; store it with dtype='float32' (--dtype float32)."
                )


def network_facts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Of a store's provenance, what tells its network from others: :data:`IDENTITY` and probe."""
    versions = [f"version_{name}" for name in DECIDING]
    return {
        name: value
        for name, value in provenance.items()
        if name in (*IDENTITY, *versions) or name.startswith(PROBE)
    }


def refuse_other_network(
    own: Mapping[str, Any], provenance: Mapping[str, Any], who: Any, way_out: str
) -> None:
    """Raise an error where a store is of another network than the one that `own` tells of.

    Parameters
    ----------
    own : mapping of str to object
        From :func:`network_facts`.
    provenance : mapping of str to object
        Of the store.
    who : object
        The store, in the sentence.
    way_out : str
        What to do, a sentence.

    Raises
    ------
    FeatlabError
        Names what differs, and both values.
    """
    refuse_difference(
        provenance, {name: own[name] for name in IDENTITY if name in own}, who, way_out
    )
    if any(provenance.get(f"version_{n}") != own.get(f"version_{n}") for n in DECIDING):
        prefix = "probe_"
        probe = {
            n.removeprefix(prefix): np.asarray(v) for n, v in own.items() if n.startswith(prefix)
        }
        refuse_other_output(provenance, probe, who, way_out)


def largest(logits: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """What is kept of logits ``(n, k)``: dataset → ``(n, most)``, the largest first; the total."""
    order = np.stack([_first_smallest(row, most) for row in -logits])
    return {
        CODES: order.astype(np.int32),
        LOGITS: np.take_along_axis(logits, order, axis=1).astype(np.float32),
        TOTALS: logsumexp(logits.astype(np.float64), axis=1, keepdims=True).astype(np.float32),
    }


def _first_smallest(values: np.ndarray, most: int) -> np.ndarray:
    """As a stable sort would begin, in a third of its time: of equal ones the first comes first."""
    limit = np.partition(values, most - 1)[most - 1]
    candidates = np.flatnonzero(~(values > limit))  # NaN, which comes last, among them
    return candidates[np.argsort(values[candidates], kind="stable")[:most]]


def write_head(file: h5py.File, head: OwnHead) -> None:
    """Add the group of the head."""
    group = file.create_group(HEAD)
    group.attrs["layer"] = head.layer
    names = np.array(head.classes, dtype=object)
    text = h5py.string_dtype("utf-8")
    group.create_dataset("classes", data=names, dtype=text, track_times=False)
    for name in ("coef", "intercept"):
        if (values := getattr(head, name)) is not None:
            write_numbers(group, name, values)


def write_numbers(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """Add numbers, in one chunk with a checksum: nothing else in a store tells a changed one."""
    whole = {"chunks": values.shape, "fletcher32": True} if values.size else {}
    group.create_dataset(name, data=values, track_times=False, **whole)


def checked_head(classes: Any, layer: Any, arrays: dict[str, np.ndarray]) -> OwnHead:
    """The head as a file tells it; ValueError where its parts do not fit."""
    head = OwnHead(tuple(str(name) for name in classes), str(layer), **arrays)
    k = len(head.classes)
    if k < 2 or len(set(head.classes)) < k:
        raise ValueError("a head needs two classes or more, each once")
    if (head.coef is None) != (head.intercept is None):
        raise ValueError("weights without intercepts, or the other way round")
    if head.coef is not None and head.intercept is not None:
        if head.coef.ndim != 2 or len(head.coef) != k or head.intercept.shape != (k,):
            raise ValueError(f"{k} classes, weights {head.coef.shape}")
        if not (np.isfinite(head.coef).all() and np.isfinite(head.intercept).all()):
            raise ValueError("weights that are not finite")
    return head


def float16_bits(values: np.ndarray) -> np.ndarray:
    """float32 as float16 to the bit as NumPy rounds it, in half of NumPy's time.

    Parameters
    ----------
    values : ndarray of float32
        Each finite, and below 65,520 in size.

    Returns
    -------
    ndarray of uint16, one-dimensional
    """
    bits = np.ravel(values).view(np.uint32)
    size = bits & 0x7FFFFFFF
    # Added to 2**13 times its own power of two a number is rounded to the digits of a float16.
    power = np.maximum(size & 0x7F800000, 113 << 23)
    power += 13 << 23
    total = (size.view(np.float32) + power.view(np.float32)).view(np.uint32)
    total -= power
    power >>= 13
    total += power
    total -= 126 << 10
    if bits.view(np.int32).min(initial=0) < 0:
        total |= (bits >> 16) & 0x8000
    return total.astype(np.uint16)
