"""Stem and downsampling between stages."""

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..registry import MODELS
from .norm import build_norm


@MODELS.register_module()
class ConvDownsampling(BaseModule):
    """A strided convolution, optionally with a norm before or after it.

    The stem of a network is the same layer as the three downsamplings between its stages, with
    another kernel and stride. Padding is the published one and the input is never cropped or
    padded to a multiple: a side of ``n`` becomes ``(n + 2 * padding - kernel_size) // stride + 1``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the square kernel.
        stride: Stride of the convolution. The backbone derives ``out_strides`` from this value.
        padding: Zero padding on each side.
        pre_norm_cfg: Norm on the input, or None.
        post_norm_cfg: Norm on the output, or None.
        init_cfg: Initialisation; None leaves torch's.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H', W')
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        pre_norm_cfg: dict | None = None,
        post_norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.pre_norm = build_norm(pre_norm_cfg, in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.post_norm = build_norm(post_norm_cfg, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.post_norm(self.conv(self.pre_norm(x)))
