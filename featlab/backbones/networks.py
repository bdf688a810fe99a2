"""Networks that are built in, of Keras, or in a file: how each is built."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featlab.backbones import efficientnet_lite
from featlab.backbones._files import (
    OnnxNetwork,
    check_pictures,
    checked_preprocessing,
    keras_version,
    load_keras_file,
    preprocessing_in_words,
    scale_pixels,
)
from featlab.backbones.graphs import cause_of, flat
from featlab.errors import FeatlabError
from featlab.store.network import OwnHead

if TYPE_CHECKING:
    import keras

BUILT_IN = tuple(efficientnet_lite.VARIANTS)

# What the networks of keras.applications were trained at, where it is not 224.
_INPUT_SIZES = {
    **dict.fromkeys(("inceptionv3", "inceptionresnetv2", "xception"), 299),
    "nasnetlarge": 331,
    **{
        f"efficientnetb{k}": side for k, side in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    },
    **{f"efficientnetv2b{k}": side for k, side in enumerate((224, 240, 260, 300))},
    **dict.fromkeys(("efficientnetv2m", "efficientnetv2l"), 480),
    "efficientnetv2s": 384,
}
_USUAL_SIZE = 224

HUB = "hub:"
"""Before the name, or the folder, of a preset of ``keras_hub``."""
_MODEL_FILES = (".keras", ".h5", ".hdf5", ".onnx")


@dataclass(frozen=True)
class Source:
    """How a network comes about; nothing of it is loaded yet."""

    name: str
    weights: str
    weights_file: Path | None
    preprocessing: str
    build: Callable[[tuple[int, int] | None], keras.Model]
    preprocess: Callable[[Any], Any]
    input_size: tuple[int, int] | None
    last_layer: str | None
    head: Callable[[], OwnHead | None] | None = None
    class_names: Path | None = None
    onnx: OnnxNetwork | None = None


@dataclass(frozen=True)
class Application:
    """A network of ``keras.applications``: its class name, builder and own preprocessing."""

    name: str
    build: Callable[..., keras.Model]
    preprocess: Callable[[Any], Any]
    module: str


def canonical_name(name: str) -> str:
    """Lower case without separators: 'MobileNet_V2' and 'mobilenetv2' are the same network."""
    return name.lower().replace("_", "").replace("-", "")


def built_in_name(name: str) -> str | None:
    """The built-in network that a name means, if any."""
    return {canonical_name(known): known for known in BUILT_IN}.get(canonical_name(name))


def default_input_size(name: str) -> int:
    """The side in pixels that a network was trained at."""
    built_in = built_in_name(name)
    if built_in:
        return efficientnet_lite.VARIANTS[built_in].input_size
    return _INPUT_SIZES.get(canonical_name(name), _USUAL_SIZE)


@cache
def applications() -> dict[str, Application]:
    """Every classification network of the installed Keras, by canonical name."""
    import keras

    modules = {
        info.name: getattr(keras.applications, info.name)
        for info in pkgutil.iter_modules(keras.applications.__path__)
    }
    known = {}
    # Some stand in no module of their own but beside the modules; last, theirs is where they are
    # defined.
    for place in (keras.applications, *modules.values()):
        for name, build in vars(place).items():
            if inspect.isfunction(build) and "include_top" in inspect.signature(build).parameters:
                own = build.__module__.rpartition(".")[2]
                where = own if place is keras.applications else place.__name__.rpartition(".")[2]
                preprocess = modules[where].preprocess_input
                known[canonical_name(name)] = Application(name, build, preprocess, where)
    return known


def available_backbones() -> list[str]:
    """Names that :func:`load_backbone` knows: the built-in ones, then those of Keras."""
    return [*BUILT_IN, *sorted(entry.name for entry in applications().values())]


def find_application(name: str) -> Application:
    """The network of ``keras.applications`` with this name.

    Raises
    ------
    FeatlabError
        No such network; the message suggests near names.
    """
    known = applications()
    try:
        return known[canonical_name(name)]
    except KeyError:
        names = [*BUILT_IN, *(entry.name for entry in known.values())]
        near = difflib.get_close_matches(name, names, n=4, cutoff=0.4) or list(BUILT_IN)
        raise FeatlabError(
            f"backbone must be a .keras file, a network of keras.applications or one of "
            f"{', '.join(BUILT_IN)}; got {name!r}. Near: {', '.join(near)}."
        ) from None


def is_model_file(name: str) -> bool:
    """Whether a backbone is named by a file of the user's own."""
    return Path(name).suffix in _MODEL_FILES or Path(name, "saved_model.pb").is_file()


def find_source(
    name: str,
    weights: str | os.PathLike[str] | None,
    size: tuple[int, int] | None,
    preprocessing: str | None,
    classifier: bool = False,
    custom: Sequence[str] = (),
) -> Source:
    """The source that a name means.

    Raises
    ------
    FeatlabError
        Unknown name, missing file, or an option that the source does not allow.
    """
    built_in = built_in_name(name)
    if classifier and (built_in or is_model_file(name)):
        raise FeatlabError(f"classifier is for keras.applications; {name} has its own anyway.")
    if Path(name).suffix == ".onnx":
        return _onnx(Path(name), size, preprocessing)
    if is_model_file(name):
        return _model_file(Path(name), weights, size, preprocessing, custom)
    if name.startswith(HUB):
        return _preset(name, size, preprocessing)
    if preprocessing is not None:
        raise FeatlabError(f"preprocessing is for .keras files; {name} has its own. Leave it out.")
    if custom:
        raise FeatlabError(f"custom is for .keras files; {name} has no layers of your own.")
    size = size or (default_input_size(name),) * 2
    if built_in:
        return _built_in(built_in, weights, size)
    return _application(name, weights, size, classifier)


def _built_in(name: str, weights: str | os.PathLike[str] | None, size: tuple[int, int]) -> Source:
    file = None
    if weights == "imagenet":
        file = efficientnet_lite.weights_path(name)
    elif weights is not None:
        file = _existing(weights)

    def build(size: tuple[int, int] | None) -> keras.Model:
        assert size is not None
        return _seeded(partial(efficientnet_lite.build, name, size, file), weights)

    return Source(
        name=name,
        weights=_weights_label(weights),
        weights_file=file,
        preprocessing="pixels scaled to (x − 127) / 128",
        build=build,
        preprocess=lambda pixels: (pixels - 127.0) / 128.0,
        input_size=size,
        # Of an input of one cell it tells nothing of places: the last layer before it that does.
        last_layer=efficientnet_lite.LAST_MAP if max(size) > efficientnet_lite.CELL else None,
        head=None if file is None else partial(efficientnet_lite.own_head, file),
    )


def _application(
    name: str, weights: str | os.PathLike[str] | None, size: tuple[int, int], classifier: bool
) -> Source:
    entry = find_application(name)
    file = None if weights in (None, "imagenet") else _existing(weights)

    def build(size: tuple[int, int] | None) -> keras.Model:
        assert size is not None
        options: dict[str, Any] = {"include_top": classifier, "input_shape": (*size, 3)}
        options |= {"classifier_activation": None} if classifier else {}
        try:
            with _fresh_names():
                return _seeded(partial(entry.build, weights=file or weights, **options), weights)
        except (ValueError, OSError) as error:
            raise FeatlabError(
                f"{entry.name} with weights {weights!s} at {size[0]} × {size[1]} px could not be "
                f"made: {cause_of(error)}"
            ) from error
        except Exception as error:
            # Keras reports a failed download as a bare Exception.
            if type(error) is not Exception:
                raise
            raise FeatlabError(
                f"the ImageNet weights of {entry.name} could not be downloaded: {error}. Give a "
                f"local file as weights, or use {BUILT_IN[0]}, which needs no network."
            ) from error

    return Source(
        name=entry.name,
        weights=_weights_label(weights),
        weights_file=file,
        preprocessing=f"keras.applications.{entry.module}.preprocess_input",
        build=build,
        preprocess=entry.preprocess,
        input_size=size,
        last_layer=None,
    )


def _model_file(
    path: Path,
    weights: str | os.PathLike[str] | None,
    size: tuple[int, int] | None,
    preprocessing: str | None,
    custom: Sequence[str],
) -> Source:
    if weights != "imagenet":
        raise FeatlabError(f"{path} has its own weights; leave weights out.")
    scaling = checked_preprocessing(preprocessing or "none")
    if path.is_dir():
        raise FeatlabError(
            f"{path} is a SavedModel, which Keras {keras_version()} runs only as a whole, without "
            "the layers in it: open it with what wrote it (TensorFlow before 2.16, or the package "
            "tf_keras) and save it as .h5 or .keras."
        )
    _existing(path)

    def build(size: tuple[int, int] | None) -> keras.Model:
        return load_keras_file(path, size, custom)

    return Source(
        name=path.stem,
        weights=path.name,
        weights_file=path,
        preprocessing=preprocessing_in_words(scaling),
        build=build,
        preprocess=partial(scale_pixels, preprocessing=scaling),
        input_size=size,
        last_layer=None,
        class_names=path.with_suffix(".classes.txt"),
    )


def _onnx(path: Path, size: tuple[int, int] | None, preprocessing: str | None) -> Source:
    _existing(path)
    if preprocessing is None:
        raise FeatlabError(
            f"{path} tells nothing of its pixels: give preprocessing (--preprocessing), which is "
            "torch for most networks of PyTorch."
        )
    scaling = checked_preprocessing(preprocessing)
    network = OnnxNetwork(path, size, scaling)

    def build(size: tuple[int, int] | None) -> keras.Model:
        raise FeatlabError(
            f"{path} is run by OpenVINO, forward only: gradients, fine-tuning and exports need a "
            "network of Keras."
        )

    return Source(
        name=path.stem,
        weights=path.name,
        weights_file=None,
        preprocessing=preprocessing_in_words(scaling),
        build=build,
        preprocess=partial(scale_pixels, preprocessing=scaling),
        input_size=network.size,
        last_layer=network.last,
        head=lambda: None,
        onnx=network,
    )


def _scaled(pixels: Any, scale: Any, offset: Any) -> Any:
    return pixels * scale + offset


def _load_preset(name: str, size: tuple[int, int] | None) -> keras.Model:
    """The image network of a preset of ``keras_hub``, as one graph of RGB pictures.

    Raises
    ------
    FeatlabError
        ``keras_hub`` is not installed, there is no such preset, or it takes no pictures.
    """
    models = _keras_hub().models
    preset = name.removeprefix(HUB)
    try:
        model = models.Backbone.from_preset(preset)
    except Exception as error:  # downloads and damaged folders fail in any way they like
        raise FeatlabError(
            f"the preset {preset} could not be loaded by keras_hub: {cause_of(error).rstrip('.')}. "
            f"A name is downloaded once, which needs a network; {HUB}FOLDER reads a preset that "
            "lies here."
        ) from error
    # Of a network of pictures and text, the part for pictures.
    model = getattr(model, "vision_encoder", model)
    check_pictures(Path(name), model, size)
    return flat(model, size)


def _preset_scaling(name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """What the pixels 0 … 255 of a preset are multiplied by, and what is added; None if untold."""
    layers = _keras_hub().layers
    try:
        converter = layers.ImageConverter.from_preset(name.removeprefix(HUB))
    except Exception:  # the preset tells nothing of its pixels
        return None
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    both = (np.asarray(one, np.float32).reshape(-1) for one in (scale, offset))
    first, second = (np.broadcast_to(one, 3) for one in both)
    return first, second


def _keras_hub() -> Any:
    try:
        return importlib.import_module("keras_hub")
    except ImportError as error:
        raise FeatlabError(
            f"backbones {HUB}… need keras_hub: pip install 'featlab[hub]'."
        ) from error


def _preset(name: str, size: tuple[int, int] | None, preprocessing: str | None) -> Source:
    if preprocessing is None:
        known = _preset_scaling(name)
        if known is None:
            raise FeatlabError(
                f"{name} tells nothing of its pixels: give preprocessing (--preprocessing)."
            )
        scale, offset = known
        words = f"pixels 0 … 255 times {scale.tolist()}, plus {offset.tolist()}"
        preprocess: Callable[[Any], Any] = partial(_scaled, scale=scale, offset=offset)
    else:
        scaling = checked_preprocessing(preprocessing)
        words, preprocess = (
            preprocessing_in_words(scaling),
            partial(scale_pixels, preprocessing=scaling),
        )

    def build(size: tuple[int, int] | None) -> keras.Model:
        with _fresh_names():
            return _load_preset(name, size)

    return Source(
        name=name,
        weights="preset",
        weights_file=None,
        preprocessing=words,
        build=build,
        preprocess=preprocess,
        input_size=size,
        last_layer=None,
    )


@contextmanager
def _fresh_names() -> Iterator[None]:
    """Layers without a name of their own are named as in a process that has made none before.

    Keras counts them through the whole process: without this, what a network's layers are called
    would depend on what was built before it.
    """
    from keras.src.backend.common import global_state
    from keras.src.utils import naming

    counted = global_state.get_global_attribute("object_name_uids")
    naming.reset_uids()
    try:
        yield
    finally:
        global_state.set_global_attribute("object_name_uids", counted)


def _seeded(
    build: Callable[[], keras.Model], weights: str | os.PathLike[str] | None
) -> keras.Model:
    """Build; random weights are the same each time, so that a pass over them can be resumed.

    Each kernel is drawn with a seed of its own, as Keras's layers draw theirs by default (Glorot
    and Bengio 2010, uniform): the seed of the whole interpreter is not ours to set, and other
    threads draw from it at the same time.
    """
    network = build()
    if weights is None:
        import keras

        kernels = (weight for weight in network.trainable_weights if len(weight.shape) > 1)
        for seed, kernel in enumerate(kernels):
            kernel.assign(keras.initializers.GlorotUniform(seed)(kernel.shape))
    return network


def _existing(path: str | os.PathLike[str]) -> Path:
    file = Path(path)
    if not file.is_file():
        raise FeatlabError(f"there is no file {file}; give 'imagenet', None or a local file.")
    return file


def _weights_label(weights: str | os.PathLike[str] | None) -> str:
    if weights is None:
        return "random"
    return "ImageNet" if weights == "imagenet" else Path(weights).name
