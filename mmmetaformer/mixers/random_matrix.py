"""A fixed random matrix over all positions."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..compat import is_compiling
from ..registry import TOKEN_MIXERS
from . import windows
from .grid import GridMixer


@TOKEN_MIXERS.register_module(name=["random_matrix", "RandomMatrix"])
class RandomMatrix(GridMixer):
    """Global mixing by a frozen random matrix with rows that sum to one (RandFormer, `MetaFormer
    Baselines for Vision <https://arxiv.org/abs/2210.13452>`_).

    The matrix is a buffer: it is saved, and no optimiser sees it. Between processes mmengine's
    runner and torch's DDP synchronise it as they do running statistics. Where a window is not
    whole, and where weights are resampled, the rows are normalised over the positions inside of the
    image, so every output stays a weighted mean.

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

    def mix(self, x: Tensor) -> Tensor:
        return F.linear(x, self.random_matrix)

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if self.size_policy == "window":
            return normalize_border(out, self.random_matrix, *self.grid_size)
        if self.size_policy == "resample_weights":
            return out / super().forward(torch.ones_like(x[:1, :1]))
        return out


def normalize_border(x: Tensor, matrix: Tensor, rows: int, columns: int) -> Tensor:
    """Divide what windows of a map were mixed to by the sum of the weights of those positions that
    lie in the image. Maps of whole windows stay as they are."""
    if not torch.jit.is_scripting():
        traced = torch.jit.is_tracing() or is_compiling()
        if not traced and x.shape[2] % rows == 0 and x.shape[3] % columns == 0:
            return x
    ones = windows.to_windows(torch.ones_like(x[:1, :1]), rows, columns)
    return x / windows.from_windows(F.linear(ones, matrix), rows, columns, x)


# One step for torch.fx: whether there is a border depends on the size of the map.
torch.fx.wrap("normalize_border")
