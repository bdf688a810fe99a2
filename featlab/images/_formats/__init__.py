"""Boxes as people's tools write them: one function a format, one contract for all.

A format is a function ``parse(path, content, source)``: the boxes that one file holds, problems
where an item cannot be read, or None where the file is of another format. It is named in `FORMATS`
behind the suffix of its files; :func:`read_annotations` opens each file once.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from featlab.errors import FeatlabError
from featlab.images._annotations import Entries, Problem, Source, WrittenBox
from featlab.images._formats import json_files, text_files
from featlab.images.decode import cut, first_line, os_reason
from featlab.system.files import parse_xml

_LISTS = (".csv", ".txt")  # may list pictures
_NAMED = re.compile("annot|bbox|box(es)?$|instances", re.I)
"""Names of files that hold annotations, whatever they are of."""
_MOST_NAMES, _MOST_BYTES = (
    200,
    1 << 20,
)  # pictures; bytes of a file that is looked at for their names
_Parse = Callable[[str, Any, Source], "Entries | None"]

FORMATS: dict[str, tuple[str, _Parse]] = {
    "boxes.csv": (".csv", text_files.own),
    "Pascal VOC": (".xml", text_files.voc),
    "COCO": (".json", json_files.coco),
    "CVAT": (".xml", text_files.cvat),
    "YOLO": (".txt", text_files.yolo),
    "LabelMe": (".json", json_files.labelme),
    "VIA": (".json", json_files.via),
    "Label Studio": (".json", json_files.label_studio),
    "CreateML": (".json", json_files.createml),
    "VIA CSV": (".csv", text_files.via_table),
    "Open Images": (".csv", text_files.open_images),
    "table of boxes": (".csv", text_files.corners_of),
}
"""Name → suffix and function, in the order in which they are preferred."""


def read_annotations(source: Source) -> tuple[list[WrittenBox], list[Problem], str]:
    """Read the boxes of the first format that has any; name the files that were not read.

    Returns
    -------
    boxes : list of WrittenBox
    problems : list of Problem
        Files and entries that cannot be read as boxes; what stays unread, in one line a folder.
    read_from : str
        Which files of which format they were read from.
    """
    entries: dict[str, Entries] = {name: [] for name in FORMATS}
    files: dict[str, list[str]] = {name: [] for name in FORMATS}
    problems, unread = [], []
    for path in source.files:
        suffix = posixpath.splitext(path)[1].lower()
        if suffix not in _LOADERS:
            continue
        try:
            content = _LOADERS[suffix](path, source)
        except OSError as error:
            problems.append(Problem(path, os_reason(error)))
            continue
        except FeatlabError as error:
            problems.append(
                Problem(path, str(error), stops=text_files.is_own(path) or suffix != ".csv")
            )
            continue
        for name, (own, parse) in FORMATS.items():
            part = _parsed(name, parse, path, content, source) if own == suffix else None
            if part is not None:
                entries[name] += part
                files[name].append(path)
                break
        else:
            unread.append(path)
    boxes, preferred = [], ""
    for name in FORMATS:
        boxes = [one for one in entries[name] if isinstance(one, WrittenBox)]
        problems += [one for one in entries[name] if isinstance(one, Problem)]
        if boxes:
            preferred = name
            break
    if preferred == "YOLO" and all(box.label.isdecimal() for box in boxes):
        problems.append(text_files.yolo_unnamed(boxes[0].file))
    # Who writes boxes.csv says with it which boxes are meant.
    if preferred == "boxes.csv":
        return boxes, problems, preferred
    names = sorted({box.file for box in boxes})
    read_from = f"{len(names):,} files of {preferred}, such as {cut(names[0])}" if names else ""
    if len(names) == 1:
        read_from = f"{cut(names[0])}, a file of {preferred}"
    for name, of_format in files.items():
        if name != preferred and any(isinstance(one, WrittenBox) for one in entries[name]):
            unread += of_format
    return _once(boxes), problems + _unread(unread, preferred, source), read_from


def _parsed(name: str, parse: _Parse, path: str, content: Any, source: Source) -> Entries | None:
    """What a format makes of a file; a problem where the file as a whole defies it."""
    try:
        return parse(path, content, source)
    except FeatlabError as error:
        return [Problem(path, str(error))]
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        what = f"{type(error).__name__} {cut(str(error))}"
        return [Problem(path, f"it is not a file of {name} ({what})")]


def _once(boxes: list[WrittenBox]) -> list[WrittenBox]:
    """Each box of a file that a second file of the set repeats, as COCO's do, only once."""
    first: dict[object, WrittenBox] = {}
    origin: dict[object, str] = {}
    for box in boxes:
        same = (box.folder, box.name, box.stem, box.label, box.corners, box.kind, box.size)
        if origin.setdefault(same, box.file) != box.file:
            continue
        first[(*same, box.place)] = box
    return list(first.values())


def _unread(paths: list[str], preferred: str, source: Source) -> list[Problem]:
    """One line for each folder and suffix of files that look like annotations."""
    stems = {posixpath.splitext(posixpath.basename(path))[0] for path in source.pictures}
    counts: Counter[tuple[str, str]] = Counter()
    for path in paths:
        suffix = posixpath.splitext(path)[1].lower()
        stem = posixpath.splitext(posixpath.basename(path))[0]
        # Notes and settings lie beside pictures, too.
        is_one = suffix == ".xml" or stem in stems or _NAMED.search(stem)
        if is_one or (not source.is_selection and _names_pictures(path, source)):
            counts[(posixpath.dirname(path), suffix)] += 1
    formats = f"of none of the formats {', '.join(FORMATS)}"
    taken = f"the boxes were taken from files of {preferred}"
    lists = "; a list of pictures is read where it is given in place of the folder"
    return [
        Problem(
            posixpath.join(folder, f"*{suffix}"),
            f"{n} {suffix} file{'' if n == 1 else 's'} in {folder or 'the folder itself'} "
            f"{'was' if n == 1 else 'were'} not read: "
            f"{taken if preferred else ('it is ' if n == 1 else 'they are ') + formats}"
            f"{lists if suffix in _LISTS else ''}",
            stops=False,
        )
        for (folder, suffix), n in sorted(counts.items())
    ]


def _names_pictures(path: str, source: Source) -> bool:
    """Whether a file speaks of pictures of the set, whatever it is called."""
    names = [posixpath.basename(one) for one in source.pictures[:_MOST_NAMES]]
    with open(source.root / path, "rb") as file:
        text = file.read(_MOST_BYTES).decode("utf-8", "replace")
    return any(name in text for name in names)


def _json(path: str, source: Source) -> Any:
    try:
        return json.loads((source.root / path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise FeatlabError(f"it is not valid JSON ({first_line(error)})") from error


def _csv(path: str, source: Source) -> list[tuple[int, dict[str, str]]]:
    return list(text_files.read_rows(source.root / path, text_files.needed(path)))


_LOADERS: dict[str, Callable[[str, Source], Any]] = {
    ".csv": _csv,
    ".xml": lambda path, source: parse_xml((source.root / path).read_bytes()),
    ".json": _json,
    ".txt": lambda path, source: (source.root / path).read_text("utf-8", "replace"),
}
