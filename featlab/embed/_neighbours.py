"""Who is most like whom, by the cosine of the features in the original space; and the overview."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import (
    check_columns,
    check_same_rows,
    check_whole,
    class_codes,
    finite_matrix,
    row_numbers,
    stratified_rows,
    text_labels,
)
from featlab.embed.planes import MOST_IMAGES, Floats, lay_out
from featlab.errors import FeatlabError
from featlab.results.images import Overview, Separation
from featlab.system.machine import CACHED, double_rows, pieces

_BLOCK = 512  # rows whose distances to all others are held at once
_NEIGHBOURS = 10
_MEGABYTES = 128  # of distances that scikit-learn holds at once
_UNSURE = 1e-3  # more than cosines in single precision err by, of 8,000 columns at the worst
_MANY = 0.05  # share of pairs to look at closely from which it is quicker to look at all
_MOST_CANDIDATES = 4000  # images whose likenesses to each other are held at once
_DECIMALS = 12  # distances that agree so far are equal; then the earlier row comes first


def nearest_neighbours(
    X: pd.DataFrame | ArrayLike,
    rows: int | ArrayLike | None,
    k: int = 10,
    *,
    y: ArrayLike | None = None,
) -> pd.DataFrame:
    """The images most like some images.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features.
    rows : int, array_like of int, boolean mask, or None
        The images asked about; None is all.
    k : int
        Neighbours of each, from 1 to n - 1.
    y : array_like of shape (n,), optional
        Labels.

    Returns
    -------
    DataFrame, k rows per image
        ``row``, ``rank`` (from 1), ``neighbour`` (row number), ``distance`` (1 - cosine: 0 to 1
        for activations that are never negative, up to 2 otherwise); with labels also ``label``,
        ``neighbour_label`` and ``same_label``. Equal distances are in the order of the rows.

    Raises
    ------
    FeatlabError
        Rows or k out of range, NaN features, labels of another length.

    Notes
    -----
    An image is not its own neighbour; a copy of it is, at distance 0. A vector of zeros is at
    distance 1 from everything.
    """
    values = finite_matrix(X)
    check_same_rows(X=X, y=y)
    asked = row_numbers(rows, X)
    check_whole("k", k, 1, len(values) - 1)
    near, distance = _nearest(values, asked, k)
    table = pd.DataFrame(
        {
            "row": np.repeat(asked, k),
            "rank": np.tile(np.arange(1, k + 1), len(asked)),
            "neighbour": near.ravel(),
            "distance": distance.ravel(),
        }
    )
    if y is None:
        return table
    names = text_labels(y, len(values))
    own, other = names[table["row"]], names[table["neighbour"]]
    return table.assign(label=own, neighbour_label=other, same_label=own == other)


def representatives(
    X: pd.DataFrame | ArrayLike,
    most: int,
    *,
    rows: ArrayLike | None = None,
    given: ArrayLike = (),
    random_state: int = 0,
) -> pd.DataFrame:
    """Images that stand for all others: typical first, then whatever is least like those before.

    Each next image is the one that adds most to how like an image is, on average, to the most like
    it among those chosen (greedy facility location [1]_): an image is worth much that many others
    are like, and little where they have one like it already.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features.
    most : int
        Images to choose, at least 1.
    rows : array_like of int, or mask of shape (n,), optional
        The images to stand for; all by default. Of more than 4,000 a random 4,000.
    given : array_like of int, or mask of shape (n,)
        Of these images those that are chosen already; they are not chosen again.
    random_state : int
        Seed of that sample.

    Returns
    -------
    DataFrame, one row per image chosen, the best first
        ``row``; ``gain`` (of the mean likeness, 0 to 1); ``likeness`` (to the most like of those
        before and of `given`; 0 for the first); ``stands_for`` (the images, itself among them, that
        are more like it than like any other of those chosen or given). Likeness is the cosine of
        the features less their mean, 0 where it is negative.

    Raises
    ------
    FeatlabError
        `most` is no whole number from 1 up; rows that do not exist, or are all given; NaN features.

    References
    ----------
    .. [1] Nemhauser, Wolsey & Fisher (1978). An analysis of approximations for maximizing
       submodular set functions. Mathematical Programming 14, 265-294.
    """
    check_whole("most", most, 1)
    values, numbers = finite_matrix(X), np.unique(row_numbers(rows, X))
    taken = np.intersect1d(row_numbers(given, X), numbers)
    free = np.setdiff1d(numbers, taken)
    rng = np.random.default_rng(random_state)
    taken, free = (np.sort(rng.permutation(some)[:_MOST_CANDIDATES]) for some in (taken, free))
    own = np.concatenate([free, taken])
    unit = double_rows(values, own)
    unit = _unit_vectors(unit - unit.mean(axis=0)).astype(np.float32)
    like = np.maximum(unit @ unit[: len(free)].T, 0)
    cover = np.maximum(unit @ unit[len(free) :].T, 0).max(axis=1, initial=0)
    if not len(free):
        raise FeatlabError("given holds all of rows; there is no image left to choose.")
    picks: list[int] = []
    steps = []
    for _ in range(min(most, len(free))):
        gains = np.maximum(like - cover[:, None], 0).mean(axis=0)
        gains[picks] = -1
        best = int(gains.argmax())
        steps.append({"row": free[best], "gain": gains[best], "likeness": cover[best]})
        picks.append(best)
        cover = np.maximum(cover, like[:, best])
    table = pd.DataFrame(steps, columns=["row", "gain", "likeness"])
    # An image belongs to the first of those chosen that it is most like; to none that was given.
    nearest = like[: len(free), picks]
    own_one = nearest.max(axis=1, initial=0) >= cover[: len(free)]
    counts = np.bincount(nearest.argmax(axis=1)[own_one], minlength=len(picks))
    return table.assign(stands_for=counts)


def misclassified(
    X: pd.DataFrame | ArrayLike,
    y: ArrayLike,
    predictions: pd.DataFrame,
    k: int = 10,
    *,
    neighbours: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Where the images lie that a head gets wrong: what their nearest neighbours are.

    An image among its own class was near the border or is odd in another way; one deep in the
    class that it was taken for may carry a wrong label.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features of all images.
    y : array_like of shape (n,)
        Labels.
    predictions : DataFrame
        ``row, label, predicted`` of one head (``HeadResults.of``), and perhaps
        ``probability``.
    k : int
        Neighbours looked at, from 1 to n - 1.
    neighbours : DataFrame, optional
        The k of every image, of :func:`nearest_neighbours` with these labels, where they are known.

    Returns
    -------
    DataFrame, one row per misclassified image
        ``row, label, predicted``, ``probability`` where given, ``k``, ``share_true`` and
        ``share_predicted`` (of the k neighbours, those of either class, 0 to 1), ``nearest`` (row
        number) and ``nearest_label``; those deepest in the predicted class first. ``attrs`` holds
        ``share_true_correct``, the mean share of the true class around the images that are right
        (NaN where none is), and ``n``, the images predicted.

    Raises
    ------
    FeatlabError
        As :func:`nearest_neighbours`.
    """
    check_columns(
        "predictions", predictions, ("row", "label", "predicted"), "give HeadResults.of(head)"
    )
    asked = rows = predictions["row"].to_numpy(np.intp)
    if neighbours is None:
        neighbours, asked = nearest_neighbours(X, rows, k, y=y), np.arange(len(rows))
    near = neighbours["neighbour_label"].to_numpy(str).reshape(-1, k)[asked]
    true, predicted = (predictions[c].to_numpy(str) for c in ("label", "predicted"))
    columns = ["row", "label", "predicted"]
    columns += ["probability"] if "probability" in predictions else []
    share_true = (near == true[:, None]).mean(axis=1)
    table = predictions[columns].assign(
        k=k,
        share_true=share_true,
        share_predicted=(near == predicted[:, None]).mean(axis=1),
        nearest=neighbours["neighbour"].to_numpy().reshape(-1, k)[asked, 0],
        nearest_label=near[:, 0],
    )
    right = true == predicted
    table = table[~right].sort_values(
        ["share_predicted", "share_true", "row"], ascending=[False, True, True]
    )
    table = table.reset_index(drop=True)
    table.attrs.update(
        share_true_correct=float(share_true[right].mean()) if right.any() else float("nan"),
        n=len(right),
    )
    return table


def class_separation(
    X: pd.DataFrame | ArrayLike,
    y: ArrayLike,
    k: int = 10,
    *,
    neighbours: pd.DataFrame | None = None,
) -> Separation:
    """How far the classes lie apart in the original space; descriptive.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
    y : array_like of shape (n,)
        Labels of at least two classes.
    k : int
        Neighbours looked at, from 1 to n - 1.
    neighbours : DataFrame, optional
        The k of every image, of :func:`nearest_neighbours` with these labels, where they are known.

    Returns
    -------
    Separation

    Raises
    ------
    FeatlabError
        Fewer than two classes, and as :func:`nearest_neighbours`.

    Notes
    -----
    These numbers describe this set, copies and groups of like images included; they are no test,
    have no interval, and are not comparable between layers or networks of other widths. Whether the
    classes can be told apart on unseen images is what the heads answer.

    References
    ----------
    Rousseeuw (1987). Silhouettes: a graphical aid to the interpretation and validation of cluster
    analysis. Journal of Computational and Applied Mathematics 20, 53-65.
    """
    check_same_rows(X=X, y=y)
    values = finite_matrix(X)
    names = text_labels(y, len(values))
    codes, _ = class_codes(names, least=2)
    counts = np.bincount(codes)
    if neighbours is None:
        neighbours = nearest_neighbours(values, None, k, y=names)
    per_image = pd.DataFrame(
        {
            "class": names,
            "silhouette": _silhouettes(values, names),
            "neighbour_agreement": neighbours["same_label"].to_numpy().reshape(-1, k).mean(axis=1),
        }
    )
    table = per_image.groupby("class", sort=True).mean().reset_index()
    table.insert(1, "n", counts)
    table["chance"] = (counts - 1) / (len(names) - 1)
    columns = ["silhouette", "neighbour_agreement"]
    numbers: dict[str, Any] = {name: float(per_image[name].mean()) for name in columns}
    numbers |= {"k": k, "n": len(names)}
    table.attrs.update(numbers)
    return Separation(table=table, **numbers)


def _silhouettes(values: NDArray[np.floating], names: NDArray[np.object_]) -> Floats:
    from sklearn import config_context
    from sklearn.metrics import silhouette_samples

    if len(np.unique(names)) == len(names):  # each image its own class: 0, as for any such class
        return np.zeros(len(names))
    # On unit vectors half the squared distance is the cosine distance, zeros included.
    unit = _unit_vectors(values.astype(np.float64))
    with config_context(working_memory=_MEGABYTES):
        return np.asarray(silhouette_samples(unit, names, metric="cosine"))


def _unit_vectors(values: Floats) -> Floats:
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, length, out=np.zeros_like(values), where=length > 0)


def _nearest(
    values: NDArray[np.floating], rows: NDArray[np.intp], k: int
) -> tuple[NDArray[np.intp], Floats]:
    """Row numbers and distances of the k nearest, ``(len(rows), k)`` each.

    Cosines in single precision say who can be among them, those in double precision who is.
    """
    places = np.full((len(rows), k), len(values), dtype=np.intp)
    distances = np.full((len(rows), k), np.inf)
    for part in pieces(len(values), max(values.shape[1], _BLOCK)):
        others = _unit_vectors(double_rows(values, part))
        singles = others.astype(np.float32)
        for start in range(0, len(rows), _BLOCK):
            some = slice(start, start + _BLOCK)
            unit = _unit_vectors(double_rows(values, rows[some]))
            own = rows[some] - part.start
            here, there = _candidates(unit.astype(np.float32) @ singles.T, own, k)
            distance = _distances(unit, others, here, there)
            here = np.concatenate([np.repeat(np.arange(len(unit)), k), here])
            there = np.concatenate([places[some].ravel(), there + part.start])
            distance = np.concatenate([distances[some].ravel(), distance])
            # Of equal distances the earlier image comes first.
            order = np.lexsort((there, distance, here))
            first = np.searchsorted(here[order], np.arange(len(unit)))
            nearest = order[first[:, np.newaxis] + np.arange(k)]
            places[some], distances[some] = there[nearest], distance[nearest]
    return places, distances


def _candidates(
    cosines: NDArray[np.float32], own: NDArray[np.intp], k: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of an image and another that may be one of its k nearest; `own` is its own column."""
    n, m = cosines.shape
    itself = np.flatnonzero((own >= 0) & (own < m)), own[(own >= 0) & (own < m)]
    cosines[itself] = -np.inf
    least = np.partition(cosines, m - k, axis=1)[:, m - k] if k < m else np.full(n, -np.inf)
    near = cosines >= (least - _UNSURE)[:, np.newaxis]
    near[itself] = False
    here, there = np.nonzero(near)
    return here, there


def _distances(
    unit: Floats, others: Floats, here: NDArray[np.intp], there: NDArray[np.intp]
) -> Floats:
    """1 - cosine of some pairs."""
    if len(here) > _MANY * unit.shape[0] * others.shape[0]:  # copies of each other
        cosines = (unit @ others.T)[here, there]
    else:
        cosines = np.empty(len(here))
        for some in pieces(len(here), unit.shape[1], CACHED):
            cosines[some] = np.einsum("ij,ij->i", unit[here[some]], others[there[some]])
    return (1 - cosines).clip(0, 2).round(_DECIMALS)


def overview(
    X: pd.DataFrame | ArrayLike,
    y: ArrayLike,
    predictions: pd.DataFrame | None = None,
    *,
    random_state: int = 0,
) -> Overview:
    """Embedding, separation, neighbours and misclassified images of a set.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features; at least five images.
    y : array_like of shape (n,)
        Labels.
    predictions : DataFrame, optional
        ``row, label, predicted`` of one head.
    random_state : int
        Seed.

    Returns
    -------
    Overview
        With 10 neighbours of every image, or all others where there are fewer. Of more than 5,000
        images a random 5,000 stand for all, each class in its share but at least 50; row numbers
        stay those of `X`, and the components those of all images.
    """
    check_same_rows(X=X, y=y)
    values = finite_matrix(X)
    names = text_labels(y, len(values))
    rows = stratified_rows(names, MOST_IMAGES, random_state)
    embedding = lay_out(values, rows, random_state=random_state)
    k = min(_NEIGHBOURS, len(rows) - 1)
    part, names = (values, names) if len(rows) == len(values) else (values[rows], names[rows])
    neighbours = nearest_neighbours(part, None, k, y=names)
    wrong = None
    if predictions is not None:
        known = predictions[predictions["row"].isin(rows)]
        known = known.assign(row=np.searchsorted(rows, known["row"]))
        wrong = misclassified(part, names, known, k, neighbours=neighbours)
        wrong = _of_rows(wrong, rows)
    return Overview(
        embedding=embedding,
        separation=class_separation(part, names, k, neighbours=neighbours),
        neighbours=_of_rows(neighbours, rows),
        misclassified=wrong,
    )


def _of_rows(table: pd.DataFrame, rows: NDArray[np.intp]) -> pd.DataFrame:
    """With places among these rows turned back into row numbers."""
    places = [name for name in ("row", "neighbour", "nearest") if name in table]
    return table.assign(**{name: rows[table[name].to_numpy(np.intp)] for name in places})
