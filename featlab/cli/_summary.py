"""The summary of a run in a few lines."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def tell(summary: dict[str, Any], output: Path) -> None:
    """The summary in a few lines."""
    height, width, n = summary["map_shape"]
    print(
        f"{summary['n_images']} images of {len(summary['classes'])} classes; "
        f"{summary['backbone']} gives {height} × {width} cells of {n} neurons"
    )
    for name, head in summary["heads"].items():
        print(
            f"  head {name}: accuracy {head['accuracy']:.3f} "
            f"[{head['low']:.3f}, {head['high']:.3f}] on {head['n']} unseen images"
        )
    for label, found in list(summary["detectors"].items())[:10]:
        best = ""
        if found["best_neuron"] is not None:
            best = (
                f"; best neuron {found['best_neuron']}: AUROC {found['auroc_selected']:.3f} "
                f"when chosen, {found['auroc_confirmed']:.3f} confirmed"
            )
        print(f"  detectors of {label}: {found['n']}{best}")
    for method, score in summary["localisation"].items():
        print(
            f"  boxes by {method}: {score['box_accuracy']:.3f} with IoU ≥ 0.5, "
            f"mean IoU {score['mean_iou']:.3f}, {score['n']} unseen images"
        )
    print(f"report: {output / 'report.html'}")


def command_line() -> str:
    """What the user typed."""
    return shlex.join(["featlab", *sys.argv[1:]])


def show(table: pd.DataFrame, columns: Sequence[str] | None = None) -> None:
    """A table, or some of its columns, as text."""
    if table.empty:
        print("  none")
        return
    shown = table if columns is None else table[list(columns)]
    print(shown.to_string(index=False, float_format="{:.3g}".format))
