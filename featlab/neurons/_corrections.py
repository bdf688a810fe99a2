"""Corrections for many tests, and what changes where images of one group are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
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
    group_codes,
    group_names,
    has_groups,
)
from featlab.errors import FeatlabError
from featlab.neurons.rank_statistics import Floats, centred_ranks
from featlab.neurons.rank_tests import (
    LEAST_GROUPS,
    WHOLE,
    enough_groups,
    group_draws,
    permuted_within,
    rows_of_groups,
    scheme_of,
)
from featlab.system.machine import CACHED, pieces
from featlab.system.processes import done_on_cluster, has_cluster

MULTIPLETESTS = tuple(dict.fromkeys([*multitest_methods_names, *multitest_alias]))
CORRECTIONS = (*MULTIPLETESTS, "local_fdr", "max_t")
PERMUTATIONS = 1000
"""Permutations of the labels for the correction "max_t"."""

_FEWEST_FOR_LOCAL_FDR, _MOST_OF_ONE = 100, 0.1
_SMALLEST_P = 1e-300
_PERMUTATIONS_AT_ONCE = 250
_LESS_AT_ONCE = 4  # of what is copied at once goes to a worker: 16 MB and more
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
    """Efron's local false discovery rate: the chance that this very effect is null.

    It is at least the p-value of Simes' test that every effect is, so that a family of noise has a
    call no more often than alpha.

    References
    ----------
    Efron (2004). Large-scale simultaneous hypothesis testing. Journal of the American Statistical
    Association 99, 96-104. Simes (1986). An improved Bonferroni procedure for multiple tests of
    significance. Biometrika 73, 751-754.
    """
    if len(p) < _FEWEST_FOR_LOCAL_FDR:
        raise FeatlabError(
            f"local_fdr estimates a density and needs at least {_FEWEST_FOR_LOCAL_FDR} tests, "
            f"got {len(p)}; use fdr_bh."
        )
    commonest = np.unique(p, return_counts=True)[1].max() / len(p)
    if commonest > _MOST_OF_ONE:
        raise FeatlabError(
            f"local_fdr estimates a density of p-values, and {commonest:.0%} of these are the "
            "same, as where few images or few distinct values decide; use fdr_bh."
        )
    z = -ndtri(np.clip(p / 2, _SMALLEST_P, 0.5)) * np.where(sign < 0, -1.0, 1.0)
    rate = np.clip(local_fdr(z, nbins=int(np.clip(len(z) // 10, 20, 120))), 0, 1)
    # Beyond the bulk the fitted density may turn; a larger effect is never likelier null.
    for side in (z >= 0, z < 0):
        order = np.flatnonzero(side)[np.argsort(np.abs(z[side]))]
        rate[order] = np.minimum.accumulate(rate[order])
    # A density fitted to noise has a tail by chance: Simes' p that all are null bounds each.
    return np.maximum(rate, multipletests(p, method="fdr_bh")[1].min())


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
        Images of one non-empty group are not exchangeable with others. Where groups have one class
        each, as many images of each are one unit; else labels are permuted within groups.
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
    rows, codes, scheme = _exchangeable(codes, group_names(groups, len(codes)))
    enough = enough_groups(np.bincount(codes, minlength=n_classes)) | (scheme != WHOLE)
    # With two classes the second one's statistics only change their sign.
    tested = np.flatnonzero(enough[: 1 if n_classes == 2 else n_classes])
    width = int(np.clip(_ELEMENTS_AT_ONCE // len(codes), 1, _COLUMNS_AT_ONCE))
    parts = [(block, first) for block in blocks for first in range(0, block.matrix.shape[1], width)]
    draws = partial(permuted_codes, codes, None if scheme == WHOLE else groups, PERMUTATIONS,
                    random_state)  # fmt: skip
    draw = partial(_largest, rows=rows if scheme == WHOLE else None, codes=codes, tested=tested)
    values = (block.matrix[:, first : first + width] for block, first in parts)
    if has_cluster():
        # The labels are drawn anew there: they are larger than what they are compared with.
        done = done_on_cluster(partial(draw, some, draws=draws) for some in values)
    else:
        permuted = draws()
        done = [draw(some, draws=lambda: permuted) for some in values]
    largest = np.max([one for _, one in done], axis=0)
    observed = []
    for block in blocks:
        own = [z for (of, _), (z, _) in zip(parts, done, strict=True) if of is block]
        scores = np.full((n_classes, block.matrix.shape[1]), np.nan)
        scores[tested] = np.concatenate(own, axis=1)
        if n_classes == 2:
            scores[1] = scores[0]
        observed.append(scores.ravel())
    score = np.concatenate(observed)
    ordered = np.sort(largest)
    # Rounding must not make a permutation that repeats the labels look smaller than they.
    reached = PERMUTATIONS - np.searchsorted(ordered, score * (1 - 1e-5), side="left")
    p = (1 + reached) / (1 + PERMUTATIONS)
    return np.where(np.isnan(score), np.nan, p), scheme


def _largest(
    values: NDArray,
    *,
    draws: Callable[[], NDArray[np.integer]],
    rows: NDArray[np.intp] | None,
    codes: NDArray[np.intp],
    tested: NDArray[np.intp],
) -> tuple[Floats, Floats]:
    """|z| of some columns ``(tested, c)``, NaN where constant; the largest of each permutation."""
    permuted = draws()
    if rows is not None:
        values = rankdata(values, axis=0)[rows].mean(axis=1)
    ranks = _unit_ranks(values)
    height = int(np.clip(_ELEMENTS_AT_ONCE // len(codes), 1, _PERMUTATIONS_AT_ONCE))
    scores, largest = np.full((len(tested), values.shape[1]), np.nan), np.zeros(len(permuted))
    for place, code in enumerate(tested):
        sums, spread = _rank_sums(codes[None], code, ranks)
        scores[place] = np.where(ranks.any(axis=0), np.abs(sums[0]) / spread, np.nan)
        for start in range(0, len(permuted), height):
            part = slice(start, start + height)
            sums, spread = _rank_sums(permuted[part], code, ranks)
            most = np.maximum(sums.max(axis=1, initial=0), -sums.min(axis=1, initial=0))
            np.maximum(largest[part], most / spread, out=largest[part])
    return scores, largest


def _exchangeable(
    codes: NDArray[np.intp], names: NDArray[np.str_]
) -> tuple[NDArray[np.intp], NDArray[np.intp], str]:
    """Rows (units, m), the units' class codes, and what they are, in words.

    To swap the labels of whole groups would let their sizes go along: so as many images of each.
    """
    if not has_groups(group_codes(names, len(names))):
        return np.arange(len(codes))[:, None], codes, "images"
    scheme = scheme_of(codes, names)
    if scheme != WHOLE:
        return np.arange(len(codes))[:, None], codes, scheme
    draws = group_draws(codes, names)
    if not draws:
        raise FeatlabError(
            f"max_t permutes whole groups and needs {LEAST_GROUPS} of a class and of the rest; use "
            "fdr_bh."
        )
    return *draws[0], scheme


def permuted_codes(
    codes: NDArray[np.intp], groups: ArrayLike | None, n_permutations: int, random_state: int
) -> NDArray[np.integer]:
    """Permuted class codes ``(n_permutations, n)``.

    Without groups any label may go to any image; else labels are permuted within groups, images
    without a group (``""``) being one together.
    """
    rng = np.random.default_rng(random_state)
    # Class codes are small numbers, and these are as many as images times permutations.
    codes = codes.astype(np.min_scalar_type(int(codes.max())))
    strata = rows_of_groups(group_names(groups, len(codes)))
    return permuted_within(strata, codes, n_permutations, rng)


def _unit_ranks(values: NDArray) -> NDArray[np.float32]:
    """Midranks of every column, centred and scaled to unit length; zeros where it is constant."""
    unit = np.empty(values.shape, dtype=np.float32)
    for part in pieces(values.shape[1], len(values), CACHED):
        ranks = centred_ranks(values[:, part])
        length = np.sqrt(np.einsum("ij,ij->i", ranks, ranks))[:, None]
        unit[:, part] = np.divide(ranks, length, out=ranks, where=length > 0).T
    return unit


def _rank_sums(
    labels: NDArray[np.integer], code: int, unit_ranks: NDArray[np.float32]
) -> tuple[NDArray[np.float32], Floats]:
    """The class's sum of ranks under each row of labels, and its spread under permutation."""
    inside = (labels == code).astype(np.float32)
    n, total = inside.sum(axis=1, dtype=np.float64), labels.shape[1]
    return inside @ unit_ranks, np.sqrt(n * (total - n) / (total * (total - 1.0)))


def by_columns(
    block: FeatureBlock, compare: Callable[[FeatureBlock], pd.DataFrame]
) -> pd.DataFrame:
    """The same rows in the same order, some columns at a time, by the workers of a cluster."""
    n, c = block.matrix.shape
    columns = [*pieces(c, n * _LESS_AT_ONCE)]
    some = (
        replace(block, matrix=block.matrix[:, part], neurons=block.neurons[part])
        for part in columns
    )
    tables = done_on_cluster(partial(compare, one) for one in some)
    of_class = [np.repeat(np.arange(len(t) // (p.stop - p.start)), p.stop - p.start)
                for t, p in zip(tables, columns, strict=True)]  # fmt: skip
    order = np.argsort(np.concatenate(of_class), kind="stable")
    return pd.concat(tables, ignore_index=True).iloc[order].reset_index(drop=True)
