"""Maps of a batch as the store keeps them: pooled, shuffled and deflated."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from featlab.errors import FeatlabError

_FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class EncodedMaps:
    """Maps of a batch as they are stored; made by :func:`encode_maps`.

    Attributes
    ----------
    maps : ndarray of shape (b, h, w, c), float32
        The network's own output.
    mean, max : ndarray of shape (b, c), float32
        Pooled over the cells.
    dtype : dtype
        Number format of the chunks.
    chunks : tuple of bytes
        One for each image: shuffled and deflated.
    """

    maps: np.ndarray
    mean: np.ndarray
    max: np.ndarray
    dtype: np.dtype
    chunks: tuple[bytes, ...]


def encode_maps(layer: str, values: np.ndarray, dtype: str = "float16") -> EncodedMaps:
    """Pool and compress the maps of a batch; threads may do so at the same time.

    Parameters
    ----------
    layer : str
        Its name, for the error.
    values : ndarray of shape (b, h, w, c), float32
    dtype : {"float16", "float32"}
        Number format of the stored maps; float32 where a value overflows float16.

    Raises
    ------
    FeatlabError
        There are NaN or infinite values.
    """
    flat = values.reshape(len(values), -1, values.shape[-1])
    highest, lowest = flat.max(axis=1), flat.min(axis=(1, 2))  # NaN wherever there is one
    if not (np.isfinite(highest).all() and np.isfinite(lowest).all()):
        raise FeatlabError(
            f"the network's output at layer {layer!r} has NaN or infinite values; "
            "check its weights and preprocessing."
        )
    largest = max(highest.max(initial=0), -lowest.min(initial=0))
    stored = np.dtype(np.float32 if largest > _FLOAT16_MAX else dtype)
    # One image after the other stays in the core's cache.
    chunks = tuple(encode_chunk(image, stored) for image in values)
    return EncodedMaps(values, flat.mean(axis=1), highest, stored, chunks)


def encode_chunk(values: np.ndarray, dtype: np.dtype) -> bytes:
    """What HDF5's own shuffle and deflate filters would read, in less time."""
    # NumPy rounds: HDF5 1.14.6 halves what it should round up to a power of two.
    numbers = values.astype(dtype, order="C").ravel().view(f"u{dtype.itemsize}")
    # Shifting is twice as fast as transposing bytes; the file is little-endian.
    octets = np.empty((dtype.itemsize, numbers.size), dtype=np.uint8)
    for plane in octets:
        np.copyto(plane, numbers, casting="unsafe")
        numbers >>= 8
    return _deflater()(octets.data)


@cache
def _deflater() -> Callable[[memoryview], bytes]:
    """The fastest writer of deflate streams that is installed (docs/speed.md)."""
    with contextlib.suppress(ImportError):
        from isal import isal_zlib

        return partial(isal_zlib.compress, level=1)

    def deflate(octets: memoryview) -> bytes:
        # Shuffled maps are runs of zeros: looking for runs only is faster and packs better.
        packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
        return packer.compress(octets) + packer.flush()

    return deflate
