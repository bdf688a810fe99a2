"""The neuron table: every neuron against every class, one corrected family."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import ttest_ind
from statsmodels.stats.multitest import multipletests

from featlab.neurons._auroc import (
    Floats,
    auroc_interval,
    mannwhitney_p,
    rank_statistics,
)
from featlab.neurons._inputs import (
    Block,
    Features,
    blocks_of,
    check_choice,
    check_correction,
    check_range,
    encode,
)

TESTS = ("mannwhitneyu", "welch")
COLUMNS = [
    "layer",
    "pooling",
    "class",
    "neuron",
    "n",
    "n_ref",
    "mean",
    "mean_ref",
    "pts",
    "pts_ref",
    "statistic",
    "p",
    "p_adjusted",
    "auroc",
    "auroc_low",
    "auroc_high",
    "effect",
    "rank",
    "reject",
    "detector",
]


def rank_neurons(
    X: Features,
    y: ArrayLike,
    *,
    test: str = "mannwhitneyu",
    correction: str = "fdr_bh",
    alpha: float = 0.05,
    min_auroc: float = 0.7,
    layer: str = "",
    pooling: str = "",
    reference: str = "rest",
) -> pd.DataFrame:
    """Compare every neuron's activations between each class and the rest.

    A detector is a neuron whose corrected p-value is at most `alpha` *and* whose AUROC for the
    class is at least `min_auroc`. Both signs stand in the table: a neuron that is silent for a
    class has an AUROC below 0.5 there and can only be a detector of the others. With two classes
    each neuron is tested twice, with the same two-sided p; the family holds both rows.

    A dead neuron (the same value in every image) has NaN for statistic, p, AUROC and effect, is
    left out of the corrected family, ranks last and is never a detector. So does Welch's p, alone,
    where a class has a single image.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c), or a list of such DataFrames
        Pooled activations; finite. The columns of a DataFrame are the neuron ids. Several tables
        (layers, poolings) of the same images are corrected as one family.
    y : array_like of shape (n,)
        Labels; row i is row i of `X`.
    test : {"mannwhitneyu", "welch"}
        Mann-Whitney U (normal approximation, corrected for ties and continuity) or Welch's t; both
        two-sided.
    correction : str
        A method of `statsmodels.stats.multitest.multipletests`, over all rows of the table.
    alpha : float
        Bound of the corrected p-value, in (0, 1).
    min_auroc : float
        Smallest AUROC of a detector, in [0.5, 1].
    layer, pooling : str
        Names for the table; default those in ``X.attrs``.
    reference : {"rest"}
        What a class is compared with: all images of the other classes.

    Returns
    -------
    DataFrame, one row per (layer, pooling, class, neuron)
        Columns `COLUMNS`, sorted by layer, pooling, class and rank. ``n`` and ``n_ref`` are images
        in the class and in the rest, ``mean`` and ``mean_ref`` the mean activations, ``pts`` and
        ``pts_ref`` the shares of images in which the neuron fires (> 0); ``auroc`` has a 95 %
        interval, ``effect`` is Cliff's delta, 2 auroc - 1, in [-1, 1]; ``rank`` is 1 for the
        highest AUROC of the layer, pooling and class (ties by p, then by neuron). ``attrs`` holds
        the parameters and ``n_tests``, the size of the family.

    Raises
    ------
    FeatlabError
        NaN or infinite values in `X`, fewer than two classes, rows that do not match, an unknown
        `test`, `correction` or `reference`, `alpha` or `min_auroc` out of range.

    Notes
    -----
    The interval is DeLong's [1]_, clipped to [0, 1]. Where its variance is zero (perfect
    separation) or undefined (one image) it is the bounded score interval of [2]_, method 5.

    References
    ----------
    .. [1] DeLong, DeLong & Clarke-Pearson (1988). Biometrics 44, 837-845.
    .. [2] Newcombe (2006). Statistics in Medicine 25, 559-573.
    """
    check_choice("test", test, TESTS)
    check_choice("reference", reference, ("rest",))
    check_correction(correction, alpha)
    check_range("min_auroc", min_auroc, 0.5, 1.0)
    blocks = blocks_of(X, y, layer, pooling)
    codes, classes = encode(y)
    table = pd.concat([_compare(b, codes, classes, test) for b in blocks], ignore_index=True)
    table["p_adjusted"] = adjust(table["p"].to_numpy(), correction, alpha)
    table["effect"] = 2 * table["auroc"] - 1
    table["reject"] = table["p_adjusted"] <= alpha
    table["detector"] = table["reject"] & (table["auroc"] >= min_auroc)
    table = _ranked(table)[COLUMNS]
    table.attrs = {
        "test": test,
        "correction": correction,
        "alpha": float(alpha),
        "min_auroc": float(min_auroc),
        "n_tests": int(table["p"].notna().sum()),
        "reference": reference,
    }
    return table


def adjust(p: Floats, correction: str, alpha: float) -> Floats:
    """Corrected p-values; NaN stays NaN and is no part of the family."""
    adjusted = np.full(len(p), np.nan)
    family = ~np.isnan(p)
    if family.any():
        adjusted[family] = multipletests(p[family], alpha=alpha, method=correction)[1]
    return adjusted


def _compare(
    block: Block, codes: NDArray[np.intp], classes: Sequence[Any], test: str
) -> pd.DataFrame:
    """Uncorrected, unsorted rows of the neuron table for one feature table."""
    k, c = len(classes), block.activations.shape[1]
    ranks = rank_statistics(block.activations, codes, k)
    low, high = auroc_interval(ranks)
    if test == "welch":
        statistic, p = _welch(block.activations, codes, k)
    else:
        statistic, p = ranks.u, mannwhitney_p(ranks, alternative="two-sided")
    measured = {"statistic": statistic, "p": p, "auroc": ranks.auroc}
    measured |= {"auroc_low": low, "auroc_high": high}
    alive = block.activations.min(axis=0) < block.activations.max(axis=0)
    columns = {name: np.where(alive, values, np.nan) for name, values in measured.items()}
    columns |= _means(block.activations, codes, k)
    return pd.DataFrame(
        {
            "layer": block.layer,
            "pooling": block.pooling,
            "class": np.repeat(np.asarray(classes, dtype=object), c),
            "neuron": np.tile(block.neurons, k),
            "n": np.repeat(ranks.n.astype(np.int64), c),
            "n_ref": np.repeat(ranks.n_ref.astype(np.int64), c),
            **{name: values.ravel() for name, values in columns.items()},
        }
    ).infer_objects()


def _means(values: NDArray[Any], codes: NDArray[np.intp], n_classes: int) -> dict[str, Floats]:
    """Mean and share of firing images, in each class and in its rest; arrays (k, c)."""
    member = (np.arange(n_classes)[:, None] == codes).astype(np.float64)
    rest = 1 - member
    n, n_ref = member.sum(axis=1, keepdims=True), rest.sum(axis=1, keepdims=True)
    activation, fires = values.astype(np.float64), (values > 0).astype(np.float64)
    # Counts are exact, so that a share never exceeds 1.
    return {
        "mean": member @ activation / n,
        "mean_ref": rest @ activation / n_ref,
        "pts": member @ fires / n,
        "pts_ref": rest @ fires / n_ref,
    }


def _welch(values: NDArray[Any], codes: NDArray[np.intp], n_classes: int) -> tuple[Floats, Floats]:
    activation = values.astype(np.float64)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Constant columns and single images are ours to name (NaN); scipy would warn of each.
        warnings.simplefilter("ignore")
        results = [
            ttest_ind(activation[codes == code], activation[codes != code], equal_var=False)
            for code in range(n_classes)
        ]
    return np.stack([r.statistic for r in results]), np.stack([r.pvalue for r in results])


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Sorted by layer, pooling, class and rank; the rank is by AUROC, then p, then neuron."""
    table = table.sort_values(
        ["layer", "pooling", "class", "auroc", "p", "neuron"],
        ascending=[True, True, True, False, True, True],
        na_position="last",
        ignore_index=True,
    )
    table["rank"] = table.groupby(["layer", "pooling", "class"]).cumcount() + 1
    return table
