"""What a transfer study found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

_TABLES = ("comparison", "curves", "predictions", "detectors", "neurons", "small_images")


@dataclass(frozen=True)
class Transfer:
    """What a transfer study found; no network is needed to show it.

    Attributes
    ----------
    comparison, predictions : DataFrame
        Of :func:`compare_transfer`.
    curves : DataFrame
        ``name`` and the columns of ``FineTuned.curves``.
    detectors, neurons : DataFrame or None
        Of :func:`detector_changes`, by class and by neuron.
    small_images : DataFrame or None
        Accuracy from small copies of the pictures (``pipeline.small_images_table``).
    about : dict of str to object
        Backbone, parameters, versions; what JSON can hold.
    """

    comparison: pd.DataFrame
    curves: pd.DataFrame
    predictions: pd.DataFrame
    detectors: pd.DataFrame | None = None
    neurons: pd.DataFrame | None = None
    small_images: pd.DataFrame | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Those that there are, by name."""
        found = {name: getattr(self, name) for name in _TABLES}
        return {name: table for name, table in found.items() if table is not None}
