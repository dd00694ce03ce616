"""No mixing at all."""

from torch import Tensor, nn

from ..registry import TOKEN_MIXERS


@TOKEN_MIXERS.register_module(name=["identity", "Identity"])
class Identity(nn.Module):
    """The input itself (IdentityFormer, `MetaFormer Baselines for Vision
    <https://arxiv.org/abs/2210.13452>`_).

    Args:
        dim: Number of channels C; unused, part of the contract.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x
