"""Activations that neither torch nor mmcv has."""

import torch
from mmcv.cnn import build_activation_layer
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import MODELS, as_required_cfg, build_part


@MODELS.register_module()
class SquaredReLU(nn.Module):
    """``relu(x) ** 2`` (`Primer <https://arxiv.org/abs/2109.08668>`_)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) ** 2


@MODELS.register_module()
class StarReLU(nn.Module):
    """``scale * relu(x) ** 2 + bias`` with two learnable scalars (`MetaFormer Baselines for
    Vision <https://arxiv.org/abs/2210.13452>`_, section 3.2).

    Args:
        scale: Initial scale. The paper derives 0.8944; the released code and weights use 1.
        bias: Initial bias. The paper derives -0.4472; the released code and weights use 0.
    """

    def __init__(self, scale: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), float(scale)))
        self.bias = nn.Parameter(torch.full((1,), float(bias)))

    def forward(self, x: Tensor) -> Tensor:
        # ``**`` and not ``square``: under CUDA's autocast only a power is taken in float32, and the
        # square of an activation above 255 overflows in float16.
        return self.scale * F.relu(x) ** 2 + self.bias


def build_activation(act_cfg: dict | str | None) -> nn.Module:
    """Build an activation of this package or of mmcv.

    Args:
        act_cfg: ``dict(type='StarReLU')``, ``dict(type='GELU')``, ... or a name; None means none.

    Raises:
        ValueError: For an unknown name; lists the usual ones.
    """
    if act_cfg is None:
        return nn.Identity()
    cfg = as_required_cfg("act_cfg", act_cfg)
    kind = cfg["type"]
    if kind in MODELS.module_dict:
        return build_part(MODELS, cfg)
    if isinstance(kind, str) and ROOT_MODELS.get(kind) is None:
        raise ValueError(
            f"unknown activation {kind!r}: expected one of GELU, ReLU, SiLU, SquaredReLU, "
            "StarReLU, ... or any activation registered in mmengine's MODELS"
        )
    return build_activation_layer(cfg)
