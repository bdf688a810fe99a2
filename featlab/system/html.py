"""Small pieces of HTML for notebooks: everything escaped, colours left to the notebook."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_MAX_ROWS = 12
_LONGEST = 240
_COUNTED = 10


def block(title: str, *parts: str) -> str:
    """A title above `parts`, which are HTML already."""
    return (
        f'<div><p style="margin:0 0 .4em"><strong>{text(title)}</strong></p>{"".join(parts)}</div>'
    )


def text(value: Any, longest: int | None = _LONGEST) -> str:
    """A value as escaped text in its own direction of writing, shortened to `longest` signs."""
    full = str(value)
    if longest is not None and len(full) > longest:
        return f'<bdi title="{escape(full)}">{escape(full[: longest - 1])}…</bdi>'
    return f"<bdi>{escape(full)}</bdi>"


def facts(pairs: Iterable[tuple[Any, Any]]) -> str:
    """Names and values in two columns."""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{text(name)}</th>'
        f'<td style="text-align:left">{text(value)}</td></tr>'
        for name, value in pairs
    )
    return f"<table><tbody>{rows}</tbody></table>"


def table(frame: pd.DataFrame) -> str:
    """The first rows of a table, numbers with three digits."""
    first = frame.head(_MAX_ROWS)
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in first.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{text(_cell(value))}</td>" for value in row) + "</tr>"
        for row in first.itertuples(index=False)
    )
    rest = len(frame) - len(first)
    more = f"<p>{rest:,} more rows</p>" if rest else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def folded(summary: str, content: str) -> str:
    """`content`, which is HTML already, behind a line to open it."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def counts(values: pd.Series) -> str:
    """`kangaroo 163, raccoon 194`; the first ten of many values."""
    counts = values.value_counts().sort_index()
    texts = [f"{value} {count:,}" for value, count in counts.head(_COUNTED).items()]
    rest = len(counts) - len(texts)
    return (", ".join(texts) + (f" and {rest} more" if rest else "")) or "none"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3g}"
    return str(value)
