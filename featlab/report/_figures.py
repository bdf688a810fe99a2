"""Every figure of the page, in one list, and the same figures as files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featlab.errors import FeatlabError
from featlab.plots.style import encode
from featlab.report import (
    _box_figures,
    _glance,
    _gradients,
    _head_figures,
    _neuron_figures,
    _transfer,
)
from featlab.report._drawing import Drawing
from featlab.report._tables import replace
from featlab.results.analysis import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")


def drawings(results: Results, head: str, max_examples: int, random_state: int) -> dict[str, Any]:
    """Every figure that these results allow, by its name on the page; None for the others."""
    return {
        **_head_figures.figures(results, head),
        **_neuron_figures.figures(results, head, max_examples, random_state),
        **_box_figures.figures(results, max_examples),
        **_glance.figures(results),
        **_gradients.figures(results),
        **_transfer.figures(results),
    }


def write_figures(
    results: Results,
    folder: str | os.PathLike[str],
    *,
    format: str = "svg",
    max_examples: int = 6,
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
    max_examples, random_state : int
        As for :func:`write_report`.

    Returns
    -------
    list of Path

    Raises
    ------
    FeatlabError
        Another format.
    """
    if format not in FORMATS:
        raise FeatlabError(f"format must be one of {', '.join(FORMATS)}, got {format!r}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    head = results.heads.main
    written = []
    for shown in _each(drawings(results, head, max_examples, random_state)):
        written.append(save_figure(shown.drawn, folder / f"{shown.file}.{format}", dpi=shown.dpi))
    return written


def save_figure(drawn: Axes | Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Write one figure, completely or not at all; text stays text.

    Parameters
    ----------
    drawn : Axes or Figure
        What a function of `featlab.plots` returned.
    path : path-like
        Its suffix says which format: .svg, .pdf or .png.
    dpi : int
        Pixels per inch of what is not drawn as lines.

    Returns
    -------
    Path

    Raises
    ------
    FeatlabError
        Another suffix, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise FeatlabError(f"path must end in .{', .'.join(FORMATS)}, got {path}.")
    data = encode(drawn, kind, dpi=dpi, text=True)
    replace(path, lambda file: file.write_bytes(data))
    return path


def _each(figures: dict[str, Drawing | list[Drawing] | None]) -> Iterator[Drawing]:
    for shown in figures.values():
        if isinstance(shown, list):
            yield from shown
        elif shown is not None:
            yield shown
