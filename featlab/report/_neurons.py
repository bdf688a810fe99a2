"""The section "Detectors"."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from featlab import plots
from featlab.arguments import confirmed_detectors, selected_detectors, with_unseen_limits
from featlab.plots.style import short_names
from featlab.report import _answers as answers
from featlab.report import _words as words
from featlab.report._elements import Figure, Options, Section, Table, rows_per_class, table
from featlab.report._words import claim, said
from featlab.results.analysis import DetectorDetails, Results
from featlab.results.pictures import NeuronCard

_MOST_DOTS = 10_000
_KEY = ["layer", "class", "neuron"]
_WITHOUT_P = {
    "constant": "with a neuron that is the same in every image",
    "too few images": "with too few images on a side for the test",
    "too few groups": "with fewer than five groups on a side",
    "constant in the images compared": "with a neuron that is the same in the few images of each "
    "group that are compared",
    "the test cannot take groups of several classes": "whose groups hold several classes, which "
    "the test cannot take",
    "the test has no p": "by a test that gives none",
}
"""What a reason of ``rank_neurons`` says of pairs of class and neuron."""


def detectors(results: Results, options: Options) -> Section:
    """Which neurons detect the classes, and whether that holds on other images."""
    details, most = results.detector_details, options.most_examples
    every = results.every_neuron
    files = {"neurons": every, "detectors": detector_table(results)}
    if details is not None and details.omnibus is not None:
        files["omnibus"] = details.omnibus
    return Section(
        "detectors",
        "Detectors",
        "detectors.html",
        facts={
            "counts": said(answers.counts(results), without_p(results), untested(results)),
            "own_votes": own_votes(results),
            "explored": explored(results),
            "checks": said(
                answers.flattered(results),
                answers.shuffled(results),
                answers.clustered(results),
                answers.differing(results),
            ),
            "needed": said(answers.needed(results), answers.fewest(results)),
            "poolings": answers.best_pooling(results),
        },
        tables={
            "confirmation": _confirmation(results),
            "detectors": _detectors(results),
            "poolings": None if details is None else _poolings(details.poolings),
            "softmax_top_k": _softmax_top_k(results),
        },
        figures={
            "volcano": _volcano(results),
            "confirmed": _confirmed(results),
            "distributions": _distributions(results, options.random_state),
            "detector_maps": _maps(results, most),
            "cards": [
                _card(card, place, str(unseen_cards(results) or ""))
                for place, card in enumerate(results.cards, start=1)
            ],
            "ablation": None if details is None else _ablation(details, "ablate"),
            "keep": None if details is None else _ablation(details, "keep"),
        },
        files=files,
    )


def detector_table(results: Results) -> pd.DataFrame:
    """The confirmed detectors, best first, with what their own maps say where boxes allow it."""
    confirmed = confirmed_detectors(results.neurons)
    merged, pointing, units = confirmed, results.pointing, results.units
    if pointing is not None:
        scores = pointing.rename(columns={"n": "pointing_n"}).drop(columns="picture_centre")
        merged = merged.merge(scores, on=_KEY, how="left")
        # Of the class's images, so known of detectors whose own maps were not scored, too.
        centres = pointing.drop_duplicates("class").set_index("class")["picture_centre"]
        merged["pointing_picture_centre"] = merged["class"].map(centres)
    if units is not None and not units.empty:
        verdicts = units[[*_KEY, "auroc_inside", "verdict"]].rename(columns={"verdict": "fires"})
        merged = merged.merge(verdicts, on=_KEY, how="left")
    merged.attrs = dict(confirmed.attrs)
    return merged


@claim("without p")
def without_p(results: Results) -> Markup:
    """How many pairs have no p, and why; and the classes of which none has one."""
    every = results.every_neuron
    without = every[every["p"].isna()]
    if without.empty:
        return Markup("")
    counts = without["reason"].value_counts()
    where = len(every[["layer", "pooling"]].drop_duplicates())
    text = Markup("{} of {}{} {} no p: {}.").format(
        f"{len(without):,}",
        words.plural(len(every), "pair of class and neuron", "pairs of class and neuron"),
        " (of all layers and poolings)" if where > 1 else "",
        "has" if len(without) == 1 else "have",
        "; ".join(f"{n:,} {_WITHOUT_P[str(why)]}" for why, n in counts.items()),
    )
    none = every["p"].isna().groupby(every["class"].astype(str)).all()
    if none.any():
        text += Markup(" Of {} no pair has one.").format(words.listed(none.index[none]))
    return text


@claim("untested")
def untested(results: Results) -> str:
    """How many of the selected had too few groups to be tested on the confirm images."""
    selected = selected_detectors(results.neurons)
    few = int((selected["p_confirmed"].isna() & selected["unit"].eq("too few groups")).sum())
    if not few:
        return ""
    return (
        f"Of the selected {few:,} could not be tested on the confirm images, where the class or "
        "the rest has fewer than five groups."
    )


@claim("own votes")
def own_votes(results: Results) -> Markup:
    """Which of the network's own classes the leading detectors vote for."""
    confirmed = confirmed_detectors(results.neurons)
    if "votes_for" not in confirmed:
        return Markup("")
    leaders = confirmed.drop_duplicates("class").nlargest(3, "auroc")
    votes = [
        Markup("neuron {} votes for {} ({}: rank correlation {})").format(
            row["neuron"],
            words.name(str(row["votes_for"]).partition("|")[0]),
            _agreement(row),
            words.scored(row, "vote_agreement"),
        )
        for _, row in leaders.iterrows()
        if row["votes_for"]
    ]
    if not votes:
        return Markup("")
    return Markup("In the network's own classifier {}.").format(Markup(", ").join(votes))


def _agreement(row: pd.Series) -> str:
    """Whether the network calls pictures more like the class the more active the neuron is."""
    if row["vote_agreement_low"] > 0:
        return "and the pictures agree"
    against = row["vote_agreement_high"] < 0
    return "but the pictures disagree" if against else "which the pictures do not show"


@claim("explored")
def explored(results: Results) -> str:
    """What the neuron explorer is about."""
    rows = results.neurons[["layer", "pooling"]].drop_duplicates()
    where = [f"layer {row['layer']}, {row['pooling']} pooling" for _, row in rows.iterrows()]
    return f"Every neuron against every class ({'; '.join(where)})."


@claim("volcano")
def volcano_points(results: Results) -> str:
    """What the volcano plot shows, for those who cannot see it."""
    neurons = results.neurons
    if neurons["auroc"].notna().sum() == 0:
        return ""
    both, active = (len(selected_detectors(neurons, silent=silent)) for silent in (True, False))
    return (
        f"Volcano plot of {words.plural(len(neurons), 'pair')} of class and neuron; {active:,} are "
        f"selected as active and {both - active:,} as silent detectors."
    )


@claim("cards of unseen images")
def unseen_cards(results: Results) -> str:
    """That a card's images are none that its neuron was chosen on."""
    rows = [card_rows for card in results.cards for card_rows in (card.best, card.worst)]
    sides = results.split.to_numpy(str)
    if not rows or any((sides[part["row"].to_numpy(int)] == "train").any() for part in rows):
        return ""
    return "Images, histogram and relatives: images it was not chosen on."


# --------------------------------------------------------------------------------------- the tables


def _detectors(results: Results) -> Table | None:
    every, n_classes = detector_table(results), len(results.store.classes)
    most = rows_per_class(n_classes)
    several = every[["layer", "pooling"]].drop_duplicates().shape[0] > 1
    judged = "fires" in every
    rows = []
    best = with_unseen_limits(every).groupby("class", sort=True).head(most)
    for _, row in best.iterrows():
        where = f" ({row['layer']}, {row['pooling']})" if several else ""
        cells = [
            f"neuron\u00a0{row['neuron']}{where}",
            words.name(row["class"]),
            words.score(row["auroc"]),
            words.scored(row, "auroc_confirmed"),
            words.p_value(row["p_confirmed"]),
        ]
        if judged:
            cells.append(words.fires(row, "fires"))
        rows.append(cells)
    columns = ["Neuron", "Class", "AUROC when chosen", "AUROC on unseen", "Adjusted p on unseen"]
    flattered = "; being confirmed flatters their AUROC on unseen, which its interval allows for"
    if selected_detectors(results.neurons)["confirmed"].eq(True).all():
        flattered = ""
    if judged:
        columns.append("Its map finds the object")
    return table(
        f"Confirmed detectors, at most {most} per class, in the order of selection{flattered}",
        columns,
        rows,
        (0, 1, len(columns) - 1) if judged else (0, 1),
        total=len(every),
        file="detectors",
    )


def _confirmation(results: Results) -> Table | None:
    if results.detector_details is None:
        return None
    counts = results.detector_details.confirmation
    if len(results.store.classes) == 2 and len(counts):
        # Of two classes one's active neurons are the other's silent ones.
        counts = counts[counts["direction"].eq("active")]
    rows = [
        [
            words.name(row["class"]),
            row["direction"],
            f"{int(row['selected']):,}",
            f"{int(row['confirmed']):,}",
            words.share(row, "rate"),
            f"{words.number(row['median_selected'])} → {words.number(row['median_confirmed'])}",
        ]
        for _, row in counts.iterrows()
    ]
    columns = ["Class", "Direction", "Selected", "Confirmed", "Share"]
    return table(
        "Do the detectors hold on other images?",
        [*columns, "Median AUROC of all selected, when chosen → on unseen"],
        rows,
        (0, 1),
    )


def _poolings(poolings: pd.DataFrame) -> Table | None:
    rows = [
        [
            f"{row['layer']}, {row['pooling']}",
            f"{int(row['selected']):,}",
            f"{int(row['confirmed']):,}",
            words.number(row["median_confirmed"]),
            words.scored(row, "accuracy"),
        ]
        for _, row in poolings.iterrows()
    ]
    columns = ["Layer, pooling", "Detectors selected", "confirmed"]
    return table(
        "Which layer and pooling tell the classes best (one corrected family)",
        [
            *columns,
            "Median AUROC of all selected, on unseen",
            "Accuracy of the logistic head",
        ],
        rows,
    )


def _softmax_top_k(results: Results) -> Table | None:
    frequent = results.softmax_top_k
    if frequent is None or frequent.empty:
        return None
    most = min(5, rows_per_class(len(results.store.classes)))
    confirmed = confirmed_detectors(results.neurons)
    known = set(zip(*(confirmed[column] for column in _KEY), strict=True))
    k = round(frequent.groupby("class")["share"].sum().max())  # each image counts for k neurons
    rows = []
    for _, row in frequent.groupby("class", sort=True).head(most).iterrows():
        rows.append(
            [
                f"neuron\u00a0{row['neuron']}",
                words.name(row["class"]),
                words.percent(row["share"]),
                words.percent(row["share_rest"]),
                words.signed(100 * row["difference"], 0),
                "yes" if tuple(row[_KEY]) in known else "no",
            ]
        )
    return table(
        f"Neurons most often among an image's {k} largest (softmax, top {k})",
        ["Neuron", "Class", "Of the class", "Of the rest", "Difference (points)", "Detector?"],
        rows,
        (0, 1, 5),
    )


# -------------------------------------------------------------------------------------- the figures


def _volcano(results: Results) -> Figure | None:
    neurons, selection, alt = results.neurons, results.selection, volcano_points(results)
    if alt is None:
        return None
    return Figure(
        partial(
            plots.volcano,
            neurons,
            alpha=selection.alpha,
            min_auroc=selection.min_auroc,
        ),
        str(alt),
        "Every neuron against every class, on train images: effect to the right, evidence upwards. "
        "A detector needs both; the dashed lines are the cut-offs.",
        "neuron_volcano",
    )


def _confirmed(results: Results) -> Figure | None:
    selected, loss = selected_detectors(results.neurons), answers.loss(results)
    if loss is None:
        return None
    selected = selected[selected["auroc_confirmed"].notna()]
    return Figure(
        partial(plots.neurons.selected_vs_confirmed, selected),
        f"AUROC at selection against AUROC on unseen images for "
        f"{words.plural(len(selected), 'selected pair')} of class and active neuron.",
        "What selecting flatters (bars: 95 % intervals): a neuron below the dashed line is "
        f"weaker on unseen images than where it was chosen. {loss}",
        "detectors_selected_and_confirmed",
    )


def _distributions(results: Results, random_state: int) -> Figure | None:
    confirmed = confirmed_detectors(results.neurons)
    if confirmed.empty:
        return None
    layer, pooling = (str(confirmed.iloc[0][key]) for key in ("layer", "pooling"))
    confirmed = confirmed[confirmed["layer"].eq(layer) & confirmed["pooling"].eq(pooling)]
    unseen = np.flatnonzero(np.asarray(results.split, dtype=str) == "confirm")
    if len(unseen) > _MOST_DOTS:
        drawn = np.random.default_rng(random_state).choice(unseen, _MOST_DOTS, replace=False)
        unseen = np.sort(drawn)
    labels = results.store.images["label"].iloc[unseen]
    read = partial(results.store.pooled, unseen, layer=layer or None, pooling=pooling)
    return Figure(
        partial(_activations, read, labels, confirmed, random_state=random_state),
        f"Box plots of the {pooling} activation of the leading detectors, by class.",
        "The first two of each class (of six classes at most), of "
        f"{words.plural(len(confirmed), 'confirmed detector')}: their {pooling} activation on "
        f"{words.plural(len(labels), 'image')} not used to choose them; blue: the "
        "class they detect. Boxes: quartiles; dots: images.",
        "detector_activations",
    )


def _activations(read: Any, *given: Any, random_state: int) -> Any:
    return plots.neurons.activation_distributions(read(), *given, random_state=random_state)


def _maps(results: Results, most: int) -> Figure | None:
    examples, head = results.detector_examples, results.heads.main
    if examples is None or not examples.pictures or most < 1:
        return None
    first, confirmed = examples.first(most), confirmed_detectors(results.neurons)
    tested = int((results.split == "test").sum())
    classes = sorted({name for name, _ in first.neurons})
    short = dict(zip(classes, short_names(classes, 16), strict=True))
    wrong = sum(
        predicted not in (None, label)
        for predicted, label in zip(first.predicted_labels or [], first.labels, strict=False)
    )
    return Figure(
        partial(
            plots.detector_maps,
            first.pictures,
            first.heats,
            [f"neuron {neuron}\n{short[name]}" for name, neuron in first.neurons],
            labels=first.labels,
            predicted_labels=first.predicted_labels,
            true_boxes=first.true_boxes,
            predicted_boxes=first.predicted_boxes,
            signed=first.signed,
        ),
        f"Maps of {words.plural(len(first.neurons), 'detector')} over "
        f"{words.plural(len(first.pictures), 'test image')}, of which the "
        f"{words.readable(head)} head gets {wrong} wrong.",
        f"Where {len(first.neurons)} of {words.plural(len(confirmed), 'confirmed detector')} look, "
        f"on {len(first.pictures)} of {words.plural(tested, 'test image')}. "
        f"{_BRIGHT[first.signed]} White: true boxes. ✓ and ✗: verdict of the "
        f"{words.readable(head)} head.",
        "detector_maps",
        pictures=True,
    )


_BRIGHT = {
    False: "Bright: active; each column has one scale, so a dark map means that it does not fire.",
    True: "Bright: far from the neuron's mean on train images, orange above and blue below; each "
    "column has one scale.",
}


def _ablation(details: DetectorDetails, mode: str) -> Figure | None:
    if details.ablation is None:
        return None
    curve = details.ablation[details.ablation["mode"] == mode]
    what = "set to their training mean" if mode == "ablate" else "kept, all others at their mean"
    return Figure(
        partial(plots.curves.ablation, curve),
        f"Accuracy of the logistic head with k detectors {what}, beside random neurons.",
        f"The logistic head on test images with its first k detectors {what}; orange: as many "
        "neurons of like variance, drawn at random.",
        "detectors_ablated" if mode == "ablate" else "detectors_kept",
    )


def _card(card: NeuronCard, place: int, unseen: str) -> Figure:
    return Figure(
        partial(plots.neuron_card, card),
        f"{card.title}: the images with the largest and the smallest activation, and the "
        "distribution over the classes.",
        f"{card.title}. {unseen} Above each picture: class and activation; one scale of "
        "brightness for all.",
        f"neuron_card_{place}",
        pictures=True,
    )
