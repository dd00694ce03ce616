"""Small layers shared by all backbones."""

from .activation import SquaredReLU, StarReLU, build_activation
from .checkpoint import checkpoint_block
from .downsampling import ConvDownsampling
from .norm import LayerNorm2d, ModifiedLayerNorm, build_norm
from .patch_embedding import PatchActNorm, PatchEmbedding
from .position import PositionEmbedding
from .pyramid import ScalePyramid
from .scale import ChannelScale

__all__ = [
    "ChannelScale",
    "ConvDownsampling",
    "LayerNorm2d",
    "ModifiedLayerNorm",
    "PatchActNorm",
    "PatchEmbedding",
    "PositionEmbedding",
    "ScalePyramid",
    "SquaredReLU",
    "StarReLU",
    "build_activation",
    "build_norm",
    "checkpoint_block",
]
