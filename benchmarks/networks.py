"""Every network of the installed `keras.applications`: does it load, what does it give, how fast.

    python benchmarks/networks.py [NAME ...] [--size PX]

Random weights, TensorFlow, at the size that a network was trained at (or PX); for each a row of a
Markdown table: the layer kept by default, its maps, the preprocessing (a module of
`keras.applications`), parameters up to that layer, seconds of processor time until the first map
(build, draw the weights, trace, run) and for a picture after that (of two at once, the faster of
two calls); by the clock it is less, by as many cores as there are.
docs/backbones.md holds the table of the long form.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import time
from importlib.metadata import version

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from limits import say

from featlab import FeatlabError
from featlab.backbones import available_backbones, load_backbone

COLUMNS = ("network", "input", "layer", "maps", "preprocessing", "M weights", "s to load", "s each")
PICTURES = 2


def row_of(name: str, size: int | None) -> list[str] | None:
    """What the table says of a network; None where it gives no maps of several cells."""
    start = time.process_time()
    backbone = load_backbone(name, weights=None, input_size=size, engine="tensorflow")
    height, width = backbone.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (PICTURES, height, width, 3), np.uint8)
    (maps,) = backbone.forward(pixels[:1]).values()
    loaded = time.process_time() - start
    seconds = []
    for _ in range(2):
        start = time.process_time()
        backbone.forward(pixels)
        seconds.append((time.process_time() - start) / PICTURES)
    _, h, w, c = maps.shape
    if h * w < 2 or not np.isfinite(maps).all() or np.ptp(maps) == 0:
        return None
    module = backbone.preprocessing.removesuffix(".preprocess_input").rpartition(".")[2]
    millions = backbone.model.count_params() / 1e6
    numbers = [f"{millions:.1f}", f"{loaded:.0f}", f"{min(seconds):.2f}"]
    return [name, str(height), f"`{backbone.layers[0]}`", f"{h} × {w} × {c}", module, *numbers]


def main(names: list[str], size: int | None) -> None:
    import keras

    logging.disable(logging.WARNING)  # each has random weights
    print(f"Keras {version('keras')}, TensorFlow {version('tensorflow')}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    good = 0
    for name in names:
        try:
            row = row_of(name, size)
        except FeatlabError as error:
            row = None
            print(f"| {name} | {error} |")
        good += row is not None
        print(f"| {' | '.join(row or [name, 'no maps'])} |", flush=True)
        keras.backend.clear_session()
        gc.collect()
    say("networks of keras.applications that give maps, share", good / len(names), ">=", 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    every = [name for name in available_backbones() if not name.startswith("efficientnet_lite")]
    parser.add_argument("names", nargs="*", default=every)
    parser.add_argument("--size", type=int, default=None)
    given = parser.parse_args()
    main(given.names or every, given.size)
