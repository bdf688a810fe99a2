"""Which neurons detect which class, and does it hold on other images.

Choose on the train rows (`rank_neurons`), judge the chosen ones on rows never used for choosing
(`confirm_neurons`): the largest of many effects is too large on the images it was chosen on. What
other rooms compute with ranks is in `rank_statistics`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, fdtrc

from featlab.arguments import (
    Features,
    check_choice,
    class_codes,
    feature_blocks,
    group_codes,
    group_names,
    has_groups,
)
from featlab.neurons._confirming import confirm_neurons, null_selection
from featlab.neurons._corrections import MULTIPLETESTS, adjust, check_correction
from featlab.neurons._detectors import (
    cluster_detectors,
    confirmation,
    ranked_images,
    select_neurons,
    softmax_top_k,
    to_anndata,
)
from featlab.neurons._ranking import rank_neurons
from featlab.neurons.rank_statistics import Floats, moments
from featlab.neurons.rank_statistics import rank_statistics as _rank_statistics
from featlab.neurons.rank_tests import LEAST_GROUPS, WHOLE, Draw, group_draws, scheme_of
from featlab.system.machine import pieces

__all__ = [
    "cluster_detectors",
    "compare_classes",
    "confirm_neurons",
    "confirmation",
    "null_selection",
    "rank_neurons",
    "ranked_images",
    "select_neurons",
    "softmax_top_k",
    "to_anndata",
]

OMNIBUS_TESTS = ("kruskal", "welch_anova")
_LEAST_OF_A_CLASS = 5

Compared = tuple[Floats, Floats, Floats, NDArray[np.intp]]
"""Statistic, p and effect of every column, and the code of its best class."""
Comparison = Callable[[NDArray, NDArray[np.intp], int], Compared]


def compare_classes(
    X: Features,
    y: ArrayLike,
    *,
    test: str = "kruskal",
    groups: ArrayLike | None = None,
    correction: str = "fdr_bh",
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Whether each neuron's activations differ between any of the classes.

    Parameters
    ----------
    X, y
        As in `rank_neurons`.
    test : {"kruskal", "welch_anova"}
        Kruskal and Wallis's H on ranks, corrected for ties; or Welch's F, which allows the
        classes their own variances [1]_.
    groups : array_like of shape (n,), optional
        Groups of images that are not independent; "" is no group. Then p is that of as many images
        of each group, as in `rank_neurons` (twice the mean p of several draws); none where a class
        has fewer than five groups, or where most groups hold several classes.
    correction : str
        A method of `statsmodels.stats.multitest.multipletests`, over all rows.
    alpha : float
        Bound of the corrected p-value, in (0, 1].

    Returns
    -------
    DataFrame, one row per (layer, pooling, neuron)
        layer, pooling, neuron, n (images), classes (number), statistic, p, p_adjusted, effect
        (the share of the ranks', or values', variance that lies between the classes: epsilon
        squared for Kruskal-Wallis, eta squared for Welch), best_class (of the highest mean rank,
        or mean), reject. NaN for a dead neuron, and for Welch where a class has one image or two
        classes that do not vary; no p where fewer than five images of the smallest class are to be
        expected outside the commonest value. Welch's p is never less than Kruskal and Wallis's.
        ``attrs`` repeats the parameters and ``n_tests``.

    Raises
    ------
    FeatlabError
        As for `rank_neurons`.

    References
    ----------
    .. [1] Welch (1951). On the comparison of several mean values: an alternative approach.
       Biometrika 38, 330-336.
    """
    check_choice("test", test, OMNIBUS_TESTS)
    check_correction(correction, alpha, MULTIPLETESTS)
    codes, classes = class_codes(y, least=2)
    blocks = feature_blocks(X, y, groups=groups)
    names = group_names(groups, len(codes))
    grouped = has_groups(group_codes(names, len(codes)))
    draws = _draws(codes, names) if grouped else []
    compare = _kruskal if test == "kruskal" else _welch_anova
    k, parts = len(classes), []
    for block in blocks:
        values = block.matrix
        statistic, p, effect, place = compare(values, codes, k)
        if grouped:
            p = _p_of_groups(values, draws, k, compare)
        alive = values.min(axis=0) < values.max(axis=0)
        parts.append(
            pd.DataFrame(
                {
                    "layer": block.layer,
                    "pooling": block.pooling,
                    "neuron": block.neurons,
                    "n": len(values),
                    "classes": k,
                    "statistic": np.where(alive, statistic, np.nan),
                    "p": np.where(alive, p, np.nan),
                    "effect": np.where(alive, effect, np.nan),
                    "best_class": classes[place],
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    table.insert(7, "p_adjusted", adjust(table["p"].to_numpy(), correction, alpha))
    table["reject"] = table["p_adjusted"] <= alpha
    table = table.sort_values(["layer", "pooling", "p", "neuron"], ignore_index=True)
    table.attrs = {
        "test": test,
        "correction": correction,
        "alpha": float(alpha),
        "n_tests": int(table["p"].notna().sum()),
    }
    return table


def _draws(codes: NDArray[np.intp], names: NDArray[np.str_]) -> list[Draw]:
    """Draws of whole groups, empty where a class has too few."""
    draws = group_draws(codes, names) if scheme_of(codes, names) == WHOLE else []
    fewest = min((np.bincount(of_unit).min() for _, of_unit in draws), default=0)
    return draws if fewest >= LEAST_GROUPS else []


def _p_of_groups(values: NDArray, draws: list[Draw], k: int, compare: Comparison) -> Floats:
    """P of the means of whole groups; NaN without a draw."""
    if not draws:
        return np.full(values.shape[1], np.nan)
    parts = []
    for part in pieces(values.shape[1], len(values)):
        some = values[:, part]
        each = np.stack(
            [compare(some[rows].mean(axis=1), of_unit, k)[1] for rows, of_unit in draws]
        )
        known = ~np.isnan(each).all(axis=0)
        # A draw without a p, as of a neuron that is constant in it, shows nothing.
        mean = np.nan_to_num(each, nan=1.0).mean(axis=0) * min(2, len(each))
        parts.append(np.where(known, np.minimum(mean, 1.0), np.nan))
    return np.concatenate(parts)


def _kruskal(values: NDArray, codes: NDArray[np.intp], k: int) -> Compared:
    ranks = _rank_statistics(values, codes, k)
    n, total = ranks.n, len(values)
    # Chi-square needs some images of each class besides those that share one value.
    enough = n.min() * (1 - (ranks.largest_tie[0] - 1) / total) >= _LEAST_OF_A_CLASS
    # A class's rank sum is its U and the ranks that it would have alone.
    excess = (ranks.u - n * ranks.n_ref / 2) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        correction = 1 - ranks.ties[0] / (total**3 - total)
        h = 12 / (total * (total + 1)) * (n * excess**2).sum(axis=0) / correction
    p = np.where(enough, chdtrc(k - 1, h), np.nan)
    return h, p, h / (total - 1), excess.argmax(axis=0)


def _welch_anova(values: NDArray, codes: NDArray[np.intp], k: int) -> Compared:
    m, by_rank = moments(values, codes, k), _kruskal(values, codes, k)[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = m.n / m.sd**2
        total = weight.sum(axis=0)
        centre = (weight * m.mean).sum(axis=0) / total
        spread = ((1 - weight / total) ** 2 / (m.n - 1)).sum(axis=0)
        f = (weight * (m.mean - centre) ** 2).sum(axis=0) / (k - 1)
        f /= 1 + 2 * (k - 2) / (k**2 - 1) * spread
        df = (k**2 - 1) / (3 * spread)
        within = m.squares.sum(axis=0)
        between = (m.n * (m.mean - (m.n * m.mean).sum(axis=0) / len(values)) ** 2).sum(axis=0)
        # Where classes are few or skewed F's tail is too light; that of ranks is not.
        p = np.maximum(fdtrc(k - 1, df, f), by_rank)
        return f, p, between / (between + within), m.mean.argmax(axis=0)
