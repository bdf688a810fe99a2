"""Tables as files that people and programs open."""

from __future__ import annotations

import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError
from featlab.system.files import write_whole

# What a spreadsheet takes for a formula; the wide signs are those of East Asian keyboards.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def write_table(table: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    r"""Write one table as CSV or Parquet, by the suffix of `path`, complete or not at all.

    The parameters in ``table.attrs`` go with it: into the Parquet file, from which pandas reads
    them back, and for CSV, which has no place for them, into ``<path>.json``.

    In CSV, text (and a column's name) that a spreadsheet would take for a formula gets an
    apostrophe in front: text that begins with ``= + - @``, their wide forms, a tab or a line break,
    whether or not there are apostrophes before that. To have the text back, take one apostrophe off
    whatever matches ``'+[=+@\-＝＋－＠\t\r\n]``; or read the Parquet file, which has it as it was.

    Raises
    ------
    FeatlabError
        Another suffix than ``.csv`` or ``.parquet``, or the file cannot be written.
    """
    path, table = Path(path), table.copy()
    table.attrs = plain(dict(table.attrs))
    if path.suffix == ".parquet":
        write_whole(path, partial(table.to_parquet, index=False))
    elif path.suffix == ".csv":
        write = partial(_harmless(table).to_csv, index=False, lineterminator="\n")
        write_whole(path, partial(write, encoding="utf-8"))
        if table.attrs:
            parameters = json.dumps(table.attrs, indent=1, ensure_ascii=False)
            write_whole(path.with_name(path.name + ".json"), parameters)
    else:
        raise FeatlabError(f"a table is written as .csv or .parquet, got {path.name}.")
    return path


def plain(value: Any) -> Any:
    """Any value as what JSON knows; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return None if value is None or value is pd.NA else str(value)


def _harmless(table: pd.DataFrame) -> pd.DataFrame:
    """The table; with an apostrophe in front of text that a spreadsheet would run."""
    table = table.rename(columns=_quoted)
    for column in table.columns:
        if not pd.api.types.is_numeric_dtype(table[column].dtype):
            table[column] = table[column].map(_quoted)
    return table


def _quoted(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip("'").startswith(_FORMULA):
        return f"'{value}"
    return value
