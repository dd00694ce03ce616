"""The two-layer MLP of a Transformer block."""

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers import build_activation
from ..registry import CHANNEL_MIXERS

_GELU = dict(type="GELU")


@CHANNEL_MIXERS.register_module(name=["mlp", "Mlp"])
class Mlp(BaseModule):
    """Two 1x1 convolutions with an activation between them.

    Args:
        dim: Number of channels C.
        ratio: Hidden channels over C.
        act_cfg: Activation; None means none.
        bias: Whether the convolutions have a bias.
        init_cfg: Initialisation; the default is the published one, a normal distribution with
            standard deviation 0.02 and zero biases.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(
        self,
        dim: int,
        ratio: float = 4.0,
        act_cfg: dict | None = _GELU,
        bias: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type="TruncNormal", layer="Conv2d", std=0.02))
        hidden = int(dim * ratio)
        self.fc1 = nn.Conv2d(dim, hidden, 1, bias=bias)
        self.act = build_activation(act_cfg)
        self.fc2 = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))
