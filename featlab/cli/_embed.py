"""The command that shows the set at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from featlab.cli._options import (
    Output,
    Seed,
    Store,
)

if TYPE_CHECKING:
    pass
from featlab.cli._folder import write_figures, write_tables


def embed(
    store: Store,
    output: Output,
    layer: Annotated[str | None, typer.Option(help="(default: the last stored)")] = None,
    seed: Seed = 0,
) -> None:
    """Lay the images on a plane, name their nearest neighbours and find the misclassified."""
    from featlab import embed as room
    from featlab import features, heads, plots, splits
    from featlab.pipeline import picture_loader
    from featlab.store import MapStore

    with MapStore(store) as opened:
        labels, groups = opened.images["label"], opened.images["group"]
        split = splits.make_split(opened.images, random_state=seed)
        X = features.feature_table(opened, layer=layer)
        scores = heads.evaluate_heads(
            X, labels, split, groups=groups, heads=["logistic"], random_state=seed
        )
        found = room.overview(X, labels, scores.of("logistic"), random_state=seed)
        load = picture_loader(opened)
        pictures = {int(row): load(int(row)) for row in found.embedding.thumbnails["row"]}
        about = opened.images[["path", "label"]].assign(split=split)
    wrong = found.misclassified
    assert wrong is not None
    tables = {
        "embedding": about.join(found.embedding.coordinates, how="right"),
        "neighbours": found.neighbours,
        "separation": found.separation,
        "misclassified": wrong,
    }
    write_tables(output, tables)
    plane = found.embedding
    drawings: dict[str, Any] = {
        f"plane_{name}": plots.embedding_scatter(
            plane, labels, misclassified=wrong["row"].to_numpy(), plane=name
        )
        for name in ("tsne", "pca")
    }
    drawings["thumbnails"] = plots.embedding_thumbnails(plane, pictures, labels)
    k, trust = plane.n_neighbors, plane.trustworthiness
    print(
        f"{len(plane)} images; perplexity {plane.perplexity:.3g}; trustworthiness over {k} "
        f"neighbours: t-SNE {trust['tsne']:.3f}, PCA {trust['pca']:.3f}"
    )
    print(found.separation.to_string(index=False, float_format="{:.3f}".format))
    print(f"misclassified test images of the logistic head: {len(wrong)} of {wrong.attrs['n']}")
    if len(wrong):
        print(wrong.head(10).to_string(index=False, float_format="{:.2f}".format))
    write_figures(output, drawings, ["png"])
