"""A learnable position embedding for any map size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PositionEmbedding(nn.Module):
    """Add one learnable vector per position, resized bilinearly to the map at hand.

    At the size it was made for, this is the embedding that the hybrid networks of `MetaFormer Is
    Actually What You Need for Vision <https://arxiv.org/abs/2111.11418>`_ have in front of their
    first attention stage. It starts at zero.

    Args:
        dim: Number of channels C.
        grid_size: Side of the stored embedding.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, dim: int, grid_size: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, grid_size, grid_size))

    def forward(self, x: Tensor) -> Tensor:
        # At its own size the interpolation copies it.
        size = x.shape[2:]
        embedding = F.interpolate(self.pos_embed, size, mode="bilinear", align_corners=False)
        return x + embedding.to(x.dtype)
