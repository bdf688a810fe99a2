"""CUB-200-2011: 200 species of birds, a box in every picture."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from PIL import Image

from featlab.datasets._fetch import Archive, Progress, fetch_archives
from featlab.datasets._files import one_line, sole_writer, write_whole
from featlab.datasets._index import BOX_COLUMNS, csv_bytes, mend, read_table
from featlab.errors import FeatlabError

CUB_200_2011_URL = "https://data.caltech.edu/records/65de6-vp158/files"
"""Folder of the archive, from which it is fetched."""

_ARCHIVES = (
    Archive("CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78", 1_150_585_339, "CUB_200_2011"),
)
_SPLITS = {"1": "train", "0": "test"}


def fetch_cub_200_2011(
    cache_dir: str | os.PathLike[str],
    *,
    base_url: str = CUB_200_2011_URL,
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
    if not _is_finished(root):
        with sole_writer(root):
            if not _is_finished(root):
                fetch_archives(root, _ARCHIVES, base_url, progress)
                _write_tables(root)
    return index


def _is_finished(root: Path) -> bool:
    names = [_ARCHIVES[0].folder, "boxes.csv", "species.csv"]
    return all((root / name).exists() for name in names)


def _write_tables(root: Path) -> None:
    """The boxes first: with the last table the set is finished."""
    folder = root / _ARCHIVES[0].folder
    try:
        pictures = _listed(folder)
        boxes = csv_bytes(_boxes(root, folder, pictures), BOX_COLUMNS)
    except KeyError as error:
        raise FeatlabError(
            f"the lists in {folder} do not fit together at {error}; {mend(folder)}"
        ) from None
    table = pd.DataFrame(sorted(pictures.values()), columns=["path", "label", "split"])
    write_whole(root / "boxes.csv", boxes)
    write_whole(root / "species.csv", table.to_csv(index=False).encode())


def _listed(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Path, label and split of the pictures by their official id."""
    classes = _by_id(folder / "classes.txt")
    codes = _by_id(folder / "image_class_labels.txt")
    sides = _by_id(folder / "train_test_split.txt")
    return {
        # "017.Cardinal" is Cardinal; the number is that of the class.
        key: (
            f"{folder.name}/images/{path}",
            classes[codes[key]].partition(".")[2],
            _SPLITS[sides[key]],
        )
        for key, path in _by_id(folder / "images.txt").items()
    }


def _boxes(
    root: Path, folder: Path, pictures: dict[str, tuple[str, str, str]]
) -> Iterator[tuple[object, ...]]:
    for key, *numbers in read_table(folder / "bounding_boxes.txt", 5):
        path, label, _ = pictures[key]
        width, height = _picture_size(root / path)
        try:
            x, y, across, down = map(float, numbers)
        except ValueError as error:
            raise FeatlabError(
                f"bounding_boxes.txt, picture {key}: {error}; {mend(folder)}"
            ) from None
        corners = max(x, 0.0), max(y, 0.0), min(x + across, width), min(y + down, height)
        yield path, label, "object", width, height, *corners


def _by_id(file: Path) -> dict[str, str]:
    return dict(read_table(file, 2))


def _picture_size(file: Path) -> tuple[int, int]:
    """Width and height in the file's header, before any EXIF rotation, as boxes are drawn."""
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise FeatlabError(
            f"{file} cannot be read ({one_line(error)}); {mend(file.parents[2])}"
        ) from error
