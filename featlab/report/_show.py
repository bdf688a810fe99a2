"""A written page inside a notebook."""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from pathlib import Path

from featlab.errors import FeatlabError


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
