"""The bytes of chunks as they lie in the file; maps from them, inflated by all cores."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice

import h5py
import numpy as np
from h5py._objects import phil

from featlab.system.machine import usable_cores

_FILTERS = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE)
# For fewer rows starting threads costs more than it saves; they take some at a time, since handing
# over each row by itself would cost a tenth of the time.
_ROWS_FOR_THREADS, _ROWS_AT_A_TIME = 8, 4


def read_chunks(dataset: h5py.Dataset, start: int, out: np.ndarray) -> bool:
    """Read rows into an array, if each row is one chunk that is shuffled and deflated.

    Parameters
    ----------
    dataset : Dataset of shape (n, ...)
    start : int
        First row.
    out : ndarray of shape (k, ...)
        Is filled with the rows from `start` on, in its own number format.

    Returns
    -------
    bool
        False where the rows lie otherwise, or a chunk is missing or damaged: then HDF5 must read
        them, which says what is wrong. `out` may have been filled in part.
    """
    if not _is_plain(dataset):
        return False
    rest = (0,) * (dataset.ndim - 1)
    size, dtype = int(np.prod(dataset.shape[1:])), dataset.dtype

    def decode(chunks: Iterable[bytes], targets: np.ndarray) -> None:
        for chunk, target in zip(chunks, targets, strict=True):
            numbers = _decoded(chunk, size, dtype).reshape(target.shape)
            if (dtype, target.dtype) == (np.float16, np.float32):
                # Looking them up takes half as long as NumPy's own conversion.
                np.take(_every_float16(), numbers.view(np.uint16), out=target, mode="clip")
            else:
                target[...] = numbers

    chunks = (_chunk(dataset, (start + k, *rest)) for k in range(len(out)))
    try:
        if len(out) < _ROWS_FOR_THREADS:
            decode(chunks, out)
        else:
            parts = [out[k : k + _ROWS_AT_A_TIME] for k in range(0, len(out), _ROWS_AT_A_TIME)]
            with ThreadPoolExecutor(usable_cores()) as pool:
                read = (list(islice(chunks, len(part))) for part in parts)
                for _ in pool.map(decode, read, parts):
                    pass
    except Exception:  # isal has an exception of its own, and HDF5 will find the words.
        return False
    return True


def read_raw_chunk(dataset: h5py.Dataset, offset: tuple[int, ...]) -> tuple[int, bytes]:
    """The filters left out, as a mask, and the bytes of the chunk at an offset."""
    # Before 3.16 h5py takes no lock here, and another thread that closes, or only forgets, an
    # object of HDF5 is then in the library at the same time: errors out of nowhere, or a crash.
    with phil:
        mask, chunk = dataset.id.read_direct_chunk(offset)
    return mask, bytes(chunk)


def write_raw_chunk(
    dataset: h5py.Dataset, offset: tuple[int, ...], chunk: bytes, mask: int = 0
) -> None:
    """Write the bytes of the chunk at an offset as they are."""
    with phil:  # as above
        dataset.id.write_direct_chunk(offset, chunk, mask)


def _is_plain(dataset: h5py.Dataset) -> bool:
    if dataset.chunks != (1, *dataset.shape[1:]) or dataset.dtype.str not in ("<f2", "<f4"):
        return False
    settings = dataset.id.get_create_plist()
    filters = tuple(settings.get_filter(k)[0] for k in range(settings.get_nfilters()))
    return filters == _FILTERS


def _chunk(dataset: h5py.Dataset, offset: tuple[int, ...]) -> bytes:
    skipped, chunk = read_raw_chunk(dataset, offset)
    if skipped:
        raise ValueError("a filter was left out")
    return chunk


def _decoded(chunk: bytes, size: int, dtype: np.dtype) -> np.ndarray:
    """The numbers of a chunk; the stream's checksum is compared."""
    planes = np.frombuffer(_inflater()(chunk, bufsize=size * dtype.itemsize), np.uint8)
    whole = np.dtype(f"<u{dtype.itemsize}")
    highest, *others = planes.reshape(dtype.itemsize, size)[::-1]
    numbers = highest.astype(whole)
    for plane in others:
        numbers <<= 8
        numbers |= plane
    return numbers.view(dtype)


@cache
def _every_float16() -> np.ndarray:
    """Each float16, at the place of its bits, as float32."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


@cache
def _inflater() -> Callable[..., bytes]:
    with contextlib.suppress(ImportError):
        from isal import isal_zlib

        return isal_zlib.decompress
    return zlib.decompress
