"""From the store to the box, beside Grad-CAM of the same network, per image and in batches.

    python benchmarks/box.py [STORE] [--rounds 5] [--images 16]

Ours is everything from the finished store on: reading the maps, the class's heat map, threshold and
the box of the largest region, of every image. Grad-CAM makes heat maps only, from pictures that are
decoded already: image by image as tf-keras-vis does it (that library itself too, where it is
installed), and in compiled batches. The rounds take turns; a row is the median over them.

STORE is one of `featlab extract` whose pictures are still there. Without it a store of built-in
scenes is made first. Head weights are random: they change the heat, not the time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from limits import say
from scenes import network_of, scene_store

from featlab import backbones, gradients, images, localise
from featlab.images.pixels import resize_picture
from featlab.localise.heat import cam_heat
from featlab.store import MapStore

SCENES, THRESHOLD, BATCH = 240, 0.3, 32
OURS, PER_IMAGE, COMPILED = "featlab, store to box", "Grad-CAM per image", "Grad-CAM, compiled"
LIBRARY = "tf-keras-vis Grad-CAM per image"
Work = Callable[[], object]


def from_store(store: MapStore, weights: np.ndarray) -> np.ndarray:
    """The box of every image of the store."""
    heat = np.concatenate([cam_heat(maps, weights) for _, maps in store.iter_maps()])
    sizes = store.images[["width", "height"]].to_numpy(float)
    return localise.heat_boxes(heat, [THRESHOLD], frames=store.frames, sizes=sizes)[:, 0]


def headed_model(backbone: backbones.Backbone, weights: np.ndarray):
    """The network with a linear head, as a Keras model of raw scores."""
    import keras

    maps = backbone.model.outputs[0]
    head = keras.layers.Dense(2, name="head")
    model = keras.Model(
        backbone.model.inputs, head(keras.layers.GlobalAveragePooling2D()(maps)), name="headed"
    )
    head.set_weights([np.stack([weights, -weights], axis=1), np.zeros(2, np.float32)])
    return model


def per_image(backbone: backbones.Backbone, model, pixels: np.ndarray) -> Work:
    """Grad-CAM as tf-keras-vis does it: one eager tape for each picture, up-sampled by scipy."""
    import keras
    import tensorflow as tf
    from scipy import ndimage

    both = keras.Model(model.inputs, [*model.outputs, backbone.model.outputs[0]])

    def heat(picture: np.ndarray) -> np.ndarray:
        inputs = tf.constant(picture)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            scores, maps = both(inputs, training=False)
            score = scores[:, 0]
        slopes = tape.gradient(score, maps).numpy()
        cam = np.maximum((maps.numpy() * slopes.mean(axis=(1, 2), keepdims=True)).sum(axis=-1), 0)
        factors = (1, *(a / b for a, b in zip(picture.shape[1:3], cam.shape[1:], strict=True)))
        return ndimage.zoom(cam, factors, order=1)

    return lambda: [heat(picture[None]) for picture in pixels]


def by_library(model, layer: str, pixels: np.ndarray) -> Work | None:
    """tf-keras-vis itself, or None where it is not installed."""
    try:
        from tf_keras_vis.gradcam import Gradcam
        from tf_keras_vis.utils.scores import CategoricalScore
    except ImportError as error:
        print(f"tf-keras-vis is left out: {error}")
        return None
    cam, score = Gradcam(model, clone=False), CategoricalScore(0)
    find = {"penultimate_layer": layer, "seek_penultimate_conv_layer": False}
    return lambda: [cam(score, picture[None], **find) for picture in pixels]


def read_pictures(store: MapStore, n: int, size: tuple[int, int]) -> np.ndarray:
    root = store.root
    return np.stack(
        [
            resize_picture(images.decode_picture((root / path).read_bytes()), size)
            for path in store.images["path"][:n]
        ]
    )


def milliseconds(work: Work, n: int) -> tuple[float, float]:
    """By the clock and of the processor, an image."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return (
        1000 * (time.perf_counter() - wall) / n,
        1000 * (time.process_time() - processor) / n,
    )


def compare(path: Path, rounds: int, n: int) -> None:
    with MapStore(path) as store:
        weights = np.random.default_rng(0).normal(size=store.map_shape()[2]).astype(np.float32)
        backbone = network_of(store, engine="tensorflow", layers=store.layers[-1])
        pixels = read_pictures(store, 4 * n, backbone.input_size)
        model = headed_model(backbone, weights)
        coef = np.stack([weights, -weights])
        network = gradients.attach_head(backbone, ("a", "b"), coef, np.zeros(2))
        ready = (pixels[:n].astype(np.float32) - 127) / 128
        methods = {"methods": ["grad_cam"], "batch_size": BATCH}
        works: dict[str, tuple[Work | None, int]] = {
            OURS: (lambda: from_store(store, weights), len(store)),
            COMPILED: (
                lambda: gradients.cam_heats(network, pixels, ["a"] * len(pixels), **methods),
                len(pixels),
            ),
            PER_IMAGE: (per_image(backbone, model, ready), len(ready)),
            LIBRARY: (by_library(model, backbone.layers[-1], ready), len(ready)),
        }
        seconds: dict[str, list[tuple[float, float]]] = {}
        for turn in range(rounds + 1):
            for name, (work, count) in works.items():
                if work is not None:
                    spent = milliseconds(work, count)
                    if turn:  # The first one warms up.
                        seconds.setdefault(name, []).append(spent)
        print(f"{len(store)} images, maps {store.map_shape()}, {rounds} rounds; ms an image")
    print(f"{'':34s} {'by clock (least … most)':28s} of the processor")
    wall, cost = {}, {}
    for name, spent in seconds.items():
        clock, processor = zip(*spent, strict=True)
        wall[name], cost[name] = statistics.median(clock), statistics.median(processor)
        spread = f"({min(clock):.3f} … {max(clock):.3f})"
        print(f"{name:34s} {wall[name]:8.3f} {spread:19s} {cost[name]:8.3f}")
    say("store to box, ms an image by clock", wall[OURS], "<=", 0.5)
    slow = LIBRARY if LIBRARY in wall else PER_IMAGE
    say(f"{slow} / store to box", wall[slow] / wall[OURS], ">=", 100)
    say(f"{COMPILED} / store to box", wall[COMPILED] / wall[OURS], ">=", 15)


def main(store: Path | None, rounds: int, n: int) -> None:
    if store is not None:
        compare(store, rounds, n)
        return
    with tempfile.TemporaryDirectory() as work:
        compare(scene_store(Path(work), SCENES), rounds, n)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=16, help="for Grad-CAM image by image")
    given = parser.parse_args()
    main(given.store, given.rounds, given.images)
