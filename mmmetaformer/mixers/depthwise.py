"""Depthwise convolution."""

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers import build_activation, build_norm, same_padding
from ..registry import TOKEN_MIXERS

_GELU = dict(type="GELU")
_BN = dict(type="BN")


@TOKEN_MIXERS.register_module(name=["depthwise", "DepthwiseConv"])
class DepthwiseConv(nn.Module):
    """One learnable filter per channel, a row in the ablation of `MetaFormer Is Actually What You
    Need for Vision <https://arxiv.org/abs/2111.11418>`_, which does not name its kernel and bias.

    Args:
        dim: Number of channels C.
        kernel_size: Side of the kernel, odd.
        bias: Whether the convolution has a bias.

    Shape:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: If ``kernel_size`` is not a positive odd integer.
    """

    def __init__(self, dim: int, kernel_size: int = 3, bias: bool = True) -> None:
        super().__init__()
        padding = same_padding(kernel_size)
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=padding, groups=dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@TOKEN_MIXERS.register_module(name=["depthwise_act_norm", "DepthwiseActNorm"])
class DepthwiseActNorm(BaseModule):
    """Depthwise convolution, activation, norm: the first of the two parts of a `ConvMixer
    <https://arxiv.org/abs/2201.09792>`_ layer.

    Args:
        dim: Number of channels C.
        kernel_size: Side of the kernel, odd.
        act_cfg: Activation; None means none.
        norm_cfg: Norm; None means none.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 9,
        act_cfg: dict | None = _GELU,
        norm_cfg: dict | None = _BN,
    ) -> None:
        super().__init__()
        padding = same_padding(kernel_size)
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=padding, groups=dim)
        self.act = build_activation(act_cfg)
        self.norm = build_norm(norm_cfg, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(self.conv(x)))
