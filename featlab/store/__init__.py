"""The HDF5 store of feature maps: written once, read many times.

The layout is described in ``docs/file-format.md``. A *part* (one finished range of rows, written
during the pass) has the same groups as a store, without the tables; :func:`join_parts` copies the
compressed chunks of parts, or of finished stores, into one new store without decoding them, or
makes a virtual store that refers to them.
"""

from __future__ import annotations

from featlab.store._encoding import EncodedMaps, encode_maps
from featlab.store._items import Tables, load_tables, save_tables
from featlab.store._joining import join_parts
from featlab.store._pieces import Piece, choose_rows, finished_part, relative_name
from featlab.store._reading import MapStore
from featlab.store._schema import BOX_DTYPES, ENCODING_TYPE, ENCODING_VERSION, IMAGE_DTYPES
from featlab.store._writing import PartWriter, write_whole

__all__ = [
    "BOX_DTYPES",
    "ENCODING_TYPE",
    "ENCODING_VERSION",
    "IMAGE_DTYPES",
    "EncodedMaps",
    "MapStore",
    "PartWriter",
    "Piece",
    "Tables",
    "choose_rows",
    "encode_maps",
    "finished_part",
    "join_parts",
    "load_tables",
    "relative_name",
    "save_tables",
    "write_whole",
]
