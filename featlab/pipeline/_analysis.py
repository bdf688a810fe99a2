"""Every stage after the pass, in the order of the report."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from sklearn import config_context
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from featlab import (
    arguments,
    audit,
    boxheads,
    embed,
    features,
    heads,
    localise,
    neurons,
    report,
    splits,
)
from featlab.pipeline._card import neuron_card
from featlab.pipeline._examples import (
    GALLERY_DETECTORS,
    SHOWN_DETECTORS,
    detector_examples,
    gallery,
    localisation_examples,
    picture_loader,
    samples,
    strips,
    thumbnails,
)
from featlab.pipeline._laboratory import detector_laboratory
from featlab.pipeline._stages import (
    feature_tables,
    find_detectors,
    logistic_heads,
    main_rows,
    main_table,
    predicted_classes,
    weights_of_layers,
)
from featlab.results.analysis import BoxDetails, HeadDetails, Results, SetOverview
from featlab.results.boxheads import BoxHeadResults
from featlab.results.embed import Overview
from featlab.results.gradients import GradientResults
from featlab.results.heads import HeadResults
from featlab.results.localisation import Localisation
from featlab.results.pictures import NeuronCard
from featlab.results.transfer import Transfer
from featlab.store import MapStore
from featlab.system.machine import usable_cores
from featlab.system.workers import beside

LOCALISERS = (
    "detectors",
    "best_detector",
    "cam",
    "cam_positive",
    "sum",
    "ddt",
    "fusion",
    "cell_boxes",
    "random_neuron",
)
"""Heat-map methods that a report compares."""
REFINED = ("cell_boxes",)
_POINTING_DETECTORS = 10
_CARDS = 3
_REPEATS = 5  # draws of train images for each size of the learning curve
_FEWEST_BOXED = 30
_MOST_LOCALISED = 10_000  # images with boxes that thresholds are chosen on, and that are scored
_MOST_SENT = 2**26  # values of a table that is sent to another process
BOX_HEADS = ("cascade", "ridge_pca", "pls", "gradient_boosting")

P = ParamSpec("P")
T = TypeVar("T")
Progress = Callable[[Any], Any]


def analyse(
    store: MapStore,
    *,
    box_kind: str | None = None,
    random_state: int = 0,
    command: str = "",
    seconds: dict[str, float] | None = None,
    progress: Progress | None = None,
    gradients: GradientResults | None = None,
    transfer: Transfer | None = None,
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
    random_state : int
        Seed of the split, the heads, the bootstrap and the examples.
    command : str
        How the analysis was called, for the report.
    seconds : dict of str to float, optional
        Seconds of earlier stages; this function adds its own.
    progress : callable, optional
        Wraps the batches of maps that localisation reads.
    gradients, transfer : optional
        From `load_gradients` and `load_transfer`: what runs of the network found earlier, to be
        shown on the same page.

    Returns
    -------
    featlab.Results
    """
    seconds = {} if seconds is None else seconds
    labels, groups = store.images["label"], store.images["group"]
    truth = localise.select_boxes(store, box_kind)
    split = splits.make_split(store.images, random_state=random_state)
    load = picture_loader(store)
    with contextlib.ExitStack() as others:
        # More threads than cores that are free would wait for each other at every product.
        others.enter_context(threadpool_limits(max(1, usable_cores() - 1)))
        others.enter_context(_unchecked())
        box_heads = others.enter_context(_box_heads(store, split, box_kind, random_state))
        tables = feature_tables(store)
        X = main_table(tables)
        with _timed(seconds, "heads"):
            scores = heads.evaluate_heads(
                X,
                labels,
                split,
                colour=store.colour_histogram,
                groups=groups,
                random_state=random_state,
            )
            logistic = logistic_heads(tables, labels, split, groups, scores, random_state)
        with _timed(seconds, "neurons"):
            all_neurons = find_detectors(tables, labels, split, groups, random_state=random_state)
            table = main_rows(all_neurons, X)
            chosen_on = features.take_rows(X, split == "train")
            frequent = neurons.softmax_top_k(chosen_on, labels[split == "train"])
        with _timed(seconds, "detector details"):
            detector_details = detector_laboratory(
                store, split, tables, all_neurons, logistic, random_state
            )
        overview = others.enter_context(_overview(store, X, scores, random_state))
        with _timed(seconds, "localise"):
            looked_at = _looked_at(labels, split, truth, random_state)
            where = localise.evaluate(
                store,
                split,
                neurons=all_neurons[all_neurons["pooling"] == arguments.origin_of(X)[1]],
                weights=weights_of_layers(tables, logistic),
                layer=store.layers,
                predicted=predicted_classes(scores, X),
                methods=LOCALISERS,
                refine=REFINED,
                rows=looked_at,
                box_kind=box_kind,
                random_state=random_state,
                progress=progress,
            )
            where.table.attrs["n_boxed"] = int((split[truth["image"].unique()] == "test").sum())
        # Only the page asks for these: they run beside what is left to do here.
        learning = others.enter_context(
            _sent(
                heads.learning_curve,
                X,
                labels,
                split,
                groups=groups,
                n_repeats=_REPEATS,
                random_state=random_state,
            )
        )
        audited = others.enter_context(
            _beside(
                audit.audit_set,
                store,
                split,
                head_table=scores.table,
                neurons=table,
                box_kind=box_kind,
                random_state=random_state,
            )
        )
        with _timed(seconds, "units"):
            chosen = neurons.select_neurons(table, top=SHOWN_DETECTORS)
            test_rows = np.flatnonzero((split == "test") & looked_at)
            units = localise.unit_localisation(
                store,
                table,
                np.flatnonzero((split != "train") & looked_at),
                box_kind=box_kind,
                random_state=random_state,
            )
            pointing = localise.neuron_pointing(
                store, table, test_rows, box_kind=box_kind, top=_POINTING_DETECTORS
            )
        with _timed(seconds, "examples"):
            leaders = neurons.select_neurons(table, top=GALLERY_DETECTORS)
            cards = _cards(store, table, chosen, split)
            shown: dict[str, Any] = {
                "samples": samples(store, load, truth, random_state),
                "detector_examples": detector_examples(
                    store, load, truth, scores, chosen, random_state
                ),
                "localisation_examples": localisation_examples(store, load, truth, where),
                "failures": localisation_examples(store, load, truth, where, worst=True),
                "cards": [card for _, card in cards],
                "card_neurons": [pair for pair, _ in cards],
                "strips": strips(store, load, truth, where),
                "gallery": gallery(store, load, truth, split, where, leaders, random_state),
            }
        with _timed(seconds, "glance"):
            glance = _glance(store, overview(), load, random_state)
        with _timed(seconds, "box heads"):
            regressed = _box_laboratory(store, where, box_kind, box_heads)
        with _timed(seconds, "audit"):
            found = audited()
        with _timed(seconds, "learning curve"):
            details = HeadDetails(
                head="logistic",
                pairs=heads.compare_all(scores, random_state=random_state),
                calibration=heads.calibration_table(scores, "logistic"),
                learning=learning(),
            )
    return Results(
        store=store,
        split=split,
        heads=scores,
        per_class=heads.per_class(scores, "logistic"),
        head_details=details,
        glance=glance,
        gradients=gradients,
        transfer=transfer,
        box_details=regressed,
        neurons=table,
        all_neurons=all_neurons,
        detector_details=detector_details,
        audit=found,
        softmax_top_k=frequent,
        localisation=where,
        pointing=pointing if len(pointing) else None,
        units=units if len(units) else None,
        seconds=seconds,
        box_kind=box_kind or _only_kind(store.boxes),
        command=command,
        random_state=random_state,
        backbone_description=str(store.provenance.get("description", "")),
        **shown,
    )


def _looked_at(
    labels: pd.Series, split: pd.Series, truth: pd.DataFrame, random_state: int
) -> np.ndarray:
    """All images but what a random sample of confirm and of test images with boxes leaves out.

    The boxes of an image at every threshold and by every method take 125 kB.
    """
    kept = np.ones(len(split), dtype=bool)
    boxed = np.isin(np.arange(len(split)), truth["image"])
    for side in ("confirm", "test"):
        rows = np.flatnonzero(boxed & (split == side))
        sample = arguments.stratified_rows(labels.iloc[rows], _MOST_LOCALISED, random_state)
        kept[np.delete(rows, sample)] = False
    return kept


def _sent(
    call: Callable[Concatenate[pd.DataFrame, P], T],
    X: pd.DataFrame,
    *args: P.args,
    **kwargs: P.kwargs,
) -> AbstractContextManager[Callable[[], T]]:
    """A call on a table, begun in another process unless the table is too large to be sent."""
    if X.size > _MOST_SENT:
        return contextlib.nullcontext(partial(call, X, *args, **kwargs))
    return _beside(call, X, *args, **kwargs)


def _beside(
    call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> AbstractContextManager[Callable[[], T]]:
    return beside(_call_unchecked, partial(call, *args, **kwargs))


def _call_unchecked(call: Callable[[], T]) -> T:
    with _unchecked():
        return call()


def _unchecked() -> AbstractContextManager[None]:
    """Thousands of small models are fitted, on values that the store has checked."""
    return config_context(assume_finite=True, skip_parameter_validation=True)


def _box_heads(
    store: MapStore,
    split: pd.Series,
    box_kind: str | None,
    random_state: int,
) -> AbstractContextManager[Callable[[], BoxHeadResults | None]]:
    """Boxes by regression, begun in a process of their own; None where too few images have one."""
    boxed = localise.select_boxes(store, box_kind)["image"].unique()
    if len(boxed):
        boxed = boxheads.box_statistics(store, box_kind)["image"].unique()
    parts = split.to_numpy(str)[boxed]
    if (parts != "test").sum() < _FEWEST_BOXED or not (parts == "test").any():
        return contextlib.nullcontext(lambda: None)
    return _beside(
        boxheads.evaluate_box_heads,
        store,
        split,
        box_kind=box_kind,
        heads=BOX_HEADS,
        random_state=random_state,
    )


def _box_laboratory(
    store: MapStore,
    where: Localisation,
    box_kind: str | None,
    box_heads: Callable[[], BoxHeadResults | None],
) -> BoxDetails | None:
    """What the boxes look like, boxes by regression, and the heat maps' boxes in pairs."""
    if where.table.empty:
        return None
    found = box_heads()
    return BoxDetails(
        statistics=boxheads.box_statistics(store, box_kind),
        heads=None if found is None else found.table,
        pairs=localise.compare_methods(where, scores=["box_accuracy"]),
    )


def _overview(
    store: MapStore, X: pd.DataFrame, scores: HeadResults, random_state: int
) -> AbstractContextManager[Callable[[], Overview | None]]:
    """The images on a plane, where there are enough of them to lie on one."""
    if len(store) < embed.LEAST_IMAGES:
        return contextlib.nullcontext(lambda: None)
    return _sent(
        embed.overview,
        X,
        store.images["label"],
        scores.of("logistic"),
        random_state=random_state,
    )


def _glance(
    store: MapStore,
    found: Overview | None,
    load: Callable[[int], np.ndarray | None],
    random_state: int,
) -> SetOverview | None:
    """The plane with pictures: those that it names, and others."""
    if found is None:
        return None
    first = [*found.embedding.thumbnails["row"]]
    if found.misclassified is not None:
        first += [*found.misclassified["row"]]
    return SetOverview(found, thumbnails(store, load, first, random_state))


def _cards(
    store: MapStore, table: pd.DataFrame, chosen: pd.DataFrame, split: pd.Series
) -> list[tuple[tuple[str, int], NeuronCard]]:
    """A card of the lead detector of the first classes, on images it was not chosen on."""
    unseen = np.flatnonzero(split != "train")
    leaders = chosen.drop_duplicates("class").head(_CARDS)
    return [
        (
            (str(row["class"]), int(row["neuron"])),
            neuron_card(store, int(row["neuron"]), table, label=row["class"], rows=unseen),
        )
        for _, row in leaders.iterrows()
    ]


def write_results(results: Results, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Report, tables and summary; returns the summary."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _timed(results.seconds, "report"):  # type: ignore[arg-type]
        report.write_report(results, folder / "report.html")
    return report.write_summary(results, folder / "summary.json")


def _only_kind(boxes: pd.DataFrame) -> str | None:
    kinds = boxes["kind"].unique()
    return str(kinds[0]) if len(kinds) == 1 else None


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 3)
