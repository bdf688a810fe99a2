"""Sections into pages, and what lies beside a page: tables, figures, the summary."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from featlab.arguments import check_choice, check_whole
from featlab.errors import FeatlabError
from featlab.plots.style import FORMATS, save_figure
from featlab.report import _words as words
from featlab.report._data import data, network, set_overview
from featlab.report._elements import Options, Section
from featlab.report._heads import classification, own_classes
from featlab.report._interactive import PAGE_BYTES, interactive
from featlab.report._localisation import localisation
from featlab.report._methods import methods
from featlab.report._neurons import detectors
from featlab.report._predictions import asked, asked_lead, fitted, predictions, set_maps
from featlab.report._reruns import gradients, transfer
from featlab.report.overview import clusters, lead, overview, provenance, summary
from featlab.results.analysis import Results
from featlab.results.pictures import Predictions
from featlab.system.files import write_table, write_whole

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

_STYLES = ("style.css", "interactive.css")
_SCRIPTS = (
    *("tables.js", "plot.js", "volcano.js", "explorer.js", "heat.js", "gallery.js"),
    "predictions.js",
    *("embedding.js", "frame.js", "report.js"),
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
    page = _render(results, Options(most_examples, random_state))
    write_tables(results, path.parent)
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
    tables: dict[str, pd.DataFrame] = {}
    for section in _sections(results, Options()):
        tables |= section.files
    return tables_beside(Path(folder), tables)


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
        for figure in section.drawn()
    ]


def write_summary(results: Results, path: str | os.PathLike[str]) -> Path:
    """Write the figures that matter as JSON: images, heads, detectors, boxes, seconds."""
    path = Path(path)
    write_whole(path, json.dumps(summary(results), indent=2, ensure_ascii=False))
    return path


@dataclass(frozen=True)
class Page:
    """A page on the disk, which a notebook shows in a frame.

    Attributes
    ----------
    path : Path
    height : int
        Of the frame, in pixels.
    """

    path: Path
    height: int = 800

    def _repr_html_(self) -> str:
        # Its own policy still holds inside; the sandbox keeps its script from the notebook.
        return (
            f'<iframe title="{escape(self.path.name)}" sandbox="allow-scripts" '
            f'srcdoc="{escape(self.path.read_text("utf-8"))}" '
            f'style="width:100%;height:{self.height}px;border:1px solid #8888"></iframe>'
        )


def show(path: str | os.PathLike[str], *, height: int = 800) -> Page:
    """Show a report or comparison in a notebook.

    The whole page becomes part of the notebook's output, up to 10 MB; without a notebook, open
    the file in a browser.

    Parameters
    ----------
    path : path-like
        What ``write_report`` or ``write_comparison`` returned.
    height : int
        Of the frame, in pixels.

    Returns
    -------
    Page

    Raises
    ------
    FeatlabError
        There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FeatlabError(f"path must be a page that was written, got {path}; there is none.")
    return Page(path, height)


# -------------------------------------------------------------------------- for the comparison, too


def page_path(path: str | os.PathLike[str], name: str) -> Path:
    """Where a page goes; `name` is what it might be called where a folder was given."""
    path = Path(path)
    if path.is_dir():
        raise FeatlabError(f"path must be a file, got the folder {path}; add {name} to it.")
    return path


def tables_beside(folder: Path, tables: dict[str, pd.DataFrame]) -> list[Path]:
    """Each table as CSV and Parquet."""
    return [
        write_table(table, folder / f"{name}{suffix}")
        for name, table in tables.items()
        for suffix in (".csv", ".parquet")
    ]


def filled_in(sections: Sequence[Section], scripts: Sequence[str], **values: Any) -> str:
    """One page as text, with its style, its script and the policy that lets only that script run.

    Parameters
    ----------
    sections : sequence of Section
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
    script = f'"use strict";\n(() => {{\n{_source(environment, scripts)}}})();\n'
    return environment.get_template("page.html").render(
        style=Markup(_source(environment, _STYLES)),
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        sections=sections,
        **values,
    )


def _sections(results: Results, options: Options) -> list[Section]:
    every = WITHOUT_LABELS if results.unlabelled else SECTIONS
    made = (section(results, options) for section in every)
    return [section for section in made if section is not None]


def _asked_page(predictions: Predictions) -> str:
    return filled_in(
        [asked(predictions)],
        ("tables.js", "predictions.js", "frame.js", "report.js"),
        kind="predictions",
        title="What it is, where it is, and how sure",
        lead=asked_lead(predictions) or "",
        version="",
        data=Markup('{"pictures": []}'),
    )


def _render(results: Results, options: Options) -> str:
    images, known = results.store.images, results.store.provenance
    page = filled_in(
        _sections(results, options),
        _SCRIPTS,
        kind="report",
        title=Markup("{}, seen by {}").format(
            words.name(words.folder(images) or "an image folder"),
            str(known.get("backbone", "a frozen network")),
        ),
        lead=lead(results),
        version=str(known.get("featlab_version", "")),
        data="",
    )
    # Names are escaped, so that none can look like this; the data gets the bytes that are left.
    before, place, after = page.rpartition(_DATA)
    free = PAGE_BYTES - len(page.encode("utf-8", "replace"))
    return f"{before}{place}{interactive(results, free)}{after}"


def _source(environment: jinja2.Environment, names: Sequence[str]) -> str:
    """The text of some templates, one after the other, not rendered."""
    assert environment.loader is not None
    return "\n".join(environment.loader.get_source(environment, name)[0] for name in names)
