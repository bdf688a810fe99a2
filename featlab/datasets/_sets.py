"""Public sets: Oxford-IIIT Pet (breeds, heads, trimaps) and CUB-200-2011 (species of birds, boxes).

Fetched once, unpacked, and described by the tables that ``index_images`` wants.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from featlab.arguments import Progress, check_choice
from featlab.datasets._fetch import Archive, fetch_archives, one_line, sole_writer
from featlab.errors import FeatlabError
from featlab.system.files import parse_xml, write_durably

_log = logging.getLogger(__name__)

_PETS_URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
"""Folder of the two archives, from which they are fetched."""

_PET_ARCHIVES = (
    Archive("images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c", 791_918_971, "images"),
    Archive("annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f", 19_173_078, "annotations"),
)
_LABELS = ("breed", "species")
_PET_SPLITS = {"trainval": "train", "test": "test"}
_SPECIES = {"1": "cat", "2": "dog"}
_OBJECT, _BACKGROUND, _BORDER = 1, 2, 3
_IGNORE = 255  # boxes.IGNORE

_BIRDS_URL = "https://data.caltech.edu/records/65de6-vp158/files"
"""Folder of the archive, from which it is fetched."""

_BIRD_ARCHIVES = (
    Archive("CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78", 1_150_585_339, "CUB_200_2011"),
)
_BIRD_SPLITS = {"1": "train", "0": "test"}

_BOX_COLUMNS = ["image", "label", "kind", "width", "height", "xmin", "ymin", "xmax", "ymax"]
_Corners = tuple[float, float, float, float]
_Size = tuple[int | str, int | str]


def fetch_oxford_pets(
    cache_dir: str | os.PathLike[str],
    *,
    label: str = "breed",
    base_url: str = _PETS_URL,
    progress: Progress | None = None,
) -> Path:
    """Download the Oxford-IIIT Pet set, once, and write tables that ``index_images`` takes.

    7,349 pictures: 3,680 to train on and 3,669 to test on, the official split. Boxes are of two
    kinds. "head": as drawn, for nearly all pictures of the training set and none of the test set.
    "body": the smallest box around the animals and their border in the trimap, for all pictures;
    it is derived here and not part of the official set.

    The folder ``<cache_dir>/oxford-pets`` then holds the two archives (811 MB; they may be
    deleted), ``images`` and ``annotations`` as they come, and ``breed.csv``, ``species.csv``,
    ``boxes.csv``. A call that was interrupted is completed by the same call; where all is there,
    nothing is asked for. Processes that want the same folder wait for each other.

    Parameters
    ----------
    cache_dir : path-like
        Made where it is missing.
    label : {"breed", "species"}
        What the classes are: 37 breeds, or cat and dog.
    base_url : str
        Where ``images.tar.gz`` and ``annotations.tar.gz`` lie, http or https. Both are known by
        their MD5 sums. They may also be put into the folder by hand.
    progress : callable, optional
        Wraps the list of byte ranges of each download, as ``tqdm`` does.

    Returns
    -------
    Path
        ``breed.csv`` or ``species.csv``, for :func:`featlab.images.index_images`.

    Raises
    ------
    FeatlabError
        An archive cannot be had or is not the official one, the disk cannot be written, or `label`
        is another word.

    References
    ----------
    Parkhi, Vedaldi, Zisserman and Jawahar, "Cats and dogs", CVPR 2012.
    """
    check_choice("label", label, _LABELS)
    root = Path(cache_dir) / "oxford-pets"
    index = root / f"{label}.csv"
    if not _has_pets(root):
        with sole_writer(root):
            if not _has_pets(root):
                fetch_archives(root, _PET_ARCHIVES, base_url, progress)
                _write_pet_tables(root)
    return index


def pet_masks(
    folder: str | os.PathLike[str], images: pd.DataFrame
) -> Callable[[int], npt.NDArray[np.uint8] | None]:
    """Masks of the pets, read from the trimaps as needed: ``LocalisationOptions(masks=…)``.

    Parameters
    ----------
    folder : path-like
        What :func:`fetch_oxford_pets` returned, or the folder it lies in.
    images : DataFrame
        The image table whose rows are meant (``store.images``): path, width, height.

    Returns
    -------
    callable
        For a row number the mask ``(height, width)``: 1 on the animal, 0 beside it, 255
        (``boxes.IGNORE``) on the border between them. None where there is no trimap of the
        picture's size.

    Raises
    ------
    FeatlabError
        The folder has no trimaps, or, when called, a trimap cannot be read.
    """
    root = Path(folder)
    trimaps = (root.parent if root.suffix == ".csv" else root) / "annotations" / "trimaps"
    if not trimaps.is_dir():
        raise FeatlabError(
            f"there is no folder {trimaps}; give the path that fetch_oxford_pets returned."
        )
    stems = [Path(path).stem for path in images["path"]]
    shapes = list(zip(images["height"].tolist(), images["width"].tolist(), strict=True))

    def mask(row: int) -> npt.NDArray[np.uint8] | None:
        file = trimaps / f"{stems[row]}.png"
        trimap = _read_trimap(file) if file.is_file() else None
        if trimap is None or trimap.shape != shapes[row]:
            return None
        known = np.isin(trimap, (_OBJECT, _BACKGROUND))
        return np.where(known, trimap == _OBJECT, _IGNORE).astype(np.uint8)

    return mask


def _has_pets(root: Path) -> bool:
    tables = ["boxes.csv", *(f"{label}.csv" for label in _LABELS)]
    return all((root / name).exists() for name in [a.folder for a in _PET_ARCHIVES] + tables)


def _write_pet_tables(root: Path) -> None:
    """The boxes first: with the last table the set is finished."""
    pets = _listed_pets(root / "annotations")
    paths = [f"images/{name}.jpg" for name in pets["name"]]
    missing = [path for path in paths if not (root / path).is_file()]
    if missing:
        raise FeatlabError(
            f"{root} lacks {len(missing):,} of {len(paths):,} pictures, the first is {missing[0]}; "
            f"{_mend(root / 'images')}"
        )
    _log.info("taking the boxes of %s pictures from XML files and trimaps", f"{len(paths):,}")
    breeds = dict(zip(pets["name"], pets["breed"], strict=True))
    rows = [
        (f"images/{name}.jpg", breeds[name], kind, *size, *corners)
        for name, kind, size, corners in _pet_boxes(root / "annotations", list(breeds))
    ]
    write_durably(root / "boxes.csv", _csv_bytes(rows, _BOX_COLUMNS))
    for label in _LABELS:
        table = pd.DataFrame({"path": paths, "label": pets[label], "split": pets["split"]})
        write_durably(root / f"{label}.csv", table.to_csv(index=False).encode())


def _listed_pets(annotations: Path) -> pd.DataFrame:
    """The pictures of both official lists, sorted: name, breed, species, split."""
    rows = []
    for part, split in _PET_SPLITS.items():
        for name, _, species, _ in _read_table(annotations / f"{part}.txt", 4):
            rows.append((name, name.rpartition("_")[0], _SPECIES.get(species, ""), split))
    table = pd.DataFrame(rows, columns=["name", "breed", "species", "split"])
    twice = table["name"][table["name"].duplicated()]
    unclear = table["name"][(table["breed"] == "") | (table["species"] == "")]
    if len(twice) or len(unclear):
        raise FeatlabError(
            f"{annotations} is not as expected: {(*twice, *unclear)[0]!r} is listed twice, or has "
            f"no breed or species; {_mend(annotations)}"
        )
    return table.sort_values("name", ignore_index=True)


def _pet_boxes(annotations: Path, names: list[str]) -> Iterator[tuple[str, str, _Size, _Corners]]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        bodies = threads.map(lambda name: _body(annotations / "trimaps" / f"{name}.png"), names)
        for name, body in zip(names, bodies, strict=True):
            for size, corners in _heads(annotations / "xmls" / f"{name}.xml"):
                yield name, "head", size, corners
            if body is not None:
                yield name, "body", *body


def _heads(file: Path) -> Iterator[tuple[_Size, _Corners]]:
    if not file.is_file():
        return
    try:
        root = parse_xml(file.read_bytes())
        size = int(root.findtext("size/width", "0")), int(root.findtext("size/height", "0"))
        for item in root.iterfind("object/bndbox"):
            xmin, ymin, xmax, ymax = (
                float(item.findtext(corner, "")) for corner in ("xmin", "ymin", "xmax", "ymax")
            )
            yield size if min(size) > 0 else ("", ""), (xmin, ymin, xmax, ymax)
    except (FeatlabError, ValueError) as error:
        raise FeatlabError(_unreadable(file, error)) from error


def _body(file: Path) -> tuple[_Size, _Corners] | None:
    """The smallest box around the animals and their border."""
    if not file.is_file():
        return None
    body = np.isin(_read_trimap(file), (_OBJECT, _BORDER))
    rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
    if not len(rows):
        return None
    corners = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return (body.shape[1], body.shape[0]), corners


def _read_trimap(file: Path) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(file, formats=["PNG"]) as image:
            trimap = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FeatlabError(_unreadable(file, error)) from error
    if trimap.ndim != 2:
        raise FeatlabError(_unreadable(file, ValueError("it has colours")))
    return trimap.astype(np.uint8, copy=False)


def _unreadable(file: Path, error: Exception) -> str:
    return f"{file} cannot be read ({one_line(error)}); {_mend(file.parents[1])}"


def fetch_cub_200_2011(
    cache_dir: str | os.PathLike[str],
    *,
    base_url: str = _BIRDS_URL,
    progress: Progress | None = None,
) -> Path:
    """Download CUB-200-2011, once, and write tables that ``index_images`` takes.

    11,788 pictures of 200 species of birds: 5,994 to train on and 5,794 to test on, the official
    split, with the official box around the bird in each (kind "object", cut to the picture).

    The folder ``<cache_dir>/cub-200-2011`` then holds the archive (1.15 GB; it may be deleted), its
    folder ``CUB_200_2011`` as it comes, and ``species.csv`` and ``boxes.csv``. Interrupted and
    simultaneous calls: as for :func:`fetch_oxford_pets`.

    Parameters
    ----------
    cache_dir : path-like
        Made where it is missing.
    base_url : str
        Where ``CUB_200_2011.tgz`` lies, http or https. It is known by its MD5 sum, and may also be
        put into the folder by hand.
    progress : callable, optional
        Wraps the list of byte ranges of the download, as ``tqdm`` does.

    Returns
    -------
    Path
        ``species.csv``, for :func:`featlab.images.index_images`.

    Raises
    ------
    FeatlabError
        The archive cannot be had or is not the official one, or the disk cannot be written.

    References
    ----------
    Wah, Branson, Welinder, Perona and Belongie, "The Caltech-UCSD Birds-200-2011 dataset",
    California Institute of Technology, CNS-TR-2011-001, 2011.
    """
    root = Path(cache_dir) / "cub-200-2011"
    index = root / "species.csv"
    if not _has_birds(root):
        with sole_writer(root):
            if not _has_birds(root):
                fetch_archives(root, _BIRD_ARCHIVES, base_url, progress)
                _write_bird_tables(root)
    return index


def _has_birds(root: Path) -> bool:
    names = [_BIRD_ARCHIVES[0].folder, "boxes.csv", "species.csv"]
    return all((root / name).exists() for name in names)


def _write_bird_tables(root: Path) -> None:
    """The boxes first: with the last table the set is finished."""
    folder = root / _BIRD_ARCHIVES[0].folder
    try:
        pictures = _listed_birds(folder)
        boxes = _csv_bytes(_bird_boxes(root, folder, pictures), _BOX_COLUMNS)
    except KeyError as error:
        raise FeatlabError(
            f"the lists in {folder} do not fit together at {error}; {_mend(folder)}"
        ) from None
    table = pd.DataFrame(sorted(pictures.values()), columns=["path", "label", "split"])
    write_durably(root / "boxes.csv", boxes)
    write_durably(root / "species.csv", table.to_csv(index=False).encode())


def _listed_birds(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Path, label and split of the pictures by their official id."""
    classes = _by_id(folder / "classes.txt")
    codes = _by_id(folder / "image_class_labels.txt")
    sides = _by_id(folder / "train_test_split.txt")
    return {
        # "017.Cardinal" is Cardinal; the number is that of the class.
        key: (
            f"{folder.name}/images/{path}",
            classes[codes[key]].partition(".")[2],
            _BIRD_SPLITS[sides[key]],
        )
        for key, path in _by_id(folder / "images.txt").items()
    }


def _bird_boxes(
    root: Path, folder: Path, pictures: dict[str, tuple[str, str, str]]
) -> Iterator[tuple[object, ...]]:
    for key, *numbers in _read_table(folder / "bounding_boxes.txt", 5):
        path, label, _ = pictures[key]
        width, height = _picture_size(root / path)
        try:
            x, y, across, down = map(float, numbers)
        except ValueError as error:
            raise FeatlabError(
                f"bounding_boxes.txt, picture {key}: {error}; {_mend(folder)}"
            ) from None
        corners = max(x, 0.0), max(y, 0.0), min(x + across, width), min(y + down, height)
        yield path, label, "object", width, height, *corners


def _by_id(file: Path) -> dict[str, str]:
    return dict(_read_table(file, 2))


def _picture_size(file: Path) -> tuple[int, int]:
    """Width and height in the file's header, before any EXIF rotation, as boxes are drawn."""
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise FeatlabError(
            f"{file} cannot be read ({one_line(error)}); {_mend(file.parents[2])}"
        ) from error


def _read_table(file: Path, n_columns: int) -> Iterator[list[str]]:
    """Rows of a text file whose values are separated by blanks; ``#`` begins a comment line.

    Raises
    ------
    FeatlabError
        The file cannot be read, or a line has another number of values.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise FeatlabError(
            f"{file} cannot be read ({one_line(error)}); {_mend(file.parent)}"
        ) from error
    for number, line in enumerate(lines, start=1):
        values = line.split()
        if not values or values[0].startswith("#"):
            continue
        if len(values) != n_columns:
            raise FeatlabError(
                f"{file} line {number} must have {n_columns} values, got {line[:80]!r}; "
                f"{_mend(file.parent)}"
            )
        yield values


def _csv_bytes(rows: Iterable[Sequence[object]], columns: Sequence[str]) -> bytes:
    """Rows as a CSV file."""
    return pd.DataFrame(list(rows), columns=list(columns)).to_csv(index=False).encode()


def _mend(folder: Path) -> str:
    """What to do about an unpacked folder that is not as it should be."""
    return f"delete the folder {folder} and run the same again."
