"""Corrections for many tests, and what changes where images of one group are not independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import rankdata
from statsmodels.stats.multitest import (
    local_fdr,
    multipletests,
    multitest_alias,
    multitest_methods_names,
)

from featlab.arguments import (
    FeatureBlock,
    check_between,
    check_choice,
    group_names,
)
from featlab.errors import FeatlabError
from featlab.neurons.rank_statistics import Floats
from featlab.neurons.rank_tests import WHOLE, rows_of_groups, scheme_of, whole_groups
from featlab.system.machine import pieces

MULTIPLETESTS = tuple(dict.fromkeys([*multitest_methods_names, *multitest_alias]))
CORRECTIONS = (*MULTIPLETESTS, "local_fdr", "max_t")
PERMUTATIONS = 1000
"""Permutations of the labels for the correction "max_t"."""

_FEWEST_FOR_LOCAL_FDR = 100
_SMALLEST_P = 1e-300
_PERMUTATIONS_AT_ONCE = 250
_COLUMNS_AT_ONCE = 4096
_ELEMENTS_AT_ONCE = 64_000_000  # ranks, or labels, in single precision: 256 MB


def check_correction(correction: str, alpha: float, allowed: Sequence[str] = CORRECTIONS) -> None:
    """Refuse an unknown correction or a bound outside (0, 1]."""
    check_choice("correction", correction, allowed)
    check_between("alpha", alpha, 0, 1, without=[0])


def adjust(
    p: Floats, correction: str, alpha: float, *, sign: Floats | None = None
) -> NDArray[np.float64]:
    """Corrected p-values; NaN stays NaN and is no part of the family.

    Parameters
    ----------
    p : ndarray of shape (n,)
    correction : str
        A method of `statsmodels.stats.multitest.multipletests`, or ``local_fdr``.
    alpha : float
        Two methods (``fdr_tsbh``, ``fdr_tsbky``) need it.
    sign : ndarray of shape (n,), optional
        Which way the effect goes; ``local_fdr`` fits the density of signed z-values.
    """
    adjusted = np.full(len(p), np.nan)
    family = ~np.isnan(p)
    if not family.any():
        return adjusted
    if correction == "local_fdr":
        adjusted[family] = _local_fdr(p[family], np.ones(len(p)) if sign is None else sign[family])
    else:
        adjusted[family] = multipletests(p[family], alpha=alpha, method=correction)[1]
    return adjusted


def _local_fdr(p: Floats, sign: Floats) -> Floats:
    """Efron's local false discovery rate: the chance that this very effect is null."""
    if len(p) < _FEWEST_FOR_LOCAL_FDR:
        raise FeatlabError(
            f"local_fdr estimates a density and needs at least {_FEWEST_FOR_LOCAL_FDR} tests, "
            f"got {len(p)}; use fdr_bh."
        )
    z = -ndtri(np.clip(p / 2, _SMALLEST_P, 0.5)) * np.where(sign < 0, -1.0, 1.0)
    rate = np.clip(local_fdr(z, nbins=int(np.clip(len(z) // 10, 20, 120))), 0, 1)
    # Beyond the bulk the fitted density may turn; a larger effect is never likelier null.
    for side in (z >= 0, z < 0):
        order = np.flatnonzero(side)[np.argsort(np.abs(z[side]))]
        rate[order] = np.minimum.accumulate(rate[order])
    return rate


def max_t(
    blocks: Sequence[FeatureBlock],
    codes: NDArray[np.intp],
    n_classes: int,
    *,
    groups: ArrayLike | None = None,
    random_state: int = 0,
) -> tuple[Floats, str]:
    """Single-step max-T p-values of one-vs-rest rank sums, by permuting the labels.

    The labels of all images are permuted together, so that the dependence between neurons,
    poolings, layers and classes stays as it is; each rank sum is compared with the largest of the
    whole family in each permutation.

    Parameters
    ----------
    blocks : sequence of FeatureBlock
        Feature tables of the same images.
    codes : ndarray of shape (n,)
        Class codes.
    n_classes : int
    groups : array_like of shape (n,), optional
        Images of one non-empty group are not exchangeable with others: see `permuted_codes`.
    random_state : int

    Returns
    -------
    p : ndarray, one value per (block, class, neuron) in this order
        In [1 / (PERMUTATIONS + 1), 1]; NaN for a constant neuron.
    scheme : str
        What was permuted, in words.

    References
    ----------
    Westfall & Young (1993). Resampling-based multiple testing. Wiley. Algorithm 2.5.
    """
    permuted, scheme = permuted_codes(codes, groups, PERMUTATIONS, random_state)
    # With two classes the second one's statistics only change their sign.
    tested = range(1) if n_classes == 2 else range(n_classes)
    n = len(codes)
    width = int(np.clip(_ELEMENTS_AT_ONCE // n, 1, _COLUMNS_AT_ONCE))
    height = int(np.clip(_ELEMENTS_AT_ONCE // n, 1, _PERMUTATIONS_AT_ONCE))
    largest = np.zeros(PERMUTATIONS)
    observed = []
    for block in blocks:
        scores = np.full((n_classes, block.matrix.shape[1]), np.nan)
        for first in range(0, scores.shape[1], width):
            columns = slice(first, first + width)
            ranks = _unit_ranks(block.matrix[:, columns])
            for code in tested:
                z = _absolute_z(codes[None], code, ranks)[0]
                scores[code, columns] = np.where(ranks.any(axis=0), z, np.nan)
                for start in range(0, PERMUTATIONS, height):
                    part = slice(start, start + height)
                    z = _absolute_z(permuted[part], code, ranks)
                    np.maximum(largest[part], z.max(axis=1, initial=0), out=largest[part])
        if n_classes == 2:
            scores[1] = scores[0]
        observed.append(scores.ravel())
    score = np.concatenate(observed)
    ordered = np.sort(largest)
    # Rounding must not make a permutation that repeats the labels look smaller than they.
    reached = PERMUTATIONS - np.searchsorted(ordered, score * (1 - 1e-5), side="left")
    p = (1 + reached) / (1 + PERMUTATIONS)
    return np.where(np.isnan(score), np.nan, p), scheme


def permuted_codes(
    codes: NDArray[np.intp], groups: ArrayLike | None, n_permutations: int, random_state: int
) -> tuple[NDArray[np.integer], str]:
    """Permuted class codes ``(n_permutations, n)`` that respect groups, and the scheme in words.

    Without groups any label may go to any image. Where groups have one class each (breeds of a
    species), whole groups swap their labels; in those that hold several (photos of a session)
    labels are permuted within. Which is the rule is said by :func:`scheme_of`: images without a
    group (``""``) are groups of their own in the first case, and one group together in the second.
    """
    rng = np.random.default_rng(random_state)
    names = group_names(groups, len(codes))
    # Class codes are small numbers, and these are as many as images times permutations.
    codes = codes.astype(np.min_scalar_type(int(codes.max())))
    permuted = np.tile(codes, (n_permutations, 1))
    if (names == "").all():
        return rng.permuted(permuted, axis=1, out=permuted), "images"
    scheme, strata = scheme_of(codes, names), rows_of_groups(names)
    if scheme == WHOLE:
        unit, first, whole = whole_groups(codes, names)
        swapped = np.tile(codes[first], (n_permutations, 1))
        swapped[:, whole] = rng.permuted(swapped[:, whole], axis=1)
        permuted = np.where(whole[unit], swapped[:, unit], permuted)
        strata = [np.flatnonzero(unit == group) for group in np.flatnonzero(~whole)]
    for rows in strata:
        permuted[:, rows] = rng.permuted(permuted[:, rows], axis=1)
    return permuted, scheme


def _unit_ranks(values: NDArray) -> NDArray[np.float32]:
    """Midranks of every column, centred and scaled to unit length; zeros where it is constant."""
    unit = np.zeros(values.shape, dtype=np.float32)
    for part in pieces(values.shape[1], len(values)):
        ranks = rankdata(values[:, part], axis=0)
        ranks -= ranks.mean(axis=0)
        length = np.sqrt((ranks**2).sum(axis=0))
        np.divide(ranks, length, out=ranks, where=length > 0)
        unit[:, part] = np.where(length > 0, ranks, 0)
    return unit


def _absolute_z(
    labels: NDArray[np.integer], code: int, unit_ranks: NDArray[np.float32]
) -> NDArray[np.float64]:
    """|z| of the class's rank sum under each row of labels; its permutation variance is exact."""
    inside = (labels == code).astype(np.float32)
    n, total = inside.sum(axis=1, dtype=np.float64)[:, None], labels.shape[1]
    variance = n * (total - n) / (total * (total - 1.0))
    sums = inside @ unit_ranks
    return np.divide(np.abs(sums), np.sqrt(variance), out=np.zeros(sums.shape), where=variance > 0)
