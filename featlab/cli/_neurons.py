"""The command about neurons: which detect which class, and does it hold."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import featlab
from featlab.cli._options import Copies, Seed, Store, show
from featlab.cli._pass import opened_store

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def neurons(
    store: Store,
    pooling: Annotated[
        str, typer.Option(help="Comma-separated: mean, max, softmax_mean, softmax_max.")
    ] = "mean",
    layer: Annotated[
        str | None,
        typer.Option(help="Comma-separated layers, or all. (default: the last stored)"),
    ] = None,
    test: Annotated[
        str,
        typer.Option(
            help="mannwhitneyu, welch, brunner_munzel, kolmogorov_smirnov, mutual_information or "
            "l1_logistic."
        ),
    ] = "mannwhitneyu",
    correction: Annotated[
        str,
        typer.Option(
            help="Any of statsmodels' multipletests, local_fdr, or max_t (permutes the labels, of "
            "whole groups where there are any)."
        ),
    ] = "fdr_bh",
    reference: Annotated[
        str | None,
        typer.Option(help="Class that the others are compared with. (default: all other classes)"),
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Compare every class with each other one by itself.")
    ] = False,
    alpha: Annotated[float, typer.Option(help="Bound of the corrected p.")] = 0.05,
    min_auroc: Annotated[float, typer.Option(help="Smallest AUROC of a detector.")] = 0.7,
    direction: Annotated[str, typer.Option(help="active, silent or both.")] = "active",
    shuffles: Annotated[
        int, typer.Option(min=0, help="Also run the procedure on so many sets of shuffled labels.")
    ] = 0,
    needed: Annotated[
        bool,
        typer.Option("--needed", help="Also: does a head need them, and how few do as well?"),
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="Detectors shown per class.")] = 10,
    cards: Annotated[
        Path | None,
        typer.Option(help="Folder for a card of each detector shown: its best and worst images."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Write the whole table here (.csv, .parquet, or .h5ad: AnnData)."
        ),
    ] = None,
    copies: Copies = "together",
    seed: Seed = 0,
) -> None:
    """Rank the neurons on train rows, confirm the detectors on others, show the best."""
    room = featlab.neurons
    with opened_store(store, copies) as opened:
        labels, groups = opened.images["label"], opened.images["group"]
        split = featlab.splits.make_split(opened.images, random_state=seed)
        named = opened.layers if layer == "all" else (layer or opened.layers[-1]).split(",")
        X = [
            featlab.features.feature_table(opened, layer=n, pooling=p)
            for n in named
            for p in pooling.split(",")
        ]
    options: dict[str, Any] = {
        "test": test,
        "correction": correction,
        "reference": opened.classes if pairs else reference,
        "alpha": alpha,
        "min_auroc": min_auroc,
    }
    table = featlab.pipeline.detectors.find_detectors(
        X, labels, split, groups, random_state=seed, **options
    )
    best = room.select_neurons(table, direction=direction, most=top)
    show(room.replication(table))
    columns = ["class", "direction", "layer", "pooling", "neuron", "auroc", "auroc_confirmed"]
    columns += ["auroc_confirmed_low", "auroc_confirmed_high", "p_confirmed", "shrinkage"]
    columns += ["reference"] if pairs or reference is not None else []
    print(f"confirmed detectors, at most {top} per class:")
    show(best, columns)
    print(", ".join(f"{key}: {value}" for key, value in table.attrs.items()))
    if shuffles:
        null = room.null_selection(
            X, labels, split, groups=groups, n_repeats=shuffles, random_state=seed, **options
        )
        print(f"on {shuffles} sets of shuffled labels:")
        print(null.describe().loc[["mean", "max"]].to_string(float_format="{:.3g}".format))
    if needed:
        _tell_needed(X[0], labels, split, groups, room.select_neurons(table), seed)
    if len(set(labels)) > 2:
        confirm = split == "confirm"
        omnibus = room.compare_classes(
            [x[confirm] for x in X], labels[confirm], groups=groups[confirm]
        )
        tested = int(omnibus["p"].notna().sum())
        print(
            f"on the confirm images {omnibus['reject'].sum()} of {tested} neurons differ between "
            "any of the classes (Kruskal-Wallis, corrected)"
            if tested
            else "whether neurons differ between any of the classes was not tested: images come in "
            "groups, or classes have too few"
        )
    with featlab.store.MapStore(store) as opened:
        if cards is not None:
            _write_cards(opened, table, best, split.to_numpy() != "train", cards)
        if output is not None and output.suffix == ".h5ad":
            room.to_anndata(opened, table).write_h5ad(output)
        elif output is not None:
            from featlab.system.files import write_table

            write_table(table, output)


def _write_cards(
    store: featlab.store.MapStore,
    table: pd.DataFrame,
    detectors: pd.DataFrame,
    rows: np.ndarray,
    folder: Path,
) -> None:
    """One picture for each detector, on images it was not chosen on."""
    folder.mkdir(parents=True, exist_ok=True)
    for _, row in detectors.iterrows():
        if row["pooling"] not in ("mean", "max"):
            continue
        card = featlab.pipeline.neuron_card(
            store,
            int(row["neuron"]),
            table,
            label=row["class"],
            pooling=row["pooling"],
            layer=row["layer"],
            rows=rows,
        )
        name = f"{row['layer']}_{row['pooling']}_{row['neuron']}_{row['class']}"
        figure = featlab.plots.neuron_card(card)
        featlab.plots.style.save_figure(figure, folder / f"{file_name(name)}.png")
    print(f"cards: {folder}")


def file_name(name: str) -> str:
    """A name that any file system takes, from one that may hold anything; others give others."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:100]
    if plain == name:
        return plain
    return f"{plain}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _tell_needed(
    X: pd.DataFrame,
    labels: pd.Series,
    split: pd.Series,
    groups: pd.Series,
    detectors: pd.DataFrame,
    seed: int,
) -> None:
    """Clusters, ablation and the smallest set, for the detectors of the first table."""
    features, heads = featlab.features, featlab.heads
    layer, pooling = featlab.arguments.origin_of(X)
    own = detectors[(detectors["layer"] == layer) & (detectors["pooling"] == pooling)]
    order = featlab.pipeline.detectors.ablation_order(own, features.take_rows(X, split == "train"))
    if not order:
        print("no detector was confirmed, so there is nothing to take out")
        return
    confirm = split == "confirm"
    clusters = featlab.neurons.cluster_detectors(
        own, features.take_rows(X, confirm), labels[confirm]
    )
    print(f"clusters of detectors that rise and fall together, of {len(own)}:")
    show(clusters.groupby("class")["cluster"].nunique().rename("clusters").reset_index())
    for mode, meaning in (("ablate", "set to their training mean"), ("keep", "kept alone")):
        curve = heads.ablation_curve(
            X, labels, split, order, mode=mode, groups=groups, random_state=seed
        )
        print(f"the logistic head with the first k detectors {meaning}, beside random neurons:")
        show(curve, ["kind", "k", "n", "accuracy", "low", "high"])
    few = heads.smallest_set(X, labels, split, order, groups=groups, random_state=seed)
    print(
        f"as good within one standard error: {len(few.neurons)} detectors, accuracy "
        f"{few.accuracy:.3f} [{few.accuracy_low:.3f}, {few.accuracy_high:.3f}]: "
        f"{', '.join(map(str, few.neurons))}"
    )
