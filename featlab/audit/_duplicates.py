"""Pictures that are there twice: byte for byte, or resized, recompressed and slightly changed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import uniform_filter

from featlab.arguments import Progress, check_same_rows, check_whole, finite_matrix, split_sides
from featlab.audit._pictures import HASH_BITS, Pictures, read_pictures
from featlab.system.scratch import double_rows, pieces

COLUMNS = [
    "path_a",
    "path_b",
    "kind",
    "distance",
    "similarity",
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

MAX_DISTANCE = 12
"""Largest number of the 64 bits of the difference hash in which near duplicates may differ."""
MIN_SIMILARITY = 0.8
"""Smallest correlation of the fine detail of near duplicates."""

_ALIKE_SIMILARITY, _ALIKE_COSINE = 0.6, 0.95
_FLAT = 1e-3  # spread of grey (0-1) below which there is no detail to compare
_DETAIL = 5  # thumbnail pixels: what is coarser is lighting
_BLOCK = 1024
_ALL_PAIRS = 50_000  # pictures of which every pair is compared: a minute


def duplicates(
    images: pd.DataFrame,
    X: pd.DataFrame | ArrayLike | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    split: ArrayLike | None = None,
    threshold: int = MAX_DISTANCE,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Pairs of pictures that are the same, and whether the split or the labels tear them apart.

    Parameters
    ----------
    images : DataFrame
        Image table: ``path``; ``label`` and ``sha256`` where it has them.
    X : DataFrame or array_like of shape (n, c), optional
        Pooled activations, as a second witness.
    root : path-like, optional
        Folder of the pictures; ``images.attrs["root"]`` by default.
    split : array_like of shape (n,), optional
        Side of every image.
    threshold : int
        Most bits, of 64, in which the difference hashes of near duplicates may differ.
    progress : callable, optional
        Wraps the iteration over the pictures.

    Returns
    -------
    DataFrame, one row per pair; exact ones first, then by falling similarity
        ``path_a, path_b`` (in the order of the image table); ``kind``: "exact" (equal sha256) or
        "near"; ``distance`` (bits, 0-64; NaN where a picture cannot be read); ``similarity``
        (correlation of the fine detail, -1 to 1); ``cosine`` (of the activations, NaN without `X`);
        ``label_a, label_b, split_a, split_b`` ("" where unknown); ``across`` (on two sides of the
        split); ``labels_differ``; ``row_a, row_b`` (row numbers).

    Raises
    ------
    FeatlabError
        There is no root, rows do not match, or `threshold` is not from 0 to 32.

    Notes
    -----
    A pair is near if the hashes differ in at most `threshold` bits *and* the grey pictures of
    32 x 32, minus their local mean of 5 x 5, correlate by 0.8; with `X`, 0.6 are enough where the
    cosine of the activations is 0.95. Unrelated pictures under the same lighting agree in the hash
    and in the coarse grey, but hardly ever in the fine detail. Mirrored, rotated or strongly
    cropped copies, and other photos of the same scene, are not found.

    Of more than 50,000 pictures only those are compared whose hashes agree in one quarter at least:
    all near duplicates that differ in up to 3 bits, and part of the others, are found. Exact
    copies are found among any number.
    """
    check_whole("threshold", threshold, 0, HASH_BITS // 2)
    pictures = read_pictures(images, root, progress=progress)
    return find_duplicates(images, pictures, X, split=split, threshold=threshold)


def find_duplicates(
    images: pd.DataFrame,
    pictures: Pictures | None,
    X: pd.DataFrame | ArrayLike | None = None,
    *,
    split: ArrayLike | None = None,
    threshold: int = MAX_DISTANCE,
) -> pd.DataFrame:
    """As :func:`duplicates`, of pictures that were read before; without them only exact ones."""
    n = len(images)
    check_same_rows(images=images, split=split, X=X)
    sides = np.full(n, "") if split is None else split_sides(split, n)
    vectors = None if X is None else finite_matrix(X)
    exact = _equal_pairs(_column(images, "sha256"))
    known = set(map(tuple, exact.tolist()))
    near = np.zeros((0, 2), dtype=np.intp)
    if pictures is not None:
        near = _verified(_close_pairs(pictures, threshold), pictures, vectors)
        near = near[[tuple(pair) not in known for pair in near.tolist()]]
    pairs = np.concatenate([exact, near])
    similarity, cosine = _alike(pairs, pictures, vectors)
    a, b = pairs.T
    labels, paths = _column(images, "label"), images["path"].to_numpy()
    table = pd.DataFrame(
        {
            "path_a": paths[a],
            "path_b": paths[b],
            "kind": np.repeat(["exact", "near"], [len(exact), len(near)]),
            "distance": _distances(pictures, a, b),
            "similarity": similarity,
            "cosine": cosine,
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


def _column(images: pd.DataFrame, name: str) -> NDArray[np.str_]:
    if name not in images:
        return np.full(len(images), "")
    return images[name].fillna("").to_numpy().astype(str)


def _equal_pairs(keys: NDArray[np.str_]) -> NDArray[np.intp]:
    """Rows of equal, non-empty keys: the first of each group with each of the others."""
    frame = pd.DataFrame({"key": keys, "row": np.arange(len(keys))})
    frame = frame[frame["key"] != ""]
    first = frame.groupby("key")["row"].transform("first")
    copies = frame["row"] != first
    return np.column_stack([first[copies], frame["row"][copies]]).astype(np.intp)


def _close_pairs(pictures: Pictures, threshold: int) -> NDArray[np.intp]:
    """Pairs of rows whose hashes differ in few bits."""
    flat = pictures.thumbnails.reshape(len(pictures.readable), -1)
    spread = [flat[part].std(axis=1) for part in pieces(*flat.shape)]
    rows = np.flatnonzero(pictures.readable & (np.concatenate(spread) > _FLAT))
    hashes, least = pictures.hashes[rows], HASH_BITS - 2 * threshold
    if len(rows) <= _ALL_PAIRS:
        found = list(_block_pairs(_signs(hashes), least))
    else:
        found = list(_quarter_pairs(hashes, least))
    return rows[np.concatenate(found)] if found else np.zeros((0, 2), dtype=np.intp)


def _signs(hashes: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Bits as -1 and 1: the product of two hashes is 64 minus twice their distance."""
    return np.where(hashes, 1, -1).astype(np.float32)


def _quarter_pairs(hashes: NDArray[np.bool_], least: int) -> Iterator[NDArray[np.intp]]:
    """Close pairs that agree in all bits of a quarter of the hash, each pair once."""
    quarters = np.packbits(hashes, axis=1).view(np.uint16)
    for place, keys in enumerate(quarters.T):
        order = np.argsort(keys, kind="stable")
        breaks = np.flatnonzero(np.diff(keys[order])) + 1
        for rows in np.split(order, breaks):
            if len(rows) < 2:
                continue
            for pairs in _block_pairs(_signs(hashes[rows]), least):
                found = rows[pairs]
                before = quarters[found[:, 0], :place] == quarters[found[:, 1], :place]
                yield found[~before.any(axis=1)]


def _block_pairs(signs: NDArray[np.float32], least: int) -> Iterator[NDArray[np.intp]]:
    for start in range(0, len(signs), _BLOCK):
        block = signs[start : start + _BLOCK] @ signs[start:].T
        a, b = np.nonzero(block >= least - 0.5)
        upper = a < b
        yield np.column_stack([a[upper], b[upper]]) + start


def _detail(thumbnails: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit vectors of the thumbnails without their local mean; zero where there is no detail."""
    fine = thumbnails - uniform_filter(thumbnails, (0, _DETAIL, _DETAIL))
    fine = fine.reshape(len(fine), -1)
    return _unit(fine - fine.mean(axis=1, keepdims=True), least=_FLAT)


def _unit(rows: NDArray, least: float = 0.0) -> NDArray[np.float32]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > least).astype(np.float32)


def _verified(
    pairs: NDArray[np.intp], pictures: Pictures, vectors: NDArray[np.floating] | None
) -> NDArray[np.intp]:
    similarity, cosine = _alike(pairs, pictures, vectors)
    is_same = similarity >= MIN_SIMILARITY
    is_same |= (similarity >= _ALIKE_SIMILARITY) & (cosine >= _ALIKE_COSINE)
    return pairs[is_same]


def _alike(
    pairs: NDArray[np.intp], pictures: Pictures | None, vectors: NDArray[np.floating] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Correlation of the fine detail, and cosine of the activations, of each pair; or NaN."""
    similarity, cosine = np.full((2, len(pairs)), np.nan, dtype=np.float32)
    for start in range(0, len(pairs), 10 * _BLOCK):
        part = slice(start, start + 10 * _BLOCK)
        rows, place = np.unique(pairs[part], return_inverse=True)
        a, b = place.reshape(-1, 2).T
        if pictures is not None:
            detail = _detail(pictures.thumbnails[rows])
            similarity[part] = np.einsum("ij,ij->i", detail[a], detail[b])
        if vectors is not None:
            unit = _unit(double_rows(vectors, rows))
            cosine[part] = np.einsum("ij,ij->i", unit[a], unit[b])
    return similarity, cosine


def _distances(
    pictures: Pictures | None, a: NDArray[np.intp], b: NDArray[np.intp]
) -> NDArray[np.float64]:
    if pictures is None:
        return np.full(len(a), np.nan)
    bits = (pictures.hashes[a] != pictures.hashes[b]).sum(axis=1).astype(np.float64)
    bits[~(pictures.readable[a] & pictures.readable[b])] = np.nan
    return bits
