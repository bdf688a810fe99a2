"""The tables that lie beside the page, as CSV and Parquet."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from featlab.arguments import confirmed_detectors
from featlab.errors import FeatlabError
from featlab.report._summary import plain, summary
from featlab.results.analysis import Results
from featlab.results.audit import Audit

_NEURON = ["layer", "class", "neuron"]
# What a spreadsheet takes for a formula; the wide signs are those of East Asian keyboards.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def tables_for(results: Results) -> dict[str, pd.DataFrame]:
    """The full tables behind a report.

    Returns
    -------
    dict of str to DataFrame
        ``heads``; ``neurons``; ``detectors``, the confirmed ones with their pointing scores where
        there are any; ``localisation`` where boxes were scored.
    """
    tables = {
        "heads": results.heads.table,
        "neurons": results.neurons if results.all_neurons is None else results.all_neurons,
        "detectors": _with_units(
            _with_pointing(confirmed_detectors(results.neurons), results.pointing), results.units
        ),
    }
    if results.units is not None:
        tables["units"] = results.units
    if results.per_class is not None:
        tables["per_class"] = results.per_class
    if results.head_details is not None:
        tables["head_pairs"] = results.head_details.pairs
        tables["calibration"] = results.head_details.calibration
        tables["learning_curve"] = results.head_details.learning
    if results.box_details is not None:
        tables["boxes"] = results.box_details.statistics
        tables["localisation_pairs"] = results.box_details.pairs
        if results.box_details.heads is not None:
            tables["box_heads"] = results.box_details.heads
    if results.detector_details is not None and results.detector_details.omnibus is not None:
        tables["omnibus"] = results.detector_details.omnibus
    if results.transfer is not None:
        tables |= {f"transfer_{name}": t for name, t in results.transfer.tables().items()}
    if results.glance is not None:
        found = results.glance.overview
        tables["embedding"] = results.store.images[["path", "label"]].join(
            found.embedding.coordinates, how="right"
        )
        tables["separation"] = found.separation
        if found.misclassified is not None:
            tables["misclassified"] = found.misclassified
    if results.audit is not None:
        tables["audit"] = results.audit.summary
        tables["audit_images"] = _flagged_images(results.audit)
        tables["confounds"] = results.audit.confounds
    if results.localisation is not None:
        tables["localisation"] = results.localisation.table
    return tables


def write_tables(results: Results, folder: str | os.PathLike[str]) -> list[Path]:
    """Write every table as ``<name>.csv`` and ``<name>.parquet``, each complete or not at all.

    In CSV, text that a spreadsheet would run as a formula is preceded by an apostrophe, as
    :func:`write_csv` tells; Parquet keeps it as it is.

    Parameters
    ----------
    results : Results
    folder : path-like
        Made if it is not there.

    Returns
    -------
    list of Path
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, table in tables_for(results).items():
        for suffix in (".csv", ".parquet"):
            written.append(folder / f"{name}{suffix}")
            write_table(table, written[-1])
    return written


def write_table(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write one table as CSV or Parquet, by the suffix of `path`, complete or not at all.

    The parameters in ``table.attrs`` go with it: into the Parquet file, from which pandas reads
    them back, and for CSV, which has no place for them, into ``<path>.json``.

    Raises
    ------
    FeatlabError
        Another suffix than ``.csv`` or ``.parquet``.
    """
    path, table = Path(path), table.copy()
    table.attrs = plain(dict(table.attrs))
    if path.suffix == ".csv":
        write_csv(table, path)
        if table.attrs:
            text = json.dumps(table.attrs, indent=1, ensure_ascii=False)
            parameters = path.with_name(path.name + ".json")
            replace(parameters, lambda file: file.write_text(text, "utf-8"))
    elif path.suffix == ".parquet":
        replace(path, partial(table.to_parquet, index=False))
    else:
        raise FeatlabError(f"a table is written as .csv or .parquet, got {path.name}.")


def _with_units(detectors: pd.DataFrame, units: pd.DataFrame | None) -> pd.DataFrame:
    if units is None or units.empty:
        return detectors
    fires = units[[*_NEURON, "auroc_inside", "verdict"]].rename(columns={"verdict": "fires"})
    merged = detectors.merge(fires, on=_NEURON, how="left")
    merged.attrs = dict(detectors.attrs)
    return merged


def _flagged_images(found: Audit) -> pd.DataFrame:
    """Every image that a check names, with the reason."""
    duplicates = pd.DataFrame(
        {
            "path": found.duplicates["path_a"],
            "finding": found.duplicates["kind"].astype(str) + " duplicate",
            "other": found.duplicates["path_b"],
        }
    )
    errors = pd.DataFrame(
        {
            "path": found.label_errors["path"],
            "finding": "label error?",
            "other": found.label_errors["suggested"],
        }
    )
    outliers = pd.DataFrame(
        {"path": found.outliers["path"], "finding": "outlier", "other": found.outliers["label"]}
    )
    return pd.concat([duplicates, errors, outliers], ignore_index=True).astype(str)


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file, flush it, then give it its final name in one step.

    Raises
    ------
    FeatlabError
        The system does not let the file be written; an earlier one of that name is still whole.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise FeatlabError(
            f"{path} could not be written: {_reason(error)}; make room or give another folder, and "
            "run the same again."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    full = "No space left" in str(error)  # pyarrow's errors have no number
    return "no space left on the disk" if full else error.strerror or str(error)


def write_csv(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    r"""Write a table that a spreadsheet can open without running anything in it.

    Text (and a column's name) that a spreadsheet would take for a formula gets an apostrophe in
    front: text that begins with ``= + - @``, their wide forms, a tab or a line break, whether or
    not there are apostrophes before that. To have the text back, take one apostrophe off whatever
    matches ``'+[=+@\-＝＋－＠\t\r\n]``; or read the Parquet file, which has it as it was.
    """
    harmless = table.rename(columns=_harmless)
    for column in harmless.columns:
        if not pd.api.types.is_numeric_dtype(harmless[column].dtype):
            harmless[column] = harmless[column].map(_harmless)
    replace(
        Path(path),
        lambda file: harmless.to_csv(file, index=False, encoding="utf-8", lineterminator="\n"),
    )


def write_summary(results: Results, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Write :func:`summary` as JSON; returns it."""
    values = summary(results)
    text = json.dumps(values, indent=2, ensure_ascii=False)
    replace(Path(path), lambda file: file.write_text(text, "utf-8"))
    return values


def _harmless(value: Any) -> Any:
    """The value; with an apostrophe in front where a spreadsheet would run it."""
    if isinstance(value, str) and value.lstrip("'").startswith(_FORMULA):
        return f"'{value}"
    return value


def _with_pointing(detectors: pd.DataFrame, pointing: pd.DataFrame | None) -> pd.DataFrame:
    if pointing is None:
        return detectors
    scores = pointing.drop(columns="picture_centre").rename(columns={"n": "pointing_n"})
    merged = detectors.merge(scores, on=_NEURON, how="left")
    centres = pointing.drop_duplicates("class").set_index("class")["picture_centre"]
    merged["pointing_picture_centre"] = merged["class"].map(centres).astype(float)
    merged.attrs = dict(detectors.attrs)
    return merged
