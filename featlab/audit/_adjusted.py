"""Do detectors still tell their class when the picture statistics are held fixed?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from featlab.arguments import origin_of
from featlab.audit._confounds import numeric_columns
from featlab.audit._inputs import codes_of, matrix_of
from featlab.errors import FeatlabError
from featlab.intervals import auroc_score_interval
from featlab.neurons.rank_statistics import RankStatistics, auroc_interval, rank_statistics

Floats = NDArray[np.float64]

COLUMNS = [
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

TOP = 50

_Z95 = float(ndtri(0.975))
_LEAST_KNOWN = 0.5


def adjusted_effects(
    X: pd.DataFrame | ArrayLike,
    labels: ArrayLike,
    statistics: pd.DataFrame,
    neurons: pd.DataFrame,
    *,
    top: int = TOP,
) -> pd.DataFrame:
    """AUROC of detectors as it is, and with the picture statistics held fixed.

    Give images that the detectors were not chosen on.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Pooled activations; the columns of a DataFrame are neuron ids.
    labels : array_like of shape (n,)
    statistics : DataFrame of shape (n, k)
        The same rows. Constant columns, and those unknown in half of the images, are left out;
        an unknown value counts as the middle one.
    neurons : DataFrame
        Neuron table: ``class, neuron``. Of the columns ``detector, replicated, direction,
        reference, layer, pooling`` those that are there choose the rows: confirmed detectors that
        are active for the class against the rest, in the layer and pooling that the columns of `X`
        name.
    top : int
        At most so many per class, by ``auroc``.

    Returns
    -------
    DataFrame, one row per class and neuron
        ``class, neuron, n, n_ref``; ``auroc`` and ``auroc_adjusted``, each with ``_low`` and
        ``_high`` (95 %); ``inflation``, the variance inflation factor of the class given the
        statistics (1: unrelated; infinite: the statistics tell the class, and nothing can be
        learnt about the neuron); ``explained``: the interval itself is above 0.5, the adjusted one
        reaches it.

    Raises
    ------
    FeatlabError
        Rows that do not match, a class or neuron of `neurons` that is not in the data, no statistic
        that varies, too few images for so many statistics.

    Notes
    -----
    Analysis of covariance on ranks: the neuron and the statistics are replaced by their ranks, the
    slopes are fitted by least squares within the class and the rest (so that an effect of the
    class is not mistaken for one of the statistics), and the statistics' part is subtracted. The
    adjusted interval is DeLong's widened by the square root of the variance inflation factor,
    because what the class and the statistics share cannot be attributed to either.
    Only monotone influence is removed. ``explained`` therefore means "cannot be told from the
    picture statistics here", not "is caused by them"; few images also give wide intervals.

    References
    ----------
    Conover & Iman (1982). Analysis of covariance using the rank transformation. Biometrics 38,
    715-724. Quade (1967). Rank analysis of covariance. JASA 62, 1187-1200.
    """
    values, ids = matrix_of(X)
    codes, classes = codes_of(labels, len(values), "X")
    if len(statistics) != len(values):
        raise FeatlabError(
            f"statistics must have one row per image ({len(values)}), got {len(statistics)}."
        )
    chosen = chosen_detectors(neurons, origin_of(X), top)
    if not len(chosen):
        return pd.DataFrame(columns=COLUMNS)
    places = pd.Index(ids).get_indexer(chosen["neuron"])
    if (places < 0).any():
        raise FeatlabError(f"X has no neuron {chosen['neuron'].iloc[int((places < 0).argmax())]}.")
    covariates = _covariates(statistics)
    parts = []
    for name, rows in chosen.groupby("class", sort=True):
        if name not in classes:
            raise FeatlabError(f"No image is labelled {name!r}, a class of the neuron table.")
        inside = codes == classes.index(name)
        if not inside.any() or inside.all():
            continue
        part = values[:, places[chosen.index.get_indexer(rows.index)]].astype(np.float64)
        parts.append(_adjusted(part, inside, covariates).assign(
            **{"class": name, "neuron": rows["neuron"].to_numpy()}))  # fmt: skip
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def chosen_detectors(neurons: pd.DataFrame, origin: tuple[str, str], top: int) -> pd.DataFrame:
    """The rows of a neuron table that `adjusted_effects` judges."""
    missing = [name for name in ("class", "neuron") if name not in neurons]
    if missing:
        raise FeatlabError(
            f"The neuron table needs the columns 'class' and 'neuron', not {missing}."
        )
    keep = np.ones(len(neurons), dtype=bool)
    for name in ("detector", "replicated"):
        if name in neurons:
            keep &= neurons[name].fillna(False).to_numpy(bool)
    wanted = {"direction": "active", "reference": ""}
    wanted |= {
        name: value for name, value in zip(("layer", "pooling"), origin, strict=True) if value
    }
    for name, value in wanted.items():
        if name in neurons:
            keep &= (neurons[name] == value).to_numpy()
    chosen = neurons[keep]
    if "auroc" in chosen:
        chosen = chosen.sort_values(["class", "auroc"], ascending=[True, False], kind="stable")
    return chosen.groupby("class", sort=True).head(top).reset_index(drop=True)


def _covariates(statistics: pd.DataFrame) -> Floats:
    """Orthonormal basis of the centred ranks of the statistics, (n, r)."""
    values = numeric_columns(statistics).to_numpy(float)
    known = np.isfinite(values)
    ranks = np.zeros_like(values)
    for column in np.flatnonzero(known.mean(axis=0) > _LEAST_KNOWN):
        found = rankdata(values[known[:, column], column])
        ranks[known[:, column], column] = found - found.mean()
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


def _adjusted(values: Floats, inside: NDArray[np.bool_], covariates: Floats) -> pd.DataFrame:
    codes = inside.astype(np.intp)
    plain = rank_statistics(values, codes, 2)
    within = covariates - np.where(
        inside[:, None], covariates[inside].mean(axis=0), covariates[~inside].mean(axis=0)
    )
    ranks = rankdata(values, axis=0)
    # Ranks minus a multiple of columns that are centred within each group: the slopes of both.
    slopes = np.linalg.lstsq(within, ranks, rcond=1e-9)[0]
    adjusted = rank_statistics(np.round(ranks - covariates @ slopes, 6), codes, 2)
    inflation = _inflation(inside, covariates)
    low, high = (bound[1] for bound in auroc_interval(plain))
    adjusted_low, adjusted_high = _widened(adjusted, inflation)
    return pd.DataFrame(
        {
            "n": int(inside.sum()),
            "n_ref": int((~inside).sum()),
            "auroc": plain.auroc[1],
            "auroc_low": low,
            "auroc_high": high,
            "auroc_adjusted": adjusted.auroc[1],
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


def _widened(statistics: RankStatistics, inflation: float) -> tuple[Floats, Floats]:
    auroc = statistics.auroc[1]
    low, high = (bound[1] for bound in auroc_interval(statistics))
    n, n_ref = (np.full_like(auroc, float(size[1, 0])) for size in (statistics.n, statistics.n_ref))
    if np.isinf(inflation):
        return np.zeros_like(auroc), np.ones_like(auroc)
    wide = np.sqrt(inflation)
    # The score interval of fewer images: where DeLong's variance is 0 there is nothing to widen.
    score_low, score_high = auroc_score_interval(auroc, n / inflation, n_ref / inflation)
    bare = ~(statistics.variance[1] > 0)
    margin = _Z95 * wide * np.sqrt(np.where(bare, 0.0, statistics.variance[1]))
    low = np.where(bare, score_low, np.clip(auroc - margin, 0, 1))
    high = np.where(bare, score_high, np.clip(auroc + margin, 0, 1))
    return low, high
