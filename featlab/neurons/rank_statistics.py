"""Rank statistics of many columns at once, each class against the rest, from one sort."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from featlab.arguments import effective_units
from featlab.intervals import auroc_score_interval
from featlab.system.machine import CACHED, pieces

Floats = NDArray[np.float64]
PerClass = TypeVar("PerClass", bound=Any)

INFORMATION_BINS = 8


@dataclass(frozen=True)
class RankStatistics:
    """One-vs-rest rank statistics of c columns for k classes; arrays (k, c) unless said.

    Attributes
    ----------
    u : ndarray
        Mann-Whitney's U of the class: pairs (class, rest) that the class wins, ties count half.
    variance_class, variance_rest : ndarray
        The two parts of DeLong's variance of the AUROC; NaN for a class, or a rest, of one image.
    average_precision : ndarray
        Area under the steps of the precision-recall curve of the class, in [0, 1].
    distance : ndarray
        Kolmogorov and Smirnov's: the largest difference of the two distribution functions.
    median, median_ref : ndarray
        Of the class and of the rest.
    information : ndarray
        Mutual information of membership and of the value in one of `INFORMATION_BINS` bins of
        (nearly) equal numbers of images, in nats.
    bins : ndarray of shape (1, c)
        Bins that are in use; equal values share one.
    bin_shares : ndarray of shape (1, c)
        Sum over these bins of all images / images in the bin.
    ties : ndarray of shape (1, c)
        Sum of t^3 - t over the groups of t equal values.
    largest_tie : ndarray of shape (1, c)
        Images that share the commonest value.
    end_tie : ndarray of shape (1, c)
        Images that share the smallest value; or the largest, then negative, if those are more.
    tied : ndarray
        Pairs (class, rest) of equal values other than that one.
    n, n_ref : ndarray of shape (k, 1)
        Images in the class and in the rest.
    """

    u: Floats
    variance_class: Floats
    variance_rest: Floats
    average_precision: Floats
    distance: Floats
    median: Floats
    median_ref: Floats
    information: Floats
    bins: Floats
    bin_shares: Floats
    ties: Floats
    largest_tie: Floats
    end_tie: Floats
    tied: Floats
    n: Floats
    n_ref: Floats

    @property
    def auroc(self) -> Floats:
        """Probability that an image of the class exceeds one of the rest; (k, c), in [0, 1]."""
        return self.u / (self.n * self.n_ref)

    @property
    def variance(self) -> Floats:
        """DeLong's variance of the AUROC, (k, c)."""
        return self.variance_class + self.variance_rest


def rank_statistics(values: NDArray, codes: NDArray[np.intp], n_classes: int) -> RankStatistics:
    """Sort every column once and compare each class with the rest.

    Parameters
    ----------
    values : ndarray of shape (n, c)
        Finite.
    codes : ndarray of shape (n,)
        Class codes from 0 to `n_classes` - 1; each at least once.
    n_classes : int

    References
    ----------
    DeLong, DeLong & Clarke-Pearson (1988). Comparing the areas under two or more correlated
    receiver operating characteristic curves. Biometrics 44, 837-845. The placements are differences
    of midranks: Sun & Xu (2014), IEEE Signal Processing Letters 21, 1389-1393.
    """
    parts = [
        _rank_part(values[:, part], codes, n_classes)
        for part in pieces(values.shape[1], len(values), CACHED)
    ]
    n = np.bincount(codes, minlength=n_classes).astype(np.float64)[:, None]
    arrays = (np.concatenate(pieces, axis=-1) for pieces in zip(*parts, strict=True))
    return RankStatistics(*arrays, n, len(values) - n)  # type: ignore[call-arg]


def _rank_part(values: NDArray, codes: NDArray[np.intp], n_classes: int) -> list[Floats]:
    """The arrays of `RankStatistics` up to ``tied`` for a few columns."""
    columns = np.ascontiguousarray(values.T)
    order = np.argsort(columns, axis=1)
    ordered = _taken(columns, order)
    start, end = tie_bounds(ordered)
    members = codes[order]
    total = len(values)
    # Images that lie lower, ties counting half: the midrank less one half.
    below = (start + end) / 2
    n_columns = len(columns)
    u, v_class, v_rest, precision, distance, median, median_ref, information, tied = (
        np.empty((n_classes, n_columns)) for _ in range(9)
    )
    edges = _bin_edges(end, total)
    size = (end - start).astype(np.float64)
    lowest, highest = size[:, 0], size[:, -1]
    is_low = lowest >= highest
    # Of two classes one is the other's rest: all but the precision is known from the first.
    for code in range(n_classes if n_classes > 2 else 1):
        inside = members == code
        counts = np.zeros((n_columns, total + 1), dtype=np.int64)
        np.cumsum(inside, axis=1, out=counts[:, 1:])
        at_start = _taken(counts, start)
        at_end = _taken(counts, end)
        n = int(counts[0, -1])
        n_ref = total - n
        below_inside = (at_start + at_end) / 2
        wins = below - below_inside
        u[code] = np.einsum("ij,ij->i", wins, inside)
        v_class[code] = _variance(wins, inside, n) / (n * n_ref**2)
        v_rest[code] = _variance(below_inside, ~inside, n_ref) / (n_ref * n**2)
        # Precision at the threshold of each member: of the images at least as large, the members.
        precision[code] = np.einsum("ij,ij->i", (n - at_start) / (total - start), inside) / n
        if n_classes == 2:
            lost = (n - at_start) / (total - start)
            precision[1] = np.einsum("ij,ij->i", 1 - lost, ~inside) / n_ref
        gap = at_end / n - (end - at_end) / n_ref
        distance[code] = np.abs(gap).max(axis=1)
        median[code] = _median(ordered, counts[:, 1:], n)
        median_ref[code] = _median(ordered, np.arange(1, total + 1) - counts[:, 1:], n_ref)
        information[code] = _information(counts, edges, n, total)
        own = np.where(is_low, at_end[:, 0], n - at_start[:, -1])
        pairs = np.einsum("ij,ij->i", size - (at_end - at_start), inside)
        tied[code] = pairs - own * (np.maximum(lowest, highest) - own)
    if n_classes == 2:
        u[1] = n * n_ref - u[0]
        v_class[1], v_rest[1] = v_rest[0], v_class[0]
        median[1], median_ref[1] = median_ref[0], median[0]
        distance[1], information[1], tied[1] = distance[0], information[0], tied[0]
    in_bin = np.diff(edges, axis=1)
    bins = (in_bin > 0).sum(axis=1, dtype=np.float64)
    shares = np.divide(total, in_bin, out=np.zeros(in_bin.shape), where=in_bin > 0).sum(axis=1)
    ties = (size**2 - 1).sum(axis=1)
    end_tie = np.where(is_low, lowest, -highest)
    return [u, v_class, v_rest, precision, distance, median, median_ref, information, bins[None],
            shares[None], ties[None], size.max(axis=1)[None], end_tie[None], tied]  # fmt: skip


def tie_bounds(ordered: NDArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First position of each value's group of equals in its sorted row, and the one after it."""
    n = ordered.shape[1]
    change, place = ordered[:, 1:] != ordered[:, :-1], np.arange(1, n)
    start, end = np.zeros(ordered.shape, dtype=np.intp), np.full(ordered.shape, n, dtype=np.intp)
    np.multiply(change, place, out=start[:, 1:])
    np.copyto(end[:, :-1], place, where=change)
    np.maximum.accumulate(start, axis=1, out=start)
    np.minimum.accumulate(end[:, ::-1], axis=1, out=end[:, ::-1])
    return start, end


def centred_ranks(values: NDArray) -> Floats:
    """Midranks of every column, less their mean, times two: whole numbers; ``(c, n)``."""
    columns = np.ascontiguousarray(values.T)
    order = np.argsort(columns, axis=1)
    start, end = tie_bounds(_taken(columns, order))
    ranks = np.empty(columns.shape)
    np.put_along_axis(ranks, order, start + end - float(len(values)), axis=1)
    return ranks


def _taken(rows: NDArray, places: NDArray[np.intp]) -> NDArray:
    """`numpy.take_along_axis` of each row, in a third of the time."""
    return rows.take(places + np.arange(len(rows))[:, None] * rows.shape[1])


def _variance(values: Floats, mask: NDArray[np.bool_], size: int) -> Floats:
    """Variance along the rows over the marked places; NaN for one place.

    In two passes, because equal values must give exactly zero.
    """
    if size < 2:
        return np.full(len(values), np.nan)
    mean = np.einsum("ij,ij->i", values, mask) / size
    off = (values - mean[:, None]) * mask
    return np.einsum("ij,ij->i", off, off) / (size - 1)


def _median(ordered: NDArray, counted: NDArray[np.int64], n: int) -> Floats:
    """Median of the counted places of each sorted row; `counted` is their running number."""
    middle = [(counted > k).argmax(axis=1)[:, None] for k in {(n - 1) // 2, n // 2}]
    middles = [np.take_along_axis(ordered, at, 1)[:, 0] for at in middle]
    return np.mean(middles, axis=0, dtype=np.float64)


def _bin_edges(end: NDArray[np.intp], total: int) -> NDArray[np.intp]:
    """Positions that cut each sorted row into bins of equal size; ties stay in the lower one."""
    cuts = np.arange(1, INFORMATION_BINS) * total // INFORMATION_BINS
    edges = np.zeros((len(end), INFORMATION_BINS + 1), dtype=np.intp)
    edges[:, 1:-1] = end[:, np.maximum(cuts, 1) - 1]
    edges[:, -1] = total
    return edges


def _information(counts: NDArray[np.int64], edges: NDArray[np.intp], n: int, total: int) -> Floats:
    size = np.diff(edges, axis=1)
    inside = np.diff(np.take_along_axis(counts, edges, 1), axis=1)
    result = np.zeros(len(counts))
    for observed, share in ((inside, n / total), (size - inside, 1 - n / total)):
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = observed * np.log(observed / (size * share))
        result += np.where(observed > 0, terms, 0).sum(axis=1)
    return np.maximum(result / total, 0)


def auroc_interval(statistics: RankStatistics) -> tuple[Floats, Floats]:
    """95 % interval of the AUROC, within [0, 1].

    Newcombe's, widened where DeLong's variance is larger, see
    :func:`featlab.intervals.auroc_score_interval`.

    Returns
    -------
    low, high : ndarrays of shape (k, c)
    """
    low, high = auroc_score_interval(
        statistics.auroc,
        statistics.n,
        statistics.n_ref,
        variances=(statistics.variance_class, statistics.variance_rest),
    )
    return low, high


@dataclass(frozen=True)
class ClusteredAuroc:
    """AUROC of c columns, and what is known of its spread when images come in groups.

    Attributes
    ----------
    auroc : ndarray of shape (c,)
    n, n_ref : ndarray of shape (c,)
        Effective sizes of the class and the rest: as many independent images say as much.
    variances : two ndarrays of shape (c,)
        Of the AUROC, of the class and of the rest.
    units : (float, float)
        Effective number of groups of the class and of the rest; NaN for a single one.
    """

    auroc: Floats
    n: Floats
    n_ref: Floats
    variances: tuple[Floats, Floats]
    units: tuple[float, float]

    def limits(self, **given: Any) -> tuple[Floats, ...]:
        """:func:`featlab.intervals.auroc_score_interval` of it."""
        return auroc_score_interval(
            self.auroc, self.n, self.n_ref, variances=self.variances, units=self.units, **given
        )


def clustered_auroc(
    values: NDArray, inside: NDArray[np.bool_], unit: NDArray[np.intp]
) -> ClusteredAuroc:
    """AUROC of every column when images come in groups; its variance counts the groups.

    The variance is Obuchowski's. An AUROC near 1 shows little of it, so the effective sizes of the
    score interval come from the images' ranks: n / (1 + (n / k - 1) r), with k groups of the side
    (Kish's number) and r, the intraclass correlation of the ranks within class and rest (analysis
    of variance). Where a side is one group, nothing is known: its number of units is NaN, and so is
    the interval.

    Parameters
    ----------
    values : ndarray of shape (n, c)
    inside : ndarray of shape (n,)
        Whether an image is of the class.
    unit : ndarray of shape (n,)
        Group number of every image.

    References
    ----------
    Obuchowski (1997). Nonparametric analysis of clustered ROC curve data. Biometrics 53, 567-578.
    Donner & Klar (2000). Design and analysis of cluster randomization trials. Arnold (the effective
    size, and the intraclass correlation of unequal groups).
    """
    n, n_ref = int(inside.sum()), int((~inside).sum())
    ranks = rankdata(values, axis=0)
    won = (ranks[inside] - rankdata(values[inside], axis=0)) / n_ref
    lost = 1 - (ranks[~inside] - rankdata(values[~inside], axis=0)) / n
    auroc = won.mean(axis=0)
    k = int(unit.max()) + 1
    sums = np.zeros((2, k, values.shape[1]))
    np.add.at(sums[0], unit[inside], (won - auroc) / n)
    np.add.at(sums[1], unit[~inside], (lost - auroc) / n_ref)
    sides = [np.unique(unit[side], return_inverse=True)[1] for side in (inside, ~inside)]
    units = _units_or_nan(sides[0]), _units_or_nan(sides[1])
    count = [max(int(codes.max()), 1) for codes in sides]
    squares = [(c + 1) / c * (part**2).sum(axis=0) for c, part in zip(count, sums, strict=True)]
    # Groups with images of both sides: what they share lowers or raises the variance.
    common = np.maximum(2 * k / max(k - 1, 1) * (sums[0] * sums[1]).sum(axis=0), -sum(squares))
    variances = (squares[0] + common / 2, squares[1] + common / 2)
    r = _intraclass([ranks[inside], ranks[~inside]], sides)
    size, size_ref = (m / (1 + (m / u - 1) * r) for m, u in zip((n, n_ref), units, strict=True))
    return ClusteredAuroc(auroc, size, size_ref, variances, units)


def _units_or_nan(codes: NDArray[np.intp]) -> float:
    return effective_units(codes) if codes.max() > 0 else float("nan")


def _intraclass(parts: list[Floats], codes: list[NDArray[np.intp]]) -> Floats:
    """Intraclass correlation of every column, pooled over the parts; in [0, 1]."""
    columns = parts[0].shape[1]
    between, within = np.zeros(columns), np.zeros(columns)
    df_between, df_within, typical = 0, 0, 0.0
    for part, code in zip(parts, codes, strict=True):
        sizes = np.bincount(code).astype(float)
        sums = np.zeros((len(sizes), columns))
        np.add.at(sums, code, part)
        means = sums / sizes[:, None]
        between += (sizes[:, None] * (means - part.mean(axis=0)) ** 2).sum(axis=0)
        within += ((part - means[code]) ** 2).sum(axis=0)
        df_between += len(sizes) - 1
        df_within += len(part) - len(sizes)
        typical += len(part) - float((sizes**2).sum()) / len(part)
    if not df_within:  # every image is a group
        return np.zeros(columns)
    if not df_between:
        return np.ones(columns)
    between, within = between / df_between, within / df_within
    all_of_it = between + (typical / df_between - 1) * within
    share = np.divide(between - within, all_of_it, out=np.ones(columns), where=all_of_it > 0)
    return np.clip(share, 0, 1)


def one_class(statistics: PerClass, code: int) -> PerClass:
    """The statistics of one of the classes; arrays (1, c)."""
    values = {field.name: getattr(statistics, field.name) for field in fields(statistics)}
    shared = ("bins", "bin_shares", "ties", "largest_tie", "end_tie")
    return replace(
        statistics,
        **{name: v[code : code + 1] for name, v in values.items() if name not in shared},
    )


@dataclass(frozen=True)
class Moments:
    """Means and sums of squares of c columns in k classes and their rests; arrays (k, c).

    Attributes
    ----------
    mean, mean_ref : ndarray
    squares, squares_ref : ndarray
        Sum of squared deviations from the mean.
    pts, pts_ref : ndarray
        Share of the images in which the neuron fires (> 0), in [0, 1].
    n, n_ref : ndarray of shape (k, 1)
    """

    mean: Floats
    mean_ref: Floats
    squares: Floats
    squares_ref: Floats
    pts: Floats
    pts_ref: Floats
    n: Floats
    n_ref: Floats

    @property
    def sd(self) -> Floats:
        """Standard deviation in the class (divided by n - 1); NaN for one image."""
        return _sd(self.squares, self.n)

    @property
    def sd_ref(self) -> Floats:
        """Standard deviation in the rest."""
        return _sd(self.squares_ref, self.n_ref)


def moments(values: NDArray, codes: NDArray[np.intp], n_classes: int) -> Moments:
    """Moments of every column in each class and in its rest.

    The squares of a class are summed around its own mean, and those of the rest put together from
    the other classes', so that equal values give exactly zero.
    """
    n = np.bincount(codes, minlength=n_classes).astype(np.float64)[:, None]
    mean, squares, fires = (np.empty((n_classes, values.shape[1])) for _ in range(3))
    members = [np.flatnonzero(codes == code) for code in range(n_classes)]
    for columns in pieces(values.shape[1], len(values), CACHED):
        block = values[:, columns].astype(np.float64)
        for code, rows in enumerate(members):
            part = block[rows]
            mean[code, columns] = part.mean(axis=0)
            squares[code, columns] = ((part - mean[code, columns]) ** 2).sum(axis=0)
            fires[code, columns] = (part > 0).sum(axis=0)
    other = 1 - np.eye(n_classes)
    n_ref = other @ n
    mean_ref = other @ (n * mean) / n_ref
    squares_ref = np.stack(
        [other[code] @ (squares + n * (mean - mean_ref[code]) ** 2) for code in range(n_classes)]
    )
    return Moments(mean, mean_ref, squares, squares_ref, fires / n, other @ fires / n_ref, n, n_ref)


def _sd(squares: Floats, n: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n > 1, np.sqrt(squares / (n - 1)), np.nan)
