"""Is one head, or one network, better than another: on the same test images, or the same folds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from featlab.arguments import check_choice, check_same_rows, check_whole
from featlab.errors import FeatlabError
from featlab.features import feature_table
from featlab.heads._evaluation import evaluate_heads
from featlab.heads.models import HEADS_DEFAULT
from featlab.heads.scores import METRICS
from featlab.intervals import holm, mean_interval
from featlab.results.analysis import (
    BASELINE_HEADS,
    BackboneComparison,
    CrossValidation,
    HeadResults,
)
from featlab.store import MapStore

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

_N_BOOT = 2000


def compare_heads(
    results: HeadResults | CrossValidation,
    a: str | None = None,
    b: str | None = None,
    *,
    metric: str = "accuracy",
    n_boot: int = _N_BOOT,
    random_state: int = 0,
) -> pd.DataFrame:
    """Compare heads pair by pair, on the same test images or over the same folds.

    Parameters
    ----------
    results : HeadResults or CrossValidation
    a, b : str, optional
        Two of its heads; with one of them, that one and each of the others; every pair by default.
    metric : {"accuracy", "balanced_accuracy", "roc_auc", "log_loss"}
        What is compared over folds; on one test set only ``accuracy`` is.
    n_boot, random_state : int
        Resamples of the groups, where there are any, and their seed.

    Returns
    -------
    DataFrame, one row per pair
        On a test set: ``a``, ``b``, ``n`` (test images), ``accuracy_a``, ``accuracy_b``,
        ``difference`` (a - b, -1 to 1) with ``difference_low`` and ``difference_high`` (95 %,
        paired), ``only_a`` and ``only_b`` (images that only this one has right), ``p`` (two-sided)
        and ``test``. Over folds: ``a, b, metric, mean_a, mean_b``, ``n_scores`` (folds and
        repeats), ``difference`` with its limits, ``t``, ``p``. Then ``p_adjusted``: Holm over the
        rows; a pair whose p is NaN stays out of the family.

    Raises
    ------
    FeatlabError
        A head that is not in the results, an unknown metric, or another than the accuracy of one
        test set.

    Notes
    -----
    ``test`` is McNemar's exact one. Where test images share groups, the exact sign-flip test of the
    groups' differences stands in its place (the same when every image is its own group). The
    interval is :func:`featlab.intervals.mean_interval` of the images' differences; of single images
    it leaves out 0 where p < 0.05, and only there.
    With g groups the sign-flip test's least p is 2 / 2**g, so with fewer than six it finds nothing.

    Over folds it is the corrected resampled t-test: the training sets overlap, so the plain t-test
    finds differences that are not there.

    References
    ----------
    McNemar (1947). Psychometrika 12, 153-157. Dietterich (1998). Approximate statistical tests for
    comparing supervised classification learning algorithms. Neural Computation 10, 1895-1923.
    Nadeau & Bengio (2003). Inference for the generalization error. Machine Learning 52, 239-281.
    Holm (1979). Scandinavian Journal of Statistics 6, 65-70.
    """
    check_whole("n_boot", n_boot, 1)
    if isinstance(results, CrossValidation):
        heads = results.table["head"].drop_duplicates().tolist()
        rows = _over_folds(results, _pairs_of(heads, a, b), metric)
    elif metric != "accuracy":
        raise FeatlabError(f"metric must be 'accuracy' for one test set, got {metric!r}.")
    else:
        pairs = _pairs_of(list(results.models), a, b)
        right = {
            name: results.of(name)["correct"].to_numpy(bool)
            for name in dict.fromkeys(itertools.chain(*pairs))
        }
        rows = [
            {"a": one, "b": other}
            | paired(right[one], right[other], results.clusters, n_boot, random_state)
            for one, other in pairs
        ]
    table = pd.DataFrame(rows)
    return table.assign(p_adjusted=holm(table["p"].to_numpy(float)))


def _pairs_of(heads: list[str], a: str | None, b: str | None) -> list[tuple[str, str]]:
    for name, head in (("a", a), ("b", b)):
        if head is not None:
            check_choice(name, head, heads)
    if a is not None and b is not None:
        return [(a, b)]
    if a is not None:
        return [(a, head) for head in heads if head != a]
    if b is not None:
        return [(head, b) for head in heads if head != b]
    return list(itertools.combinations(heads, 2))


def _over_folds(
    results: CrossValidation, pairs: Sequence[tuple[str, str]], metric: str
) -> list[dict[str, Any]]:
    check_choice("metric", metric, METRICS)
    scores = results.table.pivot_table(
        index=["repeat", "fold"], columns="head", values=metric, sort=False, dropna=False
    ).dropna()
    if len(scores) < 2:
        raise FeatlabError(f"Fewer than two folds have a known {metric}; nothing to compare.")
    some = results.table["head"].iloc[0]
    sizes = results.table.groupby("head").get_group(some)[["n_train", "n"]].mean()
    return [
        {
            "a": a, "b": b, "metric": metric,
            "mean_a": float(scores[a].mean()), "mean_b": float(scores[b].mean()),
            **corrected_resampled_t(scores[a], scores[b], sizes["n_train"], sizes["n"]),
        }
        for a, b in pairs
    ]  # fmt: skip


def corrected_resampled_t(
    scores_a: ArrayLike, scores_b: ArrayLike, n_train: float, n_test: float
) -> dict[str, float]:
    """The corrected resampled t-test of two heads' scores on the same folds.

    Parameters
    ----------
    scores_a, scores_b : array_like of shape (j,)
        Scores of j folds and repeats, in the same order.
    n_train, n_test : float
        Images in a training and in a held-out set (means, where they vary).

    Returns
    -------
    dict of str to float
        ``n_scores`` (j), ``difference`` (mean of a - b), ``difference_low``, ``difference_high``
        (95 %), ``t``, ``p`` (two-sided). Where all differences are equal, nothing is known of
        their spread: the limits are NaN, and p is 1 if the differences are 0, else NaN.

    Raises
    ------
    FeatlabError
        Scores of different length, fewer than two, not finite; sizes that are not above 0.

    Notes
    -----
    ``t = mean(d) / sqrt((1 / j + n_test / n_train) * var(d))`` with j - 1 degrees of freedom. The
    training sets overlap, so the plain t-test (without ``n_test / n_train``) finds differences
    that are not there.

    References
    ----------
    Nadeau & Bengio (2003). Inference for the generalization error. Machine Learning 52, 239-281.
    Bouckaert & Frank (2004). Evaluating the replicability of significance tests for comparing
    learning algorithms. PAKDD, 3-12.
    """
    first, second = np.asarray(scores_a, dtype=float), np.asarray(scores_b, dtype=float)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise FeatlabError(
            "scores_a and scores_b must be two equally long rows of at least two scores, got "
            f"{first.shape} and {second.shape}."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise FeatlabError("scores_a and scores_b must be finite.")
    if not (n_train > 0 and n_test > 0):
        raise FeatlabError(f"n_train and n_test must be above 0, got {n_train} and {n_test}.")
    gaps = first - second
    j, mean = len(gaps), float(gaps.mean())
    error = float(np.sqrt((1 / j + n_test / n_train) * gaps.var(ddof=1)))
    if error < 1e-12:
        t, p = (0.0, 1.0) if abs(mean) < 1e-12 else (float("nan"), float("nan"))
        error = float("nan")
    else:
        t = mean / error
        p = float(2 * stats.t.sf(abs(t), j - 1))
    half = float(stats.t.ppf(0.975, j - 1)) * error
    return {
        "n_scores": j, "difference": mean, "difference_low": mean - half,
        "difference_high": mean + half, "t": t, "p": p,
    }  # fmt: skip


def paired(
    right_a: np.ndarray, right_b: np.ndarray, clusters: Ints | None, n_boot: int, random_state: int
) -> dict[str, Any]:
    """The columns of :func:`compare_heads` but for the names."""
    n = len(right_a)
    gaps = right_a.astype(np.intp) - right_b.astype(np.intp)
    only_a, only_b = int((gaps > 0).sum()), int((gaps < 0).sum())
    low, high = mean_interval(
        gaps, groups=clusters, span=(-1.0, 1.0), n_boot=n_boot, random_state=random_state
    )
    if clusters is None:
        p, test = _mcnemar(only_a, only_b)
    else:
        sums = np.bincount(clusters, weights=gaps).astype(np.intp)
        p, test = sign_flip_p(sums), f"sign flips of {len(sums)} groups"
    return {
        "n": n, "accuracy_a": float(right_a.mean()), "accuracy_b": float(right_b.mean()),
        "difference": float(gaps.mean()), "difference_low": low, "difference_high": high,
        "only_a": only_a, "only_b": only_b, "p": p, "test": test,
    }  # fmt: skip


def _mcnemar(only_a: int, only_b: int) -> tuple[float, str]:
    return min(float(mcnemar([[0, only_a], [only_b, 0]]).pvalue), 1.0), "McNemar, exact"


def sign_flip_p(sums: Ints) -> float:
    """Exact two-sided p that groups' differences are as often for one head as for the other.

    Under the null hypothesis each group's sum has either sign with probability 1/2; the
    distribution of their total is the convolution of them all.
    """
    sizes = np.abs(sums[sums != 0])
    chances = np.ones(1)
    for size in sizes:
        wider = np.zeros(len(chances) + 2 * size)
        wider[: len(chances)] += chances / 2
        wider[2 * size :] += chances / 2
        chances = wider
    totals = np.arange(len(chances)) - int(sizes.sum())
    return min(1.0, float(chances[np.abs(totals) >= abs(int(sums.sum()))].sum()))


def compare_backbones(
    stores: Mapping[str, MapStore],
    split: ArrayLike | None = None,
    *,
    pooling: str = "mean",
    layer: str | None = None,
    heads: Sequence[str] = HEADS_DEFAULT,
    class_weight: str | None = None,
    n_boot: int = 1000,
    random_state: int = 0,
) -> BackboneComparison:
    """Fit and score the same heads on several networks' features of the same images.

    Parameters
    ----------
    stores : mapping of str to MapStore
        By the name to show; at least two, made from the same images. Rows may be ordered
        differently; they are matched by path.
    split : array_like of shape (n,), optional
        ``train``, ``confirm`` or ``test``, in the rows of the first store
        (``splits.make_split``). Default the split in the first store's image table.
    pooling : {"mean", "max", "softmax_mean", "softmax_max", "flat"}
        As in :func:`featlab.features.feature_table`.
    layer : str, optional
        A layer that all stores have; default the last of each.
    heads : sequence of str
        As in :func:`evaluate_heads`.
    class_weight, n_boot, random_state
        As in :func:`evaluate_heads`. Groups are those of the first store's image table.

    Returns
    -------
    BackboneComparison

    Raises
    ------
    FeatlabError
        Fewer than two stores, other images or labels in one of them, no split anywhere.

    Notes
    -----
    The test images are the same, so the backbones are compared image by image
    (:func:`compare_heads`). The best of many backbones is flattered by having been picked on
    these test images.
    """
    if len(stores) < 2:
        raise FeatlabError(f"stores must hold at least two stores, got {list(stores)}.")
    first_name = next(iter(stores))
    images = stores[first_name].images
    rows = {name: _matched(first_name, images, name, store) for name, store in stores.items()}
    check_same_rows(images=images, split=split)
    sides = _split_of(images) if split is None else np.asarray(split).astype(str)
    groups = images["group"].to_numpy() if "group" in images else None
    tables, results = [], {}
    for name, store in stores.items():
        X = feature_table(store, layer=layer, pooling=pooling).iloc[rows[name]]
        X.index = images.index  # the first store's rows
        results[name] = evaluate_heads(
            X,
            images["label"],
            sides,
            colour=store.colour_histogram[rows[name]] if name == first_name else None,
            groups=groups,
            heads=heads,
            class_weight=class_weight,
            random_state=random_state,
            n_boot=n_boot,
        )
        table = results[name].table
        baseline = table["head"].isin(BASELINE_HEADS)
        tables.append(table[~baseline].assign(backbone=name, c=X.shape[1]))
        if name == first_name:
            tables.insert(0, table[baseline].assign(backbone="", c=0))
    every = pd.concat(tables, ignore_index=True)
    names = ["backbone", "c"]
    return BackboneComparison(
        table=every[names + [column for column in every if column not in names]],
        pairs=_network_pairs(results, random_state),
        results=results,
    )


def _network_pairs(results: Mapping[str, HeadResults], random_state: int) -> pd.DataFrame:
    rows = []
    some = next(iter(results.values()))
    for head in [head for head in some.models if head not in BASELINE_HEADS]:
        right = {name: r.of(head)["correct"].to_numpy(bool) for name, r in results.items()}
        for a, b in itertools.combinations(results, 2):
            compared = paired(right[a], right[b], some.clusters, _N_BOOT, random_state)
            rows.append({"head": head, "a": a, "b": b, **compared})
    table = pd.DataFrame(rows)
    return table.assign(p_adjusted=holm(table["p"].to_numpy(float)))


def _matched(first_name: str, images: pd.DataFrame, name: str, store: MapStore) -> np.ndarray:
    """Rows of `store` in the order of the first store's images."""
    place = {path: row for row, path in enumerate(store.images["path"])}
    ours, theirs = set(images["path"]), set(place)
    if ours != theirs:
        odd = sorted(ours ^ theirs)[0]
        raise FeatlabError(
            f"All stores must hold the same images: {first_name!r} has {len(ours)}, {name!r} has "
            f"{len(theirs)}, and {odd!r} is only in {(first_name if odd in ours else name)!r}."
        )
    rows = np.array([place[path] for path in images["path"]])
    for column in ("sha256", "label"):
        if column not in images or column not in store.images:
            continue
        differ = images[column].to_numpy() != store.images[column].to_numpy()[rows]
        if differ.any():
            raise FeatlabError(
                f"All stores must hold the same images: {images['path'][differ].iloc[0]!r} has "
                f"a different {column} in {name!r} than in {first_name!r}."
            )
    return rows


def _split_of(images: pd.DataFrame) -> np.ndarray:
    sides = images["split"].astype(str).to_numpy() if "split" in images else np.array([""])
    if not {"train", "test"} <= set(sides):
        raise FeatlabError(
            "The image table has no split with 'train' and 'test'; "
            "pass split=splits.make_split(store.images)."
        )
    return sides
