"""Whether the copies of a picture are one group, in every analysis alike."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from featlab.arguments import check_choice
from featlab.audit import distinct_rows, group_copies
from featlab.backbones import Backbone
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
