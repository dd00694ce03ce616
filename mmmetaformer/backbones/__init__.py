"""Backbones: ``block.py`` the two residuals, ``hierarchical.py`` the stage loop, ``variants.py``
the table, ``arch.py`` from the table to checked settings, then thin public classes."""

from .arch import list_archs
from .base import Backbone
from .block import MetaFormerBlock
from .factory import create_backbone
from .hierarchical import MetaFormer
from .poolformer import PoolFormer

__all__ = [
    "Backbone",
    "MetaFormer",
    "MetaFormerBlock",
    "PoolFormer",
    "create_backbone",
    "list_archs",
]
