"""What was fitted on a set, ready for other pictures."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from featlab.arguments import Progress, check_between
from featlab.backbones import rebuild_backbone
from featlab.boxes.geometry import CORNERS
from featlab.boxheads import KEPT_SCORES, predict_boxes
from featlab.errors import FeatlabError
from featlab.extract import MapSource, PassOptions, extract_maps, maps_at_once, refuse_other_maps
from featlab.heads.saved import SavedHead
from featlab.images import index_pictures
from featlab.localise.heat import picture_sizes
from featlab.predict._file import keras_model, plain, write_plain
from featlab.predict._parts import (
    ClassSets,
    ExpectedOverlap,
    Floats,
    HeatBoxes,
    Ticks,
    Typicality,
    blocks_in_memory,
    box_signs,
    own_answer,
    write_block,
)
from featlab.results.localisation import BoxHead
from featlab.store import MapStore
from featlab.store.network import network_facts, refuse_difference, refuse_other_network
from featlab.system import __version__
from featlab.system.files import write_whole
from featlab.system.machine import usable_cores
from featlab.system.processes import one_blas_thread

if TYPE_CHECKING:
    import keras

MAPS = "predicted_maps.h5"
PARTS = "predictions.parts"
PICTURES_AT_ONCE = 2048
"""Files whose maps lie on the disk at a time, where they are not kept."""
BETWEEN = "|"
"""Between the classes of a set."""
_BLOCK = 128  # images whose maps are in memory, on each core
_OF_PICTURE = ("path", "width", "height")
_FEW = 16  # as many as an engine takes in one call
_OTHER = "Give the network that the predictor was fitted with (--backbone, --weights)."
_DETECTORS_NAMED = 5


@dataclass(frozen=True)
class Predictor:
    """What was fitted on a set, ready for other pictures; from :func:`fit_predictor`.

    Attributes
    ----------
    provenance : dict of str to object
        The network and the pass that it belongs to, as the store tells them.
    classes : list of str
    head : SavedHead
        Fitted on train, its temperature on held-out folds of train.
    detectors : DataFrame
        ``class, neuron, threshold``: the confirmed active detectors, best first; one fires where
        its pooled activation is above the middle between the train means of its class and of the
        rest.
    sets : ClassSets
    typicality : Typicality
    heat : HeatBoxes
    box_head : BoxHead, optional
        The best of those fitted, where its boxes were better on the confirm images than the heat
        map's.
    overlap : ExpectedOverlap, optional
        None where no confirm image has a box.
    measured : dict
        Scores on test images, each with ``n`` and a 95 % interval, and how it was made. Those of a
        refitted one are the scores of the model before that; ``scores_of`` then says so.
    """

    provenance: dict[str, Any]
    classes: list[str]
    head: SavedHead
    detectors: pd.DataFrame
    sets: ClassSets
    typicality: Typicality
    heat: HeatBoxes
    box_head: BoxHead | None
    overlap: ExpectedOverlap | None
    measured: dict[str, Any]

    def __repr__(self) -> str:
        on = f"{self.provenance.get('backbone')}, boxes by {self.box_method}"
        more = f"; {self.refit_sentence}" if self.refitted else ""
        return f"<Predictor of {', '.join(self.classes)} on {on}{more}>"

    @property
    def refitted(self) -> int:
        """Labelled images that it was fitted on again; 0 for the model that was scored."""
        return int(self.measured.get("refitted_on", 0))

    @property
    def refit_sentence(self) -> str:
        """What a refitted one must say of its scores."""
        return (
            f"fitted again on all {self.refitted:,} labelled images: scores, and how often the "
            "sets hold the right class, are those of the model before that, fitted without the "
            "images that it was scored on"
        )

    @property
    def untuned(self) -> bool:
        """Whether no box chose method and threshold of its boxes."""
        return self.box_head is None and not self.heat.tuned

    @property
    def intensity(self) -> str:
        """How grey levels of its pictures were brought to 8 bits; "": as the formats have it."""
        return str(self.provenance.get("intensity", ""))

    @property
    def layer(self) -> str:
        """The layer that the head stands on: the last."""
        return str(json.loads(self.provenance["layers"])[-1])

    @property
    def used_layers(self) -> set[str]:
        """The layers whose maps an answer needs."""
        layers = {self.layer, *self.heat.fitted.contexts}
        return layers if self.box_head is None else layers | {self.box_head.layer}

    @property
    def box_method(self) -> str:
        """Where its boxes come from."""
        return self.heat.method if self.box_head is None else self.box_head.name

    @property
    def given(self) -> bool:
        """Whether its box head was given by hand, so that nothing here was calibrated on it."""
        return bool(self.measured.get("box_head_given"))

    def with_box_head(self, head: BoxHead) -> Predictor:
        """The same with the boxes of another head, such as one of ``featlab boxheads -o``.

        The scores of its boxes are then those that the head was written with. ``box_score`` is not
        known: the IoU to expect was fitted to the boxes of the predictor's own.

        Parameters
        ----------
        head : BoxHead
            From :func:`featlab.boxheads.load_box_head`.

        Returns
        -------
        Predictor

        Raises
        ------
        FeatlabError
            The head is of another network or pass, named with both values, or does not say which.
        """
        who, way_out = f"the box head {head.name!r}", "Give one of the predictor's own network."
        if not head.network:
            raise FeatlabError(f"{who} does not say which network's maps it takes. {way_out}")
        refuse_other_network(network_facts(self.provenance), head.network, who, way_out)
        void = (*KEPT_SCORES, "box_score")
        measured = {name: one for name, one in self.measured.items() if name not in void}
        measured |= {"box_head_given": True, **head.measured}
        # The predictor knows the network, and looks after it once for all of its parts.
        return replace(self, box_head=replace(head, network={}), overlap=None, measured=measured)

    @one_blas_thread()
    def predict(
        self,
        pictures: Any,
        *,
        backbone: MapSource | None = None,
        folder: str | os.PathLike[str] | None = None,
        keep_maps: bool = False,
        coverage: float = 0.9,
        on_error: str = "raise",
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Class, box, and how far each may be trusted, of pictures with or without labels.

        What lies on the disk and in memory at a time is that of 2,048 pictures, beside the table.

        Parameters
        ----------
        pictures : path-like, MapStore, ndarray, Pillow image, bytes, or iterable of these
            Files, folders, patterns, CSV files (:func:`featlab.images.index_pictures`); a store
            of the same network; RGB pixels ``(h, w, 3)`` or ``(n, h, w, 3)``, uint8; images of
            Pillow; the content of picture files. Pictures that are no files are numbered from 0
            in the column ``path`` (``000000000.bmp``).
        backbone : Backbone, optional
            By default the predictor's own is loaded.
        folder : path-like, optional
            Where the answers of each 2,048 files lie (``predictions.parts``): an interrupted call
            goes on from there, and a second one makes no pass. By default they are removed. Up to
            16 pictures never reach the disk.
        keep_maps : bool
            Keep the maps of all files, too (``predicted_maps.h5`` in `folder`): another predictor
            of the same network makes no pass, either.
        coverage : float
            Of the sets of classes, in (0, 1).
        on_error : {"raise", "skip"}
            What to do about files that cannot be used.
        progress : callable, optional
            Wraps the batches of the pass.

        Returns
        -------
        DataFrame, one row per picture, sorted by path
            ``path, width, height, class, probability`` (calibrated), ``set`` (classes, ``|``
            between them), ``typicality`` (conformal p-value), ``xmin, ymin, xmax, ymax`` (pixels of
            the picture as shown), ``box_method, box_score`` (expected IoU; NaN where no box could
            be judged), ``detectors`` (the class's detectors that fire, the best five),
            ``own_class, own_probability`` (the network's own answer, not calibrated; empty where
            it has no classifier).

        Raises
        ------
        FeatlabError
            Another network than the predictor's; no picture; an unusable file; no folder for maps.
        """
        check_between("coverage", coverage, 0, 1, without=(0,))
        if keep_maps and folder is None:
            raise FeatlabError("keep_maps needs a folder to keep them in, got none; give folder.")
        if isinstance(pictures, MapStore):
            facts = network_facts(self.provenance)
            refuse_other_network(facts, pictures.provenance, pictures.path, _OTHER)
            return self.of_store(pictures, coverage)
        run = partial(self.of_files, coverage=coverage, on_error=on_error, progress=progress)
        blocks = blocks_in_memory(pictures, PICTURES_AT_ONCE)
        if blocks is None:
            images, skipped = index_pictures(pictures, intensity=self.intensity, on_error=on_error)
            own = self._network(backbone)
            with ExitStack() as stack:
                where = folder or stack.enter_context(tempfile.TemporaryDirectory())
                return run(images, skipped, own, Path(where), keep_maps)
        own = self._network(backbone)
        tables = []
        for block in blocks:
            with tempfile.TemporaryDirectory() as written:
                files = write_block(block, Path(written))
                images, skipped = index_pictures(files, intensity=self.intensity, on_error=on_error)
                tables.append(run(images, skipped, own, Path(written, "answers"), False))
        if not tables:
            raise FeatlabError("pictures must hold at least one picture, got none.")
        return pd.concat(tables, ignore_index=True)

    def _network(self, backbone: MapSource | None) -> MapSource:
        """The network that is given, or the predictor's own; another one is refused."""
        if backbone is None:
            return self._own_network
        self.check(backbone)
        return backbone

    @cached_property
    def _own_network(self) -> MapSource:
        own = rebuild_backbone(self.provenance)
        self.check(own)
        return own

    def of_files(
        self,
        images: pd.DataFrame,
        skipped: pd.DataFrame,
        backbone: MapSource,
        folder: Path,
        keep_maps: bool,
        *,
        coverage: float,
        on_error: str,
        progress: Progress | None,
    ) -> pd.DataFrame:
        """:meth:`predict` of pictures that :func:`featlab.images.index_pictures` has listed.

        Their maps lie in one store that is kept, or in one of each 2,048.
        """
        made = self.provenance
        options = PassOptions(None, str(made["resize"]), str(made["dtype"]), on_error=on_error)
        extract = partial(extract_maps, backbone=backbone, options=options)
        if keep_maps:
            ticks = Ticks(0, len(images), progress)
            path = folder / MAPS
            with extract(images, path=path, skipped=skipped, progress=ticks.of(images)) as store:
                return self.of_store(store, coverage)
        if len(images) <= _FEW:
            return self.of_store(maps_at_once(images, backbone, options), coverage)
        blocks = [
            images.iloc[start : start + PICTURES_AT_ONCE].reset_index(drop=True)
            for start in range(0, len(images), PICTURES_AT_ONCE)
        ]
        answers = [folder / PARTS / f"{self._name_of(some, coverage)}.parquet" for some in blocks]
        known = sum(map(len, (b for b, a in zip(blocks, answers, strict=True) if a.is_file())))
        ticks, tables = Ticks(known, len(images), progress), []
        for some, done in zip(blocks, answers, strict=True):
            if not done.is_file():
                maps = done.with_suffix(".h5")
                with extract(some, path=maps, progress=ticks.of(some)) as store:
                    write_whole(done, self.of_store(store, coverage).to_parquet)
                maps.unlink()
                shutil.rmtree(maps.with_name(f"{maps.name}.parts"), ignore_errors=True)
            tables.append(pd.read_parquet(done))
        return pd.concat(tables, ignore_index=True)

    def _name_of(self, images: pd.DataFrame, coverage: float) -> str:
        """Changes with the pictures and with everything that decides an answer."""
        key = f"{self._digest}{coverage}{images[['path', 'sha256']].to_csv()}"
        return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    @cached_property
    def _digest(self) -> str:
        """Changes when anything that decides an answer does."""
        facts, arrays = plain(vars(self))
        digest = hashlib.sha256(json.dumps([facts, __version__], sort_keys=True).encode())
        for name in sorted(arrays):
            digest.update(np.ascontiguousarray(arrays[name]).tobytes())
        return digest.hexdigest()

    def check(self, backbone: MapSource) -> None:
        """Refuse another network than the one whose maps everything was fitted on.

        Raises
        ------
        FeatlabError
            Names what differs, and both values.
        """
        own = {key: str(self.provenance[key]) for key in backbone.identity()}
        who = Path("the predictor")
        refuse_difference(own, backbone.identity(), who, _OTHER)
        refuse_other_maps(self.provenance, backbone, who, _OTHER)

    def of_store(
        self, store: MapStore, coverage: float = 0.9, rows: np.ndarray | None = None
    ) -> pd.DataFrame:
        """:meth:`predict` of images of a store, by default of all; the index has their rows.

        Batches side by side, the maps of each read once.
        """
        layers = self.used_layers
        asked = np.arange(len(store)) if rows is None else rows
        batches = [asked[start : start + _BLOCK] for start in range(0, len(asked), _BLOCK)]

        def answered(batch: np.ndarray) -> pd.DataFrame:
            return self._of_maps(store.in_memory(batch, layers), coverage)

        if len(batches) == 1:
            table = answered(asked)
        else:
            # Each batch has a core to itself.
            with one_blas_thread(), ThreadPoolExecutor(usable_cores()) as pool:
                table = pd.concat(pool.map(answered, batches), ignore_index=True)
        return table if rows is None else table.set_axis(rows)

    def _of_maps(self, store: MapStore, coverage: float) -> pd.DataFrame:
        rows, X = np.arange(len(store)), store.pooled(layer=self.layer)
        probability = self.head.predict_proba(X)
        codes = probability.argmax(axis=1)
        boxes, signs = self.boxes(store, rows, codes)
        names = np.array(self.classes, dtype=object)
        inside = self.sets.members(probability, coverage)
        unknown = np.full(len(rows), np.nan)
        # At once: column by column costs more than the network.
        columns = {name: store.images[name].array for name in _OF_PICTURE}
        columns |= {
            "class": names[codes],
            "probability": probability.max(axis=1),
            "set": [BETWEEN.join(names[some]) for some in inside],
            "typicality": self.typicality.p_values(X),
            **dict(zip(CORNERS, boxes.T, strict=True)),
            "box_method": self.box_method,
            "box_score": unknown if self.overlap is None else self.overlap.of(signs),
            "detectors": self.firing(X, names[codes]),
            **own_answer(store, rows),
        }
        return pd.DataFrame(columns)

    def boxes(self, store: MapStore, rows: np.ndarray, codes: np.ndarray) -> tuple[Floats, Floats]:
        """Boxes ``(k, 4)`` in pixels for some classes, and what tells how good each is ``(k, 2)``.

        Those of the heat map at several thresholds are what a box should agree with.
        """
        hot, sizes = self.heat.boxes(store, rows, codes), picture_sizes(store, rows)
        if self.box_head is None:
            return hot[:, 0], box_signs(hot[:, 0], hot[:, 1:], sizes)
        boxes = predict_boxes(self.box_head, store, rows)
        return boxes, box_signs(boxes, hot, sizes)

    def firing(self, X: np.ndarray, labels: np.ndarray) -> list[str]:
        """The neurons of each picture's class that fire, as text."""
        names = np.full(len(X), "", dtype=object)
        for label, own in self.detectors.groupby("class"):
            neurons, rows = own["neuron"].to_numpy(), np.flatnonzero(labels == label)
            fires = X[rows][:, neurons] > own["threshold"].to_numpy()
            names[rows] = [" ".join(map(str, neurons[one][:_DETECTORS_NAMED])) for one in fires]
        return names.tolist()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as arrays and JSON in one HDF5 file, complete or not at all.

        Raises
        ------
        FeatlabError
            The file cannot be written, or a heat-map method's own state is no tuple of arrays.
        """
        write_plain(Path(path), vars(self))
        return Path(path)

    def to_keras(self, backbone: MapSource | None = None) -> keras.Model:
        """One plain Keras model that gives the same answers, for ``keras.Model.export``.

        It takes RGB pixels 0 … 255 of the network's input size, ``(b, H, W, 3)``, resized as the
        pass does (:func:`featlab.images.pixels.resize_picture`), and gives ``probability``
        ``(b, k)`` in the order of `classes`, ``heat`` ``(b, h, w)`` of the most probable class and
        ``box`` ``(b, 4)``: xmin, ymin, xmax, ymax as shares of the picture's sides.

        Parameters
        ----------
        backbone : Backbone, optional
            By default the predictor's own is loaded.

        Raises
        ------
        FeatlabError
            Another network; pictures that do not fill its input; a heat map that is neither a
            weighted sum of maps nor one of a few others, or of more than 784 cells.
        """
        return keras_model(self, self._network(backbone))
