"""Does something besides the object tell the classes apart, and do detectors survive it?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from featlab.arguments import (
    blocks_of_neurons,
    check_columns,
    check_same_rows,
    class_codes,
    group_codes,
    group_names,
    has_groups,
    row_numbers,
)
from featlab.errors import FeatlabError
from featlab.intervals import auroc_score_interval, holm
from featlab.neurons.rank_statistics import auroc_interval, clustered_auroc, rank_statistics
from featlab.neurons.rank_tests import grouped_p, mannwhitney_p

Floats = NDArray[np.float64]

CONFOUND_COLUMNS = [
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
_KEY = ["layer", "pooling", "class", "neuron"]
ADJUSTED_COLUMNS = [
    "layer",
    "pooling",
    "class",
    "neuron",
    "n",
    "n_ref",
    "auroc",
    "auroc_low",
    "auroc_high",
    "auroc_adjusted",
    "auroc_adjusted_low",
    "auroc_adjusted_high",
    "inflation",
    "explained",
]

_LEAST_KNOWN = 0.5


def confounds(
    statistics: pd.DataFrame, y: ArrayLike, rows: Any = None, *, groups: ArrayLike | None = None
) -> pd.DataFrame:
    """How well each picture statistic alone tells each class from the rest.

    Parameters
    ----------
    statistics : DataFrame of shape (n, k)
        From :func:`picture_statistics`; columns that are not numbers are ignored, and each column
        is compared over the images in which it is known (finite).
    y : array_like of shape (n,)
    rows : array_like, optional
        Row numbers, or a mask, of the images to use; all by default.
    groups : array_like of shape (n,), optional
        Groups of images that are not independent; "" is no group. Then test and interval take the
        group as their unit, as in :func:`featlab.neurons.confirm_neurons`.

    Returns
    -------
    DataFrame, one row per class and statistic, the strongest first
        ``class, statistic``; ``n, n_ref`` (images of the class and of the rest); ``median,
        median_ref``; ``share, share_ref`` (images in which the statistic is not 0, for statistics
        that are 0 in at least half of the images, such as borders and captions; else NaN);
        ``auroc`` (chance that an image of the class exceeds one of the rest) with its 95 % interval
        ``auroc_low, auroc_high``; ``p`` (two-sided Mann-Whitney), ``p_adjusted`` (Holm, over the
        whole table) and ``verdict``. A statistic that is constant has p = NaN and passes; so does
        one of a class that has too few groups for a test, which is no proof that it is the same.

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
    Newcombe (2006). Statistics in Medicine 25, 559-573 (the interval). Holm (1979). Scandinavian
    Journal of Statistics 6, 65-70.
    """
    table = numeric_columns(statistics)
    names = group_names(groups, len(table))
    check_same_rows(statistics=table, y=y, groups=groups)
    codes, classes = class_codes(y, len(table), least=2)
    places = row_numbers(rows, table)
    values, codes, names = table.to_numpy(float)[places], codes[places], names[places]
    known = np.isfinite(values)
    parts = []
    for pattern in np.unique(known, axis=1).T:
        columns = np.flatnonzero((known == pattern[:, None]).all(axis=0))
        inside, present = codes[pattern], np.unique(codes[pattern])
        if len(present) < 2:
            continue
        part = values[pattern][:, columns]
        compact = np.searchsorted(present, inside)
        compared = _compared(part, compact, [classes[code] for code in present], names[pattern])
        parts.append(compared.assign(statistic=np.tile(table.columns[columns], len(present))))
    if not parts:
        return pd.DataFrame(columns=CONFOUND_COLUMNS)
    result = pd.concat(parts, ignore_index=True)
    result["p_adjusted"] = holm(result["p"].to_numpy())
    result["verdict"] = _verdicts(result)
    strength = (result["auroc"] - 0.5).abs()
    result = result.assign(_strength=strength).sort_values(
        ["_strength", "p", "class", "statistic"], ascending=[False, True, True, True]
    )
    return result[CONFOUND_COLUMNS].reset_index(drop=True)


def numeric_columns(statistics: pd.DataFrame) -> pd.DataFrame:
    """Columns that hold numbers, at least one."""
    table = statistics.select_dtypes("number")
    if not table.shape[1]:
        raise FeatlabError("statistics has no numeric column; make it with picture_statistics.")
    return table


def _compared(
    values: Floats, codes: NDArray[np.intp], classes: list[Any], groups: NDArray[np.str_]
) -> pd.DataFrame:
    ranks, unit = rank_statistics(values, codes, len(classes)), group_codes(groups, len(groups))
    if has_groups(unit):
        limits = [clustered_auroc(values, codes == k, unit).limits() for k in range(len(classes))]
        low, high = np.stack(limits, axis=1)
        p = grouped_p(values, codes, groups)
    else:
        low, high = auroc_interval(ranks)
        p = mannwhitney_p(ranks)
    is_rare = (values != 0).mean(axis=0) <= 0.5
    parts = []
    for code, name in enumerate(classes):
        inside = codes == code
        own, rest = values[inside], values[~inside]
        parts.append(
            pd.DataFrame(
                {
                    "class": name,
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


def _verdicts(table: pd.DataFrame) -> NDArray[Any]:
    p, effect = table["p_adjusted"].to_numpy(), (table["auroc"] - 0.5).abs().to_numpy()
    shares = table[["share", "share_ref"]].to_numpy()
    larger, smaller = shares.max(axis=1), shares.min(axis=1)
    is_lopsided = (larger >= RARE_SHARE) & (larger >= RARE_RATIO * smaller)
    fails = (p <= FAIL_P) & (effect >= FAIL_EFFECT)
    warns = (p <= WARN_P) & ((effect >= WARN_EFFECT) | is_lopsided)
    return np.select([fails, warns], ["fail", "warn"], "pass")


def adjusted_effects(
    X: pd.DataFrame | ArrayLike,
    y: ArrayLike,
    statistics: pd.DataFrame,
    detectors: pd.DataFrame,
    *,
    groups: ArrayLike | None = None,
) -> pd.DataFrame:
    """AUROC of detectors as it is, and with the picture statistics held fixed.

    Give images that the detectors were not chosen on.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c), or a list of such DataFrames
        Pooled activations.
    y : array_like of shape (n,)
    statistics : DataFrame of shape (n, k)
        The same rows. Constant columns, and those unknown in half of the images, are left out;
        an unknown value counts as the middle one.
    detectors : DataFrame
        Rows of a neuron table that say which neuron is active for which class, e.g. from
        `select_neurons`: ``layer, pooling, class, neuron``.
    groups : array_like of shape (n,), optional
        Groups of images that are not independent; "" is no group. Then both intervals are those of
        clustered data.

    Returns
    -------
    DataFrame, one row per class and neuron
        ``layer, pooling, class, neuron, n, n_ref``; ``auroc`` and ``auroc_adjusted``, each with
        ``_low`` and ``_high`` (95 %); ``inflation``, the variance inflation factor of the class
        given the statistics (1: unrelated; infinite: the statistics tell the class, and nothing
        can be learnt about the neuron); ``explained``: the interval itself is above 0.5,
        the adjusted one reaches it.

    Raises
    ------
    FeatlabError
        Rows that do not match, a class, layer or neuron of `detectors` that is not in the data,
        no statistic that varies, too few images for so many statistics.

    Notes
    -----
    Analysis of covariance on ranks: the neuron and the statistics are replaced by their ranks, the
    slopes are fitted by least squares within the class and the rest (so that an effect of the
    class is not mistaken for one of the statistics), and the statistics' part is subtracted. The
    adjusted interval is that of fewer images, their number divided by the variance inflation
    factor, because what the class and the statistics share cannot be attributed to either.
    Only monotone influence is removed. ``explained`` therefore means "cannot be told from the
    picture statistics here", not "is caused by them"; few images also give wide intervals.

    References
    ----------
    Conover & Iman (1982). Analysis of covariance using the rank transformation. Biometrics 38,
    715-724. Quade (1967). Rank analysis of covariance. JASA 62, 1187-1200.
    """
    check_columns("the table of detectors", detectors, _KEY, "give the result of select_neurons")
    codes, classes = class_codes(y, least=2)
    check_same_rows(y=y, statistics=statistics, groups=groups)
    unit = group_codes(group_names(groups, len(codes)), len(codes))
    if not len(detectors):
        return pd.DataFrame(columns=ADJUSTED_COLUMNS)
    unknown = sorted(set(detectors["class"]) - set(classes))
    if unknown:
        raise FeatlabError(f"no image is labelled {unknown[0]!r}, a class of the detectors.")
    blocks = blocks_of_neurons(detectors, X, y, statistics=statistics)
    covariates = _covariates(statistics)
    parts = []
    for (layer, pooling, name), rows in detectors.groupby(_KEY[:3], sort=True):
        block, inside = blocks[str(layer), str(pooling)], codes == classes.tolist().index(name)
        values = block.matrix[:, block.places(rows["neuron"])].astype(np.float64)
        named = {column: rows[column].to_numpy() for column in _KEY}
        parts.append(_adjusted(values, inside, covariates, unit).assign(**named))
    return pd.concat(parts, ignore_index=True)[ADJUSTED_COLUMNS]


def _covariates(statistics: pd.DataFrame) -> Floats:
    """Orthonormal basis of the centred ranks of the statistics, (n, r)."""
    values = numeric_columns(statistics).to_numpy(float)
    known = np.isfinite(values)
    ranks = np.zeros_like(values)
    for column in np.flatnonzero(known.mean(axis=0) > _LEAST_KNOWN):
        own = rankdata(values[known[:, column], column])
        ranks[known[:, column], column] = own - own.mean()
    left, size, _ = np.linalg.svd(ranks, full_matrices=False)
    basis = left[:, size > 1e-9 * max(size.max(initial=0), 1e-300)]
    if not basis.shape[1]:
        raise FeatlabError("No picture statistic varies over these images; nothing to hold fixed.")
    if len(values) < 3 * basis.shape[1]:
        raise FeatlabError(
            f"{len(values)} images are too few to hold {basis.shape[1]} statistics fixed; "
            "give fewer columns or more images."
        )
    return basis


def _adjusted(
    values: Floats, inside: NDArray[np.bool_], covariates: Floats, unit: NDArray[np.intp]
) -> pd.DataFrame:
    within = covariates - np.where(
        inside[:, None], covariates[inside].mean(axis=0), covariates[~inside].mean(axis=0)
    )
    ranks = rankdata(values, axis=0)
    # Ranks minus a multiple of columns that are centred within each group: the slopes of both.
    slopes = np.linalg.lstsq(within, ranks, rcond=1e-9)[0]
    inflation = _inflation(inside, covariates)
    auroc, low, high = _auroc(values, inside, unit, 1.0)
    adjusted = np.round(ranks - covariates @ slopes, 6)
    auroc_adjusted, adjusted_low, adjusted_high = _auroc(adjusted, inside, unit, inflation)
    return pd.DataFrame(
        {
            "n": int(inside.sum()),
            "n_ref": int((~inside).sum()),
            "auroc": auroc,
            "auroc_low": low,
            "auroc_high": high,
            "auroc_adjusted": auroc_adjusted,
            "auroc_adjusted_low": adjusted_low,
            "auroc_adjusted_high": adjusted_high,
            "inflation": inflation,
            "explained": (low > 0.5) & (adjusted_low <= 0.5),
        }
    )


def _inflation(inside: NDArray[np.bool_], covariates: Floats) -> float:
    """1 / (1 - R²) of the class regressed on the covariates."""
    centred = inside - inside.mean()
    fitted = covariates @ np.linalg.lstsq(covariates, centred, rcond=None)[0]
    unexplained = float(((centred - fitted) ** 2).sum() / (centred**2).sum())
    return 1 / unexplained if unexplained > 1e-9 else float("inf")


def _auroc(
    values: Floats, inside: NDArray[np.bool_], unit: NDArray[np.intp], inflation: float
) -> tuple[Floats, Floats, Floats]:
    """AUROC of every column and its interval, that of as many images over the inflation."""
    sizes: tuple[Any, Any]
    if has_groups(unit):
        clustered = clustered_auroc(values, inside, unit)
        auroc, variances, units = clustered.auroc, clustered.variances, clustered.units
        sizes = clustered.n, clustered.n_ref
    else:
        plain = rank_statistics(values, inside.astype(np.intp), 2)
        auroc, variances = plain.auroc[1], (plain.variance_class[1], plain.variance_rest[1])
        sizes = units = float(inside.sum()), float((~inside).sum())
    if np.isinf(inflation):
        return auroc, np.zeros_like(auroc), np.ones_like(auroc)
    low, high = auroc_score_interval(
        auroc,
        *(np.full_like(auroc, size) / inflation for size in sizes),
        variances=(inflation * variances[0], inflation * variances[1]),
        units=units,
    )
    return auroc, low, high
