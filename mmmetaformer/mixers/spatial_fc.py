"""A learned matrix over all positions."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..registry import TOKEN_MIXERS
from .grid import GridMixer


@TOKEN_MIXERS.register_module(name=["spatial_fc", "SpatialFC"])
class SpatialFC(GridMixer):
    """One fully connected layer over the positions, the same for all channels: the spatial MLP
    in the hybrids of `MetaFormer Is Actually What You Need for Vision
    <https://arxiv.org/abs/2111.11418>`_.

    Args:
        dim: Number of channels C; unused, part of the contract.
        grid_size: Rows and columns of the pre-training grid.
        size_policy: See :class:`GridMixer`.
        init_cfg: Initialisation; the default is the published one, a normal distribution with
            standard deviation 0.02.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(
        self,
        dim: int,
        grid_size: int | Sequence[int],
        size_policy: str = "window",
        init_cfg: dict | None = None,
    ) -> None:
        init_cfg = init_cfg or dict(type="TruncNormal", layer="Linear", std=0.02)
        super().__init__(grid_size, size_policy, init_cfg)
        self.fc = nn.Linear(self.num_positions, self.num_positions, bias=False)

    def mix(self, x: Tensor) -> Tensor:
        return self.fc(x)
