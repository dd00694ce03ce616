"""One 1x1 convolution."""

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers import build_activation, build_norm
from ..registry import CHANNEL_MIXERS

_GELU = dict(type="GELU")
_BN = dict(type="BN")


@CHANNEL_MIXERS.register_module(name=["pointwise", "Pointwise"])
class Pointwise(BaseModule):
    """A 1x1 convolution, an activation and a norm: the second of the two parts of
    a `ConvMixer <https://arxiv.org/abs/2201.09792>`_ layer.

    Args:
        dim: Number of channels C.
        act_cfg: Activation behind the convolution; None means none.
        norm_cfg: Norm behind the activation; None means none.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, dim: int, act_cfg: dict | None = _GELU, norm_cfg: dict | None = _BN) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 1)
        self.act = build_activation(act_cfg)
        self.norm = build_norm(norm_cfg, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(self.conv(x)))
