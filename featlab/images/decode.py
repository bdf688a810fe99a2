"""Bytes of a picture file → RGB pixels as a viewer shows them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from threading import Lock

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from featlab.errors import FeatlabError
from featlab.images._intensity import between, by_format

MAX_PIXELS = 178_956_970
"""Largest picture that is decoded, in pixels: where Pillow's own default refuses too (about half a
gigabyte as RGB). A header that claims more is refused before anything is decoded."""

# Pillow only identifies these (stubs), or hands them to another program (Ghostscript, Windows).
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Pictures that this Pillow may not read: better a bad file with a reason than a silent gap.
_PICTURE_SUFFIXES = {".avif", ".heic", ".heif", ".jxl", ".webp"}

_LONGEST = 160
_JPEG_FORMATS = ("JPEG", "MPO")
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = range(2, 9)
# The picture is worked on in bands of about this many pixels, so that only what Pillow decoded and
# the result are in memory as a whole.
_BAND = 1 << 20
# Larger pictures are decoded one after the other, however many threads there are.
_LARGE = 40_000_000
_one_large = Lock()


@dataclass(frozen=True)
class Inspection:
    """What the index needs to know of a picture.

    Attributes
    ----------
    width, height : int
        In pixels, as shown (after EXIF rotation).
    orientation : int
        EXIF orientation, 1 to 8.
    depth : {"byte", "integer", "float"}
        Number format of the file: 8 bits, more, or floating point.
    low, high : float
        Smallest and largest value in the file; of a JPEG about, unless it is asked for.
    """

    width: int
    height: int
    orientation: int
    depth: str = "byte"
    low: float = 0
    high: float = 255

    @property
    def range(self) -> tuple[str, float, float]:
        """Number format, smallest and largest value."""
        return self.depth, self.low, self.high


@dataclass(frozen=True)
class ScaledPicture:
    """A picture that may have been decoded at a part of its size.

    Attributes
    ----------
    image : PIL.Image.Image
        In mode RGB; of h rows and w columns.
    box : (float, float, float, float)
        Left, top, right, bottom of the picture in `image`; a scaled one may fill its last row and
        column only in part.
    width, height : int
        Of the whole picture in pixels, as shown.
    """

    image: Image.Image
    box: tuple[float, float, float, float]
    width: int
    height: int

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The pixels of `image`, uint8 of shape (h, w, 3)."""
        return np.array(self.image)


def decode_picture(data: bytes, levels: str = "") -> npt.NDArray[np.uint8]:
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
    levels : str
        "depth black white": the values of the file that become 0 and 255; "" for what is said
        above. It is column `levels` of an image table (argument `intensity` of
        :func:`featlab.images.index_images`).

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
        return _rgb_pixels(image, levels)


def decode_scaled(data: bytes, factor: int, levels: str = "") -> ScaledPicture:
    """Decode a picture as :func:`decode_picture` does, but a JPEG at a part of its size.

    libjpeg computes a half, a quarter or an eighth of the rows and columns straight from the
    cosine coefficients, in a fraction of the time.

    Parameters
    ----------
    data : bytes
        The whole file.
    factor : {1, 2, 4, 8}
        What the sides of a JPEG are divided by (:func:`jpeg_factor`); other formats are decoded
        whole.
    levels : str
        As in :func:`decode_picture`.

    Raises
    ------
    FeatlabError
        As :func:`decode_picture`, or `factor` is none of these.
    """
    if factor not in (1, 2, 4, 8):
        raise FeatlabError(f"factor must be 1, 2, 4 or 8, got {factor!r}.")
    with _opened(data) as image:
        stored = image.size
        if factor > 1 and image.format in _JPEG_FORMATS:
            image.draft(None, (max(1, stored[0] // factor), max(1, stored[1] // factor)))
        scaled = image.size != stored
        image.load()
        orientation = _orientation(image) or 1
        # What Pillow decoded need not be copied and handed back to it.
        as_it_is = orientation == 1 and _is_plain(image) and not levels
        pixels = None if as_it_is else _rgb_pixels(image, levels)
    if pixels is not None:
        image.close()  # frees its memory first
        image = Image.fromarray(pixels)
    columns, rows = image.size
    if not scaled:
        return ScaledPicture(image, (0.0, 0.0, float(columns), float(rows)), columns, rows)
    width, height = stored[::-1] if orientation >= 5 else stored
    right, bottom = width / factor, height / factor
    # What libjpeg adds lies at the stored picture's right and bottom, wherever these are shown.
    origin = _as_stored(np.arange(4, dtype=np.uint8).reshape(2, 2), orientation)[0, 0]
    x, y = (columns - right) * (origin % 2), (rows - bottom) * (origin // 2)
    return ScaledPicture(image, (x, y, x + right, y + bottom), width, height)


def inspect_picture(data: bytes, *, whole: bool = False) -> Inspection:
    """Decode a picture only to learn that it can be decoded, its size as shown and its range.

    Parameters
    ----------
    data : bytes
        The whole file.
    whole : bool
        Decode a JPEG at its full size, too, for its exact range.

    Raises
    ------
    FeatlabError
        As :func:`decode_picture`.
    """
    with _opened(data) as image:
        orientation = _orientation(image)
        if whole or image.format not in _JPEG_FORMATS:
            pixels = _rgb_pixels(image)
            height, width = pixels.shape[:2]
            turned = orientation or _orientation(image) or 1
            return Inspection(width, height, turned, *_range_of(image, pixels))
        orientation = orientation or 1
        width, height = image.size
        # At 1/8 of the size libjpeg still reads every byte but computes far fewer pixels.
        image.draft(None, (1, 1))
        image.load()
        if orientation >= 5:
            width, height = height, width
        extremes = np.ravel(image.getextrema())
        return Inspection(
            width, height, orientation, "byte", float(extremes.min()), float(extremes.max())
        )


def _range_of(image: Image.Image, pixels: npt.NDArray[np.uint8]) -> tuple[str, float, float]:
    """Number format, and smallest and largest value of the file."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey_range(image)
    return "byte", float(pixels.min()), float(pixels.max())


def is_picture_name(name: str) -> bool:
    """Whether a file name has the suffix of a picture format."""
    return PurePosixPath(name).suffix.lower() in _suffixes()


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, not too long, or its type's name."""
    text = str(error).strip()
    return cut(text.splitlines()[0].rstrip(".")) if text else type(error).__name__


def cut(text: str) -> str:
    """A text that comes from a file, short enough for a message."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def printable(path: str) -> str:
    """The path itself if it is valid UTF-8, otherwise with its odd bytes written out."""
    return path.encode("utf-8", "backslashreplace").decode()


def is_storable(text: str) -> bool:
    """Whether a store can keep the text: no NUL, and no half of a surrogate pair."""
    return "\0" not in text and printable(text) == text


def os_reason(error: OSError) -> str:
    """Why the system did not let a file be read, for a list of problems."""
    return f"it cannot be read: {error.strerror or first_line(error)}"


def prepare() -> None:
    """Load Pillow's plug-ins; call it before threads do."""
    _formats()


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    with suppress(ImportError):  # the extra heif
        import pillow_heif

        pillow_heif.register_heif_opener()
    # A picture with much text or a large colour profile is not damaged; all text of a file together
    # stays below Pillow's own limit.
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
    # In this order Pillow asks whose a file is; that of a JPEG is told by its first bytes.
    others = (name for name in Image.ID if name not in _NOT_DECODED | {"JPEG"})
    return ("JPEG", *others)


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
        raise FeatlabError(
            _unread_kind(bytes(data[:32]))
            or "not an image that Pillow can read, or its header is damaged"
        ) from error
    with image, _turn_of(image):
        try:
            yield image
        except FeatlabError:
            raise
        except MemoryError as error:
            width, height = image.size
            raise FeatlabError(
                f"there is not enough memory to decode its {width} x {height} pixels"
            ) from error
        except Image.DecompressionBombError as error:
            raise FeatlabError(f"refused as a decompression bomb ({first_line(error)})") from error
        except Exception as error:
            raise FeatlabError(f"truncated or damaged ({first_line(error)})") from error


def _unread_kind(head: bytes) -> str:
    """What a picture needs that this Pillow does not read; "" of what is none."""
    if head[4:8] != b"ftyp":
        return ""
    if b"avif" in head:
        return "an AVIF picture, which this Pillow does not read: pip install -U Pillow"
    if any(brand in head for brand in (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")):
        return "a HEIC picture, which needs pillow-heif: pip install 'featlab[heif]'"
    return ""


def _turn_of(image: Image.Image) -> AbstractContextManager[object]:
    """Its place in the queue of large pictures, or none; refuses a bomb."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise FeatlabError(
            f"refused as a decompression bomb (its header claims {width} x {height} pixels, "
            f"the limit is {MAX_PIXELS})"
        )
    return _one_large if width * height > _LARGE else nullcontext()


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation; None of a PNG whose pixels have not been read.

    Of a PNG the tag may stand behind the pixels, so Pillow reads them to answer. An error in them
    would be lost here, and reading them again after an error gives none.
    """
    if image.format == "PNG" and not _is_read(image):
        return None
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # A viewer shows a picture whose EXIF block is broken as it is; so do we.
        return 1
    return value if value in _ORIENTATIONS else 1


def _is_read(image: Image.Image) -> bool:
    """Whether Pillow has decoded the pixels: it forgets then where they lie in the file."""
    return not getattr(image, "tile", None)


def _rgb_pixels(image: Image.Image, levels: str = "") -> npt.NDArray[np.uint8]:
    image.load()
    # Asked after loading: Pillow turns some formats (TIFF) while loading and drops the tag.
    orientation = _orientation(image) or 1
    width, height = image.size
    pixels = np.empty((*((width, height) if orientation >= 5 else (height, width)), 3), np.uint8)
    as_stored = _as_stored(pixels, orientation)
    convert = _converter(image, levels)
    for top, band in _bands(image):
        as_stored[top : top + band.height] = convert(band)
    return pixels


def _is_plain(image: Image.Image) -> bool:
    return bool(image.mode == "RGB" and not image.has_transparency_data)


def _as_stored(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """The same memory, seen as the file stores the picture.

    ``ImageOps.exif_transpose`` turns a whole picture, in a tenth more memory at the peak (865 MB
    against 783 MB for 96 million pixels); the bands of a large one are written where they belong.
    """
    views: dict[int, Callable[[], npt.NDArray[np.uint8]]] = {
        2: lambda: pixels[:, ::-1],
        3: lambda: pixels[::-1, ::-1],
        4: lambda: pixels[::-1],
        5: lambda: pixels.swapaxes(0, 1),
        6: lambda: np.rot90(pixels),
        7: lambda: pixels[::-1, ::-1].swapaxes(0, 1),
        8: lambda: np.rot90(pixels, -1),
    }
    return views[orientation]() if orientation in views else pixels


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Parts of the picture from its top, with the row each begins at."""
    width, height = image.size
    step = max(1, _BAND // width)
    if step >= height:
        yield 0, image
        return
    for top in range(0, height, step):
        yield top, image.crop((0, top, width, min(top + step, height)))


def _converter(image: Image.Image, levels: str) -> Callable[[Image.Image], npt.NDArray[np.uint8]]:
    """What makes RGB of a band, shape (h, w, 3), or grey, shape (h, w, 1)."""
    if image.mode == "F" or image.mode.startswith("I"):
        scale = between(levels) if levels else by_format(*_grey_range(image))
        return lambda band: scale(np.asarray(band))[:, :, np.newaxis]
    if levels:
        plain = _converter(image, "")
        new = between(levels)(np.arange(256))
        return lambda band: new[plain(band)]
    if _is_plain(image):
        return np.asarray
    if image.has_transparency_data:
        return _on_white
    return lambda band: np.asarray(_convert(band, "RGB"))


def _on_white(band: Image.Image) -> npt.NDArray[np.uint8]:
    coloured = _convert(band, "RGBA")
    white = Image.new("RGBA", coloured.size, "white")
    return np.asarray(Image.alpha_composite(white, coloured).convert("RGB"))


def _convert(image: Image.Image, mode: str) -> Image.Image:
    try:
        return image.convert(mode)
    except ValueError as error:
        raise FeatlabError(f"its colour mode {image.mode} cannot be turned into RGB") from error


def _grey_range(image: Image.Image) -> tuple[str, float, float]:
    """Number format of grey of many bits, and its smallest and largest value."""
    ranges = [(band.min(), band.max()) for band in (np.asarray(b) for _, b in _bands(image))]
    low, high = float(np.min(ranges)), float(np.max(ranges))
    if not np.isfinite([low, high]).all():
        raise FeatlabError("it has pixels that are not finite numbers")
    return "float" if image.mode == "F" else "integer", low, high
