"""Pictures on disk → image table and box table; bytes → pixels; pixels → the network's input.

Every picture is decoded once while it is indexed, so that a broken file is found before the
network is run and not in the middle of the night.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from featlab.arguments import Progress, check_choice
from featlab.errors import FeatlabError
from featlab.images._annotations import Problem, walk_files
from featlab.images._index import (
    ImageSet,
    image_table,
    index_images,
    inspect_all,
    report_problems,
    skipped_table,
)
from featlab.images._intensity import like
from featlab.images._lists import (
    LISTS,
    TABLES,
    Candidate,
    Listing,
    PictureTable,
    common_folder,
    of_paths,
    read_listed,
)
from featlab.images.decode import cut, decode_picture, is_picture_name, printable

__all__ = ["ImageSet", "PictureTable", "decode_picture", "index_images"]

_WHAT = "give picture files, folders, patterns such as 'trip/*.jpg', or a list of paths"


def index_pictures(
    pictures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    intensity: str = "",
    on_error: str = "raise",
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make an image table of pictures that nobody has labelled; every one of them is decoded.

    Parameters
    ----------
    pictures : path-like, or sequence of path-like
        Files; folders, whose pictures may lie at any depth; patterns (``**`` is any folders); CSV
        files with a column ``path``, or text files with a path in each line, relative to their own
        folder.
    intensity : str
        How the grey levels of another set were brought to 8 bits, as its store tells; these are
        like them. "": as the number formats have it.
    on_error : {"raise", "skip"}
        What to do about files that cannot be used: one error that lists them, or leave them out and
        list them in `skipped`.
    progress : callable, optional
        Wraps an iterable, like tqdm.

    Returns
    -------
    images : DataFrame
        The image table of :func:`index_images`, its labels empty. Paths are relative to the folder
        that was given; of several sources, to the folder that they have in common.
    skipped : DataFrame
        What was left out: path and reason.

    Raises
    ------
    FeatlabError
        There is nothing at a path, there is no picture, or a file cannot be used.
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    given = [pictures] if isinstance(pictures, (str, os.PathLike)) else list(pictures)
    if not given:
        raise FeatlabError(f"pictures must hold at least one path, got none; {_WHAT}.")
    problems: list[Problem] = []
    sources = [_files_of(os.fspath(one), problems) for one in given]
    named = sorted({file for _, files in sources for file in files})
    if not named and not problems:
        raise FeatlabError(
            f"there is no picture in {', '.join(str(one) for one in given)}; {_WHAT}."
        )
    root = Path(os.path.commonpath([folder for folder, _ in sources]))
    candidates = []
    for file in named:
        path = Path(file).relative_to(root).as_posix()
        if printable(path) == path:
            candidates.append(Candidate(path, ""))
        else:
            problems.append(Problem(printable(path), "its name is not valid UTF-8"))
    rows, unusable = inspect_all(root, candidates, progress, exact=bool(intensity))
    problems += unusable
    listing = Listing(root, candidates, problems, is_selection=True)
    report_problems(listing, problems, on_error, n_usable=len(rows))
    images = image_table(rows, root)
    if intensity:
        images["levels"] = like(intensity, [row[1].range for row in rows])
    return images, skipped_table(problems)


def _files_of(source: str, problems: list[Problem]) -> tuple[str, list[str]]:
    """The folder that a source's paths are relative to, and its files, all absolute."""
    path = os.path.abspath(source)
    if os.path.isdir(path):
        inside = [name for name in walk_files(Path(path), "", problems) if is_picture_name(name)]
        return path, [os.path.join(path, name) for name in inside]
    # A link that leads nowhere is a file that cannot be read; as a pattern it would be itself.
    if os.path.lexists(path):
        if path.lower().endswith(LISTS):
            listed_here = of_paths(Path(path))
            files = [str(listed_here.root / one.path) for one in listed_here.candidates]
            return str(listed_here.root), files
        if path.lower().endswith(TABLES):
            files = [file for _, file, _ in read_listed(Path(path)).rows]
            return common_folder(path, *files), files
        return os.path.dirname(path), [path]
    matches = sorted(glob.glob(path, recursive=True))
    if not matches:
        raise FeatlabError(f"there is nothing at {cut(source)}; {_WHAT}.")
    parts = [_files_of(match, problems) for match in matches]
    files = [file for _, files in parts for file in files if is_picture_name(file)]
    return os.path.commonpath([folder for folder, _ in parts]), files
