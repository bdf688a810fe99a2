"""A frozen network that turns pixels into feature maps."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featlab.backbones._engines import OPENVINO_BATCH, Engine, Run, kept_engine, make_engine
from featlab.backbones._files import PREPROCESSING, class_names, scale_pixels, scaling_of_words
from featlab.backbones.graphs import (
    find_head,
    last_map,
    output_of,
    remove_last_stride,
    spatial_layers,
)
from featlab.backbones.networks import (
    BUILT_IN,
    Source,
)
from featlab.errors import FeatlabError
from featlab.results.networks import Description
from featlab.store.network import OwnHead
from featlab.system.files import write_whole
from featlab.system.machine import usable_cores

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

OWN_STRIDE = "network's own"

_KEPT_BY = ("featlab", "keras", "openvino", "tensorflow")
# Pictures that OpenVINO may take at once; for how many seconds they are tried, and the share of the
# usual number's time that counts as quicker. Above so many ms a picture all is arithmetic.
_SIZES, _TRIED_FOR, _CLEARLY, _SLOW = (1, 2, OPENVINO_BATCH, 8), 1.0, 0.95, 30.0


class Backbone:
    """A frozen network with its own preprocessing; made by :func:`load_backbone`.

    The Keras model is built when it is first needed, so that a finished store is recognised
    without loading it. Pickling keeps the recipe, not the weights: another process builds it anew.
    """

    def __init__(
        self,
        source: Source,
        layers: tuple[str, ...] | None,
        output_stride: int | None,
        engine: str,
        precision: str,
        classifier: bool,
        recipe: Callable[[], Backbone],
    ) -> None:
        self._recipe, self._classifier = recipe, classifier
        self._source, self._requested_layers, self._requested_engine = source, layers, engine
        self.name, self.weights = source.name, source.weights
        self.preprocessing, self.output_stride = source.preprocessing, output_stride
        self.precision = precision

    @property
    def preprocess(self) -> Callable[[Any], Any]:
        """From pixels 0 to 255, as floats, to what the network takes."""
        return self._source.preprocess

    def __reduce__(self) -> tuple[Callable[[], Backbone], tuple[()]]:
        return self._recipe, ()

    def __repr__(self) -> str:
        return f"<Backbone {self.name}, {self.weights} weights>"

    @cached_property
    def network(self) -> keras.Model:
        """The whole Keras network, from scaled pixels to its last output."""
        network = self._source.build(self._source.input_size)
        network.trainable = False
        if self.output_stride is not None:
            network = remove_last_stride(network, self.output_stride)
        return network

    @cached_property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        if self._source.input_size is not None:
            return self._source.input_size
        _, height, width, _ = self.network.input_shape
        return height, width

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose maps :meth:`forward` gives."""
        if self._requested_layers is not None:
            return self._requested_layers
        if self._source.last_layer is not None:
            return (self._source.last_layer,)
        return (last_map(self.network),)

    @property
    def map_layers(self) -> dict[str, tuple[int, int, int]]:
        """Every layer that can be asked for: height, width and neurons of its maps."""
        onnx = self._source.onnx
        return spatial_layers(self.network) if onnx is None else dict(onnx.layers)

    @cached_property
    def model(self) -> keras.Model:
        """Keras model from scaled pixels ``(b, H, W, 3)`` to the list of the layers' maps."""
        import keras

        outputs = [output_of(self.network, layer) for layer in self.layers]
        for layer, maps in zip(self.layers, outputs, strict=True):
            if maps.shape[1] * maps.shape[2] == 1 and not layer.endswith("@cls"):
                logger.warning(
                    "layer %s of %s gives maps of one cell, which tell nothing of places: take a "
                    "larger input_size, or an earlier layer.",
                    layer,
                    self.name,
                )
        return keras.Model(self.network.inputs, outputs, name=f"{self.network.name}_maps")

    @cached_property
    def own_head(self) -> OwnHead | None:
        """The network's own classifier, where it has one that was asked for."""
        if self._source.head is not None:
            head = self._source.head()
            return head if head is not None and head.layer in self.layers else None
        return None if self._classified is None else self._classified[0]

    @cached_property
    def _classified(self) -> tuple[OwnHead, keras.KerasTensor] | None:
        names = self._source.class_names
        asked = self._classifier or names is not None
        if not asked:
            return None
        named = names is None or names.is_file()
        return find_head(self.network, self.layers[-1], partial(class_names, file=names), named)

    @cached_property
    def run_model(self) -> keras.Model:
        """As `model`; last the own logits ``(b, k)`` where the maps' means do not give them."""
        import keras

        if self.own_head is None or self.own_head.linear or self._classified is None:
            return self.model
        return keras.Model(self.network.inputs, [*self.model.outputs, self._classified[1]])

    def warn_of_scaling(self, read: Callable[[], np.ndarray], labels: Sequence[str]) -> None:
        """Warn where a file's own classifier knows labelled pictures better in another scaling.

        The pictures' pixels are read only where there is another scaling.
        """
        scaling, head = scaling_of_words(self.preprocessing), self.own_head
        if scaling is not None and head is not None:
            doubt = _better_scaling(self.run_model, head, scaling, read(), labels)
            if doubt:
                logger.warning("%s: %s", self.name, doubt)

    @cached_property
    def engine(self) -> Engine:
        """What runs :meth:`forward`; found when it is first asked for.

        The network is built for it, unless an earlier process kept it converted.
        """
        probe = _probe_picture(self.input_size)[np.newaxis]
        wanted, path = self._requested_engine, self._kept_path
        if self._source.onnx is not None:
            return self._source.onnx.engine(self.layers, wanted, self.precision, probe)
        kept = None if path is None else kept_engine(wanted, self.precision, path, probe)
        if kept is not None:
            return kept
        return make_engine(
            wanted, self.precision, self.run_model, self.preprocess, probe, kept=path
        )

    @property
    def _kept_path(self) -> Path | None:
        """Where it is kept converted; None where only the network itself tells what it is."""
        known = self.name in BUILT_IN and self._source.weights_file is not None
        return _kept_file(self.identity()) if known else None

    def settle(self) -> None:
        """Have OpenVINO take pictures by the number that is quickest here; for a long pass.

        Numbers are compared by a measurement of about a second, which is kept for the next time.
        Only such are taken as give the same maps to the last bit.
        """
        engine = self.engine
        if engine.sized is None:
            return
        here = {"precision": self.precision, "device": engine.device, "sizes": repr(_SIZES)}
        path = _kept_file(self.identity() | here).with_suffix(".txt")
        known = ""
        with suppress(OSError, ValueError):  # there is none, or a damaged one
            known = path.read_text("utf-8")
        if known in map(str, _SIZES):
            size = int(known)
        else:
            taken = _milliseconds(engine.run, engine.sized, _probe_picture(self.input_size))
            best = min(taken, key=lambda one: taken[one])
            clearly = taken[best] < _CLEARLY * taken[OPENVINO_BATCH]
            size = best if clearly else OPENVINO_BATCH
            words = ", ".join(f"{one}: {ms:.2f}" for one, ms in sorted(taken.items()))
            logger.info("OpenVINO, ms a picture by pictures at once: %s", words)
            with suppress(FeatlabError):
                write_whole(path, str(size).encode())
        logger.info("OpenVINO takes %d at once, as measured on %s", size, engine.device)
        run = engine.run if size == OPENVINO_BATCH else engine.sized(size)
        details = f"{size} at once"
        self.__dict__["engine"] = replace(engine, run=run, sized=None, details=details)

    @cached_property
    def weights_sha256(self) -> str:
        """Digest of the weights' file, or of the arrays where there is no one file."""
        if self._source.weights_file is not None:
            return hashlib.sha256(self._source.weights_file.read_bytes()).hexdigest()
        if self._source.onnx is not None:
            return self._source.onnx.digest()
        digest = hashlib.sha256()
        for array in self.network.get_weights():
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def identity(self) -> dict[str, str]:
        """Everything about the network that decides the maps, as strings; no forward pass."""
        height, width = self.input_size
        return {
            "backbone": self.name,
            "weights_sha256": self.weights_sha256,
            "input_size": f"{height} x {width}",
            "layers": json.dumps(self.layers),
            "output_stride": str(self.output_stride or OWN_STRIDE),
            "preprocessing": self.preprocessing,
            **({"classifier": "its own"} if self._classifier else {}),
        }

    def forward(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Maps of a batch of pictures; several threads may call it once :attr:`engine` is there.

        Parameters
        ----------
        pixels : ndarray of shape (b, H, W, 3), uint8
            RGB pictures of the backbone's input size; the backbone scales them itself.

        Returns
        -------
        dict of str to ndarray of shape (b, h, w, c), float32
        """
        return self.forward_own(pixels)[0]

    def forward_own(self, pixels: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """:meth:`forward`, and the logits ``(b, k)`` of an own head that is not linear."""
        outputs = list(self.engine.run(pixels))
        logits = outputs.pop() if len(outputs) > len(self.layers) else None
        return dict(zip(self.layers, outputs, strict=True)), logits

    def probe(self) -> dict[str, np.ndarray]:
        """Mean-pooled output on a fixed picture: layer → ``(c,)``; tells networks apart."""
        return dict(self._probed)

    @cached_property
    def _probed(self) -> dict[str, np.ndarray]:
        maps = self.forward(_probe_picture(self.input_size)[np.newaxis])
        return {layer: values[0].mean(axis=(0, 1)) for layer, values in maps.items()}

    def describe(self) -> Description:
        """Input, output shape in words, number of parameters and preprocessing."""
        height, width = self.input_size
        engine: Engine | None = self.engine if self._source.onnx else self.__dict__.get("engine")
        if engine is not None and engine.shapes:  # one that was kept knows, without the network
            shapes, parameters = engine.shapes, engine.parameters
        else:
            shapes = tuple(one.shape[1:] for one in self.model.outputs)
            parameters = self.model.count_params()
        outputs = {}
        for layer, (h, w, c) in zip(self.layers, shapes, strict=True):
            cell = f"{height / h:.4g}" + ("" if height * w == width * h else f" × {width / w:.4g}")
            outputs[layer] = f"{h} × {w} cells of {cell} px, {c} neurons"
        return Description(
            name=self.name,
            weights=self.weights,
            input_size=self.input_size,
            outputs=outputs,
            parameters=parameters,
            preprocessing=self.preprocessing,
        )


def _probe_picture(size: tuple[int, int]) -> np.ndarray:
    """A fixed picture with waves of several frequencies in each channel, uint8 ``(H, W, 3)``."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float64)
    waves = [np.sin(x / (3 + 4 * k)) * np.cos(y / (5 + 3 * k)) for k in range(3)]
    return np.stack([np.round(127.5 + 127.5 * wave) for wave in waves], axis=-1).astype(np.uint8)


_FAR_BETTER, _BY_CHANCE = 0.2, 0.01


def _better_scaling(
    model: keras.Model, head: OwnHead, scaling: str, pixels: np.ndarray, labels: Sequence[str]
) -> str:
    """What says that a network knows its own classes far better under another scaling, if so.

    Far better is a fifth of the pictures, by a sign test (of those that one of the two alone knows)
    at 0.01: a network that was trained on other scaled pixels runs without an error.

    Parameters
    ----------
    model : keras.Model
        From scaled pixels to maps, and the logits where `head` is not linear.
    head : OwnHead
    scaling : str
        The one that is asked for.
    pixels : ndarray of shape (n, H, W, 3), uint8
    labels : sequence of n str
        Those that are no class of `head` are left out. Where none is one, of as many classes, the
        classes are the labels in alphabetical order, as Keras takes them from folders.

    Returns
    -------
    str
        A sentence; empty where nothing speaks against `scaling`.
    """
    from scipy.stats import binomtest

    classes, folders = list(head.classes), sorted(set(labels))
    if not set(classes) & set(folders) and len(classes) == len(folders):
        classes = folders
    rows = [row for row, label in enumerate(labels) if label in classes]
    if not rows:
        return ""
    pixels, codes = pixels[rows], np.array([classes.index(labels[row]) for row in rows])

    def right(scaling: str) -> np.ndarray:
        outputs = model.predict_on_batch(scale_pixels(pixels.astype(np.float32), scaling))
        last = outputs[-1] if isinstance(outputs, (list, tuple)) else outputs
        logits = head.logits(np.asarray(last).mean(axis=(1, 2))) if head.linear else last
        return np.asarray(logits).argmax(axis=1) == codes

    own = right(scaling)
    others = {name: right(name) for name in PREPROCESSING if name != scaling}
    best = max(others, key=lambda name: others[name].sum())
    gained, lost = (others[best] & ~own).sum(), (own & ~others[best]).sum()
    n, by = len(own), others[best].mean() - own.mean()
    if by < _FAR_BETTER or binomtest(int(gained), int(gained + lost)).pvalue > _BY_CHANCE:
        return ""
    return (
        f"with preprocessing={scaling!r} the model's own classifier is right on {own.sum()} of {n} "
        f"labelled pictures, with {best!r} on {others[best].sum()}: it was probably trained so. "
        f"Give preprocessing={best!r} (--preprocessing {best})."
    )


def _kept_file(identity: Mapping[str, str]) -> Path:
    """Where a converted network is kept: its identity and the versions that made it, as a name."""
    versions = {}
    for name in _KEPT_BY:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    key = json.dumps([dict(identity), versions, OPENVINO_BATCH], sort_keys=True)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    return Path(caches, "featlab", "networks", f"{digest}.npz")


def _milliseconds(run: Run, sized: Callable[[int], Run], picture: np.ndarray) -> dict[int, float]:
    """Of the processor, a picture, by pictures at once; only of those that give `run`'s bits."""
    pixels = np.stack([np.roll(picture, 7 * k, axis=0) for k in range(max(_SIZES))])
    begun = time.process_time()
    expected = run(pixels)
    usual = 1000 * (time.process_time() - begun) / len(pixels)
    if usual > _SLOW:
        return {OPENVINO_BATCH: usual}
    runs = {OPENVINO_BATCH: run}
    for size in _SIZES:
        with suppress(RuntimeError):  # the network does not take so many
            one = run if size == OPENVINO_BATCH else sized(size)
            if all(np.array_equal(a, b) for a, b in zip(one(pixels), expected, strict=True)):
                runs[size] = one
    taken, end = dict.fromkeys(runs, np.inf), time.perf_counter() + _TRIED_FOR
    with ThreadPoolExecutor(usable_cores()) as pool:
        # In turn, so that other programs disturb all alike; by the clock they would do so more.
        while time.perf_counter() < end:
            for size, one in runs.items():
                begun = time.process_time()
                for _ in pool.map(one, [pixels] * usable_cores()):
                    pass
                seconds = (time.process_time() - begun) / usable_cores()
                taken[size] = min(taken[size], 1000 * seconds / len(pixels))
    return taken
