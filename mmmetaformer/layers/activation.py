"""Activations that neither torch nor mmcv has."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import MODELS, as_required_cfg, build_part, find_in_openmmlab


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


# Those that mmcv takes from torch, so that they need no mmcv.
_TORCH_ACTIVATIONS = {
    cls.__name__: cls
    for cls in (
        *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ReLU6, nn.ELU),
        *(nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU),
    )
}


def build_activation(act_cfg: dict | str | None) -> nn.Module:
    """Build an activation of this package, of torch or of OpenMMLab.

    Args:
        act_cfg: ``dict(type='StarReLU')``, ``dict(type='GELU')``, ... or a name; None means none.

    Raises:
        ValueError: For an unknown name; lists the usual ones.
        TypeError: If the options do not fit the activation; names it.
    """
    if act_cfg is None:
        return nn.Identity()
    cfg = as_required_cfg("act_cfg", act_cfg)
    kind = cfg["type"]
    if kind not in MODELS.module_dict and isinstance(kind, str):
        cfg["type"] = _TORCH_ACTIVATIONS.get(kind) or find_in_openmmlab(kind)
    if cfg["type"] is None:
        raise ValueError(
            f"unknown activation {kind!r}: expected one of GELU, ReLU, SiLU, SquaredReLU, "
            "StarReLU, ... or any activation registered in mmengine's MODELS"
        )
    return build_part(MODELS, cfg)
