"""The one pass of the network: image table + backbone → store."""

from featlab.extract._parts import MapSource, PassOptions

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
