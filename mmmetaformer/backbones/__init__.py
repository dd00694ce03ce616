"""Backbones: ``metaformer.py`` the block, its stages and the network of four stages,
``isotropic.py`` the network of one stride, ``arch.py`` from the table of variants to checked
settings, ``families.py`` thin public classes."""

from ..variants import list_archs
from .base import Backbone
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
from .isotropic import IsotropicMetaFormer
from .metaformer import MetaFormer, MetaFormerBlock, Stage

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
    "Stage",
    "create_backbone",
    "list_archs",
]
