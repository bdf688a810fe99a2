"""The one pass of the network: image table + backbone → store."""

# For other rooms, which have networks to check, or a few pictures.
from featlab.extract._passing import maps_at_once as maps_at_once
from featlab.extract._source import MapSource, PassOptions
from featlab.extract._source import refuse_other_maps as refuse_other_maps
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
