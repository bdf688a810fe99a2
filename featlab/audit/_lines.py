"""Findings out of the tables of the audit."""

from __future__ import annotations

import numpy as np
import pandas as pd

from featlab.audit._confounds import RARE_SHARE
from featlab.audit._findings import NOT_DONE, Finding, images_word, worse_of
from featlab.audit._labels import OUTLIER_SCORE
from featlab.audit._pictures import Pictures

FAIL_LEAK = 0.01  # of the images, in near duplicates across the split
WARN_LABELS, FAIL_LABELS = 0.01, 0.10
WARN_OUTLIERS, FAIL_OUTLIERS = 0.01, 0.05
WARN_EXPLAINED, FAIL_EXPLAINED = 0.10, 0.50
_SHOWN = 3


def pictures_line(pictures: Pictures | None, n: int, n_skipped: int) -> Finding:
    """Can the pictures still be read?"""
    found = 0 if pictures is None else int(pictures.readable.sum())
    left_out = f" {n_skipped:,} files or boxes were left out when it was indexed."
    text = f"{found:,} of {images_word(n)} can still be read."
    if not found:
        text += " Picture statistics and near duplicates were not looked at."
    verdict = NOT_DONE if not found else worse_of(False, found < n or n_skipped > 0)
    return Finding("pictures", verdict, text + (left_out if n_skipped else ""), n)


def duplicates_line(table: pd.DataFrame, n: int, *, looked: bool) -> Finding:
    """Are images there twice, on two sides of the split or under two labels?"""
    exact = table["kind"] == "exact"
    across, differ = table["across"].to_numpy(bool), table["labels_differ"].to_numpy(bool)
    leaking = table[["row_a", "row_b"]][across].to_numpy()
    n_leaking = len(np.unique(leaking))
    text = (
        f"{int(exact.sum()):,} exact and {int((~exact).sum()):,} near duplicate pairs; "
        f"{int(across.sum()):,} lie across the split ({images_word(n_leaking)}), "
        f"{int(differ.sum()):,} have two labels."
    )
    if not looked:
        text += " Near ones were not looked for."
    fails = bool((exact & across).any()) or n_leaking > FAIL_LEAK * n
    return Finding("duplicates", worse_of(fails, across.any() or differ.any()), text, n)


def confounds_line(table: pd.DataFrame, n: int) -> Finding:
    """Does a picture statistic tell the classes apart?"""
    name = "confounds"
    if not len(table):
        return Finding(name, NOT_DONE, "No picture could be measured.", 0)
    failed, warned = (table[table["verdict"] == word] for word in ("fail", "warn"))
    if not len(failed) and not len(warned):
        text = "No picture statistic tells a class from the rest."
        return Finding(name, "pass", text, n)
    strong = table[table["verdict"] != "pass"]
    strong = strong[strong["auroc"] >= 0.5] if (strong["auroc"] >= 0.5).any() else strong
    # Each statistic once, at its strongest.
    shown = strong.drop_duplicates("statistic").head(_SHOWN)
    parts = [
        f"{str(row.statistic).replace('_', ' ')} for {row.class_!r} "
        f"(AUROC {row.auroc:.2f}, 95 % {row.auroc_low:.2f}-{row.auroc_high:.2f})"
        for row in shown.rename(columns={"class": "class_"}).itertuples()
    ]
    text = (
        f"Without any network, picture statistics tell classes apart: {', '.join(parts)}; "
        f"{len(failed):,} strong and {len(warned):,} weaker of {len(table):,} pairs of a class and "
        "a statistic."
    )
    return Finding(name, worse_of(len(failed) > 0, len(warned) > 0), text, n)


def captions_line(statistics: pd.DataFrame, confounds: pd.DataFrame) -> Finding:
    """Do the pictures of some class carry written strips?"""
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
        f"{images_word(len(written))} ({share:.0%}) with a line of writing in a plain strip at the "
        f"top or bottom, {counts.iloc[0]:,} of them {counts.index[0]!r}."
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
        f"{int(table['explained'].sum()):,} of {len(table):,} confirmed detectors cannot be told "
        f"from the picture statistics; median AUROC {table['auroc'].median():.2f}, "
        f"{table['auroc_adjusted'].median():.2f} with the statistics held fixed."
    )
    return Finding(name, worse_of(share >= FAIL_EXPLAINED, share >= WARN_EXPLAINED), text, n)


def labels_line(table: pd.DataFrame) -> Finding:
    """Are labels contradicted?"""
    n = int(table.attrs["n"])
    share = len(table) / n
    text = (
        f"{images_word(len(table))} ({share:.1%}) with a label that the others contradict; "
        f"{table.attrs['accuracy']:.0%} of all are classified as labelled when held out."
    )
    return Finding("label errors", worse_of(share >= FAIL_LABELS, share >= WARN_LABELS), text, n)


def outliers_line(table: pd.DataFrame) -> Finding:
    """Are images unlike their class?"""
    judged = int(table["score"].notna().sum())
    if not judged:
        return Finding("outliers", NOT_DONE, "Every class is too small.", 0)
    found = int(table["outlier"].sum())
    share = found / judged
    text = (
        f"{images_word(found)} ({share:.1%}) far from the rest of their class "
        f"(modified z-score above {OUTLIER_SCORE:g})."
    )
    verdict = worse_of(share >= FAIL_OUTLIERS, share >= WARN_OUTLIERS)
    return Finding("outliers", verdict, text, judged)
