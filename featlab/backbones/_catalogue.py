"""Which networks there are, how each is built, and how each wants its pixels."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featlab.backbones import efficientnet_lite
from featlab.errors import FeatlabError

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

    found = {}
    for info in pkgutil.iter_modules(keras.applications.__path__):
        module = getattr(keras.applications, info.name)
        preprocess = getattr(module, "preprocess_input", None)
        if preprocess is None:
            continue
        for name, build in vars(module).items():
            if inspect.isfunction(build) and "include_top" in inspect.signature(build).parameters:
                found[canonical_name(name)] = Application(name, build, preprocess, info.name)
    return found


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
    import difflib

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


def describe_scaling(preprocessing: str) -> str:
    """One line on what happens to the pixels before the network."""
    return _SCALINGS[preprocessing]


def scale_pixels(pixels: Any, preprocessing: str) -> Any:
    """Apply one of Keras's three classic scalings, or none, to float pixels 0 … 255."""
    from keras.applications import imagenet_utils

    if preprocessing == "none":
        return pixels
    return imagenet_utils.preprocess_input(pixels, mode=preprocessing)


def is_model_file(name: str) -> bool:
    """Whether a backbone is named by a file of the user's own."""
    return Path(name).suffix in (".keras", ".h5", ".hdf5")
