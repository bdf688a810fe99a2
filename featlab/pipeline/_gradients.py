"""What the network itself adds to the stored maps: DAM, Grad-CAM, guided maps, and their checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from featlab import gradients, localise
from featlab.arguments import check_whole, true_boxes
from featlab.backbones import Backbone
from featlab.boxes.geometry import CORNERS, picture_to_frame
from featlab.errors import FeatlabError
from featlab.features import feature_table
from featlab.gradients.dam import DAM_PRESETS, preset_layer
from featlab.gradients.network import HeadedNetwork, check_backbone, check_maps
from featlab.heads import evaluate_heads, linear_weights
from featlab.images.pixels import InputReader
from featlab.pipeline.detectors import class_weights, find_detectors, predicted_classes
from featlab.pipeline.scheduler import timed
from featlab.pipeline.stores import with_copies
from featlab.results.analysis import HeadResults
from featlab.results.localisation import Localisation
from featlab.results.networks import (
    CamExamples,
    DamExample,
    GradientExamples,
    GradientResults,
)
from featlab.splits import make_split
from featlab.store import MapStore

STORED_METHODS = ("detectors", "cam", "cam_positive", "sum")
_EXAMPLES, _DAM_EXAMPLES, _SANITY_IMAGES, _FAITHFUL_IMAGES = 5, 2, 8, 24
_FAITHFUL_STEPS = 10
_TUNING_SHARE = 2 / 3  # images that thresholds are chosen on, per image scored

Heats = Mapping[str, np.ndarray]
LabelledProgress = Callable[..., Any]
"""Takes an iterable and ``label=``, and returns the iterable wrapped."""


@dataclass(frozen=True)
class Sample:
    """The images that are looked at again, in the order of the store.

    Attributes
    ----------
    rows : ndarray of shape (k,)
        Rows of the image table: those scored and those that choose thresholds.
    scored : ndarray of int
        Places in `rows` of the test images.
    pixels : ndarray of shape (k, H, W, 3), uint8
        As the network takes them.
    labels : ndarray of shape (k,), str
    groups : ndarray of shape (k,), str
    frames, sizes : ndarray of shape (k, 4) and (k, 2)
        Where the pictures lie in the input, and their original sizes.
    truth : DataFrame
        Box table.
    n : int
        Images of the store.
    """

    rows: np.ndarray
    scored: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    frames: np.ndarray
    sizes: np.ndarray
    truth: pd.DataFrame
    n: int

    def some(self, k: int) -> np.ndarray:
        """Places of `k` scored images, the classes in turn."""
        labels = self.labels[self.scored]
        turns = pd.Series(labels).groupby(labels).cumcount().to_numpy()
        return self.scored[np.lexsort([labels, turns])[:k]]

    def true_boxes(self, place: int) -> np.ndarray:
        """True boxes ``(j, 4)`` of an image, in pixels of the network's input."""
        own = self.truth[self.truth["image"] == self.rows[place]]
        unit = picture_to_frame(
            own[CORNERS].to_numpy(float), self.frames[[place]], self.sizes[[place]]
        )
        height, width = self.pixels.shape[1:3]
        return unit * np.array([width, height] * 2)

    def all_rows(self, values: np.ndarray) -> np.ndarray:
        """Values of the sample's images ``(k, ...)`` among NaN for all others."""
        whole = np.full((self.n, *values.shape[1:]), np.nan)
        whole[self.rows] = values
        return whole


@dataclass(frozen=True)
class Study:
    """The network with its head, and the images that it is run on."""

    store: MapStore
    split: pd.Series
    sample: Sample
    network: HeadedNetwork
    box_kind: str | None
    random_state: int
    progress: LabelledProgress | None
    seconds: dict[str, float] = field(default_factory=dict)

    @cached_property
    def refusal(self) -> str:
        """Why guided back-propagation is not possible, "" where it is."""
        try:
            _ = self.network.guided
        except FeatlabError as error:
            return str(error)
        return ""

    @property
    def presets(self) -> tuple[str, ...]:
        """Of DAM, which needs guided back-propagation."""
        return () if self.refusal else tuple(DAM_PRESETS)

    @property
    def rules(self) -> tuple[str, ...]:
        """How gradients pass a rectifier."""
        return ("plain",) if self.refusal else ("plain", "guided")

    def labelled(self, label: str) -> partial[Any] | None:
        """The progress of one step."""
        return None if self.progress is None else partial(self.progress, label=label)


def draw_sample(
    store: MapStore,
    split: pd.Series,
    size: tuple[int, int],
    *,
    n_images: int,
    box_kind: str | None,
    random_state: int,
) -> Sample:
    """Test images with boxes, and two thirds as many confirm images, drawn at random.

    Raises
    ------
    FeatlabError
        No test image has a box, or a picture is missing or has changed.
    """
    truth = true_boxes(store.images, store.boxes, box_kind)
    rng = np.random.default_rng(random_state)
    boxed = np.zeros(len(split), dtype=bool)
    boxed[truth["image"].to_numpy(np.int64)] = True
    drawn = []
    for side, n in (("test", n_images), ("confirm", round(n_images * _TUNING_SHARE))):
        rows = np.flatnonzero(boxed & (split == side).to_numpy())
        drawn.append(rng.choice(rows, min(n, len(rows)), replace=False))
    if not len(drawn[0]):
        raise FeatlabError(f"no test image of {store.path} has a box, so no box can be scored.")
    rows = np.union1d(*drawn)
    table = store.images.iloc[rows]
    # A store that says nothing of it was made from pictures decoded whole.
    scaled = "jpeg_scaling" in store.provenance
    read = InputReader(store.images, size, str(store.provenance["resize"]), scaled)
    return Sample(
        rows=rows,
        scored=np.flatnonzero(np.isin(rows, drawn[0])),
        pixels=np.stack([read(int(row))[0] for row in rows]),
        labels=table["label"].to_numpy(str),
        groups=table["group"].to_numpy(str),
        frames=store.frames[rows],
        sizes=table[["width", "height"]].to_numpy(float),
        truth=truth,
        n=len(store),
    )


def analyse_gradients(
    store: MapStore,
    backbone: Backbone,
    *,
    n_images: int = 60,
    box_kind: str | None = None,
    copies: str = "together",
    random_state: int = 0,
    progress: LabelledProgress | None = None,
) -> GradientResults:
    """Run the network again on some test images, beside what their stored maps give.

    The logistic head is fitted on the train rows of the store, as for the report. `n_images` test
    images with boxes are scored, and two thirds as many confirm images with boxes choose the
    thresholds; all methods see the same ones. Heat maps are asked for the image's own class
    (GT-known); DAM, which is unsupervised, for the class that the head predicts.

    Parameters
    ----------
    store : MapStore
    backbone : Backbone
        The network that the store was made with.
    n_images : int
        Test images that are scored, drawn at random.
    box_kind : str, optional
        Which kind of box is the truth, where the store has several.
    copies : {"together", "split"}
        As in :func:`analyse`.
    random_state : int
        Seed of the split, the head, the sample and the intervals.
    progress : callable, optional
        Takes an iterable and ``label=``, and returns the iterable wrapped.

    Returns
    -------
    GradientResults

    Raises
    ------
    FeatlabError
        The backbone is another than the store's; a picture is missing or has changed; the network
        does not give the stored maps; there are no boxes to score.
    """
    check_backbone(store, backbone)
    check_whole("n_images", n_images, 1)
    store = with_copies(store, copies)
    labels, groups = store.images["label"], store.images["group"]
    split = make_split(store.images, random_state=random_state)
    seconds: dict[str, float] = {}
    with timed(seconds, "pictures"):
        sample = draw_sample(
            store,
            split,
            backbone.input_size,
            n_images=n_images,
            box_kind=box_kind,
            random_state=random_state,
        )
    with timed(seconds, "head and neurons"):
        X = feature_table(store)
        heads = evaluate_heads(
            X, labels, split, heads=("logistic",), groups=groups, random_state=random_state
        )
        neurons = find_detectors(X, labels, split, groups, random_state=random_state)
    network = gradients.attach_head(
        backbone, heads.classes, *linear_weights(heads.models["logistic"])
    )
    check_maps(store, sample.rows, network, sample.pixels)
    study = Study(store, split, sample, network, box_kind, random_state, progress, seconds)
    with timed(seconds, "grad_cam_family"):
        heats = gradients.cam_heats(network, sample.pixels, sample.labels)
    boxes = _dam_boxes(study)
    localisation = _localisation(study, neurons, heads, predicted_classes(heads, X), heats | boxes)
    sanity = _sanity(study)
    faithfulness, curves = _faithfulness(study, localisation, heats)
    dam, maps = _examples(study)
    return GradientResults(
        localisation=_localisation_table(study, localisation, heats, boxes),
        sanity=sanity,
        faithfulness=faithfulness,
        faithfulness_curves=curves,
        dam=dam,
        examples=maps,
        cams=_cam_examples(study, localisation, heats),
        facts={
            "backbone": backbone.name,
            "weights": backbone.weights,
            "head_accuracy": float(heads.table.set_index("head")["accuracy"]["logistic"]),
            "box_kind": localisation.parameters["box_kind"],
            **_facts(study),
        },
    )


def _facts(study: Study) -> dict[str, Any]:
    sample, network = study.sample, study.network
    return {
        "layer": network.layer,
        "classes": list(network.head.classes),
        "n_scored": len(sample.scored),
        "n_tuning": len(sample.rows) - len(sample.scored),
        "n_patched": 0 if study.refusal else network.guided.n_patched,
        "guided_refused": study.refusal,
        "dam_layers": {preset: preset_layer(network, preset) for preset in study.presets},
        "random_state": study.random_state,
        "seconds": {name: round(value, 3) for name, value in study.seconds.items()},
    }


def _dam_boxes(study: Study) -> dict[str, np.ndarray]:
    """Boxes of the scored images.

    Boxes have no threshold to choose: those of the other images are empty and never looked at.
    """
    network, sample = study.network, study.sample
    boxes = {}
    for preset in study.presets:
        name, layer = f"dam_{preset}", preset_layer(network, preset)
        run = partial(gradients.dam_boxes, network, parameters=preset, layer=layer)
        run(sample.pixels[:1])  # compiles
        boxes[name] = np.zeros((len(sample.rows), 4))
        with timed(study.seconds, name):
            boxes[name][sample.scored] = run(
                sample.pixels[sample.scored],
                frames=sample.frames[sample.scored],
                sizes=sample.sizes[sample.scored],
                progress=study.labelled(f"DAM, {preset}"),
            )
    return boxes


def _localisation(
    study: Study,
    neurons: pd.DataFrame,
    heads: HeadResults,
    predicted: np.ndarray,
    given: Heats,
) -> Localisation:
    """What the network gives and what the stored maps give, on the images of the sample."""
    sample = study.sample
    with timed(study.seconds, "localisation"):
        return localise.evaluate_localisation(
            study.store,
            study.split,
            methods=STORED_METHODS,
            neurons=neurons,
            weights=class_weights(heads),
            box_kind=study.box_kind,
            random_state=study.random_state,
            options=localise.LocalisationOptions(
                rows=sample.rows,
                given={name: sample.all_rows(values) for name, values in given.items()},
                predicted=predicted,
            ),
        )


def _sanity(study: Study) -> pd.DataFrame:
    sample = study.sample
    some = sample.some(_SANITY_IMAGES)
    with timed(study.seconds, "sanity"):
        return gradients.randomisation_check(
            study.network,
            sample.pixels[some],
            sample.labels[some],
            rules=study.rules,
            random_state=study.random_state,
        )


def _faithfulness(
    study: Study, localisation: Localisation, heats: Heats
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The Grad-CAM family, the detectors of the stored maps (if any) and the gradients."""
    network, sample = study.network, study.sample
    some = np.sort(sample.some(_FAITHFUL_IMAGES))
    pixels, labels = sample.pixels[some], sample.labels[some]
    with timed(study.seconds, "faithfulness"):
        judged = {name: heat[some] for name, heat in heats.items()}
        if "detectors" in localisation.fitted.methods:
            judged |= localise.heat_maps(
                study.store, sample.rows[some], localisation.fitted, methods="detectors"
            )
        for rule in study.rules:
            gradient = gradients.input_gradients(network, pixels, classes=labels, rule=rule)
            judged[f"{rule}_gradient"] = np.abs(gradient).sum(axis=-1)
        return gradients.faithfulness(
            network,
            pixels,
            judged,
            labels,
            n_steps=_FAITHFUL_STEPS,
            groups=sample.groups[some],
            random_state=study.random_state,
            progress=study.labelled("faithfulness"),
        )


def _localisation_table(
    study: Study, localisation: Localisation, heats: Heats, boxes: Heats
) -> pd.DataFrame:
    """The localisation table, with seconds per image and the picture centre's own rate."""
    sample, seconds = study.sample, study.seconds
    own = dict.fromkeys(heats, seconds["grad_cam_family"] / len(sample.rows))
    own |= {name: seconds[name] / len(sample.scored) for name in boxes}
    table = localisation.table.copy()
    matching = table["seconds_per_1000"] / 1000
    table["seconds_per_image"] = matching + table["method"].map(own).fillna(0).astype(float)
    rates = table.set_index("method")["centre_in_box"]
    table["picture_centre_in_box"] = float(rates["whole_image"])
    table.loc[table["method"].isin(boxes), "box_accuracy_confirm"] = np.nan
    table.attrs.update(localisation.parameters, runs_the_network=sorted(own))
    return table.drop(columns="seconds_per_1000")


def _examples(study: Study) -> tuple[list[DamExample], GradientExamples]:
    """DAM step by step for each preset, and gradients by each rule, for a few images."""
    network, sample = study.network, study.sample
    places = sample.some(_EXAMPLES)
    pixels, labels = sample.pixels[places], sample.labels[places]
    with timed(study.seconds, "examples"):
        dam = [
            DamExample(
                preset,
                str(sample.labels[place]),
                gradients.dam_trace(
                    network,
                    sample.pixels[place],
                    parameters=preset,
                    layer=preset_layer(network, preset),
                    frame=sample.frames[place],
                    size=sample.sizes[place],
                ),
                sample.true_boxes(place),
            )
            for preset in study.presets
            for place in places[:_DAM_EXAMPLES]
        ]
        maps = {
            rule: gradients.input_gradients(network, pixels, classes=labels, rule=rule)
            for rule in ("plain", "input", *study.rules[1:])
        }
    return dam, GradientExamples(pixels, labels.tolist(), maps)


def _cam_examples(study: Study, localisation: Localisation, heats: Heats) -> CamExamples:
    """Heat maps and boxes of some images, in pixels of the network's input."""
    sample = study.sample
    places = sample.some(_EXAMPLES)
    height, width = sample.pixels.shape[1:3]
    thresholds = localisation.table.set_index("method")["threshold"]
    whole = np.tile([0.0, 0.0, 1.0, 1.0], (len(places), 1))
    sizes = np.tile([width, height], (len(places), 1))
    return CamExamples(
        pictures=sample.pixels[places],
        labels=sample.labels[places].tolist(),
        true_boxes=[sample.true_boxes(place) for place in places],
        heats={name: heat[places] for name, heat in heats.items()},
        boxes={
            name: localise.heat_boxes(
                heat[places], [float(thresholds[name])], frames=whole, sizes=sizes
            )[:, 0]
            for name, heat in heats.items()
        },
    )
