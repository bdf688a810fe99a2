"""What is told of a set without labels, too: own classes, clusters, heat maps, the audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from featlab import localise
from featlab.arguments import Progress
from featlab.audit.sets import audit_unlabelled
from featlab.boxes.geometry import CORNERS
from featlab.embed.planes import FEWEST_CLUSTERED, cluster_images, embed_images
from featlab.errors import FeatlabError
from featlab.localise.heat import normalise
from featlab.localise.regions import FIXED_THRESHOLD
from featlab.neurons import rank_neurons
from featlab.own import own_boxes, own_heats, own_pictures, own_set, own_votes
from featlab.pipeline.detectors import selection_of
from featlab.pipeline.pictures import Load, boxes_at, heats_on_pictures, true_corners
from featlab.results.analysis import HeadResults
from featlab.results.images import Audit, Clusters, OwnClasses, SetMaps
from featlab.results.pictures import Examples
from featlab.store import MapStore

VOTES = ("votes_for", "vote", "vote_agreement", "vote_agreement_low", "vote_agreement_high")
"""Columns of the neuron table."""
BLIND = ("sum", "eigen_cam", "ddt")
"""Heat-map methods that need no labels."""
_NEURON_COLUMNS = (
    *("layer", "pooling", "class", "neuron", "reference", "direction"),
    *("auroc", "effect", "rank", "p", "p_adjusted", "auroc_confirmed"),
)
_NO_DETECTORS = ("detector", "replicated")
_TYPICAL, _TELLING = 5, 10  # images and neurons told of each cluster
_N_PICTURES = 6  # pictures under the map of their own class


def heads_and_neurons(made: Mapping[str, Any]) -> dict[str, Any]:
    """How the detectors were selected; of a set without labels, that there is no head or neuron."""
    if "all_neurons" in made:
        return {"selection": selection_of(made["all_neurons"])}
    heads = HeadResults(pd.DataFrame({"head": []}), pd.DataFrame(columns=["head", "row"]), {}, [])
    neurons = pd.DataFrame(columns=[*_NEURON_COLUMNS, *_NO_DETECTORS])
    return {"heads": heads, "neurons": neurons.astype(dict.fromkeys(_NO_DETECTORS, bool))}


def own_classes(store: MapStore) -> OwnClasses | None:
    """What the network itself calls the pictures; None where it has no classifier."""
    head = store.own_head
    if head is None:
        return None
    boxes = own_boxes(store) if head.linear else None
    return OwnClasses(len(head.classes), own_pictures(store), own_set(store), boxes)


def with_votes(store: MapStore, neurons: pd.DataFrame, random_state: int) -> pd.DataFrame:
    """The neuron table with the network's own class that each neuron votes for.

    Of the layer and the pooling that the network's head stands on; empty for the other rows.
    """
    head = store.own_head
    if head is None or not head.linear:
        return neurons
    votes = own_votes(store, random_state=random_state).set_index("neuron")
    here = (neurons["layer"] == head.layer) & (neurons["pooling"] == "mean")
    columns = {name: neurons["neuron"].map(votes[name]).where(here) for name in VOTES}
    columns["votes_for"] = columns["votes_for"].fillna("")
    return neurons.assign(**columns)


def own_examples(
    store: MapStore, load: Load, own: OwnClasses | None, random_state: int
) -> Examples | None:
    """Pictures under the class activation map of what the network calls them, with the box."""
    if own is None or own.boxes is None:
        return None
    drawn = np.random.default_rng(random_state).permutation(len(store))[:_N_PICTURES]
    rows = [int(row) for row in np.sort(drawn)]
    first = own.pictures[own.pictures["rank"] == 1].set_index("row")
    boxes = own.boxes.set_index("row").loc[rows, CORNERS]
    heats = heats_on_pictures(store, rows, own_heats(store, rows))
    return Examples(
        rows=rows,
        pictures=[load(row) for row in rows],
        neurons=[("class activation map", -1)],
        heats=[np.maximum(heat, 0)[np.newaxis] for heat in heats],
        true_boxes=[np.zeros((0, 4))] * len(rows),
        labels=[str(first.loc[row, "own_class"]) for row in rows],
        predicted_boxes=list(boxes.to_numpy(float)),
    )


def audit_without_labels(
    store: MapStore, pairs: pd.DataFrame, unlabelled: bool, box_kind: str | None
) -> Audit:
    """Copies, pictures, captions and outliers of a set without labels."""
    assert unlabelled
    return audit_unlabelled(store, pairs, box_kind=box_kind)


def without_clusters(made: Mapping[str, Any], n: int) -> dict[str, str]:
    """Why :func:`clusters` of `n` images made none; empty where it made some, or was not run."""
    if made.get("clusters", made) is not None:
        return {}
    few = f"fewer than {FEWEST_CLUSTERED} images are not clustered, got {n}"
    return {"clusters": few if n < FEWEST_CLUSTERED else "the images are too alike"}


def clusters(
    store: MapStore, X: pd.DataFrame, load: Load, unlabelled: bool, random_state: int
) -> Clusters | None:
    """The set at a glance: clusters, their typical images, the neurons that tell them.

    None of fewer than 20 images, or where they are all alike.
    """
    assert unlabelled
    if len(X) < FEWEST_CLUSTERED:
        return None
    try:
        codes, distance, choice = cluster_images(X, random_state=random_state)
    except FeatlabError:  # all alike
        return None
    width = len(str(codes.max() + 1))
    names = np.array([f"cluster {code + 1:0{width}d}" for code in codes], dtype=object)
    images = pd.DataFrame(
        {"row": np.arange(len(X)), "path": store.images["path"], "cluster": names,
         "distance": distance}
    )  # fmt: skip
    near = images.sort_values(["cluster", "distance", "row"]).groupby("cluster", sort=True)
    typical = near.head(_TYPICAL)
    table = pd.DataFrame(
        {
            "n": near.size(),
            "share": near.size() / len(images),
            "typical": typical.groupby("cluster")["path"].agg("|".join),
        }
    )
    return Clusters(
        table=table.rename_axis("cluster").reset_index(),
        images=images,
        choice=choice,
        neurons=_telling(X, pd.Series(names, index=X.index)),
        embedding=embed_images(X, random_state=random_state),
        pictures={int(row): load(int(row)) for row in typical["row"]},
    )


def _telling(X: pd.DataFrame, names: pd.Series) -> pd.DataFrame:
    """The neurons that tell each cluster from the rest; no p: the clusters are made of them."""
    ranked = rank_neurons(X, names)
    first = ranked[ranked["auroc"] > 0.5].sort_values(
        ["class", "auroc", "neuron"], ascending=[True, False, True]
    )
    first = first.groupby("class", sort=True).head(_TELLING).rename(columns={"class": "cluster"})
    kept = ["cluster", "layer", "neuron", "auroc", "mean", "mean_ref"]
    table = first[kept].reset_index(drop=True)
    table.attrs = {}
    return table


def set_maps(
    store: MapStore,
    split: pd.Series,
    load: Load,
    truth: pd.DataFrame,
    unlabelled: bool,
    box_kind: str | None,
    random_state: int,
    progress: Progress | None,
) -> SetMaps:
    """Heat maps and a box of every image by each method that needs no labels.

    Where there are boxes, thresholds are chosen on the confirm images and the boxes scored on the
    test images; else the threshold is the fixed one.
    """
    assert unlabelled
    scored = localise.evaluate_localisation(
        store, split, methods=BLIND, box_kind=box_kind, random_state=random_state,
        options=localise.LocalisationOptions(progress=progress),
    )  # fmt: skip
    table = scored.table.copy()
    if len(table):
        table.loc[~table["baseline"].astype(bool), "supervision"] = "none"
        table["class_asked"] = "none"
    known = dict(zip(table.get("method", []), table.get("threshold", []), strict=True))
    thresholds = {name: _threshold(known.get(name)) for name in BLIND}
    rows = np.arange(len(store))
    parts = []
    for some in np.array_split(rows, max(1, len(rows) // 512)):
        heats = localise.heat_maps(store, some, scored.fitted)
        for name in BLIND:
            corners = boxes_at(store, some.tolist(), heats[name], thresholds[name])
            part = pd.DataFrame({"row": some, "path": store.images["path"].to_numpy()[some],
                                 "method": name, "threshold": thresholds[name]})  # fmt: skip
            parts.append(part.assign(**dict(zip(CORNERS, corners.T, strict=True))))
    boxes = pd.concat(parts, ignore_index=True).sort_values(["row", "method"], kind="stable")
    drawn = np.sort(np.random.default_rng(random_state).permutation(rows)[:_N_PICTURES]).tolist()
    heats = localise.heat_maps(store, drawn, scored.fitted)
    first = boxes[boxes["method"] == BLIND[-1]].set_index("row")
    by_method = [heats_on_pictures(store, drawn, normalise(heats[n])) for n in BLIND]
    examples = Examples(
        rows=drawn,
        pictures=[load(row) for row in drawn],
        neurons=[(name, -1) for name in BLIND],
        heats=[np.stack(maps) for maps in zip(*by_method, strict=True)],
        true_boxes=true_corners(truth, drawn),
        labels=[str(store.images["path"].iloc[row]) for row in drawn],
        predicted_boxes=list(first.loc[drawn, CORNERS].to_numpy(float)),
    )
    return SetMaps(boxes.reset_index(drop=True), table, examples)


def _threshold(known: float | None) -> float:
    return FIXED_THRESHOLD if known is None or not np.isfinite(known) else float(known)
