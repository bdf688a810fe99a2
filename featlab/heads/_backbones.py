"""Which network knows the classes best: the same images, split and heads on several stores."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from featlab.errors import FeatlabError
from featlab.features import feature_table
from featlab.heads._compare import holm, paired
from featlab.heads._evaluation import evaluate_heads
from featlab.heads._models import BASELINES, HEADS_DEFAULT
from featlab.results.heads import HeadResults

if TYPE_CHECKING:
    from featlab.store import MapStore


@dataclass(frozen=True)
class BackboneComparison:
    """Heads on several networks' features of the same images.

    Attributes
    ----------
    table : DataFrame, one row per backbone and head
        ``backbone``, ``c`` (neurons), then the columns of ``HeadResults.table``. The baselines,
        ``dummy`` and ``colour_histogram``, see no network and are there once, as backbone "".
    pairs : DataFrame, one row per head and pair of backbones
        ``head``, ``a``, ``b``, the columns of :func:`compare_heads`, and ``p_adjusted``: Holm over
        all rows.
    results : mapping of str to HeadResults
        By backbone.
    """

    table: pd.DataFrame
    pairs: pd.DataFrame
    results: Mapping[str, HeadResults]


def compare_backbones(
    stores: Mapping[str, MapStore],
    split: ArrayLike | None = None,
    *,
    pooling: str = "mean",
    layer: str | None = None,
    heads: Sequence[str] = HEADS_DEFAULT,
    class_weight: str | None = None,
    n_boot: int = 1000,
    random_state: int = 0,
) -> BackboneComparison:
    """Fit and score the same heads on several networks' features of the same images.

    Parameters
    ----------
    stores : mapping of str to MapStore
        By the name to show; at least two, made from the same images. Rows may be ordered
        differently; they are matched by path.
    split : array_like of shape (n,), optional
        ``train``, ``confirm`` or ``test``, in the rows of the first store
        (``splits.make_split``). Default the split in the first store's image table.
    pooling : {"mean", "max", "softmax_mean", "softmax_max", "flat"}
        As in :func:`featlab.features.feature_table`.
    layer : str, optional
        A layer that all stores have; default the last of each.
    heads : sequence of str
        From :data:`HEADS`.
    class_weight, n_boot, random_state
        As in :func:`evaluate_heads`. Groups are those of the first store's image table.

    Returns
    -------
    BackboneComparison

    Raises
    ------
    FeatlabError
        Fewer than two stores, other images or labels in one of them, no split anywhere.

    Notes
    -----
    The test images are the same, so the backbones are compared image by image
    (:func:`compare_heads`). The best of many backbones is flattered by having been picked on
    these test images.
    """
    if len(stores) < 2:
        raise FeatlabError(f"stores must hold at least two stores, got {list(stores)}.")
    first_name = next(iter(stores))
    images = stores[first_name].images
    rows = {name: _matched(first_name, images, name, store) for name, store in stores.items()}
    sides = _split_of(images) if split is None else np.asarray(split).astype(str)
    groups = images["group"].to_numpy() if "group" in images else None
    tables, results = [], {}
    for name, store in stores.items():
        X = feature_table(store, layer=layer, pooling=pooling).iloc[rows[name]]
        results[name] = evaluate_heads(
            X,
            images["label"],
            sides,
            colour=store.colour_histogram[rows[name]] if name == first_name else None,
            groups=groups,
            heads=heads,
            class_weight=class_weight,
            random_state=random_state,
            n_boot=n_boot,
        )
        table = results[name].table
        baseline = table["head"].isin(BASELINES)
        tables.append(table[~baseline].assign(backbone=name, c=X.shape[1]))
        if name == first_name:
            tables.insert(0, table[baseline].assign(backbone="", c=0))
    every = pd.concat(tables, ignore_index=True)
    names = ["backbone", "c"]
    return BackboneComparison(
        table=every[names + [column for column in every if column not in names]],
        pairs=_pairs(results, random_state),
        results=results,
    )


def _pairs(results: Mapping[str, HeadResults], random_state: int) -> pd.DataFrame:
    rows = []
    some = next(iter(results.values()))
    for head in [head for head in some.models if head not in BASELINES]:
        right = {name: r.of(head)["correct"].to_numpy(bool) for name, r in results.items()}
        for a, b in itertools.combinations(results, 2):
            found = paired(right[a], right[b], some.clusters, 2000, random_state)
            rows.append({"head": head, "a": a, "b": b, **found})
    table = pd.DataFrame(rows)
    return table.assign(p_adjusted=holm(table["p"].to_numpy(float)))


def _matched(first_name: str, images: pd.DataFrame, name: str, store: MapStore) -> np.ndarray:
    """Rows of `store` in the order of the first store's images."""
    place = {path: row for row, path in enumerate(store.images["path"])}
    ours, theirs = set(images["path"]), set(place)
    if ours != theirs:
        odd = sorted(ours ^ theirs)[0]
        raise FeatlabError(
            f"All stores must hold the same images: {first_name!r} has {len(ours)}, {name!r} has "
            f"{len(theirs)}, and {odd!r} is only in {(first_name if odd in ours else name)!r}."
        )
    rows = np.array([place[path] for path in images["path"]])
    for column in ("sha256", "label"):
        if column not in images or column not in store.images:
            continue
        differ = images[column].to_numpy() != store.images[column].to_numpy()[rows]
        if differ.any():
            raise FeatlabError(
                f"All stores must hold the same images: {images['path'][differ].iloc[0]!r} has "
                f"a different {column} in {name!r} than in {first_name!r}."
            )
    return rows


def _split_of(images: pd.DataFrame) -> np.ndarray:
    sides = images["split"].astype(str).to_numpy() if "split" in images else np.array([""])
    if not {"train", "test"} <= set(sides):
        raise FeatlabError(
            "The image table has no split with 'train' and 'test'; "
            "pass split=splits.make_split(store.images)."
        )
    return sides
