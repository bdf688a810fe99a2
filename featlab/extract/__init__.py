"""The one pass of the network: image table + backbone → store."""

import os
from pathlib import Path

from featlab.extract._parts import MapSource, PassOptions, clear_parts, parts_of, sole_writer

# For other rooms, which have networks to check, or a few pictures.
from featlab.extract._parts import refuse_other_maps as refuse_other_maps
from featlab.extract._passing import maps_at_once as maps_at_once
from featlab.extract.stores import (
    append_maps,
    extract_maps,
    extract_shard,
    join_shards,
)

__all__ = [
    "MapSource",
    "PassOptions",
    "append_maps",
    "extract_maps",
    "extract_shard",
    "join_shards",
]


def discard_parts(path: str | os.PathLike[str]) -> None:
    """Remove the parts of a pass that cannot be gone on with, since a picture of it is gone.

    Raises
    ------
    FeatlabError
        Another process is writing them.
    """
    parts = parts_of(Path(path))
    if parts.exists():
        with sole_writer(parts):
            clear_parts(parts, ())
