"""Parts that train as several branches and predict as one convolution.

Each is a :class:`ReparameterizedConv`: its method ``to_conv()`` returns an equivalent ``nn.Conv2d``
with a bias; what is not a convolution is folded into it with the statistics of evaluation mode.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..registry import MODELS
from .norm_config import build_norm

_BN = dict(type="BN")


class ReparameterizedConv(nn.Module):
    """A part that :func:`switch_to_deploy` replaces by a single convolution."""

    @abstractmethod
    def to_conv(self) -> nn.Conv2d:
        """An equivalent convolution, in eval mode.

        Raises:
            TypeError: If a norm is none that can be folded.
        """


def switch_to_deploy(model: nn.Module) -> nn.Module:
    """Replace every part of a model that can be fused by its single convolution, in place.

    Works on a backbone or on a whole detector or segmentor. A model without such parts, or one
    that was fused before, is returned as it is; one that is such a part itself is not changed, its
    convolution is returned. Hooks of what is replaced are lost. On the CPU the fused convolutions
    compute with the channels innermost in memory, which is faster there; a backbone emits
    contiguous maps as before. Weights keep that layout when the model is moved: fuse it where it is
    to run.

    Args:
        model: A model in eval mode.

    Raises:
        ValueError: If a part that would be fused is in training mode: folding the statistics of
            BatchNorm ends its training.
    """
    parts = {
        name: part for name, part in model.named_modules() if isinstance(part, ReparameterizedConv)
    }
    training = [name for name, part in parts.items() if part.training]
    if training:
        raise ValueError(
            f"switch_to_deploy folds statistics and needs eval mode: call model.eval() first "
            f"({len(training)} parts are in training mode, the first is {training[0]!r})"
        )
    if "" in parts:
        return parts[""].to_conv()
    # Parts inside of a part that is fused as a whole go with it.
    whole = [name for name in parts if not any(name.startswith(f"{outer}.") for outer in parts)]
    # All are computed before the first is replaced: an error leaves the model as it was.
    convs = {name: parts[name].to_conv() for name in whole}
    for name, conv in convs.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, conv)
    return model


def same_padding(kernel_size: int) -> int:
    """Padding that keeps the size of a map under an odd kernel.

    Raises:
        ValueError: If the kernel is not a positive odd integer.
    """
    if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be a positive odd integer, got {kernel_size!r}")
    return kernel_size // 2


def fold_norm(weight: Tensor, bias: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution followed by a BatchNorm in eval mode.

    Args:
        weight: (out, in, h, w).
        bias: (out,) or None.
        norm: The BatchNorm behind the convolution, or an identity.

    Raises:
        TypeError: If the norm is neither.
    """
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    if isinstance(norm, nn.Identity):
        return weight, bias
    if not isinstance(norm, _BatchNorm) or norm.running_var is None or norm.running_mean is None:
        raise TypeError(
            "only BatchNorm with running statistics can be folded into a convolution, got "
            f"{type(norm).__name__}"
        )
    # In the precision of the statistics, which mixed-precision models keep in float32.
    factor = (norm.running_var + norm.eps).rsqrt()
    if norm.affine:
        factor = factor * norm.weight
    bias = (bias - norm.running_mean) * factor
    return weight * factor.view(-1, 1, 1, 1), bias + norm.bias if norm.affine else bias


def _conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution of the same stride and groups with other weights."""
    height, width = weight.shape[-2:]
    fused = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (height, width),
        (conv.stride[0], conv.stride[1]),
        (height // 2, width // 2),
        groups=conv.groups,
        device="meta",
    )
    weight = weight.detach().to(conv.weight.dtype, copy=True)
    if weight.device.type == "cpu":
        # oneDNN hands on maps of the weights' layout, and is faster with channels innermost.
        weight = weight.contiguous(memory_format=torch.channels_last)
    fused.weight = nn.Parameter(weight)
    fused.bias = nn.Parameter(bias.detach().to(conv.weight.dtype))
    return fused.train(False).requires_grad_(conv.weight.requires_grad)


@MODELS.register_module()
class ConvNorm(ReparameterizedConv):
    """A convolution without bias and a norm.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the kernel, odd, or its rows and columns; padded to keep the size.
        stride: Stride.
        groups: Groups.
        norm_cfg: The norm; BatchNorm can be fused.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 1,
        stride: int = 1,
        groups: int = 1,
        norm_cfg: dict | None = _BN,
    ) -> None:
        super().__init__()
        if not isinstance(kernel_size, list | tuple):
            kernel_size = (kernel_size, kernel_size)
        rows, columns = kernel_size
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            (rows, columns),
            stride,
            (same_padding(rows), same_padding(columns)),
            groups=groups,
            bias=False,
        )
        self.norm = build_norm(norm_cfg, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the single convolution."""
        return fold_norm(self.conv.weight, self.conv.bias, self.norm)

    def to_conv(self) -> nn.Conv2d:
        return _conv_like(self.conv, *self.folded())


class RepConv(ReparameterizedConv):
    """The sum of convolutions with kernels of several sizes, each with its norm
    (`RepLKNet <https://arxiv.org/abs/2203.06717>`_).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_sizes: Kernel of each branch.
        stride: Stride.
        groups: Groups.
        norm_cfg: The norms; BatchNorm can be fused.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_sizes: tuple[int | tuple[int, int], ...],
        stride: int = 1,
        groups: int = 1,
        norm_cfg: dict | None = _BN,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvNorm(in_channels, out_channels, kernel_size, stride, groups, norm_cfg)
            for kernel_size in kernel_sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        first, *others = (branch(x) for branch in self.branches)
        return sum(others, first)

    def to_conv(self) -> nn.Conv2d:
        branches = [branch for branch in self.branches if isinstance(branch, ConvNorm)]
        weights, biases = zip(*(branch.folded() for branch in branches), strict=True)
        rows, columns = (max(weight.shape[dim] for weight in weights) for dim in (2, 3))

        def padded(weight: Tensor) -> Tensor:
            down, right = (rows - weight.shape[2]) // 2, (columns - weight.shape[3]) // 2
            return F.pad(weight, (right, right, down, down))

        weight, *others = map(padded, weights)
        return _conv_like(branches[0].conv, sum(others, weight), sum(biases[1:], biases[0]))


@MODELS.register_module()
class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution with a bias that keeps the size.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, a multiple of those of the input.
        kernel_size: Side of the kernel, odd.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H, W)
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        padding = same_padding(kernel_size)
        super().__init__(
            in_channels, out_channels, kernel_size, padding=padding, groups=in_channels
        )


@MODELS.register_module()
class DepthwiseRepConv(RepConv):
    """The depthwise convolutions of FFNet (`MetaMixer <https://arxiv.org/abs/2406.02021>`_): a
    kernel larger than 3 is trained beside a small one.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, a multiple of those of the input.
        kernel_size: Side k of the largest kernel, odd.
        strips: Train beside it a row (1, k) and a column (k, 1), and let the small kernel have the
            side k - 4 instead of 3, as FFNet_seg.
        norm_cfg: The norms; BatchNorm can be fused.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H, W)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 7,
        strips: bool = False,
        norm_cfg: dict | None = _BN,
    ) -> None:
        kernels: list[int | tuple[int, int]] = [kernel_size]
        if kernel_size > 3:
            kernels.append(kernel_size - 4 if strips else 3)
        if strips:
            kernels += [(1, kernel_size), (kernel_size, 1)]
        super().__init__(
            in_channels, out_channels, tuple(kernels), groups=in_channels, norm_cfg=norm_cfg
        )


class ResidualNormConv(ReparameterizedConv):
    """``x + conv(norm(x))`` with a 1x1 convolution.

    Args:
        dim: Number of channels C.
        norm_cfg: The norm; BatchNorm can be fused.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, dim: int, norm_cfg: dict | None = _BN) -> None:
        super().__init__()
        self.norm = build_norm(norm_cfg, dim)
        self.conv = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.norm(x))

    def to_conv(self) -> nn.Conv2d:
        dim = self.conv.out_channels
        identity = torch.eye(dim, dtype=torch.float32, device=self.conv.weight.device)
        identity = identity.to(torch.promote_types(torch.float32, self.conv.weight.dtype))
        # The norm as a diagonal 1x1 convolution in front.
        scale, shift = fold_norm(identity.view(dim, dim, 1, 1), None, self.norm)
        weight = self.conv.weight[..., 0, 0].to(identity.dtype)
        fused = weight @ scale[..., 0, 0] + identity
        return _conv_like(self.conv, fused.view(dim, dim, 1, 1), weight @ shift)
