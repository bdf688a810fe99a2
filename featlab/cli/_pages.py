"""Commands that look at a whole set and lay out what they find: report, compare, embed, audit."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import featlab
from featlab.cli._options import BoxKind, Copies, Folder, Layer, Output, Seed, Store
from featlab.cli._output import command_line, quiet_bar, show, write_figures, write_tables
from featlab.cli._pass import grouped, opened_store, opened_stores, workers_ready, write_page


def report(
    store: Store,
    output: Output,
    box_kind: BoxKind = None,
    copies: Copies = "together",
    seed: Seed = 0,
    figures: Annotated[
        Literal["svg", "pdf", "png"] | None,
        typer.Option(help="Write every figure of the page to the folder figures as well."),
    ] = None,
) -> None:
    """Write report, tables and summary of a finished store, and its figures where asked for."""
    with workers_ready(), featlab.store.MapStore(store) as opened:
        results = write_page(opened, output, box_kind, copies, seed, {"extract": 0.0})
        if figures is not None:
            written = featlab.report.write_figures(results, output / "figures", format=figures)
            print(f"figures: {output / 'figures'} ({len(written)} files)")


def compare(
    stores: Annotated[
        list[Path], typer.Argument(help="Stores of the same images, written by `featlab extract`.")
    ],
    output: Output,
    names: Annotated[
        str | None,
        typer.Option(help="Comma-separated, one for each store. (default: what tells them apart)"),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Comma-separated layer names. (default: every layer stored)")
    ] = None,
    box_kind: BoxKind = None,
    copies: Copies = "together",
    seed: Seed = 0,
) -> None:
    """Compare networks, layers or input sizes on the same images, on one page."""
    with ExitStack() as opened:
        comparison = featlab.pipeline.compare_stores(
            opened_stores(opened, stores, copies),
            names=[name.strip() for name in names.split(",")] if names else None,
            layers=layers.split(",") if layers else None,
            box_kind=box_kind,
            random_state=seed,
            command=command_line(),
            progress=partial(quiet_bar, label="compare", unit="entry"),
        )
    columns = ["name", "accuracy", "confirmed", "auroc_confirmed", "method", "box_accuracy"]
    show(comparison.entries, [*columns, "mean_iou", "megabytes"])
    print(f"best head, chosen on the confirm images: {comparison.best_head}")
    if comparison.best_boxes:
        print(f"best boxes, chosen on the confirm images: {comparison.best_boxes}")
    print(f"report: {featlab.report.write_comparison(comparison, output / 'compare.html')}")


def embed(
    store: Store, output: Output, layer: Layer = None, copies: Copies = "together", seed: Seed = 0
) -> None:
    """Lay the images on a plane, name their nearest neighbours and find the misclassified."""
    with opened_store(store, copies) as opened:
        labels, groups = opened.images["label"], opened.images["group"]
        split = featlab.splits.make_split(opened.images, random_state=seed)
        X = featlab.features.feature_table(opened, layer=layer)
        scores = featlab.heads.evaluate_heads(
            X, labels, split, groups=groups, heads=["logistic"], random_state=seed
        )
        overview = featlab.embed.overview(X, labels, scores.of("logistic"), random_state=seed)
        plane, wrong = overview.embedding, overview.misclassified
        load = featlab.pipeline.pictures.picture_loader(opened)
        pictures = {int(row): load(int(row)) for row in plane.thumbnails["row"]}
        about = opened.images[["path", "label"]].assign(split=split)
    assert wrong is not None
    tables = {
        "embedding": about.join(plane.coordinates, how="right"),
        "neighbours": overview.neighbours,
        "separation": overview.separation.table,
        "misclassified": wrong,
    }
    write_tables(output, tables)
    k, trust = plane.n_neighbors, plane.trustworthiness
    print(
        f"{len(plane)} images; perplexity {plane.perplexity:.3g}; trustworthiness over {k} "
        f"neighbours: t-SNE {trust['tsne']:.3f}, PCA {trust['pca']:.3f}"
    )
    show(overview.separation.table, decimals="{:.3f}")
    n = len(scores.of("logistic"))
    print(f"misclassified test images of the logistic head: {len(wrong)} of {n}")
    if len(wrong):
        show(wrong.head(10), decimals="{:.2f}")
    drawings: dict[str, Any] = {
        f"plane_{name}": featlab.plots.embedding_scatter(
            plane, labels, misclassified=wrong["row"].to_numpy(), plane=name
        )
        for name in ("tsne", "pca")
    }
    drawings["thumbnails"] = featlab.plots.embedding_thumbnails(plane, pictures, labels)
    write_figures(output, drawings, ["png"])


def audit(
    store: Store,
    box_kind: BoxKind = None,
    output: Folder = None,
    copies: Copies = "together",
    seed: Seed = 0,
) -> None:
    """Is the set fit for the question: duplicates, labels, outliers, confounds, colour alone."""
    with featlab.store.MapStore(store) as whole:
        pairs = featlab.audit.duplicates(whole)
        opened = grouped(whole, copies, pairs)
        labels, groups = opened.images["label"], opened.images["group"]
        split = featlab.splits.make_split(opened.images, random_state=seed)
        X = featlab.features.feature_table(opened)
        scores = featlab.heads.evaluate_heads(
            X, labels, split, colour=opened.colour_histogram, groups=groups, random_state=seed
        )
        neurons = featlab.pipeline.detectors.find_detectors(
            X, labels, split, groups, random_state=seed
        )
        audit = featlab.audit.audit_set(
            opened,
            split,
            head_table=scores.table,
            neurons=neurons,
            box_kind=box_kind,
            pairs=pairs,
            random_state=seed,
            progress=partial(quiet_bar, label="audit", unit="img"),
        )
    for _, row in audit.summary.iterrows():
        print(f"{row['verdict']:>8}  {row['check']}: {row['finding']}")
    print(f"{audit.verdict:>8}  in all")
    tables = vars(audit) | {"audit": audit.summary}
    write_tables(output, {name: tables[name] for name in tables if name != "summary"})
    write_figures(output, {"confounds": featlab.plots.scores.confounds(audit.confounds)})
