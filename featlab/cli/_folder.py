"""Tables and figures of a command, in the folder that the user named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

Folder = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Folder for the tables, figures and fitted heads."),
]


def write_tables(folder: Path | None, tables: Mapping[str, pd.DataFrame]) -> None:
    """Each table as CSV and Parquet; nothing without a folder."""
    from featlab import report

    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        for suffix in (".csv", ".parquet"):
            report.write_table(table, folder / f"{name}{suffix}")


def write_figures(
    folder: Path | None, figures: Mapping[str, Any], kinds: Sequence[str] = ("svg", "png")
) -> None:
    """Each figure as SVG and PNG, or as told; nothing without a folder."""
    from featlab import report

    if folder is None:
        return
    for name, figure in figures.items():
        for kind in kinds:
            report.save_figure(figure, folder / f"{name}.{kind}")
    print(f"tables and figures: {folder}")
