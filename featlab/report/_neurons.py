"""The section "Detectors"."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from featlab import plots
from featlab.arguments import confirmed_detectors, selected_detectors
from featlab.plots.style import short_names
from featlab.report import _words as words
from featlab.report._elements import Figure, Options, Section, Table, rows_per_class, table
from featlab.results.analysis import DetectorDetails, Results, Selection
from featlab.results.pictures import Examples, NeuronCard

_FIRES = {
    "on the object": "yes",
    "not shown": "not shown",
    "beside the object": "no: a probable shortcut",
}
_MOST_DOTS = 10_000
_KEY = ["layer", "class", "neuron"]


def detectors(results: Results, options: Options) -> Section:
    """Which neurons detect the classes, and whether that holds on other images."""
    details, most = results.detector_details, options.most_examples
    every = results.neurons if results.all_neurons is None else results.all_neurons
    files = {"neurons": every, "detectors": detector_table(results)}
    if details is not None and details.omnibus is not None:
        files["omnibus"] = details.omnibus
    return Section(
        "detectors",
        "Detectors",
        "detectors.html",
        facts={
            "n_selected": len(selected_detectors(results.neurons)),
            "n_confirmed": len(confirmed_detectors(results.neurons)),
            "explored": _explored(results.neurons),
            "checks": "" if details is None else _checks(details),
            "needed": "" if details is None else _needed(details),
            "poolings": "" if details is None else _best_pooling(details.poolings),
        },
        tables={
            "replication": _replication(results),
            "detectors": _detectors(results),
            "poolings": None if details is None else _poolings(details.poolings),
            "softmax_top_k": _softmax_top_k(results),
        },
        figures={
            "volcano": _volcano(results.neurons, results.selection),
            "confirmed": _confirmed(results.neurons),
            "distributions": _distributions(results, options.random_state),
            "detector_maps": _maps(results.detector_examples, most, results.heads.main),
            "cards": [_card(card, place) for place, card in enumerate(results.cards, start=1)],
            "ablation": None if details is None else _ablation(details, "ablate"),
            "keep": None if details is None else _ablation(details, "keep"),
        },
        files=files,
    )


def answer(results: Results) -> Markup:
    """Which neurons detect the classes."""
    every, confirmed = results.neurons, confirmed_detectors(results.neurons)
    total = every[["layer", "neuron"]].drop_duplicates().shape[0]
    if confirmed.empty:
        selected = len(selected_detectors(every))
        return Markup(
            "No neuron is shown to: {} selected on the train images, none held up."
        ).format(words.plural(selected, "detector was", "detectors were"))
    neurons = confirmed[["layer", "neuron"]].drop_duplicates().shape[0]
    leaders = [
        Markup("neuron {} for {} (AUROC {})").format(
            row["neuron"], words.name(row["class"]), words.scored(row, "auroc_confirmed")
        )
        for _, row in confirmed.drop_duplicates("class").nlargest(3, "auroc").iterrows()
    ]
    without = [c for c in results.store.classes if c not in set(confirmed["class"])]
    text = Markup(
        "{} of {} neurons detect a class and were confirmed on unseen images; in the lead {}."
    ).format(f"{neurons:,}", f"{total:,}", Markup(", ").join(leaders))
    if without:
        text += Markup(" No detector for {}.").format(words.listed(without))
    return text


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


# ------------------------------------------------------------------------------------ the sentences


def _explored(neurons: pd.DataFrame) -> str:
    """What the neuron explorer is about."""
    rows = neurons[["layer", "pooling"]].drop_duplicates()
    where = [f"layer {row['layer']}, {row['pooling']} pooling" for _, row in rows.iterrows()]
    return f"Every neuron against every class ({'; '.join(where)})."


def _checks(details: DetectorDetails) -> str:
    """What shuffled labels, groups and redundancy say of the detectors."""
    nulls, clusters, omnibus = details.nulls, details.clusters, details.omnibus
    sentences = []
    if nulls is not None and len(nulls):
        largest = int(nulls["replicated"].max())
        most = f"at most {words.plural(largest, 'neuron')}" if largest else "no neuron"
        sentences.append(
            f"On {len(nulls)} sets of shuffled labels the same procedure confirmed {most}."
        )
    if clusters is not None and len(clusters):
        n = int(clusters.groupby("class")["cluster"].nunique().sum())
        sentences.append(
            f"Put together where they rise and fall from image to image of a class in the same "
            f"way (rank correlation of {details.cluster_correlation:g} on average), the "
            f"{len(clusters):,} confirmed detectors "
            f"form {words.plural(n, 'cluster')}."
        )
    if omnibus is not None:
        sentences.append(
            f"Whichever the class, {int(omnibus['reject'].sum()):,} of "
            f"{words.plural(int(omnibus['p'].notna().sum()), 'neuron')} that fire differ between "
            "the classes on the confirm images (Kruskal-Wallis, corrected)."
        )
    return " ".join(sentences)


def _needed(details: DetectorDetails) -> str:
    """Whether the head needs its detectors, and how few do as well."""
    few, ablation = details.smallest, details.ablation
    if few is None or ablation is None:
        return ""
    last = ablation[ablation["mode"] == "ablate"]
    last = last[last["k"] == last["k"].max()].set_index("kind")
    accuracy: Any = last["accuracy"]
    return (
        f"Without its {int(last['k'].iloc[0])} best detectors the logistic head gets "
        f"{words.percent(accuracy['detectors'])} of the test images right, without as many "
        f"random neurons of like variance {words.percent(accuracy['random'])}. A logistic "
        f"regression on {words.plural(len(few.neurons), 'detector')} does as well as on any number "
        f"of them within one standard error: {words.percent(few.accuracy)} of the test images "
        f"({words.percent(few.accuracy_low)} to {words.percent(few.accuracy_high)})."
    )


def _best_pooling(poolings: pd.DataFrame) -> str:
    """Which layer and pooling tell the classes best, by what was confirmed."""
    if len(poolings) < 2 or not poolings["replicated"].any():
        return ""
    order = poolings.sort_values("replicated", ascending=False, kind="stable")
    best, other = order.iloc[0], order.iloc[-1]
    layers = order["layer"].nunique()
    where = f" of layer {best['layer']}" if layers > 1 else ""
    lowest = f" of layer {other['layer']}" if layers > 1 else ""
    return (
        f"Most detectors were confirmed with {best['pooling']} pooling{where}: "
        f"{int(best['replicated']):,}, with a median AUROC of "
        f"{words.number(best['median_confirmed'])} on unseen images; fewest with "
        f"{other['pooling']} pooling{lowest}: {int(other['replicated']):,}."
    )


# --------------------------------------------------------------------------------------- the tables


def _detectors(results: Results) -> Table | None:
    every, n_classes = detector_table(results), len(results.store.classes)
    most = rows_per_class(n_classes)
    several = every[["layer", "pooling"]].drop_duplicates().shape[0] > 1
    pointed = "pointing" in every
    rows = []
    for _, row in every.groupby("class", sort=True).head(most).iterrows():
        where = f" ({row['layer']}, {row['pooling']})" if several else ""
        cells = [
            f"neuron\u00a0{row['neuron']}{where}",
            words.name(row["class"]),
            words.number(row["auroc"]),
            words.scored(row, "auroc_confirmed"),
            words.p_value(row["p_confirmed"]),
        ]
        if pointed:
            cells += [
                _peak_in_box(row),
                words.percent(row["pointing_picture_centre"]),
                _FIRES.get(str(row.get("fires")), "–"),
            ]
        rows.append(cells)
    columns = ["Neuron", "Class", "AUROC when chosen", "AUROC on unseen", "Adjusted p on unseen"]
    if pointed:
        columns += ["Peak in a box", "Picture’s centre in a box", "Fires on the object?"]
    return table(
        f"Confirmed detectors, at most {most} per class, in the order of selection",
        columns,
        rows,
        (0, 1, len(columns) - 1) if pointed else (0, 1),
        total=len(every),
        file="detectors",
    )


def _peak_in_box(row: pd.Series) -> str:
    """How often the peak of a detector's map falls inside a box, and of how many images."""
    if not math.isfinite(row["pointing"]):
        return "–"
    return f"{words.percent(row['pointing'])} of {int(row['pointing_n'])}"


def _replication(results: Results) -> Table | None:
    if results.detector_details is None:
        return None
    counts = results.detector_details.replication
    if len(results.store.classes) == 2 and len(counts):
        # Of two classes one's active neurons are the other's silent ones.
        counts = counts[counts["direction"].eq("active")]
    rows = [
        [
            words.name(row["class"]),
            row["direction"],
            f"{int(row['selected']):,}",
            f"{int(row['replicated']):,}",
            words.share(row, "rate"),
            f"{words.number(row['median_selected'])} → {words.number(row['median_confirmed'])}",
        ]
        for _, row in counts.iterrows()
    ]
    columns = ["Class", "Direction", "Selected", "Confirmed", "Share", "Median AUROC"]
    return table("Do the detectors hold on other images?", columns, rows, (0, 1))


def _poolings(poolings: pd.DataFrame) -> Table | None:
    if len(poolings) < 2:
        return None
    rows = [
        [
            f"{row['layer']}, {row['pooling']}",
            f"{int(row['selected']):,}",
            f"{int(row['replicated']):,}",
            words.number(row["median_confirmed"]),
            words.scored(row, "accuracy"),
        ]
        for _, row in poolings.iterrows()
    ]
    columns = ["Layer, pooling", "Detectors selected", "confirmed", "Median AUROC on unseen"]
    return table(
        "Which layer and pooling tell the classes best (one corrected family)",
        [*columns, "Accuracy of the logistic head"],
        rows,
    )


def _softmax_top_k(results: Results) -> Table | None:
    frequent = results.softmax_top_k
    if frequent is None or frequent.empty:
        return None
    most = min(5, rows_per_class(len(results.store.classes)))
    confirmed = confirmed_detectors(results.neurons)
    known = set(zip(*(confirmed[column] for column in _KEY), strict=True))
    rows = []
    for _, row in frequent.groupby("class", sort=True).head(most).iterrows():
        rows.append(
            [
                f"neuron\u00a0{row['neuron']}",
                words.name(row["class"]),
                words.percent(row["share"]),
                words.percent(row["share_rest"]),
                f"{100 * row['difference']:+.0f}".replace("-", "−"),
                "yes" if tuple(row[_KEY]) in known else "no",
            ]
        )
    return table(
        "Neurons most often among an image's largest (softmax top k)",
        ["Neuron", "Class", "Of the class", "Of the rest", "Difference (points)", "Detector?"],
        rows,
        (0, 1, 5),
    )


# -------------------------------------------------------------------------------------- the figures


def _volcano(neurons: pd.DataFrame, selection: Selection) -> Figure | None:
    if neurons["auroc"].notna().sum() == 0:
        return None
    return Figure(
        partial(
            plots.volcano,
            neurons,
            alpha=selection.alpha,
            min_auroc=selection.min_auroc,
        ),
        f"Volcano plot of {len(neurons)} pairs of class and neuron; "
        f"{int(neurons['detector'].eq(True).sum())} are selected as detectors.",
        "Every neuron against every class, on train images: effect to the right, evidence upwards. "
        "A detector needs both; the dashed lines are the cut-offs.",
        "neuron_volcano",
    )


def _confirmed(neurons: pd.DataFrame) -> Figure | None:
    selected = selected_detectors(neurons)
    selected = selected[selected["auroc_confirmed"].notna()]
    if selected.empty:
        return None
    loss = float((selected["auroc"] - selected["auroc_confirmed"]).median())
    return Figure(
        partial(plots.neurons.selected_vs_confirmed, selected),
        f"AUROC at selection against AUROC on unseen images for {len(selected)} detectors.",
        "What selecting flatters (bars: 95 % intervals): a detector below the dashed line is "
        "weaker on unseen images than where it was chosen. Median loss "
        f"{words.number(loss, 3)} AUROC ({words.plural(len(selected), 'detector')}).",
        "detectors_selected_and_confirmed",
    )


def _distributions(results: Results, random_state: int) -> Figure | None:
    confirmed = confirmed_detectors(results.neurons)
    if confirmed.empty:
        return None
    layer, pooling = (str(confirmed.iloc[0][key]) for key in ("layer", "pooling"))
    if pooling not in ("mean", "max"):
        return None
    confirmed = confirmed[confirmed["layer"].eq(layer) & confirmed["pooling"].eq(pooling)]
    unseen = np.flatnonzero(np.asarray(results.split, dtype=str) == "confirm")
    if len(unseen) > _MOST_DOTS:
        drawn = np.random.default_rng(random_state).choice(unseen, _MOST_DOTS, replace=False)
        unseen = np.sort(drawn)
    labels = results.store.images["label"].iloc[unseen]

    def draw() -> Any:
        pooled = results.store.pooled(unseen, layer=layer or None, pooling=pooling)
        return plots.neurons.activation_distributions(
            pooled, labels, confirmed, random_state=random_state
        )

    return Figure(
        draw,
        f"Box plots of the {pooling} activation of the leading detectors, by class.",
        f"The leading detectors' {pooling} activation on {words.plural(len(labels), 'image')} not "
        "used to choose them; blue: the class they detect. Boxes: quartiles; dots: images.",
        "detector_activations",
    )


def _maps(examples: Examples | None, most: int, head: str) -> Figure | None:
    if examples is None or not examples.pictures or most < 1:
        return None
    first = examples.first(most)
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
        ),
        f"Maps of {len(first.neurons)} detectors over {len(first.pictures)} test images, of which "
        f"the {words.readable(head)} head gets {wrong} wrong.",
        "Where the leading detectors look, on unseen test images. Bright: active; each column has "
        "one scale, so a dark map means a silent detector. White: true boxes. Green ✓ and red ✗: "
        f"verdict of the {words.readable(head)} head.",
        "detector_maps",
        pictures=True,
    )


def _ablation(details: DetectorDetails, mode: str) -> Figure | None:
    if details.ablation is None:
        return None
    curve = details.ablation[details.ablation["mode"] == mode]
    if curve.empty:
        return None
    what = "set to their training mean" if mode == "ablate" else "kept, all others at their mean"
    return Figure(
        partial(plots.curves.ablation, curve),
        f"Accuracy of the logistic head with k detectors {what}, beside random neurons.",
        f"The logistic head on test images with its first k detectors {what}; orange: as many "
        "neurons of like variance, drawn at random.",
        "detectors_ablated" if mode == "ablate" else "detectors_kept",
    )


def _card(card: NeuronCard, place: int) -> Figure:
    return Figure(
        partial(plots.neuron_card, card),
        f"{card.title}: the images with the largest and the smallest activation, and the "
        "distribution over the classes.",
        f"{card.title}. Images, histogram and relatives: images it was not chosen on. Above "
        "each picture: class and activation; one scale of brightness for all.",
        f"neuron_card_{place}",
        pictures=True,
    )
