"""Commands that ask one question of a finished store: neurons, localise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from featlab._errors import FeatlabError
from featlab.cli._options import BoxKind, Seed, Store
from featlab.cli._progress import quiet_bar


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
    if output is not None:
        report.write_table(table, output)


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
