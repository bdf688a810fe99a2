"""The section "Classification"."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
from markupsafe import Markup

from featlab import plots
from featlab.report import _words as words
from featlab.report._elements import Figure, Options, Section, Table, table
from featlab.results.analysis import HeadDetails, Results
from featlab.results.heads import BASELINE_HEADS, HeadResults

_HEADS = {
    "logistic": "a logistic regression",
    "mlp": "a small neural network (MLP)",
    "dummy": "always answering the commonest class",
    "colour_histogram": "a logistic regression on colours alone",
}


def classification(results: Results, options: Options) -> Section:
    """How well heads tell the classes apart."""
    heads, details = results.heads, results.head_details
    files = {"heads": heads.table}
    if results.per_class is not None:
        files["per_class"] = results.per_class
    if details is not None:
        files |= {
            "head_pairs": details.pairs,
            "calibration": details.calibration.table,
            "learning_curve": details.learning,
        }
    return Section(
        "classification",
        "Classification",
        "classification.html",
        facts={"advantage": _advantage(heads)},
        tables={
            "heads": _scores(heads.table),
            "per_class": _per_class(results.per_class),
            "pairs": None if details is None else _pairs(details.pairs),
        },
        figures={
            "heads": _accuracies(heads.table),
            "confusion": _confusion(heads),
            "learning": None if details is None else _learning(details),
            "calibration": None if details is None else _calibration(details),
        },
        files=files,
    )


def answer(results: Results) -> Markup:
    """What the network gives, and how well a head does on it."""
    h, w, c = results.store.map_shape()
    text = Markup(
        "The frozen network turns each picture into a grid of {} × {} cells with {} "
        "numbers each, one per neuron. "
    ).format(h, w, f"{c:,}")
    head, scores = results.heads.main, results.heads.table.set_index("head")
    if head not in scores.index:
        return text + "No head was fitted on it."
    row: Any = scores.loc[head]
    text += (
        f"On that, {_HEADS.get(head, words.readable(head))} gets {words.percent(row['accuracy'])} "
        f"of {words.plural(int(row['n']), 'unseen image')} right "
        f"({words.percent(row['accuracy_low'])} to {words.percent(row['accuracy_high'])})"
    )
    rivals = [
        f"{_HEADS[name]} {words.percent(scores.loc[name, 'accuracy'])}"
        for name in BASELINE_HEADS
        if name in scores.index
    ]
    return text + (f"; {' and '.join(rivals)}." if rivals else ".")


def _advantage(heads: HeadResults) -> str:
    """How much better than the baselines, and whether the intervals part."""
    rows = heads.table.set_index("head")
    if heads.main not in rows.index:
        return ""
    ours, sentences = rows.loc[heads.main], []
    for baseline in (name for name in BASELINE_HEADS if name in rows.index):
        other = rows.loc[baseline]
        points = 100 * (ours["accuracy"] - other["accuracy"])
        if ours["accuracy_low"] > other["accuracy_high"]:
            verdict = "the intervals do not overlap"
        else:
            verdict = "the intervals overlap, so this is not shown to be a difference"
        way = "above" if points >= 0 else "below"
        sentences.append(
            f"{abs(points):.0f} percentage points {way} {words.readable(baseline)} ({verdict})"
        )
    return (
        f"The {words.readable(heads.main)} head lies {'; '.join(sentences)}." if sentences else ""
    )


def _scores(heads: pd.DataFrame) -> Table | None:
    rows = [
        [
            words.readable(row["head"]),
            words.scored(row, "accuracy"),
            words.scored(row, "balanced_accuracy"),
            words.scored(row, "roc_auc"),
            words.scored(row, "log_loss"),
            f"{int(row['n_train']):,}",
            f"{int(row['n']):,}",
        ]
        for _, row in heads.iterrows()
    ]
    columns = ["Head", "Accuracy", "Balanced accuracy", "ROC AUC", "Log loss", "n train", "n test"]
    return table("Heads on unseen test images, with 95 % intervals", columns, rows, file="heads")


def _per_class(scores: pd.DataFrame | None) -> Table | None:
    if scores is None or len(scores) < 3:
        return None
    rows = [
        [
            words.name(row["class"]),
            f"{int(row['support']):,}",
            words.scored(row, "recall"),
            words.scored(row, "precision"),
            words.number(row["f1"]),
            Markup("{} ({})").format(words.name(row["confused_with"]), int(row["confused"]))
            if row["confused_with"]
            else "–",
        ]
        for _, row in scores.iterrows()
    ]
    columns = ["Class", "n test", "Recall", "Precision", "F1", "Most often taken for"]
    caption = "The logistic head on each class, with 95 % intervals"
    return table(caption, columns, rows, (0, 5), file="per_class")


def _pairs(pairs: pd.DataFrame) -> Table | None:
    rows = []
    for _, row in pairs.iterrows():
        better, other, sign = ("a", "b", 1) if row["difference"] >= 0 else ("b", "a", -1)
        ends = sorted(sign * row[f"difference_{end}"] for end in ("low", "high"))
        rows.append(
            [
                f"{words.readable(row[better])} less {words.readable(row[other])}",
                f"{words.signed(abs(row['difference']))} {words.interval(*ends)}",
                f"{int(row[f'only_{better}']):,} / {int(row[f'only_{other}']):,}",
                str(row["test"]),
                words.p_value(row["p_adjusted"]),
            ]
        )
    columns = ["Heads", "Difference in accuracy", "Only one right", "Test", "Adjusted p"]
    caption = "Heads against each other on the same test images (Holm over all pairs)"
    return table(caption, columns, rows, (0, 3), file="head_pairs")


def _accuracies(heads: pd.DataFrame) -> Figure | None:
    if heads["accuracy"].notna().sum() == 0:
        return None
    listed = "; ".join(
        f"{words.readable(r['head'])} {words.scored(r, 'accuracy')}" for _, r in heads.iterrows()
    )
    return Figure(
        partial(plots.score_intervals, heads, "accuracy"),
        f"Accuracy of each head on unseen test images: {listed}.",
        "Accuracy on unseen test images, with 95 % intervals. Hollow: what one gets without the "
        "network.",
        "head_accuracy",
    )


def _confusion(heads: HeadResults) -> Figure | None:
    scored = heads.predictions[heads.predictions["head"] == heads.main]
    if scored.empty:
        return None
    right = int(scored["correct"].sum())
    return Figure(
        partial(plots.confusion_matrix, heads.confusion(heads.main)),
        f"Confusion matrix: {right} of {len(scored)} test images on the diagonal.",
        f"Confusions of the {words.readable(heads.main)} head on test images, as counts; "
        "colour: share of the true class.",
        "confusion_matrix",
    )


def _calibration(details: HeadDetails) -> Figure | None:
    if details.calibration.table.empty:
        return None
    return Figure(
        partial(plots.calibration, details.calibration),
        f"Accuracy of the {words.readable(details.head)} head against its own probability.",
        f"Does the {words.readable(details.head)} head know when it is wrong? How often it is "
        "right where it is so sure.",
        "head_calibration",
    )


def _learning(details: HeadDetails) -> Figure | None:
    rows = details.learning
    if len(rows) < 2:
        return None
    return Figure(
        partial(plots.learning_curve, rows),
        f"Accuracy of the {words.readable(details.head)} head on "
        f"{int(rows['size'].min())} to {int(rows['size'].max())} train images per class.",
        "How many images does it take? The same head on fewer train images per class, drawn "
        f"{words.plural(int(rows['n_repeats'].max()), 'time')}; the test images stay the same.",
        "head_learning_curve",
    )
