"""Images that the rest of the set would label otherwise, or that are unlike their class."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from featlab.arguments import (
    check_same_rows,
    class_codes,
    finite_matrix,
    group_codes,
    has_groups,
    score_text,
    stratified_rows,
)
from featlab.errors import FeatlabError
from featlab.features import component_scores, principal_components
from featlab.heads.training import Fold, stratified_folds
from featlab.results.images import Finding

Floats = NDArray[np.float64]

LABEL_COLUMNS = ["row", "label", "suggested", "self_confidence", "margin"]

NOT_DONE = "not done"

OUTLIER_SCORE = 3.5
"""Modified z-score beyond which an image is an outlier of its class."""

WARN_LABELS, FAIL_LABELS = 0.01, 0.03
"""Estimated shares of wrong labels."""
WARN_EVIDENCE, FAIL_EVIDENCE = 4.0, 11.0
"""Twice the gain in log-likelihood by wrong labels: p = 0.02 and 0.0005 where there are none."""
WARN_OUTLIERS, FAIL_OUTLIERS = 0.01, 0.05

_FOLDS = 5
_COMPONENTS = 100
_MOST_OF_A_CLASS = 20_000
_C_GRID = (1e-3, 1e-2, 1e-1)
_NEIGHBOURS = 5
_LEAST_FOR_OUTLIERS = 10
_NORMAL_MAD = 0.6745  # of the standard normal distribution
_ROUNDS = 200  # of expectation and maximisation
_TINY = 1e-9


def label_errors(
    X: pd.DataFrame | ArrayLike,
    y: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    random_state: int = 0,
) -> pd.DataFrame:
    """Images whose label the others contradict, with confidence (confident learning).

    Every image's class probabilities come from a logistic regression that did not see it: five
    stratified folds, on 100 principal components of the standardised features (which no label goes
    into), with the C of 0.001, 0.01, 0.1 that has the least log-loss over the folds. A class's
    threshold is the mean probability of its own images for it; an image counts as confidently of
    the most probable class whose threshold it reaches. Of the images labelled i, the share that is
    confidently j is taken as candidates: those with the largest margin of j over i.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features, finite.
    y : array_like of shape (n,)
    groups : array_like of shape (n,), optional
        Images of one non-empty group share a fold; ``""`` is no group.
    random_state : int
        Seed of the folds and of the components.

    Returns
    -------
    DataFrame, one row per candidate, the worst first
        ``row`` (number), ``label``, ``suggested``, ``self_confidence`` (probability of the given
        label, 0-1), ``margin`` (probability of the suggested one minus that, 0-1). ``attrs``
        repeats ``n``, ``accuracy`` (of the folds), ``folds`` and ``thresholds``.

    Raises
    ------
    FeatlabError
        NaN or infinite features, rows that do not match, fewer than two classes, a class with a
        single image or group.

    Notes
    -----
    This is confident learning with pruning by noise rate. A candidate is an image to look at. Hard
    images are candidates too: trust the list less the lower that accuracy is.

    References
    ----------
    Northcutt, Jiang & Chuang (2021). Confident learning: estimating uncertainty in dataset labels.
    Journal of Artificial Intelligence Research 70, 1373-1411.
    """
    return contradicted(X, y, groups, random_state)[0]


@dataclass(frozen=True)
class Agreement:
    """How labels and what was predicted without them agree.

    Attributes
    ----------
    accuracy : float
        Share of the images that are classified as labelled when held out.
    wrong : float
        Estimated share of wrong labels, see :func:`wrong_share`.
    evidence : float
        Twice what wrong labels gain in log-likelihood over classes that overlap.
    """

    accuracy: float
    wrong: float
    evidence: float


def contradicted(
    X: pd.DataFrame | ArrayLike, y: ArrayLike, groups: ArrayLike | None, random_state: int
) -> tuple[pd.DataFrame, Agreement]:
    """The table of `label_errors`, and how labels and predictions agree."""
    check_same_rows(X=X, y=y, groups=groups)
    values = finite_matrix(X)
    codes, classes = class_codes(y, len(values), least=2)
    folds = _folds(codes, classes, groups, random_state)
    reduced = _components(values)
    probability = _held_out(reduced, codes, folds, len(classes))
    own = probability[np.arange(len(codes)), codes]
    thresholds = np.bincount(codes, own) / np.bincount(codes)
    # Rounding must not keep an image below a threshold that all of its class share.
    confident = np.where(probability >= thresholds - 1e-12, probability, -1.0)
    rows, suggested = _pruned(probability, confident, codes)
    table = pd.DataFrame(
        {
            "row": rows,
            "label": classes[codes[rows]],
            "suggested": classes[suggested],
            "self_confidence": own[rows],
            "margin": probability[rows, suggested] - own[rows],
        }
    )
    table = table.sort_values(["margin", "row"], ascending=[False, True]).reset_index(drop=True)
    accuracy = float((probability.argmax(axis=1) == codes).mean())
    table.attrs = {
        "n": len(codes),
        "accuracy": accuracy,
        "folds": len(folds),
        "thresholds": dict(zip(classes.tolist(), thresholds.tolist(), strict=True)),
    }
    return table, Agreement(accuracy, *wrong_share(_log_odds(probability, codes)))


def _log_odds(probability: Floats, codes: NDArray[np.intp]) -> Floats:
    """Of every image's own class against the best other one."""
    logs = np.log(np.clip(probability, _TINY, 1))
    own = logs[np.arange(len(codes)), codes].copy()
    logs[np.arange(len(codes)), codes] = -np.inf
    return own - logs.max(axis=1)


def wrong_share(odds: Floats) -> tuple[float, float]:
    """Share of wrong labels by the log odds of held-out images, and the evidence for it.

    Where classes only overlap, the log odds of the own class are one normal distribution, whose
    tail below 0 is the error that held-out accuracy shows. Images labelled wrongly are a mirror
    image of it, at minus its mean: a second hump instead of a longer tail.

    Parameters
    ----------
    odds : ndarray of shape (n,)
        Log odds of the own class against the best other one.

    Returns
    -------
    share : float
        Maximum-likelihood share of ``(1 - share) N(m, s) + share N(-m, s)``, m > 0.
    evidence : float
        Twice the gain in log-likelihood over one normal distribution. Where no label is wrong, half
        of a chi-squared variable of one degree of freedom, and half 0. 0 where the odds do not
        vary.
    """
    middle, spread, share = float(np.median(odds)), float(odds.std()), 0.05
    if not spread > 0 or middle <= 0:
        return 0.0, 0.0
    alone = norm.logpdf(odds, odds.mean(), spread).sum()
    for _ in range(_ROUNDS):
        mirrored = share * norm.pdf(odds, -middle, spread)
        both = (1 - share) * norm.pdf(odds, middle, spread) + mirrored
        weight = mirrored / np.maximum(both, np.finfo(float).tiny)
        turned = odds * (1 - 2 * weight)
        share, middle = float(weight.mean()), float(turned.mean())
        spread = float(np.sqrt(np.maximum((odds**2).mean() - middle**2, _TINY)))
    gain = np.log(np.maximum(both, np.finfo(float).tiny)).sum() - alone
    return share, max(0.0, 2 * float(gain))


def _pruned(
    probability: Floats, confident: Floats, codes: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of the candidates and the class suggested for each: pruned by noise rate.

    Images labelled i that are confidently j are counted; scaled to all images labelled i, so many
    of them are taken, those with the largest margin of j over i.
    """
    n_classes = probability.shape[1]
    counted = confident.max(axis=1) >= 0
    joint = np.zeros((n_classes, n_classes))
    np.add.at(joint, (codes[counted], confident[counted].argmax(axis=1)), 1)
    sizes = np.bincount(codes, minlength=n_classes)
    wanted = joint / np.maximum(joint.sum(axis=1), 1)[:, None] * sizes[:, None]
    margin = probability - probability[np.arange(len(codes)), codes][:, None]
    best = margin.argmax(axis=1)
    taken = []
    for given, other in np.argwhere(wanted >= 0.5):
        rows = np.flatnonzero((codes == given) & (best == other) & (given != other))
        order = np.argsort(-margin[rows, other], kind="stable")
        taken.append(rows[order[: round(wanted[given, other])]])
    rows = np.sort(np.concatenate(taken))
    return rows, best[rows]


def outliers(X: pd.DataFrame | ArrayLike, y: ArrayLike) -> pd.DataFrame:
    """How far every image lies from its own class.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Features, finite.
    y : array_like of shape (n,)

    Returns
    -------
    DataFrame of n rows, the farthest first
        ``row`` (number), ``label``; ``distance``: mean distance to the 5 nearest images of the same
        class (of a random 20,000 of it, where it has more), on up to 100 principal components of
        the standardised features; ``score``: modified
        z-score of its logarithm within the class, ``0.6745 (x - median) / MAD``; ``outlier``: score
        above 3.5. Classes of fewer than 10 images have NaN and no outliers.

    Raises
    ------
    FeatlabError
        NaN or infinite features, or rows that do not match.

    References
    ----------
    Iglewicz & Hoaglin (1993). How to detect and handle outliers. ASQC (3.5). Ramaswamy, Rastogi &
    Shim (2000). Efficient algorithms for mining outliers from large data sets. SIGMOD, 427-438.
    """
    check_same_rows(X=X, y=y)
    values = finite_matrix(X)
    codes, classes = class_codes(y, len(values))
    reduced = _components(values)
    distance, score = np.full((2, len(codes)), np.nan)
    for code in range(len(classes)):
        rows = np.flatnonzero(codes == code)
        if len(rows) < _LEAST_FOR_OUTLIERS:
            continue
        distance[rows] = _near(reduced[rows])
        score[rows] = _modified_z(np.log(np.maximum(distance[rows], 1e-12)))
    table = pd.DataFrame(
        {
            "row": np.arange(len(codes)),
            "label": classes[codes],
            "distance": distance,
            "score": score,
            "outlier": score > OUTLIER_SCORE,
        }
    )
    table = table.sort_values(["score", "row"], ascending=[False, True], na_position="last")
    return table.reset_index(drop=True)


def _near(values: Floats) -> Floats:
    """Mean distance of every row to the nearest others, sought among at most so many."""
    known = stratified_rows(np.zeros(len(values)), _MOST_OF_A_CLASS)
    neighbours = NearestNeighbors(n_neighbors=_NEIGHBOURS).fit(values[known])
    distance = np.empty(len(values))
    distance[known] = neighbours.kneighbors()[0].mean(axis=1)
    others = np.setdiff1d(np.arange(len(values)), known)
    if len(others):
        distance[others] = neighbours.kneighbors(values[others])[0].mean(axis=1)
    return distance


def _modified_z(values: Floats) -> Floats:
    middle = np.median(values)
    spread = np.median(np.abs(values - middle))
    return _NORMAL_MAD * (values - middle) / spread if spread > 0 else np.zeros_like(values)


def _components(values: NDArray[np.floating]) -> Floats:
    """Scores on the leading principal components of the standardised columns."""
    components = principal_components(
        values, min(_COMPONENTS, *values.shape), standardised=True, dtype=np.float32
    )
    return component_scores(components, values)


def _folds(
    codes: NDArray[np.intp],
    classes: NDArray[np.object_],
    groups: ArrayLike | None,
    random_state: int,
) -> list[Fold]:
    units = group_codes(groups, len(codes))
    is_grouped = has_groups(units)
    pairs = np.unique(np.column_stack([codes, units]), axis=0)[:, 0]
    sizes = np.bincount(pairs)
    if sizes.min() < 2:
        what = "group" if is_grouped else "image"
        raise FeatlabError(
            f"Class {str(classes[sizes.argmin()])!r} has a single {what}; its label cannot be "
            "checked against others: add some, or leave the class out."
        )
    n_folds = int(min(_FOLDS, sizes.min()))
    return stratified_folds(codes, units if is_grouped else None, n_folds, random_state)


def _held_out(
    X: Floats,
    codes: NDArray[np.intp],
    folds: list[Fold],
    n_classes: int,
) -> Floats:
    """Probabilities (n, k) of every image from a fit without it, for the best C."""
    results = np.zeros((len(_C_GRID), len(codes), n_classes))
    for fit, held in folds:
        # Products this small are slower on several threads, and much slower on a busy machine.
        model = LogisticRegression(max_iter=200, tol=1e-3, warm_start=True)
        for place, C in enumerate(_C_GRID):
            with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
                # Not converged; more than half as many classes as images.
                warnings.simplefilter("ignore", UserWarning)
                model.set_params(C=C).fit(X[fit], codes[fit])
            results[place][np.ix_(held, model.classes_)] = model.predict_proba(X[held])
    own = results[:, np.arange(len(codes)), codes]
    return results[np.log(np.clip(own, 1e-15, 1)).mean(axis=1).argmax()]


def images_word(n: int) -> str:
    """`1 image`, `2,000 images`."""
    return f"{n:,} image" + ("" if n == 1 else "s")


def most_of(counts: pd.Series) -> str:
    """The commonest class of some images, and how many of them it has."""
    if len(counts) == 1:
        return f"{'all of ' if counts.iloc[0] > 1 else 'of '}{counts.index[0]!r}"
    return f"{counts.iloc[0]:,} of them {counts.index[0]!r}"


def percent(share: float) -> str:
    """`6 %`; none and all only where it is none or all."""
    text = f"{100 * share:.0f}"
    if text in ("0", "100") and share not in (0, 1):
        text = f"{100 * share:.1f}"
        text = {"0.0": "< 0.1", "100.0": "> 99.9"}.get(text, text)
    return f"{text} %"


def interval_words(row: Mapping[Hashable, Any]) -> str:
    """An accuracy with its 95 % interval."""
    value, low, high = (score_text(row[f"accuracy{end}"]) for end in ("", "_low", "_high"))
    return f"{value} ({low}-{high})"


def worse_of(fails: bool | np.bool_, warns: bool | np.bool_) -> str:
    """A verdict: fail comes before warn, warn before pass."""
    return "fail" if fails else "warn" if warns else "pass"


def checked_labels(
    X: pd.DataFrame, labels: NDArray, groups: NDArray, random_state: int
) -> tuple[pd.DataFrame, Finding]:
    """The table of `label_errors`, and its line; "not done" where labels cannot be checked."""
    try:
        errors, agreement = contradicted(X, labels, groups, random_state)
        return errors, labels_line(errors, len(labels), agreement)
    except FeatlabError as error:
        empty = pd.DataFrame(columns=LABEL_COLUMNS)
        return empty, Finding("label errors", NOT_DONE, str(error), 0)


def labels_line(table: pd.DataFrame, n: int, agreement: Agreement) -> Finding:
    """Are labels wrong: more of them contradicted than classes that overlap lead one to expect?"""
    wrong, evidence = agreement.wrong, agreement.evidence
    text = (
        f"{images_word(len(table))} ({percent(len(table) / n)}) with a label that the others "
        f"contradict; {percent(agreement.accuracy)} of all are classified as labelled when held "
        "out."
    )
    warns = wrong >= WARN_LABELS and evidence >= WARN_EVIDENCE
    if warns:
        text += f" About {percent(wrong)} look wrong: more than classes that overlap would give."
    elif len(table):
        text += " Classes that overlap would give as many, so that none of them needs to be wrong."
    fails = wrong >= FAIL_LABELS and evidence >= FAIL_EVIDENCE
    return Finding("label errors", worse_of(fails, warns), text, n)


def outliers_line(table: pd.DataFrame, of: str = "the class") -> Finding:
    """Are images unlike their class, or the set?"""
    judged = int(table["score"].notna().sum())
    if not judged:
        return Finding("outliers", NOT_DONE, "Every class is too small.", 0)
    n_outliers = int(table["outlier"].sum())
    share = n_outliers / judged
    text = (
        f"{images_word(n_outliers)} ({percent(share)}) far from the rest of {of} "
        f"(modified z-score above {OUTLIER_SCORE:g})."
    )
    verdict = worse_of(share >= FAIL_OUTLIERS, share >= WARN_OUTLIERS)
    return Finding("outliers", verdict, text, judged)
