"""A list or a table of pictures → what it says of each; none of them is opened."""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from featlab.arguments import check_choice
from featlab.errors import FeatlabError
from featlab.images._annotations import (
    ANNOTATION_FOLDERS,
    Problem,
    forward,
    split_of,
    stem_of,
    walk_files,
)
from featlab.images._formats.text_files import LABEL_COLUMNS, PICTURE_COLUMNS, first_of, read_rows
from featlab.images.decode import cut, first_line, is_picture_name, is_storable

LAYOUT = (
    "expected <folder>/<class>/*.jpg, or <folder>/train|val|test/<class>/*.jpg, or a CSV file with "
    "the columns path, label; without labels <folder>/*.jpg, a CSV file with the column path, or a "
    "text file with a path in each line"
)
_FEW = 8
TABLES = (".csv", ".tsv")
"""Suffixes of tables with a picture in each line."""
LISTS = (".txt", ".lst", ".list")
"""Suffixes of text files with a path in each line."""
_SIZES = ("width", "height", "size", "sha256", "md5", "url")
_LISTS = re.compile(r"imagesets?|layout|main|lists?|splits?|meta|index|data|csvs?", re.I)


@dataclass(frozen=True)
class Candidate:
    """A picture to index; its path is relative to the root, with forward slashes."""

    path: str
    label: str
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class Listing:
    """The pictures of a source, sorted by path, before any of them is opened.

    Attributes
    ----------
    root : Path
    candidates : list of Candidate
    problems : list of Problem
    is_selection : bool
        They were listed by a person; others may lie beside them.
    question : str
        Why the top folders may be no classes; what boxes are called may answer it.
    by_folder : bool
        The labels are the names of folders, which nobody has said are classes.
    boxes_file : str
        The table itself, from the root, where its lines are boxes; "" where they are not.
    labels, sides, pictures : str
        What they are read from, in words; "" where there are none, or it needs no word.
    """

    root: Path
    candidates: list[Candidate]
    problems: list[Problem]
    is_selection: bool
    question: str = ""
    by_folder: bool = False
    labels: str = ""
    sides: str = ""
    pictures: str = ""
    boxes_file: str = ""


@dataclass(frozen=True)
class PictureTable:
    """A CSV file of pictures, and what its columns mean.

    Attributes
    ----------
    file : path-like
    columns : mapping of str to str
        Of "path", "label", "split", "group" the names of the columns; those not named are found by
        the names that people give them.

    Raises
    ------
    FeatlabError
        Another key than these.

    Examples
    --------
    >>> PictureTable("pictures.csv", {"path": "photo", "label": "species"}).columns["label"]
    'species'
    """

    file: str | os.PathLike[str]
    columns: Mapping[str, str]

    def __post_init__(self) -> None:
        for key in self.columns:
            check_choice("columns", key, ("path", "label", "split", "group"))


def few(names: set[str]) -> str:
    """The first names, and how many more there are."""
    first, more = ", ".join(sorted(names)[:_FEW]), len(names) - _FEW
    return f"{first} and {more:,} more" if more > 0 else first


class Listed(NamedTuple):
    """What a table lists: its columns; line, file and row of each picture; how these were found."""

    columns: dict[str, str]
    rows: list[tuple[int, str, dict[str, str]]]
    how: str


def relative_path(text: str) -> str | None:
    """A path as written by any system → relative with forward slashes; None if it leads outside."""
    text = text.replace("\\", "/")
    if not text or text.startswith("/") or "\0" in text or re.match(r"[A-Za-z]:", text):
        return None
    path = posixpath.normpath(text)
    return None if path == "." or path.split("/")[0] == ".." else path


def read_listed(path: Path, given: Mapping[str, str] | None = None) -> Listed:
    """Pictures that a table lists.

    Columns are those given, or found by the names that people use; a row has them as ``path``,
    ``label``, ``split`` and ``group``, too.

    Raises
    ------
    FeatlabError
        It cannot be read; no column holds pictures; a path leads out of the folder, to no file.
    """
    rows = list(read_rows(path, ())) or list(read_rows(path, (PICTURE_COLUMNS,)))
    columns = columns_of(path, rows[0][1], given or {}) if rows else {}
    files, how = files_of_list(path, [row[columns["path"]] for _, row in rows])
    listed = []
    for line, row in rows:
        written = row[columns["path"]]
        file = files[written]
        by_name = bool(how) and os.path.isfile(file)
        if not by_name and relative_path(_from_here(path, written)) is None:
            raise FeatlabError(
                f"{path} line {line}: path must be relative to the CSV file's folder and lie in "
                f"it, or be a whole path there, got {cut(repr(written))}."
            )
        listed.append((line, file, row | {key: row[name] for key, name in columns.items()}))
    return Listed(columns, listed, how)


def columns_of(path: object, row: dict[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """The columns of picture, label, split, group: as given, by usual names, by the first line."""
    header = list(row)
    unknown = [name for name in given.values() if name not in row]
    if unknown:
        raise FeatlabError(
            f"{path} has no column {cut(unknown[0])}; its columns are {cut(', '.join(header))}."
        )
    columns: dict[str, str] = {key: key for key in ("split", "group") if key in row} | dict(given)
    column = columns.get("path") or first_of(header, PICTURE_COLUMNS)
    if not column:
        holding = [name for name in header if is_picture_name(row[name])]
        if len(holding) != 1 or any(map(is_picture_name, header)):
            raise FeatlabError(
                f"{path} needs the columns path, separated by commas, semicolons or tabs, and "
                f"perhaps label; its first line has {cut(', '.join(header))}."
            )
        column = holding[0]
    rest = [name for name in header if name not in (column, *columns.values())]
    only = rest[0] if len(rest) == 1 and rest[0] not in _SIZES else ""
    label = columns.get("label") or first_of(rest, LABEL_COLUMNS) or only
    return columns | {"path": column} | ({"label": label} if label else {})


def _from_here(path: Path, text: str) -> str:
    """A whole path below the file's folder, from there; any other as it is."""
    if not os.path.isabs(text):
        return text
    inside = os.path.relpath(os.path.normpath(text), path.parent)
    return text if inside.startswith(os.pardir) else inside


def files_of_list(file: Path, names: Sequence[str]) -> tuple[dict[str, str], str]:
    """The file that each name of a list means, and how they were found, in words.

    A name is a path from the list's own folder, or a whole one. Where none is that of a file, the
    set has moved or the names lack their suffixes: then each is the picture of the same name, if
    there is one such in the list's folder; or above it, while that is a folder of lists.

    Parameters
    ----------
    file : Path
        The list.
    names : sequence of str

    Returns
    -------
    dict of str to str
        Name → whole path, whether there is anything or not.
    str
        "" where they are paths.
    """
    places = {name: os.path.abspath(file.parent / forward(name)) for name in names}
    if any(map(os.path.lexists, places.values())):
        return places, ""
    for folder in (file.parent, *file.parent.parents):
        paths = [path for path in walk_files(folder, "", []) if is_picture_name(path)]
        known: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            known[posixpath.basename(path)].append(path)
            known[stem_of(path)].append(path)
        hits = {name: known.get(posixpath.basename(forward(name)), []) for name in names}
        by_name = {name: str(folder / one[0]) for name, one in hits.items() if len(one) == 1}
        if by_name:
            return places | by_name, f"files of the same name in {folder.name}"
        if (
            paths
            or folder.parent in (Path.home(), Path(folder.anchor))
            or not (_LISTS.fullmatch(folder.name) or ANNOTATION_FOLDERS.fullmatch(folder.name))
        ):
            break
    return places, ""


def of_paths(path: Path) -> Listing:
    """A text file with the path of a picture in each line, relative to its folder or absolute."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        reason = first_line(error)
        raise FeatlabError(f"{path} cannot be read as text in UTF-8: {reason}.") from error
    named = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not named or not all(map(is_storable, named)):
        raise FeatlabError(f"{path} lists no pictures; {LAYOUT}.")
    files, labels, how = _with_labels(path, named)
    root = Path(common_folder(*files))
    placed = {Path(file).relative_to(root).as_posix(): file for file in files}
    tops = {place.partition("/")[0] for place in placed}
    said = f"the last word of each line of {path.name}"
    if not labels and len(tops) > 1 and all("/" in place for place in placed):
        labels = {file: place.partition("/")[0] for place, file in placed.items()}
        said = f"the folders {few(tops)}, below the one that all have in common"
    candidates = [Candidate(one, labels.get(placed[one], "")) for one in sorted(placed)]
    return Listing(root, candidates, [], is_selection=True, labels=said, pictures=how)


def _with_labels(path: Path, named: Sequence[str]) -> tuple[list[str], dict[str, str], str]:
    """The files of a list's lines; their labels, where each line ends with one; how found."""
    files, how = files_of_list(path, named)
    pairs = [line.rsplit(None, 1) for line in named]
    if any(map(os.path.lexists, files.values())) or any(len(pair) < 2 for pair in pairs):
        return [*files.values()], {}, how
    first, how = files_of_list(path, [pair[0] for pair in pairs])
    if not any(map(os.path.lexists, first.values())):
        return [*files.values()], {}, ""
    return [*first.values()], {first[name]: label for name, label in pairs}, how


def common_folder(*files: str) -> str:
    """The innermost folder that holds all of them."""
    return os.path.commonpath({os.path.dirname(file) for file in files})


def of_csv(path: Path, given: Mapping[str, str]) -> Listing:
    """The pictures that a table lists; a FeatlabError with the line where one cannot be meant."""
    candidates: dict[str, Candidate] = {}
    columns, rows, how = read_listed(path, given)
    root = Path(common_folder(str(path), *(file for _, file, _ in rows)))
    for line, file, row in rows:
        picture = Path(file).relative_to(root).as_posix()
        if picture in candidates:
            if _is_box(row):
                continue
            raise FeatlabError(
                f"{path} line {line}: {cut(picture)} is listed twice; keep one line."
            )
        if not row.get("label", "-"):
            raise FeatlabError(f"{path} line {line}: label is empty; give every picture one.")
        split = row.get("split", "").lower()
        if split and not split_of(split):
            raise FeatlabError(
                f"{path} line {line}: split must be one of train, val, confirm, test or empty, "
                f"got {cut(repr(row['split']))}."
            )
        label = "" if _is_box(row) else row.get("label", "")
        candidates[picture] = Candidate(picture, label, split_of(split), row.get("group", ""))
    if not candidates:
        raise FeatlabError(f"{path} lists no pictures; {LAYOUT}.")
    inside = [candidates[one] for one in sorted(candidates)]
    where = f"of {path.name}, where {columns['path']} is the picture"
    labels, sides = (f"column {columns.get(key)} {where}" for key in ("label", "split"))
    own = path.relative_to(root).as_posix() if _is_box(rows[0][2]) else ""
    return Listing(root, inside, [], True, labels=labels, sides=sides, pictures=how, boxes_file=own)


def _is_box(row: dict[str, str]) -> bool:
    """Whether a line is a box, of which a picture may have several."""
    return {"xmin", "ymin", "xmax", "ymax"} <= set(row)


def of_table(table: pd.DataFrame) -> Listing:
    """A DataFrame with the columns of a CSV file; paths may be relative to its ``folder``."""
    if table.empty:
        raise FeatlabError(
            "a table of pictures needs the column path, perhaps label, split, group and folder, "
            f"got {', '.join(map(str, table.columns)) or 'no columns'} and {len(table)} rows."
        )
    written = {str(name).lower(): name for name in table}
    first = {name: str(table[column].iloc[0]) for name, column in written.items()}
    columns = columns_of("the table", {k: v for k, v in first.items() if k != "folder"}, {})
    table = table.rename(columns={written[name]: key for key, name in columns.items()})
    blank = [""] * len(table)
    folders = table["folder"].fillna("") if "folder" in table else blank
    places = zip(folders, table["path"], strict=True)
    files = [_whole_path(row, *place) for row, place in enumerate(places)]
    root = Path(os.path.commonpath({os.path.dirname(file) for file in files}))
    names = ("label", "split", "group")
    rows = [table[name].fillna("").astype(str) if name in table else blank for name in names]
    candidates = {}
    for file, label, split, group in zip(files, *rows, strict=True):
        path = posixpath.join(*Path(file).relative_to(root).parts)
        if path in candidates:
            raise FeatlabError(f"{cut(path)} is listed twice; keep one row.")
        if split and not split_of(split):
            raise FeatlabError(f"split must be train, val, confirm or test, got {split!r}.")
        candidates[path] = Candidate(path, label, split_of(split), group)
    if len({bool(one.label) for one in candidates.values()}) > 1:
        raise FeatlabError("label is empty for some pictures; give every picture one, or none.")
    inside = [candidates[path] for path in sorted(candidates)]
    labels, sides = (f"column {columns.get(key)} of the table" for key in ("label", "split"))
    return Listing(root, inside, [], is_selection=True, labels=labels, sides=sides)


def _whole_path(row: int, folder: object, path: object) -> str:
    for name, part in (("folder", folder), ("path", path)):
        if not isinstance(part, str | os.PathLike) or "\0" in str(part):
            raise FeatlabError(
                f"row {row} of the table: {name} must be text that can be a path, "
                f"got {cut(repr(part))}."
            )
    return os.path.abspath(os.path.join(str(folder), str(path)))
