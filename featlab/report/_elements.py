"""What a page is made of: sections, with the facts of their prose, their tables and figures."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from featlab.plots.style import encode

if TYPE_CHECKING:
    from matplotlib import axes, figure

MAX_ROWS = 40
_MEDIA = {"svg": "image/svg+xml", "jpg": "image/jpeg"}
_PICTURE_DPI = 110
_DPI = 150
_PIXELS_PER_INCH = 96


@dataclass(frozen=True)
class Options:
    """How a page is drawn.

    Attributes
    ----------
    most_examples : int
        Most images shown with heat maps in each figure; 0 for none.
    random_state : int
        Seed of the dots drawn in the distributions.
    """

    most_examples: int = 6
    random_state: int = 0


@dataclass(frozen=True)
class Figure:
    """A figure with its words, drawn when its bytes are asked for.

    Attributes
    ----------
    draw : callable
        Makes an Axes or a matplotlib Figure.
    alt : str
        For those who cannot see it.
    caption : str
    file : str
        Name of its file, without suffix.
    pictures : bool
        Whether it is made of photographs, which the page holds as JPEG.
    """

    draw: Callable[[], axes.Axes | figure.Figure]
    alt: str
    caption: str
    file: str
    pictures: bool = False

    @property
    def uri(self) -> str:
        """The figure as the page holds it."""
        return self._drawn[0]

    @property
    def width(self) -> int:
        """CSS pixels."""
        return self._drawn[1]

    @property
    def dpi(self) -> int:
        """Pixels per inch of what is not drawn as lines."""
        return _PICTURE_DPI if self.pictures else _DPI

    @cached_property
    def _drawn(self) -> tuple[str, int]:
        drawing, kind = self.draw(), "jpg" if self.pictures else "svg"
        data = encode(drawing, kind, dpi=self.dpi)
        whole: Any = getattr(drawing, "figure", drawing)
        uri = f"data:{_MEDIA[kind]};base64,{base64.b64encode(data).decode('ascii')}"
        return uri, round(whole.get_figwidth() * _PIXELS_PER_INCH)


@dataclass(frozen=True)
class Table:
    """A table on the page; the first column heads its row, `text` columns are left-aligned."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    text: Sequence[int] = (0,)
    left_out: int = 0
    file: str = ""


@dataclass(frozen=True)
class Answer:
    """A question answered in short: a verdict of a few words, whether it is clear, the figures."""

    text: str
    verdict: str = ""
    clear: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a page, complete without its figures being drawn yet.

    Attributes
    ----------
    id : str
        Its anchor.
    title : str
    partial : str
        File in ``templates/sections`` that holds its prose.
    facts : mapping
        What the prose fills in: words, numbers, flags.
    tables : mapping of str to Table or None
        None for those that these results do not allow; so with the figures.
    figures : mapping of str to Figure, list of Figure or None
    files : mapping of str to DataFrame
        The full tables, which lie beside the page.
    link : str
        The title in the contents, where it is shorter.
    """

    id: str
    title: str
    partial: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Table | None] = field(default_factory=dict)
    figures: Mapping[str, Figure | list[Figure] | None] = field(default_factory=dict)
    files: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    link: str = ""

    def drawn(self) -> list[Figure]:
        """Every figure that there is."""
        every: list[Figure] = []
        for entry in self.figures.values():
            every += entry if isinstance(entry, list) else [entry] if entry is not None else []
        return every


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    text: Sequence[int] = (0,),
    *,
    total: int | None = None,
    file: str = "",
) -> Table | None:
    """The first rows as a table; None without rows. `total` counts rows already left out."""
    if not rows:
        return None
    total = len(rows) if total is None else total
    first = rows[:MAX_ROWS]
    return Table(caption, columns, first, text, total - len(first), file)


def rows_per_class(n_classes: int) -> int:
    """Rows per class of a table that has a block for each class."""
    most = 10 if n_classes <= 4 else 3
    return max(1, min(most, MAX_ROWS // max(n_classes, 1)))
