"""The page itself: figures, tables and sentences into one file."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Any

from featlab.arguments import confirmed_detectors, selected_detectors
from featlab.errors import FeatlabError
from featlab.report import _glance, _gradients, _overview, _transfer
from featlab.report import _words as words
from featlab.report._figures import drawings
from featlab.report._grids import grids
from featlab.report._interactive import PAGE_BYTES, interactive
from featlab.report._methods import methods
from featlab.report._tables import replace, write_tables
from featlab.report._template import filled_in
from featlab.results.analysis import Results

_SCRIPTS = (
    *("tables.js", "plot.js", "volcano.js", "explorer.js", "heat.js", "gallery.js"),
    *("embedding.js", "frame.js", "report.js"),
)
_DATA = '<script type="application/json" id="featlab-data">'


def write_report(
    results: Results,
    path: str | os.PathLike[str],
    *,
    max_examples: int = 6,
    random_state: int = 0,
) -> Path:
    """Write the results as one self-contained HTML page, and their tables beside it.

    The page opens offline and asks for nothing from outside. It is complete without its script,
    which adds sorting, the neuron explorer and the gallery; it appears under its name when it is
    whole, and keeps within 10 MB. The tables (``heads``, ``neurons``, ``detectors``,
    ``localisation``, each ``.csv`` and ``.parquet``) go to the same folder.

    Parameters
    ----------
    results : Results
    path : path-like
        The HTML file; its folder is made if it is not there, an earlier file replaced.
    max_examples : int
        Most images shown with heat maps in each figure; 0 for none.
    random_state : int
        Seed of the dots drawn in the distributions.

    Returns
    -------
    Path

    Raises
    ------
    FeatlabError
        `path` is a folder, or `max_examples` is negative.
    """
    path = Path(path)
    if path.is_dir():
        raise FeatlabError(f"path must be a file, got the folder {path}; add report.html to it.")
    if max_examples < 0:
        raise FeatlabError(f"max_examples must be 0 or more, got {max_examples}.")
    page = _render(results, max_examples, random_state)
    write_tables(results, path.parent)
    # A file name may hold lone surrogates, which UTF-8 cannot.
    replace(path, lambda temporary: temporary.write_bytes(page.encode("utf-8", "replace")))
    return path


def _render(results: Results, max_examples: int, random_state: int) -> str:
    head = results.heads.main
    tables: dict[str, Any] = dict(grids(results))
    sentences: dict[str, str] = {}
    for section in (_glance, _gradients, _transfer):
        tables |= section.tables(results)
        sentences |= section.sentences(results)
    paragraphs, references = methods(results)
    page = filled_in(
        "report.html",
        _SCRIPTS,
        figures=drawings(results, head, max_examples, random_state),
        tables=tables,
        methods=paragraphs,
        references=references,
        **_facts(results, head),
        **sentences,
    )
    # Names are escaped, so that none can look like this; the data gets the bytes that are left.
    before, place, after = page.rpartition(_DATA)
    free = PAGE_BYTES - len(page.encode("utf-8", "replace"))
    return f"{before}{place}{interactive(results, free)}{after}"


def _facts(results: Results, head: str) -> dict[str, Any]:
    provenance, images = results.store.provenance, results.store.images
    verdict, figures = words.localisation_answer(results)
    strip = _overview.checks(results)
    root = PurePath(str(images.attrs.get("root", "")).replace("\\", "/")).name
    return {
        "data_set": words.name(root or "an image folder"),
        "backbone": str(provenance.get("backbone", "a frozen network")),
        "n_images": len(images),
        "created": str(provenance.get("created_utc", "")),
        "version": str(provenance.get("featlab_version", "")),
        "data_answer": words.data_answer(results),
        "output_answer": words.output_answer(results, head),
        "detectors_answer": words.detectors_answer(results),
        "verdict": verdict,
        "verdict_good": verdict == words.BETTER,
        "localisation_answer": figures,
        "advantage": words.advantage(results.heads.table, head),
        "head": words.readable(head),
        "description": results.backbone_description or str(provenance.get("description", "")),
        "sizes": _sizes(results),
        "n_detectors": len(confirmed_detectors(results.neurons)),
        "n_selected": len(selected_detectors(results.neurons)),
        "needed": words.needed(results),
        "units_answer": words.units_answer(results),
        "checks": words.checks(results),
        "poolings": words.poolings(results),
        "box_kind": results.box_kind,
        "strip": strip,
        "strip_verdict": _overview.verdict(strip),
        "command": results.command,
        "python_lines": _overview.python_lines(results),
        "measured": words.scores(results) is not None,
        "explored": words.explored(results),
        "has_gallery": results.gallery is not None,
    }


def _sizes(results: Results) -> str:
    width, height = results.store.images["width"], results.store.images["height"]
    if (width.min(), height.min()) == (width.max(), height.max()):
        return f"All pictures have {width.min():,} × {height.min():,} pixels."
    return (
        f"Pictures have {width.median():,.0f} × {height.median():,.0f} pixels in the median "
        f"(width {width.min():,} to {width.max():,}, height {height.min():,} to "
        f"{height.max():,})."
    )
