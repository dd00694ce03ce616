"""MLP-Mixer's token mixing."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..layers import build_activation
from ..registry import TOKEN_MIXERS
from .grid import GridMixer

_GELU = dict(type="GELU")


@TOKEN_MIXERS.register_module(name=["token_mlp", "TokenMlp"])
class TokenMlp(GridMixer):
    """Two fully connected layers over the positions, the same for all channels (`MLP-Mixer
    <https://arxiv.org/abs/2105.01601>`_).

    Args:
        dim: Number of channels C.
        grid_size: Rows and columns of the pre-training grid.
        ratio: Hidden size D_S over C; 0.5 in all published networks.
        act_cfg: Activation between the layers.
        size_policy: See :class:`GridMixer`.
        init_cfg: Initialisation; the default is Xavier's uniform distribution.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(
        self,
        dim: int,
        grid_size: int | Sequence[int],
        ratio: float = 0.5,
        act_cfg: dict | None = _GELU,
        size_policy: str = "window",
        init_cfg: dict | None = None,
    ) -> None:
        init_cfg = init_cfg or dict(type="Xavier", layer="Linear", distribution="uniform")
        super().__init__(grid_size, size_policy, init_cfg)
        hidden = int(dim * ratio)
        self.fc1 = nn.Linear(self.num_positions, hidden)
        self.act = build_activation(act_cfg)
        self.fc2 = nn.Linear(hidden, self.num_positions)

    def mix(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))
