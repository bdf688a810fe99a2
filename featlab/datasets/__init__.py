"""The built-in scenes, with known truth, and public sets of pictures, fetched on demand.

The scenes are textured things in cluttered pictures. The class of a scene is the texture of its
object and nothing else. Colours, places, sizes, shapes and backgrounds are drawn from the same
distributions for every class, and every texture inks half of its object, so a classifier that only
sees colour stands near chance.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from featlab.arguments import Progress, feature_columns, tracked
from featlab.datasets._scenes import TEXTURES, Scene, draw_scene
from featlab.datasets._sets import fetch_cub_200_2011, fetch_oxford_pets, pet_masks
from featlab.errors import FeatlabError
from featlab.results.images import Neurons, Scenes
from featlab.system.files import replace_durably, system_errors, write_whole

__all__ = [
    "fetch_cub_200_2011",
    "fetch_oxford_pets",
    "make_neurons",
    "pet_masks",
    "write_scenes",
]

CLASSES: tuple[str, ...] = tuple(TEXTURES)
"""The textures, in order; ``classes=k`` uses the first *k*."""

_MANIFEST = ".scenes.json"
_UNFINISHED = ".scenes.part.json"
_GENERATOR = 1
_JPEG_QUALITY = 92
_BOX_COLUMNS = ["image", "kind", "label", "xmin", "ymin", "xmax", "ymax"]
_CSV_COLUMNS = ["image", "label", "kind", "width", "height", "xmin", "ymin", "xmax", "ymax"]
_BLOCK = 20


def make_scenes(n: int = 240, *, classes: int = 2, random_state: int = 0) -> Scenes:
    """Draw *n* scenes into memory (about 0.3 MB each).

    Parameters
    ----------
    n : int
        Number of scenes, at least `classes`. Scene *i* has class ``CLASSES[i % classes]`` and
        depends on (`random_state`, *i*, `classes`) only: a larger *n* appends scenes.
    classes : int
        Number of classes, 2 to 8: the first ones of :data:`CLASSES`.
    random_state : int
        Seed, at least 0.

    Returns
    -------
    Scenes

    Raises
    ------
    FeatlabError
        If an argument is out of its range.

    Examples
    --------
    >>> scenes = make_scenes(4)
    >>> scenes.labels
    ['striped', 'spotted', 'striped', 'spotted']
    """
    scenes = list(iter_scenes(n, classes=classes, random_state=random_state))
    rows = [
        (i, "object", scene.label, *map(float, box))
        for i, scene in enumerate(scenes)
        for box in scene.boxes
    ]
    return Scenes(
        images=[scene.image for scene in scenes],
        labels=[scene.label for scene in scenes],
        boxes=pd.DataFrame(rows, columns=_BOX_COLUMNS),
        masks=[scene.mask for scene in scenes],
    )


def iter_scenes(n: int = 240, *, classes: int = 2, random_state: int = 0) -> Iterator[Scene]:
    """Draw scenes one at a time; the same scenes as :func:`make_scenes`, in the same order.

    Parameters
    ----------
    n, classes, random_state
        As for :func:`make_scenes`; checked at the call, not at the first scene.

    Returns
    -------
    iterator of Scene

    Raises
    ------
    FeatlabError
        If an argument is out of its range.
    """
    _check_arguments(n, classes, random_state)
    return (draw_scene(i, CLASSES[i % classes], random_state) for i in range(n))


def write_scenes(
    folder: str | os.PathLike[str],
    n: int = 240,
    *,
    classes: int = 2,
    random_state: int = 0,
    masks: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write *n* scenes as an image folder: ``<class>/scene_0001.jpg`` and ``boxes.csv``.

    Scenes are numbered from 1 over all classes. Each file appears whole or not at all. The
    arguments are kept in ``.scenes.json``, written last: a finished folder is returned at once,
    and a call that was interrupted is completed by the same call.

    Parameters
    ----------
    folder : path-like
        New, empty, or written by the same call before.
    n, classes, random_state
        As for :func:`make_scenes`.
    masks : bool
        Also write ``<class>/scene_0001.png`` (0 or 255) into the sibling folder
        ``<folder>_masks``, outside `folder` so that no mask is taken for a picture.
    progress : callable, optional
        Wraps the iterable of scenes, as ``tqdm`` does.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    FeatlabError
        If an argument is out of its range, or the folder holds anything else.
    """
    _check_arguments(n, classes, random_state)
    root = Path(folder)
    arguments = {
        "generator": _GENERATOR,
        "n": int(n),
        "classes": int(classes),
        "random_state": int(random_state),
        "masks": bool(masks),
    }
    if _is_finished(root, arguments):
        return root
    write_whole(root / _UNFINISHED, json.dumps(arguments))
    scenes = iter_scenes(n, classes=classes, random_state=random_state)
    rows: list[tuple[object, ...]] = []
    for i, scene in enumerate(tracked(scenes, progress)):
        rows += _write_scene(root, i, scene, masks=masks)
    table = pd.DataFrame(rows, columns=_CSV_COLUMNS)
    write_whole(root / "boxes.csv", table.to_csv(index=False))
    with system_errors(root):
        replace_durably(root / _UNFINISHED, root / _MANIFEST)
    return root


def make_neurons(
    n_images: int = 200,
    n_neurons: int = 500,
    n_detectors: int = 20,
    *,
    classes: int = 2,
    effect: float = 1.0,
    correlation: float = 0.0,
    dead: float = 0.0,
    random_state: int = 0,
) -> Neurons:
    """Activations like those of a network's pooled maps, with planted detectors.

    A latent Gaussian value per image and neuron, correlated within blocks of 20 neurons, raised by
    `effect` standard deviations in the detector's class, then cut off below 0 as by a ReLU.

    Parameters
    ----------
    n_images, n_neurons : int
        The classes take turns over the images.
    n_detectors : int
        Neurons that detect a class; spread evenly over the blocks, the classes in turn.
    classes : int
        Number of classes, at least 2; they are called "class_0", "class_1", ...
    effect : float
        Shift of a detector's latent value in its class, in standard deviations.
    correlation : float
        Of the latent values of two neurons of a block, in [0, 1).
    dead : float
        Share of the neurons, in [0, 1), that are 0 everywhere; none of them a detector.
    random_state : int
        Seed.

    Returns
    -------
    Neurons

    Raises
    ------
    FeatlabError
        A number out of its range, or more detectors than living neurons.

    Examples
    --------
    >>> made = make_neurons(60, 100, 4, random_state=1)
    >>> made.X.shape, (made.truth["label"] != "").sum()
    ((60, 100), np.int64(4))
    """
    n_dead = round(dead * n_neurons)
    if not (0 <= dead < 1 and 0 <= correlation < 1 and classes >= 2 and n_images >= classes):
        raise FeatlabError(
            "make_neurons needs classes of at least 2, an image for each class, and dead and "
            f"correlation in [0, 1); got classes={classes}, n_images={n_images}, dead={dead}, "
            f"correlation={correlation}."
        )
    if not 0 <= n_detectors <= n_neurons - n_dead:
        raise FeatlabError(
            f"n_detectors must be from 0 to the {n_neurons - n_dead} living neurons, "
            f"got {n_detectors}."
        )
    rng = np.random.default_rng(random_state)
    codes = np.arange(n_images) % classes
    shared = rng.normal(size=(n_images, -(-n_neurons // _BLOCK)))
    latent = np.sqrt(1 - correlation) * rng.normal(size=(n_images, n_neurons))
    latent += np.sqrt(correlation) * shared[:, np.arange(n_neurons) // _BLOCK]
    silent = rng.permutation(n_neurons)[:n_dead]
    living = np.setdiff1d(np.arange(n_neurons), silent)
    places = np.linspace(0, len(living), n_detectors, endpoint=False).astype(int)
    detectors = living[places]
    detected = np.arange(n_detectors) % classes
    latent[:, detectors] += effect * (codes[:, None] == detected)
    latent[:, silent] = 0
    names = np.array([f"class_{k}" for k in range(classes)], dtype=object)
    label = np.full(n_neurons, "", dtype=object)
    label[detectors] = names[detected]
    truth = pd.DataFrame({"neuron": np.arange(n_neurons), "label": label})
    truth["dead"] = np.isin(truth["neuron"], silent)
    columns = feature_columns("made_up", "mean", n_neurons)
    X = pd.DataFrame(np.maximum(latent, 0).astype(np.float32), columns=columns)
    return Neurons(X, pd.Series(names[codes].astype(str), name="label"), truth)


def _check_arguments(n: int, classes: int, random_state: int) -> None:
    for name, value in (("n", n), ("classes", classes), ("random_state", random_state)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise FeatlabError(f"{name} must be a whole number, got {value!r}.")
    if not 2 <= classes <= len(CLASSES):
        raise FeatlabError(f"classes must lie between 2 and {len(CLASSES)}, got {classes}.")
    if n < classes:
        raise FeatlabError(
            f"n must be at least classes ({classes}), so that every class has a scene, got {n}."
        )
    if random_state < 0:
        raise FeatlabError(f"random_state must be 0 or more, got {random_state}.")


def _scene_name(i: int, label: str, suffix: str) -> str:
    return f"{label}/scene_{i + 1:04d}{suffix}"


def _is_finished(root: Path, arguments: dict[str, Any]) -> bool:
    """Tell whether the folder is complete; refuse one that holds anything but this very set."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    for name in (_MANIFEST, _UNFINISHED):
        if (root / name).is_file():
            earlier = json.loads((root / name).read_text())
            break
    else:
        raise FeatlabError(
            f"folder {str(root)!r} exists and was not written by write_scenes; "
            "give a new or an empty folder."
        )
    if earlier != arguments:
        raise FeatlabError(
            f"folder {str(root)!r} holds scenes made with {earlier}, asked for {arguments}; "
            "give another folder or the same arguments."
        )
    return name == _MANIFEST and _all_there(root, arguments)


def _all_there(root: Path, arguments: dict[str, Any]) -> bool:
    labels = CLASSES[: arguments["classes"]]
    names = (_scene_name(i, labels[i % len(labels)], ".jpg") for i in range(arguments["n"]))
    return (root / "boxes.csv").is_file() and all((root / name).is_file() for name in names)


def _encode(array: npt.NDArray[np.uint8], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, **options)
    return buffer.getvalue()


def _write_scene(root: Path, i: int, scene: Scene, *, masks: bool) -> list[tuple[object, ...]]:
    name = _scene_name(i, scene.label, ".jpg")
    jpeg = _encode(scene.image, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
    write_whole(root / name, jpeg)
    if masks:
        png = _encode(scene.mask.astype(np.uint8) * 255, format="PNG")
        beside = root.with_name(root.name + "_masks")
        write_whole(beside / _scene_name(i, scene.label, ".png"), png)
    height, width = scene.mask.shape
    return [(name, scene.label, "object", width, height, *map(float, box)) for box in scene.boxes]
