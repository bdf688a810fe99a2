"""What :func:`analyse_gradients` finds, on disk and back: tables and one file of arrays."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featlab import report
from featlab.errors import FeatlabError
from featlab.results.gradients import (
    CamExamples,
    DamExample,
    DamTrace,
    GradientExamples,
    GradientResults,
)

GRADIENT_TABLES = ("localisation", "sanity", "faithfulness", "faithfulness_curves")
_ARRAYS = "gradient_examples.npz"
_VERSION = 1


def save_gradients(results: GradientResults, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the tables (CSV and Parquet) and the examples (one ``.npz``, no pickles).

    Parameters
    ----------
    results : GradientResults
    folder : path-like
        Made if it is not there.

    Returns
    -------
    list of Path
        The files written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in GRADIENT_TABLES:
        for suffix in (".csv", ".parquet"):
            written.append(_table_path(folder, name, suffix))
            report.write_table(getattr(results, name), written[-1])
    temporary = folder / f".{_ARRAYS}.tmp.npz"
    np.savez_compressed(temporary, **_arrays(results))
    os.replace(temporary, folder / _ARRAYS)
    return [*written, folder / _ARRAYS]


def load_gradients(folder: str | os.PathLike[str]) -> GradientResults:
    """Read what :func:`save_gradients` wrote; runs no network.

    Gradients and heat maps come back in half precision, each scaled to a largest value of
    1, which is what a figure needs.

    Raises
    ------
    FeatlabError
        A file is missing or of another version.
    """
    folder = Path(folder)
    try:
        tables = {
            name: pd.read_parquet(_table_path(folder, name, ".parquet")) for name in GRADIENT_TABLES
        }
        with np.load(folder / _ARRAYS, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        facts = json.loads(str(arrays["facts"]))
    except (OSError, ValueError, KeyError) as error:
        raise FeatlabError(
            f"{folder} holds no finished results of `featlab gradients`: {error}. Make them again."
        ) from error
    if facts.pop("version") != _VERSION:
        raise FeatlabError(f"{folder} was written by another version of featlab; make it again.")
    return GradientResults(
        **tables,
        dam=[_dam_example(arrays, k) for k in range(facts.pop("n_dam"))],
        examples=GradientExamples(
            arrays["examples/pictures"],
            arrays["examples/labels"].tolist(),
            _below(arrays, "examples/maps/"),
        ),
        cams=CamExamples(
            arrays["cams/pictures"],
            arrays["cams/labels"].tolist(),
            [arrays[f"cams/true/{k}"] for k in range(len(arrays["cams/pictures"]))],
            _below(arrays, "cams/heats/"),
            _below(arrays, "cams/boxes/"),
        ),
        facts=facts,
    )


def _arrays(results: GradientResults) -> dict[str, Any]:
    facts = results.facts | {"version": _VERSION, "n_dam": len(results.dam)}
    arrays: dict[str, Any] = {"facts": np.array(json.dumps(facts))}
    for k, example in enumerate(results.dam):
        arrays[f"dam/{k}/preset"], arrays[f"dam/{k}/label"] = example.preset, example.label
        arrays[f"dam/{k}/true_boxes"] = example.true_boxes
        for field in fields(DamTrace):
            arrays[f"dam/{k}/trace/{field.name}"] = _small(getattr(example.trace, field.name))
    arrays["examples/pictures"] = results.examples.pictures
    arrays["examples/labels"] = np.array(results.examples.labels)
    arrays["cams/pictures"] = results.cams.pictures
    arrays["cams/labels"] = np.array(results.cams.labels)
    for k, true in enumerate(results.cams.true_boxes):
        arrays[f"cams/true/{k}"] = true
    for place, values in (
        ("examples/maps", results.examples.maps),
        ("cams/heats", results.cams.heats),
        ("cams/boxes", results.cams.boxes),
    ):
        for name, array in values.items():
            arrays[f"{place}/{name}"] = _small(array)
    return arrays


def _dam_example(arrays: dict[str, np.ndarray], k: int) -> DamExample:
    trace = _below(arrays, f"dam/{k}/trace/")
    trace["label"] = str(trace["label"])
    trace["map_shape"] = tuple(int(side) for side in trace["map_shape"])
    return DamExample(
        str(arrays[f"dam/{k}/preset"]),
        str(arrays[f"dam/{k}/label"]),
        DamTrace(**trace),
        arrays[f"dam/{k}/true_boxes"],
    )


def _below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}


def _small(values: Any) -> np.ndarray:
    """Float32 pictures scaled to their largest value, in half precision; the rest as it is."""
    array = np.asarray(values)
    if array.dtype != np.float32 or array.ndim < 3:
        return array
    top = np.abs(array).max(initial=0)
    return (array / top if top > 0 else array).astype(np.float16)


def _table_path(folder: Path, name: str, suffix: str) -> Path:
    return folder / f"gradients_{name}{suffix}"
