"""The command that puts several stores side by side."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from featlab.cli._options import BoxKind, Output, Seed
from featlab.cli._progress import quiet_bar
from featlab.cli._summary import command_line, show


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
    seed: Seed = 0,
) -> None:
    """Compare networks, layers or input sizes on the same images, on one page."""
    from featlab import pipeline, report
    from featlab.store import MapStore

    with ExitStack() as opened:
        found = pipeline.compare(
            [opened.enter_context(MapStore(path)) for path in stores],
            names=[name.strip() for name in names.split(",")] if names else None,
            layers=layers.split(",") if layers else None,
            box_kind=box_kind,
            random_state=seed,
            command=command_line(),
            progress=lambda entries: quiet_bar(entries, label="compare", unit="entry"),
        )
    columns = ["name", "accuracy", "confirmed", "auroc_confirmed", "method", "box_accuracy"]
    show(found.entries, [*columns, "mean_iou", "megabytes"])
    print(f"best head, chosen on the confirm images: {found.best_head}")
    if found.best_boxes:
        print(f"best boxes, chosen on the confirm images: {found.best_boxes}")
    print(f"report: {report.write_comparison(found, output / 'compare.html')}")
