"""The first and the last section of the report: answers in short, and how to make it again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from featlab import plots
from featlab.arguments import confirmed_detectors, selected_detectors, with_unseen_limits
from featlab.report import _answers, _data, _heads, _methods, _predictions
from featlab.report import _words as words
from featlab.report._elements import Figure, Options, Section, Table, table
from featlab.report._words import Claim, claim
from featlab.results.analysis import Results
from featlab.results.images import Audit, Clusters
from featlab.system.files import plain

# Verdict → what stands in the strip: a sign that needs no colour, and a word.
_SIGNS = {"fail": "✕", "warn": "!", "pass": "✓", "not done": "–"}
_OWN_CLASSES, _CLUSTER_NEURONS = 3, 4
_TIME = "Time taken; of a stage in a process of its own, what it was waited for"
_NO_BOX = np.zeros((0, 4))
_WORST_FIRST = tuple(_SIGNS)
_VERBS = (("fails", "fail"), ("warns", "warn"), ("passes", "pass"), ("not done", "not done"))


@dataclass(frozen=True)
class Check:
    """A check of the audit, as the strip shows it."""

    name: str
    verdict: str
    sign: str
    finding: str


def overview(results: Results, options: Options) -> Section:
    """Four questions, each answered in a sentence or two, under the verdicts of the audit."""
    every = [] if results.audit is None else checks(results.audit)
    return Section(
        "answers",
        "In short",
        "answers.html",
        facts={
            "checks": every,
            "checks_verdict": verdict(results),
            "answers": answered(results),
        },
    )


@claim("lead")
def lead(results: Results) -> str:
    """What the page is about, under its title."""
    weights = str(results.store.provenance.get("weights", ""))
    trained = "random" if weights.lower().startswith(("random", "none")) else "pretrained"
    if results.unlabelled:
        n = words.plural(len(results.store.images), "image")
        return f"What a frozen, {trained} network sees in {n} without labels."
    where = "" if _answers.scored(results) is None else ", and where in the picture they look"
    return (
        f"What a frozen, {trained} network knows about "
        f"{words.plural(len(results.store.images), 'image')}, which of its neurons know it{where}."
    )


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
        question: Markup(f"{one.verdict}. {one.text}" if one.verdict else one.text).striptags()
        for question, one in answered(results).items()
    }


def provenance(results: Results, options: Options) -> Section:
    """What was called, how long it took, and the lines of Python that do the same."""
    seconds = [[words.readable(k), words.number(v, 1)] for k, v in results.seconds.items()]
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


def checks(audit: Audit) -> list[Check]:
    """The checks of the audit, the worst verdict first."""
    every = [
        Check(
            words.readable(row["check"]),
            str(row["verdict"]),
            _SIGNS.get(str(row["verdict"]), "–"),
            str(row["finding"]),
        )
        for _, row in audit.summary.iterrows()
    ]
    return sorted(every, key=lambda check: _WORST_FIRST.index(check.verdict))


@claim("checks of the set")
def verdict(results: Results) -> str:
    """How many checks fail, warn and pass, in one sentence."""
    every = [] if results.audit is None else checks(results.audit)
    if not every:
        return ""
    counts = {word: sum(check.verdict == word for check in every) for word in _WORST_FIRST}
    said = [
        f"{count} {one if count == 1 else many}"
        for (one, many), count in zip(_VERBS, counts.values(), strict=True)
        if count
    ]
    return f"{words.plural(len(every), 'check')} of the set: {', '.join(said)}."


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
        tables={"clusters": _cluster_table(made)},
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


def _cluster_table(made: Clusters) -> Table | None:
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
    place = f"{folder}/{source}" if source.lower().endswith(".csv") else folder
    return ", ".join([repr(place), *(f"{name}={value!r}" for name, value in sorted(given.items()))])


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


# ------------------------------------------------------------------------------- for other programs


def summary(results: Results) -> dict[str, Any]:
    """The figures that matter, without the tables.

    Parameters
    ----------
    results : Results

    Returns
    -------
    dict
        ``n_images, classes, backbone, map_shape`` (height, width, neurons of the last layer),
        ``heads`` (head → accuracy, low, high, n), ``detectors`` (class → n, best_neuron,
        auroc_selected, auroc_confirmed with its interval; being confirmed flatters it, so beside it
        n_selected and auroc_unseen_of_selected, the median of all selected),
        ``without_p`` (reason → pairs of class and neuron), ``localisation`` (method →
        box_accuracy, mean_iou, n), ``own_classes`` (class of the network's own → images that it
        calls so first, share; the three commonest), ``predicted_boxes`` (method, whether scored,
        where no box chose its threshold how that rule did elsewhere, and where they are known
        mean_iou and box_accuracy on test images: value, low, high, n), ``refitted_on`` (labelled
        images that ``model.featlab`` was fitted on after it was scored; 0 where it is the model
        that was scored), ``seconds`` (of each stage). None stands for what is not there or no
        number.
    """
    store = results.store
    confirmed = with_unseen_limits(confirmed_detectors(results.neurons))
    selected = selected_detectors(results.neurons)
    scores, predictions = _answers.scored(results), results.predictions
    if scores is not None:
        rows = scores.table
    else:  # without labels
        rows = pd.DataFrame() if results.set_maps is None else results.set_maps.table
    return plain(
        {
            "n_images": len(store.images),
            "classes": [str(name) for name in store.classes if name],
            "backbone": store.provenance.get("backbone"),
            "map_shape": list(store.map_shape()),
            "heads": {str(row["head"]): _head(row) for _, row in results.heads.table.iterrows()},
            "detectors": {
                str(name): _detectors(*(t[t["class"].eq(str(name))] for t in (confirmed, selected)))
                for name in store.classes
                if name
            },
            "without_p": _without_p(results.every_neuron),
            "localisation": {str(row["method"]): _boxes(row) for _, row in rows.iterrows()},
            "own_classes": {} if results.own is None else _own(results.own.called),
            "predicted_boxes": {} if predictions is None else predictions.about_boxes,
            "refitted_on": 0 if predictions is None else predictions.refitted,
            "clusters": _cluster_sizes(results),
            "left_out": dict(results.left_out),
            "seconds": dict(results.seconds),
        }
    )


def _cluster_sizes(results: Results) -> dict[str, int]:
    """Cluster → images."""
    if results.clusters is None:
        return {}
    table = results.clusters.table
    return {str(name): int(n) for name, n in zip(table["cluster"], table["n"], strict=True)}


def _own(called: pd.DataFrame) -> dict[str, Any]:
    """What the network calls most of the pictures."""
    whole = called[called["label"].eq("")].head(_OWN_CLASSES)
    return {
        str(row["own_class"]): {"images": int(row["images"]), "share": row["share"]}
        for _, row in whole.iterrows()
    }


def _head(row: pd.Series) -> dict[str, Any]:
    return {
        "accuracy": row["accuracy"],
        "low": row["accuracy_low"],
        "high": row["accuracy_high"],
        "n": int(row["n"]),
    }


def _without_p(neurons: pd.DataFrame) -> dict[str, int]:
    """Why rows have no p → how many."""
    if neurons.empty:  # of a set without labels: no neuron was tested
        return {}
    without = neurons.loc[neurons["p"].isna(), "reason"].value_counts()
    return {str(why): int(n) for why, n in without.items()}


def _detectors(of_class: pd.DataFrame, selected: pd.DataFrame) -> dict[str, Any]:
    """How many there are, the best of them, and all that were selected."""
    best = of_class.iloc[0] if len(of_class) else None
    return {
        "n": len(of_class),
        "best_neuron": None if best is None else int(best["neuron"]),
        "auroc_selected": None if best is None else best["auroc"],
        **{
            name: None if best is None else best[name]
            for name in ("auroc_confirmed", "auroc_confirmed_low", "auroc_confirmed_high")
        },
        "n_selected": len(selected),
        "auroc_unseen_of_selected": selected["auroc_confirmed"].median(),
    }


def _boxes(row: pd.Series) -> dict[str, Any]:
    return {**row[["box_accuracy", "mean_iou"]], "n": int(row["n"])}
