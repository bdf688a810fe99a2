"""The section "Gradients": what running the network again adds."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from featlab import plots
from featlab.plots.curves import randomisation_curves
from featlab.plots.gradients import cam_strips
from featlab.plots.scores import faithfulness_scores
from featlab.report import _words as words
from featlab.report._elements import Figure, Options, Section, Table, table
from featlab.results.analysis import Results
from featlab.results.networks import DamExample, GradientResults

_MOST_TRACES = 2


def gradients(results: Results, options: Options) -> Section | None:
    """What `featlab gradients` saw; its tables lie beside the page already."""
    seen = results.gradients
    if seen is None:
        return None
    return Section(
        "gradients",
        "Through the network again: gradients and DAM",
        "gradients.html",
        facts={"answer": _answer(seen), "sanity": _sanity(seen.sanity)},
        tables={"scores": _scores(seen.localisation), "randomisation": _randomised(seen.sanity)},
        figures={
            "dam": [_dam(one, place) for place, one in enumerate(seen.dam[:_MOST_TRACES], start=1)],
            **_figures(seen),
        },
        link="Gradients",
    )


def _figures(seen: GradientResults) -> dict[str, Figure]:
    pictures, maps = seen.examples.pictures, seen.examples.maps
    return {
        "gradient_maps": Figure(
            partial(plots.gradients.gradient_maps, pictures, maps, labels=seen.examples.labels),
            "Gradients of the class's logit on test images: plain, times input, guided.",
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
            partial(cam_strips, seen.cams),
            "Heat maps and boxes of the Grad-CAM family on test images.",
            "The Grad-CAM family on test images. White: true boxes; blue: predicted.",
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
        f"DAM, preset “{example.preset}”, step by step on a test image of {example.label}: units, "
        "guided gradients, masks, the loss of each masked picture, the union of the best, the box.",
        f"dam_steps_{place}",
        pictures=True,
    )


def _scores(scores: pd.DataFrame) -> Table | None:
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


def _answer(seen: GradientResults) -> str:
    scores, facts = seen.localisation.set_index("method"), seen.facts
    if facts["guided_refused"]:
        text = f"Guided back-propagation and DAM need rectifiers: {facts['guided_refused']} "
    else:
        text = (
            f"Guided back-propagation changed the {facts['n_patched']} rectifiers of a copy of the "
            "network. "
        )
    sentences = []
    for name in ("dam_original", "grad_cam"):
        if name in scores.index:
            row: Any = scores.loc[name]
            sentences.append(
                f"“{words.method(name)}” finds {words.percent(row['box_accuracy'])} of the boxes "
                f"(its centre lies in a box in {words.percent(row['centre_in_box'])} of images, "
                f"the picture's own centre in {words.percent(row['picture_centre_in_box'])}) and "
                f"takes {words.number(row['seconds_per_image'], 2)} seconds an image"
            )
    stored = scores[scores["supervision"].eq("image labels")]
    if len(stored):
        best: Any = stored.iloc[stored["box_accuracy_confirm"].to_numpy(float).argmax()]
        sentences.append(
            f"from the stored maps “{words.method(str(best.name))}” finds "
            f"{words.percent(best['box_accuracy'])} in "
            f"{words.number(best['seconds_per_image'], 3)} seconds"
        )
    return text + f"On {int(scores['n'].iloc[0])} test images, " + "; ".join(sentences) + "."


def _sanity(sanity: pd.DataFrame) -> str:
    """The rank correlation once every layer is shuffled, and once only the head is."""
    means = sanity.groupby(["rule", "stage"])["spearman"].mean()
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


def _randomised(sanity: pd.DataFrame) -> Table | None:
    named = sanity.assign(down_to=sanity["down_to"].replace("", "(trained)"))
    means = named.groupby(["stage", "down_to", "rule"])["spearman"].mean()
    means = means.reset_index().pivot_table(index=["stage", "down_to"], columns="rule")["spearman"]
    rules = [rule for rule in ("plain", "guided") if rule in means]
    rows = [
        [str(down_to), *(words.number(row[rule]) for rule in rules)]
        for (_, down_to), row in means.iterrows()
    ]
    return table(
        "Rank correlation with the trained network’s map, weights shuffled from the head down",
        ["Shuffled down to", *(f"{rule} gradient" for rule in rules)],
        rows,
        file="gradients_sanity",
    )
