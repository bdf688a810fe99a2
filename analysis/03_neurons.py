"""3. Which neurons detect a class, and does it hold on images they were not chosen on?

python analysis/03_neurons.py [IMAGES] [--classes A,B] [--box-kind KIND] [-o FOLDER]
"""

import arguments

from featlab import features, neurons, pipeline, plots, splits
from featlab.store import MapStore

given = arguments.read(arguments.parser(__doc__))

with MapStore(given.store) as store:
    labels, groups = store.images["label"], store.images["group"]
    split = splits.make_split(store.images, random_state=0)
    X = features.feature_table(store)

train, confirm = split == "train", split == "confirm"
ranked = neurons.rank_neurons(X[train], labels[train], groups=groups[train])
table = neurons.confirm_neurons(ranked, X[confirm], labels[confirm], groups=groups[confirm])
table.to_parquet(given.folder / "neurons.parquet")

# How many hold on other images, and what the largest effects lose there:
print(neurons.confirmation(table).to_string())

# %%
# The leading at selection. Being confirmed flatters their AUROC, which this interval allows for;
# the medians above are of all selected:
detectors = neurons.select_neurons(table, most=5)
columns = ["class", "neuron", "auroc", "auroc_confirmed"]
columns += ["auroc_adjusted_low", "auroc_adjusted_high", "p_confirmed"]
print(detectors[columns].to_string())

# %%
# Frequent among the strongest is not the same as telling the classes apart:
print(neurons.softmax_top_k(X[train], labels[train]).head(8).to_string())

# %%
figure = plots.volcano(table, alpha=0.05, min_auroc=0.7).figure
figure.savefig(given.folder / "volcano.svg", bbox_inches="tight")
print(given.folder / "volcano.svg")

# %%
# The images that drive the best detector (or the first neuron, if none), and its map over them:
leading = (detectors if len(detectors) else table)["neuron"].iloc[0]
with MapStore(given.store) as store:
    card = pipeline.neuron_card(store, int(leading), table)
figure = plots.neuron_card(card)
figure.savefig(given.folder / "neuron.png", dpi=150)
print(given.folder / "neuron.png")
