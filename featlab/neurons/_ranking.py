"""The neuron table: every neuron against every class, one corrected family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import (
    FeatureBlock,
    Features,
    check_between,
    check_choice,
    check_choices,
    class_codes,
    feature_blocks,
    group_codes,
    group_names,
    has_groups,
    is_signed,
)
from featlab.errors import FeatlabError
from featlab.neurons._corrections import adjust, by_columns, check_correction, max_t
from featlab.neurons._tests import (
    TESTS,
    WEIGHTED_TESTS,
    checked_weights,
    descriptions,
    l1_coefficients,
    measures,
    weighted_statistics,
)
from featlab.neurons.rank_statistics import (
    Floats,
    clustered_auroc,
    moments,
    one_class,
    rank_statistics,
)
from featlab.neurons.rank_tests import FEW, WHOLE, grouped_p, scheme_of
from featlab.results.analysis import Selection
from featlab.system.machine import matrix_rows, pieces
from featlab.system.processes import has_cluster

DEAD, LITTLE = "constant", "constant in the images compared"
FEW_IMAGES, NO_P = "too few images", "the test has no p"
NOT_WITHIN = "the test cannot take groups of several classes"
"""Why a row has no p."""

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
    "direction",
    "reference",
    "median",
    "median_ref",
    "sd",
    "sd_ref",
    "hedges_g",
    "point_biserial",
    "average_precision",
    "log_fold_change",
    "reason",
]
"""Columns of the neuron table, in order."""
L1 = "l1_logistic"
REST = ""
"""The reference of a comparison with all other classes: no class has this name."""

Comparison = tuple[list[str], list[str], NDArray[np.bool_] | None, NDArray[np.intp]]
"""Classes, their references, the rows compared (None: all) and the codes of those rows."""


def rank_neurons(
    X: Features,
    y: ArrayLike,
    *,
    reference: str | Sequence[str] | None = None,
    test: str = Selection.test,
    correction: str = Selection.correction,
    alpha: float = Selection.alpha,
    min_auroc: float = Selection.min_auroc,
    weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    random_state: int = 0,
) -> pd.DataFrame:
    """Compare every neuron's activations between each class and the rest.

    A detector is a neuron whose corrected p-value is at most `alpha` *and* whose AUROC for the
    class lies at least as far from 0.5 as `min_auroc`. Both directions count: ``direction`` is
    "active" where the neuron is larger in the class, and "silent" where it is smaller. With two
    classes each neuron is tested twice, with the same two-sided p, and a neuron active for one is
    silent for the other; the family holds both rows.

    A dead neuron (the same value in every image compared) has NaN for statistic, p and effects, is
    left out of the corrected family, ranks last and is never a detector.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c), or a list of such DataFrames
        Pooled activations; finite. The columns of a DataFrame are the neuron ids. Several tables
        (layers, poolings) of the same images are corrected as one family.
    y : array_like of shape (n,)
        Labels; row i is row i of `X`.
    reference : str or sequence of str, optional
        The class, or classes, that each class is compared with one by one (all classes: every
        pair); by default all images of the other classes together, the rest.
    test : str
        Two-sided: "mannwhitneyu" (normal approximation, corrected for ties and continuity; exact
        where a side (the class or its reference) has fewer than ten images, the smallest or largest
        value holds more than half of all, or up to 50 images in all have no ties), "welch" and
        "brunner_munzel" (of single images never below that p), "kolmogorov_smirnov" (exact below
        ten images, else asymptotic), "mutual_information" (in nats, over 8 bins of equal numbers of
        images, with the likelihood-ratio test; none below ten images a bin on either side); or
        "l1_logistic", whose statistic is the coefficient of an L1-penalised logistic regression on
        standardised activations: it has no p, and "rejects" where the coefficient is not zero.
    correction : str
        A method of `statsmodels.stats.multitest.multipletests` over all rows of the table;
        "local_fdr" (Efron's, then ``p_adjusted`` is the chance that this very row is null, and at
        least the p-value of Simes' test that all are); or "max_t", 1,000 permutations of the
        labels ("mannwhitneyu" against the rest only).
    alpha : float
        Bound of the corrected p-value, in (0, 1]; 1 asks nothing.
    min_auroc : float
        Smallest AUROC of an active detector, in [0.5, 1]; of a silent one, 1 minus the largest.
    weights : array_like of shape (n,), optional
        How much each image counts, positive: one over the size of its breed, say, so that every
        breed counts the same. Means, effects and tests are then those of the weighted sides, with
        Kish's effective numbers of images [4]_; for the tests "brunner_munzel" and "welch". No p
        where, of a side, fewer than ten by that number are to be expected outside a commonest value
        of most images.
    groups : array_like of shape (n,), optional
        Groups of images that are not independent; "" is no group. Then ``p``, ``p_adjusted`` and
        ``reject`` take the group as their unit, by as many images of each group (`test` on groups'
        means), and "mannwhitneyu" also within groups that hold several classes; "max_t" permutes
        the labels of those, or labels within groups. Below five groups a side, and for what cannot
        take groups, there is no p. ``detector`` then goes by the corrected p-values of single
        images, which only screen: a choice needs none to be exact, and `confirm_neurons` judges
        it. Detectors alone have an interval.
    random_state : int
        For the permutations of "max_t" and the folds of "l1_logistic".

    Returns
    -------
    DataFrame, one row per (layer, pooling, class, reference, neuron)
        Columns `COLUMNS`, sorted by layer, pooling, class, reference and rank. ``n`` and ``n_ref``
        are images in the class and in the reference; ``mean``, ``median`` and ``sd`` the
        activations' (``_ref``: the reference's), ``pts`` and ``pts_ref`` the shares of images in
        which the neuron fires (> 0; NaN of signed layers); ``auroc`` has a 95 % interval [1]_;
        ``effect`` is Cliff's delta, 2 auroc - 1; ``hedges_g`` the standardised mean difference with
        the correction for small samples [3]_; ``point_biserial`` the correlation with membership;
        ``average_precision`` is of the class among the images compared; ``log_fold_change`` is
        log2 of the means' ratio (1e-9 added to both; NaN for negative means); ``rank`` is 1 for
        the highest AUROC of the layer, pooling, class and reference (ties by p, then by neuron).
        ``reason`` says why a row has no p, "" where it has one.
        ``reference`` is the class compared with, "" for the rest. ``attrs`` repeats the parameters
        and ``n_tests``, the size of the family (the rows that have a p).

    Raises
    ------
    FeatlabError
        NaN or infinite values in `X`, fewer than two classes, rows that do not match, an unknown
        `test`, `correction` or `reference`, a correction that the test cannot have, weights that
        are not positive or that the test cannot have, `alpha` or `min_auroc` out of range.

    Notes
    -----
    The interval is the score interval of [2]_ (method 5), widened where DeLong's variance [1]_ is
    larger. Where
    no side of a Welch or Brunner-Munzel comparison varies, p is the share of relabellings that
    separate as well. A class or reference of one image has no p in these two tests.

    References
    ----------
    .. [1] DeLong, DeLong & Clarke-Pearson (1988). Biometrics 44, 837-845.
    .. [2] Newcombe (2006). Statistics in Medicine 25, 559-573.
    .. [3] Hedges (1981). Journal of Educational Statistics 6, 107-128.
    .. [4] Kish (1965). Survey Sampling, section 8.2.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["cat", "dog"], 50)
    >>> X = rng.normal(size=(100, 3)) + 2 * np.outer(y == "cat", [1, 0, 0])
    >>> table = rank_neurons(X, y)
    >>> table.loc[table["detector"], ["class", "neuron", "direction"]].values.tolist()
    [['cat', 0, 'active'], ['dog', 0, 'silent']]
    """
    check_choice("test", test, (*TESTS, L1))
    check_correction(correction, alpha)
    check_between("min_auroc", min_auroc, 0.5, 1.0)
    blocks = feature_blocks(X, y, weights=weights, groups=groups)
    codes, classes = class_codes(y, least=2)
    names = group_names(groups, len(codes))
    grouped = has_groups(group_codes(names, len(codes)))
    references = _reference_codes(reference, classes)
    if correction == "max_t" and (test != "mannwhitneyu" or references is not None):
        raise FeatlabError(
            "correction 'max_t' permutes the labels of rank sums against the rest: it goes with "
            f"test 'mannwhitneyu' and no reference, got {test!r} and {reference!r}."
        )
    counted = None if weights is None else checked_weights(weights, codes)
    if counted is not None and test not in WEIGHTED_TESTS:
        raise FeatlabError(f"weights go with the tests {list(WEIGHTED_TESTS)}, got {test!r}.")
    comparisons = list(_comparisons(codes, classes, references))
    compare = partial(_compare, comparisons, test, counted, random_state)
    parts = [by_columns(block, compare) if has_cluster() else compare(block) for block in blocks]
    table = pd.concat(parts, ignore_index=True)
    _forget_firing_of_signed(table)
    single = table["p"].to_numpy()
    _set_reasons(table, test)
    if grouped:
        _count_groups(table, blocks, comparisons, names, test)
    excess = table["auroc"].to_numpy() - 0.5
    attrs: dict[str, Any] = {}
    if correction == "max_t":
        table["p_adjusted"], scheme = max_t(
            blocks,
            codes,
            len(classes),
            groups=groups,
            random_state=random_state,
        )
        attrs = {"permuted": scheme}
    else:
        table["p_adjusted"] = adjust(table["p"].to_numpy(), correction, alpha, sign=excess)
    table["effect"] = 2 * table["auroc"] - 1
    table["reject"] = table["statistic"].abs() > 0 if test == L1 else table["p_adjusted"] <= alpha
    # Rounding must not decide at the border itself.
    far = table["effect"].abs() >= 2 * min_auroc - 1 - 1e-12
    table["detector"] = table["reject"] & far
    if grouped:
        if test != L1 and correction != "max_t":
            table["detector"] = far & (adjust(single, correction, alpha, sign=excess) <= alpha)
        _set_intervals(table, blocks, comparisons, names)
    table["direction"] = np.where(table["effect"] < 0, "silent", "active")
    table = _ranked(table)[COLUMNS]
    attrs |= {
        "weighted": counted is not None,
        "test": test,
        "correction": correction,
        "alpha": float(alpha),
        "min_auroc": float(min_auroc),
        "n_tests": int(table["p"].notna().sum()),
        "reference": "the rest" if references is None else [str(classes[k]) for k in references],
    }
    table.attrs.update(attrs)
    return table


def _compare(
    comparisons: list[Comparison],
    test: str,
    weights: Floats | None,
    random_state: int,
    block: FeatureBlock,
) -> pd.DataFrame:
    """Uncorrected, unsorted rows of the neuron table for one feature table."""
    parts = []
    for names, against, rows, inside in comparisons:
        values = block.matrix
        if rows is not None:
            values = matrix_rows(values, np.flatnonzero(rows))
        k, counts = int(inside.max()) + 1, np.bincount(inside)
        if weights is None:
            ranks, sizes = rank_statistics(values, inside, k), moments(values, inside, k)
        else:
            used = weights if rows is None else weights[rows]
            ranks, sizes = weighted_statistics(values, inside, k, used)
        if len(names) < len(ranks.n):
            ranks, sizes = one_class(ranks, 0), one_class(sizes, 0)
        if test == L1:
            statistic = l1_coefficients(values, inside, len(names), random_state)
            p = np.full_like(statistic, np.nan)
        else:
            statistic, p = TESTS[test](ranks, sizes)
        alive = values.min(axis=0) < values.max(axis=0)
        columns: dict[str, Floats] = {
            name: np.where(alive, array, np.nan)
            for name, array in measures(ranks, sizes, statistic, p).items()
        } | descriptions(ranks, sizes)
        c = len(block.neurons)
        cells: dict[Any, Any] = {
            "layer": block.layer,
            "pooling": block.pooling,
            "class": np.repeat(np.asarray(names, dtype=object), c),
            "neuron": np.tile(block.neurons, len(names)),
            "reference": np.repeat(np.asarray(against, dtype=object), c),
            "n": np.repeat(counts[: len(names)], c),
            "n_ref": np.repeat(counts.sum() - counts[: len(names)], c),
        }
        cells.update({name: array.ravel() for name, array in columns.items()})
        parts.append(pd.DataFrame(cells).infer_objects())
    return pd.concat(parts, ignore_index=True)


def _forget_firing_of_signed(table: pd.DataFrame) -> None:
    for _, means in table.groupby(["layer", "pooling"], sort=False)["mean"]:
        if is_signed(means.to_numpy()):
            table.loc[means.index, ["pts", "pts_ref"]] = np.nan


def _set_reasons(table: pd.DataFrame, test: str) -> None:
    """Why a row of single images has no p."""
    without = NO_P if test == L1 else FEW_IMAGES
    table["reason"] = np.select([table["auroc"].isna(), table["p"].isna()], [DEAD, without], "")


def _count_groups(
    table: pd.DataFrame,
    blocks: list[FeatureBlock],
    comparisons: list[Comparison],
    names: NDArray[np.str_],
    test: str,
) -> None:
    """The p of groups in place of those of single images, and why a row has none."""
    parts = [
        _p_by_groups(block, comparison, names, test)
        for block in blocks
        for comparison in comparisons
    ]
    p, reasons = (np.concatenate(part) for part in zip(*parts, strict=True))
    table["p"] = np.where(table["p"].isna(), np.nan, p)
    table["reason"] = table["reason"].mask(table["p"].isna() & table["reason"].eq(""), reasons)


def _p_by_groups(
    block: FeatureBlock, comparison: Comparison, names: NDArray[np.str_], test: str
) -> tuple[Floats, NDArray[np.str_]]:
    """Uncorrected p of one feature table and comparison, with the group as the unit; and why there
    is none, if there is none.
    """
    compared, _, rows, codes = comparison
    values = block.matrix
    if rows is not None:
        values, names = matrix_rows(values, np.flatnonzero(rows)), names[rows]
    if test == "mannwhitneyu":
        p = grouped_p(values, codes, names)
    elif test in TESTS:
        p = grouped_p(values, codes, names, test=lambda *samples: TESTS[test](*samples)[1])
    else:
        p = np.full((len(compared), values.shape[1]), np.nan)
    p = p[: len(compared)]
    none = np.isnan(p).all(axis=1, keepdims=True)
    why = FEW if scheme_of(codes, names) == WHOLE else NOT_WITHIN
    return p.ravel(), np.broadcast_to(np.where(none, why, LITTLE), p.shape).ravel()


def _set_intervals(
    table: pd.DataFrame,
    blocks: list[FeatureBlock],
    comparisons: list[Comparison],
    names: NDArray[np.str_],
) -> None:
    """Intervals of the detectors that count groups, and none of the others."""
    table[["auroc_low", "auroc_high"]] = np.nan
    of_side = table[table["detector"]].groupby(["layer", "pooling", "class", "reference"])
    for block in blocks:
        for compared, against, rows, codes in comparisons:
            used = slice(None) if rows is None else rows
            unit = group_codes(names[used], len(codes))
            for code, key in enumerate(zip(compared, against, strict=True)):
                place = (block.layer, block.pooling, *key)
                if place not in of_side.groups:
                    continue
                mine = of_side.groups[place]
                places = block.places(table["neuron"][mine])
                for part in pieces(len(places), len(codes)):
                    values = block.matrix[:, places[part]][used].astype(np.float64)
                    limits = clustered_auroc(values, codes == code, unit).limits()
                    table.loc[mine[part], ["auroc_low", "auroc_high"]] = np.stack(limits, axis=1)


def _reference_codes(
    reference: str | Sequence[str] | None, classes: NDArray[np.object_]
) -> list[int] | None:
    if reference is None:
        return None
    names = classes.tolist()
    several = isinstance(reference, (list, tuple, np.ndarray))
    asked = [str(name) for name in reference] if several else [str(reference)]
    if not asked:
        raise FeatlabError("reference is empty; name a class, or leave it out for all others.")
    return [names.index(name) for name in check_choices("reference", asked, names)]


def _comparisons(
    codes: NDArray[np.intp], classes: NDArray[np.object_], references: list[int] | None
) -> Iterator[Comparison]:
    """What is compared; where there is one name fewer than codes, the last is only a reference."""
    if references is None:
        yield classes.tolist(), [REST] * len(classes), None, codes
        return
    for a, b in combinations(range(len(classes)), 2):
        if a not in references and b not in references:
            continue
        first, second = (a, b) if b in references else (b, a)
        pair = [classes[first], classes[second]]
        names, against = pair[:1], pair[1:]
        if a in references and b in references:
            names, against = pair, pair[::-1]
        rows = (codes == first) | (codes == second)
        yield names, against, rows, (codes[rows] == second).astype(np.intp)


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Sorted by layer, pooling, class, reference and rank (by AUROC, then p, then neuron)."""
    compared = ["layer", "pooling", "class", "reference"]
    table = table.sort_values(
        [*compared, "auroc", "p", "neuron"],
        ascending=[True] * len(compared) + [False, True, True],
        na_position="last",
        ignore_index=True,
    )
    table["rank"] = table.groupby(compared).cumcount() + 1
    return table
