"""Boxes as written → box table: matched with their pictures and in the pictures' own pixels."""

from __future__ import annotations

import math
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError
from featlab.images.annotations import WrittenBox, read_annotations
from featlab.images.decode import Inspection, cut
from featlab.images.sources import Problem, picture_folders

TOLERANCE = 1.0
"""How far, in pixels, a box may lie outside its picture and still be clipped."""

_Corners = tuple[float, float, float, float]
_COLUMNS = ["image", "kind", "label", "xmin", "ymin", "xmax", "ymax"]


def make_box_table(
    root: Path,
    inspections: Mapping[str, Inspection],
    unusable: Iterable[str],
    *,
    is_selection: bool,
) -> tuple[pd.DataFrame, list[Problem]]:
    """Read the boxes of the indexed pictures.

    Parameters
    ----------
    root : Path
    inspections : mapping of str to Inspection
        The usable pictures by path, in the order of the image table.
    unusable : iterable of str
        Pictures that are there but were left out; their boxes are dropped without a word.
    is_selection : bool
        The pictures were chosen by a CSV file: boxes of others are no problem.

    Returns
    -------
    boxes : DataFrame
        The box table.
    problems : list of Problem
    """
    pictures = [*inspections, *unusable]
    kind, written, problems = read_annotations(root, pictures)
    finder = _PictureFinder(pictures)
    numbers = {path: number for number, path in enumerate(inspections)}
    rows = []
    for box in written:
        try:
            path = finder.find(box)
            if path is None and not (is_selection and _may_be_unlisted(root, kind, box)):
                raise FeatlabError(f"it names a picture that is not there ({_shown_name(box)})")
            if path is not None and path in inspections:
                corners = fit_box(box.corners, box.size, inspections[path])
                rows.append((numbers[path], box.kind, box.label, *corners))
        except FeatlabError as error:
            problems.append(Problem(box.where, str(error)))
    return _as_table(rows), problems


def fit_box(corners: _Corners, size: tuple[float, float] | None, picture: Inspection) -> _Corners:
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

    Returns
    -------
    tuple of float
        xmin, ymin, xmax, ymax in pixels of the picture as shown, inside it.

    Raises
    ------
    FeatlabError
        With a short reason: the box is not finite, empty, or outside its picture by more than
        :data:`TOLERANCE`, or the size does not belong to the picture.
    """
    shown = (float(picture.width), float(picture.height))
    drawn = shown if size is None else size
    inside = _clip(corners, drawn)
    if drawn == shown:
        return inside
    if picture.orientation >= 5 and drawn == shown[::-1]:
        return _turn(inside, drawn, picture.orientation)
    if not _same_shape(drawn, shown):
        raise FeatlabError(
            f"it was drawn in a picture of {drawn[0]:g} x {drawn[1]:g} pixels, this one has "
            f"{picture.width} x {picture.height}, another shape"
        )
    across, down = shown[0] / drawn[0], shown[1] / drawn[1]
    left, top, right, bottom = inside
    return left * across, top * down, right * across, bottom * down


class _PictureFinder:
    """Finds the picture that an annotation means."""

    def __init__(self, pictures: Iterable[str]) -> None:
        # One accented letter can be one character or two; macOS and Linux disagree.
        self._paths = {_normal(path): path for path in pictures}
        self._folders = picture_folders(list(self._paths))
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for path in self._paths:
            name = posixpath.basename(path)
            self._by_name[name].append(path)
            self._by_stem[posixpath.splitext(name)[0]].append(path)

    def find(self, box: WrittenBox) -> str | None:
        """The picture's path; None if there is none; FeatlabError if several fit.

        Nearest first: in the box's own folder, then below it, then, unless that folder holds
        pictures itself, anywhere. In each, a file with the annotation's own stem comes before the
        name it was written with, which tools leave unchanged when files are renamed.
        """
        folder, name = _normal(box.folder), _normal(box.name)
        named = [
            path
            for path in self._by_name.get(posixpath.basename(name), [])
            if path == name or path.endswith("/" + name)
        ]
        same_stem = self._by_stem.get(_normal(box.stem), []) if box.stem else []
        exact = [path for path in named if path == posixpath.join(folder, name)]
        beside = [path for path in same_stem if posixpath.dirname(path) == folder]
        tiers = [(exact, beside), (_below(folder, named), _below(folder, same_stem))]
        if folder not in self._folders:
            tiers.append((named, same_stem))
        for by_name, by_stem in tiers:
            hits = by_stem if len(by_stem) == 1 else by_name or by_stem
            if len(hits) > 1:
                raise FeatlabError(f"it could mean {' or '.join(sorted(hits)[:3])}")
            if hits:
                return self._paths[hits[0]]
        return None


def _below(folder: str, paths: list[str]) -> list[str]:
    return [path for path in paths if not folder or path.startswith(folder + "/")]


def _normal(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def _shown_name(box: WrittenBox) -> str:
    return cut(repr(box.name or box.stem))


def _may_be_unlisted(root: Path, kind: str, box: WrittenBox) -> bool:
    # VOC and COCO give bare names; only boxes.csv says where the picture should lie.
    return kind != "csv" or (root / box.name).is_file()


def _clip(corners: _Corners, size: tuple[float, float]) -> _Corners:
    left, top, right, bottom = corners
    width, height = size
    text = ", ".join(f"{value:g}" for value in corners)
    if not all(map(math.isfinite, (*corners, *size))):
        raise FeatlabError(f"the box ({text}) is not finite")
    if right <= left or bottom <= top:
        raise FeatlabError(f"the box ({text}) is empty: xmax <= xmin or ymax <= ymin")
    if min(left, top) < -TOLERANCE or right > width + TOLERANCE or bottom > height + TOLERANCE:
        raise FeatlabError(
            f"the box ({text}) lies outside its picture of {width:g} x {height:g} pixels"
        )
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
    if right <= left or bottom <= top:
        raise FeatlabError(f"the box ({text}) lies on the edge of its picture, outside it")
    return left, top, right, bottom


def _turn(corners: _Corners, size: tuple[float, float], orientation: int) -> _Corners:
    """Turn a box as EXIF orientation 5 to 8 turns a picture of this size."""
    left, top, right, bottom = corners
    width, height = size
    # The four swap x and y; those that also run an axis backwards count from its other end.
    if orientation in (6, 7):
        top, bottom = height - bottom, height - top
    if orientation in (7, 8):
        left, right = width - right, width - left
    return top, left, bottom, right


def _same_shape(drawn: tuple[float, float], shown: tuple[float, float]) -> bool:
    """Whether one size is the other resized, up to a pixel of rounding in the smaller one."""
    small, large = sorted((drawn, shown))
    if min(small) <= 0:
        return False
    across, down = large[0] / small[0], large[1] / small[1]
    # The longer side fixes the scale most precisely, hence the smaller of the two errors.
    return min(abs(large[1] / across - small[1]), abs(large[0] / down - small[0])) <= 1


def _as_table(rows: list[tuple[int, str, str, float, float, float, float]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=_COLUMNS).astype(
        {"image": np.int64, "kind": str, "label": str}
        | dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), np.float64)
    )
    return table.sort_values("image", kind="stable", ignore_index=True)
