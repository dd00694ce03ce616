"""A learnable factor per channel."""

import torch
from torch import Tensor, nn


class ChannelScale(nn.Module):
    """Multiply each channel by a learnable factor.

    On the branch this is LayerScale (`Going deeper with Image Transformers
    <https://arxiv.org/abs/2103.17239>`_), on the identity path the residual scale of `MetaFormer
    Baselines for Vision <https://arxiv.org/abs/2210.13452>`_.

    Args:
        dim: Number of channels C.
        init_value: Initial value of every factor.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, dim: int, init_value: float = 1.0) -> None:
        super().__init__()
        self.init_value = init_value
        self.scale = nn.Parameter(torch.full((dim,), float(init_value)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.view(-1, 1, 1)

    def extra_repr(self) -> str:
        return f"{self.scale.numel()}, init_value={self.init_value}"
