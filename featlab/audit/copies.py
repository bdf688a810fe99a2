"""Copies: pictures that are there twice, byte for byte, or cropped, mirrored, brightened, turned.

A copy of a picture is the same picture after an affine transformation and a change of light. So
each image is laid on the few images whose features are nearest (they hardly change when a picture
is cropped or mirrored), by the affine transformation that fits best, and the fine detail of both is
compared cell by cell. Other photos of one scene, and surfaces of one shading, do not fit.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from featlab.arguments import check_same_rows, group_names, split_sides
from featlab.audit._labels import images_word, interval_words, worse_of
from featlab.errors import FeatlabError
from featlab.features import component_scores, feature_table, principal_components
from featlab.heads import evaluate_heads
from featlab.results.images import Finding
from featlab.splits import make_split, usual_fractions
from featlab.store import MapStore
from featlab.system.machine import double_rows

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]

COLUMNS = [
    "path_a",
    "path_b",
    "kind",
    "similarity",
    "overlap",
    "mirrored",
    "cosine",
    "label_a",
    "label_b",
    "split_a",
    "split_b",
    "across",
    "labels_differ",
    "row_a",
    "row_b",
]

COPIES_COLUMNS = ["copies", "n", "n_leaking", "accuracy", "accuracy_low", "accuracy_high"]

FAIL_LEAK = 0.01  # of the test images, with copies on other sides

# Each is measured by benchmarks/copies.py, on copies that are known and on sets without any.
NEIGHBOURS, LEAST_COSINE = 16, 0.5
"""Images on which each is laid: those of the nearest features, where they are as near as that."""
MIN_SIMILARITY = 0.75
"""Least correlation of the fine detail in 85 % of the cells."""

_COMPONENTS, _IMAGES_PER_COMPONENT = 128, 8  # what neighbours are sought on
_BLOCK = 512
_AT_ONCE = 8_000_000  # cosines in memory, however many images there are


def with_split(pairs: pd.DataFrame, split: ArrayLike) -> pd.DataFrame:
    """Pairs from :func:`duplicates` with the sides of another split."""
    sides = np.asarray(split).astype(str)
    a, b = sides[pairs["row_a"]], sides[pairs["row_b"]]
    return pairs.assign(split_a=a, split_b=b, across=a != b)


def duplicates(store: MapStore, *, split: ArrayLike | None = None) -> pd.DataFrame:
    """Pairs of images that are copies, and whether the split or the labels tear them apart.

    Parameters
    ----------
    store : MapStore
        With thumbnails; in one of an earlier featlab only exact copies are found.
    split : array_like of shape (n,), optional
        Side of every image.

    Returns
    -------
    DataFrame, one row per pair; exact ones first, then by falling similarity
        ``path_a, path_b`` (in the order of the image table); ``kind``: "exact" (equal sha256) or
        "near"; ``similarity``: correlation of the fine detail that 85 % of the cells reach;
        ``overlap``: share of the first picture that the second shows, 0-1; ``mirrored``; ``cosine``
        of the activations; ``label_a, label_b, split_a, split_b`` ("" where unknown); ``across``
        (on two sides of the split); ``labels_differ``; ``row_a, row_b`` (row numbers). Exact copies
        have NaN where nothing was measured.

    Raises
    ------
    FeatlabError
        `split` does not have one entry per image.

    Notes
    -----
    1. Neighbours: the 16 nearest of each image, by the cosine of up to 128 whitened principal
       components of the mean-pooled maps of the last layer, where it is at least 0.5.
    2. Fit: the affine transformation that brings the second thumbnail (48 x 48 pixels, grey) onto
       the first, mirrored or not, by inverse compositional Gauss-Newton steps from coarse to fine.
    3. Comparison: the fine detail of both (minus a Gaussian mean of 2 pixels) in 6 x 6 cells. A
       pair is a copy where 85 % of the cells correlate by 0.75. A cell counts where it lies
       inside both pictures and has detail; of fewer than 9 such cells nothing is concluded.

    Plain pictures without detail, crops of less than 60 % of a side and large turns are not found;
    benchmarks/copies.py says how many of each kind are. Crops of one scene that overlap by half
    are found: they leak as well.

    References
    ----------
    Baker & Matthews (2004). Lucas-Kanade 20 years on: a unifying framework. International Journal
    of Computer Vision 56, 221-255.
    """
    from featlab.audit._alignment import FIT_COLUMNS, fitted  # compiled loops

    images = store.images
    n = len(images)
    check_same_rows(images=images, split=split)
    sides = np.full(n, "") if split is None else split_sides(split, n)
    exact = _equal_pairs(_column(images, "sha256"))
    X, thumbnails = feature_table(store).to_numpy(), store.thumbnails
    fits = pd.DataFrame(columns=FIT_COLUMNS)
    if thumbnails is not None:
        near = neighbour_pairs(X)
        near = near[~np.isin(near @ [n, 1], exact @ [n, 1])]
        fits = fitted(thumbnails, near)
        fits = fits[fits["similarity"] >= MIN_SIMILARITY]
    pairs = np.concatenate([exact, fits[["row_a", "row_b"]].to_numpy(np.intp)])
    unknown = np.full(len(exact), np.nan)
    a, b = pairs.T
    labels, paths = _column(images, "label"), images["path"].to_numpy()
    table = pd.DataFrame(
        {
            "path_a": paths[a],
            "path_b": paths[b],
            "kind": np.repeat(["exact", "near"], [len(exact), len(fits)]),
            "similarity": np.concatenate([unknown, fits["similarity"].to_numpy(float)]),
            "overlap": np.concatenate([unknown, fits["overlap"].to_numpy(float)]),
            "mirrored": np.concatenate(
                [np.zeros(len(exact), bool), fits["mirrored"].to_numpy(bool)]
            ),
            "cosine": _cosines(X, pairs),
            "label_a": labels[a],
            "label_b": labels[b],
            "split_a": sides[a],
            "split_b": sides[b],
            "across": sides[a] != sides[b],
            "labels_differ": labels[a] != labels[b],
            "row_a": a,
            "row_b": b,
        }
    )
    order = ["kind", "similarity", "path_a", "path_b"]
    table = table.sort_values(order, ascending=[True, False, True, True], kind="stable")
    return table[COLUMNS].reset_index(drop=True)


def group_copies(store: MapStore, pairs: pd.DataFrame | None = None) -> MapStore:
    """The same store with the copies of each picture as a group, so that they stay together.

    Copies of images of a group join that group. Where a split column of the image table puts copies
    on several sides, they stay there, with a warning in the log.

    Parameters
    ----------
    store : MapStore
    pairs : DataFrame, optional
        From :func:`duplicates`, which is called by default.

    Returns
    -------
    MapStore
        Open for reading, with another ``group`` column of its image table.

    Examples
    --------
    >>> store = group_copies(MapStore("maps.h5"))       # doctest: +SKIP
    >>> split = make_split(store.images)                # doctest: +SKIP
    """
    images = store.images
    pairs = duplicates(store) if pairs is None else pairs
    given = _column(images, "split")
    across = given[pairs["row_a"]] != given[pairs["row_b"]]
    if across.any():
        logger.warning(
            "the split column puts %d of %d pairs of copies on several sides: what is scored on "
            "test was in part learnt by heart.",
            across.sum(),
            len(pairs),
        )
    pairs = pairs[~across]
    if not len(pairs):
        return store
    return store.regrouped(joined_groups(_column(images, "group"), pairs))


def distinct_rows(store: MapStore) -> Rows:
    """Row numbers of the images without the copies, but for the first of each picture."""
    n = len(store.images)
    names = joined_groups(np.full(n, ""), duplicates(store))
    return np.flatnonzero((names == "") | ~pd.Series(names).duplicated().to_numpy())


def joined_groups(groups: NDArray[np.str_], pairs: pd.DataFrame) -> NDArray[np.str_]:
    """Groups with the copies of their images: connected components, ``""`` for an image alone.

    A component is called like the first group in it, or after its first image.
    """
    n = len(groups)
    named, codes = np.unique(groups, return_inverse=True)
    grouped = np.flatnonzero(groups != "")
    size = n + len(named)
    a = np.concatenate([pairs["row_a"].to_numpy(np.intp), grouped])
    b = np.concatenate([pairs["row_b"].to_numpy(np.intp), n + codes[grouped]])
    links = csr_matrix((np.ones(len(a), bool), (a, b)), shape=(size, size))
    unit = connected_components(links, directed=False)[1]
    names = pd.Series(groups).where(groups != "").groupby(unit[:n]).transform("first")
    first = pd.Series(np.arange(n)).groupby(unit[:n]).transform("first").to_numpy()
    alone = (np.bincount(unit)[unit[:n]] == 1) & (groups == "")
    copies = np.char.add("copies of image ", first.astype(str))
    return np.where(alone, "", names.fillna(pd.Series(copies)).to_numpy(str))


def copies_both_ways(
    store: MapStore,
    X: pd.DataFrame,
    pairs: pd.DataFrame,
    random_state: int,
    sides: NDArray[np.str_],
    head_table: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """What copies on several sides of a split are worth: accuracy of the logistic head both ways.

    Two splits are made anew, with one seed and the same shares: one that keeps the copies of a
    picture together, one that does not look at them. Empty where that one tears too few apart for
    the accuracies to be about them. `head_table` is known of `X`, that seed and the split `sides`,
    which may be one of them.
    """
    images = store.tables.images.assign(split="", sha256="")
    own = group_names(images["group"], len(images))
    joined = joined_groups(own, pairs)
    shares, splits = usual_fractions(images.assign(group=joined)), {}
    for word, groups in (("together", joined), ("split", own)) if len(pairs) else ():
        with suppress(FeatlabError):  # too few groups for a split
            splits[word] = make_split(
                images.assign(group=groups), fractions=shares, random_state=random_state
            ).to_numpy(str)
    leaking = {word: len(_leaking(pairs, split)) for word, split in splits.items()}
    rows: list[dict[Hashable, Any]] = []
    if "split" not in splits or leaking["split"] <= FAIL_LEAK * (splits["split"] == "test").sum():
        return pd.DataFrame(rows, columns=COPIES_COLUMNS)
    known = {}
    if head_table is not None and np.array_equal(
        joined, group_names(store.images["group"], len(X))
    ):
        known[tuple(sides)] = head_table[head_table["head"] == "logistic"]
    for word, split in splits.items():
        with suppress(FeatlabError):  # too few groups to fit on
            table = known.get(tuple(split))
            if table is None or table.empty:
                table = evaluate_heads(
                    X, images["label"], split, heads=["logistic"], groups=joined,
                    random_state=random_state,
                ).table  # fmt: skip
            logistic = table[table["head"] == "logistic"].iloc[0].to_dict()
            rows.append({**logistic, "copies": word, "n_leaking": leaking[word]})
    return pd.DataFrame(rows, columns=COPIES_COLUMNS)


def _leaking(pairs: pd.DataFrame, sides: NDArray[np.str_]) -> NDArray[np.intp]:
    """Test images of which a copy lies on another side."""
    rows = pairs[["row_a", "row_b"]].to_numpy(np.intp)
    across = rows[sides[rows[:, 0]] != sides[rows[:, 1]]]
    return np.unique(across[sides[across] == "test"])


def duplicates_line(
    table: pd.DataFrame, copies: pd.DataFrame, sides: NDArray[np.str_] | int, *, near: bool
) -> Finding:
    """Are images there several times, on two sides of the split or under two labels?

    `sides` is only the number of images where there is neither a split nor a label.
    """
    n = sides if isinstance(sides, int) else len(sides)
    n_exact = int((table["kind"] == "exact").sum())
    n_across, n_differ = int(table["across"].sum()), int(table["labels_differ"].sum())
    names = joined_groups(np.full(n, ""), table)
    both = f" and {len(table) - n_exact:,} near" if near else ""
    pairs = "pair" if n_exact == 1 and not near else "pairs"
    text = f"{n_exact:,} exact{both} {pairs} of copies"
    if len(table):
        of = len(set(names) - {""})
        several = f"{of:,} picture" if of == 1 else f"{of:,} pictures"
        text += f" ({images_word(int((names != '').sum()))} of {several})"
    leaking = () if isinstance(sides, int) else _leaking(table, sides)
    text += (
        "."
        if isinstance(sides, int)
        else (
            f"; {n_across:,} lie across the split ({images_word(len(leaking))} of test), "
            f"{n_differ:,} have two labels."
        )
    )
    scores = {row["copies"]: row for row in copies.to_dict("records")}
    if {"together", "split"} <= set(scores):
        kept, torn = scores["together"], scores["split"]
        apart = images_word(int(torn["n_leaking"]))
        text += (
            f" A logistic head has an accuracy of {interval_words(kept)} where a split keeps "
            f"copies together, {interval_words(torn)} where it does not ({apart} of "
            f"{int(torn['n']):,} tested have a copy elsewhere then)."
        )
    if not near:
        text += " Near ones were not looked for: the store has no thumbnails; extract it again."
    n_test = 0 if isinstance(sides, int) else int((sides == "test").sum())
    fails = len(leaking) > FAIL_LEAK * n_test
    return Finding("duplicates", worse_of(fails, n_across > 0 or n_differ > 0), text, n)


def neighbour_pairs(X: NDArray[np.floating], k: int = NEIGHBOURS) -> Rows:
    """Pairs of rows, the smaller first, of which one is among the k nearest of the other, and near.

    Parameters
    ----------
    X : ndarray of shape (n, c)
    k : int

    Returns
    -------
    ndarray of shape (m, 2)
    """
    n = len(X)
    k = min(k, n - 1)
    unit = _whitened(X)
    pairs = [np.zeros(0, dtype=np.intp)]
    step = max(1, min(_BLOCK, _AT_ONCE // max(n, 1)))
    for start in range(0, n if k > 0 else 0, step):
        block = np.arange(start, min(start + step, n))
        cosine = unit[block] @ unit.T
        cosine[block - start, block] = -np.inf
        nearest = np.argpartition(cosine, n - k, axis=1)[:, n - k :]
        is_near = np.take_along_axis(cosine, nearest, axis=1) >= LEAST_COSINE
        own, other = block[np.nonzero(is_near)[0]], nearest[is_near]
        pairs.append(np.minimum(own, other) * n + np.maximum(own, other))  # a pair as one number
    return np.column_stack(np.divmod(np.unique(np.concatenate(pairs)), max(n, 1)))


def _whitened(X: NDArray[np.floating]) -> Floats:
    """Unit vectors of the scores on the leading components, each of variance 1.

    What many images share lies along few components; whitened, it does not outweigh what a
    picture has of its own.
    """
    n, c = X.shape
    k = max(1, min(_COMPONENTS, n // _IMAGES_PER_COMPONENT, c))
    scores = component_scores(principal_components(X, k), X)
    spread = scores.std(axis=0)
    return _unit(scores[:, spread > 1e-6 * spread.max()] / spread[spread > 1e-6 * spread.max()])


def _column(images: pd.DataFrame, name: str) -> NDArray[np.str_]:
    return images[name].fillna("").to_numpy().astype(str)


def _equal_pairs(keys: NDArray[np.str_]) -> Rows:
    """Rows of equal, non-empty keys: the first of each group with each of the others."""
    frame = pd.DataFrame({"key": keys, "row": np.arange(len(keys))})
    frame = frame[frame["key"] != ""]
    first = frame.groupby("key")["row"].transform("first")
    copies = frame["row"] != first
    return np.column_stack([first[copies], frame["row"][copies]]).astype(np.intp)


def _unit(rows: NDArray[np.floating]) -> Floats:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0).astype(np.float32)


def _cosines(X: NDArray[np.floating], pairs: Rows) -> NDArray[np.float64]:
    cosine = np.empty(len(pairs))
    for start in range(0, len(pairs), _BLOCK):
        a, b = (_unit(double_rows(X, rows)) for rows in pairs[start : start + _BLOCK].T)
        cosine[start : start + _BLOCK] = np.einsum("ij,ij->i", a, b)
    return cosine
