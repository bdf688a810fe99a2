"""Read the tensors of a legacy (zipless) torch ``.pth`` file without torch or running code.

The file is a row of pickles (magic number, protocol, system information, the state dict, the
storages' keys) followed by the storages: an 8-byte length each and raw little-endian numbers.
A pickle may name any function and call it; here only the few names that a state dict holds are
admitted, and they are bound to inert stand-ins.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from featlab._errors import FeatlabError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
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
    except (pickle.UnpicklingError, EOFError, struct.error) as error:
        raise FeatlabError(f"{path} is not a legacy torch state dict: {error}.") from error
    except OSError:
        raise
    except Exception as error:
        # A damaged pickle fails in any way it likes: wrong types, missing marks, odd memo keys.
        raise FeatlabError(
            f"{path} is not a legacy torch state dict: {type(error).__name__}: {error}."
        ) from error


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if _Unpickler(file).load() != _MAGIC:
        raise FeatlabError("the magic number of a legacy torch file is missing.")
    if _Unpickler(file).load() != _PROTOCOL:
        raise FeatlabError(f"protocol {_PROTOCOL} of legacy torch files is expected.")
    system = _Unpickler(file).load()
    if not system.get("little_endian", True):
        raise FeatlabError("the file is big-endian; only little-endian files are read.")
    views = _Unpickler(file).load()
    storages = {view.storage.key: view.storage for view in views.values()}
    arrays = {}
    for key in _Unpickler(file).load():
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
    if not valid or (not empty and last >= len(array)):
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


_ADMITTED: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    **{("torch", name): name for name in _DTYPES},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise FeatlabError(
                f"refused: its pickle names {module}.{name}, which no state dict holds."
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _location, size, view = pid
        if kind != "storage" or view is not None or storage_type not in _DTYPES:
            raise FeatlabError(f"a storage of an unknown kind: {storage_type!r}.")
        return _Storage(str(key), _DTYPES[storage_type], int(size))
