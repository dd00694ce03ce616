"""Backbones: ``block.py`` the two residuals, ``hierarchical.py`` and ``isotropic.py`` the loops
over the blocks, ``variants.py`` the table, ``arch.py`` from the table to checked settings,
``families.py`` thin public classes."""

from .arch import list_archs
from .base import Backbone
from .block import MetaFormerBlock
from .factory import create_backbone
from .families import (
    CAFormer,
    ConvFormer,
    ConvMixer,
    FFNet,
    IdentityFormer,
    MlpMixer,
    PoolFormer,
    PoolFormerV2,
    RandFormer,
)
from .hierarchical import MetaFormer
from .isotropic import IsotropicMetaFormer

__all__ = [
    "Backbone",
    "CAFormer",
    "ConvFormer",
    "ConvMixer",
    "FFNet",
    "IdentityFormer",
    "IsotropicMetaFormer",
    "MetaFormer",
    "MetaFormerBlock",
    "MlpMixer",
    "PoolFormer",
    "PoolFormerV2",
    "RandFormer",
    "create_backbone",
    "list_archs",
]
