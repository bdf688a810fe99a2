"""Pictures on disk → statistics that no label went into."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from featlab.arguments import Progress, check_columns, tracked
from featlab.errors import FeatlabError
from featlab.images.decode import decode_scaled
from featlab.images.pixels import levels_of
from featlab.system.machine import compiled
from featlab.system.processes import in_order

Floats = NDArray[np.float64]
_Rows = NDArray[np.int16]

PICTURE_COLUMNS = (
    "brightness",
    "contrast",
    "red",
    "green",
    "blue",
    "saturation",
    "sharpness",
    "width",
    "height",
    "aspect",
    "file_size",
    "border_top",
    "border_bottom",
    "border_left",
    "border_right",
    "caption",
)
OBJECT_COLUMNS = ("n_objects", "object_area", "object_x", "object_y")

_MOST_THREADS = 8
_AHEAD = 64  # pictures that are asked for before one is measured
_SIDE = 256  # pixels: every picture's colours and sharpness are measured at this size
_LONGEST = 640  # pixels: writing is looked for at this size
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601

# Bands along the sides, and writing in them.
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
class Pictures:
    """What one look at every picture gives; row i is row i of the image table.

    Attributes
    ----------
    statistics : DataFrame of shape (n, 16)
        :data:`PICTURE_COLUMNS`; NaN where a picture cannot be read.
    readable : ndarray of bool, shape (n,)
    """

    statistics: pd.DataFrame
    readable: NDArray[np.bool_]


def picture_statistics(
    images: pd.DataFrame,
    root: str | os.PathLike[str] | None = None,
    *,
    boxes: pd.DataFrame | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Measure every picture without looking at labels.

    Parameters
    ----------
    images : DataFrame
        Image table; ``path`` is read, and ``width`` and ``height`` for the boxes.
    root : path-like, optional
        Folder of the pictures; the one in column ``folder`` by default.
    boxes : DataFrame, optional
        Box table of the same images, of one kind.
    progress : callable, optional
        Wraps the iteration over the pictures, like tqdm.

    Returns
    -------
    DataFrame of shape (n, 16) or (n, 20)
        Row i is row i of `images`; a picture that cannot be read is a row of NaN.

        ``brightness, contrast`` (mean and standard deviation of the luma), ``red, green, blue``
        (means), ``saturation`` (mean of HSV's): 0-1, of the picture stretched to 256 x 256 pixels.
        ``sharpness``: variance of the Laplacian of the luma of the same.
        ``width, height`` (pixels as shown), ``aspect`` (width / height), ``file_size`` (bytes).
        ``border_top, border_bottom, border_left, border_right``: thickness of a plain band with a
        sharp end along that side, as a share of the picture's height or width (0 to 0.45).
        ``caption``: the same for the band or margin at the top or the bottom that holds a line of
        writing.

        With `boxes`: ``n_objects``, ``object_area`` (share of the picture that the union of its
        boxes covers), ``object_x, object_y`` (centre of the largest box, 0-1); NaN for a picture
        without a box.

    Raises
    ------
    FeatlabError
        There is no root, or `images` has no ``path``.

    References
    ----------
    Pech-Pacheco et al. (2000). Diatom autofocusing in brightfield microscopy. ICPR 15, 314-317
    (variance of the Laplacian).
    """
    statistics = read_pictures(images, root, progress=progress).statistics
    return with_objects(statistics, images, boxes)


def with_objects(
    statistics: pd.DataFrame, images: pd.DataFrame, boxes: pd.DataFrame | None
) -> pd.DataFrame:
    """The statistics and, where there are boxes, what they say; NaN rows stay NaN."""
    if boxes is None or not len(boxes):
        return statistics
    objects = np.full((len(images), len(OBJECT_COLUMNS)), np.nan)
    sizes = images[["width", "height"]].to_numpy(float)
    corners = boxes[["xmin", "ymin", "xmax", "ymax"]].to_numpy(float)
    owners = boxes["image"].to_numpy(np.intp)
    order = np.argsort(owners, kind="stable")
    of_image = np.split(order, np.flatnonzero(np.diff(owners[order])) + 1)
    for some in of_image:
        row = owners[some[0]]
        scaled = corners[some] / np.tile(sizes[row], 2)
        area = (scaled[:, 2] - scaled[:, 0]) * (scaled[:, 3] - scaled[:, 1])
        left, top, right, bottom = scaled[area.argmax()]
        objects[row] = len(scaled), _union(scaled), (left + right) / 2, (top + bottom) / 2
    objects[statistics["brightness"].isna().to_numpy()] = np.nan
    return statistics.assign(**dict(zip(OBJECT_COLUMNS, objects.T, strict=True)))


def read_pictures(
    images: pd.DataFrame,
    root: str | os.PathLike[str] | None = None,
    *,
    progress: Progress | None = None,
) -> Pictures:
    """Decode every picture once and keep what the checks need; as :func:`picture_statistics`."""
    folder = _folder(images, root)
    paths = images["path"].tolist()
    statistics = np.full((len(paths), len(PICTURE_COLUMNS)), np.nan)
    readable = np.zeros(len(paths), dtype=np.bool_)
    Image.init()  # loads Pillow's plug-ins before threads do
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        tasks = zip(paths, levels_of(images), strict=True)
        # Not all at once: of a million pictures the waiting tasks alone take a gigabyte.
        measured = in_order(
            threads, lambda task: _measure(folder / task[0], task[1]), tasks, _AHEAD
        )
        for row, measures in zip(tracked(range(len(paths)), progress), measured, strict=True):
            if measures is not None:
                statistics[row] = measures
                readable[row] = True
    table = pd.DataFrame(statistics, columns=list(PICTURE_COLUMNS), index=images.index)
    return Pictures(table, readable)


def _folder(images: pd.DataFrame, root: str | os.PathLike[str] | None) -> Path:
    needed = ["path"] if root is not None else ["path", "folder"]
    check_columns("the image table", images, needed, "make it with index_images")
    return Path(images["folder"].iloc[0] if root is None else root)


def _measure(path: Path, levels: str) -> Floats | None:
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        data = path.read_bytes()
        picture = decode_scaled(data, 1, levels).image
    except (OSError, FeatlabError):
        return None
    width, height = picture.size
    bands = find_bands(_at_most(picture))
    statistics = [
        *_colours(picture),
        width,
        height,
        width / height,
        len(data),
        bands.top,
        bands.bottom,
        bands.left,
        bands.right,
        bands.caption,
    ]
    return np.array(statistics, dtype=np.float64)


def _colours(picture: Image.Image) -> list[float]:
    """Brightness, contrast, red, green, blue, saturation, sharpness.

    Sums are of whole numbers, exactly: colours of 0 to 255, luma in thousandths of them, and what
    its Laplacian is.
    """
    small = np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    *colours, saturation, luma, luma_2, curved, curved_2 = _loop()(small, _saturations())
    means = np.array(colours) / _SIDE**2 / 255
    return [
        float(means @ _LUMA),
        float(np.sqrt(_variance(luma, luma_2, _SIDE**2))) / 255_000,
        *means.tolist(),
        saturation / _SIDE**2 / 255,
        _variance(curved, curved_2, (_SIDE - 2) ** 2) / 255_000**2,
    ]


def _variance(total: int, squares: int, n: int) -> float:
    return (squares - float(total) ** 2 / n) / n


@functools.cache
def _loop() -> Callable[..., tuple[int, ...]]:
    return compiled(_sums)


def _sums(pixels: NDArray[np.uint8], saturations: NDArray[np.uint8]) -> tuple[int, ...]:
    """Of red, green, blue and saturation; of luma and its squares; of its Laplacian and squares."""
    height, width = pixels.shape[:2]
    luma = np.empty((height, width), np.int64)
    red = green = blue = saturation = total = squares = curved = curved_2 = 0
    for y in range(height):
        for x in range(width):
            r, g, b = int(pixels[y, x, 0]), int(pixels[y, x, 1]), int(pixels[y, x, 2])
            red, green, blue = red + r, green + g, blue + b
            saturation += int(saturations[256 * max(r, g, b) + min(r, g, b)])
            light = 299 * r + 587 * g + 114 * b
            luma[y, x], total, squares = light, total + light, squares + light * light
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            around = luma[y - 1, x] + luma[y + 1, x] + luma[y, x - 1] + luma[y, x + 1]
            curvature = int(around - 4 * luma[y, x])
            curved, curved_2 = curved + curvature, curved_2 + curvature * curvature
    return red, green, blue, saturation, total, squares, curved, curved_2


@functools.cache
def _saturations() -> NDArray[np.uint8]:
    """HSV's as Pillow counts it, 0 to 255, of 256 times the highest colour plus the lowest."""
    highest, lowest = np.divmod(np.arange(2**16), 256)
    share = (highest - lowest).astype(np.float32) / np.maximum(highest, 1).astype(np.float32)
    return (share.astype(np.float64) * 255).clip(0).astype(np.uint8)


def _at_most(picture: Image.Image) -> NDArray[np.uint8]:
    """The pixels, made smaller where the longer side exceeds 640."""
    shrink = _LONGEST / max(picture.size)
    if shrink < 1:
        size = (max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink)))
        picture = picture.resize(size, Image.Resampling.BOX)
    return np.asarray(picture)


def _union(corners: Floats) -> float:
    """Area that a few boxes cover together: cells of the grid that their sides make."""
    x, y = np.unique(corners[:, [0, 2]]), np.unique(corners[:, [1, 3]])
    across, down = (x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2
    left, top, right, bottom = corners.T[:, :, None]
    in_x, in_y = (left < across) & (across < right), (top < down) & (down < bottom)
    covered = (in_y[:, :, None] & in_x[:, None, :]).any(axis=0)
    return float((covered * np.outer(np.diff(y), np.diff(x))).sum())


@dataclass(frozen=True)
class Bands:
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


def find_bands(pixels: NDArray[np.uint8]) -> Bands:
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
    Bands
    """
    sideways = pixels.transpose(1, 0, 2)
    top, top_caption = _side(pixels)
    bottom, bottom_caption = _side(pixels[::-1])
    height, width = pixels.shape[:2]
    return Bands(
        top=top / height,
        bottom=bottom / height,
        left=_side(sideways)[0] / width,
        right=_side(sideways[::-1])[0] / width,
        caption=max(top_caption, bottom_caption) / height,
    )


def _side(rows: NDArray[np.uint8]) -> tuple[int, int]:
    """Thickness of the band that starts at row 0, and of what holds its writing, in rows."""
    height = len(rows)
    n = int(height * _THICKEST)
    if n <= _RIM_ROWS or rows.shape[1] <= _RIM_ROWS:
        return 0, 0
    # Nearly every picture is done after looking at two rows.
    rim = rows[:_RIM_ROWS].reshape(-1, 3).T.astype(np.int16, order="C")
    colour = _median(rim).astype(np.int16)
    off = np.abs(rim - colour[:, np.newaxis]).max(axis=0)
    is_plain = (off <= _PLAIN).reshape(_RIM_ROWS, -1).mean(axis=1) >= _RIM_SHARE
    if not is_plain.all() or _median(off) > _RIM_NOISE:
        return 0, 0
    off = _off(rows[: n + max(_RIM_ROWS, int(height * _BEYOND))].astype(np.int16), colour)
    plain = (off <= _PLAIN).mean(axis=1)
    going = np.logical_and.accumulate(plain >= _ROW_SHARE)
    reach = int(going[:n].sum())
    band = _band(plain, reach, max(6, int(height * _BEYOND)))
    if band and np.median(off[:band]) > _BAND_NOISE:
        return 0, 0
    return band, _caption(off, plain, band or reach, height, is_band=band > 0)


def _median(values: NDArray[np.int16]) -> Floats:
    """Along the last axis, as NumPy's, which takes three times as long for a few hundred values."""
    n = values.shape[-1]
    ordered = np.sort(values, axis=-1)
    middle: Floats = (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2
    return middle


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
