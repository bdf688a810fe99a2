"""The one pass of the network: image table + backbone → store."""

from featlab.extract._source import MapSource, PassOptions
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
