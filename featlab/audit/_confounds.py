"""Does something besides the object tell the classes apart?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.multitest import multipletests

from featlab.audit._inputs import codes_of
from featlab.errors import FeatlabError
from featlab.neurons.rank_statistics import auroc_interval, mannwhitney_p, rank_statistics

Floats = NDArray[np.float64]

COLUMNS = [
    "class",
    "statistic",
    "n",
    "n_ref",
    "median",
    "median_ref",
    "share",
    "share_ref",
    "auroc",
    "auroc_low",
    "auroc_high",
    "p",
    "p_adjusted",
    "verdict",
]
FAIL_P, FAIL_EFFECT = 0.01, 0.25
WARN_P, WARN_EFFECT = 0.05, 0.10
RARE_SHARE, RARE_RATIO = 0.05, 4.0


def confounds(
    statistics: pd.DataFrame, labels: ArrayLike, *, rows: ArrayLike | None = None
) -> pd.DataFrame:
    """How well each picture statistic alone tells each class from the rest.

    Parameters
    ----------
    statistics : DataFrame of shape (n, k)
        From :func:`picture_statistics`; columns that are not numbers are ignored, and each column
        is compared over the images in which it is known (finite).
    labels : array_like of shape (n,)
    rows : array_like, optional
        Row numbers, or a mask, of the images to use; all by default.

    Returns
    -------
    DataFrame, one row per class and statistic, the strongest first
        ``class, statistic``; ``n, n_ref`` (images of the class and of the rest); ``median,
        median_ref``; ``share, share_ref`` (images in which the statistic is not 0, for statistics
        that are 0 in at least half of the images, such as borders and captions; else NaN);
        ``auroc`` (chance that an image of the class exceeds one of the rest) with its 95 % interval
        ``auroc_low, auroc_high``; ``p`` (two-sided Mann-Whitney), ``p_adjusted`` (Holm, over the
        whole table) and ``verdict``. A statistic that is constant has p = NaN and passes.

    Raises
    ------
    FeatlabError
        Rows that do not match, fewer than two classes, no numeric column.

    Notes
    -----
    ``fail``: p_adjusted <= 0.01 and abs(auroc - 0.5) >= 0.25. ``warn``: p_adjusted <= 0.05 and
    abs(auroc - 0.5) >= 0.10; or, because a cue that few images carry cannot move an AUROC far,
    p_adjusted <= 0.05 and the larger of the two shares is at least 0.05 and at least 4 times the
    smaller. Everything else is ``pass``. With two classes each statistic is there twice, mirrored,
    and counts twice in the family: the correction is then a little too strict.

    A strong statistic is a question, not a proof: lions may really be brighter than bats.

    References
    ----------
    Torralba & Efros (2011). Unbiased look at dataset bias. CVPR, 1521-1528.
    DeLong, DeLong & Clarke-Pearson (1988). Biometrics 44, 837-845. Holm (1979). Scandinavian
    Journal of Statistics 6, 65-70.
    """
    table = numeric_columns(statistics)
    codes, classes = codes_of(labels, len(table), "statistics")
    chosen = _chosen(rows, len(table))
    values, codes = table.to_numpy(float)[chosen], codes[chosen]
    known = np.isfinite(values)
    parts = []
    for pattern in np.unique(known, axis=1).T:
        columns = np.flatnonzero((known == pattern[:, None]).all(axis=0))
        inside, present = codes[pattern], np.unique(codes[pattern])
        if len(present) < 2:
            continue
        part = values[pattern][:, columns]
        names = [classes[code] for code in present]
        compact = np.searchsorted(present, inside)
        parts.append(_compared(part, compact, names, table.columns[columns]))
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    result = pd.concat(parts, ignore_index=True)
    result["p_adjusted"] = _holm(result["p"].to_numpy())
    result["verdict"] = _verdicts(result)
    strength = (result["auroc"] - 0.5).abs()
    result = result.assign(_strength=strength).sort_values(
        ["_strength", "p", "class", "statistic"], ascending=[False, True, True, True]
    )
    return result[COLUMNS].reset_index(drop=True)


def numeric_columns(statistics: pd.DataFrame) -> pd.DataFrame:
    """Columns that hold numbers, at least one."""
    table = statistics.select_dtypes("number")
    if not table.shape[1]:
        raise FeatlabError("statistics has no numeric column; make it with picture_statistics.")
    return table


def _chosen(rows: ArrayLike | None, n: int) -> NDArray[Any]:
    try:
        return np.arange(n) if rows is None else np.arange(n)[np.asarray(rows)]
    except IndexError as error:
        raise FeatlabError(
            f"rows must be row numbers, or a mask, of {n} images: {error}."
        ) from error


def _compared(
    values: Floats, codes: NDArray[np.intp], classes: list[Any], names: pd.Index
) -> pd.DataFrame:
    ranks = rank_statistics(values, codes, len(classes))
    low, high = auroc_interval(ranks)
    p = mannwhitney_p(ranks, alternative="two-sided")
    is_rare = (values != 0).mean(axis=0) <= 0.5
    parts = []
    for code, name in enumerate(classes):
        inside = codes == code
        own, rest = values[inside], values[~inside]
        parts.append(
            pd.DataFrame(
                {
                    "class": name,
                    "statistic": names,
                    "n": len(own),
                    "n_ref": len(rest),
                    "median": np.median(own, axis=0),
                    "median_ref": np.median(rest, axis=0),
                    "share": np.where(is_rare, (own != 0).mean(axis=0), np.nan),
                    "share_ref": np.where(is_rare, (rest != 0).mean(axis=0), np.nan),
                    "auroc": ranks.auroc[code],
                    "auroc_low": low[code],
                    "auroc_high": high[code],
                    "p": p[code],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _holm(p: Floats) -> Floats:
    adjusted, known = np.full(len(p), np.nan), np.isfinite(p)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return adjusted


def _verdicts(table: pd.DataFrame) -> NDArray[Any]:
    p, effect = table["p_adjusted"].to_numpy(), (table["auroc"] - 0.5).abs().to_numpy()
    shares = table[["share", "share_ref"]].to_numpy()
    larger, smaller = shares.max(axis=1), shares.min(axis=1)
    is_lopsided = (larger >= RARE_SHARE) & (larger >= RARE_RATIO * smaller)
    fails = (p <= FAIL_P) & (effect >= FAIL_EFFECT)
    warns = (p <= WARN_P) & ((effect >= WARN_EFFECT) | is_lopsided)
    return np.select([fails, warns], ["fail", "warn"], "pass")
