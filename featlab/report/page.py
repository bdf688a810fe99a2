"""Sections into pages, and what lies beside a page: tables, figures, the summary."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from featlab.arguments import (
    check_choice,
    check_whole,
    confirmed_detectors,
    selected_detectors,
    with_unseen_limits,
)
from featlab.errors import FeatlabError
from featlab.plots.style import FORMATS, save_figure
from featlab.report import _words as words
from featlab.report._answers import scored
from featlab.report._data import data, network, set_overview
from featlab.report._elements import Glossary, Options, Section, drawn, drawn_beside
from featlab.report._heads import classification, own_classes
from featlab.report._interactive import PAGE_BYTES, interactive
from featlab.report._localisation import localisation
from featlab.report._methods import methods
from featlab.report._neurons import detectors
from featlab.report._predictions import asked, asked_lead, fitted, predictions, set_maps
from featlab.report._reruns import gradients, transfer
from featlab.report.overview import clusters, lead, overview, provenance
from featlab.results.analysis import Results
from featlab.results.pictures import Predictions
from featlab.system.files import plain, write_table, write_whole

SECTIONS = (
    overview,
    data,
    network,
    classification,
    own_classes,
    set_overview,
    detectors,
    localisation,
    predictions,
    gradients,
    transfer,
    methods,
    provenance,
)
"""The report from top to bottom: ``(Results, Options) -> Section``, or None where there is none."""

WITHOUT_LABELS = (
    *(overview, data, network, own_classes, clusters, set_maps, gradients, provenance),
)
"""The same of a set without labels."""

_OWN_CLASSES = 3  # of the summary
_FILES_AT_ONCE = 4
_STYLES = ("style.css", "interactive.css")
_SCRIPTS = (
    *("tables.js", "plot.js", "volcano.js", "explorer.js", "heat.js", "gallery.js", "portraits.js"),
    "predictions.js",
    *("embedding.js", "frame.js", "report.js"),
)
PLAIN_SCRIPTS, NO_DATA = (
    ("tables.js", "predictions.js", "frame.js", "report.js"),
    Markup('{"pictures": []}'),
)
_DATA = '<script type="application/json" id="featlab-data">'


def write_report(
    results: Results,
    path: str | os.PathLike[str],
    *,
    most_examples: int = 6,
    random_state: int = 0,
) -> Path:
    """Write the results as one self-contained HTML page, and their tables beside it.

    The page opens offline and asks for nothing from outside. It is complete without its script,
    which adds sorting, the neuron explorer and the gallery; it appears under its name when it is
    whole, and keeps within 10 MB. The tables (`write_tables`) go to the same folder.

    Parameters
    ----------
    results : Results
    path : path-like
        The HTML file; its folder is made if it is not there, an earlier file replaced.
    most_examples : int
        Most images shown with heat maps in each figure; 0 for none.
    random_state : int
        Seed of the dots drawn in the distributions.

    Returns
    -------
    Path

    Raises
    ------
    FeatlabError
        `path` is a folder, or `most_examples` is negative.
    """
    path = page_path(path, "report.html")
    check_whole("most_examples", most_examples, 0)
    sections = _sections(results, Options(most_examples, random_state))
    page = _render(results, drawn_and_written(sections, path.parent))
    # A file name may hold lone surrogates, which UTF-8 cannot.
    write_whole(path, page.encode("utf-8", "replace"))
    return path


def write_predictions(predictions: Predictions, path: str | os.PathLike[str]) -> Path:
    """Write what a predictor says of pictures as one self-contained HTML page.

    Like the report it opens offline, asks for nothing, is complete without its script (which
    filters the pictures), and keeps within 10 MB: the more pictures, the smaller they are.

    Parameters
    ----------
    predictions : Predictions
    path : path-like
        The HTML file; its folder is made if it is not there, an earlier file replaced.

    Returns
    -------
    Path

    Raises
    ------
    FeatlabError
        `path` is a folder.
    """
    path = page_path(path, "predictions.html")
    blank = replace(predictions, pictures=dict.fromkeys(predictions.pictures, b""))
    spent = len(_asked_page(blank).encode("utf-8", "replace"))
    page = _asked_page(replace(predictions, pictures=fitted(predictions, PAGE_BYTES - spent)))
    write_whole(path, page.encode("utf-8", "replace"))
    return path


def write_tables(results: Results, folder: str | os.PathLike[str]) -> list[Path]:
    """Write every table as ``<name>.csv`` and ``<name>.parquet``, each complete or not at all.

    In CSV, text that a spreadsheet would run as a formula is preceded by an apostrophe; Parquet
    keeps it as it is.

    Parameters
    ----------
    results : Results
    folder : path-like
        Made if it is not there.

    Returns
    -------
    list of Path
    """
    return tables_beside(Path(folder), _tables(_sections(results, Options())))


def write_figures(
    results: Results,
    folder: str | os.PathLike[str],
    *,
    format: str = "svg",
    most_examples: int = 6,
    random_state: int = 0,
) -> list[Path]:
    """Write every figure of the page as a file of its own, each complete or not at all.

    Text stays text: an SVG names its font (DejaVu Sans) and can be searched and edited, a PDF
    holds it as TrueType. Photographs and large clouds of points are pixels inside the file.

    Parameters
    ----------
    results : Results
    folder : path-like
        Made if it is not there. Earlier files of the same names are replaced, others stay.
    format : {"svg", "pdf", "png"}
    most_examples, random_state : int
        As for :func:`write_report`.

    Returns
    -------
    list of Path

    Raises
    ------
    FeatlabError
        Another format.
    """
    check_choice("format", format, FORMATS)
    folder = Path(folder)
    return [
        save_figure(figure.draw(), folder / f"{figure.file}.{format}", dpi=figure.dpi)
        for section in _sections(results, Options(most_examples, random_state))
        for figure in section.every_figure()
    ]


def write_summary(results: Results, path: str | os.PathLike[str]) -> Path:
    """Write the figures that matter as JSON: images, heads, detectors, boxes, seconds."""
    path = Path(path)
    write_whole(path, json.dumps(summary(results), indent=2, ensure_ascii=False))
    return path


# -------------------------------------------------------------------------- for the comparison, too


def page_path(path: str | os.PathLike[str], name: str) -> Path:
    """Where a page goes; `name` is what it might be called where a folder was given."""
    path = Path(path)
    if path.is_dir():
        raise FeatlabError(f"path must be a file, got the folder {path}; add {name} to it.")
    return path


def tables_beside(folder: Path, tables: dict[str, pd.DataFrame]) -> list[Path]:
    """Each table as CSV and Parquet; some at a time, since a file waits until the disk has it."""
    files = [(name, suffix) for name in tables for suffix in (".csv", ".parquet")]
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        return list(pool.map(lambda one: write_table(tables[one[0]], folder / "".join(one)), files))


def drawn_and_written(sections: Sequence[Section], folder: Path) -> list[Section]:
    """Sections with their figures; the tables are written meanwhile, mostly waiting for a disk."""
    with drawn_beside(sections) as drawn, ThreadPoolExecutor(1) as beside:
        written = beside.submit(tables_beside, folder, _tables(sections))
        sections = drawn()
        written.result()
    return sections


def filled_in(sections: Sequence[Section], scripts: Sequence[str], **values: Any) -> str:
    """One page as text, with its style, its script and the policy that lets only that script run.

    Parameters
    ----------
    sections : sequence of Section
        With their drawings.
    scripts : sequence of str
        Files of ``templates`` that make up the script, in order.
    **values
        What ``page.html`` has besides: ``kind``, ``title``, ``lead``, ``version``, ``data``.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("featlab", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    glossary = Glossary()
    # On paper nothing opens.
    environment.filters["glossed"] = glossary.marked if values["kind"] != "brief" else Markup
    script = f'"use strict";\n(() => {{\n{_source(environment, scripts)}}})();\n'
    return environment.get_template("page.html").render(
        style=Markup(_source(environment, _STYLES)),
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        sections=sections,
        glossary=glossary,
        **values,
    )


def _sections(results: Results, options: Options) -> list[Section]:
    every = WITHOUT_LABELS if results.unlabelled else SECTIONS
    made = (section(results, options) for section in every)
    return [section for section in made if section is not None]


def _tables(sections: Sequence[Section]) -> dict[str, pd.DataFrame]:
    return {name: table for section in sections for name, table in section.files.items()}


def _asked_page(predictions: Predictions) -> str:
    return filled_in(
        drawn([asked(predictions)]),
        PLAIN_SCRIPTS,
        kind="predictions",
        title="What it is, where it is, and how sure",
        lead=asked_lead(predictions) or "",
        version="",
        data=NO_DATA,
    )


def _render(results: Results, sections: list[Section]) -> str:
    page = whole_page(results, sections, _SCRIPTS, "report", "")
    # Names are escaped, so that none can look like this; the data gets the bytes that are left.
    before, place, after = page.rpartition(_DATA)
    free = PAGE_BYTES - len(page.encode("utf-8", "replace"))
    return f"{before}{place}{interactive(results, free)}{after}"


def whole_page(
    results: Results, sections: list[Section], scripts: Sequence[str], kind: str, data: str
) -> str:
    """A page under the name of the set and its network."""
    images, known = results.store.images, results.store.provenance
    return filled_in(
        sections,
        scripts,
        kind=kind,
        title=Markup("{}, seen by {}").format(
            words.name(words.folder(images) or "an image folder"),
            str(known.get("backbone", "a frozen network")),
        ),
        lead=lead(results),
        version=str(known.get("featlab_version", "")),
        data=data,
    )


def _source(environment: jinja2.Environment, names: Sequence[str]) -> str:
    """The text of some templates, one after the other, not rendered."""
    assert environment.loader is not None
    return "\n".join(environment.loader.get_source(environment, name)[0] for name in names)


# ------------------------------------------------------------------------------- for other programs


def summary(results: Results) -> dict[str, Any]:
    """The figures that matter, without the tables.

    Parameters
    ----------
    results : Results

    Returns
    -------
    dict
        ``n_images, classes, backbone, map_shape`` (height, width, neurons of the last layer),
        ``heads`` (head → accuracy, low, high, n), ``detectors`` (class → n, best_neuron,
        auroc_selected, auroc_confirmed with its interval; being confirmed flatters it, so beside it
        n_selected and auroc_unseen_of_selected, the median of all selected),
        ``without_p`` (reason → pairs of class and neuron), ``localisation`` (method →
        box_accuracy, mean_iou, n), ``own_classes`` (class of the network's own → images that it
        calls so first, share; the three commonest), ``predicted_boxes`` (method, whether scored,
        where no box chose its threshold how that rule did elsewhere, and where they are known
        mean_iou and box_accuracy on test images: value, low, high, n), ``refitted_on`` (labelled
        images that ``model.featlab`` was fitted on after it was scored; 0 where it is the model
        that was scored), ``seconds`` (of each stage). None stands for what is not there or no
        number.
    """
    store = results.store
    confirmed = with_unseen_limits(confirmed_detectors(results.neurons))
    selected = selected_detectors(results.neurons)
    scores, predictions = scored(results), results.predictions
    if scores is not None:
        rows = scores.table
    else:  # without labels
        rows = pd.DataFrame() if results.set_maps is None else results.set_maps.table
    return plain(
        {
            "n_images": len(store.images),
            "classes": [str(name) for name in store.classes if name],
            "backbone": store.provenance.get("backbone"),
            "map_shape": list(store.map_shape()),
            "heads": {str(row["head"]): _head(row) for _, row in results.heads.table.iterrows()},
            "detectors": {
                str(name): _detectors(*(t[t["class"].eq(str(name))] for t in (confirmed, selected)))
                for name in store.classes
                if name
            },
            "without_p": _without_p(results.every_neuron),
            "localisation": {str(row["method"]): _boxes(row) for _, row in rows.iterrows()},
            "own_classes": {} if results.own is None else _own(results.own.called),
            "predicted_boxes": {} if predictions is None else predictions.about_boxes,
            "refitted_on": 0 if predictions is None else predictions.refitted,
            "clusters": _cluster_sizes(results),
            "left_out": dict(results.left_out),
            "seconds": dict(results.seconds),
        }
    )


def _cluster_sizes(results: Results) -> dict[str, int]:
    """Cluster → images."""
    if results.clusters is None:
        return {}
    table = results.clusters.table
    return {str(name): int(n) for name, n in zip(table["cluster"], table["n"], strict=True)}


def _own(called: pd.DataFrame) -> dict[str, Any]:
    """What the network calls most of the pictures."""
    whole = called[called["label"].eq("")].head(_OWN_CLASSES)
    return {
        str(row["own_class"]): {"images": int(row["images"]), "share": row["share"]}
        for _, row in whole.iterrows()
    }


def _head(row: pd.Series) -> dict[str, Any]:
    return {
        "accuracy": row["accuracy"],
        "low": row["accuracy_low"],
        "high": row["accuracy_high"],
        "n": int(row["n"]),
    }


def _without_p(neurons: pd.DataFrame) -> dict[str, int]:
    """Why rows have no p → how many."""
    if neurons.empty:  # of a set without labels: no neuron was tested
        return {}
    without = neurons.loc[neurons["p"].isna(), "reason"].value_counts()
    return {str(why): int(n) for why, n in without.items()}


def _detectors(of_class: pd.DataFrame, selected: pd.DataFrame) -> dict[str, Any]:
    """How many there are, the best of them, and all that were selected."""
    best = of_class.iloc[0] if len(of_class) else None
    return {
        "n": len(of_class),
        "best_neuron": None if best is None else int(best["neuron"]),
        "auroc_selected": None if best is None else best["auroc"],
        **{
            name: None if best is None else best[name]
            for name in ("auroc_confirmed", "auroc_confirmed_low", "auroc_confirmed_high")
        },
        "n_selected": len(selected),
        "auroc_unseen_of_selected": selected["auroc_confirmed"].median(),
    }


def _boxes(row: pd.Series) -> dict[str, Any]:
    return {**row[["box_accuracy", "mean_iou"]], "n": int(row["n"])}
