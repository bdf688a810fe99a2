"""The one pass of the network: image table + backbone → store."""

from featlab.extract._extract import (
    append_maps,
    extract_maps,
    extract_shard,
    find_store,
    join_shards,
)
from featlab.extract._source import MapSource, PassOptions

__all__ = [
    "MapSource",
    "PassOptions",
    "append_maps",
    "extract_maps",
    "extract_shard",
    "find_store",
    "join_shards",
]
