"""The factors of a residual: LayerScale, residual scale and stochastic depth."""

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


class DropPath(nn.Module):
    """Stochastic depth (`Deep Networks with Stochastic Depth <https://arxiv.org/abs/1603.09382>`_):
    in training, drop the branch of a whole image at random and divide the others by the
    probability that they are kept.

    It draws the same random numbers as mmcv's ``DropPath``, which ``torch.fx`` and TorchScript
    cannot follow.

    Args:
        drop_prob: Probability that the branch of an image is dropped.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        kept = (keep_prob + torch.rand_like(x[:, :1, :1, :1])).floor()
        return x.div(keep_prob) * kept

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:.3f}"
