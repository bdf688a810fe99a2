"""One line per check: what was found, and pass, warn or fail."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.audit._inputs import codes_of
from featlab.errors import FeatlabError

SUMMARY_COLUMNS = ["check", "verdict", "finding", "n"]
NOT_DONE = "not done"

FAIL_RATIO, WARN_RATIO = 10.0, 3.0
FAIL_IMAGES, WARN_IMAGES = 10, 30
WARN_ON_SIDE = 10
FAIL_GROUPS, WARN_GROUPS = 3, 5
WARN_GAIN = 0.25


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes
    ----------
    check : str
        Its name.
    verdict : {"pass", "warn", "fail", "not done"}
    finding : str
        One sentence with the numbers.
    n : int
        Images it rests on.
    """

    check: str
    verdict: str
    finding: str
    n: int


def as_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """A row per finding; columns :data:`SUMMARY_COLUMNS`."""
    return pd.DataFrame([asdict(finding) for finding in findings], columns=SUMMARY_COLUMNS)


def balance(
    labels: ArrayLike, groups: ArrayLike | None = None, split: ArrayLike | None = None
) -> pd.DataFrame:
    """Are the classes large, even, on every side of the split, and made of enough groups?

    Parameters
    ----------
    labels : array_like of shape (n,)
    groups : array_like of shape (n,), optional
        ``""`` is no group; such an image is a group of its own.
    split : array_like of shape (n,), optional
        Side of every image.

    Returns
    -------
    DataFrame, one row per check
        ``check, verdict, finding, n``:

        - ``class balance``: the largest class has 10 times as many images as the smallest (fail),
          3 times (warn);
        - ``class size``: the smallest class has fewer than 10 images (fail), 30 (warn);
        - ``split``: a class is absent from a side (fail), has fewer than 10 images there (warn);
        - ``groups``: a group lies on two sides, or a class has fewer than 3 groups (fail), fewer
          than 5 (warn); "not done" where no image has a group.

    Raises
    ------
    FeatlabError
        Rows that do not match, fewer than two classes.
    """
    n = len(np.asarray(labels))
    codes, classes = codes_of(labels, n, "labels")
    sizes = np.bincount(codes)
    findings = [_ratio(sizes, classes), _size(sizes, classes)]
    sides = None if split is None else _strings(split, "split", n)
    if sides is not None:
        findings.append(_sides(codes, classes, sides))
    if groups is not None:
        findings.append(_groups(codes, classes, _strings(groups, "groups", n), sides))
    return as_table(findings)


def colour_alone(head_table: pd.DataFrame) -> pd.DataFrame:
    """Do colours alone already tell the classes apart?

    Parameters
    ----------
    head_table : DataFrame
        ``HeadResults.table`` of :func:`featlab.heads.evaluate_heads` called with `colour`:
        ``head, n, accuracy, accuracy_low, accuracy_high`` with the heads ``dummy``, ``logistic``
        and ``colour_histogram``.

    Returns
    -------
    DataFrame of one row
        ``check, verdict, finding, n``. ``pass``: the colour histogram's interval reaches the
        accuracy of the dummy, or it gains less than a quarter of what the logistic head gains over
        the dummy. ``fail``: it lies above the dummy and reaches the interval of the logistic head,
        so that the network adds nothing that can be shown. ``warn``: in between. "not done" where
        a head is missing.
    """
    name = "colour alone"
    missing = [column for column in ("head", "n", "accuracy") if column not in head_table]
    if missing:
        raise FeatlabError(f"The head table has no column {missing[0]!r}.")
    rows = {str(row["head"]): row for row in head_table.to_dict("records")}
    absent = [head for head in ("dummy", "colour_histogram", "logistic") if head not in rows]
    if absent:
        return as_table([Finding(name, NOT_DONE, f"There is no head {absent[0]!r} to compare.", 0)])
    colour, dummy, full = rows["colour_histogram"], rows["dummy"], rows["logistic"]
    text = (
        f"A colour histogram alone reaches an accuracy of {_interval(colour)}; "
        f"the commonest class {dummy['accuracy']:.2f}, the network's features {_interval(full)}."
    )
    gain, full_gain = (row["accuracy"] - dummy["accuracy"] for row in (colour, full))
    is_above = colour["accuracy_low"] > dummy["accuracy"]
    verdict = worse_of(
        is_above and colour["accuracy_high"] >= full["accuracy_low"],
        is_above and gain >= WARN_GAIN * full_gain,
    )
    return as_table([Finding(name, verdict, text, int(colour["n"]))])


def images_word(n: int) -> str:
    """`1 image`, `2,000 images`."""
    return f"{n:,} image" + ("" if n == 1 else "s")


def worse_of(fails: bool | np.bool_, warns: bool | np.bool_) -> str:
    """The verdict."""
    return "fail" if fails else "warn" if warns else "pass"


def _interval(row: Mapping[Hashable, Any]) -> str:
    return f"{row['accuracy']:.2f} ({row['accuracy_low']:.2f}-{row['accuracy_high']:.2f})"


def _ratio(sizes: NDArray[np.intp], classes: list) -> Finding:
    large, small = sizes.argmax(), sizes.argmin()
    ratio = sizes[large] / sizes[small]
    text = (
        f"The largest of {len(classes)} classes, {classes[large]!r}, has "
        f"{images_word(sizes[large])}, the smallest, {classes[small]!r}, {sizes[small]:,}: "
        f"{ratio:.1f} times as many."
    )
    verdict = worse_of(ratio >= FAIL_RATIO, ratio >= WARN_RATIO)
    return Finding("class balance", verdict, text, int(sizes.sum()))


def _size(sizes: NDArray[np.intp], classes: list) -> Finding:
    small = sizes.argmin()
    text = f"The smallest class, {classes[small]!r}, has {images_word(sizes[small])}."
    verdict = worse_of(sizes[small] < FAIL_IMAGES, sizes[small] < WARN_IMAGES)
    return Finding("class size", verdict, text, int(sizes.sum()))


def _sides(codes: NDArray[np.intp], classes: list, sides: NDArray[np.str_]) -> Finding:
    counts = pd.crosstab(codes, sides)
    code, side = divmod(int(counts.to_numpy().argmin()), counts.shape[1])
    least = int(counts.to_numpy()[code, side])
    text = (
        f"The thinnest side has {images_word(least)}: {classes[code]!r} in {counts.columns[side]}."
    )
    return Finding("split", worse_of(least == 0, least < WARN_ON_SIDE), text, len(codes))


def _groups(
    codes: NDArray[np.intp],
    classes: list,
    groups: NDArray[np.str_],
    sides: NDArray[np.str_] | None,
) -> Finding:
    grouped = groups != ""
    if not grouped.any():
        text = "No image has a group; images of one scene may lie on two sides of the split."
        return Finding("groups", NOT_DONE, text, 0)
    units = np.where(grouped, groups, np.arange(len(groups)).astype(str) + "\0")
    frame = pd.DataFrame({"code": codes, "unit": units, "side": "" if sides is None else sides})
    crossing = int((frame.groupby("unit")["side"].agg(lambda found: len(set(found))) > 1).sum())
    per_class = frame.groupby("code")["unit"].nunique().to_numpy()
    few = per_class.argmin()
    text = (
        f"{len(np.unique(groups[grouped])):,} groups; the class with the fewest, "
        f"{classes[few]!r}, has {per_class[few]}"
        + ("." if sides is None else f"; {crossing} lie on two sides of the split.")
    )
    verdict = worse_of(crossing > 0 or per_class[few] < FAIL_GROUPS, per_class[few] < WARN_GROUPS)
    return Finding("groups", verdict, text, int(grouped.sum()))


def _strings(values: ArrayLike, name: str, n: int) -> NDArray[np.str_]:
    strings = np.asarray(values).astype(str)
    if strings.shape != (n,):
        raise FeatlabError(f"{name} must have one entry per image ({n}), got {len(strings)}.")
    return strings
