"""Whether the copies of a picture are one group, in every analysis alike."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from featlab.arguments import check_choice
from featlab.audit import group_copies
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
