"""What the network itself adds to the stored maps: DAM, Grad-CAM, guided maps, and their checks.

The only part of this room that runs the network, on a seeded sample of the images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from featlab import features, gradients, heads, localise, splits
from featlab.errors import FeatlabError
from featlab.pipeline._gradient_inputs import Sample, check_backbone, check_maps, draw_sample
from featlab.pipeline._stages import class_weights, find_detectors, predicted_classes
from featlab.results.gradients import CamExamples, DamExample, GradientExamples, GradientResults
from featlab.results.localisation import Localisation
from featlab.store import MapStore

if TYPE_CHECKING:
    from featlab.backbones import Backbone

STORED_METHODS = ("detectors", "cam", "cam_positive", "sum")
_EXAMPLES, _DAM_EXAMPLES, _SANITY_IMAGES, _FAITHFUL_IMAGES = 5, 2, 8, 24
_FAITHFUL_STEPS = 10
_VARIANT_LAYER = "block5_conv2"  # of VGG16, for which the variant was made

Progress = Callable[..., Any]


def analyse_gradients(
    store: MapStore,
    backbone: Backbone,
    *,
    n_images: int = 60,
    box_kind: str | None = None,
    random_state: int = 0,
    progress: Progress | None = None,
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
    if n_images < 1:
        raise FeatlabError(f"n_images must be at least 1, got {n_images}.")
    seconds: dict[str, float] = {}
    labels, groups = store.images["label"], store.images["group"]
    split = splits.make_split(store.images, random_state=random_state)
    with _timed(seconds, "pictures"):
        sample = draw_sample(
            store,
            split,
            backbone.input_size,
            n_images=n_images,
            box_kind=box_kind,
            random_state=random_state,
        )
    with _timed(seconds, "head and neurons"):
        X = features.feature_table(store)
        scores = heads.evaluate_heads(
            X, labels, split, heads=("logistic",), groups=groups, random_state=random_state
        )
        neurons = find_detectors(X, labels, split, groups, random_state=random_state)
    network = gradients.attach_head(
        backbone, scores.classes, *heads.linear_weights(scores.models["logistic"])
    )
    check_maps(store, sample.rows, network, sample.pixels)
    refusal = _refusal(network)
    presets = tuple(gradients.DAM_PRESETS) if refusal is None else ()
    rules = ("plain", "guided") if refusal is None else ("plain",)
    with _timed(seconds, "grad_cam_family"):
        heats = gradients.cam_heats(network, sample.pixels, sample.labels)
    found = _dam_boxes(network, sample, presets, seconds, progress)
    with _timed(seconds, "localisation"):
        where = localise.evaluate(
            store,
            split,
            methods=STORED_METHODS,
            neurons=neurons,
            weights=class_weights(scores),
            given={name: sample.all_rows(values) for name, values in (heats | found).items()},
            rows=sample.rows,
            predicted=predicted_classes(scores, X),
            box_kind=box_kind,
            random_state=random_state,
        )
    some = sample.some(_SANITY_IMAGES)
    with _timed(seconds, "sanity"):
        sanity = gradients.randomisation_check(
            network,
            sample.pixels[some],
            sample.labels[some],
            rules=rules,
            random_state=random_state,
        )
    with _timed(seconds, "faithfulness"):
        faith, curves = _faithfulness(
            network, store, sample, where, heats, rules, random_state, progress
        )
    with _timed(seconds, "examples"):
        examples = sample.some(_EXAMPLES)
        dam = [
            _dam_example(network, sample, preset, place)
            for preset in presets
            for place in examples[:_DAM_EXAMPLES]
        ]
        maps = _gradient_examples(network, sample, examples, ("plain", "input", *rules[1:]))
    accuracy = scores.table.set_index("head")["accuracy"]["logistic"]
    return GradientResults(
        localisation=_localisation_table(where, heats, found, sample, seconds),
        sanity=sanity,
        faithfulness=faith,
        faithfulness_curves=curves,
        dam=dam,
        examples=maps,
        cams=_cam_examples(where, heats, sample, examples),
        facts={
            "backbone": backbone.name,
            "weights": backbone.weights,
            "layer": network.layer,
            "classes": list(scores.classes),
            "head_accuracy": float(accuracy),
            "n_scored": len(sample.scored),
            "n_tuning": len(sample.rows) - len(sample.scored),
            "n_patched": network.guided.n_patched if refusal is None else 0,
            "guided_refused": refusal or "",
            "dam_layers": {preset: _dam_layer(network, preset) for preset in presets},
            "box_kind": str(where.table.attrs.get("box_kind", "")),
            "random_state": random_state,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        },
    )


def _refusal(network: gradients.HeadedNetwork) -> str | None:
    """Why guided back-propagation is not possible, if it is not."""
    try:
        _ = network.guided
    except FeatlabError as error:
        return str(error)
    return None


def _dam_boxes(
    network: gradients.HeadedNetwork,
    sample: Sample,
    presets: Sequence[str],
    seconds: dict[str, float],
    progress: Progress | None,
) -> dict[str, np.ndarray]:
    """Boxes of the scored images.

    Boxes have no threshold to choose: those of the other images are empty and never looked at.
    """
    found = {}
    for preset in presets:
        name, layer = f"dam_{preset}", _dam_layer(network, preset)
        run = partial(gradients.dam_boxes, network, parameters=preset, layer=layer)
        run(sample.pixels[:1])  # compiles
        found[name] = np.zeros((len(sample.rows), 4))
        with _timed(seconds, name):
            found[name][sample.scored] = run(
                sample.pixels[sample.scored],
                frames=sample.frames[sample.scored],
                sizes=sample.sizes[sample.scored],
                progress=None if progress is None else partial(progress, label=f"DAM, {preset}"),
            )
    return found


def _dam_layer(network: gradients.HeadedNetwork, preset: str) -> str:
    names = [layer.name for layer in network.model.layers]
    return _VARIANT_LAYER if preset == "variant" and _VARIANT_LAYER in names else network.layer


def _faithfulness(
    network: gradients.HeadedNetwork,
    store: MapStore,
    sample: Sample,
    where: Localisation,
    heats: dict[str, np.ndarray],
    rules: Sequence[str],
    random_state: int,
    progress: Progress | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The Grad-CAM family, the detectors of the stored maps and the gradients themselves."""
    some = np.sort(sample.some(_FAITHFUL_IMAGES))
    pixels, labels = sample.pixels[some], sample.labels[some]
    stored = localise.method_heats(store, sample.rows[some], where.fitted)
    judged = {name: heat[some] for name, heat in heats.items()}
    judged["detectors"] = stored["detectors"]
    for rule in rules:
        gradient = gradients.input_gradients(network, pixels, classes=labels, rule=rule)
        judged[f"{rule}_gradient"] = np.abs(gradient).sum(axis=-1)
    return gradients.faithfulness(
        network,
        pixels,
        judged,
        labels,
        n_steps=_FAITHFUL_STEPS,
        groups=sample.groups[some],
        random_state=random_state,
        progress=None if progress is None else partial(progress, label="faithfulness"),
    )


def _localisation_table(
    where: Localisation,
    heats: dict[str, np.ndarray],
    found: dict[str, np.ndarray],
    sample: Sample,
    seconds: dict[str, float],
) -> pd.DataFrame:
    """The table of `evaluate`, with seconds per image and the picture centre's own rate."""
    own = dict.fromkeys(heats, seconds["grad_cam_family"] / len(sample.rows))
    own |= {name: seconds[name] / len(sample.scored) for name in found}
    table = where.table.copy()
    matching = table["seconds_per_1000"] / 1000
    table["seconds_per_image"] = matching + table["method"].map(own).fillna(0).astype(float)
    rates = table.set_index("method")["centre_in_box"]
    table["picture_centre_in_box"] = float(rates["whole_image"])
    table.loc[table["method"].isin(found), "box_accuracy_confirm"] = np.nan
    table.attrs = dict(where.table.attrs) | {"runs_the_network": sorted(own)}
    return table.drop(columns="seconds_per_1000")


def _dam_example(
    network: gradients.HeadedNetwork, sample: Sample, preset: str, place: int
) -> DamExample:
    trace = gradients.dam_trace(
        network,
        sample.pixels[place],
        parameters=preset,
        layer=_dam_layer(network, preset),
        frame=sample.frames[place],
        size=sample.sizes[place],
    )
    return DamExample(preset, str(sample.labels[place]), trace, sample.true_boxes(place))


def _gradient_examples(
    network: gradients.HeadedNetwork, sample: Sample, places: np.ndarray, rules: Sequence[str]
) -> GradientExamples:
    pixels, labels = sample.pixels[places], sample.labels[places]
    maps = {
        rule: gradients.input_gradients(network, pixels, classes=labels, rule=rule)
        for rule in rules
    }
    return GradientExamples(pixels, labels.tolist(), maps)


def _cam_examples(
    where: Localisation,
    heats: dict[str, np.ndarray],
    sample: Sample,
    places: np.ndarray,
) -> CamExamples:
    """Heat maps and boxes of some images, in pixels of the network's input."""
    height, width = sample.pixels.shape[1:3]
    thresholds = where.table.set_index("method")["threshold"]
    whole = np.tile([0.0, 0.0, 1.0, 1.0], (len(places), 1))
    sizes = np.tile([width, height], (len(places), 1))
    found = {
        name: localise.heat_boxes(
            heat[places], [float(thresholds[name])], frames=whole, sizes=sizes
        )[:, 0]
        for name, heat in heats.items()
    }
    return CamExamples(
        pictures=sample.pixels[places],
        labels=sample.labels[places].tolist(),
        true_boxes=[sample.true_boxes(place) for place in places],
        heats={name: heat[places] for name, heat in heats.items()},
        boxes=found,
    )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
