"""From decoded pixels to the network's input and colours; boxes in pixels of the picture shown."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.extensions import ExtensionArray
from PIL import Image

from featlab.arguments import check_choice, check_columns
from featlab.errors import FeatlabError, PictureGoneError
from featlab.images._intensity import intensity_in_words as intensity_in_words
from featlab.images._intensity import scales_of
from featlab.images.decode import Inspection, ScaledPicture, decode_scaled

JPEG_MARGIN = 3
"""How many times the size at which the network sees it a JPEG is decoded, at least. At this margin
the network's output differs as much as between two saves of the picture, at JPEG quality 92 and 95
(docs/speed.md)."""

PAD_GREY = 127
"""Grey level around a padded picture. Nearly every network centres its input on mid-grey, so this
border is close to zero for it, where a black or white one would be a strong edge."""

# Counting more pixels takes time and hardly changes the shares (docs/speed.md).
_COUNTED = 1 << 15
THUMBNAIL = 48
"""Sides of a stored thumbnail, in pixels: enough to tell copies (benchmarks/copies.py)."""
BOX_TOLERANCE = 1.0
"""How far, in pixels, a box may lie outside its picture and still be clipped."""
BOX_TOLERANCE_SHARE = 0.05
"""The same as a share of the picture's side, where that is more."""
_Corners = tuple[float, float, float, float]
_Record = tuple[str, str, str, int, int, str]
"""Folder, path, digest, width, height and levels of a picture."""
_JPEG_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}


def resize_picture(
    picture: npt.NDArray[np.uint8] | Image.Image,
    size: tuple[int, int],
    mode: str = "stretch",
    *,
    box: tuple[float, float, float, float] | None = None,
) -> npt.NDArray[np.uint8]:
    """Bring a picture to the size of the network's input.

    Bilinear interpolation whose support grows when the picture shrinks (antialiasing), as in
    Pillow.

    Parameters
    ----------
    picture : ndarray of uint8, shape (h, w, 3), or image of Pillow in mode RGB
    size : (int, int)
        Height and width of the network's input in pixels.
    mode : {"stretch", "pad"}
        "stretch" fills the input and changes the aspect ratio; "pad" keeps it, with the picture
        centred on grey 127. :func:`picture_frame` says where the picture lies.
    box : (float, float, float, float), optional
        What of `picture` is used: left, top, right, bottom in its pixels; all of it by default.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    FeatlabError
        If an argument is out of its range.

    Examples
    --------
    >>> resize_picture(np.zeros((10, 20, 3), np.uint8), (8, 8), "pad")[:, 4, 0]
    array([127, 127,   0,   0,   0,   0, 127, 127], dtype=uint8)
    """
    image = _as_image(picture)
    if box is None:
        box = (0, 0, *image.size)
    left, top, right, bottom = _placement(box[2] - box[0], box[3] - box[1], size, mode)
    sides = (right - left, bottom - top)
    resized = np.array(image.resize(sides, Image.Resampling.BILINEAR, box))
    if resized.shape[:2] == tuple(size):
        return resized
    canvas = np.full((*size, 3), PAD_GREY, dtype=np.uint8)
    canvas[top:bottom, left:right] = resized
    return canvas


@dataclass(frozen=True)
class InputReader:
    """Row of an image table → pixels of the network's input, of a picture that is unchanged.

    Attributes
    ----------
    images : DataFrame
        Image table, with its column ``folder``.
    size : (int, int)
        Height and width.
    mode : {"stretch", "pad"}
    scaled : bool
        A large JPEG is decoded at a part of its size (:func:`jpeg_factor`).
    """

    images: pd.DataFrame
    size: tuple[int, int]
    mode: str = "stretch"
    scaled: bool = True

    def __post_init__(self) -> None:
        check_columns("images", self.images, ["folder"], "it says where the pictures lie")

    def __call__(self, row: int) -> tuple[npt.NDArray[np.uint8], ScaledPicture]:
        """Pixels ``(H, W, 3)`` of one row, and the picture that they were made of.

        Raises
        ------
        PictureGoneError
            The picture is missing, has changed since it was indexed, or cannot be decoded.
        """
        return self.read(self.records([row])[0])

    def records(self, rows: Sequence[int]) -> list[_Record]:
        """What :meth:`read` needs of some rows; asked one by one they take four times as long."""
        columns = [column.take(np.asarray(rows)).tolist() for column in self._columns]
        return list(zip(*columns, strict=True))

    def read(self, record: _Record) -> tuple[npt.NDArray[np.uint8], ScaledPicture]:
        """As for one row, of which :meth:`records` tells."""
        folder, path, digest, width, height, levels = record
        file = Path(folder, path)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise PictureGoneError(file, f"could not be read: {error.strerror}.") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise PictureGoneError(
                file, "has changed since the folder was indexed; index it again."
            )
        factor = jpeg_factor(path, width, height, self.size, self.mode) if self.scaled else 1
        try:
            picture = decode_scaled(data, factor, levels)
        except FeatlabError as error:
            raise PictureGoneError(file, f"cannot be decoded: {error}") from error
        return resize_picture(picture.image, self.size, self.mode, box=picture.box), picture

    @cached_property
    def _columns(self) -> list[ExtensionArray]:
        """Columns of a record; to cut rows out of the table takes much longer."""
        names = ("folder", "path", "sha256", "width", "height")
        return [*(self.images[name].array for name in names), levels_of(self.images).array]


def levels_of(images: pd.DataFrame) -> pd.Series:
    """Column ``levels`` of an image table, "" where it has none: values as the format has them."""
    return images["levels"] if "levels" in images else pd.Series("", images.index)


def intensity_of(images: pd.DataFrame) -> str:
    """How grey levels were brought to 8 bits, of an image table with ``levels``."""
    return scales_of(images["levels"].tolist())


def picture_frame(
    width: int, height: int, size: tuple[int, int], mode: str = "stretch"
) -> tuple[float, float, float, float]:
    """Where :func:`resize_picture` puts a picture in the network's input.

    Parameters
    ----------
    width, height : int
        Of the picture, in pixels.
    size : (int, int)
        Height and width of the network's input in pixels.
    mode : {"stretch", "pad"}

    Returns
    -------
    (left, top, right, bottom) : tuple of float
        In unit coordinates of the input: x divided by its width, y by its height.

    Raises
    ------
    FeatlabError
        If an argument is out of its range.

    Examples
    --------
    >>> picture_frame(20, 10, (8, 8), "pad")
    (0.0, 0.25, 1.0, 0.75)
    """
    left, top, right, bottom = _placement(width, height, size, mode)
    rows, columns = size
    return left / columns, top / rows, right / columns, bottom / rows


def jpeg_factor(
    name: str, width: int, height: int, size: tuple[int, int], mode: str = "stretch"
) -> int:
    """By how much a picture may be scaled while it is decoded.

    Parameters
    ----------
    name : str
        Its file's; only one with a JPEG's suffix is scaled.
    width, height : int
        Of the picture, in pixels.
    size : (int, int)
        Height and width of the network's input in pixels.
    mode : {"stretch", "pad"}

    Returns
    -------
    int
        1, 2, 4 or 8: the largest that leaves :data:`JPEG_MARGIN` times the pixels, along both
        sides, of what :func:`resize_picture` makes of it.

    Raises
    ------
    FeatlabError
        If an argument is out of its range.

    Examples
    --------
    >>> jpeg_factor("phone.jpg", 4000, 3000, (224, 224))
    4
    >>> jpeg_factor("phone.png", 4000, 3000, (224, 224))
    1
    """
    left, top, right, bottom = _placement(width, height, size, mode)
    if PurePosixPath(name).suffix.lower() not in _JPEG_SUFFIXES:
        return 1
    room = min(width / (right - left), height / (bottom - top)) / JPEG_MARGIN
    return next((factor for factor in (8, 4, 2) if room >= factor), 1)


def colour_histogram(
    picture: npt.NDArray[np.uint8] | Image.Image,
) -> npt.NDArray[np.float32]:
    """Joint histogram of red, green and blue with four equal bins each.

    Of a picture of more than 32,768 pixels about so many are counted, on a regular grid.

    Parameters
    ----------
    picture : ndarray of uint8, shape (h, w, 3), or image of Pillow in mode RGB

    Returns
    -------
    ndarray of float32, shape (64,)
        Shares of the pixels; they sum to 1. Bin ``16 * r + 4 * g + b`` with r, g, b in 0 … 3.

    Raises
    ------
    FeatlabError
        If `picture` is neither.
    """
    image = _as_image(picture)
    scale = (_COUNTED / (image.width * image.height)) ** 0.5
    if scale < 1:
        sides = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(sides, Image.Resampling.NEAREST)
    # The upper two bits of each colour, brought side by side: three quick steps on whole pixels.
    codes = np.frombuffer(image.tobytes("raw", "RGBX"), "<u4") & 0xC0C0C0
    codes *= 1 << 20 | 1 << 10 | 1
    codes >>= 22
    # Pillow counts bytes in place; np.bincount would first copy them to 8 bytes per pixel.
    counts = Image.fromarray(codes[np.newaxis].astype(np.uint8)).histogram()[:64]
    return (np.array(counts) / codes.size).astype(np.float32)


def thumbnail(
    picture: Image.Image, box: tuple[float, float, float, float] | None = None
) -> npt.NDArray[np.uint8]:
    """The picture in grey, stretched to 48 x 48 pixels, each the mean of what it covers.

    Parameters
    ----------
    picture : image of Pillow in mode RGB
    box : (float, float, float, float), optional
        What of it is used: left, top, right, bottom in its pixels; all of it by default.

    Returns
    -------
    ndarray of uint8, shape (48, 48)
    """
    small = picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, box)
    return np.asarray(small.convert("L"))


def fit_box(
    corners: _Corners,
    size: tuple[float, float] | None,
    picture: Inspection,
    *,
    before_rotation: bool = False,
) -> _Corners:
    """Bring a box from the picture it was drawn in to the picture as shown.

    Parameters
    ----------
    corners : tuple of float
        xmin, ymin, xmax, ymax in pixels.
    size : tuple of float, optional
        Width and height of the picture the box was drawn in. Equal to the picture's shown size, or
        None: the box is taken as it is. Equal to the size before the EXIF rotation: the box is
        turned with the picture. Another size of the same shape: the box is scaled.
    picture : Inspection
    before_rotation : bool
        A box in a picture that EXIF turns upside down or mirrors is turned with it, too: there the
        size does not tell.

    Returns
    -------
    tuple of float
        xmin, ymin, xmax, ymax in pixels of the picture as shown, inside it.

    Raises
    ------
    FeatlabError
        With a short reason: the box is not finite, empty, or outside its picture by more than
        :data:`BOX_TOLERANCE` or :data:`BOX_TOLERANCE_SHARE`, or the size does not belong to the
        picture.
    """
    sides = (float(picture.width), float(picture.height))
    drawn = sides if size is None else size
    inside = _clip(corners, drawn)
    if drawn == sides and before_rotation and size is not None and 2 <= picture.orientation <= 4:
        return _turn(inside, drawn, picture.orientation)
    if drawn == sides:
        return inside
    if picture.orientation >= 5 and drawn == sides[::-1]:
        return _turn(inside, drawn, picture.orientation)
    if not _same_shape(drawn, sides):
        raise FeatlabError(
            f"it was drawn in a picture of {drawn[0]:g} x {drawn[1]:g} pixels, this one has "
            f"{picture.width} x {picture.height}, another shape"
        )
    across, down = sides[0] / drawn[0], sides[1] / drawn[1]
    left, top, right, bottom = inside
    return left * across, top * down, right * across, bottom * down


def _placement(
    width: float, height: float, size: tuple[int, int], mode: str
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the picture in whole pixels of the input."""
    check_choice("mode", mode, ("stretch", "pad"))
    if len(size) != 2 or min(size) < 1:
        raise FeatlabError(f"size must be (height, width), both at least 1, got {size!r}.")
    if width < 1 or height < 1:
        raise FeatlabError(f"a picture has at least 1 x 1 pixels, got {width} x {height}.")
    rows, columns = size
    if mode == "stretch":
        return 0, 0, columns, rows
    scale = min(columns / width, rows / height)
    width_inside = min(columns, max(1, round(width * scale)))
    height_inside = min(rows, max(1, round(height * scale)))
    left, top = (columns - width_inside) // 2, (rows - height_inside) // 2
    return left, top, left + width_inside, top + height_inside


def _as_image(picture: npt.NDArray[np.uint8] | Image.Image) -> Image.Image:
    if isinstance(picture, Image.Image):
        if picture.mode != "RGB":
            raise FeatlabError(f"an image of Pillow must be in mode RGB, got {picture.mode}.")
        return picture
    _check_pixels(picture)
    return Image.fromarray(picture)


def _check_pixels(pixels: npt.NDArray[np.uint8]) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise FeatlabError(
            "pixels must be uint8 of shape (h, w, 3) with h and w at least 1, "
            f"got {pixels.dtype} of shape {pixels.shape}."
        )


def _clip(corners: _Corners, size: tuple[float, float]) -> _Corners:
    left, top, right, bottom = corners
    width, height = size
    text = ", ".join(f"{value:g}" for value in corners)
    if not all(map(math.isfinite, (*corners, *size))):
        raise FeatlabError(f"the box ({text}) is not finite")
    if right <= left or bottom <= top:
        raise FeatlabError(f"the box ({text}) is empty: xmax <= xmin or ymax <= ymin")
    across, down = (max(BOX_TOLERANCE, BOX_TOLERANCE_SHARE * side) for side in size)
    if max(-left, right - width) > across or max(-top, bottom - height) > down:
        raise FeatlabError(
            f"the box ({text}) lies outside its picture of {width:g} x {height:g} pixels"
        )
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
    if right <= left or bottom <= top:
        raise FeatlabError(f"the box ({text}) lies on the edge of its picture, outside it")
    return left, top, right, bottom


def reach(corners: _Corners, size: tuple[float, float] | None, picture: Inspection) -> float:
    """How far a box reaches out of the picture it was drawn in, in its pixels; 0 or less: not."""
    width, height = (picture.width, picture.height) if size is None else size
    return max(-corners[0], -corners[1], corners[2] - width, corners[3] - height)


def _turn(corners: _Corners, size: tuple[float, float], orientation: int) -> _Corners:
    """Turn a box as EXIF orientation 2 to 8 turns a picture of this size."""
    left, top, right, bottom = corners
    width, height = size
    if orientation <= 4:
        if orientation in (2, 3):
            left, right = width - right, width - left
        if orientation in (3, 4):
            top, bottom = height - bottom, height - top
        return left, top, right, bottom
    # The four swap x and y; those that also run an axis backwards count from its other end.
    if orientation in (6, 7):
        top, bottom = height - bottom, height - top
    if orientation in (7, 8):
        left, right = width - right, width - left
    return top, left, bottom, right


def _same_shape(drawn: tuple[float, float], sides: tuple[float, float]) -> bool:
    """Whether one size is the other resized, up to a pixel of rounding in the smaller one."""
    small, large = sorted((drawn, sides))
    if min(small) <= 0:
        return False
    across, down = large[0] / small[0], large[1] / small[1]
    # The longer side fixes the scale most precisely, hence the smaller of the two errors.
    return min(abs(large[1] / across - small[1]), abs(large[0] / down - small[0])) <= 1
