"""Seeded, stratified, grouped, duplicate-safe train / confirm / test; and rows to look at.

Fit and choose on ``train``, judge what was chosen (and fix thresholds) on ``confirm``, score once
on ``test``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from featlab.arguments import (
    SIDES,
    check_columns,
    effective_units,
    group_names,
    is_unlabelled,
    text_labels,
)
from featlab.errors import FeatlabError
from featlab.results.analysis import HeadResults
from featlab.results.localisation import Localisation

__all__ = ["make_split"]

logger = logging.getLogger(__name__)

_SINGLE, _GROUPED = (0.5, 0.2, 0.3), (0.4, 0.3, 0.3)
_LEAST_SINGLE = 0.9
"""Least effective number of units an image at which images count as single: their intervals are
then wider by 5 % at most."""

_MOST_NAMED = 3  # groups that an error names
_GIVEN_NAMES = {"train": "train", "val": "confirm", "confirm": "confirm", "test": "test"}


def make_split(
    images: pd.DataFrame,
    *,
    fractions: Sequence[float] | None = None,
    random_state: int = 0,
) -> pd.Series:
    """Assign every image to ``train``, ``confirm`` or ``test``.

    What is assigned is the *unit*: images that share a non-empty ``group`` or a ``sha256`` are one
    unit (connected components), so neither a group nor a byte-identical copy is ever on two sides.
    Units are shuffled, the largest go first, and each goes to the side with the largest relative
    need for the unit's classes. With one image per unit every class is split exactly, up to
    rounding to whole images. The result depends on paths, labels, groups, hashes and the seed, not
    on the order of the rows.

    A ``split`` column that is filled is honoured: ``train``, ``val`` (or ``confirm``) and ``test``
    become train, confirm and test; a side that is not given is carved out of train in the
    proportion of `fractions`; byte-identical files on different given sides are moved to train,
    with a warning in the log. A given split that puts one group on several sides is refused.

    A set without labels is split at random, units whole.

    Copies that are not byte for byte the same are a group in the images of the store that
    :func:`featlab.audit.group_copies` gives.

    Parameters
    ----------
    images : DataFrame of shape (n, ...)
        Image table: ``path`` and ``label``; ``group``, ``split`` and ``sha256`` count as blank
        where a column is absent.
    fractions : three floats, optional
        Shares of train, confirm and test; positive, summing to 1. By default those of
        :func:`usual_fractions`.
    random_state : int
        Seed of the shuffle.

    Returns
    -------
    Series of shape (n,)
        Named ``split``, indexed like `images`.

    Raises
    ------
    FeatlabError
        No column for path or label, or a label missing; fewer than two classes; a class with fewer
        units than sides to fill, or too entangled with others by groups to be on every side; a
        ``split`` column that is partly filled, holds other words or no ``train``, or tears a group
        apart; wrong `fractions`.
    """
    check_columns(
        "the image table", images, ("path", "label"), "make it with featlab.images.index_images"
    )
    shares = _checked_fractions(usual_fractions(images) if fractions is None else fractions)
    table = images.assign(_row=np.arange(len(images))).sort_values("path", kind="stable")
    if is_unlabelled(table["label"]):
        labels = np.full(len(table), "", dtype=np.str_)
    else:
        labels = text_labels(table["label"], name="label").astype(np.str_)
    if len(np.unique(labels)) < 2 and not is_unlabelled(labels):
        raise FeatlabError(
            f"A split needs at least two classes, got {sorted(set(labels.tolist()))}; "
            "add images of another class."
        )
    given = _named(table, "split")
    units = _units(table)
    rng = np.random.default_rng(random_state)
    if (given == "").all():
        sides = _assign(labels, units, SIDES, shares, rng)
    else:
        sides = _honour(given, table, labels, units, shares, rng)
    ordered = np.empty(len(table), dtype=object)
    ordered[table["_row"].to_numpy()] = sides
    return pd.Series(ordered.astype(str), index=images.index, name="split")


def usual_fractions(images: pd.DataFrame) -> tuple[float, float, float]:
    """Shares of train, confirm and test: 0.5, 0.2, 0.3, or 0.4, 0.3, 0.3 for grouped images.

    What is confirmed rests on the number of units, so fewer of them need a larger side. Images
    count as grouped where the effective number of units (Kish's) is below nine tenths of their
    number: a few pairs of copies among hundreds of images change nothing.

    Parameters
    ----------
    images : DataFrame of shape (n, ...)
        Image table; ``group`` and ``sha256`` may be absent.
    """
    few = effective_units(_units(images)) < _LEAST_SINGLE * len(images)
    return _GROUPED if few else _SINGLE


def _checked_fractions(fractions: Sequence[float]) -> NDArray[np.float64]:
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.shape != (3,) or not (shares > 0).all() or not np.isclose(shares.sum(), 1.0):
        raise FeatlabError(
            "fractions must be three positive numbers (train, confirm, test) that sum to 1, "
            f"got {tuple(fractions)!r}."
        )
    return shares


def _named(table: pd.DataFrame, column: str) -> NDArray[np.str_]:
    """Values of a column that may be absent, ``""`` where nothing is named."""
    return group_names(table.get(column), len(table), name=column)


def _units(table: pd.DataFrame) -> NDArray[np.intp]:
    """Component id per row: rows are linked through an equal group or an equal sha256."""
    rows, keys, n_keys = [], [], 0
    for name in ("group", "sha256"):
        values = _named(table, name)
        linked = np.flatnonzero(values != "")
        names, codes = np.unique(values[linked], return_inverse=True)
        rows.append(linked)
        keys.append(codes + n_keys)
        n_keys += len(names)
    row, key = np.concatenate(rows), np.concatenate(keys) + len(table)
    size = len(table) + n_keys
    links = csr_matrix((np.ones(len(row), dtype=bool), (row, key)), shape=(size, size))
    return connected_components(links, directed=False)[1][: len(table)]


def _assign(
    labels: NDArray[np.str_],
    units: NDArray[np.intp],
    sides: Sequence[str],
    shares: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.str_]:
    """Side of every row; rows come sorted by path, so units are numbered independently of order."""
    classes, label_codes = np.unique(labels, return_inverse=True)
    _, first, unit_codes = np.unique(units, return_index=True, return_inverse=True)
    unit_codes = np.argsort(np.argsort(first))[unit_codes]
    counts = np.zeros((len(first), len(classes)), dtype=np.int64)
    np.add.at(counts, (unit_codes, label_codes), 1)
    _check_enough_units(classes, counts, sides)
    side_codes = _fill(counts, _quotas(counts.sum(axis=0), shares), rng)
    _check_all_sides(classes, counts, side_codes, sides)
    return np.asarray(sides)[side_codes][unit_codes]


def _quotas(class_sizes: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Images per (side, class) by largest remainder, at least one each; columns sum to sizes."""
    exact = np.outer(shares / shares.sum(), class_sizes)
    quotas = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - quotas), axis=0, kind="stable")
    left = class_sizes - quotas.sum(axis=0)
    for column, (n_left, best) in enumerate(zip(left, order.T, strict=True)):
        quotas[best[:n_left], column] += 1
        while (quotas[:, column] == 0).any():
            quotas[quotas[:, column].argmax(), column] -= 1
            quotas[quotas[:, column].argmin(), column] += 1
    return quotas


def _fill(
    counts: NDArray[np.int64], quotas: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Side of every unit, greedily by the relative need for its classes, large units first."""
    shuffled = rng.permutation(len(counts))
    order = shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")]
    # A class weighs as much as the share of it that hangs on this unit: rare classes come first.
    weights = counts / counts.sum(axis=0)
    need = quotas.astype(np.float64)
    side_codes = np.empty(len(counts), dtype=np.intp)
    for unit in order:
        relative = (need / quotas) @ weights[unit]
        level = relative >= relative.max() - 1e-12
        side_codes[unit] = np.flatnonzero(level)[quotas[level].sum(axis=1).argmax()]
        need[side_codes[unit]] -= counts[unit]
    return side_codes


def _check_enough_units(
    classes: NDArray[np.str_], counts: NDArray[np.int64], sides: Sequence[str]
) -> None:
    for name, column in zip(classes, counts.T, strict=True):
        n_units = int((column > 0).sum())
        if n_units < len(sides):
            n = int(column.sum())
            held = "1 image" if n == 1 else f"{n} images in {n_units} independent units"
            once = "(a group, or copies of one file, count once)"
            if not name:
                raise FeatlabError(
                    f"a set without labels needs at least {len(sides)} pictures {once}, got "
                    f"{held}: add others."
                )
            raise FeatlabError(
                f"class {str(name)!r} has {held}; splitting into {', '.join(sides)} "
                f"needs at least {len(sides)} {once}: "
                "add images or groups, or leave the class out."
            )


def _check_all_sides(
    classes: NDArray[np.str_],
    counts: NDArray[np.int64],
    side_codes: NDArray[np.intp],
    sides: Sequence[str],
) -> None:
    for code, side in enumerate(sides):
        absent = classes[counts[side_codes == code].sum(axis=0) == 0]
        if len(absent):
            raise FeatlabError(
                f"Class {str(absent[0])!r} has no image left for {side!r}: its groups are tied to "
                "those of other classes; make the groups smaller, or add some of this class."
            )


def _honour(
    given: NDArray[np.str_],
    table: pd.DataFrame,
    labels: NDArray[np.str_],
    units: NDArray[np.intp],
    shares: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.str_]:
    """Sides from the table's own split, the missing ones carved out of its train."""
    _check_given(given)
    mapped = np.array([_GIVEN_NAMES[value] for value in given])
    _check_whole_groups(mapped, _named(table, "group"))
    sides = _without_copies_across(mapped, _named(table, "sha256"))
    emptied = sorted(set(mapped.tolist()) - set(sides.tolist()))
    if emptied:
        raise FeatlabError(
            f"Every image of the given {emptied[0]!r} split is byte-identical with one on another "
            "side; empty the split column to have featlab make the split."
        )
    _check_classes_of_sides(labels, sides)
    wanted = [side for side in SIDES if side == "train" or side not in sides]
    if len(wanted) == 1:
        return sides
    train = sides == "train"
    parts = shares[[SIDES.index(side) for side in wanted]]
    result = sides.astype(object)
    result[train] = _assign(labels[train], units[train], wanted, parts, rng)
    return result.astype(np.str_)


def _check_given(given: NDArray[np.str_]) -> None:
    n_blank = int((given == "").sum())
    if n_blank:
        raise FeatlabError(
            f"The split column is empty for {n_blank} of {len(given)} images; "
            "fill it for every image, or for none."
        )
    unknown = sorted(set(given.tolist()) - set(_GIVEN_NAMES))
    if unknown:
        raise FeatlabError(f"split must be 'train', 'val' or 'test', got {unknown[0]!r}.")
    if not (given == "train").any():
        raise FeatlabError("The split column has no 'train' image; name some, or empty the column.")


def _check_whole_groups(sides: NDArray[np.str_], groups: NDArray[np.str_]) -> None:
    """Refuse a given split that tears groups apart: what is tested would have been learnt."""
    n_sides = pd.Series(sides).groupby(groups).nunique()
    torn = [str(name) for name in n_sides.index[(n_sides > 1) & (n_sides.index != "")]]
    if torn:
        named = ", ".join(repr(name) for name in torn[:_MOST_NAMED])
        more = f" and {len(torn) - _MOST_NAMED:,} more" if len(torn) > _MOST_NAMED else ""
        raise FeatlabError(
            f"The split column puts images of one group on several sides: {named}{more}; give the "
            "whole group one side, or leave the groups or the split column out."
        )


def _check_classes_of_sides(labels: NDArray[np.str_], sides: NDArray[np.str_]) -> None:
    """Refuse given sides on which nothing could be learnt of a class, or none be told apart."""
    if is_unlabelled(labels):
        return
    learnt = set(labels[sides == "train"].tolist())
    for label in sorted(set(labels.tolist()) - learnt):
        where = ", ".join(sorted(set(sides[labels == label].tolist())))
        raise FeatlabError(
            f"Class {label!r} has images only on the given side {where}, none on train; move some "
            "to train, or leave the class out."
        )
    for side in sorted(set(sides.tolist()) - {"train"}):
        there = sorted(set(labels[sides == side].tolist()))
        if len(there) < 2:
            raise FeatlabError(
                f"The given side {side!r} has images of one class alone, {there[0]!r}; add images "
                "of another class to it, or leave the split out."
            )


def _without_copies_across(sides: NDArray[np.str_], sha256: NDArray[np.str_]) -> NDArray[np.str_]:
    """The given sides, with files that lie byte-identically on several of them moved to train."""
    frame = pd.DataFrame({"side": sides, "sha256": sha256})
    n_sides = frame.groupby("sha256")["side"].transform("nunique").to_numpy()
    crossing = (n_sides > 1) & (sha256 != "")
    moved = crossing & (sides != "train")
    if moved.any():
        logger.warning(
            "%d images lie byte-identically on several given sides of the split; moved to train.",
            int(moved.sum()),
        )
    return np.where(crossing, "train", sides)


def sample_rows(images: pd.DataFrame, most: int = 12, random_state: int = 0) -> list[int]:
    """Rows of the image table to show as samples: at random, the classes in turn."""
    return rows_in_turn(images["label"].to_numpy(str), np.arange(len(images)), most, random_state)


def gallery_rows(
    images: pd.DataFrame,
    split: pd.Series,
    boxed: Sequence[int],
    most: int = 24,
    random_state: int = 0,
) -> list[int]:
    """Test rows for the gallery: at random, the classes in turn; of those in `boxed` if any is."""
    test = np.flatnonzero(np.asarray(split, dtype=str) == "test")
    known = test[np.isin(test, np.asarray(boxed, dtype=int))]
    rows = known if len(known) else test
    return rows_in_turn(images["label"].to_numpy(str)[rows], rows, most, random_state)


def detector_rows(heads: HeadResults, most: int = 6, random_state: int = 0) -> list[int]:
    """Test rows to show detectors on: half of them images that the main head gets wrong.

    Fewer of those where there are fewer; right ones come first, and the classes take turns.
    """
    scored = heads.of(heads.main)
    rows, labels = scored["row"].to_numpy(int), scored["label"].to_numpy(str)
    correct = scored["correct"].to_numpy(bool)
    n_wrong = min(most // 2, int((~correct).sum()))
    right = rows_in_turn(labels[correct], rows[correct], most - n_wrong, random_state)
    return right + rows_in_turn(labels[~correct], rows[~correct], n_wrong, random_state)


def localisation_rows(localisation: Localisation, method: str, most: int = 6) -> list[int]:
    """Rows to show: a third each of the best, the median and the worst IoU, in that order."""
    rows = rows_by_iou(localisation, method)
    if len(rows) <= most:
        return rows
    third, middle = min(max(1, most // 3), most // 2), len(rows) // 2
    centre = range(middle - third // 2, middle - third // 2 + most - 2 * third)
    return rows[:third] + [rows[i] for i in centre] + rows[len(rows) - third :]


def rows_by_iou(localisation: Localisation, method: str) -> list[int]:
    """Scored rows of the image table, from a method's best box to its worst."""
    scored = localisation.per_image
    scored = scored[(scored["method"] == method) & scored["iou"].notna()]
    scored = scored.sort_values(["iou", "row"], ascending=[False, True])
    return [int(row) for row in scored["row"]]


def rows_in_turn(labels: np.ndarray, rows: np.ndarray, most: int, random_state: int) -> list[int]:
    """At most so many of some rows, drawn at random, the classes in turn; `labels` are theirs."""
    order = np.random.default_rng(random_state).permutation(len(rows))
    table = pd.DataFrame({"label": labels[order], "row": rows[order]})
    table["turn"] = table.groupby("label").cumcount()
    first = table.sort_values(["turn", "label"], kind="stable")["row"].head(most)
    return [int(row) for row in first]
