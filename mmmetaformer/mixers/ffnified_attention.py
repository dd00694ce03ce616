"""FFNified attention: attention whose keys and values are weights."""

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers import ConvNorm, RepConv, build_activation, same_padding
from ..registry import TOKEN_MIXERS

_GELU = dict(type="GELU")
_BN = dict(type="BN")


def depthwise(dim: int, kernel_size: int, norm_cfg: dict | None) -> nn.Module:
    """The depthwise convolution of FFNet's interactions.

    Up to 3 it is one convolution with a bias; larger kernels are the sum of one of that size and
    one of 3, each with its norm, which fuse.
    """
    if kernel_size <= 3:
        padding = same_padding(kernel_size)
        return nn.Conv2d(dim, dim, kernel_size, padding=padding, groups=dim)
    return RepConv(dim, dim, (kernel_size, 3), groups=dim, norm_cfg=norm_cfg)


@TOKEN_MIXERS.register_module(name=["ffnified_attention", "FFNifiedAttention"])
class FFNifiedAttention(BaseModule):
    """Query, static keys, activated coefficients, static values (`MetaMixer
    <https://arxiv.org/abs/2406.02021>`_): a 1x1 projection, a depthwise convolution with the
    keys, an activation, a depthwise convolution with the values.

    Args:
        dim: Number of channels C.
        kernel_size: Side of the depthwise kernels, odd.
        act_cfg: Activation of the coefficients.
        norm_cfg: Norms of the projection and of the branches; BatchNorm can be fused.
        init_cfg: Initialisation; the default is a normal distribution with standard deviation
            0.02.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 7,
        act_cfg: dict | None = _GELU,
        norm_cfg: dict | None = _BN,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type="TruncNormal", layer="Conv2d", std=0.02))
        self.query = ConvNorm(dim, dim, norm_cfg=norm_cfg)
        self.key = depthwise(dim, kernel_size, norm_cfg)
        self.act = build_activation(act_cfg)
        self.value = depthwise(dim, kernel_size, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        coefficients = self.act(self.key(self.query(x)))
        return self.value(coefficients)
