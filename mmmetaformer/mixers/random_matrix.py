"""A fixed random matrix over all positions."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..registry import TOKEN_MIXERS
from .grid import GridMixer


@TOKEN_MIXERS.register_module(name=["random_matrix", "RandomMatrix"])
class RandomMatrix(GridMixer):
    """Global mixing by a frozen random matrix with rows that sum to one (RandFormer, `MetaFormer
    Baselines for Vision <https://arxiv.org/abs/2210.13452>`_).

    The matrix is a buffer: it is saved, and no optimiser sees it. Between processes mmengine's
    runner and torch's DDP synchronise it as they do running statistics. Where a window is not
    whole, the rows are normalised over the positions inside of the image, so every output stays
    a weighted mean.

    Args:
        dim: Number of channels C; unused, part of the contract.
        grid_size: Rows and columns of the pre-training grid.
        size_policy: See :class:`GridMixer`.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    random_matrix: Tensor

    def __init__(
        self, dim: int, grid_size: int | Sequence[int], size_policy: str = "window"
    ) -> None:
        super().__init__(grid_size, size_policy)
        matrix = torch.rand(self.num_positions, self.num_positions).softmax(dim=-1)
        self.register_buffer("random_matrix", matrix)

    def mix(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        out = F.linear(x, self.random_matrix)
        if valid is not None:
            out = out / F.linear(valid.to(self.random_matrix.dtype), self.random_matrix)[:, None]
        return out

    def mix_resampled(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        matrix = self.resample_matrix(self.random_matrix, size)
        return F.linear(x, matrix / matrix.sum(dim=-1, keepdim=True))
