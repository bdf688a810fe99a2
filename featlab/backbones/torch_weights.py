"""Read the tensors of a legacy (zipless) torch ``.pth`` file without torch or running code.

The file is a row of pickles (magic number, protocol, system information, the state dict, the
storages' keys) followed by the storages: an 8-byte length each and raw little-endian numbers.
A pickle is a programme for a small machine, which may name any function and call it. It is not run
by Python's own machine but by one that knows only the instructions of a state dict (those of
protocol 2 that torch writes), and only three names, each bound to an inert stand-in.
"""

from __future__ import annotations

import math
import os
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from featlab.errors import FeatlabError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LONGEST = 160
_DTYPES: dict[str, np.dtype] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


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
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
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
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            raise FeatlabError(f"refused: its pickle does {name}, which no state dict needs.")
    raise FeatlabError("its pickle has no end.")


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
