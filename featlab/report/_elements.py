"""What a page is made of: sections, their prose, tables and figures, and the literature; a page."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from featlab.errors import FeatlabError
from featlab.plots.style import encode, themed
from featlab.system.processes import each, others_are_there

if TYPE_CHECKING:
    from matplotlib import axes, figure

MAX_ROWS = 40
_TEMPLATES = Path(__file__).parents[1] / "templates"
_PLAIN = " =:/;,+()*!~$@?"  # what an address keeps in an attribute
_QUOTED = "%" + "".join(c for c in map(chr, range(128)) if c != "%" and quote(c, safe=_PLAIN) != c)
_PICTURE_DPI = 110
_DPI = 150
_PIXELS_PER_INCH = 96
_MARK = re.compile(r" \[@([^]]*)\]")


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
class Drawing:
    """A figure as the page holds it: its address and width (CSS pixels), and its words."""

    uri: str
    width: int
    alt: str
    caption: str
    pictures: bool


@dataclass(frozen=True)
class Figure:
    """A figure with its words, not drawn yet.

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
        Whether it is made of photographs, which the page holds as JPEG inside the drawing.
    """

    draw: Callable[[], axes.Axes | figure.Figure]
    alt: str
    caption: str
    file: str
    pictures: bool = False

    @property
    def dpi(self) -> int:
        """Pixels per inch of what is not drawn as lines."""
        return _PICTURE_DPI if self.pictures else _DPI

    def drawing(self) -> Drawing:
        """Draw it."""
        drawn = self.draw()
        svg = themed(encode(drawn, "svg", dpi=self.dpi, photographs=self.pictures))
        whole: Any = getattr(drawn, "figure", drawn)
        width = round(whole.get_figwidth() * _PIXELS_PER_INCH)
        return Drawing(_address(svg), width, self.alt, self.caption, self.pictures)


def _address(svg: str) -> str:
    """An SVG as an attribute holds it; letter by letter it is shorter than in base64."""
    if not svg.isascii():
        return f"data:image/svg+xml,{quote(svg, safe=_PLAIN)}"
    for character in _QUOTED:  # `quote` asks for each letter, which takes eight times as long
        svg = svg.replace(character, f"%{ord(character):02X}")
    return f"data:image/svg+xml,{svg}"


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
    drawings : mapping
        The same, drawn, where :func:`drawn_beside` made them.
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
    drawings: Mapping[str, Drawing | list[Drawing] | None] = field(default_factory=dict)
    files: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    link: str = ""

    def every_figure(self) -> list[Figure]:
        """Those that there are."""
        every: list[Figure] = []
        for entry in self.figures.values():
            every += entry if isinstance(entry, list) else [entry] if entry is not None else []
        return every


@contextmanager
def drawn_beside(sections: Sequence[Section]) -> Iterator[Callable[[], list[Section]]]:
    """Have other processes draw every figure meanwhile, where there are some.

    What is yielded returns the sections with their drawings: it awaits them, and draws here what
    has not begun there.
    """
    figures = [figure for section in sections for figure in section.every_figure()]
    figures.sort(key=lambda figure: not figure.pictures)  # which take longest

    if not others_are_there():
        yield lambda: _with_drawings(sections, figures, map(Figure.drawing, figures))
        return
    with each(Figure.drawing, figures) as results:
        yield lambda: _with_drawings(sections, figures, results())


def _with_drawings(
    sections: Sequence[Section], figures: Sequence[Figure], drawings: Iterable[Drawing]
) -> list[Section]:
    of = {id(figure): made for figure, made in zip(figures, drawings, strict=True)}

    def entry(one: Figure | list[Figure] | None) -> Drawing | list[Drawing] | None:
        return [of[id(each)] for each in one] if isinstance(one, list) else of.get(id(one))

    return [
        replace(section, drawings={name: entry(one) for name, one in section.figures.items()})
        for section in sections
    ]


def drawn(sections: Sequence[Section]) -> list[Section]:
    """The sections with every figure drawn, here."""
    with drawn_beside(sections) as made:
        return made()


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


# ---------------------------------------------------------------------------------- the literature


def _data(name: str) -> dict[str, Any]:
    """What a file of ``templates`` holds."""
    return dict(json.loads((_TEMPLATES / name).read_text("utf-8")))


@dataclass(frozen=True)
class Reference:
    """Who, when, what and where; `doi` or `arxiv` where there is one."""

    text: str
    doi: str = ""
    arxiv: str = ""

    @property
    def label(self) -> str:
        """How the link is read: ``doi:10.1214/…``, ``arXiv:1412.6806`` or nothing."""
        if self.doi:
            return f"doi:{self.doi}"
        return f"arXiv:{self.arxiv}" if self.arxiv else ""

    @property
    def url(self) -> str:
        """Where the link leads; it is followed only by whoever clicks it."""
        if self.doi:
            return f"https://doi.org/{self.doi}"
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""


@dataclass
class Citations:
    """Counts what is cited; the first mention gives a work its number."""

    keys: list[str] = field(default_factory=list)

    def cite(self, *keys: str) -> str:
        """``" [1, 4]"``, with the space before it; empty for works that are not known."""
        known = [key for key in keys if key in REFERENCES]
        self.keys += [key for key in dict.fromkeys(known) if key not in self.keys]
        numbers = sorted(self.keys.index(key) + 1 for key in known)
        return f" [{', '.join(str(number) for number in numbers)}]" if numbers else ""

    def numbered(self, text: str) -> str:
        """The text with numbers for the marks of `cite`, in the order of their mention."""
        return _MARK.sub(lambda mark: self.cite(*mark[1].split(", ")), text)

    @property
    def cited(self) -> list[Reference]:
        """The works in the order of their numbers."""
        return [REFERENCES[key] for key in self.keys]


def cite(*keys: str) -> str:
    """A mark that becomes the numbers of these works."""
    return f" [@{', '.join(keys)}]"


REFERENCES = {key: Reference(**entry) for key, entry in _data("references.json").items()}


# ------------------------------------------------------------------------------------ the glossary


@dataclass(frozen=True)
class Term:
    """A word of the page that not every reader knows: its name, its forms, what it means."""

    name: str
    forms: tuple[str, ...]
    text: str

    @property
    def id(self) -> str:
        """Of its explanation on the page."""
        return "term-" + re.sub(r"\W+", "-", self.name.lower())


GLOSSARY = {
    name: Term(name, tuple(entry["forms"]), entry["text"])
    for name, entry in _data("glossary.json").items()
}
_BY_FORM = {form.lower(): term for term in GLOSSARY.values() for form in term.forms}
_FORMS = re.compile(
    r"([(“]?)(?<![\w-])("
    + "|".join(re.escape(form).replace(r"\ ", r"\s") for form in sorted(_BY_FORM, key=len)[::-1])
    + r")(?![\w-])([),.;:”]*)",
    re.IGNORECASE,
)
_TAG = re.compile(r"(<[^>]+>)")
# Where no button may stand, where names of the user do, and what gives way to the page's script.
_UNMARKED = re.compile(
    r"<(?:h[1-6]|a|button|summary|code|pre|bdi|thead|tbody|label|select|svg|canvas|script)\b"
    r"|<\w+ class=\"(?:interactive|twin|controls)"
)
_VOID = ("img", "br", "input", "rect")


@dataclass
class Glossary:
    """Marks the first mention of each term in a section, and again in a fold; knows which it met.

    A mark is a button that shows the explanation (a popover): it needs no script, and takes the
    keyboard and a finger as well as a pointer.
    """

    met: dict[str, Term] = field(default_factory=dict)

    def marked(self, html: str) -> Markup:
        """A section's markup with its marks."""
        known: list[set[str]] = [set()]  # of the section, then of each fold around the place
        opened: list[str] = []
        unmarked = 0  # how many of `opened` there were where marks stopped
        parts = []
        for part in _TAG.split(html):
            if not part.startswith("<"):
                parts.append(part if unmarked else self._marked(part, known[-1]))
                continue
            parts.append(part)
            name = part.strip("</>").split()[0]
            if part.startswith("</"):
                opened.pop()
                unmarked = unmarked if len(opened) >= unmarked else 0
                if name == "details":
                    known.pop()
            elif name not in _VOID:
                opened.append(name)
                if name == "details":
                    known.append(set(known[-1]))
                if not unmarked and _UNMARKED.match(part):
                    unmarked = len(opened)
        return Markup("".join(parts))

    def _marked(self, text: str, known: set[str]) -> str:
        def mark(match: re.Match[str]) -> str:
            before, form, after = match.groups()
            term = _BY_FORM[re.sub(r"\s", " ", form).lower()]
            if term.name in known:
                return match[0]
            known.add(term.name)
            self.met[term.name] = term
            button = f'<button type="button" class="term" popovertarget="{term.id}">'
            marked = f"{before}{button}{form}</button>{after}"
            # A line may end on either side of a button, even between it and a bracket.
            return f'<span class="whole">{marked}</span>' if before or after else marked

        return _FORMS.sub(mark, text)
