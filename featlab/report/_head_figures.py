"""The figures of the set and of the heads: drawn and described."""

from __future__ import annotations

import re

from featlab import plots
from featlab.plots.network import output_shape
from featlab.report import _words as words
from featlab.report._drawing import Drawing, drawing
from featlab.results.analysis import Results


def figures(results: Results, head: str) -> dict[str, Drawing | None]:
    """The figures; None where these results do not allow one."""
    return {
        "shape": _shape(results),
        "samples": _samples(results),
        "balance": _balance(results),
        "confounds": _confounds(results),
        "heads": _heads(results),
        "confusion": _confusion(results, head),
        "calibration": _calibration(results),
        "learning": _learning(results),
    }


def _shape(results: Results) -> Drawing | None:
    size = re.findall(r"\d+", str(results.store.provenance.get("input_size", "")))
    if len(size) != 2:
        return None
    h, w, c = results.store.map_shape()
    height, width = (int(side) for side in size)
    return drawing(
        output_shape(
            (h, w, c),
            (height, width),
            n_classes=results.store.images["label"].nunique(),
        ),
        f"From left to right: a picture of {height} × {width} pixels, the frozen network, a stack "
        f"of {c:,} maps of {h} × {w} cells, {c:,} pooled numbers, a score for each class.",
        "What the network makes of a picture. The network is not trained: all that is learnt here "
        "is the head, on the pooled numbers. The numbers are those of this network; the picture, "
        "the map and the scores are a drawing.",
        file="network_output",
    )


def _samples(results: Results) -> Drawing | None:
    samples = results.samples
    if samples is None or not samples.pictures:
        return None
    boxed = sum(len(boxes) > 0 for boxes in samples.boxes)
    return drawing(
        plots.sample_images(samples.pictures, samples.labels, samples.boxes),
        f"{len(samples.pictures)} pictures of the data set with their labels.",
        "Pictures of the data set, drawn at random, the classes in turn"
        + ("; white: ground-truth boxes." if boxed else "."),
        "jpg",
        file="sample_images",
    )


def _balance(results: Results) -> Drawing:
    images = results.store.images
    return drawing(
        plots.class_balance(images, results.split),
        f"Stacked bars: images per class and split, {len(images)} in all.",
        "Images per class. Heads and detectors are chosen on train, detectors and thresholds "
        "confirmed on confirm, scores measured on test.",
        file="class_balance",
    )


def _heads(results: Results) -> Drawing | None:
    table = results.heads.table
    if table["accuracy"].notna().sum() == 0:
        return None
    told = "; ".join(
        f"{words.readable(r['head'])} {words.scored(r, 'accuracy')}" for _, r in table.iterrows()
    )
    return drawing(
        plots.score_intervals(table, "accuracy"),
        f"Accuracy of each head on unseen test images: {told}.",
        "Accuracy on unseen test images, with 95 % intervals. Hollow: what one gets without the "
        "network.",
        file="head_accuracy",
    )


def _confusion(results: Results, head: str) -> Drawing | None:
    predictions = results.heads.predictions
    scored = predictions[predictions["head"] == head]
    if scored.empty:
        return None
    right = int(scored["correct"].sum())
    return drawing(
        plots.confusion_matrix(results.heads.confusion(head)),
        f"Confusion matrix: {right} of {len(scored)} test images on the diagonal.",
        f"Confusions of the {words.readable(head)} head on test images, as counts; "
        "colour: share of the true class.",
        file="confusion_matrix",
    )


def _calibration(results: Results) -> Drawing | None:
    details = results.head_details
    if details is None or details.calibration.empty:
        return None
    return drawing(
        plots.calibration(details.calibration, errors=details.calibration.attrs or None),
        f"Accuracy of the {words.readable(details.head)} head against its own probability.",
        f"Does the {words.readable(details.head)} head know when it is wrong? How often it is "
        "right where it is so sure.",
        file="head_calibration",
    )


def _learning(results: Results) -> Drawing | None:
    details = results.head_details
    if details is None or len(details.learning) < 2:
        return None
    rows = details.learning
    return drawing(
        plots.learning_curve(rows),
        f"Accuracy of the {words.readable(details.head)} head on "
        f"{int(rows['size'].min())} to {int(rows['size'].max())} train images per class.",
        "How many images does it take? The same head on fewer train images per class, drawn "
        f"{words.plural(int(rows['n_repeats'].max()), 'time')}; the test images stay the same.",
        file="head_learning_curve",
    )


def _confounds(results: Results) -> Drawing | None:
    if results.audit is None or results.audit.confounds.empty:
        return None
    return drawing(
        plots.confounds(results.audit.confounds),
        "How well single properties of the pictures tell the classes, as AUROC with interval.",
        "What tells the classes without any network: the strongest properties of the pictures, "
        "each alone. 0.5 tells nothing; 0 and 1 tell everything.",
        file="confounds",
    )
