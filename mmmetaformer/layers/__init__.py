"""Small layers shared by all backbones."""

from .activation import SquaredReLU, StarReLU, build_activation
from .checkpoint import checkpoint_block
from .downsampling import (
    BottleneckDownsampling,
    ConvDownsampling,
    ConvStem,
    RepDownsampling,
)
from .norm import CPUSyncBatchNorm, LayerNorm2d, ModifiedLayerNorm, build_norm
from .patch_embedding import PatchActNorm, PatchEmbedding
from .position import PositionEmbedding
from .pyramid import ScalePyramid
from .reparam import (
    ConvNorm,
    DepthwiseConv2d,
    DepthwiseRepConv,
    RepConv,
    ResidualNormConv,
    same_padding,
    switch_to_deploy,
)
from .scale import ChannelScale

__all__ = [
    "BottleneckDownsampling",
    "CPUSyncBatchNorm",
    "ChannelScale",
    "ConvDownsampling",
    "ConvNorm",
    "ConvStem",
    "DepthwiseConv2d",
    "DepthwiseRepConv",
    "LayerNorm2d",
    "ModifiedLayerNorm",
    "PatchActNorm",
    "PatchEmbedding",
    "PositionEmbedding",
    "RepConv",
    "RepDownsampling",
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
