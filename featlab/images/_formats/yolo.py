"""YOLO: a text file for each picture; ``data.yaml`` or ``classes.txt`` names the classes."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from featlab.errors import FeatlabError
from featlab.images._annotations import (
    Entries,
    Problem,
    Source,
    WrittenBox,
    around,
    each,
    number,
    picture_folder,
    stem_of,
    storable,
)

_LINE = re.compile(r"\s*\d+(\s+[-+.\deE]+){4,}\s*")
_NAME_LISTS = ("classes.txt", "obj.names", "_darknet.labels")
_YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


def labels(path: str, text: str, source: Source) -> Entries | None:
    """Class number, centre x, y, width, height as shares; of a polygon the box around it."""
    lines = [(k, line) for k, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines or not all(_LINE.fullmatch(line) for _, line in lines):
        return None
    folder = posixpath.dirname(path)
    names, has_keypoints, wrong = source.once(("yolo", folder), lambda: _names(path, source))

    def read(place: str, line: str) -> WrittenBox:
        numbers = [number(value) for value in line.split()]
        return WrittenBox(
            file=path,
            place=place,
            folder=picture_folder(path),
            name="",
            stem=stem_of(path),
            label=names.get(int(numbers[0]), str(int(numbers[0]))),
            corners=_box(numbers[1:], has_keypoints),
            units="shares",
        )

    entries = each(path, ((f"line {k}", line) for k, line in lines), read)
    return entries + source.once(("yolo problem", wrong), lambda: [wrong]) if wrong else entries


def _box(values: list[float], has_keypoints: bool) -> tuple[float, float, float, float]:
    # Four, five with a confidence; a polygon has at least three points.
    if len(values) >= 6 and not has_keypoints:
        n = len(values) // 2 * 2
        return around(values[:n:2], values[1:n:2])
    x, y, width, height = values[:4]
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _names(path: str, source: Source) -> tuple[dict[int, str], bool, Problem | None]:
    """The classes' names, whether lines end with key points, and what is wrong with their file."""
    for name in (*_YAMLS, *_NAME_LISTS, *_other_yamls(source)):
        data = source.beside(path, name)
        if data is None:
            continue
        try:
            if name in _NAME_LISTS:
                return _numbered(data.decode("utf-8", "replace").split("\n")), False, None
            content = _yaml(data)
            return _numbered(content.get("names")), "kpt_shape" in content, None
        except FeatlabError as error:
            return {}, False, Problem(name, str(error))
    return {}, False, None


def _other_yamls(source: Source) -> list[str]:
    """The names of the only YAML file of the set, which may be called as the set is."""
    others = [path for path in source.files if path.lower().endswith((".yaml", ".yml"))]
    return [posixpath.basename(others[0])] if len(others) == 1 else []


def _yaml(data: bytes) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FeatlabError("it is not valid YAML") from error
    return content if isinstance(content, dict) else {}


def _numbered(names: Any) -> dict[int, str]:
    pairs = names.items() if isinstance(names, dict) else enumerate(names or [])
    try:
        # Of anything but plain names the text could be endless: YAML lets lists hold lists.
        plain = {int(key): name for key, name in pairs if isinstance(name, (str, int, float))}
        return {key: storable(str(name).strip()) for key, name in plain.items()}
    except (TypeError, ValueError) as error:
        if isinstance(error, FeatlabError):
            raise
        raise FeatlabError("its names are neither a list nor numbered") from error


def unnamed(path: str) -> Problem:
    """What is said of class numbers that no file names."""
    why = "its classes have numbers and no names: put data.yaml or classes.txt beside labels"
    return Problem(path, why, stops=False)
