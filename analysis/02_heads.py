"""2. How well do classical classifiers do on the stored features?

python analysis/02_heads.py [STORE]
"""

import sys
from pathlib import Path

from featlab import features, heads, plots, splits
from featlab.store import MapStore

path = Path(sys.argv[1] if len(sys.argv) > 1 else "reports/analysis/maps.h5")

with MapStore(path) as store:
    split = splits.make_split(store.images, random_state=0)
    X = features.feature_table(store)
    colour, images = store.colour_histogram, store.images

print(split.value_counts().to_string())

# %%
scores = heads.evaluate_heads(X, images["label"], split, colour=colour, groups=images["group"])
scores.table.to_csv(path.with_name("heads.csv"), index=False)
print(scores.table[["head", "n", "accuracy", "accuracy_low", "accuracy_high"]].to_string())
print(scores.confusion("logistic").to_string())

# %%
figure = plots.score_intervals(scores.table, "accuracy").figure
figure.savefig(path.with_name("heads.svg"), bbox_inches="tight")
print(path.with_name("heads.svg"))
