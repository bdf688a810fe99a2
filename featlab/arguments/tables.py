"""Rows, classes, sides and groups of images; which boxes are true, which detectors the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments.checks import check_choice, check_columns, check_same_rows, check_whole, said
from featlab.errors import FeatlabError

SIDES = ("train", "confirm", "test")
"""The sides of a split: what fits and chooses, what judges, what is only scored."""
LEAST_PER_CLASS = 50
"""Rows of a class that a sample keeps however rare it is, where it has them."""
_TRUTHS = (bool, np.bool_)


def row_numbers(rows: Any, table: Any, *, name: str = "rows") -> NDArray[np.int64]:
    """Row numbers of an image table, from all that names rows.

    Parameters
    ----------
    rows : None, int, slice, sequence of int, or boolean mask of shape (n,)
        None is all rows; negative numbers count from the end.
    table : DataFrame, array_like or int
        What the rows are of, n of them; or n itself, where the rows have no names.
    name : str
        The argument, for the error.

    Returns
    -------
    ndarray of int64, shape (k,)
        From 0 to n - 1, in the order given; of a mask, rising.

    Raises
    ------
    FeatlabError
        A mask of another length or index than the table's, numbers that are not whole or outside
        of the table, numbers and truths mixed.
    """
    n = table if isinstance(table, int) else len(table)
    everything = np.arange(n, dtype=np.int64)
    if rows is None:
        return everything
    if isinstance(rows, slice):
        return everything[rows]
    if isinstance(rows, (list, tuple)) and len({isinstance(row, _TRUTHS) for row in rows}) > 1:
        raise FeatlabError(f"{name} must be row numbers or a mask, got both in one list.")
    asked = np.atleast_1d(np.asarray(rows))
    if asked.ndim != 1:
        raise FeatlabError(f"{name} must be row numbers or a mask, got shape {asked.shape}.")
    if asked.dtype == object and len(asked):  # nullable columns of pandas
        if pd.isna(asked).any():
            raise FeatlabError(f"{name} holds missing values; a mask must be True or False.")
        asked = np.array(asked.tolist())
    if asked.dtype == bool:
        if len(asked) != n:
            raise FeatlabError(f"{name} as a mask must have {n} entries, got {len(asked)}.")
        if isinstance(table, pd.DataFrame):
            check_same_rows(**{"the table": table, name: rows})
        return np.flatnonzero(asked).astype(np.int64)
    if not len(asked):
        return everything[:0]
    if asked.dtype.kind not in "iu":
        raise FeatlabError(f"{name} must be row numbers or a mask, got {asked.dtype} values.")
    outside = asked[(asked < -n) | (asked >= n)]
    if len(outside):
        raise FeatlabError(f"{name} must lie in 0 … {n - 1}, got {outside[0]}.")
    return everything[asked]


def text_labels(labels: ArrayLike, n: int | None = None, *, name: str = "y") -> NDArray[np.object_]:
    """A label per image, as text: a class called 1 or "1" is the same class.

    Raises
    ------
    FeatlabError
        A missing label (nothing, or ``""``), or another length than `n`.
    """
    given = np.asarray(labels, dtype=object)
    if given.ndim != 1 or (n is not None and len(given) != n):
        wanted = "" if n is None else f" ({n})"
        raise FeatlabError(f"{name} must have one entry per image{wanted}, got {given.shape}.")
    blank = pd.isna(given)
    names = ["" if none else str(label) for label, none in zip(given, blank, strict=True)]
    if "" in names:
        raise FeatlabError(f"{name} holds {names.count('')} missing labels; label every image.")
    return np.array(names, dtype=object)


def is_unlabelled(labels: ArrayLike) -> bool:
    """Whether no image has a label: they are all ``""``."""
    given = np.asarray(labels, dtype=object)
    return bool(len(given)) and all(one == "" for one in given)


def class_codes(
    labels: ArrayLike, n: int | None = None, *, name: str = "y", least: int = 1
) -> tuple[NDArray[np.intp], NDArray[np.object_]]:
    """Class code of every image, and the classes in the order of their codes.

    Parameters
    ----------
    labels : array-like of shape (n,)
        Read by :func:`text_labels`.
    n : int, optional
        Images there are.
    name : str
        The argument, for the error.
    least : int
        Classes there must be.

    Returns
    -------
    codes : ndarray of int, shape (n,)
    classes : ndarray of str (object), shape (k,)
        Sorted as text, numbers too: scikit-learn has them in that order.

    Raises
    ------
    FeatlabError
        As for :func:`text_labels`, or too few classes.
    """
    names = text_labels(labels, n, name=name)
    codes, classes = pd.factorize(names, sort=True)
    if len(classes) < least:
        wanted = "two classes" if least == 2 else f"{least} classes"
        raise FeatlabError(f"{name} must hold at least {wanted}, got {classes.tolist()}.")
    return codes, classes


def check_classes_in_train(codes: NDArray[np.integer], classes: NDArray[Any]) -> None:
    """Refuse a class without a train image: nothing can learn it.

    Parameters
    ----------
    codes : ndarray of int
        Class codes of the train images.
    classes : ndarray of shape (k,)
        Names of the classes, in the order of their codes.

    Raises
    ------
    FeatlabError
        A class is not among the codes.
    """
    missing = np.setdiff1d(np.arange(len(classes)), codes)
    if len(missing):
        raise FeatlabError(
            f"Class {str(classes[missing[0]])!r} has no image in train, so nothing can learn it; "
            "leave the class out, or make another split."
        )


def split_sides(split: ArrayLike, n: int, *, name: str = "split") -> NDArray[np.str_]:
    """The side of every image, its length and words checked.

    Raises
    ------
    FeatlabError
        Another length, or another word than train, confirm and test.
    """
    sides = np.asarray(split).astype(str)
    if sides.shape != (n,):
        raise FeatlabError(f"{name} must have one entry per image ({n}), got shape {sides.shape}.")
    unknown = sorted(set(sides.tolist()) - set(SIDES))
    if unknown:
        raise FeatlabError(f"{name} must be 'train', 'confirm' or 'test', got {unknown[0]!r}.")
    return sides


def group_names(groups: ArrayLike | None, n: int, *, name: str = "groups") -> NDArray[np.str_]:
    """The group of every image, ``""`` for none: not named, missing, or no groups at all.

    Raises
    ------
    FeatlabError
        Another length.
    """
    if groups is None:
        return np.full(n, "", dtype=np.str_)
    given = np.asarray(groups, dtype=object)
    if given.shape != (n,):
        raise FeatlabError(f"{name} must have one entry per image ({n}), got {given.shape}.")
    blank = pd.isna(given)
    return np.array(["" if none else str(one) for one, none in zip(given, blank, strict=True)],
                    dtype=np.str_)  # fmt: skip


def group_codes(groups: ArrayLike | None, n: int) -> NDArray[np.intp]:
    """Codes 0 … k - 1 of the groups; an image without a group is one of its own."""
    names = group_names(groups, n)
    named, codes = np.unique(names, return_inverse=True)
    alone = names == ""
    if alone.any():
        codes = np.where(alone, len(named) + np.cumsum(alone), codes)
        codes = np.unique(codes, return_inverse=True)[1]
    return codes.astype(np.intp)


def has_groups(codes: NDArray[np.intp]) -> bool:
    """Whether any group, by the codes of :func:`group_codes`, holds two images."""
    return bool(len(codes)) and int(codes.max()) + 1 < len(codes)


def effective_units(codes: NDArray[np.intp]) -> float:
    """Kish's effective number of groups: as many of one size say as much; 1 for one group."""
    sizes = np.bincount(codes).astype(float)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(codes) else 0.0


def stratified_rows(labels: ArrayLike, most: int, random_state: int = 0) -> NDArray[np.intp]:
    """All rows, or a random sample of about `most` with each class's own share.

    Parameters
    ----------
    labels : array_like of shape (n,)
    most : int
        Rows to keep. A class keeps 50 even where its share would be less, so there may be a few
        more.
    random_state : int
        Seed.

    Returns
    -------
    ndarray of int, shape (k,)
        Row numbers, rising.
    """
    codes, classes = pd.factorize(np.asarray(labels))
    n = len(codes)
    if n <= most:
        return np.arange(n)
    order = np.random.default_rng(random_state).permutation(n)
    # A stable sort of a random order: the first rows of each class are a random choice of them.
    order = order[np.argsort(codes[order], kind="stable")]
    sizes = np.bincount(codes, minlength=len(classes))
    wanted = np.maximum(np.round(sizes * (most / n)).astype(np.intp), LEAST_PER_CLASS)
    place = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[place < np.repeat(wanted, sizes)])


CROWD = "crowd"  # a box around several objects, of COCO and Open Images


def boxes_of_kind(boxes: pd.DataFrame, box_kind: str | None) -> pd.DataFrame:
    """The rows of a box table that are of one kind; a crowd is meant only where it is asked for.

    Raises
    ------
    FeatlabError
        There are several kinds and none was chosen, or there is none of the kind.
    """
    kinds = sorted(boxes["kind"].astype(str).unique())
    if box_kind is None:
        if len({*kinds} - {CROWD}) > 1:
            raise FeatlabError(
                f"the boxes are of several kinds ({', '.join(kinds)}); choose one with --box-kind "
                "(box_kind=)."
            )
        return boxes[boxes["kind"] != CROWD] if CROWD in kinds else boxes
    if not kinds:
        raise FeatlabError(f"box_kind is {box_kind!r}, but the images have no box; leave it out.")
    check_choice("box_kind", box_kind, kinds)
    return boxes[boxes["kind"] == box_kind]


def true_boxes(images: pd.DataFrame, boxes: pd.DataFrame, box_kind: str | None) -> pd.DataFrame:
    """The boxes that are the truth: of one kind, solid, and of their image's own class.

    A box that bears the name of *another* class of the set is no truth for the image's class; one
    that bears a name which is no class (a part, "object", nothing) is. A box without area is none.

    Parameters
    ----------
    images, boxes : DataFrame
        Image table and box table of a store; ``boxes["image"]`` are rows of `images`.
    box_kind : str or None
        Needed where there are several kinds.

    Returns
    -------
    DataFrame
        The rows of `boxes` that are kept, numbered anew.

    Raises
    ------
    FeatlabError
        As for :func:`boxes_of_kind`.
    """
    table = boxes_of_kind(boxes, box_kind)
    labels = images["label"].to_numpy()
    own = labels[table["image"].to_numpy(np.int64)]
    named = table["label"].to_numpy()
    other = table["label"].isin(set(labels.tolist())).to_numpy() & (named != own)
    solid = ((table["xmax"] > table["xmin"]) & (table["ymax"] > table["ymin"])).to_numpy()
    return table[~other & solid].reset_index(drop=True)


def selected_detectors(neurons: pd.DataFrame, *, silent: bool = False) -> pd.DataFrame:
    """Detectors that are active for their class, as they were selected; `silent` ones too.

    Only an active neuron's map shows where its class is. The order of the rows is kept.

    Raises
    ------
    FeatlabError
        The table lacks the columns of ``rank_neurons``.
    """
    check_columns(
        "the neuron table",
        neurons,
        ("class", "neuron", "detector", "direction"),
        "give the result of rank_neurons or confirm_neurons",
    )
    # `eq(True)` on purpose: NaN (not a detector) is neither an error nor True.
    kept = neurons["detector"].eq(True)
    return neurons[kept if silent else kept & neurons["direction"].eq("active")]


def with_unseen_limits(neurons: pd.DataFrame) -> pd.DataFrame:
    """A neuron table whose interval on unseen images may be printed beside any choice of rows.

    The interval of a confirmed neuron is the one that allows for that: it was picked because its
    AUROC on unseen images is large, which a plain interval does not know.

    Parameters
    ----------
    neurons : DataFrame
        Neuron table after ``confirm_neurons``.

    Returns
    -------
    DataFrame
        With ``auroc_adjusted_low, auroc_adjusted_high`` as ``auroc_confirmed_low,
        auroc_confirmed_high`` of confirmed rows.
    """
    if neurons.empty:  # of a set without labels: no neuron was tested
        return neurons
    held = neurons["confirmed"].eq(True)
    limits = {
        f"auroc_confirmed_{end}": neurons[f"auroc_confirmed_{end}"].where(
            ~held, neurons[f"auroc_adjusted_{end}"]
        )
        for end in ("low", "high")
    }
    return neurons.assign(**limits)


def confirmed_detectors(
    neurons: pd.DataFrame,
    *,
    layer: str | Sequence[str] | None = None,
    pooling: str | None = None,
    most: int | None = None,
    silent: bool = False,
) -> pd.DataFrame:
    """Detectors that held on unseen images, by class, best first.

    Best is the effect they were selected with (its distance from an AUROC of 0.5, then the rank),
    not the confirmed one: choosing the best of the confirmed values would flatter them again. Where
    a neuron stands several times for a class (as mean and as maximum, against several references)
    the best of its rows is kept.

    Parameters
    ----------
    neurons : DataFrame
        Neuron table after ``confirm_neurons``.
    layer : str or sequence of str, optional
        Only those of one layer, or of some.
    pooling : str, optional
        Only those of one pooling.
    most : int, optional
        At most so many per class.
    silent : bool
        Those that are silent for their class, too.

    Returns
    -------
    DataFrame
        Rows of `neurons`, numbered anew; a (layer, class, neuron) stands once.

    Raises
    ------
    FeatlabError
        The table was not confirmed, has rows but none of that layer or pooling, or `most` is no
        whole number from 1 up.
    """
    if most is not None:
        check_whole("most", most, 1)
    check_columns(
        "the neuron table", neurons, ("layer", "pooling", "auroc", "rank", "confirmed"),
        "give the result of confirm_neurons",
    )  # fmt: skip
    rows = selected_detectors(neurons, silent=silent)
    rows = rows[rows["confirmed"].eq(True)]
    for column, value in (("layer", layer), ("pooling", pooling)):
        if value is not None:
            asked = [value] if isinstance(value, str) else list(value)
            _check_holds(neurons, column, asked)
            rows = rows[rows[column].isin(asked)]
    rows = best_first(rows).drop_duplicates(["layer", "class", "neuron"])
    if most is not None:
        rows = rows.groupby("class", sort=False).head(most)
    return rows.reset_index(drop=True)


def _check_holds(neurons: pd.DataFrame, column: str, asked: list[str]) -> None:
    """Refuse a neuron table of other layers (poolings): its detectors say nothing of these."""
    held = sorted(neurons[column].astype(str).unique())
    if held and not set(asked) & set(held):
        there, wanted = (", ".join(map(repr, names)) for names in (held, asked))
        raise FeatlabError(
            f"the neuron table is of {column} {there}, not {wanted}; rank the feature table of "
            f"that {column}, or ask for another."
        )


def in_turn(detectors: pd.DataFrame, most: int) -> pd.DataFrame:
    """The best of each class, then the second best of each, …; `detectors` are best first."""
    turns = detectors.assign(turn=detectors.groupby("class").cumcount())
    return turns.sort_values(["turn", "class"], kind="stable").head(most).drop(columns="turn")


def detector_row(neurons: pd.DataFrame, neuron: int, label: str, *, layer: str) -> pd.Series:
    """The best row of one neuron for one class in one layer.

    Raises
    ------
    FeatlabError
        There is none.
    """
    rows = neurons[
        neurons["neuron"].eq(neuron) & neurons["class"].eq(label) & neurons["layer"].eq(layer)
    ]
    if rows.empty:
        raise FeatlabError(f"the neuron table has no neuron {neuron} of {layer} for {said(label)}.")
    return best_first(rows).iloc[0]


def best_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a neuron table by class; within it the largest effect, then the first rank."""
    order = rows.assign(_size=-(rows["auroc"].astype(float) - 0.5).abs()).sort_values(
        ["class", "_size", "rank", "layer", "pooling", "neuron"], kind="stable"
    )
    return order.drop(columns="_size")
