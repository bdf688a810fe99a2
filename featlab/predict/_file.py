"""The file of a predictor: arrays and JSON, and what was fitted made of them again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from featlab.boxheads import box_head_made, box_head_plain
from featlab.errors import FeatlabError
from featlab.heads.saved import SavedHead, check_shapes
from featlab.localise.methods import METHODS
from featlab.predict._parts import ClassSets, ExpectedOverlap, HeatBoxes, Typicality
from featlab.results.localisation import BoxHead, Context, FittedMethods
from featlab.store.arrays import Kind, mapping_made, mapping_plain, read_arrays, write_arrays

MODEL = "model.featlab"
KIND = Kind("featlab-predictor", "1.0", "featlab run` or `featlab report")
_BOX_HEAD, _PROVENANCE = "box_head_", "provenance_"  # before the names of arrays
_CONTEXT = ("scale", "weights", "intercepts")


def read_plain(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray], Path]:
    """What JSON says and the arrays of a file, or of that in a folder; and the file.

    Raises
    ------
    FeatlabError
        There is none, it is of an unknown version, or damaged.
    """
    path = Path(path)
    path = path / MODEL if path.is_dir() else path
    return *read_arrays(path, KIND), path


def write_plain(path: Path, parts: Mapping[str, Any]) -> None:
    """Write the fields of a predictor, complete or not at all."""
    write_arrays(path, KIND, *plain(parts))


def plain(parts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The fields of a predictor as what JSON says and named arrays."""
    own = SimpleNamespace(**parts)
    arrays: dict[str, np.ndarray] = {
        "sets_scores": own.sets.scores,
        "sets_tested": own.sets.tested,
        "typicality_train": own.typicality.train,
        "typicality_novelty": own.typicality.novelty,
        "head_mean": own.head.mean,
        "head_scale": own.head.scale,
        "detector_class": np.searchsorted(own.classes, own.detectors["class"].to_numpy(str)),
        "detector_neuron": own.detectors["neuron"].to_numpy(np.int64),
        "detector_threshold": own.detectors["threshold"].to_numpy(float),
    }
    for k, (weights, intercepts) in enumerate(own.head.layers):
        arrays |= {f"head_weights_{k}": weights, f"head_intercepts_{k}": intercepts}
    if own.overlap is not None:
        arrays["overlap_weights"] = own.overlap.weights
    heat, of_heat = _heat_plain(own.heat)
    arrays |= of_heat
    box_head = None
    if own.box_head is not None:
        box_head, of_head = box_head_plain(own.box_head)
        arrays |= {f"{_BOX_HEAD}{name}": values for name, values in of_head.items()}
    provenance, of_provenance = mapping_plain(own.provenance, _PROVENANCE)
    arrays |= of_provenance
    facts = {
        "provenance": provenance,
        "classes": own.classes,
        "head": {"layers": len(own.head.layers), "activation": own.head.activation,
                 "output": own.head.output},
        "heat": heat,
        "box_head": box_head,
        "measured": own.measured,
    }  # fmt: skip
    return facts, arrays


def made(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, Any]:
    """The fields of a predictor again, of what :func:`plain` told; `path` is that of its file."""
    classes = [str(name) for name in facts["classes"]]
    layers = tuple(
        (arrays[f"head_weights_{k}"], arrays[f"head_intercepts_{k}"])
        for k in range(facts["head"]["layers"])
    )
    head = SavedHead(
        np.array(classes), arrays["head_mean"], arrays["head_scale"], layers,
        facts["head"]["activation"], facts["head"]["output"],
    )  # fmt: skip
    detectors = pd.DataFrame(
        {
            "class": np.array(classes, dtype=object)[arrays["detector_class"]],
            "neuron": arrays["detector_neuron"],
            "threshold": arrays["detector_threshold"],
        }
    )
    overlap = None
    if "overlap_weights" in arrays:
        overlap = ExpectedOverlap(arrays["overlap_weights"])
    return {
        "provenance": mapping_made(facts["provenance"], arrays, _PROVENANCE),
        "classes": classes,
        "head": head,
        "detectors": detectors,
        "sets": ClassSets(arrays["sets_scores"], arrays["sets_tested"]),
        "typicality": Typicality(arrays["typicality_train"], arrays["typicality_novelty"]),
        "heat": _heat_made(facts["heat"], classes, arrays, path),
        "box_head": _box_head_made(facts["box_head"], arrays),
        "overlap": overlap,
        "measured": facts["measured"],
    }


def _box_head_made(
    facts: Mapping[str, Any] | None, arrays: Mapping[str, np.ndarray]
) -> BoxHead | None:
    if facts is None:
        return None
    own = {n.removeprefix(_BOX_HEAD): v for n, v in arrays.items() if n.startswith(_BOX_HEAD)}
    return box_head_made(facts, own)


def _heat_plain(heat: HeatBoxes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Heat-map boxes as what JSON says and named arrays."""
    arrays: dict[str, np.ndarray] = {}
    contexts = []
    for k, (layer, context) in enumerate(heat.fitted.contexts.items()):
        for name in _CONTEXT:
            if (values := getattr(context, name)) is not None:
                arrays[f"heat_{k}_{name}"] = values
        state = context.fitted.get(heat.method)
        if state is not None and not isinstance(state, tuple):
            raise FeatlabError(
                f"the heat-map method {heat.method!r} cannot be saved: what its fit returned "
                "must be a tuple of arrays and numbers."
            )
        scalar = [isinstance(one, float) for one in state or ()]
        arrays |= {f"heat_{k}_fitted_{j}": np.asarray(v) for j, v in enumerate(state or ())}
        table = None
        if context.neurons is not None:
            table = context.neurons[["class", "neuron", "direction"]].to_dict("list")
        contexts.append({"layer": layer, "fitted": None if state is None else scalar,
                         "neurons": table, "random_state": context.random_state})  # fmt: skip
    facts = {
        "method": heat.method,
        "threshold": heat.threshold,
        "tuned": heat.tuned,
        "contexts": contexts,
    }
    return facts, arrays


def _heat_made(
    facts: Mapping[str, Any], classes: list[str], arrays: Mapping[str, np.ndarray], path: Path
) -> HeatBoxes:
    """What :func:`_heat_plain` told, again."""
    name = facts["method"]
    if name not in METHODS:
        raise FeatlabError(
            f"the heat maps of {path} are of the method {str(name)[:80]!r}, which is not "
            "registered here; import the module that registers it."
        )
    contexts = {}
    for k, one in enumerate(facts["contexts"]):
        state = None
        if one["fitted"] is not None:
            values = [arrays[f"heat_{k}_fitted_{j}"] for j in range(len(one["fitted"]))]
            state = tuple(
                float(value) if scalar else value
                for value, scalar in zip(values, one["fitted"], strict=True)
            )
        contexts[str(one["layer"])] = Context(
            classes=classes,
            codes=np.zeros(0, dtype=np.int64),
            **{part: arrays.get(f"heat_{k}_{part}") for part in _CONTEXT},  # type: ignore[arg-type]
            neurons=None if one["neurons"] is None else pd.DataFrame(one["neurons"]),
            random_state=one["random_state"],
            fitted={name: state},
        )
    fitted = FittedMethods({name: METHODS[name]}, contexts)
    return HeatBoxes(name, float(facts["threshold"]), bool(facts["tuned"]), fitted)


def try_out(own: Any) -> None:
    """Run what a predictor does without maps on a picture of zeros; ValueError where it cannot.

    Shapes that do not fit together are found here.
    """
    repr(own)
    check_shapes(own.head)
    if unknown := own.used_layers - set(json.loads(own.provenance["layers"])):
        raise ValueError(f"the network has no layer {min(unknown)[:80]!r}")
    X = np.zeros((1, len(own.head.mean)), dtype=np.float32)
    probability = own.head.predict_proba(X)
    if probability.shape != (1, len(own.classes)):
        raise ValueError("the head has another number of classes")
    for values in (own.sets.scores, own.sets.tested, own.typicality.novelty):
        if values.ndim != 1:
            raise ValueError("scores must be one row of numbers")
    own.sets.members(probability, 0.9)
    own.typicality.p_values(X)
    for label in own.classes:
        own.firing(X, np.array([label], dtype=object))
    if own.overlap is not None:
        own.overlap.of(np.zeros((1, 2)))
    if not 0 <= own.heat.threshold < 1:
        raise ValueError("the threshold must lie in [0, 1)")
    for context in own.heat.fitted.contexts.values():
        maps = np.zeros((1, 2, 2, len(context.scale)), dtype=np.float32)
        heat = next(iter(own.heat.fitted.methods.values())).heat
        if np.shape(heat(maps, replace(context, codes=np.zeros(1, dtype=np.int64)))) != (1, 2, 2):
            raise ValueError("the heat map has another shape")
