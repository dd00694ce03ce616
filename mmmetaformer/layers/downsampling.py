"""Stems and downsamplings of FFNet and FFNet_seg."""

from collections.abc import Sequence
from math import prod

from mmengine.model import BaseModule
from torch import Tensor

from .._moved import moved_name
from ..registry import MODELS
from .activation import build_activation
from .reparam import ConvNorm, RepConv, ResidualNormConv

_GELU = dict(type="GELU")
_BN = dict(type="BN")


@MODELS.register_module()
class ConvStem(BaseModule):
    """3x3 convolutions one behind another, each with its norm: the stems of FFNet and FFNet_seg
    (`MetaMixer <https://arxiv.org/abs/2406.02021>`_).

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the output.
        stride: Stride of all together.
        convs: For each convolution its output channels (None for ``out_channels``), its stride, and
            whether an activation follows its norm.
        act_cfg: The activations.
        norm_cfg: The norms; BatchNorm can be fused.
        init_cfg: Initialisation; the default is a normal distribution with standard deviation
            0.02.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H', W'), each side divided by each stride in
        turn, rounded up

    Raises:
        ValueError: If ``stride`` is not the product of the strides, or the last convolution does
            not give ``out_channels``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 4,
        convs: Sequence[tuple[int | None, int, bool]] = ((64, 2, True), (None, 2, False)),
        act_cfg: dict | None = _GELU,
        norm_cfg: dict | None = _BN,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type="TruncNormal", layer="Conv2d", std=0.02))
        widths = [in_channels, *(width or out_channels for width, _, _ in convs)]
        if stride != prod(step for _, step, _ in convs) or widths[-1] != out_channels:
            raise ValueError(
                f"convs must have strides of product {stride} and end in {out_channels} channels "
                f"or None, got {convs!r}"
            )
        for number, (_, step, _) in enumerate(convs):
            conv = ConvNorm(widths[number], widths[number + 1], 3, step, norm_cfg=norm_cfg)
            self.add_module(f"conv{number + 1}", conv)
        self.act = build_activation(act_cfg)
        self.activated = tuple(activated for _, _, activated in convs)

    def forward(self, x: Tensor) -> Tensor:
        for number, activated in enumerate(self.activated, start=1):
            x = getattr(self, f"conv{number}")(x)
            x = self.act(x) if activated else x
        return x


@MODELS.register_module()
class RepDownsampling(BaseModule):
    """A strided depthwise convolution trained beside a smaller one, then ``x + conv1x1(BN(x))``:
    the patch merging of FFNet (`MetaMixer <https://arxiv.org/abs/2406.02021>`_).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, a multiple of ``in_channels``.
        stride: Stride.
        kernel_sizes: Sides of the depthwise kernels, the largest first.
        norm_cfg: The norms; BatchNorm can be fused.
        init_cfg: Initialisation; the default is a normal distribution with standard deviation
            0.02.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: If ``out_channels`` is no multiple of ``in_channels``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 2,
        kernel_sizes: tuple[int, ...] = (7, 3),
        norm_cfg: dict | None = _BN,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type="TruncNormal", layer="Conv2d", std=0.02))
        if out_channels % in_channels:
            raise ValueError(
                f"RepDownsampling is depthwise: out_channels must be a multiple of in_channels="
                f"{in_channels}, got {out_channels}"
            )
        self.conv = RepConv(
            in_channels, out_channels, tuple(kernel_sizes), stride, in_channels, norm_cfg
        )
        self.proj = ResidualNormConv(out_channels, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.conv(x))


@MODELS.register_module()
class BottleneckDownsampling(BaseModule):
    """A strided 3x3 convolution to more channels, an activation and a 1x1 convolution back, both
    with their norm: the patch merging of FFNet_seg (`MetaMixer
    <https://arxiv.org/abs/2406.02021>`_).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride.
        ratio: Hidden channels over those of the output.
        act_cfg: The activation.
        norm_cfg: The norms; BatchNorm can be fused.
        init_cfg: Initialisation; the default is a normal distribution with standard deviation
            0.02.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 2,
        ratio: float = 2.0,
        act_cfg: dict | None = _GELU,
        norm_cfg: dict | None = _BN,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type="TruncNormal", layer="Conv2d", std=0.02))
        hidden = int(out_channels * ratio)
        self.conv = ConvNorm(in_channels, hidden, 3, stride, norm_cfg=norm_cfg)
        self.act = build_activation(act_cfg)
        self.proj = ConvNorm(hidden, out_channels, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.act(self.conv(x)))


def __getattr__(name: str) -> object:
    return moved_name(__name__, name)
