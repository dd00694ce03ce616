"""Layers that all backbones share: norms, activations, scales, stem and downsampling."""

from .._moved import moved_name
from .activation import SquaredReLU, StarReLU, build_activation
from .checkpoint import checkpoint_block
from .downsampling import BottleneckDownsampling, ConvStem, RepDownsampling
from .norm import GroupNorm, LayerNorm2d, ModifiedLayerNorm
from .norm_config import build_norm
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
    return moved_name(__name__, name)
