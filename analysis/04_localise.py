"""4. Where in the picture do they look? Boxes from the stored maps; the network is not run.

python analysis/04_localise.py [STORE] [BOX_KIND]
"""

import sys
from pathlib import Path

from featlab import features, heads, localise, neurons, pipeline, plots, splits
from featlab.store import MapStore

path = Path(sys.argv[1] if len(sys.argv) > 1 else "reports/analysis/maps.h5")
kind = sys.argv[2] if len(sys.argv) > 2 else None

with MapStore(path) as store:
    labels = store.images["label"]
    split = splits.make_split(store.images, random_state=0)
    X = features.feature_table(store)
    train, confirm = split == "train", split == "confirm"

    ranked = neurons.rank_neurons(X[train], labels[train])
    table = neurons.confirm_neurons(ranked, X[confirm], labels[confirm])
    scores = heads.evaluate_heads(X, labels, split, heads=("logistic",))
    weights = pipeline.detectors.class_weights(scores)

    where = localise.evaluate_localisation(
        store, split, neurons=table, weights=weights, box_kind=kind
    )

where.table.to_csv(path.with_name("localisation.csv"), index=False)
columns = ["method", "supervision", "threshold", "n", "box_accuracy", "mean_iou", "centre_in_box"]
print(where.table[columns].round(3).to_string(index=False))

# %%
print("hardest images:")
detectors = where.per_image.query("method == 'detectors'").sort_values("iou")
print(detectors[["row", "label", "iou"]].head().to_string())

# %%
figure = plots.score_intervals(where.table, "box_accuracy").figure
figure.savefig(path.with_name("localisation.svg"), bbox_inches="tight")
print(path.with_name("localisation.svg"))
