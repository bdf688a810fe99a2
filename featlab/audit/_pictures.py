"""Pictures on disk → statistics that no label went into, and fingerprints for duplicates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from featlab.audit._strips import find_strips
from featlab.errors import FeatlabError
from featlab.images import decode_image
from featlab.system.scratch import is_large, scratch

Floats = NDArray[np.float64]
Progress = Callable[[Iterable[Any]], Iterable[Any]]

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

HASH_BITS = 64
THUMBNAIL = 32

_MOST_THREADS = 8
_SIDE = 256  # pixels: every picture's colours and sharpness are measured at this size
_LONGEST = 640  # pixels: writing is looked for at this size
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class Pictures:
    """What one look at every picture gives; row i is row i of the image table.

    Attributes
    ----------
    statistics : DataFrame of shape (n, 16)
        :data:`PICTURE_COLUMNS`; NaN where a picture cannot be read.
    hashes : ndarray of bool, shape (n, 64)
        Difference hash.
    thumbnails : ndarray of float32, shape (n, 32, 32)
        Grey, 0 to 1.
    readable : ndarray of bool, shape (n,)
    """

    statistics: pd.DataFrame
    hashes: NDArray[np.bool_]
    thumbnails: NDArray[np.float32]
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
        Folder of the pictures; ``images.attrs["root"]`` by default.
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
    for row in np.unique(owners):
        scaled = corners[owners == row] / np.tile(sizes[row], 2)
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
    hashes = np.zeros((len(paths), HASH_BITS), dtype=np.bool_)
    shape = (len(paths), THUMBNAIL, THUMBNAIL)
    large = is_large(len(paths), THUMBNAIL**2)
    thumbnails = scratch(shape) if large else np.zeros(shape, dtype=np.float32)
    readable = np.zeros(len(paths), dtype=np.bool_)
    wrapped = range(len(paths)) if progress is None else progress(range(len(paths)))
    Image.init()  # loads Pillow's plug-ins before threads do
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        measured = threads.map(lambda path: _measure(folder / path), paths)
        for row, found in zip(wrapped, measured, strict=True):
            if found is not None:
                statistics[row], hashes[row], thumbnails[row] = found
                readable[row] = True
    table = pd.DataFrame(statistics, columns=list(PICTURE_COLUMNS), index=images.index)
    return Pictures(table, hashes, thumbnails, readable)


def _folder(images: pd.DataFrame, root: str | os.PathLike[str] | None) -> Path:
    if "path" not in images:
        raise FeatlabError(
            "The image table needs a column 'path'; make it with featlab.images.index_images."
        )
    given = root if root is not None else images.attrs.get("root", "")
    if not str(given):
        raise FeatlabError(
            "root must be the folder of the pictures; the image table does not know it."
        )
    return Path(given)


def _measure(path: Path) -> tuple[Floats, NDArray[np.bool_], NDArray[np.float32]] | None:
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        data = path.read_bytes()
        pixels = decode_image(data)
    except (OSError, FeatlabError):
        return None
    height, width = pixels.shape[:2]
    picture = Image.fromarray(pixels)
    strips = find_strips(_at_most(picture, pixels))
    statistics = [
        *_colours(picture),
        width,
        height,
        width / height,
        len(data),
        strips.top,
        strips.bottom,
        strips.left,
        strips.right,
        strips.caption,
    ]
    grey = picture.convert("L")
    return np.array(statistics, dtype=np.float64), difference_hash(grey), _thumbnail(grey)


def _colours(picture: Image.Image) -> list[float]:
    """Brightness, contrast, red, green, blue, saturation, sharpness."""
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    colours = np.asarray(small, dtype=np.float32) / 255
    luma = colours @ _LUMA.astype(np.float32)
    saturation = np.asarray(small.convert("HSV").getchannel("S")).mean() / 255
    inner = luma[1:-1, 1:-1]
    curvature = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner
    means = np.array([colours[:, :, k].mean(dtype=np.float64) for k in range(3)])
    spread = luma.std(dtype=np.float64)
    return [
        float(means @ _LUMA),
        float(spread),
        *means.tolist(),
        float(saturation),
        float(curvature.var(dtype=np.float64)),
    ]


def _at_most(picture: Image.Image, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The pixels, made smaller where the longer side exceeds 640."""
    shrink = _LONGEST / max(picture.size)
    if shrink >= 1:
        return pixels
    size = (max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink)))
    return np.asarray(picture.resize(size, Image.Resampling.BOX))


def difference_hash(grey: Image.Image) -> NDArray[np.bool_]:
    """64 bits: whether each of 8 x 9 cells is brighter than its left neighbour.

    References
    ----------
    Krawetz (2013). Kind of like that. The Hacker Factor blog (dHash).
    """
    cells = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return (cells[:, 1:] > cells[:, :-1]).ravel()


def _thumbnail(grey: Image.Image) -> NDArray[np.float32]:
    small = grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def _union(corners: Floats) -> float:
    """Area that a few boxes cover together: cells of the grid that their sides make."""
    x, y = np.unique(corners[:, [0, 2]]), np.unique(corners[:, [1, 3]])
    across, down = (x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2
    left, top, right, bottom = corners.T[:, :, None]
    in_x, in_y = (left < across) & (across < right), (top < down) & (down < bottom)
    covered = (in_y[:, :, None] & in_x[:, None, :]).any(axis=0)
    return float((covered * np.outer(np.diff(y), np.diff(x))).sum())
