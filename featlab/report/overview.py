"""The first and the last section of the report: answers in short, and how to make it again."""

from __future__ import annotations

import base64
import json
import math
import posixpath
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup

from featlab import plots
from featlab.plots.style import glowing
from featlab.report import _answers, _data, _heads, _methods, _predictions
from featlab.report import _words as words
from featlab.report._elements import Figure, Options, Section, Table, table
from featlab.report._interactive import small_jpeg
from featlab.report._words import Claim, claim
from featlab.results.analysis import Results
from featlab.results.images import Clusters
from featlab.results.pictures import LEAST_IOU, Examples

_CLUSTER_NEURONS = 4
_TIME = "Time taken; of a stage in a process of its own, what it was waited for"
_SIGHT_SIDE, _LONGEST = 240, 200
_NO_BOX = np.zeros((0, 4))


def overview(results: Results, options: Options) -> Section:
    """Four questions, answered in two sentences each; pictures; what the audit warns of."""
    every = [] if results.audit is None else _answers.checks(results.audit)
    return Section(
        "answers",
        "In short",
        "answers.html",
        facts={
            "alarms": [check for check in every if check.verdict in ("fail", "warn")],
            "checks_verdict": _answers.verdict(results),
            "answers": answered(results),
            "sights": sights(results) if options.most_examples else [],
            "sights_note": pictured(results),
        },
    )


@claim("lead")
def lead(results: Results) -> str:
    """How many images, what network and when, under the title."""
    weights = str(results.store.provenance.get("weights", ""))
    trained = "random" if weights.lower().startswith(("random", "none")) else "pretrained"
    n = words.plural(len(results.store.images), "image")
    when = words.day(results.store.created)
    return (
        f"{n}{' without labels' if results.unlabelled else ''}, seen once by the frozen, {trained} "
        f"network{f' on {when}' if when else ''}."
    )


@dataclass(frozen=True)
class Sight:
    """A test picture at the top of the page, and under the map of its class's best detector."""

    pictures: list[tuple[str, str]]
    """Address and alternative text of each of the two, or of the picture alone."""
    width: int
    height: int
    true_boxes: list[list[float]]
    box: list[float] | None
    right: bool
    verdict: Markup
    note: Markup


def sights(results: Results) -> list[Sight]:
    """The pictures at the top of the page; those that cannot be read any more are left out."""
    every = results.showcase
    if every is None:
        return []
    size = np.abs if every.signed else np.asarray
    tops = [
        float(max(size(heats[k]).max() for heats in every.heats)) for k in range(len(every.neurons))
    ]
    readable = [i for i, picture in enumerate(every.pictures) if picture is not None]
    return [_sight(every, i, tops, _probability(results, every.rows[i])) for i in readable]


def _sight(every: Examples, i: int, tops: list[float], probability: str) -> Sight:
    picture, label, called = every.pictures[i], every.labels[i], (every.predicted_labels or [])[i]
    assert picture is not None
    sign, of = ("✓", "") if called == label else ("✗", f", called {called}")
    pictures = [(picture, f"Test picture of {label}{of}")]
    note = Markup("no detector of the class")
    for k, (name, neuron) in enumerate(every.neurons):
        if name == label:
            glow = glowing(picture, every.heats[i][k], tops[k], every.signed)
            pictures.append((glow, f"The same under the map of neuron {neuron}"))
            note = Markup("neuron {}").format(neuron)
    iou, box = (every.ious or [])[i], (every.predicted_boxes or [])[i]
    if math.isfinite(iou):
        note += f", box IoU {words.score(iou)} {'✓' if iou >= LEAST_IOU else '✗'}"
    return Sight(
        pictures=[(_uri(one), alt[:_LONGEST]) for one, alt in pictures],
        width=picture.shape[1],
        height=picture.shape[0],
        true_boxes=np.round(every.true_boxes[i], 1).tolist(),
        box=None if box is None else box.round(1).tolist(),
        right=called == label,
        verdict=Markup("{} {}{}").format(
            sign,
            words.name(label) if called == label
            else Markup("{} for {}").format(words.name(called), words.name(label)),
            probability,
        ),
        note=note,
    )  # fmt: skip


def _probability(results: Results, row: int) -> str:
    """How sure the predictor is of its class of a test image."""
    if results.predictions is None:
        return ""
    place = np.flatnonzero(results.split.to_numpy(str) == "test").tolist().index(row)
    return f" {words.probability(results.predictions.table['probability'].iloc[place])}"


def _uri(pixels: np.ndarray) -> str:
    data = base64.b64encode(small_jpeg(pixels, _SIGHT_SIDE, 80)).decode("ascii")
    return f"data:image/jpeg;base64,{data}"


@claim("pictures at the top")
def pictured(results: Results) -> str:
    """Which test pictures stand at the top of the page, and what went wrong with the last."""
    every = results.showcase
    if every is None or not any(picture is not None for picture in every.pictures):
        return ""
    called, method = every.predicted_labels or [], results.predictions
    by = "" if method is None else f" by {words.box_source(method.box_method)}"
    any_box = any(box is not None for box in every.predicted_boxes or [])
    labels = set(every.labels)
    n, known = len(labels), len(results.store.classes)
    of = "each class" if n == known else f"each of {n:,} of {known:,} classes"
    text = f"Test pictures drawn at random, one of {of}"
    last_again = len(every.labels) > n
    if last_again and called[-1] != every.labels[-1]:
        text += "; the last is one that gets a wrong class"
    elif last_again:
        text += "; the last gets its own class and a box that misses"
    notes = [
        "white: true boxes" if any(len(boxes) for boxes in every.true_boxes) else "",
        f"blue: predicted{by}" if any_box else "",
        f"glow: the map of the class's best detector{_glow(every)}" if every.neurons else "",
    ]
    legend = "; ".join(filter(None, notes))
    return f"{text}. {legend[:1].upper()}{legend[1:]}." if legend else f"{text}."


def _glow(every: Examples) -> str:
    """What its brightness says."""
    if every.signed:
        return ", orange above its mean and blue below"
    return ", dark at 0 and bright at its highest value here"


def answered(results: Results) -> dict[str, Claim]:
    """Question → answer."""
    if results.unlabelled:
        kept = {
            "What is the data?": _data.answer(results),
            "What does the network itself call the pictures?": _heads.own_answer(results),
            "Which pictures does it see alike?": clusters_answer(results),
            "Where in them is something?": _predictions.set_maps_answer(results),
        }
        return {question: one for question, one in kept.items() if one is not None}
    every = {
        "What is the data?": _data.answer(results),
        "What does the network give, and does it tell the classes apart?": _heads.answer(results),
        "Which neurons detect the classes?": _answers.detectors_answer(results),
        "Do their maps show where the object is?": _answers.maps_answer(results),
    }
    return {question: one for question, one in every.items() if one is not None}


def answers(results: Results) -> dict[str, str]:
    """The four questions that the page opens with, each with its answer in a sentence or two.

    Parameters
    ----------
    results : Results

    Returns
    -------
    dict of str to str
        Plain text, names of classes as they are.
    """
    return {
        question: Markup(f"{one.verdict}: {one.text}" if one.verdict else one.text).striptags()
        for question, one in answered(results).items()
    }


def provenance(results: Results, options: Options) -> Section:
    """What was called, how long it took, and the lines of Python that do the same."""
    seconds = [[words.stage(k), words.number(v, 1)] for k, v in results.seconds.items()]
    return Section(
        "provenance",
        "Provenance and how to reproduce",
        "provenance.html",
        facts={"commands": commands(results), "python_lines": python_lines(results)},
        tables={
            "seconds": table(_TIME, ["Stage", "Seconds"], seconds),
            "provenance": _methods.provenance_table(results, essentials=False),
        },
        link="Provenance",
    )


# ---------------------------------------------------------------------------------- without labels


def clusters(results: Results, options: Options) -> Section | None:
    """Clusters of a set without labels, on a plane, with their typical pictures."""
    made = results.clusters
    if not results.unlabelled:
        return None
    title, link = "The set at a glance: clusters", "Clusters"
    facts: dict[str, Any] = {"answer": clusters_answer(results), "made": made is not None}
    if made is None:
        return Section("clusters", title, "clusters.html", facts=facts, link=link)
    plane = made.embedding
    names = made.images["cluster"]
    typical = [row for row, picture in made.pictures.items() if picture is not None]
    captions = [f"{names.iloc[row]}" for row in typical]
    pictures = [made.pictures[row] for row in typical]
    figures = {
        "plane": Figure(
            partial(plots.embedding_scatter, plane, names, what="cluster"),
            f"t-SNE plane of {words.plural(len(plane), 'image')}, coloured by cluster.",
            "Every image laid out as a dot, coloured by its cluster: near dots are images that the "
            "network sees alike. Distances between far groups mean nothing.",
            "clusters",
        ),
        "typical": Figure(
            partial(
                plots.sample_pictures, pictures, captions, [_NO_BOX] * len(pictures), columns=5
            ),
            f"{len(pictures)} typical pictures, those nearest to the centres of the clusters.",
            "The most typical pictures of each cluster: those nearest to its centre.",
            "cluster_pictures",
            pictures=True,
        ) if typical else None,
    }  # fmt: skip
    return Section(
        "clusters",
        title,
        "clusters.html",
        facts=facts,
        tables={"clusters": cluster_table(made)},
        figures=figures,
        files={
            "clusters": made.table,
            "cluster_images": made.images,
            "cluster_neurons": made.neurons,
            "cluster_numbers": made.choice,
            "embedding": made.images[["path", "cluster"]].join(plane.coordinates, how="right"),
        },
        link=link,
    )


@claim("clusters")
def clusters_answer(results: Results) -> Markup:
    """How many clusters there are, by which rule, and how far they are apart."""
    made = results.clusters
    if made is None:
        if not results.unlabelled:
            return Markup("")
        return Markup("No clusters: {}.").format(results.left_out["clusters"])
    best = made.choice["silhouette"].max()
    return Markup(
        "{}: {} from the largest to the smallest. Of the numbers tried ({} to {}) this has the "
        "largest mean silhouette, {} of 1."
    ).format(
        words.plural(len(made.table), "cluster"),
        ", ".join(f"{int(n):,}" for n in made.table["n"]) + " images",
        int(made.choice["clusters"].min()),
        int(made.choice["clusters"].max()),
        words.number(best),
    )


def cluster_table(made: Clusters) -> Table | None:
    """The clusters: how large, the most typical picture, the neurons that tell each."""
    rows = []
    for _, row in made.table.iterrows():
        neurons = made.neurons[made.neurons["cluster"] == row["cluster"]].head(_CLUSTER_NEURONS)
        texts = [f"{n} ({words.score(a)})" for n, a in zip(neurons["neuron"], neurons["auroc"],
                                                        strict=True)]  # fmt: skip
        first = str(row["typical"]).partition("|")[0]
        rows.append([row["cluster"], f"{int(row['n']):,}", words.name(first), ", ".join(texts)])
    columns = ["Cluster", "Images", "Most typical", "Neurons that tell it (AUROC)"]
    return table("Clusters, the largest first", columns, rows, (0, 2, 3), file="cluster_neurons")


# ----------------------------------------------------------------------------------- the same again


def commands(results: Results) -> list[str]:
    """Every command that made something on the page, in the order of their work."""
    every = [str(results.store.provenance.get("command", ""))]
    if results.gradients is not None:
        every.append(str(results.gradients.facts.get("command", "")))
    if results.transfer is not None:
        every.append(str(results.transfer.about.get("command", "")))
    return [line for line in dict.fromkeys([*every, results.command]) if line]


_LISTED = (".csv", ".tsv", ".txt", ".lst", ".list")
_UNKNOWN = "# The store does not tell how the pictures were read: whether groups were named, say."


def python_lines(results: Results) -> str:
    """The Python that makes this page again: the pass of the network, then the analysis."""
    known = {key: str(value) for key, value in results.store.provenance.items()}
    return "\n".join(
        [
            "from featlab import backbones, extract, images",
            f"from featlab.pipeline import {', '.join(_called(known))}",
            "",
            *([] if "indexed" in known else [_UNKNOWN]),
            f"table, boxes, skipped = images.index_images({_index(results, known)})",
            f"backbone = backbones.load_backbone({_network(known)})",
            'store = extract.extract_maps(table, backbone, "maps.h5", boxes=boxes, skipped=skipped'
            f"{_pass(known)})",
            *_distinct(known),
            f"results = analyse(store{_analysis(results)})",
            'write_results(results, "results")',
        ]
    )


def _index(results: Results, known: dict[str, str]) -> str:
    """The source and how it was read; where the store does not say, a skipped file does."""
    given = words.indexed(known)
    given.pop("copies", None)
    folder, source = words.folder(results.store.images) or "my_pictures", given.pop("source", "")
    if "on_error" not in given and len(results.store.skipped):
        given["on_error"] = "skip"
    elif given.get("on_error") == "raise":  # as it is by itself
        del given["on_error"]
    listed = source.lower().endswith(_LISTED)
    place = posixpath.normpath(f"{folder}/{source}") if listed else folder
    columns = given.pop("columns", None)
    first = f"images.PictureTable({place!r}, {columns!r})" if columns else repr(place)
    return ", ".join([first, *(f"{name}={value!r}" for name, value in sorted(given.items()))])


def _network(known: dict[str, str]) -> str:
    name, weights = known.get("backbone", "efficientnet_lite0"), known.get("weights", "")
    arguments = [repr(name)]
    from_file = name.endswith((".keras", ".h5", ".hdf5"))
    if from_file:
        scaling = known.get("preprocessing", "").partition(":")[0]
        arguments.append(f"preprocessing={scaling!r}")
    elif weights.lower().startswith("random"):
        arguments.append("weights=None")
    elif weights.lower() not in ("", "imagenet"):
        arguments.append(f"weights={weights!r}")
    size = known.get("input_size", "").split(" x ")
    if len(size) == 2 and not from_file:
        arguments.append(f"input_size=({size[0]}, {size[1]})")
    if "layers" in known:
        arguments.append(f"layers={json.loads(known['layers'])!r}")
    if known.get("output_stride", "").isdigit():
        arguments.append(f"output_stride={known['output_stride']}")
    if known.get("precision", "float32") != "float32":
        arguments.append(f"precision={known['precision']!r}")
    return ", ".join(arguments)


def _called(known: dict[str, str]) -> list[str]:
    return ["analyse", *(["distinct_store"] if _distinct(known) else []), "write_results"]


def _distinct(known: dict[str, str]) -> list[str]:
    """The line that leaves copies out, where they were."""
    if not words.indexed(known).get("copies"):
        return []
    return [f'store = distinct_store(store, backbone, "distinct.h5"{_pass(known)})']


def _pass(known: dict[str, str]) -> str:
    usual = {"resize": "stretch", "dtype": "float16"}
    changed = {key: known[key] for key in usual if known.get(key, usual[key]) != usual[key]}
    options = ", ".join(f"{key}={value!r}" for key, value in changed.items())
    return f", options=extract.PassOptions({options})" if options else ""


def _analysis(results: Results) -> str:
    several = len(results.store.boxes["kind"].unique()) > 1
    kind = f", box_kind={results.box_kind!r}" if several and results.box_kind else ""
    copies = "" if results.copies == "together" else f", copies={results.copies!r}"
    return f"{kind}{copies}, random_state={results.random_state}"
