"""A folder or a CSV file → image table and box table, every picture decoded once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from featlab.arguments import Progress, check_choice, is_unlabelled, tracked
from featlab.errors import FeatlabError
from featlab.images._annotations import Problem
from featlab.images._boxes import labels_of_boxes, make_box_table
from featlab.images._intensity import check_range, intensity_in_words, scales_of, set_levels
from featlab.images._layout import Patterns, list_source, of_classes
from featlab.images._lists import Candidate, Listing, PictureTable
from featlab.images.decode import Inspection, cut, inspect_picture, os_reason, prepare, printable

_log = logging.getLogger(__name__)

_MOST_LISTED, _MOST_THREADS = 20, 8
_Row = tuple[Candidate, Inspection, str]
_BY_BOXES = {
    None: "the class of each picture's boxes",
    "largest": "the class of each picture's largest box",
    "only": "the class of each picture's boxes, where it is one",
}


class _Tables(NamedTuple):
    images: pd.DataFrame
    boxes: pd.DataFrame
    skipped: pd.DataFrame


class ImageSet(_Tables):
    """Image table, box table and what was left out, as three of a tuple; and how they were read.

    Attributes
    ----------
    images, boxes, skipped : DataFrame
    reading : dict of str to str
        What labels, split and boxes were read from, in words, and what became black and white where
        that was asked for; those that there are.
    """

    reading: dict[str, str]

    def __new__(
        cls,
        images: pd.DataFrame,
        boxes: pd.DataFrame,
        skipped: pd.DataFrame,
        reading: Mapping[str, str] | None = None,
    ) -> ImageSet:
        """The three tables; `reading` is an attribute beside them."""
        made = super().__new__(cls, images, boxes, skipped)
        made.reading = dict(reading or {})
        return made

    @property
    def about(self) -> dict[str, str]:
        """The reading for argument `about` of whatever makes a store, whose page then tells it."""
        return {"reading": json.dumps(self.reading)}


def index_images(
    source: str | os.PathLike[str] | pd.DataFrame | PictureTable,
    *,
    classes: Sequence[str] | None = None,
    group_from: str | None = None,
    split_from: str | None = None,
    label_from: str | None = None,
    label_from_boxes: str | None = None,
    box_units: str | None = None,
    intensity: str = "dtype",
    on_error: str = "raise",
    progress: Progress | None = None,
) -> ImageSet:
    """Make the image table and the box table of a set of pictures.

    Every picture is decoded, so that a file which cannot be used is found here.

    **Pictures.** A folder of class folders (pictures may lie deeper), with or without a level of
    splits above or below the classes (``train``, ``val``, ``test`` and their relatives, such as
    ``Training`` or ``test_set``); a CSV file with the columns ``path, label`` and perhaps ``split``
    (train, val, confirm, test or empty) and ``group``, with paths relative to its folder; a
    DataFrame of the same columns; or a text file with a path in each line. In a folder, files count
    by the suffixes of the formats that Pillow decodes; hidden files, folders called
    ``annotations`` and folders that featlab has written never count. Pictures in no class folder,
    or a list without labels: each has the class of its boxes, where all boxes of a picture agree,
    or the set has no labels ("" all).

    **Boxes.** From the first of the formats that has any (`docs/formats.md`): ``boxes.csv`` in the
    root, Pascal VOC, COCO, CVAT, YOLO, LabelMe, VIA, Label Studio, CreateML, Open Images, TFOD; in
    files beside the pictures, above them, or in folders there that hold no pictures. What is not
    read is named in `skipped`.

    Coordinates are taken as written: continuous, x to the right, without a shift by one. A width
    and height beside the box say which picture it was drawn in: the picture as shown, the picture
    before its EXIF rotation (the box is turned with it), or the picture at another size (the box
    is scaled). Without them the box belongs to the picture as shown. A box up to 1 pixel or 5 per
    cent of the picture outside is clipped. Boxes of pictures that are not here are left out.

    Parameters
    ----------
    source : path-like, DataFrame or PictureTable
        The folder, the list or the table; a :class:`PictureTable` says what the columns of a CSV
        file mean.
    classes : sequence of str, optional
        Only pictures of these classes.
    group_from, split_from, label_from : str, optional
        Regular expression; its first group (or whole match) in the relative path is the picture's
        group, side or class. It replaces what the layout or a column says.
    label_from_boxes : {"largest", "only"}, optional
        Where boxes label the pictures, and some hold several classes: the class of the largest box,
        or such pictures are left out.
    box_units : {"pixels", "shares"}, optional
        What coordinates are whose format does not say. By default pixels; coordinates that all lie
        between 0 and 1 are refused.
    intensity : {"dtype", "set", "file"}
        What becomes black and white of 8 bits: the range of the number format
        (:func:`decode_picture`); one scale for all files of a format, 0 to the power of two above
        the largest value of the set; or the smallest and largest value of each file.
    on_error : {"raise", "skip"}
        What to do about files and boxes that cannot be used: one error that lists them all, or
        leave them out and list them in `skipped`.
    progress : callable, optional
        Wraps an iterable, like tqdm; no progress is shown by default.

    Returns
    -------
    images : DataFrame
        The image table, sorted by path: path, label, split, group (str, "" where absent), width,
        height (int, pixels as shown), sha256, folder (absolute; the paths are relative to it);
        with `intensity` not "dtype" also levels ("depth black white", values in the file).
    boxes : DataFrame
        The box table: image (row number of the image table), kind, label, xmin, ymin, xmax, ymax
        (pixels of the picture as shown, continuous).
    skipped : DataFrame
        What was left out or not read: path (of a box its place in the annotation file) and reason.

    The three are an :class:`ImageSet`, whose `reading` says what they were read from.

    Raises
    ------
    FeatlabError
        If the source has no usable layout, a file or a box cannot be used (``on_error="raise"``),
        no picture can, or an argument is out of its range.
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    check_choice("label_from_boxes", label_from_boxes, ("largest", "only", None))
    check_choice("box_units", box_units, ("pixels", "shares", None))
    check_choice("intensity", intensity, ("dtype", "set", "file"))
    wanted = None if classes is None else [str(name) for name in classes]
    listing = list_source(source, Patterns(label_from, split_from, group_from), wanted)
    exact = intensity != "dtype"
    rows, problems = inspect_all(listing.root, listing.candidates, progress, exact=exact)
    boxes, box_problems, boxes_from = make_box_table(
        listing.root,
        {candidate.path: inspection for candidate, inspection, _ in rows},
        [problem.path for problem in listing.problems + problems],
        is_selection=listing.is_selection,
        boxes_file=listing.boxes_file,
        units=box_units,
    )
    problems = listing.problems + problems + box_problems
    boxes, more = _called_as_classes(boxes, {row[0].label for row in rows})
    problems += [*_alike_names({row[0].label for row in rows}), *more]
    if listing.by_folder:
        rows, more = _folders_or_boxes(listing, rows, boxes, label_from_boxes, wanted)
        problems += more
    reading = {"pictures": listing.pictures, "labels": listing.labels, "split": listing.sides}
    reading["boxes"] = boxes_from
    if is_unlabelled([row[0].label for row in rows]):
        rows, boxes, more, how = _labelled_by_boxes(rows, boxes, label_from_boxes, wanted)
        problems += more
        reading["labels"] = how
    # A box whose file has no labels has that of its picture.
    of_picture = [rows[row][0].label for row in boxes["image"]]
    boxes["label"] = boxes["label"].where(boxes["label"] != "", of_picture)
    report_problems(listing, problems, on_error, n_usable=len(rows))
    images, ranges = image_table(rows, listing.root), [row[1].range for row in rows]
    if exact:
        images["levels"] = set_levels(ranges, intensity)
        reading["grey levels"] = intensity_in_words(scales_of(images["levels"].tolist()))
    else:
        reading["grey levels"] = check_range(ranges)
    reading = {what: whence for what, whence in reading.items() if whence}
    for what, whence in reading.items():
        # Where an option is named there is something to do.
        _log.log(logging.WARNING if "--" in whence else logging.INFO, "%s: %s", what, whence)
    return ImageSet(images, boxes, skipped_table(problems), reading)


def _alike_names(classes: set[str]) -> list[Problem]:
    """A line where classes differ by nothing but capital letters."""
    by_fold: dict[str, list[str]] = defaultdict(list)
    for name in sorted(classes):
        by_fold[name.casefold()].append(name)
    return [
        Problem(
            ", ".join(names),
            "classes that differ by capital letters only; if they are one, give them one name, or "
            "name those that you mean with --classes",
            stops=False,
        )
        for names in by_fold.values()
        if len(names) > 1
    ]


def _called_as_classes(
    boxes: pd.DataFrame, classes: set[str]
) -> tuple[pd.DataFrame, list[Problem]]:
    """The boxes, with the names of classes that theirs differ from by capital letters only."""
    by_fold = {name.casefold(): name for name in classes}
    if len(by_fold) < len(classes):
        return boxes, []
    other = sorted(set(boxes["label"]) - classes - {""})
    renamed = {name: by_fold[name.casefold()] for name in other if name.casefold() in by_fold}
    if not renamed:
        return boxes, []
    names = ", ".join(renamed.values())
    why = f"the class of boxes that are called {', '.join(renamed)}"
    problem = Problem(cut(names), why, stops=False)
    return boxes.assign(label=boxes["label"].replace(renamed)), [problem]


def _folders_or_boxes(
    listing: Listing,
    rows: list[_Row],
    boxes: pd.DataFrame,
    how: str | None,
    classes: Sequence[str] | None,
) -> tuple[list[_Row], list[Problem]]:
    """The pictures, without the names of their folders where their boxes say these are no classes.

    Raises
    ------
    FeatlabError
        What the folders are is asked, and no boxes are called as they are.
    """
    folders, named = {row[0].label for row in rows}, set(boxes["label"]) - {""}
    if listing.question and not folders <= named:
        raise FeatlabError(listing.question)
    if len(named) < 2 or folders & named or classes is not None:
        return rows, []
    some = [", ".join(sorted(names)[:5]) for names in (folders, named)]
    if how is not None or len(folders) == 1:
        why = f"read as no class: the classes are those of the boxes ({some[1]})"
        rows = [(replace(row[0], label=""), *row[1:]) for row in rows]
    else:
        why = (
            f"read as the classes, though no box is called so (but {some[1]}); for those of the "
            "boxes --label-from-boxes only (in Python: label_from_boxes='only')"
        )
    return rows, [Problem(some[0], why, stops=False)]


def _labelled_by_boxes(
    rows: list[_Row], boxes: pd.DataFrame, how: str | None, classes: Sequence[str] | None
) -> tuple[list[_Row], pd.DataFrame, list[Problem], str]:
    """The pictures that their boxes label, where they do; else all as they are, and why."""
    labels, why_not = labels_of_boxes(boxes, len(rows), how)
    if not any(labels):
        if classes is not None:
            raise FeatlabError("classes are asked of pictures that have no labels; leave it out.")
        noun = "1 picture" if len(rows) == 1 else f"{len(rows):,} pictures"
        why_not = why_not or "they lie in no class folders, and no column or box names a class"
        return rows, boxes, [], f"none; {noun} without labels: {why_not}"
    labelled = [replace(row[0], label=label) for row, label in zip(rows, labels, strict=True)]
    if classes is not None:
        of_classes([one for one in labelled if one.label], classes)
    kept = [k for k, label in enumerate(labels) if label and (classes is None or label in classes)]
    left_out = sum(not label for label in labels)
    problems = []
    if left_out:
        noun = "1 picture has" if left_out == 1 else f"{left_out} pictures have"
        first = next(row[0].path for row, label in zip(rows, labels, strict=True) if not label)
        why = f"{noun} no box that says the class, such as {first}; left out"
        problems.append(Problem("pictures", why, stops=False))
    number = {old: new for new, old in enumerate(kept)}
    of_kept = boxes[boxes["image"].isin(kept)].reset_index(drop=True)
    of_kept["image"] = of_kept["image"].map(number).astype(np.int64)
    kept_rows = [(labelled[k], *rows[k][1:]) for k in kept]
    return kept_rows, of_kept, problems, _BY_BOXES[how]


def inspect_all(
    root: Path, candidates: list[Candidate], progress: Progress | None, *, exact: bool = False
) -> tuple[list[_Row], list[Problem]]:
    """Size and digest of each picture; one that cannot be used is a problem, and loses no other."""
    prepare()
    rows: list[_Row] = []
    problems: list[Problem] = []
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        results = threads.map(lambda candidate: _inspect(root, candidate, exact), candidates)
        for candidate, result in zip(tracked(candidates, progress), results, strict=True):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                rows.append((candidate, *result))
    return rows, problems


def _inspect(root: Path, candidate: Candidate, exact: bool) -> tuple[Inspection, str] | Problem:
    try:
        data = _read(root / candidate.path)
        return inspect_picture(data, whole=exact), hashlib.sha256(data).hexdigest()
    except FeatlabError as error:
        return Problem(printable(candidate.path), str(error))


def _read(path: Path) -> bytes:
    try:
        # A pipe or a device would be waited for, perhaps for ever.
        if path.exists() and not path.is_file():
            raise FeatlabError("it is not a file")
        return path.read_bytes()
    except OSError as error:
        raise FeatlabError(os_reason(error)) from error


def report_problems(
    listing: Listing, problems: list[Problem], on_error: str, *, n_usable: int
) -> None:
    """Refuse the source that has them, or name them in the log and go on without."""
    for note in (one for one in problems if not one.stops):
        _log.warning("%s: %s", cut(note.path), note.reason)
    problems = [one for one in problems if one.stops]
    if not problems:
        return
    lines = [f"  {cut(bad.path)}: {bad.reason}" for bad in problems[:_MOST_LISTED]]
    if len(problems) > _MOST_LISTED:
        lines.append(f"  and {len(problems) - _MOST_LISTED} more")
    noun = "1 file or box" if len(problems) == 1 else f"{len(problems)} files or boxes"
    text = "\n".join([f"{noun} in {listing.root} cannot be used:", *lines])
    if n_usable == 0:
        raise FeatlabError(f"no picture is left: {text}")
    if on_error == "raise":
        raise FeatlabError(
            f"{text}\nMend them, or leave them out with --on-error skip (in Python: "
            "on_error='skip')."
        )
    _log.warning("left out: %s", text)


def image_table(rows: list[_Row], root: Path) -> pd.DataFrame:
    """The image table of what was inspected, in the same order; paths are relative to `root`."""
    own = ("path", "label", "split", "group")
    columns: dict[str, Any] = {key: [getattr(row[0], key) for row in rows] for key in own}
    for key in ("width", "height"):
        columns[key] = np.array([getattr(row[1], key) for row in rows], dtype=np.int64)
    columns |= {"sha256": [digest for _, _, digest in rows], "folder": str(root)}
    return pd.DataFrame(columns)


def skipped_table(problems: Sequence[Problem]) -> pd.DataFrame:
    """What was left out, and why."""
    return pd.DataFrame([(bad.path, bad.reason) for bad in problems], columns=["path", "reason"])
