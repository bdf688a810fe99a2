"""2. How well do classical classifiers do on the stored features?

python analysis/02_heads.py [IMAGES] [--classes A,B] [--box-kind KIND] [-o FOLDER]
"""

import arguments

from featlab import features, heads, plots, splits
from featlab.store import MapStore

given = arguments.read(arguments.parser(__doc__))

with MapStore(given.store) as store:
    split = splits.make_split(store.images, random_state=0)
    X = features.feature_table(store)
    colour, images = store.colour_histogram, store.images

print(split.value_counts().to_string())

# %%
scores = heads.evaluate_heads(X, images["label"], split, colour=colour, groups=images["group"])
scores.table.to_csv(given.folder / "heads.csv", index=False)
print(scores.table[["head", "n", "accuracy", "accuracy_low", "accuracy_high"]].to_string())
print(scores.confusion("logistic").to_string())

# %%
figure = plots.score_intervals(scores.table, "accuracy").figure
figure.savefig(given.folder / "heads.svg", bbox_inches="tight")
print(given.folder / "heads.svg")
