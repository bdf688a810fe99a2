"""What fine-tuning did to the neurons: who tells the classes apart before, and who after."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from featlab.errors import FeatlabError

_KEY = ["class", "neuron"]


def detector_changes(
    before: pd.DataFrame,
    after: pd.DataFrame,
    unseen_before: pd.DataFrame,
    unseen_after: pd.DataFrame,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Detectors of a layer before and after fine-tuning, by class and by neuron.

    Neuron k after is neuron k before with other weights, so they are compared one by one.

    Parameters
    ----------
    before, after : DataFrame
        Neuron tables of one layer and pooling, chosen on train rows and confirmed on confirm rows.
    unseen_before, unseen_after : DataFrame
        ``class, neuron, auroc`` of all neurons, measured on the confirm rows.

    Returns
    -------
    classes : DataFrame, one row per class
        ``class``; ``selected_before, selected_after, replicated_before, replicated_after,
        replicated_both``: numbers of detectors active for the class; ``neurons``: those alive both
        times; ``median_before, median_after``: of the AUROC of those that were replicated then;
        ``spread_before, spread_after``: mean of abs(AUROC - 0.5) over all neurons alive both times;
        ``spearman``: rank correlation of their AUROC before and after.
    neurons : DataFrame, one row per class and neuron
        ``class, neuron, auroc_before, auroc_after`` (on confirm rows; NaN for a dead neuron),
        ``selected_before, selected_after, replicated_before, replicated_after``.

    Raises
    ------
    FeatlabError
        Tables of other classes or other numbers of neurons.

    Notes
    -----
    The fine-tuned network has learned from the train rows' labels, so what is selected there is
    selected with a bias that the frozen network has not; the confirm rows are new to both, and only
    what was measured on them is compared.
    """
    tables = []
    for chosen, unseen, when in (
        (before, unseen_before, "before"), (after, unseen_after, "after"),
    ):  # fmt: skip
        active = chosen["direction"] == "active"
        marked = chosen[_KEY].assign(
            **{
                f"selected_{when}": chosen["detector"] & active,
                f"replicated_{when}": chosen["replicated"] & active,
            }
        )
        measured = unseen[[*_KEY, "auroc"]].rename(columns={"auroc": f"auroc_{when}"})
        tables.append(marked.merge(measured, on=_KEY, validate="one_to_one"))
    neurons = tables[0].merge(tables[1], on=_KEY, validate="one_to_one")
    if not len(tables[0]) == len(tables[1]) == len(neurons) == len(before) == len(after):
        raise FeatlabError(
            "the neuron tables before and after must be of one layer each, with the same classes "
            f"and neurons, got {len(before)} and {len(after)} rows of which {len(neurons)} match."
        )
    order = [*_KEY, "auroc_before", "auroc_after", "selected_before", "selected_after"]
    neurons = neurons[[*order, "replicated_before", "replicated_after"]]
    parts = neurons.groupby("class", sort=True)
    return pd.DataFrame([_counts(str(name), part) for name, part in parts]), neurons


def _counts(name: str, part: pd.DataFrame) -> dict[str, object]:
    alive = part.dropna(subset=["auroc_before", "auroc_after"])
    measured = alive[["auroc_before", "auroc_after"]]
    counts = ["selected_before", "selected_after", "replicated_before", "replicated_after"]
    before, after = (measured[name].to_numpy(float) for name in measured)
    varies = len(alive) > 1 and np.ptp(before) > 0 and np.ptp(after) > 0
    return {
        "class": name,
        **{column: int(part[column].sum()) for column in counts},
        "replicated_both": int((part["replicated_before"] & part["replicated_after"]).sum()),
        "neurons": len(alive),
        "median_before": part.loc[part["replicated_before"], "auroc_before"].median(),
        "median_after": part.loc[part["replicated_after"], "auroc_after"].median(),
        "spread_before": float(np.abs(before - 0.5).mean()) if len(alive) else np.nan,
        "spread_after": float(np.abs(after - 0.5).mean()) if len(alive) else np.nan,
        "spearman": float(stats.spearmanr(before, after).statistic) if varies else np.nan,
    }
