"""4. Where in the picture do they look? Boxes from the stored maps; the network is not run.

python analysis/04_localise.py [IMAGES] [--classes A,B] [--box-kind KIND] [-o FOLDER]
"""

import arguments

from featlab import features, heads, localise, neurons, pipeline, plots, splits
from featlab.store import MapStore

given = arguments.read(arguments.parser(__doc__))

with MapStore(given.store) as store:
    labels = store.images["label"]
    split = splits.make_split(store.images, random_state=0)
    X = features.feature_table(store)
    train, confirm = split == "train", split == "confirm"

    ranked = neurons.rank_neurons(X[train], labels[train])
    table = neurons.confirm_neurons(ranked, X[confirm], labels[confirm])
    scores = heads.evaluate_heads(X, labels, split, heads=("logistic",))
    weights = pipeline.detectors.class_weights(scores)

    where = localise.evaluate_localisation(
        store, split, neurons=table, weights=weights, box_kind=given.box_kind
    )

where.table.to_csv(given.folder / "localisation.csv", index=False)
columns = ["method", "supervision", "threshold", "n", "box_accuracy", "mean_iou", "centre_in_box"]
print(where.table[columns].round(3).to_string(index=False))

# %%
best = where.best(supervision=["image labels", "none"])  # without boxes to learn from
if best is None:
    print("no test image has a box")
else:
    print(f"hardest images, by {best['method']}:")
    hardest = where.per_image[where.per_image["method"] == best["method"]].sort_values("iou")
    print(hardest[["row", "label", "iou"]].head().to_string())

# %%
figure = plots.score_intervals(where.table, "box_accuracy").figure
figure.savefig(given.folder / "localisation.svg", bbox_inches="tight")
print(given.folder / "localisation.svg")
