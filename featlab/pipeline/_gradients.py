"""What the network itself adds to the stored maps: DAM, Grad-CAM, guided maps, and their checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from featlab import gradients, localise
from featlab.arguments import check_whole
from featlab.backbones import Backbone
from featlab.boxes.geometry import CORNERS, picture_to_frame
from featlab.errors import FeatlabError
from featlab.gradients.dam import DAM_PRESETS, preset_layer
from featlab.gradients.network import HeadedNetwork, check_backbone, check_maps
from featlab.heads import linear_weights
from featlab.localise.regions import FIXED_THRESHOLD
from featlab.pipeline.detectors import Learnt, class_weights, learn_classes
from featlab.pipeline.scheduler import timed
from featlab.pipeline.sets import BLIND
from featlab.pipeline.stores import (
    Sample,
    checked_target,
    draw_sample,
    with_copies,
)
from featlab.predict import Predictor
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
_MOST_STEPS = 12  # named pictures whose gradients are drawn, and DAM step by step
_FAITHFUL_STEPS = 10
_ADDED = ("seconds_per_image", "picture_centre_in_box")  # columns of the localisation table

Heats = Mapping[str, np.ndarray]
LabelledProgress = Callable[..., Any]
"""Takes an iterable and ``label=``, and returns the iterable wrapped."""


@dataclass(frozen=True)
class Study:
    """The network with its head, and the images that it is run on."""

    store: MapStore
    split: pd.Series
    sample: Sample
    network: HeadedNetwork
    target: str
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


def analyse_gradients(
    store: MapStore,
    backbone: Backbone,
    *,
    target: str | None = None,
    model: Predictor | None = None,
    n_images: int = 60,
    pictures: str | Sequence[str] | None = None,
    box_kind: str | None = None,
    copies: str = "together",
    random_state: int = 0,
    progress: LabelledProgress | None = None,
) -> GradientResults:
    """Run the network again on some images, beside what their stored maps give.

    `n_images` test images with boxes are scored, and two thirds as many confirm images with boxes
    choose the thresholds; all methods see the same ones. Without boxes nothing is scored: heat
    maps have a fixed threshold, and boxes are given as they are.

    Parameters
    ----------
    store : MapStore
    backbone : Backbone
        The network that the store was made with.
    target : {"label", "own"}, optional
        Whose classes are asked for. "label": a logistic head, fitted on the train rows of the
        store, gives the user's; heat maps are asked for the image's own (GT-known), DAM, which is
        unsupervised, for the one that the head predicts. "own": the classifier that the network
        brings gives its own; all are asked for what it calls the picture, and no label is read. By
        default "own" for a set without labels.
    model : Predictor, optional
        Of a set with labels and of the same network, whose classes are asked for instead of a set's
        that has no labels: each picture's is the one that the model's head predicts.
    n_images : int
        Test images that are scored, drawn at random; without boxes, that are shown.
    pictures : str or sequence of str, optional
        Pictures to be shown with their boxes, whichever side they are on: paths of the set,
        patterns of them (``"banana/*"``), or files of its folder. Those scored are drawn all the
        same.
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
        does not give the stored maps; a name is that of no picture; labels are asked for where
        there are none, or the network's own classes where it brings no classifier; a model
        of another network, or for a set with labels.
    """
    check_backbone(store, backbone)
    check_whole("n_images", n_images, 1)
    target = checked_target(store, backbone, target, model)
    store = with_copies(store, copies)
    split = make_split(store.images, random_state=random_state)
    seconds: dict[str, float] = {}
    with timed(seconds, "pictures"):
        sample = draw_sample(
            store,
            split,
            backbone.input_size,
            n_images=n_images,
            pictures=pictures,
            box_kind=box_kind,
            random_state=random_state,
        )
    with timed(seconds, "head and neurons"):
        learnt = learn_classes(store, split, random_state) if target == "label" else None
    if model is not None:
        network = gradients.attach_head(backbone, model.classes, *model.head.linear())
    elif learnt is None:
        network = gradients.attach_own_head(backbone)
    else:
        weights = linear_weights(learnt.heads.models["logistic"])
        network = gradients.attach_head(backbone, learnt.heads.classes, *weights)
    check_maps(store, sample.rows, network, sample.pixels)
    log_probabilities = network.head.log_probabilities(network.pooled(sample.pixels))
    called = np.array(network.head.classes)[log_probabilities.argmax(axis=1)]
    if learnt is None:
        sample = replace(sample, asked=called)
    study = Study(store, split, sample, network, target, box_kind, random_state, progress, seconds)
    with timed(seconds, "grad_cam_family"):
        heats = gradients.cam_heats(network, sample.pixels, sample.asked)
    boxes = _dam_boxes(study, called)
    localisation = _localisation(study, learnt, heats | boxes)
    sanity = _sanity(study)
    faithfulness, curves = _faithfulness(study, localisation, heats)
    boxed = _boxes(study, localisation, heats, boxes)
    table = _box_table(study, boxed, called, np.exp(log_probabilities))
    dam, maps = _examples(study, called)
    return GradientResults(
        localisation=_localisation_table(study, localisation, heats, boxes),
        boxes=table.merge(_thresholds(localisation, heats), on="method", how="left"),
        sanity=sanity,
        faithfulness=faithfulness,
        faithfulness_curves=curves,
        dam=dam,
        examples=maps,
        cams=_cam_examples(study, heats, boxed),
        facts={
            "backbone": backbone.name,
            "weights": backbone.weights,
            "target": target,
            "head_accuracy": None if learnt is None else learnt.accuracy,
            "box_kind": localisation.parameters["box_kind"],
            **_facts(study),
        },
    )


def _facts(study: Study) -> dict[str, Any]:
    sample, network = study.sample, study.network
    asked = Counter(sample.asked[sample.boxed].tolist())
    return {
        "layer": network.layer,
        "classes": sorted(set(sample.asked.tolist())),
        "n_classes": len(network.head.classes),
        "asked": dict(sorted(asked.items(), key=lambda one: (-one[1], one[0]))),
        "n_scored": len(sample.scored),
        "n_tuning": len(sample.tuning),
        "n_pictures": len(sample.pictures),
        "named": sample.named,
        "n_patched": 0 if study.refusal else network.guided.n_patched,
        "guided_refused": study.refusal,
        "dam_layers": {preset: preset_layer(network, preset) for preset in study.presets},
        "random_state": study.random_state,
        "seconds": {name: round(value, 3) for name, value in study.seconds.items()},
    }


def _dam_boxes(study: Study, called: np.ndarray) -> dict[str, np.ndarray]:
    """Boxes of the scored images and of those shown, for what the head calls them.

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
            boxes[name][sample.boxed] = run(
                sample.pixels[sample.boxed],
                classes=called[sample.boxed],
                frames=sample.frames[sample.boxed],
                sizes=sample.sizes[sample.boxed],
                progress=study.labelled(f"DAM, {preset}"),
            )
    return boxes


def _localisation(study: Study, learnt: Learnt | None, given: Heats) -> Localisation:
    """What the network gives and what the stored maps give, on the images of the sample.

    Of the stored maps' methods those that need no labels where the network's own classes are asked
    for. Without boxes there is nothing to score, and no row.
    """
    sample = study.sample
    methods: dict[str, Any] = {"methods": BLIND}
    if learnt is not None:
        weights = class_weights(learnt.heads)
        methods = {"methods": STORED_METHODS, "neurons": learnt.neurons, "weights": weights}
    with timed(study.seconds, "localisation"):
        return localise.evaluate_localisation(
            study.store,
            study.split,
            **methods,
            box_kind=study.box_kind,
            random_state=study.random_state,
            options=localise.LocalisationOptions(
                rows=sample.rows[np.union1d(sample.scored, sample.tuning)],
                given={name: sample.all_rows(values) for name, values in given.items()},
                predicted=None if learnt is None else learnt.predicted,
            ),
        )


def _sanity(study: Study) -> pd.DataFrame:
    sample = study.sample
    some = sample.some(_SANITY_IMAGES)
    with timed(study.seconds, "sanity"):
        return gradients.randomisation_check(
            study.network,
            sample.pixels[some],
            sample.asked[some],
            rules=study.rules,
            random_state=study.random_state,
        )


def _faithfulness(
    study: Study, localisation: Localisation, heats: Heats
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The Grad-CAM family, the detectors of the stored maps (if any) and the gradients."""
    network, sample = study.network, study.sample
    some = np.sort(sample.some(_FAITHFUL_IMAGES))
    pixels, labels = sample.pixels[some], sample.asked[some]
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
    own |= {name: seconds[name] / len(sample.boxed) for name in boxes}
    table = localisation.table.copy()
    if table.empty:
        columns = [*table.drop(columns="seconds_per_1000"), *_ADDED]
        return table.reindex(columns=columns)
    matching = table["seconds_per_1000"] / 1000
    table["seconds_per_image"] = matching + table["method"].map(own).fillna(0).astype(float)
    rates = table.set_index("method")["centre_in_box"]
    table["picture_centre_in_box"] = float(rates["whole_image"])
    table.loc[table["method"].isin(boxes), "box_accuracy_confirm"] = np.nan
    table.loc[table["method"].isin(own), "class_asked"] = study.target
    blind = table["method"].isin(BLIND) & (study.target != "label")
    table.loc[blind, ["supervision", "class_asked"]] = "none"
    table.attrs.update(localisation.parameters, runs_the_network=sorted(own))
    return table.drop(columns="seconds_per_1000")


def _thresholds(localisation: Localisation, heats: Heats) -> pd.DataFrame:
    """Each heat map's threshold; where none could be chosen, the fixed one."""
    known = localisation.table.set_index("method")["threshold"].to_dict()
    rows = [(name, float(known.get(name, FIXED_THRESHOLD))) for name in heats]
    return pd.DataFrame(rows, columns=["method", "threshold"])


def _boxes(study: Study, localisation: Localisation, heats: Heats, dam: Heats) -> Heats:
    """Boxes of the images that get one, by every method, in pixels of the pictures."""
    sample, places = study.sample, study.sample.boxed
    thresholds = _thresholds(localisation, heats).set_index("method")["threshold"]
    corners = {name: boxes[places] for name, boxes in dam.items()}
    for name, heat in heats.items():
        at = {"frames": sample.frames[places], "sizes": sample.sizes[places]}
        corners[name] = localise.heat_boxes(heat[places], [thresholds[name]], **at)[:, 0]
    return corners


def _box_table(
    study: Study, boxes: Heats, called: np.ndarray, probabilities: np.ndarray
) -> pd.DataFrame:
    """A row for each image and method; DAM asks for what the head calls the picture."""
    sample, places = study.sample, study.sample.boxed
    parts = []
    for name, corners in boxes.items():
        asked = called[places] if name.startswith("dam_") else sample.asked[places]
        codes = study.network.head.codes(asked, len(places))
        part = {
            "row": sample.rows[places],
            "path": sample.paths[places],
            "method": name,
            "class_asked": asked.astype(object),
            "probability": probabilities[places, codes].astype(float),
            "scored": np.isin(places, sample.scored),
            **dict(zip(CORNERS, corners.T, strict=True)),
        }
        parts.append(pd.DataFrame(part))
    table = pd.concat(parts, ignore_index=True)
    return table.sort_values("row", kind="stable", ignore_index=True)


def _examples(study: Study, called: np.ndarray) -> tuple[list[DamExample], GradientExamples]:
    """DAM step by step for each preset, and gradients by each rule, for a few images."""
    network, sample = study.network, study.sample
    places = sample.examples(_EXAMPLES)[:_MOST_STEPS]
    pixels, labels = sample.pixels[places], sample.asked[places]
    with timed(study.seconds, "examples"):
        dam = [
            DamExample(
                preset,
                str(sample.asked[place]),
                gradients.dam_trace(
                    network,
                    sample.pixels[place],
                    label=str(called[place]),
                    parameters=preset,
                    layer=preset_layer(network, preset),
                    frame=sample.frames[place],
                    size=sample.sizes[place],
                ),
                sample.true_boxes(place),
            )
            for preset in study.presets
            for place in places[: None if sample.named else _DAM_EXAMPLES]
        ]
        maps = {
            rule: gradients.input_gradients(network, pixels, classes=labels, rule=rule)
            for rule in ("plain", "input", *study.rules[1:])
        }
    return dam, GradientExamples(pixels, labels.tolist(), maps)


def _cam_examples(study: Study, heats: Heats, boxes: Heats) -> CamExamples:
    """Heat maps and boxes of some images, in pixels of the network's input."""
    sample = study.sample
    places = sample.examples(_EXAMPLES)
    height, width = sample.pixels.shape[1:3]
    frames, sizes = sample.frames[places], sample.sizes[places]
    at = np.searchsorted(sample.boxed, places)
    return CamExamples(
        pictures=sample.pixels[places],
        labels=sample.asked[places].tolist(),
        true_boxes=[sample.true_boxes(place) for place in places],
        heats={name: heat[places] for name, heat in heats.items()},
        boxes={
            name: picture_to_frame(corners[at], frames, sizes) * np.array([width, height] * 2)
            for name, corners in boxes.items()
        },
    )
