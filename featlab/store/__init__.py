"""The HDF5 store of feature maps: written once, read many times.

The layout is described in ``docs/file-format.md``. A *part* (one finished range of rows, written
during the pass) has the same groups as a store, without the tables; :func:`join_parts` copies the
compressed chunks of parts, or of a finished store, into one new store without decoding them.
"""

from __future__ import annotations

from featlab.store._encoding import EncodedMaps, encode_maps
from featlab.store._joining import join_parts, part_rows
from featlab.store._reading import MapStore
from featlab.store._schema import BOX_DTYPES, ENCODING_TYPE, ENCODING_VERSION, IMAGE_DTYPES
from featlab.store._writing import PartWriter

__all__ = [
    "BOX_DTYPES",
    "ENCODING_TYPE",
    "ENCODING_VERSION",
    "IMAGE_DTYPES",
    "EncodedMaps",
    "MapStore",
    "PartWriter",
    "encode_maps",
    "join_parts",
    "part_rows",
]
