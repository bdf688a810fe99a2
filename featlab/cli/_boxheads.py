"""The command about boxes by regression."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from featlab.cli._network import libraries_silenced
from featlab.cli._options import BoxKind, Seed, Store
from featlab.cli._progress import quiet_bar
from featlab.cli._summary import show
from featlab.errors import FeatlabError

if TYPE_CHECKING:
    pass
from featlab.cli._folder import Folder, write_figures, write_tables


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
        str, typer.Option(help="Of several boxes in an image: largest, or best_match.")
    ] = "largest",
    layer: Annotated[str | None, typer.Option(help="(default: the last stored)")] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Also the joint class + box recipe, as published (with its leak) and honestly.",
        ),
    ] = False,
    classes: Annotated[
        str,
        typer.Option(help="The classes of that recipe: label, group, or breed (of breed_12.jpg)."),
    ] = "label",
    box_kind: BoxKind = None,
    output: Folder = None,
    seed: Seed = 0,
) -> None:
    """Boxes by regression on the stored maps, for sets whose train images have boxes."""
    from featlab import boxheads as room
    from featlab import features, plots, splits
    from featlab.audit import duplicates
    from featlab.store import MapStore

    if classes not in ("label", "group", "breed"):
        raise FeatlabError(f"--classes must be label, group or breed, got {classes!r}.")
    with MapStore(store) as opened:
        statistics = room.box_statistics(opened, box_kind)
        found = room.evaluate_box_heads(
            opened,
            splits.make_split(opened.images, random_state=seed),
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
        show(found.table, columns)
        tables = {"box_heads": found.table, "box_heads_images": found.per_image}
        if published:
            with libraries_silenced():
                import tensorflow  # noqa: F401  # tells of itself once, while it loads
            both = room.published_protocol(
                opened,
                box_kind=box_kind,
                classes=room.breed_names(opened.images["path"])
                if classes == "breed"
                else opened.images[classes].to_numpy(),
                duplicates=duplicates(opened.images, features.feature_table(opened)),
                layer=layer,
                random_state=seed,
            )
            print("the joint class + box recipe, as published and under an honest protocol:")
            show(both)
            tables["published"] = both
    write_tables(output, tables | {"boxes": statistics})
    figures = {"box_heads": plots.box_heads(found.table), "boxes": plots.box_eda(statistics)}
    write_figures(output, figures)
