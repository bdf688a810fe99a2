"""What running the network again adds: the sections "Gradients" and "Transfer"."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
from markupsafe import Markup

from featlab import plots
from featlab.plots.curves import randomisation_curves
from featlab.plots.pictures import cam_strips
from featlab.plots.scores import faithfulness_scores, small_images, transfer_comparison
from featlab.report import _words as words
from featlab.report._elements import Figure, Options, Section, Table, table
from featlab.report._words import claim, said, standing
from featlab.results.analysis import Results
from featlab.results.localisation import WITHOUT_BOXES
from featlab.results.networks import DamExample, GradientResults, Transfer

_MOST_TRACES, _MOST_STRIPS = 2, 12  # pictures under DAM's steps, and under the Grad-CAM family
_WHOSE = {
    "label": "this set’s classes",
    "model": "the classes of a model that learnt from another set",
    "own": "the classes of the network’s own classifier",
}
_NAMED = 3  # classes that the sentence counts
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_BOXED = ("dam_original", "grad_cam")  # whose boxes the page lists: the first that there is
_TRAINED = {
    "frozen": "option 1: frozen network, trained head",
    "thawed": "option 2: last blocks thawed",
    "logistic": "scikit-learn: logistic regression on stored maps",
    "mlp": "scikit-learn: MLP on stored maps",
}


def gradients(results: Results, options: Options) -> Section | None:
    """What `featlab gradients` saw; its tables lie beside the page already."""
    seen = results.gradients
    if seen is None:
        return None
    return Section(
        "gradients",
        "Through the network again: gradients and DAM",
        "gradients.html",
        facts={
            "answer": said(
                _asked(results), _guided(results), _through(results), _unscored(results)
            ),
            "sanity": _sanity(results),
        },
        tables={
            "scores": _scores(seen.localisation),
            "boxes": _boxes(seen.boxes),
            "randomisation": _randomised(seen.sanity),
        },
        figures={
            "dam": [_dam(one, place) for place, one in enumerate(seen.dam[:_MOST_TRACES], start=1)],
            **_figures(seen),
        },
        link="Gradients",
    )


def _figures(seen: GradientResults) -> dict[str, Figure]:
    pictures, maps = seen.examples.pictures, seen.examples.maps
    any_true = any(len(boxes) for boxes in seen.cams.true_boxes[:_MOST_STRIPS])
    return {
        "gradient_maps": Figure(
            partial(plots.network.gradient_maps, pictures, maps, labels=seen.examples.labels),
            "Gradients of the class's logit on a few images: plain, times input, guided.",
            "The gradient of the class’s logit with respect to the pixels. Guided maps look sharp "
            "whatever the network knows: see the check below before reading anything into them.",
            "gradient_maps",
            pictures=True,
        ),
        "randomisation": Figure(
            partial(randomisation_curves, seen.sanity),
            "Rank correlation of gradient maps with those of networks whose weights are shuffled.",
            "A map that explains the trained network must change when its weights are shuffled, "
            "from the last layer down. A curve that stays up shows edges of the picture, not what "
            "the network learned (Adebayo et al. 2018).",
            "gradient_randomisation",
        ),
        "cam_family": Figure(
            partial(cam_strips, seen.cams.subset(slice(_MOST_STRIPS))),
            "Heat maps and boxes of the Grad-CAM family and boxes of DAM on a few images.",
            "DAM’s boxes, and the Grad-CAM family, for the class at the left of each picture"
            f"{'' if seen.facts['target'] == 'own' else ' (DAM: for what the head calls it)'}. "
            f"{'White: true boxes; blue: predicted' if any_true else 'Blue: the predicted box'}.",
            "grad_cam_family",
            pictures=True,
        ),
        "faithfulness": Figure(
            partial(faithfulness_scores, seen.faithfulness),
            "Deletion, insertion, average drop and increase of each heat map.",
            "Does the heat map name the pixels that the head uses? Deleting what is hot should "
            "lower the probability fast (low is good), inserting it raise it fast (high is good); "
            "beside random cells and a centred blob.",
            "heat_map_faithfulness",
        ),
    }


def _dam(example: DamExample, place: int) -> Figure:
    return Figure(
        partial(plots.dam_steps, example.trace, example.true_boxes),
        f"Every step of DAM ({example.preset}) on one image of {example.label}.",
        f"DAM, preset “{example.preset}”, step by step for {example.trace.label}: units, "
        "guided gradients, masks, the loss of each masked picture, the union of the best, the box.",
        f"dam_steps_{place}",
        pictures=True,
    )


def _scores(scores: pd.DataFrame) -> Table | None:
    rows = [
        [
            words.method(row["method"]),
            words.learns_from(row),
            words.scored(row, "box_accuracy"),
            words.scored(row, "mean_iou"),
            words.percent(row["centre_in_box"]),
            words.percent(row["picture_centre_in_box"]),
            words.number(row["max_box_acc"]),
            words.number(row["seconds_per_image"], 3),
        ]
        for _, row in scores.iterrows()
    ]
    columns = ["Method", "Learns from", "Box accuracy", "Mean IoU", "Centre in box"]
    return table(
        "Methods that run the network beside those that do not, on the same test images",
        [*columns, "Picture’s centre", "MaxBoxAcc*", "Seconds per image"],
        rows,
        (0, 1),
        file="gradients_localisation",
    )


def _boxes(boxes: pd.DataFrame) -> Table | None:
    """The first preset of DAM; where there is none, Grad-CAM."""
    method = next((name for name in _BOXED if boxes["method"].eq(name).any()), "")
    rows = [
        [
            words.name(row["path"]),
            words.name(row["class_asked"]),
            words.probability(row["probability"]),
            ", ".join(f"{row[corner]:.0f}" for corner in _CORNERS),
        ]
        for _, row in boxes[boxes["method"].eq(method)].iterrows()
    ]
    return table(
        f"Boxes by “{words.method(method)}” (the file has those of every method)",
        [
            "Picture",
            "Class asked",
            "Its probability, not calibrated",
            "Box: xmin, ymin, xmax, ymax",
        ],
        rows,
        (0, 1),
        file="gradients_boxes",
    )


@claim("classes asked")
def _asked(results: Results) -> Markup:
    """Whose classes the gradients are of, and which were asked for most often."""
    if results.gradients is None:
        return Markup("")
    facts = results.gradients.facts
    asked, n = dict(list(facts["asked"].items())[:_NAMED]), sum(facts["asked"].values())
    listed = Markup(", ").join(
        Markup("{} {}").format(words.name(label), f"{count:,}") for label, count in asked.items()
    )
    rest = len(facts["asked"]) - len(asked)
    more = f", and so on for {words.plural(rest, 'class', 'classes')} more" if rest else ""
    return Markup("Gradients are of {}; of {}: {}{}.").format(
        _WHOSE[facts["target"]], words.plural(n, "picture"), listed, more
    )


@claim("gradients without boxes")
def _unscored(results: Results) -> str:
    """Why there is no score."""
    if results.gradients is None or results.gradients.facts["n_scored"]:
        return ""
    n = results.gradients.facts["n_pictures"]
    return (
        "No test image has a box, so no box is scored here: those of "
        f"{words.plural(n, 'picture')} are shown as they are, heat maps cut at a fixed threshold."
    )


@claim("guided")
def _guided(results: Results) -> str:
    """Whether the network could be guided."""
    if results.gradients is None:
        return ""
    facts = results.gradients.facts
    if facts["guided_refused"]:
        return f"Guided back-propagation and DAM need rectifiers: {facts['guided_refused']}"
    return (
        f"Guided back-propagation changed {words.plural(facts['n_patched'], 'rectifier')} of a "
        "copy of the network."
    )


@claim("through the network")
def _through(results: Results) -> str:
    """What DAM and Grad-CAM find, beside the picture's centre and the best of the stored maps."""
    if results.gradients is None or results.gradients.localisation.empty:
        return ""
    scores = results.gradients.localisation.set_index("method")
    parts = []
    for name in ("dam_original", "grad_cam"):
        if name in scores.index:
            row: Any = scores.loc[name]
            parts.append(
                f"“{words.method(name)}” finds the box in {words.percent(row['box_accuracy'])} "
                f"(its centre lies in a box in {words.percent(row['centre_in_box'])}, "
                f"the picture's own centre in {words.percent(row['picture_centre_in_box'])}) and "
                f"takes {words.number(row['seconds_per_image'], 2)} seconds an image"
            )
    stored = scores[scores["supervision"].isin(WITHOUT_BOXES) & ~scores["baseline"].astype(bool)]
    stored = stored[stored["box_accuracy_confirm"].notna()]
    if len(stored):
        best: Any = stored.iloc[stored["box_accuracy_confirm"].to_numpy(float).argmax()]
        parts.append(
            f"from the stored maps “{words.method(str(best.name))}” finds the box in "
            f"{words.percent(best['box_accuracy'])} and takes "
            f"{words.number(best['seconds_per_image'], 3)} seconds"
        )
    n = words.plural(int(scores["n"].iloc[0]), "test image")
    return f"On {n}, {'; '.join(parts)}." if parts else ""


@claim("model randomisation")
def _sanity(results: Results) -> str:
    """The rank correlation once every layer is shuffled, and once only the head is."""
    if results.gradients is None or results.gradients.sanity.empty:
        return ""
    means = results.gradients.sanity.groupby(["rule", "stage"])["spearman_absolute"].mean()
    parts = []
    for rule in ("guided", "plain"):
        if rule in means.index.get_level_values("rule") and len(means[rule]) > 1:
            of_rule = means[rule]
            parts.append(
                f"the {rule} gradient's rank correlation with the trained network's map is "
                f"{words.score(of_rule.iloc[1])} with the head shuffled and "
                f"{words.score(of_rule.iloc[-1])} with all weights shuffled"
            )
    return f"Model-randomisation check, absolute gradients: {'; '.join(parts)}." if parts else ""


def _randomised(sanity: pd.DataFrame) -> Table | None:
    named = sanity.assign(down_to=sanity["down_to"].replace("", "(trained)"))
    means = named.pivot_table(
        index=["stage", "down_to"], columns="rule", values="spearman_absolute"
    ).reset_index()
    rules = [rule for rule in ("plain", "guided") if rule in means]
    rows = [
        [str(row["down_to"]), *(words.score(row[rule]) for rule in rules)]
        for _, row in means.iterrows()
    ]
    return table(
        "Rank correlation of absolute gradients with those of the trained network, weights "
        "shuffled from the head down",
        ["Shuffled down to", *(f"{rule} gradient" for rule in rules)],
        rows,
        file="gradients_sanity",
    )


# ------------------------------------------------------------------------------ transfer learning


def transfer(results: Results, options: Options) -> Section | None:
    """Both options of transfer learning beside the heads on stored maps."""
    study = results.transfer
    if study is None:
        return None
    return Section(
        "transfer",
        "Transfer learning: frozen or fine-tuned?",
        "transfer.html",
        facts={"answer": _thawed(results)},
        tables={
            "comparison": _trained(study.comparison),
            "detectors": None if study.detectors is None else _detectors(study.detectors),
            "small_images": None if study.small_images is None else _small(study.small_images),
        },
        figures=_transfer_figures(study),
        files={f"transfer_{name}": rows for name, rows in study.tables().items()},
        link="Transfer",
    )


def _transfer_figures(study: Transfer) -> dict[str, Figure | None]:
    figures: dict[str, Figure | None] = {
        "comparison": Figure(
            partial(transfer_comparison, study.comparison),
            "Accuracy of both options of transfer learning and of the scikit-learn heads.",
            "Both options of transfer learning beside the heads on stored maps: the same split, "
            "test images that none of them saw.",
            "transfer_accuracy",
        ),
        "curves": Figure(
            partial(plots.transfer_curves, study.curves),
            "Loss and accuracy over the epochs, on training and validation images.",
            "Learning curves. Validation images are a part of train; the best epoch is kept.",
            "transfer_learning_curves",
        ),
        "detectors": None,
        "small_images": None,
    }
    if study.neurons is not None:
        figures["detectors"] = Figure(
            partial(plots.detector_changes, study.neurons),
            "AUROC of every neuron on confirm images, before and after fine-tuning.",
            "What fine-tuning did to the neurons: AUROC on images that none was chosen on.",
            "transfer_detector_changes",
        )
    if study.small_images is not None:
        figures["small_images"] = Figure(
            partial(small_images, study.small_images),
            "Accuracy from small copies of the pictures, with and without up-sampling.",
            "Small pictures: the same network as they are, and up-sampled to its own size.",
            "transfer_small_images",
        )
    return figures


def _trained(comparison: pd.DataFrame) -> Table | None:
    rows = [
        [
            _TRAINED.get(str(row["name"]), str(row["name"])),
            words.scored(row, "accuracy", 3),
            words.difference(row, 3),
            words.p_value(row["p"]),
            f"{int(row['trainable_parameters']):,}",
            words.number(row["seconds"], 1),
        ]
        for _, row in comparison.iterrows()
    ]
    columns = [
        "What is trained",
        "Accuracy",
        "Against logistic regression",
        "p",
        "Parameters",
    ]
    n = int(comparison["n"].iloc[0])
    return table(
        f"Transfer learning on the same split, {words.plural(n, 'test image')}",
        [*columns, "Seconds"],
        rows,
        file="transfer_comparison",
    )


@claim("thawed against frozen")
def _thawed(results: Results) -> str:
    """What thawing gains over a logistic regression on the stored maps."""
    if results.transfer is None:
        return ""
    scores = results.transfer.comparison.set_index("name")
    if not {"thawed", "logistic"} <= set(scores.index):
        return ""
    tuned: Any = scores.loc["thawed"]
    plain: Any = scores.loc["logistic"]
    pair = dict(tuned) | {"p_adjusted": tuned["p"]}
    outcome = {
        "ahead": "image by image the first is better",
        "behind": "image by image the first is worse",
        "not shown": "not shown to be a difference",
        "unknown": "not compared image by image",
    }[standing(pair)]
    return (
        f"Thawing the last blocks gives {words.percent(tuned['accuracy'])} after "
        f"{words.number(tuned['seconds'], 0)} seconds of training, a logistic regression on the "
        f"stored maps {words.percent(plain['accuracy'])} after "
        f"{words.number(plain['seconds'], 1)}: {outcome} ({words.difference(tuned, 3)}, p "
        f"{words.p_value(tuned['p'])})."
    )


def _detectors(changes: pd.DataFrame) -> Table | None:
    rows = [
        [
            words.name(row["class"]),
            _change(row, "selected"),
            _change(row, "confirmed"),
            f"{int(row['confirmed_both']):,}",
            f"{words.number(row['median_before'])} → {words.number(row['median_after'])}",
            words.score(row["spearman"]),
        ]
        for _, row in changes.iterrows()
    ]
    columns = [
        "Class",
        "Selected",
        "Confirmed",
        "Confirmed in both",
        "Median AUROC of all selected",
    ]
    return table(
        "Detectors before and after fine-tuning (a corrected family of its own: other counts than "
        "above)",
        [*columns, "Rank correlation of all neurons"],
        rows,
        file="transfer_detectors",
    )


def _change(row: pd.Series, what: str) -> str:
    return f"{int(row[f'{what}_before']):,} → {int(row[f'{what}_after']):,}"


def _small(scores: pd.DataFrame) -> Table | None:
    rows = [
        [
            str(row["pictures"]),
            str(row["network"]),
            str(row["cells"]),
            words.scored(row, "accuracy"),
            words.difference(row).strip(" –"),
            words.p_value(row["p"]),
        ]
        for _, row in scores.iterrows()
    ]
    columns = [
        "Pictures",
        "Network",
        "Cells",
        "Accuracy",
        "Against the original pictures",
        "p",
    ]
    return table(
        "Small pictures, with and without up-sampling",
        columns,
        rows,
        (0, 1),
        file="transfer_small_images",
    )
