"""Frozen networks: a name or a file → feature maps, with the network's *own* preprocessing."""

from __future__ import annotations

from featlab.backbones._backbone import Backbone, Description, load_backbone
from featlab.backbones._catalogue import available_backbones
from featlab.backbones._engines import Engine
from featlab.backbones._surgery import output_of

__all__ = ["Backbone", "Description", "Engine", "available_backbones", "load_backbone", "output_of"]
