"""Results → one self-contained HTML page, and the tables beside it.

The page needs no network, and is complete without its script. :class:`Results` says what the
caller fills in.
"""

from __future__ import annotations

from featlab.report._compare import write_comparison
from featlab.report._figures import save_figure, write_figures
from featlab.report._page import write_report
from featlab.report._show import Page, show
from featlab.report._summary import summary
from featlab.report._tables import tables_for, write_summary, write_table, write_tables

__all__ = [
    "Page",
    "save_figure",
    "show",
    "summary",
    "tables_for",
    "write_comparison",
    "write_figures",
    "write_report",
    "write_summary",
    "write_table",
    "write_tables",
]
