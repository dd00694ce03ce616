"""Layers that all backbones share: norms, activations, scales, stem and downsampling."""

import warnings
from importlib import import_module

from .activation import SquaredReLU, StarReLU, build_activation
from .checkpoint import checkpoint_block
from .downsampling import BottleneckDownsampling, ConvStem, RepDownsampling
from .norm import GroupNorm, LayerNorm2d, ModifiedLayerNorm, build_norm
from .patch_embedding import PatchActNorm, PatchEmbedding
from .position import PositionEmbedding
from .pyramid import ScalePyramid
from .reparam import (
    ConvNorm,
    DepthwiseConv2d,
    DepthwiseRepConv,
    ReparameterizedConv,
    RepConv,
    ResidualNormConv,
    same_padding,
    switch_to_deploy,
)
from .scale import ChannelScale, DropPath
from .sync_norm import CPUSyncBatchNorm

_MOVED = {"ConvDownsampling": "mmmetaformer.backbones.metaformer"}

__all__ = [
    "BottleneckDownsampling",
    "CPUSyncBatchNorm",
    "ChannelScale",
    "ConvNorm",
    "ConvStem",
    "DepthwiseConv2d",
    "DepthwiseRepConv",
    "DropPath",
    "GroupNorm",
    "LayerNorm2d",
    "ModifiedLayerNorm",
    "PatchActNorm",
    "PatchEmbedding",
    "PositionEmbedding",
    "RepConv",
    "RepDownsampling",
    "ReparameterizedConv",
    "ResidualNormConv",
    "ScalePyramid",
    "SquaredReLU",
    "StarReLU",
    "build_activation",
    "build_norm",
    "checkpoint_block",
    "same_padding",
    "switch_to_deploy",
]


def __getattr__(name: str) -> object:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{name} has moved to {_MOVED[name]}: import it from there",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(import_module(_MOVED[name]), name)
