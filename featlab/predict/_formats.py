"""Boxes in the formats of the tools that people label, train and score with.

A format is a function from pictures with boxes to the files that hold them: name → text, table, or
a folder of files of its own. A new one is one more function, named in `FORMATS`. Corners are
distances from the left and upper edge of the picture as shown, in pixels: a box that covers the
first pixel alone is (0, 0, 1, 1). What a format makes of that stands with its function.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr  # nosec B406

import numpy as np
import pandas as pd

from featlab.arguments import check_choice
from featlab.boxes.geometry import CORNERS
from featlab.errors import FeatlabError
from featlab.system.files import refuse_foreign, whole_folder, write_table, write_whole

PICTURES, PAGE = "pictures", "predictions.html"
"""Where drawn pictures and the page lie, beside the predictions."""
_FILE_EACH = {"voc": ("Annotations", ".xml"), "yolo": ("labels", ".txt")}
"""The formats with a file for each picture: in which folder, with which suffix."""
Files: TypeAlias = "dict[str, str | pd.DataFrame | dict[str, str]]"

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_YAML = re.compile("[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]")
_FORMULA = ("=", "+", "-", "@", "'", "＝", "＋", "－", "＠")


@dataclass(frozen=True)
class BoxedPicture:
    """A picture and its boxes.

    Attributes
    ----------
    path : str
    width, height : int
        Pixels, as shown.
    boxes : list of (label, score, corners)
        Each corner rises, and lies inside the picture; none where no box is known.
    """

    path: str
    width: int
    height: int
    boxes: list[tuple[str, float, tuple[float, float, float, float]]]


@dataclass(frozen=True)
class BoxSet:
    """What a format is made from.

    Attributes
    ----------
    pictures : list of BoxedPicture
    classes : list of str
        Every class that the model knows, in its order.
    model : str
        Who says so.
    """

    pictures: list[BoxedPicture]
    classes: list[str]
    model: str


def write_boxes(
    table: pd.DataFrame,
    folder: str | os.PathLike[str],
    formats: str | Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    model: str = "featlab",
) -> list[Path]:
    """Write boxes for other tools, each format in a folder of its own name.

    Parameters
    ----------
    table : DataFrame
        ``path, width, height, class, probability, xmin, ymin, xmax, ymax``, as from
        :meth:`Predictor.predict`; a picture may have several rows, or one whose corners are NaN:
        no box.
    folder : path-like
        Made if it is not there; what an earlier call wrote into it is replaced.
    formats : str or sequence of str
        ``csv, coco, voc, yolo, label-studio, cvat``.
    classes : sequence of str, optional
        Their order numbers the classes; by default those of the table, sorted.
    model : str
        Who made the boxes, for the tools that tell it.

    Returns
    -------
    list of Path
        The files and folders.

    Raises
    ------
    FeatlabError
        An unknown format; a box of a class that is not among `classes`; a name that a format cannot
        hold; two pictures that would share a file. Nothing is written then.
    """
    names = [formats] if isinstance(formats, str) else list(dict.fromkeys(formats))
    for name in names:
        check_choice("formats", name, FORMATS)
    known = sorted(set(table["class"].astype(str))) if classes is None else [*map(str, classes)]
    given = BoxSet(boxed_pictures(table), known, model)
    for label in sorted({box[0] for picture in given.pictures for box in picture.boxes}):
        check_choice("class", label, known)
    made = {name: FORMATS[name](given) for name in names}
    return [
        _written(Path(folder, name, file), content)
        for name, files in made.items()
        for file, content in files.items()
    ]


def boxed_pictures(table: pd.DataFrame) -> list[BoxedPicture]:
    """The rows of each picture together, in the order of their first row."""
    corners = table[CORNERS].to_numpy(float)
    sides = table[["width", "height"]].to_numpy(float)
    inside = np.clip(corners, 0, np.tile(sides, 2))
    known = (inside[:, 2:] > inside[:, :2]).all(axis=1)  # false for NaN
    pictures: dict[str, BoxedPicture] = {}
    rows = zip(table["path"], sides, table["class"], table["probability"], strict=True)
    for (path, (width, height), label, score), box, has in zip(rows, inside, known, strict=True):
        place = PurePosixPath(path)
        if place.is_absolute() or ".." in place.parts:
            raise FeatlabError(f"path must lie in the folder of the pictures, got {path!r}.")
        new = BoxedPicture(str(path), int(width), int(height), [])
        picture = pictures.setdefault(new.path, new)
        if has:
            xmin, ymin, xmax, ymax = box.tolist()
            picture.boxes.append((str(label), float(score), (xmin, ymin, xmax, ymax)))
    return list(pictures.values())


def check_before_the_pass(
    folder: Path, images: pd.DataFrame, formats: Sequence[str], *, pictures: bool
) -> None:
    """Refuse what could not be written after the predictions, before they are made.

    Raises
    ------
    FeatlabError
        An image of the table lies in the folder where the answers go, also by a link; two would
        share a file; a folder that is replaced as a whole holds a person's own files.
    """
    answers = folder.resolve()
    places = zip(images["folder"], images["path"], strict=True)
    for place in {Path(*file).parent for file in places}:
        if place.resolve().is_relative_to(answers):
            raise FeatlabError(
                f"{place}, which is asked for, lies in {folder}, where the answers go; give -o "
                "another folder."
            )
    if pictures:
        refuse_foreign(folder / PICTURES)
    for name, (inside, suffix) in _FILE_EACH.items():
        if name in formats:
            _beside(images["path"], suffix)
            refuse_foreign(folder / name / inside)


def earlier_answers(folder: Path, formats: Sequence[str], *, pictures: bool, page: bool) -> str:
    """What stands beside the predictions, made from others before them; "" for nothing."""
    written = {PICTURES: pictures, PAGE: page} | {name: name in formats for name in FORMATS}
    return ", ".join(n for n, now in written.items() if not now and (folder / n).exists())


def _written(path: Path, content: str | pd.DataFrame | dict[str, str]) -> Path:
    if isinstance(content, pd.DataFrame):
        return write_table(content, path)
    if isinstance(content, str):
        write_whole(path, content)
        return path
    with whole_folder(path) as new:
        for name, text in content.items():
            file = new / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8", newline="")
    return path


# ------------------------------------------------------------------------------------- the formats


def _csv(given: BoxSet) -> Files:
    """Featlab's own ``boxes.csv``: corners as they are."""
    rows = [
        (_unlike_a_formula(picture.path), label, *box, picture.width, picture.height, score)
        for picture in given.pictures
        for label, score, box in picture.boxes
    ]
    columns = ["image", "label", *CORNERS, "width", "height", "score"]
    return {"boxes.csv": pd.DataFrame(rows, columns=columns)}


def _coco(given: BoxSet) -> Files:
    """COCO: x, y of the upper left corner, width and height, in pixels counted from 0.

    ``instances.json`` is a set (images, annotations, categories), ``results.json`` the list of
    detections that belongs to it. Images and classes are numbered from 1.
    """
    number = {label: k for k, label in enumerate(given.classes, start=1)}
    images, annotations, results = [], [], []
    for place, picture in enumerate(given.pictures, start=1):
        size = {"width": picture.width, "height": picture.height}
        images.append({"id": place, "file_name": picture.path, **size})
        for label, score, box in picture.boxes:
            x, y = (round(value, 4) for value in box[:2])
            width, height = (round(high - low, 4) for low, high in ((x, box[2]), (y, box[3])))
            result: dict[str, Any] = {"image_id": place, "category_id": number[label]}
            result |= {"bbox": [x, y, width, height], "score": round(score, 6)}
            results.append(result)
            more = {"area": width * height, "iscrowd": 0, "segmentation": []}
            annotations.append({"id": len(results), **result, **more})
    instances = {
        "info": {"description": given.model},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": label} for label, k in number.items()],
    }
    return {"instances.json": _json(instances), "results.json": _json(results)}


def _voc(given: BoxSet) -> Files:
    """Pascal VOC: the first and the last pixel of the box, counted from 1.

    An XML file for each picture, in folders like those of the pictures.
    """
    files = _beside(_paths(given), _FILE_EACH["voc"][1])
    return {"Annotations": {files[one.path]: _voc_file(one, given.model) for one in given.pictures}}


def _voc_file(picture: BoxedPicture, model: str) -> str:
    path = PurePosixPath(picture.path)
    lines = [
        "<annotation>",
        f"<folder>{_xml(path.parent.as_posix())}</folder>",
        f"<filename>{_xml(path.name)}</filename>",
        f"<source><database>{_xml(model)}</database></source>",
        f"<size><width>{picture.width}</width><height>{picture.height}</height><depth>3</depth>"
        "</size>",
        "<segmented>0</segmented>",
    ]
    for label, _, box in picture.boxes:
        xmin, xmax = pixels_covered(box[0], box[2])
        ymin, ymax = pixels_covered(box[1], box[3])
        lines += [
            f"<object><name>{_xml(label)}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>0</difficult><bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
            f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
        ]
    return "\n".join([*lines, "</annotation>", ""])


def pixels_covered(low: float, high: float) -> tuple[int, int]:
    """First and last pixel, counted from 1, of what reaches from `low` to `high`; at least one."""
    last = max(round(high), int(low) + 1)
    return min(round(low) + 1, last), last


def _yolo(given: BoxSet) -> Files:
    """YOLO: number of the class from 0, centre and sides as shares of the picture's.

    A text file for each picture with boxes, in folders like those of the pictures; ``data.yaml``
    names the classes. The pictures belong into a folder ``images`` beside ``labels``.
    """
    number = {label: k for k, label in enumerate(given.classes)}
    files = _beside(_paths(given), _FILE_EACH["yolo"][1])
    labels: dict[str, str] = {}
    for picture in given.pictures:
        lines = []
        for label, _, (xmin, ymin, xmax, ymax) in picture.boxes:
            x, width = (xmin + xmax) / 2 / picture.width, (xmax - xmin) / picture.width
            y, height = (ymin + ymax) / 2 / picture.height, (ymax - ymin) / picture.height
            lines.append(f"{number[label]} {x:.8f} {y:.8f} {width:.8f} {height:.8f}\n")
        if lines:
            labels[files[picture.path]] = "".join(lines)
    names = "".join(f"  {k}: {_yaml(label)}\n" for label, k in number.items())
    yaml = f"# {_yaml(given.model)}\ntrain: images\nval: images\nnames:\n{names}"
    return {"labels": labels, "data.yaml": yaml if names else yaml.replace("names:\n", "names: {}")}


def _label_studio(given: BoxSet) -> Files:
    """Label Studio: upper left corner and sides in per cent of the picture's.

    ``tasks.json`` refers to the pictures through the tool's own storage of local files, which
    shows them from the folder that it is told of; ``labels.xml`` is the interface.
    """
    tasks = []
    for picture in given.pictures:
        of_width, of_height = 100 / picture.width, 100 / picture.height
        results: list[dict[str, Any]] = []
        for label, score, (xmin, ymin, xmax, ymax) in picture.boxes:
            value = {"x": xmin * of_width, "width": (xmax - xmin) * of_width}
            value |= {"y": ymin * of_height, "height": (ymax - ymin) * of_height, "rotation": 0}
            results.append(
                {
                    **{"id": f"box{len(results) + 1}", "type": "rectanglelabels"},
                    **{"from_name": "label", "to_name": "image", "image_rotation": 0},
                    **{"original_width": picture.width, "original_height": picture.height},
                    **{"score": round(score, 6), "value": {**value, "rectanglelabels": [label]}},
                }
            )
        score = max((round(one[1], 6) for one in picture.boxes), default=0.0)
        said = {"model_version": given.model, "score": score, "result": results}
        place = f"/data/local-files/?d={quote(picture.path)}"
        tasks.append({"data": {"image": place}, "predictions": [said] if results else []})
    labels = "".join(f"    <Label value={_attribute(label)}/>\n" for label in given.classes)
    interface = (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <RectangleLabels name="label" toName="image">\n{labels}  </RectangleLabels>\n</View>\n'
    )
    return {"tasks.json": _json(tasks), "labels.xml": interface}


def _cvat(given: BoxSet) -> Files:
    """CVAT for images 1.1: corners as they are."""
    labels = "".join(
        f"<label><name>{_xml(label)}</name><attributes></attributes></label>\n"
        for label in given.classes
    )
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f"<annotations>\n<version>1.1</version>\n<meta><task><name>{_xml(given.model)}</name>"
        f"<size>{len(given.pictures)}</size><mode>annotation</mode>"
        f"<labels>\n{labels}</labels></task></meta>",
    ]
    for place, picture in enumerate(given.pictures):
        lines.append(
            f'<image id="{place}" name={_attribute(picture.path)} width="{picture.width}" '
            f'height="{picture.height}">'
        )
        for label, _, (xmin, ymin, xmax, ymax) in picture.boxes:
            lines.append(
                f'<box label={_attribute(label)} source="auto" occluded="0" xtl="{xmin:.2f}" '
                f'ytl="{ymin:.2f}" xbr="{xmax:.2f}" ybr="{ymax:.2f}" z_order="0"></box>'
            )
        lines.append("</image>")
    return {"annotations.xml": "\n".join([*lines, "</annotations>", ""])}


FORMATS: dict[str, Callable[[BoxSet], Files]] = {
    "csv": _csv,
    "coco": _coco,
    "voc": _voc,
    "yolo": _yolo,
    "label-studio": _label_studio,
    "cvat": _cvat,
}
"""Name → the function that makes its files."""


# ------------------------------------------------------------------------------------ names as text


def _paths(given: BoxSet) -> list[str]:
    return [picture.path for picture in given.pictures]


def _beside(paths: Iterable[str], suffix: str) -> dict[str, str]:
    """The file of each picture: its own name with another suffix, which tools look for."""
    files: dict[str, str] = {}
    owners: dict[str, str] = {}
    for path in paths:
        file = PurePosixPath(path).with_suffix(suffix).as_posix()
        if file in owners:
            raise FeatlabError(
                f"{owners[file]!r} and {path!r} would share the file {file!r}; rename one of the "
                "pictures, or leave voc and yolo out of the formats."
            )
        owners[file] = path
        files[path] = file
    return files


def _unlike_a_formula(path: str) -> str:
    """A path that needs no apostrophe in front for a spreadsheet to leave it alone."""
    return f"./{path}" if path.startswith(_FORMULA) else path


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _yaml(text: str) -> str:
    """In double quotes, as JSON and YAML both write it."""
    quoted = json.dumps(text, ensure_ascii=False)
    return _NOT_YAML.sub(lambda sign: f"\\u{ord(sign[0]):04x}", quoted)


def _xml(text: str) -> str:
    """As the content of an element; a carriage return would be read as a line feed."""
    return escape(_for_xml(text), {"\r": "&#13;"})


def _attribute(text: str) -> str:
    return quoteattr(_for_xml(text))


def _for_xml(text: str) -> str:
    if _NOT_XML.search(text):
        raise FeatlabError(
            f"the name {text!r} holds a character that XML cannot; rename it, or leave voc, cvat "
            "and label-studio out of the formats."
        )
    return text
