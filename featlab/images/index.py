"""A folder or a CSV file → image table and box table, every picture decoded once."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError
from featlab.images.box_table import make_box_table
from featlab.images.decode import Inspection, cut, inspect_image, prepare
from featlab.images.sources import Candidate, Listing, Problem, list_source, os_reason, printable

_log = logging.getLogger(__name__)

_MOST_LISTED = 20
_MOST_THREADS = 8

_Progress = Callable[[Iterable[Any]], Iterable[Any]]
_Row = tuple[Candidate, Inspection, str]


def index_images(
    source: str | os.PathLike[str],
    *,
    group_from: str | None = None,
    on_error: str = "raise",
    progress: _Progress | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make the image table and the box table of a set of pictures.

    Every picture is decoded, so that a file which cannot be used is found here.

    **Pictures.** A folder of class folders (pictures may lie deeper), with or without a level
    ``train | val | test`` (also ``valid``, ``validation``) above the classes; or a CSV file with
    the columns ``path, label`` and perhaps ``split`` (train, val, confirm, test or empty) and
    ``group``, with paths relative to its folder. In a folder, files count by the suffixes of the
    formats that Pillow decodes; hidden files and folders called ``annotations`` never count.

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
        leave them out and list them in ``images.attrs["skipped"]``.
    progress : callable, optional
        Wraps an iterable, like tqdm; no progress is shown by default.

    Returns
    -------
    images : DataFrame
        The image table, sorted by path: path, label, split, group (str, "" where absent), width,
        height (int, pixels as shown), sha256. ``attrs["root"]`` is the absolute folder;
        ``attrs["skipped"]`` a list of ``{"path", "reason"}``; for a box, path is its place in the
        annotation file.
    boxes : DataFrame
        The box table: image (row number of the image table), kind, label, xmin, ymin, xmax, ymax
        (pixels of the picture as shown, continuous).

    Raises
    ------
    FeatlabError
        If the source has no usable layout, a file or a box cannot be used (``on_error="raise"``),
        no picture can, or an argument is out of its range.
    """
    if on_error not in ("raise", "skip"):
        raise FeatlabError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
    pattern = _compile(group_from)
    listing = list_source(source)
    candidates = listing.candidates
    if pattern is not None:
        candidates = [_grouped(candidate, pattern) for candidate in candidates]
    rows, problems = _inspect_all(listing.root, candidates, progress)
    boxes, box_problems = make_box_table(
        listing.root,
        {candidate.path: inspection for candidate, inspection, _ in rows},
        [problem.path for problem in listing.problems + problems],
        is_selection=listing.is_selection,
    )
    problems = listing.problems + problems + box_problems
    _report(listing, problems, on_error, n_usable=len(rows))
    images = _image_table(rows)
    images.attrs["root"] = str(listing.root)
    images.attrs["skipped"] = [{"path": bad.path, "reason": bad.reason} for bad in problems]
    return images, boxes


def _compile(group_from: str | None) -> re.Pattern[str] | None:
    if group_from is None:
        return None
    try:
        return re.compile(group_from)
    except (re.error, TypeError) as error:
        raise FeatlabError(
            f"group_from must be a regular expression, got {group_from!r}: {error}."
        ) from error


def _grouped(candidate: Candidate, pattern: re.Pattern[str]) -> Candidate:
    match = pattern.search(candidate.path)
    group = (match.group(1) if pattern.groups else match.group()) if match else None
    if not group:
        raise FeatlabError(
            f"group_from {pattern.pattern!r} finds no group in {candidate.path!r}; "
            "it must match every picture's path."
        )
    return replace(candidate, group=group)


def _inspect_all(
    root: Path, candidates: list[Candidate], progress: _Progress | None
) -> tuple[list[_Row], list[Problem]]:
    prepare()
    rows: list[_Row] = []
    problems: list[Problem] = []
    wrapped = candidates if progress is None else progress(candidates)
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        results = threads.map(lambda candidate: _inspect(root, candidate), candidates)
        for candidate, result in zip(wrapped, results, strict=True):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                rows.append((candidate, *result))
    return rows, problems


def _inspect(root: Path, candidate: Candidate) -> tuple[Inspection, str] | Problem:
    try:
        data = _read(root / candidate.path)
        return inspect_image(data), hashlib.sha256(data).hexdigest()
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


def _report(listing: Listing, problems: list[Problem], on_error: str, *, n_usable: int) -> None:
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
            f'{text}\nMend them, or leave them out with on_error="skip" (--on-error skip).'
        )
    _log.warning("left out: %s", text)


def _image_table(rows: list[_Row]) -> pd.DataFrame:
    candidates = [candidate for candidate, _, _ in rows]
    return pd.DataFrame(
        {
            "path": [candidate.path for candidate in candidates],
            "label": [candidate.label for candidate in candidates],
            "split": [candidate.split for candidate in candidates],
            "group": [candidate.group for candidate in candidates],
            "width": np.array([found.width for _, found, _ in rows], dtype=np.int64),
            "height": np.array([found.height for _, found, _ in rows], dtype=np.int64),
            "sha256": [digest for _, _, digest in rows],
        }
    )
