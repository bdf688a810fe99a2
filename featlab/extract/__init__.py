"""The one pass of the network: image table + backbone → store."""

from __future__ import annotations

from featlab.extract._cluster import connect
from featlab.extract._extract import extract_maps, find_store
from featlab.extract._growing import append_maps
from featlab.extract._shards import extract_shard, join_shards
from featlab.extract._source import MapSource, Progress

__all__ = [
    "MapSource",
    "Progress",
    "append_maps",
    "connect",
    "extract_maps",
    "extract_shard",
    "find_store",
    "join_shards",
]
