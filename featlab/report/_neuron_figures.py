"""The figures of the neurons: drawn and described."""

from __future__ import annotations

import numpy as np

from featlab import plots
from featlab.arguments import confirmed_detectors, selected_detectors
from featlab.plots.style import short_names
from featlab.report import _words as words
from featlab.report._drawing import Drawing, drawing
from featlab.results.analysis import Results
from featlab.results.pictures import Examples

_MOST_DOTS = 10_000


def figures(
    results: Results, head: str, max_examples: int, random_state: int
) -> dict[str, Drawing | list[Drawing] | None]:
    """The figures; None where these results do not allow one."""
    return {
        "volcano": _volcano(results),
        "confirmed": _confirmed(results),
        "distributions": _distributions(results, random_state),
        "detector_maps": _detector_maps(results.detector_examples, max_examples, head),
        "ablation": _ablation(results, "ablate"),
        "keep": _ablation(results, "keep"),
        "cards": _cards(results),
    }


def _volcano(results: Results) -> Drawing | None:
    table = results.neurons
    if table["auroc"].notna().sum() == 0:
        return None
    return drawing(
        plots.volcano(
            table, alpha=table.attrs.get("alpha"), min_auroc=table.attrs.get("min_auroc")
        ),
        f"Volcano plot of {len(table)} pairs of class and neuron; "
        f"{int(table['detector'].eq(True).sum())} are selected as detectors.",
        "Every neuron against every class, on train images: effect to the right, evidence upwards. "
        "A detector needs both; the dashed lines are the cut-offs.",
        file="neuron_volcano",
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
        file="detectors_selected_and_confirmed",
    )


def _distributions(results: Results, random_state: int) -> Drawing | None:
    detectors = confirmed_detectors(results.neurons)
    if detectors.empty:
        return None
    layer, pooling = (str(detectors.iloc[0][key]) for key in ("layer", "pooling"))
    detectors = detectors[(detectors["layer"] == layer) & (detectors["pooling"] == pooling)]
    if pooling not in ("mean", "max"):
        return None
    unseen = np.flatnonzero(np.asarray(results.split, dtype=str) == "confirm")
    if len(unseen) > _MOST_DOTS:
        drawn = np.random.default_rng(random_state).choice(unseen, _MOST_DOTS, replace=False)
        unseen = np.sort(drawn)
    pooled = results.store.pooled(unseen, layer=layer or None, pooling=pooling)
    labels = results.store.images["label"].iloc[unseen]
    return drawing(
        plots.activation_distributions(pooled, labels, detectors, random_state=random_state),
        f"Box plots of the {pooling} activation of the leading detectors, by class.",
        f"The leading detectors' {pooling} activation on {words.plural(len(labels), 'image')} not "
        "used to choose them; blue: the class they detect. Boxes: quartiles; dots: images.",
        file="detector_activations",
    )


def _detector_maps(examples: Examples | None, n: int, head: str) -> Drawing | None:
    if examples is None or not examples.pictures or n < 1:
        return None
    shown = examples.first(n)
    classes = sorted({name for name, _ in shown.neurons})
    short = dict(zip(classes, short_names(classes, 16), strict=True))
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
        file="detector_maps",
    )


def _ablation(results: Results, mode: str) -> Drawing | None:
    detector_details = results.detector_details
    if detector_details is None or detector_details.ablation is None:
        return None
    table = detector_details.ablation[detector_details.ablation["mode"] == mode]
    if table.empty:
        return None
    what = "set to their training mean" if mode == "ablate" else "kept, all others at their mean"
    return drawing(
        plots.ablation(table),
        f"Accuracy of the logistic head with k detectors {what}, beside random neurons.",
        f"The logistic head on test images with its first k detectors {what}; orange: as many "
        "neurons of like variance, drawn at random.",
        file="detectors_ablated" if mode == "ablate" else "detectors_kept",
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
            file=f"neuron_card_{place}",
        )
        for place, card in enumerate(results.cards, start=1)
    ]
