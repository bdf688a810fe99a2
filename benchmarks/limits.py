"""Figures with their limits, printed so that a person and `benchmarks/run_all.py` can read them.

Not a benchmark itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(r"limit: (.+?) = (\S+) \((<=|>=) (\S+)\): (yes|NO)$")


@dataclass(frozen=True)
class Row:
    """A figure that has a limit.

    Attributes
    ----------
    name : str
        What was measured, with its unit.
    figure : float
    sign : {"<=", ">="}
        How the figure should stand to the limit.
    limit : float
    """

    name: str
    figure: float
    sign: str
    limit: float

    @property
    def reached(self) -> bool:
        """Whether the figure stands to its limit as it should."""
        return self.figure <= self.limit if self.sign == "<=" else self.figure >= self.limit


def line_of(row: Row) -> str:
    """The line that :func:`rows_in` reads."""
    reached = "yes" if row.reached else "NO"
    return f"limit: {row.name} = {row.figure:.4g} ({row.sign} {row.limit:g}): {reached}"


def say(name: str, figure: float, sign: str, limit: float) -> None:
    """Print a figure with its limit."""
    print(line_of(Row(name, figure, sign, limit)), flush=True)


def rows_in(output: str) -> list[Row]:
    """The figures with limits among what a script printed."""
    matches = filter(None, map(_LINE.match, output.splitlines()))
    return [Row(m[1], float(m[2]), m[3], float(m[4])) for m in matches]
