"""Every stage after the pass, in the order of the report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featlab import embed, predict, report
from featlab.arguments import CROWD, Progress, confirmed_detectors, is_unlabelled, true_boxes
from featlab.audit import audit_set, duplicates
from featlab.boxheads import box_statistics, evaluate_box_heads
from featlab.embed.planes import LEAST_IMAGES
from featlab.features import take_rows
from featlab.heads import (
    calibration,
    compare_heads,
    evaluate_heads,
    learning_curve,
    per_class,
)
from featlab.localise import (
    LocalisationOptions,
    evaluate_localisation,
    unit_localisation,
)
from featlab.localise.detectors import neuron_pointing
from featlab.neurons import softmax_top_k
from featlab.pipeline import pictures, sets
from featlab.pipeline.detectors import (
    LOCALISERS,
    POOLINGS,
    Place,
    box_pairs,
    detector_details,
    feature_tables,
    find_detectors,
    layer_weights,
    main_place,
    neuron_card,
    place_heads,
    predicted_classes,
    rows_of,
)
from featlab.pipeline.scheduler import Stage, on_cluster, run_stages, timed
from featlab.pipeline.stores import with_copies
from featlab.results.analysis import BoxDetails, HeadDetails, HeadResults, Results, SetOverview
from featlab.results.images import Audit, Overview
from featlab.results.localisation import BoxHeadResults, Localisation
from featlab.results.networks import GradientResults, Transfer
from featlab.results.pictures import NeuronCard
from featlab.splits import make_split
from featlab.store import MapStore

REFINED = ("cell_boxes",)
BOX_HEADS = ("cascade", "ridge_pca", "pls", "gradient_boosting")
_POINTING_DETECTORS = 10
_CARDS = 3
_REPEATS = 5  # draws of train images for each size of the learning curve
_FEWEST_BOXED = 30


def analyse(
    store: MapStore,
    *,
    box_kind: str | None = None,
    copies: str = "together",
    random_state: int = 0,
    command: str = "",
    seconds: Mapping[str, float] | None = None,
    progress: Progress | None = None,
    gradients: GradientResults | None = None,
    transfer: Transfer | None = None,
    client: Any | None = None,
) -> Results:
    """Split, audit, heads, detectors, localisation and example pictures of a store.

    Heads and detectors rest on the mean-pooled maps of the last layer; the other poolings and
    layers stand in the neuron table, in one corrected family, and are compared with it. Heat maps
    of several layers are fused.

    Parameters
    ----------
    store : MapStore
    box_kind : str, optional
        Which kind of box is the truth, where the store has several.
    copies : {"together", "split"}
        Whether the copies of a picture are one group, which no split and no test takes for
        independent images, or images like all others.
    random_state : int
        Seed of the split, the heads, the bootstrap and the examples.
    command : str
        How the analysis was called, for the report.
    seconds : mapping of str to float, optional
        Seconds of earlier stages, to be told with those of this function.
    progress : callable, optional
        Wraps the batches of maps that localisation reads.
    gradients, transfer : optional
        What runs of the network gave earlier (their `load`), for the same page.
    client : distributed.Client, optional
        Of a Dask cluster, whose workers rank neurons and match heat maps with boxes.

    Returns
    -------
    featlab.Results
    """
    looking: dict[str, float] = {}
    with timed(looking, "copies"):
        pairs = duplicates(store)
        store = with_copies(store, copies, pairs)
    given: dict[str, Any] = {
        "store": store,
        "pairs": pairs,
        "labels": store.images["label"],
        "groups": store.images["group"],
        "truth": true_boxes(store.images, store.boxes, box_kind),
        "split": make_split(store.images, random_state=random_state),
        "box_kind": box_kind,
        "box_heads": BOX_HEADS,
        "random_state": random_state,
        "progress": progress,
        **pictures.loaders(store),
    }
    left_out = {"unlabelled": "the pictures have labels"}
    if is_unlabelled(given["labels"]):
        # What needs labels is left out, with all that rests on it.
        left_out = dict.fromkeys(("labels", "box_heads"), "the pictures have no labels")
    given = {name: value for name, value in given.items() if name not in left_out}
    with on_cluster(client):
        made, own = run_stages(STAGES, given | {"unlabelled": True}, left_out)
    stages = {stage.name for stage in STAGES}
    results = Results(
        store=store,
        split=given["split"],
        seconds={**(seconds or {}), **looking, **own},
        box_kind=box_kind or _only_kind(store.boxes),
        copies=copies,
        command=command,
        random_state=random_state,
        backbone_description=str(store.provenance.get("description", "")),
        gradients=gradients,
        transfer=transfer,
        boxed_test_images=int((given["split"][given["truth"]["image"].unique()] == "test").sum()),
        left_out={name: why for name, why in left_out.items() if name in stages}
        | sets.without_clusters(made, len(store))
        | getattr(made.get("in_use"), "left_out", {}),
        **sets.heads_and_neurons(made),
        **{field.name: made[field.name] for field in fields(Results) if field.name in made},
    )
    return replace(results, answers=report.overview.answers(results))


def write_results(results: Results, folder: str | os.PathLike[str]) -> list[Path]:
    """Write page, tables, predictor (``model.featlab``), and the summary with the seconds.

    Returns
    -------
    list of Path
        ``report.html`` and ``summary.json``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (made := results.predictions) is not None and made.predictor is not None:
        made.predictor.save(folder / predict.MODEL)
    seconds = dict(results.seconds)
    with timed(seconds, "report"):
        report.write_report(results, folder / "report.html")
    seconds["report"] = round(seconds["report"], 3)
    report.page.write_summary(replace(results, seconds=seconds), folder / "summary.json")
    return [folder / "report.html", folder / "summary.json"]


def _only_kind(boxes: pd.DataFrame) -> str | None:
    kinds = boxes.loc[boxes["kind"] != CROWD, "kind"].unique()
    return str(kinds[0]) if len(kinds) == 1 else None


def _box_regression(
    store: MapStore,
    split: pd.Series,
    truth: pd.DataFrame,
    box_kind: str | None,
    box_heads: Sequence[str],
    random_state: int,
) -> BoxHeadResults | None:
    """Boxes by regression; None where too few images have one."""
    boxed = truth["image"].unique()
    if len(boxed):
        boxed = box_statistics(store, box_kind)["image"].unique()
    sides = split.to_numpy(str)[boxed]
    if (sides != "test").sum() < _FEWEST_BOXED or not (sides == "test").any():
        return None
    return evaluate_box_heads(
        store, split, box_kind=box_kind, heads=box_heads, random_state=random_state
    )


def _heads(
    store: MapStore, X: pd.DataFrame, labels: pd.Series, split: pd.Series, random_state: int
) -> HeadResults:
    return evaluate_heads(
        X,
        labels,
        split,
        colour=store.colour_histogram,
        groups=store.images["group"],
        random_state=random_state,
    )


def _all_neurons(
    store: MapStore,
    tables: Mapping[Place, pd.DataFrame],
    labels: pd.Series,
    split: pd.Series,
    groups: pd.Series,
    random_state: int,
) -> pd.DataFrame:
    table = find_detectors(list(tables.values()), labels, split, groups, random_state=random_state)
    return sets.with_votes(store, table, random_state)


def _softmax_top_k(X: pd.DataFrame, labels: pd.Series, split: pd.Series) -> pd.DataFrame:
    train = split == "train"
    return softmax_top_k(take_rows(X, train), labels[train])


def _overview(
    X: pd.DataFrame, labels: pd.Series, heads: HeadResults, random_state: int
) -> Overview | None:
    """The images on a plane, where there are enough of them to lie on one."""
    if len(X) < LEAST_IMAGES:
        return None
    return embed.overview(X, labels, heads.of("logistic"), random_state=random_state)


def _localisation(
    store: MapStore,
    split: pd.Series,
    by_place: Mapping[Place, HeadResults],
    all_neurons: pd.DataFrame,
    predicted: np.ndarray,
    localised: np.ndarray,
    box_kind: str | None,
    random_state: int,
    progress: Progress | None,
) -> Localisation:
    return evaluate_localisation(
        store,
        split,
        methods=LOCALISERS,
        neurons=all_neurons[all_neurons["pooling"] == POOLINGS[0]],
        weights=layer_weights(by_place),
        layer=store.layers,
        box_kind=box_kind,
        options=LocalisationOptions(
            rows=localised, refine=REFINED, predicted=predicted, progress=progress
        ),
        random_state=random_state,
    )


def _learning_curve(
    X: pd.DataFrame, labels: pd.Series, split: pd.Series, groups: pd.Series, random_state: int
) -> pd.DataFrame:
    return learning_curve(
        X, labels, split, groups=groups, n_repeats=_REPEATS, random_state=random_state
    )


def _box_curve(
    store: MapStore,
    split: pd.Series,
    localised: np.ndarray,
    box_kind: str | None,
    random_state: int,
) -> pd.DataFrame:
    return sets.box_curve(
        store, split, box_kind=box_kind, rows=localised, random_state=random_state
    )


def _audit(
    store: MapStore,
    split: pd.Series,
    heads: HeadResults,
    neurons: pd.DataFrame,
    pairs: pd.DataFrame,
    box_kind: str | None,
    random_state: int,
) -> Audit:
    return audit_set(
        store,
        split,
        head_table=heads.table,
        neurons=neurons,
        pairs=pairs,
        box_kind=box_kind,
        random_state=random_state,
    )


def _units(
    store: MapStore,
    split: pd.Series,
    neurons: pd.DataFrame,
    localised: np.ndarray,
    box_kind: str | None,
    random_state: int,
) -> pd.DataFrame | None:
    """What the detectors fire on, in images that they were not chosen on."""
    units = unit_localisation(
        store,
        (split != "train").to_numpy() & localised,
        neurons,
        box_kind=box_kind,
        random_state=random_state,
    )
    return units if len(units) else None


def _pointing(
    store: MapStore,
    split: pd.Series,
    neurons: pd.DataFrame,
    localised: np.ndarray,
    box_kind: str | None,
) -> pd.DataFrame | None:
    rows = (split == "test").to_numpy() & localised
    pointing = neuron_pointing(store, rows, neurons, box_kind=box_kind, most=_POINTING_DETECTORS)
    return pointing if len(pointing) else None


def _cards(
    store: MapStore, split: pd.Series, neurons: pd.DataFrame, detectors: pd.DataFrame
) -> list[NeuronCard]:
    """A card of the lead detector of the first classes, on images it was not chosen on."""
    unseen = (split != "train").to_numpy()
    leaders = detectors.drop_duplicates("class").head(_CARDS)
    return [
        neuron_card(
            store, int(row["neuron"]), neurons, label=row["class"], layer=row["layer"], rows=unseen
        )
        for _, row in leaders.iterrows()
    ]


def _set_overview(
    store: MapStore, small: pictures.Load, overview: Overview | None, random_state: int
) -> SetOverview | None:
    """The plane with pictures: those that it names, and others."""
    if overview is None:
        return None
    named = [*overview.embedding.thumbnails["row"]]
    if overview.misclassified is not None:
        named += [*overview.misclassified["row"]]
    return SetOverview(overview, pictures.thumbnails(store, small, named, random_state))


def _box_details(
    store: MapStore,
    localisation: Localisation,
    box_regression: BoxHeadResults | None,
    box_curve: pd.DataFrame,
    box_kind: str | None,
    groups: pd.Series,
    random_state: int,
) -> BoxDetails | None:
    """What the boxes look like, boxes by regression, and the heat maps' boxes in pairs."""
    if localisation.table.empty:
        return None
    return BoxDetails(
        statistics=box_statistics(store, box_kind),
        heads=None if box_regression is None else box_regression.table,
        pairs=box_pairs(localisation, groups.to_numpy(str), random_state),
        curve=box_curve,
    )


def _in_use(
    store: MapStore,
    split: pd.Series,
    heads: HeadResults,
    neurons: pd.DataFrame,
    localisation: Localisation,
    box_regression: BoxHeadResults | None,
    box_kind: str | None,
    random_state: int,
) -> Results:
    """What a predictor is made of, with it and with the pictures for the top of the page."""
    known: dict[str, Any] = {"localisation": localisation, "box_regression": box_regression}
    known |= {"box_kind": box_kind or _only_kind(store.boxes), "random_state": random_state}
    results = Results(store, split, heads, neurons, **known)
    return pictures.with_showcase(pictures.with_predictions(results))


def _head_details(heads: HeadResults, learning: pd.DataFrame, random_state: int) -> HeadDetails:
    pairs = compare_heads(heads, random_state=random_state)
    return HeadDetails("logistic", pairs, calibration(heads, "logistic"), learning)


STAGES = (
    # Beside: begun once what it needs is there, the longest first, there and by who has to wait.
    Stage("box_regression", _box_regression, "box heads", beside=True),
    Stage("localised", sets.localised_rows, "localise"),
    Stage("box_curve", _box_curve, "boxes drawn", beside=True),
    Stage("tables", feature_tables, "features"),
    Stage("X", lambda store, tables: tables[main_place(store)], "features"),
    Stage("heads", _heads, "heads"),
    Stage("by_place", place_heads, "heads"),
    Stage("predicted", predicted_classes, "heads"),
    Stage("per_class", lambda heads: per_class(heads, "logistic"), "heads"),
    Stage("all_neurons", _all_neurons, "neurons"),
    Stage("neurons", lambda store, all_neurons: rows_of(all_neurons, main_place(store)), "neurons"),
    Stage("detectors", confirmed_detectors, "neurons"),
    Stage("softmax_top_k", _softmax_top_k, "neurons"),
    Stage("overview", _overview, "overview", beside=True),
    Stage("learning", _learning_curve, "learning curve", beside=True),
    Stage("audit", _audit, "audit", beside=True),
    Stage("audit", sets.audit_without_labels, "audit"),
    Stage("detector_details", detector_details, "detector details", beside=True),
    Stage("localisation", _localisation, "localise"),
    Stage("own", sets.own_classes, "own classes"),
    Stage("own_examples", sets.own_examples, "own classes"),
    Stage("clusters", sets.clusters, "clusters"),
    Stage("set_maps", sets.set_maps, "localise"),
    Stage("units", _units, "units"),
    Stage("pointing", _pointing, "units"),
    Stage("samples", pictures.samples, "examples"),
    Stage("detector_examples", pictures.detector_examples, "examples"),
    Stage("localisation_examples", pictures.localisation_examples, "examples"),
    Stage("failures", pictures.failures, "examples"),
    Stage("cards", _cards, "examples"),
    Stage("method_examples", pictures.method_examples, "examples"),
    Stage("gallery", pictures.gallery, "examples"),
    Stage("portraits", pictures.portraits, "examples"),
    Stage("regression_failures", pictures.regression_failures, "examples"),
    Stage("in_use", _in_use, "predictor"),
    Stage("predictions", lambda in_use: in_use.predictions, "predictor"),
    Stage("showcase", lambda in_use: in_use.showcase, "predictor"),
    Stage("set_overview", _set_overview, "overview"),
    Stage("box_details", _box_details, "box heads"),
    Stage("head_details", _head_details, "learning curve"),
)
"""An analysis after the pass; what bears the name of a field of `Results` becomes that."""
