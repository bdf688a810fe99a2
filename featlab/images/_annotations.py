"""What annotation files hold, as every format hands it on; and the files and names around them."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featlab.errors import FeatlabError
from featlab.images.decode import cut, is_storable, os_reason, printable
from featlab.system.files import OURS, RESULTS

DEFAULT_KIND = "object"
"""Kind of a box whose format has no kinds."""
ANNOTATION_FOLDERS = re.compile(
    r"annot\w*|annos?|ann|labels?|labels?_?\d+|xmls?|jsons?|b?boxes|bndbox", re.I
)
# What a command leaves in the folder of its results.
_RESULTS = {OURS, RESULTS, "maps.h5", "model.featlab", "predicted_maps.h5", "maps_thawed.h5"}
HOLDERS = re.compile(
    r"(imgs?|images?|jpe?gimages|pngs?|jpe?gs?|pictures?|photos?|data|dataset|frames|all)", re.I
)
_COMPANIONS = re.compile(
    r"mask|segment|scribble|visuali[sz]|overlay|label|annot|ground.?truth|^gt$|depth|trimap", re.I
)
_MASK_OF = re.compile(
    r"(.+?)[ _.-]?(mask|segmentation|segmented|seg|groundtruth|gt|overlay)s?[ _-]?\d*", re.I
)
_SIDES = {
    "train": ("train", "training", "trn", "tr", "learn", "learning"),
    "val": ("val", "valid", "validate", "validation", "dev", "devel", "development", "tune"),
    "confirm": ("confirm",),
    "test": (
        *("test", "testing", "tst", "te", "eval", "evaluation", "holdout", "hold", "held"),
        "unseen",
    ),
}
SPLIT_NAMES = {name: side for side, names in _SIDES.items() for name in names}
_PADDING = re.compile(
    r"(my|the|out|set|sets|data|dataset|img|imgs|image|images|picture|pictures|photos|split|"
    r"subset|folder|part|samples|seg|cls)"
)
_GLUED = re.compile(r"(set|data|images?|imgs?|split|samples?)$")


@dataclass(frozen=True)
class Problem:
    """A file or a box that is left out, and why.

    Attributes
    ----------
    path, reason : str
    stops : bool
        Under ``on_error="raise"`` the set is refused; if not, it is said in one line.
    """

    path: str
    reason: str
    stops: bool = True


@dataclass(frozen=True)
class WrittenBox:
    """A box as an annotation file has it, not yet matched with a picture.

    Attributes
    ----------
    file, place : str
        The annotation file, and the line or key there, for messages.
    folder : str
        The folder, relative to the root, in which the picture is looked for first.
    name : str
        The picture's name as written; may have folders.
    stem : str
        The annotation file's own name without suffix, where it stands for one picture, else "".
    label : str
    corners : tuple of float
        xmin, ymin, xmax, ymax as written.
    kind : str
    size : tuple of float, optional
        Width and height of the picture the box was drawn in.
    units : {"", "pixels", "shares"}
        What the format says the corners are; "" where it does not.
    """

    file: str
    place: str
    folder: str
    name: str
    stem: str
    label: str
    corners: tuple[float, float, float, float]
    kind: str = DEFAULT_KIND
    size: tuple[float, float] | None = None
    units: str = ""

    @property
    def where(self) -> str:
        """File and place."""
        return f"{self.file} {self.place}"


Entries = list[WrittenBox | Problem]


@dataclass(frozen=True)
class Source:
    """What formats are asked of.

    Attributes
    ----------
    root : Path
    pictures : list of str
        Relative paths.
    files : list of str
        Other files beside the pictures, above them, and in folders of annotations there.
    is_selection : bool
        The pictures are listed; other files are there for whatever reason.
    memory : dict
        Of :meth:`once`.
    """

    root: Path
    pictures: list[str]
    files: list[str]
    is_selection: bool = False
    memory: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for each key: what many files have in common."""
        if key not in self.memory:
            self.memory[key] = make()
        return self.memory[key]

    def beside(self, path: str, name: str) -> bytes | None:
        """Content of the nearest file of that name in the file's folder or above; or None."""
        folder = posixpath.dirname(path)
        while True:
            file = self.root / folder / name
            if file.is_file():
                return file.read_bytes()
            if not folder:
                return None
            folder = posixpath.dirname(folder)


def each(file: str, places: Iterable[tuple[str, Any]], read: Any) -> Entries:
    """What `read` makes of each item of a file: a box, or nothing; or why it cannot.

    Parameters
    ----------
    file : str
    places : iterable of (str, object)
        Where the item stands, and the item.
    read : callable
        ``(place, item)`` → WrittenBox, or None for what is no box.
    """
    entries: Entries = []
    for place, item in places:
        try:
            box = read(place, item)
        except FeatlabError as error:
            box = Problem(f"{file} {place}", str(error))
        except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
            what = f"{type(error).__name__} {cut(str(error))}"
            box = Problem(f"{file} {place}", f"it is not a box of its format ({what})")
        if box is not None:
            entries.append(box)
    return entries


def around(xs: Iterable[Any], ys: Iterable[Any]) -> tuple[float, float, float, float]:
    """The corners around points."""
    across, down = [number(x) for x in xs], [number(y) for y in ys]
    if not across or len(across) != len(down):
        raise FeatlabError("it has no points")
    return min(across), min(down), max(across), max(down)


def corners(values: Iterable[Any]) -> tuple[float, float, float, float]:
    """Four numbers."""
    first, second, third, fourth = (number(value) for value in values)
    return first, second, third, fourth


def number(value: Any) -> float:
    """A number, from text too."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise FeatlabError(f"{quoted(value)} is not a number") from error


def quoted(value: Any) -> str:
    """What a file holds, for a message."""
    try:
        return printable(cut(repr(value)))
    except ValueError:  # Python does not write out whole numbers of thousands of digits.
        return "a very large number"


def storable(text: str) -> str:
    """The text itself, if a store can keep it."""
    if not is_storable(text):
        raise FeatlabError(f"{quoted(text)} holds characters that cannot be stored")
    return text


def size_of(width: Any, height: Any) -> tuple[float, float] | None:
    """Width and height; None where they are absent or 0, which some tools write for unknown."""
    if any(value is None or value == "" for value in (width, height)):
        return None
    size = (number(width), number(height))
    return None if 0 in size else size


def picture_folder(path: str) -> str:
    """Where the pictures of an annotation file should lie: its folder without ``annotations``."""
    parts = posixpath.dirname(path).split("/")
    return "/".join(part for part in parts if not ANNOTATION_FOLDERS.fullmatch(part))


def stem_of(path: str) -> str:
    """A file's name without folder and suffix."""
    return posixpath.splitext(posixpath.basename(path))[0]


def forward(path: str) -> str:
    """A path as any system writes it, with forward slashes."""
    return posixpath.normpath(path.replace("\\", "/")) if path else ""


def walk_files(root: Path, start: str, problems: list[Problem]) -> Iterator[str]:
    """Files below ``root/start``, as paths relative to `root`; hidden ones are left out.

    So are, with a word, folders that featlab has written. Links are followed, except to a folder
    that the walk is already inside of.
    """
    stack = [(start, frozenset[str]())]
    while stack:
        folder, above = stack.pop()
        real = os.path.realpath(root / folder)
        if real in above:
            continue
        try:
            names = sorted(os.listdir(root / folder))
        except OSError as error:
            problems.append(Problem(printable(folder) or ".", os_reason(error)))
            continue
        if folder != start and _RESULTS.intersection(names):
            why = "featlab has written this folder: what lies in it is no picture of the set"
            problems.append(Problem(printable(folder), why, stops=False))
            continue
        for name in names:
            path = posixpath.join(folder, name)
            if name.startswith("."):
                continue
            if not os.path.isdir(root / path):
                yield path
            elif name.lower() != "annotations":
                stack.append((path, above | {real}))


def other_files(root: Path, pictures: list[str], *, is_selection: bool) -> list[str]:
    """Files beside the pictures, in the folders above them, and in folders of annotations.

    Parameters
    ----------
    root : Path
    pictures : list of str
    is_selection : bool
        The pictures are listed, and their folder may hold anything: only folders with the name of
        annotations are looked into. Else every folder beside them that holds no picture.

    Returns
    -------
    list of str
        Paths relative to `root`, sorted.
    """
    files: set[str] = set()
    holders = picture_folders(pictures)
    for folder in holders:
        for name in _names_in(root / folder):
            path = posixpath.join(folder, name)
            if name.startswith(".") or path in holders:
                continue
            if not os.path.isdir(root / path):
                files.add(path)
            elif ANNOTATION_FOLDERS.fullmatch(name) or not (
                is_selection or _RESULTS.intersection(_names_in(root / path))
            ):
                files.update(walk_files(root, path, []))
    return sorted(path for path in files if os.path.isfile(root / path))


def picture_folders(pictures: list[str]) -> set[str]:
    """The folders that hold pictures, and all folders above them; the root is ``""``."""
    folders = {""}
    for path in pictures:
        folder = posixpath.dirname(path)
        while folder not in folders:
            folders.add(folder)
            folder = posixpath.dirname(folder)
    return folders


def _names_in(folder: Path) -> list[str]:
    # A folder that cannot be read holds only pictures that are reported as bad already.
    try:
        return os.listdir(folder)
    except OSError:
        return []


def without_masks(paths: list[str], problems: list[Problem]) -> list[str]:
    """The pictures without those that are named as masks of one beside them."""
    stems = {posixpath.splitext(path)[0] for path in paths}
    masks = [
        path
        for path in paths
        if (match := _MASK_OF.fullmatch(posixpath.splitext(path)[0])) and match[1] in stems
    ]
    if masks:
        noun = "1 picture" if len(masks) == 1 else f"{len(masks):,} pictures"
        why = f"{noun} named as the mask of one beside it, such as {cut(masks[0])}: left out"
        problems.append(Problem("masks", why, stops=False))
    return [path for path in paths if path not in set(masks)]


def without_companions(paths: list[str], problems: list[Problem]) -> list[str]:
    """The pictures without the masks and drawings in folders beside that of the pictures."""
    for level in range(max((path.count("/") for path in paths), default=0)):
        names = names_at(paths, level)
        holders = {name for name in names if HOLDERS.fullmatch(name)}
        others = {name for name in names - holders if _COMPANIONS.search(name)}
        if len(holders) != 1 or not others or holders | others != names:
            continue
        aside = [p for p in paths if has_level(p, level) and p.split("/")[level] in others]
        holder = next(iter(holders))
        noun = "1 picture" if len(aside) == 1 else f"{len(aside):,} pictures"
        why = f"{noun} in {', '.join(sorted(others))}, beside {holder}: left out"
        problems.append(Problem(", ".join(sorted(others)), why, stops=False))
        paths = [path for path in paths if path not in set(aside)]
    return paths


def split_of(name: str) -> str:
    """The side that a folder's name means, such as ``train`` of "Training_set"; "" for none.

    Examples
    --------
    >>> split_of("test-images"), split_of("train2017"), split_of("trainset"), split_of("trains")
    ('test', 'train', 'train', '')
    """
    words = [word for word in re.split(r"[\W\d_]+", name.lower()) if word]
    words = [word for word in words if not _PADDING.fullmatch(word)] or words
    if len(words) != 1:
        return ""
    return SPLIT_NAMES.get(words[0], "") or SPLIT_NAMES.get(_GLUED.sub("", words[0]), "")


def sides_of(names: set[str]) -> dict[str, str]:
    """The side that each folder means; of train and dev alone, dev is what is tested on."""
    sides = {name: split_of(name) for name in names}
    if "test" not in sides.values():
        sides |= {name: "test" for name in names if re.search("dev", name, re.I) and sides[name]}
    return sides


def names_at(paths: list[str], level: int) -> set[str]:
    """Names of the folders of a level, the topmost 0, of the paths that are so deep."""
    return {path.split("/")[level] for path in paths if has_level(path, level)}


def has_level(path: str, level: int) -> bool:
    """Whether a path lies in a folder of that level."""
    return path.count("/") > level
