"""What a folder or a list says of its pictures: label, split, group; none of them is opened."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from featlab.errors import FeatlabError
from featlab.images._annotations import (
    HOLDERS,
    SPLIT_NAMES,
    Problem,
    has_level,
    names_at,
    sides_of,
    split_of,
    walk_files,
    without_companions,
    without_masks,
)
from featlab.images._lists import (
    LAYOUT,
    LISTS,
    TABLES,
    Candidate,
    Listing,
    PictureTable,
    few,
    of_csv,
    of_paths,
    of_table,
)
from featlab.images.decode import cut, is_picture_name, printable

_log = logging.getLogger(__name__)
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


@dataclass(frozen=True)
class Patterns:
    """Regular expressions on a picture's path, of which the first group or all is taken.

    Attributes
    ----------
    label, split, group : str, optional
    """

    label: str | None = None
    split: str | None = None
    group: str | None = None

    def apply(self, candidate: Candidate) -> Candidate:
        """The candidate with what the patterns find.

        Raises
        ------
        FeatlabError
            A pattern is none, finds nothing in the path, or a side that is unknown.
        """
        for name in ("label", "split", "group"):
            pattern = getattr(self, name)
            if pattern is not None:
                value = _matched(f"{name}_from", pattern, candidate.path)
                if name == "split":
                    side = split_of(value)
                    if not side:
                        raise FeatlabError(
                            f"split_from {pattern!r} finds {value!r} in {candidate.path!r}; it "
                            f"must find the name of a side: {', '.join(SPLIT_NAMES)}."
                        )
                    value = side
                candidate = replace(candidate, **{name: value})
        return candidate


def _matched(name: str, pattern: str, path: str) -> str:
    try:
        match = re.search(pattern, path)
    except (re.error, TypeError) as error:
        raise FeatlabError(
            f"{name} must be a regular expression, got {pattern!r}: {error}."
        ) from error
    value = (match.group(1) if match.re.groups else match.group()) if match else None
    if not value:
        what = name.partition("_")[0]
        raise FeatlabError(
            f"{name} {pattern!r} finds no {what} in {path!r}; it must match every picture's path."
        )
    return value


def list_source(
    source: Source,
    patterns: Patterns,
    classes: Sequence[str] | None = None,
) -> Listing:
    """List the pictures of a folder, of a list or of a table; none of them is opened.

    Parameters
    ----------
    source : path-like, DataFrame or PictureTable
    patterns : Patterns
    classes : sequence of str, optional
        Only pictures with these labels, where they have labels by now.
    """
    listing = _listed(source, patterns)
    candidates = [patterns.apply(candidate) for candidate in listing.candidates]
    if classes is not None and any(one.label for one in candidates):
        candidates = of_classes(candidates, classes)
    labels = listing.labels if any(one.label for one in candidates) else ""
    sides = listing.sides if any(one.split for one in candidates) else ""
    if patterns.label is not None:
        labels = f"what {patterns.label} finds in the path"
    if patterns.split is not None:
        sides = f"what {patterns.split} finds in the path"
    return replace(listing, candidates=candidates, labels=labels, sides=sides)


def of_classes(candidates: list[Candidate], classes: Sequence[str]) -> list[Candidate]:
    """Those of some classes.

    Raises
    ------
    FeatlabError
        A class has no picture.
    """
    known = {one.label for one in candidates}
    absent = [name for name in classes if name not in known]
    if absent or not classes:
        there = ", ".join(sorted(known - {""})[:20])
        raise FeatlabError(f"classes must be some of {there}, got {', '.join(classes) or 'none'}.")
    return [one for one in candidates if one.label in set(classes)]


Source = str | os.PathLike[str] | pd.DataFrame | PictureTable


def _listed(source: Source, patterns: Patterns) -> Listing:
    if isinstance(source, pd.DataFrame):
        return of_table(source)
    given: Mapping[str, str] = {}
    if isinstance(source, PictureTable):
        given = {key: name.strip().lower() for key, name in source.columns.items()}
        source = source.file
    path = Path(os.path.abspath(source))
    if path.is_dir():
        return _list_folder(path, patterns)
    if not path.exists():
        raise FeatlabError(f"there is no folder or CSV file {path}; {LAYOUT}.")
    if path.suffix.lower() in LISTS and not given:
        return of_paths(path)
    if path.name.lower().endswith(_ARCHIVES):
        raise FeatlabError(f"{path} is an archive: unpack it, and give the folder.")
    if path.suffix.lower() not in TABLES:
        raise FeatlabError(f"{path} is neither a folder nor a CSV file; {LAYOUT}.")
    return of_csv(path, given)


# -------------------------------------------------------------------------------------- folders


def _list_folder(root: Path, patterns: Patterns) -> Listing:
    problems: list[Problem] = []
    paths = sorted(path for path in walk_files(root, "", problems) if is_picture_name(path))
    named = [path for path in paths if printable(path) == path]
    why = "its name is not valid UTF-8"
    problems += [Problem(printable(path), why) for path in paths if printable(path) != path]
    named = without_companions(without_masks(named, problems), problems)
    candidates = []
    levels, split_level = _levels(root, named)
    label_level = None if patterns.label is not None else next(iter(levels), None)
    sides = {} if split_level is None else sides_of(names_at(named, split_level))
    placed = [path for path in named if label_level is not None and has_level(path, label_level)]
    for path in named:
        parts = path.split("/")
        if placed and label_level is not None and not has_level(path, label_level):
            reason = f"it lies in no class folder, others do, such as {cut(placed[0])}"
            problems.append(Problem(path, reason))
            continue
        split = (
            "" if split_level is None or not has_level(path, split_level) else parts[split_level]
        )
        label = parts[label_level] if placed and label_level is not None else ""
        label = unicodedata.normalize("NFC", label)
        candidates.append(Candidate(path, label, sides.get(split, "")))
    if not candidates:
        raise FeatlabError(_no_picture(root, problems))
    question = ""
    if label_level is not None and split_level is None and placed:
        question = _asked_of_alike(root, named, label_level)
        if not question:
            problems += _shared_below(named, label_level)
    by_folder = bool(placed) and label_level is not None
    labels = f"the folders {few({one.label for one in candidates})}" if by_folder else ""
    whose = {f"{name} ({side})" if name != side else name for name, side in sides.items()}
    read_from = (labels, f"the folders {few(whose)}" if sides else "")
    return Listing(root, candidates, problems, False, question, by_folder, *read_from)


def _levels(root: Path, paths: list[str]) -> tuple[list[int], int | None]:
    """Levels of the folders that may be classes, the first first; and that of the splits."""
    deepest = max((path.count("/") for path in paths), default=0)
    names = [names_at(paths, k) for k in range(deepest)]
    levels = [k for k in range(deepest) if not _only_holds(names[k], paths, k)]
    levels = [k for k in levels if not _repeats(paths, k)]
    if not levels:
        return levels, None
    first = levels[0]
    splits = {name for name in names[first] if split_of(name) not in ("", "confirm")}
    others = names[first] - splits
    if len(splits) > 1 and others:
        raise FeatlabError(
            f"{root} has split folders ({', '.join(sorted(splits))}) beside others with pictures "
            f"({', '.join(sorted(others))}); put every class into the split folders, or rename "
            "those that are classes."
        )
    if splits and not others:
        return levels[1:], first
    if len(levels) > 1 and _are_splits(names[levels[1]], paths, levels[1]):
        return [first, *levels[2:]], levels[1]
    return levels, None


def _only_holds(names: set[str], paths: list[str], level: int) -> bool:
    """Whether a level of folders is one folder that only holds the others, such as ``images``."""
    name = next(iter(names))
    if len(names) != 1 or split_of(name):
        return False
    if HOLDERS.fullmatch(name):
        return True
    holds_all = all(has_level(path, level + 1) for path in paths)
    if level or not holds_all or len(names_at(paths, 1)) < 2:
        return False
    _log.info("%s is the only folder, so the folders in it are read as those of the set", name)
    return True


def _repeats(paths: list[str], level: int) -> bool:
    """Whether folders only repeat the name of the one that they lie in, as unpacked archives do."""
    parts = [path.split("/") for path in paths if has_level(path, level)]
    return level > 0 and all(one[level] == one[level - 1] for one in parts)


def _are_splits(names: set[str], paths: list[str], level: int) -> bool:
    """Whether every picture lies in a folder with the name of a side, below its class."""
    sides = {split_of(name) for name in names}
    return len(sides) > 1 and "" not in sides and all(has_level(path, level) for path in paths)


def _asked_of_alike(root: Path, paths: list[str], level: int) -> str:
    """What is asked of top folders that all hold the same folders: sides of a split, or classes?"""
    below: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        parts = path.split("/")
        if has_level(path, level):
            below[parts[level]].add(parts[level + 1] if has_level(path, level + 1) else "")
    alike = {frozenset(names) for names in below.values()}
    inside = sorted(next(iter(alike))) if len(alike) == 1 else []
    if len(below) < 2 or len(inside) < 2 or "" in inside:
        return ""
    tops = ", ".join(sorted(below)[:5])
    inner = ", ".join(inside[:5])
    start = "[^/]+/" * level
    return (
        f"the folders {tops} in {root} all hold the same folders ({inner}), like sides of a "
        f"split: say which are the classes, --label-from '^{start}([^/]+)' for {tops}, or "
        f"--label-from '^{start}[^/]+/([^/]+)' for {inner} (in Python: label_from=); the sides "
        "of a split have names such as train, val, test, or are found with --split-from."
    )


def _shared_below(paths: list[str], level: int) -> list[Problem]:
    """A line where folders of the same name lie in several classes: are the classes deeper?"""
    holders: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        for name in path.split("/")[level:-1]:
            holders[name].add(path.split("/")[level])
    shared = sorted(name for name, tops in holders.items() if len(tops) > 1)
    if not shared:
        return []
    tops = ", ".join(sorted(set().union(*(holders[name] for name in shared)))[:5])
    why = (
        f"read as classes, and {', '.join(shared[:5])} in several of them as no class; if it is "
        "the other way round, say so with --label-from"
    )
    return [Problem(tops, why, stops=False)]


def _no_picture(root: Path, problems: list[Problem]) -> str:
    packed = sorted(name for name in os.listdir(root) if name.lower().endswith(_ARCHIVES))
    if packed:
        what = (
            f"{cut(packed[0])}, an archive: unpack it"
            if packed[1:] == []
            else (f"{len(packed)} archives, such as {cut(packed[0])}: unpack them")
        )
        return f"there is no picture in {root}, but {what}."
    if not problems:
        return f"there is no picture in {root}; {LAYOUT}."
    return f"no picture in {root} can be used ({problems[0].path}: {problems[0].reason}); {LAYOUT}."
