"""Every check on a finished store, and one line for each: what was found, and the verdict."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import (
    Progress,
    boxes_of_kind,
    check_columns,
    check_same_rows,
    class_codes,
    confirmed_detectors,
    group_codes,
    group_names,
    neuron_ids,
    origin_of,
    score_text,
    split_sides,
)
from featlab.audit._confounds import (
    ADJUSTED_COLUMNS,
    CONFOUND_COLUMNS,
    RARE_SHARE,
    adjusted_effects,
    confounds,
)
from featlab.audit._labels import (
    LABEL_COLUMNS,
    NOT_DONE,
    checked_labels,
    images_word,
    interval_words,
    most_of,
    outliers,
    outliers_line,
    percent,
    worse_of,
)
from featlab.audit._pictures import PICTURE_COLUMNS, Pictures, read_pictures, with_objects
from featlab.audit.copies import copies_both_ways, duplicates, duplicates_line, with_split
from featlab.errors import FeatlabError
from featlab.features import feature_table
from featlab.results.images import Audit, Finding
from featlab.store import MapStore

FAIL_RATIO, WARN_RATIO = 10.0, 3.0
FAIL_IMAGES, WARN_IMAGES = 10, 30
WARN_ON_SIDE = 10
NEARLY_BLACK = 0.03  # mean luma, 0-1: numbers of 12 bits in files of 16 are below 0.0625
FAIL_GROUPS, WARN_GROUPS = 3, 5
WARN_GAIN = 0.25
WARN_EXPLAINED, FAIL_EXPLAINED = 0.10, 0.50
_MOST_NAMED = 3
_MOST = 50  # detectors per class that are judged


def balance(
    y: ArrayLike, groups: ArrayLike | None = None, split: ArrayLike | None = None
) -> list[Finding]:
    """Are the classes large, even, on every side of the split, and made of enough groups?

    - ``class balance``: the largest class has 10 times as many images as the smallest (fail),
      3 times (warn);
    - ``class size``: the smallest class has fewer than 10 images (fail), 30 (warn);
    - ``split``: a class is absent from a side (fail), has fewer than 10 images there (warn);
    - ``groups``: a group lies on two sides, or a class has fewer than 3 groups (fail), fewer
      than 5 (warn); "not done" where no image has a group.
    """
    codes, classes = class_codes(y, least=2)
    sizes = np.bincount(codes)
    findings = [_ratio(sizes, classes), _size(sizes, classes)]
    sides = None if split is None else split_sides(split, len(codes))
    if sides is not None:
        findings.append(_sides(codes, classes, sides))
    if groups is not None:
        findings.append(_groups(codes, classes, group_names(groups, len(codes)), sides))
    return findings


def colour_alone(head_table: pd.DataFrame | None) -> Finding:
    """Do colours alone already tell the classes apart?

    ``pass``: the colour histogram's interval reaches the accuracy of the dummy, or it gains less
    than a quarter of what the logistic head gains over the dummy. ``fail``: it lies above the dummy
    and reaches the interval of the logistic head, so that the network adds nothing that can be
    shown. ``warn``: in between. "not done" where a head is missing.
    """
    name = "colour alone"
    if head_table is None:
        return Finding(name, NOT_DONE, "No head table was given.", 0)
    check_columns("the head table", head_table, ("head", "n", "accuracy"), "give HeadResults.table")
    rows = {str(row["head"]): row for row in head_table.to_dict("records")}
    absent = [head for head in ("dummy", "colour_histogram", "logistic") if head not in rows]
    if absent:
        return Finding(name, NOT_DONE, f"There is no head {absent[0]!r} to compare.", 0)
    colour, dummy, full = rows["colour_histogram"], rows["dummy"], rows["logistic"]
    text = (
        f"A colour histogram alone reaches an accuracy of {interval_words(colour)}; "
        f"the commonest class {score_text(dummy['accuracy'])}, the network's features "
        f"{interval_words(full)}."
    )
    gain, full_gain = (row["accuracy"] - dummy["accuracy"] for row in (colour, full))
    is_above = colour["accuracy_low"] > dummy["accuracy"]
    verdict = worse_of(
        is_above and colour["accuracy_high"] >= full["accuracy_low"],
        is_above and gain >= WARN_GAIN * full_gain,
    )
    return Finding(name, verdict, text, int(colour["n"]))


def _ratio(sizes: NDArray[np.intp], classes: NDArray[np.object_]) -> Finding:
    large, small = sizes.argmax(), sizes.argmin()
    ratio = sizes[large] / sizes[small]
    if sizes[large] == sizes[small]:
        text = f"Each of {len(classes)} classes has {images_word(sizes[small])}."
        return Finding("class balance", "pass", text, int(sizes.sum()))
    text = (
        f"The largest of {len(classes)} classes, {classes[large]!r}, has "
        f"{images_word(sizes[large])}, the smallest, {classes[small]!r}, {sizes[small]:,}: "
        f"{ratio:.3g} times as many."
    )
    verdict = worse_of(ratio >= FAIL_RATIO, ratio >= WARN_RATIO)
    return Finding("class balance", verdict, text, int(sizes.sum()))


def _size(sizes: NDArray[np.intp], classes: NDArray[np.object_]) -> Finding:
    small = sizes.argmin()
    text = f"The smallest class, {classes[small]!r}, has {images_word(sizes[small])}."
    verdict = worse_of(sizes[small] < FAIL_IMAGES, sizes[small] < WARN_IMAGES)
    return Finding("class size", verdict, text, int(sizes.sum()))


def _sides(
    codes: NDArray[np.intp], classes: NDArray[np.object_], sides: NDArray[np.str_]
) -> Finding:
    counts = pd.crosstab(codes, sides)
    code, side = divmod(int(counts.to_numpy().argmin()), counts.shape[1])
    least = int(counts.to_numpy()[code, side])
    text = (
        f"The thinnest side has {images_word(least)}: {classes[code]!r} in {counts.columns[side]}."
    )
    return Finding("split", worse_of(least == 0, least < WARN_ON_SIDE), text, len(codes))


def _groups(
    codes: NDArray[np.intp],
    classes: NDArray[np.object_],
    groups: NDArray[np.str_],
    sides: NDArray[np.str_] | None,
) -> Finding:
    grouped = groups != ""
    if not grouped.any():
        text = "No groups were given; images of one scene may lie on two sides of the split."
        return Finding("groups", NOT_DONE, text, 0)
    units = group_codes(groups, len(groups))
    frame = pd.DataFrame({"code": codes, "unit": units, "side": "" if sides is None else sides})
    crossing = int((frame.groupby("unit")["side"].agg(lambda sides: len(set(sides))) > 1).sum())
    per_class = frame.groupby("code")["unit"].nunique().to_numpy()
    few = per_class.argmin()
    text = (
        f"{len(np.unique(groups[grouped])):,} groups; the class with the fewest, "
        f"{classes[few]!r}, has {per_class[few]}"
        + ("." if sides is None else f"; {crossing} lie on two sides of the split.")
    )
    verdict = worse_of(crossing > 0 or per_class[few] < FAIL_GROUPS, per_class[few] < WARN_GROUPS)
    return Finding("groups", verdict, text, int(grouped.sum()))


def pictures_line(pictures: Pictures | None, n: int, n_skipped: int) -> Finding:
    """Can the pictures still be read?"""
    read = 0 if pictures is None else int(pictures.readable.sum())
    lines = "1 line" if n_skipped == 1 else f"{n_skipped:,} lines"
    left_out = f" {lines} in skipped.csv say what was left out, or not read, when it was indexed."
    text = f"{read:,} of {images_word(n)} can still be read."
    if not read:
        text += " Picture statistics were not looked at."
    black = 0 if pictures is None else int((pictures.statistics["brightness"] < NEARLY_BLACK).sum())
    if black:
        text += (
            f" {images_word(black)} nearly black: 16-bit files whose numbers fill a part of their "
            "range only are shown so, unless --intensity set scales them."
        )
    verdict = NOT_DONE if not read else worse_of(False, read < n or n_skipped > 0 or black > 0)
    return Finding("pictures", verdict, text + (left_out if n_skipped else ""), n)


def confounds_line(table: pd.DataFrame, n: int) -> Finding:
    """Does a picture statistic tell the classes apart?"""
    name = "confounds"
    if not len(table):
        return Finding(name, NOT_DONE, "No picture could be measured.", 0)
    failed, warned = (table[table["verdict"] == word] for word in ("fail", "warn"))
    if not len(failed) and not len(warned):
        text = "No picture statistic is shown to tell a class from the rest."
        return Finding(name, "pass", text, n)
    strong = table[table["verdict"] != "pass"]
    strong = strong[strong["auroc"] >= 0.5] if (strong["auroc"] >= 0.5).any() else strong
    # Each statistic once, at its strongest.
    leaders = strong.drop_duplicates("statistic").head(_MOST_NAMED)
    parts = [
        f"{str(row['statistic']).replace('_', ' ')} for {row['class']!r} "
        f"(AUROC {score_text(row['auroc'])}, 95 % {score_text(row['auroc_low'])}-"
        f"{score_text(row['auroc_high'])})"
        for row in leaders.to_dict("records")
    ]
    # Counted once, too: of two classes each tells what the other does.
    clear = set(failed["statistic"])
    text = (
        f"Without any network, picture statistics tell classes apart: {', '.join(parts)}; "
        f"{len(clear):,} strong and {len(set(warned['statistic']) - clear):,} weaker of "
        f"{table['statistic'].nunique():,} statistics."
    )
    return Finding(name, worse_of(len(failed) > 0, len(warned) > 0), text, n)


def captions_line(
    statistics: pd.DataFrame, confounds: pd.DataFrame, *, labelled: bool = True
) -> Finding:
    """Do the pictures (of some class, where there are classes) carry written strips?"""
    name = "captions"
    known = statistics[statistics["caption"].notna()]
    if not len(known):
        return Finding(name, NOT_DONE, "No picture could be measured.", 0)
    written = known[known["caption"] > 0]
    if not len(written):
        return Finding(name, "pass", "No picture has a written strip.", len(known))
    counts = written["label"].value_counts()
    rows = confounds[(confounds["statistic"] == "caption") & (confounds["verdict"] != "pass")]
    share = len(written) / len(known)
    text = (
        f"{images_word(len(written))} ({percent(share)}) with a line of writing in a plain strip "
        "at the top or bottom" + (f", {most_of(counts)}." if labelled else ".")
    )
    fails = bool((rows["verdict"] == "fail").any())
    return Finding(name, worse_of(fails, len(rows) > 0 or share >= RARE_SHARE), text, len(known))


def adjusted_line(table: pd.DataFrame, n: int) -> Finding:
    """Do the detectors survive when the picture statistics are held fixed?"""
    name = "detectors"
    if not len(table):
        return Finding(name, NOT_DONE, "There is no confirmed detector to judge.", 0)
    share = float(table["explained"].mean())
    text = (
        f"Of the {len(table):,} confirmed detectors judged (at most {_MOST} a class) "
        f"{int(table['explained'].sum()):,} cannot be told from the picture statistics; median "
        f"AUROC on confirm and test images {score_text(table['auroc'].median())} (being confirmed "
        f"on some of them flatters it), {score_text(table['auroc_adjusted'].median())} with the "
        "statistics held fixed."
    )
    return Finding(name, worse_of(share >= FAIL_EXPLAINED, share >= WARN_EXPLAINED), text, n)


def audit_set(
    store: MapStore,
    split: ArrayLike,
    *,
    head_table: pd.DataFrame | None = None,
    neurons: pd.DataFrame | None = None,
    box_kind: str | None = None,
    pairs: pd.DataFrame | None = None,
    random_state: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Run every check on a finished store; the network is not run.

    Parameters
    ----------
    store : MapStore
    split : array_like of shape (n,)
        "train", "confirm" or "test" for every image.
    head_table : DataFrame, optional
        ``HeadResults.table`` of this split, seed and pooled layer; without it colour alone is not
        judged.
    neurons : DataFrame, optional
        Neuron table. Its confirmed detectors, at most 50 per class, are judged with the picture
        statistics held fixed, on the images they were not chosen on (not "train").
    box_kind : str, optional
        Which boxes say where the objects are; by default the commonest kind.
    pairs : DataFrame, optional
        From :func:`duplicates`, which is called by default.
    random_state : int
        Seed of the folds.
    progress : callable, optional
        Wraps the iteration over the pictures, like tqdm.

    Returns
    -------
    Audit
        Where the pictures are no longer there, what needs them is "not done".

    Raises
    ------
    FeatlabError
        `split` does not have one entry per image, or the store has fewer than two classes.
    """
    images = store.images
    check_same_rows(images=images, split=split)
    sides = split_sides(split, len(images))
    labels, groups = images["label"].to_numpy(), images["group"].to_numpy()
    X = _features(store, neurons)
    pictures = _pictures(images, progress)
    statistics = _statistics(store, pictures, box_kind)
    pairs = with_split(duplicates(store) if pairs is None else pairs, sides)
    alone = colour_alone(head_table)
    copies = copies_both_ways(store, X, pairs, random_state, sides, head_table)
    differences = (
        pd.DataFrame(columns=CONFOUND_COLUMNS)
        if pictures is None
        else confounds(statistics, labels, groups=groups)
    )
    n_read = int(pictures.readable.sum()) if pictures is not None else 0
    adjusted, adjusted_finding = _adjusted(X, images, statistics, neurons, sides, pictures)
    errors, errors_finding = checked_labels(X, labels, groups, random_state)
    far = outliers(X, labels)
    findings = [
        pictures_line(pictures, len(images), len(store.skipped)),
        # Copies, which may be groups in `images`, have a line of their own.
        *balance(labels, store.tables.images["group"].to_numpy(), sides),
        duplicates_line(pairs, copies, sides, near=store.thumbnails is not None),
        confounds_line(differences, n_read),
        captions_line(statistics, differences),
        adjusted_finding,
        errors_finding,
        outliers_line(far),
        alone,
    ]
    return Audit(
        summary=pd.DataFrame([asdict(finding) for finding in findings]),
        statistics=statistics,
        confounds=differences,
        adjusted=adjusted,
        duplicates=pairs,
        copies=copies,
        label_errors=_with_paths(errors, images),
        outliers=_with_paths(far[far["outlier"]].reset_index(drop=True), images),
    )


def audit_unlabelled(
    store: MapStore, pairs: pd.DataFrame | None = None, *, box_kind: str | None = None
) -> Audit:
    """What can be checked of a set without labels: pictures, copies, captions, outliers.

    The arguments are those of :func:`audit_set`; tables of labels, confounds, detectors are empty.
    """
    images, X = store.images, _features(store, None)
    pictures = _pictures(images, None)
    statistics = _statistics(store, pictures, box_kind)
    pairs = duplicates(store) if pairs is None else pairs
    one = np.full(len(images), "the set")
    far, none = outliers(X, one).assign(label=""), pd.DataFrame()
    confounded = pd.DataFrame(columns=CONFOUND_COLUMNS)
    findings = [
        pictures_line(pictures, len(images), len(store.skipped)),
        duplicates_line(pairs, none, len(images), near=store.thumbnails is not None),
        captions_line(statistics, confounded, labelled=False),
        outliers_line(far, of="the set"),
    ]
    return Audit(
        summary=pd.DataFrame([asdict(finding) for finding in findings]),
        statistics=statistics,
        confounds=confounded,
        adjusted=pd.DataFrame(columns=ADJUSTED_COLUMNS),
        duplicates=pairs,
        copies=none,
        label_errors=_with_paths(pd.DataFrame(columns=LABEL_COLUMNS), images),
        outliers=_with_paths(far[far["outlier"]].reset_index(drop=True), images),
    )


def _features(store: MapStore, neurons: pd.DataFrame | None) -> pd.DataFrame:
    """Pooled activations, of the layer and the pooling that the neuron table begins with."""
    first = {} if neurons is None or not len(neurons) else neurons.iloc[0].to_dict()
    return feature_table(store, layer=first.get("layer"), pooling=first.get("pooling", "mean"))


def _pictures(images: pd.DataFrame, progress: Progress | None) -> Pictures | None:
    """None where not one picture can be read any more."""
    try:
        pictures = read_pictures(images, progress=progress)
    except FeatlabError:
        return None
    return pictures if pictures.readable.any() else None


def _statistics(store: MapStore, pictures: Pictures | None, box_kind: str | None) -> pd.DataFrame:
    images, boxes = store.images, store.boxes
    table = pd.DataFrame(np.nan, index=images.index, columns=list(PICTURE_COLUMNS))
    if pictures is not None:
        table = pictures.statistics
    if len(boxes):
        kind = boxes["kind"].mode().iloc[0] if box_kind is None else box_kind
        table = with_objects(table, images, boxes_of_kind(boxes, kind))
    columns = {"path": images["path"], "label": images["label"]}
    return pd.concat([pd.DataFrame(columns), table], axis=1)


def _adjusted(
    X: pd.DataFrame,
    images: pd.DataFrame,
    statistics: pd.DataFrame,
    neurons: pd.DataFrame | None,
    sides: NDArray[np.str_],
    pictures: Pictures | None,
) -> tuple[pd.DataFrame, Finding]:
    reason = ""
    if neurons is None:
        reason = "No neuron table was given."
    elif pictures is None:
        reason = "No picture could be measured."
    else:
        rows = np.flatnonzero((sides != "train") & pictures.readable)
        labels, groups = images["label"].to_numpy(), images["group"].to_numpy()
        try:
            layer, pooling = origin_of(X)
            detectors = confirmed_detectors(neurons, layer=layer, pooling=pooling, most=_MOST)
            detectors = detectors[detectors["class"].isin(set(labels[rows]))]
            table = adjusted_effects(
                _columns_of(X, detectors["neuron"], rows),
                labels[rows],
                statistics.iloc[rows],
                detectors,
                groups=groups[rows],
            )
            return table, adjusted_line(table, len(rows))
        except FeatlabError as error:
            reason = str(error)
    return pd.DataFrame(columns=ADJUSTED_COLUMNS), Finding("detectors", NOT_DONE, reason, 0)


def _columns_of(X: pd.DataFrame, neurons: pd.Series, rows: NDArray[np.intp]) -> pd.DataFrame:
    """Some rows of the columns of a few neurons; of a table that may be too large for memory."""
    columns, values = np.flatnonzero(np.isin(neuron_ids(X), neurons)), X.to_numpy()
    taken = np.empty((len(rows), len(columns)), dtype=values.dtype)
    for place, column in enumerate(columns):
        taken[:, place] = values[:, column][rows]
    return pd.DataFrame(taken, X.index[rows], X.columns[columns])


def _with_paths(table: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    paths = images["path"].to_numpy()[table["row"].to_numpy(dtype=np.intp)]
    result = table.copy()
    result.insert(0, "path", paths)
    return result
