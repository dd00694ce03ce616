"""Normalisation of (B, C, H, W) maps."""

from mmcv.cnn import build_norm_layer
from torch import nn


def build_norm(norm_cfg: dict | None, dim: int) -> nn.Module:
    """Build a norm over ``dim`` channels of a (B, C, H, W) map.

    Args:
        norm_cfg: As everywhere in OpenMMLab: ``dict(type='GN', num_groups=1)``,
            ``dict(type='BN')``, ``dict(type='SyncBN')``, ...; None means no norm.
        dim: Number of channels C.
    """
    return nn.Identity() if norm_cfg is None else build_norm_layer(norm_cfg, dim)[1]
