"""Results → one self-contained HTML page, and the tables beside it.

The page needs no network, and is complete without its script. It is built by section: each has a
module with its facts, tables and figures, its prose in ``templates/sections``, and a place in
``page.SECTIONS``.
"""

from __future__ import annotations

from featlab.report._comparison import write_brief, write_comparison
from featlab.report._elements import show
from featlab.report.page import (
    summary,
    write_figures,
    write_predictions,
    write_report,
)

__all__ = [
    "show",
    "summary",
    "write_brief",
    "write_comparison",
    "write_figures",
    "write_predictions",
    "write_report",
]
