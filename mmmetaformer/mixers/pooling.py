"""Average pooling as token mixer."""

from torch import Tensor, nn

from ..registry import TOKEN_MIXERS


@TOKEN_MIXERS.register_module(name=["pooling", "Pooling"])
class Pooling(nn.Module):
    """Average pooling minus the input (`MetaFormer Is Actually What You Need for Vision
    <https://arxiv.org/abs/2111.11418>`_, equation 4).

    The input is subtracted because the block adds it again in its residual. Padding does not
    count in the average, so a constant map is mapped to zero up to its border.

    Args:
        dim: Number of channels C; unused, part of the contract.
        pool_size: Side of the square window; odd, so that the output keeps its size.

    Shape:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: If ``pool_size`` is not a positive odd integer.
    """

    def __init__(self, dim: int, pool_size: int = 3) -> None:
        super().__init__()
        if not isinstance(pool_size, int) or pool_size < 1 or pool_size % 2 == 0:
            raise ValueError(f"pool_size must be a positive odd integer, got {pool_size!r}")
        self.pool = nn.AvgPool2d(
            pool_size, stride=1, padding=pool_size // 2, count_include_pad=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x) - x
