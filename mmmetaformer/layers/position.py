"""A learnable position embedding for any map size."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F


class PositionEmbedding(BaseModule):
    """Add one learnable vector per position, resized bilinearly to the map at hand.

    At the size it was made for, this is the embedding that the hybrid networks of `MetaFormer Is
    Actually What You Need for Vision <https://arxiv.org/abs/2111.11418>`_ have in front of their
    first attention stage.

    Args:
        dim: Number of channels C.
        grid_size: Rows and columns of the stored embedding; an integer means both.
        init_cfg: Initialisation; the default is zero, as published.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(
        self, dim: int, grid_size: int | Sequence[int], init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        height, width = (grid_size,) * 2 if isinstance(grid_size, int) else grid_size
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, height, width))

    def forward(self, x: Tensor) -> Tensor:
        embedding = self.pos_embed
        if embedding.shape[-2:] != x.shape[-2:]:
            embedding = F.interpolate(embedding, x.shape[-2:], mode="bilinear", align_corners=False)
        return x + embedding.to(x.dtype)
