"""Whether an image set is fit for the question."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from featlab.system import html


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes
    ----------
    check : str
        Its name.
    verdict : {"pass", "warn", "fail", "not done"}
    finding : str
        One sentence with the numbers.
    n : int
        Images it rests on.
    """

    check: str
    verdict: str
    finding: str
    n: int


@dataclass(frozen=True)
class Audit:
    """Is this image set fit for the question?

    Attributes
    ----------
    summary : DataFrame, one row per check
        ``check``, ``verdict`` ("pass", "warn", "fail" or "not done"), ``finding`` (one sentence),
        ``n`` (images it rests on).
    statistics : DataFrame of n rows
        ``path, label`` and the columns of :func:`picture_statistics`; row i is row i of the image
        table.
    confounds : DataFrame
        From :func:`confounds`.
    adjusted : DataFrame
        From :func:`adjusted_effects`.
    duplicates : DataFrame
        From :func:`duplicates`.
    label_errors : DataFrame
        From :func:`label_errors`, with ``path`` first.
    outliers : DataFrame
        The outliers only, from :func:`outliers`, with ``path`` first.
    """

    summary: pd.DataFrame
    statistics: pd.DataFrame
    confounds: pd.DataFrame
    adjusted: pd.DataFrame
    duplicates: pd.DataFrame
    label_errors: pd.DataFrame
    outliers: pd.DataFrame

    @property
    def verdict(self) -> str:
        """The worst verdict of the summary: "fail", "warn" or "pass"."""
        found = set(self.summary["verdict"])
        return next((word for word in ("fail", "warn") if word in found), "pass")

    def __repr__(self) -> str:
        told = self.summary["verdict"].value_counts()
        return f"<Audit: {self.verdict}; {', '.join(f'{n} {word}' for word, n in told.items())}>"

    def _repr_html_(self) -> str:
        flagged = {"Duplicates": self.duplicates, "Label errors?": self.label_errors}
        return html.block(
            f"Audit: {self.verdict}",
            html.table(self.summary),
            *(
                html.folded(f"{title}: {len(table):,}", html.table(table))
                for title, table in (flagged | {"Outliers": self.outliers}).items()
                if len(table)
            ),
        )
