"""The one pass of the network: image table + backbone → store."""

from __future__ import annotations

from featlab.extract._extract import extract_maps, find_store
from featlab.extract._source import MapSource, Progress

__all__ = ["MapSource", "Progress", "extract_maps", "find_store"]
