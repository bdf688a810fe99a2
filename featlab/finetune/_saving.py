"""The results of a transfer study as tables on disk: nothing in them can run when read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd

from featlab.errors import FeatlabError
from featlab.results.transfer import Transfer

FORMAT, VERSION = "featlab-transfer", "1.0"
_ABOUT = "transfer.json"
_OPTIONAL = ("detectors", "neurons", "small_images")


def save_transfer(transfer: Transfer, folder: str | os.PathLike[str]) -> Path:
    """Write the tables as ``transfer_<name>.parquet``, and ``transfer.json`` last.

    Parameters
    ----------
    transfer : Transfer
    folder : path-like
        Made if it is not there.

    Returns
    -------
    Path
        Of ``transfer.json``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _ABOUT
    path.unlink(missing_ok=True)  # until all tables are there, there are no results
    for name, table in transfer.tables().items():
        table.to_parquet(_path(folder, name), index=False)
    about = {
        "format": FORMAT,
        "version": VERSION,
        "tables": list(transfer.tables()),
        "about": transfer.about,
    }
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(about, indent=1, ensure_ascii=False), "utf-8")
    os.replace(part, path)
    return path


def load_transfer(folder: str | os.PathLike[str]) -> Transfer:
    """Read what :func:`save_transfer` wrote.

    Raises
    ------
    FeatlabError
        No results there, an unknown version, a table missing or damaged.
    """
    folder = Path(folder)
    path = folder / _ABOUT
    if not path.is_file():
        raise FeatlabError(
            f"there are no finished results in {folder}; make them with `featlab finetune`."
        )
    try:
        found = json.loads(path.read_text("utf-8"))
        kind, version = found["format"], found["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise FeatlabError(f"{path} is damaged: {error}") from error
    if (kind, version) != (FORMAT, VERSION):
        raise FeatlabError(
            f"{path} is {kind} version {version}, this featlab reads {FORMAT} {VERSION}; you may "
            "need to update."
        )
    tables: dict[str, pd.DataFrame | None] = dict.fromkeys(_OPTIONAL)
    for name in found["tables"]:
        try:
            tables[name] = pd.read_parquet(_path(folder, name))
        except (OSError, ValueError) as error:
            raise FeatlabError(f"{_path(folder, name)} is missing or damaged: {error}") from error
    return Transfer(**tables, about=found["about"])  # type: ignore[arg-type]


def _path(folder: Path, name: str) -> Path:
    return folder / f"transfer_{name}.parquet"
