"""From the config of a norm to the norm."""

from typing import Any

from torch import nn

from ..registry import MODELS, as_required_cfg, build_part, find_in_openmmlab
from .norm import GroupNorm, LayerNorm2d, ModifiedLayerNorm

# By mmcv's names, so that these need no mmcv.
_TORCH_NORMS: dict[Any, type[nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "BN2d": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "IN": nn.InstanceNorm2d,
    "IN2d": nn.InstanceNorm2d,
    "GN": GroupNorm,
    nn.GroupNorm: GroupNorm,
    "LN": nn.LayerNorm,
}


def build_norm(norm_cfg: dict | str | None, dim: int) -> nn.Module:
    """Build a norm over ``dim`` channels of a (B, C, H, W) map.

    Args:
        norm_cfg: ``dict(type='LN2d')`` or ``dict(type='MLN')`` of this package, or what
            OpenMMLab knows: ``dict(type='GN', num_groups=1)``, ``dict(type='BN')``,
            ``dict(type='SyncBN')``, ...; a name alone will do; None means no norm.
        dim: Number of channels C.

    Raises:
        ValueError: For an unknown name, or one that is no norm of maps.
        TypeError: If the options do not fit the norm; names it.
    """
    if norm_cfg is None:
        return nn.Identity()
    cfg = as_required_cfg("norm_cfg", norm_cfg)
    # Ours first: mmpretrain has an LN2d of its own.
    cls = MODELS.module_dict.get(str(cfg["type"]).removeprefix("mmmetaformer."), cfg["type"])
    if cls in (LayerNorm2d, ModifiedLayerNorm):
        return build_part(MODELS, {**cfg, "type": cls}, num_channels=dim)
    cls = _TORCH_NORMS.get(cls, cls)
    if isinstance(cls, str):
        cls = find_in_openmmlab(cls)
    if cls is None:
        raise ValueError(
            f"unknown norm {cfg['type']!r}: expected LN2d, MLN, GN, BN, SyncBN, ... or any norm "
            "registered in mmengine's MODELS"
        )
    if cls is nn.LayerNorm:
        raise ValueError("norm 'LN' would normalise over the width of a map: use 'LN2d'")
    # The rest as mmcv's build_norm_layer does it.
    options = {"eps": 1e-5, **cfg}
    trained = options.pop("requires_grad", True)
    del options["type"]
    try:
        if issubclass(cls, nn.GroupNorm):  # its first argument is the number of groups
            layer = cls(num_channels=dim, **options)
        else:
            layer = cls(dim, **options)
    except TypeError as error:
        raise TypeError(f"norm {cfg['type']!r}: {error}") from error
    return layer.requires_grad_(trained)
