"""The sections "Classification" and "The network's own classes"; how many boxes it takes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from featlab import plots
from featlab.report import _words as words
from featlab.report._answers import scored
from featlab.report._elements import Figure, Options, Section, Table, table
from featlab.report._words import claim, points, said, standing, turned
from featlab.results.analysis import BASELINE_HEADS, HeadDetails, Results

_HEADS = {
    "logistic": "a logistic regression",
    "mlp": "a small neural network (MLP)",
    "dummy": "always answering the commonest class",
    "colour_histogram": "a logistic regression on colours alone",
}

_MOST_LABELS, _MOST_CALLED, _MOST_OF_ALL = 6, 3, 10


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
        facts={"advantage": said(_unseen(results), _advantage(results))},
        tables={
            "heads": _scores(heads.table),
            "per_class": _per_class(results.per_class),
            "pairs": None if details is None else _pairs(details.pairs),
        },
        figures={
            "heads": _accuracies(results),
            "confusion": _confusion(results),
            "learning": None if details is None else _learning(results, details),
            "calibration": None if details is None else _calibration(details),
        },
        files=files,
    )


def own_classes(results: Results, options: Options) -> Section | None:
    """What the network itself calls the pictures."""
    own = results.own
    if own is None:
        return None
    files = {"own_pictures": own.pictures, "own_classes": own.called}
    if own.boxes is not None:
        files["own_boxes"] = own.boxes
    return Section(
        "own_classes",
        "The network's own classes",
        "own_classes.html",
        facts={"answer": own_answer(results), "labels": _own_labels(results)},
        tables={"called": _called(own.called)},
        figures={"examples": _own_examples(results, options.most_examples)},
        files=files,
        link="Own classes",
    )


@claim("own classes")
def own_answer(results: Results) -> Markup:
    """What it calls most of them."""
    if results.own is None:
        return Markup("")
    whole = results.own.called[results.own.called["label"].eq("")]
    shares = [
        Markup("{} {}").format(words.name(row["own_class"]), words.share(row, "share"))
        for _, row in whole.head(3).iterrows()
    ]
    return Markup("Of its {} classes it names first, most often: {} of {}.").format(
        f"{results.own.n_classes:,}",
        Markup(", ").join(shares),
        words.plural(int(whole["n"].iloc[0]), "picture"),
    )


@claim("own classes of each class")
def _own_labels(results: Results) -> Markup:
    """What it calls the pictures of each of the user's classes."""
    called = None if results.own is None else results.own.called
    if called is None or called["label"].eq("").all():
        return Markup("")
    first = called[called["label"].ne("")].drop_duplicates("label")
    shares = [
        Markup("{} is called {} in {}").format(
            words.name(row["label"]), words.name(row["own_class"]), words.share(row, "share")
        )
        for _, row in first.head(_MOST_LABELS).iterrows()
    ]
    rest = len(first) - len(shares)
    more = f"; and so on for {words.plural(rest, 'class', 'classes')} more" if rest else ""
    return Markup("{}{}.").format(Markup("; ").join(shares), more)


def _called(called: pd.DataFrame) -> Table | None:
    most = _MOST_OF_ALL if called["label"].eq("").all() else _MOST_CALLED
    rows = [
        [
            words.name(row["label"]) if row["label"] else "all",
            words.name(row["own_class"]),
            f"{int(row['images']):,} of {int(row['n']):,}",
            words.share(row, "share"),
            words.score(row["own_probability"]),
        ]
        for _, row in called.groupby("label", sort=True).head(most).iterrows()
    ]
    columns = ["Pictures of", "Called", "Pictures", "Share", "Mean probability"]
    return table(
        "What the network itself calls the pictures, before anything else", columns, rows, (0, 1),
        total=len(called), file="own_classes",
    )  # fmt: skip


def _own_examples(results: Results, most: int) -> Figure | None:
    examples = results.own_examples
    if examples is None or not examples.pictures or most < 1:
        return None
    first = examples.first(most)
    return Figure(
        partial(
            plots.detector_maps,
            first.pictures,
            first.heats,
            ["class activation\nmap"],
            labels=first.labels,
            predicted_boxes=first.predicted_boxes,
            unit="share of the logit (its units)",
        ),
        f"{words.plural(len(first.pictures), 'picture')}, the map of what the network calls each, "
        "and its box.",
        f"{words.plural(len(first.pictures), 'picture')} drawn at random, and where in them the "
        "network sees what it calls them (beside "
        "the picture): the maps weighted by its own weights for that class. Blue: the box around "
        "it, at a threshold that no box was needed for. Nothing is scored here.",
        "own_classes",
        pictures=True,
    )


@claim("heads")
def answer(results: Results) -> Markup:
    """What the network gives, and how well a head does on it."""
    h, w, c = results.store.map_shape()
    text = Markup(
        "The frozen network turns each picture into a grid of {}\u00a0×\u00a0{} cells with {} "
        "numbers each, one per neuron. "
    ).format(h, w, f"{c:,}")
    head, scores = results.heads.main, results.heads.table.set_index("head")
    if head not in scores.index:
        return text + "No head was fitted on it."
    row: Any = scores.loc[head]
    text += (
        f"On that, {_HEADS.get(head, words.readable(head))} gets {words.share(row, 'accuracy')} "
        f"of {words.plural(int(row['n']), 'unseen image')} right"
    )
    rivals = [
        f"{_HEADS[name]} {words.percent(scores.loc[name, 'accuracy'])}"
        for name in BASELINE_HEADS
        if name in scores.index
    ]
    return text + (f"; {' and '.join(rivals)}." if rivals else ".")


@claim("unseen test images")
def _unseen(results: Results) -> str:
    """That what is scored was not learnt from: the rows of the predictions say it."""
    rows = results.heads.predictions["row"].to_numpy(int)
    sides = results.split.to_numpy(str)[rows]
    if not len(sides) or (sides != "test").any():
        return ""
    return "Scored on test images that took no part in fitting or tuning."


@claim("head against baselines")
def _advantage(results: Results) -> str:
    """How much better than the baselines, image by image."""
    pairs = (_pair(results, baseline) for baseline in BASELINE_HEADS)
    gaps = [
        f"{points(pair)} against {words.readable(pair['b'])}"
        f"{', not shown to be a difference' if standing(pair) == 'not shown' else ''}"
        for pair in pairs
        if pair is not None
    ]
    if not gaps:
        return ""
    return (
        f"Image by image, the {words.readable(results.heads.main)} head lies at {'; '.join(gaps)}."
    )


def _pair(results: Results, baseline: str) -> dict[str, Any] | None:
    """The main head against a baseline on the same test images; None where it was not compared."""
    details, head = results.head_details, results.heads.main
    if details is None or details.pairs.empty:
        return None
    for _, pair in details.pairs.iterrows():
        if (pair["a"], pair["b"]) == (head, baseline):
            return dict(pair)
        if (pair["a"], pair["b"]) == (baseline, head):
            return turned(pair)
    return None


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
    caption = f"Heads on unseen test images{words.with_intervals(heads, 'accuracy')}"
    return table(caption, columns, rows, file="heads")


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
    caption = f"The logistic head on each class{words.with_intervals(scores, 'recall')}"
    return table(caption, columns, rows, (0, 5), file="per_class")


def _pairs(pairs: pd.DataFrame) -> Table | None:
    rows = []
    for _, row in pairs.iterrows():
        better, other, sign = ("a", "b", 1) if row["difference"] >= 0 else ("b", "a", -1)
        ends = sorted(sign * row[f"difference_{end}"] for end in ("low", "high"))
        rows.append(
            [
                f"{words.readable(row[better])} − {words.readable(row[other])}",
                f"{words.signed(abs(row['difference']))} {words.interval(*ends)}",
                f"{int(row[f'only_{better}']):,} / {int(row[f'only_{other}']):,}",
                str(row["test"]),
                words.p_value(row["p_adjusted"]),
            ]
        )
    columns = ["Heads", "Difference in accuracy", "Only one right", "Test", "Adjusted p"]
    caption = "Heads against each other on the same test images (Holm over all pairs)"
    return table(caption, columns, rows, (0, 3), file="head_pairs")


def _accuracies(results: Results) -> Figure | None:
    heads = results.heads.table
    if heads["accuracy"].notna().sum() == 0:
        return None
    return Figure(
        partial(plots.score_intervals, heads, "accuracy"),
        str(_listed(results)),
        str(_caption(results)),
        "head_accuracy",
    )


@claim("every head")
def _listed(results: Results) -> str:
    every = "; ".join(
        f"{words.readable(r['head'])} {words.scored(r, 'accuracy')}"
        for _, r in results.heads.table.iterrows()
    )
    return f"Accuracy of each head on unseen test images: {every}." if every else ""


@claim("head intervals")
def _caption(results: Results) -> str:
    heads = results.heads.table
    hollow = heads["head"].isin(BASELINE_HEADS).any()
    return (
        f"Accuracy on unseen test images{words.with_intervals(heads, 'accuracy')}."
        f"{' Hollow: what one gets without the network.' if hollow else ''}"
    )


@claim("confusions")
def _right(results: Results) -> str:
    heads = results.heads
    asked = heads.predictions[heads.predictions["head"] == heads.main]
    if asked.empty:
        return ""
    return (
        f"Confusion matrix: {int(asked['correct'].sum())} of "
        f"{words.plural(len(asked), 'test image')} on the diagonal."
    )


def _confusion(results: Results) -> Figure | None:
    heads, right = results.heads, _right(results)
    if right is None:
        return None
    return Figure(
        partial(plots.confusion_matrix, heads.confusion(heads.main)),
        str(right),
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


def _learning(results: Results, details: HeadDetails) -> Figure | None:
    caption = _fewer(results)
    if caption is None:
        return None
    rows = details.learning
    return Figure(
        partial(plots.learning_curve, rows),
        f"Accuracy of the {words.readable(details.head)} head over train images per class.",
        str(caption),
        "head_learning_curve",
    )


@claim("learning curve")
def _fewer(results: Results) -> str:
    if results.head_details is None or len(results.head_details.learning) < 2:
        return ""
    rows = results.head_details.learning
    sizes, repeats = rows["size"].astype(int), rows["n_repeats"].astype(int)
    most = "" if repeats.min() == repeats.max() else "at most "
    full = sizes * len(results.store.classes)
    fewer = " (all that a smaller class has)" if rows["n_train"].lt(full).any() else ""
    return (
        f"How many images does it take? The same head on {sizes.min():,} to {sizes.max():,} train "
        f"images per class{fewer}, drawn {most}{words.plural(repeats.max(), 'time')}; the test "
        "images stay the same."
    )


@claim("boxes drawn")
def _boxes_drawn(results: Results) -> str:
    curve = None if results.box_details is None else results.box_details.curve
    if curve is None or len(curve) < 2:
        return ""
    first, last = curve.iloc[0], curve.iloc[-1]
    text = (
        f"How many boxes does it take? Cells learnt from the boxes of {int(first['boxed']):,} to "
        f"{int(last['boxed']):,} train images, drawn at most "
        f"{words.plural(int(curve['n_repeats'].max()), 'time')}: V2 on "
        f"{words.plural(int(last['n']), 'test image')} from "
        f"{words.scored(first, 'max_box_acc_v2')} to {words.scored(last, 'max_box_acc_v2')}."
    )
    rival = _best_without_box(results)
    if rival is None:
        return text
    name, best = words.method(rival["method"]), words.number(rival["max_box_acc_v2"])
    # From there on: a curve that falls below again has not passed.
    ahead = curve[curve["max_box_acc_v2"].gt(rival["max_box_acc_v2"])[::-1].cummin()[::-1]]
    if ahead.empty:
        return f"{text} The best that learns from no box, “{name}” ({best}), is not passed."
    score = words.scored(ahead.iloc[0], "max_box_acc_v2")
    return (
        f"{text} The best that learns from no box, “{name}” ({best}), is passed at "
        f"{int(ahead['boxed'].iloc[0]):,} boxed train images ({score}), by the scores alone: no "
        "test was made of it."
    )


def _best_without_box(results: Results) -> pd.Series | None:
    """Of the methods that learn from labels, or nothing, the one of the highest V2 on test.

    None where the curve is of a sample: scores of other images are no bar to pass.
    """
    scores, boxes = scored(results), results.box_details
    if scores is None or boxes is None or boxes.curve is None:
        return None
    if scores.table["n"].max() != boxes.curve["n"].max():
        return None
    taught = scores.table["supervision"].eq("boxes") | scores.table["method"].eq("mean_box")
    table = scores.table[~taught]
    values = table["max_box_acc_v2"].to_numpy(float)
    return table.iloc[int(np.nanargmax(values))] if np.isfinite(values).any() else None


def box_curve(results: Results) -> Figure | None:
    """V2 over train images with a box: the learning curve of what learns from boxes."""
    caption = _boxes_drawn(results)
    if not caption:
        return None
    assert results.box_details is not None and results.box_details.curve is not None
    rival = _best_without_box(results)
    best = None if rival is None else float(rival["max_box_acc_v2"])
    return Figure(
        partial(plots.curves.box_curve, results.box_details.curve, best=best),
        "V2 of cells learnt from boxes over train images with a box.",
        str(caption),
        "localisation_box_curve",
    )
