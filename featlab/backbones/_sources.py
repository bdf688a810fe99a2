"""Where a network comes from: the built-in ones, those of Keras, a file of the user's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featlab.backbones import _catalogue, efficientnet_lite
from featlab.backbones._surgery import spatial_layers
from featlab.errors import FeatlabError

if TYPE_CHECKING:
    import keras


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


def find_source(
    name: str,
    weights: str | os.PathLike[str] | None,
    size: tuple[int, int] | None,
    preprocessing: str | None,
) -> Source:
    """The source that a name means.

    Raises
    ------
    FeatlabError
        Unknown name, missing file, or an option that the source does not allow.
    """
    if _catalogue.is_model_file(name):
        return _model_file(Path(name), weights, size, preprocessing)
    if preprocessing is not None:
        raise FeatlabError(f"preprocessing is for .keras files; {name} has its own. Leave it out.")
    size = size or (_catalogue.default_input_size(name),) * 2
    built_in = _catalogue.built_in_name(name)
    return _built_in(built_in, weights, size) if built_in else _application(name, weights, size)


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
    )


def _application(
    name: str, weights: str | os.PathLike[str] | None, size: tuple[int, int]
) -> Source:
    entry = _catalogue.find_application(name)
    file = None if weights in (None, "imagenet") else _existing(weights)

    def build(size: tuple[int, int] | None) -> keras.Model:
        assert size is not None
        options = {"include_top": False, "input_shape": (*size, 3)}
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
                f"local file as weights, or use {_catalogue.BUILT_IN[0]}, which needs no network."
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
    if scaling not in _catalogue.PREPROCESSING:
        allowed = ", ".join(_catalogue.PREPROCESSING)
        raise FeatlabError(f"preprocessing must be one of {allowed}, got {preprocessing!r}.")
    _existing(path)

    def build(size: tuple[int, int] | None) -> keras.Model:
        return _load_keras_file(path, size)

    return Source(
        name=path.stem,
        weights=path.name,
        weights_file=path,
        preprocessing=f"{scaling}: {_catalogue.describe_scaling(scaling)}",
        build=build,
        preprocess=partial(_catalogue.scale_pixels, preprocessing=scaling),
        input_size=size,
        last_layer=None,
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
