"""Paired comparison of methods that were scored on the same images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError
from featlab.intervals import draws_interval
from featlab.localise.scoring import SCORES
from featlab.results.localisation import Localisation

COMPARISON_COLUMNS = [
    *("score", "method", "against", "n", "value", "value_against"),
    *("difference", "difference_low", "difference_high"),
]


def compare_methods(
    localisation: Localisation,
    *,
    against: str | None = None,
    scores: Sequence[str] = SCORES,
) -> pd.DataFrame:
    """Paired differences between methods: both on the same images in every resample.

    Parameters
    ----------
    localisation : Localisation
    against : str, optional
        The method the others are compared with; by default, for each score, the baseline that is
        best at it.
    scores : sequence of str
        From ``SCORES``.

    Returns
    -------
    DataFrame
        One row per score and method: score, method, against, n, value, value_against, difference,
        difference_low, difference_high (95 %, for each comparison by itself). Scores that are NaN
        (Top-1 Loc without predicted classes) are left out.

    Raises
    ------
    FeatlabError
        `against` or a score is unknown.
    """
    table = localisation.table.set_index("method")
    unknown = [name for name in scores if name not in SCORES]
    if unknown or (against is not None and against not in table.index):
        raise FeatlabError(
            f"scores must be from {', '.join(SCORES)} and against from {', '.join(table.index)}, "
            f"got {list(scores)} and {against!r}."
        )
    rows = []
    for score in scores:
        values = table[score].dropna().astype(float)
        rivals = values[table.loc[values.index, "baseline"].astype(bool)]
        rival = str(rivals.idxmax()) if against is None and len(rivals) else str(against)
        if rival not in values:
            continue
        for method in values.index.drop([rival]):
            low, high = _interval(
                localisation.draws[method, score].to_numpy()
                - localisation.draws[rival, score].to_numpy(),
                localisation.table.attrs["n_groups"],
            )
            rows.append(
                {
                    "score": score,
                    "method": method,
                    "against": rival,
                    "n": int(table.loc[method, "n"]),
                    "value": values[method],
                    "value_against": values[rival],
                    "difference": values[method] - values[rival],
                    "difference_low": low,
                    "difference_high": high,
                }
            )
    return pd.DataFrame(rows, columns=COMPARISON_COLUMNS)


def _interval(draws: np.ndarray, n: int) -> tuple[float, float]:
    """Percentile interval of a paired difference in [-1, 1] from its draws."""
    draws = draws[~np.isnan(draws)]
    if len(draws) and draws.min() == draws.max() and abs(draws[0]) == 1:
        low, high = draws_interval(np.abs(draws), n)
        return (low, high) if draws[0] > 0 else (-high, -low)
    if not len(draws):
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
