"""A folder or a CSV file → image table and box table, every picture decoded once."""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featlab.arguments import Progress, check_choice, is_unlabelled, tracked
from featlab.errors import FeatlabError
from featlab.images._annotations import (
    Problem,
    WrittenBox,
    picture_folders,
    read_annotations,
    read_listed,
    walk_files,
)
from featlab.images.decode import (
    Inspection,
    cut,
    inspect_picture,
    is_picture_name,
    os_reason,
    prepare,
    printable,
)
from featlab.images.pixels import fit_box

_log = logging.getLogger(__name__)

LAYOUT = (
    "expected <folder>/<class>/*.jpg, or <folder>/train|val|test/<class>/*.jpg, or a CSV file with "
    "the columns path, label; without labels <folder>/*.jpg, or a CSV file with the column path"
)
SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "confirm": "confirm",
    "test": "test",
}
_FOLDER_SPLITS = set(SPLIT_NAMES) - {"confirm"}
_MOST_LISTED, _MOST_THREADS = 20, 8


@dataclass(frozen=True)
class Candidate:
    """A picture to index; its path is relative to the root, with forward slashes."""

    path: str
    label: str
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class Listing:
    """The pictures of a source, sorted by path, before any of them is opened."""

    root: Path
    candidates: list[Candidate]
    problems: list[Problem]
    is_selection: bool


_Row = tuple[Candidate, Inspection, str]


def index_images(
    source: str | os.PathLike[str],
    *,
    group_from: str | None = None,
    on_error: str = "raise",
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Make the image table and the box table of a set of pictures.

    Every picture is decoded, so that a file which cannot be used is found here.

    **Pictures.** A folder of class folders (pictures may lie deeper), with or without a level
    ``train | val | test`` (also ``valid``, ``validation``) above the classes; or a CSV file with
    the columns ``path, label`` and perhaps ``split`` (train, val, confirm, test or empty) and
    ``group``, with paths relative to its folder. In a folder, files count by the suffixes of the
    formats that Pillow decodes; hidden files and folders called ``annotations`` never count.
    Pictures in no class folder, or a CSV file without ``label``: a set without labels ("" all).

    **Boxes.** From the first of these that has any:

    - ``boxes.csv`` in the root: ``image, label, xmin, ymin, xmax, ymax`` and perhaps ``kind``,
      ``width``, ``height``.
    - Pascal VOC XML, beside the pictures or in a folder ``annotations`` (beside or above them, any
      depth below). It means the picture with its own name in the matching folder, else the one
      called ``<filename>``.
    - COCO JSON in the same places; a crowd region gets the kind "crowd",
      a box repeated in a second file is taken once.

    Coordinates are taken as written: continuous, x to the right, without a shift by one. A width
    and height beside the box say which picture it was drawn in: the picture as shown, the picture
    before its EXIF rotation (the box is turned with it), or the picture at another size (the box
    is scaled). Without them the box belongs to the picture as shown. A box up to 1 pixel outside
    is clipped. With a CSV file, boxes of pictures that it does not list are left out.

    Parameters
    ----------
    source : path-like
        The folder or the CSV file.
    group_from : str, optional
        Regular expression; its first group (or whole match) in the relative path is the picture's
        group. It replaces a column ``group``.
    on_error : {"raise", "skip"}
        What to do about files and boxes that cannot be used: one error that lists them all, or
        leave them out and list them in `skipped`.
    progress : callable, optional
        Wraps an iterable, like tqdm; no progress is shown by default.

    Returns
    -------
    images : DataFrame
        The image table, sorted by path: path, label, split, group (str, "" where absent), width,
        height (int, pixels as shown), sha256, folder (absolute; the paths are relative to it).
    boxes : DataFrame
        The box table: image (row number of the image table), kind, label, xmin, ymin, xmax, ymax
        (pixels of the picture as shown, continuous).
    skipped : DataFrame
        What was left out: path (of a box its place in the annotation file) and reason.

    Raises
    ------
    FeatlabError
        If the source has no usable layout, a file or a box cannot be used (``on_error="raise"``),
        no picture can, or an argument is out of its range.
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    pattern = _compile(group_from)
    listing = list_source(source)
    candidates = [_grouped(candidate, pattern) for candidate in listing.candidates]
    rows, problems = inspect_all(listing.root, candidates, progress)
    boxes, box_problems = make_box_table(
        listing.root,
        {candidate.path: inspection for candidate, inspection, _ in rows},
        [problem.path for problem in listing.problems + problems],
        is_selection=listing.is_selection,
    )
    problems = listing.problems + problems + box_problems
    report_problems(listing, problems, on_error, n_usable=len(rows))
    if is_unlabelled([row[0].label for row in rows]):
        noun = "1 picture" if len(rows) == 1 else f"{len(rows)} pictures"
        _log.info("%s without labels: none in a class folder or column label", noun)
    return image_table(rows, listing.root), boxes, skipped_table(problems)


def _compile(group_from: str | None) -> re.Pattern[str] | None:
    if group_from is None:
        return None
    try:
        return re.compile(group_from)
    except (re.error, TypeError) as error:
        raise FeatlabError(
            f"group_from must be a regular expression, got {group_from!r}: {error}."
        ) from error


def _grouped(candidate: Candidate, pattern: re.Pattern[str] | None) -> Candidate:
    if pattern is None:
        return candidate
    match = pattern.search(candidate.path)
    group = (match.group(1) if pattern.groups else match.group()) if match else None
    if not group:
        raise FeatlabError(
            f"group_from {pattern.pattern!r} finds no group in {candidate.path!r}; "
            "it must match every picture's path."
        )
    return replace(candidate, group=group)


def inspect_all(
    root: Path, candidates: list[Candidate], progress: Progress | None
) -> tuple[list[_Row], list[Problem]]:
    """Size and digest of each picture; one that cannot be used is a problem, and loses no other."""
    prepare()
    rows: list[_Row] = []
    problems: list[Problem] = []
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        results = threads.map(lambda candidate: _inspect(root, candidate), candidates)
        for candidate, result in zip(tracked(candidates, progress), results, strict=True):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                rows.append((candidate, *result))
    return rows, problems


def _inspect(root: Path, candidate: Candidate) -> tuple[Inspection, str] | Problem:
    try:
        data = _read(root / candidate.path)
        return inspect_picture(data), hashlib.sha256(data).hexdigest()
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


def list_source(source: str | os.PathLike[str]) -> Listing:
    """List the pictures of a folder or of a CSV file; none of them is opened."""
    path = Path(os.path.abspath(source))
    if path.is_dir():
        return _list_folder(path)
    if not path.exists():
        raise FeatlabError(f"there is no folder or CSV file {path}; {LAYOUT}.")
    if path.suffix.lower() != ".csv":
        raise FeatlabError(f"{path} is neither a folder nor a CSV file; {LAYOUT}.")
    return Listing(path.parent, _read_csv(path), [], is_selection=True)


def _list_folder(root: Path) -> Listing:
    problems: list[Problem] = []
    paths = sorted(path for path in walk_files(root, "", problems) if is_picture_name(path))
    tops = {path.partition("/")[0] for path in paths if "/" in path}
    depth = 2 if _has_split_level(root, tops) else 1
    candidates = []
    placed = [path for path in paths if path.count("/") >= depth]
    for path in paths:
        if placed and path.count("/") < depth:
            reason = f"it lies in no class folder, others do, such as {cut(printable(placed[0]))}"
            problems.append(Problem(printable(path), reason))
        elif printable(path) != path:
            problems.append(Problem(printable(path), "its name is not valid UTF-8"))
        else:
            parts = path.split("/")
            split = SPLIT_NAMES[parts[0].lower()] if depth == 2 else ""
            candidates.append(Candidate(path, parts[depth - 1] if placed else "", split))
    if not candidates:
        raise FeatlabError(_no_picture(root, problems))
    return Listing(root, candidates, problems, is_selection=False)


def _no_picture(root: Path, problems: list[Problem]) -> str:
    if not problems:
        return f"there is no picture in {root}; {LAYOUT}."
    return f"no picture in {root} can be used ({problems[0].path}: {problems[0].reason}); {LAYOUT}."


def _has_split_level(root: Path, tops: set[str]) -> bool:
    splits = {name for name in tops if name.lower() in _FOLDER_SPLITS}
    others = tops - splits
    if len(splits) > 1 and others:
        raise FeatlabError(
            f"{root} has split folders ({', '.join(sorted(splits))}) beside others with pictures "
            f"({', '.join(sorted(others))}); put every class into the split folders, or rename "
            "those that are classes."
        )
    return bool(splits) and not others


def _read_csv(path: Path) -> list[Candidate]:
    candidates: dict[str, Candidate] = {}
    for line, picture, row in read_listed(path):
        if picture in candidates:
            raise FeatlabError(
                f"{path} line {line}: {cut(picture)} is listed twice; keep one line."
            )
        if not row.get("label", "-"):
            raise FeatlabError(f"{path} line {line}: label is empty; give every picture one.")
        split = row.get("split", "").lower()
        if split and split not in SPLIT_NAMES:
            raise FeatlabError(
                f"{path} line {line}: split must be one of {', '.join(SPLIT_NAMES)} or empty, "
                f"got {cut(repr(row['split']))}."
            )
        candidates[picture] = Candidate(
            picture, row.get("label", ""), SPLIT_NAMES.get(split, ""), row.get("group", "")
        )
    if not candidates:
        raise FeatlabError(f"{path} lists no pictures; {LAYOUT}.")
    return [candidates[picture] for picture in sorted(candidates)]


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
    written, problems = read_annotations(root, pictures)
    finder = _PictureFinder(pictures)
    numbers = {path: number for number, path in enumerate(inspections)}
    rows = []
    for box in written:
        try:
            path = finder.find(box)
            if path is None and not (is_selection and _may_be_unlisted(root, box)):
                raise FeatlabError(f"it names a picture that is not there ({_box_name(box)})")
            if path is not None and path in inspections:
                corners = fit_box(box.corners, box.size, inspections[path])
                rows.append((numbers[path], box.kind, box.label, *corners))
        except FeatlabError as error:
            problems.append(Problem(box.where, str(error)))
    return _as_table(rows), problems


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


def _box_name(box: WrittenBox) -> str:
    return cut(repr(box.name or box.stem))


def _may_be_unlisted(root: Path, box: WrittenBox) -> bool:
    return not box.is_path or (root / box.name).is_file()


def _as_table(rows: list[tuple[int, str, str, float, float, float, float]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=_COLUMNS).astype(
        {"image": np.int64, "kind": str, "label": str}
        | dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), np.float64)
    )
    return table.sort_values("image", kind="stable", ignore_index=True)
