"""The files of a predictor: arrays and JSON, from which it is made again; a Keras model of it."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from featlab.backbones import Backbone
from featlab.boxheads import box_head_made, box_head_plain, head_tensor
from featlab.errors import FeatlabError
from featlab.heads.saved import SavedHead, check_shapes, probability_tensor
from featlab.localise.methods import METHODS
from featlab.predict._parts import ClassSets, ExpectedOverlap, HeatBoxes, Typicality
from featlab.results.localisation import BoxHead, Context, FittedMethods
from featlab.store.arrays import Kind, mapping_made, mapping_plain, read_arrays, write_arrays
from featlab.system.files import refuse_foreign, whole_folder, write_whole

if TYPE_CHECKING:
    import keras

MODEL = "model.featlab"
KIND = Kind("featlab-predictor", "1.0", "featlab run` or `featlab report")
_BOX_HEAD, _PROVENANCE = "box_head_", "provenance_"  # before the names of arrays
_CONTEXT = ("scale", "weights", "intercepts", "centre")
_EXPORTS = {".keras": "", ".onnx": "onnx", ".tflite": "litert", "": "tf_saved_model"}
_CLASSES = ".classes.txt"
_SPLITTER = 2.0**13 + 1  # of the 24 binary digits of a float32, the 11 that a float16 has


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
    (method,) = own.heat.fitted.methods.values()
    for context in own.heat.fitted.contexts.values():
        maps = np.zeros((1, 2, 2, len(context.scale)), dtype=np.float32)
        heat = method.heat(maps, context.of(np.zeros(1, dtype=np.int64)))
        if np.shape(heat if method.join is None else method.join(heat)) != (1, 2, 2):
            raise ValueError("the heat map has another shape")


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


def keras_model(own: Any, backbone: Any) -> keras.Model:
    """A predictor as one plain Keras model (:meth:`Predictor.to_keras`).

    Parameters
    ----------
    own : Predictor
    backbone : Backbone
        That of the predictor.

    Returns
    -------
    keras.Model

    Raises
    ------
    FeatlabError
        The network is no Keras model, the pictures do not fill its input, or the heat map cannot be
        written as layers.
    """
    import keras
    from keras import layers

    from featlab.finetune.network import map_network  # with scikit-learn, which asking needs not
    from featlab.localise.tensors import box_tensor, heat_tensor

    if not isinstance(backbone, Backbone):
        raise FeatlabError(
            "a Keras model needs the network as load_backbone gives it, got "
            f"{type(backbone).__name__}."
        )
    if own.provenance["resize"] != "stretch":
        raise FeatlabError(
            "a Keras model needs pictures that fill the network's input (resize='stretch'), got a "
            f"predictor of pictures resized by {str(own.provenance['resize'])!r}."
        )
    names = [name for name in backbone.layers if name in own.used_layers]
    network = map_network(backbone, layers=names)
    exact = dict(zip(names, network.outputs, strict=True))
    maps = exact
    if own.provenance["dtype"] == "float16":
        maps = {name: _as_stored(values) for name, values in exact.items()}
    pooled = layers.GlobalAveragePooling2D()(exact[own.layer])
    probability = probability_tensor(own.head, pooled)
    heat = heat_tensor(own.heat.fitted, maps, _most_probable(probability))
    if own.box_head is None:
        box = box_tensor(heat, own.heat.threshold)
    else:
        box = head_tensor(own.box_head, maps[own.box_head.layer])
    outputs = {
        name: layers.Identity(name=name)(values)
        for name, values in (("probability", probability), ("heat", heat), ("box", box))
    }
    model = keras.Model(network.inputs[0], outputs, name=f"{network.name}_predictor")
    model(np.zeros((1, *model.input_shape[1:]), np.float32))  # the ONNX export asks for one call
    return model


def _most_probable(probability: Any) -> Any:
    """1 at the first of the most probable classes, else 0, ``(b, k)``."""
    from keras import ops

    # Exporters do not know Keras's argmax, which looks at the signs of zeros.
    k = probability.shape[1]
    place = np.arange(k, dtype=np.float32)
    top = ops.max(probability, axis=1, keepdims=True)
    first = ops.min(ops.where(probability >= top, place, float(k)), axis=1, keepdims=True)
    return ops.cast(ops.equal(first, place), "float32")


def _as_stored(maps: Any) -> Any:
    """Maps with as many digits as a store keeps in float16.

    By arithmetic: exporters leave two casts after each other out.

    References
    ----------
    Dekker (1971). A floating-point technique for extending the available precision. Numerische
    Mathematik 18, 224-242.
    """
    large = maps * _SPLITTER
    return large - (large - maps)


def export_format(path: Path) -> str:
    """What ``keras.Model.export`` calls the format of a suffix; "" for Keras's own.

    Raises
    ------
    FeatlabError
        Another suffix; without one, a folder of that name that holds something else.
    """
    if not path.suffix:
        refuse_foreign(path)
    if path.suffix.lower() not in _EXPORTS:
        raise FeatlabError(
            "the model's name must end in .keras, .onnx, .tflite or, for the folder of a "
            f"SavedModel, in nothing, got {path}."
        )
    return _EXPORTS[path.suffix.lower()]


def write_model(model: keras.Model, path: Path, classes: list[str]) -> Path:
    """Write a Keras model in the format of the suffix (:func:`export_format`), complete or not.

    Returns
    -------
    Path
        Of its classes, one a line, beside it.

    Raises
    ------
    FeatlabError
        Another suffix, an exporter that is not installed, or a path that cannot be written.
    """
    name = export_format(path)
    try:
        with warnings.catch_warnings():  # of the exporter's own libraries
            warnings.simplefilter("ignore", FutureWarning)
            if not path.suffix:
                with whole_folder(path) as folder:
                    model.export(folder, format=name, verbose=False)
            elif name:
                write_whole(path, lambda part: model.export(part, format=name, verbose=False))
            else:
                write_whole(path, model.save)
    except ImportError as error:
        raise FeatlabError(
            f"{path} needs an exporter that is not installed ({str(error).splitlines()[0]}): "
            "pip install 'featlab[export]'."
        ) from error
    # Beside a .keras file classes are read under its name alone.
    named = path.with_suffix(_CLASSES) if not name else path.with_name(path.name + _CLASSES)
    write_whole(named, "".join(f"{one}\n" for one in classes))
    return named
