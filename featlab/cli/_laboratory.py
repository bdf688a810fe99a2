"""Commands that ask one question of a finished store: neurons, localise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featlab._errors import FeatlabError
from featlab.cli._options import BoxKind, Seed, Store
from featlab.cli._progress import quiet_bar
from featlab.cli._summary import show

if TYPE_CHECKING:
    import pandas as pd


def neurons(
    store: Store,
    pooling: Annotated[
        str, typer.Option(help="Comma-separated: mean, max, softmax_mean, softmax_max.")
    ] = "mean",
    layer: Annotated[
        str | None,
        typer.Option(help="Comma-separated layers, or all. [default: the last stored]"),
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
        str, typer.Option(help="What a class is compared with: rest, pairs, or a class.")
    ] = "rest",
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
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the whole table here (.csv or .parquet)."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Rank the neurons on train rows, confirm the detectors on others, show the best."""
    from featlab import features, report, splits
    from featlab import neurons as room
    from featlab.pipeline import find_detectors
    from featlab.store import MapStore

    with MapStore(store) as opened:
        labels, groups = opened.images["label"], opened.images["group"]
        split = splits.make_split(opened.images, random_state=seed)
        named = opened.layers if layer == "all" else (layer or opened.layers[-1]).split(",")
        X = [features.feature_table(opened, p, layer=n) for n in named for p in pooling.split(",")]
    chosen: dict[str, Any] = {
        "test": test,
        "correction": correction,
        "reference": reference,
        "alpha": alpha,
        "min_auroc": min_auroc,
    }
    table = find_detectors(X, labels, split, groups, random_state=seed, **chosen)
    best = room.select_neurons(table, direction=direction, top=top)
    print(room.replication(table).to_string(index=False, float_format="{:.3g}".format))
    columns = ["class", "direction", "layer", "pooling", "neuron", "auroc", "auroc_confirmed"]
    columns += ["auroc_confirmed_low", "auroc_confirmed_high", "p_confirmed", "shrinkage"]
    print(f"confirmed detectors, at most {top} per class:")
    print(best[columns].to_string(index=False, float_format="{:.3g}".format))
    print(", ".join(f"{key}: {value}" for key, value in table.attrs.items()))
    if shuffles:
        null = room.null_selection(
            X, labels, split, groups=groups, n_repeats=shuffles, random_state=seed, **chosen
        )
        print(f"on {shuffles} sets of shuffled labels:")
        print(null.describe().loc[["mean", "max"]].to_string(float_format="{:.3g}".format))
    if needed:
        _tell_needed(X[0], labels, split, groups, room.select_neurons(table), seed)
    if output is not None:
        report.write_table(table, output)


def _tell_needed(
    X: pd.DataFrame,
    labels: pd.Series,
    split: pd.Series,
    groups: pd.Series,
    detectors: pd.DataFrame,
    seed: int,
) -> None:
    """Clusters, ablation and the smallest set, for the detectors of the first table."""
    from featlab import heads
    from featlab import neurons as room
    from featlab.pipeline import ablation_order

    named = (X.attrs["layer"], X.attrs["pooling"])
    own = detectors[(detectors["layer"] == named[0]) & (detectors["pooling"] == named[1])]
    order = ablation_order(own, X[split == "train"])
    if not order:
        print("no detector was confirmed, so there is nothing to take out")
        return
    confirm = split == "confirm"
    clusters = room.cluster_detectors(own, X[confirm], labels[confirm])
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


def localise(
    store: Store,
    methods: Annotated[
        str | None,
        typer.Option(help="Comma-separated methods, or all. [default: those of the report]"),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="[default: the last stored]")] = None,
    box_kind: BoxKind = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the whole table here (.csv or .parquet)."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Score the boxes that the stored maps give, beside the baselines."""
    from featlab import features, heads, report, splits
    from featlab import localise as room
    from featlab.pipeline import LOCALISERS, class_weights, find_detectors, predicted_classes
    from featlab.store import MapStore

    with MapStore(store) as opened:
        labels, groups = opened.images["label"], opened.images["group"]
        split = splits.make_split(opened.images, random_state=seed)
        X = features.feature_table(opened, layer=layer)
        scores = heads.evaluate_heads(X, labels, split, groups=groups, random_state=seed)
        found = room.evaluate(
            opened,
            split,
            methods=named_methods(methods, LOCALISERS),
            neurons=find_detectors(X, labels, split, groups, random_state=seed),
            weights=class_weights(scores),
            network=scores.models["mlp"],
            predicted=predicted_classes(scores, labels),
            layer=layer,
            box_kind=box_kind,
            random_state=seed,
            progress=quiet_bar,
        )
    if found.table.empty:
        raise FeatlabError(f"{store} has no boxes on its test images, so nothing can be scored.")
    print(found.table.set_index("method").T.to_string(float_format="{:.3f}".format))
    if output is not None:
        report.write_table(found.table, output)


def named_methods(asked: str | None, usual: Sequence[str]) -> Sequence[str] | None:
    if asked is None:
        return usual
    return None if asked == "all" else asked.split(",")
