"""What a second run of the network rests on: the pictures, whose classes are asked for, a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featlab.arguments import check_choice, is_unlabelled, true_boxes
from featlab.backbones import Backbone
from featlab.boxes.geometry import CORNERS, picture_to_frame
from featlab.errors import FeatlabError
from featlab.features import feature_table
from featlab.gradients.dam import DAM_PRESETS
from featlab.gradients.network import HeadedNetwork
from featlab.heads import evaluate_heads
from featlab.images.pixels import InputReader
from featlab.pipeline.detectors import find_detectors, predicted_classes
from featlab.results.analysis import HeadResults
from featlab.store import MapStore

TARGETS = ("label", "own")
"""Whose classes are asked for: the user's, by the image's label, or the network's own."""

LabelledProgress = Callable[..., Any]
"""Takes an iterable and ``label=``, and returns the iterable wrapped."""

_TUNING_SHARE = 2 / 3  # images that thresholds are chosen on, per image scored


@dataclass(frozen=True)
class Sample:
    """The images that are looked at again, in the order of the store.

    Attributes
    ----------
    rows : ndarray of shape (k,)
        Rows of the image table.
    scored, tuning : ndarray of int
        Places in `rows` of the test images with boxes, and of those that choose thresholds.
    shown : ndarray of int
        Places of the pictures that were named; without names those scored, or, without boxes,
        those drawn.
    named : bool
        Whether the user named pictures.
    pixels : ndarray of shape (k, H, W, 3), uint8
        As the network takes them.
    asked : ndarray of shape (k,), str
        The class that is asked for in each.
    paths, groups : ndarray of shape (k,), str
    frames, sizes : ndarray of shape (k, 4) and (k, 2)
        Where the pictures lie in the input, and their original sizes.
    truth : DataFrame
        Box table.
    n : int
        Images of the store.
    """

    rows: np.ndarray
    scored: np.ndarray
    tuning: np.ndarray
    shown: np.ndarray
    named: bool
    pixels: np.ndarray
    asked: np.ndarray
    paths: np.ndarray
    groups: np.ndarray
    frames: np.ndarray
    sizes: np.ndarray
    truth: pd.DataFrame
    n: int

    @property
    def judged(self) -> np.ndarray:
        """Places of the images that the checks are made on: those scored, where there are any."""
        return self.scored if len(self.scored) else self.shown

    @property
    def boxed(self) -> np.ndarray:
        """Places of all images that get boxes: those scored and those shown."""
        return np.union1d(self.scored, self.shown)

    def some(self, k: int) -> np.ndarray:
        """Places of `k` judged images, the classes asked for in turn."""
        return self._in_turn(self.judged)[:k]

    def examples(self, k: int) -> np.ndarray:
        """Places of the named images; without names as :meth:`some`."""
        return self.shown if self.named else self.some(k)

    def _in_turn(self, places: np.ndarray) -> np.ndarray:
        labels = self.asked[places]
        turns = pd.Series(labels).groupby(labels).cumcount().to_numpy()
        return places[np.lexsort([labels, turns])]

    def true_boxes(self, place: int) -> np.ndarray:
        """True boxes ``(j, 4)`` of an image, in pixels of the network's input."""
        own = self.truth[self.truth["image"] == self.rows[place]]
        unit = picture_to_frame(
            own[CORNERS].to_numpy(float), self.frames[[place]], self.sizes[[place]]
        )
        height, width = self.pixels.shape[1:3]
        return unit * np.array([width, height] * 2)

    def all_rows(self, values: np.ndarray) -> np.ndarray:
        """Values of the sample's images ``(k, ...)`` among NaN for all others."""
        whole = np.full((self.n, *values.shape[1:]), np.nan)
        whole[self.rows] = values
        return whole


def draw_sample(
    store: MapStore,
    split: pd.Series,
    size: tuple[int, int],
    *,
    n_images: int,
    pictures: str | Sequence[str] | None,
    box_kind: str | None,
    random_state: int,
) -> Sample:
    """Test images with boxes and two thirds as many confirm images, at random; those named.

    Where no test image has a box nothing is scored: without names, test images are drawn.

    Raises
    ------
    FeatlabError
        A name is that of no picture, or a picture is missing or has changed.
    """
    truth = true_boxes(store.images, store.boxes, box_kind)
    named = None if pictures is None else named_rows(store, pictures)
    rng = np.random.default_rng(random_state)
    sides, boxed = split.to_numpy(), np.zeros(len(split), dtype=bool)
    boxed[truth["image"].to_numpy(np.int64)] = True

    def draw(rows: np.ndarray, n: int) -> np.ndarray:
        return rng.choice(rows, min(n, len(rows)), replace=False)

    scored = draw(np.flatnonzero(boxed & (sides == "test")), n_images)
    few = round(n_images * _TUNING_SHARE) if len(scored) else 0
    tuning = draw(np.flatnonzero(boxed & (sides == "confirm")), few)
    shown = named
    if shown is None:
        shown = scored if len(scored) else draw(np.flatnonzero(sides == "test"), n_images)
    rows = np.union1d(np.union1d(scored, tuning), shown)
    table = store.images.iloc[rows]
    # A store that says nothing of it was made from pictures decoded whole.
    scaled = "jpeg_scaling" in store.provenance
    read = InputReader(store.images, size, str(store.provenance["resize"]), scaled)
    return Sample(
        rows=rows,
        scored=np.flatnonzero(np.isin(rows, scored)),
        tuning=np.flatnonzero(np.isin(rows, tuning)),
        shown=np.flatnonzero(np.isin(rows, shown)),
        named=named is not None,
        pixels=np.stack([read(int(row))[0] for row in rows]),
        asked=table["label"].to_numpy(str),
        paths=table["path"].to_numpy(str),
        groups=table["group"].to_numpy(str),
        frames=store.frames[rows],
        sizes=table[["width", "height"]].to_numpy(float),
        truth=truth,
        n=len(store),
    )


def named_rows(store: MapStore, pictures: str | Sequence[str]) -> np.ndarray:
    """Rows of the pictures of some names: paths of the set, patterns, or files of its folder.

    Raises
    ------
    FeatlabError
        No name, or one of no picture of the store.
    """
    names = [pictures] if isinstance(pictures, str) else list(pictures)
    paths = store.images["path"].to_numpy(str)
    files = [
        str(Path(folder) / path) for folder, path in zip(store.images["folder"], paths, strict=True)
    ]
    rows: list[int] = []
    for name in names:
        # A path is itself before it is a pattern: names may hold brackets.
        of_name = np.flatnonzero(paths == name)
        if not len(of_name):
            whole = str(Path(name).absolute())
            of_name = np.flatnonzero(np.array(files) == whole)
        if not len(of_name):
            of_name = np.flatnonzero([fnmatchcase(path, name) for path in paths])
        if not len(of_name):
            raise FeatlabError(
                f"{store.path} has no picture {name!r}; pictures must be paths as the set has "
                f"them, such as {paths[0]!r}, or patterns of them, such as '*.jpg'."
            )
        rows += of_name.tolist()
    if not rows:
        raise FeatlabError("pictures must name at least one picture, or be left out.")
    return np.unique(rows)


@dataclass(frozen=True)
class Learnt:
    """The user's classes: a head, the neurons, and what the head calls every image."""

    heads: HeadResults
    neurons: pd.DataFrame
    predicted: np.ndarray

    @property
    def accuracy(self) -> float:
        """Of the logistic head, on test images."""
        return float(self.heads.table.set_index("head")["accuracy"]["logistic"])


def learn_classes(store: MapStore, split: pd.Series, random_state: int) -> Learnt:
    """A logistic head and the detectors, from the stored maps of the train rows."""
    X, labels, groups = feature_table(store), store.images["label"], store.images["group"]
    heads = evaluate_heads(
        X, labels, split, heads=("logistic",), groups=groups, random_state=random_state
    )
    neurons = find_detectors(X, labels, split, groups, random_state=random_state)
    return Learnt(heads, neurons, predicted_classes(heads, X))


def checked_target(store: MapStore, backbone: Backbone, target: str | None) -> str:
    """Whose classes are asked for, by default what the set allows."""
    unlabelled = is_unlabelled(store.images["label"])
    if target is not None:
        check_choice("target", target, TARGETS)
    if unlabelled and target == "label":
        raise FeatlabError(
            f"the pictures of {store.path} have no labels, so there are no classes of yours to be "
            "asked for; take target 'own' (--target own), the network's."
        )
    if unlabelled and target is None and backbone.own_head is None:
        raise FeatlabError(
            f"the pictures of {store.path} have no labels and {backbone.name} brings no classifier "
            "of its own, so there is no class whose gradient could be taken."
        )
    return target or ("own" if unlabelled else "label")


@dataclass(frozen=True)
class Study:
    """The network with its head, and the images that it is run on."""

    store: MapStore
    split: pd.Series
    sample: Sample
    network: HeadedNetwork
    box_kind: str | None
    random_state: int
    progress: LabelledProgress | None
    seconds: dict[str, float] = field(default_factory=dict)

    @cached_property
    def refusal(self) -> str:
        """Why guided back-propagation is not possible, "" where it is."""
        try:
            _ = self.network.guided
        except FeatlabError as error:
            return str(error)
        return ""

    @property
    def presets(self) -> tuple[str, ...]:
        """Of DAM, which needs guided back-propagation."""
        return () if self.refusal else tuple(DAM_PRESETS)

    @property
    def asked_classes(self) -> str:
        """Whose classes are asked for: "own" or "label"."""
        return TARGETS[self.network.head.own]

    @property
    def rules(self) -> tuple[str, ...]:
        """How gradients pass a rectifier."""
        return ("plain",) if self.refusal else ("plain", "guided")

    def labelled(self, label: str) -> partial[Any] | None:
        """The progress of one step."""
        return None if self.progress is None else partial(self.progress, label=label)
