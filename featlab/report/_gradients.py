"""The section "Through the network again": what `featlab gradients` found."""

from __future__ import annotations

from typing import Any

from featlab import plots
from featlab.plots.curves import randomisation_curves
from featlab.plots.gradients import cam_strips
from featlab.plots.scores import faithfulness_scores
from featlab.report import _words as words
from featlab.report._drawing import Drawing, drawing
from featlab.report._grids import Grid, grid
from featlab.results.analysis import Results


def figures(results: Results) -> dict[str, Any]:
    """The figures; none where the section is not there."""
    found = results.gradients
    if found is None:
        return {}
    drawn: dict[str, Any] = {
        "dam": [_dam(example, place) for place, example in enumerate(found.dam[:2], start=1)],
        "gradient_maps": drawing(
            plots.gradient_maps(
                found.examples.pictures, found.examples.maps, labels=found.examples.labels
            ),
            "Gradients of the class's logit on test images: plain, times input, guided.",
            "The gradient of the class’s logit with respect to the pixels. Guided maps look sharp "
            "whatever the network knows: see the check below before reading anything into them.",
            "jpg",
            file="gradient_maps",
        ),
        "randomisation": drawing(
            randomisation_curves(found.sanity),
            "Rank correlation of gradient maps with those of networks whose weights are shuffled.",
            "A map that explains the trained network must change when its weights are shuffled, "
            "from the last layer down. A curve that stays up shows edges of the picture, not what "
            "the network learned (Adebayo et al. 2018).",
            file="gradient_randomisation",
        ),
        "cam_family": drawing(
            cam_strips(found.cams),
            "Heat maps and boxes of the Grad-CAM family on test images.",
            "The Grad-CAM family on test images. White: true boxes; blue: predicted.",
            "jpg",
            file="grad_cam_family",
        ),
        "faithfulness": drawing(
            faithfulness_scores(found.faithfulness),
            "Deletion, insertion, average drop and increase of each heat map.",
            "Does the heat map name the pixels that the head uses? Deleting what is hot should "
            "lower the probability fast (low is good), inserting it raise it fast (high is good); "
            "beside random cells and a centred blob.",
            file="heat_map_faithfulness",
        ),
    }
    return drawn


def tables(results: Results) -> dict[str, Grid | None]:
    """The tables; None where there is nothing to tell."""
    return {
        "gradients": _gradients(results),
        "randomisation": _randomisation(results),
    }


def sentences(results: Results) -> dict[str, str]:
    """The sentences; empty where the section is not there."""
    return {
        "gradients_answer": _gradients_answer(results),
        "sanity_answer": _sanity_answer(results),
    }


def _dam(example: Any, place: int) -> Drawing:
    return drawing(
        plots.dam_steps(example.trace, example.true_boxes),
        f"Every step of DAM ({example.preset}) on one image of {example.label}.",
        f"DAM, preset “{example.preset}”, step by step on a test image of {example.label}: units, "
        "guided gradients, masks, the loss of each masked picture, the union of the best, the box.",
        "jpg",
        file=f"dam_steps_{place}",
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
        best: Any = stored.iloc[stored["box_accuracy_confirm"].to_numpy(float).argmax()]
        sentences.append(
            f"from the stored maps “{words.method(str(best.name))}” finds "
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
