"""featlab: what a frozen network already knows about your images.

The network runs once; everything after that works from the file it leaves::

    from featlab import images, backbones, extract, splits, features, heads, neurons, localise

    table, boxes = images.index_images("my_pictures")             # <class>/*.jpg
    backbone = backbones.load_backbone("efficientnet_lite0")
    store = extract.extract_maps(table, backbone, "maps.h5", boxes=boxes)

    split = splits.make_split(store.images)                       # train / confirm / test
    X, y = features.feature_table(store, "mean"), store.images["label"]
    scores = heads.evaluate_heads(X, y, split)

    train, confirm = split == "train", split == "confirm"
    ranked = neurons.rank_neurons(X[train], y[train])             # chosen here ...
    table = neurons.confirm_neurons(ranked, X[confirm], y[confirm])  # ... judged there
    where = localise.evaluate(store, split, neurons=table)

Submodules load when they are first named; ``import featlab`` loads no TensorFlow.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from featlab._errors import FeatlabError

if TYPE_CHECKING:
    from featlab import (
        audit,
        backbones,
        boxes,
        boxheads,
        cli,
        datasets,
        embed,
        extract,
        features,
        finetune,
        gradients,
        heads,
        images,
        localise,
        neurons,
        pipeline,
        plots,
        report,
        splits,
        store,
    )

__version__ = "0.1.0"

_SUBMODULES = (
    "audit",
    "backbones",
    "boxes",
    "boxheads",
    "cli",
    "datasets",
    "embed",
    "extract",
    "features",
    "finetune",
    "gradients",
    "heads",
    "images",
    "localise",
    "neurons",
    "pipeline",
    "plots",
    "report",
    "splits",
    "store",
)

__all__ = [
    "FeatlabError",
    "__version__",
    "audit",
    "backbones",
    "boxes",
    "boxheads",
    "cli",
    "datasets",
    "embed",
    "extract",
    "features",
    "finetune",
    "gradients",
    "heads",
    "images",
    "localise",
    "neurons",
    "pipeline",
    "plots",
    "report",
    "splits",
    "store",
]


def __getattr__(name: str) -> ModuleType:
    if name in _SUBMODULES:
        return importlib.import_module(f"featlab.{name}")
    raise AttributeError(f"module 'featlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
