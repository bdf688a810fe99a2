"""What the commands leave and say: bars, tables and figures, the summary in a few lines."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import featlab

if TYPE_CHECKING:
    import pandas as pd


def bar(items: Iterable[Any], *, label: str) -> Iterable[Any]:
    """A bar that counts images."""
    from tqdm import tqdm

    return tqdm(items, desc=label, unit="img")


def extract_bar(batches: Iterable[range]) -> Iterator[range]:
    """Rate and time left in images, though the pass goes batch by batch."""
    from tqdm import tqdm

    batches = list(batches)
    with tqdm(total=sum(map(len, batches)), desc="extract", unit="img") as images:
        for batch in batches:
            yield batch
            images.update(len(batch))


def download_bar(blocks: Iterable[range]) -> Iterator[range]:
    """Rate and time left in bytes; a download that is gone on with begins where it was."""
    from tqdm import tqdm

    blocks = list(blocks)
    start, stop = blocks[0].start, blocks[-1].stop
    with tqdm(desc="download", total=stop, initial=start, unit="B", unit_scale=True) as received:
        for block in blocks:
            yield block
            received.update(len(block))


def quiet_bar(
    items: Iterable[Any], *, label: str = "localise", unit: str = "batch"
) -> Iterable[Any]:
    """A bar that leaves no line behind."""
    from tqdm import tqdm

    return tqdm(items, desc=label, unit=unit, leave=False)


def write_tables(folder: Path | None, tables: Mapping[str, pd.DataFrame]) -> None:
    """Each table as CSV and Parquet; nothing without a folder."""
    if folder is None:
        return
    from featlab.system.files import write_table

    for name, table in tables.items():
        for suffix in (".csv", ".parquet"):
            write_table(table, folder / f"{name}{suffix}")


def write_figures(
    folder: Path | None, figures: Mapping[str, Any], kinds: Sequence[str] = ("svg", "png")
) -> None:
    """Each figure as SVG and PNG, or of the kinds named; nothing without a folder."""
    if folder is None:
        return
    for name, figure in figures.items():
        for kind in kinds:
            featlab.plots.style.save_figure(figure, folder / f"{name}.{kind}")
    print(f"tables and figures: {folder}")


def show(
    table: pd.DataFrame, columns: Sequence[str] | None = None, decimals: str = "{:.3g}"
) -> None:
    """A table, or some of its columns, as text."""
    if table.empty:
        print("  none")
        return
    part = table if columns is None else table[list(columns)]
    print(part.to_string(index=False, float_format=decimals.format))


def tell(summary: Mapping[str, Any], output: Path) -> None:
    """The summary in a few lines."""
    height, width, n = summary["map_shape"]
    print(
        f"{summary['n_images']} images of {len(summary['classes'])} classes; "
        f"{summary['backbone']} gives {height} × {width} cells of {n} neurons"
    )
    for name, head in summary["heads"].items():
        print(
            f"  head {name}: accuracy {_number(head['accuracy'])} "
            f"[{_number(head['low'])}, {_number(head['high'])}] on {head['n']} unseen images"
        )
    for label, detectors in list(summary["detectors"].items())[:10]:
        best = ""
        if detectors["best_neuron"] is not None:
            best = (
                f"; best neuron {detectors['best_neuron']}: AUROC "
                f"{_number(detectors['auroc_selected'])} when chosen, "
                f"{_number(detectors['auroc_confirmed'])} on unseen images"
            )
        print(f"  detectors of {label}: {detectors['n']}{best}")
    for method, score in summary["localisation"].items():
        print(
            f"  boxes by {method}: {_number(score['box_accuracy'])} with IoU ≥ 0.5, "
            f"mean IoU {_number(score['mean_iou'])}, {score['n']} unseen images"
        )
    print(f"report: {output / 'report.html'}")


def _number(value: float | None) -> str:
    """With three decimals; a dash for what is not known."""
    return "–" if value is None else f"{value:.3f}"


def command_line() -> str:
    """What the user typed."""
    return shlex.join(["featlab", *sys.argv[1:]])
