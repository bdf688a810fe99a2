"""Sections that a plain run has not: the set at a glance, gradients, transfer learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from featlab import plots
from featlab.report import _words as words
from featlab.report._figures import Drawing, drawing
from featlab.report._grids import Grid, grid
from featlab.report._results import Results

_MOST_WRONG = 10
_TRANSFER = {
    "frozen": "option 1: frozen network, trained head",
    "thawed": "option 2: last blocks thawed",
    "logistic": "scikit-learn: logistic regression on stored maps",
    "mlp": "scikit-learn: MLP on stored maps",
}


def again_figures(results: Results) -> dict[str, Any]:
    """The figures of these sections; nothing where a section is not there."""
    return _glance_figures(results) | _gradient_figures(results) | _transfer_figures(results)


def again_tables(results: Results) -> dict[str, Grid | None]:
    """The tables of these sections."""
    return {
        "misclassified": _misclassified(results),
        "gradients": _gradients(results),
        "randomisation": _randomisation(results),
        "transfer": _transfer(results),
        "detector_changes": _detector_changes(results),
        "small_images": _small_images(results),
    }


def again_words(results: Results) -> dict[str, str]:
    """The sentences of these sections; empty where a section is not there."""
    return {
        "glance_answer": _glance_answer(results),
        "gradients_answer": _gradients_answer(results),
        "sanity_answer": _sanity_answer(results),
        "transfer_answer": _transfer_answer(results),
    }


def _glance_figures(results: Results) -> dict[str, Any]:
    if results.glance is None:
        return {}
    found, labels = results.glance.overview, results.store.images["label"]
    plane = found.embedding
    wrong = None if found.misclassified is None else found.misclassified["row"].to_numpy()
    trust = plane.trustworthiness["tsne"]
    drawn = {
        "tsne": drawing(
            plots.embedding_scatter(plane, labels, misclassified=wrong),
            f"t-SNE plane of {len(labels)} images, coloured by class.",
            "Every image as a dot: near dots are images that the network sees alike (t-SNE of "
            f"principal components, perplexity {words.number(plane.perplexity, 0)}; "
            f"trustworthiness {words.number(trust)} of 1). Ringed: test images that the logistic "
            "head gets wrong. Distances between far groups mean nothing.",
        )
    }
    if any(picture is not None for picture in results.glance.pictures.values()):
        drawn["thumbnails"] = drawing(
            plots.embedding_thumbnails(plane, results.glance.pictures, labels),
            "Thumbnails of images on the same plane, framed in the colour of their class.",
            "The same plane in pictures, one per cell; frames: classes.",
            "jpg",
        )
    return drawn


def _glance_answer(results: Results) -> str:
    if results.glance is None:
        return ""
    found = results.glance.overview
    about = found.separation.attrs
    text = (
        f"Of the {about['k']} images most like an image (by the cosine of the pooled maps), "
        f"{words.percent(about['neighbour_agreement'])} are of its own class on average, where "
        f"{words.percent((found.separation['chance'] * found.separation['n']).sum() / about['n'])} "
        f"would be by chance; the silhouette is {words.number(about['silhouette'])} of 1."
    )
    wrong = found.misclassified
    if wrong is None or not len(wrong):
        return text
    inside = int((wrong["share_predicted"] > wrong["share_true"]).sum())
    return (
        f"{text} Of the {len(wrong)} test images that the logistic head gets wrong, {inside} lie "
        "deeper in the class they are taken for than in their own."
    )


def _misclassified(results: Results) -> Grid | None:
    if results.glance is None or results.glance.overview.misclassified is None:
        return None
    table, paths = results.glance.overview.misclassified, results.store.images["path"]
    rows = [
        [
            words.name(paths.iloc[int(row["row"])]),
            words.name(row["label"]),
            words.name(row["predicted"]),
            words.percent(row["share_true"]),
            words.percent(row["share_predicted"]),
            words.name(paths.iloc[int(row["nearest"])]),
        ]
        for _, row in table.head(_MOST_WRONG).iterrows()
    ]
    columns = ["Image", "Class", "Taken for", "Neighbours of its class", "of the other"]
    return grid(
        "Where the misclassified test images lie: their nearest neighbours",
        [*columns, "Most like"],
        rows,
        (0, 1, 2, 5),
        total=len(table),
        file="misclassified",
    )


def _gradient_figures(results: Results) -> dict[str, Any]:
    found = results.gradients
    if found is None:
        return {}
    names = plots.GRADIENT_METHOD_NAMES
    cams = found.cams
    drawn: dict[str, Any] = {
        "dam": [_dam(example) for example in found.dam[:2]],
        "gradient_maps": drawing(
            plots.gradient_maps(
                found.examples.pictures, found.examples.maps, labels=found.examples.labels
            ),
            "Gradients of the class's logit on test images: plain, times input, guided.",
            "The gradient of the class’s logit with respect to the pixels. Guided maps look sharp "
            "whatever the network knows: see the check below before reading anything into them.",
            "jpg",
        ),
        "randomisation": drawing(
            plots.randomisation_curves(found.sanity),
            "Rank correlation of gradient maps with those of networks whose weights are shuffled.",
            "A map that explains the trained network must change when its weights are shuffled, "
            "from the last layer down. A curve that stays up shows edges of the picture, not what "
            "the network learned (Adebayo et al. 2018).",
        ),
        "cam_family": drawing(
            plots.method_strips(
                list(cams.pictures),
                {names[name]: list(heats) for name, heats in cams.heats.items()},
                labels=cams.labels,
                true_boxes=cams.true_boxes,
                predicted_boxes={names[name]: list(boxes) for name, boxes in cams.boxes.items()},
            ),
            "Heat maps and boxes of the Grad-CAM family on test images.",
            "The Grad-CAM family on test images. White: true boxes; blue: predicted.",
            "jpg",
        ),
        "faithfulness": drawing(
            plots.faithfulness_scores(found.faithfulness),
            "Deletion, insertion, average drop and increase of each heat map.",
            "Does the heat map name the pixels that the head uses? Deleting what is hot should "
            "lower the probability fast (low is good), inserting it raise it fast (high is good); "
            "beside random cells and a centred blob.",
        ),
    }
    return drawn


def _dam(example: Any) -> Drawing:
    return drawing(
        plots.dam_steps(example.trace, example.true_boxes),
        f"Every step of DAM ({example.preset}) on one image of {example.label}.",
        f"DAM, preset “{example.preset}”, step by step on a test image of {example.label}: units, "
        "guided gradients, masks, the loss of each masked picture, the union of the best, the box.",
        "jpg",
    )


def _gradients(results: Results) -> Grid | None:
    if results.gradients is None:
        return None
    rows = [
        [
            words.method(row["method"]),
            "baseline" if row["baseline"] else str(row["supervision"]),
            words.scored(row, "box_accuracy"),
            words.scored(row, "mean_iou"),
            words.percent(row["centre_in_box"]),
            words.percent(row["picture_centre_in_box"]),
            words.number(row["max_box_acc"]),
            words.number(row["seconds_per_image"], 3),
        ]
        for _, row in results.gradients.localisation.iterrows()
    ]
    columns = ["Method", "Learns from", "Box accuracy", "Mean IoU", "Centre in box"]
    return grid(
        "Methods that run the network beside those that do not, on the same test images",
        [*columns, "Picture’s centre", "MaxBoxAcc*", "Seconds per image"],
        rows,
        (0, 1),
        file="gradients_localisation",
    )


def _gradients_answer(results: Results) -> str:
    if results.gradients is None:
        return ""
    found = results.gradients
    table, facts = found.localisation.set_index("method"), found.facts
    if facts["guided_refused"]:
        text = f"Guided back-propagation and DAM need rectifiers: {facts['guided_refused']} "
    else:
        text = (
            f"Guided back-propagation changed the {facts['n_patched']} rectifiers of a copy of the "
            "network. "
        )
    sentences = []
    for name in ("dam_original", "grad_cam"):
        if name in table.index:
            row: Any = table.loc[name]
            sentences.append(
                f"“{words.method(name)}” finds {words.percent(row['box_accuracy'])} of the boxes "
                f"(its centre lies in a box in {words.percent(row['centre_in_box'])} of images, "
                f"the picture's own centre in {words.percent(row['picture_centre_in_box'])}) and "
                f"takes {words.number(row['seconds_per_image'], 2)} seconds an image"
            )
    stored = table[table["supervision"].eq("image labels")]
    if len(stored):
        best = stored.loc[stored["box_accuracy_confirm"].idxmax()]
        sentences.append(
            f"from the stored maps “{words.method(best.name)}” finds "
            f"{words.percent(best['box_accuracy'])} in "
            f"{words.number(best['seconds_per_image'], 3)} seconds"
        )
    return text + f"On {int(table['n'].iloc[0])} test images, " + "; ".join(sentences) + "."


def _sanity_answer(results: Results) -> str:
    """The rank correlation once every layer is shuffled, and once only the head is."""
    if results.gradients is None:
        return ""
    means = results.gradients.sanity.groupby(["rule", "stage"])["spearman"].mean()
    parts = []
    for rule in ("guided", "plain"):
        if rule in means.index.get_level_values("rule"):
            of_rule = means[rule]
            parts.append(
                f"the {rule} gradient's rank correlation with the trained network's map is "
                f"{words.number(of_rule.iloc[1])} with the head shuffled and "
                f"{words.number(of_rule.iloc[-1])} with all weights shuffled"
            )
    return f"Model-randomisation check: {'; '.join(parts)}. A map worth reading falls at once."


def _randomisation(results: Results) -> Grid | None:
    if results.gradients is None:
        return None
    table = results.gradients.sanity.assign(
        down_to=results.gradients.sanity["down_to"].replace("", "(trained)")
    )
    means = table.groupby(["stage", "down_to", "rule"])["spearman"].mean()
    means = means.reset_index().pivot_table(index=["stage", "down_to"], columns="rule")["spearman"]
    rules = [rule for rule in ("plain", "guided") if rule in means]
    rows = [
        [str(down_to), *(words.number(row[rule]) for rule in rules)]
        for (_, down_to), row in means.iterrows()
    ]
    return grid(
        "Rank correlation with the trained network’s map, weights shuffled from the head down",
        ["Shuffled down to", *(f"{rule} gradient" for rule in rules)],
        rows,
        file="gradients_sanity",
    )


def _transfer_figures(results: Results) -> dict[str, Any]:
    found = results.transfer
    if found is None:
        return {}
    drawn: dict[str, Any] = {
        "transfer": drawing(
            plots.transfer_comparison(found.comparison),
            "Accuracy of both options of transfer learning and of the scikit-learn heads.",
            "Both options of transfer learning beside the heads on stored maps: the same split, "
            "test images that none of them saw.",
        ),
        "transfer_curves": drawing(
            plots.transfer_curves(found.curves),
            "Loss and accuracy over the epochs, on training and validation images.",
            "Learning curves. Validation images are a part of train; the best epoch is kept.",
        ),
    }
    if found.neurons is not None:
        drawn["detector_changes"] = drawing(
            plots.detector_changes(found.neurons),
            "AUROC of every neuron on confirm images, before and after fine-tuning.",
            "What fine-tuning did to the neurons: AUROC on images that none was chosen on.",
        )
    if found.small_images is not None:
        drawn["small_images"] = drawing(
            plots.small_images(found.small_images),
            "Accuracy from small copies of the pictures, with and without up-sampling.",
            "Small pictures: the same network as they are, and up-sampled to its own size.",
        )
    return drawn


def _transfer(results: Results) -> Grid | None:
    if results.transfer is None:
        return None
    rows = [
        [
            _TRANSFER.get(str(row["name"]), str(row["name"])),
            words.scored(row, "accuracy", 3),
            f"{words.signed(row['difference'], 3)} "
            f"{words.interval(row['difference_low'], row['difference_high'], 3)}",
            words.p_value(row["p"]),
            f"{int(row['trainable_parameters']):,}",
            words.number(row["seconds"], 1),
        ]
        for _, row in results.transfer.comparison.iterrows()
    ]
    columns = ["What is trained", "Accuracy", "Less logistic regression", "p", "Parameters"]
    n = int(results.transfer.comparison["n"].iloc[0])
    return grid(
        f"Transfer learning on the same split, {words.plural(n, 'test image')}",
        [*columns, "Seconds"],
        rows,
        file="transfer_comparison",
    )


def _transfer_answer(results: Results) -> str:
    if results.transfer is None:
        return ""
    table = results.transfer.comparison.set_index("name")
    if not {"thawed", "logistic"} <= set(table.index):
        return ""
    tuned: Any = table.loc["thawed"]
    plain: Any = table.loc["logistic"]
    shown = tuned["difference_low"] > 0 or tuned["difference_high"] < 0
    verdict = "a difference" if shown else "no difference that these test images can show"
    return (
        f"Thawing the last blocks gives {words.percent(tuned['accuracy'])} after "
        f"{words.number(tuned['seconds'], 0)} seconds of training, a logistic regression on the "
        f"stored maps {words.percent(plain['accuracy'])} after "
        f"{words.number(plain['seconds'], 1)}: {verdict} ({words.signed(tuned['difference'], 3)} "
        f"{words.interval(tuned['difference_low'], tuned['difference_high'], 3)})."
    )


def _detector_changes(results: Results) -> Grid | None:
    if results.transfer is None or results.transfer.detectors is None:
        return None
    rows = [
        [
            words.name(row["class"]),
            _change(row, "selected"),
            _change(row, "replicated"),
            f"{int(row['replicated_both']):,}",
            f"{words.number(row['median_before'])} → {words.number(row['median_after'])}",
            words.number(row["spearman"]),
        ]
        for _, row in results.transfer.detectors.iterrows()
    ]
    columns = ["Class", "Selected", "Confirmed", "Confirmed in both", "Median AUROC"]
    return grid(
        "Detectors before and after fine-tuning, on images that none was chosen on",
        [*columns, "Rank correlation of all neurons"],
        rows,
        file="transfer_detectors",
    )


def _change(row: pd.Series | Mapping[str, Any], what: str) -> str:
    return f"{int(row[f'{what}_before']):,} → {int(row[f'{what}_after']):,}"


def _small_images(results: Results) -> Grid | None:
    if results.transfer is None or results.transfer.small_images is None:
        return None
    rows = [
        [
            str(row["pictures"]),
            str(row["network"]),
            str(row["cells"]),
            words.scored(row, "accuracy"),
            f"{words.signed(row['difference'])} "
            f"{words.interval(row['difference_low'], row['difference_high'])}".strip(" –"),
            words.p_value(row["p"]),
        ]
        for _, row in results.transfer.small_images.iterrows()
    ]
    columns = ["Pictures", "Network", "Cells", "Accuracy", "Less the original pictures", "p"]
    return grid(
        "Small pictures, with and without up-sampling",
        columns,
        rows,
        (0, 1),
        file="transfer_small_images",
    )
