"""Every stage after the pass, in the order of the report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from featlab import audit, boxheads, embed, features, heads, localise, neurons, report, splits
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
from featlab.plots import NeuronCard
from featlab.store import MapStore

if TYPE_CHECKING:
    from featlab.finetune import Transfer
    from featlab.pipeline._gradient_results import GradientResults

POOLINGS = ("mean", "max")
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
_SHUFFLES = 5
_CARDS = 3
_REPEATS = 5  # draws of train images for each size of the learning curve
_FEWEST_BOXED = 30
BOX_HEADS = ("cascade", "ridge_pca", "pls", "gradient_boosting")
_ABLATED = 50  # detectors per class that the ablation takes out, best first

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
) -> report.Results:
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
    featlab.report.Results
    """
    seconds = {} if seconds is None else seconds
    labels, groups = store.images["label"], store.images["group"]
    split = splits.make_split(store.images, random_state=random_state)
    tables = feature_tables(store)
    X = tables[-len(POOLINGS)]
    with _timed(seconds, "heads"):
        scores = heads.evaluate_heads(
            X,
            labels,
            split,
            colour=store.colour_histogram,
            groups=groups,
            random_state=random_state,
        )
        details = _head_details(X, labels, split, groups, scores, random_state)
    with _timed(seconds, "neurons"):
        all_neurons = find_detectors(tables, labels, split, groups, random_state=random_state)
        table = main_rows(all_neurons, X)
        frequent = neurons.softmax_top_k(X[split == "train"], labels[split == "train"])
    with _timed(seconds, "laboratory"):
        laboratory = _laboratory(store, split, tables, all_neurons, random_state)
    with _timed(seconds, "audit"):
        found = audit.audit_set(
            store,
            split,
            head_table=scores.table,
            neurons=table,
            box_kind=box_kind,
            random_state=random_state,
        )
    with _timed(seconds, "localise"):
        where = localise.evaluate(
            store,
            split,
            neurons=all_neurons[all_neurons["pooling"] == X.attrs["pooling"]],
            weights=_weights_of_layers(store, tables, split, scores, random_state),
            layer=store.layers,
            predicted=predicted_classes(scores, X),
            methods=LOCALISERS,
            refine=REFINED,
            box_kind=box_kind,
            random_state=random_state,
            progress=progress,
        )
        chosen = neurons.select_neurons(table, top=SHOWN_DETECTORS)
        test_rows = np.flatnonzero(split == "test")
        units = localise.unit_localisation(
            store,
            table,
            np.flatnonzero(split != "train"),
            box_kind=box_kind,
            random_state=random_state,
        )
        pointing = localise.neuron_pointing(
            store, table, test_rows, box_kind=box_kind, top=_POINTING_DETECTORS
        )
    with _timed(seconds, "box heads"):
        regressed = _box_laboratory(store, split, where, box_kind, random_state)
    load = picture_loader(store)
    with _timed(seconds, "glance"):
        glance = _glance(store, X, scores, load, random_state)
    with _timed(seconds, "examples"):
        truth = localise.select_boxes(store, box_kind)
        leaders = neurons.select_neurons(table, top=GALLERY_DETECTORS)
        cards = _cards(store, table, chosen, split)
        return report.Results(
            store=store,
            split=split,
            heads=scores,
            per_class=heads.per_class(scores, "logistic"),
            head_details=details,
            glance=glance,
            gradients=gradients,
            transfer=transfer,
            box_laboratory=regressed,
            neurons=table,
            all_neurons=all_neurons,
            laboratory=laboratory,
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
            samples=samples(store, load, truth, random_state),
            detector_examples=detector_examples(store, load, truth, scores, chosen, random_state),
            localisation_examples=localisation_examples(store, load, truth, where),
            failures=localisation_examples(store, load, truth, where, worst=True),
            cards=[card for _, card in cards],
            card_neurons=[pair for pair, _ in cards],
            strips=strips(store, load, truth, where),
            gallery=gallery(store, load, truth, split, where, leaders, random_state),
        )


def feature_tables(store: MapStore) -> list[pd.DataFrame]:
    """The pooled activations of every layer, the last stored one last."""
    return [
        features.feature_table(store, pooling, layer=layer)
        for layer in store.layers
        for pooling in POOLINGS
    ]


def find_detectors(
    X: pd.DataFrame | Sequence[pd.DataFrame],
    labels: pd.Series,
    split: pd.Series,
    groups: pd.Series,
    **parameters: Any,
) -> pd.DataFrame:
    """The neuron table: ranked on the train rows, confirmed on the confirm rows.

    `parameters` are those of `neurons.rank_neurons`. Where images have groups, the ranking (unless
    by "max_t") only screens, since it takes every image for independent evidence; the confirmation
    takes the group as its unit.
    """
    tables = [X] if isinstance(X, pd.DataFrame) else list(X)
    train, confirm = split == "train", split == "confirm"
    ranked = neurons.rank_neurons(
        [x[train] for x in tables],
        labels[train],
        groups=groups[train],
        **parameters,
    )
    return neurons.confirm_neurons(
        ranked, [x[confirm] for x in tables], labels[confirm], groups=groups[confirm]
    )


def main_rows(table: pd.DataFrame, X: pd.DataFrame) -> pd.DataFrame:
    """The rows of a neuron table that are about one feature table; p-values stay the family's."""
    chosen = (table["layer"] == X.attrs["layer"]) & (table["pooling"] == X.attrs["pooling"])
    rows = table[chosen].reset_index(drop=True)
    rows.attrs.update(table.attrs)
    return rows


def _head_details(
    X: pd.DataFrame,
    labels: pd.Series,
    split: pd.Series,
    groups: pd.Series,
    scores: heads.HeadResults,
    random_state: int,
) -> report.HeadDetails:
    return report.HeadDetails(
        head="logistic",
        pairs=heads.compare_all(scores, random_state=random_state),
        calibration=heads.calibration_table(scores, "logistic"),
        learning=heads.learning_curve(
            X, labels, split, groups=groups, n_repeats=_REPEATS, random_state=random_state
        ),
    )


def _box_laboratory(
    store: MapStore,
    split: pd.Series,
    where: localise.Localisation,
    box_kind: str | None,
    random_state: int,
) -> report.BoxLaboratory | None:
    """The boxes, and boxes by regression where enough images have one."""
    if where.table.empty:
        return None
    statistics = boxheads.box_statistics(store, box_kind)
    learnt = np.isin(statistics["image"].unique(), np.flatnonzero(split != "test"))
    found = None
    if learnt.sum() >= _FEWEST_BOXED:
        found = boxheads.evaluate_box_heads(
            store, split, box_kind=box_kind, heads=BOX_HEADS, random_state=random_state
        ).table
    pairs = localise.compare_methods(where, scores=["box_accuracy"])
    return report.BoxLaboratory(statistics, found, pairs)


def _weights_of_layers(
    store: MapStore,
    tables: Sequence[pd.DataFrame],
    split: pd.Series,
    scores: heads.HeadResults,
    random_state: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Layer → the weights of the logistic head on it; the last layer's head is there already."""
    found = {store.layers[-1]: class_weights(scores)}
    for X in tables[: -len(POOLINGS)]:
        if X.attrs["pooling"] == POOLINGS[0]:
            one = heads.evaluate_heads(
                X,
                store.images["label"],
                split,
                groups=store.images["group"],
                heads=["logistic"],
                random_state=random_state,
            )
            found[X.attrs["layer"]] = class_weights(one)
    return found


def _glance(
    store: MapStore,
    X: pd.DataFrame,
    scores: heads.HeadResults,
    load: Callable[[int], np.ndarray | None],
    random_state: int,
) -> report.Glance | None:
    """The images on a plane, where there are enough of them to lie on one."""
    if len(store) < embed.LEAST_IMAGES:
        return None
    found = embed.overview(
        X, store.images["label"], scores.of("logistic"), random_state=random_state
    )
    first = [*found.embedding.thumbnails["row"]]
    if found.misclassified is not None:
        first += [*found.misclassified["row"]]
    return report.Glance(found, thumbnails(store, load, first, random_state))


def _laboratory(
    store: MapStore,
    split: pd.Series,
    tables: list[pd.DataFrame],
    all_neurons: pd.DataFrame,
    random_state: int,
) -> report.Laboratory:
    """Which layer and pooling, does it replicate, is it needed, is it redundant."""
    labels, groups = store.images["label"], store.images["group"]
    X = tables[-len(POOLINGS)]
    table = main_rows(all_neurons, X)
    detectors = neurons.select_neurons(table)
    confirm = split == "confirm"
    order = ablation_order(detectors, X[split == "train"])
    needed, smallest = None, None
    if order:
        parts = [
            heads.ablation_curve(
                X, labels, split, order, mode=mode, groups=groups, random_state=random_state
            )
            for mode in ("ablate", "keep")
        ]
        needed = pd.concat(parts, ignore_index=True)
        smallest = heads.smallest_set(
            X, labels, split, order, groups=groups, random_state=random_state
        )
    return report.Laboratory(
        poolings=_poolings(tables, labels, split, groups, all_neurons, random_state),
        replication=neurons.replication(table),
        clusters=neurons.cluster_detectors(detectors, X[confirm], labels[confirm])
        if len(detectors)
        else None,
        nulls=neurons.null_selection(
            X, labels, split, groups=groups, n_repeats=_SHUFFLES, random_state=random_state
        ),
        ablation=needed,
        smallest=smallest,
        omnibus=neurons.compare_classes(X[confirm], labels[confirm])
        if len(store.classes) > 2
        else None,
    )


def ablation_order(detectors: pd.DataFrame, X: pd.DataFrame) -> list[int]:
    """The best of each class first, then the second best; at most half of the living neurons.

    The other half is what they are compared with. `detectors` are best first.
    """
    turns = detectors.assign(turn=detectors.groupby("class").cumcount())
    turns = turns[turns["turn"] < _ABLATED]
    order = list(dict.fromkeys(turns.sort_values(["turn", "class"])["neuron"].tolist()))
    return order[: int((np.ptp(X.to_numpy(), axis=0) > 0).sum()) // 2]


def _poolings(
    tables: list[pd.DataFrame],
    labels: pd.Series,
    split: pd.Series,
    groups: pd.Series,
    all_neurons: pd.DataFrame,
    random_state: int,
) -> pd.DataFrame:
    """Detectors and head accuracy of every layer and pooling."""
    rows = []
    for X in tables:
        found = main_rows(all_neurons, X)
        active = found[found["detector"] & (found["direction"] == "active")]
        head = heads.evaluate_heads(
            X, labels, split, groups=groups, heads=["logistic"], random_state=random_state
        ).table.set_index("head")
        scored = ["n", "accuracy", "accuracy_low", "accuracy_high"]
        rows.append(
            {
                "layer": X.attrs["layer"],
                "pooling": X.attrs["pooling"],
                "neurons": X.shape[1],
                "selected": len(active),
                "replicated": int(active["replicated"].sum()),
                "median_confirmed": active["auroc_confirmed"].median(),
                **head.loc["logistic", scored],
            }
        )
    return pd.DataFrame(rows)


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


def write_results(results: report.Results, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Report, tables and summary; returns the summary."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _timed(results.seconds, "report"):  # type: ignore[arg-type]
        report.write_report(results, folder / "report.html")
    return report.write_summary(results, folder / "summary.json")


def class_weights(scores: heads.HeadResults) -> dict[str, np.ndarray]:
    """Class → the logistic head's weights of the neurons, for class activation maps."""
    coefficients, _ = heads.linear_weights(scores.models["logistic"])
    return dict(zip(scores.classes, coefficients, strict=True))


def predicted_classes(scores: heads.HeadResults, X: pd.DataFrame) -> np.ndarray:
    """The logistic head's class of every image; it saw those of train."""
    return np.asarray(scores.models["logistic"].predict(X.to_numpy())).astype(str)


def _only_kind(boxes: pd.DataFrame) -> str | None:
    kinds = boxes["kind"].unique()
    return str(kinds[0]) if len(kinds) == 1 else None


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 3)
