"""The command about places: boxes from stored maps, beside the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from featlab.cli._options import BoxKind, Seed, Store
from featlab.cli._progress import quiet_bar
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
    from featlab import features, heads, report, splits
    from featlab import localise as room
    from featlab.pipeline import LOCALISERS, class_weights, find_detectors, predicted_classes
    from featlab.store import MapStore

    with MapStore(store) as opened:
        # What would be refused after the heads and detectors is refused before them.
        boxed = room.select_boxes(opened, box_kind)["image"]
        labels, groups = opened.images["label"], opened.images["group"]
        split = splits.make_split(opened.images, random_state=seed)
        if not (split.to_numpy()[boxed] == "test").any():
            raise FeatlabError(f"{store} has no boxes on its test images: nothing can be scored.")
        names = layer.split(",") if layer else opened.layers[-1:]
        X = {name: features.feature_table(opened, layer=name) for name in names}
        scores = {
            name: heads.evaluate_heads(x, labels, split, groups=groups, random_state=seed)
            for name, x in X.items()
        }
        last = names[-1]
        found = room.evaluate(
            opened,
            split,
            methods=_named_methods(methods, LOCALISERS),
            refine=refine.split(",") if refine else (),
            neurons=find_detectors(list(X.values()), labels, split, groups, random_state=seed),
            weights={name: class_weights(scores[name]) for name in names},
            network={name: scores[name].models["mlp"] for name in names},
            predicted=predicted_classes(scores[last], X[last]),
            target=target,
            layer=names,
            box_kind=box_kind,
            random_state=seed,
            progress=quiet_bar,
        )
    print(found.table.set_index("method").T.to_string(float_format="{:.3f}".format))
    if output is not None:
        report.write_table(found.table, output)


def _named_methods(asked: str | None, usual: Sequence[str]) -> Sequence[str] | None:
    if asked is None:
        return usual
    return None if asked == "all" else asked.split(",")
