"""Frozen networks: a name or a file → feature maps, with the network's *own* preprocessing."""

from featlab.backbones._backbone import Backbone, load_backbone, rebuild_backbone
from featlab.backbones.networks import available_backbones

__all__ = ["Backbone", "available_backbones", "load_backbone", "rebuild_backbone"]
