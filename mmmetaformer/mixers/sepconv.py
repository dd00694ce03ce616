"""Separable convolution, ConvFormer's mixer."""

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers import build_activation, same_padding
from ..registry import TOKEN_MIXERS

_STAR_RELU = dict(type="StarReLU")


@TOKEN_MIXERS.register_module(name=["sepconv", "SepConv"])
class SepConv(BaseModule):
    """Inverted separable convolution: pointwise to more channels, activation, depthwise,
    pointwise back (`MobileNetV2 <https://arxiv.org/abs/1801.04381>`_, as used by ConvFormer in
    `MetaFormer Baselines for Vision <https://arxiv.org/abs/2210.13452>`_).

    Args:
        dim: Number of channels C.
        ratio: Channels of the depthwise convolution over C.
        kernel_size: Side of its kernel, odd.
        act_cfg: Activation between the first two convolutions; None means none.
        bias: Whether the convolutions have a bias.
        init_cfg: Initialisation; the default is the published one, a normal distribution with
            standard deviation 0.02.

    Shape:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: If ``kernel_size`` is not a positive odd integer.
    """

    def __init__(
        self,
        dim: int,
        ratio: float = 2.0,
        kernel_size: int = 7,
        act_cfg: dict | None = _STAR_RELU,
        bias: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type="TruncNormal", layer="Conv2d", std=0.02))
        hidden = int(dim * ratio)
        padding = same_padding(kernel_size)
        self.pwconv1 = nn.Conv2d(dim, hidden, 1, bias=bias)
        self.act1 = build_activation(act_cfg)
        self.dwconv = nn.Conv2d(
            hidden, hidden, kernel_size, padding=padding, groups=hidden, bias=bias
        )
        self.pwconv2 = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.pwconv2(self.dwconv(self.act1(self.pwconv1(x))))
