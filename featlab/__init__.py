"""featlab: what a frozen network already knows about your images.

The network runs once; everything after that works from the file it leaves::

    from featlab import images, backbones, extract, splits, features, heads, neurons, localise

    table, boxes, _ = images.index_images("my_pictures")             # <class>/*.jpg
    backbone = backbones.load_backbone("efficientnet_lite0")
    store = extract.extract_maps(table, backbone, "maps.h5", boxes=boxes)

    split = splits.make_split(store.images)                       # train / confirm / test
    X, y = features.feature_table(store), store.images["label"]
    scores = heads.evaluate_heads(X, y, split)

    train, confirm = split == "train", split == "confirm"
    ranked = neurons.rank_neurons(X[train], y[train])             # chosen here ...
    table = neurons.confirm_neurons(ranked, X[confirm], y[confirm])  # ... judged there
    where = localise.evaluate_localisation(store, split, neurons=table)

Submodules load when they are first named; ``import featlab`` loads no TensorFlow.
"""

import lazy_loader

# The rooms are listed once, in the stub beside this file.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
