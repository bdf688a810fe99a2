"""What an analysis takes: stores, their copies as groups or left out; those compared; pictures.

What is compared are layers: one layer of one store each, of the same images, under a name of its
own. The pictures are those on which a network is run again.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd

from featlab.arguments import check_choice, is_unlabelled, true_boxes
from featlab.audit import group_copies
from featlab.audit.copies import distinct_rows
from featlab.backbones import Backbone
from featlab.boxes.geometry import CORNERS, picture_to_frame
from featlab.errors import FeatlabError
from featlab.extract import PassOptions, append_maps
from featlab.images.pixels import InputReader
from featlab.predict import Predictor
from featlab.store import MapStore
from featlab.store.network import network_facts, refuse_other_network

COPIES = ("together", "split")
TARGETS = ("label", "own")
"""Whose classes are asked for: the user's, by the image's label, or the network's own."""
_TUNING_SHARE = 2 / 3  # images that thresholds are chosen on, per image scored


def with_copies(store: MapStore, copies: str, pairs: pd.DataFrame | None = None) -> MapStore:
    """The store as it is ("split"), or with its copies as groups ("together").

    Parameters
    ----------
    store : MapStore
    copies : {"together", "split"}
    pairs : DataFrame, optional
        From :func:`featlab.audit.duplicates`, which is called by default.

    Raises
    ------
    FeatlabError
        Another word than these two.
    """
    check_choice("copies", copies, COPIES)
    return group_copies(store, pairs) if copies == "together" else store


def stores_with_copies(stores: Sequence[MapStore], copies: str) -> list[MapStore]:
    """Stores of the same images, all with the groups that `with_copies` gives the first."""
    if not stores:
        return []
    first, *others = stores
    kept = with_copies(first, copies)
    if kept is first:
        return list(stores)
    groups = kept.images["group"]
    # One of other images is told by who compares them.
    return [kept, *(s.regrouped(groups) if len(s) == len(kept) else s for s in others)]


def distinct_store(
    store: MapStore,
    backbone: Backbone,
    path: str | os.PathLike[str],
    *,
    options: PassOptions | None = None,
) -> MapStore:
    """A store without copies: the first image of each picture, with the maps of the whole store.

    Parameters
    ----------
    store : MapStore
        Open; it may be closed afterwards.
    backbone : Backbone
        The network that the store was made with; it is not run.
    path : path
        Of the new store, beside the old one. What is there is replaced.
    options : PassOptions, optional
        As the store was made with.

    Returns
    -------
    MapStore
        Open for reading. Its provenance says how many copies were left out.
    """
    rows, path = distinct_rows(store), Path(path)
    tables = store.tables.of_rows(rows)
    indexed = json.loads(store.provenance.get("indexed", "{}"))
    about = {"indexed": json.dumps(indexed | {"copies": len(store) - len(rows)})}
    known = {key: str(value) for key, value in store.provenance.items()}
    about |= {key: known[key] for key in ("command", "reading") if key in known}
    if path.resolve() != store.path.resolve():  # the whole store is refused as the new one, below
        path.unlink(missing_ok=True)  # of an earlier run, whose pictures may have been others
    options = PassOptions() if options is None else options
    return append_maps(
        tables.images, backbone, store.path, path,
        boxes=tables.boxes, skipped=store.skipped, about=about, options=options,
    )  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One layer of one store."""

    name: str
    store: MapStore
    layer: str


def entries_of(
    stores: Sequence[MapStore], names: Sequence[str] | None, layers: Sequence[str] | None
) -> list[Entry]:
    """Every layer of every store, or only `layers`; named by what tells them apart, or `names`."""
    if names is not None and len(names) != len(stores):
        raise FeatlabError(
            f"names must be one for each of the {len(stores)} stores, got {len(names)}: "
            f"{', '.join(names)}."
        )
    stored = list(dict.fromkeys(layer for store in stores for layer in store.layers))
    unknown = [layer for layer in layers or () if layer not in stored]
    if unknown:
        raise FeatlabError(
            f"layers must be from those stored, {', '.join(stored)}; got {unknown[0]!r}."
        )
    pairs = [
        (k, layer)
        for k, store in enumerate(stores)
        for layer in store.layers
        if layers is None or layer in layers
    ]
    if len(pairs) < 2:
        raise FeatlabError(
            "A comparison needs at least two stores, or one with two layers; got "
            f"{', '.join(f'{stores[k].path} ({layer})' for k, layer in pairs) or 'none'}."
        )
    if names is None:
        distinct = _distinct([_traits(stores[k], layer) for k, layer in pairs])
    else:
        several = {k for k, _ in pairs if sum(k == other for other, _ in pairs) > 1}
        distinct = [f"{names[k]}, {layer}" if k in several else str(names[k]) for k, layer in pairs]
    twice = [name for k, name in enumerate(distinct) if name in distinct[:k]]
    if twice:
        raise FeatlabError(
            f"names must be distinct, got {twice[0]!r} twice; give each store its own name, and "
            "each store once."
        )
    return [Entry(name, stores[k], layer) for name, (k, layer) in zip(distinct, pairs, strict=True)]


def _traits(store: MapStore, layer: str) -> list[str]:
    """What may tell an entry from the others, the plainest first."""
    height, width, _ = store.map_shape(layer)
    known = store.provenance
    return [
        str(known.get("backbone", store.path.stem)),
        f"{str(known.get('input_size', '')).partition(' ')[0]} px",
        f"{height}×{width}",
        layer,
        *(str(known.get(key, "")) for key in ("weights", "resize", "precision", "dtype")),
        f"{store.path.parent.name}/{store.path.name}",
        str(store.path),
    ]


def _distinct(traits: Sequence[Sequence[str]]) -> list[str]:
    """The first trait of each with the fewest further ones that tell all apart.

    The file's name and path tell a reader least: they serve only where the rest does not do.
    """
    n = len(traits[0])
    for known in (n - 2, n):
        for count in range(known):
            for extra in itertools.combinations(range(1, known), count):
                names = [", ".join(one[place] for place in (0, *extra)) for one in traits]
                if len(set(names)) == len(names):
                    return names
    return names


def check_same(entries: Sequence[Entry]) -> None:
    """Refuse stores of different images, labels, groups or boxes, and say what differs."""
    first = entries[0].store
    for store in dict.fromkeys(entry.store for entry in entries[1:]):
        ours, theirs = set(first.images["path"]), set(store.images["path"])
        if ours != theirs:
            only = [
                f"{len(a - b):,} only in {s.path} (such as {min(a - b)!r})"
                for a, b, s in ((ours, theirs, first), (theirs, ours, store))
                if a - b
            ]
            raise FeatlabError(
                f"Stores must hold the same images to be compared: {' and '.join(only)}. "
                "Extract both from the same folder."
            )
        for table in ("images", "boxes"):
            difference = _first_difference(getattr(first, table), getattr(store, table))
            if difference:
                raise FeatlabError(
                    f"Stores must hold the same images to be compared: the {table} of "
                    f"{store.path} differ from those of {first.path}: {difference}. Extract both "
                    "from the same folder."
                )


def _first_difference(ours: pd.DataFrame, theirs: pd.DataFrame) -> str:
    if len(ours) != len(theirs):
        return f"{len(theirs):,} rows against {len(ours):,}"
    for column in ours.columns.drop(["split", "folder"], errors="ignore"):
        a, b = ours[column].to_numpy(), theirs[column].to_numpy()
        if (a != b).any():
            row = int((a != b).argmax())
            other, own = b[row : row + 1].tolist()[0], a[row : row + 1].tolist()[0]
            return f"{column} {other!r} against {own!r} in row {row}"
    return ""


@dataclass(frozen=True)
class Sample:
    """The images that are looked at again, in the order of the store.

    Attributes
    ----------
    rows : ndarray of shape (k,)
        Rows of the image table.
    scored, tuning : ndarray of int
        Places in `rows` of the test images with boxes, and of those that choose thresholds.
    pictures : ndarray of int
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
    pictures: np.ndarray
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
        return self.scored if len(self.scored) else self.pictures

    @property
    def boxed(self) -> np.ndarray:
        """Places of all images that get boxes: those scored and the pictures."""
        return np.union1d(self.scored, self.pictures)

    def some(self, k: int) -> np.ndarray:
        """Places of `k` judged images, the classes asked for in turn."""
        return self._in_turn(self.judged)[:k]

    def examples(self, k: int) -> np.ndarray:
        """Places of the named images; without names as :meth:`some`."""
        return self.pictures if self.named else self.some(k)

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
    page_rows = named
    if page_rows is None:
        page_rows = scored if len(scored) else draw(np.flatnonzero(sides == "test"), n_images)
    rows = np.union1d(np.union1d(scored, tuning), page_rows)
    table = store.images.iloc[rows]
    # A store that says nothing of it was made from pictures decoded whole.
    scaled = "jpeg_scaling" in store.provenance
    read = InputReader(store.images, size, str(store.provenance["resize"]), scaled)
    return Sample(
        rows=rows,
        scored=np.flatnonzero(np.isin(rows, scored)),
        tuning=np.flatnonzero(np.isin(rows, tuning)),
        pictures=np.flatnonzero(np.isin(rows, page_rows)),
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
                f"them, such as {str(paths[0])!r}, or patterns of them, such as '*.jpg'. Of "
                "others make a store first: `featlab extract FOLDER -o STORE`, or `featlab predict "
                "MODEL PICTURES -o OUT --keep-maps` (the store is in OUT)."
            )
        rows += of_name.tolist()
    if not rows:
        raise FeatlabError("pictures must name at least one picture, or be left out.")
    return np.unique(rows)


_NO_CLASSES = (
    "so there are no classes to tell apart; `featlab report` shows what can be said without them"
)


def check_labelled(store: MapStore, therefore: str = _NO_CLASSES) -> None:
    """Refuse a store none of whose images has a label, where labels are needed.

    Parameters
    ----------
    store : MapStore
    therefore : str
        What cannot be done without them, and what can.

    Raises
    ------
    FeatlabError
        No image has a label.
    """
    if is_unlabelled(store.images["label"]):
        raise FeatlabError(f"the pictures of {store.path} have no labels, {therefore}.")


def checked_target(
    store: MapStore, backbone: Backbone, target: str | None, model: Predictor | None
) -> str:
    """Whose classes are asked for, by default what the set allows; "model" where one is given."""
    unlabelled = is_unlabelled(store.images["label"])
    if model is not None:
        if not unlabelled or target is not None:
            raise FeatlabError(
                "a model lends its classes to pictures without labels: leave target out with it, "
                "and leave it out for a set with labels."
            )
        way_out = "Give the model of a set that the same network was run on."
        refuse_other_network(network_facts(model.provenance), store.provenance, store.path, way_out)
        return "model"
    if target is not None:
        check_choice("target", target, TARGETS)
    if target == "label":
        check_labelled(
            store,
            "so there are no classes of yours to be asked for; take target 'own' (--target own), "
            "the network's, or give the model of a set with labels (--model)",
        )
    if unlabelled and target is None and backbone.own_head is None:
        raise FeatlabError(
            f"the pictures of {store.path} have no labels and {backbone.name} brings no classifier "
            "of its own, so there is no class whose gradient could be taken; give the model of a "
            "set with labels (--model)."
        )
    return target or ("own" if unlabelled else "label")
