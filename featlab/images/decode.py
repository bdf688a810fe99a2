"""Bytes of a picture file → RGB pixels as a viewer shows them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image

from featlab._errors import FeatlabError

MAX_PIXELS = 178_956_970
"""Largest picture that is decoded, in pixels: where Pillow's own default refuses too (about half a
gigabyte as RGB). A header that claims more is refused before anything is decoded."""

# Pillow only identifies these (stubs), or hands them to another program (Ghostscript, Windows).
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Pictures that this Pillow may not read: better a bad file with a reason than a silent gap.
_PICTURE_SUFFIXES = {".avif", ".heic", ".heif", ".jxl", ".webp"}

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Inspection:
    """What the index needs to know of a picture.

    Attributes
    ----------
    width, height : int
        In pixels, as shown (after EXIF rotation).
    orientation : int
        EXIF orientation, 1 to 8.
    """

    width: int
    height: int
    orientation: int


def decode_image(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode a picture file to RGB as a viewer shows it.

    The kind of file is told from its bytes, not from its name. The EXIF orientation is applied.
    CMYK, grey, palette and 1-bit pictures become RGB; transparency is composited on white; of an
    animation or a multi-page file the first frame is taken. 16-bit grey is scaled from 0 … 65535
    to 0 … 255 (32-bit integers too, when they lie in that range). Floating-point grey is scaled
    from 0 … 1 when it lies in there, taken as it is when it lies in 0 … 255. Any other range is
    stretched from its minimum to its maximum.

    Parameters
    ----------
    data : bytes
        The whole file.

    Returns
    -------
    ndarray of uint8, shape (h, w, 3)

    Raises
    ------
    FeatlabError
        With a short reason: the file is empty, not an image, truncated or damaged, or claims more
        than :data:`MAX_PIXELS` pixels.
    """
    with _opened(data) as image:
        return _rgb_pixels(image)


def inspect_image(data: bytes) -> Inspection:
    """Decode a picture only to learn that it can be decoded, and its size as shown.

    Raises
    ------
    FeatlabError
        As :func:`decode_image`.
    """
    with _opened(data) as image:
        orientation = _orientation(image)
        if image.format not in ("JPEG", "MPO"):
            height, width = _rgb_pixels(image).shape[:2]
            return Inspection(width, height, orientation)
        width, height = image.size
        # At 1/8 of the size libjpeg still reads every byte but computes far fewer pixels.
        image.draft(None, (1, 1))
        image.load()
        if orientation >= 5:
            width, height = height, width
        return Inspection(width, height, orientation)


def is_picture_name(name: str) -> bool:
    """Whether a file name has the suffix of a picture format."""
    return PurePosixPath(name).suffix.lower() in _suffixes()


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type's name."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def prepare() -> None:
    """Load Pillow's plug-ins; call it before threads do."""
    _formats()


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_DECODED)


@cache
def _suffixes() -> frozenset[str]:
    readable = set(_formats())
    registered = Image.registered_extensions().items()
    return frozenset(
        {suffix for suffix, name in registered if name in readable} | _PICTURE_SUFFIXES
    )


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open a picture; every exception of Pillow inside the block becomes a FeatlabError."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise FeatlabError(f"data must be the bytes of a file, got {type(data).__name__}.")
    if not data:
        raise FeatlabError("the file is empty")
    # Pillow's decoders raise nearly every built-in exception on damaged bytes.
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError as error:
        raise FeatlabError(f"refused as a decompression bomb ({first_line(error)})") from error
    except Exception as error:
        raise FeatlabError("not an image that Pillow can read, or its header is damaged") from error
    with image:
        _check_size(image)
        try:
            yield image
        except FeatlabError:
            raise
        except Image.DecompressionBombError as error:
            raise FeatlabError(f"refused as a decompression bomb ({first_line(error)})") from error
        except Exception as error:
            raise FeatlabError(f"truncated or damaged ({first_line(error)})") from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise FeatlabError(
            f"refused as a decompression bomb (its header claims {width} x {height} pixels, "
            f"the limit is {MAX_PIXELS})"
        )


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # A viewer shows a picture whose EXIF block is broken as it is; so do we.
        return 1
    return value if value in _TRANSPOSE else 1


def _rgb_pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    image.load()
    # Asked after loading: Pillow turns some formats (TIFF) while loading and drops the tag.
    transpose = _TRANSPOSE.get(_orientation(image))
    upright: Image.Image = image if transpose is None else image.transpose(transpose)
    if upright.mode == "F" or upright.mode.startswith("I"):
        return np.repeat(_grey_bytes(np.asarray(upright))[:, :, np.newaxis], 3, axis=2)
    if upright.has_transparency_data:
        coloured = _convert(upright, "RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return np.array(Image.alpha_composite(white, coloured).convert("RGB"))
    return np.array(_convert(upright, "RGB"))


def _convert(image: Image.Image, mode: str) -> Image.Image:
    try:
        return image.convert(mode)
    except ValueError as error:
        raise FeatlabError(f"its colour mode {image.mode} cannot be turned into RGB") from error


def _grey_bytes(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """16-bit, 32-bit or floating-point grey → bytes."""
    grey = values.astype(np.float64)
    low, high = float(grey.min()), float(grey.max())
    if not np.isfinite([low, high]).all():
        raise FeatlabError("it has pixels that are not finite numbers")
    is_integer = np.issubdtype(values.dtype, np.integer)
    for top in [65535.0] if is_integer else [1.0, 255.0]:
        if low >= 0 and high <= top:
            return np.rint(grey * (255 / top)).astype(np.uint8)
    # Here high > low: a constant that fits nowhere has no contrast to keep.
    return np.rint((grey - low) * (255 / max(high - low, 1e-300))).astype(np.uint8)
