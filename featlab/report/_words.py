"""The report's sentences. Names of classes and files are escaped here; the rest is ours."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd
from markupsafe import Markup

from featlab.arguments import confirmed_detectors, selected_detectors
from featlab.plots.style import GRADIENT_METHOD_NAMES
from featlab.results.analysis import Results
from featlab.results.heads import BASELINE_HEADS

_LONGEST = 60
_LISTED = 6
_HEADS = {
    "logistic": "a logistic regression",
    "mlp": "a small neural network (MLP)",
    "dummy": "always answering the commonest class",
    "colour_histogram": "a logistic regression on colours alone",
}
_METHODS = {
    "detectors": "detectors combined",
    "best_detector": "best detector alone",
    "signed_detectors": "active minus silent detectors",
    "contrast": "detectors, class against others",
    "cam": "class activation map (CAM)",
    "cam_positive": "CAM, positive weights",
    "mlp_cam": "CAM of the MLP",
    "cell_head": "head at every cell",
    "sum": "sum of all maps",
    "eigen_cam": "first component per picture",
    "ddt": "first component of the class",
    "parts": "part shared over the set",
    "fusion": "detectors, CAM and sum fused",
    "cell_boxes": "cells learnt from boxes",
    "random_neuron": "a random neuron",
    "centre_gaussian": "a blob at the picture's centre",
    "whole_image": "the whole picture",
    "mean_box": "the mean training box",
}
_BOX_HEADS = {
    "cascade": "cascade: ridge, then corrections",
    "ridge_pca": "ridge on principal components",
    "pls": "partial least squares",
    "mlp": "small neural network (MLP)",
    "gradient_boosting": "boosted trees on heat-map statistics",
    "mean_box": "the mean training box",
    "whole_image": "the whole picture",
    "centre": "a box at the picture's centre",
}
NOT_BETTER = "Not shown to be better"
BETTER = "Yes, clearly better than the best baseline"


def number(value: Any, digits: int = 2) -> str:
    """A number with `digits` decimals; a dash for what is not a number."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    if not float(text.replace(",", "")):
        text = text.removeprefix("-")
    return text.replace("-", "−")


def signed(value: Any, digits: int = 2) -> str:
    """A number with its sign."""
    return f"+{number(value, digits)}" if value > 0 else number(value, digits)


def percent(value: Any) -> str:
    """A share as a percentage; with a decimal where rounding would claim all or nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    edge = round(value, 2) in (0, 1) and value not in (0, 1)
    return f"{100 * value:.{1 if edge else 0}f}\N{NO-BREAK SPACE}%"


def interval(low: Any, high: Any, digits: int = 2) -> str:
    """`[0.91, 0.97]`; empty where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{number(low, digits)},\N{NO-BREAK SPACE}{number(high, digits)}]"


def scored(row: pd.Series, score: str, digits: int = 2) -> str:
    """A score and its interval."""
    bounds = interval(row.get(f"{score}_low", math.nan), row.get(f"{score}_high", math.nan), digits)
    return f"{number(row.get(score), digits)} {bounds}".strip()


def p_value(p: Any) -> str:
    """A p-value as a reader wants it: `0.013`, `3 × 10⁻⁹`, `< 10⁻³⁰⁰`."""
    if p is None or not math.isfinite(p):
        return "–"
    if p < 1e-300:
        return "< 10⁻³⁰⁰"
    if p >= 0.001:
        return f"{p:.3f}"
    mantissa, exponent = f"{p:.0e}".split("e")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{power}"


def plural(count: int, noun: str, many: str | None = None) -> str:
    """`1 image`, `2,000 images`."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def name(text: object) -> Markup:
    """A user's name, shortened, in its own direction of writing; the whole name as a tool tip."""
    full = str(text)
    shown = full if len(full) <= _LONGEST else f"{full[: _LONGEST - 13]}…{full[-12:]}"
    return Markup('<bdi class="name" title="{}">{}</bdi>').format(full, shown)


def listed(names: Iterable[object]) -> Markup:
    """`a, b and c`; the first six of many."""
    shown = [name(text) for text in names]
    rest = len(shown) - _LISTED
    if rest > 1:
        return Markup(", ").join(shown[:_LISTED]) + f" and {rest} more"
    if len(shown) < 2:
        return Markup("").join(shown)
    return Markup(", ").join(shown[:-1]) + " and " + shown[-1]


def readable(identifier: object) -> str:
    """`top_20_detectors` → `top 20 detectors`."""
    return str(identifier).replace("_", " ")


def method(identifier: object) -> str:
    """A localisation method in words."""
    base = str(identifier).removesuffix("_refined")
    if base != str(identifier):
        return f"{method(base)}, corrected"
    names = GRADIENT_METHOD_NAMES | _METHODS
    return names.get(str(identifier), readable(identifier))


def box_head(identifier: object) -> str:
    """A box head in words."""
    return _BOX_HEADS.get(str(identifier), readable(identifier))


def data_answer(results: Results) -> Markup:
    """What the data is."""
    images, boxes = results.store.images, results.store.boxes
    sides = pd.Series(list(results.split)).value_counts()
    parts = ", ".join(
        f"{sides.get(side, 0):,} {use}"
        for side, use in (
            ("train", "to learn from"),
            ("confirm", "to confirm detectors"),
            ("test", "to score on"),
        )
    )
    text = Markup("{} of {}: {}. Split: {}.").format(
        plural(len(images), "image"),
        plural(len(results.store.classes), "class", "classes"),
        listed(results.store.classes),
        parts,
    )
    if len(boxes):
        with_boxes = int(boxes["image"].nunique())
        text += f" {plural(with_boxes, 'image has', 'images have')} ground-truth boxes."
    return text


def output_answer(results: Results, head: str) -> Markup:
    """What the network gives, and how well a head does on it."""
    h, w, c = results.store.map_shape()
    text = Markup(
        "The frozen network turns each picture into a grid of {} × {} cells with {} "
        "numbers each, one per neuron. "
    ).format(h, w, f"{c:,}")
    table = results.heads.table.set_index("head")
    if head not in table.index:
        return text + "No head was fitted on it."
    row: Any = table.loc[head]
    text += (
        f"On that, {_HEADS.get(head, readable(head))} gets {percent(row['accuracy'])} of "
        f"{plural(int(row['n']), 'unseen image')} right "
        f"({percent(row['accuracy_low'])} to {percent(row['accuracy_high'])})"
    )
    rivals = [f"{_HEADS[b]} {percent(table.loc[b, 'accuracy'])}" for b in _present(table)]
    return text + (f"; {' and '.join(rivals)}." if rivals else ".")


def advantage(table: pd.DataFrame, head: str) -> str:
    """How much better than the baselines, and whether the intervals part."""
    rows = table.set_index("head")
    if head not in rows.index:
        return ""
    ours, sentences = rows.loc[head], []
    for baseline in _present(rows):
        other = rows.loc[baseline]
        points = 100 * (ours["accuracy"] - other["accuracy"])
        if ours["accuracy_low"] > other["accuracy_high"]:
            verdict = "the intervals do not overlap"
        else:
            verdict = "the intervals overlap, so this is not shown to be a difference"
        way = "above" if points >= 0 else "below"
        sentences.append(
            f"{abs(points):.0f} percentage points {way} {readable(baseline)} ({verdict})"
        )
    return f"The {readable(head)} head lies {'; '.join(sentences)}." if sentences else ""


def detectors_answer(results: Results) -> Markup:
    """Which neurons detect the classes."""
    table, detectors = results.neurons, confirmed_detectors(results.neurons)
    total = table[["layer", "neuron"]].drop_duplicates().shape[0]
    chosen = len(selected_detectors(table))
    if detectors.empty:
        return Markup(
            "No neuron is shown to: {} selected on the train images, none held up."
        ).format(plural(chosen, "detector was", "detectors were"))
    neurons = detectors[["layer", "neuron"]].drop_duplicates().shape[0]
    best = detectors.loc[detectors.groupby("class")["rank"].idxmin()]
    leaders = [
        Markup("neuron {} for {} (AUROC {})").format(
            row["neuron"], name(row["class"]), scored(row, "auroc_confirmed")
        )
        for _, row in best.nlargest(3, "auroc").iterrows()
    ]
    without = [c for c in results.store.classes if c not in set(detectors["class"])]
    text = Markup(
        "{} of {} neurons detect a class and were confirmed on unseen images; in the lead {}."
    ).format(f"{neurons:,}", f"{total:,}", Markup(", ").join(leaders))
    if without:
        text += Markup(" No detector for {}.").format(listed(without))
    return text


def explored(results: Results) -> str:
    """What the neuron explorer is about."""
    table = results.neurons
    rows = table[["layer", "pooling"]].drop_duplicates()
    where = [f"layer {row['layer']}, {row['pooling']} pooling" for _, row in rows.iterrows()]
    return f"Every neuron against every class ({'; '.join(where)})."


def needed(results: Results) -> str:
    """Whether the head needs its detectors, and how few do as well."""
    detector_details = results.detector_details
    if (
        detector_details is None
        or detector_details.ablation is None
        or detector_details.smallest is None
    ):
        return ""
    table = detector_details.ablation
    last = table[table["mode"] == "ablate"]
    last = last[last["k"] == last["k"].max()].set_index("kind")
    few = detector_details.smallest
    return (
        f"Without its {int(last['k'].iloc[0])} best detectors the logistic head gets "
        f"{percent(last.loc['detectors', 'accuracy'])} of the test images right, without as many "
        f"random neurons of like variance {percent(last.loc['random', 'accuracy'])}. A logistic "
        f"regression on {plural(len(few.neurons), 'detector')} does as well as on any number of "
        f"them within one standard error: {percent(few.accuracy)} of the test images "
        f"({percent(few.accuracy_low)} to {percent(few.accuracy_high)})."
    )


def checks(results: Results) -> str:
    """What shuffled labels, groups and redundancy say of the detectors."""
    detector_details = results.detector_details
    if detector_details is None:
        return ""
    sentences = []
    if detector_details.nulls is not None and len(detector_details.nulls):
        n, found = len(detector_details.nulls), detector_details.nulls["replicated"]
        most = "no neuron" if not found.max() else f"at most {plural(int(found.max()), 'neuron')}"
        sentences.append(f"On {n} sets of shuffled labels the same procedure confirmed {most}.")
    if detector_details.clusters is not None and len(detector_details.clusters):
        clusters = detector_details.clusters
        n = int(clusters.groupby("class")["cluster"].nunique().sum())
        sentences.append(
            f"Put together where they rise and fall from image to image of a class in the same "
            f"way (rank correlation of {detector_details.cluster_correlation:g} on average), the "
            f"{len(clusters):,} confirmed detectors "
            f"form {plural(n, 'cluster')}."
        )
    if detector_details.omnibus is not None:
        omnibus = detector_details.omnibus
        sentences.append(
            f"Whichever the class, {int(omnibus['reject'].sum()):,} of "
            f"{plural(int(omnibus['p'].notna().sum()), 'neuron')} that fire differ between the "
            "classes on the confirm images (Kruskal-Wallis, corrected)."
        )
    return " ".join(sentences)


def poolings(results: Results) -> str:
    """Which layer and pooling tell the classes best, by what was confirmed."""
    detector_details = results.detector_details
    if (
        detector_details is None
        or len(detector_details.poolings) < 2
        or not detector_details.poolings["replicated"].any()
    ):
        return ""
    table = detector_details.poolings.sort_values("replicated", ascending=False, kind="stable")
    best, other = table.iloc[0], table.iloc[-1]
    layers = table["layer"].nunique()
    where = f" of layer {best['layer']}" if layers > 1 else ""
    lowest = f" of layer {other['layer']}" if layers > 1 else ""
    return (
        f"Most detectors were confirmed with {best['pooling']} pooling{where}: "
        f"{int(best['replicated']):,}, with a median AUROC of {number(best['median_confirmed'])} "
        f"on unseen images; fewest with {other['pooling']} pooling{lowest}: "
        f"{int(other['replicated']):,}."
    )


def scores(results: Results) -> pd.DataFrame | None:
    """The localisation table; None where no image could be scored."""
    if results.localisation is None or results.localisation.table.empty:
        return None
    return results.localisation.table


def localisation_answer(results: Results) -> tuple[str, str]:
    """Do the maps localise: a verdict of a few words, and the figures behind it."""
    table, localisation = scores(results), results.localisation
    if table is None or localisation is None:
        return "No boxes, so not measured", "Without boxes on test images nothing can be said."
    ours = localisation.best(supervision="image labels")
    rival = localisation.best(baseline=True)
    if ours is None or rival is None:
        return NOT_BETTER, "There is no map method and baseline to compare."
    text = (
        f"From image labels alone, “{method(ours['method'])}”, the best of the map methods "
        f"{_picked_on(table)}, {_finds(ours)} of {plural(int(ours['n']), 'test image')}; the best "
        f"baseline, “{method(rival['method'])}”, {_finds(rival)}."
    )
    taught = localisation.best(supervision="boxes")
    if taught is not None:
        text += (
            f" Where boxes of train images are there to learn from, “{method(taught['method'])}” "
            f"{_finds(taught)}."
        )
    clear, difference = _ahead(results, ours, rival)
    if clear:
        return BETTER, f"{text} {difference}".rstrip()
    return f"{NOT_BETTER} than the best baseline", f"{text} {difference}".rstrip()


def _ahead(results: Results, ours: pd.Series, rival: pd.Series) -> tuple[bool, str]:
    """Whether one method is clearly ahead of another, and by how much: image by image if known."""
    boxes = results.box_details
    pairs = boxes.pairs if boxes is not None else pd.DataFrame(columns=["method", "against"])
    pair = pairs[pairs["method"].eq(ours["method"]) & pairs["against"].eq(rival["method"])]
    if pair.empty:
        if ours["box_accuracy_low"] > rival["box_accuracy_high"]:
            return True, ""
        if ours["box_accuracy"] > rival["box_accuracy"]:
            return False, "The intervals of labels alone and baseline overlap."
        return False, "Labels alone are not even ahead."
    row = pair.iloc[0]
    points = [100 * row[f"difference{end}"] for end in ("", "_low", "_high")]
    told = "Image by image, labels alone are {} percentage points ahead ({} to {}).".format(
        *(number(value, 0) for value in points)
    )
    return bool(row["difference_low"] > 0), told


def _finds(row: pd.Series) -> str:
    return (
        f"finds the box (IoU ≥ 0.5) in {percent(row['box_accuracy'])} "
        f"({percent(row['box_accuracy_low'])} to {percent(row['box_accuracy_high'])})"
    )


def _picked_on(table: pd.DataFrame) -> str:
    known = table.get("box_accuracy_confirm")
    if known is not None and known.notna().any():
        return "on the images that set the thresholds"
    return "on the test images themselves, which flatters it"


def units_answer(results: Results) -> Markup:
    """Whether single detectors fire on the object: *does this neuron's map allow localisation?*"""
    units = results.units
    if units is None or units.empty:
        return Markup("")
    counts = units["verdict"].value_counts()
    text = Markup(
        "Does a detector's own map allow localisation? Of {} judged on images they were not chosen "
        "on, {} fire on the object (cells inside the boxes are more active than cells outside, and "
        "they overlap the boxes more than other images' boxes), for {} this is not shown, and {} "
        "fire beside it"
    ).format(
        plural(len(units), "detector"),
        counts.get("on the object", 0),
        counts.get("not shown", 0),
        counts.get("beside the object", 0),
    )
    beside = units[units["verdict"] == "beside the object"].nsmallest(3, "auroc_inside")
    if beside.empty:
        return text + "."
    named = [
        Markup("neuron {} for {}").format(row["neuron"], name(row["class"]))
        for _, row in beside.iterrows()
    ]
    return text + Markup(": probable shortcuts, first of all {}.").format(Markup(", ").join(named))


def peak_in_box(row: pd.Series) -> str:
    """How often the peak of a detector's map falls inside a box, and of how many images."""
    if not math.isfinite(row["pointing"]):
        return "–"
    return f"{percent(row['pointing'])} of {int(row['pointing_n'])}"


def _present(rows: pd.DataFrame) -> list[str]:
    return [head for head in BASELINE_HEADS if head in rows.index]
