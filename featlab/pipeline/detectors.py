"""Which neurons detect a class: their table, what else is known of them, and a card of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from featlab import features, localise
from featlab.arguments import (
    confirmed_detectors,
    group_codes,
    in_turn,
    is_signed,
    row_numbers,
    said,
    score_text,
    selected_detectors,
    stratified_rows,
    with_unseen_limits,
)
from featlab.errors import FeatlabError
from featlab.heads import (
    ablation_curve,
    evaluate_heads,
    linear_weights,
    smallest_set,
)
from featlab.heads.comparison import paired
from featlab.heads.models import predict_classes
from featlab.heads.scores import clusters_of
from featlab.intervals import holm
from featlab.neurons import (
    cluster_detectors,
    compare_classes,
    confirm_neurons,
    confirmation,
    null_selection,
    rank_neurons,
    ranked_images,
)
from featlab.pipeline.pictures import channel_maps, picture_loader
from featlab.results.analysis import DetectorDetails, HeadResults, Selection
from featlab.results.localisation import ClassWeights, Localisation
from featlab.results.pictures import NeuronCard
from featlab.store import MapStore

POOLINGS = ("mean", "max")
"""Those of the neuron table; heads and detectors rest on the first."""
LOCALISERS = (
    *("detectors", "best_detector", "cam", "cam_positive", "sum", "ddt", "fusion", "student"),
    *("cell_boxes", "random_neuron"),
)
"""Heat-map methods that a report compares."""
_SHUFFLES = 5
_ABLATED = 50  # detectors per class that the ablation takes out, best first
_RELATIVES = 4
_RESAMPLES = 2000  # of groups, for the interval of a paired difference
_MOST_IMAGES = 20_000  # whose activations make a card's distributions and relatives

Place = tuple[str, str]
"""A layer and a pooling."""


def feature_tables(store: MapStore) -> dict[Place, pd.DataFrame]:
    """Layer and pooling → the pooled activations; the last stored layer last."""
    return {
        (layer, pooling): features.feature_table(store, layer=layer, pooling=pooling)
        for layer in store.layers
        for pooling in POOLINGS
    }


def main_place(store: MapStore) -> Place:
    """That on which heads and detectors rest: the last layer, mean-pooled."""
    return store.layers[-1], POOLINGS[0]


def find_detectors(
    X: pd.DataFrame | Sequence[pd.DataFrame],
    labels: pd.Series,
    split: pd.Series,
    groups: pd.Series,
    **parameters: Any,
) -> pd.DataFrame:
    """The neuron table: ranked on the train rows, confirmed on the confirm rows.

    `parameters` are those of `neurons.rank_neurons`. Where images have groups, the choice (unless
    by "max_t") only screens, since it takes every image for independent evidence; the p-values and
    the confirmation take the group as their unit.
    """
    tables = [X] if isinstance(X, pd.DataFrame) else list(X)
    train, confirm = split == "train", split == "confirm"
    ranked = rank_neurons(
        [features.take_rows(x, train) for x in tables],
        labels[train],
        groups=groups[train],
        **parameters,
    )
    return confirm_neurons(
        ranked,
        [features.take_rows(x, confirm) for x in tables],
        labels[confirm],
        groups=groups[confirm],
    )


def selection_of(neurons: pd.DataFrame) -> Selection:
    """How the detectors of a table of `find_detectors`, called with its defaults, were made."""
    units = sorted(set(neurons["unit"]), key=lambda unit: (unit == "too few groups", unit))
    detectors = neurons[neurons["detector"]]
    if neurons["class"].nunique() == 2:  # active for one class and silent for the other: one test
        detectors = detectors.drop_duplicates(["layer", "pooling", "neuron"])
    return Selection(
        n_tests=int(neurons["p"].notna().sum()),
        n_confirm_tests=int(detectors["p_confirmed"].notna().sum()),
        unit=units[0],
    )


def rows_of(table: pd.DataFrame, place: Place) -> pd.DataFrame:
    """The rows of a neuron table of one layer and pooling; p-values stay the family's."""
    layer, pooling = place
    rows = table[table["layer"].eq(layer) & table["pooling"].eq(pooling)].reset_index(drop=True)
    rows.attrs.update(table.attrs)
    return rows


def place_heads(
    store: MapStore,
    tables: Mapping[Place, pd.DataFrame],
    split: pd.Series,
    heads: HeadResults,
    random_state: int,
) -> dict[Place, HeadResults]:
    """A logistic head on each feature table; `heads` are those of the main one."""
    return {
        place: heads
        if place == main_place(store)
        else evaluate_heads(
            X,
            store.images["label"],
            split,
            groups=store.images["group"],
            heads=["logistic"],
            random_state=random_state,
        )
        for place, X in tables.items()
    }


def layer_weights(by_place: Mapping[Place, HeadResults]) -> dict[str, ClassWeights]:
    """Layer → the weights of the logistic head on its mean-pooled maps."""
    return {
        layer: class_weights(heads)
        for (layer, pooling), heads in by_place.items()
        if pooling == POOLINGS[0]
    }


def class_weights(heads: HeadResults) -> ClassWeights:
    """The logistic head's weights of the neurons, for class activation maps."""
    coef, intercept = linear_weights(heads.models["logistic"])
    # Of two classes these are the decision function and minus that: their difference is twice it.
    share = 1 / 2 if len(coef) == 2 else 1
    return ClassWeights(heads.classes, coef * share, intercept * share)


def predicted_classes(heads: HeadResults, X: pd.DataFrame) -> np.ndarray:
    """The logistic head's class of every image; it saw those of train."""
    return predict_classes(heads, X).astype(str)


def detector_details(
    store: MapStore,
    split: pd.Series,
    tables: Mapping[Place, pd.DataFrame],
    all_neurons: pd.DataFrame,
    by_place: Mapping[Place, HeadResults],
    random_state: int,
) -> DetectorDetails:
    """Which layer and pooling, does it hold on other images, is it needed, is it redundant."""
    labels, groups = store.images["label"], store.images["group"]
    X, table = tables[main_place(store)], rows_of(all_neurons, main_place(store))
    detectors = confirmed_detectors(table)
    confirm = split == "confirm"
    judging = features.take_rows(X, confirm)
    order = ablation_order(detectors, features.take_rows(X, split == "train"))
    needed, smallest = None, None
    if order:
        needed = ablation_curve(
            X, labels, split, order,
            mode=("ablate", "keep"), groups=groups, random_state=random_state,
        )  # fmt: skip
        smallest = smallest_set(X, labels, split, order, groups=groups, random_state=random_state)
    return DetectorDetails(
        poolings=_poolings(tables, all_neurons, by_place),
        confirmation=confirmation(table),
        clusters=cluster_detectors(detectors, judging, labels[confirm]) if len(detectors) else None,
        nulls=null_selection(
            X, labels, split, groups=groups, n_repeats=_SHUFFLES, random_state=random_state
        ),
        ablation=needed,
        smallest=smallest,
        omnibus=compare_classes(judging, labels[confirm], groups=groups[confirm])
        if len(store.classes) > 2
        else None,
    )


def ablation_order(detectors: pd.DataFrame, X: pd.DataFrame) -> list[int]:
    """The best of each class first, then the second best; at most half of the living neurons.

    The other half is what they are compared with. `detectors` are of one layer, best first.
    """
    first = detectors.groupby("class", sort=False).head(_ABLATED)
    order = list(dict.fromkeys(in_turn(first, len(first))["neuron"].tolist()))
    return order[: int((np.ptp(X.to_numpy(), axis=0) > 0).sum()) // 2]


def _poolings(
    tables: Mapping[Place, pd.DataFrame],
    all_neurons: pd.DataFrame,
    by_place: Mapping[Place, HeadResults],
) -> pd.DataFrame:
    """Detectors and head accuracy of every layer and pooling."""
    scored = ["n", "accuracy", "accuracy_low", "accuracy_high"]
    rows = []
    for (layer, pooling), X in tables.items():
        active = selected_detectors(rows_of(all_neurons, (layer, pooling)))
        scores = by_place[layer, pooling].table.set_index("head").loc["logistic", scored]
        rows.append(
            {
                "layer": layer,
                "pooling": pooling,
                "neurons": X.shape[1],
                "selected": len(active),
                "confirmed": int(active["confirmed"].sum()),
                "median_confirmed": active["auroc_confirmed"].median(),
                **scores,
            }
        )
    return pd.DataFrame(rows)


def box_pairs(localisation: Localisation, groups: np.ndarray, random_state: int) -> pd.DataFrame:
    """Each method's found boxes against those of the best baseline, image by image.

    The rule is that of the heads: McNemar's test, sign flips of whole groups where scored images
    share one, Holm over the rows. A method of several draws has no hit of its own to pair: p is
    NaN, and the interval that of the resamples.

    Parameters
    ----------
    localisation : Localisation
    groups : ndarray of str of shape (n,)
        Of every image of the store.
    random_state : int

    Returns
    -------
    DataFrame
        The columns of ``localise.compare_methods`` for the box accuracy, and ``only_method``,
        ``only_against``, ``p``, ``test``, ``p_adjusted``.
    """
    table = localise.compare_methods(localisation, scores=["box_accuracy"])
    table = table.assign(only_method=np.nan, only_against=np.nan, p=np.nan, test="")
    hits = localisation.per_image.pivot_table(index="row", columns="method", values="hit")
    clusters = clusters_of(group_codes(groups, len(groups))[hits.index.to_numpy(int)])
    whole = hits.columns[hits.isin([0, 1]).all()]
    for place, row in table.iterrows():
        if row["method"] not in whole or row["against"] not in whole:
            continue
        ours, theirs = (hits[row[name]].to_numpy(bool) for name in ("method", "against"))
        pair = paired(ours, theirs, clusters, _RESAMPLES, random_state)
        known = {"only_method": pair["only_a"], "only_against": pair["only_b"]}
        known |= {name: pair[name] for name in ("difference_low", "difference_high", "p", "test")}
        table.loc[place, list(known)] = list(known.values())
    return table.assign(p_adjusted=holm(table["p"].to_numpy(float)))


def neuron_card(
    store: MapStore,
    neuron: int,
    neurons: pd.DataFrame,
    *,
    label: str | None = None,
    layer: str | None = None,
    pooling: str = "mean",
    rows: Any = None,
    most: int = 4,
) -> NeuronCard:
    """The best and worst images of a neuron, its effect, and its nearest relatives.

    Parameters
    ----------
    store : MapStore
    neuron : int
        Channel index.
    neurons : DataFrame
        Neuron table of `rank_neurons`, confirmed or not.
    label : str, optional
        The class that the facts are about; by default the one with the largest effect.
    layer : str, optional
        The last stored layer by default.
    pooling : {"mean", "max"}
    rows : sequence of int, or mask of shape (n,), optional
        The images to show and to count; unseen ones are the honest choice. All by default. Of more
        than 20,000 a random 20,000 make the distributions and the relatives.
    most : int
        Best and worst images, at most so many of each.

    Returns
    -------
    NeuronCard
        For `featlab.plots.neuron_card`.

    Raises
    ------
    FeatlabError
        The table has no row for the neuron, layer, pooling and class.
    """
    layer = store.layer_name(layer)
    row = _row_of(neurons, neuron, (layer, pooling), label)
    rows = row_numbers(rows, store.images)
    best, worst = (
        ranked_images(store, neuron, rows, most=most, layer=layer, pooling=pooling, lowest=lowest)
        for lowest in (False, True)
    )
    pictured = [*best["row"], *worst["row"]]
    means = store.pooled(layer=layer)
    centre = means[rows].mean(axis=0) if is_signed(means) else None
    heats = channel_maps(store, pictured, [neuron], layer, centre)[:, 0]
    sizes, load = store.images[["width", "height"]].to_numpy(), picture_loader(store)
    labels = store.images["label"].to_numpy(str)
    counted = np.sort(rows[stratified_rows(labels[rows], _MOST_IMAGES)])
    pooled, labels = store.pooled(counted, layer=layer, pooling=pooling), labels[counted]
    return NeuronCard(
        layer=layer,
        neuron=neuron,
        label=str(row["class"]),
        title=f"Neuron {neuron} of {layer}, {row['direction']} for {row['class']}",
        facts=_facts(row, pooled, labels, neuron),
        best=best,
        worst=worst,
        pictures=[load(place) for place in pictured],
        heats=[
            localise.heat_on_picture(heat, store.frames[place], sizes[place])
            for heat, place in zip(heats, pictured, strict=True)
        ],
        activations=pooled[:, neuron],
        labels=labels,
        unit=f"{pooling} activation (network units)",
        signed=centre is not None,
    )


def _row_of(neurons: pd.DataFrame, neuron: int, place: Place, label: str | None) -> pd.Series:
    rows = rows_of(neurons, place)
    rows = with_unseen_limits(rows)
    rows = rows[rows["neuron"].eq(neuron) & rows["reference"].eq("") & rows["auroc"].notna()]
    if label is not None:
        rows = rows[rows["class"] == label]
    if rows.empty:
        raise FeatlabError(
            f"the neuron table has no living neuron {said(neuron)} of layer {place[0]!r}, pooling "
            f"{place[1]!r}" + (f" and class {label!r}." if label is not None else ".")
        )
    # Of two classes that share an effect, the one that the neuron is active for.
    size = rows["effect"].abs().round(12)
    return rows.assign(size=size).sort_values(["size", "effect"]).iloc[-1]


def _facts(row: pd.Series, pooled: np.ndarray, labels: np.ndarray, neuron: int) -> list[str]:
    p = f"no p: {row['reason']}" if row.get("reason") else f"adjusted p {row['p_adjusted']:.1g}"
    facts = [f"chosen: {_auroc(row, 'auroc')}", p]
    if np.isfinite(row.get("auroc_confirmed", np.nan)):
        held = "confirmed (which flatters it)" if row["confirmed"] else "not confirmed"
        facts.append(f"unseen: {_auroc(row, 'auroc_confirmed')}, {held}")
    else:
        facts.append("not selected, so not confirmed")
    if votes := row.get("votes_for"):
        # On two lines, so that a long name costs no number.
        facts += [
            f"votes for the network's own {str(votes).partition('|')[0]}:",
            f"weight {row['vote']:+.2f}, rank correlation {row['vote_agreement']:+.2f}",
        ]
    if np.isfinite(row["pts"]):  # which it is not where nothing rests at 0
        inside, outside = score_text(row["pts"]), score_text(row["pts_ref"])
        facts.append(f"fired when chosen in {inside} of the class, {outside} of the rest")
    facts += [
        f"mean then {row['mean']:.2f} and {row['mean_ref']:.2f}, Hedges' g {row['hedges_g']:.2f}",
        "",
        "nearest relatives (rank correlation within classes):",
    ]
    return facts + [f"neuron {other}: {r:+.2f}" for other, r in _relatives(pooled, labels, neuron)]


def _auroc(row: pd.Series, name: str) -> str:
    """`AUROC 0.93 [0.88, 0.97]`; no interval where there is none."""
    low, high = (row[f"{name}_{end}"] for end in ("low", "high"))
    text = f"AUROC {score_text(row[name])}"
    known = np.isfinite(low) and np.isfinite(high)
    return text + (f" [{score_text(low)}, {score_text(high)}]" if known else "")


def _relatives(pooled: np.ndarray, labels: np.ndarray, neuron: int) -> list[tuple[int, float]]:
    """The neurons that agree most from image to image, whatever the classes' means."""
    ranks = pd.DataFrame(pooled).rank()
    within = (ranks - ranks.groupby(labels).transform("mean")).to_numpy()
    length = np.sqrt((within**2).sum(axis=0))
    r = np.divide(
        within.T @ within[:, neuron], length * length[neuron],
        out=np.zeros(len(length)), where=length * length[neuron] > 0,
    )  # fmt: skip
    r[neuron] = 0
    return [(int(k), float(r[k])) for k in np.argsort(-np.abs(r))[:_RELATIVES]]


@dataclass(frozen=True)
class Learnt:
    """The user's classes: a head, the neurons, and what the head calls every image."""

    heads: HeadResults
    neurons: pd.DataFrame
    predicted: np.ndarray

    @property
    def accuracy(self) -> float:
        """Of the logistic head, on test images."""
        return float(self.heads.table.set_index("head")["accuracy"]["logistic"])


def learn_classes(store: MapStore, split: pd.Series, random_state: int) -> Learnt:
    """A logistic head and the detectors, from the stored maps of the train rows."""
    X, labels, groups = features.feature_table(store), store.images["label"], store.images["group"]
    heads = evaluate_heads(
        X, labels, split, heads=("logistic",), groups=groups, random_state=random_state
    )
    neurons = find_detectors(X, labels, split, groups, random_state=random_state)
    return Learnt(heads, neurons, predicted_classes(heads, X))
