"""The stores that an analysis takes: with their copies as groups or left out; those compared.

What is compared are layers: one layer of one store each, of the same images, under a name of its
own.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from featlab.arguments import check_choice
from featlab.audit import group_copies
from featlab.audit.copies import distinct_rows
from featlab.backbones import Backbone
from featlab.errors import FeatlabError
from featlab.extract import PassOptions, append_maps
from featlab.store import MapStore

COPIES = ("together", "split")


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
    images = store.tables.images.iloc[rows].reset_index(drop=True)
    indexed = json.loads(store.provenance.get("indexed", "{}"))
    about = {"indexed": json.dumps(indexed | {"copies": len(store) - len(rows)})}
    if "command" in store.provenance:
        about["command"] = str(store.provenance["command"])
    boxes = store.boxes[store.boxes["image"].isin(rows)]
    boxes = boxes.assign(image=np.searchsorted(rows, boxes["image"])).reset_index(drop=True)
    path.unlink(missing_ok=True)  # of an earlier run, whose pictures may have been others
    options = PassOptions() if options is None else options
    return append_maps(
        images, backbone, store.path, path,
        boxes=boxes, skipped=store.skipped, about=about, options=options,
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
            return f"{column} {b[row]!r} against {a[row]!r} in row {row}"
    return ""
