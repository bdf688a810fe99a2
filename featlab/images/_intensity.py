"""Grey levels of any number format → 8 bits: by the format, by the set, or by each file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from featlab.errors import FeatlabError

Scale = Callable[[npt.NDArray[np.generic]], npt.NDArray[np.uint8]]
Range = tuple[str, float, float]
"""Number format of a file ("byte", "integer", "float"), and its smallest and largest value."""
_BITS = {"byte": 8, "integer": 16}
_WIDE = (
    ("integer", 65535, "whole numbers outside 0 to 65535"),
    ("float", 255, "floating-point numbers"),
)
"""Formats whose values may lie anywhere, and what of them needs no stretching."""
_LEAST_USED = 4  # of this share of a range nobody need be told


def by_format(depth: str, low: float, high: float) -> Scale:
    """What brings 16-bit, 32-bit or floating-point grey to bytes, from the whole's range."""
    for top in [65535.0] if depth == "integer" else [1.0, 255.0]:
        if low >= 0 and high <= top:
            return lambda grey: np.rint(grey.astype(np.float64) * (255 / top)).astype(np.uint8)
    # Here high > low: a constant that fits nowhere has no contrast to keep.
    factor = 255 / max(high - low, 1e-300)
    return lambda grey: np.rint((grey.astype(np.float64) - low) * factor).astype(np.uint8)


def between(levels: str) -> Scale:
    """What brings values to bytes from "depth black white"; what lies outside is cut."""
    black, white = (float(value) for value in levels.split()[1:])
    factor = 255 / max(white - black, 1e-300)

    def scale(grey: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
        wide = (grey.astype(np.float64) - black) * factor
        return np.rint(np.clip(wide, 0, 255)).astype(np.uint8)

    return scale


def set_levels(ranges: Sequence[Range], intensity: str) -> list[str]:
    """What becomes black and white of each file, as "depth black white".

    Parameters
    ----------
    ranges : sequence of (str, float, float)
        Number format, smallest and largest value of each file.
    intensity : {"set", "file"}
        For "set", files of whole numbers from 0 on have one scale for each number format: 0 to
        255 · 2^(b - 8), where b bits hold the largest value, so that a picture of b bits becomes
        what its upper 8 bits show. Other formats reach from the smallest to the largest value.
    """
    if intensity == "file":
        return [f"{depth} {low:.9g} {high:.9g}" for depth, low, high in ranges]
    scales = {}
    for depth in {one[0] for one in ranges}:
        low = min(one[1] for one in ranges if one[0] == depth)
        high = max(one[2] for one in ranges if one[0] == depth)
        if depth in _BITS and low >= 0:
            low, high = 0, 255 * 2.0 ** (_bits(high) - 8)
        scales[depth] = f"{depth} {low:.9g} {high:.9g}"
    return [scales[depth] for depth, _, _ in ranges]


def like(intensity: str, ranges: Sequence[Range]) -> list[str]:
    """Levels of other files as those of a set, told as a store tells them (``intensity``)."""
    if intensity == EACH_FILE:
        return set_levels(ranges, "file")
    scales = {one.split()[0]: one for one in intensity.split(", ") if one}
    return [scales.get(depth, "") for depth, _, _ in ranges]


EACH_FILE = "from the smallest to the largest value of each file"
"""How grey levels are told where every file has its own."""
_MOST_LEVELS = 6


def scales_of(levels: Sequence[str]) -> str:
    """The few scales of a set; or that every file has its own."""
    few = sorted(set(levels))
    return ", ".join(few) if len(few) <= _MOST_LEVELS else EACH_FILE


_DEPTHS = {"byte": "8 bits", "integer": "more than 8 bits", "float": "floating point"}


def intensity_in_words(intensity: str) -> str:
    """What becomes black and white, as a store or a predictor tells it (``intensity``).

    Examples
    --------
    >>> intensity_in_words("integer 0 4080")
    'values 0 to 4080 of more than 8 bits become 0 to 255'
    """
    if intensity == EACH_FILE:
        return f"values {EACH_FILE} become 0 to 255"
    scales = [one.split() for one in intensity.split(", ") if one]
    parts = [f"{low} to {high} of {_DEPTHS.get(depth, depth)}" for depth, low, high in scales]
    return f"values {', '.join(parts)} become 0 to 255" if parts else ""


def check_range(ranges: Sequence[Range]) -> str:
    """Refuse pictures that all show one and the same grey; a word where few levels are used.

    Returns
    -------
    str
        Of few levels, or of each file's own; or "".

    Raises
    ------
    FeatlabError
        No picture shows anything.
    """
    warnings = []
    for depth, bits in _BITS.items():
        part = [one for one in ranges if one[0] == depth]
        if not part:
            continue
        low, high = min(one[1] for one in part), max(one[2] for one in part)
        if not 0 <= low <= high < 2**bits:
            continue
        unit = 2 ** (bits - 8)
        way_out = "--intensity set scales the set as one (in Python: intensity='set')"
        if len(part) == len(ranges) > 1 and round(low / unit) == round(high / unit):
            more = f"; the files hold values up to {high:g} of {2**bits - 1}: {way_out}"
            raise FeatlabError(
                f"every picture is constant: all pixels of all {len(ranges)} pictures show the "
                f"same grey{more if high > low else ''}."
            )
        if high * _LEAST_USED < 2**bits:
            share = 2 ** (bits - _bits(high))
            warnings.append(
                f"the {bits}-bit pictures use 1/{share} of their range (no value above {high:g} of "
                f"{2**bits - 1}), so about {max(1, 256 // share)} of 256 grey levels are left; "
                f"{way_out}"
            )
    for depth, top, kind in _WIDE:
        part = [one for one in ranges if one[0] == depth and not 0 <= one[1] <= one[2] <= top]
        if len({one[1:] for one in part}) > 1:
            warnings.append(
                f"{len(part)} pictures of {kind} are stretched from their own smallest to their "
                "own largest value; --intensity set takes those of the set (in Python: "
                "intensity='set')"
            )
    return "; ".join(warnings)


def _bits(high: float) -> int:
    """How many bits hold a whole number; at least one."""
    return max(1, int(high).bit_length())
