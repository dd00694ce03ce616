"""Normalisation of (B, C, H, W) maps."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._moved import moved_name
from ..compat import is_compiling
from ..registry import MODELS


@MODELS.register_module(name=["LN2d", "LayerNorm2d"])
class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of each position.

    Args:
        num_channels: Number of channels C.
        eps: Added to the variance.
        bias: Whether there is a bias; the release of `MetaFormer Baselines for Vision
            <https://arxiv.org/abs/2210.13452>`_ has none.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    # A subclass, so that optimiser wrappers find it among the norms (no weight decay, say).
    def __init__(self, num_channels: int, eps: float = 1e-6, bias: bool = True) -> None:
        super().__init__(num_channels, eps, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if is_compiling():
            return self._over_channels(x)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _over_channels(self, x: Tensor) -> Tensor:
        """The same without a permutation, behind which inductor (of torch 2.11) cannot tell how
        strides are ordered when the sizes of a compiled graph change."""
        values = x if x.dtype == torch.float64 else x.float()
        variance, mean = torch.var_mean(values, 1, correction=0, keepdim=True)
        values = (values - mean) * (variance + self.eps).rsqrt() * self.weight.view(-1, 1, 1)
        if self.bias is not None:
            values = values + self.bias.view(-1, 1, 1)
        return values.to(x.dtype)


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm without its faults for maps whose channels are innermost in memory
    (:func:`group_norm`).

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def forward(self, x: Tensor) -> Tensor:
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """``torch.nn.functional.group_norm``, which for channels_last maps on the CPU

    - subtracts squares, so that no digits are left when the mean is large. What all values of an
      image share changes nothing of the result, and is taken off first;
    - crashes in the backward pass when the map itself needs no gradient, as behind frozen layers.
    """
    if not torch.jit.is_scripting() and not is_compiling():
        x = _prepared(x, weight, bias)
    return F.group_norm(x, num_groups, weight, bias, eps)


def _prepared(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if x.device.type != "cpu" or x.is_contiguous():
        return x
    trained = any(part is not None and part.requires_grad for part in (weight, bias))
    if trained and torch.is_grad_enabled() and not x.requires_grad:
        return x.contiguous()
    if x.dtype == torch.float32:
        return x - x.detach().mean((1, 2, 3), keepdim=True)
    return x


torch.fx.wrap("group_norm")  # one step, since it looks at the map


@MODELS.register_module(name=["MLN", "ModifiedLayerNorm"])
class ModifiedLayerNorm(GroupNorm):
    """Normalisation over channels and positions of each image, with a factor per channel.

    What PoolFormer calls modified layer normalisation; with a bias it is a GroupNorm of one
    group. Without one it is the norm of IdentityFormer, RandFormer and PoolFormerV2.

    Args:
        num_channels: Number of channels C.
        eps: Added to the variance.
        bias: Whether there is a bias.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, num_channels: int, eps: float = 1e-6, bias: bool = True) -> None:
        super().__init__(1, num_channels, eps)
        if not bias:
            self.register_parameter("bias", None)


def __getattr__(name: str) -> object:
    return moved_name(__name__, name)
