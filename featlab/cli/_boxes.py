"""The commands about places: boxes from stored maps, by heat maps and by regression."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import featlab
from featlab.cli._options import BoxKind, Folder, Layer, Seed, Store
from featlab.cli._output import quiet_bar, show, write_figures, write_tables
from featlab.errors import FeatlabError


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
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the whole table here (.csv or .parquet)."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Score the boxes that the stored maps give, beside the baselines."""
    detectors = featlab.pipeline.detectors
    with featlab.store.MapStore(store) as opened:
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
            methods=_named_methods(methods),
            neurons=detectors.find_detectors(
                list(X.values()), labels, split, groups, random_state=seed
            ),
            weights={name: detectors.class_weights(scores[name]) for name in names},
            mlp={name: scores[name].models["mlp"] for name in names},
            layer=names,
            box_kind=box_kind,
            options=featlab.localise.LocalisationOptions(
                refine=refine.split(",") if refine else (),
                predicted=detectors.predicted_classes(scores[last], X[last]),
                target=target,
                progress=quiet_bar,
            ),
            random_state=seed,
        )
    print(localisation.table.set_index("method").T.to_string(float_format="{:.3f}".format))
    if output is not None:
        from featlab.system.files import write_table

        write_table(localisation.table, output)


def _named_methods(asked: str | None) -> Sequence[str] | None:
    if asked is None:
        return featlab.pipeline.detectors.LOCALISERS
    return None if asked == "all" else asked.split(",")


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
    seed: Seed = 0,
) -> None:
    """Boxes by regression on the stored maps, for sets whose train images have boxes."""
    room = featlab.boxheads
    with featlab.store.MapStore(store) as opened:
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
    plots = featlab.plots
    figures = {
        "box_heads": plots.score_intervals(regression.table, "mean_iou"),
        "boxes": plots.box_statistics(statistics, n_images=n_images),
    }
    write_figures(output, figures)
