"""The tables of a fetched set: as the archives have them, and as ``index_images`` wants them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from featlab.datasets._files import one_line
from featlab.errors import FeatlabError

BOX_COLUMNS = ["image", "label", "kind", "width", "height", "xmin", "ymin", "xmax", "ymax"]


def read_table(file: Path, n_columns: int) -> Iterator[list[str]]:
    """Rows of a text file whose values are separated by blanks; ``#`` begins a comment line.

    Raises
    ------
    FeatlabError
        The file cannot be read, or a line has another number of values.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise FeatlabError(
            f"{file} cannot be read ({one_line(error)}); {mend(file.parent)}"
        ) from error
    for number, line in enumerate(lines, start=1):
        values = line.split()
        if not values or values[0].startswith("#"):
            continue
        if len(values) != n_columns:
            raise FeatlabError(
                f"{file} line {number} must have {n_columns} values, got {line[:80]!r}; "
                f"{mend(file.parent)}"
            )
        yield values


def csv_bytes(rows: Iterable[Sequence[object]], columns: Sequence[str]) -> bytes:
    """Rows as a CSV file."""
    return pd.DataFrame(list(rows), columns=list(columns)).to_csv(index=False).encode()


def mend(folder: Path) -> str:
    """What to do about an unpacked folder that is not as it should be."""
    return f"delete the folder {folder} and run the same again."
