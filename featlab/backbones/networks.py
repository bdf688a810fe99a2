"""Networks that are built in, of Keras, or in a file: how each is built."""

from __future__ import annotations

import difflib
import inspect
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featlab.arguments import check_choice
from featlab.backbones import efficientnet_lite
from featlab.backbones.graphs import spatial_layers
from featlab.errors import FeatlabError
from featlab.store.network import OwnHead

if TYPE_CHECKING:
    import keras

BUILT_IN = tuple(efficientnet_lite.VARIANTS)

# What the networks of keras.applications were trained at, where it is not 224.
_INPUT_SIZES = {
    "inceptionv3": 299,
    "inceptionresnetv2": 299,
    "xception": 299,
    "nasnetlarge": 331,
    "efficientnetb1": 240,
    "efficientnetb2": 260,
    "efficientnetb3": 300,
    "efficientnetb4": 380,
    "efficientnetb5": 456,
    "efficientnetb6": 528,
    "efficientnetb7": 600,
    "efficientnetv2b1": 240,
    "efficientnetv2b2": 260,
    "efficientnetv2b3": 300,
    "efficientnetv2s": 384,
    "efficientnetv2m": 480,
    "efficientnetv2l": 480,
}
_USUAL_SIZE = 224

_SCALINGS = {
    "none": "pixels 0 … 255 as they are; the network scales them itself",
    "tf": "pixels scaled to −1 … 1",
    "torch": "pixels scaled to 0 … 1, then the ImageNet mean and deviation of each channel",
    "caffe": "channels reversed to BGR, the ImageNet mean of each subtracted",
}
PREPROCESSING = ("none", "tf", "torch", "caffe")


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

    known = {}
    for info in pkgutil.iter_modules(keras.applications.__path__):
        module = getattr(keras.applications, info.name)
        preprocess = getattr(module, "preprocess_input", None)
        if preprocess is None:
            continue
        for name, build in vars(module).items():
            if inspect.isfunction(build) and "include_top" in inspect.signature(build).parameters:
                known[canonical_name(name)] = Application(name, build, preprocess, info.name)
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


def scale_pixels(pixels: Any, preprocessing: str) -> Any:
    """Apply one of Keras's three classic scalings, or none, to float pixels 0 … 255."""
    from keras.applications import imagenet_utils

    if preprocessing == "none":
        return pixels
    return imagenet_utils.preprocess_input(pixels, mode=preprocessing)


def is_model_file(name: str) -> bool:
    """Whether a backbone is named by a file of the user's own."""
    return Path(name).suffix in (".keras", ".h5", ".hdf5")


def find_source(
    name: str,
    weights: str | os.PathLike[str] | None,
    size: tuple[int, int] | None,
    preprocessing: str | None,
    classifier: bool = False,
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
    if is_model_file(name):
        return _model_file(Path(name), weights, size, preprocessing)
    if preprocessing is not None:
        raise FeatlabError(f"preprocessing is for .keras files; {name} has its own. Leave it out.")
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
        last_layer=efficientnet_lite.LAST_MAP,
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
            return _seeded(partial(entry.build, weights=file or weights, **options), weights)
        except (ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FeatlabError(
                f"{entry.name} with weights {weights!s} at {size[0]} × {size[1]} px could not be "
                f"made: {reason}"
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
) -> Source:
    if weights != "imagenet":
        raise FeatlabError(f"{path} has its own weights; leave weights out.")
    scaling = preprocessing or "none"
    check_choice("preprocessing", scaling, PREPROCESSING)
    _existing(path)

    def build(size: tuple[int, int] | None) -> keras.Model:
        return _load_keras_file(path, size)

    return Source(
        name=path.stem,
        weights=path.name,
        weights_file=path,
        preprocessing=f"{scaling}: {_SCALINGS[scaling]}",
        build=build,
        preprocess=partial(scale_pixels, preprocessing=scaling),
        input_size=size,
        last_layer=None,
        class_names=path.with_suffix(".classes.txt"),
    )


def _load_keras_file(path: Path, size: tuple[int, int] | None) -> keras.Model:
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        # Whatever a hostile or damaged file raises, the user needs the file's name.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FeatlabError(f"{path} could not be loaded as a Keras model: {reason}") from error
    shape = model.input_shape
    if isinstance(shape, list) or len(shape) != 4 or shape[-1] != 3:
        raise FeatlabError(f"{path} must take RGB pictures (b, H, W, 3), but takes {shape}.")
    if None in shape[1:3]:
        raise FeatlabError(
            f"{path} leaves its input size open; save it with a fixed one, such as "
            "keras.Input((224, 224, 3))."
        )
    if size is not None and size != tuple(shape[1:3]):
        raise FeatlabError(
            f"{path} takes {shape[1]} × {shape[2]} px; input_size={size} is not possible for it."
        )
    if not spatial_layers(model):
        raise FeatlabError(f"{path} has no layer that gives maps (b, h, w, c).")
    return model


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
