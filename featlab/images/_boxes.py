"""Boxes as written → the box table: which picture each means, and where it lies in it."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from featlab.arguments import CROWD
from featlab.errors import FeatlabError
from featlab.images._annotations import (
    Problem,
    Source,
    WrittenBox,
    other_files,
    picture_folders,
    split_of,
    stem_of,
)
from featlab.images._formats import read_annotations
from featlab.images.decode import Inspection, cut
from featlab.images.pixels import fit_box, reach

_COLUMNS = ["image", "kind", "label", "xmin", "ymin", "xmax", "ymax"]
_LEAST_REACH = 0.01  # pixels; less is how numbers are written
_Corners = tuple[float, float, float, float]


def make_box_table(
    root: Path,
    inspections: Mapping[str, Inspection],
    unusable: Iterable[str],
    *,
    is_selection: bool,
    boxes_file: str = "",
    units: str | None = None,
) -> tuple[pd.DataFrame, list[Problem], str]:
    """Read the boxes of the indexed pictures.

    Parameters
    ----------
    root : Path
    inspections : mapping of str to Inspection
        The usable pictures by path, in the order of the image table.
    unusable : iterable of str
        Pictures that are there but were left out; their boxes are dropped without a word.
    is_selection : bool
        The pictures were chosen by a list: boxes of others are no problem.
    boxes_file : str
        The list of the pictures, where it is a table of boxes: those are meant.
    units : {"pixels", "shares"}, optional
        What corners are whose format does not say.

    Returns
    -------
    boxes : DataFrame
        The box table; label "" where the file has none.
    problems : list of Problem
    read_from : str
        Which files of which format; "" where there is no box.
    """
    pictures = [*inspections, *unusable]
    files = [boxes_file] if boxes_file else other_files(root, pictures, is_selection=is_selection)
    source = Source(root, pictures, files, is_selection)
    written, problems, read_from = read_annotations(source)
    _refuse_shares(root, written, units)
    placed, absent = _placed(written, pictures, problems)
    if is_selection:
        absent = [box for box in absent if not _may_be_unlisted(root, box)]
    problems += _absent(absent, n_placed=len(placed))
    numbers = {path: number for number, path in enumerate(inspections)}
    usable = [(box, path) for box, path in placed if path in inspections]
    drawn_raw = _drawn_before_rotation(usable, inspections, problems)
    rows, reaching = [], []
    for box, path in usable:
        picture = inspections[path]
        try:
            shares = (box.units or units) == "shares"
            whole = _as_pixels(box.corners, picture) if shares else box.corners
            size = None if shares else box.size
            corners = fit_box(whole, size, picture, before_rotation=drawn_raw)
            reaching.append(reach(whole, size, picture))
            label = _normal(box.label)
            rows.append((numbers[path], box.kind, label, *corners))
        except FeatlabError as error:
            problems.append(Problem(box.where, str(error)))
    problems += _clipped(reaching)
    return _as_table(rows), problems, read_from if rows else ""


def _refuse_shares(root: Path, written: list[WrittenBox], units: str | None) -> None:
    """Refuse corners that look like shares of the picture where nobody says what they are."""
    values = [value for box in written if not box.units for value in box.corners]
    if units is not None or not values or min(values) < 0 or max(values) > 1:
        return
    if any(0 < value < 1 for value in values):
        n, file = sum(not box.units for box in written), root / written[0].file
        raise FeatlabError(
            f"the coordinates of every box ({n}) in {file} lie between 0 and 1, like "
            "shares of the picture's width and height; have them read as such with --box-units "
            "shares, or as pixels with --box-units pixels (in Python: box_units='shares')."
        )


def _as_pixels(shares: _Corners, picture: Inspection) -> _Corners:
    left, top, right, bottom = shares
    across, down = picture.width, picture.height
    return left * across, top * down, right * across, bottom * down


def _placed(
    written: list[WrittenBox], pictures: list[str], problems: list[Problem]
) -> tuple[list[tuple[WrittenBox, str]], list[WrittenBox]]:
    """Each box with its picture, and the boxes of pictures that are not here.

    Where no path that was written leads to a picture, the set has moved: names that are unique
    find theirs, unless the path names a folder that is here.
    """
    finder = _PictureFinder(pictures)
    placed, absent = [], []
    for box in written:
        try:
            path = finder.find(box)
        except FeatlabError as error:
            problems.append(Problem(box.where, str(error)))
            continue
        if path is None:
            absent.append(box)
        else:
            placed.append((box, path))
    if placed or not absent:
        return placed, absent
    moved = [box for box in absent if finder.is_elsewhere(box)]
    if not moved:
        return placed, absent
    bare = [replace(box, name=posixpath.basename(box.name)) for box in moved]
    placed, lost = _placed([box for box in bare if box.name], pictures, problems)
    return placed, lost + [box for box in absent if not finder.is_elsewhere(box)]


def _absent(boxes: list[WrittenBox], *, n_placed: int) -> list[Problem]:
    """One line for all boxes of pictures that are not here; a mistake where there are no others."""
    if not boxes:
        return []
    first = boxes[0]
    if not n_placed:
        others = f", nor does any other of the {len(boxes)} boxes" if len(boxes) > 1 else ""
        why = f"it names a picture that is not there ({_box_name(first)}){others}"
        return [Problem(first.where, why)]
    n = len({(box.folder, box.name, box.stem) for box in boxes})
    of = "a picture that is" if n == 1 else f"{n:,} pictures that are"
    noun = "1 box" if len(boxes) == 1 else f"{len(boxes):,} boxes"
    why = f"{noun} of {of} not here, such as {_box_name(first)}, left out"
    return [Problem(first.file, why, stops=False)]


def _drawn_before_rotation(
    placed: list[tuple[WrittenBox, str]],
    inspections: Mapping[str, Inspection],
    problems: list[Problem],
) -> bool:
    """Whether the tool that drew the boxes showed the pictures without their EXIF rotation.

    The size tells it of pictures on their side (5 to 8), not of those upside down or mirrored (2 to
    4): these are taken to be as those are, and without any, as shown.
    """
    sideways = {True: 0, False: 0}
    silent = 0
    for box, path in placed:
        picture = inspections[path]
        sides = (float(picture.width), float(picture.height))
        tells = sides[0] != sides[1] and box.size in (sides, sides[::-1])
        if picture.orientation >= 5 and tells:
            sideways[box.size == sides[::-1]] += 1
        silent += 2 <= picture.orientation <= 4
    raw = sideways[True] > 0 and not sideways[False]
    if silent:
        noun = "1 box lies in a picture" if silent == 1 else f"{silent} boxes lie in pictures"
        how = (
            "before that, as those of pictures on their side are"
            if raw
            else "as shown, for nothing tells that the tool drew them before that"
        )
        why = f"{noun} that EXIF turns upside down or mirrors; taken as drawn in the picture {how}"
        problems.append(Problem(placed[0][0].file, why, stops=False))
    return raw


def _clipped(reaching: list[float]) -> list[Problem]:
    """One line for the boxes that reach out of their pictures by a little."""
    out = [far for far in reaching if far > _LEAST_REACH]
    if not out:
        return []
    noun = "1 box reaches" if len(out) == 1 else f"{len(out):,} boxes reach"
    why = f"{noun} out of the picture, by at most {max(out):.3g} pixels; cut at its border"
    return [Problem("boxes", why, stops=False)]


def labels_of_boxes(boxes: pd.DataFrame, n: int, how: str | None) -> tuple[list[str], str]:
    """A label for each picture from its boxes: their class where it is one.

    Parameters
    ----------
    boxes : DataFrame
        Box table.
    n : int
        Number of pictures.
    how : {"largest", "only"}, optional
        What a picture with boxes of several classes is: the class of its largest box, or left out.
        By default there must be none.

    Returns
    -------
    labels : list of str
        "" where there is no box, or where several classes leave it open.
    why_not : str
        Why there are no labels at all, if there are none.
    """
    labels = [""] * n
    named = boxes[(boxes["label"] != "") & (boxes["kind"] != CROWD)]
    if named["label"].nunique() < 2:
        one = f"all boxes are of one class, {named['label'].iloc[0]}" if len(named) else ""
        return labels, one
    classes = named.groupby("image")["label"].nunique()
    several = int((classes > 1).sum())
    if several and how is None:
        noun = "1 picture has" if several == 1 else f"{several} pictures have"
        return labels, (
            f"{noun} boxes of several classes, so no picture is labelled by its boxes; "
            "--label-from-boxes largest takes the class of the largest box, only leaves such "
            "pictures out (in Python: label_from_boxes='largest')"
        )
    area = (named["xmax"] - named["xmin"]) * (named["ymax"] - named["ymin"])
    largest = named.assign(area=area).sort_values("area", kind="stable").groupby("image").tail(1)
    for row, label in zip(largest["image"], largest["label"], strict=True):
        if how != "only" or classes[row] == 1:
            labels[row] = str(label)
    return labels, ""


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

    def is_elsewhere(self, box: WrittenBox) -> bool:
        """Whether the written path names a folder that is not here."""
        folder = posixpath.basename(posixpath.dirname(_normal(box.name)))
        return bool(folder) and folder not in {posixpath.basename(one) for one in self._folders}

    def find(self, box: WrittenBox) -> str | None:
        """The picture's path; None if there is none; FeatlabError if several fit.

        Nearest first: in the box's own folder, then below it, then, unless that folder holds
        pictures itself, anywhere. In each, a file with the annotation's own stem comes before the
        name it was written with, which tools leave unchanged when files are renamed. Of several,
        that of the side that the annotation file is called by (``instances_val.json``).
        """
        folder, name = _normal(box.folder), _normal(box.name)
        named = [
            path
            for path in self._by_name.get(posixpath.basename(name), [])
            if path == name or path.endswith("/" + name) or ("/" in path and _ends(name, path))
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
                hits = [path for path in hits if _sides(path) & _sides(box.file)] or hits
            if len(hits) > 1:
                raise FeatlabError(f"it could mean {' or '.join(sorted(hits)[:3])}")
            if hits:
                return self._paths[hits[0]]
        return None


def _ends(name: str, path: str) -> bool:
    """Whether a written path, of another computer perhaps, ends with a picture's."""
    return name.endswith("/" + path)


def _sides(path: str) -> set[str]:
    """The sides of a split that folders and name of a file are called by."""
    parts = [*posixpath.dirname(path).split("/"), *re.split(r"[\W_]+", stem_of(path))]
    return {split_of(part) for part in parts if part} - {""}


def _below(folder: str, paths: list[str]) -> list[str]:
    return [path for path in paths if not folder or path.startswith(folder + "/")]


def _normal(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def _box_name(box: WrittenBox) -> str:
    return cut(repr(box.name or box.stem))


def _may_be_unlisted(root: Path, box: WrittenBox) -> bool:
    return box.file != "boxes.csv" or (root / box.name).is_file()


def _as_table(rows: list[tuple[int, str, str, float, float, float, float]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=_COLUMNS).astype(
        {"image": np.int64, "kind": str, "label": str}
        | dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), np.float64)
    )
    return table.sort_values("image", kind="stable", ignore_index=True)
