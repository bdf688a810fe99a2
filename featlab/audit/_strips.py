"""Plain bands along the sides of a picture, and writing in them: found from pixels alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Rows = NDArray[np.int16]

_PLAIN = 12  # levels of 255 by which a pixel may differ from the band's colour
_INK = 64  # levels by which writing differs from it
_RIM_ROWS = 2
_RIM_SHARE = 0.9  # of the outermost rows must be plain: writing hardly touches the rim
_RIM_NOISE = 2.0  # levels: a band is made by a program, a studio background by a camera
_BAND_NOISE = 3.0  # levels, over all of the band
_ROW_SHARE = 0.4  # of every row of the band must be plain: writing leaves gaps
_END_SHARE = 0.6  # of the last row must be plain
_DROP = 0.5  # by which the plain share falls behind it
_BEYOND_SHARE = 0.4  # the picture behind the band is not plain
_BEYOND = 0.05  # of the height: so much of the picture behind the band is looked at
_THICKEST = 0.45
_LEAST_STROKES = 10
_BEFORE_SHARE = 0.8  # of every row between the rim and a line without a band must be plain
_GAP_ROWS = 4  # behind a line of writing, before the next thing
_TALLEST_LINE = 0.1  # of the height, for writing without a band


@dataclass(frozen=True)
class Strips:
    """Bands and writing of one picture, as shares of its height (left, right: of its width).

    Attributes
    ----------
    top, bottom, left, right : float
        Thickness of the plain band along that side, 0 to 0.45; 0 where there is none.
    caption : float
        From the top or bottom rim to the end of the band or margin that holds a line of writing,
        the thicker one of both; 0 where there is none.
    """

    top: float
    bottom: float
    left: float
    right: float
    caption: float


def find_strips(pixels: NDArray[np.uint8]) -> Strips:
    """Bands of one colour along the sides, such as letterbox bars, and captions in them.

    A band starts at the rim with two plain rows (90 % of the pixels within 12 levels of their
    median colour, half of them within two), goes on while 40 % of each row is plain, and ends
    abruptly: within two rows the plain share falls by 0.5, and the picture behind it is not plain.
    Studio backgrounds, skies and dark corners end gradually, and half of a band's pixels lie within
    three levels of its colour. A caption is a line of writing in the band: rows of which one
    changes ten times between plain and ink (64 levels away). Without a band, a line of at most 10 %
    of the height counts if it comes first from the rim and plain background lies behind it.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (h, w, 3)

    Returns
    -------
    Strips
    """
    upright = pixels.astype(np.int16)
    sideways = upright.transpose(1, 0, 2)
    top, top_caption = _side(upright)
    bottom, bottom_caption = _side(upright[::-1])
    height, width = pixels.shape[:2]
    return Strips(
        top=top / height,
        bottom=bottom / height,
        left=_side(sideways)[0] / width,
        right=_side(sideways[::-1])[0] / width,
        caption=max(top_caption, bottom_caption) / height,
    )


def _side(rows: _Rows) -> tuple[int, int]:
    """Thickness of the band that starts at row 0, and of what holds its writing, in rows."""
    height = len(rows)
    n = int(height * _THICKEST)
    if n <= _RIM_ROWS or rows.shape[1] <= _RIM_ROWS:
        return 0, 0
    # Nearly every picture is done after looking at two rows.
    rim = rows[:_RIM_ROWS]
    colour = np.median(rim.reshape(-1, 3), axis=0).astype(np.int16)
    off = _off(rim, colour)
    if (off <= _PLAIN).mean(axis=1).min() < _RIM_SHARE or np.median(off) > _RIM_NOISE:
        return 0, 0
    off = _off(rows[: n + max(_RIM_ROWS, int(height * _BEYOND))], colour)
    plain = (off <= _PLAIN).mean(axis=1)
    going = np.logical_and.accumulate(plain >= _ROW_SHARE)
    reach = int(going[:n].sum())
    band = _band(plain, reach, max(6, int(height * _BEYOND)))
    if band and np.median(off[:band]) > _BAND_NOISE:
        return 0, 0
    return band, _caption(off, plain, band or reach, height, is_band=band > 0)


def _band(plain: NDArray[np.float64], reach: int, beyond: int) -> int:
    """Rows of the band, which ends abruptly within the first `reach` rows; else 0."""
    for end in range(reach - 1, _RIM_ROWS - 2, -1):
        following = plain[end + 1 : end + 1 + beyond]
        if len(following) < _RIM_ROWS or plain[end] < _END_SHARE:
            continue
        drop = plain[end] - following[:_RIM_ROWS].min()
        if drop >= _DROP and np.median(following) < _BEYOND_SHARE:
            return end + 1
    return 0


def _caption(
    off: _Rows, plain: NDArray[np.float64], reach: int, height: int, *, is_band: bool
) -> int:
    """Rows up to the end of what holds the line of writing nearest to the rim; else 0."""
    ink = off[:reach] > _INK
    strokes = (ink[:, 1:] != ink[:, :-1]).sum(axis=1)
    edges = np.diff(np.concatenate([[0], (strokes >= 2).astype(np.int8), [0]]))
    lines = zip(np.flatnonzero(edges > 0), np.flatnonzero(edges < 0), strict=True)
    for start, stop in lines:
        tallest = reach if is_band else max(4, height * _TALLEST_LINE)
        if not 2 <= stop - start <= tallest or strokes[start:stop].max() < _LEAST_STROKES:
            continue
        if is_band:
            return reach
        # Without a band around it, a line of writing has nothing but background on both sides.
        behind = plain[stop : stop + _GAP_ROWS]
        if (
            plain[:start].min(initial=1.0) >= _BEFORE_SHARE
            and len(behind)
            and behind.max() >= _RIM_SHARE
        ):
            return int(stop)
        return 0
    return 0


def _off(rows: _Rows, colour: _Rows) -> NDArray[np.int16]:
    """Largest difference from a colour over red, green and blue."""
    red, green, blue = (np.abs(rows[:, :, k] - colour[k]) for k in range(3))
    return np.maximum(np.maximum(red, green), blue)
