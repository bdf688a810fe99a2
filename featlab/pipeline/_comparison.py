"""Several stores of the same images side by side: networks, layers, input sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from featlab import localise
from featlab.arguments import (
    Progress,
    boxes_of_kind,
    confirmed_detectors,
    feature_columns,
    neuron_ids,
    origin_of,
    selected_detectors,
    tracked,
    true_boxes,
    with_unseen_limits,
)
from featlab.embed import likeness
from featlab.features import feature_table
from featlab.heads import evaluate_heads
from featlab.heads.comparison import paired
from featlab.intervals import holm
from featlab.localise.fitting import signed_centre
from featlab.pipeline.detectors import LOCALISERS, class_weights, find_detectors
from featlab.pipeline.pictures import (
    boxes_at,
    heats_on_pictures,
    labels_of,
    picture_loader,
    true_corners,
)
from featlab.pipeline.stores import Entry, check_same, entries_of, stores_with_copies
from featlab.results.analysis import HeadResults
from featlab.results.localisation import WITHOUT_BOXES, Localisation
from featlab.results.pictures import ENTRY_COLUMNS, Comparison, MethodExamples
from featlab.splits import gallery_rows, make_split
from featlab.store import MapStore

# Random neurons tell little of what the other baselines do not, and take as long as all the rest.
METHODS = tuple(name for name in LOCALISERS if name != "random_neuron")
_PICTURES = 5
_N_BOOT = 2000


@dataclass(frozen=True)
class _Located:
    """Boxes by an entry's own maps, and the method that was best on the confirm images."""

    localisation: Localisation
    method: str

    @property
    def table(self) -> pd.DataFrame:
        """Its row of scores."""
        table = self.localisation.table
        return table[table["method"] == self.method]

    @property
    def per_image(self) -> pd.DataFrame:
        """Its boxes, in the order of the images."""
        scored = self.localisation.per_image
        return scored[scored["method"] == self.method].sort_values("row")


def compare_stores(
    stores: Sequence[MapStore],
    *,
    names: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    box_kind: str | None = None,
    copies: str = "together",
    random_state: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> Comparison:
    """Heads, detectors and boxes of several stores of the same images, compared image by image.

    Every stored layer is an entry of its own. All entries share images, split and seed. The best
    entry is chosen on the confirm images and compared with each of the others on the test images.

    Parameters
    ----------
    stores : sequence of MapStore
    names : sequence of str, optional
        A name for each store; by default what tells them apart (network, input size, map size,
        layer, weights, file).
    layers : sequence of str, optional
        Only these layers, of the stores that have them; all by default.
    box_kind : str, optional
        Which kind of box is the truth, where there are several.
    copies : {"together", "split"}
        As in :func:`analyse`; copies are sought in the first store.
    random_state : int
        Seed of the split, the heads, the bootstrap and the examples.
    command : str
        How the comparison was called, for the report.
    progress : callable, optional
        Wraps the entries as they are worked on.

    Returns
    -------
    Comparison

    Raises
    ------
    FeatlabError
        Fewer than two entries; stores of other images, labels, groups or boxes; names that are
        not one for each store, or not distinct; a layer that no store has.

    Notes
    -----
    The head is the logistic one on mean-pooled maps. Detectors of all entries are one corrected
    family. Box accuracy is that of each entry's own best map method that learns from labels
    alone, chosen, like the thresholds and the best entry, on the confirm images. The p-values of
    the comparisons with the best entry are corrected by Holm's method.
    """
    entries = entries_of(stores_with_copies(stores, copies), names, layers)
    check_same(entries)
    first = entries[0].store
    boxes_of_kind(first.boxes, box_kind)
    labels, groups = first.images["label"], first.images["group"]
    split = make_split(first.images, random_state=random_state)
    tables = {entry.name: _named_features(entry) for entry in entries}
    scores = {
        name: evaluate_heads(
            X,
            labels,
            split,
            colour=first.colour_histogram if name == entries[0].name else None,
            groups=groups,
            heads=["logistic"],
            random_state=random_state,
        )
        for name, X in tables.items()
    }
    neurons = find_detectors(
        list(tables.values()), labels, split, groups, random_state=random_state
    )
    located = {}
    for entry in tracked(entries, progress):
        boxes = _located(entry, neurons, scores[entry.name], split, box_kind, random_state)
        if boxes is not None:
            located[entry.name] = boxes
    rows = [
        {
            **_facts(entry),
            **_head(scores[entry.name], tables[entry.name], labels, split),
            **_detectors(neurons[neurons["layer"] == entry.name]),
            **_boxes(located.get(entry.name)),
        }
        for entry in entries
    ]
    table = pd.DataFrame(rows, columns=ENTRY_COLUMNS)
    best_head, best_boxes = _leaders(table, bool(located))
    clusters = scores[best_head].clusters
    right = {name: one.of("logistic")["correct"].to_numpy(bool) for name, one in scores.items()}
    shared = _shared_method(located)
    return Comparison(
        entries=table,
        heads=_head_table(scores),
        head_pairs=_pairs(best_head, right, clusters, random_state),
        detectors=selected_detectors(neurons).reset_index(drop=True),
        localisation=_stacked({name: one.localisation.table for name, one in located.items()}),
        box_pairs=_box_pairs(located, best_boxes, split, clusters, random_state),
        success=_success(located, shared),
        best_head=best_head,
        best_boxes=best_boxes,
        shared_method=shared,
        method_examples=_method_examples(entries, located, shared, split, box_kind, random_state),
        images=first.images,
        split=split,
        box_kind=box_kind,
        likeness=likeness(tables, groups=groups, random_state=random_state),
        command=command,
    )


def _named_features(entry: Entry) -> pd.DataFrame:
    """Mean-pooled maps under the entry's name: layers of different stores may share theirs."""
    X = feature_table(entry.store, layer=entry.layer)
    columns = feature_columns(entry.name, origin_of(X)[1], neuron_ids(X))
    return X.set_axis(columns, axis=1)


def _located(
    entry: Entry,
    neurons: pd.DataFrame,
    scores: HeadResults,
    split: pd.Series,
    box_kind: str | None,
    random_state: int,
) -> _Located | None:
    """None without boxes on other images than those of test: there is nothing to choose by."""
    localisation = localise.evaluate_localisation(
        entry.store,
        split,
        methods=METHODS,
        neurons=neurons[neurons["layer"] == entry.name].assign(layer=entry.layer),
        weights=class_weights(scores),
        layer=entry.layer,
        box_kind=box_kind,
        random_state=random_state,
    )
    if not localisation.table["box_accuracy_confirm"].notna().any():
        return None
    best = localisation.best(supervision=WITHOUT_BOXES)
    assert best is not None  # METHODS are such methods.
    return _Located(localisation, str(best["method"]))


def _facts(entry: Entry) -> dict[str, Any]:
    store, known = entry.store, entry.store.provenance
    height, width, neurons = store.map_shape(entry.layer)
    active, signed = 0, signed_centre(store, np.arange(len(store)), entry.layer, 0)
    lowest, highest = np.float32(np.inf), np.float32(-np.inf)
    for _, top in store.iter_pooled(layer=entry.layer, pooling="max"):
        active += int(np.count_nonzero(top > 0))
    for _, mean in store.iter_pooled(layer=entry.layer):
        lowest = np.minimum(lowest, mean.min(axis=0))
        highest = np.maximum(highest, mean.max(axis=0))
    return {
        "name": entry.name,
        "store": str(store.path),
        "backbone": str(known.get("backbone", "")),
        "weights": str(known.get("weights", "")),
        "input_size": str(known.get("input_size", "")),
        "layer": entry.layer,
        "map_height": height,
        "map_width": width,
        "neurons": neurons,
        "dead": int(np.count_nonzero(lowest == highest)),
        # Nothing of a signed layer rests at 0.
        "active_share": active / (len(store) * neurons) if signed is None else np.nan,
        "megabytes": store.path.stat().st_size / 1e6,
    }


def _head(
    scores: HeadResults, X: pd.DataFrame, labels: pd.Series, split: pd.Series
) -> dict[str, Any]:
    confirm = (split == "confirm").to_numpy()
    probability = scores.models["logistic"].predict_proba(X.to_numpy()[confirm])
    truth = np.searchsorted(scores.classes, labels[confirm].to_numpy(str))
    given = np.clip(probability[np.arange(len(truth)), truth], 1e-15, 1)
    row = scores.table[scores.table["head"] == "logistic"].iloc[0]
    return {
        **row[["n", "accuracy", "accuracy_low", "accuracy_high"]],
        "accuracy_confirm": float((probability.argmax(axis=1) == truth).mean()),
        "log_loss_confirm": float(-np.log(given).mean()),
    }


def _detectors(neurons: pd.DataFrame) -> dict[str, Any]:
    kept = with_unseen_limits(confirmed_detectors(neurons))
    counts: dict[str, Any] = {
        "selected": len(selected_detectors(neurons)),
        "confirmed": len(kept),
    }
    if kept.empty:
        return counts
    # Best at selection: the best of the confirmed values would be flattered by the choice.
    best = kept.iloc[int(kept["auroc"].argmax())]
    ends = ["auroc_confirmed", "auroc_confirmed_low", "auroc_confirmed_high"]
    return {
        **counts,
        "best_class": str(best["class"]),
        "best_neuron": int(best["neuron"]),
        **best[ends],
    }


def _boxes(located: _Located | None) -> dict[str, Any]:
    if located is None:
        return {"n_boxes": 0}
    row = located.table.iloc[0]
    baseline = located.localisation.best(baseline=True)
    assert baseline is not None  # they are always scored
    scores = [
        f"{score}{end}" for score in ("box_accuracy", "mean_iou") for end in ("", "_low", "_high")
    ]
    trained = located.localisation.best(supervision=("boxes",))
    ends = ["box_accuracy", "box_accuracy_low", "box_accuracy_high"]
    learnt = {} if trained is None else trained[ends].add_prefix("trained_").to_dict()
    return {
        **learnt,
        "n_boxes": int(row["n"]),
        "method": located.method,
        **row[["box_accuracy_confirm", *scores, "seconds_per_1000"]],
        "baseline": str(baseline["method"]),
        "baseline_box_accuracy": float(baseline["box_accuracy"]),
    }


def _leaders(entries: pd.DataFrame, boxes: bool) -> tuple[str, str]:
    """The best head and the best boxes, chosen on the confirm images."""
    # Accuracies tie easily; the log loss seldom does.
    order = entries.sort_values(
        ["accuracy_confirm", "log_loss_confirm"], ascending=[False, True], kind="stable"
    )
    best_boxes = (
        entries["name"].iloc[int(entries["box_accuracy_confirm"].argmax())] if boxes else ""
    )
    return str(order["name"].iloc[0]), str(best_boxes)


def _head_table(scores: Mapping[str, HeadResults]) -> pd.DataFrame:
    tables = []
    for name, one in scores.items():
        network = one.table["head"] == "logistic"
        tables.append(one.table[network].assign(backbone=name))
        if len(tables) == 1:  # the baselines see no network
            tables.insert(0, one.table[~network].assign(backbone=""))
    return pd.concat(tables, ignore_index=True)


def _pairs(
    leader: str, right: Mapping[str, np.ndarray], clusters: np.ndarray | None, random_state: int
) -> pd.DataFrame:
    """The leader against each of the others, image by image; Holm over these."""
    table = pd.DataFrame(
        [
            {
                "a": leader,
                "b": name,
                **paired(right[leader], theirs, clusters, _N_BOOT, random_state),
            }
            for name, theirs in right.items()
            if name != leader
        ]
    )
    return table.assign(p_adjusted=holm(table["p"].to_numpy(float)))


def _box_pairs(
    located: Mapping[str, _Located],
    leader: str,
    split: pd.Series,
    clusters: np.ndarray | None,
    random_state: int,
) -> pd.DataFrame:
    if not located:
        return pd.DataFrame()
    scored = {name: one.per_image for name, one in located.items()}
    units = None
    if clusters is not None:
        rows = scored[leader]["row"].to_numpy(int)
        of_row = clusters[np.searchsorted(np.flatnonzero(split == "test"), rows)]
        kept, units = np.unique(of_row, return_inverse=True)
        units = units if len(kept) < len(rows) else None
    hits = {name: rows["hit"].to_numpy(bool) for name, rows in scored.items()}
    table = _pairs(leader, hits, units, random_state)
    # One Localisation whose methods are the entries: its draws are of the same images.
    own = _stacked({name: one.table for name, one in located.items()})
    merged = replace(
        located[leader].localisation,
        table=own.assign(method=own["entry"]),
        draws=pd.concat(
            {name: one.localisation.draws[one.method] for name, one in located.items()}, axis=1
        ),
    )
    gaps = localise.compare_methods(merged, against=leader, scores=["mean_iou"])
    gaps = gaps.set_index("method").loc[table["b"]]
    # compare_methods tells other less leader.
    return table.assign(
        iou_difference=-gaps["difference"].to_numpy(),
        iou_difference_low=-gaps["difference_high"].to_numpy(),
        iou_difference_high=-gaps["difference_low"].to_numpy(),
    )


def _stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    if not tables:
        return pd.DataFrame(columns=["entry", "method"])
    named = [table.assign(entry=name) for name, table in tables.items()]
    every = pd.concat(named, ignore_index=True)
    return every[["entry", *every.columns.drop("entry")]]


def _shared_method(located: Mapping[str, _Located]) -> str:
    """Of the methods that every entry has, the best on the confirm images, mean over entries."""
    if not located:
        return ""
    every = pd.concat([one.localisation.table for one in located.values()], ignore_index=True)
    ours = every[every["supervision"].isin(WITHOUT_BOXES) & ~every["baseline"].astype(bool)]
    accuracies = ours.groupby("method", sort=False)["box_accuracy_confirm"]
    return str(accuracies.mean()[accuracies.size() == len(located)].idxmax())


def _success(located: Mapping[str, _Located], method: str) -> pd.DataFrame:
    """One method on every entry, and the highest baseline of any of them."""
    columns = ["method", "delta", "accuracy"]
    if not located:
        return pd.DataFrame(columns=columns)
    curves = {name: one.localisation.success for name, one in located.items()}
    tables = [rows[rows["method"] == method].assign(method=name) for name, rows in curves.items()]
    baselines = _stacked({name: one.localisation.table for name, one in located.items()})
    baselines = baselines[baselines["baseline"].astype(bool) & baselines["box_accuracy"].notna()]
    highest = baselines.iloc[int(baselines["box_accuracy"].argmax())]
    rows = curves[highest["entry"]]
    rows = rows[rows["method"] == highest["method"]]
    tables.append(rows.assign(method=f"baseline: {highest['method']}"))
    return pd.concat(tables, ignore_index=True)[columns]


def _method_examples(
    entries: Sequence[Entry],
    located: Mapping[str, _Located],
    method: str,
    split: pd.Series,
    box_kind: str | None,
    random_state: int,
) -> MethodExamples | None:
    if not located:
        return None
    store = entries[0].store
    truth = true_boxes(store.images, store.boxes, box_kind)
    rows = gallery_rows(store.images, split, truth["image"].tolist(), _PICTURES, random_state)
    heats, predicted = {}, {}
    for entry in entries:
        localisation = located[entry.name].localisation
        thresholds = localisation.table.set_index("method")["threshold"]
        maps = localise.heat_maps(entry.store, rows, localisation.fitted, methods=method)[method]
        boxes = boxes_at(entry.store, rows, maps, float(thresholds[method]))
        heats[entry.name] = heats_on_pictures(entry.store, rows, maps)
        predicted[entry.name] = list(boxes)
    load = picture_loader(store)
    return MethodExamples(
        pictures=[load(row) for row in rows],
        labels=labels_of(store, rows),
        true_boxes=true_corners(truth, rows),
        heats=heats,
        predicted_boxes=predicted,
    )
