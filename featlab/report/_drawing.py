"""A figure of the page: what is drawn, what it says to those who cannot see it, its file's name."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from featlab.plots.style import encode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MEDIA = {"svg": "image/svg+xml", "jpg": "image/jpeg"}
_PICTURE_DPI = 110
_DPI = 150
_PIXELS_PER_INCH = 96


@dataclass(frozen=True)
class Drawing:
    """A figure with its words.

    Attributes
    ----------
    drawn : Axes or Figure
    alt : str
        For those who cannot see it.
    caption : str
    file : str
        Name of its file, without suffix.
    pictures : bool
        Whether it is made of photographs, which the page holds as JPEG.
    """

    drawn: Axes | Figure
    alt: str
    caption: str
    file: str
    pictures: bool = False

    @cached_property
    def uri(self) -> str:
        """The figure as the page holds it."""
        kind = "jpg" if self.pictures else "svg"
        data = encode(self.drawn, kind, dpi=self.dpi)
        return f"data:{_MEDIA[kind]};base64,{base64.b64encode(data).decode('ascii')}"

    @property
    def width(self) -> int:
        """CSS pixels."""
        figure: Any = getattr(self.drawn, "figure", self.drawn)
        return round(figure.get_figwidth() * _PIXELS_PER_INCH)

    @property
    def dpi(self) -> int:
        """Pixels per inch of what is not drawn as lines."""
        return _PICTURE_DPI if self.pictures else _DPI


def drawing(
    drawn: Axes | Figure, alt: str, caption: str, kind: str = "svg", *, file: str
) -> Drawing:
    """A figure with its words; `kind` is "jpg" where it is made of photographs."""
    return Drawing(drawn, alt, caption, file, kind == "jpg")
