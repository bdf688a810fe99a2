"""Commands about a finished store as a whole: info, verify, report."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from featlab.cli._options import BoxKind, Output, Seed, Store
from featlab.cli._progress import quiet_bar
from featlab.cli._summary import command_line, tell


def info(store: Store) -> None:
    """Say what a store holds."""
    from featlab.store import MapStore

    with MapStore(store) as opened:
        print(opened)
        for label, count in opened.images["label"].value_counts().sort_index().items():
            print(f"  class {label}: {count} images")
        for kind, count in opened.boxes["kind"].value_counts().sort_index().items():
            print(f"  boxes {kind or '(no kind)'}: {count}")
        if opened.virtual:
            files = {piece.file for piece in opened.pieces}
            print(f"  virtual: its maps lie in {len(files)} other files")
        print(f"  skipped files: {len(opened.images.attrs['skipped'])}")
        for key, value in sorted(opened.provenance.items()):
            if not key.startswith("probe_"):
                print(f"  {key}: {value}")


def verify(store: Store) -> None:
    """Read a store once and check it against itself."""
    from featlab.store import MapStore

    with MapStore(store) as opened:
        opened.verify()
        print(f"{store}: {len(opened)} images, layers {', '.join(opened.layers)}: all is well")


def report(
    store: Store,
    output: Output,
    box_kind: BoxKind = None,
    seed: Seed = 0,
    figures: Annotated[
        Literal["svg", "pdf", "png"] | None,
        typer.Option(help="Write every figure of the page to the folder figures as well."),
    ] = None,
) -> None:
    """Write report, tables and summary of a finished store, and its figures where asked for."""
    with workers_ready():
        from featlab.pipeline import analyse, write_results
        from featlab.report import write_figures
        from featlab.store import MapStore

        with MapStore(store) as opened:
            results = analyse(
                opened,
                box_kind=box_kind,
                random_state=seed,
                command=command_line(),
                seconds={"extract": 0.0},
                progress=quiet_bar,
                **found_earlier(output),
            )
            tell(write_results(results, output), output)
            if figures is not None:
                written = write_figures(results, output / "figures", format=figures)
                print(f"figures: {output / 'figures'} ({len(written)} files)")


def workers_ready(wanted: bool = True) -> AbstractContextManager[None]:
    """Other processes that import what they will need while this one does; where no pass comes."""
    if not wanted:
        return nullcontext()
    from featlab.system.workers import ready

    return ready("featlab.boxheads", "featlab.localise", "featlab.embed")


def found_earlier(folder: Path) -> dict[str, Any]:
    """What `featlab gradients` and `featlab finetune` left in a folder, for the same page."""
    from featlab.finetune import load_transfer
    from featlab.pipeline import load_gradients

    found: dict[str, Any] = {}
    if (folder / "gradient_examples.npz").is_file():
        found["gradients"] = load_gradients(folder)
    if (folder / "transfer.json").is_file():
        found["transfer"] = load_transfer(folder)
    return found
