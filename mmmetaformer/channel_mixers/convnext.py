"""The ConvNeXt block as a channel mixer."""

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers import ConvNorm, DepthwiseRepConv, build_activation
from ..registry import CHANNEL_MIXERS

_GELU = dict(type="GELU")
_BN = dict(type="BN")


@CHANNEL_MIXERS.register_module(name=["convnext", "ConvNeXt"])
class ConvNeXt(BaseModule):
    """Depthwise convolution, 1x1 to more channels, activation, 1x1 back (`ConvNeXt
    <https://arxiv.org/abs/2201.03545>`_, with BatchNorm as in FFNet, `MetaMixer
    <https://arxiv.org/abs/2406.02021>`_).

    Args:
        dim: Number of channels C.
        kernel_size: Side of the depthwise kernel, odd; a kernel larger than 3 is trained beside one
            of 3.
        strips: Train the kernel with strips beside it, as FFNet_seg's head (see
            :class:`~mmmetaformer.layers.DepthwiseRepConv`).
        ratio: Hidden channels over C.
        act_cfg: Activation between the 1x1 convolutions.
        norm_cfg: Norms of the depthwise convolution; BatchNorm can be fused.
        init_cfg: Initialisation; the default is a normal distribution with standard deviation
            0.02.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 7,
        strips: bool = False,
        ratio: float = 3.0,
        act_cfg: dict | None = _GELU,
        norm_cfg: dict | None = _BN,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type="TruncNormal", layer="Conv2d", std=0.02))
        hidden = int(dim * ratio)
        self.conv: ConvNorm | DepthwiseRepConv
        if kernel_size <= 3 and not strips:
            self.conv = ConvNorm(dim, dim, kernel_size, groups=dim, norm_cfg=norm_cfg)
        else:
            self.conv = DepthwiseRepConv(dim, dim, kernel_size, strips=strips, norm_cfg=norm_cfg)
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.act = build_activation(act_cfg)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.conv(x))))
