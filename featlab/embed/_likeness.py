"""How alike networks see the same images: linear CKA and RSA, beside shuffled images."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import check_same_rows, check_whole, finite_matrix, group_codes
from featlab.errors import FeatlabError
from featlab.results.pictures import LIKENESS_COLUMNS

_FEWEST = 10


def likeness(
    tables: Mapping[str, pd.DataFrame],
    *,
    groups: ArrayLike | None = None,
    most: int = 1000,
    n_shuffles: int = 200,
    random_state: int = 0,
) -> pd.DataFrame:
    """How alike the images lie to each other in several feature tables, pair by pair.

    Both measures ask which images are near which, and are the same however the neurons are turned
    or ordered: *linear CKA* by the inner products of the centred features (Kornblith et al. 2019,
    here without the bias that makes wide layers of few images look alike: Song et al. 2012;
    Murphy et al. 2024), *RSA* by Spearman's correlation of the images' distances, 1 less Pearson's
    correlation of their features (Kriegeskorte et al. 2008).

    Parameters
    ----------
    tables : mapping of str to DataFrame
        At least two tables with the same n rows: images × neurons, as of `features.feature_table`.
    groups : array-like of shape (n,), optional
        Of each group one image is drawn, since images of a group lie together in any network; ""
        is no group.
    most : int
        Images that are compared, at most; more are drawn. Memory grows with its square.
    n_shuffles : int
        How often the images of one side are shuffled, for what no likeness looks like.
    random_state : int
        Seed of drawing and shuffling.

    Returns
    -------
    DataFrame, one row per pair of tables
        ``a``, ``b``; ``n`` images; ``cka`` (at most 1; around 0 where nothing is alike) and ``rsa``
        (-1 to 1); the 95th percentile of each over the shuffles, ``cka_shuffled`` and
        ``rsa_shuffled``; and p, one-sided: the share of (shuffles + 1) that reach the value. NaN
        where fewer than 10 images, of different groups, differ within each of the tables.

    Raises
    ------
    FeatlabError
        Fewer than two tables, rows that do not match, values that are not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(50, 8))
    >>> turned = X @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
    >>> pairs = likeness({"x": pd.DataFrame(X), "turned": pd.DataFrame(turned)})
    >>> pairs["cka"].round(6).tolist()
    [1.0]
    """
    if len(tables) < 2:
        raise FeatlabError(f"likeness needs at least two tables, got {len(tables)}.")
    check_same_rows(**{f"tables[{name!r}]": table for name, table in tables.items()}, groups=groups)
    check_whole("n_shuffles", n_shuffles, 1)
    check_whole("most", most, _FEWEST)
    rng = np.random.default_rng(random_state)
    n = len(next(iter(tables.values())))
    rows = _drawn(n, groups, most, rng)
    drawn = {name: finite_matrix(table.iloc[rows], name) for name, table in tables.items()}
    # An image in which all neurons are equal has no correlation with another.
    varied = np.all([X.max(axis=1) > X.min(axis=1) for X in drawn.values()], axis=0)
    units = [X[varied] for X in drawn.values()]
    n = len(units[0])
    if n < _FEWEST:
        few = [(a, b, n, *[np.nan] * 6) for a, b in combinations(tables, 2)]
        return pd.DataFrame(few, columns=LIKENESS_COLUMNS)
    orders = [np.arange(n), *(rng.permutation(n) for _ in range(n_shuffles))]
    cosines = {
        "cka": _cosines([_centred_products(X) for X in units], orders),
        "rsa": _cosines([_ranked_distances(X) for X in units], orders),
    }
    pairs = []
    for (i, a), (j, b) in combinations(enumerate(tables), 2):
        row: dict[str, object] = {"a": a, "b": b, "n": n}
        for measure, values in cosines.items():
            value, shuffled = values[0, i, j], values[1:, i, j]
            reached = np.nan if np.isnan(value) else 1 + (shuffled >= value).sum()
            row[measure] = float(value)
            row[f"{measure}_shuffled"] = float(np.quantile(shuffled, 0.95))
            row[f"{measure}_p"] = float(reached / (1 + n_shuffles))
        pairs.append(row)
    return pd.DataFrame(pairs, columns=LIKENESS_COLUMNS)


def _drawn(
    n: int, groups: ArrayLike | None, most: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """At most so many rows, each of another group."""
    order = rng.permutation(n)
    _, firsts = np.unique(group_codes(groups, n)[order], return_index=True)
    return np.sort(order[np.sort(firsts)][:most])


def _centred_products(X: NDArray[np.floating]) -> NDArray[np.float64]:
    """Inner products of the images, U-centred (Szekely & Rizzo 2014), with a diagonal of 0.

    The sum of products of two such matrices is the unbiased estimate of HSIC (Song et al. 2012,
    formula 5) but for a factor that both parts of CKA share.
    """
    X = X - X.mean(axis=0, dtype=np.float64)
    K, n = X @ X.T, len(X)
    np.fill_diagonal(K, 0)
    means = K.sum(axis=0) / (n - 2)
    K -= means[:, None] + means - K.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(K, 0)
    return K


def _ranked_distances(X: NDArray[np.floating]) -> NDArray[np.float64]:
    """Ranks of the pairs of images by 1 - Pearson's correlation, less their mean."""
    from scipy.stats import rankdata

    upper = np.triu_indices(len(X), 1)
    ranks = rankdata(1 - np.corrcoef(X)[upper])
    distances = np.zeros((len(X), len(X)))
    distances[upper] = ranks - ranks.mean()
    return distances + distances.T


def _cosines(
    matrices: list[NDArray[np.float64]], orders: list[NDArray[np.intp]]
) -> NDArray[np.float64]:
    """(orders, k, k): of each two matrices of pairs, the images of the second in another order."""
    sizes = [np.linalg.norm(matrix) for matrix in matrices]
    cosines = np.full((len(orders), len(matrices), len(matrices)), np.nan)
    for j, second in enumerate(matrices[1:], start=1):
        for k, order in enumerate(orders):
            # Shuffled once for all that it is compared with: this takes most of the time.
            shuffled = second.take(order, 0).take(order, 1)
            for i in range(j):
                if size := sizes[i] * sizes[j]:
                    cosines[k, i, j] = np.vdot(matrices[i], shuffled) / size
    return cosines
