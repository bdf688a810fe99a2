"""The command about the set: is it fit for the question?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from featlab.cli._options import BoxKind, Seed, Store
from featlab.cli._progress import quiet_bar

if TYPE_CHECKING:
    pass
from featlab.cli._folder import Folder, write_figures, write_tables


def audit(store: Store, box_kind: BoxKind = None, output: Folder = None, seed: Seed = 0) -> None:
    """Is the set fit for the question: duplicates, labels, outliers, confounds, colour alone."""
    from featlab import audit as room
    from featlab import features, plots, splits
    from featlab import heads as classifiers
    from featlab.pipeline import find_detectors
    from featlab.store import MapStore

    with MapStore(store) as opened:
        labels, groups = opened.images["label"], opened.images["group"]
        split = splits.make_split(opened.images, random_state=seed)
        X = features.feature_table(opened)
        scores = classifiers.evaluate_heads(
            X, labels, split, colour=opened.colour_histogram, groups=groups, random_state=seed
        )
        found = room.audit_set(
            opened,
            split,
            head_table=scores.table,
            neurons=find_detectors(X, labels, split, groups, random_state=seed),
            box_kind=box_kind,
            random_state=seed,
            progress=partial(quiet_bar, label="audit", unit="img"),
        )
    for _, row in found.summary.iterrows():
        print(f"{row['verdict']:>8}  {row['check']}: {row['finding']}")
    print(f"{found.verdict:>8}  in all")
    tables = vars(found) | {"audit": found.summary}
    write_tables(output, {name: tables[name] for name in tables if name != "summary"})
    write_figures(output, {"confounds": plots.confounds(found.confounds)})
