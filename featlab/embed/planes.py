"""The images on a plane: by principal components, and by t-SNE."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from featlab.arguments import check_between, finite_matrix, stratified_rows
from featlab.errors import FeatlabError
from featlab.features import component_scores, principal_components
from featlab.results.images import Embedding
from featlab.system.machine import double_rows

Floats = NDArray[np.float64]

LEAST_IMAGES = 5
"""Fewer images than this are refused."""
_COMPONENTS = 50
_FEW_IMAGES = 2000
_USUAL_PERPLEXITY = 30.0
MOST_IMAGES = 5_000
"""Of more images than this a random choice is laid out: more dots than a plane shows."""
_TRUST_NEIGHBOURS = 10
_TRUST_IMAGES = 3000
_CELLS = (4, 14)
# 0.5 and 1,000 with scikit-learn's own rate show the same in three times the time (docs/scale.md).
_ANGLE, _STEPS, _LEAST_RATE, _EXAGGERATION = 0.8, 500, 50.0, 12.0


def embed_images(
    X: pd.DataFrame | ArrayLike, *, perplexity: float | None = None, random_state: int = 0
) -> Embedding:
    """Lay the images on a plane by PCA, and by t-SNE of their principal components.

    The features are centred but not standardised: pooled activations share a unit, and dividing
    each neuron by its spread would blow up the hundreds that nearly never fire until they drown
    the rest. t-SNE sees at most 50 principal components, starts from the first two, and has a
    learning rate of a twelfth of the images, at least 50.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features, finite; at least five images. Constant features do no harm.
    perplexity : float, optional
        Effective number of neighbours of an image, at least 1 and below n. By default 30, and
        with less than 91 images (n - 1) / 3: t-SNE looks at three times as many neighbours, and
        there are no more.
    random_state : int
        Seed.

    Returns
    -------
    Embedding

    Raises
    ------
    FeatlabError
        Fewer than five images, NaN or infinite features, images that are all alike, a perplexity
        out of range.

    Notes
    -----
    Of more than 5,000 images a random 5,000 are laid out. Their principal components are still
    those of all images, exactly.

    Distances between far groups, and sizes of groups, mean nothing on a t-SNE plane; who lies
    beside whom does, as far as the trustworthiness goes. It is measured in the original space, over
    10 neighbours (fewer with less than 21 images), on at most 3,000 images drawn at random.

    References
    ----------
    van der Maaten & Hinton (2008). Visualizing data using t-SNE. Journal of Machine Learning
    Research 9, 2579-2605.
    Kobak & Berens (2019). The art of using t-SNE for single-cell transcriptomics. Nature
    Communications 10, 5416 (PCA first, and as the start).
    Venna & Kaski (2001). Neighborhood preservation in nonlinear projection methods. ICANN 2001,
    485-491 (trustworthiness).
    """
    values = finite_matrix(X)
    rows = stratified_rows(np.zeros(len(values)), MOST_IMAGES, random_state)
    return lay_out(values, rows, perplexity=perplexity, random_state=random_state)


def lay_out(
    values: NDArray[np.floating],
    rows: NDArray[np.intp],
    *,
    perplexity: float | None = None,
    random_state: int = 0,
) -> Embedding:
    """As :func:`embed_images`, of some rows of checked features."""
    n = len(rows)
    if n < LEAST_IMAGES:
        raise FeatlabError(f"X must hold at least {LEAST_IMAGES} images to embed, got {n}.")
    if (values.min(axis=0) == values.max(axis=0)).all():
        raise FeatlabError(f"The {n} images of X are all alike; there is nothing to lay out.")
    scale = _perplexity(n, perplexity)
    scores, shares = _principal_components(values, rows)
    plane = _tsne(scores, scale, random_state)
    k = min(_TRUST_NEIGHBOURS, (n - 1) // 2)
    some = _sample(n, random_state)
    original = double_rows(values, rows[some])
    coordinates = pd.DataFrame(
        np.hstack([scores[:, :2], plane]),
        index=pd.RangeIndex(n) if n == len(values) else rows,
        columns=["pc1", "pc2", "tsne_1", "tsne_2"],
    )
    thumbnails, cell_side = _thumbnails(plane, rows)
    return Embedding(
        coordinates=coordinates,
        explained_variance=shares,
        perplexity=scale,
        trustworthiness={
            "tsne": _trustworthiness(original, plane[some], k),
            "pca": _trustworthiness(original, scores[some, :2], k),
        },
        n_neighbors=k,
        thumbnails=thumbnails,
        cell_side=cell_side,
        parameters={
            "n": len(values),
            "laid_out": n,
            "features": values.shape[1],
            "components": len(shares),
            "standardised": False,
            "perplexity": scale,
            "init": "pca",
            "learning_rate": _rate(n),
            "angle": _ANGLE,
            "max_iter": _STEPS,
            "trustworthiness_images": len(some),
            "random_state": random_state,
        },
    )


def _perplexity(n: int, asked: float | None) -> float:
    if asked is None:
        return min(_USUAL_PERPLEXITY, (n - 1) / 3)
    check_between("perplexity", asked, 1, n, without=[n])
    return float(asked)


def _principal_components(
    values: NDArray[np.floating], rows: NDArray[np.intp]
) -> tuple[Floats, Floats]:
    """Scores ``(m, max(k, 2))`` of some rows, and the k components' shares of the variance."""
    k = min(_COMPONENTS, len(values) - 1, values.shape[1])
    components = principal_components(values, k)
    # Of a single feature there is no second component; its plane is a line.
    scores = np.pad(component_scores(components, values, rows), ((0, 0), (0, max(0, 2 - k))))
    return scores, components.shares


def _tsne(scores: Floats, perplexity: float, random_state: int) -> Floats:
    from sklearn.manifold import TSNE

    model = TSNE(
        2, perplexity=perplexity, init="pca", learning_rate=_rate(len(scores)), angle=_ANGLE,
        early_exaggeration=_EXAGGERATION, max_iter=_STEPS, random_state=random_state,
    )  # fmt: skip
    # Threads of OpenMP wait for each other in thousands of short loops: on a busy machine a small
    # set took ten times as long with two of them as with one.
    limit = 1 if len(scores) < _FEW_IMAGES else None
    with threadpool_limits(limit, user_api="openmp"):
        return np.asarray(model.fit_transform(scores), dtype=np.float64)


def _rate(n: int) -> float:
    """Four times scikit-learn's of many images: two thirds of its steps lead as far."""
    return max(n / _EXAGGERATION, _LEAST_RATE)


def _sample(n: int, random_state: int) -> NDArray[np.intp]:
    """Rows that the trustworthiness is measured on; it takes n x n distances."""
    if n <= _TRUST_IMAGES:
        return np.arange(n)
    return np.sort(np.random.default_rng(random_state).choice(n, _TRUST_IMAGES, replace=False))


def _trustworthiness(values: Floats, plane: Floats, k: int) -> float:
    from sklearn.manifold import trustworthiness

    return float(trustworthiness(values, plane, n_neighbors=k))


def _thumbnails(plane: Floats, rows: NDArray[np.intp]) -> tuple[pd.DataFrame, float]:
    """One image per cell of a grid over the plane, the nearest to its centre; a cell's side."""
    low, span = plane.min(axis=0), np.ptp(plane, axis=0)
    cells = int(np.clip(round(1.2 * np.sqrt(len(plane))), *_CELLS))
    side = float(span.max()) / cells if span.max() > 0 else 1.0
    # The narrower direction has fewer cells, laid around its middle.
    counts = np.maximum(np.ceil(span / side - 1e-9), 1).astype(np.int64)
    start = low + (span - counts * side) / 2
    place = np.clip(((plane - start) // side).astype(np.int64), 0, counts - 1)
    centre = start + (place + 0.5) * side
    table = pd.DataFrame(
        {
            "row": rows,
            "x": centre[:, 0],
            "y": centre[:, 1],
            "cell": place[:, 0] * counts[1] + place[:, 1],
            "off": np.hypot(*(plane - centre).T),
        }
    )
    nearest = table.sort_values(["off", "row"]).drop_duplicates("cell").sort_values("row")
    return nearest[["row", "x", "y"]].reset_index(drop=True), side


FEWEST_CLUSTERED = 20
"""Fewer images than this are not clustered."""
_MOST_CLUSTERS, _PER_CLUSTER = 20, 5  # clusters tried; images there are for each of them
_SILHOUETTE_IMAGES = 3000


def cluster_images(
    X: pd.DataFrame | ArrayLike, *, random_state: int = 0
) -> tuple[NDArray[np.intp], Floats, pd.DataFrame]:
    """Groups of images that the network sees alike, for a set without labels.

    k-means of the images' unit vectors (images are alike by the angle of their features) on at
    most 50 principal components. The number of clusters is the one, of 2 to 20 and at most a fifth
    of the images, with the largest mean silhouette (of a random 3,000 images); the fewer where two
    are equal. It is a description: a set without clusters is cut up all the same.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features, finite; at least 20 images.
    random_state : int

    Returns
    -------
    codes : ndarray of int, shape (n,)
        0 is the largest cluster.
    distance : ndarray of shape (n,)
        To the centre of the image's cluster.
    choice : DataFrame
        ``clusters, silhouette`` for each number that was tried.

    Raises
    ------
    FeatlabError
        Fewer than 20 images, NaN or infinite features, images that are all alike.

    References
    ----------
    Rousseeuw (1987). Silhouettes: a graphical aid to the interpretation and validation of cluster
    analysis. Journal of Computational and Applied Mathematics 20, 53-65.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    values = finite_matrix(X)
    n = len(values)
    if n < FEWEST_CLUSTERED:
        raise FeatlabError(f"X must hold at least {FEWEST_CLUSTERED} images to cluster, got {n}.")
    if (values.min(axis=0) == values.max(axis=0)).all():
        raise FeatlabError(f"The {n} images of X are all alike; there is nothing to cluster.")
    length = np.linalg.norm(values, axis=1, keepdims=True)
    units = (values / np.maximum(length, 1e-12)).astype(np.float64)
    scores, _ = _principal_components(units, np.arange(n))
    some = np.sort(np.random.default_rng(random_state).permutation(n)[:_SILHOUETTE_IMAGES])
    tried = []
    for k in range(2, min(_MOST_CLUSTERS, n // _PER_CLUSTER) + 1):
        model = KMeans(k, n_init=5, random_state=random_state).fit(scores)
        if len(set(model.labels_[some])) < 2:
            continue
        value = float(silhouette_score(scores[some], model.labels_[some]))
        tried.append((k, value, model))
    if not tried:
        raise FeatlabError(f"The {n} images of X are too alike to be clustered.")
    _, _, best = max(tried, key=lambda one: (round(one[1], 6), -one[0]))
    order = np.argsort(-np.bincount(best.labels_, minlength=best.n_clusters), kind="stable")
    codes = np.argsort(order)[best.labels_]
    distance = np.linalg.norm(scores - best.cluster_centers_[best.labels_], axis=1)
    choice = pd.DataFrame([(k, value) for k, value, _ in tried], columns=["clusters", "silhouette"])
    return codes, distance, choice
