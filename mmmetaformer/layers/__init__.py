"""Small layers shared by all backbones: norms, scales and downsampling."""

from .downsampling import ConvDownsampling
from .norm import build_norm
from .scale import ChannelScale

__all__ = ["ChannelScale", "ConvDownsampling", "build_norm"]
