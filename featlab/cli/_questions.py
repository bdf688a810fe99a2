"""The commands that ask one thing of a store: heads, boxheads, localise, neurons."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import featlab
from featlab.cli._options import (
    BoxKind,
    Copies,
    Folder,
    Layer,
    Seed,
    Store,
    quiet_bar,
    show,
    tell_without_p,
    write_figures,
    write_tables,
)
from featlab.cli._pages import labelled_store, labelled_stores, write_cards
from featlab.cli._pass import opened_store
from featlab.errors import FeatlabError

if TYPE_CHECKING:
    import pandas as pd

_SCORES = ["accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "roc_auc", "log_loss"]
_PAIRS = ["difference", "difference_low", "difference_high", "p_adjusted", "test"]


def heads(
    stores: Annotated[
        list[Path],
        typer.Argument(
            help="A store, or the folder of a run with one; several of the same images to compare "
            "their networks."
        ),
    ],
    names: Annotated[
        str,
        typer.Option(
            "--heads",
            help="Comma-separated: logistic, logistic_l1, mlp, linear_svm, knn, nearest_centroid.",
        ),
    ] = "logistic,mlp",
    pooling: Annotated[
        str, typer.Option(help="mean, max, softmax_mean, softmax_max or flat.")
    ] = "mean",
    layer: Layer = None,
    class_weight: Annotated[
        str | None, typer.Option(help="balanced: every class counts the same. (default: no)")
    ] = None,
    folds: Annotated[
        int, typer.Option(min=0, help="Score by nested cross-validation over so many folds.")
    ] = 0,
    curve: Annotated[
        bool, typer.Option("--curve", help="Also: accuracy over the number of train images.")
    ] = False,
    output: Folder = None,
    copies: Copies = "together",
    seed: Seed = 0,
) -> None:
    """Who is in the picture: classifiers on the pooled maps, compared image by image."""
    common: dict[str, Any] = {
        "heads": names.split(","),
        "class_weight": class_weight,
        "random_state": seed,
    }
    if len(stores) > 1:
        with ExitStack() as stack:
            named = _store_names(stores)
            opened = dict(zip(named, labelled_stores(stack, named.values(), copies), strict=True))
            split = featlab.splits.make_split(opened[next(iter(named))].images, random_state=seed)
            networks = featlab.heads.compare_backbones(
                opened, split, pooling=pooling, layer=layer, **common
            )
        show(networks.table, ["backbone", "head", "n", *_SCORES])
        print("pairs of networks, on the same test images (Holm over all):")
        show(networks.pairs, ["head", "a", "b", *_PAIRS])
        write_tables(output, {"backbones": networks.table, "backbone_pairs": networks.pairs})
        write_figures(output, {"backbones": featlab.plots.scores.backbones(networks.table)})
        return
    with labelled_store(stores[0], copies) as store:
        tables, figures = _one_store(store, pooling, layer, folds, curve, common, output)
    write_tables(output, tables)
    write_figures(output, figures)


def _save_heads(
    scores: featlab.results.analysis.HeadResults, folder: Path | None, **features: Any
) -> None:
    """The fitted heads as plain arrays; the two that are no layers of weights are left out."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in scores.models.items():
        if name not in ("dummy", "knn"):
            own = {} if name == "colour_histogram" else features  # of no network
            featlab.heads.save_head(model, folder / f"{name}.npz", **own)


def _one_store(
    store: featlab.store.MapStore,
    pooling: str,
    layer: str | None,
    folds: int,
    curve: bool,
    common: dict[str, Any],
    output: Path | None,
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Print the heads of one store; its tables and figures."""
    room, plots = featlab.heads, featlab.plots
    X = featlab.features.feature_table(store, layer=layer, pooling=pooling)
    labels, groups = store.images["label"], store.images["group"]
    everything = {"groups": groups, "colour": store.colour_histogram, **common}
    if folds:
        crossed = room.cross_validate_heads(X, labels, n_outer=folds, **everything)
        summary, pairs = crossed.summary, room.compare_heads(crossed)
        show(summary, ["head", "n_scores", *_SCORES])
        print("pairs of heads over the same folds (corrected resampled t, Holm over all):")
        show(pairs, ["a", "b", "difference", "difference_low", "difference_high", "p_adjusted"])
        return {"heads": summary, "head_folds": crossed.table, "head_pairs": pairs}, {}
    split = featlab.splits.make_split(store.images, random_state=common["random_state"])
    scores = room.evaluate_heads(X, labels, split, **everything)
    _save_heads(scores, output, store=store, layer=layer, pooling=pooling)
    first = common["heads"][0]
    calibration = room.calibration(scores, first)
    tables = {
        "heads": scores.table,
        "head_pairs": room.compare_heads(scores),
        "per_class": room.per_class(scores, first),
        "calibration": calibration.table,
    }
    show(scores.table, ["head", "n_train", "n", *_SCORES, "parameters"])
    print("pairs of heads, on the same test images (Holm over all):")
    show(tables["head_pairs"], ["a", "b", *_PAIRS])
    if len(scores.classes) > 2:
        print(f"the {first} head, class by class:")
        show(
            tables["per_class"], ["class", "support", "recall", "precision", "f1", "confused_with"]
        )
    figures = {
        "heads": plots.score_intervals(scores.table, "accuracy"),
        "calibration": plots.calibration(calibration),
    }
    if curve:
        tables["learning_curve"] = room.learning_curve(
            X, labels, split, head=first, groups=groups, random_state=common["random_state"]
        )
        print(f"the {first} head on fewer images per class:")
        columns = ["size", "n_train", "accuracy", "accuracy_low", "accuracy_high", "accuracy_sd"]
        show(tables["learning_curve"], columns)
        figures["learning_curve"] = plots.learning_curve(tables["learning_curve"])
    return tables, figures


def _store_names(paths: list[Path]) -> dict[str, Path]:
    """Short names that differ: the file's, or its folder's where the files are called the same."""
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [path.resolve().parent.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return dict(zip(names, paths, strict=True))


def localise(
    store: Store,
    methods: Annotated[
        str | None,
        typer.Option(help="Comma-separated methods, or all. (default: those of the report)"),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="Of several, comma-separated, the maps are fused. (default: the last)"),
    ] = None,
    target: Annotated[
        str, typer.Option(help="Class asked for: label (the image's own) or predicted.")
    ] = "label",
    refine: Annotated[
        str | None,
        typer.Option(help="Comma-separated methods whose boxes train boxes also correct."),
    ] = None,
    box_kind: BoxKind = None,
    threshold_step: Annotated[
        float, typer.Option(help="Of the thresholds: 0.01, or the published protocol's 0.001.")
    ] = 0.01,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the whole table here (.csv or .parquet)."),
    ] = None,
    copies: Copies = "together",
    seed: Seed = 0,
) -> None:
    """Score the boxes that the stored maps give, beside the baselines."""
    detectors = featlab.pipeline.detectors
    named = methods.split(",") if methods else detectors.LOCALISERS
    options = featlab.localise.LocalisationOptions(
        refine=refine.split(",") if refine else (),
        target=target,
        threshold_step=threshold_step,
        progress=quiet_bar,
    )
    with labelled_store(store, copies) as opened:
        # What would be refused after the heads and detectors is refused before them.
        boxed = featlab.arguments.true_boxes(opened.images, opened.boxes, box_kind)["image"]
        labels, groups = opened.images["label"], opened.images["group"]
        split = featlab.splits.make_split(opened.images, random_state=seed)
        if not (split.to_numpy()[boxed] == "test").any():
            raise FeatlabError(f"{store} has no boxes on its test images: nothing can be scored.")
        names = layer.split(",") if layer else opened.layers[-1:]
        X = {name: featlab.features.feature_table(opened, layer=name) for name in names}
        scores = {
            name: featlab.heads.evaluate_heads(x, labels, split, groups=groups, random_state=seed)
            for name, x in X.items()
        }
        last = names[-1]
        localisation = featlab.localise.evaluate_localisation(
            opened,
            split,
            methods=None if methods == "all" else named,
            neurons=detectors.find_detectors(
                list(X.values()), labels, split, groups, random_state=seed
            ),
            weights={name: detectors.class_weights(scores[name]) for name in names},
            mlp={name: scores[name].models["mlp"] for name in names},
            layer=names,
            box_kind=box_kind,
            options=replace(options, predicted=detectors.predicted_classes(scores[last], X[last])),
            random_state=seed,
        )
    print(localisation.table.set_index("method").T.to_string(float_format="{:.3f}".format))
    if output is not None:
        featlab.system.files.write_table(localisation.table, output)


def boxheads(
    store: Store,
    names: Annotated[
        str,
        typer.Option(
            "--heads", help="Comma-separated: cascade, ridge_pca, pls, mlp, gradient_boosting."
        ),
    ] = "cascade,ridge_pca,pls,gradient_boosting",
    target: Annotated[str, typer.Option(help="centre_size or corners.")] = "centre_size",
    policy: Annotated[
        str, typer.Option(help="Of several boxes in an image learn the largest, or best_match.")
    ] = "largest",
    layer: Layer = None,
    box_kind: BoxKind = None,
    output: Folder = None,
    copies: Copies = "together",
    seed: Seed = 0,
) -> None:
    """Boxes by regression on the stored maps, for sets whose train images have boxes."""
    room = featlab.boxheads
    with opened_store(store, copies) as opened:
        statistics, n_images = room.box_statistics(opened, box_kind), len(opened)
        regression = room.evaluate_box_heads(
            opened,
            featlab.splits.make_split(opened.images, random_state=seed),
            box_kind=box_kind,
            heads=names.split(","),
            target=target,
            policy=policy,
            layer=layer,
            random_state=seed,
            progress=partial(quiet_bar, label="box heads", unit="head"),
        )
        columns = ["head", "n_fit", "n", "mean_iou", "mean_iou_low", "mean_iou_high"]
        columns += ["box_accuracy", "box_accuracy_70", "centre_in_box", "seconds", "parameters"]
        show(regression.table, columns)
        tables = {"box_heads": regression.table, "box_heads_images": regression.per_image}
    write_tables(output, tables | {"boxes": statistics})
    if output is not None:
        for name in names.split(","):
            if name in regression.fitted:
                room.save_box_head(regression.fitted[name], output / f"{name}.boxhead")
            else:
                print(f"{name} is not written: its trees are objects of scikit-learn, no arrays")
    plots = featlab.plots
    figures = {
        "box_heads": plots.score_intervals(regression.table, "mean_iou"),
        "boxes": plots.data.box_statistics(statistics, n_images=n_images),
    }
    write_figures(output, figures)


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
    with labelled_store(store, copies) as opened:
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
    best = featlab.arguments.with_unseen_limits(
        room.select_neurons(table, direction=direction, most=top)
    )
    show(room.confirmation(table))
    columns = ["class", "direction", "layer", "pooling", "neuron", "auroc", "auroc_confirmed"]
    columns += ["auroc_confirmed_low", "auroc_confirmed_high", "p_confirmed", "shrinkage"]
    columns += ["reference"] if pairs or reference is not None else []
    tell_without_p(table)
    print(f"confirmed detectors, at most {top} per class (confirming flatters auroc_confirmed,")
    each = ", a neuron once for each pooling" if "," in pooling else ""
    print(f"which its interval allows for; the medians above are of all selected{each}):")
    show(best, columns)
    facts = options | {"n_tests": table["p"].count(), "unit": table["unit"].iloc[0]}
    print(", ".join(f"{key}: {value}" for key, value in facts.items() if value is not None))
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
        _tell_omnibus([x[confirm] for x in X], labels[confirm], groups[confirm])
    with featlab.store.MapStore(store) as opened:
        if cards is not None:
            write_cards(opened, table, best, split.to_numpy() != "train", cards)
        if output is not None and output.suffix == ".h5ad":
            room.to_anndata(opened, table).write_h5ad(output)
        elif output is not None:
            featlab.system.files.write_table(table, output)


def _tell_omnibus(X: list[pd.DataFrame], y: pd.Series, groups: pd.Series) -> None:
    """How many neurons differ between any classes."""
    omnibus = featlab.neurons.compare_classes(X, y, groups=groups)
    if tested := int(omnibus["p"].notna().sum()):
        print(f"on the confirm images {omnibus['reject'].sum()} of {tested} neurons differ between")
        print("any of the classes (Kruskal-Wallis, corrected)")
    else:
        print("whether neurons differ between any of the classes was not tested: images come in")
        print("groups, or classes have too few")


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
