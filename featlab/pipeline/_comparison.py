"""Several stores of the same images side by side: networks, layers, input sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from featlab import arguments, features, heads, localise, splits
from featlab.arguments import selected_detectors
from featlab.heads._compare import holm, paired
from featlab.pipeline._analysis import LOCALISERS
from featlab.pipeline._comparison_entries import Entry, check_same, entries_of
from featlab.pipeline._comparison_rows import entry_row
from featlab.pipeline._example_rows import gallery_rows
from featlab.pipeline._examples import picture_loader
from featlab.pipeline._stages import class_weights, find_detectors
from featlab.results.comparison import ENTRY_COLUMNS, Comparison
from featlab.results.heads import HeadResults
from featlab.results.localisation import Localisation
from featlab.results.pictures import MethodExamples
from featlab.store import MapStore

# Boxes to learn from would hide what the maps themselves tell; random neurons tell little of what
# the other baselines do not, and take as long as all the rest.
METHODS = tuple(name for name in LOCALISERS if name not in ("cell_boxes", "random_neuron"))
_PICTURES = 5
_N_BOOT = 2000
_CORNERS = ["xmin", "ymin", "xmax", "ymax"]

Progress = Callable[[Any], Any]


def compare(
    stores: Sequence[MapStore],
    *,
    names: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    box_kind: str | None = None,
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
    random_state : int
        Seed of the split, the heads, the bootstrap and the examples.
    command : str
        How the comparison was called, for the report.
    progress : callable, optional
        Wraps the entries as they are worked on.

    Returns
    -------
    featlab.Comparison

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
    entries = entries_of(stores, names, layers)
    check_same(entries)
    first = entries[0].store
    localise.boxes_of_kind(first.boxes, box_kind)
    labels, groups = first.images["label"], first.images["group"]
    split = splits.make_split(first.images, random_state=random_state)
    tables = {entry.name: _named_features(entry) for entry in entries}
    scores: dict[str, HeadResults] = {}
    for name, X in tables.items():
        scores[name] = heads.evaluate_heads(
            X,
            labels,
            split,
            colour=None if scores else first.colour_histogram,
            groups=groups,
            heads=["logistic"],
            random_state=random_state,
        )
    table = find_detectors(list(tables.values()), labels, split, groups, random_state=random_state)
    where = {
        entry.name: localise.evaluate(
            entry.store,
            split,
            methods=METHODS,
            neurons=table[table["layer"] == entry.name].assign(layer=entry.layer),
            weights=class_weights(scores[entry.name]),
            layer=entry.layer,
            box_kind=box_kind,
            random_state=random_state,
        )
        for entry in (entries if progress is None else progress(entries))
    }
    # Without boxes on other images than those of test there is nothing to choose by.
    where = {
        name: found
        for name, found in where.items()
        if found.table["box_accuracy_confirm"].notna().any()
    }
    chosen = {name: _own_method(found) for name, found in where.items()}
    detectors = selected_detectors(table)
    summary = pd.DataFrame(
        [
            entry_row(
                entry,
                tables[entry.name],
                labels,
                split,
                scores[entry.name],
                detectors[detectors["layer"] == entry.name],
                where.get(entry.name),
                chosen.get(entry.name),
            )
            for entry in entries
        ],
        columns=ENTRY_COLUMNS,
    )
    # Accuracies tie easily; the log loss seldom does.
    order = summary.sort_values(
        ["accuracy_confirm", "log_loss_confirm"], ascending=[False, True], kind="stable"
    )
    best_head, clusters = str(order["name"].iloc[0]), scores[entries[0].name].clusters
    right = {name: one.of("logistic")["correct"].to_numpy(bool) for name, one in scores.items()}
    best_boxes, shared, box_pairs = "", "", pd.DataFrame()
    if where:
        best_boxes = str(summary["name"].iloc[int(summary["box_accuracy_confirm"].argmax())])
        shared = _shared_method(where)
        box_pairs = _box_pairs(where, chosen, best_boxes, split, clusters, random_state)
    return Comparison(
        entries=summary,
        heads=_head_table(scores),
        head_pairs=_pairs(best_head, right, clusters, random_state),
        detectors=detectors.reset_index(drop=True),
        localisation=_stacked({name: found.table for name, found in where.items()}),
        box_pairs=box_pairs,
        success=_success(where, shared),
        best_head=best_head,
        best_boxes=best_boxes,
        shared_method=shared,
        strips=_strips(entries, where, shared, split, box_kind, random_state),
        images=first.images,
        split=split,
        box_kind=box_kind,
        command=command,
    )


def _named_features(entry: Entry) -> pd.DataFrame:
    """Mean-pooled maps under the entry's name: layers of different stores may share theirs."""
    X = features.feature_table(entry.store, layer=entry.layer)
    _, pooling = arguments.origin_of(X)
    columns = arguments.feature_columns(entry.name, pooling, arguments.neuron_ids(X))
    return X.set_axis(columns, axis=1)


def _own_method(found: Localisation) -> str:
    best = found.best(supervision="image labels")
    assert best is not None  # METHODS are such methods.
    return str(best["method"])


def _head_table(scores: Mapping[str, HeadResults]) -> pd.DataFrame:
    parts = []
    for name, found in scores.items():
        network = found.table["head"] == "logistic"
        parts.append(found.table[network].assign(backbone=name))
        if not parts[1:]:  # the baselines see no network
            parts.insert(0, found.table[~network].assign(backbone=""))
    return pd.concat(parts, ignore_index=True)


def _pairs(
    leader: str, right: Mapping[str, np.ndarray], clusters: np.ndarray | None, random_state: int
) -> pd.DataFrame:
    """The leader against each of the others, image by image; Holm over these."""
    rows = [
        {"a": leader, "b": name, **paired(right[leader], theirs, clusters, _N_BOOT, random_state)}
        for name, theirs in right.items()
        if name != leader
    ]
    table = pd.DataFrame(rows)
    return table.assign(p_adjusted=holm(table["p"].to_numpy(float)))


def _box_pairs(
    where: Mapping[str, Localisation],
    chosen: Mapping[str, str],
    leader: str,
    split: pd.Series,
    clusters: np.ndarray | None,
    random_state: int,
) -> pd.DataFrame:
    scored = {
        name: found.per_image[found.per_image["method"] == chosen[name]].sort_values("row")
        for name, found in where.items()
    }
    units = None
    if clusters is not None:
        rows = scored[leader]["row"].to_numpy(int)
        of_row = clusters[np.searchsorted(np.flatnonzero(split == "test"), rows)]
        kept, units = np.unique(of_row, return_inverse=True)
        units = units if len(kept) < len(rows) else None
    hits = {name: rows["hit"].to_numpy(bool) for name, rows in scored.items()}
    table = _pairs(leader, hits, units, random_state)
    # One Localisation whose methods are the entries: its draws are of the same images.
    merged = replace(
        where[leader],
        table=_stacked(
            {
                name: found.table[found.table["method"] == chosen[name]]
                for name, found in where.items()
            }
        ).assign(method=lambda rows: rows["entry"]),
        draws=pd.concat({name: found.draws[chosen[name]] for name, found in where.items()}, axis=1),
    )
    merged.table.attrs.update(where[leader].table.attrs)
    gaps = localise.compare_methods(merged, against=leader, scores=["mean_iou"])
    gaps = gaps.set_index("method").loc[table["b"]]
    # compare_methods tells other less leader.
    return table.assign(
        iou_difference=-gaps["difference"].to_numpy(),
        iou_difference_low=-gaps["difference_high"].to_numpy(),
        iou_difference_high=-gaps["difference_low"].to_numpy(),
    )


def _stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    parts = [table.assign(entry=name) for name, table in tables.items()]
    if not parts:
        return pd.DataFrame(columns=["entry", "method"])
    every = pd.concat(parts, ignore_index=True)
    return every[["entry", *every.columns.drop("entry")]]


def _shared_method(where: Mapping[str, Localisation]) -> str:
    every = _stacked({name: found.table for name, found in where.items()})
    ours = every[every["supervision"].eq("image labels") & ~every["baseline"].astype(bool)]
    return str(ours.groupby("method", sort=False)["box_accuracy_confirm"].mean().idxmax())


def _success(where: Mapping[str, Localisation], method: str) -> pd.DataFrame:
    """One method on every entry, and the highest baseline of any of them."""
    columns = ["method", "delta", "accuracy"]
    if not where:
        return pd.DataFrame(columns=columns)
    parts = [
        found.success[found.success["method"] == method].assign(method=name)
        for name, found in where.items()
    ]
    rivals = {name: found.best(baseline=True) for name, found in where.items()}
    highest = max(rivals, key=lambda name: rivals[name]["box_accuracy"])  # type: ignore[index]
    baseline = str(rivals[highest]["method"])  # type: ignore[index]
    rows = where[highest].success
    parts.append(rows[rows["method"] == baseline].assign(method=f"baseline: {baseline}"))
    return pd.concat(parts, ignore_index=True)[columns]


def _strips(
    entries: Sequence[Entry],
    where: Mapping[str, Localisation],
    method: str,
    split: pd.Series,
    box_kind: str | None,
    random_state: int,
) -> MethodExamples | None:
    if not where:
        return None
    store = entries[0].store
    truth = localise.select_boxes(store, box_kind)
    rows = gallery_rows(store.images, split, truth["image"].tolist(), _PICTURES, random_state)
    load = picture_loader(store)
    corners = [truth.loc[truth["image"] == row, _CORNERS].to_numpy(float) for row in rows]
    sizes = store.images[["width", "height"]].to_numpy()
    heats, predicted = {}, {}
    for entry in entries:
        found = where[entry.name]
        threshold = float(found.table.loc[found.table["method"] == method, "threshold"].iloc[0])
        maps, boxes = localise.heats_for(
            entry.store, rows, method, found.fitted, threshold=threshold
        )
        frames = entry.store.frames
        heats[entry.name] = [
            localise.heat_on_picture(heat, frames[row], *sizes[row])
            for row, heat in zip(rows, maps, strict=True)
        ]
        predicted[entry.name] = list(boxes)
    return MethodExamples(
        pictures=[load(row) for row in rows],
        labels=[str(store.images["label"].iloc[row]) for row in rows],
        true_boxes=corners,
        heats=heats,
        predicted_boxes=predicted,
    )
