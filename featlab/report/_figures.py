"""The figures of the page: drawn, encoded, described."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from featlab import plots
from featlab.report import _words as words
from featlab.report._choices import best_method, confirmed_detectors, selected_detectors
from featlab.report._results import Examples, Results

_MEDIA = {"svg": "image/svg+xml", "png": "image/png", "jpg": "image/jpeg"}
_PICTURE_DPI = 110
_PIXELS_PER_INCH = 96


@dataclass(frozen=True)
class Drawing:
    """A figure on the page; `width` in CSS pixels."""

    uri: str
    alt: str
    caption: str
    width: int
    pictures: bool = False


def drawings(results: Results, head: str, max_examples: int, random_state: int) -> dict[str, Any]:
    """Every figure that these results allow; None for the others."""
    return {
        "samples": _samples(results),
        "balance": _balance(results),
        "heads": _heads(results),
        "confusion": _confusion(results, head),
        "calibration": _calibration(results),
        "learning": _learning(results),
        "volcano": _volcano(results),
        "confirmed": _confirmed(results),
        "distributions": _distributions(results, random_state),
        "ablation": _ablation(results, "ablate"),
        "keep": _ablation(results, "keep"),
        "confounds": _confounds(results),
        "cards": _cards(results),
        "strips": _strips(results),
        "success": _success(results),
        "thresholds": _thresholds(results),
        "failures": _failures(results.failures, max_examples),
        "box_eda": _box_eda(results),
        "box_heads": _box_heads(results),
        "detector_maps": _detector_maps(results.detector_examples, max_examples, head),
        "localisation": _localisation(results),
        "localised": _localised(results.localisation_examples, max_examples),
    }


def drawing(figure: Any, alt: str, caption: str, kind: str = "svg") -> Drawing:
    """A figure, encoded; `kind` is "jpg" where it is made of pictures."""
    pictures = kind == "jpg"
    data = plots.encode(figure, kind, dpi=_PICTURE_DPI if pictures else 150)
    uri = f"data:{_MEDIA[kind]};base64,{base64.b64encode(data).decode('ascii')}"
    inches = getattr(figure, "figure", figure).get_figwidth()
    return Drawing(uri, alt, caption, round(inches * _PIXELS_PER_INCH), pictures)


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
    )


def _balance(results: Results) -> Drawing:
    images = results.store.images
    return drawing(
        plots.class_balance(images, results.split),
        f"Stacked bars: images per class and split, {len(images)} in all.",
        "Images per class. Heads and detectors are chosen on train, detectors and thresholds "
        "confirmed on confirm, scores measured on test.",
    )


def _heads(results: Results) -> Drawing | None:
    table = results.heads.table
    if table["accuracy"].notna().sum() == 0:
        return None
    told = "; ".join(
        f"{words.readable(r['head'])} {words.scored(r, 'accuracy')}" for _, r in table.iterrows()
    )
    return drawing(
        plots.head_comparison(table),
        f"Accuracy of each head on unseen test images: {told}.",
        "Accuracy on unseen test images, with 95 % intervals. Hollow: what one gets without the "
        "network.",
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
    )


def _calibration(results: Results) -> Drawing | None:
    details = results.head_details
    if details is None or details.calibration.empty:
        return None
    return drawing(
        plots.calibration(details.calibration),
        f"Accuracy of the {words.readable(details.head)} head against its own probability.",
        f"Does the {words.readable(details.head)} head know when it is wrong? How often it is "
        "right where it is so sure.",
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
    )


def _box_eda(results: Results) -> Drawing | None:
    boxes = results.box_laboratory
    if boxes is None or boxes.statistics.empty:
        return None
    mean = float(boxes.statistics["area"].median())
    return drawing(
        plots.box_eda(boxes.statistics),
        f"Size, shape and place of {len(boxes.statistics)} boxes; half cover less than "
        f"{words.percent(mean)} of their picture.",
        "The ground-truth boxes: size, shape, number and place, in units of the picture.",
    )


def _box_heads(results: Results) -> Drawing | None:
    boxes = results.box_laboratory
    if boxes is None or boxes.heads is None:
        return None
    told = "; ".join(
        f"{words.box_head(r['head'])} {words.scored(r, 'mean_iou')}"
        for _, r in boxes.heads.iterrows()
    )
    return drawing(
        plots.box_heads(boxes.heads.assign(head=boxes.heads["head"].map(words.box_head))),
        f"Mean IoU of boxes by regression on test images: {told}.",
        "Boxes by regression on the stored maps, learnt from train and confirm images with boxes, "
        "on test images, with 95 % intervals. Hollow: baselines.",
    )


def _volcano(results: Results) -> Drawing | None:
    table = results.neurons
    if table["auroc"].notna().sum() == 0:
        return None
    return drawing(
        plots.volcano(table),
        f"Volcano plot of {len(table)} pairs of class and neuron; "
        f"{int(table['detector'].eq(True).sum())} are selected as detectors.",
        "Every neuron against every class, on train images: effect to the right, evidence upwards. "
        "A detector needs both; the dashed lines are the cut-offs.",
    )


def _confirmed(results: Results) -> Drawing | None:
    chosen = selected_detectors(results.neurons)
    chosen = chosen[chosen["auroc_confirmed"].notna()]
    if chosen.empty:
        return None
    loss = float((chosen["auroc"] - chosen["auroc_confirmed"]).median())
    return drawing(
        plots.selected_vs_confirmed(chosen),
        f"AUROC at selection against AUROC on unseen images for {len(chosen)} detectors.",
        "What selecting flatters (bars: 95 % intervals): a detector below the dashed line is "
        "weaker on unseen images than where it was chosen. Median loss "
        f"{words.number(loss, 3)} AUROC ({words.plural(len(chosen), 'detector')}).",
    )


def _ablation(results: Results, mode: str) -> Drawing | None:
    laboratory = results.laboratory
    if laboratory is None or laboratory.ablation is None:
        return None
    table = laboratory.ablation[laboratory.ablation["mode"] == mode]
    if table.empty:
        return None
    what = "set to their training mean" if mode == "ablate" else "kept, all others at their mean"
    return drawing(
        plots.ablation(table),
        f"Accuracy of the logistic head with k detectors {what}, beside random neurons.",
        f"The logistic head on test images with its first k detectors {what}; orange: as many "
        "neurons of like variance, drawn at random.",
    )


def _confounds(results: Results) -> Drawing | None:
    if results.audit is None or results.audit.confounds.empty:
        return None
    return drawing(
        plots.confounds(results.audit.confounds),
        "How well single properties of the pictures tell the classes, as AUROC with interval.",
        "What tells the classes without any network: the strongest properties of the pictures, "
        "each alone. 0.5 tells nothing; 0 and 1 tell everything.",
    )


def _strips(results: Results) -> Drawing | None:
    strips = results.strips
    if strips is None or not strips.pictures or not strips.heats:
        return None
    titles = {method: words.method(method) for method in strips.heats}
    return drawing(
        plots.method_strips(
            strips.pictures,
            {titles[method]: heats for method, heats in strips.heats.items()},
            labels=strips.labels,
            true_boxes=strips.true_boxes,
            predicted_boxes={titles[m]: boxes for m, boxes in strips.predicted_boxes.items()},
        ),
        "The same test images seen by several methods, with true and predicted boxes.",
        "The same test images, from well to badly localised, seen by several methods. White: true "
        "boxes; blue: predicted, at the method's threshold; glow: the heat map, on its own scale.",
        "jpg",
    )


def _success(results: Results) -> Drawing | None:
    if words.scores(results) is None or results.localisation is None:
        return None
    table = results.localisation.success
    if table.empty:
        return None
    return drawing(
        plots.success_curves(table, _curve_titles(results.localisation.table)),
        "Share of test images whose box reaches an IoU, for every IoU from 0 to 1.",
        "How strict may one be? Share of test images whose box overlaps the truth by at least so "
        "much; dashed: the best baseline.",
    )


def _curve_titles(table: pd.DataFrame) -> dict[str, str]:
    """The five best methods and the best baseline, which stands in brackets."""
    ours = table[~table["baseline"].astype(bool)].nlargest(5, "box_accuracy")["method"]
    titles = {str(name): words.method(name) for name in ours}
    rival = best_method(table, baseline=True)
    if rival is not None:
        titles[str(rival["method"])] = f"({words.method(rival['method'])})"
    return titles


def _thresholds(results: Results) -> Drawing | None:
    if words.scores(results) is None or results.localisation is None:
        return None
    table = results.localisation.table
    if results.localisation.curves.empty:
        return None
    chosen = dict(zip(table["method"].astype(str), table["threshold"], strict=True))
    return drawing(
        plots.threshold_curves(results.localisation.curves, _curve_titles(table), chosen),
        "Share of test images whose box is found, for every threshold from 0 to 0.99.",
        "How much hangs on the threshold? The best point of a curve is what the literature prints "
        "(MaxBoxAcc); the dot is what one gets without looking at the test images.",
    )


def _cards(results: Results) -> list[Drawing]:
    return [
        drawing(
            plots.neuron_card(card),
            f"{card.title}: the images with the largest and the smallest activation, and the "
            "distribution over the classes.",
            f"{card.title}. Images, histogram and relatives: images it was not chosen on. Above "
            "each picture: class and activation; one scale of brightness for all.",
            "jpg",
        )
        for card in results.cards
    ]


def _distributions(results: Results, random_state: int) -> Drawing | None:
    detectors = confirmed_detectors(results.neurons)
    if detectors.empty:
        return None
    layer, pooling = (str(detectors.iloc[0][key]) for key in ("layer", "pooling"))
    detectors = detectors[(detectors["layer"] == layer) & (detectors["pooling"] == pooling)]
    if pooling not in ("mean", "max"):
        return None
    unseen = np.asarray(results.split, dtype=str) == "confirm"
    pooled = results.store.pooled(pooling, layer or None)[unseen]
    labels = results.store.images["label"].to_numpy(str)[unseen]
    return drawing(
        plots.activation_distributions(pooled, labels, detectors, random_state=random_state),
        f"Box plots of the {pooling} activation of the leading detectors, by class.",
        f"The leading detectors' {pooling} activation on {words.plural(len(labels), 'image')} not "
        "used to choose them; blue: the class they detect. Boxes: quartiles; dots: images.",
    )


def _detector_maps(examples: Examples | None, n: int, head: str) -> Drawing | None:
    if examples is None or not examples.pictures or n < 1:
        return None
    shown = examples.first(n)
    classes = sorted({name for name, _ in shown.neurons})
    short = dict(zip(classes, plots.short_names(classes, 16), strict=True))
    captions = [f"neuron {neuron}\n{short[name]}" for name, neuron in shown.neurons]
    figure = plots.detector_maps(
        shown.pictures,
        shown.heats,
        captions,
        labels=shown.labels,
        predicted_labels=shown.predicted_labels,
        true_boxes=shown.true_boxes,
        predicted_boxes=shown.predicted_boxes,
    )
    wrong = sum(
        predicted not in (None, label)
        for predicted, label in zip(shown.predicted_labels or [], shown.labels, strict=False)
    )
    return drawing(
        figure,
        f"Maps of {len(captions)} detectors over {len(shown.pictures)} test images, of which the "
        f"{words.readable(head)} head gets {wrong} wrong.",
        "Where the leading detectors look, on unseen test images. Bright: active; each column has "
        "one scale, so a dark map means a silent detector. White: true boxes. Green ✓ and red ✗: "
        f"verdict of the {words.readable(head)} head.",
        "jpg",
    )


def _localisation(results: Results) -> Drawing | None:
    table = words.scores(results)
    if table is None:
        return None
    told = "; ".join(
        f"{words.method(r['method'])} {words.scored(r, 'box_accuracy')}"
        for _, r in table.iterrows()
    )
    return drawing(
        plots.localisation_scores(table.assign(method=table["method"].map(words.method))),
        f"Box accuracy of each method on test images: {told}.",
        "Share of test images whose box is found (IoU ≥ 0.5), the class being known, with 95 % "
        "intervals. Hollow: baselines.",
    )


def _localised(examples: Examples | None, n: int) -> Drawing | None:
    if examples is None or not examples.pictures or n < 1:
        return None
    shown = examples.first(n) if len(examples.pictures) <= n else _spread(examples, n)
    method = words.method(shown.neurons[0][0]) if shown.neurons else "the best map method"
    ious = shown.ious if shown.ious is not None else [math.nan] * len(shown.pictures)
    boxes = shown.predicted_boxes if shown.predicted_boxes is not None else [None] * len(ious)
    figure = plots.localisation_examples(
        shown.pictures, shown.heats, shown.true_boxes, boxes, ious, labels=shown.labels
    )
    return drawing(
        figure,
        f"{len(ious)} test images with true and predicted boxes; IoU "
        f"{', '.join(words.number(value) for value in ious)}.",
        f"Best, median and worst boxes of “{method}”. White: true boxes; blue: predicted; glow: "
        "the heat map, each on its own scale.",
        "jpg",
    )


def _failures(examples: Examples | None, n: int) -> Drawing | None:
    if examples is None or not examples.pictures or n < 1 or examples.ious is None:
        return None
    shown = examples.first(max(n, 9))
    assert shown.ious is not None
    method = words.method(shown.neurons[0][0])
    boxes = shown.predicted_boxes if shown.predicted_boxes is not None else [None] * len(shown.ious)
    return drawing(
        plots.localisation_examples(
            shown.pictures, shown.heats, shown.true_boxes, boxes, shown.ious, labels=shown.labels
        ),
        f"The {len(shown.ious)} test images with the worst boxes; IoU "
        f"{', '.join(words.number(value) for value in shown.ious)}.",
        f"Where “{method}” fails: its worst boxes. Look for what the heat map follows instead of "
        "the object.",
        "jpg",
    )


def _spread(examples: Examples, n: int) -> Examples:
    """`n` of the examples, evenly from the best to the worst."""
    picks = np.unique(np.linspace(0, len(examples.pictures) - 1, n).round().astype(int))

    def some(values: Any) -> Any:
        return None if values is None else [values[i] for i in picks]

    return Examples(
        some(examples.rows), some(examples.pictures), examples.neurons, some(examples.heats),
        some(examples.true_boxes), some(examples.labels), some(examples.predicted_boxes),
        some(examples.predicted_labels), some(examples.ious),
    )  # fmt: skip
