"""Copies: pictures that are there twice, byte for byte, or cropped, mirrored, brightened, turned.

A copy of a picture is the same picture after an affine transformation and a change of light. So
each image is laid on the few images whose features are nearest (they hardly change when a picture
is cropped or mirrored), by the affine transformation that fits best, and the fine detail of both is
compared cell by cell. Other photos of one scene, and surfaces of one shading, do not fit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from featlab.arguments import check_same_rows, split_sides
from featlab.features import component_scores, feature_table, principal_components
from featlab.store import MapStore
from featlab.system.scratch import double_rows

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

# Each is measured by benchmarks/copies.py, on copies that are known and on sets without any.
NEIGHBOURS, LEAST_COSINE = 8, 0.5
"""Images on which each is laid: those of the nearest features, where they are as near as that."""
MIN_SIMILARITY = 0.75
"""Least correlation of the fine detail in 85 % of the cells."""

_COMPONENTS, _IMAGES_PER_COMPONENT = 128, 8  # what neighbours are sought on
_DETAIL, _FINE = 4.0, 2.0  # pixels (σ): what is coarser does not count in the fit, the comparison
_LEVELS, _STEPS = (4, 2, 1), (10, 5, 4)  # thumbnails are shrunk by; steps of the fit there
_LEAST_COARSE = 0.5  # correlation of the smallest thumbnails; the rest is not looked at closely
_CELLS = 6  # along each side
_WORST = 0.15  # share of the cells that may agree less: a caption, a watermark
_LEAST_CELLS = 9  # with detail, inside both pictures: a quarter of all
_LEAST_DETAIL = 1.25  # grey levels of 255 (standard deviation): less is rounding
_SCALES = (0.6, 1.7)  # a copy shows at least 60 % of each side
_BLOCK = 512


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
    1. Neighbours: the 8 nearest of each image, by the cosine of up to 128 whitened principal
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
    images = store.images
    n = len(images)
    check_same_rows(images=images, split=split)
    sides = np.full(n, "") if split is None else split_sides(split, n)
    exact = _equal_pairs(_column(images, "sha256"))
    known = set(map(tuple, exact.tolist()))
    X, thumbnails = feature_table(store).to_numpy(), store.thumbnails
    fits = pd.DataFrame(columns=["row_a", "row_b", "similarity", "overlap", "mirrored"])
    if thumbnails is not None:
        near = neighbour_pairs(X)
        near = near[[tuple(pair) not in known for pair in near.tolist()]]
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

    Copies of images of a group join that group. Where the image table has a split of its own, its
    groups are left as they are: what such a split tears apart is for the audit to say.

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
    if not len(pairs) or (_column(images, "split") != "").any():
        return store
    return store.regrouped(joined_groups(_column(images, "group"), pairs))


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


def copy_names(pairs: pd.DataFrame, n: int) -> NDArray[np.str_]:
    """The cluster of copies that every image is of, ``""`` where it has none."""
    return joined_groups(np.full(n, ""), pairs)


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
    pairs = [np.zeros((0, 2), dtype=np.intp)]
    for start in range(0, n if k > 0 else 0, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, n))
        cosine = unit[block] @ unit.T
        cosine[block - start, block] = -np.inf
        nearest = np.argpartition(cosine, n - k, axis=1)[:, n - k :]
        is_near = np.take_along_axis(cosine, nearest, axis=1) >= LEAST_COSINE
        own, _ = np.nonzero(is_near)
        pairs.append(np.column_stack([block[own], nearest[is_near]]))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


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


def fitted(thumbnails: NDArray[np.uint8], pairs: Rows) -> pd.DataFrame:
    """The second thumbnail of each pair laid on the first; those that fit coarsely.

    Parameters
    ----------
    thumbnails : ndarray of uint8, shape (n, 48, 48)
    pairs : ndarray of shape (m, 2)

    Returns
    -------
    DataFrame of at most m rows
        ``row_a, row_b, similarity, overlap, mirrored``, see :func:`duplicates`; the similarity is
        NaN where too little can be compared.
    """
    parts = [_fitted_part(thumbnails, part) for part in _parts(pairs)]
    return pd.concat(parts, ignore_index=True)


def _parts(pairs: Rows) -> Iterator[Rows]:
    for start in range(0, max(len(pairs), 1), _BLOCK):
        yield pairs[start : start + _BLOCK]


def _fitted_part(thumbnails: NDArray[np.uint8], pairs: Rows) -> pd.DataFrame:
    rows, place = np.unique(pairs, return_inverse=True)
    a, b = place.reshape(-1, 2).T
    small = thumbnails[rows]
    levels = [_detail(small, shrink, _DETAIL) for shrink in _LEVELS]
    moves, mirrored, coarse = _begun(levels[0], a, b)
    kept = np.flatnonzero(coarse >= _LEAST_COARSE)
    a, b, moves, mirrored = a[kept], b[kept], moves[kept], mirrored[kept]
    for level, steps in zip(levels[1:], _STEPS[1:], strict=True):
        moves = _settled(level[a], _turned(level[b], mirrored), moves, steps)
    fine = _detail(small, 1, _FINE)
    similarity, overlap = _compared(fine[a], _turned(fine[b], mirrored), moves)
    return pd.DataFrame(
        {
            "row_a": pairs[kept, 0],
            "row_b": pairs[kept, 1],
            "similarity": similarity,
            "overlap": overlap,
            "mirrored": mirrored,
        }
    )


def _detail(thumbnails: NDArray[np.uint8], shrink: int, coarse: float) -> Floats:
    """Thumbnails ``(k, s, s)``, shrunk, in grey levels, without their blurred selves."""
    k, side = len(thumbnails), thumbnails.shape[1] // shrink
    cells = thumbnails.reshape(k, side, shrink, side, shrink).astype(np.float32)
    small = cells.mean(axis=(2, 4))
    return small - gaussian_filter(small, (0, coarse, coarse))


def _begun(
    level: Floats, a: Rows, b: Rows
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.float32]]:
    """The better of mirrored and not: transformations, whether mirrored, and correlations."""
    fixed, still = level[a], np.tile(np.eye(2, 3, dtype=np.float32), (len(a), 1, 1))
    tried = []
    for mirror in (False, True):
        moving = _turned(level[b], np.full(len(b), mirror))
        moves = _settled(fixed, moving, still, _STEPS[0])
        tried.append((moves, _correlation(fixed, moving, moves)))
    (plain, first), (turned, second) = tried
    mirrored = second > first
    moves = np.where(mirrored[:, None, None], turned, plain)
    return moves, mirrored, np.maximum(first, second)


def _turned(pictures: Floats, mirrored: NDArray[np.bool_]) -> Floats:
    return np.where(mirrored[:, None, None], pictures[:, :, ::-1], pictures)


def _grid(side: int) -> Floats:
    """Centres of the pixels, (2, side * side): x and y from -1 to 1."""
    centres = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / side) - 1
    return np.stack(np.meshgrid(centres, centres)).reshape(2, -1)


def _moved(pictures: Floats, moves: Floats) -> tuple[Floats, Floats]:
    """Pictures as seen through transformations, and 1 where they are: both (k, side * side)."""
    k, side, _ = pictures.shape
    x, y = ((moves[:, :, :2] @ _grid(side) + moves[:, :, 2:] + 1) * (side / 2) - 0.5).swapaxes(0, 1)
    inside = (x >= 0) & (x <= side - 1) & (y >= 0) & (y <= side - 1)
    x, y = np.clip(x, 0, side - 1.001), np.clip(y, 0, side - 1.001)
    left, top = x.astype(np.int32), y.astype(np.int32)
    x, y = x - left, y - top
    place = np.arange(k, dtype=np.int32)[:, None] * side**2 + top * side + left
    flat = pictures.reshape(-1)
    above = flat[place] * (1 - x) + flat[place + 1] * x
    below = flat[place + side] * (1 - x) + flat[place + side + 1] * x
    return above * (1 - y) + below * y, inside.astype(np.float32)


def _scaled(values: Floats, weights: Floats) -> Floats:
    """Values of weighted mean 0 and variance 1, 0 where they do not count."""
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    centred = (values - (values * weights).sum(axis=1, keepdims=True) / total) * weights
    spread = np.sqrt((centred**2).sum(axis=1, keepdims=True) / total)
    return centred / np.maximum(spread, np.float32(1e-6))


def _settled(fixed: Floats, moving: Floats, moves: Floats, steps: int) -> Floats:
    """Transformations after some steps towards the least squared difference of detail.

    Inverse compositional: the gradients are those of the fixed picture, and the inverse of each
    step is put before the transformation. Both pictures are scaled to one variance, so that a
    change of light does not count.
    """
    k, side, _ = fixed.shape
    flat = fixed.reshape(k, -1)
    down, across = (g.reshape(k, -1) * (side / 2) for g in np.gradient(fixed, axis=(1, 2)))
    x, y = _grid(side)
    slopes = np.stack([across * x, across * y, across, down * x, down * y, down], axis=1)
    for _ in range(steps):
        seen, inside = _moved(moving, moves)
        spread = np.sqrt((flat**2 * inside).sum(axis=1) / np.maximum(inside.sum(axis=1), 1))
        scale = np.maximum(spread, np.float32(1e-6))[:, None]
        error = _scaled(seen, inside) - _scaled(flat, inside)
        weighted = slopes / scale[:, :, None] * inside[:, None]
        normal = weighted @ weighted.swapaxes(1, 2)
        damping = 1e-3 * np.trace(normal, axis1=1, axis2=2)[:, None, None] / 6 + 1e-6
        toward = weighted @ error[:, :, None]
        step = np.linalg.solve(normal + damping * np.eye(6, dtype=np.float32), toward)
        moves = _composed(moves, np.clip(step, -0.3, 0.3).reshape(k, 2, 3))
    return moves


def _composed(moves: Floats, step: Floats) -> Floats:
    """The transformations after the inverse of a small one."""
    last = np.tile(np.float32([[[0, 0, 1]]]), (len(moves), 1, 1))
    inverse = np.linalg.inv(np.concatenate([step, last], axis=1) + np.diag(np.float32([1, 1, 0])))
    return (np.concatenate([moves, last], axis=1) @ inverse)[:, :2].astype(np.float32)


def _correlation(fixed: Floats, moving: Floats, moves: Floats) -> NDArray[np.float32]:
    """Of the whole of what both show; -1 where that is not plausible for a copy."""
    seen, inside = _moved(moving, moves)
    flat, total = fixed.reshape(len(fixed), -1), inside.sum(axis=1)
    correlation = (_scaled(flat, inside) * _scaled(seen, inside)).sum(axis=1) / np.maximum(total, 1)
    return np.where(_is_plausible(moves, inside), correlation, -1)


def _is_plausible(moves: Floats, inside: Floats) -> NDArray[np.bool_]:
    scales = np.linalg.svd(moves[:, :, :2], compute_uv=False)
    is_zoom = (scales.max(axis=1) <= _SCALES[1]) & (scales.min(axis=1) >= _SCALES[0])
    return is_zoom & (inside.mean(axis=1) >= _LEAST_CELLS / _CELLS**2)


def _compared(fixed: Floats, moving: Floats, moves: Floats) -> tuple[Floats, Floats]:
    """Correlation that 85 % of the cells reach, or NaN; and the share overlapped."""
    seen, inside = _moved(moving, moves)
    k, size = len(fixed), fixed.shape[1] // _CELLS
    a, b, weights = (
        part.reshape(k, _CELLS, size, _CELLS, size).swapaxes(2, 3).reshape(-1, size**2)
        for part in (fixed, seen, inside)
    )
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    a, b = ((p - (p * weights).sum(axis=1, keepdims=True) / total) * weights for p in (a, b))
    spread_a, spread_b = (np.sqrt((p**2).sum(axis=1) / total[:, 0]) for p in (a, b))
    correlation = (a * b).sum(axis=1) / total[:, 0] / np.maximum(spread_a * spread_b, 1e-6)
    counts = weights.mean(axis=1) > 0.6
    counts &= np.maximum(spread_a, spread_b) >= _LEAST_DETAIL
    enough = counts.reshape(k, -1).sum(axis=1) >= _LEAST_CELLS
    enough &= _is_plausible(moves, inside)
    # Cells that do not count come last.
    order = np.sort(np.where(counts, correlation, np.inf).reshape(k, -1), axis=1)
    place = (_WORST * counts.reshape(k, -1).sum(axis=1)).astype(np.intp)
    reached = np.take_along_axis(order, place[:, None].clip(max=_CELLS**2 - 1), axis=1)[:, 0]
    return np.where(enough, reached, np.nan), inside.mean(axis=1)


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
